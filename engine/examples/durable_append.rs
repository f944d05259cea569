//! How long a durable append takes, and how many a second there are, beside fio on the same disk.
//!
//! ```text
//! cargo run --release --example durable_append -- [--data DIR] [--seconds N] [--rounds N]
//!                                                 [--only WORD]
//! ```
//!
//! In each round, one after the other: fio (4 KiB write + fdatasync, one in flight; left out where
//! fio is not installed), one producer, 64 producers, one processor that commits each record, and
//! 64 of them. Figures of one round are comparable, those of different machines are not.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use oncelog::{Bytes, Commit, Engine, Log, NewRecord, Options};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const PAYLOAD: usize = 1024;
const STATE_DELTA: usize = 100;
const PRODUCERS: usize = 64;

fn main() -> Result<()> {
    let mut data = std::env::temp_dir();
    let (mut seconds, mut rounds, mut only) = (3, 3, String::new());
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next();
        let usage = "usage: durable_append [--data DIR] [--seconds N] [--rounds N] [--only WORD]";
        let value = value.ok_or(usage)?;
        match name.as_str() {
            "--data" => data = PathBuf::from(value),
            "--seconds" => seconds = value.parse()?,
            "--rounds" => rounds = value.parse()?,
            "--only" => only = value,
            _ => return Err(format!("{name} is not known").into()),
        }
    }
    let dir = tempfile::Builder::new().prefix("oncelog-bench-").tempdir_in(data)?;
    let limit = Duration::from_secs(seconds);
    for round in 1..=rounds {
        println!("round {round}");
        let fio = fio(dir.path(), seconds)?;
        if let Some((p50, rate)) = fio {
            println!("  fio 4 KiB write + fdatasync     p50 {p50:7.1} us {rate:9.0} /s");
        }
        let engine = Options::new(dir.path().join(format!("round-{round}"))).shards(1).open()?;
        let mut rates = Vec::new();
        for (name, work) in WORK {
            if name.contains(&only) {
                let figures = Figures::of(&engine, |engine| work(engine, limit))?;
                figures.print(name, fio);
                rates.push(figures.rate());
            }
        }
        if let [one, many, commits_of_one, commits_of_many] = rates[..] {
            let (one, many) = (commits_of_one / one, commits_of_many / many);
            println!("  commits beside appends          {one:.2} with one, {many:.2} with 64");
        }
        engine.close().wait()?;
    }
    Ok(())
}

type Work = fn(&Engine, Duration) -> Result<(Vec<f64>, Duration)>;

const WORK: [(&str, Work); 4] = [
    ("1 producer, 1 KiB", one_producer),
    ("64 producers, 1 KiB", many_producers),
    ("1 processor, commit each", |engine, limit| processors(engine, 1, limit)),
    ("64 processors, commit each", |engine, limit| processors(engine, PRODUCERS, limit)),
];

/// What one workload did.
struct Figures {
    latencies_us: Vec<f64>,
    elapsed: Duration,
    entries: u64,
    syncs: u64,
}

impl Figures {
    fn of(
        engine: &Engine,
        work: impl FnOnce(&Engine) -> Result<(Vec<f64>, Duration)>,
    ) -> Result<Self> {
        let before = engine.info().wait()?.shards[0].stats.commit;
        let (mut latencies_us, elapsed) = work(engine)?;
        latencies_us.sort_by(f64::total_cmp);
        let after = engine.info().wait()?.shards[0].stats.commit;
        let (entries, syncs) = (after.entries - before.entries, after.syncs - before.syncs);
        Ok(Self { latencies_us, elapsed, entries, syncs })
    }

    fn rate(&self) -> f64 {
        self.latencies_us.len() as f64 / self.elapsed.as_secs_f64()
    }

    fn quantile(&self, part: f64) -> f64 {
        self.latencies_us[((self.latencies_us.len() - 1) as f64 * part) as usize]
    }

    fn print(&self, name: &str, fio: Option<(f64, f64)>) {
        let (p50, p99, rate) = (self.quantile(0.5), self.quantile(0.99), self.rate());
        let per_sync = self.latencies_us.len() as f64 / self.syncs as f64;
        let ratio = fio.map_or(String::new(), |(fio_p50, fio_rate)| {
            format!(", {:.2} x fio p50, {:.1} x fio rate", p50 / fio_p50, rate / fio_rate)
        });
        println!(
            "  {name:<31} p50 {p50:7.1} us {rate:9.0} /s, p99 {p99:7.1} us, {} entries, {} syncs, \
             {per_sync:.1} per sync{ratio}",
            self.entries, self.syncs
        );
    }
}

/// p50 of write + sync in microseconds, and writes a second.
fn fio(dir: &Path, seconds: u64) -> Result<Option<(f64, f64)>> {
    let file = dir.join("fio.tmp");
    let fio = |arguments: &[&str]| {
        Command::new("fio")
            .arg(format!("--filename={}", file.display()))
            .args(["--name=sync", "--size=64m", "--direct=1", "--rw=write", "--output-format=json"])
            .args(arguments)
            .output()
    };
    // Written extents, as the engine's.
    let Ok(filled) = fio(&["--bs=1m", "--end_fsync=1"]) else { return Ok(None) };
    if !filled.status.success() {
        return Err(String::from_utf8_lossy(&filled.stderr).into());
    }
    let runtime = format!("--runtime={seconds}");
    let sync =
        ["--bs=4k", "--fdatasync=1", "--overwrite=1", "--time_based", "--ioengine=psync", &runtime];
    let output = fio(&sync)?;
    std::fs::remove_file(&file)?;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let job = &report["jobs"][0];
    let p50 = |what: &serde_json::Value, name: &str| {
        what[name]["percentile"]["50.000000"].as_f64().unwrap_or(f64::NAN) / 1000.0
    };
    let rate = job["write"]["iops"].as_f64().ok_or("fio says no rate")?;
    Ok(Some((p50(&job["write"], "clat_ns") + p50(&job["sync"], "lat_ns"), rate)))
}

fn one_producer(engine: &Engine, limit: Duration) -> Result<(Vec<f64>, Duration)> {
    let log = engine.open_or_create_log("bench/one").wait()?;
    let payload = Bytes::from(vec![7; PAYLOAD]);
    let begin = Instant::now();
    let mut latencies = Vec::new();
    while begin.elapsed() < limit {
        let start = Instant::now();
        log.append(payload.clone()).wait()?;
        latencies.push(micros(start));
    }
    Ok((latencies, begin.elapsed()))
}

fn many_producers(engine: &Engine, limit: Duration) -> Result<(Vec<f64>, Duration)> {
    let log = engine.open_or_create_log("bench/many").wait()?;
    let payload = Bytes::from(vec![7; PAYLOAD]);
    run_tasks(PRODUCERS, |begin| {
        let (log, payload) = (log.clone(), payload.clone());
        async move {
            let mut latencies = Vec::new();
            while begin.elapsed() < limit {
                let start = Instant::now();
                log.append(payload.clone()).await.expect("the disk works");
                latencies.push(micros(start));
            }
            latencies
        }
    })
}

/// Each processor has its own source, filled before; each commit covers one record.
fn processors(engine: &Engine, count: usize, limit: Duration) -> Result<(Vec<f64>, Duration)> {
    let mut opened = Vec::new();
    for number in 0..count {
        let source = engine.open_or_create_log(format!("bench/source-{number}")).wait()?;
        // More than can be committed in the time: a processor at the end would wait for ever.
        fill(&source, 600_000 * limit.as_secs().max(1) as usize / count)?;
        let name = format!("bench/processor-{count}-{number}");
        let options = engine.processor(name).source(source.name());
        opened.push(options.open().wait()?.0);
    }
    let delta = Bytes::from(vec![1; STATE_DELTA]);
    let mut opened = opened.into_iter();
    run_tasks(count, |begin| {
        let mut processor = opened.next().expect("one for each task");
        let delta = delta.clone();
        async move {
            let mut latencies = Vec::new();
            while begin.elapsed() < limit {
                let input = processor.next().await.expect("the source was filled");
                for record in input.records {
                    let start = Instant::now();
                    // A real processor snapshots when told; a short one keeps the chain short.
                    let commit = Commit::new().delta(delta.clone()).through(&record);
                    let done = processor.commit(commit).await.expect("the disk works");
                    latencies.push(micros(start));
                    if done.snapshot_due {
                        let commit = Commit::new().snapshot(delta.clone()).through(&record);
                        processor.commit(commit).await.expect("the disk works");
                    }
                    if begin.elapsed() >= limit {
                        break;
                    }
                }
            }
            latencies
        }
    })
}

fn fill(log: &Log, count: usize) -> Result<()> {
    let have = log.describe().wait()?.next.get();
    let missing = (count as u64).saturating_sub(have);
    for _ in 0..missing.div_ceil(1000) {
        log.append_batch((0..1000).map(|_| NewRecord::new("record"))).wait()?;
    }
    Ok(())
}

fn run_tasks<F: Future<Output = Vec<f64>> + Send + 'static>(
    count: usize,
    mut task: impl FnMut(Instant) -> F,
) -> Result<(Vec<f64>, Duration)> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let begin = Instant::now();
    let mut latencies = Vec::new();
    runtime.block_on(async {
        let tasks: Vec<_> = (0..count).map(|_| runtime.spawn(task(begin))).collect();
        for task in tasks {
            latencies.extend(task.await.expect("no task panics"));
        }
    });
    Ok((latencies, begin.elapsed()))
}

fn micros(start: Instant) -> f64 {
    start.elapsed().as_nanos() as f64 / 1000.0
}
