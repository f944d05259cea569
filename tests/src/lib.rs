//! System tests of oncelog: a shard on a simulated disk, compared with a model.
//!
//! ```text
//! seed -> world (clients, clock) -> shard -> sim_disk (order, loss, faults)
//!              '-> model <-- answers compared --'
//! ```
//!
//! Not here: the engine's unit tests, which stand beside its code.

pub mod asking;
pub mod audit;
pub mod clients;
pub mod coverage;
pub mod model;
pub mod process;
pub mod reading;
pub mod rng;
pub mod rot;
pub mod runner;
pub mod scenarios;
pub mod sim_disk;
pub mod sim_file;
pub mod world;
