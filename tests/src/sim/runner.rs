//! Runs worlds, and says how to run one that failed again.
//!
//! ```text
//! seed -> world, nothing written down -> fails? -> the same world again, traced -> lines, command
//! ```
//!
//! Writing everything down takes longer than what happens, so only a seed that failed is traced.
//!
//! Not here: what a world does (`world`).

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Once;

use crate::sim::coverage::Coverage;
use crate::sim::weather::Weather;
use crate::sim::world::World;

/// So many lines of a failed seed's trace are printed if nothing else is said.
const TRACE_TAIL: usize = 60;

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// What a world was, and why it failed if it did.
struct Life {
    world: World,
    why: Option<Box<dyn Any + Send>>,
}

fn live(seed: u64, weather: Weather, tracing: bool, script: fn(&mut World)) -> Life {
    let mut world = World::new(seed, weather, tracing);
    let why = catch_unwind(AssertUnwindSafe(|| script(&mut world))).err();
    world.coverage.faults = world.disk.met;
    Life { world, why }
}

/// Panics of seeds that are run without a trace say nothing: they are run again.
fn live_quietly(seed: u64, weather: Weather, script: fn(&mut World)) -> Life {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                loud(info);
            }
        }));
    });
    QUIET.set(true);
    let life = live(seed, weather, false, script);
    QUIET.set(false);
    life
}

/// Runs one seed; what it met.
///
/// # Panics
/// If the shard, the disk or the model is not content. The end of the trace and the command that
/// replays the seed are printed first.
pub fn run(seed: u64, weather: Weather, replay: &str) -> Coverage {
    run_script(seed, weather, replay, World::run)
}

/// As [`run`], with another life than the ordinary one.
///
/// # Panics
/// As [`run`].
pub fn run_script(seed: u64, weather: Weather, replay: &str, script: fn(&mut World)) -> Coverage {
    let life = live_quietly(seed, weather, script);
    if life.why.is_none() {
        return life.world.coverage;
    }
    drop(life);
    let Life { world, why } = live(seed, weather, true, script);
    let lines = std::env::var("TRACE").ok().and_then(|lines| lines.parse().ok());
    let tail = world.trace.len().saturating_sub(lines.unwrap_or(TRACE_TAIL));
    for line in &world.trace[tail..] {
        eprintln!("  {}", line.chars().take(200).collect::<String>());
    }
    eprintln!("seed {seed} failed after {} lines; replay: {replay}", world.trace.len());
    resume_unwind(why.unwrap_or_else(|| Box::new("it failed only when it was not traced")))
}

/// Runs one seed and gives its whole trace, and whether it failed.
#[must_use]
pub fn trace(seed: u64, weather: Weather) -> (Vec<String>, Coverage, bool) {
    let Life { world, why } = live(seed, weather, true, World::run);
    (world.trace, world.coverage, why.is_some())
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
