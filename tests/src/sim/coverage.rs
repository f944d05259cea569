//! What a run met: a simulator that never rolls a segment proves nothing about rolling.
//!
//! ```text
//! events | crashes | faults by kind | rows of recovery's table | kinds of control records
//!     '-> groups of (name, count); those never met, with the reason if they cannot be
//! ```
//!
//! Not here: what the disk counts itself (`faults`).

use std::ops::AddAssign;

use bytes::Bytes;
use oncelog::Codec;
use oncelog::change::Author;
use oncelog::format::control::{CheckpointState, Control};
use oncelog::format::entry::{Entry, Flags};
use oncelog::io::{Op, OpKind, Side};
use oncelog::judge::{Last, Later, Newer, judge};
use oncelog::limits::BLOCK_SIZE;

use crate::counters;
use crate::sim::effect::{Effect, Outcome};
use crate::sim::faults::FaultCounters;

counters! {
    /// What happened.
    Counts {
        /// Power cuts.
        power_cuts,
        /// Kills.
        kills,
        /// Of both, those in the middle of opening.
        recoveries_crashed,
        /// Clean closes.
        closes,
        /// Shards that stopped after something failed.
        stops,
        /// Openings that failed because the disk did.
        openings_failed,
        /// Openings that were refused because of damage.
        openings_refused,
        /// Openings at which damage may have looked like a torn tail.
        blind_spot_possible,
        /// Openings at which it did: acknowledged records were dropped, as the format says.
        blind_spot_used,
        /// Worlds that ended early: damage for good hid which of several states stands.
        worlds_cut_short,
        /// The clock was set a little back or ahead.
        clock_steps,
        /// The clock was set days back or ahead.
        clock_jumps,
        /// Processes that began with other options than the one before.
        other_options,
        /// Segments begun.
        segments_begun,
        /// Of them, those that follow a seal.
        seals,
        /// Close marks.
        close_marks,
        /// Idle watermarks.
        watermarks,
        /// Syncs, each of several writes or one.
        syncs,
        /// Files that were used again.
        recycled,
        /// Segments cut off after recovery.
        shortened,
        /// Segments that were given holes.
        punched,
        /// Tails that were kept aside.
        tails_kept,
        /// Indexes read from side files.
        sides_read,
        /// Of them, those that a process had read before and forgotten.
        indexes_forgotten,
        /// Snapshots in parts.
        snapshots_in_parts,
        /// Appends acknowledged.
        appends,
        /// Batches over several logs acknowledged.
        batches,
        /// Records that went by themselves.
        expired,
        /// Records read and compared.
        records_read,
        /// Of these reads, those that began at a transaction id or a time.
        sought,
        /// Reads whose wait was over before there was a record.
        waits_over,
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
        /// Batches of writers acknowledged.
        writer_batches,
        /// Batches of writers that were there before, and were found.
        repeats,
        /// Of them, those that had no answer when their process ended, sent again after it.
        resends_that_were_there,
        /// Batches that had no answer when their process ended and were not there.
        resends_that_were_not,
        /// Batches of fenced writers refused.
        writers_fenced,
        /// Batches of forgotten or unknown writers refused.
        writers_unknown,
        /// Numbers refused that were no longer remembered.
        numbers_forgotten,
        /// Numbers refused that do not follow.
        numbers_out_of_order,
        /// Writers that began where an owner before them ended.
        writers_taken_over,
        /// Appends refused because the log has another owner.
        owned_refusals,
        /// Appends of the owner of a log acknowledged.
        owners_appends,
        /// Commits refused because of an output.
        outputs_refused,
        /// Appends and openings refused because the log had ended.
        sealed_refusals,
        /// Logs ended, or found ended.
        logs_sealed,
        /// Reads that were told that the log has ended.
        ends_read,
        /// Options replaced.
        options_set,
        /// Options not replaced because someone else had.
        options_conflicts,
        /// Logs renamed.
        renames,
        /// Sections stored compressed.
        sections_packed,
        /// Appends refused because of a hard rate.
        over_capacity,
        /// Refusals of any other kind.
        refusals,
        /// Requests refused because the disk was full.
        no_space,
        /// Logs and processors refused because the manifest was full.
        too_many,
        /// Reads and openings of processors that failed because the disk did.
        reads_failed,
        /// Reads that said that records are damaged.
        reads_damaged,
        /// Processors whose state was said to be damaged.
        states_damaged,
    }
}

impl Counts {
    fn refused(&mut self, why: &str) {
        *(match why {
            "writer fenced" => &mut self.writers_fenced,
            "no such writer" => &mut self.writers_unknown,
            "forgotten" => &mut self.numbers_forgotten,
            "out of order" => &mut self.numbers_out_of_order,
            "owned" => &mut self.owned_refusals,
            "sealed" => &mut self.sealed_refusals,
            "options changed" => &mut self.options_conflicts,
            _ => &mut self.refusals,
        }) += 1;
    }
}

/// Kinds of control records with their names in `docs/format.md`.
const CONTROLS: [(usize, &str); 24] = [
    (1, "log created"),
    (2, "log dropped"),
    (3, "log truncated"),
    (4, "processor opened"),
    (5, "processor dropped"),
    (6, "checkpoint"),
    (7, "snapshot part"),
    (8, "chain carried"),
    (9, "segment freed"),
    (10, "seal"),
    (11, "segment punched"),
    (16, "writer opened"),
    (17, "writer appended"),
    (18, "writer forgotten"),
    (19, "log owned"),
    (24, "log sealed"),
    (25, "log options set"),
    (26, "rates set"),
    (28, "log renamed"),
    (34, "manifest: processor"),
    (35, "manifest: segment"),
    (36, "manifest head"),
    (37, "manifest: log"),
    (38, "manifest: writer"),
];

const LAST: [Last; 3] = [Last::Ordinary, Last::Close, Last::Seal];
const LATER: [Later; 3] = [Later::Nothing, Later::NotAcked, Later::Acked];
const NEWER: [Newer; 3] = [Newer::None, Newer::Unfinished, Newer::Records];

/// The facts of a row of recovery's table.
fn facts_of(row: usize) -> (Last, Later, Newer) {
    (LAST[row / 9], LATER[row / 3 % 3], NEWER[row % 3])
}

/// Why a row of recovery's table cannot be met.
fn unreachable_row(row: usize) -> Option<&'static str> {
    match facts_of(row) {
        (Last::Seal, Later::NotAcked | Later::Acked, _) => {
            Some("nothing is written behind a seal, and what is stale or misdirected never parses")
        }
        (Last::Seal, Later::Nothing, Newer::None) => {
            Some("opening is refused before it judges: the segment that the seal names is missing")
        }
        _ => None,
    }
}

/// Everything that a run met.
#[derive(Clone, Copy, Debug)]
pub struct Coverage {
    /// What happened.
    pub counts: Counts,
    /// What went wrong on the disk.
    pub faults: FaultCounters,
    /// Openings by the row of recovery's table.
    pub table: [u64; 27],
    /// Control records written, by kind.
    pub controls: [u64; 64],
}

impl Default for Coverage {
    fn default() -> Self {
        let (counts, faults) = (Counts::default(), FaultCounters::default());
        Self { counts, faults, table: [0; 27], controls: [0; 64] }
    }
}

impl AddAssign for Coverage {
    fn add_assign(&mut self, other: Self) {
        self.counts += other.counts;
        self.faults += other.faults;
        self.table.iter_mut().zip(other.table).for_each(|(all, more)| *all += more);
        self.controls.iter_mut().zip(other.controls).for_each(|(all, more)| *all += more);
    }
}

/// Counters of one kind.
pub struct Group {
    /// Of which kind.
    pub title: &'static str,
    /// Name, count, and why it cannot be met if it cannot.
    pub rows: Vec<(String, u64, Option<&'static str>)>,
}

impl Coverage {
    /// All counters.
    #[must_use]
    pub fn groups(&self) -> Vec<Group> {
        let named = |(name, count): (&str, u64)| (name.replace('_', " "), count, None);
        let row = |(row, count): (usize, &u64)| {
            let (last, later, newer) = facts_of(row);
            let name = format!("{last:?} | {later:?} | {newer:?} -> {}", verdict(row));
            (name, *count, unreachable_row(row))
        };
        let control =
            |(kind, name): (usize, &str)| (format!("{kind:>2} {name}"), self.controls[kind], None);
        vec![
            Group {
                title: "what happened",
                rows: self.counts.all().into_iter().map(named).collect(),
            },
            Group { title: "faults", rows: self.faults.all().into_iter().map(named).collect() },
            Group {
                title: "openings by the facts: last | later | newer -> verdict",
                rows: self.table.iter().enumerate().map(row).collect(),
            },
            Group {
                title: "control records written, by kind",
                rows: CONTROLS.into_iter().map(control).collect(),
            },
        ]
    }

    /// The name of every counter that is 0 although it could be met.
    #[must_use]
    pub fn never_met(&self) -> Vec<String> {
        let rows = self.groups().into_iter().flat_map(|group| group.rows);
        let never = rows.filter(|(_, count, reason)| *count == 0 && reason.is_none());
        never.map(|(name, ..)| name).collect()
    }

    /// Sees what recovery decided by.
    pub fn judged(&mut self, facts: (Last, Later, Newer)) {
        let row = (0..27).find(|row| facts_of(*row) == facts).expect("the table is whole");
        self.table[row] += 1;
    }

    /// Sees an operation on its way to the disk; says it in short, if that is wanted.
    pub fn see(&mut self, op: &Op, tracing: bool) -> Option<String> {
        match &op.kind {
            OpKind::Write { offset, buf, .. } => self.see_write(*offset, buf.as_slice()),
            OpKind::WriteSide { side, .. } => {
                self.counts.tails_kept += u64::from(*side == Side::Tail);
            }
            OpKind::Sync { .. } => self.counts.syncs += 1,
            OpKind::Recycle { .. } => self.counts.recycled += 1,
            OpKind::Shorten { .. } => self.counts.shortened += 1,
            OpKind::Punch { .. } => self.counts.punched += 1,
            OpKind::ReadSide { .. } => self.counts.sides_read += 1,
            _ => {}
        }
        tracing.then(|| line_of(op))
    }

    fn see_write(&mut self, offset: u64, bytes: &[u8]) {
        if offset == 0 {
            self.counts.segments_begun += 1;
            let mut rest = &bytes[BLOCK_SIZE as usize..];
            while let Some(entry) = Entry::parse(rest) {
                self.see_controls(&entry, rest);
                rest = &rest[entry.length as usize..];
            }
            return;
        }
        let entry = Entry::parse(bytes).expect("what is written is an entry");
        let flags = entry.head.flags;
        self.counts.seals += u64::from(flags.has(Flags::SEAL));
        self.counts.close_marks += u64::from(flags.has(Flags::CLOSE));
        self.counts.watermarks += u64::from(flags.has(Flags::WATERMARK));
        let packed = entry.records().filter(|section| section.codec != Codec::None);
        self.counts.sections_packed += packed.count() as u64;
        self.see_controls(&entry, bytes);
    }

    fn see_controls(&mut self, entry: &Entry, bytes: &[u8]) {
        let Some(head) = entry.control() else { return };
        let range = head.offset as usize..(head.offset + head.len) as usize;
        let section = Bytes::copy_from_slice(&bytes[range]);
        for control in Control::take_all(section, head.count).expect("they were just made") {
            self.controls[kind_of(&control)] += 1;
            if let Control::Checkpoint(checkpoint) = control
                && let CheckpointState::Snapshot { parts, .. } = checkpoint.state
            {
                self.counts.snapshots_in_parts += u64::from(!parts.is_empty());
            }
        }
    }

    /// Sees an answer.
    pub fn answered(&mut self, effect: &Effect, outcome: &Outcome) {
        let counts = &mut self.counts;
        match (effect, outcome) {
            (Effect::Append { parts, author, .. }, Outcome::Appended(..)) => {
                counts.appends += 1;
                counts.owners_appends += u64::from(*author != Author::Anyone);
                counts.batches += u64::from(parts.len() > 1);
            }
            (Effect::Commit(commit), Outcome::Appended(..)) => {
                counts.commits += 1;
                counts.commits_with_outputs += u64::from(!commit.outputs.is_empty());
            }
            (Effect::Commit(_), Outcome::Refused("fenced")) => counts.fenced += 1,
            (Effect::Commit(_), Outcome::Refused("ended" | "overtaken")) => counts.ended += 1,
            (Effect::Commit(_), Outcome::Refused("output")) => counts.outputs_refused += 1,
            (_, Outcome::Refused(why)) => counts.refused(why),
            (Effect::Write(_), Outcome::Written { repeated, .. }) => {
                counts.writer_batches += u64::from(!repeated);
                counts.repeats += u64::from(*repeated);
            }
            (Effect::OpenWriter { name, .. }, Outcome::Granted(_, last)) => {
                counts.writers_taken_over += u64::from(name.is_some() && *last > 0);
            }
            (_, Outcome::SealedAt(_)) => counts.logs_sealed += 1,
            (Effect::SetOptions { .. }, Outcome::Logs(_)) => counts.options_set += 1,
            (Effect::Rename(..), Outcome::Logs(_)) => counts.renames += 1,
            _ => {}
        }
    }
}

/// An operation in one line.
fn line_of(op: &Op) -> String {
    let id = op.id.0;
    match &op.kind {
        OpKind::Write { segment, offset, buf, durable } => {
            let how = if *durable { "durably" } else { "" };
            let what = match Entry::parse(buf.as_slice()) {
                None => "header, manifest".to_owned(),
                Some(Entry { head, sections, .. }) => {
                    let (entry, durable, flags) = (head.place.entry, head.durable, head.flags);
                    format!("entry {entry} durable {durable} {flags:?} sections {}", sections.len())
                }
            };
            format!("{id} write {how} {segment}@{offset}+{} {what}", buf.len())
        }
        OpKind::Read { segment, offset, buf } => {
            format!("{id} read {segment}@{offset}+{}", buf.len())
        }
        OpKind::WriteSide { segment, side, bytes } => {
            format!("{id} write {side:?} of {segment}+{}", bytes.len())
        }
        kind => format!("{id} {kind:?}"),
    }
}

fn verdict(row: usize) -> &'static str {
    let (last, later, newer) = facts_of(row);
    match judge(last, later, newer) {
        oncelog::judge::Verdict::GoOn => "go on",
        oncelog::judge::Verdict::EndHere => "end here",
        oncelog::judge::Verdict::Refuse(_) => "refuse",
    }
}

/// The number of a control record's kind (F-11).
fn kind_of(control: &Control) -> usize {
    control.kind().into()
}
