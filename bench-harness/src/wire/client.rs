//! A client that asks one thing at a time: to set up what is measured.
//!
//! Not here: load (`load`), which does not look into answers.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::dialect::encode;

/// Longer than any answer takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// `:1`
    Integer(i64),
    /// `+OK`, or a bulk string.
    Text(Vec<u8>),
    /// An array.
    List(Vec<Value>),
    /// Nothing.
    Nil,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    pub(super) fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Asks, and waits for the whole answer.
    ///
    /// # Errors
    /// The connection's, and an answer that is an error.
    pub(super) fn ask(&mut self, words: &[Vec<u8>]) -> Result<Value> {
        self.stream.get_mut().write_all(&encode(words))?;
        let shown =
            || String::from_utf8_lossy(&words[..words.len().min(4)].join(&b' ')).into_owned();
        self.value().with_context(|| format!("asking {}", shown()))
    }

    /// The connection by itself. All that the server has answered was read.
    pub(super) fn into_stream(self) -> TcpStream {
        self.stream.into_inner()
    }

    /// Whether the server answers at all.
    pub(super) fn ping(&mut self) -> Result<()> {
        let answer = self.ask(&[b"PING".to_vec()])?;
        ensure!(answer == Value::Text(b"PONG".to_vec()), "PING is answered by {answer:?}");
        Ok(())
    }

    fn value(&mut self) -> Result<Value> {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line)?;
        let Some((kind, rest)) = line.strip_suffix(b"\r\n").and_then(|line| line.split_first())
        else {
            bail!("the server has closed the connection");
        };
        let text = String::from_utf8_lossy(rest);
        let number = || text.parse::<i64>().with_context(|| format!("{text:?} is no number"));
        Ok(match kind {
            b'-' => bail!("the server answers {text}"),
            b'+' => Value::Text(rest.to_vec()),
            b':' => Value::Integer(number()?),
            b'$' | b'*' if number()? < 0 => Value::Nil,
            b'$' => {
                let mut bytes = vec![0; usize::try_from(number()?)? + 2];
                self.stream.read_exact(&mut bytes)?;
                bytes.truncate(bytes.len() - 2);
                Value::Text(bytes)
            }
            b'*' => Value::List((0..number()?).map(|_| self.value()).collect::<Result<_>>()?),
            _ => bail!("an answer begins with {:?}", char::from(*kind)),
        })
    }
}
