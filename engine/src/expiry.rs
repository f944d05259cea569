//! Records that go by themselves: what the retention of each log lets go, and when it is looked at.
//!
//! ```text
//! roll, new options, a minute after something changed, an age is reached
//!   '-> pass: log after log -> cheap check: nothing due?             -> next log
//!                              index of the segment with its first record (one at a time)
//!                              -> the first section that stays -> LogTruncated, like any other
//! ```
//!
//! - A record goes only when no processor needs it and its log's policy lets it: never before.
//! - Ages count by the wall clock, and only while that is believable (`Clock`). A commit time
//!   in the future is no age.
//! - A turn looks at one log and one index; a shard without retention does nothing here.
//!
//! Not here: what can be set (`format::options`), and giving the space back (`retention`).

use rustc_hash::FxHashMap;

use crate::format::control::Control;
use crate::format::options::Retention;
use crate::index::LogSpan;
use crate::io::Now;
use crate::limits::{CLOCK_AGREES_US, CLOCK_STEP_MAX_US, RETENTION_EVERY_US};
use crate::load::Waiter;
use crate::position::{LogId, SegmentId, Sequence};
use crate::reads::Search;
use crate::seek::Where;
use crate::serve::Admit;
use crate::shard::Shard;

/// Logs that a turn looks at, if none of them has anything to remove.
const LOGS_PER_TURN: u32 = 256;

/// Whether the wall clock is to be believed: it and the monotonic one told the same for a while.
#[derive(Default)]
struct Clock {
    /// What both said at one instant, not long ago.
    anchor: Option<Now>,
    /// From then on ages count, if nothing happens (microseconds of the monotonic clock).
    believable_us: u64,
}

impl Clock {
    fn observe(&mut self, now: Now) {
        let Some(anchor) = self.anchor else {
            self.believable_us = now.mono_us + CLOCK_AGREES_US;
            self.anchor = Some(now);
            return;
        };
        let passed = now.mono_us.saturating_sub(anchor.mono_us);
        let off = now.wall_us.abs_diff(anchor.wall_us.saturating_add(passed));
        if off > CLOCK_STEP_MAX_US {
            self.believable_us = now.mono_us + CLOCK_AGREES_US;
            self.anchor = Some(now);
        } else if passed >= CLOCK_AGREES_US {
            // Otherwise two clocks that drift apart slowly would be a step one day.
            self.anchor = Some(now);
        }
    }

    fn is_believable(&self, now: Now) -> bool {
        self.anchor.is_some() && now.mono_us >= self.believable_us
    }
}

/// What is known of a log from when it was last looked at: the first section that stays.
#[derive(Clone, Copy)]
struct Stays {
    /// The log's first record then.
    first: Sequence,
    /// Where it stands.
    segment: SegmentId,
    /// Commit time of the section, and the log's bytes up to its end. `None`: its index was not
    /// looked into yet.
    section: Option<(u64, u64)>,
}

/// A look at all logs.
#[derive(Default)]
struct Pass {
    /// The log that is looked at, or was last.
    log: LogId,
    /// It was not finished.
    goes_on: bool,
    /// Where its first record stands is being searched.
    search: Search,
    /// An index is being loaded.
    loading: bool,
    /// When the next age is reached, microseconds of the monotonic clock.
    next_us: Option<u64>,
}

/// See the module's head.
#[derive(Default)]
pub(crate) struct Expiry {
    clock: Clock,
    now: Now,
    logs: FxHashMap<LogId, Stays>,
    /// Something happened since the last pass that may let records go.
    touched: bool,
    /// It is to be looked at once.
    due: bool,
    /// When an age is reached, as far as the last pass saw.
    next_us: Option<u64>,
    last_us: u64,
    pass: Option<Pass>,
    /// There is more to do at once.
    pub(crate) again: bool,
}

impl Expiry {
    /// Something happened that may let records go.
    pub(crate) fn touch(&mut self) {
        self.touched = true;
    }

    /// Records may go now.
    pub(crate) fn set_due(&mut self) {
        self.due = true;
    }

    /// When it is to be looked at again even if nothing happens.
    fn next_at(&self) -> Option<u64> {
        let soon = self.last_us + RETENTION_EVERY_US;
        let touched = self.touched.then_some(soon);
        let aged = self.next_us.map(|at| at.max(soon));
        touched.into_iter().chain(aged).min()
    }
}

/// What became of a log in a turn.
enum Turn {
    /// Nothing to do.
    Nothing,
    /// It was looked into, and is done.
    Done,
    /// There may be more.
    More,
    /// An index is being loaded, or nothing can be staged now.
    Waits,
}

impl Shard {
    /// When a policy is to be looked at again, if nothing happens.
    pub(crate) fn expiry_at(&self) -> Option<u64> {
        if self.catalog.retained().is_empty() {
            return None;
        }
        if self.expiry.again {
            return Some(self.expiry.now.mono_us);
        }
        self.expiry.next_at().filter(|_| self.expiry.pass.is_none())
    }

    /// Looks at the next log.
    pub(crate) fn poll_expiry(&mut self, now: Now) {
        self.expiry.clock.observe(now);
        self.expiry.now = now;
        self.expiry.again = false;
        let over = self.stopped.is_some() || !self.closing.is_empty();
        if self.catalog.retained().is_empty() || self.roll.is_some() || over {
            return;
        }
        let expiry = &mut self.expiry;
        if expiry.pass.is_none() {
            if !expiry.due && expiry.next_at().is_none_or(|at| now.mono_us < at) {
                return;
            }
            (expiry.due, expiry.touched, expiry.next_us) = (false, false, None);
            expiry.last_us = now.mono_us;
            expiry.pass = Some(Pass::default());
            expiry.logs.retain(|log, _| self.catalog.retained().contains(log));
        }
        for _ in 0..LOGS_PER_TURN {
            let Some(pass) = self.expiry.pass.as_ref().filter(|pass| !pass.loading) else { return };
            let after = pass.log;
            let next = if pass.goes_on {
                Some(after)
            } else {
                self.catalog.retained().range(LogId(after.0 + 1)..).next().copied()
            };
            let Some(log) = next else {
                let pass = self.expiry.pass.take().expect("it was just seen");
                self.expiry.next_us = pass.next_us;
                return;
            };
            let turn = self.expire(log);
            let pass = self.expiry.pass.as_mut().expect("it goes on");
            pass.log = log;
            pass.goes_on = matches!(turn, Turn::More | Turn::Waits);
            if !pass.goes_on {
                pass.search = Search::default();
            }
            match turn {
                Turn::Nothing => {}
                Turn::Waits => return,
                Turn::Done | Turn::More => {
                    self.expiry.again = true;
                    return;
                }
            }
        }
        self.expiry.again = true;
    }

    /// The index that was wanted is in the cache, perhaps not for long; or it cannot be had.
    pub(crate) fn expiry_loaded(&mut self, found: bool) {
        let Some(pass) = &mut self.expiry.pass else { return };
        pass.loading = false;
        if found {
            let now = self.expiry.now;
            self.poll_expiry(now);
        } else {
            (pass.goes_on, pass.search) = (false, Search::default());
            self.expiry.touched = true;
        }
        self.expiry.again = true;
    }

    /// Removes what may go from the segment in which the log begins.
    fn expire(&mut self, log: LogId) -> Turn {
        let Some(state) = self.catalog.log(log) else { return Turn::Nothing };
        let Some(options) = state.options.clone() else { return Turn::Nothing };
        let (first, policy) = (state.first, &options.retention);
        if !policy.is_some() {
            // Its options changed while it was being looked at: nothing goes by itself any more.
            return Turn::Nothing;
        }
        if state.durable_next <= first || !self.may_be_due(log, first, policy) {
            return Turn::Nothing;
        }
        let limit = self.passed(log, policy);
        if limit <= first {
            // A commit of the processor that holds it touches it again.
            return Turn::Nothing;
        }
        if policy.age_us.is_none() && policy.bytes.is_none() {
            return self.expire_to(log, limit, false);
        }
        match self.first_segment(log, first) {
            Ok(segment) => self.expire_in(log, segment, policy, limit),
            Err(Where::Load(segment)) => {
                self.expiry.pass.as_mut().expect("it goes on").loading = true;
                self.load(segment, Waiter::Expiry);
                Turn::Waits
            }
            // Damage hides it: who reads there is told.
            Err(_) => Turn::Done,
        }
    }

    /// Whether anything may go, as far as is known without an index. Otherwise notes when.
    fn may_be_due(&mut self, log: LogId, first: Sequence, policy: &Retention) -> bool {
        if policy.age_us.is_none() && policy.bytes.is_none() {
            // Only processors hold it.
            return true;
        }
        let known = self.expiry.logs.get(&log).filter(|known| known.first == first);
        let section = known.and_then(|known| known.section);
        let Some((time_us, end_bytes)) = section else {
            let waits = policy.bytes.is_none() && !policy.readers.is_empty();
            return waits || self.expiry_by_now(policy);
        };
        let total = self.catalog.log(log).map_or(0, |state| state.bytes);
        self.lets_go(policy, time_us, end_bytes, total)
    }

    /// Whether the policy may let anything go at this time. Otherwise notes when.
    fn expiry_by_now(&mut self, policy: &Retention) -> bool {
        let ages = policy.age_us.is_some() && !self.expiry.clock.is_believable(self.expiry.now);
        if ages {
            let at = self.expiry.clock.believable_us;
            self.note_age(at);
        }
        !ages || policy.bytes.is_some()
    }

    fn note_age(&mut self, at_us: u64) {
        if let Some(pass) = &mut self.expiry.pass {
            pass.next_us = Some(pass.next_us.map_or(at_us, |next| next.min(at_us)));
        }
    }

    /// Whether a section may go: it was committed at that time, so many bytes of the log's `total`
    /// stand before its end. If only its age keeps it, notes when that is reached.
    fn lets_go(&mut self, policy: &Retention, time_us: u64, end_bytes: u64, total: u64) -> bool {
        let newer = total.saturating_sub(end_bytes);
        if policy.bytes.is_some_and(|bytes| newer >= bytes.get()) {
            return true;
        }
        let Some(age_us) = policy.age_us else { return false };
        let (now, believable_us) = (self.expiry.now, self.expiry.clock.believable_us);
        let due = time_us.saturating_add(age_us.get());
        if due <= now.wall_us && self.expiry.clock.is_believable(now) {
            return true;
        }
        let waits = due.saturating_sub(now.wall_us);
        self.note_age(now.mono_us.saturating_add(waits).max(believable_us));
        false
    }

    /// Up to where every processor that needs the log has passed it.
    fn passed(&self, log: LogId, policy: &Retention) -> Sequence {
        let state = self.catalog.log(log).expect("the caller found it");
        let mut limit = state.durable_next;
        for (_, reader) in self.catalog.readers() {
            let source = reader.stored.sources.iter().find(|source| source.log == log);
            limit = source.map_or(limit, |source| limit.min(source.next));
        }
        let reads = |name: &String| {
            let reader = self.catalog.reader_named(name).and_then(|id| self.catalog.reader(id));
            reader.is_some_and(|reader| reader.stored.sources.iter().any(|s| s.log == log))
        };
        // One that is not there, or does not read it, has not passed it.
        if policy.readers.iter().all(reads) { limit } else { state.first }
    }

    /// The segment to look into: the one with the log's first record, or the one behind it if
    /// parts of that are damaged. Its index is here.
    fn first_segment(&mut self, log: LogId, first: Sequence) -> Result<SegmentId, Where> {
        let known = self.expiry.logs.get(&log).map(|known| known.segment);
        let mut segment = match known {
            Some(known) => known,
            None => {
                let pass = self.expiry.pass.as_mut().expect("it goes on");
                let mut search = std::mem::take(&mut pass.search);
                let found = self.search(&mut search, log, first);
                self.expiry.pass.as_mut().expect("it goes on").search = search;
                match found {
                    Where::Segment(segment) => segment,
                    other => return Err(other),
                }
            }
        };
        loop {
            let section = None;
            self.expiry.logs.insert(log, Stays { first, segment, section });
            if self.newest() == Some(segment) {
                return Ok(segment);
            }
            let lives = self.catalog.segment(segment).is_some_and(|row| !row.freed);
            if lives {
                let index = self.cache.get(segment).ok_or(Where::Load(segment))?;
                let span = index.log(log).filter(|_| !index.has_holes());
                if span.is_some_and(|span| first < span.end()) {
                    return Ok(segment);
                }
                if let Some(span) = index.log(log)
                    && first < span.start
                    && !index.has_holes()
                {
                    // It began in a damaged segment before this one.
                    return Ok(segment);
                }
            }
            let mut later = self.catalog.segments().filter(|s| !s.freed && s.segment > segment);
            let next = later.next().map(|later| later.segment).or(self.newest());
            segment = next.ok_or(Where::Missing(segment))?;
        }
    }

    fn expire_in(
        &mut self,
        log: LogId,
        segment: SegmentId,
        policy: &Retention,
        limit: Sequence,
    ) -> Turn {
        let is_newest = self.newest() == Some(segment);
        let index = if is_newest { Some(&self.index) } else { self.cache.get(segment) };
        let Some(span) = index.and_then(|index| index.log(log)) else { return Turn::Done };
        let state = self.catalog.log(log).expect("the caller found it");
        let (first, total, end) = (state.first, state.bytes, span.end());
        let mut to = first;
        let mut stays = None;
        for (section_end, time_us, end_bytes) in stretches(span, first) {
            if section_end > limit {
                break;
            }
            if !self.lets_go(policy, time_us, end_bytes, total) {
                stays = Some((time_us, end_bytes));
                break;
            }
            to = section_end;
        }
        if to > first {
            let more = to == end && !is_newest;
            let turn = self.expire_to(log, to, more);
            if matches!(turn, Turn::Waits) {
                return turn;
            }
            self.expiry.logs.insert(log, Stays { first: to, segment, section: stays });
            return turn;
        }
        self.expiry.logs.insert(log, Stays { first, segment, section: stays });
        Turn::Done
    }

    /// Truncates a log, like anyone.
    fn expire_to(&mut self, log: LogId, before: Sequence, more: bool) -> Turn {
        match self.admit_control(&Control::LogTruncated { log, first: before }) {
            Admit::Yes => {
                self.truncate_to(log, before);
                if more { Turn::More } else { Turn::Done }
            }
            Admit::Hold => Turn::Waits,
            Admit::NoSpace => {
                self.expiry.touched = true;
                Turn::Done
            }
        }
    }
}

/// The stretches of a log in a segment that go as a whole, from `first` on: where each ends, its
/// commit time, and the log's bytes up to its end.
fn stretches(span: &LogSpan, first: Sequence) -> Vec<(Sequence, u64, u64)> {
    let mut bytes = span.bytes;
    let mut all = Vec::new();
    if first < span.start {
        // What stood in a damaged segment before: it is no newer than what follows.
        let time_us = span.sections.first().map_or(u64::MAX, |section| section.time_us);
        all.push((span.start, time_us, bytes));
    }
    for section in &span.sections {
        bytes += u64::from(section.raw_len);
        if first < section.end() {
            all.push((section.end(), section.time_us, bytes));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    fn at(wall_s: u64, mono_s: u64) -> Now {
        Now { wall_us: wall_s * SECOND, mono_us: mono_s * SECOND }
    }

    #[test]
    fn a_clock_is_believed_once_both_agreed_for_a_while() {
        let mut clock = Clock::default();
        clock.observe(at(1_000, 5));
        assert!(!clock.is_believable(at(1_599, 604)));
        assert!(clock.is_believable(at(1_600, 605)));
        clock.observe(at(1_601, 606));
        // Set ahead by an hour.
        clock.observe(at(5_202, 607));
        assert!(!clock.is_believable(at(5_203, 608)));
        assert!(clock.is_believable(at(5_802, 1_207)));
    }

    #[test]
    fn a_slow_drift_is_no_step() {
        let mut clock = Clock::default();
        for minute in 0..10_000 {
            // 2 ms a minute are 20 s in a week.
            let now = Now { wall_us: minute * 60_002_000, mono_us: minute * 60_000_000 };
            clock.observe(now);
            assert_eq!(clock.is_believable(now), minute >= 10, "minute {minute}");
        }
    }
}
