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
        Self { place, digest, bytes: BytesMut::new(), sections: true }
    }

    /// The same scanner, content with valid headers and tables: whoever uses a section checks it.
    /// One damaged section then hides no other.
    #[must_use]
    pub fn of_tables(self) -> Self {
        Self { sections: false, ..self }
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
        let Some(entry) = Entry::parse(&self.bytes) else {
            // A section table can be longer than what was fed.
            let enough = last || self.bytes.len() >= TABLE_SIZE_MAX;
            return if enough { Step::Hole } else { Step::More };
        };
        let continues = entry.head.place == self.place && entry.head.previous_digest == self.digest;
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
        let bytes = self.bytes.split_to(length).freeze();
        self.digest = entry.digest;
        self.place.offset += entry.length;
        self.place.entry += 1;
        Step::Entry(entry, bytes)
    }

    /// Goes on behind a hole at the next entry of this segment, whatever its number.
    ///
    /// Its own chain is not checked against the entries before the hole; everything else is.
    /// `false` if there is none in what was fed; then the scanner stands behind the last whole
    /// block of it.
    pub fn skip_hole(&mut self) -> bool {
        loop {
            if self.bytes.len() < BLOCK_SIZE as usize {
                return false;
            }
            drop(self.bytes.split_to(BLOCK_SIZE as usize));
            self.place.offset += BLOCK_SIZE;
            let Some(entry) = Entry::parse(&self.bytes) else { continue };
            if entry.stands_at(&self.place) && entry.head.place.entry > self.place.entry {
                self.place.entry = entry.head.place.entry;
                self.digest = entry.head.previous_digest;
                return true;
            }
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
