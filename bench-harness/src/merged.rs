//! Runs read from files, and their rounds brought together.
//!
//! ```text
//! run.json.. -> load -> Run -> groups -> one Group for each spec and target, its rounds in order
//!                                          '-> Spread: median, smallest and largest of the rounds
//! ```
//!
//! Invariant: measurements belong together if their target and their [`label`] are the same; a
//! label holds all of a spec but its length and its seed.
//!
//! Not here: ratios (`ratio`), and how anything is shown (`summary`, `report`).

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

use crate::calibrate::Calibration;
use crate::outcome::{Latency, Measurement, Round, Run, SCHEMA, Yardstick};
use crate::spec::{Payload, Spec, Work};

/// The runs in these files as one: the rounds of all, in order. Facts about the host that differ
/// are all kept.
///
/// # Errors
/// A file cannot be read, or is none that this program wrote.
pub fn load(files: &[PathBuf]) -> anyhow::Result<Run> {
    let (first, rest) = files.split_first().context("name at least one file that `run` wrote")?;
    let mut run = load_one(first)?;
    for file in rest {
        let other = load_one(file)?;
        if !run.commit.split(", ").any(|commit| commit == other.commit) {
            run.commit = format!("{}, {}", run.commit, other.commit);
        }
        // 0 is not known.
        run.began =
            [run.began, other.began].into_iter().filter(|began| *began > 0).min().unwrap_or(0);
        run.command.extend([AND.to_owned()].into_iter().chain(other.command));
        for fact in other.host {
            if !run.host.contains(&fact) {
                run.host.push(fact);
            }
        }
        run.rounds.extend(other.rounds);
    }
    Ok(run)
}

fn load_one(file: &Path) -> anyhow::Result<Run> {
    let text = std::fs::read_to_string(file).with_context(|| format!("reading {file:?}"))?;
    parse(&text).with_context(|| format!("{file:?}"))
}

/// The run that a file's text holds.
///
/// # Errors
/// It is not JSON, of another schema, or not whole.
pub fn parse(text: &str) -> anyhow::Result<Run> {
    let value: serde_json::Value =
        serde_json::from_str(text).context("not JSON: give a file that `run` wrote")?;
    let schema = value.get("schema").and_then(serde_json::Value::as_u64);
    let schema = schema.context("no \"schema\" in it: give a file that `run` wrote")?;
    ensure!(
        schema == u64::from(SCHEMA),
        "schema {schema}, but this program reads {SCHEMA}: use the bench-harness of the commit \
         that wrote it, or measure again"
    );
    if value.get("yardstick").is_some() {
        return calibrated(value).context("not whole: calibrate again");
    }
    serde_json::from_value(value).context("not whole: measure again")
}

/// What `calibrate` wrote, as a run of one round without measurements.
fn calibrated(value: serde_json::Value) -> anyhow::Result<Run> {
    let Calibration { schema, commit, host, yardstick } = serde_json::from_value(value)?;
    let command = ["bench-harness", "calibrate"].map(str::to_owned).to_vec();
    let after = Yardstick::default();
    let rounds = vec![Round { before: yardstick, measurements: Vec::new(), after }];
    Ok(Run { schema, commit, began: 0, command, host, rounds })
}

/// The command of a run, as a shell takes it.
#[must_use]
pub fn command(run: &Run) -> String {
    let plain = |word: &String| {
        let safe = |c: char| c.is_ascii_alphanumeric() || "-_=./,:+%@".contains(c);
        word == AND || !word.is_empty() && word.chars().all(safe)
    };
    let quoted = |word: &String| match plain(word) {
        true => word.clone(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    };
    run.command.iter().map(quoted).collect::<Vec<_>>().join(" ")
}

/// Between the commands of runs that were brought together.
const AND: &str = "&&";

/// A spec in words: all of it but its length and its seed.
#[must_use]
pub fn label(spec: &Spec) -> String {
    let flight = |count: u32| format!("{} in flight", thousands(count.into()));
    let readers = |count: u32| plural(count.into(), "reader");
    let connections = |count: u32| plural(count.into(), "connection");
    let mut text = match &spec.work {
        Work::Append { in_flight } => format!("append, {}", flight(*in_flight)),
        Work::OpenLoop { rate } => format!("open loop, {}/s", number(*rate)),
        Work::Batch { records, in_flight } => {
            format!("batch of {}, {}", thousands((*records).into()), flight(*in_flight))
        }
        Work::Commit { processors, delta, outputs } => format!(
            "commit, {}, delta {}, {}",
            plural((*processors).into(), "processor"),
            bytes((*delta).into()),
            plural((*outputs).into(), "output")
        ),
        Work::Tail { in_flight, readers: count } => {
            format!("tail, {}, {}", flight(*in_flight), readers(*count))
        }
        Work::CatchUp { bytes: size, cold, readers: count } => {
            let cache = if *cold { "cold" } else { "warm" };
            format!("catch-up, {}, {cache}, {}", bytes(*size), readers(*count))
        }
        Work::Mixed { in_flight, readers: count } => {
            format!("mixed, {}, {}", flight(*in_flight), readers(*count))
        }
        Work::Recovery { bytes: size } => format!("recovery, {}", bytes(*size)),
        Work::Soak { records, in_flight, keep } => format!(
            "soak, batch of {}, {}, {} kept",
            thousands((*records).into()),
            flight(*in_flight),
            bytes(*keep)
        ),
        Work::WireAppend { connections: count, depth } => {
            format!("wire append, {}, depth {depth}", connections(*count))
        }
        Work::WireRead { connections: count, count: records, bytes: size } => format!(
            "wire read, {}, {} at a time of {}",
            connections(*count),
            thousands((*records).into()),
            bytes(*size)
        ),
        Work::WireIngest { connections: count } => format!("wire ingest, {}", connections(*count)),
        Work::WireIdle { connections: count } => format!("wire idle, {}", connections(*count)),
    };
    let _ = write!(text, ", {}", payload(&spec.payload));
    if spec.logs != 1 {
        let _ = write!(text, ", {}", plural(spec.logs.into(), "log"));
    }
    text
}

/// Sizes of payloads in words.
#[must_use]
pub fn payload(payload: &Payload) -> String {
    match payload {
        Payload::Fixed(size) => bytes((*size).into()),
        Payload::Mix(parts) => {
            let part =
                |(size, weight): &(u32, u32)| format!("{weight} x {}", bytes((*size).into()));
            format!("mix of {}", parts.iter().map(part).collect::<Vec<_>>().join(" + "))
        }
    }
}

/// A size, exact: `64 KiB`, `100 B`.
#[must_use]
pub fn bytes(size: u64) -> String {
    let units = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let unit = units.iter().find(|(unit, _)| size >= *unit && size.is_multiple_of(*unit));
    unit.map_or_else(
        || format!("{} B", thousands(size)),
        |(unit, name)| format!("{} {name}", thousands(size / unit)),
    )
}

fn plural(count: u64, what: &str) -> String {
    let end = if count == 1 { "" } else { "s" };
    format!("{} {what}{end}", thousands(count))
}

/// An integer with commas: `10,000`.
#[must_use]
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A figure with three to four digits that count; a dash if it is none.
#[must_use]
pub fn number(value: f64) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    let size = value.abs();
    let sign = if value < 0.0 { "-" } else { "" };
    match size {
        999.95.. => format!("{sign}{}", thousands(size.round() as u64)),
        9.995.. => format!("{value:.1}").trim_end_matches(".0").to_owned(),
        0.1.. => format!("{value:.2}"),
        1e-12.. => format!("{value:.*}", (-size.log10().floor()) as usize + 1),
        _ => "0".to_owned(),
    }
}

/// What the rounds say of one figure.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Spread {
    /// Half of the rounds are below.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// How many rounds.
    pub rounds: usize,
}

impl Spread {
    /// Of these values; `None` if none of them is a number.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let half = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            f64::midpoint(values[half - 1], values[half])
        } else {
            values[half]
        };
        Some(Self { median, min, max, rounds: values.len() })
    }

    /// The distance between the smallest and the largest, as a share of the median.
    #[must_use]
    pub fn noise(&self) -> f64 {
        if self.max > self.min { (self.max - self.min) / self.median.abs() } else { 0.0 }
    }

    /// `(min–max)`, or nothing if there is one round only.
    #[must_use]
    pub fn range(&self) -> String {
        if self.rounds < 2 {
            return String::new();
        }
        format!("({}–{})", number(self.min), number(self.max))
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let range = self.range();
        let space = if range.is_empty() { "" } else { " " };
        write!(f, "{}{space}{range}", number(self.median))
    }
}

/// One spec done by one target, in all rounds.
#[derive(Clone, Debug)]
pub struct Group<'a> {
    /// See [`label`].
    pub label: String,
    /// Who did it.
    pub target: &'a str,
    /// Each with the number of its round, from 0.
    pub measurements: Vec<(usize, &'a Measurement)>,
}

impl Group<'_> {
    /// What was done.
    #[must_use]
    pub fn spec(&self) -> &Spec {
        &self.measurements[0].1.spec
    }

    /// What the rounds say of a figure.
    pub fn spread(&self, figure: impl Fn(&Measurement) -> f64) -> Option<Spread> {
        Spread::of(self.measurements.iter().map(|(_, measurement)| figure(measurement)))
    }

    /// All latencies of all rounds.
    #[must_use]
    pub fn latency(&self) -> Latency {
        let mut all = Latency::default();
        self.measurements.iter().for_each(|(_, one)| all.merge(&one.figures.latency));
        all
    }
}

/// What belongs together, in the order in which it was first measured.
#[must_use]
pub fn groups(run: &Run) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for (number, round) in run.rounds.iter().enumerate() {
        for measurement in &round.measurements {
            let (label, target) = (label(&measurement.spec), &measurement.target[..]);
            let known = groups.iter_mut().find(|one| one.target == target && one.label == label);
            match known {
                Some(group) => group.measurements.push((number, measurement)),
                None => {
                    let measurements = vec![(number, measurement)];
                    groups.push(Group { label, target, measurements });
                }
            }
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic;

    #[test]
    fn numbers_are_short_and_exact_sizes_stay_exact() {
        let shown = [0.0, 0.004_2, 0.873, 9.996, 137.64, 999.97, 205_858.4, -12.0].map(number);
        assert_eq!(shown, ["0", "0.0042", "0.87", "10", "137.6", "1,000", "205,858", "-12"]);
        assert_eq!(number(f64::NAN), "–");
        let sizes = [0, 100, 1024, 3 << 20, (1 << 30) + 1].map(bytes);
        assert_eq!(sizes, ["0 B", "100 B", "1 KiB", "3 MiB", "1,073,741,825 B"]);
    }

    #[test]
    fn a_command_can_be_pasted_into_a_shell() {
        let mut run = synthetic::run(1, 1.0);
        run.command =
            ["run", "--dir=/d", "append logs=2", "it's", "", AND].map(str::to_owned).to_vec();
        assert_eq!(command(&run), r"run --dir=/d 'append logs=2' 'it'\''s' '' &&");
    }

    #[test]
    fn a_median_is_between_its_neighbours_and_noise_is_a_share_of_it() {
        let spread = Spread::of([4.0, 1.0, f64::NAN, 2.0, 3.0]).unwrap();
        assert_eq!(spread, Spread { median: 2.5, min: 1.0, max: 4.0, rounds: 4 });
        assert!((spread.noise() - 1.2).abs() < 1e-9);
        assert_eq!(Spread::of([f64::NAN]), None);
    }

    #[test]
    fn a_label_differs_where_the_spec_does_and_not_for_length_and_seed() {
        let run = synthetic::run(1, 1.0);
        let specs: Vec<&Spec> = run.rounds[0].measurements.iter().map(|one| &one.spec).collect();
        for (a, b) in specs.iter().flat_map(|a| specs.iter().map(move |b| (*a, *b))) {
            let same = (&a.work, a.logs, &a.payload) == (&b.work, b.logs, &b.payload);
            assert_eq!(label(a) == label(b), same, "{} / {}", label(a), label(b));
        }
        let longer = Spec { seconds: 99.0, seed: 99, ..specs[0].clone() };
        assert_eq!(label(&longer), label(specs[0]));
    }

    #[test]
    fn files_of_another_schema_or_of_none_are_refused_with_what_to_do() {
        let mut run = synthetic::run(1, 1.0);
        let text = serde_json::to_string(&run).unwrap();
        assert_eq!(parse(&text).unwrap().rounds.len(), 1);
        run.schema += 1;
        let newer = parse(&serde_json::to_string(&run).unwrap()).unwrap_err();
        assert!(newer.to_string().starts_with("schema 2, but this program reads 1"), "{newer}");
        assert!(parse("{}").unwrap_err().to_string().contains("no \"schema\""));
        assert!(parse("hello").unwrap_err().to_string().contains("not JSON"));
        let part = parse("{\"schema\": 1}").unwrap_err();
        assert!(part.to_string().contains("not whole"), "{part}");
    }

    #[test]
    fn a_calibration_is_a_run_without_measurements() {
        let Run { schema, commit, host, mut rounds, .. } = synthetic::run(1, 1.0);
        let yardstick = rounds.remove(0).before;
        let points = yardstick.points.len();
        let file = Calibration { schema, commit, host, yardstick };
        let run = parse(&serde_json::to_string(&file).unwrap()).unwrap();
        assert!(points > 0 && run.rounds[0].before.points.len() == points);
        assert!(run.rounds[0].measurements.is_empty());
    }

    #[test]
    fn rounds_of_several_files_come_together() {
        let dir = std::env::temp_dir().join(format!("bench-merged-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let files = [dir.join("a.json"), dir.join("b.json")];
        for (file, rounds) in files.iter().zip([1, 2]) {
            std::fs::write(file, serde_json::to_string(&synthetic::run(rounds, 1.0)).unwrap())
                .unwrap();
        }
        let run = load(&files).unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!(run.rounds.len(), 3);
        assert!(groups(&run).iter().all(|group| group.measurements.len() == 3));
        assert_eq!(run.host, synthetic::run(1, 1.0).host, "the same facts are kept once");
    }
}
