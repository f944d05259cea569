//! Options of a log as words: `COMPRESSION lz4 KEEPFOR 7d` (P-12).
//!
//! `none` takes an option back. Sizes are bytes, or as `10GiB`; ages as `7d` or `30m`.
//!
//! Not here: what options do (the engine's `LogOptions`).

use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

use bytes::Bytes;
use bytesize::ByteSize;
use oncelog::{Codec, LogOptions};

use crate::command::name_of;
use crate::error::{Refusal, shown};

/// One option with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Setting {
    /// `COMPRESSION none|lz4|zstd`
    Compression(Codec),
    /// `RECORDMAX bytes`
    RecordMax(Option<NonZeroU32>),
    /// `KEEPFOR age`
    KeepFor(Option<NonZeroU64>),
    /// `KEEPBYTES bytes`
    KeepBytes(Option<NonZeroU64>),
    /// `KEEPUNTIL processor`, also more than once; `none` takes all of them back
    KeepUntil(Option<String>),
    /// `BYTESHARD bytes`, a second
    BytesHard(Option<NonZeroU64>),
    /// `BYTESSOFT bytes`, a second
    BytesSoft(Option<NonZeroU64>),
    /// `RECORDSHARD n`, a second
    RecordsHard(Option<NonZeroU64>),
    /// `RECORDSSOFT n`, a second
    RecordsSoft(Option<NonZeroU64>),
    /// `METADATA bytes`
    Metadata(Bytes),
}

impl Setting {
    /// An option and its value.
    ///
    /// # Errors
    /// There is no such option, or the value is none for it.
    pub fn parse(option: &[u8], value: &Bytes) -> Result<Self, Refusal> {
        let wrong = |allowed: &str| {
            let (option, value) = (shown(option), shown(value));
            Refusal::new("ERR", format!("{option} is {allowed}, not {value}"))
        };
        let size = || size(value).ok_or_else(|| wrong("a size as 64MiB, or none"));
        let number = || number(value).ok_or_else(|| wrong("a number, or none"));
        Ok(match option.to_ascii_uppercase().as_slice() {
            b"COMPRESSION" => Self::Compression(match value.to_ascii_lowercase().as_slice() {
                b"none" => Codec::None,
                b"lz4" => Codec::Lz4,
                b"zstd" => Codec::Zstd,
                _ => return Err(wrong("none, lz4 or zstd")),
            }),
            b"RECORDMAX" => {
                let size = size()?.map(|size| NonZeroU32::try_from(size).ok());
                Self::RecordMax(match size {
                    Some(None) => return Err(wrong("less than 4GiB")),
                    size => size.flatten(),
                })
            }
            b"KEEPFOR" => Self::KeepFor(age(value).ok_or_else(|| wrong("an age as 7d, or none"))?),
            b"KEEPBYTES" => Self::KeepBytes(size()?),
            b"KEEPUNTIL" if is_none(value) => Self::KeepUntil(None),
            b"KEEPUNTIL" => Self::KeepUntil(Some(name_of(value)?)),
            b"BYTESHARD" => Self::BytesHard(size()?),
            b"BYTESSOFT" => Self::BytesSoft(size()?),
            b"RECORDSHARD" => Self::RecordsHard(number()?),
            b"RECORDSSOFT" => Self::RecordsSoft(number()?),
            b"METADATA" => Self::Metadata(value.clone()),
            _ => {
                let option = shown(option);
                return Err(Refusal::new("ERR", format!("no option {option}; see HELP CREATE")));
            }
        })
    }

    /// Changes options.
    pub fn apply(self, options: &mut LogOptions) {
        match self {
            Self::Compression(codec) => options.compression = codec,
            Self::RecordMax(max) => options.record_size_max = max,
            Self::KeepFor(age_us) => options.retention.age_us = age_us,
            Self::KeepBytes(bytes) => options.retention.bytes = bytes,
            Self::KeepUntil(Some(reader)) => options.retention.readers.push(reader),
            Self::KeepUntil(None) => options.retention.readers.clear(),
            Self::BytesHard(rate) => options.rates.bytes_hard = rate,
            Self::BytesSoft(rate) => options.rates.bytes_soft = rate,
            Self::RecordsHard(rate) => options.rates.records_hard = rate,
            Self::RecordsSoft(rate) => options.rates.records_soft = rate,
            Self::Metadata(bytes) => options.metadata = bytes,
        }
    }
}

fn is_none(value: &[u8]) -> bool {
    value.eq_ignore_ascii_case(b"none")
}

/// `None` if it is no size; `Some(None)` for none.
fn size(value: &[u8]) -> Option<Option<NonZeroU64>> {
    if is_none(value) {
        return Some(None);
    }
    let size: ByteSize = std::str::from_utf8(value).ok()?.parse().ok()?;
    NonZeroU64::new(size.as_u64()).map(Some)
}

fn number(value: &[u8]) -> Option<Option<NonZeroU64>> {
    if is_none(value) {
        return Some(None);
    }
    std::str::from_utf8(value).ok()?.parse().ok().map(Some)
}

fn age(value: &[u8]) -> Option<Option<NonZeroU64>> {
    if is_none(value) {
        return Some(None);
    }
    let age: Duration = humantime::parse_duration(std::str::from_utf8(value).ok()?).ok()?;
    NonZeroU64::new(u64::try_from(age.as_micros()).ok()?).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_words_with_units_and_none_takes_them_back() {
        let parse = |option: &str, value: &'static str| {
            Setting::parse(option.as_bytes(), &Bytes::from_static(value.as_bytes()))
        };
        let mut options = LogOptions::default();
        for (option, value) in [
            ("compression", "LZ4"),
            ("keepfor", "7d"),
            ("KEEPBYTES", "10GiB"),
            ("keepuntil", "a/b"),
        ] {
            parse(option, value).unwrap().apply(&mut options);
        }
        assert_eq!(options.compression, Codec::Lz4);
        assert_eq!(options.retention.age_us.unwrap().get(), 7 * 24 * 3600 * 1_000_000);
        assert_eq!(options.retention.bytes.unwrap().get(), 10 << 30);
        assert_eq!(options.retention.readers, ["a/b"]);
        for option in ["compression", "keepfor", "keepbytes", "keepuntil"] {
            parse(option, "none").unwrap().apply(&mut options);
        }
        assert_eq!(options, LogOptions::default());
        for (option, value) in
            [("keepfor", "soon"), ("recordmax", "8GiB"), ("recordmax", "0"), ("x", "y")]
        {
            assert_eq!(parse(option, value).unwrap_err().word, "ERR", "{option} {value}");
        }
    }
}
