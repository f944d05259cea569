//! Every parser of bytes from the disk, and of text that clients type, fed with any bytes at all.
//!
//! ```text
//! corpus, mutations, libFuzzer -> target(bytes) -> panics only if a rule is broken
//! ```
//!
//! Each target checks what must hold for what its parser accepts: it says the same when written
//! again, and it keeps the rules of docs/format.md. `fuzz/` and `tests/parsers.rs` call the same
//! functions. Nothing that is kept may be larger than what was parsed.
//!
//! Not here: how the bytes are made (`mangle`).

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use oncelog::catalog::Catalog;
use oncelog::format::Place;
use oncelog::format::VERSION;
use oncelog::format::codec::{Codec, Packer};
use oncelog::format::control::{Control, Link};
use oncelog::format::entry::{
    Entry, EntryHead, Flags, HEADER_SIZE, RecordIn, RecordsIn, SECTION_SIZE, SectionHead, put_entry,
};
use oncelog::format::header::{HeaderError, SegmentHeader, Superblock};
use oncelog::format::record::{is_whole, put_record, take_record};
use oncelog::index::SegmentIndex;
use oncelog::name::{check_name, group_of, shard_of};
use oncelog::scan::{Scan, Step, entries_behind};
use oncelog::{Dlsn, LogId, SegmentId, Sequence, ShardId, TxId};

use crate::parse::doctored::Doctored;
use crate::parse::mangle::{self, ENGINE, SHARD, fix_entry, fix_header, fix_index, fix_segment};

/// A target: panics if a rule is broken.
pub type Target = fn(&[u8]);

/// The targets by their names: those of `fuzz/fuzz_targets` and of the directories of the corpus.
pub const TARGETS: [(&str, Target); 9] = [
    ("headers", headers),
    ("entry", entry),
    ("control", control),
    ("records", records),
    ("index", index),
    ("catalog", catalog),
    ("journal", journal),
    ("segment", segment),
    ("text", text),
];

const BLOCK: usize = 4096;

fn place(segment: u64, offset: u32) -> Place {
    let (shard, segment) = (ShardId::new(SHARD), SegmentId::new(segment));
    Place { engine: ENGINE, shard, segment, entry: 0, offset }
}

/// A superblock and a segment header, as they are and with the right checksum (F-2 to F-4).
pub fn headers(data: &[u8]) {
    let mut fixed = data.to_vec();
    fix_header(&mut fixed);
    for block in [data, &fixed] {
        match Superblock::decode(block) {
            Ok(superblock) => {
                assert_eq!(superblock.encode()[..128], block[..128]);
                assert!((1..=256).contains(&superblock.shard_count));
            }
            Err(HeaderError::Newer(version)) => assert!(version > VERSION),
            Err(HeaderError::Invalid) => {}
        }
        match SegmentHeader::decode(block) {
            Ok((header, digest)) => {
                let (encoded, again) = header.encode();
                assert_eq!((&encoded[..128], again), (&block[..128], digest));
                assert!(u64::from(header.entry_size_max) <= header.segment_size);
            }
            Err(HeaderError::Newer(version)) => assert!(version > VERSION),
            Err(HeaderError::Invalid) => {}
        }
    }
}

struct Record(TxId, Bytes);

impl RecordIn for Record {
    fn txid(&self) -> TxId {
        self.0
    }

    fn payload(&self) -> &[u8] {
        &self.1
    }
}

/// An entry, as it is and with the right checksums (F-6 to F-9).
pub fn entry(data: &[u8]) {
    check_entry(data);
    let mut fixed = data.to_vec();
    fix_entry(&mut fixed, mangle::At { segment: 7, offset: 4096, entry: 2, digest: 9 });
    if let Some(entry) = check_entry(&fixed) {
        assert!(entry.stands_at(&place(7, 4096)) && !entry.stands_at(&place(7, 8192)));
    }
}

fn check_entry(bytes: &[u8]) -> Option<Entry> {
    let entry = Entry::parse(bytes)?;
    let table_end = HEADER_SIZE + entry.sections.len() * SECTION_SIZE;
    assert!(entry.length as usize >= BLOCK && (entry.length as usize).is_multiple_of(BLOCK));
    let mut end = table_end;
    for (index, section) in entry.sections.iter().enumerate() {
        assert_eq!(section.offset as usize, end);
        assert!(section.count > 0 && section.first_txid <= section.last_txid);
        assert_eq!(section.is_control(), section.log.get() == 0);
        assert!(!section.is_control() || index == 0);
        end += section.len as usize;
    }
    assert!(end <= entry.length as usize);
    // The bytes of the sections may be missing; the table is not.
    if entry.sections_match(bytes) {
        check_sections(&entry, bytes, end);
    }
    Some(entry)
}

fn check_sections(entry: &Entry, bytes: &[u8], end: usize) {
    let bytes_of = |head: &SectionHead| {
        Bytes::copy_from_slice(&bytes[head.offset as usize..][..head.len as usize])
    };
    let records_in = |head: &SectionHead| {
        let raw = head.codec.unpack(&bytes_of(head), head.raw_len).expect("it is whole");
        assert_eq!(raw.len(), head.raw_len as usize);
        records_of(raw, head.count).expect("it is whole")
    };
    let taken: Vec<_> = entry.records().map(|head| (head, records_in(head))).collect();
    // The writer takes the row's transaction ids from the records.
    let agrees = |(head, records): &(&SectionHead, Vec<Record>)| {
        records.first().map(|record| record.0) == Some(head.first_txid)
            && records.last().map(|record| record.0) == Some(head.last_txid)
    };
    let plain = entry.control().is_none_or(|head| {
        let none = (Sequence::new(0), TxId::new(0), TxId::new(0));
        (head.first_sequence, head.first_txid, head.last_txid) == none
    });
    // Another compressor makes other bytes of the same records.
    let as_it_is = taken.iter().all(|(head, _)| head.codec == Codec::None);
    if !plain || !as_it_is || !taken.iter().all(agrees) {
        return;
    }
    let sections: Vec<_> = taken
        .iter()
        .map(|(head, records)| RecordsIn {
            codec: head.codec,
            log: head.log,
            first_sequence: head.first_sequence,
            records,
        })
        .collect();
    let controls = entry.control().map(|head| (bytes_of(head), head.count)).unwrap_or_default();
    let mut again = BytesMut::new();
    let (heads, digest) = put_entry(
        &mut again,
        &entry.head,
        (&controls.0, controls.1),
        &sections,
        &mut Packer::default(),
    );
    assert_eq!(heads, entry.sections);
    if again.len() == entry.length as usize {
        assert_eq!(digest, entry.digest);
        assert_eq!(again[..end], bytes[..end]);
    }
}

fn records_of(mut section: Bytes, count: u32) -> Option<Vec<Record>> {
    let mut records = Vec::new();
    for _ in 0..count {
        let (txid, payload) = take_record(&mut section)?;
        records.push(Record(txid, payload));
    }
    section.is_empty().then_some(records)
}

/// The records of a section, whose number stands in the first two bytes (F-10).
pub fn records(data: &[u8]) {
    let Some((count, section)) = data.split_first_chunk::<2>() else { return };
    let count = u16::from_le_bytes(*count).into();
    let taken = records_of(Bytes::copy_from_slice(section), count);
    assert_eq!(is_whole(section, count), taken.is_some());
    if let Some(records) = taken {
        let mut again = BytesMut::new();
        records.iter().for_each(|record| put_record(&mut again, record.0, &record.1));
        assert_eq!(again, section);
    }
}

fn controls_of(data: &[u8]) -> Option<Vec<Control>> {
    let (count, section) = data.split_first_chunk::<2>()?;
    let count = u16::from_le_bytes(*count).into();
    Control::take_all(Bytes::copy_from_slice(section), count)
}

/// Control records, whose number stands in the first two bytes (F-11, F-17).
pub fn control(data: &[u8]) {
    let Some(records) = controls_of(data) else { return };
    let mut again = BytesMut::new();
    records.iter().for_each(|record| record.put(&mut again));
    assert_eq!(records.iter().map(Control::size).sum::<u64>(), again.len() as u64);
    let in_version = |version| Control::all_of_version(&data[2..], version);
    if in_version(VERSION) {
        assert_eq!(again, data[2..], "{records:?}");
    } else {
        // Rows of version 1 are written as those of the newest.
        let count = u32::try_from(records.len()).expect("few");
        assert_eq!(Control::take_all(again.freeze(), count), Some(records));
    }
}

/// An index, as it is and with the right checksum (F-15).
pub fn index(data: &[u8]) {
    let mut fixed = data.to_vec();
    fix_index(&mut fixed, 7);
    for bytes in [data, &fixed] {
        let place = place(7, 0);
        let Some(index) = SegmentIndex::decode(Bytes::copy_from_slice(bytes), &place) else {
            continue;
        };
        assert_eq!(index.encode(&place), bytes);
        assert!(index.size() <= 3 * bytes.len());
        for (log, span) in index.spans() {
            assert_eq!(index.log(log), Some(span));
            for section in &span.sections {
                let found = span.from(section.first).expect("it is there");
                assert_eq!(found.first(), Some(section));
                assert!(section.range().end <= u64::from(u32::MAX));
            }
        }
    }
}

fn is_row(record: &Control) -> bool {
    matches!(
        record,
        Control::ManifestHead(_)
            | Control::ManifestLog(_)
            | Control::ManifestReader(_)
            | Control::ManifestWriter(_)
            | Control::ManifestSegment(_)
    )
}

/// A manifest and the control records behind it; see [`control`] for the form (F-12, F-13).
pub fn catalog(data: &[u8]) {
    let Some(records) = controls_of(data) else { return };
    let rows = records.iter().take_while(|record| is_row(record)).cloned().collect();
    let Ok((mut catalog, time_us)) = Catalog::from_manifest(rows) else { return };
    check_catalog(&catalog, time_us);
    let link = |index| Link { segment: SegmentId::new(u64::MAX), offset: 4096, index };
    for (index, record) in (0..).zip(records.iter().skip_while(|record| is_row(record))) {
        let before = manifest_of(&catalog, time_us);
        if catalog.apply(record, link(index)).is_err() {
            assert_eq!(manifest_of(&catalog, time_us), before, "{record:?} changed something");
        }
    }
    let logs: Vec<LogId> = catalog.log_names().map(|(_, log)| log).collect();
    for log in logs.into_iter().chain([LogId::new(1)]) {
        let next = catalog.log(log).map_or(Sequence::FIRST, |state| state.next);
        let last = catalog.log(log).map_or(TxId::new(0), |state| state.last_txid);
        let _ = catalog.append(log, (next, u64::from(u32::MAX)), (last, last), 0);
    }
    catalog.set_all_durable();
    check_catalog(&catalog, time_us);
}

fn manifest_of(catalog: &Catalog, time_us: u64) -> Vec<(BytesMut, u32)> {
    catalog.manifest(time_us, u64::MAX)
}

/// What a catalog writes, it reads again.
fn check_catalog(catalog: &Catalog, time_us: u64) {
    let manifest = manifest_of(catalog, time_us);
    let (bytes, count) = manifest.into_iter().next().expect("one group has room for all");
    let rows = Control::take_all(bytes.clone().freeze(), count).expect("it was just written");
    let (again, time) = Catalog::from_manifest(rows).expect("it was just written");
    assert_eq!(time, time_us);
    assert_eq!(manifest_of(&again, time_us), [(bytes, count)]);
    for (name, log) in catalog.log_names() {
        assert_eq!(catalog.log(log).map(|state| state.name.as_str()), Some(name));
    }
    assert_eq!(catalog.log_names().len(), again.log_names().len());
}

/// A journal whose newest segment holds these control records, its manifest first, the counts in
/// its head made right; the segment before it is empty. Opened and served (F-12, F-13, F-16).
pub fn journal(data: &[u8]) {
    let Some(mut records) = controls_of(data) else { return };
    let split = records.iter().take_while(|record| is_row(record)).count();
    let rest = records.split_off(split);
    let count = |kind: fn(&Control) -> bool| {
        u32::try_from(records.iter().filter(|row| kind(row)).count()).expect("few")
    };
    let logs = count(|row| matches!(row, Control::ManifestLog(_)));
    let readers = count(|row| matches!(row, Control::ManifestReader(_)));
    let segments = count(|row| matches!(row, Control::ManifestSegment(_)));
    let writers = count(|row| matches!(row, Control::ManifestWriter(_)));
    if let Some(Control::ManifestHead(head)) = records.first_mut() {
        (head.logs, head.readers, head.segments) = (logs, readers, segments);
        head.writers = writers;
    }
    let header = SegmentHeader {
        version: VERSION,
        engine: ENGINE,
        shard: ShardId::new(SHARD),
        segment: SegmentId::new(4),
        segment_size: mangle::SEGMENT_SIZE,
        entry_size_max: 1 << 17,
        entries_in_flight_max: 8,
        previous: SegmentId::new(2),
        previous_end: 4096,
        previous_digest: 0,
        created_us: 0,
    };
    let (block, mut digest) = header.encode();
    let mut file = BytesMut::from(&block[..]);
    let mut put = |flags, entry, records: &[Control]| {
        let mut section = BytesMut::new();
        records.iter().for_each(|record| record.put(&mut section));
        let offset = u32::try_from(file.len()).expect("small");
        let place = Place { entry, ..place(4, offset) };
        let (previous_digest, time_us, durable) = (digest, u64::MAX / 2, 0);
        let head = EntryHead { place, flags, previous_digest, time_us, durable };
        let count = u32::try_from(records.len()).expect("few");
        (_, digest) =
            put_entry::<Record>(&mut file, &head, (&section, count), &[], &mut Packer::default());
    };
    put(Flags::MANIFEST_END, 0, &records);
    for (entry, part) in (1..).zip(rest.chunks(3)) {
        put(Flags::DATA, entry, part);
    }
    if rest.len() % 2 == 1 {
        let entry = u32::try_from(rest.chunks(3).len() + 1).expect("few");
        put(Flags::CLOSE, entry, &[]);
    }
    let size = usize::try_from(mangle::SEGMENT_SIZE).expect("small");
    file.resize(file.len().max(size), 0);
    let files = [(SegmentId::new(2), vec![0; size]), (SegmentId::new(4), file.to_vec())];
    Doctored::live(files.into());
}

/// A journal of one or two segments, chains and checksums made right: the number of blocks of the
/// first, a byte, then both segments (F-16). Scanned, recovered, opened, served.
pub fn segment(data: &[u8]) {
    let Some((&split, data)) = data.split_first() else { return };
    let (first, second) = data.split_at((usize::from(split) * BLOCK).min(data.len()));
    let _ = opens(first, second);
}

/// As [`segment`]; whether the shard could be opened.
#[must_use]
pub fn opens(first: &[u8], second: &[u8]) -> bool {
    let mut segments = BTreeMap::new();
    for (number, bytes) in [(2, first), (4, second)] {
        let mut bytes = bytes.to_vec();
        fix_segment(&mut bytes, number);
        scan(&bytes, number);
        if bytes.len().is_multiple_of(2) && !bytes.is_empty() {
            // The file has its full size.
            bytes.resize(usize::try_from(mangle::SEGMENT_SIZE).expect("small"), 0);
        }
        if !bytes.is_empty() {
            segments.insert(SegmentId::new(number), bytes);
        }
    }
    Doctored::live(segments)
}

/// Every entry that a scanner gives lies where it says, with and without its sections checked.
fn scan(bytes: &[u8], segment: u64) {
    let place = place(segment, 4096);
    let digest = SegmentHeader::decode(bytes).map_or(0, |(_, digest)| digest);
    let rest = bytes.get(BLOCK..).unwrap_or_default();
    for of_tables in [false, true] {
        let scan = Scan::new(place, digest);
        let mut scan = if of_tables { scan.of_tables() } else { scan };
        scan.feed(rest);
        let mut offset = place.offset;
        loop {
            match scan.next(true) {
                Step::Entry(entry, bytes) => {
                    assert!(entry.head.place.offset >= offset);
                    assert_eq!(entry.length as usize, bytes.len());
                    offset = entry.head.place.offset + entry.length;
                }
                Step::Hole if !scan.skip_hole(true) => break,
                Step::Hole => {}
                Step::More => panic!("there is no more"),
            }
        }
    }
    for behind in entries_behind(rest, &place) {
        assert!(behind.at < rest.len() && behind.at.is_multiple_of(BLOCK));
    }
}

/// What clients type: positions and names (F-14).
pub fn text(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match text.parse::<Dlsn>() {
        Ok(dlsn) => assert_eq!(dlsn.to_string(), text.to_ascii_lowercase()),
        Err(error) => assert!(error.to_string().contains("is no DLSN")),
    }
    match check_name(text) {
        Ok(()) => {
            let part_is_good = |part: &str| !part.is_empty() && !part.starts_with('.');
            assert!((1..=255).contains(&text.len()) && text.split('/').all(part_is_good));
            assert!(check_name(group_of(text)).is_ok());
            assert!(shard_of(group_of(text), 7).get() < 7);
        }
        Err(error) => assert!(error.to_string().len() < 1_200, "the name is shortened in it"),
    }
}
