//! Requests that change what a log is, or who may write to it; and batches of idempotent writers.
//!
//! Not here: what becomes of them (`settings`, `ownership`).

use std::sync::Arc;

use crate::error::{AppendError, LogError, Stopped};
use crate::format::options::{LogOptions, Rates};
use crate::format::record::RECORD_HEADER_SIZE;
use crate::position::{Epoch, LogId, Sequence};
use crate::reply::Reply;
use crate::request::{Answer, Appended, LogInfo, NewRecord};

/// Who appends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Author {
    /// Anyone: refused while the log has an owner.
    #[default]
    Anyone,
    /// The log's owner: refused once it is not that any more.
    Owner(Epoch),
    /// A processor with this epoch: refused while the log has another owner.
    Processor(Epoch),
}

impl Author {
    /// Whether it may append to a log with this owner (0 for none).
    #[must_use]
    pub fn may_append(self, owner: Epoch) -> bool {
        match self {
            Self::Anyone => owner == Epoch(0),
            Self::Owner(epoch) => owner == epoch,
            Self::Processor(epoch) => owner == Epoch(0) || owner == epoch,
        }
    }

    /// Its epoch, 0 for anyone.
    #[must_use]
    pub fn epoch(self) -> Epoch {
        match self {
            Self::Anyone => Epoch(0),
            Self::Owner(epoch) | Self::Processor(epoch) => epoch,
        }
    }
}

/// Where a batch of an idempotent writer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Its records.
    pub appended: Appended,
    /// It had been appended before: nothing was written now.
    pub repeated: bool,
}

/// What a writer starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriterGrant {
    /// This owner's epoch.
    pub epoch: Epoch,
    /// The last number that the writer used, 0 for none.
    pub last: u64,
}

/// An idempotent writer, as it is durably.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriterInfo {
    /// Its name.
    pub name: String,
    /// Its newest owner.
    pub epoch: Epoch,
    /// Whether its numbers may have gaps.
    pub increasing: bool,
    /// The last number that it used, 0 for none.
    pub last: u64,
}

/// A processor, as it is durably.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessorInfo {
    /// Its name.
    pub name: String,
    /// Its newest owner.
    pub epoch: Epoch,
    /// Number of its last commit, 0 if there was none.
    pub commits: u64,
    /// Its sources, in the order of their numbers.
    pub sources: Vec<SourceInfo>,
    /// Bytes of its last snapshot.
    pub snapshot_bytes: u64,
    /// Deltas since the last snapshot.
    pub deltas: u32,
    /// Their bytes.
    pub delta_bytes: u64,
}

impl ProcessorInfo {
    /// How many records of all its sources it has not committed.
    #[must_use]
    pub fn lag(&self) -> u64 {
        self.sources.iter().map(SourceInfo::lag).fold(0, u64::saturating_add)
    }
}

/// A source of a processor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceInfo {
    /// Number of the log.
    pub id: LogId,
    /// Name of the log.
    pub log: String,
    /// The next record that the processor has not committed.
    pub next: Sequence,
    /// The first record that is there.
    pub first: Sequence,
    /// Behind the log's last record.
    pub end: Sequence,
}

impl SourceInfo {
    /// How many records the processor has not committed; truncated ones do not count.
    #[must_use]
    pub fn lag(&self) -> u64 {
        self.end.get().saturating_sub(self.next.max(self.first).get())
    }
}

/// A batch of an idempotent writer.
#[derive(Debug)]
pub struct WriterAppend {
    /// The log.
    pub log: LogId,
    /// The writer.
    pub name: Arc<str>,
    /// Its owner.
    pub epoch: Epoch,
    /// Whether it must own the log too.
    pub exclusive: bool,
    /// The batch's number.
    pub number: u64,
    /// The records, at least one.
    pub records: Vec<NewRecord>,
    /// Where the answer goes.
    pub reply: Reply<Written, AppendError>,
}

/// A change; see the module's head.
#[derive(Debug)]
pub enum Change {
    /// Nothing is appended any more. Twice is fine.
    SealLog {
        /// The log.
        log: LogId,
        /// Who asks.
        author: Author,
        /// Where the answer goes: the log's end.
        reply: Reply<Sequence, LogError>,
    },
    /// Replace a log's options.
    SetOptions {
        /// The log.
        log: LogId,
        /// The new ones.
        options: Arc<LogOptions>,
        /// The version that they replace; `None` for any.
        replaces: Option<u32>,
        /// Where the answer goes.
        reply: Reply<LogInfo, LogError>,
    },
    /// Give a log another name in its group.
    RenameLog {
        /// The log.
        log: LogId,
        /// The name, checked.
        name: String,
        /// Where the answer goes.
        reply: Reply<LogInfo, LogError>,
    },
    /// Replace the rates of the whole shard.
    SetRates {
        /// The new ones.
        rates: Rates,
        /// Where the answer goes.
        reply: Reply<(), LogError>,
    },
    /// Own an idempotent writer, or the log, or both: fences the owner before.
    OpenWriter {
        /// The log.
        log: LogId,
        /// The writer's name, checked; `None` only to own the log.
        name: Option<String>,
        /// Whether its numbers may have gaps.
        increasing: bool,
        /// Whether nobody else may append to the log from then on.
        exclusive: bool,
        /// Where the answer goes.
        reply: Reply<WriterGrant, LogError>,
    },
    /// Take the log from its owner: everyone may append again.
    ShareLog {
        /// The log.
        log: LogId,
        /// Where the answer goes.
        reply: Reply<(), LogError>,
    },
    /// Forget an idempotent writer: its owner is fenced, its numbers begin anew.
    ForgetWriter {
        /// The log.
        log: LogId,
        /// The writer.
        name: String,
        /// Where the answer goes.
        reply: Reply<(), LogError>,
    },
    /// All idempotent writers of a log, in the order of their names.
    ListWriters {
        /// The log.
        log: LogId,
        /// Where the answer goes.
        reply: Reply<Vec<WriterInfo>, LogError>,
    },
    /// Append a batch once.
    WriterAppend(WriterAppend),
}

impl Change {
    /// Bytes of payload that it carries.
    #[must_use]
    pub fn size(&self) -> usize {
        match self {
            Self::WriterAppend(append) => {
                let size = |record: &NewRecord| record.payload.len() + RECORD_HEADER_SIZE;
                append.records.iter().map(size).sum()
            }
            Self::SetOptions { options, .. } => options.size(),
            _ => size_of::<Self>(),
        }
    }

    /// The answer that nothing is changed any more.
    pub(crate) fn refused(self, stopped: Stopped) -> Answer {
        match self {
            Self::SealLog { reply, .. } => Answer::other(reply, Err(stopped.into())),
            Self::SetOptions { reply, .. } | Self::RenameLog { reply, .. } => {
                Answer::other(reply, Err(stopped.into()))
            }
            Self::SetRates { reply, .. }
            | Self::ShareLog { reply, .. }
            | Self::ForgetWriter { reply, .. } => Answer::other(reply, Err(stopped.into())),
            Self::OpenWriter { reply, .. } => Answer::other(reply, Err(stopped.into())),
            Self::ListWriters { reply, .. } => Answer::other(reply, Err(stopped.into())),
            Self::WriterAppend(append) => Answer::other(append.reply, Err(stopped.into())),
        }
    }
}
