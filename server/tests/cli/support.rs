//! Running the binary.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use serde_json::Value;
use tempfile::TempDir;

/// What a command said, and how it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: Vec<u8>,
    pub(crate) err: String,
}

impl Ran {
    /// Its output, if it ended well.
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}", self.err);
        String::from_utf8(self.out).unwrap()
    }

    /// As [`ok`](Self::ok), for one value of JSON.
    pub(crate) fn json(self) -> Value {
        serde_json::from_str(&self.ok()).unwrap()
    }

    /// As [`ok`](Self::ok), for a value of JSON a line.
    pub(crate) fn lines(self) -> Vec<Value> {
        self.ok().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// What it said to have gone wrong, if it ended with this code.
    pub(crate) fn fails(self, code: i32) -> String {
        assert_eq!(self.code, code, "{}", self.err);
        assert!(self.err.starts_with("error: "), "{}", self.err);
        assert!(!self.err.contains("panicked"), "{}", self.err);
        self.err
    }
}

/// The command with these arguments.
pub(crate) fn command(args: &[impl AsRef<OsStr>]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_oncelog"));
    command.args(args).env_remove("ONCELOG_PASSWORD").env_remove("RUST_LOG");
    command
}

/// Runs it with an empty standard input.
pub(crate) fn run(args: &[impl AsRef<OsStr>]) -> Ran {
    run_with(args, b"")
}

/// Runs it with this standard input.
pub(crate) fn run_with(args: &[impl AsRef<OsStr>], input: &[u8]) -> Ran {
    finish(command(args), input)
}

pub(crate) fn finish(mut command: Command, input: &[u8]) -> Ran {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // It may end before it has read all of it.
    let fed = thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    fed.join().unwrap();
    Ran {
        code: output.status.code().expect("it was not killed"),
        out: output.stdout,
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A directory with an engine of small segments, in which a log `g/log` is.
pub(crate) struct Data {
    dir: TempDir,
}

impl Data {
    pub(crate) fn new() -> Self {
        let data = Self { dir: tempfile::tempdir().unwrap() };
        let made = data.run(&["create", "g/log", "--segment-size", "1MiB", "--shards", "1"]);
        assert_eq!(made.ok(), "g/log: made\n");
        data
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A file beside the engine.
    pub(crate) fn file(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// Runs a command on the directory.
    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        self.run_with(args, b"")
    }

    pub(crate) fn run_with(&self, args: &[&str], input: &[u8]) -> Ran {
        let dir = self.path();
        let args = args.iter().map(OsStr::new).chain([OsStr::new("--dir"), dir.as_os_str()]);
        run_with(&args.collect::<Vec<_>>(), input)
    }

    /// Appends records of `len` bytes, numbered, until there are `count`.
    pub(crate) fn fill(&self, log: &str, count: usize, len: usize) {
        let lines: String = (0..count).map(|n| format!("{n:0len$}\n")).collect();
        let ran = self.run_with(&["append", log, "--lines", "--writer", "fill"], lines.as_bytes());
        assert_eq!(ran.code, 0, "{}", ran.err);
    }

    /// All payloads of a log.
    pub(crate) fn payloads(&self, log: &str) -> Vec<u8> {
        let ran = self.run(&["read", log]);
        assert_eq!(ran.code, 0, "{}", ran.err);
        ran.out
    }
}

/// The names of all files below a directory, sorted.
pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}
