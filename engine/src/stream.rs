//! Readers as streams, and as iterators that block.
//!
//! ```text
//! RecordStream -> BatchStream -> Reader       BlockingRecords -> Reader
//! ```
//!
//! Both end behind the last record of a sealed log, and behind an error: whoever goes on after one
//! makes a new reader where the last record stood.
//!
//! Not here: what a reader does (`reader`).

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::Stream;

use crate::error::ReadError;
use crate::reader::Reader;
use crate::records::{Record, Records};

type Next = Pin<Box<dyn Future<Output = (Reader, Result<Records, ReadError>)> + Send>>;

enum State {
    Idle(Box<Reader>),
    Asked(Next),
    Ended,
}

/// See [`Reader::batches`].
#[must_use = "a stream does nothing unless it is polled"]
pub struct BatchStream(State);

impl BatchStream {
    pub(crate) fn new(reader: Reader) -> Self {
        Self(State::Idle(Box::new(reader)))
    }
}

impl Stream for BatchStream {
    type Item = Result<Records, ReadError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let State::Idle(_) = self.0 {
            let State::Idle(mut reader) = std::mem::replace(&mut self.0, State::Ended) else {
                unreachable!("it was just looked at")
            };
            self.0 = State::Asked(Box::pin(async move {
                let batch = reader.next_batch().await;
                (*reader, batch)
            }));
        }
        let State::Asked(next) = &mut self.0 else { return Poll::Ready(None) };
        let (reader, batch) = ready!(next.as_mut().poll(cx));
        self.0 = match batch {
            Ok(_) => State::Idle(Box::new(reader)),
            Err(_) => State::Ended,
        };
        Poll::Ready(match batch {
            Err(ReadError::End { .. }) => None,
            batch => Some(batch),
        })
    }
}

impl std::fmt::Debug for BatchStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BatchStream")
    }
}

/// See [`Reader::stream`].
#[derive(Debug)]
#[must_use = "a stream does nothing unless it is polled"]
pub struct RecordStream {
    batches: BatchStream,
    records: Option<Records>,
}

impl RecordStream {
    pub(crate) fn new(batches: BatchStream) -> Self {
        Self { batches, records: None }
    }
}

impl Stream for RecordStream {
    type Item = Result<Record, ReadError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(record) = self.records.as_mut().and_then(Iterator::next) {
                return Poll::Ready(Some(Ok(record)));
            }
            match ready!(Pin::new(&mut self.batches).poll_next(cx)) {
                None => return Poll::Ready(None),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(records)) => self.records = Some(records),
            }
        }
    }
}

/// See [`Reader::iter_blocking`]. Records that were not taken from it stay with the reader.
#[derive(Debug)]
pub struct BlockingRecords<'a> {
    reader: &'a mut Reader,
    records: Option<Records>,
    until_end: bool,
    ended: bool,
}

impl<'a> BlockingRecords<'a> {
    pub(crate) fn new(reader: &'a mut Reader) -> Self {
        Self { reader, records: None, until_end: false, ended: false }
    }

    /// It ends where there is no record now, instead of waiting for one.
    #[must_use]
    pub fn until_end(mut self) -> Self {
        self.until_end = true;
        self
    }
}

impl Iterator for BlockingRecords<'_> {
    type Item = Result<Record, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(record) = self.records.as_mut().and_then(Iterator::next) {
            return Some(Ok(record));
        }
        if self.ended {
            return None;
        }
        let batch = match self.until_end {
            true => self.reader.try_next().wait(),
            false => self.reader.next().wait().map(Some),
        };
        match batch {
            Ok(Some(records)) if records.len() > 0 => {
                self.records = Some(records);
                self.next()
            }
            Ok(_) | Err(ReadError::End { .. }) => {
                self.ended = true;
                None
            }
            Err(error) => {
                self.ended = true;
                Some(Err(error))
            }
        }
    }
}

impl Drop for BlockingRecords<'_> {
    fn drop(&mut self) {
        if let Some(records) = self.records.take() {
            self.reader.give_back(records);
        }
    }
}
