//! The reads of a shard: what each has planned, who waits at a tail, what the device gets next.
//!
//! ```text
//! job --planned--> pieces --> queue (somebody waits) --> device
//!  |                     '--> ahead (nobody does yet) -->  "     one at a time beside writes
//!  '-- at the tail --> parked --> woken, or its wait is over
//! ```
//!
//! Invariants: a segment with a queued or running read is counted in `users`; a read has a deadline
//! in `deadlines` only while it is parked, so that an idle shard is woken for nothing else.
//!
//! Not here: what a read does next (`read`), and where records stand (`seek`).

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use rustc_hash::FxHashMap;

use crate::buf::Buf;
use crate::error::{ReadError, Stopped};
use crate::index::SectionRef;
use crate::io::OpKind;
use crate::limits::{READS_BESIDE_WRITES_MAX, READS_IN_FLIGHT_MAX};
use crate::load::Load;
use crate::position::{LogId, SegmentId, Sequence};
use crate::request::{Answer, ReadRequest};
use crate::shard::{Purpose, ReadFor};

/// A section that a read will answer with.
pub(crate) struct Chosen {
    pub(crate) section: SectionRef,
    /// Its bytes, or the piece that they will be in.
    pub(crate) source: Result<Bytes, usize>,
}

pub(crate) struct Piece {
    pub(crate) offset: u64,
    pub(crate) bytes: Bytes,
    pub(crate) failed: Option<ReadError>,
}

pub(crate) struct ReadJob {
    pub(crate) request: ReadRequest,
    pub(crate) segment: SegmentId,
    pub(crate) first: Sequence,
    pub(crate) planned: Vec<Chosen>,
    pub(crate) pieces: Vec<Piece>,
    pub(crate) waits_for: usize,
    /// The segment's index was rebuilt for this read already.
    pub(crate) rebuilt: bool,
    /// When the request was taken.
    pub(crate) taken_us: u64,
    /// Since when it waits at the tail.
    pub(crate) parked_us: Option<u64>,
    /// It waited at the tail.
    pub(crate) was_parked: bool,
    /// It waited for an index.
    pub(crate) missed_index: bool,
    pub(crate) search: Search,
    pub(crate) bracket: Bracket,
    /// No record before this one is at the transaction id or time that is asked for.
    pub(crate) settled: Option<Sequence>,
    /// When its wait is over, in microseconds of the monotonic clock; 0 if it does not wait.
    pub(crate) until: u64,
    /// See [`ReadAnswer::proven`](crate::request::ReadAnswer).
    pub(crate) proven: bool,
    /// Where the log ended in the last segment before the position asked for, once that is known;
    /// `Some(None)` if damage hides it.
    pub(crate) end_before: Option<Option<Sequence>>,
}

/// A wait that never ends.
pub(crate) const NEVER: u64 = u64::MAX;

/// What is known about the segment that holds a sequence: it is the last one in which the log began
/// at or before it.
#[derive(Default)]
pub(crate) struct Search {
    pub(crate) sequence: Sequence,
    /// The log began early enough in this one.
    pub(crate) from: Option<SegmentId>,
    /// It began too late in this one.
    pub(crate) before: Option<SegmentId>,
}

/// What is known about the last section of a log that begins before a transaction id or a time.
#[derive(Default)]
pub(crate) struct Bracket {
    /// The last segment known in which one does, the last such section there, and where the log
    /// ends there.
    pub(crate) from: Option<(SegmentId, SectionRef, Sequence)>,
    /// No section after this segment and before `before` was found.
    pub(crate) above: Option<SegmentId>,
    /// The first segment known in which the log has sections and none of them does, or behind which
    /// it has none up to such a one; and where the log stood when it began.
    pub(crate) before: Option<(SegmentId, Sequence)>,
    /// Segments without records of the log, with records before and behind them.
    pub(crate) empty: BTreeSet<SegmentId>,
    /// The oldest segment, when its first section was committed, and where the log began in it.
    pub(crate) oldest: Option<(SegmentId, (Option<u64>, Sequence))>,
}

/// Reads of a shard.
#[derive(Default)]
pub(crate) struct Reads {
    pub(crate) jobs: FxHashMap<u64, ReadJob>,
    pub(crate) next_job: u64,
    pub(crate) parked: FxHashMap<LogId, BTreeSet<u64>>,
    /// When the waits of parked reads are over.
    deadlines: BTreeSet<(u64, u64)>,
    /// The time, as far as it is known.
    pub(crate) now_us: u64,
    pub(crate) woken: Vec<u64>,
    pub(crate) loads: FxHashMap<SegmentId, Load>,
    queue: VecDeque<(Purpose, OpKind)>,
    /// Reads that nobody waits for yet.
    ahead: VecDeque<(Purpose, OpKind)>,
    /// Reads given to the host.
    pub(crate) in_flight: u32,
    /// Reads queued or given to the host, by segment: such a segment is not recycled.
    users: FxHashMap<SegmentId, u32>,
}

impl Reads {
    /// New records, or an end: whoever waits at the tail of this log looks again.
    pub(crate) fn wake(&mut self, log: LogId) {
        if !self.parked.is_empty()
            && let Some(jobs) = self.parked.remove(&log)
        {
            for id in &jobs {
                self.forget_deadline(*id);
            }
            self.woken.extend(jobs);
        }
    }

    pub(crate) fn park(&mut self, log: LogId, job: u64) {
        let mut parked = self.parked.remove(&log).unwrap_or_default();
        // Reads whose client went away would pile up at a log where nothing happens. Looking for
        // them whenever the list has doubled costs little for each read.
        if parked.len().is_power_of_two() {
            parked.retain(|id| {
                let job = self.jobs.get(id);
                let waits = job.is_some_and(|job| !job.request.reply.is_abandoned());
                if !waits {
                    self.forget_deadline(*id);
                    self.jobs.remove(id);
                }
                waits
            });
        }
        parked.insert(job);
        self.parked.insert(log, parked);
        let until = self.jobs[&job].until;
        if until != NEVER {
            self.deadlines.insert((until, job));
        }
    }

    fn forget_deadline(&mut self, job: u64) {
        if let Some(job_until) = self.jobs.get(&job).map(|job| job.until) {
            self.deadlines.remove(&(job_until, job));
        }
    }

    /// When the first wait of a parked read is over.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        self.deadlines.first().map(|(until, _)| *until)
    }

    /// A parked read whose wait is over; it is parked no longer.
    pub(crate) fn poll_deadline(&mut self) -> Option<u64> {
        let (until, id) = *self.deadlines.first()?;
        if until > self.now_us {
            return None;
        }
        self.deadlines.pop_first();
        let log = self.jobs[&id].request.log;
        let parked = self.parked.get_mut(&log).expect("who has a deadline is parked");
        assert!(parked.remove(&id), "who has a deadline is parked");
        if parked.is_empty() {
            self.parked.remove(&log);
        }
        Some(id)
    }

    /// The shard stopped: nothing comes any more for those who wait at a tail.
    pub(crate) fn stop(&mut self, stopped: &Stopped, answers: &mut VecDeque<Answer>) {
        let mut parked: Vec<u64> = self.parked.drain().flat_map(|(_, jobs)| jobs).collect();
        parked.sort_unstable();
        self.deadlines.clear();
        for job in parked.into_iter().filter_map(|id| self.jobs.remove(&id)) {
            answers.push_back(Answer::other(job.request.reply, Err(stopped.clone().into())));
        }
    }

    /// Queues a direct read.
    pub(crate) fn enqueue(
        &mut self,
        purpose: Purpose,
        segment: SegmentId,
        offset: u64,
        len: u64,
        ahead: bool,
    ) {
        let buf = Buf::zeroed(usize::try_from(len).expect("64-bit platforms only"));
        *self.users.entry(segment).or_default() += 1;
        let queue = if ahead { &mut self.ahead } else { &mut self.queue };
        queue.push_back((purpose, OpKind::Read { segment, offset, buf }));
    }

    pub(crate) fn queue_side(&mut self, segment: SegmentId, kind: OpKind) {
        *self.users.entry(segment).or_default() += 1;
        self.queue.push_back((Purpose::Read(ReadFor::Side(segment)), kind));
    }

    /// The next one for the device.
    pub(crate) fn poll(&mut self, is_writing: bool) -> Option<(Purpose, OpKind)> {
        let ahead_max = if is_writing { READS_BESIDE_WRITES_MAX } else { READS_IN_FLIGHT_MAX };
        if self.in_flight < READS_IN_FLIGHT_MAX
            && let Some(next) = self.queue.pop_front()
        {
            return Some(next);
        }
        if self.in_flight < ahead_max { self.ahead.pop_front() } else { None }
    }

    pub(crate) fn has_queued(&self) -> bool {
        !self.queue.is_empty() || !self.ahead.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.queue.clear();
        self.ahead.clear();
    }

    /// A queued read of the segment is over.
    pub(crate) fn used(&mut self, segment: SegmentId) {
        let users = self.users.get_mut(&segment).expect("it was queued");
        *users -= 1;
        if *users == 0 {
            self.users.remove(&segment);
        }
    }

    /// Whether a read of the segment is queued or under way.
    pub(crate) fn uses(&self, segment: SegmentId) -> bool {
        self.users.contains_key(&segment)
    }
}
