//! The inbox with real threads and a real bell. Every interleaving of small cases is in `loom`.
//!
//! Not here: what a shard does with what it takes.

use std::sync::atomic::AtomicUsize;
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::retry_on_intr;

use super::*;
use crate::io::OpId;
use crate::reply::block_on;

fn sleep_on(bell: &Bell) {
    let mut fds = [PollFd::new(bell, PollFlags::IN)];
    let ready = retry_on_intr(|| poll(&mut fds, None)).unwrap();
    assert_eq!(ready, 1);
    bell.hear().unwrap();
}

/// Goal: no message is ever left while the consumer sleeps. Method: many producers, a consumer
/// that sleeps without a timeout whenever it may; a lost wake-up would hang the test.
#[test]
fn no_message_is_left_while_the_consumer_sleeps() {
    const PRODUCERS: u64 = 4;
    const EACH: u64 = 20_000;
    let (inbox, mut outlet) = inbox::<u64>(64).unwrap();
    let bell = outlet.bell();
    let producers: Vec<_> = (0..PRODUCERS)
        .map(|producer| {
            let inbox = inbox.clone();
            thread::spawn(move || {
                for n in 0..EACH {
                    if n % 8 == 0 {
                        let id = OpId(u32::try_from(producer).unwrap());
                        let done = Completion { id, result: Ok(1), buf: None, side: None };
                        inbox.returns().push(done);
                    }
                    let message = producer * EACH + n;
                    if n % 2 == 0 {
                        block_on(inbox.push(7, message));
                    } else if let Err(message) = inbox.try_push(7, message) {
                        block_on(inbox.push(7, message));
                    }
                }
            })
        })
        .collect();
    let mut next = [0; PRODUCERS as usize];
    let (mut requests, mut completions) = (0, 0);
    while requests < PRODUCERS * EACH || completions < PRODUCERS * EACH / 8 {
        while outlet.take_completion().is_some() {
            completions += 1;
        }
        while let Some(message) = outlet.take_request() {
            let producer = usize::try_from(message / EACH).unwrap();
            assert_eq!(message % EACH, next[producer], "a producer's order was not kept");
            next[producer] += 1;
            requests += 1;
        }
        outlet.wake_waiting();
        let all = requests == PRODUCERS * EACH && completions == PRODUCERS * EACH / 8;
        if !all && outlet.park(Wake::Anything) {
            sleep_on(&bell);
            outlet.bell().unpark();
        }
    }
    producers.into_iter().for_each(|producer| producer.join().unwrap());
    assert_eq!(inbox.bytes(), 0);
}

#[test]
fn a_full_inbox_refuses_but_one_request_always_fits() {
    let (inbox, mut outlet) = inbox::<&str>(10).unwrap();
    inbox.try_push(100, "larger than all").unwrap();
    assert_eq!(inbox.try_push(1, "second"), Err("second"));
    assert_eq!(outlet.take_request(), Some("larger than all"));
    inbox.try_push(4, "a").unwrap();
    inbox.try_push(6, "b").unwrap();
    assert_eq!(inbox.try_push(1, "c"), Err("c"));
}

#[test]
fn a_shard_that_waits_for_completions_is_not_woken_by_requests() {
    let (inbox, mut outlet) = inbox::<u8>(10).unwrap();
    assert!(outlet.park(Wake::Completions));
    inbox.try_push(1, 1).unwrap();
    assert_eq!(inbox.rung(), 0);
    inbox.returns().push(Completion { id: OpId(1), result: Ok(0), buf: None, side: None });
    assert_eq!(inbox.rung(), 1);
    sleep_on(&outlet.bell());
    assert!(outlet.take_completion().is_some());
    assert!(!outlet.park(Wake::Anything), "a request waits");
    assert_eq!(outlet.take_request(), Some(1));
    assert!(outlet.park(Wake::Anything));
    inbox.try_push(1, 1).unwrap();
    inbox.try_push(1, 1).unwrap();
    assert_eq!(inbox.rung(), 2, "one sleep, one ring");
}

struct Woken(AtomicUsize);

impl std::task::Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Relaxed);
    }
}

#[test]
fn closing_drops_what_waits_and_what_still_comes_and_wakes_who_waits() {
    let (inbox, outlet) = inbox::<Arc<()>>(1).unwrap();
    let request = Arc::new(());
    inbox.try_push(1, Arc::clone(&request)).unwrap();
    let mut push = inbox.push(1, Arc::clone(&request));
    let woken = Arc::new(Woken(AtomicUsize::new(0)));
    let waker = Waker::from(Arc::clone(&woken));
    let mut context = Context::from_waker(&waker);
    assert!(Pin::new(&mut push).poll(&mut context).is_pending());
    drop(outlet);
    assert_eq!(woken.0.load(Relaxed), 1);
    assert!(Pin::new(&mut push).poll(&mut context).is_ready());
    inbox.try_push(1, Arc::clone(&request)).unwrap();
    assert_eq!(Arc::strong_count(&request), 1, "every request was dropped");
    assert!(inbox.is_closed());
}
