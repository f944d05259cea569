//! One answer in every interleaving: see `inbox::loom` for the command.
//!
//! Not here: requests on their way to a shard.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;

use ::loom::{model, thread};

use super::*;
use crate::error::AppendError;

/// An answer that counts how often it was dropped. (The counter is no part of the model.)
struct Counted(std::sync::Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

type Answer = Reply<Counted, AppendError>;

fn counted() -> (Counted, std::sync::Arc<AtomicUsize>) {
    let drops = std::sync::Arc::new(AtomicUsize::new(0));
    (Counted(std::sync::Arc::clone(&drops)), drops)
}

/// Polls once for someone who is not there any more, then waits: only the last waker counts.
fn wait_after_a_poll_of_another(mut pending: Pending<Counted, AppendError>) -> Option<Counted> {
    let mut context = Context::from_waker(Waker::noop());
    match Pin::new(&mut pending).poll(&mut context) {
        Poll::Ready(answer) => answer.ok(),
        Poll::Pending => pending.wait().ok(),
    }
}

#[test]
fn an_answer_comes_once_whoever_polls() {
    model(|| {
        let (answer, drops) = counted();
        let (reply, pending): (Answer, _) = pair();
        let shard = thread::spawn(move || reply.send(Ok(answer)));
        let answer = wait_after_a_poll_of_another(pending).expect("it was sent");
        assert_eq!(drops.load(SeqCst), 0);
        drop(answer);
        shard.join().unwrap();
        assert_eq!(drops.load(SeqCst), 1);
    });
}

#[test]
fn who_asked_before_is_woken_and_gets_the_answer_once() {
    model(|| {
        let (answer, drops) = counted();
        let (reply, mut pending): (Answer, _) = pair();
        // Loom lets `unpark` end any wait, so the thread that is woken must not join another.
        let client = thread::spawn(move || {
            let waker = WAKER.with(Waker::clone);
            match Pin::new(&mut pending).poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(answer) => drop(answer.expect("it was sent")),
                Poll::Pending => drop(pending.wait().expect("it was sent")),
            }
        });
        reply.send(Ok(answer));
        client.join().unwrap();
        assert_eq!(drops.load(SeqCst), 1);
    });
}

#[test]
fn a_reply_dropped_unsent_answers_stopped_once() {
    model(|| {
        let (reply, pending): (Answer, _) = pair();
        let shard = thread::spawn(move || drop(reply));
        assert!(matches!(pending.wait(), Err(AppendError::Stopped(_))));
        shard.join().unwrap();
    });
}

#[test]
fn an_answer_that_nobody_waits_for_is_dropped_once() {
    model(|| {
        let (answer, drops) = counted();
        let (reply, mut pending): (Answer, _) = pair();
        let shard = thread::spawn(move || {
            let abandoned = reply.is_abandoned();
            reply.send(Ok(answer));
            abandoned
        });
        let polled = Pin::new(&mut pending).poll(&mut Context::from_waker(Waker::noop()));
        let is_ready = polled.is_ready();
        drop((polled, pending));
        let abandoned = shard.join().unwrap();
        assert!(!(is_ready && abandoned), "it was answered while someone waited");
        assert_eq!(drops.load(SeqCst), 1);
    });
}
