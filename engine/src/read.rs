//! Reading: from the entries still in memory, else just the blocks that hold the log's sections.
//!
//! ```text
//! read -> which segment? -> which sections? -> in memory? -> answer
//!             |  index not here                 | no
//!             '-> load it, then again           '-> direct reads, each section checked -> answer
//! ```
//!
//! One answer covers sections of one segment, in order, without a gap, and only durable records. A
//! read at the tail is parked until there is a record. Nothing is copied: an answer shares the
//! memory that was written or read.
//!
//! Not here: what waits for the device (`reads`), where records stand (`seek`), loading indexes
//! (`load`), and splitting sections into records (the client does).

use std::ops::Range;

use bytes::Bytes;

use crate::error::{Damaged, ReadError, Stopped, records_from};
use crate::format::Place;
use crate::format::entry::records_match;
use crate::index::SectionRef;
use crate::io::{Completion, Now};
use crate::limits::{BLOCK_SIZE, READ_PIECE_BESIDE_WRITES, READ_PIECE_SIZE, READ_SIZE_MAX};
use crate::load::Waiter;
use crate::position::{Dlsn, LogId, SegmentId, Sequence};
use crate::reads::{Bracket, Chosen, NEVER, Piece, ReadJob, Search};
use crate::request::{
    Answer, At, LOG_OF_LOGS, Planned, ReadAnswer, ReadRequest, SectionBytes, Wait,
};
use crate::seek::{Sought, Where};
use crate::shard::{Purpose, ReadFor, Shard};

/// Sections at most so far apart are read together.
const GAP_MAX: u64 = 32 * 1024;

impl Shard {
    /// Begins a read.
    pub(crate) fn read(&mut self, request: ReadRequest, now: Now) {
        self.metrics.counted.read_requests += 1;
        self.metrics.counted.read_ahead_requests += u64::from(request.ahead);
        let id = self.reads.next_job;
        self.reads.next_job += 1;
        self.reads.now_us = now.mono_us.max(self.reads.now_us);
        let until = match request.wait {
            Wait::No => 0,
            Wait::For(wait) => {
                let wait = u64::try_from(wait.as_micros()).unwrap_or(NEVER);
                now.mono_us.saturating_add(wait)
            }
            Wait::Until(until) => until,
            Wait::Forever => NEVER,
        };
        let job = ReadJob {
            request,
            segment: SegmentId(0),
            first: Sequence::FIRST,
            planned: Vec::new(),
            pieces: Vec::new(),
            waits_for: 0,
            rebuilt: false,
            taken_us: self.metrics.taken_us(),
            parked_us: None,
            was_parked: false,
            missed_index: false,
            search: Search::default(),
            bracket: Bracket::default(),
            settled: None,
            until,
            proven: true,
            end_before: None,
        };
        self.reads.jobs.insert(id, job);
        self.advance_read(id);
    }

    /// Answers the parked reads whose wait is over.
    pub(crate) fn end_waits(&mut self, now: Now) {
        self.reads.now_us = now.mono_us.max(self.reads.now_us);
        while let Some(id) = self.reads.poll_deadline() {
            if self.unpark(id) {
                self.advance_read(id);
            }
        }
    }

    /// Goes on with the reads that were parked at a log where something happened.
    pub(crate) fn advance_woken(&mut self) {
        for job in std::mem::take(&mut self.reads.woken) {
            if self.unpark(job) {
                self.advance_read(job);
            }
        }
    }

    /// Goes on with a read that has nothing under way.
    pub(crate) fn advance_read(&mut self, id: u64) {
        let job = &self.reads.jobs[&id];
        let (log, at) = (job.request.log, job.request.at);
        if log == LOG_OF_LOGS {
            return self.advance_watch(id);
        }
        let Some(state) = self.catalog.log(log) else {
            return self.refuse_read(id, ReadError::Dropped);
        };
        let (first, durable_next) = (state.first, state.durable_next);
        let sequence = match at {
            At::Earliest => first,
            // Everything may be truncated, records on their way too.
            At::Latest => durable_next.max(first),
            At::Sequence(sequence) => sequence,
            At::Dlsn(dlsn) => match self.locate(id, log, dlsn) {
                Ok(Some(sequence)) => sequence,
                Ok(None) => return self.wait_or_answer(id, durable_next),
                Err(Where::Load(segment)) => return self.load(segment, Waiter::Read(id)),
                Err(Where::Gone) => return self.refuse_read(id, ReadError::Truncated { first }),
                Err(Where::Segment(segment) | Where::Missing(segment)) => {
                    let damage = self.missing(log, first, segment);
                    return self.refuse_read(id, ReadError::Damaged { log, damage });
                }
            },
            At::TxId(_) | At::Time(_) => match self.sought(id, log, at) {
                Sought::At(sequence) => sequence,
                Sought::Undecided => return self.wait_or_answer(id, durable_next),
                Sought::Load(segment) => return self.load(segment, Waiter::Read(id)),
                Sought::Truncated => {
                    return self.refuse_read(id, ReadError::Truncated { first });
                }
            },
        };
        if sequence < first && at != At::Earliest {
            return self.refuse_read(id, ReadError::Truncated { first });
        }
        let job = self.reads.jobs.get_mut(&id).expect("it is being advanced");
        let resolves = match at {
            At::Earliest | At::Sequence(_) => false,
            At::Dlsn(_) => sequence < durable_next,
            // From here on it waits for this record, whatever comes meanwhile.
            At::Latest => true,
            At::TxId(_) | At::Time(_) => {
                job.settled = (sequence >= durable_next).then_some(sequence);
                false
            }
        };
        if resolves {
            job.request.at = At::Sequence(sequence);
        }
        if sequence >= durable_next {
            return self.wait_or_answer(id, sequence);
        }
        match self.find(id, log, sequence) {
            Where::Segment(segment) => self.plan(id, segment, sequence),
            Where::Load(segment) => self.load(segment, Waiter::Read(id)),
            Where::Gone => unreachable!("only a position can be gone"),
            Where::Missing(segment) => {
                let damage = self.missing(log, sequence, segment);
                self.refuse_read(id, ReadError::Damaged { log, damage });
            }
        }
    }

    fn wait_or_answer(&mut self, id: u64, next: Sequence) {
        let ends = self.is_over() || !self.closing.is_empty() || self.stopped.is_some();
        let job = self.reads.jobs.get_mut(&id).expect("it is being advanced");
        let (log, waits) = (job.request.log, job.until > self.reads.now_us);
        let state = self.catalog.log(log).expect("the caller found it");
        let at_end = state.sealed && next >= state.next;
        if waits && !ends && !at_end {
            // What comes meanwhile may change where it begins.
            job.bracket = Bracket::default();
            return self.park(log, id);
        }
        let job = self.reads.jobs.remove(&id).expect("it is being advanced");
        if waits && !at_end {
            // The shard ends: no record will come.
            let error = self.stopped.clone().unwrap_or_else(Stopped::closed).into();
            self.metrics.read_refused(&error);
            return self.answer_now(Answer::other(job.request.reply, Err(error)));
        }
        let end = self.catalog.log(log).map_or(next, |state| state.next);
        let next = if at_end { end } else { next };
        let none = self.read_answer(&job, next..next, Vec::new());
        let answer = ReadAnswer { end: at_end, ..none };
        self.count_read(&job, &answer);
        let answer = Answer::other(job.request.reply, Ok(answer));
        let sealed = self.catalog.log(log).map_or(0, |state| state.sealed_ordinal);
        if at_end && sealed > self.journal.durable_ordinal() {
            // It tells that the log is sealed, which is not durable yet.
            return self.answer(answer);
        }
        self.answer_read_of(log, answer);
    }

    fn read_answer(
        &self,
        job: &ReadJob,
        records: Range<Sequence>,
        sections: Vec<SectionBytes>,
    ) -> ReadAnswer {
        let state = self.catalog.log(job.request.log);
        ReadAnswer {
            first: records.start,
            next: records.end,
            earliest: state.expect("the caller found it").first,
            sections,
            proven: job.proven,
            until: (job.until != NEVER).then_some(job.until),
            over: job.until <= self.reads.now_us,
            end: false,
            frontier: self.frontier(),
            next_log: self.catalog.next_log(),
        }
    }

    /// Every record that is not durable yet will stand here or later.
    fn frontier(&self) -> Dlsn {
        if let Some(active) = self.journal.active() {
            return Dlsn::new(active.segment, active.durable, 0);
        }
        if let Some(ended) = &self.ended {
            return Dlsn::new(ended.segment, ended.entries, 0);
        }
        let last = self.catalog.segments().next_back();
        Dlsn::new(SegmentId(last.map_or(0, |last| last.segment.0 + 1)), 0, 0)
    }

    /// A read that waits for new logs.
    fn advance_watch(&mut self, id: u64) {
        let next_log = self.catalog.next_log();
        let job = &self.reads.jobs[&id];
        let new = job.request.at != At::Sequence(Sequence(next_log.0));
        let ends = self.is_over() || !self.closing.is_empty() || self.stopped.is_some();
        if !new && !ends && job.until > self.reads.now_us {
            return self.reads.park(LOG_OF_LOGS, id);
        }
        let job = self.reads.jobs.remove(&id).expect("it is being advanced");
        if ends {
            let stopped = self.stopped.clone().unwrap_or_else(Stopped::closed);
            return self.answer_now(Answer::other(job.request.reply, Err(stopped.into())));
        }
        let next = Sequence(next_log.0);
        let answer = ReadAnswer {
            first: next,
            next,
            earliest: Sequence::FIRST,
            sections: Vec::new(),
            proven: true,
            until: None,
            over: !new,
            end: false,
            frontier: self.frontier(),
            next_log,
        };
        // The log is not durable yet.
        self.answer(Answer::other(job.request.reply, Ok(answer)));
    }

    /// An answer tells where the log begins, so it waits until the truncation to there is durable.
    fn answer_read_of(&mut self, log: LogId, answer: Answer) {
        let durable = self.journal.durable_ordinal();
        if self.catalog.log(log).is_some_and(|state| state.first_ordinal > durable) {
            self.answer(answer);
        } else {
            self.answer_now(answer);
        }
    }

    fn refuse_read(&mut self, id: u64, error: ReadError) {
        let job = self.reads.jobs.remove(&id).expect("it is being advanced");
        self.metrics.read_refused(&error);
        let dropped = matches!(error, ReadError::Dropped);
        let answer = Answer::other(job.request.reply, Err(error));
        if dropped {
            // It reveals that the log is not there, which may not be durable yet.
            self.answer(answer);
        } else {
            self.answer_read_of(job.request.log, answer);
        }
    }

    /// Chooses the sections of an answer and reads those that are not in memory.
    fn plan(&mut self, id: u64, segment: SegmentId, sequence: Sequence) {
        let job = &self.reads.jobs[&id];
        let (log, rebuilt) = (job.request.log, job.rebuilt);
        let bytes_max = u64::from(job.request.bytes_max.clamp(1, READ_SIZE_MAX));
        let is_newest = self.newest() == Some(segment);
        let index = if is_newest {
            &self.index
        } else if let Some(index) = self.cache.get(segment) {
            index
        } else {
            // Forgotten since it was looked at.
            return self.load(segment, Waiter::Read(id));
        };
        let sections = index.log(log).and_then(|span| span.from(sequence));
        let Some(sections) = sections else {
            // A gap. A side file may be wrong: the segment itself decides.
            if !is_newest && !rebuilt {
                return self.rebuild_for(id, segment);
            }
            let damage = self.missing(log, sequence, segment);
            return self.refuse_read(id, ReadError::Damaged { log, damage });
        };
        let mut planned = Vec::new();
        let mut bytes = 0;
        let mut end = None;
        for section in sections {
            if bytes >= bytes_max || end.is_some_and(|end| end != section.first) {
                break;
            }
            end = Some(section.end());
            bytes += u64::from(section.raw_len);
            planned.push(*section);
        }
        self.count_hit(id, is_newest);
        self.start_pieces(id, segment, sequence, &planned);
    }

    fn start_pieces(
        &mut self,
        id: u64,
        segment: SegmentId,
        sequence: Sequence,
        sections: &[SectionRef],
    ) {
        let block = u64::from(BLOCK_SIZE);
        let piece_max = if self.is_writing { READ_PIECE_BESIDE_WRITES } else { READ_PIECE_SIZE };
        let mut pieces: Vec<(u64, u64)> = Vec::new();
        let mut planned = Vec::with_capacity(sections.len());
        for section in sections {
            let in_memory = self.tail.get(segment, section.entry_offset).map(|entry| {
                let begin = section.offset as usize;
                entry.slice(begin..begin + section.len as usize)
            });
            let source = in_memory.ok_or_else(|| {
                let range = section.range();
                let begin = range.start - range.start % block;
                let end = range.end.next_multiple_of(block);
                match pieces.last_mut() {
                    Some((start, stop))
                        if begin <= *stop + GAP_MAX && end - *start <= piece_max =>
                    {
                        *stop = end;
                    }
                    _ => pieces.push((begin, end)),
                }
                pieces.len() - 1
            });
            planned.push(Chosen { section: *section, source });
        }
        let job = self.reads.jobs.get_mut(&id).expect("it is being planned");
        job.segment = segment;
        job.first = sequence;
        job.planned = planned;
        job.waits_for = pieces.len();
        self.metrics.counted.device_reads += pieces.len() as u64;
        let piece = |offset| Piece { offset, bytes: Bytes::new(), failed: None };
        job.pieces = pieces.iter().map(|(begin, _)| piece(*begin)).collect();
        let ahead = job.request.ahead;
        for (piece, (begin, end)) in pieces.iter().enumerate() {
            let purpose = Purpose::Read(ReadFor::Piece { job: id, piece });
            self.reads.enqueue(purpose, segment, *begin, end - begin, ahead);
        }
        if pieces.is_empty() {
            return self.answer_read(id);
        }
        let job = self.reads.jobs.get_mut(&id).expect("it was planned");
        let (log, told) = (job.request.log, job.request.planned.take());
        if let Some((told, last)) = told.zip(sections.last()) {
            let durable_next = self.catalog.log(log).map_or(last.end(), |log| log.durable_next);
            let planned = Planned { next: last.end(), more: last.end() < durable_next };
            self.answer_now(Answer::other(told, Ok(planned)));
        }
    }

    /// A direct read is over.
    pub(crate) fn piece_read(&mut self, id: u64, piece: usize, done: Completion) {
        let Some(job) = self.reads.jobs.get_mut(&id) else {
            unreachable!("a read with pieces under way is kept")
        };
        let segment = job.segment;
        let place = &mut job.pieces[piece];
        match done.result {
            Ok(count) => {
                self.metrics.counted.device_read_bytes += u64::from(count);
                let mut bytes = done.buf.expect("a read gives its buffer back").freeze();
                bytes.truncate(count as usize);
                place.bytes = bytes;
            }
            Err(source) => {
                place.failed = Some(ReadError::Io { segment, offset: place.offset, source });
            }
        }
        job.waits_for -= 1;
        let over = job.waits_for == 0;
        self.reads.used(segment);
        if over {
            self.answer_read(id);
        }
        self.retention_due |= !self.reads.uses(segment);
    }

    /// Everything planned is in memory: checks what was read, and answers.
    fn answer_read(&mut self, id: u64) {
        let log = self.reads.jobs[&id].request.log;
        if self.catalog.log(log).is_none() {
            return self.refuse_read(id, ReadError::Dropped);
        }
        let job = self.reads.jobs.remove(&id).expect("it was planned");
        let segment = job.segment;
        let mut sections = Vec::with_capacity(job.planned.len());
        let mut failed = None;
        for Chosen { section, source } in &job.planned {
            match self.section_bytes(log, segment, section, source, &job.pieces) {
                Ok(bytes) => sections.push(SectionBytes {
                    first: section.first,
                    count: section.count,
                    segment,
                    entry: section.entry,
                    time_us: section.time_us,
                    codec: section.codec,
                    raw_len: section.raw_len,
                    bytes,
                }),
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        // Good records before damaged ones are delivered first.
        if let Some(last) = sections.last() {
            let next = last.first.after(last.count.into());
            let answer = self.read_answer(&job, job.first..next, sections);
            self.count_read(&job, &answer);
            return self.answer_read_of(log, Answer::other(job.request.reply, Ok(answer)));
        }
        let error = failed.expect("a read plans at least one section");
        let damaged = matches!(error, ReadError::Damaged { .. });
        if damaged && !job.rebuilt && self.catalog.segment(segment).is_some() {
            // The index may be wrong, not the segment.
            self.reads.jobs.insert(id, ReadJob { planned: Vec::new(), ..job });
            return self.rebuild_for(id, segment);
        }
        self.metrics.read_refused(&error);
        self.answer_now(Answer::other(job.request.reply, Err(error)));
    }

    fn section_bytes(
        &self,
        log: LogId,
        segment: SegmentId,
        section: &SectionRef,
        source: &Result<Bytes, usize>,
        pieces: &[Piece],
    ) -> Result<Bytes, ReadError> {
        let piece = match source {
            Ok(bytes) => return Ok(bytes.clone()),
            Err(piece) => &pieces[*piece],
        };
        if let Some(error) = &piece.failed {
            return Err(error.clone());
        }
        let begin = section.range().start - piece.offset;
        let begin = usize::try_from(begin).expect("64-bit platforms only");
        let end = begin + section.len as usize;
        let place = Place { entry: section.entry, ..self.config.place(segment) };
        let (first, count, sum) = (section.first, section.count, section.checksum);
        let row = (section.codec, first, count, sum);
        if end <= piece.bytes.len() {
            let bytes = piece.bytes.slice(begin..end);
            if records_match(&place, log, row, &bytes) {
                return Ok(bytes);
            }
        }
        let dlsn = Dlsn::new(segment, section.entry, 0);
        let damage = Damaged {
            shard: self.config.shard,
            segment,
            offset: section.range().start,
            what: "the section's bytes do not match its checksum",
            at_risk: format!("{count} {}", records_from(log, first, dlsn)),
        };
        Err(ReadError::Damaged { log, damage })
    }

    fn rebuild_for(&mut self, id: u64, segment: SegmentId) {
        let job = self.reads.jobs.get_mut(&id).expect("it waits for the index");
        job.rebuilt = true;
        self.cache.remove(segment);
        self.rebuild(segment, Waiter::Read(id));
    }

    /// The read waited for something that cannot be had.
    pub(crate) fn fail_read(&mut self, id: u64, error: ReadError) {
        if let Some(job) = self.reads.jobs.remove(&id) {
            self.metrics.read_refused(&error);
            self.answer_now(Answer::other(job.request.reply, Err(error)));
        }
    }
}
