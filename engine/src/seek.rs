//! Where records stand: the segment, by its index, and the sequence at a position.
//!
//! ```text
//! sequence   -> halve the live segments: the last in which the log began at or before it
//! Dlsn       -> its segment's index -> the section of that entry, or the first after it
//! txid, time -> halve the live segments that have the log, by its first section in each
//!               -> the last section that begins before it: the first match is in it, or behind it
//! ```
//!
//! What is missing behind damage is not skipped: a transaction id or time leads to a sequence that
//! is known to stand before the first match, and from there sequences go on without a gap.
//!
//! Not here: loading an index (`load`), which the caller does and then asks again.

use crate::error::Damaged;
use crate::index::{LogSpan, SectionRef, SegmentIndex};
use crate::position::{Dlsn, LogId, SegmentId, Sequence};
use crate::reads::{Bracket, ReadJob, Search};
use crate::request::At;
use crate::shard::Shard;

/// Where the records asked for stand.
pub(crate) enum Where {
    /// In the segment with this number, whose index is here.
    Segment(SegmentId),
    /// The index of this segment has to be loaded first.
    Load(SegmentId),
    /// Nowhere, although they should be, in this segment.
    Missing(SegmentId),
    /// Truncated records may have stood there, in a segment that is gone.
    Gone,
}

/// Where the first record with a transaction id, or of a time, is to be looked for.
pub(crate) enum Sought {
    /// From this sequence on.
    At(Sequence),
    /// Records that are not durable yet decide.
    Undecided,
    /// The index of this segment has to be loaded first.
    Load(SegmentId),
    /// It may be among the records that are gone.
    Truncated,
}

/// Whether a section begins before a position.
fn begins_before(section: &SectionRef, at: At) -> bool {
    match at {
        At::TxId(txid) => section.first_txid < txid,
        At::Time(time_us) => section.time_us < time_us,
        _ => unreachable!("all other positions are found without it"),
    }
}

/// The last section of a log in a segment that begins before a position.
fn last_before(span: &LogSpan, at: At) -> Option<&SectionRef> {
    let before = span.sections.partition_point(|section| begins_before(section, at));
    before.checked_sub(1).map(|last| &span.sections[last])
}

impl Bracket {
    /// What the index of one more segment tells.
    fn narrow(&mut self, segment: SegmentId, index: &SegmentIndex, log: LogId, at: At) {
        let Some(span) = index.log(log) else {
            if index.has_holes() {
                // Damage hides whether it was there.
                self.empty.insert(segment);
                return;
            }
            // The log was created later.
            self.above = Some(segment);
            return;
        };
        let known_to = self.from.as_ref().map_or(Sequence::FIRST, |(_, _, end)| *end);
        if let Some(last) = last_before(span, at) {
            self.from = Some((segment, *last, span.end()));
            self.above = Some(segment);
        } else if !span.sections.is_empty() {
            self.before = Some((segment, span.start));
        } else if span.start <= known_to {
            self.above = Some(segment);
        } else if self.before.is_some_and(|(_, start)| start <= span.start) {
            self.before = Some((segment, span.start));
        } else {
            self.empty.insert(segment);
        }
    }
}

impl Shard {
    /// Where to look for the first record at a transaction id or time. What was found out on the
    /// way stays with the read, as with [`find`](Self::find).
    pub(crate) fn sought(&mut self, id: u64, log: LogId, at: At) -> Sought {
        let state = self.catalog.log(log).expect("the caller found it");
        let (first, next, durable) = (state.first, state.next, state.durable_next);
        let last_txid = state.last_txid;
        let settled = self.reads.jobs[&id].settled;
        if let Some(settled) = settled.filter(|settled| *settled >= first) {
            return Sought::At(settled);
        }
        let last = match self.last_before(id, log, at) {
            Ok(last) => last,
            Err(segment) => return Sought::Load(segment),
        };
        let undecided = |job: &mut ReadJob| {
            job.proven = false;
            Sought::Undecided
        };
        let job = self.reads.jobs.get_mut(&id).expect("it is being advanced");
        let (sequence, proven) = match (at, last) {
            // Some that are truncated are still on their way.
            (At::Time(_), _) if first > durable => return undecided(job),
            // All of a section is of one time.
            (At::Time(_), Some(last)) if last.end() < first => return Sought::Truncated,
            (At::Time(_), Some(last)) => (last.end(), true),
            (_, Some(last)) if last.first >= first => (last.first, true),
            (_, None) if first == Sequence::FIRST => (first, true),
            (At::Time(time_us), None) => match self.begins_later(id, first, time_us) {
                Ok(true) => (first, true),
                Ok(false) => return Sought::Truncated,
                Err(segment) => return Sought::Load(segment),
            },
            // Whether it is the first match depends on records that are gone. None of the log
            // matches if its last one does not.
            (At::TxId(txid), _) if first >= durable => match last_txid < txid {
                true => (first, true),
                false if next == durable => return Sought::Truncated,
                false => return undecided(job),
            },
            _ => (first, false),
        };
        self.reads.jobs.get_mut(&id).expect("it is being advanced").proven = proven;
        Sought::At(sequence)
    }

    /// Whether all truncated records were committed before a time, although no live segment has
    /// records of the log from then: they stood before the oldest segment, which began before it.
    /// Where some stood behind that, in a segment that was freed since, nobody can tell.
    fn begins_later(&mut self, id: u64, first: Sequence, at_us: u64) -> Result<bool, SegmentId> {
        let log = self.reads.jobs[&id].request.log;
        let bracket = &self.reads.jobs[&id].bracket;
        let newest = self.newest().and_then(|_| self.index.log(log)).map(|span| span.start);
        let known_from = bracket.before.map(|(_, start)| start).or(newest);
        if known_from.is_some_and(|start| start < first) {
            return Ok(false);
        }
        // A log that is not known there was created later.
        let begin = |index: &SegmentIndex| {
            let start = index.log(log).map_or(Sequence::FIRST, |span| span.start);
            (index.first_time_us(), start)
        };
        let oldest = self.catalog.segments().find(|s| !s.freed).map(|s| s.segment);
        let (began_us, start) = match (oldest, bracket.oldest) {
            (None, _) => begin(&self.index),
            (Some(oldest), Some((known, began))) if oldest == known => began,
            (Some(oldest), _) => {
                let began = begin(self.cache.get(oldest).ok_or(oldest)?);
                let job = self.reads.jobs.get_mut(&id).expect("it is being advanced");
                job.bracket.oldest = Some((oldest, began));
                began
            }
        };
        let all_before = known_from.unwrap_or(first) == start;
        Ok(all_before && began_us.is_some_and(|began_us| began_us < at_us))
    }

    /// The last section that begins before a transaction id or time.
    fn last_before(
        &mut self,
        id: u64,
        log: LogId,
        at: At,
    ) -> Result<Option<SectionRef>, SegmentId> {
        let newest = self.newest().and_then(|_| self.index.log(log));
        if let Some(last) = newest.and_then(|span| last_before(span, at)) {
            return Ok(Some(*last));
        }
        let newest_start = newest.map(|span| span.start);
        let job = self.reads.jobs.get_mut(&id).expect("it is being advanced");
        let bracket = &mut job.bracket;
        loop {
            let known_to = bracket.from.as_ref().map(|(_, _, end)| *end);
            let start = bracket.before.map(|(_, start)| start).or(newest_start);
            if start.is_some() && start == known_to.or(Some(Sequence::FIRST)) {
                // Nothing is between them.
                return Ok(bracket.from.map(|(_, last, _)| last));
            }
            let live = self.catalog.segments().filter(|s| !s.freed).map(|s| s.segment);
            let between: Vec<_> = live
                .filter(|s| bracket.above.is_none_or(|above| above < *s))
                .filter(|s| bracket.before.is_none_or(|(before, _)| *s < before))
                .filter(|s| !bracket.empty.contains(s))
                .collect();
            let Some(&middle) = between.get(between.len() / 2) else {
                return Ok(bracket.from.map(|(_, last, _)| last));
            };
            let index = self.cache.get(middle).ok_or(middle)?;
            bracket.narrow(middle, index, log, at);
        }
    }

    /// The segment that holds a durable record of a log. What was found out on the way stays with
    /// the read, so each index that it waits for is progress, however few of them fit into memory.
    pub(crate) fn find(&mut self, id: u64, log: LogId, sequence: Sequence) -> Where {
        let job = self.reads.jobs.get_mut(&id).expect("it is being advanced");
        let mut search = std::mem::take(&mut job.search);
        let found = self.search(&mut search, log, sequence);
        self.reads.jobs.get_mut(&id).expect("it is being advanced").search = search;
        found
    }

    /// As [`find`](Self::find), for whoever keeps what was found out so far.
    pub(crate) fn search(&mut self, search: &mut Search, log: LogId, sequence: Sequence) -> Where {
        if self.index.log(log).is_some_and(|span| span.start <= sequence) {
            return self.newest().map_or_else(|| self.nowhere(), Where::Segment);
        }
        if search.sequence != sequence {
            *search = Search { sequence, ..Search::default() };
        }
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

    /// Whether a segment with this number is no longer there.
    fn is_gone(&self, segment: SegmentId) -> bool {
        let last = self.newest().or(self.catalog.segments().last().map(|last| last.segment));
        let lives = self.catalog.segment(segment).is_some_and(|row| !row.freed);
        !lives && last.is_some_and(|last| segment < last)
    }

    /// Where the log ended in the last segment before this one that is there; `None` if damage
    /// hides that. Found out once: the segments around a gap may not fit the cache together.
    fn end_before(
        &mut self,
        id: u64,
        log: LogId,
        segment: SegmentId,
    ) -> Result<Option<Sequence>, Where> {
        let job = self.reads.jobs.get_mut(&id).expect("it is being advanced");
        if let Some(known) = job.end_before {
            return Ok(known);
        }
        let mut before = self.catalog.segments().rev().filter(|s| !s.freed && s.segment < segment);
        let end = match before.next().map(|before| before.segment) {
            None => Some(Sequence::FIRST),
            Some(before) => {
                let index = self.cache.get(before).ok_or(Where::Load(before))?;
                // A log that is not known there was created later.
                let end = index.log(log).map_or(Sequence::FIRST, LogSpan::end);
                (!index.has_holes()).then_some(end)
            }
        };
        job.end_before = Some(end);
        Ok(end)
    }

    /// The sequence at a position, or of the first record after it; `None` if there is none yet.
    pub(crate) fn locate(
        &mut self,
        id: u64,
        log: LogId,
        dlsn: Dlsn,
    ) -> Result<Option<Sequence>, Where> {
        let truncated = self.catalog.log(log).is_some_and(|log| log.first > Sequence::FIRST);
        let gone = truncated && self.is_gone(dlsn.segment());
        let before = if gone { self.end_before(id, log, dlsn.segment())? } else { None };
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
        if gone && before.is_none_or(|before| before < span.start) {
            // Whether they stood before the position or behind it nobody can tell.
            return Err(Where::Gone);
        }
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
