//! Programs that ship lines: `nc`, `tail -F`, rsyslog.
//!
//! Not here: lines and their bounds (`frame`, `connection`).
