//! Metrics without knowing each: for exporters, and as text for people.
//!
//! Not here: what is measured (`metrics`).

use std::fmt;

use crate::metrics::Histogram;

/// What a value is measured in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Unit {
    /// A number of what the name says.
    Count,
    /// Bytes.
    Bytes,
    /// Microseconds.
    Micros,
}

impl Unit {
    /// `count`, `bytes` or `us`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Bytes => "bytes",
            Self::Micros => "us",
        }
    }
}

/// A metric as it is now.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Value<'a> {
    /// Only grows, from 0 when the engine was opened.
    Counter(u64),
    /// What was found when it was asked for.
    Gauge(u64),
    /// How values are spread, since the engine was opened.
    Histogram(&'a Histogram),
}

impl Value<'_> {
    /// `counter`, `gauge` or `histogram`.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::Counter(_) => "counter",
            Self::Gauge(_) => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

/// One metric, or the part of it with one label.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Field<'a> {
    /// Its name: lower case, words parted by `_`, no unit in it. Stands in docs/metrics.md.
    pub name: &'static str,
    /// What it means, in a sentence.
    pub help: &'static str,
    /// What it is measured in.
    pub unit: Unit,
    /// What tells it from others of the same name: (`reason`, `no_space`).
    pub label: Option<(&'static str, &'a str)>,
    /// Its value.
    pub value: Value<'a>,
}

impl Field<'_> {
    fn title(&self) -> String {
        match self.label {
            Some((_, label)) => format!("{}[{label}]", self.name),
            None => self.name.to_owned(),
        }
    }

    fn is_zero(&self) -> bool {
        match self.value {
            Value::Counter(value) | Value::Gauge(value) => value == 0,
            Value::Histogram(histogram) => histogram.count() == 0,
        }
    }
}

/// Writes a line for each field that is not zero, sorted by name.
pub(crate) fn write_fields<'a>(
    f: &mut fmt::Formatter<'_>,
    fields: impl Iterator<Item = Field<'a>>,
) -> fmt::Result {
    let mut shown: Vec<_> = fields.filter(|field| !field.is_zero()).collect();
    shown.sort_by_key(|field| field.name);
    let width = shown.iter().map(|field| field.title().len()).max().unwrap_or(0);
    for field in &shown {
        let say = |value| amount(value, field.unit);
        let title = field.title();
        match field.value {
            Value::Counter(value) | Value::Gauge(value) => {
                writeln!(f, "{title:width$} {:>10}", say(value))?;
            }
            Value::Histogram(all) => {
                let count = amount(all.count(), Unit::Count);
                write!(f, "{title:width$} {count:>10}")?;
                for (name, part) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
                    write!(f, "  {name} {:>9}", say(all.quantile(part)))?;
                }
                writeln!(f, "  max {:>9}", say(all.max()))?;
            }
        }
    }
    Ok(())
}

/// For people: three digits and a unit.
fn amount(value: u64, unit: Unit) -> String {
    let (step, units): (f64, &[&str]) = match unit {
        Unit::Count => (1000.0, &["", " k", " M", " G", " T"]),
        Unit::Bytes => (1024.0, &[" B", " KiB", " MiB", " GiB", " TiB"]),
        Unit::Micros => (1000.0, &[" us", " ms", " s"]),
    };
    // Small numbers are told exactly.
    if value < 10_000 && unit == Unit::Count || (value as f64) < step {
        return format!("{value}{}", units[0]);
    }
    let (mut shown, mut index) = (value as f64, 0);
    while shown >= step && index + 1 < units.len() {
        shown /= step;
        index += 1;
    }
    let digits = if shown < 10.0 { 2 } else { usize::from(shown < 100.0) };
    format!("{shown:.digits$}{}", units[index])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_three_digits_and_a_unit() {
        let said = [
            amount(0, Unit::Count),
            amount(9_999, Unit::Count),
            amount(1_234_567, Unit::Count),
            amount(1023, Unit::Bytes),
            amount(64 << 20, Unit::Bytes),
            amount(999, Unit::Micros),
            amount(1_234, Unit::Micros),
            amount(90_000_000, Unit::Micros),
        ];
        let expected = ["0", "9999", "1.23 M", "1023 B", "64.0 MiB", "999 us", "1.23 ms", "90.0 s"];
        assert_eq!(said, expected);
    }
}
