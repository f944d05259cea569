//! Records every system call of a real program that changes files, with `ptrace`.
//!
//! ```text
//! spawn, waits on standard input -> seize -> a line -> runs
//!    each thread stops before and behind each call -> Files::enter, Files::exit -> Recording
//! ```
//!
//! Invariants:
//! - Nothing is missed: the program waits until it is traced, new threads are traced from their
//!   first instruction, and a call on a recorded file that is not understood is a panic.
//! - What the program says (one `write` for each line) is in the same order as what it writes.
//!
//! A ring is invisible here, so the program has to use the plain runner. Ring and plain share
//! everything above `uring.rs` and `blocking.rs`: the shard decides what is written and synced, and
//! in which order, before either of them hears of it. But the plain runner has one write of a shard
//! under way at a time: several at once are what the simulated disk is for.
//!
//! Not here: what the calls mean (`calls`, `files`).

mod calls;
pub mod files;
pub mod store;

use std::collections::HashSet;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::recorder::calls::{Call, Memory, Registers};
use crate::recorder::files::{Files, Recording};

/// Runs a program that waits for a line on standard input, and records what it does below `root`.
///
/// # Errors
/// Why programs cannot be traced here.
///
/// # Panics
/// The program fails, or does what is not understood.
pub fn record(mut command: Command, root: &Path) -> Result<Recording, String> {
    let root = root.canonicalize().expect("the directory is there");
    let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
    let mut child = child.expect("the program starts");
    let process = Pid::from_raw(i32::try_from(child.id()).expect("a process number"));
    let memory = match attach(process) {
        Ok(memory) => memory,
        Err(why) => {
            end(&mut child);
            return Err(why);
        }
    };
    let stdin = child.stdin.as_mut().expect("it is a pipe");
    stdin.write_all(b"\n").expect("the program waits");
    let mut tracer = Tracer { memory, inside: HashSet::new(), files: Files::new(&root) };
    resume(process, None);
    tracer.follow(process);
    Ok(tracer.files.finish())
}

fn end(child: &mut Child) {
    child.kill().and_then(|()| child.wait()).expect("the program can be ended");
}

/// Begins to trace; the program is stopped then.
fn attach(process: Pid) -> Result<Memory, String> {
    let refused = |what: &str, error: Errno| format!("{what} is refused: {error}");
    let options = Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_EXITKILL;
    ptrace::seize(process, options).map_err(|error| refused("ptrace", error))?;
    loop {
        ptrace::interrupt(process).map_err(|error| refused("ptrace", error))?;
        let status = waitpid(process, Some(WaitPidFlag::__WALL));
        match status.map_err(|error| refused("waiting", error))? {
            // Between two calls: whatever it does next begins with the begin of a call.
            WaitStatus::PtraceEvent(_, _, libc::PTRACE_EVENT_STOP) => break,
            // It is still inside `execve`; this stop takes the place of the other one.
            _ => ptrace::cont(process, None).map_err(|error| refused("going on", error))?,
        }
    }
    Registers::of(process).map_err(|error| refused("reading registers", error))?;
    Memory::of(process.as_raw()).map_err(|error| format!("/proc/PID/mem is refused: {error}"))
}

struct Tracer {
    memory: Memory,
    /// Threads that are in a call.
    inside: HashSet<i32>,
    files: Files,
}

impl Tracer {
    /// Until the process has ended.
    fn follow(&mut self, process: Pid) {
        // Other threads of this program have children of their own.
        let ours = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
        loop {
            let status = match waitpid(None::<Pid>, Some(ours)) {
                Err(Errno::EINTR) => continue,
                status => status.expect("there are threads to wait for"),
            };
            match status {
                WaitStatus::PtraceSyscall(thread) => {
                    self.stopped(thread);
                    resume(thread, None);
                }
                WaitStatus::PtraceEvent(thread, _, event) => {
                    let others = [
                        libc::PTRACE_EVENT_FORK,
                        libc::PTRACE_EVENT_VFORK,
                        libc::PTRACE_EVENT_EXEC,
                    ];
                    assert!(!others.contains(&event), "the traced program starts another one");
                    resume(thread, None);
                }
                WaitStatus::Stopped(thread, signal) => resume(thread, Some(signal)),
                WaitStatus::Exited(thread, code) if thread == process => {
                    assert_eq!(code, 0, "the traced program failed");
                    return;
                }
                WaitStatus::Signaled(_, signal, _) => panic!("the traced program got {signal}"),
                WaitStatus::Exited(..) | WaitStatus::Continued(_) | WaitStatus::StillAlive => {}
            }
        }
    }

    fn stopped(&mut self, thread: Pid) {
        let regs = Registers::of(thread).expect("a stopped thread has registers");
        let id = thread.as_raw();
        if self.inside.remove(&id) {
            self.files.exit(id, regs.result);
        } else {
            self.inside.insert(id);
            assert!(regs.is_begin(), "begins and ends of the calls of thread {id} are mixed up");
            let call = Call::decode(&regs, &self.memory);
            self.files.enter(id, regs.number, call);
        }
    }
}

fn resume(thread: Pid, signal: Option<Signal>) {
    match ptrace::syscall(thread, signal) {
        // It was killed by the end of its process.
        Err(Errno::ESRCH) => {}
        resumed => resumed.expect("a stopped thread can be resumed"),
    }
}
