//! A limit on open connections that several loops share.
//!
//! Each connection holds one of the limit's places. A loop that has connections to accept and finds
//! no place joins a queue. A place that is given back goes straight to the first loop in the queue,
//! which is woken; only with an empty queue does it become free. So a loop that waits gets its
//! place in its turn, however busy another one is.
//!
//! **No wake-up is lost**, because of one rule that holds whenever the lock is free: while a loop
//! is in the queue, no place is free. A loop joins the queue only when no place is free, and no
//! place becomes free while a loop is in the queue. `tests/lost_wakeup.rs` runs this file under a
//! model checker: two or three loops, in every order in which no thread is interrupted more than
//! three times.
//!
//! **No place is lost, and none is counted twice**, because a loop never counts by itself:
//! [`Permits::release_unused`] is told at the end of each turn how many connections there are, and gives back
//! every place beyond that. So it does not matter on which way a place was left over: an accept
//! that failed, a handler that panicked, a dial that could not begin.

use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use super::sync::{AtomicBool, Mutex, Ordering};
use crate::id::Token;
use crate::net::Wake;

/// A limit on the connections that several loops have open together: one number for all, however
/// they are spread.
///
/// Clones share the same limit. Give it to each loop with
/// [`Reactor::share_limit`](crate::Reactor::share_limit). While all places are taken no loop
/// accepts, and connections wait in the backlog. A place that any loop gives back wakes a loop that
/// has connections to accept, in the order in which the loops began to wait.
///
/// ```no_run
/// # use glassloop::{Context, Handler, Origin, Reactor, Verdict, codec::Line};
/// # struct Echo;
/// # impl Handler for Echo {
/// #     type Codec = Line;
/// #     type State = ();
/// #     type Mail = ();
/// #     fn connection(&mut self, _: &Origin) -> (Line, ()) { (Line::default(), ()) }
/// #     fn frame(&mut self, line: &[u8], cx: &mut Context<'_, Self>) -> Verdict { cx.send(line); Verdict::Continue }
/// # }
/// use glassloop::{Config, ConnectionLimit};
///
/// let limit = ConnectionLimit::new(40);
/// for port in [7000, 7001] {
///     let limit = limit.clone();
///     std::thread::spawn(move || {
///         let mut reactor = Reactor::new(Echo, Config { loops: 2, ..Config::default() })?;
///         reactor.share_limit(&limit);
///         reactor.listen(("127.0.0.1", port))?;
///         reactor.run()
///     });
/// }
/// ```
#[derive(Clone)]
pub struct ConnectionLimit {
    inside: Arc<Inside>,
}

struct Inside {
    max: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Places that are taken. A loop that stops accepts its backlog beyond the limit, so it may be
    /// more than `max`.
    open: usize,
    /// Loops that wait for a place, in the order in which they began to. While there are any, no
    /// place is free.
    queue: VecDeque<Arc<Waiter>>,
}

/// A loop, as the queue sees it.
struct Waiter {
    waker: Arc<dyn Wake>,
    /// Whether a place was handed over that the loop has not taken yet. Changed under the lock
    /// only.
    granted: AtomicBool,
}

impl ConnectionLimit {
    /// Makes a limit of `max` connections, at most [`Token::MAX_SLOTS`]. With 0 nothing is accepted
    /// or dialed.
    pub fn new(max: usize) -> Self {
        let inside = Inside {
            max: max.min(Token::MAX_SLOTS),
            state: Mutex::new(State::default()),
        };
        Self {
            inside: Arc::new(inside),
        }
    }

    /// The connections that all loops together have open now, closing and outgoing ones included.
    ///
    /// A place that was handed to a waiting loop counts from then on. The number may be above
    /// [`max`](Self::max) while a loop stops: it accepts its backlog first, so that no connection
    /// is reset.
    pub fn open(&self) -> usize {
        self.with(|state| state.open)
    }

    /// The most connections that may be open.
    pub fn max(&self) -> usize {
        self.inside.max
    }

    /// Gives a place back, or hands it to the first loop in the queue.
    fn release(&self) {
        let next = self.with(|state| {
            let next = if state.open <= self.inside.max {
                state.queue.pop_front()
            } else {
                None
            };
            match &next {
                Some(waiter) => waiter.granted.store(true, Ordering::Release),
                None => state.open -= 1,
            }
            next
        });
        if let Some(waiter) = next {
            waiter.waker.wake();
        }
    }

    fn with<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        // No code panics while holding this lock, so a poisoned lock still holds valid data.
        change(
            &mut self
                .inside
                .state
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
        )
    }
}

impl fmt::Debug for ConnectionLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (open, waiting) = self.with(|state| (state.open, state.queue.len()));
        f.debug_struct("ConnectionLimit")
            .field("open", &open)
            .field("max", &self.max())
            .field("waiting", &waiting)
            .finish()
    }
}

/// One loop's part of a limit: the places that it holds, and its position in the queue. Dropped, it
/// gives both back.
pub(crate) struct Permits {
    limit: ConnectionLimit,
    waiter: Arc<Waiter>,
    /// Places that this loop holds, without one that is granted and not taken yet.
    held: usize,
    /// Whether the loop is in the queue, or was granted a place there.
    waiting: Cell<bool>,
}

impl Permits {
    /// Joins `limit` with `held` connections that are open already.
    pub(crate) fn new(limit: &ConnectionLimit, waker: Arc<dyn Wake>, held: usize) -> Self {
        limit.with(|state| state.open += held);
        let waiter = Arc::new(Waiter {
            waker,
            granted: AtomicBool::new(false),
        });
        Self {
            limit: limit.clone(),
            waiter,
            held,
            waiting: Cell::new(false),
        }
    }

    /// The connections that all loops have open.
    pub(crate) fn open(&self) -> usize {
        self.limit.open()
    }

    /// Whether a loop with `used` connections may have one more. If not, it joins the queue, and is
    /// woken when it may.
    ///
    /// A loop that has connections to accept asks before it sleeps.
    pub(crate) fn can_acquire(&self, used: usize) -> bool {
        self.held > used
            || self.limit.with(|state| {
                let may = self.may_acquire(state);
                if !may && !self.waiting.replace(true) {
                    state.queue.push_back(self.waiter.clone());
                }
                may
            })
    }

    /// Takes a place for one connection more than `used`, if it may.
    pub(crate) fn try_acquire(&mut self, used: usize) -> bool {
        self.acquire_if(used, Self::may_acquire)
    }

    /// Takes a place for one connection more than `used`, whether or not one is free.
    pub(crate) fn acquire_beyond_limit(&mut self, used: usize) {
        self.acquire_if(used, |_, _| true);
    }

    fn acquire_if(&mut self, used: usize, may: impl FnOnce(&Self, &State) -> bool) -> bool {
        if self.held > used {
            return true;
        }
        let taken = self.limit.with(|state| {
            let may = may(self, state);
            if may && self.waiter.granted.swap(false, Ordering::AcqRel) {
                self.waiting.set(false); // that place counts already
            } else if may {
                state.open += 1;
            }
            may
        });
        self.held += usize::from(taken);
        taken
    }

    fn may_acquire(&self, state: &State) -> bool {
        self.waiter.granted.load(Ordering::Acquire) || state.open < self.limit.max()
    }

    /// Gives back all places but those of `used` connections, and leaves the queue unless the loop
    /// `wants` to accept.
    #[inline]
    pub(crate) fn release_unused(&mut self, used: usize, wants: bool) {
        debug_assert!(self.held >= used, "a connection has no place");
        if self.held > used || (!wants && self.waiting.get()) {
            self.release_all_but(used, wants);
        }
    }

    fn release_all_but(&mut self, used: usize, wants: bool) {
        while self.held > used {
            self.held -= 1;
            self.limit.release();
        }
        if !wants && self.waiting.replace(false) {
            let granted = self.limit.with(|state| {
                state
                    .queue
                    .retain(|waiter| !Arc::ptr_eq(waiter, &self.waiter));
                self.waiter.granted.swap(false, Ordering::AcqRel)
            });
            if granted {
                self.limit.release();
            }
        }
    }
}

impl Drop for Permits {
    fn drop(&mut self) {
        self.release_unused(0, false);
    }
}
