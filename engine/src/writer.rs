//! Writers with a name or a right of their own: idempotent ones, and the one that alone may append.
//!
//! ```text
//! log.writer("w").open()          -> Writer          append(number, records): there once
//! log.exclusive_writer().open()   -> ExclusiveWriter  everyone else is refused
//! ```
//!
//! Both are fenced by whoever opens the same after them: an epoch in the log decides, no lease and
//! no clock.
//!
//! Not here: appending without either (`log`).

use std::sync::Arc;

use crate::change::{Author, Change, WriterAppend, WriterGrant, Written};
use crate::error::{AppendError, LogError};
use crate::limits::WRITER_NAME_SIZE_MAX;
use crate::log::{AppendBatch, Log, send_batch};
use crate::name::check_name;
use crate::position::{Epoch, Sequence};
use crate::reply;
use crate::request::{Appended, NewRecord, Part, Request};
use crate::response::{Operation, Response};

/// How to open an idempotent writer.
#[derive(Debug)]
#[must_use = "nothing happens before open()"]
pub struct WriterOptions {
    log: Log,
    name: String,
    increasing: bool,
    exclusive: bool,
}

impl WriterOptions {
    pub(crate) fn new(log: Log, name: String) -> Self {
        Self { log, name, increasing: false, exclusive: false }
    }

    /// Its numbers may have gaps: each is only higher than the one before. For numbers taken from a
    /// source where some records are left out. Without this a gap is refused.
    ///
    /// A batch that is refused, for want of space or for coming too fast, does not hold up the next
    /// one if that is under way already, and can then not be sent any more: wait for each answer,
    /// or number without gaps.
    pub fn increasing(self) -> Self {
        Self { increasing: true, ..self }
    }

    /// It owns the log too: nobody else may append to it from then on.
    pub fn exclusive(self) -> Self {
        Self { exclusive: true, ..self }
    }

    /// Fences every older owner of the name, and says by [`Writer::last`] where it stands.
    ///
    /// # Errors
    /// [`LogError`]; nothing was changed.
    pub fn open(self) -> Operation<'static, Result<Writer, LogError>> {
        Operation::new(async move {
            let Self { log, name, increasing, exclusive } = self;
            check_name(&name)?;
            if name.len() > WRITER_NAME_SIZE_MAX {
                let why = format!("a writer's name has at most {WRITER_NAME_SIZE_MAX} bytes");
                return Err(LogError::Options { why });
            }
            let given = Some(name.clone());
            let WriterGrant { epoch, last } = open(&log, given, increasing, exclusive).await?;
            Ok(Writer { log, name: name.into(), epoch, exclusive, last })
        })
    }
}

impl WriterOptions {
    /// The writer of an owner that opened it before, perhaps in another process: nobody is fenced,
    /// and if somebody else opened it meanwhile its batches are refused. [`Writer::last`] is 0: the
    /// owner knows which number comes next.
    #[must_use]
    pub fn resume(self, epoch: Epoch) -> Writer {
        let Self { log, name, exclusive, .. } = self;
        Writer { log, name: name.into(), epoch, exclusive, last: 0 }
    }
}

/// An idempotent writer: a batch that it sends again, because the answer was lost, is there once.
///
/// Each batch has a number. A number that was used is answered with where its records stand, as
/// soon as they are durable, also after a restart; what the records say then is not looked at. The
/// last 16 numbers are remembered, so at most so many batches should be unanswered at once.
///
/// ```
/// use oncelog::Options;
/// # let dir = tempfile::tempdir()?;
/// let engine = Options::new(dir.path()).shards(1).segment_size(1 << 20).open()?;
/// let log = engine.create_log("orders").wait()?;
/// let writer = log.writer("shop-7").open().wait()?;
/// assert_eq!(writer.last(), 0);
/// let first = writer.append(1, ["one order"]).wait()?;
/// let again = writer.append(1, ["one order"]).wait()?;
/// assert!(!first.repeated && again.repeated);
/// assert_eq!(first.appended, again.appended);
///
/// // Who opens it next knows how far it came, and fences this one.
/// let next = log.writer("shop-7").open().wait()?;
/// assert_eq!(next.last(), 1);
/// assert!(writer.append(2, ["late"]).wait().unwrap_err().to_string().starts_with("fenced"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Writer {
    log: Log,
    name: Arc<str>,
    epoch: Epoch,
    exclusive: bool,
    last: u64,
}

impl Writer {
    /// The log that it writes.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The number of this owner. A newer one fences it.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The last number that the writer had used when it was opened, 0 for none.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Appends a batch under a number, from 1: all of its records next to each other, or none. An
    /// empty batch succeeds, writes nothing, and uses up no number.
    pub fn append<R: Into<NewRecord>>(
        &self,
        number: u64,
        records: impl IntoIterator<Item = R>,
    ) -> Response<Written, AppendError> {
        let (reply, pending) = reply::pair();
        let append = WriterAppend {
            log: self.log.id(),
            name: Arc::clone(&self.name),
            epoch: self.epoch,
            exclusive: self.exclusive,
            number,
            records: records.into_iter().map(Into::into).collect(),
            reply,
        };
        let request = Request::Change(Box::new(Change::WriterAppend(append)));
        Response::send(self.log.access(), request, pending)
    }

    /// As [`Log::seal`]; also where this writer owns the log.
    pub fn seal(&self) -> Response<Sequence, LogError> {
        let author = if self.exclusive { Author::Owner(self.epoch) } else { Author::Anyone };
        self.log.seal_as(author)
    }
}

/// How to become the only one who may append.
#[derive(Debug)]
#[must_use = "nothing happens before open()"]
pub struct ExclusiveWriterOptions(Log);

impl ExclusiveWriterOptions {
    pub(crate) fn new(log: Log) -> Self {
        Self(log)
    }

    /// Fences whoever owned the log before, and everyone else.
    ///
    /// # Errors
    /// [`LogError`]; nothing was changed.
    pub fn open(self) -> Operation<'static, Result<ExclusiveWriter, LogError>> {
        Operation::new(async move {
            let epoch = open(&self.0, None, false, true).await?.epoch;
            Ok(ExclusiveWriter { log: self.0, epoch })
        })
    }

    /// The owner that became so before, perhaps in another process: nobody is fenced, and if
    /// somebody else owns the log meanwhile its appends are refused.
    #[must_use]
    pub fn resume(self, epoch: Epoch) -> ExclusiveWriter {
        ExclusiveWriter { log: self.0, epoch }
    }
}

/// The only one who may append to a log.
///
/// ```
/// use oncelog::Options;
/// # let dir = tempfile::tempdir()?;
/// let engine = Options::new(dir.path()).shards(1).segment_size(1 << 20).open()?;
/// let log = engine.create_log("ledger").wait()?;
/// let owner = log.exclusive_writer().open().wait()?;
/// owner.append("mine").wait()?;
/// assert!(log.append("yours").wait().is_err(), "it has an owner");
///
/// let newer = log.exclusive_writer().open().wait()?;
/// assert!(owner.append("late").wait().is_err(), "fenced");
/// newer.append("mine now").wait()?;
/// log.share().wait()?;
/// log.append("everyone's again").wait()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct ExclusiveWriter {
    log: Log,
    epoch: Epoch,
}

impl ExclusiveWriter {
    /// The log that it owns.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The number of this owner. A newer one fences it.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub(crate) fn author(&self) -> Author {
        Author::Owner(self.epoch)
    }

    /// As [`Log::append`].
    pub fn append(&self, record: impl Into<NewRecord>) -> Response<Appended, AppendError> {
        let (reply, pending) = reply::pair();
        let (log, author) = (self.log.id(), self.author());
        let request = Request::Append { log, author, record: record.into(), reply };
        Response::send(self.log.access(), request, pending)
    }

    /// As [`Log::append_batch`].
    pub fn append_batch<R: Into<NewRecord>>(
        &self,
        records: impl IntoIterator<Item = R>,
    ) -> AppendBatch {
        let records = records.into_iter().map(Into::into).collect();
        let part = Part { log: self.log.id(), author: self.author(), records };
        AppendBatch::new(send_batch(self.log.access(), vec![part]))
    }

    /// As [`Log::seal`], which refuses while the log has an owner.
    pub fn seal(&self) -> Response<Sequence, LogError> {
        self.log.seal_as(self.author())
    }
}

fn open(
    log: &Log,
    name: Option<String>,
    increasing: bool,
    exclusive: bool,
) -> Response<WriterGrant, LogError> {
    log.change(|log, reply| Change::OpenWriter { log, name, increasing, exclusive, reply })
}
