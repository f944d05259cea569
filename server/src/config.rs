//! The settings of a server: the same names on the command line and in a file.
//!
//! ```text
//! --segment-size 64MiB   >   segment_size = "64MiB" in --config FILE   >   the default
//! ```
//!
//! One list (`settings`) makes the struct, the arguments, the example file and the table in
//! docs/operations.md. A value that cannot work is refused when the server starts, never corrected.
//!
//! Not here: what values mean to who uses them; which values go together (`check`).

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use oncelog::{EngineInfo, Options};
use serde::{Deserialize, Serialize};

use crate::connection::Limits;
use crate::frame::RequestLimits;

mod check;
mod values;

pub use check::ConfigError;
pub use values::{Addr, DirectIo, Ingest, Io, LogFormat, MaybeAddr, Period, Size, SyncMethod};

/// One setting, for files and tables.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// What it belongs to.
    pub group: &'static str,
    /// Its name in files; on the command line with dashes.
    pub name: &'static str,
    /// What it does, in lines.
    pub about: &'static [&'static str],
    /// An example in TOML, where nothing is the default.
    pub example: Option<&'static str>,
}

macro_rules! settings {
    ($($group:literal { $($(#[doc = $doc:literal])+ $([$($arg:tt)+])?
        $name:ident: $kind:ident $type:ty = $default:expr;)+ })+) => {
        /// The settings of a server.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct Config {
            $($($(#[doc = $doc])+ pub $name: field!($kind $type),)+)+
        }

        impl Default for Config {
            fn default() -> Self {
                Self { $($($name: initial!($kind $default),)+)+ }
            }
        }

        /// Serves the logs of a data directory
        #[derive(Args, Clone, Debug)]
        pub struct ServeArgs {
            /// A TOML file with settings; arguments go before it
            #[arg(long, value_name = "FILE")]
            pub config: Option<PathBuf>,
            /// Prints the settings as they would be used, and ends
            #[arg(long)]
            pub print_config: bool,
            $($($(#[doc = $doc])+ #[arg(long, help_heading = $group $(, $($arg)+)?)]
            $name: Option<$type>,)+)+
        }

        impl ServeArgs {
            /// Overwrites what was given on the command line.
            fn apply(self, config: &mut Config) {
                $($(if let Some(value) = self.$name {
                    config.$name = given!($kind value);
                })+)+
            }
        }

        /// Every setting, in the order of files.
        pub const SETTINGS: &[Setting] = &[$($(Setting {
            group: $group,
            name: stringify!($name),
            about: &[$($doc),+],
            example: example!($kind $default),
        },)+)+];
    };
}

/// `one`: a value with a default. `maybe`: a value or none, with an example in TOML.
macro_rules! field {
    (one $type:ty) => { $type };
    (maybe $type:ty) => { Option<$type> };
}
macro_rules! initial {
    (one $default:expr) => {
        $default
    };
    (maybe $example:expr) => {
        None
    };
}
macro_rules! given {
    (one $value:ident) => {
        $value
    };
    (maybe $value:ident) => {
        Some($value)
    };
}
macro_rules! example {
    (one $default:expr) => {
        None
    };
    (maybe $example:expr) => {
        Some($example)
    };
}

settings! {
    "Data" {
        /// The directory of the logs.
        data: one PathBuf = PathBuf::from("data");
        /// Whether to make the directory and an empty engine in it if there is none. Say false
        /// where the directory is on a disk that may not be mounted.
        [num_args = 0..=1, default_missing_value = "true", require_equals = true]
        create_data: one bool = true;
        /// Shards of a new engine, 1 to 256; by default one for each processor. An engine that is
        /// there keeps its own, and refuses another number.
        shards: maybe u16 = "2";
        /// Bytes of a segment of a new engine, 1MiB to 1GiB; by default 64MiB. Bounds records too:
        /// an entry is at most an eighth of it, at most 1MiB.
        segment_size: maybe Size = "\"64MiB\"";
        /// Bytes of requests that may wait for each shard before an append waits.
        inbox_size: one Size = Size::mib(16);
        /// Bytes of recent entries that each shard keeps in memory for readers.
        tail_cache_size: one Size = Size::mib(8);
        /// How files are read and written: auto, io_uring or plain.
        engine_io: one Io = Io::Auto;
        /// Whether files are read and written past the page cache: auto, always or never.
        direct_io: one DirectIo = DirectIo::Auto;
        /// How writes are made durable: auto, dsync or fdatasync.
        sync_method: one SyncMethod = SyncMethod::Auto;
        /// Whether each shard's thread stays on one processor.
        [num_args = 0..=1, default_missing_value = "true", require_equals = true]
        pin: one bool = true;
        /// The processors for the shards' threads, in turn; by default all.
        [value_delimiter = ',']
        cores: one Vec<usize> = Vec::new();
        /// How long a shard looks for work before it sleeps. Only where processors are to spare:
        /// connections want them too.
        spin: one Period = Period(Duration::ZERO);
        /// Whether data may be on a network file system, where a sync may not mean durable.
        [num_args = 0..=1, default_missing_value = "true", require_equals = true]
        allow_network_file_system: one bool = false;
        /// Whether an append to a log that is not there makes it, with default options.
        [num_args = 0..=1, default_missing_value = "true", require_equals = true]
        create_logs: one bool = false;
    }
    "Listening" {
        /// Where clients connect; several are possible.
        listen: one Vec<Addr> = vec![Addr(([127, 0, 0, 1], 6380).into())];
        /// Where metrics, health and the status page are served over HTTP, without users; or off.
        watch_listen: one MaybeAddr = MaybeAddr(Some(([127, 0, 0, 1], 9380).into()));
        /// ADDRESS=LOG: each line that comes in there is a record of the log, without users.
        /// Several are possible.
        [value_name = "ADDRESS=LOG"]
        ingest: one Vec<Ingest> = Vec::new();
        /// How sockets are read and written: auto, io_uring or plain.
        transport: one Io = Io::Auto;
        /// Threads that serve connections; 0 is by the number of processors.
        threads: one u16 = 0;
    }
    "Safety" {
        /// The file of users (see oncelog user). Without it everyone who connects may do all.
        users: maybe PathBuf = "\"/etc/oncelog/users.toml\"";
        /// The server's certificate and those up to its root, in PEM. With it every connection of
        /// listen and ingest speaks TLS.
        tls_cert: maybe PathBuf = "\"/etc/oncelog/cert.pem\"";
        /// The private key of the certificate, in PEM.
        tls_key: maybe PathBuf = "\"/etc/oncelog/key.pem\"";
        /// Roots of client certificates, in PEM; without it clients are not asked for one.
        tls_client_ca: maybe PathBuf = "\"/etc/oncelog/clients.pem\"";
        /// Whether a client without a certificate is refused.
        [num_args = 0..=1, default_missing_value = "true", require_equals = true]
        tls_client_required: one bool = false;
        /// Whether everyone who reaches an address that is not of this machine may do everything.
        [num_args = 0..=1, default_missing_value = "true", require_equals = true]
        insecure: one bool = false;
    }
    "Limits" {
        /// Connections at once; more are told so and closed.
        connections_max: one u32 = 10_000;
        /// Connections at once from one address; by default only connections_max counts.
        connections_per_address_max: maybe u32 = "1000";
        /// Bytes of one request; by default the largest batch of the engine and 64KiB. A snapshot
        /// of a processor is one request.
        request_size_max: maybe Size = "\"2MiB\"";
        /// Parts of one request: its name, arguments and records.
        args_max: one u32 = 65_536;
        /// Requests of one connection under way; its next ones wait unread.
        in_flight_max: one u32 = 1_024;
        /// Bytes of payloads of one connection's requests under way; its next ones wait unread.
        in_flight_size_max: one Size = Size::mib(4);
        /// Bytes of answers that one connection has not taken; until it does its requests wait.
        output_size_max: one Size = Size::mib(4);
        /// Bytes of records that one READ answers with at most.
        read_size_max: one Size = Size::mib(4);
        /// Logs that one connection follows at once.
        follows_max: one u32 = 64;
        /// Bytes of records that FOLLOW sends at once, at most.
        follow_batch_size: one Size = Size::kib(256);
        /// Bytes of lines of a feed (ingest) that become durable together, at most.
        ingest_batch_size: one Size = Size::kib(256);
        /// Bytes of requests and answers of all connections; beyond it they wait for each other.
        memory_max: one Size = Size::mib(1024);
    }
    "Times" {
        /// Within this a new connection has finished its TLS handshake and said who it is.
        handshake_timeout: one Period = Period::seconds(10);
        /// A connection on which nothing happened for so long is closed; 0s is never.
        idle_timeout: one Period = Period::seconds(0);
        /// A connection that took nothing of its answers for so long is closed.
        write_timeout: one Period = Period::seconds(30);
        /// At SIGTERM, requests that have begun may take so long to be answered.
        stop_timeout: one Period = Period::seconds(10);
    }
    "Messages" {
        /// How the server's own messages look: human or json.
        log_format: one LogFormat = LogFormat::Human;
        /// Which messages: error, warn, info, debug or trace, or one of those for each part.
        log_filter: one String = "info".to_owned();
    }
}

const HEAD: &str = "\
# Settings of `oncelog serve --config FILE`. An argument goes before the file: --memory-max 2GiB.
# What is commented out has no value of its own; relative paths begin where the server is started.
";

/// What a request takes beside the records of the largest batch.
const REQUEST_OVERHEAD: u64 = 64 << 10;
/// Bytes of a request that is one line, as people type it.
const INLINE_SIZE_MAX: Size = Size::kib(64);
/// Bytes of a line's end, at most.
const LINE_END: usize = 2;

impl ServeArgs {
    /// The settings: arguments before the file, the file before defaults. They are checked.
    ///
    /// # Errors
    /// [`ConfigError`] names each value that is wrong, and what is allowed.
    pub fn load(self) -> Result<Config, ConfigError> {
        let mut config = match &self.config {
            Some(path) => Config::read(path)?,
            None => Config::default(),
        };
        self.apply(&mut config);
        config.check()?;
        Ok(config)
    }
}

impl Config {
    /// The settings of a file, not checked against each other.
    fn read(path: &Path) -> Result<Self, ConfigError> {
        let wrong =
            |why: String| ConfigError { problems: vec![format!("{}: {why}", path.display())] };
        let text =
            fs::read_to_string(path).map_err(|error| wrong(format!("cannot read it: {error}")))?;
        toml::from_str(&text).map_err(|error| wrong(error.to_string()))
    }

    /// A file with these settings, each with what it does.
    ///
    /// # Errors
    /// If a path is not UTF-8, which no TOML file can say.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        let values = toml::Table::try_from(self)?;
        let mut text = HEAD.to_owned();
        let mut group = "";
        for setting in SETTINGS {
            if setting.group != group {
                group = setting.group;
                text += &format!("\n# ---- {group} ----\n");
            }
            text.push('\n');
            setting.about.iter().for_each(|line| text += &format!("#{line}\n"));
            text += &match (values.get(setting.name), setting.example) {
                (Some(value), _) => format!("{} = {value}\n", setting.name),
                (None, Some(example)) => format!("# {} = {example}\n", setting.name),
                (None, None) => unreachable!("only what has an example may have no value"),
            };
        }
        Ok(text)
    }

    /// How the engine is opened.
    pub fn engine_options(&self) -> Options {
        let mut options = Options::new(&self.data)
            .create(self.create_data)
            .inbox_size(self.inbox_size.0)
            .tail_cache_size(self.tail_cache_size.0)
            .io_mode(match self.engine_io {
                Io::Auto => oncelog::IoMode::Auto,
                Io::IoUring => oncelog::IoMode::Ring,
                Io::Plain => oncelog::IoMode::Plain,
            })
            .direct_io(match self.direct_io {
                DirectIo::Auto => oncelog::DirectIo::Auto,
                DirectIo::Always => oncelog::DirectIo::Always,
                DirectIo::Never => oncelog::DirectIo::Never,
            })
            .pin(self.pin)
            .spin(self.spin.0)
            .allow_network_file_system(self.allow_network_file_system);
        if let Some(shards) = self.shards {
            options = options.shards(shards);
        }
        if let Some(size) = self.segment_size {
            options = options.segment_size(size.0);
        }
        if !self.cores.is_empty() {
            options = options.cores(self.cores.iter().copied());
        }
        match self.sync_method {
            SyncMethod::Auto => options,
            SyncMethod::Dsync => options.sync_method(oncelog::SyncMethod::Dsync),
            SyncMethod::Fdatasync => options.sync_method(oncelog::SyncMethod::Fdatasync),
        }
    }

    /// What a connection may hold, where the engine's records and batches are at most so large.
    #[must_use]
    pub fn limits(&self, engine: &EngineInfo) -> Limits {
        let batch = u64::from(engine.batch_size_max);
        let request = self.request_size_max.unwrap_or(Size(batch + REQUEST_OVERHEAD));
        Limits {
            request: RequestLimits {
                bytes: bytes(request),
                args: self.args_max as usize,
                line: bytes(request.min(INLINE_SIZE_MAX)),
            },
            in_flight: self.in_flight_max as usize,
            in_flight_bytes: bytes(self.in_flight_size_max),
            output: bytes(self.output_size_max),
            follows: self.follows_max as usize,
            line: engine.record_size_max as usize + LINE_END,
            // With what each line costs in a batch it still is one.
            lines: bytes(self.ingest_batch_size.min(Size(batch / 4))),
        }
    }

    /// The certificates' files, if there is TLS.
    #[must_use]
    pub fn tls_files(&self) -> Option<crate::tls::TlsFiles> {
        let (cert, key) = (self.tls_cert.clone()?, self.tls_key.clone()?);
        let (client_ca, client_required) = (self.tls_client_ca.clone(), self.tls_client_required);
        Some(crate::tls::TlsFiles { cert, key, client_ca, client_required })
    }
}

fn bytes(size: Size) -> usize {
    usize::try_from(size.0).expect("check() allows less than memory has addresses")
}

#[cfg(test)]
mod tests;
