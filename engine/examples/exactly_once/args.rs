//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use lexopt::prelude::{Long, Short, Value, ValueExt};

use crate::Result;
use crate::input::Input;

/// How often the text that comes along is read when nothing is said: alone it is over too soon.
const REPEAT_DEFAULT: u64 = 20;
const KILLS_DEFAULT: u32 = 12;

pub(crate) const HELP: &str = "\
Counts the words of a text exactly once, while its process is killed again and again.

Every line of the input becomes a record of the log text/lines; a processor counts the words and
writes one result for each 256 lines to the log text/results. A worker process does that; it is
killed with SIGKILL at random instants and started again until all is done. Then everything that is
on disk is compared with a straight count of the input. The exit code is 0 only if all is equal.

USAGE
  exactly_once [OPTIONS] [FILE|DIRECTORY|PATTERN|-]...

  Without a file: the King James Bible, 20 times (84 MB). '-' is the standard input.

OPTIONS
  --seed N      which random instants; default 1
  --kills N     how many kills; default 12. It is an error if the input ends before them
  --repeat N    read the input N times; default 1 where files are named
  --data DIR    where to put the data: a new or empty directory on a real disk; default a temporary
                directory beside the build
  --keep        leave the data there; they always are after a failure
  --json        print the figures as JSON, and everything else to the standard error
  -h, --help    this text

EXAMPLES
  cargo run --release --example exactly_once
  cargo run --release --example exactly_once -- --kills 100 --seed 7
  cargo run --release --example exactly_once -- --data /var/tmp/once --keep 'logs/*.log'
  zcat access.log.gz | cargo run --release --example exactly_once -- -
";

pub(crate) enum Command {
    Help,
    Run(Settings),
    Work(Job),
}

/// What the parent is told.
pub(crate) struct Settings {
    pub(crate) seed: u64,
    pub(crate) kills: u32,
    pub(crate) repeat: u64,
    pub(crate) data: Option<PathBuf>,
    pub(crate) keep: bool,
    pub(crate) json: bool,
    /// As they were named; none for the text that comes along.
    pub(crate) inputs: Vec<OsString>,
}

/// What the worker is told.
pub(crate) struct Job {
    /// Directory of the engine.
    pub(crate) dir: PathBuf,
    /// How many lines the input has.
    pub(crate) total: u64,
    pub(crate) input: Input,
}

pub(crate) fn parse() -> Result<Command> {
    let mut parser = lexopt::Parser::from_env();
    let (mut seed, mut kills, mut repeat, mut total) = (1, KILLS_DEFAULT, None, 0);
    let (mut data, mut worker, mut keep, mut json) = (None, None, false, false);
    let mut inputs: Vec<OsString> = Vec::new();
    while let Some(arg) = parser.next()? {
        match arg {
            Short('h') | Long("help") => return Ok(Command::Help),
            Long("seed") => seed = parser.value()?.parse()?,
            Long("kills") => kills = parser.value()?.parse()?,
            Long("repeat") => repeat = Some(parser.value()?.parse()?),
            Long("data") => data = Some(PathBuf::from(parser.value()?)),
            Long("keep") => keep = true,
            Long("json") => json = true,
            // How the parent starts the worker.
            Long("worker") => worker = Some(PathBuf::from(parser.value()?)),
            Long("total") => total = parser.value()?.parse()?,
            Value(input) => inputs.push(input),
            _ => return Err(arg.unexpected().into()),
        }
    }
    let default = if inputs.is_empty() { REPEAT_DEFAULT } else { 1 };
    let repeat = repeat.unwrap_or(default);
    Ok(match worker {
        Some(dir) => {
            let files = inputs.into_iter().map(PathBuf::from).collect();
            Command::Work(Job { dir, total, input: Input::new(files, repeat) })
        }
        None => Command::Run(Settings { seed, kills, repeat, data, keep, json, inputs }),
    })
}

/// The arguments that make this program the worker of `job`.
pub(crate) fn of_worker(job: &Job) -> Vec<OsString> {
    let mut args: Vec<OsString> = vec!["--worker".into(), job.dir.clone().into()];
    args.extend(["--total".into(), job.total.to_string().into()]);
    args.extend(["--repeat".into(), job.input.repeat().to_string().into(), "--".into()]);
    args.extend(job.input.files().iter().map(|file| file.clone().into_os_string()));
    args
}
