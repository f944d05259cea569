//! Round trips of entries, records and control records, and the bytes of each control record as
//! the tables of docs/format.md give them.

use bytes::{BufMut, Bytes, BytesMut};
use oncelog::catalog::Catalog;
use oncelog::error::OpenError;
use oncelog::format::codec::{Codec, Packer};
use oncelog::format::control::{
    ChainLink, Checkpoint, CheckpointState, Control, Link, ManifestHead, ManifestLog,
    ManifestReader, ManifestSegment, SourcePosition,
};
use oncelog::format::entry::{Entry, EntryHead, Flags, RecordsIn, entry_size, put_entry};
use oncelog::format::header::SegmentHeader;
use oncelog::format::options::Rates;
use oncelog::format::record::{put_record, take_record};
use oncelog::format::{Place, VERSION};
use oncelog::position::{Epoch, LogId, ReaderId, SegmentId, Sequence, TxId};
use oncelog::request::StagedRecord;

use crate::disk::{ENGINE, SEGMENT_SIZE, SHARD, START_US};
use crate::script::FIRST;
use crate::{open, place};

/// Numbers that differ in every byte, so that a swapped or shortened field shows.
struct Numbers(u8);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(7);
        u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|byte| self.0.wrapping_add(byte)))
    }

    fn next_u32(&mut self) -> u32 {
        u32::try_from(self.next() & u64::from(u32::MAX)).unwrap()
    }

    fn chain_link(&mut self) -> ChainLink {
        ChainLink { number: self.next(), link: self.link() }
    }

    fn link(&mut self) -> Link {
        let segment = SegmentId::new(self.next());
        Link { segment, offset: self.next_u32(), index: self.next_u32() }
    }

    fn position(&mut self) -> SourcePosition {
        SourcePosition { log: LogId::new(self.next()), next: Sequence::new(self.next()) }
    }
}

/// What a table says, in its order: the kind, then the fields of the body.
struct Table(Vec<u8>);

impl Table {
    fn of(kind: u16, fields: &[Field<'_>]) -> Vec<u8> {
        let mut body = Self(Vec::new());
        for field in fields {
            match field {
                Field::U8(number) => body.0.put_u8(*number),
                Field::U16(number) => body.0.put_u16_le(*number),
                Field::U32(number) => body.0.put_u32_le(*number),
                Field::U64(number) => body.0.put_u64_le(*number),
                Field::Bytes(bytes) => body.0.put_slice(bytes),
                Field::Link(link) => body.link(link),
                Field::ChainLink(link) => {
                    body.0.put_u64_le(link.number);
                    body.link(&link.link);
                }
                Field::Position(position) => {
                    body.0.put_u64_le(position.log.get());
                    body.0.put_u64_le(position.next.get());
                }
            }
        }
        let mut record = Vec::new();
        record.put_u16_le(kind);
        record.put_u16_le(0);
        record.put_u32_le(u32::try_from(body.0.len()).unwrap());
        record.put_slice(&body.0);
        record
    }

    fn link(&mut self, link: &Link) {
        self.0.put_u64_le(link.segment.get());
        self.0.put_u32_le(link.offset);
        self.0.put_u32_le(link.index);
    }
}

enum Field<'a> {
    U8(u8),
    U16(u16),
    U32(u32),
    U64(u64),
    Bytes(&'a [u8]),
    Link(Link),
    ChainLink(ChainLink),
    Position(SourcePosition),
}
use Field::{U8, U16, U32, U64};

fn assert_bytes(control: Control, expected: Vec<u8>) {
    let mut bytes = BytesMut::new();
    control.put(&mut bytes);
    assert_eq!(bytes, expected, "{control:?}");
    let read = Control::take_all(bytes.freeze(), 1);
    assert_eq!(read, Some(vec![control]));
}

/// (F-11)
#[test]
fn control_records_of_logs_and_segments_have_the_bytes_of_their_tables() {
    let mut n = Numbers(0);
    let (log, created_us, name) = (LogId::new(n.next()), n.next(), "a/b".to_owned());
    let expected = Table::of(1, &[U64(log.get()), U64(created_us), U16(3), Field::Bytes(b"a/b")]);
    assert_bytes(Control::LogCreated { log, created_us, name }, expected);
    assert_bytes(Control::LogDropped { log }, Table::of(2, &[U64(log.get())]));
    let first = Sequence::new(n.next());
    let expected = Table::of(3, &[U64(log.get()), U64(first.get())]);
    assert_bytes(Control::LogTruncated { log, first }, expected);
    let segment = SegmentId::new(n.next());
    assert_bytes(Control::SegmentFreed { segment }, Table::of(9, &[U64(segment.get())]));
    assert_bytes(Control::Seal { next: segment }, Table::of(10, &[U64(segment.get())]));
}

/// (F-11), (F-13)
#[test]
fn control_records_of_processors_have_the_bytes_of_their_tables() {
    let mut n = Numbers(0);
    let (reader, epoch) = (ReaderId::new(n.next()), Epoch::new(n.next()));
    let sources = [n.position(), n.position()];
    let name = Field::Bytes(b"pay");
    let [one, two] = sources.map(Field::Position);
    let expected =
        Table::of(4, &[U64(reader.get()), U64(epoch.get()), U16(2), U16(3), one, two, name]);
    let name = "pay".to_owned();
    let opened = Control::ReaderOpened { reader, epoch, sources: sources.to_vec(), name };
    assert_bytes(opened, expected);
    assert_bytes(Control::ReaderDropped { reader }, Table::of(5, &[U64(reader.get())]));

    let parts = [n.link(), n.link()];
    let (number, last, moved) = (n.next(), Bytes::from_static(b"state"), Sequence::new(n.next()));
    let [from, _] = sources;
    let to = SourcePosition { log: from.log, next: moved };
    let mut checkpoint = Checkpoint {
        reader,
        epoch,
        number,
        carried: true,
        previous: Some(n.chain_link()),
        from: vec![from],
        to: vec![to],
        state: CheckpointState::Snapshot { parts: parts.to_vec(), last: last.clone() },
    };
    let table = |previous, state, carried, parts: &[Link], bytes| {
        let mut fields = vec![U64(reader.get()), U64(epoch.get()), U64(number)];
        fields.extend([Field::ChainLink(previous), U16(1), U8(state), U8(carried)]);
        fields.extend([U32(u32::try_from(parts.len()).unwrap()), U32(0)]);
        fields.extend([Field::Position(from), U64(moved.get())]);
        fields.extend(parts.iter().map(|part| Field::Link(*part)));
        fields.push(Field::Bytes(bytes));
        Table::of(6, &fields)
    };
    let previous = checkpoint.previous.unwrap();
    let expected = table(previous, 2, 1, &parts, b"state");
    assert_bytes(Control::Checkpoint(checkpoint.clone()), expected);
    checkpoint.state = CheckpointState::Delta(last.clone());
    checkpoint.carried = false;
    assert_bytes(Control::Checkpoint(checkpoint.clone()), table(previous, 1, 0, &[], b"state"));
    checkpoint.state = CheckpointState::None;
    checkpoint.previous = None;
    let nowhere = Link { segment: SegmentId::new(0), offset: 0, index: 0 };
    let none = ChainLink { number: 0, link: nowhere };
    assert_bytes(Control::Checkpoint(checkpoint), table(none, 0, 0, &[], b""));

    let expected = Table::of(7, &[U64(reader.get()), Field::Bytes(b"state")]);
    assert_bytes(Control::SnapshotPart { reader, bytes: last }, expected);
    let (head, oldest) = (n.chain_link(), SegmentId::new(n.next()));
    let fields = [U64(reader.get()), Field::ChainLink(head), U64(oldest.get())];
    assert_bytes(Control::ChainCarried { reader, head, oldest }, Table::of(8, &fields));
}

/// (F-11), (F-12)
#[test]
fn manifest_rows_have_the_bytes_of_their_tables() {
    let mut n = Numbers(0);
    let head = ManifestHead {
        next_log: LogId::new(n.next()),
        next_reader: ReaderId::new(n.next()),
        next_epoch: Epoch::new(n.next()),
        time_us: n.next(),
        logs: n.next_u32(),
        readers: n.next_u32(),
        segments: n.next_u32(),
        writers: n.next_u32(),
        rates: Rates::default(),
    };
    let ManifestHead { next_log, next_reader, next_epoch, .. } = head;
    let numbers = [next_log.get(), next_reader.get(), next_epoch.get(), head.time_us];
    let mut fields: Vec<_> = numbers.into_iter().map(U64).collect();
    fields.extend([U32(head.logs), U32(head.readers), U32(head.segments)]);
    assert_bytes(Control::ManifestHead(head), Table::of(32, &fields));

    let (log, created_us) = (LogId::new(n.next()), n.next());
    let (next, last_txid) = (Sequence::new(n.next()), TxId::new(n.next()));
    let (first, name) = (Sequence::new(n.next()), "pay".to_owned());
    let numbers = [log.get(), created_us, next.get(), last_txid.get(), first.get()];
    let mut fields: Vec<_> = numbers.into_iter().map(U64).collect();
    fields.extend([U16(3), Field::Bytes(b"pay")]);
    let row = ManifestLog {
        log,
        created_us,
        next,
        last_txid,
        first,
        bytes: 0,
        sealed: false,
        owner: Epoch::new(0),
        options_version: 0,
        options: None,
        name: name.clone(),
    };
    assert_bytes(Control::ManifestLog(row), Table::of(33, &fields));

    let row = ManifestReader {
        reader: ReaderId::new(n.next()),
        epoch: Epoch::new(n.next()),
        number: n.next(),
        head: Some(n.chain_link()),
        carried: Some(n.chain_link()),
        oldest: SegmentId::new(n.next()),
        deltas: n.next_u32(),
        delta_bytes: n.next(),
        snapshot_bytes: n.next(),
        sources: vec![n.position()],
        name,
    };
    let links = [row.head.unwrap(), row.carried.unwrap()].map(Field::ChainLink);
    let mut fields: Vec<_> =
        [row.reader.get(), row.epoch.get(), row.number].into_iter().map(U64).collect();
    fields.extend(links);
    fields.extend([U64(row.oldest.get()), U64(row.delta_bytes), U64(row.snapshot_bytes)]);
    fields.extend([U32(row.deltas), U16(1), U16(3), Field::Position(row.sources[0])]);
    fields.push(Field::Bytes(b"pay"));
    assert_bytes(Control::ManifestReader(row), Table::of(34, &fields));

    let (segment, end, digest) = (SegmentId::new(n.next()), n.next(), n.next());
    let entries = n.next_u32();
    for flags in 0..4 {
        let (shortened, freed) = (flags & 1 != 0, flags & 2 != 0);
        let row = ManifestSegment { segment, end, digest, entries, shortened, freed };
        let fields = [U64(segment.get()), U64(end), U64(digest), U32(entries), U32(flags)];
        assert_bytes(Control::ManifestSegment(row), Table::of(35, &fields));
    }
}

/// (F-11): what a record means is not guessed.
#[test]
fn control_records_of_another_form_are_not_valid() {
    let good = Table::of(2, &[U64(1)]);
    assert!(Control::take_all(good.clone().into(), 1).is_some());
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    // Kinds that no version had, or a later one may have; a flag; a body that is too short or long.
    for kind in (11..32).chain(36..=255).chain([0]) {
        assert_eq!(Control::take_all(with(0, kind).into(), 1), None, "kind {kind}");
    }
    for bad in [with(1, 1), with(2, 1), with(4, 7), with(4, 9), Table::of(2, &[U64(1), U8(0)])] {
        assert_eq!(Control::take_all(bad.into(), 1), None);
    }
    assert_eq!(Control::take_all(good.clone().into(), 2), None);
    assert_eq!(Control::take_all([good.clone(), good].concat().into(), 1), None);
}

/// (F-2), (F-11): a program that does not know a control record does not act as if it were not
/// there.
#[test]
fn a_segment_with_a_control_record_of_a_later_version_is_refused() {
    for (kind, opens) in [(2, true), (64, false)] {
        let mut catalog = Catalog::default();
        let created =
            Control::LogCreated { log: LogId::new(1), created_us: START_US, name: "a".to_owned() };
        catalog.apply(&created, Link { segment: FIRST, offset: 4096, index: 0 }).unwrap();
        let file = segment(&catalog, &Table::of(kind, &[U64(1)]));
        let opened = open(vec![(FIRST, file)]);
        match opened.err() {
            None => assert!(opens),
            Some(OpenError::Damaged(damaged)) => {
                assert!(!opens && damaged.what.contains("control record"), "{damaged:?}");
            }
            Some(error) => panic!("{error}"),
        }
    }
}

/// A segment with a manifest and one entry of one control record.
fn segment(catalog: &Catalog, control: &[u8]) -> Vec<u8> {
    let header = SegmentHeader {
        version: VERSION,
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
    let (block, mut previous_digest) = header.encode();
    let mut file = BytesMut::from(&block[..]);
    let manifest = catalog.manifest(START_US, 1 << 16);
    let [(manifest, rows)] = &manifest[..] else { panic!("a small manifest") };
    let entries = [(Flags::MANIFEST_END, &manifest[..], *rows), (Flags::DATA, control, 1)];
    for (entry, (flags, control, count)) in (0..).zip(entries) {
        let offset = u32::try_from(file.len()).unwrap();
        let place = Place { entry, offset, ..place(FIRST) };
        let head = EntryHead { place, flags, previous_digest, time_us: START_US, durable: entry };
        let none: [RecordsIn<'_, StagedRecord>; 0] = [];
        previous_digest =
            put_entry(&mut file, &head, (control, count), &none, &mut Packer::default()).1;
    }
    file.to_vec()
}

/// A small generator, so that a failing seed can be run again.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.roll() % limit as u64).unwrap()
    }

    fn bytes(&mut self, len_max: usize) -> Bytes {
        let len = self.below(len_max + 1);
        (0..len).map(|_| self.roll().to_le_bytes()[0]).collect::<Vec<_>>().into()
    }

    fn name(&mut self) -> String {
        "n".repeat(1 + self.below(255))
    }

    fn link(&mut self) -> Link {
        let segment = SegmentId::new(self.roll());
        Link { segment, offset: self.roll() as u32, index: self.roll() as u32 }
    }

    fn chain_link(&mut self) -> Option<ChainLink> {
        (self.below(3) > 0).then(|| ChainLink { number: self.roll().max(1), link: self.link() })
    }

    fn positions(&mut self) -> Vec<SourcePosition> {
        let one = |dice: &mut Self| SourcePosition {
            log: LogId::new(dice.roll()),
            next: Sequence::new(dice.roll()),
        };
        (0..self.below(5)).map(|_| one(self)).collect()
    }

    fn checkpoint(&mut self) -> Checkpoint {
        let from = self.positions();
        let to = |from: &SourcePosition| SourcePosition {
            next: Sequence::new(self.0 ^ from.next.get()),
            ..*from
        };
        let to = from.iter().map(to).collect();
        let state = match self.below(3) {
            0 => CheckpointState::None,
            1 => CheckpointState::Delta(self.bytes(300)),
            _ => CheckpointState::Snapshot {
                parts: (0..self.below(4)).map(|_| self.link()).collect(),
                last: self.bytes(300),
            },
        };
        Checkpoint {
            reader: ReaderId::new(self.roll()),
            epoch: Epoch::new(self.roll()),
            number: self.roll(),
            carried: self.below(2) == 0,
            previous: self.chain_link(),
            from,
            to,
            state,
        }
    }

    fn control(&mut self) -> Control {
        let (log, reader) = (LogId::new(self.roll()), ReaderId::new(self.roll()));
        match self.below(7) {
            0 => Control::LogCreated { log, created_us: self.roll(), name: self.name() },
            1 => Control::LogTruncated { log, first: Sequence::new(self.roll()) },
            2 => Control::SnapshotPart { reader, bytes: self.bytes(500) },
            3 => Control::ReaderOpened {
                reader,
                epoch: Epoch::new(self.roll()),
                sources: self.positions(),
                name: self.name(),
            },
            4 => Control::ManifestReader(ManifestReader {
                reader,
                epoch: Epoch::new(self.roll()),
                number: self.roll(),
                head: self.chain_link(),
                carried: self.chain_link(),
                oldest: SegmentId::new(self.roll()),
                deltas: self.roll() as u32,
                delta_bytes: self.roll(),
                snapshot_bytes: self.roll(),
                sources: self.positions(),
                name: self.name(),
            }),
            _ => Control::Checkpoint(self.checkpoint()),
        }
    }

    fn records(&mut self) -> Vec<StagedRecord> {
        let mut txid = self.roll() / 2;
        let count = 1 + self.below(20);
        let mut one = |dice: &mut Self| {
            txid += dice.below(3) as u64;
            StagedRecord { txid: TxId::new(txid), payload: dice.bytes(400) }
        };
        (0..count).map(|_| one(self)).collect()
    }
}

/// (F-6), (F-8), (F-10), (F-11): any entry reads back as it was written, and cut off it does not.
#[test]
fn any_entry_reads_back_as_written() {
    for seed in 0..500 {
        let mut dice = Dice(seed);
        let controls: Vec<_> = (0..dice.below(6)).map(|_| dice.control()).collect();
        let logs: Vec<_> = (0..dice.below(6)).map(|_| dice.records()).collect();
        let first = |log: usize| Sequence::new(log as u64 * 1_000);
        let sections: Vec<_> = logs
            .iter()
            .enumerate()
            .map(|(log, records)| RecordsIn {
                codec: Codec::None,
                log: LogId::new(log as u64 + 1),
                first_sequence: first(log),
                records,
            })
            .collect();
        let mut control = BytesMut::new();
        controls.iter().for_each(|record| record.put(&mut control));
        let (entry, offset) = (dice.roll() as u32, 4096 * (1 + dice.below(200)) as u32);
        let head = EntryHead {
            place: Place { entry, offset, ..place(FIRST) },
            flags: Flags::DATA,
            previous_digest: dice.roll(),
            time_us: dice.roll(),
            durable: dice.roll() as u32,
        };
        let mut out = BytesMut::new();
        let count = u32::try_from(controls.len()).unwrap();
        let (heads, digest) =
            put_entry(&mut out, &head, (&control, count), &sections, &mut Packer::default());
        let payloads = logs.iter().flatten().map(|record| 16 + record.payload.len());
        let bytes = (control.len() + payloads.sum::<usize>()) as u64;
        assert_eq!(out.len() as u64, entry_size(heads.len(), bytes), "seed {seed}");

        let out = out.freeze();
        let read = Entry::parse(&out).expect("a whole entry");
        assert_eq!((&read.head, &read.sections, read.digest), (&head, &heads, digest));
        assert!(read.stands_at(&head.place) && read.sections_match(&out), "seed {seed}");
        assert_eq!(oncelog::recover::control_records(&read, &out), Some(controls));
        for (section, records) in read.records().zip(&logs) {
            let begin = section.offset as usize;
            let mut bytes = out.slice(begin..begin + section.len as usize);
            for record in records {
                let taken = take_record(&mut bytes).expect("a whole record");
                assert_eq!(taken, (record.txid, record.payload.clone()), "seed {seed}");
            }
            assert!(bytes.is_empty());
        }
        let cut = dice.below(out.len());
        let short = &out[..cut];
        let whole = Entry::parse(short).is_some_and(|entry| entry.sections_match(short));
        let used = heads.last().map_or(96, |last| (last.offset + last.len) as usize);
        assert_eq!(whole, cut >= used, "seed {seed}, cut at {cut}");
    }
}

/// (F-10)
#[test]
fn records_of_another_form_are_not_valid() {
    let mut good = Vec::new();
    put_record(&mut good, TxId::new(0x0807_0605_0403_0201), b"payload");
    let header = [1, 2, 3, 4, 5, 6, 7, 8, 7, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(good, [&header[..], b"payload"].concat());
    for (at, byte) in [(8, 8), (12, 1), (13, 1), (14, 1), (15, 1)] {
        let mut bad = good.clone();
        bad[at] = byte;
        assert_eq!(take_record(&mut bad.into()), None, "byte {at}");
    }
    assert_eq!(take_record(&mut good[..15].to_vec().into()), None);
}
