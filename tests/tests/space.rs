//! Giving space back on real files: segments in the middle, holes, retention, and who keeps what.
//!
//! Goal: one slow log cannot keep the disk; what is given back is never missed, and what is damaged
//! is still found.
//!
//! Not here: every instant at which a crash can come between (`sim_crash`).

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oncelog::{
    Dlsn, Engine, From, Log, LogOptions, Options, ReadError, Sequence, ShardSpace, Verify,
};

const MIB: u64 = 1 << 20;
const BLOCK: usize = 4096;
/// How long work in the background may take.
const PATIENCE: Duration = Duration::from_secs(60);

fn open(dir: &Path) -> Engine {
    Options::new(dir).shards(1).segment_size(MIB).open().unwrap()
}

fn space(engine: &Engine) -> ShardSpace {
    engine.space().wait().unwrap().shards.remove(0)
}

/// Waits for work in the background.
fn until(engine: &Engine, what: &str, done: impl Fn(&ShardSpace) -> bool) -> ShardSpace {
    let begin = Instant::now();
    loop {
        let space = space(engine);
        if done(&space) {
            return space;
        }
        assert!(begin.elapsed() < PATIENCE, "{what}:\n{}", engine.space().wait().unwrap());
        std::thread::yield_now();
    }
}

/// Appends so many batches of about 64 KiB; the slow log gets one record every `each` of them.
fn fill(fast: &Log, slow: &Log, count: u64, each: u64) {
    for n in 0..count {
        fast.append_batch((0..4).map(|k| vec![u8::try_from(n % 251).unwrap() ^ k; 16_000]))
            .wait()
            .unwrap();
        if n % each == 0 {
            slow.append(format!("slow {n}")).wait().unwrap();
        }
    }
}

fn records(log: &Log) -> Vec<(Sequence, Dlsn, Vec<u8>)> {
    let mut reader = log.reader(From::Earliest);
    let mut all = Vec::new();
    while let Some(records) = reader.try_next().wait().unwrap() {
        all.extend(records.into_iter().map(|r| (r.sequence, r.dlsn, r.payload.to_vec())));
    }
    all
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(dir.join("shard-000")).unwrap().map(|file| file.unwrap().path());
    let mut files: Vec<_> = files
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("segment-"))
        .filter(|path| path.extension().is_some_and(|end| end == "log"))
        .collect();
    files.sort();
    files
}

/// Bytes that the files of the shard take.
fn disk_use(dir: &Path) -> u64 {
    let files = fs::read_dir(dir.join("shard-000")).unwrap();
    files.filter_map(|file| fs::metadata(file.unwrap().path()).ok()).map(|m| m.blocks() * 512).sum()
}

/// Whether this file system makes holes in files.
fn makes_holes(dir: &Path) -> bool {
    use rustix::fs::{FallocateFlags, fallocate};
    let file = File::create(dir.join("holes")).unwrap();
    file.write_all_at(&[1; 2 * BLOCK], 0).unwrap();
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let made = fallocate(&file, flags, 0, BLOCK as u64).is_ok();
    fs::remove_file(dir.join("holes")).unwrap();
    if !made {
        eprintln!("skipped: this file system makes no holes");
    }
    made
}

#[test]
fn a_dead_segment_goes_whatever_stays_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let (fast, slow) = (engine.create_log("fast").wait().unwrap(), engine.create_log("slow"));
    let slow = slow.wait().unwrap();
    fill(&fast, &slow, 160, 1_000);
    let before = records(&fast);
    let end = fast.describe().wait().unwrap().next;
    // The last segments of the fast log stay: what follows a position can be seen.
    let keep = Sequence::new(end.get() - 120);
    let gone = before[before.len() / 2].1;
    fast.truncate(keep).wait().unwrap();
    let left = until(&engine, "the segments between go", |space| space.segments.len() <= 5);
    let first = left.segments.iter().map(|row| row.segment).min().unwrap();
    assert_eq!(first, before[0].1.segment(), "the slow log keeps the first");
    assert!(left.segments.iter().all(|row| row.segment != gone.segment()));

    // Records of the fast log may have stood behind the position, none of the slow one did.
    let mut reader = fast.reader(From::Dlsn(gone));
    let error = reader.next().wait().unwrap_err();
    assert!(matches!(error, ReadError::Truncated { first } if first == keep), "{error}");
    slow.append("behind").wait().unwrap();
    slow.truncate(Sequence::new(0)).wait().unwrap();
    let found = slow.reader(From::Dlsn(gone)).next().wait().unwrap();
    assert_eq!(&*found.into_iter().next().unwrap().payload, b"behind");

    engine.close().wait().unwrap();
    drop(engine);
    let report = Verify::new(dir.path()).run().unwrap();
    assert!(report.is_sound() && report.findings.is_empty(), "{report}");
    let engine = open(dir.path());
    let slow = engine.open_log("slow").wait().unwrap();
    assert_eq!(records(&slow).len(), 2);
    let fast = engine.open_log("fast").wait().unwrap();
    assert_eq!(records(&fast), before[before.len() - 120..]);
}

#[test]
fn a_position_in_a_segment_that_is_gone_leads_to_the_first_record_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let (fast, slow) = (engine.create_log("fast"), engine.create_log("slow"));
    let (fast, slow) = (fast.wait().unwrap(), slow.wait().unwrap());
    let keep = engine.create_log("keep").wait().unwrap();
    // The slow log has records in the first segment, one is truncated; none in the middle.
    slow.append_batch(["one", "two"]).wait().unwrap();
    keep.append("stays").wait().unwrap();
    fill(&fast, &keep, 80, 1_000);
    let middle = records(&fast)[160].1;
    let behind = slow.append("three").wait().unwrap();
    slow.truncate(Sequence::new(1)).wait().unwrap();
    fast.truncate(fast.describe().wait().unwrap().next).wait().unwrap();
    let row = |space: &ShardSpace| space.segments.iter().any(|r| r.segment == middle.segment());
    until(&engine, "the middle goes", |space| !row(space));
    let found = slow.reader(From::Dlsn(middle)).next().wait().unwrap();
    let found = found.into_iter().next().unwrap();
    assert_eq!((found.sequence, Some(found.dlsn)), (Sequence::new(2), behind.dlsn));
}

#[test]
fn one_slow_log_cannot_keep_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    if !makes_holes(dir.path()) {
        return;
    }
    let engine = open(dir.path());
    let options = LogOptions::default().keep_bytes(2 * MIB);
    let fast = engine.create_log_with("fast", options).wait().unwrap();
    let slow = engine.create_log("slow").wait().unwrap();
    let mut most = 0;
    for _ in 0..20 {
        fill(&fast, &slow, 32, 12);
        let tidy = |space: &ShardSpace| {
            // Two or three segments hold what is to be kept; all others are mostly holes.
            let whole = space.segments.iter().filter(|row| row.dead_bytes() > MIB / 2);
            space.live_bytes() < 4 * MIB && whole.count() <= 2
        };
        until(&engine, "dead records are given back", tidy);
        most = most.max(disk_use(dir.path()));
    }
    // 40 MiB were written, a slow record stands in each segment. Headers stay, and what is less
    // than a quarter of a segment.
    assert!(most < 20 * MIB, "{most} bytes on disk");
    let told = space(&engine);
    assert_eq!(told.logs[0].name, "slow", "{}", engine.space().wait().unwrap());
    assert!(told.logs[0].segments > 20 && told.segments.iter().any(|row| row.given_back > 0));
    assert_eq!(records(&slow).len(), 60);
    let kept = fast.describe().wait().unwrap();
    let live = records(&fast);
    assert_eq!(live.len() as u64, kept.next.get() - kept.first.get());
    assert!(live.len() as u64 * 16_016 >= 2 * MIB, "what the policy keeps is there");

    engine.drop_log("slow").wait().unwrap();
    let gone = |space: &ShardSpace| space.segments.len() <= 6 && disk_use(dir.path()) < 10 * MIB;
    until(&engine, "all comes back", gone);
    engine.close().wait().unwrap();
    drop(engine);
    let report = Verify::new(dir.path()).run().unwrap();
    assert!(report.is_sound() && report.findings.is_empty(), "{report}");
}

/// Noise in the holes of a file: zeros between what is not.
fn spoil_holes(path: &Path) -> usize {
    let bytes = fs::read(path).unwrap();
    let zeros = |block: &&[u8]| block.iter().all(|byte| *byte == 0);
    let blocks: Vec<_> = bytes.chunks(BLOCK).collect();
    let end = blocks.iter().rposition(|block| !zeros(block)).unwrap_or(0);
    let file = OpenOptions::new().write(true).open(path).unwrap();
    let holes = blocks[..end].iter().enumerate().filter(|(_, block)| zeros(block));
    holes.map(|(n, _)| file.write_all_at(&[0xA5; BLOCK], (n * BLOCK) as u64).unwrap()).count()
}

/// The rule for punched segments (F-12).
#[test]
fn dead_records_of_a_punched_segment_may_read_as_anything_and_live_ones_may_not() {
    let dir = tempfile::tempdir().unwrap();
    if !makes_holes(dir.path()) {
        return;
    }
    let engine = open(dir.path());
    let (fast, slow) = (engine.create_log("fast"), engine.create_log("slow"));
    let (fast, slow) = (fast.wait().unwrap(), slow.wait().unwrap());
    fill(&fast, &slow, 80, 6);
    let before = records(&slow);
    fast.truncate(fast.describe().wait().unwrap().next).wait().unwrap();
    until(&engine, "holes are made", |space| {
        space.segments.iter().filter(|row| row.given_back > MIB / 2).count() >= 3
    });
    engine.close().wait().unwrap();
    drop(engine);
    let spoiled: usize = segments(dir.path()).iter().map(|path| spoil_holes(path)).sum();
    assert!(spoiled > 200, "{spoiled} blocks");
    // Indexes are made anew from segments with holes.
    for path in segments(dir.path()) {
        let _ = fs::remove_file(path.with_extension("index"));
    }
    let report = Verify::new(dir.path()).run().unwrap();
    assert!(report.is_sound() && report.findings.is_empty(), "{report}");
    let engine = open(dir.path());
    let slow = engine.open_log("slow").wait().unwrap();
    assert_eq!(records(&slow), before);
    engine.close().wait().unwrap();
    drop((engine, slow));

    let damaged = segments(dir.path()).iter().find_map(|path| {
        let bytes = fs::read(path).unwrap();
        let at = bytes.windows(7).position(|window| window == b"slow 30")?;
        let file = OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(b"SLOW", at as u64).unwrap();
        Some(())
    });
    assert!(damaged.is_some());
    let report = Verify::new(dir.path()).run().unwrap();
    assert!(!report.is_sound(), "{report}");
    let loss = report.losses().next().unwrap().to_string();
    assert!(loss.contains("slow"), "{loss}");
}

#[test]
fn the_segments_of_a_log_are_its_records_in_parts() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let (fast, slow) = (engine.create_log("fast"), engine.create_log("slow"));
    let (fast, slow) = (fast.wait().unwrap(), slow.wait().unwrap());
    assert!(slow.segments().wait().unwrap().is_empty());
    fill(&fast, &slow, 60, 20);
    fast.truncate(Sequence::new(90)).wait().unwrap();
    let parts = fast.segments().wait().unwrap();
    assert!(parts.len() >= 3 && parts[0].sealed);
    assert_eq!(parts[0].first, Sequence::new(90), "what is truncated is no part");
    assert!(parts.windows(2).all(|pair| pair[0].next == pair[1].first));
    let all = records(&fast);
    assert_eq!(parts.last().unwrap().next, all.last().unwrap().0.after(1));
    for part in &parts {
        let inside = all.iter().filter(|(at, ..)| part.first <= *at && *at < part.next);
        assert!(inside.clone().all(|(_, dlsn, _)| dlsn.segment() == part.segment));
        assert_eq!(inside.count() as u64, part.next.get() - part.first.get());
    }
}

#[test]
fn what_only_processors_held_goes_once_they_have_passed_whatever_the_policy_was_before() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let (fast, slow) = (engine.create_log("g/fast"), engine.create_log("g/slow"));
    let (fast, slow) = (fast.wait().unwrap(), slow.wait().unwrap());
    fill(&fast, &slow, 40, 20);
    let next = fast.describe().wait().unwrap().next;
    let (mut processor, _) = engine.processor("g/p").source("g/fast").open().wait().unwrap();
    let mut read = Sequence::new(0);
    while read < next {
        read = processor.next().wait().unwrap().records.end_sequence();
    }
    processor.commit(oncelog::Commit::new()).wait().unwrap();
    // So much never comes, so nothing goes: which is looked at, and remembered.
    let options = LogOptions::default().keep_until("g/p");
    fast.set_options(options.clone().keep_bytes(1 << 40)).wait().unwrap();
    for _ in 0..100 {
        assert_eq!(fast.describe().wait().unwrap().first, Sequence::new(0));
    }
    fast.set_options(options).wait().unwrap();
    let gone = |_: &ShardSpace| fast.describe().wait().unwrap().first == next;
    until(&engine, "nothing keeps these records", gone);
    assert_eq!(records(&slow).len(), 2, "other logs have what they had");
}
