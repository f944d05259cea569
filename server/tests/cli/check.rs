//! Checking, repairing, decoding: what is said about sound and damaged directories.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::support::{Data, files};

/// An engine with sealed segments.
fn filled() -> Data {
    let data = Data::new();
    data.fill("g/log", 3000, 1000);
    data
}

fn segment_files(data: &Data, end: &str) -> Vec<PathBuf> {
    let named = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.starts_with("segment-") && name.ends_with(end)
    };
    files(&data.path()).into_iter().filter(named).collect()
}

/// Damages the payload of record `number`, and returns the segment's file.
fn damage(data: &Data, number: usize) -> PathBuf {
    let payload = format!("{number:01000}");
    for path in segment_files(data, ".log") {
        let mut bytes = fs::read(&path).unwrap();
        let found = bytes.windows(payload.len()).position(|part| part == payload.as_bytes());
        if let Some(at) = found {
            bytes[at] ^= 1;
            fs::write(&path, bytes).unwrap();
            return path;
        }
    }
    panic!("no segment has record {number}");
}

#[test]
fn a_sound_directory_is_found_sound_and_is_not_changed() {
    let data = filled();
    let before = files(&data.path());
    let report = data.run(&["verify", "--json"]).json();
    assert_eq!((&report["sound"], &report["records"]), (&json!(true), &json!(3000)));
    assert_eq!(report["findings"], json!([]));
    assert!(data.run(&["verify"]).ok().ends_with("sound\n"));
    let repaired = data.run(&["repair"]).ok();
    assert!(repaired.contains("nothing was done"), "{repaired}");
    assert_eq!(files(&data.path()), before);
}

#[test]
fn damaged_records_are_told_with_1_and_the_others_are_read() {
    let data = filled();
    damage(&data, 5);
    let verify = data.run(&["verify", "--json"]);
    assert_eq!(verify.code, 1);
    let report: Value = serde_json::from_slice(&verify.out).unwrap();
    assert_eq!(report["sound"], false);
    let at_risk = &report["findings"][0]["at_risk"][0];
    assert_eq!(at_risk["name"], "g/log");
    let lost = at_risk["first"].as_u64().unwrap()..at_risk["end"].as_u64().unwrap();
    assert!(lost.contains(&5));
    let text = data.run(&["verify"]);
    let lines = String::from_utf8_lossy(&text.out).into_owned();
    assert!(lines.contains("LOSS: ") && lines.ends_with("NOT SOUND\n"), "{lines}");
    assert!(text.fails(1).contains("oncelog repair"));

    assert!(data.run(&["read", "g/log"]).fails(1).contains("cannot be read"));
    // An export that cannot be whole leaves nothing.
    let export = data.file("export");
    assert!(
        data.run(&["export", "g/log", "--output", &export]).fails(1).contains("cannot be read")
    );
    let beside = fs::read_dir(data.path().parent().unwrap()).unwrap().count();
    assert_eq!(beside, 1, "only the engine");
    let behind = data.run(&["read", "g/log", "--from", &lost.end.to_string(), "-n", "1"]).ok();
    assert_eq!(behind.trim().trim_start_matches('0'), lost.end.to_string());
    // Nothing keeps it from opening, so nothing is given up.
    assert!(data.run(&["repair"]).fails(2).contains("say --yes"));
    let repair = data.run(&["repair", "--yes", "--json"]);
    assert_eq!(repair.code, 1, "{}", repair.err);
    let repaired: Value = serde_json::from_slice(&repair.out).unwrap();
    assert_eq!((&repaired["steps"], &repaired["kept"]), (&json!([]), &json!(null)));
}

#[test]
fn a_missing_segment_is_stood_in_for_if_that_is_meant() {
    let data = filled();
    let first = segment_files(&data, ".log").swap_remove(0);
    fs::remove_file(&first).unwrap();
    assert!(data.run(&["logs"]).fails(1).contains("oncelog repair"));
    assert_eq!(data.run(&["verify"]).code, 1);
    let asked = data.run(&["repair"]);
    assert!(asked.fails(2).contains("nothing was done"));
    assert!(!first.exists());
    let repair = data.run(&["repair", "--yes"]);
    let text = String::from_utf8_lossy(&repair.out).into_owned();
    assert!(text.contains("segment-"), "{text}");
    assert_eq!(data.run(&["logs"]).ok(), "g/log\n");
    assert_eq!(data.run(&["tail", "g/log", "-n", "1"]).ok(), format!("{:01000}\n", 2999));
}

#[test]
fn indexes_are_made_anew_and_none_is_given_up_where_records_are_damaged() {
    let data = filled();
    let indexes = segment_files(&data, ".index");
    assert!(indexes.len() >= 2, "{indexes:?}");
    let before: Vec<_> = indexes.iter().map(|path| fs::read(path).unwrap()).collect();
    fs::write(&indexes[0], "rot").unwrap();
    let rebuilt = data.run(&["index", "rebuild", "--json"]).json();
    assert_eq!(rebuilt["removed"], rebuilt["made"]);
    for (path, before) in indexes.iter().zip(&before) {
        assert_eq!(&fs::read(path).unwrap(), before, "{path:?}");
    }
    damage(&data, 5);
    assert!(data.run(&["index", "rebuild"]).fails(1).contains("all were left"));
    for (path, before) in indexes.iter().zip(&before) {
        assert_eq!(&fs::read(path).unwrap(), before, "{path:?}");
    }
}

#[test]
fn a_segment_is_decoded_down_to_its_records() {
    let data = Data::new();
    data.run(&["append", "g/log", "one", "--txid", "7"]).ok();
    data.run(&["append", "g/log", "two", "--writer", "w"]).ok();
    let number = |path: &PathBuf| {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        u64::from_str_radix(&name["segment-".len()..], 16).unwrap().to_string()
    };
    let path = segment_files(&data, ".log").pop().unwrap();
    let dump = data.run(&["dump", "--segment", &number(&path), "--records", "--json"]).lines();
    let by_file = crate::support::run(&["dump", path.to_str().unwrap(), "--records", "--json"]);
    assert_eq!(by_file.lines(), dump);
    let of = |kind: &str| dump.iter().filter(|line| line["type"] == kind).collect::<Vec<_>>();
    assert_eq!(of("segment").len(), 1);
    let records = of("record");
    let payloads: Vec<_> = records.iter().map(|record| &record["payload"]).collect();
    assert_eq!(payloads, ["one", "two"]);
    assert_eq!((&records[0]["txid"], &records[0]["sequence"]), (&json!(7), &json!(0)));
    let kinds: Vec<_> = of("control").iter().map(|control| control["kind"].clone()).collect();
    for kind in ["manifest", "log_created", "writer_opened", "writer_appended"] {
        assert!(kinds.contains(&json!(kind)), "{kind} is not among {kinds:?}");
    }
    assert_eq!(dump.last().unwrap()["type"], "end");
    let text = crate::support::run(&["dump", path.to_str().unwrap()]).ok();
    assert!(text.contains("\nentry ") && text.contains("\n  control "), "{text}");
}

#[test]
fn damage_is_seen_in_a_dump_and_what_is_no_segment_is_refused() {
    let data = filled();
    let path = damage(&data, 5);
    let file = path.to_str().unwrap();
    let dump = crate::support::run(&["dump", file, "--json"]);
    let text = String::from_utf8_lossy(&dump.out).into_owned();
    assert!(text.contains("\"whole\":false"));
    assert!(dump.fails(1).contains("records of log 1 in entry"));
    // A header is read off the first entry.
    let mut bytes = fs::read(&path).unwrap();
    bytes[..4096].fill(0);
    fs::write(&path, &bytes).unwrap();
    let dump = crate::support::run(&["dump", file]);
    assert!(String::from_utf8_lossy(&dump.out).contains("entry 1"));
    assert!(dump.fails(1).contains("its header"));
    // A block between two entries.
    let entry = text.lines().filter(|line| line.contains("\"type\":\"entry\"")).nth(3).unwrap();
    let entry: Value = serde_json::from_str(entry).unwrap();
    let offset = usize::try_from(entry["offset"].as_u64().unwrap()).unwrap();
    bytes[offset..offset + 4096].fill(0xEE);
    fs::write(&path, &bytes).unwrap();
    let dump = crate::support::run(&["dump", file, "--json"]);
    let hole = format!("\"offset\":{offset},\"type\":\"hole\"");
    assert!(String::from_utf8_lossy(&dump.out).contains(&hole));
    assert!(dump.fails(1).contains("3 things are damaged"));

    assert!(data.run(&["dump", "--segment", "99"]).fails(1).contains("has 1 shards"));
    let other = data.file("other");
    crate::support::run(&["dump", &other]).fails(3);
    fs::write(&other, "hello").unwrap();
    assert!(crate::support::run(&["dump", &other]).fails(1).contains("is no segment"));
    fs::write(&other, "").unwrap();
    crate::support::run(&["dump", &other]).fails(1);
}

#[test]
fn space_and_segments_tell_what_is_kept_and_by_whom() {
    let data = filled();
    data.run(&["create", "g/slow"]).ok();
    data.run(&["truncate", "g/log", "--before", "2900"]).ok();
    let space = data.run(&["space", "--json"]).json();
    assert_eq!(space[0]["shard"], 0);
    let logs = space[0]["logs"].as_array().unwrap();
    assert!(logs.iter().any(|log| log["name"] == "g/log"), "{space}");
    assert!(data.run(&["space"]).ok().starts_with("shard 0: "));
    // Those that only truncated records are in may go at any time.
    let segments = data.run(&["segments", "--json"]).json();
    let last = segments.as_array().unwrap().last().unwrap();
    assert_eq!((&last["shard"], &last["sealed"]), (&json!(0), &json!(false)));
    assert!(data.run(&["segments"]).ok().contains("being written"));
    let parts = data.run(&["segments", "g/log", "--json"]).json();
    let parts = parts.as_array().unwrap();
    assert_eq!(parts[0]["first"], 2900);
    assert_eq!(parts.last().unwrap()["next"], 3000);
    assert!(data.run(&["segments", "g/log"]).ok().contains("2900.."));
    data.run(&["segments", "g/none"]).fails(1);
}
