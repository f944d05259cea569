//! One measurement, as a process of its own: a spec in, a result out.
//!
//! ```text
//! measure --target oncelog --dir DIR --spec JSON  ->  Measurement as JSON on stdout
//! targets                                         ->  what can be measured, as JSON
//! ```
//!
//! `run` and `compare` start it; it also serves by hand. Other programs that answer to the same two
//! commands can be measured as well.
//!
//! Not here: how specs are written in short (`suite`), rounds (`run`).

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::engine_target::{self, EngineOptions};
use crate::spec::Spec;
use crate::suite;
use crate::wire::{self, Dialect};

/// Arguments of `measure`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  bench-harness measure --dir /data/x --spec 'append in_flight=64 payload=1KiB'
  bench-harness measure --dir /data/x --spec '{\"work\":{\"kind\":\"append\",\"in_flight\":64},
      \"logs\":1,\"payload\":1024,\"seconds\":3.0,\"seed\":1}'")]
pub struct Args {
    /// What to measure; `bench-harness targets` lists what there is
    #[arg(long, default_value = engine_target::NAME)]
    target: String,
    /// An empty directory, or none yet; the data stays there
    #[arg(long)]
    dir: PathBuf,
    /// A workload: JSON, or in short, as `run --work` takes it
    #[arg(long, value_parser = suite::parse)]
    spec: Spec,
    /// The program of a server, where the target is one [default: what PATH has]
    #[arg(long, value_name = "PATH")]
    server: Option<PathBuf>,
    /// One more word for the server's command line; may be given more than once
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    server_word: Vec<String>,
    #[command(flatten)]
    engine: EngineOptions,
}

/// Arguments of `measure-fill`, the child of a recovery.
#[derive(Debug, clap::Args)]
pub struct FillArgs {
    /// The data directory
    #[arg(long)]
    dir: PathBuf,
    /// The workload
    #[arg(long, value_parser = suite::parse)]
    spec: Spec,
    #[command(flatten)]
    engine: EngineOptions,
}

/// One thing that can be measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// What an answer means, in a few words.
    pub durability: String,
    /// The kinds of work that it can do.
    pub works: Vec<String>,
}

/// Measures, and prints the result.
///
/// # Errors
/// The target is not known, the directory is not empty, or the workload failed.
pub fn run(args: &Args) -> Result<()> {
    let server = Dialect::ALL.into_iter().find(|one| one.target() == args.target);
    ensure!(
        server.is_some() || args.target == engine_target::NAME,
        "there is no target {}: this program measures {}, {} and {}; peers are measured by \
         bench-peers",
        args.target,
        engine_target::NAME,
        Dialect::Oncelog.target(),
        Dialect::Redis.target()
    );
    make_empty(&args.dir)?;
    let measurement = match server {
        None => engine_target::measure(&args.spec, &args.dir, &args.engine)?,
        Some(dialect) => {
            let path = args.server.clone().or_else(|| wire::in_path(dialect.program()));
            let path = path.with_context(|| {
                format!("there is no {} in PATH; give --server", dialect.program())
            })?;
            let program = wire::Program { dialect, path, words: args.server_word.clone() };
            wire::measure(&program, &args.spec, &args.dir)?
        }
    };
    println!("{}", serde_json::to_string(&measurement)?);
    Ok(())
}

/// Fills a directory and appends until this process is killed.
///
/// # Errors
/// The engine's.
pub fn fill(args: &FillArgs) -> Result<()> {
    engine_target::fill_until_killed(&args.spec, &args.dir, &args.engine)
}

/// Prints what this program can measure.
///
/// # Errors
/// Printing fails.
pub fn targets() -> Result<()> {
    println!("{}", serde_json::to_string_pretty(&[own_target()])?);
    Ok(())
}

/// What this program can measure.
#[must_use]
pub fn own_target() -> Target {
    Target {
        name: engine_target::NAME.to_owned(),
        version: engine_target::version().to_owned(),
        durability: engine_target::DURABILITY.to_owned(),
        works: engine_target::WORKS.map(str::to_owned).to_vec(),
    }
}

fn make_empty(dir: &Path) -> Result<()> {
    let show = dir.display();
    fs::create_dir_all(dir).with_context(|| format!("cannot make {show}"))?;
    let mut entries = fs::read_dir(dir).with_context(|| format!("cannot list {show}"))?;
    ensure!(entries.next().is_none(), "{show} is not empty: give a directory for this one only");
    Ok(())
}
