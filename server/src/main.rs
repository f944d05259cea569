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
    let format = match config.log_format {
        oncelog_server::config::LogFormat::Human => oncelog_server::logging::Format::Human,
        oncelog_server::config::LogFormat::Json => oncelog_server::logging::Format::Json,
    };
    oncelog_server::logging::init(format, &config.log_filter)?;
    oncelog_server::serve::run(&config)
}
