//! Control records: what the engine writes for itself, in section 0 of an entry (F-11).
//!
//! ```text
//! | kind u16 | flags u16 | length u32 | body |
//! ```
//!
//! A body is fixed-size numbers first, then lists, then names or state, whose sizes stand in the
//! fixed part. An unknown kind, an unknown flag or a body of another form makes the section
//! unreadable: a program that does not know what a record means must not act as if it were not
//! there.
//!
//! Not here: what the records do (`catalog`).

mod put;
mod take;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::options::{LogOptions, Rates};
use crate::limits::WRITER_WINDOW;
use crate::position::{Dlsn, Epoch, LogId, ReaderId, SegmentId, Sequence, TxId};

/// Where a control record stands: the entry's offset and its number among the entry's control
/// records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link {
    /// The segment.
    pub segment: SegmentId,
    /// Offset of the entry in the segment's file, in bytes.
    pub offset: u32,
    /// Number of the control record in the entry, from 0.
    pub index: u32,
}

/// A link of a state chain: the checkpoint `number` stands at `link`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainLink {
    /// Number of the checkpoint.
    pub number: u64,
    /// Where it stands.
    pub link: Link,
}

/// Position in one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourcePosition {
    /// The source log.
    pub log: LogId,
    /// The next sequence to read.
    pub next: Sequence,
}

/// What a checkpoint carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckpointState {
    /// Only the position moved.
    None,
    /// A change of the state.
    Delta(Bytes),
    /// The whole state: parts that were written before, then these bytes.
    Snapshot {
        /// Where the parts stand, in order.
        parts: Vec<Link>,
        /// The last part.
        last: Bytes,
    },
}

impl CheckpointState {
    /// Whether it belongs to the state chain.
    #[must_use]
    pub fn is_some(&self) -> bool {
        !matches!(self, Self::None)
    }
}

/// A commit of a processor (F-13).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Whose.
    pub reader: ReaderId,
    /// The owner that committed.
    pub epoch: Epoch,
    /// Dense number of the reader's checkpoints, from 1.
    pub number: u64,
    /// Whether this is a copy, carried forward out of a segment that goes: it changes no position.
    pub carried: bool,
    /// The checkpoint with state before this one, if the state does not begin here.
    pub previous: Option<ChainLink>,
    /// Positions before: what the stored ones must be.
    pub from: Vec<SourcePosition>,
    /// Positions after, of the same sources in the same order.
    pub to: Vec<SourcePosition>,
    /// What it carries.
    pub state: CheckpointState,
}

/// A log as a manifest holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestLog {
    /// Its number.
    pub log: LogId,
    /// When it was created, microseconds since 1970.
    pub created_us: u64,
    /// Next sequence.
    pub next: Sequence,
    /// Last transaction id.
    pub last_txid: TxId,
    /// Records before this one are truncated.
    pub first: Sequence,
    /// Bytes of all records that it ever had, payloads and headers.
    pub bytes: u64,
    /// Nothing is ever appended any more.
    pub sealed: bool,
    /// Who alone may append; 0 if all may.
    pub owner: Epoch,
    /// How often its options were set; 0 if they are the default ones.
    pub options_version: u32,
    /// Its options, unless they are the default ones.
    pub options: Option<Arc<LogOptions>>,
    /// Its name.
    pub name: String,
}

/// A batch of an idempotent writer that is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriterBatch {
    /// The number that the writer gave it.
    pub number: u64,
    /// Sequence of its first record.
    pub first: Sequence,
    /// How many records.
    pub count: u32,
    /// Where its first record stands.
    pub dlsn: Dlsn,
}

/// An idempotent writer as a manifest holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestWriter {
    /// The log that it writes.
    pub log: LogId,
    /// Its newest owner.
    pub epoch: Epoch,
    /// Whether its numbers may have gaps.
    pub increasing: bool,
    /// The last number that it used, 0 for none.
    pub last: u64,
    /// Its last batches, oldest first, at most [`WRITER_WINDOW`].
    pub window: VecDeque<WriterBatch>,
    /// Its name.
    pub name: String,
}

/// A processor as a manifest holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestReader {
    /// Its number.
    pub reader: ReaderId,
    /// Its newest owner.
    pub epoch: Epoch,
    /// Number of its last checkpoint.
    pub number: u64,
    /// Its last checkpoint with state.
    pub head: Option<ChainLink>,
    /// From here down the chain stands elsewhere than its links say.
    pub carried: Option<ChainLink>,
    /// The oldest segment that its state chain needs.
    pub oldest: SegmentId,
    /// Deltas since the snapshot.
    pub deltas: u32,
    /// Their bytes.
    pub delta_bytes: u64,
    /// Bytes of the snapshot.
    pub snapshot_bytes: u64,
    /// Next sequence of each source.
    pub sources: Vec<SourcePosition>,
    /// Its name.
    pub name: String,
}

/// A sealed segment that the log still needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ManifestSegment {
    /// Its number.
    pub segment: SegmentId,
    /// Where its entries end, in bytes.
    pub end: u64,
    /// Digest of its last entry.
    pub digest: u64,
    /// How many entries it holds.
    pub entries: u32,
    /// Whether its file was cut off: it is removed, not recycled, when it goes.
    pub shortened: bool,
    /// Whether it is no longer needed; its file may be gone already.
    pub freed: bool,
}

/// Begins a manifest: counters, and how many of each kind follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ManifestHead {
    /// Number of the next log.
    pub next_log: LogId,
    /// Number of the next reader.
    pub next_reader: ReaderId,
    /// The next epoch.
    pub next_epoch: Epoch,
    /// Commit time of the last entry before the manifest.
    pub time_us: u64,
    /// How many [`ManifestLog`]s.
    pub logs: u32,
    /// How many [`ManifestReader`]s.
    pub readers: u32,
    /// How many [`ManifestSegment`]s.
    pub segments: u32,
    /// How many [`ManifestWriter`]s.
    pub writers: u32,
    /// Rates of the whole shard.
    pub rates: Rates,
}

/// One control record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// A log begins.
    LogCreated {
        /// Its number.
        log: LogId,
        /// When, microseconds since 1970.
        created_us: u64,
        /// Its name.
        name: String,
    },
    /// A log is gone.
    LogDropped {
        /// Its number.
        log: LogId,
    },
    /// Records before `first` are gone.
    LogTruncated {
        /// Its number.
        log: LogId,
        /// The first record that stays.
        first: Sequence,
    },
    /// A processor has a new owner; fences the older ones.
    ReaderOpened {
        /// Its number.
        reader: ReaderId,
        /// The owner.
        epoch: Epoch,
        /// Its sources, and where it stands in each.
        sources: Vec<SourcePosition>,
        /// Its name.
        name: String,
    },
    /// A processor is gone, with its state.
    ReaderDropped {
        /// Its number.
        reader: ReaderId,
    },
    /// A commit.
    Checkpoint(Checkpoint),
    /// A part of a snapshot: counts once a checkpoint names it.
    SnapshotPart {
        /// Whose.
        reader: ReaderId,
        /// Its bytes.
        bytes: Bytes,
    },
    /// The state chain from `head` down was copied.
    ChainCarried {
        /// Whose.
        reader: ReaderId,
        /// The newest copy.
        head: ChainLink,
        /// The oldest segment that the chain needs from now on.
        oldest: SegmentId,
    },
    /// A sealed segment is no longer needed.
    SegmentFreed {
        /// Its number.
        segment: SegmentId,
    },
    /// Blocks that hold nothing but dead records may be gone from a sealed segment's file: what
    /// stands there has no meaning from now on.
    SegmentPunched {
        /// Its number.
        segment: SegmentId,
    },
    /// An idempotent writer has a new owner; fences the older ones.
    WriterOpened {
        /// The log that it writes.
        log: LogId,
        /// The owner.
        epoch: Epoch,
        /// Whether its numbers may have gaps.
        increasing: bool,
        /// Its name.
        name: String,
    },
    /// Records of a log in this entry are a batch of an idempotent writer.
    WriterAppended {
        /// The owner of the writer.
        epoch: Epoch,
        /// The number that the writer gave the batch.
        number: u64,
        /// Sequence of its first record.
        first: Sequence,
        /// How many records.
        count: u32,
        /// Number of this entry.
        entry: u32,
        /// Index of its first record in the log's section.
        slot: u32,
    },
    /// An idempotent writer is forgotten.
    WriterForgotten {
        /// Its newest owner.
        epoch: Epoch,
    },
    /// Only this owner may append to the log from now on; 0: all may again.
    LogOwned {
        /// The log.
        log: LogId,
        /// The owner.
        epoch: Epoch,
    },
    /// Nothing is ever appended to the log any more.
    LogSealed {
        /// The log.
        log: LogId,
        /// Behind its last record.
        next: Sequence,
    },
    /// The log has other options.
    LogOptionsSet {
        /// The log.
        log: LogId,
        /// They replace those before.
        options: Arc<LogOptions>,
    },
    /// The log has another name.
    LogRenamed {
        /// The log.
        log: LogId,
        /// The name.
        name: String,
    },
    /// The whole shard has other rates.
    RatesSet {
        /// They replace those before.
        rates: Rates,
    },
    /// The journal goes on elsewhere (only in an entry flagged so).
    Seal {
        /// The next segment.
        next: SegmentId,
    },
    /// See [`ManifestHead`].
    ManifestHead(ManifestHead),
    /// See [`ManifestLog`].
    ManifestLog(ManifestLog),
    /// See [`ManifestReader`].
    ManifestReader(ManifestReader),
    /// See [`ManifestWriter`].
    ManifestWriter(ManifestWriter),
    /// See [`ManifestSegment`].
    ManifestSegment(ManifestSegment),
}

const LOG_CREATED: u16 = 1;
const LOG_DROPPED: u16 = 2;
const LOG_TRUNCATED: u16 = 3;
const READER_OPENED: u16 = 4;
const READER_DROPPED: u16 = 5;
const CHECKPOINT: u16 = 6;
const SNAPSHOT_PART: u16 = 7;
const CHAIN_CARRIED: u16 = 8;
const SEGMENT_FREED: u16 = 9;
const SEAL: u16 = 10;
// From format version 2 on.
const SEGMENT_PUNCHED: u16 = 11;
const WRITER_OPENED: u16 = 16;
const WRITER_APPENDED: u16 = 17;
const WRITER_FORGOTTEN: u16 = 18;
const LOG_OWNED: u16 = 19;
const LOG_SEALED: u16 = 24;
const LOG_OPTIONS_SET: u16 = 25;
const RATES_SET: u16 = 26;
const LOG_RENAMED: u16 = 28;
// Version 1 only: read, never written.
const MANIFEST_HEAD_1: u16 = 32;
const MANIFEST_LOG_1: u16 = 33;
const MANIFEST_READER: u16 = 34;
const MANIFEST_SEGMENT: u16 = 35;
const MANIFEST_HEAD: u16 = 36;
const MANIFEST_LOG: u16 = 37;
const MANIFEST_WRITER: u16 = 38;

const LOG_IS_SEALED: u16 = 1;
const LOG_HAS_OWNER: u16 = 2;
const LOG_HAS_OPTIONS: u16 = 4;

const STATE_NONE: u8 = 0;
const STATE_DELTA: u8 = 1;
const STATE_SNAPSHOT: u8 = 2;

/// Bytes before each body.
pub const CONTROL_HEADER_SIZE: usize = 8;

impl Control {
    /// Bytes that the record takes in a section.
    #[must_use]
    pub fn size(&self) -> u64 {
        let body = match self {
            Self::LogCreated { name, .. } => 18 + name.len(),
            Self::LogDropped { .. }
            | Self::ReaderDropped { .. }
            | Self::SegmentFreed { .. }
            | Self::SegmentPunched { .. }
            | Self::WriterForgotten { .. }
            | Self::Seal { .. } => 8,
            Self::LogTruncated { .. } | Self::LogOwned { .. } | Self::LogSealed { .. } => 16,
            Self::WriterOpened { name, .. } => 20 + name.len(),
            Self::WriterAppended { .. } => WRITER_APPENDED_SIZE as usize - CONTROL_HEADER_SIZE,
            Self::LogOptionsSet { options, .. } => 8 + options.size(),
            Self::LogRenamed { name, .. } => 10 + name.len(),
            Self::RatesSet { .. } => Rates::SIZE,
            Self::ReaderOpened { sources, name, .. } => 20 + 16 * sources.len() + name.len(),
            Self::Checkpoint(checkpoint) => checkpoint_size(checkpoint),
            Self::SnapshotPart { bytes, .. } => 8 + bytes.len(),
            Self::ChainCarried { .. } => 40,
            Self::ManifestHead(_) => 48 + Rates::SIZE,
            Self::ManifestLog(log) => {
                let owner = if log.owner == Epoch(0) { 0 } else { 8 };
                let options = log.options.as_ref().map_or(0, |options| 4 + options.size());
                52 + owner + options + log.name.len()
            }
            Self::ManifestWriter(writer) => writer_row_size(writer.window.len(), writer.name.len()),
            Self::ManifestReader(reader) => 104 + 16 * reader.sources.len() + reader.name.len(),
            Self::ManifestSegment(_) => 32,
        };
        (CONTROL_HEADER_SIZE + body) as u64
    }

    /// Appends the record to a section.
    pub fn put(&self, out: &mut BytesMut) {
        let before = out.len();
        out.put_u16_le(self.kind());
        out.put_u16_le(0);
        let body = self.size() - CONTROL_HEADER_SIZE as u64;
        out.put_u32_le(u32::try_from(body).expect("a control record fits an entry"));
        put::body(self, out);
        assert_eq!((out.len() - before) as u64, self.size(), "size() and put() agree");
    }

    /// The number of its kind (F-11).
    #[must_use]
    pub fn kind(&self) -> u16 {
        match self {
            Self::LogCreated { .. } => LOG_CREATED,
            Self::LogDropped { .. } => LOG_DROPPED,
            Self::LogTruncated { .. } => LOG_TRUNCATED,
            Self::ReaderOpened { .. } => READER_OPENED,
            Self::ReaderDropped { .. } => READER_DROPPED,
            Self::Checkpoint(_) => CHECKPOINT,
            Self::SnapshotPart { .. } => SNAPSHOT_PART,
            Self::ChainCarried { .. } => CHAIN_CARRIED,
            Self::SegmentFreed { .. } => SEGMENT_FREED,
            Self::Seal { .. } => SEAL,
            Self::SegmentPunched { .. } => SEGMENT_PUNCHED,
            Self::WriterOpened { .. } => WRITER_OPENED,
            Self::WriterAppended { .. } => WRITER_APPENDED,
            Self::WriterForgotten { .. } => WRITER_FORGOTTEN,
            Self::LogOwned { .. } => LOG_OWNED,
            Self::LogSealed { .. } => LOG_SEALED,
            Self::LogOptionsSet { .. } => LOG_OPTIONS_SET,
            Self::LogRenamed { .. } => LOG_RENAMED,
            Self::RatesSet { .. } => RATES_SET,
            Self::ManifestWriter(_) => MANIFEST_WRITER,
            Self::ManifestHead(_) => MANIFEST_HEAD,
            Self::ManifestLog(_) => MANIFEST_LOG,
            Self::ManifestReader(_) => MANIFEST_READER,
            Self::ManifestSegment(_) => MANIFEST_SEGMENT,
        }
    }

    /// Whether a valid section holds only kinds that a format version has (F-2).
    #[must_use]
    pub fn all_of_version(section: &[u8], version: u32) -> bool {
        take::all_of_version(section, version)
    }

    /// The control records of a section, in order; `None` if any of them is not valid.
    #[must_use]
    pub fn take_all(mut section: Bytes, count: u32) -> Option<Vec<Self>> {
        let mut records = Vec::new();
        for _ in 0..count {
            records.push(take::take(&mut section)?);
        }
        section.is_empty().then_some(records)
    }
}

/// Bytes that the batch of a writer takes in a section beside its records.
pub const WRITER_APPENDED_SIZE: u64 = CONTROL_HEADER_SIZE as u64 + 36;

/// Bytes of the body of a writer's row.
fn writer_row_size(batches: usize, name: usize) -> usize {
    28 + 36 * batches + name
}

/// Bytes that the row of a writer takes in a manifest once its window is full.
#[must_use]
pub fn writer_row_size_max(name: &str) -> u64 {
    (CONTROL_HEADER_SIZE + writer_row_size(WRITER_WINDOW, name.len())) as u64
}

fn checkpoint_size(checkpoint: &Checkpoint) -> usize {
    let (parts, bytes) = match &checkpoint.state {
        CheckpointState::None => (0, 0),
        CheckpointState::Delta(bytes) => (0, bytes.len()),
        CheckpointState::Snapshot { parts, last } => (parts.len(), last.len()),
    };
    checkpoint_body_size(checkpoint.to.len(), parts, bytes)
}

fn checkpoint_body_size(sources: usize, parts: usize, bytes: usize) -> usize {
    60 + 24 * sources + 16 * parts + bytes
}

/// Bytes that a checkpoint with so many sources, parts and bytes of state takes in a section.
#[must_use]
pub fn checkpoint_record_size(sources: usize, parts: usize, bytes: usize) -> u64 {
    (CONTROL_HEADER_SIZE + checkpoint_body_size(sources, parts, bytes)) as u64
}
