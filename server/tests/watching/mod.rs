//! A server that is watched, and a small HTTP client.
//!
//! Not here: what is expected of them.

#![allow(dead_code, reason = "no test uses all of it")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use oncelog::Engine;
use oncelog_server::front::Front;
use oncelog_server::watch::{self, Handle, Stage, State, Watched};
use tempfile::TempDir;

/// An engine in a directory of its own, and the listener that watches it.
pub(crate) struct Server {
    pub(crate) engine: Engine,
    pub(crate) front: Arc<Front>,
    pub(crate) state: Arc<State>,
    pub(crate) handle: Handle,
    _dir: TempDir,
}

impl Server {
    /// Ready, with whatever `change` changes in what is watched.
    pub(crate) fn start(change: impl FnOnce(&mut Watched)) -> Self {
        // A name that would break out of HTML.
        let dir = tempfile::Builder::new().prefix("a&<b>\"").tempdir().unwrap();
        let options = oncelog::Options::new(dir.path()).shards(2).segment_size(1 << 20);
        let engine = options.open().unwrap();
        let front = Arc::new(Front::new(&["PING", "APPEND"]));
        let state = Arc::new(State::new());
        let mut watched = Watched::new(engine.clone(), Arc::clone(&front), Arc::clone(&state));
        change(&mut watched);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let handle = watch::spawn(listener, watched).unwrap();
        state.set(Stage::Ready);
        Self { engine, front, state, handle, _dir: dir }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.handle.address()
    }

    pub(crate) fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address()).unwrap()
    }

    /// The answer to a request with this first line and these headers.
    pub(crate) fn ask(&self, head: &str) -> Answer {
        let mut stream = self.connect();
        write!(stream, "{head}\r\nHost: it\r\nConnection: close\r\n\r\n").unwrap();
        Answer::read(&mut stream)
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.ask(&format!("GET {path} HTTP/1.1"))
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    /// Reads until the connection ends.
    pub(crate) fn read(stream: &mut TcpStream) -> Self {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").expect("a head ends with an empty line");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap();
        Self { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }
}
