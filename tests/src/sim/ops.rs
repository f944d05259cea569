//! Operations on files, step by step, as `oncelog::files` carries them out.
//!
//! ```text
//! MakeSpare  make .tmp | zeros, sync | rename | sync the directory
//! UseSpare   rename | sync the directory
//! Recycle    unlink .index | unlink .tail | rename | sync the directory
//! Remove     unlink .index | unlink .tail | unlink | sync the directory
//! Shorten    cut off | sync
//! Punch      some holes | the others                     (no sync)
//! WriteSide  write .tmp | rename                         (no sync)
//! Begin      one copy | sync | the other | sync
//! ```
//!
//! A crash keeps any first part of a row, a failure ends it at any step. Files named `.tmp` are
//! deleted when a shard is opened, so they are not kept here.
//!
//! Not here: what a power cut does to names that are not durable (`names`).

use std::io::ErrorKind;

use oncelog::SegmentId;
use oncelog::io::OpKind;

use crate::rng::{Rng, mix};
use crate::sim::disk::{SimDisk, draw_fault, is_tail, to_usize};
use crate::sim::file::SimFile;
use crate::sim::names::Name;

/// How many steps an operation has.
fn steps_of(kind: &OpKind) -> u32 {
    match kind {
        OpKind::MakeSpare { .. }
        | OpKind::Recycle { .. }
        | OpKind::RemoveSegment { .. }
        | OpKind::Begin => 4,
        _ => 2,
    }
}

/// Whether an operation's last step syncs the directory.
fn syncs_directory(kind: &OpKind) -> bool {
    !matches!(
        kind,
        OpKind::Shorten { .. } | OpKind::Punch { .. } | OpKind::Begin | OpKind::WriteSide { .. }
    )
}

impl SimDisk {
    /// A whole operation, unless it fails.
    pub(crate) fn run_on_files(&mut self, kind: &OpKind, rng: &mut Rng) -> Result<(), ErrorKind> {
        if self.faults.full && matches!(kind, OpKind::MakeSpare { .. }) {
            self.met.enospc_make_spare += 1;
            return Err(ErrorKind::StorageFull);
        }
        if self.faults.full && matches!(kind, OpKind::WriteSide { .. }) && rng.one_in(2) {
            self.met.enospc_write_side += 1;
            return Err(ErrorKind::StorageFull);
        }
        if self.refuses_holes && matches!(kind, OpKind::Punch { .. }) {
            self.met.holes_refused += 1;
            return Err(ErrorKind::Unsupported);
        }
        let steps = steps_of(kind);
        if !draw_fault(self.faults.files, rng) {
            (0..steps).for_each(|step| self.step(kind, step));
            return Ok(());
        }
        let fails_at = u32::try_from(rng.below(steps.into())).expect("few steps");
        (0..fails_at).for_each(|step| self.step(kind, step));
        let directory = syncs_directory(kind) && fails_at + 1 == steps;
        if rng.one_in(2) {
            // It happened all the same.
            self.step(kind, fails_at);
        }
        self.count_failure(kind, directory);
        // What is short of room is made smaller first; nobody can make room for a sync.
        let spare = matches!(kind, OpKind::MakeSpare { .. });
        if rng.one_in(4) && !directory && !spare {
            self.met.enospc_elsewhere += 1;
            return Err(ErrorKind::StorageFull);
        }
        Err(ErrorKind::Other)
    }

    fn count_failure(&mut self, kind: &OpKind, directory: bool) {
        self.met.eio_directory_sync += u64::from(directory);
        let count = match kind {
            OpKind::MakeSpare { .. } => &mut self.met.eio_make_spare,
            OpKind::UseSpare { .. } => &mut self.met.eio_use_spare,
            OpKind::Recycle { .. } => &mut self.met.eio_recycle,
            OpKind::Shorten { .. } => &mut self.met.eio_shorten,
            OpKind::Punch { .. } => &mut self.met.eio_punch,
            OpKind::Begin => &mut self.met.eio_begin,
            OpKind::WriteSide { .. } => &mut self.met.eio_write_side,
            _ => &mut self.met.eio_remove,
        };
        *count += 1;
    }

    /// The process ends while an operation is under way: at most so many steps are done. Says how
    /// many were.
    pub(crate) fn first_steps(&mut self, kind: &OpKind, most: u32) -> u32 {
        let steps = steps_of(kind).min(most);
        if self.faults.full && matches!(kind, OpKind::MakeSpare { .. }) {
            return steps;
        }
        (0..steps).for_each(|step| self.step(kind, step));
        self.met.file_ops_cut += u64::from(0 < steps && steps < steps_of(kind));
        steps
    }

    fn step(&mut self, kind: &OpKind, step: u32) {
        let last = step + 1 == steps_of(kind);
        if last && syncs_directory(kind) {
            self.names.sync();
            return self.forget_nameless();
        }
        match kind {
            OpKind::MakeSpare { spare, size, .. } if step == 2 => {
                let inode = self.new_inode();
                self.files.insert(inode, SimFile::zeros(to_usize(*size)));
                let name = Name::Spare(*spare);
                assert!(self.names.get(name).is_none(), "a spare is made twice");
                self.names.rename(None, name, inode);
            }
            OpKind::UseSpare { spare, segment } => {
                let (from, to) = (Name::Spare(*spare), Name::Segment(*segment));
                let inode = self.names.get(from).expect("a spare is used that is not there");
                assert!(!self.written.contains(segment), "segment number {segment} is used again");
                assert!(self.names.get(to).is_none(), "a segment's name is given twice");
                self.names.rename(Some(from), to, inode);
                self.named_anew(inode);
            }
            OpKind::Recycle { segment, .. } | OpKind::RemoveSegment { segment } if step < 2 => {
                self.names.unlink(Name::Side(*segment, step == 1));
            }
            OpKind::Recycle { segment, spare } => {
                let (from, to) = (Name::Segment(*segment), Name::Spare(*spare));
                let inode = self.names.get(from).expect("recycled but not there");
                assert!(self.names.get(to).is_none(), "a spare's name is given twice");
                self.names.rename(Some(from), to, inode);
            }
            OpKind::RemoveSegment { segment } => self.names.unlink(Name::Segment(*segment)),
            OpKind::RemoveSpare { spare } => self.names.unlink(Name::Spare(*spare)),
            OpKind::Punch { segment, ranges } => {
                let (some, others) = ranges.split_at(ranges.len() / 2);
                self.punch_step(*segment, if step == 0 { some } else { others });
            }
            OpKind::Shorten { segment, len } => self.shorten_step(*segment, *len, step),
            OpKind::Begin => {
                let now = self.clock();
                self.superblock.begin_step(crate::sim::world::SHARD, step, now);
            }
            OpKind::WriteSide { segment, side, bytes } if step == 1 => {
                let inode = self.new_inode();
                self.sides.insert(inode, bytes.to_vec());
                self.names.rename(None, Name::Side(*segment, is_tail(*side)), inode);
            }
            _ => {}
        }
    }

    /// Holes: zeros now, after a power cut zeros or what stood there, by sectors. Where damage is
    /// looked for, anything stands there: nobody may care.
    fn punch_step(&mut self, segment: SegmentId, ranges: &[std::ops::Range<u64>]) {
        let inode = self.inode(segment).expect("punched but not there");
        let (noise, salt) = (self.keeps_stale, mix(self.clock() ^ segment.get()));
        let file = self.files.get_mut(&inode).expect("a name stands for a file");
        for range in ranges {
            let bytes = (range.start..range.end).map(|at| match noise {
                true => mix(salt ^ at).to_le_bytes()[0],
                false => 0,
            });
            file.punched(to_usize(range.start), &bytes.collect::<Vec<_>>(), salt);
            let blocks = range.clone().step_by(oncelog::limits::BLOCK_SIZE as usize);
            for block in blocks {
                if let Some(settled) = self.settled.get_mut(&inode) {
                    settled.remove(&block);
                }
                self.punched.entry(inode).or_default().insert(block);
            }
        }
    }

    fn shorten_step(&mut self, segment: SegmentId, len: u64, step: u32) {
        let inode = self.inode(segment).expect("shortened but not there");
        let file = self.files.get_mut(&inode).expect("a name stands for a file");
        if step == 0 {
            return file.shorten(to_usize(len));
        }
        file.synced(u64::MAX);
        if let Some(blocks) = self.settled.get_mut(&inode) {
            drop(blocks.split_off(&len));
        }
    }

    fn new_inode(&mut self) -> u64 {
        self.inodes += 1;
        self.inodes
    }

    fn named_anew(&mut self, inode: u64) {
        if self.keeps_stale {
            self.files.get_mut(&inode).expect("a name stands for a file").named_anew();
        }
        self.settled.remove(&inode);
        self.punched.remove(&inode);
        self.damages.forget(inode);
    }
}
