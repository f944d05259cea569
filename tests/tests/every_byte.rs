//! Every byte of a closed data directory, flipped one at a time.
//!
//! Goal: what is read is what was written, or an error names the damage; never other records, and
//! none missing in silence.
//! Method: a directory with all that the format has is made through the public API, loaded into
//! memory, and a shard opened on it for each flip (`disk`, `check`). `engine.meta`, which
//! a shard never reads, is flipped on disk. Some flips are made on disk too, so that the memory is
//! no better than a file.
//!
//! Without more, all bytes that the engine wrote for itself are flipped, and one of 256 of the
//! others. `FLIP=all` flips all of them:
//! `FLIP=all cargo test --release -p oncelog-tests --test every_byte -- --nocapture`
//!
//! Not here: power cuts (`sim_crash`), more than one flip at once (`rot`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use oncelog::{
    Batch, Bytes, Commit, Engine, From, IoMode, NewRecord, Options, Processor, Sequence, TxId,
};
use oncelog_tests::flip::check::{Checker, Outcome, TrueLog, TrueProcessor, Truth};
use oncelog_tests::flip::disk::{FlatFile, Flip, Image};
use oncelog_tests::flip::map::{Region, map, newest, offsets};
use oncelog_tests::rng::Rng;

const ROUNDS: u64 = 10;

fn options(dir: &Path) -> Options {
    Options::new(dir).segment_size(1 << 20).shards(1).pin(false)
}

fn flips_all() -> bool {
    std::env::var("FLIP").is_ok_and(|flip| flip == "all")
}

/// What the script that makes the directory knows.
struct Script {
    engine: Engine,
    rng: Rng,
    truth: Truth,
    owners: Vec<Processor>,
}

impl Script {
    fn bytes(&mut self, len: u64) -> Bytes {
        (0..len.div_ceil(8)).flat_map(|_| self.rng.number().to_le_bytes()).collect()
    }

    fn known(&mut self, name: &str) -> &mut TrueLog {
        let logs = &mut self.truth.logs;
        let index = logs.iter().position(|log| log.name == name).unwrap_or_else(|| {
            logs.push(TrueLog { name: name.to_owned(), ..TrueLog::default() });
            logs.len() - 1
        });
        &mut logs[index]
    }

    /// A record for a log, noted as appended.
    fn record(&mut self, name: &str, txid: u64, len: u64) -> NewRecord {
        let payload = self.bytes(len);
        self.known(name).records.push((txid, payload.clone()));
        NewRecord::new(payload).with_txid(TxId::new(txid))
    }

    fn append(&mut self, name: &str, txid: u64, lens: &[u64]) {
        let records: Vec<_> = lens.iter().map(|len| self.record(name, txid, *len)).collect();
        let log = self.engine.open_or_create_log(name).wait().unwrap();
        log.append_batch(records).wait().unwrap();
    }

    fn append_to_several(&mut self, txid: u64) {
        let mut batch = Batch::new();
        for name in ["g/a", "g/b", "g/b", "g/c"] {
            let record = self.record(name, txid, 500);
            batch = batch.append(&self.engine.open_or_create_log(name).wait().unwrap(), record);
        }
        batch.commit().wait().unwrap();
    }

    /// Moves the processor to the end of its source; a snapshot if it is that large, or a delta.
    fn commit(&mut self, index: usize, snapshot: Option<u64>, delta: u64) {
        let source = self.owners[index].sources().next().unwrap().clone();
        let state = self.bytes(snapshot.unwrap_or(delta));
        let next = self.known(source.name()).records.len() as u64;
        let number = self.known("g/out").records.len() as u64;
        let output = self.record("g/out", number, 200);
        let out = self.engine.open_or_create_log("g/out").wait().unwrap();
        let known = &mut self.truth.processors[index];
        let commit = Commit::new().output(&out, output).position(source.id(), Sequence::new(next));
        known.position = next;
        known.commits += 1;
        let commit = if snapshot.is_some() {
            (known.snapshot, known.deltas) = (Some(state.clone()), Vec::new());
            commit.snapshot(state)
        } else {
            known.deltas.push(state.clone());
            commit.delta(state)
        };
        self.owners[index].commit(commit).wait().unwrap();
    }
}

/// Two sealed segments and a newest one, five logs, one truncated and one dropped, batches, states
/// of several parts, outputs; closed cleanly.
fn rich_directory(dir: &Path) -> Truth {
    let engine = options(dir).open().unwrap();
    let truth = Truth::default();
    let mut script = Script { engine, rng: Rng::new(1), truth, owners: Vec::new() };
    for (name, source) in [("g/p", "g/a"), ("g/q", "g/b")] {
        script.engine.create_log(source).wait().unwrap();
        let open = script.engine.processor(name).source(source).open();
        script.owners.push(open.wait().unwrap().0);
        let known = TrueProcessor { name: name.to_owned(), ..TrueProcessor::default() };
        script.truth.processors.push(known);
    }
    for round in 0..ROUNDS {
        script.append("g/a", round, &[4500; 20]);
        script.append("g/t", round, &[1500, 0, 3, 1500]);
        script.append_to_several(round);
        script.append("g/c", round, &[70_000 + 3_000 * round]);
        if round < 3 {
            script.append("g/old", round, &[8000; 2]);
        }
        let snapshot = [1, 5].contains(&round).then_some(150_000);
        script.commit(0, snapshot, 1200);
        script.commit(1, None, 300);
        if round == 4 {
            script.engine.drop_log("g/old").wait().unwrap();
            script.truth.logs.retain(|log| log.name != "g/old");
            let log = script.engine.open_log("g/t").wait().unwrap();
            log.truncate(Sequence::new(11)).wait().unwrap();
            script.known("g/t").first = 11;
        }
    }
    let sealed = script.engine.info().wait().unwrap().shards[0].stats.sealed;
    assert_eq!(sealed, 2, "change ROUNDS");
    script.engine.close().wait().unwrap();
    script.owners.clear();
    script.truth.logs.sort_by(|a, b| a.name.cmp(&b.name));
    script.truth
}

/// What must become of a flip in a directory with all its side files.
fn expected(region: Region, is_newest: bool) -> &'static [Outcome] {
    use Outcome::{ReadError, Refused, Right, StateError};
    match (region, is_newest) {
        (Region::CloseMark | Region::Padding | Region::Unused | Region::Prepared, _) => &[Right],
        (Region::Index, _) => &[Outcome::Rebuilt],
        (_, true) => &[Refused],
        (Region::SegmentHeader | Region::DeadRecords, false) => &[Right],
        (Region::Records, false) => &[ReadError],
        // It matters if a state chain leads there.
        (Region::EntryHeader | Region::Table | Region::Control, false) => &[Right, StateError],
    }
}

type Counts = BTreeMap<(Region, bool, &'static str, Outcome), usize>;

struct Job {
    flip: Flip,
    region: Region,
    /// Read everything, and append.
    whole: bool,
}

/// The flips to make in an image.
fn jobs(image: &Image, checker: &Checker<'_>, all: bool, wanted: fn(Region) -> bool) -> Vec<Job> {
    let mut jobs = Vec::new();
    for file in image.files.keys() {
        let stretches = map(image, *file, |log, end| checker.lives(log, end));
        for stretch in stretches.into_iter().filter(|stretch| wanted(stretch.region)) {
            for offset in offsets(&stretch, all) {
                let (file, whole) = (*file, offset % 67 == 0);
                let mut add = |mask| {
                    let flip = Flip { file, offset, mask };
                    jobs.push(Job { flip, region: stretch.region, whole });
                };
                add(1 << (offset % 8));
                if offset % 61 == 0 {
                    add(0xFF);
                }
            }
        }
    }
    jobs
}

fn run(
    image: &Image,
    checker: &Checker<'_>,
    kind: &'static str,
    jobs: &[Job],
    dir: &Path,
) -> Counts {
    let (next, counts) = (AtomicUsize::new(0), Mutex::new(Counts::new()));
    let newest = newest(image);
    let work = || {
        let mut own = Counts::new();
        while let Some(jobs) = jobs.chunks(64).nth(next.fetch_add(1, Relaxed)) {
            for Job { flip, region, whole } in jobs {
                let outcome =
                    catch_unwind(AssertUnwindSafe(|| checker.check(*flip, *region, *whole)));
                let outcome = outcome.unwrap_or_else(|_| Err("it panicked".to_owned()));
                let is_newest = flip.file == FlatFile::Segment(newest);
                let fits = outcome.as_ref().is_ok_and(|outcome| {
                    !kind.is_empty() || expected(*region, is_newest).contains(outcome)
                });
                assert!(
                    fits,
                    "{flip:?} in {region:?}{kind}: {outcome:?}; the directory is kept: \
                     FLIP_DIR={} cargo test -p oncelog-tests --test every_byte",
                    dir.display()
                );
                *own.entry((*region, is_newest, kind, outcome.expect("it fits"))).or_default() += 1;
            }
        }
        let mut counts = counts.lock().unwrap();
        own.into_iter().for_each(|(key, count)| *counts.entry(key).or_default() += count);
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        (0..threads).for_each(|_| drop(scope.spawn(work)));
    });
    counts.into_inner().unwrap()
}

/// The directory: made now, and kept if the test fails, or one that was kept.
struct Directory {
    path: PathBuf,
    made: Option<tempfile::TempDir>,
}

impl Directory {
    fn new() -> (Self, Truth) {
        let made = tempfile::tempdir().unwrap();
        let truth = rich_directory(made.path());
        match std::env::var("FLIP_DIR") {
            Ok(path) => (Self { path: path.into(), made: None }, truth),
            Err(_) => (Self { path: made.path().to_owned(), made: Some(made) }, truth),
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Some(made) = self.made.take().filter(|_| std::thread::panicking()) {
            drop(made.keep());
        }
    }
}

/// An image, what is particular about it, whether to flip all of it, and which bytes to flip.
type Plan<'a> = (&'a Image, &'static str, bool, fn(Region) -> bool);

#[test]
fn no_flipped_byte_changes_a_record_or_hides_one() {
    let (dir, truth) = Directory::new();
    let all = flips_all();
    let full = Image::load(&dir.path).unwrap();
    let newest = newest(&full);
    let prepared = |file: FlatFile| match file {
        FlatFile::Segment(segment) => segment > newest,
        FlatFile::Spare(_) => true,
        FlatFile::Index(_) => false,
    };
    // The files that wait to be used are read whole at each opening and hold nothing: flips in
    // them are made with them there, all other flips without them.
    let image = full.without(prepared);
    let bare = image.without(|file| matches!(file, FlatFile::Index(_)));
    let mut counts = Counts::new();
    let mut made = 0;
    // Freed, a block of that size tells the allocator to keep memory instead of giving it back.
    drop(std::hint::black_box(vec![0_u8; 24 << 20]));
    let of_engine = |region| {
        !matches!(region, Region::Records | Region::DeadRecords | Region::Unused | Region::Padding)
    };
    let plans: [Plan<'_>; 3] = [
        (&image, "", all, |_| true),
        // Without side files sealed segments are read from the beginning.
        (&bare, " without side files", false, of_engine),
        (&full, " with prepared files", false, |_| true),
    ];
    for (image, kind, all, wanted) in plans {
        let checker = Checker::new(image, &truth).unwrap();
        let mut jobs = jobs(image, &checker, all, wanted);
        // What a plan is not about is only sampled in it.
        jobs.retain(|Job { flip, whole, .. }| match kind {
            "" => true,
            kind if kind.contains("prepared") => *whole || prepared(flip.file),
            _ => *whole || flip.file != FlatFile::Segment(newest),
        });
        made += jobs.len();
        let begin = std::time::Instant::now();
        counts.extend(run(image, &checker, kind, &jobs, &dir.path));
        println!("{} flips{kind} in {:.0?}", jobs.len(), begin.elapsed());
    }
    let bytes: usize = image.files.values().map(Bytes::len).sum();
    println!("{made} flips in {bytes} bytes");
    for ((region, is_newest, kind, outcome), count) in &counts {
        let place = if *is_newest { "newest" } else { "sealed" };
        println!("{count:>9}  {place}  {region:?} -> {outcome:?}{kind}");
    }
    let met = |wanted| counts.keys().any(|(_, _, _, outcome)| *outcome == wanted);
    let outcomes = [
        Outcome::Right,
        Outcome::Rebuilt,
        Outcome::Refused,
        Outcome::ReadError,
        Outcome::StateError,
    ];
    assert!(outcomes.into_iter().all(met), "the directory is not rich enough");
}

/// What an engine says of a directory on disk: all its records, or what is wrong.
fn engine_says(dir: &Path, truth: &Truth) -> Result<(), String> {
    let engine = options(dir).io_mode(IoMode::Plain).create(false).open();
    let engine = engine.map_err(|error| error.to_string())?;
    for known in &truth.logs {
        let log = engine.open_log(&known.name).wait().map_err(|error| error.to_string())?;
        let mut reader = log.reader(From::Earliest);
        let mut next = known.first;
        while let Some(records) = reader.try_next().wait().map_err(|error| error.to_string())? {
            for record in records {
                let at = usize::try_from(record.sequence.get()).unwrap();
                let right = (record.txid.get(), record.payload) == known.records[at];
                assert!(right && at as u64 == next, "{}: other bytes at {at}", known.name);
                next += 1;
            }
        }
        assert_eq!(next, known.records.len() as u64, "{}: silence about a loss", known.name);
    }
    for known in &truth.processors {
        let opened = engine.processor(&*known.name).open().wait();
        let (_, restored) = opened.map_err(|error| error.to_string())?;
        let seen = (restored.positions[0].next.get(), restored.snapshot, restored.deltas);
        assert_eq!(seen, (known.position, known.snapshot.clone(), known.deltas.clone()));
    }
    Ok(())
}

/// A copy of the directory with one byte changed.
fn copy(image: &Path, to: &Path, path: &str, flip: Option<(usize, u8)>) {
    fs::create_dir_all(to.join("shard-000")).unwrap();
    let names =
        fs::read_dir(image.join("shard-000")).unwrap().map(|file| file.unwrap().file_name());
    let files = names.map(|name| format!("shard-000/{}", name.to_string_lossy()));
    for file in files.chain(["engine.meta".to_owned()]) {
        let mut bytes = fs::read(image.join(&file)).unwrap();
        if let Some((offset, mask)) = flip.filter(|_| file == path) {
            bytes[offset] ^= mask;
        }
        fs::write(to.join(&file), bytes).unwrap();
    }
}

/// Goal: the memory in which all bytes are flipped is no better than a file.
#[test]
fn an_engine_on_files_says_of_a_flip_what_the_shard_in_memory_says() {
    let (dir, truth) = Directory::new();
    let image = Image::load(&dir.path).unwrap();
    let checker = Checker::new(&image, &truth).unwrap();
    let jobs = jobs(&image, &checker, false, |region| region != Region::Prepared);
    let mut met = BTreeSet::new();
    for Job { flip, region, .. } in jobs.iter().step_by(jobs.len() / 50) {
        let on_disk = tempfile::tempdir().unwrap();
        let path = Image::path(flip.file);
        copy(&dir.path, on_disk.path(), &path, Some((flip.offset, flip.mask)));
        let said = engine_says(on_disk.path(), &truth);
        let outcome = checker.check(*flip, *region, true).unwrap();
        let right = matches!(outcome, Outcome::Right | Outcome::Rebuilt);
        assert_eq!(said.is_ok(), right, "{flip:?} in {region:?}: {outcome:?}, {said:?}");
        met.insert(outcome);
    }
    assert!(met.len() > 2, "{met:?}");
}

/// Goal: either copy of the superblock will do, and no flip in one changes anything.
#[test]
fn a_flipped_byte_of_the_superblock_changes_nothing() {
    let (dir, truth) = Directory::new();
    let good = fs::read(dir.path.join("engine.meta")).unwrap();
    let on_disk = tempfile::tempdir().unwrap();
    copy(&dir.path, on_disk.path(), "", None);
    let path = on_disk.path().join("engine.meta");
    let all = flips_all();
    let chosen = (0..good.len()).filter(|at| all || at % 4096 < 130 || at % 64 == at / 64 % 64);
    let mut count = 0;
    for offset in chosen {
        let mut bad = good.clone();
        bad[offset] ^= 1 << (offset % 8);
        fs::write(&path, &bad).unwrap();
        let engine = options(on_disk.path()).io_mode(IoMode::Plain).create(false).open();
        let engine = engine.unwrap_or_else(|error| panic!("a flip at {offset}: {error}"));
        let logs = engine.list_logs("").wait().unwrap();
        assert_eq!(logs.len(), truth.logs.len(), "a flip at {offset}");
        engine.close().wait().unwrap();
        // Opening writes a damaged copy again; padding is never looked at.
        let expected = if offset % 4096 < 128 { &good } else { &bad };
        assert!(fs::read(&path).unwrap() == *expected, "a flip at {offset} leaves something else");
        count += 1;
    }
    println!("{count} flips in engine.meta");
    fs::write(&path, &good).unwrap();
    assert_eq!(engine_says(on_disk.path(), &truth), Ok(()));
    // Both copies at once cannot be made good.
    let mut bad = good;
    bad[40] ^= 1;
    bad[4096 + 50] ^= 1;
    fs::write(&path, &bad).unwrap();
    assert!(engine_says(on_disk.path(), &truth).unwrap_err().contains("both are damaged"));
}
