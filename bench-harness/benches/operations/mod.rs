//! The small operations that a record goes through, each by itself.
//!
//! ```text
//! client: inbox push -> shard: take -> entry encode (checksums) -> .. -> reply -> client
//!                       '------------- core alone, all of it ---------------'
//! reader: index lookup -> entry parse and check
//! ```
//!
//! Not here: how they are timed (`micro`) and counted (`instructions`).

use std::hint::black_box;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use bytes::{Bytes, BytesMut};
use crc_fast::{CrcAlgorithm, Digest};
use oncelog::buf::Pool;
use oncelog::change::Author;
use oncelog::format::Place;
use oncelog::format::codec::{Codec, Packer};
use oncelog::format::entry::{Entry, EntryHead, Flags, RecordsIn, put_entry};
use oncelog::inbox::{Inbox, Outlet, Wake, inbox};
use oncelog::index::{SectionRef, SegmentIndex};
use oncelog::io::{Completion, Now, Op, OpKind};
use oncelog::reply::{Reply, pair};
use oncelog::request::{NewRecord, OpenMode, Request, StagedRecord};
use oncelog::shard::{Shard, ShardConfig};
use oncelog::stage::OpenEntry;
use oncelog::{LogId, SegmentId, Sequence, ShardId, Stopped, TxId};
use rustix::event::{PollFd, PollFlags, poll};

/// Does an operation so many times.
pub(crate) type Run = Box<dyn FnMut(u64)>;

/// One operation.
pub(crate) struct Operation {
    /// `checksum CRC-64/NVME, 4 KiB`.
    pub(crate) name: String,
    /// Bytes that it goes over, where that says something.
    pub(crate) bytes: Option<u64>,
    /// Makes all that it needs.
    pub(crate) prepare: Box<dyn Fn() -> Run>,
}

fn operation(name: &str, bytes: Option<u64>, prepare: impl Fn() -> Run + 'static) -> Operation {
    Operation { name: name.to_owned(), bytes, prepare: Box::new(prepare) }
}

fn repeat<T>(mut once: impl FnMut() -> T + 'static) -> Run {
    Box::new(move |times| {
        for _ in 0..times {
            black_box(once());
        }
    })
}

/// All of them.
pub(crate) fn all() -> Vec<Operation> {
    let mut all = Vec::new();
    for (size, name) in
        [(100, "100 B"), (4 << 10, "4 KiB"), (64 << 10, "64 KiB"), (1 << 20, "1 MiB")]
    {
        all.extend(checksums(size, name));
    }
    for (records, size, name) in
        [(1, 1024, "1 x 1 KiB"), (32, 1024, "32 x 1 KiB"), (1000, 100, "1,000 x 100 B")]
    {
        all.extend(entries(records, size, name));
    }
    for (size, name) in [(4 << 10, "4 KiB"), (256 << 10, "256 KiB")] {
        for codec in [Codec::Lz4, Codec::Zstd] {
            all.extend(codecs(codec, size, name));
        }
    }
    all.extend(lookups());
    for (requests, name) in [(1, "1 append"), (32, "32 appends")] {
        let title = format!("core: entries of {name} of 100 B");
        all.push(operation(&title, None, move || core(requests)));
    }
    all.push(operation("inbox: push and take, one thread", None, inbox_alone));
    all.push(operation("inbox: take what another thread pushes", None, inbox_between));
    all.push(operation("reply: pair, send, wait, one thread", None, || {
        repeat(|| {
            let (reply, pending) = pair::<u64, Stopped>();
            reply.send(black_box(Ok(1)));
            pending.wait()
        })
    }));
    all.push(operation("round trip to a sleeping thread: bell, reply", None, round_trip));
    all
}

/// Lines of a log as services write them, the name says how much smaller they get.
fn codecs(codec: Codec, size: usize, name: &str) -> [Operation; 2] {
    let line = |n: u64| {
        let (user, item) = (n.wrapping_mul(2_654_435_761) % 9_973, n * 7_919 % 5_003);
        format!("{{\"id\":{n},\"user\":\"u{user}\",\"item\":{item},\"cents\":{}}}\n", n % 9_700)
    };
    let mut raw: Vec<u8> = (0..10_000).flat_map(|n| line(n).into_bytes()).collect();
    raw.truncate(size);
    let stored = Bytes::copy_from_slice(Packer::default().pack(codec, &raw).expect("it repeats"));
    let percent = 100 * stored.len() / size;
    let (bytes, raw_len) = (Some(size as u64), u32::try_from(size).expect("an entry's size"));
    let pack =
        operation(&format!("codec: pack {codec:?}, {name} to {percent} %"), bytes, move || {
            let (raw, mut packer) = (raw.clone(), Packer::default());
            repeat(move || packer.pack(codec, black_box(&raw)).map(<[u8]>::len))
        });
    let unpack = operation(&format!("codec: unpack {codec:?}, {name}"), bytes, move || {
        let stored = stored.clone();
        repeat(move || codec.unpack(black_box(&stored), raw_len).expect("it was just packed"))
    });
    [pack, unpack]
}

/// A shard whose device is done at once: requests are taken, written as one entry, answered.
fn core(requests: u64) -> Run {
    let config = ShardConfig {
        engine: [7; 16],
        shard: ShardId::new(0),
        segment_size: 64 << 20,
        begun: false,
        tail_cache_size: 0,
        sync_method: None,
    };
    let mut shard = Shard::open(config, &[]);
    let mut now = Now { wall_us: 1, mono_us: 1 };
    let (reply, pending) = pair();
    finish(&mut shard, now);
    let (name, mode) = ("log".to_owned(), OpenMode::Create);
    shard.handle_request(Request::OpenLog { name, mode, options: None, reply }, now);
    finish(&mut shard, now);
    let log = pending.wait().expect("nothing fails").id;
    let payload = Bytes::from(vec![0x5a; 100]);
    repeat(move || {
        now.mono_us += 100;
        let ask = |_| {
            let (reply, pending) = pair();
            let record = NewRecord::from(payload.clone());
            shard.handle_request(
                Request::Append { log, author: Author::Anyone, record, reply },
                now,
            );
            pending
        };
        let answers: Vec<_> = (0..requests).map(ask).collect();
        now.mono_us += 50;
        finish(&mut shard, now);
        for answer in answers {
            answer.wait().expect("nothing fails");
        }
    })
}

/// Carries out what a shard wants, keeping nothing, and gives the answers.
fn finish(shard: &mut Shard, now: Now) {
    while let Some(Op { id, kind }) = shard.poll_op(now) {
        let mut done = Completion { id, result: Ok(0), buf: None, side: None };
        if let OpKind::Write { buf, .. } = kind {
            done.result = Ok(u32::try_from(buf.len()).expect("an entry is small"));
            done.buf = Some(buf);
        }
        shard.handle_completion(done, now);
    }
    while let Some(answer) = shard.poll_answer() {
        answer.deliver();
    }
}

fn checksums(size: u64, name: &str) -> Vec<Operation> {
    let data = move || vec![0x5a_u8; size as usize];
    let checksum = |algorithm, title: &str| {
        operation(&format!("checksum {title}, {name}"), Some(size), move || {
            let data = data();
            repeat(move || {
                let mut digest = Digest::new(algorithm);
                digest.update(black_box(&data));
                digest.finalize()
            })
        })
    };
    let copy = operation(&format!("memcpy, {name}"), Some(size), move || {
        let (from, mut to) = (data(), data());
        repeat(move || {
            to.copy_from_slice(black_box(&from));
            black_box(&mut to);
        })
    });
    vec![
        checksum(CrcAlgorithm::Crc64Nvme, "CRC-64/NVME"),
        checksum(CrcAlgorithm::Crc32Iscsi, "CRC-32C"),
        copy,
    ]
}

fn head() -> EntryHead {
    let (shard, segment) = (ShardId::new(0), SegmentId::new(1));
    EntryHead {
        place: Place { engine: [7; 16], shard, segment, entry: 3, offset: 4096 },
        flags: Flags::DATA,
        previous_digest: 1,
        time_us: 2,
        durable: 3,
    }
}

fn records(count: u64, size: usize) -> Vec<StagedRecord> {
    let payload = Bytes::from(vec![0x5a_u8; size]);
    let record = |id| StagedRecord { txid: TxId::new(id), payload: payload.clone() };
    (0..count).map(record).collect()
}

/// Writes one entry behind what is in `out`.
fn put(out: &mut BytesMut, records: &[StagedRecord]) -> u64 {
    let section = RecordsIn {
        log: LogId::new(1),
        codec: Codec::None,
        first_sequence: Sequence::new(0),
        records,
    };
    put_entry(out, &head(), (&[], 0), &[section], &mut Packer::default()).1
}

fn entries(count: u64, size: usize, name: &str) -> Vec<Operation> {
    let bytes = Some(count * size as u64);
    let encode = operation(&format!("entry: put_entry, {name}"), bytes, move || {
        let (records, mut out) = (records(count, size), BytesMut::new());
        repeat(move || {
            out.clear();
            put(&mut out, black_box(&records))
        })
    });
    let stage = operation(&format!("entry: stage and encode, {name}"), bytes, move || {
        let (records, mut pool) = (records(count, size), Pool::new(1 << 20, 2));
        let mut packer = Packer::default();
        repeat(move || {
            let mut open = OpenEntry::default();
            // As requests come: one record at a time.
            for (number, record) in (0..).zip(black_box(&records)) {
                let record = StagedRecord { txid: record.txid, payload: record.payload.clone() };
                let first = Sequence::new(number);
                open.put_records(LogId::new(1), Codec::None, first, std::iter::once(record));
            }
            open.encode(&mut pool, &mut packer, &head()).2
        })
    });
    let check = operation(&format!("entry: parse and check, {name}"), bytes, move || {
        let mut out = BytesMut::new();
        put(&mut out, &records(count, size));
        let valid = |bytes: &[u8]| Entry::parse(bytes).is_some_and(|one| one.sections_match(bytes));
        assert!(valid(&out), "an entry that was just written is not valid");
        repeat(move || valid(black_box(&out)))
    });
    vec![encode, stage, check]
}

fn section(number: u64) -> SectionRef {
    SectionRef {
        first: Sequence::new(number * 10),
        first_txid: TxId::new(number),
        time_us: number,
        checksum: number,
        count: 10,
        entry: 0,
        entry_offset: 4096,
        offset: 160,
        len: 1000,
        raw_len: 1000,
        codec: Codec::None,
    }
}

fn lookups() -> Vec<Operation> {
    let lookup = |logs: u64, sections: u64, name: &str| {
        operation(&format!("index: lookup, {name}"), None, move || {
            let mut index = SegmentIndex::default();
            for number in 0..logs * sections {
                index.add(LogId::new(1 + number % logs), section(number / logs));
            }
            let mut turn = 0_u64;
            repeat(move || {
                turn = turn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let log = LogId::new(1 + (turn >> 33) % logs);
                let sequence = Sequence::new((turn >> 20) % (sections * 10));
                let found = index.log(log).and_then(|span| Some(span.from(sequence)?[0].first));
                assert!(found.is_some(), "a record that is there is not found");
                found
            })
        })
    };
    vec![
        lookup(1, 10_000, "1 log, 10,000 sections"),
        lookup(10_000, 10, "10,000 logs, 10 sections"),
    ]
}

const INBOX_BYTES: u64 = 1 << 20;

fn inbox_alone() -> Run {
    let (inbox, mut outlet) = inbox::<u64>(INBOX_BYTES).expect("an eventfd");
    repeat(move || {
        assert!(inbox.try_push(100, black_box(1)).is_ok(), "an empty inbox is full");
        let taken = outlet.take_request();
        outlet.wake_waiting();
        taken
    })
}

/// A thread that ends when what it is told through is dropped, and is waited for then.
struct Worker<T> {
    tell: Option<T>,
    thread: Option<JoinHandle<()>>,
}

impl<T> Worker<T> {
    fn new(tell: T, thread: JoinHandle<()>) -> Self {
        Self { tell: Some(tell), thread: Some(thread) }
    }

    fn tell(&self) -> &T {
        self.tell.as_ref().expect("it is there until it is dropped")
    }
}

impl<T> Drop for Worker<T> {
    fn drop(&mut self) {
        drop(self.tell.take());
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(ended.is_some_and(|ended| ended.is_ok()) || thread::panicking());
    }
}

/// Sleeps until something is in the inbox.
fn sleep<R>(outlet: &mut Outlet<R>) {
    if outlet.park(Wake::Anything) {
        let bell = outlet.bell();
        let mut fds = [PollFd::new(&bell, PollFlags::IN)];
        poll(&mut fds, None).expect("waiting for the bell");
        bell.hear().expect("hearing the bell");
    }
}

fn inbox_between() -> Run {
    let (inbox, mut outlet) = inbox::<u64>(INBOX_BYTES).expect("an eventfd");
    let (orders, ordered) = mpsc::channel::<u64>();
    let thread = thread::spawn(move || {
        for count in ordered {
            for number in 0..count {
                oncelog::reply::block_on(inbox.push(100, number));
            }
        }
    });
    let producer = Worker::new(orders, thread);
    Box::new(move |times| {
        producer.tell().send(times).expect("the producer lives");
        let mut left = times;
        while left > 0 {
            while outlet.take_request().is_some() {
                left -= 1;
            }
            outlet.wake_waiting();
            if left > 0 {
                sleep(&mut outlet);
            }
        }
    })
}

/// A question, or the end.
type Question = Option<Reply<u64, Stopped>>;

/// Its other side ends when this is dropped.
struct Asker(Inbox<Question>);

impl Drop for Asker {
    fn drop(&mut self) {
        let _ = self.0.try_push(1, None);
    }
}

fn round_trip() -> Run {
    let (inbox, mut outlet) = inbox::<Question>(INBOX_BYTES).expect("an eventfd");
    let thread = thread::spawn(move || {
        loop {
            match outlet.take_request() {
                Some(Some(reply)) => reply.send(Ok(1)),
                Some(None) => return,
                None => sleep(&mut outlet),
            }
        }
    });
    let server = Worker::new(Asker(inbox), thread);
    repeat(move || {
        let (reply, pending) = pair();
        assert!(server.tell().0.try_push(1, Some(reply)).is_ok(), "an empty inbox is full");
        pending.wait()
    })
}
