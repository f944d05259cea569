//! One connection on its socket: drives the state machine, and asks the engine for it.
//!
//! ```text
//! socket -> [tls] -> Connection -> Session -> engine
//! socket <- [tls] <- Connection <- answers, from the front
//! ```
//!
//! One task; each turn does whatever is ready until nothing is. A read and a write are under way at
//! most. Its end waits for the peer's, so that a last error is read before the socket goes.
//!
//! Invariants:
//! - A request that could not be sent to its shard at once holds up those behind it: appends of a
//!   connection stay in order also where the shard's inbox is full.
//! - Dropped at any time, nothing that the engine accepted is taken back (P-9).
//!
//! Not here: decisions about requests (`connection`), accepting (`serve`).

mod answers;
mod clocks;
mod share;

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::{Instant, Sleep};

use crate::alone::Alone;
use crate::command::{Command, Order};
use crate::connection::{Connection, Told, Work};
use crate::error::Refusal;
use crate::front::Refused;
use crate::reading::Following;
use crate::reply::Reply;
use crate::session::{Answer, Preparing, Session};
use crate::shared::Shared;
use crate::socket::Socket;
use crate::tls;
use clocks::Clocks;

/// Turns of one connection before others have theirs.
const TURNS: usize = 32;
/// Bytes that are read at once at first; more where they come.
const BUFFER_MIN: usize = 4 << 10;
const BUFFER_MAX: usize = 64 << 10;
/// Bytes and records of a `READ` where connections hold all the memory that they may.
const SMALL_READ: (u32, u64) = (16 << 10, 100);
/// How long to wait where connections hold all the memory that they may.
const MEMORY_WAIT: Duration = Duration::from_millis(20);

type Reading = Pin<Box<dyn Future<Output = (io::Result<usize>, Vec<u8>)>>>;
type Writing = Pin<Box<dyn Future<Output = (io::Result<usize>, Bytes)>>>;

struct Running {
    ticket: u64,
    /// Of what was gathered behind it.
    more: Vec<u64>,
    spec: usize,
    since: Instant,
    /// Bytes that its reply may have.
    reserved: usize,
    answer: Answer,
}

/// See the module's head.
pub(crate) struct Driver {
    shared: Arc<Shared>,
    alone: Rc<Alone>,
    socket: Socket,
    connection: Connection,
    session: Session,
    tls: Option<tls::Session>,
    tls_failed: bool,
    /// The peer was told, or is being told, that nothing more is sent.
    tls_closing: bool,
    running: VecDeque<Running>,
    preparing: Option<(Work, Preparing)>,
    /// The ticket of a request that waits for room in its shard's inbox.
    stalled: Option<u64>,
    following: Vec<Following>,
    reading: Option<Reading>,
    writing: Option<Writing>,
    /// For the next read.
    buffer: Vec<u8>,
    /// Plain bytes that TLS had no room for.
    plain: Bytes,
    /// Bytes of the write that is under way.
    written: usize,
    /// What of the last write is left.
    left: Bytes,
    /// Bytes that the replies of what is running may have.
    reserved: usize,
    /// Bytes that were counted as held.
    held: usize,
    /// Of the users that were looked at.
    users_version: u64,
    clocks: Clocks,
    timer: Pin<Box<Sleep>>,
    stop: Pin<Box<dyn Future<Output = ()>>>,
}

/// Why a connection ended, where not all was done and said.
type Broken = io::Error;

impl Driver {
    pub(crate) fn new(
        shared: Arc<Shared>,
        alone: Rc<Alone>,
        socket: Socket,
        connection: Connection,
        session: Session,
        tls: Option<tls::Session>,
    ) -> Self {
        let mut stop = shared.stop.subscribe();
        let stop = Box::pin(async move {
            // Fails once nobody can say it any more, which is a stop as well.
            let _ = stop.wait_for(|stop| *stop).await;
        });
        Self {
            users_version: shared.users_version.load(Ordering::Relaxed),
            timer: Box::pin(tokio::time::sleep(shared.times.tick())),
            shared,
            alone,
            socket,
            connection,
            session,
            tls,
            tls_failed: false,
            tls_closing: false,
            running: VecDeque::new(),
            preparing: None,
            stalled: None,
            following: Vec::new(),
            reading: None,
            writing: None,
            buffer: Vec::with_capacity(BUFFER_MIN),
            plain: Bytes::new(),
            written: 0,
            left: Bytes::new(),
            reserved: 0,
            held: 0,
            clocks: Clocks::new(Instant::now()),
            stop,
        }
    }

    /// Serves the connection to its end.
    pub(crate) async fn run(mut self) {
        let id = self.connection.id;
        if let Err(error) = poll_fn(|cx| self.poll(cx)).await {
            tracing::debug!(connection = id, %error, "a connection broke");
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        for _ in 0..TURNS {
            let mut went = self.poll_stop(cx);
            self.look_at_users();
            went |= self.poll_answers(cx);
            went |= self.poll_starts(cx);
            went |= self.poll_following(cx);
            went |= self.poll_write(cx)?;
            went |= self.poll_read(cx)?;
            self.account();
            went |= self.give_way();
            self.count_told();
            went |= self.end();
            if self.clocks.ended.is_some() && self.connection.has_input_ended() {
                return Poll::Ready(Ok(()));
            }
            if !went {
                return self.poll_clocks(cx);
            }
        }
        // Also a peer that always has more to say must be in time.
        let overdue = self.poll_clocks(cx);
        cx.waker().wake_by_ref();
        overdue
    }

    /// Users may have been read again: what they may do changes, also for who is there.
    fn look_at_users(&mut self) {
        let version = self.shared.users_version.load(Ordering::Relaxed);
        if version == self.users_version {
            return;
        }
        self.users_version = version;
        if self.connection.is_closing() || self.connection.feeds_a_listener() {
            return;
        }
        let default = self.connection.default_user();
        let default = default.and_then(|user| self.shared.user_now(&user.name));
        self.connection.handle_default_user(default);
        if let Some(user) = self.connection.user() {
            match self.shared.user_now(&user.name) {
                Some(user) => self.connection.handle_user(user),
                None => {
                    let text = "you are no user of this server any more";
                    self.connection.handle_refusal(Refusal::new("NOAUTH", text));
                    self.session.end_waits();
                }
            }
        }
    }

    fn poll_stop(&mut self, cx: &mut Context<'_>) -> bool {
        if self.clocks.stopped.is_some() || self.stop.as_mut().poll(cx).is_pending() {
            return false;
        }
        self.clocks.stopped = Some(Instant::now());
        if let Some((work, _)) = self.preparing.take() {
            let text = "the server stops; nothing was done, try again in a while";
            self.fail(&work, Refusal::new("STOPPED", text));
        }
        self.connection.handle_stop();
        self.session.end_waits();
        self.look_within(self.shared.times.stop);
        true
    }

    /// The answer that is due, and those behind it.
    fn poll_answers(&mut self, cx: &mut Context<'_>) -> bool {
        let mut went = false;
        while let Some(running) = self.running.front_mut() {
            let Poll::Ready(outcome) = running.answer.as_mut().poll(cx) else { break };
            let running = self.running.pop_front().expect("it was just looked at");
            self.finish(running, outcome);
            went = true;
        }
        went
    }

    /// Starts what may start.
    fn poll_starts(&mut self, cx: &mut Context<'_>) -> bool {
        let mut went = false;
        loop {
            let work = match self.preparing.take() {
                Some((work, mut preparing)) => match preparing.as_mut().poll(cx) {
                    Poll::Ready(Ok(())) => {
                        self.start(work);
                        went = true;
                        continue;
                    }
                    Poll::Ready(Err(refusal)) => {
                        self.fail(&work, refusal);
                        went = true;
                        continue;
                    }
                    Poll::Pending => {
                        self.preparing = Some((work, preparing));
                        return went;
                    }
                },
                None => {
                    // One at a time goes on also without memory: it takes less than it frees.
                    if self.stalled.is_some() || !(self.may_grow() || self.running.is_empty()) {
                        return went;
                    }
                    let Some(work) = self.connection.poll_work() else { return went };
                    (0..=work.more.len()).for_each(|_| self.shared.front.request(work.spec));
                    work
                }
            };
            went = true;
            match self.session.prepare(&work.command) {
                Some(preparing) => self.preparing = Some((work, preparing)),
                None => self.start(work),
            }
        }
    }

    fn fail(&mut self, work: &Work, refusal: Refusal) {
        if let Command::Commit { reader, epoch, .. } = &work.command {
            self.shared.claims.forget(reader, Some(*epoch));
        }
        for ticket in std::iter::once(work.ticket).chain(work.more.iter().copied()) {
            let refusal = refusal.clone();
            self.shared.front.error(refusal.index());
            self.shared.front.answered(work.spec, 0);
            match work.command {
                Command::Lines { .. } => self.connection.handle_lines(ticket, (0, Some(refusal))),
                _ => self.connection.handle_reply(ticket, Reply::Error(refusal)),
            }
        }
    }

    fn start(&mut self, work: Work) {
        let Work { ticket, more, spec, mut command, user } = work;
        if let Command::Read { bytes, count, .. } = &mut command
            && self.shared.memory.is_full()
        {
            (*bytes, *count) = ((*bytes).min(SMALL_READ.0), (*count).min(SMALL_READ.1));
        }
        let reserved = self.session.reply_size(&command);
        // These wait for the engine only.
        let is_write = command.order() == Order::Together;
        let (answer, is_sent) = self.session.start(command, user, !more.is_empty());
        if !is_sent {
            self.stalled = Some(ticket);
        }
        let since = Instant::now();
        self.reserved += reserved;
        let is_alone = self.alone.begin(self.connection.id);
        self.running.push_back(Running { ticket, more, spec, since, reserved, answer });
        if is_alone && is_write && is_sent && !self.connection.has_more() {
            let running = self.running.back_mut().expect("it was just put there");
            let outcome = oncelog::block_on(running.answer.as_mut());
            let running = self.running.pop_back().expect("it was just looked at");
            return self.finish(running, outcome);
        }
        self.account();
    }

    /// Drops what is followed no longer.
    fn end_followings(&mut self) {
        let before = self.following.len();
        self.following.retain(|following| self.connection.follows(&following.log));
        (self.following.len()..before).for_each(|_| self.shared.front.unfollowed());
    }

    fn poll_following(&mut self, cx: &mut Context<'_>) -> bool {
        let (mut went, mut index) = (false, 0);
        self.end_followings();
        while index < self.following.len() && self.connection.wants_push() && self.may_grow() {
            let following = &mut self.following[index];
            match following.poll(cx) {
                Poll::Pending => {}
                Poll::Ready(Ok(push)) => {
                    self.connection.handle_push(push);
                    went = true;
                }
                Poll::Ready(Err(why)) => {
                    self.connection.handle_unfollowed(&following.log, why);
                    went = true;
                }
            }
            index += 1;
        }
        went
    }

    /// Bytes to be sent next.
    fn next_output(&mut self) -> Option<Bytes> {
        if !self.left.is_empty() {
            return Some(std::mem::take(&mut self.left));
        }
        let Some(tls) = &mut self.tls else { return self.connection.poll_output() };
        loop {
            let mut sealed = BytesMut::new();
            tls.poll_output(&mut sealed);
            if !sealed.is_empty() {
                return Some(sealed.freeze());
            }
            if tls.is_handshaking() || self.tls_closing {
                return None;
            }
            if self.plain.is_empty() {
                self.plain = self.connection.poll_output()?;
            }
            let taken = tls.write(&self.plain);
            bytes::Buf::advance(&mut self.plain, taken);
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Result<bool, Broken> {
        let mut went = false;
        loop {
            if self.writing.is_none() {
                let Some(bytes) = self.next_output() else { return Ok(went) };
                self.clocks.written = Instant::now();
                self.written = bytes.len();
                self.writing = Some(Box::pin(self.socket.clone().write(bytes)));
            }
            let writing = self.writing.as_mut().expect("there is one");
            let Poll::Ready((result, mut bytes)) = writing.as_mut().poll(cx) else {
                return Ok(went);
            };
            (self.writing, self.written) = (None, 0);
            let count = result?;
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.shared.front.sent(count);
            bytes::Buf::advance(&mut bytes, count);
            self.left = bytes;
            self.clocks.active = Instant::now();
            went = true;
        }
    }

    fn wants_input(&self) -> bool {
        let discards = self.clocks.ended.is_some();
        let handshakes = self.tls.as_ref().is_some_and(tls::Session::is_handshaking);
        let handshakes = handshakes && !self.connection.has_input_ended();
        let room = self.may_grow() || self.connection.only_waits_for_more();
        discards || handshakes || (room && self.connection.wants_input())
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Result<bool, Broken> {
        if self.reading.is_none() {
            if !self.wants_input() {
                return Ok(false);
            }
            let buffer = std::mem::take(&mut self.buffer);
            self.reading = Some(Box::pin(self.socket.clone().read(buffer)));
        }
        let reading = self.reading.as_mut().expect("there is one");
        let Poll::Ready((result, mut buffer)) = reading.as_mut().poll(cx) else {
            return Ok(false);
        };
        self.reading = None;
        let count = result?;
        self.shared.front.received(count);
        self.handle_bytes(&buffer[..count]);
        let is_full = count == buffer.capacity() && count < BUFFER_MAX;
        buffer.clear();
        if is_full {
            buffer.reserve_exact(2 * count);
        } else if count <= BUFFER_MIN && buffer.capacity() > BUFFER_MIN {
            // It may wait for long with it.
            buffer = Vec::with_capacity(BUFFER_MIN);
        }
        self.buffer = buffer;
        Ok(true)
    }

    fn handle_bytes(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            self.connection.handle_input_end();
            self.session.end_waits();
            return;
        }
        if self.clocks.ended.is_some() || self.tls_failed {
            return;
        }
        match &mut self.tls {
            None => self.connection.handle_input(bytes),
            Some(tls) => {
                let mut plain = BytesMut::new();
                if let Err(error) = tls.handle_input(bytes, &mut plain) {
                    self.tls_failed = true;
                    self.shared.front.refused(Refused::Tls);
                    tracing::debug!(connection = self.connection.id, %error, "TLS failed");
                    self.left = error.plain_answer().map_or(Bytes::new(), Bytes::from_static);
                    self.connection.handle_stop();
                    while self.connection.poll_output().is_some() {}
                    return;
                }
                if let Some(certificate) = tls.peer_certificate()
                    && self.connection.user().is_none()
                    && let Some(user) = self.shared.user_of(certificate)
                {
                    self.connection.handle_identity(user);
                }
                self.connection.handle_input(&plain);
                if tls.is_peer_closed() {
                    self.connection.handle_input_end();
                    self.session.end_waits();
                }
            }
        }
    }

    /// Counts what the connection answered by itself.
    fn count_told(&mut self) {
        for told in self.connection.drain_told() {
            match told {
                Told::Talk(spec) => {
                    self.shared.front.request(spec);
                    self.shared.front.answered(spec, 0);
                }
                Told::Error(word) => self.shared.front.error(word),
            }
        }
    }

    /// Begins the end once all is answered and sent. Whether there is something to be done for it.
    fn end(&mut self) -> bool {
        // What became due while TLS was closing cannot be said any more.
        let is_done = self.tls_closing || self.connection.is_done();
        let is_done = is_done && self.running.is_empty() && self.is_sent();
        if self.clocks.ended.is_some() || !is_done {
            return false;
        }
        if let Some(tls) = &mut self.tls {
            // A handshake that failed has its own last words.
            if !self.tls_closing && !tls.is_handshaking() {
                self.tls_closing = true;
                tls.close_notify();
            }
            if tls.wants_output() {
                return true;
            }
        }
        self.socket.end_writing();
        self.clocks.ended = Some(Instant::now());
        self.look_within(clocks::LINGER);
        true
    }

    /// Whether nothing is on its way out.
    fn is_sent(&self) -> bool {
        self.writing.is_none() && self.left.is_empty() && self.plain.is_empty()
    }

    /// Looks at the clocks after so long at the latest.
    fn look_within(&mut self, time: Duration) {
        let when = Instant::now() + time;
        if self.timer.deadline() > when {
            self.timer.as_mut().reset(when);
        }
    }

    fn poll_clocks(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        loop {
            let waits_for_memory = !self.may_grow();
            if waits_for_memory {
                self.look_within(MEMORY_WAIT);
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            let now = Instant::now();
            if let Some(why) = self.overdue(now) {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)));
            }
            self.timer.as_mut().reset(now + self.shared.times.tick());
            if waits_for_memory {
                cx.waker().wake_by_ref();
            }
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Reads and writes that are under way in the kernel come back, and the socket closes.
        self.socket.shutdown();
        self.shared.memory.change(self.held, 0);
        let preparing = self.preparing.iter().map(|(work, _)| (work.spec, &work.more));
        let running = self.running.iter().map(|running| (running.spec, &running.more));
        self.running.iter().for_each(|_| self.alone.end());
        for (spec, more) in preparing.chain(running) {
            (0..=more.len()).for_each(|_| self.shared.front.abandoned(spec));
        }
        self.following.iter().for_each(|_| self.shared.front.unfollowed());
        self.shared.front.closed();
    }
}
