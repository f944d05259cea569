//! The application: it puts the lines into a log and counts their words, each exactly once. It may
//! be killed at any instant; started again it goes on where the engine says that it was.
//!
//! ```text
//! ingest:   the log has n records -> skip n lines -> append batches, many in flight
//! process:  restore counts and position -> next() -> commit { delta, result, position }
//! ```

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::process::exit;
use std::thread;
use std::time::Duration;

use oncelog::{
    AppendBatch, Bytes, Commit, CommitError, Committed, Engine, Log, NewRecord, Options, Processor,
    Response, Restored, Sequence, SyncMethod, TxId,
};

use crate::Result;
use crate::args::Job;
use crate::input::Lines;
use crate::protocol::Message;
use crate::words::{Counts, Window};

pub(crate) const LINES: &str = "text/lines";
pub(crate) const RESULTS: &str = "text/results";
pub(crate) const WORDS: &str = "text/words";

/// Small, so that there are many of them.
const SEGMENT_SIZE: u64 = 8 << 20;

const BATCH_LINES: usize = 256;
const BATCH_BYTES: usize = 64 << 10;
/// Appends under way: enough to keep the disk busy, well below what the engine's inbox takes.
const BATCHES_IN_FLIGHT_MAX: usize = 16;
const COMMITS_IN_FLIGHT_MAX: usize = 4;
/// The engine says when a snapshot is due; more of them here, to see them survive.
const SNAPSHOT_EVERY: usize = 256;
const STATS_EVERY: Duration = Duration::from_millis(5);

pub(crate) fn run(job: &Job) -> Result<()> {
    let engine = Options::new(&job.dir).shards(1).segment_size(SEGMENT_SIZE).open()?;
    let lines = engine.open_or_create_log(LINES).wait()?;
    let results = engine.open_or_create_log(RESULTS).wait()?;
    let (processor, restored) = engine.processor(WORDS).source(LINES).open().wait()?;
    let position = restored.positions[0].next.get();

    // Line n, counted from 1, has transaction id n, and sequence n - 1: how far the input is in the
    // log is what the log itself says.
    let stored = lines.describe().wait()?;
    let next = stored.next.get();
    if stored.last_txid.get() != next {
        return Err(format!("{next} records, but the last is line {}", stored.last_txid).into());
    }
    tell(Message::Ready { lines: next, position, commits: restored.commits });

    thread::scope(|scope| {
        let ingest = scope.spawn(|| or_exit(ingest(&lines, job.input.lines(), next)));
        let counting = Counting::new(processor, &lines, &results, job.total);
        let process = scope.spawn(|| or_exit(counting.run(&restored)));
        while !(ingest.is_finished() && process.is_finished()) {
            tell_stats(&engine)?;
            thread::sleep(STATS_EVERY);
        }
        tell_stats(&engine)
    })?;
    tell(Message::Done);
    // Until the parent has no more kills for us, or is gone itself.
    std::io::stdin().read_to_end(&mut Vec::new())?;
    engine.close().wait()?;
    Ok(())
}

/// Appends the lines that are not in the log.
fn ingest(log: &Log, mut lines: Lines<'_>, mut acked: u64) -> Result<()> {
    lines.skip(acked)?;
    let mut next = acked;
    let mut in_flight: VecDeque<AppendBatch> = VecDeque::new();
    loop {
        let batch = take_batch(&mut lines, next)?;
        next += batch.len() as u64;
        let ends = batch.is_empty();
        if !ends {
            in_flight.push_back(log.append_batch(batch));
        }
        while in_flight.len() > if ends { 0 } else { BATCHES_IN_FLIGHT_MAX } {
            let appended = in_flight.pop_front().expect("there is one").wait()?;
            if appended.first.get() != acked {
                return Err(format!("line {acked} went to {}", appended.first).into());
            }
            acked = appended.next().get();
            tell(Message::Acked { lines: acked });
        }
        if ends {
            return Ok(());
        }
    }
}

/// The next lines as records, which share one buffer.
fn take_batch(lines: &mut Lines<'_>, first: u64) -> Result<Vec<NewRecord>> {
    let (mut bytes, mut ends) = (Vec::new(), Vec::new());
    while ends.len() < BATCH_LINES && bytes.len() < BATCH_BYTES {
        let Some(line) = lines.next()? else { break };
        bytes.extend_from_slice(line);
        ends.push(bytes.len());
    }
    let mut bytes = Bytes::from(bytes);
    let mut begin = 0;
    let mut records = Vec::with_capacity(ends.len());
    for (number, end) in (first + 1..).zip(ends) {
        let line = bytes.split_to(end - begin);
        begin = end;
        records.push(NewRecord::new(line).with_txid(TxId::new(number)));
    }
    Ok(records)
}

/// The processor: state, and commits under way.
struct Counting<'a> {
    processor: Processor,
    lines: &'a Log,
    results: &'a Log,
    total: u64,
    counts: Counts,
    in_flight: VecDeque<InFlight>,
    snapshot_due: bool,
    deltas: usize,
}

struct InFlight {
    answer: Response<Committed, CommitError>,
    position: u64,
    snapshot: bool,
}

impl<'a> Counting<'a> {
    fn new(processor: Processor, lines: &'a Log, results: &'a Log, total: u64) -> Self {
        let (counts, in_flight) = (Counts::default(), VecDeque::new());
        let (snapshot_due, deltas) = (false, 0);
        Self { processor, lines, results, total, counts, in_flight, snapshot_due, deltas }
    }

    fn run(mut self, restored: &Restored) -> Result<()> {
        self.counts = restore(restored)?;
        self.deltas = restored.deltas.len();
        let mut window = Window::new(restored.positions[0].next.get());
        while window.end() < self.total {
            let records = self.processor.next().wait()?.records;
            tell(Message::Read { lines: records.end_sequence().get() });
            for record in records {
                if record.sequence.get() != window.end() {
                    return Err(format!("{} came, not {}", record.sequence, window.end()).into());
                }
                window.add(&record.payload);
                if window.is_full() || window.end() == self.total {
                    let next = Window::new(window.end());
                    self.commit(&std::mem::replace(&mut window, next))?;
                }
            }
        }
        self.wait_until(0)
    }

    /// State, result and position of a window: durable together, or not at all.
    fn commit(&mut self, window: &Window) -> Result<()> {
        self.counts.add_all(window.counts());
        let snapshot = self.snapshot_due || self.deltas >= SNAPSHOT_EVERY;
        let commit = if snapshot {
            (self.snapshot_due, self.deltas) = (false, 0);
            Commit::new().snapshot(self.counts.encode())
        } else {
            self.deltas += 1;
            Commit::new().delta(window.counts().encode())
        };
        // More may have been read than the window holds: so the position is given.
        let end = Sequence::new(window.end());
        let commit = commit.output(self.results, window.result()).position(self.lines.id(), end);
        let answer = self.processor.commit(commit);
        self.in_flight.push_back(InFlight { answer, position: window.end(), snapshot });
        self.wait_until(COMMITS_IN_FLIGHT_MAX)
    }

    /// Waits until no more than so many commits are under way.
    fn wait_until(&mut self, in_flight_max: usize) -> Result<()> {
        while self.in_flight.len() > in_flight_max {
            let InFlight { answer, position, snapshot } =
                self.in_flight.pop_front().expect("there is one");
            let committed = answer.wait()?;
            // What was sent before a snapshot does not know of it.
            let known = self.in_flight.iter().any(|commit| commit.snapshot);
            self.snapshot_due |= committed.snapshot_due && !known;
            tell(Message::Committed { commits: committed.number, position, snapshot });
        }
        Ok(())
    }
}

/// What was committed last.
pub(crate) fn restore(restored: &Restored) -> Result<Counts> {
    let mut counts = Counts::default();
    for bytes in restored.snapshot.iter().chain(&restored.deltas) {
        counts.add_encoded(bytes)?;
    }
    Ok(counts)
}

fn tell_stats(engine: &Engine) -> Result<()> {
    let stats = engine.info().wait()?.shards[0].stats;
    let dsync = stats.sync_method == SyncMethod::Dsync;
    let (records, controls, syncs) =
        (stats.commit.records, stats.commit.controls, stats.commit.syncs);
    tell(Message::Stats { records, controls, syncs, dsync });
    Ok(())
}

/// A whole line with one write: a kill never leaves half a message.
fn tell(message: Message) {
    let line = format!("{message}\n");
    or_exit(std::io::stdout().lock().write_all(line.as_bytes()).map_err(Into::into));
}

/// One part that fails ends the worker: the others would wait for it for ever.
fn or_exit(result: Result<()>) {
    if let Err(error) = result {
        eprintln!("worker: {error}");
        exit(1);
    }
}
