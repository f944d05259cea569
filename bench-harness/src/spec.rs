//! What to measure: a workload, exactly, so that any target can do the same.
//!
//! ```text
//! Spec { work, logs, payload, seconds, seed } --JSON--> `measure` of a target
//! ```
//!
//! Invariant: the same `Spec` gives the same payload sizes in the same order (one seed).
//!
//! Not here: how a target does it, and which specs a suite has.

use serde::{Deserialize, Serialize};

/// A workload and its size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    /// What is done.
    pub work: Work,
    /// Over how many logs it is spread, in turn.
    pub logs: u32,
    /// Sizes of the records' payloads.
    pub payload: Payload,
    /// How long, for work that has no natural end. Not counted: the warm-up, a tenth of it, at most
    /// one second.
    pub seconds: f64,
    /// For all that is random.
    pub seed: u64,
}

/// What is done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Work {
    /// So many single-record appends are kept in flight; each waits until its record is durable.
    Append {
        /// Appends in flight.
        in_flight: u32,
    },
    /// Appends begin at a fixed rate whatever the answers do. A latency counts from the instant at
    /// which the append should have begun, so a stall is charged to all that it delays.
    OpenLoop {
        /// Appends a second.
        rate: f64,
    },
    /// Batches of records, each durable as a whole.
    Batch {
        /// Records in a batch.
        records: u32,
        /// Batches in flight.
        in_flight: u32,
    },
    /// Processors, each with its own source, that commit each record by itself: a state delta and
    /// the position (and outputs), durable together.
    Commit {
        /// How many processors.
        processors: u32,
        /// Bytes of a state delta.
        delta: u32,
        /// Output records of each commit, with payloads as in the spec.
        outputs: u32,
    },
    /// Appends with `in_flight`, and readers on threads of their own at the end of the log. The
    /// latency is from the append's answer to the reader's thread having the record, never below 0.
    Tail {
        /// Appends in flight.
        in_flight: u32,
        /// Readers that follow.
        readers: u32,
    },
    /// `bytes` of payload are written, then read from the start: the first log of `Spec::logs` that
    /// were filled in turn.
    CatchUp {
        /// Bytes of payload over all logs.
        bytes: u64,
        /// Whether the page cache was emptied before.
        cold: bool,
        /// Readers at a time, each reading everything.
        readers: u32,
    },
    /// As `Append`, while `readers` read from the start again and again.
    Mixed {
        /// Appends in flight.
        in_flight: u32,
        /// Readers that catch up.
        readers: u32,
    },
    /// `bytes` of payload are written, the writer is killed, and the store is opened again.
    Recovery {
        /// Bytes of payload in the log.
        bytes: u64,
    },
    /// Batches in flight with the log truncated behind them, so that space is used again.
    Soak {
        /// Records in a batch.
        records: u32,
        /// Batches in flight.
        in_flight: u32,
        /// Bytes of payload that are kept.
        keep: u64,
    },
    /// Single-record appends to a server over loopback, each durable before its answer.
    WireAppend {
        /// Connections.
        connections: u32,
        /// Requests in flight on each.
        depth: u32,
    },
    /// A server is filled with `bytes` of payload, then each connection reads all of its log again
    /// and again, one request in flight.
    WireRead {
        /// Connections.
        connections: u32,
        /// Records that a request asks for.
        count: u32,
        /// Bytes of payload over all logs.
        bytes: u64,
    },
    /// Lines, each a record, sent to a server as fast as it takes them. An operation is a block of
    /// lines, from its sending to the answer that all of it is durable.
    WireIngest {
        /// Connections.
        connections: u32,
    },
    /// Connections to a server that have asked once, and then do nothing for the spec's time. An
    /// operation is connecting and that one request.
    WireIdle {
        /// Connections.
        connections: u32,
    },
}

impl Work {
    /// Its name, as in the JSON.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Append { .. } => "append",
            Self::OpenLoop { .. } => "open-loop",
            Self::Batch { .. } => "batch",
            Self::Commit { .. } => "commit",
            Self::Tail { .. } => "tail",
            Self::CatchUp { .. } => "catch-up",
            Self::Mixed { .. } => "mixed",
            Self::Recovery { .. } => "recovery",
            Self::Soak { .. } => "soak",
            Self::WireAppend { .. } => "wire-append",
            Self::WireRead { .. } => "wire-read",
            Self::WireIngest { .. } => "wire-ingest",
            Self::WireIdle { .. } => "wire-idle",
        }
    }

    /// Whether it is done by a server, over loopback.
    #[must_use]
    pub fn is_wire(&self) -> bool {
        matches!(
            self,
            Self::WireAppend { .. }
                | Self::WireRead { .. }
                | Self::WireIngest { .. }
                | Self::WireIdle { .. }
        )
    }
}

/// Sizes of payloads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Payload {
    /// All the same.
    Fixed(u32),
    /// Drawn by weight: `[[bytes, weight], ...]`.
    Mix(Vec<(u32, u32)>),
}
