//! What people and programs are told.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Between two progress lines on a terminal.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// Plain lines; on a terminal also one that is written again and again.
pub(crate) struct Console {
    /// The standard output belongs to JSON.
    to_stderr: bool,
    rewrites: bool,
    shown: Option<Instant>,
}

impl Console {
    pub(crate) fn new(json: bool) -> Self {
        let (to_stderr, shown) = (json, None);
        let rewrites =
            if json { std::io::stderr().is_terminal() } else { std::io::stdout().is_terminal() };
        Self { to_stderr, rewrites, shown }
    }

    pub(crate) fn line(&mut self, text: &str) {
        let erase = if self.shown.take().is_some() { "\r\x1b[K" } else { "" };
        self.write(&format!("{erase}{text}\n"));
    }

    pub(crate) fn progress(&mut self, text: impl FnOnce() -> String) {
        if self.rewrites && self.shown.is_none_or(|shown| shown.elapsed() >= PROGRESS_EVERY) {
            self.shown = Some(Instant::now());
            self.write(&format!("\r\x1b[K{}", text()));
        }
    }

    fn write(&self, text: &str) {
        // Who reads this has gone: that is no reason not to finish.
        let _ = if self.to_stderr {
            std::io::stderr().write_all(text.as_bytes())
        } else {
            let mut stdout = std::io::stdout().lock();
            stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())
        };
    }
}

/// Figures in order, each with a key for programs and words for people.
#[derive(Default)]
pub(crate) struct Report(Vec<(&'static str, &'static str, Value)>);

impl Report {
    pub(crate) fn add(&mut self, key: &'static str, words: &'static str, value: impl Into<Value>) {
        self.0.push((key, words, value.into()));
    }

    pub(crate) fn table(&self) -> String {
        let width = self.0.iter().map(|(_, words, _)| words.len()).max().unwrap_or(0);
        let mut table = String::new();
        for (_, words, value) in &self.0 {
            let value = match (value.as_u64(), value.as_f64(), value.as_str()) {
                (Some(count), _, _) => grouped(count),
                (None, Some(number), _) => format!("{number:.1}"),
                (None, None, text) => text.unwrap_or("?").to_owned(),
            };
            let _ = writeln!(table, "  {words:width$}  {value}");
        }
        table
    }

    pub(crate) fn json(&self) -> String {
        let pairs = self.0.iter().map(|(key, _, value)| ((*key).to_owned(), value.clone()));
        format!("{:#}", Value::Object(pairs.collect()))
    }
}

/// `1234567` as `1 234 567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}
