//! The whole contract between a shard, which only decides, and whoever does the work for it.
//!
//! ```text
//! Shard::poll_op -> Op -> ring, plain runner or simulated disk
//!                    '-> Completion -> Shard::handle_completion
//! ```
//!
//! The host runs operations in any order and concurrently, except that it starts a shard's
//! operations on *files* (everything but `Write`, `Sync` and `Read`) in the order given. Each
//! operation gets exactly one completion. A buffer belongs to the operation from submission to
//! completion, so the shard cannot touch memory that the kernel may still write.
//!
//! What an implementer owes, and what no one may assume:
//! - `Write`: on success all bytes were handed over, or fewer, and then the count says so. With
//!   `durable` the bytes that it counts are on stable storage before the completion (`RWF_DSYNC`).
//! - `Sync`: everything whose completion was delivered before this was submitted is durable.
//! - Operations on files are durable, directory entries included, when they complete, except where
//!   it says otherwise.
//!
//! Not here: threads, files, the ring.

use std::sync::Arc;

use bytes::Bytes;

use crate::buf::Buf;
use crate::position::SegmentId;

/// Number of an operation under way. Made in one place only, reused after its completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(pub u32);

/// Number of a spare segment: a file of zeros, or a truncated segment, that waits to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpareId(pub u64);

/// Work for the host.
#[derive(Debug)]
pub struct Op {
    /// Comes back in the completion.
    pub id: OpId,
    /// What to do.
    pub kind: OpKind,
}

/// What to do.
#[derive(Debug)]
pub enum OpKind {
    /// Write `buf` at `offset`, both multiples of the block size.
    Write {
        /// The file.
        segment: SegmentId,
        /// Where, in bytes.
        offset: u64,
        /// What. Comes back in the completion.
        buf: Buf,
        /// Whether the bytes must be durable when this completes.
        durable: bool,
    },
    /// Make everything that was written to the segment durable.
    Sync {
        /// The file.
        segment: SegmentId,
    },
    /// Fill `buf` from `offset`. Fewer bytes mean that the file ends there.
    Read {
        /// The file.
        segment: SegmentId,
        /// Where, in bytes.
        offset: u64,
        /// Comes back in the completion.
        buf: Buf,
    },
    /// Make a spare: `size` zeros in a temporary file, synced, renamed.
    MakeSpare {
        /// Its number.
        spare: SpareId,
        /// Its size in bytes.
        size: u64,
        /// Whether the zeros are to be written, not only allocated: then a durable write into it
        /// changes nothing but its own blocks.
        written: bool,
    },
    /// A spare becomes a segment: renamed, the directory synced.
    UseSpare {
        /// What it was.
        spare: SpareId,
        /// What it is from now on.
        segment: SegmentId,
    },
    /// A segment becomes a spare: renamed, the directory synced.
    Recycle {
        /// What it was. No read of it is under way.
        segment: SegmentId,
        /// What it is from now on.
        spare: SpareId,
    },
    /// Remove a segment's file and its side files.
    RemoveSegment {
        /// The file.
        segment: SegmentId,
    },
    /// Remove a spare's file.
    RemoveSpare {
        /// The file.
        spare: SpareId,
    },
    /// Cut the file off at `len`: nothing behind it is needed.
    Shorten {
        /// The file.
        segment: SegmentId,
        /// Bytes that stay.
        len: u64,
    },
    /// Give these bytes of the file back, multiples of the block size: they read as zeros from then
    /// on, after a crash as zeros or as before. Need not be durable.
    Punch {
        /// The file. No read of these bytes is under way.
        segment: SegmentId,
        /// Which bytes.
        ranges: Vec<std::ops::Range<u64>>,
    },
    /// Note in the superblock that this shard has begun: from now on it must have segments.
    Begin,
    /// Write a side file of a segment. Need not be durable: it is checked when it is read.
    WriteSide {
        /// Whose.
        segment: SegmentId,
        /// Which.
        side: Side,
        /// Its content.
        bytes: Bytes,
    },
    /// Read a whole side file; its content comes back as the completion's `side`.
    ReadSide {
        /// Whose.
        segment: SegmentId,
        /// Which.
        side: Side,
    },
}

/// A file beside a segment. Never evidence about the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Where each log's sections stand. Can be rebuilt by reading the segment.
    Index,
    /// What stood behind the place where recovery ended the segment, kept for people.
    Tail,
}

/// An operation is over.
#[derive(Debug)]
pub struct Completion {
    /// Which.
    pub id: OpId,
    /// Bytes transferred, or 0 where that means nothing.
    pub result: Result<u32, IoError>,
    /// The buffer of a `Write` or `Read`.
    pub buf: Option<Buf>,
    /// The content that `ReadSide` found.
    pub side: Option<Bytes>,
}

/// The world said no. Cheap to clone, since one failure is told to everyone who waits.
#[derive(Clone, Debug)]
pub struct IoError(Arc<std::io::Error>);

impl IoError {
    /// Whether there was no room.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self.0.kind(), StorageFull | QuotaExceeded)
    }

    /// Whether the file system does not do such a thing.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        self.0.kind() == std::io::ErrorKind::Unsupported
    }

    /// Whether the file is not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.0.kind() == std::io::ErrorKind::NotFound
    }
}

impl From<std::io::Error> for IoError {
    fn from(error: std::io::Error) -> Self {
        Self(Arc::new(error))
    }
}

impl std::fmt::Display for IoError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for IoError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

/// What time it is. The host reads the clocks; a shard never does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Microseconds since 1970. May jump.
    pub wall_us: u64,
    /// Microseconds since some instant. Never goes back.
    pub mono_us: u64,
}

/// A file found in a shard's directory when it is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A segment and its size in bytes.
    Segment(SegmentId, u64),
    /// A spare and its size in bytes.
    Spare(SpareId, u64),
}
