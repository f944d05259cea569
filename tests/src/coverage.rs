//! What a run met: a simulator that never rolls a segment proves nothing about rolling.
//!
//! Not here: what the disk counts itself (`sim_disk`).

use std::ops::AddAssign;

use bytes::Bytes;
use oncelog::format::control::{CheckpointState, Control};
use oncelog::format::entry::{Entry, Flags};
use oncelog::io::{Op, OpKind};
use oncelog::recover::control_records;

use crate::model::{Effect, Outcome};
use crate::sim_disk::DiskCounters;

macro_rules! coverage {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters of a run.
        #[derive(Clone, Copy, Debug, Default)]
        pub struct Coverage {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Coverage {
            /// All counters with their names.
            #[must_use]
            pub fn all(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }

        impl AddAssign for Coverage {
            fn add_assign(&mut self, other: Self) {
                $(self.$name += other.$name;)*
            }
        }
    };
}

coverage! {
    /// Power cuts and kills.
    crashes,
    /// Of them, those in the middle of opening.
    recoveries_crashed,
    /// Clean closes.
    closes,
    /// Shards that stopped after a failed write or sync.
    stops,
    /// Writes that a power cut tore.
    torn,
    /// Writes that a power cut lost.
    lost,
    /// Segments begun.
    segments_begun,
    /// Of them, those that follow a seal.
    seals,
    /// Syncs, each of several writes or one.
    syncs,
    /// Idle watermarks.
    watermarks,
    /// Files that were used again.
    recycled,
    /// Records that free a segment.
    freed,
    /// Segments cut off after recovery.
    shortened,
    /// Tails that were kept aside.
    tails_kept,
    /// Indexes read from side files.
    sides_read,
    /// State chains carried forward.
    chains_carried,
    /// Snapshots in parts.
    snapshots_in_parts,
    /// Commits that happened.
    commits,
    /// Of them, those with outputs.
    commits_with_outputs,
    /// Commits of fenced owners that were refused.
    fenced,
    /// Commits refused because one before them was.
    ended,
    /// Owners fenced while their state was read.
    overtaken,
    /// Appends acknowledged.
    appends,
    /// Batches over several logs acknowledged.
    batches,
    /// Refusals of any kind.
    refusals,
    /// Requests refused because the disk was full.
    no_space,
    /// Records read and compared.
    records_read,
    /// Reads that failed because the disk did.
    reads_failed,
    /// Reads that said that records are damaged.
    rot_seen,
    /// Openings that were refused because of damage.
    rot_refused,
}

impl Coverage {
    /// Adds what the disk counted.
    pub fn add_disk(&mut self, disk: &DiskCounters) {
        self.torn += disk.torn;
        self.lost += disk.lost;
    }

    /// Sees an operation on its way to the disk; says it in short.
    pub fn see(&mut self, op: &Op) -> String {
        let id = op.id.0;
        match &op.kind {
            OpKind::Write { segment, offset, buf, durable } => {
                let what = self.see_write(*offset, buf.as_slice());
                let how = if *durable { "d" } else { "" };
                format!("{id} write{how} {segment}@{offset}+{} {what}", buf.len())
            }
            OpKind::Read { segment, offset, buf } => {
                format!("{id} read {segment}@{offset}+{}", buf.len())
            }
            kind => {
                match kind {
                    OpKind::Sync { .. } => self.syncs += 1,
                    OpKind::Recycle { .. } => self.recycled += 1,
                    OpKind::Shorten { .. } => self.shortened += 1,
                    OpKind::ReadSide { .. } => self.sides_read += 1,
                    OpKind::WriteSide { side: oncelog::io::Side::Tail, .. } => {
                        self.tails_kept += 1;
                    }
                    _ => {}
                }
                let mut text = format!("{id} {kind:?}");
                text.truncate(120);
                text
            }
        }
    }

    fn see_write(&mut self, offset: u64, bytes: &[u8]) -> String {
        if offset == 0 {
            self.segments_begun += 1;
            return "header, manifest".to_owned();
        }
        let entry = Entry::parse(bytes).expect("what is written is an entry");
        let flags = entry.head.flags;
        self.seals += u64::from(flags.has(Flags::SEAL));
        self.watermarks += u64::from(flags.has(Flags::WATERMARK));
        let controls = control_records(&entry, &Bytes::copy_from_slice(bytes));
        for control in controls.expect("they were just made") {
            match control {
                Control::ChainCarried { .. } => self.chains_carried += 1,
                Control::SegmentFreed { .. } => self.freed += 1,
                Control::Checkpoint(checkpoint) if !checkpoint.carried => {
                    if let CheckpointState::Snapshot { parts, .. } = checkpoint.state {
                        self.snapshots_in_parts += u64::from(!parts.is_empty());
                    }
                }
                _ => {}
            }
        }
        let (number, durable) = (entry.head.place.entry, entry.head.durable);
        format!("entry {number} durable {durable} {flags:?} sections {}", entry.sections.len())
    }

    /// Sees an answer.
    pub fn answered(&mut self, effect: &Effect, outcome: &Outcome) {
        match (effect, outcome) {
            (Effect::Append { parts, .. }, Outcome::Appended(..)) => {
                self.appends += 1;
                self.batches += u64::from(parts.len() > 1);
            }
            (Effect::Commit(commit), Outcome::Appended(..)) => {
                self.commits += 1;
                self.commits_with_outputs += u64::from(!commit.outputs.is_empty());
            }
            (Effect::Commit(_), Outcome::Refused("fenced")) => self.fenced += 1,
            (Effect::Commit(_), Outcome::Refused("ended" | "overtaken")) => self.ended += 1,
            (_, Outcome::Refused(_)) => self.refusals += 1,
            _ => {}
        }
    }
}
