//! Deadlines and timers that are due.
//!
//! Each connection has one entry in the timer index, the tick of its next check. A check compares
//! all its deadlines with the clock. Activity does not move the entry: the check finds that the
//! deadline has moved, and schedules the next one.

use crate::handler::Handler;
use crate::net::Net;
use crate::observe::Step;
use crate::reactor::Reactor;
use crate::state::State;
use crate::time::{Alarm, Expiry, TimerId};

impl<H: Handler, N: Net> Reactor<H, N> {
    /// Fires due timers, and checks the connections that are due for a deadline check. Both
    /// together are at most [`Config::calls_per_turn`](crate::Config::calls_per_turn) in a turn.
    pub(super) fn expire(&mut self) {
        self.slots.clear_panic_suspect();
        for _ in 0..self.shared.config.calls_per_turn {
            match self.shared.timers.pop(&self.shared.clock) {
                Some(Alarm::DeadlineCheck(slot)) => self.check_deadlines(slot),
                Some(Alarm::Timer(timer)) => self.fire_timer(timer),
                None => break,
            }
            self.enforce_loop_limits();
            self.slots.clear_panic_suspect();
        }
        self.enforce_drain_deadline();
    }

    /// Checks whether one of a connection's deadlines has expired, and carries it out. Usually the
    /// deadline has moved meanwhile.
    fn check_deadlines(&mut self, slot: usize) {
        let Some(slot) = self.slots.get_by_slot(slot) else {
            return self.shared.observe.note(|| Step::Stale);
        };
        let id = slot.connection.id();
        slot.deadline_check = None;
        if let State::Connecting = slot.connection.state() {
            self.expire_attempt(id);
            return self.reschedule(id);
        }
        // A guard deadline measures the peer. An open connection on the resume queue waits for the
        // loop, so its guards do not expire.
        let waits_for_loop =
            slot.in_resume_queue && matches!(slot.connection.state(), State::Open(_));
        if let Some(Expiry::Write | Expiry::Drain) =
            slot.connection.due_expiry(!waits_for_loop, &self.shared)
        {
            // A slow peer is not closed: if the socket takes some bytes now, another period begins.
            slot.try_flush_again(&mut self.shared);
        }
        if let Some(expiry) = slot.connection.due_expiry(!waits_for_loop, &self.shared) {
            slot.connection
                .handle_expiry(expiry, &mut self.handler, &mut self.shared);
        }
        self.schedule_flush(id);
    }

    /// Calls [`Handler::timer`] or [`Handler::loop_timer`].
    fn fire_timer(&mut self, timer: TimerId) {
        let Some(id) = timer.owner() else {
            self.shared.observe.note(|| Step::Timer { timer });
            return self.call_loop_handler(|handler, cx| handler.loop_timer(timer, cx));
        };
        // A closing connection gets no callback but `close`.
        if self.slots.get_open(id).is_none() {
            return self.shared.observe.note(|| Step::Stale);
        }
        self.shared.observe.note(|| Step::Timer { timer });
        self.call(id, |handler, cx| handler.timer(timer, cx));
    }
}
