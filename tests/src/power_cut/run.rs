//! Cuts the power of a recorded run at every point, and checks what is left each time.
//!
//! ```text
//! every instant x (nothing, everything, some ..) -> distinct directories -> open and check, in
//! parallel, until one is wrong
//! ```
//!
//! Directories that are the same are opened once; what was promised at every one of their instants
//! must hold.
//!
//! Not here: the fault model (`power_cut`) and what is checked (`check`).

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;

use crate::power_cut::check::{Checker, materialise};
use crate::power_cut::promises::Said;
use crate::power_cut::{Built, Cut, Left, Replay};
use crate::recorder::files::Instant;
use crate::rng::mix;

/// The data directory below the recorded root.
pub const DATA: &str = "data";

/// A directory that a cut leaves, and all the instants at which it does.
#[derive(Clone, Debug)]
pub struct Case {
    /// A cut that leaves it.
    pub cut: Cut,
    instants: Vec<Instant>,
}

/// What was wrong behind a cut.
#[derive(Clone, Debug)]
pub struct Wrong {
    /// The cut.
    pub cut: Cut,
    /// What was found.
    pub why: String,
}

/// The distinct directories of all cuts at every `stride`th instant, with `samples` seeds each.
#[must_use]
pub fn cases(replay: &Replay, stride: usize, samples: u64) -> Vec<Case> {
    let mut by_key: HashMap<u64, usize> = HashMap::new();
    let mut cases: Vec<Case> = Vec::new();
    for at in (0..=replay.recording().end).rev().step_by(stride) {
        let some = (0..samples).map(Left::Some);
        for left in [Left::Nothing, Left::Everything].into_iter().chain(some) {
            let cut = Cut { at, left };
            let index = *by_key.entry(replay.cut(cut).key()).or_insert(cases.len());
            if index == cases.len() {
                cases.push(Case { cut, instants: Vec::new() });
            }
            cases[index].instants.push(at);
        }
    }
    cases.reverse();
    cases
}

/// A recorded run under test.
pub struct Trial<'a> {
    /// The run.
    pub replay: &'a Replay,
    /// What it said.
    pub said: &'a Said,
    /// What it writes.
    pub checker: &'a Checker,
    /// Where directories are made, one for each thread.
    pub place: &'a Path,
}

impl Trial<'_> {
    /// Checks what one cut leaves.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self, case: &Case, built: &mut Built, dir: &Path) -> Result<(), Wrong> {
        let wrong = |why| Wrong { cut: case.cut, why };
        let remains = self.replay.cut(case.cut);
        materialise(&remains, built, dir);
        // Mostly one more record; now and then a whole segment of them.
        let drawn = mix(remains.key());
        let more = if drawn.is_multiple_of(16) { 300 } else { 1 };
        let found = self.checker.examine(&dir.join(DATA), more, drawn % 32 < 16).map_err(wrong)?;
        for at in &case.instants {
            let check = self.said.at(*at).check(&found);
            check.map_err(|why| Wrong { cut: Cut { at: *at, ..case.cut }, why })?;
        }
        Ok(())
    }

    /// Checks one cut alone.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check_cut(&self, cut: Cut) -> Result<(), Wrong> {
        let case = Case { cut, instants: vec![cut.at] };
        self.check(&case, &mut Built::default(), &self.place.join("one"))
    }

    /// Checks all cases; ends early with the first that is wrong.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check_all(&self, cases: &[Case]) -> Result<(), Wrong> {
        let (next, wrong) = (AtomicUsize::new(0), Mutex::new(None));
        let work = |dir: PathBuf| {
            let mut built = Built::default();
            while let Some(case) = cases.get(next.fetch_add(1, Relaxed)) {
                if let Err(found) = self.check(case, &mut built, &dir) {
                    next.store(cases.len(), Relaxed);
                    *wrong.lock().expect("nobody panics with it") = Some(found);
                }
            }
        };
        let threads = thread::available_parallelism().map_or(2, usize::from).clamp(2, 8);
        thread::scope(|scope| {
            for thread in 0..threads {
                let dir = self.place.join(format!("cut-{thread}"));
                scope.spawn(|| work(dir));
            }
        });
        wrong.into_inner().expect("nobody panics with it").map_or(Ok(()), Err)
    }
}
