//! A shard on a simulated disk, compared with a model.
//!
//! ```text
//! seed -> world (clients, clock) -> shard -> disk (order, loss, faults, damage)
//!              '-> model <-- answers compared --'
//! ```
//!
//! Not here: files, threads and the ring.

pub mod answers;
pub mod asking;
pub mod audit;
pub mod clients;
pub mod coverage;
pub mod damage;
pub mod disk;
pub mod effect;
pub mod faults;
pub mod file;
pub mod keeping;
pub mod model;
pub mod names;
pub mod ops;
pub mod payload;
pub mod process;
pub mod processors;
pub mod reading;
pub mod rot;
pub mod runner;
pub mod scenarios;
pub mod settings;
pub mod superblock;
pub mod weather;
pub mod witness;
pub mod world;
pub mod writers;
pub mod writing;
