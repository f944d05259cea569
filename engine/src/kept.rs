//! Where a repair keeps what it gives up, and the account of it.
//!
//! ```text
//! kept-<time>/report.txt            what was found, each step before it is done, what was lost
//!             shard-000/segment-..  copies and moved files, none ever replaced
//! ```
//!
//! Everything here is durable before the step that needs it.
//!
//! Not here: what is given up (`repair`).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::meta::{rename_new, sync, sync_dir};

/// See the module's head. The directory is made when it is first needed.
pub(crate) struct Kept<'a> {
    dir: &'a Path,
    path: Option<PathBuf>,
}

impl<'a> Kept<'a> {
    /// For a data directory.
    pub(crate) fn new(dir: &'a Path) -> Self {
        Self { dir, path: None }
    }

    /// Where it is, if anything was kept.
    pub(crate) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Adds to the account.
    pub(crate) fn tell(&mut self, text: &str) -> io::Result<()> {
        let path = self.make()?.join("report.txt");
        let mut file = OpenOptions::new().append(true).create(true).open(&path)?;
        file.write_all(text.as_bytes())?;
        file.write_all(b"\n")?;
        sync(&file)
    }

    /// Copies a file here.
    pub(crate) fn copy(&mut self, file: &Path) -> io::Result<()> {
        let to = self.free(file)?;
        let mut from = File::open(file)?;
        let mut copy = OpenOptions::new().write(true).create_new(true).open(&to)?;
        io::copy(&mut from, &mut copy)?;
        sync(&copy)?;
        sync_dir(to.parent().unwrap_or(self.dir))
    }

    /// Moves a file here, if it is there.
    pub(crate) fn take(&mut self, file: &Path) -> io::Result<()> {
        if !file.exists() {
            return Ok(());
        }
        let to = self.free(file)?;
        rename_new(file, &to)?;
        sync_dir(to.parent().unwrap_or(self.dir))?;
        sync_dir(file.parent().unwrap_or(self.dir))
    }

    fn make(&mut self) -> io::Result<&Path> {
        if self.path.is_none() {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let path = self.dir.join(format!("kept-{}", now.as_micros()));
            fs::create_dir(&path)?;
            sync_dir(self.dir)?;
            self.path = Some(path);
        }
        Ok(self.path.as_deref().expect("it was just made"))
    }

    /// A name that no file has, in the same directory as in the data directory.
    fn free(&mut self, file: &Path) -> io::Result<PathBuf> {
        let made = self.make()?.to_owned();
        let inside = file.strip_prefix(self.dir).unwrap_or(file).to_owned();
        let to = made.join(inside);
        if let Some(parent) = to.parent().filter(|parent| !parent.is_dir()) {
            fs::create_dir(parent)?;
            sync_dir(&made)?;
        }
        let name = to.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let numbered = |n: u32| to.with_file_name(format!("{name}.{n}"));
        let names = std::iter::once(to.clone()).chain((1..).map(numbered));
        Ok(names.into_iter().find(|name| !name.exists()).expect("numbers do not end"))
    }
}
