//! What is printed: lines or JSON on standard output, the rest on standard error.
//!
//! Not here: what is said.

use std::fmt::{self, Display};
use std::io::{self, BufWriter, ErrorKind, IsTerminal, Stdout, Write};
use std::time::{Duration, UNIX_EPOCH};

use bytesize::ByteSize;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use super::fail::Fail;

const SPINNER_TICK: Duration = Duration::from_millis(100);

/// Where a command says what it found.
pub(super) struct Out {
    json: bool,
    stdout: BufWriter<Stdout>,
}

impl Out {
    pub(super) fn new(json: bool) -> Self {
        Self { json, stdout: BufWriter::with_capacity(64 << 10, io::stdout()) }
    }

    /// Whether JSON was asked for.
    pub(super) fn is_json(&self) -> bool {
        self.json
    }

    /// A line of text.
    pub(super) fn line(&mut self, line: impl Display) -> Result<(), Fail> {
        writeln!(self.stdout, "{line}").map_err(closed)
    }

    /// A value of JSON on a line of its own.
    pub(super) fn value(&mut self, value: &Value) -> Result<(), Fail> {
        self.line(value)
    }

    /// The value with `--json`, the text otherwise.
    pub(super) fn either(
        &mut self,
        value: impl FnOnce() -> Value,
        text: impl FnOnce() -> String,
    ) -> Result<(), Fail> {
        if self.json { self.line(value()) } else { self.line(text()) }
    }

    /// Bytes as they are.
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> Result<(), Fail> {
        self.stdout.write_all(bytes).map_err(closed)
    }

    pub(super) fn flush(&mut self) -> Result<(), Fail> {
        self.stdout.flush().map_err(closed)
    }

    /// Something to know beside the answer.
    pub(super) fn note(&mut self, note: impl Display) {
        // An answer that was printed before stands before it, also where both go to one file.
        let _ = self.stdout.flush();
        let _ = writeln!(io::stderr(), "{note}");
    }

    pub(super) fn error(&self, fail: &Fail) {
        let head = if colours(&io::stderr()) { "\x1b[1;31merror:\x1b[0m" } else { "error:" };
        let _ = writeln!(io::stderr(), "{head} {fail}");
    }

    /// A bar for work that takes long, in bytes or in pieces; only a terminal shows it.
    pub(super) fn bar(&self, total: u64, in_bytes: bool) -> ProgressBar {
        if self.json || !io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let template = if in_bytes {
            "{bar:40} {binary_bytes} of {binary_total_bytes}, {eta} left {msg}"
        } else {
            "{bar:40} {human_pos} of {human_len}, {eta} left {msg}"
        };
        let style = ProgressStyle::with_template(template);
        let bar = ProgressBar::new(total);
        style.map_or(bar.clone(), |style| bar.with_style(style))
    }

    /// For work that takes long, nobody knows how long; only a terminal shows it.
    pub(super) fn spinner(&self, what: &'static str) -> ProgressBar {
        if self.json || !io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let spinner = ProgressBar::new_spinner().with_message(what);
        spinner.enable_steady_tick(SPINNER_TICK);
        spinner
    }

    /// `good` or `bad` words in green or red, where a terminal shows them.
    pub(super) fn judged(&self, text: &str, good: bool) -> String {
        let colour = if good { 32 } else { 31 };
        if colours(&io::stdout()) {
            format!("\x1b[{colour}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

impl fmt::Debug for Out {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Out").field("json", &self.json).finish_non_exhaustive()
    }
}

fn colours(to: &impl IsTerminal) -> bool {
    to.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn closed(error: io::Error) -> Fail {
    if error.kind() == ErrorKind::BrokenPipe {
        return Fail::Closed;
    }
    Fail::Failed(format!("cannot write to standard output: {error}"))
}

/// `1 record`, `2 records`
pub(super) fn count(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// `64.0 MiB`
pub(super) fn size(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}

/// A time for people: `2026-11-23T03:17:46.123456Z`.
pub(super) fn time(time_us: u64) -> String {
    let time = UNIX_EPOCH.checked_add(Duration::from_micros(time_us));
    time.filter(|_| time_us < YEAR_9999_US).map_or_else(
        || format!("{time_us} µs"),
        |time| humantime::format_rfc3339_micros(time).to_string(),
    )
}

/// Later times have no text.
const YEAR_9999_US: u64 = 253_370_764_800_000_000;

/// Goes on only if it was said that this is wanted: with `--yes`, or when asked on a terminal.
pub(super) fn confirm(yes: bool, what: &str) -> Result<(), Fail> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(Fail::Usage(format!("{what}; nothing was done: say --yes if that is meant")));
    }
    let _ = write!(io::stderr(), "{what}. Go on? Type yes: ");
    let mut answer = String::new();
    let read = io::stdin().read_line(&mut answer);
    if read.is_ok() && answer.trim() == "yes" {
        return Ok(());
    }
    Err(Fail::No("nothing was done".to_owned()))
}
