//! A materialised view: balances that follow a log of transfers: docs/tutorials/view.md
//!
//! ```text
//! bank/transfers -> processor bank/balances: BTreeMap -> queries, while it follows
//!                   a delta for each transfer, now and then a snapshot
//! ```
//!
//! ```text
//! cargo run --release --example view
//! ```

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex};
use std::thread;

use oncelog::{Commit, Engine, Log, Options, Restored};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const NAMES: [&str; 4] = ["ada", "bob", "cyd", "dan"];
const TRANSFERS: u64 = 1100;

type Balances = BTreeMap<String, i64>;

/// What queries see. It is never ahead of what is durable.
#[derive(Default)]
struct View {
    shown: Mutex<(u64, Balances)>,
    moved: Condvar,
}

impl View {
    fn show(&self, position: u64, change: &[(String, i64)]) {
        let mut shown = self.shown.lock().expect("nobody panicked");
        shown.0 = position;
        apply(&mut shown.1, change);
        self.moved.notify_all();
    }

    /// Balances that know of all records before `position`.
    fn at_least(&self, position: u64) -> (u64, Balances) {
        let shown = self.shown.lock().expect("nobody panicked");
        self.moved.wait_while(shown, |shown| shown.0 < position).expect("nobody panicked").clone()
    }
}

fn main() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let options = Options::new(dir.path()).shards(1).segment_size(1 << 20);
    let engine = options.clone().open()?;
    let transfers = engine.create_log("bank/transfers").wait()?;

    let view = View::default();
    let balances = thread::scope(|scope| {
        let follower = scope.spawn(|| follow(&engine, &view, TRANSFERS));
        let asked = write_and_ask(&transfers, &view)?;
        follower.join().expect("it does not panic")?;
        Result::Ok(asked)
    })?;
    engine.close().wait()?;
    drop((engine, transfers));

    // Again: the state comes back, the transfers are not read.
    let engine = options.open()?;
    let (_, restored) = engine.processor("bank/balances").open().wait()?;
    let (position, again) = (restored.positions[0].next, restore(&restored)?);
    let snapshot = restored.snapshot.as_ref().map_or(0, |bytes| bytes.len());
    println!("restarted: a snapshot of {snapshot} bytes, {} deltas", restored.deltas.len());
    let end = engine.open_log("bank/transfers").wait()?.describe().wait()?.next;
    println!("at {position} of {end}: {} transfers to read again", end.since(position));
    println!("balances {again:?}");
    assert_eq!(again, balances);
    assert_eq!(position, end);
    engine.close().wait()?;
    Ok(())
}

/// Appends transfers, and asks while the view is still busy with them.
fn write_and_ask(transfers: &Log, view: &View) -> Result<Balances> {
    let mut pending = Vec::new();
    for n in 0..TRANSFERS {
        let (from, to) = (NAMES[(n % 4) as usize], NAMES[(n * n % 3) as usize]);
        pending.push(transfers.append(format!("{from} {to} {}", n % 10)));
    }
    for (n, append) in pending.into_iter().enumerate() {
        let appended = append.wait()?;
        if n == 499 {
            // To read what one has written: wait until the view has come so far.
            let (position, balances) = view.at_least(appended.next().get());
            assert!(position >= 500 && balances.values().sum::<i64>() == 0);
            println!("asked after transfer 499: the view knows it, and all balances sum up to 0");
        }
    }
    Ok(view.at_least(TRANSFERS).1)
}

/// The processor: one commit for each transfer.
fn follow(engine: &Engine, view: &View, end: u64) -> Result<()> {
    let options = engine.processor("bank/balances").source("bank/transfers");
    let (mut processor, restored) = options.open().wait()?;
    let (mut state, mut snapshot_due) = (restore(&restored)?, false);
    let mut position = restored.positions[0].next.get();
    let all: Vec<_> = state.clone().into_iter().collect();
    view.show(position, &all);
    while position < end {
        for record in processor.next().wait()?.records {
            let text = std::str::from_utf8(&record.payload)?;
            let mut words = text.split(' ');
            let mut word = || words.next().ok_or("a transfer has three words");
            let (from, to, amount) = (word()?.to_owned(), word()?.to_owned(), word()?);
            let amount: i64 = amount.parse()?;
            let change = [(from, -amount), (to, amount)];
            apply(&mut state, &change);

            let commit = Commit::new().through(&record);
            let commit = if snapshot_due {
                commit.snapshot(encode(state.iter()))
            } else {
                commit.delta(encode(change.iter().map(|(name, sum)| (name, sum))))
            };
            snapshot_due = processor.commit(commit).wait()?.snapshot_due;
            // Durable: now it may be seen.
            position = record.sequence.after(1).get();
            view.show(position, &change);
        }
    }
    Ok(())
}

/// A snapshot and the deltas behind it are read alike: both are changes, one of them from nothing.
fn restore(restored: &Restored) -> Result<Balances> {
    let mut state = Balances::new();
    for bytes in restored.snapshot.iter().chain(&restored.deltas) {
        for line in std::str::from_utf8(bytes)?.lines() {
            let (name, sum) = line.split_once(' ').ok_or("a line has two words")?;
            apply(&mut state, &[(name.to_owned(), sum.parse()?)]);
        }
    }
    Ok(state)
}

fn apply(state: &mut Balances, change: &[(String, i64)]) {
    for (name, sum) in change {
        *state.entry(name.clone()).or_default() += sum;
    }
}

fn encode<'a>(balances: impl Iterator<Item = (&'a String, &'a i64)>) -> String {
    balances.map(|(name, sum)| format!("{name} {sum}\n")).collect()
}
