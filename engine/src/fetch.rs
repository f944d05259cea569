//! The requests of a reader: one for what it wants, others for what it will want next.
//!
//! ```text
//! Fetch --request--> shard -> sections, checked -> Records
//!   '-----ahead----> shard -> ..
//! ```
//!
//! Invariants: what is handed out follows without a gap what was handed out before; a call that is
//! dropped half-way loses nothing. There is no clock here: the shard counts how long a wait lasts,
//! and each answer says when it is over, so that what is left of it can be waited for.
//!
//! Not here: finding and checking sections (the shard does), and how many records a call hands out
//! (`reader`).

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use crate::error::{Damaged, ReadError, records_from};
use crate::format::codec::Codec;
use crate::format::record::is_whole;
use crate::limits::{MIB, READ_SIZE_DEFAULT};
use crate::log::Log;
use crate::position::{Dlsn, LogId, Sequence};
use crate::records::Records;
use crate::reply::{self, Pending};
use crate::request::{At, Planned, ReadAnswer, ReadRequest, Request, SectionBytes, Wait};
use crate::response::Response;

/// Reads that a reader in sequence has under way: one for what it wants, the others for what it
/// will want next.
const READS_AHEAD: usize = 8;

/// Bytes of these, about: fewer reads where each is large.
const READ_AHEAD_SIZE: u32 = 8 * MIB;

/// A request of a reader.
struct Asked {
    at: At,
    wait: Wait,
    /// Asked ahead, when so much had been removed (`Helm::removals`).
    ahead: Option<u64>,
    response: Response<ReadAnswer, ReadError>,
    /// Until it is known where the answer ends.
    planned: Option<Pending<Planned, ReadError>>,
}

/// What came.
#[derive(Debug)]
pub(crate) struct Fetched {
    /// None only if the wait is over.
    pub(crate) records: Records,
    /// When the wait is over, if there is such an instant and the shard said it.
    pub(crate) until: Option<u64>,
    /// The wait is over.
    pub(crate) over: bool,
    /// See [`ReadAnswer::frontier`].
    pub(crate) frontier: Dlsn,
    /// See [`ReadAnswer::next_log`].
    pub(crate) next_log: LogId,
}

/// The requests of a reader, kept when a call is dropped half-way.
///
/// The first call asks for what it wants alone. Who comes back for more reads in sequence: then
/// what follows is asked for as soon as it is known where it begins, so that the device always has
/// several reads.
pub(crate) struct Fetch {
    log: Log,
    /// Where the next records are asked for.
    pub(crate) at: At,
    /// Records are left out up to the first one there.
    sought: Option<At>,
    pub(crate) bytes_max: u32,
    /// Bytes of requests under way.
    pub(crate) ahead_max: u32,
    /// Begins at the first record that is there where the one asked for is gone.
    pub(crate) or_earliest: bool,
    /// A record was handed out.
    begun: bool,
    wait: Wait,
    asked: VecDeque<Asked>,
    in_sequence: bool,
}

impl Fetch {
    pub(crate) fn new(log: Log, at: At) -> Self {
        Self {
            log,
            at,
            sought: Some(at).filter(|at| matches!(at, At::TxId(_) | At::Time(_))),
            bytes_max: READ_SIZE_DEFAULT,
            ahead_max: READ_AHEAD_SIZE,
            or_earliest: false,
            begun: false,
            wait: Wait::Forever,
            asked: VecDeque::new(),
            in_sequence: false,
        }
    }

    pub(crate) fn log(&self) -> &Log {
        &self.log
    }

    /// The sequence of the next record, once that is settled.
    pub(crate) fn position(&self) -> Option<Sequence> {
        match self.at {
            At::Sequence(sequence) if self.sought.is_none() => Some(sequence),
            _ => None,
        }
    }

    /// The next records; none once the wait is over.
    pub(crate) async fn get(&mut self, wait: Wait) -> Result<Fetched, ReadError> {
        self.set_wait(wait);
        poll_fn(|cx| self.poll(cx)).await
    }

    /// How long the calls of [`poll`](Self::poll) from now on wait, the first counted.
    pub(crate) fn set_wait(&mut self, wait: Wait) {
        self.wait = wait;
        let stale = |asked: &Asked| match asked.wait {
            Wait::No => false,
            before => before != Wait::Forever || wait != Wait::Forever,
        };
        if self.asked.front().is_some_and(stale) {
            // It would be answered too late, or too early.
            self.asked.clear();
        }
    }

    /// The next records; none once the wait is over. For ever, if nothing else was said.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Fetched, ReadError>> {
        loop {
            if self.asked.is_empty() {
                self.ask(self.at, self.wait, false);
            }
            self.ask_ahead(cx);
            let asked = self.asked.front_mut().expect("something was asked");
            let answer = ready!(Pin::new(&mut asked.response).poll(cx));
            let asked = self.asked.pop_front().expect("it was just there");
            let removals = || self.log.access().helm.removals();
            if asked.ahead.is_some_and(|before| before != removals()) {
                // It may have been truncated since it was answered, and that be known here.
                self.asked.clear();
                continue;
            }
            let taken = answer.and_then(|answer| self.take(&asked, answer));
            let fetched = match taken {
                Err(ReadError::Truncated { .. }) if self.or_earliest && !self.begun => {
                    self.asked.clear();
                    self.at = At::Earliest;
                    continue;
                }
                taken => taken.inspect_err(|_| self.asked.clear())?,
            };
            if fetched.records.len() == 0 && !fetched.over {
                continue;
            }
            return Poll::Ready(Ok(fetched));
        }
    }

    /// Takes what is wanted from an answer.
    fn take(&mut self, asked: &Asked, mut answer: ReadAnswer) -> Result<Fetched, ReadError> {
        if let Some((bad, error)) = self.unpack(&mut answer.sections) {
            // Good records before damaged ones are delivered first.
            let Some(last) = bad.checked_sub(1) else { return Err(error) };
            answer.sections.truncate(bad);
            answer.next = answer.sections[last].first.after(answer.sections[last].count.into());
        }
        let ReadAnswer { first, next, earliest, proven, until, over, end, .. } = answer;
        if end {
            if matches!(asked.at, At::Earliest | At::Latest) {
                self.at = At::Sequence(next);
            }
            return Err(ReadError::End { next });
        }
        let ReadAnswer { frontier, next_log, .. } = answer;
        let is_empty = answer.sections.is_empty();
        let mut records = Records::new(self.log.id(), asked.at, answer)?;
        if let Some(sought) = self.sought {
            records.skip_to(sought);
            let found = records.len() > 0;
            if found && !proven && !self.or_earliest && records.first_sequence() == first {
                // Nobody can tell whether those that are gone came after it too.
                return Err(ReadError::Truncated { first: first.max(earliest) });
            }
            if found {
                self.sought = None;
            }
        }
        // A position beyond the end stays what it is until a record is there.
        let resolved = match asked.at {
            At::Dlsn(_) | At::TxId(_) | At::Time(_) if is_empty => proven && self.sought.is_some(),
            _ => true,
        };
        if resolved {
            self.at = At::Sequence(next);
        }
        if self.asked.front().is_some_and(|asked| asked.at != self.at) {
            // The answer ended before damage, or was none.
            self.asked.clear();
        }
        if asked.wait == self.wait
            && let (Wait::For(_), Some(until)) = (self.wait, until)
        {
            // What is left of it, should none of these be wanted.
            self.wait = Wait::Until(until);
        }
        self.in_sequence |= !is_empty;
        self.begun |= records.len() > 0;
        // An answer without records to a read that did not wait says nothing about those that do.
        let over = match asked.wait {
            Wait::No => self.wait == Wait::No && is_empty,
            _ => over && (is_empty || records.len() > 0),
        };
        let until = until.filter(|_| asked.wait != Wait::No);
        Ok(Fetched { records, until, over, frontier, next_log })
    }

    /// Compressed records are made what they were, in the client's thread; the first section that
    /// is not what its row says, if there is one.
    fn unpack(&self, sections: &mut [SectionBytes]) -> Option<(usize, ReadError)> {
        for (index, section) in sections.iter_mut().enumerate() {
            if section.codec == Codec::None {
                continue;
            }
            let raw = section.codec.unpack(&section.bytes, section.raw_len);
            let Some(raw) = raw.filter(|raw| is_whole(raw, section.count)) else {
                let log = self.log.id();
                let dlsn = Dlsn::new(section.segment, section.entry, 0);
                let records = records_from(log, section.first, dlsn);
                let damage = Damaged {
                    shard: self.log.shard(),
                    segment: section.segment,
                    offset: 0,
                    what: "a compressed section is not what its row says",
                    at_risk: format!("{} {records}", section.count),
                };
                return Some((index, ReadError::Damaged { log, damage }));
            };
            (section.bytes, section.codec) = (raw, Codec::None);
        }
        None
    }

    fn ask(&mut self, at: At, wait: Wait, ahead: bool) {
        let removals = ahead.then(|| self.log.access().helm.removals());
        let (reply, pending) = reply::pair();
        let (told, planned) = reply::pair();
        let read = ReadRequest {
            log: self.log.id(),
            at,
            bytes_max: self.bytes_max,
            wait,
            ahead,
            planned: Some(told),
            reply,
        };
        let response = Response::send(self.log.access(), Request::Read(read), pending);
        let planned = Some(planned);
        self.asked.push_back(Asked { at, wait, ahead: removals, response, planned });
    }

    fn ask_ahead(&mut self, cx: &mut Context<'_>) {
        let max = (self.ahead_max / self.bytes_max.max(1)) as usize;
        while self.in_sequence && self.asked.len() < max.min(READS_AHEAD) {
            let last = self.asked.back_mut();
            let Some(planned) = last.and_then(|last| last.planned.as_mut()) else { return };
            let Poll::Ready(planned) = Pin::new(planned).poll(cx) else { return };
            self.asked.back_mut().expect("it was just there").planned = None;
            // An error means that there is nothing to know: it was in memory.
            let Ok(Planned { next, more: true }) = planned else { return };
            self.ask(At::Sequence(next), Wait::No, true);
        }
    }
}
