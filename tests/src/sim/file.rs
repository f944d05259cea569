//! The content of one simulated file: what reads see, what survives, and what lies between.
//!
//! ```text
//! write completes -> live                      (reads see it)
//!                    unsynced --sync--> durable (a power cut keeps it)
//!                        '--power cut--> each 512-byte sector: lost or not, in any combination
//! ```
//!
//! - `durable` with all of `unsynced` applied in order is `live`; so is a length that was cut off.
//! - A sector is never half written (`docs/format.md` relies on it for an entry's header).
//!
//! Not here: when writes complete (`disk`), names (`names`), damage (`damage`).

use std::ops::Range;

use crate::rng::Rng;

/// What a device writes whole or not at all.
pub const SECTOR: usize = 512;

/// A write that no sync has covered.
#[derive(Clone, Debug)]
struct Unsynced {
    offset: usize,
    bytes: Vec<u8>,
    /// When its completion was delivered; only a sync submitted later covers it.
    done_at: u64,
}

/// See the module's head.
#[derive(Clone, Debug, Default)]
pub struct SimFile {
    live: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Unsynced>,
    /// Where reads may see what is not durable.
    shown: Vec<Range<usize>>,
    /// The live file is shorter; no sync has covered that.
    cut: bool,
    /// What stood in it when it was last named a segment; nothing if that was zeros.
    before: Vec<u8>,
    used: bool,
}

/// What became of a write at a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// No sector of it is there.
    Lost,
    /// All of it is there.
    Whole,
    /// Some sectors are there.
    Torn,
}

impl SimFile {
    /// `size` zeros, durable.
    #[must_use]
    pub fn zeros(size: usize) -> Self {
        Self { live: vec![0; size], durable: vec![0; size], ..Self::default() }
    }

    /// What reads see.
    #[must_use]
    pub fn live(&self) -> &[u8] {
        &self.live
    }

    /// It is a segment from now on; what stands in it has no meaning any more.
    pub fn named_anew(&mut self) {
        if self.used {
            self.before.clone_from(&self.live);
        }
    }

    /// What stood at `offset` before the file became this segment.
    #[must_use]
    pub fn stale(&self, offset: usize, len: usize) -> Vec<u8> {
        self.before.get(offset..offset + len).map_or_else(|| vec![0; len], <[u8]>::to_vec)
    }

    /// Reads see these bytes from now on; whether they survive is another matter.
    pub fn show(&mut self, offset: usize, bytes: &[u8]) {
        let range = offset..offset + bytes.len();
        self.live[range.clone()].copy_from_slice(bytes);
        self.shown.push(range);
        self.used = true;
    }

    /// A plain write completed.
    pub fn written(&mut self, offset: usize, bytes: &[u8], done_at: u64) {
        self.show(offset, bytes);
        self.unsynced.push(Unsynced { offset, bytes: bytes.to_vec(), done_at });
    }

    /// A durable write completed: it alone is durable, whatever was written before it.
    pub fn written_durably(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        self.live[offset..end].copy_from_slice(bytes);
        self.durable[offset..end].copy_from_slice(bytes);
        self.used = true;
        // What an older write would have put there can no longer get there.
        for old in std::mem::take(&mut self.unsynced) {
            let old_end = old.offset + old.bytes.len();
            let mut keep = |begin: usize, end: usize| {
                if begin < end {
                    let bytes = old.bytes[begin - old.offset..end - old.offset].to_vec();
                    self.unsynced.push(Unsynced { offset: begin, bytes, done_at: old.done_at });
                }
            };
            keep(old.offset, old_end.min(offset));
            keep(old.offset.max(end), old_end);
        }
    }

    /// Nobody needs these bytes any more: `bytes` stand there now, after a power cut perhaps what
    /// stood there before, each sector for itself.
    pub fn punched(&mut self, offset: usize, bytes: &[u8], salt: u64) {
        self.show(offset, bytes);
        for (sector, part) in bytes.chunks(SECTOR).enumerate() {
            if crate::rng::mix(salt ^ sector as u64) & 1 == 0 {
                let at = offset + sector * SECTOR;
                self.durable[at..at + part.len()].copy_from_slice(part);
            }
        }
    }

    /// A sync that was submitted at `begun_at` completed. Says what it made durable.
    pub fn synced(&mut self, begun_at: u64) -> Vec<Range<usize>> {
        if std::mem::take(&mut self.cut) {
            self.durable.truncate(self.live.len());
        }
        let mut durable = Vec::new();
        for write in std::mem::take(&mut self.unsynced) {
            if write.done_at < begun_at {
                let range = write.offset..write.offset + write.bytes.len();
                self.durable[range.clone()].copy_from_slice(&write.bytes);
                durable.push(range);
            } else {
                self.unsynced.push(write);
            }
        }
        durable
    }

    /// Cut off; durable with the next sync.
    pub fn shorten(&mut self, len: usize) {
        if len >= self.live.len() {
            return;
        }
        self.live.truncate(len);
        self.cut = true;
        for write in &mut self.unsynced {
            write.bytes.truncate(len.saturating_sub(write.offset));
        }
        self.unsynced.retain(|write| !write.bytes.is_empty());
        self.shown.iter_mut().for_each(|range| range.end = range.end.min(len));
        self.shown.retain(|range| !range.is_empty());
    }

    /// The medium itself holds other bytes from now on. Gives those that stood there.
    pub fn replace(&mut self, offset: usize, bytes: &[u8]) -> Vec<u8> {
        let range = offset..offset + bytes.len();
        let old = self.live[range.clone()].to_vec();
        self.live[range.clone()].copy_from_slice(bytes);
        self.durable[range].copy_from_slice(bytes);
        old
    }

    /// Someone cut the file off, or put its end back.
    pub fn set_end(&mut self, len: usize, end: &[u8]) {
        for bytes in [&mut self.live, &mut self.durable] {
            bytes.truncate(len);
            bytes.extend_from_slice(end);
        }
        self.unsynced.retain(|write| write.offset + write.bytes.len() <= len);
        self.shown.retain(|range| range.end <= len);
    }

    /// Power cut: of all that was not synced, and of `in_flight`, chance decides.
    pub fn cut_power(&mut self, in_flight: &[(usize, Vec<u8>)], rng: &mut Rng) -> Vec<Fate> {
        if std::mem::take(&mut self.cut) {
            if rng.one_in(2) {
                self.durable.truncate(self.live.len());
            } else {
                self.live.clone_from(&self.durable);
            }
        }
        let mut fates = Vec::new();
        let unsynced = std::mem::take(&mut self.unsynced);
        let unsynced = unsynced.iter().map(|write| (write.offset, &write.bytes));
        for (offset, bytes) in unsynced.chain(in_flight.iter().map(|(at, bytes)| (*at, bytes))) {
            let (fate, kept) = draw(bytes.len(), rng);
            for (sector, part) in bytes.chunks(SECTOR).enumerate() {
                if kept(sector) {
                    let at = offset + sector * SECTOR;
                    self.durable[at..at + part.len()].copy_from_slice(part);
                }
            }
            self.shown.push(offset..offset + bytes.len());
            fates.push(fate);
        }
        for range in std::mem::take(&mut self.shown) {
            self.live[range.clone()].copy_from_slice(&self.durable[range]);
        }
        fates
    }

    /// A write failed, or its process was killed: some of it is there, all of it if reads saw it.
    pub fn write_in_part(&mut self, offset: usize, bytes: &[u8], done_at: u64, rng: &mut Rng) {
        let (_, kept) = draw(bytes.len(), rng);
        let seen = self.live[offset..offset + bytes.len()] == *bytes;
        for (sector, part) in bytes.chunks(SECTOR).enumerate() {
            if seen || kept(sector) {
                self.written(offset + sector * SECTOR, part, done_at);
            }
        }
    }

    /// The process was killed: what reads see stays, and a sync of the next process covers it.
    pub fn kill(&mut self, in_flight: &[(usize, Vec<u8>)], rng: &mut Rng) {
        for (offset, bytes) in in_flight {
            self.write_in_part(*offset, bytes, 0, rng);
        }
        for write in &mut self.unsynced {
            write.done_at = 0;
        }
    }
}

/// Which sectors of a write arrive. All or nothing are as likely as everything between.
fn draw(len: usize, rng: &mut Rng) -> (Fate, impl Fn(usize) -> bool) {
    let sectors = len.div_ceil(SECTOR);
    let salt = rng.number();
    let cut = rng.index(sectors);
    let (fate, how) = match rng.below(6) {
        0 | 1 => (Fate::Lost, 0),
        2 => (Fate::Whole, 1),
        3 => (Fate::Torn, 2),
        4 => (Fate::Torn, 3),
        _ => (Fate::Torn, 4),
    };
    let kept = move |sector: usize| match how {
        0 => false,
        1 => true,
        2 => crate::rng::mix(salt ^ sector as u64) & 1 == 0,
        // A prefix, and all but one sector: the ways real devices tear most often.
        3 => sector < cut,
        _ => sector != cut,
    };
    (fate, kept)
}
