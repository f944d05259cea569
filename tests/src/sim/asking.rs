//! Requests as clients make them, and their answers as the model speaks of them.
//!
//! ```text
//! Effect -> Request + Waiting -> Shard -> Waiting::poll -> Outcome, positions
//! ```
//!
//! Not here: which requests are made (`clients`), and whether an answer is right (`world`).

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use oncelog::change::{
    Author, Change, ProcessorInfo, WriterAppend, WriterGrant, WriterInfo, Written,
};
use oncelog::error::{AppendError, CommitError, LogError, ProcessorError, Stopped};
use oncelog::format::control::SourcePosition;
use oncelog::reply::{Pending, pair};
use oncelog::request::{
    Appended, CommitRequest, Committed, LogInfo, NewRecord, NewState, Part, Request, Restored,
};
use oncelog::{Dlsn, LogId, Sequence, TxId};

use crate::sim::effect::{self, Blob, Commit, Effect, Info, Outcome, Write, WriterRow};
use crate::sim::payload::payload;

/// An answer that is awaited.
#[derive(Debug)]
pub enum Waiting {
    /// One log.
    Log(Pending<LogInfo, LogError>),
    /// Several logs.
    Logs(Pending<Vec<LogInfo>, LogError>),
    /// Something done with a log.
    LogDone(Pending<(), LogError>),
    /// An append.
    Append(Pending<Appended, AppendError>),
    /// A batch.
    Batch(Pending<Vec<Appended>, AppendError>),
    /// A processor.
    Owner(Pending<Restored, ProcessorError>),
    /// Several processors.
    Readers(Pending<Vec<ProcessorInfo>, ProcessorError>),
    /// Something done with a processor.
    ReaderDone(Pending<(), ProcessorError>),
    /// A part of a snapshot.
    Part(Pending<(), CommitError>),
    /// A commit.
    Commit(Pending<Committed, CommitError>),
    /// The end of a log.
    Sealed(Pending<Sequence, LogError>),
    /// A writer, or a log of its own.
    Grant(Pending<WriterGrant, LogError>),
    /// Several writers.
    Writers(Pending<Vec<WriterInfo>, LogError>),
    /// A batch of a writer.
    Written(Pending<Written, AppendError>),
}

/// The answer, if it is there.
pub fn take<T, E: From<Stopped>>(pending: &mut Pending<T, E>) -> Option<Result<T, E>> {
    match Pin::new(pending).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => Some(answer),
        Poll::Pending => None,
    }
}

/// An outcome, and where the records of each part stand.
pub type Answered = (Outcome, Vec<Option<Dlsn>>);

impl Waiting {
    /// The answer, if it is there. Asked again only if it was not.
    pub fn poll(&mut self) -> Option<Answered> {
        let mut places = Vec::new();
        let outcome = match self {
            Self::Log(pending) => {
                take(pending)?.map_or_else(of_log_error, |log| Outcome::Logs(vec![info(log)]))
            }
            Self::Logs(pending) => take(pending)?.map_or_else(of_log_error, |logs| {
                Outcome::Logs(logs.into_iter().map(info).collect())
            }),
            Self::LogDone(pending) => take(pending)?.map_or_else(of_log_error, |()| Outcome::Done),
            Self::Append(pending) => take(pending)?.map_or_else(of_append_error, |appended| {
                appended_outcome(0, &[appended], &mut places)
            }),
            Self::Batch(pending) => take(pending)?.map_or_else(of_append_error, |appended| {
                appended_outcome(0, &appended, &mut places)
            }),
            Self::Owner(pending) => take(pending)?.map_or_else(of_processor_error, restored),
            Self::Readers(pending) => take(pending)?.map_or_else(of_processor_error, |infos| {
                Outcome::Readers(infos.into_iter().map(|info| info.name).collect())
            }),
            Self::ReaderDone(pending) => {
                take(pending)?.map_or_else(of_processor_error, |()| Outcome::Done)
            }
            Self::Part(pending) => take(pending)?.map_or_else(of_commit_error, |()| Outcome::Done),
            Self::Commit(pending) => take(pending)?.map_or_else(of_commit_error, |committed| {
                appended_outcome(committed.number, &committed.outputs, &mut places)
            }),
            Self::Sealed(pending) => {
                take(pending)?.map_or_else(of_log_error, |end| Outcome::SealedAt(end.get()))
            }
            Self::Grant(pending) => take(pending)?
                .map_or_else(of_log_error, |grant| Outcome::Granted(grant.epoch, grant.last)),
            Self::Writers(pending) => take(pending)?.map_or_else(of_log_error, |writers| {
                Outcome::Writers(writers.into_iter().map(writer_row).collect())
            }),
            Self::Written(pending) => take(pending)?.map_or_else(of_append_error, |written| {
                let Written { appended, repeated } = written;
                places.push(appended.dlsn);
                Outcome::Written { at: (appended.first.get(), appended.count), repeated }
            }),
        };
        Some((outcome, places))
    }
}

fn appended_outcome(number: u64, appended: &[Appended], places: &mut Vec<Option<Dlsn>>) -> Outcome {
    places.extend(appended.iter().map(|appended| appended.dlsn));
    let numbers = appended.iter().map(|appended| (appended.first.get(), appended.count));
    Outcome::Appended(number, numbers.collect())
}

fn info(log: LogInfo) -> Info {
    let numbers = (log.first.get(), log.next.get(), log.last_txid.get());
    Info {
        id: log.id,
        name: log.name,
        numbers,
        bytes: log.bytes,
        sealed: log.sealed,
        owner: log.owner,
        version: log.options_version,
        options: log.options,
    }
}

fn writer_row(writer: WriterInfo) -> WriterRow {
    let WriterInfo { name, epoch, increasing, last } = writer;
    WriterRow { name, epoch, increasing, last }
}

fn restored(restored: Restored) -> Outcome {
    Outcome::Owned(effect::Restored {
        reader: restored.reader,
        epoch: restored.epoch,
        sources: restored.positions.iter().map(|s| (s.log, s.next.get())).collect(),
        snapshot: restored.snapshot.map(Blob),
        deltas: restored.deltas.into_iter().map(Blob).collect(),
        commits: restored.commits,
    })
}

fn of_log_error(error: LogError) -> Outcome {
    Outcome::Refused(match error {
        LogError::Exists { .. } => "exists",
        LogError::NoSuchLog { .. } => "no such log",
        LogError::Dropped => "dropped",
        LogError::InUse { .. } => "in use",
        LogError::BeyondEnd { .. } => "beyond the end",
        LogError::Needed { .. } => "needed",
        LogError::Sealed { .. } => "sealed",
        LogError::Owned { .. } => "owned",
        LogError::NoSuchWriter { .. } => "no such writer",
        LogError::Options { .. } => "options",
        LogError::OptionsChanged { .. } => "options changed",
        LogError::OtherGroup { .. } => "other group",
        LogError::TooMany { .. } => return Outcome::TooMany,
        LogError::NoSpace(_) => return Outcome::NoSpace,
        LogError::Stopped(_) => return Outcome::Stopped,
        other => panic!("an answer that no request of the simulator should get: {other}"),
    })
}

fn of_append_error(error: AppendError) -> Outcome {
    Outcome::Refused(match error {
        AppendError::BatchTooLarge { .. } | AppendError::TooLarge { .. } => "too large",
        AppendError::TxIdDecreased { .. } => "txid",
        AppendError::Dropped => "dropped",
        AppendError::Sealed { .. } => "sealed",
        AppendError::Owned { .. } => "owned",
        AppendError::UnknownWriter { .. } => "no such writer",
        AppendError::WriterFenced { .. } => "writer fenced",
        AppendError::NumberForgotten { .. } => "forgotten",
        AppendError::NumberOutOfOrder { .. } => "out of order",
        AppendError::OverCapacity { retry_after_us, .. } => {
            return Outcome::OverCapacity(retry_after_us);
        }
        AppendError::NoSpace(_) => return Outcome::NoSpace,
        AppendError::Stopped(_) => return Outcome::Stopped,
        other => panic!("an answer that no request of the simulator should get: {other}"),
    })
}

fn of_processor_error(error: ProcessorError) -> Outcome {
    Outcome::Refused(match error {
        ProcessorError::NoSuchLog { .. } => "no such log",
        ProcessorError::NoSuchProcessor { .. } => "no such processor",
        ProcessorError::OtherSources { .. } => "other sources",
        ProcessorError::Fenced { .. } => "fenced",
        ProcessorError::Damaged(damage) => return Outcome::Damaged(Box::new(damage)),
        ProcessorError::Io(_) => "io",
        ProcessorError::TooMany { .. } => return Outcome::TooMany,
        ProcessorError::NoSpace(_) => return Outcome::NoSpace,
        ProcessorError::Stopped(_) => return Outcome::Stopped,
        other => panic!("an answer that no request of the simulator should get: {other}"),
    })
}

fn of_commit_error(error: CommitError) -> Outcome {
    Outcome::Refused(match error {
        CommitError::Fenced { .. } => "fenced",
        CommitError::Overtaken { .. } => "overtaken",
        CommitError::Ended => "ended",
        CommitError::Position { .. } | CommitError::NoSource { .. } => "position",
        CommitError::Output(_) => "output",
        CommitError::Dropped => "dropped",
        CommitError::NoSpace(_) => return Outcome::NoSpace,
        CommitError::Stopped(_) => return Outcome::Stopped,
        other => panic!("an answer that no request of the simulator should get: {other}"),
    })
}

fn records(new: &[effect::NewRecord]) -> Vec<NewRecord> {
    let record = |r: &effect::NewRecord| NewRecord {
        txid: r.txid.map(TxId::new),
        payload: payload(r.id, r.len),
    };
    new.iter().map(record).collect()
}

fn parts(new: &[(LogId, Vec<effect::NewRecord>)], author: Author) -> Vec<Part> {
    new.iter().map(|(log, new)| Part { log: *log, author, records: records(new) }).collect()
}

/// The request that does what `effect` says.
#[must_use]
pub fn request_of(effect: &Effect) -> (Request, Waiting) {
    match effect.clone() {
        Effect::OpenLog(name, mode, options) => {
            let (reply, pending) = pair();
            (Request::OpenLog { name, mode, options, reply }, Waiting::Log(pending))
        }
        Effect::DropLog(name) => {
            let (reply, pending) = pair();
            (Request::DropLog { name, reply }, Waiting::LogDone(pending))
        }
        Effect::Truncate(log, before) => {
            let (reply, pending) = pair();
            let before = Sequence::new(before);
            (Request::Truncate { log, before, reply }, Waiting::LogDone(pending))
        }
        Effect::Append { parts: new, author, alone: true, .. } => {
            let (reply, pending) = pair();
            let (log, record) = (new[0].0, records(&new[0].1).remove(0));
            (Request::Append { log, author, record, reply }, Waiting::Append(pending))
        }
        Effect::Append { parts: new, author, .. } => {
            let (reply, pending) = pair();
            (Request::AppendBatch { parts: parts(&new, author), reply }, Waiting::Batch(pending))
        }
        Effect::OpenReader { name, sources, change, owns } => {
            let (reply, pending) = pair();
            let request = Request::OpenReader { name, sources, change, owns, reply };
            (request, Waiting::Owner(pending))
        }
        Effect::DropReader(name) => {
            let (reply, pending) = pair();
            (Request::DropReader { name, reply }, Waiting::ReaderDone(pending))
        }
        Effect::Part(reader, epoch, number, Blob(bytes)) => {
            let (reply, pending) = pair();
            let part = Request::SnapshotPart { reader, epoch, number, bytes, reply };
            (part, Waiting::Part(pending))
        }
        Effect::Commit(commit) => commit_request(commit),
        Effect::ListLogs { prefix, after, limit } => {
            let (reply, pending) = pair();
            (Request::ListLogs { prefix, after, limit, reply }, Waiting::Logs(pending))
        }
        Effect::Describe(log) => {
            let (reply, pending) = pair();
            (Request::DescribeLog { log, reply }, Waiting::Log(pending))
        }
        Effect::ListReaders => {
            let (reply, pending) = pair();
            (Request::ListReaders { reply }, Waiting::Readers(pending))
        }
        change => {
            let (change, waiting) = change_of(change);
            (Request::Change(Box::new(change)), waiting)
        }
    }
}

fn change_of(effect: Effect) -> (Change, Waiting) {
    match effect {
        Effect::Seal(log, author) => {
            let (reply, pending) = pair();
            (Change::SealLog { log, author, reply }, Waiting::Sealed(pending))
        }
        Effect::SetOptions { log, options, replaces } => {
            let (reply, pending) = pair();
            (Change::SetOptions { log, options, replaces, reply }, Waiting::Log(pending))
        }
        Effect::Rename(log, name) => {
            let (reply, pending) = pair();
            (Change::RenameLog { log, name, reply }, Waiting::Log(pending))
        }
        Effect::SetRates(rates) => {
            let (reply, pending) = pair();
            (Change::SetRates { rates, reply }, Waiting::LogDone(pending))
        }
        Effect::OpenWriter { log, name, increasing, exclusive } => {
            let (reply, pending) = pair();
            let open = Change::OpenWriter { log, name, increasing, exclusive, reply };
            (open, Waiting::Grant(pending))
        }
        Effect::Share(log) => {
            let (reply, pending) = pair();
            (Change::ShareLog { log, reply }, Waiting::LogDone(pending))
        }
        Effect::Forget(log, name) => {
            let (reply, pending) = pair();
            (Change::ForgetWriter { log, name, reply }, Waiting::LogDone(pending))
        }
        Effect::ListWriters(log) => {
            let (reply, pending) = pair();
            (Change::ListWriters { log, reply }, Waiting::Writers(pending))
        }
        Effect::Write(write) => {
            let (reply, pending) = pair();
            let Write { log, name, epoch, exclusive, number, records: new } = write;
            let (name, records) = (name.into(), records(&new));
            let append = WriterAppend { log, name, epoch, exclusive, number, records, reply };
            (Change::WriterAppend(append), Waiting::Written(pending))
        }
        other => unreachable!("no change: {other:?}"),
    }
}

fn commit_request(commit: Commit) -> (Request, Waiting) {
    let (reply, pending) = pair();
    let at = |log, next| SourcePosition { log, next: Sequence::new(next) };
    let request = CommitRequest {
        reader: commit.reader,
        epoch: commit.epoch,
        number: commit.number,
        from: commit.moves.iter().map(|(log, from, _)| at(*log, *from)).collect(),
        to: commit.moves.iter().map(|(log, _, to)| at(*log, *to)).collect(),
        state: match commit.state {
            None => NewState::None,
            Some((false, Blob(bytes))) => NewState::Delta(bytes),
            Some((true, Blob(bytes))) => NewState::Snapshot(bytes),
        },
        parts: commit.parts,
        outputs: parts(&commit.outputs, Author::Processor(commit.epoch)),
        reply,
    };
    (Request::Commit(Box::new(request)), Waiting::Commit(pending))
}
