//! Reads under way, and whether what they bring is what was written.
//!
//! Not here: when reads are made (`clients`).

use oncelog::error::ReadError;
use oncelog::format::record::take_record;
use oncelog::reply::Pending;
use oncelog::request::{At, ReadAnswer};
use oncelog::{Dlsn, LogId};

use crate::sim::model::{Record, State};
use crate::sim::payload::is_payload;

/// A read under way.
#[derive(Debug)]
pub struct Reading {
    /// The log.
    pub log: LogId,
    /// Where it begins.
    pub at: At,
    /// Whether it waits for a record.
    pub wait: bool,
    /// How many records of the log were acknowledged when it was asked for.
    pub acked: u64,
    /// The log's first record then, as far as was acknowledged.
    pub first: u64,
    /// The answer.
    pub pending: Pending<ReadAnswer, ReadError>,
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
        let mut bytes = section.bytes.clone();
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
    pub fn check(&self, answer: &ReadAnswer, state: &State) -> Result<usize, String> {
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
        let right_place = match self.at {
            At::Earliest => self.first <= begin && begin <= log.first.max(self.first),
            At::Latest => self.acked <= begin,
            At::Sequence(sequence) => sequence == answer.first,
            At::Dlsn(dlsn) => {
                let before = begin.checked_sub(1).and_then(|at| usize::try_from(at).ok());
                let before = before.and_then(|at| log.records.get(at)?.dlsn);
                let here = usize::try_from(begin).ok().and_then(|at| log.records.get(at)?.dlsn);
                before.is_none_or(|before| before < dlsn) && here.is_none_or(|here| here >= dlsn)
            }
        };
        if !right_place {
            return Err(format!("the answer begins at {begin}"));
        }
        if records.is_empty() && self.wait {
            return Err("a read that waits was answered without records".to_owned());
        }
        if records.is_empty() && begin < self.acked {
            return Err(format!("record {begin} was acknowledged but is not seen"));
        }
        Ok(records.len())
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
                    At::Dlsn(_) | At::Latest => true,
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
