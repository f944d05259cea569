//! A server as a process of its own, and the clients that other people wrote beside it.
//!
//! Clients are installed by `server/tests/clients/install`; a test whose client is not there prints
//! `skipped: ...` and is over. Nothing sleeps to give something time: it is asked for until it is
//! so, or until [`PATIENCE`] is over.
//!
//! Not here: what clients do (`clients/*.py`, `clients/*.mjs`, and the tests).

#![allow(dead_code, reason = "each test uses a part of it")]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// How long anything may take before the test has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Asks until there is something.
pub(crate) fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = ask() {
            return found;
        }
        assert!(begin.elapsed() < PATIENCE, "in {PATIENCE:?} it was not so: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A free port below those that the system gives to clients: a client that comes back to a server
/// that is not up yet cannot get its port.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let mut ports = std::iter::repeat_with(|| {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let place = (std::process::id().wrapping_mul(97) + step) % 20_000;
        10_000 + u16::try_from(place).expect("it is small")
    });
    let free =
        ports.by_ref().take(20_000).find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    free.expect("a port is free")
}

/// The server; killed when it is dropped.
pub(crate) struct Server {
    process: Child,
    dir: TempDir,
    /// Where clients connect.
    pub(crate) port: u16,
    args: Vec<String>,
}

impl Server {
    /// One of one engine of 1 MiB segments in a new directory, with these settings besides.
    pub(crate) fn start(args: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        Self::start_in(dir, args)
    }

    /// As [`start`](Self::start), with its data, and whatever is there, in a directory.
    pub(crate) fn start_in(dir: TempDir, args: &[&str]) -> Self {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        loop {
            let port = free_port();
            let mut process = spawn(dir.path(), port, &args);
            if wait_ready(&mut process, dir.path(), 1) {
                return Self { process, dir, port, args };
            }
            // Somebody else may have taken the port meanwhile; anything else is an error.
            let told = log_of(dir.path());
            assert!(told.contains("Address already in use"), "the server did not start: {told}");
            fs::remove_file(dir.path().join("server.log")).expect("its log is there");
        }
    }

    /// Ends it at once, whatever it does.
    pub(crate) fn kill(&mut self) {
        self.process.kill().expect("it can be killed");
        self.process.wait().expect("it ends");
    }

    /// Starts it again after [`kill`](Self::kill), on the same port.
    pub(crate) fn start_again(&mut self) {
        let starts = 1 + log_of(self.dir.path()).matches(READY).count();
        self.process = spawn(self.dir.path(), self.port, &self.args);
        let ready = wait_ready(&mut self.process, self.dir.path(), starts);
        assert!(ready, "the server did not start again: {}", self.log());
    }

    /// Tells it something.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.process.id()).expect("a process id");
        kill(Pid::from_raw(pid), signal).expect("it is there");
    }

    /// Ends it as a service manager does; it must end well.
    pub(crate) fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        let status = until("the server stops", || self.process.try_wait().expect("a child"));
        assert!(status.success(), "{status}: {}", self.log());
    }

    /// What it has said so far.
    pub(crate) fn log(&self) -> String {
        log_of(self.dir.path())
    }

    /// Its directory, for files beside its data.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A connection that speaks RESP2.
    pub(crate) fn connect(&self) -> Wire {
        Wire::new(TcpStream::connect(("127.0.0.1", self.port)).expect("it listens"))
    }

    /// Asks once, and expects no error.
    pub(crate) fn ask(&self, args: &[&str]) -> Value {
        self.connect().ask(args)
    }

    /// All records of a log.
    pub(crate) fn records(&self, log: &str) -> Vec<Vec<u8>> {
        self.connect().records(log)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if thread::panicking() {
            eprintln!("the server said:\n{}", self.log());
        }
    }
}

const READY: &str = "ready for clients";

fn spawn(dir: &Path, port: u16, args: &[String]) -> Child {
    let log = dir.join("server.log");
    let log = File::options().create(true).append(true).open(log).expect("a file for its log");
    Command::new(env!("CARGO_BIN_EXE_oncelog"))
        .args(["serve", "--segment-size", "1MiB", "--shards", "2", "--pin=false"])
        .args(["--watch-listen", "off", "--threads", "2"])
        .args(["--listen", &format!("127.0.0.1:{port}"), "--data"])
        .arg(dir.join("data"))
        .args(args)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("the server starts")
}

/// Whether it listens; if not, it has ended.
fn wait_ready(process: &mut Child, dir: &Path, starts: usize) -> bool {
    until("the server is ready", || {
        if log_of(dir).matches(READY).count() >= starts {
            return Some(true);
        }
        process.try_wait().expect("a child").map(|_| false)
    })
}

fn log_of(dir: &Path) -> String {
    let bytes = fs::read(dir.join("server.log")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// A number.
    Number(i64),
    /// Bytes, or a short text.
    Bytes(Vec<u8>),
    /// Nothing.
    Null,
    /// Several.
    Array(Vec<Value>),
    /// An error's line.
    Error(String),
}

impl Value {
    /// Its number.
    pub(crate) fn number(&self) -> i64 {
        let Self::Number(number) = self else { panic!("{self:?} is no number") };
        *number
    }

    /// Its parts.
    pub(crate) fn array(self) -> Vec<Self> {
        let Self::Array(parts) = self else { panic!("{self:?} is no array") };
        parts
    }

    /// Its bytes.
    pub(crate) fn bytes(self) -> Vec<u8> {
        let Self::Bytes(bytes) = self else { panic!("{self:?} is no text") };
        bytes
    }
}

/// The least client: what tests check others with.
pub(crate) struct Wire(BufReader<TcpStream>);

impl Wire {
    fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        Self(BufReader::new(stream))
    }

    /// Asks, and expects no error.
    pub(crate) fn ask(&mut self, args: &[&str]) -> Value {
        let args: Vec<&[u8]> = args.iter().map(|arg| arg.as_bytes()).collect();
        let answer = self.try_ask(&args);
        assert!(!matches!(answer, Value::Error(_)), "{args:?}: {answer:?}");
        answer
    }

    /// Asks.
    pub(crate) fn try_ask(&mut self, args: &[&[u8]]) -> Value {
        let mut request = format!("*{}\r\n", args.len()).into_bytes();
        for arg in args {
            request.extend(format!("${}\r\n", arg.len()).bytes());
            request.extend_from_slice(arg);
            request.extend(b"\r\n");
        }
        self.0.get_mut().write_all(&request).expect("it takes requests");
        self.answer()
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("an answer");
        let whole = line.strip_suffix("\r\n");
        whole.unwrap_or_else(|| panic!("the answer ended: {line:?}")).to_owned()
    }

    fn answer(&mut self) -> Value {
        let line = self.line();
        let (kind, rest) = line.split_at(1);
        let number = || rest.parse::<i64>().expect("a number");
        match kind {
            "+" => Value::Bytes(rest.into()),
            "-" => Value::Error(rest.to_owned()),
            ":" => Value::Number(number()),
            "$" if rest == "-1" => Value::Null,
            "$" => {
                let mut bytes = vec![0; usize::try_from(number()).expect("a length") + 2];
                self.0.read_exact(&mut bytes).expect("its bytes");
                bytes.truncate(bytes.len() - 2);
                Value::Bytes(bytes)
            }
            "*" => Value::Array((0..number()).map(|_| self.answer()).collect()),
            _ => panic!("{line:?} is no answer"),
        }
    }

    /// All records of a log.
    pub(crate) fn records(&mut self, log: &str) -> Vec<Vec<u8>> {
        let mut records = Vec::new();
        loop {
            let next = records.len().to_string();
            let page = self.ask(&["READ", log, "FROM", &next, "COUNT", "10000"]).array();
            if page.is_empty() {
                return records;
            }
            records.extend(page.into_iter().map(|record| record.array().swap_remove(3).bytes()));
        }
    }
}

/// Runs a client to its end with some input. What it printed, and whether it said that all is well.
pub(crate) fn run(command: &mut Command, input: &[u8]) -> (String, bool) {
    let dir = tempfile::tempdir().expect("a directory");
    let (asked, told) = (dir.path().join("in"), dir.path().join("out"));
    fs::write(&asked, input).expect("a file");
    let out = File::create(&told).expect("a file");
    command.stdin(File::open(&asked).expect("it was just written"));
    command.stderr(out.try_clone().expect("a file")).stdout(out);
    let mut process = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let begin = Instant::now();
    let status = loop {
        match process.try_wait().expect("a child") {
            Some(status) => break Some(status),
            None if begin.elapsed() > PATIENCE => break None,
            None => thread::sleep(Duration::from_millis(5)),
        }
    };
    if status.is_none() {
        let _ = process.kill();
        let _ = process.wait();
    }
    let told = String::from_utf8_lossy(&fs::read(&told).expect("its output")).into_owned();
    let status = status.unwrap_or_else(|| panic!("{command:?} did not end: {told}"));
    (told, status.success())
}

/// As [`run`], and it must say that all is well.
pub(crate) fn run_well(command: &mut Command, input: &[u8]) -> String {
    let (told, is_well) = run(command, input);
    assert!(is_well, "{command:?} failed:\n{told}");
    told
}

/// Says why a test does nothing.
pub(crate) fn skip(why: &str) {
    println!("skipped: {why}; server/tests/clients/install installs it");
}

/// A program that is installed.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let dirs = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<PathBuf> = std::env::split_paths(&dirs).collect();
    dirs.push("/usr/sbin".into());
    let found = dirs.into_iter().map(|dir| dir.join(name)).find(|path| path.is_file());
    if found.is_none() {
        skip(&format!("there is no {name}"));
    }
    found
}

/// Where `install` puts what is no package of the system.
fn installed(path: &str) -> Option<PathBuf> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target directory");
    let path = target.join("clients").join(path);
    if !path.exists() {
        skip(&format!("there is no {}", path.display()));
        return None;
    }
    Some(path)
}

/// A script of `server/tests/clients`.
pub(crate) fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}

/// A script for Python with redis-py.
pub(crate) fn redis_py(name: &str) -> Option<Command> {
    installed("venv/wanted")?;
    let mut command = Command::new(installed("venv/bin/python")?);
    command.arg("-B").arg(script(name));
    Some(command)
}

/// A script for Node, with the packages of `install`.
pub(crate) fn node(name: &str) -> Option<Command> {
    let packages = installed("node/package.json")?;
    let mut command = Command::new(program("node")?);
    command.arg(script(name)).env("CLIENTS", packages);
    Some(command)
}
