//! Removing closed connections, and stopping the loop.

use std::io;
use std::time::Duration;

use crate::error::CloseReason;
use crate::error::panics::catch_panic;
use crate::handler::Handler;
use crate::id::ConnectionId;
use crate::net::{Net, Readiness};
use crate::observe::Step;
use crate::reactor::{Reactor, Turn};
use crate::state::{Stop, Trigger};
use crate::time::{Clock, Expiry};

/// The phases of a loop's life.
#[derive(Clone, Copy, Debug)]
pub(super) enum Phase {
    /// It accepts and serves connections.
    Running,
    /// It accepts nothing more. It handles what was read and sends the replies, until this watched
    /// time (see `Clock`); with `None`, as long as that takes.
    Draining(Option<u64>),
    /// All connections are closed.
    Stopped,
}

impl Phase {
    pub(super) fn is_draining(self) -> bool {
        matches!(self, Phase::Draining(_))
    }

    /// Returns an error unless new listeners and connections may be added.
    pub(super) fn running(self) -> io::Result<()> {
        match self {
            Phase::Running => Ok(()),
            Phase::Draining(_) | Phase::Stopped => Err(io::Error::other("the loop is stopping")),
        }
    }

    pub(super) fn deadline(self) -> Option<u64> {
        match self {
            Phase::Draining(until) => until,
            Phase::Running | Phase::Stopped => None,
        }
    }
}

impl<H: Handler, N: Net> Reactor<H, N> {
    /// Begins to stop, or moves the deadline of a stop that has begun to an earlier time.
    pub(super) fn begin_stop(&mut self, how: Stop) {
        let grace = match how {
            Stop::AtOnce => None,
            Stop::Within(grace) => Some(grace),
            Stop::Gracefully => Some(self.shared.config.drain_timeout),
        };
        match (self.phase, grace) {
            (Phase::Running, Some(grace)) => self.drain(grace),
            (Phase::Draining(until), Some(grace)) => {
                self.phase =
                    Phase::Draining(until.into_iter().chain(self.drain_deadline(grace)).min());
            }
            (Phase::Running | Phase::Draining(_), None) => self.close_all_now(),
            (Phase::Stopped, _) => {}
        }
    }

    /// Closes the remaining connections when the deadline of the stop has expired.
    pub(super) fn enforce_drain_deadline(&mut self) {
        if self
            .phase
            .deadline()
            .is_some_and(|until| until <= self.shared.clock.seen())
        {
            for id in self.slots.ids() {
                self.shared.observe.note(|| Step::Deadline {
                    id,
                    expiry: Expiry::Drain,
                });
                let slot = self.slots.get(id).expect("just listed");
                if slot.stream.is_some() {
                    slot.try_flush_again(&mut self.shared);
                }
                self.close_now(id);
            }
        }
    }

    /// Closes a connection at once, even if it has unsent bytes.
    fn close_now(&mut self, id: ConnectionId) {
        let Some(slot) = self.slots.get(id) else {
            return;
        };
        let unsent = slot.connection.unsent().len();
        slot.connection
            .apply(Trigger::Close(CloseReason::Shutdown), &mut self.shared);
        slot.connection
            .apply(Trigger::Expired { unsent }, &mut self.shared);
        self.reschedule(id);
    }

    /// Removes closed connections and calls [`Handler::close`] for each, then releases unused
    /// permits.
    pub(super) fn reap(&mut self) {
        if !self.closed.is_empty() {
            self.reap_closed();
        }
        self.release_unused_permits();
    }

    #[inline(never)] // most turns only pay for the check
    fn reap_closed(&mut self) {
        while let Some(id) = self.closed.pop_front() {
            // A connection may be listed twice.
            let Some(mut slot) = self.slots.remove(id) else {
                continue;
            };
            self.buffered -= slot.counted_bytes as usize;
            self.dials.remove(&id);
            self.mailbox.with(|state| state.connection_closed(id));
            // Closing the socket is not enough: a duplicate of its descriptor, in a child process
            // for instance, would keep its events coming.
            if let Some(Err(error)) = slot
                .stream
                .as_mut()
                .map(|stream| self.net.deregister(stream))
            {
                log::warn!("cannot deregister connection {id}: {error}");
            }
            let reason = slot
                .connection
                .finish_close(&mut self.handler, &mut self.shared);
            self.shared.observe.note(|| Step::Closed {
                id,
                reason: &reason,
            });
            self.slots.clear_panic_suspect();
            catch_panic(|| drop(reason));
            self.enforce_loop_limits();
        }
        self.closed.shrink_to(self.retained_ids());
    }

    /// Returns the result of the turn. When a stopping loop has no connection left, it becomes
    /// stopped: the mailbox closes, and messages that were not handled are dropped.
    pub(super) fn status_after_turn(&mut self) -> Turn {
        match self.phase {
            Phase::Running => Turn::Running,
            Phase::Draining(_) if self.slots.len() > 0 => Turn::Running,
            Phase::Draining(_) | Phase::Stopped => {
                self.phase = Phase::Stopped;
                self.start_dials(); // each fails, and so is reported to the handler
                self.mailbox.close();
                let posts = std::mem::take(&mut self.posts);
                self.posts_weight = 0;
                catch_panic(|| drop(posts));
                Turn::Stopped
            }
        }
    }

    /// Returns the watched time at which `grace` ends; `None` is never.
    fn drain_deadline(&self, grace: Duration) -> Option<u64> {
        (grace < Clock::FOREVER).then(|| self.shared.clock.watched_after(grace))
    }

    /// Begins a graceful stop: accepts the backlog, closes the listeners, serves what has arrived,
    /// and lets each connection close once its replies are sent.
    fn drain(&mut self, grace: Duration) {
        let until = self.drain_deadline(grace);
        log::debug!(
            "stopping: {} connections to drain, at most for {grace:?}",
            self.slots.len()
        );
        self.accept_backlog();
        for id in self.slots.ids() {
            if let Some(slot) = self.slots.get_open(id) {
                // What has arrived by now is answered too, even if the poller has not reported it.
                slot.readiness.set(Readiness::READABLE);
                self.serve(id);
            }
        }
        self.run_commands(); // messages that those frames caused are sent before the close
        // Each connection gets as long as the loop.
        self.shared.drain_time = self.shared.drain_time.max(grace);
        for id in self.slots.ids() {
            self.schedule_flush(id); // the flush below closes it, if no frame is left
        }
        self.phase = Phase::Draining(until); // after the above: a panic restarts the stop
        self.flush(); // before any deadline can expire
    }

    /// Stops at once: closes the listeners and all connections without a flush.
    fn close_all_now(&mut self) {
        self.unlisten();
        for id in self.slots.ids() {
            let slot = self.slots.get(id).expect("just listed");
            slot.connection
                .apply(Trigger::Fail(CloseReason::Shutdown), &mut self.shared);
            self.reschedule(id);
        }
        self.phase = Phase::Stopped; // after the above: a panic restarts the stop
    }
}
