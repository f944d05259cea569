//! Reading on real files: where it begins, how long it waits, what it hands out.
//!
//! Method: small segments, so that every log stands in several of them, and indexes are read back
//! from side files after the engine was opened again.
//!
//! Not here: crashes and rot (`sim_crash`), and how fast it is (`bench-harness`).

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use futures_core::Stream;
use oncelog::{Engine, From, Log, NewRecord, Options, ReadError, Record, Sequence, TxId, block_on};
use tempfile::TempDir;

/// The next item of a stream; blocks.
fn next_of<S: Stream + Unpin>(stream: &mut S) -> Option<S::Item> {
    block_on(poll_fn(|cx| Pin::new(&mut *stream).poll_next(cx)))
}

const LONG: Duration = Duration::from_secs(600);
const SHORT: Duration = Duration::from_millis(2);

fn open(dir: &TempDir) -> Engine {
    Options::new(dir.path()).shards(1).segment_size(1 << 20).open().unwrap()
}

fn record(txid: u64, len: usize) -> NewRecord {
    NewRecord::new(vec![7; len]).with_txid(TxId::new(txid))
}

/// Everything that is there.
fn all(log: &Log) -> Vec<Record> {
    let mut reader = log.reader(From::Earliest);
    let mut records = Vec::new();
    while let Some(batch) = reader.try_next().wait().unwrap() {
        records.extend(batch);
    }
    records
}

/// The sequence of the first record that a reader gets.
fn begin(log: &Log, from: From) -> u64 {
    log.reader(from).next().wait().unwrap().first_sequence().get()
}

/// A log over several segments, some of which have only records of another one, opened again.
/// Transaction ids go up by 10 every third record.
fn long_log(dir: &TempDir) -> (Engine, Log) {
    let engine = open(dir);
    let log = engine.create_log("g/long").wait().unwrap();
    let other = engine.create_log("g/other").wait().unwrap();
    let mut number = 0;
    for round in 0..6 {
        for _ in 0..8 {
            let batch: Vec<_> =
                (0..3 + number % 3).map(|step| record((number + step) / 3 * 10, 10_000)).collect();
            number += batch.len() as u64;
            log.append_batch(batch).wait().unwrap();
        }
        for _ in 0..round % 3 * 20 {
            other.append(record(1, 100_000)).wait().unwrap();
        }
    }
    engine.close().wait().unwrap();
    let engine = open(dir);
    let log = engine.open_log("g/long").wait().unwrap();
    let (first, last) = (all(&log)[0].dlsn, log.last().wait().unwrap().unwrap().dlsn);
    assert!(last.segment().get() >= first.segment().get() + 6, "{first} {last}");
    (engine, log)
}

#[test]
fn a_transaction_id_is_found_exactly_in_every_segment() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, log) = long_log(&dir);
    let records = all(&log);
    let last = records.last().unwrap().txid.get();
    for txid in (0..=last).step_by(5) {
        let first = records.iter().find(|record| record.txid.get() >= txid).unwrap();
        assert_eq!(begin(&log, From::TxId(TxId::new(txid))), first.sequence.get(), "{txid}");
        let found = log.find(From::TxId(TxId::new(txid))).wait().unwrap();
        assert_eq!(found, Some(first.sequence));
    }
    assert_eq!(log.find(From::TxId(TxId::new(last + 1))).wait().unwrap(), None);
    engine.close().wait().unwrap();
}

#[test]
fn a_time_is_found_exactly_in_every_segment() {
    let dir = tempfile::tempdir().unwrap();
    let (_engine, log) = long_log(&dir);
    let records = all(&log);
    for at in &records {
        for time_us in [at.time_us, at.time_us + 1] {
            let first = records.iter().find(|record| record.time_us >= time_us);
            let found = log.find(From::Time(time_us)).wait().unwrap();
            assert_eq!(found, first.map(|record| record.sequence), "{time_us}");
        }
    }
    assert_eq!(begin(&log, From::Time(0)), 0);
}

#[test]
fn a_position_beyond_the_end_waits_for_the_first_record_at_it_whatever_comes_before() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(&dir);
    let log = engine.create_log("log").wait().unwrap();
    for fresh in [true, false] {
        let base = if fresh { 0 } else { 100 };
        let mut reader = log.reader(From::TxId(TxId::new(base + 50)));
        assert!(reader.try_next().wait().unwrap().is_none());
        for txid in [10, 20, 49] {
            log.append(record(base + txid, 10)).wait().unwrap();
            assert!(reader.try_next().wait().unwrap().is_none(), "{txid} is before it");
        }
        log.append_batch([record(base + 49, 1), record(base + 51, 2), record(base + 52, 3)])
            .wait()
            .unwrap();
        let found: Vec<_> = reader.next().wait().unwrap().map(|r| r.txid.get() - base).collect();
        assert_eq!(found, [51, 52]);
    }
    // One that waits meanwhile, too.
    let mut reader = log.reader(From::TxId(TxId::new(300)));
    let waiting = std::thread::spawn(move || reader.next().wait().unwrap().next().unwrap());
    for txid in [200, 299, 301, 302] {
        log.append(record(txid, 10)).wait().unwrap();
    }
    assert_eq!(waiting.join().unwrap().txid.get(), 301);
    // A time to come: what is appended meanwhile is before it.
    let far = u64::MAX / 2;
    let mut reader = log.reader(From::Time(far)).max_wait(SHORT);
    log.append(record(400, 10)).wait().unwrap();
    assert_eq!(reader.next().wait().unwrap().len(), 0);
    assert_eq!(log.find(From::Time(far)).wait().unwrap(), None);
}

#[test]
fn a_position_that_may_be_among_truncated_records_is_an_error_or_the_first_that_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let (_engine, log) = long_log(&dir);
    let records = all(&log);
    // Inside a run of records with one transaction id.
    let cut = (100..).find(|at| records[*at].txid == records[*at - 1].txid).unwrap();
    log.truncate(records[cut].sequence).wait().unwrap();
    let txid = |txid: u64| From::TxId(TxId::new(txid));
    let (there, next) = (records[cut].txid.get(), records[cut].txid.get() + 1);
    for from in [txid(0), txid(there), From::Time(0), From::Time(records[cut - 20].time_us)] {
        let first = records[cut].sequence;
        let refused = log.reader(from).next().wait().unwrap_err();
        let is_cut = matches!(refused, ReadError::Truncated { first: told } if told == first);
        assert!(is_cut, "{from:?}: {refused}");
        let mut reader = log.reader(from).or_earliest();
        assert_eq!(reader.next().wait().unwrap().first_sequence(), first, "{from:?}");
    }
    let first = records.iter().find(|record| record.txid.get() >= next).unwrap();
    assert_eq!(begin(&log, txid(next)), first.sequence.get());
    let later = records[cut..].iter().find(|r| r.time_us > records[cut].time_us).unwrap();
    assert_eq!(begin(&log, From::Time(later.time_us)), later.sequence.get());
    for from in [From::Sequence(Sequence::FIRST), From::Dlsn(records[0].dlsn)] {
        assert!(log.reader(from).next().wait().is_err());
        let mut reader = log.reader(from).or_earliest();
        assert_eq!(reader.next().wait().unwrap().first_sequence(), records[cut].sequence);
    }
}

#[test]
fn a_position_behind_everything_that_was_truncated_waits() {
    let dir = tempfile::tempdir().unwrap();
    let (_engine, log) = long_log(&dir);
    let last = log.last().wait().unwrap().unwrap();
    log.truncate(last.sequence.after(1)).wait().unwrap();
    assert_eq!(log.first().wait().unwrap(), None);
    assert_eq!(log.last().wait().unwrap(), None);
    let at_last = From::TxId(last.txid);
    let refused = log.reader(at_last).try_next().wait();
    assert!(matches!(refused, Err(ReadError::Truncated { .. })), "{refused:?}");
    let mut readers = [
        log.reader(From::TxId(TxId::new(last.txid.get() + 1))),
        log.reader(From::Time(last.time_us + 1)),
        log.reader(at_last).or_earliest(),
        log.reader(From::Time(0)).or_earliest(),
    ];
    for reader in &mut readers {
        assert!(reader.try_next().wait().unwrap().is_none(), "{reader:?}");
    }
    log.append(record(last.txid.get() + 5, 10)).wait().unwrap();
    for reader in &mut readers {
        let next = reader.next().wait().unwrap();
        assert_eq!(next.first_sequence(), last.sequence.after(1), "{reader:?}");
    }
}

#[test]
fn first_last_len_and_lag_say_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(&dir);
    let log = engine.create_log("log").wait().unwrap();
    assert!(log.first().wait().unwrap().is_none() && log.last().wait().unwrap().is_none());
    log.append_batch((0..10).map(|txid| record(txid, 10))).wait().unwrap();
    log.truncate(Sequence::new(3)).wait().unwrap();
    assert_eq!(log.first().wait().unwrap().unwrap().sequence.get(), 3);
    assert_eq!(log.last().wait().unwrap().unwrap().sequence.get(), 9);
    let info = log.describe().wait().unwrap();
    assert_eq!((info.len(), info.is_empty()), (7, false));
    let mut reader = log.reader(From::Earliest).max_records(4);
    assert_eq!(reader.position(), None);
    reader.next().wait().unwrap();
    assert_eq!(reader.position(), Some(Sequence::new(7)));
    assert_eq!(log.lag(reader.position().unwrap()).wait().unwrap(), 3);
    assert_eq!(log.lag(Sequence::FIRST).wait().unwrap(), 7, "what is gone does not count");
    assert_eq!(log.lag(Sequence::new(99)).wait().unwrap(), 0);
    assert_eq!(log.find(From::Earliest).wait().unwrap(), Some(Sequence::new(3)));
    assert_eq!(log.find(From::Latest).wait().unwrap(), Some(Sequence::new(10)));
}

#[test]
fn a_wait_ends_with_a_record_or_when_it_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(&dir);
    let log = engine.create_log("log").wait().unwrap();
    // A client that leads the shard, and one whose wait the shard's thread ends.
    for _ in 0..3 {
        log.append("x").wait().unwrap();
        let mut reader = log.reader(From::Latest).max_wait(SHORT);
        assert_eq!(reader.next().wait().unwrap().len(), 0);
        assert_eq!(reader.next().wait().unwrap().len(), 0, "and again");
        log.append("y").wait().unwrap();
        assert_eq!(reader.next().wait().unwrap().len(), 1);
    }
    let mut reader = log.reader(From::Latest).max_wait(LONG);
    assert!(reader.try_next().wait().unwrap().is_none(), "from here on");
    let waiting = std::thread::spawn(move || reader.next().wait().unwrap().len());
    log.append("z").wait().unwrap();
    assert_eq!(waiting.join().unwrap(), 1);
}

#[test]
fn a_batch_has_as_many_records_as_were_wanted_or_those_that_came_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(&dir);
    let log = engine.create_log("log").wait().unwrap();
    for txid in 0..5 {
        log.append_batch([record(txid, 10), record(txid, 10)]).wait().unwrap();
    }
    let mut reader = log.reader(From::Earliest).max_bytes(1);
    let mut sequences = Vec::new();
    for (count, len) in [(1, 1), (4, 4), (3, 3), (9, 2), (1, 0)] {
        let wait = if len < count { SHORT } else { LONG };
        let batch = reader.batch(count, wait).wait().unwrap();
        assert_eq!(batch.len() as u64, len);
        sequences.extend(batch.map(|record| record.sequence.get()));
    }
    assert_eq!(sequences, (0..10).collect::<Vec<_>>());
    let writing = log.clone();
    let writer = std::thread::spawn(move || {
        for _ in 0..6 {
            writing.append("late").wait().unwrap();
        }
    });
    assert_eq!(reader.batch(6, LONG).wait().unwrap().len(), 6);
    writer.join().unwrap();
}

#[test]
fn a_batch_that_is_dropped_half_way_loses_nothing() {
    use std::future::Future;
    use std::task::{Context, Waker};
    let dir = tempfile::tempdir().unwrap();
    let engine = open(&dir);
    let log = engine.create_log("log").wait().unwrap();
    log.append_batch(["1", "2", "3"]).wait().unwrap();
    let mut reader = log.reader(From::Earliest);
    assert_eq!(reader.batch(1, LONG).wait().unwrap().len(), 1);
    for _ in 0..3 {
        let mut batch = std::pin::pin!(reader.batch(5, LONG));
        let polled = batch.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending());
    }
    let rest = reader.batch(5, SHORT).wait().unwrap();
    assert_eq!((rest.first_sequence().get(), rest.len()), (1, 2));
}

#[test]
fn streams_give_every_record_in_order_and_end_with_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, log) = long_log(&dir);
    let records = all(&log);
    let mut stream = log.reader(From::Earliest).max_bytes(50_000).stream();
    for record in &records {
        assert_eq!(next_of(&mut stream).unwrap().unwrap(), *record);
    }
    let mut batches = log.reader(From::Earliest).max_records(7).max_wait(SHORT).batches();
    let mut count = 0;
    loop {
        let batch = next_of(&mut batches).unwrap().unwrap();
        if batch.len() == 0 {
            break;
        }
        assert!(batch.len() <= 7 && batch.first_sequence().get() == count);
        count += batch.len() as u64;
    }
    assert_eq!(count, records.len() as u64);
    engine.drop_log("g/long").wait().unwrap();
    assert!(matches!(next_of(&mut stream), Some(Err(ReadError::Dropped))));
    assert!(next_of(&mut stream).is_none());
}

#[test]
fn iterators_block_or_end_and_leave_the_rest_to_the_reader() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(&dir);
    let log = engine.create_log("log").wait().unwrap();
    log.append_batch((0..6).map(|txid| record(txid, 10))).wait().unwrap();
    let mut reader = log.reader(From::Earliest).max_records(4).max_wait(SHORT);
    let take = |reader: &mut oncelog::Reader, count| -> Vec<u64> {
        let records = reader.iter_blocking().until_end().take(count);
        records.map(|record| record.unwrap().txid.get()).collect()
    };
    assert_eq!(take(&mut reader, 2), [0, 1]);
    assert_eq!(reader.position(), Some(Sequence::new(2)));
    assert_eq!(take(&mut reader, 1), [2]);
    assert_eq!(take(&mut reader, 9), [3, 4, 5]);
    log.append(record(6, 10)).wait().unwrap();
    let rest: Vec<_> = reader.iter_blocking().map(|record| record.unwrap().txid.get()).collect();
    assert_eq!(rest, [6], "it ends when the wait is over");
    log.truncate(Sequence::new(7)).wait().unwrap();
    let mut behind = log.reader(From::Sequence(Sequence::FIRST));
    let mut items = behind.iter_blocking();
    assert!(matches!(items.next(), Some(Err(ReadError::Truncated { .. }))));
    assert!(items.next().is_none());
}
