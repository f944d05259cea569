//! Measures oncelog beside the device it writes to, and beside other stores.
//!
//! ```text
//! bench-harness (orchestrates)
//!   for each round: yardstick -> one process for each measurement -> yardstick
//!                                `-> `bench-harness measure` or `bench-peers measure`
//!                                     Spec (JSON) in, Measurement (JSON) out
//!                                     `wire`: it starts a server, and asks it over loopback
//!   -> run.json -> report (HTML, markdown), diff
//! ```
//!
//! Invariants:
//! - A measurement is a process of its own: its memory and processor time are those of the work.
//! - Histograms are kept in full, so rounds and runs can be merged; a figure is never an average of
//!   quantiles.
//! - A ratio is taken to a yardstick of the same round.
//!
//! Not here: tests of correctness. They are not timed, and nothing here is a test.

pub mod spec;
pub mod outcome;
pub mod meter;
pub mod raw;
pub mod host;
pub mod doctor;
pub mod fio;
pub mod calibrate;
pub mod payloads;
pub mod blocking;
pub mod figure;
pub mod merged;
pub mod ratio;
pub mod summary;
pub mod diff;
pub mod report;
#[doc(hidden)]
pub mod synthetic;
pub mod engine_target;
pub mod suite;
pub mod wire;
pub mod measure;
pub mod processes;
pub mod rounds;
pub mod run;
pub mod compare;
pub mod over_wire;
