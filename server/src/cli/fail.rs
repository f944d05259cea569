//! Why a command did not end well, and the exit code that says so.
//!
//! Not here: printing it (`out`).

use std::fmt;
use std::io;
use std::path::Path;

use oncelog::{AppendError, CommitError, LogError, OpenError, ProcessorError, ReadError, Stopped};

use crate::client::ClientError;
use crate::error::{Refusal, WORDS};

/// Why a command did not end well.
#[derive(Debug)]
pub(super) enum Fail {
    /// The answer is no: there is damage, or no such thing.
    No(String),
    /// A value on the command line, or in what is imported, cannot be meant.
    Usage(String),
    /// It could not be done.
    Failed(String),
    /// Nobody reads standard output any more.
    Closed,
}

impl Fail {
    pub(super) const NO: u8 = 1;
    pub(super) const USAGE: u8 = 2;
    pub(super) const FAILED: u8 = 3;

    pub(super) fn code(&self) -> u8 {
        match self {
            Self::No(_) => Self::NO,
            Self::Usage(_) => Self::USAGE,
            Self::Failed(_) => Self::FAILED,
            Self::Closed => 0,
        }
    }

    /// For `map_err`: what was tried on which file.
    pub(super) fn io(what: &'static str, path: &Path) -> impl Fn(io::Error) -> Self {
        let path = path.display().to_string();
        move |error| Self::Failed(format!("{what} {path}: {error}"))
    }

    /// The same failure, with more to say behind it.
    pub(super) fn and(self, more: impl fmt::Display) -> Self {
        match self {
            Self::No(why) => Self::No(format!("{why}; {more}")),
            Self::Usage(why) => Self::Usage(format!("{why}; {more}")),
            Self::Failed(why) => Self::Failed(format!("{why}; {more}")),
            Self::Closed => Self::Closed,
        }
    }
}

impl fmt::Display for Fail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::No(why) | Self::Usage(why) | Self::Failed(why) => f.write_str(why),
            Self::Closed => f.write_str("standard output was closed"),
        }
    }
}

impl From<OpenError> for Fail {
    fn from(error: OpenError) -> Self {
        match &error {
            OpenError::Option { .. } => Self::Usage(error.to_string()),
            OpenError::Damaged(_) | OpenError::MissingSegment { .. } => {
                Self::No(format!("{error}, or see what `oncelog repair` would have to give up"))
            }
            _ => Self::Failed(error.to_string()),
        }
    }
}

impl Fail {
    /// The same for what the engine and what a server refused.
    fn refused(word: &str, text: String) -> Self {
        match word {
            "NOLOG" | "NOREADER" | "NOWRITER" | "EXISTS" | "DAMAGED" => Self::No(text),
            "ERR" | "BADNAME" | "GROUP" | "ORDER" | "TOOLARGE" => Self::Usage(text),
            _ => Self::Failed(text),
        }
    }
}

impl From<ClientError> for Fail {
    fn from(error: ClientError) -> Self {
        let text = error.to_string();
        match (error, text.split_once(' ')) {
            (ClientError::Refused(_), Some((word, rest)))
                if WORDS.iter().any(|(known, _)| *known == word) =>
            {
                Self::refused(word, rest.to_owned())
            }
            _ => Self::Failed(text),
        }
    }
}

/// What the engine refused goes by the word that a server has for it.
macro_rules! by_word {
    ($($error:ty),*) => {$(
        impl From<$error> for Fail {
            fn from(error: $error) -> Self {
                let refusal = Refusal::from(error);
                Self::refused(refusal.word, refusal.text)
            }
        }
    )*};
}

by_word!(LogError, ReadError, ProcessorError, CommitError, AppendError, Stopped);
