//! What the recorded program writes: every payload, size and state is a function of the seed, so
//! that whoever looks at a directory afterwards knows what must stand there.
//!
//! ```text
//! g/source --processor g/sum--> g/out        position, sum over all records, one output a commit
//! g/left, g/right                            batches over both
//! g/short-lived                              made, dropped, made again
//! other/aside                                on the other shard
//! ```
//!
//! Not here: running it (`bin/recorded_worker`), and what must hold (`check`).

use crate::rng::mix;

/// Shards of the engine.
pub const SHARDS: u16 = 2;
/// Bytes of each segment.
pub const SEGMENT_SIZE: u64 = 1 << 20;
/// What the processor reads.
pub const SOURCE: &str = "g/source";
/// What it writes.
pub const OUT: &str = "g/out";
/// What batches go to.
pub const PAIR: [&str; 2] = ["g/left", "g/right"];
/// A log that comes and goes.
pub const SHORT_LIVED: &str = "g/short-lived";
/// A log of another shard.
pub const ASIDE: &str = "other/aside";
/// The processor.
pub const SUM: &str = "g/sum";
/// Records of the source in each of the two lives of an engine.
pub const SOURCE_RECORDS: u64 = 110;
/// Batches in each life.
pub const BATCHES: u64 = 30;
/// Records of each incarnation of the short-lived log, and of the other shard's in each life.
pub const FEW_RECORDS: u64 = 6;

/// Draws what the seed gives to something.
fn draw(seed: u64, name: &str, generation: u64, number: u64) -> u64 {
    let name = name.bytes().fold(seed, |hash, byte| mix(hash ^ u64::from(byte)));
    mix(mix(name ^ generation) ^ number)
}

/// The payload of a record: it says what it is, and is filled up with a byte that is never 0.
#[must_use]
pub fn payload(seed: u64, name: &str, generation: u64, sequence: u64) -> Vec<u8> {
    let drawn = draw(seed, name, generation, sequence);
    let len = match drawn % 8 {
        0 => 16_000 + drawn / 8 % 24_000,
        1..4 => 1_000 + drawn / 8 % 6_000,
        _ => drawn / 8 % 600,
    };
    let head = format!("{name} {generation} {sequence} ");
    filled(head, len, drawn)
}

fn filled(head: String, len: u64, drawn: u64) -> Vec<u8> {
    let mut bytes = head.into_bytes();
    let len = usize::try_from(len).expect("small").max(bytes.len());
    bytes.resize(len, 1 + (drawn >> 32) as u8 % 255);
    bytes
}

/// How many records batch `number` has for the left and for the right log.
#[must_use]
pub fn batch(seed: u64, number: u64) -> [u64; 2] {
    let drawn = draw(seed, "batch", 0, number);
    [1 + drawn % 3, 1 + drawn / 3 % 2]
}

/// The sequences of both logs behind the first `count` batches.
#[must_use]
pub fn batches(seed: u64, count: u64) -> [u64; 2] {
    (0..count).map(|number| batch(seed, number)).fold([0, 0], |[a, b], [c, d]| [a + c, b + d])
}

/// The sum over the first `end` records of the source.
#[must_use]
pub fn sum(seed: u64, end: u64) -> u64 {
    (0..end).fold(seed, |sum, sequence| add(sum, &payload(seed, SOURCE, 0, sequence)))
}

/// The sum with one more record.
#[must_use]
pub fn add(sum: u64, payload: &[u8]) -> u64 {
    let last = payload.last().copied().unwrap_or_default();
    mix(sum ^ mix(payload.len() as u64) ^ u64::from(last))
}

/// Whether the commit to this position replaces the state.
#[must_use]
pub fn is_snapshot(seed: u64, to: u64) -> bool {
    draw(seed, "snapshot", 0, to).is_multiple_of(5)
}

/// State or output of a commit: numbers, and what fills it up to some length.
#[must_use]
pub fn numbers(seed: u64, kind: &str, from: u64, to: u64, sum: u64) -> Vec<u8> {
    let drawn = draw(seed, kind, from, to);
    // Snapshots beyond 64 KiB are written in parts.
    let len = if kind == "snapshot" { drawn % 160_000 } else { drawn % 3_000 };
    filled(format!("{kind} {from} {to} {sum} "), len, drawn)
}

/// The numbers of a state or output, if it is what a commit would have written.
#[must_use]
pub fn parse(seed: u64, kind: &str, bytes: &[u8]) -> Option<[u64; 3]> {
    let mut words = bytes.split(|byte| *byte == b' ');
    let mut word = || std::str::from_utf8(words.next()?).ok();
    let found = word()?;
    let mut number = || word()?.parse::<u64>().ok();
    let [from, to, sum] = [number()?, number()?, number()?];
    let whole = found == kind && numbers(seed, kind, from, to, sum) == bytes;
    whole.then_some([from, to, sum])
}
