//! Serving one connection: `fill ─► decode ─► handle ─► encode ─► flush`.
//!
//! `serve` does as much work as the connection's budget allows. `reschedule` then decides what
//! continues it: the next event, a place on the resume queue, a deadline, or its removal.
//!
//! A connection is served when an event reports it, or when its turn on the resume queue comes. If
//! its peer stops reading, `connection/write.rs` describes what follows.

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
use crate::time::Timestamp;

/// A connection on the resume queue.
pub(super) struct Resumable {
    id: ConnectionId,
    queued_at: Timestamp,
}

impl<H: Handler, N: Net> Reactor<H, N> {
    /// Handles an event for a connection: remembers the readiness, then serves the connection.
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
        // A connection on the resume queue is served there, later in this turn or in the next one.
        if !slot.in_resume_queue {
            self.serve(id);
        }
    }

    /// Serves a connection from the resume queue.
    pub(super) fn resume_connection(&mut self, Resumable { id, queued_at }: Resumable) {
        let Some(slot) = self.slots.get(id) else {
            return self.shared.observe.note(|| Step::Stale);
        };
        slot.in_resume_queue = false;
        if slot.readiness.has(Readiness::READABLE) && slot.connection.is_reading() {
            slot.connection.extend_frame_time(queued_at, &self.shared);
        }
        if let State::Open(Reading::Yielded) = slot.connection.state() {
            slot.connection.apply(Trigger::Proceed, &mut self.shared);
        }
        self.serve(id);
    }

    /// Writes, reads and handles frames until nothing is ready or the budget is spent. The budget
    /// is [`Config::scratch`](crate::Config::scratch) bytes for reading, and as many for writing.
    ///
    /// The caller has just looked the connection up, so a panic is attributed to it.
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
        // First of all: a deadline that has passed takes precedence over bytes that have arrived.
        slot.connection.notify_deadlines(handler, shared);
        let mut budget = shared.config.scratch;
        let mut written = 0;
        let borrowed = slot.connection.borrow_write_buffer(shared);
        loop {
            written += slot.flush(shared);
            if written > shared.config.scratch {
                break; // the write budget is spent: the peer reads as fast as we write
            }
            if slot.connection.has_backlog() {
                slot.connection.proceed(handler, shared);
            } else if phase.is_draining() && slot.can_close() {
                break; // it closes, and is not read again
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
        self.enforce_loop_limits();
    }

    /// Writes output that was queued outside of a connection's own batch, and reschedules each
    /// connection on the list.
    pub(super) fn flush(&mut self) {
        if self.pending_flush.is_empty() {
            return;
        }
        // Nothing is added to the list meanwhile. It is cleared at the end only, so that after a
        // panic the next turn goes through it again.
        for number in 0..self.pending_flush.len() {
            let id = self.pending_flush[number];
            let Some(slot) = self.slots.get(id) else {
                continue;
            };
            slot.in_pending_flush = false;
            if !matches!(slot.connection.state(), State::Connecting) {
                slot.flush(&mut self.shared);
                slot.connection.shrink();
            }
            self.reschedule(id);
        }
        self.pending_flush.clear();
        let retained = self.retained_ids();
        self.pending_flush.shrink_to(retained);
        self.enforce_memory_limit();
        self.slots.clear_panic_suspect();
    }

    /// Enforces the limits for all connections together, after each piece of work: carries out
    /// queued commands early at [`Config::command_high`](crate::Config::command_high), and closes
    /// the connections that hold most above
    /// [`Config::buffered_high`](crate::Config::buffered_high).
    ///
    /// If commands waited until later, the next connection would find the queue full and yield too.
    /// So would every connection after it. The only callback that runs here is
    /// [`Handler::drained`]; commands that it queues wait for the next check.
    pub(super) fn enforce_loop_limits(&mut self) {
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

    /// Schedules what the connection needs next: a place on the resume queue, a deadline check, or
    /// its removal. It also calls [`Handler::drained`] if that is due, and shuts the sending side
    /// of a lingering connection.
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
            State::Lingering(_) if !slot.write_shut => {
                slot.write_shut = true;
                // Fails if the peer is gone, and then the next read reports that.
                let _ = slot.parts().1.shut_write();
            }
            State::Closed(_) => self.closed.push_back(id),
            _ => {}
        }
        slot.count_memory(&mut self.buffered);
        // Schedule the check of its deadlines.
        let tick = match slot.connection.state() {
            State::Connecting => self
                .dials
                .get(&id)
                .map(|attempt| shared.clock.tick_of(attempt.addr_deadline)),
            _ => slot.connection.next_expiry(shared).map(|(tick, _)| tick),
        };
        slot.schedule_check(tick, shared);
        // Queue it if it has work that no event will report.
        if slot.has_more_work() && !slot.in_resume_queue {
            slot.in_resume_queue = true;
            self.resume.push_back(Resumable {
                id,
                queued_at: shared.clock.timestamp(),
            });
            shared.observe.note(|| Step::Deferred { id });
        }
    }
}

impl<H: Handler, N: Net> Slot<H, N> {
    /// True if the connection only waits for its peer's next frame, as most do most of the time:
    /// there is nothing to reschedule. Its deadlines can only have moved later, and the check that
    /// is already scheduled will find that.
    #[inline]
    fn is_idle(&self, shared: &Shared) -> bool {
        let has = |bit| self.readiness.has(bit);
        self.connection.is_idle()
            && !(has(Readiness::READABLE) || has(Readiness::WRITE_CLOSED) || has(Readiness::BROKEN))
            && self.counted_bytes == 0 // it holds no memory now, and none was counted for it
            // With an idle timeout a check must be scheduled; without one, none may be left.
            && self.deadline_check.is_some() == shared.config.idle_timeout.is_some()
    }

    /// Writes queued bytes until all are sent or the socket would block. Returns the number
    /// written.
    #[inline]
    fn flush(&mut self, shared: &mut Shared) -> usize {
        if self.connection.needs_no_flush() {
            0
        } else {
            self.write_out(shared)
        }
    }

    #[inline(never)] // with nothing to write, only the check is paid for
    fn write_out(&mut self, shared: &mut Shared) -> usize {
        let id = self.connection.id();
        // After a reset, frames that arrived before it can still be read. A failing write would
        // close the connection before that.
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

    /// Reads once and handles the frames. Returns the number of bytes read.
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

    /// Tries once more to write what is queued, even if the poller has not reported that the socket
    /// is writable. The poller reports this only when a large part of the send buffer is free.
    pub(super) fn try_flush_again(&mut self, shared: &mut Shared) {
        if let State::Draining { .. } | State::Open(_) = self.connection.state() {
            self.readiness.set(Readiness::WRITABLE);
            self.flush(shared);
        }
    }

    /// Schedules a check of its deadlines at `tick`, unless one is scheduled earlier. An early
    /// check is harmless, and moving it would cost more.
    pub(super) fn schedule_check(&mut self, tick: Option<u64>, shared: &mut Shared) {
        // The next tick at the earliest: a deadline that a callback sets in the past must not
        // prolong this turn.
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

    /// True if there is work that the budget did not allow.
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

    /// Closes a connection that neither reads nor writes if its peer is gone. Otherwise its next
    /// read or write reports the same.
    #[inline]
    fn check_hang_up(&mut self, shared: &mut Shared) {
        let connection = &mut self.connection;
        let State::Open(reading) = connection.state() else {
            return;
        };
        // When the peer of a Unix domain socket closes, both directions are reported closed at
        // once, and there may still be frames to read.
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

    /// True if a stopping loop may close the connection: no frame is left to handle. A paused
    /// connection still owes a reply.
    pub(super) fn can_close(&self) -> bool {
        match self.connection.state() {
            State::Open(Reading::Paused) => false,
            State::Open(_) | State::Connecting => self.connection.is_caught_up(),
            _ => false,
        }
    }
}
