//! Worlds with damage: what is read is what was written, or an error that names what is lost.
//!
//! ```text
//! damage -> running, or opening -> refused: the error names a place that was hit; heal, open again
//!                               -> opened: all is there, or is said to be damaged where it was hit
//! ```
//!
//! The one exemption is the blind spot of `docs/format.md` (F-16): where `witness` finds that
//! damage may look like a torn tail, the journal may end there, so any state since the first
//! damaged entry became durable may stand. It is counted.
//!
//! Not here: what is damaged (`damage`).

use oncelog::error::{Damaged, OpenError};
use oncelog::limits::{SEGMENT_SIZE_MIN, entry_size_max};
use oncelog::request::At;
use oncelog::{LogId, SegmentId};

use crate::sim::reading::Times;
use crate::sim::witness::Blind;
use crate::sim::world::{SHARD, World};

impl World {
    /// Some damage, perhaps.
    pub(crate) fn rot_some(&mut self, running: bool) {
        if !self.weather.rot || !running && self.rng.one_in(2) {
            return;
        }
        for _ in 0..self.rng.between(1, if running { 1 } else { 3 }) {
            let what = self.disk.damage(running, &mut self.rng);
            self.note(|_| format!("damage: {what}"));
        }
    }

    /// What was damaged is put back from a copy.
    pub(crate) fn heal(&mut self) {
        self.note(|_| "heal".to_owned());
        self.disk.heal();
    }

    /// What the blind spot may bring back stands beside what should.
    pub(crate) fn look_at_blind_spot(&mut self) -> Option<Blind> {
        let blind = if self.disk.is_damaged() { self.disk.blind_spot() } else { None }?;
        self.note(|_| format!("blind spot: {blind:?}"));
        if self.forgotten >= blind.since {
            // What damage would bring back is no longer remembered.
            self.heal();
            return None;
        }
        self.coverage.counts.blind_spot_possible += 1;
        // Epochs may be given a second time then: owners of before must not come back. (They are
        // handles of a process that is over.)
        self.clients.owners.clear();
        self.clients.writing.forget_all();
        // So may commit times that were seen: the clock may have been set back since.
        self.times = Times::default();
        // Of what stood at one instant all may have been true.
        let safe = self.past.iter().map(|(at, _)| *at).rfind(|at| *at < blind.since).unwrap_or(0);
        let after = self.past.iter().filter(|(at, _)| *at >= safe);
        let brought_back = after.map(|(_, state)| {
            let mut state = state.clone();
            state.restarted();
            state.is_past = true;
            state
        });
        self.bases.extend(brought_back);
        Some(blind)
    }

    /// An opening was refused: was there a reason, and does it say which?
    pub(crate) fn refused(&mut self, error: &OpenError) {
        self.note(|_| format!("refused: {error}"));
        assert!(self.disk.is_damaged(), "the shard could not be opened: {error}");
        self.coverage.counts.openings_refused += 1;
        let disk = &self.disk;
        let hit = |segment| disk.is_hit(segment, 0, SEGMENT_SIZE_MIN) || disk.is_lost(segment);
        let named = match error {
            OpenError::Damaged(damage) => {
                assert_eq!(damage.shard, SHARD);
                let here = disk.is_hit(damage.segment, damage.offset, end_of(damage.offset));
                here || disk.is_hit_above(damage.segment)
            }
            // A damaged manifest in a newer one, or the only one with a manifest is lost: all that
            // is left to name is what an older manifest misses, or the newest file.
            OpenError::MissingSegment { segment, why, .. } => {
                why.contains("superblock")
                    || hit(*segment)
                    || disk.is_hit_above(*segment)
                    || disk.has_lost_segments()
            }
            // Its manifest was what knew of it.
            OpenError::ExtraSegment { segment, .. } => disk.is_hit_above(*segment),
            OpenError::Foreign { path, .. } => {
                let segments = self.disk.segments();
                let name = |segment: SegmentId| format!("segment-{:016x}.log", segment.get());
                let of = |segment: &SegmentId| path.ends_with(name(*segment));
                segments.into_iter().map(|(segment, _)| segment).find(of).is_some_and(hit)
            }
            _ => false,
        };
        assert!(named, "the error names a place that was not hit: {error}");
    }

    /// A processor's state is said to be damaged.
    pub(crate) fn state_damaged(&mut self, damage: &Damaged) {
        self.coverage.counts.states_damaged += 1;
        let hit = self.disk.is_hit(damage.segment, damage.offset, end_of(damage.offset));
        assert!(hit && damage.shard == SHARD, "it was not hit: {damage}");
        assert!(damage.at_risk.contains("state of processor"), "{damage}");
    }

    /// Records are said to be damaged. Says what is wrong with that.
    pub(crate) fn records_damaged(
        &mut self,
        log: LogId,
        at: At,
        damage: &Damaged,
    ) -> Result<(), String> {
        self.coverage.counts.reads_damaged += 1;
        let (count, first) = lost_records(log, damage).ok_or("it does not say what is lost")?;
        if let At::Sequence(sequence) = at
            && !(first..first + count.unwrap_or(1)).contains(&sequence.get())
        {
            return Err("it names other records than were asked for".to_owned());
        }
        let end = match count {
            None => SEGMENT_SIZE_MIN,
            Some(count) => {
                let states = self.bases.iter().rev();
                let mut logs = states.filter_map(|s| s.logs.get(&log).or(s.dropped.get(&log)));
                let len = logs.find_map(|log| log.bytes_of(first, count));
                damage.offset + len.ok_or("it names records that never were")?
            }
        };
        // If a damaged manifest hid where the log begins in a newer segment, the one before it is
        // searched in vain and named.
        let hit = self.disk.is_hit(damage.segment, damage.offset, end)
            || count.is_none() && self.disk.is_hit_above(damage.segment)
            // The blind spot may take back the truncation, but not the holes made after it.
            || self.coverage.counts.blind_spot_possible > 0
                && self.disk.is_punched(damage.segment, damage.offset, end);
        if damage.shard != SHARD || !hit {
            return Err("it names a place that was not hit".to_owned());
        }
        Ok(())
    }
}

fn end_of(offset: u64) -> u64 {
    offset + u64::from(entry_size_max(SEGMENT_SIZE_MIN))
}

/// Which records an error says are lost: how many, if it knows, and the first.
fn lost_records(log: LogId, damage: &Damaged) -> Option<(Option<u64>, u64)> {
    let (before, after) = damage.at_risk.split_once("records of log ")?;
    let (named, sequence) = after.split_once(" from sequence ")?;
    if named != log.to_string() {
        return None;
    }
    let digits = sequence.split(|c: char| !c.is_ascii_digit()).next()?;
    Some((before.trim().parse().ok(), digits.parse().ok()?))
}
