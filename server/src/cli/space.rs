//! Where the space on the disk is, and the parts of logs.
//!
//! Not here: finding it out (the engine).

use oncelog::{LogSegment, LogSpace, SegmentSpace, ShardSpace};
use serde_json::{Value, json};

use super::fail::Fail;
use super::out::{Out, size, time};
use super::target::{DirArgs, open_dir};

/// Say where the space is: what keeps segments, and what each log takes
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Logs that keep the most dead bytes come first: truncate those.

Examples:
  oncelog space --dir data
  oncelog space --dir data --json | jq '.[].logs'")]
pub(super) struct Space {
    #[command(flatten)]
    dir: DirArgs,
}

pub(super) fn space(args: Space, out: &mut Out) -> Result<(), Fail> {
    let engine = open_dir(&args.dir.dir)?;
    let space = engine.space().wait()?;
    engine.close().wait()?;
    if out.is_json() {
        return out.value(&space.shards.iter().map(shard_json).collect());
    }
    out.bytes(space.to_string().as_bytes())
}

fn shard_json(shard: &ShardSpace) -> Value {
    json!({
        "shard": shard.shard.get(),
        "disk_bytes": shard.disk_bytes(),
        "live_bytes": shard.live_bytes(),
        "spares": shard.spares,
        "spare_bytes": shard.spare_bytes,
        "logs": shard.logs.iter().map(log_json).collect::<Vec<_>>(),
        "segments": shard.segments.iter().map(segment_json).collect::<Vec<_>>(),
    })
}

fn log_json(log: &LogSpace) -> Value {
    json!({
        "name": log.name,
        "live_bytes": log.live_bytes,
        "segments": log.segments,
        "keeps_bytes": log.keeps_bytes,
    })
}

fn segment_json(segment: &SegmentSpace) -> Value {
    let log = |range: &oncelog::LogRange| {
        json!({ "name": range.name, "first": range.first.get(), "next": range.next.get(),
                "bytes": range.bytes })
    };
    json!({
        "segment": segment.segment.get(),
        "sealed": segment.sealed,
        "disk_bytes": segment.disk_bytes,
        "live_bytes": segment.live_bytes,
        "dead_bytes": segment.dead_bytes(),
        "given_back": segment.given_back,
        "last_us": segment.last_us,
        "log_count": segment.log_count,
        "logs": segment.logs.iter().map(log).collect::<Vec<_>>(),
        "processors": segment.processors,
    })
}

/// List all segments, or the parts of a log
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The parts of a log can be read apart from each other, each from `first` up to `next`.

Examples:
  oncelog segments --dir data
  oncelog segments shop/orders --dir data --json")]
pub(super) struct Segments {
    /// The parts of this log
    log: Option<String>,
    #[command(flatten)]
    dir: DirArgs,
}

pub(super) fn segments(args: Segments, out: &mut Out) -> Result<(), Fail> {
    let engine = open_dir(&args.dir.dir)?;
    if let Some(log) = &args.log {
        let parts = engine.open_log(log).wait()?.segments().wait()?;
        engine.close().wait()?;
        if out.is_json() {
            return out.value(&parts.iter().map(part_json).collect());
        }
        return parts.iter().try_for_each(|part| out.line(part_text(part)));
    }
    let mut space = engine.space().wait()?;
    engine.close().wait()?;
    let mut all = Vec::new();
    for shard in &mut space.shards {
        shard.segments.sort_unstable_by_key(|segment| segment.segment);
        for segment in &shard.segments {
            if out.is_json() {
                let mut json = segment_json(segment);
                json["shard"] = shard.shard.get().into();
                all.push(json);
                continue;
            }
            let state = if segment.sealed { "sealed" } else { "being written" };
            let (disk, live) = (size(segment.disk_bytes), size(segment.live_bytes));
            let (shard, number, logs) = (shard.shard, segment.segment, segment.log_count);
            let size = format!("{disk} on disk, {live} live of {logs} logs");
            out.line(format_args!("shard {shard} segment {number}  {state}, {size}"))?;
        }
    }
    if out.is_json() { out.value(&all.into()) } else { Ok(()) }
}

fn part_json(part: &LogSegment) -> Value {
    json!({
        "segment": part.segment.get(),
        "sealed": part.sealed,
        "first": part.first.get(),
        "next": part.next.get(),
        "bytes": part.bytes,
        "first_us": part.first_us,
        "last_us": part.last_us,
    })
}

fn part_text(part: &LogSegment) -> String {
    let state = if part.sealed { "sealed" } else { "being written" };
    let LogSegment { segment, first, next, .. } = part;
    let (bytes, since, until) = (size(part.bytes), time(part.first_us), time(part.last_us));
    format!("segment {segment}  {first}..{next}, {bytes}, {since} to {until}, {state}")
}
