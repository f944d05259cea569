//! `diff`: what has changed from one run to another.
//!
//! ```text
//! A.json, B.json -> each figure of each round over the device's speed in that round
//!                -> median A, median B, change; noise: the wider spread of both
//!                -> slower beyond noise and threshold? exit code 1
//! ```
//!
//! Invariants:
//! - Figures of both runs are divided by the same yardstick, each by that of its own round, or
//!   neither is; so a slower day of the disk is no slower engine.
//! - What is within the spread of the rounds is no change.
//!
//! Not here: aims (`ratio`).

use std::io::IsTerminal as _;
use std::path::PathBuf;

use anyhow::ensure;
use serde::Serialize;

use crate::figure::{self, Better, Figure};
use crate::merged::{Group, Spread, groups, load, number};
use crate::outcome::{Measurement, Round, Run};
use crate::ratio;
use crate::spec::Work;
use crate::summary::table;

/// Shows what has changed from one run to another, as far as it is beyond the noise.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  bench-harness diff before.json after.json
  bench-harness diff before.json after.json --threshold 5% --json > changes.json

Exit code 1: something got slower by more than the noise and the threshold.")]
pub struct Args {
    /// The run to compare with.
    before: PathBuf,
    /// The run in question.
    after: PathBuf,
    /// Prints the changes as JSON to stdout, and nothing else.
    #[arg(long)]
    json: bool,
    /// By how much something may get slower.
    #[arg(long, default_value = "10%", value_parser = percent)]
    threshold: f64,
}

/// `10%` or `10` as 0.1.
fn percent(text: &str) -> Result<f64, String> {
    let number = text.trim_end_matches('%').trim().parse::<f64>();
    let valid = number.ok().filter(|number| number.is_finite() && *number >= 0.0);
    valid.map(|number| number / 100.0).ok_or_else(|| "give percent, as in 10%".to_owned())
}

/// Whether a figure is better or worse, as far as the rounds can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The change is within the noise.
    Same,
    /// Better by more than the noise.
    Faster,
    /// Worse by more than the noise.
    Slower,
}

/// One figure in both runs.
#[derive(Clone, Debug, Serialize)]
pub struct Change {
    /// Which measurement.
    pub label: String,
    /// Whose.
    pub target: String,
    /// Which figure.
    pub figure: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// As measured, the median of the rounds.
    pub before: f64,
    /// Likewise.
    pub after: f64,
    /// What both were divided by, each in its round; empty if nothing.
    pub yardstick: String,
    /// After that division; below, this counts.
    pub before_ratio: Spread,
    /// Likewise.
    pub after_ratio: Spread,
    /// Share by which the median changed: 0.1 is 10 % more.
    pub change: f64,
    /// The wider spread of the rounds, as a share; `None` where a run has but one round.
    pub noise: Option<f64>,
    /// What follows.
    pub verdict: Verdict,
}

/// Runs the command.
///
/// # Errors
/// A file cannot be read, or there is nothing in both. If something got slower the process ends
/// with code 1.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let before = load(std::slice::from_ref(&args.before))?;
    let after = load(std::slice::from_ref(&args.after))?;
    let changes = changes(&before, &after);
    ensure!(
        !changes.is_empty(),
        "no measurement is in both files: run the same suite twice (specs must be equal but for \
         length and seed)"
    );
    if args.json {
        println!("{}", serde_json::to_string_pretty(&changes)?);
    } else {
        print!("{}", text(&changes, std::io::stdout().is_terminal()));
    }
    let slower = slower(&changes, args.threshold);
    if slower > 0 {
        let (all, threshold) = (changes.len(), number(args.threshold * 100.0));
        eprintln!("{slower} of {all} figures got slower by more than the noise and {threshold} %");
        std::process::exit(1);
    }
    Ok(())
}

/// How many figures are worse by more than the noise and the threshold.
fn slower(changes: &[Change], threshold: f64) -> usize {
    let beyond =
        |change: &&Change| change.verdict == Verdict::Slower && change.change.abs() > threshold;
    changes.iter().filter(beyond).count()
}

/// Every figure that is in both runs.
#[must_use]
pub fn changes(before: &Run, after: &Run) -> Vec<Change> {
    let (old, new) = (groups(before), groups(after));
    let mut changes = Vec::new();
    for group in &old {
        let same = |one: &&Group<'_>| (one.target, &one.label) == (group.target, &group.label);
        let Some(other) = new.iter().find(same) else { continue };
        for figure in figures(&group.spec().work) {
            changes.extend(change(figure, (before, group), (after, other)));
        }
    }
    changes
}

/// What is looked at in such work.
fn figures(work: &Work) -> Vec<Figure> {
    match work {
        Work::Recovery { .. } => vec![figure::SECONDS],
        // The rate is given.
        Work::OpenLoop { .. } => vec![figure::P50, figure::P99],
        Work::Commit { .. } => vec![figure::P50, figure::P99, figure::OPERATIONS],
        Work::Batch { .. } | Work::Soak { .. } | Work::CatchUp { .. } => {
            vec![figure::P50, figure::P99, figure::PAYLOAD]
        }
        Work::WireAppend { .. } => {
            vec![figure::P50, figure::P99, figure::RECORDS, figure::CPU]
        }
        Work::WireRead { .. } | Work::WireIngest { .. } => {
            vec![figure::P50, figure::PAYLOAD, figure::CPU]
        }
        Work::WireIdle { .. } => vec![figure::IDLE],
        _ => vec![figure::P50, figure::P99, figure::RECORDS],
    }
}

/// How fast the device was in a round at what such work needs of it, with the yardstick's name.
fn speed(work: &Work, round: &Round) -> Option<(String, f64)> {
    match work {
        Work::Append { .. }
        | Work::OpenLoop { .. }
        | Work::Commit { .. }
        | Work::Mixed { .. }
        | Work::WireAppend { .. } => {
            let (_, us) = ratio::write_4k(round)?;
            Some(("fio/commit/*-4k".to_owned(), 1e6 / us))
        }
        Work::Batch { .. } | Work::Soak { .. } => {
            Some(("fio/commit/*-1m".to_owned(), ratio::write_1m(round)?.1))
        }
        Work::CatchUp { cold: true, .. } => {
            let name = "fio/read/seq-1m-8";
            Some((name.to_owned(), ratio::point(round, name, |point| point.mb_per_s)?))
        }
        // From memory to memory, or of everything a little.
        Work::CatchUp { .. } | Work::Tail { .. } | Work::Recovery { .. } => None,
        Work::WireRead { .. } | Work::WireIngest { .. } | Work::WireIdle { .. } => None,
    }
}

/// A figure in all rounds over the device's speed in each; `None` if a round has no yardstick.
fn relative(figure: Figure, (run, group): (&Run, &Group<'_>)) -> Option<(String, Vec<f64>)> {
    let (mut name, mut values) = (String::new(), Vec::new());
    for (round, measurement) in &group.measurements {
        let (yardstick, speed) = speed(&group.spec().work, &run.rounds[*round])?;
        let value = (figure.of)(measurement);
        values.push(match figure.better {
            Better::Less => value * speed,
            Better::More => value / speed,
        });
        name = yardstick;
    }
    Some((name, values))
}

fn change(figure: Figure, before: (&Run, &Group<'_>), after: (&Run, &Group<'_>)) -> Option<Change> {
    let absolute = |group: &Group<'_>| -> Vec<f64> {
        let value = |(_, one): &(usize, &Measurement)| (figure.of)(one);
        group.measurements.iter().map(value).collect()
    };
    let both = relative(figure, before).zip(relative(figure, after));
    let (yardstick, old, new) = match both {
        Some(((name, old), (_, new))) => (name, old, new),
        None => (String::new(), absolute(before.1), absolute(after.1)),
    };
    let (before_ratio, after_ratio) = (Spread::of(old)?, Spread::of(new)?);
    let change = after_ratio.median / before_ratio.median - 1.0;
    let known = before_ratio.rounds > 1 && after_ratio.rounds > 1;
    let noise = known.then(|| before_ratio.noise().max(after_ratio.noise()));
    let worse = (change > 0.0) == (figure.better == Better::Less);
    let verdict = match (change.abs() > noise.unwrap_or(0.0), worse) {
        (false, _) => Verdict::Same,
        (true, true) => Verdict::Slower,
        (true, false) => Verdict::Faster,
    };
    Some(Change {
        label: before.1.label.clone(),
        target: before.1.target.to_owned(),
        figure: figure.name,
        unit: figure.unit,
        before: before.1.spread(figure.of)?.median,
        after: after.1.spread(figure.of)?.median,
        yardstick,
        before_ratio,
        after_ratio,
        change: if change.is_finite() { change } else { 0.0 },
        noise,
        verdict,
    })
}

/// The changes as a table.
#[must_use]
pub fn text(changes: &[Change], colour: bool) -> String {
    let row = |one: &Change| {
        let noise = one.noise.map_or_else(|| "?".to_owned(), share);
        let verdict = match one.verdict {
            Verdict::Same => "",
            Verdict::Faster => "faster",
            Verdict::Slower => "slower",
        };
        vec![
            format!("{}: {}", one.target, one.label),
            format!("{} {}", one.figure, one.unit),
            number(one.before),
            number(one.after),
            if one.yardstick.is_empty() { "(as it is)".to_owned() } else { one.yardstick.clone() },
            format!("{:+.1} %", one.change * 100.0),
            noise,
            verdict.to_owned(),
        ]
    };
    let rows: Vec<Vec<String>> = changes.iter().map(row).collect();
    let head = ["work", "figure", "A", "B", "change over", "change", "noise", ""];
    let mut text = table(&head, &rows, colour);
    if changes.iter().any(|change| change.noise.is_none()) {
        text += "note: one round only, so the noise is not known: use --rounds 3 or more\n";
    }
    text
}

fn share(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic;

    fn of<'a>(changes: &'a [Change], label: &str, figure: &str) -> &'a Change {
        let is = |one: &&Change| {
            (&one.target[..], &one.label[..], one.figure) == ("oncelog", label, figure)
        };
        changes.iter().find(is).expect(label)
    }

    #[test]
    fn a_slower_day_of_the_device_is_no_slower_engine() {
        let before = synthetic::run(3, 1.0);
        let mut after = synthetic::run(3, 1.5);
        for side in after.rounds.iter_mut().flat_map(|round| [&mut round.before, &mut round.after])
        {
            for point in side.points.values_mut() {
                point.p50_us *= 1.5;
                point.mb_per_s /= 1.5;
            }
        }
        let changes = changes(&before, &after);
        let one = of(&changes, "append, 1 in flight, 1 KiB", "p50");
        assert!(one.change.abs() < 0.01 && one.after > 1.4 * one.before, "{one:?}");
        let ours: Vec<Change> = changes
            .into_iter()
            .filter(|one| one.target == "oncelog" && !one.yardstick.is_empty())
            .collect();
        assert!(ours.len() > 30);
        assert_eq!(slower(&ours, 0.1), 0);
    }

    #[test]
    fn slower_beyond_noise_and_threshold_is_found_in_both_directions() {
        let changes = changes(&synthetic::run(3, 1.0), &synthetic::run(3, 1.2));
        let one = of(&changes, "append, 1 in flight, 1 KiB", "p50");
        assert!((one.change - 0.2).abs() < 0.02 && one.verdict == Verdict::Slower, "{one:?}");
        let one = of(&changes, "batch of 1,000, 1 in flight, 100 B", "payload");
        assert!((one.change + 1.0 / 6.0).abs() < 0.02 && one.verdict == Verdict::Slower, "{one:?}");
        let peers = changes.iter().filter(|one| one.target != "oncelog");
        assert!(
            peers.clone().count() > 10 && peers.clone().all(|one| one.verdict == Verdict::Same)
        );
        assert!(slower(&changes, 0.1) > 10);
        assert_eq!(slower(&changes, 0.5), 0, "the threshold does not count");
    }

    #[test]
    fn a_change_within_the_spread_of_the_rounds_is_none() {
        let before = synthetic::run(3, 1.0);
        let mut after = synthetic::run(3, 1.2);
        let first = after.rounds[0].measurements.iter_mut();
        let first = first.filter(|one| one.target == "oncelog");
        first.for_each(|one| {
            one.figures.latency = Default::default();
            one.figures.latency.record(1_000);
        });
        let changes = changes(&before, &after);
        let one = of(&changes, "append, 1 in flight, 1 KiB", "p50");
        assert!(one.noise.unwrap() > 0.9 && one.verdict == Verdict::Same, "{one:?}");
    }

    #[test]
    fn with_one_round_the_noise_is_not_known_and_the_threshold_decides() {
        let changes = changes(&synthetic::run(1, 1.0), &synthetic::run(1, 1.05));
        assert!(changes.iter().all(|one| one.noise.is_none()));
        assert!(slower(&changes, 0.01) > 0);
        assert_eq!(slower(&changes, 0.1), 0);
        assert!(text(&changes, false).contains("one round only"));
    }

    #[test]
    fn a_threshold_is_given_in_percent() {
        assert_eq!((percent("10%"), percent("2.5")), (Ok(0.1), Ok(0.025)));
        assert!(percent("-1%").is_err() && percent("much").is_err());
    }
}
