//! Who the peer is: by nothing, a certificate or a login; and what it is when rights change.
//!
//! Not here: passwords and files of users (`users`), what needs which right (`command`).

use std::sync::Arc;

use super::Connection;
use crate::command::Talk;
use crate::error::Refusal;
use crate::reply::Reply;
use crate::rights::{Right, User};
use crate::talk;

impl Connection {
    /// Who it is, if it has said so.
    #[must_use]
    pub fn user(&self) -> Option<&Arc<User>> {
        self.user.as_ref()
    }

    /// Somebody whom the transport knows, by a certificate.
    pub fn handle_identity(&mut self, user: Arc<User>) {
        (self.user, self.default_user) = (Some(Arc::clone(&user)), Some(user));
    }

    /// What the user may do has changed. What was started is not looked at again.
    pub fn handle_user(&mut self, user: Arc<User>) {
        let may_read = |log: &String| user.may(Right::Read, log);
        let (stay, go) = std::mem::take(&mut self.follows).into_iter().partition(may_read);
        self.follows = stay;
        for log in Vec::from_iter(go) {
            let why = Refusal::new("NOPERM", "you may not read it any more");
            self.handle_unfollowed(&log, why);
        }
        let may_feed = self.feeding.as_ref().is_none_or(|f| user.may(Right::Append, f.log()));
        self.user = Some(user);
        if !may_feed {
            self.handle_refusal(Refusal::new("NOPERM", "you may not append to it any more"));
        }
    }

    /// Who it is without having said anything.
    #[must_use]
    pub fn default_user(&self) -> Option<&Arc<User>> {
        self.default_user.as_ref()
    }

    /// Who it is after `RESET` has changed.
    pub fn handle_default_user(&mut self, user: Option<Arc<User>>) {
        self.default_user = user;
    }

    /// The answer to a login.
    pub fn handle_login(&mut self, ticket: u64, login: Result<Arc<User>, Refusal>) {
        let hello = self.hello.take();
        let reply = match login {
            Err(refusal) => Reply::Error(refusal),
            Ok(user) => {
                self.handle_user(user);
                match hello {
                    None => Reply::OK,
                    Some((protocol, name)) => {
                        let reply = talk::answer(self, Talk::Hello { protocol, name });
                        // It is told in the protocol that it asks for.
                        let slot = self.slots.front_mut().expect("a login is alone, under way");
                        slot.protocol = self.protocol;
                        reply
                    }
                }
            }
        };
        self.handle_reply(ticket, reply);
    }
}
