//! Reading control records: every byte of a record has a meaning, or the record is not valid
//! (F-11).
//!
//! Not here: whether a record follows what was before it (`catalog`).

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::sync::Arc;

use bytes::{Buf, Bytes};

use super::{
    CHAIN_CARRIED, CHECKPOINT, ChainLink, Checkpoint, CheckpointState, Control, LOG_CREATED,
    LOG_DROPPED, LOG_HAS_OPTIONS, LOG_HAS_OWNER, LOG_IS_SEALED, LOG_OPTIONS_SET, LOG_OWNED,
    LOG_RENAMED, LOG_SEALED, LOG_TRUNCATED, Link, MANIFEST_HEAD, MANIFEST_HEAD_1, MANIFEST_LOG,
    MANIFEST_LOG_1, MANIFEST_READER, MANIFEST_SEGMENT, MANIFEST_WRITER, ManifestHead, ManifestLog,
    ManifestReader, ManifestSegment, ManifestWriter, RATES_SET, READER_DROPPED, READER_OPENED,
    SEAL, SEGMENT_FREED, SEGMENT_PUNCHED, SNAPSHOT_PART, STATE_DELTA, STATE_NONE, STATE_SNAPSHOT,
    SourcePosition, WRITER_APPENDED, WRITER_FORGOTTEN, WRITER_OPENED, WriterBatch,
};
use crate::format::VERSION;
use crate::format::options::{LogOptions, Rates};
use crate::limits::WRITER_WINDOW;
use crate::position::{Dlsn, Epoch, LogId, ReaderId, SegmentId, Sequence, TxId};

/// Takes the first record off a section; `None` if it is not valid.
pub(super) fn take(section: &mut Bytes) -> Option<Control> {
    let kind = section.try_get_u16_le().ok()?;
    let flags = section.try_get_u16_le().ok()?;
    let len = usize::try_from(section.try_get_u32_le().ok()?).ok()?;
    if flags != 0 || section.len() < len {
        return None;
    }
    let mut body = section.split_to(len);
    let record = take_body(kind, &mut body)?;
    body.is_empty().then_some(record)
}

/// See [`Control::all_of_version`].
pub(super) fn all_of_version(mut section: &[u8], version: u32) -> bool {
    while let Ok(kind) = section.try_get_u16_le() {
        if !versions_of(kind).contains(&version) {
            return false;
        }
        let len = section.get(2..6).map_or(0, |mut len| len.get_u32_le() as usize);
        section = section.get(6 + len..).unwrap_or_default();
    }
    true
}

/// The format versions that have this kind (F-2).
fn versions_of(kind: u16) -> RangeInclusive<u32> {
    match kind {
        MANIFEST_HEAD_1 | MANIFEST_LOG_1 => 1..=1,
        SEGMENT_PUNCHED
        | WRITER_OPENED..=LOG_RENAMED
        | MANIFEST_HEAD
        | MANIFEST_LOG
        | MANIFEST_WRITER => 2..=VERSION,
        _ => 1..=VERSION,
    }
}

fn take_body(kind: u16, body: &mut Bytes) -> Option<Control> {
    Some(match kind {
        LOG_CREATED => {
            let (log, created_us) = (LogId(u64_of(body)?), u64_of(body)?);
            let len = body.try_get_u16_le().ok()?;
            Control::LogCreated { log, created_us, name: take_name(body, len)? }
        }
        LOG_DROPPED => Control::LogDropped { log: LogId(u64_of(body)?) },
        LOG_TRUNCATED => {
            Control::LogTruncated { log: LogId(u64_of(body)?), first: Sequence(u64_of(body)?) }
        }
        READER_OPENED => {
            let (reader, epoch) = (ReaderId(u64_of(body)?), Epoch(u64_of(body)?));
            let count = body.try_get_u16_le().ok()?;
            let len = body.try_get_u16_le().ok()?;
            let sources = take_positions(body, count)?;
            Control::ReaderOpened { reader, epoch, sources, name: take_name(body, len)? }
        }
        READER_DROPPED => Control::ReaderDropped { reader: ReaderId(u64_of(body)?) },
        CHECKPOINT => Control::Checkpoint(take_checkpoint(body)?),
        SNAPSHOT_PART => {
            let reader = ReaderId(u64_of(body)?);
            Control::SnapshotPart { reader, bytes: body.split_off(0) }
        }
        CHAIN_CARRIED => Control::ChainCarried {
            reader: ReaderId(u64_of(body)?),
            head: take_chain_link(body)??,
            oldest: SegmentId(u64_of(body)?),
        },
        SEGMENT_FREED => Control::SegmentFreed { segment: SegmentId(u64_of(body)?) },
        SEAL => Control::Seal { next: SegmentId(u64_of(body)?) },
        WRITER_OPENED..=LOG_RENAMED => return take_setting(kind, body),
        SEGMENT_PUNCHED => Control::SegmentPunched { segment: SegmentId(u64_of(body)?) },
        MANIFEST_HEAD_1 | MANIFEST_HEAD => {
            Control::ManifestHead(take_manifest_head(body, kind == MANIFEST_HEAD)?)
        }
        MANIFEST_LOG_1 | MANIFEST_LOG => {
            Control::ManifestLog(take_manifest_log(body, kind == MANIFEST_LOG)?)
        }
        MANIFEST_WRITER => Control::ManifestWriter(take_manifest_writer(body)?),
        MANIFEST_READER => Control::ManifestReader(take_manifest_reader(body)?),
        MANIFEST_SEGMENT => {
            let (segment, end) = (SegmentId(u64_of(body)?), u64_of(body)?);
            let (digest, entries) = (u64_of(body)?, u32_of(body)?);
            let flags = u32_of(body)?;
            if flags > 3 {
                return None;
            }
            let (shortened, freed) = (flags & 1 != 0, flags & 2 != 0);
            let row = ManifestSegment { segment, end, digest, entries, shortened, freed };
            Control::ManifestSegment(row)
        }
        _ => return None,
    })
}

/// Writers, owners and settings of logs (from format version 2 on).
fn take_setting(kind: u16, body: &mut Bytes) -> Option<Control> {
    Some(match kind {
        WRITER_OPENED => {
            let (log, epoch) = (LogId(u64_of(body)?), Epoch(u64_of(body)?));
            let increasing = match body.try_get_u16_le().ok()? {
                0 => false,
                1 => true,
                _ => return None,
            };
            let len = body.try_get_u16_le().ok()?;
            Control::WriterOpened { log, epoch, increasing, name: take_name(body, len)? }
        }
        WRITER_APPENDED => Control::WriterAppended {
            epoch: Epoch(u64_of(body)?),
            number: u64_of(body)?,
            first: Sequence(u64_of(body)?),
            count: u32_of(body)?,
            entry: u32_of(body)?,
            slot: u32_of(body)?,
        },
        WRITER_FORGOTTEN => Control::WriterForgotten { epoch: Epoch(u64_of(body)?) },
        LOG_OWNED => Control::LogOwned { log: LogId(u64_of(body)?), epoch: Epoch(u64_of(body)?) },
        LOG_SEALED => {
            Control::LogSealed { log: LogId(u64_of(body)?), next: Sequence(u64_of(body)?) }
        }
        LOG_OPTIONS_SET => {
            let log = LogId(u64_of(body)?);
            Control::LogOptionsSet { log, options: Arc::new(LogOptions::take(body)?) }
        }
        RATES_SET => Control::RatesSet { rates: Rates::take(body)? },
        LOG_RENAMED => {
            let log = LogId(u64_of(body)?);
            let len = body.try_get_u16_le().ok()?;
            Control::LogRenamed { log, name: take_name(body, len)? }
        }
        _ => return None,
    })
}

fn take_manifest_head(body: &mut Bytes, has_writers: bool) -> Option<ManifestHead> {
    let mut head = ManifestHead {
        next_log: LogId(u64_of(body)?),
        next_reader: ReaderId(u64_of(body)?),
        next_epoch: Epoch(u64_of(body)?),
        time_us: u64_of(body)?,
        logs: u32_of(body)?,
        readers: u32_of(body)?,
        segments: u32_of(body)?,
        writers: 0,
        rates: Rates::default(),
    };
    if has_writers {
        head.writers = u32_of(body)?;
        head.rates = Rates::take(body)?;
    }
    Some(head)
}

fn take_manifest_log(body: &mut Bytes, has_more: bool) -> Option<ManifestLog> {
    let (log, created_us) = (LogId(u64_of(body)?), u64_of(body)?);
    let (next, last_txid) = (Sequence(u64_of(body)?), TxId(u64_of(body)?));
    let first = Sequence(u64_of(body)?);
    let bytes = if has_more { u64_of(body)? } else { 0 };
    let len = body.try_get_u16_le().ok()?;
    let flags = if has_more { body.try_get_u16_le().ok()? } else { 0 };
    if flags & !(LOG_IS_SEALED | LOG_HAS_OWNER | LOG_HAS_OPTIONS) != 0 {
        return None;
    }
    let mut owner = Epoch(0);
    if flags & LOG_HAS_OWNER != 0 {
        owner = Epoch(u64_of(body)?);
        if owner == Epoch(0) {
            return None;
        }
    }
    let (mut options_version, mut options) = (0, None);
    if flags & LOG_HAS_OPTIONS != 0 {
        options_version = u32_of(body)?;
        options = Some(Arc::new(LogOptions::take(body)?));
    }
    let sealed = flags & LOG_IS_SEALED != 0;
    let name = take_name(body, len)?;
    Some(ManifestLog {
        log,
        created_us,
        next,
        last_txid,
        first,
        bytes,
        sealed,
        owner,
        options_version,
        options,
        name,
    })
}

fn take_manifest_writer(body: &mut Bytes) -> Option<ManifestWriter> {
    let (log, epoch, last) = (LogId(u64_of(body)?), Epoch(u64_of(body)?), u64_of(body)?);
    let increasing = match body.try_get_u8().ok()? {
        0 => false,
        1 => true,
        _ => return None,
    };
    let count = usize::from(body.try_get_u8().ok()?);
    let len = body.try_get_u16_le().ok()?;
    if count > WRITER_WINDOW {
        return None;
    }
    let mut window = VecDeque::with_capacity(count);
    for _ in 0..count {
        let (number, first) = (u64_of(body)?, Sequence(u64_of(body)?));
        let dlsn = Dlsn::new(SegmentId(u64_of(body)?), u32_of(body)?, u32_of(body)?);
        window.push_back(WriterBatch { number, first, count: u32_of(body)?, dlsn });
    }
    Some(ManifestWriter { log, epoch, increasing, last, window, name: take_name(body, len)? })
}

fn take_checkpoint(body: &mut Bytes) -> Option<Checkpoint> {
    let (reader, epoch) = (ReaderId(u64_of(body)?), Epoch(u64_of(body)?));
    let number = u64_of(body)?;
    let previous = take_chain_link(body)?;
    let count = body.try_get_u16_le().ok()?;
    let kind = body.try_get_u8().ok()?;
    let carried = match body.try_get_u8().ok()? {
        0 => false,
        1 => true,
        _ => return None,
    };
    let part_count = u32_of(body)?;
    if u32_of(body)? != 0 {
        return None;
    }
    let (mut from, mut to) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let log = LogId(u64_of(body)?);
        from.push(SourcePosition { log, next: Sequence(u64_of(body)?) });
        to.push(SourcePosition { log, next: Sequence(u64_of(body)?) });
    }
    let mut parts = Vec::new();
    for _ in 0..part_count {
        parts.push(take_link(body)?);
    }
    let bytes = body.split_off(0);
    let state = match kind {
        STATE_NONE if bytes.is_empty() && parts.is_empty() => CheckpointState::None,
        STATE_DELTA if parts.is_empty() => CheckpointState::Delta(bytes),
        STATE_SNAPSHOT => CheckpointState::Snapshot { parts, last: bytes },
        _ => return None,
    };
    Some(Checkpoint { reader, epoch, number, carried, previous, from, to, state })
}

fn take_manifest_reader(body: &mut Bytes) -> Option<ManifestReader> {
    let (reader, epoch) = (ReaderId(u64_of(body)?), Epoch(u64_of(body)?));
    let number = u64_of(body)?;
    let (head, carried) = (take_chain_link(body)?, take_chain_link(body)?);
    let oldest = SegmentId(u64_of(body)?);
    let (delta_bytes, snapshot_bytes) = (u64_of(body)?, u64_of(body)?);
    let deltas = u32_of(body)?;
    let count = body.try_get_u16_le().ok()?;
    let len = body.try_get_u16_le().ok()?;
    let sources = take_positions(body, count)?;
    let name = take_name(body, len)?;
    Some(ManifestReader {
        reader,
        epoch,
        number,
        head,
        carried,
        oldest,
        deltas,
        delta_bytes,
        snapshot_bytes,
        sources,
        name,
    })
}

fn u64_of(body: &mut Bytes) -> Option<u64> {
    body.try_get_u64_le().ok()
}

fn u32_of(body: &mut Bytes) -> Option<u32> {
    body.try_get_u32_le().ok()
}

fn take_positions(body: &mut Bytes, count: u16) -> Option<Vec<SourcePosition>> {
    let mut positions = Vec::new();
    for _ in 0..count {
        let log = LogId(u64_of(body)?);
        positions.push(SourcePosition { log, next: Sequence(u64_of(body)?) });
    }
    Some(positions)
}

fn take_name(body: &mut Bytes, len: u16) -> Option<String> {
    let len = usize::from(len);
    (body.len() >= len)
        .then(|| body.split_to(len))
        .and_then(|name| String::from_utf8(name.to_vec()).ok())
}

fn take_link(body: &mut Bytes) -> Option<Link> {
    let segment = SegmentId(u64_of(body)?);
    Some(Link { segment, offset: u32_of(body)?, index: u32_of(body)? })
}

fn take_chain_link(body: &mut Bytes) -> Option<Option<ChainLink>> {
    let number = u64_of(body)?;
    let link = take_link(body)?;
    let nowhere = Link { segment: SegmentId(0), offset: 0, index: 0 };
    match number {
        0 if link != nowhere => None,
        0 => Some(None),
        _ => Some(Some(ChainLink { number, link })),
    }
}
