//! Batches for a long time, with the logs truncated behind them.
//!
//! Not here: shorter runs (`producers`).

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use anyhow::{Result, ensure};
use oncelog::{Log, Sequence};

use super::drive::{self, Done};
use super::{Rig, put};
use crate::meter::{Window, device_counts, device_of};
use crate::outcome::{DeviceCounts, Figures};

/// Batches of `records`, `in_flight` at a time; about `keep` bytes of payload stay.
pub(super) fn soak(rig: &Rig, records: u32, in_flight: u32, keep: u64) -> Result<Figures> {
    ensure!(keep > 0, "a soak needs bytes to keep");
    let engine = rig.open()?;
    let (logs, creations_per_s) = rig.create_logs(&engine)?;
    let payload = Arc::new(AtomicU64::new(0));
    let truncations = Rc::new(RefCell::new(Vec::new()));
    let kept = keep as f64 / rig.payloads.size_mean().max(1.0) / logs.len() as f64;
    let mut sixths = None;
    let mut figures = rig.measure(&engine, |window| {
        sixths = Some(watch_sixths(rig, window, payload.clone()));
        let behind = Behind::new(&logs, kept as u64);
        let (payloads, payload, done) =
            (rig.payloads.clone(), payload.clone(), truncations.clone());
        let tally = drive::closed_loop(in_flight, window, move |number| {
            let index = (number % logs.len() as u64) as usize;
            let log = logs[index].clone();
            let (first, records) = (number * u64::from(records), u64::from(records));
            let numbers = first..first + records;
            let bytes = numbers.clone().map(|number| u64::from(payloads.size(number))).sum();
            let response = log.append_batch(numbers.map(|number| payloads.get(number)));
            let (behind, payload, done) = (behind.clone(), payload.clone(), done.clone());
            async move {
                let next = response.await?.next();
                payload.fetch_add(bytes, Relaxed);
                if let Some(before) = behind.due(index, next) {
                    let began = Instant::now();
                    log.truncate(before).await?;
                    done.borrow_mut().push(began.elapsed().as_secs_f64());
                }
                Ok(Done { records, bytes })
            }
        })?;
        Ok(vec![tally])
    })?;
    let truncations = truncations.take();
    let longest = truncations.iter().copied().fold(0.0, f64::max);
    put(&mut figures, "soak/truncations", truncations.len() as f64);
    put(&mut figures, "soak/truncation_max_s", longest);
    put(&mut figures, "engine/log_creations_per_s", creations_per_s);
    if let Some(sixths) = sixths {
        put_sixths(&mut figures, &sixths.join().expect("the thread that counts does not panic"));
    }
    engine.close().wait()?;
    Ok(figures)
}

/// Which records to drop.
#[derive(Clone)]
struct Behind {
    /// Records of each log that stay.
    kept: u64,
    /// The first record that is there, for each log.
    first: Rc<RefCell<Vec<u64>>>,
}

impl Behind {
    fn new(logs: &[Log], kept: u64) -> Self {
        Self { kept, first: Rc::new(RefCell::new(vec![0; logs.len()])) }
    }

    /// Where to truncate a log that has come to `next`: now and then, when it is worth it.
    fn due(&self, log: usize, next: Sequence) -> Option<Sequence> {
        let first = &mut self.first.borrow_mut()[log];
        let before = next.get().saturating_sub(self.kept);
        if before < *first + self.kept / 16 + 1 {
            return None;
        }
        *first = before;
        Some(Sequence::new(before))
    }
}

/// Payload bytes appended and what the device did, at one instant.
type Sample = (u64, Option<DeviceCounts>);

/// Samples at the begin, after each sixth, and at the end.
fn watch_sixths(rig: &Rig, window: Window, payload: Arc<AtomicU64>) -> JoinHandle<Vec<Sample>> {
    let device = device_of(&rig.dir).ok();
    let sixth = (window.end - window.begin) / 6;
    thread::spawn(move || {
        let instants = (0..=6).map(|number| window.begin + sixth * number);
        let sample = |instant: Instant| {
            thread::sleep(instant.saturating_duration_since(Instant::now()));
            let counts = device.as_deref().and_then(|device| device_counts(device).ok());
            (payload.load(Relaxed), counts)
        };
        instants.map(sample).collect()
    })
}

fn put_sixths(figures: &mut Figures, samples: &[Sample]) {
    let ratio = |from: usize, to: usize| {
        let (from, to) = (samples[from], samples[to]);
        let written = to.1?.written_bytes - from.1?.written_bytes;
        Some(written as f64 / (to.0 - from.0) as f64)
    };
    for (part, from, to) in [("first_third", 0, 2), ("last_third", 4, 6), ("second_half", 3, 6)] {
        let name = format!("soak/{part}_device_bytes_per_payload_byte");
        put(figures, &name, ratio(from, to).unwrap_or(f64::NAN));
    }
}
