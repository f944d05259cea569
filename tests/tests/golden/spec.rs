//! A reader that was written from docs/format.md alone: no code of the engine, only offsets.

/// (F-1), by the textbook: reflected polynomial, all ones in, all ones out.
pub(crate) fn crc64_nvme(bytes: &[u8]) -> u64 {
    let table: Vec<u64> = (0..256u64)
        .map(|byte| (0..8).fold(byte, |crc, _| (crc >> 1) ^ (0x9a6c_9329_ac4b_c9b5 * (crc & 1))))
        .collect();
    !bytes
        .iter()
        .fold(!0, |crc: u64, byte| (crc >> 8) ^ table[usize::from(crc.to_le_bytes()[0] ^ byte)])
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap())
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// Where something begins, and its length.
fn range(bytes: &[u8], at: usize) -> std::ops::Range<usize> {
    let begin = u32_at(bytes, at) as usize;
    begin..begin + u32_at(bytes, at + 4) as usize
}

/// One entry as the document describes it.
pub(crate) struct SpecEntry {
    pub flags: u32,
    pub durable: u32,
    pub offset: usize,
    pub length: usize,
    /// Bytes from `offset` that a checksum covers.
    pub covered: usize,
    /// Log 0: control records, each kind and body.
    pub controls: Vec<(u16, Vec<u8>)>,
    /// Sections of records.
    pub records: Vec<SpecSection>,
}

/// The records of one log in an entry.
pub(crate) struct SpecSection {
    pub log: u64,
    pub first_sequence: u64,
    /// Transaction id and payload.
    pub records: Vec<(u64, Vec<u8>)>,
}

/// The entries of a segment, from its header to the first place without a valid one (F-4 to F-11).
pub(crate) fn walk(file: &[u8]) -> Vec<SpecEntry> {
    assert_eq!(&file[8..16], b"oncelogS");
    assert_eq!(u64_at(file, 0), crc64_nvme(&file[8..128]));
    let (engine, segment, shard) = (&file[16..32], u64_at(file, 32), u16_at(file, 96));
    let (mut at, mut number, mut digest) = (4096, 0, u64_at(file, 0));
    let mut entries = Vec::new();
    while at < file.len() {
        let entry = &file[at..];
        let table_end = 96 + 64 * usize::from(u16_at(entry, 74));
        let valid = &entry[8..12] == b"ent1"
            && table_end <= entry.len()
            && u64_at(entry, 0) == crc64_nvme(&entry[8..table_end])
            && &entry[16..32] == engine
            && u64_at(entry, 32) == segment
            && u16_at(entry, 72) == shard
            && u32_at(entry, 56) as usize == at
            && u32_at(entry, 60) == number
            && u64_at(entry, 40) == digest;
        if !valid {
            break;
        }
        let mut found = SpecEntry {
            flags: u32_at(entry, 12),
            durable: u32_at(entry, 68),
            offset: at,
            length: u32_at(entry, 64) as usize,
            covered: table_end,
            controls: Vec::new(),
            records: Vec::new(),
        };
        for row in entry[96..table_end].chunks(64) {
            assert_eq!(range(row, 40).start, found.covered, "sections stand without gaps");
            found.covered = range(row, 40).end;
            section(&mut found, entry, row);
        }
        at += found.length;
        number += 1;
        digest = u64_at(entry, 0);
        entries.push(found);
    }
    entries
}

fn section(found: &mut SpecEntry, entry: &[u8], row: &[u8]) {
    let mut identity = entry[16..40].to_vec();
    identity.extend_from_slice(&row[0..16]);
    identity.extend_from_slice(&entry[60..64]);
    identity.extend_from_slice(&entry[72..74]);
    identity.extend_from_slice(&row[56..58]);
    assert_eq!(identity.len(), 48);
    let stored = &entry[range(row, 40)];
    identity.extend_from_slice(stored);
    assert_eq!(u64_at(row, 32), crc64_nvme(&identity), "a section's checksum (F-9)");

    let raw = unpacked(stored, row[57], u32_at(row, 48) as usize);
    let (mut bytes, mut records) = (&raw[..], Vec::new());
    for _ in 0..u32_at(row, 52) {
        if row[56] == 2 {
            let (body, rest) = bytes[8..].split_at(u32_at(bytes, 4) as usize);
            found.controls.push((u16_at(bytes, 0), body.to_vec()));
            bytes = rest;
        } else {
            let (payload, rest) = bytes[16..].split_at(u32_at(bytes, 8) as usize);
            records.push((u64_at(bytes, 0), payload.to_vec()));
            bytes = rest;
        }
    }
    assert!(bytes.is_empty());
    if row[56] == 1 {
        let (log, first_sequence) = (u64_at(row, 0), u64_at(row, 8));
        found.records.push(SpecSection { log, first_sequence, records });
    }
}

/// The bytes of a section as the codec in its row stored them (F-8).
fn unpacked(stored: &[u8], codec: u8, len: usize) -> Vec<u8> {
    let raw = match codec {
        0 => stored.to_vec(),
        1 => lz4_block(stored),
        2 => zstd::bulk::decompress(stored, len).unwrap(),
        other => panic!("codec {other}"),
    };
    assert_eq!(raw.len(), len, "the raw length of the row");
    raw
}

/// An LZ4 block: literals, then a copy of what stands `distance` bytes before, and so on.
fn lz4_block(mut block: &[u8]) -> Vec<u8> {
    fn byte(block: &mut &[u8]) -> usize {
        let (first, rest) = block.split_first().unwrap();
        *block = rest;
        usize::from(*first)
    }
    // 15 says that more of the length follows, 255 that yet more does.
    fn length(block: &mut &[u8], nibble: usize) -> usize {
        let mut length = nibble;
        let mut more = nibble == 15;
        while more {
            let next = byte(block);
            length += next;
            more = next == 255;
        }
        length
    }
    let mut out = Vec::new();
    loop {
        let token = byte(&mut block);
        let literals = length(&mut block, token >> 4);
        let (literal, rest) = block.split_at(literals);
        out.extend_from_slice(literal);
        block = rest;
        if block.is_empty() {
            return out;
        }
        let distance = byte(&mut block) | byte(&mut block) << 8;
        for _ in 0..length(&mut block, token & 15) + 4 {
            out.push(out[out.len() - distance]);
        }
    }
}
