//! A durable log engine on io_uring with exactly-once processors.
//!
//! Many named logs share a few journals of preallocated segments, written past the page cache, many
//! records to one sync. A processor's checkpoint is a control record in the same journal, so a
//! change of state, the outputs and the position become durable in **one** sync, or not at all.
//!
//! ```
//! use oncelog::{From, Options};
//! # let dir = tempfile::tempdir()?;
//! let engine = Options::new(dir.path()).segment_size(1 << 20).open()?;
//! let log = engine.create_log("orders").wait()?;
//! log.append("durable when this returns").wait()?;
//! let records = log.reader(From::Earliest).next().wait()?;
//! assert_eq!(records.len(), 1);
//! engine.close().wait()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Start with [`Options`] and [`Engine`]; then [`Log`], [`Batch`], [`Reader`] and [`Processor`].
//!
//! # What is promised
//! - An answer means durable: it survives a power cut one microsecond later, and readers see it.
//! - A batch, and a commit with its outputs, state and positions, is whole or not there at all.
//! - Damage is reported, never silent, and never taken for an ordinary crash.
//! - Dropping a future takes nothing back and tears nothing.
//!
//! # The core
//! The modules that are hidden here are the core without I/O and its shell; they are public for the
//! tests that drive the core with simulated disks, and may change in any release.

// Reading order = import order: a module uses only modules above it. Two layers are circles inside:
// the shard, whose `impl` blocks stand in several files (roll .. shard), and the handles
// (response .. engine).
#[doc(hidden)]
pub mod limits;
#[doc(hidden)]
pub mod position;
#[doc(hidden)]
pub mod buf;
#[doc(hidden)]
pub mod io;
#[doc(hidden)]
pub mod error;
#[doc(hidden)]
pub mod reply;
#[doc(hidden)]
pub mod format;
#[doc(hidden)]
pub mod name;
#[doc(hidden)]
pub mod sync;
pub mod metrics;
#[doc(hidden)]
pub mod space;
#[doc(hidden)]
pub mod request;
#[doc(hidden)]
pub mod change;
#[doc(hidden)]
pub mod rates;
#[doc(hidden)]
pub mod writers;
#[doc(hidden)]
pub mod catalog;
#[doc(hidden)]
pub mod index;
#[doc(hidden)]
pub mod scan;
#[doc(hidden)]
pub mod judge;
#[doc(hidden)]
pub mod replay;
#[doc(hidden)]
pub mod recover;
#[doc(hidden)]
pub mod report;
#[doc(hidden)]
pub mod check;
#[doc(hidden)]
pub mod survey;
#[doc(hidden)]
pub mod stage;
#[doc(hidden)]
pub mod commit;
#[doc(hidden)]
pub mod pins;
mod tail;
mod roll;
mod load;
mod reads;
mod seek;
mod read;
mod owner;
mod ownership;
mod settings;
mod restore;
mod each;
mod carry;
mod expiry;
mod punch;
mod usage;
mod retention;
mod gauges;
mod serve;
mod open;
#[doc(hidden)]
pub mod shard;
#[doc(hidden)]
pub mod inbox;
#[doc(hidden)]
pub mod meta;
#[doc(hidden)]
pub mod host;
#[doc(hidden)]
pub mod files;
#[doc(hidden)]
pub mod uring;
#[doc(hidden)]
pub mod blocking;
mod helm;
#[doc(hidden)]
pub mod thread;
mod verify;
mod kept;
mod repair;
mod records;
mod response;
mod fetch;
mod stream;
mod reader;
mod bytes_io;
mod merged;
mod log;
mod writer;
mod processor;
mod options;
mod engine;

#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

pub use bytes::Bytes;

pub use bytes_io::{ByteReader, ByteWriter};
pub use change::{ProcessorInfo, SourceInfo, WriterInfo, Written};
pub use engine::{Engine, EngineInfo, ShardInfo};
pub use error::{
    AppendError, CommitError, Damaged, LogError, NameError, NoSpace, OpenError, ProcessorError,
    ReadError, Stopped,
};
pub use format::codec::Codec;
pub use format::control::SourcePosition;
pub use format::options::{LogOptions, Rates, Retention};
pub use host::Host;
pub use io::IoError;
pub use log::{AppendBatch, Batch, From, Log, OpenLog};
pub use merged::{MergedError, MergedReader};
pub use metrics::{EngineMetrics, ShardMetrics, ShardStats};
pub use options::{DirectIo, Options};
pub use position::{
    Dlsn, Epoch, LogId, ParseDlsnError, ParsePositionError, ReaderId, SegmentId, Sequence, ShardId,
    TxId,
};
pub use processor::{Commit, Input, Processor, ProcessorOptions};
pub use reader::Reader;
pub use records::{Record, Records};
pub use repair::{Repair, Repaired, Step};
pub use reply::block_on;
pub use report::{AtRisk, Finding, Progress, Report, Severity};
pub use request::{Appended, Committed, LogInfo, NewRecord, Restored};
pub use response::{Operation, Response};
pub use space::{LogRange, LogSegment, LogSpace, SegmentSpace, ShardSpace, Space};
pub use stream::{BatchStream, BlockingRecords, RecordStream};
pub use sync::SyncMethod;
pub use thread::{IoMode, RunnerInfo};
pub use verify::Verify;
pub use writer::{ExclusiveWriter, ExclusiveWriterOptions, Writer, WriterOptions};
