//! Opens what a cut left with the real engine, reads everything in it, goes on, and opens again.
//!
//! ```text
//! open -> every log, the processor -> Findings -> more records -> end -> open -> the same
//! ```
//!
//! What stands there must be what the script writes, in order, whole: that is checked here,
//! whatever was promised.
//!
//! Not here: what was promised (`promises`).

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use oncelog::{Engine, From, IoMode, Log, LogInfo, Options, Record, Restored};

use crate::power_cut::script::{
    OUT, PAIR, SEGMENT_SIZE, SHARDS, SHORT_LIVED, SOURCE, SOURCE_RECORDS, SUM, add, batches, parse,
    payload,
};
use crate::power_cut::{Built, Found, Remains};

/// What was found in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Findings {
    /// Every log.
    pub logs: BTreeMap<String, FoundLog>,
    /// How many batches are there, truncated ones among them.
    pub batches: u64,
    /// Where the processor stands, if there is one.
    pub position: Option<u64>,
}

/// A log that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundLog {
    /// Its first record.
    pub first: u64,
    /// Behind its last.
    pub next: u64,
    /// Which incarnation of the name wrote its records, if it has any.
    pub generation: Option<u64>,
}

/// Knows what a seed writes.
pub struct Checker {
    seed: u64,
    /// The sum over as many records.
    sums: Vec<u64>,
}

fn failed<E: Display>(what: &str) -> impl Fn(E) -> String + '_ {
    move |error| format!("{what}: {error}")
}

/// Writes what a cut left into an empty directory.
///
/// # Panics
/// There is no room for it.
pub fn materialise(remains: &Remains<'_>, built: &mut Built, dir: &Path) {
    if dir.exists() {
        fs::remove_dir_all(dir).expect("the directory of the cut before");
    }
    place(dir, &remains.root(built));
}

fn place(path: &Path, found: &Found) {
    match found {
        Found::Dir(names) => {
            fs::create_dir(path).expect("room for a directory");
            names.iter().for_each(|(name, found)| place(&path.join(name), found));
        }
        Found::File(content) => {
            let file = fs::File::create(path).expect("room for a file");
            file.set_len(content.len() as u64).expect("room for a file");
            for (block, bytes) in (0..).zip(content.chunks(1 << 16)) {
                if bytes.iter().any(|byte| *byte != 0) {
                    file.write_all_at(bytes, block << 16).expect("room for a file");
                }
            }
        }
    }
}

impl Checker {
    /// Of the script with this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut sums = vec![seed];
        for sequence in 0..2 * SOURCE_RECORDS {
            let sum = sums[sums.len() - 1];
            sums.push(add(sum, &payload(seed, SOURCE, 0, sequence)));
        }
        Self { seed, sums }
    }

    /// Opens the engine in `dir`, looks at everything, appends so many records, ends the engine
    /// and opens it again. Finds the state at the first time.
    ///
    /// # Errors
    /// What is not as the script writes it.
    pub fn examine(&self, dir: &Path, more: u64, closes: bool) -> Result<Findings, String> {
        let engine = open(dir)?;
        let found = self.look(&engine)?;
        let source = engine.open_or_create_log(SOURCE).wait().map_err(failed("making a log"))?;
        let mut expected = found.clone();
        let empty = FoundLog { first: 0, next: 0, generation: None };
        let log = expected.logs.entry(SOURCE.to_owned()).or_insert(empty);
        let end = log.next + more;
        let records = (log.next..end).map(|next| payload(self.seed, SOURCE, 0, next));
        let pending: Vec<_> = records.map(|payload| source.append(payload)).collect();
        for append in pending {
            let appended = append.wait().map_err(failed("appending"))?;
            if appended.first.get() != log.next {
                return Err(format!("{} was appended behind {}", appended.first, log.next));
            }
            (log.next, log.generation) = (log.next + 1, Some(0));
        }
        drop(source);
        if closes {
            engine.close().wait().map_err(failed("closing"))?;
        }
        drop(engine);
        let engine = open(dir).map_err(failed("again"))?;
        let again = self.look(&engine).map_err(failed("again"))?;
        if again != expected {
            return Err(format!("again: found {again:?}, before it was {expected:?}"));
        }
        Ok(found)
    }

    fn look(&self, engine: &Engine) -> Result<Findings, String> {
        let mut logs = BTreeMap::new();
        let mut outputs = Vec::new();
        for info in engine.list_logs("").wait().map_err(failed("listing logs"))? {
            let log = engine.open_log(&*info.name).wait().map_err(failed(&info.name))?;
            let records = read(&log, &info)?;
            let generation = match info.name.as_str() {
                OUT => self.check_outputs(&records, &mut outputs)?,
                _ => self.check_records(&info.name, &records)?,
            };
            let (first, next) = (info.first.get(), info.next.get());
            logs.insert(info.name, FoundLog { first, next, generation });
        }
        let next = |name: &str| logs.get(name).map_or(0, |log: &FoundLog| log.next);
        let ends = PAIR.map(next);
        let whole = (0..=ends[0]).find(|count| batches(self.seed, *count) == ends);
        let batches = whole.ok_or(format!("left and right end at {ends:?}: half a batch"))?;
        let names = engine.list_processors().wait().map_err(failed("listing processors"))?;
        let position = match &names[..] {
            [] => None,
            [name] if name == SUM => Some(self.check_processor(engine, &outputs, next(SOURCE))?),
            other => return Err(format!("there are processors {other:?}")),
        };
        if position.is_none() && !outputs.is_empty() {
            return Err("there are outputs, but no processor".to_owned());
        }
        Ok(Findings { logs, batches, position })
    }

    /// Returns which incarnation wrote them.
    fn check_records(&self, name: &str, records: &[Record]) -> Result<Option<u64>, String> {
        let Some(first) = records.first() else { return Ok(None) };
        let text = String::from_utf8_lossy(&first.payload);
        let word = text.split(' ').nth(1).and_then(|word| word.parse().ok());
        let generation = if name == SHORT_LIVED { word.unwrap_or(0) } else { 0 };
        for record in records {
            let sequence = record.sequence.get();
            if record.payload != payload(self.seed, name, generation, sequence) {
                let text: String = String::from_utf8_lossy(&record.payload[..]).chars().collect();
                let text: String = text.chars().take(40).collect();
                return Err(format!("{name}: record {sequence} is {text:?}"));
            }
        }
        Ok(Some(generation))
    }

    fn check_outputs(
        &self,
        records: &[Record],
        outputs: &mut Vec<[u64; 2]>,
    ) -> Result<Option<u64>, String> {
        for record in records {
            let numbers = parse(self.seed, "output", &record.payload);
            let Some([from, to, sum]) = numbers else {
                return Err(format!("output {} is not what a commit writes", record.sequence));
            };
            let begin = if record.sequence.get() == 0 { Some(0) } else { None };
            let begin = outputs.last().map(|[_, to]| *to).or(begin);
            let follows = begin.is_none_or(|begin| begin == from) && from < to;
            if !follows || self.sum(to) != Some(sum) {
                return Err(format!("output {} from {from} to {to}: {sum}", record.sequence));
            }
            outputs.push([from, to]);
        }
        Ok(outputs.last().map(|_| 0))
    }

    /// The sum over the first records: what every state and output must say.
    fn sum(&self, end: u64) -> Option<u64> {
        self.sums.get(usize::try_from(end).ok()?).copied()
    }

    /// Returns where it stands.
    fn check_processor(
        &self,
        engine: &Engine,
        outputs: &[[u64; 2]],
        source: u64,
    ) -> Result<u64, String> {
        let (processor, restored) =
            engine.processor(SUM).open().wait().map_err(failed("opening the processor"))?;
        drop(processor);
        let position = restored.positions[0].next.get();
        let state = self.fold(&restored)?;
        let output = outputs.last().map_or(0, |[_, to]| *to);
        if (state, output) != (position, position) || position > source {
            return Err(format!(
                "position {position}, state {state}, outputs {output}, source {source} disagree"
            ));
        }
        Ok(position)
    }

    /// Follows snapshot and deltas; returns where they lead.
    fn fold(&self, restored: &Restored) -> Result<u64, String> {
        let mut at = 0;
        let snapshot = restored.snapshot.iter().map(|state| ("snapshot", state));
        for (kind, state) in snapshot.chain(restored.deltas.iter().map(|state| ("delta", state))) {
            let numbers = parse(self.seed, kind, state);
            let Some([from, to, sum]) = numbers else {
                return Err(format!("the {kind} behind {at} is not what a commit writes"));
            };
            let follows = kind == "snapshot" || from == at;
            if !follows || self.sum(to) != Some(sum) {
                return Err(format!("{kind} from {from} to {to} behind {at}: {sum}"));
            }
            at = to;
        }
        Ok(at)
    }
}

fn open(dir: &Path) -> Result<Engine, String> {
    // The smallest that works: thousands of them are opened.
    let options = Options::new(dir).shards(SHARDS).segment_size(SEGMENT_SIZE);
    let options = options.io_mode(IoMode::Plain).pin(false).spin(Duration::ZERO);
    options.open().map_err(failed("opening"))
}

fn read(log: &Log, info: &LogInfo) -> Result<Vec<Record>, String> {
    let mut reader = log.reader(From::Earliest);
    let mut found: Vec<Record> = Vec::new();
    while let Some(records) = reader.try_next().wait().map_err(failed(log.name()))? {
        found.extend(records);
    }
    let sequences = found.iter().map(|record| record.sequence.get());
    if !sequences.eq(info.first.get()..info.next.get()) {
        let count = found.len();
        return Err(format!("{info:?}, but it has {count} records, or not in order"));
    }
    Ok(found)
}
