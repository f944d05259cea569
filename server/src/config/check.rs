//! Which values settings may have, and which go together.
//!
//! All that is wrong is told at once: setting, value, and what is allowed.
//!
//! Not here: how values are written (`values`).

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::Path;
use std::{fmt, mem};

use oncelog::limits::{
    BLOCK_SIZE, ENTRY_SIZE_MAX, READ_SIZE_MAX, SEGMENT_SIZE_MAX, SEGMENT_SIZE_MIN, SHARDS_MAX,
};
use tracing_subscriber::EnvFilter;

use super::{Config, Period, Size};
use crate::private::FileError;
use crate::users::Users;

/// Settings that cannot work.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// What is wrong, each with its setting.
    pub problems: Vec<String>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("these settings cannot work:")?;
        self.problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl std::error::Error for ConfigError {}

/// Collects what is wrong.
#[derive(Default)]
struct Problems(Vec<String>);

impl Problems {
    fn range<T>(&mut self, name: &str, value: T, range: RangeInclusive<T>)
    where
        T: PartialOrd + fmt::Display,
    {
        if !range.contains(&value) {
            let (low, high) = range.into_inner();
            self.0.push(format!("{name} is {value}; give {low} to {high}"));
        }
    }

    fn refuse(&mut self, is_wrong: bool, why: impl Into<String>) {
        if is_wrong {
            self.0.push(why.into());
        }
    }
}

const SECOND: Period = Period::seconds(1);
const DAY: Period = Period::seconds(24 * 60 * 60);
const NEVER: Period = Period::seconds(0);

impl Config {
    /// Whether the settings can work, as far as they alone can tell.
    ///
    /// # Errors
    /// [`ConfigError`] names everything that is wrong.
    pub fn check(&self) -> Result<(), ConfigError> {
        let mut problems = Problems::default();
        self.check_engine(&mut problems);
        self.check_limits(&mut problems);
        self.check_addresses(&mut problems);
        self.check_safety(&mut problems);
        let problems = mem::take(&mut problems.0);
        if problems.is_empty() { Ok(()) } else { Err(ConfigError { problems }) }
    }

    fn check_engine(&self, problems: &mut Problems) {
        problems.refuse(self.data.as_os_str().is_empty(), "data is empty; give a directory");
        if let Some(shards) = self.shards {
            problems.range("shards", shards, 1..=SHARDS_MAX);
        }
        if let Some(size) = self.segment_size {
            let unit = 8 * u64::from(BLOCK_SIZE);
            let sizes = SEGMENT_SIZE_MIN..=SEGMENT_SIZE_MAX;
            let (low, high) = (Size(SEGMENT_SIZE_MIN), Size(SEGMENT_SIZE_MAX));
            let why = format!(
                "segment_size is {size}; give a multiple of {}, {low} to {high}",
                Size(unit)
            );
            problems.refuse(!sizes.contains(&size.0) || !size.0.is_multiple_of(unit), why);
        }
        problems.range("inbox_size", self.inbox_size, Size::mib(1)..=Size::mib(64 << 10));
        problems.range("tail_cache_size", self.tail_cache_size, Size(0)..=Size::mib(64 << 10));
        problems.range("spin", self.spin, NEVER..=SECOND);
        let why = "cores is given and pin is false; take one away";
        problems.refuse(!self.pin && !self.cores.is_empty(), why);
        let bad_filter = EnvFilter::try_new(&self.log_filter).err();
        if let Some(error) = bad_filter {
            let hint = "give error, warn, info, debug or trace";
            problems.0.push(format!("log_filter is {:?}: {error}; {hint}", self.log_filter));
        }
    }

    fn check_limits(&self, problems: &mut Problems) {
        problems.range("threads", self.threads, 0..=1024);
        problems.range("connections_max", self.connections_max, 1..=1_000_000);
        if let Some(count) = self.connections_per_address_max {
            problems.range("connections_per_address_max", count, 1..=self.connections_max);
        }
        let gib = Size::mib(1024);
        if let Some(size) = self.request_size_max {
            problems.range("request_size_max", size, Size::kib(4)..=gib);
        }
        problems.range("in_flight_size_max", self.in_flight_size_max, Size::kib(64)..=gib);
        problems.range("output_size_max", self.output_size_max, Size::kib(64)..=gib);
        problems.range("args_max", self.args_max, 16..=1 << 20);
        problems.range("in_flight_max", self.in_flight_max, 1..=1 << 20);
        let read_size_max = Size(u64::from(READ_SIZE_MAX));
        problems.range("read_size_max", self.read_size_max, Size::kib(4)..=read_size_max);
        problems.range("follows_max", self.follows_max, 1..=100_000);
        problems.range("follow_batch_size", self.follow_batch_size, Size::kib(4)..=read_size_max);
        problems.range("ingest_batch_size", self.ingest_batch_size, Size::kib(4)..=read_size_max);
        problems.range("memory_max", self.memory_max, Size::mib(1)..=Size::mib(1 << 30));
        let one = self.connection_memory();
        let why = format!(
            "memory_max is {}; give at least {one}: request_size_max, in_flight_size_max, \
             output_size_max and read_size_max of one connection",
            self.memory_max
        );
        problems.refuse(self.memory_max < one, why);
        problems.range("handshake_timeout", self.handshake_timeout, SECOND..=DAY);
        problems.range("write_timeout", self.write_timeout, SECOND..=DAY);
        problems.range("stop_timeout", self.stop_timeout, NEVER..=DAY);
        if self.idle_timeout != NEVER {
            problems.range("idle_timeout", self.idle_timeout, SECOND..=Period(365 * DAY.0));
        }
    }

    /// Bytes that one connection may hold, with the largest requests there are.
    fn connection_memory(&self) -> Size {
        let request = self.request_size_max.unwrap_or(Size(u64::from(ENTRY_SIZE_MAX)));
        let parts = [request, self.in_flight_size_max, self.output_size_max, self.read_size_max];
        Size(parts.iter().fold(0, |sum, part| sum.saturating_add(part.0)))
    }

    /// Every address, with the setting that it is from.
    fn addresses(&self) -> impl Iterator<Item = (&'static str, SocketAddr)> {
        let listen = self.listen.iter().map(|addr| ("listen", addr.0));
        let watch = self.watch_listen.0.into_iter().map(|addr| ("watch_listen", addr));
        let ingest = self.ingest.iter().map(|ingest| ("ingest", ingest.addr));
        listen.chain(watch).chain(ingest)
    }

    fn check_addresses(&self, problems: &mut Problems) {
        problems.refuse(self.listen.is_empty(), "listen is empty; give an address");
        let all: Vec<_> = self.addresses().collect();
        for (index, (name, addr)) in all.iter().enumerate() {
            // Port 0 is another one each time.
            let before = all[..index].iter().find(|(_, other)| addr.port() != 0 && other == addr);
            if let Some((other, _)) = before {
                problems
                    .0
                    .push(format!("{name} has {addr}, and so has {other}; give another port"));
            }
        }
    }

    fn check_safety(&self, problems: &mut Problems) {
        let why = "tls_cert and tls_key belong together; give both or none";
        problems.refuse(self.tls_cert.is_some() != self.tls_key.is_some(), why);
        let why = "tls_client_ca is given without tls_cert; give the server a certificate too";
        problems.refuse(self.tls_client_ca.is_some() && self.tls_cert.is_none(), why);
        let why =
            "tls_client_required is true without tls_client_ca; give the roots of the clients";
        problems.refuse(self.tls_client_required && self.tls_client_ca.is_none(), why);
        for (name, addr) in self.addresses().filter(|(_, addr)| !is_local(addr)) {
            let why = match name {
                "listen" if self.users.is_none() => "give users",
                "ingest" if !self.tls_client_required => "require client certificates",
                _ => continue,
            };
            let why = format!(
                "{name} has {addr}, which others reach, and anyone could write there; {why}, \
                 listen on 127.0.0.1, or say insecure = true"
            );
            problems.refuse(!self.insecure, why);
        }
    }

    /// Whether the users can log in to a server with these settings.
    ///
    /// # Errors
    /// [`FileError`] says who cannot, and what to do.
    pub fn check_users(&self, users: &Users) -> Result<(), FileError> {
        let path = self.users.as_deref().unwrap_or(Path::new("users"));
        if users.count() == 0 {
            let why = "it has no user, so nobody could log in; add one: oncelog user add";
            return Err(FileError::new(path, why));
        }
        if users.has_certificates() && self.tls_client_ca.is_none() {
            let why = "it has users with certificates, which clients are only asked for with \
                       tls_cert and tls_client_ca; give those";
            return Err(FileError::new(path, why));
        }
        Ok(())
    }

    /// What may be meant, and should be known.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        for (name, addr) in self.addresses().filter(|(_, addr)| !is_local(addr)) {
            if name == "watch_listen" {
                warnings.push(format!(
                    "watch_listen has {addr}: whoever reaches it reads names of logs and figures"
                ));
                continue;
            }
            if self.tls_cert.is_none() {
                warnings.push(format!(
                    "{name} has {addr} without TLS: passwords and records cross the network in \
                     clear; give tls_cert and tls_key"
                ));
            }
            if self.insecure && (name == "ingest" || self.users.is_none()) {
                warnings.push(format!(
                    "{name} has {addr} with insecure = true: whoever reaches it may write there"
                ));
            }
        }
        warnings
    }
}

/// Whether only this machine reaches an address.
fn is_local(addr: &SocketAddr) -> bool {
    addr.ip().to_canonical().is_loopback()
}
