//! Keys spread over eight logs, written by several threads: docs/tutorials/partitioned.md
//!
//! ```text
//! cargo run --release --example partitioned
//! ```

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::thread;

use oncelog::{AppendError, Batch, Engine, From, Log, Options};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const PARTITIONS: usize = 8;
const WRITERS: usize = 4;
const KEYS: usize = 100;
const RECORDS_PER_KEY: u64 = 50;
const IN_FLIGHT_MAX: usize = 64;

fn main() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let engine = Options::new(dir.path()).shards(4).segment_size(1 << 20).open()?;

    // The part of a name before the slash is its group; a group lives on one shard.
    let one_group: Vec<String> = (0..PARTITIONS).map(|p| format!("orders/p{p}")).collect();
    let own_groups: Vec<String> = (0..PARTITIONS).map(|p| format!("orders-{p}/all")).collect();
    for (what, names) in [("one group", one_group), ("a group each", own_groups)] {
        println!("{what}: {} .. {}", names[0], names[PARTITIONS - 1]);
        run(&engine, &names)?;
    }
    engine.close().wait()?;
    Ok(())
}

fn run(engine: &Engine, names: &[String]) -> Result<()> {
    let create = |name: &String| engine.create_log(name).wait();
    let logs: Vec<Log> = names.iter().map(create).collect::<std::result::Result<_, _>>()?;
    let shards: BTreeSet<u16> = logs.iter().map(|log| log.shard().get()).collect();
    println!("  on {} of {} shards", shards.len(), engine.shard_count());

    thread::scope(|scope| {
        let start = |writer| {
            let logs = &logs;
            scope.spawn(move || write(logs, writer))
        };
        let writers: Vec<_> = (0..WRITERS).map(start).collect();
        writers.into_iter().try_for_each(|writer| writer.join().expect("it does not panic"))
    })?;

    let counts: Vec<u64> = logs.iter().map(check).collect::<Result<_>>()?;
    println!("  records of each: {counts:?}, each key in order");
    assert_eq!(counts.iter().sum::<u64>(), KEYS as u64 * RECORDS_PER_KEY);

    match Batch::new().append(&logs[0], "from").append(&logs[1], "to").commit().wait() {
        Ok(_) => println!("  a batch over p0 and p1: done, both or none"),
        Err(error @ AppendError::OtherGroup { .. }) => println!("  a batch over two: {error}"),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// All records of the keys of one writer. Each key has one writer: that gives its records an order.
fn write(logs: &[Log], writer: usize) -> Result<()> {
    let mut pending = VecDeque::new();
    for number in 0..RECORDS_PER_KEY {
        for key in (writer..KEYS).step_by(WRITERS) {
            let key = format!("key-{key}");
            let log = &logs[partition(&key)];
            // Sent, not waited for: appends of one thread keep their order.
            pending.push_back(log.append(format!("{key} {number}")));
            if pending.len() == IN_FLIGHT_MAX {
                pending.pop_front().expect("there are some").wait()?;
            }
        }
    }
    pending.into_iter().try_for_each(|append| append.wait().map(drop))?;
    Ok(())
}

/// FNV-1a, not the hash of the standard library: that may change, and keys would move.
fn partition(key: &str) -> usize {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = key.bytes().fold(0xcbf2_9ce4_8422_2325, step);
    (hash % PARTITIONS as u64) as usize
}

/// Counts the records of a partition; each key must count up from 0.
fn check(log: &Log) -> Result<u64> {
    let mut next: BTreeMap<String, u64> = BTreeMap::new();
    let mut reader = log.reader(From::Earliest);
    while let Some(records) = reader.try_next().wait()? {
        for record in records {
            let text = std::str::from_utf8(&record.payload)?;
            let (key, number) = text.split_once(' ').ok_or("a record has two words")?;
            let expected = next.entry(key.to_owned()).or_default();
            assert_eq!(number.parse::<u64>()?, *expected, "{key} in {}", log.name());
            *expected += 1;
        }
    }
    assert!(next.values().all(|count| *count == RECORDS_PER_KEY));
    Ok(next.len() as u64 * RECORDS_PER_KEY)
}
