//! Processes that are killed again and again, at any instant, also while they open.
//!
//! Goal: after SIGKILL everything that a client was told is there, nothing twice, batches whole,
//! and outputs, state and position are one; a fenced owner's commits never land.
//! Method: `kill_worker` with writers, readers and processors on small segments that are truncated
//! and used again; the next one opens what the last one left, with another way of I/O, and looks at
//! all of it. (A kill tests no sync: what the kernel has stays. The simulator tests those.)
//!
//! The seed decides who is killed when; how far the worker is then is a matter of timing, so a
//! failure may need several runs to come again. The directory of a failure is kept.
//!
//! Not here: power cuts (`sim_crash`).

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant as Clock};

use oncelog::{Engine, Options};
use oncelog_tests::rng::Rng;
use oncelog_tests::storm::check::{Told, check};

const KILLS: u32 = 48;
/// And as many as it takes until everything was met, up to these.
const KILLS_MAX: u32 = 288;

/// When a worker is killed.
#[derive(Clone, Copy, Debug)]
enum Instant {
    /// So long after it was started.
    AfterSpawn(Duration),
    /// So long after it began to open the engine.
    InOpening(Duration),
    /// After so many lines, and a little later.
    AfterLines(u64, Duration),
}

impl Instant {
    /// Lives grow longer, until what is slow on this machine has been met as well.
    fn draw(rng: &mut Rng, kill: u32) -> Self {
        let mut micros = |max| Duration::from_micros(rng.below(max));
        let (soon, later, little) = (micros(4_000), micros(12_000), micros(800));
        match rng.below(4) {
            0 => Self::AfterSpawn(soon),
            1 => Self::InOpening(later),
            _ => Self::AfterLines(1 + rng.below(1500 * u64::from(1 + kill / 24)), little),
        }
    }
}

/// What the kills met.
#[derive(Debug, Default)]
struct Met {
    /// Killed before it was open, but not before it began.
    opening: u32,
    /// Ways of I/O of workers that got open.
    kinds: BTreeSet<String>,
}

struct Worker {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    said: u64,
    started: bool,
    open: bool,
}

impl Worker {
    fn start(dir: &Path, way: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kill_worker"));
        let mut child = command.arg(dir).arg(way).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines, said: 0, started: false, open: false }
    }

    /// One more line; `false` if it is dead and nothing is left in the pipe.
    fn hear(&mut self, told: &mut Told, met: &mut Met) -> bool {
        let Some(line) = self.lines.next() else { return false };
        let line = line.unwrap();
        self.said += 1;
        match line.split_once(' ') {
            None if line == "start" => self.started = true,
            Some(("open", kind)) => {
                self.open = true;
                met.kinds.insert(kind.to_owned());
            }
            _ => told.hear(&line),
        }
        true
    }

    fn kill_at(mut self, instant: Instant, told: &mut Told, met: &mut Met) {
        let wait = match instant {
            Instant::AfterSpawn(wait) => wait,
            Instant::InOpening(wait) => {
                while !self.started && self.hear(told, met) {}
                wait
            }
            Instant::AfterLines(count, wait) => {
                while self.said < count && self.hear(told, met) {}
                wait
            }
        };
        // The instant itself is what is drawn; nothing is waited for.
        let begin = Clock::now();
        while begin.elapsed() < wait {
            std::hint::spin_loop();
        }
        self.child.kill().unwrap();
        // What was said before the kill, also what still stands in the pipe, counts.
        while self.hear(told, met) {}
        let status = self.child.wait().unwrap();
        assert_eq!(status.code(), None, "the worker ended by itself");
        met.opening += u32::from(self.started && !self.open);
    }
}

fn open(dir: &Path) -> Engine {
    Options::new(dir).open().unwrap()
}

fn storm(seed: u64, dir: &Path) {
    let mut rng = Rng::new(seed);
    let (mut told, mut met) = (Told::default(), Met::default());
    for kill in 1..=KILLS_MAX {
        let way = ["ring", "plain", "cached"][rng.index(3)];
        let instant = Instant::draw(&mut rng, kill);
        println!("kill {kill}: {way}, {instant:?}");
        Worker::start(dir, way).kill_at(instant, &mut told, &mut met);
        if kill % 12 == 0 {
            let engine = open(dir);
            check(&engine, &told).unwrap_or_else(|why| panic!("after kill {kill}: {why}"));
            let missing = missing(&engine, &told, &met);
            engine.close().wait().unwrap();
            if kill >= KILLS && missing.is_none() {
                println!("{met:?}, {told:?}");
                return;
            }
            assert!(kill < KILLS_MAX, "{missing:?}: {met:?}, {told:?}");
        }
    }
}

/// What a storm should have met and has not, so far: that depends on timing.
fn missing(engine: &Engine, told: &Told, met: &Met) -> Option<&'static str> {
    let info = engine.info().wait().unwrap();
    let recycled = info.shards.iter().all(|shard| {
        let (segment, sealed) = (shard.stats.segment, shard.stats.sealed);
        segment > 2 * sealed + 20
    });
    let ways = if info.shards[0].runner.ring_refused.is_some() { 1 } else { 2 };
    if !recycled {
        return Some("no segment was used again");
    } else if met.opening == 0 {
        return Some("none was killed while it opened");
    } else if met.kinds.len() < ways {
        return Some("not all ways of I/O were used");
    } else if told.committed.len() < 3 {
        return Some("a processor never committed");
    }
    (told.truncated.len() <= 8).then_some("something was never truncated")
}

#[test]
fn nothing_that_a_client_was_told_is_lost_when_the_process_is_killed() {
    let seed = std::env::var("SEED").map_or(1, |seed| seed.parse().expect("SEED is a number"));
    let dir = tempfile::tempdir().unwrap();
    let result = std::panic::catch_unwind(|| storm(seed, dir.path()));
    if let Err(why) = result {
        eprintln!(
            "seed {seed} failed, the directory is kept: {}; replay, several times since timing \
             matters: SEED={seed} cargo test -p oncelog-tests --test storm",
            dir.keep().display()
        );
        std::panic::resume_unwind(why);
    }
}
