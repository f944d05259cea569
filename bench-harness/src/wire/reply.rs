//! Counts answers in what comes from a server, and looks no further into them than it must.
//!
//! ```text
//! bytes -> header line | body, skipped -> Answer { payloads, integer }
//!              |                          an array counts its elements until all are there
//!              '- error: the end
//! ```
//!
//! Invariants:
//! - Bytes may be cut anywhere; nothing is kept but the part of a header line.
//! - An error, or an answer of another kind than expected, ends it with the server's words.
//!
//! Not here: sockets, time.

use anyhow::{Result, bail, ensure};

/// A header line is a few bytes, and an error message a few hundred.
const LINE_MAX: usize = 64 << 10;
/// More elements or bytes than any answer has.
const LENGTH_MAX: u64 = 1 << 32;

/// One whole answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    /// Bulk strings in it that are as long as a payload.
    pub(super) payloads: u64,
    /// Its value if it is an integer.
    pub(super) integer: u64,
}

/// The answers of one connection.
#[derive(Debug)]
pub(super) struct Answers {
    /// How an answer begins.
    expected: u8,
    payload_len: u64,
    /// The begin of a header line.
    line: Vec<u8>,
    /// Bytes of a body that are still to come.
    skip: u64,
    /// Elements that are still to come; 0 between answers.
    open: u64,
    answer: Answer,
}

impl Answers {
    /// Answers that begin with `expected`, with payloads of so many bytes.
    pub(super) fn new(expected: u8, payload_len: u64) -> Self {
        let (line, answer) = (Vec::new(), Answer::default());
        Self { expected, payload_len, line, skip: 0, open: 0, answer }
    }

    /// Takes what has come; `each` hears of every answer that is whole.
    ///
    /// # Errors
    /// What the server says, and those of `each`.
    pub(super) fn feed(
        &mut self,
        mut bytes: &[u8],
        mut each: impl FnMut(Answer) -> Result<()>,
    ) -> Result<()> {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len() as u64);
                self.skip -= skipped;
                bytes = &bytes[skipped as usize..];
                if self.skip == 0 {
                    self.element(&mut each)?;
                }
                continue;
            }
            let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
                ensure!(self.line.len() + bytes.len() < LINE_MAX, "a header of {LINE_MAX} bytes");
                self.line.extend_from_slice(bytes);
                return Ok(());
            };
            let (line, rest) = bytes.split_at(end + 1);
            bytes = rest;
            if self.line.is_empty() {
                self.header(line, &mut each)?;
            } else {
                let mut whole = std::mem::take(&mut self.line);
                whole.extend_from_slice(line);
                self.header(&whole, &mut each)?;
                whole.clear();
                self.line = whole;
            }
        }
        Ok(())
    }

    fn header(&mut self, line: &[u8], each: &mut impl FnMut(Answer) -> Result<()>) -> Result<()> {
        let shown = || String::from_utf8_lossy(line).trim_end().to_owned();
        let Some([kind, rest @ ..]) = line.strip_suffix(b"\r\n") else {
            bail!("the server sends {:?}, which is no answer", shown());
        };
        ensure!(!matches!(kind, b'-' | b'!'), "the server answers {}", shown());
        if self.open == 0 {
            let expected = char::from(self.expected);
            ensure!(*kind == self.expected, "the server answers {}, not {expected}..", shown());
            self.open = 1;
        }
        match kind {
            b':' => {
                self.answer.integer = number(rest).unwrap_or(0);
                self.element(each)
            }
            b'+' | b',' | b'#' | b'_' => self.element(each),
            b'$' | b'=' | b'*' | b'~' | b'>' | b'%' => {
                let Some(length) = number(rest).filter(|length| *length < LENGTH_MAX) else {
                    ensure!(rest == b"-1", "the server sends {:?}, which has no length", shown());
                    return self.element(each);
                };
                match kind {
                    b'$' | b'=' => {
                        self.answer.payloads += u64::from(length == self.payload_len);
                        self.skip = length + 2;
                        return Ok(());
                    }
                    b'%' => self.open += 2 * length,
                    _ => self.open += length,
                }
                self.element(each)
            }
            _ => bail!("the server sends {:?}, which is no answer", shown()),
        }
    }

    /// An element is whole, or the head of an array whose elements are counted by now.
    fn element(&mut self, each: &mut impl FnMut(Answer) -> Result<()>) -> Result<()> {
        self.open -= 1;
        if self.open > 0 {
            return Ok(());
        }
        each(std::mem::take(&mut self.answer))
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    let is_number =
        !digits.is_empty() && digits.len() < 20 && digits.iter().all(u8::is_ascii_digit);
    let add = |sum: u64, digit: &u8| sum.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
    is_number.then(|| digits.iter().fold(0, add))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(answers: &mut Answers, pieces: &[&[u8]]) -> Result<Vec<(u64, u64)>> {
        let mut found = Vec::new();
        for piece in pieces {
            answers.feed(piece, |answer| {
                found.push((answer.payloads, answer.integer));
                Ok(())
            })?;
        }
        Ok(found)
    }

    #[test]
    fn answers_are_counted_wherever_the_bytes_are_cut() {
        let read = b"*2\r\n*4\r\n:7\r\n:0\r\n:1\r\n$5\r\na\r\nbc\r\n\
            *4\r\n:8\r\n_\r\n:1\r\n$5\r\n12345\r\n";
        let text = [&read[..], b"*0\r\n", b"*-1\r\n", read].concat();
        let expected = [2, 0, 0, 2];
        for cut in 0..text.len() {
            let (one, other) = text.split_at(cut);
            let found = all(&mut Answers::new(b'*', 5), &[one, other]).unwrap();
            assert_eq!(found.iter().map(|(records, _)| *records).collect::<Vec<_>>(), expected);
        }
        let single: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(all(&mut Answers::new(b'*', 5), &single).unwrap().len(), 4);
    }

    #[test]
    fn integers_and_strings_are_answers_with_their_value() {
        let found = all(&mut Answers::new(b':', 1), &[b":0\r\n:12", b"34\r\n"]).unwrap();
        assert_eq!(found, [(0, 0), (0, 1234)]);
        let found = all(&mut Answers::new(b'$', 4), &[b"$3\r\n1-1\r\n$0\r\n\r\n"]).unwrap();
        assert_eq!(found, [(0, 0), (0, 0)]);
        let entry = b"*1\r\n*2\r\n$3\r\n1-1\r\n%1\r\n$1\r\nd\r\n$4\r\nabcd\r\n";
        assert_eq!(all(&mut Answers::new(b'*', 4), &[entry]).unwrap(), [(1, 0)]);
    }

    #[test]
    fn an_error_or_another_kind_of_answer_ends_it_with_the_servers_words() {
        let error = |text: &[u8]| {
            all(&mut Answers::new(b':', 1), &[b":1\r\n", text]).unwrap_err().to_string()
        };
        assert!(error(b"-NOLOG no such log\r\n").contains("-NOLOG no such log"));
        assert!(error(b"+QUEUED\r\n").contains("+QUEUED, not :"));
        assert!(error(b"HTTP/1.1 400\r\n").contains("HTTP"));
        let inner = all(&mut Answers::new(b'*', 1), &[b"*2\r\n:1\r\n-IO the disk\r\n"]);
        assert!(inner.unwrap_err().to_string().contains("-IO the disk"));
        assert!(all(&mut Answers::new(b'$', 1), &[b"$x\r\n"]).is_err());
        assert!(all(&mut Answers::new(b'$', 1), &[&[b'$'; LINE_MAX]]).is_err());
    }
}
