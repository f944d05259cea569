//! Whole logs: made, looked at, ended; and what is refused.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::support::{Data, command, files, finish, run};

#[test]
fn a_log_is_made_once_described_renamed_sealed_and_dropped() {
    let data = Data::new();
    assert!(data.run(&["create", "g/log"]).fails(1).contains("exists"));
    let made = data.run(&["create", "g/log", "--if-absent", "--json"]).json();
    assert_eq!(made, json!({ "log": "g/log", "made": false }));
    assert_eq!(data.run(&["append", "g/log", "one"]).ok(), "0\n");
    assert_eq!(data.run(&["rename", "g/log", "g/new"]).ok(), "g/log: now g/new\n");
    assert!(data.run(&["rename", "g/new", "h/new"]).fails(2).contains("stays in its group"));
    assert!(data.run(&["describe", "g/log"]).fails(1).contains("no log"));
    assert_eq!(data.run(&["seal", "g/new", "--json"]).json(), json!({ "log": "g/new", "next": 1 }));
    assert!(data.run(&["append", "g/new", "two"]).fails(3).contains("sealed at 1"));
    let described = data.run(&["describe", "g/new", "--json"]).json();
    assert_eq!((&described["next"], &described["sealed"]), (&json!(1), &json!(true)));
    assert!(data.run(&["describe", "g/new"]).ok().starts_with("name"));
    assert!(data.run(&["drop", "g/new"]).fails(2).contains("say --yes"));
    assert_eq!(data.run(&["logs"]).ok(), "g/new\n");
    assert_eq!(data.run(&["drop", "g/new", "--yes"]).ok(), "g/new: dropped\n");
    assert_eq!(data.run(&["logs", "--json"]).json(), json!([]));
    assert!(data.run(&["drop", "g/new", "--yes"]).fails(1).contains("no log"));
}

#[test]
fn logs_are_listed_by_name_and_prefix_with_what_they_are() {
    let data = Data::new();
    for name in ["b", "a/1", "a/2"] {
        data.run(&["create", name]).ok();
    }
    data.fill("a/2", 3, 10);
    data.run(&["truncate", "a/2", "--before", "1"]).ok();
    assert_eq!(data.run(&["logs"]).ok(), "a/1\na/2\nb\ng/log\n");
    assert_eq!(data.run(&["logs", "a/", "--json"]).json(), json!(["a/1", "a/2"]));
    assert_eq!(data.run(&["logs", "a/2", "-l"]).ok(), "a/2  2 records 1..3, 78 B ever\n");
    let long = data.run(&["logs", "a/", "--long", "--json"]).json();
    assert_eq!((&long[1]["name"], &long[1]["first"]), (&json!("a/2"), &json!(1)));
}

#[test]
fn a_log_has_the_options_that_it_was_made_with() {
    let data = Data::new();
    let options = [
        "create",
        "g/all",
        "--compression",
        "zstd",
        "--record-max",
        "1KiB",
        "--keep-for",
        "7d",
        "--keep-bytes",
        "1GiB",
        "--keep-until",
        "g/p",
        "--keep-until",
        "g/q",
        "--bytes-hard",
        "1MiB",
        "--bytes-soft",
        "1MB",
        "--records-hard",
        "9",
        "--records-soft",
        "8",
        "--metadata",
        "mine",
    ];
    data.run(&options).ok();
    let described = data.run(&["describe", "g/all", "--json"]).json();
    let expected = json!({
        "compression": "zstd", "recordmax": 1024, "keepfor_us": 604_800_000_000_u64,
        "keepbytes": 1 << 30, "keepuntil": ["g/p", "g/q"], "byteshard": 1 << 20,
        "bytessoft": 1_000_000, "recordshard": 9, "recordssoft": 8, "metadata": "mine",
    });
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&described[key], value, "{key}");
    }
    let large = data.run_with(&["append", "g/all"], &[b'x'; 1025]);
    assert!(large.fails(2).contains("the limit is 1024"));
}

#[test]
fn looking_makes_no_engine_and_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let looking: [&[&str]; 20] = [
        &["logs"],
        &["describe", "a"],
        &["rename", "a", "b"],
        &["seal", "a"],
        &["drop", "a"],
        &["truncate", "a", "--before", "1"],
        &["append", "a", "x"],
        &["read", "a"],
        &["tail", "a"],
        &["follow", "a"],
        &["count", "a"],
        &["readers"],
        &["checkpoint", "a"],
        &["export", "a"],
        &["import", "a", "--writer", "w", "--create"],
        &["verify"],
        &["repair", "--yes"],
        &["index", "rebuild"],
        &["space"],
        &["segments"],
    ];
    for args in looking {
        let error = run(&[args, &["--dir", path]].concat()).fails(3);
        assert!(error.contains("holds no engine"), "{args:?}: {error}");
        assert!(files(dir.path()).is_empty(), "{args:?}");
    }
    let dump = run(&["dump", "--dir", path, "--segment", "1"]);
    assert!(dump.fails(3).contains("holds no engine"));
    let none = format!("{path}/none");
    run(&["logs", "--dir", &none]).fails(3);
    assert!(fs::read_dir(dir.path()).unwrap().next().is_none());
}

#[test]
fn what_cannot_be_meant_is_refused_with_2_and_nothing_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    let path = path.to_str().unwrap();
    let bad: [&[&str]; 20] = [
        &[],
        &["nonsense"],
        &["create"],
        &["create", "a"],
        &["logs", "--server"],
        &["create", "a", "--dir", path, "--server", "b:1"],
        &["create", "a", "--dir", path, "--segment-size", "1"],
        &["create", "a", "--dir", path, "--segment-size", "x"],
        &["create", "a", "--dir", path, "--shards", "0"],
        &["create", "a", "--dir", path, "--keep-for", "0s"],
        &["create", "a", "--dir", path, "--keep-bytes", "0"],
        &["create", "a", "--dir", path, "--record-max", "8GiB"],
        &["create", "a", "--dir", path, "--records-hard", "0"],
        &["create", "a", "--dir", path, "--user", "me"],
        &["create", "a", "--server", "b:1", "--shards", "1"],
        &["read", "a", "--dir", path, "--from", "yesterday"],
        &["append", "a", "x", "--lines", "--dir", path],
        &["append", "a", "x", "--number", "1", "--dir", path],
        &["import", "a", "--dir", path],
        &["dlsn", "decode", "x"],
    ];
    for args in bad {
        let ran = run(args);
        assert_eq!(ran.code, 2, "{args:?}: {}", ran.err);
        assert!(ran.out.is_empty() && !ran.err.contains("panicked"), "{args:?}: {}", ran.err);
        assert!(files(dir.path()).is_empty(), "{args:?}");
    }
    let name = run(&["create", "no name", "--dir", path]);
    assert!(name.fails(2).contains("is no name"));
    assert!(files(dir.path()).is_empty());
}

#[test]
fn an_engine_in_use_and_a_server_that_is_not_there_are_said_so() {
    let data = Data::new();
    let engine = oncelog::Options::new(data.path()).create(false).open().unwrap();
    let error = data.run(&["logs"]).fails(3);
    assert!(error.contains("is in use by process"), "{error}");
    engine.close().wait().unwrap();
    drop(engine);
    data.run(&["logs"]).ok();

    // Nobody listens on a port that was just given back.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let server = listener.local_addr().unwrap().to_string();
    drop(listener);
    assert!(run(&["logs", "--server", &server]).fails(3).contains("cannot connect"));
    let no_password = run(&["logs", "--server", &server, "--user", "me"]);
    assert!(no_password.fails(2).contains("ONCELOG_PASSWORD"));
    run(&["logs", "--server", "nonsense"]).fails(3);
}

#[test]
fn help_says_what_exit_codes_mean_and_shells_complete() {
    let help = run(&["--help"]).ok();
    for code in ["0  done", "1  the answer is no", "2  the command line", "3  it could not"] {
        assert!(help.contains(code), "{code}");
    }
    assert!(run(&["append", "--help"]).ok().contains("Examples:"));
    for (shell, word) in [("bash", "complete -F"), ("zsh", "#compdef"), ("fish", "complete -c")] {
        assert!(run(&["completions", shell]).ok().contains(word), "{shell}");
    }
    run(&["completions", "tcsh"]).fails(2);
}

#[test]
fn measuring_is_handed_to_the_program_for_it_or_it_is_said_how_to_get_it() {
    let dir = tempfile::tempdir().unwrap();
    // In the directory of the build both may stand beside each other.
    let own = dir.path().join("oncelog");
    fs::copy(env!("CARGO_BIN_EXE_oncelog"), &own).unwrap();
    let bench = |path: &str| {
        let mut command = std::process::Command::new(&own);
        command.args(["bench", "run", "--json"]).env("PATH", path);
        finish(command, b"")
    };
    assert!(bench("").fails(3).contains("cargo install"));
    let program = |name: &str, code: u8| {
        let path = dir.path().join(name);
        fs::write(&path, format!("#!/bin/sh\necho \"$@\"\nexit {code}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    fs::create_dir(dir.path().join("path")).unwrap();
    program("path/bench-harness", 7);
    let elsewhere = dir.path().join("path");
    let ran = bench(elsewhere.to_str().unwrap());
    assert_eq!((ran.code, &ran.out[..]), (7, &b"run --json\n"[..]));
    program("bench-harness", 8);
    assert_eq!(bench(elsewhere.to_str().unwrap()).code, 8);
}

#[test]
fn colours_and_bars_are_for_terminals() {
    let data = Data::new();
    let mut verify = command(&["verify", "--dir", data.path().to_str().unwrap()]);
    verify.env("TERM", "xterm-256color").env("CLICOLOR", "1");
    let ran = finish(verify, b"");
    assert!(ran.err.is_empty(), "{}", ran.err);
    assert!(!ran.out.contains(&0x1b));
}
