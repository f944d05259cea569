//! Records that were asked for together, each of them for itself.
//!
//! What one record is refused for does not touch the others: those that are right are staged next
//! to each other, in their order, and become durable together.
//!
//! Not here: appends that are whole or not there at all (`serve`).

use crate::change::Author;
use crate::error::{AppendError, NoSpace};
use crate::format::record::RECORD_HEADER_SIZE;
use crate::io::Now;
use crate::position::{LogId, Sequence, TxId};
use crate::rates::Came;
use crate::reply::Reply;
use crate::request::{Answer, NewRecord, Part, Request};
use crate::serve::{Admit, Class};
use crate::shard::Shard;
use crate::stage::Need;

/// Where each record stands, or why it was refused.
type Each = Vec<Result<Sequence, AppendError>>;

impl Shard {
    pub(crate) fn append_each(
        &mut self,
        part: Part,
        reply: Reply<Each, AppendError>,
        now: Now,
    ) -> Option<Request> {
        let Part { log, author, mut records } = part;
        if let Err(error) = self.check_rate(log, now) {
            self.refuse_records(reply, error);
            return None;
        }
        let mut refused = self.refused_of((log, author), &records);
        let mut bad = refused.iter().map(|(index, _)| *index).peekable();
        let good = records.iter().enumerate().filter(|(index, _)| bad.next_if_eq(index).is_none());
        let bytes =
            good.map(|(_, record)| (RECORD_HEADER_SIZE + record.payload.len()) as u64).sum();
        let need = Need { control: 0, sections: 1, records: bytes };
        let (len, max) = (need.alone(), self.journal.entry_size_max().into());
        if len > max {
            self.refuse_records(reply, AppendError::BatchTooLarge { len, max });
            return None;
        }
        let count = records.len();
        if refused.len() < count {
            match self.admit(need, Class::Data) {
                Admit::Yes => {}
                Admit::Hold => {
                    return Some(Request::AppendEach {
                        part: Part { log, author, records },
                        reply,
                    });
                }
                Admit::NoSpace => {
                    self.refuse_records(reply, AppendError::NoSpace(NoSpace));
                    return None;
                }
            }
        }
        refused.iter().for_each(|(_, error)| self.metrics.append_refused(error));
        let mut bad = refused.iter().map(|(index, _)| *index).peekable();
        let mut index = 0..;
        records.retain(|_| {
            let place = index.next().expect("it has no end");
            bad.next_if_eq(&place).is_none()
        });
        let mut next = Sequence::FIRST;
        if !records.is_empty() {
            self.add_pace(log, &records, Came::Allowed, now);
            let bytes = records.iter().map(|record| record.payload.len()).sum();
            self.count_append(records.len() as u64, bytes);
            next = self.stage_records(log, records).first;
        }
        let mut refused = refused.drain(..).peekable();
        let answer = (0..count).map(|index| match refused.next_if(|(at, _)| *at == index) {
            Some((_, error)) => Err(error),
            None => {
                let own = next;
                next = next.after(1);
                Ok(own)
            }
        });
        let answer: Each = answer.collect();
        self.answer(Answer::other(reply, Ok(answer)));
        None
    }

    /// Which of the records are refused, by their places, and why; none in the usual case.
    fn refused_of(&self, own: (LogId, Author), records: &[NewRecord]) -> Vec<(usize, AppendError)> {
        if self.check_records(own, records).is_ok() {
            return Vec::new();
        }
        let mut last: Option<TxId> = None;
        let check = |(index, record): (usize, &NewRecord)| {
            let checked = self.check_records(own, std::slice::from_ref(record));
            let follows = match (record.txid, last) {
                (Some(txid), Some(last)) if txid < last => {
                    Err(AppendError::TxIdDecreased { txid, last })
                }
                _ => Ok(()),
            };
            match checked.and(follows) {
                Ok(()) => {
                    last = record.txid.or(last);
                    None
                }
                Err(error) => Some((index, error)),
            }
        };
        records.iter().enumerate().filter_map(check).collect()
    }
}
