//! A log's handle, and batches over several logs of a group.
//!
//! Handles are cheap to clone, and may be used from any thread. Appends of one thread to the logs
//! of one group are carried out in the order of its calls.
//!
//! Not here: reading (`reader`).

use std::sync::Arc;

use crate::bytes_io::{ByteReader, ByteWriter};
use crate::change::{Author, Change, WriterInfo};
use crate::engine::Inner;
use crate::error::{AppendError, LogError, ReadError, Stopped};
use crate::format::options::LogOptions;
use crate::helm::Access;
use crate::name::{check_name, group_of};
use crate::position::{Dlsn, LogId, Sequence, ShardId, TxId};
use crate::reader::Reader;
use crate::records::Record;
use crate::reply::{self, Reply};
use crate::request::{Appended, At, LogInfo, NewRecord, OpenMode, Part, Request};
use crate::response::{Operation, Response};
use crate::space::LogSegment;
use crate::writer::{ExclusiveWriter, ExclusiveWriterOptions, WriterOptions};

/// Where to read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// The first record that is there.
    Earliest,
    /// Behind the last durable record: only what comes from now on.
    Latest,
    /// This record. Beyond the end: the first one at or after it, once it is there.
    Sequence(Sequence),
    /// The first record at this position or after it.
    Dlsn(Dlsn),
    /// The first record with this transaction id or a higher one. Beyond the last one: the first
    /// such record, once it is there, whatever comes before it.
    TxId(TxId),
    /// The first record committed at this time or later, microseconds since 1970. A time to come:
    /// the first record from then on.
    ///
    /// ```
    /// # use oncelog::{From, Options};
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Options::new(dir.path()).shards(1).segment_size(1 << 20).open()?;
    /// # let log = engine.create_log("orders").wait()?;
    /// let hour_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    /// let hour_ago = hour_ago.duration_since(std::time::UNIX_EPOCH)?.as_micros();
    /// log.append("new").wait()?;
    /// let mut reader = log.reader(From::Time(u64::try_from(hour_ago)?));
    /// assert_eq!(reader.next().wait()?.len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    Time(u64),
}

impl From {
    pub(crate) fn at(self) -> At {
        match self {
            Self::Earliest => At::Earliest,
            Self::Latest => At::Latest,
            Self::Sequence(sequence) => At::Sequence(sequence),
            Self::Dlsn(dlsn) => At::Dlsn(dlsn),
            Self::TxId(txid) => At::TxId(txid),
            Self::Time(time_us) => At::Time(time_us),
        }
    }
}

/// A log: a named, ordered sequence of records.
///
/// ```
/// use oncelog::{NewRecord, Options, TxId};
/// # let dir = tempfile::tempdir()?;
/// let engine = Options::new(dir.path()).shards(1).segment_size(1 << 20).open()?;
/// let log = engine.create_log("payments/orders").wait()?;
///
/// // The answer means durable: on stable storage, and visible to readers.
/// let first = log.append("one order").wait()?;
/// assert_eq!(first.first.get(), 0);
///
/// // Many in flight share entries, and so syncs.
/// let pending: Vec<_> = (0..100).map(|n| log.append(format!("order {n}"))).collect();
/// for append in pending {
///     append.wait()?;
/// }
///
/// // A batch is whole or not there at all.
/// let batch = log.append_batch([NewRecord::new("a").with_txid(TxId::new(7)), "b".into()]).wait()?;
/// assert_eq!((batch.first.get(), batch.count), (101, 2));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Log {
    inner: Arc<Inner>,
    shard: ShardId,
    id: LogId,
    name: Arc<str>,
}

impl Log {
    pub(crate) fn new(inner: Arc<Inner>, shard: ShardId, info: &LogInfo) -> Self {
        Self { inner, shard, id: info.id, name: info.name.as_str().into() }
    }

    pub(crate) fn access(&self) -> &Access {
        self.inner.access(self.shard)
    }

    pub(crate) fn is_of(&self, inner: &Arc<Inner>) -> bool {
        Arc::ptr_eq(&self.inner, inner)
    }

    pub(crate) fn segment_size(&self) -> u64 {
        self.inner.segment_size()
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The part of its name before the first `/`: what batches and processors are atomic in.
    #[must_use]
    pub fn group(&self) -> &str {
        group_of(&self.name)
    }

    /// Its number, unique in its shard.
    #[must_use]
    pub fn id(&self) -> LogId {
        self.id
    }

    /// The shard that it is placed on.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// Appends one record. The answer means durable and visible.
    pub fn append(&self, record: impl Into<NewRecord>) -> Response<Appended, AppendError> {
        let (reply, pending) = reply::pair();
        let (log, author) = (self.id, Author::Anyone);
        let request = Request::Append { log, author, record: record.into(), reply };
        Response::send(self.access(), request, pending)
    }

    /// As [`append`](Self::append), but an error at once if the shard's inbox is full.
    ///
    /// # Errors
    /// [`AppendError::Busy`]; nothing was written.
    pub fn try_append(
        &self,
        record: impl Into<NewRecord>,
    ) -> Result<Response<Appended, AppendError>, AppendError> {
        let (reply, pending) = reply::pair();
        let (log, author) = (self.id, Author::Anyone);
        let request = Request::Append { log, author, record: record.into(), reply };
        match self.access().inbox.try_push(request.size(), request) {
            Ok(()) => Ok(Response::send_all(self.access(), [], pending)),
            Err(_) => {
                self.access().helm.note_busy();
                Err(AppendError::Busy { waiting: self.access().inbox.bytes() })
            }
        }
    }

    /// Appends records: all of them, next to each other, or none. An empty batch succeeds and
    /// writes nothing.
    pub fn append_batch<R: Into<NewRecord>>(
        &self,
        records: impl IntoIterator<Item = R>,
    ) -> AppendBatch {
        let records = records.into_iter().map(Into::into).collect();
        let parts = vec![Part { log: self.id, author: Author::Anyone, records }];
        AppendBatch::new(send_batch(self.access(), parts))
    }

    /// Appends records, each of them for itself: as many calls of [`append`](Self::append) at the
    /// price of one. Those that are right stand next to each other; the answer says of each where
    /// it stands, or why it was refused. Together they are at most as large as a batch.
    pub fn append_each<R: Into<NewRecord>>(
        &self,
        records: impl IntoIterator<Item = R>,
    ) -> Response<Vec<Result<Sequence, AppendError>>, AppendError> {
        let (reply, pending) = reply::pair();
        let records = records.into_iter().map(Into::into).collect();
        let part = Part { log: self.id, author: Author::Anyone, records };
        let request = Request::AppendEach { part, reply };
        Response::send(self.access(), request, pending)
    }

    /// Reads from a position on. Nothing is read before the first call of
    /// [`next`](Reader::next).
    #[must_use]
    pub fn reader(&self, from: From) -> Reader {
        Reader::new(self.clone(), from.at())
    }

    /// What the log is now: first and next sequence, last transaction id.
    pub fn describe(&self) -> Response<LogInfo, LogError> {
        let (reply, pending) = reply::pair();
        Response::send(self.access(), Request::DescribeLog { log: self.id, reply }, pending)
    }

    /// The log's live records, segment by segment, oldest first: parts that can be read apart from
    /// each other, by a reader from `first` up to `next`. Those of sealed segments only shrink.
    pub fn segments(&self) -> Response<Vec<LogSegment>, LogError> {
        let (reply, pending) = reply::pair();
        let request = Request::LogSegments { log: self.id, reply };
        Response::send(self.access(), request, pending)
    }

    /// Drops the records before `before`: none of them is ever read again, and their space is used
    /// again once no other log or processor needs their segment. Again or lower: changes nothing.
    ///
    /// Refused beyond the log's end, and beyond the position of a processor that reads it.
    pub fn truncate(&self, before: Sequence) -> Response<(), LogError> {
        let (reply, pending) = reply::pair();
        let request = Request::Truncate { log: self.id, before, reply };
        Response::send(self.access(), request, pending)
    }

    /// Ends the log, durably: nothing is appended to it any more, and readers get every record and
    /// then the end. Twice is fine. Answers with its end.
    pub fn seal(&self) -> Response<Sequence, LogError> {
        self.seal_as(Author::Anyone)
    }

    pub(crate) fn seal_as(&self, author: Author) -> Response<Sequence, LogError> {
        self.change(|log, reply| Change::SealLog { log, author, reply })
    }

    /// Replaces its options, durably.
    pub fn set_options(&self, options: LogOptions) -> Response<LogInfo, LogError> {
        let options = Arc::new(options);
        self.change(|log, reply| Change::SetOptions { log, options, replaces: None, reply })
    }

    /// Replaces its options if they are still those of this version ([`LogInfo::options_version`]).
    pub fn replace_options(
        &self,
        version: u32,
        options: LogOptions,
    ) -> Response<LogInfo, LogError> {
        let (options, replaces) = (Arc::new(options), Some(version));
        self.change(|log, reply| Change::SetOptions { log, options, replaces, reply })
    }

    /// Gives it another name in its group. This handle and readers go on; `name()` stays what it
    /// was for this handle.
    pub fn rename(&self, name: impl Into<String>) -> Operation<'_, Result<Log, LogError>> {
        let name = name.into();
        Operation::new(async move {
            check_name(&name)?;
            let renamed = self.change(|log, reply| Change::RenameLog { log, name, reply });
            Ok(Self::new(Arc::clone(&self.inner), self.shard, &renamed.await?))
        })
    }

    /// An idempotent writer of this name, to be opened.
    pub fn writer(&self, name: impl Into<String>) -> WriterOptions {
        WriterOptions::new(self.clone(), name.into())
    }

    /// The only one who may append from then on, to be opened.
    pub fn exclusive_writer(&self) -> ExclusiveWriterOptions {
        ExclusiveWriterOptions::new(self.clone())
    }

    /// Takes the log from its owner, whoever that is: everyone may append again.
    pub fn share(&self) -> Response<(), LogError> {
        self.change(|log, reply| Change::ShareLog { log, reply })
    }

    /// Its idempotent writers, in the order of their names.
    pub fn list_writers(&self) -> Response<Vec<WriterInfo>, LogError> {
        self.change(|log, reply| Change::ListWriters { log, reply })
    }

    /// Forgets an idempotent writer: its owner is fenced, and its numbers begin anew.
    pub fn forget_writer(&self, name: impl Into<String>) -> Response<(), LogError> {
        let name = name.into();
        self.change(|log, reply| Change::ForgetWriter { log, name, reply })
    }

    pub(crate) fn change<T, E>(
        &self,
        change: impl FnOnce(LogId, Reply<T, E>) -> Change,
    ) -> Response<T, E>
    where
        E: std::convert::From<Stopped>,
    {
        let (reply, pending) = reply::pair();
        let request = Request::Change(Box::new(change(self.id, reply)));
        Response::send(self.access(), request, pending)
    }

    /// The first record that is there.
    ///
    /// # Errors
    /// [`ReadError`]
    pub fn first(&self) -> Operation<'_, Result<Option<Record>, ReadError>> {
        let mut reader = self.reader(From::Earliest).max_records(1).max_bytes(1);
        Operation::new(async move { one_of(&mut reader).await })
    }

    /// The last record, durable as all that is read; `None` if none is there.
    ///
    /// # Errors
    /// [`ReadError`]
    pub fn last(&self) -> Operation<'_, Result<Option<Record>, ReadError>> {
        Operation::new(async move {
            loop {
                let info = match self.describe().await {
                    Err(LogError::Stopped(stopped)) => return Err(stopped.into()),
                    info => info.map_err(|_| ReadError::Dropped)?,
                };
                if info.is_empty() {
                    return Ok(None);
                }
                match self.get(Sequence(info.next.0 - 1)).await {
                    // It was there a moment ago.
                    Err(ReadError::Truncated { .. }) => {}
                    record => return record,
                }
            }
        })
    }

    /// The sequence of the first record that a reader [`From`] there has: at the end, the sequence
    /// that the next record gets. `None` where that depends on records to come: beyond the end by
    /// transaction id, time or [`Dlsn`].
    ///
    /// ```
    /// # use oncelog::{From, NewRecord, Options, TxId};
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Options::new(dir.path()).shards(1).segment_size(1 << 20).open()?;
    /// # let log = engine.create_log("orders").wait()?;
    /// let records = [10, 20, 30].map(|id| NewRecord::new("order").with_txid(TxId::new(id)));
    /// log.append_batch(records).wait()?;
    /// let at = |id| log.find(From::TxId(TxId::new(id))).wait();
    /// assert_eq!(at(20)?.unwrap().get(), 1);
    /// assert_eq!(at(21)?.unwrap().get(), 2);
    /// assert_eq!(at(31)?, None);
    /// assert_eq!(log.find(From::Latest).wait()?.unwrap().get(), 3);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`ReadError`]
    pub fn find(&self, from: From) -> Operation<'_, Result<Option<Sequence>, ReadError>> {
        let mut reader = self.reader(from).max_records(1).max_bytes(1);
        Operation::new(async move {
            let found = one_of(&mut reader).await?;
            Ok(found.map(|record| record.sequence).or_else(|| reader.position()))
        })
    }

    /// A stream of bytes into this log, which goes on where it ended; it owns the log from then on:
    /// see [`ByteWriter`].
    ///
    /// # Errors
    /// [`LogError`]
    pub fn byte_writer(&self) -> Operation<'_, Result<ByteWriter, LogError>> {
        Operation::new(async move {
            // From here on nobody else moves the end.
            let owner = self.exclusive_writer().open().await?;
            let end = self.describe().await?.last_txid;
            Ok(ByteWriter::new(owner, end.get()))
        })
    }

    /// The stream of bytes that a [`ByteWriter`] wrote, from the byte `offset` on.
    #[must_use]
    pub fn byte_reader(&self, offset: u64) -> ByteReader {
        ByteReader::new(self.clone(), offset)
    }

    /// How many records stand from `position` to the end: what a reader whose next record that is
    /// still has before it. See [`Reader::position`].
    ///
    /// # Errors
    /// [`LogError`]
    pub fn lag(&self, position: Sequence) -> Operation<'_, Result<u64, LogError>> {
        Operation::new(async move { Ok(self.describe().await?.lag(position)) })
    }

    /// Reads the record at `sequence`, if it is there.
    ///
    /// # Errors
    /// [`ReadError`]
    pub fn get(&self, sequence: Sequence) -> Operation<'_, Result<Option<Record>, ReadError>> {
        let mut reader = self.reader(From::Sequence(sequence)).max_records(1).max_bytes(1);
        Operation::new(async move { one_of(&mut reader).await })
    }
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (name, id) = (&self.name, self.id.get());
        f.debug_struct("Log").field("name", name).field("id", &id).finish_non_exhaustive()
    }
}

/// A log that is being opened or made: the request is on its way as soon as the call returns, so
/// many at once share syncs.
#[must_use = "the request is under way, but only its answer says what became of it"]
pub struct OpenLog {
    inner: Arc<Inner>,
    shard: ShardId,
    response: Response<LogInfo, LogError>,
}

impl OpenLog {
    pub(crate) fn send(
        inner: &Arc<Inner>,
        name: String,
        mode: OpenMode,
        options: Option<LogOptions>,
    ) -> Self {
        let shard = inner.shard_of(group_of(&name));
        let response = match check_name(&name) {
            Err(error) => Response::ready(Err(error.into())),
            Ok(()) => {
                let (reply, pending) = reply::pair();
                let options = options.map(Arc::new);
                let request = Request::OpenLog { name, mode, options, reply };
                Response::send(inner.access(shard), request, pending)
            }
        };
        Self { inner: Arc::clone(inner), shard, response }
    }

    /// Blocks this thread until it is there, durably.
    ///
    /// # Errors
    /// [`LogError`]
    pub fn wait(self) -> Result<Log, LogError> {
        reply::block_on(self)
    }
}

impl std::future::Future for OpenLog {
    type Output = Result<Log, LogError>;

    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Self::Output> {
        let answer = std::task::ready!(std::pin::Pin::new(&mut self.response).poll(cx));
        let log = answer.map(|info| Log::new(Arc::clone(&self.inner), self.shard, &info));
        std::task::Poll::Ready(log)
    }
}

impl std::fmt::Debug for OpenLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenLog").field("shard", &self.shard).finish_non_exhaustive()
    }
}

/// The next record, if it is there now.
async fn one_of(reader: &mut Reader) -> Result<Option<Record>, ReadError> {
    match reader.try_next().await {
        Err(ReadError::End { .. }) => Ok(None),
        records => Ok(records?.and_then(|mut records| records.next())),
    }
}

pub(crate) fn send_batch(
    access: &Access,
    parts: Vec<Part>,
) -> Response<Vec<Appended>, AppendError> {
    let (reply, pending) = reply::pair();
    Response::send(access, Request::AppendBatch { parts, reply }, pending)
}

/// The answer to [`Log::append_batch`].
#[must_use = "the request is under way, but only its answer says what became of it"]
#[derive(Debug)]
pub struct AppendBatch(Response<Vec<Appended>, AppendError>);

impl AppendBatch {
    pub(crate) fn new(response: Response<Vec<Appended>, AppendError>) -> Self {
        Self(response)
    }

    /// As [`Response::is_sent`].
    #[must_use]
    pub fn is_sent(&self) -> bool {
        self.0.is_sent()
    }

    /// Blocks this thread until the records are durable.
    ///
    /// # Errors
    /// [`AppendError`]
    pub fn wait(self) -> Result<Appended, AppendError> {
        reply::block_on(self)
    }
}

impl std::future::Future for AppendBatch {
    type Output = Result<Appended, AppendError>;

    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Self::Output> {
        let answer = std::task::ready!(std::pin::Pin::new(&mut self.0).poll(cx));
        std::task::Poll::Ready(answer.map(|parts| parts[0]))
    }
}

/// Records for several logs of one group: all of them become durable together, or none.
///
/// ```
/// use oncelog::{Batch, Options};
/// # let dir = tempfile::tempdir()?;
/// let engine = Options::new(dir.path()).shards(4).segment_size(1 << 20).open()?;
/// let orders = engine.create_log("payments/orders").wait()?;
/// let audit = engine.create_log("payments/audit").wait()?;
/// let appended = Batch::new().append(&orders, "order 1").append(&audit, "by me").commit().wait()?;
/// assert_eq!(appended.len(), 2);
///
/// // Logs of other groups may live on other shards: refused, with what to do.
/// let stock = engine.create_log("stock").wait()?;
/// let refused = Batch::new().append(&orders, "order 2").append(&stock, "-1").commit().wait();
/// assert!(refused.unwrap_err().to_string().contains("one group only"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Default)]
#[must_use = "a batch does nothing until commit() is called"]
pub struct Batch {
    first: Option<Log>,
    parts: Vec<Part>,
    refused: Option<AppendError>,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a record, behind those that were added for the same log before.
    pub fn append(mut self, log: &Log, record: impl Into<NewRecord>) -> Self {
        self.check_group(log);
        add_to_parts(&mut self.parts, (log.id, Author::Anyone), record.into());
        self
    }

    /// As [`append`](Self::append), by the log's owner.
    pub fn append_as(mut self, owner: &ExclusiveWriter, record: impl Into<NewRecord>) -> Self {
        let log = owner.log();
        self.check_group(log);
        add_to_parts(&mut self.parts, (log.id, owner.author()), record.into());
        self
    }

    /// A batch is of one group.
    fn check_group(&mut self, log: &Log) {
        let first = self.first.get_or_insert_with(|| log.clone());
        if first.group() != log.group() || !Arc::ptr_eq(&first.inner, &log.inner) {
            let (log, group) = (log.name().to_owned(), first.group().to_owned());
            self.refused.get_or_insert(AppendError::OtherGroup { log, group });
        }
    }

    /// Commits it. Answers where the first record of each log stands, in the order in which the
    /// logs were first named.
    pub fn commit(self) -> Response<Vec<Appended>, AppendError> {
        match (self.refused, self.first) {
            (Some(error), _) => Response::ready(Err(error)),
            (None, None) => Response::ready(Ok(Vec::new())),
            (None, Some(first)) => send_batch(first.access(), self.parts),
        }
    }
}

/// Adds a record to the part of its log.
pub(crate) fn add_to_parts(
    parts: &mut Vec<Part>,
    (log, author): (LogId, Author),
    record: NewRecord,
) {
    match parts.iter_mut().find(|part| (part.log, part.author) == (log, author)) {
        Some(part) => part.records.push(record),
        None => parts.push(Part { log, author, records: vec![record] }),
    }
}
