//! A callback's view of one connection.

use std::time::{Duration, Instant};
use std::{fmt, mem};

use bytes::BytesMut;

use super::{Command, Dial, Handler, SendState, Shared};
use crate::error::CloseReason;
use crate::id::ConnectionId;
use crate::net::{Address, PackedAddress};
use crate::observe::Step;
use crate::state::{Direction, Stop, Trigger, Verdict};
use crate::time::{Deadlines, TimerId};

/// A callback's view of its connection, and its access to other connections and the loop.
///
/// A handler gets it with each callback of a connection. Operations on the own connection
/// ([`send`](Self::send), [`set_timer`](Self::set_timer), the deadlines) take effect at once.
/// Operations on other connections and on the loop ([`send_to`](Self::send_to),
/// [`close`](Self::close), [`resume`](Self::resume), [`connect`](Self::connect),
/// [`stop`](Self::stop)) are queued, and carried out after the batch.
///
/// It borrows the write buffer and the state, while the frame borrows the read buffer. So a reply
/// can be encoded straight from the frame, without a copy or a reference count in between.
pub struct Context<'c, H: Handler> {
    pub(crate) id: ConnectionId,
    pub(crate) peer: &'c PackedAddress,
    pub(crate) codec: &'c mut H::Codec,
    pub(crate) state: &'c mut H::State,
    pub(crate) out: &'c mut BytesMut,
    pub(crate) shared: &'c mut Shared,
    pub(crate) send_state: SendState,
    /// Queued bytes from which [`check_room`](Self::check_room) runs:
    /// [`Config::write_high`](crate::Config::write_high), or the cap if that is less.
    pub(crate) check_from: usize,
    pub(crate) deadlines: &'c mut Deadlines,
}

impl<H: Handler> Context<'_, H> {
    /// Returns true if the batch may go on without any check. This is the common case, and costs
    /// one load.
    #[inline]
    pub(crate) fn needs_no_checks(&self) -> bool {
        matches!(self.send_state, SendState::Unchecked)
    }

    /// Returns true if the loop has work to do before the next frame. Either a read deadline has
    /// expired, so that the handler must be notified, or the queued commands must be carried out.
    #[inline(never)]
    pub(crate) fn should_yield(&self) -> bool {
        self.deadlines.is_over(Direction::Read, &self.shared.clock)
            || self
                .shared
                .commands
                .is_full(self.shared.config.command_high)
    }

    /// Makes the batch run its checks between frames from now on. Each method that changes
    /// something that the checks look at must call this one. Dials and stops are not checked
    /// between frames.
    pub(super) fn watch(&mut self) {
        if let SendState::Unchecked = self.send_state {
            self.send_state = SendState::Checked;
        }
    }

    /// Returns the transition that follows from a callback's verdict, and from a message that could
    /// not be queued.
    pub(crate) fn trigger_for(&mut self, verdict: Verdict) -> Option<Trigger> {
        if verdict != Verdict::Continue {
            self.shared.observe.note(|| Step::Verdict {
                id: self.id,
                verdict,
            });
        }
        if verdict == Verdict::Stop {
            self.shared.commands.stop(Stop::Gracefully);
        }
        match (
            verdict,
            mem::replace(&mut self.send_state, SendState::Unchecked),
        ) {
            (Verdict::Abort, _) => Some(Trigger::Fail(CloseReason::Aborted)),
            (_, SendState::Refused(reason @ CloseReason::WriteDeadline { .. })) => {
                Some(Trigger::Fail(reason))
            }
            (_, SendState::Refused(reason)) => Some(Trigger::Close(reason)),
            (Verdict::Pause, _) => Some(Trigger::Pause),
            (Verdict::Close, _) => Some(Trigger::Close(CloseReason::Handler)),
            (Verdict::Continue | Verdict::Stop, send_state) => {
                self.send_state = send_state;
                None
            }
        }
    }

    /// Returns the id of the connection.
    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// Returns the peer's address, as it was when the connection was made.
    pub fn peer_addr(&self) -> Address {
        self.peer.unpack()
    }

    /// Returns the time at which this turn of the loop began. It is the same in all callbacks of a
    /// turn.
    pub fn now(&self) -> Instant {
        self.shared.now()
    }

    /// Returns the state that the handler keeps for this connection, [`Handler::State`].
    pub fn state(&mut self) -> &mut H::State {
        self.state
    }

    /// Returns true if fewer than [`Config::write_high`](crate::Config::write_high) bytes are
    /// queued.
    ///
    /// A handler that sends messages without a request stops when this is false, and continues in
    /// [`Handler::drained`].
    pub fn has_room(&self) -> bool {
        self.out.len() < self.shared.config.write_high
    }

    /// Returns the bytes that are queued for this connection and not yet taken by its socket.
    pub fn pending(&self) -> usize {
        self.out.len()
    }

    /// Closes another connection after the batch, as [`Verdict::Close`] closes this one. An
    /// outgoing connection that is not established yet is given up.
    ///
    /// If the connection is gone or closing by then, nothing happens, and it is counted as stale.
    pub fn close(&mut self, id: ConnectionId) {
        self.watch();
        self.shared.commands.push(Command::Close(id));
    }

    /// Ends the pause that [`Verdict::Pause`] began, after the batch. Without a pause, nothing
    /// happens.
    ///
    /// `id` may be this connection or another one.
    pub fn resume(&mut self, id: ConnectionId) {
        self.watch();
        self.shared.commands.push(Command::Resume(id));
    }

    /// Begins an outgoing connection after the batch, to the first of `addrs` that answers; see
    /// [`Reactor::connect`](crate::Reactor::connect).
    ///
    /// `timeout` is for all addresses together. `key` comes back in
    /// [`Origin::Dialed`](crate::Origin::Dialed). The handler gets the outcome in [`Handler::open`]
    /// or [`Handler::close`]. A dial that could not even begin ends in `close` too.
    ///
    /// **Trap:** some dials fail at once, for instance because the connection limit is reached or
    /// there is no route. If the handler dials again in `close` without waiting, the loop uses all
    /// its CPU time for this. Wait first, with [`set_loop_timer`](Self::set_loop_timer).
    pub fn connect(&mut self, addrs: Vec<Address>, timeout: Duration, key: u64) {
        self.shared.commands.dial(Dial {
            addrs,
            timeout,
            key,
        });
    }

    /// Sets a timer of this connection: [`Handler::timer`] is called at `at`.
    ///
    /// It is never called early, and at most one tick (1 ms) and one turn late. If more than
    /// [`Config::calls_per_turn`](crate::Config::calls_per_turn) alarms are due together, the rest
    /// follows in the next turns. A time in the past counts as the next tick. The timer is removed
    /// when its connection closes.
    ///
    /// **Trap:** [`now`](Self::now) is the time at which the turn began. A time computed from it is
    /// sooner than one computed from the system's clock.
    pub fn set_timer(&mut self, at: Instant) -> TimerId {
        self.shared
            .timers
            .set(at, Some(self.id), &self.shared.clock)
    }

    /// Sets a timer of the loop: [`Handler::loop_timer`] is called at `at`.
    ///
    /// It is as [`set_timer`](Self::set_timer), but it stays when this connection closes.
    pub fn set_loop_timer(&mut self, at: Instant) -> TimerId {
        self.shared.timers.set(at, None, &self.shared.clock)
    }

    /// Stops the loop, as a [`Handle`](crate::Handle) does from another thread.
    pub fn stop(&mut self, how: Stop) {
        self.shared.commands.stop(how);
    }

    /// Cancels a timer, of this connection, another one or the loop. Returns true if it had not
    /// fired yet.
    pub fn cancel_timer(&mut self, timer: TimerId) -> bool {
        self.shared.timers.cancel(timer)
    }

    /// Sets both deadlines; see [`set_read_deadline`](Self::set_read_deadline) and
    /// [`set_write_deadline`](Self::set_write_deadline).
    pub fn set_deadline(&mut self, at: Option<Instant>) {
        self.set_read_deadline(at);
        self.set_write_deadline(at);
    }

    /// Sets the time after which nothing more is read from this peer. `None` clears it.
    ///
    /// The deadline is absolute, as in Go: bytes that arrive do not move it. When it expires,
    /// [`Handler::deadline`] is called, whether or not bytes are waiting. A deadline in the past
    /// expires at once, before the next frame. An expired deadline stays expired until it is set
    /// again or cleared. The write deadline is independent of it.
    pub fn set_read_deadline(&mut self, at: Option<Instant>) {
        self.deadlines.set(Direction::Read, at, &self.shared.clock);
        self.watch();
    }

    /// Sets the time after which nothing more is written to this peer. `None` clears it.
    ///
    /// When it expires, [`Handler::deadline`] is called, whether or not anything is queued. Queued
    /// bytes stay queued. They are sent if the deadline is set again or cleared, or if the
    /// connection closes for another reason. While it is expired, [`try_send`](Self::try_send)
    /// fails with [`SendError::DeadlinePassed`](crate::SendError::DeadlinePassed), and
    /// [`send`](Self::send) closes the connection.
    pub fn set_write_deadline(&mut self, at: Option<Instant>) {
        self.deadlines.set(Direction::Write, at, &self.shared.clock);
        if let SendState::Unchecked | SendState::Checked | SendState::Expired = self.send_state {
            let is_over = self.deadlines.is_over(Direction::Write, &self.shared.clock);
            self.send_state = if is_over {
                SendState::Expired
            } else {
                SendState::Checked
            };
        }
    }

    /// Starts the handshake timeout: the peer has
    /// [`Config::handshake_timeout`](crate::Config::handshake_timeout) from now on for its next
    /// whole frame. Usually called in [`Handler::open`].
    ///
    /// If no frame comes in time, the connection closes with [`CloseReason::HandshakeTimeout`].
    pub fn expect_handshake(&mut self) {
        self.deadlines.expect_handshake(&self.shared.clock);
        self.watch();
    }
}

impl<H: Handler> fmt::Debug for Context<'_, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("id", &self.id)
            .field("peer", &self.peer_addr())
            .field("pending", &self.out.len())
            .finish_non_exhaustive()
    }
}
