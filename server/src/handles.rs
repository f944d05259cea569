//! Handles of logs that a worker has opened, by name.
//!
//! A name may come to mean another log: whoever drops or renames one changes the generation, and
//! handles of an older generation are forgotten before they are used again.
//!
//! Not here: opening (`session`).

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use oncelog::Log;

/// Handles are forgotten when there are so many: opening one again is cheap.
const COUNT_MAX: usize = 10_000;

/// Counts the times that a name came to mean another log. Shared by all workers.
#[derive(Debug, Default)]
pub(crate) struct Generation(AtomicU64);

impl Generation {
    /// It is time to look up names again. Comes before the answer that says why.
    pub(crate) fn advance(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// See the module's head.
#[derive(Debug, Default)]
pub(crate) struct Handles {
    logs: HashMap<String, Log>,
    generation: u64,
}

impl Handles {
    /// The handle of a name, if it is known now.
    pub(crate) fn get(&mut self, name: &str, generation: &Generation) -> Option<&Log> {
        let now = generation.get();
        if self.generation != now {
            self.logs.clear();
            self.generation = now;
        }
        self.logs.get(name)
    }

    /// Keeps a handle that was asked for in a generation.
    pub(crate) fn keep(&mut self, log: Log, asked_in: u64) {
        if self.generation == asked_in {
            if self.logs.len() >= COUNT_MAX {
                self.logs.clear();
            }
            self.logs.insert(log.name().to_owned(), log);
        }
    }
}
