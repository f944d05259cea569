//! Group commit: turns staged records into entries, and completed writes into durable ones.
//!
//! ```text
//! stage -> open entry -> sealed, in flight (at most ENTRIES_IN_FLIGHT_MAX) -> durable, in order
//! ```
//!
//! Natural batching: the open entry is sealed when a slot is free, so it grows by itself while the
//! device is busy. While others are in flight a small one also waits until it has half as many
//! requests as the largest of them, or they are durable: an entry costs much the same whatever its
//! size. Entries are counted by an ordinal that goes on from segment to segment:
//! `durable <= in flight <= open`, and everything below `durable_ordinal` is on stable storage.
//!
//! An entry is durable when all its bytes completed under `RWF_DSYNC`, or when a sync that was
//! submitted after its write completed returned, *and* every entry before it is durable. The method
//! changes only while nothing is in flight. A failed write or sync is never retried.
//!
//! Not here: the open entry itself (`stage`), what the records mean (`catalog`), answers (`shard`),
//! where segments come from (`roll`).

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};

use crate::buf::{Buf, Pool};
use crate::format::codec::{Codec, Packer};
use crate::format::control::{Control, Link};
use crate::format::entry::{
    EntryHead, Flags, HEADER_SIZE, RecordsIn, SECTION_SIZE, SectionHead, entry_size, put_entry,
};
use crate::format::header::SegmentHeader;
use crate::format::{EngineId, Place, VERSION};
use crate::io::{Now, OpKind};
use crate::limits::{
    BLOCK_SIZE, ENTRIES_IN_FLIGHT_MAX, ENTRY_SIZE_SMALL, MIB, SMALL_ENTRIES_IN_FLIGHT_MAX,
    entry_size_max,
};
use crate::metrics::Tally;
use crate::position::{Dlsn, LogId, SegmentId, Sequence, ShardId};
use crate::request::{CommitStats, StagedRecord};
use crate::stage::{Need, OpenEntry};
use crate::sync::{SyncMethod, SyncPolicy};

/// Blocks kept at a segment's end for an idle watermark, a close mark and the seal.
const END_RESERVE: u64 = 4 * BLOCK_SIZE as u64;

/// The segment that is written.
#[derive(Clone, Copy, Debug)]
pub struct Active {
    /// Its number.
    pub segment: SegmentId,
    /// Where the next entry goes, in bytes.
    pub end: u64,
    /// Number of the next entry.
    pub entries: u32,
    /// Digest of the last entry.
    pub digest: u64,
    /// How many entries are durable: the watermark of the next one (F-7).
    pub durable: u32,
    /// The last entry was one whose watermark covers everything (idle, close).
    pub covered: bool,
    /// The last entry was a close mark.
    pub closed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Writing,
    /// Completed without `RWF_DSYNC`: needs a sync.
    Written,
    Durable,
}

/// An entry on its way to the disk.
#[derive(Debug)]
pub struct InFlight {
    /// Counted over all segments.
    pub ordinal: u64,
    /// Where it stands.
    pub place: Place,
    /// Commit time.
    pub time_us: u64,
    /// Its sections.
    pub sections: Vec<SectionHead>,
    /// Its bytes, once the write gave them back.
    pub bytes: Bytes,
    state: State,
    started_us: u64,
    parts: u32,
}

impl InFlight {
    /// Whether anything was staged into it: it is no mark.
    #[must_use]
    pub fn holds_any(&self) -> bool {
        self.parts > 0
    }
}

/// Something that the journal wants done.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Work {
    /// The write of the entry with this ordinal.
    Entry(u64),
    /// A sync of the active segment.
    Sync,
}

/// The journal of one shard.
pub struct Journal {
    engine: EngineId,
    shard: ShardId,
    segment_size: u64,
    entry_size_max: u32,
    pool: Pool,
    packer: Packer,
    policy: SyncPolicy,
    method: SyncMethod,
    active: Option<Active>,
    open: OpenEntry,
    /// What metrics say of the entries in flight, in order, and of the open one.
    tallies: VecDeque<Tally>,
    open_ordinal: u64,
    durable_ordinal: u64,
    in_flight: VecDeque<InFlight>,
    /// A sync is under way that covers entries below this ordinal.
    syncing: Option<u64>,
    sync_started_us: u64,
    time_us: u64,
    stats: CommitStats,
}

impl Journal {
    /// A journal without a segment.
    #[must_use]
    pub fn new(
        engine: EngineId,
        shard: ShardId,
        segment_size: u64,
        cache_size: u64,
        policy: SyncPolicy,
    ) -> Self {
        let entry_size_max = entry_size_max(segment_size);
        // Large entries are built in huge pages.
        let mib = MIB as usize;
        let arena_size = if entry_size_max < MIB { mib } else { 4 * mib };
        let in_flight = (ENTRIES_IN_FLIGHT_MAX * entry_size_max) as usize / arena_size;
        let cache = usize::try_from(cache_size).unwrap_or(usize::MAX) / arena_size;
        Self {
            engine,
            shard,
            segment_size,
            entry_size_max,
            pool: Pool::new(arena_size, (cache + in_flight + 2).min(256)),
            packer: Packer::default(),
            policy,
            method: SyncMethod::Dsync,
            active: None,
            open: OpenEntry::default(),
            tallies: VecDeque::from([Tally::default()]),
            open_ordinal: 0,
            durable_ordinal: 0,
            in_flight: VecDeque::new(),
            syncing: None,
            sync_started_us: 0,
            time_us: 0,
            stats: CommitStats::default(),
        }
    }

    /// The segment that is written.
    #[must_use]
    pub fn active(&self) -> Option<&Active> {
        self.active.as_ref()
    }

    /// Goes on in this segment. Nothing is staged or in flight.
    pub fn set_active(&mut self, active: Active) {
        assert!(self.is_quiet());
        assert_eq!(active.durable, active.entries);
        self.active = Some(active);
    }

    /// No entry is committed at an earlier time.
    pub fn set_time(&mut self, time_us: u64) {
        self.time_us = self.time_us.max(time_us);
    }

    /// Commit time of the last entry.
    #[must_use]
    pub fn time_us(&self) -> u64 {
        self.time_us
    }

    /// Whether nothing is staged and nothing in flight.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.open.is_empty() && self.in_flight.is_empty() && self.syncing.is_none()
    }

    /// Whether nothing is staged.
    #[must_use]
    pub fn is_open_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Ordinal of the newest entry whose effects are staged, plus one: what an answer must wait
    /// for.
    #[must_use]
    pub fn staged_ordinal(&self) -> u64 {
        self.open_ordinal + u64::from(!self.open.is_empty())
    }

    /// Everything below this ordinal is durable.
    #[must_use]
    pub fn durable_ordinal(&self) -> u64 {
        self.durable_ordinal
    }

    /// Figures.
    #[must_use]
    pub fn stats(&self) -> CommitStats {
        self.stats
    }

    /// What metrics will say of the open entry.
    pub fn tally(&mut self) -> &mut Tally {
        self.tallies.back_mut().expect("the open entry has one")
    }

    /// What metrics say of an entry that is durable: to be asked once for each, in order.
    pub fn take_tally(&mut self) -> Tally {
        self.tallies.pop_front().expect("each entry has one")
    }

    /// Entries being written or synced.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// When the last sync was given to the device.
    #[must_use]
    pub fn sync_started_us(&self) -> u64 {
        self.sync_started_us
    }

    /// How writes are made durable now.
    #[must_use]
    pub fn method(&self) -> SyncMethod {
        self.method
    }

    /// The largest entry, in bytes.
    #[must_use]
    pub fn entry_size_max(&self) -> u32 {
        self.entry_size_max
    }

    /// Bytes that are left for entries in the active segment before it must be sealed.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let need = u64::from(self.entry_size_max) + END_RESERVE;
        self.active.is_some_and(|active| active.end + need <= self.segment_size)
    }

    /// How much of the active segment is used, of 100.
    #[must_use]
    pub fn percent_used(&self) -> u64 {
        self.active.map_or(0, |active| active.end * 100 / self.segment_size)
    }

    /// Whether so much of the active segment, of 100, is enough for the open entry with this as
    /// well.
    #[must_use]
    pub fn fits_within(&self, percent: u64, need: Need) -> bool {
        let end = self.active.map_or(0, |active| active.end) + self.open.size_with(need);
        end * 100 <= percent * self.segment_size
    }

    /// How many more requests a small open entry waits for while others are in flight, so that one
    /// of them is not split into a large one and crumbs, each of which costs as much.
    #[must_use]
    pub fn gathers(&self) -> u32 {
        let largest = self.in_flight.iter().map(|entry| entry.parts).max().unwrap_or(0);
        let small = self.open.size() < ENTRY_SIZE_SMALL.into();
        if small { largest.div_ceil(2).saturating_sub(self.open.parts()) } else { 0 }
    }

    /// Whether an entry could be sealed now.
    #[must_use]
    pub fn has_slot(&self) -> bool {
        let small = self.open.size() < ENTRY_SIZE_SMALL.into();
        let max = if small { SMALL_ENTRIES_IN_FLIGHT_MAX } else { ENTRIES_IN_FLIGHT_MAX };
        self.in_flight.len() < max as usize
    }

    /// Whether the open entry can take this as well.
    #[must_use]
    pub fn fits(&self, need: Need) -> bool {
        self.open.fits(need, self.entry_size_max)
    }

    /// Where the next control record will stand.
    #[must_use]
    pub fn next_link(&self) -> Link {
        let active = self.active.as_ref().expect("staging needs a segment");
        let offset = u32::try_from(active.end).expect("a segment's size fits 32 bits");
        Link { segment: active.segment, offset, index: self.open.controls() }
    }

    /// Where the next record of a log will stand.
    #[must_use]
    pub fn next_dlsn(&self, log: LogId) -> Dlsn {
        let active = self.active.as_ref().expect("staging needs a segment");
        Dlsn::new(active.segment, active.entries, self.open.next_slot(log))
    }

    /// Stages a control record. The caller asked [`fits`](Self::fits).
    pub fn put_control(&mut self, control: &Control) {
        assert!(self.has_room() || !self.open.is_empty());
        self.open.put_control(control);
        assert!(self.open.size() <= self.entry_size_max.into());
    }

    /// Stages records of one log; says where the first one will stand.
    pub fn put_records(
        &mut self,
        log: LogId,
        codec: Codec,
        first: Sequence,
        records: impl Iterator<Item = StagedRecord>,
    ) -> Dlsn {
        assert!(self.has_room() || !self.open.is_empty());
        let active = self.active.as_ref().expect("staging needs a segment");
        let (segment, entry) = (active.segment, active.entries);
        let slot = self.open.put_records(log, codec, first, records);
        assert!(self.open.size() <= self.entry_size_max.into());
        Dlsn::new(segment, entry, slot)
    }

    /// The next operation, if there is one: the write of the open entry, or a sync.
    pub fn poll(&mut self, now: Now) -> Option<(Work, OpKind)> {
        if let Some(sync) = self.poll_sync(now) {
            return Some(sync);
        }
        if self.open.is_empty() || !self.has_slot() || self.gathers() > 0 {
            return None;
        }
        if self.policy.choose(now.mono_us) != self.method && !self.in_flight.is_empty() {
            // The method changes once everything in flight is durable.
            return None;
        }
        Some(self.seal(Flags::DATA, now))
    }

    fn poll_sync(&mut self, now: Now) -> Option<(Work, OpKind)> {
        if self.method == SyncMethod::Dsync || self.syncing.is_some() {
            return None;
        }
        // Only what completed in order: an ack needs every entry before it anyway.
        let written = self.in_flight.iter().take_while(|entry| entry.state != State::Writing);
        let last = written.filter(|entry| entry.state == State::Written).last()?;
        self.syncing = Some(last.ordinal + 1);
        self.sync_started_us = now.mono_us;
        self.stats.syncs += 1;
        Some((Work::Sync, OpKind::Sync { segment: last.place.segment }))
    }

    /// An empty entry whose watermark covers everything before it. Nothing is in flight.
    pub fn mark(&mut self, flags: Flags, now: Now) -> (Work, OpKind) {
        assert!(self.is_quiet());
        assert!(flags == Flags::WATERMARK || flags == Flags::CLOSE);
        self.seal(flags, now)
    }

    /// Whether there is room for an empty entry besides the seal.
    #[must_use]
    pub fn has_room_for_mark(&self) -> bool {
        let need = 2 * u64::from(BLOCK_SIZE);
        self.active.is_some_and(|active| active.end + need <= self.segment_size)
    }

    fn seal(&mut self, flags: Flags, now: Now) -> (Work, OpKind) {
        if self.in_flight.is_empty() {
            assert!(self.syncing.is_none());
            self.method = self.policy.choose(now.mono_us);
        }
        assert!(self.in_flight.len() < ENTRIES_IN_FLIGHT_MAX as usize);
        self.time_us = self.time_us.max(now.wall_us);
        let open = std::mem::take(&mut self.open);
        let (buf, sections, place) = self.encode(&open, flags);
        let active = self.active.as_mut().expect("an entry needs a segment");
        let offset = active.end;
        active.end += buf.len() as u64;
        active.entries += 1;
        active.covered = flags != Flags::DATA;
        active.closed = flags == Flags::CLOSE;
        assert!(active.end + u64::from(BLOCK_SIZE) <= self.segment_size, "the seal needs a block");

        let durable = self.method == SyncMethod::Dsync;
        self.stats.entries += 1;
        self.stats.bytes += buf.len() as u64;
        self.stats.controls += u64::from(open.controls());
        let records = open.records();
        self.stats.records += records;
        self.tally().seal(records, now.mono_us);
        self.tallies.push_back(Tally::default());
        self.stats.syncs += u64::from(durable);
        let ordinal = self.open_ordinal;
        self.open_ordinal += 1;
        self.in_flight.push_back(InFlight {
            ordinal,
            place,
            time_us: self.time_us,
            sections,
            bytes: Bytes::new(),
            state: State::Writing,
            started_us: now.mono_us,
            parts: open.parts(),
        });
        let segment = place.segment;
        (Work::Entry(ordinal), OpKind::Write { segment, offset, buf, durable })
    }

    fn encode(&mut self, open: &OpenEntry, flags: Flags) -> (Buf, Vec<SectionHead>, Place) {
        let active = self.active.as_mut().expect("an entry needs a segment");
        let place = Place {
            engine: self.engine,
            shard: self.shard,
            segment: active.segment,
            entry: active.entries,
            offset: u32::try_from(active.end).expect("a segment's size fits 32 bits"),
        };
        let head = EntryHead {
            place,
            flags,
            previous_digest: active.digest,
            time_us: self.time_us,
            durable: active.durable,
        };
        let (buf, sections, digest) = open.encode(&mut self.pool, &mut self.packer, &head);
        active.digest = digest;
        (buf, sections, place)
    }

    /// A write completed, whole. Returns the entries that are durable now, in order.
    ///
    /// `quiet_since_us` says since when the device has had nothing else to do: a write that waited
    /// behind other work says nothing about the method.
    pub fn entry_written(
        &mut self,
        ordinal: u64,
        buf: Buf,
        quiet_since_us: u64,
        now_us: u64,
    ) -> Vec<InFlight> {
        let entry = self.in_flight.iter_mut().find(|entry| entry.ordinal == ordinal);
        let entry = entry.expect("only entries in flight complete");
        assert_eq!(entry.state, State::Writing);
        entry.bytes = buf.freeze();
        entry.state = match self.method {
            SyncMethod::Dsync => State::Durable,
            SyncMethod::Fdatasync => State::Written,
        };
        let took_us = now_us.saturating_sub(entry.started_us);
        let index = usize::try_from(ordinal - self.durable_ordinal).expect("few are in flight");
        self.tallies[index].written(took_us);
        let small = entry.bytes.len() < ENTRY_SIZE_SMALL as usize;
        if small && quiet_since_us <= entry.started_us {
            self.policy.took(took_us);
        }
        self.take_durable()
    }

    /// The sync completed. Returns the entries that are durable now, in order.
    pub fn synced(&mut self) -> Vec<InFlight> {
        let below = self.syncing.take().expect("a sync was under way");
        for entry in self.in_flight.iter_mut().take_while(|entry| entry.ordinal < below) {
            // It completed before the sync was submitted: poll_sync() looked.
            assert_ne!(entry.state, State::Writing);
            entry.state = State::Durable;
        }
        self.take_durable()
    }

    fn take_durable(&mut self) -> Vec<InFlight> {
        let mut durable = Vec::new();
        while self.in_flight.front().is_some_and(|entry| entry.state == State::Durable) {
            let entry = self.in_flight.pop_front().expect("there is a front");
            assert_eq!(entry.ordinal, self.durable_ordinal);
            self.durable_ordinal += 1;
            let active = self.active.as_mut().expect("entries stand in the active segment");
            assert_eq!(active.durable, entry.place.entry);
            active.durable += 1;
            durable.push(entry);
        }
        durable
    }

    /// The last block of the active segment: the journal goes on in `next`. Not an entry in flight:
    /// nothing is acknowledged by it.
    pub fn seal_segment(&mut self, next: SegmentId) -> OpKind {
        assert!(self.is_quiet());
        let mut open = OpenEntry::default();
        open.put_control(&Control::Seal { next });
        let offset = self.active.expect("only an active segment is sealed").end;
        let (buf, _, place) = self.encode(&open, Flags::SEAL);
        assert!(offset + buf.len() as u64 <= self.segment_size);
        self.stats.syncs += 1;
        OpKind::Write { segment: place.segment, offset, buf, durable: true }
    }

    /// Header and manifest of a new segment, one durable write, and the segment as it is then.
    pub fn begin_segment(
        &mut self,
        segment: SegmentId,
        previous: (SegmentId, u64, u64),
        manifest: &[(BytesMut, u32)],
        now: Now,
    ) -> (OpKind, Active) {
        assert!(self.is_quiet());
        self.time_us = self.time_us.max(now.wall_us);
        let header = SegmentHeader {
            version: VERSION,
            engine: self.engine,
            shard: self.shard,
            segment,
            segment_size: self.segment_size,
            entry_size_max: self.entry_size_max,
            entries_in_flight_max: ENTRIES_IN_FLIGHT_MAX,
            previous: previous.0,
            previous_end: previous.1,
            previous_digest: previous.2,
            created_us: self.time_us,
        };
        let (block, mut digest) = header.encode();
        let entries = manifest.iter().map(|(bytes, _)| entry_size(1, bytes.len() as u64));
        let size = u64::from(BLOCK_SIZE) + entries.sum::<u64>();
        let size = usize::try_from(size).expect("64-bit platforms only");
        let (engine, shard, time_us) = (self.engine, self.shard, self.time_us);
        let (mut entry, packer) = (0, &mut self.packer);
        let buf = self.pool.build(size, |out| {
            out.put_slice(&block);
            for (index, (bytes, count)) in manifest.iter().enumerate() {
                let last = index + 1 == manifest.len();
                let offset = u32::try_from(out.len()).expect("a segment's size fits 32 bits");
                let head = EntryHead {
                    place: Place { engine, shard, segment, entry, offset },
                    flags: if last { Flags::MANIFEST_END } else { Flags::MANIFEST },
                    previous_digest: digest,
                    time_us,
                    durable: 0,
                };
                let sections: [RecordsIn<'_, StagedRecord>; 0] = [];
                digest = put_entry(out, &head, (bytes, *count), &sections, packer).1;
                entry += 1;
            }
        });
        self.stats.syncs += 1;
        let end = buf.len() as u64;
        let active = Active {
            segment,
            end,
            entries: entry,
            digest,
            durable: entry,
            covered: true,
            closed: false,
        };
        (OpKind::Write { segment, offset: 0, buf, durable: true }, active)
    }

    /// Bytes that records in a manifest's entry may take.
    #[must_use]
    pub fn manifest_entry_room(&self) -> u64 {
        u64::from(self.entry_size_max) - (HEADER_SIZE + SECTION_SIZE) as u64
    }
}
