//! Where the position stands decides what a crash costs: docs/tutorials/crash_matrix.md
//!
//! Three orders of effect and position, three instants to die: nine processes are killed, each is
//! started again, and what is there then is counted.
//!
//! ```text
//! cargo run --release --example crash_matrix
//! ```

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use oncelog::{Commit, Engine, From, Log, Options, Processor, Record};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const RECORDS: u64 = 10;
/// The record at which the worker dies.
const DIES_AT: u64 = 6;
const SIGABRT: i32 = 6;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    PositionFirst,
    EffectFirst,
    OneCommit,
}

const ORDERS: [(Order, &str); 3] = [
    (Order::PositionFirst, "position, then effect"),
    (Order::EffectFirst, "effect, then position"),
    (Order::OneCommit, "both in one commit"),
];
/// When to die: before the first step, between the two, after the second.
const INSTANTS: [&str; 3] = ["before", "between", "after"];

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    if let [_, dir, order, instant] = args.as_slice() {
        return work(Path::new(dir), ORDERS[order.parse::<usize>()?].0, instant);
    }
    println!("{:<24}{:<14}{:<14}{:<14}", "killed", "before", "between", "after");
    let mut cells = Vec::new();
    for (index, (order, name)) in ORDERS.into_iter().enumerate() {
        let row = INSTANTS.map(|instant| measure(index, order, instant));
        let row: Vec<String> = row.into_iter().collect::<Result<_>>()?;
        println!("{name:<24}{:<14}{:<14}{:<14}", row[0], row[1], row[2]);
        cells.extend(row);
    }
    let inexact: Vec<_> = (0..9).filter(|cell| cells[*cell] != "exact").collect();
    assert_eq!(inexact, [1, 4], "two windows, none with one commit");
    Ok(())
}

/// Lets a worker die, starts another that comes to the end, and counts the effects.
fn measure(index: usize, order: Order, instant: &str) -> Result<String> {
    let dir = tempfile::tempdir()?;
    let engine = open(dir.path())?;
    let orders = engine.create_log("shop/orders").wait()?;
    engine.create_log("shop/bills").wait()?;
    orders.append_batch((0..RECORDS).map(|n| n.to_string())).wait()?;
    engine.close().wait()?;
    drop((engine, orders));

    let mut worker = Command::new(std::env::current_exe()?);
    let status = worker.arg(dir.path()).arg(index.to_string()).arg(instant).status()?;
    assert_eq!(status.signal(), Some(SIGABRT), "the worker was to die");
    work(dir.path(), order, "never")?;

    let engine = open(dir.path())?;
    let bills = engine.open_log("shop/bills").wait()?;
    let mut times = [0; RECORDS as usize];
    let mut reader = bills.reader(From::Earliest);
    while let Some(records) = reader.try_next().wait()? {
        for bill in records {
            times[std::str::from_utf8(&bill.payload)?.parse::<usize>()?] += 1;
        }
    }
    engine.close().wait()?;
    let lost = times.iter().filter(|times| **times == 0).count();
    let repeated = times.iter().filter(|times| **times > 1).count();
    Ok(match (lost, repeated) {
        (0, 0) => "exact".to_owned(),
        (lost, 0) => format!("{lost} lost"),
        (0, repeated) => format!("{repeated} repeated"),
        (lost, repeated) => format!("{lost} lost, {repeated} repeated"),
    })
}

/// Writes a bill for each order, from the stored position to the end.
fn work(dir: &Path, order: Order, instant: &str) -> Result<()> {
    let engine = open(dir)?;
    let bills = engine.open_log("shop/bills").wait()?;
    let options = engine.processor("shop/billing").source("shop/orders");
    let (mut processor, restored) = options.open().wait()?;
    let mut next = restored.positions[0].next.get();
    while next < RECORDS {
        for record in processor.next().wait()?.records {
            process(&mut processor, &bills, &record, order, instant)?;
            next = record.sequence.after(1).get();
        }
    }
    engine.close().wait()?;
    Ok(())
}

fn process(
    processor: &mut Processor,
    bills: &Log,
    record: &Record,
    order: Order,
    instant: &str,
) -> Result<()> {
    let die = |now: &str| {
        if record.sequence.get() == DIES_AT && instant == now {
            // As with kill -9: nothing is flushed, closed or dropped.
            std::process::abort();
        }
    };
    let position = Commit::new().through(record);
    die("before");
    match order {
        Order::PositionFirst => {
            processor.commit(position).wait()?;
            die("between");
            bills.append(record.payload.clone()).wait()?;
        }
        Order::EffectFirst => {
            bills.append(record.payload.clone()).wait()?;
            die("between");
            processor.commit(position).wait()?;
        }
        Order::OneCommit => {
            let answer = processor.commit(position.output(bills, record.payload.clone()));
            die("between"); // sent, and nobody knows how far it came
            answer.wait()?;
        }
    }
    die("after");
    Ok(())
}

fn open(dir: &Path) -> Result<Engine> {
    Ok(Options::new(dir).shards(1).segment_size(1 << 20).open()?)
}
