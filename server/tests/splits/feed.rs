//! Bytes through a connection: split anywhere, answered in any order, sent whenever.
//!
//! ```text
//! bytes --pieces--> Connection --work--> answered by what it asks, in an order that is picked
//! ```
//!
//! Used by the property test, by the replay of the corpus, and by the fuzz target.
//!
//! Not here: which bytes and which order.

use std::sync::Arc;

use oncelog_server::command::Command;
use oncelog_server::connection::{Connection, Limits, Work};
use oncelog_server::error::Refusal;
use oncelog_server::frame::RequestLimits;
use oncelog_server::reply::Reply;
use oncelog_server::rights::User;

const LIMITS: Limits = Limits {
    request: RequestLimits { bytes: 4096, args: 64, line: 1024 },
    in_flight: 4,
    in_flight_bytes: 2000,
    output: 2000,
    follows: 2,
    line: 64,
    lines: 400,
};

/// Bytes that come at once.
const PIECE_MAX: usize = 64 << 10;
/// What a connection may hold with these limits: what was read ahead, in a buffer that has doubled
/// while half of it had been taken from its front, and the largest answers, lists of all commands.
const MEMORY_MAX: usize = 4 * (2 * PIECE_MAX + 4096) + (128 << 10);

/// What happened, as far as nobody may tell how the bytes were split.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Trace {
    /// All that was sent; of the counts of lines the last one.
    pub(crate) output: Vec<u8>,
    /// What was started, in order.
    pub(crate) started: Vec<String>,
}

struct Run<'a> {
    connection: Connection,
    rest: &'a [u8],
    ended: bool,
    /// Whether all that came was looked at: nothing is read before.
    looked: bool,
    pending: Vec<Work>,
    /// Where the counts of lines begin in the output.
    counts: Option<usize>,
    trace: Trace,
}

/// The bytes at once, and everything answered as it comes.
pub(crate) fn at_once(bytes: &[u8], logged_in: bool) -> Trace {
    run(bytes, logged_in, &mut |_| 0)
}

/// `pick(n)` says a number below n: what to do next, how much comes, which one is answered.
pub(crate) fn run(bytes: &[u8], logged_in: bool, pick: &mut dyn FnMut(usize) -> usize) -> Trace {
    let user = logged_in.then(|| Arc::new(User::everyone()));
    let connection = Connection::new(7, LIMITS, user);
    let (pending, trace) = (Vec::new(), Trace::default());
    let (ended, looked, counts) = (false, false, None);
    let mut run = Run { connection, rest: bytes, ended, looked, pending, counts, trace };
    while !run.connection.is_done() {
        let first = pick(4);
        // What asks for nothing more than an answer is no work, and may be all that happened.
        let went = (0..8).any(|more| run.step((first + more) % 4, pick));
        let is_done = run.connection.is_done();
        assert!(went || is_done, "nothing can go on, and it is not done: {:?}", run.connection);
        let memory = run.connection.memory();
        assert!(memory <= MEMORY_MAX, "{memory} bytes: {:?}", run.connection);
    }
    assert!(run.pending.is_empty(), "done before all was answered");
    run.finish()
}

impl Run<'_> {
    /// Does one thing, if it can be done.
    fn step(&mut self, what: usize, pick: &mut dyn FnMut(usize) -> usize) -> bool {
        let connection = &mut self.connection;
        drop(connection.drain_told());
        match what {
            0 => match connection.poll_work() {
                Some(work) => {
                    self.note(&work);
                    self.pending.push(work);
                    true
                }
                None => !std::mem::replace(&mut self.looked, true),
            },
            1 if !self.pending.is_empty() => {
                let work = self.pending.remove(pick(self.pending.len()));
                self.answer(work);
                true
            }
            2 => self.send(),
            3 if self.looked && !self.rest.is_empty() && connection.wants_input() => {
                let most = self.rest.len().min(PIECE_MAX);
                let (piece, rest) = self.rest.split_at(most - pick(most));
                connection.handle_input(piece);
                (self.rest, self.looked) = (rest, false);
                true
            }
            3 if self.rest.is_empty() && !self.ended => {
                connection.handle_input_end();
                self.ended = true;
                true
            }
            _ => false,
        }
    }

    fn note(&mut self, work: &Work) {
        let started = &mut self.trace.started;
        match &work.command {
            // How many go together may differ.
            Command::Append { log, records, by } if work.more.len() + 1 == records.len() => {
                started.extend(records.iter().map(|record| format!("{log} {record:?} {by:?}")));
            }
            Command::Lines { log, lines } => {
                started.extend(lines.iter().map(|line| format!("{log} {line:?}")));
            }
            command => started.push(format!("{command:?}")),
        }
    }

    fn answer(&mut self, work: Work) {
        let Work { ticket, more, command, .. } = work;
        let connection = &mut self.connection;
        match command {
            Command::Auth { user, password, .. } => {
                let wrong = Refusal::new("WRONGPASS", "no");
                let grants = User::everyone().grants;
                let login =
                    (&password[..] == b"secret").then(|| Arc::new(User { name: user, grants }));
                connection.handle_login(ticket, login.ok_or(wrong));
            }
            Command::Follow { log, .. } => connection.handle_followed(ticket, log),
            Command::Ingest { log } => {
                connection.handle_feeding(ticket, log);
                while self.send() {}
                self.counts = Some(self.trace.output.len());
            }
            Command::Lines { lines, .. } => {
                connection.handle_lines(ticket, (lines.len() as u64, None));
            }
            Command::Append { records, .. } if records.len() == more.len() + 1 => {
                let tickets = std::iter::once(ticket).chain(more);
                // In any order among them, too.
                for (ticket, record) in tickets.zip(records).collect::<Vec<_>>().into_iter().rev() {
                    let reply = match record.payload.len() {
                        13 => Reply::Error(Refusal::new("BUSY", "an unlucky number")),
                        len => Reply::Number(len as u64),
                    };
                    connection.handle_reply(ticket, reply);
                }
            }
            Command::Read { .. } => {
                connection.handle_reply(ticket, Reply::text("x".repeat(3000)));
            }
            command => {
                assert!(more.is_empty(), "only appends of one record go together");
                connection.handle_reply(ticket, Reply::text(format!("{command:?}")));
            }
        }
    }

    fn send(&mut self) -> bool {
        let output = self.connection.poll_output();
        self.trace.output.extend(output.iter().flatten());
        output.is_some()
    }

    fn finish(mut self) -> Trace {
        if let Some(at) = self.counts {
            let tail = self.trace.output.split_off(at);
            let lines: Vec<_> = tail.split_inclusive(|byte| *byte == b'\n').collect();
            let last = lines.iter().rposition(|line| line.starts_with(b":"));
            let refused = lines.iter().any(|line| line.starts_with(b"-"));
            for (index, line) in lines.into_iter().enumerate() {
                // A refusal says the count again.
                if !line.starts_with(b":") || (Some(index) == last && !refused) {
                    self.trace.output.extend_from_slice(line);
                }
            }
        }
        self.trace
    }
}

/// What libFuzzer and the corpus have: a choice, how many picks, the picks, and the bytes.
pub(crate) fn fuzz(data: &[u8]) {
    let [choice, count, rest @ ..] = data else { return };
    let (picks, bytes) = rest.split_at(rest.len().min(usize::from(*count)));
    let logged_in = choice % 4 > 0;
    let mut next = picks.iter().cycle();
    let mut pick = |below: usize| next.next().map_or(0, |pick| usize::from(*pick)) % below;
    assert_eq!(run(bytes, logged_in, &mut pick), at_once(bytes, logged_in));
}
