//! Writers as clients use them, and requests that change what a log is.
//!
//! ```text
//! open -> last -> batches last + 1, .. under way -> answers lost: same number, same records
//! ```
//!
//! A writer remembers what it sent under which number. It sends some of that again at any time, and
//! after a crash what it does not know the answer to: under its old epoch, or after opening anew.
//! Writers that were fenced go on trying.
//!
//! Not here: whether answers are right (`writers`, `answers`).

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use oncelog::change::Author;
use oncelog::{Codec, Epoch, LogId, LogOptions, Rates};

use crate::rng::Rng;
use crate::sim::clients::{LOG_NAMES, name};
use crate::sim::effect::{Effect, NewRecord, Outcome, Write};
use crate::sim::model::State;
use crate::sim::world::World;

const WRITERS: u64 = 3;
/// Batches that a writer can send again: more than a shard remembers.
const SENT_MAX: usize = 24;
/// Writers that believe to own something.
const HANDLES_MAX: usize = 10;

/// Someone who believes to own a writer.
#[derive(Clone, Debug)]
struct Handle {
    log: LogId,
    name: String,
    epoch: Epoch,
    born: Epoch,
    exclusive: bool,
    increasing: bool,
    /// The number after the highest that it sent.
    next: u64,
    sent: VecDeque<(u64, Vec<NewRecord>)>,
}

/// The writers of one world.
pub struct Writing {
    handles: Vec<Handle>,
    /// Batches without an answer when their process ended.
    in_doubt: BTreeSet<(LogId, String, u64)>,
    /// One in so many changes ends a log; one in so many openings is exclusive.
    seals: u64,
    exclusive: u64,
}

impl Writing {
    /// Nobody yet.
    #[must_use]
    pub fn new(rng: &mut Rng) -> Self {
        let (handles, in_doubt) = (Vec::new(), BTreeSet::new());
        let (seals, exclusive) = ([10, 60, 300][rng.index(3)], [3, 12, 60][rng.index(3)]);
        Self { handles, in_doubt, seals, exclusive }
    }

    /// A process ended before it answered these.
    pub fn process_ended(&mut self, asked: &[Effect]) {
        for effect in asked {
            if let Effect::Write(Write { log, name, number, .. }) = effect {
                self.in_doubt.insert((*log, name.clone(), *number));
            }
        }
    }

    /// A new process: writers of logs that are gone are forgotten.
    pub fn reopened(&mut self, state: &State) {
        self.handles.retain(|handle| state.logs.contains_key(&handle.log));
    }

    /// What is known may never have been.
    pub fn forget_all(&mut self) {
        self.handles.clear();
        self.in_doubt.clear();
    }

    /// A writer was opened. It takes over what was sent before it, unless it was forgotten since.
    fn opened(&mut self, handle: Handle) {
        let same = |old: &&Handle| {
            (old.log, &old.name, old.born) == (handle.log, &handle.name, handle.born)
        };
        let sent = self.handles.iter().rev().find(same).map(|old| old.sent.clone());
        let sent = sent.unwrap_or_default();
        self.handles.push(Handle { sent, ..handle });
        if self.handles.len() > HANDLES_MAX {
            self.handles.drain(..HANDLES_MAX / 2);
        }
    }
}

impl State {
    /// No record is there twice: each has a number of its own.
    ///
    /// # Panics
    /// If one is.
    pub fn check_once(&self) {
        let mut seen = BTreeSet::new();
        for (id, log) in &self.logs {
            for record in log.records.iter() {
                assert!(seen.insert(record.id), "record {} is twice there: log {id}", record.id);
            }
        }
    }
}

impl World {
    /// Sees what became of a request about writers.
    pub(crate) fn writers_answered(&mut self, effect: &Effect, outcome: &Outcome) {
        match (effect, outcome) {
            (
                Effect::OpenWriter { log, name: Some(name), increasing, exclusive },
                Outcome::Granted(epoch, last),
            ) => {
                let born = self.bases[0].logs[log].writers[name].born;
                self.clients.writing.opened(Handle {
                    log: *log,
                    name: name.clone(),
                    epoch: *epoch,
                    born,
                    exclusive: *exclusive,
                    increasing: *increasing,
                    next: last + 1,
                    sent: VecDeque::new(),
                });
            }
            (Effect::Write(write), outcome) => {
                let key = (write.log, write.name.clone(), write.number);
                let was_in_doubt = self.clients.writing.in_doubt.remove(&key);
                if let (true, Outcome::Written { repeated, .. }) = (was_in_doubt, outcome) {
                    let counts = &mut self.coverage.counts;
                    *(match repeated {
                        true => &mut counts.resends_that_were_there,
                        false => &mut counts.resends_that_were_not,
                    }) += 1;
                }
            }
            _ => {}
        }
    }

    /// Sends a batch of a writer.
    pub(crate) fn write(&mut self) {
        let count = self.clients.writing.handles.len();
        if count == 0 || self.rng.one_in(30) {
            return self.open_writer();
        }
        // The newest are tried most, the fenced now and then.
        let index = match self.rng.one_in(6) {
            true => self.rng.index(count),
            false => count - 1 - self.rng.index(count.min(3)),
        };
        let number = self.number_of(index);
        let handle = &self.clients.writing.handles[index];
        let known = handle.sent.iter().find(|(sent, _)| *sent == number);
        let records = match known.map(|(_, records)| records.clone()) {
            Some(records) if !self.rng.one_in(5) => records,
            _ => self.batch(),
        };
        let handle = &mut self.clients.writing.handles[index];
        handle.next = handle.next.max(number.saturating_add(1));
        handle.sent.retain(|(sent, _)| *sent != number);
        handle.sent.push_back((number, records.clone()));
        if handle.sent.len() > SENT_MAX {
            handle.sent.pop_front();
        }
        let Handle { log, epoch, exclusive, .. } = *handle;
        let name = handle.name.clone();
        self.ask(Effect::Write(Write { log, name, epoch, exclusive, number, records }));
    }

    /// The records of a new batch; seldom none.
    fn batch(&mut self) -> Vec<NewRecord> {
        let mut room: usize = 100_000;
        let mut records = self.records(3);
        if records.is_empty() && !self.rng.one_in(10) {
            records = self.records(1);
        }
        records.retain(|record| {
            room = room.saturating_sub(record.len);
            room > 0
        });
        records
    }

    /// The number that a writer gives next: the one that follows, one that it sent before, or
    /// nonsense.
    fn number_of(&mut self, index: usize) -> u64 {
        let handle = &self.clients.writing.handles[index];
        let log = self.bases[0].logs.get(&handle.log);
        let last = log.and_then(|log| log.writers.get(&handle.name)).map_or(0, |w| w.last);
        let is_own =
            |effect: &Effect| matches!(effect, Effect::Write(write) if write.epoch == handle.epoch);
        let outstanding = self.asked.iter().any(|asked| is_own(&asked.effect));
        let in_doubt = &self.clients.writing.in_doubt;
        let is_doubtful =
            |number: &u64| in_doubt.contains(&(handle.log, handle.name.clone(), *number));
        let doubtful = handle.sent.iter().map(|(n, _)| *n).filter(is_doubtful).min();
        let again =
            self.rng.pick(&handle.sent.iter().map(|(n, _)| *n).collect::<Vec<_>>()).copied();
        match (self.rng.below(12), again) {
            (0..5, _) if doubtful.is_some() => doubtful.expect("it was just looked at"),
            (0..3, Some(again)) => again,
            (3, _) => self.rng.below(last + 3),
            (4, _) if handle.increasing => handle.next.max(last + 1) + self.rng.below(5),
            _ if outstanding => handle.next.max(last + 1),
            _ => {
                // What it sent and is not there: in order.
                let missing = handle.sent.iter().map(|(n, _)| *n).filter(|n| *n > last).min();
                missing.filter(|_| handle.increasing).unwrap_or(last + 1)
            }
        }
    }

    fn open_writer(&mut self) {
        let log = self.any_log();
        let exclusive = self.rng.one_in(self.clients.writing.exclusive);
        let name = (!exclusive || self.rng.one_in(2)).then(|| self.writer_name());
        let increasing = self.rng.one_in(3);
        self.ask(Effect::OpenWriter { log, name, increasing, exclusive });
    }

    fn writer_name(&mut self) -> String {
        format!("w{}", self.rng.below(WRITERS))
    }

    /// Who appends: mostly someone who may.
    pub(crate) fn author_for(&mut self, log: LogId) -> Author {
        let nobody = Epoch::new(0);
        let owner = self.bases[0].logs.get(&log).map_or(nobody, |log| log.owner);
        let (_, _, next_epoch) = self.bases[0].counters();
        match self.rng.below(20) {
            0 => Author::Owner(Epoch::new(self.rng.below(next_epoch + 1).max(1))),
            1..3 => Author::Anyone,
            _ if owner == nobody => Author::Anyone,
            _ => Author::Owner(owner),
        }
    }

    /// Changes what a log is, or who may write to it.
    pub(crate) fn change(&mut self) {
        let log = self.any_log();
        if self.rng.one_in(self.clients.writing.seals) {
            let author = self.author_for(log);
            return self.ask(Effect::Seal(log, author));
        }
        let sealed = self.bases[0].logs.values().filter(|log| log.sealed);
        let names: Vec<_> = sealed.map(|log| log.name.clone()).collect();
        if names.len() > 1 && self.rng.one_in(3) {
            let name = self.rng.pick(&names).expect("there are some").clone();
            return self.ask(Effect::DropLog(name));
        }
        match self.rng.below(20) {
            0..5 => self.set_options(log),
            5..8 => {
                let new = name("l", self.rng.below(LOG_NAMES));
                let other = self.rng.one_in(12);
                self.ask(Effect::Rename(log, if other { format!("x{new}") } else { new }));
            }
            8..12 => self.open_writer(),
            12..16 => {
                let owned = self.bases[0].logs.iter().find(|(_, log)| log.owner != Epoch::new(0));
                let log = owned.map_or(log, |(log, _)| *log);
                self.ask(Effect::Share(log));
            }
            16 => {
                let name = self.writer_name();
                self.ask(Effect::Forget(log, name));
            }
            17 => self.ask(Effect::ListWriters(log)),
            _ => {
                let rates = self.rates();
                self.ask(Effect::SetRates(rates));
            }
        }
    }

    fn set_options(&mut self, log: LogId) {
        let version = self.bases[0].logs.get(&log).map_or(0, |log| log.version);
        let replaces = match self.rng.below(6) {
            0 => Some(version + 1),
            1..4 => Some(version),
            _ => None,
        };
        let options = self.new_options();
        self.ask(Effect::SetOptions { log, options, replaces });
    }

    fn rates(&mut self) -> Rates {
        let Self { rng, clients, .. } = self;
        let rates = match rng.below(3) {
            0 => Rates::default(),
            1 => Rates::default().bytes_soft(rng.between(1, 100_000)),
            _ => Rates::default().records_soft(rng.between(1, 100)),
        };
        match rng.below(3) {
            // So much never comes.
            0 => rates.bytes_hard(1 << 50).records_hard(1 << 50),
            1 if clients.is_rated => rates.records_hard(rng.between(1, 500)),
            2 if clients.is_rated => rates.bytes_hard(rng.between(1, 1 << 20)),
            _ => rates,
        }
    }

    /// Options; seldom such as no log may have. Nothing that they keep ever goes by itself.
    pub(crate) fn new_options(&mut self) -> Arc<LogOptions> {
        let rates = if self.rng.one_in(3) { self.rates() } else { Rates::default() };
        let rng = &mut self.rng;
        let codec = Codec::ALL[rng.index(3)];
        let common = if rng.one_in(6) { 5 } else { 3 };
        let metadata = [0, 7, 300, 4096, 4097][rng.index(common)];
        let metadata = vec![u8::try_from(rng.below(256)).expect("a byte"); metadata];
        let mut options = LogOptions::default().compression(codec).rates(rates).metadata(metadata);
        if rng.one_in(3) {
            options = options.record_size_max([300, 5_000, 30_000, 1 << 30][rng.index(4)]);
        }
        if rng.one_in(3) {
            // An age would be waited for, however far away.
            options = options.keep_bytes(u64::MAX / 4 - rng.below(9));
            for _ in 0..rng.below(3) {
                let group = if rng.one_in(20) { "x" } else { "" };
                options = options.keep_until(format!("{group}{}", name("p", rng.below(4))));
            }
        }
        options.into()
    }
}
