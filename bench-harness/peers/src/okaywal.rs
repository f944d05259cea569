//! okaywal: a write-ahead log for other stores. An entry for each write, a chunk for each item.
//!
//! It is made to be emptied by checkpoints into another store; none are made here, since the
//! records are to stay. It has no reader: positions are taken down while it recovers, and `read_at`
//! reads a record at each (opening the file each time).
//!
//! Not here: reading what was written after opening.

use std::collections::HashMap;
use std::io::{self, Read, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex};

use anyhow::Result;
use bench_harness::blocking::{Store, Write};
use okaywal::{Configuration, Entry, EntryId, LogManager, LogPosition, SegmentReader};
use okaywal::{ReadChunkResult, WriteAheadLog};

use crate::items::{Kind, each_item};

/// Bytes that are filled with zeroes when a file is made, so that writes do not extend it.
const PREALLOCATED: u32 = 256 << 20;
/// A chunk begins with kind and id.
const HEADER_LEN: usize = 5;

pub(crate) struct OkayWal {
    wal: WriteAheadLog,
    found: Found,
}

/// Where the records of each log are.
type Found = Arc<Mutex<HashMap<u32, Vec<LogPosition>>>>;

#[derive(Debug)]
struct Manager {
    found: Found,
}

impl LogManager for Manager {
    fn recover(&mut self, entry: &mut Entry<'_>) -> io::Result<()> {
        let mut chunks = Vec::new();
        loop {
            match entry.read_chunk()? {
                ReadChunkResult::Chunk(mut chunk) => {
                    let position = chunk.log_position();
                    let bytes = chunk.read_all()?;
                    if !chunk.check_crc()? {
                        return Ok(());
                    }
                    let id = bytes.first_chunk::<HEADER_LEN>().expect("we put it there");
                    if id[0] == Kind::Record as u8 {
                        let log = u32::from_le_bytes([id[1], id[2], id[3], id[4]]);
                        chunks.push((log, position));
                    }
                }
                ReadChunkResult::EndOfEntry => break,
                ReadChunkResult::AbortedEntry => return Ok(()),
            }
        }
        let mut found = self.found.lock().expect("no panic");
        for (log, position) in chunks {
            found.entry(log).or_default().push(position);
        }
        Ok(())
    }

    fn checkpoint_to(
        &mut self,
        _last: EntryId,
        _entries: &mut SegmentReader,
        _wal: &WriteAheadLog,
    ) -> io::Result<()> {
        Err(io::Error::other("a checkpoint would drop records that are to stay"))
    }
}

impl OkayWal {
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let found = Found::default();
        let configuration = Configuration::default_for(dir.join("okaywal"))
            .preallocate_bytes(PREALLOCATED)
            .checkpoint_after_bytes(u64::MAX);
        let wal = configuration.open(Manager { found: Arc::clone(&found) })?;
        Ok(Self { wal, found })
    }
}

impl Store for OkayWal {
    fn write(&self, writes: &[Write]) -> Result<()> {
        let mut entry = self.wal.begin_entry()?;
        each_item(writes, |kind, id, bytes| {
            let len = u32::try_from(HEADER_LEN + bytes.len())?;
            let mut chunk = entry.begin_chunk(len)?;
            chunk.write_all(&[kind as u8])?;
            chunk.write_all(&id.to_le_bytes())?;
            chunk.write_all(bytes)?;
            chunk.finish()?;
            anyhow::Ok(())
        })?;
        entry.commit()?;
        Ok(())
    }

    fn read_all(&self, log: u32, each: &mut dyn FnMut(&[u8])) -> Result<()> {
        let positions = self.found.lock().expect("no panic").get(&log).cloned();
        let mut bytes = Vec::new();
        for position in positions.unwrap_or_default() {
            let mut chunk = self.wal.read_at(position)?;
            bytes.clear();
            chunk.read_to_end(&mut bytes)?;
            each(&bytes[HEADER_LEN..]);
        }
        Ok(())
    }
}
