//! Words, how often each was seen, and windows: the lines that one commit is about.
//!
//! A word is a run of ASCII letters and digits, in lower case.

use std::collections::HashMap;

use crate::Result;

/// Lines of a window, unless it is full of bytes before.
const WINDOW_LINES: u64 = 256;
/// Bytes after which a window is full.
const WINDOW_BYTES: u64 = 64 << 10;

/// How often each word was seen.
#[derive(Default, PartialEq, Eq)]
pub(crate) struct Counts(HashMap<Box<[u8]>, u64>);

impl Counts {
    /// Adds the words of a line; says how many they were.
    pub(crate) fn add_line(&mut self, line: &[u8]) -> u64 {
        let mut lower = Vec::new();
        let mut words = 0;
        for word in line.split(|b| !b.is_ascii_alphanumeric()).filter(|word| !word.is_empty()) {
            lower.clear();
            lower.extend(word.iter().map(u8::to_ascii_lowercase));
            self.add(&lower, 1);
            words += 1;
        }
        words
    }

    fn add(&mut self, word: &[u8], count: u64) {
        match self.0.get_mut(word) {
            Some(seen) => *seen += count,
            None => _ = self.0.insert(word.into(), count),
        }
    }

    pub(crate) fn add_all(&mut self, other: &Self) {
        for (word, count) in &other.0 {
            self.add(word, *count);
        }
    }

    /// How many different words.
    pub(crate) fn distinct(&self) -> usize {
        self.0.len()
    }

    /// How many words.
    pub(crate) fn words(&self) -> u64 {
        self.0.values().sum()
    }

    /// Words that are seen differently often in `other`, and how often: here, there.
    pub(crate) fn differences(&self, other: &Self) -> Vec<(String, u64, u64)> {
        let mut words: Vec<_> = self.0.keys().chain(other.0.keys()).collect();
        words.sort_unstable();
        words.dedup();
        let seen = |counts: &Self, word: &[u8]| counts.0.get(word).copied().unwrap_or(0);
        let words = words.into_iter().map(|word| (word, seen(self, word), seen(other, word)));
        let words = words.filter(|(_, here, there)| here != there);
        words.map(|(w, here, there)| (String::from_utf8_lossy(w).into(), here, there)).collect()
    }

    /// As bytes: for each word its length, itself, its count.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.0.len() * 12);
        for (word, count) in &self.0 {
            put_number(&mut bytes, word.len() as u64);
            bytes.extend_from_slice(word);
            put_number(&mut bytes, *count);
        }
        bytes
    }

    /// Adds what [`encode`](Self::encode) made: a delta to what is here, a snapshot to nothing.
    pub(crate) fn add_encoded(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let len = usize::try_from(take_number(&mut bytes)?)?;
            let (word, rest) = bytes.split_at_checked(len).ok_or("a word is cut off")?;
            bytes = rest;
            let count = take_number(&mut bytes)?;
            self.add(word, count);
        }
        Ok(())
    }
}

/// Seven bits in each byte, the low ones first; the high bit says that more follow.
fn put_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn take_number(bytes: &mut &[u8]) -> Result<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().ok_or("a number is cut off")?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err("a number is too long".into())
}

/// Some lines and their words. Where a window ends depends on the lines alone, never on when the
/// process was killed: so each run, crashes or not, must give the same results.
pub(crate) struct Window {
    first: u64,
    lines: u64,
    bytes: u64,
    words: u64,
    checksum: u64,
    counts: Counts,
}

impl Window {
    /// An empty window whose first line will be `first`, counted from 0.
    pub(crate) fn new(first: u64) -> Self {
        let counts = Counts::default();
        Self { first, lines: 0, bytes: 0, words: 0, checksum: 0xcbf2_9ce4_8422_2325, counts }
    }

    pub(crate) fn add(&mut self, line: &[u8]) {
        self.lines += 1;
        self.bytes += line.len() as u64;
        self.words += self.counts.add_line(line);
        // FNV-1a.
        for byte in line.iter().chain(b"\n") {
            self.checksum = (self.checksum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// The line behind the last one.
    pub(crate) fn end(&self) -> u64 {
        self.first + self.lines
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lines == 0
    }

    pub(crate) fn is_full(&self) -> bool {
        self.lines == WINDOW_LINES || self.bytes >= WINDOW_BYTES
    }

    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// What goes into the log of results.
    pub(crate) fn result(&self) -> String {
        format!(
            "lines {}..{}, {} bytes, {} words, {} distinct, checksum {:016x}",
            self.first,
            self.end(),
            self.bytes,
            self.words,
            self.counts.distinct(),
            self.checksum
        )
    }
}
