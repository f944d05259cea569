//! Append, tail, rewind: docs/tutorials/basic.md
//!
//! ```text
//! cargo run --release --example basic
//! ```

use std::thread;

use oncelog::{From, Log, NewRecord, Options, ReadError, Sequence, TxId};

const LINES: [&str; 4] = ["hello", "is anybody there?", "only me", "bye"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let options = Options::new(dir.path().join("data")).shards(1).segment_size(1 << 20);
    let engine = options.clone().open()?;
    let talk = engine.create_log("room/talk").wait()?;

    // A reader at the end of the log, in a thread of its own: it waits for what comes.
    let listener = {
        let talk = talk.clone();
        thread::spawn(move || listen(&talk, LINES.len()))
    };

    for (line, id) in LINES.into_iter().zip([10, 20, 30, 40]) {
        // The id is the application's own; it never decreases.
        let appended = talk.append(NewRecord::new(line).with_txid(TxId::new(id))).wait()?;
        println!("appended {}: {line}", appended.first);
    }
    for line in listener.join().expect("it does not panic")? {
        println!("heard {line}");
    }

    // Many appends at once share entries, and so syncs.
    let pending: Vec<_> = (0..1000).map(|n| talk.append(format!("line {n}"))).collect();
    let last = pending.into_iter().map(|append| append.wait()).last().expect("there were some")?;
    println!("1000 more, the last one is {}", last.first);

    engine.close().wait()?;
    drop((engine, talk));

    // Rewind: a position is a number, so any record can be read again, also after a restart.
    let engine = options.open()?;
    let talk = engine.open_log("room/talk").wait()?;
    let info = talk.describe().wait()?;
    println!("opened again: records {} to {}", info.first, info.next.get() - 1);
    let mut reader = talk.reader(From::Sequence(Sequence::new(2))).max_records(2);
    for record in reader.next().wait()? {
        println!("rewound to {}: {}", record.sequence, String::from_utf8_lossy(&record.payload));
    }
    for (what, from) in [
        ("transaction 25", From::TxId(TxId::new(25))),
        ("the time of record 1", From::Time(time_of(&talk, 1)?)),
    ] {
        let record = talk.reader(from).next().wait()?.next().expect("at least one");
        let text = String::from_utf8_lossy(&record.payload);
        println!("rewound to {what}: {}, {text}", record.sequence);
    }
    let one = talk.get(Sequence::new(1003)).wait()?.expect("it was appended");
    println!("picked out {}: {}", one.sequence, String::from_utf8_lossy(&one.payload));
    assert_eq!(one.payload, "line 999");
    engine.close().wait()?;
    Ok(())
}

/// When a record was committed, microseconds since 1970.
fn time_of(talk: &Log, sequence: u64) -> Result<u64, ReadError> {
    let record = talk.get(Sequence::new(sequence)).wait()?.expect("it was appended");
    Ok(record.time_us)
}

/// The first `count` records, as they come.
fn listen(talk: &Log, count: usize) -> Result<Vec<String>, ReadError> {
    let mut reader = talk.reader(From::Earliest);
    let mut heard = Vec::new();
    while heard.len() < count {
        // Waits until there is at least one record; may give many.
        for record in reader.next().wait()?.take(count - heard.len()) {
            let text = String::from_utf8_lossy(&record.payload);
            heard.push(format!("{}: {text}", record.sequence));
        }
    }
    Ok(heard)
}
