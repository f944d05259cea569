//! Readers: at the end of a log, from its beginning, and beside producers.
//!
//! Not here: appends without readers (`producers`).

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use oncelog::{From, Log, Records};

use super::producers::Appends;
use super::{Rig, drive, put};
use crate::meter::{Tally, Window, measure_whole};
use crate::outcome::{Figures, Latency};

/// Appends with `in_flight`, and `readers` at the ends of the logs.
///
/// ```text
/// producer: append -> answered -> Answers[sequence] = now
/// reader:                         next() -> now - Answers[sequence], or 0 if it is first
/// ```
pub(super) fn tail(rig: &Rig, in_flight: u32, readers: u32) -> Result<Figures> {
    let engine = rig.open()?;
    let (logs, creations_per_s) = rig.create_logs(&engine)?;
    let followed = logs.len().min(readers as usize);
    let answers: Arc<Vec<Answers>> = Arc::new((0..followed).map(|_| Answers::new()).collect());
    let mut appends = None;
    let mut figures = rig.measure(&engine, |window| {
        let follow = |reader: usize| {
            let (log, answers) = (logs[reader % followed].clone(), answers.clone());
            thread::spawn(move || follow(&log, &answers[reader % followed], window))
        };
        let threads: Vec<_> = (0..readers as usize).map(follow).collect();
        let work = Appends { logs: logs.clone(), payloads: rig.payloads.clone() };
        let answers = answers.clone();
        let tally = work.closed_loop(in_flight, window, move |log, answer| {
            if let Some(answers) = answers.get(log) {
                answers.put(answer.first.get(), Instant::now());
            }
        })?;
        // Readers at the end look at the time once something comes.
        for log in &logs[..followed] {
            log.append("end").wait()?;
        }
        let tallies = threads.into_iter().map(|thread| thread.join().expect("it does not panic"));
        let tallies = tallies.collect::<Result<Vec<Tally>>>()?;
        appends = Some(tally);
        Ok(tallies)
    })?;
    put_appends(&mut figures, appends, "tail");
    put(&mut figures, "engine/log_creations_per_s", creations_per_s);
    engine.close().wait()?;
    Ok(figures)
}

fn follow(log: &Log, answers: &Answers, window: Window) -> Result<Tally> {
    let mut tally = Tally::new(window);
    let mut reader = log.reader(From::Earliest);
    while !window.is_over() {
        let records = reader.next().wait()?;
        let ended = Instant::now();
        for record in records {
            let answered = answers.get(record.sequence.get())?.unwrap_or(ended);
            tally.count_at(answered.min(ended), ended, 1, record.payload.len() as u64);
        }
    }
    Ok(tally)
}

/// When the last appends to a log were answered, by sequence: what is newer overwrites.
struct Answers {
    epoch: Instant,
    /// Lap of the ring in the upper bits, nanoseconds since the epoch in the lower ones.
    ring: Vec<AtomicU64>,
}

const RING: u64 = 1 << 20;
const NANOS_BITS: u32 = 44;

impl Answers {
    fn new() -> Self {
        // A lap that never comes: nothing was answered yet.
        let ring = (0..RING).map(|_| AtomicU64::new(u64::MAX)).collect();
        Self { epoch: Instant::now(), ring }
    }

    fn put(&self, sequence: u64, answered: Instant) {
        let nanos = u64::try_from((answered - self.epoch).as_nanos()).expect("not for centuries");
        let nanos = nanos & ((1 << NANOS_BITS) - 1);
        let value = ((sequence / RING) << NANOS_BITS) | nanos;
        self.ring[(sequence % RING) as usize].store(value, Relaxed);
    }

    /// `None`: not answered yet.
    fn get(&self, sequence: u64) -> Result<Option<Instant>> {
        let value = self.ring[(sequence % RING) as usize].load(Relaxed);
        let (lap, lap_now) = (sequence / RING, value >> NANOS_BITS);
        if value == u64::MAX || lap_now < lap {
            return Ok(None);
        }
        ensure!(lap_now == lap, "the reader is {RING} records behind, not at the end of its log");
        let nanos = value & ((1 << NANOS_BITS) - 1);
        Ok(Some(self.epoch + Duration::from_nanos(nanos)))
    }
}

/// Appends as they went beside readers.
fn put_appends(figures: &mut Figures, appends: Option<Tally>, name: &str) {
    let Some(tally) = appends else { return };
    let (latency, operations) = (tally.latency(), tally.operations());
    put(figures, &format!("{name}/appends_per_s"), operations as f64 / figures.seconds);
    put(figures, &format!("{name}/append_p50_us"), latency.quantile_us(0.5));
    put(figures, &format!("{name}/append_p99_us"), latency.quantile_us(0.99));
}

/// Reads the first log, with `readers` at once, after `bytes` of payload were written to all.
pub(super) fn catch_up(rig: &Rig, bytes: u64, cold: bool, readers: u32) -> Result<Figures> {
    let mut engine = rig.open()?;
    let (logs, _) = rig.create_logs(&engine)?;
    let began = Instant::now();
    let records = drive::fill(&logs, &rig.payloads, bytes)?;
    let fill_s = began.elapsed().as_secs_f64();
    let mut log = logs[0].clone();
    drop(logs);
    if cold {
        let name = log.name().to_owned();
        engine.close().wait()?;
        drop((engine, log));
        drop_page_cache(&rig.dir)?;
        engine = rig.open()?;
        log = engine.open_log(name).wait()?;
    }
    let expected = log.describe().wait()?.next.get();
    let mut figures = measure_whole(&rig.dir, |window| {
        let read = |_| {
            let log = log.clone();
            thread::spawn(move || read_all(&log, expected, window))
        };
        let threads: Vec<_> = (0..readers).map(read).collect();
        let tallies = threads.into_iter().map(|thread| thread.join().expect("it does not panic"));
        tallies.collect::<Result<Vec<Tally>>>()
    })?;
    put(&mut figures, "catch-up/fill_records_per_s", records as f64 / fill_s);
    let mean = rig.payloads.size_mean();
    put(&mut figures, "catch-up/fill_mb_per_s", records as f64 * mean / fill_s / 1e6);
    if figures.records != expected * u64::from(readers) {
        bail!("{} of {expected} records were read by {readers} readers", figures.records);
    }
    engine.close().wait()?;
    Ok(figures)
}

fn read_all(log: &Log, expected: u64, window: Window) -> Result<Tally> {
    let mut tally = Tally::new(window);
    let mut reader = log.reader(From::Earliest);
    let mut records = 0;
    while records < expected {
        let began = Instant::now();
        let read = reader.next().wait()?;
        let ended = Instant::now();
        let (count, bytes) = take(read);
        tally.count_at(began, ended, count, bytes);
        records += count;
    }
    Ok(tally)
}

/// Takes each record in hand, as a reader does. Answers how many, and their bytes.
fn take(records: Records) -> (u64, u64) {
    records.fold((0, 0), |(count, bytes), record| {
        let payload = std::hint::black_box(record.payload);
        (count + 1, bytes + payload.len() as u64)
    })
}

/// Takes the files' pages out of memory. What is read next comes from the device.
fn drop_page_cache(dir: &Path) -> Result<()> {
    use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            drop_page_cache(&path)?;
            continue;
        }
        let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        // Only clean pages go.
        file.sync_all().with_context(|| format!("cannot sync {}", path.display()))?;
        posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)
            .with_context(|| format!("cannot drop the cache of {}", path.display()))?;
    }
    Ok(())
}

/// So much is in the logs before the readers begin, or they would only read what is in memory.
const MIXED_BYTES: u64 = 256 << 20;

/// Appends with `in_flight` while `readers` read from the start, again and again.
pub(super) fn mixed(rig: &Rig, in_flight: u32, readers: u32) -> Result<Figures> {
    let engine = rig.open()?;
    let (logs, creations_per_s) = rig.create_logs(&engine)?;
    drive::fill(&logs, &rig.payloads, MIXED_BYTES)?;
    let mut reading = Vec::new();
    let mut figures = rig.measure(&engine, |window| {
        let read = |reader: usize| {
            let log = logs[reader % logs.len()].clone();
            thread::spawn(move || read_again_and_again(&log, window))
        };
        let threads: Vec<_> = (0..readers as usize).map(read).collect();
        let work = Appends { logs: logs.clone(), payloads: rig.payloads.clone() };
        let tally = work.closed_loop(in_flight, window, |_, _| ())?;
        for thread in threads {
            reading.push(thread.join().expect("it does not panic")?);
        }
        Ok(vec![tally])
    })?;
    let seconds = figures.seconds;
    let mut latency = Latency::default();
    reading.iter().for_each(|tally| latency.merge(tally.latency()));
    let records: u64 = reading.iter().map(Tally::records).sum();
    let bytes: u64 = reading.iter().map(Tally::payload_bytes).sum();
    put(&mut figures, "mixed/filled_bytes", MIXED_BYTES as f64);
    put(&mut figures, "mixed/read_records_per_s", records as f64 / seconds);
    put(&mut figures, "mixed/read_mb_per_s", bytes as f64 / seconds / 1e6);
    put(&mut figures, "mixed/read_p50_us", latency.quantile_us(0.5));
    put(&mut figures, "mixed/read_p99_us", latency.quantile_us(0.99));
    put(&mut figures, "engine/log_creations_per_s", creations_per_s);
    engine.close().wait()?;
    Ok(figures)
}

fn read_again_and_again(log: &Log, window: Window) -> Result<Tally> {
    let mut tally = Tally::new(window);
    let mut reader = log.reader(From::Earliest);
    while !window.is_over() {
        let began = Instant::now();
        match reader.try_next().wait()? {
            Some(records) => {
                let ended = Instant::now();
                let (count, bytes) = take(records);
                tally.count_at(began, ended, count, bytes);
            }
            None => reader = log.reader(From::Earliest),
        }
    }
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_found_by_its_sequence_and_a_reader_that_is_a_lap_behind_is_told() {
        let answers = Answers::new();
        let at = answers.epoch + Duration::from_micros(5);
        assert!(answers.get(0).unwrap().is_none());
        answers.put(0, at);
        assert_eq!(answers.get(0).unwrap(), Some(at));
        assert!(answers.get(RING).unwrap().is_none(), "that of the lap before was taken for it");
        answers.put(RING, at);
        assert_eq!(answers.get(RING).unwrap(), Some(at));
        assert!(answers.get(0).is_err());
    }
}
