//! One seed, one world: a shard on a simulated disk, its clients, a clock, and the model beside it.
//!
//! ```text
//! step: a completion | some requests | time passes   -> pump: operations out, answers in, checked
//! end of an episode: power cut | kill | clean close  -> damage? -> reopen (crashed again)
//!                                                       -> refused? heal, again -> audit
//! ```
//!
//! - `bases` are the states that may stand, seen from outside: one while running, several between a
//!   crash and the end of the audit.
//! - Answers to requests come in the order of the requests; what has no answer at a crash may have
//!   happened, but only if all before it did.
//!
//! Not here: which requests are made (`clients`), whether answers are right (`answers`), how a
//! process begins and ends (`process`), what is checked after opening (`audit`), damage (`rot`).

use std::collections::{BTreeSet, VecDeque};

use oncelog::format::EngineId;
use oncelog::io::{Now, OpKind};
use oncelog::limits::SEGMENT_SIZE_MIN;
use oncelog::shard::{Shard, ShardConfig};
use oncelog::sync::SyncMethod;
use oncelog::{SegmentId, ShardId};

use crate::rng::Rng;
use crate::sim::asking::{Answered, Waiting, request_of};
use crate::sim::clients::Clients;
use crate::sim::coverage::Coverage;
use crate::sim::disk::SimDisk;
use crate::sim::effect::{Effect, Outcome};
use crate::sim::faults::Faults;
use crate::sim::model::State;
use crate::sim::reading::{Reading, Times};
use crate::sim::weather::Weather;

/// Identity of every world's engine.
pub const ENGINE: EngineId = [7; 16];
/// The shard of every world.
pub const SHARD: ShardId = ShardId::new(3);

const DAY_US: u64 = 86_400_000_000;
const START_US: u64 = 1_700_000_000_000_000;

/// A request without an answer yet.
pub(crate) struct Asked {
    pub(crate) effect: Effect,
    pub(crate) waiting: Waiting,
    pub(crate) answer: Option<Answered>,
}

/// The process ended while something was under way.
#[derive(Debug)]
pub(crate) struct Crashed;

/// See the module's head.
pub struct World {
    pub(crate) rng: Rng,
    pub(crate) weather: Weather,
    pub(crate) now: Now,
    pub(crate) disk: SimDisk,
    pub(crate) shard: Option<Shard>,
    pub(crate) bases: Vec<State>,
    /// What stood once, and when, newest last: what the blind spot may bring back.
    pub(crate) past: VecDeque<(u64, State)>,
    /// States up to this instant are no longer in `past`.
    pub(crate) forgotten: u64,
    pub(crate) asked: VecDeque<Asked>,
    /// Processors whose epoch is durable but whose state is still being read.
    pub(crate) owning: Vec<(Waiting, Outcome)>,
    pub(crate) reads: Vec<Reading>,
    /// When entries were committed, as far as it was read.
    pub(crate) times: Times,
    pub(crate) clients: Clients,
    pub(crate) config: ShardConfig,
    /// Bytes of indexes that a process keeps, if not as many as an engine does.
    pub(crate) index_cache_size: Option<usize>,
    /// How fast time passes: microseconds between two steps, at most.
    pace_us: u64,
    /// The wait that the last refusal for a rate named, in microseconds.
    pub(crate) told_wait_us: u64,
    /// Steps until the process ends in the middle of opening, if it is to.
    pub(crate) crash_in: Option<u64>,
    /// Indexes that this process read.
    pub(crate) indexes_read: BTreeSet<SegmentId>,
    /// Damage hides what stands, for ever.
    pub(crate) is_over: bool,
    /// Whether what happens is written down.
    tracing: bool,
    /// What happened, line by line.
    pub trace: Vec<String>,
    /// What was met.
    pub coverage: Coverage,
}

impl World {
    /// The world of a seed. With `tracing` it writes down what happens.
    #[must_use]
    pub fn new(seed: u64, weather: Weather, tracing: bool) -> Self {
        let mut rng = Rng::new(crate::rng::mix(seed));
        let weather = weather.of_seed(&mut rng);
        let config = ShardConfig {
            engine: ENGINE,
            shard: SHARD,
            segment_size: SEGMENT_SIZE_MIN,
            begun: false,
            tail_cache_size: 0,
            sync_method: None,
        };
        let mut world = Self {
            clients: Clients::new(&mut rng),
            rng,
            weather,
            now: Now { wall_us: START_US, mono_us: 1_000_000 },
            disk: SimDisk::default(),
            shard: None,
            bases: vec![State::default()],
            past: VecDeque::new(),
            forgotten: 0,
            asked: VecDeque::new(),
            owning: Vec::new(),
            reads: Vec::new(),
            times: Times::default(),
            config,
            index_cache_size: None,
            pace_us: 300,
            told_wait_us: 0,
            crash_in: None,
            indexes_read: BTreeSet::new(),
            is_over: false,
            tracing,
            trace: Vec::new(),
            coverage: Coverage::default(),
        };
        world.choose_options();
        world.disk.keeps_stale = weather.rot;
        world.disk.refuses_holes = world.rng.one_in(8);
        world.note(|w| format!("{:?}", w.weather));
        world
    }

    /// The whole life of the world.
    pub fn run(&mut self) {
        if self.rng.one_in(16) {
            return self.keep_by_policy();
        }
        self.reopen();
        if self.weather.crowded {
            self.crowd();
        } else if self.rng.one_in(6) {
            self.begin_small();
        } else if self.clients.is_rated {
            self.keep_the_rate();
        }
        for _ in 0..self.weather.episodes {
            self.episode();
            self.end_process();
            self.rot_some(false);
            self.reopen();
            if self.is_over {
                self.coverage.counts.worlds_cut_short += 1;
                return;
            }
        }
        self.close();
        self.heal();
        self.reopen();
    }

    /// Closed early and often: the journal's only segment goes on behind its close marks.
    fn begin_small(&mut self) {
        let steps_max = std::mem::replace(&mut self.weather.steps_max, 25);
        for _ in 0..2 {
            self.episode();
            self.close();
            self.reopen();
        }
        self.episode();
        self.crash();
        self.reopen();
        self.weather.steps_max = steps_max;
    }

    /// Options of the next process; the segment size is fixed for ever.
    pub(crate) fn choose_options(&mut self) {
        let Self { config, rng, index_cache_size: indexes, .. } = self;
        let before = (config.tail_cache_size, config.sync_method, *indexes);
        config.tail_cache_size = [0, 64 << 10, 4 << 20][rng.index(3)];
        *indexes = [None, Some(0), Some(2_000)][rng.index(3)];
        config.sync_method = match rng.below(4) {
            0 => None,
            1 | 2 => Some(SyncMethod::Dsync),
            _ => Some(SyncMethod::Fdatasync),
        };
        let after = (config.tail_cache_size, config.sync_method, *indexes);
        self.coverage.counts.other_options += u64::from(before != after);
    }

    fn choose_faults(&mut self) {
        let Weather { failing, short, files, misread, .. } = self.weather;
        self.disk.faults = Faults { short, files, misread, ..Faults::default() };
        if failing > 0 && self.rng.one_in(2) {
            self.disk.faults.read = 50;
            (self.disk.faults.short, self.disk.faults.files) = (0, 0);
        } else {
            (self.disk.faults.write, self.disk.faults.sync) = (failing, failing);
        }
    }

    pub(crate) fn episode(&mut self) {
        self.choose_faults();
        self.pace_us = [100, 400, 3_000, 20_000][self.rng.index(4)];
        if self.rng.one_in(4) {
            // Long enough to try a way of syncing again.
            self.now.mono_us += 6_000_000;
            self.now.wall_us += 6_000_000;
        }
        let fills = self.weather.full && self.rng.one_in(2);
        let refuses = fills || self.clients.is_rated;
        if refuses {
            // A shard that stops does not say which of its requests had been refused before.
            let Faults { read, misread, .. } = self.disk.faults;
            self.disk.faults = Faults { read, misread, ..Faults::default() };
        }
        let rots = self.weather.rot && self.rng.one_in(3);
        for _ in 0..self.rng.between(1, self.weather.steps_max) {
            if fills && self.rng.one_in(60) {
                self.disk.faults.full = !self.disk.faults.full;
                self.note(|w| format!("disk full: {}", w.disk.faults.full));
            }
            if rots && self.rng.one_in(150) {
                self.rot_some(true);
            }
            self.step();
        }
        // The model cannot know which requests without an answer found no room, or came too fast.
        if refuses || self.weather.crowded || self.rng.one_in(3) {
            self.drain();
        }
        self.disk.faults = Faults::default();
    }

    /// One thing happens.
    fn step(&mut self) {
        self.pass_time(self.pace_us);
        match self.rng.below(10) {
            0..5 => self.complete_one(),
            5..9 => self.act(),
            _ if self.rng.one_in(4) => self.wait_for_timeout(),
            _ => {}
        }
        self.pump();
    }

    pub(crate) fn pass_time(&mut self, us_max: u64) {
        let us = self.rng.below(us_max);
        self.now.mono_us += us;
        self.now.wall_us += us;
        if !self.rng.one_in(200) {
            return;
        }
        // The clock is set, back or ahead; sometimes far.
        let most = if self.rng.one_in(4) { 400 * DAY_US } else { 2_000_000 };
        self.now.wall_us = self.now.wall_us + most - self.rng.below(2 * most);
        self.now.wall_us = self.now.wall_us.max(START_US / 2);
        let counts = &mut self.coverage.counts;
        *(if most > DAY_US { &mut counts.clock_jumps } else { &mut counts.clock_steps }) += 1;
    }

    /// Nothing happens until the shard wants to be woken.
    pub(crate) fn wait_for_timeout(&mut self) {
        let timeout = self.shard.as_ref().and_then(Shard::poll_timeout);
        if let Some(at) = timeout.filter(|at| *at > self.now.mono_us) {
            self.now.wall_us += at - self.now.mono_us;
            self.now.mono_us = at;
        }
    }

    pub(crate) fn complete_one(&mut self) {
        let Some(done) = self.disk.complete(&mut self.rng) else { return };
        self.note(|_| {
            let result = done.result.as_ref().map_err(ToString::to_string);
            format!("done {} {result:?}", done.id.0)
        });
        let now = self.now;
        self.shard.as_mut().expect("operations end with their shard").handle_completion(done, now);
    }

    /// The host's duty after anything happened: operations out, answers delivered and checked.
    pub(crate) fn pump(&mut self) {
        loop {
            let now = self.now;
            let shard = self.shard.as_mut().expect("a process runs");
            let Some(op) = shard.poll_op(now) else { break };
            if let OpKind::ReadSide { segment, .. } = op.kind {
                let again = !self.indexes_read.insert(segment);
                self.coverage.counts.indexes_forgotten += u64::from(again);
            }
            let line = self.coverage.see(&op, self.tracing);
            self.trace.extend(line);
            self.disk.submit(op, &mut self.rng);
        }
        let shard = self.shard.as_mut().expect("a process runs");
        while let Some(answer) = shard.poll_answer() {
            answer.deliver();
        }
        self.settle();
        self.settle_reads();
    }

    /// Whether another request can be made now.
    pub(crate) fn wants_requests(&self) -> bool {
        self.shard.as_ref().is_some_and(Shard::wants_requests)
    }

    /// Makes a request.
    pub(crate) fn ask(&mut self, effect: Effect) {
        assert!(self.wants_requests());
        let (request, waiting) = request_of(&effect);
        self.note(|_| format!("ask {effect:?}"));
        let now = self.now;
        self.shard.as_mut().expect("it wants requests").handle_request(request, now);
        self.asked.push_back(Asked { effect, waiting, answer: None });
    }

    /// Runs until nothing is under way. Everything must have been answered then.
    pub(crate) fn drain(&mut self) {
        for _ in 0..100_000 {
            self.pump();
            let waits = !self.asked.iter().all(|asked| asked.answer.is_some())
                || !self.owning.is_empty()
                || self.reads.iter().any(|read| read.until().is_some());
            if self.disk.under_way() > 0 {
                self.complete_one();
            } else if !waits {
                let left = self.reads.len();
                assert!(!self.has_stopped() || left == 0, "{left} reads wait for nothing");
                return self.check_parked();
            } else {
                let timeout = self.shard.as_ref().and_then(Shard::poll_timeout);
                assert!(
                    timeout.is_some(),
                    "nothing is under way, but no answer to {}",
                    self.waits()
                );
                self.wait_for_timeout();
                self.pass_time(10);
            }
        }
        panic!("it never comes to rest");
    }

    fn waits(&self) -> String {
        let asked = self.asked.iter().filter(|asked| asked.answer.is_none());
        let asked: Vec<_> = asked.map(|asked| &asked.effect).collect();
        let reads: Vec<_> = self.reads.iter().filter(|read| read.until().is_some()).collect();
        format!("{asked:?} {reads:?} {:?}", self.owning)
    }

    /// Writes a line down, if anyone wants to read it.
    pub(crate) fn note(&mut self, line: impl FnOnce(&Self) -> String) {
        if self.tracing {
            let line = line(self);
            self.trace.push(line);
        }
    }
}
