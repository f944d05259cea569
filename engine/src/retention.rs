//! Giving segments back that nothing needs, without ever losing what a processor stands on.
//!
//! ```text
//! sealed segment: a live record in it?             -> stays (its dead blocks may go: `punch`)
//!                 a state chain may reach into it? -> carry the chain forward, look again
//!                 neither                          -> SegmentFreed -> durable, no read under way
//!                                                     -> recycled
//! ```
//!
//! Any segment may go, whatever stays before it. Which log keeps a segment is remembered (`pins`),
//! so that a truncation does not look into all of them.
//!
//! What stands in a damaged segment is not known; where the next one begins is, and if all before
//! that is truncated nothing in it is needed.
//!
//! Not here: what is truncated (`serve`, `expiry`), and carrying (`carry`).

use crate::format::control::Control;
use crate::index::SegmentIndex;
use crate::io::OpKind;
use crate::load::Waiter;
use crate::pins::Held;
use crate::position::{LogId, SegmentId, Sequence};
use crate::serve::Admit;
use crate::shard::{Deferred, Purpose, Shard};

impl Shard {
    /// Frees what can be freed, one step at a time.
    pub(crate) fn poll_retention(&mut self) {
        if !self.closing.is_empty() {
            return;
        }
        self.poll_carry();
        self.poll_freed();
        self.poll_punches();
        if self.retention_due && self.roll.is_none() {
            self.retention_due = false;
            self.look_on();
            self.free_dead();
        }
    }

    /// Looks into what has changed, until an index has to be loaded.
    fn look_on(&mut self) {
        while let Some(segment) = self.pins.next() {
            self.pins.begin(segment);
            if self.pins.is_damaged(segment) {
                self.look_behind(segment);
            } else if let Some(index) = self.cache.take(segment) {
                self.look(segment, segment, &index);
                self.cache.insert(segment, index);
            } else {
                self.load(segment, Waiter::Retention(segment));
            }
        }
    }

    /// What a segment holds, from its own index, or from that of the next one.
    pub(crate) fn look(&mut self, segment: SegmentId, from: SegmentId, index: &SegmentIndex) {
        if segment != from {
            // If that is damaged too, nothing is given up: a copy of the file may have the records.
            if index.has_holes() {
                return self.pins.cannot_tell();
            }
            return self.looked_behind(segment, index.starts().collect());
        }
        if index.has_holes() {
            self.pins.set_damaged(segment);
            return self.look_behind(segment);
        }
        let held = |(log, span): (LogId, &crate::index::LogSpan)| Held {
            log,
            end: span.end(),
            bytes: span.stored_bytes(),
        };
        let live: Vec<_> = index.spans().map(held).filter(|held| self.lives(held)).collect();
        let stays = !live.is_empty();
        self.pins.looked(segment, live, self.config.segment_size);
        if stays {
            self.punch_if_it_pays(segment, index);
        }
    }

    /// The segment is damaged: the next one tells up to where each log stands in it.
    fn look_behind(&mut self, segment: SegmentId) {
        let later = self.catalog.segments().find(|s| !s.freed && s.segment > segment);
        match later.map(|later| later.segment) {
            Some(next) => self.load(next, Waiter::Retention(segment)),
            None if self.roll.is_some() => self.pins.failed(),
            None => self.looked_behind(segment, self.index.starts().collect()),
        }
    }

    fn looked_behind(&mut self, segment: SegmentId, starts: Vec<(LogId, Sequence)>) {
        let held = |(log, end)| Held { log, end, bytes: 0 };
        let live = starts.into_iter().map(held).filter(|held| self.lives(held)).collect();
        self.pins.looked(segment, live, self.config.segment_size);
    }

    /// Whether a log has a live record before its end there.
    fn lives(&self, held: &Held) -> bool {
        self.catalog.log(held.log).is_some_and(|state| state.first < held.end)
    }

    /// Frees the dead segments that no state chain reaches into.
    fn free_dead(&mut self) {
        // Walks may read them; the end of each sets `retention_due` again.
        if !self.pins.has_dead() || self.walks.are_under_way() {
            return;
        }
        let (oldest, parts) = self.chains_reach();
        // If the newest file is lost before anything seals it, opening goes back to the one before:
        // that stays as long as others do, so that it never goes back further.
        let mut live = self.catalog.segments().filter(|segment| !segment.freed);
        let last = live.next().and(live.next_back()).map(|segment| segment.segment);
        drop(live);
        let free = |segment: &SegmentId| {
            *segment < oldest && !parts.contains(segment) && Some(*segment) != last
        };
        for segment in self.pins.dead().filter(free).collect::<Vec<_>>() {
            let control = Control::SegmentFreed { segment };
            match self.admit_control(&control) {
                Admit::Yes => {
                    self.stage(&control);
                    self.pins.forget(segment);
                    self.defer(Deferred::Freed(segment));
                }
                Admit::Hold => {
                    // Tried again after the next completion.
                    self.walks.try_again = true;
                    return;
                }
                Admit::NoSpace => return,
            }
        }
        self.carry_if_it_pays();
    }

    /// Records of a log are dead as from now, durably or not yet.
    pub(crate) fn records_gone(&mut self, log: LogId) {
        let first = self.catalog.log(log).map(|state| state.first);
        self.pins.truncated(log, first, self.config.segment_size);
        self.removals += 1;
        self.reads.wake(log);
        self.advance_woken();
        self.retention_due = true;
    }

    /// The journal was read back: nothing is known of its segments.
    pub(crate) fn begin_retention(&mut self) {
        for segment in self.catalog.segments().filter(|s| !s.freed).map(|s| s.segment) {
            self.pins.add(segment);
        }
        let first = |(_, log)| self.catalog.log(log).expect("a named log is there").first;
        let mut logs = self.catalog.log_names().map(first);
        let created = self.catalog.next_log().get() - 1;
        if logs.len() as u64 != created || logs.any(|first| first > Sequence::FIRST) {
            self.pins.set_removed();
        }
        self.retention_due = true;
    }

    /// The record that frees the segment is durable: its file goes once no read uses it.
    pub(crate) fn segment_freed(&mut self, segment: SegmentId) {
        self.metrics.counted.segments_freed += 1;
        self.cache.remove(segment);
        self.walks.freed.push(segment);
        self.poll_freed();
    }

    fn poll_freed(&mut self) {
        let freed = std::mem::take(&mut self.walks.freed);
        for segment in freed {
            if self.reads.uses(segment) || self.punches.uses(segment) {
                self.walks.freed.push(segment);
                continue;
            }
            let row = self.catalog.segment(segment).expect("a freed segment is known");
            let spare = if row.shortened { None } else { self.spares.number_for_recycled() };
            let kind = match spare {
                Some(spare) => OpKind::Recycle { segment, spare },
                None => OpKind::RemoveSegment { segment },
            };
            self.queue.push_back((Purpose::Recycle(segment, spare), kind));
        }
    }
}
