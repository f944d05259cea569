//! A recording as bytes, so that what one run met can be looked at again.
//!
//! Numbers are 8 bytes, little endian; bytes and texts follow their length.
//!
//! Not here: what a recording means (`files`).

use std::path::PathBuf;

use crate::recorder::files::{Change, Op, Recording};

impl Recording {
    /// As bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Out(Vec::new());
        out.number(u64::from(self.end));
        out.number(self.before.len() as u64);
        for (path, content) in &self.before {
            out.bytes(path.to_string_lossy().as_bytes());
            out.number(u64::from(content.is_some()));
            out.bytes(content.as_deref().unwrap_or_default());
        }
        out.number(self.said.len() as u64);
        for (at, line) in &self.said {
            out.number(u64::from(*at));
            out.bytes(line.as_bytes());
        }
        out.number(self.ops.len() as u64);
        for op in &self.ops {
            out.number(u64::from(op.begin));
            out.number(u64::from(op.end));
            out.change(&op.change);
        }
        out.0
    }

    /// From the bytes of [`to_bytes`](Self::to_bytes).
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut left = In(bytes);
        let mut recording = Self { end: left.small()?, ..Self::default() };
        for _ in 0..left.number()? {
            let path = PathBuf::from(left.text()?);
            let (is_file, content) = (left.number()? == 1, left.bytes()?.to_vec());
            recording.before.insert(path, is_file.then_some(content));
        }
        for _ in 0..left.number()? {
            recording.said.push((left.small()?, left.text()?));
        }
        for _ in 0..left.number()? {
            let (begin, end, change) = (left.small()?, left.small()?, left.change()?);
            recording.ops.push(Op { begin, end, change });
        }
        left.0.is_empty().then_some(recording)
    }
}

struct Out(Vec<u8>);

impl Out {
    fn number(&mut self, number: u64) {
        self.0.extend(number.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend(bytes);
    }

    fn numbers(&mut self, numbers: [u64; 4]) {
        numbers.into_iter().for_each(|number| self.number(number));
    }

    fn change(&mut self, change: &Change) {
        match change {
            Change::Make { dir, name, node, is_dir } => {
                self.numbers([0, *dir as u64, *node as u64, u64::from(*is_dir)]);
                self.bytes(name.as_bytes());
            }
            Change::Rename { dir, from, to, node } => {
                self.numbers([1, *dir as u64, *node as u64, 0]);
                self.bytes(from.as_bytes());
                self.bytes(to.as_bytes());
            }
            Change::Remove { dir, name } => {
                self.numbers([2, *dir as u64, 0, 0]);
                self.bytes(name.as_bytes());
            }
            Change::Write { node, offset, data, through } => {
                self.numbers([3, *node as u64, *offset, u64::from(*through)]);
                self.bytes(data);
            }
            Change::SetLen { node, len } => self.numbers([4, *node as u64, *len, 0]),
            Change::Reserve { node, len } => self.numbers([5, *node as u64, *len, 0]),
            Change::Sync { node, data_only } => {
                self.numbers([6, *node as u64, u64::from(*data_only), 0]);
            }
        }
    }
}

struct In<'a>(&'a [u8]);

impl<'a> In<'a> {
    fn number(&mut self) -> Option<u64> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*number))
    }

    fn small(&mut self) -> Option<u32> {
        self.number()?.try_into().ok()
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.number()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?.to_vec()).ok()
    }

    fn change(&mut self) -> Option<Change> {
        let (kind, node) = (self.number()?, usize::try_from(self.number()?).ok()?);
        let (first, second) = (self.number()?, self.number()?);
        let other = usize::try_from(first).ok()?;
        Some(match kind {
            0 => {
                let (dir, node, is_dir) = (node, other, second == 1);
                Change::Make { dir, name: self.text()?, node, is_dir }
            }
            1 => {
                let (from, to) = (self.text()?, self.text()?);
                Change::Rename { dir: node, from, to, node: other }
            }
            2 => Change::Remove { dir: node, name: self.text()? },
            3 => {
                let (data, through) = (self.bytes()?.to_vec(), second == 1);
                Change::Write { node, offset: first, data, through }
            }
            4 => Change::SetLen { node, len: first },
            5 => Change::Reserve { node, len: first },
            6 => Change::Sync { node, data_only: first == 1 },
            _ => return None,
        })
    }
}
