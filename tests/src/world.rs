//! One seed, one world: a shard on a simulated disk, its clients, a clock, and the model beside it.
//!
//! ```text
//! step: a completion | some requests | time passes   -> pump: operations out, answers in, checked
//! end of an episode: power cut | kill | clean close  -> reopen (crashed again and again) -> audit
//! ```
//!
//! - `bases` are the states that may stand, seen from outside: one while running, several between a
//!   crash and the end of the audit.
//! - Answers to requests come in the order of the requests; what has no answer at a crash may have
//!   happened, but only if all before it did.
//!
//! Not here: which requests are made (`clients`), how a process begins and ends (`process`), and
//! what is checked after opening (`audit`).

use std::collections::VecDeque;

use oncelog::ShardId;
use oncelog::io::Now;
use oncelog::limits::SEGMENT_SIZE_MIN;
use oncelog::shard::{Shard, ShardConfig};
use oncelog::sync::SyncMethod;

use crate::asking::{Answered, Waiting, request_of, take};
use crate::clients::{Clients, Owner};
use crate::coverage::Coverage;
use crate::model::{Effect, Outcome, State};
use crate::reading::Reading;
use crate::rng::Rng;
use crate::sim_disk::SimDisk;

/// What a world is like, beside its seed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// Episodes, each ended by a crash or a clean close.
    pub episodes: u32,
    /// Steps of an episode, at most.
    pub steps_max: u64,
    /// Writes and syncs fail, each with the chance one in so many.
    pub failing: u64,
    /// The disk is full from time to time.
    pub full: bool,
    /// Bits rot before opening and while running.
    pub rot: bool,
}

impl Weather {
    /// Crashes, and nothing else.
    pub const CRASHES: Self =
        Self { episodes: 6, steps_max: 400, failing: 0, full: false, rot: false };
    /// Writes and syncs that fail, too.
    pub const FAILING: Self = Self { failing: 150, ..Self::CRASHES };
    /// A disk that is full from time to time, too.
    pub const FULL: Self = Self { full: true, ..Self::CRASHES };
    /// Bits that rot, too.
    pub const ROT: Self = Self { rot: true, episodes: 3, ..Self::CRASHES };

    /// The weather of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "crashes" => Some(Self::CRASHES),
            "failing" => Some(Self::FAILING),
            "full" => Some(Self::FULL),
            "rot" => Some(Self::ROT),
            _ => None,
        }
    }
}

/// A request without an answer yet.
pub(crate) struct Asked {
    pub(crate) effect: Effect,
    waiting: Waiting,
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
    pub(crate) asked: VecDeque<Asked>,
    /// Processors whose epoch is durable but whose state is still being read.
    pub(crate) owning: Vec<(Waiting, Outcome)>,
    pub(crate) reads: Vec<Reading>,
    pub(crate) clients: Clients,
    pub(crate) config: ShardConfig,
    /// How fast time passes: microseconds between two steps, at most.
    pace_us: u64,
    /// Steps until the process ends in the middle of opening, if it is to.
    pub(crate) crash_in: Option<u64>,
    /// What happened, line by line.
    pub trace: Vec<String>,
    /// What was met.
    pub coverage: Coverage,
}

impl World {
    /// The world of a seed.
    #[must_use]
    pub fn new(seed: u64, weather: Weather) -> Self {
        let mut rng = Rng::new(crate::rng::mix(seed));
        let sync_method = match rng.below(4) {
            0 => None,
            1 | 2 => Some(SyncMethod::Dsync),
            _ => Some(SyncMethod::Fdatasync),
        };
        let config = ShardConfig {
            engine: [7; 16],
            shard: ShardId::new(3),
            segment_size: SEGMENT_SIZE_MIN,
            begun: false,
            tail_cache_size: [0, 64 << 10, 4 << 20][rng.index(3)],
            sync_method,
        };
        Self {
            clients: Clients::new(&mut rng),
            rng,
            weather,
            now: Now { wall_us: 1_700_000_000_000_000, mono_us: 1_000_000 },
            disk: SimDisk::default(),
            shard: None,
            bases: vec![State::default()],
            asked: VecDeque::new(),
            owning: Vec::new(),
            reads: Vec::new(),
            config,
            pace_us: 300,
            crash_in: None,
            trace: Vec::new(),
            coverage: Coverage::default(),
        }
    }

    /// The whole life of the world.
    pub fn run(&mut self) {
        self.reopen();
        for _ in 0..self.weather.episodes {
            self.episode();
            self.end_process();
            self.reopen();
        }
        if self.weather.rot {
            return self.rot_away();
        }
        self.close();
        self.reopen();
    }

    pub(crate) fn episode(&mut self) {
        self.disk.faults.write = self.weather.failing;
        self.disk.faults.sync = self.weather.failing;
        if self.weather.failing > 0 && self.rng.one_in(2) {
            self.disk.faults.read = 50;
            (self.disk.faults.write, self.disk.faults.sync) = (0, 0);
        }
        self.pace_us = [100, 400, 3_000, 20_000][self.rng.index(4)];
        if self.rng.one_in(4) {
            // Long enough to try a way of syncing again.
            self.now.mono_us += 6_000_000;
            self.now.wall_us += 6_000_000;
        }
        let fills = self.weather.full && self.rng.one_in(2);
        for _ in 0..self.rng.between(1, self.weather.steps_max) {
            if fills && self.rng.one_in(60) {
                self.disk.faults.full = !self.disk.faults.full;
                self.note(|w| format!("disk full: {}", w.disk.faults.full));
            }
            self.step();
        }
        // The model cannot know which requests without an answer found no room.
        if fills || self.rng.one_in(3) {
            self.drain();
        }
        self.disk.faults = Default::default();
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
        if self.rng.one_in(200) {
            // The clock is set, back or ahead.
            self.now.wall_us = self.now.wall_us + 2_000_000 - self.rng.below(4_000_000);
        }
    }

    /// Nothing happens until the shard wants to be woken.
    pub(crate) fn wait_for_timeout(&mut self) {
        let timeout = self.shard.as_ref().and_then(Shard::poll_timeout);
        if let Some(at) = timeout.filter(|at| *at > self.now.mono_us) {
            self.now.wall_us += at - self.now.mono_us;
            self.now.mono_us = at;
        }
    }

    pub(crate) fn has_timeout(&self) -> bool {
        self.shard.as_ref().is_some_and(|shard| shard.poll_timeout().is_some())
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
            let line = self.coverage.see(&op);
            self.trace.push(line);
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

    /// Takes the answers that are there, in order, and compares them with the model's.
    fn settle(&mut self) {
        for asked in &mut self.asked {
            if asked.answer.is_none() {
                asked.answer = asked.waiting.poll();
            }
        }
        let said = |asked: &Asked| {
            asked.answer.as_ref().is_some_and(|(outcome, _)| *outcome != Outcome::Stopped)
        };
        while let Some(last) = self.asked.iter().rposition(said) {
            for _ in 0..=last {
                let asked = self.asked.pop_front().expect("it was counted");
                self.answered(asked);
            }
        }
        let mut owning = std::mem::take(&mut self.owning);
        owning.retain_mut(|(waiting, expected)| match waiting.poll() {
            None => true,
            Some((outcome, _)) => {
                self.owned(outcome, expected);
                false
            }
        });
        self.owning = owning;
    }

    fn answered(&mut self, asked: Asked) {
        let Asked { effect, waiting, answer } = asked;
        let base = &mut self.bases[0];
        let (outcome, places) = match (answer, &effect) {
            (Some((Outcome::NoSpace, _)), _) => {
                self.coverage.no_space += 1;
                return base.refused_for_space(&effect);
            }
            (Some(answer), _) => answer,
            // Later requests are answered, so its epoch is durable; its state is still being read.
            (None, Effect::OpenReader { .. }) => {
                let expected = base.apply(&effect);
                return self.owning.push((waiting, expected));
            }
            (None, _) => panic!("a later request was answered before {effect:?}"),
        };
        // Otherwise losing all segments would look like a shard that never began.
        assert!(self.disk.has_begun() || !matches!(outcome, Outcome::Appended(..)));
        let expected = base.apply(&effect);
        self.coverage.answered(&effect, &outcome);
        if let (Outcome::Owned(_), Effect::OpenReader { .. }) = (&expected, &effect) {
            return self.owned(outcome, &expected);
        }
        assert_eq!(outcome, expected, "the answer to {effect:?}");
        self.bases[0].place(&effect, &outcome, &places);
    }

    fn owned(&mut self, outcome: Outcome, expected: &Outcome) {
        let Outcome::Owned(owner) = expected else { panic!("only owners are waited for") };
        match outcome {
            Outcome::Stopped => {}
            // A newer one came while the state was read.
            Outcome::Refused("fenced") => self.coverage.overtaken += 1,
            // Faults on reads are told, never hidden.
            Outcome::Refused("io") if self.weather.failing > 0 => {}
            Outcome::Refused("damaged") if self.weather.rot => {}
            outcome => {
                assert_eq!(outcome, *expected);
                self.bases[0].check_restored(owner);
                self.clients.owners.push(Owner::new(owner));
            }
        }
    }

    fn settle_reads(&mut self) {
        let mut reads = std::mem::take(&mut self.reads);
        reads.retain_mut(|read| {
            let Some(answer) = take(&mut read.pending) else { return true };
            let state = &self.bases[0];
            let checked = match &answer {
                Ok(answer) => read.check(answer, state).map(|count| {
                    self.coverage.records_read += count as u64;
                }),
                Err(oncelog::ReadError::Stopped(_)) => Ok(()),
                Err(oncelog::ReadError::Damaged { .. }) if self.weather.rot => {
                    self.coverage.rot_seen += 1;
                    Ok(())
                }
                Err(oncelog::ReadError::Io { .. }) if self.weather.failing > 0 => {
                    self.coverage.reads_failed += 1;
                    Ok(())
                }
                Err(error) => read.check_refusal(error, state),
            };
            if let Err(why) = checked {
                panic!("{why}: {:?} of log {} answered {answer:?}", read.at, read.log);
            }
            false
        });
        self.reads = reads;
    }

    /// Runs until nothing is under way. Everything must have been answered then.
    pub(crate) fn drain(&mut self) {
        for _ in 0..100_000 {
            self.pump();
            let waits = !self.asked.iter().all(|asked| asked.answer.is_some())
                || !self.owning.is_empty()
                || self.reads.iter().any(|read| !read.wait);
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
        let reads: Vec<_> = self.reads.iter().filter(|read| !read.wait).collect();
        format!("{asked:?} {reads:?} {:?}", self.owning)
    }

    /// A read that still waits has nothing to be answered with.
    fn check_parked(&self) {
        for read in &self.reads {
            let log = self.bases[0].logs.get(&read.log);
            let next = log.unwrap_or_else(|| panic!("a read of a dropped log waits")).next();
            let at_tail = match read.at {
                oncelog::request::At::Sequence(sequence) => sequence.get() >= next,
                oncelog::request::At::Latest => read.acked <= next,
                oncelog::request::At::Earliest => log.is_some_and(|log| log.first == next),
                oncelog::request::At::Dlsn(_) => true,
            };
            assert!(
                at_tail,
                "a read of log {} at {:?} waits, the end is {next}",
                read.log, read.at
            );
        }
    }

    pub(crate) fn note(&mut self, line: impl FnOnce(&Self) -> String) {
        let line = line(self);
        self.trace.push(line);
    }
}
