//! Several logs of one group, read together in the order in which their records were committed.
//!
//! ```text
//! log a --Fetch--> records ---.                            by (entry, number of the log)
//! log b --Fetch--> records ----+--> the first one, once no other log can have one before it
//! log c --Fetch--> frontier --'     (records of its own, or none before its frontier)
//! ```
//!
//! A group lives on one shard, so positions of its logs can be compared. An answer without records
//! carries a frontier: no record of the log will ever stand before it. A record is released when
//! every other log has records behind it, or a frontier behind its entry.
//!
//! New logs under a prefix: who made a record durable had made its log before, so any answer with
//! that record, or one behind it, tells that there are more logs than are known; they are listed
//! before anything further is released. While nothing comes a parked request waits for new logs.
//!
//! Not here: requests for records (`fetch`).

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use crate::engine::{Engine, Inner};
use crate::error::{LogError, ReadError, Stopped};
use crate::fetch::Fetch;
use crate::limits::{KIB, MIB, READ_SIZE_DEFAULT};
use crate::log::{From, Log};
use crate::name::group_of;
use crate::position::{Dlsn, LogId, SegmentId, Sequence, ShardId};
use crate::records::{Record, Records};
use crate::reply;
use crate::request::{At, LOG_OF_LOGS, ReadAnswer, ReadRequest, Request, Wait};
use crate::response::{Operation, Response};

/// Bytes of records of all logs that are in memory, about.
const MERGED_SIZE: u32 = 8 * MIB;

/// A merged reader could not be made.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MergedError {
    /// The logs are not all of one group of this engine.
    #[error(
        "log {log:?} is not of group {group:?} of this engine: records have one order inside a \
         group only; name the logs \"{group}/..\" to keep them together"
    )]
    Group {
        /// The log.
        log: String,
        /// The group of the others.
        group: String,
    },
    /// The prefix does not name one group.
    #[error(
        "prefix {prefix:?} names no group: records have one order inside a group only; begin it \
         with the group and a slash, as in \"payments/\""
    )]
    Prefix {
        /// What was given.
        prefix: String,
    },
    /// See [`Stopped`].
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

impl Engine {
    /// Reads logs of one group together, in the order in which their records were committed: all
    /// from `from`, see [`MergedReader::start`] for others.
    ///
    /// # Errors
    /// [`MergedError::Group`] if they are not of one group of this engine.
    pub fn merged(&self, logs: &[Log], from: From) -> Result<MergedReader, MergedError> {
        MergedReader::of_logs(&self.0, logs, from)
    }

    /// As [`merged`](Self::merged), all logs whose names begin with `prefix`, from `from`; and
    /// those that are made later, from their first record. The prefix begins with a group and its
    /// `/`.
    ///
    /// # Errors
    /// [`MergedError::Prefix`] if it does not.
    pub fn merged_prefix(
        &self,
        prefix: &str,
        from: From,
    ) -> Operation<'static, Result<MergedReader, MergedError>> {
        MergedReader::of_prefix(&self.0, prefix, from)
    }
}

struct Source {
    log: Log,
    fetch: Fetch,
    records: Option<Records>,
    /// It has no record before this position that was not handed out.
    frontier: Option<Dlsn>,
    /// It is sealed, and was read to its end.
    ended: bool,
}

impl Source {
    fn head(&self) -> Option<(SegmentId, u32, LogId)> {
        let (segment, entry) = self.records.as_ref()?.place()?;
        Some((segment, entry, self.log.id()))
    }

    /// Whether it has no record in the entry of a position, nor before it.
    fn is_behind(&self, head: (SegmentId, u32, LogId)) -> bool {
        let entry = Dlsn::new(head.0, head.1, u32::MAX);
        self.ended || self.frontier.is_some_and(|frontier| frontier > entry)
    }
}

/// The logs of a prefix that a reader follows.
struct Follow {
    inner: Arc<Inner>,
    shard: ShardId,
    prefix: String,
    /// The number of the next log when they were listed.
    listed: LogId,
    /// The highest such number that was heard of.
    heard: LogId,
    /// Waits for a new log.
    watch: Option<Response<ReadAnswer, ReadError>>,
}

/// Reads several logs of one group in the order in which their records were committed; inside one
/// group commit, log by log in the order of their numbers. Sequences of each log are dense.
///
/// ```
/// use oncelog::{Batch, From, Options};
/// # let dir = tempfile::tempdir()?;
/// let engine = Options::new(dir.path()).shards(1).segment_size(1 << 20).open()?;
/// let orders = engine.create_log("shop/orders").wait()?;
/// let bills = engine.create_log("shop/bills").wait()?;
/// orders.append("3 apples").wait()?;
/// bills.append("3 apples: 2.40").wait()?;
/// orders.append("1 pear").wait()?;
///
/// let mut reader = engine.merged_prefix("shop/", From::Earliest).wait()?;
/// let mut records = Vec::new();
/// while records.len() < 3 {
///     records.extend(reader.next().wait()?);
/// }
/// let texts: Vec<_> = records.iter().map(|record| &record.payload[..]).collect();
/// assert_eq!(texts, [&b"3 apples"[..], b"3 apples: 2.40", b"1 pear"]);
/// assert_eq!(records[1].log, bills.id());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A sealed log that was read to its end gives no more; once all are so, and no prefix is followed,
/// the result is [`ReadError::End`]. A log that is dropped is read no further, silently. Where
/// records of one are truncated before they were read the result is [`ReadError::Truncated`], and
/// again at every call: make a new reader, and [`start`](Self::start) each log behind the last of
/// its records that this one gave, but that one at its earliest.
pub struct MergedReader {
    sources: Vec<Source>,
    follow: Option<Follow>,
}

impl MergedReader {
    pub(crate) fn of_logs(
        inner: &Arc<Inner>,
        logs: &[Log],
        from: From,
    ) -> Result<Self, MergedError> {
        let mut merged = Self { sources: Vec::new(), follow: None };
        for log in logs {
            if log.group() != logs[0].group() || !log.is_of(inner) {
                let (log, group) = (log.name().to_owned(), logs[0].group().to_owned());
                return Err(MergedError::Group { log, group });
            }
            merged.add(log.clone(), from.at());
        }
        merged.share_memory();
        Ok(merged)
    }

    pub(crate) fn of_prefix(
        inner: &Arc<Inner>,
        prefix: &str,
        from: From,
    ) -> Operation<'static, Result<Self, MergedError>> {
        let (inner, prefix) = (Arc::clone(inner), prefix.to_owned());
        Operation::new(async move {
            if !prefix.contains('/') || prefix.starts_with('/') {
                return Err(MergedError::Prefix { prefix });
            }
            let shard = inner.shard_of(group_of(&prefix));
            let (listed, heard, watch) = (LogId(0), LogId(0), None);
            let follow = Follow { inner, shard, prefix, listed, heard, watch };
            let mut merged = Self { sources: Vec::new(), follow: Some(follow) };
            let listed = merged.list(from.at()).await;
            listed.map_err(|error| match error {
                ReadError::Stopped(stopped) => stopped,
                _ => Stopped::closed(),
            })?;
            Ok(merged)
        })
    }

    /// Where one of the logs begins. Before the first call of [`next`](Self::next); the logs that
    /// are not read are not changed.
    #[must_use]
    pub fn start(mut self, log: &Log, from: From) -> Self {
        if let Some(source) = self.sources.iter_mut().find(|source| source.log.id() == log.id()) {
            let bytes_max = source.fetch.bytes_max;
            source.fetch = Fetch::new(source.log.clone(), from.at());
            source.fetch.bytes_max = bytes_max;
        }
        self.share_memory();
        self
    }

    /// The logs that are read, those that were found last at the end.
    pub fn logs(&self) -> impl Iterator<Item = &Log> {
        self.sources.iter().map(|source| &source.log)
    }

    fn add(&mut self, log: Log, at: At) {
        if self.sources.iter().any(|source| source.log.id() == log.id()) {
            return;
        }
        let fetch = Fetch::new(log.clone(), at);
        self.sources.push(Source { log, fetch, records: None, frontier: None, ended: false });
    }

    fn share_memory(&mut self) {
        let count = u32::try_from(self.sources.len()).unwrap_or(u32::MAX).max(1);
        for Source { fetch, .. } in &mut self.sources {
            fetch.bytes_max = (MERGED_SIZE / 2 / count).clamp(4 * KIB, READ_SIZE_DEFAULT);
            fetch.ahead_max = MERGED_SIZE / count;
        }
    }

    /// Adds the logs of the prefix that are not known yet.
    async fn list(&mut self, at: At) -> Result<(), ReadError> {
        let Some(follow) = &mut self.follow else { return Ok(()) };
        // Asked first: a log that is made between the two is only listed too early.
        let (inner, shard) = (Arc::clone(&follow.inner), follow.shard);
        let answer = watch(&inner, shard, LogId(0), Wait::No).await?;
        let (reply, pending) = reply::pair();
        let (prefix, after, limit) = (follow.prefix.clone(), String::new(), usize::MAX);
        let request = Request::ListLogs { prefix, after, limit, reply };
        let infos = Response::send(inner.access(shard), request, pending).await;
        let infos = infos.map_err(|error| match error {
            LogError::Stopped(stopped) => ReadError::Stopped(stopped),
            _ => ReadError::Dropped,
        })?;
        (follow.listed, follow.watch) = (answer.next_log, None);
        let prefix_group = group_of(&follow.prefix).to_owned();
        for info in infos.iter().filter(|info| group_of(&info.name) == prefix_group) {
            self.add(Log::new(Arc::clone(&inner), shard, info), at);
        }
        self.share_memory();
        Ok(())
    }

    /// The next records, at least one: waits until there is one.
    ///
    /// Dropped before it is ready, no record is lost: the next call gives them. Errors are those of
    /// [`Reader::next`](crate::Reader::next), of any of the logs.
    #[expect(clippy::should_implement_trait, reason = "the word of async streams; it can fail")]
    pub fn next(&mut self) -> Operation<'_, Result<Vec<Record>, ReadError>> {
        Operation::new(async {
            loop {
                if let Some(records) = self.now().await? {
                    return Ok(records);
                }
                if self.follow.is_none() && self.sources.iter().all(|source| source.ended) {
                    return Err(ReadError::End { next: self.end() });
                }
                self.watch_logs();
                poll_fn(|cx| self.poll_any(cx)).await?;
            }
        })
    }

    /// The next records, or `None` if there are none now. Errors as with [`next`](Self::next).
    pub fn try_next(&mut self) -> Operation<'_, Result<Option<Vec<Record>>, ReadError>> {
        Operation::new(async {
            let records = self.now().await?;
            if records.is_none()
                && self.follow.is_none()
                && self.sources.iter().all(|source| source.ended)
            {
                return Err(ReadError::End { next: self.end() });
            }
            Ok(records)
        })
    }

    /// The end of the last log.
    fn end(&self) -> Sequence {
        let last = self.sources.last().and_then(|source| source.fetch.position());
        last.unwrap_or(Sequence::FIRST)
    }

    /// What can be released now.
    async fn now(&mut self) -> Result<Option<Vec<Record>>, ReadError> {
        loop {
            let head = self.sources.iter().filter_map(Source::head).min();
            let mut asks = false;
            for source in self.sources.iter_mut().filter(|source| source.head().is_none()) {
                let settled = match head {
                    Some(head) => source.is_behind(head),
                    None => source.ended,
                };
                if !settled {
                    asks = true;
                    source.frontier = None;
                    source.fetch.set_wait(Wait::No);
                }
            }
            if asks {
                poll_fn(|cx| self.poll_asked(cx)).await?;
            }
            if self.follow.as_ref().is_some_and(|follow| follow.listed < follow.heard) {
                self.list(At::Earliest).await?;
                continue;
            }
            if self.sources.iter().all(|source| source.head().is_none()) {
                return Ok(None);
            }
            let records = self.release();
            if !records.is_empty() {
                return Ok(Some(records));
            }
        }
    }

    /// The records, in order, that no other record can come before.
    fn release(&mut self) -> Vec<Record> {
        let mut released = Vec::new();
        loop {
            let heads = self.sources.iter().enumerate();
            let heads = heads.filter_map(|(at, source)| Some((source.head()?, at)));
            let mut heads: Vec<_> = heads.collect();
            heads.sort_unstable();
            let Some((head, at)) = heads.first().copied() else { return released };
            let mut silent = self.sources.iter().filter(|source| source.head().is_none());
            if !silent.all(|source| source.is_behind(head)) {
                return released;
            }
            // All of the entry, since another log may be next.
            let source = &mut self.sources[at];
            let records = source.records.as_mut().expect("it has a head");
            while records.place() == Some((head.0, head.1)) {
                released.extend(records.next());
            }
            // An entry has one section of each log.
            source.frontier = Some(Dlsn::new(head.0, head.1 + 1, 0));
        }
    }

    /// Until every source that has neither records nor a frontier, nor ended, has one of them.
    fn poll_asked(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ReadError>> {
        let mut pending = false;
        let mut gone = VecDeque::new();
        for (at, source) in self.sources.iter_mut().enumerate() {
            if source.head().is_some() || source.frontier.is_some() || source.ended {
                continue;
            }
            match poll_source(source, self.follow.as_mut(), cx) {
                Poll::Ready(Err(ReadError::Dropped)) => gone.push_front(at),
                Poll::Ready(result) => result?,
                Poll::Pending => pending = true,
            }
        }
        for at in gone {
            self.sources.remove(at);
        }
        if pending { Poll::Pending } else { Poll::Ready(Ok(())) }
    }

    /// Asks for the end of waiting for new logs, if that is not under way.
    fn watch_logs(&mut self) {
        for source in self.sources.iter_mut().filter(|source| !source.ended) {
            source.fetch.set_wait(Wait::Forever);
        }
        if let Some(follow) = self.follow.as_mut().filter(|follow| follow.watch.is_none()) {
            let (inner, shard) = (&follow.inner, follow.shard);
            follow.watch = Some(watch(inner, shard, follow.listed, Wait::Forever));
        }
    }

    /// Until any source has a record or ends, or there is a new log.
    fn poll_any(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ReadError>> {
        if let Some(follow) = &mut self.follow
            && let Some(watch) = &mut follow.watch
            && let Poll::Ready(answer) = Pin::new(watch).poll(cx)
        {
            follow.watch = None;
            follow.heard = follow.heard.max(answer?.next_log);
            return Poll::Ready(Ok(()));
        }
        for (at, source) in self.sources.iter_mut().enumerate() {
            if source.ended {
                continue;
            }
            match poll_source(source, self.follow.as_mut(), cx) {
                Poll::Ready(Err(ReadError::Dropped)) => {
                    self.sources.remove(at);
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(result) => return Poll::Ready(result),
                Poll::Pending => {}
            }
        }
        Poll::Pending
    }
}

/// The next answer of a source.
fn poll_source(
    source: &mut Source,
    follow: Option<&mut Follow>,
    cx: &mut Context<'_>,
) -> Poll<Result<(), ReadError>> {
    let fetched = match ready!(source.fetch.poll(cx)) {
        Err(ReadError::End { .. }) => {
            source.ended = true;
            return Poll::Ready(Ok(()));
        }
        fetched => fetched?,
    };
    if let Some(follow) = follow {
        follow.heard = follow.heard.max(fetched.next_log);
    }
    if fetched.records.len() > 0 {
        source.records = Some(fetched.records);
    } else {
        source.frontier = Some(fetched.frontier);
    }
    Poll::Ready(Ok(()))
}

/// Waits until the next log has another number.
fn watch(
    inner: &Inner,
    shard: ShardId,
    next_log: LogId,
    wait: Wait,
) -> Response<ReadAnswer, ReadError> {
    let (reply, pending) = reply::pair();
    let request = Request::Read(ReadRequest {
        log: LOG_OF_LOGS,
        at: At::Sequence(Sequence(next_log.0)),
        bytes_max: 1,
        wait,
        ahead: false,
        planned: None,
        reply,
    });
    Response::send(inner.access(shard), request, pending)
}

impl std::fmt::Debug for MergedReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let logs: Vec<_> = self.logs().map(Log::name).collect();
        f.debug_struct("MergedReader").field("logs", &logs).finish_non_exhaustive()
    }
}
