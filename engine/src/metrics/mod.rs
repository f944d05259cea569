//! Metrics: what a shard counts while it works, and how its times and sizes are spread.
//!
//! ```text
//! Shard, Journal --> Meter, Tally (plain memory of the shard) --copy, when asked--> ShardMetrics
//! ShardMetrics of all shards --add--> EngineMetrics --fields--> exporter, text
//! ```
//!
//! Invariants:
//! - Counting is adding to memory that only the shard uses: no lock, no system call, and no clock
//!   but the times that the shard is given anyhow.
//! - Histograms are allocated once, when the shard is opened.
//! - What is about records is counted when it is durable: it never runs ahead of the answers.
//!
//! Each metric is named once, in the list below; docs/metrics.md says more about it.
//!
//! Not here: where things are counted (`meter` and the shard), gauges (`gauges`).

use std::fmt;

use crate::limits::ENTRY_SIZE_MAX;
use crate::position::ShardId;
use crate::sync::SyncMethod;

mod field;
mod histogram;
mod meter;
mod refusal;

pub use field::{Field, Unit, Value};
pub use histogram::Histogram;
use histogram::MICROS_MAX;
pub use meter::{Meter, Tally};
pub(crate) use refusal::Refusals;
pub use refusal::{AppendRefusal, CommitRefusal, ReadRefusal};

/// Figures of a journal since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommitStats {
    /// Entries written.
    pub entries: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Records in them (control records not counted).
    pub records: u64,
    /// Control records in them.
    pub controls: u64,
    /// Durable writes and syncs: how often the device was asked to make something durable.
    pub syncs: u64,
}

/// Figures of a shard since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardStats {
    /// Of its journal.
    pub commit: CommitStats,
    /// How writes are made durable now.
    pub sync_method: SyncMethod,
    /// The segment that is written, 0 if there is none.
    pub segment: u64,
    /// Sealed segments that are still needed.
    pub sealed: u64,
    /// Whether appends are refused for want of space.
    pub no_space: bool,
}

/// The list of metrics, and all that has to know each of them.
macro_rules! metrics {
    (
        counters { $($(#[doc = $counter_doc:literal])+ $counter:ident: $counter_unit:ident,)+ }
        gauges { $($(#[doc = $gauge_doc:literal])+ $gauge:ident: $gauge_unit:ident,)+ }
        histograms {
            $($(#[doc = $histogram_doc:literal])+
            $histogram:ident: $histogram_unit:ident <= $max:expr,)+
        }
    ) => {
        /// What a shard, or all of them together, has done since it was opened, and is like now.
        ///
        /// Counters and histograms begin at 0 with each opening. Times are microseconds, sizes
        /// bytes; docs/metrics.md says for each what exactly it counts.
        #[derive(Clone, Debug)]
        #[non_exhaustive]
        pub struct ShardMetrics {
            /// Figures of its journal. Of all shards together: the sums; the segment is 0, a shard
            /// without space counts for all, and the method is `Fdatasync` if one uses that.
            pub stats: ShardStats,
            $($(#[doc = $counter_doc])+ pub $counter: u64,)+
            $($(#[doc = $gauge_doc])+ pub $gauge: u64,)+
            $($(#[doc = $histogram_doc])+ pub $histogram: Histogram,)+
            /// For each processor by name: durable records of its sources behind its last commit.
            pub processor_lag: Vec<(String, u64)>,
            pub(crate) refusals: Refusals,
        }

        impl ShardMetrics {
            pub(crate) fn new() -> Self {
                Self {
                    stats: ShardStats::default(),
                    $($counter: 0,)+
                    $($gauge: 0,)+
                    $($histogram: Histogram::new($max),)+
                    processor_lag: Vec::new(),
                    refusals: Refusals::default(),
                }
            }

            fn add_listed(&mut self, other: &Self) {
                $(self.$counter += other.$counter;)+
                $(self.$gauge += other.$gauge;)+
                $(self.$histogram.add(&other.$histogram);)+
            }

            fn listed(&self) -> Vec<Field<'_>> {
                vec![
                    $(Field {
                        name: stringify!($counter),
                        help: concat!($($counter_doc),+).trim_ascii(),
                        unit: Unit::$counter_unit,
                        label: None,
                        value: Value::Counter(self.$counter),
                    },)+
                    $(Field {
                        name: stringify!($gauge),
                        help: concat!($($gauge_doc),+).trim_ascii(),
                        unit: Unit::$gauge_unit,
                        label: None,
                        value: Value::Gauge(self.$gauge),
                    },)+
                    $(Field {
                        name: stringify!($histogram),
                        help: concat!($($histogram_doc),+).trim_ascii(),
                        unit: Unit::$histogram_unit,
                        label: None,
                        value: Value::Histogram(&self.$histogram),
                    },)+
                ]
            }

            /// Bytes of memory that the histograms of a shard take.
            #[must_use]
            pub fn histogram_bytes(&self) -> usize {
                0 $(+ self.$histogram.bytes())+
            }
        }
    };
}

metrics! {
    counters {
        /// Append requests whose records are durable, batches too.
        append_requests: Count,
        /// Records of them.
        append_records: Count,
        /// Bytes of their payloads.
        append_bytes: Bytes,
        /// Numbered appends that stood in the log already, and were not written again.
        append_repeats: Count,
        /// Commits of processors that are durable.
        commits: Count,
        /// Records that commits appended as outputs.
        commit_output_records: Count,
        /// Parts of snapshots that were sent before their commit, and are durable.
        commit_snapshot_parts: Count,
        /// Requests to read.
        read_requests: Count,
        /// Requests to read of them that nobody waited for yet when they were made.
        read_ahead_requests: Count,
        /// Records that reads were answered with.
        read_records: Count,
        /// Bytes of sections that reads took from memory.
        read_memory_bytes: Bytes,
        /// Bytes of sections that reads took from what the device read for them.
        read_device_bytes: Bytes,
        /// Pieces that the device read for clients.
        device_reads: Count,
        /// Bytes of these pieces, with what stands between sections.
        device_read_bytes: Bytes,
        /// Reads of sealed segments that found the index in memory.
        index_hits: Count,
        /// Reads of sealed segments that had to wait for an index.
        index_misses: Count,
        /// Indexes asked for from their side files.
        index_loads: Count,
        /// Indexes made anew from the segment itself.
        index_rebuilds: Count,
        /// Segments made whose zeros were written.
        segments_written: Count,
        /// Segments made that were only allocated.
        segments_allocated: Count,
        /// Segments that were used again.
        segments_recycled: Count,
        /// Freed segments whose files were removed.
        segments_removed: Count,
        /// Segments that nothing needs any more, durably so.
        segments_freed: Count,
        /// Segments begun: the first one, and each that followed a full one.
        segment_rolls: Count,
        /// State chains that were carried forward to free a segment.
        chains_carried: Count,
        /// Times that the disk became full: no segment could be made.
        no_space_episodes: Count,
        /// Turns of the shard's own thread.
        turns_thread: Count,
        /// Turns in which a client that waited carried out requests by itself.
        turns_client: Count,
    }
    gauges {
        /// Shards that refuse appends for want of space.
        no_space: Count,
        /// Shards that make writes durable by `fdatasync` now, not by `RWF_DSYNC`.
        sync_fdatasync: Count,
        /// Entries being written or synced.
        entries_in_flight: Count,
        /// Reads that wait at the tail of a log, with those whose client went away unnoticed.
        reads_parked: Count,
        /// Segments being written: one for each shard, or none.
        segments_active: Count,
        /// Files that wait to become segments.
        segments_spare: Count,
        /// Bytes of the files of active, sealed and spare segments.
        segment_file_bytes: Bytes,
        /// Bytes of requests that wait to be taken.
        inbox_bytes: Bytes,
        /// Logs that there are.
        logs: Count,
        /// Processors that there are.
        processors: Count,
    }
    histograms {
        /// From an append request's being taken by the shard to its being durable.
        append_latency: Micros <= MICROS_MAX,
        /// How long requests that write were held back, for no entry could take them.
        request_held_time: Micros <= MICROS_MAX,
        /// From a commit's being taken by the shard to its being durable.
        commit_latency: Micros <= MICROS_MAX,
        /// From the first append or commit of an entry to the entry's write.
        entry_open_time: Micros <= MICROS_MAX,
        /// Bytes of entries that hold something, with padding.
        entry_size: Bytes <= ENTRY_SIZE_MAX.into(),
        /// Records of these entries.
        entry_records: Count <= ENTRY_SIZE_MAX.into(),
        /// Append requests and commits of these entries.
        entry_requests: Count <= ENTRY_SIZE_MAX.into(),
        /// From giving the device an entry to the end of its write.
        write_time: Micros <= MICROS_MAX,
        /// From giving the device a sync to its end; with `RWF_DSYNC` the write has it in it.
        sync_time: Micros <= MICROS_MAX,
        /// From a read's being taken by the shard to its answer, unless it was parked.
        read_latency: Micros <= MICROS_MAX,
        /// How long reads were parked at the tail until there was a record.
        read_parked_time: Micros <= MICROS_MAX,
        /// How long nothing could be staged, from a full segment to the next one.
        segment_roll_stall: Micros <= MICROS_MAX,
        /// Requests taken at once, where there were any.
        turn_requests: Count <= 1 << 16,
    }
}

impl ShardMetrics {
    /// Adds another shard's.
    pub(crate) fn add(&mut self, other: &Self) {
        let (sum, more) = (&mut self.stats, &other.stats);
        sum.commit.entries += more.commit.entries;
        sum.commit.bytes += more.commit.bytes;
        sum.commit.records += more.commit.records;
        sum.commit.controls += more.commit.controls;
        sum.commit.syncs += more.commit.syncs;
        sum.sealed += more.sealed;
        sum.no_space |= more.no_space;
        if more.sync_method == SyncMethod::Fdatasync {
            sum.sync_method = SyncMethod::Fdatasync;
        }
        self.add_listed(other);
        self.refusals.add(&other.refusals);
        self.processor_lag.extend_from_slice(&other.processor_lag);
        self.processor_lag.sort_unstable();
    }

    /// All metrics, for whoever does not want to know each: an exporter, a text.
    ///
    /// Names never have a label in one place and none in another. All names but `processor_lag`,
    /// which comes once for each processor, are always there.
    ///
    /// ```
    /// use oncelog::metrics::Value;
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = oncelog::Options::new(dir.path()).segment_size(1 << 20).open()?;
    /// let metrics = engine.metrics().wait()?;
    /// for field in metrics.total.fields() {
    ///     let name = format!("oncelog_{}_{}", field.name, field.unit.name());
    ///     println!("# HELP {name} {}", field.help);
    ///     println!("# TYPE {name} {}", field.value.kind());
    ///     match field.value {
    ///         Value::Counter(value) | Value::Gauge(value) => match field.label {
    ///             Some((key, label)) => println!("{name}{{{key}={label:?}}} {value}"),
    ///             None => println!("{name} {value}"),
    ///         },
    ///         Value::Histogram(histogram) => {
    ///             let mut below = 0;
    ///             for (le, count) in histogram.buckets() {
    ///                 below += count;
    ///                 println!("{name}_bucket{{le=\"{le}\"}} {below}");
    ///             }
    ///             println!("{name}_bucket{{le=\"+Inf\"}} {below}");
    ///             println!("{name}_sum {}\n{name}_count {below}", histogram.sum());
    ///         }
    ///         _ => {}
    ///     }
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn fields(&self) -> impl Iterator<Item = Field<'_>> {
        let ShardStats { commit, sealed, .. } = self.stats;
        let plain = |name, help, unit, value| Field { name, help, unit, label: None, value };
        let mut fields = vec![
            plain("entries", "Entries written.", Unit::Count, Value::Counter(commit.entries)),
            plain("entry_bytes", "Bytes of them.", Unit::Bytes, Value::Counter(commit.bytes)),
            plain(
                "journal_records",
                "Records written, from appends and commits.",
                Unit::Count,
                Value::Counter(commit.records),
            ),
            plain(
                "journal_controls",
                "Records written that the engine wrote for itself.",
                Unit::Count,
                Value::Counter(commit.controls),
            ),
            plain(
                "syncs",
                "Durable writes and syncs: how often the device was asked for durability.",
                Unit::Count,
                Value::Counter(commit.syncs),
            ),
            plain(
                "segments_sealed",
                "Full segments that are still needed.",
                Unit::Count,
                Value::Gauge(sealed),
            ),
        ];
        fields.extend(self.listed());
        self.refusals.push_fields(&mut fields);
        fields.extend(self.processor_lag.iter().map(|(name, lag)| Field {
            name: "processor_lag",
            help: "Durable records of a processor's sources behind its last commit.",
            unit: Unit::Count,
            label: Some(("processor", name.as_str())),
            value: Value::Gauge(*lag),
        }));
        fields.into_iter()
    }
}

impl fmt::Display for ShardMetrics {
    /// One line for each metric that is not zero.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        field::write_fields(f, self.fields())
    }
}

/// Metrics of an engine. See [`Engine::metrics`](crate::Engine::metrics).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EngineMetrics {
    /// All shards together: counters and gauges summed, histograms added.
    pub total: ShardMetrics,
    /// Each shard.
    pub shards: Vec<(ShardId, ShardMetrics)>,
}

impl EngineMetrics {
    pub(crate) fn new(shards: Vec<(ShardId, ShardMetrics)>) -> Self {
        let mut total = ShardMetrics::new();
        for (_, shard) in &shards {
            total.add(shard);
        }
        Self { total, shards }
    }
}

impl fmt::Display for EngineMetrics {
    /// One line for each metric of all shards together that is not zero.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.total.fmt(f)
    }
}
