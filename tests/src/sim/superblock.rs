//! The simulated superblock: two copies with real bytes, written one after the other (F-3).
//!
//! ```text
//! begin: copy that does not count -> sync -> the other -> sync
//! open:  sync -> decode both -> the valid one with the higher generation counts
//! ```
//!
//! At every instant one copy is whole, unless both were damaged; the simulator damages one at a
//! time, and only where both say the same.
//!
//! Not here: the engine's own code for this file does real I/O (`oncelog::meta`) and is not run
//! here; it keeps the same order, and its unit tests damage either copy.

use oncelog::ShardId;
use oncelog::format::VERSION;
use oncelog::format::header::Superblock;
use oncelog::limits::{BLOCK_SIZE, SEGMENT_SIZE_MIN};

use crate::rng::Rng;
use crate::sim::file::{Fate, SimFile};

const BLOCK: usize = BLOCK_SIZE as usize;

/// See the module's head.
pub struct SimSuper {
    file: SimFile,
    current: Superblock,
    /// The copy that counts.
    newest: usize,
}

impl Default for SimSuper {
    fn default() -> Self {
        let current = Superblock {
            version: VERSION,
            engine: crate::sim::world::ENGINE,
            shard_count: 8,
            segment_size: SEGMENT_SIZE_MIN,
            generation: 1,
            created_us: 1,
            begun: [0; 32],
        };
        let mut file = SimFile::zeros(2 * BLOCK);
        let block = current.encode();
        file.written_durably(0, &block);
        file.written_durably(BLOCK, &block);
        Self { file, current, newest: 1 }
    }
}

impl SimSuper {
    /// A process begins: what does the file say?
    ///
    /// # Panics
    /// If no copy is valid.
    pub fn open(&mut self) {
        self.file.synced(u64::MAX);
        let copies = [0, 1].map(|copy| self.copy(copy));
        let (current, newest) = match copies {
            [Some(a), Some(b)] if a.generation > b.generation => (a, 0),
            [_, Some(b)] => (b, 1),
            [Some(a), None] => (a, 0),
            [None, None] => panic!("no copy of the superblock is whole"),
        };
        (self.current, self.newest) = (current, newest);
    }

    fn copy(&self, copy: usize) -> Option<Superblock> {
        Superblock::decode(&self.file.live()[copy * BLOCK..(copy + 1) * BLOCK]).ok()
    }

    /// Whether the shard has begun, as the process read it.
    #[must_use]
    pub fn has_begun(&self, shard: ShardId) -> bool {
        self.current.has_begun(shard)
    }

    /// One step of noting that the shard has begun: write, sync, write, sync.
    pub fn begin_step(&mut self, shard: ShardId, step: u32, now: u64) {
        let mut next = self.current.clone();
        next.generation += 1;
        next.set_begun(shard);
        let block = next.encode();
        match step {
            0 => self.file.written((1 - self.newest) * BLOCK, &block, now),
            2 => self.file.written(self.newest * BLOCK, &block, now),
            _ => drop(self.file.synced(u64::MAX)),
        }
        if step == 3 {
            (self.current, self.newest) = (next, 1);
        }
    }

    /// One copy is damaged, if the other is whole. Says whether.
    pub fn damage(&mut self, rng: &mut Rng) -> bool {
        let copy = rng.index(2);
        // Between its two writes, and after a crash there, only the newer copy knows that the shard
        // has begun: nothing but the next change writes the older one again.
        if self.copy(copy).is_none() || self.copy(0) != self.copy(1) {
            return false;
        }
        let offset = copy * BLOCK;
        if rng.one_in(2) {
            self.file.replace(offset, &[0; BLOCK]);
        } else {
            let at = offset + rng.index(128);
            let byte = self.file.live()[at] ^ (1 << rng.below(8));
            self.file.replace(at, &[byte]);
        }
        true
    }

    /// The power fails. Says whether a copy was lost or torn.
    pub fn cut_power(&mut self, rng: &mut Rng) -> bool {
        self.file.cut_power(&[], rng).iter().any(|fate| *fate != Fate::Whole)
    }

    /// The process is killed.
    pub fn kill(&mut self, rng: &mut Rng) {
        self.file.kill(&[], rng);
    }
}
