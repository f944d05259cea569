//! Appending exported records to a log, each once, however often the import is begun again.
//!
//! ```text
//! record n of the export --number n--> idempotent writer: the last number says how far it came
//! ```
//!
//! Not here: the formats (`transfer`).

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::PathBuf;

use indicatif::ProgressBar;
use oncelog::LogError;
use serde_json::json;

use super::fail::Fail;
use super::out::{Out, count};
use super::sink::{Batch, Sink};
use super::target::{Target, TargetArgs, number};
use super::transfer::Decoder;

/// Append the records of an export to a log
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Each record keeps its payload and transaction id; it gets a new sequence and time. An import that
was interrupted is begun again with the same input and the same --writer: it goes on behind the last
record that is there. So use a name for one input only.

Examples:
  oncelog import shop/orders --writer import-1 --create --dir data < orders.jsonl
  oncelog import shop/orders --writer import-1 --input orders.bin --server localhost:7117
  zcat orders.jsonl.gz | oncelog import shop/orders --writer nightly-23 --dir data")]
pub(super) struct Import {
    /// The log
    log: String,
    /// The name of this import: an idempotent writer of the log
    #[arg(long, value_name = "NAME")]
    writer: String,
    /// The file to read; default: standard input
    #[arg(long, short, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Make the log if it is not there
    #[arg(long)]
    create: bool,
    #[command(flatten)]
    target: TargetArgs,
}

pub(super) fn import(args: Import, out: &mut Out) -> Result<(), Fail> {
    let (input, size): (Box<dyn BufRead>, u64) = match &args.input {
        Some(path) => {
            let file = File::open(path).map_err(Fail::io("cannot open", path))?;
            let size = file.metadata().map_or(0, |metadata| metadata.len());
            (Box::new(BufReader::with_capacity(1 << 20, file)), size)
        }
        None => (Box::new(BufReader::with_capacity(1 << 20, io::stdin())), 0),
    };
    let mut decoder = Decoder::new(input)?;
    let mut target = Target::open(&args.target)?;
    if args.create {
        create(&mut target, &args.log)?;
    }
    let (mut sink, last) = Sink::open(&mut target, &args.log, Some(&args.writer))?;
    let bar = if size > 0 { out.bar(size, true) } else { ProgressBar::hidden() };
    let mut done = Done { number: 0, skipped: 0, imported: 0 };
    let result = feed(&mut decoder, &mut sink, last, &bar, &mut done);
    bar.finish_and_clear();
    let Done { skipped, imported, .. } = done;
    if let Err(fail) = result {
        let writer = &args.writer;
        return Err(fail.and(format!(
            "of the input {imported} records were imported now, durably, and {skipped} before; \
             import the same input as writer {writer} again to go on behind them"
        )));
    }
    target.close()?;
    let json = || json!({ "log": args.log, "imported": imported, "skipped": skipped });
    out.either(json, || match skipped {
        0 => format!("{} imported", count(imported, "record")),
        _ => format!("{} imported; {skipped} were there", count(imported, "record")),
    })
}

fn create(target: &mut Target, log: &str) -> Result<(), Fail> {
    match target {
        Target::Dir(engine) => match engine.create_log(log).wait() {
            Err(LogError::Exists { .. }) => Ok(()),
            made => Ok(made.map(drop)?),
        },
        Target::Server(client) => {
            number(&client.call(&["CREATE", log, "IFABSENT"])?)?;
            Ok(())
        }
    }
}

struct Done {
    /// Number of the last record that was read.
    number: u64,
    skipped: u64,
    imported: u64,
}

fn feed<R: BufRead>(
    decoder: &mut Decoder<R>,
    sink: &mut Sink<'_>,
    last: u64,
    bar: &ProgressBar,
    done: &mut Done,
) -> Result<(), Fail> {
    let mut batch = Batch::default();
    loop {
        let next = decoder.next();
        // What is right before damage in the export is kept, and not read again.
        let Ok(Some((record, size))) = next else {
            send(sink, &mut batch, done)?;
            let end = next?.is_none();
            assert!(end, "a record was taken above");
            return shorter(last, done.number);
        };
        if !sink.takes(&batch, &record) {
            send(sink, &mut batch, done)?;
        }
        done.number += 1;
        bar.inc(size);
        if done.number <= last {
            done.skipped += 1;
            continue;
        }
        batch.push(record);
    }
}

/// An input with fewer records than were imported from it is another one.
fn shorter(last: u64, records: u64) -> Result<(), Fail> {
    if records < last {
        return Err(Fail::Usage(format!(
            "this writer came to record {last} before, and the input has only {records}: it is \
             another one; give it a writer of its own"
        )));
    }
    Ok(())
}

fn send(sink: &mut Sink<'_>, batch: &mut Batch, done: &mut Done) -> Result<(), Fail> {
    if batch.records.is_empty() {
        return Ok(());
    }
    sink.append(done.number, &batch.records)?;
    done.imported += batch.records.len() as u64;
    batch.clear();
    Ok(())
}
