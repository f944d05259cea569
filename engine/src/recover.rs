//! Opening a shard: from files to a catalog and a place to go on, reading the newest segment alone.
//!
//! ```text
//! newest file -> sync -> header, manifest, entries -> hole -> look behind it, look into files that
//!     |  header or manifest not whole                           the manifest does not list
//!     '--> the file before it                                       -> judge -> sync -> done
//! ```
//!
//! The steps are those of (F-16). This module only looks: it changes nothing but what a sync does.
//! What must be changed (a fresh segment, files to remove) stands in [`Recovered`], and the shard
//! does it before it serves.
//!
//! Not here: the verdict (`judge`), and everything that writes.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytes::{Bytes, BytesMut};

use crate::buf::Buf;
use crate::catalog::{Catalog, Misfit};
use crate::error::{Damaged, OpenError};
use crate::format::control::{Control, Link};
use crate::format::entry::{Entry, Flags};
use crate::format::header::{HeaderError, SegmentHeader};
use crate::format::{EngineId, Place, VERSION};
use crate::index::SegmentIndex;
use crate::io::{Completion, Found, IoError, OpKind, SpareId};
use crate::judge::{Last, Later, Newer, Verdict, judge};
use crate::limits::{BLOCK_SIZE, MIB};
use crate::position::{LogId, SegmentId, Sequence, ShardId};
use crate::scan::{Scan, Step, entries_behind};

const CHUNK_SIZE: u64 = MIB as u64;

/// The segment that recovery found the journal's end in.
#[derive(Debug)]
pub struct Ended {
    /// Its number.
    pub segment: SegmentId,
    /// Where its entries end, in bytes.
    pub end: u64,
    /// How many entries it holds.
    pub entries: u32,
    /// Digest of the last one.
    pub digest: u64,
    /// Whether it goes on; otherwise a fresh segment follows.
    pub goes_on: bool,
    /// It was sealed: the file that it names must not go before the fresh segment is durable.
    pub sealed: bool,
    /// What was found behind its end, with the offset of its first byte: entries that nobody was
    /// told of.
    pub behind: Option<(u64, Bytes)>,
}

/// What the shard is after opening, and what is left to do.
#[derive(Debug)]
pub struct Recovered {
    /// Its logs, processors and sealed segments.
    pub catalog: Catalog,
    /// Where the journal ended; `None` if it never began.
    pub ended: Option<Ended>,
    /// Index of that segment.
    pub index: SegmentIndex,
    /// Commit time of the last entry.
    pub time_us: u64,
    /// Spares of the right size.
    pub spares: Vec<SpareId>,
    /// Spares to remove.
    pub bad_spares: Vec<SpareId>,
    /// Segments without records, to be recycled (full size) or removed.
    pub unused: Vec<(SegmentId, bool)>,
    /// The highest number that any segment or spare ever had.
    pub highest: u64,
}

/// What comes next.
pub enum Progress {
    /// Run this and come back with its completion.
    Run(OpKind),
    /// Done.
    Done(Box<Recovered>),
    /// The shard cannot be opened.
    Failed(OpenError),
}

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

enum State {
    /// Nothing is under way.
    Start,
    /// The candidate is being synced.
    Sync,
    /// The candidate is being read.
    Read,
    /// A file that the manifest does not list is being read.
    Probe,
    /// The segment where the journal ends is being synced again.
    SyncAgain,
}

/// A segment that is being read.
struct Candidate {
    segment: SegmentId,
    len: u64,
    read: u64,
    header: Option<SegmentHeader>,
    scan: Option<Scan>,
    manifest: Vec<Control>,
    catalog: Option<Catalog>,
    index: SegmentIndex,
    last: Last,
    sealed_to: SegmentId,
    time_us: u64,
}

/// See the module's head.
pub struct Recovery {
    identity: Identity,
    files: BTreeMap<SegmentId, u64>,
    spares: Vec<(SpareId, u64)>,
    state: State,
    candidate: Option<Candidate>,
    /// Files above the candidate: their header or manifest is not whole.
    unfinished: Vec<SegmentId>,
    /// Files to look into for records, and those done.
    to_probe: Vec<SegmentId>,
    probe: BytesMut,
    newer: Newer,
    done: Option<Box<Recovered>>,
}

type Fails<T> = Result<T, OpenError>;

impl Recovery {
    /// The recovery of a shard in whose directory these files stand.
    #[must_use]
    pub fn new(identity: Identity, found: &[Found]) -> Self {
        let mut files = BTreeMap::new();
        let mut spares = Vec::new();
        for file in found {
            match *file {
                Found::Segment(segment, len) => drop(files.insert(segment, len)),
                Found::Spare(spare, len) => spares.push((spare, len)),
            }
        }
        spares.sort_unstable();
        Self {
            identity,
            files,
            spares,
            state: State::Start,
            candidate: None,
            unfinished: Vec::new(),
            to_probe: Vec::new(),
            probe: BytesMut::new(),
            newer: Newer::None,
            done: None,
        }
    }

    /// Goes on: first with `None`, then with the completion of what was asked for.
    pub fn step(&mut self, done: Option<Completion>) -> Progress {
        match self.advance(done) {
            Ok(Some(op)) => Progress::Run(op),
            Ok(None) => Progress::Done(self.done.take().expect("finish() set it")),
            Err(error) => Progress::Failed(error),
        }
    }

    fn advance(&mut self, done: Option<Completion>) -> Fails<Option<OpKind>> {
        match self.state {
            State::Start => self.next_candidate(),
            State::Sync => {
                self.check(done, "syncing")?;
                self.state = State::Read;
                Ok(Some(self.read_more()))
            }
            State::Read => {
                let bytes = self.check(done, "reading")?;
                self.scan(&bytes)
            }
            State::Probe => {
                let bytes = self.check(done, "reading")?;
                self.probe(&bytes)
            }
            State::SyncAgain => {
                self.check(done, "syncing")?;
                Ok(None)
            }
        }
    }

    /// A read error is never a hole: it refuses.
    fn check(&self, done: Option<Completion>, what: &'static str) -> Fails<Bytes> {
        let done = done.expect("something was under way");
        let segment = match self.state {
            State::Probe => *self.to_probe.last().expect("a file is probed"),
            _ => self.candidate.as_ref().expect("a candidate is examined").segment,
        };
        match done.result {
            Ok(count) => {
                let mut bytes = done.buf.map(Buf::freeze).unwrap_or_default();
                bytes.truncate(count as usize);
                Ok(bytes)
            }
            Err(source) => Err(self.io_error(what, segment, source)),
        }
    }

    fn io_error(&self, what: &'static str, segment: SegmentId, source: IoError) -> OpenError {
        OpenError::Io { what, path: self.path(segment), source }
    }

    fn path(&self, segment: SegmentId) -> PathBuf {
        PathBuf::from(format!("shard-{:03}/segment-{:016x}.log", self.identity.shard.0, segment.0))
    }

    /// The newest file not examined yet.
    fn next_candidate(&mut self) -> Fails<Option<OpKind>> {
        let mut files = self.files.iter().rev();
        let next = files.find(|(segment, _)| !self.unfinished.contains(segment));
        let Some((&segment, &len)) = next else { return self.never_began() };
        self.candidate = Some(Candidate {
            segment,
            len,
            read: 0,
            header: None,
            scan: None,
            manifest: Vec::new(),
            catalog: None,
            index: SegmentIndex::default(),
            last: Last::Ordinary,
            sealed_to: SegmentId(0),
            time_us: 0,
        });
        self.state = State::Sync;
        Ok(Some(OpKind::Sync { segment }))
    }

    /// No file holds a whole manifest.
    fn never_began(&mut self) -> Fails<Option<OpKind>> {
        if self.identity.begun {
            let segment = self.files.keys().next_back().copied().unwrap_or(SegmentId(1));
            let why = "the superblock says that this shard has data, but no segment of it is whole";
            return Err(OpenError::MissingSegment { shard: self.identity.shard, segment, why });
        }
        // The first segment was being made.
        self.candidate = None;
        self.to_probe = std::mem::take(&mut self.unfinished);
        self.next_probe()
    }

    fn read_more(&mut self) -> OpKind {
        let candidate = self.candidate.as_mut().expect("a candidate is read");
        let (segment, offset) = (candidate.segment, candidate.read);
        let len = CHUNK_SIZE.min(candidate.len - offset).next_multiple_of(BLOCK_SIZE.into());
        let len = len.max(BLOCK_SIZE.into());
        OpKind::Read { segment, offset, buf: Buf::zeroed(to_usize(len)) }
    }

    fn scan(&mut self, bytes: &[u8]) -> Fails<Option<OpKind>> {
        let identity = self.identity.clone();
        let candidate = self.candidate.as_mut().expect("a candidate is read");
        candidate.read += bytes.len() as u64;
        // A file that is shorter than it was when listed ends here.
        let last = bytes.is_empty() || candidate.read >= candidate.len;
        let mut bytes = bytes;
        if candidate.scan.is_none() {
            let Some((header, digest)) = self.header(bytes)? else { return self.not_whole() };
            let candidate = self.candidate.as_mut().expect("a candidate is read");
            let (engine, shard, segment) = (header.engine, header.shard, header.segment);
            let place = Place { engine, shard, segment, entry: 0, offset: BLOCK_SIZE };
            candidate.header = Some(header);
            candidate.scan = Some(Scan::new(place, digest));
            bytes = &bytes[BLOCK_SIZE as usize..];
        }
        let candidate = self.candidate.as_mut().expect("a candidate is read");
        let mut scan = candidate.scan.take().expect("it was just set");
        scan.feed(bytes);
        let hole = loop {
            match scan.next(last) {
                Step::Entry(entry, bytes) => candidate
                    .entry(&entry, &bytes)
                    .map_err(|what| candidate.damaged(&identity, &entry, what))?,
                Step::More => break false,
                Step::Hole => break true,
            }
        };
        let header = candidate.header.as_ref().expect("it was read first");
        let window = u64::from(header.entries_in_flight_max) * u64::from(header.entry_size_max);
        let enough = u64::from(scan.place().offset) + window <= scan.fed();
        candidate.scan = Some(scan);
        let known = hole && enough;
        if !last && !known {
            return Ok(Some(self.read_more()));
        }
        if candidate.catalog.is_none() {
            return self.not_whole();
        }
        self.list_to_probe()?;
        self.next_probe()
    }

    /// The segment's header, `None` if it is not whole.
    fn header(&self, bytes: &[u8]) -> Fails<Option<(SegmentHeader, u64)>> {
        let segment = self.candidate.as_ref().expect("a candidate is read").segment;
        let path = self.path(segment);
        if bytes.len() < BLOCK_SIZE as usize {
            return Ok(None);
        }
        match SegmentHeader::decode(bytes) {
            Err(HeaderError::Invalid) => Ok(None),
            Err(HeaderError::Newer(found)) => {
                Err(OpenError::NewerFormat { path, found, known: VERSION })
            }
            Ok((header, _)) if header.engine != self.identity.engine => {
                Err(OpenError::Foreign { path, why: "belongs to another engine".to_owned() })
            }
            Ok((header, _)) if header.segment != segment || header.shard != self.identity.shard => {
                // The file was a segment of this engine under another number: a recycled one whose
                // first block was never written under its new name.
                let why = format!("holds segment {} of shard {}", header.segment, header.shard);
                if header.shard == self.identity.shard && header.segment < segment {
                    Ok(None)
                } else {
                    Err(OpenError::Foreign { path, why })
                }
            }
            Ok((header, _)) if header.segment_size != self.identity.segment_size => {
                let why = format!("has segments of {} bytes", header.segment_size);
                Err(OpenError::Foreign { path, why })
            }
            Ok(found) => Ok(Some(found)),
        }
    }

    /// The candidate's header or manifest is not whole: the file before it is next.
    fn not_whole(&mut self) -> Fails<Option<OpKind>> {
        let candidate = self.candidate.take().expect("a candidate is read");
        self.unfinished.push(candidate.segment);
        self.next_candidate()
    }

    /// Compares the files with the manifest, and lists those to look into.
    fn list_to_probe(&mut self) -> Fails<()> {
        let candidate = self.candidate.as_ref().expect("a candidate was read");
        let catalog = candidate.catalog.as_ref().expect("its manifest was whole");
        let shard = self.identity.shard;
        for sealed in catalog.segments().filter(|sealed| !sealed.freed) {
            let segment = sealed.segment;
            let missing = |why| OpenError::MissingSegment { shard, segment, why };
            let len = self.files.get(&segment).ok_or(missing("the manifest names it"))?;
            if *len < sealed.end {
                return Err(missing("its file is shorter than the entries in it"));
            }
        }
        if candidate.last == Last::Seal && !self.files.contains_key(&candidate.sealed_to) {
            let why = "the segment before it was sealed and names it";
            return Err(OpenError::MissingSegment { shard, segment: candidate.sealed_to, why });
        }
        let listed = |segment: &SegmentId| {
            *segment == candidate.segment || catalog.segment(*segment).is_some()
        };
        self.to_probe = self.files.keys().copied().filter(|segment| !listed(segment)).collect();
        Ok(())
    }

    fn next_probe(&mut self) -> Fails<Option<OpKind>> {
        self.probe.clear();
        match self.to_probe.last() {
            Some(&segment) => {
                self.state = State::Probe;
                if !self.unfinished.contains(&segment) {
                    self.unfinished.push(segment);
                }
                Ok(Some(self.probe_more(segment)))
            }
            None => self.decide(),
        }
    }

    fn probe_more(&self, segment: SegmentId) -> OpKind {
        let buf = Buf::zeroed(to_usize(CHUNK_SIZE));
        OpKind::Read { segment, offset: self.probe.len() as u64, buf }
    }

    /// Looks for records in a file that no whole manifest lists.
    fn probe(&mut self, bytes: &[u8]) -> Fails<Option<OpKind>> {
        let segment = *self.to_probe.last().expect("a file is probed");
        self.probe.extend_from_slice(bytes);
        if bytes.len() as u64 == CHUNK_SIZE {
            return Ok(Some(self.probe_more(segment)));
        }
        let Identity { engine, shard, .. } = self.identity;
        let place = Place { engine, shard, segment, entry: 0, offset: 0 };
        let records = entries_behind(&self.probe, &place).iter().any(|entry| !entry.manifest);
        match &self.candidate {
            Some(candidate) if segment > candidate.segment => {
                let newer = if records { Newer::Records } else { Newer::Unfinished };
                if self.newer != Newer::Records {
                    self.newer = newer;
                }
            }
            Some(_) | None if records => return Err(OpenError::ExtraSegment { shard, segment }),
            Some(_) | None => {}
        }
        self.to_probe.pop();
        self.next_probe()
    }

    /// All facts are there.
    fn decide(&mut self) -> Fails<Option<OpKind>> {
        let Some(candidate) = self.candidate.take() else {
            self.finish(Catalog::default(), SegmentIndex::default(), None, 0);
            return Ok(None);
        };
        let scan = candidate.scan.as_ref().expect("it was read");
        let hole = *scan.place();
        let behind = entries_behind(scan.rest(), &hole);
        let later = if behind.iter().any(|entry| entry.durable > hole.entry) {
            Later::Acked
        } else if behind.is_empty() {
            Later::Nothing
        } else {
            Later::NotAcked
        };
        let verdict = judge(candidate.last, later, self.newer);
        if let Verdict::Refuse(what) = verdict {
            return Err(OpenError::Damaged(Damaged {
                shard: self.identity.shard,
                segment: candidate.segment,
                offset: hole.offset.into(),
                what,
                at_risk: format!("every record from entry {} of the segment on", hole.entry),
            }));
        }
        let kept = behind.last().map(|last| {
            let first = behind[0].at;
            let end = (last.at + last.length as usize).min(scan.rest().len());
            (
                u64::from(hole.offset) + first as u64,
                Bytes::copy_from_slice(&scan.rest()[first..end]),
            )
        });
        let ended = Ended {
            segment: candidate.segment,
            end: hole.offset.into(),
            entries: hole.entry,
            digest: scan.digest(),
            // A file that someone cut off cannot be written without allocating.
            goes_on: verdict == Verdict::GoOn && candidate.len == self.identity.segment_size,
            sealed: candidate.last == Last::Seal,
            behind: kept,
        };
        let segment = candidate.segment;
        let mut catalog = candidate.catalog.expect("its manifest was whole");
        catalog.set_all_durable();
        self.finish(catalog, candidate.index, Some(ended), candidate.time_us);
        self.candidate = Some(Candidate {
            segment,
            catalog: None,
            index: SegmentIndex::default(),
            scan: None,
            header: None,
            manifest: Vec::new(),
            ..candidate
        });
        self.state = State::SyncAgain;
        Ok(Some(OpKind::Sync { segment }))
    }

    fn finish(
        &mut self,
        catalog: Catalog,
        index: SegmentIndex,
        ended: Option<Ended>,
        time_us: u64,
    ) {
        let size = self.identity.segment_size;
        let files = self.files.keys().copied().chain(catalog.segments().map(|s| s.segment));
        let spare_numbers = self.spares.iter().map(|(spare, _)| spare.0);
        let highest = files.map(|segment| segment.0).chain(spare_numbers).max().unwrap_or(0);
        let spares = |good: bool| {
            let chosen = self.spares.iter().filter(move |(_, len)| (*len == size) == good);
            chosen.map(|(spare, _)| *spare).collect::<Vec<_>>()
        };
        let unused = self.unfinished.iter().map(|segment| (*segment, self.files[segment] == size));
        self.done = Some(Box::new(Recovered {
            ended,
            index,
            time_us,
            spares: spares(true),
            bad_spares: spares(false),
            unused: unused.collect(),
            highest,
            catalog,
        }));
    }
}

impl Candidate {
    /// Applies one valid entry.
    fn entry(&mut self, entry: &Entry, bytes: &Bytes) -> Result<(), Misfit> {
        let flags = entry.head.flags;
        if entry.head.durable > entry.head.place.entry {
            return Err("a watermark runs ahead of its entry");
        }
        if self.last == Last::Seal {
            return Err("an entry stands behind the seal of its segment");
        }
        let controls = control_records(entry, bytes).ok_or("a control record is not valid")?;
        let in_manifest = self.catalog.is_none();
        if flags.has(Flags::MANIFEST) != in_manifest {
            return Err("a manifest that begins or ends in the wrong place");
        }
        if in_manifest {
            if entry.records().next().is_some() {
                return Err("records in the manifest");
            }
            self.manifest.extend(controls);
            if flags.has(Flags::MANIFEST_END) {
                let (catalog, time_us) =
                    Catalog::from_manifest(std::mem::take(&mut self.manifest))?;
                self.time_us = time_us;
                self.index = index_of(&catalog);
                self.catalog = Some(catalog);
            }
            return Ok(());
        }
        if entry.head.time_us < self.time_us {
            return Err("commit times decrease");
        }
        self.time_us = entry.head.time_us;
        let catalog = self.catalog.as_mut().expect("the manifest was read");
        for (index, control) in (0..).zip(&controls) {
            let Place { segment, offset, .. } = entry.head.place;
            catalog.apply(control, Link { segment, offset, index })?;
            if let Control::Seal { next } = control {
                self.sealed_to = *next;
            }
        }
        for section in entry.records() {
            catalog.apply_records(section)?;
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

    fn damaged(&self, identity: &Identity, entry: &Entry, what: &'static str) -> OpenError {
        OpenError::Damaged(Damaged {
            shard: identity.shard,
            segment: self.segment,
            offset: entry.head.place.offset.into(),
            what,
            at_risk: format!("every record from entry {} on", entry.head.place.entry),
        })
    }
}

/// The control records of a valid entry; `None` if they do not parse.
pub fn control_records(entry: &Entry, bytes: &Bytes) -> Option<Vec<Control>> {
    let Some(head) = entry.control() else { return Some(Vec::new()) };
    let begin = head.offset as usize;
    Control::take_all(bytes.slice(begin..begin + head.len as usize), head.count)
}

/// An index that knows where each log stands now.
pub fn index_of(catalog: &Catalog) -> SegmentIndex {
    let start = |(_, log): (&str, LogId)| -> (LogId, Sequence) {
        (log, catalog.log(log).expect("a named log is there").next)
    };
    SegmentIndex::begin(catalog.log_names().map(start))
}

fn to_usize(len: u64) -> usize {
    usize::try_from(len).expect("64-bit platforms only")
}
