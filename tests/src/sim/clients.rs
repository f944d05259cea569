//! What clients ask for: chance chooses, with a taste that differs from seed to seed.
//!
//! A processor's state is checkable: a delta holds, for each source, from where to where it moved
//! and a hash of the records between; a snapshot the same from where the processor began. Owners
//! that were fenced go on trying.
//!
//! Not here: whether answers are right (`world`).

use std::time::Duration;

use oncelog::limits::SNAPSHOT_PART_SIZE;
use oncelog::reply::pair;
use oncelog::request::{At, OpenMode, ReadRequest, Request, Wait};
use oncelog::{Dlsn, Epoch, LogId, ReaderId, Sequence, TxId};

use crate::rng::Rng;
use crate::sim::effect::{Blob, Commit, Effect, NewRecord, Restored};
use crate::sim::model::State;
use crate::sim::reading::Reading;
use crate::sim::world::World;
use crate::sim::writing::Writing;

/// Logs that are created; a few more names are given to them later.
const LOGS: u64 = 5;
/// Names that logs may have.
pub(crate) const LOG_NAMES: u64 = 8;
const PROCESSORS: u64 = 3;
const REQUESTS_AT_ONCE: u64 = 6;
const ROW: usize = 32;

/// Someone who believes to own a processor.
#[derive(Clone, Debug)]
pub struct Owner {
    reader: ReaderId,
    epoch: Epoch,
    /// Positions as this owner believes.
    sources: Vec<(LogId, u64)>,
    parts: usize,
    /// The number of its next commit.
    number: u64,
}

impl Owner {
    /// The owner that was restored so.
    #[must_use]
    pub fn new(restored: &Restored) -> Self {
        let sources = restored.sources.clone();
        let number = restored.commits + 1;
        Self { reader: restored.reader, epoch: restored.epoch, sources, parts: 0, number }
    }
}

/// The clients of one world.
pub struct Clients {
    /// Owners, fenced ones too.
    pub owners: Vec<Owner>,
    /// Writers, and what they send.
    pub writing: Writing,
    /// Hard rates are set that refuse something.
    pub is_rated: bool,
    next_record: u64,
    next_txid: u64,
    /// The largest payload and the largest state.
    len_max: u64,
    state_max: u64,
    /// One in so many requests is a truncation, a commit's state a snapshot.
    truncate: u64,
    snapshot: u64,
    /// One in so many requests changes what a log is, or is a writer's.
    changes: u64,
    writes: u64,
}

impl Clients {
    /// Clients with a taste of their own.
    pub fn new(rng: &mut Rng) -> Self {
        Self {
            owners: Vec::new(),
            writing: Writing::new(rng),
            is_rated: rng.one_in(12),
            next_record: 1,
            next_txid: 1,
            len_max: [100, 3_000, 20_000, 60_000][rng.index(4)],
            state_max: [50, 2_000, 30_000][rng.index(3)],
            truncate: [4, 12, 60][rng.index(3)],
            snapshot: [3, 10, 50][rng.index(3)],
            changes: [6, 25, 100][rng.index(3)],
            writes: [3, 8, 40][rng.index(3)],
        }
    }

    /// A new process: what clients did not commit is forgotten.
    pub fn reopened(&mut self, state: &State) {
        let alive = |owner: &Owner| {
            state.readers.get(&owner.reader).is_some_and(|reader| reader.epoch == owner.epoch)
        };
        let old: Vec<_> = self.owners.iter().filter(|owner| !alive(owner)).cloned().collect();
        self.owners.retain(alive);
        // One of the fenced goes on trying.
        self.owners.extend(old.last().cloned());
        self.writing.reopened(state);
    }

    /// The number of a record that nobody has had.
    pub(crate) fn new_id(&mut self) -> u64 {
        self.next_record += 1;
        self.next_record
    }

    fn record(&mut self, rng: &mut Rng) -> NewRecord {
        let id = self.new_id();
        self.next_txid += rng.below(3);
        let txid = match rng.below(8) {
            0 => None,
            1 => Some(self.next_txid.saturating_sub(rng.below(4))),
            _ => Some(self.next_txid),
        };
        let len = usize::try_from(rng.below(self.len_max + 1)).expect("small");
        NewRecord { id, len, txid }
    }
}

impl State {
    /// Whether what a processor starts from was made of the records that the model knows.
    pub fn check_restored(&self, restored: &Restored) {
        for state in restored.snapshot.iter().chain(&restored.deltas) {
            let state = &state.0;
            let count = state.first().map_or(0, |count| usize::from(*count));
            for row in state[1..].chunks_exact(ROW).take(count) {
                let number = |at: usize| {
                    u64::from_le_bytes(row[at..at + 8].try_into().expect("eight bytes"))
                };
                let (log, from, to) = (LogId::new(number(0)), number(8), number(16));
                // Sources may have been changed since, and their logs dropped.
                if let Some(hash) = self.fold(log, from, to) {
                    assert_eq!(hash, number(24), "the state is not made of its records");
                }
            }
        }
    }

    /// Where a snapshot goes from and to: from the beginning, whatever this commit moves.
    fn whole(&self, owner: &Owner, moves: &[(LogId, u64, u64)]) -> Vec<(LogId, u64, u64)> {
        let Some(reader) = self.readers.get(&owner.reader) else { return Vec::new() };
        let row = |(log, next): &(LogId, u64)| {
            let to = moves.iter().find(|(moved, ..)| moved == log).map_or(*next, |moved| moved.2);
            reader.starts.get(log).map(|start| (*log, *start, to))
        };
        owner.sources.iter().filter_map(row).collect()
    }

    /// The bytes of a state, at least `len` of them.
    fn state_bytes(&self, moves: &[(LogId, u64, u64)], len: usize) -> Blob {
        let mut bytes = vec![u8::try_from(moves.len()).expect("few sources")];
        for (log, from, to) in moves {
            let hash = self.fold(*log, *from, *to).unwrap_or_default();
            for number in [log.get(), *from, *to, hash] {
                bytes.extend_from_slice(&number.to_le_bytes());
            }
        }
        bytes.resize(bytes.len().max(len), 0x5a);
        Blob(bytes.into())
    }
}

impl World {
    /// Makes some requests at once.
    pub(crate) fn act(&mut self) {
        for _ in 0..self.rng.between(1, REQUESTS_AT_ONCE) {
            if !self.wants_requests() {
                return;
            }
            self.act_once();
        }
    }

    fn act_once(&mut self) {
        if self.bases[0].logs.is_empty() && self.asked.is_empty() {
            let log = self.log_name();
            return self.ask(Effect::OpenLog(log, OpenMode::OpenOrCreate, None));
        }
        if self.rng.one_in(self.clients.truncate) {
            return self.truncate();
        }
        if self.rng.one_in(self.clients.changes) {
            return self.change();
        }
        if self.rng.one_in(self.clients.writes) {
            return self.write();
        }
        match self.rng.below(100) {
            0..45 => self.append(),
            45..65 => self.read(),
            65..84 => self.commit(),
            84..90 => {
                let modes = [OpenMode::Create, OpenMode::Open, OpenMode::OpenOrCreate];
                let mode = modes[self.rng.index(3)];
                let log = self.log_name();
                let options = if self.rng.one_in(3) { Some(self.new_options()) } else { None };
                self.ask(Effect::OpenLog(log, mode, options));
            }
            90 => {
                let log = name("l", self.rng.below(LOG_NAMES));
                self.ask(Effect::DropLog(log));
            }
            91 if self.rng.one_in(3) => {
                let processor = name("p", self.rng.below(PROCESSORS));
                self.ask(Effect::DropReader(processor));
            }
            91..95 => self.open_processor(),
            95 => {
                let prefix = ["", "g/l1", "x"][self.rng.index(3)].to_owned();
                let after = ["", "g/l1", "g/l15", "g/l9"][self.rng.index(4)].to_owned();
                let limit = [0, 2, usize::MAX][self.rng.index(3)];
                self.ask(Effect::ListLogs { prefix, after, limit });
            }
            96 => self.ask(Effect::ListReaders),
            97 => {
                let log = self.any_log();
                self.ask(Effect::Describe(log));
            }
            _ => self.snapshot_part(),
        }
    }

    fn log_name(&mut self) -> String {
        name("l", self.rng.below(LOGS))
    }

    pub(crate) fn any_log(&mut self) -> LogId {
        let state = &self.bases[0];
        let gone = state.dropped.keys().next_back();
        if let (Some(gone), true) = (gone, self.rng.one_in(30)) {
            return *gone;
        }
        let logs: Vec<_> = state.logs.keys().copied().collect();
        self.rng.pick(&logs).copied().unwrap_or(LogId::new(1))
    }

    /// A log for records: seldom one that ended.
    fn any_open_log(&mut self) -> LogId {
        let logs = self.bases[0].logs.iter();
        let open: Vec<_> = logs.filter(|(_, log)| !log.sealed).map(|(id, _)| *id).collect();
        match self.rng.pick(&open) {
            Some(log) if !self.rng.one_in(20) => *log,
            _ => self.any_log(),
        }
    }

    pub(crate) fn records(&mut self, count_max: u64) -> Vec<NewRecord> {
        let count = self.rng.below(count_max + 1);
        (0..count).map(|_| self.clients.record(&mut self.rng)).collect()
    }

    fn append(&mut self) {
        let log = self.any_open_log();
        let author = self.author_for(log);
        if self.rng.one_in(2) {
            let parts = vec![(log, vec![self.clients.record(&mut self.rng)])];
            return self.ask(Effect::Append { parts, author, alone: true, oversize: false });
        }
        let oversize = self.rng.one_in(60);
        let mut parts: Vec<_> = Vec::new();
        let mut room: usize = 100_000;
        for part in 0..self.rng.between(1, 3) {
            let log = if part == 0 { log } else { self.any_open_log() };
            let mut records = self.records(4);
            records.retain(|record| {
                room = room.saturating_sub(record.len);
                room > 0
            });
            parts.push((log, records));
        }
        if oversize {
            let big = |id| NewRecord { id, len: 70_000, txid: None };
            parts.push((self.any_log(), vec![big(0), big(0)]));
        }
        self.ask(Effect::Append { parts, author, alone: false, oversize });
    }

    fn truncate(&mut self) {
        let id = self.any_log();
        let state = &self.bases[0];
        let Some(log) = state.logs.get(&id) else { return };
        let readers = state.readers.values().flat_map(|reader| &reader.sources);
        let needed = readers.filter(|(source, _)| *source == id).map(|(_, next)| *next).min();
        let most = needed.unwrap_or(log.next()).max(log.first);
        let before = match self.rng.below(8) {
            0 => self.rng.below(log.next() + 2),
            1 => log.next() + 1,
            2..5 => most,
            _ => self.rng.between(log.first, most),
        };
        self.ask(Effect::Truncate(id, before));
    }

    fn read(&mut self) {
        let id = self.any_log();
        let state = &self.bases[0];
        let Some(log) = state.logs.get(&id).or_else(|| state.dropped.get(&id)) else { return };
        let (next, first, sealed) = (log.next(), log.first, log.sealed);
        let known = self.rng.pick(&log.records).and_then(|record| record.dlsn);
        let txid = self.rng.pick(&log.records).map_or(0, |record| record.txid);
        let time_us = self.times.any(&mut self.rng).unwrap_or(self.now.wall_us);
        let at = match self.rng.below(8) {
            0 => At::Earliest,
            1 => At::Latest,
            2 => At::TxId(TxId::new(txid + self.rng.below(2))),
            3 => At::Time(time_us + self.rng.below(2)),
            4 => At::Dlsn(known.unwrap_or(Dlsn::new(oncelog::SegmentId::new(1), 0, 0))),
            _ => At::Sequence(Sequence::new(self.rng.between(first.min(next), next + 1))),
        };
        let wait = match self.rng.below(6) {
            0 => Wait::Forever,
            1 => Wait::For(Duration::from_micros(self.rng.below(100_000))),
            2 => Wait::Until(self.now.mono_us + self.rng.below(1_000)),
            _ => Wait::No,
        };
        let bytes_max = [1, 10_000, 1 << 20][self.rng.index(3)];
        let (reply, pending) = pair();
        self.note(|_| format!("read {id} {at:?} wait {wait:?}"));
        let ahead = self.rng.one_in(2);
        let read = ReadRequest { log: id, at, bytes_max, wait, ahead, planned: None, reply };
        let request = Request::Read(read);
        let now = self.now;
        self.shard.as_mut().expect("it wants requests").handle_request(request, now);
        if self.rng.one_in(10) {
            // The client goes away.
            return drop(pending);
        }
        let asked_us = now.mono_us;
        let (log, acked) = (id, next);
        self.reads.push(Reading { log, at, wait, asked_us, acked, first, sealed, pending });
    }

    fn open_processor(&mut self) {
        let name_of = name("p", self.rng.below(PROCESSORS));
        let known = self.bases[0].reader_named(&name_of).is_some();
        let mut sources = Vec::new();
        if !known || self.rng.one_in(5) {
            for _ in 0..self.rng.between(1, 2) {
                sources.push(name("l", self.rng.below(LOGS)));
            }
        }
        let change = self.rng.one_in(8);
        let mut owns = Vec::new();
        if self.rng.one_in(4) {
            owns.extend((0..self.rng.between(1, 2)).map(|_| self.log_name()));
        }
        self.ask(Effect::OpenReader { name: name_of, sources, change, owns });
    }

    fn snapshot_part(&mut self) {
        let Some(index) = self.an_owner() else { return };
        let owner = &mut self.clients.owners[index];
        owner.parts += 1;
        let fill = u8::try_from(owner.parts % 250).expect("less than 250");
        let bytes = Blob(vec![fill; SNAPSHOT_PART_SIZE as usize].into());
        let effect = Effect::Part(owner.reader, owner.epoch, owner.number, bytes);
        self.ask(effect);
    }

    fn an_owner(&mut self) -> Option<usize> {
        let count = self.clients.owners.len();
        if count > 12 {
            self.clients.owners.drain(..4);
        }
        let count = self.clients.owners.len();
        // The newest are tried most, the fenced now and then.
        match count {
            0 => None,
            _ if self.rng.one_in(6) => Some(self.rng.index(count)),
            _ => Some(count - 1 - self.rng.index(count.min(3))),
        }
    }

    /// A log that nobody but this owner may append to, perhaps.
    fn own_log_of(&mut self, index: usize) -> Option<LogId> {
        let epoch = self.clients.owners[index].epoch;
        let own = self.bases[0].logs.iter().find(|(_, log)| log.owner == epoch);
        own.map(|(id, _)| *id).filter(|_| self.rng.one_in(2))
    }

    fn commit(&mut self) {
        let Some(index) = self.an_owner() else { return self.open_processor() };
        let snapshot = self.rng.one_in(self.clients.snapshot);
        let state = &self.bases[0];
        let owner = &self.clients.owners[index];
        let mut moves = Vec::new();
        for (log, from) in &owner.sources {
            let end = state.logs.get(log).map_or(*from, |log| log.next()).max(*from);
            let to = self.rng.between(*from, end.min(from + 20));
            if to > *from || self.rng.one_in(2) {
                moves.push((*log, *from, to));
            }
        }
        if self.rng.one_in(40) && !moves.is_empty() {
            // An owner that lost count.
            moves[0].1 += 1;
            moves[0].2 += 1;
        }
        let len = self.rng.below(self.clients.state_max);
        let len = usize::try_from(len).expect("small");
        let (parts, new_state) = if snapshot && owner.parts > 0 {
            // The parts are filler, rows stand in none of them.
            (owner.parts, Some((true, Blob(vec![0; len].into()))))
        } else if snapshot {
            (0, Some((true, state.state_bytes(&state.whole(owner, &moves), len))))
        } else if self.rng.one_in(4) {
            (0, None)
        } else {
            (0, Some((false, state.state_bytes(&moves, len))))
        };
        let mut outputs = Vec::new();
        if self.rng.one_in(3) {
            let mut room: usize = 60_000;
            let mut records = self.records(3);
            records.retain(|record| {
                room = room.saturating_sub(record.len);
                room > 0
            });
            let own = self.own_log_of(index);
            outputs.push((own.unwrap_or_else(|| self.any_open_log()), records));
        }
        let owner = &mut self.clients.owners[index];
        let (reader, epoch, number) = (owner.reader, owner.epoch, owner.number);
        owner.number += 1;
        // An owner may commit again before it is answered: it believes in what it sent.
        for (log, from, to) in &moves {
            if let Some(source) = owner.sources.iter_mut().find(|s| s.0 == *log && s.1 == *from) {
                source.1 = *to;
            }
        }
        owner.parts = 0;
        if self.rng.one_in(60) {
            // This commit is dropped before it is sent: nothing may take its place.
            return;
        }
        let commit = Commit { reader, epoch, number, moves, state: new_state, parts, outputs };
        self.ask(Effect::Commit(commit));
    }
}

/// A name in the group of all of them.
pub(crate) fn name(kind: &str, number: u64) -> String {
    format!("g/{kind}{number}")
}
