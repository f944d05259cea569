//! Which charts a run has.
//!
//! ```text
//! groups of a run -> aims -> latency -> load -> logs -> recovery -> by second -> [Section]
//! ```
//!
//! Invariant: a target has the same colour in every chart of a page.
//!
//! Not here: how a chart is drawn (`svg`), and what is around it (`page`).

use plotters::prelude::RGBColor;

use super::svg::{self, Axis, Bar, Line, Lines, Scale};
use crate::figure::{self, Better, Figure};
use crate::merged::{self, Group, label, payload, thousands};
use crate::outcome::Measurement;
use crate::ratio::{self, Against, Merged};
use crate::spec::{Spec, Work};

/// Charts under one heading.
#[derive(Debug, Default)]
pub(super) struct Section {
    /// The heading.
    pub(super) title: &'static str,
    /// How to read them.
    pub(super) note: &'static str,
    /// The charts.
    pub(super) charts: Vec<Chart>,
}

/// One chart.
#[derive(Debug)]
pub(super) struct Chart {
    /// Above it.
    pub(super) title: String,
    /// Names and colours of its lines.
    pub(super) legend: Vec<(String, RGBColor)>,
    /// The drawing.
    pub(super) svg: String,
    /// Whether it takes the whole width.
    pub(super) wide: bool,
}

const HALF: (u32, u32) = (570, 320);
const WIDE: (u32, u32) = (1160, 340);

const OURS: RGBColor = RGBColor(0x2f, 0x6f, 0xde);
/// Readable on white and on black.
const OTHERS: [RGBColor; 13] = [
    RGBColor(0xd9, 0x77, 0x06),
    RGBColor(0x0d, 0x94, 0x88),
    RGBColor(0xa8, 0x55, 0xf7),
    RGBColor(0xdb, 0x27, 0x77),
    RGBColor(0x65, 0xa3, 0x0d),
    RGBColor(0x78, 0x71, 0x6c),
    RGBColor(0x08, 0x91, 0xb2),
    RGBColor(0xdc, 0x26, 0x26),
    RGBColor(0xca, 0x8a, 0x04),
    RGBColor(0x63, 0x66, 0xf1),
    RGBColor(0x10, 0xb9, 0x81),
    RGBColor(0xf4, 0x72, 0xb6),
    RGBColor(0xb4, 0x53, 0x09),
];
const REACHED: RGBColor = RGBColor(0x2d, 0xa4, 0x4e);
const MISSED: RGBColor = RGBColor(0xd1, 0x5b, 0x1c);
const NOT_JUDGED: RGBColor = RGBColor(0x8b, 0x94, 0x9e);

/// The targets of a run, ours first.
struct Colours<'a>(Vec<(&'a str, bool)>);

impl<'a> Colours<'a> {
    fn of(groups: &[Group<'a>]) -> Self {
        let mut targets: Vec<(&str, bool)> = Vec::new();
        for group in groups {
            if !targets.iter().any(|(name, _)| *name == group.target) {
                targets.push((group.target, ratio::answers_early(group.measurements[0].1)));
            }
        }
        targets.sort_by_key(|(name, _)| (!ratio::is_ours(name), *name));
        Self(targets)
    }

    fn colour(&self, target: &str) -> RGBColor {
        match self.0.iter().position(|(name, _)| *name == target) {
            Some(0) | None => OURS,
            Some(index) => OTHERS[(index - 1) % OTHERS.len()],
        }
    }

    /// Those of these targets that there are, in the order of all charts.
    fn legend(&self, used: &[&str]) -> Vec<(String, RGBColor)> {
        let used = self.0.iter().filter(|(name, _)| used.contains(name));
        let entry = |(name, early): &(&str, bool)| {
            let note = if *early { " (answers before it syncs)" } else { "" };
            (format!("{name}{note}"), self.colour(name))
        };
        used.map(entry).collect()
    }
}

/// All charts of these measurements; sections that would be empty are left out.
///
/// # Errors
/// None that is known: drawing goes to memory.
pub(super) fn sections(groups: &[Group<'_>], merged: &[Merged]) -> anyhow::Result<Vec<Section>> {
    let colours = Colours::of(groups);
    let mut sections = vec![
        aims(merged)?,
        Section {
            title: "Throughput against what is in flight",
            note: "Median of the rounds, with the smallest and the largest as a bar.",
            charts: curves(groups, &colours, Scale::Log, in_flight)?,
        },
        open_loop(groups, &colours)?,
        Section {
            title: "Throughput against the number of logs",
            note: "The same appends, spread over more logs.",
            charts: curves(groups, &colours, Scale::Linear, logs)?,
        },
        latency(groups, &colours)?,
        Section {
            title: "Recovery",
            note: "From the start of a killed store until it answers.",
            charts: curves(groups, &colours, Scale::Linear, recovery)?,
        },
        by_second(groups, &colours)?,
    ];
    sections.retain(|section| !section.charts.is_empty());
    Ok(sections)
}

fn aims(merged: &[Merged]) -> anyhow::Result<Section> {
    let bar = |one: &Merged| {
        let aim = one.first.aim?;
        let score = |ratio: f64| match one.first.better {
            Better::Less => aim / ratio.max(1e-12),
            Better::More => ratio / aim,
        };
        let beside = match one.first.against {
            Against::Device => " ÷ device",
            Against::Peer => " ÷ best peer",
            Against::Own if matches!(one.first.figure.as_str(), "slowest second") => " ÷ median",
            Against::Own => " ÷ append",
            Against::EarlyPeer | Against::Nothing => "",
        };
        let colour = match one.reached() {
            Some(true) => REACHED,
            Some(false) => MISSED,
            None => NOT_JUDGED,
        };
        Some(Bar {
            name: format!("{} · {}{beside}", one.first.label, one.first.figure),
            value: one.ratio.to_string(),
            aim: one.aim()?,
            score: score(one.ratio.median),
            range: (score(one.ratio.min), score(one.ratio.max)),
            colour,
        })
    };
    let mut aimed: Vec<&Merged> = merged.iter().filter(|one| one.first.aim.is_some()).collect();
    aimed.sort_by_key(|one| one.first.against);
    let bars: Vec<Bar> = aimed.into_iter().filter_map(bar).collect();
    let mut charts = Vec::new();
    if !bars.is_empty() {
        let mut legend = vec![("reached".to_owned(), REACHED), ("missed".to_owned(), MISSED)];
        if bars.iter().any(|bar| bar.colour == NOT_JUDGED) {
            legend.push(("cannot be: see the note above".to_owned(), NOT_JUDGED));
        }
        let svg = svg::bars(&bars, WIDE.0)?;
        charts.push(Chart { title: String::new(), legend, svg, wide: true });
    }
    let note = "Right of the line the aim is reached: 2× is twice as good as the aim. Each bar is \
                the median of the rounds, the thin line their spread.";
    Ok(Section { title: "Aims", note, charts })
}

/// Labels in the order of the groups, each with its groups.
fn by_label<'a, 'b>(
    groups: &'b [Group<'a>],
    is: impl Fn(&Spec) -> bool,
) -> Vec<(&'b str, Vec<&'b Group<'a>>)> {
    let mut found: Vec<(&str, Vec<&Group<'_>>)> = Vec::new();
    for group in groups.iter().filter(|group| is(group.spec())) {
        match found.iter_mut().find(|(label, _)| *label == group.label) {
            Some((_, same)) => same.push(group),
            None => found.push((&group.label, vec![group])),
        }
    }
    found
}

/// So many latencies make a distribution.
const LATENCIES_MIN: u64 = 20;

fn latency(groups: &[Group<'_>], colours: &Colours<'_>) -> anyhow::Result<Section> {
    let mut charts = Vec::new();
    for (label, same) in by_label(groups, |_| true) {
        let (mut lines, mut used) = (Vec::new(), Vec::new());
        for group in same {
            let latency = group.latency();
            if latency.0.len() < LATENCIES_MIN {
                continue;
            }
            let colour = colours.colour(group.target);
            let points = distribution(&latency.0);
            lines.push(line(colour, false, points));
            used.push(group.target);
        }
        if lines.is_empty() {
            continue;
        }
        let x = axis("latency, µs (log)", Scale::Log);
        let y = axis("% of operations", Scale::Nines);
        let svg = svg::lines(&Lines { x, y, lines }, HALF)?;
        let legend = colours.legend(&used);
        charts.push(Chart { title: label.to_owned(), legend, svg, wide: false });
    }
    let note = "Share of operations that took at most so long; all rounds together. Left is \
                better; each nine has the same height.";
    Ok(Section { title: "Latency", note, charts })
}

/// Latency in microseconds and share, as far as there are operations to tell.
fn distribution(latency: &hdrhistogram::Histogram<u64>) -> Vec<(f64, f64)> {
    let count = latency.len() as f64;
    let most = (1.0 - 1.0 / count).min(0.999_99);
    let steps = 160;
    let nines = -(1.0 - most).log10();
    let share = |step: u32| 1.0 - 10_f64.powf(-nines * f64::from(step) / f64::from(steps));
    let at = |share: f64| (latency.value_at_quantile(share) as f64 / 1000.0, share);
    (0..=steps).map(share).map(at).collect()
}

fn axis(name: &str, scale: Scale) -> Axis {
    Axis { name: name.to_owned(), scale, labels: Vec::new() }
}

fn line(colour: RGBColor, marked: bool, points: Vec<(f64, f64)>) -> Line {
    Line { colour, dashed: false, marked, points, ranges: Vec::new() }
}

/// A family of measurements that differ in one number only.
struct Family {
    title: String,
    x: f64,
    x_label: String,
    x_name: &'static str,
    figure: Figure,
}

fn in_flight(spec: &Spec) -> Option<Family> {
    let (title, x, x_name, figure) = match &spec.work {
        Work::Append { in_flight } => {
            ("append".to_owned(), *in_flight, "appends in flight (log)", figure::RECORDS)
        }
        Work::Batch { records, in_flight } => (
            format!("batches of {}", thousands((*records).into())),
            *in_flight,
            "batches in flight (log)",
            figure::PAYLOAD,
        ),
        Work::WireAppend { connections, depth } => (
            format!("over the wire, depth {depth}"),
            *connections,
            "connections (log)",
            figure::RECORDS,
        ),
        Work::Commit { processors, .. } => {
            // All of the label but how many.
            let label = label(&spec.clone());
            let rest = label.split_once(", ").and_then(|(_, rest)| rest.split_once(", "));
            let title = format!("commit, {}", rest?.1);
            return Some(Family {
                title,
                x: f64::from(*processors),
                x_label: thousands((*processors).into()),
                x_name: "processors (log)",
                figure: figure::OPERATIONS,
            });
        }
        _ => return None,
    };
    let logs = match spec.logs {
        1 => String::new(),
        logs => format!(", {} logs", thousands(logs.into())),
    };
    let title = format!("{title}, {}{logs}", payload(&spec.payload));
    Some(Family { title, x: x.into(), x_label: thousands(x.into()), x_name, figure })
}

fn logs(spec: &Spec) -> Option<Family> {
    let Work::Append { in_flight } = &spec.work else { return None };
    let (x, figure) = (f64::from(spec.logs), figure::RECORDS);
    let title = format!("append, {in_flight} in flight, {}", payload(&spec.payload));
    let x_label = thousands(spec.logs.into());
    Some(Family { title, x, x_label, x_name: "logs (log)", figure })
}

fn recovery(spec: &Spec) -> Option<Family> {
    let Work::Recovery { bytes } = &spec.work else { return None };
    let title = format!("recovery, {}", payload(&spec.payload));
    let (x, x_label) = (*bytes as f64, merged::bytes(*bytes));
    Some(Family { title, x, x_label, x_name: "payload in the log (log)", figure: figure::SECONDS })
}

/// A chart for each family, of the targets that were measured at two places or more.
fn curves(
    groups: &[Group<'_>],
    colours: &Colours<'_>,
    scale: Scale,
    family: impl Fn(&Spec) -> Option<Family>,
) -> anyhow::Result<Vec<Chart>> {
    let mut titles: Vec<String> = Vec::new();
    for group in groups {
        let title = family(group.spec()).map(|family| family.title);
        titles.extend(title.filter(|title| !titles.contains(title)));
    }
    let mut charts = Vec::new();
    for title in titles {
        let (mut lines, mut used, mut axes) = (Vec::new(), Vec::new(), None);
        let mut labels: Vec<(f64, String)> = Vec::new();
        for (target, _) in &colours.0 {
            let mut line = line(colours.colour(target), true, Vec::new());
            for group in groups.iter().filter(|group| group.target == *target) {
                let Some(of) = family(group.spec()).filter(|of| of.title == title) else {
                    continue;
                };
                let Some(spread) = group.spread(of.figure.of) else { continue };
                line.points.push((of.x, spread.median));
                line.ranges.push((of.x, spread.min, spread.max));
                labels.push((of.x, of.x_label));
                axes = Some((of.x_name, of.figure));
            }
            line.points.sort_by(|a, b| a.0.total_cmp(&b.0));
            if line.points.len() > 1 {
                lines.push(line);
                used.push(*target);
            }
        }
        let Some((x, figure)) = axes.filter(|_| !lines.is_empty()) else { continue };
        labels.sort_by(|a, b| a.0.total_cmp(&b.0));
        labels.dedup_by_key(|label| label.0.to_bits());
        let x = Axis { labels, ..axis(x, Scale::Log) };
        let y = axis(&axis_name(figure), scale);
        let svg = svg::lines(&Lines { x, y, lines }, HALF)?;
        charts.push(Chart { title, legend: colours.legend(&used), svg, wide: false });
    }
    Ok(charts)
}

fn axis_name(figure: Figure) -> String {
    match figure.unit {
        "/s" | "" => figure.name.to_owned(),
        unit => format!("{}, {unit}", figure.name),
    }
}

fn open_loop(groups: &[Group<'_>], colours: &Colours<'_>) -> anyhow::Result<Section> {
    let rate = |group: &Group<'_>| match group.spec().work {
        Work::OpenLoop { rate } => Some(rate),
        _ => None,
    };
    let size = |group: &Group<'_>| payload(&group.spec().payload);
    let mut sizes: Vec<String> = Vec::new();
    for group in groups.iter().filter(|group| rate(group).is_some()) {
        sizes.extend(Some(size(group)).filter(|size| !sizes.contains(size)));
    }
    let mut charts = Vec::new();
    for title in sizes {
        let (mut lines, mut used) = (Vec::new(), Vec::new());
        for (target, _) in &colours.0 {
            let own = groups.iter().filter(|one| one.target == *target && size(one) == title);
            for (figure, dashed) in [(figure::P50, false), (figure::P99, true)] {
                let point = |one: &Group<'_>| Some((rate(one)?, one.spread(figure.of)?.median));
                let mut points: Vec<(f64, f64)> = own.clone().filter_map(point).collect();
                points.sort_by(|a, b| a.0.total_cmp(&b.0));
                if !points.is_empty() {
                    lines.push(Line { dashed, ..line(colours.colour(target), true, points) });
                    used.push(*target);
                }
            }
        }
        let x = axis("appends offered a second", Scale::Linear);
        let y = axis("µs (log)", Scale::Log);
        let svg = svg::lines(&Lines { x, y, lines }, WIDE)?;
        let title = format!("open loop, {title}");
        charts.push(Chart { title, legend: colours.legend(&used), svg, wide: true });
    }
    let note = "Latency from the instant at which each append was due: p50 as a full line, p99 \
                broken.";
    Ok(Section { title: "Latency against offered load", note, charts })
}

/// So many seconds are worth a line.
const SECONDS_MIN: usize = 5;

fn by_second(groups: &[Group<'_>], colours: &Colours<'_>) -> anyhow::Result<Section> {
    let mut charts = Vec::new();
    let is_soak = |spec: &Spec| matches!(spec.work, Work::Soak { .. });
    let soaks = by_label(groups, is_soak);
    // Without a soak, what ran longest says whether throughput and memory are even.
    let longest = groups.iter().max_by(|a, b| a.spec().seconds.total_cmp(&b.spec().seconds));
    let chosen = longest.filter(|_| soaks.is_empty()).map(|group| group.label.clone());
    let labels =
        if soaks.is_empty() { by_label(groups, |spec| Some(label(spec)) == chosen) } else { soaks };
    for (label, same) in labels {
        let used: Vec<&str> = same.iter().map(|group| group.target).collect();
        let records = |one: &Measurement| -> Vec<f64> {
            one.figures.records_by_second.iter().map(|records| *records as f64).collect()
        };
        let memory = |one: &Measurement| -> Vec<f64> {
            let bytes = one.figures.memory_by_second.iter();
            bytes.map(|bytes| *bytes as f64 / f64::from(1 << 20)).collect()
        };
        let mut chart = |what: &str, unit: &str, of: &dyn Fn(&Measurement) -> Vec<f64>| {
            let lines = seconds(&same, colours, of);
            if !lines.iter().any(|line| line.points.len() >= SECONDS_MIN) {
                return anyhow::Ok(());
            }
            let x = axis("second", Scale::Linear);
            let y = axis(unit, Scale::Linear);
            let svg = svg::lines(&Lines { x, y, lines }, HALF)?;
            let title = format!("{label}: {what}");
            charts.push(Chart { title, legend: colours.legend(&used), svg, wide: false });
            Ok(())
        };
        chart("records", "records/s", &records)?;
        chart("memory", "resident memory, MiB", &memory)?;
    }
    Ok(Section { title: "By the second", note: "One line for each round.", charts })
}

fn seconds(
    same: &[&Group<'_>],
    colours: &Colours<'_>,
    of: &dyn Fn(&Measurement) -> Vec<f64>,
) -> Vec<Line> {
    let mut lines = Vec::new();
    for group in same {
        for (_, one) in &group.measurements {
            let points = (1_u32..).zip(of(one)).map(|(second, value)| (f64::from(second), value));
            lines.push(line(colours.colour(group.target), false, points.collect()));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merged::groups;
    use crate::synthetic;

    #[test]
    fn every_work_with_enough_operations_has_a_latency_chart_with_all_its_targets() {
        let run = synthetic::run(2, 1.0);
        let groups = groups(&run);
        let sections = sections(&groups, &ratio::over_rounds(&run)).unwrap();
        let latency = sections.iter().find(|section| section.title == "Latency").unwrap();
        let titles: Vec<&str> = latency.charts.iter().map(|chart| &chart.title[..]).collect();
        for group in &groups {
            let many = !matches!(group.spec().work, Work::Recovery { .. });
            assert_eq!(titles.contains(&&group.label[..]), many, "{}", group.label);
        }
        let legend: Vec<&str> =
            latency.charts[0].legend.iter().map(|(name, _)| &name[..]).collect();
        assert_eq!(legend, ["oncelog", "alder", "birch", "cedar (answers before it syncs)"]);
    }

    #[test]
    fn a_target_has_one_colour_on_the_whole_page_and_no_other_has_it() {
        let run = synthetic::run(1, 1.0);
        let sections = sections(&groups(&run), &[]).unwrap();
        let mut seen: Vec<(String, RGBColor)> = Vec::new();
        for entry in sections.iter().flat_map(|one| &one.charts).flat_map(|chart| &chart.legend) {
            match seen.iter().find(|(name, colour)| *name == entry.0 || *colour == entry.1) {
                Some(known) => assert_eq!(known, entry),
                None => seen.push(entry.clone()),
            }
        }
        assert_eq!(seen.len(), 4, "{seen:?}");
    }

    #[test]
    fn a_run_without_measurements_has_no_charts() {
        let mut run = synthetic::run(1, 1.0);
        run.rounds[0].measurements.clear();
        assert!(sections(&groups(&run), &ratio::over_rounds(&run)).unwrap().is_empty());
    }

    #[test]
    fn a_distribution_ends_where_single_operations_begin() {
        let mut latency = crate::outcome::Latency::default();
        (1..=100).for_each(|micros| latency.record(micros * 1000));
        let points = distribution(&latency.0);
        let (last, share) = *points.last().unwrap();
        assert!((share - 0.99).abs() < 1e-9 && (last - 99.0).abs() < 0.2, "{last} {share}");
    }
}
