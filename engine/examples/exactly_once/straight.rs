//! What must come out: the same counted in one go, in memory, without an engine.

use crate::Result;
use crate::input::Input;
use crate::words::{Counts, Window};

pub(crate) struct Straight {
    pub(crate) lines: u64,
    pub(crate) bytes: u64,
    pub(crate) counts: Counts,
    pub(crate) results: Vec<String>,
}

impl Straight {
    pub(crate) fn count(input: &Input) -> Result<Self> {
        let counts = Counts::default();
        let mut straight = Self { lines: 0, bytes: 0, counts, results: Vec::new() };
        let mut window = Window::new(0);
        let mut lines = input.lines();
        while let Some(line) = lines.next()? {
            straight.lines += 1;
            straight.bytes += line.len() as u64;
            straight.counts.add_line(line);
            window.add(line);
            if window.is_full() {
                straight.results.push(window.result());
                window = Window::new(window.end());
            }
        }
        if !window.is_empty() {
            straight.results.push(window.result());
        }
        Ok(straight)
    }
}
