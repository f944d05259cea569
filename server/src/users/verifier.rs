//! Checking passwords beside the work of the server: few at once, few waiting.
//!
//! ```text
//! verify --known--> answer
//!        --queue of QUEUE_MAX--> THREADS threads --> answer
//!        --queue full--> Busy
//! ```
//!
//! So checking passwords takes at most [`THREADS`] processors, and their memory of hashes, however
//! many clients knock. What waits for a client that left is not checked.
//!
//! Not here: what is right (`users`).

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use tokio::sync::oneshot;

use super::{NAME_SIZE_MAX, PASSWORD_SIZE_MAX, Users};
use crate::rights::User;

/// Passwords that are checked at once.
pub const THREADS: usize = 2;
/// Passwords that wait to be checked.
pub const QUEUE_MAX: usize = 64;

/// Too many passwords wait to be checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many clients log in at once; try again in a moment")]
pub struct Busy;

/// Who somebody is; `None` if it was the wrong password, or there is no such user.
pub type Verdict = Option<Arc<User>>;

/// One password to be checked.
#[derive(Debug)]
struct Job {
    users: Arc<Users>,
    name: String,
    password: Vec<u8>,
    answer: oneshot::Sender<Verdict>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    closed: bool,
}

/// Threads that check passwords. Dropping it ends them, after the checks that are under way.
#[derive(Debug)]
pub struct Verifier {
    queue: Arc<Queue>,
    threads: Vec<JoinHandle<()>>,
}

impl Verifier {
    /// Starts [`THREADS`] threads.
    ///
    /// # Errors
    /// If the system gives no more threads.
    pub fn start() -> io::Result<Self> {
        let mut verifier = Self { queue: Arc::default(), threads: Vec::new() };
        for index in 0..THREADS {
            let queue = Arc::clone(&verifier.queue);
            let builder = thread::Builder::new().name(format!("oncelog-auth-{index}"));
            verifier.threads.push(builder.spawn(move || queue.work())?);
        }
        Ok(verifier)
    }

    /// Has a password checked. Dropping the receiver gives up; the receiver fails only when the
    /// verifier is dropped first.
    ///
    /// # Errors
    /// [`Busy`]: nothing was checked.
    pub fn verify(
        &self,
        users: Arc<Users>,
        name: &str,
        password: &[u8],
    ) -> Result<oneshot::Receiver<Verdict>, Busy> {
        let (answer, receiver) = oneshot::channel();
        let known = users.verify_known(name, password);
        // Nobody has such a name or password: no secret, and not worth the memory.
        let too_long = name.len() > NAME_SIZE_MAX || password.len() > PASSWORD_SIZE_MAX;
        if known.is_some() || too_long {
            // The receiver is in our hands.
            let _ = answer.send(known);
            return Ok(receiver);
        }
        let (name, password) = (name.to_owned(), password.to_owned());
        self.queue.push(Job { users, name, password, answer })?;
        Ok(receiver)
    }
}

impl Drop for Verifier {
    fn drop(&mut self) {
        self.queue.close();
        for thread in self.threads.drain(..) {
            // A panic in it was printed; nobody waits for its answer any more.
            let _ = thread.join();
        }
    }
}

impl Queue {
    fn push(&self, job: Job) -> Result<(), Busy> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.jobs.len() == QUEUE_MAX {
            waiting.jobs.retain(|job| !job.answer.is_closed());
        }
        if waiting.jobs.len() == QUEUE_MAX {
            return Err(Busy);
        }
        waiting.jobs.push_back(job);
        self.changed.notify_one();
        Ok(())
    }

    fn close(&self) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.closed = true;
        waiting.jobs.clear();
        self.changed.notify_all();
    }

    /// The next password whose client still waits; `None` at the end.
    fn pop(&self) -> Option<Job> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        while !waiting.closed {
            match waiting.jobs.pop_front() {
                Some(job) if job.answer.is_closed() => {}
                Some(job) => return Some(job),
                None => {
                    waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
        None
    }

    fn work(&self) {
        while let Some(job) = self.pop() {
            let verdict = job.users.verify(&job.name, &job.password);
            // The client may have left meanwhile.
            let _ = job.answer.send(verdict);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::edit;
    use super::*;

    fn users() -> Arc<Users> {
        let hash = edit::hash("secret").unwrap();
        let text = format!("[[user]]\nname = \"ann\"\npassword = \"{hash}\"\ngrants = []\n");
        Arc::new(Users::parse(Path::new("users"), &text).unwrap())
    }

    #[test]
    fn passwords_are_checked_on_other_threads() {
        let verifier = Verifier::start().unwrap();
        let users = users();
        let verify = |name, password: &[u8]| {
            verifier.verify(Arc::clone(&users), name, password).unwrap().blocking_recv().unwrap()
        };
        assert_eq!(verify("ann", b"wrong"), None);
        assert_eq!(verify("bob", b"secret"), None);
        assert_eq!(verify("ann", &[b'x'; PASSWORD_SIZE_MAX + 1]), None);
        assert!(users.verify_known("ann", b"secret").is_none());
        assert_eq!(verify("ann", b"secret").unwrap().name, "ann");
        // Known from now on: answered at once.
        let mut answer = verifier.verify(Arc::clone(&users), "ann", b"secret").unwrap();
        assert_eq!(answer.try_recv().unwrap().unwrap().name, "ann");
        assert_eq!(verify("ann", b"wrong"), None);
    }

    #[test]
    fn a_full_queue_is_busy_until_clients_leave() {
        // Nobody works on this queue.
        let queue = Queue::default();
        let users = users();
        let job = || {
            let (answer, receiver) = oneshot::channel();
            let users = Arc::clone(&users);
            (Job { users, name: String::new(), password: Vec::new(), answer }, receiver)
        };
        let mut receivers = Vec::new();
        for _ in 0..QUEUE_MAX {
            let (job, receiver) = job();
            queue.push(job).unwrap();
            receivers.push(receiver);
        }
        assert_eq!(queue.push(job().0), Err(Busy));
        receivers.truncate(1);
        let (last, _receiver) = job();
        queue.push(last).unwrap();
        assert_eq!(queue.waiting.lock().unwrap().jobs.len(), 2);
        receivers.clear();
        assert!(!queue.pop().unwrap().answer.is_closed());
        queue.close();
        assert!(queue.pop().is_none());
    }

    #[test]
    fn the_end_leaves_nobody_waiting() {
        let verifier = Verifier::start().unwrap();
        let users = users();
        let begin = || verifier.verify(Arc::clone(&users), "ann", b"wrong").unwrap();
        let answers: Vec<_> = (0..20).map(|_| begin()).collect();
        drop(verifier);
        // Checked, or given up: answered either way.
        for answer in answers {
            assert!(matches!(answer.blocking_recv(), Ok(None) | Err(_)));
        }
    }
}
