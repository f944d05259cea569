//! Runs jobs of the fio profiles and reads what fio says.
//!
//! ```text
//! fio-profiles/commit.fio (in this program) -> file -> fio --section=dsync-4k -> JSON
//!                                     `fio/commit/dsync-4k` <- Point <- the job's <-'
//! ```
//!
//! Invariants:
//! - What the harness runs is what a person runs by hand: the profiles have no placeholders, only
//!   directory and time come from outside.
//! - A job with `fdatasync` has two latencies, of the write and of the sync: a point has their sum,
//!   quantile by quantile. That is an estimate, since quantiles do not add; its operations a second
//!   are exact, and the raw loop's `fsync` and `linked` time each pair as a whole.
//!
//! Not here: preparing the file that most jobs overwrite (`calibrate`).

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::outcome::Point;

/// How to get fio.
pub const INSTALL: &str = "apt-get install fio, or dnf install fio";

/// The profiles: name and text.
pub const PROFILES: [(&str, &str); 6] = [
    ("commit", include_str!("../../fio-profiles/commit.fio")),
    ("pipeline", include_str!("../../fio-profiles/pipeline.fio")),
    ("unwritten", include_str!("../../fio-profiles/unwritten.fio")),
    ("read", include_str!("../../fio-profiles/read.fio")),
    ("mixed", include_str!("../../fio-profiles/mixed.fio")),
    ("shards", include_str!("../../fio-profiles/shards.fio")),
];

/// The file that most jobs overwrite and read, and its size: as in the profiles.
pub const WRITTEN: (&str, u64) = ("yardstick.written", 256 << 20);

/// Profiles whose jobs run at the same time, so a point needs the others.
const TOGETHER: [&str; 1] = ["mixed"];

/// Jobs to run in one call of fio.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    profile: &'static str,
    /// All of the profile, if none.
    job: Option<String>,
}

impl Call {
    /// The call that takes the point of that name.
    #[must_use]
    pub fn for_point(name: &str) -> Option<Self> {
        let (profile, job) = name.strip_prefix("fio/")?.split_once('/')?;
        let (profile, text) = PROFILES.into_iter().find(|(known, _)| *known == profile)?;
        let job = jobs(text).find(|known| *known == job)?;
        let together = TOGETHER.contains(&profile);
        Some(Self { profile, job: (!together).then(|| job.to_owned()) })
    }

    /// Runs it for so long, with data in `dir`. Gives the points by name.
    ///
    /// # Errors
    /// fio failed; the error has its words.
    pub fn run(&self, dir: &Path, seconds: f64) -> Result<Vec<(String, Point)>> {
        let (_, text) = PROFILES.iter().find(|(name, _)| *name == self.profile).expect("known");
        let file = format!("{}.fio", self.profile);
        fs::write(dir.join(&file), text)
            .with_context(|| format!("cannot write {file} to {}", dir.display()))?;
        let mut command = Command::new("fio");
        // fio takes a path with a colon for two: let it begin in the directory.
        command.current_dir(dir).args(["--output-format=json", "--directory=."]);
        command.arg(format!("--runtime={}ms", (seconds * 1000.0).ceil()));
        command.args(self.job.iter().map(|job| format!("--section={job}"))).arg(&file);
        let output = command.output().with_context(|| format!("cannot run fio; {INSTALL}"))?;
        let words = String::from_utf8_lossy(&output.stderr);
        let answer = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "fio failed ({}): {}", output.status, words.trim());
        let said = || format!("fio ended well, and said: {}", words.trim());
        points(self.profile, &answer).with_context(said)
    }
}

/// fio's version, if it is there.
#[must_use]
pub fn version() -> Option<String> {
    let output = Command::new("fio").arg("--version").output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The names of all points that fio can take.
pub fn names() -> impl Iterator<Item = String> {
    PROFILES
        .into_iter()
        .flat_map(|(profile, text)| jobs(text).map(move |job| format!("fio/{profile}/{job}")))
}

/// The jobs of a profile.
fn jobs(profile: &str) -> impl Iterator<Item = &str> {
    let sections = profile.lines().filter_map(|line| line.strip_prefix('[')?.strip_suffix(']'));
    sections.filter(|section| *section != "global")
}

/// The points in fio's JSON.
fn points(profile: &str, answer: &str) -> Result<Vec<(String, Point)>> {
    // fio may say something first.
    let json = &answer[answer.find('{').context("fio has not answered with JSON")?..];
    let json: Value = serde_json::from_str(json).context("fio's JSON is broken")?;
    let jobs = json["jobs"].as_array().context("fio's JSON has no jobs")?;
    let named = |job: &Value| {
        let name = job["jobname"].as_str().context("a job has no name")?;
        let point = point(job, &json["global options"]);
        Ok((format!("fio/{profile}/{name}"), point.with_context(|| format!("job {name}"))?))
    };
    jobs.iter().map(named).collect()
}

fn point(job: &Value, global: &Value) -> Result<Point> {
    ensure!(job["error"] == 0, "fio met error {}", job["error"]);
    let option = |name: &str| job["job options"][name].as_str().or(global[name].as_str());
    let count = |name| option(name).unwrap_or("1").parse::<u32>().context("no number");
    let side = ["write", "read"].into_iter().map(|side| &job[side]);
    let mut sides = side.filter(|side| side["total_ios"].as_u64() > Some(0));
    let Some(side) = sides.next() else {
        bail!("nothing was read or written; measure for longer");
    };
    let mut latencies = vec![&side["lat_ns"]];
    let sync = match (option("fdatasync"), option("sync")) {
        (Some(_), _) => {
            latencies.push(&job["sync"]["lat_ns"]);
            "fdatasync"
        }
        (None, Some(sync)) => sync,
        (None, None) => "none",
    };
    let quantile = |name: &str| -> Result<f64> {
        let nanoseconds = latencies.iter().map(|latency| latency["percentile"][name].as_f64());
        let sum: Option<f64> = nanoseconds.sum();
        Ok(sum.with_context(|| format!("there is no percentile {name}"))? / 1000.0)
    };
    let figure = |name: &str| side[name].as_f64().with_context(|| format!("there is no {name}"));
    Ok(Point {
        block_size: block_size(option("bs").context("there is no block size")?)?,
        depth: count("iodepth")? * count("numjobs")?,
        sync: sync.to_owned(),
        ops_per_s: figure("iops")?,
        mb_per_s: figure("bw_bytes")? / 1e6,
        p50_us: quantile("50.000000")?,
        p99_us: quantile("99.000000")?,
    })
}

/// `4k`, as fio reads it: units are powers of two.
fn block_size(text: &str) -> Result<u64> {
    let (digits, unit) = match text.strip_suffix('k') {
        Some(digits) => (digits, 1 << 10),
        None => text.strip_suffix('m').map_or((text, 1), |digits| (digits, 1 << 20)),
    };
    let number: u64 = digits.parse().with_context(|| format!("{text} is no block size"))?;
    Ok(number * unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From fio 3.33, with the fields that nobody reads taken out.
    const SYNCED: &str = r#"fio: a note on something
{
  "fio version" : "fio-3.33",
  "global options" : { "runtime" : "500ms", "direct" : "1", "ioengine" : "psync" },
  "jobs" : [ {
    "jobname" : "fdatasync-16k",
    "error" : 0,
    "job options" : { "rw" : "write", "bs" : "16k", "fdatasync" : "1" },
    "read" : { "iops" : 0.000000, "total_ios" : 0, "bw_bytes" : 0, "lat_ns" : { "N" : 0 } },
    "write" : {
      "bw_bytes" : 32310160, "iops" : 1972.055888, "total_ios" : 988,
      "lat_ns" : { "N" : 988, "percentile" : { "50.000000" : 92672, "99.000000" : 610304 } } },
    "sync" : {
      "total_ios" : 0,
      "lat_ns" : { "N" : 988, "percentile" : { "50.000000" : 142336, "99.000000" : 3883008 } } }
  } ]
}"#;

    #[test]
    fn a_write_with_fdatasync_takes_as_long_as_both() {
        let points = points("commit", SYNCED).unwrap();
        let [(name, point)] = &points[..] else { panic!("one job, one point") };
        assert_eq!(name, "fio/commit/fdatasync-16k");
        assert_eq!((point.block_size, point.depth, &*point.sync), (16 << 10, 1, "fdatasync"));
        assert_eq!((point.ops_per_s, point.mb_per_s), (1_972.055_888, 32.31016));
        assert!((point.p50_us - (92.672 + 142.336)).abs() < 1e-9, "{}", point.p50_us);
        assert!((point.p99_us - (610.304 + 3883.008)).abs() < 1e-9, "{}", point.p99_us);
    }

    #[test]
    fn options_come_from_the_job_or_from_all_and_writers_multiply() {
        let json = SYNCED.replace("\"fdatasync\" : \"1\"", "\"iodepth\":\"2\", \"numjobs\":\"4\"");
        let json = json.replace("\"direct\" : \"1\"", "\"sync\" : \"dsync\"");
        let points = points("shards", &json).unwrap();
        let (_, point) = &points[0];
        assert_eq!((point.depth, &*point.sync), (8, "dsync"));
        assert!((point.p50_us - 92.672).abs() < 1e-9, "the sync's latency is inside the write's");
    }

    #[test]
    fn reads_are_told_from_writes_by_their_number() {
        let json = SYNCED.replace("\"write\" :", "\"none\" :").replace("\"read\" :", "\"write\" :");
        let json = json.replace("\"none\" :", "\"read\" :");
        let json = json.replace(", \"fdatasync\" : \"1\"", "");
        let (_, point) = points("read", &json).unwrap().remove(0);
        assert_eq!((point.ops_per_s, &*point.sync), (1_972.055_888, "none"));
    }

    #[test]
    fn a_job_that_failed_or_did_nothing_is_no_point() {
        let failed = SYNCED.replace("\"error\" : 0", "\"error\" : 28");
        assert!(format!("{:#}", points("commit", &failed).unwrap_err()).contains("error 28"));
        let idle = SYNCED.replace("\"total_ios\" : 988", "\"total_ios\" : 0");
        assert!(format!("{:#}", points("commit", &idle).unwrap_err()).contains("longer"));
        assert!(points("commit", "fio: no such engine").is_err());
        let no_quantile = SYNCED.replace("\"99.000000\" : 3883008", "\"98.000000\" : 1");
        assert!(points("commit", &no_quantile).is_err());
    }

    #[test]
    fn every_job_of_the_profiles_has_a_name_and_a_call() {
        let names: Vec<String> = names().collect();
        for name in &names {
            assert!(Call::for_point(name).is_some(), "{name}");
        }
        let known = [
            "fio/commit/fdatasync-64k",
            "fio/commit/dsync-1m",
            "fio/pipeline/dsync-64k-8",
            "fio/unwritten/fallocated-4k",
            "fio/read/random-32k-8",
            "fio/read/buffered-1m",
            "fio/mixed/catch-up",
            "fio/shards/dsync-64k-x4",
        ];
        for name in known {
            assert!(names.iter().any(|have| have == name), "{name} is gone");
        }
        assert_eq!(Call::for_point("fio/mixed/tail"), Call::for_point("fio/mixed/append"));
        assert_ne!(Call::for_point("fio/commit/dsync-4k"), Call::for_point("fio/commit/dsync-1m"));
        assert_eq!(Call::for_point("fio/commit/global"), None);
    }

    #[test]
    fn fio_understands_every_profile() {
        if version().is_none() {
            eprintln!("skipped: no fio here ({INSTALL})");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        for (profile, text) in PROFILES {
            let file = dir.path().join(profile);
            fs::write(&file, text).unwrap();
            let mut command = Command::new("fio");
            command.current_dir(&dir).args(["--parse-only", "--directory=.", "--runtime=1"]);
            let output = command.arg(&file).output().unwrap();
            let words = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && words.is_empty(), "{profile}: {words}");
        }
    }

    #[test]
    fn the_profiles_write_to_the_file_that_is_prepared() {
        let (name, size) = WRITTEN;
        for (profile, text) in PROFILES.iter().filter(|(name, _)| *name != "shards") {
            assert!(text.contains(&format!("filename={name}\n")), "{profile}");
        }
        let (_, commit) = PROFILES[0];
        assert!(commit.contains(&format!("size={}m\n", size >> 20)));
    }
}
