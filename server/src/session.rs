//! Commands, carried out: each becomes calls of the engine, and its answer, once it is durable, a
//! reply (P-7).
//!
//! ```text
//! start(command) -> the engine is asked at once, in the order of calls -> Answer, a future
//! ```
//!
//! Appends and commits are on their way when `start` returns: the futures only wait. For that the
//! handles of their logs must be known; [`Session::prepare`] opens the ones that are not.
//!
//! Not here: order and limits (`connection`), processors (`claims`), reads (`reading`), texts about
//! the server (`about`).

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use oncelog::{
    AppendError, Appended, Batch, Log, LogError, LogId, LogInfo, LogOptions, NewRecord, Sequence,
};

use crate::about;
use crate::claims::Change;
use crate::command::{By, Command, Setting, WriterCommand};
use crate::error::Refusal;
use crate::handles::Handles;
use crate::reading::{self, Cut, Following, Kept};
use crate::reply::Reply;
use crate::rights::{Right, User};
use crate::shared::Shared;

/// A line waits so long before it is tried again while the disk is full.
const FULL_DISK_WAIT: Duration = Duration::from_millis(500);

/// What became of a request.
pub(crate) enum Outcome {
    Reply(Reply),
    /// Of appends that were gathered, in order.
    Each(Vec<Reply>),
    Login(Result<Arc<User>, Refusal>),
    Followed(Following),
    Feeding(String),
    /// How many lines are durable, the first ones, and why no others are.
    Lines(u64, Option<Refusal>),
}

pub(crate) type Answer = Pin<Box<dyn Future<Output = Outcome>>>;
/// Ready once the logs of a command are known.
pub(crate) type Preparing = Pin<Box<dyn Future<Output = Result<(), Refusal>>>>;

/// Carries out the requests of one connection.
pub(crate) struct Session {
    shared: Arc<Shared>,
    /// Of the worker.
    handles: Rc<RefCell<Handles>>,
    /// The logs of the command that starts next, whatever others do to the handles meanwhile.
    opened: Rc<RefCell<HashMap<String, Log>>>,
    /// The reader of the last `READ`, for the next one.
    kept: Rc<RefCell<Option<Kept>>>,
    blocked: Rc<Cell<bool>>,
    cut: Rc<Cut>,
}

impl Session {
    pub(crate) fn new(shared: Arc<Shared>, handles: Rc<RefCell<Handles>>) -> Self {
        let (opened, kept, blocked, cut) = <_>::default();
        Self { shared, handles, opened, kept, blocked, cut }
    }

    fn handle(&self, name: &str) -> Option<Log> {
        self.handles.borrow_mut().get(name, &self.shared.generation).cloned()
    }

    /// Opens the logs that a command needs and that are not known yet. `None`: it can start.
    pub(crate) fn prepare(&self, command: &Command) -> Option<Preparing> {
        let mut known = HashMap::new();
        let mut missing = BTreeSet::new();
        for name in command.logs() {
            match self.handle(name) {
                Some(log) => drop(known.insert(name.to_owned(), log)),
                None => drop(missing.insert(name)),
            }
        }
        let is_known = missing.is_empty();
        *self.opened.borrow_mut() = known;
        if is_known {
            return None;
        }
        let asked_in = self.shared.generation.get();
        let engine = &self.shared.engine;
        let open = |name: &str| match self.shared.create_logs {
            true => engine.open_or_create_log(name),
            false => engine.open_log(name),
        };
        let opening: Vec<_> = missing.into_iter().map(open).collect();
        let (handles, opened) = (Rc::clone(&self.handles), Rc::clone(&self.opened));
        Some(Box::pin(async move {
            for log in opening {
                let log = log.await?;
                opened.borrow_mut().insert(log.name().to_owned(), log.clone());
                handles.borrow_mut().keep(log, asked_in);
            }
            Ok(())
        }))
    }

    /// Whether a `READ` waits for a record, and holds none.
    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked.get()
    }

    /// Reads wait no longer, also those that start later.
    pub(crate) fn end_waits(&self) {
        self.cut.cut();
    }

    /// The next `READ` begins anew: what was read ahead for it goes.
    pub(crate) fn forget_reader(&self) {
        drop(self.kept.take());
    }

    /// Bytes that the reply may have.
    pub(crate) fn reply_size(&self, command: &Command) -> usize {
        match command {
            Command::Read { bytes, count, .. } => {
                let records = reading::RECORD_COST * usize::try_from(*count).unwrap_or(usize::MAX);
                2 * (*bytes).min(self.shared.read_size_max) as usize + records
            }
            Command::Claim { .. } => 1 << 20,
            Command::Logs { count, .. } => 64 * count,
            Command::Readers { .. } | Command::Stats => 64 << 10,
            _ => 0,
        }
    }

    /// Asks the engine. The logs of the command are known. Says also whether the request is on its
    /// way: if not, those behind it would overtake it.
    ///
    /// `gathered`: each of its records was a request of its own.
    pub(crate) fn start(
        &self,
        command: Command,
        user: Arc<User>,
        gathered: bool,
    ) -> (Answer, bool) {
        let opened = self.opened.take();
        let known = |name: &str| opened.get(name).cloned();
        match command {
            Command::Append { log, records, by } => match known(&log) {
                Some(log) if gathered => append_each(&log, records),
                Some(log) => append(&log, records, by),
                None => refused(not_found(&log)),
            },
            Command::Batch { records, owners } => {
                let known = |(name, record): (String, Bytes)| match known(&name) {
                    Some(log) => Ok((log, record)),
                    None => Err(not_found(&name)),
                };
                match records.into_iter().map(known).collect() {
                    Ok(records) => batch(records, &owners),
                    Err(refusal) => refused(refusal),
                }
            }
            Command::Commit { reader, epoch, positions, state, outputs } => {
                let known = |(name, record): (String, Bytes)| match known(&name) {
                    Some(log) => Ok((log, record)),
                    None => Err(not_found(&name)),
                };
                let outputs = outputs.into_iter().map(known).collect::<Result<Vec<_>, _>>();
                let mut places = Places::default();
                let sent = outputs.and_then(|outputs| {
                    outputs.iter().for_each(|(log, _)| places.add(log));
                    let change = Change { positions, state, outputs };
                    self.shared.claims.commit(&reader, epoch, change)
                });
                let shared = Arc::clone(&self.shared);
                // What is refused here ends the processor as what the engine refuses does: the
                // next commit would pass over this one.
                let sent = sent.inspect_err(|_| shared.claims.forget(&reader, Some(epoch)));
                let is_sent = sent.as_ref().map_or(true, oncelog::Response::is_sent);
                let answer = answer(async move {
                    let committed = sent?.await.inspect_err(|_| {
                        shared.claims.forget(&reader, Some(epoch));
                    })?;
                    Ok(Reply::Array(vec![
                        Reply::Number(committed.number),
                        Reply::flag(committed.snapshot_due),
                        places.sequences(&committed.outputs),
                    ]))
                });
                (answer, is_sent)
            }
            Command::Lines { log, lines } => match known(&log) {
                Some(log) => (Box::pin(feed(log, lines)), true),
                None => (Box::pin(async move { Outcome::Lines(0, Some(not_found(&log))) }), true),
            },
            // Nothing starts before it is answered.
            command => (self.start_alone(command, user), true),
        }
    }

    /// A command that nothing is under way beside.
    fn start_alone(&self, command: Command, user: Arc<User>) -> Answer {
        let shared = Arc::clone(&self.shared);
        let (kept, blocked) = (Rc::clone(&self.kept), Rc::clone(&self.blocked));
        let cut = Rc::clone(&self.cut);
        blocked.set(false);
        match command {
            Command::Auth { user, password, .. } => {
                Box::pin(async move { Outcome::Login(shared.login(user, password).await) })
            }
            Command::Follow { log, from, dlsn } => Box::pin(async move {
                match shared.engine.open_log(&*log).await {
                    Ok(handle) => {
                        let bytes = shared.follow_batch_size;
                        let reader = handle.reader(from).max_bytes(bytes).max_ahead(reading::AHEAD);
                        Outcome::Followed(Following::new(log, reader, dlsn))
                    }
                    Err(error) => Outcome::Reply(Reply::Error(error.into())),
                }
            }),
            Command::Ingest { log } => Box::pin(async move {
                match shared.engine.open_log(&*log).await {
                    Ok(_) => Outcome::Feeding(log),
                    Err(error) => Outcome::Reply(Reply::Error(error.into())),
                }
            }),
            Command::Read { log, from, count, bytes, block_ms, dlsn } => answer(async move {
                let generation = shared.generation.get();
                let reader = Kept::take(&kept, &log, from, generation);
                let reader = match reader {
                    Some(reader) => reader,
                    None => shared.engine.open_log(&*log).await?.reader(from),
                };
                let bytes = bytes.min(shared.read_size_max);
                let reader = reader.max_bytes(bytes).max_ahead(reading::AHEAD);
                let read = reading::read(reader, (count, bytes), block_ms, (&blocked, &cut));
                let (reader, records) = read.await?;
                let may = |user: Arc<User>| user.may(Right::Read, &log);
                if block_ms.is_some() && !shared.user_now(&user.name).is_some_and(may) {
                    return Err(Refusal::new("NOPERM", "you may not read it any more"));
                }
                *kept.borrow_mut() = Kept::new(log, reader, generation);
                Ok(Reply::Array(records.iter().map(|r| reading::record(r, dlsn)).collect()))
            }),
            Command::Drop { log } => detached(async move {
                shared.engine.drop_log(&log).await?;
                shared.generation.advance();
                Ok(Reply::OK)
            }),
            Command::Rename { log, name } => detached(async move {
                shared.engine.open_log(&*log).await?.rename(name).await?;
                shared.generation.advance();
                Ok(Reply::OK)
            }),
            command => answer(async move { carry_out(&shared, command, &user).await }),
        }
    }
}

/// Goes on where the connection breaks: names that mean other logs must not be forgotten to be
/// looked up again.
fn detached(future: impl Future<Output = Result<Reply, Refusal>> + 'static) -> Answer {
    let task = tokio::task::spawn_local(future);
    let ended =
        |_| Err(Refusal::new("STOPPED", "it was not carried through; look whether it was done"));
    answer(async move { task.await.unwrap_or_else(ended) })
}

fn not_found(log: &str) -> Refusal {
    LogError::NoSuchLog { name: log.to_owned() }.into()
}

fn answer(future: impl Future<Output = Result<Reply, Refusal>> + 'static) -> Answer {
    Box::pin(async move { Outcome::Reply(future.await.unwrap_or_else(Reply::Error)) })
}

fn refused(refusal: Refusal) -> (Answer, bool) {
    (answer(async move { Err(refusal) }), true)
}

/// One log's records, by anyone, its owner, or a writer (P-13, P-17).
fn append(log: &Log, mut records: Vec<NewRecord>, by: By) -> (Answer, bool) {
    fn at<E: Into<Refusal>>(appended: Result<Appended, E>) -> Outcome {
        Outcome::Reply(match appended {
            Ok(appended) => Reply::Number(appended.first.get()),
            Err(error) => Reply::Error(error.into()),
        })
    }
    let one = if records.len() == 1 { records.pop() } else { None };
    match (by, one) {
        (By::Anyone, Some(record)) => {
            let response = log.append(record);
            let is_sent = response.is_sent();
            (Box::pin(async move { at(response.await) }), is_sent)
        }
        (By::Anyone, None) => {
            let response = log.append_batch(records);
            let is_sent = response.is_sent();
            (Box::pin(async move { at(response.await) }), is_sent)
        }
        (By::Owner(epoch), Some(record)) => {
            let response = log.exclusive_writer().resume(epoch).append(record);
            let is_sent = response.is_sent();
            (Box::pin(async move { at(response.await) }), is_sent)
        }
        (By::Owner(epoch), None) => {
            let response = log.exclusive_writer().resume(epoch).append_batch(records);
            let is_sent = response.is_sent();
            (Box::pin(async move { at(response.await) }), is_sent)
        }
        (By::Writer { name, epoch, number, exclusive }, one) => {
            let writer = log.writer(name);
            let writer = if exclusive { writer.exclusive() } else { writer };
            records.extend(one);
            let response = writer.resume(epoch).append(number, records);
            let is_sent = response.is_sent();
            let answer = answer(async move {
                let written = response.await?;
                let first = Reply::Number(written.appended.first.get());
                Ok(Reply::Array(vec![first, Reply::flag(written.repeated)]))
            });
            (answer, is_sent)
        }
    }
}

/// Requests that came together, carried out together: each is answered for itself.
fn append_each(log: &Log, records: Vec<NewRecord>) -> (Answer, bool) {
    let count = records.len();
    let response = log.append_each(records);
    let is_sent = response.is_sent();
    let answer = async move {
        let refused = |error: AppendError| Reply::Error(error.into());
        Outcome::Each(match response.await {
            Ok(each) => {
                let reply = |place: Result<Sequence, AppendError>| match place {
                    Ok(sequence) => Reply::Number(sequence.get()),
                    Err(error) => refused(error),
                };
                each.into_iter().map(reply).collect()
            }
            Err(error) => vec![refused(error); count],
        })
    };
    (Box::pin(answer), is_sent)
}

/// Where each of several records stands: the engine tells only where each log's part of them does.
#[derive(Default)]
struct Places {
    /// The logs in the order of their first records, with how many records each has.
    logs: Vec<(LogId, u64)>,
    /// For each record: the place of its log, and its place in that log's part.
    records: Vec<(usize, u64)>,
}

impl Places {
    /// One more record.
    fn add(&mut self, log: &Log) {
        let part = self.logs.iter().position(|(known, _)| *known == log.id());
        let part = part.unwrap_or_else(|| {
            self.logs.push((log.id(), 0));
            self.logs.len() - 1
        });
        self.records.push((part, self.logs[part].1));
        self.logs[part].1 += 1;
    }

    fn sequences(self, parts: &[Appended]) -> Reply {
        let sequence = |(part, place): (usize, u64)| Reply::Number(parts[part].first.get() + place);
        Reply::Array(self.records.into_iter().map(sequence).collect())
    }
}

/// Records of several logs (P-14).
fn batch(records: Vec<(Log, Bytes)>, owners: &[(String, oncelog::Epoch)]) -> (Answer, bool) {
    let owners: HashMap<_, _> = owners.iter().map(|(name, epoch)| (&**name, *epoch)).collect();
    let (mut batch, mut places) = (Batch::new(), Places::default());
    for (log, record) in records {
        batch = match owners.get(log.name()) {
            Some(epoch) => batch.append_as(&log.exclusive_writer().resume(*epoch), record),
            None => batch.append(&log, record),
        };
        places.add(&log);
    }
    let response = batch.commit();
    let is_sent = response.is_sent();
    let answer = answer(async move { Ok(places.sequences(&response.await?)) });
    (answer, is_sent)
}

/// Lines become durable together, also those before one that the log does not take. Where there is
/// no room, or they come too fast, they wait: who
/// sends them is not read from meanwhile.
async fn feed(log: Log, mut lines: Vec<Bytes>) -> Outcome {
    let (mut full, mut refused) = (false, None);
    loop {
        let wait = match log.append_batch(lines.iter().cloned()).await {
            Ok(_) => return Outcome::Lines(lines.len() as u64, refused),
            Err(error @ AppendError::TooLarge { max, .. }) if refused.is_none() => {
                let good = lines.iter().take_while(|line| line.len() <= max).count();
                lines.truncate(good);
                refused = Some(error.into());
                continue;
            }
            Err(AppendError::OverCapacity { retry_after_us, .. }) => {
                Duration::from_micros(retry_after_us)
            }
            Err(AppendError::NoSpace(error)) => {
                if !std::mem::replace(&mut full, true) {
                    tracing::warn!(log = log.name(), %error, "lines wait for room");
                }
                FULL_DISK_WAIT
            }
            Err(error) => return Outcome::Lines(0, Some(error.into())),
        };
        tokio::time::sleep(wait.max(Duration::from_millis(1))).await;
    }
}

async fn carry_out(shared: &Shared, command: Command, user: &User) -> Result<Reply, Refusal> {
    let engine = &shared.engine;
    let open = async |log: &str| engine.open_log(log).await;
    Ok(match command {
        Command::Create { log, if_absent, settings } => {
            let creating = match settings.is_empty() {
                true => engine.create_log(log),
                false => engine.create_log_with(log, changed(LogOptions::default(), settings)),
            };
            match creating.await {
                Ok(_) => Reply::Number(1),
                Err(LogError::Exists { .. }) if if_absent => Reply::Number(0),
                Err(error) => return Err(error.into()),
            }
        }
        Command::Configure { log, version, settings } => {
            configure(&open(&log).await?, version, settings).await?
        }
        Command::Describe { log } => about::log(&open(&log).await?.describe().await?),
        Command::Logs { prefix, after, count } => {
            names_of_logs(shared, user, &prefix, after, count).await?
        }
        Command::Seal { log, owner } => {
            let log = open(&log).await?;
            let next = match owner {
                Some(epoch) => log.exclusive_writer().resume(epoch).seal().await?,
                None => log.seal().await?,
            };
            Reply::Number(next.get())
        }
        Command::Own { log } => {
            let owner = open(&log).await?.exclusive_writer().open().await?;
            Reply::Number(owner.epoch().get())
        }
        Command::Share { log } => open(&log).await?.share().await.map(|()| Reply::OK)?,
        Command::Truncate { log, before } => {
            open(&log).await?.truncate(before).await.map(|()| Reply::OK)?
        }
        Command::Writer { log, what } => writer(&open(&log).await?, what).await?,
        Command::Claim { reader, sources, owns, change } => {
            let asked = (sources, owns, change);
            let (restored, positions) = shared.claims.claim(engine, reader, asked).await?;
            about::claim(restored, positions)
        }
        Command::Readers { prefix } => {
            let mut infos = engine.describe_processors(&prefix).await?;
            infos.retain(|info| Right::ALL.iter().any(|right| user.may(*right, &info.name)));
            Reply::Array(infos.iter().map(about::processor).collect())
        }
        Command::Forget { reader } => {
            engine.drop_processor(&reader).await?;
            shared.claims.forget(&reader, None);
            Reply::OK
        }
        Command::Info => Reply::Bulk(about::info(shared).await?),
        Command::Stats => about::stats(&engine.metrics().await?),
        command => unreachable!("{command:?} is carried out elsewhere"),
    })
}

fn changed(options: LogOptions, settings: Vec<Setting>) -> LogOptions {
    settings.into_iter().fold(options, |mut options, setting| {
        setting.apply(&mut options);
        options
    })
}

/// Without a version: until nobody else changed the options in between.
async fn configure(
    log: &Log,
    version: Option<u32>,
    settings: Vec<Setting>,
) -> Result<Reply, Refusal> {
    loop {
        let LogInfo { options, options_version, .. } = log.describe().await?;
        let replaces = version.unwrap_or(options_version);
        let options = changed(LogOptions::clone(&options), settings.clone());
        match log.replace_options(replaces, options).await {
            Ok(info) => return Ok(Reply::Number(info.options_version.into())),
            Err(LogError::OptionsChanged { .. }) if version.is_none() => {}
            Err(error) => return Err(error.into()),
        }
    }
}

async fn names_of_logs(
    shared: &Shared,
    user: &User,
    prefix: &str,
    mut after: String,
    count: usize,
) -> Result<Reply, Refusal> {
    let mut names = Vec::new();
    // What a user may not see counts for no page.
    while names.len() < count {
        let page = shared.engine.list_logs_page(prefix, &after, count).await?;
        let Some(last) = page.last() else { break };
        after.clone_from(&last.name);
        let visible = |info: &LogInfo| Right::ALL.iter().any(|right| user.may(*right, &info.name));
        names.extend(page.into_iter().filter(visible).map(|info| Reply::text(info.name)));
    }
    names.truncate(count);
    Ok(Reply::Array(names))
}

/// A writer that begins, also again (P-18).
async fn writer(log: &Log, what: WriterCommand) -> Result<Reply, Refusal> {
    Ok(match what {
        WriterCommand::Open { name, increasing, exclusive } => {
            let options = log.writer(name);
            let options = if increasing { options.increasing() } else { options };
            let options = if exclusive { options.exclusive() } else { options };
            let writer = options.open().await?;
            let (epoch, last) = (writer.epoch().get(), writer.last());
            Reply::Array(vec![Reply::Number(epoch), Reply::Number(last)])
        }
        WriterCommand::List => {
            Reply::Array(log.list_writers().await?.iter().map(about::writer).collect())
        }
        WriterCommand::Forget { name } => log.forget_writer(name).await.map(|()| Reply::OK)?,
    })
}
