//! Redis streams: a stream for each log, with the append-only file synced before every answer.
//!
//! ```text
//! log-<n>: stream | delta-<n>: stream | position-<n>: string; a write of several is MULTI .. EXEC
//! ```
//!
//! Not here: rewriting the append-only file, which is off: it would only copy the log.

use std::path::Path;

use anyhow::{Context, Result};
use bench_harness::blocking::{Store, Write};
use nix::sys::signal::Signal;
use redis::{Client, Connection, Pipeline};

use crate::items::{Kind, each_item};
use crate::server::{self, CONNECTIONS_MAX, Pool, Server};

/// Entries that are read at a time.
const RANGE: usize = 512;

pub(crate) struct Redis {
    client: Client,
    idle: Pool<Connection>,
    _server: Server,
}

/// The version of the installed server.
pub(crate) fn version() -> Result<String> {
    let program = server::find("redis-server").context("redis-server is not installed")?;
    server::version_of(&program)
}

impl Redis {
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let dir = dir.canonicalize()?;
        let socket = dir.join("redis.sock");
        let mut command = server::tied();
        command.arg("redis-server").args(["--port", "0", "--save", ""]);
        command.arg("--unixsocket").arg(&socket).arg("--dir").arg(&dir);
        command.args(["--appendonly", "yes", "--appendfsync", "always"]);
        command.args(["--auto-aof-rewrite-percentage", "0"]);
        command.args(["--maxclients", &CONNECTIONS_MAX.to_string()]);
        let client = Client::open(format!("redis+unix://{}", socket.display()))?;
        let connect = || -> Result<Connection> {
            let mut connection = client.get_connection()?;
            // Fails while the file is loaded.
            redis::cmd("PING").exec(&mut connection)?;
            Ok(connection)
        };
        let (server, first) = Server::start(&dir, command, Signal::SIGTERM, connect)?;
        Ok(Self { client, idle: Pool::new(first), _server: server })
    }

    fn with<T>(&self, work: impl FnOnce(&mut Connection) -> Result<T>) -> Result<T> {
        self.idle.with(|| Ok(self.client.get_connection()?), work)
    }
}

impl Store for Redis {
    fn write(&self, writes: &[Write]) -> Result<()> {
        let mut commands = Pipeline::new();
        each_item(writes, |kind, id, bytes| {
            match kind {
                Kind::Record => commands.cmd("XADD").arg(format!("log-{id}")).arg("*").arg("d"),
                Kind::Delta => commands.cmd("XADD").arg(format!("delta-{id}")).arg("*").arg("d"),
                Kind::Position => commands.cmd("SET").arg(format!("position-{id}")),
            };
            commands.arg(bytes).ignore();
            anyhow::Ok(())
        })?;
        if commands.cmd_iter().count() > 1 {
            commands.atomic();
        }
        self.with(|connection| Ok(commands.exec(connection)?))
    }

    fn read_all(&self, log: u32, each: &mut dyn FnMut(&[u8])) -> Result<()> {
        let mut from = "-".to_owned();
        loop {
            let entries: Vec<(String, Vec<Vec<u8>>)> = self.with(|connection| {
                let mut range = redis::cmd("XRANGE");
                range.arg(format!("log-{log}")).arg(&from).arg("+").arg("COUNT").arg(RANGE);
                Ok(range.query(connection)?)
            })?;
            let Some((last, _)) = entries.last() else { return Ok(()) };
            from = format!("({last}");
            entries.iter().for_each(|(_, fields)| each(&fields[1]));
        }
    }
}
