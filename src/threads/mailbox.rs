//! The mailbox: a bounded queue of messages from other threads, and a flag that the loop was woken.
//!
//! A sender first queues its message and then wakes the loop. The loop first clears the flag and
//! then takes the messages. So a message is either taken, or its wake-up is still pending. However
//! many messages are queued while the loop is busy, the loop is woken once. `tests/lost_wakeup.rs`
//! has a model checker try every order in which the threads can run.

use std::collections::VecDeque;
use std::mem;

use super::sync::{AtomicBool, Mutex, Ordering};

/// The queue. `P` is the type of the messages; `S` is state that senders and receiver share.
#[derive(Debug)]
pub(crate) struct Mailbox<P, S> {
    inner: Mutex<Inner<P, S>>,
    /// Set when the loop is woken, until the loop takes the messages.
    notified: AtomicBool,
    cap: usize,
}

#[derive(Debug)]
pub(crate) struct Inner<P, S> {
    posts: VecDeque<P>,
    /// Bytes that the queued messages take, as their senders declared.
    weight: usize,
    pub(crate) shared: S,
}

impl<P, S: Default> Mailbox<P, S> {
    /// Makes a mailbox for messages of at most `cap` bytes together.
    pub(crate) fn new(cap: usize) -> Self {
        let inner = Inner {
            posts: VecDeque::new(),
            weight: 0,
            shared: S::default(),
        };
        Self {
            inner: Mutex::new(inner),
            notified: AtomicBool::new(false),
            cap,
        }
    }

    /// Reads or changes the shared state.
    pub(crate) fn with<R>(&self, inspect: impl FnOnce(&mut S) -> R) -> R {
        inspect(&mut self.lock().shared)
    }

    /// Queues the message that `wrap` makes of `content`, and wakes the loop unless that was done
    /// already.
    ///
    /// It fails if `admit` fails, or if there is no room for `weight` more bytes. A message that is
    /// larger than the cap is accepted if the queue is empty. Otherwise it could never be sent.
    pub(crate) fn put<T, E>(
        &self,
        content: T,
        wrap: impl FnOnce(T) -> P,
        weight: usize,
        admit: impl FnOnce(&S) -> Result<(), E>,
        notify: impl FnOnce(),
    ) -> PutOutcome<T, E> {
        let mut inner = self.lock();
        if let Err(error) = admit(&inner.shared) {
            return PutOutcome::Refused(content, error);
        }
        if inner.weight > 0 && inner.weight.saturating_add(weight) > self.cap {
            return PutOutcome::Full(content);
        }
        inner.posts.push_back(wrap(content));
        inner.weight = inner.weight.saturating_add(weight);
        drop(inner);
        self.notify(notify);
        PutOutcome::Done
    }

    /// Wakes the loop, unless it was woken since it last took messages.
    pub(crate) fn notify(&self, notify: impl FnOnce()) {
        if !self.notified.swap(true, Ordering::AcqRel) {
            notify();
        }
    }

    /// Returns true if there may be messages to take. Costs one atomic load.
    pub(crate) fn is_notified(&self) -> bool {
        self.notified.load(Ordering::Acquire)
    }

    /// Moves all messages into an empty queue, and runs `inspect` with their weight and the shared
    /// state.
    pub(crate) fn take<R>(
        &self,
        into: &mut VecDeque<P>,
        inspect: impl FnOnce(usize, &mut S) -> R,
    ) -> R {
        // First the flag: a sender that queues a message from here on wakes the loop again.
        self.notified.swap(false, Ordering::AcqRel);
        let mut inner = self.lock();
        mem::swap(&mut inner.posts, into);
        let weight = mem::take(&mut inner.weight);
        inspect(weight, &mut inner.shared)
    }

    /// Returns the bytes of memory that the queued messages take: the capacity of the queue, and
    /// their weight.
    pub(crate) fn heap(&self) -> usize {
        let inner = self.lock();
        heap_of(&inner.posts, inner.weight)
    }

    fn lock(&self) -> impl std::ops::DerefMut<Target = Inner<P, S>> + '_ {
        // No code panics while holding this lock, so a poisoned lock still holds valid data.
        self.inner
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Returns the bytes of memory that messages of this weight and their queue take. Both include the
/// messages' own size, which is counted once.
pub(crate) fn heap_of<P>(posts: &VecDeque<P>, weight: usize) -> usize {
    posts.capacity() * size_of::<P>() + weight.saturating_sub(posts.len() * size_of::<P>())
}

/// The result of [`Mailbox::put`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PutOutcome<T, E> {
    /// The message waits for the loop.
    Done,
    /// There is no room for it now.
    Full(T),
    /// `admit` failed.
    Refused(T, E),
}
