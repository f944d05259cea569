//! What keeps each sealed segment: looked into once, and again only when that has changed.
//!
//! ```text
//! sealed -> unknown --look--> watched: its largest logs with live records   -> dead (for ever)
//!              ^                 |  one is truncated past it, or dropped
//!              '-----------------'  all of them are, or a quarter of the segment
//! ```
//!
//! - A segment that is neither unknown nor dead has a live record, and a log that is watched.
//! - Records never come back to life: what is dead stays so.
//! - A truncation costs as much as it has segments to look into again, whatever there is besides.
//!
//! Not here: looking (`retention`), and what else keeps a segment (`carry`).

use std::collections::{BTreeMap, BTreeSet};

use rustc_hash::FxHashMap;

use crate::limits::PUNCH_SHARE;
use crate::position::{LogId, SegmentId, Sequence};

/// Logs that are watched in one segment, at most; smaller ones only if nothing else is there.
const WATCHED_MAX: usize = 16;

/// A log in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Whose records.
    pub log: LogId,
    /// Where they end: all of them are dead once the log begins here or later.
    pub end: Sequence,
    /// Bytes that they take in the segment.
    pub bytes: u64,
}

/// What is known of a segment.
#[derive(Debug, Default)]
struct Known {
    /// Logs that are watched in it.
    watched: Vec<LogId>,
    /// Bytes of logs that died there since it was looked into.
    died: u64,
    /// Bytes that were given back from its middle.
    punched: u64,
}

/// See the module's head.
#[derive(Debug, Default)]
pub struct Pins {
    /// Something was truncated or dropped once: otherwise nothing is dead anywhere.
    removed: bool,
    unknown: BTreeSet<SegmentId>,
    /// It is being looked into.
    looking: Option<SegmentId>,
    logs: FxHashMap<LogId, BTreeMap<SegmentId, (Sequence, u64)>>,
    segments: FxHashMap<SegmentId, Known>,
    dead: BTreeSet<SegmentId>,
    /// Parts of them are damaged: only the next segment tells what they held.
    damaged: BTreeSet<SegmentId>,
    /// And of the next one too, so what they held cannot be told; or there is nothing to be done
    /// about them before another segment is sealed.
    stuck: BTreeSet<SegmentId>,
}

impl Pins {
    /// A segment was sealed, or found sealed.
    pub fn add(&mut self, segment: SegmentId) {
        self.unknown.insert(segment);
        // The segment that tells of them may be another one now.
        self.unknown.append(&mut self.stuck);
    }

    /// Some records are dead.
    pub fn set_removed(&mut self) {
        self.removed = true;
    }

    /// The next segment to look into, if none is being looked into.
    #[must_use]
    pub fn next(&self) -> Option<SegmentId> {
        let idle = self.removed && self.looking.is_none();
        self.unknown.first().copied().filter(|_| idle)
    }

    /// A segment is being looked into.
    pub fn begin(&mut self, segment: SegmentId) {
        assert!(self.unknown.remove(&segment) && self.looking.is_none());
        self.looking = Some(segment);
    }

    /// It could not be looked into now.
    pub fn failed(&mut self) {
        self.unknown.extend(self.looking.take());
    }

    /// It was looked into: logs with live records in it.
    pub fn looked(&mut self, segment: SegmentId, mut live: Vec<Held>, segment_size: u64) {
        assert_eq!(self.looking.take(), Some(segment));
        self.unwatch(segment);
        if live.is_empty() {
            self.segments.remove(&segment);
            self.stuck.remove(&segment);
            self.unknown.remove(&segment);
            self.dead.insert(segment);
            return;
        }
        // The largest first. Of equal ones the newest: who goes through all logs comes to it last.
        live.sort_unstable_by_key(|held| std::cmp::Reverse((held.bytes, held.log)));
        let small = segment_size / WATCHED_MAX as u64;
        let count = live.iter().take_while(|held| held.bytes >= small).count();
        live.truncate(count.clamp(1, WATCHED_MAX));
        let known = self.segments.entry(segment).or_default();
        known.died = 0;
        known.watched = live.iter().map(|held| held.log).collect();
        for Held { log, end, bytes } in live {
            self.logs.entry(log).or_default().insert(segment, (end, bytes));
        }
    }

    /// What the segment that is looked into holds cannot be told now.
    pub fn cannot_tell(&mut self) {
        self.stuck.extend(self.looking.take());
    }

    /// A segment that was looked into is looked into again once another one is sealed.
    pub fn look_later(&mut self, segment: SegmentId) {
        self.stuck.insert(segment);
    }

    /// Records of a log died: those before `first`, or all. Segments are to be looked into again.
    pub fn truncated(&mut self, log: LogId, first: Option<Sequence>, segment_size: u64) {
        self.removed = true;
        let Some(held) = self.logs.get_mut(&log) else { return };
        let lives = |end: Sequence| first.is_some_and(|first| first < end);
        let mut again = Vec::new();
        while let Some(entry) = held.first_entry() {
            let (end, bytes) = *entry.get();
            if lives(end) {
                break;
            }
            let (segment, _) = entry.remove_entry();
            let Some(known) = self.segments.get_mut(&segment) else { continue };
            known.watched.retain(|watched| *watched != log);
            known.died += bytes;
            if known.watched.is_empty() || known.died >= segment_size / PUNCH_SHARE {
                again.push(segment);
            }
        }
        if held.is_empty() {
            self.logs.remove(&log);
        }
        for segment in again {
            self.unwatch(segment);
            self.unknown.insert(segment);
        }
    }

    fn unwatch(&mut self, segment: SegmentId) {
        let Some(known) = self.segments.get_mut(&segment) else { return };
        for log in std::mem::take(&mut known.watched) {
            if let Some(held) = self.logs.get_mut(&log) {
                held.remove(&segment);
                if held.is_empty() {
                    self.logs.remove(&log);
                }
            }
        }
    }

    /// Segments without live records, oldest first.
    pub fn dead(&self) -> impl Iterator<Item = SegmentId> {
        self.dead.iter().copied()
    }

    /// Whether any segment has no live record.
    #[must_use]
    pub fn has_dead(&self) -> bool {
        !self.dead.is_empty()
    }

    /// The segment is freed.
    pub fn forget(&mut self, segment: SegmentId) {
        assert!(self.dead.remove(&segment));
        self.damaged.remove(&segment);
        self.unknown.append(&mut self.stuck);
    }

    /// Whether parts of a segment are known to be damaged.
    #[must_use]
    pub fn is_damaged(&self, segment: SegmentId) -> bool {
        self.damaged.contains(&segment)
    }

    /// Parts of a segment are damaged.
    pub fn set_damaged(&mut self, segment: SegmentId) {
        self.damaged.insert(segment);
    }

    /// Bytes that were given back from the middle of a segment, as far as this process knows.
    #[must_use]
    pub fn punched(&self, segment: SegmentId) -> u64 {
        self.segments.get(&segment).map_or(0, |known| known.punched)
    }

    /// So many bytes were given back from the middle of a segment.
    pub fn set_punched(&mut self, segment: SegmentId, bytes: u64) {
        if let Some(known) = self.segments.get_mut(&segment) {
            known.punched = bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 1 << 20;

    fn held(log: u64, end: u64, bytes: u64) -> Held {
        Held { log: LogId(log), end: Sequence(end), bytes }
    }

    fn looked(pins: &mut Pins, segment: u64, live: Vec<Held>) {
        pins.begin(SegmentId(segment));
        pins.looked(SegmentId(segment), live, SIZE);
    }

    #[test]
    fn a_segment_is_looked_into_again_only_when_what_keeps_it_is_gone() {
        let mut pins = Pins::default();
        pins.add(SegmentId(1));
        assert_eq!(pins.next(), None, "nothing was ever removed");
        pins.set_removed();
        looked(&mut pins, 1, vec![held(1, 10, 300_000), held(2, 5, 600_000), held(3, 7, 9)]);
        pins.truncated(LogId(1), Some(Sequence(9)), SIZE);
        pins.truncated(LogId(3), None, SIZE);
        assert_eq!(pins.next(), None, "its largest logs live");
        pins.truncated(LogId(1), Some(Sequence(10)), SIZE);
        assert_eq!(pins.next(), Some(SegmentId(1)), "a quarter of it died");
        looked(&mut pins, 1, vec![held(2, 5, 600_000)]);
        pins.truncated(LogId(1), None, SIZE);
        assert_eq!(pins.next(), None);
        pins.truncated(LogId(2), None, SIZE);
        looked(&mut pins, 1, Vec::new());
        assert_eq!(pins.dead().collect::<Vec<_>>(), [SegmentId(1)]);
    }

    #[test]
    fn small_logs_keep_a_segment_one_after_the_other() {
        let mut pins = Pins::default();
        pins.add(SegmentId(1));
        pins.set_removed();
        looked(&mut pins, 1, (1..100).map(|log| held(log, 1, 10)).collect());
        for log in 1..99 {
            pins.truncated(LogId(log), Some(Sequence(1)), SIZE);
            assert_eq!(pins.next(), None, "the newest is asked last");
        }
        pins.truncated(LogId(99), Some(Sequence(1)), SIZE);
        assert_eq!(pins.next(), Some(SegmentId(1)));
    }

    #[test]
    fn what_cannot_be_told_is_looked_into_again_with_the_next_segment() {
        let mut pins = Pins::default();
        pins.set_removed();
        pins.add(SegmentId(1));
        pins.begin(SegmentId(1));
        pins.set_damaged(SegmentId(1));
        pins.cannot_tell();
        assert_eq!(pins.next(), None);
        pins.add(SegmentId(2));
        assert_eq!(pins.next(), Some(SegmentId(1)));
    }
}
