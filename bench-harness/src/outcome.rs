//! What was measured: the files that `run`, `compare` and `calibrate` write, and `report` reads.
//!
//! ```text
//! Run -> Round -> before: Yardstick, measurements: [Measurement], after: Yardstick
//!                 `-> Point                        `-> Spec + Figures (histogram in full)
//! ```
//!
//! Not here: how figures become ratios (`ratio`), and plots (`report`).

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::spec::Spec;

/// Version of the files' schema. Other versions are refused.
pub const SCHEMA: u32 = 1;

/// One run: rounds of the same measurements.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// [`SCHEMA`]
    pub schema: u32,
    /// Commit that the program was built from, `-dirty` behind it where files were changed.
    pub commit: String,
    /// Begin, seconds since 1970.
    pub began: u64,
    /// The command, word by word.
    pub command: Vec<String>,
    /// What `doctor` says of the host, name and value, in its order.
    pub host: Vec<Fact>,
    /// Rounds, in order.
    pub rounds: Vec<Round>,
}

/// A fact about the host that matters for a figure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// What, in a few words: `kernel`.
    pub name: String,
    /// How it is.
    pub value: String,
    /// What to change, where it stands in the way.
    pub advice: Option<String>,
}

/// Each measurement once, between two yardsticks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Round {
    /// Taken before.
    pub before: Yardstick,
    /// In the order in which they ran.
    pub measurements: Vec<Measurement>,
    /// Taken after.
    pub after: Yardstick,
}

/// What the device does for a plain I/O pattern.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Yardstick {
    /// By name: `fio/<profile>/<job>` and `raw/<pattern>`.
    pub points: BTreeMap<String, Point>,
}

/// One I/O pattern.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Point {
    /// Bytes of one operation.
    pub block_size: u64,
    /// Operations in flight.
    pub depth: u32,
    /// `dsync`, `fdatasync`, or `none`.
    pub sync: String,
    /// Operations a second; a durable write is one operation, its sync included.
    pub ops_per_s: f64,
    /// 10^6 bytes a second.
    pub mb_per_s: f64,
    /// Median latency of one operation, its sync included, microseconds.
    pub p50_us: f64,
    /// 99th percentile likewise.
    pub p99_us: f64,
}

/// One measurement of one target.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measurement {
    /// `oncelog`, or a peer's name.
    pub target: String,
    /// Its version.
    pub version: String,
    /// What an answer means there, in a few words: `durable (RWF_DSYNC)`.
    pub durability: String,
    /// What was done.
    pub spec: Spec,
    /// How it went.
    pub figures: Figures,
}

/// How it went.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Figures {
    /// Time measured, seconds.
    pub seconds: f64,
    /// Operations that ended in it: appends, batches, commits, reads, openings.
    pub operations: u64,
    /// Records in them.
    pub records: u64,
    /// Payload bytes in them.
    pub payload_bytes: u64,
    /// Latency of each operation in nanoseconds: an HDR histogram (V2, deflated, base64).
    pub latency: Latency,
    /// Records in each whole second.
    pub records_by_second: Vec<u64>,
    /// Resident memory of the process at most, bytes, and in each second of the measurement.
    pub memory_max: u64,
    /// See `memory_max`.
    pub memory_by_second: Vec<u64>,
    /// Processor time of the process while it was measured, user and system, seconds.
    pub cpu_user_s: f64,
    /// See `cpu_user_s`.
    pub cpu_system_s: f64,
    /// What the block device did meanwhile, everyone's I/O included; `None` where it is not known.
    pub device: Option<DeviceCounts>,
    /// What else there is to say, by name: `engine/entries`, `engine/syncs`, ...
    pub extra: BTreeMap<String, f64>,
}

/// Counters of a block device (`/sys/dev/block/<device>/stat`), their growth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceCounts {
    /// Reads completed.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Writes completed.
    pub writes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Flushes completed.
    pub flushes: u64,
}

/// A histogram of nanoseconds, kept in full in files.
#[derive(Clone, Debug)]
pub struct Latency(pub Histogram<u64>);

impl Default for Latency {
    fn default() -> Self {
        // One minute is longer than any answer; three digits.
        let histogram = Histogram::new_with_bounds(1, 60_000_000_000, 3);
        Self(histogram.expect("these bounds are valid"))
    }
}

impl Latency {
    /// Counts one operation. Longer than the bound counts as the bound.
    pub fn record(&mut self, nanoseconds: u64) {
        self.0.saturating_record(nanoseconds.max(1));
    }

    /// Counts so many operations that all took as long.
    pub fn record_many(&mut self, nanoseconds: u64, operations: u64) {
        self.0.saturating_record_n(nanoseconds.max(1), operations);
    }

    /// Adds all of another one.
    pub fn merge(&mut self, other: &Self) {
        self.0.add(&other.0).expect("all have the same bounds");
    }

    /// A quantile in microseconds; `NaN` if nothing was counted.
    #[must_use]
    pub fn quantile_us(&self, quantile: f64) -> f64 {
        if self.0.is_empty() {
            return f64::NAN;
        }
        self.0.value_at_quantile(quantile) as f64 / 1000.0
    }
}

impl Serialize for Latency {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use base64::Engine as _;
        use hdrhistogram::serialization::{Serializer as _, V2DeflateSerializer};
        let mut bytes = Vec::new();
        let written = V2DeflateSerializer::new().serialize(&self.0, &mut bytes);
        written.map_err(|error| serde::ser::Error::custom(format!("{error:?}")))?;
        serializer.serialize_str(&base64::engine::general_purpose::STANDARD.encode(bytes))
    }
}

impl<'de> Deserialize<'de> for Latency {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use base64::Engine as _;
        use serde::de::Error as _;
        let text = String::deserialize(deserializer)?;
        let bytes = base64::engine::general_purpose::STANDARD.decode(text);
        let bytes = bytes.map_err(D::Error::custom)?;
        let mut read = hdrhistogram::serialization::Deserializer::new();
        let histogram: Histogram<u64> = read
            .deserialize(&mut &bytes[..])
            .map_err(|error| D::Error::custom(format!("{error:?}")))?;
        Ok(Self(histogram))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_survives_its_file_and_can_be_merged_after() {
        let mut latency = Latency::default();
        (1..=1000).for_each(|micros| latency.record(micros * 1000));
        let text = serde_json::to_string(&latency).unwrap();
        let mut back: Latency = serde_json::from_str(&text).unwrap();
        assert_eq!(back.0, latency.0);
        back.merge(&latency);
        assert_eq!(back.0.len(), 2000);
        assert!((back.quantile_us(0.5) - 500.0).abs() < 1.0);
    }
}
