//! Logs, processors, the engine and the server, told as replies.
//!
//! Not here: how they are asked (`session`).

use std::fmt::Write;

use bytes::Bytes;
use oncelog::metrics::Value;
use oncelog::{
    Codec, EngineMetrics, LogInfo, LogOptions, ProcessorInfo, Restored, Sequence, WriterInfo,
};

use crate::error::Refusal;
use crate::reply::Reply;
use crate::shared::Shared;

/// What `DESCRIBE` answers.
pub(crate) fn log(info: &LogInfo) -> Reply {
    let mut fields = vec![
        ("name", Reply::text(info.name.clone())),
        ("id", Reply::Number(info.id.get())),
        ("first", Reply::Number(info.first.get())),
        ("next", Reply::Number(info.next.get())),
        ("records", Reply::Number(info.len())),
        ("last_txid", Reply::Number(info.last_txid.get())),
        ("created_us", Reply::Number(info.created_us)),
        ("bytes", Reply::Number(info.bytes)),
        ("sealed", Reply::flag(info.sealed)),
        ("owner", Reply::Number(info.owner.get())),
        ("options_version", Reply::Number(info.options_version.into())),
    ];
    fields.append(&mut options(&info.options));
    Reply::Map(fields.into_iter().map(|(name, value)| (Reply::word(name), value)).collect())
}

/// Options under the words that set them; those that are not set are null.
fn options(options: &LogOptions) -> Vec<(&'static str, Reply)> {
    let number = |value: Option<u64>| value.map_or(Reply::Null, Reply::Number);
    let LogOptions { retention, rates, .. } = options;
    let readers = retention.readers.iter().cloned().map(Reply::text).collect();
    let age = retention.age_us.map(|age| age.get());
    vec![
        (
            "compression",
            Reply::word(match options.compression {
                Codec::None => "none",
                Codec::Lz4 => "lz4",
                Codec::Zstd => "zstd",
            }),
        ),
        ("recordmax", number(options.record_size_max.map(|max| max.get().into()))),
        ("keepfor_us", number(age)),
        ("keepbytes", number(retention.bytes.map(|bytes| bytes.get()))),
        ("keepuntil", Reply::Array(readers)),
        ("byteshard", number(rates.bytes_hard.map(|rate| rate.get()))),
        ("bytessoft", number(rates.bytes_soft.map(|rate| rate.get()))),
        ("recordshard", number(rates.records_hard.map(|rate| rate.get()))),
        ("recordssoft", number(rates.records_soft.map(|rate| rate.get()))),
        ("metadata", Reply::Bulk(options.metadata.clone())),
    ]
}

fn positions(positions: impl IntoIterator<Item = (String, Sequence)>) -> Reply {
    let position = |(log, next): (String, Sequence)| (Reply::text(log), Reply::Number(next.get()));
    Reply::Map(positions.into_iter().map(position).collect())
}

/// What `CLAIM` answers.
pub(crate) fn claim(restored: Restored, at: Vec<(String, Sequence)>) -> Reply {
    let deltas = restored.deltas.into_iter().map(Reply::Bulk).collect();
    Reply::map([
        ("epoch", Reply::Number(restored.epoch.get())),
        ("commits", Reply::Number(restored.commits)),
        ("positions", positions(at)),
        ("snapshot", restored.snapshot.map_or(Reply::Null, Reply::Bulk)),
        ("deltas", Reply::Array(deltas)),
    ])
}

/// One of the answers of `READERS`.
pub(crate) fn processor(info: &ProcessorInfo) -> Reply {
    let at = info.sources.iter().map(|source| (source.log.clone(), source.next));
    Reply::map([
        ("name", Reply::text(info.name.clone())),
        ("epoch", Reply::Number(info.epoch.get())),
        ("commits", Reply::Number(info.commits)),
        ("positions", positions(at)),
        ("lag", Reply::Number(info.lag())),
        ("snapshot_bytes", Reply::Number(info.snapshot_bytes)),
        ("deltas", Reply::Number(info.deltas.into())),
        ("delta_bytes", Reply::Number(info.delta_bytes)),
    ])
}

/// One of the answers of `WRITER LIST`.
pub(crate) fn writer(info: &WriterInfo) -> Reply {
    Reply::map([
        ("name", Reply::text(info.name.clone())),
        ("epoch", Reply::Number(info.epoch.get())),
        ("increasing", Reply::flag(info.increasing)),
        ("last", Reply::Number(info.last)),
    ])
}

/// What `STATS` answers: the fields of docs/metrics.md; of a histogram its count, sum, median, 99th
/// percentile and largest.
pub(crate) fn stats(metrics: &EngineMetrics) -> Reply {
    let mut fields = Vec::new();
    for field in metrics.total.fields() {
        let mut name = field.name.to_owned();
        if let Some((_, value)) = field.label {
            let _ = write!(name, "_{value}");
        }
        match field.value {
            Value::Counter(value) | Value::Gauge(value) => fields.push((name, value)),
            Value::Histogram(histogram) => {
                for (part, value) in [
                    ("count", histogram.count()),
                    ("sum", histogram.sum()),
                    ("p50", histogram.quantile(0.5)),
                    ("p99", histogram.quantile(0.99)),
                    ("max", histogram.max()),
                ] {
                    fields.push((format!("{name}_{part}"), value));
                }
            }
            _ => {}
        }
    }
    let field = |(name, value): (String, u64)| (Reply::text(name), Reply::Number(value));
    Reply::Map(fields.into_iter().map(field).collect())
}

/// What `INFO` answers: sections of `name:value` lines, as clients of Redis expect.
pub(crate) async fn info(shared: &Shared) -> Result<Bytes, Refusal> {
    let info = shared.engine.info().await?;
    let figures = shared.front.figures();
    let mut text = String::new();
    let mut section = |name: &str, lines: &[(&str, String)]| {
        let _ = write!(text, "# {name}\r\n");
        for (name, value) in lines {
            let _ = write!(text, "{name}:{value}\r\n");
        }
        text.push_str("\r\n");
    };
    let io = info.shards.first().map_or("", |shard| shard.runner.kind);
    section(
        "Server",
        &[
            ("oncelog_version", env!("CARGO_PKG_VERSION").to_owned()),
            ("process_id", std::process::id().to_string()),
            ("uptime_in_seconds", shared.started.elapsed().as_secs().to_string()),
            ("transport", shared.transport().to_owned()),
        ],
    );
    section(
        "Clients",
        &[
            ("connected_clients", figures.connections_open().to_string()),
            ("total_connections_received", figures.accepted.to_string()),
            ("buffered_bytes", shared.memory.used().to_string()),
        ],
    );
    section(
        "Engine",
        &[
            ("engine", info.engine),
            ("data", info.dir.display().to_string()),
            ("durable", u8::from(info.durable).to_string()),
            ("direct_io", u8::from(info.direct_io).to_string()),
            ("io", io.to_owned()),
            ("shards", info.shards.len().to_string()),
            ("segment_size", info.segment_size.to_string()),
            ("record_size_max", info.record_size_max.to_string()),
            ("batch_size_max", info.batch_size_max.to_string()),
        ],
    );
    Ok(text.into())
}
