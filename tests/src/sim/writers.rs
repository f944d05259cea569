//! The model's writers: who may write to a log, and which numbers each writer has used.
//!
//! A writer's last 16 batches are known; a number among them means that batch, whatever is sent
//! with it.
//!
//! Not here: which writers there are and what they send (`writing`).

use std::collections::VecDeque;

use oncelog::change::Author;
use oncelog::{Epoch, LogId};

use crate::sim::effect::{Outcome, Write, WriterRow};
use crate::sim::model::{Log, State};

const WINDOW: usize = 16;

/// An idempotent writer.
#[derive(Clone, Debug)]
pub struct Writer {
    /// Its newest owner.
    pub epoch: Epoch,
    /// Its first owner: a writer that was forgotten is another one when it comes again.
    pub born: Epoch,
    /// Whether its numbers may have gaps.
    pub increasing: bool,
    /// The last number that it used.
    pub last: u64,
    /// Its last batches: number, first sequence, count.
    pub window: VecDeque<(u64, u64, u64)>,
}

impl Log {
    /// Whether this author may append.
    #[must_use]
    pub fn takes_from(&self, author: Author) -> bool {
        let free = self.owner == Epoch::new(0);
        match author {
            Author::Anyone => free,
            Author::Owner(epoch) => self.owner == epoch,
            Author::Processor(epoch) => free || self.owner == epoch,
        }
    }
}

impl State {
    pub(crate) fn open_writer(
        &mut self,
        id: LogId,
        name: Option<&str>,
        increasing: bool,
        exclusive: bool,
    ) -> Outcome {
        let Some(log) = self.logs.get(&id) else { return Outcome::Refused("dropped") };
        let known = name.and_then(|name| log.writers.get(name)).map(|writer| writer.epoch);
        if log.sealed && known.is_none() {
            return Outcome::Refused("sealed");
        }
        let epoch = self.new_epoch();
        let log = self.log_mut(id);
        if exclusive {
            log.owner = epoch;
        } else if known == Some(log.owner) {
            // Who is fenced does not keep the log for itself.
            log.owner = Epoch::new(0);
        }
        let Some(name) = name else { return Outcome::Granted(epoch, 0) };
        let new = || Writer { epoch, born: epoch, increasing, last: 0, window: VecDeque::new() };
        let writer = log.writers.entry(name.to_owned()).or_insert_with(new);
        (writer.epoch, writer.increasing) = (epoch, increasing);
        Outcome::Granted(epoch, writer.last)
    }

    pub(crate) fn share(&mut self, log: LogId) -> Outcome {
        let Some(log) = self.logs.get_mut(&log) else { return Outcome::Refused("dropped") };
        log.owner = Epoch::new(0);
        Outcome::Done
    }

    pub(crate) fn forget(&mut self, log: LogId, name: &str) -> Outcome {
        match self.logs.get_mut(&log).and_then(|log| log.writers.remove(name)) {
            Some(_) => Outcome::Done,
            None => Outcome::Refused("no such writer"),
        }
    }

    pub(crate) fn list_writers(&self, log: LogId) -> Outcome {
        let Some(log) = self.logs.get(&log) else { return Outcome::Refused("dropped") };
        let row = |(name, writer): (&String, &Writer)| WriterRow {
            name: name.clone(),
            epoch: writer.epoch,
            increasing: writer.increasing,
            last: writer.last,
        };
        Outcome::Writers(log.writers.iter().map(row).collect())
    }

    pub(crate) fn write(&mut self, write: &Write) -> Outcome {
        let Write { log: id, name, epoch, exclusive, number, records } = write;
        let Some(log) = self.logs.get(id) else { return Outcome::Refused("dropped") };
        let Some(writer) = log.writers.get(name) else { return Outcome::Refused("no such writer") };
        if writer.epoch != *epoch {
            return Outcome::Refused("writer fenced");
        }
        if let Some((_, first, count)) = writer.window.iter().find(|(used, ..)| used == number) {
            return Outcome::Written { at: (*first, *count), repeated: true };
        }
        let oldest = writer.window.front().map_or(u64::MAX, |(oldest, ..)| *oldest);
        let follows =
            if writer.increasing { *number > writer.last } else { *number == writer.last + 1 };
        if !follows {
            let forgotten = *number <= writer.last && *number < oldest;
            return Outcome::Refused(if forgotten { "forgotten" } else { "out of order" });
        }
        if records.is_empty() {
            return Outcome::Written { at: (log.next(), 0), repeated: false };
        }
        let author = if *exclusive { Author::Owner(*epoch) } else { Author::Anyone };
        let parts = [(*id, records.clone())];
        if let Some(why) = self.check(&parts, author) {
            return Outcome::Refused(why);
        }
        let at = self.append(&parts)[0];
        let writer = self.log_mut(*id).writers.get_mut(name).expect("it was found");
        writer.last = *number;
        writer.window.push_back((*number, at.0, at.1));
        if writer.window.len() > WINDOW {
            writer.window.pop_front();
        }
        Outcome::Written { at, repeated: false }
    }
}
