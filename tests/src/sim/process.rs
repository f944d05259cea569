//! Processes of a world: how they begin, and the three ways in which they end.
//!
//! ```text
//! open -> crash in the middle? -> open again .. -> audit -> running
//! running -> power cut | kill | clean close
//! ```
//!
//! An end makes `bases` the states that may stand then: requests without an answer happened or not,
//! but only if all before them did.
//!
//! Not here: what a disk loses (`disk`).

use oncelog::error::OpenError;
use oncelog::reply::pair;
use oncelog::request::Request;
use oncelog::shard::Shard;

use crate::sim::asking::take;
use crate::sim::effect::Outcome;
use crate::sim::faults::Faults;
use crate::sim::model::State;
use crate::sim::witness::Blind;
use crate::sim::world::{Crashed, World};

impl World {
    /// Whether the shard stopped.
    pub(crate) fn has_stopped(&self) -> bool {
        self.asked.iter().any(|asked| matches!(asked.answer, Some((Outcome::Stopped, _))))
    }

    pub(crate) fn end_process(&mut self) {
        let stopped = self.has_stopped();
        self.coverage.counts.stops += u64::from(stopped);
        if stopped {
            self.drain();
        }
        if self.rng.one_in(4) { self.close() } else { self.crash() }
    }

    /// Power cut or kill.
    pub(crate) fn crash(&mut self) {
        let power = self.rng.below(4) > 0;
        self.note(|_| (if power { "power cut" } else { "kill" }).to_owned());
        let counts = &mut self.coverage.counts;
        *(if power { &mut counts.power_cuts } else { &mut counts.kills }) += 1;
        self.process_ended();
        if power { self.disk.cut_power(&mut self.rng) } else { self.disk.kill(&mut self.rng) }
    }

    fn process_ended(&mut self) {
        self.shard = None;
        self.owning.clear();
        self.reads.clear();
        let asked: Vec<_> = self.asked.drain(..).map(|asked| asked.effect).collect();
        self.clients.writing.process_ended(&asked);
        for mut state in std::mem::take(&mut self.bases) {
            self.bases.push(state.clone());
            for effect in &asked {
                state.apply(effect);
                self.bases.push(state.clone());
            }
        }
        self.bases.iter_mut().for_each(State::restarted);
        // Damage may cut off later what was never answered but survived.
        self.remember();
    }

    /// A clean end: everything is answered, the next process goes on.
    pub(crate) fn close(&mut self) {
        self.note(|_| "close".to_owned());
        while !self.wants_requests() {
            self.pump();
            self.complete_one();
        }
        let stopped = self.has_stopped();
        let (reply, mut pending) = pair();
        let now = self.now;
        let shard = self.shard.as_mut().expect("it wants requests");
        shard.handle_request(Request::Close { reply }, now);
        let mut steps = 0;
        loop {
            self.pump();
            if self.shard.as_ref().expect("it runs").is_finished() {
                break;
            }
            self.complete_one();
            steps += 1;
            assert!(steps < 100_000, "it never closes");
        }
        let closed = take(&mut pending).expect("a finished shard has answered");
        let stopped = stopped || self.has_stopped() || closed.is_err();
        assert!(closed.is_err() || !stopped, "a stopped shard says that it closed well");
        assert!(closed.is_ok() || self.weather.may_stop(), "{closed:?}");
        self.coverage.counts.closes += u64::from(closed.is_ok());
        assert!(stopped || self.asked.is_empty(), "closed, but something has no answer");
        assert_eq!(self.disk.under_way(), 0);
        self.process_ended();
        if self.rng.one_in(3) {
            self.disk.cut_power(&mut self.rng);
        }
    }

    /// Opens, and looks whether everything is there; crashes meanwhile, several times.
    pub(crate) fn reopen(&mut self) {
        loop {
            self.crash_in = self.rng.one_in(3).then(|| self.rng.below(40));
            let blind = self.look_at_blind_spot();
            let failing = self.weather.failing > 0 && self.rng.one_in(4);
            if failing {
                (self.disk.faults.read, self.disk.faults.sync) = (20, 20);
            }
            let opened = self.open_once();
            self.disk.faults = Faults::default();
            let opened = match opened {
                Ok(Err(OpenError::Io { .. })) if failing => {
                    // A failed read is never taken for a hole.
                    self.coverage.counts.openings_failed += 1;
                    self.shard = None;
                    continue;
                }
                Ok(Err(error)) => {
                    // An ordinary crash always opens.
                    self.refused(&error);
                    self.shard = None;
                    self.heal();
                    continue;
                }
                Ok(Ok(())) => {
                    if let Some(Blind { since, segments }) = blind {
                        self.disk.scar(&segments, since);
                    }
                    self.disk.forget_lost_files();
                    Ok(())
                }
                Err(Crashed) => Err(Crashed),
            };
            let audited = opened.and_then(|()| self.audit());
            match audited {
                Ok(true) => return,
                Ok(false) if !self.disk.can_be_healed() => {
                    // Nobody will ever tell what stands.
                    self.is_over = true;
                    return;
                }
                _ => self.coverage.counts.recoveries_crashed += 1,
            }
            self.crash();
            if audited.is_ok() {
                self.heal();
            }
        }
    }

    pub(crate) fn open_once(&mut self) -> Result<Result<(), OpenError>, Crashed> {
        let found = self.disk.open();
        self.disk.forget_misreads();
        self.indexes_read.clear();
        if self.rng.one_in(2) {
            self.choose_options();
        }
        self.note(|_| format!("open {found:?}"));
        self.config.begun = self.disk.has_begun();
        let mut shard = Shard::open(self.config.clone(), &found);
        if let Some(bytes) = self.index_cache_size {
            shard.limit_index_cache(bytes);
        }
        self.shard = Some(shard);
        loop {
            self.pump();
            let shard = self.shard.as_mut().expect("it was just made");
            let opened = shard.poll_opened();
            if let (Some(_), Some(facts)) = (&opened, shard.recovery_facts()) {
                self.note(|_| format!("facts {facts:?}"));
                self.coverage.judged(facts);
            }
            match opened {
                None => self.tick()?,
                Some(Ok(())) => break,
                Some(Err(error)) => return Ok(Err(error)),
            }
        }
        self.crash_in = self.crash_in.or_else(|| self.rng.one_in(4).then(|| self.rng.below(60)));
        Ok(Ok(()))
    }

    /// A completion, or a crash in the middle of opening.
    pub(crate) fn tick(&mut self) -> Result<(), Crashed> {
        match &mut self.crash_in {
            Some(0) => return Err(Crashed),
            Some(left) => *left -= 1,
            None => {}
        }
        self.pass_time(300);
        if self.disk.under_way() == 0 {
            self.wait_for_timeout();
        }
        self.complete_one();
        Ok(())
    }
}
