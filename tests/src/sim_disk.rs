//! The simulated disk: runs a shard's operations, in any order, with any loss that may happen.
//!
//! Fault model (what `docs/format.md` assumes is marked "never"):
//! - Operations on data complete in any order, after any delay. Operations on files run one after
//!   the other, in the order given. What a write brings is seen by reads from its submission or
//!   from its completion on.
//! - A power cut keeps what a durable write brought that completed, and what a sync covers that
//!   completed: everything whose completion was delivered before the sync was submitted. Of every
//!   other write each 512-byte sector is there or not, in any combination. Half a sector: never.
//! - Of the operations on files under way at a power cut, the first ones are done, the others not.
//!   A rename is atomic. A spare being made is whole or not there.
//! - A side file is never synced: after a power cut it is whole, torn, or gone.
//! - A kill of the process keeps all that reads saw, synced or not.
//! - If asked for: a write, sync or read fails; no room for a spare; bits rot.
//!
//! Broken promises of the *shard* panic here: writing over a durable block or over a write under
//! way, using a segment number twice, touching a file that is not there.
//!
//! Not here: when things happen (`world`).

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Error, ErrorKind};
use std::ops::Range;

use bytes::Bytes;
use oncelog::SegmentId;
use oncelog::buf::Buf;
use oncelog::io::{Completion, Found, IoError, Op, OpId, OpKind, Side, SpareId};
use oncelog::limits::BLOCK_SIZE;

use crate::rng::Rng;
use crate::sim_file::{Fate, SimFile};

/// What goes wrong beside crashes. Each is the chance "one in so many", 0 for never.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// A write fails.
    pub write: u64,
    /// A sync fails.
    pub sync: u64,
    /// A read fails.
    pub read: u64,
    /// There is no room for another file.
    pub full: bool,
}

/// What happened, for the coverage of a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiskCounters {
    /// Writes that a power cut tore.
    pub torn: u64,
    /// Writes that a power cut lost.
    pub lost: u64,
    /// Writes that failed.
    pub failed: u64,
    /// Spares that found no room.
    pub no_space: u64,
}

struct Waiting {
    op: Op,
    submitted_at: u64,
}

/// See the module's head.
#[derive(Default)]
pub struct SimDisk {
    segments: BTreeMap<SegmentId, SimFile>,
    spares: BTreeMap<SpareId, SimFile>,
    sides: BTreeMap<(SegmentId, bool), Vec<u8>>,
    begun: bool,
    waiting: Vec<Waiting>,
    clock: u64,
    /// Numbers of segments that were ever written to.
    written: BTreeSet<SegmentId>,
    /// Durable blocks of each segment.
    settled: BTreeMap<SegmentId, BTreeSet<u64>>,
    /// What goes wrong.
    pub faults: Faults,
    /// What happened.
    pub counters: DiskCounters,
}

fn is_tail(side: Side) -> bool {
    side == Side::Tail
}

fn to_usize(number: u64) -> usize {
    usize::try_from(number).expect("64-bit platforms only")
}

impl SimDisk {
    /// Whether the superblock says that the shard has begun.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.begun
    }

    /// What stands in the directory.
    #[must_use]
    pub fn found(&self) -> Vec<Found> {
        let len = |file: &SimFile| file.live().len() as u64;
        let segments = self.segments.iter().map(|(id, file)| Found::Segment(*id, len(file)));
        let spares = self.spares.iter().map(|(id, file)| Found::Spare(*id, len(file)));
        segments.chain(spares).collect()
    }

    /// How many operations are under way.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.waiting.len()
    }

    /// Takes an operation.
    pub fn submit(&mut self, op: Op, rng: &mut Rng) {
        self.clock += 1;
        if let OpKind::Write { segment, offset, buf, .. } = &op.kind {
            self.check_write(*segment, *offset, buf);
            self.written.insert(*segment);
            if rng.one_in(2) {
                let file = self.segments.get_mut(segment).expect("it was checked");
                file.show(to_usize(*offset), buf.as_slice());
            }
        }
        self.waiting.push(Waiting { op, submitted_at: self.clock });
    }

    fn check_write(&self, segment: SegmentId, offset: u64, buf: &Buf) {
        let block = u64::from(BLOCK_SIZE);
        let end = offset + buf.len() as u64;
        assert!(offset.is_multiple_of(block) && end.is_multiple_of(block) && !buf.is_empty());
        let file = self.segments.get(&segment).expect("a write to a segment that is not there");
        assert!(end <= file.live().len() as u64, "a write behind the end of segment {segment}");
        let settled = self.settled.get(&segment);
        let over = settled.is_some_and(|blocks| blocks.range(offset..end).next().is_some());
        assert!(!over, "a durable block of segment {segment} is written again at {offset}");
        for other in &self.waiting {
            if let OpKind::Write { segment: s, offset: at, buf, .. } = &other.op.kind {
                let apart = *s != segment || end <= *at || at + buf.len() as u64 <= offset;
                assert!(apart, "two writes to the same place of segment {segment} at {offset}");
            }
        }
    }

    /// Completes one operation, any that can be.
    pub fn complete(&mut self, rng: &mut Rng) -> Option<Completion> {
        let first = self.waiting.iter().position(|waiting| is_file_op(&waiting.op.kind));
        let can =
            |index: &usize| !is_file_op(&self.waiting[*index].op.kind) || Some(*index) == first;
        let able: Vec<usize> = (0..self.waiting.len()).filter(can).collect();
        let index = *rng.pick(&able)?;
        self.clock += 1;
        let Waiting { op, submitted_at } = self.waiting.remove(index);
        Some(self.run(op.id, op.kind, submitted_at, rng))
    }

    fn run(&mut self, id: OpId, kind: OpKind, submitted_at: u64, rng: &mut Rng) -> Completion {
        match kind {
            OpKind::Write { segment, offset, buf, durable } => {
                let failed = draw_fault(self.faults.write, rng);
                let file = self.segments.get_mut(&segment).expect("it was there");
                let (at, bytes) = (to_usize(offset), buf.as_slice());
                if failed {
                    self.counters.failed += 1;
                    file.write_in_part(at, bytes, self.clock, rng);
                    return done(id, Err(ErrorKind::Other), Some(buf), None);
                }
                if durable {
                    file.written_durably(at, bytes);
                    self.settle(segment, at..at + bytes.len());
                } else {
                    file.written(at, bytes, self.clock);
                }
                let count = u32::try_from(buf.len()).expect("an entry is small");
                done(id, Ok(count), Some(buf), None)
            }
            OpKind::Sync { segment } => {
                if draw_fault(self.faults.sync, rng) {
                    self.counters.failed += 1;
                    return done(id, Err(ErrorKind::Other), None, None);
                }
                let file = self.segments.get_mut(&segment).expect("a sync of what is not there");
                for range in file.synced(submitted_at) {
                    self.settle(segment, range);
                }
                done(id, Ok(0), None, None)
            }
            OpKind::Read { segment, offset, mut buf } => {
                let file = self.segments.get(&segment).map(SimFile::live);
                if draw_fault(self.faults.read, rng) {
                    return done(id, Err(ErrorKind::Other), Some(buf), None);
                }
                let Some(live) = file else {
                    return done(id, Err(ErrorKind::NotFound), Some(buf), None);
                };
                let from = &live[to_usize(offset).min(live.len())..];
                let count = from.len().min(buf.len());
                buf.as_mut_slice()[..count].copy_from_slice(&from[..count]);
                done(id, Ok(u32::try_from(count).expect("reads are small")), Some(buf), None)
            }
            OpKind::ReadSide { segment, side } => match self.sides.get(&(segment, is_tail(side))) {
                Some(bytes) => done(id, Ok(0), None, Some(Bytes::copy_from_slice(bytes))),
                None => done(id, Err(ErrorKind::NotFound), None, None),
            },
            kind => {
                let result = self.run_on_files(kind);
                self.counters.no_space += u64::from(result.is_err());
                done(id, result.map(|()| 0), None, None)
            }
        }
    }

    /// These bytes were acknowledged as durable: they are never written again.
    fn settle(&mut self, segment: SegmentId, range: Range<usize>) {
        let block = BLOCK_SIZE as usize;
        if !range.start.is_multiple_of(block) || !range.len().is_multiple_of(block) {
            // A torn write that a later process made durable.
            return;
        }
        let blocks = range.step_by(block).map(|offset| offset as u64);
        self.settled.entry(segment).or_default().extend(blocks);
    }

    fn run_on_files(&mut self, kind: OpKind) -> Result<(), ErrorKind> {
        match kind {
            OpKind::MakeSpare { .. } if self.faults.full => return Err(ErrorKind::StorageFull),
            OpKind::MakeSpare { spare, size } => {
                let made = SimFile::zeros(to_usize(size));
                assert!(self.spares.insert(spare, made).is_none(), "a spare is made twice");
            }
            OpKind::UseSpare { spare, segment } => {
                let file = self.spares.remove(&spare).expect("a spare is used that is not there");
                assert!(!self.written.contains(&segment), "segment number {segment} is used again");
                assert!(self.segments.insert(segment, file).is_none());
            }
            OpKind::Recycle { segment, spare } => {
                self.remove_sides(segment);
                let file = self.segments.remove(&segment).expect("recycled but not there");
                assert!(self.spares.insert(spare, file).is_none());
            }
            OpKind::RemoveSegment { segment } => {
                self.remove_sides(segment);
                self.segments.remove(&segment);
            }
            OpKind::RemoveSpare { spare } => drop(self.spares.remove(&spare)),
            OpKind::Shorten { segment, len } => {
                let file = self.segments.get_mut(&segment).expect("shortened but not there");
                file.shorten(to_usize(len));
                if let Some(blocks) = self.settled.get_mut(&segment) {
                    drop(blocks.split_off(&len));
                }
            }
            OpKind::Begin => self.begun = true,
            OpKind::WriteSide { segment, side, bytes } => {
                self.sides.insert((segment, is_tail(side)), bytes.to_vec());
            }
            OpKind::Write { .. }
            | OpKind::Sync { .. }
            | OpKind::Read { .. }
            | OpKind::ReadSide { .. } => unreachable!("no operation on files"),
        }
        Ok(())
    }

    fn remove_sides(&mut self, segment: SegmentId) {
        self.settled.remove(&segment);
        for tail in [false, true] {
            self.sides.remove(&(segment, tail));
        }
    }

    /// Flips one bit of a durable block; says where. None stand there if there is no such block.
    pub fn rot(&mut self, rng: &mut Rng) -> Option<(SegmentId, u64)> {
        let segments: Vec<_> = self.segments.keys().copied().collect();
        let segment = *rng.pick(&segments)?;
        let blocks: Vec<u64> = self.settled.get(&segment)?.iter().copied().collect();
        let block = *rng.pick(&blocks)?;
        let offset = block + rng.below(BLOCK_SIZE.into());
        let bit = u8::try_from(rng.below(8)).expect("less than 8");
        self.segments.get_mut(&segment).expect("it was found").rot(to_usize(offset), bit);
        Some((segment, offset))
    }

    /// The power fails.
    pub fn cut_power(&mut self, rng: &mut Rng) {
        let in_flight = self.end_of_process(rng);
        for (segment, file) in &mut self.segments {
            let none = Vec::new();
            for fate in file.cut_power(in_flight.get(segment).unwrap_or(&none), rng) {
                self.counters.lost += u64::from(fate == Fate::Lost);
                self.counters.torn += u64::from(fate == Fate::Torn);
            }
        }
        for file in self.spares.values_mut() {
            file.cut_power(&[], rng);
        }
        self.sides.retain(|_, bytes| match rng.below(3) {
            0 => false,
            1 => true,
            _ => {
                let cut = rng.index(bytes.len() + 1);
                bytes[cut..].fill(0);
                true
            }
        });
    }

    /// The process is killed.
    pub fn kill(&mut self, rng: &mut Rng) {
        let in_flight = self.end_of_process(rng);
        for (segment, file) in &mut self.segments {
            let none = Vec::new();
            file.kill(in_flight.get(segment).unwrap_or(&none), rng);
        }
    }

    /// Operations on files: the first ones are done, the others not. Gives the writes under way.
    fn end_of_process(&mut self, rng: &mut Rng) -> BTreeMap<SegmentId, Vec<(usize, Vec<u8>)>> {
        let mut in_flight: BTreeMap<SegmentId, Vec<_>> = BTreeMap::new();
        let waiting = std::mem::take(&mut self.waiting);
        let mut left = rng.below(3);
        for Waiting { op, .. } in waiting {
            match op.kind {
                OpKind::Write { segment, offset, buf, .. } => {
                    let write = (to_usize(offset), buf.as_slice().to_vec());
                    in_flight.entry(segment).or_default().push(write);
                }
                OpKind::Sync { .. } | OpKind::Read { .. } | OpKind::ReadSide { .. } => {}
                kind if left > 0 => {
                    left -= 1;
                    // No room, or done: nobody is told.
                    let _ = self.run_on_files(kind);
                }
                _ => {}
            }
        }
        in_flight
    }
}

fn is_file_op(kind: &OpKind) -> bool {
    !matches!(kind, OpKind::Write { .. } | OpKind::Sync { .. } | OpKind::Read { .. })
}

fn draw_fault(one_in: u64, rng: &mut Rng) -> bool {
    one_in > 0 && rng.one_in(one_in)
}

fn done(
    id: OpId,
    result: Result<u32, ErrorKind>,
    buf: Option<Buf>,
    side: Option<Bytes>,
) -> Completion {
    let result = result.map_err(|kind| IoError::from(Error::from(kind)));
    Completion { id, result, buf, side }
}
