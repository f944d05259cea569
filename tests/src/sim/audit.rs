//! After opening: is everything acknowledged there, and nothing that was never asked for?
//!
//! ```text
//! lists, every record of every log, every processor restored
//!      '-> states that do not look so are struck off `bases`; one at least must stay
//! ```
//!
//! The process may crash in the middle; then `bases` holds what may stand by then.
//!
//! Not here: what a state is (`model`).

use oncelog::Sequence;
use oncelog::error::ReadError;
use oncelog::reply::pair;
use oncelog::request::{At, OpenMode, ReadRequest, Request, Wait};

use crate::sim::asking::{request_of, take};
use crate::sim::clients::Owner;
use crate::sim::effect::{Effect, Info, Outcome};
use crate::sim::model::State;
use crate::sim::reading::{records_of, same};
use crate::sim::world::{Crashed, World};

impl World {
    /// Compares what stands with what may. Says whether that left one state only: damage may hide
    /// which of several it is.
    pub(crate) fn audit(&mut self) -> Result<bool, Crashed> {
        let damaged = self.seen_damaged();
        let logs = self.look_at_logs()?;
        let Outcome::Readers(readers) = self.look(Effect::ListReaders)? else {
            panic!("processors were asked for")
        };
        for log in &logs {
            self.look_into(log)?;
            self.look(Effect::ListWriters(log.id))?;
        }
        for name in readers {
            // Damage may bring back what stands between two of these.
            self.remember();
            let (sources, owns) = (Vec::new(), Vec::new());
            let effect = Effect::OpenReader { name, sources, change: false, owns };
            if let Outcome::Owned(owner) = self.look(effect)? {
                self.bases[0].check_restored(&owner);
                self.clients.owners.push(Owner::new(&owner));
            }
        }
        if self.bases.iter().any(|state| state.counters() != self.bases[0].counters()) {
            self.look_for_numbers()?;
        }
        if self.bases.len() > 1 && self.seen_damaged() > damaged {
            return Ok(false);
        }
        self.bases.truncate(1);
        self.bases[0].check_once();
        if std::mem::take(&mut self.bases[0].is_past) {
            self.coverage.counts.blind_spot_used += 1;
        }
        self.remember();
        self.clients.reopened(&self.bases[0]);
        self.note(|_| "audited".to_owned());
        Ok(true)
    }

    fn seen_damaged(&self) -> u64 {
        self.coverage.counts.reads_damaged + self.coverage.counts.states_damaged
    }

    /// Something may have been made and dropped again: the next number tells.
    fn look_for_numbers(&mut self) -> Result<(), Crashed> {
        let (log, reader) = ("g/new".to_owned(), "g/new".to_owned());
        self.look(Effect::OpenLog(log.clone(), OpenMode::Create, None))?;
        let sources = vec![log.clone()];
        let (name, owns) = (reader.clone(), Vec::new());
        self.look(Effect::OpenReader { name, sources, change: false, owns })?;
        self.look(Effect::DropReader(reader))?;
        self.look(Effect::DropLog(log))?;
        Ok(())
    }

    /// All logs, a page at a time.
    fn look_at_logs(&mut self) -> Result<Vec<Info>, Crashed> {
        let mut all: Vec<Info> = Vec::new();
        loop {
            let after = all.last().map(|info| info.name.clone()).unwrap_or_default();
            let limit = [1, 3, 1_000][self.rng.index(3)];
            let page = self.look(Effect::ListLogs { prefix: String::new(), after, limit })?;
            let Outcome::Logs(page) = page else { panic!("logs were asked for") };
            let is_last = page.len() < limit;
            all.extend(page);
            if is_last {
                return Ok(all);
            }
        }
    }

    /// As [`answer_to`](Self::answer_to); strikes off the states that would answer otherwise.
    fn look(&mut self, effect: Effect) -> Result<Outcome, Crashed> {
        let answer = self.answer_to(&effect);
        if answer.is_err() {
            // It may have happened.
            let before = self.bases.clone();
            self.bases.iter_mut().for_each(|state| drop(state.apply(&effect)));
            self.bases.extend(before);
        }
        let outcome = answer?;
        if let Outcome::Damaged(damage) = &outcome {
            // Its epoch is newer all the same.
            self.state_damaged(damage);
            self.bases.iter_mut().for_each(|state| drop(state.apply(&effect)));
            return Ok(outcome);
        }
        let before = self.bases.clone();
        self.bases.retain_mut(|state| state.apply(&effect) == outcome);
        self.explain(&before, |state| format!("{:?}", state.clone().apply(&effect)), &outcome);
        self.remember();
        Ok(outcome)
    }

    /// Carries a request out, alone.
    pub(crate) fn answer_to(&mut self, effect: &Effect) -> Result<Outcome, Crashed> {
        let (request, mut waiting) = request_of(effect);
        self.make(request)?;
        loop {
            self.pump();
            if let Some((outcome, _)) = waiting.poll() {
                return Ok(outcome);
            }
            self.tick()?;
        }
    }

    pub(crate) fn make(&mut self, request: Request) -> Result<(), Crashed> {
        self.pump();
        while !self.wants_requests() {
            self.tick()?;
            self.pump();
        }
        let now = self.now;
        self.shard.as_mut().expect("it wants requests").handle_request(request, now);
        Ok(())
    }

    /// Reads a whole log.
    fn look_into(&mut self, info: &Info) -> Result<(), Crashed> {
        let (mut next, end) = (info.numbers.0, info.numbers.1);
        let mut at = At::Earliest;
        while next < end {
            let (reply, mut pending) = pair();
            let bytes_max = [1, 4_000, 1 << 20][self.rng.index(3)];
            let (log, wait) = (info.id, Wait::No);
            self.make(Request::Read(ReadRequest {
                log,
                at,
                bytes_max,
                wait,
                ahead: false,
                planned: None,
                reply,
            }))?;
            let answer = loop {
                self.pump();
                if let Some(answer) = take(&mut pending) {
                    break answer;
                }
                self.tick()?;
            };
            let answer = match answer {
                Err(ReadError::Damaged { log, damage }) => {
                    let asked = At::Sequence(Sequence::new(next));
                    let checked = self.records_damaged(log, asked, &damage);
                    checked.unwrap_or_else(|why| panic!("log {log} at {next}: {why}: {damage}"));
                    next += 1;
                    at = At::Sequence(Sequence::new(next));
                    continue;
                }
                answer => answer.unwrap_or_else(|error| panic!("log {log} at {next}: {error}")),
            };
            assert_eq!(answer.first.get(), next, "reading goes on where it ended");
            let records = records_of(&answer).unwrap_or_else(|why| panic!("log {log}: {why}"));
            assert!(!records.is_empty(), "log {log} says that it has record {next}");
            let before = self.bases.clone();
            let fits = |state: &State| {
                for read in &records {
                    let known = usize::try_from(read.sequence).expect("small numbers");
                    let record = state.logs[&log].records.get(known);
                    same(read, record.ok_or("a record that was never appended")?)?;
                }
                Ok::<(), String>(())
            };
            self.bases.retain(|state| fits(state).is_ok());
            self.explain(&before, |state| format!("{:?}", fits(state)), &"records");
            for state in &mut self.bases {
                records.iter().for_each(|read| state.learn(log, read.sequence, read.dlsn));
            }
            next = answer.next.get();
            at = At::Sequence(Sequence::new(next));
        }
        Ok(())
    }

    fn explain(
        &self,
        before: &[State],
        why: impl Fn(&State) -> String,
        found: &dyn std::fmt::Debug,
    ) {
        if self.bases.is_empty() {
            let lines: Vec<_> = before.iter().map(|state| format!("\n  {}", why(state))).collect();
            panic!("no state that may stand looks so: {found:?}; they are:{}", lines.concat());
        }
    }
}
