//! Figures for Prometheus, in the text format of OpenMetrics.
//!
//! ```text
//! EngineMetrics --fields--\
//! AllLogs, SpaceSeen ------+--> Collector --> text
//! Figures of the front ---/
//! ```
//!
//! Names begin with `oncelog_`, units are seconds and bytes, counters end in `_total`. All of them
//! stand in docs/metrics.md. How many names of logs and processors are told is bounded; the others
//! are summed under `*`, which is no name that anything can have.
//!
//! Not here: asking the engine (`sample`).

use std::fmt::Error;
use std::rc::Rc;
use std::sync::Arc;

use oncelog::EngineMetrics;
use oncelog::metrics::{Field, Histogram, Unit as EngineUnit, Value};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::Stage;
use super::sample::{AllLogs, LogSums, Sampler, SpaceSeen};
use crate::front::{Figures, VerbFigures, range_end_us};

/// The name under which all are summed that are not told by theirs.
const REST: &str = "*";

/// Ends of ranges of times, in microseconds.
const TIMES: [u64; 21] = [
    10, 25, 50, 75, 100, 150, 250, 500, 750, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000,
    250_000, 500_000, 1_000_000, 2_500_000, 10_000_000,
];
/// Ends of ranges of sizes and numbers: 1, 4, 16 and so on to 16 MiB.
const SIZES: [u64; 13] = {
    let (mut ends, mut at) = ([1; 13], 1);
    while at < ends.len() {
        ends[at] = ends[at - 1] * 4;
        at += 1;
    }
    ends
};

type Written = Result<(), Error>;

/// The text of all figures.
pub(super) async fn metrics(sampler: &Rc<Sampler>) -> Result<String, String> {
    let pulse = sampler.pulse().await?;
    let export = Export {
        // A closed engine has no figures; the front end still has its own.
        metrics: sampler.metrics().await.ok(),
        logs: sampler.logs().await.ok(),
        space: sampler.space().await,
        front: sampler.watched.front.figures(),
        names_max: sampler.watched.names_max,
        stopped: pulse.stopped.is_some(),
        ready: sampler.stage() == Stage::Ready,
        started_s: sampler.started_s,
    };
    let mut registry = Registry::with_prefix("oncelog");
    registry.register_collector(Box::new(export));
    let (mut text, failed) = (String::new(), "the figures could not be written as text");
    encode(&mut text, &registry).map_err(|_| failed.to_owned())?;
    Ok(text)
}

/// Everything that is told, as it was at one time.
struct Export {
    metrics: Option<Arc<EngineMetrics>>,
    logs: Option<Arc<AllLogs>>,
    space: Option<SpaceSeen>,
    front: Figures,
    names_max: usize,
    stopped: bool,
    ready: bool,
    started_s: f64,
}

impl std::fmt::Debug for Export {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Export").finish_non_exhaustive()
    }
}

impl Collector for Export {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Written {
        let mut families = Families(encoder);
        self.encode_server(&mut families)?;
        self.encode_front(&mut families)?;
        self.encode_verbs(&mut families)?;
        if let Some(metrics) = &self.metrics {
            encode_fields(&mut families, metrics)?;
            encode_shards(&mut families, metrics)?;
            self.encode_lag(&mut families, metrics)?;
        }
        if let Some(logs) = &self.logs {
            encode_logs(&mut families, logs)?;
        }
        self.space.as_ref().map_or(Ok(()), |space| encode_space(&mut families, space))
    }
}

/// One value of a family, with the label that tells it from others.
enum Sample<'a> {
    Counter(u64),
    Gauge(f64),
    /// Count, sum and ranges; a range has its end and what is in it alone.
    Histogram(f64, &'a [(f64, u64)]),
}

fn encode_sample(encoder: &mut MetricEncoder<'_>, sample: &Sample<'_>) -> Written {
    match sample {
        Sample::Counter(value) => encoder.encode_counter::<NoLabelSet, _, f64>(value, None),
        Sample::Gauge(value) => encoder.encode_gauge(value),
        Sample::Histogram(sum, ranges) => {
            let all = ranges.iter().map(|(_, count)| count).sum();
            encoder.encode_histogram::<NoLabelSet>(*sum, all, ranges, None)
        }
    }
}

/// Where families go, one after the other: all of a family together, as the format demands.
struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    /// A family whose samples differ in the value of a label.
    fn labelled<'s>(
        &mut self,
        (name, help, unit): (&str, &str, Option<Unit>),
        kind: MetricType,
        key: &str,
        samples: impl IntoIterator<Item = (&'s str, Sample<'s>)>,
    ) -> Written {
        let mut encoder = self.0.encode_descriptor(name, help, unit.as_ref(), kind)?;
        for (label, sample) in samples {
            encode_sample(&mut encoder.encode_family(&[(key, label)])?, &sample)?;
        }
        Ok(())
    }

    fn single(
        &mut self,
        (name, help, unit): (&str, &str, Option<Unit>),
        kind: MetricType,
        sample: &Sample<'_>,
    ) -> Written {
        encode_sample(&mut self.0.encode_descriptor(name, help, unit.as_ref(), kind)?, sample)
    }

    fn counter(&mut self, name: &str, help: &str, unit: Option<Unit>, value: u64) -> Written {
        self.single((name, help, unit), MetricType::Counter, &Sample::Counter(value))
    }

    fn gauge(&mut self, name: &str, help: &str, unit: Option<Unit>, value: f64) -> Written {
        self.single((name, help, unit), MetricType::Gauge, &Sample::Gauge(value))
    }
}

fn told(flag: bool) -> f64 {
    f64::from(u8::from(flag))
}

impl Export {
    fn encode_server(&self, families: &mut Families<'_>) -> Written {
        let info = ("build", "The version that runs.", None);
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        let (name, help, unit) = info;
        let mut encoder = families.0.encode_descriptor(name, help, unit, MetricType::Info)?;
        encoder.encode_info(&version)?;
        let started = "When it was started, since 1970.";
        families.gauge("start_time", started, Some(Unit::Seconds), self.started_s)?;
        let ready = "1 if it takes requests, 0 while it starts or stops.";
        families.gauge("ready", ready, None, told(self.ready))?;
        let stopped = "1 if a shard stopped, after a failed write or as the engine was closed.";
        families.gauge("stopped", stopped, None, told(self.stopped))?;
        let names = "How many logs, and processors, are told by name at most; others are summed \
                     as *.";
        families.gauge("names_max", names, None, self.names_max as f64)
    }

    fn encode_front(&self, families: &mut Families<'_>) -> Written {
        let (front, bytes) = (&self.front, || Some(Unit::Bytes));
        let open = "Connections that are open.";
        families.gauge("connections_open", open, None, front.connections_open() as f64)?;
        families.counter("connections", "Connections accepted.", None, front.accepted)?;
        let refused = ("connections_refused", "Connections refused, by reason.", None);
        let by_reason = front.refused.iter();
        let by_reason = by_reason.map(|(why, count)| (why.name(), Sample::Counter(*count)));
        families.labelled(refused, MetricType::Counter, "reason", by_reason)?;
        families.counter("received", "Bytes from clients.", bytes(), front.bytes_in)?;
        families.counter("sent", "Bytes to clients.", bytes(), front.bytes_out)?;
        let followers = "Logs that connections follow, each connection by itself.";
        families.gauge("followers", followers, None, front.followers() as f64)?;
        let lines = "Lines of INGEST that are durable records.";
        families.counter("ingested_lines", lines, None, front.ingested)?;
        let failed = "Wrong names or passwords.";
        families.counter("auth_failures", failed, None, front.auth_failed)?;
        let errors = front.errors.iter().map(|(word, count)| (*word, Sample::Counter(*count)));
        let head = ("request_errors", "Answers that are errors, by their first word.", None);
        families.labelled(head, MetricType::Counter, "error", errors)
    }

    fn encode_verbs(&self, families: &mut Families<'_>) -> Written {
        let verbs = &self.front.verbs;
        let under_way = "Requests taken and not yet answered.";
        families.gauge("requests_in_flight", under_way, None, self.front.in_flight() as f64)?;
        let asked = verbs.iter().map(|verb| (verb.name, Sample::Counter(verb.requests)));
        let head = ("requests", "Requests taken, by verb.", None);
        families.labelled(head, MetricType::Counter, "verb", asked)?;
        // Many ranges for each: only of verbs that somebody uses.
        let used = verbs.iter().filter(|verb| verb.answered() > 0);
        let ranges: Vec<_> = used.map(|verb| (verb, verb_ranges(verb))).collect();
        let times = ranges.iter().map(|(verb, ranges)| {
            (verb.name, Sample::Histogram(verb.micros as f64 / 1e6, ranges.as_slice()))
        });
        let help = "From taking a request to its answer, waiting for records included, by verb.";
        let head = ("request_latency", help, Some(Unit::Seconds));
        families.labelled(head, MetricType::Histogram, "verb", times)
    }

    fn encode_lag(&self, families: &mut Families<'_>, metrics: &EngineMetrics) -> Written {
        let lags = &metrics.total.processor_lag;
        let (named, rest) = lags.split_at(lags.len().min(self.names_max));
        let rest_sum = rest.iter().map(|(_, lag)| *lag as f64).sum();
        let rest = (!rest.is_empty()).then_some((REST, Sample::Gauge(rest_sum)));
        let named = named.iter().map(|(name, lag)| (name.as_str(), Sample::Gauge(*lag as f64)));
        let help = "Durable records of a processor's sources behind its last commit.";
        let head = ("processor_lag", help, None);
        families.labelled(head, MetricType::Gauge, "processor", named.chain(rest))
    }
}

fn verb_ranges(verb: &VerbFigures) -> Vec<(f64, u64)> {
    let end = |range| range_end_us(range).map_or(f64::INFINITY, |micros| micros as f64 / 1e6);
    verb.ranges.iter().enumerate().map(|(range, count)| (end(range), *count)).collect()
}

/// All that the engine's own list has, but for what is told by names.
fn encode_fields(families: &mut Families<'_>, metrics: &EngineMetrics) -> Written {
    let fields: Vec<_> = metrics.total.fields().filter(|it| it.name != "processor_lag").collect();
    for same in fields.chunk_by(|one, other| one.name == other.name) {
        let first = &same[0];
        let (mut name, mut unit) = (first.name, None);
        match first.unit {
            EngineUnit::Bytes => {
                name = name.strip_suffix("_bytes").unwrap_or(name);
                unit = Some(Unit::Bytes);
            }
            EngineUnit::Micros => unit = Some(Unit::Seconds),
            _ => {}
        }
        let kind = match first.value {
            Value::Counter(_) => MetricType::Counter,
            Value::Gauge(_) => MetricType::Gauge,
            Value::Histogram(_) => MetricType::Histogram,
            _ => MetricType::Unknown,
        };
        let mut encoder = families.0.encode_descriptor(name, first.help, unit.as_ref(), kind)?;
        for field in same {
            encode_field(&mut encoder, field)?;
        }
    }
    Ok(())
}

fn encode_field(encoder: &mut MetricEncoder<'_>, field: &Field<'_>) -> Written {
    let ranges;
    let sample = match field.value {
        Value::Counter(value) => Sample::Counter(value),
        Value::Gauge(value) => Sample::Gauge(value as f64),
        Value::Histogram(histogram) => {
            let scale = if field.unit == EngineUnit::Micros { 1e6 } else { 1.0 };
            let ends = if field.unit == EngineUnit::Micros { &TIMES[..] } else { &SIZES };
            ranges = histogram_ranges(histogram, ends, scale);
            Sample::Histogram(histogram.sum() as f64 / scale, &ranges)
        }
        _ => return Ok(()),
    };
    let Some(label) = field.label else { return encode_sample(encoder, &sample) };
    encode_sample(&mut encoder.encode_family(&[label])?, &sample)
}

/// What is in each range, the last one without an end. Exact to what the engine keeps: a hundredth
/// of a value.
fn histogram_ranges(histogram: &Histogram, ends: &[u64], scale: f64) -> Vec<(f64, u64)> {
    let open = std::iter::once(f64::INFINITY);
    let finite = ends.iter().map(|end| *end as f64 / scale);
    let mut ranges: Vec<_> = finite.chain(open).map(|end| (end, 0)).collect();
    for (largest, count) in histogram.buckets() {
        // The engine's ranges are told by their ends. Sizes are mostly powers of two, which begin
        // one: by its end such a size would count as larger than it is.
        let width = 1 << largest.max(1).ilog2().saturating_sub(7);
        let smallest = (largest + 1).saturating_sub(width);
        ranges[ends.partition_point(|end| *end < smallest)].1 += count;
    }
    ranges
}

fn encode_shards(families: &mut Families<'_>, metrics: &EngineMetrics) -> Written {
    let names: Vec<_> = metrics.shards.iter().map(|(shard, _)| shard.to_string()).collect();
    let all = || names.iter().map(String::as_str).zip(metrics.shards.iter().map(|(_, it)| it));
    let records = all().map(|(name, shard)| (name, Sample::Counter(shard.append_records)));
    let head = ("shard_append_records", "Records of durable appends, by shard.", None);
    families.labelled(head, MetricType::Counter, "shard", records)?;
    let inbox = all().map(|(name, shard)| (name, Sample::Gauge(shard.inbox_bytes as f64)));
    let head = ("shard_inbox", "Bytes of requests that wait, by shard.", Some(Unit::Bytes));
    families.labelled(head, MetricType::Gauge, "shard", inbox)?;
    let under_way = all().map(|(name, it)| (name, Sample::Gauge(it.entries_in_flight as f64)));
    let head = ("shard_entries_in_flight", "Entries being written or synced, by shard.", None);
    families.labelled(head, MetricType::Gauge, "shard", under_way)?;
    let full = all().map(|(name, shard)| (name, Sample::Gauge(shard.no_space as f64)));
    let head = ("shard_no_space", "1 if it refuses appends for want of space, by shard.", None);
    families.labelled(head, MetricType::Gauge, "shard", full)
}

fn encode_logs(families: &mut Families<'_>, logs: &AllLogs) -> Written {
    let LogSums { logs: others, records, appended, bytes } = logs.rest;
    let summed = "Logs that are not told by name, but summed as *.";
    families.gauge("logs_summed", summed, None, others as f64)?;
    let named = || logs.named.iter();
    let rest = |sample| (others > 0).then_some((REST, sample));

    let there = named().map(|log| (log.name.as_str(), Sample::Gauge(log.len() as f64)));
    let head = ("log_records", "Records that are there, by log.", None);
    let rest_there = rest(Sample::Gauge(records as f64));
    families.labelled(head, MetricType::Gauge, "log", there.chain(rest_there))?;

    let ever = named().map(|log| (log.name.as_str(), Sample::Counter(log.next.get())));
    let head = ("log_append_records", "Records appended since the log was made, by log.", None);
    let rest_ever = rest(Sample::Counter(appended));
    families.labelled(head, MetricType::Counter, "log", ever.chain(rest_ever))?;

    let sizes = named().map(|log| (log.name.as_str(), Sample::Counter(log.bytes)));
    let help = "Bytes appended since the log was made, payloads and 16 for each record, by log.";
    let head = ("log_append", help, Some(Unit::Bytes));
    families.labelled(head, MetricType::Counter, "log", sizes.chain(rest(Sample::Counter(bytes))))
}

fn encode_space(families: &mut Families<'_>, seen: &SpaceSeen) -> Written {
    let shards = &seen.space.shards;
    let segments = || shards.iter().flat_map(|shard| &shard.segments);
    let sum = |bytes: u64| Sample::Gauge(bytes as f64);
    let kinds = [
        ("active", sum(segments().filter(|it| !it.sealed).map(|it| it.disk_bytes).sum())),
        ("live", sum(segments().filter(|it| it.sealed).map(|it| it.live_bytes).sum())),
        ("dead", sum(segments().map(|segment| segment.dead_bytes()).sum())),
        ("spare", sum(shards.iter().map(|shard| shard.spare_bytes).sum())),
    ];
    let help = "Bytes on the disk: of segments being written, in sealed ones of live records and \
                of what is only kept beside them, and of spares.";
    families.labelled(("space", help, Some(Unit::Bytes)), MetricType::Gauge, "kind", kinds)?;
    let age = "How long ago the space was looked at; it is not done all the time.";
    families.gauge("space_age", age, Some(Unit::Seconds), seen.at.elapsed().as_secs_f64())
}
