//! Where records stand: the segment, by its index, and the sequence at a position.
//!
//! ```text
//! sequence -> halve the live segments: the last in which the log began at or before it
//! Dlsn     -> its segment's index -> the section of that entry, or the first after it
//! ```
//!
//! Not here: loading an index (`load`), which the caller does and then asks again.

use crate::error::Damaged;
use crate::position::{Dlsn, LogId, SegmentId, Sequence};
use crate::reads::Search;
use crate::shard::Shard;

/// Where the records asked for stand.
pub(crate) enum Where {
    /// In the segment with this number, whose index is here.
    Segment(SegmentId),
    /// The index of this segment has to be loaded first.
    Load(SegmentId),
    /// Nowhere, although they should be, in this segment.
    Missing(SegmentId),
}

impl Shard {
    /// The segment that holds a durable record of a log. What was found out on the way stays with
    /// the read, so each index that it waits for is progress, however few of them fit into memory.
    pub(crate) fn find(&mut self, id: u64, log: LogId, sequence: Sequence) -> Where {
        if self.index.log(log).is_some_and(|span| span.start <= sequence) {
            return self.newest().map_or_else(|| self.nowhere(), Where::Segment);
        }
        let job = self.reads.jobs.get_mut(&id).expect("it is being advanced");
        if job.search.sequence != sequence {
            job.search = Search { sequence, ..Search::default() };
        }
        let search = &mut job.search;
        loop {
            let live = self.catalog.segments().filter(|s| !s.freed).map(|s| s.segment);
            let between: Vec<_> = live
                .filter(|s| search.from.is_none_or(|from| from < *s))
                .filter(|s| search.before.is_none_or(|before| *s < before))
                .collect();
            let Some(&middle) = between.get(between.len() / 2) else {
                return search.from.map_or_else(|| self.nowhere(), Where::Segment);
            };
            let Some(index) = self.cache.get(middle) else { return Where::Load(middle) };
            // A log that is not known there was created later.
            if index.log(log).is_none_or(|span| span.start <= sequence) {
                search.from = Some(middle);
            } else {
                search.before = Some(middle);
            }
        }
    }

    /// The segment whose index is `self.index`: the active one, or the one that recovery ended
    /// until a fresh one follows it. None during a roll: then the old one is sealed already.
    pub(crate) fn newest(&self) -> Option<SegmentId> {
        if self.roll.is_some() {
            return None;
        }
        let active = self.journal.active().map(|active| active.segment);
        active.or(self.ended.as_ref().map(|ended| ended.segment))
    }

    /// Whether the segment stood before the oldest one that is still needed.
    pub(crate) fn is_gone(&self, segment: SegmentId) -> bool {
        let oldest = self.catalog.segments().find(|s| !s.freed).map(|s| s.segment);
        oldest.or(self.newest()).is_some_and(|oldest| segment < oldest)
    }

    /// The sequence at a position, or of the first record after it; `None` if there is none yet.
    pub(crate) fn locate(&mut self, log: LogId, dlsn: Dlsn) -> Result<Option<Sequence>, Where> {
        let newest = self.newest();
        let sealed = self.catalog.segments().filter(|s| !s.freed);
        let segment = sealed.map(|s| s.segment).find(|segment| *segment >= dlsn.segment());
        let mut holes = false;
        let (span, segment) = match segment {
            Some(segment) => {
                let Some(index) = self.cache.get(segment) else {
                    return Err(Where::Load(segment));
                };
                holes = index.has_holes();
                if holes && index.log(log).is_none() {
                    return Err(Where::Missing(segment));
                }
                (index.log(log), segment)
            }
            None => match newest.filter(|newest| *newest >= dlsn.segment()) {
                Some(newest) => (self.index.log(log), newest),
                None => return Ok(None),
            },
        };
        let Some(span) = span else { return Ok(Some(Sequence::FIRST)) };
        if segment > dlsn.segment() {
            // With holes it is only where the first section begins that was found.
            return if holes { Err(Where::Missing(segment)) } else { Ok(Some(span.start)) };
        }
        let index = span.sections.partition_point(|section| section.entry < dlsn.entry());
        Ok(match span.sections.get(index) {
            Some(section) if section.entry == dlsn.entry() => {
                Some(section.first.after(dlsn.slot().min(section.count).into()))
            }
            Some(section) => {
                let before = index.checked_sub(1).map(|before| span.sections[before].end());
                if holes && before != Some(section.first) {
                    // What is missing between them is not skipped silently.
                    return Err(Where::Missing(segment));
                }
                Some(section.first)
            }
            None if Some(segment) == newest => None,
            // The section that is asked for may be the one that is missing.
            None if holes => return Err(Where::Missing(segment)),
            None => Some(span.end()),
        })
    }

    /// Records that no segment's index knows should be in the oldest one, or in the newest.
    pub(crate) fn nowhere(&self) -> Where {
        let oldest = self.catalog.segments().find(|s| !s.freed).map(|s| s.segment);
        Where::Missing(oldest.or(self.newest()).unwrap_or(SegmentId(0)))
    }

    pub(crate) fn missing(&self, log: LogId, sequence: Sequence, segment: SegmentId) -> Damaged {
        Damaged {
            shard: self.config.shard,
            segment,
            offset: 0,
            what: "acknowledged records are not where they should be",
            at_risk: format!("records of log {log} from sequence {sequence}"),
        }
    }
}
