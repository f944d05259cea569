//! A hundred thousand logs in one shard with default settings: they fit, over restarts and rolls.
//!
//! Not here: how long that takes and what it costs (`cargo run --release --example many_logs`).

use std::path::Path;

use oncelog::{Engine, From, LogError, Options};

const COUNT: usize = 100_000;

fn open(dir: &Path) -> Engine {
    Options::new(dir).shards(1).open().unwrap()
}

fn name(number: usize) -> String {
    format!("tenants/tenant-{number:06}/events")
}

fn create(engine: &Engine, numbers: std::ops::Range<usize>) -> Result<(), LogError> {
    let names: Vec<_> = numbers.map(name).collect();
    for names in names.chunks(1000) {
        let created: Vec<_> = names.iter().map(|name| engine.create_log(name.as_str())).collect();
        created.into_iter().try_for_each(|log| log.wait().map(drop))?;
    }
    Ok(())
}

#[test]
fn a_hundred_thousand_logs_fit_and_their_space_is_used_again_once_they_are_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    create(&engine, 0..COUNT).unwrap();
    engine.close().wait().unwrap();

    let engine = open(dir.path());
    let log = engine.open_log(name(COUNT / 2)).wait().unwrap();
    log.append("one").wait().unwrap();
    // Into the next segment, whose manifest holds them all.
    let segments = |engine: &Engine| engine.info().wait().unwrap().shards[0].stats.segment;
    let before = segments(&engine);
    let block = vec![7; 900_000];
    while segments(&engine) == before {
        log.append(block.clone()).wait().unwrap();
    }
    engine.close().wait().unwrap();
    let engine = open(dir.path());
    assert_eq!(engine.list_logs("tenants/tenant-").wait().unwrap().len(), COUNT);
    let log = engine.open_log(name(COUNT / 2)).wait().unwrap();
    assert_eq!(log.reader(From::Earliest).next().wait().unwrap().next().unwrap().payload, "one");

    // More are refused with the limit before a manifest grows too large; dropping makes room.
    let error = create(&engine, COUNT..2 * COUNT).unwrap_err();
    assert!(matches!(error, LogError::TooMany { size, max } if size > max), "{error}");
    let dropped: Vec<_> = (0..1000).map(name).collect();
    for name in &dropped {
        engine.drop_log(name).wait().unwrap();
    }
    create(&engine, 0..1000).unwrap();
}
