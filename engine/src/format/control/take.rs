//! Reading control records: every byte of a record has a meaning, or the record is not valid
//! (F-11).
//!
//! Not here: whether a record follows what was before it (`catalog`).

use bytes::{Buf, Bytes};

use super::{
    CHAIN_CARRIED, CHECKPOINT, ChainLink, Checkpoint, CheckpointState, Control, LOG_CREATED,
    LOG_DROPPED, LOG_TRUNCATED, Link, MANIFEST_HEAD, MANIFEST_LOG, MANIFEST_READER,
    MANIFEST_SEGMENT, ManifestHead, ManifestLog, ManifestReader, ManifestSegment, READER_DROPPED,
    READER_OPENED, SEAL, SEGMENT_FREED, SNAPSHOT_PART, STATE_DELTA, STATE_NONE, STATE_SNAPSHOT,
    SourcePosition,
};
use crate::position::{Epoch, LogId, ReaderId, SegmentId, Sequence, TxId};

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
        MANIFEST_HEAD => Control::ManifestHead(ManifestHead {
            next_log: LogId(u64_of(body)?),
            next_reader: ReaderId(u64_of(body)?),
            next_epoch: Epoch(u64_of(body)?),
            time_us: u64_of(body)?,
            logs: u32_of(body)?,
            readers: u32_of(body)?,
            segments: u32_of(body)?,
        }),
        MANIFEST_LOG => {
            let (log, created_us) = (LogId(u64_of(body)?), u64_of(body)?);
            let (next, last_txid) = (Sequence(u64_of(body)?), TxId(u64_of(body)?));
            let first = Sequence(u64_of(body)?);
            let len = body.try_get_u16_le().ok()?;
            let name = take_name(body, len)?;
            Control::ManifestLog(ManifestLog { log, created_us, next, last_txid, first, name })
        }
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
