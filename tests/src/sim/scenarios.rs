//! Worlds with a script instead of chance, for promises that chance meets but does not single out.
//!
//! Not here: what holds in every world (`world`, `audit`).

use oncelog::limits::NO_SPACE_RETRY_US;
use oncelog::reply::pair;
use oncelog::request::{At, OpenMode, ReadRequest, Request, Wait};

use crate::sim::model::{Commit, Effect, NewRecord};
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
        self.asks(Effect::OpenLog(LOG.to_owned(), OpenMode::Create));
        let (name, sources) = ("g/p0".to_owned(), vec![LOG.to_owned()]);
        self.asks(Effect::OpenReader { name, sources, change: false });

        // Several segments, so that a truncation can make room without the file system's help.
        (100..200).for_each(|id| self.append_one(id));
        self.append_until_refused();
        self.read_on();
        self.move_to_the_end();
        self.truncate_to_the_end();
        let before = self.coverage.counts.appends;
        self.append_one(0);
        assert_eq!(self.coverage.counts.appends, before + 1, "a truncation made room");

        self.append_until_refused();
        self.disk.faults.full = false;
        self.now.mono_us += 2 * NO_SPACE_RETRY_US;
        self.pump();
        self.drain();
        let before = self.coverage.counts.appends;
        self.append_one(1);
        assert_eq!(self.coverage.counts.appends, before + 1, "there was room again");
        self.crash();
        self.reopen();
    }

    fn asks(&mut self, effect: Effect) {
        self.drain();
        self.ask(effect);
        self.drain();
    }

    fn append_one(&mut self, id: u64) {
        let log = self.bases[0].log_named(LOG).expect("it was created");
        let parts = vec![(log, vec![NewRecord { id, len: 30_000, txid: None }])];
        self.asks(Effect::Append { parts, alone: true, oversize: false });
    }

    fn append_until_refused(&mut self) {
        self.disk.faults.full = true;
        let refused = self.coverage.counts.no_space;
        for id in 1_000..3_000 {
            self.append_one(id);
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
        self.reads.push(Reading { log, at, wait, asked_us, acked, first, pending });
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

    /// Creates logs until the manifest is full, and drops some of them again.
    pub(crate) fn crowd(&mut self) {
        let name = |number| format!("g/{}{number}", "many".repeat(60));
        let mut number = 0;
        while self.coverage.counts.too_many == 0 {
            self.asks(Effect::OpenLog(name(number), OpenMode::Create));
            number += 1;
            assert!(number < 1_000, "the manifest is never full");
        }
        // Room for what chance creates, and for rows of segments.
        for number in (0..number - 1).filter(|number| number % 4 == 0) {
            self.asks(Effect::DropLog(name(number)));
        }
    }
}
