//! Measures other stores with the specs of bench-harness, one process for each measurement.
//!
//! ```text
//! targets -> JSON list | measure: Spec (JSON) in, Measurement (JSON) out | check: who syncs
//! recovery: measure starts `fill`, which kills itself
//! ```
//!
//! Not here: what is measured (bench_harness::blocking), and how each peer is used (its file).

mod check;
mod fjall;
mod items;
mod naive;
mod okaywal;
mod postgres;
mod raft_engine;
mod redb;
mod redis;
mod registry;
#[cfg(feature = "rocksdb")]
mod rocksdb;
mod server;
mod sqlite;
mod walrus;

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use bench_harness::blocking;
use bench_harness::outcome::Measurement;
use bench_harness::spec::Spec;
use clap::Parser;

/// Measures other stores with the workloads of bench-harness.
#[derive(Parser)]
#[command(version, after_help = EXAMPLES)]
enum Arguments {
    /// Prints the stores that can be measured here, as JSON.
    Targets,
    /// Measures one store once and prints the measurement as JSON.
    Measure(Task),
    /// Fills a store for a recovery, prints the number of records, and kills itself.
    #[command(hide = true)]
    Fill(Task),
    /// Says for each store whether the device sees a flush before each answer.
    Check {
        /// A directory on the device; what is made there is removed.
        #[arg(long)]
        dir: PathBuf,
    },
    /// The same for one store.
    #[command(hide = true)]
    CheckOne {
        #[arg(long)]
        target: String,
        #[arg(long)]
        dir: PathBuf,
    },
}

const EXAMPLES: &str = "Examples:
  bench-peers targets
  bench-peers check --dir /mnt/nvme/check
  bench-peers measure --target redb --dir /mnt/nvme/empty --spec '{\"work\":{\"kind\":\"append\",\
\"in_flight\":8},\"logs\":1,\"payload\":1024,\"seconds\":5,\"seed\":1}'";

#[derive(clap::Args)]
struct Task {
    /// A name that `targets` prints.
    #[arg(long)]
    target: String,
    /// A directory on the device, empty; the data stays there.
    #[arg(long)]
    dir: PathBuf,
    /// What to measure, as JSON.
    #[arg(long, value_parser = |text: &str| serde_json::from_str::<Spec>(text))]
    spec: Spec,
}

fn main() -> Result<()> {
    match Arguments::parse() {
        Arguments::Targets => targets(),
        Arguments::Measure(task) => measure(&task),
        Arguments::Fill(task) => {
            let open = registry::find(&task.target)?.open;
            blocking::fill(&task.spec, &task.dir, &open)
        }
        Arguments::Check { dir } => check::all(&dir),
        Arguments::CheckOne { target, dir } => {
            restart_for_walrus(&target, &dir)?;
            check::one(registry::find(&target)?, &dir)
        }
    }
}

fn targets() -> Result<()> {
    let target = |(peer, version): (&registry::Peer, String)| {
        serde_json::json!({
            "name": peer.name,
            "version": version,
            "durability": peer.durability,
            "works": peer.works,
        })
    };
    let all: Vec<_> = registry::here().into_iter().map(target).collect();
    println!("{}", serde_json::to_string_pretty(&all)?);
    Ok(())
}

fn measure(task: &Task) -> Result<()> {
    let peer = registry::find(&task.target)?;
    let (dir, spec) = (&task.dir, &task.spec);
    let kind = spec.work.kind();
    ensure!(peer.works.contains(&kind), "{} cannot do {kind}", peer.name);
    let in_use = || format!("{} should be an empty directory", dir.display());
    ensure!(dir.read_dir().with_context(in_use)?.next().is_none(), in_use());
    let version = peer.version()?;
    restart_for_walrus(peer.name, dir)?;
    // A directory without a block device says nothing about flushes.
    let seen = check::flushes_are_seen(dir).unwrap_or(false);
    let mut filler = Command::new(std::env::current_exe()?);
    filler.args(["fill", "--target", peer.name, "--dir"]).arg(dir);
    filler.args(["--spec", &serde_json::to_string(spec)?]);
    let mut figures = blocking::run(spec, dir, &peer.open, &mut filler)?;
    if seen {
        check::note(spec, &mut figures);
    }
    let (target, durability) = (peer.name.to_owned(), peer.durability.to_owned());
    let measurement = Measurement { target, version, durability, spec: spec.clone(), figures };
    println!("{}", serde_json::to_string(&measurement)?);
    Ok(())
}

/// Walrus takes its directory from the environment, which a process had better not change: this
/// program begins again with it. It does nothing the second time.
fn restart_for_walrus(target: &str, dir: &Path) -> Result<()> {
    if target != "walrus" || std::env::var_os(walrus::DIRECTORY).is_some_and(|old| old == *dir) {
        return Ok(());
    }
    let mut again = Command::new(std::env::current_exe()?);
    again.args(std::env::args_os().skip(1)).env(walrus::DIRECTORY, dir).env(walrus::QUIET, "1");
    Err(again.exec()).context("starting this program again")
}
