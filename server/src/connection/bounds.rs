//! What a connection holds, when it takes no more, and how it gives memory back (P-28).
//!
//! ```text
//! memory = input + payloads and cost of requests + replies behind others + output
//! ```
//!
//! Not here: what all connections hold together (`shared`, `driver`).

use bytes::Bytes;

use super::{Connection, READ_AHEAD};
use crate::error::Refusal;

/// What a request costs beside its payload, from when it was taken until it is answered.
const REQUEST_COST: usize = 512;
/// Bytes of memory that are kept for the next answers where all were sent.
const KEPT_MAX: usize = 16 << 10;
/// Bytes that are sent at once.
const SENT_MAX: usize = 256 << 10;

impl Connection {
    /// Whether more bytes should be read.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        let is_full = self.slots.len() >= self.limits.in_flight || !self.wants_push();
        let waits = self.waiting.is_some() || self.alone.is_some() || is_full;
        let waits = waits || self.feeding.is_some();
        let lines = self.limits.lines.max(self.limits.line) + READ_AHEAD;
        let room = if self.feeding.is_some() { lines } else { READ_AHEAD };
        !self.input_ended && !self.closing && (!waits || self.input.len() < room)
    }

    /// Whether records that it follows may be handed in.
    #[must_use]
    pub fn wants_push(&self) -> bool {
        self.output.len() + self.piled < self.limits.output
    }

    /// Bytes that it holds.
    #[must_use]
    pub fn memory(&self) -> usize {
        let taken = self.in_flight_bytes + self.slots.len() * REQUEST_COST;
        let waits = self.waiting.as_ref().map_or(0, |(_, command)| command.bytes());
        self.input.memory() + self.output.capacity() + self.piled + taken + waits
    }

    /// Whether it holds a part of a request, and nothing of it is under way or to be sent.
    #[must_use]
    pub fn only_waits_for_more(&self) -> bool {
        self.slots.is_empty() && self.waiting.is_none() && self.output.is_empty()
    }

    /// Whether more has come than was started.
    #[must_use]
    pub fn has_more(&self) -> bool {
        self.waiting.is_some() || !self.input.is_empty()
    }

    /// Bytes of a request that is not whole yet, and of those behind one that waits.
    #[must_use]
    pub fn input_len(&self) -> usize {
        self.input.len()
    }

    /// The part of a request that it holds is thrown away, and the rest as it comes.
    pub fn give_way(&mut self) {
        let text = "the memory of all connections is used up; nothing was done, come back";
        let refusal = Refusal::new("BUSY", text);
        if self.is_feeding() {
            self.handle_refusal(refusal);
        } else {
            self.input.refuse(refusal);
        }
    }

    /// Bytes to be sent.
    pub fn poll_output(&mut self) -> Option<Bytes> {
        self.tell_count();
        if self.output.is_empty() {
            return None;
        }
        self.most = self.most.max(self.output.capacity());
        let output = if self.output.len() > SENT_MAX {
            self.output.split_to(SENT_MAX)
        } else if self.most > KEPT_MAX {
            // A part that is kept would keep all of it.
            self.most = 0;
            std::mem::take(&mut self.output)
        } else {
            self.output.split()
        };
        Some(output.freeze())
    }
}
