//! RocksDB: the log-structured merge tree that others are measured by. One column family.
//!
//! Not here: compression, which is off: the payloads are taken as incompressible.

use std::path::Path;

use anyhow::Result;
use bench_harness::blocking::{Store, Write};
use rocksdb::{DB, DBCompressionType, Direction, IteratorMode, Options, WriteBatch, WriteOptions};

use crate::items::{Keys, each_item, records_of};

pub(crate) struct RocksDb {
    database: DB,
    keys: Keys,
}

impl RocksDb {
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_compression_type(DBCompressionType::None);
        Ok(Self { database: DB::open(&options, dir.join("rocksdb"))?, keys: Keys::new() })
    }
}

impl Store for RocksDb {
    fn write(&self, writes: &[Write]) -> Result<()> {
        let mut batch = WriteBatch::default();
        each_item(writes, |kind, id, bytes| {
            batch.put(self.keys.next(kind, id), bytes);
            anyhow::Ok(())
        })?;
        let mut options = WriteOptions::default();
        options.set_sync(true);
        Ok(self.database.write_opt(batch, &options)?)
    }

    fn read_all(&self, log: u32, each: &mut dyn FnMut(&[u8])) -> Result<()> {
        let (low, high) = records_of(log);
        for entry in self.database.iterator(IteratorMode::From(&low, Direction::Forward)) {
            let (key, value) = entry?;
            if *key > high[..] {
                break;
            }
            each(&value);
        }
        Ok(())
    }
}
