//! Whether everything that a storm left behind fits together, and nothing that was told is missing.
//!
//! Not here: what is written (`storm`).

use std::collections::BTreeMap;

use oncelog::{Engine, From, Log, Sequence};

use crate::storm::{BATCHED, GROUPS, Output, SINGLES, State, payload};

/// What clients were told, by log or processor.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// Sequences behind the last record that is durable.
    pub appended: BTreeMap<String, u64>,
    /// Batches that are durable.
    pub batches: u64,
    /// Positions that are durable.
    pub committed: BTreeMap<String, u64>,
    /// First records after the last truncation that is durable.
    pub truncated: BTreeMap<String, u64>,
    /// First records after the last truncation that was asked for.
    pub asked: BTreeMap<String, u64>,
}

impl Told {
    /// Takes in what a worker said.
    ///
    /// # Panics
    /// If it found something wrong, or says what nobody understands.
    pub fn hear(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |word: &str| word.parse::<u64>().unwrap_or_else(|_| panic!("heard: {line}"));
        let (map, name, to) = match words[..] {
            ["a", log, next] => (&mut self.appended, log, next),
            ["c", group, position] => (&mut self.committed, group, position),
            ["T", log, first] => (&mut self.asked, log, first),
            ["t", log, first] => (&mut self.truncated, log, first),
            ["b", count] => {
                self.batches = number(count).max(self.batches);
                return;
            }
            _ => panic!("heard: {line}"),
        };
        let known = map.entry(name.to_owned()).or_default();
        *known = number(to).max(*known);
    }

    fn of(map: &BTreeMap<String, u64>, name: &str) -> u64 {
        map.get(name).copied().unwrap_or_default()
    }
}

/// Looks at everything; what was told must be there.
///
/// # Errors
/// What is wrong.
pub fn check(engine: &Engine, told: &Told) -> Result<(), String> {
    for name in SINGLES {
        check_log(engine, name, told)?;
    }
    check_batches(engine, told)?;
    for group in GROUPS {
        check_log(engine, &format!("{group}/in"), told)?;
        check_processor(engine, group, told)?;
    }
    Ok(())
}

fn open(engine: &Engine, name: &str) -> Result<Log, String> {
    engine.open_or_create_log(name).wait().map_err(|error| format!("{name}: {error}"))
}

/// Whether the log begins where it was truncated last, or where that was asked for.
fn ends(log: &Log, told: &Told) -> Result<(u64, u64), String> {
    let name = log.name();
    let info = log.describe().wait().map_err(|error| format!("{name}: {error}"))?;
    let (first, next) = (info.first.get(), info.next.get());
    let truncated = Told::of(&told.truncated, name)..=Told::of(&told.asked, name);
    if !told.asked.is_empty() && !truncated.contains(&first) {
        return Err(format!("{name} begins at {first}, but was truncated to {truncated:?}"));
    }
    if next < Told::of(&told.appended, name) {
        return Err(format!("{name} ends at {next}: acknowledged records are missing"));
    }
    Ok((first, next))
}

/// Reads a log from its first record to its end.
fn each_record(
    log: &Log,
    (first, next): (u64, u64),
    mut see: impl FnMut(u64, &[u8]) -> Result<(), String>,
) -> Result<(), String> {
    let mut reader = log.reader(From::Sequence(Sequence::new(first)));
    let mut at = first;
    while at < next {
        let records = reader.try_next().wait().map_err(|error| format!("{log:?}: {error}"))?;
        let records = records.ok_or_else(|| format!("{log:?} ends at {at}, not at {next}"))?;
        for record in records {
            if record.sequence.get() != at {
                return Err(format!("{log:?}: {} comes where {at} should", record.sequence));
            }
            see(at, &record.payload)?;
            at += 1;
        }
    }
    Ok(())
}

fn check_log(engine: &Engine, name: &str, told: &Told) -> Result<u64, String> {
    let log = open(engine, name)?;
    let ends = ends(&log, told)?;
    each_record(&log, ends, |at, bytes| {
        let right = bytes == payload(name, at);
        right.then_some(()).ok_or_else(|| format!("{name}: other bytes at {at}"))
    })?;
    Ok(ends.1)
}

/// Batches are whole: each log has its share of the same number of them.
fn check_batches(engine: &Engine, told: &Told) -> Result<(), String> {
    let mut nexts = Vec::new();
    for name in BATCHED {
        nexts.push(check_log(engine, name, told)?);
    }
    let count = nexts[0];
    if nexts != [count, 2 * count, 3 * count] || count < told.batches {
        return Err(format!("half a batch: {nexts:?}; {} were acknowledged", told.batches));
    }
    Ok(())
}

/// State, position and outputs are one.
fn check_processor(engine: &Engine, group: &str, told: &Told) -> Result<(), String> {
    let source = format!("{group}/in");
    let opened = engine.processor(format!("{group}/p")).source(source).open().wait();
    let (_, restored) = opened.map_err(|error| format!("{group}: {error}"))?;
    let state = State::restore(&restored).map_err(|why| format!("{group}: {why}"))?;
    if state.count < Told::of(&told.committed, group) {
        return Err(format!("{group} is at {}: a commit is missing", state.count));
    }
    let out = open(engine, &format!("{group}/out"))?;
    let ends = ends(&out, told)?;
    let mut last: Option<Output> = None;
    each_record(&out, ends, |at, bytes| {
        let output = Output::of(bytes)?;
        output.follows(last, at)?;
        last = Some(output);
        Ok(())
    })?;
    if ends.1 != restored.commits {
        return Err(format!("{group}: {} outputs of {} commits", ends.1, restored.commits));
    }
    match last {
        Some(last) if last.to != state.count => {
            Err(format!("{group}: outputs end at {}, the state is {state:?}", last.to))
        }
        _ => Ok(()),
    }
}
