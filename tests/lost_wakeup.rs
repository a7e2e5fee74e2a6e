//! Model checks of the mailbox and of the connection limit that loops share, in every thread order.
//!
//! The mailbox never leaves a message without a wake-up. The limit never leaves a permit free while
//! a loop that waits for one sleeps.
//!
//! Both are the library's own source, compiled with loom's locks. An order in which the loop sleeps
//! for ever shows as a deadlock. loom preempts a thread at most three times in a run (once with
//! three senders): few bugs need more.

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

/// In place of the library's `sync`, which is std's.
mod sync {
    pub(crate) use loom::sync::Mutex;
    pub(crate) use loom::sync::atomic::{AtomicBool, Ordering};
}

/// In place of the library's connection ids.
mod id {
    pub(crate) struct Token;

    impl Token {
        pub(crate) const MAX_SLOTS: usize = 1000;
    }
}

/// In place of the library's poller.
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

/// A poller with nothing but a waker. Like an eventfd, it keeps one wake-up until the next poll.
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

    /// Sleeps until woken, unless `at_once`. Consumes the wake-up in both cases.
    fn poll(&self, at_once: bool) {
        let mut woken = self.woken.lock().unwrap();
        while !*woken && !at_once {
            woken = self.sleeper.wait(woken).unwrap();
        }
        *woken = false;
    }
}

/// A mailbox whose messages are a sender's number and the message's number. The shared state is
/// whether to stop.
type Post = Mailbox<(usize, usize), bool>;

/// A mailbox, and the poller that it wakes.
type Shared<M> = Arc<(M, Poller)>;

fn every_order(model: impl Fn() + Send + Sync + 'static) {
    orders(3, model);
}

fn orders(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

fn post(shared: &Shared<Post>, message: (usize, usize)) -> PutOutcome<(usize, usize), ()> {
    let (mailbox, poller) = &**shared;
    mailbox.put(message, |message| message, 1, |_| Ok(()), || poller.wake())
}

/// Starts `count` senders, each of which sends `messages` messages.
fn senders(shared: &Shared<Post>, count: usize, messages: usize) {
    for sender in 0..count {
        let shared = shared.clone();
        thread::spawn(move || {
            (0..messages).for_each(|n| assert_eq!(post(&shared, (sender, n)), PutOutcome::Done));
        });
    }
}

/// Runs a loop as the reactor does: it sleeps unless messages are left, takes new ones when none
/// are left, and handles at most `per_turn` of them.
///
/// Ends when `wanted` messages were handled and, with `until_stopped`, a stop has arrived. Returns
/// the messages in the order in which they were handled.
fn run(
    shared: &Shared<Post>,
    per_turn: usize,
    wanted: usize,
    until_stopped: bool,
) -> Vec<(usize, usize)> {
    let (mailbox, poller) = &**shared;
    let (mut messages, mut read, mut stopped) = (VecDeque::new(), Vec::new(), false);
    while read.len() < wanted || stopped != until_stopped {
        // Without `is_notified` here, a poll with messages left over would consume the wake-up, and
        // the next poll would sleep although the mailbox is not empty.
        poller.poll(!messages.is_empty() || mailbox.is_notified());
        if messages.is_empty() && mailbox.is_notified() {
            stopped |= mailbox.take(&mut messages, |_, stop| std::mem::take(stop));
        }
        read.extend(messages.drain(..per_turn.min(messages.len())));
    }
    assert_eq!(read.len(), wanted, "a message arrived twice");
    read
}

/// Asserts that each sender's messages arrived in the order in which it sent them.
fn assert_in_order(read: &[(usize, usize)], count: usize, messages: usize) {
    for sender in 0..count {
        let from_sender: Vec<usize> = read
            .iter()
            .filter(|(from, _)| *from == sender)
            .map(|(_, n)| *n)
            .collect();
        assert_eq!(from_sender, (0..messages).collect::<Vec<_>>());
    }
}

#[test]
fn every_message_is_taken_whatever_the_thread_order() {
    for (preemptions, count, messages) in [(3, 2, 2), (1, 3, 1)] {
        orders(preemptions, move || {
            let shared: Shared<Post> = Arc::new((Mailbox::new(100), Poller::default()));
            senders(&shared, count, messages);
            assert_in_order(
                &run(&shared, usize::MAX, count * messages, false),
                count,
                messages,
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

/// Takes once from the mailbox while two threads put a message each. When both have ended, either
/// no message is left or the poller will wake the loop.
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
            "a message is left, and nothing will wake the loop"
        );
    });
}

/// The mailbox's protocol in its smallest form.
#[derive(Default)]
struct MiniMailbox {
    messages: Mutex<usize>,
    notified: AtomicBool,
}

impl MiniMailbox {
    fn put(shared: &Shared<Self>) {
        *shared.0.messages.lock().unwrap() += 1;
        if !shared.0.notified.swap(true, Ordering::AcqRel) {
            shared.1.wake();
        }
    }

    fn clear_flag(&self) {
        self.notified.swap(false, Ordering::AcqRel);
    }

    fn take(&self) -> usize {
        std::mem::take(&mut *self.messages.lock().unwrap())
    }
}

#[test]
fn flag_cleared_before_messages_are_taken_loses_no_wake_up() {
    nothing_is_left_without_a_wake_up(MiniMailbox::put, |mailbox| {
        mailbox.clear_flag();
        mailbox.take()
    });
}

#[test]
#[should_panic(expected = "nothing will wake the loop")]
fn flag_cleared_after_messages_are_taken_loses_a_wake_up() {
    nothing_is_left_without_a_wake_up(MiniMailbox::put, |mailbox| {
        let read = mailbox.take();
        mailbox.clear_flag();
        read
    });
}

/// A loop that shares `limit`, with its poller and no connection.
fn member(limit: &ConnectionLimit) -> (Permits, std::sync::Arc<Poller>) {
    let poller = std::sync::Arc::new(Poller::default());
    (Permits::new(limit, poller.clone(), 0), poller)
}

/// Serves `waiting` connections as the reactor does: accepts one when there is a permit, closes it,
/// and sleeps while there is none.
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
        assert_eq!(limit.open(), 0, "a permit was lost");
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
        // Still in the queue, or with the permit that it was granted there.
        leaving.release_unused(0, false);
        for other in others {
            other.join().unwrap();
        }
        assert_eq!(limit.open(), 0, "a permit was lost");
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
        drop(dropped); // as after a panic
        other.join().unwrap();
        assert_eq!(limit.open(), 0, "a permit was lost");
    });
}
