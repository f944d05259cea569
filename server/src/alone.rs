//! Whether one client alone asks a worker for anything.
//!
//! Then the worker's thread may wait for the answer itself: it carries the request out in the
//! shard's place (the engine's `helm`), and two hops between threads are saved, which take longer
//! than the write. Who asks in the meantime waits for one write; so this is only for a client whose
//! requests came one after the other, with nothing else beside them, many times.
//!
//! Not here: what is waited for (`driver`).

use std::cell::Cell;

/// So many requests in a row.
const STREAK: u32 = 16;

/// What a worker's connections have under way. Shared by them.
#[derive(Debug, Default)]
pub(crate) struct Alone {
    running: Cell<usize>,
    last: Cell<u64>,
    streak: Cell<u32>,
}

impl Alone {
    /// A request of a connection begins. Whether its client is alone.
    pub(crate) fn begin(&self, connection: u64) -> bool {
        let goes_on = self.running.get() == 0 && self.last.get() == connection;
        let streak = if goes_on { (self.streak.get() + 1).min(STREAK) } else { 0 };
        self.running.set(self.running.get() + 1);
        self.last.set(connection);
        self.streak.set(streak);
        streak == STREAK
    }

    /// A request is answered, or nobody waits for it any more.
    pub(crate) fn end(&self) {
        self.running.set(self.running.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_that_asks_again_and_again_with_nothing_beside_it_is_alone() {
        let alone = Alone::default();
        let ask = |connection| {
            let is_alone = alone.begin(connection);
            alone.end();
            is_alone
        };
        let asked: Vec<_> = (0..20).map(|_| ask(7)).collect();
        assert_eq!(asked.iter().position(|is_alone| *is_alone), Some(16));
        assert!(!ask(8) && !ask(7), "there are two of them");
        let again: Vec<_> = (0..20).map(|_| ask(7)).collect();
        assert!(again[19]);
        assert!(alone.begin(7));
        assert!(!alone.begin(7), "something is under way");
        alone.end();
        alone.end();
        assert!(!ask(7));
    }
}
