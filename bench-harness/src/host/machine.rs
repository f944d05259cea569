//! Facts about the machine: kernel, processors, memory, io_uring, and who else is at work.
//!
//! Invariant: what is parsed comes in as text, so each parser has a test without such a machine.
//!
//! Not here: disks.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use nix::sys::resource::{Resource, getrlimit};

use super::{count_of_list, read, size};
use crate::outcome::Fact;
use crate::raw;

const CPU: &str = "/sys/devices/system/cpu";
/// Locked memory that is enough for the buffers of many shards.
const MEMLOCK_ENOUGH: u64 = 64 << 20;
/// Waking from an idle state that takes longer than this is seen in a durable write's latency.
const IDLE_EXIT_US: u64 = 50;

pub(super) fn facts() -> Vec<Fact> {
    let cpuinfo = read("/proc/cpuinfo").unwrap_or_default();
    let found = [
        kernel(),
        processors(&cpuinfo),
        numa(),
        smt(),
        governor(),
        turbo(),
        idle(),
        virtual_machine(&cpuinfo),
        clock(),
        memory(),
        huge_pages(),
        memlock(),
        Some(ring()),
        load(),
        steal(),
    ];
    found.into_iter().flatten().collect()
}

fn kernel() -> Option<Fact> {
    Some(Fact::new("kernel", format!("Linux {}", read("/proc/sys/kernel/osrelease")?), None))
}

fn processors(cpuinfo: &str) -> Option<Fact> {
    let online = count_of_list(&read(format!("{CPU}/online"))?);
    let allowed = std::thread::available_parallelism().map_or(online, usize::from);
    let model = field(cpuinfo, "model name").unwrap_or(std::env::consts::ARCH);
    let advice = (allowed < online).then(|| {
        "this process may not use all of them (affinity or quota): say so beside figures".to_owned()
    });
    let ours = if allowed < online { format!(", {allowed} for us") } else { String::new() };
    Some(Fact::new("processors", format!("{online} ({model}){ours}"), advice))
}

fn numa() -> Option<Fact> {
    let nodes = count_of_list(&read("/sys/devices/system/node/online")?);
    let advice = (nodes > 1).then(|| {
        "keep program and device on one node: numactl --cpunodebind=N --membind=N, N from \
         /sys/block/<disk>/device/numa_node (or device/device/numa_node)"
            .to_owned()
    });
    Some(Fact::new("NUMA nodes", nodes.to_string(), advice))
}

fn smt() -> Option<Fact> {
    let active = read(format!("{CPU}/smt/active"))? == "1";
    let advice = active.then(|| {
        "two processors share one core: pin shards to different cores (lscpu -e shows them)"
            .to_owned()
    });
    Some(Fact::new("SMT", if active { "on" } else { "off" }, advice))
}

fn governor() -> Option<Fact> {
    let mut governors = BTreeSet::new();
    for cpu in fs::read_dir(CPU).ok()?.flatten() {
        governors.extend(read(cpu.path().join("cpufreq/scaling_governor")));
    }
    let governors: Vec<String> = governors.into_iter().collect();
    if governors.is_empty() {
        return Some(Fact::new("cpu governor", "not known (the host of a guest has it)", None));
    }
    let performance = governors == ["performance"];
    let advice = (!performance).then(|| "set it: cpupower frequency-set -g performance".to_owned());
    Some(Fact::new("cpu governor", governors.join(", "), advice))
}

fn turbo() -> Option<Fact> {
    let intel = read(format!("{CPU}/intel_pstate/no_turbo")).map(|off| off == "0");
    let on = intel.or_else(|| read(format!("{CPU}/cpufreq/boost")).map(|on| on == "1"))?;
    let advice = on.then(|| {
        "clock rates follow the heat: for runs that are compared, turn it off \
         (intel_pstate/no_turbo = 1, or cpufreq/boost = 0), or trust ratios only"
            .to_owned()
    });
    Some(Fact::new("turbo", if on { "on" } else { "off" }, advice))
}

/// The deepest idle state that is allowed.
fn idle() -> Option<Fact> {
    let mut deepest = (0, "none".to_owned());
    for state in fs::read_dir(format!("{CPU}/cpu0/cpuidle")).ok()?.flatten() {
        let state = state.path();
        let latency: Option<u64> = read(state.join("latency")).and_then(|text| text.parse().ok());
        if let (Some(latency), Some(name)) = (latency, read(state.join("name")))
            && latency >= deepest.0
            && read(state.join("disable")).is_none_or(|disabled| disabled == "0")
        {
            deepest = (latency, name);
        }
    }
    let (latency, name) = deepest;
    let advice = (latency > IDLE_EXIT_US).then(|| {
        format!(
            "an idle processor needs {latency} µs to wake, as long as a durable write: try \
             cpupower idle-set -D {IDLE_EXIT_US}"
        )
    });
    Some(Fact::new("deepest idle state", format!("{name}, {latency} µs to wake"), advice))
}

fn virtual_machine(cpuinfo: &str) -> Option<Fact> {
    let dmi = |name: &str| read(Path::new("/sys/class/dmi/id").join(name));
    let product = [dmi("sys_vendor"), dmi("product_name"), read("/sys/hypervisor/type")];
    let product: Vec<String> = product.into_iter().flatten().collect();
    let guest = field(cpuinfo, "flags").is_some_and(|flags| has_word(flags, "hypervisor"))
        || Path::new("/sys/hypervisor/type").exists();
    let advice = guest.then(|| {
        "neighbours and the host's disk cache are in the figures: repeat rounds, read ratios"
            .to_owned()
    });
    let value = if guest { "yes" } else { "no sign of it" };
    let about =
        if product.is_empty() { String::new() } else { format!(" ({})", product.join(" ")) };
    Some(Fact::new("virtual machine", format!("{value}{about}"), advice))
}

fn clock() -> Option<Fact> {
    let source = read("/sys/devices/system/clocksource/clocksource0/current_clocksource")?;
    let quick = ["tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter"];
    let advice = (!quick.contains(&&*source)).then(|| {
        "reading this clock is a system call or slower, and each operation reads it twice"
            .to_owned()
    });
    Some(Fact::new("clock", source, advice))
}

fn memory() -> Option<Fact> {
    let meminfo = read("/proc/meminfo")?;
    let (total, available) = (kib(&meminfo, "MemTotal")?, kib(&meminfo, "MemAvailable")?);
    Some(Fact::new("memory", format!("{}, {} available", size(total), size(available)), None))
}

fn huge_pages() -> Option<Fact> {
    let meminfo = read("/proc/meminfo")?;
    let reserved = field(&meminfo, "HugePages_Total")?;
    let transparent = read("/sys/kernel/mm/transparent_hugepage/enabled");
    let transparent = transparent.as_deref().and_then(chosen).unwrap_or("not there");
    let each = size(kib(&meminfo, "Hugepagesize")?);
    let value = format!("{reserved} of {each} reserved, transparent: {transparent}");
    Some(Fact::new("huge pages", value, None))
}

fn memlock() -> Option<Fact> {
    let (limit, _) = getrlimit(Resource::RLIMIT_MEMLOCK).ok()?;
    let unlimited = limit == nix::libc::RLIM_INFINITY;
    let exempt = may_lock(&read("/proc/self/status")?);
    let advice = (!unlimited && !exempt && limit < MEMLOCK_ENOUGH).then(|| {
        "buffers may be refused registration, and writes cost more: ulimit -l unlimited".to_owned()
    });
    let value = if unlimited { "unlimited".to_owned() } else { size(limit) };
    let value = if exempt { format!("{value} (does not bind this process)") } else { value };
    Some(Fact::new("RLIMIT_MEMLOCK", value, advice))
}

/// A ring is really set up: a sysctl is not all that can stand in the way.
fn ring() -> Fact {
    let disabled = read("/proc/sys/kernel/io_uring_disabled");
    match raw::ring(8) {
        Ok((ring, flags)) => {
            let newest = flags.contains("DEFER_TASKRUN");
            let advice = (!newest)
                .then(|| "Linux 6.1 and newer wake less (DEFER_TASKRUN): use one".to_owned());
            drop(ring);
            Fact::new("io_uring", format!("works, flags {flags}"), advice)
        }
        Err(error) => {
            let advice = match disabled.as_deref() {
                Some("1" | "2") => "allow it: sysctl kernel.io_uring_disabled=0",
                _ => {
                    "the kernel is too old, or a seccomp profile forbids it (containers: \
                     --security-opt seccomp=unconfined, or a profile that allows io_uring_*)"
                }
            };
            Fact::new("io_uring", format!("refused: {error}"), Some(advice.to_owned()))
        }
    }
}

fn load() -> Option<Fact> {
    let text = read("/proc/loadavg")?;
    let averages: Vec<&str> = text.split(' ').take(3).collect();
    let busy = averages.first()?.parse::<f64>().ok()? > 0.5;
    let advice = busy
        .then(|| "something else was at work in the last minute: wait for it to end".to_owned());
    Some(Fact::new("load (1, 5, 15 min)", averages.join(" "), advice))
}

fn steal() -> Option<Fact> {
    let share = steal_share(&read("/proc/stat")?)?;
    let advice = (share > 0.01).then(|| {
        "the hypervisor gives processor time to others: latencies above p99 are partly theirs"
            .to_owned()
    });
    Some(Fact::new("steal since boot", format!("{:.2} %", share * 100.0), advice))
}

/// The value of `name : value`, of the first such line.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let value = |line: &'a str| {
        let (have, value) = line.split_once(':')?;
        (have.trim() == name).then(|| value.trim())
    };
    text.lines().find_map(value)
}

/// A field of `/proc/meminfo` that is given in kB, in bytes.
fn kib(text: &str, name: &str) -> Option<u64> {
    Some(field(text, name)?.strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

fn has_word(text: &str, word: &str) -> bool {
    text.split_whitespace().any(|have| have == word)
}

/// What stands in brackets: `always [madvise] never`.
pub(super) fn chosen(text: &str) -> Option<&str> {
    Some(text.split_once('[')?.1.split_once(']')?.0)
}

/// Whether `/proc/self/status` shows `CAP_IPC_LOCK`.
fn may_lock(status: &str) -> bool {
    const CAP_IPC_LOCK: u32 = 14;
    let mask = field(status, "CapEff").and_then(|mask| u64::from_str_radix(mask, 16).ok());
    mask.is_some_and(|mask| mask >> CAP_IPC_LOCK & 1 == 1)
}

/// The share of all time that was stolen, from `/proc/stat`: user, nice, system, idle, iowait, irq,
/// softirq, steal; what guests used is in user already.
fn steal_share(stat: &str) -> Option<f64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let times: Vec<u64> = line.split_whitespace().take(8).flat_map(str::parse).collect();
    let total: u64 = times.iter().sum();
    (times.len() == 8 && total > 0).then(|| times[7] as f64 / total as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let cpuinfo = "processor\t: 0\nmodel\t\t: 17\nmodel name\t: AMD EPYC\nflags\t\t: fpu \
                       hypervisor lahf_lm\n\nprocessor\t: 1\nmodel name\t: other\n";
        assert_eq!(field(cpuinfo, "model name"), Some("AMD EPYC"));
        assert!(has_word(field(cpuinfo, "flags").unwrap(), "hypervisor"));
        assert!(!has_word("lahf_lm hypervisor_x", "hypervisor"));
        let meminfo = "MemTotal:       24684084 kB\nHugePages_Total:       4\n";
        assert_eq!(kib(meminfo, "MemTotal"), Some(24_684_084 * 1024));
        assert_eq!(kib(meminfo, "HugePages_Total"), None, "it is a number of pages");
    }

    #[test]
    fn what_is_chosen_stands_in_brackets() {
        assert_eq!(chosen("always [madvise] never"), Some("madvise"));
        assert_eq!(chosen("none"), None);
    }

    #[test]
    fn the_right_to_lock_memory_is_bit_14() {
        assert!(may_lock("Name:\tx\nCapEff:\t000001ffffffffff\n"));
        assert!(may_lock("CapEff:\t0000000000004000\n"));
        assert!(!may_lock("CapEff:\t000001ffffffbfff\nCapBnd:\t000001ffffffffff\n"));
    }

    #[test]
    fn stolen_time_is_the_eighth_of_all_processors_together() {
        let stat = "cpu  50 0 20 100 10 0 10 10 40 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        assert_eq!(steal_share(stat), Some(0.05));
        assert_eq!(steal_share("cpu  1 2 3\n"), None);
    }
}
