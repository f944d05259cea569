//! What is written into the golden files, and what must be read from them.
//!
//! ```text
//! segment 2: logs, records, a processor, all kinds of commits, closed  -> segment-v2.bin
//!            opened again, filled up, sealed                           -> seal-v2.bin
//! segment 4: rows, truncated, chain carried, 2 freed, closed           -> segment-next-v2.bin
//! ```
//!
//! Version 1 wrote the same without `settings`.

use bytes::Bytes;
use oncelog::change::Author;
use oncelog::format::control::SourcePosition;
use oncelog::format::record::take_record;
use oncelog::position::{Epoch, LogId, ReaderId, SegmentId, Sequence, TxId};
use oncelog::request::{
    At, CommitRequest, NewRecord, NewState, OpenMode, Part, ReadRequest, Request, Restored, Wait,
};

use crate::disk::{Disk, World};
use crate::settings;

pub(crate) const ORDERS: LogId = LogId::new(1);
pub(crate) const BILLS: LogId = LogId::new(2);
pub(crate) const BLOBS: LogId = LogId::new(4);
pub(crate) const BILLING: ReaderId = ReaderId::new(1);

// Each was made from a spare, whose number comes before.
pub(crate) const FIRST: SegmentId = SegmentId::new(2);
pub(crate) const SECOND: SegmentId = SegmentId::new(4);

/// Filler records of the first segment.
pub(crate) const BLOB_COUNT: u64 = 6;
pub(crate) const BLOB_SIZE: usize = 124 * 1024;

/// What the script leaves behind.
pub(crate) struct Written {
    /// `engine.meta`.
    pub meta: Vec<u8>,
    /// Segment 2 as it was closed for the first time.
    pub first: Vec<u8>,
    /// The seal of segment 2.
    pub seal: Vec<u8>,
    /// The side file of segment 2.
    pub index: Vec<u8>,
    /// Segment 4 as it was closed.
    pub second: Vec<u8>,
}

pub(crate) fn write() -> Written {
    let mut world = World::open(Disk::new(), 0).unwrap();
    first_segment(&mut world);
    close(&mut world);
    let first = used(&world.disk.segments[&FIRST]);

    let mut world = World::open(world.disk, 1_000).unwrap();
    fill_up(&mut world);
    let seal = used(&world.disk.segments[&FIRST]).split_off(seal_offset(&world));
    let index = world.disk.indexes[&FIRST].to_vec();
    second_segment(&mut world);
    close(&mut world);
    let second = used(&world.disk.segments[&SECOND]);
    assert!(!world.disk.segments.contains_key(&FIRST), "it was freed and recycled");

    let block = world.disk.superblock.encode();
    Written { meta: [block.clone(), block].concat(), first, seal, index, second }
}

/// The disk behind the roll: segment 2 is sealed, segment 4 holds its manifest and one record.
pub(crate) fn rolled() -> Disk {
    let mut world = World::open(Disk::new(), 0).unwrap();
    first_segment(&mut world);
    fill_up(&mut world);
    world.disk
}

fn first_segment(world: &mut World) {
    // The first request waits for the first segment: log 1 has an entry for itself.
    create(world, "shop/orders");
    let names = ["shop/bills", "shop/scratch", "blobs"];
    let asked = names.map(|name| {
        let (name, mode) = (name.to_owned(), OpenMode::Create);
        world.ask(|reply| Request::OpenLog { name, mode, options: None, reply })
    });
    world.turn();
    let ids = asked.map(|asked| asked.answer().id);
    assert_eq!(ids, [BILLS, LogId::new(3), BLOBS]);

    let one = world.ask(|reply| Request::Append {
        log: ORDERS,
        author: Author::Anyone,
        record: record(Some(10), "order one"),
        reply,
    });
    let both = vec![
        Part {
            log: ORDERS,
            author: Author::Anyone,
            records: vec![record(None, "order two"), record(Some(20), "")],
        },
        Part { log: BILLS, author: Author::Anyone, records: vec![record(Some(7), "bill zero")] },
    ];
    let both = world.ask(|reply| Request::AppendBatch { parts: both, reply });
    world.turn();
    assert_eq!(one.answer().first, Sequence::FIRST);
    assert_eq!(both.answer().len(), 2);
    append(world, ORDERS, 30, "order four");

    let restored = open_billing(world);
    assert_eq!((restored.reader, restored.epoch), (BILLING, Epoch::new(1)));
    let bill =
        |text| vec![Part { log: BILLS, author: Author::Anyone, records: vec![record(None, text)] }];
    commit(world, 1, (0, 2), NewState::Delta(text("lost with the snapshot")), 0, bill("bill one"));
    commit(world, 2, (2, 3), NewState::None, 0, Vec::new());
    let (reader, epoch, number, bytes) = (BILLING, Epoch::new(1), 3, text("a state "));
    world.run(|reply| Request::SnapshotPart { reader, epoch, number, bytes, reply });
    commit(world, 3, (3, 4), NewState::Snapshot(text("in two parts")), 1, bill("bill two"));
    commit(world, 4, (4, 4), NewState::Delta(text(", a delta")), 0, Vec::new());

    let sources = vec!["shop/bills".to_owned(), "shop/orders".to_owned()];
    let (name, change) = ("shop/audit".to_owned(), false);
    world.run(|reply| Request::OpenReader { name, sources, change, owns: Vec::new(), reply });
    world.run(|reply| Request::DropReader { name: "shop/audit".to_owned(), reply });
    append(world, LogId::new(3), 1, "gone with its log");
    let name = "shop/scratch".to_owned();
    let dropped = world.ask(|reply| Request::DropLog { name, reply });
    let (log, before) = (BILLS, Sequence::new(1));
    let truncated = world.ask(|reply| Request::Truncate { log, before, reply });
    world.turn();
    dropped.answer();
    truncated.answer();
    settings::write_first(world);
    idle(world);
}

fn fill_up(world: &mut World) {
    for _ in 0..BLOB_COUNT {
        let record = NewRecord { txid: None, payload: Bytes::from(vec![0; BLOB_SIZE]) };
        world.run(|reply| Request::Append { log: BLOBS, author: Author::Anyone, record, reply });
    }
    // There is no room for another entry of the largest size: this record waits for the roll.
    append(world, ORDERS, 40, "order five");
    assert!(world.disk.segments.contains_key(&SECOND));
}

fn second_segment(world: &mut World) {
    commit(world, 5, (4, 5), NewState::Delta(text(" and another")), 0, Vec::new());
    for (log, before) in [(BLOBS, BLOB_COUNT), (ORDERS, 4), (BILLS, 3)] {
        let before = Sequence::new(before);
        world.run(|reply| Request::Truncate { log, before, reply });
    }
    settings::write_second(world, settings::TILL);
    // By now the chain was carried forward and segment 2 freed.
    append(world, BILLS, 50, "bill three");
    idle(world);
}

/// What must be read after the first segment of this format version was closed.
pub(crate) fn check_first(world: &mut World, version: u32) {
    let orders = [(0, 10, "order one"), (1, 10, "order two"), (2, 20, ""), (3, 30, "order four")];
    assert_eq!(read(world, ORDERS), expected(&orders));
    assert_eq!(read(world, BILLS), expected(&[(1, 7, "bill one"), (2, 7, "bill two")]));
    check_names(world, version);
    if version > 1 {
        settings::check(world, false);
    }
    check_restored(&open_billing(world), version, (4, 4), &[", a delta"]);
}

/// What must be read at the end of the script.
pub(crate) fn check_second(world: &mut World, version: u32) {
    assert_eq!(read(world, ORDERS), expected(&[(4, 40, "order five")]));
    assert_eq!(read(world, BILLS), expected(&[(3, 50, "bill three")]));
    assert_eq!(read(world, BLOBS), []);
    check_names(world, version);
    if version > 1 {
        settings::check(world, true);
    }
    check_restored(&open_billing(world), version, (5, 5), &[", a delta", " and another"]);
}

fn check_names(world: &mut World, version: u32) {
    let mut expected = vec!["blobs 4", "shop/bills 2", "shop/orders 1"];
    if version > 1 {
        expected.extend(settings::NAMES);
        expected.sort_unstable();
    }
    assert_eq!(names(world), expected);
}

fn check_restored(restored: &Restored, version: u32, (commits, next): (u64, u64), deltas: &[&str]) {
    // Epoch 2 was given to the processor that was dropped.
    let epoch = if version > 1 { settings::EPOCH } else { Epoch::new(3) };
    assert_eq!((restored.reader, restored.epoch), (BILLING, epoch));
    assert_eq!(restored.positions, [position(next)]);
    assert_eq!(restored.snapshot, Some(text("a state in two parts")));
    assert_eq!(restored.deltas, deltas.iter().map(|delta| text(delta)).collect::<Vec<_>>());
    assert_eq!(restored.commits, commits);
}

type Record = (Sequence, TxId, Bytes);

fn expected(records: &[(u64, u64, &str)]) -> Vec<Record> {
    let record = |&(sequence, txid, payload): &(u64, u64, &str)| {
        (Sequence::new(sequence), TxId::new(txid), text(payload))
    };
    records.iter().map(record).collect()
}

/// All records of a log.
pub(crate) fn read(world: &mut World, log: LogId) -> Vec<Record> {
    let (mut at, mut records) = (At::Earliest, Vec::new());
    loop {
        let (bytes_max, wait) = (1 << 20, Wait::No);
        let answer = world.run(|reply| {
            Request::Read(ReadRequest {
                log,
                at,
                bytes_max,
                wait,
                ahead: false,
                planned: None,
                reply,
            })
        });
        if answer.sections.is_empty() {
            return records;
        }
        for section in answer.sections {
            let raw = section.codec.unpack(&section.bytes, section.raw_len);
            let mut bytes = raw.expect("a whole section");
            for slot in 0..u64::from(section.count) {
                let (txid, payload) = take_record(&mut bytes).expect("a whole record");
                let sequence = section.first.after(slot);
                if sequence >= answer.first {
                    records.push((sequence, txid, payload));
                }
            }
            assert!(bytes.is_empty());
        }
        at = At::Sequence(answer.next);
    }
}

fn names(world: &mut World) -> Vec<String> {
    let logs = world.run(|reply| Request::ListLogs {
        prefix: String::new(),
        after: String::new(),
        limit: usize::MAX,
        reply,
    });
    logs.iter().map(|log| format!("{} {}", log.name, log.id)).collect()
}

fn create(world: &mut World, name: &str) {
    let (name, mode) = (name.to_owned(), OpenMode::Create);
    world.run(|reply| Request::OpenLog { name, mode, options: None, reply });
}

fn append(world: &mut World, log: LogId, txid: u64, payload: &str) {
    let record = record(Some(txid), payload);
    world.run(|reply| Request::Append { log, author: Author::Anyone, record, reply });
}

fn open_billing(world: &mut World) -> Restored {
    let sources = vec!["shop/orders".to_owned()];
    let (name, change) = ("shop/billing".to_owned(), false);
    world.run(|reply| Request::OpenReader { name, sources, change, owns: Vec::new(), reply })
}

fn commit(
    world: &mut World,
    number: u64,
    (from, to): (u64, u64),
    state: NewState,
    parts: usize,
    outputs: Vec<Part>,
) {
    let (reader, epoch) = (BILLING, Epoch::new(1));
    let (from, to) = (vec![position(from)], vec![position(to)]);
    world.run(|reply| {
        let commit =
            CommitRequest { reader, epoch, number, from, to, state, parts, outputs, reply };
        Request::Commit(Box::new(commit))
    });
}

/// Long enough for a watermark that covers everything.
fn idle(world: &mut World) {
    world.wait(oncelog::limits::IDLE_WATERMARK_US);
}

fn close(world: &mut World) {
    world.run(|reply| Request::Close { reply });
    assert!(world.shard.is_finished());
}

fn position(next: u64) -> SourcePosition {
    SourcePosition { log: ORDERS, next: Sequence::new(next) }
}

fn record(txid: Option<u64>, payload: &str) -> NewRecord {
    NewRecord { txid: txid.map(TxId::new), payload: text(payload) }
}

fn text(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// A segment without the blocks behind its last entry: in these files, the ones of zeros.
fn used(file: &[u8]) -> Vec<u8> {
    let end = file.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    file[..end.next_multiple_of(4096)].to_vec()
}

/// Where the seal of segment 2 stands: its last block.
fn seal_offset(world: &World) -> usize {
    used(&world.disk.segments[&FIRST]).len() - 4096
}
