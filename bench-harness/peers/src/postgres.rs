//! PostgreSQL: a table of records, a statement for each write.
//!
//! ```text
//! records (log, id) | deltas (id, processor) | positions (processor)
//! ```
//!
//! It refuses to run as root: then it runs as `postgres`, or else as `nobody`.
//!
//! Not here: tuning; it is as installed, but for the number of connections.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use bench_harness::blocking::{Store, Write};
use nix::sys::signal::Signal;
use nix::unistd::{User, geteuid};
use postgres::fallible_iterator::FallibleIterator;
use postgres::{Client, Config, NoTls, Statement};

use crate::server::{self, CONNECTIONS_MAX, Pool, Server};

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS records (
        log int, id bigint GENERATED ALWAYS AS IDENTITY, payload bytea NOT NULL,
        PRIMARY KEY (log, id));
    CREATE TABLE IF NOT EXISTS deltas (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, processor int, delta bytea NOT NULL);
    CREATE TABLE IF NOT EXISTS positions (processor int PRIMARY KEY, position bigint);
    ALTER TABLE records ALTER COLUMN payload SET STORAGE EXTERNAL;
    ALTER TABLE deltas ALTER COLUMN delta SET STORAGE EXTERNAL;";
const APPEND: &str =
    "INSERT INTO records (log, payload) SELECT * FROM unnest($1::int[], $2::bytea[])";
const COMMIT: &str = "
    WITH d AS (INSERT INTO deltas (processor, delta) VALUES ($1, $3)),
         o AS (INSERT INTO records (log, payload) SELECT $4, unnest($5::bytea[]))
    INSERT INTO positions VALUES ($1, $2)
    ON CONFLICT (processor) DO UPDATE SET position = EXCLUDED.position";
const READ: &str = "SELECT payload FROM records WHERE log = $1 ORDER BY id";

pub(crate) struct Postgres {
    config: Config,
    idle: Pool<Connection>,
    _server: Server,
}

struct Connection {
    client: Client,
    append: Statement,
    commit: Statement,
}

/// The version of the installed server.
pub(crate) fn version() -> Result<String> {
    server::version_of(&programs()?.join("postgres"))
}

/// The directory with `postgres` and `initdb`.
fn programs() -> Result<PathBuf> {
    let in_path = server::find("postgres").and_then(|file| file.canonicalize().ok());
    let in_path = in_path.and_then(|file| Some(file.parent()?.to_owned()));
    let installed = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = installed.map(|entry| entry.path().join("bin")).collect();
    found.sort();
    let mut found = in_path.into_iter().chain(found.into_iter().rev());
    let is_whole = |dir: &PathBuf| dir.join("initdb").is_file() && dir.join("postgres").is_file();
    found.find(is_whole).context("PostgreSQL is not installed")
}

/// `setpriv` with the options that give up root for the owner of the server, and that owner.
fn unprivileged() -> Result<(Command, Option<User>)> {
    let mut command = server::tied();
    if !geteuid().is_root() {
        return Ok((command, None));
    }
    let user = |name| User::from_name(name).ok().flatten();
    let user = user("postgres").or_else(|| user("nobody"));
    let Some(user) = user else { bail!("PostgreSQL does not run as root; make a user postgres") };
    command.arg(format!("--reuid={}", user.uid)).arg(format!("--regid={}", user.gid));
    command.arg("--clear-groups");
    Ok((command, Some(user)))
}

fn connect(config: &Config) -> Result<Connection> {
    let mut client = config.connect(NoTls)?;
    let append = client.prepare(APPEND)?;
    let commit = client.prepare(COMMIT)?;
    Ok(Connection { client, append, commit })
}

/// Makes the data directory.
fn init(data: &Path, programs: &Path) -> Result<()> {
    fs::create_dir(data)?;
    let (mut command, owner) = unprivileged()?;
    if let Some(owner) = owner {
        chown(data, Some(owner.uid.as_raw()), Some(owner.gid.as_raw()))?;
    }
    command.arg(programs.join("initdb")).arg("-D").arg(data).current_dir("/");
    command.args(["-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C"]);
    let output = command.output().context("starting initdb")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "initdb failed in {}: {said}", data.display());
    Ok(())
}

impl Postgres {
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let data = dir.canonicalize()?.join("data");
        let programs = programs()?;
        if !data.exists() {
            init(&data, &programs)?;
        }
        let (mut command, _) = unprivileged()?;
        command.arg(programs.join("postgres")).arg("-D").arg(&data).arg("-k").arg(&data);
        for setting in ["listen_addresses=", "fsync=on", "synchronous_commit=on"] {
            command.args(["-c", setting]);
        }
        command.args(["-c", &format!("max_connections={CONNECTIONS_MAX}")]).current_dir("/");
        let mut config = Config::new();
        config.host_path(&data).user("postgres").dbname("postgres");
        let first = || -> Result<Connection> {
            config.connect(NoTls)?.batch_execute(TABLES)?;
            connect(&config)
        };
        let (server, first) = Server::start(&data, command, Signal::SIGINT, first)?;
        Ok(Self { config, idle: Pool::new(first), _server: server })
    }
}

impl Store for Postgres {
    fn write(&self, writes: &[Write]) -> Result<()> {
        let (mut logs, mut payloads, mut commits) = (Vec::new(), Vec::new(), Vec::new());
        for write in writes {
            match write {
                Write::Append { log, payload } => {
                    logs.push(*log as i32);
                    payloads.push(&payload[..]);
                }
                Write::Commit { .. } => commits.push(write),
            }
        }
        ensure!(commits.is_empty() || writes.len() == 1, "a commit is a write of its own here");
        self.idle.with(
            || connect(&self.config),
            |Connection { client, append, commit }| {
                let Some(Write::Commit { processor, position, delta, log, outputs }) =
                    commits.first()
                else {
                    client.execute(append, &[&logs, &payloads])?;
                    return Ok(());
                };
                let (processor, log, position) = (*processor as i32, *log as i32, *position as i64);
                let outputs: Vec<&[u8]> = outputs.iter().map(|output| &output[..]).collect();
                client.execute(commit, &[&processor, &position, &&delta[..], &log, &outputs])?;
                Ok(())
            },
        )
    }

    fn read_all(&self, log: u32, each: &mut dyn FnMut(&[u8])) -> Result<()> {
        self.idle.with(
            || connect(&self.config),
            |Connection { client, .. }| {
                let mut rows = client.query_raw(READ, [log as i32])?;
                while let Some(row) = rows.next()? {
                    each(row.get(0));
                }
                Ok(())
            },
        )
    }
}
