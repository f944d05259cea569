//! Giving segments back that nothing needs, without ever losing what a processor stands on.
//!
//! ```text
//! oldest sealed segment: a live record in it?             -> stays, and so does all after it
//!                        a state chain reaches into it?   -> carry the chain forward, look again
//!                        neither                          -> SegmentFreed -> durable, no read
//!                                                            under way -> recycled
//! ```
//!
//! Carrying (F-13) copies a chain's checkpoints, with their numbers, to the journal's end; one
//! record then says that the chain stands there. The segment goes only when that is durable. If the
//! chain began anew meanwhile the copies mean nothing.
//!
//! What stands in a damaged segment is not known; where the next one begins is, and if all before
//! that is truncated nothing in it is needed.
//!
//! Not here: what is truncated (`serve`).

use std::collections::VecDeque;

use crate::format::control::{
    ChainLink, Checkpoint, CheckpointState, Control, Link, ManifestReader,
};
use crate::index::SegmentIndex;
use crate::io::OpKind;
use crate::load::Waiter;
use crate::position::{LogId, ReaderId, SegmentId, Sequence};
use crate::restore::{Walk, WalkFor};
use crate::serve::{Admit, Class};
use crate::shard::{Deferred, Purpose, Shard};
use crate::stage::Need;

/// A chain on its way to the journal's end.
#[derive(Default)]
pub(crate) enum Carry {
    /// None is carried.
    #[default]
    Idle,
    /// It is being read.
    Reading,
    /// Its copies are being staged, oldest first.
    Writing(Copies),
}

pub(crate) struct Copies {
    reader: ReaderId,
    chains: u64,
    /// What is still to be staged.
    left: VecDeque<Copy>,
    /// Parts of the snapshot that were staged.
    parts: Vec<Link>,
    /// The last copy that was staged.
    last: Option<ChainLink>,
    /// The first segment that a copy stands in, or the one that was active when the walk began.
    oldest: SegmentId,
}

enum Copy {
    Part(bytes::Bytes),
    Checkpoint(Checkpoint),
}

impl Shard {
    /// Frees what can be freed, one step at a time.
    pub(crate) fn poll_retention(&mut self) {
        if !self.closing.is_empty() {
            return;
        }
        self.poll_carry();
        self.poll_freed();
        while self.retention_due && self.roll.is_none() {
            self.retention_due = self.free_oldest();
        }
    }

    /// Frees the oldest segment if nothing needs it; whether to look at the next one.
    fn free_oldest(&mut self) -> bool {
        if self.walks.are_under_way() {
            // They may read it; the end of each sets `retention_due` again.
            return false;
        }
        let Some(oldest) = self.catalog.segments().find(|s| !s.freed).map(|s| s.segment) else {
            return false;
        };
        if self.holds_live(oldest).is_none_or(|holds| holds) {
            return false;
        }
        let chained = self.catalog.readers().find(|(_, state)| {
            state.stored.head.is_some() && state.stored.oldest <= oldest
                || state.parts.iter().any(|part| part.segment <= oldest)
        });
        if let Some((reader, state)) = chained {
            let (parts, pays) = (state.parts.is_empty(), self.carry_pays(&state.stored));
            if parts && pays && matches!(self.walks.carry, Carry::Idle) {
                self.begin_carry(reader);
            }
            return false;
        }
        let control = Control::SegmentFreed { segment: oldest };
        match self.admit_control(&control) {
            Admit::Yes => {
                self.stage(&control);
                self.defer(Deferred::Freed(oldest));
                true
            }
            Admit::Hold => {
                // Tried again after the next completion.
                self.walks.try_again = true;
                false
            }
            Admit::NoSpace => false,
        }
    }

    /// Whether a live record stands in the oldest segment; `None` if that is not known yet.
    fn holds_live(&mut self, oldest: SegmentId) -> Option<bool> {
        if self.walks.damaged != Some(oldest) {
            let index = self.index_for_retention(oldest)?;
            if !index.has_holes() {
                let ends: Vec<_> = index.logs().collect();
                return Some(self.any_lives(&ends));
            }
            // Remembered, since the two indexes may not fit the cache together.
            self.walks.damaged = Some(oldest);
        }
        // The next segment tells up to where each log stands in the damaged one.
        let later = self.catalog.segments().find(|s| !s.freed && s.segment > oldest);
        let next = match later.map(|later| later.segment) {
            Some(next) => self.index_for_retention(next)?,
            None => &self.index,
        };
        // If that is damaged too, nothing is given up: a copy of the file may have the records.
        let (known, ends) = (!next.has_holes(), next.starts().collect::<Vec<_>>());
        Some(!known || self.any_lives(&ends))
    }

    /// Whether a log has a live record before its place here.
    fn any_lives(&self, ends: &[(LogId, Sequence)]) -> bool {
        let lives = |(log, end): &(LogId, Sequence)| {
            self.catalog.log(*log).is_some_and(|state| state.first < *end)
        };
        ends.iter().any(lives)
    }

    /// The index of a sealed segment. If it is not here it is being loaded, unless nothing can be
    /// freed anyhow.
    fn index_for_retention(&mut self, segment: SegmentId) -> Option<&SegmentIndex> {
        if self.cache.get(segment).is_none() {
            if self.could_free() {
                self.load(segment, Waiter::Retention);
            }
            return None;
        }
        self.cache.get(segment)
    }

    /// Whether carrying a chain forward frees clearly more than it writes: if a chain is larger
    /// than a segment, its copies alone would be a reason to carry it again, and again.
    fn carry_pays(&self, reader: &ManifestReader) -> bool {
        let sealed = self.catalog.segments().filter(|segment| !segment.freed).count() as u64;
        sealed * self.config.segment_size
            >= reader.snapshot_bytes.saturating_add(reader.delta_bytes).saturating_mul(4)
    }

    /// Whether anything was ever truncated or dropped: if not, no index needs to be loaded.
    fn could_free(&self) -> bool {
        let mut logs = self
            .catalog
            .log_names()
            .map(|(_, log)| self.catalog.log(log).expect("a named log is there").first);
        let created = self.catalog.next_log().get() - 1;
        logs.len() as u64 != created || logs.any(|first| first > Sequence::FIRST)
    }

    /// The record that frees the segment is durable: its file goes once no read uses it.
    pub(crate) fn segment_freed(&mut self, segment: SegmentId) {
        self.metrics.counted.segments_freed += 1;
        self.cache.remove(segment);
        self.walks.freed.push(segment);
        self.poll_freed();
    }

    fn poll_freed(&mut self) {
        let freed = std::mem::take(&mut self.walks.freed);
        for segment in freed {
            if self.reads.uses(segment) {
                self.walks.freed.push(segment);
                continue;
            }
            let row = self.catalog.segment(segment).expect("a freed segment is known");
            let spare = if row.shortened { None } else { self.spares.number_for_recycled() };
            let kind = match spare {
                Some(spare) => OpKind::Recycle { segment, spare },
                None => OpKind::RemoveSegment { segment },
            };
            self.queue.push_back((Purpose::Recycle(segment, spare), kind));
        }
    }

    fn begin_carry(&mut self, reader: ReaderId) {
        self.walks.carry = Carry::Reading;
        let id = self.add_walk(reader, WalkFor::Carry);
        // The chain's head may still be in flight.
        self.defer(Deferred::Restore(id));
    }

    pub(crate) fn carry_failed(&mut self) {
        self.walks.carry = Carry::Idle;
    }

    /// The chain was read: its copies are staged as room allows.
    pub(crate) fn carry(&mut self, walk: Walk) {
        let mut left = VecDeque::new();
        for item in walk.items.into_iter().rev() {
            left.extend(item.parts.into_iter().map(Copy::Part));
            left.push_back(Copy::Checkpoint(item.checkpoint));
        }
        let oldest = walk.active;
        self.walks.carry = Carry::Writing(Copies {
            reader: walk.reader,
            chains: walk.chains,
            left,
            parts: Vec::new(),
            last: None,
            oldest,
        });
        self.poll_carry();
    }

    fn poll_carry(&mut self) {
        if std::mem::take(&mut self.walks.try_again) {
            self.retention_due = true;
        }
        if self.stopped.is_some() || !matches!(self.walks.carry, Carry::Writing(_)) {
            return;
        }
        let Carry::Writing(mut copies) = std::mem::take(&mut self.walks.carry) else {
            unreachable!("it was just looked at")
        };
        let state = self.catalog.reader(copies.reader);
        if state.is_none_or(|state| state.chains != copies.chains) {
            // The chain began anew, or the processor is gone: the copies mean nothing.
            self.walks.carry = Carry::Idle;
            self.retention_due = true;
            return;
        }
        while let Some(copy) = copies.left.pop_front() {
            let control = copies.control(copy);
            let need = Need { control: control.size(), sections: 0, records: 0 };
            if !matches!(self.admit(need, Class::Control), Admit::Yes) {
                copies.give_back(control);
                self.walks.carry = Carry::Writing(copies);
                return;
            }
            copies.staged(&control, self.journal.next_link());
            self.stage(&control);
        }
        let head = copies.last.expect("a chain has at least one checkpoint");
        let (reader, oldest) = (copies.reader, copies.oldest);
        let control = Control::ChainCarried { reader, head, oldest };
        if matches!(self.admit_control(&control), Admit::Yes) {
            self.stage(&control);
            self.metrics.counted.chains_carried += 1;
            self.walks.carry = Carry::Idle;
            self.retention_due = true;
        } else {
            self.walks.carry = Carry::Writing(copies);
        }
    }
}

impl Copies {
    /// The control record of the next copy, linked to the copies before it.
    fn control(&self, copy: Copy) -> Control {
        match copy {
            Copy::Part(bytes) => Control::SnapshotPart { reader: self.reader, bytes },
            Copy::Checkpoint(mut checkpoint) => {
                checkpoint.carried = true;
                checkpoint.previous = self.last;
                if let CheckpointState::Snapshot { parts, .. } = &mut checkpoint.state {
                    parts.clone_from(&self.parts);
                }
                Control::Checkpoint(checkpoint)
            }
        }
    }

    fn give_back(&mut self, control: Control) {
        self.left.push_front(match control {
            Control::SnapshotPart { bytes, .. } => Copy::Part(bytes),
            Control::Checkpoint(checkpoint) => Copy::Checkpoint(checkpoint),
            _ => unreachable!("only these are copied"),
        });
    }

    fn staged(&mut self, control: &Control, link: Link) {
        match control {
            Control::Checkpoint(checkpoint) => {
                self.last = Some(ChainLink { number: checkpoint.number, link });
            }
            _ => self.parts.push(link),
        }
    }
}
