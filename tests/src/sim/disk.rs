//! The simulated disk: runs a shard's operations, in any order, with any loss that may happen.
//!
//! ```text
//! submit -> waiting -> complete, in any order -> Completion
//!              '-> power cut | kill: each is done, in part, or not
//! Names: name -> inode      SimFile: inode -> content      SimSuper: two copies
//! ```
//!
//! # Fault model
//! What `docs/format.md` assumes of a disk is marked "never". What happens only if asked for
//! (`Faults`, `damage`) is marked "asked".
//!
//! **Order.** Operations on data complete in any order, after any delay. Operations on files run
//! one after the other, in the order given. What a write brings is seen by reads from its
//! submission or from its completion on.
//!
//! **Power cut.** Kept: what a durable write brought that completed, and what a sync covers that
//! completed (everything whose completion was delivered before the sync was submitted). Of every
//! other write each 512-byte sector is there or not, in any combination and order. Half a sector:
//! never. A cut-off length that no sync covered is there or not.
//!
//! **Kill.** What reads saw stays, and so do names; neither is durable until something syncs it.
//!
//! **Names** are separate from files. Each operation on files is a row of steps (`ops`): make,
//! write, sync, rename, sync the directory. A crash keeps any first part of them. A rename that no
//! sync of the directory covered is there or not after a power cut, each for itself, also out of
//! order, unless it concerns the same name or file as an earlier one. Half a rename: never.
//!
//! **Holes** read as zeros, or as noise in worlds with damage; a power cut may bring back what
//! stood there, by sectors. Some file systems refuse them.
//!
//! **Side files** are never synced: after a power cut one is whole, torn, zeros or gone.
//!
//! **Failures** (asked). A write, read or sync fails; a failed write is there in part, a failed
//! sync covers nothing. A write takes fewer bytes and says so. An operation on files fails at any
//! step, with EIO or ENOSPC; the step itself may have happened; what was renamed stays visible, but
//! is not durable before the next sync of the directory. No room for a spare or a side file.
//!
//! **Reads.** Fewer bytes than asked for: only at the end of the file, as the contract says. Other
//! bytes than those that stand there, once (asked).
//!
//! **Damage** (asked) of acknowledged blocks, side files, the superblock, whole files:
//! `damage`.
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
use oncelog::io::{Completion, Found, IoError, Op, OpId, OpKind, Side};
use oncelog::limits::BLOCK_SIZE;

use crate::rng::Rng;
use crate::sim::damage::Damages;
use crate::sim::faults::{FaultCounters, Faults};
use crate::sim::file::{Fate, SimFile};
use crate::sim::names::{Inode, Name, Names};
use crate::sim::superblock::SimSuper;

struct Waiting {
    op: Op,
    submitted_at: u64,
}

/// See the module's head.
#[derive(Default)]
pub struct SimDisk {
    pub(crate) names: Names,
    pub(crate) files: BTreeMap<Inode, SimFile>,
    pub(crate) sides: BTreeMap<Inode, Vec<u8>>,
    pub(crate) superblock: SimSuper,
    pub(crate) inodes: Inode,
    waiting: Vec<Waiting>,
    clock: u64,
    /// Numbers of segments that were ever written to.
    pub(crate) written: BTreeSet<SegmentId>,
    /// Durable blocks of each segment's file, and since when.
    pub(crate) settled: BTreeMap<Inode, BTreeMap<u64, u64>>,
    pub(crate) damages: Damages,
    /// Blocks that were given back out of the middle of files.
    pub(crate) punched: BTreeMap<Inode, BTreeSet<u64>>,
    /// The file system makes no holes.
    pub refuses_holes: bool,
    /// What stood in a file before it became a segment may be wanted: stale blocks.
    pub(crate) keeps_stale: bool,
    /// What goes wrong.
    pub faults: Faults,
    /// What went wrong.
    pub met: FaultCounters,
}

pub(crate) fn is_tail(side: Side) -> bool {
    side == Side::Tail
}

pub(crate) fn to_usize(number: u64) -> usize {
    usize::try_from(number).expect("64-bit platforms only")
}

impl SimDisk {
    /// Whether the superblock says that the shard has begun.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.superblock.has_begun(crate::sim::world::SHARD)
    }

    /// A process begins: what stands in the directory.
    pub fn open(&mut self) -> Vec<Found> {
        self.superblock.open();
        let len = |inode| self.files[&inode].live().len() as u64;
        let found = |(name, inode)| match name {
            Name::Segment(segment) => Some(Found::Segment(segment, len(inode))),
            Name::Spare(spare) => Some(Found::Spare(spare, len(inode))),
            Name::Side(..) => None,
        };
        self.names.live().filter_map(found).collect()
    }

    /// How many operations are under way.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.waiting.len()
    }

    /// What time it is: grows with everything that happens.
    #[must_use]
    pub fn clock(&self) -> u64 {
        self.clock
    }

    pub(crate) fn inode(&self, segment: SegmentId) -> Option<Inode> {
        self.names.get(Name::Segment(segment))
    }

    fn file(&mut self, segment: SegmentId) -> &mut SimFile {
        let inode = self.inode(segment);
        let inode = inode.unwrap_or_else(|| panic!("segment {segment} is not there"));
        self.files.get_mut(&inode).expect("a name stands for a file")
    }

    /// Takes an operation.
    pub fn submit(&mut self, op: Op, rng: &mut Rng) {
        self.clock += 1;
        if let OpKind::Write { segment, offset, buf, .. } = &op.kind {
            self.check_write(*segment, *offset, buf);
            self.written.insert(*segment);
            if rng.one_in(2) {
                self.file(*segment).show(to_usize(*offset), buf.as_slice());
            }
        }
        self.waiting.push(Waiting { op, submitted_at: self.clock });
    }

    fn check_write(&mut self, segment: SegmentId, offset: u64, buf: &Buf) {
        let block = u64::from(BLOCK_SIZE);
        let end = offset + buf.len() as u64;
        assert!(offset.is_multiple_of(block) && end.is_multiple_of(block) && !buf.is_empty());
        let inode = self.inode(segment).expect("a write to a segment that is not there");
        let len = self.files[&inode].live().len() as u64;
        assert!(end <= len, "a write behind the end of segment {segment}");
        let settled = self.settled.get(&inode);
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
                let result = self.write(segment, to_usize(offset), buf.as_slice(), durable, rng);
                done(id, result, Some(buf), None)
            }
            OpKind::Sync { segment } => {
                if draw_fault(self.faults.sync, rng) {
                    self.met.eio_sync += 1;
                    return done(id, Err(ErrorKind::Other), None, None);
                }
                for range in self.file(segment).synced(submitted_at) {
                    self.settle(segment, range);
                }
                done(id, Ok(0), None, None)
            }
            OpKind::Read { segment, offset, mut buf } => {
                let result = self.read(segment, to_usize(offset), buf.as_mut_slice(), rng);
                done(id, result, Some(buf), None)
            }
            OpKind::ReadSide { segment, side } => {
                if draw_fault(self.faults.read, rng) {
                    self.met.eio_read_side += 1;
                    return done(id, Err(ErrorKind::Other), None, None);
                }
                let inode = self.names.get(Name::Side(segment, is_tail(side)));
                match inode.map(|inode| Bytes::copy_from_slice(&self.sides[&inode])) {
                    Some(bytes) => done(id, Ok(0), None, Some(bytes)),
                    None => done(id, Err(ErrorKind::NotFound), None, None),
                }
            }
            kind => done(id, self.run_on_files(&kind, rng).map(|()| 0), None, None),
        }
    }

    fn write(
        &mut self,
        segment: SegmentId,
        at: usize,
        bytes: &[u8],
        durable: bool,
        rng: &mut Rng,
    ) -> Result<u32, ErrorKind> {
        let now = self.clock;
        if draw_fault(self.faults.write, rng) {
            self.met.eio_write += 1;
            self.file(segment).write_in_part(at, bytes, now, rng);
            return Err(ErrorKind::Other);
        }
        let mut count = bytes.len();
        if draw_fault(self.faults.short, rng) {
            self.met.short_write += 1;
            count = rng.index(bytes.len() / crate::sim::file::SECTOR) * crate::sim::file::SECTOR;
        }
        let file = self.file(segment);
        if count < bytes.len() {
            // Of the rest anything may be there, as after a failure; all of it if reads saw it.
            file.write_in_part(at + count, &bytes[count..], now, rng);
        }
        if durable && count > 0 {
            file.written_durably(at, &bytes[..count]);
        } else if count > 0 {
            file.written(at, &bytes[..count], now);
        }
        if durable && count == bytes.len() {
            self.settle(segment, at..at + count);
        }
        Ok(u32::try_from(count).expect("an entry is small"))
    }

    fn read(
        &mut self,
        segment: SegmentId,
        offset: usize,
        into: &mut [u8],
        rng: &mut Rng,
    ) -> Result<u32, ErrorKind> {
        if draw_fault(self.faults.read, rng) {
            self.met.eio_read += 1;
            return Err(ErrorKind::Other);
        }
        let inode = self.inode(segment).ok_or(ErrorKind::NotFound)?;
        let live = self.files[&inode].live();
        let from = &live[offset.min(live.len())..];
        let count = from.len().min(into.len());
        into[..count].copy_from_slice(&from[..count]);
        self.met.reads_cut_by_end += u64::from(count < into.len());
        if count > 0 && draw_fault(self.faults.misread, rng) {
            self.misread(segment, offset, &mut into[..count], rng);
        }
        Ok(u32::try_from(count).expect("reads are small"))
    }

    /// These bytes were acknowledged as durable: they are never written again.
    fn settle(&mut self, segment: SegmentId, range: Range<usize>) {
        let block = BLOCK_SIZE as usize;
        if !range.start.is_multiple_of(block) || !range.len().is_multiple_of(block) {
            // A torn or short write that something else made durable.
            return;
        }
        let inode = self.inode(segment).expect("it was just written or synced");
        let blocks = range.step_by(block).map(|offset| (offset as u64, self.clock));
        self.settled.entry(inode).or_default().extend(blocks);
    }

    /// The power fails.
    pub fn cut_power(&mut self, rng: &mut Rng) {
        let in_flight = self.end_of_process(rng);
        let none = Vec::new();
        for (inode, file) in &mut self.files {
            for fate in file.cut_power(in_flight.get(inode).unwrap_or(&none), rng) {
                self.met.writes_lost += u64::from(fate == Fate::Lost);
                self.met.writes_torn += u64::from(fate == Fate::Torn);
            }
        }
        self.met.superblocks_torn += u64::from(self.superblock.cut_power(rng));
        let (lost, overtaken) = self.names.cut_power(rng);
        self.met.names_lost += lost;
        self.met.names_out_of_order += u64::from(overtaken);
        for bytes in self.sides.values_mut() {
            match rng.below(6) {
                0 => bytes.clear(),
                1 => bytes.fill(0),
                2 => {
                    let cut = rng.index(bytes.len() + 1);
                    bytes[cut..].fill(0);
                }
                _ => continue,
            }
            self.met.sides_torn += 1;
        }
        self.forget_nameless();
    }

    /// The process is killed.
    pub fn kill(&mut self, rng: &mut Rng) {
        let in_flight = self.end_of_process(rng);
        let none = Vec::new();
        for (inode, file) in &mut self.files {
            file.kill(in_flight.get(inode).unwrap_or(&none), rng);
        }
        self.superblock.kill(rng);
    }

    /// Files that no name leads to, whatever happens, are gone.
    pub(crate) fn forget_nameless(&mut self) {
        let (names, damages) = (&self.names, &self.damages);
        let known = |inode: &Inode| names.knows(*inode) || damages.keeps(*inode);
        self.files.retain(|inode, _| known(inode));
        self.sides.retain(|inode, _| known(inode));
        self.settled.retain(|inode, _| known(inode));
    }

    /// Operations on files: some steps are done, the others not. Gives the writes under way.
    fn end_of_process(&mut self, rng: &mut Rng) -> BTreeMap<Inode, Vec<(usize, Vec<u8>)>> {
        let mut in_flight: BTreeMap<Inode, Vec<_>> = BTreeMap::new();
        let mut left = u32::try_from(rng.below(9)).expect("less than 9");
        for Waiting { op, .. } in std::mem::take(&mut self.waiting) {
            match op.kind {
                OpKind::Write { segment, offset, buf, .. } => {
                    let inode = self.inode(segment).expect("a write under way has a file");
                    let write = (to_usize(offset), buf.as_slice().to_vec());
                    in_flight.entry(inode).or_default().push(write);
                }
                OpKind::Sync { .. } | OpKind::Read { .. } | OpKind::ReadSide { .. } => {}
                kind => {
                    let steps = self.first_steps(&kind, left);
                    left -= steps;
                }
            }
        }
        in_flight
    }
}

fn is_file_op(kind: &OpKind) -> bool {
    !matches!(kind, OpKind::Write { .. } | OpKind::Sync { .. } | OpKind::Read { .. })
}

pub(crate) fn draw_fault(one_in: u64, rng: &mut Rng) -> bool {
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
