//! A disk that is really full: ext4 and XFS on loop devices.
//!
//! Goal: what docs/architecture.md says under "When the disk is full": appends are refused and
//! nothing that was acknowledged is lost; reads, truncation, taking over a processor and commits of
//! a position go on; appends go on by themselves once there is room; an engine that was killed
//! opens on the full disk.
//! Needs root, mkfs and loop devices; elsewhere it is skipped, and says what is missing.
//!
//! Not here: every instant at which a disk can become full (`sim_crash`).

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use oncelog::{
    AppendError, Commit, CommitError, Engine, From, Log, LogError, Options, Processor, SegmentId,
    Sequence,
};
use oncelog_tests::loop_disk::LoopDisk;
use oncelog_tests::storm::block;

const MIB: u64 = 1 << 20;
/// How long appends may take to go on by themselves; the engine tries each second.
const PATIENCE: Duration = Duration::from_secs(30);

fn open(dir: &Path) -> Engine {
    Options::new(dir.join("data")).shards(1).segment_size(MIB).open().unwrap()
}

/// Appends until the disk is full; nothing else may be wrong.
fn fill(disk: &LoopDisk, engine: &Engine, log: &Log) -> AppendError {
    let mut next = log.describe().wait().unwrap().next.get();
    while disk.free() > 6 * MIB {
        let large: Vec<_> = (0..16).map(|n| log.append(block(next + n, 60_000))).collect();
        large.into_iter().for_each(|append| assert!(append.wait().is_ok()));
        next += 16;
    }
    let (mut segment, mut len) = (SegmentId::new(0), 12_000);
    loop {
        match log.append(block(next, len)).wait() {
            Ok(appended) => {
                let now = appended.dlsn.expect("it is one record").segment();
                if std::mem::replace(&mut segment, now) != now {
                    settle(disk.path(), engine, now);
                }
                next += 1;
            }
            // What finds no room is not the smallest that could.
            Err(AppendError::NoSpace(_)) if len > 100 => len = 100,
            Err(error @ AppendError::NoSpace(_)) => return error,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Until the segment after this one is there, or could not be made: a reserve is kept from then on.
fn settle(dir: &Path, engine: &Engine, segment: SegmentId) {
    let begin = Instant::now();
    let following = |name: &str| {
        name.ends_with(".log") && *name > *format!("segment-{:016x}.log", segment.get())
    };
    loop {
        let files = fs::read_dir(dir.join("data/shard-000")).unwrap();
        let mut names = files.map(|file| file.unwrap().file_name().to_string_lossy().into_owned());
        let there = names.any(|name| name.starts_with("segment-") && following(&name));
        if there || engine.info().wait().unwrap().shards[0].stats.no_space {
            return;
        }
        assert!(begin.elapsed() < PATIENCE, "no segment comes after {segment}");
        std::thread::yield_now();
    }
}

/// Everything that was acknowledged, read from the first record to the end.
fn check(log: &Log) -> u64 {
    let info = log.describe().wait().unwrap();
    let mut next = info.first.get();
    let mut reader = log.reader(From::Earliest);
    while let Some(records) = reader.try_next().wait().unwrap() {
        for record in records {
            assert_eq!(record.sequence.get(), next);
            assert!(record.payload == block(next, record.payload.len()), "other bytes at {next}");
            next += 1;
        }
    }
    assert_eq!(next, info.next.get(), "an acknowledged record is missing");
    next
}

fn own(engine: &Engine) -> (Processor, u64) {
    let opened = engine.processor("g/p").source("g/log").open().wait();
    let (owner, restored) = opened.unwrap();
    (owner, restored.positions[0].next.get())
}

/// What goes on while the disk is full, and what does not.
fn lives_on(engine: &Engine, log: &Log, position: u64) {
    assert!(engine.info().wait().unwrap().shards[0].stats.no_space);
    check(log);
    let refused = engine.create_log("g/new").wait().unwrap_err();
    assert!(matches!(refused, LogError::NoSpace(_)), "{refused}");
    let refused = log.append_batch([block(0, 100)]).wait().unwrap_err();
    assert!(matches!(refused, AppendError::NoSpace(_)), "{refused}");
    let (mut owner, stored) = own(engine);
    let to = |next| Commit::new().position(log.id(), Sequence::new(next));
    owner.commit(to(position)).wait().unwrap();
    assert!(stored <= position);
    let refused = owner.commit(to(position).output(log, block(0, 100))).wait().unwrap_err();
    let no_space = |error: &CommitError| {
        matches!(error, CommitError::NoSpace(_) | CommitError::Output(AppendError::NoSpace(_)))
    };
    assert!(no_space(&refused), "{refused}");
    assert_eq!(own(engine).1, position);
}

/// Appends go on without anyone doing more than trying.
fn goes_on(log: &Log, why: &str) {
    let begin = Instant::now();
    loop {
        let next = log.describe().wait().unwrap().next.get();
        match log.append(block(next, 12_000)).wait() {
            Ok(_) => return,
            Err(AppendError::NoSpace(_)) if begin.elapsed() < PATIENCE => {}
            Err(error) => panic!("{why}, but appends are refused: {error}"),
        }
    }
}

/// A worker fills the disk and is killed then; what it was told.
fn fill_and_kill(dir: &Path) -> u64 {
    let mut worker = Command::new(env!("CARGO_BIN_EXE_kill_worker"))
        .arg(dir.join("data"))
        .arg("full")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let line = BufReader::new(worker.stdout.take().unwrap()).lines().next();
    worker.kill().unwrap();
    worker.wait().unwrap();
    let line = line.expect("it says that the disk is full").unwrap();
    line.strip_prefix("full ").unwrap_or_else(|| panic!("{line}")).parse().unwrap()
}

fn live_through(disk: &mut LoopDisk, weight: u64) {
    let dir = disk.path().to_owned();
    disk.fill("weight", weight * MIB).unwrap();
    disk.fill("ballast", 6 * MIB).unwrap();
    let engine = open(&dir);
    let direct = engine.info().wait().unwrap().direct_io;
    let log = engine.create_log("g/log").wait().unwrap();
    own(&engine);
    let error = fill(disk, &engine, &log);
    assert!(error.to_string().contains("truncate logs or free disk space"), "{error}");
    let full = check(&log);
    lives_on(&engine, &log, full / 2);

    log.truncate(Sequence::new(full / 2)).wait().unwrap();
    goes_on(&log, "half was truncated");
    fill(disk, &engine, &log);
    assert!(check(&log) > full, "space was given back");

    fs::remove_file(dir.join("ballast")).unwrap();
    goes_on(&log, "another file was deleted");
    fill(disk, &engine, &log);
    let before = check(&log);
    // Not a byte is left, for side files either.
    disk.fill("last", u64::MAX).unwrap();
    lives_on(&engine, &log, full);
    engine.close().wait().unwrap();
    drop((engine, log));

    let told = fill_and_kill(&dir);
    assert!(told >= before);
    disk.fill("the very last", u64::MAX).unwrap();
    for file in fs::read_dir(dir.join("data/shard-000")).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "index") {
            fs::remove_file(path).unwrap();
        }
    }
    disk.fill("where the indexes were", u64::MAX).unwrap();
    let engine = open(&dir);
    let info = engine.info().wait().unwrap();
    assert_eq!(info.direct_io, direct, "a full disk is no reason to give direct I/O up");
    let log = engine.open_log("g/log").wait().unwrap();
    assert_eq!(check(&log), told);
    let kept = Sequence::new(told - 40);
    own(&engine).0.commit(Commit::new().position(log.id(), kept)).wait().unwrap();
    log.truncate(kept).wait().unwrap();
    goes_on(&log, "nearly all was truncated");
    let end = check(&log);
    engine.close().wait().unwrap();
    drop((engine, log));

    disk.remount();
    let engine = open(&dir);
    let log = engine.open_log("g/log").wait().unwrap();
    assert_eq!(check(&log), end);
    assert_eq!(own(&engine).1, kept.get());
    goes_on(&log, "the disk was mounted again");
    engine.close().wait().unwrap();
}

/// On a file system of so many MiB, of which `weight` are used by others.
fn on(mkfs: &[&str], mib: u64, weight: u64) {
    let dir = tempfile::tempdir().unwrap();
    match LoopDisk::new(dir.path(), mkfs, mib * MIB) {
        Ok(mut disk) => live_through(&mut disk, weight),
        Err(why) => println!("skipped: {why}"),
    }
}

#[test]
fn a_full_ext4_costs_appends_alone_and_loses_nothing() {
    on(&["mkfs.ext4", "-q", "-F", "-m", "0"], 48, 0);
}

#[test]
fn a_full_xfs_costs_appends_alone_and_loses_nothing() {
    on(&["mkfs.xfs", "-q"], 300, 180);
}
