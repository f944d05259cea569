//! Runs a spec over a store whose calls block until the data is on stable storage.
//!
//! ```text
//! one thread for each operation in flight: Store::write -> Tally --\
//! this thread: Meter, and what servers beside it cost ------------- +-> Figures
//! recovery: a child process fills the store and kills itself -> opening it is timed
//! ```
//!
//! Invariants:
//! - An operation in flight is a thread that waits for its own answer and for nothing else.
//! - Recovery counts only if every acknowledged record is there again.
//!
//! Not here: stores (`peers/`), and works that have no meaning without a log engine's readers.

use std::io::Write as _;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;
use std::{fs, io};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::wait;
use nix::unistd::getpid;

use self::cost::Cost;
use crate::meter::{Meter, Tally, Window, measure_whole};
use crate::outcome::Figures;
use crate::payloads::Payloads;
use crate::spec::{Payload, Spec, Work};

pub(crate) mod cost;
mod group;

pub use self::group::Grouped;

/// Payload bytes of a write by which a store is filled.
const FILL_BYTES: u64 = 512 << 10;
/// Records of a write by which a store is filled, at most.
const FILL_RECORDS: usize = 1000;

/// The works that [`run`] can do.
pub const WORKS: [&str; 5] = ["append", "batch", "commit", "catch-up", "recovery"];

/// What a store is asked to write.
#[derive(Clone, Debug)]
pub enum Write {
    /// A record behind the others of its log.
    Append {
        /// The log.
        log: u32,
        /// The record.
        payload: Bytes,
    },
    /// What a processor makes of one record; all of it or nothing may be there after a crash.
    Commit {
        /// The processor.
        processor: u32,
        /// Its position in its source, in the place of the one before.
        position: u64,
        /// Behind the deltas before it.
        delta: Bytes,
        /// The log that gets the outputs.
        log: u32,
        /// Records for it.
        outputs: Vec<Bytes>,
    },
}

/// A store with logs.
pub trait Store: Send + Sync {
    /// Writes all that, in this order; returns when it is on stable storage.
    ///
    /// # Errors
    /// It is not.
    fn write(&self, writes: &[Write]) -> Result<()>;

    /// Gives every record that `log` had when the store was opened, in order. May be asked for once
    /// by each reader.
    ///
    /// # Errors
    /// The store cannot read, or finds damage.
    fn read_all(&self, log: u32, each: &mut dyn FnMut(&[u8])) -> Result<()>;
}

/// Makes a store in an empty directory, or opens the one that is there.
pub type Open<'a> = &'a (dyn Fn(&Path) -> Result<Box<dyn Store>> + Sync);

/// Does what the spec says. `filler` is the command that calls [`fill`] in a process of its own.
///
/// # Errors
/// The store fails, has lost an acknowledged record, or cannot do this work.
pub fn run(spec: &Spec, dir: &Path, open: Open<'_>, filler: &mut Command) -> Result<Figures> {
    ensure!(spec.logs > 0, "a spec has at least one log");
    match spec.work {
        Work::Append { in_flight } => write(spec, dir, open, in_flight),
        Work::Batch { in_flight, .. } => write(spec, dir, open, in_flight),
        Work::Commit { processors, .. } => write(spec, dir, open, processors),
        Work::CatchUp { bytes, cold, readers } => {
            catch_up(spec, dir, open, &Reading { bytes, cold, readers })
        }
        Work::Recovery { bytes } => recovery(spec, dir, open, filler, bytes),
        _ => bail!(
            "{} is not measured with other stores; only {} are",
            spec.work.kind(),
            WORKS.join(", ")
        ),
    }
}

/// Makes the writes of one thread.
struct Writer<'a> {
    spec: &'a Spec,
    payloads: &'a Payloads,
    deltas: &'a Payloads,
    /// Counts the operations of all writers.
    turn: &'a AtomicU64,
    number: u32,
    position: u64,
}

impl Writer<'_> {
    /// The next operation: what to write, its records and its bytes of payload.
    fn next(&mut self) -> (Vec<Write>, u64, u64) {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let log = (turn % u64::from(self.spec.logs)) as u32;
        let many = |count: u32| {
            let first = turn * u64::from(count);
            (first..first + u64::from(count)).map(|number| self.payloads.get(number))
        };
        match self.spec.work {
            Work::Commit { outputs, .. } => {
                self.position += 1;
                let (processor, position) = (self.number, self.position);
                let (delta, outputs) = (self.deltas.get(turn), many(outputs).collect());
                let log = processor % self.spec.logs;
                let commit = Write::Commit { processor, position, delta, log, outputs };
                let bytes = payload_len(&commit);
                (vec![commit], 1, bytes)
            }
            Work::Batch { records, .. } => {
                let writes = many(records).map(|payload| Write::Append { log, payload });
                let writes: Vec<Write> = writes.collect();
                let bytes = writes.iter().map(payload_len).sum();
                (writes, u64::from(records), bytes)
            }
            _ => {
                let payload = self.payloads.get(turn);
                let bytes = payload.len() as u64;
                (vec![Write::Append { log, payload }], 1, bytes)
            }
        }
    }

    /// Writes until the window is over.
    fn work(&mut self, store: &dyn Store, window: Window) -> Result<Tally> {
        let mut tally = Tally::new(window);
        while !window.is_over() {
            let (writes, records, bytes) = self.next();
            let began = Instant::now();
            store.write(&writes)?;
            tally.count(began, records, bytes);
        }
        Ok(tally)
    }
}

fn payload_len(write: &Write) -> u64 {
    match write {
        Write::Append { payload, .. } => payload.len() as u64,
        Write::Commit { delta, outputs, .. } => {
            (delta.len() + outputs.iter().map(Bytes::len).sum::<usize>()) as u64
        }
    }
}

/// Writes with so many threads for the spec's time.
fn write(spec: &Spec, dir: &Path, open: Open<'_>, threads: u32) -> Result<Figures> {
    let store = open(dir).context("opening the store")?;
    let delta = if let Work::Commit { delta, .. } = spec.work { delta } else { 0 };
    let of_deltas = Spec { payload: Payload::Fixed(delta), ..spec.clone() };
    let (payloads, deltas) = (&Payloads::of(spec), &Payloads::of(&of_deltas));
    let (store, turn) = (store.as_ref(), &AtomicU64::new(0));
    let window = Window::of(spec);
    let meter = Meter::start(window, dir);
    let (tallies, servers) = thread::scope(|scope| {
        let work = |number| {
            let mut writer = Writer { spec, payloads, deltas, turn, number, position: 0 };
            writer.work(store, window)
        };
        let threads = (0..threads).map(|number| scope.spawn(move || work(number)));
        let threads: Vec<_> = threads.collect();
        let servers = Cost::of_servers_in(window);
        let done = |thread: thread::ScopedJoinHandle<'_, _>| thread.join().expect("no panic");
        (threads.into_iter().map(done).collect::<Result<Vec<Tally>>>(), servers)
    });
    let mut figures = meter.finish(tallies?);
    servers.add_to(&mut figures);
    Ok(figures)
}

/// Fills the store of a [`Work::Recovery`], prints the number of records, and kills this process.
///
/// # Errors
/// The store fails, or the spec is about something else.
pub fn fill(spec: &Spec, dir: &Path, open: Open<'_>) -> Result<()> {
    let Work::Recovery { bytes } = spec.work else { bail!("only recovery is filled apart") };
    let store = open(dir).context("making the store")?;
    let records = fill_with(spec, store.as_ref(), bytes)?;
    println!("{records}");
    io::stdout().flush()?;
    kill(getpid(), Signal::SIGKILL)?;
    unreachable!("no process outlives this signal")
}

/// Appends records to all logs in turn until there are so many bytes; returns their number.
fn fill_with(spec: &Spec, store: &dyn Store, bytes: u64) -> Result<u64> {
    let payloads = Payloads::of(spec);
    let (mut records, mut left) = (0_u64, bytes);
    while left > 0 {
        let (mut writes, mut size) = (Vec::new(), 0);
        while size < left.min(FILL_BYTES) && writes.len() < FILL_RECORDS {
            let payload = payloads.get(records);
            ensure!(!payload.is_empty(), "payloads of no bytes never fill anything");
            size += payload.len() as u64;
            writes.push(Write::Append { log: (records % u64::from(spec.logs)) as u32, payload });
            records += 1;
        }
        store.write(&writes).context("filling the store")?;
        left = left.saturating_sub(size);
    }
    Ok(records)
}

/// Records of the first log when so many are spread over all.
fn in_first_log(spec: &Spec, records: u64) -> u64 {
    records.div_ceil(u64::from(spec.logs))
}

/// Measures work that ends by itself, with what it costs servers.
fn measure(dir: &Path, work: impl FnOnce(Window) -> Result<Vec<Tally>>) -> Result<Figures> {
    let before = Cost::of_servers();
    let mut figures = measure_whole(dir, work)?;
    Cost::of_servers().since(&before).add_to(&mut figures);
    Ok(figures)
}

/// The fields of [`Work::CatchUp`].
struct Reading {
    bytes: u64,
    cold: bool,
    readers: u32,
}

/// Fills, opens again, and lets every reader read the first log once.
fn catch_up(spec: &Spec, dir: &Path, open: Open<'_>, reading: &Reading) -> Result<Figures> {
    let store = open(dir).context("making the store")?;
    let expected = in_first_log(spec, fill_with(spec, store.as_ref(), reading.bytes)?);
    drop(store);
    let store = open(dir).context("opening the store to read it")?;
    if reading.cold {
        forget_pages(dir).context("emptying the page cache")?;
    }
    let store = store.as_ref();
    let read = |window| -> Result<Tally> {
        let mut tally = Tally::new(window);
        let began = Instant::now();
        let (mut records, mut bytes) = (0, 0);
        store.read_all(0, &mut |record| {
            records += 1;
            bytes += std::hint::black_box(record).len() as u64;
        })?;
        tally.count(began, records, bytes);
        ensure!(records == expected, "{records} of {expected} records were read");
        Ok(tally)
    };
    measure(dir, |window| {
        thread::scope(|scope| {
            let readers = (0..reading.readers).map(|_| scope.spawn(move || read(window)));
            let readers: Vec<_> = readers.collect();
            readers.into_iter().map(|reader| reader.join().expect("no panic")).collect()
        })
    })
}

/// Takes what is in the files of `dir` out of the page cache, as far as nobody has it mapped.
fn forget_pages(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            forget_pages(&entry.path())?;
        } else if kind.is_file() {
            let file = match fs::File::open(entry.path()) {
                // A store may remove files meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                file => file?,
            };
            file.sync_all()?;
            posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
        }
    }
    Ok(())
}

/// Lets a child fill the store and die, then times opening it.
fn recovery(
    spec: &Spec,
    dir: &Path,
    open: Open<'_>,
    filler: &mut Command,
    bytes: u64,
) -> Result<Figures> {
    // A server that the child has started becomes ours: its end can be waited for.
    prctl::set_child_subreaper(true)?;
    let child = filler.stdout(Stdio::piped()).spawn().context("starting the process that fills")?;
    let output = child.wait_with_output()?;
    while wait().is_ok() {}
    let killed = output.status.signal() == Some(Signal::SIGKILL as i32);
    ensure!(killed, "the process that fills should die by SIGKILL, but: {}", output.status);
    let text = String::from_utf8(output.stdout).context("it prints the number of records")?;
    let records: u64 = text.trim().parse().with_context(|| format!("it printed {text:?}"))?;

    let began = Instant::now();
    let mut opened = None;
    let mut figures = measure(dir, |window| {
        let mut tally = Tally::new(window);
        let began = Instant::now();
        opened = Some(open(dir).context("opening the store of the killed process")?);
        tally.count(began, records, bytes);
        Ok(vec![tally])
    })?;
    let store = opened.expect("it was opened");
    // What stores may put off until they are asked shows here.
    store.write(&[Write::Append { log: 0, payload: Payloads::of(spec).get(0) }])?;
    let first_append = began.elapsed().as_secs_f64();
    drop(store);

    let mut found = 0;
    open(dir)?.read_all(0, &mut |_| found += 1)?;
    let acknowledged = in_first_log(spec, records) + 1;
    ensure!(found >= acknowledged, "{} acknowledged records are lost", acknowledged - found);
    figures.extra.insert("check/records_lost".to_owned(), 0.0);
    figures.extra.insert("recovery/first_append_s".to_owned(), first_append);
    Ok(figures)
}
