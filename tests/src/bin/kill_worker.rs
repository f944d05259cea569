//! What `tests/storm.rs` kills: writers, readers and processors that say on standard output what
//! was acknowledged.
//!
//! ```text
//! kill_worker DIR            one record after the other
//! kill_worker DIR full
//!     full <next>            the disk is full; these records are durable
//! kill_worker DIR ring|plain|cached
//!     start                  it is about to open the engine
//!     open <kind>            it is open, with a ring or without
//!     a <log> <next>         records before this one are durable
//!     b <count>              so many batches are durable
//!     c <group> <position>   this commit is durable
//!     T|t <log> <first>      a truncation is asked for | durable
//!     bad <why>              something is wrong
//! ```
//!
//! Not here: what is written (`storm`), and what must be there afterwards (`check`).

use std::collections::VecDeque;
use std::io::Write;
use std::sync::mpsc::{Sender, channel};
use std::thread::{Builder, JoinHandle};

use oncelog::{
    AppendError, Batch, CommitError, DirectIo, Engine, From, IoMode, Log, Options, Processor,
    ReadError, Sequence,
};
use oncelog_tests::storm::check::{Told, check};
use oncelog_tests::storm::{BATCHED, GROUPS, Output, SINGLES, State, block, payload};

/// Single records of one writer that are under way at once.
const IN_FLIGHT: usize = 40;
/// Truncations leave about so many records.
const KEPT: u64 = 600;
/// A new owner comes after so many commits of the one before.
const TERM: usize = 6;

fn main() {
    let mut args = std::env::args().skip(1);
    let dir = args.next().expect("usage: kill_worker DIR [full|ring|plain|cached]");
    let options = Options::new(dir).segment_size(1 << 20);
    match args.next().as_deref() {
        None => one_by_one(options.shards(1)),
        Some("full") => fill(options.shards(1)),
        Some("plain") => storm(options.shards(2).io_mode(IoMode::Plain)),
        Some("cached") => storm(options.shards(2).direct_io(DirectIo::Never)),
        Some("ring") => storm(options.shards(2)),
        Some(other) => panic!("{other} is no way to do I/O"),
    }
}

fn one_by_one(options: Options) {
    let engine = options.open().unwrap();
    let log = engine.open_or_create_log("log").wait().unwrap();
    loop {
        let appended = log.append("one").wait().unwrap();
        say(&format!("a log {}", appended.next()));
    }
}

/// Fills the disk, then waits for the kill, or for the end of whoever would do it.
fn fill(options: Options) {
    let engine = options.open().unwrap();
    let log = engine.open_log("g/log").wait().unwrap();
    loop {
        let next = log.describe().wait().unwrap().next.get();
        match log.append(block(next, 12_000)).wait() {
            Ok(_) => {}
            Err(AppendError::NoSpace(_)) => {
                say(&format!("full {next}"));
                break;
            }
            Err(error) => bad(&error.to_string()),
        }
    }
    let mut nothing = String::new();
    while std::io::stdin().read_line(&mut nothing).is_ok_and(|count| count > 0) {}
}

fn storm(options: Options) {
    say("start");
    let engine = options.open().unwrap_or_else(|error| bad(&format!("open: {error}")));
    say(&format!("open {}", engine.info().wait().unwrap().shards[0].runner.kind));
    check(&engine, &Told::default()).unwrap_or_else(|why| bad(&why));
    let mut threads = Vec::new();
    for name in SINGLES {
        let log = engine.open_or_create_log(name).wait().unwrap();
        threads.push(spawn(move || write(&log, IN_FLIGHT)));
    }
    let logs = BATCHED.map(|name| engine.open_or_create_log(name).wait().unwrap());
    threads.push(spawn(move || write_batches(&logs)));
    for name in [SINGLES[0], BATCHED[2], SINGLES[1]] {
        let log = engine.open_or_create_log(name).wait().unwrap();
        threads.push(spawn(move || follow(&log)));
    }
    for group in GROUPS {
        let log = engine.open_or_create_log(format!("{group}/in")).wait().unwrap();
        let out = engine.open_or_create_log(format!("{group}/out")).wait().unwrap();
        threads.push(spawn(move || write(&log, 4)));
        threads.push(spawn(move || follow_outputs(&out)));
        let engine = engine.clone();
        threads.push(spawn(move || match group {
            "take" => change_hands(&engine, group),
            group => {
                let (owner, state) = own(&engine, group);
                let ended = process(&engine, group, owner, state, None);
                bad(&format!("nobody else owns {group}: {ended:?}"));
            }
        }));
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

fn spawn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    Builder::new().spawn(work).unwrap()
}

/// Appends from the log's end on, several in flight, and truncates, until it is killed.
fn write(log: &Log, window: usize) {
    let mut next = log.describe().wait().unwrap().next.get();
    let mut in_flight = VecDeque::new();
    let truncates = SINGLES.contains(&log.name());
    loop {
        while in_flight.len() < window {
            in_flight.push_back(log.append(payload(log.name(), next)));
            next += 1;
        }
        let appended = in_flight.pop_front().expect("it was just filled").wait().unwrap();
        let done = appended.next().get();
        say(&format!("a {} {done}", log.name()));
        if truncates && done.is_multiple_of(200) {
            truncate(log, done.saturating_sub(KEPT));
        }
    }
}

/// What was truncated is asked for before and said behind.
fn truncate(log: &Log, first: u64) {
    let name = log.name();
    say(&format!("T {name} {first}"));
    log.truncate(Sequence::new(first)).wait().unwrap();
    say(&format!("t {name} {first}"));
}

fn write_batches(logs: &[Log; 3]) {
    let mut next = logs[0].describe().wait().unwrap().next.get();
    let mut in_flight = VecDeque::new();
    loop {
        while in_flight.len() < 8 {
            let mut batch = Batch::new();
            for (log, share) in logs.iter().zip(1..) {
                for n in 0..share {
                    batch = batch.append(log, payload(log.name(), next * share + n));
                }
            }
            in_flight.push_back((next, batch.commit()));
            next += 1;
        }
        let (number, batch) = in_flight.pop_front().expect("it was just filled");
        let appended = batch.wait().unwrap();
        if !appended.iter().zip(1..).all(|(part, share)| part.first.get() == number * share) {
            bad(&format!("batch {number} stands at {appended:?}"));
        }
        say(&format!("b {}", number + 1));
        if number % 100 == 99 {
            let kept = number.saturating_sub(KEPT);
            logs.iter().zip(1..).for_each(|(log, share)| truncate(log, kept * share));
        }
    }
}

/// Reads what is there and what comes.
fn follow_each(log: &Log, mut see: impl FnMut(u64, &[u8], bool)) {
    let mut reader = log.reader(From::Earliest);
    let mut next = None;
    loop {
        let records = match reader.next().wait() {
            Ok(records) => records,
            Err(ReadError::Truncated { first }) => {
                reader = log.reader(From::Sequence(first));
                next = None;
                continue;
            }
            Err(error) => bad(&format!("{}: {error}", log.name())),
        };
        for record in records {
            let at = record.sequence.get();
            if next.is_some_and(|next| next != at) {
                bad(&format!("{}: {at} comes where {next:?} should", log.name()));
            }
            see(at, &record.payload, next.is_none());
            next = Some(at + 1);
        }
    }
}

fn follow(log: &Log) {
    follow_each(log, |at, bytes, _| {
        if bytes != payload(log.name(), at) {
            bad(&format!("{}: other bytes at {at}", log.name()));
        }
    });
}

fn follow_outputs(log: &Log) {
    let mut last = None;
    follow_each(log, |at, bytes, begins| {
        let before = last.filter(|_| !begins);
        let output = Output::of(bytes).unwrap_or_else(|why| bad(&why));
        output.follows(before, at).unwrap_or_else(|why| bad(&why));
        last = Some(output);
    });
}

fn own(engine: &Engine, group: &str) -> (Processor, State) {
    let options = engine.processor(format!("{group}/p")).source(format!("{group}/in"));
    let (owner, restored) = options.max_bytes(8_000).open().wait().unwrap();
    let state = State::restore(&restored).unwrap_or_else(|why| bad(&format!("{group}: {why}")));
    (owner, state)
}

/// Processes until a commit fails; says where the last one that did not ended, and how.
fn process(
    engine: &Engine,
    group: &str,
    mut owner: Processor,
    mut state: State,
    told: Option<&Sender<()>>,
) -> (u64, CommitError) {
    let out = engine.open_or_create_log(format!("{group}/out")).wait().unwrap();
    let source = owner.sources().next().expect("it has one").clone();
    let mut number = out.describe().wait().unwrap().next.get();
    let mut in_flight = VecDeque::new();
    let mut committed = state.count;
    // One waits for each commit, the other has several under way.
    let window = if group == "p1" { 4 } else { 1 };
    loop {
        while in_flight.len() < window {
            let before = state;
            for record in
                owner.next().wait().unwrap_or_else(|error| bad(&error.to_string())).records
            {
                if record.payload != payload(source.name(), state.count) {
                    bad(&format!("{group}: other bytes at {}", state.count));
                }
                state.add();
            }
            number += 1;
            let output = Output::record(before, state, owner.epoch());
            let commit = state.commit(before, number).output(&out, output);
            in_flight.push_back((state.count, owner.commit(commit)));
        }
        let (position, commit) = in_flight.pop_front().expect("it was just filled");
        match commit.wait() {
            Ok(_) => committed = position,
            Err(error) => return (committed, error),
        }
        say(&format!("c {group} {committed}"));
        if told.is_some_and(|told| told.send(()).is_err()) {
            bad("nobody waits for this owner");
        }
        if number.is_multiple_of(20) {
            truncate(&source, committed);
            truncate(&out, number.saturating_sub(50 + window as u64));
        }
    }
}

/// One owner after the other, each fenced by the next while it goes on.
fn change_hands(engine: &Engine, group: &'static str) {
    let (mut owner, mut state) = own(engine, group);
    loop {
        let (told, commits) = channel();
        let other = engine.clone();
        let old = spawn(move || process(&other, group, owner, state, Some(&told)));
        commits.iter().take(TERM).for_each(drop);
        let next = own(engine, group);
        // It goes on until it learns that it is fenced.
        commits.iter().for_each(drop);
        let (committed, error) = old.join().unwrap();
        if !matches!(error, CommitError::Fenced { .. }) {
            bad(&format!("{group}: a fenced owner is told: {error}"));
        }
        if committed > next.1.count {
            bad(&format!("{group}: {committed} was committed, the next owner has {:?}", next.1));
        }
        (owner, state) = next;
    }
}

fn bad(why: &str) -> ! {
    say(&format!("bad {why}"));
    std::process::exit(3)
}

/// One line, at once: what is not said is not checked.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    if out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush()).is_err() {
        // Nobody listens: the test is gone.
        std::process::exit(0);
    }
}
