//! One simulated file: what reads see, what survives, and what lies between.
//!
//! ```text
//! write completes -> live                      (reads see it)
//!                    unsynced --sync--> durable (a power cut keeps it)
//!                        '--power cut--> each 512-byte sector: lost or not, in any combination
//! ```
//!
//! - `durable` with all of `unsynced` applied in order is `live`, except for bits that rotted.
//! - A sector is never half written (`docs/format.md` relies on it for an entry's header).
//!
//! Not here: when writes complete (`sim_disk`).

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
    /// Reads may see what is not durable.
    shown: bool,
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

    /// Reads see these bytes from now on; whether they survive is another matter.
    pub fn show(&mut self, offset: usize, bytes: &[u8]) {
        self.live[offset..offset + bytes.len()].copy_from_slice(bytes);
        self.shown = true;
    }

    /// A plain write completed.
    pub fn written(&mut self, offset: usize, bytes: &[u8], done_at: u64) {
        self.show(offset, bytes);
        self.unsynced.push(Unsynced { offset, bytes: bytes.to_vec(), done_at });
    }

    /// A durable write completed: it alone is durable, whatever was written before it.
    pub fn written_durably(&mut self, offset: usize, bytes: &[u8]) {
        self.show(offset, bytes);
        self.durable[offset..offset + bytes.len()].copy_from_slice(bytes);
        // What an older write would have put there can no longer get there.
        let end = offset + bytes.len();
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

    /// A sync that was submitted at `begun_at` completed. Says what it made durable.
    pub fn synced(&mut self, begun_at: u64) -> Vec<std::ops::Range<usize>> {
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

    /// Cut off, durably.
    pub fn shorten(&mut self, len: usize) {
        self.live.truncate(len);
        self.durable.truncate(len);
        for write in &mut self.unsynced {
            write.bytes.truncate(len.saturating_sub(write.offset));
        }
        self.unsynced.retain(|write| !write.bytes.is_empty());
    }

    /// One bit is another from now on, on the medium itself.
    pub fn rot(&mut self, offset: usize, bit: u8) {
        self.live[offset] ^= 1 << bit;
        self.durable[offset] ^= 1 << bit;
    }

    /// Power cut: of all that was not synced, and of `in_flight`, chance decides.
    pub fn cut_power(&mut self, in_flight: &[(usize, Vec<u8>)], rng: &mut Rng) -> Vec<Fate> {
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
            fates.push(fate);
        }
        if std::mem::take(&mut self.shown) || !fates.is_empty() {
            self.live.clone_from(&self.durable);
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
