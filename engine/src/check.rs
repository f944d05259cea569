//! Checking one segment: every checksum, every link, and what is lost where something is damaged.
//!
//! ```text
//! feed -> header -> manifest -> entries: table, sections, chain, fits what was before -> Checked
//!            '---- damage: noted, and the next entry is looked for ----'
//! ```
//!
//! Unlike opening, checking goes on behind damage: one bad block must not hide what stands behind
//! it, and the sequences of the records there say which ones are missing.
//!
//! Not here: what follows from one segment for the next (`survey`).

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::catalog::Catalog;
use crate::format::control::{ChainLink, CheckpointState, Control, Link};
use crate::format::entry::{Entry, Flags, SectionHead};
use crate::format::header::SegmentHeader;
use crate::index::SegmentIndex;
use crate::limits::BLOCK_SIZE;
use crate::position::{LogId, ReaderId, SegmentId, Sequence};
use crate::replay::{Identity, Known, control_records, fits_version, index_of};
use crate::scan::{Scan, Step};

/// A place in a segment that is not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Where in the file, in bytes.
    pub offset: u64,
    /// How many bytes.
    pub len: u64,
    /// What was found.
    pub what: String,
    /// Whose records these were, where the section table says so.
    pub records: Option<(LogId, Sequence, Sequence)>,
    /// Nothing here says what stood here; what was known is not known any more.
    pub hole: bool,
}

/// Where a log's next section should begin, and the number of the first damage that may have hit
/// its last one.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// The next sequence.
    pub next: Sequence,
    /// Damages from this number on came after the log's last section.
    pub since: usize,
}

/// Records that are not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Whose.
    pub log: LogId,
    /// The first that is missing.
    pub first: Sequence,
    /// The first behind them.
    pub end: Sequence,
    /// They were lost with a damage of this number or a later one.
    pub since: usize,
    /// And before this one.
    pub until: usize,
}

/// A control record that a state chain may lead to.
#[derive(Clone, Debug)]
pub enum Linked {
    /// A checkpoint with state.
    State {
        /// Whose.
        reader: ReaderId,
        /// Its number.
        number: u64,
        /// The one before it.
        previous: Option<ChainLink>,
        /// Parts of a snapshot; `None` for a delta.
        parts: Option<Vec<Link>>,
    },
    /// A part of a snapshot of this processor.
    Part(ReaderId),
}

/// What was found in a segment.
#[derive(Debug)]
pub struct Checked {
    /// Its number.
    pub segment: SegmentId,
    /// Its header, if it is valid.
    pub header: Option<SegmentHeader>,
    /// What its manifest says, if it is whole.
    pub begin: Option<Catalog>,
    /// What is known at its end, if nothing that counts for it is damaged.
    pub known: Option<Known>,
    /// Index of all sections whose table is valid.
    pub index: SegmentIndex,
    /// Where its entries end, their number, and the digest of the last one.
    pub end: (u64, u32, u64),
    /// The same before a seal: only where a roll was interrupted the seal counts like any other.
    pub before_seal: (u64, u32, u64),
    /// Whether the seal stands there.
    pub sealed: bool,
    /// Where each log goes on behind this segment.
    pub next: BTreeMap<LogId, Expected>,
    /// Damages, in the order of their offsets.
    pub damages: Vec<Damage>,
    /// Records that should be here and are not.
    pub gaps: Vec<Gap>,
    /// What state chains may lead to.
    pub links: BTreeMap<Link, Linked>,
    /// Names of logs that were created here.
    pub names: Vec<(LogId, String)>,
    /// Logs and processors that were dropped here.
    pub dropped: (Vec<LogId>, Vec<ReaderId>),
    /// Number of the last commit of each processor, and its name.
    pub commits: BTreeMap<ReaderId, (Option<String>, u64)>,
    /// Valid entries and records.
    pub counts: (u64, u64),
}

/// See the module's head.
pub struct Check {
    identity: Identity,
    /// Where the entries end, if that is known: nothing behind it counts but the seal.
    end: Option<u64>,
    /// Number of this segment's first damage.
    base: usize,
    head: BytesMut,
    scan: Option<Scan>,
    /// Rows of the manifest, until its end.
    manifest: Option<Vec<Control>>,
    hole_at: Option<u64>,
    /// What is live, where dead records may be gone.
    punched: Option<Arc<Catalog>>,
    out: Checked,
}

impl Check {
    /// A check of a segment. `before` says where each log goes on, as far as the segments before
    /// tell; `base` is the number of the first damage that is found here.
    #[must_use]
    pub fn new(
        identity: &Identity,
        segment: SegmentId,
        end: Option<u64>,
        before: BTreeMap<LogId, Expected>,
        base: usize,
    ) -> Self {
        let out = Checked {
            segment,
            header: None,
            begin: None,
            known: None,
            index: SegmentIndex::default(),
            end: (u64::from(BLOCK_SIZE), 0, 0),
            before_seal: (u64::from(BLOCK_SIZE), 0, 0),
            sealed: false,
            next: before,
            damages: Vec::new(),
            gaps: Vec::new(),
            links: BTreeMap::new(),
            names: Vec::new(),
            dropped: (Vec::new(), Vec::new()),
            commits: BTreeMap::new(),
            counts: (0, 0),
        };
        let (head, manifest) = (BytesMut::new(), Some(Vec::new()));
        let identity = identity.clone();
        Self { identity, end, base, head, scan: None, manifest, hole_at: None, punched: None, out }
    }

    /// The same check, for a segment from which records that are dead now may be gone (F-12).
    #[must_use]
    pub fn punched(self, now: Option<Arc<Catalog>>) -> Self {
        Self { punched: now, ..self }
    }

    /// Bytes could not be read; zeros are fed for them.
    pub fn unreadable(&mut self, offset: u64, len: u64, why: &str) {
        self.damage(offset, len, format!("cannot be read: {why}"));
    }

    /// Checks the bytes that follow those fed before. `last`: they are the last ones.
    pub fn feed(&mut self, mut bytes: &[u8], last: bool) {
        if self.scan.is_none() {
            let missing = (BLOCK_SIZE as usize).saturating_sub(self.head.len());
            let (head, rest) = bytes.split_at(missing.min(bytes.len()));
            self.head.extend_from_slice(head);
            bytes = rest;
            if self.head.len() < BLOCK_SIZE as usize && !last {
                return;
            }
            self.begin();
        }
        let mut scan = self.scan.take().expect("it was just begun");
        scan.feed(bytes);
        self.advance(&mut scan, last);
        self.scan = Some(scan);
    }

    /// What was found, once the last bytes were fed.
    #[must_use]
    pub fn finish(self) -> Checked {
        self.out
    }

    fn begin(&mut self) {
        let segment = self.out.segment;
        let place = self.identity.place(segment);
        let header = match self.identity.header(segment, &self.head) {
            Ok(Some((header, digest))) => Ok((header, digest)),
            Ok(None) => Err("the segment's header is not valid".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        let scan = match header {
            Ok((header, digest)) => {
                self.out.header = Some(header);
                self.out.end.2 = digest;
                Scan::new(place, digest)
            }
            Err(what) => {
                self.damage(0, BLOCK_SIZE.into(), what);
                Scan::new(place, 0).unanchored()
            }
        };
        self.scan = Some(scan.of_tables());
    }

    fn advance(&mut self, scan: &mut Scan, last: bool) {
        loop {
            let offset = u64::from(scan.place().offset);
            let is_over = self.end.is_some_and(|end| offset >= end);
            match scan.next(last) {
                Step::Entry(entry, _) if is_over => {
                    self.out.sealed |= entry.head.flags.has(Flags::SEAL);
                    return;
                }
                Step::Entry(entry, bytes) => {
                    self.entry(&entry, &bytes);
                    let place = scan.place();
                    self.out.end = (place.offset.into(), place.entry, scan.digest());
                    if !entry.head.flags.has(Flags::SEAL) {
                        self.out.before_seal = self.out.end;
                    }
                }
                Step::More => return,
                Step::Hole if is_over => break,
                Step::Hole => {
                    self.hole_at.get_or_insert(offset);
                    let found = scan.skip_hole(last);
                    let end = u64::from(scan.place().offset);
                    // What is found behind the end was there before, or is the seal.
                    if self.end.is_some_and(|limit| end >= limit) {
                        break;
                    }
                    if !found {
                        break;
                    }
                    self.close_hole(end);
                }
            }
        }
        if let Some(end) = self.end.filter(|end| last || u64::from(scan.place().offset) >= *end) {
            // Without a known end what is not there was never written.
            self.close_hole(end);
        }
    }

    fn close_hole(&mut self, end: u64) {
        if let Some(begin) = self.hole_at.take() {
            let what = "no valid entry that continues the one before".to_owned();
            self.hole(begin, end - begin, what);
            self.manifest = None;
            self.out.index.set_holes();
        }
    }

    /// A damage behind which what is known is no longer all that there was.
    fn hole(&mut self, offset: u64, len: u64, what: String) {
        self.damage(offset, len, what);
        self.out.damages.last_mut().expect("it was just added").hole = true;
        self.out.known = None;
    }

    fn damage(&mut self, offset: u64, len: u64, what: String) {
        self.out.damages.push(Damage { offset, len, what, records: None, hole: false });
    }

    fn entry(&mut self, entry: &Entry, bytes: &Bytes) {
        let offset = u64::from(entry.head.place.offset);
        self.out.counts.0 += 1;
        if entry.head.durable > entry.head.place.entry {
            let what = "a watermark runs ahead of its entry".to_owned();
            self.damage(offset, entry.length.into(), what);
        }
        let version = self.out.header.as_ref().map(|header| header.version);
        if version.is_some_and(|version| !fits_version(version, entry, bytes)) {
            let what = "something that its format version does not have".to_owned();
            self.damage(offset, entry.length.into(), what);
        }
        let controls = self.controls(entry, bytes);
        if entry.head.flags.has(Flags::MANIFEST) {
            return self.manifest(entry, controls);
        }
        self.manifest = None;
        for (index, control) in (0..).zip(controls.iter().flatten()) {
            let segment = self.out.segment;
            let link = Link { segment, offset: entry.head.place.offset, index };
            self.control(link, control);
        }
        for section in entry.records() {
            self.section(entry, section, bytes);
        }
        self.out.index.add_entry(entry);
        let Some(controls) = controls else { return };
        if let Some(known) = &mut self.out.known
            && let Err(what) = known.apply(entry, &controls)
        {
            self.hole(offset, entry.length.into(), what.to_owned());
        }
    }

    /// The control records of an entry; `None` if they are damaged.
    fn controls(&mut self, entry: &Entry, bytes: &Bytes) -> Option<Vec<Control>> {
        let Some(head) = entry.control() else { return Some(Vec::new()) };
        let begin = head.offset as usize;
        let part = bytes.get(begin..begin + head.len as usize);
        let right = part.is_some_and(|part| head.matches(&entry.head.place, part));
        let controls = right.then(|| control_records(entry, bytes)).flatten();
        if controls.is_none() {
            let offset = u64::from(entry.head.place.offset) + u64::from(head.offset);
            self.hole(offset, head.len.into(), "damaged control records".to_owned());
        }
        controls
    }

    fn manifest(&mut self, entry: &Entry, controls: Option<Vec<Control>>) {
        let offset = u64::from(entry.head.place.offset);
        let rows = self.manifest.take();
        let (Some(mut rows), Some(controls)) = (rows, controls) else { return };
        rows.extend(controls);
        if !entry.head.flags.has(Flags::MANIFEST_END) {
            self.manifest = Some(rows);
            return;
        }
        match Known::of(rows) {
            Ok(known) => {
                let since = self.base + self.out.damages.len();
                let expected = |(_, log): (&str, LogId)| {
                    let state = known.catalog.log(log).expect("a named log is there");
                    (log, Expected { next: state.next, since })
                };
                self.out.next = known.catalog.log_names().map(expected).collect();
                let commits = known.catalog.readers().map(|(reader, state)| {
                    (reader, (Some(state.stored.name.clone()), state.stored.number))
                });
                self.out.commits = commits.collect();
                self.out.index = index_of(&known.catalog);
                self.out.begin = Some(known.catalog.clone());
                self.out.known = Some(known);
            }
            Err(what) => self.hole(offset, entry.length.into(), what.to_owned()),
        }
    }

    fn control(&mut self, link: Link, control: &Control) {
        if let Control::Checkpoint(checkpoint) = control
            && !checkpoint.carried
        {
            self.out.commits.entry(checkpoint.reader).or_default().1 = checkpoint.number;
        }
        let linked = match control {
            Control::LogCreated { log, name, .. } => {
                return self.out.names.push((*log, name.clone()));
            }
            Control::ReaderOpened { reader, name, .. } => {
                self.out.commits.entry(*reader).or_default().0 = Some(name.clone());
                return;
            }
            Control::LogDropped { log } => return self.out.dropped.0.push(*log),
            Control::ReaderDropped { reader } => return self.out.dropped.1.push(*reader),
            Control::SnapshotPart { reader, .. } => Linked::Part(*reader),
            Control::Checkpoint(checkpoint) if checkpoint.state.is_some() => Linked::State {
                reader: checkpoint.reader,
                number: checkpoint.number,
                previous: checkpoint.previous,
                parts: match &checkpoint.state {
                    CheckpointState::Snapshot { parts, .. } => Some(parts.clone()),
                    CheckpointState::None | CheckpointState::Delta(_) => None,
                },
            },
            _ => return,
        };
        self.out.links.insert(link, linked);
    }

    fn section(&mut self, entry: &Entry, section: &SectionHead, bytes: &Bytes) {
        let (log, first) = (section.log, section.first_sequence);
        let end = first.after(section.count.into());
        let begin = section.offset as usize;
        let part = bytes.get(begin..begin + section.len as usize);
        if part.is_some_and(|part| section.matches(&entry.head.place, part)) {
            self.out.counts.1 += u64::from(section.count);
        } else if self.punched.as_ref().is_none_or(|now| lives(now, log, end)) {
            let offset = u64::from(entry.head.place.offset) + u64::from(section.offset);
            self.damage(offset, section.len.into(), "damaged records".to_owned());
            let damage = self.out.damages.last_mut().expect("it was just added");
            damage.records = Some((log, first, end));
        }
        // A log that nothing told of before was created here, or in what is damaged.
        let start = Sequence::FIRST;
        let since = self.base + self.out.damages.len();
        let before = self.out.next.insert(log, Expected { next: end, since });
        let before = before.unwrap_or(Expected { next: start, since: self.base });
        if before.next < first {
            let (until, since) = (since, before.since);
            self.out.gaps.push(Gap { log, first: before.next, end: first, since, until });
        } else if first < before.next {
            let what =
                format!("log {log} stands at {first} again, it was at {} before", before.next);
            self.damage(entry.head.place.offset.into(), entry.length.into(), what);
        }
    }
}

/// Whether a log has a live record before `end`.
fn lives(now: &Catalog, log: LogId, end: Sequence) -> bool {
    now.log(log).is_some_and(|state| state.first < end)
}
