//! What all stores keep of a write: items, and keys for stores that are maps.
//!
//! ```text
//! Append -> record                     key: kind, id of the log or processor, number
//! Commit -> delta, position, records   (a position has number 0: it replaces the one before)
//! ```
//!
//! Not here: how a store keeps them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use bench_harness::blocking::Write;

/// What an item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A record; the id is its log.
    Record = 0,
    /// A state delta; the id is its processor.
    Delta = 1,
    /// A position; the id is its processor.
    Position = 2,
}

/// Calls `each` with every item.
pub(crate) fn each_item<E>(
    writes: &[Write],
    mut each: impl FnMut(Kind, u32, &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    for write in writes {
        match write {
            Write::Append { log, payload } => each(Kind::Record, *log, payload)?,
            Write::Commit { processor, position, delta, log, outputs } => {
                each(Kind::Delta, *processor, delta)?;
                each(Kind::Position, *processor, &position.to_be_bytes())?;
                outputs.iter().try_for_each(|output| each(Kind::Record, *log, output))?;
            }
        }
    }
    Ok(())
}

/// Bytes of a key.
const KEY_LEN: usize = 13;

/// Gives out keys that sort by kind, id, and age.
pub(crate) struct Keys {
    next: AtomicU64,
}

impl Keys {
    /// Numbers go on from the clock, so they are above those of an opening before.
    pub(crate) fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { next: AtomicU64::new(now.as_nanos() as u64) }
    }

    /// The key of a new item.
    pub(crate) fn next(&self, kind: Kind, id: u32) -> [u8; KEY_LEN] {
        let replaces = kind == Kind::Position;
        key(kind, id, if replaces { 0 } else { self.next.fetch_add(1, Ordering::Relaxed) })
    }
}

/// The lowest and the highest key of a log's records.
pub(crate) fn records_of(log: u32) -> ([u8; KEY_LEN], [u8; KEY_LEN]) {
    (key(Kind::Record, log, 0), key(Kind::Record, log, u64::MAX))
}

fn key(kind: Kind, id: u32, number: u64) -> [u8; KEY_LEN] {
    let mut key = [0; KEY_LEN];
    key[0] = kind as u8;
    key[1..5].copy_from_slice(&id.to_be_bytes());
    key[5..].copy_from_slice(&number.to_be_bytes());
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_a_log_sort_by_age_and_lie_between_its_bounds() {
        let keys = Keys::new();
        let (first, other) = (keys.next(Kind::Record, 7), keys.next(Kind::Record, 8));
        let second = keys.next(Kind::Record, 7);
        let (low, high) = records_of(7);
        assert!(low < first && first < second && second < high && high < other);
        assert_eq!(keys.next(Kind::Position, 7), keys.next(Kind::Position, 7));
    }
}
