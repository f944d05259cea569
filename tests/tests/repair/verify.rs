//! What `Verify` says: sound is called sound, damage is named with what it lost.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use oncelog::{AtRisk, Commit, OpenError, Repair, Sequence, Severity, Verify};

use super::{
    change, damage_record, filled, lost_records, numbers, options, rich, segments, verify,
};

#[test]
fn what_is_sound_is_called_sound_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    rich(dir.path());
    let (mut last, mut calls) = (0, 0);
    let report = Verify::new(dir.path())
        .progress(|progress| {
            assert!(last < progress.done && progress.done <= progress.total);
            (last, calls) = (progress.done, calls + 1);
        })
        .run()
        .unwrap();
    assert!(report.is_sound() && report.findings.is_empty(), "{report}");
    assert_eq!((report.logs, report.processors), (3, 1));
    assert_eq!(report.segments, segments(dir.path()).len() as u64);
    assert!(report.segments >= 3 && calls >= report.segments);
    // All but what the truncation and the drop freed, and that is in the segments that stay.
    assert_eq!(report.records, 250 + 250 + 25 + 1);

    let repaired = Repair::new(dir.path()).run().unwrap();
    assert!(repaired.steps.is_empty() && repaired.lost.is_empty(), "{repaired}");
    assert_eq!(numbers(&options(dir.path()).open().unwrap()).len(), 250);
}

#[test]
fn a_directory_in_use_or_of_no_engine_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let error = Verify::new(dir.path()).run().unwrap_err();
    assert!(matches!(error, OpenError::Foreign { .. }), "{error}");
    assert!(fs::read_dir(dir.path()).unwrap().next().is_none(), "nothing was made");
    let _engine = options(dir.path()).open().unwrap();
    let error = Verify::new(dir.path()).run().unwrap_err();
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    let error = Repair::new(dir.path()).run().unwrap_err();
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
}

#[test]
fn damaged_records_are_named_with_place_log_and_sequence() {
    let dir = tempfile::tempdir().unwrap();
    rich(dir.path());
    let file = damage_record(dir.path(), 17);
    let report = verify(dir.path());
    assert!(report.refused.is_empty() && !report.is_sound());
    let losses: Vec<_> = report.losses().collect();
    assert_eq!(losses.len(), 1, "{report}");
    assert!(file.ends_with(&losses[0].path) && losses[0].offset > 0);
    assert_eq!(losses[0].at_risk.len(), 1);
    assert_eq!(lost_records(&losses[0].at_risk[0]), ("g/log".to_owned(), 17, 18));
    // Nothing can be done about it, and nothing else is given up.
    let repaired = Repair::new(dir.path()).run().unwrap();
    assert!(repaired.steps.is_empty() && repaired.lost.is_empty(), "{repaired}");
    let read = numbers(&options(dir.path()).open().unwrap());
    let expected: Vec<_> = (0..250).map(|n| (n != 17).then_some(n)).collect();
    assert_eq!(read, expected);
}

#[test]
fn a_whole_entry_that_is_gone_is_named_by_what_stands_around_it() {
    let dir = tempfile::tempdir().unwrap();
    rich(dir.path());
    let path = segments(dir.path()).remove(1);
    let mut bytes = fs::read(&path).unwrap();
    // Any block that begins with an entry's magic, in the middle of the file.
    let at = (20..).map(|n| n * 4096).find(|at| &bytes[at + 8..at + 12] == b"ent1").unwrap();
    bytes[at..at + 4096].fill(0);
    fs::write(&path, bytes).unwrap();
    let report = verify(dir.path());
    let losses: Vec<_> = report.losses().collect();
    assert_eq!(losses.len(), 1, "{report}");
    assert_eq!(losses[0].offset, at as u64);
    let mut names: Vec<_> = losses[0].at_risk.iter().map(lost_records).collect();
    names.sort();
    assert_eq!((names[0].0.as_str(), names[1].0.as_str()), ("g/log", "g/other"), "{report}");
    assert_eq!((names[0].1, names[0].2), (names[1].1, names[1].2));
    let (first, end) = (names[0].1, names[0].2);
    let read = numbers(&options(dir.path()).open().unwrap());
    let expected: Vec<_> = (0..250).map(|n| (n < first || end <= n).then_some(n)).collect();
    assert_eq!(read, expected);
}

#[test]
fn damage_to_what_is_truncated_or_stands_twice_is_no_loss() {
    let dir = tempfile::tempdir().unwrap();
    rich(dir.path());
    damage_record(dir.path(), 0);
    let engine = options(dir.path()).open().unwrap();
    let (mut processor, _) = engine.processor("g/p").open().wait().unwrap();
    processor.commit(Commit::new().snapshot("small")).wait().unwrap();
    let log = engine.open_log("g/log").wait().unwrap();
    log.truncate(Sequence::new(1)).wait().unwrap();
    engine.close().wait().unwrap();
    drop((log, processor, engine));
    let meta = dir.path().join("engine.meta");
    let mut bytes = fs::read(&meta).unwrap();
    bytes[4096 + 20] ^= 1;
    fs::write(&meta, bytes).unwrap();
    let index = segments(dir.path())[0].with_extension("index");
    let mut bytes = fs::read(&index).unwrap();
    bytes[100] ^= 1;
    fs::write(&index, bytes).unwrap();

    let report = verify(dir.path());
    assert!(report.is_sound(), "{report}");
    let harmless = |severity: &Severity| *severity == Severity::Redundant;
    assert_eq!(report.findings.iter().filter(|f| harmless(&f.severity)).count(), 3, "{report}");
    let repaired = Repair::new(dir.path()).run().unwrap();
    assert_eq!(repaired.steps.len(), 2, "superblock and index: {repaired}");
    assert!(repaired.lost.is_empty() && repaired.kept.is_none());
    assert_eq!(repaired.after.findings.len(), 1, "{repaired}");
}

#[test]
fn a_damaged_state_is_named_by_its_processor() {
    let dir = tempfile::tempdir().unwrap();
    rich(dir.path());
    for path in segments(dir.path()) {
        let mut bytes = fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(100).position(|window| window == [7; 100]) {
            // Records of 10,000 bytes are never all 7 up to their end.
            let Some(at) = (at..bytes.len() - 20_000)
                .step_by(1_000)
                .find(|at| bytes[*at..*at + 20_000].iter().all(|byte| *byte == 7))
            else {
                continue;
            };
            bytes[at] ^= 1;
            fs::write(&path, bytes).unwrap();
            break;
        }
    }
    let report = verify(dir.path());
    let losses: Vec<_> = report.losses().collect();
    assert_eq!(losses.len(), 1, "{report}");
    assert_eq!(losses[0].at_risk, [AtRisk::State { processor: "g/p".to_owned() }]);
    let engine = options(dir.path()).open().unwrap();
    let error = engine.processor("g/p").open().wait().unwrap_err();
    assert!(error.to_string().contains("cannot be restored"), "{error}");
}

#[test]
fn a_lost_beginning_of_the_oldest_segment_is_a_loss() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 250);
    let file = segments(dir.path()).remove(0);
    change(&file, |bytes| bytes[..128 * 1024].fill(0));
    fs::remove_file(file.with_extension("index")).unwrap();
    let report = verify(dir.path());
    let lost: Vec<_> = report.losses().flat_map(|finding| &finding.at_risk).collect();
    let read = numbers(&options(dir.path()).open().unwrap());
    let first_read = read.iter().position(Option::is_some).unwrap() as u64;
    assert_eq!(lost.len(), 1, "{report}");
    assert_eq!(lost_records(lost[0]), ("g/log".to_owned(), 0, first_read), "{report}");
}

#[test]
fn one_damage_is_one_loss_also_where_the_engine_does_not_open() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 350);
    let file = segments(dir.path()).pop().unwrap();
    change(&file, |bytes| {
        let is_entry = |at: &usize| &bytes[at + 8..at + 12] == b"ent1";
        let at = (3..).map(|n| n * 4096).find(is_entry).unwrap();
        bytes[at + 5_000] ^= 1;
    });
    let report = verify(dir.path());
    assert_eq!((report.refused.len(), report.losses().count()), (1, 1), "{report}");
}

/// Whatever a killed process leaves is an ordinary crash: there is nothing to find or to do.
#[test]
fn what_a_killed_process_leaves_is_sound() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = 7_u64;
    for _ in 0..8 {
        let mut worker = Command::new(env!("CARGO_BIN_EXE_kill_worker"))
            .arg(dir.path())
            .arg("plain")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(worker.stdout.take().unwrap()).lines();
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (0..1 + (random >> 54)).for_each(|_| drop(lines.next()));
        worker.kill().unwrap();
        worker.wait().unwrap();
        let report = verify(dir.path());
        assert!(report.is_sound(), "{report}");
        let repaired = Repair::new(dir.path()).run().unwrap();
        assert!(repaired.steps.is_empty() && repaired.lost.is_empty(), "{repaired}");
    }
}
