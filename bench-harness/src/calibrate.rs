//! `calibrate`: what the device does for plain patterns, the yardstick for all that is measured.
//!
//! ```text
//! names -> steps: a call of fio | a pattern of the raw loop -> points -> yardstick.json, table
//!            `-- <dir>/bench-harness-yardstick/yardstick.written: 256 MiB, written once, kept
//! ```
//!
//! Invariants:
//! - Writes go to blocks that were written before, unless the point is about the others.
//! - Points are taken one after the other; nothing else of ours runs meanwhile.
//! - A point that fio cannot take is left out, and stderr says why. The raw loop must work.
//!
//! Not here: how the patterns run (`fio`, `raw`), and what measurements are held against which
//! point (`ratio`).

use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};

use crate::fio::{self, Call};
use crate::host;
use crate::outcome::{Fact, Point, SCHEMA, Yardstick};
use crate::raw::{self, DEPTHS, Mode, Pattern, SIZES};

/// Where the data is, under the directory that is measured.
pub const DATA_DIR: &str = "bench-harness-yardstick";
/// Room for the data: the file that is overwritten, four shards, one that is only allocated.
const DATA_SIZE: u64 = 1 << 30;
const MIB: usize = 1 << 20;

/// Arguments of `calibrate`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  bench-harness calibrate --dir /mnt/nvme
  bench-harness calibrate --dir /mnt/nvme --only 'raw/*-4k-*' --seconds 5
  bench-harness calibrate --dir /mnt/nvme --only fio/commit --keep --output before.json")]
pub struct Args {
    /// A directory on the device to measure. Needs 1 GiB of room for the time.
    #[arg(long)]
    dir: PathBuf,
    /// Time for each point. There are about 120 of them.
    #[arg(long, default_value = "2", value_parser = seconds)]
    seconds: f64,
    /// Take only points whose names contain this, or match it if it has `*`, `?` or `[`.
    #[arg(long, value_name = "PATTERN")]
    only: Option<String>,
    /// Where to write the result.
    #[arg(long, value_name = "FILE", default_value = "yardstick.json")]
    output: PathBuf,
    /// Print the result's JSON instead of tables.
    #[arg(long)]
    json: bool,
    /// Keep the data files, so that the next time needs no preparation.
    #[arg(long)]
    keep: bool,
    /// Go on where nothing says anything about a device: tmpfs, network file systems.
    #[arg(long)]
    any_file_system: bool,
}

/// What `calibrate` writes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Calibration {
    /// [`SCHEMA`]
    pub schema: u32,
    /// As in [`Run`](crate::outcome::Run).
    pub commit: String,
    /// What `doctor` says.
    pub host: Vec<Fact>,
    /// The points.
    pub yardstick: Yardstick,
}

/// A number of seconds on the command line.
///
/// # Errors
/// It is none, or nobody would wait so long.
pub fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("{text} is no number of seconds"))?;
    if (0.05..=3600.0).contains(&seconds) {
        Ok(seconds)
    } else {
        Err(format!("{text} s: give 0.05 to 3600"))
    }
}

/// Does it.
///
/// # Errors
/// No point has that name; the directory is no good; the raw loop failed; the file cannot be
/// written.
pub fn run(args: &Args) -> Result<()> {
    let names = matching(args.only.as_deref())?;
    host::check_dir(&args.dir, args.any_file_system)?;
    fs::create_dir_all(&args.dir).with_context(|| format!("cannot make {}", args.dir.display()))?;
    let facts = host::facts(&args.dir);
    let length = Duration::from_secs((names.len() as f64 * args.seconds).ceil() as u64);
    let length = humantime::format_duration(length);
    eprintln!("{} points, {length} and a little more", names.len());
    let bar = ProgressBar::new(names.len() as u64);
    let style = "{elapsed_precise} {wide_bar} {pos}/{len} {msg}";
    bar.set_style(ProgressStyle::with_template(style).expect("the template is valid"));
    let mut progress = |name: &str| {
        if io::stderr().is_terminal() {
            bar.inc(1);
            bar.set_message(name.to_owned());
        } else {
            eprintln!("{name}");
        }
    };
    let wanted: Vec<&str> = names.iter().map(String::as_str).collect();
    let taken = take(&args.dir, &wanted, args.seconds, &mut progress);
    bar.finish_and_clear();
    if !args.keep {
        clean(&args.dir)?;
    }
    let calibration =
        Calibration { schema: SCHEMA, commit: host::commit(), host: facts, yardstick: taken? };
    let json = serde_json::to_string_pretty(&calibration).context("cannot make JSON")?;
    fs::write(&args.output, format!("{json}\n"))
        .with_context(|| format!("cannot write {}; see --output", args.output.display()))?;
    if args.json {
        println!("{json}");
    } else {
        print!("{}", tables(&calibration.yardstick));
    }
    eprintln!("written to {}", args.output.display());
    Ok(())
}

/// The names of all points there are.
pub fn names() -> impl Iterator<Item = String> {
    fio::names().chain(Pattern::all().map(|pattern| pattern.name()))
}

/// The names that contain `only`, or match it if it is a glob.
fn matching(only: Option<&str>) -> Result<Vec<String>> {
    let Some(only) = only else { return Ok(names().collect()) };
    let matches: Vec<String> = if only.contains(['*', '?', '[']) {
        let glob = glob::Pattern::new(only).with_context(|| format!("--only {only} is no glob"))?;
        names().filter(|name| glob.matches(name)).collect()
    } else {
        names().filter(|name| name.contains(only)).collect()
    };
    if matches.is_empty() {
        let names: Vec<String> = names().collect();
        bail!("no point is called {only}; there are: {}", names.join(" "));
    }
    Ok(matches)
}

/// One thing to do.
#[derive(Debug, PartialEq)]
enum Step {
    Fio(Call),
    Raw(Pattern),
}

/// What to do for these names, each thing once.
fn steps<'a>(names: &[&'a str]) -> Result<Vec<(&'a str, Step)>> {
    let mut steps: Vec<(&str, Step)> = Vec::new();
    for &name in names {
        let fio = Call::for_point(name).map(Step::Fio);
        let step = fio.or_else(|| Pattern::named(name).map(Step::Raw));
        let step = step.with_context(|| format!("there is no yardstick point {name}"))?;
        if !steps.iter().any(|(_, have)| *have == step) {
            steps.push((name, step));
        }
    }
    Ok(steps)
}

/// Takes the points of these names, for so long each. Data is kept under `dir` for the next time;
/// see [`clean`]. `progress` is told the name of each point before it is taken.
///
/// # Errors
/// A name is unknown, there is no room for the data, or the raw loop failed. What fio cannot take
/// is left out, and stderr says so.
pub fn take(
    dir: &Path,
    names: &[&str],
    seconds_each: f64,
    progress: &mut dyn FnMut(&str),
) -> Result<Yardstick> {
    let steps = steps(names)?;
    let mut yardstick = Yardstick::default();
    if steps.is_empty() {
        return Ok(yardstick);
    }
    let data = dir.join(DATA_DIR);
    prepare(&data).with_context(|| format!("cannot prepare {}", data.display()))?;
    let uses_fio = steps.iter().any(|(_, step)| matches!(step, Step::Fio(_)));
    let has_fio = uses_fio && fio::version().is_some();
    if uses_fio && !has_fio {
        eprintln!("no fio: its points are left out ({})", fio::INSTALL);
    }
    for (name, step) in steps {
        match step {
            Step::Fio(_) if !has_fio => {}
            Step::Fio(call) => {
                progress(name);
                match call.run(&data, seconds_each) {
                    Ok(points) => {
                        let wanted = |(name, _): &(String, _)| names.contains(&name.as_str());
                        yardstick.points.extend(points.into_iter().filter(wanted));
                    }
                    Err(error) => eprintln!("{name} is left out: {error:#}"),
                }
            }
            Step::Raw(pattern) => {
                progress(name);
                let point = raw::run(&data.join(fio::WRITTEN.0), pattern, seconds_each);
                let point = point.with_context(|| format!("cannot take {name}"))?;
                yardstick.points.insert(name.to_owned(), point);
            }
        }
    }
    Ok(yardstick)
}

/// Removes the data that [`take`] keeps.
///
/// # Errors
/// It is there and cannot be removed.
pub fn clean(dir: &Path) -> Result<()> {
    let data = dir.join(DATA_DIR);
    match fs::remove_dir_all(&data) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.with_context(|| format!("cannot remove {}", data.display())),
    }
}

/// Makes the file whose blocks are all written.
fn prepare(data: &Path) -> Result<()> {
    fs::create_dir_all(data)?;
    // A fio that was killed may have left it. Its blocks are no longer unwritten.
    match fs::remove_file(data.join("yardstick.unwritten")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let (name, size) = fio::WRITTEN;
    let (path, begun) = (data.join(name), data.join(format!("{name}.begun")));
    if fs::metadata(&path).is_ok_and(|metadata| metadata.len() == size) {
        return Ok(());
    }
    let free = host::free_space(data)?;
    ensure!(free >= DATA_SIZE, "{} MiB are free, 1024 are needed", free / MIB as u64);
    let mut file = File::create(&begun)?;
    let mut block = vec![0; MIB];
    for _ in 0..size / MIB as u64 {
        // Not zeros: a device may save itself the work.
        rand::fill(&mut block[..]);
        file.write_all(&block)?;
    }
    file.sync_all()?;
    fs::rename(&begun, &path)?;
    File::open(data)?.sync_all()?;
    Ok(())
}

/// All points, then the best durable mode of the raw loop for each size and depth.
fn tables(yardstick: &Yardstick) -> String {
    let width = yardstick.points.keys().map(String::len).max().unwrap_or(0);
    let mut text = format!(
        "{:width$}  {:>9}  {:>8}  {:>8}  {:>8}\n",
        "point", "ops/s", "MB/s", "p50 µs", "p99 µs"
    );
    let points = names().filter_map(|name| yardstick.points.get_key_value(&name));
    for (name, point) in points {
        let Point { ops_per_s, mb_per_s, p50_us, p99_us, .. } = point;
        text += &format!(
            "{name:width$}  {:>9}  {mb_per_s:>8.1}  {p50_us:>8.1}  {p99_us:>8.1}\n",
            grouped(*ops_per_s)
        );
    }
    if let Some(modes) = best_modes(yardstick) {
        text += &modes;
    }
    if let Some((name, point)) = best_durable(yardstick) {
        text += &format!("\nmost bytes, durable: {:.0} MB/s ({name})\n", point.mb_per_s);
    }
    text
}

/// For each size and depth the durable mode with the most operations, and how far it is ahead of
/// the next. `None` where nowhere two were measured.
fn best_modes(yardstick: &Yardstick) -> Option<String> {
    let cell = |size, depth| {
        let modes = [Mode::Dsync, Mode::Fsync, Mode::Linked].into_iter();
        let mut rates: Vec<(f64, &str)> = modes
            .filter_map(|mode| {
                let point = yardstick.points.get(&Pattern { mode, size, depth }.name())?;
                Some((point.ops_per_s, mode.name()))
            })
            .collect();
        rates.sort_by(|(one, _), (other, _)| other.total_cmp(one));
        let [(best, name), (next, _), ..] = rates[..] else { return None };
        let percent = (best / next - 1.0) * 100.0;
        Some(format!("{name} {}/s, +{percent:.0} %", grouped(best)))
    };
    let mut text = "\nbest durable mode, ahead of the next by\n      ".to_owned();
    for depth in DEPTHS {
        text += &format!("  {:<24}", format!("{depth} in flight"));
    }
    let mut found = false;
    for (name, size) in SIZES {
        let cells = DEPTHS.map(|depth| cell(size, depth));
        if cells.iter().any(Option::is_some) {
            found = true;
            let cells = cells.map(|cell| format!("  {:<24}", cell.unwrap_or("-".to_owned())));
            text = format!("{}\n  {name:<4}{}", text.trim_end(), cells.concat());
        }
    }
    found.then(|| format!("{}\n", text.trim_end()))
}

/// The durable pattern of the raw loop with the most bytes a second.
#[must_use]
pub fn best_durable(yardstick: &Yardstick) -> Option<(&str, &Point)> {
    let raw = yardstick.points.iter().filter(|(name, _)| name.starts_with("raw/"));
    let durable = raw.filter(|(_, point)| point.sync != "none");
    let best = durable.max_by(|(_, one), (_, other)| one.mb_per_s.total_cmp(&other.mb_per_s));
    best.map(|(name, point)| (name.as_str(), point))
}

/// A number with a comma after each three digits: `12,900`.
fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn yardstick(rates: &[(&str, f64)]) -> Yardstick {
        let point = |(name, ops_per_s): &(&str, f64)| {
            let pattern = Pattern::named(name).unwrap();
            let point = Point {
                block_size: pattern.size.into(),
                depth: pattern.depth,
                sync: pattern.mode.sync().to_owned(),
                ops_per_s: *ops_per_s,
                mb_per_s: ops_per_s * f64::from(pattern.size) / 1e6,
                p50_us: 1.0,
                p99_us: 2.0,
            };
            ((*name).to_owned(), point)
        };
        Yardstick { points: rates.iter().map(point).collect() }
    }

    #[test]
    fn names_are_found_by_a_part_or_by_a_glob() {
        let all = matching(None).unwrap();
        assert!(all.len() > 100);
        let linked = matching(Some("raw/linked-64k-?")).unwrap();
        assert_eq!(linked.len(), DEPTHS.len());
        assert!(linked.iter().any(|name| name == "raw/linked-64k-2"));
        let commit = matching(Some("fio/commit/dsync")).unwrap();
        assert_eq!(commit.len(), 5);
        assert!(matching(Some("dsync-5k")).unwrap_err().to_string().contains("raw/none-1m-8"));
        assert!(matching(Some("raw/[")).is_err());
    }

    #[test]
    fn jobs_that_run_together_run_once() {
        let names = ["fio/mixed/tail", "raw/dsync-4k-1", "fio/mixed/append", "raw/dsync-4k-1"];
        let steps = steps(&names).unwrap();
        let order: Vec<&str> = steps.iter().map(|(name, _)| *name).collect();
        assert_eq!(order, ["fio/mixed/tail", "raw/dsync-4k-1"]);
        assert!(super::steps(&["fio/commit/dsync-4m"]).is_err());
    }

    #[test]
    fn the_best_durable_mode_is_told_with_its_lead_and_none_is_no_mode() {
        let yardstick = yardstick(&[
            ("raw/dsync-4k-8", 30_000.0),
            ("raw/fsync-4k-8", 25_000.0),
            ("raw/linked-4k-8", 20_000.0),
            ("raw/none-4k-8", 90_000.0),
            ("raw/dsync-1m-1", 1_000.0),
            ("raw/none-1m-1", 4_000.0),
        ]);
        let text = best_modes(&yardstick).unwrap();
        let lines: Vec<&str> = text.lines().filter(|line| line.contains("4k")).collect();
        assert_eq!(lines.len(), 1);
        assert!(lines[0].contains("dsync 30,000/s, +20 %"), "{text}");
        assert!(!text.contains("1m"), "one mode is not better than another: {text}");
        let (name, _) = best_durable(&yardstick).unwrap();
        assert_eq!(name, "raw/dsync-1m-1");
    }

    #[test]
    fn nothing_is_said_of_modes_that_were_not_measured() {
        assert_eq!(best_modes(&yardstick(&[("raw/dsync-4k-1", 1.0)])), None);
        assert!(best_durable(&yardstick(&[("raw/none-4k-1", 1.0)])).is_none());
    }

    #[test]
    fn thousands_are_grouped() {
        assert_eq!(
            ["0", "999", "1,000", "12,345,678"],
            [0.0, 999.4, 999.6, 12_345_678.0].map(grouped)
        );
    }

    #[test]
    fn seconds_are_bounded() {
        assert_eq!(seconds("0.5"), Ok(0.5));
        assert!(seconds("0").is_err() && seconds("inf").is_err() && seconds("two").is_err());
    }
}
