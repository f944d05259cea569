//! Servers to be talked to, and sockets that talk to them byte by byte.
//!
//! Not here: what is said.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use oncelog_server::config::{Addr, Config, Io, MaybeAddr, Size};
use oncelog_server::serve::Server;

/// Far more than any answer takes: a test that would hang ends with an error.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Settings of a small server on a port of its own.
pub fn config(dir: &Path, transport: Io) -> Config {
    Config {
        data: dir.join("data"),
        listen: vec![Addr(([127, 0, 0, 1], 0).into())],
        watch_listen: MaybeAddr(None),
        segment_size: Some(Size(1 << 20)),
        shards: Some(1),
        pin: false,
        threads: 1,
        transport,
        ..Config::default()
    }
}

/// A server in this process.
pub fn serve(config: &Config) -> Server {
    Server::start(config).expect("the server starts")
}

/// One end of a connection.
pub struct Peer {
    input: BufReader<TcpStream>,
    stream: TcpStream,
}

impl Peer {
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the server listens");
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { input: BufReader::new(stream.try_clone().unwrap()), stream }
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).expect("the server reads");
    }

    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// No byte will be sent any more.
    pub fn end(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// The next line without its end, other bytes than printable ones as `\xHH`; empty at the end
    /// of the connection.
    pub fn line(&mut self) -> String {
        self.try_line().expect("the server answers")
    }

    pub fn try_line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        self.input.read_until(b'\n', &mut line)?;
        if line.ends_with(b"\r\n") {
            line.truncate(line.len() - 2);
        }
        let printed = line.iter().map(|byte| match byte {
            b' '..=b'~' => char::from(*byte).to_string(),
            byte => format!("\\x{byte:02x}"),
        });
        Ok(printed.collect())
    }

    /// Sends a line, and gives the first line of the answer.
    pub fn ask(&mut self, line: &str) -> String {
        self.send(format!("{line}\r\n").as_bytes());
        self.line()
    }

    /// All that comes until the end; a connection that was cut ends as well.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        match self.input.read_to_end(&mut rest) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            result => drop(result.expect("the connection ends")),
        }
        rest
    }
}
