//! Corners that once went wrong: what races with a full inbox, a second close, a failed open,
//! damage beside intact data, states larger than segments, files that pile up.

use std::fs;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Wake, Waker};

use oncelog::io::{Found, Now, Op, OpKind, SpareId};
use oncelog::shard::{Shard, ShardConfig};
use oncelog::{Batch, Commit, CommitError, Engine, From, Options, Sequence, ShardId};

fn options(dir: &Path) -> Options {
    Options::new(dir).shards(1).segment_size(1 << 20)
}

fn files(dir: &Path, prefix: &str) -> Vec<std::path::PathBuf> {
    let files = fs::read_dir(dir.join("shard-000")).unwrap().map(|file| file.unwrap().path());
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    let mut files: Vec<_> =
        files.filter(|p| name(p).starts_with(prefix) && name(p).ends_with(".log")).collect();
    files.sort();
    files
}

/// A client whose waker holds the shard's thread until it is let go.
struct Gate(Mutex<(bool, bool)>, Condvar);

impl Gate {
    fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new((false, false)), Condvar::new()))
    }

    fn wait_until_held(&self) {
        drop(self.1.wait_while(self.0.lock().unwrap(), |(held, _)| !*held).unwrap());
    }

    fn open(&self) {
        self.0.lock().unwrap().1 = true;
        self.1.notify_all();
    }
}

impl Wake for Gate {
    fn wake(self: Arc<Self>) {
        self.0.lock().unwrap().0 = true;
        self.1.notify_all();
        drop(self.1.wait_while(self.0.lock().unwrap(), |(_, open)| !*open).unwrap());
    }
}

/// A commit that waits for room in a full inbox was overtaken by the next one, and both were
/// acknowledged: the restored state then had them in the wrong order, or lacked one.
#[test]
fn no_commit_overtakes_one_that_waits_for_room() {
    let dir = tempfile::tempdir().unwrap();
    let engine = options(dir.path()).inbox_size(1).open().unwrap();
    let log = engine.create_log("g/log").wait().unwrap();
    let (mut processor, _) = engine.processor("g/p").source("g/log").open().wait().unwrap();
    processor.commit(Commit::new().delta("0")).wait().unwrap();

    let gate = Gate::new();
    let waker = Waker::from(Arc::clone(&gate));
    let mut held = log.append("x");
    let pending = Pin::new(&mut held).poll(&mut Context::from_waker(&waker)).is_pending();
    assert!(pending, "it takes a sync");
    gate.wait_until_held();
    let filler = log.append("fills the inbox while the shard is held");
    let first = processor.commit(Commit::new().snapshot("first"));
    assert!(format!("{first:?}").contains("waits_for_room: true"));
    gate.open();
    filler.wait().unwrap();
    let second = processor.commit(Commit::new().delta("second")).wait();
    let first = first.wait();

    let (_, restored) = engine.processor("g/p").open().wait().unwrap();
    match (first, second) {
        (Ok(_), Ok(_)) => {
            assert_eq!(restored.snapshot.as_deref(), Some(&b"first"[..]));
            assert_eq!(restored.deltas, ["second"]);
        }
        (Err(CommitError::Ended), Err(CommitError::Overtaken { number: 3 })) => {
            assert_eq!((restored.snapshot, &restored.deltas[..]), (None, &["0".into()][..]));
        }
        other => panic!("{other:?}"),
    }
}

/// A second close made the first one stop half-way: accepted appends were thrown away.
#[test]
fn closing_twice_at_once_still_finishes_what_was_accepted() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..10 {
        let engine = options(&dir.path().join(round.to_string())).open().unwrap();
        let log = engine.create_log("log").wait().unwrap();
        let appends: Vec<_> = (0..50).map(|_| log.append(vec![0; 20_000])).collect();
        let other = engine.clone();
        let closing = std::thread::spawn(move || other.close().wait());
        engine.close().wait().unwrap();
        closing.join().unwrap().unwrap();
        for append in appends {
            append.wait().unwrap();
        }
        engine.close().wait().unwrap();
    }
}

/// If one shard cannot be started the others held the directory for as long as the process lived.
#[test]
fn an_open_that_fails_lets_the_directory_go() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Options::new(dir.path()).shards(2).segment_size(1 << 20).open();
    drop(open().unwrap());
    let shard = dir.path().join("shard-001");
    fs::rename(&shard, dir.path().join("aside")).unwrap();
    fs::write(&shard, "not a directory").unwrap();
    open().unwrap_err();
    fs::remove_file(&shard).unwrap();
    fs::rename(dir.path().join("aside"), &shard).unwrap();
    open().unwrap();
}

/// Two logs share every entry; one section of one of them rots. The other log's records became
/// unreadable once the segment's index was made anew.
#[test]
fn damage_to_one_log_leaves_the_others_readable() {
    let dir = tempfile::tempdir().unwrap();
    let engine = options(dir.path()).open().unwrap();
    let [a, b] = ["g/a", "g/b"].map(|name| engine.create_log(name).wait().unwrap());
    for n in 0..30_u8 {
        let batch = Batch::new().append(&a, vec![n; 20_000]).append(&b, vec![100 + n; 20_000]);
        batch.commit().wait().unwrap();
    }
    engine.close().wait().unwrap();
    drop((engine, a, b));
    let file = files(dir.path(), "segment-").remove(0);
    let mut bytes = fs::read(&file).unwrap();
    let at = bytes.windows(100).position(|window| window == [7; 100]).unwrap();
    bytes[at] ^= 1;
    fs::write(&file, bytes).unwrap();
    fs::remove_file(file.with_extension("index")).unwrap();

    let engine = options(dir.path()).open().unwrap();
    let [a, b] = ["g/a", "g/b"].map(|name| engine.open_log(name).wait().unwrap());
    a.get(Sequence::new(7)).wait().unwrap_err();
    for n in 0..30_u8 {
        let sequence = Sequence::new(n.into());
        assert_eq!(b.get(sequence).wait().unwrap().unwrap().payload, vec![100 + n; 20_000]);
        if n != 7 {
            assert_eq!(a.get(sequence).wait().unwrap().unwrap().payload, vec![n; 20_000]);
        }
    }
}

/// A state larger than a segment was carried forward because its own copies filled segments: for
/// ever, without anyone writing.
#[test]
fn carrying_a_large_state_comes_to_rest() {
    let dir = tempfile::tempdir().unwrap();
    let engine = options(dir.path()).open().unwrap();
    let log = engine.create_log("g/log").wait().unwrap();
    let filler = engine.create_log("g/filler").wait().unwrap();
    let (mut processor, _) = engine.processor("g/p").source("g/log").open().wait().unwrap();
    let state = vec![7; 1_500_000];
    processor.commit(Commit::new().snapshot(state.clone())).wait().unwrap();
    let bytes = || engine.info().wait().unwrap().shards[0].stats.commit.bytes;
    for _ in 0..300 {
        filler.append(vec![1; 60_000]).wait().unwrap();
        let next = filler.describe().wait().unwrap().next;
        filler.truncate(next).wait().unwrap();
    }
    // Every append waits for its turn behind what the shard does by itself.
    let before = bytes();
    for _ in 0..50 {
        log.append("x").wait().unwrap();
    }
    let written = bytes() - before;
    assert!(written < 4 << 20, "{written} bytes for fifty small records");
    let kept = files(dir.path(), "segment-").len();
    assert!(kept < 16, "{kept} segments for 1.5 MB of state");
    let (_, restored) = engine.processor("g/p").open().wait().unwrap();
    assert!(restored.snapshot.as_deref() == Some(&state[..]));
}

/// Spares were kept without limit: a dropped log's space was never given back.
#[test]
fn the_space_of_a_dropped_log_is_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let engine = options(dir.path()).open().unwrap();
    let log = engine.create_log("log").wait().unwrap();
    for _ in 0..20 {
        log.append_batch(vec![vec![1; 60_000]; 2]).wait().unwrap();
    }
    for _ in 0..180 {
        log.append(vec![1; 100_000]).wait().unwrap();
    }
    assert!(files(dir.path(), "segment-").len() > 15);
    engine.drop_log("log").wait().unwrap();
    let other = engine.create_log("other").wait().unwrap();
    let left = || files(dir.path(), "segment-").len() + files(dir.path(), "spare-").len();
    for _ in 0..10_000 {
        other.append("x").wait().unwrap();
        if left() <= 5 {
            return;
        }
    }
    panic!("{} files are left", left());
}

/// With many small logs the index of a segment is large; a search that could not keep all that it
/// needs in memory began again, for ever.
#[test]
fn a_read_of_the_oldest_record_ends_however_large_the_indexes_are() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Options::new(dir.path()).shards(1).segment_size(16 << 20).open().unwrap();
    let engine: Engine = open();
    let logs: Vec<_> = (0..4000)
        .map(|n| engine.create_log(format!("g/{n}")))
        .map(|log| log.wait().unwrap())
        .collect();
    let mut round = 0;
    while files(dir.path(), "segment-").len() < 9 {
        let mut batch = Batch::new();
        for log in &logs {
            batch = batch.append(log, "0123456789012345678901234567890123456789");
        }
        batch.commit().wait().unwrap();
        round += 1;
    }
    engine.close().wait().unwrap();
    drop((engine, logs));
    let engine = open();
    let log = engine.open_log("g/1234").wait().unwrap();
    let mut reader = log.reader(From::Earliest);
    let mut seen = 0;
    while let Some(records) = reader.try_next().wait().unwrap() {
        seen += records.len();
    }
    assert_eq!(seen, round);
}

/// Between the end and the end of its thread (a spare may still be made) a shard took requests as
/// if it were open; they were never carried out, and never answered before the thread ended.
#[test]
fn a_shard_that_was_closed_refuses_at_once_until_it_is_gone() {
    use oncelog::io::Now;
    use oncelog::request::Request;
    use oncelog::shard::{Shard, ShardConfig};

    let config = ShardConfig {
        engine: [1; 16],
        shard: oncelog::ShardId::new(0),
        segment_size: 1 << 20,
        begun: false,
        tail_cache_size: 1 << 20,
        sync_method: None,
    };
    let now = Now { wall_us: 1, mono_us: 1 };
    let mut shard = Shard::open(config, &[]);
    assert!(shard.poll_opened().is_some_and(|opened| opened.is_ok()));
    let mut ask = |request| {
        shard.handle_request(request, now);
        assert!(shard.poll_op(now).is_none());
        while let Some(answer) = shard.poll_answer() {
            answer.deliver();
        }
    };
    for _ in 0..2 {
        let (reply, closed) = oncelog::reply::pair();
        ask(Request::Close { reply });
        closed.wait().unwrap();
        let (reply, listed) = oncelog::reply::pair();
        ask(Request::ListLogs {
            prefix: String::new(),
            after: String::new(),
            limit: usize::MAX,
            reply,
        });
        assert!(matches!(listed.wait(), Err(oncelog::LogError::Stopped(_))));
    }
}

/// The newest spare may stand for the number of a file that went; it was the first to be removed.
#[test]
fn of_too_many_spares_those_with_the_highest_numbers_stay() {
    let config = ShardConfig {
        engine: [7; 16],
        shard: ShardId::new(0),
        segment_size: 1 << 20,
        begun: false,
        tail_cache_size: 1 << 20,
        sync_method: None,
    };
    let found = [9, 1, 4].map(|number| Found::Spare(SpareId(number), 1 << 20));
    let mut shard = Shard::open(config, &found);
    let mut removed = Vec::new();
    while let Some(Op { kind, .. }) = shard.poll_op(Now::default()) {
        if let OpKind::RemoveSpare { spare } = kind {
            removed.push(spare);
        }
    }
    assert_eq!(removed, [SpareId(1)]);
}
