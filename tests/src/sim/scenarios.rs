//! Worlds with a script instead of chance, for promises that chance meets but does not single out.
//!
//! Not here: what holds in every world (`world`, `audit`).

use std::sync::Arc;

use oncelog::change::Author;
use oncelog::limits::NO_SPACE_RETRY_US;
use oncelog::reply::pair;
use oncelog::request::{At, OpenMode, ReadRequest, Request, Wait};
use oncelog::{LogOptions, Rates};

use crate::sim::effect::{Commit, Effect, NewRecord};
use crate::sim::reading::Reading;
use crate::sim::world::World;

const LOG: &str = "g/l0";

impl World {
    /// Fills the disk. Appends are refused; reads, truncation and commits of a position go on, and
    /// appends too, once a truncation or the file system has made room.
    ///
    /// # Panics
    /// If it is otherwise.
    pub fn fill_the_disk(&mut self) {
        self.reopen();
        self.asks(Effect::OpenLog(LOG.to_owned(), OpenMode::Create, None));
        let (name, sources) = ("g/p0".to_owned(), vec![LOG.to_owned()]);
        self.asks(Effect::OpenReader { name, sources, change: false, owns: Vec::new() });

        // Several segments, so that a truncation can make room without the file system's help.
        (0..100).for_each(|_| self.append_one());
        self.append_until_refused();
        self.read_on();
        self.move_to_the_end();
        self.truncate_to_the_end();
        let before = self.coverage.counts.appends;
        self.append_one();
        assert_eq!(self.coverage.counts.appends, before + 1, "a truncation made room");

        self.append_until_refused();
        self.disk.faults.full = false;
        self.now.mono_us += 2 * NO_SPACE_RETRY_US;
        self.pump();
        self.drain();
        let before = self.coverage.counts.appends;
        self.append_one();
        assert_eq!(self.coverage.counts.appends, before + 1, "there was room again");
        self.crash();
        self.reopen();
    }

    fn asks(&mut self, effect: Effect) {
        self.drain();
        self.ask(effect);
        self.drain();
    }

    fn append_one(&mut self) {
        self.append_some(1, 30_000);
    }

    fn append_some(&mut self, count: u64, len: usize) {
        let log = self.bases[0].log_named(LOG).expect("it was created");
        let record = |id| NewRecord { id, len, txid: None };
        let records = (0..count).map(|_| record(self.clients.new_id())).collect();
        let (parts, author) = (vec![(log, records)], Author::Anyone);
        self.asks(Effect::Append { parts, author, alone: count == 1, oversize: false });
    }

    fn append_until_refused(&mut self) {
        self.disk.faults.full = true;
        let refused = self.coverage.counts.no_space;
        for _ in 0..2_000 {
            self.append_one();
            if self.coverage.counts.no_space > refused {
                return;
            }
        }
        panic!("the disk is full, but appends go on");
    }

    fn read_on(&mut self) {
        let log = self.bases[0].log_named(LOG).expect("it was created");
        let (acked, first) = (self.bases[0].logs[&log].next(), self.bases[0].logs[&log].first);
        let (reply, pending) = pair();
        let (at, wait, bytes_max) = (At::Earliest, Wait::No, 1 << 20);
        let read = self.coverage.counts.records_read;
        let request = Request::Read(ReadRequest {
            log,
            at,
            bytes_max,
            wait,
            ahead: false,
            planned: None,
            reply,
        });
        let now = self.now;
        self.shard.as_mut().expect("a process runs").handle_request(request, now);
        let asked_us = now.mono_us;
        let sealed = false;
        self.reads.push(Reading { log, at, wait, asked_us, acked, first, sealed, pending });
        self.drain();
        assert!(self.coverage.counts.records_read > read, "reads go on");
    }

    fn move_to_the_end(&mut self) {
        let log = self.bases[0].log_named(LOG).expect("it was created");
        let (reader, state) = self.bases[0].readers.first_key_value().expect("it was opened");
        let moves = vec![(log, 0, self.bases[0].logs[&log].next())];
        let (reader, epoch, number) = (*reader, state.epoch, state.commits + 1);
        let outputs = Vec::new();
        let commits = self.coverage.counts.commits;
        let commit = Commit { reader, epoch, number, moves, state: None, parts: 0, outputs };
        self.asks(Effect::Commit(commit));
        assert_eq!(
            self.coverage.counts.commits,
            commits + 1,
            "a position is committed out of the reserve"
        );
    }

    fn truncate_to_the_end(&mut self) {
        let log = self.bases[0].log_named(LOG).expect("it was created");
        let next = self.bases[0].logs[&log].next();
        self.asks(Effect::Truncate(log, next));
        assert_eq!(self.bases[0].logs[&log].first, next, "truncated out of the reserve");
    }

    /// Appends as fast as it goes to a log with a hard rate: taken from the very microsecond on
    /// that a refusal named, and over all no more comes than the rate allows.
    ///
    /// # Panics
    /// If it is otherwise.
    pub fn keep_a_rate(&mut self) {
        self.reopen();
        self.keep_the_rate();
        self.crash();
        self.reopen();
    }

    /// See [`keep_a_rate`](Self::keep_a_rate).
    pub(crate) fn keep_the_rate(&mut self) {
        let (count, len) = (self.rng.between(1, 3), 100);
        let rate = self.rng.between(3, 40);
        let (by_bytes, by_log) = (self.rng.one_in(2), self.rng.one_in(2));
        let rates = match by_bytes {
            true => Rates::default().bytes_hard(rate * len).records_soft(1),
            false => Rates::default().records_hard(rate).bytes_soft(1),
        };
        let options = by_log.then(|| Arc::new(LogOptions::default().rates(rates)));
        self.asks(Effect::OpenLog(LOG.to_owned(), OpenMode::Create, options));
        if !by_log {
            self.asks(Effect::SetRates(rates));
        }
        for _ in 0..self.rng.below(3) {
            // What is written begins a segment: the next opening knows the rates by its manifest.
            self.append_one();
            self.crash();
            self.reopen();
        }
        let (begin, before) = (self.now.mono_us, self.coverage.counts.appends);
        let len = usize::try_from(len).expect("small");
        for _ in 0..100 {
            let refused = self.append_at_once(count, len);
            let came = (self.coverage.counts.appends - before) * count;
            let passed = self.now.mono_us - begin;
            // A second's worth at first, and the batch that goes beyond it.
            let most = rate + count + rate * passed / 1_000_000 + 1;
            assert!(came <= most, "{came} records in {passed} us at {rate} a second");
            let Some(until) = refused else { continue };
            assert!(came > rate, "refused after {came} records at {rate} a second");
            self.now.mono_us = until - 1;
            let refused = self.append_at_once(count, len);
            assert!(refused.is_none_or(|again| again == until), "it says another time");
            self.now.mono_us = self.now.mono_us.max(until);
            assert_eq!(self.append_at_once(count, len), None, "it is time");
        }
        if !by_log {
            self.asks(Effect::SetRates(Rates::default()));
        }
        self.asks(Effect::DropLog(LOG.to_owned()));
    }

    /// Appends; when to come again if that was refused.
    fn append_at_once(&mut self, count: u64, len: usize) -> Option<u64> {
        let refused = self.coverage.counts.over_capacity;
        self.append_some(count, len);
        // While it waits for a roll, time passes, and it is judged behind that.
        let is_refused = self.coverage.counts.over_capacity > refused;
        is_refused.then_some(self.now.mono_us + self.told_wait_us)
    }

    /// Creates logs until the manifest is full, and drops some of them again.
    pub(crate) fn crowd(&mut self) {
        let name = |number| format!("g/{}{number}", "many".repeat(60));
        let mut number = 0;
        while self.coverage.counts.too_many == 0 {
            self.asks(Effect::OpenLog(name(number), OpenMode::Create, None));
            number += 1;
            assert!(number < 1_000, "the manifest is never full");
        }
        // Room for what chance creates, and for rows of segments.
        for number in (0..number - 1).filter(|number| number % 4 == 0) {
            self.asks(Effect::DropLog(name(number)));
        }
    }
}
