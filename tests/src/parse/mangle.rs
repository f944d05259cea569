//! Bytes as an enemy of the parsers makes them: changed anywhere, checksums made right again.
//!
//! ```text
//! seed file -> mutate(seed) -> fix_*: identity, places, digests, checksums -> past every checksum
//! ```
//!
//! Without the second step nearly every change ends at a checksum, and what stands behind it is
//! never reached. The checksum is computed here from docs/format.md alone (F-1).
//!
//! Not here: the parsers, and what must hold for what they accept (`parsers`).

use crate::rng::Rng;

/// The engine that all fixed bytes belong to.
pub const ENGINE: [u8; 16] = [0xe5; 16];
/// The shard that they belong to.
pub const SHARD: u16 = 3;
/// The size of its segments.
pub const SEGMENT_SIZE: u64 = 1 << 20;

const BLOCK: usize = 4096;
const HEADER: usize = 96;
const ROW: usize = 64;
const POLYNOMIAL: u64 = 0xad93_d235_94c9_3659_u64.reverse_bits();

const TABLE: [u64; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut sum, mut bit) = (byte as u64, 0);
        while bit < 8 {
            sum = if sum & 1 == 1 { sum >> 1 ^ POLYNOMIAL } else { sum >> 1 };
            bit += 1;
        }
        table[byte] = sum;
        byte += 1;
    }
    table
};

/// CRC-64/NVME (F-1).
#[must_use]
pub fn crc64(parts: &[&[u8]]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.iter());
    !bytes.fold(!0, |sum: u64, byte| sum >> 8 ^ TABLE[usize::from(sum.to_le_bytes()[0] ^ byte)])
}

fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    bytes[at..at + N].copy_from_slice(&value);
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    let bytes = bytes[at..at + 4].try_into().expect("4 bytes");
    usize::try_from(u32::from_le_bytes(bytes)).expect("64-bit platforms only")
}

/// Makes the checksum of a superblock or segment header right (F-3, F-4).
pub fn fix_header(block: &mut [u8]) {
    if block.len() >= 128 {
        let sum = crc64(&[&block[8..128]]);
        put(block, 0, sum.to_le_bytes());
    }
}

/// Where an entry is to stand.
#[derive(Clone, Copy, Debug)]
pub struct At {
    /// In which segment.
    pub segment: u64,
    /// Where in the file.
    pub offset: u32,
    /// Its number.
    pub entry: u32,
    /// What it continues.
    pub digest: u64,
}

/// Makes the entry at the beginning of `bytes` stand there: identity, places of its sections and
/// all checksums (F-6 to F-9). Gives its length and digest, if its table lies within `bytes`.
pub fn fix_entry(bytes: &mut [u8], at: At) -> Option<(usize, u64)> {
    let count = usize::from(u16::from_le_bytes(bytes.get(74..76)?.try_into().ok()?));
    let table_end = HEADER + count * ROW;
    if bytes.len() < table_end {
        return None;
    }
    put(bytes, 16, ENGINE);
    put(bytes, 32, at.segment.to_le_bytes());
    put(bytes, 40, at.digest.to_le_bytes());
    put(bytes, 56, at.offset.to_le_bytes());
    put(bytes, 60, at.entry.to_le_bytes());
    put(bytes, 72, SHARD.to_le_bytes());
    let mut begin = table_end;
    for row in (0..count).map(|row| HEADER + row * ROW) {
        let len = u32_at(bytes, row + 44);
        put(bytes, row + 40, u32::try_from(begin).unwrap_or(u32::MAX).to_le_bytes());
        if bytes[row + 57] == 0 {
            // Stored as they are: both lengths are the same.
            bytes.copy_within(row + 44..row + 48, row + 48);
        }
        if let Some(section) = bytes.get(begin..begin + len) {
            let (place, kind) = (at.entry.to_le_bytes(), [bytes[row + 56], bytes[row + 57]]);
            let segment = at.segment.to_le_bytes();
            let (log, first) = (&bytes[row..row + 8], &bytes[row + 8..row + 16]);
            let shard = SHARD.to_le_bytes();
            let identity = [&ENGINE[..], &segment, log, first, &place, &shard, &kind, section];
            let sum = crc64(&identity);
            put(bytes, row + 32, sum.to_le_bytes());
        }
        begin = begin.saturating_add(len);
    }
    let digest = crc64(&[&bytes[8..table_end]]);
    put(bytes, 0, digest.to_le_bytes());
    Some((u32_at(bytes, 64), digest))
}

/// Makes a whole segment file right: its header and the chain of its entries.
pub fn fix_segment(bytes: &mut [u8], segment: u64) {
    if bytes.len() < BLOCK {
        return;
    }
    put(bytes, 16, ENGINE);
    put(bytes, 32, segment.to_le_bytes());
    put(bytes, 48, SEGMENT_SIZE.to_le_bytes());
    put(bytes, 96, SHARD.to_le_bytes());
    fix_header(bytes);
    let mut at = At { segment, offset: 4096, entry: 0, digest: crc64(&[&bytes[8..128]]) };
    while let Some(rest) = bytes.get_mut(at.offset as usize..) {
        let Some((length, digest)) = fix_entry(rest, at) else { return };
        if length == 0 || !length.is_multiple_of(BLOCK) || length > rest.len() {
            return;
        }
        let length = u32::try_from(length).expect("it was read as one");
        at = At { offset: at.offset + length, entry: at.entry + 1, digest, ..at };
    }
}

/// Makes an index one of a segment of the engine, and its checksum right (F-15).
pub fn fix_index(bytes: &mut [u8], segment: u64) {
    if bytes.len() < 48 {
        return;
    }
    put(bytes, 8, ENGINE);
    put(bytes, 24, segment.to_le_bytes());
    put(bytes, 32, u64::from(SHARD).to_le_bytes());
    let end = bytes.len() - 8;
    let sum = crc64(&[&bytes[..end]]);
    put(bytes, end, sum.to_le_bytes());
}

/// A few changes, most of them small: what a fuzzer would try first.
pub fn mutate(bytes: &mut Vec<u8>, rng: &mut Rng) {
    const NUMBERS: [u64; 9] = [0, 1, 2, 3, 4, 4096, u32::MAX as u64, u64::MAX, u64::MAX - 1];
    for _ in 0..rng.between(1, 6) {
        if bytes.is_empty() {
            return bytes.push(0);
        }
        // Most of a block is padding: look at where the fields are, too.
        let block = rng.index(bytes.len()) / BLOCK * BLOCK;
        let near = rng.index(512.min(bytes.len() - block));
        let at = if rng.one_in(3) { rng.index(bytes.len()) } else { block + near };
        match rng.below(6) {
            0 => bytes[at] ^= 1 << rng.below(8),
            1 => bytes[at] = rng.number().to_le_bytes()[0],
            2 | 3 => {
                let number = rng.pick(&NUMBERS).expect("there are some").to_le_bytes();
                let width = [1, 2, 4, 8][rng.index(4)].min(bytes.len() - at);
                bytes[at..at + width].copy_from_slice(&number[..width]);
            }
            4 => {
                let len = rng.index(64).min(bytes.len() - at);
                let to = rng.index(bytes.len() - len + 1);
                bytes.copy_within(at..at + len, to);
            }
            _ if rng.one_in(8) => bytes.truncate(at),
            _ => bytes[at] = bytes[at].wrapping_add(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_one_of_the_document() {
        assert_eq!(crc64(&[b"1234", b"56789"]), 0xae8b_1486_0a79_9888);
    }
}
