//! Why requests were refused, counted by reason. A new variant of an error needs a reason here.
//!
//! Not here: what else is counted (`metrics`).

use crate::error::{AppendError, CommitError, ReadError};
use crate::metrics::{Field, ShardMetrics, Unit, Value};

/// An enum whose variants index an array of counters.
macro_rules! reasons {
    ($(#[$head:meta])* $name:ident { $(#[doc = $doc:literal] $variant:ident $text:literal,)+ }) => {
        $(#[$head])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $name {
            $(#[doc = $doc] $variant,)+
        }

        impl $name {
            /// All of them.
            pub const ALL: [Self; [$($text),+].len()] = [$(Self::$variant),+];

            /// As a label: lower case, words parted by `_`.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }
    };
}

reasons! {
    /// Why an append was refused.
    AppendRefusal {
        /// A record, or a batch, is too large for an entry.
        TooLarge "too_large",
        /// A transaction id went down.
        TxId "txid",
        /// The disk is full.
        NoSpace "no_space",
        /// `try_append` found the inbox full.
        Busy "busy",
        /// Records come faster than a hard rate.
        OverCapacity "over_capacity",
        /// A newer owner opened the writer, or the log has another owner.
        Fenced "fenced",
        /// The number does not follow, is no longer remembered, or is of an unknown writer.
        Number "number",
        /// The log was sealed.
        Sealed "sealed",
        /// The log was dropped.
        Dropped "dropped",
        /// The shard is stopped or closing.
        Stopped "stopped",
    }
}

impl AppendRefusal {
    /// `None` for what no shard ever hears of.
    pub(crate) fn of(error: &AppendError) -> Option<Self> {
        Some(match error {
            AppendError::TooLarge { .. } | AppendError::BatchTooLarge { .. } => Self::TooLarge,
            AppendError::TxIdDecreased { .. } => Self::TxId,
            AppendError::OtherGroup { .. } => return None,
            AppendError::Busy { .. } => Self::Busy,
            AppendError::OverCapacity { .. } => Self::OverCapacity,
            AppendError::Owned { .. } | AppendError::WriterFenced { .. } => Self::Fenced,
            AppendError::UnknownWriter { .. }
            | AppendError::NumberForgotten { .. }
            | AppendError::NumberOutOfOrder { .. } => Self::Number,
            AppendError::Sealed { .. } => Self::Sealed,
            AppendError::Dropped => Self::Dropped,
            AppendError::NoSpace(_) => Self::NoSpace,
            AppendError::Stopped(_) => Self::Stopped,
        })
    }
}

reasons! {
    /// Why a commit was refused.
    CommitRefusal {
        /// A newer owner opened the processor.
        Fenced "fenced",
        /// An earlier commit of the owner was refused, or came too late.
        Ended "ended",
        /// A position does not follow the stored one, or is of a log that is no source.
        Position "position",
        /// An output was refused.
        Output "output",
        /// The commit is too large for an entry.
        TooLarge "too_large",
        /// The disk is full.
        NoSpace "no_space",
        /// The processor was dropped.
        Dropped "dropped",
        /// The shard is stopped or closing.
        Stopped "stopped",
    }
}

impl CommitRefusal {
    pub(crate) fn of(error: &CommitError) -> Self {
        match error {
            CommitError::Fenced { .. } => Self::Fenced,
            CommitError::Ended | CommitError::Overtaken { .. } => Self::Ended,
            CommitError::Position { .. } | CommitError::NoSource { .. } => Self::Position,
            CommitError::Output(_) => Self::Output,
            CommitError::TooLarge { .. } => Self::TooLarge,
            CommitError::Dropped => Self::Dropped,
            CommitError::NoSpace(_) => Self::NoSpace,
            CommitError::Stopped(_) => Self::Stopped,
        }
    }
}

reasons! {
    /// Why a read was answered with an error.
    ReadRefusal {
        /// The records were truncated.
        Truncated "truncated",
        /// The log was dropped.
        Dropped "dropped",
        /// The records are damaged.
        Damaged "damaged",
        /// The device did not give the records.
        Io "io",
        /// The shard is stopped or closing.
        Stopped "stopped",
    }
}

impl ReadRefusal {
    pub(crate) fn of(error: &ReadError) -> Self {
        match error {
            ReadError::Truncated { .. } => Self::Truncated,
            ReadError::Dropped => Self::Dropped,
            ReadError::Damaged { .. } => Self::Damaged,
            ReadError::Io { .. } => Self::Io,
            ReadError::Stopped(_) => Self::Stopped,
            ReadError::End { .. } | ReadError::Gap { .. } => {
                unreachable!("a reader finds this out from an answer")
            }
        }
    }
}

/// Counters by reason.
macro_rules! refusals {
    ($($(#[doc = $doc:literal])+ $name:ident $own:ident: $reason:ident;)+) => {
        /// Counters by reason.
        #[derive(Clone, Debug, Default)]
        pub(crate) struct Refusals {
            $(pub(crate) $own: [u64; $reason::ALL.len()],)+
        }

        impl Refusals {
            pub(super) fn add(&mut self, other: &Self) {
                $(for (sum, more) in self.$own.iter_mut().zip(other.$own) {
                    *sum += more;
                })+
            }

            pub(super) fn push_fields<'a>(&self, fields: &mut Vec<Field<'a>>) {
                $(for reason in $reason::ALL {
                    fields.push(Field {
                        name: stringify!($name),
                        help: concat!($($doc),+).trim_ascii(),
                        unit: Unit::Count,
                        label: Some(("reason", reason.name())),
                        value: Value::Counter(self.$own[reason as usize]),
                    });
                })+
            }
        }

        impl ShardMetrics {
            $($(#[doc = $doc])+
            #[must_use]
            pub fn $name(&self, reason: $reason) -> u64 {
                self.refusals.$own[reason as usize]
            })+
        }
    };
}

refusals! {
    /// Append requests that were refused, by reason.
    append_refused append: AppendRefusal;
    /// Commits that were refused, by reason.
    commit_refused commit: CommitRefusal;
    /// Reads that were answered with an error, by reason.
    read_refused read: ReadRefusal;
}
