//! The mailbox in every order that its threads can run in: no letter is left behind a bell that
//! is not heard. And the limit of connections that loops share: no place is left free while a loop
//! sleeps that waits for one.
//!
//! Both are the library's own source, over the model checker's locks. An order in which the loop
//! sleeps for ever is found as a deadlock. At most three times in a run is a thread interrupted
//! where it did not wait by itself (once, with three senders): few faults need more.

use std::collections::VecDeque;

use loom::model::Builder;
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

#[path = "../src/threads/limit.rs"]
#[allow(dead_code, unreachable_pub)]
mod limit;
#[path = "../src/threads/mailbox.rs"]
#[allow(dead_code)]
mod mailbox;

/// What both find where the library has std's.
mod sync {
    pub(crate) use loom::sync::Mutex;
    pub(crate) use loom::sync::atomic::{AtomicBool, Ordering};
}

/// What the limit finds where the library has a connection's name.
mod id {
    pub(crate) struct Token;

    impl Token {
        pub(crate) const MAX_SLOTS: usize = 1000;
    }
}

/// And where it has the poller.
mod net {
    pub(crate) trait Wake: Send + Sync {
        fn wake(&self);
    }

    impl Wake for super::Poller {
        fn wake(&self) {
            super::Poller::wake(self);
        }
    }
}

use limit::{ConnectionLimit, Permits};
use mailbox::{Mailbox, PutOutcome};
use sync::{AtomicBool, Ordering};

/// A poller with nothing but a waker: like an eventfd it remembers that it was woken, once, until somebody has slept on it.
#[derive(Default)]
struct Poller {
    woken: Mutex<bool>,
    sleeper: Condvar,
}

impl Poller {
    fn wake(&self) {
        *self.woken.lock().unwrap() = true;
        self.sleeper.notify_one();
    }

    /// Sleeps until woken, unless there is something to do already; the wake-up is used up in both cases.
    fn poll(&self, at_once: bool) {
        let mut woken = self.woken.lock().unwrap();
        while !*woken && !at_once {
            woken = self.sleeper.wait(woken).unwrap();
        }
        *woken = false;
    }
}

/// A letter is its sender's number and how many of his came before it. What is agreed on is whether to stop.
type Post = Mailbox<(usize, usize), bool>;

/// One end of a mailbox, and the poller behind it.
type Shared<M> = Arc<(M, Poller)>;

fn every_order(model: impl Fn() + Send + Sync + 'static) {
    orders(3, model);
}

fn orders(interruptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(interruptions);
    builder.check(model);
}

fn post(shared: &Shared<Post>, letter: (usize, usize)) -> PutOutcome<(usize, usize), ()> {
    let (mailbox, poller) = &**shared;
    mailbox.put(letter, |letter| letter, 1, |_| Ok(()), || poller.wake())
}

/// So many senders, of so many letters each.
fn senders(shared: &Shared<Post>, count: usize, letters: usize) {
    for sender in 0..count {
        let shared = shared.clone();
        thread::spawn(move || {
            (0..letters).for_each(|n| assert_eq!(post(&shared, (sender, n)), PutOutcome::Done));
        });
    }
}

/// What the reactor does: sleeps unless something is left to do, takes if nothing is left from before, and reads so many at most.
///
/// Returns the letters in the order in which they were read, once there are `wanted` of them and, if it is to wait for that, it was told to stop.
fn run(
    shared: &Shared<Post>,
    per_turn: usize,
    wanted: usize,
    until_stopped: bool,
) -> Vec<(usize, usize)> {
    let (mailbox, poller) = &**shared;
    let (mut letters, mut read, mut stopped) = (VecDeque::new(), Vec::new(), false);
    while read.len() < wanted || stopped != until_stopped {
        // Without the bell in this line a loop with letters left from before hears it in the poll, forgets it, and sleeps.
        poller.poll(!letters.is_empty() || mailbox.is_notified());
        if letters.is_empty() && mailbox.is_notified() {
            stopped |= mailbox.take(&mut letters, |_, stop| std::mem::take(stop));
        }
        read.extend(letters.drain(..per_turn.min(letters.len())));
    }
    assert_eq!(read.len(), wanted, "a letter came twice");
    read
}

/// Each sender's letters are there, in the order in which he wrote them.
fn assert_in_order(read: &[(usize, usize)], count: usize, letters: usize) {
    for sender in 0..count {
        let from_him: Vec<usize> = read
            .iter()
            .filter(|(from, _)| *from == sender)
            .map(|(_, n)| *n)
            .collect();
        assert_eq!(from_him, (0..letters).collect::<Vec<_>>());
    }
}

#[test]
fn every_message_is_taken_whatever_the_thread_order() {
    for (interruptions, count, letters) in [(3, 2, 2), (1, 3, 1)] {
        orders(interruptions, move || {
            let shared: Shared<Post> = Arc::new((Mailbox::new(100), Poller::default()));
            senders(&shared, count, letters);
            assert_in_order(
                &run(&shared, usize::MAX, count * letters, false),
                count,
                letters,
            );
        });
    }
}

#[test]
fn loop_that_reads_one_message_a_turn_never_sleeps_over_one() {
    every_order(|| {
        let shared: Shared<Post> = Arc::new((Mailbox::new(100), Poller::default()));
        senders(&shared, 1, 3);
        assert_in_order(&run(&shared, 1, 3, false), 1, 3);
    });
}

#[test]
fn stop_and_messages_sent_at_the_same_time_all_arrive() {
    every_order(|| {
        let shared: Shared<Post> = Arc::new((Mailbox::new(100), Poller::default()));
        senders(&shared, 1, 2);
        let stopping = shared.clone();
        thread::spawn(move || {
            let (mailbox, poller) = &*stopping;
            mailbox.with(|stop| *stop = true);
            mailbox.notify(|| poller.wake());
        });
        assert_in_order(&run(&shared, usize::MAX, 2, true), 1, 2);
    });
}

#[test]
fn full_mailbox_refuses_and_keeps_accepted_messages() {
    every_order(|| {
        let shared: Shared<Post> = Arc::new((Mailbox::new(1), Poller::default()));
        let sender = {
            let shared = shared.clone();
            thread::spawn(move || {
                (0..2)
                    .filter(|n| post(&shared, (0, *n)) == PutOutcome::Done)
                    .count()
            })
        };
        let first = run(&shared, usize::MAX, 1, false);
        let (mut rest, taken) = (VecDeque::new(), sender.join().unwrap());
        shared.0.take(&mut rest, |_, _| ());
        assert_eq!((first, rest.len()), (vec![(0, 0)], taken - 1));
    });
}

/// One look into the mailbox, beside two who write a letter each. When all is quiet, either nothing is left or the poller will wake the loop.
fn nothing_is_left_without_a_wake_up<M: Default + Send + Sync + 'static>(
    put: fn(&Shared<M>),
    take: fn(&M) -> usize,
) {
    every_order(move || {
        let shared: Shared<M> = Arc::default();
        let senders = [(); 2].map(|()| {
            let shared = shared.clone();
            thread::spawn(move || put(&shared))
        });
        shared.1.poll(false);
        let read = take(&shared.0);
        for sender in senders {
            sender.join().unwrap();
        }
        let woken = *shared.1.woken.lock().unwrap();
        assert!(
            read == 2 || woken,
            "a letter lies there, and nobody will wake the loop"
        );
    });
}

/// The same protocol by hand, in few words.
#[derive(Default)]
struct ByHand {
    letters: Mutex<usize>,
    rung: AtomicBool,
}

impl ByHand {
    fn put(shared: &Shared<Self>) {
        *shared.0.letters.lock().unwrap() += 1;
        if !shared.0.rung.swap(true, Ordering::AcqRel) {
            shared.1.wake();
        }
    }

    fn silence(&self) {
        self.rung.swap(false, Ordering::AcqRel);
    }

    fn take(&self) -> usize {
        std::mem::take(&mut *self.letters.lock().unwrap())
    }
}

#[test]
fn flag_cleared_before_messages_are_taken_loses_no_wake_up() {
    nothing_is_left_without_a_wake_up(ByHand::put, |mailbox| {
        mailbox.silence();
        mailbox.take()
    });
}

#[test]
#[should_panic(expected = "nobody will wake the loop")]
fn flag_cleared_after_messages_are_taken_loses_a_wake_up() {
    nothing_is_left_without_a_wake_up(ByHand::put, |mailbox| {
        let read = mailbox.take();
        mailbox.silence();
        read
    });
}

/// A loop of a limit, with its poller and no connection.
fn member(limit: &ConnectionLimit) -> (Permits, std::sync::Arc<Poller>) {
    let poller = std::sync::Arc::new(Poller::default());
    (Permits::new(limit, poller.clone(), 0), poller)
}

/// What the reactor does with `waiting` connections: accepts one and closes it, as often as it may,
/// and sleeps in between.
fn accept(limit: &ConnectionLimit, waiting: usize) {
    let (mut permits, poller) = member(limit);
    for left in (0..waiting).rev() {
        while !permits.try_acquire(0) {
            poller.poll(permits.can_acquire(0));
        }
        permits.release_unused(1, left > 0);
        assert!(limit.open() <= limit.max());
        permits.release_unused(0, left > 0);
    }
}

#[test]
fn released_permit_wakes_a_loop_that_waits_for_one() {
    every_order(|| {
        let limit = ConnectionLimit::new(1);
        let other = {
            let limit = limit.clone();
            thread::spawn(move || accept(&limit, 2))
        };
        accept(&limit, 2);
        other.join().unwrap();
        assert_eq!(limit.open(), 0, "a place was lost");
    });
}

#[test]
fn loop_that_needs_no_permit_any_more_passes_it_on() {
    every_order(|| {
        let limit = ConnectionLimit::new(1);
        let (mut holder, _) = member(&limit);
        let (mut leaving, _) = member(&limit);
        assert!(holder.try_acquire(0) && !leaving.can_acquire(0));
        let others = [
            thread::spawn(move || holder.release_unused(0, false)),
            thread::spawn({
                let limit = limit.clone();
                move || accept(&limit, 1)
            }),
        ];
        leaving.release_unused(0, false); // still in the queue, or with the place that it was granted there
        for other in others {
            other.join().unwrap();
        }
        assert_eq!(limit.open(), 0, "a place was lost");
    });
}

#[test]
fn dropped_loop_passes_its_permit_to_the_next() {
    every_order(|| {
        let limit = ConnectionLimit::new(1);
        let (mut dropped, _) = member(&limit);
        assert!(dropped.try_acquire(0));
        let other = {
            let limit = limit.clone();
            thread::spawn(move || accept(&limit, 1))
        };
        drop(dropped); // as it is after a panic
        other.join().unwrap();
        assert_eq!(limit.open(), 0, "a place was lost");
    });
}
