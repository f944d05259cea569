//! The bytes of each kind of control record, as the tables of docs/format.md give them.
//!
//! Not here: entries around them, and what is no control record (`records`).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use oncelog::format::control::{
    ChainLink, Checkpoint, CheckpointState, Control, Link, ManifestHead, ManifestLog,
    ManifestReader, ManifestSegment, ManifestWriter, SourcePosition, WriterBatch,
};
use oncelog::position::{Dlsn, Epoch, LogId, ReaderId, SegmentId, Sequence, TxId};
use oncelog::{Codec, LogOptions, Rates};

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

#[derive(Clone)]
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

/// (F-11)
#[test]
fn control_records_of_writers_and_settings_have_the_bytes_of_their_tables() {
    let mut n = Numbers(0);
    let (log, epoch, name) = (LogId::new(n.next()), Epoch::new(n.next()), "till".to_owned());
    for (increasing, flag) in [(false, 0), (true, 1)] {
        let fields = [U64(log.get()), U64(epoch.get()), U16(flag), U16(4), Field::Bytes(b"till")];
        let name = name.clone();
        let opened = Control::WriterOpened { log, epoch, increasing, name };
        assert_bytes(opened, Table::of(16, &fields));
    }
    let (number, first, count) = (n.next(), Sequence::new(n.next()), n.next_u32());
    let (entry, slot) = (n.next_u32(), n.next_u32());
    let fields = [U64(epoch.get()), U64(number), U64(first.get())];
    let fields = fields.into_iter().chain([U32(count), U32(entry), U32(slot)]).collect::<Vec<_>>();
    let appended = Control::WriterAppended { epoch, number, first, count, entry, slot };
    assert_bytes(appended, Table::of(17, &fields));
    assert_bytes(Control::WriterForgotten { epoch }, Table::of(18, &[U64(epoch.get())]));
    let expected = Table::of(19, &[U64(log.get()), U64(epoch.get())]);
    assert_bytes(Control::LogOwned { log, epoch }, expected);

    let next = Sequence::new(n.next());
    let expected = Table::of(24, &[U64(log.get()), U64(next.get())]);
    assert_bytes(Control::LogSealed { log, next }, expected);
    let expected = Table::of(28, &[U64(log.get()), U16(4), Field::Bytes(b"till")]);
    assert_bytes(Control::LogRenamed { log, name }, expected);
    let segment = SegmentId::new(n.next());
    assert_bytes(Control::SegmentPunched { segment }, Table::of(11, &[U64(segment.get())]));
}

/// Options with every field, and what their table says (F-17).
fn options() -> (LogOptions, Vec<Field<'static>>) {
    let rates = Rates::default().bytes_soft(0x1112).bytes_hard(0x2122_2324);
    let options = LogOptions::default()
        .compression(Codec::Zstd)
        .record_size_max(0x3132_3334)
        .keep_for(Duration::from_micros(0x4142_4344_4546_4748))
        .keep_bytes(0x5152_5354_5556_5758)
        .keep_until("g/p")
        .keep_until("g/qq")
        .rates(rates.records_soft(0x61).records_hard(0x7172))
        .metadata("meta!");
    let mut fields = vec![U64(0x4142_4344_4546_4748), U64(0x5152_5354_5556_5758)];
    fields.extend([U64(0x1112), U64(0x2122_2324), U64(0x61), U64(0x7172)]);
    fields.extend([U32(0x3132_3334), U16(5), U8(2), U8(2)]);
    fields.extend([U16(3), Field::Bytes(b"g/p"), U16(4), Field::Bytes(b"g/qq")]);
    fields.push(Field::Bytes(b"meta!"));
    (options, fields)
}

/// (F-11), (F-17)
#[test]
fn options_and_rates_have_the_bytes_of_their_tables() {
    let (options, fields) = options();
    let log = LogId::new(Numbers(0).next());
    let table: Vec<_> = std::iter::once(U64(log.get())).chain(fields).collect();
    let set = |options| Control::LogOptionsSet { log, options: Arc::new(options) };
    assert_bytes(set(options.clone()), Table::of(25, &table));
    let rates = &table[3..7];
    assert_bytes(Control::RatesSet { rates: options.rates }, Table::of(26, rates));

    // The default ones are zeros.
    let table = [U64(log.get()), Field::Bytes(&[0; 56])];
    assert_bytes(set(LogOptions::default()), Table::of(25, &table));
    let rates = Rates::default();
    assert_bytes(Control::RatesSet { rates }, Table::of(26, &[Field::Bytes(&[0; 32])]));
}

/// (F-17): options that this version does not know are refused, never passed over.
#[test]
fn options_of_another_form_are_not_valid() {
    let table = |codec, readers, metadata, rest: &'static [u8]| {
        let fields = [U64(1), Field::Bytes(&[0; 52]), U16(metadata), U8(codec), U8(readers)];
        let fields: Vec<_> = fields.into_iter().chain([Field::Bytes(rest)]).collect();
        Control::take_all(Table::of(25, &fields).into(), 1)
    };
    assert!(table(2, 0, 0, b"").is_some() && table(0, 1, 2, b"\x01\0pme").is_some());
    assert_eq!(table(3, 0, 0, b""), None, "a codec that nobody knows");
    assert_eq!(table(0, 0, 0, b"x"), None, "bytes that nobody knows");
    assert_eq!(table(0, 0, 2, b"m"), None, "metadata that is cut off");
    assert_eq!(table(0, 1, 0, b"\x02\0p"), None, "a name that is cut off");
    assert_eq!(table(0, 1, 0, b"\x01\0\xff"), None, "a name that is no text");
    assert_eq!(table(0, 17, 0, &[0; 34]), None, "more processors than there may be");
    assert_eq!(table(0, 0, 4097, &[0; 4097]), None, "more metadata than there may be");
}

/// (F-11), (F-12)
#[test]
fn the_head_of_a_manifest_has_the_bytes_of_its_table() {
    let mut n = Numbers(0);
    let (mut head, fields) = manifest_head(&mut n);
    let rates = [head.rates.bytes_soft, head.rates.bytes_hard];
    let rates = rates.into_iter().chain([head.rates.records_soft, head.rates.records_hard]);
    let mut newest = fields.clone();
    newest.push(U32(head.writers));
    newest.extend(rates.map(|rate| U64(rate.unwrap().get())));
    assert_bytes(Control::ManifestHead(head), Table::of(36, &newest));
    // Version 1 knew neither writers nor rates.
    (head.writers, head.rates) = (0, Rates::default());
    assert_reads(&Table::of(32, &fields), Control::ManifestHead(head));
}

/// A head, and its fields in version 1.
fn manifest_head(n: &mut Numbers) -> (ManifestHead, Vec<Field<'static>>) {
    let head = ManifestHead {
        next_log: LogId::new(n.next()),
        next_reader: ReaderId::new(n.next()),
        next_epoch: Epoch::new(n.next()),
        time_us: n.next(),
        logs: n.next_u32(),
        readers: n.next_u32(),
        segments: n.next_u32(),
        writers: n.next_u32(),
        rates: Rates::default().bytes_soft(1).bytes_hard(2).records_soft(3).records_hard(4),
    };
    let ManifestHead { next_log, next_reader, next_epoch, .. } = head;
    let numbers = [next_log.get(), next_reader.get(), next_epoch.get(), head.time_us];
    let mut fields: Vec<_> = numbers.into_iter().map(U64).collect();
    fields.extend([U32(head.logs), U32(head.readers), U32(head.segments)]);
    (head, fields)
}

/// (F-11), (F-12), (F-17)
#[test]
fn rows_of_logs_have_the_bytes_of_their_tables() {
    let mut n = Numbers(0);
    let row = ManifestLog {
        log: LogId::new(n.next()),
        created_us: n.next(),
        next: Sequence::new(n.next()),
        last_txid: TxId::new(n.next()),
        first: Sequence::new(n.next()),
        bytes: n.next(),
        sealed: false,
        owner: Epoch::new(0),
        options_version: 0,
        options: None,
        name: "pay".to_owned(),
    };
    let numbers = [row.log.get(), row.created_us, row.next.get(), row.last_txid.get()];
    let mut before: Vec<_> = numbers.into_iter().map(U64).collect();
    before.push(U64(row.first.get()));
    let table = |fields: &[Field<'static>]| {
        let all = [&before[..], &[U64(row.bytes), U16(3)], fields, &[Field::Bytes(b"pay")]];
        Table::of(37, &all.concat())
    };
    assert_bytes(Control::ManifestLog(row.clone()), table(&[U16(0)]));
    let (owner, version) = (Epoch::new(n.next()), n.next_u32());
    let owned = ManifestLog { owner, sealed: true, ..row.clone() };
    assert_bytes(Control::ManifestLog(owned.clone()), table(&[U16(3), U64(owner.get())]));
    let (options, fields) = options();
    let options = Some(Arc::new(options));
    let all = ManifestLog { options_version: version, options, ..owned };
    let table_of_all = [&[U16(7), U64(owner.get()), U32(version)], &fields[..]].concat();
    assert_bytes(Control::ManifestLog(all), table(&table_of_all));
    // A flag that nobody knows, and an owner that is none.
    for fields in [[U16(8), Field::Bytes(b"")], [U16(2), U64(0)]] {
        assert_eq!(Control::take_all(table(&fields).into(), 1), None);
    }

    let fields = [&before[..], &[U16(3), Field::Bytes(b"pay")]].concat();
    let first = ManifestLog { bytes: 0, ..row };
    assert_reads(&Table::of(33, &fields), Control::ManifestLog(first));
}

/// (F-11), (F-12)
#[test]
fn rows_of_processors_and_segments_have_the_bytes_of_their_tables() {
    let mut n = Numbers(0);
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
        name: "pay".to_owned(),
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

/// (F-11), (F-12)
#[test]
fn rows_of_writers_have_the_bytes_of_their_table() {
    let mut n = Numbers(0);
    let mut row = ManifestWriter {
        log: LogId::new(n.next()),
        epoch: Epoch::new(n.next()),
        increasing: true,
        last: n.next(),
        window: VecDeque::new(),
        name: "till".to_owned(),
    };
    let table = |row: &ManifestWriter, window: &[Field<'static>]| {
        let count = u8::try_from(row.window.len()).unwrap();
        let numbers = [row.log.get(), row.epoch.get(), row.last].map(U64);
        let counts = [U8(row.increasing.into()), U8(count), U16(4)];
        let all = [&numbers[..], &counts, window, &[Field::Bytes(b"till")]];
        Table::of(38, &all.concat())
    };
    assert_bytes(Control::ManifestWriter(row.clone()), table(&row, &[]));
    let mut fields = Vec::new();
    for _ in 0..16 {
        let (number, first, count) = (n.next(), Sequence::new(n.next()), n.next_u32());
        let dlsn = Dlsn::new(SegmentId::new(n.next()), n.next_u32(), n.next_u32());
        row.window.push_back(WriterBatch { number, first, count, dlsn });
        fields.extend([U64(number), U64(first.get()), U64(dlsn.segment().get())]);
        fields.extend([U32(dlsn.entry()), U32(dlsn.slot()), U32(count)]);
    }
    row.increasing = false;
    assert_bytes(Control::ManifestWriter(row.clone()), table(&row, &fields));
    // More than a window.
    row.window.push_back(row.window[0]);
    let longer = [&fields[..], &fields[..6]].concat();
    assert_eq!(Control::take_all(table(&row, &longer).into(), 1), None);
}

/// What version 1 wrote is read, and written as the newest version writes it.
fn assert_reads(old: &[u8], control: Control) {
    let read = Control::take_all(Bytes::copy_from_slice(old), 1);
    assert_eq!(read, Some(vec![control.clone()]));
    assert!(Control::all_of_version(old, 1) && !Control::all_of_version(old, 2));
    let mut newest = BytesMut::new();
    control.put(&mut newest);
    assert_ne!(newest, old);
    assert!(!Control::all_of_version(&newest, 1) && Control::all_of_version(&newest, 2));
}

/// A control record of this kind, with this body.
pub(crate) fn table(kind: u16, body: &[u8]) -> Vec<u8> {
    Table::of(kind, &[Field::Bytes(body)])
}
