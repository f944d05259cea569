//! Handing over to the measuring program.
//!
//! Not here: measuring.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use super::fail::Fail;

const PROGRAM: &str = "bench-harness";

/// Measure the engine beside its device and its peers, with `bench-harness`
#[derive(Debug, clap::Args)]
#[command(after_help = "\
All arguments go to bench-harness, which stands beside this program or in the PATH.

Examples:
  oncelog bench -- --help
  oncelog bench -- doctor --dir /mnt/nvme")]
pub(super) struct Bench {
    /// Its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// Only comes back if it cannot be begun.
pub(super) fn bench(args: &Bench) -> Fail {
    let Some(program) = find() else {
        return Fail::Failed(format!(
            "{PROGRAM} is neither beside this program nor in the PATH; in the source tree, \
             `cargo install --path bench-harness` installs it"
        ));
    };
    let error = Command::new(&program).args(&args.args).exec();
    Fail::Failed(format!("cannot run {}: {error}", program.display()))
}

fn find() -> Option<PathBuf> {
    let beside = env::current_exe().ok().and_then(|own| Some(own.parent()?.to_owned()));
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = beside.into_iter().chain(env::split_paths(&path));
    dirs.map(|dir| dir.join(PROGRAM)).find(|program| program.is_file())
}
