//! Tests of the ring: real files, a real kernel; skipped where io_uring is refused.
//!
//! Not here: what runs in a whole engine (`tests/` of the workspace).

use bytes::BufMut;

use super::*;
use crate::buf::Pool;
use crate::host::{DirLock, Host};
use crate::inbox::{Inbox, inbox};
use crate::position::ShardId;

const BLOCK: usize = BLOCK_SIZE as usize;
const SEGMENT: SegmentId = SegmentId(1);

struct Bench {
    ring: Uring,
    inbox: Inbox<()>,
    // After the ring, like everything that it needs.
    _outlet: crate::inbox::Outlet<()>,
    lock: DirLock,
    dir: tempfile::TempDir,
}

/// A ring over one segment of 64 blocks, or `None` where io_uring is refused.
fn bench(direct: bool) -> Option<Bench> {
    let dir = tempfile::tempdir().unwrap();
    let direct = direct && Host::probe(dir.path()).direct_io;
    let shard = Arc::new(ShardDir::open(dir.path(), ShardId(0), direct).unwrap());
    let path = shard.path().join("segment-0000000000000001.log");
    std::fs::write(path, vec![0; 64 * BLOCK]).unwrap();
    let lock = DirLock::acquire(dir.path()).unwrap();
    let (inbox, outlet) = inbox(1).unwrap();
    match Uring::new(shard, outlet.bell(), lock.file()) {
        Ok(ring) => Some(Bench { ring, inbox, _outlet: outlet, lock, dir }),
        Err(error) => {
            eprintln!("skipped: {error}");
            None
        }
    }
}

impl Bench {
    fn all(&mut self) -> Vec<Completion> {
        let mut out = Vec::new();
        while self.ring.in_flight() > 0 {
            let mut some = Vec::new();
            self.ring.wait(None, &mut some).unwrap();
            out.append(&mut some);
        }
        out.sort_by_key(|done| done.id);
        out
    }

    fn read(&mut self, segment: SegmentId, offset: usize, len: usize) -> Completion {
        let (offset, buf) = (offset as u64, Buf::zeroed(len));
        self.ring.submit(Op { id: OpId(99), kind: OpKind::Read { segment, offset, buf } });
        self.all().pop().unwrap()
    }
}

fn write(id: u32, buf: Buf, offset: usize, durable: bool) -> Op {
    let (segment, offset) = (SEGMENT, offset as u64);
    Op { id: OpId(id), kind: OpKind::Write { segment, offset, buf, durable } }
}

#[test]
fn many_writes_in_flight_are_read_back() {
    for direct in [false, true] {
        let mut pool = Pool::new(16 * BLOCK, 2);
        let Some(mut bench) = bench(direct) else { return };
        for id in 0..8 {
            let byte = u8::try_from(id).unwrap() + 1;
            // Some from an arena, some not.
            let buf = if id % 3 == 0 {
                let mut buf = Buf::zeroed(2 * BLOCK);
                buf.as_mut_slice().fill(byte);
                buf
            } else {
                pool.build(2 * BLOCK, |bytes| bytes.put_bytes(byte, 2 * BLOCK))
            };
            bench.ring.submit(write(id, buf, id as usize * 2 * BLOCK, id % 2 == 0));
        }
        bench.ring.submit(Op { id: OpId(8), kind: OpKind::Sync { segment: SEGMENT } });
        let done = bench.all();
        assert_eq!(done.len(), 9);
        for (id, done) in done.iter().enumerate().take(8) {
            assert_eq!(*done.result.as_ref().unwrap() as usize, 2 * BLOCK);
            assert_eq!(done.buf.as_ref().unwrap().as_slice()[0] as usize, id + 1);
        }
        let done = bench.read(SEGMENT, 0, 17 * BLOCK);
        assert_eq!(done.result.unwrap() as usize, 17 * BLOCK);
        let bytes = done.buf.unwrap().freeze();
        assert!((0..17 * BLOCK).all(|n| {
            let id = n / (2 * BLOCK);
            bytes[n] as usize == if id < 8 { id + 1 } else { 0 }
        }));
        let counts = bench.ring.counts();
        assert!(counts.arenas + counts.arenas_refused > 0 || bench.ring.arenas.is_none());
    }
}

#[test]
fn a_read_at_the_end_of_the_file_is_short() {
    for direct in [false, true] {
        let Some(mut bench) = bench(direct) else { return };
        let file = bench.ring.files.dir().open_segment(SEGMENT).unwrap();
        file.set_len(3 * BLOCK as u64 + 100).unwrap();
        assert_eq!(bench.read(SEGMENT, 0, 8 * BLOCK).result.unwrap() as usize, 3 * BLOCK + 100);
        assert_eq!(bench.read(SEGMENT, 8 * BLOCK, BLOCK).result.unwrap(), 0);
    }
}

#[test]
fn a_missing_segment_fails_and_gives_the_buffer_back() {
    let Some(mut bench) = bench(true) else { return };
    let done = bench.read(SegmentId(7), 0, BLOCK);
    assert!(done.result.unwrap_err().is_not_found());
    assert_eq!(done.buf.unwrap().len(), BLOCK);
}

#[test]
fn short_transfers_go_on_where_they_stopped() {
    let Some(mut bench) = bench(true) else { return };
    let direct = bench.ring.files.dir().is_direct();
    let mut buf = Buf::zeroed(4 * BLOCK);
    for (n, byte) in buf.as_mut_slice().iter_mut().enumerate() {
        *byte = u8::try_from(n / BLOCK + 1).unwrap();
    }
    // As if the kernel had said so: the true completion comes first, then a made-up one.
    let (slot, _) = bench.ring.files.take(SEGMENT).unwrap();
    let fd = bench.ring.files.file(slot).as_raw_fd();
    bench.ring.register_file(slot, fd);
    let work = Work::Write { offset: 0, durable: true };
    let flight = Flight { id: OpId(1), file: slot, work, buf: Some(buf), done: 0, retries: 0 };
    bench.ring.flights.push(Some(flight));
    assert!(bench.ring.settle(0, -Errno::INTR.raw_os_error()).is_none(), "from the start");
    bench.ring.enter(1, None).unwrap();
    // The eventual count is the whole; before it, pretend that only part went through.
    let cqe = bench.ring.ring.completion().next().unwrap();
    assert_eq!(usize::try_from(cqe.result()).unwrap(), 4 * BLOCK);
    assert!(bench.ring.settle(0, i32::try_from(BLOCK + 5).unwrap()).is_none());
    let at = bench.ring.flights[0].as_ref().unwrap().done;
    assert_eq!(at, if direct { BLOCK } else { BLOCK + 5 });
    let done = bench.all().pop().unwrap();
    assert_eq!(done.result.unwrap() as usize, 4 * BLOCK);
    let read = bench.read(SEGMENT, 0, 5 * BLOCK).buf.unwrap();
    assert!((0..5).all(|n| read.as_slice()[n * BLOCK + 9] == [1, 2, 3, 4, 0][n]));
}

#[test]
fn the_bell_wakes_and_an_idle_ring_waits_for_its_time() {
    let Some(mut bench) = bench(true) else { return };
    let mut out = Vec::new();
    bench.ring.bell.ring();
    bench.ring.wait(None, &mut out).unwrap();
    bench.ring.bell.ring();
    bench.ring.wait(None, &mut out).unwrap();
    assert_eq!(bench.ring.counts().bells, 2);
    bench.ring.wait(Some(Duration::from_millis(1)), &mut out).unwrap();
    assert!(out.is_empty());
    assert_eq!(bench.inbox.rung(), 0);
}

#[test]
fn dropping_waits_for_the_kernel_and_lets_go_of_lock_and_files() {
    let Some(mut bench) = bench(true) else { return };
    for id in 0..8 {
        bench.ring.submit(write(id, Buf::zeroed(4 * BLOCK), id as usize * BLOCK, true));
    }
    bench.ring.flush().unwrap();
    let Bench { ring, lock, dir, .. } = bench;
    drop(ring);
    drop(lock);
    DirLock::acquire(dir.path()).unwrap();
}

#[test]
fn a_forgotten_segment_is_closed_in_the_ring_too() {
    let Some(mut bench) = bench(true) else { return };
    bench.read(SEGMENT, 0, BLOCK).result.unwrap();
    let path = bench.ring.files.dir().path().join("segment-0000000000000001.log");
    std::fs::remove_file(&path).unwrap();
    bench.read(SEGMENT, 0, BLOCK).result.unwrap();
    bench.ring.forget(SEGMENT);
    assert!(bench.read(SEGMENT, 0, BLOCK).result.unwrap_err().is_not_found());
}
