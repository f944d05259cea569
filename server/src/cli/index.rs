//! Making the index files of a directory anew.
//!
//! ```text
//! check all -> sound? -> lock -> remove the index files -> open: what is missing is made again
//! ```
//!
//! An index that was made before its segment was damaged knows more than one that is made now, so
//! nothing is removed where there is damage.
//!
//! Not here: what an index holds.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use oncelog::host::DirLock;
use oncelog::{SegmentSpace, ShardId};
use serde_json::json;

use super::fail::Fail;
use super::inspect::run;
use super::out::Out;
use super::target::{DirArgs, open_dir};

/// The index files of a directory
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  oncelog index rebuild --dir data")]
pub(super) struct Index {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Make all of them anew, from the segments
    ///
    /// A missing or damaged index is made again whenever it is needed, so this is only for those
    /// who do not trust one. The directory is checked first; where records are damaged, nothing is
    /// done.
    Rebuild(DirArgs),
}

pub(super) fn index(args: Index, out: &mut Out) -> Result<(), Fail> {
    let What::Rebuild(DirArgs { dir }) = args.what;
    let report = run(&dir, out)?;
    if !report.is_sound() {
        return Err(Fail::No(format!(
            "{} is damaged: an index made before knows more than one made now, so all were left; \
             see `oncelog verify`",
            dir.display()
        )));
    }
    let removed = {
        let _lock = DirLock::acquire(&dir)?;
        remove(&dir)?
    };
    let engine = open_dir(&dir)?;
    // It looks into every segment, and an index that is missing is written.
    let space = engine.space().wait()?;
    engine.close().wait()?;
    drop(engine);
    let made = index_files(&dir)?;
    let is_missing = |shard: ShardId, segment: &SegmentSpace| {
        let path = |end| {
            let number = segment.segment.get();
            dir.join(format!("shard-{:03}/segment-{number:016x}.{end}", shard.get()))
        };
        // A segment that nothing needed any more may have gone meanwhile.
        segment.sealed && path("log").exists() && !made.contains(&path("index"))
    };
    let all = space.shards.iter().flat_map(|s| s.segments.iter().map(|segment| (s.shard, segment)));
    let missing = all.filter(|(shard, segment)| is_missing(*shard, segment)).count();
    let made = made.len();
    let json = || json!({ "removed": removed, "made": made, "missing": missing });
    out.either(json, || format!("{removed} index files removed, {made} made anew"))?;
    if missing > 0 {
        let why = format!("{missing} index files could not be made: they are made when needed");
        return Err(Fail::Failed(why));
    }
    Ok(())
}

fn remove(dir: &Path) -> Result<usize, Fail> {
    let files = index_files(dir)?;
    for file in &files {
        fs::remove_file(file).map_err(Fail::io("cannot remove", file))?;
    }
    let mut dirs: Vec<&Path> = files.iter().filter_map(|file| file.parent()).collect();
    dirs.dedup();
    for dir in dirs {
        let synced = File::open(dir).and_then(|dir| dir.sync_all());
        synced.map_err(Fail::io("cannot sync", dir))?;
    }
    Ok(files.len())
}

/// Sorted, so those of one shard stand together.
fn index_files(dir: &Path) -> Result<Vec<PathBuf>, Fail> {
    let mut found = Vec::new();
    for shard in entries(dir)? {
        let named = |path: &Path, begin: &str| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(begin))
        };
        if !named(&shard, "shard-") || !shard.is_dir() {
            continue;
        }
        let files = entries(&shard)?.into_iter();
        let is_index = |path: &PathBuf| path.extension().is_some_and(|end| end == "index");
        found.extend(files.filter(|path| named(path, "segment-") && is_index(path)));
    }
    found.sort();
    Ok(found)
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, Fail> {
    let failed = Fail::io("cannot list", dir);
    let entries = fs::read_dir(dir).map_err(&failed)?;
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(&failed)).collect()
}
