//! The front end of oncelog: a Redis-like protocol over TCP, and the `oncelog` command.

// The protocol, without I/O. Reading order = import order.
pub mod error;
pub mod inline;
pub mod frame;
pub mod reply;
pub mod rights;
pub mod command;
mod talk;
pub mod connection;

// What it counts, and watching it.
pub mod front;
pub mod logging;
pub mod watch;

// Who may connect, and settings.
pub mod private;
pub mod tls;
pub mod users;
pub mod config;

// The shell: engine, sockets, threads.
mod alone;
mod handles;
mod claims;
mod shared;
mod reading;
mod about;
mod session;
mod socket;
mod driver;
mod seats;
mod worker;
pub mod serve;

// The other end of it, and the command line.
pub mod client;
pub mod cli;
