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
            ratios.extend(to_embedded(one, round));
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
    // A run that took but some of them cannot say what a larger write takes.
    if knots.len() < sizes.len() {
        return None;
    }
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
        (Work::WireAppend { connections: 1, depth: 1 }, Payload::Fixed(..=3072)) => {
            Some(to(P50, write_4k(round)?, None))
        }
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

/// Appends to a server beside as many in flight in the embedded engine.
fn to_embedded(one: &Measurement, round: &Round) -> Option<Ratio> {
    let Spec { work: Work::WireAppend { connections, depth }, logs, payload, .. } = &one.spec
    else {
        return None;
    };
    let work = Work::Append { in_flight: connections * depth };
    let is = |other: &&Measurement| {
        let spec = &other.spec;
        is_ours(&other.target) && (&spec.work, spec.logs, &spec.payload) == (&work, *logs, payload)
    };
    let other = round.measurements.iter().find(is)?;
    let yardstick = (format!("embedded: {}", label(&other.spec)), (RECORDS.of)(other));
    Some(beside(one, RECORDS, Against::Own, yardstick, None))
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
    let embedded = |one: &&Measurement| is_ours(&one.target) && !one.spec.work.is_wire();
    let ours = round.measurements.iter().filter(embedded);
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
    let figures = figure::beside_peers(&one.spec.work);
    let beside = figures.into_iter().flat_map(|figure| to_peers_in(figure, one, round));
    let mut ratios: Vec<Ratio> = beside.collect();
    // No column of the tables has this one.
    if ratios.is_empty() && matches!(one.spec.work, Work::WireIdle { .. }) {
        ratios.push(plain(one, figure::IDLE, None));
    }
    ratios
}

fn to_peers_in(figure: Figure, one: &Measurement, round: &Round) -> Vec<Ratio> {
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
    let is_main = figure.name == figure::main_of(&one.spec.work).name;
    let aim = peer_aim(&one.spec).filter(|_| is_main);
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
mod tests;
