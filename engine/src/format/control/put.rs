//! Writing the bodies of control records (F-11).
//!
//! Not here: the header before each body, and sizes (`control`).

use bytes::{BufMut, BytesMut};

use super::{
    ChainLink, Checkpoint, CheckpointState, Control, LOG_HAS_OPTIONS, LOG_HAS_OWNER, LOG_IS_SEALED,
    Link, ManifestLog, ManifestReader, ManifestWriter, STATE_DELTA, STATE_NONE, STATE_SNAPSHOT,
    SourcePosition,
};
use crate::position::{Epoch, SegmentId};

pub(super) fn body(control: &Control, out: &mut BytesMut) {
    match control {
        Control::LogCreated { log, created_us, name } => {
            out.put_u64_le(log.0);
            out.put_u64_le(*created_us);
            put_name(out, name);
            out.put_slice(name.as_bytes());
        }
        Control::LogDropped { log } => out.put_u64_le(log.0),
        Control::LogTruncated { log, first } => {
            out.put_u64_le(log.0);
            out.put_u64_le(first.0);
        }
        Control::ReaderOpened { reader, epoch, sources, name } => {
            out.put_u64_le(reader.0);
            out.put_u64_le(epoch.0);
            put_count(out, sources.len());
            put_name(out, name);
            put_positions(out, sources);
            out.put_slice(name.as_bytes());
        }
        Control::ReaderDropped { reader } => out.put_u64_le(reader.0),
        Control::Checkpoint(checkpoint) => put_checkpoint(out, checkpoint),
        Control::SnapshotPart { reader, bytes } => {
            out.put_u64_le(reader.0);
            out.put_slice(bytes);
        }
        Control::ChainCarried { reader, head, oldest } => {
            out.put_u64_le(reader.0);
            put_chain_link(out, Some(*head));
            out.put_u64_le(oldest.0);
        }
        Control::SegmentFreed { segment }
        | Control::SegmentPunched { segment }
        | Control::Seal { next: segment } => out.put_u64_le(segment.0),
        Control::WriterOpened { .. }
        | Control::WriterAppended { .. }
        | Control::WriterForgotten { .. }
        | Control::LogOwned { .. }
        | Control::LogSealed { .. }
        | Control::LogOptionsSet { .. }
        | Control::LogRenamed { .. }
        | Control::RatesSet { .. } => setting(control, out),
        Control::ManifestHead(head) => {
            out.put_u64_le(head.next_log.0);
            out.put_u64_le(head.next_reader.0);
            out.put_u64_le(head.next_epoch.0);
            out.put_u64_le(head.time_us);
            out.put_u32_le(head.logs);
            out.put_u32_le(head.readers);
            out.put_u32_le(head.segments);
            out.put_u32_le(head.writers);
            head.rates.put(out);
        }
        Control::ManifestLog(log) => put_manifest_log(out, log),
        Control::ManifestReader(reader) => put_manifest_reader(out, reader),
        Control::ManifestWriter(writer) => put_manifest_writer(out, writer),
        Control::ManifestSegment(segment) => {
            out.put_u64_le(segment.segment.0);
            out.put_u64_le(segment.end);
            out.put_u64_le(segment.digest);
            out.put_u32_le(segment.entries);
            out.put_u32_le(u32::from(segment.shortened) | u32::from(segment.freed) << 1);
        }
    }
}

/// Writers, owners and settings of logs.
fn setting(control: &Control, out: &mut BytesMut) {
    match control {
        Control::WriterOpened { log, epoch, increasing, name } => {
            out.put_u64_le(log.0);
            out.put_u64_le(epoch.0);
            out.put_u16_le(u16::from(*increasing));
            put_name(out, name);
            out.put_slice(name.as_bytes());
        }
        Control::WriterAppended { epoch, number, first, count, entry, slot } => {
            out.put_u64_le(epoch.0);
            out.put_u64_le(*number);
            out.put_u64_le(first.0);
            out.put_u32_le(*count);
            out.put_u32_le(*entry);
            out.put_u32_le(*slot);
        }
        Control::WriterForgotten { epoch } => out.put_u64_le(epoch.0),
        Control::LogOwned { log, epoch } => {
            out.put_u64_le(log.0);
            out.put_u64_le(epoch.0);
        }
        Control::LogSealed { log, next } => {
            out.put_u64_le(log.0);
            out.put_u64_le(next.0);
        }
        Control::LogOptionsSet { log, options } => {
            out.put_u64_le(log.0);
            options.put(out);
        }
        Control::LogRenamed { log, name } => {
            out.put_u64_le(log.0);
            put_name(out, name);
            out.put_slice(name.as_bytes());
        }
        Control::RatesSet { rates } => rates.put(out),
        _ => unreachable!("the caller chose these"),
    }
}

fn put_checkpoint(out: &mut BytesMut, checkpoint: &Checkpoint) {
    let (kind, parts, bytes): (u8, &[Link], &[u8]) = match &checkpoint.state {
        CheckpointState::None => (STATE_NONE, &[], &[]),
        CheckpointState::Delta(bytes) => (STATE_DELTA, &[], bytes),
        CheckpointState::Snapshot { parts, last } => (STATE_SNAPSHOT, parts, last),
    };
    out.put_u64_le(checkpoint.reader.0);
    out.put_u64_le(checkpoint.epoch.0);
    out.put_u64_le(checkpoint.number);
    put_chain_link(out, checkpoint.previous);
    put_count(out, checkpoint.to.len());
    out.put_u8(kind);
    out.put_u8(checkpoint.carried.into());
    out.put_u32_le(u32::try_from(parts.len()).expect("parts fit an entry"));
    out.put_u32_le(0);
    assert_eq!(checkpoint.from.len(), checkpoint.to.len());
    for (from, to) in checkpoint.from.iter().zip(&checkpoint.to) {
        assert_eq!(from.log, to.log);
        out.put_u64_le(from.log.0);
        out.put_u64_le(from.next.0);
        out.put_u64_le(to.next.0);
    }
    for part in parts {
        put_link(out, *part);
    }
    out.put_slice(bytes);
}

fn put_manifest_reader(out: &mut BytesMut, reader: &ManifestReader) {
    out.put_u64_le(reader.reader.0);
    out.put_u64_le(reader.epoch.0);
    out.put_u64_le(reader.number);
    put_chain_link(out, reader.head);
    put_chain_link(out, reader.carried);
    out.put_u64_le(reader.oldest.0);
    out.put_u64_le(reader.delta_bytes);
    out.put_u64_le(reader.snapshot_bytes);
    out.put_u32_le(reader.deltas);
    put_count(out, reader.sources.len());
    put_name(out, &reader.name);
    put_positions(out, &reader.sources);
    out.put_slice(reader.name.as_bytes());
}

fn put_name(out: &mut BytesMut, name: &str) {
    out.put_u16_le(u16::try_from(name.len()).expect("names are short"));
}

fn put_count(out: &mut BytesMut, count: usize) {
    out.put_u16_le(u16::try_from(count).expect("a processor has few sources"));
}

fn put_positions(out: &mut BytesMut, positions: &[SourcePosition]) {
    for position in positions {
        out.put_u64_le(position.log.0);
        out.put_u64_le(position.next.0);
    }
}

fn put_link(out: &mut BytesMut, link: Link) {
    out.put_u64_le(link.segment.0);
    out.put_u32_le(link.offset);
    out.put_u32_le(link.index);
}

/// Number 0 says that there is none.
fn put_chain_link(out: &mut BytesMut, link: Option<ChainLink>) {
    let none = Link { segment: SegmentId(0), offset: 0, index: 0 };
    let ChainLink { number, link } = link.unwrap_or(ChainLink { number: 0, link: none });
    out.put_u64_le(number);
    put_link(out, link);
}

fn put_manifest_log(out: &mut BytesMut, log: &ManifestLog) {
    out.put_u64_le(log.log.0);
    out.put_u64_le(log.created_us);
    out.put_u64_le(log.next.0);
    out.put_u64_le(log.last_txid.0);
    out.put_u64_le(log.first.0);
    out.put_u64_le(log.bytes);
    put_name(out, &log.name);
    let owned = log.owner != Epoch(0);
    let flags = [(log.sealed, LOG_IS_SEALED), (owned, LOG_HAS_OWNER)];
    let flags = flags.iter().filter(|(set, _)| *set).fold(0, |flags, (_, flag)| flags | flag);
    out.put_u16_le(flags | if log.options.is_some() { LOG_HAS_OPTIONS } else { 0 });
    if owned {
        out.put_u64_le(log.owner.0);
    }
    if let Some(options) = &log.options {
        out.put_u32_le(log.options_version);
        options.put(out);
    }
    out.put_slice(log.name.as_bytes());
}

fn put_manifest_writer(out: &mut BytesMut, writer: &ManifestWriter) {
    out.put_u64_le(writer.log.0);
    out.put_u64_le(writer.epoch.0);
    out.put_u64_le(writer.last);
    out.put_u8(writer.increasing.into());
    out.put_u8(u8::try_from(writer.window.len()).expect("a window is small"));
    put_name(out, &writer.name);
    for batch in &writer.window {
        out.put_u64_le(batch.number);
        out.put_u64_le(batch.first.0);
        out.put_u64_le(batch.dlsn.segment().0);
        out.put_u32_le(batch.dlsn.entry());
        out.put_u32_le(batch.dlsn.slot());
        out.put_u32_le(batch.count);
    }
    out.put_slice(writer.name.as_bytes());
}
