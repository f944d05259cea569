//! Exactly-once processing: position, state and outputs become durable in one entry, with one sync.
//!
//! ```text
//! open:  fence older owners -> restore snapshot + deltas + positions
//! loop:  next() -> apply to the state -> commit(delta, outputs)      one entry, one sync
//! ```
//!
//! A commit that fails ends the processor: it is opened again, which restores what was committed
//! last. Commits may be in flight together; each follows the one before, or is refused.
//!
//! Not here: how a state is encoded (the application does).

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;

use crate::change::Author;
use crate::engine::Inner;
use crate::error::{AppendError, CommitError, ProcessorError, ReadError};
use crate::fetch::Fetch;
use crate::format::control::SourcePosition;
use crate::limits::{READ_SIZE_DEFAULT, READ_SIZE_MAX, SNAPSHOT_PART_SIZE, SOURCES_MAX};
use crate::log::{Log, add_to_parts};
use crate::name::{check_name, group_of};
use crate::position::{Epoch, LogId, ReaderId, Sequence, ShardId};
use crate::records::{Record, Records};
use crate::reply;
use crate::request::{
    At, CommitRequest, Committed, LogInfo, NewRecord, NewState, Part, Request, Restored,
};
use crate::response::{Operation, Response};

/// How to open a processor.
#[must_use = "nothing happens before open()"]
pub struct ProcessorOptions {
    inner: Arc<Inner>,
    name: String,
    sources: Vec<String>,
    change: bool,
    owns: Vec<String>,
    bytes_max: u32,
}

impl ProcessorOptions {
    pub(crate) fn new(inner: Arc<Inner>, name: String) -> Self {
        let bytes_max = READ_SIZE_DEFAULT;
        let (sources, change, owns) = (Vec::new(), false, Vec::new());
        Self { inner, name, sources, change, owns, bytes_max }
    }

    /// Adds a source: a log of the processor's group. A new source is read from its first record.
    pub fn source(mut self, log: impl Into<String>) -> Self {
        self.sources.push(log.into());
        self
    }

    /// Makes the processor the owner of a log of its group: nobody else may append to it from then
    /// on. A later owner of the processor owns it too if it says so as well.
    pub fn owns(mut self, log: impl Into<String>) -> Self {
        self.owns.push(log.into());
        self
    }

    /// Allows the sources to differ from those of the checkpoint: those that stay keep their
    /// positions, new ones begin at their first record, others are given up.
    pub fn change_sources(self) -> Self {
        Self { change: true, ..self }
    }

    /// Each call of [`Processor::next`] gives at most about so many bytes of records, or one
    /// section if that is larger. Default: 1 MiB, at most 16 MiB.
    pub fn max_bytes(self, bytes: u32) -> Self {
        Self { bytes_max: bytes.clamp(1, READ_SIZE_MAX), ..self }
    }

    /// Fences every older owner of the name, then reads what was committed last.
    ///
    /// Without sources those of the checkpoint are taken.
    ///
    /// # Errors
    /// [`ProcessorError`]; the checkpoint is unchanged.
    pub fn open(self) -> Operation<'static, Result<(Processor, Restored), ProcessorError>> {
        Operation::new(async move {
            let Self { inner, name, sources, change, owns, bytes_max } = self;
            check_name(&name)?;
            for source in sources.iter().chain(&owns) {
                check_name(source)?;
            }
            if sources.len() > SOURCES_MAX {
                let (count, max) = (sources.len(), SOURCES_MAX);
                return Err(ProcessorError::SourceCount { count, max });
            }
            let shard = inner.shard_of(group_of(&name));
            let (reply, pending) = reply::pair();
            let known = name.clone();
            let request = Request::OpenReader { name: known, sources, change, owns, reply };
            let restored = Response::send(inner.access(shard), request, pending).await?;
            let mut opened = Vec::new();
            let sources_count = restored.positions.len();
            for position in &restored.positions {
                let info = describe(&inner, shard, position.log).await?;
                let log = Log::new(Arc::clone(&inner), shard, &info);
                let at = At::Sequence(position.next);
                let mut fetch = Fetch::new(log.clone(), at);
                fetch.bytes_max = bytes_max;
                fetch.ahead_max /= u32::try_from(sources_count).expect("there are few");
                opened.push(Source { log, fetch, read: position.next, ended: false });
            }
            let processor = Processor {
                inner,
                shard,
                name,
                reader: restored.reader,
                epoch: restored.epoch,
                number: restored.commits + 1,
                positions: restored.positions.clone(),
                sources: opened,
                turn: 0,
            };
            Ok((processor, restored))
        })
    }
}

async fn describe(inner: &Inner, shard: ShardId, log: LogId) -> Result<LogInfo, ProcessorError> {
    let (reply, pending) = reply::pair();
    let request = Request::DescribeLog { log, reply };
    let info = Response::send(inner.access(shard), request, pending).await;
    info.map_err(|error| match error {
        crate::error::LogError::Stopped(stopped) => stopped.into(),
        // A source cannot be dropped while the processor is there; so it was dropped with it.
        error => ProcessorError::NoSuchProcessor { name: error.to_string() },
    })
}

struct Source {
    log: Log,
    fetch: Fetch,
    /// Behind the last record that was handed out.
    read: Sequence,
    /// It is sealed, and was read to its end.
    ended: bool,
}

/// Records of one source, handed to a processor.
#[derive(Clone, Debug)]
pub struct Input {
    /// The source.
    pub log: Log,
    /// Its next records, at least one.
    pub records: Records,
}

/// What a commit makes durable, besides the positions of everything handed out so far.
///
/// ```
/// # use oncelog::Commit;
/// let commit = Commit::new().delta("balance +5");
/// # drop(commit);
/// ```
#[derive(Debug)]
#[must_use = "a commit does nothing until it is given to Processor::commit"]
pub struct Commit {
    state: NewState,
    outputs: Vec<(Log, NewRecord)>,
    through: Vec<(LogId, Sequence)>,
}

impl Default for Commit {
    fn default() -> Self {
        Self { state: NewState::None, outputs: Vec::new(), through: Vec::new() }
    }
}

impl Commit {
    /// Only positions.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a change of the state: given back at restore, behind those before it.
    pub fn delta(self, delta: impl Into<Bytes>) -> Self {
        Self { state: NewState::Delta(delta.into()), ..self }
    }

    /// The whole state: replaces the snapshot and the deltas before it. May be larger than an
    /// entry.
    pub fn snapshot(self, snapshot: impl Into<Bytes>) -> Self {
        Self { state: NewState::Snapshot(snapshot.into()), ..self }
    }

    /// Adds a record for a log of the processor's group.
    pub fn output(mut self, log: &Log, record: impl Into<NewRecord>) -> Self {
        self.outputs.push((log.clone(), record.into()));
        self
    }

    /// The position goes to just behind this record, instead of behind everything handed out.
    pub fn through(self, record: &Record) -> Self {
        self.position(record.log, record.sequence.after(1))
    }

    /// The next record to read of a source, instead of the one behind everything handed out.
    pub fn position(mut self, log: LogId, next: Sequence) -> Self {
        self.through.retain(|(have, _)| *have != log);
        self.through.push((log, next));
        self
    }
}

/// A named reader whose position is stored with its state.
///
/// ```
/// use oncelog::{Commit, Options};
/// # let dir = tempfile::tempdir()?;
/// let engine = Options::new(dir.path()).shards(1).segment_size(1 << 20).open()?;
/// let orders = engine.create_log("payments/orders").wait()?;
/// let bills = engine.create_log("payments/bills").wait()?;
/// orders.append_batch(["5", "7"]).wait()?;
///
/// let billing = engine.processor("payments/billing").source("payments/orders");
/// let (mut processor, restored) = billing.open().wait()?;
/// let mut total: u64 = 0;
/// assert!(restored.snapshot.is_none() && restored.deltas.is_empty());
/// for record in processor.next().wait()?.records {
///     total += std::str::from_utf8(&record.payload)?.parse::<u64>()?;
/// }
/// // State, output and position become durable together, or not at all.
/// let commit = Commit::new().delta(total.to_string()).output(&bills, format!("{total} due"));
/// processor.commit(commit).wait()?;
///
/// // Whoever opens it next fences this one and goes on exactly there.
/// let (_, restored) = engine.processor("payments/billing").open().wait()?;
/// assert_eq!(restored.deltas, ["12"]);
/// assert_eq!(restored.positions[0].next.get(), 2);
/// let late = processor.commit(Commit::new().delta("again")).wait();
/// assert!(late.unwrap_err().to_string().starts_with("fenced"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Processor {
    inner: Arc<Inner>,
    shard: ShardId,
    name: String,
    reader: ReaderId,
    epoch: Epoch,
    /// The number of the next commit.
    number: u64,
    /// What the last commit that was sent says.
    positions: Vec<SourcePosition>,
    sources: Vec<Source>,
    /// The source that is asked first.
    turn: usize,
}

impl Processor {
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

    /// Its sources, in the order of their numbers.
    pub fn sources(&self) -> impl Iterator<Item = &Log> {
        self.sources.iter().map(|source| &source.log)
    }

    /// The next records of one of the sources; waits until there are some. Sources take turns. A
    /// sealed source that was read to its end gives none; once all are so, the result is
    /// [`ReadError::End`].
    ///
    /// Dropped before it is ready, no record is lost: the next call gives them.
    #[expect(clippy::should_implement_trait, reason = "the word of async streams; it can fail")]
    pub fn next(&mut self) -> Operation<'_, Result<Input, ReadError>> {
        Operation::new(poll_fn(|cx| self.poll_next(cx)))
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Input, ReadError>> {
        let count = self.sources.len();
        for step in 0..count {
            let index = (self.turn + step) % count;
            let source = &mut self.sources[index];
            if source.ended {
                continue;
            }
            if let Poll::Ready(fetched) = source.fetch.poll(cx) {
                if let Err(ReadError::End { .. }) = fetched {
                    source.ended = true;
                    continue;
                }
                let records = fetched?.records;
                assert_eq!(records.first_sequence(), source.read, "a source has no gaps");
                source.read = records.end_sequence();
                self.turn = (index + 1) % count;
                return Poll::Ready(Ok(Input { log: source.log.clone(), records }));
            }
        }
        let mut left = self.sources.iter().filter(|source| !source.ended);
        match (left.next(), self.sources.last()) {
            (None, Some(last)) => Poll::Ready(Err(ReadError::End { next: last.read })),
            _ => Poll::Pending,
        }
    }

    /// Makes state, outputs and positions durable together. Without a position in the commit:
    /// everything that [`next`](Self::next) has handed out counts as processed.
    ///
    /// The next commit may be sent before this one is answered: it is refused if this one is, and
    /// also if this one still waits for room in a full inbox, or was dropped while it did.
    pub fn commit(&mut self, commit: Commit) -> Response<Committed, CommitError> {
        let Commit { state, outputs, through } = commit;
        let mut parts: Vec<Part> = Vec::new();
        for (log, record) in outputs {
            let group = group_of(&self.name);
            if log.group() != group {
                let (log, group) = (log.name().to_owned(), group.to_owned());
                let error = CommitError::Output(AppendError::OtherGroup { log, group });
                return self.refuse(error);
            }
            add_to_parts(&mut parts, (log.id(), Author::Processor(self.epoch)), record);
        }
        let mut to: Vec<_> = self
            .sources
            .iter()
            .map(|source| SourcePosition { log: source.log.id(), next: source.read })
            .collect();
        for (log, next) in through {
            match to.iter_mut().find(|position| position.log == log) {
                Some(position) => position.next = next,
                None => return self.refuse(CommitError::NoSource { log }),
            }
        }
        let from = std::mem::replace(&mut self.positions, to.clone());

        let mut parts_of_state = Vec::new();
        let state = match state {
            NewState::Snapshot(whole) => NewState::Snapshot(self.split(whole, &mut parts_of_state)),
            state => state,
        };
        let (reply, pending) = reply::pair();
        let (reader, epoch, number) = (self.reader, self.epoch, self.number);
        self.number += 1;
        let sent = parts_of_state.len();
        let commit = CommitRequest {
            reader,
            epoch,
            number,
            from,
            to,
            state,
            parts: sent,
            outputs: parts,
            reply,
        };
        let commit = Request::Commit(Box::new(commit));
        let requests = parts_of_state.into_iter().chain(std::iter::once(commit));
        Response::send_all(self.inner.access(self.shard), requests, pending)
    }

    /// Cuts the parts off that a snapshot has beyond one; the last one stays.
    fn split(&self, mut snapshot: Bytes, requests: &mut Vec<Request>) -> Bytes {
        let size = SNAPSHOT_PART_SIZE as usize;
        let (reader, epoch, number) = (self.reader, self.epoch, self.number);
        while snapshot.len() > size {
            // If a part is refused so is the commit: what the part is told need not be heard.
            let (reply, _) = reply::pair();
            let bytes = snapshot.split_to(size);
            requests.push(Request::SnapshotPart { reader, epoch, number, bytes, reply });
        }
        snapshot
    }

    /// A commit that cannot even be sent ends the processor like any other that fails.
    fn refuse(&mut self, error: CommitError) -> Response<Committed, CommitError> {
        // Its number is never used: the shard refuses everything that follows.
        self.number += 1;
        Response::ready(Err(error))
    }
}

impl std::fmt::Debug for Processor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = f.debug_struct("Processor");
        debug.field("name", &self.name).field("epoch", &self.epoch.get()).finish_non_exhaustive()
    }
}
