//! Opening a shard: from files to a catalog and a place to go on, reading the newest segment alone.
//!
//! ```text
//! newest file -> sync -> header, manifest, entries -> hole -> look into files that the manifest
//!     |  header or manifest not whole                      does not list -> judge -> sync -> done
//!     '--> the file before it
//! ```
//!
//! The steps are those of (F-16). This module only looks: it changes nothing but what a sync does.
//! What must be changed (a fresh segment, files to remove) stands in [`Recovered`], and the shard
//! does it before it serves.
//!
//! Not here: what is in a segment (`replay`), the verdict (`judge`), and everything that writes.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};

use crate::buf::Buf;
use crate::catalog::Catalog;
use crate::error::{Damaged, OpenError};
use crate::format::VERSION;
use crate::index::SegmentIndex;
use crate::io::{Completion, Found, OpKind, SpareId};
use crate::judge::{Last, Later, Newer, Verdict, judge};
use crate::limits::{BLOCK_SIZE, MIB};
use crate::position::SegmentId;
pub use crate::replay::control_records;
use crate::replay::{Identity, Known, Next, Replay};
use crate::scan::{Scan, TABLE_SIZE_MAX, entries_behind};

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

/// A segment that is being read, and how far.
struct Candidate {
    segment: SegmentId,
    len: u64,
    read: u64,
    replay: Replay,
}

/// The last segment with a whole manifest, up to the hole behind its last entry.
struct End {
    segment: SegmentId,
    len: u64,
    /// Its format version.
    version: u32,
    known: Known,
    scan: Scan,
}

/// Files that no whole manifest lists are being looked into, the last one first.
struct Probe {
    end: Option<End>,
    left: Vec<SegmentId>,
    newer: Newer,
    read: u64,
    /// What was read and not yet looked at, and its offset.
    window: BytesMut,
    window_at: u64,
}

enum State {
    Start,
    /// The candidate is being synced.
    Sync(Candidate),
    /// The candidate is being read.
    Read(Candidate),
    Probe(Probe),
    /// The segment where the journal ends is being synced again.
    SyncAgain(SegmentId, Box<Recovered>),
    Over,
}

/// See the module's head.
pub struct Recovery {
    identity: Identity,
    files: BTreeMap<SegmentId, u64>,
    spares: Vec<(SpareId, u64)>,
    state: State,
    /// Files without a whole header and manifest, or that no manifest lists.
    unused: Vec<SegmentId>,
    facts: Option<(Last, Later, Newer)>,
    /// The newest segment with a whole manifest.
    newest: Option<SegmentId>,
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
        let (state, unused) = (State::Start, Vec::new());
        Self { identity, files, spares, state, unused, facts: None, newest: None }
    }

    /// What was judged, once it was: how the journal ended.
    #[must_use]
    pub fn facts(&self) -> Option<(Last, Later, Newer)> {
        self.facts
    }

    /// The newest segment with a whole manifest, once it was read.
    #[must_use]
    pub fn newest(&self) -> Option<SegmentId> {
        self.newest
    }

    /// Goes on: first with `None`, then with the completion of what was asked for.
    pub fn step(&mut self, done: Option<Completion>) -> Progress {
        self.advance(done).unwrap_or_else(Progress::Failed)
    }

    fn advance(&mut self, done: Option<Completion>) -> Fails<Progress> {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Start => self.next_candidate(),
            State::Sync(candidate) => {
                self.check(done, "syncing", candidate.segment)?;
                Ok(self.read(candidate))
            }
            State::Read(candidate) => {
                let bytes = self.check(done, "reading", candidate.segment)?;
                self.scan(candidate, &bytes)
            }
            State::Probe(probe) => {
                let segment = *probe.left.last().expect("a file is looked into");
                let bytes = self.check(done, "reading", segment)?;
                self.probe(probe, segment, &bytes)
            }
            State::SyncAgain(segment, recovered) => {
                self.check(done, "syncing", segment)?;
                Ok(Progress::Done(recovered))
            }
            State::Over => panic!("a recovery that is over goes on"),
        }
    }

    /// A read error is never a hole: it refuses.
    fn check(&self, done: Option<Completion>, what: &'static str, of: SegmentId) -> Fails<Bytes> {
        let done = done.expect("something was under way");
        match done.result {
            Ok(count) => {
                let mut bytes = done.buf.map(Buf::freeze).unwrap_or_default();
                bytes.truncate(count as usize);
                Ok(bytes)
            }
            Err(source) => Err(OpenError::Io { what, path: self.identity.path(of), source }),
        }
    }

    /// The newest file not looked at yet.
    fn next_candidate(&mut self) -> Fails<Progress> {
        let next = self.files.iter().rev().find(|(segment, _)| !self.unused.contains(segment));
        let Some((&segment, &len)) = next else { return self.never_began() };
        let replay = Replay::new(&self.identity, segment);
        self.state = State::Sync(Candidate { segment, len, read: 0, replay });
        Ok(Progress::Run(OpKind::Sync { segment }))
    }

    /// No file holds a whole manifest.
    fn never_began(&mut self) -> Fails<Progress> {
        if self.identity.begun {
            let segment = self.files.keys().next_back().copied().unwrap_or(SegmentId(1));
            let why = "the superblock says that this shard has data, but no segment of it is whole";
            return Err(OpenError::MissingSegment { shard: self.identity.shard, segment, why });
        }
        // The first segment was being made.
        self.look_into(None, self.unused.clone())
    }

    fn read(&mut self, candidate: Candidate) -> Progress {
        let (segment, offset) = (candidate.segment, candidate.read);
        let len = candidate.len.saturating_sub(offset).clamp(BLOCK_SIZE.into(), CHUNK_SIZE);
        let len = len.next_multiple_of(BLOCK_SIZE.into());
        self.state = State::Read(candidate);
        Progress::Run(OpKind::Read { segment, offset, buf: Buf::zeroed(to_usize(len)) })
    }

    fn scan(&mut self, mut candidate: Candidate, bytes: &[u8]) -> Fails<Progress> {
        let replay = &mut candidate.replay;
        candidate.read += bytes.len() as u64;
        // A file that is shorter than it was when listed ends here.
        let last = bytes.is_empty() || candidate.read >= candidate.len;
        replay.feed(bytes);
        let hole = loop {
            match replay.next(last)? {
                Next::Entry(..) => {}
                Next::More => break false,
                Next::Hole => break true,
            }
        };
        // Behind a hole entries in flight may stand: it is known only with all that they can reach.
        let enough = replay.header().zip(replay.scan()).is_none_or(|(header, scan)| {
            let reach = u64::from(header.entries_in_flight_max) * u64::from(header.entry_size_max);
            u64::from(scan.place().offset) + reach <= scan.fed()
        });
        let over = last || hole && enough;
        if !over {
            return Ok(self.read(candidate));
        }
        let Candidate { segment, len, replay, .. } = candidate;
        let version = replay.header().map_or(0, |header| header.version);
        let Some((known, scan)) = replay.into_end() else {
            self.unused.push(segment);
            return self.next_candidate();
        };
        self.newest = Some(segment);
        let end = End { segment, len, version, known, scan };
        let strangers = self.strangers(&end)?;
        self.look_into(Some(end), strangers)
    }

    /// Compares the files with the manifest: those that it does not list.
    fn strangers(&self, end: &End) -> Fails<Vec<SegmentId>> {
        let (shard, known) = (self.identity.shard, &end.known);
        for sealed in known.catalog.segments().filter(|sealed| !sealed.freed) {
            let segment = sealed.segment;
            let missing = |why| OpenError::MissingSegment { shard, segment, why };
            let len = self.files.get(&segment).ok_or(missing("the manifest names it"))?;
            if *len < sealed.end {
                return Err(missing("its file is shorter than the entries in it"));
            }
        }
        if known.last == Last::Seal && !self.files.contains_key(&known.sealed_to) {
            let why = "the segment before it was sealed and names it";
            return Err(OpenError::MissingSegment { shard, segment: known.sealed_to, why });
        }
        let listed = |segment: &SegmentId| {
            *segment == end.segment || known.catalog.segment(*segment).is_some()
        };
        Ok(self.files.keys().copied().filter(|segment| !listed(segment)).collect())
    }

    fn look_into(&mut self, end: Option<End>, strangers: Vec<SegmentId>) -> Fails<Progress> {
        self.unused.clone_from(&strangers);
        let (newer, window) = (Newer::None, BytesMut::new());
        self.next_probe(Probe { end, left: strangers, newer, read: 0, window, window_at: 0 })
    }

    fn next_probe(&mut self, probe: Probe) -> Fails<Progress> {
        let Some(&segment) = probe.left.last() else { return self.decide(probe) };
        let (offset, buf) = (probe.read, Buf::zeroed(to_usize(CHUNK_SIZE)));
        self.state = State::Probe(probe);
        Ok(Progress::Run(OpKind::Read { segment, offset, buf }))
    }

    /// Looks for records in the next bytes of a file.
    fn probe(&mut self, mut probe: Probe, segment: SegmentId, bytes: &[u8]) -> Fails<Progress> {
        probe.read += bytes.len() as u64;
        probe.window.extend_from_slice(bytes);
        let offset = u32::try_from(probe.window_at).unwrap_or(u32::MAX);
        let place = crate::format::Place { offset, ..self.identity.place(segment) };
        let records = entries_behind(&probe.window, &place).iter().any(|entry| !entry.manifest);
        let newer = probe.end.as_ref().is_some_and(|end| segment > end.segment);
        if records && !newer {
            return Err(OpenError::ExtraSegment { shard: self.identity.shard, segment });
        }
        if records {
            probe.newer = Newer::Records;
        } else if newer && probe.newer == Newer::None {
            probe.newer = Newer::Unfinished;
        }
        if records || (bytes.len() as u64) < CHUNK_SIZE {
            probe.left.pop();
            (probe.read, probe.window_at) = (0, 0);
            probe.window.clear();
        } else {
            // A header whose table goes on in the next bytes is looked at again.
            let done = probe.window.len().saturating_sub(TABLE_SIZE_MAX) as u64;
            let done = done - done % u64::from(BLOCK_SIZE);
            drop(probe.window.split_to(to_usize(done)));
            probe.window_at += done;
        }
        self.next_probe(probe)
    }

    /// All facts are there.
    fn decide(&mut self, probe: Probe) -> Fails<Progress> {
        let Some(End { segment, len, version, known, scan }) = probe.end else {
            let (catalog, index) = (Catalog::default(), SegmentIndex::default());
            return Ok(Progress::Done(self.recovered(catalog, index, None, 0)));
        };
        let hole = *scan.place();
        let behind = entries_behind(scan.rest(), &hole);
        let later = if behind.iter().any(|entry| entry.durable > hole.entry) {
            Later::Acked
        } else if behind.is_empty() {
            Later::Nothing
        } else {
            Later::NotAcked
        };
        let Known { mut catalog, index, time_us, last, .. } = known;
        self.facts = Some((last, later, probe.newer));
        let verdict = judge(last, later, probe.newer);
        if let Verdict::Refuse(what) = verdict {
            return Err(OpenError::Damaged(Damaged {
                shard: self.identity.shard,
                segment,
                offset: hole.offset.into(),
                what,
                at_risk: format!("every record from entry {} of the segment on", hole.entry),
            }));
        }
        let kept = behind.first().zip(behind.last()).map(|(first, last)| {
            let end = (last.at + last.length as usize).min(scan.rest().len());
            let bytes = Bytes::copy_from_slice(&scan.rest()[first.at..end]);
            (u64::from(hole.offset) + first.at as u64, bytes)
        });
        let ended = Ended {
            segment,
            end: hole.offset.into(),
            entries: hole.entry,
            digest: scan.digest(),
            // A file that someone cut off cannot be written without allocating, and one of an older
            // format version cannot hold all that may come.
            goes_on: verdict == Verdict::GoOn
                && len == self.identity.segment_size
                && version == VERSION,
            sealed: last == Last::Seal,
            behind: kept,
        };
        catalog.set_all_durable();
        let recovered = self.recovered(catalog, index, Some(ended), time_us);
        self.state = State::SyncAgain(segment, recovered);
        Ok(Progress::Run(OpKind::Sync { segment }))
    }

    fn recovered(
        &self,
        catalog: Catalog,
        index: SegmentIndex,
        ended: Option<Ended>,
        time_us: u64,
    ) -> Box<Recovered> {
        let size = self.identity.segment_size;
        let files = self.files.keys().copied().chain(catalog.segments().map(|s| s.segment));
        let spare_numbers = self.spares.iter().map(|(spare, _)| spare.0);
        let highest = files.map(|segment| segment.0).chain(spare_numbers).max().unwrap_or(0);
        let spares = |good: bool| {
            let chosen = self.spares.iter().filter(move |(_, len)| (*len == size) == good);
            chosen.map(|(spare, _)| *spare).collect::<Vec<_>>()
        };
        // The newest first: it is the one without anything in it.
        let unused = self.unused.iter().rev();
        let unused = unused.map(|segment| (*segment, self.files[segment] == size));
        Box::new(Recovered {
            ended,
            index,
            time_us,
            spares: spares(true),
            bad_spares: spares(false),
            unused: unused.collect(),
            highest,
            catalog,
        })
    }
}

fn to_usize(len: u64) -> usize {
    usize::try_from(len).expect("64-bit platforms only")
}
