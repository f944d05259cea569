//! Connections whose lines are records: groups of them, and the counts that answer.
//!
//! ```text
//! lines -> poll_lines -> one group under way at a time -> handle_lines -> count -> tell_count
//! ```
//!
//! Invariants:
//! - A count that was told is one of lines that are durable, and of all lines before them.
//! - Who never reads counts costs no memory: a newer one takes the place of one that was not sent.
//! - Who did not ask is told nothing before its end, and then one count. Programs that ship lines
//!   read nothing: where bytes lie unread, closing a socket throws away what was not received yet,
//!   and a peer that is gone looks as if it were there.
//!
//! Not here: cutting bytes into lines (`frame`).

use std::sync::Arc;

use super::{Connection, Work};
use crate::command::{Command, table};
use crate::error::Refusal;
use crate::reply::Reply;

/// A connection that only feeds a log.
#[derive(Debug)]
pub(super) struct Feeding {
    log: String,
    /// Lines that are durable.
    count: u64,
    /// The last count that was told.
    told: u64,
    /// How many lines are under way.
    under_way: u64,
    /// Why it ends once they are durable.
    refused: Option<Refusal>,
    /// Whether counts are told before the end.
    asked: bool,
}

impl Feeding {
    pub(super) fn new(log: String, asked: bool) -> Self {
        Self { log, count: 0, told: 0, under_way: 0, refused: None, asked }
    }

    pub(super) fn log(&self) -> &str {
        &self.log
    }

    /// It ends: what is to be told, unless lines are under way that it waits for.
    pub(super) fn end_with(&mut self, refusal: Refusal) -> Option<Refusal> {
        if self.under_way > 0 {
            self.refused.get_or_insert(refusal);
            return None;
        }
        // No count may come behind the refusal.
        self.told = self.count;
        let text = format!("{}; {} lines are durable", refusal.text, self.count);
        Some(Refusal::new(refusal.word, text))
    }
}

impl Connection {
    /// Whether each of its lines is a record.
    #[must_use]
    pub fn is_feeding(&self) -> bool {
        self.feeding.is_some()
    }

    /// Whether it came to a listener whose every connection feeds a log, without users.
    #[must_use]
    pub fn feeds_a_listener(&self) -> bool {
        self.feeding.as_ref().is_some_and(|feeding| !feeding.asked)
    }

    /// The answer to `INGEST`: lines are records from now on.
    pub fn handle_feeding(&mut self, ticket: u64, log: String) {
        self.handle_reply(ticket, Reply::OK);
        self.feeding = Some(Feeding::new(log, true));
    }

    /// Lines to be stored, or the end of feeding (P-26).
    pub(super) fn poll_lines(&mut self) -> Option<Work> {
        let Some(feeding) = &mut self.feeding else { return None };
        match self.input.next_lines(self.limits.line, self.limits.lines) {
            Err(refusal) => {
                self.handle_refusal(refusal);
                None
            }
            Ok(lines) if lines.is_empty() => {
                if self.input_ended {
                    let left = self.input.len();
                    if left > 0 {
                        let text = format!("the last {left} bytes have no line end: not stored");
                        self.handle_refusal(Refusal::new("ERR", text));
                    }
                    self.closing = true;
                }
                None
            }
            Ok(lines) => {
                self.taken += 1;
                feeding.under_way = lines.len() as u64;
                let log = feeding.log.clone();
                let user = Arc::clone(self.user.as_ref().expect("who feeds has logged in"));
                let spec = table::find(b"INGEST").expect("it is in the table");
                Some(self.start(spec, Command::Lines { log, lines }, user))
            }
        }
    }

    /// The answer to lines: how many of them are durable, the first ones, and why others are not
    /// (P-25).
    pub fn handle_lines(&mut self, ticket: u64, (durable, refusal): (u64, Option<Refusal>)) {
        assert!(ticket == self.first, "lines are alone");
        let slot = self.slots.pop_front().expect("lines are alone");
        self.first += 1;
        self.in_flight_bytes -= slot.bytes;
        self.alone = None;
        let feeding = self.feeding.as_mut().expect("who has lines feeds");
        let under_way = std::mem::take(&mut feeding.under_way);
        let refused = feeding.refused.take();
        assert!(durable <= under_way, "no more than came");
        assert!(durable == under_way || refusal.is_some(), "lines do not go without a word");
        feeding.count += durable;
        if let Some(refusal) = refusal.or(refused) {
            self.end_with(refusal);
        }
        self.tell_count();
    }

    /// Whether the newest count is to be told. Who did not ask is not told where the server stops:
    /// the end of a connection on which nothing came is noticed at once, before more is sent.
    pub(super) fn owes_count(&self) -> bool {
        let has_ended = self.input_ended && self.closing;
        self.feeding
            .as_ref()
            .is_some_and(|feeding| (feeding.asked || has_ended) && feeding.told < feeding.count)
    }

    /// Tells the newest count, unless an older one was not sent yet: whoever never reads them
    /// costs no memory.
    pub(super) fn tell_count(&mut self) {
        if !self.owes_count() || !self.output.is_empty() {
            return;
        }
        let feeding = self.feeding.as_mut().expect("who owes a count feeds");
        feeding.told = feeding.count;
        Reply::Number(feeding.count).encode(self.protocol, &mut self.output);
    }
}
