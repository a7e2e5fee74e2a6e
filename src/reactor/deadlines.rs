//! Deadlines and timers that are due.

use crate::handler::Handler;
use crate::net::Net;
use crate::observe::Step;
use crate::reactor::Reactor;
use crate::state::State;
use crate::time::{Alarm, Expiry, TimerId};

impl<H: Handler, N: Net> Reactor<H, N> {
    /// Calls those whose time has come, and looks at the connections whose may have.
    pub(super) fn expire(&mut self) {
        self.slots.clear_last_lookup();
        for _ in 0..self.shared.config.calls_per_turn {
            match self.shared.timers.pop(&self.shared.clock) {
                Some(Alarm::DeadlineCheck(slot)) => self.check_deadlines(slot),
                Some(Alarm::Timer(timer)) => self.fire_timer(timer),
                None => break,
            }
            self.run_commands_if_full();
            self.slots.clear_last_lookup();
        }
        self.enforce_drain_deadline();
    }

    /// Looks whether one of a connection's deadlines has passed. As a rule it has moved on meanwhile.
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
        // An open connection on the resume queue waits for the loop, and not the loop for its peer.
        let is_ours = slot.queued && matches!(slot.connection.state(), State::Open(_));
        if let Some(Expiry::Write | Expiry::Drain) =
            slot.connection.due_expiry(!is_ours, &self.shared)
        {
            // A peer that reads, however slowly, is not given up: if some of it leaves now there is another period.
            slot.final_flush(&mut self.shared);
        }
        if let Some(expiry) = slot.connection.due_expiry(!is_ours, &self.shared) {
            slot.connection
                .carry_out_expiry(expiry, &mut self.handler, &mut self.shared);
        }
        self.touch(id);
    }

    fn fire_timer(&mut self, timer: TimerId) {
        let Some(id) = timer.owner() else {
            self.shared.observe.note(|| Step::Timer { timer });
            return self.call_loop_handler(|handler, cx| handler.loop_timer(timer, cx));
        };
        // It may be closing: then nothing is called any more, but its close.
        if self.slots.get_open(id).is_none() {
            return self.shared.observe.note(|| Step::Stale);
        }
        self.shared.observe.note(|| Step::Timer { timer });
        self.call(id, |handler, cx| handler.timer(timer, cx));
    }
}
