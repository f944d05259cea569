//! One shard: everything it decides, and nothing it does.
//!
//! ```text
//! handle_request    ->  +-------+  -> poll_op      (the host runs it)
//! handle_completion ->  | Shard |  -> poll_answer  (the host delivers it)
//!               Now ->  +-------+  -> poll_timeout (the host comes back then)
//! ```
//!
//! The host calls `handle_*` as things happen, then `poll_op` until there is none, then delivers
//! the answers. Every completion belongs to an operation that was polled before. Given the same
//! calls with the same times a shard does the same, byte for byte.
//!
//! No answer runs ahead of durability: each waits for the newest entry whose effects it may reveal.
//! After a failed write or sync the shard is stopped for good: reads of durable records go on, all
//! else is answered [`Stopped`].
//!
//! Not here: requests (`serve`, `owner`), reading (`read`), segments (`roll`, `retention`).

use std::collections::{BTreeMap, VecDeque};

use crate::buf::Buf;
use crate::catalog::Catalog;
use crate::commit::{InFlight, Journal, Work};
use crate::error::{OpenError, Stopped};
use crate::expiry::Expiry;
use crate::format::entry::Flags;
use crate::format::{EngineId, Place};
use crate::index::{IndexCache, SectionRef, SegmentIndex};
use crate::io::{Completion, Found, IoError, Now, Op, OpId, OpKind, SpareId};
use crate::judge::{Last, Later, Newer};
use crate::limits::{IDLE_WATERMARK_US, INDEX_CACHE_SIZE, WRITING_US};
use crate::metrics::Meter;
use crate::pins::Pins;
use crate::position::{LogId, SegmentId, ShardId};
use crate::punch::{Holes, Punches};
use crate::rates::Meters;
use crate::reads::Reads;
use crate::recover::{Ended, Recovery};
use crate::replay::Identity;
use crate::reply::Reply;
pub use crate::request::Answer;
use crate::request::Request;
use crate::restore::Walks;
use crate::roll::{Roll, SOON_PERCENT, Spares};
use crate::sync::{SyncMethod, SyncPolicy};
use crate::tail::TailCache;
use crate::usage::Usage;

/// What a shard is told when it is opened.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// Identity of the engine.
    pub engine: EngineId,
    /// Which shard.
    pub shard: ShardId,
    /// Size of its segments in bytes.
    pub segment_size: u64,
    /// Whether the superblock says that it has begun.
    pub begun: bool,
    /// Bytes of recent entries kept for readers.
    pub tail_cache_size: u64,
    /// Always this way of syncing; `None` to choose and watch.
    pub sync_method: Option<SyncMethod>,
}

impl ShardConfig {
    pub(crate) fn place(&self, segment: SegmentId) -> Place {
        let (engine, shard) = (self.engine, self.shard);
        Place { engine, shard, segment, entry: 0, offset: 0 }
    }
}

/// What an operation under way is for.
#[derive(Debug)]
pub(crate) enum Purpose {
    Recovery,
    Entry(u64),
    Sync,
    RollWrite,
    MakeSpare,
    UseSpare,
    /// A file without records becomes this spare.
    Reuse(SpareId),
    /// A freed segment becomes a spare, or goes.
    Recycle(SegmentId, Option<SpareId>),
    /// Holes of so many bytes are made in a segment.
    Punch(SegmentId, u64),
    /// Nothing depends on it; a failure is only logged.
    Background(&'static str),
    /// A read of a segment or its side file.
    Read(ReadFor),
}

/// What is read.
#[derive(Debug)]
pub(crate) enum ReadFor {
    /// A piece of what a client asked for.
    Piece { job: u64, piece: usize },
    /// The side file of a sealed segment.
    Side(SegmentId),
    /// The next bytes of a sealed segment whose index is rebuilt.
    Chunk(SegmentId),
    /// An entry of a state chain.
    Walk(u64),
}

/// What happens once everything staged before it is durable.
pub(crate) enum Deferred {
    Answer(Answer),
    /// A processor's epoch is durable: now its checkpoint may be read.
    Restore(u64),
    /// A freed segment's record is durable: now its file may go.
    Freed(SegmentId),
    /// The record of holes in a segment is durable: now they may be made.
    Punch(Holes),
    /// A log's end is durable: who waits there is told.
    Sealed(LogId),
}

/// See the module's head.
pub struct Shard {
    pub(crate) config: ShardConfig,
    pub(crate) recovery: Option<Recovery>,
    pub(crate) opened: Option<Result<(), OpenError>>,
    pub(crate) recovery_facts: Option<(Last, Later, Newer)>,
    pub(crate) catalog: Catalog,
    pub(crate) journal: Journal,
    pub(crate) spares: Spares,
    pub(crate) roll: Option<Roll>,
    pub(crate) roll_wanted: bool,
    /// The segment that recovery ended, until a fresh one is durable.
    pub(crate) ended: Option<Ended>,
    /// Files without records, of full size or not, that go after the next roll.
    pub(crate) unused: Vec<(SegmentId, bool)>,
    pub(crate) begun: bool,
    /// Index of the active segment: durable sections only.
    pub(crate) index: SegmentIndex,
    pub(crate) cache: IndexCache,
    pub(crate) tail: TailCache,
    pub(crate) reads: Reads,
    pub(crate) walks: Walks,
    pub(crate) retention_due: bool,
    /// What keeps each sealed segment.
    pub(crate) pins: Pins,
    pub(crate) expiry: Expiry,
    pub(crate) punches: Punches,
    pub(crate) usage: Usage,
    pub(crate) meters: Meters,
    /// A write request that cannot be staged yet. Nothing overtakes it.
    held: Option<Request>,
    deferred: VecDeque<(u64, Deferred)>,
    answers: VecDeque<Answer>,
    purposes: BTreeMap<OpId, Purpose>,
    next_op: u32,
    pub(crate) queue: VecDeque<(Purpose, OpKind)>,
    last_durable_us: u64,
    /// Records were being written when last it was looked at: reads ahead stand back.
    pub(crate) is_writing: bool,
    /// Truncations and drops so far.
    pub(crate) removals: u64,
    /// When the last read or new spare was done.
    quiet_since_us: u64,
    pub(crate) stopped: Option<Stopped>,
    /// Who asked for the end.
    pub(crate) closing: Vec<Reply<(), Stopped>>,
    pub(crate) finished: bool,
    pub(crate) metrics: Meter,
}

impl Shard {
    /// A shard that is about to be opened: in its directory these files stand.
    #[must_use]
    pub fn open(config: ShardConfig, found: &[Found]) -> Self {
        let policy = config.sync_method.map_or_else(SyncPolicy::watched, SyncPolicy::always);
        let identity = Identity {
            engine: config.engine,
            shard: config.shard,
            segment_size: config.segment_size,
            begun: config.begun,
        };
        let journal = Journal::new(
            config.engine,
            config.shard,
            config.segment_size,
            config.tail_cache_size,
            policy,
        );
        let mut shard = Self {
            recovery: Some(Recovery::new(identity, found)),
            opened: None,
            recovery_facts: None,
            catalog: Catalog::default(),
            journal,
            spares: Spares::new(Vec::new(), 0),
            roll: None,
            roll_wanted: false,
            ended: None,
            unused: Vec::new(),
            begun: config.begun,
            index: SegmentIndex::default(),
            cache: IndexCache::new(INDEX_CACHE_SIZE),
            tail: TailCache::new(config.tail_cache_size),
            reads: Reads::default(),
            walks: Walks::default(),
            retention_due: false,
            pins: Pins::default(),
            expiry: Expiry::default(),
            punches: Punches::default(),
            usage: Usage::default(),
            meters: Meters::default(),
            held: None,
            deferred: VecDeque::new(),
            answers: VecDeque::new(),
            purposes: BTreeMap::new(),
            next_op: 0,
            queue: VecDeque::new(),
            last_durable_us: 0,
            is_writing: false,
            removals: 0,
            quiet_since_us: 0,
            stopped: None,
            closing: Vec::new(),
            finished: false,
            metrics: Meter::default(),
            config,
        };
        shard.recover(None);
        shard
    }

    /// Whether opening is over, and how it ended. Said once.
    ///
    /// `Ok` means that the journal was read. After an unclean end a fresh segment is still being
    /// made; requests that write wait for it by themselves, records can be read at once.
    pub fn poll_opened(&mut self) -> Option<Result<(), OpenError>> {
        self.opened.take()
    }

    /// How the journal ended before it was opened, as far as that was judged.
    #[must_use]
    pub fn recovery_facts(&self) -> Option<(Last, Later, Newer)> {
        self.recovery_facts
    }

    /// Keeps about so many bytes of sealed segments' indexes from now on. An engine keeps
    /// [`INDEX_CACHE_SIZE`]; only with far less do small tests ever forget one.
    pub fn limit_index_cache(&mut self, bytes: usize) {
        self.cache = IndexCache::new(bytes);
    }

    /// Whether the host may hand over another request.
    #[must_use]
    pub fn wants_requests(&self) -> bool {
        self.held.is_none() && self.recovery.is_none()
    }

    /// Whether a request that writes could be given to the device now.
    #[must_use]
    pub fn can_issue(&self) -> bool {
        self.journal.has_slot()
    }

    /// Truncations and drops that were staged so far.
    #[must_use]
    pub fn removals(&self) -> u64 {
        self.removals
    }

    /// How many more requests an entry waits for while others are in flight.
    #[must_use]
    pub fn gathers(&self) -> u32 {
        if self.stopped.is_some() { 0 } else { self.journal.gathers() }
    }

    /// Whether the shard was closed and nothing is under way.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.finished && self.purposes.is_empty()
    }

    /// Whether the end was reached.
    pub(crate) fn is_over(&self) -> bool {
        self.finished
    }

    /// Takes a request.
    pub fn handle_request(&mut self, request: Request, now: Now) {
        assert!(self.held.is_none(), "wants_requests() said no");
        self.metrics.take(now.mono_us);
        if let Some(request) = self.serve(request, now) {
            self.held = Some(request);
        }
    }

    /// An answer to hand out.
    pub fn poll_answer(&mut self) -> Option<Answer> {
        self.answers.pop_front()
    }

    /// When [`poll_op`](Self::poll_op) should be called even if nothing happens.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<u64> {
        if self.stopped.is_some() || self.finished {
            return None;
        }
        let waits_for_space = self.roll_wanted || self.ended.is_some() || self.held.is_some();
        let space = self
            .spares
            .retry_at()
            .filter(|_| waits_for_space || self.journal.percent_used() >= SOON_PERCENT);
        let due = [self.idle_at(), space, self.reads.next_deadline(), self.expiry_at()];
        due.into_iter().flatten().min()
    }

    /// When the shard has been idle long enough for a watermark that covers everything.
    fn idle_at(&self) -> Option<u64> {
        let active = self.journal.active()?;
        let quiet = self.journal.is_quiet() && self.roll.is_none() && self.held.is_none();
        let idle = quiet && !active.covered;
        (idle && self.journal.has_room_for_mark())
            .then_some(self.last_durable_us + IDLE_WATERMARK_US)
    }

    /// The next operation for the host.
    pub fn poll_op(&mut self, now: Now) -> Option<Op> {
        self.metrics.begin(now.mono_us);
        if let Some(held) = self.held.take() {
            self.held = self.serve(held, now);
            if self.held.is_none() {
                self.metrics.held_no_more();
            }
        }
        self.end_waits(now);
        let (purpose, kind) = self.next_work(now)?;
        let id = OpId(self.next_op);
        self.next_op = self.next_op.wrapping_add(1);
        self.reads.in_flight += u32::from(matches!(purpose, Purpose::Read(_)));
        let before = self.purposes.insert(id, purpose);
        assert!(before.is_none(), "an operation's number is reused after its completion only");
        Some(Op { id, kind })
    }

    fn next_work(&mut self, now: Now) -> Option<(Purpose, OpKind)> {
        if self.stopped.is_none() && self.recovery.is_none() && !self.finished {
            if let Some((work, kind)) = self.journal.poll(now) {
                return Some((purpose_of(work), kind));
            }
            if let Some(work) = self.poll_roll(now) {
                return Some(work);
            }
            self.poll_expiry(now);
            self.poll_retention();
            self.poll_usage();
            if let Some((work, kind)) = self.journal.poll(now) {
                return Some((purpose_of(work), kind));
            }
            if let Some((work, kind)) = self.poll_mark(now) {
                return Some((purpose_of(work), kind));
            }
        }
        if let Some(work) = self.queue.pop_front() {
            return Some(work);
        }
        let wrote = now.mono_us.saturating_sub(self.last_durable_us) < WRITING_US;
        let over = self.stopped.is_some() || !self.closing.is_empty();
        self.is_writing = !over && (wrote || !self.journal.is_quiet());
        self.reads.poll(self.is_writing)
    }

    /// An entry without content: when idle, so that its watermark covers what was written before,
    /// and at the end.
    fn poll_mark(&mut self, now: Now) -> Option<(Work, OpKind)> {
        if !self.closing.is_empty() && !self.finished {
            return self.poll_close(now);
        }
        let due = self.idle_at().is_some_and(|idle_at| idle_at <= now.mono_us);
        due.then(|| self.journal.mark(Flags::WATERMARK, now))
    }

    fn poll_close(&mut self, now: Now) -> Option<(Work, OpKind)> {
        let quiet = self.journal.is_quiet() && self.roll.is_none() && self.held.is_none();
        if !quiet || !self.deferred.is_empty() {
            return None;
        }
        let to_mark = self.journal.active().is_some_and(|active| !active.closed);
        if to_mark && self.ended.is_none() && self.journal.has_room_for_mark() {
            return Some(self.journal.mark(Flags::CLOSE, now));
        }
        // Reads that were asked for are answered: they only have to be started for that.
        if self.reads.has_queued() {
            return None;
        }
        self.finish(&Ok(()));
        None
    }

    /// The end: everyone who asked for it is told.
    pub(crate) fn finish(&mut self, result: &Result<(), Stopped>) {
        self.finished = true;
        self.refuse_usage(&Stopped::closed());
        self.reads.clear();
        for reply in std::mem::take(&mut self.closing) {
            self.answers.push_back(Answer::other(reply, result.clone()));
        }
    }

    /// Answers once everything staged is durable: the answer may reveal it.
    pub(crate) fn answer(&mut self, answer: Answer) {
        self.defer(Deferred::Answer(answer));
    }

    /// Answers now: the answer reveals nothing that is not durable.
    pub(crate) fn answer_now(&mut self, answer: Answer) {
        self.answers.push_back(answer);
    }

    pub(crate) fn defer(&mut self, deferred: Deferred) {
        let ordinal = self.journal.staged_ordinal();
        match deferred {
            Deferred::Answer(answer) if ordinal <= self.journal.durable_ordinal() => {
                self.answers.push_back(answer);
            }
            // What it reveals will never be durable.
            Deferred::Answer(answer) if self.stopped.is_some() => {
                let stopped = self.stopped.clone().expect("it was just looked at");
                self.answers.push_back(answer.stopped(stopped));
            }
            deferred => self.deferred.push_back((ordinal, deferred)),
        }
        self.release();
    }

    /// Lets go what waited for entries that are durable now.
    fn release(&mut self) {
        let durable = self.journal.durable_ordinal();
        while self.deferred.front().is_some_and(|(ordinal, _)| *ordinal <= durable) {
            let (_, deferred) = self.deferred.pop_front().expect("there is a front");
            match deferred {
                Deferred::Answer(answer) => self.answers.push_back(answer),
                Deferred::Restore(walk) => self.begin_walk(walk),
                Deferred::Freed(segment) => self.segment_freed(segment),
                Deferred::Punch(holes) => self.punch_ready(holes),
                Deferred::Sealed(log) => self.reads.wake(log),
            }
        }
    }

    /// Takes the completion of an operation that was polled before.
    pub fn handle_completion(&mut self, done: Completion, now: Now) {
        self.metrics.begin(now.mono_us);
        let purpose = self.purposes.remove(&done.id).expect("only polled operations complete");
        if matches!(purpose, Purpose::Read(_) | Purpose::MakeSpare) {
            self.quiet_since_us = now.mono_us;
        }
        match purpose {
            Purpose::Read(what) => self.read_done(what, done),
            Purpose::Recovery => self.recover(Some(done)),
            Purpose::Background(what) => {
                if let Err(error) = done.result {
                    tracing::warn!(shard = self.config.shard.get(), %error, "{what} failed");
                }
            }
            Purpose::Punch(segment, bytes) => self.punched(segment, bytes, done.result),
            _ if self.stopped.is_some() => {}
            Purpose::Entry(ordinal) => match done.result {
                Ok(count) => {
                    let buf = done.buf.expect("a write gives its buffer back");
                    self.entry_written(ordinal, count, buf, now);
                }
                Err(error) => self.stop("a write", error),
            },
            Purpose::Sync => match done.result {
                Ok(_) => {
                    self.count_sync();
                    let durable = self.journal.synced();
                    self.became_durable(durable, now);
                }
                Err(error) => self.stop("a sync", error),
            },
            Purpose::RollWrite => match done.result {
                Ok(count) => match done.buf {
                    Some(buf) if buf.len() != count as usize => self.stop_short(),
                    _ => self.roll_written(),
                },
                Err(error) => self.stop("beginning a segment", error),
            },
            Purpose::MakeSpare => {
                if let Err(error) = self.spare_made(done.result, now) {
                    self.stop("making a segment", error);
                }
            }
            Purpose::UseSpare => match done.result {
                Ok(_) => self.spares.used(),
                Err(error) => self.stop("naming a segment", error),
            },
            Purpose::Reuse(spare) => match done.result {
                Ok(_) => self.spares.reused(spare),
                Err(error) => self.stop("reusing a segment", error),
            },
            Purpose::Recycle(segment, spare) => match done.result {
                Ok(_) => {
                    self.catalog.forget_segment(segment);
                    self.count_gone(spare.is_some());
                    if let Some(spare) = spare {
                        self.spares.recycled(spare);
                    }
                    self.retention_due = true;
                }
                Err(error) => self.stop("recycling a segment", error),
            },
        }
    }

    fn read_done(&mut self, what: ReadFor, done: Completion) {
        self.reads.in_flight -= 1;
        match what {
            ReadFor::Piece { job, piece } => self.piece_read(job, piece, done),
            ReadFor::Side(segment) => self.side_read(segment, done),
            ReadFor::Chunk(segment) => self.chunk_read(segment, done),
            ReadFor::Walk(walk) => self.walk_read(walk, done),
        }
    }

    fn entry_written(&mut self, ordinal: u64, count: u32, buf: Buf, now: Now) {
        if count as usize != buf.len() {
            // The host continues short writes; if it could not, the rest is not on disk.
            return self.stop_short();
        }
        let busy = self.reads.in_flight > 0 || self.spares.is_making();
        let quiet_since = if busy { u64::MAX } else { self.quiet_since_us };
        let durable = self.journal.entry_written(ordinal, buf, quiet_since, now.mono_us);
        self.became_durable(durable, now);
    }

    fn became_durable(&mut self, entries: Vec<InFlight>, now: Now) {
        if entries.is_empty() {
            return;
        }
        self.last_durable_us = now.mono_us;
        for entry in entries {
            let tally = self.journal.take_tally();
            self.metrics.durable(&tally, entry.bytes.len(), entry.holds_any());
            let offset = entry.place.offset;
            let mut has_records = false;
            for head in entry.sections.iter().filter(|head| !head.is_control()) {
                has_records = true;
                if self.catalog.retained().contains(&head.log) {
                    self.expiry.touch();
                }
                let place = (entry.place.entry, offset);
                let section = SectionRef::new(head, place, entry.time_us);
                self.index.add(head.log, section);
                self.catalog.set_durable(head.log, section.end());
                self.reads.wake(head.log);
            }
            if has_records {
                self.tail.insert(entry.place.segment, offset, entry.bytes);
            }
        }
        self.release();
        self.advance_woken();
    }

    /// A failed write or sync ends the shard: nothing is retried, nothing further acknowledged.
    fn stop(&mut self, what: &'static str, error: IoError) {
        let shard = self.config.shard.get();
        tracing::error!(shard, %error, "{what} failed, the shard stopped");
        let stopped = Stopped::failed(self.config.shard, what, error);
        self.stopped = Some(stopped.clone());
        self.queue.clear();
        for (_, deferred) in std::mem::take(&mut self.deferred) {
            if let Deferred::Answer(answer) = deferred {
                self.answers.push_back(answer.stopped(stopped.clone()));
            }
        }
        self.refuse_usage(&stopped);
        self.walks.stop(&stopped, &mut self.answers);
        self.reads.stop(&stopped, &mut self.answers);
        if let Some(request) = self.held.take() {
            // Stopped shards refuse what writes, so nothing is held again.
            let held = self.serve(request, Now::default());
            assert!(held.is_none());
        }
        if !self.closing.is_empty() {
            self.finish(&Err(stopped));
        }
    }

    fn stop_short(&mut self) {
        let error = std::io::Error::other("the device took only a part of it");
        self.stop("a write", error.into());
    }
}

fn purpose_of(work: Work) -> Purpose {
    match work {
        Work::Entry(ordinal) => Purpose::Entry(ordinal),
        Work::Sync => Purpose::Sync,
    }
}
