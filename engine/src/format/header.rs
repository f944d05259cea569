//! The superblock and the segment header: who a file belongs to.
//!
//! Not here: reading and writing the files, and choosing between two copies of the superblock.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{EngineId, Place, VERSION, VERSION_MIN, checksum};
use crate::limits::{
    BLOCK_SIZE, ENTRIES_IN_FLIGHT_MAX, SEGMENT_SIZE_MAX, SEGMENT_SIZE_MIN, SHARDS_MAX,
};
use crate::position::{SegmentId, ShardId};

const SUPERBLOCK_MAGIC: [u8; 8] = *b"oncelogE";
const SEGMENT_MAGIC: [u8; 8] = *b"oncelogS";

/// Why a header is not valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderError {
    /// It is no header: other magic, wrong checksum, impossible values.
    Invalid,
    /// It is one of a newer version (F-2).
    Newer(u32),
}

/// One copy of `engine.meta`, at offset 0 and again at the block size (F-3).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawSuperblock {
    checksum: U64,
    magic: [u8; 8],
    engine: EngineId,
    version: U32,
    block_size: U32,
    segment_size: U64,
    generation: U64,
    created_us: U64,
    shard_count: U16,
    reserved: [u8; 30],
    begun: [u8; 32],
}

const _: () = {
    assert!(size_of::<RawSuperblock>() == 128);
    assert!(std::mem::offset_of!(RawSuperblock, version) == 32);
    assert!(std::mem::offset_of!(RawSuperblock, begun) == 96);
    assert!(SHARDS_MAX as usize == 32 * 8);
};

/// What an engine is, fixed when it is made, and which of its shards have begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Format version of the engine's newest segments (F-2).
    pub version: u32,
    /// Identity of the engine.
    pub engine: EngineId,
    /// How many shards it has.
    pub shard_count: u16,
    /// Size of each segment in bytes.
    pub segment_size: u64,
    /// Grows with every change; the valid copy with the larger one counts.
    pub generation: u64,
    /// When the engine was made, microseconds since 1970.
    pub created_us: u64,
    /// One bit for each shard: it must have segments.
    pub begun: [u8; 32],
}

impl Superblock {
    /// Bytes of `engine.meta`: two copies, a block each.
    pub const FILE_SIZE: usize = 2 * BLOCK_SIZE as usize;

    /// Whether the shard must have segments.
    #[must_use]
    pub fn has_begun(&self, shard: ShardId) -> bool {
        self.begun[usize::from(shard.0 / 8)] & (1 << (shard.0 % 8)) != 0
    }

    /// From now on the shard must have segments.
    pub fn set_begun(&mut self, shard: ShardId) {
        self.begun[usize::from(shard.0 / 8)] |= 1 << (shard.0 % 8);
    }

    /// From now on the shard holds nothing.
    pub fn clear_begun(&mut self, shard: ShardId) {
        self.begun[usize::from(shard.0 / 8)] &= !(1 << (shard.0 % 8));
    }

    /// One block.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut raw = RawSuperblock {
            checksum: U64::ZERO,
            magic: SUPERBLOCK_MAGIC,
            engine: self.engine,
            version: U32::new(self.version),
            block_size: U32::new(BLOCK_SIZE),
            segment_size: U64::new(self.segment_size),
            generation: U64::new(self.generation),
            created_us: U64::new(self.created_us),
            shard_count: U16::new(self.shard_count),
            reserved: [0; 30],
            begun: self.begun,
        };
        raw.checksum = U64::new(checksum(&[&raw.as_bytes()[8..]]));
        let mut block = raw.as_bytes().to_vec();
        block.resize(BLOCK_SIZE as usize, 0);
        block
    }

    /// The copy at the beginning of `block`.
    ///
    /// # Errors
    /// [`HeaderError`]
    pub fn decode(block: &[u8]) -> Result<Self, HeaderError> {
        let (raw, _) = RawSuperblock::ref_from_prefix(block).map_err(|_| HeaderError::Invalid)?;
        let sum = checksum(&[&raw.as_bytes()[8..]]);
        if raw.magic != SUPERBLOCK_MAGIC || raw.checksum.get() != sum {
            return Err(HeaderError::Invalid);
        }
        if raw.version.get() > VERSION {
            return Err(HeaderError::Newer(raw.version.get()));
        }
        let known = raw.version.get() >= VERSION_MIN && raw.block_size.get() == BLOCK_SIZE;
        let sizes = (1..=SHARDS_MAX).contains(&raw.shard_count.get())
            && (SEGMENT_SIZE_MIN..=SEGMENT_SIZE_MAX).contains(&raw.segment_size.get())
            && raw.segment_size.get().is_multiple_of(BLOCK_SIZE.into());
        if !known || !sizes || raw.reserved != [0; 30] {
            return Err(HeaderError::Invalid);
        }
        Ok(Self {
            version: raw.version.get(),
            engine: raw.engine,
            shard_count: raw.shard_count.get(),
            segment_size: raw.segment_size.get(),
            generation: raw.generation.get(),
            created_us: raw.created_us.get(),
            begun: raw.begun,
        })
    }
}

/// The first bytes of a segment file (F-4).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawSegmentHeader {
    checksum: U64,
    magic: [u8; 8],
    engine: EngineId,
    segment: U64,
    version: U32,
    block_size: U32,
    segment_size: U64,
    entry_size_max: U32,
    entries_in_flight_max: U32,
    previous: U64,
    previous_end: U64,
    previous_digest: U64,
    created_us: U64,
    shard: U16,
    reserved: [u8; 30],
}

const _: () = {
    assert!(size_of::<RawSegmentHeader>() == 128);
    assert!(std::mem::offset_of!(RawSegmentHeader, version) == 40);
    assert!(std::mem::offset_of!(RawSegmentHeader, previous) == 64);
    assert!(std::mem::offset_of!(RawSegmentHeader, shard) == 96);
};

/// Who a segment is, and where the one before it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Format version of the segment (F-2).
    pub version: u32,
    /// Identity of the engine.
    pub engine: EngineId,
    /// Whose journal.
    pub shard: ShardId,
    /// Its number.
    pub segment: SegmentId,
    /// Its size in bytes.
    pub segment_size: u64,
    /// The largest entry, in bytes: with the next field, how far recovery looks past a hole.
    pub entry_size_max: u32,
    /// How many entries can be in flight at once.
    pub entries_in_flight_max: u32,
    /// The segment before this one, 0 for none.
    pub previous: SegmentId,
    /// Where its entries end.
    pub previous_end: u64,
    /// Digest of its last entry.
    pub previous_digest: u64,
    /// When this one was begun, microseconds since 1970.
    pub created_us: u64,
}

impl SegmentHeader {
    /// Whether it was written for this engine, shard and segment.
    #[must_use]
    pub fn is_of(&self, place: &Place) -> bool {
        (self.engine, self.shard, self.segment) == (place.engine, place.shard, place.segment)
    }

    /// One block, and the digest that the first entry continues.
    #[must_use]
    pub fn encode(&self) -> (Vec<u8>, u64) {
        assert!(self.entries_in_flight_max <= ENTRIES_IN_FLIGHT_MAX);
        let mut raw = RawSegmentHeader {
            checksum: U64::ZERO,
            magic: SEGMENT_MAGIC,
            engine: self.engine,
            segment: U64::new(self.segment.0),
            version: U32::new(self.version),
            block_size: U32::new(BLOCK_SIZE),
            segment_size: U64::new(self.segment_size),
            entry_size_max: U32::new(self.entry_size_max),
            entries_in_flight_max: U32::new(self.entries_in_flight_max),
            previous: U64::new(self.previous.0),
            previous_end: U64::new(self.previous_end),
            previous_digest: U64::new(self.previous_digest),
            created_us: U64::new(self.created_us),
            shard: U16::new(self.shard.0),
            reserved: [0; 30],
        };
        let digest = checksum(&[&raw.as_bytes()[8..]]);
        raw.checksum = U64::new(digest);
        let mut block = raw.as_bytes().to_vec();
        block.resize(BLOCK_SIZE as usize, 0);
        (block, digest)
    }

    /// The header at the beginning of `block`, and the digest that the first entry continues.
    ///
    /// # Errors
    /// [`HeaderError`]
    pub fn decode(block: &[u8]) -> Result<(Self, u64), HeaderError> {
        let (raw, _) =
            RawSegmentHeader::ref_from_prefix(block).map_err(|_| HeaderError::Invalid)?;
        let digest = checksum(&[&raw.as_bytes()[8..]]);
        if raw.magic != SEGMENT_MAGIC || raw.checksum.get() != digest {
            return Err(HeaderError::Invalid);
        }
        if raw.version.get() > VERSION {
            return Err(HeaderError::Newer(raw.version.get()));
        }
        let known = raw.version.get() >= VERSION_MIN && raw.block_size.get() == BLOCK_SIZE;
        let sizes = raw.entry_size_max.get() >= BLOCK_SIZE
            && u64::from(raw.entry_size_max.get()) <= raw.segment_size.get()
            && (1..=ENTRIES_IN_FLIGHT_MAX).contains(&raw.entries_in_flight_max.get());
        if !known || !sizes || raw.reserved != [0; 30] {
            return Err(HeaderError::Invalid);
        }
        let header = Self {
            version: raw.version.get(),
            engine: raw.engine,
            shard: ShardId(raw.shard.get()),
            segment: SegmentId(raw.segment.get()),
            segment_size: raw.segment_size.get(),
            entry_size_max: raw.entry_size_max.get(),
            entries_in_flight_max: raw.entries_in_flight_max.get(),
            previous: SegmentId(raw.previous.get()),
            previous_end: raw.previous_end.get(),
            previous_digest: raw.previous_digest.get(),
            created_us: raw.created_us.get(),
        };
        Ok((header, digest))
    }
}
