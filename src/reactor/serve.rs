//! Moving one connection on: the picture `fill ─► decode ─► handle ─► encode ─► flush`, for one socket.

use crate::handler::{Handler, Shared};
use crate::id::{ConnectionId, Token};
use crate::net::{Event, Net, Stream};
use crate::observe::Step;
use crate::reactor::Reactor;
use crate::reactor::slots::{Due, Slot};
use crate::reason::CloseReason;
use crate::state::{Cause, Reading, State};
use crate::transport::{self, Fill, Flush};

impl<H: Handler, N: Net> Reactor<H, N> {
    /// An event has come for a connection.
    #[inline]
    pub(super) fn hear(&mut self, token: Token, event: &Event) {
        let Some(slot) = self.slots.find(token) else { return self.shared.observe.note(|| Step::Stale) };
        let id = slot.connection.id();
        self.shared.observe.note(|| Step::Event { id, readable: event.readable, writable: event.writable });
        slot.readiness.merge(event);
        // Who is on the queue already has his turn there.
        if !slot.queued {
            self.serve(id);
        }
    }

    /// A connection's place on the resume queue has come.
    pub(super) fn go_on(&mut self, id: ConnectionId) {
        let Some(slot) = self.slots.get(id) else { return self.shared.observe.note(|| Step::Stale) };
        slot.queued = false;
        if let State::Open(Reading::Yielded) = slot.connection.state() {
            slot.connection.apply(Cause::Proceed, &mut self.shared);
        }
        self.serve(id);
    }

    /// Moves a connection on as far as it goes, within its budget.
    #[inline]
    fn serve(&mut self, id: ConnectionId) {
        let Self { slots, handler, shared, scratch, spare, phase, .. } = self;
        let Some(slot) = slots.get(id) else { return };
        if let State::Connecting = slot.connection.state() {
            slot.decide(handler, shared);
        }
        let mut budget = shared.config.scratch;
        let lent = slot.connection.lend(spare);
        loop {
            slot.flush(shared);
            if slot.connection.has_backlog() {
                slot.connection.proceed(handler, shared);
            } else if phase.is_draining() && slot.is_to_end() {
                slot.connection.apply(Cause::Close(CloseReason::Shutdown), shared);
            } else if slot.connection.is_reading() && slot.readiness.readable && budget > 0 {
                let room = budget.min(scratch.len());
                budget = budget.saturating_sub(slot.fill(&mut scratch[..room], handler, shared));
            } else {
                break;
            }
        }
        if lent {
            slot.connection.give_back(spare);
        } else {
            slot.connection.slim();
        }
        self.settle(id);
        self.relieve();
    }

    /// Writes what was queued for connections outside of their own batch.
    pub(super) fn flush(&mut self) {
        let mut touched = std::mem::take(&mut self.touched);
        for id in touched.drain(..) {
            let Some(slot) = self.slots.get(id) else { continue };
            slot.flush(&mut self.shared);
            slot.connection.slim();
            self.settle(id);
        }
        self.touched = touched;
    }

    /// Carries out commands before the turn comes to them, if one connection has asked for as much as all may.
    ///
    /// No callback runs here. Without it the next connection would find the queue full and yield as well, and so on for ever.
    pub(super) fn relieve(&mut self) {
        if self.shared.commands.is_full(self.shared.config.command_high) {
            self.carry_out_commands();
            self.flush();
        }
    }

    /// Sees to it that whatever a connection waits for will come: an event, its place on the queue, a deadline, or the end.
    pub(super) fn settle(&mut self, id: ConnectionId) {
        let Some(slot) = self.slots.get(id) else { return };
        slot.notice_hang_up(&mut self.shared);
        let due = match (slot.connection.state(), slot.due) {
            (State::Connecting | State::Open(Reading::Paused | Reading::Ended), _) => return,
            (State::Open(Reading::Choked), _) => {
                // Else nothing would ever wake it: the flush that lifts the pressure waits for a writable event.
                return assert!(!slot.readiness.writable, "{id} is choked, although its socket takes more");
            }
            (State::Open(Reading::Flowing | Reading::Yielded), _) => return self.defer_if_unfinished(id),
            (State::Draining { .. }, Due::Never) => Due::Drained {
                until: self.shared.now.checked_add(self.shared.config.drain_timeout),
                unsent: slot.connection.unsent().len(),
            },
            (State::Draining { .. }, _) => return,
            (State::Lingering(_), Due::Lingered { .. }) => return self.defer_if_unfinished(id),
            (State::Lingering(_), _) => {
                // Fails if the peer is gone; then the next read says so.
                let _ = slot.stream.shut_write();
                let (now, config) = (self.shared.now, &self.shared.config);
                Due::Lingered { until: now.checked_add(config.linger_timeout), end: now.checked_add(config.drain_timeout), heard: false }
            }
            (State::Closed(_), _) => {
                self.closed.push_back(id);
                Due::Never
            }
        };
        let before = std::mem::replace(&mut slot.due, due);
        if let Some(at) = before.at() {
            self.deadlines.disarm(at, id);
        }
        if let Some(at) = due.at() {
            self.deadlines.arm(at, id);
        }
        self.defer_if_unfinished(id);
    }

    /// Puts a connection on the resume queue if there is more to do than its budget allowed: no event will come for that.
    fn defer_if_unfinished(&mut self, id: ConnectionId) {
        let Some(slot) = self.slots.get(id) else { return };
        let yielded = matches!(slot.connection.state(), State::Open(Reading::Yielded));
        let unread = slot.connection.is_reading() && (slot.readiness.readable || slot.connection.has_backlog());
        if (yielded || unread) && !slot.queued {
            slot.queued = true;
            self.resume.push_back(id);
            self.shared.observe.note(|| Step::Deferred { id });
        }
    }
}

impl<H: Handler, N: Net> Slot<H, N> {
    /// Writes until all is sent or the socket takes no more.
    #[inline]
    fn flush(&mut self, shared: &mut Shared) {
        let id = self.connection.id();
        // After a reset the frames before it can still be read; a write that fails would end the connection first.
        if self.readiness.write_closed && self.readiness.readable && self.connection.is_reading() {
            return;
        }
        while self.readiness.writable && !self.connection.unsent().is_empty() {
            let flush = transport::flush(&mut self.stream, self.connection.unsent(), &mut self.readiness);
            shared.observe.note(|| Step::Write { id, flush: &flush });
            match flush {
                Flush::Bytes(n) => self.connection.sent(n),
                Flush::Blocked => break,
                Flush::Failed(error) => self.connection.apply(Cause::Fail(CloseReason::from_io(error)), shared),
            }
        }
        self.connection.after_flush(shared);
    }

    /// Reads once and handles what came. Returns how many bytes that were.
    #[inline]
    fn fill(&mut self, scratch: &mut [u8], handler: &mut H, shared: &mut Shared) -> usize {
        let id = self.connection.id();
        let place = self.connection.place();
        let room = place.len();
        let fill = transport::fill(&mut self.stream, place, scratch, &mut self.readiness, N::SHORT_READ_IS_EMPTY);
        shared.observe.note(|| Step::Read { id, fill: &fill });
        match fill {
            Fill::Bytes(n) => {
                if let Due::Lingered { heard, .. } = &mut self.due {
                    *heard = true;
                }
                let placed = n.min(room);
                self.connection.placed(placed);
                self.connection.receive(&scratch[..n - placed], handler, shared);
                return n;
            }
            Fill::End => self.connection.end_of_input(handler, shared),
            Fill::Blocked => {}
            Fill::Failed(error) => self.connection.apply(Cause::Fail(CloseReason::from_io(error)), shared),
        }
        0
    }

    /// Tries once more to send the last replies, whether or not the poller has spoken of room: it does so only when much is free.
    pub(super) fn last_try(&mut self, shared: &mut Shared) {
        if let State::Draining { .. } = self.connection.state() {
            self.readiness.writable = true;
            self.flush(shared);
        }
    }

    /// Finds out whether an outgoing connection is established, if the socket has something to say.
    fn decide(&mut self, handler: &mut H, shared: &mut Shared) {
        if !self.readiness.writable {
            return;
        }
        match self.stream.established() {
            Ok(true) => self.connection.established(handler, shared),
            Ok(false) => self.readiness.writable = false,
            Err(error) => self.connection.apply(Cause::Fail(CloseReason::ConnectFailed(error)), shared),
        }
    }

    /// Nothing that is written can arrive any more. Who reads or writes will find out; who does neither is told here.
    fn notice_hang_up(&mut self, shared: &mut Shared) {
        if let (true, State::Open(Reading::Paused | Reading::Ended)) = (self.readiness.write_closed, self.connection.state()) {
            self.connection.apply(Cause::Fail(CloseReason::Reset), shared);
        }
    }

    /// Whether a stopping loop has nothing more to handle for this connection.
    pub(super) fn is_to_end(&self) -> bool {
        matches!(self.connection.state(), State::Open(_) | State::Connecting) && self.connection.is_caught_up()
    }
}
