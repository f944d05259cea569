//! What threads share: std's, or loom's where a model runs every interleaving.
//!
//! ```text
//! reply, inbox -> primitives -> std, eventfd          always
//!                            -> loom, `modelled`      RUSTFLAGS="--cfg oncelog_loom"
//! ```
//!
//! Not here: what is done with them. The code above is the same in both builds.

#[cfg(oncelog_loom)]
mod modelled;

#[cfg(oncelog_loom)]
pub(crate) use modelled::*;

#[cfg(not(oncelog_loom))]
pub(crate) use real::*;

#[cfg(not(oncelog_loom))]
mod real {
    use std::io;
    use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

    use rustix::event::{EventfdFlags, eventfd};
    use rustix::io::retry_on_intr;

    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, fence};
    pub(crate) use std::sync::mpsc::{Receiver, Sender, channel};
    pub(crate) use std::sync::{Arc, Mutex, MutexGuard};
    pub(crate) use std::thread::{self, Thread};
    pub(crate) use std::thread_local;

    /// A counter to sleep on, for `poll` and for a ring.
    pub(crate) struct Eventfd(OwnedFd);

    impl Eventfd {
        pub(crate) fn new() -> io::Result<Self> {
            // Not nonblocking: before Linux 5.13 the ring fails a read of a nonblocking file at
            // once instead of waiting. Nobody can block on it: the counter never comes near its
            // limit, and its only reader reads when `poll` or the ring says that there is
            // something.
            Ok(Self(eventfd(0, EventfdFlags::CLOEXEC)?))
        }

        pub(crate) fn ring(&self) {
            let one = 1_u64.to_ne_bytes();
            let written = retry_on_intr(|| rustix::io::write(&self.0, &one));
            // An eventfd refuses only what is not 8 bytes, or a counter near 2^64.
            assert_eq!(written, Ok(8), "a bell could not be rung");
        }

        pub(crate) fn hear(&self) -> io::Result<()> {
            let mut count = [0; 8];
            retry_on_intr(|| rustix::io::read(&self.0, &mut count[..]))?;
            Ok(())
        }
    }

    impl AsFd for Eventfd {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }
    }
}
