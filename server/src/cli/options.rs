//! Options of a log, on the command line and in answers.
//!
//! Not here: making and describing logs (`logs`).

use std::time::Duration;

use clap::ValueEnum;
use oncelog::{Codec, LogOptions, Rates};
use serde_json::{Map, Value, json};

use super::fail::Fail;
use super::values::{age, put_bytes, some_bytes};

/// How records are stored.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Compression {
    None,
    Lz4,
    Zstd,
}

/// What can be set for a log.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options of the log")]
pub(super) struct OptionArgs {
    /// Compress records, section by section, where that makes them smaller
    #[arg(long)]
    compression: Option<Compression>,
    /// The largest payload of a record, as in 64KiB
    #[arg(long, value_name = "SIZE", value_parser = some_bytes)]
    record_max: Option<u64>,
    /// Let records go that are older, as in 7d; see --keep-until
    #[arg(long, value_name = "AGE", value_parser = age)]
    keep_for: Option<Duration>,
    /// Let records go behind which more bytes stand, as in 10GiB; see --keep-until
    #[arg(long, value_name = "SIZE", value_parser = some_bytes)]
    keep_bytes: Option<u64>,
    /// Keep records until this processor has passed them; alone: and no longer
    #[arg(long, value_name = "PROCESSOR")]
    keep_until: Vec<String>,
    /// Refuse appends beyond so many bytes a second
    #[arg(long, value_name = "SIZE", value_parser = some_bytes)]
    bytes_hard: Option<u64>,
    /// Warn beyond so many bytes a second
    #[arg(long, value_name = "SIZE", value_parser = some_bytes)]
    bytes_soft: Option<u64>,
    /// Refuse appends beyond so many records a second
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    records_hard: Option<u64>,
    /// Warn beyond so many records a second
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    records_soft: Option<u64>,
    /// Text of the application, kept with the log; at most 4096 bytes
    #[arg(long, value_name = "TEXT")]
    metadata: Option<String>,
}

impl OptionArgs {
    /// For an engine.
    pub(super) fn to_options(&self) -> Result<LogOptions, Fail> {
        let mut options = LogOptions::default().compression(match self.compression {
            None | Some(Compression::None) => Codec::None,
            Some(Compression::Lz4) => Codec::Lz4,
            Some(Compression::Zstd) => Codec::Zstd,
        });
        if let Some(bytes) = self.record_max {
            let max = u32::try_from(bytes).map_err(|_| {
                Fail::Usage(format!("--record-max {bytes}: no record is as large as that"))
            })?;
            options = options.record_size_max(max);
        }
        if let Some(age) = self.keep_for {
            options = options.keep_for(age);
        }
        if let Some(bytes) = self.keep_bytes {
            options = options.keep_bytes(bytes);
        }
        for processor in &self.keep_until {
            options = options.keep_until(processor);
        }
        let mut rates = Rates::default();
        let set = |rates, rate: Option<u64>, with: fn(Rates, u64) -> Rates| match rate {
            Some(rate) => with(rates, rate),
            None => rates,
        };
        rates = set(rates, self.bytes_hard, Rates::bytes_hard);
        rates = set(rates, self.bytes_soft, Rates::bytes_soft);
        rates = set(rates, self.records_hard, Rates::records_hard);
        rates = set(rates, self.records_soft, Rates::records_soft);
        options = options.rates(rates);
        if let Some(metadata) = &self.metadata {
            options = options.metadata(metadata.clone().into_bytes());
        }
        Ok(options)
    }

    /// For a server, as words of `CREATE`.
    pub(super) fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        let mut add = |word: &str, value: Option<String>| {
            if let Some(value) = value {
                words.extend([word.to_owned(), value]);
            }
        };
        let number = |value: Option<u64>| value.map(|value| value.to_string());
        let codec = self.compression.as_ref().and_then(ValueEnum::to_possible_value);
        add("COMPRESSION", codec.map(|codec| codec.get_name().to_owned()));
        add("RECORDMAX", number(self.record_max));
        add("KEEPFOR", self.keep_for.map(|age| format!("{}us", age.as_micros())));
        add("KEEPBYTES", number(self.keep_bytes));
        for processor in &self.keep_until {
            add("KEEPUNTIL", Some(processor.clone()));
        }
        add("BYTESHARD", number(self.bytes_hard));
        add("BYTESSOFT", number(self.bytes_soft));
        add("RECORDSHARD", number(self.records_hard));
        add("RECORDSSOFT", number(self.records_soft));
        add("METADATA", self.metadata.clone());
        words
    }
}

/// Those that are set, under the names that a server has for them.
pub(super) fn to_json(options: &LogOptions) -> Map<String, Value> {
    let codec = match options.compression {
        Codec::None => "none",
        Codec::Lz4 => "lz4",
        Codec::Zstd => "zstd",
    };
    let mut map = Map::new();
    map.insert("compression".to_owned(), codec.into());
    let mut add = |name: &str, value: Option<u64>| {
        if let Some(value) = value {
            map.insert(name.to_owned(), value.into());
        }
    };
    add("recordmax", options.record_size_max.map(|max| max.get().into()));
    add("keepfor_us", options.retention.age_us.map(Into::into));
    add("keepbytes", options.retention.bytes.map(Into::into));
    add("byteshard", options.rates.bytes_hard.map(Into::into));
    add("bytessoft", options.rates.bytes_soft.map(Into::into));
    add("recordshard", options.rates.records_hard.map(Into::into));
    add("recordssoft", options.rates.records_soft.map(Into::into));
    if !options.retention.readers.is_empty() {
        map.insert("keepuntil".to_owned(), json!(options.retention.readers));
    }
    if !options.metadata.is_empty() {
        put_bytes(&mut map, "metadata", &options.metadata);
    }
    map
}
