//! How fast records come: a shard's rates and those of its logs.
//!
//! ```text
//! each record moves the time at which the rate is kept again ahead, by what it costs:
//!     now ------- kept again -- now + 1 s
//!                    |            '- from here on: too fast
//!                    '- one record of n costs 1 s / n
//! ```
//!
//! (The generic cell rate algorithm, ITU-T I.371.) So one second's worth may come at once, and a
//! request larger than that when nothing came before it. Nothing of this is stored: a shard that is
//! opened begins with nothing used.
//!
//! Not here: which rates are set (`LogOptions`), and refusing (`serve`).

use std::num::NonZeroU64;

use rustc_hash::FxHashMap;

use crate::format::options::Rates;
use crate::position::LogId;

/// How much may come at once, microseconds' worth.
const BURST_US: u64 = 1_000_000;
/// Microseconds between two warnings of one log.
const WARN_US: u64 = 10_000_000;

/// One rate: when it is kept again, in 1/1024 microseconds of the monotonic clock.
#[derive(Clone, Copy, Debug, Default)]
struct Level(u128);

impl Level {
    const SCALE: u128 = 1024;

    /// Microseconds until something may come; 0 if it may now.
    fn wait_us(self, now_us: u64) -> u64 {
        let limit = u128::from(now_us.saturating_add(BURST_US)) * Self::SCALE;
        let wait = self.0.saturating_sub(limit).div_ceil(Self::SCALE);
        u64::try_from(wait).unwrap_or(u64::MAX)
    }

    /// So much comes. What nothing could refuse leaves a debt of one burst at most.
    fn add(&mut self, amount: u64, rate: NonZeroU64, now_us: u64, forgives: bool) {
        let cost = u128::from(amount) * 1_000_000 * Self::SCALE / u128::from(rate.get());
        let before = self.0.max(u128::from(now_us) * Self::SCALE);
        let most = u128::from(now_us.saturating_add(2 * BURST_US)) * Self::SCALE;
        self.0 = before + if forgives { cost.min(most.saturating_sub(before)) } else { cost };
    }
}

/// What came lately, beside the rates that hold for it.
#[derive(Clone, Copy, Debug, Default)]
struct Meter {
    /// Soft and hard bytes, soft and hard records.
    levels: [Level; 4],
    warned_us: Option<u64>,
}

fn limits(rates: &Rates) -> [Option<NonZeroU64>; 4] {
    [rates.bytes_soft, rates.records_soft, rates.bytes_hard, rates.records_hard]
}

impl Meter {
    /// Microseconds until more may come.
    fn wait_us(&self, rates: &Rates, now_us: u64) -> u64 {
        let hard = self.levels.iter().zip(limits(rates)).skip(2);
        let waits = hard.filter(|(_, rate)| rate.is_some()).map(|(level, _)| level.wait_us(now_us));
        waits.max().unwrap_or(0)
    }

    /// So much comes; whether that is beyond a soft rate.
    fn add(
        &mut self,
        rates: &Rates,
        ((records, bytes), came): ((u64, u64), Came),
        now_us: u64,
    ) -> bool {
        let amounts = [bytes, records, bytes, records];
        let mut over = false;
        for (index, ((level, rate), amount)) in
            self.levels.iter_mut().zip(limits(rates)).zip(amounts).enumerate()
        {
            if let Some(rate) = rate {
                over |= index < 2 && level.wait_us(now_us) > 0;
                level.add(amount, rate, now_us, index < 2 || came == Came::Anyhow);
            }
        }
        over
    }

    /// Whether it is time to warn again.
    fn warns(&mut self, now_us: u64) -> bool {
        let due = self.warned_us.is_none_or(|warned| now_us >= warned.saturating_add(WARN_US));
        if due {
            self.warned_us = Some(now_us);
        }
        due
    }
}

/// Whose rate it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateOf {
    /// The log's.
    Log,
    /// The whole engine's.
    Engine,
}

/// Why records come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    /// The hard rates allowed it.
    Allowed,
    /// They were not asked: outputs of processors are never refused.
    Anyhow,
}

/// What became of records that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// They came within all soft rates.
    Within,
    /// Beyond one; whether it is time to say so.
    Over {
        /// Once in a while only.
        warn: bool,
    },
}

/// The meters of a shard.
#[derive(Debug, Default)]
pub struct Meters {
    shard: Meter,
    logs: FxHashMap<LogId, Meter>,
}

impl Meters {
    /// Whether records may come to a log now: the rate that is exceeded and microseconds to wait if
    /// not.
    #[must_use]
    pub fn check(
        &self,
        shard: &Rates,
        log: Option<(LogId, &Rates)>,
        now_us: u64,
    ) -> Option<(RateOf, u64)> {
        let own = log.and_then(|(log, rates)| Some(self.logs.get(&log)?.wait_us(rates, now_us)));
        let all = self.shard.wait_us(shard, now_us);
        match own {
            Some(wait) if wait > all => Some((RateOf::Log, wait)),
            _ => (all > 0).then_some((RateOf::Engine, all)),
        }
    }

    /// Records come: how many, bytes of payload, and why.
    pub fn add(
        &mut self,
        shard: &Rates,
        log: Option<(LogId, &Rates)>,
        amount: ((u64, u64), Came),
        now_us: u64,
    ) -> Pace {
        let (mut over, mut warn) = (false, false);
        if shard.is_some() && self.shard.add(shard, amount, now_us) {
            over = true;
            warn |= self.shard.warns(now_us);
        }
        if let Some((log, rates)) = log {
            let meter = self.logs.entry(log).or_default();
            if meter.add(rates, amount, now_us) {
                over = true;
                warn |= meter.warns(now_us);
            }
        }
        if over { Pace::Over { warn } } else { Pace::Within }
    }

    /// The shard has other rates.
    pub fn forget_shard(&mut self) {
        self.shard = Meter::default();
    }

    /// The log has other rates, or is gone.
    pub fn forget(&mut self, log: LogId) {
        self.logs.remove(&log);
    }
}

#[cfg(test)]
mod tests {
    use super::{Came, Meters, Pace, RateOf};
    use crate::format::options::Rates;
    use crate::position::LogId;

    const LOG: LogId = LogId(1);
    const SECOND: u64 = 1_000_000;

    #[test]
    fn one_seconds_worth_comes_at_once_and_then_the_rate_is_kept_exactly() {
        let (none, rates) = (Rates::default(), Rates::default().records_hard(10));
        let (mut meters, log) = (Meters::default(), Some((LOG, &rates)));
        let mut taken = 0;
        for time in (0..=10 * SECOND).step_by(1000) {
            while meters.check(&none, log, time).is_none() {
                meters.add(&none, log, ((1, 50), Came::Allowed), time);
                taken += 1;
            }
            let (of, wait) = meters.check(&none, log, time).expect("it is full");
            assert_eq!(of, RateOf::Log);
            assert!(wait <= SECOND / 10, "{wait}");
            assert!(meters.check(&none, log, time + wait).is_none(), "it says when to come back");
        }
        // 10 s at 10 a second, and the first second's worth (and the one that fills it).
        assert_eq!(taken, 100 + 11);
    }

    #[test]
    fn more_than_a_seconds_worth_comes_when_nothing_came_before_and_is_paid_for() {
        let (none, rates) = (Rates::default(), Rates::default().bytes_hard(1000));
        let (mut meters, log) = (Meters::default(), Some((LOG, &rates)));
        assert!(meters.check(&none, log, 0).is_none());
        meters.add(&none, log, ((1, 5000), Came::Allowed), 0);
        assert_eq!(meters.check(&none, log, 0), Some((RateOf::Log, 4 * SECOND)));
        meters.forget(LOG);
        assert!(meters.check(&none, log, 0).is_none());
    }

    #[test]
    fn what_was_never_refused_is_no_debt_for_hours_and_other_rates_begin_anew() {
        let rates = Rates::default().bytes_soft(10).bytes_hard(10);
        let (none, log) = (Rates::default(), Some((LOG, &rates)));
        let mut meters = Meters::default();
        for _ in 0..1000 {
            meters.add(&none, log, ((1, 1000), Came::Anyhow), 0);
        }
        assert_eq!(meters.check(&none, log, 0), Some((RateOf::Log, SECOND)));
        meters.add(&rates, None, ((1, 5000), Came::Allowed), 0);
        assert!(meters.check(&rates, None, 0).is_some());
        meters.forget_shard();
        assert!(meters.check(&rates, None, 0).is_none());
    }

    #[test]
    fn a_soft_rate_refuses_nothing_and_warns_once_in_a_while() {
        let (none, rates) = (Rates::default(), Rates::default().records_soft(1));
        let mut meters = Meters::default();
        let mut add = |now| meters.add(&rates, None, ((3, 10), Came::Allowed), now);
        assert_eq!(add(0), Pace::Within);
        assert_eq!(add(0), Pace::Over { warn: true });
        assert_eq!(add(SECOND / 2), Pace::Over { warn: false });
        assert_eq!(add(60 * SECOND), Pace::Within);
        assert_eq!(add(60 * SECOND), Pace::Over { warn: true });
        assert!(meters.check(&rates, Some((LOG, &none)), 0).is_none());
    }
}
