//! Moving one connection on: the picture `fill ─► decode ─► handle ─► encode ─► flush`, for one socket.

use std::mem;
use std::num::NonZeroU64;

use crate::error::CloseReason;
use crate::handler::{Handler, Shared};
use crate::id::{ConnectionId, Token};
use crate::net::{self, Event, Fill, Flush, Net, Readiness, Stream};
use crate::observe::Step;
use crate::reactor::Reactor;
use crate::reactor::slots::Slot;
use crate::state::{Reading, State, Trigger};

impl<H: Handler, N: Net> Reactor<H, N> {
    /// An event has come for a connection.
    #[inline]
    pub(super) fn on_event(&mut self, token: Token, event: &Event) {
        let Some(slot) = self.slots.get_by_token(token) else {
            return self.shared.observe.note(|| Step::Stale);
        };
        let id = slot.connection.id();
        self.shared.observe.note(|| Step::Event {
            id,
            readable: event.readable,
            writable: event.writable,
        });
        slot.readiness.merge(event);
        if let State::Connecting = slot.connection.state() {
            self.check_connected(id);
            return self.serve(id);
        }
        // Who is on the queue already has his turn there.
        if !slot.queued {
            self.serve(id);
        }
    }

    /// A connection's place on the resume queue has come.
    pub(super) fn resume_connection(&mut self, id: ConnectionId) {
        let Some(slot) = self.slots.get(id) else {
            return self.shared.observe.note(|| Step::Stale);
        };
        slot.queued = false;
        if let State::Open(Reading::Yielded) = slot.connection.state() {
            slot.connection.apply(Trigger::Proceed, &mut self.shared);
        }
        self.serve(id);
    }

    /// Moves a connection on as far as it goes, within its budget. The caller has just looked it
    /// up.
    #[inline]
    pub(super) fn serve(&mut self, id: ConnectionId) {
        let Self {
            slots,
            handler,
            shared,
            scratch,
            phase,
            ..
        } = self;
        let Some(slot) = slots.get_untracked(id) else {
            return;
        };
        // Before anything is read: a deadline that has passed comes before bytes that are there already.
        slot.connection.notify_deadlines(handler, shared);
        let mut budget = shared.config.scratch;
        let mut written = 0;
        let borrowed = slot.connection.borrow_write_buffer(shared);
        loop {
            written += slot.flush(shared);
            if written > shared.config.scratch {
                break; // a peer that reads as fast as we write has had its turn
            }
            if slot.connection.has_backlog() {
                slot.connection.proceed(handler, shared);
            } else if phase.is_draining() && slot.can_close() {
                break; // it ends, and is read no more
            } else if slot.connection.is_reading()
                && slot.readiness.has(Readiness::READABLE)
                && budget > 0
            {
                let scratch = scratch.bytes();
                let room = budget.min(scratch.len());
                budget = budget.saturating_sub(slot.fill(&mut scratch[..room], handler, shared));
            } else {
                break;
            }
        }
        if borrowed {
            slot.connection.return_write_buffer(shared);
        } else {
            slot.connection.shrink();
        }
        if phase.is_draining() || !slot.is_idle(shared) {
            self.reschedule(id);
        }
        self.run_commands_if_full();
    }

    /// Writes what was queued for connections outside of their own batch.
    pub(super) fn flush(&mut self) {
        if self.touched.is_empty() {
            return;
        }
        // No connection is touched meanwhile. The list is cleared at the end only: after a panic it
        // is gone through again.
        for number in 0..self.touched.len() {
            let id = self.touched[number];
            let Some(slot) = self.slots.get(id) else {
                continue;
            };
            slot.touched = false;
            if !matches!(slot.connection.state(), State::Connecting) {
                slot.flush(&mut self.shared);
                slot.connection.shrink();
            }
            self.reschedule(id);
        }
        self.touched.clear();
        let retained = self.retained_ids();
        self.touched.shrink_to(retained);
        self.enforce_memory_limit();
        self.slots.clear_last_lookup();
    }

    /// Carries out commands before the turn comes to them, if one connection has asked for as much as all may.
    ///
    /// Without it the next connection would find the queue full and yield as well, and so on for ever. No callback runs here but
    /// [`Handler::drained`]; what that asks of others is for the next look.
    pub(super) fn run_commands_if_full(&mut self) {
        if self
            .shared
            .commands
            .is_full(self.shared.config.command_high)
        {
            self.run_commands();
            self.flush();
        }
        self.enforce_memory_limit();
    }

    /// Sees to it that whatever a connection waits for will come: an event, its place on the queue, a deadline, or the end.
    pub(super) fn reschedule(&mut self, id: ConnectionId) {
        let Self {
            slots,
            handler,
            shared,
            phase,
            ..
        } = self;
        let Some(slot) = slots.get(id) else { return };
        slot.check_hang_up(shared);
        if slot.connection.is_drained(shared) {
            slot.connection.drained(handler, shared);
            slot.connection.after_flush(shared);
            slot.connection.shrink();
        }
        if phase.is_draining() && slot.can_close() {
            slot.connection
                .apply(Trigger::Close(CloseReason::Shutdown), shared);
            slot.connection.after_flush(shared);
        }
        match slot.connection.state() {
            State::Lingering(_) if !slot.shut => {
                slot.shut = true;
                // Fails if the peer is gone; then the next read says so.
                let _ = slot.parts().1.shut_write();
            }
            State::Closed(_) => self.closed.push_back(id),
            _ => {}
        }
        slot.count_memory(&mut self.buffered);
        // Its deadlines.
        let tick = match slot.connection.state() {
            State::Connecting => self
                .dials
                .get(&id)
                .map(|attempt| shared.clock.tick_of(attempt.until)),
            _ => slot.connection.next_expiry(shared).map(|(tick, _)| tick),
        };
        slot.schedule_check(tick, shared);
        // What no event will come for.
        if slot.has_more_work() && !slot.queued {
            slot.queued = true;
            if slot.readiness.has(Readiness::READABLE) && slot.connection.is_reading() {
                slot.connection.restart_frame_time(shared);
            }
            self.resume.push_back(id);
            shared.observe.note(|| Step::Deferred { id });
        }
    }
}

impl<H: Handler, N: Net> Slot<H, N> {
    /// Whether there is nothing to settle: it waits for its peer's next frame and for nothing else, as most do most of the time. All its deadlines
    /// can have done is to move on with the bytes, and the look that is due finds out.
    #[inline]
    fn is_idle(&self, shared: &Shared) -> bool {
        let has = |bit| self.readiness.has(bit);
        self.connection.is_idle()
            && !(has(Readiness::READABLE) || has(Readiness::WRITE_CLOSED) || has(Readiness::BROKEN))
            && self.counted == 0 // it holds no memory now; so neither did it when that was last counted
            && self.deadline_check.is_some() == shared.config.idle_timeout.is_some()
    }

    /// Writes until all is sent or the socket takes no more. Returns how many bytes it took.
    #[inline]
    fn flush(&mut self, shared: &mut Shared) -> usize {
        if self.connection.has_nothing_to_write() {
            0
        } else {
            self.write_out(shared)
        }
    }

    #[inline(never)] // so that asking costs no more than the question
    fn write_out(&mut self, shared: &mut Shared) -> usize {
        let id = self.connection.id();
        // After a reset the frames before it can still be read; a write that fails would end the connection first.
        if self.readiness.has(Readiness::WRITE_CLOSED)
            && self.readiness.has(Readiness::READABLE)
            && self.connection.is_reading()
        {
            return 0;
        }
        let mut written = 0;
        while self.readiness.has(Readiness::WRITABLE) && self.connection.is_writing() {
            let (connection, stream, readiness) = self.parts();
            let flush = net::flush(stream, connection.unsent(), readiness);
            shared.observe.note(|| Step::Write { id, flush: &flush });
            match flush {
                Flush::Bytes(n) => {
                    connection.sent(n, shared);
                    written += n;
                }
                Flush::Blocked => break,
                Flush::Failed(error) => {
                    connection.apply(Trigger::Fail(CloseReason::from_io(error)), shared);
                }
            }
        }
        self.connection.after_flush(shared);
        written
    }

    /// Reads once and handles what came. Returns how many bytes that were.
    #[inline]
    fn fill(&mut self, scratch: &mut [u8], handler: &mut H, shared: &mut Shared) -> usize {
        let id = self.connection.id();
        let (connection, stream, readiness) = self.parts();
        let frame_space = connection.frame_space();
        let room = frame_space.len();
        let fill = net::fill(
            stream,
            frame_space,
            scratch,
            readiness,
            N::SHORT_READ_IS_EMPTY,
        );
        shared.observe.note(|| Step::Read { id, fill: &fill });
        match fill {
            Fill::Bytes(n) => {
                let filled = n.min(room);
                connection.filled(filled);
                connection.receive(&scratch[..n - filled], handler, shared);
                return n;
            }
            Fill::End => connection.end_of_input(handler, shared),
            Fill::Blocked => {}
            Fill::Failed(error) => {
                connection.apply(Trigger::Fail(CloseReason::from_io(error)), shared);
            }
        }
        0
    }

    /// Tries once more to send what is queued, whether or not the poller has spoken of room: it does so only when much is free.
    pub(super) fn final_flush(&mut self, shared: &mut Shared) {
        if let State::Draining { .. } | State::Open(_) = self.connection.state() {
            self.readiness.set(Readiness::WRITABLE);
            self.flush(shared);
        }
    }

    /// Sees to it that its deadlines are looked at by `tick`. A look that comes earlier does no harm, and moving it would cost more.
    pub(super) fn schedule_check(&mut self, tick: Option<u64>, shared: &mut Shared) {
        // With the next tick at the earliest: what is set anew for the past in a callback must not hold up the turn.
        let tick = tick.and_then(|tick| NonZeroU64::new(tick.max(shared.clock.tick() + 1)));
        let is_in_time =
            matches!((self.deadline_check, tick), (Some(before), Some(tick)) if before <= tick);
        if !is_in_time {
            let before = mem::replace(&mut self.deadline_check, tick);
            shared.timers.move_deadline_check(
                self.connection.id(),
                before.map(NonZeroU64::get),
                tick.map(NonZeroU64::get),
            );
        }
    }

    /// Whether there is more to do than its budget allowed.
    fn has_more_work(&self) -> bool {
        let connection = &self.connection;
        match connection.state() {
            State::Connecting | State::Closed(_) => false,
            State::Open(Reading::Yielded) => true,
            _ => {
                (connection.is_reading()
                    && (self.readiness.has(Readiness::READABLE) || connection.has_backlog()))
                    || (connection.is_writing() && self.readiness.has(Readiness::WRITABLE))
            }
        }
    }

    /// Nothing that is written can arrive any more. Who reads or writes will find out; who does neither is told here.
    #[inline]
    fn check_hang_up(&mut self, shared: &mut Shared) {
        let connection = &mut self.connection;
        let State::Open(reading) = connection.state() else {
            return;
        };
        // Who has closed in good order, as a Unix domain socket is at once in both directions, may have left frames behind.
        let gone = self.readiness.has(Readiness::BROKEN)
            || (self.readiness.has(Readiness::WRITE_CLOSED) && *reading == Reading::Ended);
        if gone
            && *reading != Reading::Yielded
            && !connection.is_reading()
            && !connection.is_writing()
        {
            connection.apply(Trigger::Fail(CloseReason::Reset), shared);
        }
    }

    /// Whether a stopping loop has nothing more to handle for this connection. A pause is an answer that is still owed.
    pub(super) fn can_close(&self) -> bool {
        match self.connection.state() {
            State::Open(Reading::Paused) => false,
            State::Open(_) | State::Connecting => self.connection.is_caught_up(),
            _ => false,
        }
    }
}
