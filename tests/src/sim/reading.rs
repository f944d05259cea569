//! Reads under way, and whether what they bring is what was written.
//!
//! Not here: when reads are made (`clients`).

use std::collections::BTreeMap;

use oncelog::error::ReadError;
use oncelog::format::record::take_record;
use oncelog::reply::Pending;
use oncelog::request::{At, ReadAnswer, Wait};
use oncelog::{Dlsn, LogId, SegmentId};

use crate::rng::Rng;
use crate::sim::model::{Log, Record, State};
use crate::sim::payload::is_payload;

/// A read under way.
#[derive(Debug)]
pub struct Reading {
    /// The log.
    pub log: LogId,
    /// Where it begins.
    pub at: At,
    /// How long it waits for a record.
    pub wait: Wait,
    /// When it was asked for, microseconds of the monotonic clock.
    pub asked_us: u64,
    /// How many records of the log were acknowledged when it was asked for.
    pub acked: u64,
    /// The log's first record then, as far as was acknowledged.
    pub first: u64,
    /// Whether it was acknowledged then that the log had ended.
    pub sealed: bool,
    /// The answer.
    pub pending: Pending<ReadAnswer, ReadError>,
}

/// When entries were committed, as far as that was read.
#[derive(Debug, Default)]
pub struct Times(BTreeMap<(SegmentId, u32), u64>);

impl Times {
    /// Learns the times of an answer.
    ///
    /// # Errors
    /// They do not fit what was known.
    pub fn learn(&mut self, answer: &ReadAnswer) -> Result<(), String> {
        for section in &answer.sections {
            let (entry, time_us) = ((section.segment, section.entry), section.time_us);
            let before = self.0.range(..=entry).next_back().is_none_or(|known| *known.1 <= time_us);
            let behind = self.0.range(entry..).next().is_none_or(|known| time_us <= *known.1);
            if !before || !behind {
                return Err(format!("{entry:?} was not committed at {time_us}"));
            }
            self.0.insert(entry, time_us);
        }
        Ok(())
    }

    /// Any of them.
    pub fn any(&self, rng: &mut Rng) -> Option<u64> {
        let skip = rng.index(self.0.len().max(1));
        self.0.values().nth(skip).copied()
    }

    /// Whether the record at a place is known to be from `time_us` or later.
    fn is_from(&self, dlsn: Option<Dlsn>, time_us: u64) -> bool {
        let Some(dlsn) = dlsn else { return false };
        let before = self.0.range(..=(dlsn.segment(), dlsn.entry())).next_back();
        before.is_some_and(|known| *known.1 >= time_us)
    }
}

/// A record as it was read.
pub struct ReadRecord {
    /// Its sequence.
    pub sequence: u64,
    /// Its transaction id.
    pub txid: u64,
    /// Where it stands.
    pub dlsn: Dlsn,
    /// Its payload.
    pub payload: bytes::Bytes,
}

/// The records of an answer; says what is wrong with its form.
///
/// # Errors
/// What is wrong.
pub fn records_of(answer: &ReadAnswer) -> Result<Vec<ReadRecord>, String> {
    let mut records = Vec::new();
    let mut next = None;
    for section in &answer.sections {
        if next.is_some_and(|next| next != section.first) {
            return Err(format!("a gap before sequence {}", section.first));
        }
        let unpacked = section.codec.unpack(&section.bytes, section.raw_len);
        let mut bytes = unpacked.ok_or("a section that is not as long as it says")?;
        for slot in 0..section.count {
            let sequence = section.first.after(slot.into()).get();
            let taken = take_record(&mut bytes).ok_or("a section that is no records")?;
            let dlsn = Dlsn::new(section.segment, section.entry, slot);
            let (txid, payload) = (taken.0.get(), taken.1);
            records.push(ReadRecord { sequence, txid, dlsn, payload });
        }
        if !bytes.is_empty() {
            return Err("a section longer than its records".to_owned());
        }
        next = Some(section.first.after(section.count.into()));
    }
    if next.is_some_and(|next| next != answer.next) {
        return Err("the next sequence does not follow the sections".to_owned());
    }
    if next.is_none() && answer.first != answer.next {
        return Err("an answer without records moves on".to_owned());
    }
    Ok(records)
}

/// Whether `read` is `record`, which stands at `sequence`.
///
/// # Errors
/// What differs.
pub fn same(read: &ReadRecord, record: &Record) -> Result<(), String> {
    let sequence = read.sequence;
    if !is_payload(record.id, record.len, &read.payload) {
        return Err(format!("sequence {sequence}: other bytes than record {}", record.id));
    }
    if read.txid != record.txid {
        return Err(format!("sequence {sequence}: txid {} not {}", read.txid, record.txid));
    }
    match record.dlsn {
        Some(dlsn) if dlsn != read.dlsn => {
            Err(format!("sequence {sequence}: at {} not {dlsn}", read.dlsn))
        }
        _ => Ok(()),
    }
}

impl Reading {
    /// Whether an answer is right. `state` is the state of all answered requests.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(
        &self,
        answer: &ReadAnswer,
        state: &State,
        times: &mut Times,
        now_us: u64,
    ) -> Result<usize, String> {
        times.learn(answer)?;
        let log = state.logs.get(&self.log).or_else(|| state.dropped.get(&self.log));
        let log = log.ok_or("records of a log that never was")?;
        let records = records_of(answer)?;
        for read in &records {
            let record = usize::try_from(read.sequence).ok().and_then(|at| log.records.get(at));
            same(read, record.ok_or("a record that was not acknowledged")?)?;
        }
        let begin = answer.first.get();
        if let Some(read) = records.first()
            && (read.sequence > begin || begin >= answer.next.get())
        {
            return Err("the first section does not hold the first record".to_owned());
        }
        if !self.begins_right(answer, log, times) {
            return Err(format!("the answer begins at {begin}, proven: {}", answer.proven));
        }
        if answer.end && (!log.sealed || !records.is_empty() || begin < log.next()) {
            return Err("this is not the end of the log".to_owned());
        }
        if records.is_empty() && self.sealed && !answer.end {
            return Err("it does not say that the log has ended".to_owned());
        }
        let waits = !answer.end && self.until().is_none_or(|until| now_us < until);
        if records.is_empty() && waits {
            return Err("a read that waits was answered without records".to_owned());
        }
        if records.is_empty() && begin < self.acked {
            return Err(format!("record {begin} was acknowledged but is not seen"));
        }
        Ok(records.len())
    }

    /// When its wait is over, if ever.
    #[must_use]
    pub fn until(&self) -> Option<u64> {
        match self.wait {
            Wait::No => Some(0),
            Wait::For(wait) => Some(self.asked_us + u64::try_from(wait.as_micros()).ok()?),
            Wait::Until(until) => Some(until),
            Wait::Forever => None,
        }
    }

    fn begins_right(&self, answer: &ReadAnswer, log: &Log, times: &Times) -> bool {
        let begin = answer.first.get();
        if answer.end {
            let is_behind = |sequence: oncelog::Sequence| sequence.get() >= log.next();
            return begin == log.next() && !matches!(self.at, At::Sequence(s) if !is_behind(s));
        }
        let record = |at: u64| usize::try_from(at).ok().and_then(|at| log.records.get(at));
        let before = begin.checked_sub(1).and_then(record);
        match self.at {
            At::Earliest => self.first <= begin && begin <= log.first.max(self.first),
            At::Latest => self.acked <= begin,
            At::Sequence(sequence) => sequence == answer.first,
            At::Dlsn(dlsn) => {
                let before = before.and_then(|record| record.dlsn);
                let here = record(begin).and_then(|record| record.dlsn);
                before.is_none_or(|before| before < dlsn) && here.is_none_or(|here| here >= dlsn)
            }
            At::TxId(txid) if answer.proven => before.is_none_or(|r| r.txid < txid.get()),
            // Truncated records decide that were not durable then.
            At::TxId(_) | At::Time(_) if !answer.proven && answer.sections.is_empty() => true,
            // All before it is gone.
            At::TxId(_) => self.first.max(1) <= begin && begin <= log.first,
            At::Time(time_us) => {
                let first = answer.sections.first();
                let begins_at_match = first.is_none_or(|section| section.time_us >= time_us);
                let is_from = before.is_some_and(|before| times.is_from(before.dlsn, time_us));
                // Beyond the end it waited for whatever came.
                answer.proven && !is_from && (begins_at_match || self.acked <= begin)
            }
        }
    }

    /// Whether it is right that it still waits, at rest.
    #[must_use]
    pub fn may_wait(&self, log: &Log, times: &Times, now_us: u64) -> bool {
        let at_tail = match self.at {
            At::Sequence(sequence) => sequence.get() >= log.next(),
            At::Latest => self.acked <= log.next(),
            At::Earliest => log.first == log.next(),
            At::Dlsn(_) => true,
            At::TxId(txid) => log.records.last().is_none_or(|record| record.txid < txid.get()),
            At::Time(time_us) => {
                log.records.last().is_none_or(|record| !times.is_from(record.dlsn, time_us))
            }
        };
        !log.sealed && at_tail && self.until().is_none_or(|until| now_us < until)
    }

    /// Whether a refusal is right.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check_refusal(&self, error: &ReadError, state: &State) -> Result<(), String> {
        let log = state.logs.get(&self.log);
        match error {
            ReadError::Dropped if log.is_none() => Ok(()),
            ReadError::Truncated { first } => {
                let truncated = log.or_else(|| state.dropped.get(&self.log)).map_or(0, |l| l.first);
                let below = match self.at {
                    At::Sequence(sequence) => sequence < *first,
                    At::Dlsn(_) | At::Latest | At::Time(_) => true,
                    // The last one that is gone is not below it.
                    At::TxId(txid) => log.is_none_or(|log| {
                        let last =
                            first.get().checked_sub(1).and_then(|at| usize::try_from(at).ok());
                        last.is_some_and(|last| log.records[last].txid >= txid.get())
                    }),
                    At::Earliest => false,
                };
                if below && first.get() <= truncated {
                    Ok(())
                } else {
                    Err(format!("truncated before {first}, but it is {truncated}"))
                }
            }
            other => Err(other.to_string()),
        }
    }
}
