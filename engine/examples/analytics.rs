//! A closed range of a log, added up by several threads: docs/tutorials/analytics.md
//!
//! ```text
//! cargo run --release --example analytics
//! ```

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use oncelog::{From, Log, LogSegment, Options, Sequence};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const RECORDS: u64 = 200_000;
const BATCH: u64 = 1000;
const THREADS: u64 = 4;

/// What one pass finds out. Parts of a range can be merged, in any order.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sums {
    records: u64,
    cents: u64,
    largest: u64,
}

impl Sums {
    fn merge(self, other: Self) -> Self {
        Self {
            records: self.records + other.records,
            cents: self.cents + other.cents,
            largest: self.largest.max(other.largest),
        }
    }
}

fn main() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let engine = Options::new(dir.path()).shards(1).segment_size(1 << 20).open()?;
    let sales = engine.create_log("shop/sales").wait()?;
    append(&sales, 0..RECORDS)?;
    sales.truncate(Sequence::new(10_000)).wait()?;

    // The range is closed here: what comes later does not belong to it.
    let parts = sales.segments().wait()?;
    let (Some(oldest), Some(newest)) = (parts.first(), parts.last()) else {
        return Err("no sales".into());
    };
    let range = oldest.first.get()..newest.next.get();
    println!("range: records {} to {}", range.start, range.end - 1);
    append(&sales, RECORDS..RECORDS + 5 * BATCH)?;

    let alone = add_up(&sales, range.clone())?;
    println!("one thread:  {alone:?}");

    // Each thread takes the next segment that nobody has taken.
    let taken = AtomicUsize::new(0);
    let together = thread::scope(|scope| {
        let threads: Vec<_> =
            (0..THREADS).map(|_| scope.spawn(|| add_up_parts(&sales, &parts, &taken))).collect();
        let sums = threads.into_iter().map(|thread| thread.join().expect("it does not panic"));
        sums.collect::<Result<Vec<Sums>>>()
    })?;
    assert!(parts.len() > 1 && taken.into_inner() >= parts.len());
    let together = together.into_iter().fold(Sums::default(), Sums::merge);
    println!("{THREADS} threads:   {together:?}");

    assert_eq!(alone, together);
    let expected = range.clone().map(cents).sum::<u64>();
    assert_eq!((alone.records, alone.cents), (range.end - range.start, expected));
    engine.close().wait()?;
    Ok(())
}

/// The segments that this thread gets: they touch each other, so nothing is read twice or left out.
fn add_up_parts(sales: &Log, parts: &[LogSegment], taken: &AtomicUsize) -> Result<Sums> {
    let mut sums = Sums::default();
    while let Some(part) = parts.get(taken.fetch_add(1, Ordering::Relaxed)) {
        sums = sums.merge(add_up(sales, part.first.get()..part.next.get())?);
    }
    Ok(sums)
}

/// One pass over the records of a range.
fn add_up(sales: &Log, range: Range<u64>) -> Result<Sums> {
    let mut sums = Sums::default();
    let mut reader = sales.reader(From::Sequence(Sequence::new(range.start)));
    let mut next = range.start;
    while next < range.end {
        let records = reader.next().wait()?;
        next = records.end_sequence().get();
        // The last batch may reach beyond the range.
        for record in records.take_while(|record| record.sequence.get() < range.end) {
            let cents = u64::from_le_bytes(record.payload[..].try_into()?);
            let one = Sums { records: 1, cents, largest: cents };
            sums = sums.merge(one);
        }
    }
    Ok(sums)
}

fn append(sales: &Log, range: Range<u64>) -> Result<()> {
    let batches = range.step_by(BATCH as usize).map(|first| {
        let numbers = first..first + BATCH;
        sales.append_batch(numbers.map(|n| cents(n).to_le_bytes().to_vec()))
    });
    // All of them are under way before the first is waited for.
    let pending: Vec<_> = batches.collect();
    pending.into_iter().try_for_each(|batch| batch.wait().map(drop))?;
    Ok(())
}

/// What sale `n` brought.
fn cents(n: u64) -> u64 {
    n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 50
}
