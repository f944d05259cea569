//! The runner where io_uring is refused: each operation is carried out as it is submitted.
//!
//! ```text
//! Op -> submit: pwritev2 / fdatasync / pread -> Completion -> queue -> reap
//! wait: sleeps on the bell, but only if the queue is empty
//! ```
//!
//! Invariants:
//! - An operation is over when `submit` returns; the queue only keeps its completion.
//! - A durable write is either written with `RWF_DSYNC`, or written and then synced.
//!
//! Not here: which operations there are and in what order, and operations on whole files (`files`).

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ReadWriteFlags, pwritev2, retry_on_intr};

use crate::buf::Buf;
use crate::files::{FileTable, ShardDir};
use crate::inbox::Bell;
use crate::io::{Completion, Op, OpKind};
use crate::limits::BLOCK_SIZE;
use crate::position::SegmentId;

/// The plain runner.
pub struct Plain {
    files: FileTable,
    bell: Bell,
    queue: Vec<Completion>,
    /// Whether the kernel and the file system know `RWF_DSYNC`.
    dsync: bool,
    /// Rings of the bell that were heard.
    bells: u64,
}

impl Plain {
    /// A runner for the files of `dir`, which wakes when `bell` rings.
    #[must_use]
    pub fn new(dir: Arc<ShardDir>, bell: Bell) -> Self {
        Self { files: FileTable::new(dir), bell, queue: Vec::new(), dsync: true, bells: 0 }
    }

    /// A runner for writes alone, which go to the newest segments: few files stay open.
    #[must_use]
    pub fn for_writes(dir: Arc<ShardDir>, bell: Bell) -> Self {
        let files = FileTable::of(dir, 4);
        Self { files, bell, queue: Vec::new(), dsync: true, bells: 0 }
    }

    /// Rings of the bell that were heard.
    #[must_use]
    pub fn bells(&self) -> u64 {
        self.bells
    }

    /// Operations whose completion was not yet handed out.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.queue.len()
    }

    /// Carries a `Write`, `Sync` or `Read` out.
    pub fn submit(&mut self, op: Op) {
        let (result, buf) = match op.kind {
            OpKind::Write { segment, offset, buf, durable } => {
                let direct = self.files.dir().is_direct();
                let done = self.on(segment, |dsync, file| {
                    let dsync = durable.then_some(dsync);
                    write(file, buf.as_slice(), offset, direct, dsync)
                });
                (done, Some(buf))
            }
            OpKind::Read { segment, offset, mut buf } => {
                let direct = self.files.dir().is_direct();
                let done = self.on(segment, |_, file| read(file, &mut buf, offset, direct));
                (done, Some(buf))
            }
            OpKind::Sync { segment } => (self.on(segment, |_, file| sync_data(file)), None),
            other => panic!("{other:?} is no operation of the runner"),
        };
        let count = |total| u32::try_from(total).expect("a buffer is at most 16 MiB");
        let result = result.map(count).map_err(Into::into);
        self.queue.push(Completion { id: op.id, result, buf, side: None });
    }

    /// Closes the file of a segment that goes away.
    pub fn forget(&mut self, segment: SegmentId) {
        let _ = self.files.forget(segment);
    }

    /// Hands out the completions.
    pub fn reap(&mut self, out: &mut Vec<Completion>) {
        out.append(&mut self.queue);
    }

    /// Sleeps until the bell rings or the time is over, unless there are completions. `None`: there
    /// is no such time. Hands out the completions.
    ///
    /// # Errors
    /// The bell cannot be heard.
    pub fn wait(&mut self, timeout: Option<Duration>, out: &mut Vec<Completion>) -> io::Result<()> {
        self.reap(out);
        if !out.is_empty() {
            return Ok(());
        }
        // Longer than the kernel can count is for ever.
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let ready = match poll(&mut [PollFd::new(&self.bell, PollFlags::IN)], timeout.as_ref()) {
            // The caller looks around and comes back.
            Err(Errno::INTR) => 0,
            ready => ready?,
        };
        if ready > 0 {
            self.bells += 1;
            self.bell.hear()?;
        }
        Ok(())
    }

    fn on(
        &mut self,
        segment: SegmentId,
        run: impl FnOnce(&mut bool, &File) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let (slot, _) = self.files.take(segment)?;
        let done = run(&mut self.dsync, self.files.file(slot));
        self.files.give_back(slot);
        done
    }
}

/// Writes all of `bytes`. With `dsync` they are durable then; it becomes false where the kernel or
/// the file system does not know the flag.
fn write(
    file: &File,
    bytes: &[u8],
    offset: u64,
    direct: bool,
    mut dsync: Option<&mut bool>,
) -> io::Result<usize> {
    let mut done = 0;
    let mut unsynced = false;
    while done < bytes.len() {
        let flag = dsync.as_deref().is_some_and(|known| *known);
        let flags = if flag { ReadWriteFlags::DSYNC } else { ReadWriteFlags::empty() };
        let (rest, at) = ([IoSlice::new(&bytes[done..])], offset + done as u64);
        let count = match retry_on_intr(|| pwritev2(file, &rest, at, flags)) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) if flag => {
                if let Some(known) = dsync.as_deref_mut() {
                    *known = false;
                }
                continue;
            }
            Err(Errno::NOSYS) => file.write_at(&bytes[done..], at)?,
            count => count?,
        };
        unsynced |= !flag;
        let next = go_on_at(done + count, bytes.len(), direct);
        if next == done {
            return Err(io::ErrorKind::WriteZero.into());
        }
        done = next;
    }
    if dsync.is_some() && unsynced {
        sync_data(file)?;
    }
    Ok(done)
}

/// Fills `buf`, unless the file ends before.
pub(crate) fn read(file: &File, buf: &mut Buf, offset: u64, direct: bool) -> io::Result<usize> {
    let bytes = buf.as_mut_slice();
    let mut done = 0;
    while done < bytes.len() {
        let at = offset + done as u64;
        let count = match file.read_at(&mut bytes[done..], at) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            count => count?,
        };
        let next = go_on_at(done + count, bytes.len(), direct);
        if next == done {
            return Ok(done + count);
        }
        done = next;
    }
    Ok(done)
}

/// Where a transfer goes on after `total` of `len` bytes: direct I/O at a block.
fn go_on_at(total: usize, len: usize, direct: bool) -> usize {
    if direct && total < len { total - total % BLOCK_SIZE as usize } else { total }
}

/// `fdatasync`. An error is never tried again: the pages that failed may count as clean after it.
fn sync_data(file: &File) -> io::Result<usize> {
    retry_on_intr(|| rustix::fs::fdatasync(file))?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Host;
    use crate::inbox::inbox;
    use crate::io::OpId;
    use crate::position::ShardId;

    const BLOCK: usize = BLOCK_SIZE as usize;
    const SEGMENT: SegmentId = SegmentId(1);

    fn run(plain: &mut Plain, kind: OpKind) -> Completion {
        plain.submit(Op { id: OpId(3), kind });
        let mut out = Vec::new();
        plain.wait(None, &mut out).unwrap();
        assert_eq!((out.len(), plain.in_flight()), (1, 0));
        out.pop().unwrap()
    }

    #[test]
    fn writes_are_read_back_durable_or_not_with_the_flag_or_without() {
        let dir = tempfile::tempdir().unwrap();
        for direct in [false, Host::probe(dir.path()).direct_io] {
            let shard = Arc::new(ShardDir::open(dir.path(), ShardId(0), direct).unwrap());
            let path = shard.path().join("segment-0000000000000001.log");
            std::fs::write(path, vec![0; 4 * BLOCK]).unwrap();
            let (_inbox, outlet) = inbox::<()>(1).unwrap();
            let mut plain = Plain::new(shard, outlet.bell());
            for (byte, durable, dsync) in [(1, false, true), (2, true, true), (3, true, false)] {
                plain.dsync = dsync;
                let mut buf = Buf::zeroed(2 * BLOCK);
                buf.as_mut_slice().fill(byte);
                let (segment, offset) = (SEGMENT, BLOCK as u64);
                let done = run(&mut plain, OpKind::Write { segment, offset, buf, durable });
                assert_eq!(done.result.unwrap() as usize, 2 * BLOCK);
                run(&mut plain, OpKind::Sync { segment }).result.unwrap();
                let buf = Buf::zeroed(4 * BLOCK);
                let done = run(&mut plain, OpKind::Read { segment, offset, buf });
                assert_eq!(done.result.unwrap() as usize, 3 * BLOCK, "the file ends there");
                assert_eq!(done.buf.unwrap().as_slice()[2 * BLOCK - 1], byte);
            }
            let (segment, offset, buf) = (SegmentId(9), 0, Buf::zeroed(BLOCK));
            let done = run(&mut plain, OpKind::Read { segment, offset, buf });
            assert!(done.result.unwrap_err().is_not_found());
            assert_eq!(done.buf.unwrap().len(), BLOCK);
        }
    }

    #[test]
    fn it_sleeps_until_the_bell_rings_or_the_time_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let shard = Arc::new(ShardDir::open(dir.path(), ShardId(0), false).unwrap());
        let (_inbox, outlet) = inbox::<()>(1).unwrap();
        let mut plain = Plain::new(shard, outlet.bell());
        let mut out = Vec::new();
        outlet.bell().ring();
        plain.wait(None, &mut out).unwrap();
        assert_eq!(plain.bells(), 1);
        plain.wait(Some(Duration::from_millis(1)), &mut out).unwrap();
        assert_eq!(plain.bells(), 1);
    }
}
