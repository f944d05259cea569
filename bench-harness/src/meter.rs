//! Counts what a measurement did, and what it cost.
//!
//! ```text
//! workers: Tally::count(began, ended, ..) --\
//! sampler thread: processor time, memory,    +-> Meter::finish -> Figures
//!                 device counters ----------/
//! ```
//!
//! Invariant: only what ends between the end of the warm-up and the end of the measurement counts,
//! and processor time and device counters are taken over exactly that time.
//!
//! Not here: what the work is.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{fs, io};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

use crate::outcome::{DeviceCounts, Figures, Latency};
use crate::spec::Spec;

/// When a measurement counts.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// The warm-up is over.
    pub begin: Instant,
    /// The measurement is over: workers stop.
    pub end: Instant,
}

impl Window {
    /// From now on: the spec's warm-up, then its length.
    #[must_use]
    pub fn of(spec: &Spec) -> Self {
        let warm_up = (spec.seconds / 10.0).min(1.0);
        let begin = Instant::now() + Duration::from_secs_f64(warm_up);
        Self { begin, end: begin + Duration::from_secs_f64(spec.seconds) }
    }

    /// Whether workers should stop.
    #[must_use]
    pub fn is_over(&self) -> bool {
        Instant::now() >= self.end
    }
}

/// What one worker did.
#[derive(Debug)]
pub struct Tally {
    window: Window,
    latency: Latency,
    operations: u64,
    records: u64,
    payload_bytes: u64,
    records_by_second: Vec<u64>,
}

impl Tally {
    /// Nothing yet.
    #[must_use]
    pub fn new(window: Window) -> Self {
        let (latency, records_by_second) = (Latency::default(), Vec::new());
        Self { window, latency, operations: 0, records: 0, payload_bytes: 0, records_by_second }
    }

    /// An operation that `began` then (or should have) and has ended now.
    pub fn count(&mut self, began: Instant, records: u64, payload_bytes: u64) {
        self.count_at(began, Instant::now(), records, payload_bytes);
    }

    /// An operation that began and ended then. Not counted if it ended outside the window.
    pub fn count_at(&mut self, began: Instant, ended: Instant, records: u64, payload_bytes: u64) {
        self.count_many_at((began, ended), 1, records, payload_bytes);
    }

    /// So many operations that all began and ended then, with these records in all of them.
    pub fn count_many_at(
        &mut self,
        (began, ended): (Instant, Instant),
        operations: u64,
        records: u64,
        payload_bytes: u64,
    ) {
        if ended < self.window.begin || ended >= self.window.end {
            return;
        }
        let nanoseconds = ended.saturating_duration_since(began).as_nanos();
        self.latency.record_many(u64::try_from(nanoseconds).unwrap_or(u64::MAX), operations);
        self.operations += operations;
        self.records += records;
        self.payload_bytes += payload_bytes;
        let second = (ended - self.window.begin).as_secs() as usize;
        if self.records_by_second.len() <= second {
            self.records_by_second.resize(second + 1, 0);
        }
        self.records_by_second[second] += records;
    }
}

/// What it has counted.
impl Tally {
    /// Latency of each operation.
    #[must_use]
    pub fn latency(&self) -> &Latency {
        &self.latency
    }

    /// Operations.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.operations
    }

    /// Records in them.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Payload bytes in them.
    #[must_use]
    pub fn payload_bytes(&self) -> u64 {
        self.payload_bytes
    }
}

/// Watches the process and the device while a measurement runs.
#[derive(Debug)]
pub struct Meter {
    window: Window,
    sampler: JoinHandle<Samples>,
}

#[derive(Debug)]
struct Samples {
    memory: Vec<u64>,
    cpu: CpuTime,
    device: Option<DeviceCounts>,
}

/// User and system time.
#[derive(Clone, Copy, Debug)]
struct CpuTime {
    user: f64,
    system: f64,
}

impl Meter {
    /// Watches from the window's begin to its end. `dir` is where the data is.
    ///
    /// # Panics
    /// If no thread can be had.
    #[must_use]
    pub fn start(window: Window, dir: &Path) -> Self {
        let dir = dir.to_owned();
        let sampler = thread::spawn(move || sample(window, &dir));
        Self { window, sampler }
    }

    /// The figures; waits for the end of the window.
    ///
    /// # Panics
    /// If the sampler did.
    #[must_use]
    pub fn finish(self, tallies: impl IntoIterator<Item = Tally>) -> Figures {
        let samples = self.sampler.join().expect("the sampler does not panic");
        let mut figures = Figures {
            seconds: (self.window.end - self.window.begin).as_secs_f64(),
            cpu_user_s: samples.cpu.user,
            cpu_system_s: samples.cpu.system,
            device: samples.device,
            memory_max: memory_max(),
            memory_by_second: samples.memory,
            ..Figures::default()
        };
        add_tallies(&mut figures, tallies);
        figures
    }
}

/// Measures work that has a natural end, from beginning to end, without a warm-up. `dir` is where
/// the data is.
///
/// # Errors
/// Those of the work.
///
/// # Panics
/// If no thread can be had.
pub fn measure_whole<E>(
    dir: &Path,
    work: impl FnOnce(Window) -> Result<Vec<Tally>, E>,
) -> Result<Figures, E> {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    let begin = Instant::now();
    let device = device_of(dir).ok();
    let counts = || device.as_deref().and_then(|device| device_counts(device).ok());
    let (stop, stopped) = mpsc::channel::<()>();
    let sampler = thread::spawn(move || {
        let mut memory = Vec::new();
        while stopped.recv_timeout(Duration::from_secs(1)) == Err(RecvTimeoutError::Timeout) {
            memory.push(memory_now());
        }
        memory
    });
    let (cpu, before) = (cpu_time(), counts());
    let tallies = work(Window { begin, end: begin + DAY })?;
    let (cpu_after, after) = (cpu_time(), counts());
    let seconds = begin.elapsed().as_secs_f64();
    drop(stop);
    let mut figures = Figures {
        seconds,
        cpu_user_s: cpu_after.user - cpu.user,
        cpu_system_s: cpu_after.system - cpu.system,
        device: before.zip(after).map(|(before, after)| growth(before, after)),
        memory_max: memory_max(),
        memory_by_second: sampler.join().expect("the sampler does not panic"),
        ..Figures::default()
    };
    add_tallies(&mut figures, tallies);
    Ok(figures)
}

/// Adds what a later piece of the same work did, as one opening after another.
pub fn add_piece(figures: &mut Figures, piece: &Figures) {
    figures.seconds += piece.seconds;
    figures.operations += piece.operations;
    figures.records += piece.records;
    figures.payload_bytes += piece.payload_bytes;
    figures.latency.merge(&piece.latency);
    figures.cpu_user_s += piece.cpu_user_s;
    figures.cpu_system_s += piece.cpu_system_s;
    figures.memory_max = figures.memory_max.max(piece.memory_max);
    let sum = |sum: DeviceCounts, more: DeviceCounts| DeviceCounts {
        reads: sum.reads + more.reads,
        read_bytes: sum.read_bytes + more.read_bytes,
        writes: sum.writes + more.writes,
        written_bytes: sum.written_bytes + more.written_bytes,
        flushes: sum.flushes + more.flushes,
    };
    figures.device = match (figures.device, piece.device) {
        (Some(have), Some(more)) => Some(sum(have, more)),
        (have, more) => have.or(more),
    };
}

/// How much counters have grown.
#[must_use]
pub fn growth(before: DeviceCounts, after: DeviceCounts) -> DeviceCounts {
    DeviceCounts {
        reads: after.reads - before.reads,
        read_bytes: after.read_bytes - before.read_bytes,
        writes: after.writes - before.writes,
        written_bytes: after.written_bytes - before.written_bytes,
        flushes: after.flushes - before.flushes,
    }
}

fn add_tallies(figures: &mut Figures, tallies: impl IntoIterator<Item = Tally>) {
    for tally in tallies {
        figures.latency.merge(&tally.latency);
        figures.operations += tally.operations;
        figures.records += tally.records;
        figures.payload_bytes += tally.payload_bytes;
        let seconds = figures.records_by_second.len().max(tally.records_by_second.len());
        figures.records_by_second.resize(seconds, 0);
        for (sum, records) in figures.records_by_second.iter_mut().zip(&tally.records_by_second) {
            *sum += records;
        }
    }
    // The last second counts only if it is whole.
    figures.records_by_second.truncate(figures.seconds as usize);
}

fn sample(window: Window, dir: &Path) -> Samples {
    let device = device_of(dir).ok();
    let counts = || device.as_deref().and_then(|device| device_counts(device).ok());
    thread::sleep(window.begin.saturating_duration_since(Instant::now()));
    let (cpu, before) = (cpu_time(), counts());
    let mut memory = Vec::new();
    let mut next = window.begin + Duration::from_secs(1);
    while next < window.end {
        thread::sleep(next.saturating_duration_since(Instant::now()));
        memory.push(memory_now());
        next += Duration::from_secs(1);
    }
    thread::sleep(window.end.saturating_duration_since(Instant::now()));
    memory.push(memory_now());
    let (cpu_after, after) = (cpu_time(), counts());
    Samples {
        memory,
        cpu: CpuTime { user: cpu_after.user - cpu.user, system: cpu_after.system - cpu.system },
        device: before.zip(after).map(|(before, after)| growth(before, after)),
    }
}

fn cpu_time() -> CpuTime {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("a process may ask about itself");
    let seconds = |time: TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    CpuTime { user: seconds(usage.user_time()), system: seconds(usage.system_time()) }
}

/// Resident memory of this process now, bytes.
#[must_use]
pub fn memory_now() -> u64 {
    status_bytes("self", "VmRSS:")
}

/// Resident memory of another process: now, and at most so far, bytes.
#[must_use]
pub fn memory_of(pid: u32) -> (u64, u64) {
    let pid = pid.to_string();
    (status_bytes(&pid, "VmRSS:"), status_bytes(&pid, "VmHWM:"))
}

/// Resident memory of this process at most so far, bytes.
#[must_use]
pub fn memory_max() -> u64 {
    status_bytes("self", "VmHWM:")
}

fn status_bytes(process: &str, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// The directory in `/sys` of the block device that holds `dir`: of the whole disk, where it is a
/// partition.
///
/// # Errors
/// It is on none, as on tmpfs or a network.
pub fn device_of(dir: &Path) -> io::Result<PathBuf> {
    let device = fs::metadata(dir)?.dev();
    let (major, minor) = (nix::libc::major(device), nix::libc::minor(device));
    let found = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}"))?;
    // Flushes are counted for the whole disk only.
    let disk = found.parent().filter(|_| found.join("partition").exists());
    Ok(disk.map_or_else(|| found.clone(), Path::to_owned))
}

/// What a device has done since it is there. `device` is from [`device_of`].
///
/// # Errors
/// The kernel does not say, or says something else than documented
/// (<https://docs.kernel.org/block/stat.html>).
pub fn device_counts(device: &Path) -> io::Result<DeviceCounts> {
    const SECTOR: u64 = 512;
    let text = fs::read_to_string(device.join("stat"))?;
    let fields: Vec<u64> = text.split_whitespace().flat_map(str::parse).collect();
    let field = |index: usize| fields.get(index).copied().ok_or(io::ErrorKind::InvalidData);
    Ok(DeviceCounts {
        reads: field(0)?,
        read_bytes: field(2)? * SECTOR,
        writes: field(4)?,
        written_bytes: field(6)? * SECTOR,
        flushes: field(15)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_ends_in_the_window_counts_and_by_the_second_in_which_it_ends() {
        let begin = Instant::now() + Duration::from_secs(10);
        let window = Window { begin, end: begin + Duration::from_secs(2) };
        let mut tally = Tally::new(window);
        let at = |millis| begin + Duration::from_millis(millis);
        tally.count_at(at(0) - Duration::from_secs(1), begin - Duration::from_millis(1), 1, 10);
        tally.count_at(begin - Duration::from_millis(5), at(0), 1, 10);
        tally.count_at(at(1_400), at(1_500), 2, 20);
        tally.count_at(at(1_900), at(2_000), 4, 40);
        assert_eq!((tally.operations, tally.records, tally.payload_bytes), (2, 3, 30));
        assert_eq!(tally.records_by_second, [1, 2]);
    }

    #[test]
    fn memory_and_processor_time_of_this_process_are_known() {
        let before = memory_now();
        let block = std::hint::black_box(vec![1_u8; 64 << 20]);
        assert!(before > 0 && memory_now() >= before + (48 << 20), "memory is not seen");
        drop(block);
        assert!(memory_max() >= before + (48 << 20), "the most is not kept");
        let work: u64 = (0..20_000_000_u64).map(std::hint::black_box).sum();
        let used = cpu_time();
        assert!(work > 0 && used.user + used.system > 0.0);
    }
}
