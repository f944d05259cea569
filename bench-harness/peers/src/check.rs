//! Whether an answer comes after the sync: the flushes that the block device has seen.
//!
//! ```text
//! n appends, one in flight, each on stable storage before its answer -> at least n flushes
//! ```
//!
//! Others that use the device add flushes, nothing takes any away: too few are a proof, enough are
//! none. Where the device writes through, has FUA, or does not count (partitions, device mapper),
//! nothing can be said; a control that surely syncs tells.
//!
//! Not here: proof by cutting the power.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use bench_harness::blocking::Write;
use bench_harness::meter;
use bench_harness::outcome::Figures;
use bench_harness::spec::{Spec, Work};
use bytes::Bytes;

use crate::registry::{self, Peer};

/// Appends of a check.
const APPENDS: u64 = 200;
/// Syncs of the control.
const CONTROLS: u64 = 20;
/// Fewer flushes for each operation, and it answers before it syncs.
const FLUSHES_MIN: f64 = 0.9;

fn flushes(dir: &Path) -> Result<u64> {
    let device = meter::device_of(dir).context("the directory is on no block device")?;
    Ok(meter::device_counts(&device)?.flushes)
}

/// Whether a sync of a file in `dir` is seen as a flush of the device.
pub(crate) fn flushes_are_seen(dir: &Path) -> Result<bool> {
    let path = dir.join("control");
    let mut file = fs::File::create(&path)?;
    let before = flushes(dir)?;
    for _ in 0..CONTROLS {
        file.write_all(&[1; 4096])?;
        file.sync_data()?;
    }
    let seen = flushes(dir)? - before;
    fs::remove_file(&path)?;
    Ok(seen as f64 >= FLUSHES_MIN * CONTROLS as f64)
}

/// Puts into the figures of a writing work what the flushes say.
pub(crate) fn note(spec: &Spec, figures: &mut Figures) {
    let in_flight = match spec.work {
        Work::Append { in_flight } | Work::Batch { in_flight, .. } => in_flight,
        Work::Commit { processors, .. } => processors,
        _ => return,
    };
    let Some(device) = figures.device.filter(|_| figures.operations > 0) else { return };
    let ratio = device.flushes as f64 / figures.operations as f64;
    figures.extra.insert("check/flushes_per_operation".to_owned(), ratio);
    if in_flight == 1 {
        let early = if ratio < FLUSHES_MIN { 1.0 } else { 0.0 };
        figures.extra.insert("check/acks_before_sync".to_owned(), early);
    }
}

/// Checks every peer in a process of its own and prints a line for each.
///
/// # Errors
/// Flushes are not seen in `dir`, or a peer fails.
pub(crate) fn all(dir: &Path) -> Result<()> {
    ensure!(
        flushes_are_seen(dir)?,
        "flushes of the device under {} are not seen (write through, FUA, a partition, or device \
         mapper); nothing can be said here",
        dir.display()
    );
    println!("{:<14} {:>10} {:>8}", "target", "operations", "flushes");
    let mut failed = Vec::new();
    for (peer, _) in registry::here() {
        let own = dir.join(format!("check-{}", peer.name));
        fs::create_dir_all(&own)?;
        let output = Command::new(std::env::current_exe()?)
            .args(["check-one", "--target", peer.name, "--dir"])
            .arg(&own)
            .stderr(Stdio::inherit())
            .output()?;
        fs::remove_dir_all(&own)?;
        print!("{}", String::from_utf8_lossy(&output.stdout));
        if !output.status.success() {
            failed.push(peer.name);
        }
    }
    ensure!(failed.is_empty(), "these failed: {}", failed.join(", "));
    Ok(())
}

/// Checks one peer.
///
/// # Errors
/// It fails.
pub(crate) fn one(peer: &Peer, dir: &Path) -> Result<()> {
    let store = (peer.open)(dir)?;
    let payload = Bytes::from(vec![7; 1024]);
    let before = flushes(dir)?;
    for _ in 0..APPENDS {
        store.write(&[Write::Append { log: 0, payload: payload.clone() }])?;
    }
    let seen = flushes(dir)? - before;
    let early = (seen as f64) < FLUSHES_MIN * APPENDS as f64;
    let verdict = if early { "acks before it syncs" } else { "durable before the ack" };
    println!("{:<14} {APPENDS:>10} {seen:>8}  {verdict}", peer.name);
    Ok(())
}
