//! Named lists of workloads, and how one workload is written in short.
//!
//! ```text
//! quick     a glance                        standard  what is always compared
//! full      standard and sweeps             soak      one long run
//! "append in_flight=64 payload=1KiB logs=1000" -> Spec
//! ```
//!
//! Not here: running them (`run`).

use anyhow::{Context, Result, bail};
use bytesize::ByteSize;
use clap::ValueEnum;
use serde_json::{Map, Value, json};

use crate::spec::{Payload, Spec, Work};

const KIB: u32 = 1 << 10;
const GIB: u64 = 1 << 30;
/// The largest record that fits an entry of 1 MiB.
const RECORD_SIZE_MAX: u32 = 1020 * KIB;
const SEED: u64 = 1;

/// A named list of workloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Suite {
    /// A glance: the four most important ones, one round, a minute
    Quick,
    /// What is always compared: fifteen minutes
    Standard,
    /// The standard ones, and sweeps over each parameter: more than an hour
    Full,
    /// One long run with truncation; --seconds says how long
    Soak,
    /// What `wire` measures; only it has the servers for it
    #[value(skip)]
    Wire,
    /// A glance at that: a few seconds
    #[value(skip)]
    WireQuick,
}

impl Suite {
    /// How long each measurement lasts when nothing is said.
    #[must_use]
    pub fn seconds(self) -> f64 {
        match self {
            Self::Quick => 2.0,
            Self::Standard | Self::Full | Self::Wire => 3.0,
            Self::Soak => 600.0,
            Self::WireQuick => 0.3,
        }
    }

    /// How many rounds when nothing is said.
    #[must_use]
    pub fn rounds(self) -> u32 {
        match self {
            Self::Quick | Self::Soak | Self::WireQuick => 1,
            Self::Standard => 5,
            Self::Full | Self::Wire => 3,
        }
    }

    /// The workloads, each of so many seconds.
    #[must_use]
    pub fn specs(self, seconds: f64) -> Vec<Spec> {
        let specs = match self {
            Self::Quick => quick(),
            Self::Standard => standard(),
            Self::Full => full(),
            Self::Soak => {
                vec![spec(Work::Soak { records: 1000, in_flight: 4, keep: 2 * GIB }, 1, KIB)]
            }
            Self::Wire => wire(),
            Self::WireQuick => wire_quick(),
        };
        let mut unique: Vec<Spec> = Vec::new();
        for one in specs {
            let one = Spec { seconds, ..one };
            if !unique.contains(&one) {
                unique.push(one);
            }
        }
        unique
    }

    /// Open loops follow at these shares of the rate that 64 appends in flight reach.
    #[must_use]
    pub fn open_loop_shares(self) -> &'static [f64] {
        match self {
            Self::Full => &[0.1, 0.3, 0.5, 0.7, 0.8, 0.9],
            _ => &[],
        }
    }
}

/// The closed loop whose rate open loops are shares of.
#[must_use]
pub fn is_base_of_open_loops(spec: &Spec) -> bool {
    let base = Work::Append { in_flight: 64 };
    (&spec.work, spec.logs, &spec.payload) == (&base, 1, &Payload::Fixed(KIB))
}

/// An open loop at a share of the rate of `base`, to two digits: all rounds have the same rate.
#[must_use]
pub fn open_loop(base: &Spec, rate: f64, share: f64) -> Spec {
    let digits = format!("{:.1e}", (rate * share).max(1.0));
    let rate = digits.parse().expect("a number was just written");
    Spec { work: Work::OpenLoop { rate }, ..base.clone() }
}

fn spec(work: Work, logs: u32, payload: u32) -> Spec {
    Spec { work, logs, payload: Payload::Fixed(payload), seconds: 1.0, seed: SEED }
}

fn append(in_flight: u32, logs: u32, payload: u32) -> Spec {
    spec(Work::Append { in_flight }, logs, payload)
}

fn batch(records: u32, in_flight: u32, payload: u32) -> Spec {
    spec(Work::Batch { records, in_flight }, 1, payload)
}

fn commit(processors: u32, outputs: u32) -> Spec {
    spec(Work::Commit { processors, delta: 100, outputs }, 1, KIB)
}

fn catch_up(bytes: u64, logs: u32, readers: u32) -> Spec {
    spec(Work::CatchUp { bytes, cold: true, readers }, logs, KIB)
}

fn quick() -> Vec<Spec> {
    vec![append(1, 1, KIB), append(64, 1, KIB), batch(1000, 4, KIB), commit(64, 0)]
}

fn standard() -> Vec<Spec> {
    vec![
        append(1, 1, 100),
        append(1, 1, KIB),
        append(64, 1, 100),
        append(64, 1, KIB),
        batch(1000, 1, KIB),
        batch(1000, 4, KIB),
        batch(1000, 4, 100),
        // The same where space is used again, as in a log with retention.
        spec(Work::Soak { records: 1000, in_flight: 1, keep: GIB / 4 }, 1, KIB),
        spec(Work::Soak { records: 1000, in_flight: 8, keep: GIB / 4 }, 1, KIB),
        append(64, 1_000, KIB),
        append(64, 10_000, KIB),
        commit(1, 0),
        commit(1, 1),
        commit(64, 0),
        commit(64, 1),
        spec(Work::Tail { in_flight: 1, readers: 1 }, 1, KIB),
        spec(Work::Tail { in_flight: 64, readers: 1 }, 1, KIB),
        spec(Work::Mixed { in_flight: 64, readers: 1 }, 1, KIB),
        catch_up(GIB, 1, 1),
        catch_up(GIB, 16, 1),
        spec(Work::Recovery { bytes: GIB }, 1, KIB),
    ]
}

fn full() -> Vec<Spec> {
    let mut specs = standard();
    specs.extend([1, 4, 16, 64, 256].map(|in_flight| append(in_flight, 1, KIB)));
    for size in [16, 100, KIB, 4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, RECORD_SIZE_MAX] {
        specs.extend([1, 64].map(|in_flight| append(in_flight, 1, size)));
    }
    let mix = Payload::Mix(vec![(100, 80), (KIB, 15), (16 * KIB, 5)]);
    specs.push(Spec { payload: mix, ..append(64, 1, KIB) });
    specs.extend([1, 10, 100, 1_000, 10_000, 100_000].map(|logs| append(64, logs, KIB)));
    specs.extend([4, 16].map(|processors| commit(processors, 0)));
    specs.push(spec(Work::Tail { in_flight: 64, readers: 1 }, 1, KIB));
    specs.push(spec(Work::Tail { in_flight: 64, readers: 4 }, 1, KIB));
    specs.push(catch_up(GIB, 1, 4));
    specs.extend([1, 4, 10].map(|gib| spec(Work::Recovery { bytes: gib * GIB }, 1, KIB)));
    specs
}

/// What a server does over loopback, each with as much in flight in the embedded engine.
fn wire() -> Vec<Spec> {
    let mut specs = Vec::new();
    for size in [100, KIB] {
        for (connections, depth) in [(1, 1), (16, 1), (64, 1), (1, 64), (16, 64), (64, 64)] {
            specs.push(spec(Work::WireAppend { connections, depth }, 1, size));
            specs.push(append(connections * depth, 1, size));
        }
        for connections in [1, 16] {
            specs.push(wire_read(connections, 64 << 20, size));
        }
        specs.push(spec(Work::WireIngest { connections: 1 }, 1, size));
    }
    specs.push(spec(Work::WireIdle { connections: 1000 }, 1, KIB));
    specs
}

fn wire_quick() -> Vec<Spec> {
    vec![
        spec(Work::WireAppend { connections: 1, depth: 1 }, 1, 100),
        spec(Work::WireAppend { connections: 16, depth: 64 }, 1, 100),
        append(1024, 1, 100),
        wire_read(1, 1 << 20, 100),
        spec(Work::WireIngest { connections: 1 }, 1, 100),
        spec(Work::WireIdle { connections: 100 }, 1, KIB),
    ]
}

fn wire_read(connections: u32, bytes: u64, payload: u32) -> Spec {
    spec(Work::WireRead { connections, count: 1000, bytes }, 1, payload)
}

/// The points of the yardstick that the ratios of these workloads need.
#[must_use]
pub fn points(specs: &[Spec]) -> Vec<&'static str> {
    const WRITES: [&str; 10] = [
        "fio/commit/fdatasync-4k",
        "fio/commit/dsync-4k",
        "fio/commit/fdatasync-16k",
        "fio/commit/dsync-16k",
        "fio/commit/fdatasync-64k",
        "fio/commit/dsync-64k",
        "fio/commit/fdatasync-256k",
        "fio/commit/dsync-256k",
        "fio/commit/fdatasync-1m",
        "fio/commit/dsync-1m",
    ];
    let mut points: Vec<&str> = Vec::new();
    // Beside a server the embedded engine is a yardstick itself, and needs none.
    let over_wire = specs.iter().any(|spec| spec.work.is_wire());
    for spec in specs.iter().filter(|spec| spec.work.is_wire() || !over_wire) {
        let needed: &[&str] = match spec.work {
            Work::Append { in_flight: 1 } | Work::Commit { processors: 1, .. } => &WRITES[..2],
            Work::WireAppend { .. } => &WRITES[..2],
            Work::WireRead { .. } | Work::WireIngest { .. } | Work::WireIdle { .. } => &[],
            Work::Append { .. } | Work::Commit { .. } | Work::OpenLoop { .. } => &WRITES,
            Work::Batch { in_flight: 1, .. } | Work::Soak { in_flight: 1, .. } => &WRITES[8..],
            Work::Batch { .. } | Work::Soak { .. } => &[
                "fio/commit/fdatasync-1m",
                "fio/commit/dsync-1m",
                "raw/dsync-1m-2",
                "raw/dsync-1m-4",
                "raw/dsync-1m-8",
                "raw/fsync-1m-4",
                "raw/fsync-1m-8",
            ],
            Work::Tail { .. } | Work::Mixed { .. } => &WRITES[..2],
            Work::CatchUp { .. } => &["fio/read/seq-1m-8"],
            Work::Recovery { .. } => &[],
        };
        for point in needed {
            if !points.contains(point) {
                points.push(point);
            }
        }
    }
    points
}

/// A spec from JSON, or in short: the kind of work, then `name=value` for what differs from the
/// defaults.
///
/// # Errors
/// What is wrong, and what there is.
pub fn parse(text: &str) -> Result<Spec> {
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(text).context("this JSON is no workload");
    }
    let mut words = text.split_whitespace();
    let kind = words.next().unwrap_or_default();
    let Some(mut work) = defaults(kind) else {
        bail!(
            "there is no work {kind:?}: give append, open-loop, batch, commit, tail, catch-up, \
             mixed, recovery or soak; with `wire` also wire-append, wire-read, wire-ingest or \
             wire-idle"
        );
    };
    let mut spec = Map::new();
    for (name, value) in [("logs", json!(1)), ("payload", json!(KIB)), ("seed", json!(SEED))] {
        spec.insert(name.to_owned(), value);
    }
    spec.insert("seconds".to_owned(), json!(Suite::Standard.seconds()));
    for word in words {
        let (name, value) =
            word.split_once('=').with_context(|| format!("{word:?} is not name=value"))?;
        let value = parse_value(value).with_context(|| format!("in {word:?}"))?;
        let place = if spec.contains_key(name) { &mut spec } else { &mut work };
        match place.get_mut(name) {
            Some(old) => *old = value,
            None => bail!("{kind} has no {name}; it has {}", names(&spec, &work)),
        }
    }
    work.insert("kind".to_owned(), json!(kind));
    spec.insert("work".to_owned(), Value::Object(work));
    serde_json::from_value(Value::Object(spec)).with_context(|| format!("{text:?} is no workload"))
}

fn names(spec: &Map<String, Value>, work: &Map<String, Value>) -> String {
    work.keys().chain(spec.keys()).map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// JSON as it is (numbers, true, lists), or a size such as 64KiB.
fn parse_value(text: &str) -> Result<Value> {
    if let Ok(value) = serde_json::from_str(text) {
        return Ok(value);
    }
    let size: ByteSize = text.parse().map_err(anyhow::Error::msg)?;
    Ok(json!(size.as_u64()))
}

/// Parameters of a kind of work.
fn defaults(kind: &str) -> Option<Map<String, Value>> {
    let parameters = match kind {
        "append" => json!({"in_flight": 1}),
        "open-loop" => json!({"rate": 1000.0}),
        "batch" => json!({"records": 1000, "in_flight": 1}),
        "commit" => json!({"processors": 1, "delta": 100, "outputs": 0}),
        "tail" => json!({"in_flight": 1, "readers": 1}),
        "catch-up" => json!({"bytes": GIB, "cold": true, "readers": 1}),
        "mixed" => json!({"in_flight": 64, "readers": 1}),
        "recovery" => json!({"bytes": GIB}),
        "soak" => json!({"records": 1000, "in_flight": 4, "keep": GIB}),
        "wire-append" => json!({"connections": 1, "depth": 1}),
        "wire-read" => json!({"connections": 1, "count": 1000, "bytes": GIB / 16}),
        "wire-ingest" => json!({"connections": 1}),
        "wire-idle" => json!({"connections": 1000}),
        _ => return None,
    };
    parameters.as_object().cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_in_short_is_the_one_in_full() {
        let short = parse("append in_flight=64 payload=1KiB logs=1000 seconds=0.5").unwrap();
        assert_eq!(short, Spec { seconds: 0.5, ..append(64, 1000, KIB) });
        assert_eq!(parse(&serde_json::to_string(&short).unwrap()).unwrap(), short);
        let mix = parse("batch payload=[[100,9],[10000,1]]").unwrap();
        assert_eq!(mix.payload, Payload::Mix(vec![(100, 9), (10_000, 1)]));
        let cold = parse("catch-up bytes=10MiB cold=false").unwrap();
        assert_eq!(cold.work, Work::CatchUp { bytes: 10 << 20, cold: false, readers: 1 });
    }

    #[test]
    fn what_is_no_workload_is_refused_with_what_there_is() {
        let refused = |text: &str| format!("{:#}", parse(text).unwrap_err());
        assert!(refused("apend").contains("give append"));
        assert!(
            refused("append flight=1").contains("it has in_flight, logs"),
            "{}",
            refused("append flight=1")
        );
        assert!(refused("append in_flight=many").contains("in_flight=many"));
        assert!(refused("append in_flight").contains("name=value"));
    }

    #[test]
    fn each_kind_of_work_has_defaults_and_each_suite_has_each_spec_once() {
        for kind in crate::engine_target::WORKS.iter().chain(&crate::wire::WORKS) {
            assert_eq!(parse(kind).unwrap().work.kind(), *kind);
        }
        for suite in Suite::value_variants().iter().chain(&[Suite::Wire, Suite::WireQuick]) {
            let specs = suite.specs(suite.seconds());
            for (index, spec) in specs.iter().enumerate() {
                assert!(!specs[..index].contains(spec), "{spec:?} is twice in {suite:?}");
            }
        }
    }

    #[test]
    fn open_loops_have_round_rates_below_the_closed_one() {
        let rate = |rate, share| match open_loop(&append(64, 1, KIB), rate, share).work {
            Work::OpenLoop { rate } => rate,
            work => panic!("{work:?}"),
        };
        assert_eq!(rate(123_456.0, 0.5), 62_000.0);
        assert_eq!(rate(123_456.0, 0.1), 12_000.0);
        assert_eq!(rate(7.0, 0.9), 6.3);
    }

    #[test]
    fn every_point_that_a_suite_needs_is_one_that_can_be_taken() {
        let known: Vec<String> = crate::calibrate::names().collect();
        for point in points(&Suite::Full.specs(1.0)) {
            assert!(known.iter().any(|name| name == point), "{point} cannot be taken");
        }
    }
}
