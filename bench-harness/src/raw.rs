//! The least a program can do to write durably: a loop on io_uring, and nothing else.
//!
//! ```text
//! Pattern (mode, size, depth) -> SQEs -> enter -> CQEs -> Latency -> Point
//!           ^ `raw/dsync-4k-1`     ^________________|  each slot begins anew
//! ```
//!
//! Invariants:
//! - One thread makes, uses and drops the ring. Each slot has one write under way, or its sync.
//! - The kernel only reads the memory, and it stays until the last completion was reaped; where
//!   that cannot be waited for, it is never freed.
//! - A write goes to blocks that were written before. A short or failed one ends the measurement.
//!
//! Not here: records, checksums, group commit, clients. What those cost is the engine's distance to
//! these figures.
#![expect(unsafe_code, reason = "the kernel is given addresses of memory; each block has a proof")]

use std::fs::{File, OpenOptions};
use std::io;
use std::mem;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use io_uring::squeue::{Entry, Flags};
use io_uring::types::{Fixed, FsyncFlags};
use io_uring::{IoUring, opcode};
use nix::libc::iovec;
use rustix::fs::OFlags;
use rustix::io::ReadWriteFlags;

use crate::outcome::{Latency, Point};

/// Sizes that are measured, with their names.
pub const SIZES: [(&str, u32); 5] =
    [("4k", 4 << 10), ("16k", 16 << 10), ("64k", 64 << 10), ("256k", 256 << 10), ("1m", 1 << 20)];
/// Writes in flight that are measured.
pub const DEPTHS: [u32; 4] = [1, 2, 4, 8];

/// Entries of the ring: two for each slot, and to spare.
const RING_SIZE: u32 = 32;
/// What direct I/O may ask of an address.
const PAGE: usize = 4096;

/// How a write is made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Not at all: the device has it, perhaps in a volatile cache.
    None,
    /// The write carries `RWF_DSYNC`.
    Dsync,
    /// When the write has completed, an `OP_FSYNC` of the data begins.
    Fsync,
    /// Write and `OP_FSYNC` are submitted together, linked.
    Linked,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Dsync, Self::Fsync, Self::Linked, Self::None];

    /// As in the names of points.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Dsync => "dsync",
            Self::Fsync => "fsync",
            Self::Linked => "linked",
        }
    }

    /// As in [`Point::sync`].
    #[must_use]
    pub fn sync(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Dsync => "dsync",
            Self::Fsync | Self::Linked => "fdatasync",
        }
    }
}

/// What to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// How it becomes durable.
    pub mode: Mode,
    /// Bytes of a write.
    pub size: u32,
    /// Writes in flight.
    pub depth: u32,
}

impl Pattern {
    /// The whole grid.
    pub fn all() -> impl Iterator<Item = Self> {
        let sized = |mode| SIZES.into_iter().map(move |(_, size)| (mode, size));
        let pairs = Mode::ALL.into_iter().flat_map(sized);
        pairs.flat_map(|(mode, size)| {
            DEPTHS.into_iter().map(move |depth| Self { mode, size, depth })
        })
    }

    /// Name of its point: `raw/dsync-4k-1`.
    ///
    /// # Panics
    /// The size is none of [`SIZES`].
    #[must_use]
    pub fn name(&self) -> String {
        let size = SIZES.iter().find(|(_, size)| *size == self.size);
        let (size, _) = size.expect("a pattern is one of the grid");
        format!("raw/{}-{size}-{}", self.mode.name(), self.depth)
    }

    /// The pattern of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::all().find(|pattern| pattern.name() == name)
    }
}

/// A ring with the best flags that the kernel has, and their names.
///
/// # Errors
/// io_uring is not allowed or not there.
pub fn ring(entries: u32) -> io::Result<(IoUring, &'static str)> {
    let mut newest = IoUring::builder();
    newest.setup_single_issuer().setup_defer_taskrun().setup_coop_taskrun();
    if let Ok(ring) = newest.build(entries) {
        return Ok((ring, "SINGLE_ISSUER|DEFER_TASKRUN|COOP_TASKRUN"));
    }
    let mut newer = IoUring::builder();
    newer.setup_coop_taskrun();
    if let Ok(ring) = newer.build(entries) {
        return Ok((ring, "COOP_TASKRUN"));
    }
    Ok((IoUring::new(entries)?, "none"))
}

/// Writes in this pattern to a file that was written before in full, for `seconds` after a short
/// warm-up.
///
/// # Errors
/// No ring, no direct I/O, or a write failed.
pub fn run(path: &Path, pattern: Pattern, seconds: f64) -> Result<Point> {
    let mut options = OpenOptions::new();
    let file = options.write(true).custom_flags(OFlags::DIRECT.bits().cast_signed()).open(path);
    let file = file.with_context(|| {
        format!(
            "cannot open {} past the page cache; use a directory on a file system with direct I/O",
            path.display()
        )
    })?;
    let mut work = Loop::new(&file, pattern)?;
    let begin = Instant::now() + Duration::from_secs_f64((seconds / 10.0).min(0.25));
    let end = begin + Duration::from_secs_f64(seconds);
    work.go(begin, end)?;
    let operations = work.latency.0.len();
    ensure!(operations > 0, "nothing was written in {seconds} s; measure for longer");
    let ops_per_s = operations as f64 / seconds;
    Ok(Point {
        block_size: pattern.size.into(),
        depth: pattern.depth,
        sync: pattern.mode.sync().to_owned(),
        ops_per_s,
        mb_per_s: ops_per_s * f64::from(pattern.size) / 1e6,
        p50_us: work.latency.quantile_us(0.5),
        p99_us: work.latency.quantile_us(0.99),
    })
}

/// `user_data`: the slot, and above it whether it is the sync.
const SYNC: u64 = 1 << 32;

struct Loop {
    ring: IoUring,
    pattern: Pattern,
    /// `depth` buffers of `size`, from `base` on, where the first page begins.
    memory: Vec<u8>,
    base: usize,
    /// The memory is registered.
    fixed: bool,
    /// When the write of each slot began.
    began: Vec<Instant>,
    next: u64,
    file_size: u64,
    /// Slots that wait for a completion.
    in_flight: u32,
    latency: Latency,
}

impl Drop for Loop {
    fn drop(&mut self) {
        if self.in_flight > 0 {
            mem::forget(mem::take(&mut self.memory));
        }
    }
}

impl Loop {
    fn new(file: &File, pattern: Pattern) -> Result<Self> {
        let (ring, _) = ring(RING_SIZE).context(
            "cannot set up io_uring; allow it (sysctl kernel.io_uring_disabled=0, and in the \
             container's seccomp profile)",
        )?;
        ring.submitter().register_files(&[file.as_raw_fd()]).context("cannot register a file")?;
        let file_size = file.metadata().context("cannot ask for the file's size")?.len();
        let len = pattern.size as usize * pattern.depth as usize;
        ensure!(file_size >= len as u64, "a file of {file_size} bytes is too small; remove it");
        let mut memory = vec![0; len + PAGE];
        // Not zeros: a device may save itself the work.
        rand::fill(&mut memory[..]);
        let base = memory.as_ptr().align_offset(PAGE);
        let address = memory[base..base + len].as_mut_ptr();
        let arena = [iovec { iov_base: address.cast(), iov_len: len }];
        // SAFETY: `register_buffers`: "Developers must ensure that the iov_base and iov_len values
        // are valid and will be valid until buffers are unregistered or the ring destroyed,
        // otherwise undefined behaviour may occur." They are `len` bytes inside `memory`, which is
        // never resized; it is declared after `ring`, so dropped after it, or leaked (see `drop`).
        let registered = unsafe { ring.submitter().register_buffers(&arena) };
        // Refused mostly for RLIMIT_MEMLOCK: then the kernel looks the pages up at each write.
        let fixed = registered.is_ok();
        let began = vec![Instant::now(); pattern.depth as usize];
        let (next, in_flight, latency) = (0, 0, Latency::default());
        Ok(Self { ring, pattern, memory, base, fixed, began, next, file_size, in_flight, latency })
    }

    fn go(&mut self, begin: Instant, end: Instant) -> Result<()> {
        for slot in 0..self.pattern.depth {
            self.write(slot);
        }
        let mut completed = Vec::new();
        while self.in_flight > 0 {
            if let Err(error) = self.ring.submit_and_wait(1)
                && error.kind() != io::ErrorKind::Interrupted
            {
                return Err(error).context("io_uring_enter failed");
            }
            completed.extend(self.ring.completion().map(|cqe| (cqe.user_data(), cqe.result())));
            for (user_data, result) in completed.drain(..) {
                let slot = (user_data & !SYNC) as u32;
                if !self.settle(slot, user_data & SYNC != 0, result)? {
                    continue;
                }
                self.in_flight -= 1;
                let (now, began) = (Instant::now(), self.began[slot as usize]);
                if (begin..end).contains(&now) {
                    self.latency.record((now - began).as_nanos() as u64);
                }
                if now < end {
                    self.write(slot);
                }
            }
        }
        Ok(())
    }

    /// Whether a slot's write is done, durable if that is the mode.
    fn settle(&mut self, slot: u32, is_sync: bool, result: i32) -> Result<bool> {
        if result < 0 {
            let what = if is_sync { "a sync" } else { "a write" };
            return Err(io::Error::from_raw_os_error(-result)).with_context(|| {
                format!("{what} failed; is the disk full, or without direct I/O? (`doctor` knows)")
            });
        }
        if !is_sync && result.cast_unsigned() != self.pattern.size {
            bail!("{result} of {} bytes were written; is the disk full?", self.pattern.size);
        }
        match self.pattern.mode {
            Mode::None | Mode::Dsync => Ok(true),
            Mode::Linked => Ok(is_sync),
            Mode::Fsync => {
                if !is_sync {
                    self.push(&sync_of(slot));
                }
                Ok(is_sync)
            }
        }
    }

    /// Begins the next write.
    fn write(&mut self, slot: u32) {
        let size = self.pattern.size;
        if self.next + u64::from(size) > self.file_size {
            self.next = 0;
        }
        let at = self.base + slot as usize * size as usize;
        let address = self.memory[at..at + size as usize].as_ptr();
        let durable = self.pattern.mode == Mode::Dsync;
        let flags = if durable { ReadWriteFlags::DSYNC } else { ReadWriteFlags::empty() };
        let flags = flags.bits().cast_signed();
        let entry = if self.fixed {
            let write = opcode::WriteFixed::new(Fixed(0), address, size, 0);
            write.offset(self.next).rw_flags(flags).build()
        } else {
            let write = opcode::Write::new(Fixed(0), address, size);
            write.offset(self.next).rw_flags(flags).build()
        };
        let entry = entry.user_data(slot.into());
        self.next += u64::from(size);
        self.began[slot as usize] = Instant::now();
        self.in_flight += 1;
        if self.pattern.mode == Mode::Linked {
            self.push(&entry.flags(Flags::IO_LINK));
            self.push(&sync_of(slot));
        } else {
            self.push(&entry);
        }
    }

    fn push(&mut self, entry: &Entry) {
        // SAFETY: `push`: "Developers must ensure that parameters of the entry (such as buffer) are
        // valid and will be valid for the entire duration of the operation." A sync has none. A
        // write's `size` bytes lie inside `memory` (the slice in `write` was checked), which is
        // neither resized nor written to, and is freed only with nothing in flight (see `drop`).
        // File 0 was registered and stays so while the ring lives.
        let pushed = unsafe { self.ring.submission().push(entry) };
        pushed.expect("the ring has two entries for each slot");
    }
}

fn sync_of(slot: u32) -> Entry {
    let sync = opcode::Fsync::new(Fixed(0)).flags(FsyncFlags::DATASYNC).build();
    sync.user_data(u64::from(slot) | SYNC)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const BLOCK: usize = 4096;

    fn blocks_written(path: &Path) -> Vec<bool> {
        fs::read(path).unwrap().chunks(BLOCK).map(|block| block.iter().any(|b| *b != 0)).collect()
    }

    /// Each slot writes once: the time is over at once.
    fn once(work: &mut Loop) -> Result<()> {
        let now = Instant::now();
        work.go(now, now)
    }

    fn no_ring() -> bool {
        let refused = ring(8).err();
        if let Some(error) = &refused {
            eprintln!("skipped: no io_uring here ({error})");
        }
        refused.is_some()
    }

    #[test]
    fn each_mode_writes_forward_and_begins_again_at_the_end_of_the_file() {
        if no_ring() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        for mode in Mode::ALL {
            let path = dir.path().join(mode.name());
            fs::write(&path, vec![0; 5 * BLOCK]).unwrap();
            let file = OpenOptions::new().write(true).open(&path).unwrap();
            let mut work = Loop::new(&file, Pattern { mode, size: 4096, depth: 2 }).unwrap();
            once(&mut work).unwrap();
            assert_eq!(blocks_written(&path), [true, true, false, false, false], "{mode:?}");
            assert_eq!((work.in_flight, work.next), (0, 2 * BLOCK as u64), "{mode:?}");
            once(&mut work).unwrap();
            assert_eq!(blocks_written(&path), [true, true, true, true, false], "{mode:?}");
            fs::write(&path, vec![0; 5 * BLOCK]).unwrap();
            once(&mut work).unwrap();
            assert_eq!(blocks_written(&path), [true, false, false, false, true], "{mode:?}");
        }
    }

    #[test]
    fn a_failed_write_is_an_error_in_each_mode() {
        if no_ring() {
            return;
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let read_only = File::open(file.path()).unwrap();
        for mode in Mode::ALL {
            let mut work = Loop::new(&read_only, Pattern { mode, size: 4096, depth: 2 }).unwrap();
            let error = format!("{:#}", once(&mut work).unwrap_err());
            assert!(error.contains("a write failed"), "{mode:?}: {error}");
        }
    }

    #[test]
    fn a_durable_write_has_ended_only_when_its_sync_has() {
        if no_ring() {
            return;
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(4096).unwrap();
        // Whether the write's completion ends it, and how many syncs it makes.
        let ends = [
            (Mode::None, true, 0),
            (Mode::Dsync, true, 0),
            (Mode::Fsync, false, 1),
            (Mode::Linked, false, 0),
        ];
        for (mode, ended, syncs) in ends {
            let pattern = Pattern { mode, size: 4096, depth: 1 };
            let mut work = Loop::new(file.as_file(), pattern).unwrap();
            assert_eq!(work.settle(0, false, 4096).unwrap(), ended, "{mode:?}");
            assert_eq!(work.ring.submission().len(), syncs, "{mode:?}");
            assert!(work.settle(0, true, 0).unwrap(), "{mode:?}");
            assert!(work.settle(0, false, 512).is_err(), "{mode:?}: a part was written");
        }
    }

    #[test]
    fn each_pattern_of_the_grid_has_a_name_of_its_own_that_leads_back_to_it() {
        let all: Vec<Pattern> = Pattern::all().collect();
        assert_eq!(all.len(), Mode::ALL.len() * SIZES.len() * DEPTHS.len());
        for pattern in all {
            assert_eq!(Pattern::named(&pattern.name()), Some(pattern));
        }
        let fsync = Pattern { mode: Mode::Fsync, size: 1 << 20, depth: 8 };
        assert_eq!(Pattern::named("raw/fsync-1m-8"), Some(fsync));
        assert_eq!(Pattern::named("raw/fsync-1m-3"), None);
    }
}
