//! Who drives a shard: its own thread, or for a moment a client's that waits for its write.
//!
//! ```text
//! shard's thread --hold-->  +------+  take in -> operations -> answers; asleep it holds nothing
//!                           | Core |
//! client in wait() --lead-> +------+  the same, but writes and syncs are done here and now
//! ```
//!
//! Waking a thread and being woken by it costs a third of a durable write. A client that blocks
//! until its one request is durable, while nobody else does anything, saves both: it takes the helm
//! and does the work itself. Group commit is the shard's thread's, with many writes in flight.
//!
//! Invariants:
//! - The core is behind one lock, so a client that leads is only another one who takes requests:
//!   the protocol of the inbox and its bell holds unchanged.
//! - Nobody waits for the lock but the shard's thread. A client that does not get it at once makes
//!   sure that the thread is awake, and waits for its answer.
//! - A client leads only while the thread has nothing under way on its runner.
//! - While clients lead, requests do not ring the bell; then the thread looks by itself every
//!   [`WATCH`], so that a request that nobody waits for yet is late by no more than that.
//! - Answers are given after the lock is free: a waker may do anything. A few wakers run before
//!   (who waits for room, who asked ahead): [`leads`] says so to the end of the last handle, which
//!   would wait for the shard otherwise.
//!
//! Not here: the loop of the thread, and when it sleeps (`thread`).

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::panicking;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::blocking::Plain;
use crate::files::{Files, ShardDir};
use crate::inbox::{Bell, Inbox, Outlet, Returns};
use crate::io::{Completion, Now, Op, OpKind};
use crate::position::SegmentId;
use crate::request::{Answer, Request};
use crate::shard::Shard;

/// How often the thread looks for requests that came without a ring.
pub(crate) const WATCH: Duration = Duration::from_millis(1);

/// Requests taken before the operations that follow from them are started.
const REQUESTS_PER_TURN_MAX: u32 = 1024;

/// What handles reach a shard with. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Access {
    /// Where requests go.
    pub(crate) inbox: Inbox<Request>,
    /// Who carries them out.
    pub(crate) helm: Arc<Helm>,
}

/// A shard with all that it needs, except its thread and the runner of that.
pub(crate) struct Core {
    pub(crate) shard: Shard,
    pub(crate) outlet: Outlet<Request>,
    files: Files,
    dir: Arc<ShardDir>,
    returns: Returns,
    /// Operations that the files thread has.
    file_ops: usize,
    begin: Instant,
    /// The runner of clients that lead.
    plain: Plain,
    /// Operations that a client left to the thread.
    handed: Vec<Op>,
    /// Segments that went away while a client led.
    forgotten: Vec<SegmentId>,
    /// Operations that the thread's runner has.
    pub(crate) thread_ops: usize,
    /// Requests that were taken when last there were any.
    batch: u32,
    /// A client led, or would have, since the thread last slept.
    led: bool,
}

impl Core {
    pub(crate) fn new(
        shard: Shard,
        outlet: Outlet<Request>,
        files: Files,
        dir: Arc<ShardDir>,
        returns: Returns,
    ) -> Self {
        let plain = Plain::for_writes(Arc::clone(&dir), outlet.bell());
        Self {
            shard,
            outlet,
            files,
            dir,
            returns,
            file_ops: 0,
            begin: Instant::now(),
            plain,
            handed: Vec::new(),
            forgotten: Vec::new(),
            thread_ops: 0,
            batch: 0,
            led: false,
        }
    }

    pub(crate) fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { wall_us: micros(wall), mono_us: self.mono_us() }
    }

    pub(crate) fn mono_us(&self) -> u64 {
        micros(self.begin.elapsed())
    }

    /// Whether anything is under way.
    pub(crate) fn is_busy(&self) -> bool {
        self.thread_ops > 0 || self.file_ops > 0 || !self.handed.is_empty()
    }

    /// Gives the shard what came. Returns whether anything did.
    pub(crate) fn take_in(&mut self, done: &mut Vec<Completion>, now: Now) -> bool {
        let mut took = !done.is_empty();
        for done in done.drain(..) {
            self.shard.handle_completion(done, now);
        }
        while let Some(done) = self.outlet.take_completion() {
            took = true;
            self.file_ops = self.file_ops.checked_sub(1).expect("one completion for each");
            self.shard.handle_completion(done, now);
        }
        let mut requests = 0;
        while requests < REQUESTS_PER_TURN_MAX && self.shard.wants_requests() {
            let Some(request) = self.outlet.take_request() else { break };
            requests += 1;
            self.shard.handle_request(request, now);
        }
        if requests > 0 {
            self.shard.took_requests(requests);
            self.batch = requests;
        }
        self.outlet.wake_waiting();
        took || requests > 0
    }

    /// The next operation of the thread's runner. Those on files are started here.
    pub(crate) fn poll_op(&mut self, now: Now) -> Option<Op> {
        if let Some(op) = self.handed.pop() {
            return Some(op);
        }
        while let Some(op) = self.shard.poll_op(now) {
            match op.kind {
                OpKind::Write { .. } | OpKind::Sync { .. } | OpKind::Read { .. } => {
                    return Some(op);
                }
                OpKind::Recycle { segment, .. }
                | OpKind::RemoveSegment { segment }
                | OpKind::Shorten { segment, .. } => {
                    self.plain.forget(segment);
                    self.forgotten.push(segment);
                }
                OpKind::Punch { .. }
                | OpKind::MakeSpare { .. }
                | OpKind::UseSpare { .. }
                | OpKind::RemoveSpare { .. }
                | OpKind::Begin
                | OpKind::WriteSide { .. }
                | OpKind::ReadSide { .. } => {}
            }
            self.file_ops += 1;
            self.files.run(&self.dir, &self.returns, op);
        }
        None
    }

    /// A segment that went away, for the thread's runner.
    pub(crate) fn poll_forgotten(&mut self) -> Option<SegmentId> {
        self.forgotten.pop()
    }

    /// Whether clients lead, as it seems: then the thread is only a spare. To be asked once before
    /// it sleeps.
    pub(crate) fn is_led(&mut self, helm: &Helm) -> bool {
        let wanted = helm.wanted.swap(false, Relaxed) && self.batch == 1;
        std::mem::take(&mut self.led) | wanted
    }

    fn can_be_led(&self) -> bool {
        self.thread_ops == 0
            && self.handed.is_empty()
            && self.batch <= 1
            && self.shard.wants_requests()
    }

    /// Carries out what waits. Returns the answers.
    fn lead(&mut self) -> Vec<Answer> {
        let (mut done, mut reads) = (Vec::new(), Vec::new());
        let mut now = self.now();
        self.take_in(&mut done, now);
        loop {
            while let Some(op) = self.poll_op(now) {
                match op.kind {
                    OpKind::Read { .. } => reads.push(op),
                    _ => self.plain.submit(op),
                }
            }
            self.plain.reap(&mut done);
            if done.is_empty() {
                break;
            }
            now = self.now();
            for done in done.drain(..) {
                self.shard.handle_completion(done, now);
            }
        }
        self.handed = reads;
        self.led = true;
        std::iter::from_fn(|| self.shard.poll_answer()).collect()
    }
}

thread_local! {
    static LEADS: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is carrying out requests of a shard, and so must not wait for it.
pub(crate) fn leads() -> bool {
    LEADS.get()
}

/// See the module's head.
pub(crate) struct Helm {
    core: Mutex<Option<Core>>,
    /// A client could not lead, and waits.
    wanted: AtomicBool,
    /// How often a client led.
    turns: AtomicU64,
    /// How often an append found the inbox full and did not wait.
    busy: AtomicU64,
    /// How often records were removed before their answers were read, see [`Helm::removals`].
    removals: AtomicU64,
    bell: Bell,
}

impl Helm {
    pub(crate) fn new(core: Core) -> Self {
        let bell = core.outlet.bell();
        Self {
            core: Mutex::new(Some(core)),
            wanted: AtomicBool::new(false),
            turns: AtomicU64::new(0),
            busy: AtomicU64::new(0),
            removals: AtomicU64::new(0),
            bell,
        }
    }

    /// For the shard's thread, which waits until it has it.
    ///
    /// # Panics
    /// A client's thread panicked while it led: so does the shard's.
    pub(crate) fn hold(&self) -> MutexGuard<'_, Option<Core>> {
        self.core.lock().expect("a client's thread panicked while it led the shard")
    }

    /// The thread ends: from now on nobody leads.
    pub(crate) fn end(&self) -> Option<Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// For a client that is about to block until its request was carried out: does so here, if
    /// nobody else is at it, else makes sure that someone is.
    pub(crate) fn lead(&self) {
        let mut answers = Vec::new();
        let led = self.core.try_lock().is_ok_and(|mut held| {
            let Some(core) = held.as_mut().filter(|core| core.can_be_led()) else { return false };
            let _end = LeadEnd::begin(&self.bell);
            answers = core.lead();
            self.note_removals(core);
            self.turns.fetch_add(1, Relaxed);
            core.handed.is_empty()
        });
        if !led {
            self.wanted.store(true, Relaxed);
            self.bell.wake();
        }
        let mut rest = Rest(answers.into_iter());
        rest.0.by_ref().for_each(Answer::deliver);
    }

    /// How often a client led.
    pub(crate) fn turns(&self) -> u64 {
        self.turns.load(Relaxed)
    }

    /// An append found the inbox full and did not wait.
    pub(crate) fn note_busy(&self) {
        self.busy.fetch_add(1, Relaxed);
    }

    /// How often that was so.
    pub(crate) fn busy(&self) -> u64 {
        self.busy.load(Relaxed)
    }

    /// Before answers are given: what was asked ahead may be of records that are gone.
    pub(crate) fn note_removals(&self, core: &Core) {
        self.removals.store(core.shard.removals(), Relaxed);
    }

    /// Grows with each truncation and drop, before it is answered: who asked for records before it
    /// grew asks again. Relaxed, since who was answered has synchronised with who answered.
    pub(crate) fn removals(&self) -> u64 {
        self.removals.load(Relaxed)
    }

    /// For a request that needs no place in an entry, and so should not wait for one.
    pub(crate) fn hurry(&self) {
        self.bell.hurry();
    }

    /// For a client that waits without blocking.
    pub(crate) fn nudge(&self) {
        self.bell.nudge();
    }
}

/// Answers that are given even if a waker panics on the way: their records are durable.
struct Rest(std::vec::IntoIter<Answer>);

impl Drop for Rest {
    fn drop(&mut self) {
        self.0.by_ref().for_each(Answer::deliver);
    }
}

/// Around the time that a client holds the core: what its thread must not do, and that the shard's
/// thread learns of a panic. A waker may lead another shard meanwhile.
struct LeadEnd<'a> {
    bell: &'a Bell,
    outer: bool,
}

impl<'a> LeadEnd<'a> {
    fn begin(bell: &'a Bell) -> Self {
        Self { bell, outer: LEADS.replace(true) }
    }
}

impl Drop for LeadEnd<'_> {
    fn drop(&mut self) {
        LEADS.set(self.outer);
        if panicking() {
            self.bell.ring();
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
