//! How an engine is opened. Only what really differs between machines and uses is here; everything
//! else is a constant in `limits`.
//!
//! A value that cannot work is refused when the engine is opened, never corrected.
//!
//! Not here: options of single logs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::engine::{self, Engine};
use crate::error::OpenError;
use crate::limits::{
    BLOCK_SIZE, INBOX_SIZE_DEFAULT, SEGMENT_SIZE_DEFAULT, SEGMENT_SIZE_MAX, SEGMENT_SIZE_MIN,
    SHARDS_MAX, TAIL_CACHE_SIZE_DEFAULT,
};
use crate::sync::SyncMethod;
use crate::thread::{IoMode, SPIN_DEFAULT};

/// Whether files are read and written past the page cache (`O_DIRECT`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DirectIo {
    /// Where the file system can.
    #[default]
    Auto,
    /// Always; opening fails where the file system cannot.
    Always,
    /// Never.
    Never,
}

/// How to open an engine.
///
/// ```
/// use oncelog::{Engine, Options};
/// # let dir = tempfile::tempdir()?;
/// # let dir = dir.path().join("data");
/// let engine = Options::new(&dir).shards(1).segment_size(1 << 20).open()?;
/// assert_eq!(engine.shard_count(), 1);
/// engine.close().wait()?;
/// // What an engine is made with stays: asking for something else is refused.
/// assert!(Options::new(&dir).shards(2).open().is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "options do nothing until open() is called"]
pub struct Options {
    pub(crate) dir: PathBuf,
    pub(crate) create: bool,
    pub(crate) shards: Option<u16>,
    pub(crate) segment_size: Option<u64>,
    pub(crate) inbox_size: u64,
    pub(crate) tail_cache_size: u64,
    pub(crate) io_mode: IoMode,
    pub(crate) direct_io: DirectIo,
    pub(crate) sync_method: Option<SyncMethod>,
    pub(crate) pin: bool,
    pub(crate) cores: Vec<usize>,
    pub(crate) spin: Duration,
    pub(crate) allow_network_file_system: bool,
}

impl Options {
    /// Options for the engine in `dir`, which is made if it is not there.
    pub fn new(dir: impl AsRef<Path>) -> Self {
        Self {
            dir: dir.as_ref().to_owned(),
            create: true,
            shards: None,
            segment_size: None,
            inbox_size: INBOX_SIZE_DEFAULT,
            tail_cache_size: TAIL_CACHE_SIZE_DEFAULT,
            io_mode: IoMode::Auto,
            direct_io: DirectIo::Auto,
            sync_method: None,
            pin: true,
            cores: Vec::new(),
            spin: SPIN_DEFAULT,
            allow_network_file_system: false,
        }
    }

    /// Whether to make an engine where there is none. Default: yes.
    pub fn create(self, create: bool) -> Self {
        Self { create, ..self }
    }

    /// Number of shards of a new engine, 1 to 256. Default: one for each processor. Fixed when the
    /// engine is made; any number can be opened on any machine.
    pub fn shards(self, shards: u16) -> Self {
        Self { shards: Some(shards), ..self }
    }

    /// Bytes of each segment of a new engine: a multiple of 32 KiB, 1 MiB to 1 GiB. Default: 64
    /// MiB.
    /// It also bounds records and batches: an entry is at most an eighth of a segment, at most
    /// 1 MiB. Fixed when the engine is made.
    pub fn segment_size(self, bytes: u64) -> Self {
        Self { segment_size: Some(bytes), ..self }
    }

    /// Bytes of requests that may wait for each shard before an append waits. Default: 16 MiB.
    pub fn inbox_size(self, bytes: u64) -> Self {
        Self { inbox_size: bytes, ..self }
    }

    /// Bytes of recent entries that each shard keeps in memory for readers. Default: 8 MiB.
    pub fn tail_cache_size(self, bytes: u64) -> Self {
        Self { tail_cache_size: bytes, ..self }
    }

    /// Which way to do I/O. Default: the ring, and the next best where the kernel refuses it.
    pub fn io_mode(self, io_mode: IoMode) -> Self {
        Self { io_mode, ..self }
    }

    /// Whether to bypass the page cache. Default: where the file system can.
    pub fn direct_io(self, direct_io: DirectIo) -> Self {
        Self { direct_io, ..self }
    }

    /// Always this way of making writes durable. Default: chosen by what the device is, and
    /// watched.
    pub fn sync_method(self, method: SyncMethod) -> Self {
        Self { sync_method: Some(method), ..self }
    }

    /// Whether each shard's thread stays on one processor. Default: yes.
    pub fn pin(self, pin: bool) -> Self {
        Self { pin, ..self }
    }

    /// The processors to keep the shards' threads on, in turn. Default: all of them, beginning with
    /// the one that takes the disk's interrupts, where one alone does.
    pub fn cores(self, cores: impl IntoIterator<Item = usize>) -> Self {
        Self { pin: true, cores: cores.into_iter().collect(), ..self }
    }

    /// How long a shard looks for work before it sleeps, while nothing is under way. Default: 40
    /// µs.
    pub fn spin(self, spin: Duration) -> Self {
        Self { spin, ..self }
    }

    /// Whether a network file system will do, where a sync may not mean durable. Default: no.
    pub fn allow_network_file_system(self, allow: bool) -> Self {
        Self { allow_network_file_system: allow, ..self }
    }

    /// Opens the engine. Blocks until every shard's journal was read.
    ///
    /// # Errors
    /// [`OpenError`]; nothing that was acknowledged was changed.
    pub fn open(self) -> Result<Engine, OpenError> {
        engine::open(self)
    }

    pub(crate) fn check(&self) -> Result<(), OpenError> {
        let refuse = |option, why: String| Err(OpenError::Option { option, why });
        if let Some(shards) = self.shards.filter(|shards| !(1..=SHARDS_MAX).contains(shards)) {
            return refuse("shards", format!("{shards} is not between 1 and {SHARDS_MAX}"));
        }
        let size = self.new_segment_size();
        if !(SEGMENT_SIZE_MIN..=SEGMENT_SIZE_MAX).contains(&size)
            || !size.is_multiple_of(8 * u64::from(BLOCK_SIZE))
        {
            let why = format!(
                "{size} is not a multiple of {} between {SEGMENT_SIZE_MIN} and {SEGMENT_SIZE_MAX}",
                8 * BLOCK_SIZE
            );
            return refuse("segment_size", why);
        }
        if self.inbox_size == 0 {
            return refuse("inbox_size", "nothing could ever be appended with 0".to_owned());
        }
        Ok(())
    }

    pub(crate) fn new_segment_size(&self) -> u64 {
        self.segment_size.unwrap_or(SEGMENT_SIZE_DEFAULT)
    }
}
