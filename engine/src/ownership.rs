//! Who may write to a log, and what a writer sent twice.
//!
//! ```text
//! own:     new epoch staged -> durable: what owners before send from here on is refused
//! append:  known number -> where it stands, once durable
//!          next number  -> records + number staged in one entry
//! ```
//!
//! What an earlier owner sent before, also if it is still in flight, stands before the new epoch in
//! the journal: nothing of it comes later.
//!
//! Not here: processors (`owner`), and what is known of numbers (`writers`).

use crate::change::{Author, Change, WriterAppend, WriterGrant, WriterInfo, Written};
use crate::error::{AppendError, LogError, NoSpace};
use crate::format::control::{
    Control, ManifestWriter, WRITER_APPENDED_SIZE, WriterBatch, writer_row_size_max,
};
use crate::io::Now;
use crate::position::{Epoch, LogId};
use crate::rates::Came;
use crate::reply::Reply;
use crate::request::{Answer, Appended, Part};
use crate::serve::{Admit, Class, need_of, need_of_control};
use crate::shard::Shard;
use crate::stage::Need;
use crate::writers::{Number, Writers};

impl Shard {
    /// Carries a change out, or gives it back if it cannot be staged yet.
    pub(crate) fn change(&mut self, change: Change, now: Now) -> Option<Change> {
        match change {
            Change::SealLog { log, author, reply } => self.seal_log(log, author, reply),
            Change::SetOptions { log, options, replaces, reply } => {
                self.set_options(log, options, replaces, reply)
            }
            Change::RenameLog { log, name, reply } => self.rename_log(log, name, reply),
            Change::SetRates { rates, reply } => self.set_rates(rates, reply),
            open @ Change::OpenWriter { .. } => self.open_writer(open),
            Change::ShareLog { log, reply } => self.share_log(log, reply),
            Change::ForgetWriter { log, name, reply } => self.forget_writer(log, name, reply),
            Change::ListWriters { log, reply } => {
                let info = |writer: &ManifestWriter| WriterInfo {
                    name: writer.name.clone(),
                    epoch: writer.epoch,
                    increasing: writer.increasing,
                    last: writer.last,
                };
                let known = self.catalog.log(log).ok_or(LogError::Dropped);
                let infos = known.map(|_| self.catalog.writers().of(log).map(info).collect());
                self.answer(Answer::other(reply, infos));
                None
            }
            Change::WriterAppend(append) => self.writer_append(append, now),
        }
    }

    fn open_writer(&mut self, change: Change) -> Option<Change> {
        let Change::OpenWriter { log, ref name, increasing, exclusive, .. } = change else {
            unreachable!("the caller chose it")
        };
        assert!(name.is_some() || exclusive, "a writer owns its name, or the log");
        let known = match self.catalog.log(log) {
            None => Err(LogError::Dropped),
            Some(state) => {
                let writers = self.catalog.writers();
                let known = name.as_ref().and_then(|name| writers.named(log, name));
                if known.is_none() && state.sealed {
                    Err(LogError::Sealed { next: state.next })
                } else {
                    // Of a sealed log it can still be asked where its batches stand.
                    Ok(known.map(|writer| (writer.last, writer.epoch == state.owner)))
                }
            }
        };
        let known = match known {
            Ok(known) => known,
            Err(error) => return self.refuse_writer(change, error),
        };
        let epoch = self.catalog.next_epoch();
        let opened = name.as_ref().map(|name| {
            let name = name.clone();
            Control::WriterOpened { log, epoch, increasing, name }
        });
        // An owner that is fenced away does not keep the log for itself.
        let frees = known.is_some_and(|(_, owns)| owns);
        let owner = if exclusive { epoch } else { Epoch(0) };
        let owned = (exclusive || frees).then_some(Control::LogOwned { log, epoch: owner });
        // A new row, and an owner in the log's row.
        let row = name.as_ref().filter(|_| known.is_none());
        let row = row.map(|name| writer_row_size_max(name));
        let more = row.unwrap_or(0) + if exclusive { 8 } else { 0 };
        let control = opened.iter().chain(&owned).map(Control::size).sum();
        let need = Need { control, sections: 0, records: 0 };
        let room = self.catalog.room_in_manifest(more, self.config.segment_size);
        // One that is known has its row already: it is never kept out.
        if let Err((size, max)) =
            room.or_else(|full| if row.is_some() { Err(full) } else { Ok(()) })
        {
            return self.refuse_writer(change, LogError::TooMany { size, max });
        }
        match self.admit(need, Class::Position) {
            Admit::Hold => return Some(change),
            Admit::NoSpace => return self.refuse_writer(change, LogError::NoSpace(NoSpace)),
            Admit::Yes => {}
        }
        for control in opened.iter().chain(&owned) {
            self.stage(control);
        }
        let Change::OpenWriter { reply, .. } = change else { unreachable!("matched above") };
        let last = known.map_or(0, |(last, _)| last);
        self.answer(Answer::other(reply, Ok(WriterGrant { epoch, last })));
        None
    }

    fn refuse_writer(&mut self, change: Change, error: LogError) -> Option<Change> {
        let Change::OpenWriter { reply, .. } = change else { unreachable!("the caller chose it") };
        self.answer(Answer::other(reply, Err(error)));
        None
    }

    fn share_log(&mut self, log: LogId, reply: Reply<(), LogError>) -> Option<Change> {
        let control = Control::LogOwned { log, epoch: Epoch(0) };
        match self.catalog.log(log).map(|state| state.owner) {
            None => self.answer(Answer::other(reply, Err(LogError::Dropped))),
            Some(Epoch(0)) => self.answer(Answer::other(reply, Ok(()))),
            Some(_) => match self.admit(need_of_control(&control), Class::Position) {
                Admit::Hold => return Some(Change::ShareLog { log, reply }),
                Admit::NoSpace => {
                    self.answer(Answer::other(reply, Err(LogError::NoSpace(NoSpace))));
                }
                Admit::Yes => {
                    self.stage(&control);
                    self.answer(Answer::other(reply, Ok(())));
                }
            },
        }
        None
    }

    fn forget_writer(
        &mut self,
        log: LogId,
        name: String,
        reply: Reply<(), LogError>,
    ) -> Option<Change> {
        let Some(epoch) = self.catalog.writers().named(log, &name).map(|writer| writer.epoch)
        else {
            self.answer(Answer::other(reply, Err(LogError::NoSuchWriter { name })));
            return None;
        };
        let control = Control::WriterForgotten { epoch };
        match self.admit(need_of_control(&control), Class::Position) {
            Admit::Hold => return Some(Change::ForgetWriter { log, name, reply }),
            Admit::NoSpace => self.answer(Answer::other(reply, Err(LogError::NoSpace(NoSpace)))),
            Admit::Yes => {
                self.stage(&control);
                self.answer(Answer::other(reply, Ok(())));
            }
        }
        None
    }

    fn writer_append(&mut self, append: WriterAppend, now: Now) -> Option<Change> {
        let WriterAppend { log, epoch, exclusive, number, .. } = append;
        let batch = match self.judge_batch(&append) {
            Ok(batch) => batch,
            Err(error) => return self.refuse_batch(append, error),
        };
        if let Some(WriterBatch { first, count, dlsn, .. }) = batch {
            let appended = Appended { first, count: count.into(), dlsn: Some(dlsn) };
            self.metrics.counted.append_repeats += 1;
            let answer = Ok(Written { appended, repeated: true });
            self.answer(Answer::other(append.reply, answer));
            return None;
        }
        if append.records.is_empty() {
            // It uses up no number.
            let first = self.catalog.log(log).expect("it was checked").next;
            let appended = Appended { first, count: 0, dlsn: None };
            let answer = Ok(Written { appended, repeated: false });
            self.answer(Answer::other(append.reply, answer));
            return None;
        }
        let author = if exclusive { Author::Owner(epoch) } else { Author::Anyone };
        let WriterAppend { name, records, reply, .. } = append;
        let parts = [Part { log, author, records }];
        let records = need_of(&parts);
        let need = Need { control: WRITER_APPENDED_SIZE, ..records };
        let checked = self.check_batch(&parts, need);
        let checked = checked.and_then(|()| self.check_pace(&parts, now));
        let [Part { records, .. }] = parts;
        let again = |records, reply| {
            Change::WriterAppend(WriterAppend {
                log,
                name,
                epoch,
                exclusive,
                number,
                records,
                reply,
            })
        };
        if let Err(error) = checked {
            self.refuse_records(reply, error);
            return None;
        }
        match self.admit(need, Class::Data) {
            Admit::Hold => return Some(again(records, reply)),
            Admit::NoSpace => {
                self.refuse_records(reply, AppendError::NoSpace(NoSpace));
            }
            Admit::Yes => {
                let count = u32::try_from(records.len()).expect("an entry holds few records");
                let first = self.catalog.log(log).expect("it was checked").next;
                let dlsn = self.journal.next_dlsn(log);
                let (entry, slot) = (dlsn.entry(), dlsn.slot());
                let batch = Control::WriterAppended { epoch, number, first, count, entry, slot };
                assert_eq!(batch.size(), need.control);
                self.stage(&batch);
                self.add_pace(log, &records, Came::Allowed, now);
                self.count_append(count.into(), records.iter().map(|r| r.payload.len()).sum());
                let appended = self.stage_records(log, records);
                assert_eq!((appended.first, appended.dlsn), (first, Some(dlsn)));
                let answer = Ok(Written { appended, repeated: false });
                self.answer(Answer::other(reply, answer));
            }
        }
        None
    }

    fn refuse_batch(&mut self, append: WriterAppend, error: AppendError) -> Option<Change> {
        self.refuse_records(append.reply, error);
        None
    }

    /// Whether the batch is to be appended (`None`) or stands somewhere already.
    fn judge_batch(&self, append: &WriterAppend) -> Result<Option<WriterBatch>, AppendError> {
        let (number, own) = (append.number, append.epoch);
        if self.catalog.log(append.log).is_none() {
            return Err(AppendError::Dropped);
        }
        let name = append.name.to_string();
        let writers = self.catalog.writers();
        let newest = writers.named(append.log, &name);
        let newest = newest.ok_or_else(|| AppendError::UnknownWriter { name: name.clone() })?;
        if newest.epoch != own {
            return Err(AppendError::WriterFenced { name, own, newer: newest.epoch });
        }
        match Writers::judge(newest, number) {
            Number::Repeated(batch) => Ok(Some(batch)),
            Number::Next => Ok(None),
            Number::Forgotten => Err(AppendError::NumberForgotten { number, last: newest.last }),
            Number::OutOfOrder => {
                let (last, increasing) = (newest.last, newest.increasing);
                Err(AppendError::NumberOutOfOrder { number, last, increasing })
            }
        }
    }
}
