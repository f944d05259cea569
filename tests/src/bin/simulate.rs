//! Runs many seeds of the simulator and says what they met.
//!
//! ```text
//! seeds -> workers -> channel -> progress (on a terminal), sums -> report, exit code
//! ```
//!
//! Exit codes: 0 every seed passed, 1 a seed failed (its replay was printed), 2 wrong usage.
//!
//! Not here: what a seed does (`oncelog_tests::sim::world`).

use std::io::{IsTerminal, Write};
use std::ops::Range;
use std::panic::catch_unwind;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lexopt::prelude::{Long, Short, ValueExt};
use oncelog_tests::sim::coverage::Coverage;
use oncelog_tests::sim::runner::{run, trace};
use oncelog_tests::sim::weather::{NAMES, Weather};

const HELP: &str = "\
Runs a shard on a simulated disk, compared with a model: one seed is one life of crashes and faults.

Usage: simulate [--seeds A..B | --minutes M] [--jobs N] [--weather W] [--trace]

  --seeds A..B   run these seeds (0..1000)
  --minutes M    run until so many minutes are over, from a seed that the clock draws,
                 or from A if --seeds is given too
  --jobs N       run N seeds at once (one for each processor)
  --weather W    what goes wrong beside crashes (everything):
                   everything  a mix of all the others that each seed draws
                   crashes     power cuts and kills alone
                   failing     reads, writes, syncs and operations on files fail; short writes
                   full        the disk is full from time to time
                   rot         acknowledged blocks, side files and whole files are damaged
  --trace        print everything that happens in each seed
  --help         this text

Exit codes: 0 every seed passed, 1 a seed failed, 2 wrong usage.

Examples:
  cargo run --release -p oncelog-tests --bin simulate
  cargo run --release -p oncelog-tests --bin simulate -- --minutes 30
  cargo run --release -p oncelog-tests --bin simulate -- --weather rot --seeds 0..5000 --jobs 2
  cargo run --release -p oncelog-tests --bin simulate -- --seeds 17..18 --trace
";

struct Arguments {
    seeds: Range<u64>,
    until: Option<Instant>,
    jobs: u64,
    name: &'static str,
    weather: Weather,
    trace: bool,
}

/// What to do, or the help text.
fn arguments() -> Result<Option<Arguments>, lexopt::Error> {
    let mut parser = lexopt::Parser::from_env();
    let (mut seeds, mut minutes) = (None, None);
    let mut jobs = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let (mut name, mut trace) = (NAMES[0], false);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("seeds") => seeds = Some(parser.value()?.parse_with(range)?),
            Long("minutes") => {
                let positive = |minutes: &f64| minutes.is_finite() && *minutes > 0.0;
                let parse = |text: &str| text.parse().ok().filter(positive).ok_or("a number");
                minutes = Some(parser.value()?.parse_with(parse)?);
            }
            Long("jobs") => {
                let positive = |jobs: &u64| *jobs > 0;
                let parse = |text: &str| text.parse().ok().filter(positive).ok_or("a number");
                jobs = parser.value()?.parse_with(parse)?;
            }
            Long("weather") => {
                let known = |text: &str| NAMES.into_iter().find(|name| *name == text);
                name = parser.value()?.parse_with(|text| known(text).ok_or(NAMES.join(", ")))?;
            }
            Long("trace") => trace = true,
            Long("help") | Short('h') => return Ok(None),
            other => return Err(other.unexpected()),
        }
    }
    let drawn = || {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        since.as_secs() * 1_000..u64::MAX
    };
    let seeds = seeds.unwrap_or_else(|| if minutes.is_some() { drawn() } else { 0..1_000 });
    let until = minutes.map(|minutes| Instant::now() + Duration::from_secs_f64(minutes * 60.0));
    let weather = Weather::named(name).expect("all names are known");
    Ok(Some(Arguments { seeds, until, jobs, name, weather, trace }))
}

fn range(text: &str) -> Result<Range<u64>, &'static str> {
    let parse = |(begin, end): (&str, &str)| Some(begin.parse().ok()?..end.parse().ok()?);
    let range = text.split_once("..").and_then(parse);
    range.filter(|range| !range.is_empty()).ok_or("A..B with A < B")
}

/// Runs one seed; what it met, or `None` if it failed.
fn run_seed(seed: u64, arguments: &Arguments) -> Option<Coverage> {
    let Arguments { name, weather, .. } = arguments;
    let replay = format!(
        "cargo run --release -p oncelog-tests --bin simulate -- \
         --weather {name} --seeds {seed}..{}",
        seed + 1
    );
    if !arguments.trace {
        return catch_unwind(|| run(seed, *weather, &replay)).ok();
    }
    let (lines, met, failed) = trace(seed, *weather);
    let mut out = std::io::stdout().lock();
    for line in lines {
        // Whoever reads may have seen enough.
        let _ = writeln!(out, "{seed}: {line}");
    }
    if failed {
        eprintln!("seed {seed} failed; replay: {replay}");
    }
    (!failed).then_some(met)
}

fn work(next: &AtomicU64, stop: &AtomicBool, arguments: &Arguments, to: &Sender<Option<Coverage>>) {
    let in_time = || arguments.until.is_none_or(|until| Instant::now() < until);
    while !stop.load(Ordering::Relaxed) && in_time() {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= arguments.seeds.end {
            break;
        }
        let met = run_seed(seed, arguments);
        if met.is_none() {
            stop.store(true, Ordering::Relaxed);
        }
        to.send(met).expect("the receiver stays until all workers are done");
    }
}

/// Sums what the workers met. `None` stands for a seed that failed.
fn gather(from: &Receiver<Option<Coverage>>, begin: Instant) -> (u64, u64, Coverage) {
    let (mut passed, mut failed, mut total) = (0, 0, Coverage::default());
    let terminal = std::io::stderr().is_terminal();
    let mut shown = begin;
    loop {
        match from.recv_timeout(Duration::from_millis(200)) {
            Ok(Some(met)) => {
                passed += 1;
                total += met;
            }
            Ok(None) => failed += 1,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if terminal && shown.elapsed() > Duration::from_millis(200) {
            shown = Instant::now();
            let seconds = begin.elapsed().as_secs_f64();
            eprint!("\r{passed} seeds, {:.0} a second, {seconds:.0} s ", passed as f64 / seconds);
        }
    }
    if terminal {
        eprint!("\r{:60}\r", "");
    }
    (passed, failed, total)
}

fn report(total: &Coverage) -> String {
    let mut lines = Vec::new();
    let mut reasons = Vec::new();
    for group in total.groups() {
        lines.push(format!("\n{}", group.title));
        for (name, count, reason) in group.rows {
            match reason {
                Some(reason) if count == 0 => {
                    reasons.push(format!("cannot be met: {name}: {reason}"));
                }
                _ => lines.push(format!("{count:>12} {name}")),
            }
        }
    }
    lines.push(String::new());
    lines.append(&mut reasons);
    let never = total.never_met();
    lines.push(match never.len() {
        0 => "met everything that can be met".to_owned(),
        _ => format!("never met: {}", never.join("; ")),
    });
    lines.join("\n")
}

fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("simulate: {error}; see --help");
            return ExitCode::from(2);
        }
    };
    let (next, stop) = (AtomicU64::new(arguments.seeds.start), AtomicBool::new(false));
    let begin = Instant::now();
    let (passed, failed, total) = std::thread::scope(|scope| {
        let (to, from) = channel();
        for _ in 0..arguments.jobs {
            let (to, next, stop, arguments) = (to.clone(), &next, &stop, &arguments);
            scope.spawn(move || work(next, stop, arguments, &to));
        }
        drop(to);
        gather(&from, begin)
    });
    let seconds = begin.elapsed().as_secs_f64();
    let crashes = total.counts.power_cuts + total.counts.kills;
    let first = format!(
        "weather {}, seeds from {}: {passed} passed and {failed} failed in {seconds:.1} s, {:.0} a \
         second; {crashes} simulated crashes",
        arguments.name,
        arguments.seeds.start,
        passed as f64 / seconds
    );
    // Whoever reads may have seen enough.
    let _ = writeln!(std::io::stdout(), "{first}\n{}", report(&total));
    if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
