//! Runs many seeds: `simulate --seeds A..B [--jobs N] [--weather crashes|failing|full|rot]`.
//!
//! Prints seeds a second and what was met; the first failure ends it with the command that replays
//! the seed.
//!
//! Not here: what a seed does (`oncelog_tests::world`).

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use oncelog_tests::coverage::Coverage;
use oncelog_tests::runner::run;
use oncelog_tests::world::Weather;

struct Arguments {
    seeds: Range<u64>,
    jobs: u64,
    name: String,
    weather: Weather,
}

const USAGE: &str = "usage: simulate --seeds A..B [--jobs N] [--weather crashes|failing|full|rot]";

fn arguments() -> Option<Arguments> {
    let mut found = Arguments {
        seeds: 0..1000,
        jobs: std::thread::available_parallelism().map_or(1, |count| count.get() as u64),
        name: "crashes".to_owned(),
        weather: Weather::CRASHES,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next()?;
        match word.as_str() {
            "--seeds" => {
                let (begin, end) = value.split_once("..")?;
                found.seeds = begin.parse().ok()?..end.parse().ok()?;
            }
            "--jobs" => found.jobs = value.parse().ok().filter(|jobs| *jobs > 0)?,
            "--weather" => {
                found.weather = Weather::named(&value)?;
                found.name = value;
            }
            _ => return None,
        }
    }
    Some(found)
}

fn main() -> ExitCode {
    let Some(Arguments { seeds, jobs, name, weather }) = arguments() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let next = AtomicU64::new(seeds.start);
    let failed = AtomicBool::new(false);
    let total = Mutex::new(Coverage::default());
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while !failed.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    let replay = format!(
                        "cargo run --release -p oncelog-tests --bin simulate -- \
                         --weather {name} --seeds {seed}..{}",
                        seed + 1
                    );
                    match catch_unwind(AssertUnwindSafe(|| run(seed, weather, &replay))) {
                        Ok((met, _)) => *total.lock().expect("no holder panics") += met,
                        Err(_) => failed.store(true, Ordering::Relaxed),
                    }
                }
            });
        }
    });
    let total = *total.lock().expect("no holder panics");
    let count = next.load(Ordering::Relaxed).min(seeds.end) - seeds.start;
    let seconds = begin.elapsed().as_secs_f64();
    println!("{count} seeds in {seconds:.1} s, {:.0} a second", count as f64 / seconds);
    for (name, count) in total.all() {
        println!("{count:>12} {name}");
    }
    if failed.into_inner() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
