//! The ten rules of exactly-once processing, each by a test named for it, on real files.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use oncelog::{
    AppendError, Batch, Commit, CommitError, Engine, From, LogError, NewRecord, Options,
    ProcessorError, Sequence,
};
use tempfile::TempDir;

fn options(dir: &Path) -> Options {
    Options::new(dir).shards(1).segment_size(1 << 20)
}

fn engine() -> (TempDir, Engine) {
    let dir = tempfile::tempdir().unwrap();
    let engine = options(dir.path()).open().unwrap();
    (dir, engine)
}

fn texts(deltas: &[oncelog::Bytes]) -> Vec<&str> {
    deltas.iter().map(|delta| std::str::from_utf8(delta).unwrap()).collect()
}

fn oldest_segment(dir: &Path) -> PathBuf {
    let files = std::fs::read_dir(dir.join("shard-000")).unwrap();
    let paths = files.map(|file| file.unwrap().path());
    let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
    let segments = paths.filter(|p| name(p).starts_with("segment-") && name(p).ends_with(".log"));
    segments.min().expect("the journal has begun")
}

/// Appends to a log of its own until the active segment was sealed `count` times.
fn roll(engine: &Engine, count: u64) {
    let filler = engine.open_or_create_log("g/filler").wait().unwrap();
    let segment = || engine.info().wait().unwrap().shards[0].stats.segment;
    let mut rolled = 0;
    let mut before = segment();
    while rolled < count {
        filler.append(vec![0xf1; 60_000]).wait().unwrap();
        let now = segment();
        rolled += u64::from(now != before);
        before = now;
    }
}

#[test]
fn rule_1_a_fresh_start_processes_record_zero_and_a_checkpoint_is_the_next_sequence() {
    let (_dir, engine) = engine();
    let log = engine.create_log("g/source").wait().unwrap();
    log.append_batch(["zero", "one"]).wait().unwrap();
    let open = || engine.processor("g/p").source("g/source").open().wait().unwrap();

    let (mut processor, restored) = open();
    assert_eq!(restored.positions[0].next, Sequence::FIRST);
    let mut records = processor.next().wait().unwrap().records;
    let zero = records.next().unwrap();
    assert_eq!((zero.sequence, &zero.payload[..]), (Sequence::new(0), &b"zero"[..]));
    processor.commit(Commit::new().through(&zero)).wait().unwrap();

    let (mut processor, restored) = open();
    assert_eq!(restored.positions[0].next, Sequence::new(1));
    let one = processor.next().wait().unwrap().records.next().unwrap();
    assert_eq!(one.payload, "one", "neither again nor skipped");
}

#[test]
fn rule_2_older_owners_are_fenced_before_the_checkpoint_is_read() {
    let (_dir, engine) = engine();
    engine.create_log("g/source").wait().unwrap();
    let open = || engine.processor("g/p").source("g/source").open().wait().unwrap();
    for _ in 0..20 {
        let before = open().1.commits;
        let (mut old, _) = open();
        let go = Arc::new(AtomicBool::new(false));
        let started = Arc::clone(&go);
        let committing = std::thread::spawn(move || {
            let mut acked = 0;
            loop {
                started.store(true, Ordering::Release);
                match old.commit(Commit::new().delta("d")).wait() {
                    Ok(_) => acked += 1,
                    Err(error) => return (acked, error),
                }
            }
        });
        while !go.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        let (new, restored) = open();
        let (acked, error) = committing.join().unwrap();
        let CommitError::Fenced { newer, .. } = error else { panic!("{error}") };
        assert_eq!(newer, new.epoch());
        // Whatever the old owner was told is in what the new one restored, and nothing else.
        assert_eq!(restored.commits - before, acked);
    }
}

#[test]
fn rule_3_a_checkpoint_that_cannot_be_read_is_an_error_not_a_fresh_start() {
    let (dir, engine) = engine();
    engine.create_log("g/source").wait().unwrap();
    let (mut processor, _) = engine.processor("g/p").source("g/source").open().wait().unwrap();
    processor.commit(Commit::new().delta("a delta to be damaged")).wait().unwrap();
    roll(&engine, 1);
    engine.close().wait().unwrap();
    drop((engine, processor));

    let segment = oldest_segment(dir.path());
    let mut bytes = std::fs::read(&segment).unwrap();
    let marker = b"a delta to be damaged";
    let at = bytes.windows(marker.len()).position(|window| window == marker).unwrap();
    bytes[at] ^= 1;
    std::fs::write(&segment, bytes).unwrap();

    let engine = options(dir.path()).open().unwrap();
    let error = engine.processor("g/p").open().wait().unwrap_err();
    assert!(matches!(&error, ProcessorError::Damaged(_)), "{error}");
    assert!(error.to_string().contains("\"g/p\""), "it names what is at risk: {error}");
}

#[test]
fn rule_4_a_failed_commit_ends_the_processor_and_nothing_overtakes_it() {
    let (_dir, engine) = engine();
    engine.create_log("g/source").wait().unwrap();
    let out = engine.create_log("g/out").wait().unwrap();
    let (mut processor, _) = engine.processor("g/p").source("g/source").open().wait().unwrap();
    processor.commit(Commit::new().delta("kept")).wait().unwrap();

    // The failing commit and one behind it are in flight together.
    let too_large = Commit::new().delta(vec![0; 200_000]);
    let failing = processor.commit(too_large);
    let behind = processor.commit(Commit::new().delta("never").output(&out, "never"));
    assert!(matches!(failing.wait(), Err(CommitError::TooLarge { .. })));
    assert!(matches!(behind.wait(), Err(CommitError::Ended)));
    assert!(matches!(processor.commit(Commit::new()).wait(), Err(CommitError::Ended)));
    assert_eq!(out.describe().wait().unwrap().next, Sequence::FIRST);

    let (mut processor, restored) = engine.processor("g/p").open().wait().unwrap();
    assert_eq!(texts(&restored.deltas), ["kept"]);
    processor.commit(Commit::new().delta("again")).wait().unwrap();
}

#[test]
fn rule_5_a_commit_may_carry_outputs_a_delta_both_or_only_the_position() {
    let (_dir, engine) = engine();
    let source = engine.create_log("g/source").wait().unwrap();
    let out = engine.create_log("g/out").wait().unwrap();
    source.append_batch(["a", "b", "c", "d"]).wait().unwrap();
    let (mut processor, _) = engine.processor("g/p").source("g/source").open().wait().unwrap();
    let records: Vec<_> = processor.next().wait().unwrap().records.collect();
    let commits = [
        Commit::new(),
        Commit::new().delta("delta"),
        Commit::new().output(&out, "output"),
        Commit::new().delta("both").output(&out, "both"),
    ];
    for (commit, record) in commits.into_iter().zip(&records) {
        processor.commit(commit.through(record)).wait().unwrap();
    }
    let (_, restored) = engine.processor("g/p").open().wait().unwrap();
    assert_eq!(texts(&restored.deltas), ["delta", "both"]);
    assert_eq!((restored.commits, restored.positions[0].next), (4, Sequence::new(4)));
    let outputs: Vec<_> = out.reader(From::Earliest).next().wait().unwrap().collect();
    assert_eq!(outputs.len(), 2);
    assert_eq!(outputs[1].payload, "both");
}

#[test]
fn rule_6_positions_are_a_map_and_changing_the_sources_is_an_explicit_act() {
    let (_dir, engine) = engine();
    let [a, b, c] = ["g/a", "g/b", "g/c"].map(|name| engine.create_log(name).wait().unwrap());
    for log in [&a, &b, &c] {
        log.append_batch(["0", "1"]).wait().unwrap();
    }
    let open = |sources: &[&str]| {
        let options = engine.processor("g/p");
        sources.iter().fold(options, |options, source| options.source(*source))
    };
    let (mut processor, _) = open(&["g/a", "g/b"]).open().wait().unwrap();
    let mut seen = Vec::new();
    for _ in 0..2 {
        seen.push(processor.next().wait().unwrap().log.name().to_owned());
    }
    seen.sort();
    assert_eq!(seen, ["g/a", "g/b"], "sources take turns");
    processor.commit(Commit::new().delta("both")).wait().unwrap();

    let refused = open(&["g/b", "g/c"]).open().wait().unwrap_err();
    assert!(refused.to_string().contains("change_sources"), "{refused}");
    assert!(matches!(refused, ProcessorError::OtherSources { .. }));
    let (processor, restored) = open(&["g/b", "g/c"]).change_sources().open().wait().unwrap();
    let next = |log| restored.positions.iter().find(|p| p.log == log).map(|p| p.next.get());
    assert_eq!((next(a.id()), next(b.id()), next(c.id())), (None, Some(2), Some(0)));
    assert_eq!(texts(&restored.deltas), ["both"], "the state stays");
    assert_eq!(processor.sources().count(), 2);
}

#[test]
fn rule_7_a_commit_that_does_not_follow_is_refused_when_made_and_when_read_back() {
    let (_dir, engine) = engine();
    let source = engine.create_log("g/source").wait().unwrap();
    source.append_batch(["a", "b"]).wait().unwrap();
    let open = || engine.processor("g/p").source("g/source").open().wait().unwrap().0;
    let at = |position| Commit::new().position(source.id(), Sequence::new(position));

    let mut processor = open();
    let beyond = processor.commit(at(3)).wait().unwrap_err();
    assert!(matches!(beyond, CommitError::Position { .. }), "{beyond}");
    let mut processor = open();
    processor.commit(at(2)).wait().unwrap();
    let back = processor.commit(at(1)).wait().unwrap_err();
    assert!(matches!(back, CommitError::Position { .. }), "{back}");
    let mut old = open();
    let mut new = open();
    new.commit(Commit::new()).wait().unwrap();
    assert!(matches!(old.commit(Commit::new()).wait(), Err(CommitError::Fenced { .. })));

    replay_refuses_what_does_not_follow();
}

fn replay_refuses_what_does_not_follow() {
    use oncelog::format::control::{Checkpoint, CheckpointState, Control, Link, SourcePosition};
    use oncelog::{Epoch, LogId, ReaderId, SegmentId};

    let at = Link { segment: SegmentId::new(1), offset: 4096, index: 0 };
    let log = LogId::new(1);
    let position = |next| vec![SourcePosition { log, next: Sequence::new(next) }];
    let reader = ReaderId::new(1);
    let mut catalog = oncelog::catalog::Catalog::default();
    let name = "g/source".to_owned();
    catalog.apply(&Control::LogCreated { log, created_us: 1, name }, at).unwrap();
    let opened = |epoch| Control::ReaderOpened {
        reader,
        epoch: Epoch::new(epoch),
        sources: position(0),
        name: "g/p".to_owned(),
    };
    catalog.apply(&opened(1), at).unwrap();
    catalog.apply(&opened(2), at).unwrap();
    let good = Checkpoint {
        reader,
        epoch: Epoch::new(2),
        number: 1,
        carried: false,
        previous: None,
        from: position(0),
        to: position(1),
        state: CheckpointState::None,
    };
    let wrong = [
        Checkpoint { epoch: Epoch::new(1), ..good.clone() },
        Checkpoint { number: 2, ..good.clone() },
        Checkpoint { from: position(1), to: position(2), ..good.clone() },
    ];
    for checkpoint in wrong {
        assert!(catalog.apply(&Control::Checkpoint(checkpoint), at).is_err());
    }
    catalog.apply(&Control::Checkpoint(good.clone()), at).unwrap();
    let gap = Checkpoint { number: 3, from: position(1), to: position(1), ..good.clone() };
    assert!(catalog.apply(&Control::Checkpoint(gap), at).is_err(), "numbers are dense");
    let back = Checkpoint { number: 2, from: position(1), to: position(0), ..good };
    assert!(catalog.apply(&Control::Checkpoint(back), at).is_err());
}

#[test]
fn rule_8_a_snapshot_replaces_the_deltas_is_asked_for_and_may_be_larger_than_an_entry() {
    let (dir, engine) = engine();
    engine.create_log("g/source").wait().unwrap();
    let (mut processor, _) = engine.processor("g/p").source("g/source").open().wait().unwrap();
    let mut due_after = 0;
    for count in 1.. {
        if processor.commit(Commit::new().delta("d")).wait().unwrap().snapshot_due {
            due_after = count;
            break;
        }
    }
    assert_eq!(due_after, 1024);
    // An entry is at most 128 KiB with segments of 1 MiB.
    let snapshot: Vec<u8> = (0..700_000_u32).flat_map(u32::to_le_bytes).collect();
    let commit = Commit::new().snapshot(snapshot.clone());
    assert!(!processor.commit(commit).wait().unwrap().snapshot_due);
    processor.commit(Commit::new().delta("after")).wait().unwrap();
    engine.close().wait().unwrap();
    drop((engine, processor));

    let engine = options(dir.path()).open().unwrap();
    let (_, restored) = engine.processor("g/p").open().wait().unwrap();
    assert!(restored.snapshot.as_deref() == Some(&snapshot[..]), "every part, in order");
    assert_eq!(texts(&restored.deltas), ["after"]);
}

#[test]
fn rule_8_parts_of_a_snapshot_count_only_once_a_commit_names_them() {
    let (_dir, engine) = engine();
    engine.create_log("g/source").wait().unwrap();
    let open = || engine.processor("g/p").source("g/source").open().wait().unwrap();
    let (mut old, _) = open();
    old.commit(Commit::new().snapshot("small")).wait().unwrap();
    let (_new, _) = open();
    // Its parts are refused like its commit.
    let late = old.commit(Commit::new().snapshot(vec![9; 500_000]));
    assert!(matches!(late.wait(), Err(CommitError::Fenced { .. })));
    assert_eq!(open().1.snapshot.as_deref(), Some(&b"small"[..]));
}

#[test]
fn rule_9_truncation_never_removes_what_a_checkpoint_or_its_state_needs() {
    let (dir, engine) = engine();
    let source = engine.create_log("g/source").wait().unwrap();
    source.append_batch((0..10).map(|n: u32| NewRecord::new(n.to_string()))).wait().unwrap();
    let (mut processor, _) = engine.processor("g/p").source("g/source").open().wait().unwrap();
    let fifth = processor.next().wait().unwrap().records.nth(4).unwrap();
    processor.commit(Commit::new().snapshot(vec![5; 100_000]).through(&fifth)).wait().unwrap();
    processor.commit(Commit::new().delta("delta").through(&fifth)).wait().unwrap();

    let refused = source.truncate(Sequence::new(6)).wait().unwrap_err();
    assert!(matches!(refused, LogError::Needed { .. }), "{refused}");
    source.truncate(Sequence::new(5)).wait().unwrap();

    // Everything else in the old segments goes; the state is carried out of them first.
    let first = oldest_segment(dir.path());
    let filler = engine.open_or_create_log("g/filler").wait().unwrap();
    let moved = engine.create_log("g/moved").wait().unwrap();
    roll(&engine, 1);
    processor.commit(Commit::new().position(source.id(), Sequence::new(10))).wait().unwrap();
    source.truncate(Sequence::new(10)).wait().unwrap();
    for _ in 0..200 {
        roll(&engine, 1);
        filler.truncate(filler.describe().wait().unwrap().next).wait().unwrap();
        moved.append("x").wait().unwrap();
        moved.truncate(moved.describe().wait().unwrap().next).wait().unwrap();
        if !first.exists() {
            break;
        }
    }
    assert!(!first.exists(), "the first segment's space is used again");
    let check = |engine: &Engine| {
        let (_, restored) = engine.processor("g/p").open().wait().unwrap();
        assert!(restored.snapshot.as_deref() == Some(&[5; 100_000][..]));
        assert_eq!(texts(&restored.deltas), ["delta"]);
        assert_eq!((restored.commits, restored.positions[0].next.get()), (3, 10));
    };
    check(&engine);
    engine.close().wait().unwrap();
    drop((engine, processor, source, filler, moved));
    check(&options(dir.path()).open().unwrap());
}

#[test]
fn rule_10_across_groups_there_is_no_atomic_commit_and_the_error_says_what_to_do() {
    let (_dir, engine) = engine();
    let source = engine.create_log("g/source").wait().unwrap();
    let other = engine.create_log("other/log").wait().unwrap();
    let refused = engine.processor("g/p").source("other/log").open().wait().unwrap_err();
    assert!(matches!(refused, ProcessorError::OtherGroup { .. }));
    assert!(refused.to_string().contains("idempotent append"), "{refused}");

    let (mut processor, _) = engine.processor("g/p").source("g/source").open().wait().unwrap();
    let refused = processor.commit(Commit::new().delta("d").output(&other, "x")).wait();
    let Err(CommitError::Output(AppendError::OtherGroup { .. })) = refused else {
        panic!("{refused:?}")
    };
    let batch = Batch::new().append(&source, "a").append(&other, "b").commit().wait();
    assert!(batch.unwrap_err().to_string().contains("\"g/..\""));
    assert_eq!(other.describe().wait().unwrap().next, Sequence::FIRST);
}
