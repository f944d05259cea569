//! Processors: owning one, and committing.
//!
//! ```text
//! open:    new epoch staged (older owners are fenced from here on) -> durable -> restore
//! commit:  epoch, position and outputs checked -> checkpoint + outputs staged in one entry
//! ```
//!
//! First the epoch is durable, then the checkpoint is read: never the other way round. A commit
//! states the position that it started from; what does not follow is refused here, and again when
//! the journal is read back (`catalog`).
//!
//! Not here: reading the state back (`restore`), and carrying chains out of segments that go
//! (`retention`).

use bytes::Bytes;

use crate::change::{ProcessorInfo, SourceInfo};
use crate::error::{AppendError, CommitError, NoSpace, ProcessorError};
use crate::format::control::{
    Checkpoint, CheckpointState, Control, ManifestReader, SourcePosition, checkpoint_record_size,
};
use crate::gauges::amount;
use crate::io::Now;
use crate::limits::{DELTA_BYTES_DUE, DELTAS_DUE, SOURCES_MAX};
use crate::name::group_of;
use crate::position::{Epoch, LogId, ReaderId};
use crate::rates::Came;
use crate::reply::Reply;
use crate::request::{Answer, CommitRequest, Committed, NewState, Part, Request, Restored};
use crate::restore::WalkFor;
use crate::serve::{Admit, Class, need_of, need_of_control};
use crate::shard::{Deferred, Shard};
use crate::stage::Need;

impl Shard {
    pub(crate) fn open_reader(
        &mut self,
        name: String,
        (sources, change, owns): (Vec<String>, bool, Vec<String>),
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
        let owned = match self.logs_to_own(&name, &owns, epoch) {
            Ok(owned) => owned,
            Err(error) => {
                self.answer(Answer::other(reply, Err(error)));
                return None;
            }
        };
        let control = Control::ReaderOpened { reader, epoch, sources: positions, name };
        // A manifest's row of a processor has 84 bytes more than this record. A known one has its
        // row already: it is never kept out, unless it wants more sources.
        let rows = 8 * owned.len() as u64;
        let size = control.size() + owned.iter().map(Control::size).sum::<u64>();
        let need = Need { control: size, sections: 0, records: 0 };
        let (more, class) = match known.map(|known| self.more_sources(known, &control)) {
            Some(0) => (0, Class::Position),
            Some(more) => (more + rows, Class::Position),
            None => (control.size() + 84 + rows, Class::Data),
        };
        let mut room = Ok(());
        if more > 0 {
            room = self.catalog.room_in_manifest(more, self.config.segment_size);
        }
        let room = room.map(|()| self.admit(need, class));
        let Control::ReaderOpened { name, .. } = &control else { unreachable!() };
        match room {
            Err((size, max)) => {
                let error = ProcessorError::TooMany { size, max };
                self.answer(Answer::other(reply, Err(error)));
            }
            Ok(Admit::Hold) => {
                let name = name.clone();
                return Some(Request::OpenReader { name, sources, change, owns, reply });
            }
            Ok(Admit::NoSpace) => {
                self.answer(Answer::other(reply, Err(ProcessorError::NoSpace(NoSpace))));
            }
            Ok(Admit::Yes) => {
                for control in std::iter::once(&control).chain(&owned) {
                    self.stage(control);
                }
                let id = self.add_walk(reader, WalkFor::Restore(reply));
                self.defer(Deferred::Restore(id));
            }
        }
        None
    }

    /// What makes a processor the owner of its outputs.
    fn logs_to_own(
        &self,
        name: &str,
        owns: &[String],
        epoch: Epoch,
    ) -> Result<Vec<Control>, ProcessorError> {
        if owns.len() > SOURCES_MAX {
            let (count, max) = (owns.len(), SOURCES_MAX);
            return Err(ProcessorError::SourceCount { count, max });
        }
        let mut owned = Vec::new();
        for own in owns {
            if group_of(own) != group_of(name) {
                let (log, group) = (own.clone(), group_of(name).to_owned());
                return Err(ProcessorError::OtherGroup { log, group });
            }
            let log = self.catalog.log_named(own);
            let log = log.ok_or_else(|| ProcessorError::NoSuchLog { name: own.clone() })?;
            let control = Control::LogOwned { log, epoch };
            if !owned.contains(&control) {
                owned.push(control);
            }
        }
        Ok(owned)
    }

    /// Bytes by which the row of a known processor grows.
    fn more_sources(&self, known: ReaderId, control: &Control) -> u64 {
        let Control::ReaderOpened { sources, .. } = control else { unreachable!() };
        let stored = &self.catalog.reader(known).expect("a named one is there").stored;
        16 * sources.len().saturating_sub(stored.sources.len()) as u64
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
        // Nobody could append to what it owned.
        let epoch = self.catalog.reader(reader).expect("a named one is there").stored.epoch;
        let owned = self.catalog.owned_by(epoch).take(SOURCES_MAX);
        let mut controls: Vec<_> =
            owned.map(|log| Control::LogOwned { log, epoch: Epoch(0) }).collect();
        controls.push(control);
        let size = controls.iter().map(Control::size).sum();
        let need = Need { control: size, sections: 0, records: 0 };
        match self.admit(need, Class::Control) {
            Admit::Hold => return Some(Request::DropReader { name, reply }),
            Admit::NoSpace => {
                self.answer(Answer::other(reply, Err(ProcessorError::NoSpace(NoSpace))));
            }
            Admit::Yes => {
                controls.iter().for_each(|control| self.stage(control));
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
        number: u64,
        bytes: Bytes,
        reply: Reply<(), CommitError>,
    ) -> Option<Request> {
        if let Err(error) = self.check_owner(reader, epoch) {
            self.answer(Answer::other(reply, Err(error)));
            return None;
        }
        let control = Control::SnapshotPart { reader, bytes };
        match self.admit(need_of_control(&control), Class::Data) {
            Admit::Hold => {
                let Control::SnapshotPart { bytes, .. } = control else { unreachable!() };
                return Some(Request::SnapshotPart { reader, epoch, number, bytes, reply });
            }
            Admit::NoSpace => {
                self.end_owner(reader);
                self.answer(Answer::other(reply, Err(CommitError::NoSpace(NoSpace))));
            }
            Admit::Yes => {
                let link = self.journal.next_link();
                self.stage(&control);
                let state = self.catalog.reader_mut(reader).expect("it was checked");
                if state.parts_for != number {
                    // Parts of a snapshot that was given up mean nothing.
                    state.parts_for = number;
                    state.parts.clear();
                }
                state.parts.push(link);
                self.journal.tally().add_snapshot_part();
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

    pub(crate) fn commit(&mut self, commit: Box<CommitRequest>, now: Now) -> Option<Request> {
        let need = match self.check_commit(&commit) {
            Ok(need) => need,
            Err(error) => {
                if !matches!(error, CommitError::Fenced { .. } | CommitError::Dropped) {
                    self.end_owner(commit.reader);
                }
                self.refuse_commit(commit.reply, error);
                return None;
            }
        };
        let position_only = need.records == 0 && matches!(commit.state, NewState::None);
        let class = if position_only { Class::Position } else { Class::Data };
        match self.admit(need, class) {
            Admit::Hold => return Some(Request::Commit(commit)),
            Admit::NoSpace => {
                self.end_owner(commit.reader);
                self.refuse_commit(commit.reply, CommitError::NoSpace(NoSpace));
            }
            Admit::Yes => self.stage_commit(*commit, need, now),
        }
        None
    }

    /// Stages a commit that was checked and admitted: checkpoint and outputs, in one entry.
    fn stage_commit(&mut self, commit: CommitRequest, need: Need, now: Now) {
        let CommitRequest { reader, epoch, number, from, to, outputs, reply, .. } = commit;
        let state = self.catalog.reader(reader).expect("its owner was checked");
        let (state, previous) = match commit.state {
            NewState::None => (CheckpointState::None, None),
            NewState::Delta(bytes) => (CheckpointState::Delta(bytes), state.stored.head),
            NewState::Snapshot(last) => {
                self.retention_due = true;
                let parts = if commit.parts > 0 { state.parts.clone() } else { Vec::new() };
                (CheckpointState::Snapshot { parts, last }, None)
            }
        };
        let carried = false;
        let checkpoint = Checkpoint { reader, epoch, number, carried, previous, from, to, state };
        let control = Control::Checkpoint(checkpoint);
        assert_eq!(control.size(), need.control);
        self.stage(&control);
        self.metrics.commit(self.journal.tally(), amount(&outputs).0);
        let stage = |part: Part| {
            self.add_pace(part.log, &part.records, Came::Anyhow, now);
            self.stage_records(part.log, part.records)
        };
        let outputs = outputs.into_iter().map(stage).collect();
        let stored = &self.catalog.reader(reader).expect("it was checked").stored;
        let due = DELTA_BYTES_DUE.max(stored.snapshot_bytes.saturating_mul(4));
        let snapshot_due = stored.deltas >= DELTAS_DUE || stored.delta_bytes > due;
        let committed = Committed { number, outputs, snapshot_due };
        self.answer(Answer::Commit(reply, Ok(committed)));
    }

    fn check_commit(&self, commit: &CommitRequest) -> Result<Need, CommitError> {
        self.check_owner(commit.reader, commit.epoch)?;
        let state = self.catalog.reader(commit.reader).expect("its owner was checked");
        let stored = &state.stored;
        if commit.number != stored.number + 1 {
            // One before it was never carried out: it failed, waits for room, or was dropped.
            return Err(CommitError::Overtaken { number: commit.number });
        }
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
        let (parts, bytes) = match &commit.state {
            NewState::None => (0, 0),
            NewState::Delta(bytes) => (0, bytes.len()),
            NewState::Snapshot(last) => {
                let sent = state.parts_for == commit.number && state.parts.len() == commit.parts;
                if commit.parts > 0 && !sent {
                    // A part was never sent.
                    return Err(CommitError::Ended);
                }
                (commit.parts, last.len())
            }
        };
        let control = checkpoint_record_size(commit.to.len(), parts, bytes);
        let need = Need { control, ..outputs };
        let (len, max) = (need.alone(), self.journal.entry_size_max().into());
        let sections_max = crate::limits::SECTIONS_MAX as usize - 1;
        if len > max || need.sections > sections_max {
            return Err(CommitError::TooLarge { len, max });
        }
        Ok(need)
    }
}

impl Shard {
    /// All processors, in the order of their names.
    pub(crate) fn processor_infos(&self) -> Vec<ProcessorInfo> {
        let source = |position: &SourcePosition| {
            let log = self.catalog.log(position.log).expect("a source is never dropped");
            SourceInfo {
                id: position.log,
                log: log.name.clone(),
                next: position.next,
                first: log.first,
                end: log.next,
            }
        };
        let info = |stored: &ManifestReader| ProcessorInfo {
            name: stored.name.clone(),
            epoch: stored.epoch,
            commits: stored.number,
            sources: stored.sources.iter().map(source).collect(),
            snapshot_bytes: stored.snapshot_bytes,
            deltas: stored.deltas,
            delta_bytes: stored.delta_bytes,
        };
        self.catalog.readers().map(|(_, state)| info(&state.stored)).collect()
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
