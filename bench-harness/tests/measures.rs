//! The program measures each kind of work, and what it counts fits together. No speed is judged.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use bench_harness::outcome::{Measurement, Run};

fn program(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench-harness"));
    command.args(arguments).env_remove("ONCELOG_BENCH_PEERS");
    command.output().expect("the program was built")
}

fn measure(spec: &str) -> Measurement {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let data = dir.path().join("data");
    let data = data.to_str().unwrap();
    let output = program(&["measure", "--segment-size=4MiB", "--dir", data, "--spec", spec]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "measure --spec {spec:?}: {errors}");
    let measured: Measurement = serde_json::from_slice(&output.stdout).unwrap();
    let figures = &measured.figures;
    assert_eq!(figures.latency.0.len(), figures.operations, "{spec}: each has a latency");
    assert!(figures.memory_max > 0 && figures.cpu_user_s + figures.cpu_system_s > 0.0, "{spec}");
    assert!(measured.durability.contains("durable"), "{spec}: {}", measured.durability);
    measured
}

/// The engine has written about as many records as were answered: it is asked a little after the
/// window begins and ends, so not exactly as many.
fn assert_records(measured: &Measurement) {
    let (counted, records) = (measured.figures.extra["engine/records"], measured.figures.records);
    let ratio = counted / records as f64;
    assert!((0.5..2.0).contains(&ratio), "{counted} in the engine, {records} answered");
}

#[test]
fn appends_and_batches_are_what_the_engine_counts_too() {
    let one = measure("append payload=100 seconds=0.5");
    assert_records(&one);
    let (entries, syncs) = (one.figures.extra["engine/entries"], one.figures.extra["engine/syncs"]);
    assert!(entries <= syncs + 1.0, "one in flight: {syncs} syncs for {entries} entries");
    assert_eq!(one.figures.payload_bytes, 100 * one.figures.records);
    let mix = measure("append in_flight=16 logs=100 payload=[[10,1],[100,1]] seconds=0.5");
    assert_records(&mix);
    let mean = mix.figures.payload_bytes as f64 / mix.figures.records as f64;
    assert!((10.0..=100.0).contains(&mean), "{mean} bytes in the mean");
    let batch = measure("batch records=10 in_flight=2 payload=100 seconds=0.5");
    assert_records(&batch);
    assert_eq!(batch.figures.records, 10 * batch.figures.operations);
}

#[test]
fn an_open_loop_counts_what_was_due_and_says_what_it_left_out() {
    let slow = measure("open-loop rate=50 payload=100 seconds=0.5");
    let operations = slow.figures.operations;
    assert!(operations <= 28, "{operations}, but 25 were due, and 3 in the warm-up");
    let fast = measure("open-loop rate=100000000 payload=100 seconds=1");
    assert_eq!(fast.figures.extra["open-loop/overloaded"], 1.0);
}

#[test]
fn commits_are_control_records_of_the_engine() {
    let commit = measure("commit processors=4 outputs=1 payload=100 delta=10 seconds=0.5");
    let (figures, controls) = (&commit.figures, commit.figures.extra["engine/controls"]);
    assert!(controls >= 0.5 * figures.operations as f64, "{controls} of {}", figures.operations);
    assert_eq!(figures.payload_bytes, 110 * figures.operations);
}

#[test]
fn readers_get_what_was_appended() {
    let tail = measure("tail payload=100 readers=2 seconds=0.5");
    assert!(tail.figures.extra["tail/appends_per_s"] > 0.0);
    assert_eq!(tail.figures.payload_bytes, 100 * tail.figures.records);
    for spec in ["catch-up bytes=1MiB readers=2", "catch-up bytes=1MiB logs=4 cold=false"] {
        let figures = measure(spec).figures;
        let expected = if spec.contains("logs=4") { 256 } else { 2048 };
        assert_eq!((figures.records, figures.payload_bytes), (expected, expected * 1024));
    }
    let mixed = measure("mixed in_flight=4 payload=16KiB seconds=0.5");
    assert!(mixed.figures.extra["mixed/read_records_per_s"] > 0.0);
}

#[test]
fn recovery_follows_a_kill_and_a_soak_truncates() {
    let recovery = measure("recovery bytes=1MiB");
    assert_eq!(recovery.figures.operations, 5);
    assert!(recovery.figures.records > 5 * 1024, "those that were filled, and those in flight");
    let soak = measure("soak records=10 in_flight=2 keep=64KiB seconds=1");
    assert!(soak.figures.extra["soak/truncations"] > 0.0);
}

#[test]
fn a_directory_with_something_in_it_is_refused() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    fs::write(dir.path().join("precious"), "x").unwrap();
    let output = program(&["measure", "--dir", dir.path().to_str().unwrap(), "--spec", "append"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("not empty"));
}

/// A program with two peers: one is the engine under another name, the other one always fails.
fn make_peers(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let script = format!(
        r#"#!/bin/sh
if [ "$1" = targets ]; then
    echo '[{{"name":"good","version":"1","durability":"durable","works":["append"]}},'
    echo ' {{"name":"bad","version":"1","durability":"durable","works":["append"]}}]'
    exit
fi
if [ "$3" = bad ]; then echo "error: no server" >&2; exit 1; fi
shift 3
'{}' measure "$@" | sed 's/"target":"oncelog"/"target":"good"/'
"#,
        env!("CARGO_BIN_EXE_bench-harness")
    );
    fs::write(path, script).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_comparison_leaves_out_a_peer_that_fails_and_nothing_stays_behind() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (peers, result) = (dir.path().join("peers"), dir.path().join("result.json"));
    let data = dir.path().join("data");
    make_peers(&peers);
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench-harness"));
    command.args(["compare", "--work", "append payload=100", "--work", "commit", "--rounds=2"]);
    command.args(["--seconds=0.2", "--yardstick-seconds=0", "--any-file-system"]);
    command.arg("--dir").arg(&data).arg("--output").arg(&result);
    let output = command.env("ONCELOG_BENCH_PEERS", &peers).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert_eq!(errors.matches("bad is left out").count(), 1, "{errors}");
    assert!(errors.contains("no server"), "{errors}");
    let run: Run = serde_json::from_str(&fs::read_to_string(&result).unwrap()).unwrap();
    for round in &run.rounds {
        let done = round.measurements.iter().map(|one| (&*one.target, one.spec.work.kind()));
        let expected = [("oncelog", "append"), ("good", "append"), ("oncelog", "commit")];
        assert_eq!(done.collect::<Vec<_>>(), expected);
    }
    assert_eq!(run.rounds.len(), 2);
    assert_eq!(fs::read_dir(&data).unwrap().count(), 0, "something was left in {data:?}");
}

#[test]
fn where_the_engine_fails_the_rest_goes_on_and_the_end_says_so() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let result = dir.path().join("result.json");
    let mut command = Command::new(env!("CARGO_BIN_EXE_bench-harness"));
    command.args(["run", "--work", "append payload=2MiB", "--work", "append payload=100"]);
    command.args(["--rounds=1", "--seconds=0.2", "--yardstick-seconds=0", "--any-file-system"]);
    command.arg("--dir").arg(dir.path().join("data")).arg("--output").arg(&result);
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("split it before appending"), "{errors}");
    let run: Run = serde_json::from_str(&fs::read_to_string(&result).unwrap()).unwrap();
    assert_eq!(run.rounds[0].measurements.len(), 1);
}

/// Whether `redis-server` can be started here; where it is not installed there is nothing to test.
fn has_redis() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join("redis-server").is_file())
}

#[test]
fn a_server_is_started_asked_and_gone_and_each_answer_is_one_record() {
    if !has_redis() {
        eprintln!("no redis-server here");
        return;
    }
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let measure = |name: &str, spec: &str| -> Measurement {
        let data = dir.path().join(name);
        let data = data.to_str().unwrap();
        let output = program(&["measure", "--target=redis", "--dir", data, "--spec", spec]);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{spec}: {errors}");
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let append =
        measure("append", "wire-append connections=3 depth=5 payload=100 seconds=0.2").figures;
    assert_eq!((append.operations, append.latency.0.len()), (append.records, append.records));
    assert_eq!(append.payload_bytes, 100 * append.records);
    assert!(append.memory_max > 0 && append.extra["client/cpu_s"] >= 0.0);
    let read = "wire-read connections=2 count=10 bytes=2500 payload=100 seconds=0.2";
    let read = measure("read", read).figures;
    // 25 records are pages of 10, 10 and 5.
    assert!(read.records > 5 * read.operations && read.records < 10 * read.operations);
    assert_eq!(read.payload_bytes, 100 * read.records);
    let idle = measure("idle", "wire-idle connections=50 seconds=0.2").figures;
    assert!(idle.operations == 50 && idle.extra["wire/memory_bytes_per_connection"] >= 0.0);
}

#[test]
fn without_a_server_it_says_which_one_is_missing() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let data = dir.path().join("data");
    let data = data.to_str().unwrap();
    let wrong = ["wire", "--dir", data, "--quick", "--oncelog", "/nowhere/oncelog"];
    let errors = String::from_utf8_lossy(&program(&wrong).stderr).into_owned();
    assert!(errors.contains("/nowhere/oncelog is no file"), "{errors}");
    let embedded = program(&["measure", "--dir", data, "--spec", "wire-append"]);
    let errors = String::from_utf8_lossy(&embedded.stderr).into_owned();
    assert!(errors.contains("bench-harness wire"), "{errors}");
}
