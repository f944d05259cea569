//! Where the disk's space is: segments, what keeps them, and what each log takes.
//!
//! Not here: finding it out (`usage`).

use std::fmt;

use crate::position::{LogId, SegmentId, Sequence, ShardId};

/// What the segments of an engine are kept for. Its text is a small table, worst first.
#[derive(Clone, Debug, Default)]
pub struct Space {
    /// One for each shard.
    pub shards: Vec<ShardSpace>,
}

/// What the segments of a shard are kept for.
#[derive(Clone, Debug, Default)]
pub struct ShardSpace {
    /// Which.
    pub shard: ShardId,
    /// Its segments, those with the most dead bytes first.
    pub segments: Vec<SegmentSpace>,
    /// Its logs, those that keep the most dead bytes first.
    pub logs: Vec<LogSpace>,
    /// Spares that wait to become segments.
    pub spares: u64,
    /// Bytes of them.
    pub spare_bytes: u64,
}

/// One segment.
#[derive(Clone, Debug, Default)]
pub struct SegmentSpace {
    /// Its number.
    pub segment: SegmentId,
    /// Whether it is written no more.
    pub sealed: bool,
    /// Bytes of its file, without what was given back from its middle.
    pub disk_bytes: u64,
    /// Bytes that this process gave back from its middle.
    pub given_back: u64,
    /// Bytes of live records, as they are stored.
    pub live_bytes: u64,
    /// Commit time of its newest record, microseconds since 1970; 0 without records.
    pub last_us: u64,
    /// Logs with live records in it, the largest there first, at most [`SegmentSpace::LOGS_MAX`].
    pub logs: Vec<LogRange>,
    /// How many there are.
    pub log_count: usize,
    /// Processors whose state may reach into it.
    pub processors: Vec<String>,
}

impl SegmentSpace {
    /// So many logs are listed for each segment.
    pub const LOGS_MAX: usize = 16;

    /// Bytes on the disk that are no live records: what would be had if nothing kept the segment.
    #[must_use]
    pub fn dead_bytes(&self) -> u64 {
        if self.sealed { self.disk_bytes.saturating_sub(self.live_bytes) } else { 0 }
    }
}

/// Records of a log in one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRange {
    /// The log.
    pub log: LogId,
    /// Its name.
    pub name: String,
    /// The first live record there.
    pub first: Sequence,
    /// Behind the last one there.
    pub next: Sequence,
    /// Bytes of their sections, as they are stored.
    pub bytes: u64,
}

/// What a log takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogSpace {
    /// Its name.
    pub name: String,
    /// Bytes of live records, as they are stored.
    pub live_bytes: u64,
    /// Sealed segments that it keeps.
    pub segments: u64,
    /// Dead bytes in those segments, of whatever log: they stay because of it, though perhaps not
    /// because of it alone.
    pub keeps_bytes: u64,
}

/// A part of a log: its live records in one segment, to be read apart from the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSegment {
    /// The segment.
    pub segment: SegmentId,
    /// Whether nothing is added to it any more.
    pub sealed: bool,
    /// The first live record there.
    pub first: Sequence,
    /// Behind the last one there.
    pub next: Sequence,
    /// Bytes of their sections, as they are stored.
    pub bytes: u64,
    /// Commit time of the first, microseconds since 1970.
    pub first_us: u64,
    /// Commit time of the last, microseconds since 1970.
    pub last_us: u64,
}

impl ShardSpace {
    /// Bytes on the disk: segments and spares, without the small files beside them.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.disk_bytes).sum::<u64>() + self.spare_bytes
    }

    /// Bytes of live records, as they are stored.
    #[must_use]
    pub fn live_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.live_bytes).sum()
    }
}

/// Rows of each table that the text shows.
const ROWS: usize = 10;

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shards.iter().try_for_each(|shard| shard.fmt(f))
    }
}

impl fmt::Display for ShardSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "shard {}: {} on disk, {} live, {} segments, {} spares",
            self.shard,
            Bytes(self.disk_bytes()),
            Bytes(self.live_bytes()),
            self.segments.len(),
            self.spares
        )?;
        writeln!(f, "  {:>10} {:>10} {:>9}  log", "keeps dead", "live", "segments")?;
        for log in self.logs.iter().take(ROWS) {
            let (keeps, live) = (Bytes(log.keeps_bytes), Bytes(log.live_bytes));
            writeln!(f, "  {keeps:>10} {live:>10} {:>9}  {}", log.segments, log.name)?;
        }
        let head = ("segment", "disk", "given back", "live");
        writeln!(f, "  {:>7} {:>10} {:>10} {:>10}  kept by", head.0, head.1, head.2, head.3)?;
        for segment in self.segments.iter().take(ROWS) {
            let (disk, back) = (Bytes(segment.disk_bytes), Bytes(segment.given_back));
            let live = Bytes(segment.live_bytes);
            write!(f, "  {:>7} {disk:>10} {back:>10} {live:>10} ", segment.segment.get())?;
            for log in segment.logs.iter().take(3) {
                write!(f, " {} {}..{}", log.name, log.first, log.next)?;
            }
            if segment.log_count > 3 {
                write!(f, " and {} more", segment.log_count - 3)?;
            }
            for processor in segment.processors.iter().take(3) {
                write!(f, " (state of {processor})")?;
            }
            writeln!(f, "{}", if segment.sealed { "" } else { " (being written)" })?;
        }
        let more = self.segments.len().saturating_sub(ROWS);
        if more > 0 {
            writeln!(f, "  and {more} more segments")?;
        }
        Ok(())
    }
}

/// Bytes, for people.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut rest, mut unit) = (self.0, "B");
        for larger in ["KiB", "MiB", "GiB", "TiB"] {
            if rest < 10_240 {
                break;
            }
            (rest, unit) = (rest / 1024, larger);
        }
        f.pad(&format!("{rest} {unit}"))
    }
}
