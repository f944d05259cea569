//! A disk that is found to be full late: a spare takes long to make, and then there is no room.
//!
//! Goal: what frees space is taken whenever the disk is full, however that came about.
//! Method: the core alone, with files in memory, so that the spare fails exactly when it must.
//!
//! Not here: real full disks (`full_disk`), other faults (`sim_crash`).

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind};

use oncelog::change::Author;
use oncelog::io::{Completion, Now, Op, OpId, OpKind, SpareId};
use oncelog::reply::pair;
use oncelog::request::{NewRecord, OpenMode, Request};
use oncelog::shard::{Shard, ShardConfig};
use oncelog::{AppendError, LogId, SegmentId, Sequence, ShardId};
use oncelog_tests::sim::asking::take;

const NOW: Now = Now { wall_us: 1, mono_us: 1 };

struct World {
    shard: Shard,
    files: BTreeMap<SegmentId, Vec<u8>>,
    spares: BTreeMap<SpareId, Vec<u8>>,
    /// Spares are not made any more; these were asked for.
    full: bool,
    asked: Vec<OpId>,
}

impl World {
    fn new() -> Self {
        let config = ShardConfig {
            engine: [7; 16],
            shard: ShardId::new(0),
            segment_size: 1 << 20,
            begun: false,
            tail_cache_size: 1 << 20,
            sync_method: None,
        };
        let (files, spares) = (BTreeMap::new(), BTreeMap::new());
        let shard = Shard::open(config, &[]);
        let mut world = Self { shard, files, spares, full: false, asked: Vec::new() };
        world.run();
        world
    }

    fn run(&mut self) {
        while let Some(Op { id, kind }) = self.shard.poll_op(NOW) {
            let mut done = Completion { id, result: Ok(0), buf: None, side: None };
            match kind {
                OpKind::Write { segment, offset, buf, .. } => {
                    let at = usize::try_from(offset).unwrap();
                    let file = self.files.get_mut(&segment).unwrap();
                    file[at..at + buf.len()].copy_from_slice(buf.as_slice());
                    done.result = Ok(u32::try_from(buf.len()).unwrap());
                    done.buf = Some(buf);
                }
                OpKind::MakeSpare { .. } if self.full => {
                    self.asked.push(id);
                    continue;
                }
                OpKind::MakeSpare { spare, size, .. } => {
                    self.spares.insert(spare, vec![0; usize::try_from(size).unwrap()]);
                }
                OpKind::UseSpare { spare, segment } => {
                    let file = self.spares.remove(&spare).unwrap();
                    self.files.insert(segment, file);
                }
                OpKind::Recycle { segment, spare } => {
                    let file = self.files.remove(&segment).unwrap();
                    self.spares.insert(spare, file);
                }
                OpKind::Read { .. } | OpKind::ReadSide { .. } => {
                    done.result = Err(Error::from(ErrorKind::NotFound).into());
                }
                _ => {}
            }
            self.shard.handle_completion(done, NOW);
        }
        while let Some(answer) = self.shard.poll_answer() {
            answer.deliver();
        }
    }

    fn create(&mut self) -> LogId {
        let (reply, mut pending) = pair();
        let (name, mode) = ("log".to_owned(), OpenMode::Create);
        self.shard.handle_request(Request::OpenLog { name, mode, options: None, reply }, NOW);
        self.run();
        take(&mut pending).unwrap().unwrap().id
    }
}

#[test]
fn truncation_goes_on_also_if_the_full_disk_is_noticed_late() {
    for len in [100, 5_000, 40_000, 120_000] {
        let mut world = World::new();
        let log = world.create();
        let mut count = 0;
        let mut waits = loop {
            // A whole segment, and one behind it that has no successor.
            world.full |= world.files.len() >= 2;
            let (reply, mut pending) = pair();
            let record = NewRecord::new(vec![1; len]);
            world.shard.handle_request(
                Request::Append { log, author: Author::Anyone, record, reply },
                NOW,
            );
            world.run();
            match take(&mut pending) {
                Some(appended) => drop(appended.unwrap()),
                None => break pending,
            }
            count += 1;
        };
        assert!(!world.asked.is_empty(), "it waits for a spare");
        for id in std::mem::take(&mut world.asked) {
            let result = Err(Error::from(ErrorKind::StorageFull).into());
            world.shard.handle_completion(Completion { id, result, buf: None, side: None }, NOW);
        }
        world.run();
        assert!(matches!(take(&mut waits), Some(Err(AppendError::NoSpace(_)))), "{len}");
        let (reply, mut pending) = pair();
        let before = Sequence::new(count - 1);
        world.shard.handle_request(Request::Truncate { log, before, reply }, NOW);
        world.run();
        take(&mut pending).expect("it need not wait").expect("it frees space");
    }
}
