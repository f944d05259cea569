//! When the worker is killed: a seed decides, within what is left to do.
//!
//! Of three kills one hits the start: recovery, or at the very first the making of the engine. One
//! waits until so many lines are appended, one until so many are processed; half of these then wait
//! up to 20 ms more, so that they hit any state.

use std::time::Duration;

/// Kinds of kills.
const KINDS: u32 = 3;
const DELAY_US_MAX: u64 = 20_000;

/// One kill.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kill {
    /// So long after the process was started.
    Opening { after: Duration },
    /// So long after so many lines were appended and so many processed.
    Working { lines: u64, position: u64, after: Duration },
}

pub(crate) struct Plan {
    random: Random,
    kills: u32,
    made: u32,
}

impl Plan {
    pub(crate) fn new(seed: u64, kills: u32) -> Self {
        Self { random: Random(seed), kills, made: 0 }
    }

    pub(crate) fn left(&self) -> u32 {
        self.kills - self.made
    }

    /// The next kill, if one is left. Of `total` lines some are appended, some of these processed;
    /// the last start took `start`.
    pub(crate) fn next(
        &mut self,
        lines: u64,
        position: u64,
        total: u64,
        start: Duration,
    ) -> Option<Kill> {
        if self.left() == 0 {
            return None;
        }
        let hits_start = |kill: &u32| kill.is_multiple_of(KINDS);
        let kill = if hits_start(&self.made) {
            let start = u64::try_from(start.as_micros()).unwrap_or(u64::MAX);
            Kill::Opening { after: Duration::from_micros(self.random.below(start + 1)) }
        } else {
            // An equal share for each life that does some work, and one for the last, which nobody
            // ends. About half of it is waited for: the worker goes on during the delay.
            let lives = (self.made..self.kills).filter(|kill| !hits_start(kill)).count() as u64;
            let mut part = |left: u64| {
                let share = left / (lives + 1);
                share / 4 + self.random.below(share / 2 + 1)
            };
            let (lines, position) = if self.made % KINDS == 1 && lines < total {
                (lines + part(total - lines), position)
            } else {
                (lines, position + part(total - position))
            };
            let delay = self.random.below(2) * self.random.below(DELAY_US_MAX);
            Kill::Working { lines, position, after: Duration::from_micros(delay) }
        };
        self.made += 1;
        Some(kill)
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut number = self.0;
        number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (number ^ (number >> 31)) % end
    }
}
