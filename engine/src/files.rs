//! The data directory: names, the superblock, open files, and every slow operation on files.
//!
//! ```text
//! <dir>/LOCK                                  held as long as the engine is open
//! <dir>/engine.meta                           the superblock, twice
//! <dir>/shard-000/segment-<16 hex>.log        a segment
//!                 segment-<16 hex>.index      its side files
//!                 segment-<16 hex>.tail
//!                 spare-<8 hex or more>.log   written, waits to become a segment
//!                 *.tmp                       unfinished: deleted at opening
//! ```
//!
//! Invariants:
//! - A name other than `*.tmp` and the side files stands for a file that was synced before.
//! - A segment's name is given once: no rename replaces a file.
//! - At any instant one copy of the superblock is whole: the other is written and synced first.
//!
//! Not here: the lock (`host`), writing and reading entries (the runners), and deciding what a file
//! is good for.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use rustc_hash::FxHashMap;
use rustix::fs::{FallocateFlags, OFlags, fallocate};
use rustix::io::{Errno, retry_on_intr};

use crate::buf::Buf;
use crate::error::OpenError;
use crate::format::header::Superblock;
use crate::inbox::Returns;
use crate::io::{Completion, Found, Op, OpKind, Side, SpareId};
use crate::limits::{BLOCK_SIZE, KIB};
use crate::meta::{MetaFile, open_error, rename_new, sync, sync_dir};
use crate::position::{SegmentId, ShardId};

/// Bytes of zeros written at once to a new spare. Larger ones would keep commits waiting behind
/// them: with 1 MiB the p99 of 64 producers is twice as long.
const ZEROS_SIZE: usize = 128 * KIB as usize;

/// Segment files that a shard keeps open. More than can be in use at once, so one can always go.
pub const FILES_OPEN_MAX: usize = 60;

/// The directory of one shard.
#[derive(Debug)]
pub struct ShardDir {
    shard: ShardId,
    path: PathBuf,
    direct: bool,
}

impl ShardDir {
    /// The shard's directory, made if it is missing. With `direct`, files bypass the page cache.
    ///
    /// # Errors
    /// [`OpenError::Io`]
    pub fn open(dir: &Path, shard: ShardId, direct: bool) -> Result<Self, OpenError> {
        let path = dir.join(format!("shard-{:03}", shard.0));
        match fs::create_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made.map_err(open_error("cannot make directory", &path))?,
        }
        // Also where it was there: a killed process may have left it only in memory.
        sync_dir(dir).map_err(open_error("cannot sync directory", dir))?;
        Ok(Self { shard, path, direct })
    }

    /// The shard's directory as it is, also if it is missing.
    #[must_use]
    pub(crate) fn at(dir: &Path, shard: ShardId, direct: bool) -> Self {
        Self { shard, path: dir.join(format!("shard-{:03}", shard.0)), direct }
    }

    /// Deletes unfinished files.
    ///
    /// # Errors
    /// [`OpenError::Io`]
    pub fn remove_unfinished(&self) -> Result<(), OpenError> {
        let failed = open_error("cannot list", &self.path);
        for entry in fs::read_dir(&self.path).map_err(&failed)? {
            let path = entry.map_err(&failed)?.path();
            if path.extension().is_some_and(|end| end == "tmp") {
                fs::remove_file(&path).map_err(open_error("cannot delete", &path))?;
            }
        }
        Ok(())
    }

    /// The segments and spares in it; none if it is missing. Unknown files are left alone.
    ///
    /// # Errors
    /// [`OpenError::Io`]
    pub fn list(&self) -> Result<Vec<Found>, OpenError> {
        let mut found = Vec::new();
        let failed = open_error("cannot list", &self.path);
        let entries = match fs::read_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
            entries => entries.map_err(&failed)?,
        };
        for entry in entries {
            let entry = entry.map_err(&failed)?;
            let (path, name) = (entry.path(), entry.file_name());
            let name = name.to_string_lossy();
            if name.ends_with(".tmp") {
                continue;
            }
            let looked = || entry.metadata().map_err(open_error("cannot look at", &path));
            let len = || looked().map(|metadata| metadata.len());
            match Name::parse(&name) {
                Some(Name::Segment(segment)) => found.push(Found::Segment(segment, len()?)),
                Some(Name::Spare(spare)) => found.push(Found::Spare(spare, len()?)),
                Some(Name::Side) => {}
                None => tracing::warn!(file = %path.display(), "left an unknown file alone"),
            }
        }
        Ok(found)
    }

    /// Whose it is.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether its files bypass the page cache.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// Opens a segment for reading and writing.
    ///
    /// # Errors
    /// The system's.
    pub fn open_segment(&self, segment: SegmentId) -> io::Result<File> {
        self.options().open(self.segment(segment))
    }

    fn options(&self) -> OpenOptions {
        let flags = if self.direct { OFlags::DIRECT } else { OFlags::empty() };
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(flags.bits().cast_signed());
        options
    }

    fn segment(&self, segment: SegmentId) -> PathBuf {
        self.path.join(format!("segment-{:016x}.log", segment.0))
    }

    fn spare(&self, spare: SpareId) -> PathBuf {
        self.path.join(format!("spare-{:08x}.log", spare.0))
    }

    pub(crate) fn side(&self, segment: SegmentId, side: Side) -> PathBuf {
        let end = match side {
            Side::Index => "index",
            Side::Tail => "tail",
        };
        self.path.join(format!("segment-{:016x}.{end}", segment.0))
    }

    pub(crate) fn make_spare(&self, spare: SpareId, size: u64, written: bool) -> io::Result<()> {
        let (path, tmp) = (self.spare(spare), self.path.join(format!("spare-{:08x}.tmp", spare.0)));
        let made = self.make_zeros(&tmp, size, written).and_then(|()| rename_new(&tmp, &path));
        if made.is_err() {
            // It may have filled the disk. If it stays, it goes when the engine is next opened.
            let _ = remove(&tmp);
        }
        made?;
        sync_dir(&self.path)
    }

    /// Only what was written is a written extent: `fallocate` alone halves the speed of small
    /// durable writes. It still goes first, for a contiguous file and an early `ENOSPC`.
    fn make_zeros(&self, path: &Path, size: u64, written: bool) -> io::Result<()> {
        assert!(size.is_multiple_of(BLOCK_SIZE.into()));
        let file = self.options().create(true).truncate(true).open(path)?;
        match retry_on_intr(|| fallocate(&file, FallocateFlags::empty(), 0, size)) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
            Ok(()) if !written => return sync(&file),
            reserved => reserved?,
        }
        let zeros = Buf::zeroed(ZEROS_SIZE);
        let mut offset = 0;
        while offset < size {
            let len = (size - offset).min(ZEROS_SIZE as u64);
            let chunk = &zeros.as_slice()[..len as usize];
            file.write_all_at(chunk, offset)?;
            offset += len;
        }
        sync(&file)
    }

    fn use_spare(&self, spare: SpareId, segment: SegmentId) -> io::Result<()> {
        rename_new(&self.spare(spare), &self.segment(segment))?;
        sync_dir(&self.path)
    }

    fn recycle(&self, segment: SegmentId, spare: SpareId) -> io::Result<()> {
        self.remove_sides(segment)?;
        rename_new(&self.segment(segment), &self.spare(spare))?;
        sync_dir(&self.path)
    }

    fn remove_segment(&self, segment: SegmentId) -> io::Result<()> {
        self.remove_sides(segment)?;
        remove(&self.segment(segment))?;
        sync_dir(&self.path)
    }

    fn remove_sides(&self, segment: SegmentId) -> io::Result<()> {
        remove(&self.side(segment, Side::Index))?;
        remove(&self.side(segment, Side::Tail))
    }

    fn shorten(&self, segment: SegmentId, len: u64) -> io::Result<()> {
        let file = self.open_segment(segment)?;
        if len < file.metadata()?.len() {
            retry_on_intr(|| rustix::fs::ftruncate(&file, len))?;
        }
        sync(&file)
    }

    fn punch(&self, segment: SegmentId, ranges: &[std::ops::Range<u64>]) -> io::Result<()> {
        let file = self.open_segment(segment)?;
        for range in ranges {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            let len = range.end - range.start;
            match retry_on_intr(|| fallocate(&file, flags, range.start, len)) {
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                    return Err(io::ErrorKind::Unsupported.into());
                }
                punched => punched?,
            }
        }
        Ok(())
    }

    pub(crate) fn read_side(&self, segment: SegmentId, side: Side) -> io::Result<Vec<u8>> {
        fs::read(self.side(segment, side))
    }

    fn write_side(&self, segment: SegmentId, side: Side, bytes: &[u8]) -> io::Result<()> {
        let path = self.side(segment, side);
        let mut tmp = path.clone().into_os_string();
        tmp.push(".tmp");
        // Not synced: a side file is checked when it is read.
        fs::write(&tmp, bytes).and_then(|()| fs::rename(&tmp, &path)).inspect_err(|_| {
            let _ = remove(tmp.as_ref());
        })
    }
}

enum Name {
    Segment(SegmentId),
    Spare(SpareId),
    Side,
}

impl Name {
    fn parse(name: &str) -> Option<Self> {
        let (stem, end) = name.rsplit_once('.')?;
        let (kind, digits) = stem.split_once('-')?;
        let lower_hex = digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let number = u64::from_str_radix(digits, 16).ok().filter(|_| lower_hex)?;
        // Numbers count from 1, and nobody counts that far.
        let number = Some(number).filter(|number| (1..1 << 63).contains(number))?;
        match (kind, end, digits.len()) {
            ("segment", "log", 16) => Some(Self::Segment(SegmentId(number))),
            ("segment", "index" | "tail", 16) => Some(Self::Side),
            ("spare", "log", 8..) => Some(Self::Spare(SpareId(number))),
            _ => None,
        }
    }
}

/// Removes a file that may be missing.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Index of an open file in a [`FileTable`].
pub type FileSlot = usize;

struct OpenFile {
    segment: SegmentId,
    file: File,
    /// Operations under way on it.
    users: u32,
    /// Value of `FileTable::clock` when it was last taken.
    used: u64,
    /// Its segment went away: close it with its last user.
    forgotten: bool,
}

/// The segment files that a runner has open: opened when first used, closed when others need the
/// place, never while an operation is under way.
pub struct FileTable {
    dir: Arc<ShardDir>,
    slots: Vec<Option<OpenFile>>,
    by_segment: FxHashMap<SegmentId, FileSlot>,
    clock: u64,
}

impl FileTable {
    /// No file is open yet.
    #[must_use]
    pub fn new(dir: Arc<ShardDir>) -> Self {
        Self::of(dir, FILES_OPEN_MAX)
    }

    /// As [`new`](Self::new), with at most so many files open.
    #[must_use]
    pub fn of(dir: Arc<ShardDir>, files_max: usize) -> Self {
        let slots = (0..files_max).map(|_| None).collect();
        Self { dir, slots, by_segment: FxHashMap::default(), clock: 0 }
    }

    /// The directory of the files.
    #[must_use]
    pub fn dir(&self) -> &ShardDir {
        &self.dir
    }

    /// Takes a file for one operation, and says whether it was opened for it. To be given back
    /// with [`give_back`](Self::give_back).
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn take(&mut self, segment: SegmentId) -> io::Result<(FileSlot, bool)> {
        self.clock += 1;
        let (slot, opened) = match self.by_segment.get(&segment) {
            Some(slot) => (*slot, false),
            None => (self.open(segment)?, true),
        };
        let open = self.slots[slot].as_mut().expect("a file that is found by name is open");
        open.users += 1;
        open.used = self.clock;
        Ok((slot, opened))
    }

    fn open(&mut self, segment: SegmentId) -> io::Result<FileSlot> {
        let file = self.dir.open_segment(segment)?;
        // An empty slot first (`None` and 0), else the one that was used longest ago.
        let rank = |(slot, open): (usize, &Option<OpenFile>)| match open {
            None => Some((0, slot)),
            Some(open) => (open.users == 0).then_some((open.used, slot)),
        };
        let ranked = self.slots.iter().enumerate().filter_map(rank);
        let (_, slot) = ranked.min().expect("a file is always idle");
        let open = OpenFile { segment, file, users: 0, used: 0, forgotten: false };
        if let Some(old) = self.slots[slot].replace(open) {
            self.by_segment.remove(&old.segment);
        }
        self.by_segment.insert(segment, slot);
        Ok(slot)
    }

    /// A file that was taken.
    #[must_use]
    pub fn file(&self, slot: FileSlot) -> &File {
        &self.slots[slot].as_ref().expect("a taken file is open").file
    }

    /// Ends an operation on a file. Returns whether the slot is empty now.
    pub fn give_back(&mut self, slot: FileSlot) -> bool {
        let open = self.slots[slot].as_mut().expect("a taken file is open");
        open.users = open.users.checked_sub(1).expect("a file was given back twice");
        let close = open.users == 0 && open.forgotten;
        if close {
            self.slots[slot] = None;
        }
        close
    }

    /// Closes the file of a segment that goes away, now or with the last operation on it. Returns
    /// the slot if it is empty now.
    pub fn forget(&mut self, segment: SegmentId) -> Option<FileSlot> {
        let slot = self.by_segment.remove(&segment)?;
        let open = self.slots[slot].as_mut().expect("a file that is found by name is open");
        open.forgotten = true;
        if open.users == 0 {
            self.slots[slot] = None;
            return Some(slot);
        }
        None
    }
}

struct Job {
    dir: Arc<ShardDir>,
    returns: Returns,
    op: Op,
}

/// The threads that run an engine's file operations. Cheap to clone; dropping the last one waits
/// until all operations are done.
///
/// Two lanes, since spares and holes take long: one makes these, the other does all else in order.
/// So a shard's operations start in the order given, as the contract in `io` wants it. (A segment
/// that gets holes is not given anything else to do meanwhile.)
#[derive(Clone)]
pub struct Files(Arc<Lanes>);

struct Lanes {
    meta: Arc<Mutex<MetaFile>>,
    spares: Lane,
    others: Lane,
}

impl Files {
    /// Starts the threads.
    ///
    /// # Errors
    /// The system gave no thread.
    pub fn start(meta: MetaFile) -> io::Result<Self> {
        let meta = Arc::new(Mutex::new(meta));
        let spares = Lane::start("oncelog-spares", &meta)?;
        let others = Lane::start("oncelog-files", &meta)?;
        Ok(Self(Arc::new(Lanes { meta, spares, others })))
    }

    /// Runs an operation on files; its completion goes to `returns`.
    pub fn run(&self, dir: &Arc<ShardDir>, returns: &Returns, op: Op) {
        let long = matches!(op.kind, OpKind::MakeSpare { .. } | OpKind::Punch { .. });
        let lane = if long { &self.0.spares } else { &self.0.others };
        lane.send(Job { dir: Arc::clone(dir), returns: returns.clone(), op });
    }

    /// The superblock as it is now.
    #[must_use]
    pub fn superblock(&self) -> Superblock {
        lock(&self.0.meta).superblock().clone()
    }
}

fn lock(meta: &Mutex<MetaFile>) -> std::sync::MutexGuard<'_, MetaFile> {
    // `current` changes last, when both copies are durable, so a poisoned one is a whole one.
    meta.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Lane {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Lane {
    fn start(name: &str, meta: &Arc<Mutex<MetaFile>>) -> io::Result<Self> {
        let (sender, jobs) = channel();
        let meta = Arc::clone(meta);
        let thread = thread::Builder::new().name(name.to_owned());
        let thread = thread.spawn(move || work(&jobs, &meta))?;
        Ok(Self { jobs: Some(sender), thread: Some(thread) })
    }

    fn send(&self, job: Job) {
        let jobs = self.jobs.as_ref().expect("a lane is used before it is dropped");
        if let Err(refused) = jobs.send(job) {
            let Job { returns, op, .. } = refused.0;
            let error = io::Error::other("the thread for file operations has panicked");
            returns.push(Completion {
                id: op.id,
                result: Err(error.into()),
                buf: None,
                side: None,
            });
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread for file operations had panicked");
        }
    }
}

fn work(jobs: &Receiver<Job>, meta: &Mutex<MetaFile>) {
    while let Ok(Job { dir, returns, op }) = jobs.recv() {
        // A shard waits for each of its operations: one that panics fails like any other.
        let done = catch_unwind(AssertUnwindSafe(|| run(&dir, meta, op.kind)));
        let panicked = |_| Err(io::Error::other("a file operation panicked"));
        let (result, side) = match done.unwrap_or_else(panicked) {
            Ok(side) => {
                let len = side.as_ref().map_or(0, Bytes::len);
                (Ok(u32::try_from(len).unwrap_or(u32::MAX)), side)
            }
            Err(error) => (Err(error.into()), None),
        };
        returns.push(Completion { id: op.id, result, buf: None, side });
    }
}

fn run(dir: &ShardDir, meta: &Mutex<MetaFile>, kind: OpKind) -> io::Result<Option<Bytes>> {
    match kind {
        OpKind::MakeSpare { spare, size, written } => dir.make_spare(spare, size, written)?,
        OpKind::UseSpare { spare, segment } => dir.use_spare(spare, segment)?,
        OpKind::Recycle { segment, spare } => dir.recycle(segment, spare)?,
        OpKind::RemoveSegment { segment } => dir.remove_segment(segment)?,
        OpKind::RemoveSpare { spare } => {
            remove(&dir.spare(spare)).and_then(|()| sync_dir(&dir.path))?;
        }
        OpKind::Shorten { segment, len } => dir.shorten(segment, len)?,
        OpKind::Punch { segment, ranges } => dir.punch(segment, &ranges)?,
        OpKind::Begin => lock(meta).begin(dir.shard)?,
        OpKind::WriteSide { segment, side, bytes } => dir.write_side(segment, side, &bytes)?,
        OpKind::ReadSide { segment, side } => {
            return dir.read_side(segment, side).map(|bytes| Some(bytes.into()));
        }
        OpKind::Write { .. } | OpKind::Sync { .. } | OpKind::Read { .. } => {
            panic!("an operation of the runner came to the files thread")
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
