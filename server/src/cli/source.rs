//! Reading a log from a directory or a server, in batches.
//!
//! ```text
//! Source::open -> next() -> records, .. -> none (the end, until more comes) ; ended (sealed)
//! ```
//!
//! Not here: what is done with records.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use oncelog::{Dlsn, From as At, Log, ReadError, Reader, Record, Sequence};
use serde_json::{Map, Value};

use super::fail::Fail;
use super::logs::{described, told};
use super::target::{Target, number, odd};
use super::values::{Position, put_bytes};
use crate::client::{Answer, Client, ClientError};

/// Records of one batch.
const BATCH: u64 = 1000;
/// Bytes of one batch, about.
const BATCH_SIZE: u32 = 1 << 20;

/// A record that was read.
#[derive(Debug)]
pub(super) struct Got {
    pub(super) sequence: u64,
    pub(super) txid: u64,
    pub(super) time_us: u64,
    pub(super) dlsn: Option<Dlsn>,
    pub(super) payload: Bytes,
}

impl Got {
    pub(super) fn json(&self) -> Value {
        let mut object = Map::new();
        object.insert("sequence".to_owned(), self.sequence.into());
        object.insert("txid".to_owned(), self.txid.into());
        object.insert("time_us".to_owned(), self.time_us.into());
        if let Some(dlsn) = self.dlsn {
            object.insert("dlsn".to_owned(), dlsn.to_string().into());
        }
        put_bytes(&mut object, "payload", &self.payload);
        object.into()
    }
}

impl From<Record> for Got {
    fn from(record: Record) -> Self {
        Self {
            sequence: record.sequence.get(),
            txid: record.txid.get(),
            time_us: record.time_us,
            dlsn: Some(record.dlsn),
            payload: record.payload,
        }
    }
}

/// A log that is read from somewhere on.
pub(super) struct Source<'a> {
    from: Origin<'a>,
    /// Records that were read and not wanted yet.
    left: VecDeque<Got>,
    /// The log is sealed, and everything was read.
    pub(super) ended: bool,
}

enum Origin<'a> {
    Dir(Box<Reader>),
    Server { client: &'a mut Client, log: String, at: Vec<String>, or_earliest: bool },
}

impl<'a> Source<'a> {
    /// With `or_earliest`: at the first record that is there, where those asked for may have been
    /// truncated, instead of an error.
    pub(super) fn open(
        target: &'a mut Target,
        log: &str,
        from: Position,
        or_earliest: bool,
    ) -> Result<Self, Fail> {
        let from = match target {
            Target::Dir(engine) => {
                let log = engine.open_log(log).wait()?;
                let reader = log.reader(from.0).max_records(BATCH).max_bytes(BATCH_SIZE);
                Origin::Dir(Box::new(if or_earliest { reader.or_earliest() } else { reader }))
            }
            Target::Server(client) => {
                let (log, at) = (log.to_owned(), from.words());
                Origin::Server { client, log, at, or_earliest }
            }
        };
        Ok(Self { from, left: VecDeque::new(), ended: false })
    }

    /// The next records, at most `count`; none at the end, after waiting for some if that is
    /// wanted.
    pub(super) fn next(&mut self, count: u64, wait: Option<Duration>) -> Result<Vec<Got>, Fail> {
        if count > 0 && self.left.is_empty() && !self.ended {
            let fetched = self.fetch(count, wait)?;
            self.left.extend(fetched);
        }
        let count = usize::try_from(count).unwrap_or(usize::MAX).min(self.left.len());
        Ok(self.left.drain(..count).collect())
    }

    fn fetch(&mut self, count_max: u64, wait_max: Option<Duration>) -> Result<Vec<Got>, Fail> {
        match &mut self.from {
            Origin::Dir(reader) => {
                let records = match wait_max {
                    Some(wait) => reader.batch(1, wait).wait().map(Some),
                    None => reader.try_next().wait(),
                };
                let records = match records {
                    Err(ReadError::End { .. }) => {
                        self.ended = true;
                        None
                    }
                    records => records?,
                };
                Ok(records.into_iter().flatten().map(Into::into).collect())
            }
            Origin::Server { client, log, at, or_earliest } => {
                let (count, bytes) = (count_max.min(BATCH).to_string(), BATCH_SIZE.to_string());
                let mut words = vec!["READ", log, "FROM"];
                words.extend(at.iter().map(String::as_str));
                words.extend(["COUNT", &count, "BYTES", &bytes]);
                let wait = wait_max.map(|wait| wait.as_millis().to_string());
                if let Some(wait) = &wait {
                    words.extend(["BLOCK", wait]);
                }
                words.push("DLSN");
                let answer = match client.call(&words) {
                    Err(ClientError::Refused(text))
                        if *or_earliest && text.starts_with("TRUNCATED") =>
                    {
                        // Earliest is never truncated.
                        (*at, *or_earliest) = (Position(At::Earliest).words(), false);
                        return self.fetch(count_max, wait_max);
                    }
                    Err(ClientError::Refused(text)) if text.starts_with("END") => {
                        self.ended = true;
                        return Ok(Vec::new());
                    }
                    answer => answer?,
                };
                let records = answer.array().ok_or_else(|| odd(&answer))?;
                let records: Vec<_> = records.iter().map(record).collect::<Result<_, _>>()?;
                if let Some(last) = records.last() {
                    *at = Position(At::Sequence(Sequence::new(last.sequence).after(1))).words();
                }
                Ok(records)
            }
        }
    }
}

/// `[sequence, txid, time_us, payload, dlsn]`
fn record(answer: &Answer) -> Result<Got, Fail> {
    let parts = answer.array().unwrap_or_default();
    let [sequence, txid, time_us, Answer::Bytes(payload), rest @ ..] = parts else {
        return Err(odd(answer));
    };
    let dlsn = rest.first().and_then(Answer::text).map(str::parse).transpose();
    Ok(Got {
        sequence: number(sequence)?,
        txid: number(txid)?,
        time_us: number(time_us)?,
        dlsn: dlsn.map_err(|_| odd(answer))?,
        payload: payload.clone().into(),
    })
}

/// The sequence of the first record at a position or behind it; the log's end where there is none
/// yet.
pub(super) fn find(target: &mut Target, log: &str, at: Position) -> Result<Sequence, Fail> {
    if let At::Sequence(sequence) = at.0 {
        return Ok(sequence);
    }
    if let Target::Dir(engine) = target {
        let log: Log = engine.open_log(log).wait()?;
        return match log.find(at.0).wait() {
            Ok(Some(found)) => Ok(found),
            Ok(None) => Ok(log.describe().wait()?.next),
            // It may have been one of those: the first that is left comes behind it.
            Err(ReadError::Truncated { first }) => Ok(first),
            Err(error) => Err(error.into()),
        };
    }
    let end = told(&described(target, log)?, "next")?;
    let found = match at.0 {
        At::Latest => None,
        _ => Source::open(target, log, at, true)?.next(1, None)?.pop(),
    };
    Ok(found.map_or(end, |record| Sequence::new(record.sequence)))
}
