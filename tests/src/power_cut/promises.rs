//! What the recorded program said, and so what must be found behind a cut.
//!
//! ```text
//! makes LOG STEP       made LOG STEP          odd steps: the log is there
//! drops LOG STEP       dropped LOG STEP       even steps: it is not
//! acked LOG NEXT                              its records below NEXT are durable
//! truncates LOG FIRST  truncated LOG FIRST    its records below FIRST are gone
//! batches COUNT                               so many batches are durable
//! owner                committed NEXT         the processor is there, and stands at least there
//! ```
//!
//! The word before an act allows it, the word behind it demands it.
//!
//! Not here: finding out what is there (`check`).

use std::collections::{BTreeMap, BTreeSet};

use crate::power_cut::check::Findings;
use crate::power_cut::script::SHORT_LIVED;

/// What was said up to some instant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Promises {
    logs: BTreeMap<String, LogPromise>,
    batches: u64,
    has_processor: bool,
    position: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct LogPromise {
    /// The last step that was begun, and the last that was acknowledged.
    begun: u64,
    done: u64,
    /// Records that are durable.
    next: u64,
    /// Truncations that were begun, and the last that was acknowledged.
    firsts: BTreeSet<u64>,
    first: u64,
}

impl Promises {
    /// Hears a line.
    ///
    /// # Panics
    /// It is none of the lines above.
    pub fn hear(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |word: &str| word.parse::<u64>().expect("a number");
        match words[..] {
            ["owner"] => self.has_processor = true,
            ["batches", count] => self.batches = number(count),
            ["committed", next] => self.position = number(next),
            [verb, name, value] => {
                let log = self.logs.entry(name.to_owned()).or_default();
                log.hear(verb, number(value));
            }
            _ => panic!("not a line of the recorded program: {line}"),
        }
    }

    /// Whether what was found keeps them.
    ///
    /// # Errors
    /// What is not as it was promised.
    pub fn check(&self, found: &Findings) -> Result<(), String> {
        if let Some(name) = found.logs.keys().find(|name| !self.logs.contains_key(*name)) {
            return Err(format!("there is a log {name}, which nobody made"));
        }
        for (name, promise) in &self.logs {
            promise.check(name, found)?;
        }
        if found.batches < self.batches {
            return Err(format!("{} batches, acked {}", found.batches, self.batches));
        }
        match found.position {
            None if self.has_processor => Err("the processor is gone".to_owned()),
            Some(position) if position < self.position => {
                Err(format!("the processor stands at {position}, acked {}", self.position))
            }
            _ => Ok(()),
        }
    }
}

impl LogPromise {
    fn hear(&mut self, verb: &str, value: u64) {
        match verb {
            "makes" | "drops" => self.begun = self.begun.max(value),
            "made" | "dropped" if self.done < value => {
                *self = Self { begun: self.begun, done: value, ..Self::default() };
            }
            "made" | "dropped" => {}
            "acked" => self.next = value,
            "truncates" => {
                self.firsts.insert(value);
            }
            "truncated" => self.first = value,
            _ => panic!("not a word of the recorded program: {verb}"),
        }
    }

    fn check(&self, name: &str, found: &Findings) -> Result<(), String> {
        let may_be = |parity| (self.done..=self.begun).find(|step| step % 2 == parity);
        let Some(log) = found.logs.get(name) else {
            return match may_be(0) {
                Some(_) => Ok(()),
                None => Err(format!("{name} is gone, which was made")),
            };
        };
        let Some(step) = may_be(1) else {
            return Err(format!("{name} is there, which was dropped"));
        };
        let generation = if name == SHORT_LIVED { step } else { 0 };
        if log.generation.is_some_and(|found| found != generation) {
            return Err(format!("{name} has records of {:?}, not {generation}", log.generation));
        }
        // A step that was only begun made nothing of what the one before it promised.
        let (next, first) = if step == self.done { (self.next, self.first) } else { (0, 0) };
        if log.next < next {
            return Err(format!("{name} ends at {}, acked {next}", log.next));
        }
        let is_allowed = log.first == 0 || self.firsts.contains(&log.first);
        if log.first < first || !is_allowed {
            let allowed = &self.firsts;
            let at = log.first;
            return Err(format!("{name} begins at {at}, acked {first}, asked for {allowed:?}"));
        }
        Ok(())
    }
}

/// What was promised at each instant.
pub struct Said(Vec<(u32, Promises)>);

impl Said {
    /// From what was said.
    #[must_use]
    pub fn new(said: &[(u32, String)]) -> Self {
        let mut all = vec![(0, Promises::default())];
        for (at, line) in said {
            let mut next = all[all.len() - 1].1.clone();
            next.hear(line);
            all.push((*at, next));
        }
        Self(all)
    }

    /// The promises that hold at an instant.
    #[must_use]
    pub fn at(&self, at: u32) -> &Promises {
        let behind = self.0.partition_point(|(said, _)| *said <= at);
        &self.0[behind - 1].1
    }
}
