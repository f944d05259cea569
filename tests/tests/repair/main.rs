//! `Verify` and `Repair` on real files. A repair gives up what is lost and nothing else.

mod verify;

use std::fs;
use std::path::{Path, PathBuf};

use oncelog::{
    AtRisk, Batch, Commit, Engine, From, OpenError, Options, ReadError, Repair, Report, Sequence,
    Verify,
};

fn options(dir: &Path) -> Options {
    Options::new(dir).shards(1).segment_size(1 << 20)
}

fn verify(dir: &Path) -> Report {
    Verify::new(dir).run().unwrap()
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(dir.join("shard-000")).unwrap();
    let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    paths.retain(|path| path.file_name().unwrap().to_string_lossy().starts_with("segment-"));
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    paths.sort();
    // The one that is only prepared holds nothing.
    paths.retain(|path| fs::read(path).unwrap()[..128].iter().any(|byte| *byte != 0));
    paths
}

fn payload(n: u64) -> Vec<u8> {
    let mut bytes = vec![u8::try_from(n % 250 + 1).unwrap(); 10_000];
    bytes[..8].copy_from_slice(&n.to_le_bytes());
    bytes
}

/// Several segments: a log, another in batches with it, a processor with state and outputs,
/// something truncated and something dropped. Closed.
fn rich(dir: &Path) {
    let engine = options(dir).open().unwrap();
    let log = engine.create_log("g/log").wait().unwrap();
    let other = engine.create_log("g/other").wait().unwrap();
    let out = engine.create_log("g/out").wait().unwrap();
    engine.create_log("g/gone").wait().unwrap().append(vec![1; 5_000]).wait().unwrap();
    let (mut processor, _) = engine.processor("g/p").source("g/log").open().wait().unwrap();
    for n in 0..250 {
        let batch = Batch::new().append(&log, payload(n)).append(&other, n.to_string());
        batch.commit().wait().unwrap();
        if n % 10 == 9 {
            let records = processor.next().wait().unwrap().records;
            let commit = Commit::new().output(&out, records.len().to_string());
            let commit = match n {
                99 => commit.snapshot(vec![7; 200_000]),
                _ => commit.delta(n.to_string()),
            };
            processor.commit(commit).wait().unwrap();
        }
    }
    other.truncate(Sequence::new(5)).wait().unwrap();
    engine.drop_log("g/gone").wait().unwrap();
    engine.close().wait().unwrap();
}

/// Changes one byte of the record `n` of the log `g/log`, wherever it stands; the file.
fn damage_record(dir: &Path, n: u64) -> PathBuf {
    let needle = &payload(n)[..64];
    for path in segments(dir) {
        let mut bytes = fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(64).position(|window| window == needle) {
            bytes[at + 5_000] ^= 1;
            fs::write(&path, bytes).unwrap();
            return path;
        }
    }
    panic!("record {n} stands nowhere");
}

fn numbers(engine: &Engine) -> Vec<Option<u64>> {
    let log = engine.open_log("g/log").wait().unwrap();
    let end = log.describe().wait().unwrap().next.get();
    let read = |n| match log.get(Sequence::new(n)).wait() {
        Ok(record) => {
            let payload_read = record.expect("it is not truncated").payload;
            assert_eq!(payload_read, payload(n), "other bytes");
            Some(n)
        }
        Err(ReadError::Damaged { .. }) => None,
        Err(error) => panic!("{error}"),
    };
    (0..end).map(read).collect()
}

fn lost_records(at_risk: &AtRisk) -> (String, u64, u64) {
    match at_risk {
        AtRisk::Records { name, first, end, .. } => {
            (name.clone().unwrap_or_default(), first.get(), end.get())
        }
        other => panic!("{other}"),
    }
}

/// The engine refuses to open; the repair cuts the journal, keeps what it cut, and says what is
/// lost; everything before is there, and life goes on.
#[test]
fn a_damaged_newest_segment_is_cut_and_every_lost_record_is_named() {
    let dir = tempfile::tempdir().unwrap();
    rich(dir.path());
    let file = segments(dir.path()).pop().unwrap();
    let good = fs::read(&file).unwrap();
    // The second record in that file, so that others stand before and behind it.
    let first = (0..250).find(|n| find(&good, &payload(*n)[..64]).is_some()).unwrap();
    damage_record(dir.path(), first + 1);
    assert!(matches!(options(dir.path()).open(), Err(OpenError::Damaged(_))));
    let before = fs::read(&file).unwrap();
    let report = verify(dir.path());
    assert_eq!(report.refused.len(), 1);
    assert_eq!(fs::read(&file).unwrap(), before, "verify changes nothing");

    let repaired = Repair::new(dir.path()).run().unwrap();
    assert_eq!(repaired.steps.len(), 1, "{repaired}");
    let kept = repaired.kept.clone().unwrap();
    assert_eq!(fs::read(kept.join("shard-000").join(file.file_name().unwrap())).unwrap(), before);
    let mut records = Vec::new();
    let mut commits = Vec::new();
    for (_, lost) in &repaired.lost {
        match lost {
            AtRisk::Commits { processor, first, last } => {
                commits.push((processor.clone().unwrap(), *first, *last));
            }
            records_lost => records.push(lost_records(records_lost)),
        }
    }
    records.sort();
    assert_eq!(records[0], ("g/log".to_owned(), first + 1, 250), "{repaired}");
    assert_eq!(records[1], ("g/other".to_owned(), first + 1, 250), "{repaired}");
    let committed = (first + 1) / 10;
    assert_eq!(commits, [("g/p".to_owned(), committed + 1, 25)], "{repaired}");
    assert!(repaired.after.is_sound(), "{repaired}");

    let engine = options(dir.path()).open().unwrap();
    assert_eq!(numbers(&engine), (0..=first).map(Some).collect::<Vec<_>>());
    let (_, restored) = engine.processor("g/p").open().wait().unwrap();
    assert_eq!(restored.commits, committed);
    assert_eq!(restored.positions[0].next.get(), committed * 10);
    let log = engine.open_log("g/log").wait().unwrap();
    log.append(payload(first + 1)).wait().unwrap();
    engine.close().wait().unwrap();
    drop((log, engine));
    assert!(verify(dir.path()).is_sound());
}

fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).position(|window| window == needle)
}

#[test]
fn zeros_stand_for_a_missing_segment_and_its_records_are_named() {
    let dir = tempfile::tempdir().unwrap();
    rich(dir.path());
    let file = segments(dir.path()).remove(1);
    let bytes = fs::read(&file).unwrap();
    let inside: Vec<_> = (0..250).filter(|n| find(&bytes, &payload(*n)[..64]).is_some()).collect();
    fs::remove_file(&file).unwrap();
    let report = verify(dir.path());
    assert_eq!(report.refused.len(), 1, "{report}");
    let repaired = Repair::new(dir.path()).run().unwrap();
    assert_eq!(repaired.steps.len(), 1, "{repaired}");
    assert!(repaired.lost.is_empty(), "no end moved");
    let losses: Vec<_> = repaired.after.losses().collect();
    let of_log = losses.iter().flat_map(|finding| &finding.at_risk).find_map(|at_risk| {
        matches!(at_risk, AtRisk::Records { name: Some(name), .. } if name == "g/log")
            .then(|| lost_records(at_risk))
    });
    let (first, end) = (inside[0], inside[inside.len() - 1] + 1);
    assert_eq!(of_log, Some(("g/log".to_owned(), first, end)), "{repaired}");
    let engine = options(dir.path()).open().unwrap();
    let read = numbers(&engine);
    let expected: Vec<_> = (0..250).map(|n| (n < first || end <= n).then_some(n)).collect();
    assert_eq!(read, expected);
    let log = engine.open_log("g/log").wait().unwrap();
    let mut reader = log.reader(From::Sequence(Sequence::new(end)));
    assert_eq!(reader.next().wait().unwrap().next().unwrap().payload, payload(end));
}

/// Damage does not pin the disk for ever: what was truncated behind it goes, and it with it.
#[test]
fn a_damaged_segment_is_freed_once_everything_in_it_is_truncated() {
    for how in ["missing", "header", "entry"] {
        let dir = tempfile::tempdir().unwrap();
        rich(dir.path());
        let file = segments(dir.path()).remove(0);
        let mut bytes = fs::read(&file).unwrap();
        match how {
            "missing" => bytes.clear(),
            "header" => bytes[20] ^= 1,
            _ => bytes[40 * 4096 + 9..][..8192].fill(0xEE),
        }
        if bytes.is_empty() {
            fs::remove_file(&file).unwrap()
        } else {
            fs::write(&file, bytes).unwrap()
        }
        fs::remove_file(file.with_extension("index")).unwrap();
        Repair::new(dir.path()).run().unwrap();
        let engine = options(dir.path()).open().unwrap();
        let end = Sequence::new(240);
        for name in ["g/log", "g/other"] {
            engine.open_log(name).wait().unwrap().truncate(end).wait().unwrap();
        }
        let out = engine.open_log("g/out").wait().unwrap();
        out.truncate(Sequence::new(24)).wait().unwrap();
        engine.drop_processor("g/p").wait().unwrap();
        let begin = std::time::Instant::now();
        while file.exists() {
            assert!(begin.elapsed().as_secs() < 20, "{how}: it stays");
            out.append("goes on").wait().unwrap();
        }
    }
}

#[test]
fn a_lost_newest_segment_and_a_damaged_manifest_are_given_up_whole() {
    for (how, damage) in [("lost", true), ("damaged", false)] {
        let dir = tempfile::tempdir().unwrap();
        rich(dir.path());
        let file = segments(dir.path()).pop().unwrap();
        let bytes = fs::read(&file).unwrap();
        let first = (0..250).find(|n| find(&bytes, &payload(*n)[..64]).is_some()).unwrap();
        if damage {
            fs::remove_file(&file).unwrap();
        } else {
            let mut bad = bytes.clone();
            bad[4_096 + 150] ^= 1;
            fs::write(&file, bad).unwrap();
        }
        options(dir.path()).open().unwrap_err();
        let repaired = Repair::new(dir.path()).run().unwrap();
        assert!(!repaired.steps.is_empty() && repaired.after.is_sound(), "{how}: {repaired}");
        let unknown = repaired.lost.iter().any(|(_, lost)| *lost == AtRisk::Unknown);
        assert!(unknown, "{how}: there may be more than is known: {repaired}");
        if !damage {
            let named = repaired.lost.iter().any(|(_, lost)| {
                matches!(lost, AtRisk::Records { name: Some(name), .. } if name == "g/log")
                    && lost_records(lost) == ("g/log".to_owned(), first, 250)
            });
            assert!(named, "{repaired}");
            let kept = repaired.kept.clone().unwrap().join("shard-000");
            assert!(kept.join(file.file_name().unwrap()).exists());
        }
        let engine = options(dir.path()).open().unwrap();
        assert_eq!(numbers(&engine), (0..first).map(Some).collect::<Vec<_>>(), "{how}");
        let log = engine.open_log("g/log").wait().unwrap();
        log.append("life goes on").wait().unwrap();
        engine.close().wait().unwrap();
        drop((log, engine));
        assert!(verify(dir.path()).is_sound());
        options(dir.path()).open().unwrap();
    }
}

#[test]
fn files_of_elsewhere_go_aside() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    rich(dir.path());
    rich(other.path());
    let newest = segments(dir.path()).pop().unwrap();
    let foreign = segments(other.path()).pop().unwrap();
    let name = format!("segment-{:016x}.log", 4_000);
    fs::copy(foreign, newest.with_file_name(name)).unwrap();
    assert!(matches!(options(dir.path()).open(), Err(OpenError::Foreign { .. })));
    let repaired = Repair::new(dir.path()).run().unwrap();
    assert!(repaired.lost.is_empty() && repaired.after.is_sound(), "{repaired}");
    assert_eq!(numbers(&options(dir.path()).open().unwrap()).len(), 250);
}

#[test]
fn a_shard_without_any_whole_segment_is_given_up_and_nothing_is_deleted() {
    let dir = tempfile::tempdir().unwrap();
    rich(dir.path());
    for path in segments(dir.path()) {
        let mut bytes = fs::read(&path).unwrap();
        bytes[..8192].fill(0);
        fs::write(&path, bytes).unwrap();
    }
    assert!(matches!(options(dir.path()).open(), Err(OpenError::MissingSegment { .. })));
    let files = segments_of_any_kind(dir.path());
    let repaired = Repair::new(dir.path()).run().unwrap();
    let kept = repaired.kept.clone().unwrap().join("shard-000");
    let logs = fs::read_dir(kept).unwrap().map(|file| file.unwrap().path());
    let logs = logs.filter(|path| path.extension().is_some_and(|end| end == "log"));
    assert_eq!(logs.count(), files, "{repaired}");
    let engine = options(dir.path()).open().unwrap();
    assert!(engine.list_logs("").wait().unwrap().is_empty());
    engine.create_log("new").wait().unwrap().append("x").wait().unwrap();
}

fn segments_of_any_kind(dir: &Path) -> usize {
    let files = fs::read_dir(dir.join("shard-000")).unwrap();
    let names = files.map(|file| file.unwrap().file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("segment-") && name.ends_with(".log")).count()
}

fn filled(dir: &Path, count: u64) {
    let engine = options(dir).open().unwrap();
    let log = engine.create_log("g/log").wait().unwrap();
    for n in 0..count {
        log.append(payload(n)).wait().unwrap();
    }
    engine.close().wait().unwrap();
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_lost_commit_without_output_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let engine = options(dir.path()).open().unwrap();
    let log = engine.create_log("g/log").wait().unwrap();
    let (mut processor, _) = engine.processor("g/p").source("g/log").open().wait().unwrap();
    for n in [1, 1, 0xAB] {
        log.append("record").wait().unwrap();
        processor.next().wait().unwrap();
        processor.commit(Commit::new().delta(vec![n; 1_000])).wait().unwrap();
    }
    engine.close().wait().unwrap();
    drop((processor, log, engine));
    let file = segments(dir.path()).pop().unwrap();
    change(&file, |bytes| {
        let at = find(bytes, &[0xAB; 500]).unwrap();
        bytes[at + 100] ^= 1;
    });
    assert!(verify(dir.path()).losses().any(|loss| loss.at_risk == [AtRisk::Unknown]));
    let repaired = Repair::new(dir.path()).run().unwrap();
    assert!(repaired.lost.iter().any(|(_, lost)| *lost == AtRisk::Unknown), "{repaired}");
    let engine = options(dir.path()).open().unwrap();
    let (_, restored) = engine.processor("g/p").open().wait().unwrap();
    assert_eq!(restored.commits, 2);
}

#[test]
fn a_shard_whose_directory_is_empty_is_not_given_up() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 250);
    fs::rename(dir.path().join("shard-000"), dir.path().join("away")).unwrap();
    fs::create_dir(dir.path().join("shard-000")).unwrap();
    let error = Repair::new(dir.path()).run().unwrap_err();
    assert!(matches!(error, OpenError::MissingSegment { .. }), "{error}");
    fs::remove_dir(dir.path().join("shard-000")).unwrap();
    fs::rename(dir.path().join("away"), dir.path().join("shard-000")).unwrap();
    assert!(verify(dir.path()).is_sound());
}

#[test]
fn no_segment_number_is_used_again_and_kept_files_are_told_of() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 250);
    let file = segments(dir.path()).pop().unwrap();
    change(&file, |bytes| bytes[4_096 + 150] ^= 1);
    let bytes = fs::read(&file).unwrap();
    let repaired = Repair::new(dir.path()).run().unwrap();
    let kept = repaired.kept.clone().unwrap();
    let copy = kept.join("shard-000").join(file.file_name().unwrap());
    assert_eq!(fs::read(&copy).unwrap(), bytes, "{repaired}");
    let report = fs::read_to_string(kept.join("report.txt")).unwrap();
    assert!(report.contains("moved aside") && report.contains("lost in shard 0"), "{report}");
    let engine = options(dir.path()).open().unwrap();
    let log = engine.open_log("g/log").wait().unwrap();
    for n in 0..150 {
        log.append(payload(n)).wait().unwrap();
        assert!(!file.exists(), "the number is used again");
    }
    engine.close().wait().unwrap();
    drop((log, engine));
    // As someone might who wants the file back.
    fs::copy(copy, &file).unwrap();
    assert!(matches!(options(dir.path()).open(), Err(OpenError::ExtraSegment { .. })));
}

#[test]
fn a_damaged_header_of_the_newest_segment_costs_nothing() {
    for count in [20, 250] {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path(), count);
        let file = segments(dir.path()).pop().unwrap();
        let good = fs::read(&file).unwrap();
        change(&file, |bytes| bytes[90] ^= 1);
        options(dir.path()).open().unwrap_err();
        let repaired = Repair::new(dir.path()).run().unwrap();
        assert!(repaired.lost.is_empty() && repaired.after.is_sound(), "{repaired}");
        assert_eq!(repaired.steps.len(), 1, "{repaired}");
        assert!(fs::read(&file).unwrap() == good, "made anew as it was");
        let read = numbers(&options(dir.path()).open().unwrap());
        assert_eq!(read, (0..count).map(Some).collect::<Vec<_>>());
    }
}

#[test]
fn a_stray_file_with_an_impossible_number_harms_nothing() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 10);
    let name = "shard-000/segment-9000000000000000.log";
    fs::write(dir.path().join(name), "").unwrap();
    let engine = options(dir.path()).open().unwrap();
    let log = engine.open_log("g/log").wait().unwrap();
    for n in 10..300 {
        log.append(payload(n)).wait().unwrap();
    }
    engine.close().wait().unwrap();
    drop((log, engine));
    assert!(verify(dir.path()).is_sound());
    assert_eq!(numbers(&options(dir.path()).open().unwrap()).len(), 300);
}
