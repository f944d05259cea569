//! Loom's primitives, and models of what loom has not: a weak queue, an eventfd, a whole swap.
//!
//! The queue promises less than std's: that it is empty may be old news, unless something else (a
//! fence) says otherwise. So a model also fails where the code leans on more than that.
//!
//! Not here: anything of the normal build.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use loom::sync::Condvar;
use loom::sync::atomic::Ordering::{self, Acquire, Release};
use loom::sync::atomic::{AtomicU8 as LoomU8, AtomicUsize};

pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU64, fence};
pub(crate) use loom::sync::{Arc, Mutex, MutexGuard};
pub(crate) use loom::thread::{self, Thread};
pub(crate) use loom::thread_local;

/// Loom lets a store come between the two halves of another thread's swap, which no memory does. A
/// store that is a swap cannot, and with one thread that stores nothing is lost: what it stores is
/// in the order of its program either way, and each load may still see an old value.
pub(crate) struct AtomicU8(LoomU8);

impl AtomicU8 {
    pub(crate) fn new(value: u8) -> Self {
        Self(LoomU8::new(value))
    }

    pub(crate) fn load(&self, order: Ordering) -> u8 {
        self.0.load(order)
    }

    pub(crate) fn store(&self, value: u8, order: Ordering) {
        self.0.swap(value, order);
    }

    pub(crate) fn swap(&self, value: u8, order: Ordering) -> u8 {
        self.0.swap(value, order)
    }
}

struct Queue<T> {
    sent: AtomicUsize,
    /// `None` once the receiver is gone.
    items: Mutex<Option<VecDeque<T>>>,
}

pub(crate) struct Sender<T>(Arc<Queue<T>>);

pub(crate) struct Receiver<T> {
    queue: Arc<Queue<T>>,
    taken: Cell<usize>,
}

pub(crate) fn channel<T>() -> (Sender<T>, Receiver<T>) {
    let items = Mutex::new(Some(VecDeque::new()));
    let queue = Arc::new(Queue { sent: AtomicUsize::new(0), items });
    (Sender(Arc::clone(&queue)), Receiver { queue, taken: Cell::new(0) })
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Sender<T> {
    /// Gives the item back if the receiver is gone.
    pub(crate) fn send(&self, item: T) -> Result<(), T> {
        match &mut *self.0.items.lock().unwrap() {
            Some(items) => items.push_back(item),
            None => return Err(item),
        }
        self.0.sent.fetch_add(1, Release);
        Ok(())
    }
}

impl<T> Receiver<T> {
    /// The next item, unless the queue looks empty.
    pub(crate) fn try_recv(&self) -> Result<T, &'static str> {
        if self.queue.sent.load(Acquire) == self.taken.get() {
            return Err("empty");
        }
        self.taken.set(self.taken.get() + 1);
        let mut items = self.queue.items.lock().unwrap();
        Ok(items.as_mut().and_then(VecDeque::pop_front).expect("it was counted"))
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        // What is in it is dropped outside the lock.
        let items = self.queue.items.lock().unwrap().take();
        drop(items);
    }
}

/// A counter to sleep on.
pub(crate) struct Eventfd {
    count: Mutex<u64>,
    rung: Condvar,
}

impl Eventfd {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { count: Mutex::new(0), rung: Condvar::new() })
    }

    pub(crate) fn ring(&self) {
        *self.count.lock().unwrap() += 1;
        self.rung.notify_one();
    }

    /// Sleeps until it is rung, as a read of an eventfd does.
    pub(crate) fn hear(&self) -> io::Result<()> {
        let mut count = self.count.lock().unwrap();
        while *count == 0 {
            count = self.rung.wait(count).unwrap();
        }
        *count = 0;
        Ok(())
    }
}

impl AsFd for Eventfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        unreachable!("a model has no file")
    }
}
