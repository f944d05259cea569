//! Which way to make writes durable, chosen when the shard is opened and watched while it runs.
//!
//! `RWF_DSYNC` on each write is faster, and a third of the processor time, nearly everywhere.
//! Without FUA it needs a kernel worker after each write to send the flush, and where that worker's
//! core is busy it waits a whole scheduler tick, again and again. Then plain writes followed by one
//! `fdatasync` are faster. So: start with the first, change to the second after several writes in a
//! row took as long as a tick, try the first again after a while.
//!
//! Not here: the rule that a change waits until nothing is in flight (`commit`).

/// How writes are made durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncMethod {
    /// Each write carries `RWF_DSYNC`.
    #[default]
    Dsync,
    /// Plain writes; one `fdatasync` covers all that completed before it.
    Fdatasync,
}

/// Longer than a healthy flush, no longer than a scheduler tick.
const SLOW_US: u64 = 2_500;
/// So many slow ones, less the quick ones between them, and the method changes.
const SLOW_MAX: u32 = 6;
const RETRY_US_MIN: u64 = 5_000_000;
const RETRY_US_MAX: u64 = 320_000_000;

/// The choice.
#[derive(Debug)]
pub struct SyncPolicy {
    method: SyncMethod,
    watched: bool,
    slow: u32,
    retry_after_us: u64,
    retry_at_us: u64,
}

impl SyncPolicy {
    /// Always this method.
    #[must_use]
    pub fn always(method: SyncMethod) -> Self {
        let (slow, retry_after_us, retry_at_us) = (0, RETRY_US_MIN, 0);
        Self { method, watched: false, slow, retry_after_us, retry_at_us }
    }

    /// `RWF_DSYNC` while it does well.
    #[must_use]
    pub fn watched() -> Self {
        Self { watched: true, ..Self::always(SyncMethod::Dsync) }
    }

    /// The method for writes when nothing is in flight.
    pub fn choose(&mut self, now_us: u64) -> SyncMethod {
        if self.watched {
            match self.method {
                SyncMethod::Dsync if self.slow >= SLOW_MAX => {
                    self.method = SyncMethod::Fdatasync;
                    self.retry_at_us = now_us + self.retry_after_us;
                    self.retry_after_us = (self.retry_after_us * 2).min(RETRY_US_MAX);
                }
                SyncMethod::Fdatasync if now_us >= self.retry_at_us => {
                    self.method = SyncMethod::Dsync;
                    self.slow = 0;
                }
                SyncMethod::Dsync | SyncMethod::Fdatasync => {}
            }
        }
        self.method
    }

    /// A small write was durable after so many microseconds.
    pub fn took(&mut self, latency_us: u64) {
        if self.method == SyncMethod::Dsync {
            let slow = latency_us >= SLOW_US;
            self.slow = if slow { self.slow + 1 } else { self.slow.saturating_sub(2) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_slow_writes_changes_the_method_and_time_changes_it_back() {
        let mut policy = SyncPolicy::watched();
        for _ in 0..20 {
            policy.took(SLOW_US);
            policy.took(100);
        }
        assert_eq!(policy.choose(0), SyncMethod::Dsync, "every second one is no row");
        for _ in 0..SLOW_MAX {
            policy.took(4_000);
        }
        assert_eq!(policy.choose(10), SyncMethod::Fdatasync);
        assert_eq!(policy.choose(10 + RETRY_US_MIN - 1), SyncMethod::Fdatasync);
        assert_eq!(policy.choose(10 + RETRY_US_MIN), SyncMethod::Dsync);
        let mut forced = SyncPolicy::always(SyncMethod::Dsync);
        (0..100).for_each(|_| forced.took(9_000));
        assert_eq!(forced.choose(0), SyncMethod::Dsync);
    }
}
