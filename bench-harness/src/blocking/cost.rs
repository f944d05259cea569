//! What a measurement costs when a part of it runs in server processes that were started for it.
//!
//! Not here: this process itself while a window runs (`Meter`).

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::Instant;

use crate::meter::Window;
use crate::outcome::Figures;

/// Ticks of a second in `/proc/<pid>/stat` (USER_HZ, which is 100 wherever Linux has io_uring).
const TICKS_PER_SECOND: f64 = 100.0;

/// Processor time in seconds, and memory of servers in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cost {
    user: f64,
    system: f64,
    memory: u64,
}

impl Cost {
    /// Of all that this process has started, in a window; waits for its end.
    pub(super) fn of_servers_in(window: Window) -> Self {
        thread::sleep(window.begin.saturating_duration_since(Instant::now()));
        let before = Self::of_servers();
        thread::sleep(window.end.saturating_duration_since(Instant::now()));
        Self::of_servers().since(&before)
    }

    /// What came since; memory stays as it is now.
    pub(super) fn since(&self, before: &Self) -> Self {
        let (user, system) = (self.user - before.user, self.system - before.system);
        Self { user, system, memory: self.memory }
    }

    /// Counts it beside what is counted already.
    pub(super) fn add_to(&self, figures: &mut Figures) {
        figures.cpu_user_s += self.user;
        figures.cpu_system_s += self.system;
        figures.memory_max += self.memory;
        if self.memory > 0 {
            figures.extra.insert("servers/memory_bytes".to_owned(), self.memory as f64);
        }
    }

    /// Of all that this process has started and that still runs, so far.
    pub(super) fn of_servers() -> Self {
        let mut all = BTreeMap::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let pid = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
            let text = fs::read_to_string(entry.path().join("stat")).ok();
            let fields = text.as_deref().and_then(Stat::parse);
            all.extend(pid.zip(fields));
        }
        let mut sum = Self::default();
        for (pid, stat) in &all {
            if is_below(&all, *pid, std::process::id()) {
                sum.user += stat.user;
                sum.system += stat.system;
                sum.memory += memory(*pid);
            }
        }
        sum
    }
}

/// User and system time of a process with all its threads so far, seconds; `None` if it has ended.
pub(crate) fn processor_time(pid: u32) -> Option<(f64, f64)> {
    let stat = Stat::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
    Some((stat.user, stat.system))
}

/// Whether one process was started by another one, or by one that it started.
fn is_below(all: &BTreeMap<u32, Stat>, pid: u32, ancestor: u32) -> bool {
    let parents = std::iter::successors(all.get(&pid), |stat| all.get(&stat.parent));
    // A process that changes its parent meanwhile must not make a circle.
    parents.take(all.len()).any(|stat| stat.parent == ancestor)
}

/// Memory of a process, what it shares with others divided by their number.
fn memory(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// What `/proc/<pid>/stat` says; processor time with that of ended children.
#[derive(Debug, PartialEq)]
struct Stat {
    parent: u32,
    user: f64,
    system: f64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The name, in parentheses, may hold anything.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let seconds =
            |index: usize| Some(fields.get(index)?.parse::<f64>().ok()? / TICKS_PER_SECOND);
        Some(Self {
            parent: fields.get(1)?.parse().ok()?,
            user: seconds(11)? + seconds(13)?,
            system: seconds(12)? + seconds(14)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let text = "7 (a ) b) S 3 7 7 0 -1 0 0 0 0 0 150 50 100 25 20 0 1 0 0";
        assert_eq!(Stat::parse(text), Some(Stat { parent: 3, user: 2.5, system: 0.75 }));
    }

    #[test]
    fn a_child_and_its_child_are_below_and_others_are_not() {
        let stat = |parent| Stat { parent, user: 0.0, system: 0.0 };
        let all =
            BTreeMap::from([(1, stat(0)), (5, stat(1)), (6, stat(5)), (7, stat(6)), (8, stat(1))]);
        let below: Vec<u32> = (1..9).filter(|pid| is_below(&all, *pid, 5)).collect();
        assert_eq!(below, [6, 7]);
    }

    #[test]
    fn memory_of_a_started_process_is_counted() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let memory = Cost::of_servers().memory;
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(memory > 0, "a running child has memory");
    }
}
