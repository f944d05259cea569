//! A front that gathers what many threads write into one write of a store.
//!
//! ```text
//! thread 1 --\             leader: takes all that is queued, writes it, wakes everyone
//! thread 2 ---+-> queue -> others: wait until the group they are in is written
//! thread 3 --/
//! ```
//!
//! Invariants: groups are written one after the other, in the order of the queue. After a failure
//! nothing is written any more, since what is on the disk is not known.
//!
//! Not here: stores.

use std::sync::{Condvar, Mutex};

use anyhow::{Result, anyhow};

use super::{Store, Write};

/// A store behind such a front.
pub struct Grouped<S> {
    store: S,
    queue: Mutex<Queue>,
    written: Condvar,
}

#[derive(Default)]
struct Queue {
    writes: Vec<Write>,
    /// Number of the group that is being gathered.
    gathering: u64,
    /// All groups before this one are written.
    written: u64,
    is_led: bool,
    failure: Option<String>,
}

impl<S: Store> Grouped<S> {
    /// Puts a front before a store.
    #[must_use]
    pub fn new(store: S) -> Self {
        Self { store, queue: Mutex::default(), written: Condvar::new() }
    }
}

impl<S: Store> Store for Grouped<S> {
    fn write(&self, writes: &[Write]) -> Result<()> {
        let mut queue = self.queue.lock().expect("no panic");
        queue.writes.extend_from_slice(writes);
        let group = queue.gathering;
        loop {
            if queue.written > group {
                return Ok(());
            }
            if let Some(failure) = &queue.failure {
                return Err(anyhow!("a write of the group failed: {failure}"));
            }
            if queue.is_led {
                queue = self.written.wait(queue).expect("no panic");
                continue;
            }
            queue.is_led = true;
            let own = queue.gathering;
            queue.gathering += 1;
            let taken = std::mem::take(&mut queue.writes);
            drop(queue);
            let result = self.store.write(&taken);
            queue = self.queue.lock().expect("no panic");
            queue.is_led = false;
            match result {
                Ok(()) => queue.written = own + 1,
                Err(error) => queue.failure = Some(format!("{error:#}")),
            }
            self.written.notify_all();
        }
    }

    fn read_all(&self, log: u32, each: &mut dyn FnMut(&[u8])) -> Result<()> {
        self.store.read_all(log, each)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::ensure;
    use bytes::Bytes;
    use std::thread;

    /// Keeps what is written, up to so many records.
    struct Kept {
        records: Mutex<Vec<Bytes>>,
        limit: usize,
    }

    impl Store for Kept {
        fn write(&self, writes: &[Write]) -> Result<()> {
            thread::yield_now(); // others queue meanwhile
            let mut records = self.records.lock().unwrap();
            for write in writes {
                let Write::Append { payload, .. } = write else { continue };
                ensure!(records.len() < self.limit, "the disk is full");
                records.push(payload.clone());
            }
            Ok(())
        }

        fn read_all(&self, _log: u32, each: &mut dyn FnMut(&[u8])) -> Result<()> {
            self.records.lock().unwrap().iter().for_each(|record| each(record));
            Ok(())
        }
    }

    fn append(store: &impl Store, number: u32) -> Result<()> {
        let payload = Bytes::copy_from_slice(&number.to_le_bytes());
        store.write(&[Write::Append { log: 0, payload }])
    }

    #[test]
    fn every_acknowledged_write_of_many_threads_is_there_and_in_the_order_of_its_thread() {
        let store = Grouped::new(Kept { records: Mutex::default(), limit: usize::MAX });
        thread::scope(|scope| {
            for thread in 0..4 {
                let store = &store;
                scope.spawn(move || {
                    (0..250).for_each(|number| append(store, thread * 250 + number).unwrap());
                });
            }
        });
        let mut found = Vec::new();
        let number = |record: &[u8]| u32::from_le_bytes(record.try_into().unwrap());
        store.read_all(0, &mut |record| found.push(number(record))).unwrap();
        for thread in 0..4 {
            let own: Vec<u32> = found.iter().copied().filter(|n| n / 250 == thread).collect();
            assert_eq!(own, (thread * 250..(thread + 1) * 250).collect::<Vec<_>>());
        }
    }

    #[test]
    fn after_a_failure_nothing_is_acknowledged() {
        let store = Grouped::new(Kept { records: Mutex::default(), limit: 2 });
        assert!(append(&store, 0).is_ok() && append(&store, 1).is_ok());
        assert!(append(&store, 2).is_err(), "the store has failed");
        store.store.records.lock().unwrap().clear();
        let error = append(&store, 3).unwrap_err().to_string();
        assert!(error.contains("disk is full"), "{error}");
    }
}
