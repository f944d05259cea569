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

use std::collections::BTreeMap;

use bytes::BytesMut;
use rustc_hash::FxHashMap;

use crate::format::control::{
    ChainLink, Checkpoint, CheckpointState, Control, Link, ManifestHead, ManifestLog,
    ManifestReader, ManifestSegment, SourcePosition,
};
use crate::format::entry::SectionHead;
use crate::limits::{SNAPSHOT_PART_SIZE, manifest_size_max};
use crate::position::{Epoch, LogId, ReaderId, SegmentId, Sequence, TxId};

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
    readers: FxHashMap<ReaderId, ReaderState>,
    reader_names: BTreeMap<String, ReaderId>,
    segments: BTreeMap<SegmentId, ManifestSegment>,
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
            readers: FxHashMap::default(),
            reader_names: BTreeMap::new(),
            segments: BTreeMap::new(),
            next_log: LogId(1),
            next_reader: ReaderId(1),
            next_epoch: Epoch(1),
            manifest_size: 64,
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
        // Half of it: the other half is for the segments that are sealed meanwhile.
        let max = manifest_size_max(segment_size) / 2;
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
        self.append(section.log, records, section.first_txid, section.last_txid)
    }

    /// As [`apply_records`](Self::apply_records), from the numbers.
    ///
    /// # Errors
    /// [`Misfit`] if they do not follow the ones before.
    pub fn append(
        &mut self,
        log: LogId,
        (first, count): (Sequence, u64),
        first_txid: TxId,
        last_txid: TxId,
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
        state.next = first.after(count);
        state.last_txid = last_txid;
        Ok(())
    }

    /// Changes the catalog as a control record says. `at` is where the record stands.
    ///
    /// # Errors
    /// [`Misfit`] if it does not follow what was before; then nothing was changed.
    pub fn apply(&mut self, control: &Control, at: Link) -> Result<(), Misfit> {
        match control {
            Control::LogCreated { log, created_us, name } => {
                if *log != self.next_log || self.log_names.contains_key(name) {
                    return Err("a log is created twice");
                }
                self.next_log = LogId(log.0 + 1);
                self.insert_log(ManifestLog {
                    log: *log,
                    created_us: *created_us,
                    next: Sequence::FIRST,
                    last_txid: TxId(0),
                    first: Sequence::FIRST,
                    name: name.clone(),
                });
            }
            Control::LogDropped { log } => {
                let state = self.logs.remove(log).ok_or("a log is dropped that is not there")?;
                self.log_names.remove(&state.name);
                self.manifest_size -= Control::ManifestLog(manifest_log(*log, &state)).size();
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
            Control::Checkpoint(checkpoint) if checkpoint.carried => {}
            Control::Checkpoint(checkpoint) => self.checkpoint(checkpoint, at)?,
            Control::SnapshotPart { .. } => {}
            Control::ChainCarried { reader, head, oldest } => {
                let state = self.readers.get_mut(reader).ok_or("a state of no processor")?;
                state.stored.carried = Some(*head);
                state.stored.oldest = *oldest;
            }
            Control::SegmentFreed { segment } => {
                let state = self.segments.get_mut(segment).ok_or("a segment is freed twice")?;
                state.freed = true;
            }
            Control::Seal { .. } => {}
            Control::ManifestHead(_)
            | Control::ManifestLog(_)
            | Control::ManifestReader(_)
            | Control::ManifestSegment(_) => return Err("a manifest record outside the manifest"),
        }
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

    fn insert_log(&mut self, row: ManifestLog) {
        self.log_names.insert(row.name.clone(), row.log);
        self.manifest_size += Control::ManifestLog(row.clone()).size();
        let state = LogState {
            name: row.name,
            created_us: row.created_us,
            first: row.first,
            first_ordinal: 0,
            next: row.next,
            durable_next: row.next,
            last_txid: row.last_txid,
        };
        assert!(self.logs.insert(row.log, state).is_none());
    }

    fn insert_reader(&mut self, row: ManifestReader) {
        self.reader_names.insert(row.name.clone(), row.reader);
        self.manifest_size += Control::ManifestReader(row.clone()).size();
        let id = row.reader;
        let state =
            ReaderState { stored: row, chains: 0, ended: false, parts: Vec::new(), parts_for: 0 };
        assert!(self.readers.insert(id, state).is_none());
    }

    /// The manifest: everything that opening needs, in groups of records that fit `size_max` bytes
    /// (F-12).
    #[must_use]
    pub fn manifest(&self, time_us: u64, size_max: u64) -> Vec<(BytesMut, u32)> {
        let count = |len: usize| u32::try_from(len).expect("a manifest is bounded");
        let head = Control::ManifestHead(ManifestHead {
            next_log: self.next_log,
            next_reader: self.next_reader,
            next_epoch: self.next_epoch,
            time_us,
            logs: count(self.logs.len()),
            readers: count(self.readers.len()),
            segments: count(self.segments.len()),
        });
        let mut groups = vec![(BytesMut::new(), 0)];
        for row in std::iter::once(head).chain(self.rows()) {
            let (bytes, _) = groups.last().expect("there is always one");
            if bytes.len() as u64 + row.size() > size_max {
                groups.push((BytesMut::new(), 0));
            }
            let (bytes, count) = groups.last_mut().expect("there is always one");
            row.put(bytes);
            *count += 1;
        }
        groups
    }

    /// The rows of a manifest: segments, logs, processors, each sorted by number, so the same
    /// catalog always gives the same bytes.
    #[must_use]
    pub fn rows(&self) -> Vec<Control> {
        let mut rows: Vec<_> =
            self.segments.values().map(|row| Control::ManifestSegment(*row)).collect();
        let mut logs: Vec<_> = self.logs.iter().collect();
        logs.sort_unstable_by_key(|(log, _)| **log);
        rows.extend(logs.into_iter().map(|(l, s)| Control::ManifestLog(manifest_log(*l, s))));
        let mut readers: Vec<_> = self.readers.values().collect();
        readers.sort_unstable_by_key(|state| state.stored.reader);
        rows.extend(readers.into_iter().map(|s| Control::ManifestReader(s.stored.clone())));
        rows
    }

    /// The catalog that a whole manifest describes, and the commit time in it (F-12).
    ///
    /// # Errors
    /// [`Misfit`] if the rows are not one whole manifest.
    pub fn from_manifest(rows: Vec<Control>) -> Result<(Self, u64), Misfit> {
        let mut catalog = Self::default();
        let mut rows = rows.into_iter();
        let Some(Control::ManifestHead(head)) = rows.next() else {
            return Err("a manifest without a head");
        };
        if head.next_log == LogId(0) || head.next_reader == ReaderId(0) {
            return Err("a manifest whose numbers begin at 0");
        }
        counted(&[head.next_log.0, head.next_reader.0, head.next_epoch.0])?;
        catalog.next_log = head.next_log;
        catalog.next_reader = head.next_reader;
        catalog.next_epoch = head.next_epoch;
        for row in rows {
            match row {
                Control::ManifestLog(row) => {
                    let twice = catalog.logs.contains_key(&row.log)
                        || catalog.log_names.contains_key(&row.name);
                    if twice || row.log == LogId(0) || row.log >= head.next_log {
                        return Err("a manifest names a log twice, or one that never was");
                    }
                    counted(&[row.next.0])?;
                    catalog.insert_log(row);
                }
                Control::ManifestReader(row) => {
                    let twice = catalog.readers.contains_key(&row.reader)
                        || catalog.reader_names.contains_key(&row.name);
                    if twice || row.reader == ReaderId(0) || row.reader >= head.next_reader {
                        return Err("a manifest names a processor twice, or one that never was");
                    }
                    counted(&[row.number])?;
                    catalog.insert_reader(row);
                }
                Control::ManifestSegment(row) => {
                    if catalog.segments.contains_key(&row.segment) {
                        return Err("a manifest names a segment twice");
                    }
                    counted(&[row.segment.0])?;
                    catalog.add_segment(row);
                }
                _ => return Err("a record in the manifest that does not belong there"),
            }
        }
        let counts = (catalog.logs.len(), catalog.readers.len(), catalog.segments.len());
        if counts != (head.logs as usize, head.readers as usize, head.segments as usize) {
            return Err("a manifest that is not whole");
        }
        Ok((catalog, head.time_us))
    }
}

fn manifest_log(log: LogId, state: &LogState) -> ManifestLog {
    ManifestLog {
        log,
        created_us: state.created_us,
        next: state.next,
        last_txid: state.last_txid,
        first: state.first,
        name: state.name.clone(),
    }
}
