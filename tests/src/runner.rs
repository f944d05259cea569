//! Runs worlds, and says how to run one that failed again.
//!
//! Not here: what a world does (`world`).

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::coverage::Coverage;
use crate::world::{Weather, World};

const TRACE_TAIL: usize = 60;

/// Runs one seed; what it met, and its trace.
///
/// # Panics
/// If the shard, the disk or the model is not content. The end of the trace and the command that
/// replays the seed are printed first.
pub fn run(seed: u64, weather: Weather, replay: &str) -> (Coverage, Vec<String>) {
    run_script(seed, weather, replay, World::run)
}

/// As [`run`], with another life than the ordinary one.
///
/// # Panics
/// As [`run`].
pub fn run_script(
    seed: u64,
    weather: Weather,
    replay: &str,
    script: fn(&mut World),
) -> (Coverage, Vec<String>) {
    let mut world = World::new(seed, weather);
    if let Err(why) = catch_unwind(AssertUnwindSafe(|| script(&mut world))) {
        let lines = std::env::var("TRACE").ok().and_then(|lines| lines.parse().ok());
        let tail = world.trace.len().saturating_sub(lines.unwrap_or(TRACE_TAIL));
        for line in &world.trace[tail..] {
            eprintln!("  {}", line.chars().take(200).collect::<String>());
        }
        eprintln!("seed {seed} failed after {} lines; replay: {replay}", world.trace.len());
        resume_unwind(why);
    }
    world.coverage.add_disk(&world.disk.counters);
    (world.coverage, world.trace)
}

/// The seeds to run: the one of the environment's `SEED`, or these.
///
/// # Panics
/// If `SEED` is no number.
#[must_use]
pub fn seeds(all: std::ops::Range<u64>) -> std::ops::Range<u64> {
    match std::env::var("SEED") {
        Ok(seed) => {
            let seed = seed.parse().expect("SEED is a number");
            seed..seed + 1
        }
        Err(_) => all,
    }
}

/// Replays a seed of a test of `sim_crash`.
#[must_use]
pub fn replay_of(seed: u64, test: &str) -> String {
    format!("SEED={seed} cargo test -p oncelog-tests --test sim_crash {test}")
}
