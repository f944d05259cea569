//! Watching a server over HTTP: figures for Prometheus, health, and a page for people.
//!
//! ```text
//! TCP --accept, at most 64--> HTTP/1.1 (hyper) --> route --> sample (caches) --> engine, front
//!                                                    |--> export: /metrics
//!                                                    '--> page: /
//! ```
//!
//! One thread of its own does all of it, so no flood of requests takes time from the workers.
//!
//! Invariants:
//! - What peers can cost is bounded: connections, bytes of a request's head, the time until it is
//!   there, the life of a connection. Bodies are not read.
//! - What the engine is asked is bounded too: see `sample`.
//! - Nothing here changes anything.
//!
//! Not here: who may connect. There are no passwords: listen on an address that only those reach
//! who may see the names of logs.

mod export;
mod page;
mod route;
mod sample;
mod tables;
mod text;
mod view;

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use oncelog::Engine;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime;
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{sleep, timeout};

use crate::front::Front;
use route::route;
use sample::Sampler;

/// The head of a request may have so many bytes; more of them is answered with 431.
const HEAD_SIZE_MAX: usize = 8 << 10;
/// Answers under way have so long when all is stopped.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

/// So many logs, and processors, are told by name to Prometheus where nothing else is set.
pub const NAMES_MAX: usize = 1000;

/// How far a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// It does not take requests yet.
    Starting,
    /// It takes requests.
    Ready,
    /// It takes no more requests, and finishes those under way.
    Stopping,
}

/// The stage of a server, told by the one that runs it and read by whoever watches.
#[derive(Debug)]
pub struct State(AtomicU8);

impl State {
    /// It is starting.
    #[must_use]
    pub fn new() -> Self {
        Self(AtomicU8::new(Stage::Starting as u8))
    }

    /// From now on it is at this stage.
    pub fn set(&self, stage: Stage) {
        self.0.store(stage as u8, Ordering::Release);
    }

    /// The stage now.
    #[must_use]
    pub fn get(&self) -> Stage {
        let stages = [Stage::Starting, Stage::Ready, Stage::Stopping];
        stages[usize::from(self.0.load(Ordering::Acquire))]
    }
}

impl Default for State {
    fn default() -> Self {
        Self::new()
    }
}

/// What peers may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// So many connections are open at a time; others wait to be accepted. At least 1.
    pub connections: usize,
    /// The head of a request must be there in this time; an idle connection ends after it.
    pub head_patience: Duration,
    /// A connection lives no longer, whatever it does: who reads slowly makes room for others.
    pub life: Duration,
}

impl Default for Limits {
    /// 64 connections, ten seconds, two minutes.
    fn default() -> Self {
        let (head_patience, life) = (Duration::from_secs(10), Duration::from_secs(120));
        Self { connections: 64, head_patience, life }
    }
}

/// What is watched.
#[derive(Clone, Debug)]
pub struct Watched {
    /// The engine.
    pub engine: Engine,
    /// The front end's own figures.
    pub front: Arc<Front>,
    /// Its stage.
    pub state: Arc<State>,
    /// So many logs, and processors, are told by name to Prometheus: the first ones in the order of
    /// their names. The rest is summed under the name `*`.
    pub names_max: usize,
    /// What peers may cost.
    pub limits: Limits,
}

impl Watched {
    /// With the default limits, and [`NAMES_MAX`] names.
    #[must_use]
    pub fn new(engine: Engine, front: Arc<Front>, state: Arc<State>) -> Self {
        Self { engine, front, state, names_max: NAMES_MAX, limits: Limits::default() }
    }
}

/// A running listener. Dropping it stops it, as [`stop`](Self::stop) does.
#[derive(Debug)]
pub struct Handle {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Handle {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more connections, gives answers under way two seconds, and returns when the thread
    /// has ended and let go of the engine.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that answers HTTP had panicked");
        }
    }
}

/// Answers HTTP on this listener, in a thread of its own, until the handle is stopped.
///
/// ```
/// use std::sync::Arc;
/// use oncelog_server::front::Front;
/// use oncelog_server::watch::{self, Stage, State, Watched};
/// # let dir = tempfile::tempdir()?;
/// let engine = oncelog::Options::new(dir.path()).segment_size(1 << 20).open()?;
/// let front = Arc::new(Front::new(&["PING"]));
/// let state = Arc::new(State::new());
/// let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
/// let watched = Watched::new(engine, front, Arc::clone(&state));
/// let handle = watch::spawn(listener, watched)?;
/// state.set(Stage::Ready);
/// println!("http://{}/", handle.address());
/// handle.stop();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// The listener cannot be used, or the thread not be started.
pub fn spawn(listener: std::net::TcpListener, watched: Watched) -> io::Result<Handle> {
    let address = listener.local_addr()?;
    listener.set_nonblocking(true)?;
    let runtime = runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let listener = {
        let _inside = runtime.enter();
        TcpListener::from_std(listener)?
    };
    let (stop, stopping) = watch::channel(false);
    let thread = std::thread::Builder::new().name("watch".to_owned()).spawn(move || {
        let sampler = Rc::new(Sampler::new(watched));
        LocalSet::new().block_on(&runtime, accept_all(listener, sampler, stopping));
    })?;
    Ok(Handle { address, stop, thread: Some(thread) })
}

/// What came first: `work`, or `None` where `end` did.
async fn unless<T>(work: impl Future<Output = T>, end: impl Future) -> Option<T> {
    let (mut work, mut end) = (pin!(work), pin!(end));
    poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => end.as_mut().poll(cx).map(|_| None),
    })
    .await
}

async fn accept_all(
    listener: TcpListener,
    sampler: Rc<Sampler>,
    mut stopping: watch::Receiver<bool>,
) {
    // The first view has something to compare with.
    tokio::task::spawn_local({
        let sampler = Rc::clone(&sampler);
        async move { drop(sampler.metrics().await) }
    });
    let limits = sampler.watched.limits;
    let room = Arc::new(Semaphore::new(limits.connections.max(1)));
    let mut connections = JoinSet::new();
    loop {
        let next = async {
            let place = Arc::clone(&room).acquire_owned().await.expect("it is never closed");
            (place, listener.accept().await)
        };
        let Some((place, accepted)) = unless(next, stopping.changed()).await else { break };
        match accepted {
            Ok((stream, _)) => {
                let (sampler, stopping) = (Rc::clone(&sampler), stopping.clone());
                connections.spawn_local(async move {
                    converse(stream, sampler, stopping).await;
                    drop(place);
                });
            }
            Err(error) => {
                // Mostly too many open files: it passes, and trying at once would only burn time.
                tracing::warn!(%error, "an HTTP connection could not be accepted");
                sleep(Duration::from_millis(100)).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    let ended = timeout(STOP_PATIENCE, async { while connections.join_next().await.is_some() {} });
    if ended.await.is_err() {
        tracing::debug!(left = connections.len(), "HTTP connections were cut off");
    }
}

async fn converse(stream: TcpStream, sampler: Rc<Sampler>, mut stopping: watch::Receiver<bool>) {
    // An answer is one write: waiting for more would only delay it.
    drop(stream.set_nodelay(true));
    let limits = sampler.watched.limits;
    let service = service_fn(|request| {
        let sampler = Rc::clone(&sampler);
        async move { Ok::<_, Infallible>(route(&sampler, &request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_patience)
        .max_header_size(HEAD_SIZE_MAX)
        .max_buf_size(2 * HEAD_SIZE_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let end = async {
        // Either way it is to end.
        let _ = timeout(limits.life, stopping.changed()).await;
    };
    let done = match unless(connection.as_mut(), end).await {
        Some(done) => done,
        None => {
            connection.as_mut().graceful_shutdown();
            timeout(STOP_PATIENCE, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = done {
        // The peer's doing: too slow, too large, or gone.
        tracing::debug!(%error, "an HTTP connection ended");
    }
}
