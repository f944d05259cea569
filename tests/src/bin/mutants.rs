//! Plants classic bugs one at a time into a copy of the tree and shows that each is caught.
//!
//! ```text
//! mutants [--only TEXT] [--list]
//! ```
//!
//! First every check must pass without a bug. Exit code 1 if a bug was not caught.
//!
//! Not here: the bugs (`oncelog_tests::mutants`).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use lexopt::prelude::*;
use oncelog_tests::mutants::{Check, MUTANTS, Mutant};

const HELP: &str = "\
Plants classic bugs one at a time into a copy of the source tree, and shows that the simulator or
a test catches each. Takes about a minute for each bug: the engine is built anew every time.

usage: mutants [--only TEXT] [--list]

  --only TEXT   only bugs whose names contain TEXT
  --list        the names of the bugs, and nothing else

examples:
  cargo run --release -p oncelog-tests --bin mutants
  cargo run --release -p oncelog-tests --bin mutants -- --only sync

Exit code: 0 all were caught, 1 one was not, 2 the check itself does not work.";

fn main() -> ExitCode {
    let mut only = String::new();
    let mut parser = lexopt::Parser::from_env();
    loop {
        match parser.next() {
            Ok(None) => break,
            Ok(Some(Long("only"))) => match parser.value().map(|value| value.into_string()) {
                Ok(Ok(text)) => only = text,
                _ => return usage("--only wants a text"),
            },
            Ok(Some(Long("list"))) => {
                MUTANTS.iter().for_each(|mutant| println!("{}", mutant.name));
                return ExitCode::SUCCESS;
            }
            Ok(Some(Long("help") | Short('h'))) => {
                println!("{HELP}");
                return ExitCode::SUCCESS;
            }
            Ok(Some(other)) => return usage(&other.unexpected().to_string()),
            Err(error) => return usage(&error.to_string()),
        }
    }
    let chosen: Vec<_> = MUTANTS.iter().filter(|mutant| mutant.name.contains(&only)).collect();
    match run(&chosen) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(missed) => {
            eprintln!("{missed} of {} bugs were not caught", chosen.len());
            ExitCode::FAILURE
        }
        Err(why) => {
            eprintln!("{why}");
            ExitCode::from(2)
        }
    }
}

fn usage(why: &str) -> ExitCode {
    eprintln!("{why}\n\n{HELP}");
    ExitCode::from(2)
}

/// How many were missed.
fn run(chosen: &[&Mutant]) -> Result<usize, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("no workspace")?;
    let place = root.join("target/mutants");
    let tree = place.join("tree");
    if tree.exists() {
        fs::remove_dir_all(&tree).map_err(|error| format!("{}: {error}", tree.display()))?;
    }
    copy(root, &tree).map_err(|error| format!("copying the tree: {error}"))?;
    let bench = Bench { tree, build: place.join("build") };
    let checks: BTreeMap<String, Check> =
        chosen.iter().map(|mutant| (words(mutant.check).join(" "), mutant.check)).collect();
    for (name, check) in checks {
        print!("without a bug: {name} .. ");
        match bench.passes(check)? {
            true => println!("passes"),
            false => return Err("fails: nothing can be said about any bug".to_owned()),
        }
    }
    let mut missed = 0;
    for mutant in chosen {
        let begin = Instant::now();
        let caught = bench.catches(mutant)?;
        missed += usize::from(!caught);
        let word = if caught { "caught" } else { "MISSED" };
        let by = words(mutant.check).join(" ");
        println!("{word} in {:3.0} s: {} ({by})", begin.elapsed().as_secs_f64(), mutant.name);
    }
    Ok(missed)
}

/// What cargo is told, to run a check.
fn words(check: Check) -> Vec<String> {
    let words = match check {
        Check::Simulate(weather, seeds) => {
            let run = "run -q -p oncelog-tests --bin simulate --";
            format!("{run} --weather {weather} --seeds 0..{seeds}")
        }
        Check::Test(words) => format!("test -q {}", words.join(" ")),
    };
    words.split(' ').map(str::to_owned).collect()
}

struct Bench {
    tree: PathBuf,
    build: PathBuf,
}

impl Bench {
    fn catches(&self, mutant: &Mutant) -> Result<bool, String> {
        let path = self.tree.join(mutant.file);
        let failed = |error: std::io::Error| format!("{}: {error}", path.display());
        let good = fs::read_to_string(&path).map_err(failed)?;
        let bad = mutant.plant(&good)?;
        fs::write(&path, bad).map_err(failed)?;
        let builds = self.cargo(&["build", "-q", "-p", "oncelog", "-p", "oncelog-tests"])?;
        let passes = if builds { self.passes(mutant.check) } else { Ok(true) };
        fs::write(&path, good).map_err(failed)?;
        match builds {
            true => Ok(!passes?),
            false => Err(format!("the bug {:?} does not build", mutant.name)),
        }
    }

    fn passes(&self, check: Check) -> Result<bool, String> {
        let words = words(check);
        self.cargo(&words.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn cargo(&self, words: &[&str]) -> Result<bool, String> {
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        let status = Command::new(cargo)
            .args(words)
            .current_dir(&self.tree)
            .env("CARGO_TARGET_DIR", &self.build)
            .env("CARGO_PROFILE_DEV_OPT_LEVEL", "1")
            .env("RUSTFLAGS", "-A warnings")
            .env("RUST_BACKTRACE", "0")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        Ok(status.map_err(|error| format!("cargo: {error}"))?.success())
    }
}

/// Copies a tree without what git and cargo keep in it.
fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (name, path) = (entry.file_name(), entry.path());
        if name == "target" || name == ".git" {
            continue;
        }
        if path.is_dir() {
            copy(&path, &to.join(name))?;
        } else {
            fs::copy(&path, to.join(name))?;
        }
    }
    Ok(())
}
