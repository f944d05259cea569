//! One segment read from its beginning: what the journal knew after each of its entries.
//!
//! ```text
//! feed(bytes) -> next() -> header, manifest -> Entry, Entry, ..  -> More (feed again) | Hole
//!                             '-> catalog --apply--> catalog .. (what a manifest would say now)
//! ```
//!
//! A segment says everything by itself: its manifest is what was known when it began, each entry
//! changes that. So opening reads one segment, and checking a journal compares what each segment
//! leads to with what the next one begins with. An entry that is whole but does not fit what was
//! before it is damage, never a hole.
//!
//! Not here: which segment to read (`recover`), and what a hole means (`judge`).

use std::path::PathBuf;

use bytes::{Bytes, BytesMut};

use crate::catalog::{Catalog, Misfit};
use crate::error::{Damaged, OpenError};
use crate::format::codec::Codec;
use crate::format::control::{Control, Link};
use crate::format::entry::{Entry, Flags};
use crate::format::header::{HeaderError, SegmentHeader};
use crate::format::{EngineId, Place, VERSION};
use crate::index::SegmentIndex;
use crate::judge::Last;
use crate::limits::BLOCK_SIZE;
use crate::position::{LogId, SegmentId, Sequence, ShardId};
use crate::scan::{Scan, Step};

/// Who the shard is, so that nothing foreign is taken for its own.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The engine.
    pub engine: EngineId,
    /// The shard.
    pub shard: ShardId,
    /// Size of its segments in bytes.
    pub segment_size: u64,
    /// Whether it must have segments.
    pub begun: bool,
}

impl Identity {
    /// The place of a segment's first entry.
    #[must_use]
    pub fn place(&self, segment: SegmentId) -> Place {
        let (engine, shard) = (self.engine, self.shard);
        Place { engine, shard, segment, entry: 0, offset: BLOCK_SIZE }
    }

    /// Where a segment stands in the data directory.
    #[must_use]
    pub fn path(&self, segment: SegmentId) -> PathBuf {
        PathBuf::from(format!("shard-{:03}/segment-{:016x}.log", self.shard.0, segment.0))
    }

    /// The header and digest of a segment, `None` if it is not valid (F-4).
    ///
    /// # Errors
    /// The file is another's, or newer.
    pub fn header(
        &self,
        segment: SegmentId,
        block: &[u8],
    ) -> Result<Option<(SegmentHeader, u64)>, OpenError> {
        let path = self.path(segment);
        let foreign = |why: String| Err(OpenError::Foreign { path: path.clone(), why });
        let (header, digest) = match SegmentHeader::decode(block) {
            Err(HeaderError::Invalid) => return Ok(None),
            Err(HeaderError::Newer(found)) => {
                return Err(OpenError::NewerFormat { path, found, known: VERSION });
            }
            Ok(decoded) => decoded,
        };
        if header.engine != self.engine {
            return foreign("belongs to another engine".to_owned());
        }
        if header.shard == self.shard && header.segment < segment {
            // A recycled file whose first block was never written under its new name.
            return Ok(None);
        }
        if !header.is_of(&self.place(segment)) {
            return foreign(format!("holds segment {} of shard {}", header.segment, header.shard));
        }
        if header.segment_size != self.segment_size {
            return foreign(format!("has segments of {} bytes", header.segment_size));
        }
        Ok(Some((header, digest)))
    }
}

/// What the journal knows after an entry.
#[derive(Debug)]
pub struct Known {
    /// Its logs, processors and sealed segments.
    pub catalog: Catalog,
    /// Where the records of this segment stand.
    pub index: SegmentIndex,
    /// Commit time of the last entry.
    pub time_us: u64,
    /// What the last entry was.
    pub last: Last,
    /// The segment that a seal names.
    pub sealed_to: SegmentId,
}

/// What stands at the place that was reached.
pub enum Next {
    /// An entry that fits everything before it, and its bytes. It has been applied.
    Entry(Entry, Bytes),
    /// Not enough bytes to tell.
    More,
    /// No entry that continues the one before; where nothing was read yet, no header.
    Hole,
}

enum Begun {
    /// The header is not whole yet.
    Before(BytesMut),
    Behind(SegmentHeader, Scan),
}

/// See the module's head.
pub struct Replay {
    identity: Identity,
    segment: SegmentId,
    begun: Begun,
    manifest: Vec<Control>,
    known: Option<Known>,
}

impl Replay {
    /// Nothing of the segment was read yet.
    #[must_use]
    pub fn new(identity: &Identity, segment: SegmentId) -> Self {
        let begun = Begun::Before(BytesMut::new());
        let identity = identity.clone();
        Self { identity, segment, begun, manifest: Vec::new(), known: None }
    }

    /// Adds the bytes that follow those fed before.
    pub fn feed(&mut self, bytes: &[u8]) {
        match &mut self.begun {
            Begun::Before(before) => before.extend_from_slice(bytes),
            Begun::Behind(_, scan) => scan.feed(bytes),
        }
    }

    /// The header, once it was read and is the segment's.
    #[must_use]
    pub fn header(&self) -> Option<&SegmentHeader> {
        match &self.begun {
            Begun::Before(_) => None,
            Begun::Behind(header, _) => Some(header),
        }
    }

    /// Where the next entry should stand, and the bytes from there on.
    #[must_use]
    pub fn scan(&self) -> Option<&Scan> {
        match &self.begun {
            Begun::Before(_) => None,
            Begun::Behind(_, scan) => Some(scan),
        }
    }

    /// What is known; `None` before the end of the manifest.
    #[must_use]
    pub fn known(&self) -> Option<&Known> {
        self.known.as_ref()
    }

    /// The two, once the replay is over; `None` if header and manifest are not whole.
    #[must_use]
    pub fn into_end(self) -> Option<(Known, Scan)> {
        match self.begun {
            Begun::Before(_) => None,
            Begun::Behind(_, scan) => Some((self.known?, scan)),
        }
    }

    /// Goes on to the next entry. `last` says that no more bytes will be fed.
    ///
    /// # Errors
    /// The file is foreign or newer, or an entry is whole but does not fit.
    pub fn next(&mut self, last: bool) -> Result<Next, OpenError> {
        if let Begun::Before(before) = &self.begun {
            if before.len() < BLOCK_SIZE as usize {
                return Ok(if last { Next::Hole } else { Next::More });
            }
            let Some((header, digest)) = self.identity.header(self.segment, before)? else {
                return Ok(Next::Hole);
            };
            let mut scan = Scan::new(self.identity.place(self.segment), digest);
            scan.feed(&before[BLOCK_SIZE as usize..]);
            self.begun = Begun::Behind(header, scan);
        }
        let Begun::Behind(_, scan) = &mut self.begun else { unreachable!("it was just begun") };
        match scan.next(last) {
            Step::Entry(entry, bytes) => match self.apply(&entry, &bytes) {
                Ok(()) => Ok(Next::Entry(entry, bytes)),
                Err(what) => Err(self.damaged(&entry.head.place, what)),
            },
            Step::More => Ok(Next::More),
            Step::Hole if Entry::is_of_unknown_form(scan.rest(), scan.place(), scan.digest()) => {
                let (place, what) = (*scan.place(), "an entry whose form nobody knows");
                Err(self.damaged(&place, what))
            }
            Step::Hole => Ok(Next::Hole),
        }
    }

    /// Applies one valid entry.
    fn apply(&mut self, entry: &Entry, bytes: &Bytes) -> Result<(), Misfit> {
        let flags = entry.head.flags;
        if entry.head.durable > entry.head.place.entry {
            return Err("a watermark runs ahead of its entry");
        }
        let controls = control_records(entry, bytes).ok_or("a control record is not valid")?;
        if self.header().is_some_and(|header| !fits_version(header.version, entry, bytes)) {
            return Err("something that its format version does not have");
        }
        if flags.has(Flags::MANIFEST) != self.known.is_none() {
            return Err("a manifest that begins or ends in the wrong place");
        }
        match &mut self.known {
            Some(known) => known.apply(entry, &controls),
            None if entry.records().next().is_some() => Err("records in the manifest"),
            None => {
                self.manifest.extend(controls);
                if flags.has(Flags::MANIFEST_END) {
                    let known = Known::of(std::mem::take(&mut self.manifest))?;
                    if known.catalog.segments().any(|row| row.segment >= self.segment) {
                        return Err("a manifest names its own segment or a later one");
                    }
                    self.known = Some(known);
                }
                Ok(())
            }
        }
    }

    fn damaged(&self, place: &Place, what: &'static str) -> OpenError {
        OpenError::Damaged(Damaged {
            shard: self.identity.shard,
            segment: self.segment,
            offset: place.offset.into(),
            what,
            at_risk: format!("every record from entry {} on", place.entry),
        })
    }
}

impl Known {
    /// What a whole manifest says.
    ///
    /// # Errors
    /// [`Misfit`] if it is not whole.
    pub fn of(manifest: Vec<Control>) -> Result<Self, Misfit> {
        let (catalog, time_us) = Catalog::from_manifest(manifest)?;
        let index = index_of(&catalog);
        Ok(Self { catalog, index, time_us, last: Last::Ordinary, sealed_to: SegmentId(0) })
    }

    /// Whether the records that a writer's batch names stand in the same entry.
    fn holds_batch(&self, entry: &Entry, control: &Control) -> bool {
        let Control::WriterAppended { epoch, first, count, entry: number, slot, .. } = control
        else {
            return true;
        };
        let log = self.catalog.writers().get(*epoch).map(|writer| writer.log);
        let section = entry.records().find(|section| Some(section.log) == log);
        *number == entry.head.place.entry
            && *count > 0
            && section.is_some_and(|section| {
                let end = slot.checked_add(*count);
                section.first_sequence.0.checked_add((*slot).into()) == Some(first.0)
                    && end.is_some_and(|end| end <= section.count)
            })
    }

    /// Applies an entry behind the manifest, with its control records.
    ///
    /// # Errors
    /// [`Misfit`] if it does not fit what was before.
    pub fn apply(&mut self, entry: &Entry, controls: &[Control]) -> Result<(), Misfit> {
        if self.last == Last::Seal {
            return Err("an entry stands behind the seal of its segment");
        }
        if entry.head.time_us < self.time_us {
            return Err("commit times decrease");
        }
        let flags = entry.head.flags;
        let seals = controls.iter().any(|control| matches!(control, Control::Seal { .. }));
        if seals != flags.has(Flags::SEAL) {
            return Err("a seal that is none");
        }
        self.time_us = entry.head.time_us;
        let Place { segment, offset, .. } = entry.head.place;
        for (index, control) in (0..).zip(controls) {
            self.catalog.apply(control, Link { segment, offset, index })?;
            if !self.holds_batch(entry, control) {
                return Err("a batch of a writer without its records");
            }
            if let Control::Seal { next } = control {
                self.sealed_to = *next;
            }
        }
        for section in entry.records() {
            self.catalog.apply_records(section)?;
        }
        self.index.add_entry(entry);
        self.last = if flags.has(Flags::SEAL) {
            Last::Seal
        } else if flags.has(Flags::CLOSE) {
            Last::Close
        } else {
            Last::Ordinary
        };
        Ok(())
    }
}

/// Whether a segment of this format version may hold such an entry (F-2).
pub(crate) fn fits_version(version: u32, entry: &Entry, bytes: &[u8]) -> bool {
    let packed = entry.records().any(|section| section.codec != Codec::None);
    let controls = entry.control().is_none_or(|head| {
        let begin = head.offset as usize;
        Control::all_of_version(&bytes[begin..begin + head.len as usize], version)
    });
    (version > 1 || !packed) && controls
}

/// The control records of a valid entry; `None` if they do not parse.
#[must_use]
pub fn control_records(entry: &Entry, bytes: &Bytes) -> Option<Vec<Control>> {
    let Some(head) = entry.control() else { return Some(Vec::new()) };
    let begin = head.offset as usize;
    Control::take_all(bytes.slice(begin..begin + head.len as usize), head.count)
}

/// An index that knows where each log stands now.
#[must_use]
pub fn index_of(catalog: &Catalog) -> SegmentIndex {
    let start = |(_, log): (&str, LogId)| -> (LogId, Sequence, u64) {
        let state = catalog.log(log).expect("a named log is there");
        (log, state.next, state.bytes)
    };
    SegmentIndex::begin(catalog.log_names().map(start))
}
