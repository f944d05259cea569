//! The end: everything that is on disk against a straight count.

use std::path::Path;

use oncelog::{Engine, EngineInfo, From, Log, Options, Reader, Record, Records};

use crate::Result;
use crate::input::{Input, Lines};
use crate::straight::Straight;
use crate::worker::{LINES, RESULTS, WORDS, restore};

/// Differences of one kind that are told.
const TOLD_MAX: usize = 3;

/// What was found.
pub(crate) struct Findings {
    pub(crate) lost: u64,
    pub(crate) duplicated: u64,
    pub(crate) commits: u64,
    pub(crate) info: EngineInfo,
    /// Empty if all is as it must be.
    pub(crate) differences: Vec<String>,
}

pub(crate) fn verify(dir: &Path, input: &Input, straight: &Straight) -> Result<Findings> {
    let engine = Options::new(dir).create(false).open()?;
    let mut differences = Vec::new();

    let mut lines = Differences::default();
    let log = engine.open_log(LINES).wait()?;
    compare_lines(&log, input.lines(), &mut lines)?;
    lines.tell("text/lines", &mut differences);

    let mut results = Differences::default();
    compare_results(&engine.open_log(RESULTS).wait()?, &straight.results, &mut results)?;
    results.tell("text/results", &mut differences);

    let commits = compare_state(&engine, straight, &mut differences)?;
    let info = engine.info().wait()?;
    engine.close().wait()?;
    let (lost, duplicated) = (lines.lost, lines.duplicated);
    Ok(Findings { lost, duplicated, commits, info, differences })
}

/// The log must hold every line once, in order, byte for byte. Its transaction ids are the lines'
/// numbers, and so tell which was lost and which came twice.
fn compare_lines(log: &Log, mut lines: Lines<'_>, found: &mut Differences) -> Result<()> {
    let mut stored = Stored::new(log);
    let mut number = 0;
    while let Some(record) = stored.next()? {
        let sequence = record.sequence;
        let txid = record.txid.get();
        if txid <= number {
            found.duplicated += 1;
            found.add(format!("record {sequence} is line {txid} again"));
            continue;
        }
        while number + 1 < txid && lines.next()?.is_some() {
            number += 1;
            found.lost += 1;
            found.add(format!("line {number} is missing before record {sequence}"));
        }
        number += 1;
        match lines.next()? {
            Some(line) if line == record.payload => {}
            Some(_) => found.add(format!("record {sequence} is not as line {number} was")),
            None => found.add(format!("record {sequence} is behind the end of the input")),
        }
    }
    while lines.next()?.is_some() {
        number += 1;
        found.lost += 1;
        found.add(format!("line {number} is missing at the end"));
    }
    Ok(())
}

/// The results must be those of a run without crashes.
fn compare_results(log: &Log, expected: &[String], found: &mut Differences) -> Result<()> {
    let mut stored = Stored::new(log);
    let mut expected = expected.iter();
    while let Some(record) = stored.next()? {
        let sequence = record.sequence;
        let result = String::from_utf8_lossy(&record.payload);
        match expected.next() {
            Some(expected) if *expected == result => {}
            Some(expected) => found.add(format!("{sequence} is {result:?}, not {expected:?}")),
            None => found.add(format!("{sequence} is one too many: {result:?}")),
        }
    }
    for result in expected {
        found.add(format!("there is no {result:?}"));
    }
    Ok(())
}

/// The state must be the straight count, at the end of the input. Answers how many commits there
/// were.
fn compare_state(
    engine: &Engine,
    straight: &Straight,
    differences: &mut Vec<String>,
) -> Result<u64> {
    let (_, restored) = engine.processor(WORDS).open().wait()?;
    let position = restored.positions[0].next.get();
    if position != straight.lines {
        differences.push(format!("state: the position is {position}, not {}", straight.lines));
    }
    if restored.commits != straight.results.len() as u64 {
        let (commits, windows) = (restored.commits, straight.results.len());
        differences.push(format!("state: there were {commits} commits, not {windows}"));
    }
    let mut found = Differences::default();
    for (word, right, stored) in straight.counts.differences(&restore(&restored)?) {
        found.add(format!("{word:?} was counted {stored} times, not {right}"));
    }
    found.tell("state", differences);
    Ok(restored.commits)
}

/// All records that a log holds now.
struct Stored {
    reader: Reader,
    records: Option<Records>,
    next: u64,
}

impl Stored {
    fn new(log: &Log) -> Self {
        Self { reader: log.reader(From::Earliest).max_bytes(4 << 20), records: None, next: 0 }
    }

    fn next(&mut self) -> Result<Option<Record>> {
        loop {
            if let Some(record) = self.records.as_mut().and_then(Iterator::next) {
                if record.sequence.get() != self.next {
                    return Err(format!("{} was read, not {}", record.sequence, self.next).into());
                }
                self.next += 1;
                return Ok(Some(record));
            }
            self.records = self.reader.try_next().wait()?;
            if self.records.is_none() {
                return Ok(None);
            }
        }
    }
}

#[derive(Default)]
struct Differences {
    lost: u64,
    duplicated: u64,
    all: usize,
    told: Vec<String>,
}

impl Differences {
    fn add(&mut self, text: String) {
        self.all += 1;
        if self.told.len() < TOLD_MAX {
            self.told.push(text);
        }
    }

    fn tell(&self, what: &str, to: &mut Vec<String>) {
        to.extend(self.told.iter().map(|text| format!("{what}: {text}")));
        if self.all > self.told.len() {
            to.push(format!("{what}: and {} more", self.all - self.told.len()));
        }
    }
}
