//! Opening after a crash.
//!
//! ```text
//! child: fill to `bytes` -> appends in flight -> "ready" --SIGKILL--> this process: open, append
//!        ^------------------------------- again: each opening follows a kill -----------'
//! ```
//!
//! Only the openings count, not what is between them.
//!
//! Not here: what recovery does (the engine).

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::parent_id;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use oncelog::From;

use super::producers::Appends;
use super::{EngineOptions, Rig, drive, log_name, put};
use crate::meter::{Tally, Window, add_piece, measure_whole};
use crate::outcome::Figures;
use crate::payloads::Payloads;
use crate::spec::{Spec, Work};

/// Openings, each after a kill.
const OPENINGS: usize = 5;
/// Appends in flight when the child is killed.
const IN_FLIGHT: u32 = 64;
/// Answers that the child waits for before it says that it is ready.
const ANSWERS: u64 = 200;
/// What it says then, before the number of records that are in the logs at least.
const READY: &str = "ready ";
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// Times openings of a directory whose writer was killed.
pub(super) fn recovery(rig: &Rig, bytes: u64) -> Result<Figures> {
    ensure!(bytes > 0, "a recovery needs bytes in the logs");
    let (mut figures, mut first_appends) = (Figures::default(), Vec::new());
    for _ in 0..OPENINGS {
        let acknowledged = kill_while_it_appends(rig)?;
        let mut opened = None;
        let began = Instant::now();
        let mut piece = measure_whole(&rig.dir, |window| {
            let mut tally = Tally::new(window);
            let began = Instant::now();
            opened = Some(rig.options.apply(&rig.dir).open()?);
            tally.count(began, 0, bytes);
            Ok::<_, anyhow::Error>(vec![tally])
        })?;
        let engine = opened.expect("it was opened");
        let log = engine.open_log(log_name(0)).wait()?;
        log.append(rig.payloads.get(0)).wait()?;
        first_appends.push(began.elapsed().as_secs_f64());
        check_end(&log)?;
        piece.records = engine.list_logs("").wait()?.iter().map(|log| log.next.get()).sum();
        let lost = acknowledged.saturating_sub(piece.records);
        ensure!(lost == 0, "{lost} acknowledged records are lost");
        add_piece(&mut figures, &piece);
        *rig.durability.borrow_mut() = super::options::durability(&engine.info().wait()?);
        engine.close().wait()?;
    }
    first_appends.sort_by(f64::total_cmp);
    put(&mut figures, "check/records_lost", 0.0);
    put(&mut figures, "recovery/first_append_s", first_appends[OPENINGS / 2]);
    put(&mut figures, "recovery/first_append_max_s", first_appends[OPENINGS - 1]);
    Ok(figures)
}

/// The last record can be read: opening has not just put the work off.
fn check_end(log: &oncelog::Log) -> Result<()> {
    let last = log.describe().wait()?.next.get() - 1;
    let mut reader = log.reader(From::Sequence(oncelog::Sequence::new(last)));
    ensure!(reader.next().wait()?.len() == 1, "the last record cannot be read");
    Ok(())
}

/// Answers how many records were acknowledged at least.
fn kill_while_it_appends(rig: &Rig) -> Result<u64> {
    let spec = serde_json::to_string(&rig.spec)?;
    let program = std::env::current_exe().context("this program cannot find itself")?;
    let mut child = Command::new(program)
        .args(["measure-fill", "--spec", &spec, "--dir"])
        .arg(&rig.dir)
        .args(rig.options.to_arguments())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the process that fills")?;
    let said = wait_until_ready(&mut child);
    let killed = child.kill();
    let status = child.wait().context("cannot wait for the process that fills")?;
    let records = said.with_context(|| format!("the process that fills failed ({status})"))?;
    killed.context("cannot kill the process that fills")?;
    wait_for_lock(&rig.dir)?;
    Ok(records)
}

fn wait_until_ready(child: &mut Child) -> Result<u64> {
    let stdout = child.stdout.take().context("its output is not there")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).context("cannot read what it says")?;
    let records = line.trim_end().strip_prefix(READY).and_then(|number| number.parse().ok());
    records.with_context(|| format!("it said {line:?}"))
}

/// The lock of a killed process lasts until its ring is gone: that is not recovery.
fn wait_for_lock(dir: &Path) -> Result<()> {
    let lock = File::open(dir.join("LOCK")).context("the process that fills made no engine")?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    while lock.try_lock().is_err() {
        ensure!(Instant::now() < deadline, "the killed process still holds {}", dir.display());
        thread::sleep(Duration::from_millis(1));
    }
    lock.unlock().context("cannot unlock")
}

/// What the child does: fills the logs unless they are, says that it is ready, and appends until it
/// is killed, or its parent is gone.
///
/// # Errors
/// The engine's; it does not end otherwise.
pub fn fill_until_killed(spec: &Spec, dir: &Path, options: &EngineOptions) -> Result<()> {
    let Work::Recovery { bytes } = spec.work else { bail!("only recovery needs a filled engine") };
    let (parent, engine) = (parent_id(), options.apply(dir).open()?);
    let payloads = Payloads::of(spec);
    let logs = if engine.list_logs("").wait()?.is_empty() {
        let logs = drive::create_logs(&engine, (0..spec.logs).map(log_name))?;
        drive::fill(&logs, &payloads, bytes)?;
        logs
    } else {
        let names = (0..spec.logs).map(log_name);
        names.map(|name| Ok(engine.open_log(name).wait()?)).collect::<Result<_>>()?
    };
    let count = engine.list_logs("").wait()?.iter().map(|log| log.next.get()).sum::<u64>();
    let begin = Instant::now();
    let forever = Window { begin, end: begin + Duration::from_secs(24 * 60 * 60) };
    let answers = Rc::new(std::cell::Cell::new(0));
    Appends { logs, payloads }.closed_loop(IN_FLIGHT, forever, move |_, _| {
        answers.set(answers.get() + 1);
        if answers.get() == ANSWERS {
            println!("{READY}{}", count + ANSWERS);
            // Where nobody listens the parent is gone, which is seen below.
            let _ = std::io::stdout().flush();
        }
        if parent_id() != parent {
            std::process::exit(1);
        }
    })?;
    bail!("nobody has killed this process for a day");
}
