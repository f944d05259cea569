//! How the two servers are started and asked.
//!
//! Not here: sending (`load`, `client`).

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail, ensure};

use super::client::{Client, Value};

/// Connections that Redis allows: more than any spec has.
const CONNECTIONS_MAX: &str = "20000";

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `oncelog serve`
    Oncelog,
    /// `redis-server`
    Redis,
}

/// Words of a request.
pub(super) type Words = Vec<Vec<u8>>;

fn words<const N: usize>(words: [&str; N]) -> Words {
    words.map(|word| word.as_bytes().to_vec()).to_vec()
}

impl Dialect {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Oncelog, Self::Redis];

    /// Its name among the targets.
    #[must_use]
    pub fn target(self) -> &'static str {
        match self {
            Self::Oncelog => "oncelog-serve",
            Self::Redis => "redis",
        }
    }

    /// The name of its program.
    #[must_use]
    pub fn program(self) -> &'static str {
        match self {
            Self::Oncelog => "oncelog",
            Self::Redis => "redis-server",
        }
    }

    /// What an answer to an append means.
    #[must_use]
    pub fn durability(self) -> &'static str {
        match self {
            Self::Oncelog => "durable (RWF_DSYNC or fdatasync) before the answer",
            Self::Redis => "durable (appendfsync always: fdatasync before the answers of a turn)",
        }
    }

    /// Whether it does this kind of work.
    #[must_use]
    pub fn can(self, kind: &str) -> bool {
        super::WORKS.contains(&kind) && (self == Self::Oncelog || kind != "wire-ingest")
    }

    /// The command line of a server with its data in `dir`.
    pub(super) fn start(self, command: &mut Command, dir: &Path, port: u16) {
        match self {
            Self::Oncelog => {
                command.arg("serve").arg("--data").arg(dir.join("data"));
                command.arg("--listen").arg(format!("127.0.0.1:{port}"));
                // Its port may be another server's.
                command.args(["--watch-listen", "off"]);
            }
            Self::Redis => {
                command.args(["--bind", "127.0.0.1", "--port", &port.to_string()]);
                command.arg("--dir").arg(dir).args(["--save", "", "--appendonly", "yes"]);
                command.args(["--appendfsync", "always", "--no-appendfsync-on-rewrite", "no"]);
                // A rewrite would only copy the streams, in the middle of a measurement.
                command.args(["--auto-aof-rewrite-percentage", "0"]);
                command.args(["--maxclients", CONNECTIONS_MAX]);
            }
        }
    }

    /// Makes sure that answers mean what [`Dialect::durability`] says.
    pub(super) fn check(self, client: &mut Client) -> Result<()> {
        if self == Self::Oncelog {
            return Ok(());
        }
        let durable =
            [("appendonly", "yes"), ("appendfsync", "always"), ("no-appendfsync-on-rewrite", "no")];
        for (name, needed) in durable {
            let answer = client.ask(&words(["CONFIG", "GET", name]))?;
            let Value::List(pair) = answer else { bail!("CONFIG GET {name} answers no list") };
            let is = matches!(pair.get(1), Some(Value::Text(text)) if text == needed.as_bytes());
            ensure!(is, "Redis has {pair:?}, but needs {name} {needed}: its answers mean nothing");
        }
        Ok(())
    }

    /// What must be asked before the first append to a log.
    pub(super) fn create(self, log: &str) -> Option<Words> {
        (self == Self::Oncelog).then(|| words(["CREATE", log]))
    }

    /// An append of one record.
    pub(super) fn append(self, log: &str, payload: &[u8]) -> Words {
        let mut request = match self {
            Self::Oncelog => words(["APPEND", log]),
            Self::Redis => words(["XADD", log, "*", "d"]),
        };
        request.push(payload.to_vec());
        request
    }

    /// How the answer to an append begins.
    pub(super) fn appended(self) -> u8 {
        match self {
            Self::Oncelog => b':',
            Self::Redis => b'$',
        }
    }

    /// A read of so many records behind a cursor; none: from the first one on.
    pub(super) fn read(self, log: &str, behind: Option<&str>, count: u32) -> Words {
        let count = count.to_string();
        match (self, behind) {
            (Self::Oncelog, None) => words(["READ", log, "FROM", "earliest", "COUNT", &count]),
            (Self::Oncelog, Some(next)) => {
                words(["READ", log, "FROM", "sequence", next, "COUNT", &count])
            }
            (Self::Redis, behind) => {
                words(["XRANGE", log, behind.unwrap_or("-"), "+", "COUNT", &count])
            }
        }
    }

    /// The cursor behind a record of the answer to a read.
    pub(super) fn behind(self, record: &Value) -> Result<String> {
        let Value::List(fields) = record else { bail!("{record:?} is no record") };
        match (self, fields.first()) {
            (Self::Oncelog, Some(Value::Integer(sequence))) => Ok((sequence + 1).to_string()),
            (Self::Redis, Some(Value::Text(id))) => Ok(format!("({}", String::from_utf8_lossy(id))),
            (_, first) => bail!("{first:?} is no place in a log"),
        }
    }
}

/// A request as it is sent: an array of bulk strings.
pub(super) fn encode(words: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_an_array_of_bulk_strings() {
        let bytes = encode(&Dialect::Redis.append("log", b"a\r\nb"));
        let expected = "*5\r\n$4\r\nXADD\r\n$3\r\nlog\r\n$1\r\n*\r\n$1\r\nd\r\n$4\r\na\r\nb\r\n";
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    }

    #[test]
    fn the_next_read_begins_behind_the_last_record() {
        let record = Value::List(vec![Value::Integer(41), Value::Integer(0)]);
        let next = Dialect::Oncelog.behind(&record).unwrap();
        let request = Dialect::Oncelog.read("log", Some(&next), 10);
        assert_eq!(request.join(&b' '), b"READ log FROM sequence 42 COUNT 10");
        let record = Value::List(vec![Value::Text(b"5-1".to_vec())]);
        let next = Dialect::Redis.behind(&record).unwrap();
        let request = Dialect::Redis.read("log", Some(&next), 10);
        assert_eq!(request.join(&b' '), b"XRANGE log (5-1 + COUNT 10");
        assert!(Dialect::Oncelog.behind(&Value::List(Vec::new())).is_err());
    }
}
