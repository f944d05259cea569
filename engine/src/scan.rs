//! Reading a segment's entries in order, from bytes that come in pieces.
//!
//! ```text
//! feed(bytes) -> next() -> Entry, Entry, .. -> More (feed again) | Hole (what stands there is no
//!                                              entry that continues the one before)
//! ```
//!
//! The scanner only says what stands where. It checks everything an entry promises: identity,
//! place, number, digest of the one before, every section (F-5 to F-9).
//!
//! Not here: what a hole means (`recover`), and reading files.

use bytes::{Bytes, BytesMut};

use crate::format::Place;
use crate::format::entry::Entry;
use crate::limits::BLOCK_SIZE;

/// A place in a segment between two entries.
pub struct Scan {
    /// Where the next entry should stand, and its number.
    place: Place,
    /// What it should continue.
    digest: u64,
    /// Bytes from `place.offset`.
    bytes: BytesMut,
    /// Whether the sections' bytes are checked too.
    sections: bool,
    /// Whether `digest` is known.
    anchored: bool,
    /// Whether the end of a hole is being looked for.
    skips: bool,
}

/// What stands at the scanner's place.
pub enum Step {
    /// An entry that continues the one before, and its bytes. The scanner stands behind it now.
    Entry(Entry, Bytes),
    /// Not enough bytes to tell.
    More,
    /// No such entry.
    Hole,
}

impl Scan {
    /// A scanner before the entry at `place`, which should continue `digest`.
    #[must_use]
    pub fn new(place: Place, digest: u64) -> Self {
        let (bytes, sections, anchored, skips) = (BytesMut::new(), true, true, false);
        Self { place, digest, bytes, sections, anchored, skips }
    }

    /// The same scanner, content with valid headers and tables: whoever uses a section checks it.
    /// One damaged section then hides no other.
    #[must_use]
    pub fn of_tables(self) -> Self {
        Self { sections: false, ..self }
    }

    /// The same scanner, for a segment whose header is damaged: what the first entry says that it
    /// continues is believed.
    #[must_use]
    pub fn unanchored(self) -> Self {
        Self { anchored: false, ..self }
    }

    /// Adds the bytes that follow those fed before.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Where the next entry should stand.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Digest of the last entry.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// The bytes from the scanner's place on, as far as they were fed.
    #[must_use]
    pub fn rest(&self) -> &[u8] {
        &self.bytes
    }

    /// Offset in the file up to which bytes were fed.
    #[must_use]
    pub fn fed(&self) -> u64 {
        u64::from(self.place.offset) + self.bytes.len() as u64
    }

    /// What stands at the scanner's place. `last` says that no more bytes will be fed.
    pub fn next(&mut self, last: bool) -> Step {
        if self.skips {
            return Step::Hole;
        }
        let Some(entry) = Entry::parse(&self.bytes) else {
            // A section table can be longer than what was fed.
            let enough = last || self.bytes.len() >= TABLE_SIZE_MAX;
            return if enough { Step::Hole } else { Step::More };
        };
        let digest = if self.anchored { self.digest } else { entry.head.previous_digest };
        let continues = entry.head.place == self.place && entry.head.previous_digest == digest;
        if !continues {
            return Step::Hole;
        }
        let length = entry.length as usize;
        if self.bytes.len() < length {
            return if last { Step::Hole } else { Step::More };
        }
        if self.sections && !entry.sections_match(&self.bytes[..length]) {
            return Step::Hole;
        }
        let place = (self.place.offset.checked_add(entry.length), self.place.entry.checked_add(1));
        let (Some(offset), Some(number)) = place else { return Step::Hole };
        let bytes = self.bytes.split_to(length).freeze();
        self.digest = entry.digest;
        self.anchored = true;
        (self.place.offset, self.place.entry) = (offset, number);
        Step::Entry(entry, bytes)
    }

    /// Goes on behind a hole at the next entry of this segment, whatever its number.
    ///
    /// Its own chain is not checked against the entries before the hole; everything else is.
    /// `false` if there is none in what was fed; then the next step is a hole again, and this goes
    /// on looking where it ended.
    pub fn skip_hole(&mut self, last: bool) -> bool {
        loop {
            if std::mem::replace(&mut self.skips, true) {
                let entry = Entry::parse(&self.bytes).filter(|entry| {
                    entry.stands_at(&self.place) && entry.head.place.entry > self.place.entry
                });
                if let Some(entry) = entry {
                    self.place.entry = entry.head.place.entry;
                    self.digest = entry.head.previous_digest;
                    (self.anchored, self.skips) = (true, false);
                    return true;
                }
                if !last && self.bytes.len() < TABLE_SIZE_MAX {
                    // Its table may not be whole yet.
                    return false;
                }
            }
            if self.bytes.len() < BLOCK_SIZE as usize {
                return false;
            }
            drop(self.bytes.split_to(BLOCK_SIZE as usize));
            self.place.offset += BLOCK_SIZE;
        }
    }
}

/// The most bytes that a header and its section table take.
pub const TABLE_SIZE_MAX: usize = {
    use crate::format::entry::{HEADER_SIZE, SECTION_SIZE};
    HEADER_SIZE + crate::limits::SECTIONS_MAX as usize * SECTION_SIZE
};

/// An entry's header found behind a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behind {
    /// Its offset in bytes from the beginning of the window.
    pub at: usize,
    /// Its length in bytes.
    pub length: u32,
    /// Its durable watermark.
    pub durable: u32,
    /// Whether it is only part of a manifest.
    pub manifest: bool,
}

/// Every header of this segment's entries in `window`, which begins at `place`, looked for at each
/// block. A header alone proves what its watermark says, even if its sections are torn.
pub fn entries_behind(window: &[u8], place: &Place) -> Vec<Behind> {
    use crate::format::entry::Flags;
    let mut found = Vec::new();
    let mut place = *place;
    for at in (0..window.len()).step_by(BLOCK_SIZE as usize) {
        if let Some(entry) = Entry::parse(&window[at..]).filter(|entry| entry.stands_at(&place)) {
            let manifest = entry.head.flags.has(Flags::MANIFEST);
            let (length, durable) = (entry.length, entry.head.durable);
            found.push(Behind { at, length, durable, manifest });
        }
        place.offset = place.offset.saturating_add(BLOCK_SIZE);
    }
    found
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::format::codec::Packer;
    use crate::format::entry::{EntryHead, Flags, RecordsIn, put_entry};
    use crate::position::{SegmentId, ShardId};
    use crate::request::StagedRecord;

    /// Empty entries, each a block.
    fn entries(count: u32) -> (Place, Vec<u8>) {
        let (engine, shard, segment) = ([7; 16], ShardId(0), SegmentId(3));
        let first = Place { engine, shard, segment, entry: 0, offset: BLOCK_SIZE };
        let (mut out, mut previous_digest) = (BytesMut::new(), 0);
        for entry in 0..count {
            let place = Place { entry, offset: BLOCK_SIZE * (1 + entry), ..first };
            let flags = Flags::WATERMARK;
            let head = EntryHead { place, flags, previous_digest, time_us: 0, durable: entry };
            let none: [RecordsIn<'_, StagedRecord>; 0] = [];
            previous_digest = put_entry(&mut out, &head, (&[], 0), &none, &mut Packer::default()).1;
        }
        (first, out.to_vec())
    }

    /// The numbers of the entries that are found in bytes which come in two pieces.
    fn found(place: Place, bytes: &[u8], cut: usize) -> Vec<u32> {
        let mut scan = Scan::new(place, 0).of_tables();
        let mut found = Vec::new();
        for (piece, last) in [(&bytes[..cut], false), (&bytes[cut..], true)] {
            scan.feed(piece);
            loop {
                match scan.next(last) {
                    Step::Entry(entry, _) => found.push(entry.head.place.entry),
                    Step::More => break,
                    Step::Hole => {
                        if !scan.skip_hole(last) {
                            break;
                        }
                    }
                }
            }
        }
        found
    }

    /// (F-6): an entry of another history, right by itself, does not continue this one.
    #[test]
    fn an_entry_that_continues_another_one_is_a_hole() {
        let block = BLOCK_SIZE as usize;
        let (place, mut bytes) = entries(3);
        assert_eq!(found(place, &bytes, 0), [0, 1, 2]);
        let mut scan = Scan::new(place, 1);
        scan.feed(&bytes);
        assert!(matches!(scan.next(true), Step::Hole), "the header has another digest");
        // Entry 0 of the same place and number, but of another time.
        let head = EntryHead { time_us: 9, ..Entry::parse(&bytes).unwrap().head };
        let mut other = BytesMut::new();
        let none: [RecordsIn<'_, StagedRecord>; 0] = [];
        put_entry(&mut other, &head, (&[], 0), &none, &mut Packer::default());
        bytes[..block].copy_from_slice(&other);
        let mut scan = Scan::new(place, 0);
        scan.feed(&bytes);
        assert!(matches!(scan.next(true), Step::Entry(..)));
        assert!(matches!(scan.next(true), Step::Hole), "entry 1 continues the other entry 0");
    }

    /// An entry that began where a piece of the file ended was passed over behind a hole.
    #[test]
    fn no_entry_behind_a_hole_is_missed_wherever_the_bytes_are_cut() {
        const COUNT: usize = 80;
        let block = BLOCK_SIZE as usize;
        let (place, mut bytes) = entries(80);
        bytes[2 * block..4 * block].fill(0);
        let expected: Vec<u32> = (0..80).filter(|n| !(2..4).contains(n)).collect();
        for cut in 0..=COUNT {
            assert_eq!(found(place, &bytes, cut * block), expected, "cut behind {cut} blocks");
        }
        bytes[(COUNT - 1) * block..].fill(0);
        assert_eq!(found(place, &bytes, COUNT * block), expected[..expected.len() - 1]);
    }
}
