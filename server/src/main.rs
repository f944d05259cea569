//! The `oncelog` command.

fn main() {}
