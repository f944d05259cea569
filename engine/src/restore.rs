//! Reading a processor's state back: down the chain of its checkpoints, newest first (F-13).
//!
//! ```text
//! newest checkpoint with state -> the one before -> .. -> snapshot and its parts (or first delta)
//! ```
//!
//! A walk begins when everything staged before it is durable, so all that its links name is on
//! disk. Segments do not go while any walk is under way. What a walk returns owns its memory: a
//! delta of a few bytes does not keep the megabyte alive that it was read with.
//!
//! Not here: who may restore (`owner`), and writing chains elsewhere (`retention`).

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use rustc_hash::FxHashMap;

use crate::carry::Carry;
use crate::error::{Damaged, ProcessorError, Stopped};
use crate::format::control::{ChainLink, Checkpoint, CheckpointState, Control, Link};
use crate::format::entry::Entry;
use crate::io::Completion;
use crate::limits::{KIB, MIB};
use crate::position::{Epoch, ReaderId, SegmentId};
use crate::replay::control_records;
use crate::reply::Reply;
use crate::request::{Answer, Restored};
use crate::shard::{Purpose, ReadFor, Shard};

/// The first read of an entry: most control sections end before this.
const PROBE_SIZE: u64 = 64 * KIB as u64;
/// Checkpoints closer than this are read together.
const NEAR: u32 = 256 * KIB;
/// Bytes of such a read.
const WINDOW_SIZE: u64 = MIB as u64;

/// One element of a state chain, as it was read.
pub(crate) struct ChainItem {
    pub(crate) checkpoint: Checkpoint,
    /// The parts of a snapshot.
    pub(crate) parts: Vec<Bytes>,
}

/// Why a chain is read.
pub(crate) enum WalkFor {
    Restore(Reply<Restored, ProcessorError>),
    /// To be carried forward.
    Carry,
}

/// A chain that is being read, newest first.
pub(crate) struct Walk {
    pub(crate) reader: ReaderId,
    epoch: Epoch,
    /// How often the chain had begun anew when the walk began.
    pub(crate) chains: u64,
    /// The segment that was active then.
    pub(crate) active: SegmentId,
    purpose: WalkFor,
    /// The checkpoint to read next.
    next: Option<ChainLink>,
    /// From here down the chain had been carried elsewhere when the walk began. Copies that are
    /// staged later are not on disk when they are met; segments do not go while a walk reads.
    carried: Option<ChainLink>,
    /// Parts of the snapshot in `items.last()` still to be read, in order.
    parts: VecDeque<Link>,
    /// The entry that is being read, and whether whole.
    reading: Link,
    whole: bool,
    /// What was read last, and where it stands. Chains are walked backwards, so it ends a little
    /// behind the entry that it was read for.
    window: (Link, Bytes),
    pub(crate) items: Vec<ChainItem>,
}

/// Chains that are being read.
#[derive(Default)]
pub(crate) struct Walks {
    walks: FxHashMap<u64, Walk>,
    next: u64,
    /// The chain that is carried forward.
    pub(crate) carry: Carry,
    /// Segments that nothing needs, whose files wait for reads to end.
    pub(crate) freed: Vec<SegmentId>,
    /// Freeing a segment could not be staged.
    pub(crate) try_again: bool,
}

impl Walks {
    /// The shard stopped: whoever waits for its epoch to be durable is told so.
    pub(crate) fn stop(&mut self, stopped: &Stopped, answers: &mut VecDeque<Answer>) {
        // What was begun goes on: the chain that it reads is durable.
        let waiting: Vec<_> = self.walks.iter().filter(|(_, walk)| !walk.has_begun()).collect();
        let mut ids: Vec<u64> = waiting.into_iter().map(|(id, _)| *id).collect();
        ids.sort_unstable();
        for id in ids {
            let walk = self.walks.remove(&id).expect("it was just seen");
            if let WalkFor::Restore(reply) = walk.purpose {
                answers.push_back(Answer::other(reply, Err(stopped.clone().into())));
            }
        }
    }

    /// Whether any chain is being read, or about to be.
    pub(crate) fn are_under_way(&self) -> bool {
        !self.walks.is_empty()
    }
}

impl Walk {
    /// The bytes at a link, if the whole header and control section were read already.
    fn in_window(&self, link: Link) -> Option<Bytes> {
        let (begin, bytes) = &self.window;
        let skip = link.offset.checked_sub(begin.offset)? as usize;
        if begin.segment != link.segment || skip >= bytes.len() {
            return None;
        }
        let entry = Entry::parse(&bytes[skip..])?;
        let control = entry.control()?;
        let end = skip + control.offset as usize + control.len as usize;
        (end <= bytes.len()).then(|| bytes.slice(skip..))
    }

    fn has_begun(&self) -> bool {
        self.reading.segment.0 != 0 || !self.items.is_empty()
    }
}

impl Shard {
    /// A walk down the chain of a processor; it begins with [`begin_walk`](Self::begin_walk).
    pub(crate) fn add_walk(&mut self, reader: ReaderId, purpose: WalkFor) -> u64 {
        let state = self.catalog.reader(reader).expect("the caller found it");
        let id = self.walks.next;
        self.walks.next += 1;
        let nowhere = Link { segment: SegmentId(0), offset: 0, index: 0 };
        let walk = Walk {
            reader,
            epoch: state.stored.epoch,
            chains: state.chains,
            active: self.journal.active().map_or(SegmentId(0), |active| active.segment),
            purpose,
            next: state.stored.head,
            carried: state.stored.carried,
            parts: VecDeque::new(),
            reading: nowhere,
            whole: false,
            window: (nowhere, Bytes::new()),
            items: Vec::new(),
        };
        self.walks.walks.insert(id, walk);
        id
    }

    /// Reads the newest checkpoint. Everything staged before the walk was added is durable now, so
    /// the chain from the head of that time is.
    pub(crate) fn begin_walk(&mut self, id: u64) {
        if self.walks.walks.contains_key(&id) {
            self.advance_walk(id);
        }
    }

    fn advance_walk(&mut self, id: u64) {
        loop {
            let walk = self.walks.walks.get_mut(&id).expect("it is being advanced");
            let link = match (walk.parts.front(), walk.next) {
                (Some(part), _) => *part,
                (None, Some(next)) => {
                    let moved = walk.carried.filter(|carried| carried.number == next.number);
                    moved.unwrap_or(next).link
                }
                (None, None) => return self.finish_walk(id),
            };
            let before = std::mem::replace(&mut walk.reading, link);
            walk.whole = false;
            let in_memory = self.tail.get(link.segment, link.offset).cloned();
            let Some(bytes) = in_memory.or_else(|| walk.in_window(link)) else {
                return self.read_chain(id, before, link);
            };
            if !self.walk_bytes(id, &bytes, true) {
                return;
            }
        }
    }

    /// Reads the entry at a link, and much before it if the chain is dense here.
    fn read_chain(&mut self, id: u64, before: Link, link: Link) {
        let near = before.segment == link.segment
            && link.offset <= before.offset
            && before.offset - link.offset < NEAR;
        let end = u64::from(link.offset) + PROBE_SIZE;
        let begin = if near { end.saturating_sub(WINDOW_SIZE) } else { link.offset.into() };
        let walk = self.walks.walks.get_mut(&id).expect("it is being advanced");
        let offset = u32::try_from(begin).expect("not behind the link");
        walk.window = (Link { offset, ..link }, Bytes::new());
        self.reads.enqueue(
            Purpose::Read(ReadFor::Walk(id)),
            link.segment,
            begin,
            end - begin,
            false,
        );
    }

    /// An entry of the chain was read.
    pub(crate) fn walk_read(&mut self, id: u64, done: Completion) {
        let Some(walk) = self.walks.walks.get_mut(&id) else {
            unreachable!("a walk that reads is kept")
        };
        self.reads.used(walk.reading.segment);
        let whole = walk.whole;
        match done.result {
            Ok(count) => {
                let mut bytes = done.buf.expect("a read gives its buffer back").freeze();
                bytes.truncate(count as usize);
                walk.window.1 = bytes;
                let skip = (walk.reading.offset - walk.window.0.offset) as usize;
                let bytes = walk.window.1.slice(skip.min(walk.window.1.len())..);
                if self.walk_bytes(id, &bytes, whole) {
                    self.advance_walk(id);
                }
            }
            Err(error) => self.fail_walk(id, ProcessorError::Io(error)),
        }
    }

    /// Takes the record out of its entry; `false` if the walk does not go on from here.
    fn walk_bytes(&mut self, id: u64, bytes: &Bytes, whole: bool) -> bool {
        let walk = self.walks.walks.get_mut(&id).expect("it is being advanced");
        let link = walk.reading;
        let place = self.config.place(link.segment);
        let place = crate::format::Place { offset: link.offset, ..place };
        let entry = Entry::parse(bytes).filter(|entry| entry.stands_at(&place));
        let control = entry.as_ref().and_then(|entry| entry.control());
        let end = control.map(|head| head.offset as usize + head.len as usize);
        if !whole && end.is_none_or(|end| end > bytes.len()) {
            walk.whole = true;
            walk.window = (link, Bytes::new());
            let (segment, offset) = (link.segment, link.offset.into());
            let len = self.journal.entry_size_max().into();
            self.reads.enqueue(Purpose::Read(ReadFor::Walk(id)), segment, offset, len, false);
            return false;
        }
        let found = match (&entry, control, end) {
            (Some(entry), Some(head), Some(end)) if end <= bytes.len() => {
                let part = &bytes[head.offset as usize..end];
                head.matches(&entry.head.place, part).then(|| control_records(entry, bytes))
            }
            _ => None,
        };
        let records = found.flatten();
        let record = records.and_then(|records| records.into_iter().nth(link.index as usize));
        let taken = record.is_some_and(|record| self.take_chain_record(id, record));
        if !taken {
            let damage = self.chain_damage(id, link);
            self.fail_walk(id, ProcessorError::Damaged(damage));
        }
        taken
    }

    /// Adds what was read to the chain; `false` if it is not what the link promised.
    fn take_chain_record(&mut self, id: u64, record: Control) -> bool {
        let walk = self.walks.walks.get_mut(&id).expect("it is being advanced");
        if walk.parts.pop_front().is_some() {
            let Control::SnapshotPart { reader, bytes } = record else { return false };
            walk.items.last_mut().expect("a snapshot has parts").parts.push(detached(&bytes));
            return reader == walk.reader;
        }
        let expected = walk.next.expect("a checkpoint was read").number;
        let Control::Checkpoint(mut checkpoint) = record else { return false };
        if checkpoint.reader != walk.reader || checkpoint.number != expected {
            return false;
        }
        walk.next = checkpoint.previous;
        let follows = |previous: ChainLink| previous.number < expected;
        let ok = match &mut checkpoint.state {
            CheckpointState::None => false,
            CheckpointState::Delta(bytes) => {
                *bytes = detached(bytes);
                checkpoint.previous.is_none_or(follows)
            }
            CheckpointState::Snapshot { parts, last } => {
                *last = detached(last);
                walk.parts = parts.iter().copied().collect();
                checkpoint.previous.is_none()
            }
        };
        walk.items.push(ChainItem { checkpoint, parts: Vec::new() });
        ok
    }

    fn chain_damage(&self, id: u64, link: Link) -> Damaged {
        let walk = &self.walks.walks[&id];
        let name = self.catalog.reader(walk.reader).map(|state| state.stored.name.as_str());
        Damaged {
            shard: self.config.shard,
            segment: link.segment,
            offset: link.offset.into(),
            what: "the checkpoint that should stand there is not valid",
            at_risk: format!("the state of processor {:?}", name.unwrap_or_default()),
        }
    }

    fn fail_walk(&mut self, id: u64, error: ProcessorError) {
        let walk = self.walks.walks.remove(&id).expect("it is being advanced");
        // Its segments may have gone with the processor, or with the state of an older owner.
        let newer = self.catalog.reader(walk.reader).map_or(walk.epoch, |r| r.stored.epoch);
        let gone = self.catalog.reader(walk.reader).is_none() || newer != walk.epoch;
        let error = if gone { ProcessorError::Fenced { newer } } else { error };
        match walk.purpose {
            WalkFor::Restore(reply) => {
                // Segments could not go while it read.
                self.retention_due = true;
                self.answer(Answer::other(reply, Err(error)));
            }
            WalkFor::Carry => {
                tracing::warn!(shard = self.config.shard.get(), %error,
                    "a processor's state cannot be carried forward; its segment is kept");
                self.carry_failed();
            }
        }
    }

    fn finish_walk(&mut self, id: u64) {
        let walk = self.walks.walks.remove(&id).expect("it is being advanced");
        self.retention_due = true;
        let (reply, mut walk) = match walk {
            Walk { purpose: WalkFor::Restore(reply), .. } => {
                (reply, Walk { purpose: WalkFor::Carry, ..walk })
            }
            walk => return self.carry(walk),
        };
        let state = self.catalog.reader(walk.reader);
        let stored = match state.map(|state| &state.stored) {
            Some(stored) if stored.epoch == walk.epoch => stored,
            stored => {
                let newer = stored.map_or(walk.epoch, |stored| stored.epoch);
                let error = ProcessorError::Fenced { newer };
                return self.answer(Answer::other(reply, Err(error)));
            }
        };
        let mut restored = Restored {
            reader: walk.reader,
            epoch: walk.epoch,
            positions: stored.sources.clone(),
            snapshot: None,
            deltas: Vec::with_capacity(walk.items.len()),
            commits: stored.number,
        };
        walk.items.reverse();
        for item in walk.items {
            match item.checkpoint.state {
                CheckpointState::None => unreachable!("it is not part of a chain"),
                CheckpointState::Delta(bytes) => restored.deltas.push(bytes),
                CheckpointState::Snapshot { last, .. } => {
                    let mut whole = BytesMut::new();
                    item.parts.iter().for_each(|part| whole.extend_from_slice(part));
                    whole.extend_from_slice(&last);
                    restored.snapshot = Some(whole.freeze());
                }
            }
        }
        self.answer_now(Answer::other(reply, Ok(restored)));
    }
}

/// A copy that keeps no more memory than it needs.
fn detached(bytes: &Bytes) -> Bytes {
    Bytes::copy_from_slice(bytes)
}
