//! The bytes on disk. `docs/format.md` is the specification; its rule numbers stand here as (F-n).
//!
//! ```text
//! engine.meta     superblock, twice
//! segment file    header block | entry | entry | ...
//! entry           header | section table | sections | zeros up to the block
//! section         the records of one log, or control records
//! ```
//!
//! Little endian. Only this module sees the raw structs; it hands out checked values, so "parsed"
//! means "valid".
//!
//! Not here: what is done about bytes that are not valid (`recover`), and any I/O.

pub mod codec;
pub mod control;
pub mod entry;
pub mod header;
pub mod options;
pub mod record;

use crc_fast::{CrcAlgorithm, Digest};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{Immutable, IntoBytes};

use codec::Codec;

use crate::position::{LogId, SegmentId, Sequence, ShardId};

/// The newest format version that this program reads, and the one that it writes (F-2).
pub const VERSION: u32 = 2;

/// The oldest one that it reads.
pub const VERSION_MIN: u32 = 1;

/// Identity of an engine: random, in every checksum.
pub type EngineId = [u8; 16];

/// CRC-64/NVME of everything given (F-1).
pub(crate) fn checksum(parts: &[&[u8]]) -> u64 {
    let mut digest = Digest::new(CrcAlgorithm::Crc64Nvme);
    for part in parts {
        digest.update(part);
    }
    digest.finalize()
}

/// Where an entry stands. What is not in the right place never parses (F-5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Whose file.
    pub engine: EngineId,
    /// Whose journal.
    pub shard: ShardId,
    /// Which segment.
    pub segment: SegmentId,
    /// Number of the entry in the segment.
    pub entry: u32,
    /// Offset in the file, in bytes.
    pub offset: u32,
}

/// What a section's checksum covers before the section's bytes (F-9).
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct SectionIdentity {
    engine: EngineId,
    segment: U64,
    log: U64,
    first_sequence: U64,
    entry: U32,
    shard: U16,
    kind: U16,
}

const _: () = assert!(size_of::<SectionIdentity>() == 48);

/// Checksum of a section's bytes with the identity of the section.
pub(crate) fn section_checksum(
    place: &Place,
    log: LogId,
    kind: u8,
    codec: Codec,
    first_sequence: Sequence,
    bytes: &[u8],
) -> u64 {
    let identity = SectionIdentity {
        engine: place.engine,
        segment: U64::new(place.segment.0),
        log: U64::new(log.0),
        first_sequence: U64::new(first_sequence.0),
        entry: U32::new(place.entry),
        shard: U16::new(place.shard.0),
        kind: U16::new(u16::from(kind) | u16::from(codec.number()) << 8),
    };
    checksum(&[identity.as_bytes(), bytes])
}
