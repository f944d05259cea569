//! The peers: their names, versions, and what an answer of theirs means.
//!
//! Not here: their adapters, one file each.

use std::path::Path;

use anyhow::{Context, Result};
use bench_harness::blocking::{Grouped, Store};

use crate::fjall::Fjall;
use crate::naive::Naive;
use crate::okaywal::OkayWal;
use crate::postgres::{self, Postgres};
use crate::raft_engine::RaftEngine;
use crate::redb::Redb;
use crate::redis::{self, Redis};
use crate::sqlite::Sqlite;
use crate::walrus::Walrus;

/// A store beside which oncelog is measured.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    version: Version,
    /// What has happened when it answers.
    pub(crate) durability: &'static str,
    pub(crate) works: &'static [&'static str],
    pub(crate) open: fn(&Path) -> Result<Box<dyn Store>>,
}

enum Version {
    /// That of this crate, as locked.
    Crate(&'static str),
    /// That of SQLite inside its crate.
    Sqlite,
    /// That of an installed program.
    Program(fn() -> Result<String>),
}

impl Peer {
    /// Its version.
    ///
    /// # Errors
    /// Its program is not installed.
    pub(crate) fn version(&self) -> Result<String> {
        match self.version {
            Version::Crate(name) => locked(name).with_context(|| format!("{name} is not locked")),
            Version::Sqlite => Ok(rusqlite::version().to_owned()),
            Version::Program(ask) => ask(),
        }
    }
}

/// The version of a crate in the lock file.
fn locked(name: &str) -> Option<String> {
    let behind = format!("name = \"{name}\"\nversion = \"");
    let (_, rest) = include_str!("../Cargo.lock").split_once(&behind)?;
    Some(rest.split('"').next()?.to_owned())
}

const ALL: &[&str] = &bench_harness::blocking::WORKS;
/// Without commits: the peer cannot write to several of its logs at once.
const NO_COMMIT: &[&str] = &["append", "batch", "catch-up", "recovery"];

macro_rules! open {
    ($open:expr) => {
        |dir| Ok(Box::new($open(dir)?))
    };
}

/// A store behind a front that gathers the writes of all threads.
fn grouped<S: Store + 'static>(store: S) -> Box<dyn Store> {
    Box::new(Grouped::new(store))
}

const PEERS: &[Peer] = &[
    Peer {
        name: "naive",
        version: Version::Crate("bench-peers"),
        durability: "durable (write, fdatasync; one at a time)",
        works: ALL,
        open: open!(Naive::open),
    },
    Peer {
        name: "naive-group",
        version: Version::Crate("bench-peers"),
        durability: "durable (write, fdatasync; group commit)",
        works: ALL,
        open: |dir| Ok(grouped(Naive::open(dir)?)),
    },
    Peer {
        name: "raft-engine",
        version: Version::Crate("raft-engine"),
        durability: "durable (write with sync; group commit)",
        works: ALL,
        open: |dir| Ok(grouped(RaftEngine::open(dir)?)),
    },
    Peer {
        name: "okaywal",
        version: Version::Crate("okaywal"),
        durability: "durable (commit of an entry; fdatasync, shared)",
        works: ALL,
        open: open!(OkayWal::open),
    },
    Peer {
        name: "walrus",
        version: Version::Crate("walrus-rust"),
        durability: "durable (FsyncSchedule::SyncEach: O_SYNC and fsync; write errors are ignored)",
        works: NO_COMMIT,
        open: open!(|_| Walrus::open()),
    },
    Peer {
        name: "fjall",
        version: Version::Crate("fjall"),
        durability: "durable (PersistMode::SyncAll)",
        works: ALL,
        open: open!(Fjall::open),
    },
    Peer {
        name: "fjall-group",
        version: Version::Crate("fjall"),
        durability: "durable (PersistMode::SyncAll; group commit before it)",
        works: ALL,
        open: |dir| Ok(grouped(Fjall::open(dir)?)),
    },
    Peer {
        name: "redb",
        version: Version::Crate("redb"),
        durability: "durable (Durability::Immediate)",
        works: ALL,
        open: open!(Redb::open),
    },
    Peer {
        name: "redb-group",
        version: Version::Crate("redb"),
        durability: "durable (Durability::Immediate; group commit before it)",
        works: ALL,
        open: |dir| Ok(grouped(Redb::open(dir)?)),
    },
    #[cfg(feature = "rocksdb")]
    Peer {
        name: "rocksdb",
        version: Version::Crate("rocksdb"),
        durability: "durable (WriteOptions::sync)",
        works: ALL,
        open: open!(crate::rocksdb::RocksDb::open),
    },
    Peer {
        name: "sqlite",
        version: Version::Sqlite,
        durability: "durable (WAL, synchronous=FULL)",
        works: ALL,
        open: open!(Sqlite::open),
    },
    Peer {
        name: "sqlite-group",
        version: Version::Sqlite,
        durability: "durable (WAL, synchronous=FULL; group commit before it)",
        works: ALL,
        open: |dir| Ok(grouped(Sqlite::open(dir)?)),
    },
    Peer {
        name: "redis",
        version: Version::Program(redis::version),
        durability: "durable (appendfsync always; reads come from memory)",
        works: ALL,
        open: open!(Redis::open),
    },
    Peer {
        name: "postgres",
        version: Version::Program(postgres::version),
        durability: "durable (fsync=on, synchronous_commit=on)",
        works: ALL,
        open: open!(Postgres::open),
    },
];

/// The peers that can be measured here, with their versions; says why others are left out.
pub(crate) fn here() -> Vec<(&'static Peer, String)> {
    let mut here = Vec::new();
    for peer in PEERS {
        match peer.version() {
            Ok(version) => here.push((peer, version)),
            Err(error) => eprintln!("{} is left out: {error:#}", peer.name),
        }
    }
    if cfg!(not(feature = "rocksdb")) {
        eprintln!("rocksdb is left out: build with --features rocksdb (see README.md)");
    }
    here
}

/// The peer of that name.
///
/// # Errors
/// There is none.
pub(crate) fn find(name: &str) -> Result<&'static Peer> {
    let names = || PEERS.iter().map(|peer| peer.name).collect::<Vec<_>>().join(", ");
    let found = PEERS.iter().find(|peer| peer.name == name);
    found.with_context(|| format!("there is no target {name}; there are {}", names()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_crate_has_a_locked_version_and_every_name_is_there_once() {
        for peer in PEERS {
            assert!(matches!(peer.version, Version::Program(_)) || peer.version().is_ok());
            assert!(std::ptr::eq(find(peer.name).unwrap(), peer), "{} is there twice", peer.name);
        }
    }
}
