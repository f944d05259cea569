//! What checking a data directory found, for people and for programs.
//!
//! ```text
//! Report -> Finding: where (shard, segment, offset), what, how bad -> AtRisk: whose, which
//! ```
//!
//! Not here: how it is found (`check`, `survey`), and what is done about it (`repair`).

use std::fmt;
use std::path::PathBuf;

use crate::position::{LogId, SegmentId, Sequence, ShardId};

/// How bad a [`Finding`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Nothing is wrong with anything that was acknowledged.
    Note,
    /// What is damaged is there twice, or can be made anew, or is no longer needed.
    Redundant,
    /// Something that was acknowledged is damaged or missing.
    Loss,
}

/// What damage concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AtRisk {
    /// Records of a log.
    Records {
        /// The log.
        log: LogId,
        /// Its name, as far as that is known.
        name: Option<String>,
        /// The first record.
        first: Sequence,
        /// The first one behind them.
        end: Sequence,
    },
    /// The state of a processor: it cannot be restored.
    State {
        /// The processor.
        processor: String,
    },
    /// Commits of a processor: its state and position are those before them, or before it existed.
    Commits {
        /// The processor, as far as its name is known.
        processor: Option<String>,
        /// Number of the first one.
        first: u64,
        /// Number of the last one.
        last: u64,
    },
    /// Everything that was written from here on, as far as no other file says what it was.
    Unknown,
}

impl fmt::Display for AtRisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Records { log, name, first, end } => {
                write!(f, "log {log}")?;
                if let Some(name) = name {
                    write!(f, " ({name})")?;
                }
                match end.get() - first.get() {
                    1 => write!(f, " sequence {first}"),
                    _ => write!(f, " sequences {first} to {}", end.get() - 1),
                }
            }
            Self::State { processor } => write!(f, "the state of processor {processor}"),
            Self::Commits { processor, first, last } => {
                let name = processor.as_deref().unwrap_or("of unknown name");
                write!(f, "commits {first} to {last} of processor {name}")
            }
            Self::Unknown => f.write_str("everything from here on that no other file tells of"),
        }
    }
}

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Whose journal; `None` for what belongs to all shards.
    pub shard: Option<ShardId>,
    /// The segment, where it is one.
    pub segment: Option<SegmentId>,
    /// The file, from the data directory.
    pub path: PathBuf,
    /// Where in the file, in bytes.
    pub offset: u64,
    /// How many bytes; 0 where that means nothing.
    pub len: u64,
    /// What was found.
    pub what: String,
    /// What was acknowledged and is damaged or missing.
    pub at_risk: Vec<AtRisk>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = match self.severity {
            Severity::Note => "note",
            Severity::Redundant => "damage, nothing is lost",
            Severity::Loss => "LOSS",
        };
        write!(f, "{how}: {}", self.path.display())?;
        if self.offset > 0 || self.len > 0 {
            write!(f, " at {}", self.offset)?;
        }
        if self.len > 0 {
            write!(f, " ({} bytes)", self.len)?;
        }
        write!(f, ": {}", self.what)?;
        for (index, at_risk) in self.at_risk.iter().enumerate() {
            write!(f, "{} {at_risk}", if index == 0 { "; at risk:" } else { "," })?;
        }
        Ok(())
    }
}

/// What was checked, and what is wrong with it.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Report {
    /// Segments that were read, whole.
    pub segments: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// Entries whose checksums are right.
    pub entries: u64,
    /// Records in them.
    pub records: u64,
    /// Logs that there are.
    pub logs: u64,
    /// Processors that there are. The state of each was followed to its beginning.
    pub processors: u64,
    /// Why the engine does not open, for each shard that refuses.
    pub refused: Vec<(ShardId, String)>,
    /// All that is not as it should be, in the order of shards and files.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether everything that was acknowledged is there, and the engine opens.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.refused.is_empty() && self.losses().next().is_none()
    }

    /// The findings that are losses.
    pub fn losses(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.severity == Severity::Loss)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shard, why) in &self.refused {
            writeln!(f, "shard {shard} does not open: {why}")?;
        }
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        let Self { segments, bytes, entries, records, logs, processors, .. } = self;
        writeln!(
            f,
            "checked {segments} segments, {bytes} bytes: {entries} entries, {records} records, \
             {logs} logs, {processors} processors"
        )?;
        f.write_str(if self.is_sound() { "sound" } else { "NOT SOUND" })
    }
}

/// How far checking has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that were checked.
    pub done: u64,
    /// Bytes to check.
    pub total: u64,
}
