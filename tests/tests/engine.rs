//! What a program that links the engine relies on, on real files, with both runners.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};

use oncelog::{
    AppendError, Batch, DirectIo, Dlsn, Engine, From, IoMode, LogError, NewRecord, OpenError,
    Options, ReadError, SegmentId, Sequence, SyncMethod, TxId,
};

fn options(dir: &Path) -> Options {
    Options::new(dir).shards(1).segment_size(1 << 20)
}

/// Runs a test in a directory of its own for each way of doing I/O.
fn for_each_way(test: impl Fn(&dyn Fn() -> Engine, &Path)) {
    type Way = fn(Options) -> Options;
    let ways: [(&str, Way); 4] = [
        ("ring", |options| options.io_mode(IoMode::Ring)),
        ("plain", |options| options.io_mode(IoMode::Plain)),
        ("fdatasync", |options| options.sync_method(SyncMethod::Fdatasync)),
        ("page cache", |options| options.direct_io(DirectIo::Never)),
    ];
    for (name, way) in ways {
        println!("{name}");
        let dir = tempfile::tempdir().unwrap();
        if name == "ring"
            && let Err(error) = way(options(&dir.path().join("probe"))).open()
        {
            // Some containers refuse it; the other ways are what they use.
            println!("skipped: {error}");
            continue;
        }
        test(&|| way(options(dir.path())).open().unwrap(), dir.path());
    }
}

fn payloads(log: &oncelog::Log, from: From) -> Vec<String> {
    let mut reader = log.reader(from).max_bytes(10_000);
    let mut found = Vec::new();
    while let Some(records) = reader.try_next().wait().unwrap() {
        found.extend(records.map(|record| String::from_utf8(record.payload.to_vec()).unwrap()));
    }
    found
}

#[test]
fn what_was_appended_is_read_back_from_every_position_also_after_reopening() {
    for_each_way(|open, _| {
        let engine = open();
        let log = engine.create_log("g/log").wait().unwrap();
        let expected: Vec<String> =
            (0..3000).map(|n| format!("{n}-{}", "x".repeat(n % 700))).collect();
        let pending: Vec<_> = expected.iter().map(|text| log.append(text.clone())).collect();
        let appended: Vec<_> = pending.into_iter().map(|append| append.wait().unwrap()).collect();
        for (n, appended) in appended.iter().enumerate() {
            assert_eq!((appended.first.get(), appended.count), (n as u64, 1));
        }
        let check = |log: &oncelog::Log| {
            assert_eq!(payloads(log, From::Earliest), expected);
            assert!(payloads(log, From::Latest).is_empty());
            for n in [0, 1, 1234, 2999] {
                assert_eq!(payloads(log, From::Sequence(Sequence::new(n as u64))), expected[n..]);
                assert_eq!(payloads(log, From::Dlsn(appended[n].dlsn.unwrap())), expected[n..]);
                let record = log.get(Sequence::new(n as u64)).wait().unwrap().unwrap();
                assert_eq!(record.payload, expected[n]);
                assert_eq!(Some(record.dlsn), appended[n].dlsn);
            }
            assert!(log.get(Sequence::new(3000)).wait().unwrap().is_none());
            let before_all = Dlsn::new(SegmentId::new(0), 0, 0);
            assert_eq!(payloads(log, From::Dlsn(before_all)).len(), expected.len());
        };
        check(&log);
        engine.close().wait().unwrap();
        drop((engine, log));
        let engine = open();
        check(&engine.open_log("g/log").wait().unwrap());
    });
}

#[test]
fn a_reader_in_sequence_asks_ahead_and_still_misses_nothing_and_returns_nothing_truncated() {
    let dir = tempfile::tempdir().unwrap();
    let engine = options(dir.path()).tail_cache_size(0).open().unwrap();
    let log = engine.create_log("log").wait().unwrap();
    let record = |n: u64| format!("{n}-{}", "x".repeat(2000));
    let append = |from: u64, to: u64| {
        for first in (from..to).step_by(50) {
            let batch = (first..first + 50).map(|n| NewRecord::from(record(n)));
            log.append_batch(batch).wait().unwrap();
        }
    };
    append(0, 4000);
    // Eight requests of one batch each are under way when the third batch was read.
    let mut reader = log.reader(From::Earliest).max_bytes(1);
    let mut next = 0;
    while next < 300 {
        for read in reader.next().wait().unwrap() {
            assert_eq!((read.sequence.get(), &read.payload[..]), (next, record(next).as_bytes()));
            next += 1;
        }
    }
    // All that is under way, and more, goes away: what was read ahead is not returned any more.
    log.truncate(Sequence::new(3000)).wait().unwrap();
    let first = match reader.next().wait() {
        Err(ReadError::Truncated { first }) => first,
        other => panic!("{other:?} although it was truncated"),
    };
    // From there on to the end, and what comes while it reads.
    let (mut reader, mut next) = (log.reader(From::Sequence(first)).max_bytes(1), first.get());
    append(4000, 4100);
    while next < 4200 {
        for read in reader.next().wait().unwrap() {
            assert_eq!((read.sequence.get(), &read.payload[..]), (next, record(next).as_bytes()));
            next += 1;
        }
        if next == 4100 {
            assert!(reader.try_next().wait().unwrap().is_none());
            append(4100, 4200);
        }
    }
}

/// A task that its waker drops, as an executor may that is gone.
struct Dropped(Mutex<Option<Pin<Box<dyn Future<Output = ()> + Send>>>>);

impl Wake for Dropped {
    fn wake(self: Arc<Self>) {
        drop(self.0.lock().unwrap().take());
    }
}

#[test]
fn the_last_handle_may_die_in_a_waker_while_a_client_does_the_work_of_the_shard() {
    let dir = tempfile::tempdir().unwrap();
    let engine = options(dir.path()).open().unwrap();
    let log = engine.create_log("log").wait().unwrap();
    log.append("first").wait().unwrap();
    let mut reader = log.reader(From::Earliest);
    assert_eq!(reader.next().wait().unwrap().len(), 1);
    // Reading in sequence: it waits for the next record, and for where that ends.
    let task = Arc::new(Dropped(Mutex::new(None)));
    let mut reading: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async move {
        reader.next().await.unwrap();
    });
    let waker = Waker::from(task.clone());
    assert!(reading.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    *task.0.lock().unwrap() = Some(reading);
    let (done, heard) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        // Appends that are waited for one by one are carried out by this thread, and so the last.
        let other = engine.create_log("other").wait().unwrap();
        (0..20).for_each(|_| assert!(other.append("waited for").wait().is_ok()));
        let append = log.append("second");
        drop((engine, log, other));
        done.send(append.wait().is_ok())
    });
    let answer = heard.recv_timeout(std::time::Duration::from_secs(20));
    assert_eq!(answer, Ok(true), "the append, the reader and the engine wait for each other");
    // It closes by itself, and lets the directory go.
    let engine = loop {
        match options(dir.path()).open() {
            Ok(engine) => break engine,
            Err(OpenError::InUse { .. }) => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(payloads(&engine.open_log("log").wait().unwrap(), From::Earliest).len(), 2);
}

#[test]
fn a_clean_close_goes_on_in_the_same_segment_and_a_dropped_engine_too() {
    for_each_way(|open, _| {
        let segment = |engine: &Engine| engine.info().wait().unwrap().shards[0].stats.segment;
        let engine = open();
        engine.create_log("log").wait().unwrap().append("a").wait().unwrap();
        let first = segment(&engine);
        engine.close().wait().unwrap();
        drop(engine);
        let engine = open();
        assert_eq!(segment(&engine), first);
        engine.open_log("log").wait().unwrap().append("b").wait().unwrap();
        drop(engine);
        let engine = open();
        assert_eq!(segment(&engine), first);
        assert_eq!(payloads(&engine.open_log("log").wait().unwrap(), From::Earliest), ["a", "b"]);
    });
}

#[test]
fn a_reader_at_the_tail_is_woken_by_a_lone_record() {
    for_each_way(|open, _| {
        let engine = open();
        let log = engine.create_log("log").wait().unwrap();
        let mut reader = log.reader(From::Latest);
        let waiting = std::thread::spawn(move || {
            let records: Vec<_> = reader.next().wait().unwrap().collect();
            records[0].payload.clone()
        });
        // Until the thread reads, "latest" may be behind the record: so append until it has one.
        while !waiting.is_finished() {
            log.append("wake up").wait().unwrap();
        }
        assert_eq!(waiting.join().unwrap(), "wake up");
    });
}

#[test]
fn a_client_that_waits_alone_writes_by_itself_and_one_that_does_not_wait_is_served() {
    for_each_way(|open, _| {
        let engine = open();
        let log = engine.create_log("log").wait().unwrap();
        let turns = |engine: &Engine| {
            engine.info().wait().unwrap().shards.iter().map(|shard| shard.client_turns).sum::<u64>()
        };
        let before = turns(&engine);
        let mut reader = log.reader(From::Earliest);
        for n in 0..200_u64 {
            assert_eq!(log.append("waited for").wait().unwrap().first.get(), 2 * n);
            // While clients lead, this one does not ring; it comes through all the same.
            drop(log.append("not waited for"));
            let mut seen = 0;
            while seen < 2 {
                seen += reader.next().wait().unwrap().count();
            }
        }
        assert!(turns(&engine) > before, "nobody but the shard's thread wrote");
    });
}

#[test]
fn an_ack_means_that_a_reader_sees_the_record() {
    let dir = tempfile::tempdir().unwrap();
    let engine = options(dir.path()).open().unwrap();
    let log = engine.create_log("log").wait().unwrap();
    let mut reader = log.reader(From::Earliest);
    for n in 0..200 {
        log.append(n.to_string()).wait().unwrap();
        let records: Vec<_> = reader.try_next().wait().unwrap().unwrap().collect();
        assert_eq!(records.len(), 1);
        assert_eq!(records[0].payload, n.to_string());
    }
}

#[test]
fn a_dropped_future_tears_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let engine = options(dir.path()).open().unwrap();
    let log = engine.create_log("log").wait().unwrap();
    let mut context = Context::from_waker(Waker::noop());
    for n in 0..1000_u32 {
        let mut append = log.append(n.to_string());
        if n % 2 == 0 {
            let _ = std::pin::Pin::new(&mut append).poll(&mut context);
        }
        drop(append);
        let mut reader = log.reader(From::Earliest);
        let mut next = reader.next();
        let _ = std::pin::Pin::new(&mut next).poll(&mut context);
    }
    log.append("last").wait().unwrap();
    // On its way when the call returned: every one is there, once, in order.
    let mut expected: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
    expected.push("last".to_owned());
    assert_eq!(payloads(&log, From::Earliest), expected);

    let mut reader = log.reader(From::Latest);
    let mut next = reader.next();
    assert!(std::pin::Pin::new(&mut next).poll(&mut context).is_pending());
    drop(next);
    // The request of the dropped call is still under way, and not lost to the next one.
    log.append("new").wait().unwrap();
    assert_eq!(reader.next().wait().unwrap().next().unwrap().payload, "new");
}

#[test]
fn a_full_inbox_pushes_back_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let engine = options(dir.path()).inbox_size(4096).open().unwrap();
    let log = engine.create_log("log").wait().unwrap();
    let pending: Vec<_> = (0..500).map(|_| log.append(vec![1; 1000])).collect();
    let busy = (0..10_000).find_map(|_| match log.try_append(vec![2; 3000]) {
        Err(AppendError::Busy { waiting }) => Some(waiting),
        _ => None,
    });
    assert!(busy.is_some_and(|waiting| waiting > 0));
    for append in pending {
        append.wait().unwrap();
    }
    let larger_than_the_inbox = log.append(vec![3; 50_000]).wait().unwrap();
    assert!(larger_than_the_inbox.first.get() >= 500);
}

#[test]
fn a_batch_over_several_logs_is_whole() {
    for_each_way(|open, _| {
        let engine = open();
        let [a, b] = ["g/a", "g/b"].map(|name| engine.create_log(name).wait().unwrap());
        a.append("before").wait().unwrap();
        let batch = Batch::new().append(&a, "1").append(&b, "2").append(&a, "3");
        let appended = batch.commit().wait().unwrap();
        assert_eq!((appended[0].first.get(), appended[0].count), (1, 2));
        assert_eq!((appended[1].first.get(), appended[1].count), (0, 1));
        let entries = appended.iter().map(|part| part.dlsn.unwrap().entry());
        assert_eq!(entries.collect::<std::collections::BTreeSet<_>>().len(), 1, "one entry");
        assert_eq!(payloads(&a, From::Earliest), ["before", "1", "3"]);

        let empty = a.append_batch(Vec::<NewRecord>::new()).wait().unwrap();
        assert_eq!((empty.first.get(), empty.count, empty.dlsn), (3, 0, None));
        assert_eq!(Batch::new().commit().wait().unwrap(), []);
    });
}

#[test]
fn what_is_too_large_or_out_of_order_is_refused_whole_and_says_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    let engine = options(dir.path()).open().unwrap();
    let log = engine.create_log("log").wait().unwrap();
    let max = 128 * 1024 - 4096;
    log.append(vec![0; max]).wait().unwrap();
    let error = log.append(vec![0; max + 1]).wait().unwrap_err();
    assert!(matches!(error, AppendError::TooLarge { .. }));
    assert!(error.to_string().contains(&max.to_string()), "{error}");
    let batch = log.append_batch([vec![0; 10], vec![0; max + 1]]).wait().unwrap_err();
    assert!(matches!(batch, AppendError::TooLarge { .. }));
    let batch = log.append_batch(vec![vec![0; 1000]; 200]).wait().unwrap_err();
    assert!(matches!(batch, AppendError::BatchTooLarge { .. }), "{batch}");

    let at = |txid| NewRecord::new("x").with_txid(TxId::new(txid));
    log.append(at(10)).wait().unwrap();
    log.append(at(10)).wait().unwrap();
    let error = log.append(at(9)).wait().unwrap_err();
    assert_eq!(
        error.to_string(),
        "transaction id 9 is below 10, the last one of the log; it never \
                                   decreases"
    );
    assert!(log.append_batch([at(11), at(10)]).wait().is_err());
    let info = log.describe().wait().unwrap();
    assert_eq!((info.next.get(), info.last_txid.get()), (3, 10));
    log.append("takes the last transaction id").wait().unwrap();
    assert_eq!(log.get(Sequence::new(3)).wait().unwrap().unwrap().txid, TxId::new(10));
}

#[test]
fn logs_are_created_opened_listed_and_dropped_by_name() {
    for_each_way(|open, _| {
        let engine = open();
        for name in ["", "/a", "a//b", "a/.b", "a b", &"n".repeat(256)] {
            let error = engine.create_log(name).wait().unwrap_err();
            assert!(matches!(error, LogError::Name(_)), "{error}");
        }
        for name in ["b/2", "a", "b/1"] {
            engine.create_log(name).wait().unwrap();
        }
        assert!(matches!(engine.create_log("a").wait(), Err(LogError::Exists { .. })));
        assert!(matches!(engine.open_log("c").wait(), Err(LogError::NoSuchLog { .. })));
        engine.open_or_create_log("a").wait().unwrap();
        let names = |prefix| -> Vec<String> {
            let logs = engine.list_logs(prefix).wait().unwrap();
            logs.into_iter().map(|log| log.name).collect()
        };
        assert_eq!(names(""), ["a", "b/1", "b/2"]);
        assert_eq!(names("b/"), ["b/1", "b/2"]);

        let old = engine.open_log("a").wait().unwrap();
        old.append("old").wait().unwrap();
        let mut parked = old.reader(From::Latest);
        let waiting = std::thread::spawn(move || parked.next().wait().map(|records| records.len()));
        engine.drop_log("a").wait().unwrap();
        assert!(matches!(waiting.join().unwrap(), Err(ReadError::Dropped)));
        assert!(matches!(old.append("x").wait(), Err(AppendError::Dropped)));
        let each = old.append_each(["x"]).wait().unwrap();
        assert!(matches!(each[..], [Err(AppendError::Dropped)]));
        assert!(matches!(engine.drop_log("a").wait(), Err(LogError::NoSuchLog { .. })));
        let new = engine.create_log("a").wait().unwrap();
        assert_ne!(new.id(), old.id());
        assert_eq!(new.describe().wait().unwrap().next, Sequence::FIRST);
        assert!(payloads(&new, From::Earliest).is_empty());

        new.append("kept").wait().unwrap();
        engine.processor("b/p").source("b/1").open().wait().unwrap();
        assert!(matches!(engine.drop_log("b/1").wait(), Err(LogError::InUse { .. })));
        assert_eq!(engine.list_processors().wait().unwrap(), ["b/p"]);
        let [info] = &engine.describe_processors("b").wait().unwrap()[..] else { panic!("one") };
        let source = &info.sources[0];
        assert_eq!((info.epoch.get(), info.commits, info.lag()), (1, 0, source.end.get()));
        assert_eq!((&*source.log, source.next), ("b/1", Sequence::FIRST));
        assert!(engine.describe_processors("c").wait().unwrap().is_empty());
        engine.drop_processor("b/p").wait().unwrap();
        engine.drop_log("b/1").wait().unwrap();
        engine.close().wait().unwrap();
        drop((engine, old, new));
        let engine = open();
        let logs = engine.list_logs("").wait().unwrap();
        assert_eq!(logs.iter().map(|log| &log.name[..]).collect::<Vec<_>>(), ["a", "b/2"]);
    });
}

#[test]
fn truncated_records_never_come_back() {
    for_each_way(|open, _| {
        let engine = open();
        let log = engine.create_log("log").wait().unwrap();
        log.append_batch((0..10).map(|n: u32| n.to_string())).wait().unwrap();
        let beyond = log.truncate(Sequence::new(11)).wait().unwrap_err();
        assert!(matches!(beyond, LogError::BeyondEnd { .. }), "{beyond}");
        log.truncate(Sequence::new(4)).wait().unwrap();
        log.truncate(Sequence::new(2)).wait().unwrap();
        let check = |log: &oncelog::Log| {
            assert_eq!(payloads(log, From::Earliest), ["4", "5", "6", "7", "8", "9"]);
            let below = log.reader(From::Sequence(Sequence::new(3))).next().wait().unwrap_err();
            assert!(matches!(below, ReadError::Truncated { first } if first.get() == 4));
        };
        check(&log);
        drop((engine, log));
        check(&open().open_log("log").wait().unwrap());
    });
}

#[test]
fn a_position_beyond_the_end_waits_for_the_record_at_it() {
    let dir = tempfile::tempdir().unwrap();
    let engine = options(dir.path()).open().unwrap();
    let log = engine.create_log("log").wait().unwrap();
    log.append("0").wait().unwrap();
    let mut reader = log.reader(From::Sequence(Sequence::new(2)));
    assert!(reader.try_next().wait().unwrap().is_none());
    log.append("1").wait().unwrap();
    assert!(reader.try_next().wait().unwrap().is_none());
    log.append("2").wait().unwrap();
    assert_eq!(reader.next().wait().unwrap().next().unwrap().payload, "2");
}

#[test]
fn groups_are_spread_over_shards_and_stay_where_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Options::new(dir.path()).shards(4).segment_size(1 << 20).open().unwrap();
    let engine = open();
    let mut used = std::collections::BTreeSet::new();
    for group in 0..20 {
        let a = engine.create_log(format!("group-{group}/a")).wait().unwrap();
        let b = engine.create_log(format!("group-{group}/b")).wait().unwrap();
        assert_eq!(a.shard(), b.shard(), "a group lives on one shard");
        Batch::new().append(&a, "a").append(&b, "b").commit().wait().unwrap();
        used.insert(a.shard());
    }
    assert_eq!(used.len(), 4);
    engine.close().wait().unwrap();
    drop(engine);
    let engine = open();
    assert_eq!(engine.list_logs("").wait().unwrap().len(), 40);
    for group in 0..20 {
        let log = engine.open_log(format!("group-{group}/b")).wait().unwrap();
        assert_eq!(payloads(&log, From::Earliest), ["b"]);
    }
}

#[test]
fn a_closed_engine_refuses_everything_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let engine = options(dir.path()).open().unwrap();
    let log = engine.create_log("log").wait().unwrap();
    let pending: Vec<_> = (0..100).map(|_| log.append("accepted")).collect();
    let mut reader = log.reader(From::Latest);
    engine.close().wait().unwrap();
    for append in pending {
        append.wait().unwrap();
    }
    let refused = log.append("late").wait().unwrap_err();
    assert!(matches!(refused, AppendError::Stopped(_)));
    assert!(refused.to_string().contains("closed"), "{refused}");
    assert!(matches!(reader.next().wait(), Err(ReadError::Stopped(_))));
    drop((engine, log, reader));
    let log = options(dir.path()).open().unwrap().open_log("log").wait().unwrap();
    assert_eq!(log.describe().wait().unwrap().next.get(), 100);
}

#[test]
fn options_that_cannot_work_are_refused_not_corrected() {
    let dir = tempfile::tempdir().unwrap();
    let new = |name: &str| Options::new(dir.path().join(name));
    let refused = [
        new("a").shards(0),
        new("a").shards(257),
        new("a").segment_size(1000),
        new("a").segment_size((1 << 20) + 4096),
        new("a").segment_size(2 << 30),
        new("a").inbox_size(0),
    ];
    for options in refused {
        let error = options.open().unwrap_err();
        assert!(matches!(error, OpenError::Option { .. }), "{error}");
        assert!(!dir.path().join("a").exists(), "nothing was made");
    }
    assert!(new("b").create(false).open().is_err());
    options(&dir.path().join("c")).open().unwrap();
    let error = new("c").shards(2).open().unwrap_err();
    assert!(error.to_string().contains("made with 1 shards"), "{error}");
    assert!(new("c").segment_size(1 << 21).open().is_err());
    new("c").open().unwrap();
}

#[test]
fn of_records_asked_for_each_for_itself_only_the_wrong_ones_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Options::new(dir.path()).segment_size(1 << 20).shards(1).open().unwrap();
    let engine = open();
    let log = engine.create_log("a").wait().unwrap();
    let with = |text: &'static str, txid| NewRecord::new(text).with_txid(TxId::new(txid));
    let large = NewRecord::new(vec![0; 2 << 20]);
    let records = [with("1", 5), large, with("late", 4), with("2", 6), with("late", 5), "3".into()];
    let each = log.append_each(records).wait().unwrap();
    let places: Vec<_> = each.iter().map(|place| place.as_ref().ok().map(|s| s.get())).collect();
    assert_eq!(places, [Some(0), None, None, Some(1), None, Some(2)]);
    assert!(matches!(each[1], Err(AppendError::TooLarge { .. })));
    assert!(matches!(each[2], Err(AppendError::TxIdDecreased { .. })));
    let (txid, last) = (TxId::new(5), TxId::new(6));
    assert!(matches!(each[4], Err(AppendError::TxIdDecreased { txid: t, last: l })
        if (t, l) == (txid, last)));
    let none = log.append_each(Vec::<NewRecord>::new()).wait().unwrap();
    assert!(none.is_empty());
    let too_much = log.append_each((0..20).map(|_| vec![0; 100_000])).wait();
    assert!(matches!(too_much, Err(AppendError::BatchTooLarge { .. })));
    engine.close().wait().unwrap();

    let engine = open();
    let log = engine.open_log("a").wait().unwrap();
    assert_eq!(payloads(&log, From::Earliest), ["1", "2", "3"]);
    log.seal().wait().unwrap();
    let each = log.append_each(["x", "y"]).wait().unwrap();
    assert!(each.iter().all(|one| matches!(one, Err(AppendError::Sealed { .. }))));
}
