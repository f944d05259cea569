//! Every limit of the engine, and the relations between them, proven at compile time.
//!
//! Names end in `_MAX`, `_MIN`, `_SIZE` or `_DEFAULT`; sizes are bytes unless the name says
//! otherwise. A limit that an application can meet is also in an error text.
//!
//! Not here: what is set when an engine is opened (`Options`).

/// One kibibyte.
pub const KIB: u32 = 1 << 10;
/// One mebibyte.
pub const MIB: u32 = 1 << 20;

/// The unit of direct I/O. Entries begin and end on it; an acknowledged block is never written
/// again.
pub const BLOCK_SIZE: u32 = 4 * KIB;

/// The smallest segment an engine can be made with.
pub const SEGMENT_SIZE_MIN: u64 = MIB as u64;
/// The segment size when nothing is said.
pub const SEGMENT_SIZE_DEFAULT: u64 = 64 * MIB as u64;
/// The largest segment: positions inside a segment are 32 bits, and opening reads one segment.
pub const SEGMENT_SIZE_MAX: u64 = 1024 * MIB as u64;

/// The largest entry of any segment size (see [`entry_size_max`]).
pub const ENTRY_SIZE_MAX: u32 = MIB;
/// Entry `n` is only written once entry `n - ENTRIES_IN_FLIGHT_MAX` is durable. Recovery looks this
/// far past a hole, so the number stands in every segment header.
pub const ENTRIES_IN_FLIGHT_MAX: u32 = 8;
/// Entries below [`ENTRY_SIZE_SMALL`] use at most this many of the slots: more of them would only
/// split one group commit into several.
pub const SMALL_ENTRIES_IN_FLIGHT_MAX: u32 = 2;
/// An entry of this size is worth a slot of its own.
pub const ENTRY_SIZE_SMALL: u32 = 64 * KIB;

/// Where entries are at least this large on average, new segments are only allocated, not filled
/// with zeros: writing everything twice would cost more than what the file system does to mark
/// blocks as written (docs/perf.md).
pub const ENTRY_SIZE_STREAM: u32 = 256 * KIB;

/// Sections in one entry: one for each log that has records in it, and one for control records.
pub const SECTIONS_MAX: u32 = 4096;

/// What an entry needs beside the payload of a record that is alone in it, rounded up.
pub const ENTRY_OVERHEAD_MAX: u32 = 4 * KIB;

/// The largest entry of a segment of `segment_size` bytes: an eighth, at most [`ENTRY_SIZE_MAX`].
#[must_use]
pub const fn entry_size_max(segment_size: u64) -> u32 {
    let eighth = segment_size / 8;
    if eighth < ENTRY_SIZE_MAX as u64 { eighth as u32 } else { ENTRY_SIZE_MAX }
}

/// The largest record payload where entries are at most `entry_size_max` bytes.
#[must_use]
pub const fn record_size_max(entry_size_max: u32) -> u32 {
    entry_size_max - ENTRY_OVERHEAD_MAX
}

/// The largest share of a segment that its manifest may take: a quarter. Three quarters of that are
/// for logs, processors and writers: 100,000 logs fit a segment of the default size.
#[must_use]
pub const fn manifest_size_max(segment_size: u64) -> u64 {
    segment_size / 4
}

/// Bytes of a log's or reader's name.
pub const NAME_SIZE_MAX: usize = 255;

/// Bytes of a log's metadata: they stand in every manifest.
pub const METADATA_SIZE_MAX: usize = 4 * KIB as usize;

/// Processors that a log's retention can wait for by name.
pub const RETENTION_READERS_MAX: usize = 16;

/// Batches that the engine remembers of each idempotent writer: a number before these is refused,
/// so a writer has at most so many unanswered.
pub const WRITER_WINDOW: usize = 16;

/// Bytes of an idempotent writer's name.
pub const WRITER_NAME_SIZE_MAX: usize = 64;

/// Shards of one engine.
pub const SHARDS_MAX: u16 = 256;

/// Sources of one processor.
pub const SOURCES_MAX: usize = 256;

/// Bytes of requests that may wait for one shard before an append waits (or is told `Busy`).
pub const INBOX_SIZE_DEFAULT: u64 = 16 * MIB as u64;

/// Bytes of recent entries that a shard keeps for readers at the tail.
pub const TAIL_CACHE_SIZE_DEFAULT: u64 = 8 * MIB as u64;

/// Bytes of sealed segments' indexes that a shard keeps.
pub const INDEX_CACHE_SIZE: usize = 32 * MIB as usize;

/// Bytes of payload that one read answers with when nothing is said.
pub const READ_SIZE_DEFAULT: u32 = MIB;
/// The most that one read answers with.
pub const READ_SIZE_MAX: u32 = 16 * MIB;

/// Direct reads that a shard has under way at once.
pub const READS_IN_FLIGHT_MAX: u32 = 32;

/// As [`READS_IN_FLIGHT_MAX`], for reads that nobody waits for yet, while records are being
/// written: a durable write waits behind every read that the device has taken.
pub const READS_BESIDE_WRITES_MAX: u32 = 1;
/// One direct read is at most about this long; while records are being written, at most
/// [`READ_PIECE_BESIDE_WRITES`].
pub const READ_PIECE_SIZE: u64 = MIB as u64;
/// See [`READ_PIECE_SIZE`].
pub const READ_PIECE_BESIDE_WRITES: u64 = 128 * KIB as u64;
/// Microseconds after a write in which there may well be another.
pub const WRITING_US: u64 = 2_000;

/// Entries of the ring: every operation that can be under way at once, so it is never full.
pub const RING_SIZE: u32 = 128;

/// Bytes of each part of a snapshot that is larger than this: a part fits an entry of any segment
/// size.
pub const SNAPSHOT_PART_SIZE: u32 = 64 * KIB;

/// After this many deltas since the last snapshot a commit says that a snapshot is due.
pub const DELTAS_DUE: u32 = 1024;
/// After this many bytes of deltas (or four times the last snapshot) a snapshot is due.
pub const DELTA_BYTES_DUE: u64 = 4 * MIB as u64;

/// Where a sealed segment stays because of a few records, the dead whole blocks in it are given
/// back once they are one of so many parts of a segment, and again with each further such part.
pub const PUNCH_SHARE: u64 = 4;

/// Stretches of fewer dead bytes are left: each hole costs the file system an entry in its map.
pub const PUNCH_SIZE_MIN: u64 = 16 * KIB as u64;

/// Microseconds between two looks at what retention lets go, at least, unless a segment was sealed
/// or options changed.
pub const RETENTION_EVERY_US: u64 = 60_000_000;
/// Ages count once the wall clock and the monotonic one agreed for so many microseconds: after
/// opening, and after a step of more than [`CLOCK_STEP_MAX_US`].
pub const CLOCK_AGREES_US: u64 = 600_000_000;
/// Microseconds by which the wall clock may leave the monotonic one in that time.
pub const CLOCK_STEP_MAX_US: u64 = 3_000_000;

/// Microseconds without work after which a shard writes an empty entry whose watermark covers all.
pub const IDLE_WATERMARK_US: u64 = 20_000;
/// Microseconds between attempts to make a segment while the disk is full.
pub const NO_SPACE_RETRY_US: u64 = 1_000_000;

const _: () = {
    assert!(BLOCK_SIZE.is_power_of_two());
    assert!(SEGMENT_SIZE_MIN.is_multiple_of(BLOCK_SIZE as u64));
    assert!(SEGMENT_SIZE_MAX <= u32::MAX as u64);
    assert!(entry_size_max(SEGMENT_SIZE_MIN).is_multiple_of(BLOCK_SIZE));
    assert!(entry_size_max(SEGMENT_SIZE_MAX) == ENTRY_SIZE_MAX);
    // A whole window of entries in flight fits into the smallest segment: look-ahead is bounded.
    assert!(
        ENTRIES_IN_FLIGHT_MAX as u64 * entry_size_max(SEGMENT_SIZE_MIN) as u64 <= SEGMENT_SIZE_MIN
    );
    assert!(2 * SNAPSHOT_PART_SIZE <= entry_size_max(SEGMENT_SIZE_MIN));
    assert!(SMALL_ENTRIES_IN_FLIGHT_MAX <= ENTRIES_IN_FLIGHT_MAX);
    // One write for each entry, one sync, the wake-up and every read: submitting never waits.
    assert!(ENTRIES_IN_FLIGHT_MAX + 2 + READS_IN_FLIGHT_MAX < RING_SIZE);
};
