//! Reading a log: batches of records, as many and as soon as a program wants them.
//!
//! ```text
//! Reader --next, try_next, batch--> Fetch -> shard      left: records that were not wanted yet
//! ```
//!
//! A reader knows its position; dropping a call half-way loses nothing, the next one gives the same
//! records. Sequences that are handed out are dense: a gap would be an error.
//!
//! Not here: the requests (`fetch`), and what records are (`records`).

use std::time::Duration;

use crate::error::ReadError;
use crate::fetch::{Fetch, Fetched};
use crate::limits::READ_SIZE_MAX;
use crate::log::Log;
use crate::position::Sequence;
use crate::records::Records;
use crate::request::{At, Wait};
use crate::response::Operation;
use crate::stream::{BatchStream, BlockingRecords, RecordStream};

/// Reads a log from some position on, and waits at its end for what comes.
///
/// From the second batch on it asks for what follows before that is wanted: up to eight batches,
/// about 8 MiB (or one batch, where that is more), are under way or in memory.
///
/// ```
/// use oncelog::{From, Options};
/// # let dir = tempfile::tempdir()?;
/// let engine = Options::new(dir.path()).shards(1).segment_size(1 << 20).open()?;
/// let log = engine.create_log("orders").wait()?;
/// log.append("first").wait()?;
/// log.append("second").wait()?;
///
/// let mut reader = log.reader(From::Earliest);
/// let records: Vec<_> = reader.next().wait()?.collect();
/// assert_eq!(records[1].payload, "second");
/// assert_eq!(records[1].sequence.get(), 1);
/// assert!(reader.try_next().wait()?.is_none(), "that was all; next() would wait");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Reader {
    fetch: Fetch,
    records_max: u64,
    max_wait: Option<Duration>,
    warn_after: Option<Duration>,
    /// How long there was no record, as far as calls of `next` waited for one.
    idle: Duration,
    warned: bool,
    left: Option<Records>,
}

impl Reader {
    pub(crate) fn new(log: Log, at: At) -> Self {
        Self {
            fetch: Fetch::new(log, at),
            records_max: u64::MAX,
            max_wait: None,
            warn_after: None,
            idle: Duration::ZERO,
            warned: false,
            left: None,
        }
    }

    /// Batches hold at most about so many bytes, or one section (the records of this log in one
    /// group commit) if that is larger. Default: 1 MiB, at most 16 MiB.
    #[must_use]
    pub fn max_bytes(mut self, bytes: u32) -> Self {
        self.fetch.bytes_max = bytes.clamp(1, READ_SIZE_MAX);
        self
    }

    /// A reader that goes on in sequence has further reads under way, which hold at most about so
    /// many bytes together with the one that is waited for. Default: 8 MiB. Less is for many
    /// readers at once.
    ///
    /// ```
    /// # use oncelog::{From, Options};
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Options::new(dir.path()).shards(1).segment_size(1 << 20).open()?;
    /// # let log = engine.create_log("orders").wait()?;
    /// # log.append("1").wait()?;
    /// let mut reader = log.reader(From::Earliest).max_bytes(256 << 10).max_ahead(1 << 20);
    /// assert_eq!(reader.next().wait()?.len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn max_ahead(mut self, bytes: u32) -> Self {
        self.fetch.ahead_max = bytes;
        self
    }

    /// Batches hold at most so many records. Default: no limit.
    #[must_use]
    pub fn max_records(mut self, records: u64) -> Self {
        self.records_max = records.max(1);
        self
    }

    /// Each call of [`next`](Self::next) waits at most so long, and then gives a batch without
    /// records. Default: no limit.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use oncelog::{From, Options};
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Options::new(dir.path()).shards(1).segment_size(1 << 20).open()?;
    /// # let log = engine.create_log("orders").wait()?;
    /// let mut reader = log.reader(From::Latest).max_wait(Duration::from_millis(5));
    /// assert_eq!(reader.next().wait()?.len(), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn max_wait(mut self, wait: Duration) -> Self {
        self.max_wait = Some(wait);
        self
    }

    /// A warning is logged (`tracing`) with the log's name and the position when calls of
    /// [`next`](Self::next) have waited so long without a record, once until there is one. A call
    /// that is dropped half-way does not count. Default: none.
    #[must_use]
    pub fn warn_after(mut self, wait: Duration) -> Self {
        self.warn_after = Some(wait);
        self
    }

    /// Where the position to begin at was truncated, or may have been, the reader begins silently
    /// at the first record that is there, instead of with [`ReadError::Truncated`]. Only at its
    /// beginning: records that are truncated before a reader that is under way had them are an
    /// error nevertheless.
    #[must_use]
    pub fn or_earliest(mut self) -> Self {
        self.fetch.or_earliest = true;
        self
    }

    /// The log that is read.
    #[must_use]
    pub fn log(&self) -> &Log {
        self.fetch.log()
    }

    /// The sequence of the next record; `None` as long as it is not settled where the reader
    /// begins. For [`Log::lag`].
    #[must_use]
    pub fn position(&self) -> Option<Sequence> {
        let left = self.left.as_ref().map(Records::first_sequence);
        left.or_else(|| self.fetch.position())
    }

    /// The next records, at least one: waits until there is one, or until
    /// [`max_wait`](Self::max_wait) is over.
    ///
    /// Dropped before it is ready, no record is lost: the next call gives them.
    ///
    /// The result is an error if records were truncated, damaged, or the log was dropped; the
    /// position stays. At the end of a sealed log it is [`ReadError::End`], again at every call.
    #[expect(clippy::should_implement_trait, reason = "the word of async streams; it can fail")]
    pub fn next(&mut self) -> Operation<'_, Result<Records, ReadError>> {
        Operation::new(self.next_batch())
    }

    pub(crate) async fn next_batch(&mut self) -> Result<Records, ReadError> {
        let mut left = self.max_wait;
        loop {
            if let Some(records) = self.take_left(self.records_max) {
                return Ok(records);
            }
            let to_warning = self.warn_after.filter(|_| !self.warned);
            let to_warning = to_warning.map(|after| after.saturating_sub(self.idle));
            let slice = left.into_iter().chain(to_warning).min();
            let fetched = self.fetch.get(slice.map_or(Wait::Forever, Wait::For)).await?;
            if fetched.records.len() > 0 {
                (self.idle, self.warned) = (Duration::ZERO, false);
                self.left = Some(fetched.records);
                continue;
            }
            let slice = slice.expect("a wait without an end ends with a record");
            self.waited(slice);
            left = left.map(|left| left.saturating_sub(slice));
            if left == Some(Duration::ZERO) {
                return Ok(fetched.records);
            }
        }
    }

    fn waited(&mut self, slice: Duration) {
        self.idle = self.idle.saturating_add(slice);
        if self.warned || self.warn_after.is_none_or(|after| self.idle < after) {
            return;
        }
        self.warned = true;
        let (log, idle) = (self.log().name(), self.idle);
        match self.position() {
            Some(position) => tracing::warn!(log, %position, ?idle, "a reader waits for records"),
            None => tracing::warn!(log, at = ?self.fetch.at, ?idle, "a reader waits for records"),
        }
    }

    /// The next records, or `None` if there are none now. Errors as with [`next`](Self::next).
    pub fn try_next(&mut self) -> Operation<'_, Result<Option<Records>, ReadError>> {
        Operation::new(async {
            if self.left.is_none() {
                let fetched = self.fetch.get(Wait::No).await?;
                self.left = Some(fetched.records).filter(|records| records.len() > 0);
            }
            Ok(self.take_left(self.records_max))
        })
    }

    /// The next `count` records; fewer, or none, only if there are no more after waiting so long.
    ///
    /// Dropped before it is ready, no record is lost: the next call, of whatever kind, gives them.
    /// They are in memory together.
    ///
    /// The result is an error, as with [`next`](Self::next), only if no record comes before it.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use oncelog::{From, Options};
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Options::new(dir.path()).shards(1).segment_size(1 << 20).open()?;
    /// # let log = engine.create_log("orders").wait()?;
    /// log.append_batch(["1", "2", "3"]).wait()?;
    /// let mut reader = log.reader(From::Earliest);
    /// assert_eq!(reader.batch(2, Duration::from_secs(60)).wait()?.len(), 2);
    /// assert_eq!(reader.batch(2, Duration::from_millis(5)).wait()?.len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn batch(
        &mut self,
        count: u64,
        wait: Duration,
    ) -> Operation<'_, Result<Records, ReadError>> {
        Operation::new(async move {
            let (count, mut wait) = (count.max(1), Wait::For(wait));
            loop {
                let have = self.left.as_ref().map_or(0, |left| left.len() as u64);
                if have >= count
                    && let Some(records) = self.take_left(count)
                {
                    return Ok(records);
                }
                let Fetched { records, until, over, .. } = match self.fetch.get(wait).await {
                    Err(_) if have > 0 => {
                        return Ok(self.take_left(count).expect("there are some"));
                    }
                    fetched => fetched?,
                };
                wait = until.map_or(wait, Wait::Until);
                match &mut self.left {
                    Some(left) => left.append(records),
                    None if records.len() > 0 => self.left = Some(records),
                    None => return Ok(records),
                }
                if over {
                    return Ok(self.take_left(count).expect("there are some"));
                }
            }
        })
    }

    /// This reader's records as a stream, which ends behind the last record of a sealed log, or
    /// with the first error.
    ///
    /// ```
    /// # use oncelog::{From, Options};
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Options::new(dir.path()).shards(1).segment_size(1 << 20).open()?;
    /// # let log = engine.create_log("orders").wait()?;
    /// log.append_batch(["1", "2"]).wait()?;
    /// let mut stream = log.reader(From::Earliest).stream();
    /// // With the crate `futures`: while let Some(record) = stream.try_next().await? { .. }
    /// let next = std::future::poll_fn(|cx| {
    ///     futures_core::Stream::poll_next(std::pin::Pin::new(&mut stream), cx)
    /// });
    /// assert_eq!(oncelog::block_on(next).unwrap()?.payload, "1");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn stream(self) -> RecordStream {
        RecordStream::new(self.batches())
    }

    /// This reader's batches as a stream: what [`next`](Self::next) gives, again and again. It ends
    /// as [`stream`](Self::stream) does.
    pub fn batches(self) -> BatchStream {
        BatchStream::new(self)
    }

    /// This reader's records, one by one; blocks this thread while there is none. It ends behind
    /// the last record of a sealed log, when [`max_wait`](Self::max_wait) is over without a record,
    /// and with an error. Or, with [`until_end`](BlockingRecords::until_end), where there is no
    /// record now.
    ///
    /// ```
    /// # use oncelog::{From, Options};
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Options::new(dir.path()).shards(1).segment_size(1 << 20).open()?;
    /// # let log = engine.create_log("orders").wait()?;
    /// log.append_batch(["1", "2"]).wait()?;
    /// let mut reader = log.reader(From::Earliest);
    /// for record in reader.iter_blocking().until_end() {
    ///     println!("{:?}", record?.payload);
    /// }
    /// assert_eq!(reader.position().unwrap().get(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn iter_blocking(&mut self) -> BlockingRecords<'_> {
        BlockingRecords::new(self)
    }

    /// Puts records back that were not wanted after all.
    pub(crate) fn give_back(&mut self, mut records: Records) {
        if let Some(left) = self.left.take() {
            records.append(left);
        }
        self.left = Some(records).filter(|left| left.len() > 0);
    }

    /// The first records of those that are left, if any are.
    fn take_left(&mut self, max: u64) -> Option<Records> {
        let left = self.left.as_mut()?;
        if left.len() as u64 <= max {
            return self.left.take();
        }
        Some(left.take_first(max))
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("at", &self.fetch.at).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;
    use crate::log::From;
    use crate::options::Options;

    fn seal(log: &Log) {
        log.seal().wait().unwrap();
    }

    fn ends_at(result: Result<impl Sized, ReadError>, end: u64) {
        let Err(ReadError::End { next }) = result else { panic!("it does not end") };
        assert_eq!(next.get(), end);
    }

    #[test]
    fn a_sealed_log_ends_for_those_that_wait_and_those_that_come_later() {
        let dir = tempfile::tempdir().unwrap();
        let engine = Options::new(dir.path()).shards(1).segment_size(1 << 20).open().unwrap();
        let log = engine.create_log("log").wait().unwrap();
        log.append_batch(["1", "2", "3"]).wait().unwrap();
        let mut late = log.reader(From::Latest);
        assert!(late.try_next().wait().unwrap().is_none());
        let waiting = std::thread::spawn(move || late.next().wait());
        let mut reader = log.reader(From::Earliest).max_records(2);
        let pending = log.append("4");
        seal(&log);
        // The record before the seal is there before the end is told.
        let mut waited = waiting.join().unwrap();
        assert_eq!(waited.as_mut().unwrap().next().unwrap().payload, "4");
        pending.wait().unwrap();
        assert_eq!(reader.next().wait().unwrap().len(), 2);
        assert_eq!(reader.try_next().wait().unwrap().unwrap().len(), 2);
        for _ in 0..2 {
            ends_at(reader.next().wait(), 4);
            ends_at(reader.try_next().wait(), 4);
            ends_at(reader.batch(1, Duration::from_secs(600)).wait(), 4);
        }
        ends_at(log.reader(From::TxId(crate::TxId(1))).next().wait(), 4);
        ends_at(log.reader(From::Time(u64::MAX / 2)).next().wait(), 4);
        let mut rest = log.reader(From::Sequence(Sequence(3)));
        assert_eq!(rest.batch(9, Duration::from_secs(600)).wait().unwrap().len(), 1);
        assert!(log.get(Sequence(4)).wait().unwrap().is_none());
        assert_eq!(log.find(From::Latest).wait().unwrap(), Some(Sequence(4)));
        assert_eq!(log.find(From::TxId(crate::TxId(1))).wait().unwrap(), None);
    }

    /// Counts the warnings of this thread that name a log.
    #[derive(Clone, Default)]
    struct Warnings(Arc<AtomicUsize>);

    impl tracing::Subscriber for Warnings {
        fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
            *metadata.level() == tracing::Level::WARN
        }
        fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
            tracing::span::Id::from_u64(1)
        }
        fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
        fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
        fn event(&self, event: &tracing::Event<'_>) {
            let named = |name| event.fields().any(|field| field.name() == name);
            assert!(named("log") && named("position") && named("idle"));
            self.0.fetch_add(1, Relaxed);
        }
        fn enter(&self, _: &tracing::span::Id) {}
        fn exit(&self, _: &tracing::span::Id) {}
    }

    #[test]
    fn a_reader_that_waits_long_warns_once_until_there_is_a_record() {
        let dir = tempfile::tempdir().unwrap();
        let engine = Options::new(dir.path()).shards(1).segment_size(1 << 20).open().unwrap();
        let log = engine.create_log("log").wait().unwrap();
        let ms = Duration::from_millis;
        let mut reader = log.reader(From::Earliest).max_wait(ms(4)).warn_after(ms(6));
        assert!(reader.try_next().wait().unwrap().is_none());
        let warnings = Warnings::default();
        tracing::subscriber::with_default(warnings.clone(), || {
            // 4 ms, then 2 of 4, and then no more.
            for expected in [0, 1, 1, 1, 2, 2] {
                if expected == 2 && warnings.0.load(Relaxed) == 1 {
                    log.append("x").wait().unwrap();
                    assert_eq!(reader.next().wait().unwrap().len(), 1);
                    assert_eq!(reader.next().wait().unwrap().len(), 0);
                }
                assert_eq!(reader.next().wait().unwrap().len(), 0);
                assert_eq!(warnings.0.load(Relaxed), expected);
            }
        });
    }

    #[test]
    fn streams_of_all_kinds_end_with_their_sealed_logs() {
        use std::io::{Read, Write};
        let dir = tempfile::tempdir().unwrap();
        let engine = Options::new(dir.path()).shards(1).segment_size(1 << 20).open().unwrap();
        let [one, two] = ["g/1", "g/2"].map(|name| engine.create_log(name).wait().unwrap());
        let mut writer = one.byte_writer().wait().unwrap();
        writer.write_all(b"bytes").unwrap();
        writer.flush().unwrap();
        let mut merged = engine.merged(&[one.clone(), two.clone()], From::Earliest).unwrap();
        assert_eq!(merged.next().wait().unwrap().len(), 1);
        writer.seal().unwrap();
        let mut text = String::new();
        one.byte_reader(1).read_to_string(&mut text).unwrap();
        assert_eq!(text, "ytes");
        assert_eq!(one.reader(From::Earliest).iter_blocking().count(), 1);
        let mut stream = one.reader(From::Earliest).stream();
        let mut next = || {
            crate::block_on(std::future::poll_fn(|cx| {
                futures_core::Stream::poll_next(std::pin::Pin::new(&mut stream), cx)
            }))
        };
        assert!(next().is_some_and(|record| record.is_ok()) && next().is_none());
        two.append("more").wait().unwrap();
        assert_eq!(merged.next().wait().unwrap()[0].payload, "more");
        assert!(merged.try_next().wait().unwrap().is_none());
        let waiting = std::thread::spawn(move || merged.next().wait());
        seal(&two);
        assert!(matches!(waiting.join().unwrap(), Err(ReadError::End { .. })));
    }

    #[test]
    fn a_processor_reads_on_where_one_of_its_sources_ended() {
        let dir = tempfile::tempdir().unwrap();
        let engine = Options::new(dir.path()).shards(1).segment_size(1 << 20).open().unwrap();
        let [one, two] = ["g/1", "g/2"].map(|name| engine.create_log(name).wait().unwrap());
        one.append("a").wait().unwrap();
        let options = engine.processor("g/p").source("g/1").source("g/2");
        let (mut processor, _) = options.open().wait().unwrap();
        assert_eq!(processor.next().wait().unwrap().log.name(), "g/1");
        seal(&one);
        two.append("b").wait().unwrap();
        assert_eq!(processor.next().wait().unwrap().log.name(), "g/2");
        seal(&two);
        assert!(matches!(processor.next().wait(), Err(ReadError::End { .. })));
        assert!(matches!(processor.next().wait(), Err(ReadError::End { .. })));
    }
}
