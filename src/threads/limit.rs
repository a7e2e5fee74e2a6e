//! A limit on open connections that several loops share.
//!
//! Each connection holds one permit of the limit. A loop that has connections to accept and finds
//! no permit joins a queue. A permit that is released goes straight to the first loop in the queue,
//! which is woken. It becomes free only if the queue is empty. So a waiting loop gets its permit in
//! its turn, however busy another loop is.
//!
//! **No wake-up is lost**, because of one rule that holds whenever the lock is free: while a loop
//! is in the queue, no permit is free. A loop joins the queue only when no permit is free, and no
//! permit becomes free while a loop is in the queue. `tests/lost_wakeup.rs` runs this file under a
//! model checker: two or three loops, in every order in which no thread is interrupted more than
//! three times.
//!
//! **No permit is lost, and none is counted twice**, because a loop never counts by itself. At the
//! end of each turn it tells [`Permits::release_unused`] how many connections there are. That
//! releases every permit beyond that number. So it does not matter why a permit was left over: an
//! accept that failed, a handler that panicked, a dial that could not begin.

use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use super::sync::{AtomicBool, Mutex, Ordering};
use crate::id::Token;
use crate::net::Wake;

/// A limit on the connections that several loops have open together.
///
/// Clones share the same limit. Pass it to each loop with
/// [`Reactor::share_limit`](crate::Reactor::share_limit). While the limit is reached no loop
/// accepts, and connections wait in the backlog. When any loop closes a connection, the loop that
/// has waited longest is woken and may accept one.
///
/// ```no_run
/// # use glassloop::{Context, Handler, Origin, Reactor, Verdict, codec::Line};
/// # struct Echo;
/// # impl Handler for Echo {
/// #     type Codec = Line;
/// #     type State = ();
/// #     type Mail = ();
/// #     fn connection(&mut self, _: &Origin) -> (Line, ()) { (Line::default(), ()) }
/// #     fn frame(&mut self, line: &[u8], cx: &mut Context<'_, Self>) -> Verdict {
/// #         cx.send(line);
/// #         Verdict::Continue
/// #     }
/// # }
/// use glassloop::{Config, ConnectionLimit};
///
/// let limit = ConnectionLimit::new(40);
/// for port in [7000, 7001] {
///     let limit = limit.clone();
///     std::thread::spawn(move || {
///         let config = Config { loops: 2, ..Config::default() };
///         let mut reactor = Reactor::new(Echo, config)?;
///         reactor.share_limit(&limit);
///         reactor.listen(("127.0.0.1", port))?;
///         reactor.run()
///     });
/// }
/// ```
#[derive(Clone)]
pub struct ConnectionLimit {
    inner: Arc<Inner>,
}

struct Inner {
    max: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Permits that are taken. It may be more than `max`, because a stopping loop accepts its
    /// backlog beyond the limit.
    open: usize,
    /// Loops that wait for a permit, in the order in which they joined. While there are any, no
    /// permit is free.
    queue: VecDeque<Arc<Waiter>>,
}

/// A loop in the queue.
struct Waiter {
    waker: Arc<dyn Wake>,
    /// True if a permit was granted that the loop has not taken yet. Changed only under the lock.
    granted: AtomicBool,
}

impl ConnectionLimit {
    /// Makes a limit of `max` connections. With 0, no connection is accepted or dialed.
    ///
    /// The largest limit is 4,294,967,295, or 65,535 on 32-bit targets. A larger `max` counts as
    /// that.
    pub fn new(max: usize) -> Self {
        let inner = Inner {
            max: max.min(Token::MAX_SLOTS),
            state: Mutex::new(State::default()),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Returns the number of connections that all loops have open, closing and outgoing ones
    /// included.
    ///
    /// A permit that was granted to a waiting loop counts at once. The number may be above
    /// [`max`](Self::max) while a loop stops. A stopping loop accepts its backlog first, so that no
    /// connection is reset.
    pub fn open(&self) -> usize {
        self.with(|state| state.open)
    }

    /// Returns the largest number of connections that may be open.
    pub fn max(&self) -> usize {
        self.inner.max
    }

    /// Releases a permit, or grants it to the first loop in the queue.
    fn release(&self) {
        let next = self.with(|state| {
            let next = if state.open <= self.inner.max {
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
                .inner
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

/// One loop's part of a limit: the permits that it holds, and its position in the queue. Dropping
/// it releases both.
pub(crate) struct Permits {
    limit: ConnectionLimit,
    waiter: Arc<Waiter>,
    /// Permits that this loop holds, without one that is granted and not taken yet.
    held: usize,
    /// True if the loop is in the queue, or was granted a permit there.
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

    /// Returns the number of connections that all loops have open.
    pub(crate) fn open(&self) -> usize {
        self.limit.open()
    }

    /// Returns true if a loop with `used` connections may open one more. If not, the loop joins the
    /// queue, and is woken when it may.
    ///
    /// A loop that has connections to accept calls this before it blocks in the poller.
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

    /// Takes a permit for one connection more than `used`, if one is available. Returns whether it
    /// was.
    pub(crate) fn try_acquire(&mut self, used: usize) -> bool {
        self.acquire_if(used, Self::may_acquire)
    }

    /// Takes a permit for one connection more than `used`, even beyond the limit.
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
                self.waiting.set(false); // the granted permit is in `open` already
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

    /// Releases all permits but those of `used` connections. Leaves the queue unless
    /// `keep_waiting`, which is true while the loop has connections to accept.
    #[inline]
    pub(crate) fn release_unused(&mut self, used: usize, keep_waiting: bool) {
        debug_assert!(self.held >= used, "a connection has no permit");
        if self.held > used || (!keep_waiting && self.waiting.get()) {
            self.release_all_but(used, keep_waiting);
        }
    }

    fn release_all_but(&mut self, used: usize, keep_waiting: bool) {
        while self.held > used {
            self.held -= 1;
            self.limit.release();
        }
        if !keep_waiting && self.waiting.replace(false) {
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
