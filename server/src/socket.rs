//! A connection's socket on one of two runtimes: io_uring, or epoll where that is refused.
//!
//! Buffers go in by ownership and come back with the result: the kernel may hold them while the
//! future is not polled.
//!
//! Not here: what the bytes are (`connection`), when to read (`worker`).

use std::future::Future;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::rc::Rc;

use bytes::Bytes;

/// The loop that a worker's thread runs.
pub(crate) enum Runtime {
    Uring(tokio_uring::Runtime),
    Plain(tokio::runtime::Runtime, tokio::task::LocalSet),
}

impl Runtime {
    /// On io_uring.
    pub(crate) fn uring() -> io::Result<Self> {
        tokio_uring::Runtime::new(&tokio_uring::builder()).map(Self::Uring)
    }

    /// On epoll.
    pub(crate) fn plain() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self::Plain(runtime, tokio::task::LocalSet::new()))
    }

    pub(crate) fn is_uring(&self) -> bool {
        matches!(self, Self::Uring(_))
    }

    /// Runs until the future is ready; tasks that it has spawned run beside it.
    pub(crate) fn block_on<F: Future>(&self, future: F) -> F::Output {
        match self {
            Self::Uring(runtime) => runtime.block_on(future),
            Self::Plain(runtime, local) => local.block_on(runtime, future),
        }
    }
}

/// A socket of this worker. Clones are the same socket.
#[derive(Clone)]
pub(crate) enum Socket {
    Uring(Rc<tokio_uring::net::TcpStream>),
    Plain(Rc<tokio::net::TcpStream>),
}

impl Socket {
    /// Takes a socket over.
    pub(crate) fn new(stream: TcpStream, uring: bool) -> io::Result<Self> {
        // The ring waits by itself; epoll must be told instead of blocking.
        stream.set_nonblocking(!uring)?;
        stream.set_nodelay(true)?;
        Ok(match uring {
            true => Self::Uring(Rc::new(tokio_uring::net::TcpStream::from_std(stream))),
            false => Self::Plain(Rc::new(tokio::net::TcpStream::from_std(stream)?)),
        })
    }

    /// Reads what is there, at most a buffer full; 0 at the end.
    pub(crate) async fn read(self, mut buffer: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
        match self {
            Self::Uring(stream) => stream.read(buffer).await,
            Self::Plain(stream) => loop {
                if let Err(error) = stream.readable().await {
                    return (Err(error), buffer);
                }
                buffer.resize(buffer.capacity(), 0);
                match stream.try_read(&mut buffer) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    result => return (result, buffer),
                }
            },
        }
    }

    /// Writes some of the bytes.
    pub(crate) async fn write(self, bytes: Bytes) -> (io::Result<usize>, Bytes) {
        match self {
            Self::Uring(stream) => stream.write(bytes).submit().await,
            Self::Plain(stream) => loop {
                if let Err(error) = stream.writable().await {
                    return (Err(error), bytes);
                }
                match stream.try_write(&bytes) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    result => return (result, bytes),
                }
            },
        }
    }

    /// No more bytes in either direction: what is under way in the kernel comes back.
    pub(crate) fn shutdown(&self) {
        // Fails where the peer has gone already: then nothing is under way.
        let _ = match self {
            Self::Uring(stream) => stream.shutdown(Shutdown::Both),
            Self::Plain(stream) => socket2::SockRef::from(&**stream).shutdown(Shutdown::Both),
        };
    }

    /// What is sent is followed by its end, and the peer sees it: the last reply is read before.
    pub(crate) fn end_writing(&self) {
        let _ = match self {
            Self::Uring(stream) => stream.shutdown(Shutdown::Write),
            Self::Plain(stream) => socket2::SockRef::from(&**stream).shutdown(Shutdown::Write),
        };
    }
}
