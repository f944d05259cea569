//! A log as a stream of bytes.
//!
//! ```text
//! bytes -> chunk -> record, txid = offset behind its last byte -> log
//! offset -> first record with a higher txid -> skip in it -> bytes
//! ```
//!
//! Invariants: one append is under way at a time, so a chunk that is refused is never followed by a
//! later one; a reader checks that each record begins where the one before it ended.
//!
//! Not here: how records are found and waited for (`fetch`).

use std::future::{Future, poll_fn};
use std::io::{self, ErrorKind, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use futures_io::{AsyncRead, AsyncWrite};

use crate::error::{AppendError, ReadError};
use crate::fetch::Fetch;
use crate::limits::{MIB, entry_size_max, record_size_max};
use crate::log::Log;
use crate::position::{Sequence, TxId};
use crate::records::{Record, Records};
use crate::reply::block_on;
use crate::request::{Appended, At, NewRecord, Wait};
use crate::response::Response;
use crate::writer::ExclusiveWriter;

/// Writes a stream of bytes into a log: [`std::io::Write`] and [`futures_io::AsyncWrite`].
///
/// `flush` (and `close`) return once every byte written before is durable; bytes that were not
/// flushed when the writer is dropped may be lost, from some byte on. An error is final: nothing
/// was written behind the last durable byte, and each later call gives it again; open another
/// writer, which goes on at the end.
///
/// It owns the log, as an [`ExclusiveWriter`] does: whoever opens the next one fences it, so two of
/// them never mix their bytes. The log should hold nothing else. The transaction id of each record
/// is the offset behind its last byte.
///
/// ```
/// use std::io::{Read, Write};
/// # use oncelog::Options;
/// # let dir = tempfile::tempdir()?;
/// # let engine = Options::new(dir.path()).shards(1).segment_size(1 << 20).open()?;
/// let log = engine.create_log("journal").wait()?;
/// let mut writer = log.byte_writer().wait()?;
/// writeln!(writer, "hello")?;
/// writer.flush()?; // durable from here on
///
/// let mut text = String::new();
/// log.byte_reader(2).until_end().read_to_string(&mut text)?;
/// assert_eq!(text, "llo\n");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct ByteWriter {
    owner: ExclusiveWriter,
    chunk_max: usize,
    /// Bytes that no record holds yet.
    chunk: BytesMut,
    /// Offset behind them.
    offset: u64,
    pending: Option<Response<Appended, AppendError>>,
    failed: Option<AppendError>,
}

impl ByteWriter {
    pub(crate) fn new(owner: ExclusiveWriter, offset: u64) -> Self {
        let entry_max = entry_size_max(owner.log().segment_size());
        let chunk_max = record_size_max(entry_max).min(MIB) as usize;
        Self { owner, chunk_max, chunk: BytesMut::new(), offset, pending: None, failed: None }
    }

    /// The offset behind the last byte that was written, durable or not.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Makes everything durable and ends the stream: readers get every byte and then the end.
    ///
    /// # Errors
    /// As `flush`, or the log could not be sealed; everything flushed is durable.
    pub fn seal(&mut self) -> io::Result<()> {
        self.flush()?;
        self.owner.seal().wait().map(drop).map_err(io::Error::other)
    }

    /// Until no append is under way.
    fn poll_pending(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(pending) = &mut self.pending {
            let appended = ready!(Pin::new(pending).poll(cx));
            self.pending = None;
            self.failed = appended.err();
        }
        Poll::Ready(match &self.failed {
            None => Ok(()),
            Some(AppendError::NoSpace(error)) => {
                Err(io::Error::new(ErrorKind::StorageFull, *error))
            }
            Some(error) => Err(io::Error::other(error.clone())),
        })
    }

    /// Nothing is under way.
    fn send(&mut self) {
        let record = NewRecord::new(self.chunk.split().freeze()).with_txid(TxId(self.offset));
        self.pending = Some(self.owner.append(record));
    }

    fn poll_bytes(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.failed.is_some() || self.chunk.len() == self.chunk_max {
            ready!(self.poll_pending(cx))?;
            self.send();
        }
        let len = bytes.len().min(self.chunk_max - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..len]);
        self.offset = self.offset.checked_add(len as u64).expect("less than 2^64 bytes");
        if self.chunk.len() == self.chunk_max && self.pending.is_none() {
            self.send();
        }
        Poll::Ready(Ok(len))
    }

    fn poll_durable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_pending(cx))?;
            if self.chunk.is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.send();
        }
    }
}

impl Write for ByteWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        block_on(poll_fn(|cx| self.poll_bytes(cx, bytes)))
    }

    fn flush(&mut self) -> io::Result<()> {
        block_on(poll_fn(|cx| self.poll_durable(cx)))
    }
}

impl AsyncWrite for ByteWriter {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_bytes(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_durable(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_durable(cx)
    }
}

/// Reads a stream of bytes from a log: [`std::io::Read`] and [`futures_io::AsyncRead`].
///
/// At the end it waits for more, unless the log is sealed or [`until_end`](Self::until_end) was
/// called. Errors are [`ReadError`] inside, or of kind `InvalidData` where the log holds something
/// else than one stream of bytes; the offset stays. For an example see [`ByteWriter`].
pub struct ByteReader {
    fetch: Fetch,
    offset: u64,
    /// The record that the next byte is in, and the byte before it, are known to fit.
    begun: bool,
    records: Option<Records>,
    /// The record whose bytes are next.
    next: Option<Record>,
    chunk: Bytes,
}

impl ByteReader {
    pub(crate) fn new(log: Log, offset: u64) -> Self {
        let mut fetch = Fetch::new(log, At::TxId(TxId(offset.saturating_add(1))));
        // Whether the first record that is there holds the byte says the record.
        fetch.or_earliest = true;
        let chunk = Bytes::new();
        Self { fetch, offset, begun: false, records: None, next: None, chunk }
    }

    /// It ends where there is no byte now. Read again, it gives the bytes that came meanwhile.
    #[must_use]
    pub fn until_end(mut self) -> Self {
        self.fetch.set_wait(Wait::No);
        self
    }

    /// The offset of the next byte.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Takes the bytes of a record.
    fn take(&mut self, record: &Record) -> io::Result<Bytes> {
        let (end, len) = (record.txid.get(), record.payload.len() as u64);
        let begin = end.checked_sub(len).filter(|_| self.offset <= end);
        match begin {
            Some(begin) if begin == self.offset || begin < self.offset && !self.begun => {
                self.begun = true;
                let skip = usize::try_from(self.offset - begin).expect("it is in memory");
                Ok(record.payload.slice(skip..))
            }
            Some(_) if !self.begun && record.sequence > Sequence::FIRST => {
                Err(io::Error::other(ReadError::Truncated { first: record.sequence }))
            }
            _ => {
                let (log, sequence, offset) = (self.fetch.log(), record.sequence, self.offset);
                let why = format!(
                    "log {:?} holds something else than one stream of bytes: record {sequence} is \
                     {len} bytes up to offset {end}, but the stream goes on at {offset}; write it \
                     with one ByteWriter at a time",
                    log.name()
                );
                Err(io::Error::new(ErrorKind::InvalidData, why))
            }
        }
    }

    fn poll_bytes(&mut self, cx: &mut Context<'_>, bytes: &mut [u8]) -> Poll<io::Result<usize>> {
        while self.chunk.is_empty() && !bytes.is_empty() {
            let next = self.next.take().or_else(|| self.records.as_mut().and_then(Iterator::next));
            if let Some(record) = next {
                // Not taken, it is the next one again.
                self.chunk =
                    self.take(&record).inspect_err(|_| self.next = Some(record.clone()))?;
                continue;
            }
            let fetched = match ready!(self.fetch.poll(cx)) {
                Err(ReadError::End { .. }) => return Poll::Ready(Ok(0)),
                fetched => fetched.map_err(io::Error::other)?,
            };
            if fetched.records.len() == 0 {
                return Poll::Ready(Ok(0));
            }
            self.records = Some(fetched.records);
        }
        let len = bytes.len().min(self.chunk.len());
        self.chunk.copy_to_slice(&mut bytes[..len]);
        self.offset += len as u64;
        Poll::Ready(Ok(len))
    }
}

impl Read for ByteReader {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        block_on(poll_fn(|cx| self.poll_bytes(cx, bytes)))
    }
}

impl AsyncRead for ByteReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_bytes(cx, bytes)
    }
}

impl std::fmt::Debug for ByteReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ByteReader").field("offset", &self.offset).finish_non_exhaustive()
    }
}
