//! A connection, without I/O: bytes in, work out; replies in, bytes out, in the order of requests.
//!
//! ```text
//! handle_input(bytes) -> poll_work() -> Work{ticket, command} -> the shell asks the engine
//!                                                                        |
//! poll_output() <- replies in order <- handle_reply(ticket, reply) <-----'
//! ```
//!
//! Appends of one connection are under way together and share entries; everything else waits for
//! what is before it, and is waited for. So requests take effect in the order in which they came
//! (P-6). Appends to one log that came together are carried out together, and answered one by one.
//!
//! Invariants:
//! - One slot for each request that was taken and not answered; replies leave from the front.
//! - Memory is bounded: at most one request that is not whole, `READ_AHEAD` beside requests that
//!   wait, `in_flight_bytes` of payloads, and `output` of replies plus the one that crossed it.
//! - After the end of the input everything that was taken is answered, then it is done.
//!
//! Not here: what the answers are (`session`, `talk`), sockets (`worker`), time.

mod bounds;
mod feeding;
mod foreign;
mod passing;
mod who;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::BytesMut;

use crate::command::{By, Command, Order, Talk, parse};
use crate::error::Refusal;
use crate::frame::{Input, Next, RequestLimits};
use crate::reply::{Protocol, Reply};
use crate::rights::{Right, User};
use crate::talk;
use feeding::Feeding;
use foreign::is_http;
use passing::is_commit;

/// Bytes that are read beside requests that cannot start yet.
pub const READ_AHEAD: usize = 64 << 10;
/// What somebody may send who has not said who they are.
const STRANGER: RequestLimits = RequestLimits { bytes: 16 << 10, args: 16, line: 16 << 10 };

/// Appends that are carried out together, and their bytes.
const GATHERED_MAX: usize = 256;
const GATHERED_BYTES: usize = 64 << 10;

/// What a connection may hold (P-28).
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Of one request.
    pub request: RequestLimits,
    /// Requests under way.
    pub in_flight: usize,
    /// Bytes of their payloads.
    pub in_flight_bytes: usize,
    /// Bytes of replies that were not sent yet, beyond which nothing new starts.
    pub output: usize,
    /// Logs that it follows.
    pub follows: usize,
    /// Bytes of a line after `INGEST`, with its end.
    pub line: usize,
    /// Bytes of lines that become durable together.
    pub lines: usize,
}

/// A request to be carried out.
#[derive(Debug)]
pub struct Work {
    /// For its reply.
    pub ticket: u64,
    /// For the replies of further appends that were gathered: one for each record behind the first.
    pub more: Vec<u64>,
    /// Its place in the table of commands.
    pub spec: usize,
    /// What to do.
    pub command: Command,
    /// Who asks.
    pub user: Arc<User>,
}

/// What the connection answered without anybody's help, for who counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// A command, by its place in the table.
    Talk(usize),
    /// A refusal, by the place of its word.
    Error(usize),
}

#[derive(Debug)]
struct Slot {
    protocol: Protocol,
    bytes: usize,
    reply: Option<Reply>,
    /// Bytes of the reply, while it waits for those before it.
    piled: usize,
}

/// See the module's head.
#[derive(Debug)]
pub struct Connection {
    limits: Limits,
    pub(crate) id: u64,
    pub(crate) protocol: Protocol,
    pub(crate) name: String,
    /// Who it is; nobody yet if somebody must be said.
    user: Option<Arc<User>>,
    /// Who it is without having said anything.
    default_user: Option<Arc<User>>,
    /// What `HELLO` asked for besides the login under way.
    hello: Option<(Option<u64>, Option<String>)>,
    input: Input,
    slots: VecDeque<Slot>,
    /// Ticket of the first slot.
    first: u64,
    in_flight_bytes: usize,
    /// Bytes of replies that wait for those before them.
    piled: usize,
    /// A request under way that others wait for.
    alone: Option<u64>,
    /// The next request, which cannot start yet.
    waiting: Option<(usize, Command)>,
    output: BytesMut,
    /// The most memory that `output` had since it was new.
    most: usize,
    pub(crate) follows: Vec<String>,
    feeding: Option<Feeding>,
    /// No byte will come any more.
    input_ended: bool,
    /// Nothing of the input is looked at any more.
    closing: bool,
    /// Since a `MULTI` that was refused: nothing up to its `EXEC` is carried out.
    in_multi: bool,
    /// A request that was a commit, or may have been one, was refused before it began: a later
    /// commit would pass over it.
    ///
    /// Of which processor, if that could be told.
    commit_refused: Option<Option<String>>,
    /// A `CLAIM` that is under way, and of which processor.
    claiming: Option<(u64, String)>,
    /// Requests that were taken, for the idle clock.
    taken: u64,
    told: Vec<Told>,
}

impl Connection {
    /// A new connection. Without a user somebody must log in first.
    #[must_use]
    pub fn new(id: u64, limits: Limits, user: Option<Arc<User>>) -> Self {
        Self {
            limits,
            id,
            protocol: Protocol::Resp2,
            name: String::new(),
            user: user.clone(),
            default_user: user,
            hello: None,
            input: Input::default(),
            slots: VecDeque::new(),
            first: 0,
            in_flight_bytes: 0,
            piled: 0,
            alone: None,
            waiting: None,
            output: BytesMut::new(),
            most: 0,
            follows: Vec::new(),
            feeding: None,
            input_ended: false,
            closing: false,
            in_multi: false,
            commit_refused: None,
            claiming: None,
            taken: 0,
            told: Vec::new(),
        }
    }

    /// One whose lines feed a log from its first byte on; one count answers them, at the end.
    #[must_use]
    pub fn feeding(id: u64, limits: Limits, log: String) -> Self {
        let mut connection = Self::new(id, limits, Some(Arc::new(User::everyone())));
        connection.feeding = Some(Feeding::new(log, false));
        connection
    }

    /// Bytes that came.
    pub fn handle_input(&mut self, bytes: &[u8]) {
        if !self.closing {
            self.input.extend(bytes);
        }
    }

    /// No byte will come any more: what is whole is carried out, then it is done (P-32).
    pub fn handle_input_end(&mut self) {
        self.input_ended = true;
    }

    /// Nothing new is taken; what was taken is answered, then it is done (P-33).
    pub fn handle_stop(&mut self) {
        if self.waiting.take().is_some() {
            let text = "the server stops; nothing was done, try again in a while";
            self.answer_next(Reply::Error(Refusal::new("STOPPED", text)));
        }
        self.close();
    }

    /// As [`handle_stop`](Self::handle_stop), and says why.
    pub fn handle_refusal(&mut self, refusal: Refusal) {
        self.told.push(Told::Error(refusal.index()));
        self.end_with(refusal);
    }

    fn end_with(&mut self, refusal: Refusal) {
        self.waiting = None;
        match &mut self.feeding {
            Some(feeding) => {
                let refusal = feeding.end_with(refusal);
                refusal.into_iter().for_each(|refusal| self.answer_next(Reply::Error(refusal)));
            }
            None => self.answer_next(Reply::Error(refusal)),
        }
        self.close();
    }

    fn close(&mut self) {
        self.closing = true;
        self.follows.clear();
        self.input = Input::default();
    }

    /// Whether it waits for its peer only.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.slots.is_empty() && self.output.is_empty() && self.follows.is_empty()
    }

    /// Whether it may be closed: all is answered and sent.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.closing && self.slots.is_empty() && self.output.is_empty() && !self.owes_count()
    }

    /// Whether it takes nothing any more.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.closing
    }

    /// What it has answered by itself since the last call.
    pub fn drain_told(&mut self) -> impl Iterator<Item = Told> {
        std::mem::take(&mut self.told).into_iter()
    }

    /// Whether its peer has ended its side.
    #[must_use]
    pub fn has_input_ended(&self) -> bool {
        self.input_ended
    }

    /// How many requests it has taken: more than before means that the peer is alive.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Whether it follows a log.
    #[must_use]
    pub fn follows(&self, log: &str) -> bool {
        self.follows.iter().any(|followed| followed == log)
    }

    /// The next request that may start.
    pub fn poll_work(&mut self) -> Option<Work> {
        loop {
            if self.alone.is_some() || !self.wants_push() || self.closing {
                return None;
            }
            if self.feeding.is_some() {
                return self.poll_lines();
            }
            let (spec, command) = match self.waiting.take() {
                None => self.next_command()?,
                // What may be done may have changed since.
                Some(waiting) => match self.check_again(waiting) {
                    Ok(waiting) => waiting,
                    Err(refusal) => {
                        self.told.push(Told::Error(refusal.index()));
                        self.answer_next(Reply::Error(refusal));
                        continue;
                    }
                },
            };
            if let Command::Talk(talk) = command {
                self.told.push(Told::Talk(spec));
                self.talk(talk);
                continue;
            }
            if !self.may_start(&command) {
                self.waiting = Some((spec, command));
                return None;
            }
            let user = self.user.clone().unwrap_or_else(|| Arc::new(User::nobody()));
            let mut work = self.start(spec, command, user);
            self.gather(&mut work);
            return Some(work);
        }
    }

    /// The next command that is understood and allowed; others are answered on the way.
    fn next_command(&mut self) -> Option<(usize, Command)> {
        loop {
            // A flood of what is refused at once must be bounded too.
            if self.slots.len() >= self.limits.in_flight {
                return None;
            }
            let limits = self.user.as_ref().map_or(STRANGER, |_| self.limits.request);
            let refusal = match self.input.next_request(&limits) {
                Ok(None) => {
                    if self.input_ended {
                        self.close();
                    }
                    return None;
                }
                Err(refusal) => {
                    self.handle_refusal(refusal);
                    return None;
                }
                Ok(Some(Next::Refused(refusal))) => {
                    self.commit_refused = Some(None);
                    refusal
                }
                Ok(Some(Next::Request(args))) if is_http(&args) => {
                    let text = "this is not HTTP: a web page must not speak for who looks at it";
                    self.handle_refusal(Refusal::new("ERR", text));
                    return None;
                }
                Ok(Some(Next::Request(args))) if self.is_in_multi(&args[0]) => {
                    self.note_refused(&args);
                    let text = "there are no transactions of Redis here; nothing of it is done, \
                                see MAPPEND, BATCH and COMMIT";
                    Refusal::new("ERR", text)
                }
                Ok(Some(Next::Request(args))) => {
                    self.taken += 1;
                    let commit = is_commit(&args).then(|| args.clone());
                    match parse(args).and_then(|found| self.check(found)) {
                        Ok(found) => return Some(found),
                        Err(refusal) => {
                            commit.iter().for_each(|args| self.note_refused(args));
                            refusal
                        }
                    }
                }
            };
            self.told.push(Told::Error(refusal.index()));
            self.answer_next(Reply::Error(refusal));
            if !self.wants_push() {
                return None;
            }
        }
    }

    /// Whether the user may do it, and this connection at all (P-10, P-24).
    fn check(&self, (spec, command): (usize, Command)) -> Result<(usize, Command), Refusal> {
        let Some(user) = &self.user else {
            if command.is_open_to_all() {
                return Ok((spec, command));
            }
            return Err(Refusal::new("NOAUTH", "say who you are first: AUTH user password"));
        };
        let missing = command.needs().into_iter().find(|(right, name)| !user.may(*right, name));
        if let Some((right, name)) = missing {
            let text = format!("user {:?} may not {right} {name:?}; nothing was done", user.name);
            return Err(Refusal::new("NOPERM", text));
        }
        let passes_over = |commit: &str| {
            let refused = self.commit_refused.as_ref();
            refused.is_some_and(|reader| reader.as_ref().is_none_or(|reader| reader == commit))
        };
        if matches!(&command, Command::Commit { reader, .. } if passes_over(reader)) {
            let text = "a request before it was refused: this commit would pass over it; CLAIM the \
                        processor again";
            return Err(Refusal::new("UNCLAIMED", text));
        }
        let only_follows = self.protocol == Protocol::Resp2 && !self.follows.is_empty();
        let goes_on = |talk: &Talk| {
            matches!(talk, Talk::Unfollow(_) | Talk::Ping(_) | Talk::Quit | Talk::Reset)
        };
        if only_follows
            && !matches!(command, Command::Follow { .. })
            && !matches!(&command, Command::Talk(talk) if goes_on(talk))
        {
            let text = "while it follows, RESP2 allows only FOLLOW, UNFOLLOW, PING, RESET and QUIT";
            return Err(Refusal::new("ERR", format!("{text}; HELLO 3 allows all")));
        }
        if let Command::Follow { log, .. } = &command {
            if self.follows(log) {
                return Err(Refusal::new("EXISTS", format!("it follows {log:?} already")));
            }
            if self.follows.len() >= self.limits.follows {
                let text = format!("a connection follows {} logs at most", self.limits.follows);
                return Err(Refusal::new("LIMIT", text));
            }
        }
        Ok((spec, command))
    }

    fn may_start(&self, command: &Command) -> bool {
        match command.order() {
            Order::Alone => self.slots.is_empty(),
            Order::Together => self.slots.is_empty() || self.fits(command.bytes()),
        }
    }

    fn fits(&self, bytes: usize) -> bool {
        let fits = self.in_flight_bytes + bytes <= self.limits.in_flight_bytes;
        fits && self.slots.len() < self.limits.in_flight
    }

    fn start(&mut self, spec: usize, command: Command, user: Arc<User>) -> Work {
        let ticket = self.add_slot(command.bytes());
        if command.order() == Order::Alone {
            self.alone = Some(ticket);
        }
        if let Command::Claim { reader, .. } = &command {
            self.claiming = Some((ticket, reader.clone()));
        }
        if let Command::Auth { hello, .. } = &command {
            self.hello.clone_from(hello);
        }
        Work { ticket, more: Vec::new(), spec, command, user }
    }

    /// Adds appends of anyone to the same log that came behind one.
    fn gather(&mut self, work: &mut Work) {
        let Command::Append { log, records, by: By::Anyone } = &mut work.command else { return };
        let (mut bytes, is_one) = (records[0].payload.len(), records.len() == 1);
        while is_one && records.len() < GATHERED_MAX && bytes < GATHERED_BYTES {
            let Some((spec, next)) = self.next_command() else { return };
            match next {
                Command::Append { log: to, records: more, by: By::Anyone }
                    if to == *log
                        && more.len() == 1
                        && bytes + more[0].payload.len() <= GATHERED_BYTES
                        && self.fits(more[0].payload.len()) =>
                {
                    let size = more[0].payload.len();
                    bytes += size;
                    work.more.push(self.add_slot(size));
                    records.extend(more);
                }
                next => {
                    self.waiting = Some((spec, next));
                    return;
                }
            }
        }
    }

    fn add_slot(&mut self, bytes: usize) -> u64 {
        self.in_flight_bytes += bytes;
        self.slots.push_back(Slot { protocol: self.protocol, bytes, reply: None, piled: 0 });
        self.first + self.slots.len() as u64 - 1
    }

    /// Answers what comes behind everything that was taken.
    pub(crate) fn answer_next(&mut self, reply: Reply) {
        let ticket = self.add_slot(0);
        self.handle_reply(ticket, reply);
    }

    fn talk(&mut self, talk: Talk) {
        match talk {
            Talk::Quit => {
                self.answer_next(Reply::OK);
                self.close();
            }
            Talk::Reset => {
                self.answer_next(Reply::Simple("RESET"));
                self.user.clone_from(&self.default_user);
                self.protocol = Protocol::Resp2;
                self.name.clear();
                self.follows.clear();
            }
            talk => {
                let reply = talk::answer(self, talk);
                self.answer_next(reply);
            }
        }
    }

    /// The answer to a request.
    pub fn handle_reply(&mut self, ticket: u64, reply: Reply) {
        let index = ticket.checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
        let slot = index.and_then(|index| self.slots.get_mut(index));
        let slot = slot.expect("a ticket is answered once");
        assert!(slot.reply.is_none(), "a ticket is answered once");
        if ticket > self.first {
            slot.piled = reply.size();
            self.piled += slot.piled;
        }
        slot.reply = Some(reply);
        if self.alone == Some(ticket) {
            self.alone = None;
        }
        self.note_claim(ticket);
        self.send_replies();
    }

    /// Those that wait for none before them.
    fn send_replies(&mut self) {
        while let Some(reply) = self.slots.front_mut().and_then(|slot| slot.reply.take()) {
            let slot = self.slots.pop_front().expect("it was just looked at");
            self.first += 1;
            self.in_flight_bytes -= slot.bytes;
            self.piled -= slot.piled;
            reply.encode(slot.protocol, &mut self.output);
        }
    }

    /// The answer to `FOLLOW`: records may be handed in from now on (P-23).
    pub fn handle_followed(&mut self, ticket: u64, log: String) {
        let may_read = self.user.as_ref().is_some_and(|user| user.may(Right::Read, &log));
        if !may_read {
            let refusal = Refusal::new("NOPERM", "you may not read it any more");
            return self.handle_reply(ticket, Reply::Error(refusal));
        }
        let confirm = Reply::Push(vec![Reply::word("follow"), Reply::text(log.clone())]);
        self.handle_reply(ticket, confirm);
        if !self.closing {
            self.follows.push(log);
        }
    }

    /// What is told without having been asked for.
    pub fn handle_push(&mut self, items: Vec<Reply>) {
        Reply::Push(items).encode(self.protocol, &mut self.output);
    }

    /// Following a log has ended by itself.
    pub fn handle_unfollowed(&mut self, log: &str, why: Refusal) {
        self.follows.retain(|followed| followed != log);
        let name = Reply::text(log);
        self.handle_push(vec![Reply::word("unfollow"), name, Reply::text(why.line())]);
    }
}

#[cfg(test)]
mod tests;
