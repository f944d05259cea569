//! A server: its listeners, its workers, its signals, and its end.
//!
//! ```text
//! accept -> a place among those allowed -> a worker, in turn
//! SIGTERM, SIGINT: accept no more -> answer what was taken -> close the engine      SIGHUP: reload
//! ```
//!
//! Not here: what connections do (`worker`, `driver`), settings (`config`).

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use oncelog::Engine;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch as news};

use crate::command::table;
use crate::config::{Config, Io};
use crate::front::{Front, Refused};
use crate::handles::Generation;
use crate::seats::Seats;
use crate::shared::{Login, Memory, Shared, Times};
use crate::tls::Tls;
use crate::users::{SharedUsers, Verifier};
use crate::watch::{self, Stage, Watched};
use crate::worker::{Accepted, Transport, Worker};

/// A connection is asked after so long of silence whether its peer is there.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// How long to wait where the process may open no more files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A running server.
pub struct Server {
    config: Config,
    shared: Arc<Shared>,
    addresses: Vec<SocketAddr>,
    ingest_addresses: Vec<SocketAddr>,
    state: Arc<watch::State>,
    watching: Option<watch::Handle>,
    acceptor: JoinHandle<()>,
    workers: Vec<Worker>,
}

impl Server {
    /// Opens the engine, listens, and serves.
    ///
    /// # Errors
    /// What could not be had, and what to do; nothing is left running.
    pub fn start(config: &Config) -> anyhow::Result<Self> {
        let engine = config.engine_options().open().context("cannot open the engine")?;
        let shared = Arc::new(share(config, engine)?);
        for ingest in &config.ingest {
            let opened = shared.engine.open_or_create_log(&*ingest.log).wait();
            opened.with_context(|| format!("cannot open log {:?} to feed it", ingest.log))?;
        }
        let state = Arc::new(watch::State::new());
        let watching = watch(config, &shared, &state)?;
        let mut listeners = Vec::new();
        for address in &config.listen {
            listeners.push((listen(address.0)?, None));
        }
        for ingest in &config.ingest {
            listeners.push((listen(ingest.addr)?, Some(Arc::from(&*ingest.log))));
        }
        let address_of = |(listener, _): &(TcpListener, Option<Arc<str>>)| listener.local_addr();
        let all = listeners.iter().map(address_of).collect::<Result<Vec<_>, _>>()?;
        let (addresses, ingest_addresses) = all.split_at(config.listen.len());
        let (addresses, ingest_addresses) = (addresses.to_vec(), ingest_addresses.to_vec());

        let transport = match config.transport {
            Io::Auto => Transport::Auto,
            Io::IoUring => Transport::Uring,
            Io::Plain => Transport::Plain,
        };
        let workers = (0..threads(config))
            .map(|index| Worker::start(Arc::clone(&shared), index, transport))
            .collect::<Result<Vec<_>, _>>()
            .context("cannot start a thread that serves connections; try --transport plain")?;
        let senders = workers.iter().map(|worker| worker.sender.clone()).collect();
        let seats = Seats::new(config.connections_max, config.connections_per_address_max);
        let accepting = Accepting { shared: Arc::clone(&shared), senders, seats };
        let acceptor = std::thread::Builder::new().name("oncelog-accept".to_owned());
        let acceptor = acceptor.spawn(move || accepting.run(listeners))?;
        state.set(Stage::Ready);
        let config = config.clone();
        Ok(Self { config, shared, addresses, ingest_addresses, state, watching, acceptor, workers })
    }

    /// Where metrics, health and the status page are, if they are served.
    #[must_use]
    pub fn watch_address(&self) -> Option<SocketAddr> {
        self.watching.as_ref().map(watch::Handle::address)
    }

    /// Where clients connect.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where lines are taken, in the order of the settings.
    #[must_use]
    pub fn ingest_addresses(&self) -> &[SocketAddr] {
        &self.ingest_addresses
    }

    /// The engine that it serves.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.shared.engine
    }

    /// What it counts.
    #[must_use]
    pub fn front(&self) -> &Arc<Front> {
        &self.shared.front
    }

    /// Reads users and certificates again. What cannot be read stays as it was, and is told.
    pub fn reload(&self) {
        if let Some(login) = &self.shared.login {
            match login.users.reload(|users| self.config.check_users(users)) {
                Ok(users) => {
                    self.shared.users_version.fetch_add(1, Ordering::SeqCst);
                    tracing::info!(users = users.count(), "users were read again");
                }
                Err(error) => tracing::error!(%error, "users stay as they were"),
            }
        }
        if let Some(tls) = &self.shared.tls {
            match tls.reload() {
                Ok(()) => tracing::info!("certificates were read again, for new connections"),
                Err(error) => tracing::error!(%error, "certificates stay as they were"),
            }
        }
    }

    /// Accepts no more, answers what was taken, closes the engine.
    ///
    /// # Errors
    /// A shard had stopped before. What was acknowledged is durable nevertheless.
    pub fn stop(self) -> anyhow::Result<()> {
        self.state.set(Stage::Stopping);
        // Nobody may be listening: then there is nobody to be told.
        let _ = self.shared.stop.send(true);
        let mut sound = self.acceptor.join().is_ok();
        for worker in self.workers {
            drop(worker.sender);
            sound &= worker.thread.join().is_ok();
        }
        drop(self.watching);
        self.shared.engine.close().wait().context("the engine had stopped before")?;
        anyhow::ensure!(
            sound,
            "a thread of the server ended by a panic; what was acknowledged is durable"
        );
        Ok(())
    }
}

fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))
}

fn watch(
    config: &Config,
    shared: &Shared,
    state: &Arc<watch::State>,
) -> anyhow::Result<Option<watch::Handle>> {
    let Some(address) = config.watch_listen.0 else { return Ok(None) };
    let front = Arc::clone(&shared.front);
    let watched = Watched::new(shared.engine.clone(), front, Arc::clone(state));
    Ok(Some(watch::spawn(listen(address)?, watched)?))
}

fn threads(config: &Config) -> usize {
    match config.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads.into(),
    }
}

fn share(config: &Config, engine: Engine) -> anyhow::Result<Shared> {
    let info = engine.info().wait()?;
    let login = match &config.users {
        None => None,
        Some(path) => {
            let users = SharedUsers::load(path)?;
            config.check_users(&users.current())?;
            Some(Login { users, verifier: Verifier::start()? })
        }
    };
    let tls = config.tls_files().map(Tls::load).transpose()?;
    let small = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
    let times = Times {
        handshake: config.handshake_timeout.0,
        idle: config.idle_timeout.0,
        write: config.write_timeout.0,
        stop: config.stop_timeout.0,
    };
    Ok(Shared {
        engine,
        claims: crate::claims::Claims::default(),
        generation: Generation::default(),
        front: Arc::new(Front::new(table::NAMES)),
        memory: Memory::new(config.memory_max.0.try_into().unwrap_or(usize::MAX)),
        started: Instant::now(),
        ids: AtomicU64::new(1),
        stop: news::Sender::new(false),
        users_version: AtomicU64::new(0),
        uring: AtomicBool::new(false),
        limits: config.limits(&info),
        times,
        read_size_max: small(config.read_size_max.0),
        follow_batch_size: small(config.follow_batch_size.0),
        create_logs: config.create_logs,
        login,
        tls,
    })
}

struct Accepting {
    shared: Arc<Shared>,
    senders: Vec<mpsc::UnboundedSender<Accepted>>,
    seats: Seats,
}

impl Accepting {
    /// Accepts on all listeners until the server stops.
    fn run(self, listeners: Vec<(TcpListener, Option<Arc<str>>)>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => {
                tracing::error!(%error, "no connection can be accepted");
                return;
            }
        };
        let local = tokio::task::LocalSet::new();
        let accepting = std::rc::Rc::new(self);
        let mut stop = accepting.shared.stop.subscribe();
        let stopped = local.run_until(async move {
            let mut turns = (0..accepting.senders.len()).cycle();
            for (listener, feeds) in listeners {
                let first = turns.next().expect("there is a worker");
                tokio::task::spawn_local(
                    std::rc::Rc::clone(&accepting).accept(listener, feeds, first),
                );
            }
            let _ = stop.wait_for(|stop| *stop).await;
        });
        runtime.block_on(stopped);
    }

    async fn accept(
        self: std::rc::Rc<Self>,
        listener: TcpListener,
        feeds: Option<Arc<str>>,
        mut turn: usize,
    ) {
        let listener = listener
            .set_nonblocking(true)
            .and_then(|()| tokio::net::TcpListener::from_std(listener));
        let listener = match listener {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(%error, "a listener cannot be used"),
        };
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    turn = (turn + 1) % self.senders.len();
                    self.place(stream, peer, feeds.clone(), turn);
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Hands a connection to a worker, if there is a place for it.
    fn place(
        &self,
        stream: tokio::net::TcpStream,
        peer: SocketAddr,
        feeds: Option<Arc<str>>,
        turn: usize,
    ) {
        match self.seats.take(peer.ip()) {
            Err(why) => {
                // It fits the socket's empty buffer, or the peer is gone.
                let _ = stream.try_write(format!("-LIMIT {why}; come back\r\n").as_bytes());
                self.shared.front.refused(Refused::Limit);
            }
            Ok(seat) => match prepare(stream) {
                Ok(stream) => {
                    self.shared.front.accepted();
                    let accepted = Accepted { stream, feeds, seat };
                    // Refused only where the worker has ended: then the server stops.
                    let _ = self.senders[turn].send(accepted);
                }
                Err(error) => tracing::debug!(%error, "a connection could not be taken over"),
            },
        }
    }
}

/// A peer that is gone without a word is noticed.
fn prepare(stream: tokio::net::TcpStream) -> std::io::Result<TcpStream> {
    let stream = stream.into_std()?;
    let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 4);
    socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    Ok(stream)
}

/// Serves until a signal says to stop. `oncelog serve`.
///
/// # Errors
/// As [`Server::start`] and [`Server::stop`].
pub fn run(config: &Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // From here on no signal ends the process half-way.
    let signals = {
        let _inside = runtime.enter();
        Signals::new()?
    };
    let server = Server::start(config)?;
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    for address in server.addresses() {
        tracing::info!(%address, "ready for clients");
    }
    for (address, ingest) in server.ingest_addresses().iter().zip(&config.ingest) {
        tracing::info!(%address, log = ingest.log, "ready for lines");
    }
    if let Some(address) = server.watch_address() {
        tracing::info!(%address, "ready to be watched, over HTTP");
    }
    runtime.block_on(signals.wait(&server));
    tracing::info!("stopping: what was taken is answered, nothing new is");
    server.stop()?;
    tracing::info!("stopped");
    Ok(())
}

struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Until one says to stop.
    async fn wait(mut self, server: &Server) {
        loop {
            tokio::select! {
                _ = self.hangup.recv() => server.reload(),
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
            }
        }
    }
}
