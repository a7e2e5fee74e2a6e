//! The interface for the program that owns the loop, for use between two turns.

use std::time::Instant;

use crate::config::Config;
use crate::error::panics::catch;
use crate::handler::{Context, Handler};
use crate::id::ConnectionId;
use crate::net::Net;
use crate::observe::{Counters, Observer, Step};
use crate::reactor::Reactor;
use crate::state::{Stop, Verdict};
use crate::threads::Handle;
use crate::time::TimerId;

impl<H: Handler, N: Net> Reactor<H, N> {
    /// Returns when the next turn is due even if no event comes: now, if there is work left; `None`
    /// if it can sleep without a limit.
    ///
    /// For a program that has its own loop: wait until this time, or until the poller's descriptor
    /// (`AsFd`, on Unix) is readable, then take a turn of `Duration::ZERO`.
    pub fn next_deadline(&self) -> Option<Instant> {
        let due = self.due()?;
        self.shared.now().checked_add(self.shared.clock.left(due))
    }

    /// Runs `callback` on an open connection, as if it were one of the handler's own callbacks.
    /// Returns whether the connection exists and is open.
    ///
    /// The next turn sends its replies and applies its verdict. A panic in it closes the
    /// connection.
    ///
    /// Call it between turns. It reads the clock first.
    pub fn with(
        &mut self,
        id: ConnectionId,
        callback: impl FnOnce(&mut H, &mut Context<'_, H>) -> Verdict,
    ) -> bool {
        self.update_clock();
        let was_there = catch(|| self.call(id, callback)).unwrap_or_else(|payload| {
            self.close_after_panic(payload);
            true
        });
        self.slots.clear_panic_suspect();
        if !was_there {
            self.shared.observe.note(|| Step::Stale);
        }
        was_there
    }

    /// Stops the loop, as a [`Handle`] does from another thread. The next turns carry it out.
    pub fn stop(&mut self, how: Stop) {
        self.shared.commands.stop(how);
    }

    /// Sets a timer that calls [`Handler::loop_timer`] at `at`; see
    /// [`LoopContext::set_timer`](crate::LoopContext::set_timer).
    pub fn set_timer(&mut self, at: Instant) -> TimerId {
        self.update_clock();
        self.shared.timers.set(at, None, &self.shared.clock)
    }

    /// Cancels a timer, of the loop or of a connection. Returns whether it had yet to fire.
    pub fn cancel_timer(&mut self, timer: TimerId) -> bool {
        self.shared.timers.cancel(timer)
    }

    /// Returns a handle to this loop, for other threads.
    pub fn handle(&self) -> Handle<H::Mail> {
        self.mailbox.handle()
    }

    /// Returns the handler.
    pub fn handler(&mut self) -> &mut H {
        &mut self.handler
    }

    /// Drops the reactor and returns the handler. Open connections are closed without a flush.
    pub fn into_handler(self) -> H {
        self.handler
    }

    /// Sets the observer that sees every step from now on. It replaces the previous one.
    pub fn set_observer(&mut self, observer: impl Observer + 'static) {
        self.shared.observe.set_observer(observer);
    }

    /// Returns how often each step has occurred.
    pub fn counters(&self) -> Counters {
        self.shared.observe.counters()
    }

    /// Returns the limits that the reactor was made with.
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// Returns the number of connections, closing ones included.
    pub fn connections(&self) -> usize {
        self.slots.len()
    }

    /// Returns the maximum number of connections: [`Config::max_connections`], or the value derived
    /// in its place. With a [shared limit](Self::share_limit), it is the maximum of all its loops
    /// together.
    pub fn max_connections(&self) -> usize {
        self.max_connections
    }

    /// Reads the clock between two turns, for a call that the program makes there.
    pub(super) fn update_clock(&mut self) {
        let due = self.due();
        self.shared.clock.advance(self.net.now(), due);
    }
}
