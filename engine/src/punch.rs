//! Giving dead blocks back out of the middle of segments that stay.
//!
//! ```text
//! looked into: a quarter of it dead whole blocks? -> SegmentPunched -> durable, no read under way
//!                                                    -> holes punched in the background
//! ```
//!
//! - Headers, section tables and control sections always stay: only the records of dead sections go
//!   (F-12), so the segment is read and checked as before, and live sections are not touched.
//! - From the record on a dead section may read as anything. After a crash before the holes were
//!   made, they are made when the segment is looked into again.
//! - The newest sealed segment is left whole: if the one behind it were lost, the journal would
//!   have to be read from there.
//!
//! Not here: which records are dead (`retention`), and making holes (`files`).

use std::collections::BTreeSet;
use std::ops::Range;

use crate::format::control::Control;
use crate::index::SegmentIndex;
use crate::io::{IoError, OpKind};
use crate::limits::{BLOCK_SIZE, PUNCH_SHARE, PUNCH_SIZE_MIN};
use crate::position::SegmentId;
use crate::serve::Admit;
use crate::shard::{Deferred, Purpose, Shard};

/// Holes on their way.
#[derive(Default)]
pub(crate) struct Punches {
    /// Their records are durable; reads have to end first.
    ready: Vec<Holes>,
    /// Segments with holes that are staged or being made.
    under_way: BTreeSet<SegmentId>,
    /// The file system makes no holes.
    refused: bool,
}

/// Bytes of a segment that nobody needs.
#[derive(Debug)]
pub(crate) struct Holes {
    pub(crate) segment: SegmentId,
    pub(crate) ranges: Vec<Range<u64>>,
}

impl Holes {
    fn bytes(&self) -> u64 {
        self.ranges.iter().map(|range| range.end - range.start).sum()
    }
}

impl Punches {
    /// Whether holes are being made in a segment, or about to be.
    pub(crate) fn uses(&self, segment: SegmentId) -> bool {
        self.under_way.contains(&segment)
    }
}

impl Shard {
    /// A segment stays: gives back what is dead in it, if that is worth it.
    pub(crate) fn punch_if_it_pays(&mut self, segment: SegmentId, index: &SegmentIndex) {
        if self.punches.refused {
            return;
        }
        let holes = Holes { segment, ranges: self.dead_blocks(index) };
        let more = holes.bytes().saturating_sub(self.pins.punched(segment));
        if more < self.config.segment_size / PUNCH_SHARE {
            return;
        }
        let row = self.catalog.segment(segment).expect("only known segments are looked into");
        let is_newest = self.catalog.segments().last().is_some_and(|s| s.segment == segment);
        // While the journal goes over to another one, the one before is what opening may read.
        if is_newest || self.roll.is_some() || self.punches.uses(segment) {
            return self.pins.look_later(segment);
        }
        if !row.shortened {
            let control = Control::SegmentPunched { segment };
            if !matches!(self.admit_control(&control), Admit::Yes) {
                return self.pins.look_later(segment);
            }
            self.stage(&control);
        }
        self.punches.under_way.insert(segment);
        self.defer(Deferred::Punch(holes));
    }

    /// The whole blocks in which only dead records stand.
    pub(crate) fn dead_blocks(&self, index: &SegmentIndex) -> Vec<Range<u64>> {
        let mut dead: Vec<Range<u64>> = Vec::new();
        for (log, span) in index.spans() {
            let first = self.catalog.log(log).map(|state| state.first);
            let sections = span.sections.iter();
            let gone = sections.filter(|s| first.is_none_or(|first| s.end() <= first));
            dead.extend(gone.map(crate::index::SectionRef::range));
        }
        dead.sort_unstable_by_key(|range| range.start);
        let mut joined: Vec<Range<u64>> = Vec::new();
        for range in dead {
            match joined.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => joined.push(range),
            }
        }
        let block = u64::from(BLOCK_SIZE);
        let whole =
            |range: Range<u64>| range.start.next_multiple_of(block)..range.end - range.end % block;
        let worth = |range: &Range<u64>| range.end >= range.start + PUNCH_SIZE_MIN;
        joined.into_iter().map(whole).filter(worth).collect()
    }

    /// The record is durable, and so is everything that made the bytes dead.
    pub(crate) fn punch_ready(&mut self, holes: Holes) {
        self.punches.ready.push(holes);
        self.poll_punches();
    }

    /// Makes the holes in segments that no read uses: one that was asked for before may need what
    /// is dead now.
    pub(crate) fn poll_punches(&mut self) {
        for holes in std::mem::take(&mut self.punches.ready) {
            let segment = holes.segment;
            if self.reads.uses(segment) {
                self.punches.ready.push(holes);
                continue;
            }
            let bytes = holes.bytes();
            let kind = OpKind::Punch { segment, ranges: holes.ranges };
            self.queue.push_back((Purpose::Punch(segment, bytes), kind));
        }
    }

    /// The holes were made, or not: then the segment only takes more space than it needs.
    pub(crate) fn punched(&mut self, segment: SegmentId, bytes: u64, result: Result<u32, IoError>) {
        self.punches.under_way.remove(&segment);
        self.pins.set_punched(segment, bytes);
        self.retention_due = true;
        let Err(error) = result else { return };
        let shard = self.config.shard.get();
        if error.is_unsupported() {
            if !std::mem::replace(&mut self.punches.refused, true) {
                tracing::warn!(shard, %error, "the file system makes no holes in files: dead \
                    records take space until their whole segment goes");
            }
        } else {
            tracing::warn!(shard, segment = segment.get(), %error, "making holes failed");
        }
    }
}
