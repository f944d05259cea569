//! Appends: closed loop, open loop, and batches.
//!
//! Not here: readers beside them (`readers`).

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use oncelog::{AppendError, Appended, Log, Response};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::LocalSet;

use super::drive::{self, Done};
use super::{Rig, put};
use crate::meter::{Tally, Window};
use crate::outcome::{Figures, Latency};
use crate::payloads::Payloads;

/// Single-record appends, `in_flight` at a time.
pub(super) fn append(rig: &Rig, in_flight: u32) -> Result<Figures> {
    let engine = rig.open()?;
    let (logs, creations_per_s) = rig.create_logs(&engine)?;
    let mut figures = rig.measure(&engine, |window| {
        let appends = Appends { logs, payloads: rig.payloads.clone() };
        Ok(vec![appends.closed_loop(in_flight, window, |_, _| ())?])
    })?;
    put(&mut figures, "engine/log_creations_per_s", creations_per_s);
    engine.close().wait()?;
    Ok(figures)
}

/// Appends to logs in turn.
pub(super) struct Appends {
    pub(super) logs: Vec<Log>,
    pub(super) payloads: Payloads,
}

impl Appends {
    /// Keeps `in_flight` going. `answered` hears the index of the log and the answer.
    pub(super) fn closed_loop(
        self,
        in_flight: u32,
        window: Window,
        answered: impl Fn(usize, &Appended) + 'static,
    ) -> Result<Tally> {
        let answered = Rc::new(answered);
        drive::closed_loop(in_flight, window, move |number| {
            let index = (number % self.logs.len() as u64) as usize;
            let payload = self.payloads.get(number);
            let bytes = payload.len() as u64;
            let response = self.logs[index].append(payload);
            let answered = answered.clone();
            async move {
                answered(index, &response.await?);
                Ok(Done { records: 1, bytes })
            }
        })
    }
}

/// Batches of `records`, `in_flight` at a time, to the logs in turn.
pub(super) fn batch(rig: &Rig, records: u32, in_flight: u32) -> Result<Figures> {
    let engine = rig.open()?;
    let (logs, creations_per_s) = rig.create_logs(&engine)?;
    let mut figures = rig.measure(&engine, |window| {
        let payloads = rig.payloads.clone();
        let tally = drive::closed_loop(in_flight, window, move |number| {
            let log = &logs[(number % logs.len() as u64) as usize];
            let (first, records) = (number * u64::from(records), u64::from(records));
            let numbers = first..first + records;
            let bytes = numbers.clone().map(|number| u64::from(payloads.size(number))).sum();
            let response = log.append_batch(numbers.map(|number| payloads.get(number)));
            async move {
                response.await?;
                Ok(Done { records, bytes })
            }
        })?;
        Ok(vec![tally])
    })?;
    put(&mut figures, "engine/log_creations_per_s", creations_per_s);
    engine.close().wait()?;
    Ok(figures)
}

/// Where so many appends wait for answers, or one would begin so late, it is left out: the rate is
/// too high.
const BACKLOG_MAX: u64 = 100_000;
const LATE_MAX: Duration = Duration::from_millis(500);
/// The clock is watched for so long before an append is due, since sleeping is not exact.
const WATCH: Duration = Duration::from_micros(60);

/// Appends that begin at a rate whatever the answers do.
///
/// ```text
/// scheduler thread: at each due instant append(), never waits --> this thread: awaits answers
/// ```
pub(super) fn open_loop(rig: &Rig, rate: f64) -> Result<Figures> {
    ensure!(rate > 0.0 && rate.is_finite(), "an open loop needs a rate above 0");
    let engine = rig.open()?;
    let (logs, creations_per_s) = rig.create_logs(&engine)?;
    let mut late = Schedule::default();
    let mut figures = rig.measure(&engine, |window| {
        let (sent, answers) = unbounded_channel();
        let pending = Arc::new(AtomicU64::new(0));
        let scheduler = Scheduler {
            logs,
            payloads: rig.payloads.clone(),
            window,
            rate,
            sent,
            pending: pending.clone(),
        };
        let scheduler = thread::spawn(move || scheduler.run());
        let tally = await_answers(answers, &pending, window)?;
        late = scheduler.join().expect("the scheduler does not panic");
        Ok(vec![tally])
    })?;
    put(&mut figures, "engine/log_creations_per_s", creations_per_s);
    put(&mut figures, "open-loop/rate", rate);
    put(&mut figures, "open-loop/overloaded", f64::from(u8::from(late.left_out > 0)));
    put(&mut figures, "open-loop/left_out", late.left_out as f64);
    put(&mut figures, "open-loop/begun_late_p50_us", late.late.quantile_us(0.5));
    put(&mut figures, "open-loop/begun_late_p99_us", late.late.quantile_us(0.99));
    engine.close().wait()?;
    Ok(figures)
}

/// An append on its way: when it was due, and its bytes.
struct Sent {
    due: Instant,
    bytes: u64,
    response: Response<Appended, AppendError>,
}

struct Scheduler {
    logs: Vec<Log>,
    payloads: Payloads,
    window: Window,
    rate: f64,
    sent: UnboundedSender<Sent>,
    pending: Arc<AtomicU64>,
}

/// How the scheduler kept its times.
#[derive(Default)]
struct Schedule {
    late: Latency,
    /// Appends that were left out.
    left_out: u64,
}

impl Scheduler {
    fn run(self) -> Schedule {
        // Watching the clock takes a processor: only where the others have enough.
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let watch = if cores >= 4 { WATCH } else { Duration::ZERO };
        // A failure leaves sleeping as inexact as it was, which the figures show.
        let _ = nix::sys::prctl::set_timerslack(1);
        let begin = Instant::now();
        let mut schedule = Schedule::default();
        for number in 0.. {
            let due = begin + Duration::from_secs_f64(number as f64 / self.rate);
            if due >= self.window.end || self.sent.is_closed() {
                break;
            }
            let now = wait_until(due, watch);
            if self.pending.load(Relaxed) >= BACKLOG_MAX || now - due >= LATE_MAX {
                schedule.left_out += 1;
                continue;
            }
            schedule.late.record(u64::try_from((now - due).as_nanos()).unwrap_or(u64::MAX));
            let payload = self.payloads.get(number);
            let bytes = payload.len() as u64;
            let response = self.logs[(number % self.logs.len() as u64) as usize].append(payload);
            self.pending.fetch_add(1, Relaxed);
            // Where nobody hears it any more an append has failed, and that is said there.
            let _ = self.sent.send(Sent { due, bytes, response });
        }
        schedule
    }
}

fn wait_until(due: Instant, watch: Duration) -> Instant {
    let mut now = Instant::now();
    while now < due {
        let left = due - now;
        match left.checked_sub(watch).filter(|sleep| !sleep.is_zero()) {
            Some(sleep) => thread::sleep(sleep),
            None => std::hint::spin_loop(),
        }
        now = Instant::now();
    }
    now
}

fn await_answers(
    mut answers: UnboundedReceiver<Sent>,
    pending: &Arc<AtomicU64>,
    window: Window,
) -> Result<Tally> {
    let heard = Rc::new(RefCell::new((Tally::new(window), None)));
    let (runtime, local) = (drive::current_thread()?, LocalSet::new());
    local.block_on(&runtime, async {
        let mut last = None;
        while let Some(Sent { due, bytes, response }) = answers.recv().await {
            let (heard, pending) = (heard.clone(), pending.clone());
            if heard.borrow().1.is_some() {
                break;
            }
            last = Some(tokio::task::spawn_local(async move {
                let answer = response.await;
                pending.fetch_sub(1, Relaxed);
                let (tally, failed) = &mut *heard.borrow_mut();
                match answer {
                    Ok(_) => tally.count(due, 1, bytes),
                    Err(error) => *failed = Some(error),
                }
            }));
        }
        // Those before it may still be under way, but end after the window.
        if let Some(last) = last {
            last.await.expect("no task panics");
        }
    });
    drop(local);
    match Rc::into_inner(heard).expect("the tasks have ended").into_inner() {
        (tally, None) => Ok(tally),
        (_, Some(error)) => Err(error.into()),
    }
}
