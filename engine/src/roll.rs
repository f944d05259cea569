//! Where segments come from, and the barrier between one and the next.
//!
//! ```text
//! make (zeros) -> spare -> next (renamed, durable) -> header, manifest -> active -> sealed
//!                  ^                                                                 |
//!                  '------------------ recycled, once nothing in it is needed -------'
//! ```
//!
//! The next segment is made ready in the background when the active one is half full, so that a
//! roll waits for nothing but its own two writes. A roll begins when everything staged is durable:
//! the seal of the old segment and header and manifest of the new one are written together, and the
//! first record goes to the new one when both are durable (F-12).
//!
//! Not here: what the manifest says (`catalog`), and when a segment is no longer needed
//! (`retention`).

use std::collections::VecDeque;

use crate::commit::Active;
use crate::format::control::ManifestSegment;
use crate::index::SegmentIndex;
use crate::io::{IoError, Now, OpKind, Side, SpareId};
use crate::limits::{ENTRY_SIZE_STREAM, NO_SPACE_RETRY_US};
use crate::position::SegmentId;
use crate::recover::Ended;
use crate::replay::index_of;
use crate::shard::{Purpose, Shard};

/// The segment that is to follow the active one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    None,
    /// A spare is being made.
    Making(SpareId),
    /// A spare is being renamed to this segment.
    Using(SegmentId),
    /// Its file stands under its name, durably. Nothing was written to it.
    Ready(SegmentId),
}

/// Spares of a shard, and the segment that comes next.
pub(crate) struct Spares {
    spares: VecDeque<SpareId>,
    /// No number up to this is used again, neither for a spare nor for a segment. One counter for
    /// both: a segment that becomes a spare takes a higher number with it, so a crash between that
    /// and the next segment cannot make a number be used twice.
    highest: u64,
    next: Next,
    /// The last attempt to make a spare found no room; when to try again.
    no_space: Option<u64>,
    /// Segments without records that are on their way to become spares.
    reusing: u32,
    /// Freed segments that are on their way to become spares.
    recycling: usize,
    /// Whether the last spare that was to be made was to be filled with zeros.
    made_written: bool,
}

/// The first segment is followed once so much of it is used, of 100.
pub(crate) const SOON_PERCENT: u64 = 50;
/// So many entries of a segment say how large they are.
const ENTRIES_KNOWN: u32 = 8;
/// Spares beyond this are removed instead of kept.
pub(crate) const SPARES_MAX: usize = 2;

impl Spares {
    pub(crate) fn new(spares: Vec<SpareId>, highest: u64) -> Self {
        let (next, no_space, reusing) = (Next::None, None, 0);
        let spares = spares.into();
        Self { spares, highest, next, no_space, reusing, recycling: 0, made_written: false }
    }

    /// A file of full size without records is to be used again.
    pub(crate) fn reuse(&mut self, segment: SegmentId) -> (Purpose, OpKind) {
        let spare = self.number();
        self.reusing += 1;
        (Purpose::Reuse(spare), OpKind::Recycle { segment, spare })
    }

    /// As [`reuse`](Self::reuse), or removed: a segment with a higher number is durable.
    fn reuse_or_remove(&mut self, segment: SegmentId, full_size: bool) -> (Purpose, OpKind) {
        if full_size && self.spares.len() < SPARES_MAX {
            return self.reuse(segment);
        }
        (Purpose::Background("removing an unused segment"), OpKind::RemoveSegment { segment })
    }

    /// The file is a spare now.
    pub(crate) fn reused(&mut self, spare: SpareId) {
        self.reusing -= 1;
        self.add(spare);
    }

    /// Whether the next segment is there.
    fn ready(&self) -> Option<SegmentId> {
        match self.next {
            Next::Ready(segment) => Some(segment),
            Next::None | Next::Making(_) | Next::Using(_) => None,
        }
    }

    /// Whether the next segment is there.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready().is_some()
    }

    /// Whether the disk is full: the next segment is not there and could not be made.
    pub(crate) fn is_out_of_space(&self) -> bool {
        self.no_space.is_some() && self.ready().is_none()
    }

    /// Whether the last spare that was made was filled with zeros, not only allocated.
    pub(crate) fn made_written(&self) -> bool {
        self.made_written
    }

    /// Files that wait to become segments, or stand ready as the next one.
    pub(crate) fn count(&self) -> u64 {
        let next = matches!(self.next, Next::Using(_) | Next::Ready(_));
        self.spares.len() as u64 + u64::from(next)
    }

    /// Whether a spare is being made.
    pub(crate) fn is_making(&self) -> bool {
        matches!(self.next, Next::Making(_))
    }

    /// When to try again, if the disk is full.
    pub(crate) fn retry_at(&self) -> Option<u64> {
        self.no_space.filter(|_| self.next == Next::None && self.spares.is_empty())
    }

    /// A new number for a spare, if another one is worth keeping.
    pub(crate) fn number_for_recycled(&mut self) -> Option<SpareId> {
        let worth = self.spares.len() + self.recycling < SPARES_MAX;
        worth.then(|| {
            self.recycling += 1;
            self.number()
        })
    }

    fn number(&mut self) -> SpareId {
        self.highest = self.highest.checked_add(1).expect("numbers are used up");
        SpareId(self.highest)
    }

    /// A recycled segment is a spare now.
    pub(crate) fn recycled(&mut self, spare: SpareId) {
        self.recycling -= 1;
        self.add(spare);
    }

    fn add(&mut self, spare: SpareId) {
        self.spares.push_back(spare);
        self.no_space = None;
    }

    /// The next step towards the next segment.
    fn prepare(&mut self, size: u64, written: bool, now: Now) -> Option<(Purpose, OpKind)> {
        if self.next != Next::None || self.reusing > 0 {
            return None;
        }
        if let Some(spare) = self.spares.pop_front() {
            let segment = SegmentId(self.number().0);
            self.next = Next::Using(segment);
            return Some((Purpose::UseSpare, OpKind::UseSpare { spare, segment }));
        }
        if self.no_space.is_some_and(|retry_at| now.mono_us < retry_at) {
            return None;
        }
        let spare = self.number();
        self.next = Next::Making(spare);
        self.made_written = written;
        Some((Purpose::MakeSpare, OpKind::MakeSpare { spare, size, written }))
    }

    /// Making a spare is over. An error other than a full disk is given back.
    pub(crate) fn made(&mut self, result: Result<u32, IoError>, now: Now) -> Result<(), IoError> {
        let Next::Making(spare) = self.next else { panic!("no spare was being made") };
        self.next = Next::None;
        match result {
            Ok(_) => self.add(spare),
            Err(error) if error.is_no_space() => {
                self.no_space = Some(now.mono_us + NO_SPACE_RETRY_US);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// The rename is over.
    pub(crate) fn used(&mut self) {
        let Next::Using(segment) = self.next else { panic!("no spare was being used") };
        self.next = Next::Ready(segment);
        self.no_space = None;
    }
}

/// A roll under way: writes that are not durable yet, and what the journal goes on in.
pub(crate) struct Roll {
    waits_for: u32,
    active: Active,
    /// Index of the new segment: it knows where each log begins in it.
    index: SegmentIndex,
}

impl Shard {
    /// Prepares the next segment and rolls, as far as possible now.
    pub(crate) fn poll_roll(&mut self, now: Now) -> Option<(Purpose, OpKind)> {
        if self.roll.is_some() {
            return None;
        }
        let needed = self.roll_wanted || self.ended.is_some();
        // A small engine stays small; one that has rolled always has its next segment at hand, also
        // for a fresh start after a crash on a full disk.
        let rolled = self.catalog.segments().next().is_some();
        let half_full = self.journal.percent_used() >= SOON_PERCENT;
        let soon = self.journal.active().is_some() && (rolled || half_full);
        if !needed && !soon {
            return None;
        }
        let written = !self.is_stream();
        if let Some(work) = self.spares.prepare(self.config.segment_size, written, now) {
            return Some(work);
        }
        let next = self.spares.ready()?;
        if !needed || !self.journal.is_quiet() {
            return None;
        }
        self.spares.next = Next::None;
        Some(self.begin_roll(next, now))
    }

    /// Whether entries are large: those of the active segment, or of the last one while it is new.
    fn is_stream(&self) -> bool {
        let active = self.journal.active().map(|active| (active.end, active.entries));
        let last = self.catalog.segments().last().map(|last| (last.end, last.entries));
        let known = |(_, entries): &(u64, u32)| *entries >= ENTRIES_KNOWN;
        let mean = |(end, entries): (u64, u32)| end / u64::from(entries.max(1));
        let mean = active.filter(known).or(last).map_or(0, mean);
        mean >= ENTRY_SIZE_STREAM.into()
    }

    fn begin_roll(&mut self, next: SegmentId, now: Now) -> (Purpose, OpKind) {
        self.roll_wanted = false;
        let mut previous = (SegmentId(0), 0, 0);
        let mut waits_for = 1;
        if let Some(active) = self.journal.active().copied() {
            assert!(self.ended.is_none());
            previous = (active.segment, active.end, active.digest);
            let (end, digest, entries) = (active.end, active.digest, active.entries);
            let segment = active.segment;
            let (shortened, freed) = (false, false);
            let row = ManifestSegment { segment, end, digest, entries, shortened, freed };
            self.catalog.add_segment(row);
            self.pins.add(segment);
            let seal = self.journal.seal_segment(next);
            self.queue.push_back((Purpose::RollWrite, seal));
            self.keep_index(segment);
            waits_for += 1;
        } else if let Some(Ended { segment, end, digest, entries, .. }) = self.ended {
            // Recovery ended it: no seal, nothing is written behind a hole.
            previous = (segment, end, digest);
            let (shortened, freed) = (true, false);
            let row = ManifestSegment { segment, end, digest, entries, shortened, freed };
            self.catalog.add_segment(row);
            self.pins.add(segment);
            self.keep_index(segment);
        }
        let room = self.journal.manifest_entry_room();
        let manifest = self.catalog.manifest(now.wall_us.max(self.journal.time_us()), room);
        let (write, active) = self.journal.begin_segment(next, previous, &manifest, now);
        self.roll = Some(Roll { waits_for, active, index: index_of(&self.catalog) });
        (Purpose::RollWrite, write)
    }

    /// The active segment's index becomes that of a sealed one.
    fn keep_index(&mut self, segment: SegmentId) {
        let index = std::mem::take(&mut self.index);
        let bytes = index.encode(&self.config.place(segment));
        self.queue.push_back((
            Purpose::Background("writing an index"),
            OpKind::WriteSide { segment, side: Side::Index, bytes },
        ));
        self.cache.insert(segment, index);
    }

    /// One of a roll's writes is durable.
    pub(crate) fn roll_written(&mut self) {
        let roll = self.roll.as_mut().expect("a roll is under way");
        roll.waits_for -= 1;
        if roll.waits_for > 0 {
            return;
        }
        if !self.begun {
            // The superblock must say so before the first acknowledgement.
            self.begun = true;
            roll.waits_for = 1;
            self.queue.push_back((Purpose::RollWrite, OpKind::Begin));
            return;
        }
        let Roll { active, index, .. } = self.roll.take().expect("it is under way");
        self.journal.set_active(active);
        self.metrics.rolled();
        self.index = index;
        if let Some(ended) = self.ended.take() {
            self.give_back(ended);
        }
        self.retention_due = true;
        self.expiry.set_due();
    }

    /// The fresh segment is durable: what stood behind the old one's end is kept in a side file,
    /// its unused space given back.
    fn give_back(&mut self, ended: Ended) {
        let Ended { segment, end, behind, .. } = ended;
        if let Some((offset, bytes)) = behind {
            tracing::warn!(
                shard = self.config.shard.get(),
                segment = segment.get(),
                offset,
                bytes = bytes.len(),
                "entries that were never acknowledged stand behind the end of the journal; they \
                 are kept beside the segment as .tail"
            );
            self.queue.push_back((
                Purpose::Background("keeping what stood behind the end"),
                OpKind::WriteSide { segment, side: Side::Tail, bytes },
            ));
        }
        let shorten = OpKind::Shorten { segment, len: end };
        self.queue.push_back((Purpose::Background("giving unused space back"), shorten));
        for (segment, full_size) in std::mem::take(&mut self.unused) {
            let work = self.spares.reuse_or_remove(segment, full_size);
            self.queue.push_back(work);
        }
    }
}
