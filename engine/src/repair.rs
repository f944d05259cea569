//! Making a damaged directory open again, by giving up what is lost: asked for, never by itself.
//!
//! ```text
//! check -> why does a shard refuse? -> one step -> ask again .. -> it opens -> check again
//!              an entry is damaged that others prove  -> the journal ends before it
//!              records behind a damaged header        -> the file goes aside
//!              a file is missing, or cut off          -> zeros stand for it: reads say what is lost
//!              a file of elsewhere                    -> the file goes aside
//! ```
//!
//! Invariant: bytes that a step drops were copied or moved to a directory `kept-..` beside the
//! shards, durably, before. A repair that is interrupted is simply done again.
//!
//! Not here: damage that an engine opens with. Reads of it fail and say what is lost; nothing can
//! bring it back, and giving up what stands around it would only lose more.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::OpenError;
use crate::format::entry::Flags;
use crate::io::Found;
use crate::judge::Newer;
use crate::limits::MIB;
use crate::meta::{MetaFile, open_error, sync, sync_dir};
use crate::position::{SegmentId, Sequence, ShardId};
use crate::recover::Recovered;
use crate::replay::{Next, Replay};
use crate::report::{AtRisk, Report};
use crate::survey::Seen;
use crate::verify::{ShardFiles, check_all, lock, recover, shards};

/// Makes a damaged directory open again.
///
/// Only what keeps the engine from opening is given up, and where something is there twice or can
/// be made anew it is made anew. Nothing is deleted: what is given up is kept in a directory
/// `kept-..` inside the data directory. Sequences that are given up at a log's end will be given
/// to new records; whoever has seen the lost ones elsewhere should know.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # oncelog::Options::new(dir.path()).segment_size(1 << 20).open()?.close().wait()?;
/// let repaired = oncelog::Repair::new(dir.path()).run()?;
/// assert!(repaired.steps.is_empty(), "there was nothing to do");
/// assert!(repaired.after.is_sound());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Repair {
    dir: PathBuf,
}

/// One thing that a repair did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The file, from the data directory.
    pub path: PathBuf,
    /// What was done to it, and why.
    pub what: String,
}

/// What a repair did.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Repaired {
    /// What was found before.
    pub before: Report,
    /// What was done, in order.
    pub steps: Vec<Step>,
    /// Where the bytes are that were given up.
    pub kept: Option<PathBuf>,
    /// What was acknowledged, as far as any file tells, and is no longer there.
    pub lost: Vec<(ShardId, AtRisk)>,
    /// What is found now. Damage that keeps nothing from opening is still there, with what it
    /// lost.
    pub after: Report,
}

impl fmt::Display for Repaired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            writeln!(f, "{}: {}", step.path.display(), step.what)?;
        }
        if let Some(kept) = &self.kept {
            writeln!(f, "what was given up is kept in {}", kept.display())?;
        }
        for (shard, lost) in &self.lost {
            writeln!(f, "lost in shard {shard}: {lost}")?;
        }
        write!(f, "{}", self.after)
    }
}

impl Repair {
    /// A repair of this directory.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Repairs.
    ///
    /// # Errors
    /// [`OpenError`] if the directory is in use, or is none, or for what cannot be repaired: both
    /// copies of `engine.meta` are damaged, a file is of a newer version, a file cannot be read or
    /// written. Steps that were done before are done.
    pub fn run(self) -> Result<Repaired, OpenError> {
        let _lock = lock(&self.dir)?;
        let before = check_all(&self.dir, |_| {})?;
        let mut work = Work { dir: &self.dir, kept: None, steps: Vec::new() };
        work.renew_meta()?;
        let Some(meta) = MetaFile::open(&self.dir)? else { unreachable!("it was just there") };
        let mut lost = Vec::new();
        for (mut files, seen) in shards(&self.dir, meta.superblock()).into_iter().zip(&before.seen)
        {
            let recovered = work.repair_shard(&mut files)?;
            let shard = files.identity.shard;
            lost.extend(given_up(seen, &recovered).into_iter().map(|lost| (shard, lost)));
        }
        for finding in &before.report.findings {
            if finding.path.extension().is_some_and(|end| end == "index") {
                work.remove_index(&finding.path)?;
            }
        }
        let Work { kept, steps, .. } = work;
        let after = check_all(&self.dir, |_| {})?;
        Ok(Repaired { before: before.report, steps, kept, lost, after: after.report })
    }
}

/// What was seen before and is not there now.
fn given_up(seen: &Seen, now: &Recovered) -> Vec<AtRisk> {
    let mut lost = Vec::new();
    for (log, (name, end)) in &seen.logs {
        let first = now.catalog.log(*log).map_or(Sequence::FIRST, |log| log.next);
        if first < *end {
            lost.push(AtRisk::Records { log: *log, name: name.clone(), first, end: *end });
        }
    }
    for (reader, (name, last)) in &seen.commits {
        let first = now.catalog.reader(*reader).map_or(0, |state| state.stored.number) + 1;
        if first <= *last {
            lost.push(AtRisk::Commits { processor: name.clone(), first, last: *last });
        }
    }
    lost
}

/// A repair under way.
struct Work<'a> {
    dir: &'a Path,
    kept: Option<PathBuf>,
    steps: Vec<Step>,
}

type Done<T> = Result<T, OpenError>;

impl Work<'_> {
    fn step(&mut self, path: PathBuf, what: impl Into<String>) {
        let what = what.into();
        tracing::warn!(file = %path.display(), "{what}");
        self.steps.push(Step { path, what });
    }

    fn renew_meta(&mut self) -> Done<()> {
        let path = self.dir.join("engine.meta");
        let Some(mut meta) = MetaFile::open(self.dir)? else { unreachable!("it was there") };
        if meta.damaged_copies().next().is_some() {
            meta.renew().map_err(open_error("cannot write", &path))?;
            self.step("engine.meta".into(), "both copies were written anew, one was damaged");
        }
        Ok(())
    }

    fn remove_index(&mut self, path: &Path) -> Done<()> {
        let whole = self.dir.join(path);
        match fs::remove_file(&whole) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            removed => removed.map_err(open_error("cannot remove", &whole))?,
        }
        self.step(path.to_owned(), "removed, it was damaged: it is made anew when it is needed");
        Ok(())
    }

    /// One step after the other until the shard opens.
    fn repair_shard(&mut self, files: &mut ShardFiles) -> Done<Box<Recovered>> {
        loop {
            let found = files.dir.list()?;
            let (opened, recovery) = recover(files, &found);
            let error = match opened {
                Ok(recovered) => return Ok(recovered),
                Err(error) => error,
            };
            let (newest, steps) = (recovery.newest(), self.steps.len());
            match &error {
                OpenError::Damaged(damaged) => {
                    let newer = recovery.facts().is_some_and(|(.., newer)| newer == Newer::Records);
                    if newer {
                        self.set_newer_aside(files, &found, damaged.segment)?;
                    } else {
                        self.cut(files, damaged.segment, damaged.offset, damaged.what)?;
                    }
                }
                OpenError::MissingSegment { segment, .. } => match newest {
                    Some(newest) if *segment > newest => self.unseal(files, newest)?,
                    Some(_) => self.stand_in(files, *segment)?,
                    None => {
                        self.begin_anew(files, &found)?;
                        files.identity.begun = false;
                    }
                },
                OpenError::ExtraSegment { segment, .. } => {
                    self.set_aside(files, *segment, "it is not of this journal")?;
                }
                OpenError::Foreign { path, why } => {
                    let segment = found.iter().find_map(|file| {
                        match file {
                            Found::Segment(segment, _) => Some(*segment),
                            Found::Spare(..) => None,
                        }
                        .filter(|segment| files.identity.path(*segment) == *path)
                    });
                    let Some(segment) = segment else { return Err(error) };
                    self.set_aside(files, segment, why)?;
                }
                _ => return Err(error),
            }
            assert!(steps < self.steps.len(), "a repair that does nothing goes on for ever");
        }
    }

    /// The journal ends at `offset` of its newest segment.
    fn cut(&mut self, files: &ShardFiles, segment: SegmentId, offset: u64, why: &str) -> Done<()> {
        let path = files.identity.path(segment);
        let whole = self.dir.join(&path);
        let kept = self.kept(files.identity.shard)?.join(path.file_name().unwrap_or_default());
        let zeros = || {
            fs::copy(&whole, &kept)?;
            sync(&File::open(&kept)?)?;
            sync_dir(kept.parent().unwrap_or(self.dir))?;
            let len = fs::metadata(&whole)?.len();
            fill_with_zeros(&whole, offset, len)
        };
        zeros().map_err(open_error("cannot cut", &whole))?;
        self.remove_sides(files, segment)?;
        self.step(path, format!("the journal ends at {offset} now: {why}"));
        Ok(())
    }

    /// The segment that the seal names is gone: the journal ends before the seal.
    fn unseal(&mut self, files: &ShardFiles, newest: SegmentId) -> Done<()> {
        let path = self.dir.join(files.identity.path(newest));
        let bytes = fs::read(&path).map_err(open_error("cannot read", &path))?;
        let mut replay = Replay::new(&files.identity, newest);
        replay.feed(&bytes);
        while let Next::Entry(entry, _) = replay.next(true)? {
            if entry.head.flags.has(Flags::SEAL) {
                let why = "it was sealed, but the segment behind it is gone";
                return self.cut(files, newest, entry.head.place.offset.into(), why);
            }
        }
        unreachable!("recovery has just read the seal")
    }

    /// Zeros stand for a segment that is gone, or cut off.
    fn stand_in(&mut self, files: &ShardFiles, segment: SegmentId) -> Done<()> {
        let path = files.identity.path(segment);
        let whole = self.dir.join(&path);
        let make = || {
            let file = OpenOptions::new().write(true).create(true).truncate(false).open(&whole)?;
            let len = file.metadata()?.len();
            fill_with_zeros(&whole, len, files.identity.segment_size)?;
            sync_dir(files.dir.path())?;
            Ok(len)
        };
        let len = make().map_err(open_error("cannot make", &whole))?;
        self.step(
            path,
            match len {
                0 => "its file is missing: zeros stand for it".to_owned(),
                _ => format!("its file is cut off at {len}: zeros stand for the rest"),
            },
        );
        Ok(())
    }

    /// No segment is whole: what stands there goes aside, and the shard is empty.
    fn begin_anew(&mut self, files: &ShardFiles, found: &[Found]) -> Done<()> {
        for file in found {
            if let Found::Segment(segment, _) = file {
                self.set_aside(files, *segment, "no segment of the shard is whole")?;
            }
        }
        let path = self.dir.join("engine.meta");
        let Some(mut meta) = MetaFile::open(self.dir)? else { unreachable!("it was there") };
        meta.forget(files.identity.shard).map_err(open_error("cannot write", &path))?;
        self.step("engine.meta".into(), format!("shard {} is empty now", files.identity.shard));
        Ok(())
    }

    fn set_newer_aside(
        &mut self,
        files: &ShardFiles,
        found: &[Found],
        newest: SegmentId,
    ) -> Done<()> {
        for file in found {
            if let Found::Segment(segment, _) = file
                && *segment > newest
            {
                self.set_aside(files, *segment, "its header or manifest is damaged")?;
            }
        }
        Ok(())
    }

    /// Moves a segment's files away.
    fn set_aside(&mut self, files: &ShardFiles, segment: SegmentId, why: &str) -> Done<()> {
        let path = files.identity.path(segment);
        let whole = self.dir.join(&path);
        let kept = self.kept(files.identity.shard)?;
        let moved = || {
            fs::rename(&whole, kept.join(path.file_name().unwrap_or_default()))?;
            sync_dir(&kept)?;
            sync_dir(files.dir.path())
        };
        moved().map_err(open_error("cannot move", &whole))?;
        self.remove_sides(files, segment)?;
        self.step(path, format!("moved aside: {why}"));
        Ok(())
    }

    /// What they say is no longer so.
    fn remove_sides(&self, files: &ShardFiles, segment: SegmentId) -> Done<()> {
        let removed = files.dir.remove_sides(segment);
        let removed = removed.and_then(|()| sync_dir(files.dir.path()));
        removed.map_err(open_error("cannot remove side files in", files.dir.path()))
    }

    /// The directory for what is given up of a shard.
    fn kept(&mut self, shard: ShardId) -> Done<PathBuf> {
        let dir = self.kept.get_or_insert_with(|| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            self.dir.join(format!("kept-{}", now.as_micros()))
        });
        let inner = dir.join(format!("shard-{:03}", shard.get()));
        let made = fs::create_dir_all(&inner)
            .and_then(|()| sync_dir(dir))
            .and_then(|()| sync_dir(self.dir));
        made.map_err(open_error("cannot make directory", &inner))?;
        Ok(inner)
    }
}

/// Written, not only cut and grown: the file stays preallocated.
fn fill_with_zeros(path: &Path, from: u64, to: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    let zeros = vec![0; MIB as usize];
    let mut offset = from;
    while offset < to {
        let len = usize::try_from((to - offset).min(MIB.into())).expect("at most a MiB");
        file.write_all_at(&zeros[..len], offset)?;
        offset += len as u64;
    }
    sync(&file)
}
