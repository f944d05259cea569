//! raft-engine: the log store of TiKV. A log is a group; a processor's deltas are another one.
//!
//! A group has one writer there: entries carry their index, without a gap. Many writers of one log
//! therefore need a front, and the store is always behind `Grouped`, which keeps the order.
//!
//! Not here: purging; the log is shorter than the 10 GB at which that begins.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Mutex;

use anyhow::Result;
use bench_harness::blocking::{Store, Write};
use protobuf::well_known_types::BytesValue;
use raft_engine::{Config, Engine, LogBatch, MessageExt, ReadableSize};

use crate::items::{Kind, each_item};

/// Groups of processors begin here.
const PROCESSORS: u64 = 1 << 32;
/// Entries that are fetched at a time.
const FETCH: u64 = 512;
/// An entry begins with its index.
const INDEX_LEN: usize = 8;

pub(crate) struct RaftEngine {
    engine: Engine,
    /// The index of the next entry, for each group that was written to.
    next: Mutex<HashMap<u64, u64>>,
}

/// An entry: its index, then the record.
#[derive(Clone)]
struct Indexed;

impl MessageExt for Indexed {
    type Entry = BytesValue;

    fn index(entry: &BytesValue) -> u64 {
        let index = entry.get_value().first_chunk::<INDEX_LEN>();
        u64::from_le_bytes(*index.expect("we put it there"))
    }
}

impl RaftEngine {
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let config = Config {
            dir: dir.join("raft-engine").to_str().expect("a path in UTF-8").to_owned(),
            batch_compression_threshold: ReadableSize(0),
            ..Config::default()
        };
        Ok(Self { engine: Engine::open(config)?, next: Mutex::default() })
    }
}

impl Store for RaftEngine {
    fn write(&self, writes: &[Write]) -> Result<()> {
        let mut groups: HashMap<u64, Vec<BytesValue>> = HashMap::new();
        let mut batch = LogBatch::with_capacity(writes.len());
        let mut next = self.next.lock().expect("no panic");
        each_item(writes, |kind, id, bytes| {
            let group = match kind {
                Kind::Record => u64::from(id),
                Kind::Delta => PROCESSORS + u64::from(id),
                Kind::Position => {
                    let group = PROCESSORS + u64::from(id);
                    return batch.put(group, b"position".to_vec(), bytes.to_vec());
                }
            };
            let last = || self.engine.last_index(group).unwrap_or(0);
            let index = next.entry(group).or_insert_with(|| last() + 1);
            let mut value = Vec::with_capacity(INDEX_LEN + bytes.len());
            value.extend(index.to_le_bytes());
            value.extend(bytes);
            *index += 1;
            let mut entry = BytesValue::new();
            entry.set_value(value);
            groups.entry(group).or_default().push(entry);
            Ok(())
        })?;
        for (group, entries) in groups {
            batch.add_entries::<Indexed>(group, &entries)?;
        }
        self.engine.write(&mut batch, true)?;
        Ok(())
    }

    fn read_all(&self, log: u32, each: &mut dyn FnMut(&[u8])) -> Result<()> {
        let group = u64::from(log);
        let end = self.engine.last_index(group).map_or(0, |last| last + 1);
        let mut begin = self.engine.first_index(group).unwrap_or(end);
        let mut entries = Vec::new();
        while begin < end {
            let until = end.min(begin + FETCH);
            self.engine.fetch_entries_to::<Indexed>(group, begin, until, None, &mut entries)?;
            entries.drain(..).for_each(|entry| each(&entry.get_value()[INDEX_LEN..]));
            begin = until;
        }
        Ok(())
    }
}
