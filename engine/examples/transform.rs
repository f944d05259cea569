//! From log to log: drop, copy and split records, exactly once: docs/tutorials/transform.md
//!
//! ```text
//! web/requests -> processor web/router -> web/errors, web/slow
//! ```
//!
//! ```text
//! cargo run --release --example transform
//! ```

use std::collections::BTreeMap;

use oncelog::{Commit, Engine, From, Log, NewRecord, Options, Processor, Record, TxId};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const REQUESTS: u64 = 1000;

fn main() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let engine = Options::new(dir.path()).shards(1).segment_size(1 << 20).open()?;
    let requests = engine.create_log("web/requests").wait()?;
    let errors = engine.create_log("web/errors").wait()?;
    let slow = engine.create_log("web/slow").wait()?;
    for hundred in 0..REQUESTS / 100 {
        let numbers = hundred * 100..(hundred + 1) * 100;
        requests.append_batch(numbers.map(request)).wait()?;
    }

    // The first owner does a part and vanishes with records in hand that it never committed.
    let (mut first, _) = open(&engine)?;
    for _ in 0..4 {
        route(&mut first, &errors, &slow)?;
    }
    let in_hand = first.next().wait()?.records;
    println!("the first owner vanishes with {} records in hand", in_hand.len());

    // The second goes on behind what was committed, and gets those again.
    let (mut second, position) = open(&engine)?;
    println!("the second begins at {position}, owner number {}", second.epoch());
    let mut next = position;
    while next < REQUESTS {
        next = route(&mut second, &errors, &slow)?;
    }
    let late = first.commit(Commit::new()).wait().expect_err("it is not the owner any more");
    println!("the first wakes up: {late}");

    for (log, wanted) in [(&errors, is_error as fn(u64) -> bool), (&slow, is_slow)] {
        let found: Vec<u64> = read(log)?.iter().map(|record| record.txid.get()).collect();
        let expected: Vec<u64> = (0..REQUESTS).filter(|n| wanted(*n)).map(time_of).collect();
        assert_eq!(found, expected, "each once, in order, under the id of its source");
        let (name, last) = (log.name(), found[found.len() - 1]);
        println!("{name}: {} records, txids {} to {last}", found.len(), found[0]);
    }
    engine.close().wait()?;
    Ok(())
}

/// One step: what `next` gives, its outputs and the new position, in one commit.
fn route(processor: &mut Processor, errors: &Log, slow: &Log) -> Result<u64> {
    let records = processor.next().wait()?.records;
    let next = records.end_sequence().get();
    let mut commit = Commit::new();
    for record in records {
        let fields = fields(&record.payload)?;
        // The output keeps the transaction id of its source.
        let line = format!("request {} took {} ms", fields["n"], fields["ms"]);
        let output = NewRecord::new(line).with_txid(record.txid);
        if fields["status"] >= 500 {
            commit = commit.output(errors, output.clone());
        }
        if fields["ms"] >= 200 {
            commit = commit.output(slow, output);
        }
        // Neither: dropped. The position passes it all the same.
    }
    processor.commit(commit).wait()?;
    Ok(next)
}

/// `n=7 status=200 ms=19`
fn fields(payload: &[u8]) -> Result<BTreeMap<&str, u64>> {
    let parse = |field| {
        let (name, number) = str::split_once(field, '=').ok_or("a field has no =")?;
        Ok((name, number.parse()?))
    };
    std::str::from_utf8(payload)?.split(' ').map(parse).collect()
}

fn request(n: u64) -> NewRecord {
    let status = if is_error(n) { 503 } else { 200 };
    let ms = if is_slow(n) { 250 } else { 10 + n % 50 };
    NewRecord::new(format!("n={n} status={status} ms={ms}")).with_txid(TxId::new(time_of(n)))
}

fn is_error(n: u64) -> bool {
    n.is_multiple_of(20)
}

fn is_slow(n: u64) -> bool {
    n.is_multiple_of(30)
}

/// Milliseconds of some day: several requests may have the same.
fn time_of(n: u64) -> u64 {
    1_000_000 + n / 2
}

fn open(engine: &Engine) -> Result<(Processor, u64)> {
    // One byte: each step gives the least there is, here one batch of a hundred.
    let options = engine.processor("web/router").source("web/requests").max_bytes(1);
    let (processor, restored) = options.open().wait()?;
    Ok((processor, restored.positions[0].next.get()))
}

fn read(log: &Log) -> Result<Vec<Record>> {
    let (mut reader, mut all) = (log.reader(From::Earliest), Vec::new());
    while let Some(records) = reader.try_next().wait()? {
        all.extend(records);
    }
    Ok(all)
}
