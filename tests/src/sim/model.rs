//! What a shard should be: plain lists, and one function that says what each request does to them.
//!
//! ```text
//! State --apply(Effect)--> State, Outcome
//! ```
//!
//! A shard carries requests out in the order in which they come, and what survives a crash is that
//! of a prefix of them. So the states that may stand after a crash are `base`, the state after all
//! answered requests, and those after each of the requests that followed, one by one.
//!
//! Not here: durability, files, time. If this gets clever it is wrong.

use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;
use oncelog::format::record::RECORD_HEADER_SIZE;
use oncelog::request::OpenMode;
use oncelog::{Damaged, Dlsn, Epoch, LogId, ReaderId};

use crate::rng::mix;

/// Bytes of a state, short in a trace.
#[derive(Clone, PartialEq, Eq)]
pub struct Blob(pub Bytes);

impl std::fmt::Debug for Blob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let tail = self.0.iter().rev().take(40).fold(0, |hash, byte| mix(hash ^ u64::from(*byte)));
        write!(f, "{}:{:04x}", self.0.len(), tail & 0xffff)
    }
}

/// A record; its payload follows from `id` and `len`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Never given twice.
    pub id: u64,
    /// Bytes of payload.
    pub len: usize,
    /// Its transaction id.
    pub txid: u64,
    /// Where it stands, once that was said.
    pub dlsn: Option<Dlsn>,
}

/// A record on its way.
#[derive(Clone, Debug)]
pub struct NewRecord {
    /// Never given twice.
    pub id: u64,
    /// Bytes of payload.
    pub len: usize,
    /// Its transaction id, if it brings one.
    pub txid: Option<u64>,
}

/// A log with every record it ever had.
#[derive(Clone, Debug)]
pub struct Log {
    /// Its name.
    pub name: String,
    /// Records before this one are truncated.
    pub first: u64,
    /// All records from sequence 0, truncated ones too.
    pub records: Rc<Vec<Record>>,
}

impl Log {
    /// The sequence that the next record gets.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.records.len() as u64
    }

    /// Bytes that `count` records take in a section.
    #[must_use]
    pub fn bytes_of(&self, first: u64, count: u64) -> Option<u64> {
        let range = usize::try_from(first).ok()?..usize::try_from(first + count).ok()?;
        let bytes = |record: &Record| (RECORD_HEADER_SIZE + record.len) as u64;
        Some(self.records.get(range)?.iter().map(bytes).sum())
    }

    fn last_txid(&self) -> u64 {
        self.records.last().map_or(0, |record| record.txid)
    }
}

/// A processor.
#[derive(Clone, Debug)]
pub struct Reader {
    /// Its name.
    pub name: String,
    /// Its newest owner.
    pub epoch: Epoch,
    /// Next sequence of each source, in the order of the logs' numbers.
    pub sources: Vec<(LogId, u64)>,
    /// Where each source began.
    pub starts: BTreeMap<LogId, u64>,
    /// How many commits there were.
    pub commits: u64,
    /// The last snapshot.
    pub snapshot: Option<Blob>,
    /// The deltas since then.
    pub deltas: Vec<Blob>,
    /// A commit of the newest owner was refused.
    pub ended: bool,
    /// Parts of a snapshot that no commit has named yet.
    pub parts: Vec<Blob>,
    /// The number of the commit that they are for.
    pub parts_for: u64,
}

/// A commit.
#[derive(Clone, Debug)]
pub struct Commit {
    /// Whose.
    pub reader: ReaderId,
    /// The owner.
    pub epoch: Epoch,
    /// The number that it must get.
    pub number: u64,
    /// Positions before and after.
    pub moves: Vec<(LogId, u64, u64)>,
    /// Whether the state is replaced, and by or with what.
    pub state: Option<(bool, Blob)>,
    /// Parts of the snapshot that were sent before.
    pub parts: usize,
    /// Records for other logs.
    pub outputs: Vec<(LogId, Vec<NewRecord>)>,
}

/// What a request does.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Create or open a log.
    OpenLog(String, OpenMode),
    /// Drop a log.
    DropLog(String),
    /// Drop the records before a sequence.
    Truncate(LogId, u64),
    /// Append to logs.
    Append {
        /// The records.
        parts: Vec<(LogId, Vec<NewRecord>)>,
        /// It is a single record, not a batch.
        alone: bool,
        /// It is larger than an entry.
        oversize: bool,
    },
    /// Own a processor.
    OpenReader {
        /// Its name.
        name: String,
        /// Its sources; none to take those that are stored.
        sources: Vec<String>,
        /// Whether stored sources may be changed.
        change: bool,
    },
    /// Drop a processor.
    DropReader(String),
    /// A part of a snapshot.
    Part(ReaderId, Epoch, u64, Blob),
    /// Commit.
    Commit(Commit),
    /// All logs whose names begin so.
    ListLogs(String),
    /// One log.
    Describe(LogId),
    /// All processors.
    ListReaders,
}

/// A log as it is told to clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Its number.
    pub id: LogId,
    /// Its name.
    pub name: String,
    /// Its first record, the next one, and the last transaction id.
    pub numbers: (u64, u64, u64),
}

/// What a processor starts from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Its number.
    pub reader: ReaderId,
    /// The owner.
    pub epoch: Epoch,
    /// Next sequence of each source.
    pub sources: Vec<(LogId, u64)>,
    /// The last snapshot.
    pub snapshot: Option<Blob>,
    /// The deltas since then.
    pub deltas: Vec<Blob>,
    /// How many commits there were.
    pub commits: u64,
}

/// What a request is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done, nothing to say.
    Done,
    /// Logs.
    Logs(Vec<Info>),
    /// Processors.
    Readers(Vec<String>),
    /// First sequence and count of each part, after the commit's number if it was one.
    Appended(u64, Vec<(u64, u64)>),
    /// A processor is owned.
    Owned(Restored),
    /// Refused, and why.
    Refused(&'static str),
    /// Refused because the disk is full.
    NoSpace,
    /// Refused because the manifest is full.
    TooMany,
    /// What is asked for is damaged.
    Damaged(Box<Damaged>),
    /// Unknown until the engine is opened again.
    Stopped,
}

/// See the module's head.
#[derive(Clone, Debug)]
pub struct State {
    /// The logs.
    pub logs: BTreeMap<LogId, Log>,
    /// The processors.
    pub readers: BTreeMap<ReaderId, Reader>,
    /// Logs that were dropped, for reads that began before.
    pub dropped: BTreeMap<LogId, Log>,
    /// It lacks what came later: only damage in the blind spot brings it back.
    pub is_past: bool,
    next_log: u64,
    next_reader: u64,
    next_epoch: u64,
}

impl Default for State {
    fn default() -> Self {
        let (logs, readers, dropped) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let is_past = false;
        Self { logs, readers, dropped, is_past, next_log: 1, next_reader: 1, next_epoch: 1 }
    }
}

impl State {
    /// What is only in memory is gone.
    pub fn restarted(&mut self) {
        for reader in self.readers.values_mut() {
            reader.ended = false;
            reader.parts.clear();
        }
    }

    /// The next numbers of a log, a processor and an owner.
    #[must_use]
    pub fn counters(&self) -> (u64, u64, u64) {
        (self.next_log, self.next_reader, self.next_epoch)
    }

    /// The number of a log.
    #[must_use]
    pub fn log_named(&self, name: &str) -> Option<LogId> {
        self.logs.iter().find(|(_, log)| log.name == name).map(|(id, _)| *id)
    }

    /// The number of a processor.
    #[must_use]
    pub fn reader_named(&self, name: &str) -> Option<ReaderId> {
        self.readers.iter().find(|(_, reader)| reader.name == name).map(|(id, _)| *id)
    }

    /// What a log is.
    #[must_use]
    pub fn info(&self, id: LogId) -> Info {
        let log = &self.logs[&id];
        Info { id, name: log.name.clone(), numbers: (log.first, log.next(), log.last_txid()) }
    }

    /// A hash of records of a log, of dropped ones too.
    #[must_use]
    pub fn fold(&self, log: LogId, from: u64, to: u64) -> Option<u64> {
        let records = &self.logs.get(&log).or_else(|| self.dropped.get(&log))?.records;
        let range = usize::try_from(from).ok()?..usize::try_from(to).ok()?;
        Some(records.get(range)?.iter().fold(1, |hash, record| mix(hash ^ record.id)))
    }

    /// Carries a request out.
    pub fn apply(&mut self, effect: &Effect) -> Outcome {
        match effect {
            Effect::OpenLog(name, mode) => match (self.log_named(name), mode) {
                (Some(_), OpenMode::Create) => Outcome::Refused("exists"),
                (None, OpenMode::Open) => Outcome::Refused("no such log"),
                (Some(log), _) => Outcome::Logs(vec![self.info(log)]),
                (None, _) => {
                    let id = LogId::new(self.next_log);
                    self.next_log += 1;
                    let records = Rc::new(Vec::new());
                    self.logs.insert(id, Log { name: name.clone(), first: 0, records });
                    Outcome::Logs(vec![self.info(id)])
                }
            },
            Effect::DropLog(name) => {
                let Some(log) = self.log_named(name) else {
                    return Outcome::Refused("no such log");
                };
                if self.readers.values().any(|r| r.sources.iter().any(|(l, _)| *l == log)) {
                    return Outcome::Refused("in use");
                }
                let gone = self.logs.remove(&log).expect("it was found");
                self.dropped.insert(log, gone);
                Outcome::Done
            }
            Effect::Truncate(log, before) => self.truncate(*log, *before),
            Effect::Append { parts, oversize, .. } => {
                match self.check(parts).or(oversize.then_some("too large")) {
                    Some(why) => Outcome::Refused(why),
                    None => Outcome::Appended(0, self.append(parts)),
                }
            }
            Effect::OpenReader { name, sources, change } => {
                self.open_reader(name, sources, *change)
            }
            Effect::DropReader(name) => match self.reader_named(name) {
                Some(reader) => {
                    self.readers.remove(&reader);
                    Outcome::Done
                }
                None => Outcome::Refused("no such processor"),
            },
            Effect::Part(reader, epoch, number, bytes) => {
                self.part(*reader, *epoch, *number, bytes)
            }
            Effect::Commit(commit) => self.commit(commit),
            Effect::ListLogs(prefix) => {
                let named = self.logs.iter().filter(|(_, log)| log.name.starts_with(prefix));
                let mut infos: Vec<_> = named.map(|(id, _)| self.info(*id)).collect();
                infos.sort_by(|a, b| a.name.cmp(&b.name));
                Outcome::Logs(infos)
            }
            Effect::Describe(log) => match self.logs.contains_key(log) {
                true => Outcome::Logs(vec![self.info(*log)]),
                false => Outcome::Refused("dropped"),
            },
            Effect::ListReaders => {
                let mut names: Vec<_> = self.readers.values().map(|r| r.name.clone()).collect();
                names.sort();
                Outcome::Readers(names)
            }
        }
    }

    fn part(&mut self, reader: ReaderId, epoch: Epoch, number: u64, bytes: &Blob) -> Outcome {
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

    /// A request was refused because the disk is full.
    pub fn refused_for_space(&mut self, effect: &Effect) {
        if let Effect::Part(reader, ..) | Effect::Commit(Commit { reader, .. }) = effect
            && let Some(reader) = self.readers.get_mut(reader)
        {
            reader.ended = true;
        }
    }

    /// Notes where appended records stand.
    pub fn place(&mut self, effect: &Effect, outcome: &Outcome, places: &[Option<Dlsn>]) {
        let (Effect::Append { parts, .. } | Effect::Commit(Commit { outputs: parts, .. })) = effect
        else {
            return;
        };
        let Outcome::Appended(_, numbers) = outcome else { return };
        for (((log, _), (first, count)), dlsn) in parts.iter().zip(numbers).zip(places) {
            assert_eq!(*count > 0, dlsn.is_some(), "records stand somewhere");
            let Some(dlsn) = dlsn else { continue };
            for index in 0..u32::try_from(*count).expect("few records") {
                let slot = dlsn.slot() + index;
                let dlsn = Dlsn::new(dlsn.segment(), dlsn.entry(), slot);
                self.learn(*log, first + u64::from(index), dlsn);
            }
        }
    }

    /// A record stands there.
    pub fn learn(&mut self, log: LogId, sequence: u64, dlsn: Dlsn) {
        let Some(log) = self.logs.get_mut(&log) else { return };
        let at = usize::try_from(sequence).expect("small numbers");
        if let Some(before) = at.checked_sub(1).and_then(|before| log.records[before].dlsn) {
            assert!(before < dlsn, "positions of a log ascend");
        }
        if log.records[at].dlsn.is_none() {
            Rc::make_mut(&mut log.records)[at].dlsn = Some(dlsn);
        }
    }

    fn truncate(&mut self, log: LogId, before: u64) -> Outcome {
        let readers = self.readers.values();
        let mut needs = readers.flat_map(|reader| &reader.sources);
        let needed = needs.any(|(source, next)| *source == log && *next < before);
        let Some(log) = self.logs.get_mut(&log) else { return Outcome::Refused("dropped") };
        if before > log.next() {
            return Outcome::Refused("beyond the end");
        }
        if needed {
            return Outcome::Refused("needed");
        }
        log.first = log.first.max(before);
        Outcome::Done
    }

    fn check(&self, parts: &[(LogId, Vec<NewRecord>)]) -> Option<&'static str> {
        let mut last: BTreeMap<LogId, u64> = BTreeMap::new();
        for (id, records) in parts {
            let Some(log) = self.logs.get(id) else { return Some("dropped") };
            let last = last.entry(*id).or_insert(log.last_txid());
            for record in records {
                let txid = record.txid.unwrap_or(*last);
                if txid < *last {
                    return Some("txid");
                }
                *last = txid;
            }
        }
        None
    }

    fn append(&mut self, parts: &[(LogId, Vec<NewRecord>)]) -> Vec<(u64, u64)> {
        let mut places = Vec::new();
        for (id, new) in parts {
            let log = self.logs.get_mut(id).expect("it was checked");
            places.push((log.next(), new.len() as u64));
            let mut txid = log.last_txid();
            let records = Rc::make_mut(&mut log.records);
            for NewRecord { id, len, txid: own } in new {
                txid = own.unwrap_or(txid);
                records.push(Record { id: *id, len: *len, txid, dlsn: None });
            }
        }
        places
    }

    fn open_reader(&mut self, name: &str, sources: &[String], change: bool) -> Outcome {
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
        let id = known.unwrap_or(ReaderId::new(self.next_reader));
        let epoch = Epoch::new(self.next_epoch);
        self.next_epoch += 1;
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

    fn commit(&mut self, commit: &Commit) -> Outcome {
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
        } else if self.check(&commit.outputs).is_some() {
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
