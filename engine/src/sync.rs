//! Which way to make writes durable, chosen when the shard is opened and watched while it runs.
//!
//! `RWF_DSYNC` on each write is faster, and a third of the processor time, nearly everywhere.
//! Without FUA it needs a kernel worker after each write to send the flush, and where that worker's
//! core is busy it waits a whole scheduler tick, now and then or again and again. Then plain writes
//! followed by one `fdatasync` are faster. So: start with the first, change to the second when most
//! of the time that writes took went into such ticks, try the first again after a while.
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
/// The time of so many writes is looked at together.
const WINDOW_US: u64 = 50_000;
const RETRY_US_MIN: u64 = 5_000_000;
const RETRY_US_MAX: u64 = 320_000_000;

/// The choice.
#[derive(Debug)]
pub struct SyncPolicy {
    method: SyncMethod,
    watched: bool,
    /// Time that writes took since the window began, and how much of it slow ones took.
    total_us: u64,
    slow_us: u64,
    /// Most of the last window went into slow writes.
    stalls: bool,
    retry_after_us: u64,
    retry_at_us: u64,
}

impl SyncPolicy {
    /// Always this method.
    #[must_use]
    pub fn always(method: SyncMethod) -> Self {
        Self {
            method,
            watched: false,
            total_us: 0,
            slow_us: 0,
            stalls: false,
            retry_after_us: RETRY_US_MIN,
            retry_at_us: 0,
        }
    }

    /// `RWF_DSYNC` while it does well.
    #[must_use]
    pub fn watched() -> Self {
        Self { watched: true, ..Self::always(SyncMethod::Dsync) }
    }

    /// The method to use from now on, as soon as nothing is in flight.
    pub fn choose(&mut self, now_us: u64) -> SyncMethod {
        if self.watched {
            match self.method {
                SyncMethod::Dsync if self.stalls => {
                    self.stalls = false;
                    self.method = SyncMethod::Fdatasync;
                    self.retry_at_us = now_us + self.retry_after_us;
                    self.retry_after_us = (self.retry_after_us * 2).min(RETRY_US_MAX);
                }
                SyncMethod::Fdatasync if now_us >= self.retry_at_us => {
                    self.method = SyncMethod::Dsync;
                    (self.total_us, self.slow_us) = (0, 0);
                }
                SyncMethod::Dsync | SyncMethod::Fdatasync => {}
            }
        }
        self.method
    }

    /// A small write was durable after so many microseconds.
    pub fn took(&mut self, latency_us: u64) {
        if self.method == SyncMethod::Fdatasync {
            return;
        }
        self.total_us += latency_us;
        self.slow_us += if latency_us >= SLOW_US { latency_us } else { 0 };
        if self.total_us >= WINDOW_US {
            self.stalls = 2 * self.slow_us >= self.total_us;
            (self.total_us, self.slow_us) = (0, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_lost_in_slow_writes_changes_the_method_and_time_changes_it_back() {
        let mut policy = SyncPolicy::watched();
        // One slow write among a hundred quick ones is a third of their time.
        for write in 0..1_000 {
            policy.took(if write % 100 == 0 { 4_000 } else { 100 });
            assert_eq!(policy.choose(0), SyncMethod::Dsync);
        }
        // One among twenty is most of it.
        for write in 0..1_000 {
            policy.took(if write % 20 == 0 { 4_000 } else { 100 });
        }
        assert_eq!(policy.choose(10), SyncMethod::Fdatasync);
        assert_eq!(policy.choose(10 + RETRY_US_MIN - 1), SyncMethod::Fdatasync);
        assert_eq!(policy.choose(10 + RETRY_US_MIN), SyncMethod::Dsync);
        let mut forced = SyncPolicy::always(SyncMethod::Dsync);
        (0..100).for_each(|_| forced.took(9_000));
        assert_eq!(forced.choose(0), SyncMethod::Dsync);
    }
}
