//! What a flipped byte may lead to: the right records, or an error that names the damage.
//!
//! ```text
//! flip -> open -> lists -> every record that the flip can touch -> every state
//!           '-> refused       '-> read error, the rest is right     '-> state error
//! ```
//!
//! Other bytes, another count, or a record that is missing without an error are never all right.
//!
//! Not here: which bytes are flipped (`map`), and the shard's host (`disk`).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use oncelog::change::Author;
use oncelog::error::{Damaged, OpenError, ProcessorError, ReadError};
use oncelog::request::{At, NewRecord, OpenMode, ReadRequest, Request, Wait};
use oncelog::{LogId, SegmentId, Sequence};

use crate::flip::disk::{Flat, FlatFile, Flip, Image};
use crate::flip::map::Region;
use crate::sim::reading::records_of;

/// A log as it must be.
#[derive(Clone, Debug, Default)]
pub struct TrueLog {
    /// Its name.
    pub name: String,
    /// Its first record that is there.
    pub first: u64,
    /// Transaction id and payload of every record that it ever had.
    pub records: Vec<(u64, Bytes)>,
}

/// A processor as it must be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrueProcessor {
    /// Its name.
    pub name: String,
    /// Where it reads on.
    pub position: u64,
    /// Its snapshot.
    pub snapshot: Option<Bytes>,
    /// And what came after.
    pub deltas: Vec<Bytes>,
    /// How many commits.
    pub commits: u64,
}

/// All that was acknowledged.
#[derive(Clone, Debug, Default)]
pub struct Truth {
    /// Sorted by name.
    pub logs: Vec<TrueLog>,
    /// Sorted by name.
    pub processors: Vec<TrueProcessor>,
}

/// What a flip led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Everything is right.
    Right,
    /// Everything is right, and a side file was written anew.
    Rebuilt,
    /// The engine did not open.
    Refused,
    /// Some records could not be read; all others are right.
    ReadError,
    /// A state could not be restored; all records are right.
    StateError,
}

/// Records of one log in one segment.
type Spans = BTreeMap<(SegmentId, usize), (u64, u64)>;

/// Checks flips of an image.
pub struct Checker<'a> {
    truth: &'a Truth,
    image: &'a Image,
    newest: SegmentId,
    ids: Vec<LogId>,
    spans: Spans,
    /// First sequences of sections, by log.
    sections: Vec<BTreeSet<u64>>,
}

impl<'a> Checker<'a> {
    /// A checker of an image that holds the truth as long as nothing is flipped.
    ///
    /// # Errors
    /// It does not.
    pub fn new(image: &'a Image, truth: &'a Truth) -> Result<Self, String> {
        let newest = crate::flip::map::newest(image);
        let (ids, spans, sections) = (Vec::new(), Spans::new(), Vec::new());
        let mut checker = Self { truth, image, newest, ids, spans, sections };
        let mut flat = Flat::open(image, None).map_err(|error| error.to_string())?;
        checker.ids = checker.lists(&mut flat)?;
        for (log, known) in truth.logs.iter().enumerate() {
            let mut sections = BTreeSet::new();
            let mut next = known.first;
            while next < known.records.len() as u64 {
                let answer = checker.read(&mut flat, log, next)?.map_err(|e| e.to_string())?;
                for section in &answer.sections {
                    sections.insert(section.first.get());
                    let end = section.first.after(section.count.into()).get();
                    let span = checker.spans.entry((section.segment, log)).or_insert((next, end));
                    span.1 = end;
                    next = end;
                }
            }
            checker.sections.push(sections);
        }
        checker.states(&mut flat, None)?;
        Ok(checker)
    }

    /// Whether records of a log that end there can still be read.
    #[must_use]
    pub fn lives(&self, log: LogId, end: Sequence) -> bool {
        let index = self.ids.iter().position(|id| *id == log);
        index.is_some_and(|index| end.get() > self.truth.logs[index].first)
    }

    /// What the flip led to. `whole` reads everything and appends; without it only that is read
    /// that the flip can touch, the rest does not differ from a directory without a flip.
    ///
    /// # Errors
    /// What must never be.
    pub fn check(&self, flip: Flip, region: Region, whole: bool) -> Result<Outcome, String> {
        let mut flat = match Flat::open(self.image, Some(flip)) {
            Ok(flat) => flat,
            Err(error) => return self.refused(flip, &error),
        };
        if self.lists(&mut flat)? != self.ids {
            return Err("logs have other numbers".to_owned());
        }
        let segment = match flip.file {
            FlatFile::Segment(segment) | FlatFile::Index(segment) => Some(segment),
            FlatFile::Spare(_) => None,
        };
        let (mut unreadable, mut logs) = (0, vec![None; self.truth.logs.len()]);
        for ((at, log), span) in &self.spans {
            if whole {
                logs[*log] = Some((self.truth.logs[*log].first, self.end(*log)));
            } else if Some(*at) == segment {
                logs[*log] = Some(*span);
            }
        }
        for (log, (first, end)) in (0..).zip(logs).filter_map(|(log, span)| Some((log, span?))) {
            unreadable += self.records(&mut flat, flip, log, first, end)?;
        }
        // States stand in control records.
        let states = whole || !matches!(region, Region::Records | Region::DeadRecords);
        let lost_state = states && self.states(&mut flat, Some(flip))?;
        if whole {
            self.goes_on(&mut flat)?;
        }
        // The newest one's is new where a fresh segment follows it.
        let rebuilt = flat.rebuilt.iter().any(|segment| *segment < self.newest);
        Ok(match (unreadable, lost_state) {
            (0, false) if rebuilt => Outcome::Rebuilt,
            (0, false) => Outcome::Right,
            (0, true) => Outcome::StateError,
            (1, false) => Outcome::ReadError,
            // One byte is in one section, unless an index had to do without a whole entry.
            _ if !self.image.files.keys().any(|file| matches!(file, FlatFile::Index(_))) => {
                Outcome::ReadError
            }
            both => return Err(format!("one byte, but this is lost: {both:?}")),
        })
    }

    fn refused(&self, flip: Flip, error: &OpenError) -> Result<Outcome, String> {
        let FlatFile::Segment(segment) = flip.file else {
            return Err(format!(
                "it does not open for want of a file that may be missing: {error}"
            ));
        };
        if segment < self.newest {
            return Err(format!("a sealed segment need not be read to open: {error}"));
        }
        // A newest segment whose beginning is damaged is told of by the one before it.
        let before = matches!(error, OpenError::Damaged(damage) if damage.segment < segment
            && damage.what.contains("in a later segment"));
        let here = matches!(error, OpenError::Damaged(damage) if damage.segment == segment);
        if here || before {
            return Ok(Outcome::Refused);
        }
        Err(format!("an error that does not name the damage: {error}"))
    }

    fn end(&self, log: usize) -> u64 {
        self.truth.logs[log].records.len() as u64
    }

    /// The lists of logs and processors; numbers of the logs.
    fn lists(&self, flat: &mut Flat<'_>) -> Result<Vec<LogId>, String> {
        let prefix = String::new();
        let logs = flat.ask(|reply| Request::ListLogs {
            prefix,
            after: String::new(),
            limit: usize::MAX,
            reply,
        });
        let logs = logs.map_err(|error| error.to_string())?;
        let seen = logs.iter().map(|l| (&*l.name, l.first.get(), l.next.get(), l.last_txid.get()));
        let known = self.truth.logs.iter().map(|log| {
            let last = log.records.last().map_or(0, |(txid, _)| *txid);
            (&*log.name, log.first, log.records.len() as u64, last)
        });
        if !seen.eq(known) {
            return Err(format!("other logs: {logs:?}"));
        }
        let names = flat.ask(|reply| Request::ListReaders { reply });
        let names = names.map_err(|error| error.to_string())?;
        let names = names.into_iter().map(|info| info.name).collect::<Vec<_>>();
        if !names.iter().eq(self.truth.processors.iter().map(|processor| &processor.name)) {
            return Err(format!("other processors: {names:?}"));
        }
        Ok(logs.into_iter().map(|log| log.id).collect())
    }

    /// One read; every record that it gives is right.
    fn read(
        &self,
        flat: &mut Flat<'_>,
        log: usize,
        next: u64,
    ) -> Result<Result<oncelog::request::ReadAnswer, ReadError>, String> {
        let at = At::Sequence(Sequence::new(next));
        let (id, bytes_max, wait) = (self.ids[log], 1 << 20, Wait::No);
        let answer = flat.ask(|reply| {
            Request::Read(ReadRequest {
                log: id,
                at,
                bytes_max,
                wait,
                ahead: false,
                planned: None,
                reply,
            })
        });
        let Ok(answer) = answer else { return Ok(answer) };
        let known = &self.truth.logs[log];
        for read in records_of(&answer)? {
            let sequence = usize::try_from(read.sequence).map_err(|error| error.to_string())?;
            match known.records.get(sequence) {
                Some((txid, payload)) if (*txid, payload) == (read.txid, &read.payload) => {}
                _ => return Err(format!("other bytes: log {}, record {sequence}", known.name)),
            }
        }
        if answer.first.get() != next || answer.next.get() <= next {
            return Err(format!("log {}: record {next} is missing without an error", known.name));
        }
        Ok(Ok(answer))
    }

    /// Reads records of a log; how many sections could not be read.
    fn records(
        &self,
        flat: &mut Flat<'_>,
        flip: Flip,
        log: usize,
        mut next: u64,
        end: u64,
    ) -> Result<u64, String> {
        let mut unreadable = 0;
        while next < end {
            match self.read(flat, log, next)? {
                Ok(answer) => next = answer.next.get(),
                Err(ReadError::Damaged { log: id, damage }) => {
                    if id != self.ids[log] || !names(&damage, flip, Some(next)) {
                        return Err(format!("an error that names something else: {damage}"));
                    }
                    unreadable += 1;
                    let behind = self.sections[log].range(next + 1..).next();
                    next = behind.map_or(end, |behind| (*behind).min(end));
                }
                Err(error) => return Err(format!("reading record {next}: {error}")),
            }
        }
        Ok(unreadable)
    }

    /// Restores each processor; whether a state could not be.
    fn states(&self, flat: &mut Flat<'_>, flip: Option<Flip>) -> Result<bool, String> {
        let mut lost = false;
        for known in &self.truth.processors {
            let (name, sources, change) = (known.name.clone(), Vec::new(), false);
            let restored = flat.ask(|reply| Request::OpenReader {
                name,
                sources,
                change,
                owns: Vec::new(),
                reply,
            });
            match restored {
                Ok(restored) => {
                    let seen = TrueProcessor {
                        name: known.name.clone(),
                        position: restored.positions[0].next.get(),
                        snapshot: restored.snapshot,
                        deltas: restored.deltas,
                        commits: restored.commits,
                    };
                    if seen != *known {
                        return Err(format!("another state of {}", known.name));
                    }
                }
                Err(ProcessorError::Damaged(damage)) => {
                    if !flip.is_some_and(|flip| names(&damage, flip, None)) {
                        return Err(format!("an error that names something else: {damage}"));
                    }
                    lost = true;
                }
                Err(error) => return Err(format!("processor {}: {error}", known.name)),
            }
        }
        Ok(lost)
    }

    /// The engine takes records, and gives them back.
    fn goes_on(&self, flat: &mut Flat<'_>) -> Result<(), String> {
        let (name, mode) = ("g/after".to_owned(), OpenMode::Create);
        let log = flat.ask(|reply| Request::OpenLog { name, mode, options: None, reply });
        let log = log.map_err(|error| error.to_string())?.id;
        let record = NewRecord::new("after the flip");
        let appended =
            flat.ask(|reply| Request::Append { log, author: Author::Anyone, record, reply });
        appended.map_err(|error| error.to_string())?;
        let (at, bytes_max, wait) = (At::Earliest, 1 << 20, Wait::No);
        let read = flat.ask(|reply| {
            Request::Read(ReadRequest {
                log,
                at,
                bytes_max,
                wait,
                ahead: false,
                planned: None,
                reply,
            })
        });
        let records = records_of(&read.map_err(|error| error.to_string())?)?;
        let right = records.len() == 1 && records[0].payload == "after the flip";
        right.then_some(()).ok_or_else(|| "a new record is not what was appended".to_owned())
    }
}

/// Whether the error says where the flip is: the segment, or the first record that is missing.
fn names(damage: &Damaged, flip: Flip, missing: Option<u64>) -> bool {
    let here = FlatFile::Segment(damage.segment) == flip.file;
    let record = missing
        .is_some_and(|sequence| damage.at_risk.ends_with(&format!("from sequence {sequence}")));
    here || record
}
