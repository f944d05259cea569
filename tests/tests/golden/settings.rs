//! What the script writes since format version 2: writers, owners, seals, options, packed sections,
//! names, rates.
//!
//! ```text
//! shop/facts    (first shop/events)  LZ4, written by "till" (dense) and "gate" (increasing)
//! shop/archive  Zstandard, every option, owned, sealed
//! ```
//!
//! Not here: what version 1 had already (`script`).

use std::sync::Arc;
use std::time::Duration;

use oncelog::change::{Author, Change, WriterAppend, WriterGrant, Written};
use oncelog::error::{LogError, Stopped};
use oncelog::position::{Epoch, LogId, Sequence};
use oncelog::reply::Reply;
use oncelog::request::{LogInfo, NewRecord, OpenMode, Request};
use oncelog::{Codec, LogOptions, Rates};

use crate::disk::{Asked, World};
use crate::script::read;

pub(crate) const EVENTS: LogId = LogId::new(5);
pub(crate) const ARCHIVE: LogId = LogId::new(6);

/// More than are remembered of a writer.
const BATCHES: u64 = 18;
const TEXT: &str = "a text that is worth packing, ";

/// How the logs that only version 2 has are called.
pub(crate) const NAMES: [&str; 2] = ["shop/archive 6", "shop/facts 5"];
/// Of the next owner: before it were those of two processors, three writers and a log.
pub(crate) const EPOCH: Epoch = Epoch::new(7);

fn options() -> LogOptions {
    let rates = Rates::default().bytes_soft(1 << 30).bytes_hard(2 << 30);
    let rates = rates.records_soft(1 << 20).records_hard(2 << 20);
    LogOptions::default()
        .compression(Codec::Zstd)
        .record_size_max(65_536)
        .keep_for(Duration::from_secs(7 * 24 * 3600))
        .keep_bytes(1 << 30)
        .keep_until("shop/billing")
        .keep_until("shop/later")
        .rates(rates)
        .metadata("of the application")
}

fn shard_rates() -> Rates {
    Rates::default().bytes_soft(3 << 30).bytes_hard(4 << 30).records_soft(5).records_hard(6 << 20)
}

fn change<T, E: From<Stopped> + std::fmt::Debug>(
    world: &mut World,
    change: impl FnOnce(Reply<T, E>) -> Change,
) -> T {
    world.run(|reply| Request::Change(Box::new(change(reply))))
}

/// In the first segment.
pub(crate) fn write_first(world: &mut World) {
    let lz4 = Arc::new(LogOptions::default().compression(Codec::Lz4));
    for (name, options) in [("shop/events", Some(lz4)), ("shop/archive", None)] {
        let (name, mode) = (name.to_owned(), OpenMode::Create);
        world.run(|reply| Request::OpenLog { name, mode, options, reply });
    }
    let (options, replaces) = (Arc::new(options()), Some(0));
    change(world, |reply| Change::SetOptions { log: ARCHIVE, options, replaces, reply });
    change(world, |reply| Change::SetRates { rates: shard_rates(), reply });

    let till = open_writer(world, EVENTS, Some("till"), false, false);
    let asked: Vec<_> = (1..=BATCHES).map(|number| ask(world, "till", till, number)).collect();
    world.turn();
    let first = |asked: Asked<_, _>| written(asked).appended.first.get();
    assert!(asked.into_iter().map(first).eq(0..BATCHES), "all of them in one entry");
    let again = ask(world, "till", till, BATCHES);
    world.turn();
    let again = written(again);
    assert!(again.repeated && again.appended.first.get() == BATCHES - 1);

    let gate = open_writer(world, EVENTS, Some("gate"), true, false);
    for number in [5, 9] {
        let asked = ask(world, "gate", gate, number);
        world.turn();
        assert!(!written(asked).repeated);
    }
    open_writer(world, EVENTS, Some("old"), false, true);
    let name = "old".to_owned();
    change(world, |reply| Change::ForgetWriter { log: EVENTS, name, reply });
    change(world, |reply| Change::ShareLog { log: EVENTS, reply });
    let name = "shop/facts".to_owned();
    change::<LogInfo, LogError>(world, |reply| Change::RenameLog { log: EVENTS, name, reply });

    let owner = Author::Owner(open_writer(world, ARCHIVE, None, false, true));
    let (log, record) = (ARCHIVE, NewRecord::new(TEXT.repeat(60)));
    world.run(|reply| Request::Append { log, author: owner, record, reply });
    let end = change(world, |reply| Change::SealLog { log, author: owner, reply });
    assert_eq!(end, Sequence::new(1));
}

/// In the second segment, whose manifest holds all that.
pub(crate) fn write_second(world: &mut World, till: Epoch) {
    let asked = ask(world, "till", till, BATCHES + 1);
    world.turn();
    assert_eq!(written(asked).appended.first, Sequence::new(BATCHES + 2));
    for (log, before) in [(EVENTS, BATCHES + 2), (ARCHIVE, 1)] {
        let before = Sequence::new(before);
        world.run(|reply| Request::Truncate { log, before, reply });
    }
}

/// The owner of the writer "till".
pub(crate) const TILL: Epoch = Epoch::new(3);

fn open_writer(
    world: &mut World,
    log: LogId,
    name: Option<&str>,
    increasing: bool,
    exclusive: bool,
) -> Epoch {
    let name = name.map(str::to_owned);
    let open = |reply| Change::OpenWriter { log, name, increasing, exclusive, reply };
    let WriterGrant { epoch, .. } = change(world, open);
    epoch
}

fn ask(
    world: &mut World,
    name: &str,
    epoch: Epoch,
    number: u64,
) -> Asked<Written, oncelog::AppendError> {
    let record = NewRecord::new(format!("{name} {number}: {}", TEXT.repeat(4)));
    let (log, name, records, exclusive) = (EVENTS, name.into(), vec![record], false);
    let append = |reply| WriterAppend { log, name, epoch, exclusive, number, records, reply };
    world.ask(|reply| Request::Change(Box::new(Change::WriterAppend(append(reply)))))
}

fn written(asked: Asked<Written, oncelog::AppendError>) -> Written {
    asked.answer()
}

fn describe(world: &mut World, log: LogId) -> LogInfo {
    world.run(|reply| Request::DescribeLog { log, reply })
}

/// What must be known of it all, whichever segment was read.
pub(crate) fn check(world: &mut World, second: bool) {
    let (events, archive) = (describe(world, EVENTS), describe(world, ARCHIVE));
    assert_eq!((events.name.as_str(), events.owner, events.sealed), ("shop/facts", none(), false));
    assert_eq!((events.options_version, events.options.compression), (1, Codec::Lz4));
    assert_eq!((archive.options_version, &*archive.options), (1, &options()));
    assert!(archive.sealed && archive.owner > none() && archive.next == Sequence::new(1));
    assert_eq!(archive.bytes, 16 + 60 * TEXT.len() as u64);

    let writers = change(world, |reply| Change::ListWriters { log: EVENTS, reply });
    let writers: Vec<_> = writers.iter().map(|w| (w.name.as_str(), w.increasing, w.last)).collect();
    let last = BATCHES + u64::from(second);
    assert_eq!(writers, [("gate", true, 9), ("till", false, last)]);
    // Each is remembered as far as the window goes, with the place where it stands.
    for (number, is_known) in [(last, true), (last - 15, true), (last - 16, false)] {
        let asked = ask(world, "till", TILL, number);
        world.turn();
        assert_eq!(asked.result().is_ok(), is_known, "batch {number}");
    }
    let records = read(world, EVENTS);
    let texts: Vec<_> = records.iter().map(|(.., text)| text.clone()).collect();
    let of = |name: &str, number| format!("{name} {number}: {}", TEXT.repeat(4));
    let mut expected: Vec<_> = (1..=BATCHES).map(|number| of("till", number)).collect();
    expected.extend([of("gate", 5), of("gate", 9)]);
    if second {
        expected = vec![of("till", BATCHES + 1)];
    }
    assert_eq!(texts, expected);
    let archived = read(world, ARCHIVE);
    let texts: Vec<_> = archived.iter().map(|(.., text)| text.clone()).collect();
    assert_eq!(texts, if second { vec![] } else { vec![TEXT.repeat(60)] });
}

fn none() -> Epoch {
    Epoch::new(0)
}
