//! The inbox in every interleaving of small cases, as the memory model of C11 allows them:
//!
//! ```text
//! RUSTFLAGS="--cfg oncelog_loom" cargo test -p oncelog --lib --release loom
//! ```
//!
//! A lost wake-up is a deadlock, which loom reports. Threads are interrupted where they could have
//! gone on at most [`PREEMPTIONS`] times (LOOM_MAX_PREEMPTIONS changes that), in the largest case
//! once less; switches where a thread sleeps are not counted.
//!
//! Not here: how many requests the shard takes at once, and real threads (`tests`).

use ::loom::model::Builder;
use ::loom::thread;

use super::*;
use crate::error::AppendError;
use crate::io::OpId;
use crate::reply::{Reply, block_on, pair};

/// Two find each order that the protocol must forbid. Three take seconds, four take minutes.
const PREEMPTIONS: usize = 3;

fn model(case: impl Fn() + Sync + Send + 'static) {
    bounded(PREEMPTIONS, case);
}

fn bounded(preemptions: usize, case: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(preemptions));
    builder.max_branches = 10_000;
    builder.check(case);
}

fn completion() -> Completion {
    Completion { id: OpId(1), result: Ok(0), buf: None, side: None }
}

/// Takes what is there until `requests` and `completions` were taken, and sleeps in between.
fn take_all<R>(outlet: &mut Outlet<R>, mut requests: u64, mut completions: u64) {
    let bell = outlet.bell();
    loop {
        while outlet.take_completion().is_some() {
            completions -= 1;
        }
        // While a completion is awaited requests must wait, as if the open entry were full.
        while completions == 0 && outlet.take_request().is_some() {
            requests -= 1;
        }
        outlet.wake_waiting();
        let wake = match (requests, completions) {
            (0, 0) => return,
            (_, 0) => Wake::Anything,
            _ => Wake::Completions,
        };
        if outlet.park(wake) {
            bell.hear().unwrap();
            bell.unpark();
        }
    }
}

#[test]
fn a_request_is_seen_before_the_shard_sleeps_or_the_bell_rings() {
    model(|| {
        let (inbox, mut outlet) = inbox::<u8>(10).unwrap();
        let producers = [inbox.clone(), inbox.clone()].map(|inbox| {
            thread::spawn(move || {
                inbox.try_push(1, 1).unwrap();
            })
        });
        take_all(&mut outlet, 2, 0);
        producers.into_iter().for_each(|producer| producer.join().unwrap());
        assert_eq!(inbox.bytes(), 0);
    });
}

/// A completion would wake it too: here there is none, so the last request alone must.
#[test]
fn a_shard_that_waits_for_several_requests_is_woken_by_the_last_of_them() {
    model(|| {
        let (inbox, mut outlet) = inbox::<u8>(10).unwrap();
        let bell = outlet.bell();
        let producers = [inbox.clone(), inbox.clone()].map(|inbox| {
            thread::spawn(move || {
                inbox.try_push(1, 1).unwrap();
            })
        });
        let mut left = 2;
        loop {
            while outlet.take_request().is_some() {
                left -= 1;
            }
            if left == 0 {
                break;
            }
            if outlet.park(Wake::Requests(left)) {
                bell.hear().unwrap();
                bell.unpark();
            }
        }
        producers.into_iter().for_each(|producer| producer.join().unwrap());
    });
}

/// The second request meets a shard that woke for the first, perhaps by itself.
#[test]
fn a_producer_that_goes_on_wakes_the_shard_again() {
    model(|| {
        let (inbox, mut outlet) = inbox::<u8>(10).unwrap();
        let bell = outlet.bell();
        let producer = thread::spawn(move || {
            inbox.try_push(1, 1).unwrap();
            // Another one who needs this thread.
            bell.ring();
            inbox.try_push(1, 2).unwrap();
        });
        take_all(&mut outlet, 2, 0);
        producer.join().unwrap();
    });
}

#[test]
fn a_completion_wakes_the_shard_whatever_it_waits_for() {
    model(|| {
        let (inbox, mut outlet) = inbox::<u8>(10).unwrap();
        let returns = inbox.returns().clone();
        let files = thread::spawn(move || returns.push(completion()));
        let producer = inbox.clone();
        let client = thread::spawn(move || producer.try_push(1, 1).unwrap());
        take_all(&mut outlet, 1, 1);
        files.join().unwrap();
        client.join().unwrap();
        assert_eq!(inbox.bytes(), 0);
    });
}

#[test]
fn who_waits_for_room_is_woken_when_there_is_some() {
    model(|| {
        let (inbox, mut outlet) = inbox::<u8>(1).unwrap();
        inbox.try_push(1, 0).unwrap();
        let producer = inbox.clone();
        let client = thread::spawn(move || block_on(producer.push(1, 1)));
        take_all(&mut outlet, 2, 0);
        client.join().unwrap();
        assert_eq!(inbox.bytes(), 0);
    });
}

/// First it is asked by someone who is not there any more: only the last waker counts.
#[test]
fn who_waits_for_room_is_woken_whoever_asked_before() {
    model(|| {
        let (inbox, mut outlet) = inbox::<u8>(1).unwrap();
        inbox.try_push(1, 0).unwrap();
        let client = thread::spawn(move || {
            let mut push = inbox.push(1, 1);
            let mut nobody = Context::from_waker(Waker::noop());
            if Pin::new(&mut push).poll(&mut nobody).is_pending() {
                block_on(push);
            }
        });
        take_all(&mut outlet, 2, 0);
        client.join().unwrap();
    });
}

#[test]
fn two_who_wait_for_the_room_of_one_both_get_in() {
    model(|| {
        let (inbox, mut outlet) = inbox::<u8>(1).unwrap();
        let clients = [inbox.clone(), inbox.clone()]
            .map(|inbox| thread::spawn(move || block_on(inbox.push(1, 1))));
        take_all(&mut outlet, 2, 0);
        clients.into_iter().for_each(|client| client.join().unwrap());
        assert_eq!(inbox.bytes(), 0);
    });
}

/// The second client may come while the first is being woken, and take the room that was made.
#[test]
fn who_comes_while_others_are_woken_is_woken_too() {
    bounded(PREEMPTIONS - 1, || {
        let (inbox, mut outlet) = inbox::<u8>(1).unwrap();
        inbox.try_push(1, 0).unwrap();
        let clients = [(inbox.clone(), 1), (inbox.clone(), 2)].map(|(inbox, count)| {
            thread::spawn(move || (0..count).for_each(|_| block_on(inbox.push(1, 1))))
        });
        take_all(&mut outlet, 4, 0);
        clients.into_iter().for_each(|client| client.join().unwrap());
        assert_eq!(inbox.bytes(), 0);
    });
}

type Ask = Reply<u8, AppendError>;

/// What a client of a shard that ends is told.
fn ask(inbox: &Inbox<Ask>) -> Result<u8, AppendError> {
    let (reply, pending) = pair();
    block_on(inbox.push(1, reply));
    pending.wait()
}

#[test]
fn a_request_pushed_while_the_shard_ends_is_answered() {
    model(|| {
        let (inbox, mut outlet) = inbox::<Ask>(10).unwrap();
        let client = thread::spawn(move || ask(&inbox));
        let taken = outlet.take_request();
        let was_taken = taken.is_some();
        if let Some(reply) = taken {
            reply.send(Ok(7));
        }
        drop(outlet);
        match client.join().unwrap() {
            Ok(answer) => assert!(was_taken && answer == 7),
            Err(error) => assert!(!was_taken && matches!(error, AppendError::Stopped(_))),
        }
    });
}

#[test]
fn who_waits_for_room_is_let_go_when_the_shard_ends() {
    model(|| {
        let (inbox, outlet) = inbox::<Ask>(1).unwrap();
        let (reply, first) = pair();
        inbox.try_push(1, reply).unwrap();
        let client = thread::spawn(move || ask(&inbox));
        drop(outlet);
        assert!(matches!(first.wait(), Err(AppendError::Stopped(_))));
        assert!(matches!(client.join().unwrap(), Err(AppendError::Stopped(_))));
    });
}

/// A shard that clients lead: requests do not ring, so who waits for one takes the shard's place,
/// or wakes it. Nobody waits for the time after which the real one looks by itself.
#[test]
fn a_request_that_does_not_ring_is_carried_out_by_who_waits_for_it_or_rings() {
    struct Core {
        outlet: Outlet<Ask>,
        answered: u32,
    }

    impl Core {
        fn take(&mut self) -> Vec<Ask> {
            let taken: Vec<_> = std::iter::from_fn(|| self.outlet.take_request()).collect();
            self.answered += u32::try_from(taken.len()).unwrap();
            taken
        }
    }

    fn lead(inbox: &Inbox<Ask>, core: &Mutex<Core>, bell: &Bell) {
        let (reply, pending) = pair();
        inbox.try_push(1, reply).unwrap_or_else(|_| unreachable!("there is room"));
        match core.try_lock().map(|mut core| core.take()) {
            Ok(taken) => taken.into_iter().for_each(|reply| reply.send(Ok(7))),
            Err(_) => bell.nudge(),
        }
        assert_eq!(pending.wait().unwrap(), 7);
    }

    model(|| {
        let (inbox, outlet) = inbox::<Ask>(10).unwrap();
        let bell = outlet.bell();
        let core = Arc::new(Mutex::new(Core { outlet, answered: 0 }));
        let shard = thread::spawn({
            let (core, bell) = (Arc::clone(&core), bell.clone());
            move || loop {
                let mut held = core.lock().unwrap();
                held.take().into_iter().for_each(|reply| reply.send(Ok(7)));
                if held.answered == 2 {
                    return;
                }
                let sleeps = held.outlet.park(Wake::Nudges);
                drop(held);
                if sleeps {
                    bell.hear().unwrap();
                    bell.unpark();
                }
            }
        });
        let client = thread::spawn({
            let (inbox, core, bell) = (inbox.clone(), Arc::clone(&core), bell.clone());
            move || lead(&inbox, &core, &bell)
        });
        lead(&inbox, &core, &bell);
        client.join().unwrap();
        // All is answered: now the thread may look.
        bell.ring();
        shard.join().unwrap();
    });
}
