//! Opening an engine: its directory, its superblock, its shards and their threads.
//!
//! Not here: how a shard reads its journal (`recover`).

use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use super::{Engine, Inner, ShardHandle};
use crate::error::{OpenError, Stopped};
use crate::files::{Files, ShardDir};
use crate::format::VERSION;
use crate::format::header::Superblock;
use crate::helm::Access;
use crate::host::{DirLock, Host, make_dir};
use crate::inbox::inbox;
use crate::io::IoError;
use crate::meta::MetaFile;
use crate::options::{DirectIo, Options};
use crate::position::ShardId;
use crate::shard::{Shard, ShardConfig};
use crate::sync::SyncMethod;
use crate::thread::{Setup, Spawned, spawn};

/// See [`Options::open`].
pub(crate) fn open(options: Options) -> Result<Engine, OpenError> {
    options.check()?;
    let dir = options.dir.clone();
    let io_error = |what, source: std::io::Error| OpenError::Io {
        what,
        path: dir.clone(),
        source: IoError::from(source),
    };
    if options.create {
        make_dir(&dir)?;
    }
    let lock = Arc::new(DirLock::acquire(&dir)?);
    let host = Host::probe(&dir);
    let direct = check_host(&options, &host)?;
    let mut meta = match MetaFile::open(&dir)? {
        Some(meta) => meta,
        None if options.create => MetaFile::create(&dir, &new_superblock(&options))?,
        None => {
            let why = "holds no engine.meta: no engine was ever made here".to_owned();
            return Err(OpenError::Foreign { path: dir, why });
        }
    };
    check_made(&options, meta.superblock())?;
    if meta.superblock().version < VERSION {
        // Before the first segment of this version (F-2). Older programs refuse it from here on.
        let what = "bringing engine.meta to the newest format version of";
        meta.renew().map_err(|error| io_error(what, error))?;
    }
    let superblock = meta.superblock().clone();
    if let Err(error) = meta.level() {
        tracing::warn!(dir = %dir.display(), %error, "only one copy of engine.meta is up to date");
    }
    let files = Files::start(meta).map_err(|error| io_error("starting threads for", error))?;
    let mut shards = Vec::new();
    let started = start_shards(&options, &superblock, &host, direct, &lock, &files, &mut shards);
    // If one could not be started, dropping this closes the others.
    let inner = Arc::new(Inner { dir: dir.clone(), superblock, direct, host, shards });
    for opened in started? {
        opened.recv().map_err(|_| OpenError::Stopped(Stopped::closed()))??;
    }
    Ok(Engine(inner))
}

type Opened = Receiver<Result<(), OpenError>>;

fn start_shards(
    options: &Options,
    superblock: &Superblock,
    host: &Host,
    direct: bool,
    lock: &Arc<DirLock>,
    files: &Files,
    shards: &mut Vec<ShardHandle>,
) -> Result<Vec<Opened>, OpenError> {
    let dir = &options.dir;
    let io_error = |what, source: std::io::Error| OpenError::Io {
        what,
        path: dir.clone(),
        source: IoError::from(source),
    };
    let fua = host.fua == Some(true) || host.write_back == Some(false);
    let sync_method = options.sync_method.or(fua.then_some(SyncMethod::Dsync));
    let cores = cores(options, host);
    let mut opening = Vec::new();
    for id in (0..superblock.shard_count).map(ShardId::new) {
        let shard_dir = Arc::new(ShardDir::open(dir, id, direct)?);
        let config = ShardConfig {
            engine: superblock.engine,
            shard: id,
            segment_size: superblock.segment_size,
            begun: superblock.has_begun(id),
            tail_cache_size: options.tail_cache_size,
            sync_method,
        };
        shard_dir.remove_unfinished()?;
        let shard = Shard::open(config, &shard_dir.list()?);
        let (inbox, outlet) =
            inbox(options.inbox_size).map_err(|error| io_error("opening an eventfd for", error))?;
        let setup = Setup {
            dir: shard_dir,
            lock: Arc::clone(lock),
            files: files.clone(),
            inbox: inbox.clone(),
            outlet,
            io_mode: options.io_mode,
            core: options.pin.then(|| cores[usize::from(id.get()) % cores.len()]),
            spin: options.spin,
        };
        let spawned =
            spawn(shard, setup).map_err(|error| io_error("starting a shard of", error))?;
        let Spawned { thread, helm, info, stats, opened } = spawned;
        let access = Access { inbox, helm };
        let thread = Mutex::new(Some(thread));
        shards.push(ShardHandle { access, thread, runner: info, stats });
        opening.push(opened);
    }
    Ok(opening)
}

/// The processors for the shards, in turn. A thread that sleeps on the processor that takes the
/// disk's interrupts is woken without a detour (docs/perf.md).
fn cores(options: &Options, host: &Host) -> Vec<usize> {
    if !options.cores.is_empty() {
        return options.cores.clone();
    }
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    let first = host.interrupt_core.filter(|core| *core < count).unwrap_or(0);
    (0..count).map(|step| (first + step) % count).collect()
}

fn new_superblock(options: &Options) -> Superblock {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let default = u16::try_from(cores.min(usize::from(crate::limits::SHARDS_MAX)));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Superblock {
        version: VERSION,
        engine: uuid::Uuid::new_v4().into_bytes(),
        shard_count: options.shards.unwrap_or(default.expect("it was bounded")),
        segment_size: options.new_segment_size(),
        generation: 1,
        created_us: u64::try_from(now.as_micros()).unwrap_or(u64::MAX),
        begun: [0; 32],
    }
}

/// Whether the options fit the engine that is there.
fn check_made(options: &Options, superblock: &Superblock) -> Result<(), OpenError> {
    let made = superblock.shard_count;
    if let Some(shards) = options.shards.filter(|shards| *shards != made) {
        let why = format!("the engine was made with {made} shards, not {shards}; leave it out");
        return Err(OpenError::Option { option: "shards", why });
    }
    let made = superblock.segment_size;
    if let Some(size) = options.segment_size.filter(|size| *size != made) {
        let why = format!("the engine was made with segments of {made} bytes, not {size}");
        return Err(OpenError::Option { option: "segment_size", why });
    }
    Ok(())
}

/// Whether the place will do, and whether to bypass the page cache; says once what is worse than
/// it could be.
fn check_host(options: &Options, host: &Host) -> Result<bool, OpenError> {
    let dir = options.dir.display();
    if host.is_network && !options.allow_network_file_system {
        let (dir, kind) = (options.dir.clone(), host.file_system.clone());
        return Err(OpenError::FileSystem { dir, kind });
    }
    if let Some(why) = &host.why_not {
        tracing::warn!(%dir, why, "what is acknowledged here is NOT durable against power loss");
    }
    if host.is_cow {
        tracing::warn!(%dir, kind = host.file_system, "a copy-on-write file system: slower syncs");
    }
    match options.direct_io {
        DirectIo::Never => Ok(false),
        DirectIo::Always if !host.direct_io => {
            let why = format!("{} refuses O_DIRECT in {dir}", host.file_system);
            Err(OpenError::Option { option: "direct_io", why })
        }
        DirectIo::Auto if !host.direct_io => {
            tracing::warn!(%dir, "O_DIRECT is refused here; going on through the page cache");
            Ok(false)
        }
        DirectIo::Always | DirectIo::Auto => Ok(true),
    }
}
