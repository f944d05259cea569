//! The system calls of a traced thread, decoded: which of them change files, and how.
//!
//! ```text
//! registers + memory of the thread -> Call::Write { fd, offset, data, .. } | Call::Harmless | ..
//! ```
//!
//! Invariant: a call that is neither decoded nor listed as harmless is `Unknown`, with all that is
//! needed to see whether it is about a recorded file.
//!
//! Not here: which descriptors are recorded files, and what follows from a call (`files`).

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use nix::libc;

/// The flags of `fallocate` that give blocks inside a file back.
const PUNCH: u64 = (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE) as u64;

/// What a thread asks of the kernel.
#[derive(Clone, Debug)]
pub(crate) struct Registers {
    /// Number of the call.
    pub(crate) number: i64,
    /// Its arguments.
    pub(crate) args: [u64; 6],
    /// After it: the result, or the negative error number.
    pub(crate) result: i64,
    /// Something that is always so before it, and nearly never after it.
    before: bool,
}

impl Registers {
    /// Of a thread that stands at the begin or the end of a call.
    ///
    /// # Errors
    /// The system's.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn of(thread: nix::unistd::Pid) -> nix::Result<Self> {
        let regs = nix::sys::ptrace::getregs(thread)?;
        Ok(Self {
            number: regs.orig_rax.cast_signed(),
            args: [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9],
            result: regs.rax.cast_signed(),
            before: regs.rax.cast_signed() == -i64::from(libc::ENOSYS),
        })
    }

    /// Of a thread that stands at the begin or the end of a call.
    ///
    /// # Errors
    /// The system's.
    #[cfg(target_arch = "aarch64")]
    pub(crate) fn of(thread: nix::unistd::Pid) -> nix::Result<Self> {
        let regs = nix::sys::ptrace::getregs(thread)?.regs;
        Ok(Self {
            number: regs[8].cast_signed(),
            args: [regs[0], regs[1], regs[2], regs[3], regs[4], regs[5]],
            result: regs[0].cast_signed(),
            before: regs[7] == 0,
        })
    }

    /// No other processors are known here.
    ///
    /// # Errors
    /// Always.
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    pub(crate) fn of(_: nix::unistd::Pid) -> nix::Result<Self> {
        Err(nix::errno::Errno::ENOSYS)
    }

    /// Whether the thread can stand at the begin of the call.
    pub(crate) fn is_begin(&self) -> bool {
        self.before
    }

    fn fd(&self, index: usize) -> i32 {
        self.args[index] as i32
    }
}

/// A call, as far as it matters to files. Paths are as the program gave them.
#[derive(Clone, Debug)]
pub(crate) enum Call {
    /// `open`, `openat`.
    Open { path: Path, flags: i32 },
    /// `close`.
    Close { fd: i32 },
    /// `dup`, `fcntl(F_DUPFD_CLOEXEC)`; `dup3` also closes the descriptor that it goes over.
    Dup { fd: i32, over: Option<i32> },
    /// Every kind of write. `through`: durable when it returns.
    Write { fd: i32, offset: u64, data: Vec<u8>, through: bool },
    /// `ftruncate`.
    SetLen { fd: i32, len: u64 },
    /// `fallocate`: the file reaches at least to `len`.
    Reserve { fd: i32, len: u64 },
    /// `fsync`, `fdatasync`.
    Sync { fd: i32, data_only: bool },
    /// All renames.
    Rename { from: Path, to: Path },
    /// `unlink`, `unlinkat`.
    Remove { path: Path },
    /// `mkdir`, `mkdirat`.
    MakeDir { path: Path },
    /// Changes no file.
    Harmless,
    /// Must not be about a recorded file: `fds` and `paths` are all that it may mean.
    Unknown { fds: Vec<i32>, paths: Vec<String> },
}

/// A path and the directory that it begins at, unless it is absolute.
#[derive(Clone, Debug)]
pub(crate) struct Path {
    /// `AT_FDCWD` or a descriptor.
    pub(crate) at: i32,
    /// The text.
    pub(crate) text: String,
}

/// The memory of a traced process.
#[derive(Debug)]
pub(crate) struct Memory {
    process: i32,
    file: File,
}

impl Memory {
    /// Of a process that is traced by this thread.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn of(process: i32) -> std::io::Result<Self> {
        Ok(Self { process, file: File::open(format!("/proc/{process}/mem"))? })
    }

    fn bytes(&self, address: u64, len: u64) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(len).expect("a buffer fits into memory")];
        let read = self.file.read_exact_at(&mut bytes, address);
        read.unwrap_or_else(|error| {
            panic!("memory of the traced process at {address:#x}: {error}")
        });
        bytes
    }

    /// A text that ends with a zero, if there is one at this address.
    fn text(&self, address: u64) -> Option<String> {
        let mut text = Vec::new();
        while text.len() < 4096 {
            let mut chunk = [0; 256];
            let at = address.checked_add(text.len() as u64)?;
            // A page that is not there may begin right behind the text.
            let room = usize::try_from(4096 - at % 4096).expect("small").min(chunk.len());
            let count =
                self.file.read_at(&mut chunk[..room], at).ok().filter(|count| *count > 0)?;
            let end = chunk[..count].iter().position(|byte| *byte == 0);
            text.extend_from_slice(&chunk[..end.unwrap_or(count)]);
            if end.is_some() {
                return String::from_utf8(text).ok();
            }
        }
        None
    }

    fn path(&self, at: i32, address: u64) -> Path {
        Path { at, text: self.text(address).expect("a path that a program gives is text") }
    }

    fn vectors(&self, address: u64, count: u64) -> Vec<u8> {
        let mut data = Vec::new();
        for vector in self.bytes(address, count * 16).chunks(16) {
            let number = |half: &[u8]| u64::from_ne_bytes(half.try_into().expect("8 bytes"));
            data.extend(self.bytes(number(&vector[..8]), number(&vector[8..])));
        }
        data
    }

    /// Where a write without an offset goes.
    fn position(&self, fd: i32) -> u64 {
        let path = format!("/proc/{}/fdinfo/{fd}", self.process);
        // Without such a descriptor the write fails.
        let info = fs::read_to_string(path).unwrap_or_else(|_| "pos: 0".to_owned());
        let line = info.lines().find_map(|line| line.strip_prefix("pos:"));
        line.and_then(|pos| pos.trim().parse().ok()).expect("fdinfo has a position")
    }
}

impl Call {
    /// What the call is that a thread begins.
    #[must_use]
    pub(crate) fn decode(regs: &Registers, memory: &Memory) -> Self {
        let (args, fd) = (&regs.args, regs.fd(0));
        match regs.number {
            libc::SYS_openat => {
                Self::Open { path: memory.path(fd, args[1]), flags: args[2] as i32 }
            }
            libc::SYS_close => Self::Close { fd },
            libc::SYS_dup => Self::Dup { fd, over: None },
            libc::SYS_dup3 => Self::Dup { fd, over: Some(regs.fd(1)) },
            libc::SYS_fcntl => match args[1] as i32 {
                libc::F_DUPFD | libc::F_DUPFD_CLOEXEC => Self::Dup { fd, over: None },
                libc::F_GETFD | libc::F_SETFD | libc::F_GETFL => Self::Harmless,
                _ => Self::unknown(regs, memory),
            },
            libc::SYS_write => {
                let (data, offset) = (memory.bytes(args[1], args[2]), memory.position(fd));
                Self::Write { fd, offset, data, through: false }
            }
            libc::SYS_pwrite64 => {
                let data = memory.bytes(args[1], args[2]);
                Self::Write { fd, offset: args[3], data, through: false }
            }
            libc::SYS_writev => {
                let (data, offset) = (memory.vectors(args[1], args[2]), memory.position(fd));
                Self::Write { fd, offset, data, through: false }
            }
            libc::SYS_pwritev => {
                let data = memory.vectors(args[1], args[2]);
                Self::Write { fd, offset: args[3], data, through: false }
            }
            libc::SYS_pwritev2 => {
                let (known, flags) = (libc::RWF_DSYNC | libc::RWF_SYNC, args[5] as i32);
                assert!(flags & !known == 0, "pwritev2 with flags {flags:#x}: not modelled");
                let data = memory.vectors(args[1], args[2]);
                Self::Write { fd, offset: args[3], data, through: flags != 0 }
            }
            libc::SYS_ftruncate => Self::SetLen { fd, len: args[1] },
            libc::SYS_fallocate if args[1] == 0 => Self::Reserve { fd, len: args[2] + args[3] },
            // What is punched reads as zeros, now, and perhaps not after a power cut.
            libc::SYS_fallocate if args[1] == PUNCH => {
                let len = usize::try_from(args[3]).expect("64-bit platforms only");
                Self::Write { fd, offset: args[2], data: vec![0; len], through: false }
            }
            libc::SYS_fsync => Self::Sync { fd, data_only: false },
            libc::SYS_fdatasync => Self::Sync { fd, data_only: true },
            libc::SYS_renameat2 => Self::Rename {
                from: memory.path(fd, args[1]),
                to: memory.path(regs.fd(2), args[3]),
            },
            libc::SYS_unlinkat => Self::Remove { path: memory.path(fd, args[1]) },
            libc::SYS_mkdirat => Self::MakeDir { path: memory.path(fd, args[1]) },
            // What shares memory with a file could change it unseen.
            libc::SYS_mmap if args[3] as i32 & libc::MAP_SHARED == 0 => Self::Harmless,
            number if HARMLESS.contains(&number) => Self::Harmless,
            _ => Self::of_old(regs, memory),
        }
    }

    /// The calls that newer processors do not have any more.
    #[cfg(target_arch = "x86_64")]
    fn of_old(regs: &Registers, memory: &Memory) -> Self {
        let (args, cwd) = (&regs.args, libc::AT_FDCWD);
        match regs.number {
            libc::SYS_dup2 => Self::Dup { fd: regs.fd(0), over: Some(regs.fd(1)) },
            libc::SYS_open => Self::Open { path: memory.path(cwd, args[0]), flags: args[1] as i32 },
            libc::SYS_renameat => Self::Rename {
                from: memory.path(regs.fd(0), args[1]),
                to: memory.path(regs.fd(2), args[3]),
            },
            libc::SYS_rename => {
                Self::Rename { from: memory.path(cwd, args[0]), to: memory.path(cwd, args[1]) }
            }
            libc::SYS_unlink => Self::Remove { path: memory.path(cwd, args[0]) },
            libc::SYS_mkdir => Self::MakeDir { path: memory.path(cwd, args[0]) },
            libc::SYS_stat | libc::SYS_lstat | libc::SYS_access | libc::SYS_readlink => {
                Self::Harmless
            }
            libc::SYS_poll | libc::SYS_arch_prctl | libc::SYS_getdents => Self::Harmless,
            _ => Self::unknown(regs, memory),
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn of_old(regs: &Registers, memory: &Memory) -> Self {
        Self::unknown(regs, memory)
    }

    fn unknown(regs: &Registers, memory: &Memory) -> Self {
        let rings = [libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_setup];
        let is_ring = rings.contains(&regs.number);
        assert!(!is_ring, "the traced program uses a ring: nobody sees what it writes");
        Self::Unknown {
            fds: (0..6).map(|index| regs.fd(index)).collect(),
            paths: regs.args.iter().filter_map(|arg| memory.text(*arg)).collect(),
        }
    }
}

/// Calls that change no file and no name, whatever they are given.
const HARMLESS: &[i64] = &[
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_getdents64,
    libc::SYS_readlinkat,
    libc::SYS_getcwd,
    libc::SYS_flock,
    libc::SYS_fadvise64,
    libc::SYS_munmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_futex,
    libc::SYS_ppoll,
    libc::SYS_eventfd2,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_sigaltstack,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_setaffinity,
    libc::SYS_prctl,
    libc::SYS_prlimit64,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_membarrier,
];
