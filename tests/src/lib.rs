//! System tests of oncelog: a shard on a simulated disk, compared with a model.
//!
//! ```text
//! seed -> world (clients, clock) -> shard -> sim_disk (order, loss, faults)
//!              '-> model <-- answers compared --'
//! ```
//!
//! Not here: the engine's unit tests, which stand beside its code.

pub mod answers;
pub mod asking;
pub mod audit;
pub mod clients;
pub mod coverage;
pub mod doctored;
pub mod faults;
pub mod flat_disk;
pub mod flip_check;
pub mod flip_map;
pub mod mangle;
pub mod loop_disk;
pub mod model;
pub mod mutants;
pub mod parsers;
pub mod payload;
pub mod power_cut;
pub mod power_cut_check;
pub mod power_cut_promises;
pub mod power_cut_run;
pub mod power_cut_script;
pub mod power_cut_sectors;
pub mod process;
pub mod reading;
pub mod recorder;
mod recorder_calls;
pub mod recorder_files;
pub mod recorder_store;
pub mod rng;
pub mod rot;
pub mod runner;
pub mod scenarios;
pub mod sim_damage;
pub mod sim_disk;
pub mod sim_file;
pub mod sim_names;
pub mod sim_ops;
pub mod sim_super;
pub mod sim_witness;
pub mod storm;
pub mod storm_check;
pub mod weather;
pub mod world;
