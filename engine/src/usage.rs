//! Finding out where the space is: walks over the indexes of all segments, one at a time.
//!
//! ```text
//! request -> job: segments, newest first -> index (cache, or loaded) -> row -> .. -> answer
//! ```
//!
//! Jobs are carried out one after the other, in turns between other work. What is told is of the
//! time when each segment was looked into.
//!
//! Not here: what is told (`space`).

use std::collections::{BTreeMap, VecDeque};

use crate::error::{LogError, Stopped};
use crate::index::{LogSpan, SegmentIndex};
use crate::load::Waiter;
use crate::position::{LogId, SegmentId};
use crate::reply::Reply;
use crate::request::Answer;
use crate::shard::Shard;
use crate::space::{LogRange, LogSegment, LogSpace, SegmentSpace, ShardSpace};

/// What is asked.
enum For {
    Shard(Box<ShardSpace>, BTreeMap<LogId, LogSpace>, Reply<ShardSpace, Stopped>),
    Log(LogId, Vec<LogSegment>, Reply<Vec<LogSegment>, LogError>),
}

struct Job {
    /// Sealed segments still to be looked into, the newest last; `None` before it began.
    left: Option<Vec<SegmentId>>,
    what: For,
}

/// Jobs of a shard.
#[derive(Default)]
pub(crate) struct Usage {
    jobs: VecDeque<Job>,
    /// An index is being loaded for the first one.
    loading: bool,
}

impl Shard {
    pub(crate) fn ask_space(&mut self, reply: Reply<ShardSpace, Stopped>) {
        let what = For::Shard(Box::default(), BTreeMap::new(), reply);
        self.usage.jobs.push_back(Job { left: None, what });
    }

    pub(crate) fn ask_log_segments(&mut self, log: LogId, reply: Reply<Vec<LogSegment>, LogError>) {
        self.usage.jobs.push_back(Job { left: None, what: For::Log(log, Vec::new(), reply) });
    }

    /// Goes on with the first job, unless it waits.
    pub(crate) fn poll_usage(&mut self) {
        // During a roll nobody knows where the newest records stand.
        while !self.usage.loading && self.roll.is_none() {
            let Some(mut job) = self.usage.jobs.pop_front() else { return };
            let mut left = match job.left.take() {
                Some(left) => left,
                None => {
                    if let Some(newest) = self.newest() {
                        let index = std::mem::take(&mut self.index);
                        self.look_at_space(&mut job, newest, &index);
                        self.index = index;
                    }
                    let live = self.catalog.segments().filter(|s| !s.freed);
                    live.map(|s| s.segment).collect()
                }
            };
            let Some(segment) = left.pop().filter(|_| !self.is_enough(&job)) else {
                self.answer_space(job);
                continue;
            };
            let lives = self.catalog.segment(segment).is_some_and(|row| !row.freed);
            if let Some(index) = self.cache.take(segment).filter(|_| lives) {
                self.look_at_space(&mut job, segment, &index);
                self.cache.insert(segment, index);
            } else if lives {
                left.push(segment);
                self.usage.loading = true;
                self.load(segment, Waiter::Usage);
            }
            job.left = Some(left);
            self.usage.jobs.push_front(job);
        }
    }

    /// The index that was asked for is here, or cannot be had: then the segment is told without
    /// its logs.
    pub(crate) fn usage_loaded(&mut self, segment: SegmentId, index: Option<&SegmentIndex>) {
        self.usage.loading = false;
        // Who asked may have been refused meanwhile.
        let Some(mut job) = self.usage.jobs.pop_front() else { return };
        if let Some(left) = job.left.as_mut().filter(|left| left.last() == Some(&segment)) {
            left.pop();
            let unknown = SegmentIndex::default();
            self.look_at_space(&mut job, segment, index.unwrap_or(&unknown));
        }
        self.usage.jobs.push_front(job);
    }

    /// Whether all that a log still has was seen.
    fn is_enough(&self, job: &Job) -> bool {
        let For::Log(log, found, _) = &job.what else { return false };
        let first = self.catalog.log(*log).map(|state| state.first);
        first.is_none_or(|first| found.last().is_some_and(|last| last.first <= first))
    }

    fn look_at_space(&self, job: &mut Job, segment: SegmentId, index: &SegmentIndex) {
        let row = self.catalog.segment(segment);
        match &mut job.what {
            For::Log(log, found, _) => {
                let live = index.log(*log).and_then(|span| self.live_part(*log, span));
                let sealed = row.is_some();
                found.extend(live.map(|live| LogSegment { segment, sealed, ..live }));
            }
            For::Shard(space, logs, _) => {
                let mut row = self.segment_space(segment, index);
                row.logs.sort_unstable_by_key(|log| std::cmp::Reverse((log.bytes, log.log)));
                row.log_count = row.logs.len();
                let dead = row.dead_bytes();
                for range in &row.logs {
                    let log = logs.entry(range.log).or_default();
                    log.name.clone_from(&range.name);
                    log.live_bytes += range.bytes;
                    log.segments += u64::from(row.sealed);
                    log.keeps_bytes += dead;
                }
                row.logs.truncate(SegmentSpace::LOGS_MAX);
                space.segments.push(row);
            }
        }
    }

    fn segment_space(&self, segment: SegmentId, index: &SegmentIndex) -> SegmentSpace {
        let row = self.catalog.segment(segment);
        let given_back = self.pins.punched(segment);
        let size = self.config.segment_size;
        let cut = row.filter(|row| row.shortened && given_back == 0);
        let file = cut.map_or(size, |row| row.end.min(size));
        let mut out = SegmentSpace {
            segment,
            sealed: row.is_some(),
            disk_bytes: file - given_back,
            given_back,
            ..SegmentSpace::default()
        };
        for (log, span) in index.spans() {
            let last = span.sections.last().map_or(0, |section| section.time_us);
            out.last_us = out.last_us.max(last);
            let Some(live) = self.live_part(log, span) else { continue };
            let name = self.catalog.log(log).expect("it lives").name.clone();
            let LogSegment { first, next, bytes, .. } = live;
            out.live_bytes += bytes;
            out.logs.push(LogRange { log, name, first, next, bytes });
        }
        for (_, state) in self.catalog.readers() {
            let chained = state.stored.head.is_some() && state.stored.oldest <= segment;
            if chained || state.parts.iter().any(|part| part.segment == segment) {
                out.processors.push(state.stored.name.clone());
            }
        }
        out
    }

    /// The live records of a log in a segment; its number is to be filled in.
    fn live_part(&self, log: LogId, span: &LogSpan) -> Option<LogSegment> {
        let first = self.catalog.log(log)?.first;
        let begin = span.sections.partition_point(|section| section.end() <= first);
        let live = &span.sections[begin..];
        let (head, last) = live.first().zip(live.last())?;
        Some(LogSegment {
            segment: SegmentId(0),
            sealed: false,
            first: head.first.max(first),
            next: last.end(),
            bytes: live.iter().map(|section| u64::from(section.len)).sum(),
            first_us: head.time_us,
            last_us: last.time_us,
        })
    }

    fn answer_space(&mut self, job: Job) {
        match job.what {
            For::Log(log, mut found, reply) => {
                found.reverse();
                let found = self.catalog.log(log).map(|_| found).ok_or(LogError::Dropped);
                self.answer(Answer::other(reply, found));
            }
            For::Shard(mut space, logs, reply) => {
                space.logs = logs.into_values().collect();
                space.shard = self.config.shard;
                space.spares = self.spares.count();
                space.spare_bytes = space.spares * self.config.segment_size;
                let dead = SegmentSpace::dead_bytes;
                space.segments.sort_by_key(|row| (std::cmp::Reverse(dead(row)), row.segment));
                let key = |log: &LogSpace| std::cmp::Reverse((log.keeps_bytes, log.live_bytes));
                space.logs.sort_by_key(key);
                self.answer(Answer::other(reply, Ok(*space)));
            }
        }
    }

    /// The shard ends: nobody looks any more.
    pub(crate) fn refuse_usage(&mut self, stopped: &Stopped) {
        for job in std::mem::take(&mut self.usage.jobs) {
            self.answer_now(match job.what {
                For::Shard(_, _, reply) => Answer::other(reply, Err(stopped.clone())),
                For::Log(_, _, reply) => Answer::other(reply, Err(stopped.clone().into())),
            });
        }
    }
}
