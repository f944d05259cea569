//! Damage of what was acknowledged: blocks, side files, whole files, the superblock; and its repair
//! from a copy.
//!
//! ```text
//! damage -> marks (where reads may bring other bytes), originals (what stood there)
//! heal   -> originals put back, newest first
//! ```
//!
//! - Only acknowledged blocks of segments are damaged: all else has no meaning, or is torn anyway.
//! - Of the superblock one copy at a time, and only between two processes.
//! - A mark stays until the block is healed or its file becomes another segment.
//!
//! Not here: which damage recovery cannot see (`witness`).

use std::collections::{BTreeMap, BTreeSet};

use oncelog::SegmentId;
use oncelog::limits::BLOCK_SIZE;

use crate::rng::Rng;
use crate::sim::disk::{SimDisk, to_usize};
use crate::sim::file::SECTOR;
use crate::sim::names::{Inode, Name};

pub(crate) const BLOCK: usize = BLOCK_SIZE as usize;

/// What stood there.
enum Original {
    Bytes(Inode, usize, Vec<u8>),
    Name(Name, Inode),
    End(Inode, usize, Vec<u8>),
}

impl Original {
    fn inode(&self) -> Inode {
        match self {
            Self::Bytes(inode, ..) | Self::Name(_, inode) | Self::End(inode, ..) => *inode,
        }
    }
}

/// All damage that was done.
#[derive(Default)]
pub struct Damages {
    originals: Vec<Original>,
    marks: BTreeMap<Inode, BTreeSet<u64>>,
    /// Marks of what can no longer be healed, because the journal went on without it.
    scars: BTreeMap<Inode, BTreeSet<u64>>,
    /// Where a read brought other bytes, once.
    misreads: BTreeSet<(SegmentId, u64)>,
}

impl Damages {
    /// Whether a file without a name is needed to heal.
    pub(crate) fn keeps(&self, inode: Inode) -> bool {
        self.originals
            .iter()
            .any(|original| matches!(original, Original::Name(_, i) if *i == inode))
    }

    /// The file is another segment from now on.
    pub(crate) fn forget(&mut self, inode: Inode) {
        self.originals.retain(|original| original.inode() != inode);
        self.marks.remove(&inode);
        self.scars.remove(&inode);
    }

    /// The damaged blocks of a file.
    pub(crate) fn of(&self, inode: Inode) -> BTreeSet<u64> {
        let all = self.marks.get(&inode).into_iter().chain(self.scars.get(&inode));
        all.flatten().copied().collect()
    }

    /// What stood in a file before it was damaged, if `bytes` stand there now.
    pub(crate) fn undone(&self, inode: Inode, mut bytes: Vec<u8>) -> Vec<u8> {
        for original in self.originals.iter().rev().filter(|o| o.inode() == inode) {
            match original {
                Original::Bytes(_, at, old) if at + old.len() <= bytes.len() => {
                    bytes[*at..at + old.len()].copy_from_slice(old);
                }
                Original::End(_, len, end) if bytes.len() == *len => bytes.extend_from_slice(end),
                _ => {}
            }
        }
        bytes
    }

    /// Segments whose files went away.
    pub(crate) fn lost_segments(&self) -> impl Iterator<Item = (SegmentId, Inode)> {
        self.originals.iter().filter_map(|original| match original {
            Original::Name(Name::Segment(segment), inode) => Some((*segment, *inode)),
            _ => None,
        })
    }
}

impl SimDisk {
    /// Whether anything on the disk is not what was written.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        let damages = &self.damages;
        !damages.originals.is_empty() || !damages.scars.is_empty() || !damages.misreads.is_empty()
    }

    /// Whether a read of these bytes may have brought others than were written.
    #[must_use]
    pub fn is_hit(&self, segment: SegmentId, begin: u64, end: u64) -> bool {
        let blocks = begin - begin % u64::from(BLOCK_SIZE)..end;
        let misread = self.damages.misreads.iter();
        let misread = misread.filter(|(s, block)| *s == segment && blocks.contains(block)).count();
        let hit = |inode| self.damages.of(inode).range(blocks.clone()).next().is_some();
        misread > 0 || self.inode(segment).is_some_and(hit)
    }

    /// Whether any of these bytes was given back.
    #[must_use]
    pub fn is_punched(&self, segment: SegmentId, begin: u64, end: u64) -> bool {
        let blocks = begin - begin % u64::from(BLOCK_SIZE)..end;
        let holes = self.inode(segment).and_then(|inode| self.punched.get(&inode));
        holes.is_some_and(|holes| holes.range(blocks).next().is_some())
    }

    /// Whether a segment with a higher number is damaged or gone.
    #[must_use]
    pub fn is_hit_above(&self, segment: SegmentId) -> bool {
        let damaged = |(_, inode): &(SegmentId, Inode)| !self.damages.of(*inode).is_empty();
        let live = self.segments().into_iter().filter(damaged);
        live.chain(self.damages.lost_segments()).any(|(other, _)| other > segment)
    }

    /// Whether the segment's file is gone.
    #[must_use]
    pub fn is_lost(&self, segment: SegmentId) -> bool {
        self.damages.lost_segments().any(|(lost, _)| lost == segment)
    }

    /// Whether any segment's file is gone.
    #[must_use]
    pub fn has_lost_segments(&self) -> bool {
        self.damages.lost_segments().next().is_some()
    }

    /// All segments that have a file, oldest first.
    pub(crate) fn segments(&self) -> Vec<(SegmentId, Inode)> {
        let segment = |(name, inode)| match name {
            Name::Segment(segment) => Some((segment, inode)),
            _ => None,
        };
        self.names.live().filter_map(segment).collect()
    }

    /// Damages something; says what. Whole files and the superblock only if no process runs.
    pub fn damage(&mut self, running: bool, rng: &mut Rng) -> String {
        match rng.below(if running { 12 } else { 16 }) {
            0 => self.damage_side(rng),
            12 => self.damage_superblock(rng),
            13 | 14 if !running => self.damage_file(rng),
            _ => self.damage_block(rng),
        }
    }

    fn damage_superblock(&mut self, rng: &mut Rng) -> String {
        let damaged = self.superblock.damage(rng);
        self.met.superblock_damaged += u64::from(damaged);
        format!("superblock {damaged}")
    }

    fn damage_side(&mut self, rng: &mut Rng) -> String {
        let sides: Vec<Inode> = self.sides.keys().copied().collect();
        let Some(inode) = rng.pick(&sides) else { return "no side file".to_owned() };
        let bytes = self.sides.get_mut(inode).expect("it was picked");
        if bytes.is_empty() {
            return "an empty side file".to_owned();
        }
        let at = rng.index(bytes.len());
        bytes[at] ^= 1 << rng.below(8);
        self.met.side_damaged += 1;
        format!("side file {inode} at {at}")
    }

    fn damage_file(&mut self, rng: &mut Rng) -> String {
        let Some((segment, inode)) = self.choose_segment(rng) else {
            return "no segment".to_owned();
        };
        if rng.one_in(2) {
            self.names.force(Name::Segment(segment), None);
            self.damages.originals.push(Original::Name(Name::Segment(segment), inode));
            self.met.file_lost += 1;
            return format!("file of segment {segment} lost");
        }
        let newest = self.segments().last().map(|(_, inode)| *inode);
        let settled = &self.settled[&inode];
        let file = self.files.get_mut(&inode).expect("it was picked");
        let len = file.live().len();
        let end = settled.keys().next_back().map_or(0, |block| to_usize(*block) + BLOCK).min(len);
        if end < SECTOR {
            return "a file that was cut off".to_owned();
        }
        // The newest may lose what has no meaning yet. A sealed one that lost as much would become
        // a spare that is too short: the writes of its next life would make it longer again.
        let harmless = newest == Some(inode) && rng.one_in(2) && end < len;
        let at = if harmless { end } else { rng.index(end / SECTOR) * SECTOR };
        let gone = file.live()[at..].to_vec();
        file.set_end(at, &[]);
        let blocks = (at / BLOCK..len.div_ceil(BLOCK)).map(|block| (block * BLOCK) as u64);
        self.damages.marks.entry(inode).or_default().extend(blocks);
        self.damages.originals.push(Original::End(inode, at, gone));
        self.met.file_cut += 1;
        format!("segment {segment} cut off at {at}")
    }

    /// Mostly one near the end of the journal, where damage is hardest to tell from a crash.
    fn choose_segment(&self, rng: &mut Rng) -> Option<(SegmentId, Inode)> {
        let acked = |inode: &Inode| self.settled.get(inode).is_some_and(|all| !all.is_empty());
        let mut all = self.segments();
        all.retain(|(_, inode)| acked(inode));
        match (rng.below(6), all.len()) {
            (_, 0) => None,
            (0 | 1, count) => Some(all[count - 1]),
            (2, count) => Some(all[count.saturating_sub(2)]),
            _ => rng.pick(&all).copied(),
        }
    }

    fn choose_block(&self, segment: SegmentId, inode: Inode, rng: &mut Rng) -> usize {
        let blocks: Vec<u64> = self.settled[&inode].keys().copied().collect();
        let entries = self.entries_of(segment, self.files[&inode].live());
        let chosen = match rng.below(6) {
            0 => rng.pick(&blocks[..blocks.len().min(3)]).copied(),
            // Where the table of verdicts looks: the seal, what follows a close, the last entries.
            1 => entries.iter().rev().find(|entry| entry.is_seal()).map(|entry| entry.offset),
            2 => {
                let close = entries.iter().rposition(|entry| entry.is_close());
                close.and_then(|close| entries.get(close + 1)).map(|entry| entry.offset)
            }
            3 => rng.pick(&entries[entries.len().saturating_sub(4)..]).map(|entry| entry.offset),
            _ => None,
        };
        let chosen = chosen.filter(|block| self.settled[&inode].contains_key(block));
        to_usize(chosen.or_else(|| rng.pick(&blocks).copied()).expect("a settled segment"))
    }

    fn damage_block(&mut self, rng: &mut Rng) -> String {
        let Some((segment, inode)) = self.choose_segment(rng) else {
            return "no segment".to_owned();
        };
        let at = self.choose_block(segment, inode, rng);
        if at + BLOCK > self.files[&inode].live().len() {
            return "a block that was cut off".to_owned();
        }
        let mut block = self.files[&inode].live()[at..at + BLOCK].to_vec();
        let kind = self.change_block(inode, at, &mut block, rng);
        self.put_block(inode, at, &block);
        format!("{kind} segment {segment} at {at}")
    }

    fn change_block(
        &mut self,
        inode: Inode,
        at: usize,
        block: &mut [u8],
        rng: &mut Rng,
    ) -> &'static str {
        let sector = rng.index(BLOCK / SECTOR) * SECTOR;
        let sector = sector..sector + SECTOR;
        let met = &mut self.met;
        match rng.below(7) {
            0 => {
                met.bit_flipped += 1;
                // Early bytes mean most.
                let at = if rng.one_in(2) { rng.index(512) } else { rng.index(BLOCK) };
                block[at] ^= 1 << rng.below(8);
                "bit"
            }
            1 => {
                met.sector_zeroed += 1;
                block[sector].fill(0);
                "zeroed sector"
            }
            2 => {
                met.sector_noise += 1;
                let noise = |byte: &mut u8| *byte = rng.number().to_le_bytes()[0];
                block[sector].iter_mut().for_each(noise);
                "noise"
            }
            3 => {
                met.block_lost += 1;
                block.fill(0);
                "lost block"
            }
            4 => {
                met.block_stale += 1;
                block.copy_from_slice(&self.files[&inode].stale(at, BLOCK));
                "stale block"
            }
            5 => {
                met.misdirected_read += 1;
                block.copy_from_slice(&self.another_block(rng).2);
                "misdirected read"
            }
            _ => {
                met.misdirected_write += 1;
                let (other, there, _) = self.another_block(rng);
                let stale = self.files[&inode].stale(at, BLOCK);
                self.put_block(other, there, block);
                block.copy_from_slice(&stale);
                "misdirected write"
            }
        }
    }

    /// An acknowledged block of any segment: its file, its place, its bytes.
    fn another_block(&self, rng: &mut Rng) -> (Inode, usize, Vec<u8>) {
        let (_, inode) = self.choose_segment(rng).expect("there is one, another was chosen");
        let live = self.files[&inode].live();
        let blocks = self.settled[&inode].keys().map(|block| to_usize(*block));
        let blocks: Vec<usize> = blocks.filter(|at| at + BLOCK <= live.len()).collect();
        let at = rng.pick(&blocks).copied().unwrap_or(0);
        let mut bytes = live[at.min(live.len())..live.len().min(at + BLOCK)].to_vec();
        bytes.resize(BLOCK, 0);
        (inode, at, bytes)
    }

    fn put_block(&mut self, inode: Inode, at: usize, block: &[u8]) {
        let file = self.files.get_mut(&inode).expect("it was picked");
        if at + BLOCK > file.live().len() || file.live()[at..at + BLOCK] == *block {
            return;
        }
        let old = file.replace(at, block);
        self.damages.originals.push(Original::Bytes(inode, at, old));
        self.damages.marks.entry(inode).or_default().insert(at as u64);
    }

    /// A read brings other bytes, this time.
    pub(crate) fn misread(
        &mut self,
        segment: SegmentId,
        offset: usize,
        into: &mut [u8],
        rng: &mut Rng,
    ) {
        self.met.misread += 1;
        let at = rng.index(into.len());
        let block = (offset + at) / BLOCK * BLOCK;
        self.damages.misreads.insert((segment, block as u64));
        let begin = block.saturating_sub(offset);
        if rng.one_in(2) || begin + BLOCK > into.len() {
            into[at] ^= 1 << rng.below(8);
        } else if self.choose_segment(rng).is_some() {
            into[begin..begin + BLOCK].copy_from_slice(&self.another_block(rng).2);
        }
    }

    /// A new process reads anew.
    pub(crate) fn forget_misreads(&mut self) {
        self.damages.misreads.clear();
    }

    /// The damage of these segments stays: the journal went on without what became durable there
    /// since that instant, and may write where it stood.
    pub(crate) fn scar(&mut self, segments: &[(SegmentId, Inode)], since: u64) {
        for (segment, inode) in segments {
            if let Some(blocks) = self.settled.get_mut(inode) {
                blocks.retain(|_, at| *at < since);
            }
            self.damages.originals.retain(|original| original.inode() != *inode);
            if let Some(marks) = self.damages.marks.remove(inode) {
                self.damages.scars.entry(*inode).or_default().extend(marks);
            }
            if self.inode(*segment).is_none() {
                // Its number is free again: nothing tells that it ever was.
                self.written.remove(segment);
            }
        }
        self.forget_nameless();
    }

    /// The shard was opened without the files that are lost, so no manifest knows of them: to put
    /// them back would put files there that are not its own.
    pub(crate) fn forget_lost_files(&mut self) {
        let lost: Vec<_> = self.damages.lost_segments().collect();
        self.scar(&lost, 0);
    }

    /// Whether anything can be healed.
    #[must_use]
    pub fn can_be_healed(&self) -> bool {
        !self.damages.originals.is_empty()
    }

    /// Everything that can be healed is put back from a copy.
    pub fn heal(&mut self) {
        for original in std::mem::take(&mut self.damages.originals).into_iter().rev() {
            match original {
                Original::Name(name, inode) => self.names.force(name, Some(inode)),
                Original::Bytes(inode, at, old) => {
                    let file = self.files.get_mut(&inode);
                    if let Some(file) = file.filter(|f| at + old.len() <= f.live().len()) {
                        file.replace(at, &old);
                    }
                }
                Original::End(inode, len, end) => {
                    let file = self.files.get_mut(&inode);
                    if let Some(file) = file.filter(|file| file.live().len() == len) {
                        file.set_end(len, &end);
                    }
                }
            }
        }
        self.damages.marks.clear();
        self.forget_nameless();
    }
}
