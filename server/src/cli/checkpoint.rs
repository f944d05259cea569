//! Processors: where they stand, moving one on by hand, and forgetting one.
//!
//! Not here: processing.

use std::collections::BTreeMap;

use oncelog::{Commit, Engine, Sequence};
use serde_json::{Map, Value, json};

use super::fail::Fail;
use super::logs::{described, told};
use super::out::{Out, confirm, count};
use super::target::{Target, TargetArgs, number, odd};
use crate::client::{Answer, Client};

/// A processor and where it stands.
struct Standing {
    name: String,
    epoch: u64,
    commits: u64,
    /// The next sequence of each source.
    positions: BTreeMap<String, u64>,
    /// Records that it has not passed.
    lag: u64,
}

impl Standing {
    fn json(&self) -> Value {
        json!({
            "name": self.name,
            "epoch": self.epoch,
            "commits": self.commits,
            "positions": self.positions,
            "lag": self.lag,
        })
    }

    fn text(&self) -> String {
        let Self { name, epoch, commits, positions, lag } = self;
        let at: Vec<String> =
            positions.iter().map(|(log, next)| format!("{log} at {next}")).collect();
        format!(
            "{name}  {}, {lag} behind, {}, epoch {epoch}",
            at.join(", "),
            count(*commits, "commit")
        )
    }
}

/// List processors: where they stand and how far behind
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  oncelog readers --dir data
  oncelog readers shop/ --server localhost:7117 --json | jq '.[] | select(.lag > 1000)'")]
pub(super) struct Readers {
    /// Only names that begin so
    #[arg(default_value = "", hide_default_value = true)]
    prefix: String,
    #[command(flatten)]
    target: TargetArgs,
}

pub(super) fn readers(args: Readers, out: &mut Out) -> Result<(), Fail> {
    let mut target = Target::open(&args.target)?;
    let all = standings(&mut target, &args.prefix)?;
    target.close()?;
    if out.is_json() {
        return out.value(&all.iter().map(Standing::json).collect());
    }
    all.iter().try_for_each(|standing| out.line(standing.text()))
}

fn standings(target: &mut Target, prefix: &str) -> Result<Vec<Standing>, Fail> {
    match target {
        Target::Dir(engine) => standings_in(engine, prefix),
        Target::Server(client) => {
            let mut words = vec!["READERS"];
            words.extend((!prefix.is_empty()).then_some(prefix));
            let answer = client.call(&words)?;
            answer.array().ok_or_else(|| odd(&answer))?.iter().map(standing).collect()
        }
    }
}

fn standings_in(engine: &Engine, prefix: &str) -> Result<Vec<Standing>, Fail> {
    let all = engine.describe_processors(prefix).wait()?;
    let standing = |info: oncelog::ProcessorInfo| Standing {
        lag: info.lag(),
        positions: info.sources.iter().map(|s| (s.log.clone(), s.next.get())).collect(),
        epoch: info.epoch.get(),
        commits: info.commits,
        name: info.name,
    };
    Ok(all.into_iter().map(standing).collect())
}

/// A processor as a server tells of it.
fn standing(answer: &Answer) -> Result<Standing, Fail> {
    let get = |key: &str| answer.get(key).ok_or_else(|| odd(answer));
    let Answer::Map(pairs) = get("positions")? else { return Err(odd(answer)) };
    let position = |(log, next): &(String, Answer)| Ok((log.clone(), number(next)?));
    Ok(Standing {
        name: get("name")?.text().ok_or_else(|| odd(answer))?.to_owned(),
        epoch: number(get("epoch")?)?,
        commits: number(get("commits")?)?,
        positions: pairs.iter().map(position).collect::<Result<_, Fail>>()?,
        lag: number(get("lag")?)?,
    })
}

/// Show where a processor stands, or move it on
#[derive(Debug, clap::Args)]
#[command(after_help = "\
--set claims the processor, which fences whoever runs it, and commits the new position: only
forward, for that is what a checkpoint can do. Its state stays what it was.

Examples:
  oncelog checkpoint shop/billing --dir data
  oncelog checkpoint shop/billing --set shop/orders=1000 --yes --dir data")]
pub(super) struct Checkpoint {
    /// The processor
    name: String,
    /// The next sequence to read of a source, as in shop/orders=1000
    #[arg(long, value_name = "LOG=SEQUENCE", value_parser = parse_set)]
    set: Vec<(String, Sequence)>,
    /// Do not ask
    #[arg(long, requires = "set")]
    yes: bool,
    #[command(flatten)]
    target: TargetArgs,
}

fn parse_set(text: &str) -> Result<(String, Sequence), String> {
    let (log, next) = text.rsplit_once('=').ok_or("it is written as in shop/orders=1000")?;
    let next = next.parse().map_err(|error: oncelog::ParsePositionError| error.to_string())?;
    Ok((log.to_owned(), next))
}

pub(super) fn checkpoint(args: Checkpoint, out: &mut Out) -> Result<(), Fail> {
    let mut target = Target::open(&args.target)?;
    let before = standing_of(&mut target, &args.name)?;
    let after = if args.set.is_empty() {
        before
    } else {
        check_moves(&mut target, &before, &args.set)?;
        let what = format!(
            "this takes {} from whoever runs it, and moves it on from: {}",
            args.name,
            before.text()
        );
        confirm(args.yes, &what)?;
        match &mut target {
            Target::Dir(engine) => move_in(engine, &args.name, &args.set)?,
            Target::Server(client) => move_on(client, &args.name, &args.set)?,
        }
        standing_of(&mut target, &args.name)?
    };
    target.close()?;
    out.either(|| after.json(), || after.text())
}

fn standing_of(target: &mut Target, name: &str) -> Result<Standing, Fail> {
    let all = standings(target, name)?;
    let found = all.into_iter().find(|standing| standing.name == name);
    found.ok_or_else(|| Fail::No(format!("there is no processor {name:?}")))
}

/// What is known to be refused is said before anything is claimed.
fn check_moves(
    target: &mut Target,
    before: &Standing,
    set: &[(String, Sequence)],
) -> Result<(), Fail> {
    for (log, next) in set {
        let Some(stands) = before.positions.get(log) else {
            let sources: Vec<_> = before.positions.keys().map(String::as_str).collect();
            let (name, sources) = (&before.name, sources.join(", "));
            let why = format!("{log} is no source of {name}, which has {sources}");
            return Err(Fail::Usage(why));
        };
        let end = told(&described(target, log)?, "next")?;
        if next.get() < *stands || end < *next {
            let why = format!("{log}={next}: a checkpoint only moves on, from {stands} to {end}");
            return Err(Fail::Usage(why));
        }
    }
    Ok(())
}

fn move_in(engine: &Engine, name: &str, set: &[(String, Sequence)]) -> Result<(), Fail> {
    let (mut processor, _) = engine.processor(name).open().wait()?;
    let mut commit = Commit::new();
    for (log, next) in set {
        let source = processor.sources().find(|source| source.name() == log);
        let source = source.ok_or_else(|| Fail::Usage(format!("{log} is no source of {name}")))?;
        commit = commit.position(source.id(), *next);
    }
    processor.commit(commit).wait()?;
    Ok(())
}

fn move_on(client: &mut Client, name: &str, set: &[(String, Sequence)]) -> Result<(), Fail> {
    let claimed = client.call(&["CLAIM", name])?;
    let epoch = claimed.get("epoch").ok_or_else(|| odd(&claimed))?;
    let mut words = vec!["COMMIT".to_owned(), name.to_owned(), number(epoch)?.to_string()];
    for (log, next) in set {
        words.extend(["POSITION".to_owned(), log.clone(), next.to_string()]);
    }
    client.call(&words)?;
    Ok(())
}

/// Forget a processor with its position and state, or an idempotent writer of a log
#[derive(Debug, clap::Args)]
#[command(after_help = "\
It cannot be undone: a processor of the same name begins anew, a writer's numbers too.

Examples:
  oncelog forget shop/billing --yes --dir data
  oncelog forget till-7 --log shop/orders --yes --dir data")]
pub(super) struct Forget {
    /// The processor, or the writer
    name: String,
    /// Forget the writer of this log
    #[arg(long, value_name = "LOG")]
    log: Option<String>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    target: TargetArgs,
}

pub(super) fn forget(args: Forget, out: &mut Out) -> Result<(), Fail> {
    let Forget { name, log, yes, target } = args;
    let mut target = Target::open(&target)?;
    let what = match &log {
        Some(log) => format!("this forgets writer {name} of log {log}"),
        None => format!("this forgets {}", standing_of(&mut target, &name)?.text()),
    };
    confirm(yes, &what)?;
    match (&mut target, &log) {
        (Target::Dir(engine), None) => engine.drop_processor(&name).wait()?,
        (Target::Dir(engine), Some(log)) => {
            engine.open_log(log).wait()?.forget_writer(&name).wait()?;
        }
        (Target::Server(client), None) => drop(client.call(&["FORGET", &name])?),
        (Target::Server(client), Some(log)) => {
            drop(client.call(&["WRITER", "FORGET", log, &name])?);
        }
    }
    target.close()?;
    let json = || {
        let mut json = Map::new();
        json.insert("forgotten".to_owned(), name.clone().into());
        json.extend(log.clone().map(|log| ("log".to_owned(), log.into())));
        json.into()
    };
    out.either(json, || format!("{name}: forgotten"))
}
