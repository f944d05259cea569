//! A run that nobody measured: for tests, and for working on reports where there is no device.
//!
//! ```text
//! cargo run -p bench-harness --example synthetic > run.json
//! ```
//!
//! Invariant: the same arguments give the same run.
//!
//! Not here: anything true about any store or device.

use crate::outcome::{
    DeviceCounts, Fact, Figures, Latency, Measurement, Point, Round, Run, SCHEMA, Yardstick,
};
use crate::spec::{Payload, Spec, Work};

/// Answers of one target: its time for a 4 KiB write, and its records in flight at most.
#[derive(Clone, Copy)]
struct Target {
    name: &'static str,
    slower: f64,
    early: bool,
}

const TARGETS: [Target; 4] = [
    Target { name: "oncelog", slower: 1.12, early: false },
    Target { name: "alder", slower: 1.4, early: false },
    Target { name: "birch", slower: 4.0, early: false },
    Target { name: "cedar", slower: 0.3, early: true },
];

/// Microseconds of a durable 4 KiB write.
const WRITE_US: f64 = 100.0;

/// So many rounds; everything of `oncelog` takes `slower` times as long.
#[must_use]
pub fn run(rounds: u32, slower: f64) -> Run {
    let fact = |name: &str, value: &str, advice: Option<&str>| Fact {
        name: name.to_owned(),
        value: value.to_owned(),
        advice: advice.map(str::to_owned),
    };
    Run {
        schema: SCHEMA,
        commit: "0123456".to_owned(),
        began: 1_700_000_000,
        command: ["bench-harness", "run", "--dir", "/data"].map(str::to_owned).to_vec(),
        host: vec![
            fact("kernel", "6.18.0", None),
            fact("processor", "8 x made up", None),
            fact("device", "nvme0n1 (made up), write through", None),
            fact("governor", "powersave", Some("cpupower frequency-set -g performance")),
        ],
        rounds: (0..rounds).map(|number| round(number, slower)).collect(),
    }
}

fn round(number: u32, slower: f64) -> Round {
    let mood = 1.0 + 0.1 * (f64::from(number) * 2.4).sin();
    let mut measurements = Vec::new();
    for target in TARGETS {
        let ours = target.name == "oncelog";
        let works = if ours { works() } else { works().into_iter().filter(shared).collect() };
        let factor = target.slower * mood * if ours { slower } else { 1.0 };
        for (work, logs, payload) in works {
            let payload = Payload::Fixed(payload);
            let spec = Spec { work, logs, payload, seconds: 30.0, seed: number.into() };
            measurements.push(measurement(&target, spec, factor));
        }
    }
    Round { before: yardstick(mood), measurements, after: yardstick(mood * 1.02) }
}

fn shared((work, logs, _): &(Work, u32, u32)) -> bool {
    let shared = matches!(work, Work::Append { .. } | Work::Batch { .. } | Work::OpenLoop { .. });
    *logs == 1 && (shared || work.is_wire())
}

fn works() -> Vec<(Work, u32, u32)> {
    let append = |in_flight| Work::Append { in_flight };
    let commit = |processors, outputs| Work::Commit { processors, delta: 100, outputs };
    let catch_up = Work::CatchUp { bytes: 4 << 30, cold: true, readers: 1 };
    let mut works: Vec<_> = [1, 4, 16, 64, 256].map(|n| (append(n), 1, 1024)).to_vec();
    works.extend([1, 64].map(|n| (append(n), 1, 100)));
    works.extend([1_000, 10_000].map(|logs| (append(64), logs, 1024)));
    works.extend([2e3, 2e4, 5e4, 1e5].map(|rate| (Work::OpenLoop { rate }, 1, 1024)));
    works.extend([1, 4].map(|in_flight| (Work::Batch { records: 1000, in_flight }, 1, 100)));
    works.extend([1, 64].map(|n| (commit(n, 0), 1, 1024)));
    works.push((commit(64, 1), 1, 1024));
    works.push((Work::Tail { in_flight: 1, readers: 1 }, 1, 1024));
    works.push((catch_up.clone(), 1, 1024));
    works.push((catch_up, 100, 1024));
    works.push((Work::Mixed { in_flight: 64, readers: 1 }, 1, 1024));
    works.extend([1_u64 << 28, 1 << 30, 1 << 32].map(|bytes| (Work::Recovery { bytes }, 1, 1024)));
    let wire = |connections, depth| Work::WireAppend { connections, depth };
    works.extend([(1, 1), (64, 1), (64, 64)].map(|(n, depth)| (wire(n, depth), 1, 1024)));
    works.push((Work::WireRead { connections: 1, count: 1000, bytes: 1 << 26 }, 1, 1024));
    works.push((Work::WireIngest { connections: 1 }, 1, 100));
    works.push((Work::WireIdle { connections: 1000 }, 1, 1024));
    works.push((Work::Soak { records: 1000, in_flight: 2, keep: 1 << 30 }, 1, 1024));
    works
}

/// Latency of one operation in microseconds, operations at a time, records in each.
fn shape(spec: &Spec) -> (f64, f64, f64) {
    let many = |n: f64| (WRITE_US * (1.6 + n / 200.0), n, 1.0);
    let logs = 1.0 + f64::from(spec.logs) / 100_000.0;
    match &spec.work {
        Work::Append { in_flight: 1 } => (WRITE_US * logs, 1.0, 1.0),
        Work::Append { in_flight } | Work::Mixed { in_flight, .. } => many((*in_flight).into()),
        Work::OpenLoop { rate } => {
            let load: f64 = (rate / 120_000.0).min(0.95);
            let latency = WRITE_US * 1.1 / (1.0 - load);
            (latency, rate * latency / 1e6, 1.0)
        }
        Work::Batch { records, in_flight } | Work::Soak { records, in_flight, .. } => {
            (180.0 * f64::from(*in_flight), (*in_flight).into(), (*records).into())
        }
        Work::Commit { processors: 1, .. } => (WRITE_US * 1.02, 1.0, 1.0),
        Work::Commit { processors, outputs, .. } => {
            let (latency, width, records) = many((*processors).into());
            (latency * (1.0 + 0.2 * f64::from(*outputs)), width, records)
        }
        Work::Tail { .. } => (28.0, 1.0, 1.0),
        Work::CatchUp { .. } => (400.0 * logs, 1.0, 1000.0),
        Work::WireAppend { connections, depth } => many(f64::from(connections * depth)),
        Work::WireRead { count, .. } => (700.0, 1.0, (*count).into()),
        Work::WireIngest { .. } => (2_000.0, 16.0, 600.0),
        Work::WireIdle { .. } => (60.0, 1.0, 0.0),
        Work::Recovery { bytes } => (0.3e6 + *bytes as f64 / 3e4, 1.0, 1.0),
    }
}

fn measurement(target: &Target, spec: Spec, slower: f64) -> Measurement {
    let (latency_us, width, records_each) = shape(&spec);
    let recovery = matches!(spec.work, Work::Recovery { .. });
    let open = matches!(spec.work, Work::OpenLoop { .. });
    let latency_us = latency_us * if recovery { 1.0 } else { slower };
    let rate = width / latency_us * 1e6 * if open { slower } else { 1.0 };
    let operations = if recovery { 1.0 } else { (rate * spec.seconds).floor() };
    let records = operations * records_each;
    let Payload::Fixed(size) = spec.payload else { unreachable!("all of them are fixed") };
    let payload_bytes = records * f64::from(size);
    let per_second = records / spec.seconds;
    let wave = |second: u32| 1.0 + 0.06 * (f64::from(second) * 1.7).sin();
    let mut figures = Figures {
        seconds: spec.seconds,
        operations: operations as u64,
        records: records as u64,
        payload_bytes: payload_bytes as u64,
        latency: latency(latency_us, operations.min(20_000.0)),
        records_by_second: (0..30).map(|second| (per_second * wave(second)) as u64).collect(),
        memory_max: 120 << 20,
        memory_by_second: (0..30).map(|second| (90 << 20) + (second.min(20) << 20)).collect(),
        cpu_user_s: records * 0.3e-6 * slower,
        cpu_system_s: records * 0.2e-6 * slower,
        device: Some(DeviceCounts {
            reads: 100,
            read_bytes: payload_bytes as u64,
            writes: operations as u64,
            written_bytes: (payload_bytes * 1.15) as u64,
            flushes: operations as u64,
        }),
        ..Figures::default()
    };
    if target.name == "oncelog" {
        figures.extra.insert("engine/entry_bytes_mean".to_owned(), 4096.0 + width / 2.0 * 512.0);
    }
    if spec.work.is_wire() {
        figures.extra.insert("client/cpu_s".to_owned(), records * 0.4e-6);
    }
    if matches!(spec.work, Work::WireIdle { .. }) {
        figures.extra.insert("wire/memory_bytes_per_connection".to_owned(), 9_000.0 * slower);
    }
    if target.early {
        figures.extra.insert("check/acks_before_sync".to_owned(), 1.0);
    }
    let durability = if target.early { "page cache" } else { "durable" };
    let (target, version) = (target.name.to_owned(), "0.0.0".to_owned());
    Measurement { target, version, durability: durability.to_owned(), spec, figures }
}

/// Log-logistic around a median, with a second, small hill far behind it.
fn latency(median_us: f64, count: f64) -> Latency {
    let mut latency = Latency::default();
    for index in 0..count as u64 {
        let share = (index as f64 + 0.5) / count;
        let odds: f64 = share / (1.0 - share);
        let slow = if share > 0.997 { 3.0 } else { 1.0 };
        latency.record((median_us * 1000.0 * odds.powf(0.12) * slow) as u64);
    }
    latency
}

fn yardstick(mood: f64) -> Yardstick {
    let mut yardstick = Yardstick::default();
    let sizes = [("4k", 4_u64), ("16k", 16), ("64k", 64), ("256k", 256), ("1m", 1024)];
    for (mode, slower) in [("fdatasync", 1.1), ("dsync", 1.0)] {
        for (name, kib) in sizes {
            let us = mood * slower * (WRITE_US + kib as f64 / 2.0);
            let name = format!("fio/commit/{mode}-{name}");
            yardstick.points.insert(name, point(kib << 10, 1, mode, us));
        }
    }
    for depth in [1, 2, 4, 8] {
        let us = mood * (WRITE_US + 512.0) * (1.0 + f64::from(depth) / 4.0);
        let point = point(1 << 20, depth, "dsync", us);
        yardstick.points.insert(format!("raw/dsync-1m-{depth}"), point);
    }
    let read = point(1 << 20, 8, "none", mood * 2_600.0);
    yardstick.points.insert("fio/read/seq-1m-8".to_owned(), read);
    yardstick
}

fn point(block_size: u64, depth: u32, sync: &str, p50_us: f64) -> Point {
    let ops_per_s = f64::from(depth) * 1e6 / p50_us;
    let mb_per_s = ops_per_s * block_size as f64 / 1e6;
    let p99_us = p50_us * 2.5;
    Point { block_size, depth, sync: sync.to_owned(), ops_per_s, mb_per_s, p50_us, p99_us }
}
