//! A server as a process of its own, whose memory can be measured.
//!
//! Not here: sockets (`peer`).

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::{PATIENCE, Peer};

/// Settings that make every bound small.
const SMALL: &[&str] = &[
    "--watch-listen=off",
    "--segment-size=1MiB",
    "--shards=1",
    "--threads=1",
    "--pin=false",
    "--inbox-size=1MiB",
    "--tail-cache-size=1MiB",
    "--in-flight-size-max=1MiB",
    "--output-size-max=1MiB",
    "--request-size-max=1MiB",
    "--read-size-max=1MiB",
    "--memory-max=16MiB",
];
/// The same, in bytes.
pub(crate) const MEMORY_MAX: u64 = 16 << 20;
/// What a connection may have for itself (P-29).
pub(crate) const EACH: u64 = 256 << 10;
/// A request or an answer that crosses the line, a few times over on its way.
pub(crate) const CROSSING: u64 = 4 << 20;
/// The engine's own: its inbox, its cache, buffers that it has once written with.
pub(crate) const ENGINE: u64 = 24 << 20;

/// As many sockets as the tests need, here and in the server.
pub(crate) fn many_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(8192, |most| most.min(8192));
    if current.is_some_and(|current| current < wanted) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }).unwrap();
    }
}

pub(crate) fn command(data: &Path, listen: &str, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_oncelog"));
    command.arg("serve").arg("--data").arg(data).arg("--listen").arg(listen);
    // Later ones go before earlier ones of the same name.
    let small = SMALL.iter().filter(|arg| {
        let name = arg.split('=').next().unwrap();
        !more.iter().any(|more| more.starts_with(name))
    });
    command.args(small).args(more).stdin(Stdio::null()).stderr(Stdio::piped());
    command
}

/// A running `oncelog serve`.
pub(crate) struct Process {
    child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) dir: tempfile::TempDir,
    /// Bytes of memory when nobody was connected yet.
    pub(crate) base: u64,
}

impl Process {
    pub(crate) fn start(more: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        many_files();
        let mut child = command(&dir.path().join("data"), "127.0.0.1:0", more).spawn().unwrap();
        let mut told = BufReader::new(child.stderr.take().unwrap());
        let mut all = String::new();
        let address = loop {
            let mut line = String::new();
            assert!(told.read_line(&mut line).unwrap() > 0, "it ended: {all}");
            if let Some((_, address)) = line.split_once("ready for clients") {
                let from = address.find("127.0.0.1").expect("its address");
                let address = address[from..].trim_end().trim_matches(['"', '}']);
                break address.split('\u{1b}').next().unwrap().parse().expect("an address");
            }
            all += &line;
        };
        std::thread::spawn(move || std::io::copy(&mut told, &mut std::io::sink()));
        let mut process = Self { child, address, dir, base: 0 };
        process.base = process.memory("VmRSS");
        process
    }

    pub(crate) fn connect(&self) -> Peer {
        Peer::connect(self.address)
    }

    /// Bytes of memory that it has (`VmRSS`), or has had at most (`VmHWM`).
    pub(crate) fn memory(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let kib = line.expect("a field").trim().trim_end_matches(" kB");
        kib.parse::<u64>().expect("a number") << 10
    }

    /// Fails if it has had more than its limits say with so many connections.
    pub(crate) fn check_memory(&self, connections: u64) {
        let most = self.memory("VmHWM") - self.base;
        let bound = MEMORY_MAX + ENGINE + CROSSING + connections * EACH;
        println!("{connections} connections: {} KiB, bound {} KiB", most >> 10, bound >> 10);
        assert!(most <= bound, "{most} bytes, the bound is {bound}");
    }

    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    /// Its status, once it has ended.
    pub(crate) fn wait(&mut self, at_most: Duration) -> ExitStatus {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begin.elapsed() < at_most, "it did not end in {at_most:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a server says that does not start.
pub(crate) fn refusal(mut command: Command) -> String {
    let mut child = command.spawn().unwrap();
    let mut told = String::new();
    child.stderr.take().unwrap().read_to_string(&mut told).unwrap();
    let begin = Instant::now();
    while child.try_wait().unwrap().is_none() {
        assert!(begin.elapsed() < PATIENCE, "it runs: {told}");
    }
    assert!(!child.wait().unwrap().success(), "{told}");
    told
}
