//! A data directory in memory whose bytes are changed one at a time.
//!
//! Not here: real files, of which `tests/every_byte.rs` looks at some.

pub mod check;
pub mod disk;
pub mod map;
