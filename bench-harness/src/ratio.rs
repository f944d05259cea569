//! Ratios of a round: to the device, to other work of the same target, and to peers.
//!
//! ```text
//! Round -> of_round -> [Ratio]            yardstick of a round: mean of before and after
//! Run   -> over_rounds -> [Merged]        each ratio as median, smallest and largest of the rounds
//! ```
//!
//! Invariants:
//! - Both sides of a ratio are from one round; a ratio is never taken from medians.
//! - Only the engine has aims. A peer that answers before it syncs is never its yardstick.
//!
//! Not here: what a figure is (`figure`), and how ratios are shown (`summary`, `report`).

use std::collections::BTreeSet;

use serde::Serialize;

pub use crate::figure::Better;
use crate::figure::{
    self, CPU, FLUSHES, Figure, MEMORY, OPERATIONS, P50, PAYLOAD, RECORDS, WRITTEN,
};
use crate::merged::{Spread, label};
use crate::outcome::{Measurement, Point, Round, Run};
use crate::spec::{Payload, Spec, Work};

/// What a figure is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Against {
    /// What the device does for a plain pattern.
    Device,
    /// Other work of the same target.
    Own,
    /// The best durable peer.
    Peer,
    /// A peer that answers before it syncs: no fair yardstick.
    EarlyPeer,
    /// Nothing: the figure itself counts.
    Nothing,
}

/// One figure beside its yardstick.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ratio {
    /// Which measurement: `append, 1 in flight, 1 KiB`.
    pub label: String,
    /// Whose.
    pub target: String,
    /// Which figure: `p50`.
    pub figure: String,
    /// The figure.
    pub value: f64,
    /// Its unit.
    pub unit: String,
    /// What kind of yardstick.
    pub against: Against,
    /// The yardstick's name; empty if there is none.
    pub yardstick: String,
    /// The same figure of the yardstick.
    pub yardstick_value: Option<f64>,
    /// The figure over the yardstick's; the figure itself if there is none.
    pub ratio: f64,
    /// Which way is better.
    pub better: Better,
    /// What the ratio should be at least, or at most.
    pub aim: Option<f64>,
}

/// Whether a target is the engine, with whatever options behind its name.
#[must_use]
pub fn is_ours(target: &str) -> bool {
    target == "oncelog" || target.starts_with("oncelog-") || target.starts_with("oncelog/")
}

/// Whether it was seen to answer before it synced.
#[must_use]
pub fn answers_early(measurement: &Measurement) -> bool {
    measurement.figures.extra.get("check/acks_before_sync") == Some(&1.0)
}

/// All ratios of a round, in the order of its measurements.
#[must_use]
pub fn of_round(round: &Round) -> Vec<Ratio> {
    let mut ratios = Vec::new();
    for one in &round.measurements {
        ratios.extend(to_device(one, round));
        ratios.extend(to_own(one, round));
        ratios.extend(alone(one));
        if is_ours(&one.target) {
            ratios.extend(to_peers(one, round));
        }
    }
    ratios.extend(memory(round));
    ratios.retain(|ratio| ratio.ratio.is_finite());
    ratios
}

fn plain(one: &Measurement, figure: Figure, aim: Option<f64>) -> Ratio {
    let value = (figure.of)(one);
    Ratio {
        label: label(&one.spec),
        target: one.target.clone(),
        figure: figure.name.to_owned(),
        value,
        unit: figure.unit.to_owned(),
        against: Against::Nothing,
        yardstick: String::new(),
        yardstick_value: None,
        ratio: value,
        better: figure.better,
        aim: aim.filter(|_| is_ours(&one.target)),
    }
}

fn beside(
    one: &Measurement,
    figure: Figure,
    against: Against,
    (yardstick, yardstick_value): (String, f64),
    aim: Option<f64>,
) -> Ratio {
    let plain = plain(one, figure, aim);
    let ratio = plain.value / yardstick_value;
    Ratio { against, yardstick, yardstick_value: Some(yardstick_value), ratio, ..plain }
}

/// A figure of a yardstick point: the mean of before and after.
pub(crate) fn point(round: &Round, name: &str, of: fn(&Point) -> f64) -> Option<f64> {
    let sides = [&round.before, &round.after];
    let values: Vec<f64> = sides.iter().filter_map(|side| side.points.get(name)).map(of).collect();
    let count = values.len() as f64;
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / count)
}

/// The best of some points.
fn best<'a>(
    round: &Round,
    names: impl IntoIterator<Item = &'a str>,
    of: fn(&Point) -> f64,
    better: Better,
) -> Option<(String, f64)> {
    let found = names.into_iter().filter_map(|name| Some((name, point(round, name, of)?)));
    let best = match better {
        Better::Less => found.min_by(|a, b| a.1.total_cmp(&b.1)),
        Better::More => found.max_by(|a, b| a.1.total_cmp(&b.1)),
    };
    best.map(|(name, value)| (name.to_owned(), value))
}

/// The faster one of the two ways to write 4 KiB durably: its name and its median, microseconds.
pub(crate) fn write_4k(round: &Round) -> Option<(String, f64)> {
    let names = ["fio/commit/fdatasync-4k", "fio/commit/dsync-4k"];
    best(round, names, |point| point.p50_us, Better::Less)
}

/// The faster one of the two ways to write 1 MiB durably: its name and its MB/s.
pub(crate) fn write_1m(round: &Round) -> Option<(String, f64)> {
    let names = ["fio/commit/fdatasync-1m", "fio/commit/dsync-1m"];
    best(round, names, |point| point.mb_per_s, Better::More)
}

/// The median time of a durable write of so many bytes, microseconds, by the way that is faster
/// for 4 KiB: on the line between the sizes that were measured.
fn write_of(round: &Round, size: f64) -> Option<(String, f64)> {
    let (fastest, _) = write_4k(round)?;
    let mode = fastest.strip_suffix("-4k")?;
    let sizes = [("4k", 4.0), ("16k", 16.0), ("64k", 64.0), ("256k", 256.0), ("1m", 1024.0)];
    let knots = sizes.into_iter().filter_map(|(name, kib)| {
        Some((kib * 1024.0, point(round, &format!("{mode}-{name}"), |point| point.p50_us)?))
    });
    let knots: Vec<(f64, f64)> = knots.collect();
    Some((mode.to_owned(), interpolate(&knots, size)?))
}

/// The value at `x` on the lines between the knots; the first or last one's outside of them.
fn interpolate(knots: &[(f64, f64)], x: f64) -> Option<f64> {
    let above = knots.partition_point(|knot| knot.0 < x);
    let Some(&(right, upper)) = knots.get(above) else { return Some(knots.last()?.1) };
    let Some(&(left, lower)) = above.checked_sub(1).and_then(|below| knots.get(below)) else {
        return Some(upper);
    };
    Some(lower + (upper - lower) * (x - left) / (right - left))
}

fn to_device(one: &Measurement, round: &Round) -> Option<Ratio> {
    let to = |figure, yardstick, aim| beside(one, figure, Against::Device, yardstick, aim);
    match (&one.spec.work, &one.spec.payload) {
        (Work::Append { in_flight: 1 }, Payload::Fixed(..=3072)) => {
            Some(to(P50, write_4k(round)?, Some(1.15).filter(|_| one.spec.logs == 1)))
        }
        (Work::Append { in_flight }, _) if *in_flight > 1 => {
            let size = *one.figures.extra.get("engine/entry_bytes_mean")?;
            let (mode, us) = write_of(round, size)?;
            let name = format!("{in_flight} ÷ {mode} p50 at entry size");
            let yardstick = (name, f64::from(*in_flight) * 1e6 / us);
            let aimed = *in_flight == 64 && one.spec.logs == 1;
            Some(to(RECORDS, yardstick, Some(0.75).filter(|_| aimed)))
        }
        (
            Work::Batch { records, in_flight: 1 } | Work::Soak { records, in_flight: 1, .. },
            payload,
        ) => {
            let aimed = *records == 1000 && *payload == Payload::Fixed(1024);
            Some(to(PAYLOAD, write_1m(round)?, Some(0.9).filter(|_| aimed)))
        }
        (Work::Batch { .. } | Work::Soak { .. }, payload) => {
            let points = &round.before.points;
            let durable = points.iter().filter(|(_, point)| point.sync != "none");
            let raw = durable.filter(|(name, _)| name.starts_with("raw/"));
            let names = raw.map(|(name, _)| &name[..]);
            let yardstick = best(round, names, |point| point.mb_per_s, Better::More)?;
            Some(to(PAYLOAD, yardstick, Some(0.9).filter(|_| *payload == Payload::Fixed(1024))))
        }
        (Work::CatchUp { cold: true, readers, .. }, _) if one.spec.logs == 1 => {
            let name = "fio/read/seq-1m-8";
            let speed = point(round, name, |point| point.mb_per_s)?;
            Some(to(PAYLOAD, (name.to_owned(), speed), Some(0.9).filter(|_| *readers == 1)))
        }
        (Work::CatchUp { cold: true, .. }, _) => {
            let read = (figure::DEVICE_READ.of)(one);
            Some(to(PAYLOAD, ("device read meanwhile".to_owned(), read), None))
        }
        _ => None,
    }
}

/// The first measurement of the same target in this round whose spec is such.
fn own<'a>(
    one: &Measurement,
    round: &'a Round,
    is: impl Fn(&Spec) -> bool,
) -> Option<&'a Measurement> {
    round.measurements.iter().find(|other| other.target == one.target && is(&other.spec))
}

fn to_own(one: &Measurement, round: &Round) -> Option<Ratio> {
    let Spec { work, logs, payload, .. } = &one.spec;
    let appends = |in_flight: u32, logs: u32, payload: &Payload| {
        let work = Work::Append { in_flight };
        own(one, round, |spec| (&spec.work, spec.logs, &spec.payload) == (&work, logs, payload))
    };
    let (figure, other, aim) = match work {
        Work::Append { in_flight } if *logs > 1 => {
            let aim = match (in_flight, logs) {
                (64, 1_000) => Some(0.9),
                (64, 10_000) => Some(0.8),
                _ => None,
            };
            (RECORDS, appends(*in_flight, 1, payload)?, aim)
        }
        Work::Commit { processors, delta, outputs } => {
            let other = appends(*processors, 1, payload)
                .or_else(|| appends(*processors, 1, &Payload::Fixed(*delta)))?;
            let aim = match outputs {
                0 => Some(0.95),
                1 => Some(0.8),
                _ => None,
            };
            (OPERATIONS, other, aim)
        }
        Work::Tail { in_flight, readers: 1 } if *in_flight > 1 => {
            (RECORDS, appends(*in_flight, *logs, payload)?, Some(0.9))
        }
        Work::Mixed { in_flight, .. } => (RECORDS, appends(*in_flight, *logs, payload)?, Some(0.9)),
        Work::Recovery { bytes } => {
            let is = |spec: &Spec, than: u64| {
                matches!(spec.work, Work::Recovery { bytes } if bytes < than)
                    && (spec.logs, &spec.payload) == (*logs, payload)
            };
            let mut smallest = own(one, round, |spec| is(spec, *bytes))?;
            while let Work::Recovery { bytes } = smallest.spec.work
                && let Some(smaller) = own(one, round, |spec| is(spec, bytes))
            {
                smallest = smaller;
            }
            (figure::SECONDS, smallest, None)
        }
        _ => return None,
    };
    let yardstick = (label(&other.spec), (figure.of)(other));
    Some(beside(one, figure, Against::Own, yardstick, aim))
}

/// Figures that count by themselves: aims in units, and costs.
fn alone(one: &Measurement) -> Vec<Ratio> {
    let mut ratios = Vec::new();
    match &one.spec.work {
        Work::Tail { .. } => ratios.push(plain(one, P50, Some(40.0))),
        Work::Recovery { .. } => ratios.push(plain(one, figure::SECONDS, Some(1.0))),
        Work::Soak { .. } => ratios.extend(evenness(one)),
        _ => {}
    }
    let Spec { work, payload, .. } = &one.spec;
    let small =
        matches!(work, Work::Batch { records: 1000, .. }) && *payload == Payload::Fixed(100);
    ratios.push(plain(one, CPU, Some(0.6).filter(|_| small)));
    if figure::writes(work) {
        ratios.push(plain(one, WRITTEN, None));
        ratios.push(plain(one, FLUSHES, None));
    }
    ratios.push(plain(one, MEMORY, None));
    ratios
}

/// The most memory that the engine took for any work: one aim for all of them.
fn memory(round: &Round) -> Option<Ratio> {
    let ours = round.measurements.iter().filter(|one| is_ours(&one.target));
    let most = ours.max_by_key(|one| one.figures.memory_max)?;
    let all = "all work, the most".to_owned();
    Some(Ratio { label: all, ..plain(most, MEMORY, Some(256.0)) })
}

/// The slowest whole second of a soak beside its median second, and what was written late in it.
fn evenness(one: &Measurement) -> Vec<Ratio> {
    let seconds = one.figures.records_by_second.iter().map(|records| *records as f64);
    let mut ratios = Vec::new();
    if let Some(seconds) = Spread::of(seconds) {
        ratios.push(Ratio {
            figure: "slowest second".to_owned(),
            value: seconds.min,
            unit: "/s".to_owned(),
            against: Against::Own,
            yardstick: "its median second".to_owned(),
            yardstick_value: Some(seconds.median),
            ratio: seconds.min / seconds.median,
            ..plain(one, RECORDS, Some(0.8))
        });
    }
    let late = one.figures.extra.get("soak/second_half_device_bytes_per_payload_byte");
    ratios.extend(late.map(|late| Ratio {
        figure: "device bytes, second half".to_owned(),
        value: *late,
        against: Against::Own,
        yardstick: "a payload byte".to_owned(),
        ratio: *late,
        ..plain(one, WRITTEN, None)
    }));
    ratios
}

fn to_peers(one: &Measurement, round: &Round) -> Vec<Ratio> {
    let figure = figure::main_of(&one.spec.work);
    let own_label = label(&one.spec);
    let same = |other: &&Measurement| !is_ours(&other.target) && label(&other.spec) == own_label;
    let (early, durable): (Vec<_>, Vec<_>) =
        round.measurements.iter().filter(same).partition(|other| answers_early(other));
    let named = |other: &Measurement| (other.target.clone(), (figure.of)(other));
    let mut ratios = Vec::new();
    let values = durable.into_iter().map(named).filter(|(_, value)| value.is_finite());
    let best = match figure.better {
        Better::Less => values.min_by(|a, b| a.1.total_cmp(&b.1)),
        Better::More => values.max_by(|a, b| a.1.total_cmp(&b.1)),
    };
    let aim = peer_aim(&one.spec);
    ratios.extend(best.map(|best| beside(one, figure, Against::Peer, best, aim)));
    for (name, value) in early.into_iter().map(named) {
        let yardstick = (format!("{name} (answers before it syncs)"), value);
        ratios.push(beside(one, figure, Against::EarlyPeer, yardstick, None));
    }
    ratios
}

fn peer_aim(spec: &Spec) -> Option<f64> {
    match spec.work {
        Work::Append { in_flight: 1 } => Some(1.0),
        Work::Append { in_flight: 64 } | Work::Commit { processors: 64, .. } => Some(2.5),
        Work::Batch { records: 1000, in_flight: 1 } => Some(1.2),
        _ => None,
    }
    .filter(|_| spec.logs == 1)
}

/// One ratio in all rounds.
#[derive(Clone, Debug, Serialize)]
pub struct Merged {
    /// See [`Ratio`]; its value and its ratio are those of the first round.
    pub first: Ratio,
    /// The figure.
    pub value: Spread,
    /// Its yardstick's.
    pub yardstick_value: Option<Spread>,
    /// The ratio.
    pub ratio: Spread,
    /// The yardsticks' names: the best one may be another in each round.
    pub yardstick: String,
}

impl Merged {
    /// Whether it can be: a durable append is no faster than a durable write of the device.
    #[must_use]
    pub fn can_be(&self) -> bool {
        let latency = self.first.against == Against::Device && self.first.figure == P50.name;
        !latency || self.ratio.min >= 0.9
    }

    /// `reached`, `missed`, `cannot be`, or nothing where there is no aim.
    #[must_use]
    pub fn verdict(&self) -> &'static str {
        match (self.first.aim, self.reached()) {
            (None, _) => "",
            (_, Some(true)) => "reached",
            (_, Some(false)) => "missed",
            (_, None) => "cannot be",
        }
    }

    /// Whether the median reaches the aim; `None` if there is none, or the ratio cannot be.
    #[must_use]
    pub fn reached(&self) -> Option<bool> {
        let aim = self.first.aim.filter(|_| self.can_be())?;
        Some(match self.first.better {
            Better::Less => self.ratio.median <= aim,
            Better::More => self.ratio.median >= aim,
        })
    }

    /// The aim in words: `≤ 1.15`, `≤ 40 µs`.
    #[must_use]
    pub fn aim(&self) -> Option<String> {
        let sign = if self.first.better == Better::Less { '≤' } else { '≥' };
        let unit = match self.first.against {
            Against::Nothing => self.first.unit.as_str(),
            _ => "",
        };
        let space = if unit.is_empty() { "" } else { " " };
        // As it is, without zeros behind.
        self.first.aim.map(|aim| format!("{sign} {aim}{space}{unit}"))
    }
}

/// Ratios of all rounds, brought together; those of one label are beside each other.
#[must_use]
pub fn over_rounds(run: &Run) -> Vec<Merged> {
    let mut found: Vec<Vec<Ratio>> = Vec::new();
    for ratio in run.rounds.iter().flat_map(of_round) {
        // Each peer that answers early is a row of its own; the best of the others changes.
        let same = |other: &Ratio| {
            (&other.label, &other.target, &other.figure, other.against)
                == (&ratio.label, &ratio.target, &ratio.figure, ratio.against)
                && (ratio.against != Against::EarlyPeer || other.yardstick == ratio.yardstick)
        };
        match found.iter_mut().find(|ratios| same(&ratios[0])) {
            Some(ratios) => ratios.push(ratio),
            None => found.push(vec![ratio]),
        }
    }
    let mut labels: Vec<String> = Vec::new();
    for ratios in &found {
        let label = &ratios[0].label;
        labels.extend(Some(label.clone()).filter(|label| !labels.contains(label)));
    }
    let mut merged: Vec<Merged> = found.into_iter().filter_map(merge).collect();
    merged.sort_by_key(|one| labels.iter().position(|label| *label == one.first.label));
    merged
}

fn merge(ratios: Vec<Ratio>) -> Option<Merged> {
    let names: BTreeSet<&str> = ratios.iter().map(|ratio| &ratio.yardstick[..]).collect();
    let yardstick = names.into_iter().collect::<Vec<_>>().join(" or ");
    Some(Merged {
        value: Spread::of(ratios.iter().map(|ratio| ratio.value))?,
        yardstick_value: Spread::of(ratios.iter().filter_map(|ratio| ratio.yardstick_value)),
        ratio: Spread::of(ratios.iter().map(|ratio| ratio.ratio))?,
        yardstick,
        first: ratios.into_iter().next()?,
    })
}

/// The point that differs most between before and after in any round, and by how much.
#[must_use]
pub fn drift(run: &Run) -> Option<(String, f64)> {
    let both = run.rounds.iter().flat_map(|round| {
        let pairs = round.before.points.iter();
        pairs.filter_map(|(name, before)| Some((name, before, round.after.points.get(name)?)))
    });
    let change = both.map(|(name, before, after)| (name, after.p50_us / before.p50_us - 1.0));
    let finite = change.filter(|(_, change)| change.is_finite());
    let largest = finite.max_by(|a, b| a.1.abs().total_cmp(&b.1.abs()));
    largest.map(|(name, change)| (name.clone(), change))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic;

    fn round() -> Round {
        synthetic::run(1, 1.0).rounds.remove(0)
    }

    /// The ratio of such work of the engine.
    fn found(round: &Round, label: &str, figure: &str, against: Against) -> Option<Ratio> {
        let ratios = of_round(round);
        let is = |ratio: &&Ratio| {
            ratio.target == "oncelog"
                && (&ratio.label[..], &ratio.figure[..], ratio.against) == (label, figure, against)
        };
        assert!(ratios.iter().filter(is).count() < 2, "{label}, {figure} is there twice");
        ratios.iter().find(is).cloned()
    }

    fn near(a: f64, b: f64) -> bool {
        (a / b - 1.0).abs() < 0.01
    }

    #[test]
    fn the_yardstick_is_the_mean_of_before_and_after_and_the_better_of_both_ways() {
        let mut round = round();
        for (side, p50) in [(&mut round.before, 80.0), (&mut round.after, 120.0)] {
            side.points.get_mut("fio/commit/fdatasync-4k").unwrap().p50_us = p50;
            side.points.get_mut("fio/commit/dsync-4k").unwrap().p50_us = 101.0;
        }
        let label = "append, 1 in flight, 1 KiB";
        let ratio = found(&round, label, "p50", Against::Device).unwrap();
        assert_eq!(ratio.yardstick, "fio/commit/fdatasync-4k");
        assert_eq!(ratio.yardstick_value, Some(100.0));
        assert!(near(ratio.ratio, 1.12) && ratio.aim == Some(1.15), "{ratio:?}");
        round.after.points.get_mut("fio/commit/fdatasync-4k").unwrap().p50_us = 130.0;
        let ratio = found(&round, label, "p50", Against::Device).unwrap();
        assert_eq!(ratio.yardstick, "fio/commit/dsync-4k");
    }

    #[test]
    fn a_size_between_two_that_were_measured_is_on_the_line_between_them() {
        let knots = [(4.0, 100.0), (16.0, 160.0), (64.0, 400.0)];
        let at = |x| interpolate(&knots, x).unwrap();
        assert_eq!(
            [1.0, 4.0, 10.0, 40.0, 64.0, 99.0].map(at),
            [100.0, 100.0, 130.0, 280.0, 400.0, 400.0]
        );
        assert_eq!(interpolate(&[], 1.0), None);
    }

    #[test]
    fn many_appends_are_beside_as_many_writes_of_their_mean_entry() {
        let mut round = round();
        let of_64 = |one: &&mut Measurement| label(&one.spec) == "append, 64 in flight, 1 KiB";
        let one = round.measurements.iter_mut().find(of_64).unwrap();
        one.figures.extra.insert("engine/entry_bytes_mean".to_owned(), 16384.0);
        (one.figures.records, one.figures.seconds) = (300_000, 1.0);
        for side in [&mut round.before, &mut round.after] {
            side.points.get_mut("fio/commit/dsync-4k").unwrap().p50_us = 100.0;
            side.points.get_mut("fio/commit/dsync-16k").unwrap().p50_us = 160.0;
        }
        let label = "append, 64 in flight, 1 KiB";
        let ratio = found(&round, label, "records/s", Against::Device).unwrap();
        assert!(near(ratio.yardstick_value.unwrap(), 400_000.0), "{ratio:?}");
        assert!(near(ratio.ratio, 0.75) && ratio.aim == Some(0.75), "{ratio:?}");
    }

    #[test]
    fn a_peer_that_answers_early_is_listed_apart_even_where_it_is_the_fastest() {
        let mut round = round();
        let label = "append, 1 in flight, 1 KiB";
        let best = found(&round, label, "p50", Against::Peer).unwrap();
        assert_eq!((&best.yardstick[..], best.aim), ("alder", Some(1.0)));
        let early = found(&round, label, "p50", Against::EarlyPeer).unwrap();
        assert_eq!(early.yardstick, "cedar (answers before it syncs)");
        assert!(early.ratio > 1.0 && early.aim.is_none());
        for one in round.measurements.iter_mut().filter(|one| one.target == "cedar") {
            one.figures.extra.clear();
        }
        assert_eq!(found(&round, label, "p50", Against::Peer).unwrap().yardstick, "cedar");
    }

    #[test]
    fn work_is_beside_appends_of_the_same_round_and_target() {
        let round = round();
        let aims = [
            ("append, 64 in flight, 1 KiB, 1,000 logs", "records/s", Some(0.9)),
            ("append, 64 in flight, 1 KiB, 10,000 logs", "records/s", Some(0.8)),
            ("commit, 64 processors, delta 100 B, 0 outputs, 1 KiB", "operations/s", Some(0.95)),
            ("commit, 64 processors, delta 100 B, 1 output, 1 KiB", "operations/s", Some(0.8)),
            ("mixed, 64 in flight, 1 reader, 1 KiB", "records/s", Some(0.9)),
        ];
        for (label, figure, aim) in aims {
            let ratio = found(&round, label, figure, Against::Own).expect(label);
            assert_eq!((ratio.aim, &ratio.yardstick[..]), (aim, "append, 64 in flight, 1 KiB"));
        }
        let label = "recovery, 4 GiB, 1 KiB";
        let ratio = found(&round, label, "duration", Against::Own).unwrap();
        assert_eq!(ratio.yardstick, "recovery, 256 MiB, 1 KiB");
        assert_eq!(found(&round, "recovery, 256 MiB, 1 KiB", "duration", Against::Own), None);
    }

    #[test]
    fn without_a_yardstick_there_is_no_ratio_and_no_aim_but_the_absolute_ones() {
        let mut round = round();
        for side in [&mut round.before, &mut round.after] {
            side.points.clear();
        }
        let ratios = of_round(&round);
        let device = ratios.iter().filter(|ratio| ratio.against == Against::Device);
        let kinds: BTreeSet<&str> = device.map(|ratio| &ratio.yardstick[..]).collect();
        assert_eq!(kinds, BTreeSet::from(["device read meanwhile"]));
        assert!(ratios.iter().any(|ratio| ratio.figure == "memory" && ratio.aim == Some(256.0)));
        let others = ratios.iter().filter(|ratio| ratio.target != "oncelog");
        assert!(others.filter_map(|ratio| ratio.aim).next().is_none(), "a peer has an aim");
    }

    #[test]
    fn ratios_of_rounds_become_median_smallest_and_largest() {
        let mut run = synthetic::run(3, 1.0);
        for (round, p50) in run.rounds.iter_mut().zip([80.0, 100.0, 112.0]) {
            for side in [&mut round.before, &mut round.after] {
                side.points.values_mut().for_each(|point| point.p50_us = p50);
            }
            let ours = round.measurements.iter_mut().filter(|one| one.target == "oncelog");
            ours.for_each(|one| {
                one.figures.latency = Default::default();
                one.figures.latency.record(112_000);
            });
        }
        let merged = over_rounds(&run);
        let p50 = |one: &&Merged| one.first.against == Against::Device && one.first.figure == "p50";
        let one = merged.iter().find(p50).unwrap();
        assert_eq!(one.ratio.rounds, 3);
        assert!(near(one.ratio.median, 1.12) && near(one.ratio.min, 1.0), "{one:?}");
        assert!(near(one.ratio.max, 1.4) && one.reached() == Some(true), "{one:?}");
        assert_eq!(one.aim().unwrap(), "≤ 1.15");
    }

    #[test]
    fn a_soak_is_as_even_as_its_slowest_second() {
        let mut round = round();
        let soak =
            round.measurements.iter_mut().find(|one| one.spec.work.kind() == "soak").unwrap();
        soak.figures.records_by_second = vec![100, 100, 70, 110, 105];
        let label = label(&soak.spec);
        let ratio = found(&round, &label, "slowest second", Against::Own).unwrap();
        assert!(near(ratio.ratio, 0.7) && ratio.aim == Some(0.8), "{ratio:?}");
    }
}
