//! Requests about logs: checked against the state as staged, staged, answered once durable.
//!
//! ```text
//! request -> admit (room? reserve?) -> check -> stage + apply -> answer, held back until durable
//!              '-> held: the request comes back as soon as the journal can take it
//! ```
//!
//! A request is staged whole or not at all, and nothing overtakes one that is held.
//!
//! Not here: processors (`owner`) and reading (`read`).

use std::sync::Arc;

use crate::change::{Author, Change};
use crate::error::{AppendError, LogError, NoSpace, Stopped};
use crate::format::control::Control;
use crate::format::options::LogOptions;
use crate::format::record::RECORD_HEADER_SIZE;
use crate::gauges::amount;
use crate::io::Now;
use crate::limits::record_size_max;
use crate::position::{LogId, Sequence, TxId};
use crate::rates::Came;
use crate::reply::Reply;
use crate::request::{
    Answer, Appended, LOG_OF_LOGS, LogInfo, NewRecord, OpenMode, Part, Request, StagedRecord,
};
use crate::settings::check_options;
use crate::shard::Shard;
use crate::stage::Need;

/// Whether a request can be staged.
pub(crate) enum Admit {
    Yes,
    /// Not yet: the open entry is full, or a roll is under way.
    Hold,
    NoSpace,
}

/// Where the next segment is not at hand, data goes no further than this in the active one, of 100.
pub(crate) const DATA_PERCENT: u64 = 75;
/// And positions once so much is used: the rest is for what frees space.
const POSITION_PERCENT: u64 = 80;

/// What a request is allowed to use when the disk is full.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// Brings data: not the reserve.
    Data,
    /// Moves a position, or opens a processor: most of the reserve too.
    Position,
    /// Frees space: the whole reserve.
    Control,
}

impl Shard {
    /// Carries a request out, or gives it back if it cannot be staged yet.
    pub(crate) fn serve(&mut self, request: Request, now: Now) -> Option<Request> {
        if let Some(stopped) = self.refuses() {
            return self.refuse(request, stopped, now);
        }
        match request {
            Request::Append { log, author, record, reply } => {
                self.append((log, author), record, reply, now)
            }
            Request::AppendBatch { parts, reply } => self.append_batch(parts, reply, now),
            Request::AppendEach { part, reply } => self.append_each(part, reply, now),
            Request::Read(read) => {
                self.read(read, now);
                None
            }
            Request::Commit(commit) => self.commit(commit, now),
            Request::Change(change) => {
                self.change(*change, now).map(|change| Request::Change(Box::new(change)))
            }
            Request::OpenLog { name, mode, options, reply } => {
                self.open_log(name, mode, options, reply, now)
            }
            Request::ListLogs { prefix, after, limit, reply } => {
                let chosen = self.catalog.logs_named(&prefix, &after).take(limit);
                let infos = chosen.map(|(_, log)| self.log_info(log).expect("it is there"));
                let answer = Ok(infos.collect());
                self.answer(Answer::other(reply, answer));
                None
            }
            Request::DescribeLog { log, reply } => {
                let info = self.log_info(log).ok_or(LogError::Dropped);
                self.answer(Answer::other(reply, info));
                None
            }
            Request::DropLog { name, reply } => self.drop_log(name, reply),
            Request::Truncate { log, before, reply } => self.truncate(log, before, reply),
            Request::OpenReader { name, sources, change, owns, reply } => {
                self.open_reader(name, (sources, change, owns), reply)
            }
            Request::ListReaders { reply } => {
                let answer = Ok(self.processor_infos());
                self.answer(Answer::other(reply, answer));
                None
            }
            Request::DropReader { name, reply } => self.drop_reader(name, reply),
            Request::SnapshotPart { reader, epoch, number, bytes, reply } => {
                self.snapshot_part(reader, epoch, number, bytes, reply)
            }
            Request::Stats { reply } => {
                let answer = Ok(self.stats());
                self.answer_now(Answer::other(reply, answer));
                None
            }
            Request::Metrics { reply } => {
                self.answer_metrics(reply);
                None
            }
            Request::Space { reply } => {
                self.ask_space(reply);
                None
            }
            Request::LogSegments { log, reply } => {
                self.ask_log_segments(log, reply);
                None
            }
            Request::Close { reply } => {
                self.closing.push(reply);
                None
            }
        }
    }

    /// Why nothing that writes is taken any more.
    fn refuses(&self) -> Option<Stopped> {
        let closing = self.is_over() || !self.closing.is_empty();
        self.stopped.clone().or(closing.then(Stopped::closed))
    }

    /// A stopped shard still reads what is durable; everything else is refused.
    fn refuse(&mut self, request: Request, stopped: Stopped, now: Now) -> Option<Request> {
        match request {
            Request::Read(read) => self.read(read, now),
            Request::Append { reply, .. } => {
                let error = stopped.into();
                self.metrics.append_refused(&error);
                self.answer_now(Answer::Append(reply, Err(error)));
            }
            Request::Commit(commit) => {
                let error = stopped.into();
                self.metrics.commit_refused(&error);
                self.answer_now(Answer::Commit(commit.reply, Err(error)));
            }
            Request::AppendEach { reply, .. } => {
                self.metrics.append_refused(&stopped.clone().into());
                self.refuse_with(reply, stopped);
            }
            Request::AppendBatch { reply, .. } => {
                self.metrics.append_refused(&stopped.clone().into());
                self.refuse_with(reply, stopped);
            }
            Request::Change(change) => {
                if matches!(*change, Change::WriterAppend(_)) {
                    self.metrics.append_refused(&stopped.clone().into());
                }
                let answer = change.refused(stopped);
                self.answer_now(answer);
            }
            Request::OpenLog { reply, .. } | Request::DescribeLog { reply, .. } => {
                self.refuse_with(reply, stopped);
            }
            Request::ListLogs { reply, .. } => self.refuse_with(reply, stopped),
            Request::DropLog { reply, .. } | Request::Truncate { reply, .. } => {
                self.refuse_with(reply, stopped);
            }
            Request::OpenReader { reply, .. } => self.refuse_with(reply, stopped),
            Request::ListReaders { reply } => self.refuse_with(reply, stopped),
            Request::DropReader { reply, .. } => self.refuse_with(reply, stopped),
            Request::SnapshotPart { reply, .. } => self.refuse_with(reply, stopped),
            Request::Stats { reply } => {
                let answer = Ok(self.stats());
                self.answer_now(Answer::other(reply, answer));
            }
            Request::Metrics { reply } => self.answer_metrics(reply),
            Request::Space { reply } => self.refuse_with(reply, stopped),
            Request::LogSegments { reply, .. } => self.refuse_with(reply, stopped),
            Request::Close { reply } => {
                // A close under way goes on: what was accepted before it is finished first.
                self.closing.push(reply);
                if self.stopped.is_some() {
                    self.finish(&Err(stopped));
                } else if self.is_over() {
                    self.finish(&Ok(()));
                }
            }
        }
        None
    }

    fn refuse_with<T, E>(&mut self, reply: Reply<T, E>, stopped: Stopped)
    where
        T: Send + 'static,
        E: From<Stopped> + Send + 'static,
    {
        self.answer_now(Answer::other(reply, Err(stopped.into())));
    }

    /// Whether so much can be staged now.
    pub(crate) fn admit(&mut self, need: Need, class: Class) -> Admit {
        if self.roll.is_some() || self.journal.active().is_none() {
            self.roll_wanted |= self.roll.is_none();
            self.metrics.segment_full();
            return self.no_room();
        }
        if self.journal.is_open_empty() && !self.journal.has_room() {
            self.roll_wanted = true;
            self.metrics.segment_full();
            return self.no_room();
        }
        let percent = match class {
            Class::Data => DATA_PERCENT,
            Class::Position => POSITION_PERCENT,
            Class::Control => 100,
        };
        if !self.spares.is_ready() && !self.journal.fits_within(percent, need) {
            // Whether there is room for the next segment is not known before it is made.
            return self.no_room();
        }
        if class == Class::Data && !self.catalog.has_room_for_segments(self.config.segment_size) {
            return Admit::NoSpace;
        }
        if self.journal.fits(need) { Admit::Yes } else { Admit::Hold }
    }

    fn no_room(&self) -> Admit {
        if self.roll.is_none() && self.spares.is_out_of_space() {
            Admit::NoSpace
        } else {
            Admit::Hold
        }
    }

    /// Stages a control record and applies it. The caller was admitted.
    pub(crate) fn stage(&mut self, control: &Control) {
        let at = self.journal.next_link();
        self.journal.put_control(control);
        if let Control::Checkpoint(_)
        | Control::ReaderOpened { .. }
        | Control::ReaderDropped { .. } = control
        {
            // A log may be needed by fewer processors now.
            self.expiry.touch();
        }
        self.catalog.apply(control, at).expect("the request was checked against the catalog");
    }

    /// Stages records and applies them. The caller was admitted and checked the transaction ids.
    pub(crate) fn stage_records(&mut self, log: LogId, records: Vec<NewRecord>) -> Appended {
        let state = self.catalog.log(log).expect("the caller found it");
        let (first, mut txid, codec) = (state.next, state.last_txid, state.codec());
        let mut bytes = 0;
        let count = records.len() as u64;
        if count == 0 {
            return Appended { first, count, dlsn: None };
        }
        let first_txid = records[0].txid.unwrap_or(txid);
        let staged = records.into_iter().map(|record| {
            txid = record.txid.unwrap_or(txid);
            bytes += (RECORD_HEADER_SIZE + record.payload.len()) as u64;
            StagedRecord { txid, payload: record.payload }
        });
        let dlsn = self.journal.put_records(log, codec, first, staged);
        self.catalog
            .append(log, (first, count), (first_txid, txid), bytes)
            .expect("the records were checked against the catalog");
        Appended { first, count, dlsn: Some(dlsn) }
    }

    /// Whether records may be appended to a log: it is there, sizes and transaction ids are right.
    pub(crate) fn check_records(
        &self,
        (log, author): (LogId, Author),
        records: &[NewRecord],
    ) -> Result<(), AppendError> {
        let state = self.catalog.log(log).ok_or(AppendError::Dropped)?;
        if state.sealed {
            return Err(AppendError::Sealed { next: state.next });
        }
        if !author.may_append(state.owner) {
            return Err(AppendError::Owned { own: author.epoch(), owner: state.owner });
        }
        let set = state.options.as_ref().and_then(|options| options.record_size_max);
        let max = record_size_max(self.journal.entry_size_max());
        let max = set.map_or(max, |set| max.min(set.get())) as usize;
        let mut last = state.last_txid;
        for record in records {
            let len = record.payload.len();
            if len > max {
                return Err(AppendError::TooLarge { len, max });
            }
            if let Some(txid) = record.txid {
                if txid < last {
                    return Err(AppendError::TxIdDecreased { txid, last });
                }
                last = txid;
            }
        }
        Ok(())
    }

    fn append(
        &mut self,
        (log, author): (LogId, Author),
        record: NewRecord,
        reply: Reply<Appended, AppendError>,
        now: Now,
    ) -> Option<Request> {
        let records = (RECORD_HEADER_SIZE + record.payload.len()) as u64;
        let checked = self.check_records((log, author), std::slice::from_ref(&record));
        if let Err(error) = checked.and_then(|()| self.check_rate(log, now)) {
            self.refuse_append(reply, error);
            return None;
        }
        match self.admit(Need { control: 0, sections: 1, records }, Class::Data) {
            Admit::Yes => {
                self.add_pace(log, std::slice::from_ref(&record), Came::Allowed, now);
                self.count_append(1, record.payload.len());
                let appended = self.stage_one(log, record);
                self.answer(Answer::Append(reply, Ok(appended)));
                None
            }
            Admit::Hold => Some(Request::Append { log, author, record, reply }),
            Admit::NoSpace => {
                self.refuse_append(reply, AppendError::NoSpace(NoSpace));
                None
            }
        }
    }

    /// As [`stage_records`](Self::stage_records), without a list.
    fn stage_one(&mut self, log: LogId, record: NewRecord) -> Appended {
        let state = self.catalog.log(log).expect("the caller found it");
        let (first, last, codec) = (state.next, state.last_txid, state.codec());
        let txid = record.txid.unwrap_or(last);
        let bytes = (RECORD_HEADER_SIZE + record.payload.len()) as u64;
        let staged = StagedRecord { txid, payload: record.payload };
        let dlsn = self.journal.put_records(log, codec, first, std::iter::once(staged));
        self.catalog
            .append(log, (first, 1), (txid, txid), bytes)
            .expect("the record was checked against the catalog");
        Appended { first, count: 1, dlsn: Some(dlsn) }
    }

    fn append_batch(
        &mut self,
        parts: Vec<Part>,
        reply: Reply<Vec<Appended>, AppendError>,
        now: Now,
    ) -> Option<Request> {
        let need = need_of(&parts);
        let checked = self.check_batch(&parts, need);
        if let Err(error) = checked.and_then(|()| self.check_pace(&parts, now)) {
            self.refuse_records(reply, error);
            return None;
        }
        if need.records == 0 {
            let next = |part: &Part| self.catalog.log(part.log).expect("it was checked").next;
            let empty = |part| Appended { first: next(part), count: 0, dlsn: None };
            let answer = Ok(parts.iter().map(empty).collect());
            self.answer(Answer::other(reply, answer));
            return None;
        }
        match self.admit(need, Class::Data) {
            Admit::Yes => {
                let (records, bytes) = amount(&parts);
                self.count_append(records, bytes);
                let stage = |part: Part| {
                    self.add_pace(part.log, &part.records, Came::Allowed, now);
                    self.stage_records(part.log, part.records)
                };
                let appended = parts.into_iter().map(stage).collect();
                self.answer(Answer::other(reply, Ok(appended)));
                None
            }
            Admit::Hold => Some(Request::AppendBatch { parts, reply }),
            Admit::NoSpace => {
                self.refuse_records(reply, AppendError::NoSpace(NoSpace));
                None
            }
        }
    }

    /// Whether a batch may be appended. Parts of the same log follow each other.
    pub(crate) fn check_batch(&self, parts: &[Part], need: Need) -> Result<(), AppendError> {
        let mut last: Vec<(LogId, TxId)> = Vec::new();
        for part in parts {
            self.check_records((part.log, part.author), &part.records)?;
            // The same log may come twice: its transaction ids go on.
            let given = part.records.iter().filter_map(|record| record.txid);
            if let Some((_, last)) = last.iter().find(|(log, _)| *log == part.log)
                && let Some(txid) = given.clone().next().filter(|txid| txid < last)
            {
                return Err(AppendError::TxIdDecreased { txid, last: *last });
            }
            if let Some(txid) = given.last() {
                last.retain(|(log, _)| *log != part.log);
                last.push((part.log, txid));
            }
        }
        let (len, max) = (need.alone(), self.journal.entry_size_max().into());
        if len > max || need.sections > crate::limits::SECTIONS_MAX as usize - 1 {
            return Err(AppendError::BatchTooLarge { len, max });
        }
        Ok(())
    }

    fn open_log(
        &mut self,
        name: String,
        mode: OpenMode,
        options: Option<Arc<LogOptions>>,
        reply: Reply<LogInfo, LogError>,
        now: Now,
    ) -> Option<Request> {
        let known = self.catalog.log_named(&name);
        let answer = match (known, mode) {
            (Some(log), OpenMode::Open | OpenMode::OpenOrCreate) => {
                Ok(self.log_info(log).expect("a named log is there"))
            }
            (Some(_), OpenMode::Create) => Err(LogError::Exists { name }),
            (None, OpenMode::Open) => Err(LogError::NoSuchLog { name }),
            (None, OpenMode::Create | OpenMode::OpenOrCreate) => {
                match self.create_log(&name, options.clone(), now) {
                    Ok(Some(info)) => Ok(info),
                    Ok(None) => return Some(Request::OpenLog { name, mode, options, reply }),
                    Err(error) => Err(error),
                }
            }
        };
        self.answer(Answer::other(reply, answer));
        None
    }

    /// Creates a log, with its options in the same entry; `None` if that cannot be staged yet.
    fn create_log(
        &mut self,
        name: &str,
        options: Option<Arc<LogOptions>>,
        now: Now,
    ) -> Result<Option<LogInfo>, LogError> {
        if let Some(options) = &options {
            check_options(name, options)?;
        }
        let log = self.catalog.next_log();
        let (created_us, name) = (now.wall_us, name.to_owned());
        let created = Control::LogCreated { log, created_us, name };
        let set = options.map(|options| Control::LogOptionsSet { log, options });
        let size = created.size() + set.as_ref().map_or(0, Control::size);
        // A row has 34 bytes more than the record of its creation.
        let room = self.catalog.room_in_manifest(size + 34, self.config.segment_size);
        room.map_err(|(size, max)| LogError::TooMany { size, max })?;
        match self.admit(Need { control: size, sections: 0, records: 0 }, Class::Data) {
            Admit::Yes => {
                for control in std::iter::once(&created).chain(&set) {
                    self.stage(control);
                }
                self.reads.wake(LOG_OF_LOGS);
                self.advance_woken();
                Ok(Some(self.log_info(log).expect("it was just created")))
            }
            Admit::Hold => Ok(None),
            Admit::NoSpace => Err(LogError::NoSpace(NoSpace)),
        }
    }

    /// Whether a control record can be staged that adds `more` bytes to the manifest.
    pub(crate) fn room_for(
        &mut self,
        control: &Control,
        more: u64,
        class: Class,
    ) -> Result<Admit, (u64, u64)> {
        if more > 0 {
            self.catalog.room_in_manifest(more, self.config.segment_size)?;
        }
        Ok(self.admit(need_of_control(control), class))
    }

    fn drop_log(&mut self, name: String, reply: Reply<(), LogError>) -> Option<Request> {
        let Some(log) = self.catalog.log_named(&name) else {
            self.answer(Answer::other(reply, Err(LogError::NoSuchLog { name })));
            return None;
        };
        let mut readers = self.catalog.readers().map(|(_, reader)| &reader.stored);
        let user = readers.find(|reader| reader.sources.iter().any(|source| source.log == log));
        let user = user.map(|reader| reader.name.clone());
        drop(readers);
        if let Some(reader) = user {
            self.answer(Answer::other(reply, Err(LogError::InUse { name, reader })));
            return None;
        }
        let control = Control::LogDropped { log };
        match self.admit_control(&control) {
            Admit::Hold => return Some(Request::DropLog { name, reply }),
            Admit::NoSpace => self.answer(Answer::other(reply, Err(LogError::NoSpace(NoSpace)))),
            Admit::Yes => {
                self.stage(&control);
                self.meters.forget(log);
                self.answer(Answer::other(reply, Ok(())));
                self.records_gone(log);
            }
        }
        None
    }

    /// Whether a control record that frees space can be staged.
    pub(crate) fn admit_control(&mut self, control: &Control) -> Admit {
        self.admit(need_of_control(control), Class::Control)
    }

    fn truncate(
        &mut self,
        log: LogId,
        before: Sequence,
        reply: Reply<(), LogError>,
    ) -> Option<Request> {
        if let Err(error) = self.check_truncation(log, before) {
            self.answer(Answer::other(reply, Err(error)));
            return None;
        }
        let first = self.catalog.log(log).expect("it was checked").first;
        if before <= first {
            // Truncated so far already, or further.
            self.answer(Answer::other(reply, Ok(())));
            return None;
        }
        let control = Control::LogTruncated { log, first: before };
        match self.admit_control(&control) {
            Admit::Hold => return Some(Request::Truncate { log, before, reply }),
            Admit::NoSpace => self.answer(Answer::other(reply, Err(LogError::NoSpace(NoSpace)))),
            Admit::Yes => {
                self.truncate_to(log, before);
                self.answer(Answer::other(reply, Ok(())));
            }
        }
        None
    }

    /// Truncates a log. The caller was admitted and checked everything.
    pub(crate) fn truncate_to(&mut self, log: LogId, before: Sequence) {
        self.stage(&Control::LogTruncated { log, first: before });
        self.catalog.set_truncated(log, self.journal.staged_ordinal());
        self.records_gone(log);
    }

    fn check_truncation(&self, log: LogId, before: Sequence) -> Result<(), LogError> {
        let next = self.catalog.log(log).ok_or(LogError::Dropped)?.next;
        if before > next {
            return Err(LogError::BeyondEnd { before, next });
        }
        for (_, state) in self.catalog.readers() {
            let source = state.stored.sources.iter().find(|source| source.log == log);
            if let Some(source) = source.filter(|source| source.next < before) {
                let (reader, position) = (state.stored.name.clone(), source.next);
                return Err(LogError::Needed { before, reader, position });
            }
        }
        Ok(())
    }

    pub(crate) fn log_info(&self, id: LogId) -> Option<LogInfo> {
        let state = self.catalog.log(id)?;
        Some(LogInfo {
            id,
            name: state.name.clone(),
            first: state.first,
            next: state.next,
            last_txid: state.last_txid,
            created_us: state.created_us,
            bytes: state.bytes,
            sealed: state.sealed,
            owner: state.owner,
            options_version: state.options_version,
            options: state.options.clone().unwrap_or_default(),
        })
    }
}

/// What a control record adds to an entry.
pub(crate) fn need_of_control(control: &Control) -> Need {
    Need { control: control.size(), sections: 0, records: 0 }
}

/// What a batch adds to an entry.
pub(crate) fn need_of(parts: &[Part]) -> Need {
    let filled = parts.iter().filter(|part| !part.records.is_empty());
    let records = filled.clone().flat_map(|part| &part.records);
    let size = |record: &NewRecord| (RECORD_HEADER_SIZE + record.payload.len()) as u64;
    Need { control: 0, sections: filled.count(), records: records.map(size).sum() }
}
