//! A request as a line that a person types: words, some of them in quotes (P-2).
//!
//! As `redis-cli` and Redis do: spaces and tabs part words; `"..."` knows `\n \r \t \b \a \\ \"`
//! and `\xHH`, `'...'` only `\'`; a closing quote ends the word.
//!
//! Not here: where a line ends (`frame`).

use bytes::Bytes;

use crate::error::Refusal;

/// The words of a line.
///
/// # Errors
/// A quote is not closed, or something stands right behind a closing one.
pub fn split(line: &Bytes) -> Result<Vec<Bytes>, Refusal> {
    let (mut words, mut at) = (Vec::new(), 0);
    loop {
        while line.get(at).is_some_and(|byte| is_space(*byte)) {
            at += 1;
        }
        if at == line.len() {
            return Ok(words);
        }
        let end = line[at..].iter().position(|byte| is_space(*byte) || is_quote(*byte));
        let end = end.map_or(line.len(), |end| at + end);
        if line.get(end).is_some_and(|byte| is_quote(*byte)) {
            let (word, behind) = quoted(line, at)?;
            words.push(word);
            at = behind;
        } else {
            // No quotes: the word is a piece of the line.
            words.push(line.slice(at..end));
            at = end;
        }
    }
}

fn is_space(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

fn is_quote(byte: u8) -> bool {
    byte == b'"' || byte == b'\''
}

/// The word at `at`, which has a quote somewhere, and where it ends.
fn quoted(line: &[u8], mut at: usize) -> Result<(Bytes, usize), Refusal> {
    let unbalanced = || Refusal::new("ERR", "unbalanced quotes in the line".to_owned());
    let mut word = Vec::new();
    while let Some(byte) = line.get(at).copied().filter(|byte| !is_space(*byte)) {
        at += 1;
        if !is_quote(byte) {
            word.push(byte);
            continue;
        }
        loop {
            let inner = *line.get(at).ok_or_else(unbalanced)?;
            at += 1;
            match inner {
                _ if inner == byte => break,
                b'\\' if byte == b'"' => {
                    let (escaped, len) = unescape(&line[at..]).ok_or_else(unbalanced)?;
                    word.push(escaped);
                    at += len;
                }
                b'\\' if line.get(at) == Some(&b'\'') => {
                    word.push(b'\'');
                    at += 1;
                }
                _ => word.push(inner),
            }
        }
        if line.get(at).is_some_and(|next| !is_space(*next)) {
            return Err(unbalanced());
        }
    }
    Ok((word.into(), at))
}

/// The byte that stands behind a backslash, and how many bytes say it.
fn unescape(rest: &[u8]) -> Option<(u8, usize)> {
    let hex = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    if let [b'x', high, low, ..] = rest
        && let (Some(high), Some(low)) = (hex(*high), hex(*low))
    {
        return Some((high << 4 | low, 3));
    }
    let byte = match *rest.first()? {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 8,
        b'a' => 7,
        other => other,
    };
    Some((byte, 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_parted_by_spaces_and_kept_together_by_quotes() {
        let words = |line: &'static str| split(&Bytes::from_static(line.as_bytes()));
        assert_eq!(words("APPEND  orders\thello ").unwrap(), ["APPEND", "orders", "hello"]);
        assert_eq!(words(r#"a "b c\x41\n\"" 'd\'e' """#).unwrap(), ["a", "b cA\n\"", "d'e", ""]);
        assert_eq!(words(r#"key="a b""#).unwrap(), ["key=a b"]);
        assert_eq!(words("").unwrap(), [""; 0]);
        for bad in ["\"a", "'a", "\"a\"b", "\"a\\"] {
            assert_eq!(words(bad).unwrap_err().word, "ERR", "{bad}");
        }
    }
}
