//! Puts the commit into the program, as `BENCH_HARNESS_COMMIT`, where git knows it.
//!
//! Not here: anything that the program needs to build.

use std::path::Path;
use std::process::Command;

/// What a change of makes another program, from the root.
const SOURCES: [&str; 8] = [
    "Cargo.lock",
    "Cargo.toml",
    "bench-harness/Cargo.toml",
    "bench-harness/build.rs",
    "bench-harness/src",
    "engine/Cargo.toml",
    "engine/src",
    "fio-profiles",
];

fn main() {
    let git = |arguments: &[&str]| {
        let output =
            Command::new("git").args(["--no-optional-locks", "-C", ".."]).args(arguments).output();
        let output = output.ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    for source in SOURCES.iter().map(|source| format!("../{source}")) {
        println!("cargo::rerun-if-changed={source}");
    }
    // Grows with each commit and checkout.
    if let Some(log) = git(&["rev-parse", "--path-format=absolute", "--git-path", "logs/HEAD"])
        && Path::new(&log).exists()
    {
        println!("cargo::rerun-if-changed={log}");
    }
    let changes = git(&[&["status", "--porcelain", "--"], &SOURCES[..]].concat());
    if let (Some(commit), Some(changes)) = (git(&["rev-parse", "--short=12", "HEAD"]), changes) {
        let dirty = if changes.is_empty() { "" } else { "-dirty" };
        println!("cargo::rustc-env=BENCH_HARNESS_COMMIT={commit}{dirty}");
    }
}
