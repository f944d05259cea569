//! Appending to a log of a directory or a server, in batches, as an idempotent writer or not.
//!
//! ```text
//! Sink::open -> last number of the writer ; append(number, records) -> first sequence, repeated?
//! ```
//!
//! Not here: where records come from.

use oncelog::{Log, NewRecord, Writer};

use super::fail::Fail;
use super::target::{Target, number, odd};
use crate::client::Client;

/// Bytes of a batch for a server, whose segments may be small.
const BATCH_SIZE: u64 = 64 << 10;
/// Records of a batch.
const BATCH: usize = 1024;
/// What a batch takes beside its records, rounded up.
const OVERHEAD: u64 = 512;
/// What a record takes beside its payload.
const RECORD_OVERHEAD: u64 = 16;

/// Where records go.
pub(super) struct Sink<'a> {
    to: To<'a>,
    batch_size: u64,
}

enum To<'a> {
    Dir { log: Log, writer: Option<Writer> },
    Server { client: &'a mut Client, log: String, writer: Option<(String, String)> },
}

/// Where a batch stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stands {
    pub(super) first: u64,
    /// It had been appended before.
    pub(super) repeated: bool,
}

impl<'a> Sink<'a> {
    /// The log, and the last number of the writer.
    pub(super) fn open(
        target: &'a mut Target,
        log: &str,
        writer: Option<&str>,
    ) -> Result<(Self, u64), Fail> {
        match target {
            Target::Dir(engine) => {
                let log = engine.open_log(log).wait()?;
                let writer = writer.map(|name| log.writer(name).increasing().open().wait());
                let writer = writer.transpose()?;
                let last = writer.as_ref().map_or(0, Writer::last);
                let batch_max = engine.info().wait()?.batch_size_max;
                let batch_size = u64::from(batch_max) - OVERHEAD;
                Ok((Self { to: To::Dir { log, writer }, batch_size }, last))
            }
            Target::Server(client) => {
                let (mut owner, mut last) = (None, 0);
                if let Some(name) = writer {
                    let answer = client.call(&["WRITER", "OPEN", log, name, "INCREASING"])?;
                    let Some([epoch, used]) = answer.array() else { return Err(odd(&answer)) };
                    owner = Some((name.to_owned(), number(epoch)?.to_string()));
                    last = number(used)?;
                }
                let to = To::Server { client, log: log.to_owned(), writer: owner };
                Ok((Self { to, batch_size: BATCH_SIZE }, last))
            }
        }
    }

    /// Appends records: all, next to each other, or none. The number is for an idempotent writer.
    pub(super) fn append(
        &mut self,
        batch_number: u64,
        records: &[NewRecord],
    ) -> Result<Stands, Fail> {
        match &mut self.to {
            To::Dir { log, writer: None } => {
                let appended = log.append_batch(records.iter().cloned()).wait()?;
                Ok(Stands { first: appended.first.get(), repeated: false })
            }
            To::Dir { writer: Some(writer), .. } => {
                let written = writer.append(batch_number, records.iter().cloned()).wait()?;
                let first = written.appended.first.get();
                Ok(Stands { first, repeated: written.repeated })
            }
            To::Server { client, log, writer } => {
                let mut words: Vec<Vec<u8>> = Vec::new();
                words.push(b"MAPPEND".to_vec());
                words.push(log.clone().into_bytes());
                words.push(records.len().to_string().into_bytes());
                words.extend(records.iter().map(|record| record.payload.to_vec()));
                if records.iter().any(|record| record.txid.is_some()) {
                    words.push(b"TXIDS".to_vec());
                    let txid = |record: &NewRecord| record.txid.map_or(0, |txid| txid.get());
                    words.extend(records.iter().map(|r| txid(r).to_string().into_bytes()));
                }
                if let Some((name, epoch)) = writer {
                    let number = batch_number.to_string();
                    let parts = ["WRITER", name, epoch, &number].map(|part| part.as_bytes().into());
                    words.extend(parts);
                }
                let answer = client.call(&words)?;
                let (first, repeated) = match answer.array() {
                    Some([first, repeated]) => (number(first)?, number(repeated)? == 1),
                    _ => (number(&answer)?, false),
                };
                Ok(Stands { first, repeated })
            }
        }
    }

    /// Whether a batch takes one more record; an empty one takes any. A server is told the
    /// transaction ids of all or of none.
    pub(super) fn takes(&self, batch: &Batch, record: &NewRecord) -> bool {
        let Some(first) = batch.records.first() else { return true };
        let size = batch.size + record.payload.len() as u64 + RECORD_OVERHEAD;
        size <= self.batch_size
            && batch.records.len() < BATCH
            && first.txid.is_some() == record.txid.is_some()
    }
}

/// Records that are appended together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) records: Vec<NewRecord>,
    size: u64,
}

impl Batch {
    pub(super) fn push(&mut self, record: NewRecord) {
        self.size += record.payload.len() as u64 + RECORD_OVERHEAD;
        self.records.push(record);
    }

    pub(super) fn clear(&mut self) {
        self.records.clear();
        self.size = 0;
    }
}
