//! What a shard knows: its logs, processors and segments, and the one function that changes it.
//!
//! ```text
//! request -> checked here -> Control --apply--> catalog        (while running)
//! segment ----------------> Control --apply--> catalog        (when opened)
//! ```
//!
//! Running and opening go through the same [`Catalog::apply`], so they cannot differ. The catalog
//! is the state *as staged*: it runs ahead of the disk by the open entry and those in flight. Only
//! `LogState::durable_next` is about durability.
//!
//! Not here: answers, and when they may be given (`shard`).

mod manifest;
mod settings;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::format::codec::Codec;
use crate::format::control::{
    ChainLink, Checkpoint, CheckpointState, Control, Link, ManifestLog, ManifestReader,
    ManifestSegment, SourcePosition,
};
use crate::format::entry::SectionHead;
use crate::format::options::{LogOptions, Rates};
use crate::limits::{SNAPSHOT_PART_SIZE, manifest_size_max};
use crate::position::{Epoch, LogId, ReaderId, SegmentId, Sequence, TxId};
use crate::writers::Writers;
use manifest::manifest_log;

/// One log.
#[derive(Clone, Debug)]
pub struct LogState {
    /// Its name.
    pub name: String,
    /// When it was created, microseconds since 1970.
    pub created_us: u64,
    /// Records before this one are truncated.
    pub first: Sequence,
    /// `first` is durable when all entries below this ordinal of the journal are.
    pub first_ordinal: u64,
    /// Next sequence, as staged.
    pub next: Sequence,
    /// Records before this one are durable, and so visible. `first.. <= durable_next <= next`.
    pub durable_next: Sequence,
    /// Last transaction id, as staged.
    pub last_txid: TxId,
    /// Bytes of all records that it ever had, as staged: payloads and headers.
    pub bytes: u64,
    /// Nothing is appended any more: `next` stays what it was then.
    pub sealed: bool,
    /// `sealed` is durable when all entries below this ordinal of the journal are.
    pub sealed_ordinal: u64,
    /// Behind the last record that there ever will be, if it is sealed.
    pub end: Sequence,
    /// Who alone may append; 0 if all may.
    pub owner: Epoch,
    /// How often its options were set.
    pub options_version: u32,
    /// Its options, unless they are the default ones.
    pub options: Option<Arc<LogOptions>>,
}

impl LogState {
    /// How its sections are to be stored.
    #[must_use]
    pub fn codec(&self) -> Codec {
        self.options.as_ref().map_or(Codec::None, |options| options.compression)
    }
}

/// One processor.
#[derive(Clone, Debug)]
pub struct ReaderState {
    /// What a manifest holds of it.
    pub stored: ManifestReader,
    /// How often its state chain began anew since the engine was opened.
    pub chains: u64,
    /// A commit of the newest owner was refused: it has ended.
    pub ended: bool,
    /// Parts of a snapshot that no commit has named yet, of the newest owner.
    pub parts: Vec<Link>,
    /// The number of the commit that they are for.
    pub parts_for: u64,
}

/// A shard's logs, processors and sealed segments.
#[derive(Clone, Debug)]
pub struct Catalog {
    logs: FxHashMap<LogId, LogState>,
    log_names: BTreeMap<String, LogId>,
    /// Logs with records that may go by themselves.
    retained: BTreeSet<LogId>,
    /// Logs with rates of their own.
    rated: BTreeSet<LogId>,
    readers: FxHashMap<ReaderId, ReaderState>,
    reader_names: BTreeMap<String, ReaderId>,
    segments: BTreeMap<SegmentId, ManifestSegment>,
    writers: Writers,
    /// Rates of the whole shard.
    rates: Rates,
    next_log: LogId,
    next_reader: ReaderId,
    next_epoch: Epoch,
    /// Bytes that a manifest would take now.
    manifest_size: u64,
}

/// A control record or section does not fit what was before it: damage, when it is read back.
pub type Misfit = &'static str;

/// No number that counts from 1, or 0, comes near this: counting on from it never ends.
const NUMBER_END: u64 = 1 << 63;

fn counted(numbers: &[u64]) -> Result<(), Misfit> {
    let all = numbers.iter().all(|number| *number < NUMBER_END);
    all.then_some(()).ok_or("a number is higher than anyone can count")
}

impl Default for Catalog {
    fn default() -> Self {
        Self {
            logs: FxHashMap::default(),
            log_names: BTreeMap::new(),
            retained: BTreeSet::new(),
            rated: BTreeSet::new(),
            readers: FxHashMap::default(),
            reader_names: BTreeMap::new(),
            segments: BTreeMap::new(),
            writers: Writers::default(),
            rates: Rates::default(),
            next_log: LogId(1),
            next_reader: ReaderId(1),
            next_epoch: Epoch(1),
            manifest_size: 128,
        }
    }
}

impl Catalog {
    /// The log with this number.
    #[must_use]
    pub fn log(&self, log: LogId) -> Option<&LogState> {
        self.logs.get(&log)
    }

    /// The log of this name.
    #[must_use]
    pub fn log_named(&self, name: &str) -> Option<LogId> {
        self.log_names.get(name).copied()
    }

    /// Names of all logs, sorted.
    pub fn log_names(&self) -> impl ExactSizeIterator<Item = (&str, LogId)> {
        self.log_names.iter().map(|(name, log)| (name.as_str(), *log))
    }

    /// Logs that only this owner may append to.
    pub fn owned_by(&self, epoch: Epoch) -> impl Iterator<Item = LogId> {
        let owned = self.log_names.values().filter(move |log| self.logs[log].owner == epoch);
        owned.copied()
    }

    /// Logs whose name begins with `prefix` and comes behind `after`, sorted.
    pub fn logs_named<'a>(
        &'a self,
        prefix: &'a str,
        after: &str,
    ) -> impl Iterator<Item = (&'a str, LogId)> {
        let from = if after < prefix { Bound::Included(prefix) } else { Bound::Excluded(after) };
        let names = self.log_names.range::<str, _>((from, Bound::Unbounded));
        let names = names.take_while(move |(name, _)| name.starts_with(prefix));
        names.map(|(name, log)| (name.as_str(), *log))
    }

    /// Logs with records that may go by themselves.
    #[must_use]
    pub fn retained(&self) -> &BTreeSet<LogId> {
        &self.retained
    }

    fn note_options(&mut self, log: LogId) {
        let options = self.logs.get(&log).and_then(|state| state.options.as_ref());
        if options.is_some_and(|options| options.retention.is_some()) {
            self.retained.insert(log);
        } else {
            self.retained.remove(&log);
        }
        if options.is_some_and(|options| options.rates.is_some()) {
            self.rated.insert(log);
        } else {
            self.rated.remove(&log);
        }
    }

    /// Whether the shard or any log has rates.
    #[must_use]
    pub fn has_rates(&self) -> bool {
        !self.rated.is_empty() || self.rates.is_some()
    }

    /// The processor with this number.
    #[must_use]
    pub fn reader(&self, reader: ReaderId) -> Option<&ReaderState> {
        self.readers.get(&reader)
    }

    /// The processor with this number, for what is not stored.
    pub fn reader_mut(&mut self, reader: ReaderId) -> Option<&mut ReaderState> {
        self.readers.get_mut(&reader)
    }

    /// The processor of this name.
    #[must_use]
    pub fn reader_named(&self, name: &str) -> Option<ReaderId> {
        self.reader_names.get(name).copied()
    }

    /// All processors, in the order of their names.
    pub fn readers(&self) -> impl Iterator<Item = (ReaderId, &ReaderState)> {
        self.reader_names.values().map(|reader| (*reader, &self.readers[reader]))
    }

    /// Sealed segments, oldest first.
    pub fn segments(&self) -> impl DoubleEndedIterator<Item = &ManifestSegment> {
        self.segments.values()
    }

    /// The sealed segment with this number.
    #[must_use]
    pub fn segment(&self, segment: SegmentId) -> Option<&ManifestSegment> {
        self.segments.get(&segment)
    }

    /// The active segment was sealed.
    pub fn add_segment(&mut self, segment: ManifestSegment) {
        self.manifest_size += Control::ManifestSegment(segment).size();
        assert!(self.segments.insert(segment.segment, segment).is_none());
    }

    /// A freed segment's file is gone.
    pub fn forget_segment(&mut self, segment: SegmentId) {
        let gone = self.segments.remove(&segment).expect("only a known segment is freed");
        assert!(gone.freed);
        self.manifest_size -= Control::ManifestSegment(gone).size();
    }

    /// The idempotent writers.
    #[must_use]
    pub fn writers(&self) -> &Writers {
        &self.writers
    }

    /// Rates of the whole shard.
    #[must_use]
    pub fn rates(&self) -> Rates {
        self.rates
    }

    /// Number of the next log.
    #[must_use]
    pub fn next_log(&self) -> LogId {
        self.next_log
    }

    /// Number of the next processor.
    #[must_use]
    pub fn next_reader(&self) -> ReaderId {
        self.next_reader
    }

    /// The next owner's epoch.
    #[must_use]
    pub fn next_epoch(&self) -> Epoch {
        self.next_epoch
    }

    /// Whether a manifest has room for `more` bytes; otherwise its size with them, and the limit.
    ///
    /// # Errors
    /// (size, limit) in bytes.
    pub fn room_in_manifest(&self, more: u64, segment_size: u64) -> Result<(), (u64, u64)> {
        // The last quarter is for the segments that are sealed meanwhile.
        let max = manifest_size_max(segment_size) / 4 * 3;
        let size = self.manifest_size + more;
        if size <= max { Ok(()) } else { Err((size, max)) }
    }

    /// Whether a manifest has room for the segments that more data would need. The last tenth is
    /// for what frees them.
    #[must_use]
    pub fn has_room_for_segments(&self, segment_size: u64) -> bool {
        self.manifest_size <= manifest_size_max(segment_size) / 10 * 9
    }

    /// Records became durable.
    pub fn set_durable(&mut self, log: LogId, next: Sequence) {
        // The log may have been dropped while they were in flight.
        if let Some(state) = self.logs.get_mut(&log) {
            assert!(state.durable_next <= next && next <= state.next);
            state.durable_next = next;
        }
    }

    /// A truncation was staged; it is durable when all entries below `ordinal` are.
    pub fn set_truncated(&mut self, log: LogId, ordinal: u64) {
        self.logs.get_mut(&log).expect("it was just truncated").first_ordinal = ordinal;
    }

    /// A seal was staged; it is durable when all entries below `ordinal` are.
    pub fn set_sealed(&mut self, log: LogId, ordinal: u64) {
        self.logs.get_mut(&log).expect("it was just sealed").sealed_ordinal = ordinal;
    }

    /// Everything staged is durable (after the journal was read back).
    pub fn set_all_durable(&mut self) {
        for state in self.logs.values_mut() {
            state.durable_next = state.next;
        }
    }

    /// Records of a log were staged or read back.
    ///
    /// # Errors
    /// [`Misfit`] if they do not follow the ones before.
    pub fn apply_records(&mut self, section: &SectionHead) -> Result<(), Misfit> {
        let records = (section.first_sequence, section.count.into());
        let bytes = section.raw_len.into();
        self.append(section.log, records, (section.first_txid, section.last_txid), bytes)
    }

    /// As [`apply_records`](Self::apply_records), from the numbers.
    ///
    /// # Errors
    /// [`Misfit`] if they do not follow the ones before.
    pub fn append(
        &mut self,
        log: LogId,
        (first, count): (Sequence, u64),
        (first_txid, last_txid): (TxId, TxId),
        bytes: u64,
    ) -> Result<(), Misfit> {
        if log >= self.next_log {
            return Err("records of a log that was never created");
        }
        // Records of a log that is dropped in the same entry, or later, are dead.
        let Some(state) = self.logs.get_mut(&log) else { return Ok(()) };
        if first != state.next {
            return Err("sequences do not follow");
        }
        if first_txid < state.last_txid || last_txid < first_txid {
            return Err("transaction ids decrease");
        }
        if state.sealed && first.after(count) > state.end {
            return Err("records behind the end of a sealed log");
        }
        state.next = first.after(count);
        state.last_txid = last_txid;
        state.bytes = state.bytes.saturating_add(bytes);
        Ok(())
    }

    /// Changes the catalog as a control record says. `at` is where the record stands.
    ///
    /// # Errors
    /// [`Misfit`] if it does not follow what was before; then nothing was changed.
    pub fn apply(&mut self, control: &Control, at: Link) -> Result<(), Misfit> {
        match control {
            Control::LogCreated { log, created_us, name } => {
                self.create_log(*log, *created_us, name)?;
            }
            Control::LogDropped { log } => {
                let state = self.logs.remove(log).ok_or("a log is dropped that is not there")?;
                self.log_names.remove(&state.name);
                self.retained.remove(log);
                self.rated.remove(log);
                self.manifest_size -= Control::ManifestLog(manifest_log(*log, &state)).size();
                self.manifest_size -= self.writers.remove_all(*log);
            }
            Control::LogTruncated { log, first } => {
                let state = self.logs.get_mut(log).ok_or("a log is truncated that is not there")?;
                // Control records stand before the records of their entry, so `next` may still lag.
                state.first = state.first.max(*first);
            }
            Control::ReaderOpened { reader, epoch, sources, name } => {
                self.open_reader(*reader, *epoch, sources, name)?;
            }
            Control::ReaderDropped { reader } => {
                let state =
                    self.readers.remove(reader).ok_or("a processor is dropped twice")?.stored;
                self.reader_names.remove(&state.name);
                self.manifest_size -= Control::ManifestReader(state).size();
            }
            Control::Checkpoint(checkpoint) if !checkpoint.carried => {
                self.checkpoint(checkpoint, at)?;
            }
            Control::Checkpoint(_) | Control::SnapshotPart { .. } | Control::Seal { .. } => {}
            Control::ChainCarried { reader, head, oldest } => {
                let state = self.readers.get_mut(reader).ok_or("a state of no processor")?;
                state.stored.carried = Some(*head);
                state.stored.oldest = *oldest;
            }
            Control::SegmentFreed { segment } => {
                let state = self.segments.get_mut(segment).ok_or("a segment is freed twice")?;
                state.freed = true;
            }
            Control::SegmentPunched { segment } => {
                let state = self.segments.get_mut(segment).filter(|state| !state.freed);
                state.ok_or("a segment is punched that is not there")?.shortened = true;
            }
            Control::WriterOpened { .. }
            | Control::WriterAppended { .. }
            | Control::WriterForgotten { .. } => self.apply_writer(control, at)?,
            Control::LogOwned { .. }
            | Control::LogSealed { .. }
            | Control::LogOptionsSet { .. }
            | Control::LogRenamed { .. } => self.apply_setting(control)?,
            Control::RatesSet { rates } => self.rates = *rates,
            manifest => {
                assert!((32..64).contains(&manifest.kind()), "every other kind stands above");
                return Err("a manifest record outside the manifest");
            }
        }
        Ok(())
    }

    fn create_log(&mut self, log: LogId, created_us: u64, name: &str) -> Result<(), Misfit> {
        if log != self.next_log || self.log_names.contains_key(name) {
            return Err("a log is created twice");
        }
        self.next_log = LogId(log.0 + 1);
        self.insert_log(ManifestLog {
            log,
            created_us,
            next: Sequence::FIRST,
            last_txid: TxId(0),
            first: Sequence::FIRST,
            bytes: 0,
            sealed: false,
            owner: Epoch(0),
            options_version: 0,
            options: None,
            name: name.to_owned(),
        });
        Ok(())
    }

    /// An owner's epoch is used for the first time.
    fn use_epoch(&mut self, epoch: Epoch) -> Result<(), Misfit> {
        if epoch < self.next_epoch {
            return Err("an epoch is used twice");
        }
        counted(&[epoch.0])?;
        self.next_epoch = Epoch(epoch.0 + 1);
        Ok(())
    }

    fn open_reader(
        &mut self,
        reader: ReaderId,
        epoch: Epoch,
        sources: &[SourcePosition],
        name: &str,
    ) -> Result<(), Misfit> {
        if epoch < self.next_epoch {
            return Err("an epoch is used twice");
        }
        counted(&[epoch.0])?;
        if sources.iter().any(|source| !self.logs.contains_key(&source.log)) {
            return Err("a processor reads a log that is not there");
        }
        if let Some(state) = self.readers.get_mut(&reader) {
            self.manifest_size -= Control::ManifestReader(state.stored.clone()).size();
            state.stored.epoch = epoch;
            state.stored.sources = sources.to_vec();
            state.ended = false;
            state.parts.clear();
            self.manifest_size += Control::ManifestReader(state.stored.clone()).size();
        } else {
            if reader != self.next_reader || self.reader_names.contains_key(name) {
                return Err("a processor is created twice");
            }
            self.next_reader = ReaderId(reader.0 + 1);
            self.insert_reader(ManifestReader {
                reader,
                epoch,
                number: 0,
                head: None,
                carried: None,
                oldest: SegmentId(0),
                deltas: 0,
                delta_bytes: 0,
                snapshot_bytes: 0,
                sources: sources.to_vec(),
                name: name.to_owned(),
            });
        }
        self.next_epoch = Epoch(epoch.0 + 1);
        Ok(())
    }

    /// A commit follows the one before it, whoever reads or writes it (F-13).
    fn checkpoint(&mut self, checkpoint: &Checkpoint, at: Link) -> Result<(), Misfit> {
        let state = self.readers.get_mut(&checkpoint.reader).ok_or("a commit of no processor")?;
        let stored = &mut state.stored;
        if checkpoint.epoch != stored.epoch {
            return Err("a commit of an owner that was fenced");
        }
        if checkpoint.number != stored.number + 1 {
            return Err("checkpoint numbers do not follow");
        }
        if checkpoint.from.iter().any(|from| !stored.sources.contains(from)) {
            return Err("a commit does not follow the position before it");
        }
        if checkpoint.from.iter().zip(&checkpoint.to).any(|(from, to)| to.next < from.next) {
            return Err("a commit moves a position back");
        }
        let here = ChainLink { number: checkpoint.number, link: at };
        match &checkpoint.state {
            CheckpointState::None => {}
            CheckpointState::Delta(bytes) => {
                if checkpoint.previous != stored.head {
                    return Err("a delta does not follow the state before it");
                }
                if stored.head.is_none() {
                    stored.oldest = at.segment;
                }
                stored.head = Some(here);
                stored.deltas = stored.deltas.saturating_add(1);
                stored.delta_bytes = stored.delta_bytes.saturating_add(bytes.len() as u64);
            }
            CheckpointState::Snapshot { parts, last } => {
                stored.head = Some(here);
                stored.carried = None;
                let oldest_part = parts.iter().map(|part| part.segment).min();
                stored.oldest = oldest_part.unwrap_or(at.segment).min(at.segment);
                stored.deltas = 0;
                stored.delta_bytes = 0;
                stored.snapshot_bytes =
                    last.len() as u64 + parts.len() as u64 * u64::from(SNAPSHOT_PART_SIZE);
                state.chains += 1;
            }
        }
        stored.number = checkpoint.number;
        state.parts.clear();
        for to in &checkpoint.to {
            let source = stored.sources.iter_mut().find(|source| source.log == to.log);
            source.expect("`from` was found among the sources").next = to.next;
        }
        Ok(())
    }
}
