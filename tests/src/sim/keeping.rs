//! Worlds of logs with retention: nothing goes that a policy keeps, and what it does not keep goes.
//!
//! ```text
//! appends, commits, hours, clocks that are set, crashes -> first record of each log: may it be?
//! quiet, steady clocks -> the first section of each log: something keeps it
//! ```
//!
//! The model knows of each record its bytes and a time before which it was not committed, and of
//! the clocks when they were set. Removals come by themselves, so answers do not follow from the
//! requests as they do in other worlds (`model`).
//!
//! Not here: everything else (`world`).

use oncelog::format::control::SourcePosition;
use oncelog::format::record::RECORD_HEADER_SIZE;
use oncelog::reply::{Pending, pair};
use oncelog::request::{
    At, CommitRequest, LogInfo, NewRecord, NewState, OpenMode, ReadAnswer, ReadRequest, Request,
    Restored, Wait,
};
use oncelog::{LogId, LogOptions, Sequence};

use crate::sim::asking::take;
use crate::sim::world::World;

const SECOND: u64 = 1_000_000;
const MINUTE: u64 = 60 * SECOND;
/// Ages count once the clocks agreed for so long.
const AGREE: u64 = 10 * MINUTE;
const LOGS: usize = 5;
/// The log that a processor reads, and that waits for it by name; and one that waits for nobody
/// who ever comes.
const READ: usize = 3;
const HELD: usize = 4;
const PROCESSOR: &str = "g/p";

/// A log and what may have become of it.
struct Kept {
    id: LogId,
    /// Bytes that stay, 0 for no such policy.
    bytes: u64,
    /// Microseconds that a record stays, 0 for no such policy.
    age: u64,
    /// Of each record its bytes with all before it, and a time at or before its commit.
    records: Vec<(u64, u64)>,
    first: u64,
    /// Records committed then or before may be too old.
    old: u64,
}

/// The model of such a world.
struct Keeping {
    logs: Vec<Kept>,
    /// Position of the processor on `READ`, at most; `None` before it is there.
    position: Option<u64>,
    /// When the process began or the clock was set last.
    agree_since: u64,
    restored: Option<Restored>,
    removed: u64,
}

impl World {
    /// See the module's head.
    ///
    /// # Panics
    /// If a policy is not kept.
    pub fn keep_by_policy(&mut self) {
        let mut keeping = Keeping {
            logs: Vec::new(),
            position: None,
            agree_since: 0,
            restored: None,
            removed: 0,
        };
        self.open_for(&mut keeping);
        for number in 0..LOGS {
            let log = self.keep_log(number);
            keeping.logs.push(log);
        }
        for _ in 0..4 {
            for _ in 0..self.rng.between(20, 120) {
                self.keep_step(&mut keeping);
                self.look_what_is_kept(&mut keeping);
            }
            if self.rng.one_in(2) {
                self.rest(&mut keeping);
            }
            if self.rng.one_in(3) {
                self.close()
            } else {
                self.crash()
            }
            self.open_for(&mut keeping);
            self.look_what_is_kept(&mut keeping);
        }
        self.rest(&mut keeping);
        self.coverage.counts.expired += keeping.removed;
    }

    fn open_for(&mut self, keeping: &mut Keeping) {
        loop {
            self.crash_in = None;
            if let Ok(opened) = self.open_once() {
                opened.expect("an ordinary crash always opens");
                break;
            }
            self.crash();
        }
        self.crash_in = None;
        keeping.agree_since = self.now.mono_us;
        keeping.restored = None;
    }

    /// Runs until the answer is there.
    fn answer<T, E: std::fmt::Debug + From<oncelog::Stopped>>(
        &mut self,
        request: Request,
        mut pending: Pending<T, E>,
    ) -> T {
        self.make(request).expect("no crash is asked for");
        for _ in 0..100_000 {
            self.pump();
            if let Some(answer) = take(&mut pending) {
                return answer.expect("nothing fails here");
            }
            if self.disk.under_way() == 0 {
                self.wait_for_timeout();
                self.now.mono_us += 10;
                self.now.wall_us += 10;
            }
            self.complete_one();
        }
        panic!("no answer");
    }

    fn keep_log(&mut self, number: usize) -> Kept {
        let (mut bytes, mut age) = (0, 0);
        let mut options = LogOptions::default();
        if matches!(number, 0 | 2) || number == READ && self.rng.one_in(2) {
            bytes = [1, 100_000, 2_000_000][self.rng.index(3)];
            options = options.keep_bytes(bytes);
        }
        if matches!(number, 1 | 2) {
            age = [SECOND, MINUTE, 120 * MINUTE][self.rng.index(3)];
            options = options.keep_for(std::time::Duration::from_micros(age));
        }
        match number {
            READ => options = options.keep_until(PROCESSOR),
            HELD => options = options.keep_bytes(1).keep_until("g/nobody"),
            _ => {}
        }
        let (reply, pending) = pair();
        let (name, mode) = (format!("g/{number}"), OpenMode::Create);
        let request = Request::OpenLog { name, mode, options: Some(options.into()), reply };
        let info: LogInfo = self.answer(request, pending);
        Kept { id: info.id, bytes, age, records: Vec::new(), first: 0, old: 0 }
    }

    fn keep_step(&mut self, keeping: &mut Keeping) {
        match self.rng.below(12) {
            0..6 => self.append_to_keep(keeping),
            6..8 => self.move_on(keeping),
            8 => self.steady(keeping, MINUTE),
            9 => self.steady(keeping, 90 * MINUTE),
            10 if self.rng.one_in(4) => {
                // The clock is set: at once, so that nobody may see both in between.
                let most = 400 * 24 * 60 * MINUTE;
                let by = self.rng.below(2 * most);
                self.now.wall_us = (self.now.wall_us + most).saturating_sub(by).max(most);
                keeping.agree_since = self.now.mono_us;
                self.pump();
            }
            _ => self.steady(keeping, SECOND),
        }
    }

    /// Time passes, up to so much; both clocks tell the same.
    fn steady(&mut self, keeping: &mut Keeping, most: u64) {
        let mut left = self.rng.below(most) + 1;
        while left > 0 {
            let at = self.shard.as_ref().and_then(oncelog::shard::Shard::poll_timeout);
            let until = at.map_or(left, |at| at.saturating_sub(self.now.mono_us)).clamp(1, left);
            self.now.mono_us += until;
            self.now.wall_us += until;
            left -= until;
            keeping.see_time(self.now);
            self.pump();
            while self.disk.under_way() > 0 {
                self.complete_one();
                self.pump();
            }
        }
    }

    fn append_to_keep(&mut self, keeping: &mut Keeping) {
        let log = &mut keeping.logs[self.rng.index(LOGS)];
        let count = self.rng.between(1, 4);
        let mut bytes = log.records.last().map_or(0, |(bytes, _)| *bytes);
        let mut records = Vec::new();
        for _ in 0..count {
            let len = usize::try_from(self.rng.below(25_000)).expect("small");
            bytes += (len + RECORD_HEADER_SIZE) as u64;
            log.records.push((bytes, self.now.wall_us));
            records.push(NewRecord::new(vec![7; len]));
        }
        let (reply, pending) = pair();
        let part = oncelog::request::Part {
            log: log.id,
            author: oncelog::change::Author::Anyone,
            records,
        };
        let appended = self.answer(Request::AppendBatch { parts: vec![part], reply }, pending);
        assert_eq!(appended[0].next().get(), log.records.len() as u64);
    }

    /// The processor moves on, or comes to be.
    fn move_on(&mut self, keeping: &mut Keeping) {
        if keeping.restored.is_none() {
            let (reply, pending) = pair();
            let (name, sources) = (PROCESSOR.to_owned(), vec![format!("g/{READ}")]);
            let (change, owns) = (false, Vec::new());
            let request = Request::OpenReader { name, sources, change, owns, reply };
            let restored: Restored = self.answer(request, pending);
            keeping.position = Some(restored.positions[0].next.get());
            keeping.restored = Some(restored);
            return;
        }
        let restored = keeping.restored.as_mut().expect("it was just looked at");
        let log = &keeping.logs[READ];
        let next = log.records.len() as u64;
        let from = restored.positions[0];
        let to = self.rng.between(from.next.get(), next);
        keeping.position = Some(to);
        let to = SourcePosition { next: Sequence::new(to), ..from };
        let (reply, pending) = pair();
        let commit = CommitRequest {
            reader: restored.reader,
            epoch: restored.epoch,
            number: restored.commits + 1,
            from: vec![from],
            to: vec![to],
            state: NewState::None,
            parts: 0,
            outputs: Vec::new(),
            reply,
        };
        (restored.positions[0], restored.commits) = (to, restored.commits + 1);
        self.answer(Request::Commit(Box::new(commit)), pending);
    }

    /// Whether everything that went was allowed to.
    fn look_what_is_kept(&mut self, keeping: &mut Keeping) {
        keeping.see_time(self.now);
        for number in 0..LOGS {
            let (reply, pending) = pair();
            let log = keeping.logs[number].id;
            let info: LogInfo = self.answer(Request::DescribeLog { log, reply }, pending);
            keeping.see_time(self.now);
            let log = &mut keeping.logs[number];
            assert_eq!(info.next.get(), log.records.len() as u64, "no record is lost");
            let first = info.first.get();
            assert!(log.first <= first, "what went came back");
            let passed = match (number, keeping.position) {
                (READ, Some(position)) => position,
                (READ, None) | (HELD, _) => 0,
                _ => first,
            };
            assert!(first <= passed, "{number}: {first} is past the processor at {passed}");
            let total = log.records.last().map_or(0, |(bytes, _)| *bytes);
            for record in log.first..first {
                let (bytes, since) = log.records[usize::try_from(record).expect("small")];
                let newer = log.bytes > 0 && total - bytes >= log.bytes;
                let old = log.age > 0 && since <= log.old;
                let waits_only = number == READ && log.bytes == 0;
                assert!(newer || old || waits_only, "{number}: record {record} is to be kept");
            }
            keeping.removed += first - log.first;
            log.first = first;
        }
    }

    /// Nothing happens for as long as the oldest record may be kept: then all that may go is gone.
    fn rest(&mut self, keeping: &mut Keeping) {
        let newest = keeping.logs.iter().flat_map(|log| log.records.last()).map(|(_, at)| *at);
        // Commit times never go back, so a record may say a time that is still to come.
        let ahead = newest.max().unwrap_or(0).saturating_sub(self.now.wall_us);
        if ahead > 0 {
            return;
        }
        for _ in 0..200 {
            self.steady(keeping, 4 * MINUTE);
        }
        self.look_what_is_kept(keeping);
        for number in 0..LOGS {
            let log = &keeping.logs[number];
            let next = log.records.len() as u64;
            if log.first == next || number == HELD {
                continue;
            }
            let section = self.first_section(log.id);
            let log = &keeping.logs[number];
            let end = section.next.get();
            let passed = if number == READ { keeping.position.unwrap_or(0) } else { next };
            if number == READ && log.bytes == 0 {
                assert_eq!(log.first, passed.max(log.first), "it waits for the processor alone");
                continue;
            }
            let total = log.records[log.records.len() - 1].0;
            let bytes = log.records[usize::try_from(end).expect("small") - 1].0;
            let time = section.sections[0].time_us;
            let more = log.bytes > 0 && total - bytes >= log.bytes;
            let old = log.age > 0 && time + log.age <= self.now.wall_us.saturating_sub(3 * MINUTE);
            let agree = self.now.mono_us - keeping.agree_since > AGREE + 3 * MINUTE;
            let goes = end <= passed && (more || old && agree);
            assert!(!goes, "{number}: nothing keeps records {}..{end}", log.first);
        }
    }

    fn first_section(&mut self, log: LogId) -> ReadAnswer {
        let (reply, pending) = pair();
        let (at, bytes_max, wait, ahead, planned) = (At::Earliest, 1, Wait::No, false, None);
        self.answer(
            Request::Read(ReadRequest { log, at, bytes_max, wait, ahead, planned, reply }),
            pending,
        )
    }
}

impl Keeping {
    fn see_time(&mut self, now: oncelog::io::Now) {
        if now.mono_us - self.agree_since >= AGREE {
            for log in &mut self.logs {
                log.old = log.old.max(now.wall_us.saturating_sub(log.age));
            }
        }
    }
}
