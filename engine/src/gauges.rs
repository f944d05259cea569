//! Metrics of a shard when they are asked for: what was counted, with what is found out only now.
//!
//! Not here: the list of metrics, and how they are kept (`metrics`).

use crate::error::{AppendError, CommitError, Stopped};
use crate::io::{IoError, Now};
use crate::metrics::{ShardMetrics, ShardStats};
use crate::position::LogId;
use crate::reads::ReadJob;
use crate::reply::Reply;
use crate::request::{Answer, Appended, Committed, Part, ReadAnswer};
use crate::shard::Shard;
use crate::sync::SyncMethod;

impl Shard {
    /// Figures.
    #[must_use]
    pub fn stats(&self) -> ShardStats {
        ShardStats {
            commit: self.journal.stats(),
            sync_method: self.journal.method(),
            segment: self.journal.active().map_or(0, |active| active.segment.0),
            sealed: self.catalog.segments().filter(|segment| !segment.freed).count() as u64,
            no_space: self.spares.is_out_of_space(),
        }
    }

    /// A copy of what was counted, and gauges as they are now.
    #[must_use]
    pub fn metrics(&self) -> ShardMetrics {
        let mut all = self.metrics.counted.clone();
        let stats = self.stats();
        let live = || self.catalog.segments().filter(|segment| !segment.freed);
        all.no_space = stats.no_space.into();
        all.sync_fdatasync = (stats.sync_method == SyncMethod::Fdatasync).into();
        all.entries_in_flight = self.journal.in_flight() as u64;
        all.reads_parked = self.reads.parked.values().map(|jobs| jobs.len() as u64).sum();
        all.segments_active = self.journal.active().is_some().into();
        all.segments_spare = self.spares.count();
        let size = self.config.segment_size;
        let sealed = live().map(|segment| if segment.shortened { segment.end } else { size });
        let whole = all.segments_active + all.segments_spare;
        all.segment_file_bytes = sealed.sum::<u64>() + whole * size;
        all.logs = self.catalog.log_names().len() as u64;
        all.processor_lag = self.processor_lag().collect();
        all.processors = all.processor_lag.len() as u64;
        all.stats = stats;
        all
    }

    pub(crate) fn answer_metrics(&mut self, reply: Reply<Box<ShardMetrics>, Stopped>) {
        let answer = Ok(Box::new(self.metrics()));
        self.answer_now(Answer::other(reply, answer));
    }

    fn processor_lag(&self) -> impl Iterator<Item = (String, u64)> {
        let behind = |log: LogId, next: u64| {
            let state = self.catalog.log(log).expect("a source is not dropped");
            state.durable_next.get().saturating_sub(next.max(state.first.get()))
        };
        self.catalog.readers().map(move |(_, state)| {
            let sources = state.stored.sources.iter();
            let behind = sources.map(|source| behind(source.log, source.next.get()));
            let lag = behind.fold(0, u64::saturating_add);
            (state.stored.name.clone(), lag)
        })
    }

    /// Requests that the host took at once.
    pub fn took_requests(&mut self, count: u32) {
        self.metrics.counted.turn_requests.record(count.into());
    }

    pub(crate) fn count_append(&mut self, records: u64, bytes: usize) {
        self.metrics.append(self.journal.tally(), records, bytes as u64);
    }

    /// A read is answered.
    pub(crate) fn count_read(&mut self, job: &ReadJob, answer: &ReadAnswer) {
        let (now_us, counted) = (self.metrics.now_us, &mut self.metrics.counted);
        counted.read_records += answer.next.get() - answer.first.get();
        // Of what was planned, what is behind damage is not in the answer.
        for (chosen, section) in job.planned.iter().zip(&answer.sections) {
            let bytes = section.bytes.len() as u64;
            match chosen.source {
                Ok(_) => counted.read_memory_bytes += bytes,
                Err(_) => counted.read_device_bytes += bytes,
            }
        }
        if !job.was_parked {
            counted.read_latency.record(now_us.saturating_sub(job.taken_us));
        }
    }

    /// A read was planned from an index.
    pub(crate) fn count_hit(&mut self, id: u64, is_newest: bool) {
        let hit = !is_newest && !self.reads.jobs[&id].missed_index;
        self.metrics.counted.index_hits += u64::from(hit);
    }

    pub(crate) fn park(&mut self, log: LogId, id: u64) {
        let job = self.reads.jobs.get_mut(&id).expect("it is being parked");
        job.parked_us = Some(self.metrics.now_us);
        job.was_parked = true;
        self.reads.park(log, id);
    }

    /// Something happened at the log's tail. Whether the read is still there.
    pub(crate) fn unpark(&mut self, id: u64) -> bool {
        let Some(job) = self.reads.jobs.get_mut(&id) else { return false };
        if let Some(since) = job.parked_us.take() {
            let parked_us = self.metrics.now_us.saturating_sub(since);
            self.metrics.counted.read_parked_time.record(parked_us);
        }
        true
    }

    pub(crate) fn count_sync(&mut self) {
        let took_us = self.metrics.now_us.saturating_sub(self.journal.sync_started_us());
        self.metrics.counted.sync_time.record(took_us);
    }

    /// Making a spare is over.
    pub(crate) fn spare_made(
        &mut self,
        result: Result<u32, IoError>,
        now: Now,
    ) -> Result<(), IoError> {
        let (is_made, was_full) = (result.is_ok(), self.spares.is_out_of_space());
        self.spares.made(result, now)?;
        let counted = &mut self.metrics.counted;
        counted.segments_written += u64::from(is_made && self.spares.made_written());
        counted.segments_allocated += u64::from(is_made && !self.spares.made_written());
        counted.no_space_episodes += u64::from(!was_full && self.spares.is_out_of_space());
        Ok(())
    }

    /// A freed segment became a spare, or its file was removed.
    pub(crate) fn count_gone(&mut self, is_recycled: bool) {
        self.metrics.counted.segments_recycled += u64::from(is_recycled);
        self.metrics.counted.segments_removed += u64::from(!is_recycled);
    }

    pub(crate) fn refuse_append(
        &mut self,
        reply: Reply<Appended, AppendError>,
        error: AppendError,
    ) {
        self.metrics.append_refused(&error);
        self.answer(Answer::Append(reply, Err(error)));
    }

    /// As [`refuse_append`](Self::refuse_append), for other requests that append.
    pub(crate) fn refuse_records<T: Send + 'static>(
        &mut self,
        reply: Reply<T, AppendError>,
        error: AppendError,
    ) {
        self.metrics.append_refused(&error);
        self.answer(Answer::other(reply, Err(error)));
    }

    pub(crate) fn refuse_commit(
        &mut self,
        reply: Reply<Committed, CommitError>,
        error: CommitError,
    ) {
        self.metrics.commit_refused(&error);
        self.answer(Answer::Commit(reply, Err(error)));
    }
}

/// Records of a batch, and the bytes of their payloads.
pub(crate) fn amount(parts: &[Part]) -> (u64, usize) {
    let records = parts.iter().flat_map(|part| &part.records);
    records.fold((0, 0), |(count, bytes), record| (count + 1, bytes + record.payload.len()))
}
