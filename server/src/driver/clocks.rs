//! What a peer must do in time: say who it is, take its replies, ask for something, end.
//!
//! Not here: waiting (`driver`), how long it may take (`config`).

use std::time::Duration;

use tokio::time::Instant;

use super::Driver;
use crate::front::Refused;
use crate::tls;

/// How long the last reply may take to be read before the socket goes.
pub(super) const LINGER: Duration = Duration::from_secs(2);

/// When the peer must have done something.
pub(super) struct Clocks {
    pub(super) connected: Instant,
    /// Requests that were taken when it was last looked.
    pub(super) taken: u64,
    /// When it took or gave something.
    pub(super) active: Instant,
    /// When bytes were last written, or it was begun.
    pub(super) written: Instant,
    /// When the end began.
    pub(super) ended: Option<Instant>,
    /// When the server began to stop.
    pub(super) stopped: Option<Instant>,
}

impl Clocks {
    pub(super) fn new(now: Instant) -> Self {
        Self { connected: now, taken: 0, active: now, written: now, ended: None, stopped: None }
    }
}

impl Driver {
    /// What the peer has not done in time.
    pub(super) fn overdue(&mut self, now: Instant) -> Option<&'static str> {
        let (times, is_sent) = (self.shared.times, self.is_sent());
        let clocks = &mut self.clocks;
        if self.connection.taken() != clocks.taken {
            clocks.taken = self.connection.taken();
            clocks.active = now;
        } else {
            // It may be long until the next one.
            self.session.forget_reader();
        }
        let over = |since: Instant, limit: Duration| now.duration_since(since) >= limit;
        if clocks.ended.is_some_and(|since| over(since, LINGER)) {
            return Some("it did not end the connection");
        }
        if clocks.stopped.is_some_and(|since| over(since, times.stop)) {
            return Some("the server stops, and did not wait any longer");
        }
        // Counts of lines that nobody takes cost nothing, and losing lines would.
        let owes = !self.connection.is_feeding() || self.connection.is_closing();
        if self.writing.is_some() && owes && over(clocks.written, times.write) {
            return Some("it did not take its replies");
        }
        let greets = self.connection.user().is_none();
        let greets = greets || self.tls.as_ref().is_some_and(tls::Session::is_handshaking);
        if !greets {
            // From here on, should it forget who it is by `RESET`.
            clocks.connected = now;
        }
        if greets && over(clocks.connected, times.handshake) {
            self.shared.front.refused(Refused::Auth);
            return Some("it did not say who it is");
        }
        let is_idle = self.connection.is_idle() && self.running.is_empty() && is_sent;
        if is_idle && !times.idle.is_zero() && over(clocks.active, times.idle) {
            return Some("nothing happened on it");
        }
        None
    }
}
