//! A position kept outside, beside an effect outside: docs/tutorials/at_least_once.md
//!
//! ```text
//! cargo run --release --example at_least_once
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::Command;

use oncelog::{Engine, From, Options, Sequence};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const RECORDS: u64 = 30;
/// Positions are saved after so many effects: each save costs two syncs.
const SAVE_EVERY: u64 = 10;
/// The first worker dies after so many effects.
const DIES_AFTER: u64 = 17;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    match args.as_slice() {
        // A worker is a process of its own, so that it can really die.
        [_, work, dir, dies_after] if work == "work" => {
            work_on(Path::new(dir), dies_after.parse()?)
        }
        _ => parent(),
    }
}

fn parent() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let engine = open(dir.path())?;
    let mails = engine.create_log("shop/mails").wait()?;
    mails.append_batch((0..RECORDS).map(|n| format!("mail {n}"))).wait()?;
    engine.close().wait()?;
    drop((engine, mails));

    for dies_after in [DIES_AFTER, u64::MAX] {
        let begin = load_position(&dir.path().join("position"))?;
        let mut worker = Command::new(std::env::current_exe()?);
        let status = worker.arg("work").arg(dir.path()).arg(dies_after.to_string()).status()?;
        let end = if status.success() { "came to the end" } else { "was killed" };
        println!("a worker began at position {begin} and {end}");
        assert_eq!(status.success(), dies_after == u64::MAX);
    }

    let sent = fs::read_to_string(dir.path().join("sent"))?;
    let times = |n: u64| sent.lines().filter(|line| **line == format!("mail {n}")).count();
    let lost = (0..RECORDS).filter(|n| times(*n) == 0).count();
    let repeated: Vec<u64> = (0..RECORDS).filter(|n| times(*n) > 1).collect();
    println!("{RECORDS} records, {} effects, {lost} lost", sent.lines().count());
    println!("{} repeated: {repeated:?}", repeated.len());
    assert_eq!(lost, 0, "never lost: that is at least once");
    let saved = (DIES_AFTER - 1) / SAVE_EVERY * SAVE_EVERY;
    assert_eq!(repeated, (saved..DIES_AFTER).collect::<Vec<u64>>(), "all since the last save");
    Ok(())
}

/// Reads from the position on, does each effect, and saves the position now and then.
fn work_on(dir: &Path, dies_after: u64) -> Result<()> {
    let engine = open(dir)?;
    let mails = engine.open_log("shop/mails").wait()?;
    let position_file = dir.join("position");
    let mut sent = OpenOptions::new().create(true).append(true).open(dir.join("sent"))?;

    let mut position = load_position(&position_file)?;
    let mut reader = mails.reader(From::Sequence(Sequence::new(position)));
    let mut effects = 0;
    while let Some(records) = reader.try_next().wait()? {
        for record in records {
            // The effect: something outside of the engine that cannot be taken back.
            sent.write_all(&[&record.payload, &b"\n"[..]].concat())?;
            sent.sync_data()?;
            effects += 1;
            position = record.sequence.after(1).get();
            if effects == dies_after {
                // As with kill -9: nothing is flushed, closed or dropped.
                std::process::abort();
            }
            if position.is_multiple_of(SAVE_EVERY) {
                save_position(&position_file, position)?;
            }
        }
    }
    save_position(&position_file, position)?;
    engine.close().wait()?;
    Ok(())
}

/// The next record to process: 0 where nothing was ever saved. Anything else that is wrong is an
/// error: starting at 0 by mistake would repeat everything.
fn load_position(path: &Path) -> Result<u64> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text.parse()?),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error.into()),
    }
}

/// After this returns the file holds the new position, whatever happens; at a crash meanwhile the
/// old or the new one, whole.
fn save_position(path: &Path, position: u64) -> Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    write!(file, "{position}")?;
    file.sync_all()?; // its bytes, before its name
    fs::rename(&new, path)?;
    File::open(path.parent().expect("it is in a directory"))?.sync_all()?; // its name
    Ok(())
}

fn open(dir: &Path) -> Result<Engine> {
    Ok(Options::new(dir.join("data")).shards(1).segment_size(1 << 20).open()?)
}
