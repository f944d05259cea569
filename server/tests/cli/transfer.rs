//! Exports and imports: the same records, each once.

use std::fs;

use serde_json::json;

use crate::support::Data;

/// Records of all kinds: binary, empty, large, with rising transaction ids.
fn filled() -> Data {
    let data = Data::new();
    for (at, payload) in [&b"\xff\x00\n"[..], b"", b"text", &[7; 100_000]].into_iter().enumerate() {
        let txid = (at * 10).to_string();
        data.run_with(&["append", "g/log", "--txid", &txid], payload).ok();
    }
    data.fill("g/log", 3000, 50);
    data
}

/// What is kept: payload and transaction id of each record.
fn records(data: &Data, log: &str) -> Vec<serde_json::Value> {
    let mut records = data.run(&["read", log, "--json"]).lines();
    for record in &mut records {
        for key in ["dlsn", "sequence", "time_us"] {
            record.as_object_mut().unwrap().remove(key);
        }
    }
    records
}

#[test]
fn an_export_is_imported_again_with_payloads_and_transaction_ids() {
    let (data, other) = (filled(), Data::new());
    let expected = records(&data, "g/log");
    assert_eq!(expected.len(), 3004);
    for format in ["json", "binary"] {
        let export = data.run(&["export", "g/log", "--format", format]);
        assert_eq!(export.code, 0, "{}", export.err);
        let import = ["import", format, "--writer", "w", "--create"];
        assert_eq!(other.run_with(&import, &export.out).ok(), "3004 records imported\n");
        assert_eq!(records(&other, format), expected, "{format}");
        let again = other.run_with(&[&import[..], &["--json"]].concat(), &export.out);
        assert_eq!(again.json(), json!({ "log": format, "imported": 0, "skipped": 3004 }));
        assert_eq!(records(&other, format), expected, "{format}");
    }
}

#[test]
fn an_import_that_was_interrupted_goes_on_where_it_stopped() {
    let (data, other) = (filled(), Data::new());
    let expected = records(&data, "g/log");
    for format in ["json", "binary"] {
        let export = data.run(&["export", "g/log", "--format", format]).out;
        let import = ["import", format, "--writer", "w", "--create"];
        // Cut at many places: each import gets a little further.
        for part in 1..8 {
            let error = other.run_with(&import, &export[..export.len() * part / 8]).fails(2);
            assert!(error.contains("cut off") && error.contains("again"), "{error}");
        }
        other.run_with(&import, &export).ok();
        assert_eq!(records(&other, format), expected, "{format}");
        // Another input under the same name is refused where that can be seen.
        let shorter = other.run_with(&import, b"{\"payload\":\"x\"}\n").fails(2);
        assert!(shorter.contains("a writer of its own"), "{shorter}");
        assert_eq!(records(&other, format), expected, "{format}");
    }
}

#[test]
fn a_killed_import_leaves_whole_batches_and_goes_on_behind_them() {
    let (data, other) = (filled(), Data::new());
    let export = data.run(&["export", "g/log", "--format", "binary"]).out;
    let args = ["import", "g/log", "--writer", "w", "--dir"];
    let mut import = crate::support::command(&args);
    let import = import.arg(other.path()).stdin(std::process::Stdio::piped());
    let mut child = import.stdout(std::process::Stdio::null()).spawn().unwrap();
    use std::io::Write;
    let mut stdin = child.stdin.take().unwrap();
    // More than the pipe and its own buffer hold: when this returns it has begun.
    let begin = export.len() - 1000;
    stdin.write_all(&export[..begin]).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    drop(stdin);
    other.run_with(&["import", "g/log", "--writer", "w"], &export).ok();
    assert_eq!(records(&other, "g/log"), records(&data, "g/log"));
}

#[test]
fn a_part_is_exported_by_positions() {
    let data = Data::new();
    data.fill("g/log", 10, 1);
    let part = data.run(&["export", "g/log", "--from", "3", "--to", "5"]).lines();
    let sequences: Vec<_> = part.iter().map(|record| record["sequence"].clone()).collect();
    assert_eq!(sequences, [3, 4]);
    data.run(&["truncate", "g/log", "--before", "8"]).ok();
    assert_eq!(data.run(&["export", "g/log", "--from", "0"]).lines().len(), 2);
    assert_eq!(data.run(&["export", "g/log", "--from", "latest"]).ok(), "");
}

#[test]
fn a_file_has_its_name_once_it_is_whole_and_none_is_replaced() {
    let data = filled();
    let path = data.file("out");
    let export = ["export", "g/log", "--format", "binary", "--output", &path];
    let done = data.run(&[&export[..], &["--json"]].concat()).json();
    assert_eq!(done, json!({ "log": "g/log", "records": 3004, "file": path }));
    let whole = fs::read(&path).unwrap();
    assert!(data.run(&export).fails(2).contains("is there"));
    assert_eq!(fs::read(&path).unwrap(), whole);
    let imported = data.run(&["import", "g/copy", "--create", "--writer", "w", "--input", &path]);
    assert_eq!(imported.ok(), "3004 records imported\n");
    let nowhere = data.file("none/out");
    data.run(&["export", "g/log", "--output", &nowhere]).fails(3);
    data.run(&["import", "g/copy", "--writer", "v", "--input", &nowhere]).fails(3);
    data.run(&["export", "g/none", "--output", &data.file("second")]).fails(1);
    let mut beside: Vec<_> = fs::read_dir(data.path().parent().unwrap()).unwrap().collect();
    beside.retain(|entry| entry.as_ref().unwrap().path() != data.path());
    assert_eq!(beside.len(), 1, "{beside:?}");
}

#[test]
fn what_is_no_export_is_refused_behind_what_was_right() {
    let data = Data::new();
    let input = b"{\"payload\":\"good\",\"txid\":4}\n{\"payload\":1}\n";
    let error = data.run_with(&["import", "g/log", "--writer", "w"], input).fails(2);
    assert!(error.contains("record 2") && error.contains("1 records were imported now"), "{error}");
    assert_eq!(data.payloads("g/log"), b"good\n");
    for bad in [&b"oncelog export 2\n"[..], b"oncelog", b"hello\n", b"{}"] {
        data.run_with(&["import", "g/log", "--writer", "v"], bad).fails(2);
    }
    let lower = b"{\"payload\":\"low\",\"txid\":3}\n";
    let error = data.run_with(&["import", "g/log", "--writer", "v"], lower).fails(2);
    assert!(error.contains("never decreases"), "{error}");
    assert_eq!(data.payloads("g/log"), b"good\n");
}
