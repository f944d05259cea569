//! Which damage may look like a torn tail: the blind spot of `docs/format.md` (F-16), seen from the
//! outside, by someone who knows what stood there before.
//!
//! ```text
//! newest segment with acknowledged entries: before | now
//!      first entry that is not whole now = the hole; a header behind it with a watermark above it?
//!      yes, or no hole -> recovery must refuse, or lose nothing      no -> it may end there
//! ```
//!
//! Not here: recovery's own view (`oncelog::recover`); no line of it is used.

use std::collections::BTreeMap;

use oncelog::SegmentId;
use oncelog::format::Place;
use oncelog::format::entry::{Entry, Flags};
use oncelog::format::header::SegmentHeader;

use crate::sim::damage::BLOCK;
use crate::sim::disk::{SimDisk, to_usize};
use crate::sim::names::Inode;

/// An entry in an image of a segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EntryAt {
    pub(crate) offset: u64,
    number: u32,
    length: u64,
    durable: u32,
    flags: Flags,
}

impl EntryAt {
    pub(crate) fn is_seal(&self) -> bool {
        self.flags.has(Flags::SEAL)
    }

    pub(crate) fn is_close(&self) -> bool {
        self.flags.has(Flags::CLOSE)
    }

    fn is_manifest(&self) -> bool {
        self.flags.has(Flags::MANIFEST)
    }
}

/// The blind spot may swallow something.
#[derive(Clone, Debug)]
pub struct Blind {
    /// What was acknowledged before this instant is safe.
    pub since: u64,
    /// The segments that may be taken for torn, with their files.
    pub segments: Vec<(SegmentId, Inode)>,
}

fn entry_at(segment: SegmentId, image: &[u8], offset: u64) -> Option<EntryAt> {
    let entry = Entry::parse(image.get(to_usize(offset)..)?)?;
    let Place { entry: number, .. } = entry.head.place;
    let at = u32::try_from(offset).expect("segments are small");
    let (engine, shard) = (crate::sim::world::ENGINE, crate::sim::world::SHARD);
    let stands = entry.stands_at(&Place { engine, shard, segment, entry: number, offset: at });
    let (length, durable, flags) = (entry.length.into(), entry.head.durable, entry.head.flags);
    stands.then_some(EntryAt { offset, number, length, durable, flags })
}

/// Whether the entry is whole in `now` as it was in `before`, padding apart.
fn is_whole(entry: &EntryAt, before: &[u8], now: &[u8], punched: bool) -> bool {
    let range = to_usize(entry.offset)..to_usize(entry.offset + entry.length);
    let (Some(before), Some(now)) = (before.get(range.clone()), now.get(range)) else {
        return false;
    };
    let heads = (Entry::parse(before), Entry::parse(now));
    let (Some(was), Some(is)) = heads else { return false };
    was.digest == is.digest && was.head == is.head && (punched || is.sections_match(now))
}

impl SimDisk {
    /// The entries of a segment, one behind the other.
    pub(crate) fn entries_of(&self, segment: SegmentId, image: &[u8]) -> Vec<EntryAt> {
        let mut entries: Vec<EntryAt> = Vec::new();
        let mut offset = BLOCK as u64;
        while let Some(entry) = entry_at(segment, image, offset) {
            if entry.number as usize != entries.len() {
                break;
            }
            offset += entry.length;
            entries.push(entry);
        }
        entries
    }

    /// Whether damage may look as if a crash had torn the journal's end, and since when what was
    /// acknowledged may then be missing.
    #[must_use]
    pub fn blind_spot(&self) -> Option<Blind> {
        let lost = self.damages.lost_segments();
        let mut all: Vec<_> = self.segments().into_iter().map(|found| (found, false)).collect();
        all.extend(lost.map(|found| (found, true)));
        all.sort_unstable();
        let (mut passed, mut oldest) = (Vec::new(), u64::MAX);
        for ((segment, inode), is_lost) in all.into_iter().rev() {
            passed.push((segment, inode));
            let Some(settled) = self.settled.get(&inode).filter(|all| !all.is_empty()) else {
                continue;
            };
            match self.hole_of(segment, inode, is_lost, settled) {
                // The one before it is judged too.
                Hole::PassedOver(since) => oldest = oldest.min(since),
                Hole::None => {
                    passed.pop();
                    break;
                }
                Hole::Since(since) => {
                    oldest = oldest.min(since);
                    break;
                }
            }
        }
        (oldest < u64::MAX).then_some(Blind { since: oldest, segments: passed })
    }

    fn hole_of(
        &self,
        segment: SegmentId,
        inode: Inode,
        is_lost: bool,
        settled: &BTreeMap<u64, u64>,
    ) -> Hole {
        let now = self.files[&inode].live();
        let before = self.damages.undone(inode, now.to_vec());
        let entries = self.entries_of(segment, &before);
        let acked = entries.iter().filter(|entry| !entry.is_manifest());
        let since = |entry: &EntryAt| settled.get(&entry.offset).copied();
        let first = acked.filter_map(since).min();
        let now = if is_lost { &[] } else { now };
        let blocks = (0..now.len() as u64).step_by(BLOCK);
        let headers: Vec<EntryAt> = blocks.filter_map(|at| entry_at(segment, now, at)).collect();
        let holes = self.punched.get(&inode);
        let has_holes = |entry: &EntryAt| {
            let range = entry.offset..entry.offset + entry.length;
            holes.is_some_and(|holes| holes.range(range).next().is_some())
        };
        let header = SegmentHeader::decode(now);
        let named = header.is_ok_and(|(header, _)| header.segment == segment);
        let manifest = entries.iter().filter(|entry| entry.is_manifest());
        if !named
            || !manifest.into_iter().all(|entry| is_whole(entry, &before, now, has_holes(entry)))
        {
            let seen = headers.iter().any(|entry| !entry.is_manifest());
            return match first {
                None => Hole::PassedOver(u64::MAX),
                Some(_) if seen => Hole::None,
                Some(first) => Hole::PassedOver(first),
            };
        }
        let Some(hole) =
            entries.iter().find(|entry| !is_whole(entry, &before, now, has_holes(entry)))
        else {
            return Hole::None;
        };
        let witness = headers.iter().any(|entry| entry.durable > hole.number);
        match since(hole) {
            Some(since) if !witness => Hole::Since(since),
            _ => Hole::None,
        }
    }
}

enum Hole {
    /// The journal ends in an older segment; what was acknowledged since then stands in this one,
    /// or nothing.
    PassedOver(u64),
    /// Nothing that was acknowledged may be missing.
    None,
    /// What was acknowledged since then may be missing.
    Since(u64),
}
