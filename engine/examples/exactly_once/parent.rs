//! The parent: starts the worker, kills it, checks after each start that nothing acknowledged is
//! missing, and in the end that all is right.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::Result;
use crate::args::{Job, Settings, of_worker};
use crate::input::Input;
use crate::plan::{Kill, Plan};
use crate::protocol::Message;
use crate::report::{Console, Report, grouped};
use crate::straight::Straight;
use crate::verify::{Findings, verify};

const SIGKILL: i32 = 9;
/// A worker that says nothing for so long is stuck.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a start takes, before one was seen.
const START_GUESS: Duration = Duration::from_millis(20);

pub(crate) fn run(settings: Settings) -> Result<()> {
    let mut console = Console::new(settings.json);
    let place = Place::make(settings.data.as_deref())?;
    let done = crash_and_verify(&settings, &place, &mut console);
    if (done.is_err() || settings.keep) && place.engine().exists() {
        console.line(&format!("the data are in {}", place.dir.display()));
    } else {
        place.remove()?;
    }
    done
}

fn crash_and_verify(settings: &Settings, place: &Place, console: &mut Console) -> Result<()> {
    let input = Input::find(&settings.inputs, settings.repeat, &place.spool())?;
    let straight = Straight::count(&input)?;
    let (lines, bytes) = (grouped(straight.lines), grouped(straight.bytes));
    console.line(&format!("input: {lines} lines, {bytes} bytes; seed {}", settings.seed));

    let job = Job { dir: place.engine(), total: straight.lines, input };
    let begun = Instant::now();
    let mut parent = Parent::new(job, Plan::new(settings.seed, settings.kills), console);
    parent.run()?;
    let took = begun.elapsed();
    let Parent { job, tally, .. } = parent;

    let begun = Instant::now();
    let findings = verify(&job.dir, &job.input, &straight)?;
    console.line(&format!("compared in {:.1} s", begun.elapsed().as_secs_f64()));
    let report = report(settings, &straight, &tally, &findings, took);
    console.line(&format!("\n{}", report.table()));
    if settings.json {
        println!("{}", report.json());
    }
    for difference in &findings.differences {
        console.line(&format!("DIFFERENCE {difference}"));
    }
    if !findings.differences.is_empty() {
        return Err("what is on disk is not what a run without crashes gives".into());
    }
    console.line("every line once, every result once, every word counted once");
    Ok(())
}

/// Where the data are.
struct Place {
    dir: PathBuf,
    made: bool,
}

impl Place {
    fn make(dir: Option<&Path>) -> Result<Self> {
        if let Some(dir) = dir {
            let made = !dir.exists();
            fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
            if fs::read_dir(dir)?.next().is_some() {
                return Err(format!("{} is not empty; name another one", dir.display()).into());
            }
            return Ok(Self { dir: dir.canonicalize()?, made });
        }
        // target/release/examples/exactly_once -> target/tmp: on a disk, which /tmp may not be.
        let program = std::env::current_exe()?;
        let build = program.ancestors().nth(3).filter(|dir| dir.join("CACHEDIR.TAG").exists());
        let parent = build.map_or_else(std::env::current_dir, |dir| Ok(dir.join("tmp")))?;
        fs::create_dir_all(&parent)?;
        let dir = tempfile::Builder::new().prefix("exactly-once-").tempdir_in(parent)?.keep();
        Ok(Self { dir, made: true })
    }

    fn engine(&self) -> PathBuf {
        self.dir.join("engine")
    }

    fn spool(&self) -> PathBuf {
        self.dir.join("input")
    }

    /// Removes what was made, and nothing else.
    fn remove(&self) -> Result<()> {
        if self.engine().exists() {
            fs::remove_dir_all(self.engine())?;
        }
        if self.spool().exists() {
            fs::remove_file(self.spool())?;
        }
        if self.made {
            fs::remove_dir(&self.dir)?;
        }
        Ok(())
    }
}

/// What the worker is known to have done, over all its lives.
#[derive(Clone, Copy, Default)]
struct Progress {
    /// Lines whose append was acknowledged, or that were read: what is read is durable.
    lines: u64,
    /// Lines that the processor was handed.
    read: u64,
    /// Lines whose commit was acknowledged.
    position: u64,
    /// Commits that were acknowledged.
    commits: u64,
    /// It is past recovery, in this life.
    ready: bool,
    /// It is done, in this life.
    done: bool,
}

/// What is counted for the report.
#[derive(Default)]
struct Tally {
    killed_opening: u64,
    killed_appending: u64,
    killed_processing: u64,
    restarts: u64,
    ready: u32,
    replayed: u64,
    snapshots: u64,
    records: u64,
    controls: u64,
    syncs: u64,
    dsync: bool,
    starting: Duration,
    starting_max: Duration,
}

impl Tally {
    fn kills(&self) -> u64 {
        self.killed_opening + self.killed_appending + self.killed_processing
    }
}

struct Parent<'a> {
    job: Job,
    plan: Plan,
    console: &'a mut Console,
    progress: Progress,
    tally: Tally,
    /// What the engine of this life has done.
    stats: (u64, u64, u64),
    started: Instant,
    start: Duration,
}

impl<'a> Parent<'a> {
    fn new(job: Job, plan: Plan, console: &'a mut Console) -> Self {
        let (progress, tally) = (Progress::default(), Tally::default());
        let (stats, started, start) = ((0, 0, 0), Instant::now(), START_GUESS);
        Self { job, plan, console, progress, tally, stats, started, start }
    }

    /// One life of the worker after another, until one reaches the end.
    fn run(&mut self) -> Result<()> {
        loop {
            let (Progress { lines, position, .. }, total) = (self.progress, self.job.total);
            if position == total && self.plan.left() > 0 {
                let left = self.plan.left();
                return Err(format!(
                    "the input ended before {left} of the kills; use --repeat, or fewer --kills"
                )
                .into());
            }
            let kill = self.plan.next(lines, position, total, self.start);
            self.progress.ready = false;
            self.progress.done = false;
            let ended = self.live(kill)?;
            let (records, controls, syncs) = std::mem::take(&mut self.stats);
            self.tally.records += records;
            self.tally.controls += controls;
            self.tally.syncs += syncs;
            if ended {
                return Ok(());
            }
            self.tally.restarts += 1;
        }
    }

    /// One life. True if it reached its end, false if it was killed.
    fn live(&mut self, kill: Option<Kill>) -> Result<bool> {
        self.started = Instant::now();
        let mut child = Command::new(std::env::current_exe()?)
            .args(of_worker(&self.job))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let messages = listen(&mut child);
        let result = self.watch(&mut child, &messages, kill);
        if result.is_err() {
            // It may have ended by itself; and the first error is the one to tell.
            let _ = child.kill();
            let _ = child.wait();
        }
        result
    }

    fn watch(
        &mut self,
        child: &mut Child,
        messages: &Receiver<Result<Message>>,
        kill: Option<Kill>,
    ) -> Result<bool> {
        let mut at = match kill {
            Some(Kill::Opening { after }) => Some(self.started + after),
            Some(Kill::Working { .. }) | None => None,
        };
        loop {
            let wait = at.map(|at| at.saturating_duration_since(Instant::now()));
            match messages.recv_timeout(wait.unwrap_or(PATIENCE)) {
                Ok(message) => self.hear(message?)?,
                Err(RecvTimeoutError::Timeout) if at.is_some() => {
                    self.kill(child, messages)?;
                    return Ok(false);
                }
                Err(RecvTimeoutError::Timeout) => {
                    return Err(format!("the worker is stuck at {}", self.place()).into());
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let status = child.wait()?;
                    let ended = status.success() && self.progress.done;
                    let why = || format!("the worker ended at {}: {status}", self.place());
                    return if ended { Ok(true) } else { Err(why().into()) };
                }
            }
            if let (Some(Kill::Working { lines, position, after }), None) = (kill, at)
                && self.progress.ready
                && (self.progress.lines >= lines && self.progress.position >= position)
            {
                at = Some(Instant::now() + after);
            }
            if self.progress.done && at.is_none() {
                // It closes the engine once nobody talks to it any more.
                drop(child.stdin.take());
            }
        }
    }

    fn kill(&mut self, child: &mut Child, messages: &Receiver<Result<Message>>) -> Result<()> {
        child.kill()?;
        let life = self.started.elapsed();
        let (tally, progress) = (&mut self.tally, &self.progress);
        let (count, what) = if !progress.ready {
            (&mut tally.killed_opening, "while it started")
        } else if progress.done {
            (&mut tally.killed_processing, "when it was done")
        } else if progress.lines < self.job.total {
            (&mut tally.killed_appending, "while it appended and processed")
        } else {
            (&mut tally.killed_processing, "while it processed")
        };
        *count += 1;
        let status = child.wait()?;
        if status.signal() != Some(SIGKILL) {
            return Err(format!("the worker ended before it was killed: {status}").into());
        }
        // What it said before it died was acknowledged.
        for message in messages {
            self.hear(message?)?;
        }
        let (kill, life) = (self.tally.kills(), life.as_secs_f64() * 1e3);
        let text = format!("kill {kill:3} after {life:6.1} ms, {what}: {}", self.place());
        self.console.line(&text);
        Ok(())
    }

    fn hear(&mut self, message: Message) -> Result<()> {
        let progress = &mut self.progress;
        match message {
            Message::Ready { lines, position, commits } => {
                self.start = self.started.elapsed();
                self.tally.ready += 1;
                self.tally.starting += self.start;
                self.tally.starting_max = self.tally.starting_max.max(self.start);
                let checks = [
                    ("lines appended", progress.lines, lines),
                    ("lines processed", progress.position, position),
                    ("commits", progress.commits, commits),
                ];
                for (what, acked, found) in checks {
                    if found < acked {
                        let why = format!("LOST: {acked} {what} acknowledged, {found} left");
                        return Err(why.into());
                    }
                }
                self.tally.replayed += progress.read.saturating_sub(position);
                let (read, ready, done) = (position, true, false);
                *progress = Progress { lines, read, position, commits, ready, done };
                if self.tally.restarts > 0 {
                    let (start, place) = (self.start.as_secs_f64() * 1e3, self.place());
                    self.console.line(&format!("  again after {start:6.1} ms, all there: {place}"));
                }
            }
            Message::Acked { lines } => progress.lines = progress.lines.max(lines),
            Message::Read { lines } => {
                progress.read = lines;
                progress.lines = progress.lines.max(lines);
            }
            Message::Committed { commits, position, snapshot } => {
                progress.commits = commits;
                progress.position = position;
                self.tally.snapshots += u64::from(snapshot);
            }
            Message::Stats { records, controls, syncs, dsync } => {
                self.stats = (records, controls, syncs);
                self.tally.dsync = dsync;
            }
            Message::Done => progress.done = true,
        }
        let progress = &self.progress;
        self.console.progress(|| {
            let percent = |part: u64| 100 * part / self.job.total.max(1);
            let (lines, position) = (percent(progress.lines), percent(progress.position));
            let kills = self.tally.kills();
            format!("{lines}% appended, {position}% processed, {kills} kills")
        });
        Ok(())
    }

    fn place(&self) -> String {
        let Progress { lines, position, commits, .. } = self.progress;
        let (lines, position) = (grouped(lines), grouped(position));
        format!("{lines} lines, {position} processed, {} commits", grouped(commits))
    }
}

/// What the worker says, until it dies.
fn listen(child: &mut Child) -> Receiver<Result<Message>> {
    let (sender, messages) = channel();
    let stdout = child.stdout.take().expect("it is a pipe");
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines() {
            let message = line.map_err(Into::into).and_then(|line| Ok(line.parse()?));
            if sender.send(message).is_err() {
                return;
            }
        }
    });
    messages
}

fn report(
    settings: &Settings,
    straight: &Straight,
    tally: &Tally,
    findings: &Findings,
    took: Duration,
) -> Report {
    let mut report = Report::default();
    let (info, seconds) = (&findings.info, took.as_secs_f64());
    report.add("seed", "seed", settings.seed);
    report.add("records", "records (lines)", straight.lines);
    report.add("bytes", "bytes", straight.bytes);
    report.add("words", "words", straight.counts.words());
    report.add("distinct_words", "different words", straight.counts.distinct());
    report.add("commits", "commits, one result each", findings.commits);
    report.add("snapshots", "of them with a snapshot", tally.snapshots);
    report.add("kills", "kills (SIGKILL)", tally.kills());
    report.add("kills_opening", "  while it started", tally.killed_opening);
    report.add("kills_appending", "  while it appended", tally.killed_appending);
    report.add("kills_processing", "  while it only processed", tally.killed_processing);
    report.add("restarts", "restarts", tally.restarts);
    let start = tally.starting.as_secs_f64() * 1e3 / f64::from(tally.ready.max(1));
    report.add("start_ms", "ms until recovered, mean", start);
    report.add("start_ms_max", "  at most", tally.starting_max.as_secs_f64() * 1e3);
    report.add("replayed", "records processed again", tally.replayed);
    report.add("lost", "records lost", findings.lost);
    report.add("duplicated", "records duplicated", findings.duplicated);
    report.add("differences", "differences of any kind", findings.differences.len());
    report.add("syncs", "syncs", tally.syncs);
    let per_sync = (tally.records + tally.controls) as f64 / tally.syncs.max(1) as f64;
    report.add("records_per_sync", "records and commits per sync", per_sync);
    report.add("seconds", "seconds, kills and all", seconds);
    report.add("records_per_second", "records/s", (straight.lines as f64 / seconds) as u64);
    report.add("mb_per_second", "MB/s", straight.bytes as f64 / seconds / 1e6);
    let method = if tally.dsync { "RWF_DSYNC" } else { "fdatasync" };
    report.add("sync_method", "sync method", method.to_owned());
    report.add("io", "I/O", info.shards[0].runner.kind.to_owned());
    report.add("direct_io", "past the page cache", yes(info.direct_io));
    report.add("file_system", "file system", info.host.file_system.clone());
    let why_not = info.host.why_not.as_ref();
    let durable = why_not.map_or_else(|| yes(info.durable), |why| format!("NO: {why}"));
    report.add("durable", "durable, says the file system", durable);
    report
}

fn yes(yes: bool) -> String {
    if yes { "yes" } else { "no" }.to_owned()
}
