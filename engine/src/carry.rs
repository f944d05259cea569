//! Carrying a state chain out of segments that are to go, to the journal's end.
//!
//! ```text
//! dead segments from which a chain reaches on -> read the chain -> stage copies, oldest first
//!                                                          -> ChainCarried -> they are free
//! ```
//!
//! Carrying (F-13) copies a chain's checkpoints, with their numbers; one record then says that the
//! chain stands there. If the chain began anew meanwhile the copies mean nothing. A chain is taken
//! to need every segment from its oldest on: only reading it would tell more.
//!
//! Not here: which segments are dead (`retention`), and reading a chain (`restore`).

use std::collections::VecDeque;

use crate::format::control::{ChainLink, Checkpoint, CheckpointState, Control, Link};
use crate::position::{ReaderId, SegmentId};
use crate::restore::{Walk, WalkFor};
use crate::serve::{Admit, Class};
use crate::shard::{Deferred, Shard};
use crate::stage::Need;

/// Carrying frees so many times what it writes: if a chain is larger than a segment, its copies
/// alone would be a reason to carry it again, and again.
const PAYS: u64 = 4;
/// As [`PAYS`], while there is no room for another segment.
const PAYS_WITHOUT_SPACE: u64 = 2;

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
    /// The oldest segment that any state chain may need, and those in which parts of snapshots
    /// stand that no commit has named yet.
    pub(crate) fn chains_reach(&self) -> (SegmentId, Vec<SegmentId>) {
        let (mut oldest, mut parts) = (SegmentId(u64::MAX), Vec::new());
        for (_, state) in self.catalog.readers() {
            if state.stored.head.is_some() {
                oldest = oldest.min(state.stored.oldest);
            }
            parts.extend(state.parts.iter().map(|part| part.segment));
        }
        (oldest, parts)
    }

    /// Begins to carry a chain, if dead segments wait for it and that pays.
    pub(crate) fn carry_if_it_pays(&mut self) {
        if !matches!(self.walks.carry, Carry::Idle) {
            return;
        }
        let mut chains: Vec<_> = self
            .catalog
            .readers()
            .filter(|(_, state)| state.stored.head.is_some())
            .map(|(reader, state)| {
                let bytes = state.stored.snapshot_bytes.saturating_add(state.stored.delta_bytes);
                (state.stored.oldest, reader, bytes, state.parts.is_empty())
            })
            .collect();
        chains.sort_unstable();
        let pays = if self.spares.is_out_of_space() { PAYS_WITHOUT_SPACE } else { PAYS };
        let mut cost = 0_u64;
        for (index, (oldest, _, bytes, whole)) in chains.iter().enumerate() {
            // A snapshot is being sent: a new chain begins soon.
            if !whole {
                return;
            }
            cost = bytes.saturating_add(cost);
            let next = chains.get(index + 1).map_or(SegmentId(u64::MAX), |next| next.0);
            let freed = self.pins.dead().filter(|dead| chains[0].0 <= *dead && *dead < next);
            if *oldest < next
                && freed.count() as u64 * self.config.segment_size >= cost.saturating_mul(pays)
            {
                return self.begin_carry(chains[0].1);
            }
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

    pub(crate) fn poll_carry(&mut self) {
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
