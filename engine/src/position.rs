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
    ///
    /// Texts of one width, and bytes, sort like the sequences:
    ///
    /// ```
    /// use oncelog::Sequence;
    /// let (seven, ten) = (Sequence::new(7), Sequence::new(10));
    /// assert!(format!("{seven:020}") < format!("{ten:020}"));
    /// assert!(seven.to_bytes() < ten.to_bytes());
    /// assert_eq!("00000000000000000007".parse::<Sequence>()?, seven);
    /// assert_eq!(Sequence::from_bytes(&ten.to_bytes())?, ten);
    /// # Ok::<(), oncelog::ParsePositionError>(())
    /// ```
    Sequence(u64)
}
number! {
    /// Number that the application gives a record; never decreases inside a log.
    TxId(u64)
}

/// Text and bytes of positions of 64 bits that programs store elsewhere.
macro_rules! stored {
    ($($name:ident, $what:literal;)*) => {$(
        impl $name {
            /// Eight bytes, big-endian: they sort like the positions.
            #[must_use]
            pub const fn to_bytes(self) -> [u8; 8] {
                self.0.to_be_bytes()
            }

            /// The position with these bytes.
            ///
            /// # Errors
            /// They are not eight.
            pub fn from_bytes(bytes: &[u8]) -> Result<Self, ParsePositionError> {
                let wrong = |_| ParsePositionError::bytes($what, bytes.len(), 8);
                bytes.try_into().map(|bytes| Self(u64::from_be_bytes(bytes))).map_err(wrong)
            }
        }

        impl FromStr for $name {
            type Err = ParsePositionError;

            fn from_str(text: &str) -> Result<Self, ParsePositionError> {
                let digits = text.bytes().all(|byte| byte.is_ascii_digit());
                let number = text.parse().ok().filter(|_| digits);
                number.map(Self).ok_or_else(|| ParsePositionError::text($what, text))
            }
        }
    )*};
}

stored! {
    Sequence, "sequence";
    TxId, "transaction id";
    Epoch, "epoch";
}

/// A text, or bytes, are no position.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParsePositionError {
    /// A text.
    #[error(
        "{text:?} is no {what}: it is written as decimal digits, at most 20 and less than 2^64, as \
         in 7 or 00000000000000000007"
    )]
    Text {
        /// What it should be.
        what: &'static str,
        /// What was given.
        text: String,
    },
    /// Bytes.
    #[error("{len} bytes are no {what}: it is {expected} bytes, big-endian")]
    Bytes {
        /// What it should be.
        what: &'static str,
        /// How many were given.
        len: usize,
        /// How many it has.
        expected: usize,
    },
}

impl ParsePositionError {
    fn text(what: &'static str, text: &str) -> Self {
        Self::Text { what, text: text.to_owned() }
    }

    fn bytes(what: &'static str, len: usize, expected: usize) -> Self {
        Self::Bytes { what, len, expected }
    }
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

    /// Sixteen bytes, each number big-endian: they sort like the positions.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.segment.0.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.entry.to_be_bytes());
        bytes[12..].copy_from_slice(&self.slot.to_be_bytes());
        bytes
    }

    /// The position with these bytes.
    ///
    /// # Errors
    /// They are not sixteen.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ParsePositionError> {
        let wrong = |_| ParsePositionError::bytes("DLSN", bytes.len(), 16);
        let all = u128::from_be_bytes(bytes.try_into().map_err(wrong)?);
        let low = |bits: u32| (all >> bits) as u32;
        Ok(Self { segment: SegmentId((all >> 64) as u64), entry: low(32), slot: low(0) })
    }
}

impl fmt::Display for Dlsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:08x}-{:08x}", self.segment.0, self.entry, self.slot)
    }
}

/// A text is no [`Dlsn`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no DLSN: it is written as 16, 8 and 8 hexadecimal digits joined by '-', as in \
     0000000000000001-0000002a-00000003"
)]
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of all sizes, those at the edges among them.
    fn numbers() -> Vec<u64> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut numbers = vec![0, 1, 9, 10, 0xffff_ffff, 1 << 32, u64::MAX - 1, u64::MAX];
        for bits in 0..64 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            numbers.extend([state >> bits, 1 << bits]);
        }
        numbers
    }

    #[test]
    fn texts_and_bytes_of_positions_sort_like_them_and_lead_back() {
        let numbers = numbers();
        let low = |number: u64| u32::try_from(number & 0xffff_ffff).unwrap();
        let dlsn = |(at, segment): (usize, &u64)| {
            let other = |step| low(numbers[(at + step) % numbers.len()]);
            // The same segment, and the same entry, now and then.
            Dlsn::new(SegmentId(segment >> (at % 3 * 30)), other(5) >> (at % 2 * 31), other(11))
        };
        let dlsns: Vec<_> = numbers.iter().enumerate().map(dlsn).collect();
        for a in &dlsns {
            assert_eq!(a.to_string().parse(), Ok(*a));
            assert_eq!(Dlsn::from_bytes(&a.to_bytes()), Ok(*a));
            for b in &dlsns {
                assert_eq!(a.to_string().cmp(&b.to_string()), a.cmp(b), "{a} {b}");
                assert_eq!(a.to_bytes().cmp(&b.to_bytes()), a.cmp(b), "{a} {b}");
            }
        }
        for a in numbers.iter().copied().map(Sequence) {
            assert_eq!(a.to_string().parse(), Ok(a));
            assert_eq!(format!("{a:020}").parse(), Ok(a));
            assert_eq!(Sequence::from_bytes(&a.to_bytes()), Ok(a));
            assert_eq!(TxId(a.0).to_string().parse(), Ok(TxId(a.0)));
            assert_eq!(Epoch::from_bytes(&Epoch(a.0).to_bytes()), Ok(Epoch(a.0)));
            for b in numbers.iter().copied().map(Sequence) {
                assert_eq!(format!("{a:020}").cmp(&format!("{b:020}")), a.cmp(&b));
                assert_eq!(a.to_bytes().cmp(&b.to_bytes()), a.cmp(&b));
            }
        }
    }

    #[test]
    fn what_is_no_position_is_refused_and_the_form_is_said() {
        let good = "0000000000000001-0000002a-00000003";
        let mut bad: Vec<String> = ["", "1", "-", "--", "1-2a-3"].map(str::to_owned).into();
        for at in 0..good.len() {
            for with in ["", "+", "-", " ", "g", "00", "\u{e9}"] {
                let mut text = good.to_owned();
                text.replace_range(at..=at, with);
                if text != good {
                    bad.push(text);
                }
            }
        }
        for text in bad {
            let error = text.parse::<Dlsn>().expect_err(&text).to_string();
            assert!(error.contains("16, 8 and 8 hexadecimal") && error.contains(good), "{error}");
        }
        for text in ["", "-1", "+1", " 1", "1x", "18446744073709551616"] {
            let error = text.parse::<TxId>().expect_err(text).to_string();
            assert!(error.contains("no transaction id: it is written as decimal"), "{error}");
        }
        for len in [0, 7, 9, 15, 17] {
            let bytes = vec![0; len];
            let error = Dlsn::from_bytes(&bytes).unwrap_err().to_string();
            assert!(error.contains("16 bytes, big-endian"), "{error}");
            assert!(Epoch::from_bytes(&bytes).is_err());
        }
    }
}
