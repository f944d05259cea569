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
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_setaffinity};

use crate::blocking::Plain;
use crate::error::OpenError;
use crate::files::{Files, ShardDir};
use crate::helm::{Core, Helm, WATCH};
use crate::host::DirLock;
use crate::inbox::{Bell, Inbox, Outlet, Wake};
use crate::io::{Completion, Op};
use crate::position::SegmentId;
use crate::request::Request;
use crate::shard::Shard;
use crate::uring::{Uring, UringCounts};

/// How long a thread looks for work before it sleeps, where nothing else is said.
pub const SPIN_DEFAULT: Duration = Duration::from_micros(40);

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
    /// Where a client may take the thread's place for a moment.
    pub(crate) helm: Arc<Helm>,
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
    let bell = outlet.bell();
    let held = Core::new(shard, outlet, files, Arc::clone(&dir), returns);
    let helm = Arc::new(Helm::new(held));
    let run = {
        let (stats, end) = (Arc::clone(&stats), End(Arc::clone(&helm)));
        move || {
            let core = core.filter(|core| pin(*core));
            let (runner, refused) = match Runner::new(io_mode, &dir, bell.clone(), &lock) {
                Ok(made) => made,
                Err(error) => {
                    let _ = report.send(Err(error));
                    return;
                }
            };
            let _ = report.send(Ok(runner.info(refused, core)));
            let mut turning = Loop {
                runner,
                end,
                inbox,
                bell,
                done: Vec::new(),
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
    Ok(Spawned { thread, helm, info, stats, opened })
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
    end: End,
    inbox: Inbox<Request>,
    bell: Bell,
    /// Completions of the runner, not yet handled.
    done: Vec<Completion>,
    spin: Duration,
    stats: Arc<LoopStats>,
    tell_opened: Sender<Result<(), OpenError>>,
    /// Last: as long as any thread works on the directory, it is locked.
    _lock: Arc<DirLock>,
}

/// Takes the shard from the helm when the thread ends.
struct End(Arc<Helm>);

impl Drop for End {
    fn drop(&mut self) {
        drop(self.0.end());
    }
}

impl Loop {
    fn run(&mut self) -> io::Result<()> {
        let helm = Arc::clone(&self.end.0);
        loop {
            let mut held = helm.hold();
            let core = held.as_mut().expect("only this thread takes the shard away, at its end");
            self.stats.turns.add_one();
            let now = core.now();
            let took = core.take_in(&mut self.done, now);
            while let Some(segment) = core.poll_forgotten() {
                self.runner.forget(segment);
            }
            while let Some(op) = core.poll_op(now) {
                self.runner.submit(op);
            }
            core.thread_ops = self.runner.in_flight();
            helm.note_removals(core);
            self.answer(core)?;
            self.count();
            if self.has_failed_to_open(core) || core.shard.is_finished() {
                return Ok(());
            }
            let led = core.is_led(&helm);
            if took && !led && !core.is_busy() && core.shard.wants_requests() {
                drop(held);
                self.look_around();
                // A client may have led meanwhile: nothing that was known is.
                continue;
            }
            let Some(timeout) = self.prepare_to_sleep(core, led)? else { continue };
            drop(held);
            self.stats.parks.add_one();
            let waited = self.runner.wait(timeout, &mut self.done);
            self.bell.unpark();
            waited?;
        }
    }

    fn has_failed_to_open(&mut self, core: &mut Core) -> bool {
        let Some(opened) = core.shard.poll_opened() else { return false };
        let failed = opened.is_err();
        // Nobody listens any more: then nobody wants to know.
        let _ = self.tell_opened.send(opened);
        failed
    }

    fn answer(&mut self, core: &mut Core) -> io::Result<()> {
        let Some(first) = core.shard.poll_answer() else { return Ok(()) };
        // Waking clients takes long: the device works meanwhile.
        self.runner.flush()?;
        first.deliver();
        while let Some(answer) = core.shard.poll_answer() {
            answer.deliver();
        }
        Ok(())
    }

    /// Looks for new work for a while; nothing is under way.
    fn look_around(&self) {
        if self.spin.is_zero() {
            return;
        }
        let begin = Instant::now();
        while begin.elapsed() < self.spin {
            // The clock is read once for many looks: a look costs less.
            for _ in 0..16 {
                if self.inbox.bytes() > 0 {
                    return;
                }
                hint::spin_loop();
            }
        }
    }

    /// How long to sleep, at most (`Some(None)`: for ever); or not at all.
    fn prepare_to_sleep(
        &mut self,
        core: &mut Core,
        led: bool,
    ) -> io::Result<Option<Option<Duration>>> {
        self.runner.reap(&mut self.done);
        if !self.done.is_empty() {
            self.runner.flush()?;
            return Ok(None);
        }
        // A full shard that nothing will free again would sleep for ever: so only while busy.
        let can_issue = core.shard.can_issue() || !core.is_busy();
        let wake = match core.shard.wants_requests() && can_issue {
            true if led && core.thread_ops == 0 => Wake::Nudges,
            true if core.is_busy() && core.shard.gathers() > 1 => {
                Wake::Requests(core.shard.gathers())
            }
            true => Wake::Anything,
            false => Wake::Completions,
        };
        if !core.outlet.park(wake) {
            self.runner.flush()?;
            return Ok(None);
        }
        let due = core.shard.poll_timeout();
        let timeout = due.map(|at| Duration::from_micros(at.saturating_sub(core.mono_us())));
        let watch = (wake == Wake::Nudges).then_some(WATCH);
        Ok(Some(match (timeout, watch) {
            (Some(timeout), Some(watch)) => Some(timeout.min(watch)),
            (timeout, watch) => timeout.or(watch),
        }))
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
