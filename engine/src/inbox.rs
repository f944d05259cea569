//! The way into a shard: requests of clients, completions of file operations, and its bell.
//!
//! ```text
//! clients  -> try_push / push -> [ requests, bounded by bytes ] -\
//!                                                                 Outlet -> shard thread
//! files    -> Returns::push   -> [ completions, not bounded   ] -/
//!                    '-> Gate: rings the bell (an eventfd) only where the shard sleeps
//! ```
//!
//! Invariants:
//! - What was pushed is seen before the shard sleeps, or the bell rings after it was pushed.
//! - `bytes` is the sum of the sizes of all requests pushed and not yet taken.
//! - A request pushed to a closed inbox is dropped, which answers it.
//!
//! Not here: what a request is, and any order between clients.

use std::collections::hash_map::Entry;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::task::{Context, Poll, Waker};

use rustc_hash::FxHashMap;

use crate::io::Completion;
use crate::reply::primitives::{
    Arc, AtomicBool, AtomicU8, AtomicU64, Eventfd, Mutex, MutexGuard, Receiver, Sender, channel,
    fence,
};

/// Both ends of an inbox that takes `bytes_max` bytes of requests.
///
/// # Errors
/// No eventfd could be had: the process has too many files open.
pub fn inbox<R>(bytes_max: u64) -> io::Result<(Inbox<R>, Outlet<R>)> {
    let bell = Eventfd::new()?;
    let gate = Arc::new(Gate {
        parked: AtomicU8::new(AWAKE),
        silent: AtomicU64::new(0),
        bell,
        rung: AtomicU64::new(0),
    });
    let (request_sender, requests) = channel();
    let (completion_sender, completions) = channel();
    let shared = Arc::new(Shared {
        returns: Returns { gate, completions: completion_sender },
        requests: request_sender,
        bytes: AtomicU64::new(0),
        bytes_max,
        closed: AtomicBool::new(false),
        waiting: AtomicBool::new(false),
        waiters: Mutex::default(),
        seats: AtomicU64::new(0),
    });
    let outlet = Outlet {
        shared: Arc::clone(&shared),
        requests,
        completions,
        next_request: None,
        next_completion: None,
        taken: 0,
    };
    Ok((Inbox(shared), outlet))
}

struct Shared<R> {
    returns: Returns,
    requests: Sender<(u64, R)>,
    /// Sizes of all requests pushed and not yet taken.
    bytes: AtomicU64,
    bytes_max: u64,
    closed: AtomicBool,
    /// Whether `waiters` may hold anyone.
    waiting: AtomicBool,
    waiters: Mutex<FxHashMap<u64, Waker>>,
    /// The next key in `waiters`.
    seats: AtomicU64,
}

impl<R> Shared<R> {
    fn waiters(&self) -> MutexGuard<'_, FxHashMap<u64, Waker>> {
        // No code of others runs under this lock, so a poisoned map is a whole map.
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_all(&self) {
        let waiters = {
            let mut waiters = self.waiters();
            self.waiting.store(false, Relaxed);
            std::mem::take(&mut *waiters)
        };
        waiters.into_values().for_each(Waker::wake);
    }
}

/// The end that clients push into. Cheap to clone.
pub struct Inbox<R>(Arc<Shared<R>>);

impl<R> Clone for Inbox<R> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<R> Inbox<R> {
    /// Puts a request of `size` bytes in, unless it is full. One that is larger than the whole
    /// inbox finds room when the inbox is empty. A closed inbox drops the request.
    ///
    /// # Errors
    /// The request: there is no room for it now.
    pub fn try_push(&self, size: u64, request: R) -> Result<(), R> {
        let Shared { bytes, bytes_max, closed, requests, returns, .. } = &*self.0;
        if closed.load(Relaxed) {
            return Ok(());
        }
        let fits = |held: u64| {
            let sum = held.saturating_add(size);
            (held == 0 || sum <= *bytes_max).then_some(sum)
        };
        if bytes.fetch_update(Relaxed, Relaxed, fits).is_err() {
            return Err(request);
        }
        // Refused: the thread has ended since. The error holds the request and drops it.
        if requests.send((size, request)).is_ok() {
            returns.gate.announce_request();
        }
        Ok(())
    }

    /// Puts a request of `size` bytes in as soon as there is room. Dropping the future before it is
    /// ready drops the request.
    pub fn push(&self, size: u64, request: R) -> Push<R> {
        let seat = self.0.seats.fetch_add(1, Relaxed);
        Push { inbox: self.clone(), request: Some((size, request)), seat, seated: false }
    }

    /// Where completions of file operations go.
    #[must_use]
    pub fn returns(&self) -> &Returns {
        &self.0.returns
    }

    /// Bytes of requests that wait.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.bytes.load(Relaxed)
    }

    /// How often the bell was rung.
    #[must_use]
    pub fn rung(&self) -> u64 {
        self.0.returns.gate.rung.load(Relaxed)
    }

    /// Whether the shard's thread has ended: what is pushed from now on is dropped.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.closed.load(Relaxed)
    }
}

/// A request that waits for room in an inbox. For any executor, or `reply::block_on`.
#[must_use = "a request is only pushed while its future is polled"]
pub struct Push<R> {
    inbox: Inbox<R>,
    request: Option<(u64, R)>,
    seat: u64,
    seated: bool,
}

// Nothing in it is ever pinned.
impl<R> Unpin for Push<R> {}

impl<R> Future for Push<R> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let (size, request) = this.request.take().expect("a Push was polled again after its end");
        let Err(request) = this.inbox.try_push(size, request) else { return Poll::Ready(()) };
        let shared = &this.inbox.0;
        match shared.waiters().entry(this.seat) {
            Entry::Occupied(mut seat) => seat.get_mut().clone_from(cx.waker()),
            Entry::Vacant(seat) => drop(seat.insert(cx.waker().clone())),
        }
        this.seated = true;
        // Waiter: seat taken, `waiting` set, fence, look for room. Shard: room made, fence, look at
        // `waiting`. The fences are ordered, so the later one of the two sees what the other did.
        shared.waiting.store(true, Relaxed);
        fence(SeqCst);
        let Err(request) = this.inbox.try_push(size, request) else { return Poll::Ready(()) };
        this.request = Some((size, request));
        Poll::Pending
    }
}

impl<R> Drop for Push<R> {
    fn drop(&mut self) {
        if self.seated {
            self.inbox.0.waiters().remove(&self.seat);
        }
    }
}

/// Where completions of file operations go. Cheap to clone.
#[derive(Clone)]
pub struct Returns {
    gate: Arc<Gate>,
    completions: Sender<Completion>,
}

impl Returns {
    /// Hands a completion to the shard, and wakes it if it sleeps at all.
    pub fn push(&self, completion: Completion) {
        // Refused: the thread has ended, nobody asks for it.
        if self.completions.send(completion).is_ok() {
            self.gate.announce(COMPLETIONS);
        }
    }
}

/// What a parked shard wants to be woken for, besides its own ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Only completions: a request could not be carried out now anyway.
    Completions,
    /// Completions, and the last of so many requests: fewer would not be carried out now.
    Requests(u32),
    /// Completions, and requests of clients that insist ([`Bell::nudge`]).
    Nudges,
    /// Completions and requests.
    Anything,
}

// Levels of `Gate::parked`: a message rings the bell if `parked` is at least its own level.
const AWAKE: u8 = 0;
const COMPLETIONS: u8 = 1;
const REQUESTS: u8 = 2;
const NUDGES: u8 = 3;
const ANYTHING: u8 = 4;

/// Who sleeps behind an inbox, and the bell that wakes it.
///
/// Why no message is left while the shard sleeps. A producer (P1) sends the message, (P2) fences,
/// (P3) loads `parked`. The shard (S1) stores `parked`, (S2) fences, (S3) looks into the queues,
/// (S4) sleeps if they are empty. Both fences are `SeqCst`, so they have one order:
/// - P2 before S2: S3 sees what P1 did, so the shard does not sleep.
/// - S2 before P2: P3 sees S1's value or a later one. S1's own: this producer swaps and rings. A
///   later one: another producer swapped it, and that one rings; or the shard woke by itself. In
///   the last case P3 did not see the S1 of the shard's next round, so P2 comes before that S2, and
///   the next S3 sees the message.
///
/// Who swaps a value other than `AWAKE` out rings, whatever level it was: at worst a wake too many.
struct Gate {
    parked: AtomicU8,
    /// Where `parked` is `REQUESTS`: how many more of them do not ring.
    silent: AtomicU64,
    bell: Eventfd,
    rung: AtomicU64,
}

impl Gate {
    /// Called after a message was sent (P2, P3).
    fn announce(&self, level: u8) {
        fence(SeqCst);
        if self.parked.load(Relaxed) < level || self.parked.swap(AWAKE, Relaxed) == AWAKE {
            return;
        }
        self.rung.fetch_add(1, Relaxed);
        self.bell.ring();
    }

    /// Called after a request was sent.
    fn announce_request(&self) {
        fence(SeqCst);
        let counts = self.parked.load(Relaxed) == REQUESTS;
        let less = |silent: u64| silent.checked_sub(1);
        if counts && self.silent.fetch_update(Relaxed, Relaxed, less).is_ok() {
            return;
        }
        self.announce(if counts { REQUESTS } else { ANYTHING });
    }
}

/// The bell of a shard's thread, for whoever sleeps for it. Readable when it was rung.
#[derive(Clone)]
pub struct Bell(Arc<Gate>);

impl Bell {
    /// Rings it, whether anyone sleeps or not.
    pub fn ring(&self) {
        self.0.bell.ring();
    }

    /// Rings it if the thread sleeps and would take a request: for a client whose request may have
    /// come without a ring, and who needs it done.
    pub fn nudge(&self) {
        fence(SeqCst);
        // Where requests ring, this one did.
        if self.0.parked.load(Relaxed) == NUDGES {
            self.0.announce(NUDGES);
        }
    }

    /// Rings it if the thread sleeps and would take a request: for work that is no request.
    pub fn wake(&self) {
        self.0.announce(NUDGES);
    }

    /// Rings it if the thread sleeps until several requests are there: for one that should not wait
    /// for others.
    pub fn hurry(&self) {
        fence(SeqCst);
        if self.0.parked.load(Relaxed) == REQUESTS {
            self.0.announce(REQUESTS);
        }
    }

    /// Says that the thread is awake.
    pub fn unpark(&self) {
        self.0.parked.store(AWAKE, Relaxed);
    }

    /// Takes a ring that `poll` has announced, so that it is not heard again.
    ///
    /// # Errors
    /// The system's.
    pub fn hear(&self) -> io::Result<()> {
        self.0.bell.hear()
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.bell.as_fd()
    }
}

/// The end that the shard's thread takes from. Dropping it closes the inbox.
pub struct Outlet<R> {
    shared: Arc<Shared<R>>,
    requests: Receiver<(u64, R)>,
    completions: Receiver<Completion>,
    /// Looked at, not yet taken.
    next_request: Option<(u64, R)>,
    next_completion: Option<Completion>,
    /// Bytes taken since the waiting clients were last woken.
    taken: u64,
}

impl<R> Outlet<R> {
    /// The next request.
    pub fn take_request(&mut self) -> Option<R> {
        if !self.has_request() {
            return None;
        }
        let (size, request) = self.next_request.take()?;
        let before = self.shared.bytes.fetch_sub(size, Relaxed);
        assert!(size <= before, "more bytes were taken than pushed");
        self.taken = self.taken.saturating_add(size);
        Some(request)
    }

    /// The next completion of a file operation.
    pub fn take_completion(&mut self) -> Option<Completion> {
        if !self.has_completion() {
            return None;
        }
        self.next_completion.take()
    }

    /// Whether a request waits.
    pub fn has_request(&mut self) -> bool {
        if self.next_request.is_none() {
            self.next_request = self.requests.try_recv().ok();
        }
        self.next_request.is_some()
    }

    /// Whether a completion waits.
    pub fn has_completion(&mut self) -> bool {
        if self.next_completion.is_none() {
            self.next_completion = self.completions.try_recv().ok();
        }
        self.next_completion.is_some()
    }

    /// Wakes the clients that wait for room, if enough was taken. To be called after each batch.
    pub fn wake_waiting(&mut self) {
        fence(SeqCst);
        if !self.shared.waiting.load(Relaxed) {
            self.taken = 0;
            return;
        }
        // Half, so that many clients are woken for much room, not each for its own little.
        let half = self.shared.bytes_max / 2;
        if self.shared.bytes.load(Relaxed) <= half || self.taken >= half {
            self.taken = 0;
            self.shared.wake_all();
        }
    }

    /// Says that the thread is about to sleep. If this returns false it must not: work is there.
    #[must_use]
    pub fn park(&mut self, wake: Wake) -> bool {
        let level = match wake {
            Wake::Completions => COMPLETIONS,
            Wake::Requests(_) => REQUESTS,
            Wake::Nudges => NUDGES,
            Wake::Anything => ANYTHING,
        };
        if let Wake::Requests(count) = wake {
            let silent = u64::from(count).saturating_sub(1);
            self.shared.returns.gate.silent.store(silent, Relaxed);
        }
        self.shared.returns.gate.parked.store(level, Relaxed);
        fence(SeqCst);
        let work = self.has_completion() || (wake != Wake::Completions && self.has_request());
        if work {
            self.bell().unpark();
        }
        !work
    }

    /// The bell that the thread must listen to while it is parked.
    #[must_use]
    pub fn bell(&self) -> Bell {
        Bell(Arc::clone(&self.shared.returns.gate))
    }
}

impl<R> Drop for Outlet<R> {
    fn drop(&mut self) {
        // Whoever waits for room, or is about to, sees `closed` and lets its request go. What is in
        // the channels, or is pushed meanwhile, is dropped with the receivers.
        self.shared.closed.store(true, Relaxed);
        fence(SeqCst);
        self.shared.wake_all();
    }
}

#[cfg(all(test, oncelog_loom))]
mod loom;
#[cfg(all(test, not(oncelog_loom)))]
mod tests;
