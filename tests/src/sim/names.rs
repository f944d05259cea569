//! A simulated directory: which name stands for which file, now and after a power cut.
//!
//! ```text
//! rename, unlink -> live              (everyone sees it)
//!                   pending --sync of the directory--> durable (a power cut keeps it)
//!                       '--power cut--> each change is there or not, each for itself
//! ```
//!
//! - `durable` with all of `pending` applied in order is `live`.
//! - A rename is atomic: the old name is gone and the new one there, or neither.
//! - Changes of the same name or of the same file keep their order: a later one is there only if
//!   the earlier ones are. All others survive in any combination.
//!
//! Not here: what stands in the files (`file`).

use std::collections::BTreeMap;

use oncelog::SegmentId;
use oncelog::io::SpareId;

use crate::rng::Rng;

/// A file, whatever its name.
pub type Inode = u64;

/// A name in the directory of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    /// `segment-*.log`
    Segment(SegmentId),
    /// `spare-*.log`
    Spare(SpareId),
    /// `segment-*.index`, or `.tail` if true.
    Side(SegmentId, bool),
}

/// One atomic change.
#[derive(Clone, Copy, Debug)]
struct Change {
    gone: Option<Name>,
    new: Option<Name>,
    inode: Inode,
}

impl Change {
    fn apply(self, names: &mut BTreeMap<Name, Inode>) {
        if let Some(gone) = self.gone {
            names.remove(&gone);
        }
        if let Some(new) = self.new {
            names.insert(new, self.inode);
        }
    }

    fn follows(&self, other: &Self) -> bool {
        let names = [self.gone, self.new];
        let same = |name: &Option<Name>| name.is_some() && names.contains(name);
        self.inode == other.inode || same(&other.gone) || same(&other.new)
    }
}

/// See the module's head.
#[derive(Clone, Debug, Default)]
pub struct Names {
    live: BTreeMap<Name, Inode>,
    durable: BTreeMap<Name, Inode>,
    pending: Vec<Change>,
}

impl Names {
    /// The file of this name.
    #[must_use]
    pub fn get(&self, name: Name) -> Option<Inode> {
        self.live.get(&name).copied()
    }

    /// All names and their files.
    pub fn live(&self) -> impl Iterator<Item = (Name, Inode)> {
        self.live.iter().map(|(name, inode)| (*name, *inode))
    }

    /// Whether the file has a name, or may have one again after a power cut.
    #[must_use]
    pub fn knows(&self, inode: Inode) -> bool {
        let named = self.live.values().chain(self.durable.values());
        // A power cut may keep a change and lose the one that came after it.
        let pending = self.pending.iter().map(|change| &change.inode);
        named.chain(pending).any(|known| *known == inode)
    }

    /// A file gets a name, and loses the one that it had. Whoever had the name before is gone.
    pub fn rename(&mut self, gone: Option<Name>, new: Name, inode: Inode) {
        self.change(Change { gone, new: Some(new), inode });
    }

    /// A name goes, if it is there.
    pub fn unlink(&mut self, name: Name) {
        if let Some(inode) = self.get(name) {
            self.change(Change { gone: Some(name), new: None, inode });
        }
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.live);
        self.pending.push(change);
    }

    /// The directory was synced.
    pub fn sync(&mut self) {
        for change in std::mem::take(&mut self.pending) {
            change.apply(&mut self.durable);
        }
    }

    /// Someone removed a name, or put it back: no change that a power cut could take away.
    pub fn force(&mut self, name: Name, inode: Option<Inode>) {
        for names in [&mut self.live, &mut self.durable] {
            match inode {
                Some(inode) => drop(names.insert(name, inode)),
                None => drop(names.remove(&name)),
            }
        }
    }

    /// Power cut. Says how many changes were lost, and whether a later one outlived an earlier.
    pub fn cut_power(&mut self, rng: &mut Rng) -> (u64, bool) {
        let how = rng.below(3);
        let mut lost: Vec<Change> = Vec::new();
        let mut overtaken = false;
        for change in std::mem::take(&mut self.pending) {
            let stays = how == 1 || how == 2 && rng.one_in(2);
            if stays && !lost.iter().any(|earlier| change.follows(earlier)) {
                change.apply(&mut self.durable);
                overtaken |= !lost.is_empty();
            } else {
                lost.push(change);
            }
        }
        if !lost.is_empty() {
            self.live.clone_from(&self.durable);
        }
        (lost.len() as u64, overtaken)
    }
}
