//! What many logs cost: making them, memory, opening again, listing, writing to all of them.
//!
//! ```text
//! cargo run --release --example many_logs -- 100000
//! ```

use std::fs;
use std::time::Instant;

use oncelog::{Engine, Options};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Bytes of this process that are in memory.
fn resident() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).ok_or("no VmRSS")?;
    let kib = line.split_whitespace().nth(1).ok_or("no VmRSS")?;
    Ok(kib.parse::<u64>()? * 1024)
}

fn name(number: u32) -> String {
    format!("tenants/tenant-{number:06}/events")
}

fn main() -> Result<()> {
    let count: u32 = std::env::args().nth(1).map_or(Ok(100_000), |count| count.parse())?;
    let dir = tempfile::tempdir()?;
    let open = || Options::new(dir.path()).shards(1).open();
    let engine = open()?;
    engine.create_log("tenants/first").wait()?;
    let before = resident()?;

    let begin = Instant::now();
    let mut waiting = Vec::new();
    let mut logs = Vec::new();
    for number in 0..count {
        waiting.push(engine.create_log(name(number)));
        if waiting.len() == 1000 || number + 1 == count {
            for created in waiting.drain(..) {
                logs.push(created.wait()?);
            }
        }
    }
    let took = begin.elapsed();
    println!(
        "created {count} logs in {took:.2?}: {:.0} a second",
        f64::from(count) / took.as_secs_f64()
    );
    drop(logs);
    let each = resident()?.saturating_sub(before) / u64::from(count);
    println!("memory: {each} bytes for each idle log");
    engine.close().wait()?;

    let begin = Instant::now();
    let engine = open()?;
    println!("opened again in {:.2?}", begin.elapsed());
    write_to_all(&engine, count)?;
    engine.close().wait()?;
    Ok(())
}

fn write_to_all(engine: &Engine, count: u32) -> Result<()> {
    let begin = Instant::now();
    let (mut after, mut pages, mut listed) = (String::new(), 0, 0);
    let mut ids = Vec::new();
    loop {
        let page = engine.list_logs_page("tenants/tenant-", &after, 1000).wait()?;
        let Some(last) = page.last() else { break };
        after.clone_from(&last.name);
        listed += page.len();
        ids.extend(page.into_iter().map(|info| info.name));
        pages += 1;
    }
    assert_eq!(listed, count as usize);
    println!("listed them in {pages} pages in {:.2?}", begin.elapsed());
    let begin = Instant::now();
    for names in ids.chunks(1000) {
        let logs: Vec<_> = names.iter().map(|name| engine.open_log(name.as_str())).collect();
        let mut answers = Vec::new();
        for log in logs {
            answers.push(log.wait()?.append("one record"));
        }
        for answer in answers {
            answer.wait()?;
        }
    }
    let took = begin.elapsed();
    println!(
        "opened each and appended to it in {took:.2?}: {:.0} a second",
        f64::from(count) / took.as_secs_f64()
    );
    Ok(())
}
