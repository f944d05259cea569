//! `run`: the engine beside its device.
//!
//! Not here: rounds (`rounds`), other stores (`compare`).

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::processes::Program;
use crate::rounds;

/// Arguments of `run`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Each round takes the yardstick (fio, and raw io_uring), then each workload in a process of its own,
then the yardstick again. Ratios are taken inside a round.

Examples:
  bench-harness run --dir /data --suite quick
  bench-harness run --dir /data --suite standard --rounds 5 -o before.json
  bench-harness run --dir /data --only 'append, 64*' --seconds 10
  bench-harness run --dir /data --work 'append in_flight=64 payload=1KiB logs=1000' --neighbours 1
  bench-harness run --dir /data --suite soak --seconds 3600")]
pub struct Args {
    #[command(flatten)]
    common: rounds::Args,
    /// Where the result goes; replaced if it is there
    #[arg(short, long, default_value = "run.json", value_name = "FILE")]
    output: PathBuf,
}

/// Does it.
///
/// # Errors
/// As [`rounds::run`].
pub fn run(args: &Args) -> Result<()> {
    rounds::run(&args.common, vec![engine(&args.common)?], &args.output)
}

/// The engine, measured by this program.
///
/// # Errors
/// This program cannot find itself.
pub(crate) fn engine(args: &rounds::Args) -> Result<Program> {
    let path = std::env::current_exe().context("this program cannot find itself")?;
    let target = crate::measure::own_target();
    Ok(Program { path, target, arguments: args.engine_arguments() })
}
