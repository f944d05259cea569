//! Values on the command line: positions, sizes, ages; and payloads in JSON.
//!
//! Not here: what they are for.

use std::str::FromStr;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytesize::ByteSize;
use oncelog::{Dlsn, From as At, Sequence, TxId};
use serde_json::{Map, Value};

use super::fail::Fail;

/// What `--help` says about positions.
pub(super) const POSITIONS: &str = "\
earliest, latest, sequence:N (or only N), dlsn:D, txid:N, time:T (RFC 3339 as in \
2026-11-23T10:00:00Z, or microseconds since 1970), or ago:1h";

/// Where in a log, as it is written on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position(pub(super) At);

impl Position {
    /// The words that a server wants behind `FROM`.
    pub(super) fn words(self) -> Vec<String> {
        let with = |word: &str, value: String| vec![word.to_owned(), value];
        match self.0 {
            At::Earliest => vec!["earliest".to_owned()],
            At::Latest => vec!["latest".to_owned()],
            At::Sequence(sequence) => with("sequence", sequence.to_string()),
            At::Dlsn(dlsn) => with("dlsn", dlsn.to_string()),
            At::TxId(txid) => with("txid", txid.to_string()),
            At::Time(time_us) => with("time", time_us.to_string()),
        }
    }
}

impl FromStr for Position {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, value) = match text.split_once(':') {
            Some(parts) => parts,
            None if text.bytes().all(|byte| byte.is_ascii_digit()) => ("sequence", text),
            None => (text, ""),
        };
        let at = match kind {
            "earliest" if value.is_empty() => At::Earliest,
            "latest" if value.is_empty() => At::Latest,
            "sequence" => At::Sequence(parse::<Sequence>(value)?),
            "dlsn" => At::Dlsn(parse::<Dlsn>(value)?),
            "txid" => At::TxId(parse::<TxId>(value)?),
            "time" => At::Time(time_us(value)?),
            "ago" => At::Time(ago_us(value)?),
            _ => return Err(format!("it is one of: {POSITIONS}")),
        };
        Ok(Self(at))
    }
}

fn parse<T: FromStr<Err: ToString>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

fn time_us(text: &str) -> Result<u64, String> {
    if let Ok(time_us) = text.parse() {
        return Ok(time_us);
    }
    let time = humantime::parse_rfc3339_weak(text).map_err(|error| {
        format!("{text:?} is no time as in 2026-11-23T10:00:00Z, nor microseconds: {error}")
    })?;
    let since = time.duration_since(UNIX_EPOCH).map_err(|_| "it lies before 1970".to_owned())?;
    u64::try_from(since.as_micros()).map_err(|_| "it lies too far away".to_owned())
}

fn ago_us(text: &str) -> Result<u64, String> {
    let ago = parse::<humantime::Duration>(text)?;
    let now = UNIX_EPOCH.elapsed().map_err(|_| "the clock is before 1970".to_owned())?;
    let then = now.saturating_sub(ago.into());
    u64::try_from(then.as_micros()).map_err(|_| "it lies too far away".to_owned())
}

/// `64MiB`, in bytes.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let size: ByteSize = text.parse().map_err(|why| {
        format!("{why}; sizes are written as in 65536, 64KiB (1024 each) or 64KB (1000 each)")
    })?;
    Ok(size.as_u64())
}

/// As [`bytes`], and not 0.
pub(super) fn some_bytes(text: &str) -> Result<u64, String> {
    match bytes(text)? {
        0 => Err("0 is no limit: leave it out for none".to_owned()),
        bytes => Ok(bytes),
    }
}

/// `7d`, `30m`: not nothing.
pub(super) fn age(text: &str) -> Result<Duration, String> {
    let age: Duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if age.as_micros() == 0 { Err("it must be at least a microsecond".to_owned()) } else { Ok(age) }
}

/// Adds bytes to an object: as text under `name` where they are UTF-8, otherwise in base64 under
/// `name_base64`.
pub(super) fn put_bytes(object: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => object.insert(name.to_owned(), text.into()),
        Err(_) => object.insert(format!("{name}_base64"), BASE64_STANDARD.encode(bytes).into()),
    };
}

/// The bytes that [`put_bytes`] added.
pub(super) fn take_bytes(object: &Map<String, Value>, name: &str) -> Result<Vec<u8>, Fail> {
    let coded = object.get(&format!("{name}_base64"));
    match (object.get(name), coded) {
        (Some(Value::String(text)), None) => Ok(text.clone().into_bytes()),
        (None, Some(Value::String(text))) => BASE64_STANDARD
            .decode(text)
            .map_err(|error| Fail::Usage(format!("{name}_base64 is no base64: {error}"))),
        _ => Err(Fail::Usage(format!(
            "an object needs a string {name:?}, or \"{name}_base64\", and not both"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_read_and_said_again_in_the_words_of_a_server() {
        let words = |text: &str| text.parse::<Position>().map(|at| at.words().join(" "));
        assert_eq!(words("earliest").unwrap(), "earliest");
        assert_eq!(words("latest").unwrap(), "latest");
        assert_eq!(words("7").unwrap(), "sequence 7");
        assert_eq!(words("sequence:7").unwrap(), "sequence 7");
        assert_eq!(words("txid:9").unwrap(), "txid 9");
        assert_eq!(words("time:1970-01-01T00:00:02Z").unwrap(), "time 2000000");
        assert_eq!(words("time:5").unwrap(), "time 5");
        let dlsn = "0000000000000001-0000002a-00000003";
        assert_eq!(words(&format!("dlsn:{dlsn}")).unwrap(), format!("dlsn {dlsn}"));
        for bad in [
            "",
            "x",
            "earliest:1",
            "sequence:",
            "sequence:-1",
            "txid:x",
            "time:1969-01-01",
            "dlsn:1",
            "ago:x",
            "18446744073709551616",
        ] {
            assert!(words(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn bytes_come_back_from_json_whatever_they_are() {
        for bytes in [&b"text \n \""[..], b"", b"\xff\x00", "\u{e9}".as_bytes()] {
            let mut object = Map::new();
            put_bytes(&mut object, "payload", bytes);
            assert_eq!(object.contains_key("payload"), std::str::from_utf8(bytes).is_ok());
            assert_eq!(take_bytes(&object, "payload").unwrap(), bytes);
        }
    }

    #[test]
    fn sizes_and_ages_have_units() {
        assert_eq!(bytes("64MiB"), Ok(64 << 20));
        assert_eq!(bytes("1MB"), Ok(1_000_000));
        assert!(bytes("x").unwrap_err().contains("64KiB"));
        assert!(some_bytes("0").is_err());
        assert_eq!(age("7d"), Ok(Duration::from_secs(7 * 86_400)));
        assert!(age("0s").is_err());
    }
}
