//! The `oncelog` command.
//!
//! Not here: everything that it does (`cli`).

use std::process::ExitCode;

fn main() -> ExitCode {
    oncelog_server::cli::main()
}
