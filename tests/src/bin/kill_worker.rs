//! What `tests/weather.rs` kills: writers and a processor that say on standard output what was
//! acknowledged.
//!
//! ```text
//! kill_worker DIR        a <writer> <sequence>      this record is durable
//!                        c <next>                   this commit is durable
//! ```

use std::io::Write;
use std::path::Path;

use oncelog::{Commit, Engine, Log, Options};

const WRITERS: usize = 3;
const IN_FLIGHT: usize = 40;

fn main() {
    let dir = std::env::args().nth(1).expect("usage: kill_worker DIR");
    let engine = open(Path::new(&dir));
    let mut threads = Vec::new();
    for writer in 0..WRITERS {
        let log = engine.open_or_create_log(format!("g/source-{writer}")).wait().unwrap();
        threads.push(std::thread::spawn(move || write(writer, &log)));
    }
    process(&engine);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

fn open(dir: &Path) -> Engine {
    Options::new(dir).shards(1).segment_size(1 << 20).open().unwrap()
}

/// Appends the numbers from the log's end on, many in flight, until it is killed.
fn write(writer: usize, log: &Log) {
    let mut next = log.describe().wait().unwrap().next.get();
    let mut in_flight = std::collections::VecDeque::new();
    loop {
        while in_flight.len() < IN_FLIGHT {
            let padding = "x".repeat(usize::try_from(next % 900).unwrap());
            in_flight.push_back(log.append(format!("{next} {padding}")));
            next += 1;
        }
        let appended = in_flight.pop_front().expect("it was just filled").wait().unwrap();
        say(&format!("a {writer} {}", appended.first));
    }
}

/// State: how many records were processed. Output of each commit: from where to where.
fn process(engine: &Engine) {
    let out = engine.open_or_create_log("g/out").wait().unwrap();
    let options = engine.processor("g/p").source("g/source-0");
    let (mut processor, restored) = options.open().wait().unwrap();
    let state = restored.deltas.last().or(restored.snapshot.as_ref());
    let mut count: u64 =
        state.map_or(0, |state| std::str::from_utf8(state).unwrap().parse().unwrap());
    assert_eq!(count, restored.positions[0].next.get(), "state and position are one");
    loop {
        let records = processor.next().wait().unwrap().records;
        let from = records.first_sequence();
        assert_eq!(from.get(), count);
        for record in records {
            let text = std::str::from_utf8(&record.payload).unwrap();
            assert_eq!(text.split(' ').next().unwrap().parse(), Ok(count));
            count += 1;
        }
        let commit = Commit::new().output(&out, format!("{from} {count}"));
        let commit = if count.is_multiple_of(7) {
            commit.snapshot(count.to_string())
        } else {
            commit.delta(count.to_string())
        };
        processor.commit(commit).wait().unwrap();
        say(&format!("c {count}"));
    }
}

/// One line, at once: what is not said is not checked.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        // Nobody listens: the test is gone.
        std::process::exit(0);
    }
}
