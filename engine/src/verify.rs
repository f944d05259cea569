//! Checking a data directory: every checksum, chain, manifest and index against the data.
//!
//! ```text
//! lock -> engine.meta -> each shard: does it open? -> its segments, oldest first -> survey
//!                                                     read ahead past the page cache -> check
//! ```
//!
//! No data is changed. The lock is held, so no engine runs meanwhile; beside the text in `LOCK`
//! only a small file is written, and removed, to see whether the page cache can be bypassed.
//!
//! Not here: what is right (`check`, `survey`), and doing something about it (`repair`).

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread;

use crate::blocking::read;
use crate::buf::Buf;
use crate::catalog::Catalog;
use crate::check::Check;
use crate::error::OpenError;
use crate::files::ShardDir;
use crate::format::header::Superblock;
use crate::host::{DirLock, Host};
use crate::index::SegmentIndex;
use crate::io::{Completion, Found, OpId, OpKind, Side};
use crate::limits::{BLOCK_SIZE, MIB};
use crate::meta::{MetaFile, sync};
use crate::position::{SegmentId, ShardId};
use crate::recover::{Progress as Recovering, Recovered, Recovery};
use crate::replay::Identity;
use crate::report::{Finding, Progress, Report, Severity};
use crate::survey::{Seen, Survey};

/// Bytes that are read at once.
const CHUNK_SIZE: u64 = 4 * MIB as u64;
/// Reads that may be ahead of the checks.
const AHEAD: usize = 2;

/// Checks a data directory without changing it.
///
/// Every byte that counts is read from the device and compared with its checksum; each segment is
/// compared with what the one before led to; the state of each processor is followed to its
/// beginning. The directory must not be in use.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// let engine = oncelog::Options::new(dir.path()).segment_size(1 << 20).open()?;
/// engine.create_log("orders").wait()?.append("one").wait()?;
/// engine.close().wait()?;
/// # drop(engine);
///
/// let report = oncelog::Verify::new(dir.path()).run()?;
/// assert!(report.is_sound(), "{report}");
/// assert_eq!(report.records, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Verify<'a> {
    dir: PathBuf,
    progress: Box<dyn FnMut(Progress) + 'a>,
}

impl<'a> Verify<'a> {
    /// A check of this directory.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), progress: Box::new(|_| {}) }
    }

    /// Is told how far the check has come, some times a second.
    #[must_use]
    pub fn progress(self, progress: impl FnMut(Progress) + 'a) -> Self {
        Self { progress: Box::new(progress), ..self }
    }

    /// Checks.
    ///
    /// # Errors
    /// [`OpenError`] if the directory is in use, is none, is of a newer version, or cannot be read.
    /// Damage is no error: it stands in the report.
    pub fn run(self) -> Result<Report, OpenError> {
        let _lock = lock(&self.dir)?;
        Ok(check_all(&self.dir, self.progress)?.report)
    }
}

impl std::fmt::Debug for Verify<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verify").field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// Locks a directory that must hold an engine.
pub(crate) fn lock(dir: &Path) -> Result<DirLock, OpenError> {
    if !dir.join("engine.meta").exists() {
        let why = "holds no engine.meta: no engine was ever made here".to_owned();
        return Err(OpenError::Foreign { path: dir.to_owned(), why });
    }
    DirLock::acquire(dir)
}

/// The directory of a shard and who it is.
pub(crate) struct ShardFiles {
    pub(crate) dir: ShardDir,
    pub(crate) identity: Identity,
}

/// What stands in a data directory.
pub(crate) fn shards(dir: &Path, superblock: &Superblock) -> Vec<ShardFiles> {
    let direct = Host::probe(dir).direct_io;
    let shard = |shard: ShardId| ShardFiles {
        dir: ShardDir::at(dir, shard, direct),
        identity: Identity {
            engine: superblock.engine,
            shard,
            segment_size: superblock.segment_size,
            begun: superblock.has_begun(shard),
        },
    };
    (0..superblock.shard_count).map(ShardId::new).map(shard).collect()
}

/// What checking found, and the last that was seen of each shard's logs and processors.
pub(crate) struct Inspected {
    pub(crate) report: Report,
    pub(crate) seen: Vec<Seen>,
}

/// See [`Verify::run`]. The lock is held.
pub(crate) fn check_all(
    dir: &Path,
    mut progress: impl FnMut(Progress),
) -> Result<Inspected, OpenError> {
    let (mut report, mut seen) = (Report::default(), Vec::new());
    let Some(meta) = MetaFile::open(dir)? else { unreachable!("it was there under the lock") };
    for offset in meta.damaged_copies() {
        report.findings.push(Finding {
            severity: Severity::Redundant,
            shard: None,
            segment: None,
            path: "engine.meta".into(),
            offset,
            len: BLOCK_SIZE.into(),
            what: "one of the two copies is damaged".to_owned(),
            at_risk: Vec::new(),
        });
    }
    let mut plans = Vec::new();
    for files in shards(dir, meta.superblock()) {
        plans.push(Plan::of(files)?);
    }
    let total = plans.iter().flat_map(|plan| &plan.segments).map(|segment| segment.2).sum();
    let mut done = 0;
    for plan in plans {
        seen.push(plan.check(&mut report, |bytes| {
            done += bytes;
            progress(Progress { done, total });
        }));
    }
    Ok(Inspected { report, seen })
}

/// The segments of a shard that are to be read.
struct Plan {
    files: ShardFiles,
    recovered: Result<Box<Recovered>, OpenError>,
    /// The newest segment with a whole manifest.
    newest: Option<SegmentId>,
    /// Number, end of its entries if that is known, bytes to read (0: the file is missing).
    segments: Vec<(SegmentId, Option<u64>, u64)>,
}

impl Plan {
    fn of(files: ShardFiles) -> Result<Self, OpenError> {
        let found = files.dir.list()?;
        let (recovered, recovery) = recover(&files, &found);
        let size = files.identity.segment_size;
        let len = |segment: SegmentId| {
            let found = found.iter().find_map(|file| match file {
                Found::Segment(have, len) if *have == segment => Some(*len),
                Found::Segment(..) | Found::Spare(..) => None,
            });
            found.unwrap_or(0)
        };
        let segments = match &recovered {
            Ok(recovered) => {
                let live = recovered.catalog.segments().filter(|row| !row.freed);
                let live = live.map(|row| (row.segment, Some(row.end)));
                let ended = recovered.ended.iter().map(|e| (e.segment, Some(e.end)));
                // The seal stands behind the end.
                let read = |end: u64| end + u64::from(BLOCK_SIZE);
                let segment =
                    |(s, end): (_, Option<u64>)| (s, end, len(s).min(end.map_or(0, read)));
                live.chain(ended).map(segment).collect()
            }
            Err(_) => {
                let mut all: Vec<_> = found
                    .iter()
                    .filter_map(|file| match file {
                        Found::Segment(segment, len) => Some((*segment, None, size.min(*len))),
                        Found::Spare(..) => None,
                    })
                    .collect();
                all.sort_unstable();
                all
            }
        };
        Ok(Self { files, recovered, newest: recovery.newest(), segments })
    }

    fn check(self, report: &mut Report, mut read: impl FnMut(u64)) -> Seen {
        let shard = self.files.identity.shard;
        let mut survey = Survey::new(self.files.identity.clone());
        let now = self.recovered.as_ref().ok().map(|r| Arc::new(r.catalog.clone()));
        for (segment, end, len) in &self.segments {
            if *len == 0 {
                survey.missing(*segment, 0);
                continue;
            }
            let row = self.recovered.as_ref().ok().and_then(|r| r.catalog.segment(*segment));
            let punched = now.clone().filter(|_| row.is_some_and(|row| row.shortened));
            let mut check = survey.check(*segment, *end).punched(punched);
            self.files.read_through(*segment, *len, &mut check, &mut read);
            report.bytes += len;
            let checked = check.finish();
            let is_prepared = row.is_none() && self.newest.is_some_and(|newest| newest < *segment);
            if is_prepared && checked.counts.0 == 0 {
                // Nothing was written to it yet.
                continue;
            }
            let index = self.files.dir.read_side(*segment, Side::Index).ok();
            // One of version 1 is not used any more, which is no damage.
            let index = index.filter(|bytes| !SegmentIndex::is_of_version_1(bytes));
            let place = self.files.identity.place(*segment);
            let index = index.map(|bytes| SegmentIndex::decode(bytes.into(), &place));
            let bad_index = index.is_some_and(|index| match index {
                None => true,
                // One made before something was damaged knows more.
                Some(index) => checked.damages.is_empty() && index != checked.index,
            });
            survey.add(checked, row);
            if bad_index && row.is_some() {
                survey.bad_index(*segment);
            }
        }
        let catalog: Option<&Catalog> = match &self.recovered {
            Ok(recovered) => {
                report.logs += recovered.catalog.log_names().len() as u64;
                report.processors += recovered.catalog.readers().count() as u64;
                if let Some(ended) = &recovered.ended
                    && let Some((offset, bytes)) = &ended.behind
                {
                    let len = bytes.len();
                    let what = format!("{len} bytes of entries that were never acknowledged");
                    survey.note(Severity::Note, ended.segment, *offset, what);
                }
                Some(&recovered.catalog)
            }
            Err(error) => {
                report.refused.push((shard, error.to_string()));
                None
            }
        };
        report.segments += survey.segments;
        report.entries += survey.counts.0;
        report.records += survey.counts.1;
        let seen = survey.seen();
        report.findings.extend(survey.finish(catalog));
        seen
    }
}

impl ShardFiles {
    /// Reads a segment from its beginning, ahead of the check.
    fn read_through(
        &self,
        segment: SegmentId,
        len: u64,
        check: &mut Check,
        progress: &mut impl FnMut(u64),
    ) {
        let file = match self.dir.open_segment(segment) {
            Ok(file) => file,
            Err(error) => {
                check.unreadable(0, len, &error.to_string());
                return check.feed(&[], true);
            }
        };
        let direct = self.dir.is_direct();
        thread::scope(|scope| {
            let (sender, chunks) = sync_channel(AHEAD);
            scope.spawn(move || {
                let mut offset = 0;
                while offset < len {
                    let size = CHUNK_SIZE.min(len - offset);
                    if sender
                        .send((offset, size, Chunk::read(&file, offset, size, direct)))
                        .is_err()
                    {
                        return;
                    }
                    offset += size;
                }
            });
            for (offset, size, chunk) in chunks {
                for (at, why) in &chunk.failed {
                    check.unreadable(*at, BLOCK_SIZE.into(), why);
                }
                let size_here = usize::try_from(size).expect("64-bit platforms only");
                check.feed(&chunk.bytes.as_slice()[..size_here], offset + size >= len);
                progress(size);
            }
        });
    }
}

/// Bytes of a file; zeros for what cannot be read.
struct Chunk {
    bytes: Buf,
    failed: Vec<(u64, String)>,
}

impl Chunk {
    fn read(file: &File, offset: u64, size: u64, direct: bool) -> Self {
        let block = u64::from(BLOCK_SIZE);
        let whole = usize::try_from(size.next_multiple_of(block)).expect("64-bit platforms only");
        let mut bytes = Buf::zeroed(whole);
        let mut failed = Vec::new();
        if read(file, &mut bytes, offset, direct).is_err() {
            // Only the blocks that cannot be read are given up.
            bytes = Buf::zeroed(whole);
            for at in (0..whole).step_by(BLOCK_SIZE as usize) {
                let mut part = Buf::zeroed(BLOCK_SIZE as usize);
                match read(file, &mut part, offset + at as u64, direct) {
                    Ok(_) => {
                        bytes.as_mut_slice()[at..at + part.len()].copy_from_slice(part.as_slice())
                    }
                    Err(error) => failed.push((offset + at as u64, error.to_string())),
                }
            }
        }
        Self { bytes, failed }
    }
}

/// What opening the shard would find, without changing anything.
pub(crate) fn recover(
    files: &ShardFiles,
    found: &[Found],
) -> (Result<Box<Recovered>, OpenError>, Recovery) {
    let mut recovery = Recovery::new(files.identity.clone(), found);
    let mut done = None;
    let opened = loop {
        match recovery.step(done.take()) {
            Recovering::Run(kind) => done = Some(run(&files.dir, kind)),
            Recovering::Done(recovered) => break Ok(recovered),
            Recovering::Failed(error) => break Err(error),
        }
    };
    (opened, recovery)
}

fn run(dir: &ShardDir, kind: OpKind) -> Completion {
    let (result, buf) = match kind {
        OpKind::Sync { segment } => {
            let synced = dir.open_segment(segment).and_then(|file| sync(&file));
            (synced.map(|()| 0), None)
        }
        OpKind::Read { segment, offset, mut buf } => {
            let file = dir.open_segment(segment);
            let read = file.and_then(|file| read(&file, &mut buf, offset, dir.is_direct()));
            (read, Some(buf))
        }
        other => panic!("recovery only looks, it does not {other:?}"),
    };
    let count = |count: usize| u32::try_from(count).expect("reads are small");
    let result = result.map(count).map_err(io::Error::into);
    Completion { id: OpId(0), result, buf, side: None }
}
