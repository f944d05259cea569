//! Making a damaged directory open again, by giving up what is lost: asked for, never by itself.
//!
//! ```text
//! check -> why does a shard refuse? -> one step -> ask again .. -> it opens -> check again
//!              an entry is damaged that others prove  -> the journal ends before it
//!              a header is damaged                    -> made anew, if its digest proves it right
//!              a manifest is damaged, records behind  -> the file goes aside
//!              a file is missing, or cut off          -> zeros stand for it: reads say so
//!              a file of elsewhere                    -> the file goes aside
//! ```
//!
//! Invariants:
//! - Bytes that a step drops are kept, and the step is told in the account, before it is done
//!   (`kept`). A repair that is interrupted is simply done again.
//! - No segment number is used again: a spare with a higher one stands there before a file goes.
//!
//! Not here: damage that an engine opens with. Reads of it fail and say what is lost; nothing can
//! bring it back, and giving up what stands around it would only lose more.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::error::OpenError;
use crate::format::entry::{Entry, Flags};
use crate::format::header::SegmentHeader;
use crate::format::{VERSION, VERSION_MIN};
use crate::io::{Found, Side, SpareId};
use crate::judge::Newer;
use crate::kept::Kept;
use crate::limits::{BLOCK_SIZE, ENTRIES_IN_FLIGHT_MAX, MIB, entry_size_max};
use crate::meta::{MetaFile, open_error, sync, sync_dir};
use crate::position::{SegmentId, Sequence, ShardId};
use crate::recover::Recovered;
use crate::replay::{Next, Replay};
use crate::report::{AtRisk, Report};
use crate::survey::Seen;
use crate::verify::{ShardFiles, check_all, lock, recover, shards};

/// Steps that one shard may need for each of its files, and then some.
const STEPS_MAX: usize = 16;

/// Makes a damaged directory open again.
///
/// Only what keeps the engine from opening is given up; a copy of the superblock, an index or a
/// segment header that is damaged is made anew. No log data is deleted: what is given up is kept in
/// a directory `kept-..` inside the data directory, with an account of what was found and done in
/// `report.txt`. Sequences that are given up at a log's end will be given to new records; whoever
/// has seen the lost ones elsewhere should know.
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
        let Some(meta) = MetaFile::open(&self.dir)? else { unreachable!("it was there") };
        let shards = shards(&self.dir, meta.superblock());
        drop(meta);
        // What cannot be repaired is told before anything is done.
        for files in &shards {
            let found = files.dir.list()?;
            if let Err(error) = recover(files, &found).0
                && (!is_damage(&error) || segments(&found).next().is_none())
            {
                return Err(error);
            }
        }
        let (kept, steps) = (Kept::new(&self.dir), Vec::new());
        let mut work = Work {
            dir: &self.dir,
            found: &before.report,
            kept,
            steps,
            partly: false,
            unknown: false,
        };
        work.renew_meta()?;
        let mut lost = Vec::new();
        for (mut files, seen) in shards.into_iter().zip(&before.seen) {
            (work.partly, work.unknown) = (false, false);
            let recovered = work.repair_shard(&mut files)?;
            let mut gone = given_up(seen, &recovered);
            if work.unknown || work.partly && !seen.complete {
                gone.push(AtRisk::Unknown);
            }
            for lost in &gone {
                work.tell(&format!("lost in shard {}: {lost}", files.identity.shard))?;
            }
            lost.extend(gone.into_iter().map(|lost| (files.identity.shard, lost)));
        }
        for finding in &before.report.findings {
            if finding.path.extension().is_some_and(|end| end == "index") {
                work.remove_index(&finding.path)?;
            }
        }
        let (kept, steps) = (work.kept.path().map(Path::to_owned), work.steps);
        let after = check_all(&self.dir, |_| {})?;
        Ok(Repaired { before: before.report, steps, kept, lost, after: after.report })
    }
}

fn is_damage(error: &OpenError) -> bool {
    matches!(
        error,
        OpenError::Damaged(_)
            | OpenError::MissingSegment { .. }
            | OpenError::ExtraSegment { .. }
            | OpenError::Foreign { .. }
    )
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
    /// What was found before.
    found: &'a Report,
    kept: Kept<'a>,
    steps: Vec<Step>,
    /// Something was given up; what it held is told if what was seen is complete.
    partly: bool,
    /// Something is gone that nothing tells of.
    unknown: bool,
}

type Done<T> = Result<T, OpenError>;

impl Work<'_> {
    /// What is about to be done.
    fn step(&mut self, path: &Path, what: impl Into<String>) {
        let what = what.into();
        tracing::warn!(file = %path.display(), "{what}");
        self.steps.push(Step { path: path.to_owned(), what });
    }

    /// As [`step`](Self::step), for what gives something up: the account is durable before.
    fn give_up(&mut self, path: &Path, what: impl Into<String>) -> Done<()> {
        let what = what.into();
        if self.kept.path().is_none() {
            self.tell(&format!("found:\n{}\n\ndone:", self.found))?;
        }
        self.tell(&format!("{}: {what}", path.display()))?;
        self.partly = true;
        self.step(path, what);
        Ok(())
    }

    fn tell(&mut self, text: &str) -> Done<()> {
        self.kept.tell(text).map_err(open_error("cannot keep a report in", self.dir))
    }

    fn renew_meta(&mut self) -> Done<()> {
        let path = self.dir.join("engine.meta");
        let Some(mut meta) = MetaFile::open(self.dir)? else { unreachable!("it was there") };
        if meta.damaged_copies().next().is_some() {
            meta.renew().map_err(open_error("cannot write", &path))?;
            self.step(Path::new("engine.meta"), "both copies were written anew, one was damaged");
        }
        Ok(())
    }

    fn remove_index(&mut self, path: &Path) -> Done<()> {
        let whole = self.dir.join(path);
        match fs::remove_file(&whole) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            removed => removed.map_err(open_error("cannot remove", &whole))?,
        }
        self.step(path, "removed, it was damaged: it is made anew when it is needed");
        Ok(())
    }

    /// One step after the other until the shard opens.
    fn repair_shard(&mut self, files: &mut ShardFiles) -> Done<Box<Recovered>> {
        let limit = self.steps.len() + STEPS_MAX + 4 * files.dir.list()?.len();
        loop {
            let found = files.dir.list()?;
            let (opened, recovery) = recover(files, &found);
            let error = match opened {
                Ok(recovered) => return Ok(recovered),
                Err(error) if limit <= self.steps.len() => return Err(error),
                Err(error) => error,
            };
            match &error {
                OpenError::Damaged(damaged) => {
                    let newer = recovery.facts().is_some_and(|(.., newer)| newer == Newer::Records);
                    if newer {
                        self.newer(files, &found, Some(damaged.segment))?;
                    } else {
                        self.cut(files, damaged.segment, damaged.offset, damaged.what)?;
                    }
                }
                OpenError::MissingSegment { segment, .. } => match recovery.newest() {
                    Some(newest) if *segment > newest => self.unseal(files, newest)?,
                    Some(_) => self.stand_in(files, *segment)?,
                    // Its directory may only be somewhere else.
                    None if segments(&found).next().is_none() => return Err(error),
                    None if self.newer(files, &found, None)? => {}
                    None => {
                        self.forget(files)?;
                        files.identity.begun = false;
                    }
                },
                OpenError::ExtraSegment { segment, .. } => {
                    self.set_aside(files, *segment, "it is not of this journal")?;
                }
                OpenError::Foreign { path, why } => {
                    let named = |segment: &SegmentId| files.identity.path(*segment) == *path;
                    let Some(segment) = segments(&found).find(named) else { return Err(error) };
                    self.set_aside(files, segment, why)?;
                }
                _ => return Err(error),
            }
        }
    }

    /// Files behind the newest whole segment, in which records stand: the header of the first one
    /// is made anew if that is all it lacks, otherwise they go aside. `true` if it was made anew.
    fn newer(
        &mut self,
        files: &ShardFiles,
        found: &[Found],
        newest: Option<SegmentId>,
    ) -> Done<bool> {
        let behind =
            segments(found).filter(|segment| newest.is_none_or(|newest| newest < *segment));
        let mut behind: Vec<_> = behind.collect();
        behind.sort_unstable();
        for segment in &behind {
            if self.renew_header(files, *segment, newest)? {
                return Ok(true);
            }
        }
        for segment in behind {
            self.set_aside(files, segment, "its header or manifest is damaged")?;
        }
        Ok(false)
    }

    /// A header holds nothing that its segment's first entry and the segment before do not tell,
    /// and that entry holds the header's checksum.
    fn renew_header(
        &mut self,
        files: &ShardFiles,
        segment: SegmentId,
        newest: Option<SegmentId>,
    ) -> Done<bool> {
        let path = files.identity.path(segment);
        let whole = self.dir.join(&path);
        let bytes = fs::read(&whole).map_err(open_error("cannot read", &whole))?;
        let place = files.identity.place(segment);
        let first = bytes.get(BLOCK_SIZE as usize..).and_then(Entry::parse);
        let Some(first) = first.filter(|first| first.head.place == place) else {
            return Ok(false);
        };
        let mut before = vec![(SegmentId(0), 0, 0)];
        if let Some(newest) = newest {
            before = ends(self.dir, files, newest)?;
        }
        let versions = (VERSION_MIN..=VERSION).rev();
        let tried =
            versions.flat_map(|version| before.iter().map(move |before| (version, *before)));
        for (version, (previous, previous_end, previous_digest)) in tried {
            let (block, digest) = SegmentHeader {
                version,
                engine: files.identity.engine,
                shard: files.identity.shard,
                segment,
                segment_size: files.identity.segment_size,
                entry_size_max: entry_size_max(files.identity.segment_size),
                entries_in_flight_max: ENTRIES_IN_FLIGHT_MAX,
                previous,
                previous_end,
                previous_digest,
                created_us: first.head.time_us,
            }
            .encode();
            if digest == first.head.previous_digest && bytes[..block.len()] != block {
                let written = || {
                    let file = OpenOptions::new().write(true).open(&whole)?;
                    file.write_all_at(&block, 0)?;
                    sync(&file)
                };
                self.step(&path, "its damaged header was made anew; its digest proves it right");
                written().map_err(open_error("cannot write", &whole))?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The journal ends at `offset` of its newest segment.
    fn cut(&mut self, files: &ShardFiles, segment: SegmentId, offset: u64, why: &str) -> Done<()> {
        let path = files.identity.path(segment);
        let whole = self.dir.join(&path);
        self.give_up(&path, format!("the journal ends at {offset} now: {why}"))?;
        self.take_sides(files, segment)?;
        let mut cut = || {
            self.kept.copy(&whole)?;
            let len = fs::metadata(&whole)?.len();
            fill_with_zeros(&whole, offset, len)
        };
        cut().map_err(open_error("cannot cut", &whole))
    }

    /// The segment that the seal names is gone: the journal ends before the seal.
    fn unseal(&mut self, files: &ShardFiles, newest: SegmentId) -> Done<()> {
        let before_seal = ends(self.dir, files, newest)?[0].1;
        self.unknown = true;
        self.cut(files, newest, before_seal, "it was sealed, but the segment behind it is gone")
    }

    /// Zeros stand for a segment that is gone, or cut off.
    fn stand_in(&mut self, files: &ShardFiles, segment: SegmentId) -> Done<()> {
        let path = files.identity.path(segment);
        let whole = self.dir.join(&path);
        let len = fs::metadata(&whole).map_or(0, |metadata| metadata.len());
        let what = match len {
            0 => "its file is missing: zeros stand for it".to_owned(),
            _ => format!("its file is cut off at {len}: zeros stand for the rest"),
        };
        let partly = self.partly;
        self.give_up(&path, what)?;
        // What it held is told by the segments around it.
        self.partly = partly;
        let make = || {
            OpenOptions::new().write(true).create(true).truncate(false).open(&whole)?;
            fill_with_zeros(&whole, len, files.identity.segment_size)?;
            sync_dir(files.dir.path())
        };
        make().map_err(open_error("cannot make", &whole))
    }

    /// No segment is whole, and all went aside: the shard is empty.
    fn forget(&mut self, files: &ShardFiles) -> Done<()> {
        let path = self.dir.join("engine.meta");
        self.unknown = true;
        self.give_up(Path::new("engine.meta"), "no segment is whole: the shard is empty now")?;
        let Some(mut meta) = MetaFile::open(self.dir)? else { unreachable!("it was there") };
        meta.forget(files.identity.shard).map_err(open_error("cannot write", &path))
    }

    /// Moves a segment's files away.
    fn set_aside(&mut self, files: &ShardFiles, segment: SegmentId, why: &str) -> Done<()> {
        let path = files.identity.path(segment);
        let whole = self.dir.join(&path);
        self.give_up(&path, format!("moved aside: {why}"))?;
        let number = |file: &Found| match file {
            Found::Segment(segment, _) => segment.0,
            Found::Spare(spare, _) => spare.0,
        };
        let found = files.dir.list()?;
        let highest = found.iter().map(number).max().unwrap_or(segment.0);
        if !found.iter().any(|file| matches!(file, Found::Spare(spare, _) if spare.0 == highest)) {
            let spare =
                files.dir.make_spare(SpareId(highest + 1), files.identity.segment_size, true);
            spare.map_err(open_error("cannot make a spare in", files.dir.path()))?;
        }
        self.take_sides(files, segment)?;
        self.kept.take(&whole).map_err(open_error("cannot move", &whole))
    }

    /// What they say is no longer so.
    fn take_sides(&mut self, files: &ShardFiles, segment: SegmentId) -> Done<()> {
        for side in [Side::Index, Side::Tail] {
            let path = files.dir.side(segment, side);
            self.kept.take(&path).map_err(open_error("cannot move", &path))?;
        }
        Ok(())
    }
}

fn segments(found: &[Found]) -> impl Iterator<Item = SegmentId> {
    found.iter().filter_map(|file| match file {
        Found::Segment(segment, _) => Some(*segment),
        Found::Spare(..) => None,
    })
}

/// Number, end and last digest of a segment: before its seal, then with it.
fn ends(dir: &Path, files: &ShardFiles, segment: SegmentId) -> Done<Vec<(SegmentId, u64, u64)>> {
    let path = dir.join(files.identity.path(segment));
    let bytes = fs::read(&path).map_err(open_error("cannot read", &path))?;
    let mut replay = Replay::new(&files.identity, segment);
    replay.feed(&bytes);
    let mut ends = Vec::new();
    while let Next::Entry(entry, _) = replay.next(true)? {
        if entry.head.flags.has(Flags::SEAL) {
            ends.push((segment, entry.head.place.offset.into(), entry.head.previous_digest));
        }
    }
    if let Some(scan) = replay.scan() {
        ends.push((segment, scan.place().offset.into(), scan.digest()));
    }
    Ok(ends)
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
