//! What is done with a server, and what it counts.
//!
//! Not here: the load itself (`load`).

use std::path::Path;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::Program;
use super::client::{Client, Value};
use super::dialect::{Dialect, encode};
use super::load::{Counts, Load, Meaning, Requests, Shape};
use super::server::Server;
use crate::meter::{self, Meter, Tally, Window};
use crate::outcome::Figures;
use crate::payloads::Payloads;
use crate::spec::{Payload, Spec, Work};

/// Requests in a circle take about so many bytes: they stay in a processor's cache.
const CIRCLE_BYTES: usize = 256 << 10;
/// A block of lines takes about so many bytes, and so many blocks are under way.
const BLOCK_BYTES: usize = 64 << 10;
const BLOCKS: u32 = 16;
/// Appends in flight while a log is filled.
const FILL_DEPTH: u32 = 1024;
const LONG: Duration = Duration::from_secs(60 * 60);

/// A server, and what it is asked about.
struct Rig<'a> {
    spec: &'a Spec,
    dialect: Dialect,
    dir: &'a Path,
    payload: u32,
    payloads: Payloads,
    server: Server,
    client: Client,
}

/// Starts a server, and does what the spec says.
pub(super) fn measure(program: &Program, spec: &Spec, dir: &Path) -> Result<Figures> {
    let payload = check(spec)?;
    allow_many_files();
    let (server, client) = Server::start(program, dir)?;
    let payloads = Payloads::of(spec);
    let dialect = program.dialect;
    let mut rig = Rig { spec, dialect, dir, payload, payloads, server, client };
    let figures = match spec.work {
        Work::WireAppend { connections, depth } => rig.append(connections, depth),
        Work::WireRead { connections, count, bytes } => rig.read(connections, count, bytes),
        Work::WireIngest { connections } => rig.ingest(connections),
        Work::WireIdle { connections } => rig.idle(connections),
        _ => bail!("{} is no work of a server", spec.work.kind()),
    };
    figures.with_context(|| {
        let name = dialect.target();
        format!("{} of {name} failed{}", spec.work.kind(), rig.server.last_words())
    })
}

/// The size of the payloads, if the spec can be done.
fn check(spec: &Spec) -> Result<u32> {
    ensure!(spec.seconds > 0.0 && spec.seconds.is_finite(), "a spec needs seconds above 0");
    let counts = match spec.work {
        Work::WireAppend { connections, depth } => [connections, depth],
        Work::WireRead { connections, count, .. } => [connections, count],
        Work::WireIngest { connections } | Work::WireIdle { connections } => [connections, 1],
        _ => [1, 1],
    };
    let logs = spec.logs;
    ensure!(counts.iter().all(|count| *count > 0) && logs > 0, "in {spec:?} a count is 0");
    ensure!(logs <= counts[0], "{logs} logs need as many connections: each has one");
    match spec.payload {
        // As long as any other part of an answer, it could not be counted.
        Payload::Fixed(size) if size > 32 => Ok(size),
        _ => bail!("over the wire payloads are all of one size, of more than 32 bytes"),
    }
}

/// A thousand connections are more than a shell allows by default. Where that cannot be changed,
/// connecting fails and says so.
fn allow_many_files() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

impl Rig<'_> {
    fn log(&self, connection: u32) -> String {
        format!("log-{:06}", connection % self.spec.logs)
    }

    fn connect(&self) -> Result<Client> {
        Client::connect(self.server.address).context("connecting to the server")
    }

    fn create_logs(&mut self) -> Result<()> {
        for number in 0..self.spec.logs {
            if let Some(request) = self.dialect.create(&self.log(number)) {
                self.client.ask(&request)?;
            }
        }
        Ok(())
    }

    /// Appends on so many connections.
    fn appends(&self, connections: u32, depth: u32) -> Result<Load> {
        let shape = Shape {
            depth,
            expected: self.dialect.appended(),
            payload: self.payload.into(),
            meaning: Meaning::One,
            counts: Counts::Records(1),
        };
        let mut load = Load::new(shape)?;
        for connection in 0..connections {
            let mut requests = Requests::default();
            let size = self.payload as usize + 64;
            for number in 0..(CIRCLE_BYTES / size).max(16) {
                let payload = self.payloads.get(number as u64);
                requests.push(&encode(&self.dialect.append(&self.log(connection), &payload)));
            }
            load.add(self.connect()?.into_stream(), Rc::new(requests))?;
        }
        Ok(load)
    }

    /// Runs a load for the spec's time.
    fn run(&self, load: &mut Load) -> Result<Figures> {
        let window = Window::of(self.spec);
        let meter = Meter::start(window, self.dir);
        let watch = self.server.watch(window);
        let tally = load.run(window, u64::MAX)?;
        let mut figures = meter.finish([tally]);
        self.server.put_into(watch, &mut figures)?;
        Ok(figures)
    }

    fn append(&mut self, connections: u32, depth: u32) -> Result<Figures> {
        self.create_logs()?;
        let mut load = self.appends(connections, depth)?;
        self.run(&mut load)
    }

    fn read(&mut self, connections: u32, count: u32, bytes: u64) -> Result<Figures> {
        self.create_logs()?;
        let (begin, records) = (Instant::now(), bytes.div_ceil(self.payload.into()).max(1));
        let depth = (FILL_DEPTH / self.spec.logs).max(1);
        let mut fill = self.appends(self.spec.logs, depth)?;
        let whole = Window { begin, end: begin + LONG };
        let filled = fill.run(whole, records).context("filling the logs")?;
        ensure!(filled.records() == records, "{} of {records} were filled", filled.records());
        drop(fill);
        let shape = Shape {
            depth: 1,
            expected: b'*',
            payload: self.payload.into(),
            meaning: Meaning::One,
            counts: Counts::Payloads,
        };
        let mut load = Load::new(shape)?;
        let mut found = 0;
        let mut by_log = Vec::new();
        for number in 0..self.spec.logs {
            let (requests, in_log) = self.pages(&self.log(number), count)?;
            found += in_log;
            by_log.push(Rc::new(requests));
        }
        ensure!(found == records, "{found} of {records} records can be read");
        for connection in 0..connections {
            let requests = by_log[(connection % self.spec.logs) as usize].clone();
            load.add(self.connect()?.into_stream(), requests)?;
        }
        self.run(&mut load)
    }

    /// Requests that read a log from its first record to its last, and how many there are.
    fn pages(&mut self, log: &str, count: u32) -> Result<(Requests, u64)> {
        let (mut requests, mut found, mut behind) = (Requests::default(), 0, None);
        loop {
            let request = self.dialect.read(log, behind.as_deref(), count);
            let Value::List(records) = self.client.ask(&request)? else {
                bail!("a read is answered by no list")
            };
            let Some(last) = records.last() else { return Ok((requests, found)) };
            behind = Some(self.dialect.behind(last)?);
            found += records.len() as u64;
            requests.push(&encode(&request));
        }
    }

    fn ingest(&mut self, connections: u32) -> Result<Figures> {
        self.create_logs()?;
        let line: Vec<u8> = self.payloads.get(0).iter().map(|byte| b'a' + byte % 26).collect();
        let line = [&line[..], b"\n"].concat();
        let lines = (BLOCK_BYTES / line.len()).max(1);
        let shape = Shape {
            depth: BLOCKS,
            expected: b':',
            payload: self.payload.into(),
            meaning: Meaning::Lines(lines as u64),
            counts: Counts::Records(lines as u64),
        };
        let mut requests = Requests::default();
        requests.push(&line.repeat(lines));
        let (mut load, requests) = (Load::new(shape)?, Rc::new(requests));
        for connection in 0..connections {
            let mut client = self.connect()?;
            client.ask(&[b"INGEST".to_vec(), self.log(connection).into_bytes()])?;
            load.add(client.into_stream(), requests.clone())?;
        }
        self.run(&mut load)
    }

    fn idle(&mut self, connections: u32) -> Result<Figures> {
        let (before, cpu) = (self.server.memory().0, self.server.processor_time()?);
        let seconds = Duration::from_secs_f64(self.spec.seconds);
        let mut idle = Vec::new();
        let mut figures = meter::measure_whole(self.dir, |window| -> Result<Vec<Tally>> {
            let mut tally = Tally::new(window);
            for _ in 0..connections {
                let began = Instant::now();
                let mut client = self.connect()?;
                client.ping()?;
                idle.push(client);
                tally.count(began, 0, 0);
            }
            // Servers give memory back after a while.
            thread::sleep(seconds);
            Ok(vec![tally])
        })?;
        let (after, most) = self.server.memory();
        let each = after.saturating_sub(before) as f64 / f64::from(connections);
        figures.memory_max = most;
        figures.memory_by_second.clear();
        let (user, system) = self.server.processor_time()?;
        (figures.cpu_user_s, figures.cpu_system_s) = (user - cpu.0, system - cpu.1);
        let extra = [
            ("wire/memory_bytes_per_connection", each),
            ("wire/memory_bytes_before", before as f64),
            ("wire/memory_bytes_with_all", after as f64),
        ];
        for (name, value) in extra {
            figures.extra.insert(name.to_owned(), value);
        }
        Ok(figures)
    }
}
