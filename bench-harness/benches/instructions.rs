//! How many instructions the small operations take: the same on a busy machine as on a quiet one.
//!
//! ```sh
//! apt-get install valgrind          # or dnf, pacman
//! cargo bench -p bench-harness --bench instructions
//! cargo bench -p bench-harness --bench instructions -- entry    # some, by name
//! ```
//!
//! ```text
//! this program -> valgrind --tool=callgrind this program --child NAME N    -> instructions
//!              -> valgrind --tool=callgrind this program --child NAME 2N   -> instructions
//!              -> (second - first) / N: start and preparation fall out
//! ```
//!
//! Valgrind knows no AVX-512, so checksums may take another way in it than outside, and it counts
//! one instruction for each byte of a `rep movsb`, which long copies are. Instructions of
//! the kernel are not counted; threads run one at a time, so operations between two of them vary
//! from run to run.
//!
//! Not here: time (`micro`).

use std::process::{Command, ExitCode};

mod operations;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match &words[..] {
        [child, name, times] if child == "--child" => {
            let times = times.parse().expect("a number");
            let all = operations::all();
            let operation = all.iter().find(|one| one.name == *name).expect("a known name");
            (operation.prepare)()(times);
            ExitCode::SUCCESS
        }
        // `cargo test --benches` gives no `--bench`: there is nothing to test here.
        words if words.iter().any(|word| word == "--bench") => {
            let names: Vec<&String> = words.iter().filter(|word| !word.starts_with('-')).collect();
            count_all(&names)
        }
        _ => {
            println!("skipped: run with `cargo bench -p bench-harness --bench instructions`");
            ExitCode::SUCCESS
        }
    }
}

fn count_all(names: &[&String]) -> ExitCode {
    if Command::new("valgrind").arg("--version").output().is_err() {
        eprintln!("valgrind is not installed: apt-get install valgrind (or dnf, pacman)");
        return ExitCode::FAILURE;
    }
    println!("{:<52} {:>14} {:>12}", "operation", "instructions", "a byte");
    for one in operations::all() {
        if !names.is_empty() && !names.iter().any(|name| one.name.contains(name.as_str())) {
            continue;
        }
        // As many as go over 16 MiB, or 2,000.
        let times = one.bytes.map_or(2_000, |bytes| ((16 << 20) / bytes).clamp(20, 2_000));
        let counts = (count(&one.name, times), count(&one.name, 2 * times));
        let (Ok(once), Ok(twice)) = counts else {
            eprintln!("{}: {:?}", one.name, counts);
            return ExitCode::FAILURE;
        };
        let each = (twice as f64 - once as f64) / times as f64;
        let per_byte = one.bytes.map(|bytes| format!("{:.3}", each / bytes as f64));
        println!("{:<52} {each:>14.1} {:>12}", one.name, per_byte.unwrap_or_default());
    }
    ExitCode::SUCCESS
}

/// Instructions of a process that does an operation so many times.
fn count(name: &str, times: u64) -> Result<u64, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args(["--child", name, &times.to_string()])
        .output()
        .map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        return Err(said);
    }
    let counted = said.lines().find_map(|line| line.split_once("Collected :"));
    let counted = counted.and_then(|(_, count)| count.trim().parse().ok());
    counted.ok_or_else(|| format!("valgrind did not say how many instructions it saw:\n{said}"))
}
