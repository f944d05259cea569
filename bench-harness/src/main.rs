//! The command line: one module of the library for each command.
//!
//! Not here: what the commands do.

use clap::Parser;

/// Measures oncelog beside the device it writes to, and beside other stores.
#[derive(Parser)]
#[command(version, subcommand_required = true, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {}
}
