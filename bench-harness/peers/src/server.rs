//! A server process that is started for a measurement and ends with it.
//!
//! `setpriv` lets it die when this process does, even by SIGKILL, and gives up root where the
//! server refuses it.
//!
//! Not here: which servers there are.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Opening a large store again takes its time.
const START_MAX: Duration = Duration::from_secs(600);
/// Between two looks whether the server answers; openings are timed no finer than this.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// A path of a unix socket is no longer than 107 bytes.
const SOCKET_DIR_MAX: usize = 90;

/// A running server.
pub(crate) struct Server {
    child: Child,
    stop: Signal,
}

impl Server {
    /// Starts `program` through `setpriv` with these options, and waits until `connect` succeeds.
    /// Its output goes to `server.out` in `dir`. `stop` is the signal by which it ends in order.
    pub(crate) fn start<C>(
        dir: &Path,
        mut command: Command,
        stop: Signal,
        mut connect: impl FnMut() -> Result<C>,
    ) -> Result<(Self, C)> {
        ensure!(
            dir.as_os_str().len() <= SOCKET_DIR_MAX,
            "a unix socket needs a shorter path than {}",
            dir.display()
        );
        let out = dir.join("server.out");
        let file = File::options().create(true).append(true).open(&out)?;
        command.stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().context("starting setpriv with a server")?;
        let mut server = Self { child, stop };
        let deadline = Instant::now() + START_MAX;
        loop {
            let error = match connect() {
                Ok(connection) => return Ok((server, connection)),
                Err(error) => error,
            };
            if let Some(status) = server.child.try_wait()? {
                bail!("the server has ended ({status}); see {}", out.display());
            }
            ensure!(Instant::now() < deadline, "the server does not answer: {error:#}");
            thread::sleep(LOOK_EVERY);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = kill(Pid::from_raw(self.child.id() as i32), self.stop);
        let _ = self.child.wait();
    }
}

/// `setpriv` with the option that ties a process to this one.
pub(crate) fn tied() -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    command
}

/// Where a program is in `PATH`.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// The first word in what `program --version` prints that looks like a version.
pub(crate) fn version_of(program: &Path) -> Result<String> {
    ensure!(find("setpriv").is_some(), "setpriv is missing; install util-linux");
    let output = Command::new(program).arg("--version").output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    version_in(&text).with_context(|| format!("{} says {text:?}", program.display()))
}

fn version_in(text: &str) -> Option<String> {
    let words = text.split_whitespace().map(|word| word.trim_start_matches("v="));
    let is_version = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit());
    words.filter(is_version).find(|word| word.contains('.')).map(str::to_owned)
}

/// Threads take a connection each, and give it back.
pub(crate) struct Pool<C> {
    idle: Mutex<Vec<C>>,
}

impl<C> Pool<C> {
    pub(crate) fn new(first: C) -> Self {
        Self { idle: Mutex::new(vec![first]) }
    }

    /// Does `work` with a connection; one whose work failed is not used again.
    pub(crate) fn with<T>(
        &self,
        connect: impl FnOnce() -> Result<C>,
        work: impl FnOnce(&mut C) -> Result<T>,
    ) -> Result<T> {
        let idle = self.idle.lock().expect("no panic").pop();
        let mut connection = idle.map_or_else(connect, Ok)?;
        let done = work(&mut connection)?;
        self.idle.lock().expect("no panic").push(connection);
        Ok(done)
    }
}

/// Connections that a server allows: more than the largest spec has in flight.
pub(crate) const CONNECTIONS_MAX: u32 = 1100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_servers_print() {
        let redis = "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.2.1 bits=64";
        assert_eq!(version_in(redis).as_deref(), Some("7.0.15"));
        let postgres = "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)";
        assert_eq!(version_in(postgres).as_deref(), Some("15.18"));
        assert_eq!(version_in("no number"), None);
    }
}
