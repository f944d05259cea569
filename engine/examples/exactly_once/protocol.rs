//! What the worker tells the parent: one line for each message, on its standard output.
//!
//! A message about something durable is only sent once the engine has acknowledged it.

use std::fmt;
use std::str::FromStr;

/// Lines are counted from 0; a number of lines is also the next line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// It has recovered: lines in the log, lines processed, commits.
    Ready { lines: u64, position: u64, commits: u64 },
    /// So many lines are durable.
    Acked { lines: u64 },
    /// The processor was handed the lines before this one.
    Read { lines: u64 },
    /// A commit is durable.
    Committed { commits: u64, position: u64, snapshot: bool },
    /// What its engine has done: records and control records written, syncs.
    Stats { records: u64, controls: u64, syncs: u64, dsync: bool },
    /// Everything is durable.
    Done,
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Ready { lines, position, commits } => {
                write!(f, "ready {lines} {position} {commits}")
            }
            Self::Acked { lines } => write!(f, "acked {lines}"),
            Self::Read { lines } => write!(f, "read {lines}"),
            Self::Committed { commits, position, snapshot } => {
                write!(f, "committed {commits} {position} {}", u8::from(snapshot))
            }
            Self::Stats { records, controls, syncs, dsync } => {
                write!(f, "stats {records} {controls} {syncs} {}", u8::from(dsync))
            }
            Self::Done => f.write_str("done"),
        }
    }
}

impl FromStr for Message {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = text.split(' ');
        let verb = words.next().unwrap_or_default();
        let numbers: Result<Vec<u64>, _> = words.map(str::parse).collect();
        let message = match (verb, numbers.as_deref()) {
            ("ready", Ok(&[lines, position, commits])) => Self::Ready { lines, position, commits },
            ("acked", Ok(&[lines])) => Self::Acked { lines },
            ("read", Ok(&[lines])) => Self::Read { lines },
            ("committed", Ok(&[commits, position, snapshot])) => {
                Self::Committed { commits, position, snapshot: snapshot == 1 }
            }
            ("stats", Ok(&[records, controls, syncs, dsync])) => {
                Self::Stats { records, controls, syncs, dsync: dsync == 1 }
            }
            ("done", Ok([])) => Self::Done,
            _ => return Err(format!("the worker said {text:?}, which means nothing")),
        };
        Ok(message)
    }
}
