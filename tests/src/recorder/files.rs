//! What the system calls of a run mean: files, names, what was written to them, what was said.
//!
//! ```text
//! enter(thread, Call) ... exit(thread, result)  ->  Op { begin, end, Change } in one total order
//! ```
//!
//! Invariants:
//! - `begin` is noted before the kernel sees a call, `end` after it is done: what really happened
//!   lies between them.
//! - A call about a recorded file that is not understood is a panic, never a gap.
//!
//! Not here: tracing (`recorder`), and what a power cut leaves (`power_cut`).

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use nix::libc;

use crate::recorder::calls::{self as calls, Call};

/// A file or directory: for ever the same one, whatever its name is.
pub type Node = usize;

/// Instants are counted: one for each begin and end of a call that matters.
pub type Instant = u32;

/// What a call changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A new name for a new file or directory.
    Make {
        /// The directory of the name.
        dir: Node,
        /// The name.
        name: String,
        /// What it names.
        node: Node,
        /// Whether that is a directory.
        is_dir: bool,
    },
    /// Another name in the same directory; what had it before is gone.
    Rename {
        /// The directory of both names.
        dir: Node,
        /// The old name.
        from: String,
        /// The new name.
        to: String,
        /// What is renamed.
        node: Node,
    },
    /// A name goes.
    Remove {
        /// The directory of the name.
        dir: Node,
        /// The name.
        name: String,
    },
    /// Bytes.
    Write {
        /// The file.
        node: Node,
        /// Where they begin.
        offset: u64,
        /// The bytes.
        data: Vec<u8>,
        /// Whether they are durable when the call returns.
        through: bool,
    },
    /// The file ends there.
    SetLen {
        /// The file.
        node: Node,
        /// Its size.
        len: u64,
    },
    /// The file reaches at least there.
    Reserve {
        /// The file.
        node: Node,
        /// Its least size.
        len: u64,
    },
    /// All that was done before is durable when it returns.
    Sync {
        /// The file or directory.
        node: Node,
        /// `fdatasync`: what is not needed to read the file may be left out.
        data_only: bool,
    },
}

/// A call that succeeded, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    /// From here on its effect may be there.
    pub begin: Instant,
    /// From here on it was carried out.
    pub end: Instant,
    /// Its effect.
    pub change: Change,
}

/// Files and directories by their paths from the root; a directory has no content.
pub type Tree = BTreeMap<PathBuf, Option<Vec<u8>>>;

/// A run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recording {
    /// What was there before, durably. Nodes are numbered in this order, from 1; the root is 0.
    pub before: Tree,
    /// What was done, in the order in which it was begun.
    pub ops: Vec<Op>,
    /// What was said on standard output, and when.
    pub said: Vec<(Instant, String)>,
    /// The instant behind all others.
    pub end: Instant,
}

/// All that is under a directory.
#[must_use]
pub fn read_tree(root: &Path) -> Tree {
    fn visit(root: &Path, dir: &Path, tree: &mut Tree) {
        for entry in fs::read_dir(dir).expect("a directory that can be read") {
            let path = entry.expect("an entry of a directory").path();
            let name = path.strip_prefix(root).expect("it is below the root").to_owned();
            if path.is_dir() {
                tree.insert(name, None);
                visit(root, &path, tree);
            } else {
                tree.insert(name, Some(fs::read(&path).expect("a file that can be read")));
            }
        }
    }
    let mut tree = Tree::new();
    visit(root, root, &mut tree);
    tree
}

/// A call under way, with what it is about.
enum Begun {
    Open { path: PathBuf, flags: i32 },
    Dup { node: Node },
    Change(Change),
}

impl Begun {
    /// What changes nothing is no instant of its own.
    fn is_quiet(&self) -> bool {
        match self {
            Self::Open { flags, .. } => flags & (libc::O_CREAT | libc::O_TRUNC) == 0,
            Self::Dup { .. } => true,
            Self::Change(_) => false,
        }
    }
}

/// Files as they are now, and the recording so far.
pub(crate) struct Files {
    root: PathBuf,
    recording: Recording,
    /// The names of each directory; `None` for a file.
    nodes: Vec<Option<BTreeMap<String, Node>>>,
    fds: HashMap<i32, Node>,
    under_way: HashMap<i32, (Instant, Begun)>,
}

impl Files {
    /// Records what happens below `root`, an absolute path without links.
    pub(crate) fn new(root: &Path) -> Self {
        let before = read_tree(root);
        let mut files = Self {
            root: root.to_owned(),
            recording: Recording::default(),
            nodes: vec![Some(BTreeMap::new())],
            fds: HashMap::new(),
            under_way: HashMap::new(),
        };
        for (path, content) in &before {
            let (dir, name) = files.place(path);
            files.add(dir, name, content.is_none());
        }
        files.recording.before = before;
        files
    }

    /// The recording, when the program has ended.
    pub(crate) fn finish(mut self) -> Recording {
        assert!(self.under_way.is_empty(), "the program ended inside a call on its files");
        self.recording.ops.sort_by_key(|op| op.begin);
        self.recording.end += 1;
        self.recording
    }

    fn tick(&mut self) -> Instant {
        self.recording.end += 1;
        self.recording.end
    }

    /// A thread begins a call.
    pub(crate) fn enter(&mut self, thread: i32, number: i64, call: Call) {
        let Some(begun) = self.begin(number, call) else { return };
        let now = if begun.is_quiet() { self.recording.end } else { self.tick() };
        let nested = self.under_way.insert(thread, (now, begun));
        assert!(nested.is_none(), "thread {thread} began a call inside another one");
    }

    fn begin(&mut self, number: i64, call: Call) -> Option<Begun> {
        let change = match call {
            Call::Harmless => return None,
            Call::Open { path, flags } => {
                let path = self.inside(&path)?;
                let unknown =
                    libc::O_SYNC | libc::O_APPEND | (libc::O_TMPFILE & !libc::O_DIRECTORY);
                assert!(flags & unknown == 0, "open of {path:?} with {flags:#o}: not modelled");
                return Some(Begun::Open { path, flags });
            }
            Call::Close { fd } => {
                // From now on another thread may be given the number.
                self.fds.remove(&fd);
                return None;
            }
            Call::Dup { fd, over } => {
                over.map(|over| self.fds.remove(&over));
                return Some(Begun::Dup { node: *self.fds.get(&fd)? });
            }
            Call::Write { fd: 1, data, .. } if !self.fds.contains_key(&1) => {
                let text = String::from_utf8(data).expect("it says text");
                assert!(text.ends_with('\n'), "one line at a time: {text:?}");
                let now = self.tick();
                let lines = text.lines().map(|line| (now, line.to_owned()));
                self.recording.said.extend(lines);
                return None;
            }
            Call::Write { fd, offset, data, through } => {
                Change::Write { node: *self.fds.get(&fd)?, offset, data, through }
            }
            Call::SetLen { fd, len } => Change::SetLen { node: *self.fds.get(&fd)?, len },
            Call::Reserve { fd, len } => Change::Reserve { node: *self.fds.get(&fd)?, len },
            Call::Sync { fd, data_only } => Change::Sync { node: *self.fds.get(&fd)?, data_only },
            Call::Rename { from, to } => return self.begin_rename(&from, &to),
            Call::Remove { path } => {
                let (dir, name) = self.place(&self.inside(&path)?);
                Change::Remove { dir, name }
            }
            Call::MakeDir { path } => {
                let (dir, name) = self.place(&self.inside(&path)?);
                Change::Make { dir, name, node: 0, is_dir: true }
            }
            Call::Unknown { fds, paths } => {
                let of_ours = fds.iter().any(|fd| self.fds.contains_key(fd))
                    || paths.iter().any(|path| Path::new(path).starts_with(&self.root));
                assert!(!of_ours, "system call {number} on recorded files: not modelled");
                return None;
            }
        };
        Some(Begun::Change(change))
    }

    fn begin_rename(&self, from: &calls::Path, to: &calls::Path) -> Option<Begun> {
        let (from, to) = match (self.inside(from), self.inside(to)) {
            (None, None) => return None,
            (Some(from), Some(to)) => (self.place(&from), self.place(&to)),
            half => panic!("a rename into or out of the recorded directory: {half:?}"),
        };
        assert_eq!(from.0, to.0, "a rename from one directory to another: not modelled");
        let node = self.names(from.0).get(&from.1).copied();
        // Without such a file the call fails, and then nobody looks at the number.
        let node = node.unwrap_or(0);
        let change = Change::Rename { dir: from.0, from: from.1, to: to.1, node };
        Some(Begun::Change(change))
    }

    /// A thread ended the call that it began.
    pub(crate) fn exit(&mut self, thread: i32, result: i64) {
        let Some((begin, begun)) = self.under_way.remove(&thread) else { return };
        if result < 0 {
            return;
        }
        let end = if begun.is_quiet() { begin } else { self.tick() };
        let fd = i32::try_from(result);
        match begun {
            Begun::Dup { node } => {
                self.fds.insert(fd.expect("a descriptor"), node);
            }
            Begun::Open { path, flags } => {
                let node = self.opened(&path, flags, begin, end);
                self.fds.insert(fd.expect("a descriptor"), node);
            }
            Begun::Change(mut change) => {
                self.carry_out(&mut change, result);
                self.recording.ops.push(Op { begin, end, change });
            }
        }
    }

    fn opened(&mut self, path: &Path, flags: i32, begin: Instant, end: Instant) -> Node {
        if path.as_os_str().is_empty() {
            return 0;
        }
        let (dir, name) = self.place(path);
        if let Some(node) = self.names(dir).get(&name).copied() {
            if flags & libc::O_TRUNC != 0 {
                let change = Change::SetLen { node, len: 0 };
                self.recording.ops.push(Op { begin, end, change });
            }
            return node;
        }
        assert!(flags & libc::O_CREAT != 0, "{path:?} was opened, but nobody made it");
        let node = self.add(dir, name.clone(), false);
        let change = Change::Make { dir, name, node, is_dir: false };
        self.recording.ops.push(Op { begin, end, change });
        node
    }

    fn carry_out(&mut self, change: &mut Change, result: i64) {
        match change {
            Change::Make { dir, name, node, is_dir } => {
                *node = self.add(*dir, name.clone(), *is_dir);
            }
            Change::Rename { dir, from, to, node } => {
                let moved = self.names_mut(*dir).remove(from);
                assert_eq!(moved, Some(*node), "{from} was renamed to {to}, but nobody made it");
                self.names_mut(*dir).insert(to.clone(), *node);
            }
            Change::Remove { dir, name } => {
                let removed = self.names_mut(*dir).remove(name);
                assert!(removed.is_some(), "{name} was removed, but nobody made it");
            }
            Change::Write { data, .. } => {
                data.truncate(usize::try_from(result).expect("it is not negative"));
            }
            Change::SetLen { .. } | Change::Reserve { .. } | Change::Sync { .. } => {}
        }
    }

    /// The path from the root, if it is below it.
    fn inside(&self, path: &calls::Path) -> Option<PathBuf> {
        let text = Path::new(&path.text);
        if text.is_absolute() {
            return text.strip_prefix(&self.root).ok().map(Path::to_owned);
        }
        assert!(!self.fds.contains_key(&path.at), "{path:?} in a recorded directory: not modelled");
        None
    }

    /// The directory and the name in it.
    fn place(&self, path: &Path) -> (Node, String) {
        let mut parts: Vec<_> = path.iter().map(|part| part.to_string_lossy()).collect();
        let name = parts.pop().expect("the root itself is not made or removed").into_owned();
        let dir = parts.iter().fold(0, |dir, part| {
            let found = self.names(dir).get(part.as_ref()).copied();
            found.unwrap_or_else(|| panic!("{path:?}: nobody made {part}"))
        });
        (dir, name)
    }

    fn names(&self, dir: Node) -> &BTreeMap<String, Node> {
        self.nodes[dir].as_ref().expect("a name is in a directory")
    }

    fn names_mut(&mut self, dir: Node) -> &mut BTreeMap<String, Node> {
        self.nodes[dir].as_mut().expect("a name is in a directory")
    }

    fn add(&mut self, dir: Node, name: String, is_dir: bool) -> Node {
        let node = self.nodes.len();
        self.nodes.push(is_dir.then(BTreeMap::new));
        self.names_mut(dir).insert(name, node);
        node
    }
}
