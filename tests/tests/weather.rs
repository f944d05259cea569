//! Bad weather on real files: an unclean end, directories in use, files that are missing, foreign
//! or damaged.
//!
//! Not here: processes that are killed at any instant (`storm`).

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use oncelog::{Engine, From, OpenError, Options, ReadError, Sequence};

fn options(dir: &Path) -> Options {
    Options::new(dir).shards(1).segment_size(1 << 20)
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(dir.join("shard-000")).unwrap();
    let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    paths.retain(|path| path.file_name().unwrap().to_string_lossy().starts_with("segment-"));
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    paths.sort();
    paths
}

/// An engine whose log `log` has `count` records of 10,000 bytes, closed.
fn filled(dir: &Path, count: u8) {
    let engine = options(dir).open().unwrap();
    let log = engine.create_log("log").wait().unwrap();
    for n in 0..count {
        log.append(vec![n; 10_000]).wait().unwrap();
    }
    engine.close().wait().unwrap();
}

fn refused(dir: &Path) -> OpenError {
    options(dir).open().unwrap_err()
}

#[test]
fn a_directory_in_use_says_who_holds_it() {
    let dir = tempfile::tempdir().unwrap();
    let engine = options(dir.path()).open().unwrap();
    let error = refused(dir.path());
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
    engine.close().wait().unwrap();
    drop(engine);
    options(dir.path()).open().unwrap();
}

#[test]
fn a_missing_segment_is_named_and_nothing_is_served() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 250);
    let files = segments(dir.path());
    assert!(files.len() >= 3);
    for missing in &files[..files.len() - 1] {
        let aside = missing.with_extension("aside");
        fs::rename(missing, &aside).unwrap();
        let error = refused(dir.path());
        assert!(matches!(error, OpenError::MissingSegment { .. }), "{error}");
        fs::rename(&aside, missing).unwrap();
    }
    let log = options(dir.path()).open().unwrap().open_log("log").wait().unwrap();
    assert_eq!(log.describe().wait().unwrap().next.get(), 250);
}

#[test]
fn the_newest_segment_with_records_is_missed_by_the_seal_before_it() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 250);
    let shard = dir.path().join("shard-000");
    for file in segments(dir.path()) {
        let header = fs::read(&file).unwrap();
        // The prepared next segment has no header; the one before it is the newest in use.
        if header[..128].iter().any(|byte| *byte != 0) {
            fs::copy(&file, shard.join("newest")).unwrap();
            fs::write(shard.join("newest.name"), file.to_string_lossy().as_bytes()).unwrap();
        }
    }
    let newest = PathBuf::from(fs::read_to_string(shard.join("newest.name")).unwrap());
    fs::remove_file(&newest).unwrap();
    let error = refused(dir.path());
    assert!(matches!(error, OpenError::MissingSegment { .. }), "{error}");
}

#[test]
fn damage_to_acknowledged_data_refuses_to_open_and_is_never_taken_for_a_torn_tail() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 20);
    let file = segments(dir.path()).remove(0);
    let good = fs::read(&file).unwrap();
    let name = format!(
        "segment {}, offset",
        u64::from_str_radix(&file.file_stem().unwrap().to_string_lossy()["segment-".len()..], 16)
            .unwrap()
    );
    let at = good.windows(100).position(|window| window == [7; 100]).unwrap();
    let mut bad = good.clone();
    bad[at] ^= 1;
    fs::write(&file, &bad).unwrap();
    let error = refused(dir.path());
    assert!(matches!(error, OpenError::Damaged(_)), "{error}");
    assert!(error.to_string().contains(&name), "{error}");
    assert_eq!(fs::read(&file).unwrap(), bad, "nothing was changed");
    fs::write(&file, &good).unwrap();
    let log = options(dir.path()).open().unwrap().open_log("log").wait().unwrap();
    assert_eq!(log.describe().wait().unwrap().next.get(), 20);
}

#[test]
fn damage_in_a_sealed_segment_fails_the_read_of_what_it_hit_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 250);
    let file = segments(dir.path()).remove(0);
    let mut bytes = fs::read(&file).unwrap();
    let at = bytes.windows(100).position(|window| window == [7; 100]).unwrap();
    bytes[at] ^= 1;
    fs::write(&file, &bytes).unwrap();
    for side_file in [true, false] {
        if !side_file {
            fs::remove_file(file.with_extension("index")).unwrap();
        }
        let engine = options(dir.path()).open().unwrap();
        let log = engine.open_log("log").wait().unwrap();
        let mut reader = log.reader(From::Earliest);
        let before: Vec<_> = reader.next().wait().unwrap().collect();
        assert_eq!(before.len(), 7, "good records before it are delivered");
        let error = reader.next().wait().unwrap_err();
        assert!(matches!(error, ReadError::Damaged { .. }), "{error}");
        assert!(error.to_string().contains("sequence 7"), "{error}");
        let mut rest = log.reader(From::Sequence(Sequence::new(8)));
        assert_eq!(rest.next().wait().unwrap().next().unwrap().payload, vec![8; 10_000]);
    }
}

#[test]
fn foreign_and_newer_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    filled(&dir.path().join("a"), 3);
    filled(&dir.path().join("b"), 3);
    let segment = |name: &str| segments(&dir.path().join(name)).remove(0);
    let own = fs::read(segment("a")).unwrap();
    fs::copy(segment("b"), segment("a")).unwrap();
    let error = refused(&dir.path().join("a"));
    assert!(matches!(&error, OpenError::Foreign { .. }), "{error}");
    assert!(error.to_string().contains("another engine"), "{error}");
    fs::write(segment("a"), own).unwrap();
    options(&dir.path().join("a")).open().unwrap();

    let c = dir.path().join("c");
    fs::create_dir(&c).unwrap();
    fs::write(c.join("engine.meta"), "something else").unwrap();
    let error = refused(&c);
    assert!(matches!(error, OpenError::Foreign { .. }), "{error}");
}

#[test]
fn opening_needs_no_more_than_the_newest_segment_and_no_side_file() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 250);
    let shard = dir.path().join("shard-000");
    for file in fs::read_dir(&shard).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "index") {
            fs::write(&path, "not an index").unwrap();
        }
    }
    let engine: Engine = options(dir.path()).open().unwrap();
    let log = engine.open_log("log").wait().unwrap();
    let mut reader = log.reader(From::Earliest);
    let mut next = 0_u8;
    while let Some(records) = reader.try_next().wait().unwrap() {
        for record in records {
            assert_eq!(record.payload, vec![next; 10_000]);
            next += 1;
        }
    }
    assert_eq!(next, 250);
}

#[test]
fn an_unclean_end_gives_the_unused_rest_of_its_segment_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut worker = Command::new(env!("CARGO_BIN_EXE_kill_worker"))
        .arg(dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let first = BufReader::new(worker.stdout.take().unwrap()).lines().next();
    assert!(first.is_some());
    worker.kill().unwrap();
    worker.wait().unwrap();
    let before = segments(dir.path()).remove(0);
    assert_eq!(fs::metadata(&before).unwrap().len(), 1 << 20);
    let engine = options(dir.path()).open().unwrap();
    engine.create_log("new").wait().unwrap();
    engine.close().wait().unwrap();
    drop(engine);
    assert!(fs::metadata(&before).unwrap().len() < 1 << 20);
    options(dir.path()).open().unwrap();
}

#[test]
fn a_place_in_memory_works_and_is_reported_as_not_durable() {
    let Ok(dir) = tempfile::tempdir_in("/dev/shm") else {
        println!("skipped: there is no /dev/shm to write to");
        return;
    };
    let engine = options(dir.path()).open().unwrap();
    let info = engine.info().wait().unwrap();
    if info.host.file_system != "tmpfs" {
        println!("skipped: /dev/shm is {}", info.host.file_system);
        return;
    }
    assert!(!info.durable);
    assert!(info.host.why_not.unwrap().contains("memory"));
    let log = engine.create_log("log").wait().unwrap();
    log.append("works").wait().unwrap();
    assert_eq!(log.get(Sequence::FIRST).wait().unwrap().unwrap().payload, "works");
}

#[test]
fn a_newer_format_is_refused_by_name() {
    use oncelog::format::VERSION;
    use oncelog::format::header::Superblock;

    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 1);
    let path = dir.path().join("engine.meta");
    let good = fs::read(&path).unwrap();
    // The version stands at 32 (F-3); the checksum is made anew, as a newer program would.
    let mut newer = Superblock::decode(&good).unwrap().encode();
    newer[32..36].copy_from_slice(&(VERSION + 1).to_le_bytes());
    let sum = crc_64_nvme(&newer[8..128]);
    newer[..8].copy_from_slice(&sum.to_le_bytes());
    fs::write(&path, [&newer[..], &newer[..]].concat()).unwrap();
    let error = refused(dir.path());
    let newer = matches!(error, OpenError::NewerFormat { found, known: VERSION, .. }
        if found == VERSION + 1);
    assert!(newer, "{error}");
    fs::write(&path, good).unwrap();
    options(dir.path()).open().unwrap();
}

/// CRC-64/NVME, bit by bit, from its published parameters (reflected polynomial
/// 0x9a6c9329ac4bc9b5, all ones before and after).
fn crc_64_nvme(bytes: &[u8]) -> u64 {
    let mut sum = u64::MAX;
    for byte in bytes {
        sum ^= u64::from(*byte);
        for _ in 0..8 {
            sum = if sum & 1 == 1 { sum >> 1 ^ 0x9a6c_9329_ac4b_c9b5 } else { sum >> 1 };
        }
    }
    !sum
}
