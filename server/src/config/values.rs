//! The kinds of values that settings have: sizes, times, addresses and choices, as texts and back.
//!
//! Every value prints as a text that reads back as the same value.
//!
//! Not here: which values a setting may have (`check`).

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes: `64MiB`, `1GB`, or a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl Size {
    /// So many kibibytes.
    #[must_use]
    pub const fn kib(count: u64) -> Self {
        Self(count << 10)
    }

    /// So many mebibytes.
    #[must_use]
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let size = text.trim().parse::<ByteSize>();
        // Where the number is too large to count, it stops at the largest.
        let size = size.ok().map(|size| size.as_u64()).filter(|size| *size < u64::MAX);
        size.map(Self).ok_or_else(|| format!("{text:?} is no size: give one as 64MiB or 65536"))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
        let whole = |shift: u32| self.0 != 0 && self.0.trailing_zeros() >= shift;
        match units.into_iter().find(|(shift, _)| whole(*shift)) {
            Some((shift, unit)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{}B", self.0),
        }
    }
}

/// A stretch of time: `30s`, `5m`, `1h 30m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(pub Duration);

impl Period {
    /// So many seconds.
    #[must_use]
    pub const fn seconds(count: u64) -> Self {
        Self(Duration::from_secs(count))
    }

    /// The time, unless it is zero, which stands for "never" where that is possible.
    #[must_use]
    pub fn unless_zero(self) -> Option<Duration> {
        (!self.0.is_zero()).then_some(self.0)
    }
}

impl FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let period = humantime::parse_duration(text).map(Self);
        period.map_err(|_| format!("{text:?} is no time: give one as 30s, 5m or 1h"))
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

/// An address, or none: `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaybeAddr(pub Option<SocketAddr>);

impl FromStr for MaybeAddr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" { Ok(Self(None)) } else { Ok(Self(Some(parse_addr(text)?))) }
    }
}

impl fmt::Display for MaybeAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(addr) => addr.fmt(f),
            None => f.write_str("off"),
        }
    }
}

/// An address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addr(pub SocketAddr);

impl FromStr for Addr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse_addr(text).map(Self)
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn parse_addr(text: &str) -> Result<SocketAddr, String> {
    let hint = "give an IP address and a port, as 127.0.0.1:6380 or [::1]:6380";
    text.parse().map_err(|_| format!("{text:?} is no address: {hint}"))
}

/// An address, each of whose connections feeds a log: `127.0.0.1:6390=orders/raw`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ingest {
    /// Where to listen.
    pub addr: SocketAddr,
    /// The name of the log.
    pub log: String,
}

impl FromStr for Ingest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let hint = "give ADDRESS=LOG, as 127.0.0.1:6390=orders/raw";
        let parts = text.split_once('=').ok_or_else(|| format!("{text:?} has no \"=\": {hint}"))?;
        let addr = parse_addr(parts.0)?;
        let log = parts.1.to_owned();
        oncelog::name::check_name(&log).map_err(|error| error.to_string())?;
        Ok(Self { addr, log })
    }
}

impl fmt::Display for Ingest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.addr, self.log)
    }
}

/// Texts, and for sizes numbers too, as the values of a file.
macro_rules! as_text {
    ($($name:ident: $expected:literal)+) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(Text($expected)).and_then(|text| {
                    text.parse().map_err(D::Error::custom)
                })
            }
        }
    )+};
}

as_text! {
    Size: "a size, as \"64MiB\" or 65536"
    Period: "a time, as \"30s\""
    Addr: "an address, as \"127.0.0.1:6380\""
    MaybeAddr: "an address, as \"127.0.0.1:9380\", or \"off\""
    Ingest: "ADDRESS=LOG, as \"127.0.0.1:6390=orders/raw\""
}

struct Text(&'static str);

impl Visitor<'_> for Text {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<String, E> {
        // Only sizes have a meaning without a unit.
        let is_size = self.0.starts_with("a size") && number >= 0;
        let wrong = || E::invalid_value(Unexpected::Signed(number), &self);
        if is_size { Ok(number.to_string()) } else { Err(wrong()) }
    }
}

/// A choice of words: the same on the command line and in the file.
macro_rules! choice {
    ($($(#[doc = $doc:literal])+ $name:ident {
        $($(#[doc = $about:literal])+ $variant:ident = $word:literal,)+
    })+) => {$(
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
        pub enum $name {
            $($(#[doc = $about])+ #[serde(rename = $word)] #[value(name = $word)] $variant,)+
        }
    )+};
}

choice! {
    /// How input and output are done.
    Io {
        /// By io_uring; where the kernel refuses it, without
        Auto = "auto",
        /// By io_uring, or not at all
        IoUring = "io_uring",
        /// Without io_uring
        Plain = "plain",
    }

    /// Whether files are read and written past the page cache.
    DirectIo {
        /// Where the file system can
        Auto = "auto",
        /// Always; opening fails where the file system cannot
        Always = "always",
        /// Never
        Never = "never",
    }

    /// How writes are made durable.
    SyncMethod {
        /// Chosen by what the device is, and watched
        Auto = "auto",
        /// Each write carries RWF_DSYNC
        Dsync = "dsync",
        /// Plain writes, and one fdatasync for all before it
        Fdatasync = "fdatasync",
    }

    /// How the server's own messages look.
    LogFormat {
        /// Lines for people
        Human = "human",
        /// One JSON object a line
        Json = "json",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same<T: FromStr<Err = String> + fmt::Display + PartialEq + fmt::Debug>(value: T) {
        assert_eq!(value.to_string().parse::<T>().unwrap(), value, "{value}");
    }

    #[test]
    fn what_is_printed_reads_back_as_the_same() {
        for shift in 0..63 {
            for size in [1, 3, 1000, 1023].map(|count: u64| count.checked_shl(shift)) {
                size.filter(|size| *size < u64::MAX >> 1).map(Size).into_iter().for_each(same);
            }
        }
        for micros in [0, 1, 40, 1_000, 999_999, 30_000_000, 90_000_000, 604_800_000_001] {
            same(Period(Duration::from_micros(micros)));
        }
        for addr in ["127.0.0.1:6380", "[::1]:0", "0.0.0.0:1"] {
            same(addr.parse::<Addr>().unwrap());
            same(addr.parse::<MaybeAddr>().unwrap());
            same(Ingest { addr: addr.parse().unwrap(), log: "orders/raw".to_owned() });
        }
        same(MaybeAddr(None));
        assert_eq!(Size::mib(64).to_string(), "64MiB");
        assert_eq!(Size(1500).to_string(), "1500B");
    }

    #[test]
    fn wrong_values_are_told_with_an_example() {
        let mut errors = Vec::new();
        for text in ["", "much", "-1", "1.5.2MiB", "10XB", "99999999EiB"] {
            errors.push(text.parse::<Size>().unwrap_err() + "64MiB");
        }
        for text in ["", "30", "soon", "-1s"] {
            errors.push(text.parse::<Period>().unwrap_err());
        }
        for text in ["", "localhost:1", "127.0.0.1", ":6380", "127.0.0.1:99999"] {
            errors.push(text.parse::<Addr>().unwrap_err());
            errors.push(text.parse::<MaybeAddr>().unwrap_err());
            errors.push(text.parse::<Ingest>().unwrap_err());
        }
        errors.push("127.0.0.1:1=".parse::<Ingest>().unwrap_err());
        for error in errors {
            assert!(error.contains("give") || error.contains("name"), "{error}");
        }
    }
}
