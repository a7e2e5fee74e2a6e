//! EMBED

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
    /// When the next turn is due even if no event comes: now, if something was left undone; `None` if it can sleep for ever.
    ///
    /// For a program that has a loop of its own: it waits until then, or until the poller's descriptor
    /// (`AsFd`, on Unix) is readable, and then takes a turn of zero.
    pub fn next_deadline(&self) -> Option<Instant> {
        let due = self.due()?;
        self.shared.now().checked_add(self.shared.clock.left(due))
    }

    /// Runs `callback` on an open connection, as if it were one of the handler's own: the next turn sends its replies and
    /// carries out its verdict, and a panic in it closes the connection. Returns whether the connection was there and open.
    ///
    /// For use between turns, by the program that owns the loop. The clock is read anew for it.
    pub fn with(
        &mut self,
        id: ConnectionId,
        callback: impl FnOnce(&mut H, &mut Context<'_, H>) -> Verdict,
    ) -> bool {
        self.update_clock();
        let was_there = catch(|| self.call(id, callback)).unwrap_or_else(|payload| {
            self.close_culprit(payload);
            true
        });
        self.slots.clear_last_lookup();
        if !was_there {
            self.shared.observe.note(|| Step::Stale);
        }
        was_there
    }

    /// Stops the loop, as a [`Handle`] does from elsewhere: the next turns carry it out.
    pub fn stop(&mut self, how: Stop) {
        self.shared.commands.stop(how);
    }

    /// Lets [`Handler::loop_timer`] be called at `at`; see [`LoopContext::set_timer`](crate::LoopContext::set_timer).
    pub fn set_timer(&mut self, at: Instant) -> TimerId {
        self.update_clock();
        self.shared.timers.set(at, None, &self.shared.clock)
    }

    /// Takes a timer back, the loop's or a connection's; whether it was still to come.
    pub fn cancel_timer(&mut self, timer: TimerId) -> bool {
        self.shared.timers.cancel(timer)
    }

    /// A hand on this loop for other threads.
    pub fn handle(&self) -> Handle<H::Mail> {
        self.mailbox.handle()
    }

    /// The handler.
    pub fn handler(&mut self) -> &mut H {
        &mut self.handler
    }

    /// Takes the reactor apart and gives the handler back. Open connections are closed as they are.
    pub fn into_handler(self) -> H {
        self.handler
    }

    /// Lets `observer` see every step from here on, instead of the one before.
    pub fn set_observer(&mut self, observer: impl Observer + 'static) {
        self.shared.observe.set_observer(observer);
    }

    /// How often each step was taken so far.
    pub fn counters(&self) -> Counters {
        self.shared.observe.counters()
    }

    /// The limits it was made with.
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// How many connections are there, those that are closing included.
    pub fn connections(&self) -> usize {
        self.slots.len()
    }

    /// The most there may be: [`Config::max_connections`], or what was derived in its stead; with a
    /// [shared limit](Self::share_limit), the most that all its loops may have open together.
    pub fn max_connections(&self) -> usize {
        self.max_connections
    }

    /// Reads the clock between two turns, for what is asked of the loop there.
    pub(super) fn update_clock(&mut self) {
        let due = self.due();
        self.shared.clock.advance(self.net.now(), due);
    }
}
