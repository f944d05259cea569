//! Records inside a section: a header of 16 bytes, then the payload, nothing between records
//! (F-10).
//!
//! Not here: sequences and DLSNs, which follow from the section and the order.

use bytes::{BufMut, Bytes};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::position::TxId;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawRecord {
    txid: U64,
    len: U32,
    flags: U16,
    reserved: U16,
}

/// Bytes that stand before each payload.
pub const RECORD_HEADER_SIZE: usize = 16;

const _: () = assert!(size_of::<RawRecord>() == RECORD_HEADER_SIZE);

/// Appends one record to a section.
pub fn put_record(out: &mut impl BufMut, txid: TxId, payload: &[u8]) {
    let len = u32::try_from(payload.len()).expect("a record fits an entry");
    let raw = RawRecord {
        txid: U64::new(txid.0),
        len: U32::new(len),
        flags: U16::ZERO,
        reserved: U16::ZERO,
    };
    out.put_slice(raw.as_bytes());
    out.put_slice(payload);
}

/// Takes the first record off `section`, sharing its memory.
///
/// `None` if no whole record stands there.
pub fn take_record(section: &mut Bytes) -> Option<(TxId, Bytes)> {
    let (raw, rest) = RawRecord::ref_from_prefix(section).ok()?;
    let len = usize::try_from(raw.len.get()).ok()?;
    if rest.len() < len || raw.flags.get() != 0 || raw.reserved.get() != 0 {
        return None;
    }
    let txid = TxId(raw.txid.get());
    let record = section.split_to(RECORD_HEADER_SIZE + len);
    Some((txid, record.slice(RECORD_HEADER_SIZE..)))
}

/// Whether `section` is exactly `count` records.
#[must_use]
pub fn is_whole(section: &[u8], count: u32) -> bool {
    let mut rest = section;
    for _ in 0..count {
        let Ok((raw, after)) = RawRecord::ref_from_prefix(rest) else { return false };
        let Ok(len) = usize::try_from(raw.len.get()) else { return false };
        if after.len() < len || raw.flags.get() != 0 || raw.reserved.get() != 0 {
            return false;
        }
        rest = &after[len..];
    }
    rest.is_empty()
}
