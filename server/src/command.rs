//! A request's arguments, understood: which command it is, on what, with which options.
//!
//! ```text
//! [APPEND] [orders] [hello] [TXID] [7]  ->  Command::Append { log: orders, .. }   or a Refusal
//! ```
//!
//! Nothing is looked up here: a name may be of no log. What a command may do, and which rights it
//! needs, is told by [`Command::needs`] and [`Command::order`].
//!
//! Not here: the table of names (`table`), words of log options (`settings`), carrying it out
//! (`session`).

mod parse;
mod settings;
pub mod table;

use bytes::Bytes;
use oncelog::{Epoch, From, NewRecord, Sequence};

use crate::error::{Refusal, shown};
use crate::rights::Right;
pub use parse::parse;
pub use settings::Setting;

/// Who appends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// Anyone.
    Anyone,
    /// The log's owner (P-19).
    Owner(Epoch),
    /// An idempotent writer, with its batch's number.
    Writer {
        /// Its name.
        name: String,
        /// Its epoch.
        epoch: Epoch,
        /// The batch's number.
        number: u64,
        /// Whether it owns the log.
        exclusive: bool,
    },
}

/// What to do about an idempotent writer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriterCommand {
    /// Own it.
    Open {
        /// Its name.
        name: String,
        /// Numbers may have gaps.
        increasing: bool,
        /// It owns the log too.
        exclusive: bool,
    },
    /// All of a log.
    List,
    /// Drop it.
    Forget {
        /// Its name.
        name: String,
    },
}

/// The state that a commit carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// None.
    None,
    /// A change.
    Delta(Bytes),
    /// All of it.
    Snapshot(Bytes),
}

/// What a connection answers by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Talk {
    /// `PING`
    Ping(Option<Bytes>),
    /// `ECHO`
    Echo(Bytes),
    /// `HELLO` without `AUTH`
    Hello {
        /// The protocol, if it is to change.
        protocol: Option<u64>,
        /// The connection's name.
        name: Option<String>,
    },
    /// `QUIT`
    Quit,
    /// `RESET`
    Reset,
    /// `CLIENT ID`
    ClientId,
    /// `CLIENT GETNAME`
    ClientName,
    /// `CLIENT SETNAME`
    ClientSetName(String),
    /// `CLIENT INFO`
    ClientInfo,
    /// `CLIENT SETINFO` and `SELECT 0`: nothing to do.
    Nothing,
    /// `COMMAND COUNT`
    CommandCount,
    /// `COMMAND LIST`
    CommandList,
    /// `COMMAND DOCS`, of these or of all
    CommandDocs(Vec<usize>),
    /// `COMMAND`, `COMMAND INFO`
    CommandInfo(Vec<usize>),
    /// `HELP`, of one or of all
    Help(Option<usize>),
    /// `UNFOLLOW`
    Unfollow(Option<String>),
}

/// One command.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "fields are the arguments that docs/protocol.md describes")]
pub enum Command {
    /// What needs no engine.
    Talk(Talk),
    /// `AUTH`, also inside `HELLO`
    Auth { user: String, password: Bytes, hello: Option<(Option<u64>, Option<String>)> },
    /// `INFO`
    Info,
    /// `STATS`
    Stats,
    /// `CREATE`
    Create { log: String, if_absent: bool, settings: Vec<Setting> },
    /// `CONFIGURE`
    Configure { log: String, version: Option<u32>, settings: Vec<Setting> },
    /// `DESCRIBE`
    Describe { log: String },
    /// `LOGS`
    Logs { prefix: String, after: String, count: usize },
    /// `DROP`
    Drop { log: String },
    /// `RENAME`
    Rename { log: String, name: String },
    /// `SEAL`
    Seal { log: String, owner: Option<Epoch> },
    /// `OWN`
    Own { log: String },
    /// `SHARE`
    Share { log: String },
    /// `APPEND`, `MAPPEND`
    Append { log: String, records: Vec<NewRecord>, by: By },
    /// `BATCH`
    Batch { records: Vec<(String, Bytes)>, owners: Vec<(String, Epoch)> },
    /// `READ`
    Read { log: String, from: From, count: u64, bytes: u32, block_ms: Option<u64>, dlsn: bool },
    /// `FOLLOW`
    Follow { log: String, from: From, dlsn: bool },
    /// `WRITER`
    Writer { log: String, what: WriterCommand },
    /// `CLAIM`
    Claim { reader: String, sources: Vec<String>, owns: Vec<String>, change: bool },
    /// `COMMIT`
    Commit {
        reader: String,
        epoch: Epoch,
        positions: Vec<(String, Sequence)>,
        state: State,
        outputs: Vec<(String, Bytes)>,
    },
    /// `READERS`
    Readers { prefix: String },
    /// `FORGET`
    Forget { reader: String },
    /// `TRUNCATE`
    Truncate { log: String, before: Sequence },
    /// `INGEST`
    Ingest { log: String },
    /// Lines that came after `INGEST`.
    Lines { log: String, lines: Vec<Bytes> },
}

/// What a record of a request takes beside its payload, until it is answered.
const RECORD_COST: usize = 128;

/// When a command may start beside those before it on its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// While only such commands are under way: they share entries and syncs.
    Together,
    /// Once all before it are answered; what is behind it waits for it.
    Alone,
}

impl Command {
    /// When it may start.
    #[must_use]
    pub fn order(&self) -> Order {
        match self {
            Self::Append { .. } | Self::Batch { .. } | Self::Commit { .. } => Order::Together,
            _ => Order::Alone,
        }
    }

    /// Whether it may be carried out before anybody said who they are.
    #[must_use]
    pub fn is_open_to_all(&self) -> bool {
        let talk = |talk: &Talk| matches!(talk, Talk::Quit | Talk::Reset);
        matches!(self, Self::Auth { .. }) || matches!(self, Self::Talk(what) if talk(what))
    }

    /// The log whose handle it takes, so that later appends stay behind earlier ones.
    #[must_use]
    pub fn logs(&self) -> Vec<&str> {
        match self {
            Self::Append { log, .. } | Self::Lines { log, .. } => vec![log],
            Self::Batch { records, .. } => records.iter().map(|(log, _)| &**log).collect(),
            Self::Commit { outputs, .. } => outputs.iter().map(|(log, _)| &**log).collect(),
            _ => Vec::new(),
        }
    }

    /// Which rights it needs, for which names.
    #[must_use]
    pub fn needs(&self) -> Vec<(Right, &str)> {
        use Right::{Admin, Append, Process, Read};
        match self {
            Self::Create { log, .. }
            | Self::Configure { log, .. }
            | Self::Drop { log }
            | Self::Seal { log, .. }
            | Self::Share { log }
            | Self::Truncate { log, .. } => vec![(Admin, log)],
            Self::Rename { log, name } => vec![(Admin, log), (Admin, name)],
            Self::Describe { log } | Self::Read { log, .. } | Self::Follow { log, .. } => {
                vec![(Read, log)]
            }
            Self::Own { log }
            | Self::Append { log, .. }
            | Self::Ingest { log }
            | Self::Lines { log, .. } => vec![(Append, log)],
            Self::Writer { log, what } => vec![match what {
                WriterCommand::Open { .. } => (Append, log),
                WriterCommand::List => (Read, log),
                WriterCommand::Forget { .. } => (Admin, log),
            }],
            Self::Batch { records, .. } => {
                records.iter().map(|(log, _)| (Append, &**log)).collect()
            }
            Self::Claim { reader, sources, owns, .. } => {
                let sources = sources.iter().map(|log| (Read, &**log));
                let owns = owns.iter().map(|log| (Append, &**log));
                std::iter::once((Process, &**reader)).chain(sources).chain(owns).collect()
            }
            Self::Commit { reader, outputs, .. } => {
                let outputs = outputs.iter().map(|(log, _)| (Append, &**log));
                std::iter::once((Process, &**reader)).chain(outputs).collect()
            }
            Self::Forget { reader } => vec![(Admin, reader)],
            // Lists hold only what may be seen.
            Self::Talk(_)
            | Self::Auth { .. }
            | Self::Info
            | Self::Stats
            | Self::Logs { .. }
            | Self::Readers { .. } => Vec::new(),
        }
    }

    /// Bytes that it holds: payloads, and what each costs beside.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let cost = |payload: &Bytes| payload.len() + RECORD_COST;
        match self {
            Self::Append { records, .. } => records.iter().map(|r| cost(&r.payload)).sum(),
            Self::Batch { records, .. } => records.iter().map(|(_, p)| cost(p)).sum(),
            Self::Lines { lines, .. } => lines.iter().map(cost).sum(),
            Self::Commit { state, outputs, .. } => {
                let state = match state {
                    State::None => 0,
                    State::Delta(bytes) | State::Snapshot(bytes) => bytes.len(),
                };
                state + outputs.iter().map(|(_, p)| cost(p)).sum::<usize>()
            }
            _ => 0,
        }
    }
}

/// A text that names something.
pub(crate) fn name_of(bytes: &[u8]) -> Result<String, Refusal> {
    let name = std::str::from_utf8(bytes).map(str::to_owned);
    name.map_err(|_| Refusal::new("BADNAME", format!("{} is no name", shown(bytes))))
}
