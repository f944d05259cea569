//! Writers with a name or a right of their own, on a real engine: what was sent twice is there
//! once, and who was fenced writes nothing any more.
//!
//! Not here: crashes at any instant (the simulator), and numbers alone (`writers` of the engine).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use oncelog::limits::WRITER_WINDOW;
use oncelog::{
    AppendError, Batch, Commit, Engine, Epoch, From, Log, LogError, Options, Sequence, Written,
};

fn open(dir: &Path) -> Engine {
    Options::new(dir).shards(1).segment_size(1 << 20).open().unwrap()
}

fn payloads(log: &Log) -> Vec<String> {
    let mut reader = log.reader(From::Earliest);
    let mut all = Vec::new();
    while let Some(records) = reader.try_next().wait().unwrap() {
        all.extend(records.map(|record| String::from_utf8(record.payload.to_vec()).unwrap()));
    }
    all
}

#[test]
fn a_batch_that_is_sent_again_is_there_once_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let log = engine.create_log("orders").wait().unwrap();
    let writer = log.writer("shop").open().wait().unwrap();
    let first = writer.append(1, ["a", "b"]).wait().unwrap();
    // In flight together: the second is answered with the place of the first, once it is durable.
    let (sent, again) = (writer.append(2, ["c"]), writer.append(2, ["c"]));
    let (sent, again) = (sent.wait().unwrap(), again.wait().unwrap());
    assert!(!sent.repeated && again.repeated);
    assert_eq!(sent.appended, again.appended);
    engine.close().wait().unwrap();

    let engine = open(dir.path());
    let log = engine.open_log("orders").wait().unwrap();
    // The same owner goes on: nobody opened the writer meanwhile.
    let again = writer_again(&log, 1, 1);
    assert_eq!(again, Written { repeated: true, ..first });
    let writer = log.writer("shop").open().wait().unwrap();
    assert_eq!(writer.last(), 2);
    assert_eq!(writer.append(2, ["c"]).wait().unwrap().appended, sent.appended);
    assert!(!writer.append(3, ["d"]).wait().unwrap().repeated);
    assert_eq!(payloads(&log), ["a", "b", "c", "d"]);
}

/// A client that kept its epoch over a restart, as one on the other end of a wire does.
fn writer_again(log: &Log, epoch: u64, number: u64) -> Written {
    let writer = log.writer("shop").resume(Epoch::new(epoch));
    writer.append(number, ["a", "b"]).wait().unwrap()
}

#[test]
fn numbers_that_do_not_follow_are_refused_and_never_written() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let log = engine.create_log("orders").wait().unwrap();
    let dense = log.writer("dense").open().wait().unwrap();
    let window = WRITER_WINDOW as u64;
    for number in 1..=window + 1 {
        dense.append(number, [number.to_string()]).wait().unwrap();
    }
    let before = payloads(&log);
    let error = dense.append(window + 3, ["gap"]).wait().unwrap_err();
    assert!(matches!(error, AppendError::NumberOutOfOrder { last, .. } if last == window + 1));
    let error = dense.append(1, ["1"]).wait().unwrap_err();
    assert!(matches!(error, AppendError::NumberForgotten { number: 1, .. }), "{error}");
    assert!(dense.append(2, ["2"]).wait().unwrap().repeated, "the oldest that is remembered");
    assert!(dense.append(0, ["0"]).wait().is_err());
    let empty = dense.append(window + 2, [""; 0]).wait().unwrap();
    assert_eq!((empty.appended.count, empty.repeated), (0, false));
    assert_eq!(payloads(&log), before);
    dense.append(window + 2, ["an empty batch used up no number"]).wait().unwrap();

    let rising = log.writer("rising").increasing().open().wait().unwrap();
    rising.append(10, ["ten"]).wait().unwrap();
    rising.append(1000, ["a thousand"]).wait().unwrap();
    let error = rising.append(500, ["left out"]).wait().unwrap_err();
    assert!(error.to_string().contains("rise"), "{error}");
    assert!(rising.append(10, ["ten"]).wait().unwrap().repeated);

    let owned = engine.create_log("owned").wait().unwrap();
    let owner = owned.exclusive_writer().open().wait().unwrap();
    owned.exclusive_writer().resume(owner.epoch()).append("mine still").wait().unwrap();
    let stranger = owned.exclusive_writer().resume(Epoch::new(owner.epoch().get() + 1));
    assert!(matches!(stranger.append("not mine").wait(), Err(AppendError::Owned { .. })));

    let unknown = log.writer("nobody").resume(Epoch::new(1));
    let error = unknown.append(1, ["x"]).wait().unwrap_err();
    assert!(matches!(error, AppendError::UnknownWriter { .. }), "{error}");
    // A batch that is refused for another reason uses up no number either.
    let huge = vec![vec![0; 1 << 20]];
    assert!(matches!(rising.append(2000, huge).wait(), Err(AppendError::TooLarge { .. })));
    assert!(!rising.append(2000, ["small"]).wait().unwrap().repeated);
}

#[test]
fn a_new_owner_of_a_writer_fences_the_one_before_and_a_forgotten_writer_begins_anew() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let log = engine.create_log("orders").wait().unwrap();
    let old = log.writer("w").open().wait().unwrap();
    old.append(1, ["one"]).wait().unwrap();
    let new = log.writer("w").open().wait().unwrap();
    let error = old.append(2, ["two"]).wait().unwrap_err();
    assert!(matches!(error, AppendError::WriterFenced { newer, .. } if newer == new.epoch()));
    assert!(old.append(1, ["one"]).wait().is_err(), "also for what it wrote itself");
    assert_eq!(new.last(), 1);

    let infos = log.list_writers().wait().unwrap();
    assert_eq!((infos.len(), infos[0].name.as_str(), infos[0].last), (1, "w", 1));
    log.forget_writer("w").wait().unwrap();
    assert!(matches!(log.forget_writer("w").wait(), Err(LogError::NoSuchWriter { .. })));
    assert!(matches!(new.append(2, ["two"]).wait(), Err(AppendError::UnknownWriter { .. })));
    assert_eq!(log.writer("w").open().wait().unwrap().last(), 0);

    // A log of the same name that is made later has no writers.
    engine.drop_log("orders").wait().unwrap();
    let log = engine.create_log("orders").wait().unwrap();
    assert!(log.list_writers().wait().unwrap().is_empty());
    assert!(log.writer("x".repeat(65)).open().wait().is_err());
    assert!(log.writer("not a name").open().wait().is_err());
}

#[test]
fn takeovers_under_load_lose_and_double_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let log = engine.create_log("orders").wait().unwrap();
    let total = 3_000;
    // Each thread takes the writer over, goes on where it stands, several in flight, is fenced by
    // another, and takes it over again.
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let writer = log.writer("relay").open().wait().unwrap();
                    let mut next = writer.last() + 1;
                    if next > total {
                        return;
                    }
                    'owned: while next <= total {
                        let sent: Vec<_> = (next..(next + 8).min(total + 1))
                            .map(|number| (number, writer.append(number, [number.to_string()])))
                            .collect();
                        for (number, answer) in sent {
                            match answer.wait() {
                                Ok(written) => assert!(!written.repeated),
                                Err(AppendError::WriterFenced { .. }) => break 'owned,
                                // The one before it was fenced away.
                                Err(error) => panic!("{number}: {error}"),
                            }
                            next = number + 1;
                        }
                    }
                }
            });
        }
    });
    let expected: Vec<_> = (1..=total).map(|number| number.to_string()).collect();
    assert_eq!(payloads(&log), expected);
}

#[test]
fn only_the_newest_owner_of_a_log_appends_whoever_was_before() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let log = engine.create_log("ledger").wait().unwrap();
    let acked = AtomicU64::new(0);
    let told: Vec<BTreeMap<u64, u64>> = thread::scope(|scope| {
        let own = |_| {
            scope.spawn(|| {
                let mut told = BTreeMap::new();
                for _ in 0..20 {
                    let owner = log.exclusive_writer().open().wait().unwrap();
                    let epoch = owner.epoch().get();
                    for number in 0.. {
                        match owner.append(format!("{epoch} {number}")).wait() {
                            Ok(appended) => {
                                told.insert(appended.first.get(), epoch);
                                acked.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(AppendError::Owned { own, owner }) => {
                                assert!(own.get() == epoch && owner.get() > epoch);
                                break;
                            }
                            Err(error) => panic!("{error}"),
                        }
                        if number == 50 {
                            break;
                        }
                    }
                    assert!(log.append("anyone").wait().is_err(), "it has an owner");
                }
                told
            })
        };
        let threads: Vec<_> = (0..3).map(own).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let records = payloads(&log);
    assert_eq!(records.len() as u64, acked.into_inner(), "nothing lost, nothing that was refused");
    let epoch_of = |record: &String| record.split_once(' ').unwrap().0.parse::<u64>().unwrap();
    let epochs: Vec<_> = records.iter().map(epoch_of).collect();
    assert!(epochs.is_sorted(), "nothing of an owner comes behind a newer one's");
    for (sequence, epoch) in told.into_iter().flatten() {
        assert_eq!(epochs[usize::try_from(sequence).unwrap()], epoch);
    }
}

#[test]
fn an_owner_writes_batches_seals_and_gives_the_log_back() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let ledger = engine.create_log("bank/ledger").wait().unwrap();
    let audit = engine.create_log("bank/audit").wait().unwrap();
    let owner = ledger.exclusive_writer().open().wait().unwrap();
    assert_eq!(ledger.describe().wait().unwrap().owner, owner.epoch());
    Batch::new().append_as(&owner, "debit").append(&audit, "by me").commit().wait().unwrap();
    let refused = Batch::new().append(&ledger, "debit").append(&audit, "by whom?").commit().wait();
    assert!(matches!(refused, Err(AppendError::Owned { .. })));
    assert_eq!(payloads(&audit), ["by me"], "all or nothing");
    assert!(matches!(ledger.seal().wait(), Err(LogError::Owned { .. })));
    owner.append_batch(["a", "b"]).wait().unwrap();
    engine.close().wait().unwrap();

    let engine = open(dir.path());
    let ledger = engine.open_log("bank/ledger").wait().unwrap();
    assert!(ledger.append("anyone").wait().is_err(), "owned, also after a restart");
    ledger.share().wait().unwrap();
    ledger.share().wait().unwrap();
    ledger.append("anyone").wait().unwrap();
    let owner = ledger.exclusive_writer().open().wait().unwrap();
    assert_eq!(owner.seal().wait().unwrap(), Sequence::new(4));
    assert!(matches!(owner.append("late").wait(), Err(AppendError::Sealed { .. })));
    // A log that ended has no owners any more.
    assert!(matches!(ledger.exclusive_writer().open().wait(), Err(LogError::Sealed { .. })));
}

#[test]
fn a_processor_that_owns_its_output_fences_all_others_and_the_one_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let orders = engine.create_log("shop/orders").wait().unwrap();
    let bills = engine.create_log("shop/bills").wait().unwrap();
    orders.append_batch(["1", "2", "3"]).wait().unwrap();
    let billing = || engine.processor("shop/billing").source("shop/orders").owns("shop/bills");
    let (mut first, _) = billing().open().wait().unwrap();
    first.next().wait().unwrap();
    first.commit(Commit::new().output(&bills, "bill 1")).wait().unwrap();
    assert!(matches!(bills.append("forged").wait(), Err(AppendError::Owned { .. })));

    let other = bills.exclusive_writer().open().wait().unwrap();
    let error = first.commit(Commit::new().output(&bills, "bill 2")).wait().unwrap_err();
    assert!(error.to_string().contains("owner"), "{error}");
    let (mut second, _) = billing().open().wait().unwrap();
    assert!(other.append("late").wait().is_err());
    second.commit(Commit::new().output(&bills, "bill 2")).wait().unwrap();
    assert_eq!(payloads(&bills), ["bill 1", "bill 2"]);
    let stranger = engine.processor("shop/x").source("shop/orders").owns("other").open().wait();
    assert!(stranger.is_err(), "of another group");
}

#[test]
fn a_writer_of_an_owned_log_owns_it_or_waits() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let log = engine.create_log("ledger").wait().unwrap();
    let plain = log.writer("plain").open().wait().unwrap();
    plain.append(1, ["one"]).wait().unwrap();
    let owner = log.writer("owner").exclusive().open().wait().unwrap();
    assert!(matches!(plain.append(2, ["two"]).wait(), Err(AppendError::Owned { .. })));
    assert!(plain.append(1, ["one"]).wait().unwrap().repeated, "nothing is written for that");
    owner.append(1, ["mine"]).wait().unwrap();
    log.share().wait().unwrap();
    assert!(matches!(owner.append(2, ["mine"]).wait(), Err(AppendError::Owned { .. })));
    plain.append(2, ["two"]).wait().unwrap();
    assert_eq!(payloads(&log), ["one", "mine", "two"]);
}

#[test]
fn an_owner_that_is_gone_does_not_keep_the_log_for_itself() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let log = engine.create_log("g/log").wait().unwrap();
    let owner = log.writer("w").exclusive().open().wait().unwrap();
    owner.append(1, ["one"]).wait().unwrap();
    // Whoever takes the writer over without the log gives the log back.
    let next = log.writer("w").open().wait().unwrap();
    next.append(2, ["two"]).wait().unwrap();
    log.append("anyone").wait().unwrap();

    let (processor, _) =
        engine.processor("g/p").source("g/log").owns("g/log").owns("g/log").open().wait().unwrap();
    assert!(log.append("x").wait().is_err());
    drop(processor);
    engine.drop_processor("g/p").wait().unwrap();
    log.append("anyone").wait().unwrap();
    let many = (0..300)
        .fold(engine.processor("g/p").source("g/log"), |options, n| options.owns(format!("g/{n}")));
    assert!(many.open().wait().unwrap_err().to_string().contains("256"));
}

#[test]
fn who_takes_a_writer_over_learns_what_it_sent_also_when_the_log_has_ended() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let log = engine.create_log("g/log").wait().unwrap();
    let writer = log.writer("w").exclusive().open().wait().unwrap();
    let sent = writer.append(1, ["one"]).wait().unwrap();
    assert_eq!(writer.seal().wait().unwrap(), Sequence::new(1));
    let next = log.writer("w").open().wait().unwrap();
    assert_eq!(next.last(), 1);
    assert_eq!(next.append(1, ["one"]).wait().unwrap().appended, sent.appended);
    assert!(matches!(next.append(2, ["two"]).wait(), Err(AppendError::Sealed { .. })));
    // From beyond the end, the end is told where it is.
    let mut reader = log.reader(From::Sequence(Sequence::new(50)));
    let error = reader.next().wait().unwrap_err();
    assert!(matches!(error, oncelog::ReadError::End { next } if next == Sequence::new(1)));
}
