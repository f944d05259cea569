//! Where each log's sections stand in one segment.
//!
//! ```text
//! segment -> log -> start sequence, [section, section, ..]    in the order of the sequences
//! ```
//!
//! The active segment's index is in memory; a sealed one has a side file, read when first needed. A
//! side file is never evidence about the log: it is checked as a whole when read, each section is
//! checked against its checksum when used, and reading the segment makes a new one (F-15).
//!
//! Not here: reading sections (`read`), and which segments exist (`catalog`).

use bytes::{Buf, BufMut, Bytes, BytesMut};
use rustc_hash::FxHashMap;

use crate::format::codec::Codec;
use crate::format::entry::{Entry, SectionHead};
use crate::format::{Place, checksum};
use crate::limits::{ENTRY_SIZE_MAX, SEGMENT_SIZE_MAX};
use crate::position::{LogId, SegmentId, Sequence, TxId};

const MAGIC: &[u8; 8] = b"oncelogJ";
const SECTION_REF_SIZE: usize = 60;

/// One section of a log, enough to read it and to check what was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SectionRef {
    /// Sequence of its first record.
    pub first: Sequence,
    /// Transaction id of its first record.
    pub first_txid: TxId,
    /// Commit time of its entry, microseconds since 1970.
    pub time_us: u64,
    /// Checksum of its bytes with its identity.
    pub checksum: u64,
    /// How many records.
    pub count: u32,
    /// Number of its entry.
    pub entry: u32,
    /// Offset of its entry in the file, in bytes.
    pub entry_offset: u32,
    /// Where it begins in its entry, in bytes.
    pub offset: u32,
    /// Its size in bytes, as it is stored.
    pub len: u32,
    /// The size of its records in bytes.
    pub raw_len: u32,
    /// How it is stored.
    pub codec: Codec,
}

impl SectionRef {
    /// A section of the entry with this number, at this offset, of this commit time.
    #[must_use]
    pub fn new(head: &SectionHead, (entry, entry_offset): (u32, u32), time_us: u64) -> Self {
        Self {
            first: head.first_sequence,
            first_txid: head.first_txid,
            time_us,
            checksum: head.checksum,
            count: head.count,
            entry,
            entry_offset,
            offset: head.offset,
            len: head.len,
            raw_len: head.raw_len,
            codec: head.codec,
        }
    }

    /// The sequence behind its last record.
    #[must_use]
    pub fn end(&self) -> Sequence {
        self.first.after(self.count.into())
    }

    /// Where its bytes stand in the file.
    #[must_use]
    pub fn range(&self) -> std::ops::Range<u64> {
        let begin = u64::from(self.entry_offset) + u64::from(self.offset);
        begin..begin + u64::from(self.len)
    }
}

/// One log in one segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogSpan {
    /// The log's next sequence when the segment began.
    pub start: Sequence,
    /// Bytes of all records that it ever had when the segment began.
    pub bytes: u64,
    /// Its sections in the segment.
    pub sections: Vec<SectionRef>,
}

impl LogSpan {
    /// The log's next sequence when the segment ended (or now).
    #[must_use]
    pub fn end(&self) -> Sequence {
        self.sections.last().map_or(self.start, SectionRef::end)
    }

    /// Bytes that its sections take in the segment.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        self.sections.iter().map(|section| u64::from(section.len)).sum()
    }

    /// The sections from the one that holds `sequence` on.
    ///
    /// `None` if it should be here but is not: a gap.
    #[must_use]
    pub fn from(&self, sequence: Sequence) -> Option<&[SectionRef]> {
        let index = self.sections.partition_point(|section| section.end() <= sequence);
        let sections = &self.sections[index..];
        sections.first().is_some_and(|section| section.first <= sequence).then_some(sections)
    }
}

/// The index of one segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SegmentIndex {
    logs: FxHashMap<LogId, LogSpan>,
    sections: usize,
    /// Parts of the segment were damaged when it was read: what stood there is missing here.
    holes: bool,
}

impl SegmentIndex {
    /// An index that knows where each log stood when the segment began.
    pub fn begin(starts: impl IntoIterator<Item = (LogId, Sequence, u64)>) -> Self {
        let span = |(log, start, bytes)| (log, LogSpan { start, bytes, sections: Vec::new() });
        Self { logs: starts.into_iter().map(span).collect(), sections: 0, holes: false }
    }

    /// Parts of the segment are damaged. Such an index gets no side file.
    pub fn set_holes(&mut self) {
        self.holes = true;
    }

    /// Whether parts of the segment are damaged, so that records may be missing here.
    #[must_use]
    pub fn has_holes(&self) -> bool {
        self.holes
    }

    /// Adds a section of an entry, the next of its log.
    pub fn add(&mut self, log: LogId, section: SectionRef) {
        // A log that is not known was created in this segment, unless its manifest row is damaged.
        let start = if self.holes { section.first } else { Sequence::FIRST };
        let span = || LogSpan { start, bytes: 0, sections: Vec::new() };
        self.logs.entry(log).or_insert_with(span).sections.push(section);
        self.sections += 1;
    }

    /// Adds all sections of an entry.
    pub fn add_entry(&mut self, entry: &Entry) {
        let Place { entry: number, offset, .. } = entry.head.place;
        for head in entry.records() {
            let section = SectionRef::new(head, (number, offset), entry.head.time_us);
            self.add(head.log, section);
        }
    }

    /// What it knows of a log. A log that did not exist when the segment ended is not known.
    #[must_use]
    pub fn log(&self, log: LogId) -> Option<&LogSpan> {
        self.logs.get(&log)
    }

    /// When the first section here was committed.
    #[must_use]
    pub fn first_time_us(&self) -> Option<u64> {
        let first = self.logs.values().filter_map(|span| span.sections.first());
        first.map(|section| section.time_us).min()
    }

    /// The next sequence of each log when the segment began.
    pub fn starts(&self) -> impl Iterator<Item = (LogId, Sequence)> {
        self.logs.iter().map(|(log, span)| (*log, span.start))
    }

    /// Logs that have records in the segment.
    pub fn spans(&self) -> impl Iterator<Item = (LogId, &LogSpan)> {
        let used = self.logs.iter().filter(|(_, span)| !span.sections.is_empty());
        used.map(|(log, span)| (*log, span))
    }

    /// Bytes of memory it takes, nearly.
    #[must_use]
    pub fn size(&self) -> usize {
        self.logs.len() * 64 + self.sections * size_of::<SectionRef>()
    }

    /// The side file of a segment. `place` says whose it is.
    #[must_use]
    pub fn encode(&self, place: &Place) -> Bytes {
        let mut out = BytesMut::new();
        out.put_slice(MAGIC);
        put_identity(&mut out, place);
        out.put_u64_le(self.logs.len() as u64);
        let mut logs: Vec<_> = self.logs.iter().collect();
        logs.sort_unstable_by_key(|(log, _)| **log);
        for (log, span) in logs {
            out.put_u64_le(log.0);
            out.put_u64_le(span.start.0);
            out.put_u64_le(span.bytes);
            out.put_u64_le(span.sections.len() as u64);
            for section in &span.sections {
                put_section(&mut out, section);
            }
        }
        let sum = checksum(&[&out]);
        out.put_u64_le(sum);
        out.freeze()
    }

    /// Whether a side file is one that version 1 wrote: it is made anew when it is wanted.
    #[must_use]
    pub fn is_of_version_1(bytes: &[u8]) -> bool {
        bytes.starts_with(b"oncelogI")
    }

    /// The index in a side file; `None` if it is not whole, or another segment's.
    #[must_use]
    pub fn decode(mut bytes: Bytes, place: &Place) -> Option<Self> {
        let body = bytes.len().checked_sub(8)?;
        let sum = bytes.split_off(body).get_u64_le();
        if checksum(&[&bytes]) != sum {
            return None;
        }
        let mut expected = BytesMut::new();
        expected.put_slice(MAGIC);
        put_identity(&mut expected, place);
        if bytes.len() < expected.len() || bytes.split_to(expected.len()) != expected {
            return None;
        }
        let mut index = Self::default();
        let mut before = LogId(0);
        for _ in 0..bytes.try_get_u64_le().ok()? {
            let log = LogId(bytes.try_get_u64_le().ok()?);
            let start = Sequence(bytes.try_get_u64_le().ok()?);
            let bytes_before = bytes.try_get_u64_le().ok()?;
            let mut span = LogSpan { start, bytes: bytes_before, sections: Vec::new() };
            for _ in 0..bytes.try_get_u64_le().ok()? {
                let section = take_section(&mut bytes)?;
                // In order; behind a hole the first one may come long after the start.
                section.first.0.checked_add(section.count.into())?;
                if section.count == 0 || section.first < span.end() {
                    return None;
                }
                span.sections.push(section);
            }
            if log <= before {
                return None;
            }
            before = log;
            index.sections += span.sections.len();
            index.logs.insert(log, span);
        }
        bytes.is_empty().then_some(index)
    }
}

fn put_identity(out: &mut BytesMut, place: &Place) {
    out.put_slice(&place.engine);
    out.put_u64_le(place.segment.0);
    out.put_u64_le(place.shard.0.into());
}

fn put_section(out: &mut BytesMut, section: &SectionRef) {
    let before = out.len();
    out.put_u64_le(section.first.0);
    out.put_u64_le(section.first_txid.0);
    out.put_u64_le(section.time_us);
    out.put_u64_le(section.checksum);
    out.put_u32_le(section.count);
    out.put_u32_le(section.entry);
    out.put_u32_le(section.entry_offset);
    out.put_u32_le(section.offset);
    out.put_u32_le(section.len);
    out.put_u32_le(section.raw_len);
    out.put_u32_le(section.codec.number().into());
    assert_eq!(out.len() - before, SECTION_REF_SIZE);
}

fn take_section(bytes: &mut Bytes) -> Option<SectionRef> {
    if bytes.len() < SECTION_REF_SIZE {
        return None;
    }
    let mut section = SectionRef {
        first: Sequence(bytes.get_u64_le()),
        first_txid: TxId(bytes.get_u64_le()),
        time_us: bytes.get_u64_le(),
        checksum: bytes.get_u64_le(),
        count: bytes.get_u32_le(),
        entry: bytes.get_u32_le(),
        entry_offset: bytes.get_u32_le(),
        offset: bytes.get_u32_le(),
        len: bytes.get_u32_le(),
        raw_len: bytes.get_u32_le(),
        codec: Codec::None,
    };
    section.codec = Codec::from_number(u8::try_from(bytes.get_u32_le()).ok()?)?;
    let lengths = section.raw_len >= section.len && section.raw_len <= ENTRY_SIZE_MAX;
    (lengths && section.range().end <= SEGMENT_SIZE_MAX).then_some(section)
}

/// Indexes of sealed segments, the least recently used forgotten first.
pub struct IndexCache {
    indexes: FxHashMap<SegmentId, (SegmentIndex, u64)>,
    uses: u64,
    size: usize,
    size_max: usize,
}

impl IndexCache {
    /// A cache of about `size_max` bytes; the newest index is kept whatever its size.
    #[must_use]
    pub fn new(size_max: usize) -> Self {
        Self { indexes: FxHashMap::default(), uses: 0, size: 0, size_max }
    }

    /// The index of a segment, if it is here.
    pub fn get(&mut self, segment: SegmentId) -> Option<&SegmentIndex> {
        self.uses += 1;
        let (index, used) = self.indexes.get_mut(&segment)?;
        *used = self.uses;
        Some(index)
    }

    /// Whether the index of a segment is here.
    #[must_use]
    pub fn has(&self, segment: SegmentId) -> bool {
        self.indexes.contains_key(&segment)
    }

    /// Keeps an index.
    pub fn insert(&mut self, segment: SegmentId, index: SegmentIndex) {
        self.remove(segment);
        self.size += index.size();
        self.uses += 1;
        self.indexes.insert(segment, (index, self.uses));
        while self.size > self.size_max && self.indexes.len() > 1 {
            let oldest = self.indexes.iter().min_by_key(|(_, (_, used))| *used);
            let segment = *oldest.expect("there are at least two").0;
            self.remove(segment);
        }
    }

    /// Forgets an index.
    pub fn remove(&mut self, segment: SegmentId) {
        drop(self.take(segment));
    }

    /// Takes an index out.
    pub fn take(&mut self, segment: SegmentId) -> Option<SegmentIndex> {
        let (index, _) = self.indexes.remove(&segment)?;
        self.size -= index.size();
        Some(index)
    }
}
