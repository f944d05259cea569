//! A shard on a simulated disk: seeds drive appends, reads, commits, completions in any order,
//! crashes, failing disks.
//!
//! Goal: no crash loses an acknowledged record, none appears twice, nothing is half applied.
//! Method: `oncelog_tests::world`. A failing seed prints the command that replays it.
//!
//! Not here: files, the ring, threads.

use oncelog_tests::coverage::Coverage;
use oncelog_tests::runner::{replay_of, run, seeds};
use oncelog_tests::world::Weather;

fn run_all(test: &str, range: std::ops::Range<u64>, weather: Weather) -> Coverage {
    let mut coverage = Coverage::default();
    for seed in seeds(range) {
        coverage += run(seed, weather, &replay_of(seed, test)).0;
    }
    coverage
}

#[test]
fn acked_records_survive_any_crash() {
    let coverage = run_all("acked_records_survive_any_crash", 0..300, Weather::CRASHES);
    println!("{:?}", coverage.all());
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..5 {
        let traces = [0, 1].map(|_| {
            run(seed, Weather::CRASHES, &replay_of(seed, "the_same_seed_gives_the_same_trace")).1
        });
        assert!(traces[0] == traces[1], "seed {seed} ran in two ways");
    }
}
