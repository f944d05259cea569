//! What API calls return: futures for any executor that also have a blocking `wait()`.
//!
//! ```text
//! Response   one request, on its way as soon as the call returns (unless the inbox is full)
//! Operation  several steps; nothing happens before it is polled or waited for
//! ```
//!
//! Dropping either takes nothing back that a shard has accepted, and tears nothing.
//!
//! Not here: executors.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::error::Stopped;
use crate::helm::Access;
use crate::inbox::Push;
use crate::reply::{self, Pending, block_on};
use crate::request::Request;

/// The answer to one request.
///
/// The request is on its way when the call returns, in the order of the calls (while another client
/// does the shard's work it may be taken up to a millisecond later, unless this is polled or waited
/// for). Only if the shard's
/// inbox is full it waits in here, and goes on its way when this is polled or waited for; dropped
/// before that, it never was. Dropping it later takes nothing back.
#[must_use = "the request is under way, but only its answer says what became of it"]
pub struct Response<T, E: From<Stopped>> {
    /// Requests that found no room, in order.
    queue: VecDeque<Request>,
    push: Option<Push<Request>>,
    /// Nothing to reach where the answer is known without asking.
    access: Option<Access>,
    pending: Pending<T, E>,
}

impl<T, E: From<Stopped>> Response<T, E> {
    pub(crate) fn send(access: &Access, request: Request, pending: Pending<T, E>) -> Self {
        Self::send_all(access, std::iter::once(request), pending)
    }

    /// Sends requests in order; `pending` is the answer of the last one.
    pub(crate) fn send_all(
        access: &Access,
        requests: impl IntoIterator<Item = Request>,
        pending: Pending<T, E>,
    ) -> Self {
        let (inbox, mut requests) = (&access.inbox, requests.into_iter());
        let access = Some(access.clone());
        let mut stages = true;
        while let Some(request) = requests.next() {
            stages = request.stages();
            if let Err(request) = inbox.try_push(request.size(), request) {
                let push = Some(inbox.push(request.size(), request));
                return Self { queue: requests.collect(), push, access, pending };
            }
        }
        if !stages && let Some(access) = &access {
            access.helm.hurry();
        }
        Self { queue: VecDeque::new(), push: None, access, pending }
    }

    /// An answer that is known without asking.
    pub(crate) fn ready(answer: Result<T, E>) -> Self {
        let pending = crate::reply::ready(answer);
        Self { queue: VecDeque::new(), push: None, access: None, pending }
    }

    /// Whether the request is on its way. `false`: it waits for room in the shard's inbox until
    /// this is polled, and later ones may overtake it.
    #[must_use]
    pub fn is_sent(&self) -> bool {
        self.push.is_none()
    }

    fn nudge(&self) {
        if let Some(access) = &self.access {
            access.helm.nudge();
        }
    }

    /// Blocks this thread until the answer is there.
    ///
    /// # Errors
    /// Those of the call.
    pub fn wait(self) -> Result<T, E> {
        block_on(self)
    }
}

impl<T, E: From<Stopped>> Future for Response<T, E> {
    type Output = Result<T, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        while let Some(push) = &mut this.push {
            if Pin::new(push).poll(cx).is_pending() {
                this.nudge();
                return Poll::Pending;
            }
            let next = this.queue.pop_front();
            this.push = next
                .zip(this.access.as_ref())
                .map(|(request, access)| access.inbox.push(request.size(), request));
        }
        let answer = Pin::new(&mut this.pending).poll(cx);
        if answer.is_ready() {
            return answer;
        }
        if !reply::blocks() {
            this.nudge();
            return Poll::Pending;
        }
        if let Some(access) = &this.access {
            access.helm.lead();
        }
        Pin::new(&mut this.pending).poll(cx)
    }
}

impl<T, E: From<Stopped>> std::fmt::Debug for Response<T, E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Response").field("waits_for_room", &self.push.is_some()).finish()
    }
}

/// A call of several steps. Nothing happens before it is polled or waited for.
#[must_use = "nothing happens before it is awaited or wait() is called"]
pub struct Operation<'a, T>(Pin<Box<dyn Future<Output = T> + Send + 'a>>);

impl<'a, T> Operation<'a, T> {
    pub(crate) fn new(future: impl Future<Output = T> + Send + 'a) -> Self {
        Self(Box::pin(future))
    }

    /// Blocks this thread until it is done.
    pub fn wait(self) -> T {
        block_on(self)
    }
}

impl<T> Future for Operation<'_, T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        self.0.as_mut().poll(cx)
    }
}

impl<T> std::fmt::Debug for Operation<'_, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Operation")
    }
}
