//! Metrics say what happened: on real files through the API, and of the core with a slow device.
//!
//! Not here: what counting costs (`bench-harness`, `instructions`), and how histograms are kept.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use oncelog::change::Author;
use oncelog::io::{Completion, Now, Op, OpKind};
use oncelog::limits::NO_SPACE_RETRY_US;
use oncelog::metrics::{AppendRefusal, CommitRefusal, ReadRefusal, Value};
use oncelog::reply::{Pending, pair};
use oncelog::request::{Appended, At, NewRecord, OpenMode, ReadAnswer, ReadRequest, Request, Wait};
use oncelog::shard::{Shard, ShardConfig};
use oncelog::{
    AppendError, Commit, Engine, EngineMetrics, From, LogId, Options, ReadError, Sequence, ShardId,
    ShardMetrics, SyncMethod, TxId,
};
use oncelog_tests::sim::asking::take;

fn options(dir: &Path) -> Options {
    Options::new(dir).shards(1).segment_size(1 << 20)
}

fn metrics(engine: &Engine) -> EngineMetrics {
    engine.metrics().wait().unwrap()
}

#[test]
fn appends_are_counted_exactly_and_each_request_has_its_latency() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Options::new(dir.path()).shards(2).segment_size(1 << 20).open().unwrap();
    let logs = ["a", "b", "c", "d"].map(|name| engine.create_log(name).wait().unwrap());
    let mut pending = Vec::new();
    for n in 0..500 {
        pending.push(logs[n % 4].append(vec![1; n]));
    }
    pending.into_iter().for_each(|append| assert!(append.wait().is_ok()));
    logs[0].append_batch([vec![2; 10], vec![3; 20]]).wait().unwrap();
    logs[1].append_batch(Vec::<&str>::new()).wait().unwrap();

    let all = metrics(&engine);
    let total = &all.total;
    let bytes = (0..500).sum::<u64>() + 30;
    assert_eq!((total.append_requests, total.append_records), (501, 502), "an empty batch is none");
    assert_eq!((total.append_bytes, total.stats.commit.records), (bytes, 502));
    assert_eq!(total.append_latency.count(), 501);
    assert!(total.append_latency.sum() > 0);
    assert_eq!(total.entry_records.sum(), 502);
    assert_eq!(total.entry_requests.sum(), 501);
    assert_eq!(total.write_time.count(), total.stats.commit.entries);
    assert!(total.turn_requests.sum() >= 501 + 4);
    assert_eq!((total.logs, total.segments_active), (4, 2));
    assert!(total.turns_thread > 0 && total.turns_client + total.turns_thread > 2);
    // The engine is all its shards.
    let sum = |of: fn(&ShardMetrics) -> u64| all.shards.iter().map(|(_, shard)| of(shard)).sum();
    assert_eq!(total.append_bytes, sum(|shard| shard.append_bytes));
    assert_eq!(total.append_latency.sum(), sum(|shard| shard.append_latency.sum()));
    assert!(all.shards.iter().all(|(_, shard)| shard.append_requests > 0));
}

#[test]
fn what_is_refused_is_counted_by_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let engine = options(dir.path()).inbox_size(1 << 16).open().unwrap();
    let log = engine.create_log("g/log").wait().unwrap();
    log.append(NewRecord::new("x").with_txid(TxId::new(9))).wait().unwrap();
    log.append(NewRecord::new("x").with_txid(TxId::new(8))).wait().unwrap_err();
    log.append(vec![0; 1 << 20]).wait().unwrap_err();
    log.append_batch((0..4).map(|_| vec![0; 100_000])).wait().unwrap_err();
    let tried: Vec<_> = (0..64).map(|_| log.try_append(vec![0; 60_000])).collect();
    let busy = tried.iter().filter(|tried| tried.is_err()).count() as u64;
    tried.into_iter().flatten().for_each(|append| assert!(append.wait().is_ok()));

    let (mut old, _) = engine.processor("g/p").source("g/log").open().wait().unwrap();
    let (mut new, _) = engine.processor("g/p").open().wait().unwrap();
    old.commit(Commit::new()).wait().unwrap_err();
    let commit = Commit::new().position(log.id(), Sequence::new(1)).output(&log, "out");
    new.commit(commit).wait().unwrap();
    let records = log.describe().wait().unwrap().next;
    assert_eq!(metrics(&engine).total.processor_lag, [("g/p".to_owned(), records.get() - 1)]);
    new.commit(Commit::new().position(log.id(), Sequence::new(1_000_000))).wait().unwrap_err();

    engine.drop_processor("g/p").wait().unwrap();
    log.truncate(records).wait().unwrap();
    log.reader(From::Sequence(Sequence::new(0))).try_next().wait().unwrap_err();
    engine.drop_log("g/log").wait().unwrap();
    log.append("x").wait().unwrap_err();

    let total = metrics(&engine).total;
    let refused = AppendRefusal::ALL.map(|reason| (reason.name(), total.append_refused(reason)));
    let expected = [
        ("too_large", 2),
        ("txid", 1),
        ("no_space", 0),
        ("busy", busy),
        ("over_capacity", 0),
        ("fenced", 0),
        ("number", 0),
        ("sealed", 0),
        ("dropped", 1),
        ("stopped", 0),
    ];
    assert_eq!(refused, expected);
    for (reason, count) in [(CommitRefusal::Fenced, 1), (CommitRefusal::Position, 1)] {
        assert_eq!(total.commit_refused(reason), count, "{reason:?}");
    }
    let all = CommitRefusal::ALL.map(|reason| total.commit_refused(reason));
    assert_eq!(all.iter().sum::<u64>(), 2);
    assert_eq!(total.read_refused(ReadRefusal::Truncated), 1);
    assert_eq!((total.commits, total.commit_output_records), (1, 1));
    assert_eq!(total.commit_latency.count(), 1);
    assert_eq!((total.processors, total.logs), (0, 0));
}

#[test]
fn repeated_appends_are_told_from_new_and_refused_ones() {
    let dir = tempfile::tempdir().unwrap();
    let engine = options(dir.path()).open().unwrap();
    let log = engine.create_log("log").wait().unwrap();
    let old = log.writer("w").open().wait().unwrap();
    let new = log.writer("w").open().wait().unwrap();
    new.append(1, ["a", "b"]).wait().unwrap();
    new.append(1, ["a", "b"]).wait().unwrap();
    new.append(3, ["d"]).wait().unwrap_err();
    old.append(2, ["c"]).wait().unwrap_err();
    log.seal().wait().unwrap();
    log.append("x").wait().unwrap_err();
    let total = metrics(&engine).total;
    assert_eq!((total.append_requests, total.append_records, total.append_bytes), (1, 2, 2));
    assert_eq!((total.append_repeats, total.append_latency.count()), (1, 1));
    let refused = AppendRefusal::ALL.map(|reason| (reason, total.append_refused(reason)));
    let once = [AppendRefusal::Fenced, AppendRefusal::Number, AppendRefusal::Sealed];
    for (reason, count) in refused {
        assert_eq!(count, u64::from(once.contains(&reason)), "{reason:?}");
    }
}

#[test]
fn reads_are_counted_by_where_their_bytes_came_from() {
    for cache in [64 << 20, 0] {
        let dir = tempfile::tempdir().unwrap();
        let engine = options(dir.path()).tail_cache_size(cache).open().unwrap();
        let log = engine.create_log("log").wait().unwrap();
        for _ in 0..30 {
            log.append_batch((0..10).map(|_| vec![1; 10_000])).wait().unwrap();
        }
        let mut reader = log.reader(From::Earliest);
        while reader.try_next().wait().unwrap().is_some() {}
        let total = metrics(&engine).total;
        // What was asked for ahead, at the end, may not be answered yet.
        assert!(total.read_records >= 300 && total.read_latency.count() <= total.read_requests);
        let (memory, device) = (total.read_memory_bytes, total.read_device_bytes);
        assert_eq!((memory > 0, device > 0), (cache > 0, cache == 0), "{total}");
        assert!(memory + device >= 3_000_000);
        assert_eq!(total.device_reads > 0, cache == 0);
        assert!(total.device_read_bytes >= device);
        assert!(total.segment_rolls >= 3 && total.stats.sealed >= 2);
        assert!(total.index_hits > 0, "the indexes of the segments that were just written");
        assert!(total.segments_written + total.segments_allocated >= total.segment_rolls);
        engine.close().wait().unwrap();

        let engine = options(dir.path()).open().unwrap();
        let log = engine.open_log("log").wait().unwrap();
        log.get(Sequence::new(0)).wait().unwrap().unwrap();
        let total = metrics(&engine).total;
        assert_eq!((total.index_hits, total.index_misses), (0, 1), "not in memory after opening");
        assert!(total.index_loads >= 1);
        assert_eq!(total.append_requests, 0, "since it was opened");
    }
}

/// The core with a device that is done when the test says so.
struct World {
    shard: Shard,
    now: Now,
    held: Vec<Op>,
    /// No segment can be made.
    is_full: bool,
}

impl World {
    fn new() -> Self {
        let config = ShardConfig {
            engine: [7; 16],
            shard: ShardId::new(0),
            segment_size: 1 << 20,
            begun: false,
            tail_cache_size: 1 << 20,
            sync_method: Some(SyncMethod::Fdatasync),
        };
        let shard = Shard::open(config, &[]);
        let now = Now { wall_us: 1, mono_us: 1 };
        let mut world = Self { shard, now, held: Vec::new(), is_full: false };
        world.finish_all();
        world
    }

    fn pass(&mut self, us: u64) {
        self.now.mono_us += us;
    }

    fn poll(&mut self) {
        while let Some(op) = self.shard.poll_op(self.now) {
            self.held.push(op);
        }
        while let Some(answer) = self.shard.poll_answer() {
            answer.deliver();
        }
    }

    /// The device is done with the oldest operation; what the files hold does not matter here.
    fn finish(&mut self, fails: bool) {
        let Op { id, kind } = self.held.remove(0);
        let mut done = Completion { id, result: Ok(0), buf: None, side: None };
        match kind {
            OpKind::Write { buf, .. } => {
                done.result = Ok(u32::try_from(buf.len()).unwrap());
                done.buf = Some(buf);
            }
            OpKind::MakeSpare { .. } if self.is_full => {
                done.result = Err(std::io::Error::from(std::io::ErrorKind::StorageFull).into());
            }
            _ => {}
        }
        if fails {
            done.result = Err(std::io::Error::other("broken").into());
        }
        self.shard.handle_completion(done, self.now);
        self.poll();
    }

    fn finish_all(&mut self) {
        self.poll();
        while !self.held.is_empty() {
            self.finish(false);
        }
    }

    fn create(&mut self) -> LogId {
        let (reply, mut pending) = pair();
        let (name, mode) = ("log".to_owned(), OpenMode::Create);
        self.shard.handle_request(Request::OpenLog { name, mode, options: None, reply }, self.now);
        self.finish_all();
        take(&mut pending).unwrap().unwrap().id
    }

    fn append(&mut self, log: LogId, len: usize) -> Pending<Appended, AppendError> {
        let (reply, pending) = pair();
        let record = NewRecord::new(vec![1; len]);
        self.shard.handle_request(
            Request::Append { log, author: Author::Anyone, record, reply },
            self.now,
        );
        pending
    }

    fn read(&mut self, log: LogId, wait: bool) -> Pending<ReadAnswer, ReadError> {
        let (reply, pending) = pair();
        let (at, wait) = if wait { (At::Latest, Wait::Forever) } else { (At::Earliest, Wait::No) };
        let (bytes_max, ahead, planned) = (1, false, None);
        let read = ReadRequest { log, at, bytes_max, wait, ahead, planned, reply };
        self.shard.handle_request(Request::Read(read), self.now);
        pending
    }

    fn metrics(&mut self) -> Box<ShardMetrics> {
        let (reply, mut pending) = pair();
        self.shard.handle_request(Request::Metrics { reply }, self.now);
        while let Some(answer) = self.shard.poll_answer() {
            answer.deliver();
        }
        take(&mut pending).expect("it is answered at once").unwrap()
    }
}

#[test]
fn times_are_those_between_the_calls_that_begin_and_end_them() {
    let mut world = World::new();
    let log = world.create();
    let mut parked = world.read(log, true);
    assert_eq!(world.metrics().reads_parked, 1);
    let before = world.metrics();
    world.pass(100);
    // Three requests, then two; one write of 50, one sync of 30.
    let mut first: Vec<_> = (0..3).map(|_| world.append(log, 10)).collect();
    world.pass(7);
    first.extend((0..2).map(|_| world.append(log, 10)));
    world.pass(3);
    world.poll();
    assert_eq!(world.metrics().entries_in_flight, 1);
    world.pass(50);
    world.finish(false);
    assert_eq!(world.metrics().append_requests, 0, "not before it is durable");
    world.pass(30);
    world.finish(false);
    assert!(first.iter_mut().all(|append| take(append).unwrap().is_ok()));
    assert_eq!(take(&mut parked).unwrap().unwrap().sections.len(), 1);

    let after = world.metrics();
    let latencies: Vec<_> = after.append_latency.buckets().collect();
    assert_eq!(latencies, [(83, 2), (90, 3)]);
    assert_eq!(after.entry_open_time.sum(), 10);
    assert_eq!(after.write_time.sum() - before.write_time.sum(), 50);
    assert_eq!(after.sync_time.sum() - before.sync_time.sum(), 30);
    assert_eq!(after.read_parked_time.sum(), 190);
    assert_eq!((after.reads_parked, after.read_latency.count()), (0, 0));
    let _read = world.read(log, false);
    let after = world.metrics();
    assert_eq!((after.read_latency.count(), after.read_records), (1, 10), "five of each");
}

#[test]
fn time_held_back_and_time_without_a_segment_are_told() {
    let mut world = World::new();
    let log = world.create();
    let mut sent = 0;
    // Until one does not fit the segment: it waits for the next one.
    while world.shard.wants_requests() {
        let _append = world.append(log, 100_000);
        sent += 1;
        if world.shard.wants_requests() {
            world.finish_all();
        }
    }
    let before = world.shard.metrics();
    world.pass(500);
    world.finish_all();
    let after = world.metrics();
    assert_eq!((after.append_requests, after.append_records), (sent, sent));
    assert_eq!(after.request_held_time.max(), 500, "{after}");
    assert_eq!(after.segment_rolls, before.segment_rolls + 1);
    assert_eq!(after.segment_roll_stall.max(), 500);
}

#[test]
fn a_full_disk_is_one_episode_and_what_is_freed_is_used_again() {
    let mut world = World::new();
    let log = world.create();
    let fill = |world: &mut World, is_full: bool| {
        world.is_full = is_full;
        loop {
            let mut append = world.append(log, 100_000);
            world.finish_all();
            let metrics = world.metrics();
            match take(&mut append).expect("it is written or refused") {
                Ok(_) if !is_full && metrics.stats.sealed == 3 => return metrics,
                Err(AppendError::NoSpace(_)) if is_full => return metrics,
                other => assert!(other.is_ok(), "{other:?}"),
            }
        }
    };
    let metrics = fill(&mut world, false);
    assert_eq!((metrics.no_space_episodes, metrics.no_space), (0, 0));
    for _ in 0..3 {
        let metrics = fill(&mut world, true);
        assert_eq!((metrics.no_space_episodes, metrics.no_space), (1, 1), "tried in vain again");
        world.pass(NO_SPACE_RETRY_US);
    }
    assert_eq!(world.metrics().append_refused(AppendRefusal::NoSpace), 3);

    let (reply, mut done) = pair();
    let before = Sequence::new(world.metrics().append_records);
    world.shard.handle_request(Request::Truncate { log, before, reply }, world.now);
    world.finish_all();
    assert!(take(&mut done).unwrap().is_ok());
    let metrics = world.metrics();
    let freed = metrics.segments_freed;
    assert!(freed >= 3 && metrics.no_space == 0, "{metrics}");
    assert_eq!(metrics.segments_recycled + metrics.segments_removed, freed);
    assert!(metrics.segments_recycled >= 2, "{metrics}");
    assert_eq!((metrics.stats.sealed, metrics.segments_active), (0, 1));
    assert_eq!(metrics.segment_file_bytes, (1 + metrics.segments_spare) << 20);
}

#[test]
fn a_stopped_shard_still_answers_and_counts_what_it_refuses() {
    let mut world = World::new();
    let log = world.create();
    let mut lost = world.append(log, 10);
    world.poll();
    world.finish(true);
    assert!(take(&mut lost).unwrap().is_err());
    let mut refused = world.append(log, 10);
    world.poll();
    assert!(take(&mut refused).unwrap().is_err());
    let metrics = world.metrics();
    assert_eq!((metrics.append_requests, metrics.append_latency.count()), (0, 0));
    assert_eq!(metrics.append_refused(AppendRefusal::Stopped), 1);
}

#[test]
fn the_documentation_lists_exactly_what_there_is_with_its_unit_and_kind() {
    let dir = tempfile::tempdir().unwrap();
    let engine = options(dir.path()).open().unwrap();
    engine.create_log("g/log").wait().unwrap();
    engine.processor("g/p").source("g/log").open().wait().unwrap();
    let metrics = metrics(&engine);
    let fields: BTreeSet<[String; 3]> = metrics
        .total
        .fields()
        .inspect(|field| assert!(!field.help.is_empty(), "{}", field.name))
        .map(|field| [field.name, field.value.kind(), field.unit.name()].map(str::to_owned))
        .collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let text = fs::read_to_string(path).unwrap();
    let row = |line: &str| {
        let mut cells = line.strip_prefix("| `")?.split('|').map(|cell| cell.replace('`', ""));
        let mut next = || cells.next().map(|cell| cell.trim().to_owned());
        Some([next()?, next()?, next()?])
    };
    let listed: Vec<_> = text.lines().filter_map(row).collect();
    let told: BTreeSet<_> = listed.iter().cloned().collect();
    assert_eq!(told.len(), listed.len(), "a name is listed twice");
    let missing: Vec<_> = fields.difference(&told).collect();
    let unknown: Vec<_> = told.difference(&fields).collect();
    assert!(missing.is_empty() && unknown.is_empty(), "add {missing:?}, remove {unknown:?}");

    // The memory that it says, and the text for people.
    let bytes = metrics.total.histogram_bytes();
    assert!(text.contains(&format!("{} KiB", bytes >> 10)), "{} KiB", bytes >> 10);
    let shown = metrics.to_string();
    assert!(shown.lines().any(|line| line.starts_with("logs ") && line.ends_with(" 1")), "{shown}");
    let zero = |value: Value<'_>| matches!(value, Value::Counter(0) | Value::Gauge(0));
    let hidden = metrics.total.fields().find(|field| zero(field.value)).unwrap();
    assert!(!shown.contains(hidden.name), "{shown}");
}
