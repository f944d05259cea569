//! How values are spread: counts of ranges no wider than a hundredth of the value.
//!
//! All memory is allocated when it is made; recording adds to one count. Values above the highest
//! are counted as the highest.
//!
//! Not here: which there are (`metrics`).

use std::fmt;

/// Microseconds up to which times are told apart: one hour.
pub(crate) const MICROS_MAX: u64 = 3_600_000_000;

/// How values are spread, exact to one hundredth.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let engine = oncelog::Options::new(dir.path()).segment_size(1 << 20).open()?;
/// # let log = engine.create_log("log").wait()?;
/// log.append("hello").wait()?;
/// let metrics = engine.metrics().wait()?;
/// let latency = &metrics.total.append_latency;
/// assert_eq!(latency.count(), 1);
/// assert!(latency.quantile(0.99) <= latency.max());
/// assert_eq!(latency.buckets().map(|(_, count)| count).sum::<u64>(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Histogram {
    counts: hdrhistogram::Histogram<u64>,
    sum: u64,
    max: u64,
}

impl Histogram {
    pub(crate) fn new(max: u64) -> Self {
        let counts = hdrhistogram::Histogram::new_with_bounds(1, max, 2);
        Self { counts: counts.expect("the bounds are constants that fit"), sum: 0, max: 0 }
    }

    pub(crate) fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// The same value so many times.
    pub(crate) fn record_n(&mut self, value: u64, count: u64) {
        self.counts.saturating_record_n(value, count);
        self.sum = self.sum.saturating_add(value.saturating_mul(count));
        self.max = self.max.max(value);
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.counts.add(&other.counts).expect("both have the same bounds");
        self.sum = self.sum.saturating_add(other.sum);
        self.max = self.max.max(other.max);
    }

    /// How many values.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.len()
    }

    /// All values added up, exactly.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// The smallest value, rounded down by at most a hundredth; 0 without any.
    #[must_use]
    pub fn min(&self) -> u64 {
        if self.counts.is_empty() { 0 } else { self.counts.min() }
    }

    /// The largest value, exactly; 0 without any.
    #[must_use]
    pub fn max(&self) -> u64 {
        self.max
    }

    /// The mean, 0 without values.
    #[must_use]
    pub fn mean(&self) -> f64 {
        if self.count() == 0 { 0.0 } else { self.sum as f64 / self.count() as f64 }
    }

    /// The value that this part of all values, 0 to 1, does not exceed, rounded up by at most a
    /// hundredth; 0 without values.
    #[must_use]
    pub fn quantile(&self, part: f64) -> u64 {
        self.counts.value_at_quantile(part).min(self.max())
    }

    /// The ranges that have values, upwards: the largest value of each, and how many are in it.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let counted = self.counts.iter_recorded();
        counted.map(|step| (step.value_iterated_to(), step.count_since_last_iteration()))
    }

    /// Bytes of its counts.
    pub(crate) fn bytes(&self) -> usize {
        self.counts.distinct_values() * size_of::<u64>()
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Histogram");
        shown.field("count", &self.count()).field("min", &self.min());
        shown.field("p50", &self.quantile(0.5)).field("p99", &self.quantile(0.99));
        shown.field("max", &self.max()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_exact_to_a_hundredth_and_merging_is_as_if_recorded_in_one() {
        let (mut odd, mut even) = (Histogram::new(MICROS_MAX), Histogram::new(MICROS_MAX));
        assert_eq!((odd.min(), odd.max(), odd.quantile(0.99), odd.count()), (0, 0, 0, 0));
        for value in 1..=100_000_u64 {
            if value % 2 == 0 { even.record(value) } else { odd.record_n(value, 1) }
        }
        odd.add(&even);
        assert_eq!((odd.count(), odd.sum()), (100_000, 100_000 * 100_001 / 2));
        for (part, exact) in [(0.01, 1_000), (0.5, 50_000), (0.99, 99_000), (1.0, 100_000)] {
            let found = odd.quantile(part);
            assert!(found >= exact && found - exact <= exact / 100, "{part}: {found}");
        }
        assert_eq!(odd.buckets().map(|(_, count)| count).sum::<u64>(), 100_000);
    }

    #[test]
    fn values_outside_the_bounds_are_counted_and_nothing_grows() {
        let mut histogram = Histogram::new(1 << 20);
        let before = histogram.bytes();
        histogram.record(0);
        histogram.record_n(u64::MAX, 3);
        assert_eq!((histogram.count(), histogram.bytes()), (4, before));
        assert_eq!(histogram.max(), u64::MAX);
        assert!(histogram.quantile(1.0) >= 1 << 20);
    }
}
