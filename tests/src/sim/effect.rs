//! What clients ask for and what they are answered, as the model speaks of it.
//!
//! Not here: what an effect does to a state (`model`), and requests as the shard takes them
//! (`asking`).

use std::sync::Arc;

use bytes::Bytes;
use oncelog::change::Author;
use oncelog::request::OpenMode;
use oncelog::{Damaged, Epoch, LogId, LogOptions, Rates, ReaderId};

use crate::rng::mix;

/// Bytes of a state, short in a trace.
#[derive(Clone, PartialEq, Eq)]
pub struct Blob(pub Bytes);

impl std::fmt::Debug for Blob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let tail = self.0.iter().rev().take(40).fold(0, |hash, byte| mix(hash ^ u64::from(*byte)));
        write!(f, "{}:{:04x}", self.0.len(), tail & 0xffff)
    }
}

/// A record on its way.
#[derive(Clone, Debug)]
pub struct NewRecord {
    /// Never given twice.
    pub id: u64,
    /// Bytes of payload.
    pub len: usize,
    /// Its transaction id, if it brings one.
    pub txid: Option<u64>,
}

/// A commit.
#[derive(Clone, Debug)]
pub struct Commit {
    /// Whose.
    pub reader: ReaderId,
    /// The owner.
    pub epoch: Epoch,
    /// The number that it must get.
    pub number: u64,
    /// Positions before and after.
    pub moves: Vec<(LogId, u64, u64)>,
    /// Whether the state is replaced, and by or with what.
    pub state: Option<(bool, Blob)>,
    /// Parts of the snapshot that were sent before.
    pub parts: usize,
    /// Records for other logs.
    pub outputs: Vec<(LogId, Vec<NewRecord>)>,
}

/// What a request does.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Create or open a log.
    OpenLog(String, OpenMode, Option<Arc<LogOptions>>),
    /// Drop a log.
    DropLog(String),
    /// Drop the records before a sequence.
    Truncate(LogId, u64),
    /// Append to logs.
    Append {
        /// The records.
        parts: Vec<(LogId, Vec<NewRecord>)>,
        /// Who appends.
        author: Author,
        /// It is a single record, not a batch.
        alone: bool,
        /// It is larger than an entry.
        oversize: bool,
    },
    /// Own a processor.
    OpenReader {
        /// Its name.
        name: String,
        /// Its sources; none to take those that are stored.
        sources: Vec<String>,
        /// Whether stored sources may be changed.
        change: bool,
        /// Logs that nobody else may append to from then on.
        owns: Vec<String>,
    },
    /// Drop a processor.
    DropReader(String),
    /// A part of a snapshot.
    Part(ReaderId, Epoch, u64, Blob),
    /// Commit.
    Commit(Commit),
    /// The first logs whose names begin so and come behind one.
    ListLogs {
        /// How they begin.
        prefix: String,
        /// Behind which they come.
        after: String,
        /// How many at most.
        limit: usize,
    },
    /// One log.
    Describe(LogId),
    /// All processors.
    ListReaders,
    /// End a log.
    Seal(LogId, Author),
    /// Replace a log's options.
    SetOptions {
        /// The log.
        log: LogId,
        /// The new ones.
        options: Arc<LogOptions>,
        /// The version that they replace; `None` for any.
        replaces: Option<u32>,
    },
    /// Give a log another name.
    Rename(LogId, String),
    /// Replace the rates of the shard.
    SetRates(Rates),
    /// Own a writer, or a log, or both.
    OpenWriter {
        /// The log.
        log: LogId,
        /// The writer; `None` only to own the log.
        name: Option<String>,
        /// Whether its numbers may have gaps.
        increasing: bool,
        /// Whether it owns the log.
        exclusive: bool,
    },
    /// Take the log from its owner.
    Share(LogId),
    /// Forget a writer.
    Forget(LogId, String),
    /// All writers of a log.
    ListWriters(LogId),
    /// Append a batch once.
    Write(Write),
}

/// A batch of a writer.
#[derive(Clone, Debug)]
pub struct Write {
    /// The log.
    pub log: LogId,
    /// The writer.
    pub name: String,
    /// Its owner.
    pub epoch: Epoch,
    /// Whether it must own the log too.
    pub exclusive: bool,
    /// The batch's number.
    pub number: u64,
    /// The records.
    pub records: Vec<NewRecord>,
}

/// A log as it is told to clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Its number.
    pub id: LogId,
    /// Its name.
    pub name: String,
    /// Its first record, the next one, and the last transaction id.
    pub numbers: (u64, u64, u64),
    /// Bytes of all records that it ever had.
    pub bytes: u64,
    /// Nothing is appended any more.
    pub sealed: bool,
    /// Who alone may append, 0 if all may.
    pub owner: Epoch,
    /// How often its options were set.
    pub version: u32,
    /// Its options.
    pub options: Arc<LogOptions>,
}

/// A writer as it is told to clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriterRow {
    /// Its name.
    pub name: String,
    /// Its newest owner.
    pub epoch: Epoch,
    /// Whether its numbers may have gaps.
    pub increasing: bool,
    /// The last number that it used.
    pub last: u64,
}

/// What a processor starts from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Its number.
    pub reader: ReaderId,
    /// The owner.
    pub epoch: Epoch,
    /// Next sequence of each source.
    pub sources: Vec<(LogId, u64)>,
    /// The last snapshot.
    pub snapshot: Option<Blob>,
    /// The deltas since then.
    pub deltas: Vec<Blob>,
    /// How many commits there were.
    pub commits: u64,
}

/// What a request is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done, nothing to say.
    Done,
    /// Logs.
    Logs(Vec<Info>),
    /// Processors.
    Readers(Vec<String>),
    /// First sequence and count of each part, after the commit's number if it was one.
    Appended(u64, Vec<(u64, u64)>),
    /// A processor is owned.
    Owned(Restored),
    /// A writer, or a log, is owned: by whom, and the writer's last number.
    Granted(Epoch, u64),
    /// Writers.
    Writers(Vec<WriterRow>),
    /// A batch of a writer stands there: first sequence and count.
    Written {
        /// First sequence and count.
        at: (u64, u64),
        /// It did before.
        repeated: bool,
    },
    /// A log ends there.
    SealedAt(u64),
    /// Refused: records come faster than a hard rate; microseconds until they may come again.
    OverCapacity(u64),
    /// Refused, and why.
    Refused(&'static str),
    /// Refused because the disk is full.
    NoSpace,
    /// Refused because the manifest is full.
    TooMany,
    /// What is asked for is damaged.
    Damaged(Box<Damaged>),
    /// Unknown until the engine is opened again.
    Stopped,
}
