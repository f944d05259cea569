//! SQLite in WAL mode: one connection, a transaction for each write.
//!
//! ```text
//! records: id = log << 40 | number (the rowid, so no second index), payload
//! ```
//!
//! Not here: several connections: SQLite lets one write at a time, and waiting for the mutex is
//! cheaper than its busy handler.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Mutex;

use anyhow::Result;
use bench_harness::blocking::{Store, Write};
use rusqlite::{Connection, Transaction, TransactionBehavior, params};

use crate::items::{Kind, each_item};

/// Bits of the number in an id.
const NUMBER_BITS: u32 = 40;

pub(crate) struct Sqlite {
    inner: Mutex<Inner>,
}

struct Inner {
    connection: Connection,
    /// The id of the next record, for each log that was written to.
    next: HashMap<u32, i64>,
}

impl Sqlite {
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let connection = Connection::open(dir.join("sqlite"))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.execute_batch(
            "CREATE TABLE IF NOT EXISTS records (id INTEGER PRIMARY KEY, payload BLOB NOT NULL);
             CREATE TABLE IF NOT EXISTS deltas
                 (id INTEGER PRIMARY KEY, processor INTEGER NOT NULL, delta BLOB NOT NULL);
             CREATE TABLE IF NOT EXISTS positions
                 (processor INTEGER PRIMARY KEY, position BLOB NOT NULL);",
        )?;
        Ok(Self { inner: Mutex::new(Inner { connection, next: HashMap::new() }) })
    }
}

impl Store for Sqlite {
    fn write(&self, writes: &[Write]) -> Result<()> {
        let mut inner = self.inner.lock().expect("no panic");
        let Inner { connection, next } = &mut *inner;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        each_item(writes, |kind, id, bytes| match kind {
            Kind::Record => {
                let id = next_id(next, &transaction, id)?;
                let mut insert = transaction.prepare_cached("INSERT INTO records VALUES (?, ?)")?;
                insert.execute(params![id, bytes]).map(drop)
            }
            Kind::Delta => {
                let sql = "INSERT INTO deltas (processor, delta) VALUES (?, ?)";
                transaction.prepare_cached(sql)?.execute(params![id, bytes]).map(drop)
            }
            Kind::Position => {
                let sql = "INSERT OR REPLACE INTO positions VALUES (?, ?)";
                transaction.prepare_cached(sql)?.execute(params![id, bytes]).map(drop)
            }
        })?;
        Ok(transaction.commit()?)
    }

    fn read_all(&self, log: u32, each: &mut dyn FnMut(&[u8])) -> Result<()> {
        let inner = self.inner.lock().expect("no panic");
        let sql = "SELECT payload FROM records WHERE id >= ? AND id < ? ORDER BY id";
        let mut select = inner.connection.prepare(sql)?;
        let mut rows = select.query([first_id(log), first_id(log + 1)])?;
        while let Some(row) = rows.next()? {
            each(row.get_ref(0)?.as_blob()?);
        }
        Ok(())
    }
}

fn first_id(log: u32) -> i64 {
    i64::from(log) << NUMBER_BITS
}

fn next_id(
    next: &mut HashMap<u32, i64>,
    transaction: &Transaction<'_>,
    log: u32,
) -> rusqlite::Result<i64> {
    let id = match next.get(&log) {
        Some(id) => *id,
        None => {
            let sql = "SELECT max(id) + 1 FROM records WHERE id >= ? AND id < ?";
            let bounds = [first_id(log), first_id(log + 1)];
            let last: Option<i64> = transaction.query_row(sql, bounds, |row| row.get(0))?;
            last.unwrap_or(first_id(log))
        }
    };
    next.insert(log, id + 1);
    Ok(id)
}
