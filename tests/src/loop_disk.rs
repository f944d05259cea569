//! A small file system of its own in a file, mounted over a loop device: a disk that can be filled.
//!
//! Unmounted, and its loop device detached, when it is dropped, also by a panic.
//!
//! Not here: what is done with it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted file system.
pub struct LoopDisk {
    image: PathBuf,
    point: PathBuf,
    mounted: bool,
}

/// Runs a program of the system; what it says.
fn run(program: &str, args: &[&str]) -> Result<String, String> {
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{path}:/usr/sbin:/sbin:/usr/bin:/bin");
    let output = Command::new(program).args(args).env("PATH", path).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary directories have plain names")
}

impl LoopDisk {
    /// Makes and mounts a file system in `dir`.
    ///
    /// # Errors
    /// What this machine lacks or refuses.
    pub fn new(dir: &Path, mkfs: &[&str], bytes: u64) -> Result<Self, String> {
        let (image, point) = (dir.join("image"), dir.join("mounted"));
        let file = File::create(&image).map_err(|error| error.to_string())?;
        file.set_len(bytes).map_err(|error| error.to_string())?;
        fs::create_dir(&point).map_err(|error| error.to_string())?;
        let (program, options) = mkfs.split_first().expect("a program");
        let args: Vec<&str> = options.iter().copied().chain([text(&image)]).collect();
        run(program, &args)?;
        let mut disk = Self { image, point, mounted: false };
        disk.mount()?;
        Ok(disk)
    }

    fn mount(&mut self) -> Result<(), String> {
        run("mount", &["-o", "loop", text(&self.image), text(&self.point)])?;
        self.mounted = true;
        Ok(())
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.point
    }

    /// Unmounts it and mounts it again: nothing is left in memory.
    ///
    /// # Panics
    /// If a file is still open.
    pub fn remount(&mut self) {
        run("umount", &[text(&self.point)]).unwrap_or_else(|why| panic!("{why}"));
        self.mounted = false;
        self.mount().unwrap_or_else(|why| panic!("{why}"));
    }

    /// Bytes that are free.
    ///
    /// # Panics
    /// If nobody says.
    #[must_use]
    pub fn free(&self) -> u64 {
        let said = run("stat", &["-f", "-c", "%a %S", text(&self.point)]).expect("stat is there");
        let mut numbers =
            said.split_whitespace().map(|word| word.parse::<u64>().expect("a number"));
        numbers.next().expect("blocks") * numbers.next().expect("their size")
    }

    /// Writes a file until it has `bytes`, or nothing more fits.
    ///
    /// # Errors
    /// Any but the disk being full.
    pub fn fill(&self, name: &str, bytes: u64) -> io::Result<()> {
        let is_full = |error: &io::Error| error.kind() == io::ErrorKind::StorageFull;
        let mut file = match File::create(self.point.join(name)) {
            // Not even room for a name.
            Err(error) if is_full(&error) => return Ok(()),
            created => created?,
        };
        let mut left = bytes;
        // Smaller and smaller pieces, down to the last block.
        for size in [1 << 20, 64 << 10, 4 << 10] {
            while left >= size as u64 {
                let full = file.write_all(&vec![1; size]).and_then(|()| file.sync_data());
                match full {
                    Ok(()) => left -= size as u64,
                    Err(error) if is_full(&error) => break,
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        if !self.mounted {
            return;
        }
        // A test that failed may have left files open: the mount goes with the last of them.
        let gone = run("umount", &[text(&self.point)]);
        if let Err(why) = gone.or_else(|_| run("umount", &["-l", text(&self.point)])) {
            eprintln!("{} is left mounted: {why}", self.point.display());
        }
    }
}
