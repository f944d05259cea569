//! What all connections share: the engine, who may log in, what is counted, memory, the stop.
//!
//! Not here: what one connection holds (`connection`), what one worker holds (`handles`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use oncelog::Engine;
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;

use crate::claims::Claims;
use crate::connection::Limits;
use crate::error::Refusal;
use crate::front::Front;
use crate::handles::Generation;
use crate::rights::User;
use crate::tls::Tls;
use crate::users::{SharedUsers, Verifier};

/// Bytes that connections hold together beyond what each may hold anyway (P-29).
#[derive(Debug)]
pub(crate) struct Memory {
    used: AtomicUsize,
    max: usize,
}

impl Memory {
    pub(crate) fn new(max: usize) -> Self {
        Self { used: AtomicUsize::new(0), max }
    }

    /// A connection holds `now` bytes instead of `before`.
    pub(crate) fn change(&self, before: usize, now: usize) {
        if now >= before {
            self.used.fetch_add(now - before, Ordering::Relaxed);
        } else {
            self.used.fetch_sub(before - now, Ordering::Relaxed);
        }
    }

    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Whether no connection may grow any more.
    pub(crate) fn is_full(&self) -> bool {
        self.used() >= self.max
    }
}

/// How long a peer may take (P-31).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// To say who it is.
    pub(crate) handshake: Duration,
    /// Between requests; 0 for ever.
    pub(crate) idle: Duration,
    /// To take some of what is sent.
    pub(crate) write: Duration,
    /// To be answered, once the server stops.
    pub(crate) stop: Duration,
}

impl Times {
    /// How often they are looked at.
    pub(crate) fn tick(&self) -> Duration {
        let all = [self.handshake, self.idle, self.write, self.stop];
        let least = all.into_iter().filter(|time| !time.is_zero()).min();
        let tick = least.unwrap_or(Duration::from_secs(60)) / 4;
        tick.clamp(Duration::from_millis(20), Duration::from_secs(15))
    }
}

/// Who may log in, and the threads that check passwords.
#[derive(Debug)]
pub(crate) struct Login {
    pub(crate) users: SharedUsers,
    pub(crate) verifier: Verifier,
}

/// See the module's head.
pub(crate) struct Shared {
    pub(crate) engine: Engine,
    pub(crate) claims: Claims,
    pub(crate) generation: Generation,
    pub(crate) front: Arc<Front>,
    pub(crate) memory: Memory,
    pub(crate) started: Instant,
    /// Numbers of connections.
    pub(crate) ids: AtomicU64,
    /// Turns true when the server stops.
    pub(crate) stop: watch::Sender<bool>,
    /// Whether workers do I/O by io_uring.
    pub(crate) uring: AtomicBool,
    pub(crate) limits: Limits,
    pub(crate) times: Times,
    pub(crate) read_size_max: u32,
    pub(crate) follow_batch_size: u32,
    pub(crate) create_logs: bool,
    /// How often users were read again.
    pub(crate) users_version: AtomicU64,
    /// `None`: everyone who connects may do everything.
    pub(crate) login: Option<Login>,
    pub(crate) tls: Option<Tls>,
}

impl Shared {
    /// How connections do I/O.
    pub(crate) fn transport(&self) -> &'static str {
        if self.uring.load(Ordering::Relaxed) { "io_uring" } else { "epoll" }
    }

    /// Who is there without having said anything.
    pub(crate) fn anyone(&self) -> Option<Arc<User>> {
        self.login.is_none().then(|| Arc::new(User::everyone()))
    }

    /// Whose certificate it is.
    pub(crate) fn user_of(&self, certificate: &CertificateDer<'_>) -> Option<Arc<User>> {
        self.login.as_ref()?.users.current().by_certificate(certificate)
    }

    /// What somebody who has logged in may do now; `None` if they are no user any more.
    pub(crate) fn user_now(&self, name: &str) -> Option<Arc<User>> {
        match &self.login {
            None => self.anyone(),
            Some(login) => login.users.current().get(name).cloned(),
        }
    }

    /// Who somebody says they are, if the password is theirs.
    pub(crate) async fn login(&self, user: String, password: Bytes) -> Result<Arc<User>, Refusal> {
        let Some(login) = &self.login else {
            return Err(Refusal::new("ERR", "this server has no users: nobody needs to log in"));
        };
        let verdict = login.verifier.verify(login.users.current(), &user, &password);
        let verdict = verdict.map_err(|busy| Refusal::new("BUSY", busy.to_string()))?;
        // It ends without a verdict only when the server does.
        let ended = |_| Refusal::new("STOPPED", "the server stops; try again in a while");
        let wrong = || Refusal::new("WRONGPASS", "no such user, or another password");
        verdict.await.map_err(ended)?.ok_or_else(wrong)?;
        // Users may have been read again while the password was checked.
        self.user_now(&user).ok_or_else(wrong)
    }
}
