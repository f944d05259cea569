//! The load: one thread, epoll, requests that were made before, answers that are only counted.
//!
//! ```text
//! Requests: one block of bytes, sent in a circle
//! Connection: queue(n) -> unsent bytes -> socket -> Answers -> n of them whole -> queue(n)
//!                 '- sent: (instant, how many)  --------------'- latency
//! ```
//!
//! Invariants:
//! - Each connection has `depth` requests under way, from its first to the end of the window.
//! - A latency begins when a request is handed to its connection, so it holds the time in which the
//!   socket takes no more.
//! - Nothing is allocated or copied for a request.
//!
//! Not here: what the requests are (`dialect`), and the server (`server`).

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

use super::reply::Answers;
use crate::meter::{Tally, Window};

/// Read at once; more takes another turn.
const READ_SIZE: usize = 256 << 10;
const EVENTS_MAX: usize = 256;
/// Answers that do not come for so long never will.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Requests, made before they are sent, in a circle.
#[derive(Debug, Default)]
pub(super) struct Requests {
    bytes: Vec<u8>,
    lengths: Vec<usize>,
}

impl Requests {
    pub(super) fn push(&mut self, request: &[u8]) {
        self.bytes.extend_from_slice(request);
        self.lengths.push(request.len());
    }
}

/// What answers mean.
#[derive(Clone, Copy, Debug)]
pub(super) enum Meaning {
    /// Each is for one request.
    One,
    /// Each says how many lines of all that were sent are durable; a request has so many lines.
    Lines(u64),
}

/// What one answered request counts.
#[derive(Clone, Copy, Debug)]
pub(super) enum Counts {
    /// So many records.
    Records(u64),
    /// As many records as there are payloads in the answer.
    Payloads,
}

/// How the load is made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Requests in flight on each connection.
    pub(super) depth: u32,
    /// How an answer begins.
    pub(super) expected: u8,
    /// Bytes of a payload.
    pub(super) payload: u64,
    /// What answers mean.
    pub(super) meaning: Meaning,
    /// What they count.
    pub(super) counts: Counts,
}

/// One connection.
#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    requests: Rc<Requests>,
    /// The next request to be handed over.
    next: usize,
    /// Where unsent bytes begin in the circle, and how many there are.
    from: usize,
    unsent: usize,
    /// When requests were handed over, and how many of them wait for their answers.
    sent: VecDeque<(Instant, u32)>,
    answers: Answers,
    /// Lines that are durable.
    lines: u64,
    /// Whether it waits until the socket takes more.
    is_full: bool,
}

impl Connection {
    fn queue(&mut self, now: Instant, count: u32) {
        for _ in 0..count {
            self.unsent += self.requests.lengths[self.next];
            self.next = (self.next + 1) % self.requests.lengths.len();
        }
        if count > 0 {
            self.sent.push_back((now, count));
        }
    }

    /// Sends what the socket takes. Answers whether that was all.
    fn flush(&mut self) -> Result<bool> {
        let bytes = &self.requests.bytes;
        while self.unsent > 0 {
            let first = &bytes[self.from..bytes.len().min(self.from + self.unsent)];
            let rest = (self.unsent - first.len()).min(self.from);
            let slices = [IoSlice::new(first), IoSlice::new(&bytes[..rest])];
            match self.stream.write_vectored(&slices) {
                Ok(0) => bail!("the server takes no more bytes"),
                Ok(written) => {
                    self.unsent -= written;
                    self.from = (self.from + written) % bytes.len();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("sending to the server"),
            }
        }
        Ok(true)
    }
}

/// Requests that are answered at one instant and were handed over at one.
struct Answered {
    began: Instant,
    requests: u64,
    records: u64,
}

impl Answered {
    fn count(&mut self, tally: &mut Tally, ended: Instant, payload: u64, began: Instant) {
        if self.requests > 0 {
            let bytes = self.records * payload;
            tally.count_many_at((self.began, ended), self.requests, self.records, bytes);
        }
        *self = Self { began, requests: 0, records: 0 };
    }
}

/// All connections.
#[derive(Debug)]
pub(super) struct Load {
    poll: OwnedFd,
    connections: Vec<Connection>,
    buffer: Vec<u8>,
    shape: Shape,
}

impl Load {
    pub(super) fn new(shape: Shape) -> Result<Self> {
        let poll = epoll::create(CreateFlags::CLOEXEC).context("making an epoll instance")?;
        Ok(Self { poll, connections: Vec::new(), buffer: vec![0; READ_SIZE], shape })
    }

    /// Adds a connection that sends these requests. It has no answer under way.
    pub(super) fn add(&mut self, stream: TcpStream, requests: Rc<Requests>) -> Result<()> {
        ensure!(!requests.bytes.is_empty(), "there is nothing to ask");
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let number = EventData::new_u64(self.connections.len() as u64);
        epoll::add(&self.poll, &stream, number, EventFlags::IN)?;
        self.connections.push(Connection {
            stream,
            requests,
            next: 0,
            from: 0,
            unsent: 0,
            sent: VecDeque::with_capacity(self.shape.depth as usize),
            answers: Answers::new(self.shape.expected, self.shape.payload),
            lines: 0,
            is_full: false,
        });
        Ok(())
    }

    /// Keeps `depth` requests in flight on each connection until the window is over, or `requests`
    /// of them are answered.
    ///
    /// # Errors
    /// The server answers an error, closes a connection, or says nothing for long.
    pub(super) fn run(&mut self, window: Window, requests: u64) -> Result<Tally> {
        let mut tally = Tally::new(window);
        let (mut left, mut open) = (requests, 0);
        for index in 0..self.connections.len() {
            let count = left.min(u64::from(self.shape.depth));
            left -= count;
            open += count;
            self.connections[index].queue(Instant::now(), count as u32);
            self.flush(index)?;
        }
        let mut events: Vec<Event> = Vec::with_capacity(EVENTS_MAX);
        let mut heard = Instant::now();
        while open > 0 {
            let now = Instant::now();
            if now >= window.end {
                break;
            }
            ensure!(now - heard < SILENCE_MAX, "no answer for {} s", SILENCE_MAX.as_secs());
            self.wait(&mut events, (window.end - now).min(SILENCE_MAX))?;
            if !events.is_empty() {
                heard = Instant::now();
            }
            for event in events.drain(..) {
                let (index, flags) = (event.data.u64() as usize, event.flags);
                if flags.contains(EventFlags::OUT) {
                    self.flush(index)?;
                }
                if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
                    let done = self.receive(index, &mut left, &mut tally)?;
                    open = open - done.answered + done.asked;
                }
            }
        }
        Ok(tally)
    }

    fn wait(&self, events: &mut Vec<Event>, longest: Duration) -> Result<()> {
        let longest = Timespec::try_from(longest)?;
        match epoll::wait(&self.poll, spare_capacity(events), Some(&longest)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(io::Error::from(error)).context("waiting for the server"),
        }
    }

    /// Sends, and asks to hear when the socket takes more if it does not take all.
    fn flush(&mut self, index: usize) -> Result<()> {
        let connection = &mut self.connections[index];
        let is_full = !connection.flush()?;
        if is_full != connection.is_full {
            connection.is_full = is_full;
            let flags = if is_full { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
            let number = EventData::new_u64(index as u64);
            epoll::modify(&self.poll, &connection.stream, number, flags)?;
        }
        Ok(())
    }

    /// Reads once, counts, and hands as many new requests over as were answered.
    fn receive(&mut self, index: usize, left: &mut u64, tally: &mut Tally) -> Result<Done> {
        let shape = self.shape;
        let connection = &mut self.connections[index];
        let read = match connection.stream.read(&mut self.buffer) {
            Ok(0) => bail!("the server has closed a connection"),
            Ok(read) => read,
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                return Ok(Done::default());
            }
            Err(error) => return Err(error).context("reading from the server"),
        };
        let now = Instant::now();
        let Connection { sent, answers, lines, .. } = &mut *connection;
        let mut answered = 0;
        let mut group = Answered { began: now, requests: 0, records: 0 };
        answers.feed(&self.buffer[..read], |answer| {
            let whole = match shape.meaning {
                Meaning::One => 1,
                Meaning::Lines(each) => {
                    let before = std::mem::replace(lines, answer.integer.max(*lines));
                    *lines / each - before / each
                }
            };
            for _ in 0..whole {
                let oldest = sent.front_mut().context("the server answers what was not asked")?;
                if group.began != oldest.0 {
                    group.count(tally, now, shape.payload, oldest.0);
                }
                group.requests += 1;
                group.records += match shape.counts {
                    Counts::Records(records) => records,
                    Counts::Payloads => answer.payloads,
                };
                oldest.1 -= 1;
                if oldest.1 == 0 {
                    sent.pop_front();
                }
            }
            answered += whole;
            Ok(())
        })?;
        group.count(tally, now, shape.payload, now);
        let asked = answered.min(*left);
        *left -= asked;
        connection.queue(now, asked as u32);
        self.flush(index)?;
        Ok(Done { answered, asked })
    }
}

/// What one turn of a connection has done.
#[derive(Clone, Copy, Debug, Default)]
struct Done {
    answered: u64,
    asked: u64,
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr, TcpListener};
    use std::thread::{self, JoinHandle};

    use super::*;

    /// A server that answers each `length` bytes with what `answer` says for the so many-th, and
    /// returns how many answers it gave and the first bytes that it got.
    fn server(
        length: usize,
        connections: usize,
        answer: fn(usize) -> String,
    ) -> (SocketAddr, JoinHandle<(usize, Vec<u8>)>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let serve = move |mut stream: TcpStream| {
            let (mut request, mut first, mut answered) = (vec![0; length], Vec::new(), 0);
            while stream.read_exact(&mut request).is_ok() {
                if first.len() < 4 * length {
                    first.extend_from_slice(&request);
                }
                let answer = answer(answered + 1);
                answered += usize::from(stream.write_all(answer.as_bytes()).is_ok());
            }
            (answered, first)
        };
        let thread = thread::spawn(move || {
            let accept = |_| listener.accept().unwrap().0;
            let streams: Vec<TcpStream> = (0..connections).map(accept).collect();
            let threads: Vec<_> =
                streams.into_iter().map(|stream| thread::spawn(move || serve(stream))).collect();
            let served = threads.into_iter().map(|thread| thread.join().unwrap());
            served.reduce(|one, other| (one.0 + other.0, other.1)).unwrap()
        });
        (address, thread)
    }

    fn shape(meaning: Meaning) -> Shape {
        Shape { depth: 7, expected: b':', payload: 100, meaning, counts: Counts::Records(1) }
    }

    fn load(shape: Shape, address: SocketAddr, connections: usize) -> Load {
        let mut load = Load::new(shape).unwrap();
        let mut requests = Requests::default();
        ["one.", "two.", "six."].iter().for_each(|request| requests.push(request.as_bytes()));
        let requests = Rc::new(requests);
        for _ in 0..connections {
            let stream = TcpStream::connect(address).unwrap();
            load.add(stream, requests.clone()).unwrap();
        }
        load
    }

    fn window() -> Window {
        let begin = Instant::now();
        Window { begin, end: begin + Duration::from_secs(600) }
    }

    #[test]
    fn so_many_requests_are_sent_in_their_order_and_each_answer_is_counted_once() {
        let (address, server) = server(4, 3, |_| ":5\r\n".to_owned());
        let mut load = load(shape(Meaning::One), address, 3);
        let tally = load.run(window(), 1000).unwrap();
        drop(load);
        let (answered, first) = server.join().unwrap();
        assert_eq!((answered, tally.operations(), tally.records()), (1000, 1000, 1000));
        assert_eq!((tally.payload_bytes(), tally.latency().0.len()), (100_000, 1000));
        assert_eq!(first, b"one.two.six.one.");
    }

    #[test]
    fn a_block_of_lines_is_answered_when_all_of_its_lines_are() {
        let (address, server) = server(2, 1, |number| format!(":{}\r\n", 2 * number));
        // Each half of a block of four lines is answered by the lines of all so far.
        let mut load = load(shape(Meaning::Lines(4)), address, 1);
        let tally = load.run(window(), 9).unwrap();
        drop(load);
        assert_eq!((server.join().unwrap().0, tally.operations()), (18, 9));
    }

    #[test]
    fn an_error_is_the_servers_words() {
        let (address, server) = server(4, 1, |_| "-NOSPACE the disk is full\r\n".to_owned());
        let mut load = load(shape(Meaning::One), address, 1);
        let error = load.run(window(), 10).unwrap_err().to_string();
        drop(load);
        server.join().unwrap();
        assert!(error.contains("NOSPACE the disk is full"), "{error}");
    }
}
