//! Writing a log's records to a file or to standard output.
//!
//! Not here: the formats (`transfer`).

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use oncelog::{From as At, Sequence};
use serde_json::json;

use super::fail::Fail;
use super::logs::{described, told};
use super::out::{Out, count};
use super::source::{Source, find};
use super::target::{Target, TargetArgs};
use super::transfer::{Encoder, Format};
use super::values::{POSITIONS, Position};

/// Write a log's records to a file that `import` reads
#[derive(Debug, clap::Args)]
#[command(after_help = "\
What is there when it begins is written, and no more. A file gets its name once it is whole and
durable; one that is there is not replaced.

Examples:
  oncelog export shop/orders --dir data > orders.jsonl
  oncelog export shop/orders --format binary --output orders.bin --dir data
  oncelog export shop/orders --from ago:1d --server localhost:7117 | gzip > orders.jsonl.gz")]
pub(super) struct Export {
    /// The log
    log: String,
    /// Where to begin
    #[arg(long, value_name = "POSITION", default_value = "earliest",
          long_help = format!("Where to begin: {POSITIONS}"))]
    from: Position,
    /// Where to end, without the record that is there
    #[arg(long, value_name = "POSITION", default_value = "latest")]
    to: Position,
    /// How records are written
    #[arg(long, value_enum, default_value = "json")]
    format: Format,
    /// The file to write; default: standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    target: TargetArgs,
}

pub(super) fn export(args: Export, out: &mut Out) -> Result<(), Fail> {
    let mut target = Target::open(&args.target)?;
    let log = described(&mut target, &args.log)?;
    let (first, next) = (told(&log, "first")?, told(&log, "next")?);
    let from = find(&mut target, &args.log, args.from)?.clamp(first, next);
    let end = find(&mut target, &args.log, args.to)?.clamp(from, next);
    let file = args.output.as_deref().map(NewFile::create).transpose()?;
    let mut to = To { out, file };
    run(&mut target, &args, (from, end), &mut to)?;
    target.close()?;
    let (Some(file), Some(path)) = (to.file, &args.output) else { return Ok(()) };
    file.finish()?;
    let records = end.since(from);
    let json = || json!({ "log": args.log, "records": records, "file": path });
    out.either(json, || format!("{} in {}", count(records, "record"), path.display()))
}

/// Where an export goes: the file, or standard output.
struct To<'a> {
    out: &'a mut Out,
    file: Option<NewFile>,
}

impl To<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), Fail> {
        match &mut self.file {
            Some(file) => file.write(bytes),
            None => self.out.bytes(bytes),
        }
    }
}

fn run(
    target: &mut Target,
    args: &Export,
    (from, end): (Sequence, Sequence),
    to: &mut To<'_>,
) -> Result<(), Fail> {
    let total = end.since(from);
    let bar = to.out.bar(total, false);
    let mut encoder = Encoder::new(args.format);
    to.write(encoder.begin())?;
    let mut source = Source::open(target, &args.log, Position(At::Sequence(from)), false)?;
    let (mut left, mut bytes) = (total, Vec::new());
    while left > 0 {
        let records = source.next(left, None)?;
        if records.is_empty() {
            let why = format!("{left} records of {} are not there any more", args.log);
            return Err(Fail::Failed(why));
        }
        left -= records.len() as u64;
        for record in &records {
            encoder.put(record, &mut bytes)?;
        }
        to.write(&bytes)?;
        bytes.clear();
        bar.set_position(total - left);
    }
    to.write(&encoder.end())?;
    bar.finish_and_clear();
    Ok(())
}

/// A file that gets its name when it is whole; before that, it goes with this value.
struct NewFile {
    file: File,
    path: PathBuf,
    unfinished: PathBuf,
    whole: bool,
}

impl NewFile {
    fn create(path: &Path) -> Result<Self, Fail> {
        if path.exists() {
            let why = format!("{} is there: choose another name, or remove it", path.display());
            return Err(Fail::Usage(why));
        }
        let mut unfinished = path.as_os_str().to_owned();
        unfinished.push(".unfinished");
        let unfinished = PathBuf::from(unfinished);
        let file = File::create(&unfinished).map_err(Fail::io("cannot make", &unfinished))?;
        Ok(Self { file, path: path.to_owned(), unfinished, whole: false })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Fail> {
        self.file.write_all(bytes).map_err(Fail::io("cannot write", &self.unfinished))
    }

    fn finish(mut self) -> Result<(), Fail> {
        self.file.sync_all().map_err(Fail::io("cannot sync", &self.unfinished))?;
        fs::rename(&self.unfinished, &self.path).map_err(Fail::io("cannot name", &self.path))?;
        self.whole = true;
        let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        let synced = File::open(parent).and_then(|parent| parent.sync_all());
        synced.map_err(Fail::io("cannot sync", parent))
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.whole {
            let _ = fs::remove_file(&self.unfinished);
        }
    }
}
