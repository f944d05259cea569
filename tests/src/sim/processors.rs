//! The model's processors: who owns them, where they stand, what they start from.
//!
//! Not here: logs (`model`).

use std::collections::BTreeMap;

use oncelog::change::Author;
use oncelog::{Epoch, LogId, ReaderId};

use crate::sim::effect::{Blob, Commit, Outcome, Restored};
use crate::sim::model::{Reader, State};

impl State {
    pub(crate) fn part(
        &mut self,
        reader: ReaderId,
        epoch: Epoch,
        number: u64,
        bytes: &Blob,
    ) -> Outcome {
        if let Some(why) = self.check_owner(reader, epoch) {
            return Outcome::Refused(why);
        }
        let reader = self.readers.get_mut(&reader).expect("it was checked");
        if reader.parts_for != number {
            reader.parts_for = number;
            reader.parts.clear();
        }
        reader.parts.push(bytes.clone());
        Outcome::Done
    }

    pub(crate) fn open_reader(
        &mut self,
        name: &str,
        sources: &[String],
        change: bool,
        owns: &[String],
    ) -> Outcome {
        let known = self.reader_named(name);
        let stored = known.map(|id| self.readers[&id].sources.clone());
        let mut positions = Vec::new();
        for source in sources {
            let Some(log) = self.log_named(source) else {
                return Outcome::Refused("no such log");
            };
            let before = stored.iter().flatten().find(|(have, _)| *have == log);
            positions.push((log, before.map_or(self.logs[&log].first, |(_, next)| *next)));
        }
        positions.sort_unstable();
        positions.dedup();
        if sources.is_empty() {
            match &stored {
                Some(stored) => positions.clone_from(stored),
                None => return Outcome::Refused("no such processor"),
            }
        }
        if stored.is_some_and(|stored| !change && stored != positions) {
            return Outcome::Refused("other sources");
        }
        let owned: Option<Vec<LogId>> = owns.iter().map(|own| self.log_named(own)).collect();
        let Some(owned) = owned else { return Outcome::Refused("no such log") };
        let id = known.unwrap_or(ReaderId::new(self.next_reader));
        let epoch = self.new_epoch();
        for log in owned {
            self.log_mut(log).owner = epoch;
        }
        self.next_reader += u64::from(known.is_none());
        let reader = self.readers.entry(id).or_insert_with(|| Reader {
            name: name.to_owned(),
            epoch,
            sources: Vec::new(),
            starts: BTreeMap::new(),
            commits: 0,
            snapshot: None,
            deltas: Vec::new(),
            ended: false,
            parts: Vec::new(),
            parts_for: 0,
        });
        for (log, next) in &positions {
            reader.starts.entry(*log).or_insert(*next);
        }
        reader.starts.retain(|log, _| positions.iter().any(|(have, _)| have == log));
        (reader.epoch, reader.sources, reader.ended) = (epoch, positions, false);
        reader.parts.clear();
        Outcome::Owned(Restored {
            reader: id,
            epoch,
            sources: reader.sources.clone(),
            snapshot: reader.snapshot.clone(),
            deltas: reader.deltas.clone(),
            commits: reader.commits,
        })
    }

    fn check_owner(&self, reader: ReaderId, epoch: Epoch) -> Option<&'static str> {
        match self.readers.get(&reader) {
            None => Some("dropped"),
            Some(state) if state.epoch != epoch => Some("fenced"),
            Some(state) => state.ended.then_some("ended"),
        }
    }

    pub(crate) fn commit(&mut self, commit: &Commit) -> Outcome {
        if let Some(why) = self.check_owner(commit.reader, commit.epoch) {
            return Outcome::Refused(why);
        }
        let stored = &self.readers[&commit.reader];
        let follows = |(log, from, to): &(LogId, u64, u64)| {
            stored.sources.contains(&(*log, *from)) && from <= to && *to <= self.logs[log].next()
        };
        let snapshot = commit.state.as_ref().is_some_and(|(snapshot, _)| *snapshot);
        let parts = commit.parts == 0
            || stored.parts_for == commit.number && stored.parts.len() == commit.parts;
        let why = if commit.number != stored.commits + 1 {
            Some("overtaken")
        } else if !commit.moves.iter().all(follows) {
            Some("position")
        } else if self.check(&commit.outputs, Author::Processor(commit.epoch)).is_some() {
            Some("output")
        } else {
            (snapshot && !parts).then_some("ended")
        };
        let reader = self.readers.get_mut(&commit.reader).expect("it was checked");
        if let Some(why) = why {
            reader.ended = true;
            return Outcome::Refused(why);
        }
        reader.commits += 1;
        let number = reader.commits;
        for (log, _, to) in &commit.moves {
            let source = reader.sources.iter_mut().find(|(have, _)| have == log);
            source.expect("it follows").1 = *to;
        }
        match &commit.state {
            None => {}
            Some((false, bytes)) => reader.deltas.push(bytes.clone()),
            Some((true, last)) => {
                let mut whole = Vec::new();
                let parts = reader.parts.iter().take(commit.parts);
                parts.for_each(|part| whole.extend_from_slice(&part.0));
                whole.extend_from_slice(&last.0);
                reader.snapshot = Some(Blob(whole.into()));
                reader.deltas.clear();
            }
        }
        reader.parts.clear();
        Outcome::Appended(number, self.append(&commit.outputs))
    }
}
