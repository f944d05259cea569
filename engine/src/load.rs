//! Getting the index of a sealed segment: from its side file, or from the segment itself.
//!
//! ```text
//! load -> side file whole and ours? -> cache -> waiters go on
//!              | no
//!              '-> read the segment from its beginning -> index -> cache, side file written anew
//! ```
//!
//! A side file proves nothing (F-15). Reading the segment again skips places that are damaged: the
//! records there are missing from the index, and a read of them says so.
//!
//! Not here: what an index holds (`index`), and who needs it (`read`, `retention`).

use bytes::Bytes;

use crate::error::ReadError;
use crate::format::control::Control;
use crate::format::entry::{Entry, Flags};
use crate::format::header::SegmentHeader;
use crate::index::SegmentIndex;
use crate::io::{Completion, OpKind, Side};
use crate::limits::{BLOCK_SIZE, MIB};
use crate::position::{LogId, SegmentId, Sequence};
use crate::replay::control_records;
use crate::scan::{Scan, Step};
use crate::shard::{Purpose, ReadFor, Shard};

/// Who waits for an index.
pub(crate) enum Waiter {
    Read(u64),
    /// What this segment holds is looked for.
    Retention(SegmentId),
    /// What may go by itself is looked for.
    Expiry,
    /// Where the space is, is looked for.
    Usage,
}

/// An index on its way.
pub(crate) struct Load {
    waiters: Vec<Waiter>,
    rebuild: Option<Rebuild>,
    /// Only the segment itself will do.
    distrusts_side: bool,
}

/// A segment that is being read to make its index.
struct Rebuild {
    end: u64,
    read: u64,
    scan: Option<Scan>,
    content: Content,
}

/// What was found in it so far.
#[derive(Default)]
struct Content {
    /// From the manifest, until the first entry behind it.
    starts: Vec<(LogId, Sequence, u64)>,
    index: Option<SegmentIndex>,
    holes: bool,
}

impl Content {
    fn add(&mut self, entry: &Entry, bytes: &Bytes) {
        if entry.head.flags.has(Flags::MANIFEST) {
            let rows = entry.sections_match(bytes).then(|| control_records(entry, bytes)).flatten();
            self.holes |= rows.is_none();
            self.starts.extend(rows.iter().flatten().filter_map(|row| match row {
                Control::ManifestLog(log) => Some((log.log, log.next, log.bytes)),
                _ => None,
            }));
        } else {
            self.index().add_entry(entry);
        }
    }

    fn index(&mut self) -> &mut SegmentIndex {
        let (starts, holes) = (&mut self.starts, self.holes);
        self.index.get_or_insert_with(|| {
            let mut index = SegmentIndex::begin(starts.drain(..));
            if holes {
                index.set_holes();
            }
            index
        })
    }
}

impl Shard {
    /// The waiter goes on once the segment's index is in the cache.
    pub(crate) fn load(&mut self, segment: SegmentId, waiter: Waiter) {
        self.count_miss(&waiter);
        if let Some(load) = self.reads.loads.get_mut(&segment) {
            return load.waiters.push(waiter);
        }
        self.metrics.counted.index_loads += 1;
        let load = Load { waiters: vec![waiter], rebuild: None, distrusts_side: false };
        self.reads.loads.insert(segment, load);
        let kind = OpKind::ReadSide { segment, side: Side::Index };
        self.reads.queue_side(segment, kind);
    }

    /// As [`load`](Self::load), but from the segment itself.
    pub(crate) fn rebuild(&mut self, segment: SegmentId, waiter: Waiter) {
        if let Some(load) = self.reads.loads.get_mut(&segment) {
            // Its side file may be under way: it will not do.
            load.distrusts_side = true;
            return load.waiters.push(waiter);
        }
        let load = Load { waiters: vec![waiter], rebuild: None, distrusts_side: true };
        self.reads.loads.insert(segment, load);
        self.start_rebuild(segment);
    }

    /// A read that waits for several indexes is one that missed.
    fn count_miss(&mut self, waiter: &Waiter) {
        if let Waiter::Read(id) = waiter
            && let Some(job) = self.reads.jobs.get_mut(id)
            && !std::mem::replace(&mut job.missed_index, true)
        {
            self.metrics.counted.index_misses += 1;
        }
    }

    fn start_rebuild(&mut self, segment: SegmentId) {
        self.metrics.counted.index_rebuilds += 1;
        let end = self.catalog.segment(segment).expect("only sealed segments are loaded").end;
        let load = self.reads.loads.get_mut(&segment).expect("it is being loaded");
        let content = Content::default();
        load.rebuild = Some(Rebuild { end, read: 0, scan: None, content });
        self.read_chunk(segment);
    }

    fn read_chunk(&mut self, segment: SegmentId) {
        let load = &self.reads.loads[&segment];
        let rebuild = load.rebuild.as_ref().expect("it is being rebuilt");
        let len = (rebuild.end - rebuild.read).min(MIB.into());
        let offset = rebuild.read;
        self.reads.enqueue(Purpose::Read(ReadFor::Chunk(segment)), segment, offset, len, false);
    }

    /// The side file was read, or is not there.
    pub(crate) fn side_read(&mut self, segment: SegmentId, done: Completion) {
        self.reads.used(segment);
        let place = self.config.place(segment);
        let trusts = !self.reads.loads[&segment].distrusts_side;
        let side = done.result.ok().and(done.side).filter(|_| trusts);
        match side.and_then(|bytes| SegmentIndex::decode(bytes, &place)) {
            Some(index) => self.loaded(segment, index),
            None => self.start_rebuild(segment),
        }
    }

    /// The next bytes of the segment were read.
    pub(crate) fn chunk_read(&mut self, segment: SegmentId, done: Completion) {
        self.reads.used(segment);
        let count = match done.result {
            Ok(count) => count as usize,
            Err(source) => {
                let read = self.reads.loads[&segment].rebuild.as_ref().map_or(0, |r| r.read);
                let error = ReadError::Io { segment, offset: read, source };
                return self.load_failed(segment, &error);
            }
        };
        let buf = done.buf.expect("a read gives its buffer back");
        let place = self.config.place(segment);
        let load = self.reads.loads.get_mut(&segment).expect("it is being loaded");
        let rebuild = load.rebuild.as_mut().expect("it is being rebuilt");
        let mut bytes = &buf.as_slice()[..count];
        rebuild.read += count as u64;
        let last = count == 0 || rebuild.read >= rebuild.end;
        let scan = rebuild.scan.get_or_insert_with(|| {
            let (header, rest) = bytes.split_at(bytes.len().min(BLOCK_SIZE as usize));
            bytes = rest;
            let place = crate::format::Place { offset: BLOCK_SIZE, ..place };
            match SegmentHeader::decode(header).ok().filter(|(header, _)| header.is_of(&place)) {
                Some((_, digest)) => Scan::new(place, digest).of_tables(),
                None => Scan::new(place, 0).of_tables().unanchored(),
            }
        });
        scan.feed(bytes);
        loop {
            match scan.next(last) {
                Step::Entry(entry, bytes) => rebuild.content.add(&entry, &bytes),
                Step::Hole if u64::from(scan.place().offset) >= rebuild.end => break,
                Step::Hole => {
                    rebuild.content.holes = true;
                    if !scan.skip_hole(last) {
                        break;
                    }
                }
                Step::More => break,
            }
        }
        if !last {
            return self.read_chunk(segment);
        }
        let mut index = std::mem::take(rebuild.content.index());
        if rebuild.content.holes {
            index.set_holes();
        } else {
            let bytes = index.encode(&place);
            let write = OpKind::WriteSide { segment, side: Side::Index, bytes };
            self.queue.push_back((Purpose::Background("writing an index"), write));
        }
        self.loaded(segment, index);
    }

    fn loaded(&mut self, segment: SegmentId, index: SegmentIndex) {
        let load = self.reads.loads.remove(&segment).expect("it was being loaded");
        let (mut reads, mut cached) = (Vec::new(), self.cache.has(segment));
        let mut expires = false;
        for waiter in load.waiters {
            match waiter {
                Waiter::Read(job) => {
                    cached = true;
                    reads.push(job);
                }
                Waiter::Usage => self.usage_loaded(segment, Some(&index)),
                Waiter::Expiry => (cached, expires) = (true, true),
                Waiter::Retention(of) => {
                    // Once seen it is not needed again: indexes that reads use stay in the cache.
                    self.look(of, segment, &index);
                    self.retention_due = true;
                }
            }
        }
        if cached {
            self.cache.insert(segment, index);
        }
        if expires {
            self.expiry_loaded(true);
        }
        reads.into_iter().for_each(|job| self.advance_read(job));
    }

    fn load_failed(&mut self, segment: SegmentId, error: &ReadError) {
        let load = self.reads.loads.remove(&segment).expect("it was being loaded");
        for waiter in load.waiters {
            match waiter {
                Waiter::Read(job) => self.fail_read(job, error.clone()),
                Waiter::Retention(_) => self.pins.failed(),
                Waiter::Expiry => self.expiry_loaded(false),
                Waiter::Usage => self.usage_loaded(segment, None),
            }
        }
    }
}
