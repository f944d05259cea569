//! Idempotent writers: which numbers each has used, so that a batch sent twice is there once.
//!
//! ```text
//! number -> next one           : append, remember
//!           in the window      : answered with where it stands, nothing is written
//!           anything else      : refused, nothing is written
//! ```
//!
//! A writer is a name in a log; its newest owner's epoch is its key, so an owner that was fenced is
//! not known any more. The last [`WRITER_WINDOW`] batches of each are remembered, also in the
//! manifest: a writer has at most so many unanswered.
//!
//! Not here: who may open one, and staging (`ownership`).

use std::collections::{BTreeMap, VecDeque};

use rustc_hash::FxHashMap;

use crate::format::control::{ManifestWriter, WriterBatch, writer_row_size_max};
use crate::limits::WRITER_WINDOW;
use crate::position::{Epoch, LogId};

/// What is known about a number that a writer gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    /// It comes next: its batch can be appended.
    Next,
    /// Its batch was appended before.
    Repeated(WriterBatch),
    /// It is so old that it is no longer known whether it was appended.
    Forgotten,
    /// It was passed over, or comes too early.
    OutOfOrder,
}

/// The writers of a shard.
#[derive(Clone, Debug, Default)]
pub struct Writers {
    by_epoch: FxHashMap<Epoch, ManifestWriter>,
    by_name: BTreeMap<(LogId, String), Epoch>,
}

impl Writers {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_epoch.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_epoch.is_empty()
    }

    /// The writer that this owner owns.
    #[must_use]
    pub fn get(&self, epoch: Epoch) -> Option<&ManifestWriter> {
        self.by_epoch.get(&epoch)
    }

    /// The writer of this name.
    #[must_use]
    pub fn named(&self, log: LogId, name: &str) -> Option<&ManifestWriter> {
        self.by_name.get(&(log, name.to_owned())).map(|epoch| &self.by_epoch[epoch])
    }

    /// The writers of a log, in the order of their names.
    pub fn of(&self, log: LogId) -> impl Iterator<Item = &ManifestWriter> {
        let from = (log, String::new());
        let own = self.by_name.range(from..).take_while(move |((of, _), _)| *of == log);
        own.map(|(_, epoch)| &self.by_epoch[epoch])
    }

    /// All of them, in the order of their logs and names.
    pub fn rows(&self) -> impl Iterator<Item = &ManifestWriter> {
        self.by_name.values().map(|epoch| &self.by_epoch[epoch])
    }

    /// Adds one as it stood in a manifest; `false` if it is there already.
    pub fn insert(&mut self, row: ManifestWriter) -> bool {
        let key = (row.log, row.name.clone());
        if self.by_name.contains_key(&key) || self.by_epoch.contains_key(&row.epoch) {
            return false;
        }
        self.by_name.insert(key, row.epoch);
        self.by_epoch.insert(row.epoch, row);
        true
    }

    /// A writer has a new owner. One that was not known begins.
    pub fn open(&mut self, log: LogId, epoch: Epoch, increasing: bool, name: &str) {
        let known = self.by_name.get(&(log, name.to_owned()));
        let row = match known.and_then(|epoch| self.by_epoch.remove(epoch)) {
            Some(row) => ManifestWriter { epoch, increasing, ..row },
            None => {
                let (name, window) = (name.to_owned(), VecDeque::new());
                ManifestWriter { log, epoch, increasing, last: 0, window, name }
            }
        };
        self.by_name.insert((log, row.name.clone()), epoch);
        let before = self.by_epoch.insert(epoch, row);
        assert!(before.is_none(), "an epoch is used once");
    }

    /// What a number means that this owner gives. 0 is never one.
    #[must_use]
    pub fn judge(writer: &ManifestWriter, number: u64) -> Number {
        if let Some(batch) = writer.window.iter().find(|batch| batch.number == number) {
            return Number::Repeated(*batch);
        }
        let next = match writer.last.checked_add(1) {
            Some(next) if writer.increasing => number >= next,
            Some(next) => number == next,
            None => false,
        };
        if next {
            return Number::Next;
        }
        let oldest = writer.window.front().map_or(u64::MAX, |batch| batch.number);
        if number < oldest && number <= writer.last {
            Number::Forgotten
        } else {
            Number::OutOfOrder
        }
    }

    /// A batch was appended; `false` if its number does not come next, or nobody owns the writer.
    #[must_use]
    pub fn appended(&mut self, epoch: Epoch, batch: WriterBatch) -> bool {
        let Some(writer) = self.by_epoch.get_mut(&epoch) else { return false };
        if Self::judge(writer, batch.number) != Number::Next {
            return false;
        }
        writer.last = batch.number;
        if writer.window.len() == WRITER_WINDOW {
            writer.window.pop_front();
        }
        writer.window.push_back(batch);
        true
    }

    /// Forgets a writer; the bytes that its row took at most.
    pub fn remove(&mut self, epoch: Epoch) -> Option<u64> {
        let row = self.by_epoch.remove(&epoch)?;
        let size = writer_row_size_max(&row.name);
        self.by_name.remove(&(row.log, row.name));
        Some(size)
    }

    /// Forgets all writers of a log; the bytes that their rows took at most.
    pub fn remove_all(&mut self, log: LogId) -> u64 {
        let epochs: Vec<_> = self.of(log).map(|writer| writer.epoch).collect();
        epochs.into_iter().filter_map(|epoch| self.remove(epoch)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::{Number, Writers};
    use crate::format::control::WriterBatch;
    use crate::limits::WRITER_WINDOW;
    use crate::position::{Dlsn, Epoch, LogId, SegmentId, Sequence};

    const LOG: LogId = LogId(7);

    fn batch(number: u64) -> WriterBatch {
        let dlsn = Dlsn::new(SegmentId(1), 1, 0);
        WriterBatch { number, first: Sequence(number), count: 1, dlsn }
    }

    fn judge(writers: &Writers, epoch: u64, number: u64) -> Number {
        Writers::judge(writers.get(Epoch(epoch)).expect("it owns the writer"), number)
    }

    #[test]
    fn a_dense_writer_takes_the_next_number_alone_and_knows_its_window() {
        let mut writers = Writers::default();
        writers.open(LOG, Epoch(1), false, "w");
        let window = WRITER_WINDOW as u64;
        for number in 1..=window + 3 {
            assert_eq!(judge(&writers, 1, number), Number::Next);
            assert_eq!(judge(&writers, 1, number + 1), Number::OutOfOrder);
            assert!(writers.appended(Epoch(1), batch(number)));
            assert_eq!(judge(&writers, 1, number), Number::Repeated(batch(number)));
            assert!(!writers.appended(Epoch(1), batch(number)));
        }
        assert_eq!(judge(&writers, 1, 3), Number::Forgotten);
        assert_eq!(judge(&writers, 1, 4), Number::Repeated(batch(4)));
        assert_eq!(judge(&writers, 1, 0), Number::Forgotten);
        assert_eq!(judge(&writers, 1, u64::MAX), Number::OutOfOrder);
    }

    #[test]
    fn an_increasing_writer_leaves_numbers_out_that_never_come_again() {
        let mut writers = Writers::default();
        writers.open(LOG, Epoch(1), true, "w");
        for number in [5, 9, u64::MAX] {
            assert_eq!(judge(&writers, 1, number), Number::Next);
            assert!(writers.appended(Epoch(1), batch(number)));
        }
        assert_eq!(judge(&writers, 1, 9), Number::Repeated(batch(9)));
        assert_eq!(judge(&writers, 1, 7), Number::OutOfOrder);
        assert_eq!(judge(&writers, 1, 3), Number::Forgotten);
    }

    #[test]
    fn a_new_owner_knows_what_the_one_before_wrote_and_that_one_is_gone() {
        let mut writers = Writers::default();
        writers.open(LOG, Epoch(1), false, "w");
        assert!(writers.appended(Epoch(1), batch(1)));
        writers.open(LOG, Epoch(4), false, "w");
        assert!(writers.get(Epoch(1)).is_none() && !writers.appended(Epoch(1), batch(2)));
        assert_eq!(judge(&writers, 4, 1), Number::Repeated(batch(1)));
        writers.open(LOG, Epoch(5), false, "v");
        let names: Vec<_> = writers.of(LOG).map(|writer| writer.name.as_str()).collect();
        assert_eq!(names, ["v", "w"]);
        assert_eq!(writers.named(LOG, "w").unwrap().epoch, Epoch(4));
        assert!(writers.remove_all(LOG) > 0 && writers.is_empty());
    }
}
