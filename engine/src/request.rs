//! What clients ask of a shard, and what it answers.
//!
//! A request owns its [`Reply`], an [`Answer`] is a reply with its value, held back until the state
//! that it reveals is durable. Delivering an answer wakes a client, so the host does it, after it
//! has given the device its next work.
//!
//! Not here: what becomes of a request (`shard`).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::change::{Author, Change, ProcessorInfo};
use crate::error::{AppendError, CommitError, LogError, ProcessorError, ReadError, Stopped};
use crate::format::codec::Codec;
use crate::format::control::SourcePosition;
use crate::format::entry::RecordIn;
use crate::format::options::LogOptions;
use crate::format::record::RECORD_HEADER_SIZE;
use crate::metrics::ShardMetrics;
pub use crate::metrics::{CommitStats, ShardStats};
use crate::position::{Dlsn, Epoch, LogId, ReaderId, SegmentId, Sequence, TxId};
use crate::reply::Reply;
use crate::space::{LogSegment, ShardSpace};

/// A record on its way into a log.
#[derive(Clone, Debug)]
pub struct NewRecord {
    /// Its transaction id; without one it takes the log's last.
    pub txid: Option<TxId>,
    /// Its payload.
    pub payload: Bytes,
}

/// A record whose transaction id is settled.
#[derive(Debug)]
pub struct StagedRecord {
    /// Its transaction id.
    pub txid: TxId,
    /// Its payload.
    pub payload: Bytes,
}

impl RecordIn for StagedRecord {
    fn txid(&self) -> TxId {
        self.txid
    }

    fn payload(&self) -> &[u8] {
        &self.payload
    }
}

impl NewRecord {
    /// A record with this payload; it takes the log's last transaction id.
    pub fn new(payload: impl Into<Bytes>) -> Self {
        Self { txid: None, payload: payload.into() }
    }

    /// The same record with a transaction id, which must not be below the log's last one.
    #[must_use]
    pub fn with_txid(self, txid: TxId) -> Self {
        Self { txid: Some(txid), ..self }
    }
}

impl<T: Into<Bytes>> From<T> for NewRecord {
    fn from(payload: T) -> Self {
        Self::new(payload)
    }
}

/// Records for one log.
#[derive(Debug)]
pub struct Part {
    /// The log.
    pub log: LogId,
    /// Who appends.
    pub author: Author,
    /// The records, in order.
    pub records: Vec<NewRecord>,
}

/// Where appended records stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Sequence of the first record.
    pub first: Sequence,
    /// How many records.
    pub count: u64,
    /// Position of the first record; the others have the slots after it. `None` for an empty batch.
    pub dlsn: Option<Dlsn>,
}

impl Appended {
    /// Sequence behind the last record.
    #[must_use]
    pub fn next(&self) -> Sequence {
        self.first.after(self.count)
    }
}

/// A log, as it is durably.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogInfo {
    /// Its number.
    pub id: LogId,
    /// Its name.
    pub name: String,
    /// The first record that is there.
    pub first: Sequence,
    /// The sequence that the next record gets.
    pub next: Sequence,
    /// Transaction id of the last record ever appended, 0 if there was none.
    pub last_txid: TxId,
    /// When it was created, microseconds since 1970.
    pub created_us: u64,
    /// Bytes of all records that it ever had: payloads, and 16 bytes for each.
    pub bytes: u64,
    /// Nothing is appended any more.
    pub sealed: bool,
    /// Who alone may append, 0 if all may.
    pub owner: Epoch,
    /// How often its options were set; 0: they are the default ones.
    pub options_version: u32,
    /// Its options.
    pub options: Arc<LogOptions>,
}

impl LogInfo {
    /// How many records are there.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.next.since(self.first)
    }

    /// Whether there is no record, never was or no more.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many of its records a reader has not had whose next one is `position`. Records that were
    /// truncated are no longer to be had, and do not count.
    #[must_use]
    pub fn lag(&self, position: Sequence) -> u64 {
        self.next.get().saturating_sub(position.max(self.first).get())
    }
}

/// What to do about a log that exists, or does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// It must not exist.
    Create,
    /// It must exist.
    Open,
    /// Either.
    OpenOrCreate,
}

/// Where a read begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// The first record that is there, silently.
    Earliest,
    /// Behind the last durable record.
    Latest,
    /// This record, or the first one after it that comes to be.
    Sequence(Sequence),
    /// The first record at this position or after it.
    Dlsn(Dlsn),
    /// The first record with this transaction id or a higher one: the answer begins at it, or at
    /// records before it in the same section, which the client leaves out.
    TxId(TxId),
    /// The first record committed at this time or later, microseconds since 1970.
    Time(u64),
}

/// How long a read waits at the end of a log, instead of answering with no records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all.
    No,
    /// So long from when the shard takes the request.
    For(Duration),
    /// Until this instant of the shard's monotonic clock, microseconds: that of an earlier answer.
    Until(u64),
    /// As long as it takes.
    Forever,
}

/// Reads of this log wait for new logs: its sequences are their numbers, it has no records.
pub const LOG_OF_LOGS: LogId = LogId(0);

/// A request to read.
#[derive(Debug)]
pub struct ReadRequest {
    /// The log, or [`LOG_OF_LOGS`].
    pub log: LogId,
    /// Where to begin.
    pub at: At,
    /// Bytes of records after which no further section is added.
    pub bytes_max: u32,
    /// How long to wait until there is a record, instead of answering with none.
    pub wait: Wait,
    /// Nobody waits for it yet: while records are written it stands back.
    pub ahead: bool,
    /// Told as soon as it is known where the answer will end, if the device has to be asked for
    /// it: so that a client can ask for what follows meanwhile. Dropped where that is not so.
    pub planned: Option<Reply<Planned, ReadError>>,
    /// Where the answer goes.
    pub reply: Reply<ReadAnswer, ReadError>,
}

/// What a read will answer with, unless it meets damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Where to read next.
    pub next: Sequence,
    /// Whether durable records are there.
    pub more: bool,
}

/// Sections of one log, checked, in order, without a gap.
#[derive(Debug)]
pub struct ReadAnswer {
    /// The first record asked for.
    pub first: Sequence,
    /// Where to read next.
    pub next: Sequence,
    /// The log's first record that is there.
    pub earliest: Sequence,
    /// The sections; the first may begin before `first`.
    pub sections: Vec<SectionBytes>,
    /// No record before `first`, truncated ones included, is at the position asked for or after it.
    /// Only for a transaction id that is not known where records are gone.
    pub proven: bool,
    /// When the wait is over, for [`Wait::Until`], if it was not [`Wait::Forever`].
    pub until: Option<u64>,
    /// The wait was over when this was answered.
    pub over: bool,
    /// There is no record, and none will ever come: the log is sealed.
    pub end: bool,
    /// If there is no record: all of the log that ever come stand at this position or after it.
    pub frontier: Dlsn,
    /// The number that the next log gets. Logs below it may not be durable, or never be.
    pub next_log: LogId,
}

/// The bytes of one section and what they are.
#[derive(Clone, Debug)]
pub struct SectionBytes {
    /// Sequence of its first record.
    pub first: Sequence,
    /// How many records.
    pub count: u32,
    /// Its segment.
    pub segment: SegmentId,
    /// Its entry.
    pub entry: u32,
    /// Commit time, microseconds since 1970.
    pub time_us: u64,
    /// How the records are stored.
    pub codec: Codec,
    /// The size of the records in bytes.
    pub raw_len: u32,
    /// The records, as they are stored.
    pub bytes: Bytes,
}

/// What an owner starts from.
#[derive(Clone, Debug)]
pub struct Restored {
    /// The processor's number.
    pub reader: ReaderId,
    /// This owner's epoch.
    pub epoch: Epoch,
    /// Next sequence of each source.
    pub positions: Vec<SourcePosition>,
    /// The last snapshot, if there ever was one.
    pub snapshot: Option<Bytes>,
    /// The deltas since then, oldest first.
    pub deltas: Vec<Bytes>,
    /// Number of the last commit, 0 if there was none.
    pub commits: u64,
}

/// What a commit carries for the state.
#[derive(Clone, Debug)]
pub enum NewState {
    /// Nothing.
    None,
    /// A change.
    Delta(Bytes),
    /// Everything; the parts sent before come first.
    Snapshot(Bytes),
}

/// A request to commit.
#[derive(Debug)]
pub struct CommitRequest {
    /// The processor.
    pub reader: ReaderId,
    /// The owner.
    pub epoch: Epoch,
    /// The number that this commit must get: a later one never overtakes an earlier one.
    pub number: u64,
    /// Positions before, as the owner believes.
    pub from: Vec<SourcePosition>,
    /// Positions after, of the same sources in the same order.
    pub to: Vec<SourcePosition>,
    /// The state.
    pub state: NewState,
    /// Parts of the snapshot that were sent before.
    pub parts: usize,
    /// Records for other logs of the group.
    pub outputs: Vec<Part>,
    /// Where the answer goes.
    pub reply: Reply<Committed, CommitError>,
}

/// A commit is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Its number, from 1.
    pub number: u64,
    /// Where the outputs stand, in the order in which they were given.
    pub outputs: Vec<Appended>,
    /// So many deltas have piled up that the next commit should carry a snapshot.
    pub snapshot_due: bool,
}

/// What clients ask.
#[derive(Debug)]
pub enum Request {
    /// Create or open a log.
    OpenLog {
        /// Its name, checked.
        name: String,
        /// What is expected.
        mode: OpenMode,
        /// Options of a log that is created now; `None` for the default ones.
        options: Option<Arc<LogOptions>>,
        /// Where the answer goes.
        reply: Reply<LogInfo, LogError>,
    },
    /// Logs whose name begins so, sorted.
    ListLogs {
        /// What the names begin with.
        prefix: String,
        /// Only names behind this one; empty for all.
        after: String,
        /// At most so many.
        limit: usize,
        /// Where the answer goes.
        reply: Reply<Vec<LogInfo>, LogError>,
    },
    /// What a log is now.
    DescribeLog {
        /// The log.
        log: LogId,
        /// Where the answer goes.
        reply: Reply<LogInfo, LogError>,
    },
    /// Drop a log and its records.
    DropLog {
        /// Its name.
        name: String,
        /// Where the answer goes.
        reply: Reply<(), LogError>,
    },
    /// Drop the records before a sequence.
    Truncate {
        /// The log.
        log: LogId,
        /// The first record that stays.
        before: Sequence,
        /// Where the answer goes.
        reply: Reply<(), LogError>,
    },
    /// Append one record.
    Append {
        /// The log.
        log: LogId,
        /// Who appends.
        author: Author,
        /// The record.
        record: NewRecord,
        /// Where the answer goes.
        reply: Reply<Appended, AppendError>,
    },
    /// Append records, each for itself.
    AppendEach {
        /// The records.
        part: Part,
        /// Where the answer goes: one for each record.
        reply: Reply<Vec<Result<Sequence, AppendError>>, AppendError>,
    },
    /// Append to one or several logs, all or nothing.
    AppendBatch {
        /// The records.
        parts: Vec<Part>,
        /// Where the answer goes: one for each part.
        reply: Reply<Vec<Appended>, AppendError>,
    },
    /// Read records.
    Read(ReadRequest),
    /// Own a processor: fence older owners, then restore.
    OpenReader {
        /// Its name, checked.
        name: String,
        /// Its sources; none to take those that are stored.
        sources: Vec<String>,
        /// Whether stored sources may be changed to these.
        change: bool,
        /// Logs that nobody else may append to from then on.
        owns: Vec<String>,
        /// Where the answer goes.
        reply: Reply<Restored, ProcessorError>,
    },
    /// All processors, sorted by name.
    ListReaders {
        /// Where the answer goes.
        reply: Reply<Vec<ProcessorInfo>, ProcessorError>,
    },
    /// Drop a processor with its position and state.
    DropReader {
        /// Its name.
        name: String,
        /// Where the answer goes.
        reply: Reply<(), ProcessorError>,
    },
    /// A part of a snapshot, before the commit that names it.
    SnapshotPart {
        /// The processor.
        reader: ReaderId,
        /// The owner.
        epoch: Epoch,
        /// The number of the commit that it is for.
        number: u64,
        /// The part.
        bytes: Bytes,
        /// Where the answer goes.
        reply: Reply<(), CommitError>,
    },
    /// Change what a log is, or who may write to it.
    Change(Box<Change>),
    /// Commit state, outputs and positions.
    Commit(Box<CommitRequest>),
    /// Figures of the shard.
    Stats {
        /// Where the answer goes.
        reply: Reply<ShardStats, Stopped>,
    },
    /// Metrics of the shard.
    Metrics {
        /// Where the answer goes.
        reply: Reply<Box<ShardMetrics>, Stopped>,
    },
    /// Where the shard's space is.
    Space {
        /// Where the answer goes.
        reply: Reply<ShardSpace, Stopped>,
    },
    /// Where a log's records stand, segment by segment.
    LogSegments {
        /// The log.
        log: LogId,
        /// Where the answer goes.
        reply: Reply<Vec<LogSegment>, LogError>,
    },
    /// Finish what was accepted, mark the end, stop.
    Close {
        /// Where the answer goes.
        reply: Reply<(), Stopped>,
    },
}

impl Request {
    /// Whether it may add anything to an entry.
    #[must_use]
    pub fn stages(&self) -> bool {
        !matches!(
            self,
            Self::Read(_)
                | Self::DescribeLog { .. }
                | Self::ListLogs { .. }
                | Self::ListReaders { .. }
                | Self::Stats { .. }
                | Self::Metrics { .. }
                | Self::Space { .. }
                | Self::LogSegments { .. }
        )
    }

    /// Bytes that it counts for in the inbox: its payloads and a little for itself.
    #[must_use]
    pub fn size(&self) -> u64 {
        let size = |record: &NewRecord| record.payload.len() + RECORD_HEADER_SIZE;
        let parts = |parts: &[Part]| -> usize {
            parts.iter().flat_map(|part| &part.records).map(size).sum()
        };
        let payload = match self {
            Self::Append { record, .. } => record.payload.len(),
            Self::AppendEach { part, .. } => part.records.iter().map(size).sum(),
            Self::AppendBatch { parts: batch, .. } => parts(batch),
            Self::SnapshotPart { bytes, .. } => bytes.len(),
            Self::Change(change) => change.size(),
            Self::Commit(commit) => {
                let state = match &commit.state {
                    NewState::None => 0,
                    NewState::Delta(bytes) | NewState::Snapshot(bytes) => bytes.len(),
                };
                state + parts(&commit.outputs)
            }
            _ => 0,
        };
        payload as u64 + size_of::<Self>() as u64
    }
}

/// A reply with its value.
pub enum Answer {
    /// To an append.
    Append(Reply<Appended, AppendError>, Result<Appended, AppendError>),
    /// To a commit.
    Commit(Reply<Committed, CommitError>, Result<Committed, CommitError>),
    /// To anything else: called with the reason if the shard stopped before it could be given.
    Other(Box<dyn FnOnce(Option<Stopped>) + Send>),
}

impl Answer {
    /// An answer to anything but an append or a commit.
    pub fn other<T, E>(reply: Reply<T, E>, result: Result<T, E>) -> Self
    where
        T: Send + 'static,
        E: From<Stopped> + Send + 'static,
    {
        Self::Other(Box::new(|stopped| {
            reply.send(match stopped {
                Some(stopped) => Err(stopped.into()),
                None => result,
            });
        }))
    }

    /// Gives it, which may wake a client.
    pub fn deliver(self) {
        match self {
            Self::Append(reply, result) => reply.send(result),
            Self::Commit(reply, result) => reply.send(result),
            Self::Other(send) => send(None),
        }
    }

    /// The answer that its state can no longer become durable.
    pub(crate) fn stopped(self, stopped: Stopped) -> Self {
        match self {
            Self::Append(reply, _) => Self::Append(reply, Err(stopped.into())),
            Self::Commit(reply, _) => Self::Commit(reply, Err(stopped.into())),
            Self::Other(send) => Self::Other(Box::new(|_| send(Some(stopped)))),
        }
    }
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Answer")
    }
}
