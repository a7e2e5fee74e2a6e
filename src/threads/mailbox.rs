//! Letters from other threads: a bounded queue, and a bell that wakes the loop.
//!
//! First the letter, then the bell; the loop first silences the bell, then takes the letters. So a
//! letter is either taken, or its bell is still to be heard; and however many are written while the
//! loop is busy, the bell rings once. `tests/lost_wakeup.rs` has a model checker try every
//! order in which the threads can do that.

use std::collections::VecDeque;
use std::mem;

use super::sync::{AtomicBool, Mutex, Ordering};

/// The queue. `L` are the letters, `S` what sender and receiver have to agree on besides.
#[derive(Debug)]
pub(crate) struct Mailbox<L, S> {
    inside: Mutex<Inside<L, S>>,
    /// Set from the moment when the bell is rung until the loop comes to look.
    notified: AtomicBool,
    cap: usize,
}

#[derive(Debug)]
pub(crate) struct Inside<L, S> {
    posts: VecDeque<L>,
    /// What the waiting letters take, by their senders' account.
    weight: usize,
    pub(crate) shared: S,
}

impl<L, S: Default> Mailbox<L, S> {
    /// A mailbox whose letters may weigh `cap` in all.
    pub(crate) fn new(cap: usize) -> Self {
        let inside = Inside {
            posts: VecDeque::new(),
            weight: 0,
            shared: S::default(),
        };
        Self {
            inside: Mutex::new(inside),
            notified: AtomicBool::new(false),
            cap,
        }
    }

    /// Looks at, or changes, what is agreed on.
    pub(crate) fn with<R>(&self, look: impl FnOnce(&mut S) -> R) -> R {
        look(&mut self.lock().shared)
    }

    /// Puts in the letter that `write` makes of `content`, if there is room for its weight and `admit` finds nothing against it, and rings if nobody has yet.
    ///
    /// A letter that is heavier than all may be is taken if it is the only one: else it could never be sent.
    pub(crate) fn put<T, E>(
        &self,
        content: T,
        write: impl FnOnce(T) -> L,
        weight: usize,
        admit: impl FnOnce(&S) -> Result<(), E>,
        notify: impl FnOnce(),
    ) -> PutOutcome<T, E> {
        let mut inside = self.lock();
        if let Err(error) = admit(&inside.shared) {
            return PutOutcome::Refused(content, error);
        }
        if inside.weight > 0 && inside.weight.saturating_add(weight) > self.cap {
            return PutOutcome::Full(content);
        }
        inside.posts.push_back(write(content));
        inside.weight = inside.weight.saturating_add(weight);
        drop(inside);
        self.notify(notify);
        PutOutcome::Done
    }

    /// Wakes the loop, if nobody has since it last looked.
    pub(crate) fn notify(&self, notify: impl FnOnce()) {
        if !self.notified.swap(true, Ordering::AcqRel) {
            notify();
        }
    }

    /// Whether there may be something to take. The look that costs least.
    pub(crate) fn is_notified(&self) -> bool {
        self.notified.load(Ordering::Acquire)
    }

    /// Takes all letters out, into an empty queue, and lets `look` see their weight and the rest.
    pub(crate) fn take<R>(
        &self,
        into: &mut VecDeque<L>,
        look: impl FnOnce(usize, &mut S) -> R,
    ) -> R {
        // First the bell: who writes from here on rings again.
        self.notified.swap(false, Ordering::AcqRel);
        let mut inside = self.lock();
        mem::swap(&mut inside.posts, into);
        let weight = mem::take(&mut inside.weight);
        look(weight, &mut inside.shared)
    }

    /// Bytes of memory that the waiting letters take: what their queue has room for, and their
    /// weight.
    pub(crate) fn heap(&self) -> usize {
        let inside = self.lock();
        heap_of(&inside.posts, inside.weight)
    }

    fn lock(&self) -> impl std::ops::DerefMut<Target = Inside<L, S>> + '_ {
        // Nobody panics while it is held; if somebody did, what is in it would still be whole.
        self.inside
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Bytes of memory that letters of this weight take, and the queue that they are in. Their own size
/// is a part of both.
pub(crate) fn heap_of<L>(posts: &VecDeque<L>, weight: usize) -> usize {
    posts.capacity() * size_of::<L>() + weight.saturating_sub(posts.len() * size_of::<L>())
}

/// What became of a letter.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PutOutcome<T, E> {
    /// It waits for the loop.
    Done,
    /// There is no room for it now.
    Full(T),
    /// There is something against it.
    Refused(T, E),
}
