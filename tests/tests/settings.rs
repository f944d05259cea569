//! What is set for a log while it is used, on a real engine: its end, its options, its name; and
//! the rates of the whole engine.
//!
//! Not here: retention (`space`), and reading up to the end (`reading`).

use std::path::Path;

use oncelog::limits::METADATA_SIZE_MAX;
use oncelog::{
    AppendError, Codec, Engine, From, Log, LogError, LogOptions, Options, Rates, Sequence,
};

fn open(dir: &Path) -> Engine {
    Options::new(dir).shards(2).segment_size(1 << 20).open().unwrap()
}

fn payloads(log: &Log) -> Vec<Vec<u8>> {
    let mut reader = log.reader(From::Earliest);
    let records = reader.iter_blocking().until_end();
    records.map(|record| record.unwrap().payload.to_vec()).collect()
}

#[test]
fn a_sealed_log_takes_nothing_more_whoever_asks_and_keeps_what_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let log = engine.create_log("g/log").wait().unwrap();
    let writer = log.writer("w").open().wait().unwrap();
    writer.append(1, ["one"]).wait().unwrap();
    // In flight together: what was sent before the seal is in, what is sent behind it is not.
    let (before, seal, behind) = (log.append("two"), log.seal(), log.append("three"));
    assert_eq!(before.wait().unwrap().first, Sequence::new(1));
    assert_eq!(seal.wait().unwrap(), Sequence::new(2));
    let error = behind.wait().unwrap_err();
    assert!(matches!(error, AppendError::Sealed { next } if next == Sequence::new(2)), "{error}");
    assert!(matches!(writer.append(2, ["x"]).wait(), Err(AppendError::Sealed { .. })));
    assert!(writer.append(1, ["one"]).wait().unwrap().repeated, "it is known where that stands");
    assert!(matches!(log.writer("v").open().wait(), Err(LogError::Sealed { .. })));
    assert_eq!(log.seal().wait().unwrap(), Sequence::new(2), "twice is fine");
    engine.close().wait().unwrap();

    let engine = open(dir.path());
    let log = engine.open_log("g/log").wait().unwrap();
    assert!(log.describe().wait().unwrap().sealed);
    assert!(log.append("four").wait().is_err());
    assert_eq!(payloads(&log), [b"one", b"two"]);
    // Truncating and dropping go on.
    log.truncate(Sequence::new(2)).wait().unwrap();
    engine.drop_log("g/log").wait().unwrap();
}

#[test]
fn options_are_durable_and_whoever_names_a_version_undoes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let options = LogOptions::default()
        .compression(Codec::Lz4)
        .record_size_max(1000)
        .keep_bytes(1 << 30)
        .keep_until("g/reader")
        .rates(Rates::default().bytes_soft(1 << 40))
        .metadata("owner=team-a");
    let log = engine.create_log_with("g/log", options.clone()).wait().unwrap();
    let info = log.describe().wait().unwrap();
    assert_eq!((&*info.options, info.options_version), (&options, 1));
    let error = log.append(vec![0; 1001]).wait().unwrap_err();
    assert!(matches!(error, AppendError::TooLarge { len: 1001, max: 1000 }), "{error}");
    log.append(vec![0; 1000]).wait().unwrap();

    let changed = options.clone().record_size_max(2000);
    assert_eq!(log.replace_options(1, changed.clone()).wait().unwrap().options_version, 2);
    let error = log.replace_options(1, LogOptions::default()).wait().unwrap_err();
    assert!(matches!(error, LogError::OptionsChanged { replaces: 1, version: 2, .. }), "{error}");
    engine.close().wait().unwrap();
    // In the journal behind its manifest, then in a manifest.
    for round in 0..2 {
        let engine = open(dir.path());
        let log = engine.open_log("g/log").wait().unwrap();
        let info = log.describe().wait().unwrap();
        assert_eq!((&*info.options, info.options_version), (&changed, 2), "round {round}");
        while engine.info().wait().unwrap().shards.iter().all(|shard| shard.stats.sealed == 0) {
            log.append_batch(vec![vec![7; 2000]; 20]).wait().unwrap();
        }
        engine.close().wait().unwrap();
    }
}

#[test]
fn options_that_cannot_be_are_refused_and_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let log = engine.create_log("g/log").wait().unwrap();
    let plain = LogOptions::default;
    let metadata = vec![1; METADATA_SIZE_MAX];
    log.set_options(plain().metadata(metadata)).wait().unwrap();
    let many = (0..17).fold(plain(), |options, n| options.keep_until(format!("g/{n}")));
    let refused = [
        (plain().metadata(vec![1; METADATA_SIZE_MAX + 1]), "4096"),
        (plain().keep_until("other/reader"), "group"),
        (plain().keep_until("no name"), "is no name"),
        (many, "16 at most"),
    ];
    for (options, why) in refused {
        let error = log.set_options(options.clone()).wait().unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
        assert!(engine.create_log_with("g/new", options).wait().is_err());
    }
    assert_eq!(log.describe().wait().unwrap().options_version, 1);
    assert!(engine.open_log("g/new").wait().is_err(), "not made either");
}

#[test]
fn compressed_records_are_read_back_as_they_were_and_take_less_of_the_disk() {
    let line =
        |n: usize| format!("{n} GET /orders/{} 200 user-agent: a browser\n", n * 7).repeat(9);
    let records: Vec<_> = (0..2000).map(line).collect();
    let mut stored = Vec::new();
    for codec in Codec::ALL {
        let dir = tempfile::tempdir().unwrap();
        let engine = open(dir.path());
        let options = LogOptions::default().compression(codec);
        let log = engine.create_log_with("g/log", options).wait().unwrap();
        for batch in records.chunks(100) {
            log.append_batch(batch.iter().cloned()).wait().unwrap();
        }
        let found = payloads(&log);
        assert!(found.iter().eq(records.iter().map(|record| record.as_bytes())), "{codec:?}");
        // One record out of the middle, and from a position.
        assert_eq!(log.get(Sequence::new(999)).wait().unwrap().unwrap().payload, records[999]);
        let info = engine.info().wait().unwrap();
        stored.push(info.shards.iter().map(|shard| shard.stats.commit.bytes).sum::<u64>());
        engine.close().wait().unwrap();
        let engine = open(dir.path());
        let found = payloads(&engine.open_log("g/log").wait().unwrap());
        assert!(found.iter().eq(records.iter().map(|record| record.as_bytes())), "{codec:?}");
    }
    assert!(stored[1] * 3 < stored[0] && stored[2] * 3 < stored[0], "{stored:?}");
}

#[test]
fn compression_changes_from_entry_to_entry_while_a_log_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let (log, plain) = (engine.create_log("g/log"), engine.create_log("g/plain"));
    let (log, plain) = (log.wait().unwrap(), plain.wait().unwrap());
    let mut reader = log.reader(From::Earliest);
    for round in 0..12 {
        let codec = Codec::ALL[round % 3];
        log.set_options(LogOptions::default().compression(codec)).wait().unwrap();
        let text = format!("round {round} ").repeat(300);
        let both = oncelog::Batch::new().append(&log, text.clone()).append(&plain, text.clone());
        both.commit().wait().unwrap();
        let read: Vec<_> = reader.next().wait().unwrap().collect();
        assert_eq!((read.len(), &read[0].payload[..]), (1, text.as_bytes()));
    }
    assert_eq!(payloads(&log), payloads(&plain));
}

#[test]
fn a_log_is_renamed_inside_its_group_with_all_that_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let log = engine.create_log("g/old").wait().unwrap();
    log.append("before").wait().unwrap();
    let writer = log.writer("w").open().wait().unwrap();
    writer.append(1, ["one"]).wait().unwrap();
    let processor = engine.processor("g/reader").source("g/old");
    let (mut processor, _) = processor.open().wait().unwrap();
    engine.create_log("g/taken").wait().unwrap();
    let refused = |name: &str| log.rename(name).wait().unwrap_err().to_string();
    assert!(refused("g/taken").contains("exists"));
    assert!(refused("other/new").contains("stays in its group"));
    assert!(refused("a b").contains("is no name"));

    let renamed = log.rename("g/new").wait().unwrap();
    assert_eq!((renamed.name(), log.name(), renamed.id()), ("g/new", "g/old", log.id()));
    log.append("by the old handle").wait().unwrap();
    assert!(writer.append(1, ["one"]).wait().unwrap().repeated);
    assert_eq!(processor.next().wait().unwrap().records.len(), 3);
    processor.commit(oncelog::Commit::new()).wait().unwrap();
    assert!(matches!(engine.open_log("g/old").wait(), Err(LogError::NoSuchLog { .. })));
    let other = engine.create_log("g/old").wait().unwrap();
    assert_ne!(other.id(), log.id());
    engine.close().wait().unwrap();

    let engine = open(dir.path());
    let log = engine.open_log("g/new").wait().unwrap();
    assert_eq!(payloads(&log).len(), 3);
    assert!(payloads(&engine.open_log("g/old").wait().unwrap()).is_empty());
    let (_, restored) = engine.processor("g/reader").open().wait().unwrap();
    assert_eq!(restored.positions[0].next, Sequence::new(3));
}

#[test]
fn beyond_a_hard_rate_appends_are_refused_and_told_when_to_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    // One record in ten seconds' worth comes at once; the next ones are far away.
    let slow = LogOptions::default().rates(Rates::default().bytes_hard(10));
    let log = engine.create_log_with("g/log", slow).wait().unwrap();
    log.append(vec![0; 1000]).wait().unwrap();
    let error = log.append("x").wait().unwrap_err();
    let AppendError::OverCapacity { of: "log", retry_after_us } = error else { panic!("{error}") };
    assert!(retry_after_us > 50_000_000 && retry_after_us <= 100_000_000, "{retry_after_us}");
    assert!(log.append_batch(["a", "b"]).wait().is_err());
    let writer = log.writer("w").open().wait().unwrap();
    assert!(writer.append(1, ["x"]).wait().is_err());
    // Outputs of processors count and are never refused; other logs go on.
    let other = engine.create_log("g/other").wait().unwrap();
    other.append("x").wait().unwrap();
    let (mut processor, _) = engine.processor("g/p").source("g/other").open().wait().unwrap();
    processor.next().wait().unwrap();
    processor.commit(oncelog::Commit::new().output(&log, "out")).wait().unwrap();
    log.set_options(LogOptions::default()).wait().unwrap();
    log.append("x").wait().unwrap();

    engine.set_rates(Rates::default().records_hard(2)).wait().unwrap();
    let refused = (0..20).find_map(|_| other.append("y").wait().err());
    let error = refused.expect("two a second, one for each shard");
    assert!(matches!(error, AppendError::OverCapacity { of: "engine", .. }), "{error}");
    engine.close().wait().unwrap();
    let engine = open(dir.path());
    let other = engine.open_log("g/other").wait().unwrap();
    assert!((0..20).any(|_| other.append("z").wait().is_err()), "rates are durable");
    engine.set_rates(Rates::default()).wait().unwrap();
    assert!((0..20).all(|_| other.append("z").wait().is_ok()));
}

#[test]
fn logs_are_listed_in_pages_over_all_shards() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let mut names: Vec<_> = (0..50).map(|n| format!("g{}/log-{n}", n % 5)).collect();
    let logs: Vec<_> = names.iter().map(|name| engine.create_log(name.as_str())).collect();
    for log in logs {
        log.wait().unwrap();
    }
    names.sort_unstable();
    for (prefix, limit) in [("", 7), ("g3/", 3), ("g", 50), ("g1/log-1", 1), ("h", 5)] {
        let (mut found, mut after) = (Vec::new(), String::new());
        loop {
            let page = engine.list_logs_page(prefix, &after, limit).wait().unwrap();
            assert!(page.len() <= limit);
            let Some(last) = page.last() else { break };
            after.clone_from(&last.name);
            found.extend(page.into_iter().map(|info| info.name));
        }
        let expected = names.iter().filter(|name| name.starts_with(prefix));
        assert!(found.iter().eq(expected), "{prefix:?} by {limit}");
    }
    assert_eq!(engine.list_logs("g2/").wait().unwrap().len(), 10);
}
