//! Checking a journal: its segments in order, each against the one before, and what is lost.
//!
//! ```text
//! check -> Checked -> add: does this manifest say what the segment before led to? -> next segment
//!                                                       finish: gaps, state chains -> findings
//! ```
//!
//! A gap in a log's sequences is blamed on the damages that lie between the records around it. Only
//! what is still needed counts as lost: not what was truncated or dropped since.
//!
//! Not here: one segment alone (`check`), reading files (`verify`).

use std::collections::BTreeMap;

use crate::catalog::Catalog;
use crate::check::{Check, Checked, Expected, Gap, Linked};
use crate::format::VERSION;
use crate::format::control::{
    ChainLink, Control, Link, ManifestLog, ManifestReader, ManifestSegment,
};
use crate::position::{LogId, ReaderId, SegmentId, Sequence};
use crate::replay::Identity;
use crate::report::{AtRisk, Finding, Severity};

/// See the module's head.
pub struct Survey {
    identity: Identity,
    findings: Vec<Finding>,
    /// Findings that gaps may be blamed on.
    holes: Vec<usize>,
    gaps: Vec<Gap>,
    next: BTreeMap<LogId, Expected>,
    names: BTreeMap<LogId, String>,
    links: BTreeMap<Link, Linked>,
    commits: BTreeMap<ReaderId, (Option<String>, u64)>,
    previous: Option<Previous>,
    /// Damages below this number came before a whole manifest, which tells what they hit.
    told: usize,
    /// Entries and records with right checksums.
    pub counts: (u64, u64),
    /// Segments that were read.
    pub segments: u64,
}

/// The last that was seen of everything, whole or damaged.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The next sequence of each log, and its name.
    pub logs: BTreeMap<LogId, (Option<String>, Sequence)>,
    /// The number of the last commit of each processor, and its name.
    pub commits: BTreeMap<ReaderId, (Option<String>, u64)>,
    /// Whether that is all there was: nothing was damaged that only it could tell of.
    pub complete: bool,
}

/// The segment before.
struct Previous {
    segment: SegmentId,
    /// Number of its first finding.
    base: usize,
    /// Where it ends, its entries and the digest of the last one, with a seal and without; `None`
    /// if it is damaged.
    ends: Option<[(u64, u32, u64); 2]>,
    catalog: Option<Catalog>,
}

impl Survey {
    /// No segment was checked yet.
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        Self {
            identity,
            findings: Vec::new(),
            holes: Vec::new(),
            gaps: Vec::new(),
            next: BTreeMap::new(),
            names: BTreeMap::new(),
            links: BTreeMap::new(),
            commits: BTreeMap::new(),
            previous: None,
            told: 0,
            counts: (0, 0),
            segments: 0,
        }
    }

    /// A check of the next segment, whose entries end at `end` if that is known.
    #[must_use]
    pub fn check(&self, segment: SegmentId, end: Option<u64>) -> Check {
        Check::new(&self.identity, segment, end, self.next.clone(), self.findings.len())
    }

    /// Notes something about a file.
    pub fn note(&mut self, severity: Severity, segment: SegmentId, offset: u64, what: String) {
        self.find(severity, segment, (offset, 0), what);
    }

    /// A segment's index file is not what the segment holds.
    pub fn bad_index(&mut self, segment: SegmentId) {
        let what = "is not what the segment holds; it can be made anew".to_owned();
        self.find(Severity::Redundant, segment, (0, 0), what);
        let finding = self.findings.last_mut().expect("it was just added");
        finding.path.set_extension("index");
    }

    /// A segment's file is not there.
    pub fn missing(&mut self, segment: SegmentId, len: u64) {
        let base = self.findings.len();
        self.holes.push(base);
        self.find(Severity::Loss, segment, (0, len), "the segment's file is missing".to_owned());
        self.previous = Some(Previous { segment, base, ends: None, catalog: None });
    }

    /// A segment was checked; `row` is what the newest manifest says about it.
    pub fn add(&mut self, checked: Checked, row: Option<&ManifestSegment>) {
        let (segment, sound) = (checked.segment, checked.damages.is_empty());
        let base = self.findings.len();
        self.segments += 1;
        self.counts.0 += checked.counts.0;
        self.counts.1 += checked.counts.1;
        for damage in &checked.damages {
            if damage.hole {
                self.holes.push(self.findings.len());
            }
            let severity =
                if damage.records.is_some() { Severity::Loss } else { Severity::Redundant };
            self.find(severity, segment, (damage.offset, damage.len), damage.what.clone());
            if let Some((log, first, end)) = damage.records {
                let at_risk = AtRisk::Records { log, name: None, first, end };
                self.findings.last_mut().expect("it was just added").at_risk.push(at_risk);
            }
        }
        self.compare_begin(&checked, base);
        if let Some(row) = row.filter(|_| sound) {
            self.compare_end(&checked, row);
        }
        self.gaps.extend(&checked.gaps);
        self.next = checked.next;
        if checked.begin.is_some() {
            self.commits.clear();
        }
        for (reader, (name, number)) in checked.commits {
            let (known, last) = self.commits.entry(reader).or_default();
            (*known, *last) = (name.or(known.take()), number);
        }
        self.next.retain(|log, _| !checked.dropped.0.contains(log));
        self.commits.retain(|reader, _| !checked.dropped.1.contains(reader));
        self.names.extend(checked.names);
        self.links.extend(checked.links);
        let catalog = checked.known.map(|known| known.catalog);
        let ends = sound.then_some([checked.end, checked.before_seal]);
        self.previous = Some(Previous { segment, base, ends, catalog });
    }

    /// The beginning of a segment against the state at the end of the segment before.
    fn compare_begin(&mut self, checked: &Checked, until: usize) {
        let segment = checked.segment;
        let Some(begin) = &checked.begin else { return };
        self.told = until;
        for (name, log) in begin.log_names() {
            self.names.insert(log, name.to_owned());
            let end = begin.log(log).expect("a named log is there").next;
            // A log that nothing told of before was created in what is damaged.
            let Some(previous) = &self.previous else { continue };
            let unknown = Expected { next: Sequence::FIRST, since: previous.base };
            let before = self.next.get(&log).copied().unwrap_or(unknown);
            if before.next < end {
                let (first, since) = (before.next, before.since);
                self.gaps.push(Gap { log, first, end, since, until });
            }
        }
        let Some(previous) = &self.previous else { return };
        let before = previous.segment;
        if checked.header.as_ref().is_some_and(|header| before < header.previous) {
            // The segment between them was freed: what it led to is gone with it.
            return;
        }
        let link = checked.header.as_ref().zip(previous.ends);
        let unlinked = link.is_some_and(|(header, ends)| {
            let named = (header.previous, header.previous_end, header.previous_digest);
            !ends.iter().any(|(end, _, digest)| named == (before, *end, *digest))
        });
        let difference = previous.catalog.as_ref().and_then(|before| {
            let version = checked.header.as_ref().map_or(VERSION, |header| header.version);
            differs(before, begin, version)
        });
        if unlinked {
            let what = format!("its header does not continue segment {before}");
            self.find(Severity::Loss, segment, (0, 0), what);
        }
        if let Some(what) = difference {
            let what = format!("its manifest is not what segment {before} led to: {what}");
            self.find(Severity::Loss, segment, (0, 0), what);
        }
    }

    /// The end of a segment against the newest manifest.
    fn compare_end(&mut self, checked: &Checked, row: &ManifestSegment) {
        let (segment, (end, entries, digest)) = (checked.segment, checked.end);
        if (end, entries, digest) != (row.end, row.entries, row.digest) {
            let what = format!(
                "it ends at {end} behind {entries} entries, the newest manifest says at {} behind \
                 {}, or another last entry",
                row.end, row.entries
            );
            self.find(Severity::Loss, segment, (end, 0), what);
        } else if !row.shortened && !checked.sealed {
            let what = "no seal stands behind its entries: the roll was interrupted, or it is \
                        damaged; the next segment is there"
                .to_owned();
            self.find(Severity::Note, segment, (row.end, 0), what);
        }
    }

    /// The last that was seen of each log and processor.
    #[must_use]
    pub fn seen(&self) -> Seen {
        let log = |(log, expected): (&LogId, &Expected)| {
            (*log, (self.names.get(log).cloned(), expected.next))
        };
        // What a damage hit is told by a whole manifest behind it, if there is one.
        let complete = self.holes.iter().all(|hole| *hole < self.told);
        let logs = self.next.iter().map(log).collect();
        Seen { logs, commits: self.commits.clone(), complete }
    }

    /// Everything that was found. `end` is what is known now, where the journal opens.
    #[must_use]
    pub fn finish(mut self, end: Option<&Catalog>) -> Vec<Finding> {
        let opens = end.is_some();
        let last = self.previous.take().and_then(|previous| previous.catalog);
        let now = end.or(last.as_ref());
        self.blame_gaps(now, opens);
        let mut punched = Vec::new();
        for (index, finding) in self.findings.iter_mut().enumerate() {
            let before = finding.at_risk.len();
            finding.at_risk.retain_mut(|at_risk| still_needed(at_risk, now, opens, &self.names));
            if before > 0 && finding.at_risk.is_empty() {
                finding.severity = Severity::Redundant;
                let row = finding.segment.zip(now).and_then(|(segment, now)| now.segment(segment));
                if !self.holes.contains(&index) && row.is_some_and(|row| row.shortened) {
                    punched.push(index);
                }
            }
        }
        for hole in self.holes.iter().filter(|hole| **hole >= self.told) {
            let finding = &mut self.findings[*hole];
            finding.severity = Severity::Loss;
            finding.at_risk.push(AtRisk::Unknown);
        }
        for (_, state) in now.iter().flat_map(|catalog| catalog.readers()) {
            self.check_processor(&state.stored, now.expect("it has processors"));
        }
        // Dead records of a punched segment may read as anything (F-12).
        for index in punched.into_iter().rev() {
            self.findings.remove(index);
        }
        self.findings
    }

    fn blame_gaps(&mut self, now: Option<&Catalog>, opens: bool) {
        for Gap { log, first, end, since, until } in std::mem::take(&mut self.gaps) {
            let mut needed = AtRisk::Records { log, name: None, first, end };
            if !still_needed(&mut needed, now, opens, &self.names) {
                // It stood in a segment that was freed, or it does not matter any more.
                continue;
            }
            let at_risk = AtRisk::Records { log, name: None, first, end };
            let blamed = self.holes.iter().filter(|hole| (since..until).contains(hole));
            let blamed: Vec<_> = blamed.copied().collect();
            for hole in &blamed {
                self.findings[*hole].severity = Severity::Loss;
                self.findings[*hole].at_risk.push(at_risk.clone());
            }
            if blamed.is_empty() {
                self.findings.push(Finding {
                    severity: Severity::Loss,
                    shard: Some(self.identity.shard),
                    segment: None,
                    path: format!("shard-{:03}", self.identity.shard.get()).into(),
                    offset: 0,
                    len: 0,
                    what: "records are missing between sound ones".to_owned(),
                    at_risk: vec![at_risk],
                });
            }
        }
    }

    /// Positions, and the state chain down to its beginning (F-13).
    fn check_processor(&mut self, stored: &ManifestReader, now: &Catalog) {
        let at_risk = AtRisk::State { processor: stored.name.clone() };
        for source in &stored.sources {
            if now.log(source.log).is_none_or(|log| log.next < source.next) {
                let what = format!("position {} of log {} is none", source.next, source.log);
                let segment = stored.head.map_or(SegmentId(0), |head| head.link.segment);
                self.find(Severity::Loss, segment, (0, 0), what);
                self.findings.last_mut().expect("just added").at_risk.push(at_risk.clone());
            }
        }
        if let Err(Link { segment, offset, index }) = self.walk(stored) {
            let what = format!("control record {index} is no part of the state that leads to it");
            self.find(Severity::Loss, segment, (offset.into(), 0), what);
            self.findings.last_mut().expect("just added").at_risk.push(at_risk);
        }
    }

    fn walk(&self, stored: &ManifestReader) -> Result<(), Link> {
        let mut wanted = stored.head;
        while let Some(ChainLink { number, link }) = wanted {
            let carried = stored.carried.filter(|carried| carried.number == number);
            let at = carried.map_or(link, |carried| carried.link);
            let Some(Linked::State { reader, number: found, previous, parts }) =
                self.links.get(&at)
            else {
                return Err(at);
            };
            let before = previous.is_none_or(|previous| previous.number < number);
            if (*reader, *found) != (stored.reader, number) || !before {
                return Err(at);
            }
            for part in parts.iter().flatten() {
                if !matches!(self.links.get(part), Some(Linked::Part(of)) if *of == stored.reader) {
                    return Err(*part);
                }
            }
            wanted = *previous;
        }
        Ok(())
    }

    fn find(&mut self, severity: Severity, segment: SegmentId, at: (u64, u64), what: String) {
        self.findings.push(Finding {
            severity,
            shard: Some(self.identity.shard),
            segment: Some(segment),
            path: self.identity.path(segment),
            offset: at.0,
            len: at.1,
            what,
            at_risk: Vec::new(),
        });
    }
}

/// Cuts off what was truncated since, and names the log; `false` if nothing is left.
fn still_needed(
    at_risk: &mut AtRisk,
    now: Option<&Catalog>,
    opens: bool,
    names: &BTreeMap<LogId, String>,
) -> bool {
    let AtRisk::Records { log, name, first, end } = at_risk else { return true };
    *name = names.get(log).cloned();
    match now.and_then(|catalog| catalog.log(*log)) {
        Some(state) => *first = state.first.max(*first),
        // It was dropped, if what is known now is all there is to know.
        None if opens => return false,
        None => {}
    }
    first < end
}

/// What two catalogs do not have in common, but for files that went meanwhile.
/// `version` is that of the segment that begins with `begin`.
fn differs(before: &Catalog, begin: &Catalog, version: u32) -> Option<String> {
    let numbers = |c: &Catalog| (c.next_log(), c.next_reader(), c.next_epoch());
    if numbers(before) != numbers(begin) {
        return Some("the numbers given so far".to_owned());
    }
    if before.rates() != begin.rates() {
        return Some("the rates".to_owned());
    }
    // A row of version 1 has no bytes.
    let comparable = |row| match row {
        Control::ManifestLog(row) if version == 1 => {
            Control::ManifestLog(ManifestLog { bytes: 0, ..row })
        }
        row => row,
    };
    let rows = |catalog: &Catalog| -> Vec<Control> {
        let all = catalog.rows().into_iter();
        all.filter(|row| !matches!(row, Control::ManifestSegment(_))).map(comparable).collect()
    };
    let (before_rows, begin_rows) = (rows(before), rows(begin));
    let differs = before_rows.iter().zip(&begin_rows).find(|(a, b)| a != b);
    if let Some((row, _)) = differs {
        return Some(match row {
            Control::ManifestLog(row) => format!("log {} ({})", row.log, row.name),
            Control::ManifestReader(row) => format!("processor {}", row.name),
            _ => "a row".to_owned(),
        });
    }
    if before_rows.len() != begin_rows.len() {
        return Some("how many logs and processors there are".to_owned());
    }
    let gone = before.segments().find(|row| !row.freed && begin.segment(row.segment) != Some(row));
    gone.map(|row| format!("segment {}", row.segment))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::{Sequence, TxId};

    #[test]
    fn rows_of_version_1_have_no_bytes_and_all_else_is_compared() {
        let created = Control::LogCreated { log: LogId(1), created_us: 7, name: "log".to_owned() };
        let at = Link { segment: SegmentId(1), offset: 4096, index: 0 };
        let mut begin = Catalog::default();
        begin.apply(&created, at).unwrap();
        let mut before = begin.clone();
        let records = (Sequence::FIRST, 0);
        before.append(LogId(1), records, (TxId(0), TxId(0)), 100).unwrap();
        assert_eq!(differs(&before, &begin, 1), None);
        assert_eq!(differs(&before, &begin, 2).as_deref(), Some("log 1 (log)"));
        let rates = crate::format::options::Rates::default().bytes_soft(9);
        before.apply(&Control::RatesSet { rates }, at).unwrap();
        assert_eq!(differs(&before, &begin, 1).as_deref(), Some("the rates"));
    }
}
