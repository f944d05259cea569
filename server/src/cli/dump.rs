//! What stands in a segment's file, entry by entry, decoded.
//!
//! ```text
//! header block -> who it is -> Scan -> entry: control records, sections (records) .. hole .. end
//! ```
//!
//! The file is only read, and no lock is taken: it may belong to an engine that runs.
//!
//! Not here: what it means for the engine (`verify`).

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use oncelog::format::Place;
use oncelog::format::entry::{Entry, Flags, SectionHead};
use oncelog::format::header::{HeaderError, SegmentHeader, Superblock};
use oncelog::format::record::take_record;
use oncelog::limits::BLOCK_SIZE;
use oncelog::replay::control_records;
use oncelog::scan::{Scan, Step};
use oncelog::{Codec, Dlsn};
use serde_json::{Map, Value, json};

use super::control::decoded;
use super::fail::Fail;
use super::out::{Out, time};
use super::target::check_dir;
use super::values::put_bytes;

/// Bytes that are read at once.
const CHUNK_SIZE: usize = 1 << 20;

/// What stands first in a line of text; the rest is sorted.
const FIRST: [&str; 8] = ["kind", "entry", "log", "reader", "name", "sequence", "first", "offset"];

/// Decode a segment's file: entries, control records, records
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Ends with 1 if something in the file is damaged. The newest segment may be written meanwhile: what
comes after its last whole entry is its end.

Examples:
  oncelog dump --dir data --shard 0 --segment 1
  oncelog dump data/shard-000/segment-0000000000000001.log --records
  oncelog dump --dir data --shard 0 --segment 1 --json | jq 'select(.type == \"control\")'")]
pub(super) struct Dump {
    /// The file
    #[arg(required_unless_present = "dir", conflicts_with = "dir")]
    file: Option<PathBuf>,
    /// The data directory
    #[arg(long, value_name = "DIR", requires = "segment")]
    dir: Option<PathBuf>,
    /// The shard
    #[arg(long, value_name = "N", default_value_t = 0, requires = "dir")]
    shard: u16,
    /// The segment
    #[arg(long, value_name = "N", requires = "dir")]
    segment: Option<u64>,
    /// Print the records too
    #[arg(long)]
    records: bool,
}

pub(super) fn dump(args: Dump, out: &mut Out) -> Result<(), Fail> {
    let path = match (&args.file, &args.dir, args.segment) {
        (Some(file), ..) => file.clone(),
        (None, Some(dir), Some(segment)) => segment_path(dir, args.shard, segment)?,
        _ => unreachable!("clap wants a file, or a directory with a segment"),
    };
    let mut file = File::open(&path).map_err(Fail::io("cannot open", &path))?;
    let mut head = vec![0; 2 * BLOCK_SIZE as usize];
    let len = fill(&mut file, &mut head, &path)?;
    head.truncate(len);
    let mut dump = Dumping { out, records: args.records, wrong: Vec::new(), place: None };
    let mut scan = dump.header(&head, &path)?;
    scan.feed(head.get(BLOCK_SIZE as usize..).unwrap_or_default());
    let mut chunk = vec![0; CHUNK_SIZE];
    loop {
        let len = fill(&mut file, &mut chunk, &path)?;
        scan.feed(&chunk[..len]);
        let last = len < CHUNK_SIZE;
        dump.advance(&mut scan, last)?;
        if last {
            break;
        }
    }
    dump.end(&scan)?;
    match dump.wrong.first() {
        None => Ok(()),
        Some(first) => {
            let count = dump.wrong.len();
            Err(Fail::No(format!("{}: {count} things are damaged, first {first}", path.display())))
        }
    }
}

/// The file of a segment. Only the superblock says how many shards there are.
fn segment_path(dir: &Path, shard: u16, segment: u64) -> Result<PathBuf, Fail> {
    check_dir(dir)?;
    let path = dir.join(format!("shard-{shard:03}/segment-{segment:016x}.log"));
    if path.exists() {
        return Ok(path);
    }
    let meta = fs::read(dir.join("engine.meta")).map_err(Fail::io("cannot read", dir))?;
    let mut copies = meta.chunks(BLOCK_SIZE as usize).map(Superblock::decode);
    let shards = copies.find_map(Result::ok).map_or(String::new(), |superblock| {
        format!("; the engine has {} shards, from 0", superblock.shard_count)
    });
    Err(Fail::No(format!("{} is not there{shards}", path.display())))
}

fn fill(file: &mut File, bytes: &mut [u8], path: &Path) -> Result<usize, Fail> {
    let mut have = 0;
    while have < bytes.len() {
        match file.read(&mut bytes[have..]).map_err(Fail::io("cannot read", path))? {
            0 => break,
            len => have += len,
        }
    }
    Ok(have)
}

struct Dumping<'a> {
    out: &'a mut Out,
    records: bool,
    wrong: Vec<String>,
    /// Where a hole began.
    place: Option<u32>,
}

impl Dumping<'_> {
    /// Prints what the header says, and where the entries begin.
    fn header(&mut self, head: &[u8], path: &Path) -> Result<Scan, Fail> {
        let first = head.get(BLOCK_SIZE as usize..).and_then(Entry::parse);
        match SegmentHeader::decode(head) {
            Ok((header, digest)) => {
                let SegmentHeader { engine, shard, segment, .. } = header;
                self.print("segment", header_json(&header))?;
                let place = Place { engine, shard, segment, entry: 0, offset: BLOCK_SIZE };
                Ok(Scan::new(place, digest).of_tables())
            }
            Err(HeaderError::Newer(version)) => Err(Fail::Failed(format!(
                "{} has format version {version}: use a newer oncelog",
                path.display()
            ))),
            // The first entry says the same.
            Err(HeaderError::Invalid) => match first {
                Some(first) if first.head.place.offset == BLOCK_SIZE => {
                    self.wrong.push("its header".to_owned());
                    self.print("damaged", json!({ "what": "the header is not valid" }))?;
                    Ok(Scan::new(first.head.place, 0).unanchored().of_tables())
                }
                _ => Err(Fail::No(format!(
                    "{} is no segment, or its header and first entry are damaged",
                    path.display()
                ))),
            },
        }
    }

    fn advance(&mut self, scan: &mut Scan, last: bool) -> Result<(), Fail> {
        loop {
            match scan.next(last) {
                Step::Entry(entry, bytes) => self.entry(&entry, &bytes)?,
                Step::More => return Ok(()),
                Step::Hole => {
                    let begin = *self.place.get_or_insert(scan.place().offset);
                    if !scan.skip_hole(last) {
                        return Ok(());
                    }
                    self.place = None;
                    let end = scan.place().offset;
                    self.wrong.push(format!("no valid entry from {begin} to {end}"));
                    self.print("hole", json!({ "offset": begin, "end": end }))?;
                }
            }
        }
    }

    fn end(&mut self, scan: &Scan) -> Result<(), Fail> {
        let offset = self.place.unwrap_or(scan.place().offset);
        self.print("end", json!({ "offset": offset }))
    }

    fn entry(&mut self, entry: &Entry, bytes: &Bytes) -> Result<(), Fail> {
        let head = &entry.head;
        self.print(
            "entry",
            json!({ "entry": head.place.entry, "offset": head.place.offset,
                    "length": entry.length, "kind": kind(head.flags), "time_us": head.time_us,
                    "durable": head.durable, "digest": format!("{:016x}", entry.digest) }),
        )?;
        if let Some(section) = entry.control() {
            let part = part(section, bytes);
            let right = part.is_some_and(|part| section.matches(&head.place, part));
            match control_records(entry, bytes).filter(|_| right) {
                Some(controls) => {
                    for control in &controls {
                        let (kind, mut fields) = decoded(control);
                        fields.insert("kind".to_owned(), kind.into());
                        self.print("control", fields.into())?;
                    }
                }
                None => self.wrong.push(format!("control records of entry {}", head.place.entry)),
            }
        }
        entry.records().try_for_each(|section| self.section(entry, section, bytes))
    }

    fn section(&mut self, entry: &Entry, section: &SectionHead, bytes: &Bytes) -> Result<(), Fail> {
        let place = &entry.head.place;
        let part = part(section, bytes);
        let right = part.is_some_and(|part| section.matches(place, part));
        let codec = match section.codec {
            Codec::None => "none",
            Codec::Lz4 => "lz4",
            Codec::Zstd => "zstd",
        };
        self.print(
            "section",
            json!({ "log": section.log.get(), "first": section.first_sequence.get(),
                    "count": section.count, "first_txid": section.first_txid.get(),
                    "last_txid": section.last_txid.get(), "compression": codec,
                    "bytes": section.len, "raw_bytes": section.raw_len, "whole": right }),
        )?;
        if !right {
            self.wrong.push(format!(
                "records of log {} in entry {} (or given up, and their space given back)",
                section.log, place.entry
            ));
            return Ok(());
        }
        let begin = section.offset as usize;
        let stored = bytes.slice(begin..begin + section.len as usize);
        let raw = self.records.then(|| section.codec.unpack(&stored, section.raw_len)).flatten();
        let Some(mut raw) = raw else { return Ok(()) };
        for slot in 0..section.count {
            let Some((txid, payload)) = take_record(&mut raw) else { break };
            let mut record = Map::new();
            record.insert("log".to_owned(), section.log.get().into());
            let sequence = section.first_sequence.after(slot.into());
            record.insert("sequence".to_owned(), sequence.get().into());
            let dlsn = Dlsn::new(place.segment, place.entry, slot);
            record.insert("dlsn".to_owned(), dlsn.to_string().into());
            record.insert("txid".to_owned(), txid.get().into());
            put_bytes(&mut record, "payload", &payload);
            self.print("record", record.into())?;
        }
        Ok(())
    }

    /// An object with its type; as text, indented by what it is a part of.
    fn print(&mut self, what: &str, value: Value) -> Result<(), Fail> {
        let Value::Object(fields) = value else { unreachable!("only objects are printed") };
        if self.out.is_json() {
            let mut object = Map::new();
            object.insert("type".to_owned(), what.into());
            object.extend(fields);
            return self.out.value(&object.into());
        }
        let indent = match what {
            "control" | "section" => "  ",
            "record" => "    ",
            _ => "",
        };
        let mut line = format!("{indent}{what}");
        let place = |key: &str| match key {
            _ if key == what => 0,
            _ => 1 + FIRST.iter().position(|first| *first == key).unwrap_or(FIRST.len()),
        };
        let mut sorted: Vec<_> = fields.iter().filter(|(_, value)| !value.is_null()).collect();
        sorted.sort_by_key(|(key, _)| place(key));
        for (key, value) in sorted {
            if key == "kind" || key == what {
                let bare = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                line.push_str(&format!(" {bare}"));
                continue;
            }
            line.push_str(&match value.as_u64().filter(|_| key.ends_with("_us")) {
                Some(time_us) => format!(" {} {}", key.trim_end_matches("_us"), time(time_us)),
                None => format!(" {key} {value}"),
            });
        }
        self.out.line(line)
    }
}

fn part<'a>(section: &SectionHead, bytes: &'a Bytes) -> Option<&'a [u8]> {
    let begin = section.offset as usize;
    bytes.get(begin..begin + section.len as usize)
}

fn kind(flags: Flags) -> &'static str {
    match flags {
        Flags::MANIFEST => "manifest",
        Flags::MANIFEST_END => "manifest_end",
        Flags::SEAL => "seal",
        Flags::CLOSE => "close",
        Flags::WATERMARK => "watermark",
        _ => "data",
    }
}

fn header_json(header: &SegmentHeader) -> Value {
    let engine: String = header.engine.iter().map(|byte| format!("{byte:02x}")).collect();
    json!({
        "shard": header.shard.get(),
        "segment": header.segment.get(),
        "version": header.version,
        "engine": engine,
        "segment_size": header.segment_size,
        "created_us": header.created_us,
        "previous": header.previous.get(),
        "previous_end": header.previous_end,
    })
}
