//! What an idle engine costs: opens one, appends a record, waits, and says how often it woke up.
//!
//! ```text
//! cargo run --release --example idle -- [SECONDS]
//! strace -f -c cargo run --release --example idle        system calls of the whole run
//! ```

use std::time::{Duration, Instant};

use oncelog::{From, Options};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let seconds = std::env::args().nth(1).map_or(Ok(10), |text| text.parse())?;
    let dir = tempfile::tempdir()?;
    let engine = Options::new(dir.path()).open()?;
    let log = engine.create_log("idle/log").wait()?;
    log.append("one record").wait()?;
    let mut reader = log.reader(From::Earliest);
    reader.next().wait()?;
    // The entry that covers the last record is written within milliseconds: that is no idling.
    std::thread::park_timeout(Duration::from_millis(200));

    let counts = || -> Result<(u64, u64, u64), oncelog::Stopped> {
        let shards = engine.info().wait()?.shards;
        let sum = |figure: fn(&oncelog::ShardInfo) -> u64| shards.iter().map(figure).sum();
        Ok((sum(|s| s.wakeups), sum(|s| s.parks), sum(|s| s.ring_enters)))
    };
    let before = counts()?;
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(seconds) {
        std::thread::park_timeout(Duration::from_secs(seconds) - begin.elapsed());
    }
    let after = counts()?;
    let shards = u64::from(engine.shard_count());
    println!(
        "idle for {seconds} s: {} wake-ups, {} sleeps, {} ring enters; asking for these figures \
         woke each of {shards} shards once",
        after.0 - before.0,
        after.1 - before.1,
        after.2 - before.2,
    );
    Ok(())
}
