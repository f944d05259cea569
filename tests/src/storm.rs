//! What the clients of a storm write, so that whoever reads it knows every byte beforehand.
//!
//! ```text
//! w0/log w1/log      single records, many in flight
//! b/0 b/1 b/2        batch n: one record in the first, two in the second, three in the third
//! <g>/in -> <g>/p -> <g>/out     a processor for each group g: state, outputs and position
//! ```
//!
//! A record's payload follows from its log and its sequence. A state is a count of records and a
//! fold over them, written as a delta, or as a snapshot of several parts.
//!
//! Not here: who writes (`kill_worker`), and looking whether all of it is there (`check`).

pub mod check;

use oncelog::{Bytes, Commit, Epoch, Restored};

use crate::rng::{Rng, mix};

/// Logs of single records.
pub const SINGLES: [&str; 2] = ["w0/log", "w1/log"];
/// Logs that are written in batches.
pub const BATCHED: [&str; 3] = ["b/0", "b/1", "b/2"];
/// Groups with a processor: the last one changes hands all the time.
pub const GROUPS: [&str; 3] = ["p0", "p1", "take"];

const SNAPSHOT_SIZE: usize = 150_000;
/// Every so many commits carry a snapshot.
const SNAPSHOT_EVERY: u64 = 9;

/// The record of a log at a sequence.
#[must_use]
pub fn payload(log: &str, sequence: u64) -> Bytes {
    let name = log.bytes().fold(0, |sum, byte| mix(sum ^ u64::from(byte)));
    let mut rng = Rng::new(name ^ mix(sequence));
    let len = if rng.one_in(40) { rng.below(20_000) } else { rng.below(700) };
    filler(rng.number(), usize::try_from(len).expect("small"))
}

/// The record of a log that is to fill a disk.
#[must_use]
pub fn block(sequence: u64, len: usize) -> Bytes {
    filler(mix(sequence), len)
}

fn filler(seed: u64, len: usize) -> Bytes {
    let mut rng = Rng::new(seed);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend(rng.number().to_le_bytes());
    }
    bytes.truncate(len);
    bytes.into()
}

/// A state: how many records were processed, and a fold over them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// How many.
    pub count: u64,
    /// Of their sequences.
    pub fold: u64,
}

impl State {
    /// Takes the next record in.
    pub fn add(&mut self) {
        self.fold = mix(self.fold ^ self.count);
        self.count += 1;
    }

    /// After so many records.
    #[must_use]
    pub fn after(count: u64) -> Self {
        let mut state = Self::default();
        (0..count).for_each(|_| state.add());
        state
    }

    /// The commit of a step to this state, without outputs.
    pub fn commit(self, before: Self, number: u64) -> Commit {
        if number.is_multiple_of(SNAPSHOT_EVERY) {
            let mut bytes = numbers(&[self.count, self.fold]);
            bytes.extend(filler(self.count, SNAPSHOT_SIZE));
            return Commit::new().snapshot(bytes);
        }
        Commit::new().delta(numbers(&[before.count, self.count, self.fold]))
    }

    /// What was committed last.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn restore(restored: &Restored) -> Result<Self, String> {
        let mut state = Self::default();
        if let Some(snapshot) = &restored.snapshot {
            let [count, fold] = split(snapshot.get(..16).unwrap_or_default())?;
            if snapshot[16..] != filler(count, SNAPSHOT_SIZE) {
                return Err(format!("the snapshot at {count} has other bytes"));
            }
            state = Self { count, fold };
        }
        for delta in &restored.deltas {
            let [before, count, fold] = split(delta)?;
            if before != state.count {
                return Err(format!("a delta from {before} follows {}", state.count));
            }
            state = Self { count, fold };
        }
        if state != Self::after(state.count) {
            return Err(format!("another state at {}", state.count));
        }
        if state.count != restored.positions[0].next.get() {
            return Err(format!("{state:?}, but the position is {:?}", restored.positions));
        }
        Ok(state)
    }
}

/// What a commit puts out: from where to where, and who did it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Output {
    /// Records before.
    pub from: u64,
    /// Records after.
    pub to: u64,
    /// The owner.
    pub epoch: u64,
}

impl Output {
    /// As a record.
    #[must_use]
    pub fn record(from: State, to: State, epoch: Epoch) -> Vec<u8> {
        numbers(&[from.count, to.count, epoch.get()])
    }

    /// The record's meaning.
    ///
    /// # Errors
    /// It has none.
    pub fn of(record: &[u8]) -> Result<Self, String> {
        let [from, to, epoch] = split(record)?;
        Ok(Self { from, to, epoch })
    }

    /// Whether it may come behind `before`, or be the first at `sequence`.
    ///
    /// # Errors
    /// Why not.
    pub fn follows(self, before: Option<Self>, sequence: u64) -> Result<(), String> {
        let start = if sequence == 0 { Some(0) } else { before.map(|before| before.to) };
        let fits = start.is_none_or(|start| start == self.from) && self.from < self.to;
        if fits && before.is_none_or(|before| before.epoch <= self.epoch) {
            return Ok(());
        }
        Err(format!("output {sequence}: {self:?} comes behind {before:?}"))
    }
}

fn numbers(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn split<const N: usize>(bytes: &[u8]) -> Result<[u64; N], String> {
    let (parts, rest) = bytes.as_chunks::<8>();
    let numbers: Vec<u64> = parts.iter().map(|part| u64::from_le_bytes(*part)).collect();
    let parts = numbers.try_into().ok().filter(|_| rest.is_empty());
    parts.ok_or_else(|| format!("{} bytes are not {N} numbers", bytes.len()))
}
