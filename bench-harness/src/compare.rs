//! `compare`: the engine beside other stores, on the same device in the same rounds.
//!
//! ```text
//! bench-peers: $ONCELOG_BENCH_PEERS, beside this program, in its target directory, in PATH
//! ```
//!
//! Not here: the stores (`peers/`), rounds (`rounds`).

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};

use crate::processes::Program;
use crate::{rounds, run};

const PEERS: &str = "bench-peers";
const VARIABLE: &str = "ONCELOG_BENCH_PEERS";
/// Where cargo puts it, from the root of the source tree.
const BUILT: &str = "bench-harness/peers/target/release/bench-peers";
const BUILD: &str = "cargo build --release --manifest-path bench-harness/peers/Cargo.toml";

/// Arguments of `compare`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Each workload is done by the engine and by each peer that can do it, one after the other. A peer
that fails is reported and left out. The peers are a program of their own:
  cargo build --release --manifest-path bench-harness/peers/Cargo.toml

Examples:
  bench-harness compare --dir /data --suite quick
  bench-harness compare --dir /data --peer sqlite --peer redb --only append
  ONCELOG_BENCH_PEERS=./bench-peers bench-harness compare --dir /data")]
pub struct Args {
    #[command(flatten)]
    common: rounds::Args,
    /// Only these peers; may be given more than once [default: all that are there]
    #[arg(long, value_name = "NAME")]
    peer: Vec<String>,
    /// Where the result goes; replaced if it is there
    #[arg(short, long, default_value = "compare.json", value_name = "FILE")]
    output: PathBuf,
}

/// Does it.
///
/// # Errors
/// There are no peers, or as [`rounds::run`].
pub fn run(args: &Args) -> Result<()> {
    let found = find(env::var_os(VARIABLE).map(PathBuf::from), &places())?;
    let peers = choose(Program::all_of(&found)?, &args.peer)?;
    let mut programs = vec![run::engine(&args.common)?];
    programs.extend(peers);
    rounds::run(&args.common, programs, &args.output)
}

/// Where the program with the peers may be, in the order in which it is looked for.
fn places() -> Vec<PathBuf> {
    let mut places = Vec::new();
    if let Ok(own) = env::current_exe() {
        places.extend(own.parent().map(|dir| dir.join(PEERS)));
    }
    places.push(PathBuf::from(BUILT));
    places.push(Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/target/release").join(PEERS));
    let path = env::var_os("PATH").unwrap_or_default();
    places.extend(env::split_paths(&path).map(|dir| dir.join(PEERS)));
    places
}

fn find(named: Option<PathBuf>, places: &[PathBuf]) -> Result<PathBuf> {
    if let Some(named) = named {
        ensure!(named.is_file(), "{VARIABLE} is {}, which is no file", named.display());
        return Ok(named);
    }
    match places.iter().find(|place| place.is_file()) {
        Some(place) => Ok(place.clone()),
        None => bail!("there is no {PEERS}; build it:\n  {BUILD}\nor name it with {VARIABLE}"),
    }
}

fn choose(mut all: Vec<Program>, wanted: &[String]) -> Result<Vec<Program>> {
    let names: Vec<String> = all.iter().map(|program| program.target.name.clone()).collect();
    if let Some(missing) = wanted.iter().find(|wanted| !names.contains(wanted)) {
        bail!("there is no peer {missing}; there are {}", names.join(", "));
    }
    all.retain(|program| wanted.is_empty() || wanted.contains(&program.target.name));
    ensure!(!all.is_empty(), "{PEERS} knows no peer that can be measured here");
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Target;

    fn program(name: &str) -> Program {
        let (name, version, durability) = (name.to_owned(), String::new(), String::new());
        let target = Target { name, version, durability, works: Vec::new() };
        Program { path: PathBuf::new(), target, arguments: Vec::new() }
    }

    #[test]
    fn peers_are_chosen_by_name_and_an_unknown_one_is_refused_with_those_that_are_there() {
        let names = |wanted: &[&str]| {
            let wanted: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
            let chosen = choose(vec![program("redb"), program("sqlite")], &wanted);
            chosen.map(|chosen| chosen.into_iter().map(|one| one.target.name).collect::<Vec<_>>())
        };
        assert_eq!(names(&[]).unwrap(), ["redb", "sqlite"]);
        assert_eq!(names(&["sqlite"]).unwrap(), ["sqlite"]);
        assert!(names(&["rocks"]).unwrap_err().to_string().contains("redb, sqlite"));
    }

    #[test]
    fn where_there_is_no_program_with_peers_it_says_how_to_build_it() {
        let error = find(None, &[PathBuf::from("/nowhere/bench-peers")]).unwrap_err().to_string();
        assert!(error.contains(BUILD) && error.contains(VARIABLE), "{error}");
        let here = env::current_exe().unwrap();
        assert_eq!(find(None, std::slice::from_ref(&here)).unwrap(), here);
        assert!(find(Some(PathBuf::from("/nowhere")), &[here]).is_err());
    }
}
