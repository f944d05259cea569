//! Counts the words of a text exactly once, while the process that does it is killed again and
//! again.
//!
//! ```text
//! parent: counts the input straight ------------------------------------> compares, byte by byte
//!   | starts, kills with SIGKILL, starts ...                                    ^
//!   v                                                                           |
//! worker: input -> text/lines -> processor text/words: state, text/results -> engine
//! ```
//!
//! Run it with `cargo run --release --example exactly_once`; `-- --help` tells the options. Begin
//! to read in `worker.rs`: that is all that an application needs.

mod args;
mod input;
mod parent;
mod plan;
mod protocol;
mod report;
mod straight;
mod verify;
mod words;
mod worker;

use std::process::ExitCode;

use args::Command;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> ExitCode {
    let result = match args::parse() {
        Ok(Command::Help) => {
            print!("{}", args::HELP);
            Ok(())
        }
        Ok(Command::Run(settings)) => parent::run(settings),
        Ok(Command::Work(job)) => worker::run(&job),
        Err(error) => {
            eprintln!("exactly_once: {error}\nTry --help.");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("exactly_once: {error}");
            ExitCode::FAILURE
        }
    }
}
