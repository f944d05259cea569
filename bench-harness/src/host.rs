//! What a figure must be read with: the machine, the disk under a directory, the build.
//!
//! ```text
//! facts -> machine: kernel, processors, memory, io_uring, noise
//!     `--> disk: file system, direct I/O, device, its cache, its interrupts
//! ```
//!
//! Invariants:
//! - Looking never fails: what cannot be learnt is left out, or says that it is not known.
//! - A fact has advice only where something can be changed, or must be kept in mind.
//! - Looking leaves nothing behind in the directory.
//!
//! Not here: printing (`doctor`).

mod disk;
mod machine;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use oncelog::Host;

use crate::outcome::Fact;
use crate::raw;

/// What matters for figures from this directory, which must exist.
#[must_use]
pub fn facts(dir: &Path) -> Vec<Fact> {
    let mut facts = machine::facts();
    facts.extend(disk::facts(dir));
    facts.push(Fact::new("build", commit(), None));
    facts
}

impl Fact {
    fn new(name: &str, value: impl Into<String>, advice: Option<String>) -> Self {
        Self { name: name.to_owned(), value: value.into(), advice }
    }
}

/// Why figures from this directory would say nothing about a device; empty if they do.
#[must_use]
pub fn worthless(dir: &Path) -> Vec<String> {
    let host = Host::probe(dir);
    let ring = raw::ring(8).err().map(|error| format!("io_uring is refused ({error})"));
    ring.into_iter().chain(no_device(&host)).chain(host_refuses(&host)).collect()
}

fn host_refuses(host: &Host) -> Option<String> {
    (!host.direct_io).then(|| {
        "files cannot be written past the page cache there, or not at all (direct I/O was tried)"
            .to_owned()
    })
}

/// Why it is not on a device of this machine.
fn no_device(host: &Host) -> Option<String> {
    let kind = &host.file_system;
    if host.is_volatile {
        Some(format!("{kind} lives in memory"))
    } else if host.is_network {
        Some(format!("{kind} asks another machine or process"))
    } else {
        None
    }
}

/// Refuses a directory that is not on a device, unless `any`. It need not exist yet.
///
/// # Errors
/// It is in memory or on a network.
pub fn check_dir(dir: &Path, any: bool) -> Result<()> {
    let absolute = std::path::absolute(dir)
        .with_context(|| format!("cannot tell where {} is", dir.display()))?;
    let existing = absolute.ancestors().find(|above| above.is_dir());
    match existing.and_then(|existing| no_device(&Host::probe(existing))) {
        Some(why) if !any => bail!(
            "{}: {why}, so figures from there say nothing about a device; choose another \
             directory with --dir, or go on with --any-file-system",
            dir.display()
        ),
        _ => Ok(()),
    }
}

/// Bytes that can be written to the file system of `dir`.
///
/// # Errors
/// The kernel does not say.
pub fn free_space(dir: &Path) -> Result<u64> {
    let stat = rustix::fs::statvfs(dir)
        .with_context(|| format!("cannot ask how much room there is in {}", dir.display()))?;
    Ok(stat.f_bavail * stat.f_frsize)
}

/// The commit that this program was built from, `-dirty` behind it where files were changed, or
/// `unknown`.
#[must_use]
pub fn commit() -> String {
    option_env!("BENCH_HARNESS_COMMIT").unwrap_or("unknown").to_owned()
}

/// A small file of `/proc` or `/sys`, if it is there and has something in it.
fn read(path: impl AsRef<Path>) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// `256.0 GiB`
fn size(bytes: u64) -> String {
    bytesize::ByteSize(bytes).display().iec().to_string()
}

/// How many numbers a list like `0-3,8` has.
fn count_of_list(list: &str) -> usize {
    let range = |part: &str| match part.split_once('-') {
        Some((first, last)) => Some(last.parse::<usize>().ok()? + 1 - first.parse::<usize>().ok()?),
        None => part.parse::<usize>().ok().map(|_| 1),
    };
    list.trim().split(',').filter_map(range).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_refused_unless_asked_for_even_for_a_directory_to_be_made() {
        if Host::probe(Path::new("/dev/shm")).file_system != "tmpfs" {
            eprintln!("skipped: /dev/shm is no tmpfs here");
            return;
        }
        let dir = Path::new("/dev/shm/bench-harness/none");
        assert!(check_dir(dir, false).unwrap_err().to_string().contains("--any-file-system"));
        check_dir(dir, true).unwrap();
        assert!(worthless(Path::new("/dev/shm")).iter().any(|why| why.contains("memory")));
    }

    #[test]
    fn looking_leaves_nothing_and_knows_the_kernel_and_the_file_system() {
        let dir = tempfile::tempdir().unwrap();
        let facts = facts(dir.path());
        assert!(fs::read_dir(dir.path()).unwrap().next().is_none());
        for name in ["kernel", "processors", "memory", "io_uring", "file system", "build"] {
            assert!(facts.iter().any(|fact| fact.name == name), "{name}");
        }
    }

    #[test]
    fn lists_of_processors_are_counted() {
        assert_eq!(["0", "0-1", "0-3,8,10-11\n", ""].map(count_of_list), [1, 2, 7, 0]);
    }
}
