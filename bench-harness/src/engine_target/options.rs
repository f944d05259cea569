//! How the engine is opened for a measurement, and what its counters say.
//!
//! Not here: what is done with it.

use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use bytesize::ByteSize;
use clap::ValueEnum;
use oncelog::{Engine, EngineInfo, IoMode, Options, Stopped, SyncMethod};

use super::put;
use crate::meter::Window;
use crate::outcome::Figures;

/// A sixteenth of a segment has room for the metadata of all logs.
const SEGMENT_BYTES_A_LOG: u64 = 16 * 64;
const SEGMENT_SIZE_DEFAULT: u64 = 64 << 20;

/// How the engine is opened.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Options of the engine")]
pub struct EngineOptions {
    /// Number of shards; ratios to the device are meant for one
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub shards: u16,
    /// Bytes of a segment, such as 64MiB [default: the engine's]
    #[arg(long, value_name = "BYTES")]
    pub segment_size: Option<ByteSize>,
    /// How writes are made durable
    #[arg(long, value_enum, default_value_t)]
    pub sync_method: Sync,
    /// Which way to do I/O
    #[arg(long, value_enum, default_value_t)]
    pub io: Io,
    /// How long a shard looks for work before it sleeps, such as 40us [default: the engine's]
    #[arg(long, value_name = "TIME")]
    pub spin: Option<humantime::Duration>,
    /// Processors to keep the shards' threads on, in turn, such as 2,3 [default: the engine's]
    #[arg(long, value_delimiter = ',', value_name = "N,..")]
    pub cores: Vec<usize>,
}

/// How writes are made durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Sync {
    /// Chosen by the engine, and watched
    #[default]
    Auto,
    /// Always RWF_DSYNC on each write
    Dsync,
    /// Always plain writes and fdatasync
    Fdatasync,
}

/// Which way to do I/O.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Io {
    /// io_uring, or what the kernel allows
    #[default]
    Auto,
    /// io_uring or nothing
    Ring,
    /// pwritev2 and preadv
    Plain,
}

impl EngineOptions {
    /// One shard, and all else as the engine chooses.
    #[must_use]
    pub fn plain() -> Self {
        let (segment_size, spin, cores) = (None, None, Vec::new());
        Self { shards: 1, segment_size, sync_method: Sync::Auto, io: Io::Auto, spin, cores }
    }

    /// The engine's options.
    pub(super) fn apply(&self, dir: &Path) -> Options {
        let mut options = Options::new(dir).shards(self.shards).io_mode(match self.io {
            Io::Auto => IoMode::Auto,
            Io::Ring => IoMode::Ring,
            Io::Plain => IoMode::Plain,
        });
        match self.sync_method {
            Sync::Auto => {}
            Sync::Dsync => options = options.sync_method(SyncMethod::Dsync),
            Sync::Fdatasync => options = options.sync_method(SyncMethod::Fdatasync),
        }
        if let Some(size) = self.segment_size {
            options = options.segment_size(size.as_u64());
        }
        if let Some(spin) = self.spin {
            options = options.spin(*spin);
        }
        if !self.cores.is_empty() {
            options = options.cores(self.cores.iter().copied());
        }
        options
    }

    /// With segments that have room for the names of so many logs, unless their size was chosen.
    pub(super) fn for_logs(&self, logs: u32) -> Self {
        let needed = (u64::from(logs) * SEGMENT_BYTES_A_LOG).next_power_of_two();
        let enlarged = Some(ByteSize(needed)).filter(|_| needed > SEGMENT_SIZE_DEFAULT);
        Self { segment_size: self.segment_size.or(enlarged), ..self.clone() }
    }

    /// The same options as words of a command line.
    #[must_use]
    pub fn to_arguments(&self) -> Vec<String> {
        let value = |value: Option<clap::builder::PossibleValue>| {
            value.map(|value| value.get_name().to_owned()).unwrap_or_default()
        };
        let mut arguments = vec![
            format!("--shards={}", self.shards),
            format!("--sync-method={}", value(self.sync_method.to_possible_value())),
            format!("--io={}", value(self.io.to_possible_value())),
        ];
        arguments.extend(self.segment_size.map(|size| format!("--segment-size={}", size.as_u64())));
        arguments.extend(self.spin.map(|spin| format!("--spin={spin}")));
        if !self.cores.is_empty() {
            let cores: Vec<String> = self.cores.iter().map(usize::to_string).collect();
            arguments.push(format!("--cores={}", cores.join(",")));
        }
        arguments
    }
}

/// What an answer of this engine means, in a few words.
pub(super) fn durability(info: &EngineInfo) -> String {
    let Some(shard) = info.shards.first() else { return "no shards".to_owned() };
    let sync = match shard.stats.sync_method {
        SyncMethod::Dsync => "RWF_DSYNC",
        SyncMethod::Fdatasync => "fdatasync",
    };
    let cache = if info.direct_io { "" } else { ", through the page cache" };
    let how = format!("{sync}, {}{cache}", shard.runner.kind);
    match &info.host.why_not {
        None => format!("durable ({how})"),
        Some(why) => format!("NOT durable: {why} ({how})"),
    }
}

/// What all shards did in a time.
pub(super) struct Counted {
    before: EngineInfo,
    pub(super) after: EngineInfo,
}

/// Takes the counters when the window begins and when it ends.
pub(super) fn watch(engine: &Engine, window: Window) -> JoinHandle<Result<Counted, Stopped>> {
    let engine = engine.clone();
    let until = |instant: Instant| thread::sleep(instant - Instant::now());
    thread::spawn(move || {
        until(window.begin);
        let before = engine.info().wait()?;
        until(window.end);
        Ok(Counted { before, after: engine.info().wait()? })
    })
}

impl Counted {
    /// Adds the counters to the figures. `operations` and `records` must be there already.
    pub(super) fn put_into(&self, figures: &mut Figures) {
        let grown = |count: fn(&oncelog::ShardInfo) -> u64| {
            let sum = |info: &EngineInfo| info.shards.iter().map(count).sum::<u64>();
            (sum(&self.after) - sum(&self.before)) as f64
        };
        let entries = grown(|shard| shard.stats.commit.entries);
        let bytes = grown(|shard| shard.stats.commit.bytes);
        let records = grown(|shard| shard.stats.commit.records);
        let controls = grown(|shard| shard.stats.commit.controls);
        let syncs = grown(|shard| shard.stats.commit.syncs);
        let operations = figures.operations as f64;
        let fdatasync = |shard: &oncelog::ShardInfo| {
            u64::from(shard.stats.sync_method == SyncMethod::Fdatasync)
        };
        let with_fdatasync = self.after.shards.iter().map(fdatasync).sum::<u64>();
        let counters = [
            ("engine/entries", entries),
            ("engine/syncs", syncs),
            ("engine/records", records),
            ("engine/controls", controls),
            ("engine/entry_bytes_mean", bytes / entries),
            ("engine/records_per_entry", records / entries),
            ("engine/operations_per_entry", operations / entries),
            ("engine/flushes_per_record", syncs / records),
            ("engine/flushes_per_operation", syncs / operations),
            ("engine/written_bytes_per_payload_byte", bytes / figures.payload_bytes as f64),
            ("engine/wakeups", grown(|shard| shard.wakeups)),
            ("engine/parks", grown(|shard| shard.parks)),
            ("engine/ring_enters", grown(|shard| shard.ring_enters)),
            ("engine/segment_size", self.after.segment_size as f64),
            ("engine/shards", self.after.shards.len() as f64),
            ("engine/shards_with_fdatasync", with_fdatasync as f64),
        ];
        for (name, value) in counters {
            put(figures, name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: EngineOptions,
    }

    #[test]
    fn options_survive_the_way_to_another_process() {
        let words = ["x", "--shards=4", "--segment-size=1MiB", "--sync-method=fdatasync"];
        let more = ["--io=plain", "--spin=7us", "--cores=1,0"];
        let options = Line::parse_from(words.iter().chain(&more)).options;
        let arguments = options.to_arguments();
        let again = Line::parse_from(["x".to_owned()].into_iter().chain(arguments)).options;
        assert_eq!(format!("{options:?}"), format!("{again:?}"));
        assert_eq!((again.shards, again.io, again.cores), (4, Io::Plain, vec![1, 0]));
    }

    #[test]
    fn many_logs_get_larger_segments_unless_their_size_was_chosen() {
        let of = |words: &[&str]| Line::parse_from(words).options;
        assert_eq!(of(&["x"]).for_logs(10_000).segment_size, None);
        assert_eq!(of(&["x"]).for_logs(100_000).segment_size, Some(ByteSize(128 << 20)));
        let chosen = of(&["x", "--segment-size=1MiB"]).for_logs(100_000).segment_size;
        assert_eq!(chosen, Some(ByteSize(1 << 20)));
    }
}
