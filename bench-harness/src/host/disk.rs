//! Facts about the place of a directory: file system, device, and how the device answers.
//!
//! ```text
//! dir -> device number -> /sys/dev/block -> partition? its disk -> stack? the disks under it
//! ```
//!
//! Invariant: what is parsed comes in as text.
//!
//! Not here: what the engine makes of such a place (`oncelog::Host`, asked here).

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::libc;
use oncelog::Host;
use rustix::fs::{AtFlags, StatxFlags, statx};

use super::machine::chosen;
use super::{free_space, host_refuses, no_device, read, size};
use crate::meter;
use crate::outcome::Fact;

pub(super) fn facts(dir: &Path) -> Vec<Fact> {
    let host = Host::probe(dir);
    let mut facts = vec![file_system(&host), direct_io(dir, &host)];
    if let Ok(free) = free_space(dir) {
        let advice = (free < 8 << 30).then(|| "a suite needs some gigabytes".to_owned());
        facts.push(Fact::new("free space", size(free), advice));
    }
    let Some(device) = device(dir, &host) else {
        facts.push(Fact::new("device", "not known", None));
        return facts;
    };
    let disks = disks(&device);
    if disks.len() != 1 || disks[0] != device {
        let under: Vec<String> = disks.iter().map(|disk| name(disk)).collect();
        let value = format!("{} on {}", name(&device), under.join(", "));
        facts.push(Fact::new("device stack", value, None));
    }
    facts.extend(disks.iter().flat_map(|disk| of_disk(disk, disks.len() > 1)));
    if let Some(queues) = read("/sys/module/nvme/parameters/poll_queues") {
        facts.push(Fact::new("nvme poll queues", queues, None));
    }
    facts
}

fn file_system(host: &Host) -> Fact {
    let source = host.source.as_deref().unwrap_or("?");
    let options = host.mount_options.as_deref().unwrap_or("?");
    let value = format!("{} on {source} ({options})", host.file_system);
    let cow = host.is_cow.then(|| {
        "each write goes to a new place, so durable writes cost more: XFS or ext4 are quicker"
            .to_owned()
    });
    let overlay = (host.file_system == "overlay").then(|| {
        "this is a container's layer: give it a volume on the device to measure".to_owned()
    });
    let no_device = no_device(host)
        .map(|why| format!("{why}: figures say nothing about a device; choose another directory"));
    let advice = no_device.or_else(|| host.why_not.clone()).or(overlay).or(cow);
    Fact::new("file system", value, advice)
}

fn direct_io(dir: &Path, host: &Host) -> Fact {
    if let Some(why) = host_refuses(host) {
        let advice = "use a local file system with direct I/O, and a directory that is yours";
        return Fact::new("direct I/O", format!("no: {why}"), Some(advice.to_owned()));
    }
    let value = match alignment(dir) {
        Some((memory, offset)) => format!("works, memory by {memory}, offsets by {offset}"),
        None => "works, the kernel does not tell the alignment".to_owned(),
    };
    Fact::new("direct I/O", value, None)
}

/// What direct I/O asks of addresses and offsets, told since Linux 6.1.
fn alignment(dir: &Path) -> Option<(u32, u32)> {
    let path = dir.join(format!("bench-harness-{}.tmp", std::process::id()));
    let file = File::create_new(&path).ok()?;
    let stat = statx(&file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).ok();
    let _ = fs::remove_file(&path);
    let stat = stat.filter(|stat| stat.stx_mask & StatxFlags::DIOALIGN.bits() != 0)?;
    Some((stat.stx_dio_mem_align, stat.stx_dio_offset_align))
}

/// The directory in `/sys` of the block device under `dir`.
fn device(dir: &Path, host: &Host) -> Option<PathBuf> {
    meter::device_of(dir).ok().or_else(|| {
        // btrfs and others give files a number that no device has.
        let number = fs::metadata(host.source.as_ref()?).ok()?.rdev();
        let (major, minor) = (libc::major(number), libc::minor(number));
        fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()
    })
}

/// The disks that a device stands on: itself, or those of the partition, mapping or RAID.
fn disks(device: &Path) -> Vec<PathBuf> {
    if device.join("partition").exists() {
        return device.parent().map(disks).unwrap_or_default();
    }
    let below = fs::read_dir(device.join("slaves")).into_iter().flatten().flatten();
    let below = below.filter_map(|below| fs::canonicalize(below.path()).ok());
    let mut found: Vec<PathBuf> = below.flat_map(|below| disks(&below)).collect();
    found.sort();
    found.dedup();
    if found.is_empty() { vec![device.to_owned()] } else { found }
}

fn name(device: &Path) -> String {
    device.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn of_disk(disk: &Path, one_of_many: bool) -> Vec<Fact> {
    let queue = |name: &str| read(disk.join("queue").join(name));
    let label = name(disk);
    let title = |what: &str| {
        if one_of_many { format!("{what} of {label}") } else { what.to_owned() }
    };
    let turns = queue("rotational").is_some_and(|turns| turns == "1") && !is_virtual(disk);
    let advice = turns.then(|| "a disk that turns: a durable write waits for it".to_owned());
    let mut facts = vec![Fact::new(&title("device"), model(disk), advice)];
    if let Some(cache) = queue("write_cache") {
        let (value, advice) = write_cache(&cache, queue("fua").as_deref());
        facts.push(Fact::new(&title("write cache"), value, advice.map(str::to_owned)));
    }
    if let Some(all) = queue("scheduler") {
        let scheduler = chosen(&all).unwrap_or(&all);
        let advice = (scheduler != "none" && !turns).then(|| {
            format!(
                "it costs time and helps no solid-state disk: echo none > \
                     /sys/block/{label}/queue/scheduler"
            )
        });
        facts.push(Fact::new(&title("I/O scheduler"), scheduler, advice));
    }
    let blocks = queue("logical_block_size").zip(queue("physical_block_size"));
    if let Some((logical, physical)) = blocks {
        let value = format!("{logical} logical, {physical} physical");
        facts.push(Fact::new(&title("block size"), value, None));
    }
    if let Some(requests) = queue("nr_requests") {
        let hardware = fs::read_dir(disk.join("mq")).map_or(0, Iterator::count);
        let polled = queue("io_poll").is_some_and(|poll| poll == "1");
        let polled = if polled { "polled" } else { "not polled" };
        let value = format!("{hardware} of {requests} requests, {polled}");
        facts.push(Fact::new(&title("queues"), value, None));
    }
    facts.extend(interrupts(disk, &title("interrupts")));
    facts
}

fn model(disk: &Path) -> String {
    let read = |name: &str| read(disk.join("device").join(name));
    // A guest's disk has a number for a vendor.
    let vendor = read("vendor").filter(|vendor| !vendor.starts_with("0x"));
    let words = [vendor, read("model"), driver(disk)];
    let words: Vec<String> = words.into_iter().flatten().collect();
    let sectors = super::read(disk.join("size")).and_then(|size| size.parse::<u64>().ok());
    let bytes = sectors.map_or("size not known".to_owned(), |sectors| size(sectors * 512));
    format!("{}: {}, {bytes}", name(disk), words.join(" "))
}

/// Whether a hypervisor made it: then it says that it turns, whatever is below.
fn is_virtual(disk: &Path) -> bool {
    let driver = driver(disk).unwrap_or_default();
    ["virtio", "vbd", "xen", "hv_", "vmw"].iter().any(|start| driver.starts_with(start))
}

fn driver(disk: &Path) -> Option<String> {
    fs::canonicalize(disk.join("device/driver")).ok().map(|driver| name(&driver))
}

/// What a durable write costs there, and what to know about it.
fn write_cache(cache: &str, fua: Option<&str>) -> (String, Option<&'static str>) {
    match (cache, fua) {
        ("write through", _) => {
            ("write through: a write is durable when it completes".into(), None)
        }
        (_, Some("1")) => (format!("{cache}, FUA: a durable write is one request"), None),
        _ => (
            format!("{cache}, no FUA: a durable write is a write and a flush"),
            Some(
                "durable writes flush the whole cache, others' data too; drives with power-loss \
                 protection have no such cache or FUA",
            ),
        ),
    }
}

/// An interrupt of a device: its name, and how often each processor took it.
#[derive(Debug, PartialEq)]
struct Interrupt {
    name: String,
    counts: Vec<u64>,
}

impl Interrupt {
    /// The processor that took most.
    fn processor(&self) -> Option<usize> {
        let (processor, count) = self.counts.iter().enumerate().max_by_key(|(_, count)| **count)?;
        (*count > 0).then_some(processor)
    }
}

fn interrupts(disk: &Path, title: &str) -> Option<Fact> {
    let own = disk.ancestors().find_map(|above| fs::read_dir(above.join("msi_irqs")).ok());
    let numbers: Vec<String> = own
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    // With multipath an NVMe disk has no controller above it: its interrupts are known by name.
    let disk = name(disk);
    let controller = disk.strip_prefix("nvme").and_then(|rest| rest.split_once('n'));
    let controller = controller.map(|(number, _)| format!("nvme{number}q"));
    let text = read("/proc/interrupts")?;
    let mut found = parse_interrupts(&text, |number, name| {
        numbers.iter().any(|have| have == number)
            || controller.as_ref().is_some_and(|controller| name.starts_with(controller))
    });
    drop_rare(&mut found);
    summary(&found).map(|(value, advice)| Fact::new(title, value, advice))
}

/// The lines of `/proc/interrupts` that are wanted, by number and name. Each has a number, a count
/// for each processor, and words that end with the name.
fn parse_interrupts(text: &str, wanted: impl Fn(&str, &str) -> bool) -> Vec<Interrupt> {
    let mut lines = text.lines();
    let processors = lines.next().map_or(0, |head| head.split_whitespace().count());
    let parse = |line: &str| {
        let (number, rest) = line.split_once(':')?;
        let name = rest.split_whitespace().next_back()?;
        if !wanted(number.trim(), name) {
            return None;
        }
        let counts = rest.split_whitespace().take(processors).map(str::parse);
        Some(Interrupt { name: name.to_owned(), counts: counts.collect::<Result<_, _>>().ok()? })
    };
    lines.filter_map(parse).collect()
}

/// Leaves those that data comes with: a device has others, for changes of itself.
fn drop_rare(found: &mut Vec<Interrupt>) {
    let sum = |line: &Interrupt| line.counts.iter().sum::<u64>();
    let most = found.iter().map(sum).max().unwrap_or(0);
    found.retain(|line| sum(line) > 0 && sum(line) >= most / 1000);
}

/// Where the interrupts go, in few words.
fn summary(found: &[Interrupt]) -> Option<(String, Option<String>)> {
    const LISTED: usize = 4;
    let mut processors: Vec<usize> = found.iter().filter_map(Interrupt::processor).collect();
    let all = found.first()?.counts.len();
    let value = if found.len() <= LISTED {
        let each = found.iter().zip(&processors);
        let each = each.map(|(line, processor)| format!("{} on CPU {processor}", line.name));
        each.collect::<Vec<_>>().join(", ")
    } else {
        let used = {
            let mut used = processors.clone();
            used.sort_unstable();
            used.dedup();
            used.len()
        };
        format!("{} in use, on {used} CPUs", found.len())
    };
    processors.dedup();
    let advice = match processors[..] {
        [only] if all > 1 => Some(format!(
            "all come to CPU {only}: a busy program there delays every durable write, so keep \
             others off it"
        )),
        _ => None,
    };
    Some((value, advice))
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERRUPTS: &str = "           CPU0       CPU1
 28:          0          0 PCI-MSIX-0000:00:01.0   0-edge      virtio0-config
 35:          0          1 PCI-MSIX-0000:00:02.0   0-edge      virtio1-config
 36:         12   11654471 PCI-MSIX-0000:00:02.0   1-edge      virtio1-req.0
 60:       9000          7 PCI-MSIX-0000:00:04.0   1-edge      nvme0q1
NMI:          0          0   Non-maskable interrupts
ERR:          0
";

    fn line(name: &str, counts: &[u64]) -> Interrupt {
        Interrupt { name: name.to_owned(), counts: counts.to_vec() }
    }

    #[test]
    fn interrupts_are_found_by_number_or_name_with_a_count_for_each_processor() {
        let wanted = |number: &str, name: &str| number == "36" || name.starts_with("nvme0q");
        let found = parse_interrupts(INTERRUPTS, wanted);
        assert_eq!(found, [line("virtio1-req.0", &[12, 11_654_471]), line("nvme0q1", &[9000, 7])]);
        let processors: Vec<_> = found.iter().map(Interrupt::processor).collect();
        assert_eq!(processors, [Some(1), Some(0)]);
        assert_eq!(line("unused", &[0, 0]).processor(), None);
    }

    #[test]
    fn interrupts_that_no_data_comes_with_are_left_out() {
        let mut found =
            vec![line("config", &[0, 1]), line("req.0", &[5000, 0]), line("unused", &[0])];
        drop_rare(&mut found);
        assert_eq!(found, [line("req.0", &[5000, 0])]);
    }

    #[test]
    fn one_processor_that_takes_all_interrupts_is_worth_a_word() {
        let (value, advice) = summary(&[line("req.0", &[0, 5])]).unwrap();
        assert_eq!(value, "req.0 on CPU 1");
        assert!(advice.unwrap().contains("CPU 1"));
        let spread: Vec<Interrupt> = (0..8)
            .map(|cpu| line("q", &(0..8).map(|c| u64::from(c == cpu)).collect::<Vec<_>>()))
            .collect();
        assert_eq!(summary(&spread), Some(("8 in use, on 8 CPUs".to_owned(), None)));
        assert_eq!(summary(&[line("req.0", &[5])]).unwrap().1, None, "there is only one");
        assert_eq!(summary(&[]), None);
    }

    #[test]
    fn only_a_volatile_cache_without_fua_costs_a_flush() {
        assert!(write_cache("write back", Some("0")).0.contains("and a flush"));
        assert!(write_cache("write back", Some("0")).1.is_some());
        assert!(write_cache("write back", Some("1")).0.contains("one request"));
        assert_eq!(write_cache("write through", Some("0")).1, None);
    }
}
