//! `engine.meta`: what an engine is, in two copies of which one is always whole (F-3).
//!
//! The copy that is known to be whole is written last. After a failed write or sync nothing more is
//! written: nobody knows which copy is whole then.
//!
//! Not here: segments and everything else in a shard's directory (`files`).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::{Errno, retry_on_intr};

use crate::error::OpenError;
use crate::format::VERSION;
use crate::format::header::{HeaderError, Superblock};
use crate::limits::BLOCK_SIZE;
use crate::position::ShardId;

/// What was tried on which file, around the system's refusal.
pub(crate) fn open_error<'a>(
    what: &'static str,
    path: &'a Path,
) -> impl Fn(io::Error) -> OpenError + 'a {
    move |source| OpenError::Io { what, path: path.to_owned(), source: source.into() }
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    sync(&File::open(dir)?)
}

/// `fsync`. An error is never tried again: the pages that failed may count as clean after it.
pub(crate) fn sync(file: &File) -> io::Result<()> {
    rustix::fs::fsync(file)?;
    Ok(())
}

/// See [`MetaFile`]'s `newest`.
const UNKNOWN: u64 = u64::MAX;

/// `engine.meta`.
#[derive(Debug)]
pub struct MetaFile {
    file: File,
    current: Superblock,
    /// The copy that must stay whole until the other one is durable.
    newest: u64,
    /// Whether the other one was not whole when it was opened.
    damaged: bool,
    /// Whether the other one holds something else.
    behind: bool,
}

impl MetaFile {
    /// Opens it, or `None` where there is none.
    ///
    /// # Errors
    /// [`OpenError::NewerFormat`], [`OpenError::Foreign`], [`OpenError::Io`]
    pub fn open(dir: &Path) -> Result<Option<Self>, OpenError> {
        let path = dir.join("engine.meta");
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(open_error("cannot open", &path))?,
        };
        // A killed process may have left it only in memory. What is acted on must be durable.
        sync(&file).map_err(open_error("cannot sync", &path))?;
        let mut bytes = Vec::new();
        let read = (&file).take(Superblock::FILE_SIZE as u64).read_to_end(&mut bytes);
        read.map_err(open_error("cannot read", &path))?;
        let foreign = |why: &str| OpenError::Foreign { path: path.clone(), why: why.to_owned() };
        let (first, second) = bytes.split_at(bytes.len().min(BLOCK_SIZE as usize));
        let (current, newest) = match (Superblock::decode(first), Superblock::decode(second)) {
            (Err(HeaderError::Newer(found)), _) | (_, Err(HeaderError::Newer(found))) => {
                return Err(OpenError::NewerFormat { path: path.clone(), found, known: VERSION });
            }
            (Ok(a), Ok(b)) if a.engine != b.engine => {
                return Err(foreign("holds the superblocks of two different engines"));
            }
            (Ok(a), Ok(b)) if a.generation > b.generation => (a, 0),
            (_, Ok(b)) => (b, 1),
            (Ok(a), Err(HeaderError::Invalid)) => (a, 0),
            (Err(HeaderError::Invalid), Err(HeaderError::Invalid)) => {
                return Err(foreign("has no valid superblock: both are damaged, or never were"));
            }
        };
        let other = if newest == 0 { second } else { first };
        let other = Superblock::decode(other);
        let (damaged, behind) = (other.is_err(), other.as_ref() != Ok(&current));
        Ok(Some(Self { file, current, newest, damaged, behind }))
    }

    /// Makes it. There must be none.
    ///
    /// # Errors
    /// [`OpenError::Io`]
    pub fn create(dir: &Path, superblock: &Superblock) -> Result<Self, OpenError> {
        let path = dir.join("engine.meta");
        let make = || {
            let tmp = dir.join("engine.meta.tmp");
            let mut open = OpenOptions::new();
            let mut file = open.read(true).write(true).create(true).truncate(true).open(&tmp)?;
            let block = superblock.encode();
            file.write_all(&block)?;
            file.write_all(&block)?;
            sync(&file)?;
            rename_new(&tmp, &path)?;
            sync_dir(dir)?;
            Ok(file)
        };
        let file = make().map_err(open_error("cannot make", &path))?;
        Ok(Self { file, current: superblock.clone(), newest: 1, damaged: false, behind: false })
    }

    /// What it says.
    #[must_use]
    pub fn superblock(&self) -> &Superblock {
        &self.current
    }

    /// Where a copy stood that was not whole when it was opened.
    pub(crate) fn damaged_copies(&self) -> impl Iterator<Item = u64> + use<> {
        let other = (1 - self.newest) * u64::from(BLOCK_SIZE);
        self.damaged.then_some(other).into_iter()
    }

    /// Writes the other copy again if it is damaged or older: a crash may have come between the
    /// two, and then the newest stands only once.
    ///
    /// # Errors
    /// It cannot be written. The newest copy is whole.
    pub(crate) fn level(&mut self) -> io::Result<()> {
        if !self.behind {
            return Ok(());
        }
        let offset = (1 - self.newest) * u64::from(BLOCK_SIZE);
        self.file.write_all_at(&self.current.encode(), offset)?;
        sync(&self.file)?;
        self.behind = false;
        Ok(())
    }

    /// Writes both copies anew, in the newest version.
    pub(crate) fn renew(&mut self) -> io::Result<()> {
        let generation = self.current.generation + 1;
        self.update(Superblock { generation, version: VERSION, ..self.current.clone() })
    }

    fn update(&mut self, superblock: Superblock) -> io::Result<()> {
        assert!(self.current.generation < superblock.generation);
        if self.newest == UNKNOWN {
            return Err(io::Error::other("writing engine.meta failed before"));
        }
        // After a failure nobody knows which copy is whole: neither is written again.
        let newest = std::mem::replace(&mut self.newest, UNKNOWN);
        let block = superblock.encode();
        for copy in [1 - newest, newest] {
            self.file.write_all_at(&block, copy * u64::from(BLOCK_SIZE))?;
            sync(&self.file)?;
        }
        self.current = superblock;
        (self.newest, self.damaged, self.behind) = (newest, false, false);
        Ok(())
    }

    /// Notes durably that a shard holds nothing.
    pub(crate) fn forget(&mut self, shard: ShardId) -> io::Result<()> {
        let mut superblock = self.current.clone();
        superblock.generation += 1;
        superblock.clear_begun(shard);
        self.update(superblock)
    }

    /// Notes durably that a shard has begun.
    pub(crate) fn begin(&mut self, shard: ShardId) -> io::Result<()> {
        if self.current.has_begun(shard) {
            return Ok(());
        }
        let mut superblock = self.current.clone();
        superblock.generation += 1;
        superblock.set_begun(shard);
        self.update(superblock)
    }
}

/// Renames, and never over a file that is there.
pub(crate) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match retry_on_intr(|| renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)) {
        // The file system does not know the flag. Nobody else makes files here: the lock is held.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => match fs::symlink_metadata(to) {
            Ok(_) => Err(Errno::EXIST.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => fs::rename(from, to),
            Err(error) => Err(error),
        },
        renamed => Ok(renamed?),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs;

    use super::*;
    use crate::limits::SEGMENT_SIZE_MIN;

    pub(crate) fn superblock() -> Superblock {
        Superblock {
            version: VERSION,
            engine: [7; 16],
            shard_count: 9,
            segment_size: SEGMENT_SIZE_MIN,
            generation: 1,
            created_us: 1,
            begun: [0; 32],
        }
    }

    fn damage(dir: &Path, copy: u64) {
        let file = OpenOptions::new().write(true).open(dir.join("engine.meta")).unwrap();
        file.write_all_at(&[0xFF; 64], copy * u64::from(BLOCK_SIZE)).unwrap();
    }

    /// A crash between the two writes of a change left the newest in one copy alone, and damage to
    /// that copy later lost the change.
    #[test]
    fn opening_makes_both_copies_the_same_again() {
        let dir = tempfile::tempdir().unwrap();
        MetaFile::create(dir.path(), &superblock()).unwrap();
        for (shard, copy) in [0, 1, 1, 0].into_iter().enumerate() {
            let shard = ShardId(u16::try_from(shard).unwrap());
            let path = dir.path().join("engine.meta");
            let before = fs::read(&path).unwrap();
            MetaFile::open(dir.path()).unwrap().unwrap().begin(shard).unwrap();
            let mut torn = fs::read(&path).unwrap();
            let block = BLOCK_SIZE as usize;
            let old = if copy == 0 { 0..block } else { block..2 * block };
            torn[old.clone()].copy_from_slice(&before[old]);
            fs::write(&path, torn).unwrap();
            MetaFile::open(dir.path()).unwrap().unwrap().level().unwrap();
            damage(dir.path(), 1 - copy);
            assert!(MetaFile::open(dir.path()).unwrap().unwrap().superblock().has_begun(shard));
            MetaFile::open(dir.path()).unwrap().unwrap().level().unwrap();
        }
    }

    #[test]
    fn the_superblock_survives_the_loss_of_either_copy_at_any_time() {
        let dir = tempfile::tempdir().unwrap();
        assert!(MetaFile::open(dir.path()).unwrap().is_none());
        MetaFile::create(dir.path(), &superblock()).unwrap();
        for (shard, copy) in [0, 1, 1, 0, 0, 1].into_iter().enumerate() {
            damage(dir.path(), copy);
            let mut meta = MetaFile::open(dir.path()).unwrap().unwrap();
            assert_eq!(meta.newest, 1 - copy, "the whole one must not be written first");
            assert_eq!(meta.superblock().generation, 1 + shard as u64);
            let shard = ShardId(u16::try_from(shard).unwrap());
            meta.begin(shard).unwrap();
            meta.begin(shard).unwrap();
            assert!(MetaFile::open(dir.path()).unwrap().unwrap().superblock().has_begun(shard));
        }
        damage(dir.path(), 0);
        damage(dir.path(), 1);
        assert!(matches!(MetaFile::open(dir.path()), Err(OpenError::Foreign { .. })));
        fs::write(dir.path().join("engine.meta"), "short").unwrap();
        assert!(matches!(MetaFile::open(dir.path()), Err(OpenError::Foreign { .. })));
    }
}
