//! Appending records from the command line or from standard input.
//!
//! Not here: files of exported records (`import`).

use std::ffi::OsString;
use std::io::{self, BufRead, Read};
use std::os::unix::ffi::OsStringExt;

use oncelog::{NewRecord, TxId};
use serde_json::json;

use super::fail::Fail;
use super::out::{Out, count};
use super::sink::{Batch, Sink};
use super::target::{Target, TargetArgs};

/// Bytes of a line that are read before it is refused: no record is as large as that.
const LINE_MAX: u64 = 2 << 20;

/// Append records to a log; they are durable when this ends
#[derive(Debug, clap::Args)]
#[command(after_help = "\
With a writer nothing is there twice: `append --writer W --number N` under a number that W used
before appends nothing and says where that record stands. With --lines the numbers are those of the
lines: given the same input again, lines that are there already are passed over, so a broken run
goes on where it stopped.

Examples:
  oncelog append shop/orders '3 apples' --dir data
  oncelog append shop/orders --txid 42 --server localhost:7117 < order.bin
  tail -F access.log | oncelog append web/access --lines --server localhost:7117
  oncelog append shop/orders --lines --writer book --dir data < book.txt
  oncelog append shop/orders '3 apples' --writer till-7 --number 815 --dir data")]
pub(super) struct Append {
    /// The log
    log: String,
    /// The payload; without it, all of standard input is
    payload: Option<OsString>,
    /// Each line of standard input is a record, without its end of line
    #[arg(long, conflicts_with = "payload")]
    lines: bool,
    /// The records' transaction id; it never decreases in a log
    #[arg(long, value_name = "N")]
    txid: Option<u64>,
    /// Append as this idempotent writer
    #[arg(long, value_name = "NAME")]
    writer: Option<String>,
    /// The writer's number for this record; default: the one behind its last
    #[arg(long, value_name = "N", requires = "writer", conflicts_with = "lines",
          value_parser = clap::value_parser!(u64).range(1..))]
    number: Option<u64>,
    #[command(flatten)]
    target: TargetArgs,
}

pub(super) fn append(args: Append, out: &mut Out) -> Result<(), Fail> {
    let mut target = Target::open(&args.target)?;
    let (sink, last) = Sink::open(&mut target, &args.log, args.writer.as_deref())?;
    if args.lines {
        append_lines(&args, sink, last, out)?;
    } else {
        append_one(args, sink, last, out)?;
    }
    target.close()
}

fn append_one(args: Append, mut sink: Sink<'_>, last: u64, out: &mut Out) -> Result<(), Fail> {
    let payload = match args.payload {
        Some(payload) => payload.into_vec(),
        None => {
            let mut payload = Vec::new();
            let read = io::stdin().lock().take(LINE_MAX).read_to_end(&mut payload);
            read.map_err(no_input)?;
            payload
        }
    };
    let number = match args.number {
        Some(number) => number,
        None => last.checked_add(1).ok_or_else(|| {
            Fail::Failed("the writer's numbers are used up: use another writer".to_owned())
        })?,
    };
    let record = NewRecord { txid: args.txid.map(TxId::new), payload: payload.into() };
    let stands = sink.append(number, &[record])?;
    let json = || {
        let mut json = json!({ "log": args.log, "sequence": stands.first });
        if args.writer.is_some() {
            json["number"] = number.into();
            json["repeated"] = stands.repeated.into();
        }
        json
    };
    let again = if stands.repeated { " (there already)" } else { "" };
    out.either(json, || format!("{}{again}", stands.first))
}

fn no_input(error: io::Error) -> Fail {
    Fail::Failed(format!("cannot read standard input: {error}"))
}

/// What became of the lines.
#[derive(Default)]
struct Lines {
    records: u64,
    skipped: u64,
    first: Option<u64>,
    last: Option<u64>,
}

fn append_lines(args: &Append, mut sink: Sink<'_>, last: u64, out: &mut Out) -> Result<(), Fail> {
    let (mut batch, mut done) = (Batch::default(), Lines::default());
    let result = feed(args, &mut sink, last, &mut batch, &mut done);
    if let Err(fail) = result {
        let more = "give the same input to the same --writer again to go on behind them";
        let more = if args.writer.is_some() { more } else { "the lines behind them were not" };
        let appended = done.records;
        return Err(fail.and(format!("{appended} lines were appended before, durably: {more}")));
    }
    let Lines { records, skipped, first, last } = done;
    let json = || {
        json!({ "log": args.log, "records": records, "skipped": skipped, "first": first,
                "last": last })
    };
    out.either(json, || {
        let place = first.zip(last).map(|(first, last)| match records {
            1 => format!(", {first}"),
            _ => format!(", {first} to {last}"),
        });
        let passed = if skipped > 0 { format!("; {skipped} were there") } else { String::new() };
        format!("{}{}{passed}", count(records, "record"), place.unwrap_or_default())
    })
}

fn feed(
    args: &Append,
    sink: &mut Sink<'_>,
    last: u64,
    batch: &mut Batch,
    done: &mut Lines,
) -> Result<(), Fail> {
    let mut input = io::BufReader::with_capacity(256 << 10, io::stdin());
    let txid = args.txid.map(TxId::new);
    let mut number = 0;
    loop {
        let mut line = Vec::new();
        input.by_ref().take(LINE_MAX).read_until(b'\n', &mut line).map_err(no_input)?;
        if line.is_empty() {
            return send(sink, number, batch, done);
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        } else if line.len() as u64 == LINE_MAX {
            send(sink, number, batch, done)?;
            return Err(Fail::Usage(format!("line {} is longer than any record", number + 1)));
        }
        if number < last {
            number += 1;
            done.skipped += 1;
            continue;
        }
        let record = NewRecord { txid, payload: line.into() };
        if !sink.takes(batch, &record) {
            send(sink, number, batch, done)?;
        }
        number += 1;
        batch.push(record);
        // No whole line has come behind it: who waits for these need not wait for more.
        if !input.buffer().contains(&b'\n') {
            send(sink, number, batch, done)?;
        }
    }
}

fn send(sink: &mut Sink<'_>, number: u64, batch: &mut Batch, done: &mut Lines) -> Result<(), Fail> {
    if batch.records.is_empty() {
        return Ok(());
    }
    let stands = sink.append(number, &batch.records)?;
    let count = batch.records.len() as u64;
    done.records += count;
    done.first.get_or_insert(stands.first);
    done.last = Some(stands.first + count - 1);
    batch.clear();
    Ok(())
}
