//! What a server says while it runs, on its standard error: lines for people, or JSON for programs.
//!
//! Names of logs, addresses and errors are said. Payloads, passwords and keys are never given to
//! `tracing` anywhere, at no level.
//!
//! Not here: what is said, and when.

use std::fmt;
use std::io::{IsTerminal, stderr};
use std::str::FromStr;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt as lines;
use tracing_subscriber::util::SubscriberInitExt;

/// How it is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Lines for people, coloured where they go to a terminal and `NO_COLOR` is not set.
    #[default]
    Human,
    /// One JSON object in each line.
    Json,
}

impl FromStr for Format {
    type Err = LoggingError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "human" => Ok(Self::Human),
            "json" => Ok(Self::Json),
            _ => Err(LoggingError::Format(text.to_owned())),
        }
    }
}

/// Logging could not begin. Nothing is said then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoggingError {
    /// There is no such format.
    Format(String),
    /// The filter is not one.
    Filter {
        /// The filter.
        filter: String,
        /// What is wrong with it.
        why: String,
    },
    /// This process logs already.
    Twice,
}

impl fmt::Display for LoggingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Format(format) => {
                write!(f, "there is no log format {format:?}: it is human or json")
            }
            Self::Filter { filter, why } => write!(
                f,
                "the log filter {filter:?} is not one ({why}): write a level (error, warn, info, \
                 debug, trace, off), or target=level,..."
            ),
            Self::Twice => f.write_str("this process logs already: begin once"),
        }
    }
}

impl std::error::Error for LoggingError {}

/// Begins to log, for the whole process. `filter` is a level, or `target=level` with commas
/// between.
///
/// # Errors
/// [`LoggingError`]
pub fn init(format: Format, filter: &str) -> Result<(), LoggingError> {
    let parsed = EnvFilter::builder().parse(filter).map_err(|error| LoggingError::Filter {
        filter: filter.to_owned(),
        why: error.to_string(),
    })?;
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let lines = lines().with_writer(stderr).with_env_filter(parsed);
    let begun = match format {
        Format::Human => lines.with_ansi(stderr().is_terminal() && !no_color).finish().try_init(),
        Format::Json => lines.json().flatten_event(true).finish().try_init(),
    };
    begun.map_err(|_| LoggingError::Twice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_format_or_filter_is_refused_with_what_would_be_one() {
        assert_eq!("json".parse(), Ok(Format::Json));
        let error = "xml".parse::<Format>().unwrap_err().to_string();
        assert!(error.contains("human or json"), "{error}");
        let error = init(Format::Human, "oncelog=loud").unwrap_err().to_string();
        assert!(error.contains("oncelog=loud") && error.contains("warn"), "{error}");
    }
}
