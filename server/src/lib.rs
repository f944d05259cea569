//! The front end of oncelog: a Redis-like protocol over TCP, and the `oncelog` command.

pub mod rights;
