//! `wire`: the front end over loopback, beside Redis streams, on the same device in turn.
//!
//! ```text
//! oncelog:      --oncelog, beside this program, in PATH
//! redis-server: --redis, in PATH; where there is none, only the front end is measured
//! ```
//!
//! Not here: what is done with a server (`wire`), rounds (`rounds`).

use std::env;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::engine_target::EngineOptions;
use crate::processes::Program;
use crate::rounds;
use crate::suite::Suite;
use crate::wire::{self, Dialect};

const BUILD: &str = "cargo build --release -p oncelog-server";

/// Arguments of `wire`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Each workload is done by `oncelog serve` and by redis-server (streams, appendfsync always), in turn,
each a fresh one in a directory of its own; as many appends in flight in the embedded engine stand
beside them. Ratios are taken inside a round. The client is one thread: on few
processors it takes its part of them, and what it takes is counted apart.

Examples:
  bench-harness wire --dir /data
  bench-harness wire --dir /data --quick
  bench-harness wire --dir /data --only 'wire append, 64 connections*' --rounds 5
  bench-harness wire --dir /data --work 'wire-append connections=256 depth=16 payload=100'
  bench-harness report wire.json -o wire.html")]
pub struct Args {
    /// Directory on the device to measure; a directory of its own is made in it, and removed
    #[arg(long)]
    dir: PathBuf,
    /// A glance: a few short measurements, one round, no yardstick
    #[arg(long)]
    quick: bool,
    /// Only workloads whose name contains this, or matches it if it is a glob
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// This workload instead: such as 'wire-append connections=16 depth=64 payload=100', or JSON;
    /// may be given more than once
    #[arg(long, value_name = "WORK")]
    work: Vec<String>,
    /// Rounds [default: 3; 1 with --quick]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// Length of each measurement [default: 3; 0.3 with --quick]
    #[arg(long, value_name = "SECONDS", value_parser = rounds::seconds)]
    seconds: Option<f64>,
    /// Length of each point of the yardstick; 0: no yardstick [default: 1; 0 with --quick]
    #[arg(long, value_name = "SECONDS")]
    yardstick_seconds: Option<f64>,
    /// So many processes spin on every processor meanwhile
    #[arg(long, value_name = "N", default_value_t = 0)]
    neighbours: u32,
    /// Print the output file to stdout, and no tables
    #[arg(long)]
    json: bool,
    /// Only say what would be measured
    #[arg(long)]
    list: bool,
    /// Go on where nothing says anything about a device: tmpfs, network file systems
    #[arg(long)]
    any_file_system: bool,
    /// Where the result goes; replaced if it is there
    #[arg(short, long, default_value = "wire.json", value_name = "FILE")]
    output: PathBuf,
    /// The program `oncelog` [default: the one beside this program, or in PATH]
    #[arg(long, value_name = "PATH")]
    oncelog: Option<PathBuf>,
    /// One more word for `oncelog serve`, such as --serve=--shards=2; may be given more than once
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    serve: Vec<String>,
    /// The program `redis-server` [default: the one in PATH]
    #[arg(long, value_name = "PATH")]
    redis: Option<PathBuf>,
    /// Without Redis, even if it is there
    #[arg(long, conflicts_with = "redis")]
    without_redis: bool,
}

/// Does it.
///
/// # Errors
/// There is no `oncelog`, or as [`rounds::run`].
pub fn run(args: &Args) -> Result<()> {
    let common = common(args);
    let beside = env::current_exe().ok().and_then(|own| Some(own.parent()?.join("oncelog")));
    let beside = beside.filter(|path| path.is_file());
    let own = find(args.oncelog.as_ref(), beside.or_else(|| wire::in_path("oncelog")))?;
    let own = own.with_context(|| format!("there is no oncelog; build it:\n  {BUILD}"))?;
    let mut programs = vec![program(Dialect::Oncelog, own, &args.serve)?];
    if !args.without_redis {
        match find(args.redis.as_ref(), wire::in_path(Dialect::Redis.program()))? {
            Some(redis) => programs.push(program(Dialect::Redis, redis, &[])?),
            None => eprintln!("there is no redis-server in PATH: measured without it"),
        }
    }
    programs.push(crate::run::engine(&common)?);
    rounds::run(&common, programs, &args.output)
}

fn common(args: &Args) -> rounds::Args {
    let yardstick = if args.quick { 0.0 } else { 1.0 };
    rounds::Args {
        dir: args.dir.clone(),
        suite: if args.quick { Suite::WireQuick } else { Suite::Wire },
        only: args.only.clone(),
        work: args.work.clone(),
        rounds: args.rounds,
        seconds: args.seconds,
        yardstick_seconds: args.yardstick_seconds.unwrap_or(yardstick),
        neighbours: args.neighbours,
        json: args.json,
        list: args.list,
        any_file_system: args.any_file_system,
        engine: EngineOptions::plain(),
    }
}

fn find(named: Option<&PathBuf>, found: Option<PathBuf>) -> Result<Option<PathBuf>> {
    if let Some(named) = named {
        ensure!(named.is_file(), "{} is no file", named.display());
    }
    Ok(named.cloned().or(found))
}

/// A server, measured by this program.
fn program(dialect: Dialect, path: PathBuf, words: &[String]) -> Result<Program> {
    let own = env::current_exe().context("this program cannot find itself")?;
    let mut arguments = vec![format!("--server={}", path.display())];
    arguments.extend(words.iter().map(|word| format!("--server-word={word}")));
    let target = wire::Program { dialect, path, words: words.to_vec() }.target()?;
    Ok(Program { path: own, target, arguments })
}
