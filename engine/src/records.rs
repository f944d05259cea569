//! Records as they are handed out: batches that share the memory they were read into.
//!
//! ```text
//! ReadAnswer --checked: no gap--> Records -> Record { payload: Bytes }
//! ```
//!
//! Not here: asking for them (`fetch`).

use std::collections::VecDeque;

use bytes::Bytes;

use crate::error::ReadError;
use crate::format::record::take_record;
use crate::position::{Dlsn, LogId, SegmentId, Sequence, TxId};
use crate::request::{At, ReadAnswer, SectionBytes};

/// A record that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its log.
    pub log: LogId,
    /// Its number in the log.
    pub sequence: Sequence,
    /// Where it stands.
    pub dlsn: Dlsn,
    /// Its transaction id.
    pub txid: TxId,
    /// When it was committed, microseconds since 1970; never decreases.
    pub time_us: u64,
    /// Its payload. Keeping it keeps the memory of its whole section.
    pub payload: Bytes,
}

/// Records in order, without a gap: an iterator that copies nothing.
#[derive(Clone, Debug)]
pub struct Records {
    log: LogId,
    sections: VecDeque<SectionBytes>,
    /// How many records of the first section are gone.
    slot: u32,
    next: Sequence,
    end: Sequence,
}

impl Records {
    /// The records of an answer.
    ///
    /// # Errors
    /// They do not follow each other, or do not begin where they were asked for.
    pub(crate) fn new(log: LogId, asked: At, answer: ReadAnswer) -> Result<Self, ReadError> {
        let ReadAnswer { first, next, sections, .. } = answer;
        let gap = |expected, got| Err(ReadError::Gap { log, expected, got });
        if let At::Sequence(expected) = asked
            && expected != first
        {
            return gap(expected, first);
        }
        let begin = sections.first().map_or(first, |section| section.first);
        let mut end = begin;
        for section in &sections {
            if section.first != end {
                return gap(end, section.first);
            }
            end = section.first.after(section.count.into());
        }
        if begin > first || end != next || end < first {
            return gap(first, if begin > first { begin } else { end });
        }
        let mut records = Self { log, sections: sections.into(), slot: 0, next: begin, end: next };
        while records.next < first {
            records.next().expect("the sections reach from before `first` to `next`");
        }
        Ok(records)
    }

    /// Adds the records that follow these.
    pub(crate) fn append(&mut self, mut more: Self) {
        assert_eq!((more.next, more.log), (self.end, self.log), "records follow without a gap");
        if more.slot > 0 {
            // They were taken off these in the middle of a section, which is here as a whole.
            let shared = more.sections.pop_front().map(|section| section.first);
            assert_eq!(shared, self.sections.back().map(|section| section.first));
        }
        self.sections.append(&mut more.sections);
        self.end = more.end;
    }

    /// Leaves out the records before the first one at a transaction id or time.
    pub(crate) fn skip_to(&mut self, sought: At) {
        while self.next < self.end {
            let section = self.sections.front().expect("sections reach to the end");
            let before = match sought {
                At::Time(time_us) => section.time_us < time_us,
                At::TxId(sought) => {
                    let record = take_record(&mut section.bytes.clone());
                    record.expect("the section was checked when it was read").0 < sought
                }
                _ => false,
            };
            if !before {
                return;
            }
            self.next();
        }
    }

    /// Sequence of the first record that is left.
    #[must_use]
    pub fn first_sequence(&self) -> Sequence {
        self.next
    }

    /// Sequence behind the last record.
    #[must_use]
    pub fn end_sequence(&self) -> Sequence {
        self.end
    }

    /// Where the first record that is left stands.
    pub(crate) fn place(&self) -> Option<(SegmentId, u32)> {
        let section = self.sections.front().filter(|_| self.next < self.end);
        section.map(|section| (section.segment, section.entry))
    }

    /// Takes the first `count` records off, or all.
    pub(crate) fn take_first(&mut self, count: u64) -> Self {
        let count = count.min(self.end.since(self.next));
        let end = self.next.after(count);
        let mut first = Self { end, ..self.clone() };
        while first.sections.back().is_some_and(|section| section.first >= end) {
            first.sections.pop_back();
        }
        while self.next < end {
            self.next().expect("it was just counted");
        }
        first
    }
}

impl Iterator for Records {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        if self.next == self.end {
            return None;
        }
        let section = self.sections.front_mut().expect("sections reach to the end");
        let (txid, payload) =
            take_record(&mut section.bytes).expect("the section was checked when it was read");
        let record = Record {
            log: self.log,
            sequence: self.next,
            dlsn: Dlsn::new(section.segment, section.entry, self.slot),
            txid,
            time_us: section.time_us,
            payload,
        };
        self.next = self.next.after(1);
        self.slot += 1;
        if self.slot == section.count {
            self.sections.pop_front();
            self.slot = 0;
        }
        Some(record)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let len = usize::try_from(self.end.since(self.next)).expect("they are in memory");
        (len, Some(len))
    }
}

impl ExactSizeIterator for Records {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::codec::Codec;
    use crate::format::record::put_record;

    fn section(first: u64, count: u32) -> SectionBytes {
        let mut bytes = bytes::BytesMut::new();
        (0..count).for_each(|slot| put_record(&mut bytes, TxId(first + u64::from(slot)), b"x"));
        let (first, bytes) = (Sequence(first), bytes.freeze());
        SectionBytes {
            first,
            count,
            segment: SegmentId(1),
            entry: 0,
            time_us: 1,
            codec: Codec::None,
            raw_len: u32::try_from(bytes.len()).unwrap(),
            bytes,
        }
    }

    fn answer(first: u64, next: u64, sections: Vec<SectionBytes>) -> ReadAnswer {
        ReadAnswer {
            first: Sequence(first),
            next: Sequence(next),
            earliest: Sequence(0),
            sections,
            proven: true,
            until: None,
            over: false,
            end: false,
            frontier: Dlsn::new(SegmentId(0), 0, 0),
            next_log: LogId(1),
        }
    }

    #[test]
    fn records_that_are_parted_anywhere_fit_together_again() {
        let all = |records: Records| records.map(|r| (r.sequence.0, r.dlsn.slot(), r.txid.0));
        let whole = || {
            let sections = vec![section(3, 2), section(5, 3), section(8, 1)];
            Records::new(LogId(1), At::Earliest, answer(4, 9, sections)).unwrap()
        };
        let expected: Vec<_> = all(whole()).collect();
        for first in 0..=5 {
            for taken in 0..=first {
                let mut rest = whole();
                let mut records = rest.take_first(first);
                let mut found: Vec<_> = all(records.take_first(taken)).collect();
                records.append(rest);
                found.extend(all(records));
                assert_eq!(found, expected, "{first} {taken}");
            }
        }
    }

    #[test]
    fn an_answer_with_a_gap_is_an_error() {
        let at = |sequence| At::Sequence(Sequence(sequence));
        let whole = || vec![section(3, 2), section(5, 2)];
        let records = Records::new(LogId(1), at(4), answer(4, 7, whole())).unwrap();
        assert_eq!(records.map(|record| record.sequence.0).collect::<Vec<_>>(), [4, 5, 6]);
        let wrong = [
            (at(3), answer(4, 7, whole())),
            (at(4), answer(4, 7, vec![section(3, 2), section(6, 1)])),
            (at(4), answer(4, 7, vec![section(5, 2)])),
            (at(4), answer(4, 8, whole())),
            (At::Earliest, answer(2, 7, whole())),
            (At::Latest, answer(7, 9, Vec::new())),
        ];
        for (asked, answer) in wrong {
            let got = format!("{answer:?}");
            let error = Records::new(LogId(1), asked, answer).expect_err(&got);
            assert!(error.to_string().contains("nothing of it was handed out"), "{error}");
        }
    }
}
