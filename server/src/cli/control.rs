//! Control records of the journal as JSON and as text.
//!
//! Not here: finding them (`dump`).

use oncelog::format::control::{
    ChainLink, Checkpoint, CheckpointState, Control, Link, ManifestLog, ManifestReader,
    ManifestWriter,
};
use oncelog::{Rates, SourcePosition};
use serde_json::{Map, Value, json};

use super::options::to_json;
use super::values::put_bytes;

/// Its name, and what it says.
pub(super) fn decoded(control: &Control) -> (&'static str, Map<String, Value>) {
    let (kind, value) = match control {
        Control::ManifestHead(_)
        | Control::ManifestLog(_)
        | Control::ManifestReader(_)
        | Control::ManifestWriter(_)
        | Control::ManifestSegment(_) => manifest(control),
        Control::Checkpoint(checkpoint) => ("checkpoint", commit(checkpoint)),
        Control::SnapshotPart { reader, bytes } => {
            ("snapshot_part", json!({ "reader": reader.get(), "bytes": bytes.len() }))
        }
        Control::ChainCarried { reader, head, oldest } => (
            "chain_carried",
            json!({ "reader": reader.get(), "head": chain(head), "oldest": oldest.get() }),
        ),
        Control::ReaderOpened { reader, epoch, sources, name } => (
            "reader_opened",
            json!({ "reader": reader.get(), "name": name, "epoch": epoch.get(),
                    "sources": positions(sources) }),
        ),
        Control::ReaderDropped { reader } => ("reader_dropped", json!({ "reader": reader.get() })),
        Control::SegmentFreed { segment } => ("segment_freed", json!({ "segment": segment.get() })),
        Control::SegmentPunched { segment } => {
            ("segment_punched", json!({ "segment": segment.get() }))
        }
        Control::WriterOpened { log, epoch, increasing, name } => (
            "writer_opened",
            json!({ "log": log.get(), "name": name, "epoch": epoch.get(),
                    "increasing": increasing }),
        ),
        Control::WriterAppended { epoch, number, first, count, entry, slot } => (
            "writer_appended",
            json!({ "epoch": epoch.get(), "number": number, "first": first.get(), "count": count,
                    "entry": entry, "slot": slot }),
        ),
        Control::WriterForgotten { epoch } => ("writer_forgotten", json!({ "epoch": epoch.get() })),
        Control::RatesSet { rates: set } => ("rates_set", rates(set)),
        Control::Seal { next } => ("seal", json!({ "next": next.get() })),
        log => of_log(log),
    };
    let Value::Object(fields) = value else { unreachable!("they are objects, made above") };
    (kind, fields)
}

fn of_log(control: &Control) -> (&'static str, Value) {
    match control {
        Control::LogCreated { log, created_us, name } => {
            ("log_created", json!({ "log": log.get(), "name": name, "created_us": created_us }))
        }
        Control::LogDropped { log } => ("log_dropped", json!({ "log": log.get() })),
        Control::LogTruncated { log, first } => {
            ("log_truncated", json!({ "log": log.get(), "first": first.get() }))
        }
        Control::LogOwned { log, epoch } => {
            ("log_owned", json!({ "log": log.get(), "epoch": epoch.get() }))
        }
        Control::LogSealed { log, next } => {
            ("log_sealed", json!({ "log": log.get(), "next": next.get() }))
        }
        Control::LogOptionsSet { log, options } => {
            ("log_options_set", json!({ "log": log.get(), "options": to_json(options) }))
        }
        Control::LogRenamed { log, name } => {
            ("log_renamed", json!({ "log": log.get(), "name": name }))
        }
        other => unreachable!("no record of a log: {other:?}"),
    }
}

fn manifest(control: &Control) -> (&'static str, Value) {
    match control {
        Control::ManifestHead(head) => (
            "manifest",
            json!({ "next_log": head.next_log.get(), "next_reader": head.next_reader.get(),
                    "next_epoch": head.next_epoch.get(), "time_us": head.time_us,
                    "logs": head.logs, "readers": head.readers, "segments": head.segments,
                    "writers": head.writers, "rates": rates(&head.rates) }),
        ),
        Control::ManifestLog(log) => ("manifest_log", manifest_log(log)),
        Control::ManifestReader(reader) => ("manifest_reader", manifest_reader(reader)),
        Control::ManifestWriter(writer) => ("manifest_writer", manifest_writer(writer)),
        Control::ManifestSegment(row) => (
            "manifest_segment",
            json!({ "segment": row.segment.get(), "end": row.end, "entries": row.entries,
                    "digest": format!("{:016x}", row.digest), "shortened": row.shortened,
                    "freed": row.freed }),
        ),
        other => unreachable!("no record of a manifest: {other:?}"),
    }
}

fn manifest_log(log: &ManifestLog) -> Value {
    json!({
        "log": log.log.get(),
        "name": log.name,
        "created_us": log.created_us,
        "first": log.first.get(),
        "next": log.next.get(),
        "last_txid": log.last_txid.get(),
        "bytes": log.bytes,
        "sealed": log.sealed,
        "owner": log.owner.get(),
        "options_version": log.options_version,
        "options": log.options.as_ref().map(|options| to_json(options)),
    })
}

fn manifest_reader(reader: &ManifestReader) -> Value {
    json!({
        "reader": reader.reader.get(),
        "name": reader.name,
        "epoch": reader.epoch.get(),
        "commits": reader.number,
        "sources": positions(&reader.sources),
        "head": reader.head.as_ref().map(chain),
        "carried": reader.carried.as_ref().map(chain),
        "oldest": reader.oldest.get(),
        "deltas": reader.deltas,
        "delta_bytes": reader.delta_bytes,
        "snapshot_bytes": reader.snapshot_bytes,
    })
}

fn manifest_writer(writer: &ManifestWriter) -> Value {
    let batch = |batch: &oncelog::format::control::WriterBatch| {
        json!({ "number": batch.number, "first": batch.first.get(), "count": batch.count,
                "dlsn": batch.dlsn.to_string() })
    };
    json!({
        "log": writer.log.get(),
        "name": writer.name,
        "epoch": writer.epoch.get(),
        "increasing": writer.increasing,
        "last": writer.last,
        "window": writer.window.iter().map(batch).collect::<Vec<_>>(),
    })
}

fn commit(checkpoint: &Checkpoint) -> Value {
    let mut value = json!({
        "reader": checkpoint.reader.get(),
        "epoch": checkpoint.epoch.get(),
        "number": checkpoint.number,
        "carried": checkpoint.carried,
        "previous": checkpoint.previous.as_ref().map(chain),
        "from": positions(&checkpoint.from),
        "to": positions(&checkpoint.to),
    });
    if let Value::Object(object) = &mut value {
        match &checkpoint.state {
            CheckpointState::None => {}
            CheckpointState::Delta(delta) => put_bytes(object, "delta", delta),
            CheckpointState::Snapshot { parts, last } => {
                let parts: Vec<_> = parts.iter().map(link).collect();
                object.insert("parts".to_owned(), parts.into());
                put_bytes(object, "snapshot", last);
            }
        }
    }
    value
}

fn positions(sources: &[SourcePosition]) -> Value {
    let position =
        |source: &SourcePosition| json!({ "log": source.log.get(), "next": source.next.get() });
    sources.iter().map(position).collect()
}

fn link(link: &Link) -> Value {
    json!({ "segment": link.segment.get(), "offset": link.offset, "index": link.index })
}

fn chain(head: &ChainLink) -> Value {
    json!({ "number": head.number, "at": link(&head.link) })
}

fn rates(rates: &Rates) -> Value {
    let rate = |rate: Option<std::num::NonZeroU64>| rate.map(std::num::NonZeroU64::get);
    json!({ "bytes_soft": rate(rates.bytes_soft), "bytes_hard": rate(rates.bytes_hard),
            "records_soft": rate(rates.records_soft), "records_hard": rate(rates.records_hard) })
}
