//! A disk in memory that completes every operation at once, in order, and a shard on top of it.
//!
//! Not here: faults and crashes. The bytes that a shard writes are all that these tests are about.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use oncelog::buf::Buf;
use oncelog::error::{OpenError, Stopped};
use oncelog::format::VERSION;
use oncelog::format::header::Superblock;
use oncelog::io::{Completion, Found, IoError, Now, Op, OpKind, Side, SpareId};
use oncelog::position::{SegmentId, ShardId};
use oncelog::reply::{Pending, Reply, pair};
use oncelog::request::Request;
use oncelog::shard::{Shard, ShardConfig};
use oncelog::sync::SyncMethod;

pub(crate) const ENGINE: [u8; 16] = [
    0xe0, 0xe1, 0xe2, 0xe3, 0xe4, 0xe5, 0xe6, 0xe7, 0xe8, 0xe9, 0xea, 0xeb, 0xec, 0xed, 0xee, 0xef,
];
pub(crate) const SHARD: ShardId = ShardId::new(3);
pub(crate) const SEGMENT_SIZE: u64 = 1 << 20;
/// 2023-11-14, 22:13:20.
pub(crate) const START_US: u64 = 1_700_000_000_000_000;
/// How far the clock moves with each turn.
pub(crate) const TURN_US: u64 = 1_000;

#[derive(Clone)]
pub(crate) struct Disk {
    pub superblock: Superblock,
    pub segments: BTreeMap<SegmentId, Vec<u8>>,
    pub spares: BTreeMap<SpareId, Vec<u8>>,
    pub indexes: BTreeMap<SegmentId, Bytes>,
}

impl Disk {
    pub(crate) fn new() -> Self {
        let superblock = Superblock {
            version: VERSION,
            engine: ENGINE,
            shard_count: 4,
            segment_size: SEGMENT_SIZE,
            generation: 1,
            created_us: START_US,
            begun: [0; 32],
        };
        let (segments, spares, indexes) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { superblock, segments, spares, indexes }
    }

    /// A disk that holds these segments, each filled up with zeros to its full size.
    pub(crate) fn with(segments: impl IntoIterator<Item = (SegmentId, Vec<u8>)>) -> Self {
        let mut disk = Self::new();
        disk.superblock.set_begun(SHARD);
        for (segment, mut bytes) in segments {
            bytes.resize(usize::try_from(SEGMENT_SIZE).unwrap(), 0);
            disk.segments.insert(segment, bytes);
        }
        disk
    }

    fn found(&self) -> Vec<Found> {
        let segments = self.segments.iter().map(|(n, file)| Found::Segment(*n, file.len() as u64));
        let spares = self.spares.iter().map(|(n, file)| Found::Spare(*n, file.len() as u64));
        segments.chain(spares).collect()
    }

    fn run(&mut self, op: Op) -> Completion {
        let mut done = Completion { id: op.id, result: Ok(0), buf: None, side: None };
        match op.kind {
            OpKind::Write { segment, offset, buf, .. } => {
                self.file(segment)[at(offset)..][..buf.len()].copy_from_slice(buf.as_slice());
                done.result = Ok(u32::try_from(buf.len()).unwrap());
                done.buf = Some(buf);
            }
            OpKind::Read { segment, offset, buf } => {
                let (count, buf) = fill(&self.file(segment)[at(offset)..], buf);
                done.result = Ok(count);
                done.buf = Some(buf);
            }
            OpKind::Sync { segment } => drop(self.file(segment)),
            OpKind::MakeSpare { spare, size, .. } => {
                drop(self.spares.insert(spare, vec![0; at(size)]));
            }
            OpKind::UseSpare { spare, segment } => {
                let file = self.spares.remove(&spare).expect("the spare is there");
                assert!(self.segments.insert(segment, file).is_none());
            }
            OpKind::Recycle { segment, spare } => {
                self.indexes.remove(&segment);
                let file = self.segments.remove(&segment).expect("the segment is there");
                assert!(self.spares.insert(spare, file).is_none());
            }
            OpKind::RemoveSegment { segment } => {
                self.indexes.remove(&segment);
                self.segments.remove(&segment);
            }
            OpKind::RemoveSpare { spare } => drop(self.spares.remove(&spare)),
            OpKind::Shorten { segment, len } => self.file(segment).truncate(at(len)),
            OpKind::Begin => {
                self.superblock.generation += 1;
                self.superblock.set_begun(SHARD);
            }
            OpKind::WriteSide { segment, side: Side::Index, bytes } => {
                drop(self.indexes.insert(segment, bytes));
            }
            OpKind::Punch { segment, ranges } => {
                for range in ranges {
                    self.file(segment)[at(range.start)..at(range.end)].fill(0);
                }
            }
            OpKind::WriteSide { side: Side::Tail, .. } => {}
            OpKind::ReadSide { segment, .. } => match self.indexes.get(&segment) {
                Some(bytes) => done.side = Some(bytes.clone()),
                None => done.result = Err(not_found()),
            },
        }
        done
    }

    fn file(&mut self, segment: SegmentId) -> &mut Vec<u8> {
        self.segments.get_mut(&segment).expect("the segment is there")
    }
}

fn fill(from: &[u8], mut buf: Buf) -> (u32, Buf) {
    let count = buf.len().min(from.len());
    buf.as_mut_slice()[..count].copy_from_slice(&from[..count]);
    (u32::try_from(count).unwrap(), buf)
}

fn not_found() -> IoError {
    std::io::Error::from(std::io::ErrorKind::NotFound).into()
}

fn at(offset: u64) -> usize {
    usize::try_from(offset).unwrap()
}

/// A shard, its disk and its clock.
pub(crate) struct World {
    pub disk: Disk,
    pub shard: Shard,
    now: Now,
}

impl World {
    /// Opens the shard. The clock begins `turns` turns after the start.
    pub(crate) fn open(disk: Disk, turns: u64) -> Result<Self, OpenError> {
        Self::open_as(disk, turns, ENGINE)
    }

    pub(crate) fn open_as(disk: Disk, turns: u64, engine: [u8; 16]) -> Result<Self, OpenError> {
        let config = ShardConfig {
            engine,
            shard: SHARD,
            segment_size: SEGMENT_SIZE,
            begun: disk.superblock.has_begun(SHARD),
            tail_cache_size: SEGMENT_SIZE,
            sync_method: Some(SyncMethod::Dsync),
        };
        let shard = Shard::open(config, &disk.found());
        let mono_us = turns * TURN_US;
        let mut world = Self { disk, shard, now: Now { wall_us: START_US + mono_us, mono_us } };
        world.turn();
        world.shard.poll_opened().expect("opening is over").map(|()| world)
    }

    /// The clock moves on, then everything that is to be done is done.
    pub(crate) fn turn(&mut self) {
        self.wait(TURN_US);
    }

    /// As [`turn`](Self::turn), with the clock moving on by so much.
    pub(crate) fn wait(&mut self, us: u64) {
        self.now.wall_us += us;
        self.now.mono_us += us;
        while let Some(op) = self.shard.poll_op(self.now) {
            let done = self.disk.run(op);
            self.shard.handle_completion(done, self.now);
        }
        while let Some(answer) = self.shard.poll_answer() {
            answer.deliver();
        }
    }

    /// Hands a request over, without a turn: several of them share an entry.
    pub(crate) fn ask<T, E: From<Stopped>>(
        &mut self,
        request: impl FnOnce(Reply<T, E>) -> Request,
    ) -> Asked<T, E> {
        let (reply, pending) = pair();
        self.shard.handle_request(request(reply), self.now);
        Asked(pending)
    }

    /// Hands a request over, and gives its answer.
    pub(crate) fn run<T, E: From<Stopped> + std::fmt::Debug>(
        &mut self,
        request: impl FnOnce(Reply<T, E>) -> Request,
    ) -> T {
        let asked = self.ask(request);
        self.turn();
        asked.answer()
    }
}

/// An answer on its way.
pub(crate) struct Asked<T, E: From<Stopped>>(Pending<T, E>);

impl<T, E: From<Stopped> + std::fmt::Debug> Asked<T, E> {
    /// The answer, which must be there and good.
    pub(crate) fn answer(self) -> T {
        self.result().unwrap()
    }

    /// The answer, which must be there.
    pub(crate) fn result(self) -> Result<T, E> {
        let mut context = Context::from_waker(Waker::noop());
        match pin!(self.0).poll(&mut context) {
            Poll::Ready(answer) => answer,
            Poll::Pending => panic!("the request was not answered in its turn"),
        }
    }
}
