//! redb: a copy-on-write B-tree in Rust. One table, a transaction for each write.
//!
//! Not here: its mode for quick repair, which is off as it is by default.

use std::path::Path;

use anyhow::Result;
use bench_harness::blocking::{Store, Write};
use redb::{Database, Durability, ReadableDatabase, TableDefinition};

use crate::items::{Keys, each_item, records_of};

const ITEMS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("items");

pub(crate) struct Redb {
    database: Database,
    keys: Keys,
}

impl Redb {
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let store = Self { database: Database::create(dir.join("redb"))?, keys: Keys::new() };
        store.write(&[])?; // makes the table
        Ok(store)
    }
}

impl Store for Redb {
    fn write(&self, writes: &[Write]) -> Result<()> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        let mut table = transaction.open_table(ITEMS)?;
        each_item(writes, |kind, id, bytes| {
            table.insert(&self.keys.next(kind, id)[..], bytes)?;
            anyhow::Ok(())
        })?;
        drop(table);
        Ok(transaction.commit()?)
    }

    fn read_all(&self, log: u32, each: &mut dyn FnMut(&[u8])) -> Result<()> {
        let (low, high) = records_of(log);
        let table = self.database.begin_read()?.open_table(ITEMS)?;
        for entry in table.range(&low[..]..=&high[..])? {
            each(entry?.1.value());
        }
        Ok(())
    }
}
