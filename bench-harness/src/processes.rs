//! The processes and the directory of a run: started, watched, and gone at the end.
//!
//! ```text
//! Workspace DIR/bench-harness-PID/   yardstick data, one fresh directory for each measurement
//! Program::measure -> child process -> Measurement
//! Neighbours       -> children that keep every processor busy
//! ```
//!
//! Invariant: nothing is left behind, after an error and after Ctrl-C either.
//!
//! Not here: what is measured in which order (`rounds`).

use std::fs;
use std::io::Read;
use std::os::unix::process::parent_id;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};

use crate::measure::Target;
use crate::outcome::Measurement;
use crate::spec::Spec;

/// Time that a measurement may take beside its own: filling, opening, servers that start.
const PATIENCE: Duration = Duration::from_secs(30 * 60);
const POLL: Duration = Duration::from_millis(20);

/// The children that run now.
#[derive(Clone, Debug, Default)]
pub struct Children(Arc<Mutex<Vec<u32>>>);

impl Children {
    fn with<T>(&self, change: impl FnOnce(&mut Vec<u32>) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn kill(&self) {
        for id in self.with(std::mem::take) {
            if let Ok(id) = i32::try_from(id) {
                // One that has just ended is as good.
                let _ = kill(Pid::from_raw(id), Signal::SIGKILL);
            }
        }
    }
}

/// A directory that is removed at the end.
#[derive(Debug)]
pub struct Workspace {
    dir: PathBuf,
    /// What runs in it.
    pub children: Children,
}

impl Workspace {
    /// Makes one under `dir`, which is made if it is not there.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let dir = dir.join(format!("bench-harness-{}", std::process::id()));
        fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let workspace = Self { dir, children: Children::default() };
        workspace.remove_on_signal()?;
        Ok(workspace)
    }

    /// Where it is.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Ends this process after Ctrl-C or a request to end, with the children and the directory.
    fn remove_on_signal(&self) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let (dir, children) = (self.dir.clone(), self.children.clone());
        let signals = runtime.block_on(async {
            let kinds = [SignalKind::interrupt(), SignalKind::terminate()];
            kinds.map(signal).into_iter().collect::<std::io::Result<Vec<_>>>()
        });
        let mut signals = signals.context("cannot listen for signals")?;
        thread::spawn(move || {
            runtime.block_on(async {
                let (one, other) = signals.split_at_mut(1);
                let mut one = std::pin::pin!(one[0].recv());
                let mut other = std::pin::pin!(other[0].recv());
                std::future::poll_fn(|cx| {
                    let ready =
                        one.as_mut().poll(cx).is_ready() || other.as_mut().poll(cx).is_ready();
                    if ready { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
                })
                .await;
            });
            children.kill();
            eprintln!("\nstopped; what the rounds before gave is in the output file");
            remove(&dir);
            std::process::exit(130);
        });
        Ok(())
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        self.children.kill();
        remove(&self.dir);
    }
}

/// Removes a directory. A process that was just killed may still be making files.
fn remove(dir: &Path) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while let Err(error) = fs::remove_dir_all(dir) {
        if error.kind() == std::io::ErrorKind::NotFound {
            return;
        }
        if Instant::now() >= deadline {
            eprintln!("cannot remove {}: {error}; remove it by hand", dir.display());
            return;
        }
        thread::sleep(POLL);
    }
}

/// A program that measures one target.
#[derive(Clone, Debug)]
pub struct Program {
    /// The program.
    pub path: PathBuf,
    /// The target.
    pub target: Target,
    /// Words behind the others of its `measure`.
    pub arguments: Vec<String>,
}

impl Program {
    /// The targets of a program.
    ///
    /// # Errors
    /// It cannot be run, or answers something else.
    pub fn all_of(path: &Path) -> Result<Vec<Self>> {
        let show = path.display();
        let output = Command::new(path).arg("targets").output();
        let output = output.with_context(|| format!("cannot run {show}"))?;
        ensure!(output.status.success(), "{show} targets failed ({})", output.status);
        let targets: Vec<Target> = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("{show} targets says no list of targets"))?;
        let program = |target| Self { path: path.to_owned(), target, arguments: Vec::new() };
        Ok(targets.into_iter().map(program).collect())
    }

    /// Whether it can do this.
    #[must_use]
    pub fn can(&self, spec: &Spec) -> bool {
        self.target.works.iter().any(|work| work == spec.work.kind())
    }

    /// Measures in a process of its own and a directory of its own, which is removed.
    ///
    /// # Errors
    /// The process failed; the error is what it said.
    pub fn measure(&self, spec: &Spec, workspace: &Workspace) -> Result<Measurement> {
        let dir = workspace.dir().join("data");
        fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let mut command = Command::new(&self.path);
        command.args(["measure", "--target", &self.target.name, "--dir"]).arg(&dir);
        command.args(["--spec", &serde_json::to_string(spec)?]).args(&self.arguments);
        let patience = PATIENCE + Duration::from_secs_f64(spec.seconds * 2.0);
        let ended = run_child(command, patience, &workspace.children);
        remove(&dir);
        let (status, output, errors) = ended?;
        ensure!(status.success(), "{} ({status})", some_lines(&errors));
        let measurement = serde_json::from_str(&output);
        measurement.with_context(|| format!("{} gave no measurement", self.path.display()))
    }
}

/// The first and the last lines of what a process said about its end.
fn some_lines(text: &str) -> String {
    const LINES: usize = 8;
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let text = match lines.len().checked_sub(2 * LINES) {
        Some(left_out) if left_out > 0 => {
            let (first, last) = (&lines[..LINES], &lines[LINES + left_out..]);
            format!("{}\n({left_out} lines)\n{}", first.join("\n"), last.join("\n"))
        }
        _ => lines.join("\n"),
    };
    let text = text.trim_start_matches("error: ").trim_start_matches("Error: ");
    if text.is_empty() { "it said nothing".to_owned() } else { text.to_owned() }
}

/// Runs a command to its end. Answers its status, what it printed, and its errors.
fn run_child(
    mut command: Command,
    patience: Duration,
    children: &Children,
) -> Result<(ExitStatus, String, String)> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // Where an error was made is no help to who reads why a target was left out.
    command.env("RUST_LIB_BACKTRACE", "0");
    let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
    children.with(|ids| ids.push(child.id()));
    let output = child.stdout.take().map(read_in_thread);
    let errors = child.stderr.take().map(read_in_thread);
    let status = wait(&mut child, patience);
    children.with(|ids| ids.retain(|id| *id != child.id()));
    let text = |reader: Option<thread::JoinHandle<String>>| {
        reader.map(|reader| reader.join().expect("reading does not panic")).unwrap_or_default()
    };
    let status = status.with_context(|| format!("{name} was stopped"))?;
    Ok((status, text(output), text(errors)))
}

fn read_in_thread(mut stream: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before an error is still what it said.
        let _ = stream.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn wait(child: &mut Child, patience: Duration) -> Result<ExitStatus> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            bail!("it took longer than {} s", patience.as_secs());
        }
        thread::sleep(POLL);
    }
}

/// Children that spin, so many on each processor.
#[derive(Debug)]
pub struct Neighbours(Vec<Child>);

impl Neighbours {
    /// Starts them.
    ///
    /// # Errors
    /// A process cannot be started.
    pub fn start(on_each: u32) -> Result<Self> {
        let program = std::env::current_exe().context("this program cannot find itself")?;
        let allowed = sched_getaffinity(Pid::from_raw(0)).context("cannot ask for processors")?;
        let cores = (0..CpuSet::count()).filter(|core| allowed.is_set(*core).unwrap_or(false));
        let mut neighbours = Self(Vec::new());
        for core in cores {
            for _ in 0..on_each {
                let mut command = Command::new(&program);
                command.args(["spin", "--core", &core.to_string()]).stdin(Stdio::null());
                neighbours.0.push(command.spawn().context("cannot start a neighbour")?);
            }
        }
        Ok(neighbours)
    }
}

impl Drop for Neighbours {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // One that has ended by itself is as good.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Arguments of `spin`, a neighbour.
#[derive(Debug, clap::Args)]
pub struct SpinArgs {
    /// The processor
    #[arg(long)]
    core: usize,
}

/// Keeps a processor busy until the parent is gone.
///
/// # Errors
/// The processor is not there.
pub fn spin(args: &SpinArgs) -> Result<()> {
    let mut core = CpuSet::new();
    core.set(args.core).context("there is no such processor")?;
    sched_setaffinity(Pid::from_raw(0), &core).context("cannot stay on that processor")?;
    let parent = parent_id();
    let mut value = 1_u64;
    while parent_id() == parent {
        for _ in 0..10_000_000 {
            value = std::hint::black_box(value.wrapping_mul(6_364_136_223_846_793_005) | 1);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_last_word_the_begin_and_the_end_are_shown() {
        assert_eq!(some_lines("Error: no room\n\nCaused by:\n"), "no room\nCaused by:");
        let long: Vec<String> = (0..100).map(|line| format!("line {line}")).collect();
        let shown = some_lines(&long.join("\n"));
        assert!(shown.starts_with("line 0\n") && shown.ends_with("line 99"), "{shown}");
        assert!(shown.contains("(84 lines)") && shown.lines().count() == 17, "{shown}");
    }

    #[test]
    fn a_child_that_takes_too_long_is_killed_and_one_that_fails_says_why() {
        let shell = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            command
        };
        let children = Children::default();
        let slow = run_child(shell("exec sleep 600"), Duration::ZERO, &children);
        assert!(format!("{:#}", slow.unwrap_err()).contains("longer than"));
        let patience = Duration::from_secs(60);
        let (status, said, errors) =
            run_child(shell("echo yes; echo no >&2; exit 3"), patience, &children).unwrap();
        assert_eq!((status.code(), &*said, &*errors), (Some(3), "yes\n", "no\n"));
        assert!(children.with(|ids| ids.is_empty()));
    }

    #[test]
    fn a_workspace_is_gone_after_it() {
        let dir = tempfile::tempdir().unwrap();
        let workspace = Workspace::new(dir.path()).unwrap();
        fs::write(workspace.dir().join("file"), "x").unwrap();
        drop(workspace);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
