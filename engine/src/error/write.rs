//! What can go wrong with what is written: appends and commits.
//!
//! Not here: everything else (`error`).

use super::{NoSpace, Stopped};
use crate::position::{Epoch, LogId, Sequence, TxId};

/// Records were not appended.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// Nothing was written: a record is too large.
    #[error("record of {len} bytes: the limit is {max}; split it before appending")]
    TooLarge {
        /// Its size in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// Nothing was written: the batch is too large to be atomic.
    #[error("the batch needs {len} bytes of an entry, the limit is {max}; append it in parts")]
    BatchTooLarge {
        /// Its size in bytes, with what is stored beside the payloads.
        len: u64,
        /// The limit in bytes.
        max: u64,
    },
    /// Nothing was written: a transaction id went down.
    #[error("transaction id {txid} is below {last}, the last one of the log; it never decreases")]
    TxIdDecreased {
        /// What was given.
        txid: TxId,
        /// The log's last one.
        last: TxId,
    },
    /// Nothing was written: the logs are not all of one group.
    #[error(
        "log {log:?} is not of group {group:?}; a batch is atomic inside one group only: name the \
             logs \"{group}/..\" to keep them together, or append to each with its own call"
    )]
    OtherGroup {
        /// The log.
        log: String,
        /// The group of the others.
        group: String,
    },
    /// Nothing was written: `try_append` found the inbox full.
    #[error("{waiting} bytes already wait for this shard; try again once one request is answered")]
    Busy {
        /// Bytes that wait.
        waiting: u64,
    },
    /// Nothing was written: the log was sealed.
    #[error("the log was sealed at {next}: nothing is appended to it any more; use another log")]
    Sealed {
        /// Behind its last record.
        next: Sequence,
    },
    /// Nothing was written: the log has another owner.
    #[error(
        "the log has an owner (epoch {owner}), which is not this one (epoch {own}, 0 for none); \
         stop, or own it with Log::exclusive_writer"
    )]
    Owned {
        /// The epoch of this writer, 0 for none.
        own: Epoch,
        /// The log's owner, 0 if everyone may append again.
        owner: Epoch,
    },
    /// Nothing was written: a newer owner opened the writer.
    #[error("fenced: epoch {newer} has opened writer {name:?}, this one is epoch {own}; stop")]
    WriterFenced {
        /// The writer.
        name: String,
        /// The epoch of this owner.
        own: Epoch,
        /// The newer owner.
        newer: Epoch,
    },
    /// Nothing was written: the log has no writer of this name.
    #[error("the log has no writer {name:?}, or it was forgotten; open it first")]
    UnknownWriter {
        /// The writer.
        name: String,
    },
    /// Nothing was written now; whether it was before is no longer known.
    #[error(
        "number {number} is older than what is remembered of this writer, whose last is {last}; \
         look into the log whether its records are there"
    )]
    NumberForgotten {
        /// What was given.
        number: u64,
        /// The last one that was used.
        last: u64,
    },
    /// Nothing was written: the number does not follow.
    #[error(
        "number {number} does not follow {last}, the last of this writer, whose numbers \
         {}", if *increasing { "rise" } else { "have no gaps" }
    )]
    NumberOutOfOrder {
        /// What was given.
        number: u64,
        /// The last one that was used, 0 for none.
        last: u64,
        /// Whether the writer's numbers may have gaps.
        increasing: bool,
    },
    /// Nothing was written: records come faster than the hard rate.
    #[error(
        "over capacity: the rate of the {of} is used up; come back in {} ms",
        retry_after_us.div_ceil(1000)
    )]
    OverCapacity {
        /// Whose rate: log or engine.
        of: &'static str,
        /// Microseconds after which there is room again, if nothing else comes.
        retry_after_us: u64,
    },
    /// Nothing was written: the log was dropped.
    #[error("the log was dropped; open it again by name")]
    Dropped,
    /// Nothing was written: the disk is full.
    #[error("{0}")]
    NoSpace(NoSpace),
    /// See [`Stopped`].
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// A commit did not happen: neither state nor outputs nor position. The processor has ended and
/// must be opened again, which restores the last commit that did.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// A newer owner opened the processor.
    #[error("fenced: epoch {newer} has opened this processor, this one is epoch {own}; stop")]
    Fenced {
        /// The epoch of this processor.
        own: Epoch,
        /// The newer owner.
        newer: Epoch,
    },
    /// An earlier commit of this processor failed.
    #[error("an earlier commit of this processor failed; open it again to restore its state")]
    Ended,
    /// The commit before it did not come before it: it was refused, or waited for room in a full
    /// inbox, or was dropped while it waited.
    #[error(
        "commit {number} of this processor came before the one that it follows; wait for each \
         commit, or poll them in order, and open the processor again"
    )]
    Overtaken {
        /// Its number.
        number: u64,
    },
    /// The position does not follow the last one, or lies beyond the log's end.
    #[error(
        "position {next} of log {log} does not follow: the checkpoint is at {stored}, the log's \
             end at {end}"
    )]
    Position {
        /// The source.
        log: LogId,
        /// What the commit says.
        next: Sequence,
        /// What is stored.
        stored: Sequence,
        /// The next sequence of the log.
        end: Sequence,
    },
    /// A position was given for a log that is no source.
    #[error("log {log} is no source of this processor")]
    NoSource {
        /// The log.
        log: LogId,
    },
    /// An output could not be appended.
    #[error("an output was refused: {0}")]
    Output(AppendError),
    /// The commit is too large to be atomic.
    #[error(
        "the commit needs {len} bytes of an entry, the limit is {max}; process fewer records at \
             once, or commit the state as a snapshot, which may be larger"
    )]
    TooLarge {
        /// Its size in bytes.
        len: u64,
        /// The limit in bytes.
        max: u64,
    },
    /// The processor was dropped.
    #[error("the processor was dropped")]
    Dropped,
    /// Nothing was written: the disk is full.
    #[error("{0}")]
    NoSpace(NoSpace),
    /// See [`Stopped`].
    #[error(transparent)]
    Stopped(#[from] Stopped),
}
