//! What can go wrong, one enum for each verb; the first line of each variant says what happened to
//! the data, its text what to do now.
//!
//! A full disk, damage or a dead disk are values here. A broken promise of our own code is a panic.
//!
//! Not here: `From<io::Error>`. Which operation failed is never hidden.

mod write;

use std::path::PathBuf;

use crate::io::IoError;
use crate::position::{Dlsn, Epoch, LogId, SegmentId, Sequence, ShardId};
pub use write::{AppendError, CommitError};

/// The shard no longer takes work: a write or sync failed, or the engine was closed.
///
/// Everything acknowledged is durable. What waited has an unknown outcome until the engine is
/// opened again.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{why}")]
pub struct Stopped {
    #[source]
    why: Why,
}

#[derive(Clone, Debug, thiserror::Error)]
enum Why {
    #[error("the engine was closed before this request was carried out; open it again")]
    Closed,
    #[error(
        "{what} failed and shard {shard} stopped: {source}; everything acknowledged is durable, \
         the outcome of what still waited is unknown until the engine is opened again"
    )]
    Failed { shard: ShardId, what: &'static str, source: IoError },
}

impl Stopped {
    pub(crate) fn closed() -> Self {
        Self { why: Why::Closed }
    }

    /// Whether it is an end that was asked for.
    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.why, Why::Closed)
    }

    pub(crate) fn failed(shard: ShardId, what: &'static str, source: IoError) -> Self {
        Self { why: Why::Failed { shard, what, source } }
    }
}

/// Bytes on disk are not what was written. What was acknowledged may be lost; nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("shard {shard}, segment {segment}, offset {offset}: {what}; at risk: {at_risk}")]
pub struct Damaged {
    /// Whose journal.
    pub shard: ShardId,
    /// The segment.
    pub segment: SegmentId,
    /// Where in the segment's file, in bytes.
    pub offset: u64,
    /// What was found there.
    pub what: &'static str,
    /// Which acknowledged records it may concern.
    pub at_risk: String,
}

/// An engine could not be opened. Nothing that was acknowledged was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process holds the directory.
    #[error("{} is in use by {holder}; close that one first", dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// Who holds it, as far as is known.
        holder: String,
    },
    /// An option has a value that cannot work.
    #[error("option {option}: {why}")]
    Option {
        /// The option's name.
        option: &'static str,
        /// What is wrong with its value.
        why: String,
    },
    /// A file was written by a newer version of this program.
    #[error("{} has format version {found}, this program knows up to {known}; use a newer oncelog",
            path.display())]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest version that this program knows.
        known: u32,
    },
    /// A file does not belong to this engine.
    #[error("{} {why}; move it away, or open the directory that it belongs to", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// How that was seen.
        why: String,
    },
    /// A segment that must be there is not.
    #[error("shard {shard}: segment {segment} is missing ({why}); put its file back")]
    MissingSegment {
        /// Whose journal.
        shard: ShardId,
        /// Its number.
        segment: SegmentId,
        /// How that is known.
        why: &'static str,
    },
    /// A segment is there that the journal does not know.
    #[error(
        "shard {shard}: segment {segment} holds data but no other segment knows of it; it was put \
         there from elsewhere: move its file away"
    )]
    ExtraSegment {
        /// Whose journal.
        shard: ShardId,
        /// Its number.
        segment: SegmentId,
    },
    /// Acknowledged data is damaged. Opening would turn damage into silent loss.
    #[error("refused to open, acknowledged data is damaged: {0}; restore the file from a copy")]
    Damaged(Damaged),
    /// The file system or kernel refused.
    #[error("{what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The refusal.
        source: IoError,
    },
    /// The file system cannot be trusted with durable data, and no option allows it.
    #[error("{} is on {kind}, where a sync does not mean durable; choose a local disk, or set \
             Options::allow_network_file_system", dir.display())]
    FileSystem {
        /// The directory.
        dir: PathBuf,
        /// The file system's name.
        kind: String,
    },
    /// The shard stopped while it was opened.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// A log could not be created, opened, listed or dropped. Nothing was changed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The name is not one.
    #[error(transparent)]
    Name(#[from] NameError),
    /// There is a log of that name.
    #[error("log {name:?} exists; open it instead")]
    Exists {
        /// The name.
        name: String,
    },
    /// There is no log of that name.
    #[error("there is no log {name:?}; create it first")]
    NoSuchLog {
        /// The name.
        name: String,
    },
    /// The log was dropped, or its number is not known.
    #[error("the log was dropped; open it again by name")]
    Dropped,
    /// The options cannot be set.
    #[error("{why}; the options are unchanged")]
    Options {
        /// What is wrong with them.
        why: String,
    },
    /// Somebody else changed the options meanwhile.
    #[error(
        "the options of log {name:?} are at version {version}, not {replaces}: somebody changed \
         them meanwhile; describe the log and decide again"
    )]
    OptionsChanged {
        /// The log.
        name: String,
        /// The version that was to be replaced.
        replaces: u32,
        /// The version that is there.
        version: u32,
    },
    /// The new name is of another group.
    #[error("{name:?} is not of the log's group {group:?}: a log stays in its group")]
    OtherGroup {
        /// The new name.
        name: String,
        /// The log's group.
        group: String,
    },
    /// The log was sealed.
    #[error("the log was sealed at {next}: nothing is appended to it any more")]
    Sealed {
        /// Behind its last record.
        next: Sequence,
    },
    /// Only the owner may do this.
    #[error(
        "the log has an owner (epoch {owner}), which is not this one (epoch {own}, 0 for none)"
    )]
    Owned {
        /// The epoch of who asked, 0 for none.
        own: Epoch,
        /// The log's owner.
        owner: Epoch,
    },
    /// There is no writer of that name.
    #[error("the log has no writer {name:?}")]
    NoSuchWriter {
        /// The name.
        name: String,
    },
    /// A processor reads from the log.
    #[error("log {name:?} is a source of processor {reader:?}; drop that one first")]
    InUse {
        /// The name.
        name: String,
        /// The processor.
        reader: String,
    },
    /// A position is beyond the log's end.
    #[error("cannot truncate before {before}: the log ends at {next}")]
    BeyondEnd {
        /// What was asked for.
        before: Sequence,
        /// The log's next sequence.
        next: Sequence,
    },
    /// A live processor still needs records from there on.
    #[error(
        "cannot truncate before {before}: processor {reader:?} is at {position}; let it commit \
             first, or drop it"
    )]
    Needed {
        /// What was asked for.
        before: Sequence,
        /// Who needs them.
        reader: String,
        /// Where it stands.
        position: Sequence,
    },
    /// The manifest would grow beyond its share of a segment.
    #[error(
        "the shard's metadata would be {size} bytes, the limit for its segment size is {max}; \
             use larger segments or fewer logs"
    )]
    TooMany {
        /// Bytes with this one.
        size: u64,
        /// The limit in bytes.
        max: u64,
    },
    /// The disk is full.
    #[error("{0}")]
    NoSpace(NoSpace),
    /// See [`Stopped`].
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// The disk is full: no segment could be made. Nothing was written.
///
/// Reads, truncation, drops and commits of a position alone go on out of a reserve; appends go on
/// by themselves once there is room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no room for another segment, on the disk or in the manifest; truncate logs or free \
     disk space, then try again"
)]
pub struct NoSpace;

/// Records could not be read. The log is unchanged.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The records were truncated.
    #[error("records before {first} were truncated; read from there, or from earliest")]
    Truncated {
        /// The first record that is there.
        first: Sequence,
    },
    /// The log was dropped.
    #[error("the log was dropped; open it again by name")]
    Dropped,
    /// Everything was read: the log is sealed, and no record will ever come.
    #[error("the log is sealed and ends at {next}: everything was read")]
    End {
        /// The sequence behind its last record.
        next: Sequence,
    },
    /// An answer does not go on where the one before it ended. Nothing of it was handed out.
    #[error(
        "records of log {log} do not follow: sequence {got} came where {expected} was asked for; \
         nothing of it was handed out; check the directory with Verify"
    )]
    Gap {
        /// Whose records.
        log: LogId,
        /// What should have come.
        expected: Sequence,
        /// What came.
        got: Sequence,
    },
    /// The records are damaged. Nothing of them was handed out.
    #[error("records of log {log} cannot be read: {damage}")]
    Damaged {
        /// Whose records.
        log: LogId,
        /// Where and what.
        damage: Damaged,
    },
    /// The disk did not give the records; they may be readable later.
    #[error("reading segment {segment} at {offset} failed: {source}; try again")]
    Io {
        /// The segment.
        segment: SegmentId,
        /// Where in its file, in bytes.
        offset: u64,
        /// The refusal.
        source: IoError,
    },
    /// See [`Stopped`].
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// A processor could not be opened or restored. Its checkpoint is unchanged.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessorError {
    /// A name is not one.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A source does not exist.
    #[error("there is no log {name:?}; create it before a processor reads from it")]
    NoSuchLog {
        /// The name.
        name: String,
    },
    /// There is no processor of that name.
    #[error("there is no processor {name:?}")]
    NoSuchProcessor {
        /// The name.
        name: String,
    },
    /// A source is of another group.
    #[error(
        "source {log:?} is not of the processor's group {group:?}: position, state and outputs \
         are atomic inside one group only; name them \"{group}/..\", or keep the source position \
         as the key of an idempotent append in the other group"
    )]
    OtherGroup {
        /// The source.
        log: String,
        /// The processor's group.
        group: String,
    },
    /// The sources are not those of the checkpoint.
    #[error(
        "processor {name:?} was opened with sources {asked:?} but its checkpoint has {stored:?}; \
             changing them is an explicit act: change_sources()"
    )]
    OtherSources {
        /// The processor.
        name: String,
        /// What was asked for.
        asked: Vec<String>,
        /// What the checkpoint holds.
        stored: Vec<String>,
    },
    /// No source was named, or too many.
    #[error("a processor has 1 to {max} sources, not {count}")]
    SourceCount {
        /// How many were named.
        count: usize,
        /// The limit.
        max: usize,
    },
    /// The metadata would grow too large.
    #[error(
        "the shard's metadata would be {size} bytes, the limit for its segment size is {max}; \
             use larger segments or fewer processors"
    )]
    TooMany {
        /// Bytes with this one.
        size: u64,
        /// The limit in bytes.
        max: u64,
    },
    /// The stored state cannot be read. Starting again from nothing would repeat every effect.
    #[error("the state of the processor cannot be restored: {0}")]
    Damaged(Damaged),
    /// The disk did not give the stored state; it may be readable later.
    #[error("reading the state of the processor failed: {0}; try again")]
    Io(IoError),
    /// A newer owner opened the processor meanwhile.
    #[error("a newer owner (epoch {newer}) opened the processor")]
    Fenced {
        /// The newer owner.
        newer: Epoch,
    },
    /// Nothing was written: the disk is full.
    #[error("{0}")]
    NoSpace(NoSpace),
    /// See [`Stopped`].
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// A name of a log or processor is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{name:?} is no name: {why}; a name is 1 to 255 bytes of A-Z a-z 0-9 _ - . in parts parted by \
         single slashes, no part empty or beginning with a dot"
)]
pub struct NameError {
    /// What was given, shortened.
    pub name: String,
    /// What is wrong with it.
    pub why: &'static str,
}

/// Truncated records, as text for [`Damaged::at_risk`].
pub(crate) fn records_from(log: LogId, first: Sequence, dlsn: Dlsn) -> String {
    format!("records of log {log} from sequence {first} ({dlsn})")
}
