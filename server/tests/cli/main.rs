//! The `oncelog` command as a user runs it: the binary, on directories of its own.
//!
//! Not here: the core of each part, which is tested beside it.

mod check;
mod logs;
mod places;
mod processors;
mod records;
mod remote;
mod support;
mod transfer;
