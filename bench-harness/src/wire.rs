//! The front end over loopback, beside Redis streams: the same load on both servers.
//!
//! ```text
//! measure(target, spec, dir) -> Server      a fresh one in `dir`, gone at the end
//!                            -> Client      sets up: blocking, whole answers
//!                            -> Load        one thread, epoll, ready requests: counts answers
//!                            -> Figures     processor time and memory are the server's
//! ```
//!
//! | work | oncelog | Redis |
//! |---|---|---|
//! | wire-append | `APPEND log payload` | `XADD log * d payload` |
//! | wire-read | `READ log FROM sequence N COUNT n` | `XRANGE log (id + COUNT n` |
//! | wire-ingest | `INGEST log`, then lines | |
//! | wire-idle | `PING` once | `PING` once |
//!
//! Invariants:
//! - Both servers answer an append when it is durable: oncelog has no other mode, Redis is started
//!   with `appendfsync always` and asked whether it has it. Redis syncs once for all requests of a
//!   turn of its loop, and sends the answers after that.
//! - An error in any answer is an error of the measurement.
//! - The client takes as little of the processors as it can, and the same for both.
//!
//! Not here: rounds and the command line (`over_wire`), Redis by its library (`bench-peers`).

mod client;
mod dialect;
mod load;
mod reply;
mod server;
mod works;

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

pub use dialect::Dialect;

use crate::measure::Target;
use crate::outcome::Measurement;
use crate::spec::Spec;

/// The kinds of work that servers can do: all of them for oncelog.
pub const WORKS: [&str; 4] = ["wire-append", "wire-read", "wire-ingest", "wire-idle"];

/// A server program, and how it is started.
#[derive(Clone, Debug)]
pub struct Program {
    /// Which one.
    pub dialect: Dialect,
    /// Where it is.
    pub path: PathBuf,
    /// Words for its command line behind all others.
    pub words: Vec<String>,
}

impl Program {
    /// What can be measured with it.
    ///
    /// # Errors
    /// It cannot be run, or does not say its version.
    pub fn target(&self) -> Result<Target> {
        let works = WORKS.iter().filter(|work| self.dialect.can(work));
        Ok(Target {
            name: self.dialect.target().to_owned(),
            version: server::version(&self.path)?,
            durability: self.dialect.durability().to_owned(),
            works: works.map(|work| (*work).to_owned()).collect(),
        })
    }
}

/// Where a program is in `PATH`.
#[must_use]
pub fn in_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// Does what the spec says with a server that is started in `dir`, which is empty.
///
/// # Errors
/// The server does not start, ends, or answers an error; the spec is no work for it.
pub fn measure(program: &Program, spec: &Spec, dir: &Path) -> Result<Measurement> {
    let target = program.target()?;
    let kind = spec.work.kind();
    ensure!(
        program.dialect.can(kind),
        "{} does no {kind}: it does {}",
        target.name,
        target.works.join(", ")
    );
    let figures = works::measure(program, spec, dir)?;
    ensure!(
        figures.operations > 0,
        "nothing ended within {} s: ask for more seconds",
        spec.seconds
    );
    Ok(Measurement {
        target: target.name,
        version: target.version,
        durability: target.durability,
        spec: spec.clone(),
        figures,
    })
}
