//! Records: appended, read from anywhere, counted and given up.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::process::Stdio;

use base64::Engine;
use serde_json::json;

use crate::support::{Data, command, run};

#[test]
fn payloads_come_back_byte_for_byte() {
    let data = Data::new();
    let binary = b"\xff\x00\nnot a line\r";
    assert_eq!(data.run_with(&["append", "g/log"], binary).ok(), "0\n");
    let dir = data.path();
    let odd = OsStr::from_bytes(b"\xfe argument");
    let args = ["append", "g/log"].map(OsStr::new);
    run(&[&args[..], &[odd, OsStr::new("--dir"), dir.as_os_str()]].concat()).ok();
    data.run(&["append", "g/log", "", "--txid", "7"]).ok();
    let expected = [&binary[..], b"\n\xfe argument\n\n"].concat();
    assert_eq!(data.payloads("g/log"), expected);

    let records = data.run(&["read", "g/log", "--json"]).lines();
    let coded = records[0]["payload_base64"].as_str().unwrap();
    assert_eq!(base64::prelude::BASE64_STANDARD.decode(coded).unwrap(), binary);
    assert_eq!(records[2]["payload"], "");
    assert_eq!((&records[2]["sequence"], &records[2]["txid"]), (&json!(2), &json!(7)));
    assert!(records[2]["time_us"].as_u64().unwrap() > 0 && records[2]["dlsn"].is_string());
    let lower = data.run(&["append", "g/log", "x", "--txid", "6"]);
    assert!(lower.fails(2).contains("never decreases"));
}

#[test]
fn lines_are_records_and_the_same_input_as_the_same_writer_is_there_once() {
    let data = Data::new();
    let input = "one\n\ntwo\r\nlast without an end";
    let append = ["append", "g/log", "--lines", "--writer", "book"];
    let cut = data.run_with(&append, &input.as_bytes()[..5]);
    assert_eq!(cut.ok(), "2 records, 0 to 1\n");
    let whole = data.run_with(&append, input.as_bytes());
    assert_eq!(whole.ok(), "2 records, 2 to 3; 2 were there\n");
    let again = data.run_with(&[&append[..], &["--json"]].concat(), input.as_bytes()).json();
    assert_eq!((&again["records"], &again["skipped"]), (&json!(0), &json!(4)));
    assert_eq!(data.payloads("g/log"), b"one\n\ntwo\r\nlast without an end\n");
    // Without a writer they are appended again.
    assert_eq!(data.run_with(&["append", "g/log", "--lines"], b"x\n").ok(), "1 record, 4\n");
    let writers = data.run(&["writers", "g/log", "--json"]).json();
    assert_eq!((&writers[0]["name"], &writers[0]["last"]), (&json!("book"), &json!(4)));
}

#[test]
fn lines_of_any_number_and_size_fit_and_one_that_is_too_long_stops_behind_what_is_durable() {
    let data = Data::new();
    // Larger than a batch of this engine can be, in all and some alone.
    let line =
        |n: usize| vec![b'a' + (n % 26) as u8; if n.is_multiple_of(50) { 100_000 } else { n }];
    let mut input: Vec<u8> = (1..200).flat_map(|n| [line(n), vec![b'\n']].concat()).collect();
    let append = ["append", "g/log", "--lines", "--writer", "w"];
    data.run_with(&append, &input).ok();
    assert_eq!(data.payloads("g/log"), input);
    let good = input.len();
    input.extend(vec![b'x'; 200_000]);
    let error = data.run_with(&append, &input).fails(2);
    assert!(error.contains("0 lines were appended before"), "{error}");
    input.truncate(good);
    input.extend(b"y\n");
    assert_eq!(data.run_with(&append, &input).ok(), "1 record, 199; 199 were there\n");
    assert_eq!(data.payloads("g/log"), input);
}

#[test]
fn a_number_that_a_writer_used_is_answered_with_where_its_record_stands() {
    let data = Data::new();
    let append = |payload, more: &[&str]| {
        data.run(&[&["append", "g/log", payload, "--writer", "w"], more].concat())
    };
    assert_eq!(append("one", &["--number", "5"]).ok(), "0\n");
    assert_eq!(append("two", &[]).ok(), "1\n");
    assert_eq!(append("one", &["--number", "5"]).ok(), "0 (there already)\n");
    let again = append("two", &["--number", "6", "--json"]).json();
    let expected = json!({ "log": "g/log", "sequence": 1, "number": 6, "repeated": true });
    assert_eq!(again, expected);
    assert!(append("late", &["--number", "3"]).fails(3).contains('3'));
    assert_eq!(data.run(&["count", "g/log"]).ok(), "2\n");
    data.run(&["forget", "w", "--log", "g/log"]).fails(2);
    data.run(&["forget", "w", "--log", "g/log", "--yes"]).ok();
    assert_eq!(data.run(&["writers", "g/log"]).ok(), "");
}

#[test]
fn records_are_read_from_any_position() {
    let data = Data::new();
    for (txid, payload) in [("10", "a"), ("20", "b"), ("30", "c"), ("30", "d")] {
        data.run(&["append", "g/log", payload, "--txid", txid]).ok();
    }
    let all = data.run(&["read", "g/log", "--json"]).lines();
    let dlsn = format!("dlsn:{}", all[1]["dlsn"].as_str().unwrap());
    let time = format!("time:{}", all[2]["time_us"]);
    let read = |args: &[&str]| data.run(&[&["read", "g/log"], args].concat()).ok();
    let expected = [
        ("earliest", "a\nb\nc\nd\n"),
        ("latest", ""),
        ("2", "c\nd\n"),
        ("sequence:3", "d\n"),
        ("sequence:4", ""),
        ("txid:20", "b\nc\nd\n"),
        ("txid:21", "c\nd\n"),
        ("txid:31", ""),
        (&dlsn, "b\nc\nd\n"),
        (&time, "c\nd\n"),
        ("time:1970-01-01T00:00:00Z", "a\nb\nc\nd\n"),
        ("ago:0s", ""),
    ];
    for (from, payloads) in expected {
        assert_eq!(read(&["--from", from]), payloads, "{from}");
    }
    assert_eq!(read(&["--count", "2"]), "a\nb\n");
    assert_eq!(read(&["--count", "0"]), "");
    assert_eq!(read(&["--bytes", "2"]), "a\nb\n");
    let count = |args: &[&str]| data.run(&[&["count", "g/log"], args].concat()).ok();
    assert_eq!(count(&[]), "4\n");
    assert_eq!(count(&["--from", "txid:20", "--to", "txid:30"]), "1\n");
    assert_eq!(count(&["--from", "3", "--to", "1"]), "0\n");
    assert_eq!(data.run(&["tail", "g/log"]).ok(), "a\nb\nc\nd\n");
    assert_eq!(data.run(&["tail", "g/log", "-n", "2"]).ok(), "c\nd\n");
    assert_eq!(data.run(&["tail", "g/log", "-n", "0"]).ok(), "");
}

#[test]
fn truncated_records_are_gone_and_whoever_asks_for_them_is_told_where_the_log_begins() {
    let data = Data::new();
    data.fill("g/log", 10, 3);
    assert_eq!(data.run(&["truncate", "g/log", "--before", "7"]).ok(), "g/log: begins at 7\n");
    assert_eq!(data.run(&["truncate", "g/log", "--before", "3"]).ok(), "g/log: begins at 7\n");
    assert!(data.run(&["truncate", "g/log", "--before", "11"]).fails(2).contains("ends at 10"));
    assert!(data.run(&["read", "g/log", "--from", "6"]).fails(3).contains("before 7"));
    let left = "007\n008\n009\n";
    assert_eq!(data.run(&["read", "g/log", "--from", "6", "--or-earliest"]).ok(), left);
    assert_eq!(data.run(&["read", "g/log", "--from", "8", "--or-earliest"]).ok(), "008\n009\n");
    assert_eq!(data.run(&["count", "g/log", "--from", "time:0"]).ok(), "3\n");
    assert_eq!(data.run(&["export", "g/log", "--from", "txid:0"]).lines().len(), 3);
    assert_eq!(data.run(&["read", "g/log"]).ok(), left);
    assert_eq!(data.run(&["count", "g/log"]).ok(), "3\n");
    assert_eq!(data.run(&["count", "g/log", "--from", "0"]).ok(), "3\n");
    data.run(&["truncate", "g/log", "--before", "latest"]).ok();
    assert_eq!(data.run(&["tail", "g/log"]).ok(), "");
}

#[test]
fn following_ends_where_nothing_more_can_come() {
    let data = Data::new();
    data.fill("g/log", 3, 1);
    let open = data.run(&["follow", "g/log", "--from", "1"]);
    assert!(open.err.contains("nothing more can come"), "{}", open.err);
    assert_eq!(open.ok(), "1\n2\n");
    let some = data.run(&["follow", "g/log", "--from", "earliest", "-n", "2"]);
    assert!(some.err.is_empty());
    assert_eq!(some.ok(), "0\n1\n");
    data.run(&["seal", "g/log"]).ok();
    let sealed = data.run(&["follow", "g/log", "--from", "earliest"]);
    assert!(sealed.err.is_empty());
    assert_eq!(sealed.ok(), "0\n1\n2\n");
}

#[test]
fn whoever_closes_standard_output_ends_a_command_quietly() {
    let data = Data::new();
    data.fill("g/log", 2000, 1000);
    let dir = data.path();
    for json in [false, true] {
        let mut read = command(&["read", "g/log", "--dir", dir.to_str().unwrap()]);
        if json {
            read.arg("--json");
        }
        let mut child = read.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut first = [0; 10];
        child.stdout.take().unwrap().read_exact(&mut first).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
