//! Whether a place will do for an engine, what it will do there, and what to change.
//!
//! ```text
//! facts (kernel, ring, memory, file system, device, room) -> plan -> unfit? advice
//! ```
//!
//! Invariant: looking leaves nothing behind, and makes no engine.
//!
//! Not here: how facts are found (`facts`), and figures (`bench-harness doctor` looks at a machine
//! with the eyes of somebody who measures).

mod facts;

use std::path::{Path, PathBuf};

use oncelog::{Host, RunnerInfo};
use serde_json::{Value, json};

use super::fail::Fail;
use super::out::{Out, size};
use super::target::DirArgs;
use facts::{Made, made_in, ring};

/// Say whether a place will do, what the engine will do there, and what to change
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The directory needs no engine, and gets none; where it is not there yet, the one above it is looked
at. A small file is written and removed to see whether the page cache can be bypassed, and a small
engine is tried in the directory for temporary files.
Ends with 1 if what is acknowledged there would not survive a power cut.

Examples:
  oncelog doctor --dir /mnt/nvme/data
  oncelog doctor --dir data --json | jq .advice")]
pub(super) struct Doctor {
    #[command(flatten)]
    dir: DirArgs,
}

/// Something that was seen.
#[derive(Debug)]
struct Fact {
    name: &'static str,
    value: String,
    /// What to change, or keep in mind.
    advice: Option<String>,
}

impl Fact {
    fn new(name: &'static str, value: impl Into<String>, advice: Option<&str>) -> Self {
        Self { name, value: value.into(), advice: advice.map(str::to_owned) }
    }
}

pub(super) fn doctor(args: Doctor, out: &mut Out) -> Result<(), Fail> {
    let place = existing(&args.dir.dir)?;
    let host = Host::probe(&place);
    let ring = ring();
    let made = made_in(&args.dir.dir);
    let facts = facts::all(&place, &host, &ring, made.as_ref());
    let plan = plan(&host, &ring, made.as_ref());
    let unfit = unfit(&host);
    if out.is_json() {
        let fact = |fact: &Fact| json!({ "name": fact.name, "value": fact.value });
        let advice = facts.iter().filter_map(|fact| Some((fact.name, fact.advice.as_ref()?)));
        let advice = advice.map(|(name, advice)| json!({ "name": name, "advice": advice }));
        out.value(&json!({
            "dir": args.dir.dir,
            "looked_at": place,
            "fit": unfit.is_none(),
            "unfit": unfit,
            "facts": facts.iter().map(fact).collect::<Vec<Value>>(),
            "engine_will": plan,
            "advice": advice.collect::<Vec<_>>(),
        }))?;
    } else {
        print(&facts, &plan, out)?;
        if place != args.dir.dir {
            out.line(format_args!(
                "\n{} is not there: this is about {}",
                args.dir.dir.display(),
                place.display()
            ))?;
        }
        let verdict = match &unfit {
            None => out.judged("fit", true),
            Some(_) => out.judged("NOT FIT", false),
        };
        out.line(format_args!("\n{verdict}"))?;
    }
    match unfit {
        None => Ok(()),
        Some(why) => Err(Fail::No(format!("{} will not do: {why}", place.display()))),
    }
}

/// The directory, or the first one above it that is there.
fn existing(dir: &Path) -> Result<PathBuf, Fail> {
    let absolute = std::path::absolute(dir).map_err(Fail::io("cannot tell where", dir))?;
    let found = absolute.ancestors().find(|above| above.exists());
    let found = found.unwrap_or(Path::new("/"));
    if !found.is_dir() {
        return Err(Fail::Usage(format!("{} is no directory", found.display())));
    }
    Ok(if found == absolute { dir.to_owned() } else { found.to_owned() })
}

/// Why what is acknowledged there is not safe, or an engine does not open there.
fn unfit(host: &Host) -> Option<String> {
    if host.is_network {
        let kind = &host.file_system;
        return Some(format!(
            "with {kind} a sync is answered elsewhere, and the engine refuses it: use a local disk"
        ));
    }
    host.why_not.clone()
}

/// What the engine does in such a place, by the rules by which it chooses.
fn plan(host: &Host, ring: &Result<RunnerInfo, String>, made: Option<&Made>) -> Vec<String> {
    let mut plan = Vec::new();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    plan.push(match made {
        Some(Made { shards, segment_size, .. }) => {
            format!("{shards} shards with segments of {}, as it was made", size(*segment_size))
        }
        None => format!(
            "a new engine gets {cores} shards, one for each processor, with segments \
                         of 64.0 MiB, unless something else is said"
        ),
    });
    plan.push(match ring {
        Ok(info) if info.ring_refused.is_none() => "reads and writes with io_uring".to_owned(),
        Ok(_) => "reads and writes with pwritev2, one at a time".to_owned(),
        Err(_) => "tries io_uring, and pwritev2 where the kernel refuses it".to_owned(),
    });
    plan.push(if host.direct_io {
        "bypasses the page cache (O_DIRECT)".to_owned()
    } else {
        "goes through the page cache: O_DIRECT is refused there".to_owned()
    });
    plan.push(if host.fua == Some(true) || host.write_back == Some(false) {
        "makes each write durable by itself (RWF_DSYNC)".to_owned()
    } else {
        "makes each write durable by itself (RWF_DSYNC), and changes to fdatasync while that stalls"
            .to_owned()
    });
    if let Some(core) = host.interrupt_core {
        plan.push(format!(
            "keeps its first shard on processor {core}, which takes the disk's interrupts"
        ));
    }
    plan
}

/// The facts, a star at those with advice; then the plan; then the advice.
fn print(facts: &[Fact], plan: &[String], out: &mut Out) -> Result<(), Fail> {
    let width = facts.iter().map(|fact| fact.name.len()).max().unwrap_or(0);
    for fact in facts {
        let star = if fact.advice.is_some() { "*" } else { " " };
        out.line(format_args!("{star} {:width$}  {}", fact.name, fact.value))?;
    }
    out.line("\nthe engine")?;
    plan.iter().try_for_each(|step| out.line(format_args!("  {step}")))?;
    let advice: Vec<_> =
        facts.iter().filter_map(|fact| Some((fact.name, fact.advice.as_ref()?))).collect();
    if !advice.is_empty() {
        out.line("\nadvice")?;
    }
    advice.iter().try_for_each(|(name, advice)| out.line(format_args!("* {name}: {advice}")))
}
