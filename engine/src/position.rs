//! Numbers that say where something stands, each a type of its own.
//!
//! No `From<u64>`, no arithmetic operators: a sequence cannot become a transaction id by accident.
//! Every addition is checked in release builds too, since a wrapped position could acknowledge
//! records that were never written.
//!
//! Not here: what stands at a position.

use std::fmt;
use std::str::FromStr;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub(crate) $inner);

        impl $name {
            /// The position with this number.
            #[must_use]
            pub const fn new(number: $inner) -> Self {
                Self(number)
            }

            /// The bare number, for printing and for storing elsewhere.
            #[must_use]
            pub const fn get(self) -> $inner {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number! {
    /// Number of a shard, from 0.
    ShardId(u16)
}
number! {
    /// Number of a segment of a shard's journal, from 1. An incarnation: never used twice.
    SegmentId(u64)
}
number! {
    /// Number of a log, from 1, unique in its shard and never reused.
    LogId(u64)
}
number! {
    /// Number of a reader (a processor's name), from 1, unique in its shard and never reused.
    ReaderId(u64)
}
number! {
    /// Number of an owner. A newer one fences the older ones.
    Epoch(u64)
}
number! {
    /// Dense number of a record in its log, from 0. What checkpoints count in.
    Sequence(u64)
}
number! {
    /// Number that the application gives a record; never decreases inside a log.
    TxId(u64)
}

impl Sequence {
    /// The first record of a log.
    pub const FIRST: Self = Self(0);

    /// The sequence `count` records later.
    ///
    /// # Panics
    /// If the result does not fit 64 bits.
    #[must_use]
    pub const fn after(self, count: u64) -> Self {
        Self(self.0.checked_add(count).expect("sequence overflow"))
    }

    /// How many records stand from `earlier` up to here.
    ///
    /// # Panics
    /// If `earlier` is later than this one.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        assert!(earlier.0 <= self.0, "a later sequence was taken for an earlier one");
        self.0 - earlier.0
    }
}

/// Where a record stands on disk: (segment, entry, slot). Totally ordered inside a log, not dense.
///
/// The text form has a fixed width, so texts sort like the positions:
///
/// ```
/// use oncelog::Dlsn;
/// let dlsn: Dlsn = "0000000000000007-0000001f-00000002".parse()?;
/// assert_eq!((dlsn.segment().get(), dlsn.entry(), dlsn.slot()), (7, 31, 2));
/// assert_eq!(dlsn.to_string(), "0000000000000007-0000001f-00000002");
/// assert!("7-31-2".parse::<Dlsn>().unwrap_err().to_string().contains("hexadecimal"));
/// # Ok::<(), oncelog::ParseDlsnError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dlsn {
    segment: SegmentId,
    entry: u32,
    slot: u32,
}

impl Dlsn {
    /// The position of slot `slot` in entry `entry` of `segment`.
    #[must_use]
    pub const fn new(segment: SegmentId, entry: u32, slot: u32) -> Self {
        Self { segment, entry, slot }
    }

    /// The segment of the shard's journal.
    #[must_use]
    pub const fn segment(self) -> SegmentId {
        self.segment
    }

    /// Number of the entry in its segment, from 0.
    #[must_use]
    pub const fn entry(self) -> u32 {
        self.entry
    }

    /// Number of the record among its log's records in the entry, from 0.
    #[must_use]
    pub const fn slot(self) -> u32 {
        self.slot
    }
}

impl fmt::Display for Dlsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:08x}-{:08x}", self.segment.0, self.entry, self.slot)
    }
}

/// A text is no [`Dlsn`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no DLSN: it is written as 16, 8 and 8 hexadecimal digits joined by '-'")]
pub struct ParseDlsnError {
    text: String,
}

impl FromStr for Dlsn {
    type Err = ParseDlsnError;

    fn from_str(text: &str) -> Result<Self, ParseDlsnError> {
        let parse = || {
            let (segment, rest) = text.split_once('-')?;
            let (entry, slot) = rest.split_once('-')?;
            let digits = |part: &str, width| {
                let hex = part.bytes().all(|b| b.is_ascii_hexdigit());
                (part.len() == width && hex).then(|| u64::from_str_radix(part, 16).ok()).flatten()
            };
            Some(Self {
                segment: SegmentId(digits(segment, 16)?),
                entry: u32::try_from(digits(entry, 8)?).ok()?,
                slot: u32::try_from(digits(slot, 8)?).ok()?,
            })
        };
        parse().ok_or_else(|| ParseDlsnError { text: text.to_owned() })
    }
}
