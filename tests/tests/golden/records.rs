//! Round trips of entries, records and control records, and what is refused among them.
//!
//! Not here: the bytes of each kind of control record (`tables`).

use bytes::{Bytes, BytesMut};
use oncelog::format::Place;
use oncelog::format::codec::{Codec, Packer};
use oncelog::format::control::{
    ChainLink, Checkpoint, CheckpointState, Control, Link, ManifestReader, SourcePosition,
};
use oncelog::format::entry::{Entry, EntryHead, Flags, RecordsIn, entry_size, put_entry};
use oncelog::format::record::{put_record, take_record};
use oncelog::position::{Epoch, LogId, ReaderId, SegmentId, Sequence, TxId};
use oncelog::request::StagedRecord;

use crate::place;
use crate::script::FIRST;
use crate::tables::table;

/// (F-11): what a record means is not guessed.
#[test]
fn control_records_of_another_form_are_not_valid() {
    let good = table(2, &1_u64.to_le_bytes());
    assert!(Control::take_all(good.clone().into(), 1).is_some());
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    // Kinds that no version had, or a later one may have; a flag; a body that is too short or long.
    let unknown = (12..16).chain(20..24).chain([0, 27]).chain(29..32).chain(39..=255);
    for kind in unknown {
        assert_eq!(Control::take_all(with(0, kind).into(), 1), None, "kind {kind}");
    }
    for bad in [with(1, 1), with(2, 1), with(4, 7), with(4, 9), table(2, &[0; 9])] {
        assert_eq!(Control::take_all(bad.into(), 1), None);
    }
    assert_eq!(Control::take_all(good.clone().into(), 2), None);
    assert_eq!(Control::take_all([good.clone(), good].concat().into(), 1), None);
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
