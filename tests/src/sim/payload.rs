//! Payloads that follow from the number of a record, so that nobody has to remember them.
//!
//! Each word is another: bytes of another record or another place never match. Every other payload
//! gets smaller when it is compressed: the words of a record differ in two bytes only.
//!
//! Not here: which records there are (`model`).

use bytes::Bytes;

use crate::rng::mix;

/// Payload of the record `id`: no two are alike.
#[must_use]
pub fn payload(id: u64, len: usize) -> Bytes {
    let mut bytes = vec![0; len];
    fill_from(id, 0, &mut bytes);
    bytes.into()
}

/// Whether these bytes are the payload of the record `id`.
#[must_use]
pub fn is_payload(id: u64, len: usize, bytes: &[u8]) -> bool {
    let mut expected = [0; 4096];
    let mut at = 0;
    len == bytes.len()
        && bytes.chunks(expected.len()).all(|chunk| {
            // Words count up, so a later chunk begins where the one before ended.
            let expected = &mut expected[..chunk.len()];
            fill_from(id, at, expected);
            at += 512;
            chunk == expected
        })
}

/// The words of a payload from the one at `first` on.
fn fill_from(id: u64, first: u64, bytes: &mut [u8]) {
    const FAR: u64 = 0x9e37_79b9_7f4a_7c15;
    // The lowest two bytes are the number of the word, which 60,000 bytes have room for.
    let (seed, step) = match mix(id) {
        odd if odd % 2 == 1 => (odd, FAR),
        even => (even & !0xffff, 1),
    };
    let mut word = seed.wrapping_add(first.wrapping_mul(step));
    let mut chunks = bytes.chunks_exact_mut(8);
    for chunk in &mut chunks {
        chunk.copy_from_slice(&word.to_le_bytes());
        word = word.wrapping_add(step);
    }
    let rest = chunks.into_remainder();
    rest.copy_from_slice(&word.to_le_bytes()[..rest.len()]);
}
