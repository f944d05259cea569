//! A shard on a simulated disk: seeds drive appends, reads, commits, completions in any order,
//! crashes, failing and full disks, rotting bits.
//!
//! Goal: no crash loses an acknowledged record, none appears twice, nothing is half applied.
//! Method: `oncelog_tests::world`. A failing seed prints the command that replays it.
//!
//! Not here: files, the ring, threads.

use std::ops::Range;

use oncelog_tests::coverage::Coverage;
use oncelog_tests::runner::{replay_of, run, run_script, seeds};
use oncelog_tests::world::{Weather, World};

fn run_all(test: &str, all: Range<u64>, weather: Weather) -> Coverage {
    let mut coverage = Coverage::default();
    for seed in seeds(all) {
        coverage += run(seed, weather, &replay_of(seed, test)).0;
    }
    coverage
}

/// One seed meets little; all of them together must meet everything.
fn must_meet(coverage: &Coverage, all: &[&str]) {
    if std::env::var("SEED").is_ok() {
        return;
    }
    for (name, count) in coverage.all() {
        assert!(!all.contains(&name) || count > 0, "no seed ever met: {name}");
    }
    let known: Vec<_> = coverage.all().iter().map(|(name, _)| *name).collect();
    assert!(all.iter().all(|name| known.contains(name)), "a counter of another name");
}

/// Goal: power cuts and kills at any instant, again while opening, lose nothing acknowledged.
#[test]
fn acked_records_survive_any_crash() {
    let coverage = run_all("acked_records_survive_any_crash", 0..200, Weather::CRASHES);
    let rare = ["stops", "no_space", "reads_failed", "rot_seen", "rot_refused"];
    let all: Vec<_> = coverage.all().iter().map(|(name, _)| *name).collect();
    let often: Vec<_> = all.into_iter().filter(|name| !rare.contains(name)).collect();
    must_meet(&coverage, &often);
}

/// Goal: a seed is worth printing.
#[test]
fn the_same_seed_gives_the_same_trace() {
    for weather in [Weather::CRASHES, Weather::FAILING, Weather::FULL, Weather::ROT] {
        for seed in 0..4 {
            let replay = replay_of(seed, "the_same_seed_gives_the_same_trace");
            let traces = [0, 1].map(|_| run(seed, weather, &replay).1);
            assert!(traces[0] == traces[1], "seed {seed} ran in two ways");
        }
    }
}

/// Goal: after a failed write or sync nothing more is acknowledged, everyone is told, and what was
/// acknowledged before is there.
#[test]
fn a_failed_write_stops_the_shard_and_loses_nothing_acknowledged() {
    let test = "a_failed_write_stops_the_shard_and_loses_nothing_acknowledged";
    let coverage = run_all(test, 0..80, Weather::FAILING);
    must_meet(&coverage, &["stops", "reads_failed", "crashes", "closes", "appends"]);
}

/// Goal: a full disk costs appends, and only those, and only while it is full.
#[test]
fn a_full_disk_refuses_appends_and_recovers_by_itself() {
    let test = "a_full_disk_refuses_appends_and_recovers_by_itself";
    for seed in seeds(0..20) {
        run_script(seed, Weather::CRASHES, &replay_of(seed, test), World::fill_the_disk);
    }
    let coverage = run_all(test, 0..60, Weather::FULL);
    must_meet(&coverage, &["no_space", "appends", "freed", "crashes"]);
}

/// Goal: a rotten bit gives an error that says what is lost, or nothing; never other bytes.
#[test]
fn reads_never_return_other_bytes_under_rot() {
    let coverage = run_all("reads_never_return_other_bytes_under_rot", 0..100, Weather::ROT);
    must_meet(&coverage, &["rot_seen", "rot_refused", "records_read"]);
}
