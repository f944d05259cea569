//! What the device is given, and when: entries that gather, reads ahead that stand back, segments.
//!
//! Goal: the rules that make the engine fast hold, and never keep a request from its answer.
//! Method: the core alone, with files in memory; operations complete when the test says so.
//!
//! Not here: how fast it is (`bench-harness`), and crashes (`sim_crash`).

use std::collections::BTreeMap;

use oncelog::change::Author;
use oncelog::io::{Completion, Now, Op, OpKind, SpareId};
use oncelog::limits::{READ_PIECE_BESIDE_WRITES, WRITING_US};
use oncelog::reply::{Pending, pair};
use oncelog::request::{
    Appended, At, NewRecord, OpenMode, Part, ReadAnswer, ReadRequest, Request, Wait,
};
use oncelog::shard::{Shard, ShardConfig};
use oncelog::{AppendError, LogId, ReadError, SegmentId, Sequence, ShardId};
use oncelog_tests::sim::asking::take;

type Append = Pending<Appended, AppendError>;
type Read = Pending<ReadAnswer, ReadError>;

struct World {
    shard: Shard,
    now: Now,
    files: BTreeMap<SegmentId, Vec<u8>>,
    spares: BTreeMap<SpareId, Vec<u8>>,
    /// Whether each spare was to be written.
    made: Vec<bool>,
    /// Operations that the device has.
    held: Vec<Op>,
}

impl World {
    fn new(segment_size: u64) -> Self {
        let config = ShardConfig {
            engine: [7; 16],
            shard: ShardId::new(0),
            segment_size,
            begun: false,
            tail_cache_size: 0,
            sync_method: None,
        };
        let mut world = Self {
            shard: Shard::open(config, &[]),
            now: Now { wall_us: 1, mono_us: 1 },
            files: BTreeMap::new(),
            spares: BTreeMap::new(),
            made: Vec::new(),
            held: Vec::new(),
        };
        world.finish_all();
        world
    }

    /// Gives the device what there is, and clients their answers.
    fn poll(&mut self) {
        while let Some(op) = self.shard.poll_op(self.now) {
            self.held.push(op);
        }
        while let Some(answer) = self.shard.poll_answer() {
            answer.deliver();
        }
    }

    fn finish_all(&mut self) {
        self.poll();
        while !self.held.is_empty() {
            self.finish(0);
        }
    }

    /// The device is done with an operation.
    fn finish(&mut self, index: usize) {
        let Op { id, kind } = self.held.remove(index);
        let mut done = Completion { id, result: Ok(0), buf: None, side: None };
        match kind {
            OpKind::Write { segment, offset, buf, .. } => {
                let at = usize::try_from(offset).unwrap();
                let file = self.files.get_mut(&segment).unwrap();
                file[at..at + buf.len()].copy_from_slice(buf.as_slice());
                done.result = Ok(u32::try_from(buf.len()).unwrap());
                done.buf = Some(buf);
            }
            OpKind::Read { segment, offset, mut buf } => {
                let at = usize::try_from(offset).unwrap();
                let len = buf.len();
                buf.as_mut_slice().copy_from_slice(&self.files[&segment][at..at + len]);
                done.result = Ok(u32::try_from(len).unwrap());
                done.buf = Some(buf);
            }
            OpKind::MakeSpare { spare, size, written } => {
                self.made.push(written);
                self.spares.insert(spare, vec![0; usize::try_from(size).unwrap()]);
            }
            OpKind::UseSpare { spare, segment } => {
                let file = self.spares.remove(&spare).unwrap();
                self.files.insert(segment, file);
            }
            _ => {}
        }
        self.shard.handle_completion(done, self.now);
        self.poll();
    }

    /// Time goes by without any record being written.
    fn rest(&mut self) {
        self.now.mono_us += WRITING_US;
        self.poll();
    }

    fn create(&mut self) -> LogId {
        let (reply, mut pending) = pair();
        let (name, mode) = ("log".to_owned(), OpenMode::Create);
        self.shard.handle_request(Request::OpenLog { name, mode, options: None, reply }, self.now);
        self.finish_all();
        take(&mut pending).unwrap().unwrap().id
    }

    fn append(&mut self, log: LogId, len: usize) -> Append {
        let (reply, pending) = pair();
        let record = NewRecord::new(vec![1; len]);
        self.shard.handle_request(
            Request::Append { log, author: Author::Anyone, record, reply },
            self.now,
        );
        pending
    }

    fn read(&mut self, log: LogId, from: u64, bytes_max: u32, ahead: bool) -> Read {
        let (reply, pending) = pair();
        let at = At::Sequence(Sequence::new(from));
        let read = ReadRequest { log, at, bytes_max, wait: Wait::No, ahead, planned: None, reply };
        self.shard.handle_request(Request::Read(read), self.now);
        pending
    }

    fn writes(&self) -> usize {
        self.held.iter().filter(|op| matches!(op.kind, OpKind::Write { .. })).count()
    }

    /// Bytes of each read that the device has.
    fn reads(&self) -> Vec<u64> {
        let read = |op: &Op| match &op.kind {
            OpKind::Read { buf, .. } => Some(buf.len() as u64),
            _ => None,
        };
        self.held.iter().filter_map(read).collect()
    }
}

#[test]
fn an_entry_waits_for_half_as_many_requests_as_those_in_flight_have_or_for_their_end() {
    let mut world = World::new(1 << 20);
    let log = world.create();
    let mut answers: Vec<_> = (0..10).map(|_| world.append(log, 10)).collect();
    world.poll();
    assert_eq!(world.writes(), 1, "nothing is in flight: nothing is waited for");
    answers.extend((0..4).map(|_| world.append(log, 10)));
    world.poll();
    assert_eq!((world.writes(), world.shard.gathers()), (1, 1));
    answers.push(world.append(log, 10));
    world.poll();
    assert_eq!(world.writes(), 2, "five are half of ten");
    // One alone, behind entries in flight: it goes when they are durable, whoever comes or not.
    answers.push(world.append(log, 10));
    world.poll();
    assert_eq!(world.writes(), 2);
    world.finish_all();
    assert!(answers.iter_mut().all(|answer| take(answer).is_some_and(|answer| answer.is_ok())));
}

#[test]
fn reads_ahead_stand_back_while_records_are_written_others_do_not_and_all_are_answered() {
    let mut world = World::new(8 << 20);
    let log = world.create();
    let mut answers = vec![world.append(log, 10)];
    world.finish_all();
    for _ in 0..40 {
        answers.extend((0..8).map(|_| world.append(log, 4 << 10)));
        world.finish_all();
    }
    assert!(answers.iter_mut().all(|answer| take(answer).unwrap().is_ok()));
    let answered = |read: &mut Read| take(read).expect("all is done").unwrap().sections.len();

    // Nothing is written: all at once.
    world.rest();
    let mut all = world.read(log, 1, 4 << 20, true);
    world.poll();
    assert!(world.reads().iter().sum::<u64>() > 1 << 20, "{:?}", world.reads());
    world.finish_all();
    assert_eq!(answered(&mut all), 40);

    // A write is in flight: of what nobody waits for yet one piece at a time; the rest at once.
    let mut append = world.append(log, 10);
    world.poll();
    let mut all: Vec<_> = (0..5).map(|_| world.read(log, 1, 4 << 20, true)).collect();
    world.poll();
    assert_eq!((world.writes(), world.reads().len()), (1, 1));
    assert!(world.reads()[0] <= READ_PIECE_BESIDE_WRITES, "{:?}", world.reads());
    let mut small: Vec<_> = (0..3).map(|_| world.read(log, 0, 1, false)).collect();
    world.poll();
    assert_eq!(world.reads()[1..], [4096; 3], "those that somebody waits for");
    world.finish(world.held.len() - 1);
    assert_eq!(world.reads().len(), 3, "and nothing ahead while there are others");
    assert!(take(&mut append).is_none());

    // Closing meanwhile: whoever asked before is answered, also where there are more pieces than
    // the device is given at once.
    let (reply, mut closed) = pair();
    world.shard.handle_request(Request::Close { reply }, world.now);
    world.finish_all();
    assert!(take(&mut append).unwrap().is_ok());
    assert!(small.iter_mut().all(|read| answered(read) == 1));
    assert!(all.iter_mut().all(|read| answered(read) == 40));
    assert!(take(&mut closed).unwrap().is_ok() && world.shard.is_finished());
}

#[test]
fn segments_for_large_entries_are_only_allocated_and_those_for_small_ones_are_written() {
    for (len, records, written) in [(1_000, 1000, false), (100, 1, true)] {
        let mut world = World::new(8 << 20);
        let log = world.create();
        let mut appended = 0;
        while world.files.len() < 4 {
            let (reply, mut pending) = pair();
            let batch = (0..records).map(|_| NewRecord::new(vec![1; len])).collect();
            let parts = vec![Part { log, author: Author::Anyone, records: batch }];
            world.shard.handle_request(Request::AppendBatch { parts, reply }, world.now);
            world.finish_all();
            appended += take(&mut pending).unwrap().unwrap()[0].count;
        }
        assert!(appended > 0 && world.made[0], "the first is written: nothing is known yet");
        assert_eq!(*world.made.last().unwrap(), written, "{len} x {records}: {:?}", world.made);
    }
}
