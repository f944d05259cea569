//! Entries: the unit of writing. Built once, and seen only as a checked value when read back.
//!
//! ```text
//! 0        96                  96 + 64 n                        length
//! | header | section table (n) | section 0 | section 1 | .. | 0 |
//!   '-> checksum covers header and table; the table holds each section's checksum
//! ```
//!
//! Control records, if there are any, are section 0, with log 0. `previous digest` is the header
//! checksum of the entry before, so an entry proves the whole segment before it.
//!
//! Not here: which entries belong together (`commit`), and what a missing one means (`recover`).

use bytes::{BufMut, Bytes, BytesMut};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::codec::{Codec, Packer};
use super::record::{is_whole, put_record};
use super::{EngineId, Place, checksum, section_checksum};
use crate::limits::{BLOCK_SIZE, ENTRY_SIZE_MAX, SECTIONS_MAX};
use crate::position::{LogId, SegmentId, Sequence, ShardId, TxId};

const MAGIC: [u8; 4] = *b"ent1";

/// What an entry is for: one of these and nothing else (F-6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u32);

impl Flags {
    /// Records, control records, or both.
    pub const DATA: Self = Self(0);
    /// Part of the segment's manifest.
    pub const MANIFEST: Self = Self(1);
    /// The last part of the segment's manifest.
    pub const MANIFEST_END: Self = Self(1 | 2);
    /// The last entry of a segment: the journal goes on in the one that it names.
    pub const SEAL: Self = Self(4);
    /// The engine was closed here; the same segment may go on.
    pub const CLOSE: Self = Self(8);
    /// Empty: only its watermark counts.
    pub const WATERMARK: Self = Self(16);

    const ALL: [Self; 6] =
        [Self::DATA, Self::MANIFEST, Self::MANIFEST_END, Self::SEAL, Self::CLOSE, Self::WATERMARK];

    /// Whether all bits of `other` are set.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// Fixed part of an entry (F-6).
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHeader {
    checksum: U64,
    magic: [u8; 4],
    flags: U32,
    engine: EngineId,
    segment: U64,
    previous_digest: U64,
    time_us: U64,
    offset: U32,
    entry: U32,
    length: U32,
    durable: U32,
    shard: U16,
    section_count: U16,
    reserved: [u8; 20],
}

/// One row of the section table (F-8).
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawSection {
    log: U64,
    first_sequence: U64,
    first_txid: U64,
    last_txid: U64,
    checksum: U64,
    offset: U32,
    stored_len: U32,
    raw_len: U32,
    count: U32,
    kind: u8,
    codec: u8,
    flags: U16,
    reserved: U32,
}

/// Bytes before the section table.
pub const HEADER_SIZE: usize = 96;
/// Bytes of one row of the section table.
pub const SECTION_SIZE: usize = 64;

const KIND_RECORDS: u8 = 1;
const KIND_CONTROL: u8 = 2;

const _: () = {
    assert!(size_of::<RawHeader>() == HEADER_SIZE);
    assert!(std::mem::offset_of!(RawHeader, engine) == 16);
    assert!(std::mem::offset_of!(RawHeader, offset) == 56);
    assert!(std::mem::offset_of!(RawHeader, durable) == 68);
    assert!(size_of::<RawSection>() == SECTION_SIZE);
    assert!(std::mem::offset_of!(RawSection, checksum) == 32);
    assert!(std::mem::offset_of!(RawSection, kind) == 56);
    assert!(SECTIONS_MAX <= u16::MAX as u32);
    // The fixed part never crosses a sector, so it is never torn.
    assert!(HEADER_SIZE <= 512);
};

/// Everything of an entry's header that is not derived from its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryHead {
    /// Where it stands.
    pub place: Place,
    /// What it is for.
    pub flags: Flags,
    /// Digest of the entry before, or of the segment header.
    pub previous_digest: u64,
    /// Commit time, microseconds since 1970; never decreases.
    pub time_us: u64,
    /// How many entries of the segment were durable when this one was submitted (F-7).
    pub durable: u32,
}

/// The records of one log on their way into an entry.
pub struct RecordsIn<'a, R> {
    /// The log.
    pub log: LogId,
    /// How its section is to be stored, if that makes it smaller.
    pub codec: Codec,
    /// Sequence of the first record.
    pub first_sequence: Sequence,
    /// The records: transaction id and payload.
    pub records: &'a [R],
}

/// One record on its way into an entry.
pub trait RecordIn {
    /// Its transaction id.
    fn txid(&self) -> TxId;
    /// Its payload.
    fn payload(&self) -> &[u8];
}

/// A section of a valid entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SectionHead {
    /// The log, or 0 for control records.
    pub log: LogId,
    /// Sequence of the first record.
    pub first_sequence: Sequence,
    /// Transaction id of the first record.
    pub first_txid: TxId,
    /// Transaction id of the last record.
    pub last_txid: TxId,
    /// Checksum of its bytes, with its identity.
    pub checksum: u64,
    /// Where it begins, in bytes from the beginning of the entry.
    pub offset: u32,
    /// Its size in bytes, as it is stored.
    pub len: u32,
    /// The size of its records in bytes.
    pub raw_len: u32,
    /// How many records.
    pub count: u32,
    /// How it is stored.
    pub codec: Codec,
    kind: u8,
}

impl SectionHead {
    /// Whether it holds control records.
    #[must_use]
    pub fn is_control(&self) -> bool {
        self.kind == KIND_CONTROL
    }

    /// Whether `bytes` are the bytes that were written for this section.
    #[must_use]
    pub fn matches(&self, place: &Place, bytes: &[u8]) -> bool {
        self.sums_up(place, bytes) && (self.is_control() || self.holds_records(bytes))
    }

    /// Whether the checksum is that of `bytes`, whatever they hold.
    fn sums_up(&self, place: &Place, bytes: &[u8]) -> bool {
        let first = self.first_sequence;
        bytes.len() == self.len as usize
            && section_checksum(place, self.log, self.kind, self.codec, first, bytes)
                == self.checksum
    }

    /// Whether so many bytes hold the records that the row promises.
    fn holds_records(&self, bytes: &[u8]) -> bool {
        if self.codec == Codec::None {
            return is_whole(bytes, self.count);
        }
        let raw = self.codec.unpack(&Bytes::copy_from_slice(bytes), self.raw_len);
        raw.is_some_and(|raw| is_whole(&raw, self.count))
    }
}

/// Whether `bytes` are what was stored for so many records of a log. What is compressed is not
/// looked into: whoever uses it does that.
#[must_use]
pub fn records_match(
    place: &Place,
    log: LogId,
    (codec, first, count, sum): (Codec, Sequence, u32, u64),
    bytes: &[u8],
) -> bool {
    section_checksum(place, log, KIND_RECORDS, codec, first, bytes) == sum
        && (codec != Codec::None || is_whole(bytes, count))
}

/// Size in bytes of an entry with such content, padded to blocks.
#[must_use]
pub fn entry_size(sections: usize, section_bytes: u64) -> u64 {
    let used = (HEADER_SIZE + sections * SECTION_SIZE) as u64 + section_bytes;
    used.next_multiple_of(BLOCK_SIZE.into())
}

/// Writes one whole entry behind what is in `out`, and says what its sections and digest are.
///
/// `control` is the encoded control records and their count. One pass: each payload is copied once,
/// its section checksummed while it is warm.
pub fn put_entry<R: RecordIn>(
    out: &mut BytesMut,
    head: &EntryHead,
    control: (&[u8], u32),
    sections: &[RecordsIn<'_, R>],
    packer: &mut Packer,
) -> (Vec<SectionHead>, u64) {
    let start = out.len();
    let has_control = control.1 > 0;
    let section_count = sections.len() + usize::from(has_control);
    assert!(section_count <= SECTIONS_MAX as usize);
    out.put_bytes(0, HEADER_SIZE + section_count * SECTION_SIZE);

    let mut heads = Vec::with_capacity(section_count);
    if has_control {
        let begin = out.len();
        out.put_slice(control.0);
        let none = (TxId(0), TxId(0));
        let kind = (KIND_CONTROL, Codec::None, control.0.len());
        let head = section_head(out, start, begin, head, kind, LogId(0), Sequence(0), none);
        heads.push(SectionHead { count: control.1, ..head });
    }
    for section in sections {
        let begin = out.len();
        for record in section.records {
            put_record(out, record.txid(), record.payload());
        }
        let (Some(first), Some(last)) = (section.records.first(), section.records.last()) else {
            panic!("a section without records");
        };
        let txids = (first.txid(), last.txid());
        let raw_len = out.len() - begin;
        let mut codec = Codec::None;
        if let Some(packed) = packer.pack(section.codec, &out[begin..]) {
            codec = section.codec;
            out.truncate(begin);
            out.put_slice(packed);
        }
        let (kind, sequence) = ((KIND_RECORDS, codec, raw_len), section.first_sequence);
        let head = section_head(out, start, begin, head, kind, section.log, sequence, txids);
        let count = u32::try_from(section.records.len()).expect("an entry holds few records");
        heads.push(SectionHead { count, ..head });
    }
    let used = out.len() - start;
    let length = used.next_multiple_of(BLOCK_SIZE as usize);
    out.put_bytes(0, length - used);

    for (index, section) in heads.iter().enumerate() {
        let at = start + HEADER_SIZE + index * SECTION_SIZE;
        out[at..at + SECTION_SIZE].copy_from_slice(raw_section(section).as_bytes());
    }
    let length = u32::try_from(length).expect("an entry fits a segment");
    let raw = raw_header(head, length, section_count);
    out[start..start + HEADER_SIZE].copy_from_slice(raw.as_bytes());
    let covered = &out[start + 8..start + HEADER_SIZE + section_count * SECTION_SIZE];
    let digest = checksum(&[covered]);
    out[start..start + 8].copy_from_slice(U64::new(digest).as_bytes());
    (heads, digest)
}

#[expect(clippy::too_many_arguments, reason = "the identity of a section, spelled out once")]
fn section_head(
    out: &BytesMut,
    start: usize,
    begin: usize,
    head: &EntryHead,
    (kind, codec, raw_len): (u8, Codec, usize),
    log: LogId,
    first_sequence: Sequence,
    (first_txid, last_txid): (TxId, TxId),
) -> SectionHead {
    let bytes = &out[begin..];
    let size = |bytes: usize| u32::try_from(bytes).expect("an entry fits a segment");
    SectionHead {
        log,
        first_sequence,
        first_txid,
        last_txid,
        checksum: section_checksum(&head.place, log, kind, codec, first_sequence, bytes),
        offset: size(begin - start),
        len: size(bytes.len()),
        raw_len: size(raw_len),
        count: 0,
        codec,
        kind,
    }
}

fn raw_section(section: &SectionHead) -> RawSection {
    RawSection {
        log: U64::new(section.log.0),
        first_sequence: U64::new(section.first_sequence.0),
        first_txid: U64::new(section.first_txid.0),
        last_txid: U64::new(section.last_txid.0),
        checksum: U64::new(section.checksum),
        offset: U32::new(section.offset),
        stored_len: U32::new(section.len),
        raw_len: U32::new(section.raw_len),
        count: U32::new(section.count),
        kind: section.kind,
        codec: section.codec.number(),
        flags: U16::ZERO,
        reserved: U32::ZERO,
    }
}

fn raw_header(head: &EntryHead, length: u32, section_count: usize) -> RawHeader {
    RawHeader {
        checksum: U64::ZERO,
        magic: MAGIC,
        flags: U32::new(head.flags.0),
        engine: head.place.engine,
        segment: U64::new(head.place.segment.0),
        previous_digest: U64::new(head.previous_digest),
        time_us: U64::new(head.time_us),
        offset: U32::new(head.place.offset),
        entry: U32::new(head.place.entry),
        length: U32::new(length),
        durable: U32::new(head.durable),
        shard: U16::new(head.place.shard.0),
        section_count: U16::new(u16::try_from(section_count).expect("few sections")),
        reserved: [0; 20],
    }
}

/// The header and section table of an entry, their checksum and form proven.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The header.
    pub head: EntryHead,
    /// Size in bytes, padding included.
    pub length: u32,
    /// Checksum of header and table: what the next entry continues.
    pub digest: u64,
    /// The sections, control first, without gaps between them.
    pub sections: Vec<SectionHead>,
}

impl Entry {
    /// The entry whose header begins `bytes`, if header and table are valid (F-6, F-8).
    ///
    /// Says nothing about where it should stand and about the bytes of its sections: see
    /// [`stands_at`](Self::stands_at) and [`sections_match`](Self::sections_match).
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (raw, rest) = RawHeader::ref_from_prefix(bytes).ok()?;
        if raw.magic != MAGIC {
            return None;
        }
        let section_count = usize::from(raw.section_count.get());
        let table_size = section_count * SECTION_SIZE;
        let covered = bytes.get(8..HEADER_SIZE + table_size)?;
        if checksum(&[covered]) != raw.checksum.get() {
            return None;
        }
        let length = raw.length.get();
        let form = Flags::ALL.contains(&Flags(raw.flags.get()))
            && raw.reserved == [0; 20]
            && length >= BLOCK_SIZE
            && length.is_multiple_of(BLOCK_SIZE)
            && raw.offset.get().is_multiple_of(BLOCK_SIZE)
            && section_count <= SECTIONS_MAX as usize;
        if !form {
            return None;
        }
        let place = Place {
            engine: raw.engine,
            shard: ShardId(raw.shard.get()),
            segment: SegmentId(raw.segment.get()),
            entry: raw.entry.get(),
            offset: raw.offset.get(),
        };
        let head = EntryHead {
            place,
            flags: Flags(raw.flags.get()),
            previous_digest: raw.previous_digest.get(),
            time_us: raw.time_us.get(),
            durable: raw.durable.get(),
        };
        let sections = parse_sections(rest.get(..table_size)?, length)?;
        Some(Self { head, length, digest: raw.checksum.get(), sections })
    }

    /// Whether it was written for this file and this offset; its number is not looked at (F-5).
    #[must_use]
    pub fn stands_at(&self, place: &Place) -> bool {
        Place { entry: self.head.place.entry, ..*place } == self.head.place
    }

    /// Whether `bytes`, the whole entry, hold the sections that the table names (F-9).
    #[must_use]
    pub fn sections_match(&self, bytes: &[u8]) -> bool {
        self.all_sections(bytes, |section, part| section.matches(&self.head.place, part))
    }

    fn all_sections(&self, bytes: &[u8], is_so: impl Fn(&SectionHead, &[u8]) -> bool) -> bool {
        self.sections.iter().all(|section| {
            let begin = section.offset as usize;
            let Some(end) = begin.checked_add(section.len as usize) else { return false };
            bytes.get(begin..end).is_some_and(|part| is_so(section, part))
        })
    }

    /// Whether `bytes` begin with what was written as the entry at `place` behind `digest`, right
    /// by its checksums, but of no form that is known here: no crash leaves that (F-2).
    #[must_use]
    pub fn is_of_unknown_form(bytes: &[u8], place: &Place, digest: u64) -> bool {
        let Ok((raw, _)) = RawHeader::ref_from_prefix(bytes) else { return false };
        let table_end = HEADER_SIZE + usize::from(raw.section_count.get()) * SECTION_SIZE;
        let (number, offset) = (raw.entry.get(), raw.offset.get());
        let its_own = raw.magic == MAGIC
            && raw.engine == place.engine
            && raw.shard.get() == place.shard.0
            && raw.segment.get() == place.segment.0
            && (number, offset) == (place.entry, place.offset)
            && raw.previous_digest.get() == digest
            && bytes.get(8..table_end).is_some_and(|it| checksum(&[it]) == raw.checksum.get());
        its_own
            && Self::parse(bytes).is_none_or(|entry| {
                entry.all_sections(bytes, |section, part| section.sums_up(place, part))
                    && !entry.sections_match(bytes)
            })
    }

    /// The control records' section.
    #[must_use]
    pub fn control(&self) -> Option<&SectionHead> {
        self.sections.first().filter(|section| section.is_control())
    }

    /// The sections with records.
    pub fn records(&self) -> impl Iterator<Item = &SectionHead> {
        self.sections.iter().filter(|section| !section.is_control())
    }
}

fn parse_sections(table: &[u8], length: u32) -> Option<Vec<SectionHead>> {
    let mut sections = Vec::with_capacity(table.len() / SECTION_SIZE);
    let mut at = u32::try_from(HEADER_SIZE + table.len()).ok()?;
    for row in table.chunks_exact(SECTION_SIZE) {
        let raw = RawSection::ref_from_bytes(row).ok()?;
        let control = raw.kind == KIND_CONTROL && sections.is_empty() && raw.log.get() == 0;
        let records = raw.kind == KIND_RECORDS && raw.log.get() != 0;
        let codec = Codec::from_number(raw.codec)?;
        let (stored, raw_len) = (raw.stored_len.get(), raw.raw_len.get());
        let lengths = match codec {
            Codec::None => stored == raw_len,
            Codec::Lz4 | Codec::Zstd => records && stored < raw_len && raw_len <= ENTRY_SIZE_MAX,
        };
        let form = (control || records)
            && lengths
            && raw.flags.get() == 0
            && raw.reserved.get() == 0
            && raw.count.get() > 0
            && raw.offset.get() == at
            && raw.first_txid.get() <= raw.last_txid.get();
        if !form {
            return None;
        }
        at = at.checked_add(stored)?;
        sections.push(SectionHead {
            log: LogId(raw.log.get()),
            first_sequence: Sequence(raw.first_sequence.get()),
            first_txid: TxId(raw.first_txid.get()),
            last_txid: TxId(raw.last_txid.get()),
            checksum: raw.checksum.get(),
            offset: raw.offset.get(),
            len: stored,
            raw_len,
            count: raw.count.get(),
            codec,
            kind: raw.kind,
        });
    }
    (at <= length).then_some(sections)
}
