//! The `oncelog` command.

use clap::{Parser, Subcommand};
use oncelog_server::config::ServeArgs;

#[derive(Parser)]
#[command(version, about = "A durable log engine")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serves the logs of a data directory
    Serve(ServeArgs),
}

fn main() -> anyhow::Result<()> {
    let Command::Serve(args) = Cli::parse().command;
    let print = args.print_config;
    let config = args.load()?;
    if print {
        print!("{}", config.to_toml()?);
        return Ok(());
    }
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    oncelog_server::serve::run(&config)
}
