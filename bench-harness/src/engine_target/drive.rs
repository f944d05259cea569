//! Keeps operations in flight: one as this thread, several as tasks on it.
//!
//! Not here: what the operations are.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context, Result};
use oncelog::{AppendError, Appended, Engine, Log, Response, block_on};
use tokio::runtime;
use tokio::task::LocalSet;

use crate::meter::{Tally, Window};
use crate::payloads::Payloads;

/// Log creations in flight.
const CREATIONS: usize = 512;
/// Appends in flight while logs are filled, and their bytes.
const FILL_APPENDS: usize = 4096;
const FILL_BYTES: u64 = 8 << 20;

/// What an operation did.
pub(super) struct Done {
    pub(super) records: u64,
    pub(super) bytes: u64,
}

/// Keeps `in_flight` operations going until the window is over. They are numbered from 0.
pub(super) fn closed_loop<F>(
    in_flight: u32,
    window: Window,
    operation: impl Fn(u64) -> F + 'static,
) -> Result<Tally>
where
    F: Future<Output = Result<Done>> + 'static,
{
    if in_flight == 1 {
        let mut tally = Tally::new(window);
        let mut number = 0;
        while !window.is_over() {
            let began = Instant::now();
            let done = block_on(operation(number))?;
            tally.count(began, done.records, done.bytes);
            number += 1;
        }
        return Ok(tally);
    }
    let (operation, next) = (Rc::new(operation), Rc::new(Cell::new(0)));
    let tally = Rc::new(RefCell::new(Tally::new(window)));
    tasks((0..in_flight).map(|_| {
        let (operation, next, tally) = (operation.clone(), next.clone(), tally.clone());
        async move {
            while !window.is_over() {
                let number = next.replace(next.get() + 1);
                let began = Instant::now();
                let done = operation(number).await?;
                tally.borrow_mut().count(began, done.records, done.bytes);
            }
            Ok(())
        }
    }))?;
    let tally = Rc::into_inner(tally).expect("the tasks have ended");
    Ok(tally.into_inner())
}

/// Runs tasks on this thread; the first error is the result.
pub(super) fn tasks<F>(tasks: impl IntoIterator<Item = F>) -> Result<()>
where
    F: Future<Output = Result<()>> + 'static,
{
    let (runtime, local) = (current_thread()?, LocalSet::new());
    local.block_on(&runtime, async {
        let spawned: Vec<_> = tasks.into_iter().map(tokio::task::spawn_local).collect();
        let mut result = Ok(());
        for task in spawned {
            result = result.and(task.await.expect("no task panics"));
        }
        result
    })
}

/// A runtime without drivers: tasks are woken by the engine's threads only.
pub(super) fn current_thread() -> Result<runtime::Runtime> {
    runtime::Builder::new_current_thread().build().context("cannot make a runtime")
}

/// Makes logs, many at a time, in the order of their names.
pub(super) fn create_logs(
    engine: &Engine,
    names: impl Iterator<Item = String>,
) -> Result<Vec<Log>> {
    let names: Vec<String> = names.collect();
    let count = names.len();
    let made = Rc::new(RefCell::new(vec![None; count]));
    let names = Rc::new(RefCell::new(names.into_iter().enumerate()));
    tasks((0..CREATIONS.min(count)).map(|_| {
        let (engine, made, names) = (engine.clone(), made.clone(), names.clone());
        async move {
            loop {
                let Some((index, name)) = names.borrow_mut().next() else { return Ok(()) };
                let log = engine.create_log(name).await?;
                made.borrow_mut()[index] = Some(log);
            }
        }
    }))?;
    let made = Rc::into_inner(made).expect("the tasks have ended").into_inner();
    Ok(made.into_iter().map(|log| log.expect("each was made")).collect())
}

/// Appends `bytes` of payload to the logs in turn, record by record. Answers how many records.
pub(super) fn fill(logs: &[Log], payloads: &Payloads, bytes: u64) -> Result<u64> {
    let mut pending: VecDeque<(u64, Response<Appended, AppendError>)> = VecDeque::new();
    let (mut number, mut written, mut waiting) = (0, 0, 0);
    while written < bytes || !pending.is_empty() {
        let full = pending.len() >= FILL_APPENDS || waiting >= FILL_BYTES;
        if written < bytes && !full {
            let size = u64::from(payloads.size(number)).max(1);
            let log = &logs[(number % logs.len() as u64) as usize];
            pending.push_back((size, log.append(payloads.get(number))));
            (number, written, waiting) = (number + 1, written + size, waiting + size);
        } else if let Some((size, response)) = pending.pop_front() {
            response.wait()?;
            waiting -= size;
        }
    }
    Ok(number)
}
