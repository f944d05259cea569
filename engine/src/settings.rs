//! Requests that change what a log is: its end, its options, its name; and the shard's rates.
//!
//! Each is one control record, checked against the state as staged, answered once it is durable.
//!
//! Hard rates refuse before anything is staged; soft ones only count and warn.
//!
//! Not here: who may write (`ownership`), and what options do (`serve`, `stage`, `retention`).

use std::sync::Arc;

use crate::change::{Author, Change};
use crate::error::{AppendError, LogError, NoSpace};
use crate::format::control::Control;
use crate::format::options::{LogOptions, Rates};
use crate::io::Now;
use crate::limits::{METADATA_SIZE_MAX, RETENTION_READERS_MAX};
use crate::name::{check_name, group_of};
use crate::position::{LogId, Sequence};
use crate::rates::{Came, Pace, RateOf};
use crate::reply::Reply;
use crate::request::{Answer, LogInfo, NewRecord, Part};
use crate::serve::{Admit, Class, need_of_control};
use crate::shard::{Deferred, Shard};

impl Shard {
    /// Ends a log.
    pub(crate) fn seal_log(
        &mut self,
        log: LogId,
        author: Author,
        reply: Reply<Sequence, LogError>,
    ) -> Option<Change> {
        let Some(state) = self.catalog.log(log) else {
            self.answer(Answer::other(reply, Err(LogError::Dropped)));
            return None;
        };
        let (next, owner) = (state.next, state.owner);
        if state.sealed || !author.may_append(owner) {
            let refused = LogError::Owned { own: author.epoch(), owner };
            let answer = if state.sealed { Ok(next) } else { Err(refused) };
            self.answer(Answer::other(reply, answer));
            return None;
        }
        let control = Control::LogSealed { log, next };
        match self.admit(need_of_control(&control), Class::Position) {
            Admit::Hold => return Some(Change::SealLog { log, author, reply }),
            Admit::NoSpace => self.answer(Answer::other(reply, Err(LogError::NoSpace(NoSpace)))),
            Admit::Yes => {
                self.stage(&control);
                self.catalog.set_sealed(log, self.journal.staged_ordinal());
                self.defer(Deferred::Sealed(log));
                self.answer(Answer::other(reply, Ok(next)));
            }
        }
        None
    }

    pub(crate) fn set_options(
        &mut self,
        log: LogId,
        options: Arc<LogOptions>,
        replaces: Option<u32>,
        reply: Reply<LogInfo, LogError>,
    ) -> Option<Change> {
        let more = match self.check_new_options(log, &options, replaces) {
            Ok(more) => more,
            Err(error) => {
                self.answer(Answer::other(reply, Err(error)));
                return None;
            }
        };
        let control = Control::LogOptionsSet { log, options };
        match self.room_for(&control, more, Class::Position) {
            Err((size, max)) => {
                self.answer(Answer::other(reply, Err(LogError::TooMany { size, max })));
            }
            Ok(Admit::Hold) => {
                let Control::LogOptionsSet { options, .. } = control else { unreachable!() };
                return Some(Change::SetOptions { log, options, replaces, reply });
            }
            Ok(Admit::NoSpace) => {
                self.answer(Answer::other(reply, Err(LogError::NoSpace(NoSpace))));
            }
            Ok(Admit::Yes) => {
                self.stage(&control);
                self.meters.forget(log);
                self.expiry.set_due();
                let info = self.log_info(log).expect("it was just changed");
                self.answer(Answer::other(reply, Ok(info)));
            }
        }
        None
    }

    /// Bytes by which the log's row in the manifest grows.
    fn check_new_options(
        &self,
        log: LogId,
        options: &LogOptions,
        replaces: Option<u32>,
    ) -> Result<u64, LogError> {
        let state = self.catalog.log(log).ok_or(LogError::Dropped)?;
        let (name, version) = (&state.name, state.options_version);
        check_options(name, options)?;
        if let Some(replaces) = replaces.filter(|replaces| *replaces != version) {
            return Err(LogError::OptionsChanged { name: name.clone(), replaces, version });
        }
        let before = state.options.as_ref().map_or(0, |options| 4 + options.size());
        Ok((4 + options.size()).saturating_sub(before) as u64)
    }

    pub(crate) fn rename_log(
        &mut self,
        log: LogId,
        name: String,
        reply: Reply<LogInfo, LogError>,
    ) -> Option<Change> {
        let refused = match self.catalog.log(log) {
            None => Some(LogError::Dropped),
            Some(state) if state.name == name => {
                let info = self.log_info(log).expect("it is there");
                self.answer(Answer::other(reply, Ok(info)));
                return None;
            }
            Some(state) if group_of(&state.name) != group_of(&name) => {
                let group = group_of(&state.name).to_owned();
                Some(LogError::OtherGroup { name: name.clone(), group })
            }
            Some(_) if self.catalog.log_named(&name).is_some() => {
                Some(LogError::Exists { name: name.clone() })
            }
            Some(_) => None,
        };
        if let Some(error) = refused {
            self.answer(Answer::other(reply, Err(error)));
            return None;
        }
        let before = self.catalog.log(log).expect("it was checked").name.len();
        let more = name.len().saturating_sub(before) as u64;
        let control = Control::LogRenamed { log, name };
        match self.room_for(&control, more, Class::Position) {
            Err((size, max)) => {
                self.answer(Answer::other(reply, Err(LogError::TooMany { size, max })));
            }
            Ok(Admit::Hold) => {
                let Control::LogRenamed { name, .. } = control else { unreachable!() };
                return Some(Change::RenameLog { log, name, reply });
            }
            Ok(Admit::NoSpace) => {
                self.answer(Answer::other(reply, Err(LogError::NoSpace(NoSpace))));
            }
            Ok(Admit::Yes) => {
                self.stage(&control);
                let info = self.log_info(log).expect("it was just renamed");
                self.answer(Answer::other(reply, Ok(info)));
            }
        }
        None
    }

    pub(crate) fn set_rates(&mut self, rates: Rates, reply: Reply<(), LogError>) -> Option<Change> {
        let control = Control::RatesSet { rates };
        match self.admit(need_of_control(&control), Class::Position) {
            Admit::Hold => return Some(Change::SetRates { rates, reply }),
            Admit::NoSpace => self.answer(Answer::other(reply, Err(LogError::NoSpace(NoSpace)))),
            Admit::Yes => {
                self.stage(&control);
                self.meters.forget_shard();
                self.answer(Answer::other(reply, Ok(())));
            }
        }
        None
    }
}

/// What records come to: how many, and bytes of payload.
fn amount(records: &[NewRecord]) -> (u64, u64) {
    let bytes = records.iter().map(|record| record.payload.len() as u64).sum();
    (records.len() as u64, bytes)
}

impl Shard {
    /// Whether the hard rates allow records to come to these logs now.
    pub(crate) fn check_pace(&self, parts: &[Part], now: Now) -> Result<(), AppendError> {
        parts.iter().try_for_each(|part| self.check_rate(part.log, now))
    }

    /// Whether the hard rates allow records to come to this log now.
    pub(crate) fn check_rate(&self, log: LogId, now: Now) -> Result<(), AppendError> {
        if !self.catalog.has_rates() {
            return Ok(());
        }
        let (shard, own) = (self.catalog.rates(), self.rates_of(log));
        let own = own.as_ref().map(|rates| (log, rates));
        match self.meters.check(&shard, own, now.mono_us) {
            None => Ok(()),
            Some((of, retry_after_us)) => {
                let of = if of == RateOf::Log { "log" } else { "engine" };
                Err(AppendError::OverCapacity { of, retry_after_us })
            }
        }
    }

    /// Counts records that come to a log.
    ///
    /// What cannot be refused leaves no debt beyond a second or two.
    pub(crate) fn add_pace(&mut self, log: LogId, records: &[NewRecord], came: Came, now: Now) {
        if !self.catalog.has_rates() {
            return;
        }
        let (shard, own) = (self.catalog.rates(), self.rates_of(log));
        let own = own.as_ref().map(|rates| (log, rates));
        let pace = self.meters.add(&shard, own, (amount(records), came), now.mono_us);
        if pace == (Pace::Over { warn: true }) {
            let name = self.catalog.log(log).map(|state| state.name.as_str());
            tracing::warn!(shard = self.config.shard.get(), log = name, "over its soft rate");
        }
    }

    fn rates_of(&self, log: LogId) -> Option<Rates> {
        let options = self.catalog.log(log)?.options.as_ref()?;
        Some(options.rates).filter(Rates::is_some)
    }
}

/// Whether a log of this name can have such options.
pub(crate) fn check_options(log: &str, options: &LogOptions) -> Result<(), LogError> {
    let refused = |why: String| Err(LogError::Options { why });
    if options.metadata.len() > METADATA_SIZE_MAX {
        let len = options.metadata.len();
        return refused(format!("metadata of {len} bytes: the limit is {METADATA_SIZE_MAX}"));
    }
    let readers = &options.retention.readers;
    if readers.len() > RETENTION_READERS_MAX {
        let count = readers.len();
        return refused(format!("{count} processors to wait for; {RETENTION_READERS_MAX} at most"));
    }
    for reader in readers {
        check_name(reader)?;
        if group_of(reader) != group_of(log) {
            let group = group_of(log);
            return refused(format!("processor {reader:?} is not of the log's group {group:?}"));
        }
    }
    Ok(())
}
