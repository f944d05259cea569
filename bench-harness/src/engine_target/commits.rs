//! Processors that commit each record by itself.
//!
//! ```text
//! fill each source -> open each processor -> for each record: commit(delta, position, outputs)
//!                                            snapshot due? a commit of its own, counted apart
//! ```
//!
//! Not here: appends (`producers`).

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Result, bail};
use bytes::Bytes;
use oncelog::{Commit, Engine, Log, Processor, block_on};

use super::drive;
use super::{Rig, put};
use crate::meter::{Tally, Window};
use crate::outcome::{Figures, Latency};
use crate::payloads::Payloads;

/// No device makes more commits than these durable in a second, alone or together.
const COMMITS_PER_S_ALONE: f64 = 60_000.0;
const COMMITS_PER_S: f64 = 1_000_000.0;
/// Bytes of a source's record, and records in a batch while it is filled.
const INPUT_SIZE: usize = 16;
const FILL_RECORDS: u64 = 1000;
/// Bytes of a state, as a snapshot has them.
const STATE_SIZE: usize = 4096;

/// `processors` commits in flight, each with `delta` bytes of state and so many `outputs`.
pub(super) fn commit(rig: &Rig, processors: u32, delta: u32, outputs: u32) -> Result<Figures> {
    let engine = rig.open()?;
    let count = f64::from(processors);
    let per_s = COMMITS_PER_S_ALONE.min(COMMITS_PER_S / count);
    let inputs = (per_s * (rig.spec.seconds + 1.0)) as u64;
    let sources = drive::create_logs(&engine, names(processors, "source"))?;
    let destinations = drive::create_logs(&engine, names(processors, "output"))?;
    fill_sources(&sources, inputs)?;
    let opened = open(&engine, &sources)?;
    let mut random = Payloads::of(&rig.spec).get(0).to_vec();
    random.resize(STATE_SIZE.max(delta as usize), 7);
    let work = Rc::new(Committing {
        inputs,
        outputs,
        delta: Bytes::copy_from_slice(&random[..delta as usize]),
        state: Bytes::copy_from_slice(&random[..STATE_SIZE]),
        payloads: rig.payloads.clone(),
        next_output: Cell::new(0),
        snapshots: RefCell::default(),
    });
    let mut figures = rig.measure(&engine, |window| {
        let tally = Rc::new(RefCell::new(Tally::new(window)));
        let tasks = opened.into_iter().zip(destinations).map(|(processor, destination)| {
            work.clone().run(processor, destination, window, tally.clone())
        });
        match processors {
            1 => tasks.into_iter().try_for_each(block_on)?,
            _ => drive::tasks(tasks)?,
        }
        Ok(vec![Rc::into_inner(tally).expect("the tasks have ended").into_inner()])
    })?;
    let snapshots = work.snapshots.borrow();
    put(&mut figures, "commit/snapshots", snapshots.0.len() as f64);
    put(&mut figures, "commit/snapshot_p50_us", snapshots.quantile_us(0.5));
    put(&mut figures, "commit/snapshot_p99_us", snapshots.quantile_us(0.99));
    engine.close().wait()?;
    Ok(figures)
}

/// Each processor has a group of its own.
fn names(count: u32, what: &str) -> impl Iterator<Item = String> {
    (0..count).map(move |number| format!("group-{number:05}/{what}"))
}

fn fill_sources(sources: &[Log], records: u64) -> Result<()> {
    let input = Bytes::from(vec![1; INPUT_SIZE]);
    drive::tasks(sources.iter().cloned().map(|source| {
        let input = input.clone();
        async move {
            for _ in 0..records.div_ceil(FILL_RECORDS) {
                source.append_batch((0..FILL_RECORDS).map(|_| input.clone())).await?;
            }
            Ok(())
        }
    }))
}

fn open(engine: &Engine, sources: &[Log]) -> Result<Vec<Processor>> {
    let open = |source: &Log| {
        let name = format!("{}/processor", source.group());
        let (processor, _) = engine.processor(name).source(source.name()).open().wait()?;
        Ok(processor)
    };
    sources.iter().map(open).collect()
}

struct Committing {
    /// Records that each source has at least.
    inputs: u64,
    outputs: u32,
    delta: Bytes,
    state: Bytes,
    payloads: Payloads,
    next_output: Cell<u64>,
    snapshots: RefCell<Latency>,
}

impl Committing {
    async fn run(
        self: Rc<Self>,
        mut processor: Processor,
        destination: Log,
        window: Window,
        tally: Rc<RefCell<Tally>>,
    ) -> Result<()> {
        let mut left = self.inputs;
        loop {
            for record in processor.next().await?.records {
                if window.is_over() {
                    return Ok(());
                }
                if left == 0 {
                    bail!("the sources have come to their ends: raise COMMITS_PER_S");
                }
                left -= 1;
                let mut commit = Commit::new().delta(self.delta.clone()).through(&record);
                let mut bytes = self.delta.len() as u64;
                for _ in 0..self.outputs {
                    let output = self.payloads.get(self.next_output.get());
                    self.next_output.set(self.next_output.get() + 1);
                    bytes += output.len() as u64;
                    commit = commit.output(&destination, output);
                }
                let began = Instant::now();
                let committed = processor.commit(commit).await?;
                tally.borrow_mut().count(began, 1, bytes);
                if committed.snapshot_due {
                    let began = Instant::now();
                    let commit = Commit::new().snapshot(self.state.clone()).through(&record);
                    processor.commit(commit).await?;
                    let took = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
                    self.snapshots.borrow_mut().record(took);
                }
            }
        }
    }
}
