//! The command line: one module of the library for each command.
//!
//! Not here: what the commands do.

use std::process::ExitCode;

use bench_harness::{calibrate, compare, diff, doctor, measure, over_wire, processes, report, run};
use clap::Parser;

/// Measures oncelog beside the device it writes to, and beside other stores.
#[derive(Parser)]
#[command(version, subcommand_required = true, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// What this host is, and what stands in the way of figures to be believed
    Doctor(doctor::Args),
    /// Takes the yardstick: what the device does for plain patterns of I/O
    Calibrate(calibrate::Args),
    /// Measures the engine beside its device, in rounds
    Run(run::Args),
    /// As run, with other stores beside the engine
    Compare(compare::Args),
    /// The front end over loopback, with Redis streams beside it if redis-server is there
    Wire(over_wire::Args),
    Report(report::Args),
    Diff(diff::Args),
    /// One measurement in this process: prints its result as JSON
    #[command(hide = true)]
    Measure(measure::Args),
    #[command(hide = true)]
    MeasureFill(measure::FillArgs),
    /// What this program can measure, as JSON
    Targets,
    #[command(hide = true)]
    Spin(processes::SpinArgs),
}

fn main() -> ExitCode {
    match dispatch() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Doctor(args) => doctor::run(&args),
        Command::Calibrate(args) => calibrate::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Wire(args) => over_wire::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Diff(args) => diff::run(&args),
        Command::Measure(args) => measure::run(&args),
        Command::MeasureFill(args) => measure::fill(&args),
        Command::Targets => measure::targets(),
        Command::Spin(args) => processes::spin(&args),
    }
}
