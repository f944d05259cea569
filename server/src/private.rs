//! Files that others must not read: keys and password hashes.
//!
//! ```text
//! read:    open, look at the mode of what was opened, read
//! replace: temporary file beside it, sync, rename over it, sync the directory
//! ```
//!
//! A file is either the old one or the new one, after a crash too. Who replaces one holds a lock on
//! its directory, so that two do not lose each other's changes.
//!
//! Not here: what stands in the files (`users`, `tls`).

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

/// Bytes of a file of users, keys or certificates: nobody has more, and a wrong path is told soon.
const FILE_SIZE_MAX: u64 = 16 << 20;

/// What others may not do: anything, nor may the group change the file.
const REFUSED_MODE: u32 = 0o027;

/// A file that cannot be used: which, where in it, why, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{}{}: {why}", path.display(), line.map(|line| format!(":{line}")).unwrap_or_default())]
pub struct FileError {
    /// The file.
    pub path: PathBuf,
    /// The line, from 1, where one is to blame.
    pub line: Option<usize>,
    /// What is wrong with it, and what to do.
    pub why: String,
}

impl FileError {
    /// The whole file is to blame.
    #[must_use]
    pub fn new(path: &Path, why: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line: None, why: why.into() }
    }

    /// The byte at `offset` of its text is to blame.
    #[must_use]
    pub fn at(path: &Path, text: &str, offset: usize, why: impl Into<String>) -> Self {
        let before = text.as_bytes().iter().take(offset);
        let line = 1 + before.filter(|byte| **byte == b'\n').count();
        Self { line: Some(line), ..Self::new(path, why) }
    }

    fn io(path: &Path, doing: &str, error: &io::Error) -> Self {
        Self::new(path, format!("cannot {doing} it: {error}"))
    }
}

/// Reads a file that anyone may read.
///
/// # Errors
/// [`FileError`] if it cannot be read, or is no file of a sane size.
pub fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    Ok(read_open(path)?.0)
}

/// Reads a file with secrets.
///
/// # Errors
/// As [`read`], and if others may read it, or the group may change it.
pub fn read_private(path: &Path) -> Result<Vec<u8>, FileError> {
    let (bytes, mode) = read_open(path)?;
    if mode & REFUSED_MODE == 0 {
        return Ok(bytes);
    }
    let why = format!(
        "its mode is {:03o}, so others may read it or its group may change it; \
         run: chmod u=rw,g=r,o= {}",
        mode & 0o777,
        path.display()
    );
    Err(FileError::new(path, why))
}

/// The bytes and the mode of a file.
fn read_open(path: &Path) -> Result<(Vec<u8>, u32), FileError> {
    let file = File::open(path).map_err(|error| FileError::io(path, "open", &error))?;
    let metadata = file.metadata().map_err(|error| FileError::io(path, "look at", &error))?;
    if !metadata.is_file() {
        return Err(FileError::new(path, "it is no file; give the path of one"));
    }
    let mut bytes = Vec::new();
    let mut limited = file.take(FILE_SIZE_MAX + 1);
    limited.read_to_end(&mut bytes).map_err(|error| FileError::io(path, "read", &error))?;
    if bytes.len() as u64 > FILE_SIZE_MAX {
        let why = format!("it is longer than {FILE_SIZE_MAX} bytes; is it the right file?");
        return Err(FileError::new(path, why));
    }
    Ok((bytes, metadata.permissions().mode()))
}

/// A private file that is being changed: nobody else changes it meanwhile by this means.
#[derive(Debug)]
pub struct Change {
    path: PathBuf,
    directory: File,
}

impl Change {
    /// Begins to change a file, or to make it. Waits while somebody else is at it.
    ///
    /// # Errors
    /// [`FileError`] if its directory cannot be opened or locked.
    pub fn begin(path: &Path) -> Result<Self, FileError> {
        // Behind a link is the file that is meant.
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        let failed = |doing: &str, error: io::Error| FileError::io(parent, doing, &error);
        let directory = File::open(parent).map_err(|error| failed("open", error))?;
        rustix::fs::flock(&directory, FlockOperation::LockExclusive)
            .map_err(|error| failed("lock", error.into()))?;
        Ok(Self { path, directory })
    }

    /// What stands in the file; `None` if there is no such file.
    ///
    /// # Errors
    /// As [`read_private`].
    pub fn read(&self) -> Result<Option<Vec<u8>>, FileError> {
        match self.path.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            _ => read_private(&self.path).map(Some),
        }
    }

    /// Puts this into the place of what was there. A new file is for its owner only (0600); an old
    /// one keeps its owner, group and mode.
    ///
    /// # Errors
    /// [`FileError`]; the old file is still there, unless only the sync of the directory failed.
    pub fn replace(self, bytes: &[u8]) -> Result<(), FileError> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let temporary = self.path.with_file_name(format!(".{name}.new"));
        let failed = |doing: &str, error: io::Error| FileError::io(&self.path, doing, &error);
        // Left behind by one that was killed: the lock says that nobody is at work on it.
        match std::fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("replace", error));
            }
            _ => {}
        }
        let written = self.write(&temporary, bytes).and_then(|()| {
            std::fs::rename(&temporary, &self.path)?;
            self.directory.sync_all()
        });
        written.map_err(|error| {
            // What failed is told; that a half-made file stays is not worse.
            let _ = std::fs::remove_file(&temporary);
            failed("replace", error)
        })
    }

    fn write(&self, temporary: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(temporary)?;
        if let Ok(old) = self.path.metadata() {
            std::os::unix::fs::fchown(&file, Some(old.uid()), Some(old.gid()))?;
            file.set_permissions(PermissionsExt::from_mode(old.mode() & 0o777))?;
        }
        file.write_all(bytes)?;
        file.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().mode() & 0o777
    }

    fn set_mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }

    #[test]
    fn secrets_that_others_may_read_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, "secret").unwrap();
        for open in [0o644, 0o604, 0o620, 0o602, 0o601] {
            set_mode(&path, open);
            let error = read_private(&path).unwrap_err().to_string();
            assert!(error.contains("chmod") && error.contains(&format!("{open:o}")), "{error}");
            assert_eq!(read(&path).unwrap(), b"secret");
        }
        for private in [0o600, 0o400, 0o640, 0o440] {
            set_mode(&path, private);
            assert_eq!(read_private(&path).unwrap(), b"secret");
        }
        let error = read_private(dir.path()).unwrap_err().to_string();
        assert!(error.contains("no file"), "{error}");
        assert!(read(&dir.path().join("none")).unwrap_err().to_string().contains("open"));
    }

    #[test]
    fn a_replaced_file_is_private_and_keeps_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users");
        let change = Change::begin(&path).unwrap();
        assert_eq!(change.read().unwrap(), None);
        // One that was killed before has left this.
        std::fs::write(dir.path().join(".users.new"), "half").unwrap();
        change.replace(b"one").unwrap();
        assert_eq!(mode(&path), 0o600);
        set_mode(&path, 0o640);
        // Only the superuser can give files away.
        let owner = if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(65_532), Some(65_533)).unwrap();
            (65_532, 65_533)
        } else {
            (path.metadata().unwrap().uid(), path.metadata().unwrap().gid())
        };
        let change = Change::begin(&path).unwrap();
        assert_eq!(change.read().unwrap().unwrap(), b"one");
        change.replace(b"two").unwrap();
        assert_eq!((std::fs::read(&path).unwrap().as_slice(), mode(&path)), (&b"two"[..], 0o640));
        let metadata = path.metadata().unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), owner);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_behind_a_link_is_replaced_and_the_link_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("users"), dir.path().join("link"));
        Change::begin(&path).unwrap().replace(b"one").unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        Change::begin(&link).unwrap().replace(b"two").unwrap();
        assert!(link.is_symlink());
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
    }
}
