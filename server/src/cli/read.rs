//! Reading records: from a position, the last ones, and those to come.
//!
//! Not here: files to import again (`export`).

use std::time::Duration;

use oncelog::{From as At, Sequence};
use serde_json::json;

use super::fail::Fail;
use super::logs::{described, told};
use super::out::Out;
use super::source::{Got, Source, find};
use super::target::{Target, TargetArgs};
use super::values::{POSITIONS, Position, some_bytes};

/// How long a server may keep an answer back for records to come.
const FOLLOW_WAIT: Duration = Duration::from_secs(10);

/// Read records from a position on
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Prints each payload as it is and ends the line. With --json each line is an object: sequence, txid,
time_us, dlsn, and payload (or payload_base64, where it is not UTF-8).

Examples:
  oncelog read shop/orders --dir data
  oncelog read shop/orders --from sequence:1000 --count 10 --dir data
  oncelog read shop/orders --from time:2026-11-23T10:00:00Z --server localhost:7117
  oncelog read shop/orders --from ago:15m --json --dir data | jq -r .payload")]
pub(super) struct Read {
    /// The log
    log: String,
    /// Where to begin
    #[arg(long, value_name = "POSITION", default_value = "earliest",
          long_help = format!("Where to begin: {POSITIONS}"))]
    from: Position,
    /// Where records from there on may have been truncated, begin at the first that is left
    #[arg(long)]
    or_earliest: bool,
    /// At most so many records
    #[arg(long, short = 'n', value_name = "N")]
    count: Option<u64>,
    /// Stop after the record with which the payloads reach so many bytes, as in 1MiB
    #[arg(long, value_name = "SIZE", value_parser = some_bytes)]
    bytes: Option<u64>,
    #[command(flatten)]
    target: TargetArgs,
}

pub(super) fn read(args: Read, out: &mut Out) -> Result<(), Fail> {
    let mut target = Target::open(&args.target)?;
    let mut source = Source::open(&mut target, &args.log, args.from, args.or_earliest)?;
    let mut left = args.count.unwrap_or(u64::MAX);
    let mut bytes = args.bytes.unwrap_or(u64::MAX);
    'all: loop {
        let records = source.next(left, None)?;
        if records.is_empty() {
            break;
        }
        left -= records.len() as u64;
        for record in records {
            print(&record, out)?;
            bytes = bytes.saturating_sub(record.payload.len() as u64);
            if bytes == 0 {
                break 'all;
            }
        }
    }
    target.close()
}

fn print(record: &Got, out: &mut Out) -> Result<(), Fail> {
    if out.is_json() {
        return out.value(&record.json());
    }
    out.bytes(&record.payload)?;
    out.bytes(b"\n")
}

/// Read the last records
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  oncelog tail shop/orders --dir data
  oncelog tail shop/orders -n 1 --server localhost:7117 --json")]
pub(super) struct Tail {
    /// The log
    log: String,
    /// How many
    #[arg(long, short = 'n', value_name = "N", default_value_t = 10)]
    count: u64,
    #[command(flatten)]
    target: TargetArgs,
}

pub(super) fn tail(args: Tail, out: &mut Out) -> Result<(), Fail> {
    let mut target = Target::open(&args.target)?;
    let log = described(&mut target, &args.log)?;
    let (first, next) = (told(&log, "first")?.get(), told(&log, "next")?.get());
    let mut left = args.count.min(next - first);
    let from = Position(At::Sequence(Sequence::new(next - left)));
    let mut source = Source::open(&mut target, &args.log, from, false)?;
    while left > 0 {
        let records = source.next(left, None)?;
        if records.is_empty() {
            break;
        }
        left -= records.len() as u64;
        records.iter().try_for_each(|record| print(record, out))?;
    }
    target.close()
}

/// Read records as they come
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Ends at the end of a sealed log, after --count records, or when it is interrupted. On a directory
nobody else can append meanwhile, so there it ends where `read` does.

Examples:
  oncelog follow shop/orders --server localhost:7117
  oncelog follow shop/orders --from earliest --json --server localhost:7117 | jq .txid")]
pub(super) struct Follow {
    /// The log
    log: String,
    /// Where to begin
    #[arg(long, value_name = "POSITION", default_value = "latest",
          long_help = format!("Where to begin: {POSITIONS}"))]
    from: Position,
    /// Where records from there on may have been truncated, begin at the first that is left
    #[arg(long)]
    or_earliest: bool,
    /// End after so many records
    #[arg(long, short = 'n', value_name = "N")]
    count: Option<u64>,
    #[command(flatten)]
    target: TargetArgs,
}

pub(super) fn follow(args: Follow, out: &mut Out) -> Result<(), Fail> {
    let mut target = Target::open(&args.target)?;
    let mut from = args.from;
    if from.0 == At::Latest {
        // Fixed now: what comes while no read is under way must not be missed.
        from = Position(At::Sequence(find(&mut target, &args.log, from)?));
    }
    let wait = matches!(target, Target::Server(_)).then_some(FOLLOW_WAIT);
    let mut source = Source::open(&mut target, &args.log, from, args.or_earliest)?;
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 && !source.ended {
        let records = source.next(left, wait)?;
        left -= records.len() as u64;
        records.iter().try_for_each(|record| print(record, out))?;
        out.flush()?;
        if records.is_empty() && wait.is_none() && !source.ended {
            out.note(
                "nothing more can come: this command has the directory, so nobody else appends; \
                 follow a server to wait",
            );
            break;
        }
    }
    target.close()
}

/// Count records
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  oncelog count shop/orders --dir data
  oncelog count shop/orders --from ago:1h --server localhost:7117
  oncelog count shop/orders --from txid:100 --to txid:200 --dir data")]
pub(super) struct Count {
    /// The log
    log: String,
    /// Count from here on
    #[arg(long, value_name = "POSITION", default_value = "earliest",
          long_help = format!("Count from here on: {POSITIONS}"))]
    from: Position,
    /// Count up to here, without the record that is there
    #[arg(long, value_name = "POSITION", default_value = "latest")]
    to: Position,
    #[command(flatten)]
    target: TargetArgs,
}

pub(super) fn count(args: Count, out: &mut Out) -> Result<(), Fail> {
    let mut target = Target::open(&args.target)?;
    let log = described(&mut target, &args.log)?;
    let (first, next) = (told(&log, "first")?, told(&log, "next")?);
    let mut at = |position| {
        let found = find(&mut target, &args.log, position)?;
        Ok::<_, Fail>(found.clamp(first, next))
    };
    let (from, to) = (at(args.from)?, at(args.to)?);
    let count = to.get().saturating_sub(from.get());
    target.close()?;
    out.either(|| json!({ "log": args.log, "count": count }), || count.to_string())
}
