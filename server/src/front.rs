//! What the front end counts about itself: connections, requests, errors, bytes, times.
//!
//! ```text
//! worker 0 --add--> lane 0 --\
//! worker 1 --add--> lane 1 ---+--sum, when asked--> Figures --> metrics, status page
//! ...                        /
//! ```
//!
//! Invariants:
//! - Counting is one relaxed addition to memory that mostly one thread writes: no lock, no system
//!   call, no allocation.
//! - Every counter only grows. What is open or under way is a difference of two, and the smaller of
//!   both is read first: it is never negative.
//!
//! Not here: what the engine counts, and how figures are shown (`watch`).

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use crate::error::WORDS;

/// Threads beyond so many share lanes; that costs a little time, and no figure.
const LANES: usize = 8;

/// Ranges of times. The first ends at 16 us, each other one at twice the one before, and the last
/// has no end.
pub const RANGES: usize = 22;

/// Why a connection was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There were as many as are allowed.
    Limit,
    /// Its TLS handshake failed.
    Tls,
    /// It did not say who it is, or wrongly, until it was closed for that.
    Auth,
}

impl Refused {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Limit, Self::Tls, Self::Auth];

    /// As a label.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::Tls => "tls",
            Self::Auth => "auth",
        }
    }
}

/// The end of a range of times in microseconds; `None` for the last one.
#[must_use]
pub fn range_end_us(range: usize) -> Option<u64> {
    (range + 1 < RANGES).then(|| 16 << range)
}

fn range_of(micros: u64) -> usize {
    let beyond = micros.saturating_sub(1) >> 4;
    let range = u64::BITS - beyond.leading_zeros();
    (range as usize).min(RANGES - 1)
}

#[derive(Debug, Default)]
struct VerbLane {
    asked: AtomicU64,
    abandoned: AtomicU64,
    micros: AtomicU64,
    ranges: [AtomicU64; RANGES],
}

/// What one thread counts. As large as two cache lines at least, so that lanes share none.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Lane {
    accepted: AtomicU64,
    closed: AtomicU64,
    refused: [AtomicU64; Refused::ALL.len()],
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    followed: AtomicU64,
    unfollowed: AtomicU64,
    ingested: AtomicU64,
    auth_failed: AtomicU64,
    errors: [AtomicU64; WORDS.len()],
    verbs: Box<[VerbLane]>,
}

fn lane() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static OWN: Cell<usize> = const { Cell::new(usize::MAX) };
    }
    OWN.with(|own| {
        if own.get() == usize::MAX {
            own.set(NEXT.fetch_add(1, Relaxed) % LANES);
        }
        own.get()
    })
}

fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Relaxed);
}

/// The figures of a front end. Shared by its workers; all methods may be called from any thread.
///
/// ```
/// use oncelog_server::front::Front;
/// let front = Front::new(&["PING", "APPEND"]);
/// front.accepted();
/// front.request(1);
/// front.answered(1, 120);
/// let figures = front.figures();
/// assert_eq!(figures.connections_open(), 1);
/// assert_eq!((figures.verbs[1].name, figures.verbs[1].requests), ("APPEND", 1));
/// ```
#[derive(Debug)]
pub struct Front {
    names: &'static [&'static str],
    lanes: Box<[Lane]>,
}

impl Front {
    /// The verb of requests that name none that there is.
    pub const UNKNOWN: usize = usize::MAX;

    /// All figures are 0. A verb is known by its place in `verbs` from here on.
    #[must_use]
    pub fn new(verbs: &'static [&'static str]) -> Self {
        // One more for the unknown.
        let verb_lanes = || (0..=verbs.len()).map(|_| VerbLane::default()).collect();
        let lane = |_| Lane { verbs: verb_lanes(), ..Lane::default() };
        Self { names: verbs, lanes: (0..LANES).map(lane).collect() }
    }

    fn lane(&self) -> &Lane {
        &self.lanes[lane()]
    }

    fn verb(&self, verb: usize) -> &VerbLane {
        &self.lane().verbs[verb.min(self.names.len())]
    }

    /// A connection was accepted, and is open.
    pub fn accepted(&self) {
        add(&self.lane().accepted, 1);
    }

    /// A connection that was accepted is closed.
    pub fn closed(&self) {
        add(&self.lane().closed, 1);
    }

    /// A connection was refused. If it was accepted before, it counts as that as well.
    pub fn refused(&self, why: Refused) {
        add(&self.lane().refused[why as usize], 1);
    }

    /// So many bytes came in.
    pub fn received(&self, bytes: usize) {
        add(&self.lane().bytes_in, bytes as u64);
    }

    /// So many bytes went out.
    pub fn sent(&self, bytes: usize) {
        add(&self.lane().bytes_out, bytes as u64);
    }

    /// A request was taken: it is under way until it is answered, or abandoned.
    pub fn request(&self, verb: usize) {
        add(&self.verb(verb).asked, 1);
    }

    /// A request was answered, with an error or without, so long after it was taken.
    pub fn answered(&self, verb: usize, micros: u64) {
        let verb = self.verb(verb);
        add(&verb.micros, micros);
        add(&verb.ranges[range_of(micros)], 1);
    }

    /// A request will never be answered: its connection is gone.
    pub fn abandoned(&self, verb: usize) {
        add(&self.verb(verb).abandoned, 1);
    }

    /// An answer was an error: its word by the place in [`WORDS`], as
    /// [`Refusal::index`](crate::error::Refusal::index) says it.
    pub fn error(&self, word: usize) {
        add(&self.lane().errors[word], 1);
    }

    /// A connection begins to follow a log.
    pub fn followed(&self) {
        add(&self.lane().followed, 1);
    }

    /// A connection follows a log no more.
    pub fn unfollowed(&self) {
        add(&self.lane().unfollowed, 1);
    }

    /// So many lines became durable records.
    pub fn ingested(&self, lines: u64) {
        add(&self.lane().ingested, lines);
    }

    /// Somebody gave a wrong name or password.
    pub fn auth_failed(&self) {
        add(&self.lane().auth_failed, 1);
    }

    fn sum(&self, of: impl Fn(&Lane) -> &AtomicU64) -> u64 {
        let values = self.lanes.iter().map(|lane| of(lane).load(Relaxed));
        values.fold(0, u64::wrapping_add)
    }

    /// All figures as they are now.
    #[must_use]
    pub fn figures(&self) -> Figures {
        // What ends comes before what begins: a difference is never negative.
        let (closed, unfollowed) = (self.sum(|lane| &lane.closed), self.sum(|l| &l.unfollowed));
        let verbs = (0..=self.names.len()).map(|verb| {
            let ranges = std::array::from_fn(|at| self.sum(|lane| &lane.verbs[verb].ranges[at]));
            VerbFigures {
                name: self.names.get(verb).copied().unwrap_or("UNKNOWN"),
                abandoned: self.sum(|lane| &lane.verbs[verb].abandoned),
                ranges,
                micros: self.sum(|lane| &lane.verbs[verb].micros),
                requests: self.sum(|lane| &lane.verbs[verb].asked),
            }
        });
        let verbs = verbs.collect();
        let error = |at: usize| (WORDS[at].0, self.sum(|lane| &lane.errors[at]));
        Figures {
            closed,
            accepted: self.sum(|lane| &lane.accepted),
            refused: Refused::ALL.map(|why| (why, self.sum(|lane| &lane.refused[why as usize]))),
            bytes_in: self.sum(|lane| &lane.bytes_in),
            bytes_out: self.sum(|lane| &lane.bytes_out),
            unfollowed,
            followed: self.sum(|lane| &lane.followed),
            ingested: self.sum(|lane| &lane.ingested),
            auth_failed: self.sum(|lane| &lane.auth_failed),
            errors: (0..WORDS.len()).map(error).collect(),
            verbs,
        }
    }
}

/// What was counted about one verb.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerbFigures {
    /// Its name; `UNKNOWN` for requests that name none that there is.
    pub name: &'static str,
    /// Requests taken.
    pub requests: u64,
    /// Requests that will never be answered.
    pub abandoned: u64,
    /// Answers by the range of their time; see [`range_end_us`].
    pub ranges: [u64; RANGES],
    /// The times of all answers, microseconds.
    pub micros: u64,
}

impl VerbFigures {
    /// Requests answered.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.ranges.iter().sum()
    }

    /// The end of the range that this part of all answers, 0 to 1, does not exceed, microseconds;
    /// the end of the last but one for those beyond it. 0 without answers.
    #[must_use]
    pub fn quantile_us(&self, part: f64) -> u64 {
        let wanted = (self.answered() as f64 * part).ceil() as u64;
        let mut below = 0;
        let range = self.ranges.iter().position(|count| {
            below += count;
            below >= wanted
        });
        let range = range.unwrap_or(RANGES - 1).min(RANGES - 2);
        if wanted == 0 { 0 } else { range_end_us(range).expect("the last one is not asked for") }
    }

    /// Requests under way.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.requests.saturating_sub(self.answered() + self.abandoned)
    }
}

/// The figures of a front end at one time.
#[derive(Clone, Debug)]
pub struct Figures {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections closed of these.
    pub closed: u64,
    /// Connections refused.
    pub refused: [(Refused, u64); Refused::ALL.len()],
    /// Bytes that came in.
    pub bytes_in: u64,
    /// Bytes that went out.
    pub bytes_out: u64,
    /// Times that a connection began to follow a log.
    pub followed: u64,
    /// Times that it ended.
    pub unfollowed: u64,
    /// Lines that became durable records.
    pub ingested: u64,
    /// Wrong names and passwords.
    pub auth_failed: u64,
    /// Errors by their first word, in the order of [`WORDS`].
    pub errors: Vec<(&'static str, u64)>,
    /// The verbs in the order that was given, and the unknown ones behind them.
    pub verbs: Vec<VerbFigures>,
}

impl Figures {
    /// Connections that are open.
    #[must_use]
    pub fn connections_open(&self) -> u64 {
        self.accepted.saturating_sub(self.closed)
    }

    /// Logs that connections follow, each connection by itself.
    #[must_use]
    pub fn followers(&self) -> u64 {
        self.followed.saturating_sub(self.unfollowed)
    }

    /// Requests under way.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.verbs.iter().map(VerbFigures::in_flight).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Refusal;

    #[test]
    fn ranges_double_and_the_last_has_no_end() {
        assert_eq!([0, 1, 16].map(range_of), [0, 0, 0]);
        assert_eq!([17, 32, 33, 64].map(range_of), [1, 1, 2, 2]);
        assert_eq!(range_of(u64::MAX), RANGES - 1);
        for range in 0..RANGES - 1 {
            let end = range_end_us(range).unwrap();
            assert_eq!((range_of(end), range_of(end + 1)), (range, range + 1));
        }
        assert_eq!(range_end_us(RANGES - 1), None);
    }

    #[test]
    fn what_many_threads_count_is_summed_and_nothing_is_lost() {
        let front = Front::new(&["PING", "APPEND"]);
        let word = Refusal::new("NOLOG", "none").index();
        std::thread::scope(|scope| {
            for _ in 0..2 * LANES {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        front.accepted();
                        front.request(1);
                        front.answered(1, 20);
                        front.error(word);
                        front.received(10);
                    }
                    front.closed();
                    front.request(Front::UNKNOWN);
                    front.followed();
                    front.refused(Refused::Tls);
                });
            }
        });
        let figures = front.figures();
        let threads = 2 * LANES as u64;
        assert_eq!(figures.connections_open(), 999 * threads);
        assert_eq!((figures.bytes_in, figures.followers()), (10_000 * threads, threads));
        assert_eq!(figures.refused.map(|(_, count)| count), [0, threads, 0]);
        let append = &figures.verbs[1];
        assert_eq!((append.requests, append.ranges[1]), (1000 * threads, 1000 * threads));
        assert_eq!((append.micros, append.in_flight()), (20_000 * threads, 0));
        assert_eq!((figures.verbs[2].name, figures.in_flight()), ("UNKNOWN", threads));
        assert!(figures.errors.contains(&("NOLOG", 1000 * threads)));
    }

    #[test]
    fn a_quantile_is_the_end_of_its_range() {
        let front = Front::new(&["READ"]);
        assert_eq!(front.figures().verbs[0].quantile_us(0.99), 0);
        (0..99).for_each(|_| front.answered(0, 10));
        front.answered(0, 1_000);
        let verb = &front.figures().verbs[0];
        assert_eq!([0.5, 0.99, 1.0].map(|part| verb.quantile_us(part)), [16, 16, 1024]);
    }

    #[test]
    fn an_abandoned_request_is_no_longer_under_way() {
        let front = Front::new(&["READ"]);
        front.request(0);
        assert_eq!(front.figures().in_flight(), 1);
        front.abandoned(0);
        let figures = front.figures();
        assert_eq!((figures.in_flight(), figures.verbs[0].answered()), (0, 0));
    }
}
