//! A shard on segments that someone doctored: opened, read, written to, closed. It may refuse.
//!
//! Operations complete at once, in order. What a shard asks for that is not there is an error.
//!
//! Not here: crashes and faults (`disk`), and what the segments hold (`parsers`).

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind};

use bytes::Bytes;
use oncelog::change::{Author, Change, WriterAppend, WriterGrant, WriterInfo};
use oncelog::io::{Completion, Found, Now, Op, OpKind, Side};
use oncelog::reply::{Pending, Reply, pair};
use oncelog::request::{At, LogInfo, NewRecord, ReadRequest, Request, Wait};
use oncelog::shard::{Shard, ShardConfig};
use oncelog::{Epoch, LogId, LogOptions, SegmentId, ShardId, Stopped};

use crate::parse::mangle::{ENGINE, SEGMENT_SIZE, SHARD};
use crate::sim::asking::take;

/// Operations that opening a few segments, or one request, can take.
const OPS_MAX: u32 = 20_000;

/// The files, and the shard on them.
pub struct Doctored {
    shard: Shard,
    segments: BTreeMap<SegmentId, Vec<u8>>,
    indexes: BTreeMap<SegmentId, Bytes>,
    now: Now,
}

fn size(len: u64) -> usize {
    usize::try_from(len).expect("64-bit platforms only")
}

impl Doctored {
    /// Opens it and does everything with it that a client can, unless it refuses.
    ///
    /// # Panics
    /// If an answer or the end never comes.
    pub fn live(segments: BTreeMap<SegmentId, Vec<u8>>) -> bool {
        let config = ShardConfig {
            engine: ENGINE,
            shard: ShardId::new(SHARD),
            segment_size: SEGMENT_SIZE,
            begun: true,
            tail_cache_size: 0,
            sync_method: None,
        };
        let found: Vec<_> =
            segments.iter().map(|(id, file)| Found::Segment(*id, file.len() as u64)).collect();
        let now = Now { wall_us: 1_800_000_000_000_000, mono_us: 1 };
        let (shard, indexes) = (Shard::open(config, &found), BTreeMap::new());
        let mut own = Self { shard, segments, indexes, now };
        let opened = own.until(|own| own.shard.poll_opened());
        if opened.is_err() {
            return false;
        }
        own.look();
        let _ = own.ask(|reply| Request::Close { reply });
        own.until(|own| own.shard.is_finished().then_some(()));
        true
    }

    /// Reads every log, appends to it, opens every processor. Errors are fine.
    fn look(&mut self) {
        let logs = self.ask(|reply| Request::ListLogs {
            prefix: String::new(),
            after: String::new(),
            limit: usize::MAX,
            reply,
        });
        for info in logs.unwrap_or_default().into_iter().take(8) {
            self.read(&info);
            let log = info.id;
            let record = NewRecord { txid: None, payload: Bytes::from_static(b"new") };
            let _ =
                self.ask(|reply| Request::Append { log, author: Author::Anyone, record, reply });
            self.write_once(log);
        }
        let names = self.ask(|reply| Request::ListReaders { reply });
        let names = names.unwrap_or_default().into_iter().map(|info| info.name);
        for name in names.take(8) {
            let open = |reply| Request::OpenReader {
                name,
                sources: Vec::new(),
                change: false,
                owns: Vec::new(),
                reply,
            };
            let _ = self.ask(open);
        }
    }

    /// Each writer of the log sends its last batch again, then a new owner the next one.
    fn write_once(&mut self, log: LogId) {
        let writers = self.change(|reply| Change::ListWriters { log, reply });
        for writer in writers.unwrap_or_default().into_iter().take(4) {
            self.send(log, &writer, writer.epoch, writer.last);
            let (name, increasing, exclusive) = (Some(writer.name.clone()), false, false);
            let granted =
                self.change(|reply| Change::OpenWriter { log, name, increasing, exclusive, reply });
            if let Ok(WriterGrant { epoch, last }) = granted {
                self.send(log, &writer, epoch, last.wrapping_add(1));
            }
        }
        let replaces = None;
        let options = LogOptions::default().metadata("doctored").into();
        let _ = self.change(|reply| Change::SetOptions { log, options, replaces, reply });
        let _ = self.change(|reply| Change::ShareLog { log, reply });
        let author = Author::Anyone;
        let _ = self.change(|reply| Change::SealLog { log, author, reply });
    }

    fn send(&mut self, log: LogId, writer: &WriterInfo, epoch: Epoch, number: u64) {
        let record = NewRecord { txid: None, payload: Bytes::from_static(b"once") };
        let (name, records, exclusive) = (writer.name.as_str().into(), vec![record], false);
        let written = self.change(|reply| {
            Change::WriterAppend(WriterAppend {
                log,
                name,
                epoch,
                exclusive,
                number,
                records,
                reply,
            })
        });
        if let Ok(written) = written {
            assert!(written.appended.next() >= written.appended.first);
        }
    }

    fn change<T, E: From<Stopped>>(
        &mut self,
        change: impl FnOnce(Reply<T, E>) -> Change,
    ) -> Result<T, E> {
        self.ask(|reply| Request::Change(Box::new(change(reply))))
    }

    fn read(&mut self, info: &LogInfo) {
        let (log, bytes_max, wait) = (info.id, 1 << 16, Wait::No);
        for at in [At::Earliest, At::Latest, At::Sequence(info.first)] {
            let _ = self.ask(|reply| {
                Request::Read(ReadRequest {
                    log,
                    at,
                    bytes_max,
                    wait,
                    ahead: false,
                    planned: None,
                    reply,
                })
            });
        }
    }

    fn ask<T, E: From<Stopped>>(
        &mut self,
        request: impl FnOnce(Reply<T, E>) -> Request,
    ) -> Result<T, E> {
        let (reply, mut pending): (_, Pending<T, E>) = pair();
        self.until(|own| own.shard.wants_requests().then_some(()));
        self.shard.handle_request(request(reply), self.now);
        self.until(|_| take(&mut pending))
    }

    /// Runs operations until it is so.
    fn until<T>(&mut self, mut is_so: impl FnMut(&mut Self) -> Option<T>) -> T {
        for _ in 0..OPS_MAX {
            while let Some(answer) = self.shard.poll_answer() {
                answer.deliver();
            }
            if let Some(found) = is_so(self) {
                return found;
            }
            match self.shard.poll_op(self.now) {
                Some(op) => {
                    let done = self.run(op);
                    self.shard.handle_completion(done, self.now);
                }
                None => self.now.mono_us += 10_000,
            }
        }
        panic!("the shard does not get there");
    }

    fn run(&mut self, Op { id, kind }: Op) -> Completion {
        let mut done = Completion { id, result: Ok(0), buf: None, side: None };
        let missing = || Err(Error::from(ErrorKind::NotFound).into());
        match kind {
            OpKind::Write { segment, offset, buf, .. } => {
                let (begin, end) = (size(offset), size(offset) + buf.len());
                let file = self.segments.entry(segment).or_default();
                file.resize(file.len().max(end), 0);
                file[begin..end].copy_from_slice(buf.as_slice());
                done.result = Ok(u32::try_from(buf.len()).expect("an entry is small"));
                done.buf = Some(buf);
            }
            OpKind::Read { segment, offset, mut buf } => {
                match self.segments.get(&segment) {
                    Some(file) => {
                        let from = file.get(size(offset)..).unwrap_or_default();
                        let count = from.len().min(buf.len());
                        buf.as_mut_slice()[..count].copy_from_slice(&from[..count]);
                        done.result = Ok(u32::try_from(count).expect("reads are small"));
                    }
                    None => done.result = missing(),
                }
                done.buf = Some(buf);
            }
            OpKind::ReadSide { segment, .. } => match self.indexes.get(&segment) {
                Some(bytes) => done.side = Some(bytes.clone()),
                None => done.result = missing(),
            },
            OpKind::WriteSide { segment, side: Side::Index, bytes } => {
                self.indexes.insert(segment, bytes);
            }
            OpKind::UseSpare { segment, .. } => drop(self.segments.insert(segment, Vec::new())),
            OpKind::Recycle { segment, .. } | OpKind::RemoveSegment { segment } => {
                self.segments.remove(&segment);
                self.indexes.remove(&segment);
            }
            OpKind::Shorten { segment, len } => {
                self.segments.entry(segment).or_default().truncate(size(len));
            }
            OpKind::Sync { .. }
            | OpKind::Punch { .. }
            | OpKind::MakeSpare { .. }
            | OpKind::RemoveSpare { .. }
            | OpKind::Begin
            | OpKind::WriteSide { side: Side::Tail, .. } => {}
        }
        done
    }
}
