//! The thread of a shard: it carries work in and out, and decides nothing but when to sleep.
//!
//! ```text
//! inbox -> requests ----\                    /-> Op -> runner (ring or plain) -> Completion -\
//! inbox -> completions --> Shard::handle_*  -+-> Op -> files thread -> inbox                 |
//!            ^              Shard::poll_*   -'-> Answer -> client                            |
//!            '-------------------------------------------------------------------------------'
//! ```
//!
//! Invariants:
//! - New operations are with the kernel before an answer wakes anyone.
//! - The thread sleeps only after it announced so and then found the inbox empty (`inbox::Gate`).
//! - It looks around for work only while nothing is under way: a busy processor would keep the
//!   kernel from finishing a write. An idle engine sleeps with no timeout at all.
//! - The runner is dropped before the shard: the shard owns the memory that the ring knows.
//!
//! Not here: any decision about data, and what a request is.

use std::hint;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Once};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::thread::{CpuSet, sched_setaffinity};

use crate::blocking::Plain;
use crate::error::OpenError;
use crate::files::{Files, ShardDir};
use crate::host::DirLock;
use crate::inbox::{Bell, Inbox, Outlet, Returns, Wake};
use crate::io::{Completion, Now, Op, OpKind};
use crate::position::SegmentId;
use crate::request::Request;
use crate::shard::Shard;
use crate::uring::{Uring, UringCounts};

/// How long a thread looks for work before it sleeps, where nothing else is said.
pub const SPIN_DEFAULT: Duration = Duration::from_micros(40);

/// Requests taken before the operations that follow from them are started.
const REQUESTS_PER_TURN_MAX: u32 = 1024;

/// Which runner to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IoMode {
    /// The ring, or the plain one where the kernel refuses it.
    #[default]
    Auto,
    /// The ring, or not at all.
    Ring,
    /// The plain one.
    Plain,
}

/// What a shard's thread works with.
pub struct Setup {
    /// Where its files are.
    pub dir: Arc<ShardDir>,
    /// The lock of the engine's directory.
    pub lock: Arc<DirLock>,
    /// Who runs operations on files.
    pub files: Files,
    /// The inbox.
    pub inbox: Inbox<Request>,
    /// Its other end.
    pub outlet: Outlet<Request>,
    /// Which runner to use.
    pub io_mode: IoMode,
    /// The processor to stay on.
    pub core: Option<usize>,
    /// How long to look for work before sleeping.
    pub spin: Duration,
}

/// What a runner is.
#[derive(Clone, Debug)]
pub struct RunnerInfo {
    /// `io_uring` or `pwritev2`.
    pub kind: &'static str,
    /// Flags of the ring.
    pub flags: &'static str,
    /// Whether files are registered with the ring.
    pub registered_files: bool,
    /// Whether buffers can be registered with the ring. [`LoopStats`] says how many are.
    pub registered_buffers: bool,
    /// Why it is not the ring.
    pub ring_refused: Option<String>,
    /// The processor that the thread stays on.
    pub core: Option<usize>,
}

/// A shard's thread that runs.
pub struct Spawned {
    /// Ends when the shard is finished, or has panicked.
    pub thread: JoinHandle<()>,
    /// What its runner is.
    pub info: RunnerInfo,
    /// What it has done.
    pub stats: Arc<LoopStats>,
    /// How opening the shard ended, said once. After an error, or where nothing comes any more, the
    /// thread ends.
    pub opened: Receiver<Result<(), OpenError>>,
}

/// A number that one thread writes and all may read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Its value.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    fn add_one(&self) {
        // The only writer, so nothing is lost between the two.
        self.set(self.get() + 1);
    }
}

/// What a shard's thread has done so far.
#[derive(Debug, Default)]
pub struct LoopStats {
    /// Turns of the loop.
    pub turns: Counter,
    /// Times that it slept, or was about to.
    pub parks: Counter,
    /// Rings of the bell that were heard.
    pub bells: Counter,
    /// Calls of `io_uring_enter`.
    pub enters: Counter,
    /// Operations given to the ring.
    pub sqes: Counter,
    /// Arenas of write buffers that are registered with the ring.
    pub arenas: Counter,
    /// Arenas that the kernel refused, mostly for `RLIMIT_MEMLOCK`.
    pub arenas_refused: Counter,
}

/// Starts the thread of a shard.
///
/// # Errors
/// No thread could be had, or the ring was refused and [`IoMode::Ring`] asks for it.
pub fn spawn(shard: Shard, setup: Setup) -> io::Result<Spawned> {
    let Setup { dir, lock, files, inbox, outlet, io_mode, core, spin } = setup;
    // Asked here, since a pinned thread has one.
    let alone = thread::available_parallelism().is_ok_and(|count| count.get() == 1);
    let spin = if alone { Duration::ZERO } else { spin };
    let stats = Arc::new(LoopStats::default());
    let (report, reported) = channel();
    let (tell_opened, opened) = channel();
    let name = format!("oncelog-{:03}", dir.shard().get());
    let returns = inbox.returns().clone();
    let run = {
        let stats = Arc::clone(&stats);
        move || {
            let core = core.filter(|core| pin(*core));
            let (runner, refused) = match Runner::new(io_mode, &dir, outlet.bell(), &lock) {
                Ok(made) => made,
                Err(error) => {
                    let _ = report.send(Err(error));
                    return;
                }
            };
            let _ = report.send(Ok(runner.info(refused, core)));
            let mut turning = Loop {
                runner,
                shard,
                outlet,
                files,
                dir,
                returns,
                done: Vec::new(),
                file_ops: 0,
                begin: Instant::now(),
                spin,
                stats,
                tell_opened,
                _lock: lock,
            };
            if let Err(error) = turning.run() {
                tracing::error!(%error, "a shard's ring broke; the shard ends");
            }
        }
    };
    let thread = thread::Builder::new().name(name).spawn(run)?;
    let ended = |_| io::Error::other("the shard's thread panicked while it began");
    let info = reported.recv().map_err(ended)??;
    Ok(Spawned { thread, info, stats, opened })
}

fn pin(core: usize) -> bool {
    if core >= CpuSet::MAX_CPU {
        return false;
    }
    let mut cores = CpuSet::new();
    cores.set(core);
    let pinned = sched_setaffinity(None, &cores);
    if let Err(error) = pinned {
        tracing::debug!(core, %error, "a shard's thread is not pinned");
    }
    pinned.is_ok()
}

enum Runner {
    Ring(Box<Uring>),
    Plain(Plain),
}

impl Runner {
    /// The runner, and why it is not the ring.
    fn new(
        mode: IoMode,
        dir: &Arc<ShardDir>,
        bell: Bell,
        lock: &DirLock,
    ) -> io::Result<(Self, Option<String>)> {
        static SAID: Once = Once::new();
        let plain = |bell| Self::Plain(Plain::new(Arc::clone(dir), bell));
        if mode == IoMode::Plain {
            return Ok((plain(bell), None));
        }
        match Uring::new(Arc::clone(dir), bell.clone(), lock.file()) {
            Ok(ring) => Ok((Self::Ring(Box::new(ring)), None)),
            Err(error) if mode == IoMode::Ring => {
                let why = format!("io_uring is refused ({error}); IoMode::Auto does without");
                Err(io::Error::new(error.kind(), why))
            }
            Err(error) => {
                SAID.call_once(|| {
                    tracing::warn!(%error, "io_uring is refused; going on without, more slowly");
                });
                Ok((plain(bell), Some(error.to_string())))
            }
        }
    }

    fn info(&self, ring_refused: Option<String>, core: Option<usize>) -> RunnerInfo {
        let (kind, flags, registered_files, registered_buffers) = match self {
            Self::Ring(ring) => {
                let info = ring.info();
                ("io_uring", info.flags, info.registered_files, info.registered_buffers)
            }
            Self::Plain(_) => ("pwritev2", "", false, false),
        };
        RunnerInfo { kind, flags, registered_files, registered_buffers, ring_refused, core }
    }

    fn submit(&mut self, op: Op) {
        match self {
            Self::Ring(ring) => ring.submit(op),
            Self::Plain(plain) => plain.submit(op),
        }
    }

    fn forget(&mut self, segment: SegmentId) {
        match self {
            Self::Ring(ring) => ring.forget(segment),
            Self::Plain(plain) => plain.forget(segment),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Ring(ring) => ring.flush(),
            Self::Plain(_) => Ok(()),
        }
    }

    fn reap(&mut self, out: &mut Vec<Completion>) {
        match self {
            Self::Ring(ring) => ring.reap(out),
            Self::Plain(plain) => plain.reap(out),
        }
    }

    fn wait(&mut self, timeout: Option<Duration>, out: &mut Vec<Completion>) -> io::Result<()> {
        match self {
            Self::Ring(ring) => ring.wait(timeout, out),
            Self::Plain(plain) => plain.wait(timeout, out),
        }
    }

    fn in_flight(&self) -> usize {
        match self {
            Self::Ring(ring) => ring.in_flight(),
            Self::Plain(plain) => plain.in_flight(),
        }
    }

    fn counts(&self) -> UringCounts {
        match self {
            Self::Ring(ring) => ring.counts(),
            Self::Plain(plain) => UringCounts { bells: plain.bells(), ..UringCounts::default() },
        }
    }
}

/// Fields are dropped in this order, also by a panic: the runner waits for the kernel first, then
/// the shard answers who waits, the inbox closes, and the file operations end.
struct Loop {
    runner: Runner,
    shard: Shard,
    outlet: Outlet<Request>,
    files: Files,
    dir: Arc<ShardDir>,
    returns: Returns,
    /// Completions of the runner, not yet handled.
    done: Vec<Completion>,
    /// Operations that the files thread has.
    file_ops: usize,
    begin: Instant,
    spin: Duration,
    stats: Arc<LoopStats>,
    tell_opened: Sender<Result<(), OpenError>>,
    /// Last: as long as any thread works on the directory, it is locked.
    _lock: Arc<DirLock>,
}

impl Loop {
    fn run(&mut self) -> io::Result<()> {
        loop {
            self.stats.turns.add_one();
            let now = self.now();
            let took = self.take_in(now);
            self.start_ops(now);
            self.answer()?;
            self.count();
            if self.has_failed_to_open() || self.shard.is_finished() {
                return Ok(());
            }
            if took && self.look_around() {
                continue;
            }
            self.sleep()?;
        }
    }

    fn has_failed_to_open(&mut self) -> bool {
        let Some(opened) = self.shard.poll_opened() else { return false };
        let failed = opened.is_err();
        // Nobody listens any more: then nobody wants to know.
        let _ = self.tell_opened.send(opened);
        failed
    }

    /// Gives the shard what came. Returns whether anything did.
    fn take_in(&mut self, now: Now) -> bool {
        let mut took = !self.done.is_empty();
        for done in self.done.drain(..) {
            self.shard.handle_completion(done, now);
        }
        while let Some(done) = self.outlet.take_completion() {
            took = true;
            self.file_ops = self.file_ops.checked_sub(1).expect("one completion for each");
            self.shard.handle_completion(done, now);
        }
        for _ in 0..REQUESTS_PER_TURN_MAX {
            if !self.shard.wants_requests() {
                break;
            }
            let Some(request) = self.outlet.take_request() else { break };
            took = true;
            self.shard.handle_request(request, now);
        }
        self.outlet.wake_waiting();
        took
    }

    fn start_ops(&mut self, now: Now) {
        while let Some(op) = self.shard.poll_op(now) {
            match op.kind {
                OpKind::Write { .. } | OpKind::Sync { .. } | OpKind::Read { .. } => {
                    self.runner.submit(op);
                    continue;
                }
                OpKind::Recycle { segment, .. }
                | OpKind::RemoveSegment { segment }
                | OpKind::Shorten { segment, .. } => self.runner.forget(segment),
                OpKind::MakeSpare { .. }
                | OpKind::UseSpare { .. }
                | OpKind::RemoveSpare { .. }
                | OpKind::Begin
                | OpKind::WriteSide { .. }
                | OpKind::ReadSide { .. } => {}
            }
            self.file_ops += 1;
            self.files.run(&self.dir, &self.returns, op);
        }
    }

    fn answer(&mut self) -> io::Result<()> {
        let Some(first) = self.shard.poll_answer() else { return Ok(()) };
        // Waking clients takes long: the device works meanwhile.
        self.runner.flush()?;
        first.deliver();
        while let Some(answer) = self.shard.poll_answer() {
            answer.deliver();
        }
        Ok(())
    }

    /// Looks for new work for a while, if nothing is under way. Returns whether there is some.
    fn look_around(&mut self) -> bool {
        if self.spin.is_zero() || self.is_busy() || !self.shard.wants_requests() {
            return false;
        }
        let begin = Instant::now();
        while begin.elapsed() < self.spin {
            // The clock is read once for many looks: a look costs less.
            for _ in 0..16 {
                if self.outlet.has_request() {
                    return true;
                }
                hint::spin_loop();
            }
        }
        false
    }

    fn sleep(&mut self) -> io::Result<()> {
        self.runner.reap(&mut self.done);
        if !self.done.is_empty() {
            return self.runner.flush();
        }
        // A full shard that nothing will free again would sleep for ever: so only while busy.
        let can_issue = self.shard.can_issue() || !self.is_busy();
        let wants = self.shard.wants_requests() && can_issue;
        if !self.outlet.park(if wants { Wake::Anything } else { Wake::Completions }) {
            return self.runner.flush();
        }
        let timeout = self
            .shard
            .poll_timeout()
            .map(|at| Duration::from_micros(at.saturating_sub(micros(self.begin.elapsed()))));
        self.stats.parks.add_one();
        let waited = self.runner.wait(timeout, &mut self.done);
        self.outlet.unpark();
        waited
    }

    fn is_busy(&self) -> bool {
        self.runner.in_flight() > 0 || self.file_ops > 0
    }

    fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { wall_us: micros(wall), mono_us: micros(self.begin.elapsed()) }
    }

    fn count(&self) {
        let UringCounts { enters, sqes, bells, arenas, arenas_refused } = self.runner.counts();
        self.stats.enters.set(enters);
        self.stats.sqes.set(sqes);
        self.stats.bells.set(bells);
        self.stats.arenas.set(arenas);
        self.stats.arenas_refused.set(arenas_refused);
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
