//! A shard on a simulated disk: seeds drive appends, reads, commits, completions in any order,
//! crashes, failing and full disks, damage.
//!
//! Goal: no crash loses an acknowledged record, none appears twice, nothing is half applied; damage
//! gives an error that says what is lost.
//! Method: `oncelog_tests::sim::world`. A failing seed prints the command that replays it.
//!
//! Not here: files, the ring, threads.

use std::ops::Range;

use oncelog_tests::sim::coverage::Coverage;
use oncelog_tests::sim::runner::{replay_of, run, run_script, seeds, trace};
use oncelog_tests::sim::weather::{NAMES, Weather};
use oncelog_tests::sim::world::World;

fn run_all(test: &str, all: Range<u64>, weather: Weather) -> Coverage {
    let mut coverage = Coverage::default();
    for seed in seeds(all) {
        coverage += run(seed, weather, &replay_of(seed, test));
    }
    coverage
}

/// One seed meets little; all of them together must meet this much.
fn must_meet(coverage: &Coverage, all: &[&str]) {
    if std::env::var("SEED").is_ok() {
        return;
    }
    let rows: Vec<_> = coverage.groups().into_iter().flat_map(|group| group.rows).collect();
    for name in all {
        let row = rows.iter().find(|(known, ..)| known == name);
        let (_, count, _) = row.unwrap_or_else(|| panic!("there is no counter {name}"));
        assert!(*count > 0, "no seed ever met: {name}");
    }
}

/// Goal: power cuts and kills at any instant, again while opening, lose nothing acknowledged.
#[test]
fn acked_records_survive_any_crash() {
    let coverage = run_all("acked_records_survive_any_crash", 0..70, Weather::CRASHES);
    let work = ["power cuts", "kills", "recoveries crashed", "closes", "commits", "fenced"];
    let files = ["writes torn", "writes lost", "file ops cut", "names lost", "sides torn"];
    let segments = ["recycled", "shortened", "tails kept", "indexes forgotten"];
    let all = [&work[..], &files, &segments].concat();
    must_meet(&coverage, &all);
    let controls = coverage.groups().pop().expect("the last group");
    let can_be_met = controls.rows.iter().filter(|(.., reason)| reason.is_none());
    let names: Vec<_> = can_be_met.map(|(name, ..)| name.as_str()).collect();
    must_meet(&coverage, &names);
    let numbers = ["numbers forgotten", "numbers out of order", "resends that were not"];
    let writers = ["repeats", "resends that were there", "writers fenced", "writers unknown"];
    let owners = ["writers taken over", "owned refusals", "owners appends", "outputs refused"];
    let ends = ["logs sealed", "ends read", "sealed refusals", "options set", "options conflicts"];
    let all =
        [&numbers[..], &writers, &owners, &ends, &["renames", "sections packed", "over capacity"]];
    must_meet(&coverage, &all.concat());
}

/// Goal: a hard rate refuses what is too much, and says when to come back; then it is taken.
#[test]
fn a_hard_rate_takes_what_comes_when_it_said() {
    let test = "a_hard_rate_takes_what_comes_when_it_said";
    for seed in seeds(0..20) {
        run_script(seed, Weather::CRASHES, &replay_of(seed, test), World::keep_a_rate);
    }
}

/// Goal: a seed is worth printing.
#[test]
fn the_same_seed_gives_the_same_trace() {
    for name in NAMES {
        let weather = Weather::named(name).expect("all names are known");
        for seed in 0..3 {
            let traces = [0, 1].map(|_| trace(seed, weather));
            assert!(traces[0].0 == traces[1].0, "{name}, seed {seed} ran in two ways");
            // What is only counted must not hang on the trace.
            let untraced = run(seed, weather, &replay_of(seed, name));
            assert_eq!(format!("{untraced:?}"), format!("{:?}", traces[0].1));
        }
    }
}

/// Goal: after a failed write or sync nothing more is acknowledged, everyone is told, and what was
/// acknowledged before is there; so it is after a failed operation on files.
#[test]
fn a_failed_write_stops_the_shard_and_loses_nothing_acknowledged() {
    let test = "a_failed_write_stops_the_shard_and_loses_nothing_acknowledged";
    let coverage = run_all(test, 0..40, Weather::FAILING);
    let outcomes = ["stops", "reads failed", "openings failed"];
    let faults = ["eio write", "short write", "eio sync", "eio read"];
    must_meet(&coverage, &[&outcomes[..], &faults, &["eio directory sync"]].concat());
}

/// Goal: a full disk costs appends, and only those, and only while it is full.
#[test]
fn a_full_disk_refuses_appends_and_recovers_by_itself() {
    let test = "a_full_disk_refuses_appends_and_recovers_by_itself";
    for seed in seeds(0..8) {
        run_script(seed, Weather::FULL, &replay_of(seed, test), World::fill_the_disk);
    }
    let coverage = run_all(test, 0..30, Weather::FULL);
    must_meet(&coverage, &["no space", "enospc make spare"]);
}

/// Goal: no record goes by itself that a policy keeps, whatever the clocks do and whenever it
/// crashes; what no policy keeps goes in bounded time.
#[test]
fn records_go_by_themselves_as_their_log_says_and_never_before() {
    let test = "records_go_by_themselves_as_their_log_says_and_never_before";
    let mut coverage = Coverage::default();
    for seed in seeds(0..40) {
        let replay = replay_of(seed, test);
        coverage += run_script(seed, Weather::CRASHES, &replay, World::keep_by_policy);
    }
    must_meet(&coverage, &["expired", "recycled", "power cuts", "kills"]);
}

/// Goal: damage gives an error that says what is lost, or nothing; never other bytes.
#[test]
fn reads_never_return_other_bytes_under_damage() {
    let coverage = run_all("reads_never_return_other_bytes_under_damage", 0..60, Weather::ROT);
    let told = ["openings refused", "reads damaged", "states damaged", "blind spot used"];
    let kinds = ["bit flipped", "block stale", "misdirected read", "misdirected write", "misread"];
    let files = ["file lost", "file cut", "side damaged", "superblock damaged"];
    must_meet(&coverage, &[&told[..], &kinds, &files].concat());
}

/// Goal: nothing of the above depends on the others being absent.
#[test]
fn everything_at_once_loses_nothing_acknowledged() {
    let test = "everything_at_once_loses_nothing_acknowledged";
    let coverage = run_all(test, 0..80, Weather::EVERYTHING);
    must_meet(&coverage, &["too many", "no space", "stops", "openings refused", "clock jumps"]);
}
