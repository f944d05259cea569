//! Golden bytes: what today's program writes and reads is what docs/format.md says, for ever.
//!
//! `tests/golden/*-v2.bin` hold what the script writes with a fixed identity and clock, `*-v1.bin`
//! what version 1 wrote: those stay as they are. If one of these tests fails, the format has
//! changed: old data would no longer be read, or be read as something else. `BLESS=1 cargo test -p
//! oncelog-tests --test golden` writes the newest files and the hex dumps in the document anew; do
//! that only for a change that goes with a new format version (or if a newer library packs the same
//! records into other bytes: then the old files must still be read).
//!
//! Not here: what survives a crash.

mod disk;
mod records;
mod script;
mod settings;
mod spec;
mod tables;
mod upgrade;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use oncelog::error::OpenError;
use oncelog::format::entry::{Entry, Flags};
use oncelog::format::header::{HeaderError, SegmentHeader, Superblock};
use oncelog::format::record::take_record;
use oncelog::format::{EngineId, Place, VERSION};
use oncelog::index::SegmentIndex;
use oncelog::name::shard_of;
use oncelog::position::{SegmentId, Sequence};
use oncelog::scan::{Scan, Step};

use disk::{Disk, ENGINE, SEGMENT_SIZE, SHARD, START_US, World};
use script::{BLOB_COUNT, BLOBS, FIRST, ORDERS, SECOND, Written};
use spec::{crc64_nvme, walk};

const META: &str = "engine-meta-v2.bin";
const SEGMENT: &str = "segment-v2.bin";
const NEXT: &str = "segment-next-v2.bin";
const SEAL: &str = "seal-v2.bin";
const INDEX: &str = "index-v2.bin";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn golden(name: &str) -> Vec<u8> {
    let path = root().join("tests/golden").join(name);
    fs::read(&path).unwrap_or_else(|error| {
        panic!("{}: {error}; BLESS=1 makes the golden files", path.display())
    })
}

fn place(segment: SegmentId) -> Place {
    Place { engine: ENGINE, shard: SHARD, segment, entry: 0, offset: 4096 }
}

fn open(segments: Vec<(SegmentId, Vec<u8>)>) -> Result<World, OpenError> {
    World::open(Disk::with(segments), 10_000)
}

#[test]
fn the_writer_reproduces_the_golden_files_bit_for_bit() {
    let Written { meta, first, seal, index, second } = script::write();
    let files = [(META, meta), (SEGMENT, first), (SEAL, seal), (INDEX, index), (NEXT, second)];
    for (name, written) in files {
        if std::env::var_os("BLESS").is_some() {
            fs::write(root().join("tests/golden").join(name), &written).unwrap();
        }
        let golden = golden(name);
        let differs = written.iter().zip(&golden).position(|(written, golden)| written != golden);
        let (len, expected) = (written.len(), golden.len());
        assert_eq!(differs, None, "{name} differs at this offset: the format has changed");
        assert_eq!(len, expected, "{name} has another length: the format has changed");
    }
}

#[test]
fn the_same_script_writes_the_same_bytes() {
    assert!(script::write().second == script::write().second);
}

#[test]
fn the_reader_reads_what_the_script_wrote() {
    script::check_first(&mut open(vec![(FIRST, golden(SEGMENT))]).unwrap(), VERSION);
    // Segment 2 is freed: opening does not ask for it.
    script::check_second(&mut open(vec![(SECOND, golden(NEXT))]).unwrap(), VERSION);
}

/// (F-4), (F-6), (F-8), (F-12): both find the same entries, with the same content.
#[test]
fn a_reader_written_from_the_document_finds_the_same() {
    let (mut kinds, mut codecs) = (Vec::new(), BTreeSet::new());
    for (segment, name) in [(FIRST, SEGMENT), (SECOND, NEXT)] {
        let file = golden(name);
        let (header, digest) = SegmentHeader::decode(&file).unwrap();
        assert_eq!((header.segment, header.shard, header.engine), (segment, SHARD, ENGINE));
        assert_eq!(header.segment_size, SEGMENT_SIZE);
        let entries = walk(&file);
        let end = entries.last().map(|entry| entry.offset + entry.length);
        assert_eq!(end, Some(file.len()), "{name} is entries to its end");

        let mut scan = Scan::new(place(segment), digest);
        scan.feed(&file[4096..]);
        for by_spec in &entries {
            let Step::Entry(entry, bytes) = scan.next(true) else { panic!("a hole in {name}") };
            assert_eq!(entry.head.place.offset as usize, by_spec.offset);
            assert_eq!(bytes.len(), by_spec.length);
            assert_eq!(entry.head.durable, by_spec.durable);
            assert_eq!(entry.records().count(), by_spec.records.len());
            for (section, by_spec) in entry.records().zip(&by_spec.records) {
                assert_eq!(section.log.get(), by_spec.log);
                assert_eq!(section.first_sequence.get(), by_spec.first_sequence);
                let begin = section.offset as usize;
                let stored = bytes.slice(begin..begin + section.len as usize);
                let mut left = section.codec.unpack(&stored, section.raw_len).unwrap();
                codecs.insert(section.codec.number());
                for (txid, payload) in &by_spec.records {
                    let (taken, bytes) = take_record(&mut left).expect("a whole record");
                    assert_eq!((taken.get(), &bytes[..]), (*txid, &payload[..]));
                }
            }
            let controls = oncelog::recover::control_records(&entry, &bytes).unwrap();
            assert_eq!(controls.len(), by_spec.controls.len());
            kinds.extend(by_spec.controls.iter().map(|(kind, _)| *kind));
        }
        assert!(matches!(scan.next(true), Step::Hole));
        assert_eq!(entries[0].flags, 3, "a manifest of one entry");
        // (F-7): the last two entries were written when nothing was in flight, to say so.
        let marks: Vec<_> = entries.iter().rev().take(2).map(|e| (e.flags, e.durable)).collect();
        let count = u32::try_from(entries.len()).unwrap();
        assert_eq!(marks, [(8, count - 1), (16, count - 2)]);
    }
    assert!(codecs.into_iter().eq(0..3), "stored as they are, LZ4, Zstandard");
    kinds.sort_unstable();
    kinds.dedup();
    // Every kind but the seal (10), which has a file of its own, and the one that says that blocks
    // were given back (11).
    let rows = 34..=38;
    assert!(kinds.into_iter().eq((1..=9).chain(16..=19).chain(24..=26).chain([28]).chain(rows)));
}

/// (F-12): the seal is the last entry of its segment and names the next one; the next segment's
/// header and manifest say where the entries before the seal end.
#[test]
fn a_seal_names_the_next_segment_and_is_named_by_it() {
    let seal = golden(SEAL);
    let entry = Entry::parse(&seal).unwrap();
    assert!(entry.head.flags == Flags::SEAL && entry.sections_match(&seal));
    let body = &seal[96 + 64..][..16];
    assert_eq!(body, [10, 0, 0, 0, 8, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0]);
    let (next, _) = SegmentHeader::decode(&golden(NEXT)).unwrap();
    assert_eq!(next.previous, FIRST);
    assert_eq!(next.previous_end, u64::from(entry.head.place.offset));
    assert_eq!(next.previous_digest, entry.head.previous_digest);
    let manifest = &walk(&golden(NEXT))[0];
    let (kind, row) = &manifest.controls[1];
    assert_eq!(*kind, 35);
    assert_eq!(spec::u64_at(row, 8), next.previous_end);
    assert_eq!(spec::u64_at(row, 16), next.previous_digest);
    assert_eq!(spec::u32_at(row, 24), entry.head.place.entry);
}

/// (F-3): two copies, a block each.
#[test]
fn the_superblock_says_what_the_engine_is() {
    let meta = golden(META);
    assert_eq!(meta.len(), Superblock::FILE_SIZE);
    for copy in meta.chunks(4096) {
        let superblock = Superblock::decode(copy).unwrap();
        assert_eq!(superblock.engine, ENGINE);
        assert_eq!((superblock.shard_count, superblock.segment_size), (4, SEGMENT_SIZE));
        assert_eq!((superblock.generation, superblock.created_us), (2, START_US));
        assert!(superblock.has_begun(SHARD));
        assert_eq!(superblock.begun.iter().map(|byte| byte.count_ones()).sum::<u32>(), 1);
    }
}

/// (F-15): the side file says where the sections are, and belongs to one segment only.
#[test]
fn the_index_says_where_the_sections_are() {
    let bytes = Bytes::from(golden(INDEX));
    let index = SegmentIndex::decode(bytes.clone(), &place(FIRST)).unwrap();
    let blobs = index.log(BLOBS).unwrap();
    assert_eq!(blobs.end(), Sequence::new(BLOB_COUNT));
    let first = index.log(ORDERS).unwrap().sections[0];
    let segment = golden(SEGMENT);
    let begin = usize::try_from(first.range().start).unwrap();
    assert_eq!(&segment[begin + 16..][..9], b"order one");
    assert_eq!((first.count, first.first_txid.get()), (3, 10));
    assert_eq!(SegmentIndex::decode(bytes.clone(), &place(SECOND)), None);
    assert_eq!(index.encode(&place(FIRST)), bytes);
}

/// (F-15): a side file is used whole or not at all.
#[test]
fn a_flipped_byte_of_an_index_makes_it_useless() {
    let golden = golden(INDEX);
    for at in 0..golden.len() {
        let mut bytes = golden.clone();
        bytes[at] ^= 0x20;
        assert_eq!(SegmentIndex::decode(bytes.into(), &place(FIRST)), None, "byte {at}");
    }
}

/// Sets a header's version, with a checksum that is right for it.
fn with_version(block: &mut [u8], at: usize, version: u32) {
    block[at..at + 4].copy_from_slice(&version.to_le_bytes());
    let sum = crc64_nvme(&block[8..128]);
    block[..8].copy_from_slice(&sum.to_le_bytes());
}

/// (F-2)
#[test]
fn a_newer_version_is_refused_as_newer() {
    let mut meta = golden(META);
    with_version(&mut meta, 32, VERSION + 1);
    assert_eq!(Superblock::decode(&meta), Err(HeaderError::Newer(VERSION + 1)));
    with_version(&mut meta, 32, 0);
    assert_eq!(Superblock::decode(&meta), Err(HeaderError::Invalid));

    let mut segment = golden(SEGMENT);
    with_version(&mut segment, 40, VERSION + 1);
    let error = open(vec![(FIRST, segment)]).err().unwrap();
    let newer = matches!(error, OpenError::NewerFormat { found, known: VERSION, .. }
        if found == VERSION + 1);
    assert!(newer, "{error}");
}

/// (F-5)
#[test]
fn a_segment_of_another_engine_is_refused() {
    let other: EngineId = [7; 16];
    let disk = Disk::with([(FIRST, golden(SEGMENT))]);
    let error = World::open_as(disk, 10_000, other).err().unwrap();
    assert!(matches!(error, OpenError::Foreign { .. }), "{error}");
    // Nor is one of this engine under a lower number, or one that the journal does not know.
    let error = open(vec![(FIRST, golden(NEXT))]).err().unwrap();
    assert!(matches!(error, OpenError::Foreign { .. }), "{error}");
}

/// (F-5): blocks of another incarnation of the file mean nothing, wherever they are.
#[test]
fn stale_blocks_of_another_segment_never_parse() {
    let (first, second) = (golden(SEGMENT), golden(NEXT));
    for (stale, place) in [(&first, place(SECOND)), (&second, place(FIRST))] {
        assert_eq!(oncelog::scan::entries_behind(&stale[4096..], &place), []);
        // The same segment, one block further: a misdirected write.
        let own = Place { segment: SegmentId::new(6 - place.segment.get()), ..place };
        assert_eq!(oncelog::scan::entries_behind(stale, &own), []);
        assert!(!oncelog::scan::entries_behind(&stale[4096..], &own).is_empty());
    }
}

/// (F-1): the check value of CRC-64/NVME, and a file of ours.
#[test]
fn the_checksum_is_crc_64_nvme() {
    assert_eq!(crc64_nvme(b"123456789"), 0xae8b_1486_0a79_9888);
    let meta = golden(META);
    assert_eq!(spec::u64_at(&meta, 0), crc64_nvme(&meta[8..128]));
}

/// (F-14): frozen, since the shard of a log that is not in a catalog yet depends on it.
#[test]
fn a_group_has_its_shard_for_ever() {
    for (group, count) in [("orders", 8), ("payments", 8), ("a", 3), ("payments", 256)] {
        let shard = crc64_nvme(group.as_bytes()) % u64::from(count);
        assert_eq!(u64::from(shard_of(group, count).get()), shard, "{group}");
    }
    assert_eq!(shard_of("payments", 256).get(), 183);
}

/// Where each entry begins, the byte behind what checksums cover, and the byte behind its padding.
fn covered(file: &[u8]) -> Vec<(usize, usize, usize)> {
    let entry = |entry: &spec::SpecEntry| {
        (entry.offset, entry.offset + entry.covered, entry.offset + entry.length)
    };
    walk(file).iter().map(entry).collect()
}

/// How many entries of the segment are valid, or `None` if its header is not.
fn valid_entries(file: &[u8], segment: SegmentId) -> Option<usize> {
    let (_, digest) = SegmentHeader::decode(file).ok()?;
    let mut scan = Scan::new(place(segment), digest);
    scan.feed(&file[4096..]);
    let mut count = 0;
    while let Step::Entry(..) = scan.next(true) {
        count += 1;
    }
    Some(count)
}

/// (F-5), (F-6), (F-8), (F-9), (F-10), (F-11): no byte means anything that no checksum covers.
#[test]
fn a_flipped_byte_is_detected_or_lies_in_padding() {
    for (segment, name) in [(FIRST, SEGMENT), (SECOND, NEXT)] {
        let mut file = golden(name);
        let entries = covered(&file);
        for at in 0..file.len() {
            let hit = entries.iter().position(|(begin, end, _)| (*begin..*end).contains(&at));
            if at >= 128 && hit.is_none() && !at.is_multiple_of(16) {
                // Most of the file is padding.
                continue;
            }
            file[at] ^= 1 << (at % 8);
            let valid = valid_entries(&file, segment);
            match hit {
                _ if at < 128 => assert_eq!(valid, None, "{name}, byte {at} of the header"),
                Some(entry) => assert_eq!(valid, Some(entry), "{name}, byte {at}"),
                None => assert_eq!(valid, Some(entries.len()), "{name}, byte {at} is padding"),
            }
            file[at] ^= 1 << (at % 8);
        }
    }
}

/// (F-7), (F-16): what a later watermark proves to have been durable is never taken for a torn
/// tail; the last entry itself, which none covers, is.
#[test]
fn damage_below_the_last_watermark_refuses_and_above_it_opens() {
    let golden = golden(SEGMENT);
    let entries = covered(&golden);
    for (number, (begin, ..)) in entries.iter().enumerate() {
        let mut file = golden.clone();
        file[begin + 20] ^= 1;
        let opened = open(vec![(FIRST, file)]);
        match opened.err() {
            None => assert_eq!(number + 1, entries.len(), "entry {number} is lost in silence"),
            // Without its manifest a segment is not whole, and there is none before it.
            Some(OpenError::MissingSegment { .. }) => assert_eq!(number, 0),
            Some(OpenError::Damaged(damaged)) => assert_eq!(damaged.offset, *begin as u64),
            Some(error) => panic!("{error}"),
        }
    }
}

/// (F-12), (F-16): the barrier between two segments, and what its remains prove.
#[test]
fn what_a_roll_leaves_behind_is_judged_by_the_table() {
    let open = |change: &dyn Fn(&mut Disk)| {
        let mut disk = script::rolled();
        change(&mut disk);
        World::open(disk, 10_000)
    };
    let zero = |disk: &mut Disk, segment: SegmentId, blocks: std::ops::Range<usize>| {
        let file = disk.segments.get_mut(&segment).unwrap();
        file[blocks.start * 4096..blocks.end * 4096].fill(0);
    };
    let all = usize::try_from(SEGMENT_SIZE).unwrap() / 4096;
    let entries = walk(&script::rolled().segments[&FIRST]);
    let seal = entries.last().unwrap();
    assert_eq!(seal.flags, 4);

    let lost = open(&|disk| drop(disk.segments.remove(&SECOND))).err().unwrap();
    assert!(matches!(lost, OpenError::MissingSegment { segment: SECOND, .. }), "{lost}");
    let lost = open(&|disk| drop(disk.segments.remove(&FIRST))).err().unwrap();
    assert!(matches!(lost, OpenError::MissingSegment { segment: FIRST, .. }), "{lost}");
    // A record stands behind a header, or a manifest, that is not whole.
    for block in [0, 1] {
        let damaged = open(&|disk| zero(disk, SECOND, block..block + 1)).err().unwrap();
        assert!(matches!(damaged, OpenError::Damaged(_)), "{damaged}");
    }
    // The seal is not needed any more.
    let seal_block = seal.offset / 4096;
    let mut world = open(&|disk| zero(disk, FIRST, seal_block..seal_block + 1)).unwrap();
    assert_eq!(script::read(&mut world, ORDERS).len(), 5);

    // An interrupted roll: no record stands in the new segment. The journal goes on in a third one,
    // and the second goes only when that is durable.
    for blocks in [1..all, 0..all] {
        let mut world = open(&|disk| zero(disk, SECOND, blocks.clone())).unwrap();
        assert_eq!(script::read(&mut world, ORDERS).len(), 4);
        // The one after it may stand prepared behind it.
        let mut begun =
            world.disk.segments.values().filter_map(|file| {
                SegmentHeader::decode(file).ok().map(|(header, _)| (header, file))
            });
        let (header, third) = begun.next_back().unwrap();
        assert!(header.segment > SECOND);
        let end = (seal.offset + seal.length) as u64;
        assert_eq!((header.previous, header.previous_end), (FIRST, end));
        let (kind, row) = &walk(third)[0].controls[1];
        assert_eq!((*kind, spec::u32_at(row, 28)), (35, 1), "segment 2 is cut off");
        assert_eq!(world.disk.segments[&FIRST].len() as u64, end);
        assert!(!world.disk.segments.contains_key(&SECOND));
    }
}

/// A line of a hex dump of the file: its 16 bytes behind its offset.
fn dumped(line: &str, file: &[u8]) -> Option<String> {
    let offset = usize::from_str_radix(line.get(..8)?, 16).ok()?;
    let bytes = file.get(offset..offset + 16)?;
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!(" {byte:02x}")).collect::<String>();
    Some(format!("{} {} {}", &line[..8], hex(&bytes[..8]), hex(&bytes[8..])))
}

#[test]
fn the_hex_dumps_in_the_document_are_cut_from_the_golden_files() {
    let bless = std::env::var_os("BLESS").is_some();
    let file = if bless { script::write().first } else { golden(SEGMENT) };
    let (title, mut in_dump, mut count) = (format!("tests/golden/{SEGMENT}"), false, 0);
    let mut lines: Vec<String> = document().lines().map(str::to_owned).collect();
    for line in &mut lines {
        in_dump = *line == title || in_dump && !line.starts_with("```");
        let Some(expected) = dumped(line, &file).filter(|_| in_dump) else { continue };
        count += 1;
        if bless {
            line.replace_range(..expected.len(), &expected);
        }
        assert!(line.starts_with(&expected), "docs/format.md: {line}\n{SEGMENT}:   {expected}");
    }
    assert!(count >= 30, "docs/format.md shows {SEGMENT}");
    if bless {
        fs::write(root().join("docs/format.md"), lines.join("\n") + "\n").unwrap();
    }
}

fn document() -> String {
    fs::read_to_string(root().join("docs/format.md")).unwrap()
}

/// Each byte table goes on where the row before ends, as far as its offsets are numbers.
#[test]
fn byte_tables_in_the_document_have_no_gaps() {
    let (mut tables, mut end) = (0, None);
    for line in document().lines() {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        match cells[..] {
            ["", "offset", "size", "field", "meaning", ""] => {
                tables += 1;
                end = Some(0);
            }
            ["", offset, size, field, _, ""] if end.is_some() && !offset.starts_with('-') => {
                let Ok(offset) = offset.parse::<u32>() else { continue };
                assert_eq!(Some(offset), end, "{field}: {line}");
                end = size.parse::<u32>().ok().map(|size| offset + size).or(Some(u32::MAX));
            }
            [""] => end = None,
            _ => {}
        }
    }
    assert!(tables >= 24, "only {tables} byte tables were found in docs/format.md");
}
