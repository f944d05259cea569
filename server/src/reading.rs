//! Reading: batches for `READ`, and records as they come for `FOLLOW`.
//!
//! A connection that reads a log in steps goes on with the reader of the step before ([`Kept`]):
//! what that one has read ahead is not read again.
//!
//! Not here: the bounds of what is not sent yet (`connection`).

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use oncelog::{From, ReadError, Reader, Record, Records, Sequence};
use tokio::sync::Notify;

use crate::error::Refusal;
use crate::reply::Reply;

/// A reader that stands where the last `READ` of a connection ended.
pub(crate) struct Kept {
    log: String,
    next: Sequence,
    generation: u64,
    reader: Reader,
}

impl Kept {
    /// A reader to go on with, of a log that was looked up in a generation of names.
    pub(crate) fn new(log: String, reader: Reader, generation: u64) -> Option<Self> {
        let next = reader.position()?;
        Some(Self { log, next, generation, reader })
    }

    /// The one that is kept, if it stands right there.
    pub(crate) fn take(
        kept: &RefCell<Option<Self>>,
        log: &str,
        from: From,
        generation: u64,
    ) -> Option<Reader> {
        let kept = kept.borrow_mut().take()?;
        let is_it = kept.log == log && kept.generation == generation;
        (is_it && from == From::Sequence(kept.next)).then_some(kept.reader)
    }
}

/// Nobody will wait any more for what may never come: the peer has ended its side, or the server
/// stops.
#[derive(Debug, Default)]
pub(crate) struct Cut {
    is: Cell<bool>,
    notify: Notify,
}

impl Cut {
    /// From now on.
    pub(crate) fn cut(&self) {
        self.is.set(true);
        self.notify.notify_waiters();
    }

    async fn wait(&self) {
        while !self.is.get() {
            self.notify.notified().await;
        }
    }
}

/// Records up to a count and about so many bytes; none if there are none, also after waiting
/// (P-16).
///
/// What is damaged or truncated is an error only if no record comes before it: the next read, which
/// begins there, tells it.
pub(crate) async fn read(
    mut reader: Reader,
    (count, bytes): (u64, u32),
    block_ms: Option<u64>,
    (blocked, cut): (&Cell<bool>, &Cut),
) -> Result<(Reader, Vec<Record>), Refusal> {
    let (mut records, mut size) = (Vec::new(), 0);
    while (records.len() as u64) < count && size < bytes as usize {
        // What a batch holds is handed out whole: never ask for more than there is room for.
        reader = reader.max_records(count - records.len() as u64);
        match reader.try_next().await {
            Ok(Some(more)) => {
                records.extend(more.inspect(|record: &Record| size += record.payload.len()));
            }
            Ok(None) => break,
            Err(_) if !records.is_empty() => break,
            Err(error) => return Err(error.into()),
        }
    }
    if records.is_empty()
        && let Some(wait) = block_ms
    {
        blocked.set(true);
        let wait = match wait {
            0 => Duration::MAX,
            ms => Duration::from_millis(ms),
        };
        let more = tokio::select! {
            biased;
            () = cut.wait() => None,
            more = tokio::time::timeout(wait, reader.next()) => more.ok(),
        };
        blocked.set(false);
        records.extend(more.transpose()?.into_iter().flatten());
    }
    Ok((reader, records))
}

/// A record as a reply.
pub(crate) fn record(record: &Record, dlsn: bool) -> Reply {
    let mut fields = Vec::with_capacity(5);
    fields.push(Reply::Number(record.sequence.get()));
    fields.push(Reply::Number(record.txid.get()));
    fields.push(Reply::Number(record.time_us));
    fields.push(Reply::Bulk(record.payload.clone()));
    if dlsn {
        fields.push(Reply::text(record.dlsn.to_string()));
    }
    Reply::Array(fields)
}

/// Bytes that are read ahead for the next `READ` or push: many connections may do so.
pub(crate) const AHEAD: u32 = 2 << 20;

/// Bytes that a record takes beside its payload while it becomes a reply, about.
pub(crate) const RECORD_COST: usize = 512;

type Next = Pin<Box<dyn Future<Output = (Reader, Result<Records, ReadError>)>>>;

enum State {
    Idle(Box<Reader>),
    Asked(Next),
    Ended,
}

/// A log that a connection follows.
pub(crate) struct Following {
    pub(crate) log: String,
    dlsn: bool,
    state: State,
}

impl Following {
    pub(crate) fn new(log: String, reader: Reader, dlsn: bool) -> Self {
        Self { log, dlsn, state: State::Idle(Box::new(reader)) }
    }

    /// The next push, or why there will be none any more.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Vec<Reply>, Refusal>> {
        if let State::Idle(_) = self.state {
            let State::Idle(mut reader) = std::mem::replace(&mut self.state, State::Ended) else {
                unreachable!("it was just looked at")
            };
            self.state = State::Asked(Box::pin(async move {
                let records = reader.next().await;
                (*reader, records)
            }));
        }
        let State::Asked(next) = &mut self.state else { return Poll::Pending };
        let (reader, records) = std::task::ready!(next.as_mut().poll(cx));
        self.state = State::Ended;
        let records = records?;
        self.state = State::Idle(Box::new(reader));
        let records = records.map(|one| record(&one, self.dlsn)).collect();
        let name = Reply::text(self.log.clone());
        Poll::Ready(Ok(vec![Reply::word("records"), name, Reply::Array(records)]))
    }
}
