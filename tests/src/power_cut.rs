//! What a power cut may leave of a recorded run.
//!
//! ```text
//! instant      ...--+-----------+------------+---------+-----> time
//! write             begin       end
//! sync of its file                           begin     end
//! its fate     lost | anything              anything  | whole
//! ```
//!
//! The fault model is the least that POSIX promises:
//! - Bytes are durable once a sync of their file returned that began after the write had returned,
//!   or once the write itself did, if it was one that writes through. Before that each sector of
//!   512 bytes is there or not, and the file's size has grown or not.
//! - A name that was made, changed or removed is so durably only after a sync of its directory.
//!   Before, each such change is there or not, whatever became of the others. A rename is whole.
//! - Other changes of a file's size are there or not until its next sync.
//!
//! Invariant: whoever replays the same recording with the same cut gets the same directory.
//!
//! Not here: media that lie or rot, and what must hold afterwards (`check`).

pub mod check;
pub mod promises;
pub mod run;
pub mod script;
pub mod sectors;

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use crate::power_cut::sectors::write;
use crate::recorder::files::{Change, Instant, Node, Op, Recording};
use crate::rng::{Rng, mix};

/// Which of the changes that were not durable a cut leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// None.
    Nothing,
    /// All that was begun: the end of a process that is killed.
    Everything,
    /// What this seed says.
    Some(u64),
}

/// A power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// All that was said and done up to this instant, and nothing after it.
    pub at: Instant,
    /// What else is left.
    pub left: Left,
}

/// What became of a change that is there at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Fate {
    Whole,
    /// Some sectors of a write, as this seed says.
    Torn(u64),
}

/// A run, and when each of its changes is durable.
pub struct Replay {
    recording: Arc<Recording>,
    durable: Vec<Option<Instant>>,
}

/// What a cut leaves: the changes that are there, in their order.
pub struct Remains<'a> {
    replay: &'a Replay,
    fates: Vec<(usize, Fate)>,
}

/// The file or directory that a sync must be of to make a change durable.
fn subject(change: &Change) -> Node {
    match change {
        Change::Make { dir, .. } | Change::Rename { dir, .. } | Change::Remove { dir, .. } => *dir,
        Change::Write { node, .. }
        | Change::SetLen { node, .. }
        | Change::Reserve { node, .. }
        | Change::Sync { node, .. } => *node,
    }
}

impl Replay {
    /// With a disk that keeps its promises.
    #[must_use]
    pub fn new(recording: &Arc<Recording>) -> Self {
        Self::with_lies(recording, |_| false)
    }

    /// With a disk that does nothing for some of the syncs and writes through, though it says so.
    #[must_use]
    pub fn with_lies(recording: &Arc<Recording>, is_lie: impl Fn(&Op) -> bool) -> Self {
        let mut syncs: HashMap<Node, Vec<&Op>> = HashMap::new();
        for op in &recording.ops {
            if matches!(op.change, Change::Sync { .. }) && !is_lie(op) {
                syncs.entry(subject(&op.change)).or_default().push(op);
            }
        }
        let durable = |op: &Op| {
            let through = matches!(op.change, Change::Write { through: true, .. }) && !is_lie(op);
            let later = syncs.get(&subject(&op.change)).into_iter().flatten();
            let synced = later.filter(|sync| op.end < sync.begin).map(|sync| sync.end).min();
            synced.into_iter().chain(through.then_some(op.end)).min()
        };
        let durable = recording.ops.iter().map(durable).collect();
        Self { recording: Arc::clone(recording), durable }
    }

    /// The run.
    #[must_use]
    pub fn recording(&self) -> &Recording {
        &self.recording
    }

    /// Carries a cut out.
    #[must_use]
    pub fn cut(&self, cut: Cut) -> Remains<'_> {
        let mut choice = Choice::new(cut);
        let mut fates = Vec::new();
        for (index, (op, durable)) in self.recording.ops.iter().zip(&self.durable).enumerate() {
            if op.begin > cut.at || matches!(op.change, Change::Sync { .. }) {
                continue;
            }
            let is_durable = durable.is_some_and(|durable| durable <= cut.at);
            let fate = if is_durable { Some(Fate::Whole) } else { choice.fate(&op.change) };
            fates.extend(fate.map(|fate| (index, fate)));
        }
        Remains { replay: self, fates }
    }
}

/// Draws the fates of changes that are not durable.
struct Choice {
    left: Left,
    rng: Rng,
    /// One of so many changes is lost.
    lost_one_in: u64,
    /// Names: each for itself, or in order up to some change in each directory.
    in_order: bool,
    ended: Vec<Node>,
}

impl Choice {
    fn new(cut: Cut) -> Self {
        let seed = if let Left::Some(seed) = cut.left { seed } else { 0 };
        let mut rng = Rng::new(mix(seed) ^ u64::from(cut.at));
        let lost_one_in = [1, 2, 2, 8][rng.index(4)];
        let in_order = rng.one_in(2);
        Self { left: cut.left, rng, lost_one_in, in_order, ended: Vec::new() }
    }

    fn fate(&mut self, change: &Change) -> Option<Fate> {
        match self.left {
            Left::Nothing => return None,
            Left::Everything => return Some(Fate::Whole),
            Left::Some(_) => {}
        }
        let is_write = matches!(change, Change::Write { .. });
        if is_write && self.rng.one_in(3) {
            return Some(Fate::Torn(self.rng.number()));
        }
        let is_lost = self.rng.one_in(self.lost_one_in.max(1 + u64::from(!is_write)));
        let is_name =
            matches!(change, Change::Make { .. } | Change::Rename { .. } | Change::Remove { .. });
        if !is_name || !self.in_order {
            return (!is_lost).then_some(Fate::Whole);
        }
        let dir = subject(change);
        if is_lost {
            self.ended.push(dir);
        }
        (!self.ended.contains(&dir)).then_some(Fate::Whole)
    }
}

/// A file that a cut left.
pub type Content = Arc<Vec<u8>>;

/// Files as they were built last: most of them are the same behind the next cut.
#[derive(Default)]
pub struct Built(HashMap<Node, (u64, Content)>);

/// What a name stands for: a directory, or a file.
pub enum Found {
    /// A directory and what is in it.
    Dir(BTreeMap<String, Found>),
    /// A file.
    File(Content),
}

impl Remains<'_> {
    /// Remains with the same key are the same directory.
    #[must_use]
    pub fn key(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.fates.hash(&mut hasher);
        hasher.finish()
    }

    /// The root directory.
    #[must_use]
    pub fn root(&self, built: &mut Built) -> Found {
        let recording = &self.replay.recording;
        let mut names: HashMap<Node, BTreeMap<&str, Node>> = HashMap::from([(0, BTreeMap::new())]);
        let mut files: HashMap<Node, Vec<(usize, Fate)>> = HashMap::new();
        let mut by_path = HashMap::from([(std::path::Path::new(""), 0)]);
        for (node, (path, content)) in (1..).zip(&recording.before) {
            let (dir, name) = (path.parent().expect("not the root"), path.file_name());
            let name = name.and_then(|name| name.to_str()).expect("names are text");
            names.entry(by_path[dir]).or_default().insert(name, node);
            by_path.insert(path, node);
            if content.is_none() {
                names.entry(node).or_default();
            }
        }
        for &(index, fate) in &self.fates {
            match &recording.ops[index].change {
                Change::Make { dir, name, node, is_dir } => {
                    names.entry(*dir).or_default().insert(name, *node);
                    if *is_dir {
                        names.entry(*node).or_default();
                    }
                }
                Change::Rename { dir, from, to, node } => {
                    let names = names.entry(*dir).or_default();
                    if names.get(from.as_str()) == Some(node) {
                        names.remove(from.as_str());
                    }
                    names.insert(to, *node);
                }
                Change::Remove { dir, name } => {
                    names.entry(*dir).or_default().remove(name.as_str());
                }
                change => files.entry(subject(change)).or_default().push((index, fate)),
            }
        }
        self.dir(0, &names, &files, built)
    }

    fn dir(
        &self,
        dir: Node,
        names: &HashMap<Node, BTreeMap<&str, Node>>,
        files: &HashMap<Node, Vec<(usize, Fate)>>,
        built: &mut Built,
    ) -> Found {
        let mut found = BTreeMap::new();
        for (name, node) in &names[&dir] {
            let child = if names.contains_key(node) {
                self.dir(*node, names, files, built)
            } else {
                let fates = files.get(node).map_or(&[][..], |fates| fates);
                Found::File(self.file(*node, fates, built))
            };
            found.insert((*name).to_owned(), child);
        }
        Found::Dir(found)
    }

    fn file(&self, node: Node, fates: &[(usize, Fate)], built: &mut Built) -> Content {
        let mut hasher = DefaultHasher::new();
        fates.hash(&mut hasher);
        let key = hasher.finish();
        if let Some((_, content)) = built.0.get(&node).filter(|(have, _)| *have == key) {
            return Arc::clone(content);
        }
        let recording = &self.replay.recording;
        let before = node.checked_sub(1).and_then(|index| recording.before.values().nth(index));
        let mut content = before.cloned().flatten().unwrap_or_default();
        for (index, fate) in fates {
            apply(&mut content, &recording.ops[*index].change, *fate);
        }
        let content = Arc::new(content);
        built.0.insert(node, (key, Arc::clone(&content)));
        content
    }
}

fn length(len: u64) -> usize {
    usize::try_from(len).expect("a recorded file fits into memory")
}

fn apply(content: &mut Vec<u8>, change: &Change, fate: Fate) {
    match change {
        Change::SetLen { len, .. } => content.resize(length(*len), 0),
        Change::Reserve { len, .. } => {
            let len = content.len().max(length(*len));
            content.resize(len, 0);
        }
        Change::Write { offset, data, .. } => {
            let torn = if let Fate::Torn(seed) = fate { Some(seed) } else { None };
            write(content, length(*offset), data, torn);
        }
        names => panic!("{names:?} changes no content"),
    }
}

#[cfg(test)]
mod tests;
