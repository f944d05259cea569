//! Commands on whole logs: making, listing, describing, ending and dropping them.
//!
//! Not here: their records (`append`, `read`).

use std::fmt::Write;
use std::path::Path;

use oncelog::name::check_name;
use oncelog::{LogError, LogInfo, LogOptions, Sequence};
use serde_json::{Map, Value, json};

use super::fail::Fail;
use super::options::{OptionArgs, to_json};
use super::out::{Out, confirm, count, size, time};
use super::source::find;
use super::target::{Target, TargetArgs, log_warnings, number, odd, options};
use super::values::{POSITIONS, Position, bytes, put_bytes};
use crate::client::Answer;

/// Names that are asked for at once.
const PAGE: usize = 1000;

/// Make a log
///
/// In a directory without an engine this makes the engine first.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  oncelog create shop/orders --dir data
  oncelog create shop/orders --dir data --shards 2 --segment-size 16MiB
  oncelog create shop/events --server localhost:7117 --compression zstd --keep-for 7d
  oncelog create shop/bills --dir data --if-absent --keep-until shop/billing")]
pub(super) struct Create {
    /// Its name; the part before the first / is its group
    log: String,
    #[command(flatten)]
    target: TargetArgs,
    /// It is fine if there is one; its options stay as they are
    #[arg(long)]
    if_absent: bool,
    #[command(flatten)]
    options: OptionArgs,
    /// Shards of a new engine; default: one for each processor
    #[arg(long, value_name = "N", conflicts_with = "server", help_heading = "A new engine")]
    shards: Option<u16>,
    /// Bytes of each segment of a new engine, as in 64MiB
    #[arg(long, value_name = "SIZE", conflicts_with = "server", value_parser = bytes,
          help_heading = "A new engine")]
    segment_size: Option<u64>,
}

pub(super) fn create(args: Create, out: &mut Out) -> Result<(), Fail> {
    let made = match &args.target.dir {
        Some(dir) => create_in(dir, &args)?,
        None => {
            let mut target = Target::open(&args.target)?;
            let Target::Server(client) = &mut target else { unreachable!("it has no directory") };
            let mut words = vec!["CREATE".to_owned(), args.log.clone()];
            words.extend(args.if_absent.then(|| "IFABSENT".to_owned()));
            words.extend(args.options.words());
            number(&client.call(&words)?)? == 1
        }
    };
    let log = &args.log;
    let done = if made { "made" } else { "there already" };
    out.either(|| json!({ "log": log, "made": made }), || format!("{log}: {done}"))
}

fn create_in(dir: &Path, args: &Create) -> Result<bool, Fail> {
    // What is wrong with them is said before an engine is made.
    let log_options = args.options.to_options()?;
    check_name(&args.log).map_err(LogError::from)?;
    log_warnings();
    let mut open = options(dir);
    if let Some(shards) = args.shards {
        open = open.shards(shards);
    }
    if let Some(size) = args.segment_size {
        open = open.segment_size(size);
    }
    let engine = open.open()?;
    let made = if log_options == LogOptions::default() {
        engine.create_log(&args.log)
    } else {
        engine.create_log_with(&args.log, log_options)
    };
    let made = match made.wait() {
        Ok(_) => true,
        Err(LogError::Exists { .. }) if args.if_absent => false,
        Err(error) => return Err(error.into()),
    };
    engine.close().wait()?;
    Ok(made)
}

/// List logs by name
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  oncelog logs --dir data
  oncelog logs shop/ --long --dir data
  oncelog logs --server localhost:7117 --json | jq -r '.[]'")]
pub(super) struct Logs {
    /// Only names that begin so
    #[arg(default_value = "", hide_default_value = true)]
    prefix: String,
    /// What each of them is, too
    #[arg(short, long)]
    long: bool,
    #[command(flatten)]
    target: TargetArgs,
}

pub(super) fn logs(args: Logs, out: &mut Out) -> Result<(), Fail> {
    let mut target = Target::open(&args.target)?;
    let mut all: Vec<Value> = Vec::new();
    for name in names(&mut target, &args.prefix)? {
        if !args.long {
            if out.is_json() {
                all.push(name.into());
            } else {
                out.line(name)?;
            }
            continue;
        }
        let log = match described(&mut target, &name) {
            // Dropped meanwhile.
            Err(Fail::No(_)) => continue,
            log => log?,
        };
        if out.is_json() {
            all.push(log.into());
            continue;
        }
        let number = |key: &str| log.get(key).and_then(Value::as_u64).unwrap_or(0);
        let (first, next) = (number("first"), number("next"));
        let ends = if log.get("sealed") == Some(&Value::Bool(true)) { " sealed" } else { "" };
        let records = count(next.saturating_sub(first), "record");
        let bytes = size(number("bytes"));
        out.line(format_args!("{name}  {records} {first}..{next}, {bytes} ever{ends}"))?;
    }
    if out.is_json() {
        out.value(&all.into())?;
    }
    target.close()
}

fn names(target: &mut Target, prefix: &str) -> Result<Vec<String>, Fail> {
    let mut names: Vec<String> = Vec::new();
    loop {
        let after = names.last().cloned().unwrap_or_default();
        let page: Vec<String> = match target {
            Target::Dir(engine) => {
                let page = engine.list_logs_page(prefix, &after, PAGE).wait()?;
                page.into_iter().map(|info| info.name).collect()
            }
            Target::Server(client) => {
                let count = PAGE.to_string();
                let mut words = vec!["LOGS", prefix];
                if !after.is_empty() {
                    words.extend(["AFTER", &after]);
                }
                words.extend(["COUNT", &count]);
                let answer = client.call(&words)?;
                let page = answer.array().ok_or_else(|| odd(&answer))?.iter();
                let name = |name: &Answer| name.text().map(str::to_owned).ok_or_else(|| odd(name));
                page.map(name).collect::<Result<_, _>>()?
            }
        };
        let last = page.len() < PAGE;
        names.extend(page);
        if last {
            return Ok(names);
        }
    }
}

/// Say what a log is
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  oncelog describe shop/orders --dir data
  oncelog describe shop/orders --server localhost:7117 --json | jq .next")]
pub(super) struct Describe {
    /// The log
    log: String,
    #[command(flatten)]
    target: TargetArgs,
}

pub(super) fn describe(args: Describe, out: &mut Out) -> Result<(), Fail> {
    let mut target = Target::open(&args.target)?;
    let log = described(&mut target, &args.log)?;
    if out.is_json() {
        out.value(&log.into())?;
    } else {
        out.bytes(table(&log).as_bytes())?;
    }
    target.close()
}

fn table(log: &Map<String, Value>) -> String {
    let width = log.keys().map(String::len).max().unwrap_or(0);
    let mut text = String::new();
    let (first, rest): (Vec<_>, Vec<_>) = log.iter().partition(|(key, _)| *key == "name");
    for (key, value) in first.into_iter().chain(rest) {
        let value = match (value, value.as_u64()) {
            (_, Some(time_us)) if key == "created_us" => time(time_us),
            (_, Some(bytes)) if key == "bytes" => format!("{bytes} ({})", size(bytes)),
            (Value::String(text), _) => text.clone(),
            (value, _) => value.to_string(),
        };
        let _ = writeln!(text, "{key:width$}  {value}");
    }
    text
}

/// What a log is: the same keys for a directory and a server, as far as the server tells them.
pub(super) fn described(target: &mut Target, name: &str) -> Result<Map<String, Value>, Fail> {
    match target {
        Target::Dir(engine) => {
            let log = engine.open_log(name).wait()?;
            Ok(info_json(&log.describe().wait()?))
        }
        Target::Server(client) => {
            let answer = client.call(&["DESCRIBE", name])?;
            let Answer::Map(pairs) = answer else { return Err(odd(&answer)) };
            let mut log = Map::new();
            for (key, value) in &pairs {
                put_answer(&mut log, key, value);
            }
            flag(&mut log, "sealed");
            // What is not set is left out.
            log.retain(|_, value| *value != Value::Null && *value != json!([]) && *value != "");
            Ok(log)
        }
    }
}

fn info_json(info: &LogInfo) -> Map<String, Value> {
    let all = json!({
        "name": info.name,
        "id": info.id.get(),
        "first": info.first.get(),
        "next": info.next.get(),
        "records": info.len(),
        "last_txid": info.last_txid.get(),
        "created_us": info.created_us,
        "bytes": info.bytes,
        "sealed": info.sealed,
        "owner": info.owner.get(),
        "options_version": info.options_version,
    });
    let Value::Object(mut log) = all else { unreachable!("it was just made") };
    log.extend(to_json(&info.options));
    log
}

/// Adds what a server said to an object.
pub(super) fn put_answer(object: &mut Map<String, Value>, key: &str, answer: &Answer) {
    match answer {
        Answer::Bytes(bytes) => put_bytes(object, key, bytes),
        answer => {
            object.insert(key.to_owned(), to_value(answer));
        }
    }
}

/// A server's 1 or 0 as what it means.
pub(super) fn flag(object: &mut Map<String, Value>, key: &str) {
    if let Some(number) = object.get(key).and_then(Value::as_u64) {
        object.insert(key.to_owned(), (number == 1).into());
    }
}

fn to_value(answer: &Answer) -> Value {
    match answer {
        Answer::Nil => Value::Null,
        Answer::Int(number) => (*number).into(),
        Answer::Double(number) => (*number).into(),
        Answer::Bytes(bytes) => String::from_utf8_lossy(bytes).into(),
        Answer::Array(all) => all.iter().map(to_value).collect(),
        Answer::Map(pairs) => {
            let mut object = Map::new();
            for (key, value) in pairs {
                put_answer(&mut object, key, value);
            }
            object.into()
        }
    }
}

/// A sequence that is told of a log.
pub(super) fn told(log: &Map<String, Value>, key: &str) -> Result<Sequence, Fail> {
    let sequence = log.get(key).and_then(Value::as_u64).map(Sequence::new);
    sequence.ok_or_else(|| Fail::Failed(format!("the log's description has no {key}")))
}

/// Give a log another name in its group
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  oncelog rename shop/orders shop/orders-2026 --dir data")]
pub(super) struct Rename {
    /// The log
    log: String,
    /// Its new name
    name: String,
    #[command(flatten)]
    target: TargetArgs,
}

pub(super) fn rename(args: Rename, out: &mut Out) -> Result<(), Fail> {
    let Rename { log, name, target } = args;
    let mut target = Target::open(&target)?;
    match &mut target {
        Target::Dir(engine) => {
            engine.open_log(&log).wait()?.rename(&name).wait()?;
        }
        Target::Server(client) => {
            client.call(&["RENAME", &log, &name])?;
        }
    }
    target.close()?;
    out.either(|| json!({ "log": name, "was": log }), || format!("{log}: now {name}"))
}

/// End a log: nothing is appended to it any more
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Readers get every record that is there, and then the end. It cannot be undone.

Examples:
  oncelog seal shop/orders --dir data")]
pub(super) struct Seal {
    /// The log
    log: String,
    #[command(flatten)]
    target: TargetArgs,
}

pub(super) fn seal(args: Seal, out: &mut Out) -> Result<(), Fail> {
    let mut target = Target::open(&args.target)?;
    let next = match &mut target {
        Target::Dir(engine) => engine.open_log(&args.log).wait()?.seal().wait()?.get(),
        Target::Server(client) => number(&client.call(&["SEAL", &args.log])?)?,
    };
    target.close()?;
    let log = &args.log;
    out.either(|| json!({ "log": log, "next": next }), || format!("{log}: sealed at {next}"))
}

/// Give up a log's oldest records
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Refused beyond what a processor of the log has passed.

Examples:
  oncelog truncate shop/orders --before 1000 --dir data
  oncelog truncate shop/orders --before ago:7d --server localhost:7117")]
pub(super) struct Truncate {
    /// The log
    log: String,
    /// The first position that stays
    #[arg(long, value_name = "POSITION",
          long_help = format!("The first position that stays: {POSITIONS}"))]
    before: Position,
    #[command(flatten)]
    target: TargetArgs,
}

pub(super) fn truncate(args: Truncate, out: &mut Out) -> Result<(), Fail> {
    let mut target = Target::open(&args.target)?;
    let before = find(&mut target, &args.log, args.before)?;
    match &mut target {
        Target::Dir(engine) => engine.open_log(&args.log).wait()?.truncate(before).wait()?,
        Target::Server(client) => {
            client.call(&["TRUNCATE", &args.log, "BEFORE", &before.to_string()])?;
        }
    }
    let first = told(&described(&mut target, &args.log)?, "first")?.get();
    target.close()?;
    let log = &args.log;
    out.either(|| json!({ "log": log, "first": first }), || format!("{log}: begins at {first}"))
}

/// Drop a log and its records
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Refused while a processor reads it. It cannot be undone.

Examples:
  oncelog drop shop/orders --yes --dir data")]
pub(super) struct Drop {
    /// The log
    log: String,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    target: TargetArgs,
}

pub(super) fn drop_log(args: Drop, out: &mut Out) -> Result<(), Fail> {
    let log = &args.log;
    let mut target = Target::open(&args.target)?;
    let described = described(&mut target, log)?;
    let records = told(&described, "next")?.get() - told(&described, "first")?.get();
    let all = count(records, "record");
    confirm(args.yes, &format!("this drops log {log} with {all} for good"))?;
    match &mut target {
        Target::Dir(engine) => engine.drop_log(log).wait()?,
        Target::Server(client) => {
            client.call(&["DROP", log])?;
        }
    }
    target.close()?;
    out.either(|| json!({ "log": log, "records": records }), || format!("{log}: dropped"))
}
