//! A world whose bits rot: what is read is what was written, or an error; never anything else.
//!
//! ```text
//! rot -> an episode (reads may say that records are damaged) -> end -> rot -> open
//!     -> refused: good | opened: every record that is handed out is compared
//! ```
//!
//! Behind the last watermark a rotten entry looks like a torn one (the blind spot of
//! `docs/format.md`), so after a crash the last records may be missing. After a clean close, or a
//! while without work, none may.
//!
//! Not here: rot in the superblock (the disk has none).

use oncelog::Sequence;
use oncelog::error::{OpenError, ReadError};
use oncelog::reply::pair;
use oncelog::request::{At, ReadRequest, Request};

use crate::asking::take;
use crate::model::{Effect, Info, Outcome};
use crate::reading::{records_of, same};
use crate::world::World;

impl World {
    /// The last episode.
    pub(crate) fn rot_away(&mut self) {
        self.rot_some();
        self.episode();
        let covered = match self.rng.below(3) {
            0 => {
                self.crash();
                false
            }
            1 => {
                self.close();
                true
            }
            _ => {
                self.idle();
                self.crash();
                true
            }
        };
        self.rot_some();
        self.crash_in = None;
        match self.open_once() {
            Err(_) => panic!("no crash was asked for"),
            Ok(Err(error)) => self.refused(&error),
            Ok(Ok(())) => {
                self.crash_in = None;
                self.look_at_what_is_left(covered);
            }
        }
    }

    /// Until the shard has nothing left to do by itself.
    fn idle(&mut self) {
        self.drain();
        let mut steps = 0;
        while self.disk.under_way() > 0 || self.has_timeout() {
            self.wait_for_timeout();
            self.pump();
            self.complete_one();
            self.pump();
            steps += 1;
            assert!(steps < 10_000, "it never comes to rest");
        }
    }

    fn rot_some(&mut self) {
        for _ in 0..self.rng.between(1, 3) {
            let place = self.disk.rot(&mut self.rng);
            self.note(|_| format!("rot {place:?}"));
        }
    }

    fn refused(&mut self, error: &OpenError) {
        self.note(|_| format!("refused: {error}"));
        self.coverage.rot_refused += 1;
        match error {
            OpenError::Damaged(_)
            | OpenError::MissingSegment { .. }
            | OpenError::ExtraSegment { .. }
            | OpenError::Foreign { .. } => {}
            other => panic!("rot is no reason for this: {other}"),
        }
    }

    fn look_at_what_is_left(&mut self, covered: bool) {
        let Ok(Outcome::Logs(logs)) = self.answer_to(&Effect::ListLogs(String::new())) else {
            panic!("logs were asked for")
        };
        if covered {
            let mut expected = self.bases[0].clone();
            let expected = expected.apply(&Effect::ListLogs(String::new()));
            assert_eq!(Outcome::Logs(logs.clone()), expected, "lost, but covered by a watermark");
        }
        for log in &logs {
            self.read_what_is_left(log);
        }
        let Ok(Outcome::Readers(names)) = self.answer_to(&Effect::ListReaders) else {
            panic!("processors were asked for")
        };
        for name in names {
            let effect = Effect::OpenReader { name, sources: Vec::new(), change: false };
            match self.answer_to(&effect) {
                Ok(Outcome::Owned(owner)) => {
                    self.bases.last().expect("there is one").check_restored(&owner);
                }
                Ok(Outcome::Refused("damaged")) => self.coverage.rot_seen += 1,
                other => panic!("{other:?}"),
            }
        }
    }

    fn read_what_is_left(&mut self, info: &Info) {
        let (mut next, end) = (info.numbers.0, info.numbers.1);
        while next < end {
            let (reply, mut pending) = pair();
            let (log, at) = (info.id, At::Sequence(Sequence::new(next)));
            let (bytes_max, wait) = (1 << 20, false);
            let request = Request::Read(ReadRequest { log, at, bytes_max, wait, reply });
            let Ok(()) = self.make(request) else { panic!("no crash was asked for") };
            let answer = loop {
                self.pump();
                if let Some(answer) = take(&mut pending) {
                    break answer;
                }
                let Ok(()) = self.tick() else { panic!("no crash was asked for") };
            };
            match answer {
                Ok(answer) => {
                    let records = records_of(&answer).unwrap_or_else(|why| panic!("{why}"));
                    assert!(!records.is_empty(), "log {log} says that it has record {next}");
                    for read in &records {
                        let at = usize::try_from(read.sequence).expect("small numbers");
                        let fits = self.bases.iter().any(|state| {
                            // The drop may have been lost in the blind spot.
                            let had = state.logs.get(&log).or_else(|| state.dropped.get(&log));
                            let record = had.and_then(|log| log.records.get(at));
                            record.is_some_and(|record| same(read, record).is_ok())
                        });
                        assert!(fits, "log {log}: other bytes at {at}");
                    }
                    self.coverage.records_read += records.len() as u64;
                    next = answer.next.get();
                }
                Err(ReadError::Damaged { .. }) => {
                    self.coverage.rot_seen += 1;
                    next += 1;
                }
                Err(error) => panic!("log {log} at {next}: {error}"),
            }
        }
    }
}
