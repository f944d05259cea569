//! Processors: owning one, restoring its state, committing.
//!
//! ```text
//! open:    new epoch staged (older owners are fenced from here on) -> durable -> walk the chain
//! commit:  epoch, position and outputs checked -> checkpoint + outputs staged in one entry
//! chain:   newest checkpoint with state -> the one before -> .. -> snapshot (or the first delta)
//! ```
//!
//! First the epoch is durable, then the checkpoint is read: never the other way round. A commit
//! states the position that it started from; what does not follow is refused here, and again when
//! the journal is read back (`catalog`). How a chain is read is (F-13).
//!
//! Not here: carrying chains out of segments that go (`retention`).

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use rustc_hash::FxHashMap;

use crate::commit::Need;
use crate::error::{AppendError, CommitError, Damaged, NoSpace, ProcessorError, Stopped};
use crate::format::control::{
    ChainLink, Checkpoint, CheckpointState, Control, Link, SourcePosition,
};
use crate::format::entry::Entry;
use crate::io::Completion;
use crate::limits::{DELTA_BYTES_DUE, DELTAS_DUE, KIB};
use crate::name::group_of;
use crate::position::{Epoch, LogId, ReaderId, SegmentId};
use crate::recover::control_records;
use crate::reply::Reply;
use crate::request::{Answer, CommitRequest, Committed, NewState, Request, Restored};
use crate::retention::Carry;
use crate::serve::{Admit, Class, need_of};
use crate::shard::{Deferred, Purpose, Shard};

/// The first read of an entry: most control sections end before this.
const PROBE_SIZE: u64 = 64 * KIB as u64;

/// One element of a state chain, as it was read.
pub(crate) struct ChainItem {
    pub(crate) checkpoint: Checkpoint,
    /// The parts of a snapshot.
    pub(crate) parts: Vec<Bytes>,
}

/// Why a chain is read.
pub(crate) enum WalkFor {
    Restore(Reply<Restored, ProcessorError>),
    /// To be carried forward.
    Carry,
}

/// A chain that is being read, newest first.
pub(crate) struct Walk {
    pub(crate) reader: ReaderId,
    epoch: Epoch,
    /// How often the chain had begun anew when the walk began.
    pub(crate) chains: u64,
    /// The segment that was active then.
    pub(crate) active: SegmentId,
    purpose: WalkFor,
    /// The checkpoint to read next.
    next: Option<ChainLink>,
    /// From here down the chain had been carried elsewhere when the walk began. Copies that are
    /// staged later are not on disk when they are met; segments do not go while a walk reads.
    carried: Option<ChainLink>,
    /// Parts of the snapshot in `items.last()` still to be read, in order.
    parts: VecDeque<Link>,
    /// The entry that is being read, and whether whole.
    reading: Link,
    whole: bool,
    pub(crate) items: Vec<ChainItem>,
}

/// Chains that are being read.
#[derive(Default)]
pub(crate) struct Walks {
    walks: FxHashMap<u64, Walk>,
    next: u64,
    /// The chain that is carried forward.
    pub(crate) carry: Carry,
    /// Segments that nothing needs, whose files wait for reads to end.
    pub(crate) freed: Vec<SegmentId>,
    /// Freeing a segment could not be staged.
    pub(crate) try_again: bool,
}

impl Walks {
    /// The shard stopped: whoever waits for its epoch to be durable is told so.
    pub(crate) fn stop(&mut self, stopped: &Stopped, answers: &mut VecDeque<Answer>) {
        // What was begun goes on: the chain that it reads is durable.
        let waiting: Vec<_> = self.walks.iter().filter(|(_, walk)| !walk.has_begun()).collect();
        let mut ids: Vec<u64> = waiting.into_iter().map(|(id, _)| *id).collect();
        ids.sort_unstable();
        for id in ids {
            let walk = self.walks.remove(&id).expect("it was just seen");
            if let WalkFor::Restore(reply) = walk.purpose {
                answers.push_back(Answer::other(reply, Err(stopped.clone().into())));
            }
        }
    }
}

impl Walks {
    /// Whether any chain is being read, or about to be.
    pub(crate) fn are_under_way(&self) -> bool {
        !self.walks.is_empty()
    }
}

impl Walk {
    fn has_begun(&self) -> bool {
        self.reading.segment.0 != 0 || !self.items.is_empty()
    }
}

impl Shard {
    pub(crate) fn open_reader(
        &mut self,
        name: String,
        sources: Vec<String>,
        change: bool,
        reply: Reply<Restored, ProcessorError>,
    ) -> Option<Request> {
        let known = self.catalog.reader_named(&name);
        let positions = match self.source_positions(&name, known, &sources, change) {
            Ok(positions) => positions,
            Err(error) => {
                self.answer(Answer::other(reply, Err(error)));
                return None;
            }
        };
        let reader = known.unwrap_or(self.catalog.next_reader());
        let epoch = self.catalog.next_epoch();
        let control = Control::ReaderOpened { reader, epoch, sources: positions, name };
        // A manifest's row of a processor has 84 bytes more than this record; a known one has its.
        let (more, class) = match known {
            Some(_) => (0, Class::Control),
            None => (84, Class::Data),
        };
        let room = self.room_for(&control, more, class);
        let Control::ReaderOpened { name, .. } = &control else { unreachable!() };
        match room {
            Err((size, max)) => {
                let error = ProcessorError::TooMany { size, max };
                self.answer(Answer::other(reply, Err(error)));
            }
            Ok(Admit::Hold) => {
                let name = name.clone();
                return Some(Request::OpenReader { name, sources, change, reply });
            }
            Ok(Admit::NoSpace) => {
                self.answer(Answer::other(reply, Err(ProcessorError::NoSpace(NoSpace))));
            }
            Ok(Admit::Yes) => {
                self.stage(&control);
                let id = self.add_walk(reader, WalkFor::Restore(reply));
                self.defer(Deferred::Restore(id));
            }
        }
        None
    }

    /// Where a processor with these sources begins.
    fn source_positions(
        &self,
        name: &str,
        known: Option<ReaderId>,
        sources: &[String],
        change: bool,
    ) -> Result<Vec<SourcePosition>, ProcessorError> {
        let stored = known.map(|id| &self.catalog.reader(id).expect("a named one is there").stored);
        if sources.is_empty() {
            let none = ProcessorError::NoSuchProcessor { name: name.to_owned() };
            return stored.map(|stored| stored.sources.clone()).ok_or(none);
        }
        let mut positions: Vec<SourcePosition> = Vec::new();
        for source in sources {
            if group_of(source) != group_of(name) {
                let (log, group) = (source.clone(), group_of(name).to_owned());
                return Err(ProcessorError::OtherGroup { log, group });
            }
            let no_such = || ProcessorError::NoSuchLog { name: source.clone() };
            let log = self.catalog.log_named(source).ok_or_else(no_such)?;
            let before = stored.and_then(|s| s.sources.iter().find(|have| have.log == log));
            // A fresh start is before the first record.
            let first = self.catalog.log(log).expect("a named log is there").first;
            let next = before.map_or(first, |before| before.next);
            if positions.iter().all(|position| position.log != log) {
                positions.push(SourcePosition { log, next });
            }
        }
        positions.sort_unstable_by_key(|position| position.log);
        let Some(stored) = stored.filter(|_| !change) else { return Ok(positions) };
        let logs = |positions: &[SourcePosition]| -> Vec<LogId> {
            positions.iter().map(|position| position.log).collect()
        };
        if logs(&stored.sources) == logs(&positions) {
            return Ok(positions);
        }
        let log_name = |position: &SourcePosition| {
            self.catalog.log(position.log).map_or_else(String::new, |log| log.name.clone())
        };
        Err(ProcessorError::OtherSources {
            name: name.to_owned(),
            asked: sources.to_vec(),
            stored: stored.sources.iter().map(log_name).collect(),
        })
    }

    pub(crate) fn drop_reader(
        &mut self,
        name: String,
        reply: Reply<(), ProcessorError>,
    ) -> Option<Request> {
        let Some(reader) = self.catalog.reader_named(&name) else {
            self.answer(Answer::other(reply, Err(ProcessorError::NoSuchProcessor { name })));
            return None;
        };
        let control = Control::ReaderDropped { reader };
        match self.admit_control(&control) {
            Admit::Hold => return Some(Request::DropReader { name, reply }),
            Admit::NoSpace => {
                self.answer(Answer::other(reply, Err(ProcessorError::NoSpace(NoSpace))));
            }
            Admit::Yes => {
                self.stage(&control);
                self.retention_due = true;
                self.answer(Answer::other(reply, Ok(())));
            }
        }
        None
    }

    pub(crate) fn snapshot_part(
        &mut self,
        reader: ReaderId,
        epoch: Epoch,
        bytes: Bytes,
        reply: Reply<(), CommitError>,
    ) -> Option<Request> {
        if let Err(error) = self.check_owner(reader, epoch) {
            self.answer(Answer::other(reply, Err(error)));
            return None;
        }
        let control = Control::SnapshotPart { reader, bytes };
        let need = Need { control: control.size(), sections: 0, records: 0 };
        match self.admit(need, Class::Data) {
            Admit::Hold => {
                let Control::SnapshotPart { bytes, .. } = control else { unreachable!() };
                return Some(Request::SnapshotPart { reader, epoch, bytes, reply });
            }
            Admit::NoSpace => {
                self.end_owner(reader);
                self.answer(Answer::other(reply, Err(CommitError::NoSpace(NoSpace))));
            }
            Admit::Yes => {
                let link = self.journal.next_link();
                self.stage(&control);
                self.catalog.reader_mut(reader).expect("it was checked").parts.push(link);
                self.answer(Answer::other(reply, Ok(())));
            }
        }
        None
    }

    fn check_owner(&self, reader: ReaderId, own: Epoch) -> Result<(), CommitError> {
        let state = self.catalog.reader(reader).ok_or(CommitError::Dropped)?;
        if state.stored.epoch != own {
            return Err(CommitError::Fenced { own, newer: state.stored.epoch });
        }
        if state.ended { Err(CommitError::Ended) } else { Ok(()) }
    }

    /// After a refused commit nothing of this owner is taken any more: a later commit cannot
    /// overtake it.
    fn end_owner(&mut self, reader: ReaderId) {
        if let Some(state) = self.catalog.reader_mut(reader) {
            state.ended = true;
        }
    }

    pub(crate) fn commit(&mut self, commit: Box<CommitRequest>) -> Option<Request> {
        let checked = self.check_commit(&commit);
        let (control, need) = match checked {
            Ok(checked) => checked,
            Err(error) => {
                if !matches!(error, CommitError::Fenced { .. } | CommitError::Dropped) {
                    self.end_owner(commit.reader);
                }
                self.answer(Answer::Commit(commit.reply, Err(error)));
                return None;
            }
        };
        let position_only = need.records == 0 && matches!(commit.state, NewState::None);
        let class = if position_only { Class::Control } else { Class::Data };
        match self.admit(need, class) {
            Admit::Hold => return Some(Request::Commit(commit)),
            Admit::NoSpace => {
                self.end_owner(commit.reader);
                self.answer(Answer::Commit(commit.reply, Err(CommitError::NoSpace(NoSpace))));
            }
            Admit::Yes => {
                let CommitRequest { reader, outputs, reply, .. } = *commit;
                self.stage(&control);
                let stage = |part: crate::request::Part| self.stage_records(part.log, part.records);
                let outputs = outputs.into_iter().map(stage).collect();
                let stored = &self.catalog.reader(reader).expect("it was checked").stored;
                let due = DELTA_BYTES_DUE.max(4 * stored.snapshot_bytes);
                let snapshot_due = stored.deltas >= DELTAS_DUE || stored.delta_bytes > due;
                let committed = Committed { number: stored.number, outputs, snapshot_due };
                self.retention_due |= matches!(
                    control,
                    Control::Checkpoint(Checkpoint { state: CheckpointState::Snapshot { .. }, .. })
                );
                self.answer(Answer::Commit(reply, Ok(committed)));
            }
        }
        None
    }

    fn check_commit(&self, commit: &CommitRequest) -> Result<(Control, Need), CommitError> {
        self.check_owner(commit.reader, commit.epoch)?;
        let state = self.catalog.reader(commit.reader).expect("its owner was checked");
        let stored = &state.stored;
        assert_eq!(commit.from.len(), commit.to.len());
        for (from, to) in commit.from.iter().zip(&commit.to) {
            let log = from.log;
            let source = stored.sources.iter().find(|source| source.log == log);
            let source = source.ok_or(CommitError::NoSource { log })?;
            let log_state = self.catalog.log(log).expect("a source is not dropped");
            // What was not durable cannot have been read.
            let end = log_state.durable_next;
            if *from != *source || to.next < from.next || to.next > end {
                let (next, stored) = (to.next, source.next);
                return Err(CommitError::Position { log, next, stored, end });
            }
        }
        let outputs = need_of(&commit.outputs);
        self.check_batch(&commit.outputs, Need::default()).map_err(CommitError::Output)?;
        let (checkpoint_state, previous) = match &commit.state {
            NewState::None => (CheckpointState::None, None),
            NewState::Delta(bytes) => (CheckpointState::Delta(bytes.clone()), stored.head),
            NewState::Snapshot(last) => {
                if state.parts.len() != commit.parts {
                    // A part was never sent, or belongs to a snapshot that was given up.
                    return Err(CommitError::Ended);
                }
                let parts = state.parts.clone();
                (CheckpointState::Snapshot { parts, last: last.clone() }, None)
            }
        };
        let control = Control::Checkpoint(Checkpoint {
            reader: commit.reader,
            epoch: commit.epoch,
            number: stored.number + 1,
            carried: false,
            previous,
            from: commit.from.clone(),
            to: commit.to.clone(),
            state: checkpoint_state,
        });
        let need = Need { control: control.size(), ..outputs };
        let (len, max) = (need.alone(), self.journal.entry_size_max().into());
        let sections_max = crate::limits::SECTIONS_MAX as usize - 1;
        if len > max || need.sections > sections_max {
            return Err(CommitError::TooLarge { len, max });
        }
        Ok((control, need))
    }

    /// A walk down the chain of a processor; it begins with [`begin_walk`](Self::begin_walk).
    pub(crate) fn add_walk(&mut self, reader: ReaderId, purpose: WalkFor) -> u64 {
        let state = self.catalog.reader(reader).expect("the caller found it");
        let id = self.walks.next;
        self.walks.next += 1;
        let nowhere = Link { segment: SegmentId(0), offset: 0, index: 0 };
        let walk = Walk {
            reader,
            epoch: state.stored.epoch,
            chains: state.chains,
            active: self.journal.active().map_or(SegmentId(0), |active| active.segment),
            purpose,
            next: state.stored.head,
            carried: state.stored.carried,
            parts: VecDeque::new(),
            reading: nowhere,
            whole: false,
            items: Vec::new(),
        };
        self.walks.walks.insert(id, walk);
        id
    }

    /// Reads the newest checkpoint. Everything staged before the walk was added is durable now, so
    /// the chain from the head of that time is.
    pub(crate) fn begin_walk(&mut self, id: u64) {
        if self.walks.walks.contains_key(&id) {
            self.advance_walk(id);
        }
    }

    fn advance_walk(&mut self, id: u64) {
        loop {
            let walk = self.walks.walks.get_mut(&id).expect("it is being advanced");
            let link = match (walk.parts.front(), walk.next) {
                (Some(part), _) => *part,
                (None, Some(next)) => {
                    let moved = walk.carried.filter(|carried| carried.number == next.number);
                    moved.unwrap_or(next).link
                }
                (None, None) => return self.finish_walk(id),
            };
            walk.reading = link;
            walk.whole = false;
            let Some(bytes) = self.tail.get(link.segment, link.offset).cloned() else {
                let offset = link.offset.into();
                return self.reads.enqueue(Purpose::Walk(id), link.segment, offset, PROBE_SIZE);
            };
            if !self.walk_bytes(id, &bytes, true) {
                return;
            }
        }
    }

    /// An entry of the chain was read.
    pub(crate) fn walk_read(&mut self, id: u64, done: Completion) {
        let Some(walk) = self.walks.walks.get(&id) else {
            unreachable!("a walk that reads is kept")
        };
        self.reads.used(walk.reading.segment);
        let whole = walk.whole;
        match done.result {
            Ok(count) => {
                let mut bytes = done.buf.expect("a read gives its buffer back").freeze();
                bytes.truncate(count as usize);
                if self.walk_bytes(id, &bytes, whole) {
                    self.advance_walk(id);
                }
            }
            Err(error) => self.fail_walk(id, ProcessorError::Io(error)),
        }
    }

    /// Takes the record out of its entry; `false` if the walk does not go on from here.
    fn walk_bytes(&mut self, id: u64, bytes: &Bytes, whole: bool) -> bool {
        let walk = self.walks.walks.get_mut(&id).expect("it is being advanced");
        let link = walk.reading;
        let place = self.config.place(link.segment);
        let place = crate::format::Place { offset: link.offset, ..place };
        let entry = Entry::parse(bytes).filter(|entry| entry.stands_at(&place));
        let control = entry.as_ref().and_then(|entry| entry.control());
        let end = control.map(|head| head.offset as usize + head.len as usize);
        if !whole && end.is_none_or(|end| end > bytes.len()) {
            walk.whole = true;
            let (segment, offset) = (link.segment, link.offset.into());
            let len = self.journal.entry_size_max().into();
            self.reads.enqueue(Purpose::Walk(id), segment, offset, len);
            return false;
        }
        let found = match (&entry, control, end) {
            (Some(entry), Some(head), Some(end)) if end <= bytes.len() => {
                let part = &bytes[head.offset as usize..end];
                head.matches(&entry.head.place, part).then(|| control_records(entry, bytes))
            }
            _ => None,
        };
        let records = found.flatten();
        let record = records.and_then(|records| records.into_iter().nth(link.index as usize));
        let taken = record.is_some_and(|record| self.take_chain_record(id, record));
        if !taken {
            let damage = self.chain_damage(id, link);
            self.fail_walk(id, ProcessorError::Damaged(damage));
        }
        taken
    }

    /// Adds what was read to the chain; `false` if it is not what the link promised.
    fn take_chain_record(&mut self, id: u64, record: Control) -> bool {
        let walk = self.walks.walks.get_mut(&id).expect("it is being advanced");
        if walk.parts.pop_front().is_some() {
            let Control::SnapshotPart { reader, bytes } = record else { return false };
            walk.items.last_mut().expect("a snapshot has parts").parts.push(bytes);
            return reader == walk.reader;
        }
        let expected = walk.next.expect("a checkpoint was read").number;
        let Control::Checkpoint(checkpoint) = record else { return false };
        if checkpoint.reader != walk.reader || checkpoint.number != expected {
            return false;
        }
        walk.next = checkpoint.previous;
        let follows = |previous: ChainLink| previous.number < expected;
        let ok = match &checkpoint.state {
            CheckpointState::None => false,
            CheckpointState::Delta(_) => checkpoint.previous.is_none_or(follows),
            CheckpointState::Snapshot { parts, .. } => {
                walk.parts = parts.iter().copied().collect();
                checkpoint.previous.is_none()
            }
        };
        walk.items.push(ChainItem { checkpoint, parts: Vec::new() });
        ok
    }

    fn chain_damage(&self, id: u64, link: Link) -> Damaged {
        let walk = &self.walks.walks[&id];
        let name = self.catalog.reader(walk.reader).map(|state| state.stored.name.as_str());
        Damaged {
            shard: self.config.shard,
            segment: link.segment,
            offset: link.offset.into(),
            what: "the checkpoint that should stand there is not valid",
            at_risk: format!("the state of processor {:?}", name.unwrap_or_default()),
        }
    }

    fn fail_walk(&mut self, id: u64, error: ProcessorError) {
        let walk = self.walks.walks.remove(&id).expect("it is being advanced");
        // Its segments may have gone with the processor, or with the state of an older owner.
        let newer = self.catalog.reader(walk.reader).map_or(walk.epoch, |r| r.stored.epoch);
        let gone = self.catalog.reader(walk.reader).is_none() || newer != walk.epoch;
        let error = if gone { ProcessorError::Fenced { newer } } else { error };
        match walk.purpose {
            WalkFor::Restore(reply) => {
                // Segments could not go while it read.
                self.retention_due = true;
                self.answer(Answer::other(reply, Err(error)));
            }
            WalkFor::Carry => {
                tracing::warn!(shard = self.config.shard.get(), %error,
                    "a processor's state cannot be carried forward; its segment is kept");
                self.carry_failed();
            }
        }
    }

    fn finish_walk(&mut self, id: u64) {
        let walk = self.walks.walks.remove(&id).expect("it is being advanced");
        self.retention_due = true;
        let (reply, mut walk) = match walk {
            Walk { purpose: WalkFor::Restore(reply), .. } => {
                (reply, Walk { purpose: WalkFor::Carry, ..walk })
            }
            walk => return self.carry(walk),
        };
        let state = self.catalog.reader(walk.reader);
        let stored = match state.map(|state| &state.stored) {
            Some(stored) if stored.epoch == walk.epoch => stored,
            stored => {
                let newer = stored.map_or(walk.epoch, |stored| stored.epoch);
                let error = ProcessorError::Fenced { newer };
                return self.answer(Answer::other(reply, Err(error)));
            }
        };
        let mut restored = Restored {
            reader: walk.reader,
            epoch: walk.epoch,
            positions: stored.sources.clone(),
            snapshot: None,
            deltas: Vec::with_capacity(walk.items.len()),
            commits: stored.number,
        };
        walk.items.reverse();
        for item in walk.items {
            match item.checkpoint.state {
                CheckpointState::None => unreachable!("it is not part of a chain"),
                CheckpointState::Delta(bytes) => restored.deltas.push(bytes),
                CheckpointState::Snapshot { last, .. } => {
                    let mut whole = BytesMut::new();
                    item.parts.iter().for_each(|part| whole.extend_from_slice(part));
                    whole.extend_from_slice(&last);
                    restored.snapshot = Some(whole.freeze());
                }
            }
        }
        self.answer_now(Answer::other(reply, Ok(restored)));
    }
}

/// An output that was refused, as an error of its commit.
impl From<AppendError> for CommitError {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::NoSpace(no_space) => Self::NoSpace(no_space),
            AppendError::Stopped(stopped) => Self::Stopped(stopped),
            other => Self::Output(other),
        }
    }
}
