//! Ratios of made-up rounds whose answers are known.
//!
//! Not here: real measurements.

use super::*;
use crate::synthetic;

fn round() -> Round {
    synthetic::run(1, 1.0).rounds.remove(0)
}

/// The ratio of such work of the engine.
fn found(round: &Round, label: &str, figure: &str, against: Against) -> Option<Ratio> {
    let ratios = of_round(round);
    let is = |ratio: &&Ratio| {
        ratio.target == "oncelog"
            && (&ratio.label[..], &ratio.figure[..], ratio.against) == (label, figure, against)
    };
    assert!(ratios.iter().filter(is).count() < 2, "{label}, {figure} is there twice");
    ratios.iter().find(is).cloned()
}

fn near(a: f64, b: f64) -> bool {
    (a / b - 1.0).abs() < 0.01
}

#[test]
fn the_yardstick_is_the_mean_of_before_and_after_and_the_better_of_both_ways() {
    let mut round = round();
    for (side, p50) in [(&mut round.before, 80.0), (&mut round.after, 120.0)] {
        side.points.get_mut("fio/commit/fdatasync-4k").unwrap().p50_us = p50;
        side.points.get_mut("fio/commit/dsync-4k").unwrap().p50_us = 101.0;
    }
    let label = "append, 1 in flight, 1 KiB";
    let ratio = found(&round, label, "p50", Against::Device).unwrap();
    assert_eq!(ratio.yardstick, "fio/commit/fdatasync-4k");
    assert_eq!(ratio.yardstick_value, Some(100.0));
    assert!(near(ratio.ratio, 1.12) && ratio.aim == Some(1.15), "{ratio:?}");
    round.after.points.get_mut("fio/commit/fdatasync-4k").unwrap().p50_us = 130.0;
    let ratio = found(&round, label, "p50", Against::Device).unwrap();
    assert_eq!(ratio.yardstick, "fio/commit/dsync-4k");
}

#[test]
fn appends_over_the_wire_are_beside_the_embedded_engine_and_peers_in_all_their_figures() {
    let round = round();
    let label = "wire append, 64 connections, depth 1, 1 KiB";
    let embedded = found(&round, label, "records/s", Against::Own).unwrap();
    assert_eq!(embedded.yardstick, "embedded: append, 64 in flight, 1 KiB");
    for figure in ["records/s", "p50", "p99", "p99.9", "CPU a record", "client CPU a record"] {
        assert!(found(&round, label, figure, Against::Peer).is_some(), "{figure}");
    }
    assert!(found(&round, label, "p50", Against::Device).is_none());
    let single = "wire append, 1 connection, depth 1, 1 KiB";
    assert!(found(&round, single, "p50", Against::Device).is_some());
}

#[test]
fn memory_of_idle_connections_is_beside_a_peer_or_alone() {
    let (mut round, name) = (round(), "memory a connection");
    let label = "wire idle, 1,000 connections, 1 KiB";
    assert!(found(&round, label, name, Against::Peer).is_some());
    assert!(found(&round, label, name, Against::Nothing).is_none());
    round.measurements.retain(|one| is_ours(&one.target));
    assert!(found(&round, label, name, Against::Nothing).is_some());
}

#[test]
fn a_size_between_two_that_were_measured_is_on_the_line_between_them() {
    let knots = [(4.0, 100.0), (16.0, 160.0), (64.0, 400.0)];
    let at = |x| interpolate(&knots, x).unwrap();
    assert_eq!(
        [1.0, 4.0, 10.0, 40.0, 64.0, 99.0].map(at),
        [100.0, 100.0, 130.0, 280.0, 400.0, 400.0]
    );
    assert_eq!(interpolate(&[], 1.0), None);
}

#[test]
fn many_appends_are_beside_as_many_writes_of_their_mean_entry() {
    let mut round = round();
    let of_64 = |one: &&mut Measurement| label(&one.spec) == "append, 64 in flight, 1 KiB";
    let one = round.measurements.iter_mut().find(of_64).unwrap();
    one.figures.extra.insert("engine/entry_bytes_mean".to_owned(), 16384.0);
    (one.figures.records, one.figures.seconds) = (300_000, 1.0);
    for side in [&mut round.before, &mut round.after] {
        side.points.get_mut("fio/commit/dsync-4k").unwrap().p50_us = 100.0;
        side.points.get_mut("fio/commit/dsync-16k").unwrap().p50_us = 160.0;
    }
    let label = "append, 64 in flight, 1 KiB";
    let ratio = found(&round, label, "records/s", Against::Device).unwrap();
    assert!(near(ratio.yardstick_value.unwrap(), 400_000.0), "{ratio:?}");
    assert!(near(ratio.ratio, 0.75) && ratio.aim == Some(0.75), "{ratio:?}");
}

#[test]
fn a_peer_that_answers_early_is_listed_apart_even_where_it_is_the_fastest() {
    let mut round = round();
    let label = "append, 1 in flight, 1 KiB";
    let best = found(&round, label, "p50", Against::Peer).unwrap();
    assert_eq!((&best.yardstick[..], best.aim), ("alder", Some(1.0)));
    let early = found(&round, label, "p50", Against::EarlyPeer).unwrap();
    assert_eq!(early.yardstick, "cedar (answers before it syncs)");
    assert!(early.ratio > 1.0 && early.aim.is_none());
    for one in round.measurements.iter_mut().filter(|one| one.target == "cedar") {
        one.figures.extra.clear();
    }
    assert_eq!(found(&round, label, "p50", Against::Peer).unwrap().yardstick, "cedar");
}

#[test]
fn work_is_beside_appends_of_the_same_round_and_target() {
    let round = round();
    let aims = [
        ("append, 64 in flight, 1 KiB, 1,000 logs", "records/s", Some(0.9)),
        ("append, 64 in flight, 1 KiB, 10,000 logs", "records/s", Some(0.8)),
        ("commit, 64 processors, delta 100 B, 0 outputs, 1 KiB", "operations/s", Some(0.95)),
        ("commit, 64 processors, delta 100 B, 1 output, 1 KiB", "operations/s", Some(0.8)),
        ("mixed, 64 in flight, 1 reader, 1 KiB", "records/s", Some(0.9)),
    ];
    for (label, figure, aim) in aims {
        let ratio = found(&round, label, figure, Against::Own).expect(label);
        assert_eq!((ratio.aim, &ratio.yardstick[..]), (aim, "append, 64 in flight, 1 KiB"));
    }
    let label = "recovery, 4 GiB, 1 KiB";
    let ratio = found(&round, label, "duration", Against::Own).unwrap();
    assert_eq!(ratio.yardstick, "recovery, 256 MiB, 1 KiB");
    assert_eq!(found(&round, "recovery, 256 MiB, 1 KiB", "duration", Against::Own), None);
}

#[test]
fn without_a_yardstick_there_is_no_ratio_and_no_aim_but_the_absolute_ones() {
    let mut round = round();
    for side in [&mut round.before, &mut round.after] {
        side.points.clear();
    }
    let ratios = of_round(&round);
    let device = ratios.iter().filter(|ratio| ratio.against == Against::Device);
    let kinds: BTreeSet<&str> = device.map(|ratio| &ratio.yardstick[..]).collect();
    assert_eq!(kinds, BTreeSet::from(["device read meanwhile"]));
    assert!(ratios.iter().any(|ratio| ratio.figure == "memory" && ratio.aim == Some(256.0)));
    let others = ratios.iter().filter(|ratio| ratio.target != "oncelog");
    assert!(others.filter_map(|ratio| ratio.aim).next().is_none(), "a peer has an aim");
}

#[test]
fn ratios_of_rounds_become_median_smallest_and_largest() {
    let mut run = synthetic::run(3, 1.0);
    for (round, p50) in run.rounds.iter_mut().zip([80.0, 100.0, 112.0]) {
        for side in [&mut round.before, &mut round.after] {
            side.points.values_mut().for_each(|point| point.p50_us = p50);
        }
        let ours = round.measurements.iter_mut().filter(|one| one.target == "oncelog");
        ours.for_each(|one| {
            one.figures.latency = Default::default();
            one.figures.latency.record(112_000);
        });
    }
    let merged = over_rounds(&run);
    let p50 = |one: &&Merged| one.first.against == Against::Device && one.first.figure == "p50";
    let one = merged.iter().find(p50).unwrap();
    assert_eq!(one.ratio.rounds, 3);
    assert!(near(one.ratio.median, 1.12) && near(one.ratio.min, 1.0), "{one:?}");
    assert!(near(one.ratio.max, 1.4) && one.reached() == Some(true), "{one:?}");
    assert_eq!(one.aim().unwrap(), "≤ 1.15");
}

#[test]
fn a_soak_is_as_even_as_its_slowest_second() {
    let mut round = round();
    let soak = round.measurements.iter_mut().find(|one| one.spec.work.kind() == "soak").unwrap();
    soak.figures.records_by_second = vec![100, 100, 70, 110, 105];
    let label = label(&soak.spec);
    let ratio = found(&round, &label, "slowest second", Against::Own).unwrap();
    assert!(near(ratio.ratio, 0.7) && ratio.aim == Some(0.8), "{ratio:?}");
}
