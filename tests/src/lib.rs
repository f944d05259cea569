//! System tests of oncelog.
//!
//! ```text
//! sim        a shard on a simulated disk, compared with a model
//! recorder   the system calls of a real run -> power_cut   what a cut may leave, and whether it is
//!                                                          right
//! storm      what a killed process said, and what must be there
//! flip       a directory in memory, its bytes changed one at a time
//! parse      one function for each parser of disk bytes, for tests and fuzzing
//! mutants    bugs that all of this must catch
//! ```
//!
//! Not here: the engine's unit tests, which stand beside its code.

pub mod flip;
pub mod loop_disk;
pub mod mutants;
pub mod parse;
pub mod power_cut;
pub mod recorder;
pub mod rng;
pub mod sim;
pub mod storm;
