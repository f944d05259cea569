//! A server process that is started for a measurement, watched, and gone after it.
//!
//! `setpriv` (util-linux) lets it die when this process does, even by SIGKILL; where that is not
//! there, a kill of this process leaves it.
//!
//! Not here: its command line (`dialect`).

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::client::Client;
use super::{Program, in_path};
use crate::blocking::cost;
use crate::meter::{self, Window};
use crate::outcome::Figures;

const START_MAX: Duration = Duration::from_secs(60);
const STOP_MAX: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(5);

/// A server that answers.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    said: PathBuf,
    /// Where it listens.
    pub(super) address: SocketAddr,
}

impl Server {
    /// Starts one with its data in `dir`, and waits until it answers.
    pub(super) fn start(program: &Program, dir: &Path) -> Result<(Self, Client)> {
        let dir = dir.canonicalize()?;
        let port = free_port()?;
        let mut command = tied_to_this_process(&program.path);
        program.dialect.start(&mut command, &dir, port);
        command.args(&program.words);
        let said = dir.join("server.out");
        let output = File::create(&said)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = command.spawn();
        let child = child.with_context(|| format!("starting {}", program.path.display()))?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut server = Self { child, said, address };
        let deadline = Instant::now() + START_MAX;
        let connect = || -> Result<Client> {
            let mut client = Client::connect(address)?;
            // Redis answers an error while it loads.
            client.ping()?;
            Ok(client)
        };
        let mut client = loop {
            let error = match connect() {
                Ok(client) => break client,
                Err(error) => error,
            };
            if let Some(status) = server.child.try_wait()? {
                bail!("{} has ended ({status}){}", program.dialect.program(), server.last_words());
            }
            ensure!(
                Instant::now() < deadline,
                "{} does not answer: {error:#}{}",
                program.dialect.program(),
                server.last_words()
            );
            thread::sleep(POLL);
        };
        program.dialect.check(&mut client)?;
        Ok((server, client))
    }

    /// What it has said, for who wants to know why it failed.
    pub(super) fn last_words(&self) -> String {
        const LINES: usize = 10;
        let text = fs::read(&self.said).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        let last = &lines[lines.len().saturating_sub(LINES)..];
        if last.is_empty() { String::new() } else { format!("; it said:\n{}", last.join("\n")) }
    }

    /// Resident memory: now, and at most so far, bytes.
    pub(super) fn memory(&self) -> (u64, u64) {
        meter::memory_of(self.child.id())
    }

    /// User and system time so far, seconds.
    pub(super) fn processor_time(&self) -> Result<(f64, f64)> {
        cost::processor_time(self.child.id()).context("the server has ended")
    }

    /// Takes its processor time when a window begins and ends.
    pub(super) fn watch(&self, window: Window) -> Watch {
        let pid = self.child.id();
        let until = |instant: Instant| thread::sleep(instant - Instant::now());
        Watch(thread::spawn(move || {
            until(window.begin);
            let before = cost::processor_time(pid)?;
            until(window.end);
            let after = cost::processor_time(pid)?;
            Some((after.0 - before.0, after.1 - before.1))
        }))
    }

    /// Makes processor time and memory of the figures those of the server; what they were is the
    /// client's.
    pub(super) fn put_into(&self, watch: Watch, figures: &mut Figures) -> Result<()> {
        let cpu = watch.0.join().expect("watching does not panic");
        let (user, system) = cpu.with_context(|| format!("it has ended{}", self.last_words()))?;
        let client = figures.cpu_user_s + figures.cpu_system_s;
        figures.extra.insert("client/cpu_s".to_owned(), client);
        (figures.cpu_user_s, figures.cpu_system_s) = (user, system);
        figures.memory_by_second.clear();
        figures.memory_max = self.memory().1;
        Ok(())
    }
}

/// Watches a server's processor time.
#[derive(Debug)]
pub(super) struct Watch(JoinHandle<Option<(f64, f64)>>);

impl Drop for Server {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.child.id() as i32);
        // An error means that it has ended already.
        let _ = kill(pid, Signal::SIGTERM);
        let deadline = Instant::now() + STOP_MAX;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() >= deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            thread::sleep(POLL);
        }
    }
}

/// A port that nobody has now. Another process may take it before the server does: then that ends,
/// and says so.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn tied_to_this_process(program: &Path) -> Command {
    let Some(setpriv) = in_path("setpriv") else { return Command::new(program) };
    let mut command = Command::new(setpriv);
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command
}

/// The first word in what `program --version` prints that looks like a version.
pub(super) fn version(program: &Path) -> Result<String> {
    let output = Command::new(program).arg("--version").output();
    let output = output.with_context(|| format!("cannot run {}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let words = text.split_whitespace().map(|word| word.trim_start_matches("v="));
    let is_version =
        |word: &&str| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.');
    let found = words.into_iter().find(is_version).map(str::to_owned);
    found.with_context(|| format!("{} --version says {text:?}", program.display()))
}
