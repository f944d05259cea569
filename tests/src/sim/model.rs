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
//! Its parts: `processors`, `writers` (who may write, what was sent twice), `settings`.
//!
//! Not here: durability, files, time. If this gets clever it is wrong.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use oncelog::change::Author;
use oncelog::format::record::RECORD_HEADER_SIZE;
use oncelog::request::OpenMode;
use oncelog::{Dlsn, Epoch, LogId, LogOptions, Rates, ReaderId};

use crate::rng::mix;
use crate::sim::effect::{Blob, Commit, Effect, Info, NewRecord, Outcome, Write};
use crate::sim::settings::is_valid;
use crate::sim::writers::Writer;

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

/// A log with every record it ever had.
#[derive(Clone, Debug)]
pub struct Log {
    /// Its name.
    pub name: String,
    /// Records before this one are truncated.
    pub first: u64,
    /// All records from sequence 0, truncated ones too.
    pub records: Rc<Vec<Record>>,
    /// Bytes of all of them.
    pub bytes: u64,
    /// Nothing is appended any more.
    pub sealed: bool,
    /// Who alone may append, 0 if all may.
    pub owner: Epoch,
    /// How often its options were set.
    pub version: u32,
    /// Its options.
    pub options: Arc<LogOptions>,
    /// Its idempotent writers.
    pub writers: BTreeMap<String, Writer>,
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
    /// Rates of the whole shard.
    pub rates: Rates,
    next_log: u64,
    pub(crate) next_reader: u64,
    next_epoch: u64,
}

impl Default for State {
    fn default() -> Self {
        let (logs, readers, dropped) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let (is_past, rates) = (false, Rates::default());
        let (next_log, next_reader, next_epoch) = (1, 1, 1);
        Self { logs, readers, dropped, is_past, rates, next_log, next_reader, next_epoch }
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
        Info {
            id,
            name: log.name.clone(),
            numbers: (log.first, log.next(), log.last_txid()),
            bytes: log.bytes,
            sealed: log.sealed,
            owner: log.owner,
            version: log.version,
            options: Arc::clone(&log.options),
        }
    }

    pub(crate) fn log_mut(&mut self, log: LogId) -> &mut Log {
        self.logs.get_mut(&log).expect("it was found before")
    }

    /// An owner's epoch that nobody has had.
    pub(crate) fn new_epoch(&mut self) -> Epoch {
        self.next_epoch += 1;
        Epoch::new(self.next_epoch - 1)
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
            Effect::OpenLog(name, mode, options) => self.open_log(name, *mode, options.as_ref()),
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
            Effect::Append { parts, author, oversize, .. } => {
                match self.check(parts, *author).or(oversize.then_some("too large")) {
                    Some(why) => Outcome::Refused(why),
                    None => Outcome::Appended(0, self.append(parts)),
                }
            }
            Effect::OpenReader { name, sources, change, owns } => {
                self.open_reader(name, sources, *change, owns)
            }
            Effect::DropReader(name) => match self.reader_named(name) {
                Some(reader) => {
                    let gone = self.readers.remove(&reader).expect("it was found");
                    let owned = self.logs.values_mut().filter(|log| log.owner == gone.epoch);
                    owned.for_each(|log| log.owner = Epoch::new(0));
                    Outcome::Done
                }
                None => Outcome::Refused("no such processor"),
            },
            Effect::Part(reader, epoch, number, bytes) => {
                self.part(*reader, *epoch, *number, bytes)
            }
            Effect::Commit(commit) => self.commit(commit),
            Effect::ListLogs { prefix, after, limit } => self.list_logs(prefix, after, *limit),
            Effect::Describe(log) => match self.logs.contains_key(log) {
                true => Outcome::Logs(vec![self.info(*log)]),
                false => Outcome::Refused("dropped"),
            },
            Effect::ListReaders => {
                let mut names: Vec<_> = self.readers.values().map(|r| r.name.clone()).collect();
                names.sort();
                Outcome::Readers(names)
            }
            Effect::Seal(log, author) => self.seal(*log, *author),
            Effect::SetOptions { log, options, replaces } => {
                self.set_options(*log, options, *replaces)
            }
            Effect::Rename(log, name) => self.rename(*log, name),
            Effect::SetRates(rates) => {
                self.rates = *rates;
                Outcome::Done
            }
            Effect::OpenWriter { log, name, increasing, exclusive } => {
                self.open_writer(*log, name.as_deref(), *increasing, *exclusive)
            }
            Effect::Share(log) => self.share(*log),
            Effect::Forget(log, name) => self.forget(*log, name),
            Effect::ListWriters(log) => self.list_writers(*log),
            Effect::Write(write) => self.write(write),
        }
    }

    fn open_log(
        &mut self,
        name: &str,
        mode: OpenMode,
        options: Option<&Arc<LogOptions>>,
    ) -> Outcome {
        match (self.log_named(name), mode) {
            (Some(_), OpenMode::Create) => return Outcome::Refused("exists"),
            (None, OpenMode::Open) => return Outcome::Refused("no such log"),
            (Some(log), _) => return Outcome::Logs(vec![self.info(log)]),
            (None, _) if options.is_some_and(|options| !is_valid(options)) => {
                return Outcome::Refused("options");
            }
            (None, _) => {}
        }
        let id = LogId::new(self.next_log);
        self.next_log += 1;
        let log = Log {
            name: name.to_owned(),
            first: 0,
            records: Rc::new(Vec::new()),
            bytes: 0,
            sealed: false,
            owner: Epoch::new(0),
            version: u32::from(options.is_some()),
            options: options.cloned().unwrap_or_default(),
            writers: BTreeMap::new(),
        };
        self.logs.insert(id, log);
        Outcome::Logs(vec![self.info(id)])
    }

    /// A request was refused because the disk is full.
    pub fn refused_for_space(&mut self, effect: &Effect) {
        if let Effect::Part(reader, ..) | Effect::Commit(Commit { reader, .. }) = effect
            && let Some(reader) = self.readers.get_mut(reader)
        {
            reader.ended = true;
        }
    }

    /// Notes where appended records stand, or finds them where they were before.
    pub fn place(&mut self, effect: &Effect, outcome: &Outcome, places: &[Option<Dlsn>]) {
        match (effect, outcome) {
            (
                Effect::Append { parts, .. } | Effect::Commit(Commit { outputs: parts, .. }),
                Outcome::Appended(_, numbers),
            ) => {
                for (((log, _), at), dlsn) in parts.iter().zip(numbers).zip(places) {
                    self.place_part(*log, *at, *dlsn);
                }
            }
            (Effect::Write(Write { log, .. }), Outcome::Written { at, .. }) => {
                self.place_part(*log, *at, places[0]);
            }
            _ => {}
        }
    }

    fn place_part(&mut self, log: LogId, (first, count): (u64, u64), dlsn: Option<Dlsn>) {
        assert_eq!(count > 0, dlsn.is_some(), "records stand somewhere");
        let Some(dlsn) = dlsn else { return };
        for index in 0..u32::try_from(count).expect("few records") {
            let slot = dlsn.slot() + index;
            let dlsn = Dlsn::new(dlsn.segment(), dlsn.entry(), slot);
            self.learn(log, first + u64::from(index), dlsn);
        }
    }

    /// A record stands there.
    pub fn learn(&mut self, log: LogId, sequence: u64, dlsn: Dlsn) {
        let Some(log) = self.logs.get_mut(&log) else { return };
        let at = usize::try_from(sequence).expect("small numbers");
        if let Some(before) = at.checked_sub(1).and_then(|before| log.records[before].dlsn) {
            assert!(before < dlsn, "positions of a log ascend");
        }
        match log.records[at].dlsn {
            Some(known) => assert_eq!(known, dlsn, "a record stands in one place"),
            None => Rc::make_mut(&mut log.records)[at].dlsn = Some(dlsn),
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

    /// Why these records cannot be appended.
    pub(crate) fn check(
        &self,
        parts: &[(LogId, Vec<NewRecord>)],
        author: Author,
    ) -> Option<&'static str> {
        let mut last: BTreeMap<LogId, u64> = BTreeMap::new();
        for (id, records) in parts {
            let Some(log) = self.logs.get(id) else { return Some("dropped") };
            if log.sealed {
                return Some("sealed");
            }
            if !log.takes_from(author) {
                return Some("owned");
            }
            let len_max = log.options.record_size_max.map_or(usize::MAX, |max| max.get() as usize);
            let mut own = log.last_txid();
            for record in records {
                let txid = record.txid.unwrap_or(own);
                if record.len > len_max {
                    return Some("too large");
                }
                if txid < own {
                    return Some("txid");
                }
                own = txid;
            }
            // The same log may come twice: what came before goes first.
            let mut given = records.iter().filter_map(|record| record.txid);
            let last = last.entry(*id).or_default();
            if given.clone().next().is_some_and(|txid| txid < *last) {
                return Some("txid");
            }
            *last = given.next_back().unwrap_or(*last);
        }
        None
    }

    pub(crate) fn append(&mut self, parts: &[(LogId, Vec<NewRecord>)]) -> Vec<(u64, u64)> {
        let mut places = Vec::new();
        for (id, new) in parts {
            let log = self.logs.get_mut(id).expect("it was checked");
            places.push((log.next(), new.len() as u64));
            let mut txid = log.last_txid();
            let records = Rc::make_mut(&mut log.records);
            for NewRecord { id, len, txid: own } in new {
                txid = own.unwrap_or(txid);
                log.bytes += (RECORD_HEADER_SIZE + len) as u64;
                records.push(Record { id: *id, len: *len, txid, dlsn: None });
            }
        }
        places
    }
}
