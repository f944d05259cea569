//! DLSNs as text, numbers and bytes.
//!
//! Not here: what stands there (`dump`, `read --from dlsn:..`).

use clap::Subcommand;
use oncelog::{Dlsn as Position, SegmentId};
use serde_json::json;

use super::fail::Fail;
use super::out::Out;

/// Write or read a DLSN: where a record stands on the disk
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  oncelog dlsn encode 1 42 3
  oncelog dlsn decode 0000000000000001-0000002a-00000003
  oncelog dlsn decode 00000000000000010000002a00000003 --json")]
pub(super) struct Dlsn {
    #[command(subcommand)]
    how: How,
}

#[derive(Debug, Subcommand)]
enum How {
    /// From its three numbers
    Encode {
        /// The segment
        segment: u64,
        /// The entry in it
        entry: u32,
        /// The record among those of its log in the entry
        slot: u32,
    },
    /// From its text, or from its 16 bytes as 32 hexadecimal digits
    Decode {
        /// The text
        dlsn: String,
    },
}

pub(super) fn dlsn(args: Dlsn, out: &mut Out) -> Result<(), Fail> {
    let dlsn = match args.how {
        How::Encode { segment, entry, slot } => Position::new(SegmentId::new(segment), entry, slot),
        How::Decode { dlsn } => decode(&dlsn)?,
    };
    let hex: String = dlsn.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let (segment, entry, slot) = (dlsn.segment().get(), dlsn.entry(), dlsn.slot());
    let json = || {
        json!({ "dlsn": dlsn.to_string(), "hex": hex, "segment": segment, "entry": entry,
                "slot": slot })
    };
    out.either(json, || {
        format!("{dlsn}\nbytes {hex}\nsegment {segment}, entry {entry}, slot {slot}")
    })
}

fn decode(text: &str) -> Result<Position, Fail> {
    let hex = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if hex && let Ok(number) = u128::from_str_radix(text, 16) {
        let decoded = Position::from_bytes(&number.to_be_bytes());
        return decoded.map_err(|error| Fail::Usage(error.to_string()));
    }
    let parsed = text.parse();
    parsed.map_err(|error: oncelog::ParseDlsnError| {
        Fail::Usage(format!("{error}; or all of them as 32 digits"))
    })
}
