//! Text for people and browsers: escaped names, numbers with units, parts of a query.
//!
//! Not here: what is said (`page`).

use std::fmt;
use std::time::Duration;

/// A text inside HTML, or inside an attribute in double quotes.
pub(super) struct Esc<'a>(pub(super) &'a str);

impl fmt::Display for Esc<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in self.0.split_inclusive(['&', '<', '>', '"', '\'']) {
            let special = part.chars().next_back().and_then(|last| match last {
                '&' => Some("&amp;"),
                '<' => Some("&lt;"),
                '>' => Some("&gt;"),
                '"' => Some("&quot;"),
                '\'' => Some("&#39;"),
                _ => None,
            });
            let plain = if special.is_some() { &part[..part.len() - 1] } else { part };
            f.write_str(plain)?;
            f.write_str(special.unwrap_or_default())?;
        }
        Ok(())
    }
}

/// A text as a value in the query of a link.
pub(super) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut decoded, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(byte) = bytes.get(at) {
        let hex = text.get(at + 1..at + 3).filter(|_| *byte == b'%');
        // What is no escape stands for itself.
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(escaped) => {
                decoded.push(escaped);
                at += 3;
            }
            None => {
                decoded.push(if *byte == b'+' { b' ' } else { *byte });
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// The value of a key in a query; empty if it is not there.
pub(super) fn query_value(query: &str, key: &str) -> String {
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let mut values = pairs.filter(|(own, _)| *own == key).map(|(_, value)| decode(value));
    values.next().unwrap_or_default()
}

/// A number with its digits in groups.
pub(super) fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut grouped = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

fn scaled(value: f64, step: f64, units: &[&str]) -> String {
    let (mut shown, mut unit) = (value, 0);
    while shown >= step && unit + 1 < units.len() {
        shown /= step;
        unit += 1;
    }
    let digits = if unit == 0 && shown.fract() == 0.0 || shown >= 100.0 {
        0
    } else {
        1 + usize::from(shown < 10.0)
    };
    format!("{shown:.digits$}{}", units[unit])
}

/// Bytes with three digits.
pub(super) fn bytes(value: u64) -> String {
    scaled(value as f64, 1024.0, &[" B", " KiB", " MiB", " GiB", " TiB"])
}

/// Bytes in a second.
pub(super) fn byte_rate(value: f64) -> String {
    format!("{}/s", bytes(value.round() as u64))
}

/// So many in a second, with three digits.
pub(super) fn rate(value: f64) -> String {
    let value = if value >= 100.0 { value.round() } else { value };
    if (100.0..100_000.0).contains(&value) {
        return count(value as u64);
    }
    scaled(value, 1000.0, &["", " k", " M", " G"])
}

/// Microseconds with three digits.
pub(super) fn micros(value: u64) -> String {
    scaled(value as f64, 1000.0, &[" µs", " ms", " s"])
}

/// A long time in its two largest units.
pub(super) fn age(time: Duration) -> String {
    let seconds = time.as_secs();
    let units = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];
    let first = units.iter().position(|(unit, _)| seconds >= *unit).unwrap_or(3);
    let (unit, name) = units[first];
    match units.get(first + 1) {
        Some((next, small)) if seconds % unit / next > 0 => {
            format!("{} {name} {} {small}", seconds / unit, seconds % unit / next)
        }
        _ => format!("{} {name}", seconds / unit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_gets_out_of_an_element_or_an_attribute() {
        let shown = Esc("</td><script>\"x\" & 'y'").to_string();
        assert_eq!(shown, "&lt;/td&gt;&lt;script&gt;&quot;x&quot; &amp; &#39;y&#39;");
        assert_eq!(Esc("shop/orders é").to_string(), "shop/orders é");
    }

    #[test]
    fn queries_are_decoded_and_what_is_no_escape_stands_for_itself() {
        let query = "a&prefix=shop%2Forders+%C3%A9&after=100%&prefix=second";
        assert_eq!(query_value(query, "prefix"), "shop/orders é");
        assert_eq!(query_value(query, "after"), "100%");
        assert_eq!((query_value(query, "a"), query_value(query, "none")), <_>::default());
        assert_eq!(query_value("p=%zz%é%f", "p"), "%zz%é%f");
        for text in ["a/b-c_d.e", "x y&z=1%20\"é"] {
            assert_eq!(query_value(&format!("p={}", encode(text)), "p"), text);
        }
    }

    #[test]
    fn numbers_have_units_and_few_digits() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0, 1023, 1536, 5 << 30].map(bytes), ["0 B", "1023 B", "1.50 KiB", "5.00 GiB"]);
        assert_eq!([0.0, 0.25, 12.34, 99_999.4].map(rate), ["0", "0.25", "12.3", "99,999"]);
        assert_eq!([250_000.0, 1.5e6].map(rate), ["250 k", "1.50 M"]);
        assert_eq!([7, 1_500, 90_000_000].map(micros), ["7 µs", "1.50 ms", "90.0 s"]);
        let ages = [0, 59, 61, 3_600, 90_061].map(|s| age(Duration::from_secs(s)));
        assert_eq!(ages, ["0 s", "59 s", "1 min 1 s", "1 h", "1 d 1 h"]);
    }
}
