//! The newest entries, kept in memory for whoever reads at the tail.
//!
//! Bounded in bytes, the oldest forgotten first. The bytes are those that were written, shared, not
//! copied: what is here needs no check.
//!
//! Not here: reading what is no longer here (`read`).

use std::collections::VecDeque;

use bytes::Bytes;
use rustc_hash::FxHashMap;

use crate::position::SegmentId;

/// The newest entries, for readers at the tail.
pub(crate) struct TailCache {
    entries: FxHashMap<(SegmentId, u32), Bytes>,
    order: VecDeque<(SegmentId, u32)>,
    size: u64,
    size_max: u64,
}

impl TailCache {
    pub(crate) fn new(size_max: u64) -> Self {
        Self { entries: FxHashMap::default(), order: VecDeque::new(), size: 0, size_max }
    }

    /// Keeps an entry, known by its segment and offset.
    pub(crate) fn insert(&mut self, segment: SegmentId, offset: u32, bytes: Bytes) {
        self.size += bytes.len() as u64;
        self.order.push_back((segment, offset));
        self.entries.insert((segment, offset), bytes);
        while self.size > self.size_max {
            let oldest = self.order.pop_front().expect("the size is theirs");
            let gone = self.entries.remove(&oldest).expect("it was kept");
            self.size -= gone.len() as u64;
        }
    }

    pub(crate) fn get(&self, segment: SegmentId, offset: u32) -> Option<&Bytes> {
        self.entries.get(&(segment, offset))
    }
}
