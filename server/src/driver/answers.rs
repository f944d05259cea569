//! Answers of the engine, counted and handed to the connection.
//!
//! Not here: what an answer says (`session`), and the order of replies (`connection`).

use super::{Driver, Running};
use crate::reply::Reply;
use crate::session::Outcome;

impl Driver {
    /// A request is answered.
    pub(super) fn finish(&mut self, running: Running, outcome: Outcome) {
        self.alone.end();
        self.reserved -= running.reserved;
        let micros = running.since.elapsed().as_micros();
        let micros = u64::try_from(micros).unwrap_or(u64::MAX);
        if self.stalled == Some(running.ticket) {
            self.stalled = None;
        }
        for _ in 0..=running.more.len() {
            self.shared.front.answered(running.spec, micros);
        }
        self.take((running.ticket, running.more), outcome);
    }

    fn take(&mut self, (ticket, more): (u64, Vec<u64>), outcome: Outcome) {
        let front = &self.shared.front;
        match outcome {
            Outcome::Each(replies) => {
                assert_eq!(replies.len(), more.len() + 1, "each of them has an answer");
                for (ticket, reply) in std::iter::once(ticket).chain(more).zip(replies) {
                    if let Reply::Error(refusal) = &reply {
                        front.error(refusal.index());
                    }
                    self.connection.handle_reply(ticket, reply);
                }
            }
            Outcome::Reply(reply) => {
                if let Reply::Error(refusal) = &reply {
                    front.error(refusal.index());
                }
                self.connection.handle_reply(ticket, reply);
            }
            Outcome::Login(login) => {
                if let Err(refusal) = &login {
                    front.error(refusal.index());
                    if refusal.word == "WRONGPASS" {
                        front.auth_failed();
                    }
                }
                self.connection.handle_login(ticket, login);
            }
            Outcome::Followed(following) => {
                front.followed();
                self.end_followings();
                self.connection.handle_followed(ticket, following.log.clone());
                self.following.push(following);
            }
            Outcome::Feeding(log) => self.connection.handle_feeding(ticket, log),
            Outcome::Lines(count, refusal) => {
                front.ingested(count);
                refusal.iter().for_each(|refusal| front.error(refusal.index()));
                self.connection.handle_lines(ticket, (count, refusal));
            }
        }
    }
}
