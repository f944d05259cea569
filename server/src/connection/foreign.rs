//! Who believes to talk to something else: browsers, and clients with transactions of Redis.
//!
//! Not here: requests that are merely unknown (`command`).

use bytes::Bytes;

use super::Connection;
use crate::command::table;

impl Connection {
    /// Whether a request stands between a `MULTI` and its `EXEC`, or is one of them.
    pub(super) fn is_in_multi(&mut self, name: &[u8]) -> bool {
        let is = |word: &str| name.eq_ignore_ascii_case(word.as_bytes());
        let was = self.in_multi;
        self.in_multi = is("MULTI") || (was && !is("EXEC") && !is("DISCARD") && !is("RESET"));
        is("MULTI") || (was && !is("RESET"))
    }
}

/// Whether it is the first line of a request of a browser, or a header: `Host: ...`.
pub(super) fn is_http(args: &[Bytes]) -> bool {
    // What a command is given may well begin like that.
    let is_unknown = table::find(&args[0]).is_none();
    let is_request = is_unknown && args.len() == 3 && args[2].starts_with(b"HTTP/");
    is_request || args[0].eq_ignore_ascii_case(b"Host:")
}
