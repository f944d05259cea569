//! What a connection takes of the memory of all, and how it goes on where that is used up (P-29).
//!
//! Invariants:
//! - One that holds no more than each may anyway goes on as ever.
//! - One that holds more frees some with everything that it still starts: somebody always goes on.
//!
//! Not here: what a connection holds by itself (`connection::bounds`).

use super::Driver;
use crate::connection::READ_AHEAD;

impl Driver {
    /// Whether it may hold more than each connection may anyway (P-29).
    pub(super) fn may_grow(&self) -> bool {
        self.held == 0 || !self.shared.memory.is_full()
    }

    /// A part of a large request does not keep others from having theirs.
    pub(super) fn give_way(&mut self) -> bool {
        let is_large = self.connection.input_len() > READ_AHEAD;
        let gives = is_large && !self.may_grow() && self.connection.only_waits_for_more();
        if gives {
            self.connection.give_way();
        }
        gives
    }

    /// Counts what this connection holds beyond what each may hold anyway.
    pub(super) fn account(&mut self) {
        let unsent = self.written + self.left.len() + self.plain.len();
        let reserved = if self.session.is_blocked() { 0 } else { self.reserved };
        let holds = (self.connection.memory() + reserved + unsent).saturating_sub(READ_AHEAD);
        if holds != self.held {
            self.shared.memory.change(self.held, holds);
            self.held = holds;
        }
    }
}
