//! The bytes of a connection, cut into requests: arrays of bulk strings, inline lines, raw lines
//! (P-1).
//!
//! ```text
//! extend(bytes) -> [ buffer ] -> next_request() -> arguments | refused | none yet
//!                            '-> next_lines()   -> raw lines, for a connection that only feeds
//! ```
//!
//! Invariants:
//! - Nothing is looked at twice, however the bytes were split: `at` only grows inside a request.
//! - Limits hold before anything is kept: bytes of a request that is too large are thrown away as
//!   they come, and the connection goes on behind it (P-3).
//! - Only what is whole and of the one allowed shape is given to the decoder.
//!
//! Not here: what arguments mean (`command`), and quoting (`inline`).

use bytes::{Buf, Bytes, BytesMut};
use memchr::memchr;
use redis_protocol::resp2::decode::decode_bytes;
use redis_protocol::resp2::types::BytesFrame;

use crate::error::Refusal;
use crate::inline;

/// What a raw line counts for beside its bytes: a record of its own, and its place in a list.
const LINE_COST: usize = 32;
/// Bytes of memory that are kept for the next requests where none is there.
const KEPT_MAX: usize = 64 << 10;
/// Bytes that are moved to give memory back.
const MOVED_MAX: usize = 4 << 10;
/// Digits of a length, and its type byte and line end.
const LENGTH_LINE_MAX: usize = 16;

/// What a request may be at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLimits {
    /// Bytes of all of it, as sent.
    pub bytes: usize,
    /// How many arguments.
    pub args: usize,
    /// Bytes of an inline request, with its line end.
    pub line: usize,
}

/// What stands next in the input.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Its arguments, at least one.
    Request(Vec<Bytes>),
    /// It was thrown away; the connection goes on behind it.
    Refused(Refusal),
}

/// Bytes that came, and how far they were looked at.
#[derive(Debug, Default)]
pub struct Input {
    buffer: BytesMut,
    /// Where the next element of the request begins, or the search for a line end goes on.
    at: usize,
    /// Arguments of the request that were not seen yet.
    left: Option<usize>,
    /// Bytes that are thrown away before anything is looked at.
    skip: usize,
    /// Why the request that is coming is thrown away.
    refused: Option<Refusal>,
    /// The most memory that the buffer had since it was new.
    most: usize,
}

/// An element of a request.
enum Element {
    /// It is there, and the next one begins here.
    Whole(usize),
    /// More bytes must come.
    Partial,
}

impl Input {
    /// Adds bytes behind those that came before.
    pub fn extend(&mut self, bytes: &[u8]) {
        let skipped = self.skip.min(bytes.len());
        self.skip -= skipped;
        self.buffer.extend_from_slice(&bytes[skipped..]);
        self.most = self.most.max(self.buffer.capacity());
    }

    /// Gives the memory of a large request back once it is gone.
    fn settle(&mut self) {
        if self.most > KEPT_MAX && self.buffer.len() <= MOVED_MAX {
            self.buffer = BytesMut::from(&*self.buffer);
            self.most = self.buffer.capacity();
        }
    }

    /// The request that is coming is not wanted: what came of it goes, and the rest as it comes.
    pub fn refuse(&mut self, refusal: Refusal) {
        self.refused.get_or_insert(refusal);
        self.throw_away(self.at);
    }

    /// Bytes of memory that it takes.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.buffer.capacity()
    }

    /// Bytes that are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Whether no byte is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// The next request, if it is whole.
    ///
    /// # Errors
    /// The bytes are of no request: nothing behind them can be understood any more.
    pub fn next_request(&mut self, limits: &RequestLimits) -> Result<Option<Next>, Refusal> {
        loop {
            let Some(&first) = self.buffer.first() else { return Ok(None) };
            let is_array = self.left.is_some() || first == b'*';
            let is_line = self.left.is_none() && (!is_array || self.refused.is_some());
            let found = if is_line { self.next_line(limits) } else { self.next_array(limits)? };
            match found {
                // An empty line or array asks for nothing.
                Some(Next::Request(args)) if args.is_empty() => {}
                found => return Ok(found),
            }
        }
    }

    fn next_array(&mut self, limits: &RequestLimits) -> Result<Option<Next>, Refusal> {
        if self.left.is_none() {
            let Some((count, behind)) = length_line(&self.buffer, 0, b'*')? else {
                return Ok(None);
            };
            if count > limits.args {
                // Also a count that no memory could hold: nothing is kept of its arguments.
                let text = format!("a request of {count} arguments: the limit is {}", limits.args);
                self.refused = Some(Refusal::new("TOOLARGE", text));
            }
            (self.left, self.at) = (Some(count), behind);
        }
        while let Some(left) = self.left.filter(|left| *left > 0) {
            match self.next_bulk(limits)? {
                Element::Whole(behind) => (self.left, self.at) = (Some(left - 1), behind),
                Element::Partial => return Ok(None),
            }
            if self.refused.is_some() {
                self.throw_away(self.at);
            }
        }
        self.left = None;
        let frame = self.buffer.split_to(std::mem::take(&mut self.at));
        self.settle();
        match self.refused.take() {
            Some(refusal) => Ok(Some(Next::Refused(refusal))),
            None => decode(frame.freeze()).map(|args| Some(Next::Request(args))),
        }
    }

    /// The bulk string at `at`.
    fn next_bulk(&mut self, limits: &RequestLimits) -> Result<Element, Refusal> {
        let Some((len, start)) = length_line(&self.buffer, self.at, b'$')? else {
            return Ok(Element::Partial);
        };
        let behind = start.saturating_add(len).saturating_add(2);
        if behind > limits.bytes && self.refused.is_none() {
            let text = format!(
                "a request of {behind} bytes or more: the limit is {}; split it",
                limits.bytes
            );
            self.refused = Some(Refusal::new("TOOLARGE", text));
        }
        if self.buffer.len() < behind {
            if self.refused.is_some() {
                // The line of its length is gone then: the argument counts as seen.
                self.skip = behind - self.buffer.len();
                return Ok(Element::Whole(self.buffer.len()));
            }
            return Ok(Element::Partial);
        }
        if self.buffer[behind - 2..behind] != *b"\r\n" {
            return Err(broken("a bulk string is not followed by CR LF where its length says"));
        }
        Ok(Element::Whole(behind))
    }

    fn throw_away(&mut self, bytes: usize) {
        self.buffer.advance(bytes);
        self.at = 0;
        self.settle();
    }

    fn next_line(&mut self, limits: &RequestLimits) -> Option<Next> {
        let line = self.take_line(limits.line)?;
        Some(match (self.refused.take(), line) {
            (Some(refusal), _) => Next::Refused(refusal),
            (None, line) => match inline::split(&line) {
                Ok(args) => Next::Request(args),
                Err(refusal) => Next::Refused(refusal),
            },
        })
    }

    fn line_end(&self) -> Option<usize> {
        memchr(b'\n', &self.buffer[self.at..]).map(|end| self.at + end)
    }

    /// The next line without its end. One that is too long is thrown away and leaves `refused`.
    fn take_line(&mut self, max: usize) -> Option<Bytes> {
        let Some(end) = self.line_end() else {
            self.at = self.buffer.len();
            if self.at >= max || self.refused.is_some() {
                self.refused.get_or_insert_with(|| too_long(max));
                self.throw_away(self.at);
            }
            return None;
        };
        if end >= max {
            self.refused.get_or_insert_with(|| too_long(max));
        }
        let mut line = self.buffer.split_to(end + 1).freeze();
        self.at = 0;
        self.settle();
        line.truncate(end);
        if line.last() == Some(&b'\r') {
            line.truncate(end - 1);
        }
        Some(line)
    }

    /// Raw lines without their ends: at most `bytes_max` bytes of them, or one.
    ///
    /// # Errors
    /// The line behind those that were given before is longer than `line_max`.
    pub fn next_lines(&mut self, line_max: usize, bytes_max: usize) -> Result<Vec<Bytes>, Refusal> {
        let (mut lines, mut bytes) = (Vec::new(), 0);
        while self.refused.is_none() {
            let line = self.line_end().unwrap_or(0);
            if bytes > 0 && bytes + line + LINE_COST > bytes_max {
                break;
            }
            // The line that was too long is refused once those before it were taken.
            let Some(line) = self.take_line(line_max) else { break };
            if self.refused.is_none() {
                // Also an empty one costs something.
                bytes += line.len() + LINE_COST;
                lines.push(line);
            }
        }
        match (&self.refused, lines.is_empty()) {
            (Some(refusal), true) => Err(refusal.clone()),
            _ => Ok(lines),
        }
    }
}

/// The arguments of a request that is known to be whole and an array of bulk strings.
fn decode(frame: Bytes) -> Result<Vec<Bytes>, Refusal> {
    let unexpected = || broken("a request is an array of bulk strings");
    let decoded = decode_bytes(&frame).map_err(|error| broken(&error.to_string()))?;
    let Some((BytesFrame::Array(args), _)) = decoded else { return Err(unexpected()) };
    let bulk = |arg| match arg {
        BytesFrame::BulkString(bytes) => Ok(bytes),
        _ => Err(unexpected()),
    };
    args.into_iter().map(bulk).collect()
}

/// A length behind a type byte, and where its line ends; `None` while it is not whole.
fn length_line(buffer: &[u8], at: usize, kind: u8) -> Result<Option<(usize, usize)>, Refusal> {
    let line = &buffer[at..];
    let Some(&first) = line.first() else { return Ok(None) };
    if first != kind {
        let (wanted, got) = (char::from(kind), first.escape_ascii());
        return Err(broken(&format!("expected '{wanted}', got '{got}'")));
    }
    let head = &line[..line.len().min(LENGTH_LINE_MAX)];
    let Some(end) = head.iter().position(|byte| *byte == b'\n') else {
        if head.len() == LENGTH_LINE_MAX {
            return Err(broken("a length has too many digits"));
        }
        return Ok(None);
    };
    let digits = line[1..end].strip_suffix(b"\r").unwrap_or_default();
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let number = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
    match number.filter(|_| is_number) {
        Some(number) => Ok(Some((number, at + end + 1))),
        None => Err(broken("a length is decimal digits, then CR LF")),
    }
}

fn broken(what: &str) -> Refusal {
    Refusal::new("ERR", format!("Protocol error: {what}; the connection is closed"))
}

fn too_long(max: usize) -> Refusal {
    Refusal::new("TOOLARGE", format!("a line of {max} bytes or more: the limit is {max}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: RequestLimits = RequestLimits { bytes: 64, args: 4, line: 32 };

    fn all(input: &mut Input) -> Vec<Next> {
        std::iter::from_fn(|| input.next_request(&LIMITS).unwrap()).collect()
    }

    fn request(args: &[&'static str]) -> Next {
        Next::Request(args.iter().map(|arg| Bytes::from_static(arg.as_bytes())).collect())
    }

    fn word(next: &Next) -> &str {
        match next {
            Next::Refused(refusal) => refusal.word,
            Next::Request(_) => "a request",
        }
    }

    #[test]
    fn requests_are_the_same_however_their_bytes_are_split() {
        let bytes = b"*2\r\n$4\r\nPING\r\n$2\r\n\r\n\r\nECHO 'a b'\n\r\n*0\r\n*1\r\n$4\r\nQUIT\r\n";
        let wanted = [request(&["PING", "\r\n"]), request(&["ECHO", "a b"]), request(&["QUIT"])];
        for at in 0..=bytes.len() {
            let mut input = Input::default();
            input.extend(&bytes[..at]);
            let mut found = all(&mut input);
            input.extend(&bytes[at..]);
            found.append(&mut all(&mut input));
            assert_eq!(found, wanted, "split at {at}");
            assert!(input.is_empty());
        }
    }

    #[test]
    fn what_is_too_large_is_thrown_away_as_it_comes_and_the_next_request_is_understood() {
        for bytes in [
            &b"*3\r\n$1\r\na\r\n$99\r\n"[..],
            &b"*9\r\n$1\r\na\r\n$1\r\na\r\n$1\r\na\r\n$1\r\na\r\n$1\r\na\r\n$1\r\na\r\n$1\r\na\r\n"
                [..],
        ] {
            for step in [1, 7, 1000] {
                let is_args = bytes.starts_with(b"*9");
                let rest = if is_args { "$1\r\nb\r\n".to_owned() } else { "x".repeat(99) + "\r\n" };
                let rest = rest + "$1\r\nz\r\n" + "PING\n";
                let whole = [bytes, rest.as_bytes()].concat();
                let (mut input, mut found) = (Input::default(), Vec::new());
                for part in whole.chunks(step) {
                    input.extend(part);
                    found.append(&mut all(&mut input));
                    assert!(input.len() <= LIMITS.bytes + step, "{} are kept", input.len());
                }
                assert_eq!(word(&found[0]), "TOOLARGE");
                assert_eq!(found[1..], [request(&["PING"])]);
            }
        }
    }

    #[test]
    fn an_endless_line_is_not_kept() {
        let mut input = Input::default();
        for _ in 0..1000 {
            input.extend(&[b'x'; 10]);
            assert!(all(&mut input).is_empty());
            assert!(input.len() <= LIMITS.line + 10);
        }
        input.extend(b"end\nPING\n");
        let found = all(&mut input);
        assert_eq!(word(&found[0]), "TOOLARGE");
        assert_eq!(found[1..], [request(&["PING"])]);
    }

    #[test]
    fn what_is_no_request_ends_the_connection() {
        for bytes in [
            "*1\r\n:1\r\n",
            "*1\r\n*1\r\n",
            "*x\r\n",
            "*-1\r\n",
            "*1\r\n$1\r\nabc",
            "*1\n",
            "*99999999999999999999\r\n",
            "*1\r\n$-1\r\n",
        ] {
            let mut input = Input::default();
            input.extend(bytes.as_bytes());
            let refusal = input.next_request(&LIMITS).expect_err(bytes);
            assert!(refusal.text.starts_with("Protocol error"), "{bytes}: {refusal}");
        }
    }

    #[test]
    fn raw_lines_come_in_groups_and_one_that_is_too_long_is_told_behind_those_before_it() {
        let mut input = Input::default();
        input.extend(b"one\r\n\ntwo\nthree");
        assert_eq!(input.next_lines(8, 1000).unwrap(), ["one", "", "two"]);
        assert!(input.next_lines(8, 1000).unwrap().is_empty());
        input.extend(b"\nfour\n123456789\n");
        assert_eq!(input.next_lines(8, 6).unwrap(), ["three"]);
        assert_eq!(input.next_lines(8, 6).unwrap(), ["four"]);
        assert_eq!(input.next_lines(8, 1000).unwrap_err().word, "TOOLARGE");
    }
}
