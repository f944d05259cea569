//! Several logs read together, and logs as streams of bytes, on real files.
//!
//! Method: small segments, logs that are busy at different times, the engine opened again between.
//!
//! Not here: one log (`reading`).

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io::{ErrorKind, Read, Write};
use std::pin::Pin;

use futures_io::{AsyncRead, AsyncWrite};
use oncelog::{
    Batch, Engine, From, Log, LogId, MergedReader, NewRecord, Options, ReadError, Record, Sequence,
    TxId, block_on,
};
use tempfile::TempDir;

fn open(dir: &TempDir) -> Engine {
    Options::new(dir.path()).shards(1).segment_size(1 << 20).open().unwrap()
}

/// Everything that is there, as one of them reads it.
fn drain(reader: &mut MergedReader) -> Vec<Record> {
    let mut records = Vec::new();
    while let Some(more) = reader.try_next().wait().unwrap() {
        assert!(!more.is_empty());
        records.extend(more);
    }
    records
}

/// Records are in the order of their commits, and each log's without a gap.
fn check(records: &[Record], firsts: &BTreeMap<LogId, u64>) {
    let place = |record: &Record| (record.dlsn.segment(), record.dlsn.entry(), record.log);
    for (record, next) in records.iter().zip(&records[1..]) {
        assert!(place(record) <= place(next), "{record:?} {next:?}");
    }
    let mut nexts = firsts.clone();
    for record in records {
        let next = nexts.entry(record.log).or_default();
        assert_eq!(record.sequence.get(), *next, "log {}", record.log);
        *next += 1;
    }
}

/// Appends to one log after the other, now and then to several at once.
fn fill(logs: &[Log], rounds: usize) {
    for round in 0..rounds {
        let log = &logs[round * round % logs.len()];
        let append = log.append(vec![7; 1 + round * 997 % 60_000]);
        if round % 5 == 0 {
            let batch = logs.iter().fold(Batch::new(), |batch, log| batch.append(log, "together"));
            batch.commit().wait().unwrap();
        }
        append.wait().unwrap();
    }
}

#[test]
fn logs_of_a_group_are_read_in_the_order_of_their_commits() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(&dir);
    let logs = ["g/a", "g/b", "g/c", "g/idle"].map(|name| engine.create_log(name).wait().unwrap());
    engine.create_log("gg/other").wait().unwrap().append("not this").wait().unwrap();
    fill(&logs[..3], 120);
    let mut reader = engine.merged(&logs, From::Earliest).unwrap();
    let records = drain(&mut reader);
    check(&records, &BTreeMap::new());
    let count = |engine: &Engine| -> u64 {
        let infos = engine.list_logs("g/").wait().unwrap();
        infos.iter().map(oncelog::LogInfo::len).sum()
    };
    assert_eq!(records.len() as u64, count(&engine));
    engine.close().wait().unwrap();

    let engine = open(&dir);
    let logs: Vec<_> =
        ["g/a", "g/b", "g/c"].iter().map(|name| engine.open_log(*name).wait().unwrap()).collect();
    let mut reader = engine.merged_prefix("g/", From::Earliest).wait().unwrap();
    assert_eq!(drain(&mut reader), records);
    // From a place in the middle, and one log from elsewhere.
    let middle = &records[records.len() / 2];
    let mut reader = engine.merged_prefix("g/", From::Dlsn(middle.dlsn)).wait().unwrap();
    let rest = drain(&mut reader);
    let begin = records.iter().position(|record| record.dlsn >= middle.dlsn).unwrap();
    let mut expected = records[begin..].to_vec();
    expected.retain(|record| record.dlsn >= middle.dlsn);
    assert_eq!(rest, expected);
    let last = logs[0].last().wait().unwrap().unwrap().sequence;
    let reader = engine.merged(&logs, From::Latest).unwrap();
    let found = drain(&mut reader.start(&logs[0], From::Sequence(last)));
    assert_eq!((found.len(), found[0].sequence), (1, last));
}

#[test]
fn at_the_end_it_waits_for_any_of_them_and_for_new_logs() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(&dir);
    let a = engine.create_log("g/a").wait().unwrap();
    let b = engine.create_log("g/b").wait().unwrap();
    let mut reader = engine.merged_prefix("g/", From::Earliest).wait().unwrap();
    assert!(reader.try_next().wait().unwrap().is_none());
    let writer = {
        let engine = engine.clone();
        std::thread::spawn(move || {
            for round in 0..40 {
                let log = if round % 3 == 0 { &b } else { &a };
                log.append(format!("{round}")).wait().unwrap();
                if round % 10 == 0 {
                    let new = engine.create_log(format!("g/new-{round}")).wait().unwrap();
                    new.append(format!("new {round}")).wait().unwrap();
                }
            }
        })
    };
    let mut records = Vec::new();
    while records.len() < 44 {
        records.extend(reader.next().wait().unwrap());
    }
    writer.join().unwrap();
    check(&records, &BTreeMap::new());
    let texts: Vec<_> = records.iter().map(|record| record.payload.clone()).collect();
    let expected: Vec<_> = (0..40)
        .flat_map(|round| {
            let new = (round % 10 == 0).then(|| format!("new {round}"));
            std::iter::once(format!("{round}")).chain(new)
        })
        .collect();
    assert_eq!(texts, expected);
    assert_eq!(reader.logs().count(), 6);
    // Nothing but a new log wakes it.
    let waiting = std::thread::spawn(move || reader.next().wait().unwrap());
    let last = engine.create_log("g/last").wait().unwrap();
    last.append("last").wait().unwrap();
    assert_eq!(waiting.join().unwrap()[0].payload, "last");
}

#[test]
fn dropped_logs_are_read_no_further_and_truncated_ones_are_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(&dir);
    let logs = ["g/a", "g/b"].map(|name| engine.create_log(name).wait().unwrap());
    fill(&logs, 20);
    let mut reader = engine.merged(&logs, From::Earliest).unwrap();
    engine.drop_log("g/a").wait().unwrap();
    let records = drain(&mut reader);
    assert!(!records.is_empty() && records.iter().all(|record| record.log == logs[1].id()));
    let mut reader = engine.merged(&logs[1..], From::Sequence(Sequence::FIRST)).unwrap();
    logs[1].truncate(Sequence::new(3)).wait().unwrap();
    for _ in 0..2 {
        let refused = reader.next().wait();
        assert!(matches!(refused, Err(ReadError::Truncated { .. })), "{refused:?}");
    }
    let reader = engine.merged(&logs[1..], From::Sequence(Sequence::FIRST)).unwrap();
    let rest = drain(&mut reader.start(&logs[1], From::Earliest));
    assert_eq!(rest[0].sequence.get(), 3);
}

#[test]
fn logs_of_several_groups_have_no_common_order() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(&dir);
    let logs = ["g/a", "h/a"].map(|name| engine.create_log(name).wait().unwrap());
    let refused = engine.merged(&logs, From::Earliest).unwrap_err().to_string();
    assert!(refused.contains("h/a") && refused.contains("\"g/..\""), "{refused}");
    for prefix in ["", "g", "/g"] {
        let refused = engine.merged_prefix(prefix, From::Earliest).wait().unwrap_err();
        assert!(refused.to_string().contains("payments/"), "{refused}");
    }
    let other = tempfile::tempdir().unwrap();
    assert!(open(&other).merged(&logs[..1], From::Earliest).is_err());
}

/// Bytes that tell where they stand.
fn bytes(from: u64, len: usize) -> Vec<u8> {
    (from..).take(len).map(|at| (at * 31 + at / 251) as u8).collect()
}

#[test]
fn a_stream_of_bytes_is_read_from_any_offset_and_goes_on_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let mut len = 0;
    for part in 1..=3 {
        let engine = open(&dir);
        let log = engine.open_or_create_log("stream").wait().unwrap();
        let mut writer = log.byte_writer().wait().unwrap();
        assert_eq!(writer.offset(), len);
        for piece in [0, 1, 999, 300_000 * part, 7] {
            writer.write_all(&bytes(len, piece)).unwrap();
            len += piece as u64;
            if piece % 2 == 1 {
                writer.flush().unwrap();
            }
        }
        writer.flush().unwrap();
        writer.write_all(b"never flushed").unwrap();
        drop(writer);
        for offset in [0, 1, 999, 1000, 1001, len / 2, len - 8, len - 1, len] {
            let mut found = Vec::new();
            let mut reader = log.byte_reader(offset).until_end();
            reader.read_to_end(&mut found).unwrap();
            let expected = bytes(offset, usize::try_from(len - offset).unwrap());
            assert!(found == expected, "from {offset} to {len}: {} bytes", found.len());
            assert_eq!(reader.offset(), len);
        }
        engine.close().wait().unwrap();
    }
}

#[test]
fn a_byte_reader_waits_at_the_end_also_in_async_code() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(&dir);
    let log = engine.create_log("stream").wait().unwrap();
    let mut reader = log.byte_reader(5);
    let reading = std::thread::spawn(move || {
        let mut found = [0; 7];
        let mut done = 0;
        while done < found.len() {
            let rest = &mut found[done..];
            done += block_on(poll_fn(|cx| Pin::new(&mut reader).poll_read(cx, rest))).unwrap();
        }
        found
    });
    let mut writer = log.byte_writer().wait().unwrap();
    for word in ["hello", " ", "world", "!"] {
        let wrote = poll_fn(|cx| Pin::new(&mut writer).poll_write(cx, word.as_bytes()));
        assert_eq!(block_on(wrote).unwrap(), word.len());
        block_on(poll_fn(|cx| Pin::new(&mut writer).poll_flush(cx))).unwrap();
    }
    block_on(poll_fn(|cx| Pin::new(&mut writer).poll_close(cx))).unwrap();
    assert_eq!(&reading.join().unwrap(), b" world!");
}

#[test]
fn what_is_no_stream_of_bytes_is_an_error_and_so_are_truncated_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(&dir);
    let log = engine.create_log("stream").wait().unwrap();
    let mut writer = log.byte_writer().wait().unwrap();
    for word in ["hello", " world", "!"] {
        writer.write_all(word.as_bytes()).unwrap();
        writer.flush().unwrap();
    }
    log.truncate(Sequence::new(1)).wait().unwrap();
    let text = |offset| {
        let mut text = String::new();
        log.byte_reader(offset).until_end().read_to_string(&mut text).map(|_| text)
    };
    assert_eq!(text(5).unwrap(), " world!");
    assert_eq!(text(8).unwrap(), "rld!");
    let refused = text(4).unwrap_err();
    let inner = refused.get_ref().and_then(|inner| inner.downcast_ref::<ReadError>());
    assert!(matches!(inner, Some(ReadError::Truncated { .. })), "{refused}");
    // Something else in the log: a hole, then something that overlaps.
    log.share().wait().unwrap();
    log.append(NewRecord::new("xy").with_txid(TxId::new(15))).wait().unwrap();
    for _ in 0..2 {
        let refused = text(5).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidData);
        assert!(refused.to_string().contains("up to offset 15"), "{refused}");
    }
}

#[test]
fn an_error_of_a_byte_writer_is_final() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(&dir);
    let log = engine.create_log("stream").wait().unwrap();
    let mut writer = log.byte_writer().wait().unwrap();
    writer.write_all(b"durable").unwrap();
    writer.flush().unwrap();
    let mut second = log.byte_writer().wait().unwrap();
    // The one before it is fenced: two never mix their bytes.
    writer.write_all(b"longer than what the other one writes").unwrap();
    assert!(writer.flush().unwrap_err().to_string().contains("owner"));
    second.write_all(b" bytes").unwrap();
    second.seal().unwrap();
    let mut text = String::new();
    log.byte_reader(0).read_to_string(&mut text).unwrap();
    assert_eq!(text, "durable bytes");
    assert!(log.byte_writer().wait().unwrap_err().to_string().contains("sealed"));

    engine.drop_log("stream").wait().unwrap();
    let log = engine.create_log("stream").wait().unwrap();
    let mut second = log.byte_writer().wait().unwrap();
    engine.drop_log("stream").wait().unwrap();
    second.write_all(b"lost").unwrap();
    for _ in 0..2 {
        assert!(second.flush().unwrap_err().to_string().contains("dropped"));
        assert!(second.write(b"more").is_err());
    }
}
