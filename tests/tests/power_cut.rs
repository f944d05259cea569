//! Power cuts on the system calls of a real run: real threads, real files, the real engine.
//!
//! ```text
//! recorded_worker --ptrace--> Recording --cut at every instant--> directory --engine--> checked
//! ```
//!
//! Goal: what was acknowledged survives a cut at any instant, whatever else survives with it, and
//! nothing is there that was not written. A killed process tests no sync: this does.
//! Method: `oncelog_tests::{recorder, power_cut}`. Two runs of one seed differ (threads do), so a
//! failure keeps its recording, and prints the command that replays it.
//!
//! `POWER_CUT_SEED`, `POWER_CUT_SAMPLES` (random cuts at each instant) and `POWER_CUT_AGAIN` (runs
//! that open what a cut left) widen the search.
//!
//! Not here: the ring, which cannot be seen from outside, and media that rot.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use nix::sys::statvfs::{Statvfs, statvfs};
use oncelog_tests::power_cut::check::{Checker, materialise};
use oncelog_tests::power_cut::promises::Said;
use oncelog_tests::power_cut::run::{DATA, Trial, Wrong, cases};
use oncelog_tests::power_cut::{Built, Cut, Left, Replay};
use oncelog_tests::recorder::files::{Change, Node, Op, Recording, Tree, read_tree};
use oncelog_tests::recorder::record;
use oncelog_tests::rng::Rng;

fn number(variable: &str, default: u64) -> u64 {
    let text = std::env::var(variable).ok();
    text.map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{variable}={text}")))
}

fn seed() -> u64 {
    number("POWER_CUT_SEED", 1)
}

/// In memory where there is enough of it: thousands of directories are made, a few at a time.
fn place() -> tempfile::TempDir {
    const NEEDED: u64 = 512 << 20;
    let memory = Path::new("/dev/shm");
    let free = |stat: Statvfs| stat.blocks_available() * stat.fragment_size();
    let is_roomy = statvfs(memory).is_ok_and(|stat| free(stat) >= NEEDED);
    let made = is_roomy.then(|| tempfile::tempdir_in(memory).ok()).flatten();
    made.unwrap_or_else(|| tempfile::tempdir().unwrap())
}

/// Records a worker; `None`, with a message, where that cannot be done.
fn record_worker(root: &Path, kind: &str) -> Option<Recording> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_recorded_worker"));
    let root = root.canonicalize().unwrap();
    command.arg(root.join(DATA)).arg(seed().to_string()).arg(kind);
    match record(command, &root) {
        Ok(recording) => Some(recording),
        Err(why) => {
            println!("skipped: system calls cannot be recorded here: {why}");
            None
        }
    }
}

struct Run {
    recording: Arc<Recording>,
    /// What was there when it had ended, if it was just made.
    after: Option<Tree>,
}

/// The run that all tests cut: recorded once, or read from a file.
fn run() -> Option<&'static Run> {
    static RUN: OnceLock<Option<Run>> = OnceLock::new();
    let make = || {
        if let Ok(path) = std::env::var("POWER_CUT_RECORDING") {
            let recording = Recording::from_bytes(&fs::read(path).unwrap()).expect("a recording");
            return Some(Run { recording: Arc::new(recording), after: None });
        }
        let root = tempfile::tempdir().unwrap();
        let recording = Arc::new(record_worker(root.path(), "first")?);
        Some(Run { recording, after: Some(read_tree(root.path())) })
    };
    RUN.get_or_init(make).as_ref()
}

/// Fails, and says how to meet the same again.
fn fail(recording: &Recording, wrong: &Wrong) -> ! {
    static FAILURES: AtomicUsize = AtomicUsize::new(0);
    let name = (std::process::id(), FAILURES.fetch_add(1, Relaxed));
    let path = std::env::temp_dir().join(format!("power-cut-{}-{}.recording", name.0, name.1));
    fs::write(&path, recording.to_bytes()).unwrap();
    let sample = match wrong.cut.left {
        Left::Nothing => "nothing".to_owned(),
        Left::Everything => "everything".to_owned(),
        Left::Some(sample) => sample.to_string(),
    };
    let Cut { at, .. } = wrong.cut;
    panic!(
        "power cut at {at}, left {sample}: {}\nPOWER_CUT_RECORDING={} POWER_CUT_SEED={} \
         POWER_CUT_AT={at} POWER_CUT_LEFT={sample} cargo test -p oncelog-tests --test power_cut \
         what_was_acknowledged",
        wrong.why,
        path.display(),
        seed(),
    );
}

/// The one cut that a replay asks for.
fn asked() -> Option<Cut> {
    let at = std::env::var("POWER_CUT_AT").ok()?.parse().expect("POWER_CUT_AT is a number");
    let left = match std::env::var("POWER_CUT_LEFT").expect("POWER_CUT_LEFT").as_str() {
        "nothing" => Left::Nothing,
        "everything" => Left::Everything,
        seed => Left::Some(seed.parse().expect("POWER_CUT_LEFT")),
    };
    Some(Cut { at, left })
}

/// Cuts a run at every instant.
fn cut_everywhere(recording: &Arc<Recording>, samples: u64) {
    let (replay, place) = (Replay::new(recording), place());
    let (said, checker) = (Said::new(&recording.said), Checker::new(seed()));
    let (replay, said, checker) = (&replay, &said, &checker);
    let trial = Trial { replay, said, checker, place: place.path() };
    let result = match asked() {
        Some(cut) => trial.check_cut(cut),
        None => {
            let cases = cases(replay, 1, samples);
            println!("{} instants, {} directories", recording.end, cases.len());
            trial.check_all(&cases)
        }
    };
    result.unwrap_or_else(|wrong| fail(recording, &wrong));
}

#[test]
fn what_was_acknowledged_survives_a_power_cut_at_any_instant() {
    let Some(run) = run() else { return };
    cut_everywhere(&run.recording, number("POWER_CUT_SAMPLES", 1));
}

/// How often a run did what a cut can break.
fn count(recording: &Recording, is: impl Fn(&Op) -> bool) -> usize {
    recording.ops.iter().filter(|op| is(op)).count()
}

fn renames(recording: &Recording, old: &str, new: &str) -> usize {
    count(recording, |op| {
        matches!(&op.change, Change::Rename { from, to, .. }
            if from.starts_with(old) && to.starts_with(new) && to.ends_with(".log"))
    })
}

#[test]
fn the_recorded_run_does_all_that_a_power_cut_can_break() {
    let Some(Run { recording, .. }) = run() else { return };
    let write_through = |op: &Op| matches!(op.change, Change::Write { through: true, .. });
    let said =
        |word: &str| recording.said.iter().filter(|(_, line)| line.starts_with(word)).count();
    let overlaps = recording.ops.windows(2).filter(|ops| ops[1].begin < ops[0].end).count();
    for (what, count, least) in [
        ("segments begun", renames(recording, "spare-", "segment-"), 5),
        ("segments recycled", renames(recording, "segment-", "spare-"), 1),
        ("spares made", renames(recording, "spare-", "spare-"), 4),
        ("writes that write through", count(recording, write_through), 50),
        ("fdatasync", count(recording, |op| is_sync(op, true)), 50),
        ("fsync", count(recording, |op| is_sync(op, false)), 20),
        ("calls at the same time", overlaps, 1),
        ("appends acked", said("acked"), 200),
        ("batches acked", said("batches"), 20),
        ("commits acked", said("committed"), 15),
        ("truncations acked", said("truncated"), 5),
        ("drops acked", said("dropped"), 2),
    ] {
        println!("{what}: {count}");
        assert!(count >= least, "{what}: {count}, at least {least} are wanted");
    }
}

/// Goal: nothing that a call did is missing from the recording.
#[test]
fn a_recording_that_is_carried_out_whole_gives_the_directory_of_the_run() {
    let Some(Run { recording, after: Some(after) }) = run() else { return };
    let place = place();
    let replay = Replay::new(recording);
    let dir = place.path().join("whole");
    let cut = Cut { at: recording.end, left: Left::Everything };
    materialise(&replay.cut(cut), &mut Built::default(), &dir);
    let whole = read_tree(&dir);
    let paths = |tree: &Tree| tree.keys().cloned().collect::<Vec<_>>();
    assert_eq!(paths(&whole), paths(after));
    for (path, content) in after {
        assert!(whole[path] == *content, "{} differs", path.display());
    }
    assert_eq!(Recording::from_bytes(&recording.to_bytes()).as_ref(), Some(&**recording));
}

/// Goal: what opening does to a directory that a cut left may be cut again, and again.
#[test]
fn opening_after_a_power_cut_may_be_cut_at_any_instant_again() {
    let Some(Run { recording: first, .. }) = run() else { return };
    let mut rng = Rng::new(seed());
    let mut recording = Arc::clone(first);
    for _ in 0..number("POWER_CUT_AGAIN", 5) {
        let at = u32::try_from(rng.below(u64::from(recording.end))).unwrap();
        let cut = Cut { at, left: Left::Some(rng.number()) };
        let second = Arc::new(cut_and_go_on(&recording, cut));
        cut_everywhere(&second, 1);
        recording = if rng.one_in(2) { second } else { Arc::clone(first) };
    }
}

/// Records how an engine opens what a cut left, and goes on.
fn cut_and_go_on(recording: &Arc<Recording>, cut: Cut) -> Recording {
    let (replay, said) = (Replay::new(recording), Said::new(&recording.said));
    let (place, checker) = (place(), Checker::new(seed()));
    let trial = Trial { replay: &replay, said: &said, checker: &checker, place: place.path() };
    trial.check_cut(cut).unwrap_or_else(|wrong| fail(recording, &wrong));
    let parent = tempfile::tempdir().unwrap();
    let root = parent.path().join("root");
    materialise(&replay.cut(cut), &mut Built::default(), &root);
    let mut second = record_worker(&root, "again").expect("it could be recorded before");
    // What was promised before the cut holds from the begin.
    let before = recording.said.iter().filter(|(said, _)| *said <= cut.at);
    let before = before.map(|(_, line)| (0, line.clone()));
    second.said = before.chain(second.said).collect();
    second
}

fn is_sync(op: &Op, only: bool) -> bool {
    matches!(op.change, Change::Sync { data_only, .. } if data_only == only)
}

/// The file or directory that has, or once had, a name that begins so.
fn named(recording: &Recording, start: &str) -> Vec<Node> {
    let node = |op: &Op| match &op.change {
        Change::Make { name, node, .. } => name.starts_with(start).then_some(*node),
        Change::Rename { to, node, .. } => to.starts_with(start).then_some(*node),
        _ => None,
    };
    recording.ops.iter().filter_map(node).collect()
}

fn is_of(op: &Op, nodes: &[Node]) -> bool {
    matches!(op.change, Change::Sync { node, .. } if nodes.contains(&node))
}

/// Which syncs do nothing.
type Lie<'a> = &'a dyn Fn(&Op) -> bool;

/// Goal: these tests are not blind. Were one kind of sync left out, they would see it.
#[test]
fn a_disk_that_lies_about_one_kind_of_sync_is_found_out() {
    let Some(Run { recording, .. }) = run() else { return };
    let [data, shards, meta] = ["data", "shard-", "engine.meta"].map(|name| named(recording, name));
    let parent = |op: &Op| matches!(op.change, Change::Sync { node: 0, .. });
    let through = |op: &Op| matches!(op.change, Change::Write { through: true, .. });
    let late = recording.end / 4;
    let lies: [(&str, Lie<'_>); 8] = [
        ("RWF_DSYNC", &through),
        ("fdatasync", &|op| is_sync(op, true)),
        ("fsync", &|op| is_sync(op, false)),
        ("fsync of engine.meta", &|op| is_of(op, &meta)),
        ("fsync above the data directory", &parent),
        ("fsync of the data directory", &|op| is_of(op, &data)),
        ("fsync of the shards' directories", &|op| is_of(op, &shards)),
        ("fsync of a shard's directory, later on", &|op| op.begin > late && is_of(op, &shards)),
    ];
    let (said, checker) = (Said::new(&recording.said), Checker::new(seed()));
    for (what, is_lie) in lies {
        assert!(count(recording, is_lie) > 0, "{what}: never called");
        let (replay, place) = (Replay::with_lies(recording, is_lie), place());
        let trial = Trial { replay: &replay, said: &said, checker: &checker, place: place.path() };
        let mut cases = cases(&replay, 5, 0);
        cases.reverse();
        let found = trial.check_all(&cases).expect_err(what);
        println!("{what}: at {}: {}", found.cut.at, found.why);
    }
}

/// Goal: what the recorder does not understand it refuses, instead of missing it.
#[test]
fn a_call_on_recorded_files_that_is_not_understood_is_a_panic() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().canonicalize().unwrap().join("file");
    let shell = |script: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("read x; {script}")]).env("FILE", &path);
        catch_unwind(AssertUnwindSafe(|| record(command, root.path())))
    };
    match shell("echo written > $FILE") {
        Ok(Ok(recording)) => assert_eq!(
            count(&recording, |op| {
                matches!(&op.change, Change::Write { data, offset: 0, .. } if data == b"written\n")
            }),
            1
        ),
        Ok(Err(why)) => return println!("skipped: system calls cannot be recorded here: {why}"),
        Err(_) => panic!("a plain write was not understood"),
    }
    for script in ["echo more >> $FILE", "exec ln $FILE $FILE-2", "(echo more) > $FILE"] {
        assert!(shell(script).is_err(), "{script}");
    }
}
