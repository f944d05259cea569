//! The workloads against oncelog, in this process.
//!
//! ```text
//! measure(spec, dir, options) -> Rig -> producers  append, open-loop, batch, soak
//!                                       commits    commit
//!                                       readers    tail, catch-up, mixed
//!                                       recovery   recovery (kills a child that fills)
//! ```
//!
//! One producer is this thread, blocked in each append. More are tasks on one thread, so that the
//! client's side takes little from the engine.
//!
//! Invariant: the engine's counters (`engine/..` in `extra`) are taken over the time that counts.
//!
//! Not here: processes and rounds (`run`), and other stores (the `bench-peers` program).

mod options;
mod drive;
mod producers;
mod soak;
mod commits;
mod readers;
mod recovery;

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use oncelog::{Engine, Log};

pub use options::EngineOptions;
pub use recovery::fill_until_killed;

use crate::meter::{Meter, Tally, Window};
use crate::outcome::{Figures, Measurement};
use crate::payloads::Payloads;
use crate::spec::{Spec, Work};

/// Its name among the targets.
pub const NAME: &str = "oncelog";

/// What an answer means, before it is known which way the engine chooses.
pub const DURABILITY: &str = "durable (RWF_DSYNC or fdatasync)";

/// The kinds of work that it can do: all.
pub const WORKS: [&str; 9] =
    ["append", "open-loop", "batch", "commit", "tail", "catch-up", "mixed", "recovery", "soak"];

/// Its version.
#[must_use]
pub fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// Does what the spec says in `dir`, which is empty.
///
/// # Errors
/// The engine's, and a spec that cannot be done; each says what to do.
pub fn measure(spec: &Spec, dir: &Path, options: &EngineOptions) -> Result<Measurement> {
    check(spec)?;
    let rig = Rig {
        spec: spec.clone(),
        payloads: Payloads::of(spec),
        dir: dir.to_owned(),
        options: options.for_logs(spec.logs),
        durability: RefCell::new(DURABILITY.to_owned()),
    };
    let figures = match spec.work {
        Work::Append { in_flight } => producers::append(&rig, in_flight),
        Work::OpenLoop { rate } => producers::open_loop(&rig, rate),
        Work::Batch { records, in_flight } => producers::batch(&rig, records, in_flight),
        Work::Commit { processors, delta, outputs } => {
            commits::commit(&rig, processors, delta, outputs)
        }
        Work::Tail { in_flight, readers } => readers::tail(&rig, in_flight, readers),
        Work::CatchUp { bytes, cold, readers } => readers::catch_up(&rig, bytes, cold, readers),
        Work::Mixed { in_flight, readers } => readers::mixed(&rig, in_flight, readers),
        Work::Recovery { bytes } => recovery::recovery(&rig, bytes),
        Work::Soak { records, in_flight, keep } => soak::soak(&rig, records, in_flight, keep),
        Work::WireAppend { .. }
        | Work::WireRead { .. }
        | Work::WireIngest { .. }
        | Work::WireIdle { .. } => {
            bail!("{} is done by a server: see bench-harness wire", spec.work.kind())
        }
    };
    let figures = figures.with_context(|| format!("{} of oncelog failed", spec.work.kind()))?;
    ensure!(
        figures.operations > 0,
        "nothing ended within {} s: ask for more seconds",
        spec.seconds
    );
    Ok(Measurement {
        target: NAME.to_owned(),
        version: version().to_owned(),
        durability: rig.durability.into_inner(),
        spec: spec.clone(),
        figures,
    })
}

fn check(spec: &Spec) -> Result<()> {
    ensure!(spec.logs > 0, "a spec needs at least one log");
    ensure!(spec.seconds > 0.0 && spec.seconds.is_finite(), "a spec needs seconds above 0");
    let counts: &[u32] = match &spec.work {
        Work::Append { in_flight } => &[*in_flight],
        Work::Batch { records, in_flight } | Work::Soak { records, in_flight, .. } => {
            &[*records, *in_flight]
        }
        Work::Commit { processors, .. } => &[*processors],
        Work::Tail { in_flight, readers } | Work::Mixed { in_flight, readers } => {
            &[*in_flight, *readers]
        }
        Work::CatchUp { readers, .. } => &[*readers],
        _ => &[],
    };
    ensure!(counts.iter().all(|count| *count > 0), "in {:?} a count is 0", spec.work);
    Ok(())
}

/// What every workload needs.
struct Rig {
    spec: Spec,
    payloads: Payloads,
    dir: PathBuf,
    options: EngineOptions,
    durability: RefCell<String>,
}

impl Rig {
    /// Opens the engine, making it if it is not there.
    fn open(&self) -> Result<Engine> {
        let engine = self.options.apply(&self.dir).open()?;
        *self.durability.borrow_mut() = options::durability(&engine.info().wait()?);
        Ok(engine)
    }

    /// Makes the spec's logs, and says how many a second that were; `NaN` where they are few, since
    /// the first one also makes a segment.
    fn create_logs(&self, engine: &Engine) -> Result<(Vec<Log>, f64)> {
        let began = Instant::now();
        let logs = drive::create_logs(engine, (0..self.spec.logs).map(log_name))?;
        let per_s = f64::from(self.spec.logs) / began.elapsed().as_secs_f64();
        Ok((logs, if self.spec.logs < 100 { f64::NAN } else { per_s }))
    }

    /// Runs `work`, which ends with the window, and counts what the engine does in it.
    fn measure(
        &self,
        engine: &Engine,
        work: impl FnOnce(Window) -> Result<Vec<Tally>>,
    ) -> Result<Figures> {
        let window = Window::of(&self.spec);
        let counters = options::watch(engine, window);
        let meter = Meter::start(window, &self.dir);
        let tallies = work(window)?;
        let mut figures = meter.finish(tallies);
        let counted = counters.join().expect("the thread that counts does not panic")?;
        counted.put_into(&mut figures);
        *self.durability.borrow_mut() = options::durability(&counted.after);
        Ok(figures)
    }
}

/// The name of a log. Each is a group of its own, so they are spread over the shards.
fn log_name(number: u32) -> String {
    format!("log-{number:06}")
}

/// Adds a figure under a name, unless there was nothing to divide by.
fn put(figures: &mut Figures, name: &str, value: f64) {
    if value.is_finite() {
        figures.extra.insert(name.to_owned(), value);
    }
}
