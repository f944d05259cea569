//! Rounds: a yardstick, each workload with each target in turn, and the yardstick again.
//!
//! ```text
//! for each round:   yardstick
//!                   for each workload: target 1, target 2, ..    next to each other in time
//!                   open loops at shares of the rate that the first round reached
//!                   yardstick
//!                   write the output file
//! ```
//!
//! Invariant: what was measured in whole rounds is in the file, however the run ends.
//!
//! Not here: processes (`processes`), which targets there are (`run`, `compare`, `over_wire`).

use std::collections::BTreeMap;
use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};

use crate::calibrate;
use crate::engine_target::EngineOptions;
use crate::host;
use crate::merged::{label, number};
use crate::outcome::{Fact, Measurement, Round, Run, SCHEMA, Yardstick};
use crate::processes::{Neighbours, Program, Workspace};
use crate::ratio;
use crate::spec::Spec;
use crate::suite::{self, Suite};

/// What `run`, `compare` and `wire` have in common.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)] // the commands' own arguments have the same name
pub struct Args {
    /// Directory on the device to measure; a directory of its own is made in it, and removed
    #[arg(long)]
    pub(crate) dir: PathBuf,
    /// Which list of workloads
    #[arg(long, value_enum, default_value = "standard")]
    pub(crate) suite: Suite,
    /// Only workloads whose name contains this, or matches it if it is a glob
    #[arg(long, value_name = "TEXT")]
    pub(crate) only: Option<String>,
    /// This workload instead of a suite's: such as 'append in_flight=64 payload=1KiB', or JSON; may
    /// be given more than once
    #[arg(long, value_name = "WORK")]
    pub(crate) work: Vec<String>,
    /// Rounds [default: the suite's: quick 1, standard 5, full 3, soak 1; 3 with --work]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: Option<u32>,
    /// Length of each measurement [default: the suite's: quick 2, standard and full 3, soak 600]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) seconds: Option<f64>,
    /// Length of each point of the yardstick; 0: no yardstick, and no ratios to the device
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    pub(crate) yardstick_seconds: f64,
    /// So many processes spin on every processor meanwhile
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) neighbours: u32,
    /// Print the output file to stdout, and no tables
    #[arg(long)]
    pub(crate) json: bool,
    /// Only say what would be measured
    #[arg(long)]
    pub(crate) list: bool,
    /// Go on where nothing says anything about a device: tmpfs, network file systems
    #[arg(long)]
    pub(crate) any_file_system: bool,
    #[command(flatten)]
    pub(crate) engine: EngineOptions,
}

impl Args {
    /// The options of the engine, as words for another process.
    #[must_use]
    pub fn engine_arguments(&self) -> Vec<String> {
        self.engine.to_arguments()
    }
}

/// A length of a measurement; longer than that of a point of the yardstick may be.
pub(crate) fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("{text} is no number of seconds"))?;
    let is_one = (0.05..=1e6).contains(&seconds);
    is_one.then_some(seconds).ok_or_else(|| format!("{text} s: give 0.05 to 1000000"))
}

/// What to do, all of it known.
struct Plan {
    programs: Vec<Program>,
    specs: Vec<Spec>,
    shares: &'static [f64],
    rounds: u32,
    points: Vec<&'static str>,
    yardstick_seconds: f64,
}

/// Measures, prints, and writes the file. What fails is said and left out.
///
/// # Errors
/// There is nothing to measure; the directory is no good; the engine failed in something.
pub fn run(args: &Args, programs: Vec<Program>, output: &Path) -> Result<()> {
    let plan = plan(args, programs)?;
    if args.list {
        plan.specs.iter().for_each(|spec| println!("{}", label(spec)));
        return Ok(());
    }
    host::check_dir(&args.dir, args.any_file_system)?;
    let workspace = Workspace::new(&args.dir)?;
    let run = Run {
        schema: SCHEMA,
        commit: host::commit(),
        began: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        command: std::env::args().collect(),
        host: facts(args),
        rounds: Vec::new(),
    };
    let neighbours = Neighbours::start(args.neighbours)?;
    let mut course = Course {
        plan: &plan,
        workspace: &workspace,
        progress: Progress::new(&plan),
        rates: BTreeMap::new(),
        left_out: Vec::new(),
    };
    let run = course.rounds(run, output)?;
    course.progress.end();
    let own_failures = course.left_out.iter().filter(|(name, _)| ratio::is_ours(name));
    let own_failures = own_failures.count();
    drop((neighbours, workspace));
    if args.json {
        println!("{}", serde_json::to_string(&run)?);
    } else {
        crate::summary::print(&run);
    }
    eprintln!("written to {}", output.display());
    ensure!(own_failures == 0, "the engine failed in {own_failures} of the workloads, see above");
    Ok(())
}

fn plan(args: &Args, programs: Vec<Program>) -> Result<Plan> {
    let mut specs = if args.work.is_empty() {
        args.suite.specs(args.seconds.unwrap_or(args.suite.seconds()))
    } else {
        let parse = |text: &String| {
            let spec = suite::parse(text).with_context(|| format!("--work {text:?}"))?;
            Ok(Spec { seconds: args.seconds.unwrap_or(spec.seconds), ..spec })
        };
        args.work.iter().map(parse).collect::<Result<Vec<Spec>>>()?
    };
    if let Some(only) = &args.only {
        let labels: Vec<String> = specs.iter().map(label).collect();
        specs.retain(|spec| matches(&label(spec), only));
        ensure!(
            !specs.is_empty(),
            "no workload is called {only:?}; there are:\n  {}",
            labels.join("\n  ")
        );
    }
    let by_suite = args.work.is_empty();
    let has_base = specs.iter().any(suite::is_base_of_open_loops);
    ensure!(
        (0.0..=3600.0).contains(&args.yardstick_seconds),
        "--yardstick-seconds {}: give 0 to 3600",
        args.yardstick_seconds
    );
    let points = if args.yardstick_seconds > 0.0 { suite::points(&specs) } else { Vec::new() };
    Ok(Plan {
        programs,
        shares: if by_suite && has_base { args.suite.open_loop_shares() } else { &[] },
        rounds: args.rounds.unwrap_or(if by_suite { args.suite.rounds() } else { 3 }),
        points,
        yardstick_seconds: args.yardstick_seconds,
        specs,
    })
}

fn matches(label: &str, only: &str) -> bool {
    let pattern =
        if only.contains(['*', '?', '[']) { only.to_owned() } else { format!("*{only}*") };
    glob::Pattern::new(&pattern).is_ok_and(|pattern| pattern.matches(label))
}

fn facts(args: &Args) -> Vec<Fact> {
    let mut facts = host::facts(&args.dir);
    let mut fact = |name: &str, value: String| {
        facts.push(Fact { name: name.to_owned(), value, advice: None });
    };
    fact("options of the engine", args.engine.to_arguments().join(" "));
    if args.neighbours > 0 {
        fact("neighbours", format!("{} that spin on every processor", args.neighbours));
    }
    facts
}

/// A run under way.
struct Course<'a> {
    plan: &'a Plan,
    workspace: &'a Workspace,
    progress: Progress,
    /// The open loops of each target, from its first round on.
    rates: BTreeMap<String, Vec<Spec>>,
    /// Targets, with the workloads in which they failed.
    left_out: Vec<(String, Spec)>,
}

impl Course<'_> {
    fn rounds(&mut self, mut run: Run, output: &Path) -> Result<Run> {
        for number in 1..=self.plan.rounds {
            self.progress.say(&format!("round {number} of {}", self.plan.rounds));
            let before = self.yardstick()?;
            let measurements = self.measurements()?;
            let after = self.yardstick()?;
            run.rounds.push(Round { before, measurements, after });
            write(&run, output)?;
        }
        Ok(run)
    }

    fn yardstick(&self) -> Result<Yardstick> {
        let Plan { points, yardstick_seconds, .. } = self.plan;
        let mut next = |name: &str| self.progress.begin(name);
        calibrate::take(self.workspace.dir(), points, *yardstick_seconds, &mut next)
            .context("the yardstick failed; --yardstick-seconds 0 goes on without one")
    }

    fn measurements(&mut self) -> Result<Vec<Measurement>> {
        let plan = self.plan;
        let mut measurements = Vec::new();
        for spec in &plan.specs {
            for program in &plan.programs {
                let measured = self.measure(program, spec)?;
                if let Some(measured) = &measured
                    && suite::is_base_of_open_loops(spec)
                {
                    let rate = measured.figures.operations as f64 / measured.figures.seconds;
                    let open_loop = |share: &f64| suite::open_loop(spec, rate, *share);
                    let open_loops = || plan.shares.iter().map(open_loop).collect();
                    self.rates.entry(program.target.name.clone()).or_insert_with(open_loops);
                }
                measurements.extend(measured);
            }
        }
        for program in &plan.programs {
            for spec in self.rates.get(&program.target.name).cloned().unwrap_or_default() {
                measurements.extend(self.measure(program, &spec)?);
            }
        }
        Ok(measurements)
    }

    /// `None`: this target does no such work, or failed in it.
    fn measure(&mut self, program: &Program, spec: &Spec) -> Result<Option<Measurement>> {
        let name = &program.target.name;
        let is_out = self.left_out.iter().any(|(out, of)| (out, of) == (name, spec));
        if is_out || !program.can(spec) {
            return Ok(None);
        }
        self.progress.begin(&format!("{name}: {}", label(spec)));
        match program.measure(spec, self.workspace) {
            Ok(measured) => {
                self.progress.say(&line(&measured));
                Ok(Some(measured))
            }
            Err(error) => {
                self.progress.say(&format!("  {name} is left out of {}: {error:#}", label(spec)));
                self.left_out.push((name.clone(), spec.clone()));
                Ok(None)
            }
        }
    }
}

/// One measurement in one line.
fn line(measured: &Measurement) -> String {
    let figures = &measured.figures;
    format!(
        "  {:<58} {:<13} {:>9}/s {:>9} MB/s  p50 {:>8} us  p99 {:>8} us",
        label(&measured.spec),
        measured.target,
        number(figures.operations as f64 / figures.seconds),
        number(figures.payload_bytes as f64 / figures.seconds / 1e6),
        number(figures.latency.quantile_us(0.5)),
        number(figures.latency.quantile_us(0.99)),
    )
}

/// Writes the file, whole or not at all.
fn write(run: &Run, output: &Path) -> Result<()> {
    let part = output.with_extension("json.part");
    let json = serde_json::to_string(run).context("cannot make JSON")?;
    let written = fs::write(&part, json).and_then(|()| fs::rename(&part, output));
    written.with_context(|| format!("cannot write {}; see --output", output.display()))
}

/// A bar on a terminal, lines elsewhere.
struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    fn new(plan: &Plan) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self { bar: None };
        }
        let able = |spec: &Spec| plan.programs.iter().filter(|program| program.can(spec)).count();
        let works: usize = plan.specs.iter().map(able).sum();
        let steps = works + plan.shares.len() + 2 * plan.points.len();
        let bar = ProgressBar::new(steps as u64 * u64::from(plan.rounds));
        let style = "{elapsed_precise} {wide_bar} {pos}/{len} about {eta} left  {msg}";
        bar.set_style(ProgressStyle::with_template(style).expect("the template is valid"));
        bar.enable_steady_tick(std::time::Duration::from_secs(1));
        Self { bar: Some(bar) }
    }

    /// The next step begins.
    fn begin(&self, name: &str) {
        if let Some(bar) = &self.bar {
            bar.inc(1);
            bar.set_message(name.to_owned());
        }
    }

    fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            None => eprintln!("{line}"),
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_takes_a_part_of_a_name_or_a_glob() {
        let name = "append, 64 in flight, 1 KiB";
        assert!(matches(name, "64 in flight") && matches(name, "append*KiB"));
        assert!(
            !matches(name, "batch") && !matches(name, "flight*") && !matches(name, "in flight?")
        );
    }
}
