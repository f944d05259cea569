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

mod take;

use bytes::{BufMut, Bytes, BytesMut};

use crate::position::{Epoch, LogId, ReaderId, SegmentId, Sequence, TxId};

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
// 11..=31 and 36..=63 are set aside for what docs/format.md lists; nothing of it is read yet.
const MANIFEST_HEAD: u16 = 32;
const MANIFEST_LOG: u16 = 33;
const MANIFEST_READER: u16 = 34;
const MANIFEST_SEGMENT: u16 = 35;

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
            | Self::Seal { .. } => 8,
            Self::LogTruncated { .. } => 16,
            Self::ReaderOpened { sources, name, .. } => 20 + 16 * sources.len() + name.len(),
            Self::Checkpoint(checkpoint) => checkpoint_size(checkpoint),
            Self::SnapshotPart { bytes, .. } => 8 + bytes.len(),
            Self::ChainCarried { .. } => 40,
            Self::ManifestHead(_) => 44,
            Self::ManifestLog(log) => 42 + log.name.len(),
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
        self.put_body(out);
        assert_eq!((out.len() - before) as u64, self.size(), "size() and put() agree");
    }

    fn kind(&self) -> u16 {
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
            Self::ManifestHead(_) => MANIFEST_HEAD,
            Self::ManifestLog(_) => MANIFEST_LOG,
            Self::ManifestReader(_) => MANIFEST_READER,
            Self::ManifestSegment(_) => MANIFEST_SEGMENT,
        }
    }

    fn put_body(&self, out: &mut BytesMut) {
        match self {
            Self::LogCreated { log, created_us, name } => {
                out.put_u64_le(log.0);
                out.put_u64_le(*created_us);
                put_name(out, name);
                out.put_slice(name.as_bytes());
            }
            Self::LogDropped { log } => out.put_u64_le(log.0),
            Self::LogTruncated { log, first } => {
                out.put_u64_le(log.0);
                out.put_u64_le(first.0);
            }
            Self::ReaderOpened { reader, epoch, sources, name } => {
                out.put_u64_le(reader.0);
                out.put_u64_le(epoch.0);
                put_count(out, sources.len());
                put_name(out, name);
                put_positions(out, sources);
                out.put_slice(name.as_bytes());
            }
            Self::ReaderDropped { reader } => out.put_u64_le(reader.0),
            Self::Checkpoint(checkpoint) => put_checkpoint(out, checkpoint),
            Self::SnapshotPart { reader, bytes } => {
                out.put_u64_le(reader.0);
                out.put_slice(bytes);
            }
            Self::ChainCarried { reader, head, oldest } => {
                out.put_u64_le(reader.0);
                put_chain_link(out, Some(*head));
                out.put_u64_le(oldest.0);
            }
            Self::SegmentFreed { segment } | Self::Seal { next: segment } => {
                out.put_u64_le(segment.0);
            }
            Self::ManifestHead(head) => {
                out.put_u64_le(head.next_log.0);
                out.put_u64_le(head.next_reader.0);
                out.put_u64_le(head.next_epoch.0);
                out.put_u64_le(head.time_us);
                out.put_u32_le(head.logs);
                out.put_u32_le(head.readers);
                out.put_u32_le(head.segments);
            }
            Self::ManifestLog(log) => {
                out.put_u64_le(log.log.0);
                out.put_u64_le(log.created_us);
                out.put_u64_le(log.next.0);
                out.put_u64_le(log.last_txid.0);
                out.put_u64_le(log.first.0);
                put_name(out, &log.name);
                out.put_slice(log.name.as_bytes());
            }
            Self::ManifestReader(reader) => put_manifest_reader(out, reader),
            Self::ManifestSegment(segment) => {
                out.put_u64_le(segment.segment.0);
                out.put_u64_le(segment.end);
                out.put_u64_le(segment.digest);
                out.put_u32_le(segment.entries);
                out.put_u32_le(u32::from(segment.shortened) | u32::from(segment.freed) << 1);
            }
        }
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

fn put_checkpoint(out: &mut BytesMut, checkpoint: &Checkpoint) {
    let (kind, parts, bytes): (u8, &[Link], &[u8]) = match &checkpoint.state {
        CheckpointState::None => (STATE_NONE, &[], &[]),
        CheckpointState::Delta(bytes) => (STATE_DELTA, &[], bytes),
        CheckpointState::Snapshot { parts, last } => (STATE_SNAPSHOT, parts, last),
    };
    out.put_u64_le(checkpoint.reader.0);
    out.put_u64_le(checkpoint.epoch.0);
    out.put_u64_le(checkpoint.number);
    put_chain_link(out, checkpoint.previous);
    put_count(out, checkpoint.to.len());
    out.put_u8(kind);
    out.put_u8(checkpoint.carried.into());
    out.put_u32_le(u32::try_from(parts.len()).expect("parts fit an entry"));
    out.put_u32_le(0);
    assert_eq!(checkpoint.from.len(), checkpoint.to.len());
    for (from, to) in checkpoint.from.iter().zip(&checkpoint.to) {
        assert_eq!(from.log, to.log);
        out.put_u64_le(from.log.0);
        out.put_u64_le(from.next.0);
        out.put_u64_le(to.next.0);
    }
    for part in parts {
        put_link(out, *part);
    }
    out.put_slice(bytes);
}

fn put_manifest_reader(out: &mut BytesMut, reader: &ManifestReader) {
    out.put_u64_le(reader.reader.0);
    out.put_u64_le(reader.epoch.0);
    out.put_u64_le(reader.number);
    put_chain_link(out, reader.head);
    put_chain_link(out, reader.carried);
    out.put_u64_le(reader.oldest.0);
    out.put_u64_le(reader.delta_bytes);
    out.put_u64_le(reader.snapshot_bytes);
    out.put_u32_le(reader.deltas);
    put_count(out, reader.sources.len());
    put_name(out, &reader.name);
    put_positions(out, &reader.sources);
    out.put_slice(reader.name.as_bytes());
}

fn put_name(out: &mut BytesMut, name: &str) {
    out.put_u16_le(u16::try_from(name.len()).expect("names are short"));
}

fn put_count(out: &mut BytesMut, count: usize) {
    out.put_u16_le(u16::try_from(count).expect("a processor has few sources"));
}

fn put_positions(out: &mut BytesMut, positions: &[SourcePosition]) {
    for position in positions {
        out.put_u64_le(position.log.0);
        out.put_u64_le(position.next.0);
    }
}

fn put_link(out: &mut BytesMut, link: Link) {
    out.put_u64_le(link.segment.0);
    out.put_u32_le(link.offset);
    out.put_u32_le(link.index);
}

/// Number 0 says that there is none.
fn put_chain_link(out: &mut BytesMut, link: Option<ChainLink>) {
    let none = Link { segment: SegmentId(0), offset: 0, index: 0 };
    let ChainLink { number, link } = link.unwrap_or(ChainLink { number: 0, link: none });
    out.put_u64_le(number);
    put_link(out, link);
}
