//! An engine: one data directory, opened by one process, its shards and their threads.
//!
//! ```text
//! Options::open -> lock -> superblock -> host -> each shard: list files, start its thread, recover
//! Engine, Log, Reader, Processor --Request--> inbox of the shard --> its thread
//! ```
//!
//! All handles keep the engine open. [`Engine::close`] finishes what was accepted and marks a clean
//! end; dropping the last handle tries the same, and loses nothing if it cannot: whatever was
//! acknowledged is durable already.
//!
//! Not here: what a shard does with a request.

mod space;
mod start;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::change::{Change, ProcessorInfo};
use crate::error::{LogError, OpenError, ProcessorError, Stopped};
use crate::format::header::Superblock;
use crate::format::options::{LogOptions, Rates};
use crate::helm::{self, Access};
use crate::host::Host;
use crate::limits::{BLOCK_SIZE, entry_size_max, record_size_max};
use crate::log::OpenLog;
use crate::metrics::{AppendRefusal, EngineMetrics, ShardMetrics, ShardStats};
use crate::name::{check_name, group_of, shard_of};
use crate::options::Options;
use crate::position::ShardId;
use crate::processor::ProcessorOptions;
use crate::reply::{self, block_on};
use crate::request::{LogInfo, OpenMode, Request};
use crate::response::{Operation, Response};
use crate::thread::{LoopStats, RunnerInfo};
pub(crate) use start::open;

struct ShardHandle {
    access: Access,
    thread: Mutex<Option<JoinHandle<()>>>,
    runner: RunnerInfo,
    stats: Arc<LoopStats>,
}

impl ShardHandle {
    /// Adds what the shard itself does not know.
    fn complete(&self, mut metrics: ShardMetrics) -> ShardMetrics {
        let (helm, busy) = (&self.access.helm, AppendRefusal::Busy as usize);
        metrics.refusals.append[busy] = helm.busy();
        metrics.turns_client = helm.turns();
        metrics.turns_thread = self.stats.turns.get();
        metrics.inbox_bytes = self.access.inbox.bytes();
        metrics
    }
}

/// What all handles share.
pub(crate) struct Inner {
    dir: PathBuf,
    superblock: Superblock,
    direct: bool,
    host: Host,
    shards: Vec<ShardHandle>,
}

impl Inner {
    pub(crate) fn access(&self, shard: ShardId) -> &Access {
        &self.shards[usize::from(shard.get())].access
    }

    pub(crate) fn shard_of(&self, group: &str) -> ShardId {
        shard_of(group, self.superblock.shard_count)
    }

    pub(crate) fn segment_size(&self) -> u64 {
        self.superblock.segment_size
    }

    /// The shards that were started: all of them, unless opening failed half-way.
    fn shard_ids(&self) -> impl Iterator<Item = ShardId> + use<> {
        let count = u16::try_from(self.shards.len()).expect("there are at most 256");
        (0..count).map(ShardId::new)
    }

    async fn close(&self) -> Result<(), Stopped> {
        let mut pending = Vec::new();
        for shard in self.shard_ids() {
            let (reply, answer) = reply::pair();
            pending.push(Response::send(self.access(shard), Request::Close { reply }, answer));
        }
        let mut result = Ok(());
        for answer in pending {
            match answer.await {
                // Closed already, or at the same time by someone else.
                Err(stopped) if stopped.is_closed() => {}
                answer => result = result.and(answer),
            }
        }
        if self.join() { result } else { Err(Stopped::closed()) }
    }

    /// Waits for the threads, unless this is one of them. `false` if one panicked.
    fn join(&self) -> bool {
        let mut sound = true;
        let here = std::thread::current().id();
        for shard in &self.shards {
            let mut thread = shard.thread.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(thread) = thread.take_if(|thread| thread.thread().id() != here) {
                // A panic was said by its own hook, and whoever waited was answered.
                sound &= thread.join().is_ok();
            }
        }
        sound
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let here = std::thread::current().id();
        let is_own = |shard: &ShardHandle| {
            let thread = shard.thread.lock().unwrap_or_else(PoisonError::into_inner);
            thread.as_ref().is_some_and(|thread| thread.thread().id() == here)
        };
        if self.shards.iter().all(|shard| shard.access.inbox.is_closed()) {
            self.join();
            return;
        }
        if helm::leads() || self.shards.iter().any(is_own) {
            // The last handle died in a waker that a shard ran, or a client in its place: waiting
            // here would be for ever.
            for shard in self.shard_ids() {
                let (reply, answer) = reply::pair();
                drop(Response::send(self.access(shard), Request::Close { reply }, answer));
            }
            return;
        }
        if let Err(error) = block_on(self.close()) {
            tracing::warn!(dir = %self.dir.display(), %error, "the engine was dropped unclosed");
        }
    }
}

/// An open engine. Cheap to clone; may be used from any thread.
///
/// ```
/// use oncelog::Engine;
/// # let dir = tempfile::tempdir()?;
/// # let dir = dir.path().join("data");
/// let engine = oncelog::Options::new(&dir).segment_size(1 << 20).open()?;
/// let log = engine.open_or_create_log("greetings").wait()?;
/// log.append("hello").wait()?;
/// engine.close().wait()?;
///
/// let engine = Engine::open(&dir)?;
/// let log = engine.open_log("greetings").wait()?;
/// assert_eq!(log.describe().wait()?.next.get(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Engine(pub(crate) Arc<Inner>);

impl Engine {
    /// Opens the engine in `dir` with the default [`Options`], making it if it is not there.
    ///
    /// # Errors
    /// [`OpenError`]
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, OpenError> {
        Options::new(dir).open()
    }

    /// Its data directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// How many shards it has.
    #[must_use]
    pub fn shard_count(&self) -> u16 {
        self.0.superblock.shard_count
    }

    /// Makes a log; an error if there is one of that name.
    pub fn create_log(&self, name: impl Into<String>) -> OpenLog {
        OpenLog::send(&self.0, name.into(), OpenMode::Create, None)
    }

    /// Makes a log with options; an error if there is one of that name.
    pub fn create_log_with(&self, name: impl Into<String>, options: LogOptions) -> OpenLog {
        OpenLog::send(&self.0, name.into(), OpenMode::Create, Some(options))
    }

    /// Opens a log; an error if there is none of that name.
    pub fn open_log(&self, name: impl Into<String>) -> OpenLog {
        OpenLog::send(&self.0, name.into(), OpenMode::Open, None)
    }

    /// Opens a log, or makes it.
    pub fn open_or_create_log(&self, name: impl Into<String>) -> OpenLog {
        OpenLog::send(&self.0, name.into(), OpenMode::OpenOrCreate, None)
    }

    /// All logs whose names begin with `prefix`, sorted by name.
    pub fn list_logs(&self, prefix: &str) -> Operation<'_, Result<Vec<LogInfo>, LogError>> {
        self.list_logs_page(prefix, "", usize::MAX)
    }

    /// As [`list_logs`](Self::list_logs), but only names behind `after`, and at most `limit`: the
    /// next page begins behind the last name of this one.
    pub fn list_logs_page(
        &self,
        prefix: &str,
        after: &str,
        limit: usize,
    ) -> Operation<'_, Result<Vec<LogInfo>, LogError>> {
        let (prefix, after) = (prefix.to_owned(), after.to_owned());
        Operation::new(async move {
            let mut answers = Vec::new();
            for shard in self.0.shard_ids() {
                let (reply, pending) = reply::pair();
                let (prefix, after) = (prefix.clone(), after.clone());
                let request = Request::ListLogs { prefix, after, limit, reply };
                answers.push(Response::send(self.0.access(shard), request, pending));
            }
            let mut logs = Vec::new();
            for answer in answers {
                logs.append(&mut answer.await?);
            }
            logs.sort_unstable_by(|a, b| a.name.cmp(&b.name));
            logs.truncate(limit);
            Ok(logs)
        })
    }

    /// Replaces the rates of the whole engine, durably. They are split evenly among its shards, so
    /// a group alone reaches the rate of one shard. After an error some shards may have the new
    /// rates and others those before: set them again.
    pub fn set_rates(&self, rates: Rates) -> Operation<'_, Result<(), LogError>> {
        Operation::new(async move {
            let mut answers = Vec::new();
            for shard in self.0.shard_ids() {
                let (reply, pending) = reply::pair();
                let rates = rates.split(self.shard_count());
                let request = Request::Change(Box::new(Change::SetRates { rates, reply }));
                answers.push(Response::send(self.0.access(shard), request, pending));
            }
            let mut result = Ok(());
            for answer in answers {
                result = result.and(answer.await);
            }
            result
        })
    }

    /// Drops a log and its records. A log of the same name that is made later is another one.
    /// Refused while a processor has it as a source.
    pub fn drop_log(&self, name: &str) -> Operation<'_, Result<(), LogError>> {
        let name = name.to_owned();
        Operation::new(async move {
            check_name(&name)?;
            let shard = self.0.shard_of(group_of(&name));
            let (reply, pending) = reply::pair();
            let request = Request::DropLog { name, reply };
            Response::send(self.0.access(shard), request, pending).await
        })
    }

    /// A processor of this name, to be opened. Its sources and outputs are logs of its group.
    pub fn processor(&self, name: impl Into<String>) -> ProcessorOptions {
        ProcessorOptions::new(Arc::clone(&self.0), name.into())
    }

    /// Names of all processors, sorted.
    pub fn list_processors(&self) -> Operation<'_, Result<Vec<String>, ProcessorError>> {
        Operation::new(async move {
            let infos = self.describe_processors("").await?;
            Ok(infos.into_iter().map(|info| info.name).collect())
        })
    }

    /// All processors whose names begin with `prefix`, sorted by name: where they stand, without
    /// fencing their owners.
    pub fn describe_processors(
        &self,
        prefix: &str,
    ) -> Operation<'_, Result<Vec<ProcessorInfo>, ProcessorError>> {
        let prefix = prefix.to_owned();
        Operation::new(async move {
            let mut infos = Vec::new();
            for shard in self.0.shard_ids() {
                let (reply, pending) = reply::pair();
                let request = Request::ListReaders { reply };
                infos.append(&mut Response::send(self.0.access(shard), request, pending).await?);
            }
            infos.retain(|info| info.name.starts_with(&prefix));
            infos.sort_unstable_by(|a, b| a.name.cmp(&b.name));
            Ok(infos)
        })
    }

    /// Drops a processor with its position and state.
    pub fn drop_processor(&self, name: &str) -> Operation<'_, Result<(), ProcessorError>> {
        let name = name.to_owned();
        Operation::new(async move {
            check_name(&name)?;
            let shard = self.0.shard_of(group_of(&name));
            let (reply, pending) = reply::pair();
            let request = Request::DropReader { name, reply };
            Response::send(self.0.access(shard), request, pending).await
        })
    }

    /// What the engine found and chose, and what its shards have done since it was opened.
    pub fn info(&self) -> Operation<'_, Result<EngineInfo, Stopped>> {
        Operation::new(async move {
            let mut shards = Vec::new();
            for (id, shard) in self.0.shard_ids().zip(&self.0.shards) {
                let (reply, pending) = reply::pair();
                let request = Request::Stats { reply };
                let stats = Response::send(&shard.access, request, pending).await?;
                shards.push(ShardInfo {
                    shard: id,
                    runner: shard.runner.clone(),
                    stats,
                    wakeups: shard.stats.bells.get(),
                    parks: shard.stats.parks.get(),
                    ring_enters: shard.stats.enters.get(),
                    client_turns: shard.access.helm.turns(),
                    registered_arenas: shard.stats.arenas.get(),
                });
            }
            let superblock = &self.0.superblock;
            Ok(EngineInfo {
                dir: self.0.dir.clone(),
                engine: uuid::Uuid::from_bytes(superblock.engine).to_string(),
                segment_size: superblock.segment_size,
                record_size_max: record_size_max(entry_size_max(superblock.segment_size)),
                batch_size_max: entry_size_max(superblock.segment_size),
                block_size: BLOCK_SIZE,
                direct_io: self.0.direct,
                durable: self.0.host.durable,
                host: self.0.host.clone(),
                shards,
            })
        })
    }

    /// What the engine has counted since it was opened, and what it is like now.
    ///
    /// Each shard answers with a copy of about 0.3 MiB: ask every few seconds, not in a loop. A
    /// shard that stopped after a failed write answers too. [`metrics`](crate::metrics) tells more.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = oncelog::Options::new(dir.path()).segment_size(1 << 20).open()?;
    /// let log = engine.create_log("log").wait()?;
    /// log.append_batch(["one", "two"]).wait()?;
    /// let metrics = engine.metrics().wait()?;
    /// assert_eq!((metrics.total.append_requests, metrics.total.append_records), (1, 2));
    /// println!("{metrics}");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn metrics(&self) -> Operation<'_, Result<EngineMetrics, Stopped>> {
        Operation::new(async move {
            let mut shards = Vec::new();
            for (id, shard) in self.0.shard_ids().zip(&self.0.shards) {
                let (reply, pending) = reply::pair();
                let request = Request::Metrics { reply };
                let metrics = Response::send(&shard.access, request, pending).await?;
                shards.push((id, shard.complete(*metrics)));
            }
            Ok(EngineMetrics::new(shards))
        })
    }

    /// Finishes what was accepted, marks a clean end, and stops the shards. Handles that are left
    /// are refused from then on.
    ///
    /// The result is an error if a shard had stopped before; what was acknowledged is durable
    /// nevertheless.
    pub fn close(&self) -> Operation<'static, Result<(), Stopped>> {
        let inner = Arc::clone(&self.0);
        Operation::new(async move { inner.close().await })
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("dir", &self.0.dir).finish_non_exhaustive()
    }
}

/// What an engine found and chose.
#[derive(Clone, Debug)]
pub struct EngineInfo {
    /// Its data directory.
    pub dir: PathBuf,
    /// Its identity.
    pub engine: String,
    /// Bytes of each segment.
    pub segment_size: u64,
    /// The largest payload of a record in bytes, where the log sets no lower one.
    pub record_size_max: u32,
    /// Bytes that a batch may take: payloads, 16 for each record, 64 for each log, 96 besides.
    pub batch_size_max: u32,
    /// Bytes of the unit of direct I/O.
    pub block_size: u32,
    /// Whether the page cache is bypassed.
    pub direct_io: bool,
    /// Whether the file system can be believed that a sync means stable storage; `host` says why
    /// not.
    pub durable: bool,
    /// The file system and device.
    pub host: Host,
    /// Its shards.
    pub shards: Vec<ShardInfo>,
}

/// What a shard chose, and what it has done.
#[derive(Clone, Debug)]
pub struct ShardInfo {
    /// Which.
    pub shard: ShardId,
    /// How it does I/O.
    pub runner: RunnerInfo,
    /// What it has committed, and how it syncs.
    pub stats: ShardStats,
    /// How often a client or a file operation woke it.
    pub wakeups: u64,
    /// How often it went to sleep.
    pub parks: u64,
    /// Calls of `io_uring_enter`.
    pub ring_enters: u64,
    /// How often a client that waited carried out requests by itself, without its thread.
    pub client_turns: u64,
    /// Arenas of write buffers, of 4 MiB each (1 MiB where segments are small), that are registered
    /// with the ring.
    pub registered_arenas: u64,
}
