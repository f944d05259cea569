//! Checking a directory, and making a damaged one open again.
//!
//! Not here: how that is done (the engine's `Verify` and `Repair`).

use std::path::Path;

use oncelog::{AtRisk, Finding, Report, Severity};
use serde_json::{Value, json};

use super::fail::Fail;
use super::out::{Out, confirm, size};
use super::target::{DirArgs, check_dir};

/// Check every byte that counts in a directory; changes nothing
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Ends with 1 if something that was acknowledged is damaged or missing, or the engine does not open.
The directory must not be in use.

Examples:
  oncelog verify --dir data
  oncelog verify --dir data --json | jq .findings")]
pub(super) struct Verify {
    #[command(flatten)]
    dir: DirArgs,
}

pub(super) fn verify(args: Verify, out: &mut Out) -> Result<(), Fail> {
    let report = run(&args.dir.dir, out)?;
    if out.is_json() {
        out.value(&report_json(&report))?;
    } else {
        print(&report, out)?;
    }
    if report.is_sound() {
        return Ok(());
    }
    let dir = args.dir.dir.display();
    Err(Fail::No(format!(
        "{dir} is not sound; `oncelog repair --dir {dir}` makes it open again if it does not, and \
         says what that gives up: take a copy first"
    )))
}

/// Checks a directory, with a bar.
pub(super) fn run(dir: &Path, out: &Out) -> Result<Report, Fail> {
    check_dir(dir)?;
    let bar = out.bar(0, true);
    let verify = oncelog::Verify::new(dir).progress(|progress| {
        bar.set_length(progress.total);
        bar.set_position(progress.done);
    });
    let report = verify.run();
    bar.finish_and_clear();
    Ok(report?)
}

fn print(report: &Report, out: &mut Out) -> Result<(), Fail> {
    for (shard, why) in &report.refused {
        out.line(format_args!("shard {shard} does not open: {why}"))?;
    }
    for finding in &report.findings {
        out.line(finding)?;
    }
    let Report { segments, bytes, entries, records, logs, processors, .. } = report;
    out.line(format_args!(
        "checked {segments} segments, {}: {entries} entries, {records} records, {logs} logs, \
         {processors} processors",
        size(*bytes)
    ))?;
    let sound = report.is_sound();
    let verdict = out.judged(if sound { "sound" } else { "NOT SOUND" }, sound);
    out.line(verdict)
}

fn report_json(report: &Report) -> Value {
    let refused = report.refused.iter();
    let refused = refused.map(|(shard, why)| json!({ "shard": shard.get(), "why": why }));
    json!({
        "sound": report.is_sound(),
        "segments": report.segments,
        "bytes": report.bytes,
        "entries": report.entries,
        "records": report.records,
        "logs": report.logs,
        "processors": report.processors,
        "refused": refused.collect::<Vec<_>>(),
        "findings": report.findings.iter().map(finding_json).collect::<Vec<_>>(),
    })
}

fn finding_json(finding: &Finding) -> Value {
    let severity = match finding.severity {
        Severity::Note => "note",
        Severity::Redundant => "redundant",
        Severity::Loss => "loss",
    };
    json!({
        "severity": severity,
        "shard": finding.shard.map(oncelog::ShardId::get),
        "segment": finding.segment.map(oncelog::SegmentId::get),
        "path": finding.path,
        "offset": finding.offset,
        "bytes": finding.len,
        "what": finding.what,
        "at_risk": finding.at_risk.iter().map(at_risk_json).collect::<Vec<_>>(),
    })
}

fn at_risk_json(at_risk: &AtRisk) -> Value {
    match at_risk {
        AtRisk::Records { log, name, first, end } => {
            json!({ "log": log.get(), "name": name, "first": first.get(), "end": end.get() })
        }
        AtRisk::State { processor } => json!({ "state_of": processor }),
        AtRisk::Commits { processor, first, last } => {
            json!({ "commits_of": processor, "first": first, "last": last })
        }
        other => json!({ "what": other.to_string() }),
    }
}

/// Make a damaged directory open again, by giving up what is lost
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Only what keeps the engine from opening is given up, and kept aside in a directory kept-* with an
account. Run `verify` first, and take a copy. Ends with 1 if damage is left that nothing can bring
back: reads of it fail and say so, all others go on.

Examples:
  oncelog repair --yes --dir data
  oncelog repair --yes --dir data --json | jq .lost")]
pub(super) struct Repair {
    #[command(flatten)]
    dir: DirArgs,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

pub(super) fn repair(args: Repair, out: &mut Out) -> Result<(), Fail> {
    let dir = &args.dir.dir;
    if args.yes {
        check_dir(dir)?;
    } else {
        let before = run(dir, out)?;
        if !before.is_sound() {
            print(&before, out)?;
            confirm(false, &format!("this gives up what is damaged in {}", dir.display()))?;
        }
    }
    let spinner = out.spinner("checking and repairing");
    let repaired = oncelog::Repair::new(dir).run();
    spinner.finish_and_clear();
    let repaired = repaired?;
    if out.is_json() {
        let step = |step: &oncelog::Step| json!({ "path": step.path, "what": step.what });
        let lost = |(shard, lost): &(oncelog::ShardId, AtRisk)| {
            let mut json = at_risk_json(lost);
            json["shard"] = shard.get().into();
            json
        };
        out.value(&json!({
            "before": report_json(&repaired.before),
            "steps": repaired.steps.iter().map(step).collect::<Vec<_>>(),
            "kept": repaired.kept,
            "lost": repaired.lost.iter().map(lost).collect::<Vec<_>>(),
            "after": report_json(&repaired.after),
        }))?;
    } else {
        for step in &repaired.steps {
            out.line(format_args!("{}: {}", step.path.display(), step.what))?;
        }
        if repaired.steps.is_empty() {
            out.line("nothing kept it from opening: nothing was done")?;
        }
        if let Some(kept) = &repaired.kept {
            out.line(format_args!("what was given up is kept in {}", kept.display()))?;
        }
        for (shard, lost) in &repaired.lost {
            out.line(format_args!("lost in shard {shard}: {lost}"))?;
        }
        print(&repaired.after, out)?;
    }
    if repaired.after.is_sound() {
        return Ok(());
    }
    Err(Fail::No(format!("{} still has damage, which nothing can bring back", dir.display())))
}
