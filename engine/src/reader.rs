//! Reading a log: batches of records that share the memory they were read into.
//!
//! ```text
//! Reader --request--> shard -> sections, checked -> Records -> Record { payload: Bytes }
//! ```
//!
//! A reader knows its position; dropping a call half-way loses nothing, the next one gives the same
//! records. Sequences that are handed out are dense: a gap would be an error.
//!
//! Not here: finding and checking sections (the shard does).

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use crate::error::{Damaged, ReadError, records_from};
use crate::format::codec::Codec;
use crate::format::record::{is_whole, take_record};
use crate::limits::{MIB, READ_SIZE_DEFAULT, READ_SIZE_MAX};
use crate::log::Log;
use crate::position::{Dlsn, LogId, Sequence, TxId};
use crate::reply::{self, Pending};
use crate::request::{At, Planned, ReadAnswer, ReadRequest, Request, SectionBytes};
use crate::response::{Operation, Response};

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
    fn new(log: LogId, answer: ReadAnswer) -> Self {
        let ReadAnswer { first, next, sections, .. } = answer;
        let begin = sections.first().map_or(first, |section| section.first);
        let mut records = Self { log, sections: sections.into(), slot: 0, next: begin, end: next };
        while records.next < first {
            records.next().expect("the sections reach from before `first` to `next`");
        }
        records
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

    /// Takes the first `count` records off, or all.
    fn take_first(&mut self, count: u64) -> Self {
        let count = count.min(self.end.since(self.next));
        let end = self.next.after(count);
        let first = Self { end, ..self.clone() };
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

/// Reads that a reader in sequence has under way: one for what it wants, the others for what it
/// will want next.
const READS_AHEAD: usize = 8;

/// Bytes of these, about: fewer reads where each is large.
const READ_AHEAD_SIZE: u32 = 8 * MIB;

/// A request of a reader.
struct Asked {
    at: At,
    waits: bool,
    /// Asked ahead, when so much had been removed (`Helm::removals`).
    ahead: Option<u64>,
    response: Response<ReadAnswer, ReadError>,
    /// Until it is known where the answer ends.
    planned: Option<Pending<Planned, ReadError>>,
}

/// The requests of a reader, kept when a call is dropped half-way.
///
/// The first call asks for what it wants alone. Who comes back for more reads in sequence: then
/// what follows is asked for as soon as it is known where it begins, so that the device always has
/// several reads.
pub(crate) struct Fetch {
    log: Log,
    pub(crate) at: At,
    pub(crate) bytes_max: u32,
    /// Bytes of requests under way.
    pub(crate) ahead_max: u32,
    asked: VecDeque<Asked>,
    in_sequence: bool,
}

impl Fetch {
    pub(crate) fn new(log: Log, at: At) -> Self {
        let (bytes_max, ahead_max) = (READ_SIZE_DEFAULT, READ_AHEAD_SIZE);
        Self { log, at, bytes_max, ahead_max, asked: VecDeque::new(), in_sequence: false }
    }

    /// The next records; none only if `wait` is false.
    pub(crate) fn poll(
        &mut self,
        wait: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Records, ReadError>> {
        if self.asked.front().is_some_and(|asked| asked.waits && !wait) {
            // A parked request would not answer with nothing.
            self.asked.clear();
        }
        loop {
            if self.asked.is_empty() {
                self.ask(self.at, wait, false);
            }
            self.ask_ahead(cx);
            let asked = self.asked.front_mut().expect("something was asked");
            let answer = ready!(Pin::new(&mut asked.response).poll(cx));
            let (waited, ahead) = (asked.waits, asked.ahead);
            self.asked.pop_front();
            if ahead.is_some_and(|removals| removals != self.log.access().helm.removals()) {
                // It may have been truncated since it was answered, and that be known here.
                self.asked.clear();
                continue;
            }
            let mut answer = answer.inspect_err(|_| self.asked.clear())?;
            self.unpack(&mut answer.sections)?;
            // A position beyond the end stays what it is until a record is there.
            let resolved = !answer.sections.is_empty() || !matches!(self.at, At::Dlsn(_));
            if resolved {
                self.at = At::Sequence(answer.next);
            }
            if self.asked.front().is_some_and(|asked| asked.at != self.at) {
                // The answer ended before damage, or was none.
                self.asked.clear();
            }
            if answer.sections.is_empty() && wait && !waited {
                continue;
            }
            self.in_sequence |= !answer.sections.is_empty();
            return Poll::Ready(Ok(Records::new(self.log.id(), answer)));
        }
    }

    /// Compressed records are made what they were, in the client's thread.
    fn unpack(&self, sections: &mut [SectionBytes]) -> Result<(), ReadError> {
        for section in sections.iter_mut().filter(|section| section.codec != Codec::None) {
            let raw = section.codec.unpack(&section.bytes, section.raw_len);
            let Some(raw) = raw.filter(|raw| is_whole(raw, section.count)) else {
                let log = self.log.id();
                let dlsn = Dlsn::new(section.segment, section.entry, 0);
                let damage = Damaged {
                    shard: self.log.shard(),
                    segment: section.segment,
                    offset: 0,
                    what: "a compressed section is not what its row says",
                    at_risk: format!(
                        "{} {}",
                        section.count,
                        records_from(log, section.first, dlsn)
                    ),
                };
                return Err(ReadError::Damaged { log, damage });
            };
            (section.bytes, section.codec) = (raw, Codec::None);
        }
        Ok(())
    }

    fn ask(&mut self, at: At, wait: bool, ahead: bool) {
        let removals = ahead.then(|| self.log.access().helm.removals());
        let (reply, pending) = reply::pair();
        let (told, planned) = reply::pair();
        let read = ReadRequest {
            log: self.log.id(),
            at,
            bytes_max: self.bytes_max,
            wait,
            ahead,
            planned: Some(told),
            reply,
        };
        let response = Response::send(self.log.access(), Request::Read(read), pending);
        self.asked.push_back(Asked {
            at,
            waits: wait,
            ahead: removals,
            response,
            planned: Some(planned),
        });
    }

    fn ask_ahead(&mut self, cx: &mut Context<'_>) {
        let max = (self.ahead_max / self.bytes_max.max(1)) as usize;
        while self.in_sequence && self.asked.len() < max.min(READS_AHEAD) {
            let last = self.asked.back_mut();
            let Some(planned) = last.and_then(|last| last.planned.as_mut()) else { return };
            let Poll::Ready(planned) = Pin::new(planned).poll(cx) else { return };
            self.asked.back_mut().expect("it was just there").planned = None;
            // An error means that there is nothing to know: it was in memory.
            let Ok(Planned { next, more: true }) = planned else { return };
            self.ask(At::Sequence(next), false, true);
        }
    }
}

/// Reads a log from some position on, and waits at its end for what comes.
///
/// From the second batch on it asks for what follows before that is wanted: up to eight batches,
/// about 8 MiB (or one batch, where that is more), are under way or in memory.
///
/// ```
/// use oncelog::{From, Options};
/// # let dir = tempfile::tempdir()?;
/// let engine = Options::new(dir.path()).shards(1).segment_size(1 << 20).open()?;
/// let log = engine.create_log("orders").wait()?;
/// log.append("first").wait()?;
/// log.append("second").wait()?;
///
/// let mut reader = log.reader(From::Earliest);
/// let records: Vec<_> = reader.next().wait()?.collect();
/// assert_eq!(records[1].payload, "second");
/// assert_eq!(records[1].sequence.get(), 1);
/// assert!(reader.try_next().wait()?.is_none(), "that was all; next() would wait");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Reader {
    fetch: Fetch,
    records_max: u64,
    left: Option<Records>,
}

impl Reader {
    pub(crate) fn new(log: Log, at: At) -> Self {
        Self { fetch: Fetch::new(log, at), records_max: u64::MAX, left: None }
    }

    /// Batches hold at most about so many bytes, or one section (the records of this log in one
    /// group commit) if that is larger. Default: 1 MiB, at most 16 MiB.
    #[must_use]
    pub fn max_bytes(mut self, bytes: u32) -> Self {
        self.fetch.bytes_max = bytes.clamp(1, READ_SIZE_MAX);
        self
    }

    /// Batches hold at most so many records. Default: no limit.
    #[must_use]
    pub fn max_records(mut self, records: u64) -> Self {
        self.records_max = records.max(1);
        self
    }

    /// The next records, at least one: waits until there is one.
    ///
    /// Dropped before it is ready, no record is lost: the next call gives them.
    ///
    /// The result is an error if records were truncated, damaged, or the log was dropped; the
    /// position stays.
    #[expect(clippy::should_implement_trait, reason = "the word of async streams; it can fail")]
    pub fn next(&mut self) -> Operation<'_, Result<Records, ReadError>> {
        Operation::new(poll_fn(|cx| self.poll(true, cx)))
    }

    /// The next records, or `None` if there are none now.
    pub fn try_next(&mut self) -> Operation<'_, Result<Option<Records>, ReadError>> {
        Operation::new(poll_fn(|cx| {
            let records = ready!(self.poll(false, cx))?;
            Poll::Ready(Ok((records.len() > 0).then_some(records)))
        }))
    }

    fn poll(&mut self, wait: bool, cx: &mut Context<'_>) -> Poll<Result<Records, ReadError>> {
        let mut records = match self.left.take() {
            Some(left) => left,
            None => ready!(self.fetch.poll(wait, cx))?,
        };
        if records.len() as u64 <= self.records_max {
            return Poll::Ready(Ok(records));
        }
        let first = records.take_first(self.records_max);
        self.left = Some(records).filter(|left| left.len() > 0);
        Poll::Ready(Ok(first))
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("at", &self.fetch.at).finish_non_exhaustive()
    }
}
