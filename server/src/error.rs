//! What a client is told when something was refused: a stable word, then a sentence (P-8).
//!
//! Programs look at the word, people read the sentence. Words are never reused for something else.
//!
//! Not here: what can go wrong in the engine (its own errors say that), and the protocol's page.

use std::fmt;

use oncelog::{AppendError, CommitError, LogError, ProcessorError, ReadError, Stopped};

/// Every word, and what it says about the data and about what to do (P-27).
pub const WORDS: &[(&str, &str)] = &[
    ("ERR", "the request is not one; nothing was done"),
    ("NOAUTH", "say who you are first: AUTH"),
    ("WRONGPASS", "no such user, or another password"),
    ("NOPERM", "the user may not do this there"),
    ("NOPROTO", "HELLO knows protocols 2 and 3"),
    ("BADNAME", "the name is not one of a log, group or processor"),
    ("NOLOG", "there is no log of that name, or no longer; CREATE it"),
    ("NOREADER", "there is no processor of that name; CLAIM makes it"),
    ("NOWRITER", "the log has no writer of that name; WRITER OPEN makes it"),
    ("EXISTS", "there is one of that name"),
    ("INUSE", "somebody needs it; they are named"),
    ("GROUP", "logs of more than one group: nothing is atomic over groups"),
    ("FENCED", "a newer owner is there: stop, nothing was written"),
    ("UNCLAIMED", "nobody owns the processor here, since a start or a refusal; CLAIM it"),
    ("OWNED", "the log has another owner; nothing was written"),
    ("SEALED", "the log was sealed; nothing was written"),
    ("END", "the log is sealed, and everything was read"),
    ("ORDER", "a number, transaction id or position does not follow; nothing was written"),
    ("FORGOTTEN", "the number is too old to tell whether it was written"),
    ("VERSION", "the options changed meanwhile; look again"),
    ("BUSY", "too much at once; nothing was written, come back"),
    ("TOOLARGE", "larger than a stated limit; nothing was written"),
    ("LIMIT", "a limit of the server or of the metadata; nothing was written"),
    ("NOSPACE", "the disk is full; nothing was written, reads and truncation go on"),
    ("TRUNCATED", "the records were truncated; the first one is named"),
    ("DAMAGED", "the records are damaged on the disk; nothing of them was given"),
    ("IO", "the disk did not give the records; try again"),
    ("STOPPED", "the server or the shard stops; what was acknowledged is durable"),
];

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Refusal {
    /// One of [`WORDS`].
    pub word: &'static str,
    /// The sentence.
    pub text: String,
}

impl Refusal {
    /// A refusal.
    #[must_use]
    pub fn new(word: &'static str, text: impl Into<String>) -> Self {
        debug_assert!(WORDS.iter().any(|(known, _)| *known == word), "{word} is no word");
        Self { word, text: text.into() }
    }

    /// The place of its word in [`WORDS`].
    #[must_use]
    pub fn index(&self) -> usize {
        let place = WORDS.iter().position(|(word, _)| *word == self.word);
        place.expect("every refusal has one of the words")
    }

    /// As one line of the protocol.
    #[must_use]
    pub fn line(&self) -> String {
        // A line end inside would end the reply.
        format!("{} {}", self.word, self.text).replace(['\r', '\n'], " ")
    }

    /// A log has an owner, and it is somebody else. Says what to do in words of commands.
    fn owned(own: u64, owner: u64) -> Self {
        match (own, owner) {
            (0, _) => {
                let what = "nothing was written; stop, or OWN it and append as OWNER";
                Self::new("OWNED", format!("epoch {owner} owns the log; {what}"))
            }
            (_, 0) => {
                let text = format!("nobody owns the log, and epoch {own} no longer; stop");
                Self::new("FENCED", text)
            }
            _ => Self::new("FENCED", format!("epoch {owner} owns the log, not epoch {own}; stop")),
        }
    }

    fn of(word: &'static str, error: &impl fmt::Display) -> Self {
        Self::new(word, error.to_string())
    }
}

/// What a peer sent, in a sentence: its beginning, readable.
#[must_use]
pub fn shown(bytes: &[u8]) -> String {
    const SHOWN_MAX: usize = 40;
    let cut = if bytes.len() > SHOWN_MAX { ".." } else { "" };
    format!("{}{cut}", bytes[..bytes.len().min(SHOWN_MAX)].escape_ascii())
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line())
    }
}

impl From<Stopped> for Refusal {
    fn from(error: Stopped) -> Self {
        Self::of("STOPPED", &error)
    }
}

impl From<AppendError> for Refusal {
    fn from(error: AppendError) -> Self {
        use AppendError as E;
        let word = match &error {
            E::TooLarge { .. } | E::BatchTooLarge { .. } => "TOOLARGE",
            E::Owned { own, owner, .. } => return Self::owned(own.get(), owner.get()),
            E::TxIdDecreased { .. } | E::NumberOutOfOrder { .. } => "ORDER",
            E::OtherGroup { .. } => "GROUP",
            E::Busy { .. } | E::OverCapacity { .. } => "BUSY",
            E::Sealed { .. } => "SEALED",
            E::WriterFenced { .. } => "FENCED",
            E::UnknownWriter { .. } => "NOWRITER",
            E::NumberForgotten { .. } => "FORGOTTEN",
            E::Dropped => "NOLOG",
            E::NoSpace(_) => "NOSPACE",
            E::Stopped(_) => "STOPPED",
            _ => "ERR",
        };
        Self::of(word, &error)
    }
}

impl From<LogError> for Refusal {
    fn from(error: LogError) -> Self {
        use LogError as E;
        let word = match &error {
            E::Name(_) => "BADNAME",
            E::Exists { .. } => "EXISTS",
            E::NoSuchLog { .. } | E::Dropped => "NOLOG",
            E::OptionsChanged { .. } => "VERSION",
            E::OtherGroup { .. } => "GROUP",
            E::Sealed { .. } => "SEALED",
            E::Owned { own, owner, .. } => return Self::owned(own.get(), owner.get()),
            E::NoSuchWriter { .. } => "NOWRITER",
            E::InUse { .. } | E::Needed { .. } => "INUSE",
            E::BeyondEnd { .. } => "ORDER",
            E::TooMany { .. } => "LIMIT",
            E::NoSpace(_) => "NOSPACE",
            E::Stopped(_) => "STOPPED",
            _ => "ERR",
        };
        Self::of(word, &error)
    }
}

impl From<ReadError> for Refusal {
    fn from(error: ReadError) -> Self {
        use ReadError as E;
        let word = match &error {
            E::Truncated { .. } => "TRUNCATED",
            E::Dropped => "NOLOG",
            E::End { .. } => "END",
            E::Gap { .. } | E::Damaged { .. } => "DAMAGED",
            E::Io { .. } => "IO",
            E::Stopped(_) => "STOPPED",
            _ => "ERR",
        };
        Self::of(word, &error)
    }
}

impl From<ProcessorError> for Refusal {
    fn from(error: ProcessorError) -> Self {
        use ProcessorError as E;
        let word = match &error {
            E::Name(_) => "BADNAME",
            E::NoSuchLog { .. } => "NOLOG",
            E::NoSuchProcessor { .. } => "NOREADER",
            E::OtherGroup { .. } => "GROUP",
            E::TooMany { .. } => "LIMIT",
            E::Damaged(_) => "DAMAGED",
            E::Io(_) => "IO",
            E::Fenced { .. } => "FENCED",
            E::NoSpace(_) => "NOSPACE",
            E::Stopped(_) => "STOPPED",
            _ => "ERR",
        };
        Self::of(word, &error)
    }
}

impl From<CommitError> for Refusal {
    fn from(error: CommitError) -> Self {
        use CommitError as E;
        let word = match &error {
            E::Fenced { .. } => "FENCED",
            E::Ended => "UNCLAIMED",
            E::Overtaken { .. } | E::Position { .. } => "ORDER",
            E::Output(error) => Self::from(error.clone()).word,
            E::TooLarge { .. } => "TOOLARGE",
            E::Dropped => "NOREADER",
            E::NoSpace(_) => "NOSPACE",
            E::Stopped(_) => "STOPPED",
            _ => "ERR",
        };
        Self::of(word, &error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_peer_sent_is_shown_shortly() {
        assert_eq!(shown(b"a\r\xff"), "a\\r\\xff");
        assert_eq!(shown(&[b'x'; 1000]).len(), 42);
    }

    #[test]
    fn words_are_there_once_and_are_words() {
        for (index, (word, meaning)) in WORDS.iter().enumerate() {
            assert!(word.bytes().all(|byte| byte.is_ascii_uppercase()), "{word}");
            assert_eq!(Refusal::new(word, "x").index(), index, "{word} is there twice");
            assert!(!meaning.is_empty());
        }
    }
}
