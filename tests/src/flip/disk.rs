//! A closed data directory held in memory, and a shard that runs on it with one bit changed.
//!
//! ```text
//! directory --load--> Image (never changes, shared by threads)
//!                       '-- Flat: shard + what it wrote + one flip, applied to what is read
//! ```
//!
//! Operations complete at once and in order, so a run depends on nothing but the image, the flip
//! and the requests. Writes go to an overlay: the next flip begins with the same image, at no cost.
//!
//! Not here: crashes and failing disks (`disk`), and what a flip may lead to (`check`).

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind};
use std::path::Path;
use std::{fs, io};

use bytes::Bytes;
use oncelog::error::OpenError;
use oncelog::format::header::Superblock;
use oncelog::io::{Completion, Found, Now, Op, OpKind, Side, SpareId};
use oncelog::limits::BLOCK_SIZE;
use oncelog::reply::{Pending, pair};
use oncelog::request::Request;
use oncelog::shard::{Shard, ShardConfig};
use oncelog::{SegmentId, ShardId, Stopped};

use crate::sim::asking::take;

const BLOCK: usize = BLOCK_SIZE as usize;

/// A file of a shard's directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FlatFile {
    /// A segment.
    Segment(SegmentId),
    /// The index beside it.
    Index(SegmentId),
    /// A spare.
    Spare(SpareId),
}

/// What is changed: these bits of one byte.
#[derive(Clone, Copy, Debug)]
pub struct Flip {
    /// The file.
    pub file: FlatFile,
    /// Which byte.
    pub offset: usize,
    /// Which bits.
    pub mask: u8,
}

/// A directory with one shard as it stood when it was loaded.
#[derive(Clone)]
pub struct Image {
    superblock: Superblock,
    /// The files and what is in them.
    pub files: BTreeMap<FlatFile, Bytes>,
}

impl Image {
    /// Loads the directory of a closed engine with one shard.
    ///
    /// # Errors
    /// The system's.
    ///
    /// # Panics
    /// If there is no valid superblock, or a file of another name than the format has.
    pub fn load(dir: &Path) -> io::Result<Self> {
        let superblock = fs::read(dir.join("engine.meta"))?;
        let superblock = Superblock::decode(&superblock).expect("the first copy is whole");
        assert_eq!(superblock.shard_count, 1);
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(dir.join("shard-000"))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let file = parse(&name).unwrap_or_else(|| panic!("what is {name}?"));
            files.insert(file, fs::read(entry.path())?.into());
        }
        Ok(Self { superblock, files })
    }

    /// The same without some files.
    #[must_use]
    pub fn without(&self, gone: impl Fn(FlatFile) -> bool) -> Self {
        let mut left = self.clone();
        left.files.retain(|file, _| !gone(*file));
        left
    }

    /// Where a file stands in the directory.
    #[must_use]
    pub fn path(file: FlatFile) -> String {
        match file {
            FlatFile::Segment(segment) => format!("shard-000/segment-{:016x}.log", segment.get()),
            FlatFile::Index(segment) => format!("shard-000/segment-{:016x}.index", segment.get()),
            FlatFile::Spare(spare) => format!("shard-000/spare-{:08x}.log", spare.0),
        }
    }
}

fn parse(name: &str) -> Option<FlatFile> {
    let (stem, end) = name.rsplit_once('.')?;
    let (kind, digits) = stem.split_once('-')?;
    let number = u64::from_str_radix(digits, 16).ok()?;
    match (kind, end) {
        ("segment", "log") => Some(FlatFile::Segment(SegmentId::new(number))),
        ("segment", "index") => Some(FlatFile::Index(SegmentId::new(number))),
        ("spare", "log") => Some(FlatFile::Spare(SpareId(number))),
        _ => None,
    }
}

/// A file as it is now: what it was loaded with, cut off at `len`, and the blocks written since.
struct Live<'a> {
    origin: Option<FlatFile>,
    base: &'a [u8],
    len: usize,
    written: BTreeMap<usize, Vec<u8>>,
}

impl<'a> Live<'a> {
    fn loaded(origin: FlatFile, base: &'a [u8]) -> Self {
        Self { origin: Some(origin), base, len: base.len(), written: BTreeMap::new() }
    }

    fn read(&self, offset: usize, into: &mut [u8], flip: Option<Flip>) -> usize {
        let end = self.len.min(offset + into.len()).max(offset);
        let into = &mut into[..end - offset];
        let from_base = self.base.get(offset..end.min(self.base.len())).unwrap_or_default();
        into[..from_base.len()].copy_from_slice(from_base);
        into[from_base.len()..].fill(0);
        if let Some(flip) = flip.filter(|flip| Some(flip.file) == self.origin)
            && (offset..end).contains(&flip.offset)
        {
            into[flip.offset - offset] ^= flip.mask;
        }
        for (at, block) in self.written.range(offset - offset % BLOCK..end) {
            let skip = offset.saturating_sub(*at);
            let to = (at + skip) - offset;
            let count = (BLOCK - skip).min(into.len() - to);
            into[to..to + count].copy_from_slice(&block[skip..skip + count]);
        }
        into.len()
    }
}

/// A shard on an image with one flip.
pub struct Flat<'a> {
    shard: Shard,
    flip: Option<Flip>,
    segments: BTreeMap<SegmentId, Live<'a>>,
    spares: BTreeMap<SpareId, Live<'a>>,
    sides: BTreeMap<SegmentId, Bytes>,
    now: Now,
    /// Segments whose index was written anew.
    pub rebuilt: Vec<SegmentId>,
}

impl<'a> Flat<'a> {
    /// Opens the shard.
    ///
    /// # Errors
    /// As the shard says.
    pub fn open(image: &'a Image, flip: Option<Flip>) -> Result<Self, OpenError> {
        let (mut segments, mut spares) = (BTreeMap::new(), BTreeMap::new());
        let mut sides = BTreeMap::new();
        let mut found = Vec::new();
        for (file, bytes) in &image.files {
            let (live, len) = (Live::loaded(*file, bytes), bytes.len() as u64);
            match *file {
                FlatFile::Segment(segment) => {
                    segments.insert(segment, live);
                    found.push(Found::Segment(segment, len));
                }
                FlatFile::Spare(spare) => {
                    spares.insert(spare, live);
                    found.push(Found::Spare(spare, len));
                }
                FlatFile::Index(segment) => {
                    let mut bytes = bytes.clone();
                    if let Some(flip) = flip.filter(|flip| flip.file == *file) {
                        let mut changed = bytes.to_vec();
                        changed[flip.offset] ^= flip.mask;
                        bytes = changed.into();
                    }
                    sides.insert(segment, bytes);
                }
            }
        }
        let shard = ShardId::new(0);
        let config = ShardConfig {
            engine: image.superblock.engine,
            shard,
            segment_size: image.superblock.segment_size,
            begun: image.superblock.has_begun(shard),
            tail_cache_size: 1 << 20,
            sync_method: None,
        };
        let shard = Shard::open(config, &found);
        let now = Now { wall_us: image.superblock.created_us + 3_600_000_000, mono_us: 0 };
        let mut flat = Self { shard, flip, segments, spares, sides, now, rebuilt: Vec::new() };
        loop {
            match flat.shard.poll_opened() {
                Some(opened) => break opened.map(|()| flat),
                None => assert!(flat.step(), "opening never ends"),
            }
        }
    }

    /// What the shard answers to a request.
    ///
    /// # Panics
    /// If it never does.
    pub fn ask<T, E: From<Stopped>>(
        &mut self,
        request: impl FnOnce(oncelog::reply::Reply<T, E>) -> Request,
    ) -> Result<T, E> {
        let (reply, mut pending) = pair();
        self.settle();
        assert!(self.shard.wants_requests(), "everything before was answered");
        self.shard.handle_request(request(reply), self.now);
        self.answer(&mut pending)
    }

    fn answer<T, E: From<Stopped>>(&mut self, pending: &mut Pending<T, E>) -> Result<T, E> {
        loop {
            let worked = self.step();
            if let Some(answer) = take(pending) {
                return answer;
            }
            assert!(worked, "a request gets no answer");
        }
    }

    /// Runs until nothing is under way.
    fn settle(&mut self) {
        let mut steps = 0;
        while self.step() {
            steps += 1;
            assert!(steps < 100_000, "the shard never comes to rest");
        }
    }

    /// One operation; `false` if there was none.
    fn step(&mut self) -> bool {
        let op = self.shard.poll_op(self.now);
        let worked = op.is_some();
        if let Some(op) = op {
            let done = self.run(op);
            self.shard.handle_completion(done, self.now);
        }
        while let Some(answer) = self.shard.poll_answer() {
            answer.deliver();
        }
        worked
    }

    fn run(&mut self, Op { id, kind }: Op) -> Completion {
        let mut done = Completion { id, result: Ok(0), buf: None, side: None };
        let to_usize = |offset| usize::try_from(offset).expect("files are small");
        match kind {
            OpKind::Write { segment, offset, buf, .. } => {
                let file = self.segments.get_mut(&segment).expect("a write to a file");
                for (index, block) in buf.as_slice().chunks(BLOCK).enumerate() {
                    file.written.insert(to_usize(offset) + index * BLOCK, block.to_vec());
                }
                done.result = Ok(u32::try_from(buf.len()).expect("an entry is small"));
                done.buf = Some(buf);
            }
            OpKind::Read { segment, offset, mut buf } => {
                let file = self.segments.get(&segment).expect("a read of a file");
                let count = file.read(to_usize(offset), buf.as_mut_slice(), self.flip);
                done.result = Ok(u32::try_from(count).expect("reads are small"));
                done.buf = Some(buf);
            }
            OpKind::ReadSide { segment, side: Side::Index } => match self.sides.get(&segment) {
                Some(bytes) => done.side = Some(bytes.clone()),
                None => done.result = Err(Error::from(ErrorKind::NotFound).into()),
            },
            kind => self.run_on_files(kind),
        }
        done
    }

    fn run_on_files(&mut self, kind: OpKind) {
        match kind {
            OpKind::MakeSpare { spare, size, .. } => {
                let len = usize::try_from(size).expect("segments are small");
                let zeros = Live { origin: None, base: &[], len, written: BTreeMap::new() };
                self.spares.insert(spare, zeros);
            }
            OpKind::UseSpare { spare, segment } => {
                let file = self.spares.remove(&spare).expect("a spare that is there");
                assert!(self.segments.insert(segment, file).is_none(), "a name is given once");
            }
            OpKind::Recycle { segment, spare } => {
                let file = self.segments.remove(&segment).expect("a segment that is there");
                self.sides.remove(&segment);
                self.spares.insert(spare, file);
            }
            OpKind::RemoveSegment { segment } => {
                self.segments.remove(&segment);
                self.sides.remove(&segment);
            }
            OpKind::RemoveSpare { spare } => drop(self.spares.remove(&spare)),
            OpKind::Shorten { segment, len } => {
                let file = self.segments.get_mut(&segment).expect("a segment that is there");
                file.len = usize::try_from(len).expect("files are small");
                drop(file.written.split_off(&file.len));
            }
            OpKind::WriteSide { segment, side: Side::Index, bytes } => {
                self.rebuilt.push(segment);
                self.sides.insert(segment, bytes);
            }
            // What is kept for people is never read again, and where holes would be neither.
            OpKind::WriteSide { side: Side::Tail, .. }
            | OpKind::Punch { .. }
            | OpKind::Sync { .. }
            | OpKind::Begin => {}
            OpKind::Write { .. } | OpKind::Read { .. } | OpKind::ReadSide { .. } => {
                unreachable!("{kind:?} is no operation on files")
            }
        }
    }
}
