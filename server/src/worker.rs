//! A thread that serves connections: its runtime, its handles, its tasks.
//!
//! ```text
//! serve --channel--> worker: a task for each connection, until the channel ends and all are done
//! ```
//!
//! Not here: accepting (`serve`), what a task does (`driver`).

use std::cell::RefCell;
use std::io;
use std::net::TcpStream;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::alone::Alone;
use crate::connection::Connection;
use crate::driver::Driver;
use crate::handles::Handles;
use crate::seats::Seat;
use crate::session::Session;
use crate::shared::Shared;
use crate::socket::{Runtime, Socket};

/// A connection on its way to a worker.
pub(crate) struct Accepted {
    pub(crate) stream: TcpStream,
    /// The log that it feeds, if it is not for commands.
    pub(crate) feeds: Option<Arc<str>>,
    /// Its place among those that are allowed; given back when it is dropped.
    pub(crate) seat: Seat,
}

/// One worker; dropping the sender ends it once its connections have.
pub(crate) struct Worker {
    pub(crate) sender: mpsc::UnboundedSender<Accepted>,
    pub(crate) thread: JoinHandle<()>,
}

/// Which runtimes may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// io_uring, or epoll where that is refused.
    Auto,
    /// io_uring, or not at all.
    Uring,
    /// epoll.
    Plain,
}

impl Worker {
    /// Starts a thread. Says why if the runtime cannot be had.
    pub(crate) fn start(
        shared: Arc<Shared>,
        index: usize,
        transport: Transport,
    ) -> io::Result<Self> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let (started, starts) = oneshot::channel();
        let thread = std::thread::Builder::new().name(format!("oncelog-serve-{index}"));
        let thread = thread.spawn(move || match runtime(transport, index) {
            Err(error) => drop(started.send(Err(error))),
            Ok(runtime) => {
                shared.uring.store(runtime.is_uring(), Ordering::Relaxed);
                let is_uring = runtime.is_uring();
                let _ = started.send(Ok(()));
                runtime.block_on(serve(shared, receiver, is_uring));
            }
        })?;
        starts.blocking_recv().expect("the thread says how it started")?;
        Ok(Self { sender, thread })
    }
}

fn runtime(transport: Transport, index: usize) -> io::Result<Runtime> {
    match transport {
        Transport::Plain => Runtime::plain(),
        Transport::Uring => Runtime::uring(),
        Transport::Auto => Runtime::uring().or_else(|error| {
            if index == 0 {
                tracing::warn!(%error, "the kernel refuses io_uring: connections use epoll");
            }
            Runtime::plain()
        }),
    }
}

/// What the connections of a worker share.
#[derive(Clone, Default)]
struct Own {
    handles: Rc<RefCell<Handles>>,
    alone: Rc<Alone>,
}

async fn serve(
    shared: Arc<Shared>,
    mut receiver: mpsc::UnboundedReceiver<Accepted>,
    is_uring: bool,
) {
    let own = Own::default();
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            accepted = receiver.recv() => match accepted {
                Some(accepted) => {
                    tasks.spawn_local(connection(
                        Arc::clone(&shared), own.clone(), accepted, is_uring,
                    ));
                }
                None => break,
            },
            Some(ended) = tasks.join_next() => log_panic(ended),
        }
    }
    while let Some(ended) = tasks.join_next().await {
        log_panic(ended);
    }
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    // Its own hook has said where; the other connections go on.
    if let Err(error) = ended {
        tracing::error!(%error, "a connection ended by a panic; what was acknowledged is durable");
    }
}

async fn connection(shared: Arc<Shared>, own: Own, accepted: Accepted, is_uring: bool) {
    let Accepted { stream, feeds, seat } = accepted;
    let socket = match Socket::new(stream, is_uring) {
        Ok(socket) => socket,
        Err(error) => {
            shared.front.closed();
            tracing::debug!(%error, "a connection could not be served");
            return;
        }
    };
    let id = shared.ids.fetch_add(1, Ordering::Relaxed);
    let connection = match feeds {
        None => Connection::new(id, shared.limits, shared.anyone()),
        Some(log) => Connection::feeding(id, shared.limits, log.to_string()),
    };
    let tls = shared.tls.as_ref().map(crate::tls::Tls::session);
    let session = Session::new(Arc::clone(&shared), own.handles);
    Driver::new(shared, own.alone, socket, connection, session, tls).run().await;
    drop(seat);
}
