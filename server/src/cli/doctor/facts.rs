//! What can be seen of a machine and of the place of a directory.
//!
//! Invariant: looking never fails; what cannot be learnt is left out, or says that it is not known.
//!
//! Not here: what follows from it.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use oncelog::format::header::Superblock;
use oncelog::limits::{BLOCK_SIZE, SEGMENT_SIZE_DEFAULT};
use oncelog::{DirectIo, Host, Options, RunnerInfo};
use rustix::fs::{AtFlags, StatxFlags, major, minor, statvfs, statx};
use rustix::process::{Resource, getrlimit};

use super::Fact;
use crate::cli::out::size;

/// Locked memory that is enough for the write buffers of many shards.
const MEMLOCK_ENOUGH: u64 = 64 << 20;

/// An engine that is there.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) shards: u16,
    pub(super) segment_size: u64,
    version: u32,
}

/// The engine of a directory, by its superblock.
pub(super) fn made_in(dir: &Path) -> Option<Made> {
    let meta = fs::read(dir.join("engine.meta")).ok()?;
    let copies = meta.chunks(BLOCK_SIZE as usize).take(2);
    let newest = copies.filter_map(|copy| Superblock::decode(copy).ok());
    let Superblock { shard_count: shards, segment_size, version, .. } =
        newest.max_by_key(|superblock| superblock.generation)?;
    Some(Made { shards, segment_size, version })
}

/// What a shard's thread works with: tried by the smallest engine, elsewhere.
pub(super) fn ring() -> Result<RunnerInfo, String> {
    struct Gone(PathBuf);
    impl Drop for Gone {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
    let dir = std::env::temp_dir().join(format!("oncelog-doctor-{}", std::process::id()));
    fs::create_dir(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let gone = Gone(dir);
    let options = Options::new(&gone.0).shards(1).segment_size(1 << 20).pin(false);
    let options = options.direct_io(DirectIo::Never).allow_network_file_system(true);
    let engine = options.open().map_err(|error| error.to_string())?;
    let info = engine.info().wait().map_err(|error| error.to_string())?;
    let closed = engine.close().wait();
    closed.map_err(|error| error.to_string())?;
    let shard = info.shards.into_iter().next();
    shard.map(|shard| shard.runner).ok_or_else(|| "an engine without shards".to_owned())
}

/// All of them, for a directory that is there.
pub(super) fn all(
    place: &Path,
    host: &Host,
    ring: &Result<RunnerInfo, String>,
    made: Option<&Made>,
) -> Vec<Fact> {
    let mut facts = vec![engine(made), kernel(), io_uring(ring), memlock(ring)];
    facts.extend([file_system(host), direct_io(place, host), cache(host)]);
    if let Some(queue) = queue(place) {
        facts.extend([rotation(host, &queue), scheduler(host, &queue)].into_iter().flatten());
    }
    facts.extend(room(place, made));
    facts
}

fn engine(made: Option<&Made>) -> Fact {
    let value = match made {
        None => "none yet".to_owned(),
        Some(Made { shards, segment_size, version }) => {
            format!("{shards} shards, segments of {}, format {version}", size(*segment_size))
        }
    };
    Fact::new("engine", value, None)
}

fn kernel() -> Fact {
    let release = read("/proc/sys/kernel/osrelease");
    let (name, machine) = (release.as_deref().unwrap_or("not known"), std::env::consts::ARCH);
    let number = |text: &str| text.split('.').map_while(|part| part.parse().ok()).collect();
    let version: Vec<u32> = release.as_deref().map(number).unwrap_or_default();
    let advice = (version < vec![6, 1]).then_some(
        "from Linux 6.1 on the ring needs fewer interrupts, and tells what O_DIRECT asks for",
    );
    let known = release.is_some();
    Fact::new("kernel", format!("Linux {name} ({machine})"), advice.filter(|_| known))
}

fn io_uring(ring: &Result<RunnerInfo, String>) -> Fact {
    let disabled = read("/proc/sys/kernel/io_uring_disabled").filter(|value| value != "0");
    let switch = "the kernel's switch is off: sysctl kernel.io_uring_disabled=0";
    let allow =
        "allow io_uring in the seccomp profile of the container, or use Linux 5.15 or later";
    let advice = if disabled.is_some() { switch } else { allow };
    match ring {
        Err(why) => Fact::new("io_uring", format!("not known, it could not be tried: {why}"), None),
        Ok(info) => match &info.ring_refused {
            Some(why) => Fact::new("io_uring", format!("refused: {why}"), Some(advice)),
            None => {
                let yes = |yes: bool| if yes { "yes" } else { "no" };
                let (files, buffers) = (info.registered_files, info.registered_buffers);
                let value = format!(
                    "works, flags {}, registered files {}, registered buffers {}",
                    info.flags,
                    yes(files),
                    yes(buffers)
                );
                let advice = "each write costs more: use a newer kernel";
                Fact::new("io_uring", value, (!files || !buffers).then_some(advice))
            }
        },
    }
}

fn memlock(ring: &Result<RunnerInfo, String>) -> Fact {
    let limit = getrlimit(Resource::Memlock).current;
    let value = limit.map_or("unlimited".to_owned(), size);
    let small = limit.is_some_and(|limit| limit < MEMLOCK_ENOUGH);
    let matters = ring.as_ref().is_ok_and(|info| info.ring_refused.is_none());
    let advice = "write buffers beyond it are not registered with the ring, and cost more: \
                  LimitMEMLOCK=infinity, or ulimit -l unlimited";
    Fact::new("locked memory", value, (small && matters && !may_lock()).then_some(advice))
}

/// Whether this process may lock memory beyond the limit.
fn may_lock() -> bool {
    const CAP_IPC_LOCK: u32 = 14;
    let status = read("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> CAP_IPC_LOCK & 1 == 1)
}

fn file_system(host: &Host) -> Fact {
    let source = host.source.as_deref().unwrap_or("?");
    let options = host.mount_options.as_deref().unwrap_or("?");
    let value = format!("{} on {source} ({options})", host.file_system);
    let advice = if let Some(why) = &host.why_not {
        Some(format!("{why}: what is acknowledged does not survive a power cut"))
    } else if host.is_cow {
        Some("each write goes to a new place, so durable writes cost more: use XFS or ext4".into())
    } else if host.file_system == "overlay" {
        Some("this is a container's layer: give the engine a volume".into())
    } else {
        None
    };
    Fact::new("file system", value, advice.as_deref())
}

fn direct_io(place: &Path, host: &Host) -> Fact {
    if !host.direct_io {
        let advice = "every write is copied once more, and reads push others out of memory: use a \
                      local file system, and a directory that is yours";
        return Fact::new("direct I/O", "refused", Some(advice));
    }
    let value = match alignment(place) {
        Some((memory, offset)) => {
            format!("works; memory by {memory}, offsets by {offset}, ours by {BLOCK_SIZE}")
        }
        None => format!("works in blocks of {BLOCK_SIZE}; the kernel does not tell what it needs"),
    };
    Fact::new("direct I/O", value, None)
}

/// What O_DIRECT asks of addresses and offsets, told since Linux 6.1.
fn alignment(place: &Path) -> Option<(u32, u32)> {
    let path = place.join(format!("doctor-{}.tmp", std::process::id()));
    let file = File::create_new(&path).ok()?;
    let stat = statx(&file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).ok();
    let _ = fs::remove_file(&path);
    let stat = stat.filter(|stat| stat.stx_mask & StatxFlags::DIOALIGN.bits() != 0)?;
    Some((stat.stx_dio_mem_align, stat.stx_dio_offset_align))
}

fn cache(host: &Host) -> Fact {
    match (host.write_back, host.fua) {
        (Some(false), _) => {
            Fact::new("write cache", "write through: a write is durable when it completes", None)
        }
        (Some(true), Some(true)) => {
            Fact::new("write cache", "write back, FUA: a durable write is one request", None)
        }
        (Some(true), _) => {
            let advice = "every durable write flushes the whole cache: a drive with power-loss \
                          protection, or with FUA, is several times as fast";
            let value = "write back, no FUA: a durable write is a write and a flush";
            Fact::new("write cache", value, Some(advice))
        }
        (None, _) => Fact::new("write cache", "not known", None),
    }
}

/// The directory of the device's request queue in `/sys`.
fn queue(place: &Path) -> Option<PathBuf> {
    let device = fs::metadata(place).ok()?.dev();
    let device = format!("/sys/dev/block/{}:{}", major(device), minor(device));
    let device = fs::canonicalize(device).ok()?;
    // A partition has no queue of its own: its disk's is one level up.
    let own = device.join("queue");
    Some(if own.is_dir() { own } else { device.parent()?.join("queue") })
}

/// The name of the disk whose queue it is.
fn disk(queue: &Path) -> String {
    let disk = queue.parent().and_then(Path::file_name).unwrap_or_default();
    disk.to_string_lossy().into_owned()
}

fn rotation(host: &Host, queue: &Path) -> Option<Fact> {
    let disk = disk(queue);
    // A hypervisor says that of any disk.
    let guest = ["vd", "xvd"].iter().any(|begin| disk.starts_with(begin));
    let turns = host.rotational? && !guest;
    let advice = turns.then_some("a durable write waits until the disk has turned");
    let value = if turns { "turns" } else { "solid state, or virtual" };
    Some(Fact::new("device", format!("{disk}: {value}"), advice))
}

fn scheduler(host: &Host, queue: &Path) -> Option<Fact> {
    let all = read(queue.join("scheduler"))?;
    let chosen = chosen(&all).to_owned();
    let advice = format!(
        "it costs time and helps no solid-state disk: echo none > /sys/block/{}/queue/scheduler",
        disk(queue)
    );
    let turns = host.rotational == Some(true) && !disk(queue).starts_with("vd");
    let advice = (chosen != "none" && !turns).then_some(advice.as_str());
    Some(Fact::new("I/O scheduler", chosen, advice))
}

/// What stands in brackets: `[none] mq-deadline`.
fn chosen(text: &str) -> &str {
    let inside = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    inside.map_or(text, |(chosen, _)| chosen)
}

/// Whether three segments for each shard would find room: one that is written, and two at hand.
fn room(place: &Path, made: Option<&Made>) -> Option<Fact> {
    let stat = statvfs(place).ok()?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let (shards, segment) =
        made.map_or((cores, SEGMENT_SIZE_DEFAULT), |made| (made.shards.into(), made.segment_size));
    let needed = 3 * shards * segment;
    let advice =
        format!("an engine wants {} beside its records for new segments: make room", size(needed));
    Some(Fact::new("free space", size(free), (free < needed).then_some(advice.as_str())))
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_chosen_stands_in_brackets() {
        assert_eq!(chosen("none [mq-deadline] bfq"), "mq-deadline");
        assert_eq!(chosen("none"), "none");
    }
}
