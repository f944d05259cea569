//! The figures of one measurement: what they are called, their units, and which way is better.
//!
//! Not here: what they are compared with (`ratio`).

use serde::Serialize;

use crate::outcome::{DeviceCounts, Measurement};
use crate::spec::Work;

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Better {
    /// Latency, cost.
    Less,
    /// Throughput.
    More,
}

/// A figure that every measurement has; `NaN` where it was not counted.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    /// `p50`.
    pub name: &'static str,
    /// `µs`.
    pub unit: &'static str,
    /// Which way is better.
    pub better: Better,
    /// Takes it.
    pub of: fn(&Measurement) -> f64,
}

const fn less(name: &'static str, unit: &'static str, of: fn(&Measurement) -> f64) -> Figure {
    Figure { name, unit, better: Better::Less, of }
}

const fn more(name: &'static str, unit: &'static str, of: fn(&Measurement) -> f64) -> Figure {
    Figure { name, unit, better: Better::More, of }
}

/// Median latency of an operation.
pub const P50: Figure = less("p50", "µs", |one| one.figures.latency.quantile_us(0.5));
/// 99th percentile of it.
pub const P99: Figure = less("p99", "µs", |one| one.figures.latency.quantile_us(0.99));
/// 99.9th percentile of it.
pub const P999: Figure = less("p99.9", "µs", |one| one.figures.latency.quantile_us(0.999));
/// Median latency in seconds, for work that takes so long.
pub const SECONDS: Figure = less("duration", "s", |one| one.figures.latency.quantile_us(0.5) / 1e6);
/// Operations a second.
pub const OPERATIONS: Figure =
    more("operations/s", "/s", |one| per(one.figures.operations as f64, one.figures.seconds));
/// Records a second.
pub const RECORDS: Figure =
    more("records/s", "/s", |one| per(one.figures.records as f64, one.figures.seconds));
/// Payload a second.
pub const PAYLOAD: Figure =
    more("payload", "MB/s", |one| per(one.figures.payload_bytes as f64 / 1e6, one.figures.seconds));
/// Processor time of a record.
pub const CPU: Figure = less("CPU a record", "µs", |one| {
    let seconds = one.figures.cpu_user_s + one.figures.cpu_system_s;
    per(seconds * 1e6, one.figures.records as f64)
});
/// Bytes that the device wrote for each byte of payload.
pub const WRITTEN: Figure = less("device bytes a payload byte", "", |one| {
    per(device(one, |counts| counts.written_bytes), one.figures.payload_bytes as f64)
});
/// Flushes of the device for each record.
pub const FLUSHES: Figure = less("flushes a record", "", |one| {
    per(device(one, |counts| counts.flushes), one.figures.records as f64)
});
/// Bytes that the device read in a second.
pub const DEVICE_READ: Figure = more("device read", "MB/s", |one| {
    per(device(one, |counts| counts.read_bytes) / 1e6, one.figures.seconds)
});
/// Resident memory at most.
pub const MEMORY: Figure =
    less("memory", "MiB", |one| one.figures.memory_max as f64 / f64::from(1 << 20));

/// Processor time of a record in the process that asks a server.
pub const CLIENT_CPU: Figure = less("client CPU a record", "µs", |one| {
    per(extra(one, "client/cpu_s") * 1e6, one.figures.records as f64)
});
/// Resident memory that a server has more with each connection that does nothing.
pub const IDLE: Figure = less("memory a connection", "KiB", |one| {
    extra(one, "wire/memory_bytes_per_connection") / 1024.0
});

fn extra(one: &Measurement, name: &str) -> f64 {
    one.figures.extra.get(name).copied().unwrap_or(f64::NAN)
}

fn per(count: f64, of: f64) -> f64 {
    if of > 0.0 { count / of } else { f64::NAN }
}

fn device(one: &Measurement, count: impl Fn(&DeviceCounts) -> u64) -> f64 {
    one.figures.device.as_ref().map_or(f64::NAN, |counts| count(counts) as f64)
}

/// The figure that says most about such work.
#[must_use]
pub fn main_of(work: &Work) -> Figure {
    match work {
        Work::Append { in_flight: 1 } | Work::Tail { .. } => P50,
        Work::Append { .. } | Work::Mixed { .. } | Work::WireAppend { .. } => RECORDS,
        Work::OpenLoop { .. } => P99,
        Work::Batch { .. } | Work::CatchUp { .. } | Work::Soak { .. } => PAYLOAD,
        Work::WireRead { .. } | Work::WireIngest { .. } => PAYLOAD,
        Work::WireIdle { .. } => IDLE,
        Work::Commit { .. } => OPERATIONS,
        Work::Recovery { .. } => SECONDS,
    }
}

/// The figures of such work that are put beside those of other stores; the main one is first.
#[must_use]
pub fn beside_peers(work: &Work) -> Vec<Figure> {
    let mut figures = vec![main_of(work)];
    match work {
        Work::WireAppend { .. } => figures.extend([P50, P99, P999, CPU, CLIENT_CPU]),
        Work::WireRead { .. } => figures.extend([P50, P99, CPU, CLIENT_CPU]),
        _ => {}
    }
    figures
}

/// Whether such work writes what it counts, so that the device's writes are its own.
#[must_use]
pub fn writes(work: &Work) -> bool {
    let reads = matches!(work, Work::CatchUp { .. } | Work::Recovery { .. });
    !reads && !matches!(work, Work::WireRead { .. } | Work::WireIdle { .. })
}
