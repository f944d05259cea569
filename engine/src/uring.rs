//! The runner on io_uring: writes, syncs and reads of one shard, many at once.
//!
//! ```text
//! Op -> submit: file from the table, buffer into `flights` -> SQE -> enter -> kernel
//!         ^                                                                     |
//!         '- the rest, after a short transfer <- settle <- reap <- CQE ---------'
//!                                                  '-> Completion, with the buffer
//! ```
//!
//! Invariants:
//! - A buffer whose address the kernel has stays in `flights` until its completion was reaped; the
//!   bell's stays in `bell_buf`. Dropping the ring waits for all of them first.
//! - Each flight has at most one SQE, and there are fewer flights than SQEs: submitting never
//!   waits.
//! - Registered file `n + 1` is the file in slot `n` of the table, or nothing; file 0 is the lock.
//! - The bell is always armed, except while its last ring waits to be reaped.
//!
//! Not here: which operations there are and in what order, and operations on whole files (`files`).
#![expect(unsafe_code, reason = "the kernel is given addresses of buffers; each block has a proof")]

use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::ptr;
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use io_uring::squeue::Entry;
use io_uring::types::{Fd, Fixed, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, Probe, opcode};
use rustix::io::{Errno, ReadWriteFlags};

use crate::buf::{Buf, Home};
use crate::files::{FILES_OPEN_MAX, FileSlot, FileTable, ShardDir};
use crate::inbox::Bell;
use crate::io::{Completion, IoError, Op, OpId, OpKind};
use crate::limits::{BLOCK_SIZE, RING_SIZE};
use crate::position::SegmentId;

/// Arenas that can be registered. A shard whose pool has more writes from the others as usual.
const ARENAS_MAX: u16 = 32;
/// Times that one operation is started again after `EINTR` or `EAGAIN`.
const RETRIES_MAX: u32 = 1000;

// `user_data` of a flight is its index.
const BELL: u64 = u64::MAX;
const CANCEL: u64 = u64::MAX - 1;

/// A way to transfer bytes on the file of a slot.
#[derive(Clone, Copy, Debug)]
enum Work {
    Write { offset: u64, durable: bool },
    Read { offset: u64 },
    Sync,
}

/// An operation that the kernel has, or that waits in the submission queue.
struct Flight {
    id: OpId,
    file: FileSlot,
    work: Work,
    buf: Option<Buf>,
    /// Bytes in front that were transferred.
    done: usize,
    retries: u32,
}

/// What the kernel granted.
#[derive(Clone, Debug)]
pub struct UringInfo {
    /// Flags of the ring.
    pub flags: &'static str,
    /// Whether files are registered with the ring.
    pub registered_files: bool,
    /// Whether buffers can be registered with the ring. An arena may still be refused.
    pub registered_buffers: bool,
}

/// What the ring has done so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct UringCounts {
    /// Calls of `io_uring_enter`.
    pub enters: u64,
    /// Operations submitted.
    pub sqes: u64,
    /// Rings of the bell that were heard.
    pub bells: u64,
    /// Arenas registered.
    pub arenas: u64,
    /// Arenas that the kernel refused to register, mostly for `RLIMIT_MEMLOCK`.
    pub arenas_refused: u64,
}

/// The runner on io_uring. Made, used and dropped on one thread.
pub struct Uring {
    ring: IoUring,
    files: FileTable,
    /// In flight, by `user_data`.
    flights: Vec<Option<Flight>>,
    free: Vec<usize>,
    /// Failed before they reached the kernel.
    failed: Vec<Completion>,
    bell: Bell,
    bell_buf: Buf,
    bell_armed: bool,
    closing: bool,
    fixed_files: bool,
    /// Registered arenas, by their number. `None`: no more are tried.
    arenas: Option<Vec<Option<Home>>>,
    no_iowait: bool,
    info: UringInfo,
    counts: UringCounts,
    /// The kernel takes submissions from the thread that made the ring only.
    _of_one_thread: PhantomData<*const ()>,
}

impl Uring {
    /// A ring for the files of `dir`, which wakes when `bell` rings. It holds on to `lock` until it
    /// is gone, so that the writes of a killed process come before the next holder of the lock.
    ///
    /// The pool whose buffers are written must outlive the ring.
    ///
    /// # Errors
    /// The kernel refused, or lacks something: then `Unsupported`, and the text says what.
    pub fn new(dir: Arc<ShardDir>, bell: Bell, lock: &File) -> io::Result<Self> {
        let (ring, flags) = build()?;
        check(&ring)?;
        let fixed_files = register_files(&ring, lock).is_ok();
        let fixed_buffers = ring.submitter().register_buffers_sparse(ARENAS_MAX.into()).is_ok();
        let mut uring = Self {
            no_iowait: ring.params().is_feature_no_iowait(),
            ring,
            files: FileTable::new(dir),
            flights: Vec::new(),
            free: Vec::new(),
            failed: Vec::new(),
            bell,
            bell_buf: Buf::zeroed(8),
            bell_armed: false,
            closing: false,
            fixed_files,
            arenas: fixed_buffers.then(|| vec![None; ARENAS_MAX.into()]),
            info: UringInfo {
                flags,
                registered_files: fixed_files,
                registered_buffers: fixed_buffers,
            },
            counts: UringCounts::default(),
            _of_one_thread: PhantomData,
        };
        uring.arm_bell();
        Ok(uring)
    }

    /// What the kernel granted.
    #[must_use]
    pub fn info(&self) -> &UringInfo {
        &self.info
    }

    /// What was done so far.
    #[must_use]
    pub fn counts(&self) -> UringCounts {
        self.counts
    }

    /// Operations whose completion was not yet handed out.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.flights.len() - self.free.len() + self.failed.len()
    }

    /// Takes a `Write`, `Sync` or `Read`. It starts with the next [`flush`](Self::flush) or
    /// [`wait`](Self::wait).
    pub fn submit(&mut self, op: Op) {
        let (segment, work, buf) = match op.kind {
            OpKind::Write { segment, offset, buf, durable } => {
                (segment, Work::Write { offset, durable }, Some(buf))
            }
            OpKind::Read { segment, offset, buf } => (segment, Work::Read { offset }, Some(buf)),
            OpKind::Sync { segment } => (segment, Work::Sync, None),
            other => panic!("{other:?} is no operation of the ring"),
        };
        let (file, opened) = match self.files.take(segment) {
            Ok(taken) => taken,
            Err(error) => {
                let result = Err(error.into());
                self.failed.push(Completion { id: op.id, result, buf, side: None });
                return;
            }
        };
        if opened {
            let fd = self.files.file(file).as_raw_fd();
            self.register_file(file, fd);
        }
        let flight = Flight { id: op.id, file, work, buf, done: 0, retries: 0 };
        let index = self.free.pop().unwrap_or_else(|| {
            self.flights.push(None);
            self.flights.len() - 1
        });
        assert!(self.flights[index].is_none());
        self.flights[index] = Some(flight);
        self.queue(index);
    }

    /// Closes the file of a segment that goes away.
    pub fn forget(&mut self, segment: SegmentId) {
        if let Some(slot) = self.files.forget(segment) {
            self.register_file(slot, -1);
        }
    }

    /// Starts what was submitted. Does not wait.
    ///
    /// # Errors
    /// The ring is broken.
    pub fn flush(&mut self) -> io::Result<()> {
        if self.ring.submission().is_empty() { Ok(()) } else { self.enter(0, None) }
    }

    /// Hands out the completions that are there. No system call.
    pub fn reap(&mut self, out: &mut Vec<Completion>) {
        out.append(&mut self.failed);
        loop {
            // Its own statement: the queue's head moves on before more is submitted.
            let cqe = self.ring.completion().next();
            let Some(cqe) = cqe else { break };
            match cqe.user_data() {
                BELL => self.bell_rang(cqe.result()),
                CANCEL => {}
                index => {
                    let index = usize::try_from(index).expect("an index that was given out");
                    out.extend(self.settle(index, cqe.result()));
                }
            }
        }
    }

    /// Starts what was submitted and sleeps until a completion is there, the bell rings, or the
    /// time is over. `None`: there is no such time. Hands out the completions.
    ///
    /// # Errors
    /// The ring is broken.
    pub fn wait(&mut self, timeout: Option<Duration>, out: &mut Vec<Completion>) -> io::Result<()> {
        self.reap(out);
        if !out.is_empty() {
            return self.flush();
        }
        self.enter(1, timeout)?;
        self.reap(out);
        Ok(())
    }

    fn enter(&mut self, want: u32, timeout: Option<Duration>) -> io::Result<()> {
        let queued = u32::try_from(self.ring.submission().len()).expect("a ring has few entries");
        let mut flags = EnterFlags::GETEVENTS;
        if want > 0 && self.no_iowait && self.in_flight() == 0 {
            // Waiting for the bell alone is idling, not I/O pressure.
            flags |= EnterFlags::NO_IOWAIT;
        }
        self.counts.enters += 1;
        self.counts.sqes += u64::from(queued);
        let submitter = self.ring.submitter();
        let entered = if let Some(timeout) = timeout {
            let time = Timespec::from(timeout);
            let args = SubmitArgs::new().timespec(&time);
            let flags = (flags | EnterFlags::EXT_ARG).bits();
            // SAFETY: `enter`: "developer must ensure that parameters are correct". `queued` is the
            // length of the queue; with EXT_ARG the argument is an `io_uring_getevents_arg`, which
            // `SubmitArgs` is (the crate's `submit_with_args` passes it so), and EXT_ARG is known
            // to this kernel (`check`). `time` lives until the call returns.
            unsafe { submitter.enter(queued, want, flags, Some(&args)) }
        } else {
            // SAFETY: as above; without EXT_ARG the argument is a signal mask, and none is given.
            unsafe { submitter.enter::<()>(queued, want, flags.bits(), None) }
        };
        match entered.map_err(|error| Errno::from_io_error(&error).ok_or(error)) {
            // BUSY and AGAIN: what was not taken stays queued until completions are reaped.
            Ok(_) | Err(Ok(Errno::TIME | Errno::INTR | Errno::BUSY | Errno::AGAIN)) => Ok(()),
            Err(Ok(errno)) => Err(errno.into()),
            Err(Err(error)) => Err(error),
        }
    }

    /// Puts the SQE for the rest of a flight into the queue.
    fn queue(&mut self, index: usize) {
        let flight = self.flights[index].as_mut().expect("a flight is queued while it exists");
        let done = flight.done;
        let (address, len, home) = match &mut flight.buf {
            None => (ptr::null_mut(), 0, None),
            Some(buf) => {
                let home = buf.home().filter(|home| lies_in(buf, home));
                let rest = &mut buf.as_mut_slice()[done..];
                let len = u32::try_from(rest.len()).expect("a buffer is at most 16 MiB");
                (rest.as_mut_ptr(), len, home)
            }
        };
        let arena = home.and_then(|home| self.arena(home));
        let flight = self.flights[index].as_ref().expect("it was there");
        let at = |offset: u64| offset + done as u64;
        macro_rules! entry {
            ($fd:expr) => {
                match (flight.work, arena) {
                    (Work::Sync, _) => opcode::Fsync::new($fd).flags(FsyncFlags::DATASYNC).build(),
                    (Work::Read { offset }, None) => {
                        opcode::Read::new($fd, address, len).offset(at(offset)).build()
                    }
                    (Work::Read { offset }, Some(arena)) => {
                        let read = opcode::ReadFixed::new($fd, address, len, arena);
                        read.offset(at(offset)).build()
                    }
                    (Work::Write { offset, durable }, None) => {
                        let write = opcode::Write::new($fd, address, len).offset(at(offset));
                        write.rw_flags(write_flags(durable)).build()
                    }
                    (Work::Write { offset, durable }, Some(arena)) => {
                        let write = opcode::WriteFixed::new($fd, address, len, arena);
                        write.offset(at(offset)).rw_flags(write_flags(durable)).build()
                    }
                }
            };
        }
        let entry = if self.fixed_files {
            entry!(Fixed(registered(flight.file)))
        } else {
            entry!(Fd(self.files.file(flight.file).as_raw_fd()))
        };
        self.push(&entry.user_data(index as u64));
    }

    fn push(&mut self, entry: &Entry) {
        // SAFETY: `push`: "parameters of the entry (such as buffer) are valid and will be valid for
        // the entire duration of the operation". The entry's address is that of
        // - a buffer in `flights[user_data]` (`queue`): `Buf` never moves its memory, we touch it
        //   no more, and it leaves `flights` only in `finish`, after the CQE of its only SQE; or
        // - `bell_buf` (`arm_bell`), which is neither touched nor replaced before its CQE; or
        // - none (fsync, cancel).
        // `Drop` waits for all CQEs, and leaks the buffers if it cannot. The file is open: `files`
        // closes none that has users, and the kernel has its own reference from the enter on.
        let pushed = unsafe { self.ring.submission().push(entry) };
        assert!(pushed.is_ok(), "more operations are under way than limits allow");
    }

    /// The number under which an arena is registered. Registers it when it is first seen.
    fn arena(&mut self, home: Home) -> Option<u16> {
        let arenas = self.arenas.as_mut()?;
        match arenas.get(usize::from(home.index))? {
            Some(known) if *known == home => return Some(home.index),
            // Of another pool: only one can be registered.
            Some(_) => return None,
            None => {}
        }
        let iovec = Iovec { base: ptr::without_provenance_mut(home.base), len: home.len };
        // SAFETY: `from_raw_parts`: "valid for reads for len elements", of an initialised value
        // that is not changed while the slice lives. `iovec` is one `struct iovec` (see `Iovec`)
        // and lives until the end of this function.
        let list = unsafe { slice::from_raw_parts((&raw const iovec).cast(), 1) };
        // SAFETY: `register_buffers_update`: base and length "will be valid until buffers are
        // unregistered or the ring destroyed". They are an arena's (`buf::Home`): at this moment
        // the flight's buffer, cut from it, keeps it allocated. Later `Pool` keeps it: it never
        // frees or moves an arena while it lives, and outlives the ring (`thread::Loop` declares
        // the runner before `End`, which takes and drops the shard, whose pool it is). The kernel
        // pins the pages besides. A fixed operation is only made for a buffer of the same arena.
        let done =
            unsafe { self.ring.submitter().register_buffers_update(home.index.into(), list, None) };
        match done {
            Ok(()) => {
                arenas[usize::from(home.index)] = Some(home);
                self.counts.arenas += 1;
                Some(home.index)
            }
            Err(error) => {
                tracing::debug!(%error, "the kernel does not register write buffers");
                self.counts.arenas_refused += 1;
                // Those that are registered stay in use.
                if self.counts.arenas == 0 {
                    self.arenas = None;
                    self.info.registered_buffers = false;
                } else {
                    arenas.truncate(home.index.into());
                }
                None
            }
        }
    }

    fn register_file(&mut self, slot: FileSlot, fd: RawFd) {
        if !self.fixed_files {
            return;
        }
        let done = self.ring.submitter().register_files_update(registered(slot), &[fd]);
        if !done.is_ok_and(|count| count == 1) {
            // A table that does not follow would write to the wrong file: go on without it. SQEs
            // that are queued name its entries, so they must be taken first.
            // Those that cannot be fail with their file, which stops the shard.
            for _ in 0..RETRIES_MAX {
                if self.flush().is_err() || self.ring.submission().is_empty() {
                    break;
                }
            }
            let _ = self.ring.submitter().unregister_files();
            self.fixed_files = false;
            self.info.registered_files = false;
            tracing::debug!("the kernel no longer registers files");
        }
    }

    fn arm_bell(&mut self) {
        assert!(!self.bell_armed);
        self.bell_armed = true;
        let fd = Fd(self.bell.as_fd().as_raw_fd());
        let bytes = self.bell_buf.as_mut_slice();
        let read = opcode::Read::new(fd, bytes.as_mut_ptr(), 8).build();
        self.push(&read.user_data(BELL));
    }

    fn bell_rang(&mut self, result: i32) {
        assert!(self.bell_armed);
        self.bell_armed = false;
        if self.closing {
            return;
        }
        let again = [Errno::INTR, Errno::AGAIN].map(|errno| -errno.raw_os_error());
        assert!(result == 8 || again.contains(&result), "the bell cannot be heard: {result}");
        self.counts.bells += u64::from(result == 8);
        self.arm_bell();
    }

    /// What becomes of a flight whose SQE was completed: it goes on, or is over.
    fn settle(&mut self, index: usize, result: i32) -> Option<Completion> {
        let direct = self.files.dir().is_direct();
        let flight = self.flights[index].as_mut().expect("a completion has a flight");
        let len = flight.buf.as_ref().map_or(0, Buf::len);
        let Ok(count) = usize::try_from(result) else {
            let error = io::Error::from_raw_os_error(-result);
            let again = match Errno::from_io_error(&error) {
                // A sync is never tried again: an error may have been told to the first one only.
                Some(Errno::INTR | Errno::AGAIN) => !matches!(flight.work, Work::Sync),
                _ => false,
            };
            flight.retries += 1;
            if again && flight.retries <= RETRIES_MAX && !self.closing {
                self.queue(index);
                return None;
            }
            return Some(self.finish(index, Err(error.into())));
        };
        let total = flight.done + count;
        assert!(total <= len, "the kernel transferred more than it was given");
        if total == len {
            return Some(self.finish(index, Ok(total)));
        }
        // Direct I/O goes on at a block; what is behind it is transferred again.
        let next = if direct { total - total % BLOCK_SIZE as usize } else { total };
        let stuck = next == flight.done || self.closing;
        flight.done = next;
        match flight.work {
            // The file ends here.
            Work::Read { .. } if stuck => Some(self.finish(index, Ok(total))),
            Work::Write { .. } if stuck => {
                let error = io::Error::from(io::ErrorKind::WriteZero);
                Some(self.finish(index, Err(error.into())))
            }
            Work::Read { .. } | Work::Write { .. } => {
                self.queue(index);
                None
            }
            Work::Sync => unreachable!("a sync has no buffer, so its total is its length"),
        }
    }

    fn finish(&mut self, index: usize, result: Result<usize, IoError>) -> Completion {
        let Flight { id, file, buf, .. } =
            self.flights[index].take().expect("a flight ends once, while it exists");
        self.free.push(index);
        if self.files.give_back(file) {
            self.register_file(file, -1);
        }
        let count = |total| u32::try_from(total).expect("a buffer is at most 16 MiB");
        Completion { id, result: result.map(count), buf, side: None }
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        self.closing = true;
        if self.bell_armed {
            self.push(&opcode::AsyncCancel::new(BELL).build().user_data(CANCEL));
        }
        let mut over = Vec::new();
        while self.bell_armed || self.free.len() < self.flights.len() {
            if let Err(error) = self.enter(1, None) {
                tracing::error!(%error, "buffers are leaked: the kernel may still use them");
                std::mem::forget(std::mem::take(&mut self.flights));
                self.free.clear();
                std::mem::forget(std::mem::replace(&mut self.bell_buf, Buf::zeroed(8)));
                break;
            }
            self.reap(&mut over);
        }
        // Now, not when the kernel gets round to it: the lock is among them.
        let _ = self.ring.submitter().unregister_files();
    }
}

/// `struct iovec` of readv(2): the crate takes libc's, which has this layout on Linux.
#[repr(C)]
struct Iovec {
    base: *mut u8,
    len: usize,
}

/// The registered number of a file: the lock's comes first.
fn registered(slot: FileSlot) -> u32 {
    u32::try_from(slot).expect("few files are open") + 1
}

/// Whether a registration of the arena covers the buffer. The kernel refuses it otherwise.
fn lies_in(buf: &Buf, home: &Home) -> bool {
    let begin = buf.as_slice().as_ptr().addr();
    home.base <= begin && begin + buf.len() <= home.base + home.len
}

fn write_flags(durable: bool) -> i32 {
    if durable { ReadWriteFlags::DSYNC.bits().cast_signed() } else { 0 }
}

/// The best ring that the kernel makes, and its flags.
fn build() -> io::Result<(IoUring, &'static str)> {
    let ring = |defer: bool, coop: bool| {
        let mut builder = IoUring::builder();
        builder.setup_cqsize(2 * RING_SIZE);
        if coop {
            builder.setup_single_issuer().setup_coop_taskrun().setup_submit_all();
        }
        if defer {
            builder.setup_defer_taskrun();
        }
        builder.build(RING_SIZE)
    };
    let unknown = |error: &io::Error| error.kind() == io::ErrorKind::InvalidInput;
    // Linux 6.1; 6.0; before.
    match ring(true, true) {
        Err(error) if unknown(&error) => {}
        made => return Ok((made?, "SINGLE_ISSUER|COOP_TASKRUN|SUBMIT_ALL|DEFER_TASKRUN")),
    }
    match ring(false, true) {
        Err(error) if unknown(&error) => {}
        made => return Ok((made?, "SINGLE_ISSUER|COOP_TASKRUN|SUBMIT_ALL")),
    }
    Ok((ring(false, false)?, ""))
}

/// Names what is missing.
fn check(ring: &IoUring) -> io::Result<()> {
    let missing = |what: &str| {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("this kernel's io_uring lacks {what}; Linux 5.11 or newer has it"),
        ))
    };
    if !ring.params().is_feature_ext_arg() {
        return missing("IORING_FEAT_EXT_ARG");
    }
    if !ring.params().is_feature_nodrop() {
        return missing("IORING_FEAT_NODROP");
    }
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    let opcodes = [
        (opcode::Read::CODE, "IORING_OP_READ"),
        (opcode::Write::CODE, "IORING_OP_WRITE"),
        (opcode::ReadFixed::CODE, "IORING_OP_READ_FIXED"),
        (opcode::WriteFixed::CODE, "IORING_OP_WRITE_FIXED"),
        (opcode::Fsync::CODE, "IORING_OP_FSYNC"),
        (opcode::AsyncCancel::CODE, "IORING_OP_ASYNC_CANCEL"),
    ];
    match opcodes.iter().find(|(code, _)| !probe.is_supported(*code)) {
        Some((_, name)) => missing(name),
        None => Ok(()),
    }
}

fn register_files(ring: &IoUring, lock: &File) -> io::Result<()> {
    let count = registered(FILES_OPEN_MAX);
    ring.submitter().register_files_sparse(count)?;
    ring.submitter().register_files_update(0, &[lock.as_raw_fd()])?;
    Ok(())
}

#[cfg(test)]
mod tests;
