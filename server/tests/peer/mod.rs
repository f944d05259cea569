//! Servers to be talked to, and sockets that talk to them byte by byte.
//!
//! Not here: what is said.

#![allow(dead_code, reason = "each test uses a part of it")]

pub(crate) mod process;

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use oncelog_server::config::{Addr, Config, Io, MaybeAddr, Size};
use oncelog_server::serve::Server;

/// Far more than any answer takes: a test that would hang ends with an error.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Settings of a small server on a port of its own.
pub(crate) fn config(dir: &Path, transport: Io) -> Config {
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

/// A file with user ann, who may do all but process under shop/, and whose password is secret,
/// hashed as weakly as is allowed.
pub(crate) fn users(dir: &Path) -> PathBuf {
    use argon2::{Algorithm, Argon2, Params, PasswordHasher, Version};
    let params = Params::new(7 << 10, 5, 1, None).unwrap();
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let hash = argon2.hash_password(b"secret").unwrap().to_string();
    let allow = r#"["read", "append", "admin"]"#;
    let grants = format!("[{{ prefix = \"shop/\", allow = {allow} }}]");
    let path = dir.join("users.toml");
    let text = format!("[[user]]\nname = \"ann\"\npassword = \"{hash}\"\ngrants = {grants}\n");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// A server in this process.
pub(crate) fn serve(config: &Config) -> Server {
    Server::start(config).expect("the server starts")
}

/// One end of a connection.
pub(crate) struct Peer {
    input: BufReader<TcpStream>,
    stream: TcpStream,
}

impl Peer {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the server listens");
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { input: BufReader::new(stream.try_clone().unwrap()), stream }
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).expect("the server reads");
    }

    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// No byte will be sent any more.
    pub(crate) fn end(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// The next line without its end, other bytes than printable ones as `\xHH`; empty at the end
    /// of the connection.
    pub(crate) fn line(&mut self) -> String {
        self.try_line().expect("the server answers")
    }

    pub(crate) fn try_line(&mut self) -> io::Result<String> {
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
    pub(crate) fn ask(&mut self, line: &str) -> String {
        self.send(format!("{line}\r\n").as_bytes());
        self.line()
    }

    /// As [`ask`](Self::ask), of a server that may have closed the connection.
    pub(crate) fn try_line_of(&mut self, line: &str) -> io::Result<String> {
        self.try_send(format!("{line}\r\n").as_bytes())?;
        self.try_line()
    }

    /// All that comes until the end; a connection that was cut ends as well.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        match self.input.read_to_end(&mut rest) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            result => drop(result.expect("the connection ends")),
        }
        rest
    }
}
