//! `report`: runs as one HTML page that needs nothing else.
//!
//! ```text
//! run.json.. -> merged::load -> charts (svg) + tables -> page -> report.html
//!                           `-> summary::markdown_rows -> rows.md
//! ```
//!
//! Invariant: the page holds no script, and asks no server for anything.
//!
//! Not here: text for the terminal (`summary`).

use std::path::PathBuf;

use anyhow::Context as _;

use crate::merged::load;
use crate::summary;

mod charts;
mod page;
mod svg;

/// Makes one HTML page of one or more runs: aims, latency, throughput, recovery, all figures.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  bench-harness report run.json -o report.html
  bench-harness report monday.json tuesday.json -o week.html --markdown rows.md")]
pub struct Args {
    /// Files that `run` or `compare` wrote. The rounds of all are brought together.
    #[arg(required = true, value_name = "RUN.json")]
    runs: Vec<PathBuf>,
    /// Where the page goes.
    #[arg(short, long, default_value = "report.html", value_name = "FILE")]
    output: PathBuf,
    /// Where rows for docs/perf.md go, if they are wanted.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// A run cannot be read, or a file cannot be written.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let run = load(&args.runs)?;
    let page = page::page(&run)?;
    let write = |file: &PathBuf, text: &str| {
        std::fs::write(file, text).with_context(|| format!("writing {file:?}"))?;
        eprintln!("{}", file.display());
        anyhow::Ok(())
    };
    write(&args.output, &page)?;
    if let Some(file) = &args.markdown {
        let rows = summary::MARKDOWN_HEAD.to_owned() + &summary::markdown_rows(&run);
        write(file, &rows)?;
    }
    Ok(())
}
