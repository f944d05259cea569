//! walrus-rust: a log with topics. A topic for each log.
//!
//! Its directory and its silence come from environment variables; `main` starts itself again with
//! them. It cannot write to several topics at once, so `commit` is not among its works. A topic
//! has one cursor: every opening reads once.
//!
//! Not here: its mmap backend; the default one is measured.

use std::sync::Mutex;

use anyhow::{Result, bail};
use bench_harness::blocking::{Store, Write};
use walrus_rust::{FsyncSchedule, ReadConsistency, Walrus as Inner};

/// The variable with its directory.
pub(crate) const DIRECTORY: &str = "WALRUS_DATA_DIR";
/// The variable that stops it from printing each step.
pub(crate) const QUIET: &str = "WALRUS_QUIET";
/// Records of one batch, at most.
const BATCH: usize = 2000;
/// Bytes that are read at a time.
const READ_BYTES: usize = 1 << 20;

pub(crate) struct Walrus {
    inner: Inner,
    /// A second batch for a topic is refused while one is written, so batches wait here.
    batches: Vec<Mutex<()>>,
}

impl Walrus {
    pub(crate) fn open() -> Result<Self> {
        let consistency = ReadConsistency::AtLeastOnce { persist_every: u32::MAX };
        let schedule = FsyncSchedule::SyncEach;
        let inner = Inner::with_consistency_and_schedule_for_key("logs", consistency, schedule)?;
        Ok(Self { inner, batches: (0..64).map(|_| Mutex::default()).collect() })
    }

    fn append(&self, log: u32, payloads: &[&[u8]]) -> Result<()> {
        let topic = topic(log);
        if let [payload] = payloads {
            return Ok(self.inner.append_for_topic(&topic, payload)?);
        }
        let _turn = self.batches[log as usize % self.batches.len()].lock().expect("no panic");
        for batch in payloads.chunks(BATCH) {
            self.inner.batch_append_for_topic(&topic, batch)?;
        }
        Ok(())
    }
}

impl Store for Walrus {
    fn write(&self, writes: &[Write]) -> Result<()> {
        let mut by_log: Vec<(u32, Vec<&[u8]>)> = Vec::new();
        for write in writes {
            let Write::Append { log, payload } = write else { bail!("walrus has no commits") };
            match by_log.iter_mut().find(|(known, _)| known == log) {
                Some((_, payloads)) => payloads.push(payload),
                None => by_log.push((*log, vec![payload])),
            }
        }
        by_log.iter().try_for_each(|(log, payloads)| self.append(*log, payloads))
    }

    fn read_all(&self, log: u32, each: &mut dyn FnMut(&[u8])) -> Result<()> {
        loop {
            let entries = self.inner.batch_read_for_topic(&topic(log), READ_BYTES, true)?;
            if entries.is_empty() {
                return Ok(());
            }
            entries.iter().for_each(|entry| each(&entry.data));
        }
    }
}

fn topic(log: u32) -> String {
    format!("log-{log}")
}
