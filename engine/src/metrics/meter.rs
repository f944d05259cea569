//! Where a shard counts: the time of the call under way, and what goes along with each entry.
//!
//! ```text
//! request taken --staged--> Tally of the open entry --in flight--> durable --> Meter
//! ```
//!
//! The moment at which each request was taken goes along with its entry, so latencies are those of
//! requests, not of entries. Requests taken in one turn of the loop have the same moment and are
//! one item.
//!
//! Not here: what there is to count (`metrics`).

use crate::error::{AppendError, CommitError, ReadError};
use crate::metrics::{AppendRefusal, CommitRefusal, ReadRefusal, ShardMetrics};

/// Moments of requests, with how many were taken at each.
#[derive(Debug, Default)]
struct Moments {
    last_us: u64,
    count: u64,
    /// Those before the last one. Most entries have requests of one turn only: no allocation.
    before: Vec<(u64, u64)>,
}

impl Moments {
    fn push(&mut self, at_us: u64) {
        if self.last_us != at_us {
            self.turn(at_us);
        }
        self.count += 1;
    }

    #[cold]
    fn turn(&mut self, at_us: u64) {
        if self.count > 0 {
            self.before.push((self.last_us, self.count));
        }
        (self.last_us, self.count) = (at_us, 0);
    }

    fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        let last = (self.count > 0).then_some((self.last_us, self.count));
        self.before.iter().copied().chain(last)
    }

    fn total(&self) -> u64 {
        self.iter().map(|(_, count)| count).sum()
    }
}

/// What an entry holds, as far as metrics are about it. Counted once it is durable.
#[derive(Debug, Default)]
pub struct Tally {
    appends: Moments,
    append_records: u64,
    append_bytes: u64,
    commits: Moments,
    output_records: u64,
    snapshot_parts: u64,
    /// When the first append or commit was staged.
    opened_us: Option<u64>,
    /// When it was given to the device.
    sealed_us: u64,
    /// How long the write took.
    write_us: u64,
    /// Records of all kinds of requests.
    records: u64,
}

impl Tally {
    /// The entry goes to the device.
    pub(crate) fn seal(&mut self, records: u64, now_us: u64) {
        (self.records, self.sealed_us) = (records, now_us);
    }

    /// The device is done with its write.
    pub(crate) fn written(&mut self, took_us: u64) {
        self.write_us = took_us;
    }

    /// A part of a snapshot was staged.
    pub(crate) fn add_snapshot_part(&mut self) {
        self.snapshot_parts += 1;
    }
}

/// What a shard counts with.
pub struct Meter {
    /// As far as it is counted, not found out when asked for.
    pub(crate) counted: ShardMetrics,
    /// The time of the call under way.
    pub(crate) now_us: u64,
    /// When the request that is being carried out was taken.
    taken_us: u64,
    /// Since when the segment is full.
    full_since: Option<u64>,
}

impl Default for Meter {
    fn default() -> Self {
        Self { counted: ShardMetrics::new(), now_us: 0, taken_us: 0, full_since: None }
    }
}

impl Meter {
    /// A call with this time begins.
    pub(crate) fn begin(&mut self, now_us: u64) {
        self.now_us = now_us;
    }

    /// A request is taken.
    pub(crate) fn take(&mut self, now_us: u64) {
        self.now_us = now_us;
        self.taken_us = now_us;
    }

    /// When the request that is being carried out was taken.
    pub(crate) fn taken_us(&self) -> u64 {
        self.taken_us
    }

    /// A request that was held back is staged, or refused.
    pub(crate) fn held_no_more(&mut self) {
        self.counted.request_held_time.record(self.now_us.saturating_sub(self.taken_us));
    }

    /// The request that is being carried out was an append, staged into this entry.
    pub(crate) fn append(&self, entry: &mut Tally, records: u64, bytes: u64) {
        entry.opened_us.get_or_insert(self.now_us);
        entry.appends.push(self.taken_us);
        entry.append_records += records;
        entry.append_bytes += bytes;
    }

    /// The request that is being carried out was a commit, staged into this entry.
    pub(crate) fn commit(&self, entry: &mut Tally, output_records: u64) {
        entry.opened_us.get_or_insert(self.now_us);
        entry.commits.push(self.taken_us);
        entry.output_records += output_records;
    }

    /// An entry of so many bytes is durable; `holds` says that it is no mark.
    pub(crate) fn durable(&mut self, entry: &Tally, bytes: usize, holds: bool) {
        let (now_us, all) = (self.now_us, &mut self.counted);
        all.write_time.record(entry.write_us);
        if !holds {
            return;
        }
        let (appends, commits) = (entry.appends.total(), entry.commits.total());
        all.append_requests += appends;
        all.append_records += entry.append_records;
        all.append_bytes += entry.append_bytes;
        all.commits += commits;
        all.commit_output_records += entry.output_records;
        all.commit_snapshot_parts += entry.snapshot_parts;
        for (taken_us, count) in entry.appends.iter() {
            all.append_latency.record_n(now_us.saturating_sub(taken_us), count);
        }
        for (taken_us, count) in entry.commits.iter() {
            all.commit_latency.record_n(now_us.saturating_sub(taken_us), count);
        }
        if let Some(opened_us) = entry.opened_us {
            all.entry_open_time.record(entry.sealed_us.saturating_sub(opened_us));
        }
        all.entry_size.record(bytes as u64);
        all.entry_records.record(entry.records);
        all.entry_requests.record(appends + commits);
    }

    /// The segment is full, or there is none: nothing can be staged.
    pub(crate) fn segment_full(&mut self) {
        self.full_since.get_or_insert(self.now_us);
    }

    /// The next segment is there.
    pub(crate) fn rolled(&mut self) {
        self.counted.segment_rolls += 1;
        let stalled = self.full_since.take().map_or(0, |since| self.now_us.saturating_sub(since));
        self.counted.segment_roll_stall.record(stalled);
    }

    pub(crate) fn append_refused(&mut self, error: &AppendError) {
        if let Some(reason) = AppendRefusal::of(error) {
            self.counted.refusals.append[reason as usize] += 1;
        }
    }

    pub(crate) fn commit_refused(&mut self, error: &CommitError) {
        self.counted.refusals.commit[CommitRefusal::of(error) as usize] += 1;
    }

    pub(crate) fn read_refused(&mut self, error: &ReadError) {
        self.counted.refusals.read[ReadRefusal::of(error) as usize] += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_has_its_own_latency_though_they_share_an_entry() {
        let mut meter = Meter::default();
        let mut entry = Tally::default();
        for (now_us, requests) in [(10, 3), (20, 2), (20, 1), (40, 4)] {
            for _ in 0..requests {
                meter.take(now_us);
                meter.append(&mut entry, 2, 10);
            }
        }
        entry.seal(20, 45);
        meter.begin(50);
        meter.durable(&entry, 4096, true);
        let counted = &meter.counted;
        assert_eq!((counted.append_requests, counted.append_records), (10, 20));
        let latencies: Vec<_> = counted.append_latency.buckets().collect();
        assert_eq!(latencies, [(10, 4), (30, 3), (40, 3)]);
        assert_eq!(counted.entry_open_time.max(), 35);
    }
}
