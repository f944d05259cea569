//! Answers of the running shard, compared with the model's.
//!
//! ```text
//! answer in the order of the requests -> the model carries the request out -> the same?
//! damage, a failing or a full disk may change an answer, but only where it was there
//! ```
//!
//! Not here: what stands after opening (`audit`).

use oncelog::error::ReadError;
use oncelog::request::{At, Wait};

use crate::sim::asking::take;
use crate::sim::clients::Owner;
use crate::sim::effect::{Effect, Outcome};
use crate::sim::world::{Asked, World};

/// So many states are remembered for the blind spot.
const PAST_MAX: usize = 2_000;

impl World {
    /// Takes the answers that are there, in order, and compares them with the model's.
    pub(crate) fn settle(&mut self) {
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
                self.remember();
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

    /// The state of now, in case that damage brings it back.
    pub(crate) fn remember(&mut self) {
        if !self.weather.rot {
            return;
        }
        let now = self.disk.clock();
        self.past.extend(self.bases.iter().map(|state| (now, state.clone())));
        let more = self.past.len().saturating_sub(PAST_MAX);
        if let Some((at, _)) = self.past.drain(..more).next_back() {
            self.forgotten = at;
        }
    }

    fn answered(&mut self, asked: Asked) {
        let Asked { effect, waiting, answer } = asked;
        let base = &mut self.bases[0];
        let (outcome, places) = match (answer, &effect) {
            (Some((Outcome::NoSpace, _)), _) => {
                assert!(self.weather.full || self.weather.crowded, "there is room for {effect:?}");
                self.coverage.counts.no_space += 1;
                return base.refused_for_space(&effect);
            }
            (Some((Outcome::TooMany, _)), _) => {
                assert!(self.weather.crowded && base.logs.len() > 200, "too many for {effect:?}");
                self.coverage.counts.too_many += 1;
                return;
            }
            (Some((Outcome::OverCapacity(wait_us), _)), _) => {
                assert!(
                    wait_us > 0 && base.may_be_over_capacity(&effect),
                    "no rate for {effect:?}"
                );
                self.coverage.counts.over_capacity += 1;
                self.told_wait_us = wait_us;
                return;
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
        self.writers_answered(&effect, &outcome);
    }

    fn owned(&mut self, outcome: Outcome, expected: &Outcome) {
        let Outcome::Owned(owner) = expected else { panic!("only owners are waited for") };
        match outcome {
            Outcome::Stopped => {}
            // A newer one came while the state was read.
            Outcome::Refused("fenced") => self.coverage.counts.overtaken += 1,
            // Faults on reads are told, never hidden.
            Outcome::Refused("io") if self.weather.failing > 0 => {
                self.coverage.counts.reads_failed += 1;
            }
            Outcome::Damaged(damage) => self.state_damaged(&damage),
            outcome => {
                assert_eq!(outcome, *expected);
                self.bases[0].check_restored(owner);
                self.clients.owners.push(Owner::new(owner));
            }
        }
    }

    pub(crate) fn settle_reads(&mut self) {
        let mut reads = std::mem::take(&mut self.reads);
        reads.retain_mut(|read| {
            let Some(answer) = take(&mut read.pending) else { return true };
            let state = &self.bases[0];
            let checked = match &answer {
                Ok(answer) => {
                    let now_us = self.now.mono_us;
                    let checked = read.check(answer, state, &mut self.times, now_us);
                    checked.map(|count| {
                        let counts = &mut self.coverage.counts;
                        counts.records_read += count as u64;
                        counts.ends_read += u64::from(answer.end);
                        let over = count == 0 && !answer.end && read.wait != Wait::No;
                        counts.waits_over += u64::from(over);
                        let by_key = matches!(read.at, At::TxId(_) | At::Time(_));
                        counts.sought += u64::from(count > 0 && by_key);
                    })
                }
                Err(ReadError::Stopped(_)) => Ok(()),
                Err(ReadError::Damaged { log, damage }) if *log == read.log => {
                    self.records_damaged(*log, read.at, damage)
                }
                Err(ReadError::Io { .. }) if self.weather.failing > 0 => {
                    self.coverage.counts.reads_failed += 1;
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

    /// A read that still waits has nothing to be answered with.
    pub(crate) fn check_parked(&self) {
        for read in &self.reads {
            let log = self.bases[0].logs.get(&read.log);
            let log = log.unwrap_or_else(|| panic!("a read of a dropped log waits"));
            let (next, at_tail) = (log.next(), read.may_wait(log, &self.times, self.now.mono_us));
            assert!(
                at_tail,
                "a read of log {} at {:?} waits, the end is {next}",
                read.log, read.at
            );
        }
    }
}
