//! Every released format version opens, is brought to the newest one, and what no version has is
//! refused with words.
//!
//! ```text
//! v1 files -> shard in memory, real directory -> all is read, appended to, opened again
//! segment with one thing that its version does not have, right checksums -> refused, unchanged
//! ```
//!
//! Not here: what version 2 writes (`main`).

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::{BufMut, BytesMut};
use oncelog::catalog::Catalog;
use oncelog::error::OpenError;
use oncelog::format::codec::{Codec, Packer};
use oncelog::format::control::{Control, Link};
use oncelog::format::entry::{EntryHead, Flags, RecordsIn, put_entry};
use oncelog::format::header::{SegmentHeader, Superblock};
use oncelog::format::{Place, VERSION};
use oncelog::position::{LogId, SegmentId, Sequence, TxId};
use oncelog::request::StagedRecord;
use oncelog::{Engine, From, LogOptions, Options, Verify};

use crate::disk::{ENGINE, SEGMENT_SIZE, SHARD, START_US};
use crate::script::{self, FIRST, SECOND};
use crate::spec::crc64_nvme;
use crate::tables::table;
use crate::{golden, open, place, with_version};

/// With so many shards the group of the script, "shop", is on the shard of the golden files.
const SHARDS: u16 = 13;

/// (F-2): what version 1 recorded is read by the newest program.
#[test]
fn segments_of_version_1_are_read() {
    for (segment, name) in [(FIRST, "segment-v1.bin"), (SECOND, "segment-next-v1.bin")] {
        let mut world = open(vec![(segment, golden(name))]).unwrap();
        if segment == FIRST {
            script::check_first(&mut world, 1);
        } else {
            script::check_second(&mut world, 1);
        }
        // A segment of an older version never goes on: a fresh one of the newest does.
        let versions = world.disk.segments.values().filter_map(|file| {
            SegmentHeader::decode(file).ok().map(|(header, _)| (header.segment, header.version))
        });
        let versions: Vec<_> = versions.collect();
        assert_eq!(versions.len(), 2, "{versions:?}");
        assert_eq!(versions[0], (segment, 1));
        assert!(versions[1].0 > segment && versions[1].1 == VERSION);
    }
}

/// A data directory as version 1 left it, with more shards than the golden one has.
fn directory(segment: SegmentId, name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut copy = golden("engine-meta-v1.bin")[..4096].to_vec();
    copy[64..66].copy_from_slice(&SHARDS.to_le_bytes());
    with_version(&mut copy, 32, 1);
    fs::write(dir.path().join("engine.meta"), [&copy[..], &copy].concat()).unwrap();
    let file = path(dir.path(), segment);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    let mut bytes = golden(name);
    bytes.resize(usize::try_from(SEGMENT_SIZE).unwrap(), 0);
    fs::write(file, bytes).unwrap();
    dir
}

fn path(dir: &Path, segment: SegmentId) -> PathBuf {
    let name = format!("segment-{:016x}.log", segment.get());
    dir.join(format!("shard-{:03}", SHARD.get())).join(name)
}

fn copies(dir: &Path) -> Vec<Superblock> {
    let meta = fs::read(dir.join("engine.meta")).unwrap();
    meta.chunks(4096).map(|copy| Superblock::decode(copy).unwrap()).collect()
}

/// Each file below the directory, but the lock.
fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else if !path.ends_with("LOCK") {
            found.push((path.clone(), fs::read(&path).unwrap()));
        }
    }
    found.sort();
    found
}

fn open_dir(dir: &Path) -> Result<Engine, OpenError> {
    Options::new(dir).create(false).open()
}

fn texts(engine: &Engine, log: &str) -> Vec<String> {
    let mut reader = engine.open_log(log).wait().unwrap().reader(From::Earliest);
    let mut all = Vec::new();
    while let Some(records) = reader.try_next().wait().unwrap() {
        all.extend(records.map(|record| String::from_utf8(record.payload.to_vec()).unwrap()));
    }
    all
}

/// (F-2), (F-3): everything is there; from then on the directory is one of the newest version.
#[test]
fn a_directory_of_version_1_opens_and_becomes_one_of_the_newest() {
    let dir = directory(FIRST, "segment-v1.bin");
    let before = contents(dir.path());
    let report = Verify::new(dir.path()).run().unwrap();
    assert!(report.is_sound() && report.findings.is_empty(), "{report}");
    // Also what was truncated and dropped.
    assert_eq!((report.logs, report.processors, report.records), (3, 1, 4 + 3 + 1));
    assert!(contents(dir.path()) == before, "verify changes nothing");

    let orders = ["order one", "order two", "", "order four"];
    let engine = open_dir(dir.path()).unwrap();
    for copy in copies(dir.path()) {
        assert_eq!((copy.version, copy.shard_count), (VERSION, SHARDS));
        assert!(copy.has_begun(SHARD) && copy.generation == 3);
    }
    assert_eq!(texts(&engine, "shop/orders"), orders);
    assert_eq!(texts(&engine, "shop/bills"), ["bill one", "bill two"]);
    let (_, restored) = engine.processor("shop/billing").open().wait().unwrap();
    assert_eq!(restored.snapshot.unwrap(), "a state in two parts");
    assert_eq!((restored.deltas, restored.commits), (vec![", a delta".into()], 4));

    // What only the newest version can say.
    let log = engine.open_log("shop/orders").wait().unwrap();
    log.set_options(LogOptions::default().compression(Codec::Zstd)).wait().unwrap();
    let writer = log.writer("till").open().wait().unwrap();
    let long = "order five, ".repeat(50);
    let dlsn = writer.append(1, [long.clone()]).wait().unwrap().appended.dlsn.unwrap();
    assert!(dlsn.segment() > FIRST, "not in the segment of version 1");
    engine.close().wait().unwrap();

    for round in 0..2 {
        let engine = open_dir(dir.path()).unwrap();
        let all: Vec<_> = orders.iter().copied().chain([long.as_str()]).collect();
        assert_eq!(texts(&engine, "shop/orders"), all, "round {round}");
        let log = engine.open_log("shop/orders").wait().unwrap();
        let writer = log.writer("till").open().wait().unwrap();
        assert!(writer.append(1, [long.clone()]).wait().unwrap().repeated);
        engine.close().wait().unwrap();
    }
    // The file of version 1 is what it was, cut off where its entries end.
    let golden = golden("segment-v1.bin");
    assert_eq!(fs::read(path(dir.path(), FIRST)).unwrap(), golden);
    assert!(Verify::new(dir.path()).run().unwrap().is_sound());
}

/// (F-2), (F-13): the segment that held a state carried forward, with freed ones in its manifest.
#[test]
fn a_directory_whose_first_segments_are_gone_opens_too() {
    let dir = directory(SECOND, "segment-next-v1.bin");
    let engine = open_dir(dir.path()).unwrap();
    assert_eq!(texts(&engine, "shop/orders"), ["order five"]);
    assert_eq!(texts(&engine, "shop/bills"), ["bill three"]);
    let (_, restored) = engine.processor("shop/billing").open().wait().unwrap();
    assert_eq!((restored.deltas.len(), restored.commits), (2, 5));
    engine.close().wait().unwrap();
    assert!(Verify::new(dir.path()).run().unwrap().is_sound());
}

/// (F-3): whichever copy a crash left behind.
#[test]
fn a_crash_between_the_two_superblocks_of_the_upgrade_costs_nothing() {
    for newest in [0, 1] {
        let dir = directory(FIRST, "segment-v1.bin");
        let meta = dir.path().join("engine.meta");
        let mut copy = fs::read(&meta).unwrap()[..4096].to_vec();
        copy[48] += 1;
        with_version(&mut copy, 32, VERSION);
        let file = fs::OpenOptions::new().write(true).open(&meta).unwrap();
        file.write_all_at(&copy, newest * 4096).unwrap();
        let engine = open_dir(dir.path()).unwrap();
        assert_eq!(texts(&engine, "shop/orders").len(), 4);
        engine.close().wait().unwrap();
        assert!(copies(dir.path()).iter().all(|copy| (copy.version, copy.generation) == (2, 3)));
    }
}

/// (F-2): nothing of a newer version is read, repaired, or taken for damage.
#[test]
fn a_directory_of_a_newer_version_is_left_as_it_is() {
    let newer = VERSION + 1;
    let in_meta = |copies: &'static [usize]| {
        move |dir: &Path| {
            let meta = dir.join("engine.meta");
            let mut bytes = fs::read(&meta).unwrap();
            for copy in copies {
                with_version(&mut bytes[copy * 4096..][..4096], 32, newer);
            }
            fs::write(meta, bytes).unwrap();
        }
    };
    let in_segment = |dir: &Path| {
        let mut bytes = fs::read(path(dir, FIRST)).unwrap();
        with_version(&mut bytes, 40, newer);
        fs::write(path(dir, FIRST), bytes).unwrap();
        // As that version would have left it, but for the number.
        let meta = dir.join("engine.meta");
        let mut bytes = fs::read(&meta).unwrap();
        bytes.chunks_mut(4096).for_each(|copy| with_version(copy, 32, VERSION));
        fs::write(meta, bytes).unwrap();
    };
    let changes: [&dyn Fn(&Path); 4] =
        [&in_meta(&[0, 1]), &in_meta(&[0]), &in_meta(&[1]), &in_segment];
    for change in changes {
        let dir = directory(FIRST, "segment-v1.bin");
        change(dir.path());
        let before = contents(dir.path());
        let error = open_dir(dir.path()).err().unwrap();
        let newer = matches!(error, OpenError::NewerFormat { found: 3, known: 2, .. });
        assert!(newer && error.to_string().contains("use a newer oncelog"), "{error}");
        assert!(Verify::new(dir.path()).run().map_or(true, |report| !report.is_sound()));
        let error = oncelog::Repair::new(dir.path()).run().unwrap_err();
        assert!(matches!(error, OpenError::NewerFormat { .. }), "{error}");
        assert!(contents(dir.path()) == before, "nothing was changed");
    }
}

/// A segment of this version: a manifest of its version with one log, then one entry.
fn segment(version: u32, control: &[u8], records: &[StagedRecord], codec: Codec) -> Vec<u8> {
    let header = SegmentHeader {
        version,
        engine: ENGINE,
        shard: SHARD,
        segment: FIRST,
        segment_size: SEGMENT_SIZE,
        entry_size_max: 128 * 1024,
        entries_in_flight_max: 8,
        previous: SegmentId::new(0),
        previous_end: 0,
        previous_digest: 0,
        created_us: START_US,
    };
    let (block, digest) = header.encode();
    let mut file = BytesMut::from(&block[..]);
    let manifest = manifest(version);
    let count = u32::from(!control.is_empty());
    let log = LogId::new(1);
    let section = RecordsIn { log, codec, first_sequence: Sequence::FIRST, records };
    let sections = if records.is_empty() { vec![] } else { vec![section] };
    let mut put = |entry, flags, control, sections: &[_], previous_digest| {
        let place = Place { entry, offset: u32::try_from(file.len()).unwrap(), ..place(FIRST) };
        let head = EntryHead { place, flags, previous_digest, time_us: START_US, durable: entry };
        put_entry(&mut file, &head, control, sections, &mut Packer::default()).1
    };
    let digest = put(0, Flags::MANIFEST_END, (&manifest[..], 2), &[], digest);
    put(1, Flags::DATA, (control, count), &sections, digest);
    file.to_vec()
}

/// The rows of a manifest with one log, "a", as that version writes them.
fn manifest(version: u32) -> Vec<u8> {
    let mut catalog = Catalog::default();
    let (log, name) = (LogId::new(1), "a".to_owned());
    let created = Control::LogCreated { log, created_us: START_US, name };
    catalog.apply(&created, Link { segment: FIRST, offset: 4096, index: 0 }).unwrap();
    let [(newest, 2)] = &catalog.manifest(START_US, 1 << 16)[..] else { panic!("two rows") };
    if version > 1 {
        return newest.to_vec();
    }
    // Without the counts, rates, bytes and flags that came later.
    let mut old = Vec::new();
    old.put_slice(&table(32, &newest[8..][..44]));
    let row = &newest[8 + 80 + 8..];
    old.put_slice(&table(33, &[&row[..40], &row[48..50], &row[52..]].concat()));
    old
}

fn records() -> Vec<StagedRecord> {
    vec![StagedRecord { txid: TxId::new(1), payload: "a text, ".repeat(99).into() }]
}

/// What a shard says of this segment.
fn refusal(file: Vec<u8>) -> Option<String> {
    match open(vec![(FIRST, file)]).err() {
        None => None,
        Some(OpenError::Damaged(damaged)) => Some(damaged.what.to_owned()),
        Some(error) => panic!("{error}"),
    }
}

/// (F-2), (F-11): a program that does not know what a record means does not act as if it were not
/// there.
#[test]
fn what_a_format_version_does_not_have_is_refused_in_its_segments() {
    let dropped = table(2, &1_u64.to_le_bytes());
    let owned = table(19, &[1_u64.to_le_bytes(), 0_u64.to_le_bytes()].concat());
    let unknown = [12, 20, 27, 29, 39, 64].map(|kind| table(kind, &1_u64.to_le_bytes()));
    for version in 1..=VERSION {
        assert_eq!(refusal(segment(version, &dropped, &[], Codec::None)), None);
        assert_eq!(refusal(segment(version, b"", &records(), Codec::None)), None);
        for control in &unknown {
            let said = refusal(segment(version, control, &[], Codec::None)).unwrap();
            assert!(said.contains("control record"), "{said}");
        }
    }
    assert_eq!(refusal(segment(2, &owned, &[], Codec::None)), None);
    let newer = [segment(1, &owned, &[], Codec::None)]
        .into_iter()
        .chain([Codec::Lz4, Codec::Zstd].map(|codec| segment(1, b"", &records(), codec)));
    for file in newer {
        let said = refusal(file).expect("version 1 does not have it");
        assert!(said.contains("its format version does not have"), "{said}");
    }
    // Nor is the manifest of one version that of another.
    for (version, other) in [(1, 2), (2, 1)] {
        let mut file = segment(other, b"", &[], Codec::None);
        with_version(&mut file, 40, version);
        let digest = u64::from_le_bytes(file[..8].try_into().unwrap());
        continue_from(&mut file, digest, |_| {});
        let said = refusal(file).expect("the manifest is another version's");
        assert!(said.contains("its format version does not have"), "{said}");
    }
}

/// Changes the entries of a file, each of a block, and makes every checksum right again.
fn continue_from(file: &mut [u8], mut digest: u64, change: impl Fn(&mut [u8])) {
    for entry in file[4096..].chunks_mut(4096) {
        change(entry);
        let table_end = 96 + 64 * usize::from(entry[74]);
        for row in (96..table_end).step_by(64) {
            let at = |at: usize| {
                u32::from_le_bytes(entry[row + at..row + at + 4].try_into().unwrap()) as usize
            };
            let bytes = entry[at(40)..][..at(44)].to_vec();
            let identity = [&entry[16..40], &entry[row..row + 16], &entry[60..64]].concat();
            let rest = [&entry[72..74], &entry[row + 56..row + 58], &bytes].concat();
            let sum = crc64_nvme(&[identity, rest].concat());
            entry[row + 32..row + 40].copy_from_slice(&sum.to_le_bytes());
        }
        entry[40..48].copy_from_slice(&digest.to_le_bytes());
        digest = crc64_nvme(&entry[8..table_end]);
        entry[..8].copy_from_slice(&digest.to_le_bytes());
    }
}

/// (F-2), (F-6), (F-8), (F-10): right by every checksum, so no crash left it; also as the last
/// entry, where a torn one would be the end of the journal.
#[test]
fn an_entry_whose_form_nobody_knows_is_refused_and_never_taken_for_a_torn_one() {
    let plain = segment(2, b"", &records(), Codec::None);
    let packed = segment(2, b"", &records(), Codec::Zstd);
    let is_data = |entry: &[u8]| entry[12] == 0;
    // Where in the entry; all of them are 0, or the codec's 2, without the change.
    let in_record = 96 + 64 + 12;
    let changes: [(&[u8], usize, u8, &str); 7] = [
        (&plain, 13, 1, "a flag"),
        (&plain, 76, 1, "a reserved byte"),
        (&plain, 96 + 57, 3, "a codec"),
        (&plain, 96 + 58, 1, "a flag of a section"),
        (&plain, in_record, 1, "a flag of a record"),
        (&packed, 96 + 57, 1, "bytes that are not what the codec says"),
        (&packed, 96 + 51, 1, "a raw length that no entry has"),
    ];
    for (file, at, byte, what) in changes {
        let mut file = file.to_vec();
        let digest = u64::from_le_bytes(file[..8].try_into().unwrap());
        let change = |entry: &mut [u8]| {
            if is_data(entry) {
                entry[at] = byte;
            }
        };
        continue_from(&mut file, digest, change);
        let said = refusal(file).unwrap_or_else(|| panic!("{what} was passed over"));
        assert!(said.contains("form nobody knows"), "{what}: {said}");
    }
    // Torn, it is the end.
    for file in [plain, packed] {
        let mut torn = file.clone();
        torn[2 * 4096 + 96 + 64 + 20] ^= 1;
        assert_eq!(refusal(torn), None);
    }
}
