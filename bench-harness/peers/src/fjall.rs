//! fjall: a log-structured merge tree in Rust. One keyspace, a batch for each write.
//!
//! Not here: compression, which is off: the payloads are taken as incompressible.

use std::path::Path;

use anyhow::Result;
use bench_harness::blocking::{Store, Write};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use crate::items::{Keys, each_item, records_of};

pub(crate) struct Fjall {
    database: Database,
    keyspace: Keyspace,
    keys: Keys,
}

impl Fjall {
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let database = Database::builder(dir.join("fjall")).open()?;
        let keyspace = database.keyspace("items", KeyspaceCreateOptions::default)?;
        Ok(Self { database, keyspace, keys: Keys::new() })
    }
}

impl Store for Fjall {
    fn write(&self, writes: &[Write]) -> Result<()> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
        each_item(writes, |kind, id, bytes| {
            batch.insert(&self.keyspace, self.keys.next(kind, id), bytes);
            anyhow::Ok(())
        })?;
        Ok(batch.commit()?)
    }

    fn read_all(&self, log: u32, each: &mut dyn FnMut(&[u8])) -> Result<()> {
        let (low, high) = records_of(log);
        for entry in self.keyspace.range(low..=high) {
            each(&entry.value()?);
        }
        Ok(())
    }
}
