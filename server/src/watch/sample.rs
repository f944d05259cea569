//! What the engine is asked for those who watch, kept for a moment so that asking costs little.
//!
//! ```text
//! /metrics, pages, health --> Cached: metrics 1 s | info 1 s | logs 10 s | pages 1 s | space 30 s
//!                                         '--> engine, only where what is kept is too old
//! ```
//!
//! Invariants:
//! - Whatever comes in, each question is asked once at a time, and takes the engine at most a
//!   twentieth of its time: what was costly is kept longer.
//! - Nobody waits for an answer longer than `PATIENCE`. Looking at the space may take longer, and
//!   nobody waits for that.
//! - Nothing is asked while nobody looks.
//!
//! Not here: what is made of the answers (`export`, `page`).

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::VecDeque;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use oncelog::{Engine, EngineInfo, EngineMetrics, LogId, LogInfo, ProcessorInfo, Space};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::{Stage, Watched};

/// Who asks waits no longer.
const PATIENCE: Duration = Duration::from_secs(5);
/// What was found out about the space is shown so long before it is asked for again.
const SPACE_FRESH: Duration = Duration::from_secs(30);
/// Who asks about the space first waits no longer.
const SPACE_PATIENCE: Duration = Duration::from_millis(300);
/// What costs more than this part of the time is asked less often.
const COST_SHARE: u32 = 20;
/// Logs of one request to the engine.
const LOGS_STEP: usize = 1000;
/// Logs of a page for people.
pub(super) const PAGE_LOGS: usize = 100;
/// Pages (by prefix and place) that are kept.
const PAGES_MAX: usize = 16;
/// Points of the curve on the page.
pub(super) const POINTS_MAX: usize = 61;
/// Points with more time between them are of different curves.
const POINTS_GAP: Duration = Duration::from_secs(20);

/// An answer, or why there is none, in words for people.
pub(super) type Answer<T> = Result<Arc<T>, String>;

/// The answer to a question, for as long as it is fresh.
pub(super) struct Cached<T> {
    fresh: Duration,
    /// With the time until which it is fresh.
    kept: Mutex<Option<(Instant, Answer<T>)>>,
}

impl<T> Cached<T> {
    fn new(fresh: Duration) -> Self {
        Self { fresh, kept: Mutex::new(None) }
    }

    /// What is kept, or what `ask` answers. Others that want it meanwhile wait for that answer.
    async fn get(&self, ask: impl Future<Output = Result<T, String>>) -> Answer<T> {
        let got = timeout(PATIENCE, async {
            let mut kept = self.kept.lock().await;
            if let Some((until, answer)) = &*kept
                && Instant::now() < *until
            {
                return answer.clone();
            }
            let begin = Instant::now();
            let answer = ask.await.map(Arc::new);
            let fresh = self.fresh.max(begin.elapsed() * COST_SHARE);
            *kept = Some((Instant::now() + fresh, answer.clone()));
            answer
        });
        let late = |_| Err(format!("the engine did not answer within {} s", PATIENCE.as_secs()));
        got.await.unwrap_or_else(late)
    }
}

/// What was counted at one time, as far as rates are shown of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    at: Instant,
    pub(super) append_records: u64,
    pub(super) append_bytes: u64,
    pub(super) read_records: u64,
    pub(super) commits: u64,
}

/// How fast something was between two points.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    /// Seconds between the points.
    pub(super) seconds: f64,
    /// Records appended in a second.
    pub(super) append_records: f64,
    /// Bytes of them in a second.
    pub(super) append_bytes: f64,
    /// Records read in a second.
    pub(super) read_records: f64,
    /// Commits in a second.
    pub(super) commits: f64,
}

impl Pace {
    fn between(before: &Point, now: &Point) -> Self {
        let seconds = now.at.duration_since(before.at).as_secs_f64().max(0.001);
        let rate = |of: fn(&Point) -> u64| of(now).saturating_sub(of(before)) as f64 / seconds;
        Self {
            seconds,
            append_records: rate(|point| point.append_records),
            append_bytes: rate(|point| point.append_bytes),
            read_records: rate(|point| point.read_records),
            commits: rate(|point| point.commits),
        }
    }
}

/// What logs have altogether.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LogSums {
    /// How many logs.
    pub(super) logs: u64,
    /// Records that are there.
    pub(super) records: u64,
    /// Records that were ever appended.
    pub(super) appended: u64,
    /// Bytes that were ever appended.
    pub(super) bytes: u64,
}

impl LogSums {
    fn add(&mut self, log: &LogInfo) {
        self.logs += 1;
        self.records += log.len();
        self.appended = self.appended.saturating_add(log.next.get());
        self.bytes = self.bytes.saturating_add(log.bytes);
    }
}

/// All logs: the first ones by name, the rest summed.
pub(super) struct AllLogs {
    pub(super) named: Vec<LogInfo>,
    pub(super) rest: LogSums,
}

/// Some logs, one after the other by name.
pub(super) struct LogPage {
    at: Instant,
    pub(super) logs: Vec<LogInfo>,
    /// Records appended to each in a second, where an earlier look can tell.
    pub(super) paces: Vec<Option<f64>>,
    /// Whether there are logs behind them.
    pub(super) more: bool,
}

/// Where the space is, when that was last found out.
#[derive(Clone)]
pub(super) struct SpaceSeen {
    pub(super) at: Instant,
    pub(super) space: Arc<Space>,
}

/// Whether the server lives, and may be sent requests.
pub(super) struct Pulse {
    /// Why a shard takes no more work.
    pub(super) stopped: Option<String>,
    /// Shards that refuse appends for want of space.
    pub(super) without_space: usize,
}

type PageKey = (String, String);

/// Asks the engine, and keeps the answers.
pub(super) struct Sampler {
    pub(super) watched: Watched,
    started: Instant,
    /// Seconds since 1970.
    pub(super) started_s: f64,
    metrics: Cached<EngineMetrics>,
    info: Cached<EngineInfo>,
    pulse: Cached<Pulse>,
    logs: Cached<AllLogs>,
    processors: Cached<Vec<ProcessorInfo>>,
    /// When to look at it again; `None` while that is being done.
    space_due: Cell<Option<Instant>>,
    text: Cached<String>,
    pages: Mutex<Vec<(PageKey, Arc<LogPage>)>>,
    points: RefCell<VecDeque<Point>>,
    space_seen: RefCell<Option<SpaceSeen>>,
}

impl Sampler {
    pub(super) fn new(watched: Watched) -> Self {
        let second = Duration::from_secs(1);
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Self {
            watched,
            started: Instant::now(),
            started_s: since_1970.map_or(0.0, |time| time.as_secs_f64()),
            metrics: Cached::new(second),
            info: Cached::new(second),
            pulse: Cached::new(second / 2),
            logs: Cached::new(10 * second),
            processors: Cached::new(second),
            space_due: Cell::new(Some(Instant::now())),
            text: Cached::new(second),
            pages: Mutex::new(Vec::new()),
            points: RefCell::new(VecDeque::new()),
            space_seen: RefCell::new(None),
        }
    }

    fn engine(&self) -> &Engine {
        &self.watched.engine
    }

    pub(super) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// What the engine counted.
    pub(super) async fn metrics(&self) -> Answer<EngineMetrics> {
        self.metrics
            .get(async {
                let metrics = self.engine().metrics().await.map_err(|error| error.to_string())?;
                self.note(&metrics);
                Ok(metrics)
            })
            .await
    }

    fn note(&self, metrics: &EngineMetrics) {
        let total = &metrics.total;
        let mut points = self.points.borrow_mut();
        let point = Point {
            at: Instant::now(),
            append_records: total.append_records,
            append_bytes: total.append_bytes,
            read_records: total.read_records,
            commits: total.commits,
        };
        if points.back().is_some_and(|last| point.at.duration_since(last.at) > POINTS_GAP) {
            let keep = points.len() - 1;
            points.drain(..keep);
        }
        points.push_back(point);
        if points.len() > POINTS_MAX {
            points.pop_front();
        }
    }

    /// How fast it was from each look to the next one, the newest last.
    pub(super) fn paces(&self) -> Vec<Pace> {
        let points = self.points.borrow();
        let pairs = points.iter().zip(points.iter().skip(1));
        pairs.map(|(before, now)| Pace::between(before, now)).collect()
    }

    /// What the engine found and chose.
    pub(super) async fn info(&self) -> Answer<EngineInfo> {
        let ask = async { self.engine().info().await.map_err(|error| error.to_string()) };
        self.info.get(ask).await
    }

    /// Whether it lives.
    pub(super) async fn pulse(&self) -> Answer<Pulse> {
        let ask = async {
            // A stopped shard still tells its figures; it is the list that it refuses.
            let listed = self.engine().list_logs_page("", "", 0).await;
            let stopped = listed.err().map(|error| error.to_string());
            let info = self.engine().info().await;
            let shards = info.map(|info| info.shards).unwrap_or_default();
            let without_space = shards.iter().filter(|shard| shard.stats.no_space).count();
            Ok(Pulse { stopped, without_space })
        };
        self.pulse.get(ask).await
    }

    pub(super) fn stage(&self) -> Stage {
        self.watched.state.get()
    }

    /// All logs, as far as they are told by name, and the sum of the others.
    pub(super) async fn logs(&self) -> Answer<AllLogs> {
        let ask = async {
            let (mut all, mut after) = (Vec::new(), String::new());
            let mut rest = LogSums::default();
            loop {
                let step = self.engine().list_logs_page("", &after, LOGS_STEP).await;
                let step = step.map_err(|error| error.to_string())?;
                let Some(last) = step.last() else { break };
                after.clone_from(&last.name);
                let is_last = step.len() < LOGS_STEP;
                for log in step {
                    if all.len() < self.watched.names_max { all.push(log) } else { rest.add(&log) }
                }
                if is_last {
                    break;
                }
            }
            Ok(AllLogs { named: all, rest })
        };
        self.logs.get(ask).await
    }

    /// All processors, those that are furthest behind first.
    pub(super) async fn processors(&self) -> Answer<Vec<ProcessorInfo>> {
        let ask = async {
            let found = self.engine().describe_processors("").await;
            let mut found = found.map_err(|error| error.to_string())?;
            found.sort_by_cached_key(|processor| Reverse(processor.lag()));
            Ok(found)
        };
        self.processors.get(ask).await
    }

    /// The logs whose names begin so, behind a name.
    pub(super) async fn page(&self, prefix: &str, after: &str) -> Answer<LogPage> {
        let got = timeout(PATIENCE, async {
            let mut pages = self.pages.lock().await;
            let is_it = |(key, _): &(PageKey, _)| key.0 == prefix && key.1 == after;
            let place = pages.iter().position(is_it);
            let before = place.map(|place| pages.remove(place).1);
            let page = match before {
                Some(page) if page.at.elapsed() < Duration::from_secs(1) => page,
                before => {
                    let listed = self.engine().list_logs_page(prefix, after, PAGE_LOGS + 1).await;
                    let mut logs = listed.map_err(|error| error.to_string())?;
                    let (at, more) = (Instant::now(), logs.len() > PAGE_LOGS);
                    logs.truncate(PAGE_LOGS);
                    let paces = paces(before.as_deref(), &logs, at);
                    Arc::new(LogPage { at, logs, paces, more })
                }
            };
            if pages.len() == PAGES_MAX {
                pages.remove(0);
            }
            pages.push(((prefix.to_owned(), after.to_owned()), Arc::clone(&page)));
            Ok(page)
        });
        let late = |_| Err(format!("the engine did not answer within {} s", PATIENCE.as_secs()));
        got.await.unwrap_or_else(late)
    }

    /// Where the space is. That may take the engine a while: whoever asks gets what was found out
    /// last, after a moment for the first time.
    pub(super) async fn space(self: &Rc<Self>) -> Option<SpaceSeen> {
        let is_first = self.space_seen.borrow().is_none();
        if self.space_due.get().is_some_and(|due| due <= Instant::now()) {
            self.space_due.set(None);
            let this = Rc::clone(self);
            let asking = tokio::task::spawn_local(async move { this.ask_space().await });
            if is_first {
                drop(timeout(SPACE_PATIENCE, asking).await);
            }
        }
        self.space_seen.borrow().clone()
    }

    async fn ask_space(&self) {
        let begin = Instant::now();
        match self.engine().space().await {
            Ok(space) => {
                let seen = SpaceSeen { at: Instant::now(), space: Arc::new(space) };
                *self.space_seen.borrow_mut() = Some(seen);
            }
            // The pulse tells who is interested; what was seen before is shown with its age.
            Err(error) => tracing::debug!(%error, "the space could not be looked at"),
        }
        let fresh = SPACE_FRESH.max(begin.elapsed() * COST_SHARE);
        self.space_due.set(Some(Instant::now() + fresh));
    }

    /// A text that is made of all this, kept as well.
    pub(super) async fn text(
        &self,
        make: impl Future<Output = Result<String, String>>,
    ) -> Answer<String> {
        self.text.get(make).await
    }
}

fn paces(before: Option<&LogPage>, logs: &[LogInfo], now: Instant) -> Vec<Option<f64>> {
    let Some(before) = before else { return vec![None; logs.len()] };
    let seconds = now.duration_since(before.at).as_secs_f64();
    let next = |id: LogId| before.logs.iter().find(|log| log.id == id).map(|log| log.next.get());
    let pace =
        |log: &LogInfo| Some((log.next.get().saturating_sub(next(log.id)?)) as f64 / seconds);
    logs.iter().map(pace).collect()
}
