//! The way an answer comes back: one value, once, to a future or to a blocked thread.
//!
//! ```text
//! Request { .., reply: Reply } -> shard -> reply.send(result) -> Pending: .await or .wait()
//! ```
//!
//! Dropping a [`Pending`] takes nothing back: the request goes on, its answer is thrown away. A
//! `Reply` that is dropped unsent answers [`Stopped`]: nobody waits for ever.
//!
//! Not here: executors. Any of them will do, or none.

use std::cell::Cell as Flag;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::PoisonError;
use std::task::{Context, Poll, Wake, Waker};

use crate::error::Stopped;
use primitives::{Arc, Mutex, MutexGuard, Thread, thread, thread_local};

pub(crate) mod primitives;

enum State<T> {
    Waiting(Option<Waker>),
    Answered(T),
    Taken,
}

struct Cell<T>(Mutex<State<T>>);

impl<T> Cell<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // No code of others runs under this lock, so a poisoned state is a whole state.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The answering side. Part of the core's contract, not of the API.
pub struct Reply<T, E: From<Stopped>>(Option<Arc<Cell<Result<T, E>>>>);

impl<T, E: From<Stopped>> Reply<T, E> {
    /// Answers.
    pub fn send(mut self, answer: Result<T, E>) {
        self.put(answer);
    }

    /// Whether nobody waits for the answer any more.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.0.as_ref().is_some_and(|cell| Arc::strong_count(cell) == 1)
    }

    fn put(&mut self, answer: Result<T, E>) {
        let Some(cell) = self.0.take() else { return };
        let before = std::mem::replace(&mut *cell.lock(), State::Answered(answer));
        if let State::Waiting(Some(waker)) = before {
            waker.wake();
        }
    }
}

impl<T, E: From<Stopped>> Drop for Reply<T, E> {
    fn drop(&mut self) {
        if self.0.is_some() {
            self.put(Err(Stopped::closed().into()));
        }
    }
}

impl<T, E: From<Stopped>> std::fmt::Debug for Reply<T, E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reply")
    }
}

/// An answer on its way: a future for any executor, or [`wait`](Self::wait) for a thread.
///
/// Dropping it does not take the request back.
#[must_use = "the request is under way, but only its answer says what became of it"]
pub struct Pending<T, E: From<Stopped>>(Arc<Cell<Result<T, E>>>);

impl<T, E: From<Stopped>> Pending<T, E> {
    /// Blocks this thread until the answer is there.
    ///
    /// # Errors
    /// Those of the request.
    pub fn wait(self) -> Result<T, E> {
        block_on(self)
    }
}

impl<T, E: From<Stopped>> Future for Pending<T, E> {
    type Output = Result<T, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.0.lock();
        match &mut *state {
            State::Waiting(Some(waker)) if waker.will_wake(cx.waker()) => Poll::Pending,
            State::Waiting(waker) => {
                *waker = Some(cx.waker().clone());
                Poll::Pending
            }
            State::Answered(_) => {
                let State::Answered(answer) = std::mem::replace(&mut *state, State::Taken) else {
                    unreachable!("the state was looked at under the same lock")
                };
                Poll::Ready(answer)
            }
            State::Taken => panic!("a Pending was polled again after its answer"),
        }
    }
}

impl<T, E: From<Stopped>> std::fmt::Debug for Pending<T, E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pending")
    }
}

/// Both ends of one answer.
pub fn pair<T, E: From<Stopped>>() -> (Reply<T, E>, Pending<T, E>) {
    let cell = Arc::new(Cell(Mutex::new(State::Waiting(None))));
    (Reply(Some(Arc::clone(&cell))), Pending(cell))
}

/// An answer that is known already.
pub fn ready<T, E: From<Stopped>>(answer: Result<T, E>) -> Pending<T, E> {
    Pending(Arc::new(Cell(Mutex::new(State::Answered(answer)))))
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.unpark();
    }

    fn wake_by_ref(self: &std::sync::Arc<Self>) {
        self.0.unpark();
    }
}

thread_local! {
    static WAKER: Waker = Waker::from(std::sync::Arc::new(Unpark(thread::current())));
}

// Always std's: no model asks for it.
std::thread_local! {
    static BLOCKS: Flag<bool> = const { Flag::new(false) };
}

/// Whether this thread is in [`block_on`], and so blocks until what it polls is ready.
pub(crate) fn blocks() -> bool {
    BLOCKS.with(Flag::get)
}

/// Puts back what was before, also after a panic.
struct Blocking(bool);

impl Drop for Blocking {
    fn drop(&mut self) {
        BLOCKS.with(|blocks| blocks.set(self.0));
    }
}

/// Runs a future on this thread, which sleeps while there is nothing to do.
pub fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let waker = WAKER.with(Waker::clone);
    let mut context = Context::from_waker(&waker);
    loop {
        let polled = {
            let _blocking = Blocking(BLOCKS.with(|blocks| blocks.replace(true)));
            future.as_mut().poll(&mut context)
        };
        match polled {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

#[cfg(all(test, oncelog_loom))]
mod loom;

#[cfg(all(test, not(oncelog_loom)))]
mod tests {
    use super::*;
    use crate::error::AppendError;

    #[test]
    fn an_answer_wakes_the_thread_that_waits_for_it() {
        let (reply, pending) = pair::<u32, AppendError>();
        let waiting = thread::spawn(move || pending.wait());
        reply.send(Ok(7));
        assert_eq!(waiting.join().unwrap().unwrap(), 7);
    }

    #[test]
    fn a_reply_dropped_unsent_answers_stopped() {
        let (reply, pending) = pair::<u32, AppendError>();
        drop(reply);
        assert!(matches!(pending.wait(), Err(AppendError::Stopped(_))));
    }
}
