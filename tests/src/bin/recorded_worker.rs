//! What `tests/power_cut.rs` records: an engine at work, which says on standard output what it is
//! about to do and what was acknowledged.
//!
//! ```text
//! recorded_worker DIR SEED first      two lives of an engine, from nothing
//! recorded_worker DIR SEED again      opens what is there, appends a little, closes
//! ```
//!
//! It waits for a line on standard input, so that whoever traces it misses nothing.
//!
//! Not here: what the lines mean (`promises`), and what is written (`script`).

use std::collections::VecDeque;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use oncelog::{
    Batch, Commit, Engine, IoMode, Log, Options, Processor, Restored, Sequence, SyncMethod,
};
use oncelog_tests::power_cut::script::{
    ASIDE, BATCHES, FEW_RECORDS, OUT, PAIR, SEGMENT_SIZE, SHARDS, SHORT_LIVED, SOURCE,
    SOURCE_RECORDS, SUM, add, batch, batches, is_snapshot, numbers, payload,
};

const IN_FLIGHT: usize = 12;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [dir, seed, kind] = &args[..] else { panic!("recorded_worker DIR SEED first|again") };
    let (dir, seed) = (Path::new(dir), seed.parse().expect("SEED is a number"));
    std::io::stdin().read_line(&mut String::new()).expect("a line on standard input");
    match kind.as_str() {
        "first" => {
            live(dir, seed, 0, SyncMethod::Dsync);
            live(dir, seed, 1, SyncMethod::Fdatasync);
        }
        "again" => again(dir, seed),
        other => panic!("{other}: first or again?"),
    }
}

fn open(dir: &Path, method: SyncMethod) -> Engine {
    let options = Options::new(dir).shards(SHARDS).segment_size(SEGMENT_SIZE);
    options.io_mode(IoMode::Plain).sync_method(method).open().unwrap()
}

/// One line in one write, at once.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush()).unwrap();
}

/// Opens a log; says so if this makes it.
fn log(engine: &Engine, name: &str) -> Log {
    say(&format!("makes {name} 1"));
    let log = engine.open_or_create_log(name).wait().unwrap();
    say(&format!("made {name} 1"));
    log
}

fn live(dir: &Path, seed: u64, life: u64, method: SyncMethod) {
    let engine = open(dir, method);
    let source = log(&engine, SOURCE);
    let out = log(&engine, OUT);
    let [left, right] = PAIR.map(|name| log(&engine, name));
    let first = life * SOURCE_RECORDS;
    append_and_rest(&engine, &source, seed, first);
    std::thread::scope(|scope| {
        scope.spawn(|| append(&source, seed, 0, first + 1, SOURCE_RECORDS - 1));
        scope.spawn(|| append_batches(&left, &right, seed, life * BATCHES));
        scope.spawn(|| come_and_go(&engine, seed, life));
        process(&engine, &source, &out, seed, (life + 1) * SOURCE_RECORDS);
    });
    drop((source, out, left, right));
    if life == 0 { engine.close().wait().unwrap() } else { drop(engine) }
}

/// Appends a record, and waits until the shard has nothing to do and says so on disk, with an empty
/// entry. Where its segment has no room for that it goes on without.
fn append_and_rest(engine: &Engine, log: &Log, seed: u64, sequence: u64) {
    let entries = || {
        let info = engine.info().wait().unwrap();
        info.shards[usize::from(log.shard().get())].stats.commit.entries
    };
    let (before, begin) = (entries(), Instant::now());
    append(log, seed, 0, sequence, 1);
    while entries() < before + 2 && begin.elapsed() < Duration::from_secs(1) {
        std::thread::yield_now();
    }
}

/// Appends records from `first` on, several in flight.
fn append(log: &Log, seed: u64, generation: u64, first: u64, count: u64) {
    let mut in_flight = VecDeque::new();
    for sequence in first..first + count {
        in_flight.push_back(log.append(payload(seed, log.name(), generation, sequence)));
        if in_flight.len() > IN_FLIGHT {
            acknowledge(log, in_flight.pop_front().expect("it is not empty").wait().unwrap());
        }
    }
    in_flight.into_iter().for_each(|append| acknowledge(log, append.wait().unwrap()));
}

fn acknowledge(log: &Log, appended: oncelog::Appended) {
    say(&format!("acked {} {}", log.name(), appended.next()));
}

fn append_batches(left: &Log, right: &Log, seed: u64, first: u64) {
    let [mut a, mut b] = batches(seed, first);
    for number in first..first + BATCHES {
        let [more_a, more_b] = batch(seed, number);
        let mut records = Batch::new();
        for sequence in a..a + more_a {
            records = records.append(left, payload(seed, left.name(), 0, sequence));
        }
        for sequence in b..b + more_b {
            records = records.append(right, payload(seed, right.name(), 0, sequence));
        }
        records.commit().wait().unwrap();
        (a, b) = (a + more_a, b + more_b);
        say(&format!("batches {}", number + 1));
        if number % 8 == 7 {
            truncate(left, a - 1);
            truncate(right, b);
        }
    }
}

fn truncate(log: &Log, before: u64) {
    let name = log.name();
    say(&format!("truncates {name} {before}"));
    log.truncate(Sequence::new(before)).wait().unwrap();
    say(&format!("truncated {name} {before}"));
}

/// A log that is made, dropped and made again; meanwhile the other shard has something to do.
fn come_and_go(engine: &Engine, seed: u64, life: u64) {
    let aside = log(engine, ASIDE);
    append(&aside, seed, 0, life * FEW_RECORDS, FEW_RECORDS);
    for step in [1, 2, 3, 4].map(|step| life * 4 + step) {
        if step % 2 == 1 {
            say(&format!("makes {SHORT_LIVED} {step}"));
            let log = engine.create_log(SHORT_LIVED).wait().unwrap();
            say(&format!("made {SHORT_LIVED} {step}"));
            append(&log, seed, step, 0, FEW_RECORDS);
        } else {
            say(&format!("drops {SHORT_LIVED} {step}"));
            engine.drop_log(SHORT_LIVED).wait().unwrap();
            say(&format!("dropped {SHORT_LIVED} {step}"));
        }
    }
}

/// The sum of the state that was restored.
fn restored_sum(seed: u64, restored: &Restored) -> u64 {
    let state = restored.deltas.last().or(restored.snapshot.as_ref());
    state.map_or(seed, |state| {
        let text = String::from_utf8_lossy(state);
        text.split(' ').nth(3).and_then(|sum| sum.parse().ok()).expect("a state ends with its sum")
    })
}

/// Adds the source's records up, until `end` of them were.
fn process(engine: &Engine, source: &Log, out: &Log, seed: u64, end: u64) {
    let options = engine.processor(SUM).source(source.name()).max_bytes(20_000);
    let (mut processor, restored) = options.open().wait().unwrap();
    say("owner");
    let mut sum = restored_sum(seed, &restored);
    let mut commits = restored.commits;
    let mut outputs = out.describe().wait().unwrap().next.get();
    let mut from = restored.positions[0].next.get();
    while from < end {
        let to = commit_next(&mut processor, out, seed, from, &mut sum);
        say(&format!("committed {to}"));
        (from, commits, outputs) = (to, commits + 1, outputs + 1);
        if commits.is_multiple_of(6) {
            truncate(source, from);
            truncate(out, outputs - 2);
        }
    }
}

fn commit_next(processor: &mut Processor, out: &Log, seed: u64, from: u64, sum: &mut u64) -> u64 {
    let records = processor.next().wait().unwrap().records;
    assert_eq!(records.first_sequence().get(), from);
    let to = records.end_sequence().get();
    for record in records {
        *sum = add(*sum, &record.payload);
    }
    let commit = Commit::new().output(out, numbers(seed, "output", from, to, *sum));
    let commit = if is_snapshot(seed, to) {
        commit.snapshot(numbers(seed, "snapshot", from, to, *sum))
    } else {
        commit.delta(numbers(seed, "delta", from, to, *sum))
    };
    processor.commit(commit).wait().unwrap();
    to
}

/// What a cut left is opened, used a little and closed.
fn again(dir: &Path, seed: u64) {
    let engine = open(dir, SyncMethod::Dsync);
    let source = log(&engine, SOURCE);
    let next = source.describe().wait().unwrap().next.get();
    append(&source, seed, 0, next, FEW_RECORDS);
    append_and_rest(&engine, &source, seed, next + FEW_RECORDS);
    append(&source, seed, 0, next + FEW_RECORDS + 1, FEW_RECORDS);
    engine.close().wait().unwrap();
}
