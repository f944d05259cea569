//! No commit passes over one that was refused before it began: positions and states would be
//! skipped that its sender believes to be there.
//!
//! The engine and the claims see to that where a commit got as far as them; here are those that did
//! not: not understood, not allowed, too large, in a transaction of Redis.
//!
//! Not here: commits that the engine refuses (`claims`).

use bytes::Bytes;

use super::Connection;
use crate::command::Command;
use crate::error::Refusal;
use crate::reply::Reply;

/// Whether a request is a commit, or was meant to be one.
pub(super) fn is_commit(args: &[Bytes]) -> bool {
    args[0].eq_ignore_ascii_case(b"COMMIT")
}

impl Connection {
    /// A request was refused before it began.
    pub(super) fn note_refused(&mut self, args: &[Bytes]) {
        if is_commit(args) {
            let reader = args.get(1).and_then(|reader| std::str::from_utf8(reader).ok());
            self.note_refused_commit(reader.map(str::to_owned));
        }
    }

    fn note_refused_commit(&mut self, reader: Option<String>) {
        self.commit_refused = Some(match self.commit_refused.take() {
            // Of two processors: whoever it is must claim.
            Some(before) if before != reader => None,
            _ => reader,
        });
    }

    /// Whether what waited may still be done.
    pub(super) fn check_again(
        &mut self,
        waiting: (usize, Command),
    ) -> Result<(usize, Command), Refusal> {
        let reader = match &waiting.1 {
            Command::Commit { reader, .. } => Some(reader.clone()),
            _ => None,
        };
        self.check(waiting).inspect_err(|_| {
            if reader.is_some() {
                self.note_refused_commit(reader);
            }
        })
    }

    /// A reply came: to a claim that succeeded, perhaps.
    pub(super) fn note_claim(&mut self, ticket: u64) {
        let Some((_, reader)) = self.claiming.take_if(|(claim, _)| *claim == ticket) else {
            return;
        };
        // A claim is alone: its slot is the first one.
        let reply = self.slots.front().and_then(|slot| slot.reply.as_ref());
        let is_of_it = |refused: &mut Option<String>| refused.as_ref().is_none_or(|r| *r == reader);
        if !matches!(reply, None | Some(Reply::Error(_))) {
            self.commit_refused.take_if(is_of_it);
        }
    }
}
