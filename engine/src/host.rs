//! The place of an engine: who holds its directory, and what its file system and device promise.
//!
//! ```text
//! directory -> mount (/proc/self/mountinfo) -> file system -> device (/sys/dev/block/M:m/queue)
//!    |             barrier off? volatile?      tmpfs? nfs?        write cache? FUA?
//!    '-> LOCK, and a file that is really written past the page cache
//! ```
//!
//! Invariants:
//! - Probing never fails and never panics: what cannot be learnt is `None`.
//! - `durable` is only false for a reason, and `why_not` tells it.
//!
//! Not here: deciding whether such a place will do.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, OFlags, StatxFlags, major, minor, statfs, statx};

use crate::buf::Buf;
use crate::error::OpenError;
use crate::limits::BLOCK_SIZE;
use crate::meta::{open_error, sync_dir};

/// How long to wait for the lock of a process that was killed: its ring is torn down by and by.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
const LOCK_RETRY: Duration = Duration::from_millis(10);

/// Makes a directory, and those above it, durably. It may be there.
///
/// # Errors
/// [`OpenError::Io`]
pub fn make_dir(dir: &Path) -> Result<(), OpenError> {
    let parent = match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
        // The root.
        None => return Ok(()),
    };
    if !dir.is_dir() {
        make_dir(parent)?;
        match fs::create_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
            made => made.map_err(open_error("cannot make directory", dir))?,
        }
    }
    // Also where it was there: a killed process may have left it only in memory.
    match sync_dir(parent) {
        // Not ours to read, so it was made by someone else.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        synced => synced.map_err(open_error("cannot sync directory", parent)),
    }
}

/// The exclusive right to a data directory.
#[derive(Debug)]
pub struct DirLock {
    file: File,
    dir: PathBuf,
}

impl DirLock {
    /// Locks the directory. Waits a little for a process that was just killed.
    ///
    /// # Errors
    /// [`OpenError::InUse`], [`OpenError::Io`]
    pub fn acquire(dir: &Path) -> Result<Self, OpenError> {
        Self::acquire_within(dir, LOCK_PATIENCE)
    }

    fn acquire_within(dir: &Path, patience: Duration) -> Result<Self, OpenError> {
        let path = dir.join("LOCK");
        let failed = open_error("cannot lock", &path);
        let open =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = open.map_err(&failed)?;
        let begin = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if begin.elapsed() < patience => {
                    thread::sleep(LOCK_RETRY);
                }
                Err(TryLockError::WouldBlock) => {
                    let (dir, holder) = (dir.to_owned(), holder(&mut file));
                    return Err(OpenError::InUse { dir, holder });
                }
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
        }
        // Only for people: nothing depends on what stands in the file.
        let program = std::env::current_exe().ok();
        let program = program.as_deref().and_then(Path::file_name).unwrap_or_default();
        let text = format!("process {} ({})\n", std::process::id(), program.to_string_lossy());
        let written = file.set_len(0).and_then(|()| file.write_all_at(text.as_bytes(), 0));
        written.map_err(failed)?;
        Ok(Self { file, dir: dir.to_owned() })
    }

    /// The locked file. While a ring has it registered, the lock outlives this process.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for DirLock {
    fn drop(&mut self) {
        // Closing is not enough: the kernel lets go of a ring's registered files some time later.
        if let Err(error) = self.file.unlock() {
            tracing::warn!(dir = %self.dir.display(), %error, "the lock will go with the process");
        }
    }
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.take(256).read_to_string(&mut text));
    match (read, text.trim()) {
        (Ok(1..), holder) if !holder.is_empty() => {
            let own = format!("process {} ", std::process::id());
            let this = if holder.starts_with(&own) { "this process, " } else { "" };
            format!("{this}{holder}")
        }
        _ => "another process".to_owned(),
    }
}

/// What a directory stands on.
#[derive(Clone, Debug)]
pub struct Host {
    /// Name of the file system; its magic number in hexadecimal where it has no name here.
    pub file_system: String,
    /// Options of the mount and of the file system, as the kernel tells them.
    pub mount_options: Option<String>,
    /// What is mounted, mostly a device's path.
    pub source: Option<String>,
    /// It lives in memory: nothing survives a power cut.
    pub is_volatile: bool,
    /// Another machine or process answers a sync, in its own way.
    pub is_network: bool,
    /// It writes every block to a new place: durable writes cost more, direct ones too.
    pub is_cow: bool,
    /// Whether files can be written past the page cache in blocks of ours. It was tried.
    pub direct_io: bool,
    /// Whether the device has a volatile write cache, which every sync must flush.
    pub write_back: Option<bool>,
    /// Whether the device can write through its cache (FUA), which makes a durable write cheap.
    pub fua: Option<bool>,
    /// Whether the device turns.
    pub rotational: Option<bool>,
    /// The processor that takes the device's interrupts, where it has one queue for all of them.
    pub interrupt_core: Option<usize>,
    /// Whether a sync means that power may fail.
    pub durable: bool,
    /// Why it does not.
    pub why_not: Option<String>,
}

impl Host {
    /// Looks at the place of `dir`, which must exist. Writes and deletes one small file in it.
    #[must_use]
    pub fn probe(dir: &Path) -> Self {
        let mount = Mount::of(dir);
        let magic = || match statfs(dir) {
            Ok(stat) => name_of_magic(stat.f_type as u64 & 0xFFFF_FFFF),
            Err(_) => "unknown".to_owned(),
        };
        let file_system = mount.as_ref().map_or_else(magic, |mount| mount.kind.clone());
        let device = device_of(dir, mount.as_ref());
        let queue = device.as_deref().map(|device| {
            // A partition has no queue of its own: its disk's is one level up.
            let own = device.join("queue");
            if own.is_dir() { own } else { device.join("../queue") }
        });
        let read = |name: &str| fs::read_to_string(queue.as_ref()?.join(name)).ok();
        let flag = |name: &str| match read(name)?.trim() {
            "1" => Some(true),
            "0" => Some(false),
            _ => None,
        };
        let in_memory = device.as_deref().and_then(Path::file_name).is_some_and(|name| {
            let name = name.to_string_lossy();
            name.starts_with("zram") || name.starts_with("ram")
        });
        let mut host = Self {
            is_volatile: in_memory || matches!(&*file_system, "tmpfs" | "ramfs" | "devtmpfs"),
            is_network: is_network(&file_system),
            is_cow: matches!(&*file_system, "btrfs" | "zfs" | "bcachefs" | "nilfs2"),
            direct_io: direct_io(dir),
            write_back: read("write_cache").and_then(|text| match text.trim() {
                "write back" => Some(true),
                "write through" => Some(false),
                _ => None,
            }),
            fua: flag("fua"),
            rotational: flag("rotational"),
            interrupt_core: queue.as_deref().and_then(Path::parent).and_then(interrupt_core),
            durable: true,
            why_not: None,
            source: mount.as_ref().map(|mount| mount.source.clone()),
            mount_options: mount.map(|mount| mount.options),
            file_system,
        };
        host.why_not = host.doubt();
        host.durable = host.why_not.is_none();
        host
    }

    fn doubt(&self) -> Option<String> {
        if self.is_volatile {
            return Some(format!("{} lives in memory", self.file_system));
        }
        if self.is_network {
            return Some(format!("with {} a sync is answered elsewhere", self.file_system));
        }
        // Said by ext4, XFS, btrfs; ext3; reiserfs; f2fs; overlayfs.
        let off = ["nobarrier", "barrier=0", "barrier=none", "fsync_mode=nobarrier", "volatile"];
        let options = self.mount_options.as_deref().unwrap_or_default();
        let option = options.split(',').find(|option| off.contains(option))?;
        Some(format!("mount option {option} lets a sync return before the data is on the device"))
    }
}

/// A line of `/proc/self/mountinfo`.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    id: u64,
    point: PathBuf,
    kind: String,
    source: String,
    options: String,
}

impl Mount {
    fn of(dir: &Path) -> Option<Self> {
        let dir = dir.canonicalize().ok()?;
        let text = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let mounts = text.lines().filter_map(Self::parse);
        let stat = statx(CWD, &dir, AtFlags::empty(), StatxFlags::MNT_ID).ok();
        let id = stat.filter(|stat| stat.stx_mask & StatxFlags::MNT_ID.bits() != 0);
        if let Some(id) = id.map(|stat| stat.stx_mnt_id) {
            return mounts.into_iter().find(|mount| mount.id == id);
        }
        // Before Linux 5.8. Of two on the same point the later one is on top.
        let above = mounts.filter(|mount| dir.starts_with(&mount.point));
        above.max_by_key(|mount| mount.point.components().count())
    }

    /// See proc_pid_mountinfo(5): `id parent M:m root point options [tag..] - kind source options`.
    fn parse(line: &str) -> Option<Self> {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut mount = mount.split(' ');
        let id = mount.next()?.parse().ok()?;
        let point = PathBuf::from(mount.nth(3)?.replace("\\040", " "));
        let options = mount.next()?;
        let mut file_system = file_system.split(' ');
        let (kind, source) = (file_system.next()?.to_owned(), file_system.next()?.to_owned());
        let options = format!("{options},{}", file_system.next().unwrap_or_default());
        Some(Self { id, point, kind, source, options })
    }
}

/// The device's directory in sysfs.
fn device_of(dir: &Path, mount: Option<&Mount>) -> Option<PathBuf> {
    let sys = |dev: u64| {
        let number = format!("/sys/dev/block/{}:{}", major(dev), minor(dev));
        fs::canonicalize(number).ok()
    };
    // btrfs and others give files a device number that no device has.
    let of_dir = fs::metadata(dir).ok().and_then(|metadata| sys(metadata.dev()));
    of_dir.or_else(|| {
        let source = Path::new(&mount?.source);
        let metadata = source.is_absolute().then(|| fs::metadata(source).ok())??;
        sys(metadata.rdev())
    })
}

/// The processor that took most of a disk's interrupts, if one queue serves all processors.
/// `/proc/interrupts` has a line for each interrupt: its number, then a count for each processor.
fn interrupt_core(disk: &Path) -> Option<usize> {
    if fs::read_dir(disk.join("mq")).ok()?.count() != 1 {
        return None;
    }
    let numbers = fs::read_dir(disk.join("device/../msi_irqs")).ok()?;
    let numbers: Vec<String> =
        numbers.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    let text = fs::read_to_string("/proc/interrupts").ok()?;
    let cores = text.lines().next()?.split_whitespace().count();
    let mut counts = vec![0_u64; cores];
    for line in text.lines().skip(1) {
        let Some((number, rest)) = line.trim().split_once(':') else { continue };
        if numbers.iter().any(|have| have == number) {
            let parsed = rest.split_whitespace().take(cores).map(|count| count.parse().ok());
            let each = counts.iter_mut().zip(parsed);
            each.for_each(|(sum, count)| *sum += count.unwrap_or(0));
        }
    }
    let (core, count) = counts.iter().enumerate().max_by_key(|(_, count)| **count)?;
    (*count > 0).then_some(core)
}

/// Tries it: what a file system says about itself is not always so.
fn direct_io(dir: &Path) -> bool {
    let path = dir.join(format!("probe-{}.tmp", std::process::id()));
    let mut options = OpenOptions::new();
    let written =
        open_direct(options.write(true).create(true).truncate(true), &path).and_then(|file| {
            file.write_all_at(Buf::zeroed(BLOCK_SIZE as usize).as_slice(), BLOCK_SIZE.into())
        });
    let _ = fs::remove_file(&path);
    match written {
        // A full disk says nothing about direct I/O. An engine that is there can be read.
        Err(error) if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {
            let file = open_direct(&mut OpenOptions::new(), &dir.join("engine.meta"));
            let mut block = Buf::zeroed(BLOCK_SIZE as usize);
            file.and_then(|file| file.read_exact_at(block.as_mut_slice(), 0)).is_ok()
        }
        written => written.is_ok(),
    }
}

/// The file, past the page cache, if the blocks of ours fit its alignment.
fn open_direct(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let flags = OFlags::DIRECT.bits().cast_signed();
    let file = options.read(true).custom_flags(flags).open(path)?;
    let stat = statx(&file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN);
    if let Ok(stat) = stat
        && stat.stx_mask & StatxFlags::DIOALIGN.bits() != 0
    {
        let divides = |align: u32| align != 0 && BLOCK_SIZE.is_multiple_of(align);
        if !divides(stat.stx_dio_mem_align) || !divides(stat.stx_dio_offset_align) {
            return Err(io::ErrorKind::Unsupported.into());
        }
    }
    Ok(file)
}

fn is_network(file_system: &str) -> bool {
    const NAMES: [&str; 14] = [
        "nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "afs", "lustre", "gfs2", "ocfs2",
        "coda", "fuse", "fuseblk",
    ];
    NAMES.contains(&file_system) || file_system.starts_with("fuse.")
}

/// Names of linux/magic.h, and of file systems that are not in it.
fn name_of_magic(magic: u64) -> String {
    let name = match magic {
        0xEF53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683E => "btrfs",
        0xCA45_1A4E => "bcachefs",
        0x2FC1_2FC1 => "zfs",
        0xF2F5_2010 => "f2fs",
        0x0102_1994 => "tmpfs",
        0x8584_58F6 => "ramfs",
        0x794C_7630 => "overlay",
        0x6969 => "nfs",
        0xFF53_4D42 => "cifs",
        0xFE53_4D42 => "smb3",
        0x0102_1997 => "9p",
        0x00C3_6400 => "ceph",
        0x6573_5546 => "fuse",
        0x6A65_6A63 => "virtiofs",
        0x3434 => "nilfs2",
        _ => return format!("{magic:#x}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_mountinfo_is_taken_apart() {
        let line = "36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 - ext3 /dev/root rw,barrier=0";
        let mount = Mount::parse(line).unwrap();
        assert_eq!((mount.id, &*mount.kind, &*mount.source), (36, "ext3", "/dev/root"));
        assert_eq!(mount.point, Path::new("/mnt 2"));
        assert_eq!(mount.options, "rw,noatime,rw,barrier=0");
        assert_eq!(Mount::parse("nonsense"), None);
    }

    #[test]
    fn memory_is_not_durable_and_an_option_may_make_a_disk_so() {
        let dir = tempfile::tempdir().unwrap();
        let mut host = Host::probe(dir.path());
        assert!(fs::read_dir(dir.path()).unwrap().next().is_none(), "probing leaves nothing");
        host.is_volatile = false;
        host.is_network = false;
        host.mount_options = Some("rw,relatime,nobarrier".to_owned());
        assert!(host.doubt().unwrap().contains("nobarrier"));
        host.mount_options = Some("rw,relatime,novolatile".to_owned());
        assert_eq!(host.doubt(), None);

        let memory = Host::probe(Path::new("/dev/shm"));
        if memory.file_system == "tmpfs" {
            assert!(!memory.durable);
            assert!(memory.why_not.unwrap().contains("memory"));
        }
    }

    #[test]
    fn a_place_that_is_not_there_is_unknown() {
        let host = Host::probe(Path::new("/nonexistent/dir"));
        assert!(!host.direct_io);
        assert_eq!((host.write_back, host.fua), (None, None));
    }

    #[test]
    fn a_second_opener_learns_who_holds_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let lock = DirLock::acquire(dir.path()).unwrap();
        // The ring's registration is such a second reference.
        let copy = lock.file().try_clone().unwrap();
        let refused = DirLock::acquire_within(dir.path(), Duration::ZERO).unwrap_err();
        let text = refused.to_string();
        assert!(text.contains(&format!("this process, process {}", std::process::id())), "{text}");
        drop(lock);
        DirLock::acquire_within(dir.path(), Duration::ZERO).unwrap();
        drop(copy);
    }

    #[test]
    fn directories_are_made_with_all_above_them() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b/c");
        make_dir(&deep).unwrap();
        make_dir(&deep).unwrap();
        assert!(deep.is_dir());
        fs::write(deep.join("file"), "").unwrap();
        assert!(matches!(make_dir(&deep.join("file/d")), Err(OpenError::Io { .. })));
    }
}
