//! Output: the write buffer, back-pressure, and what happens when the peer stops reading.
//!
//! # A peer that stops reading
//!
//! 1. The kernel's send buffer fills. `Slot::flush` in `reactor/serve.rs` writes until the socket
//!    would block, which clears the slot's writable bit. The unsent bytes stay in the connection's
//!    write buffer (`out`), and the loop continues with the next connection. (That a peer *takes*
//!    bytes means here that our socket accepts them.)
//! 2. Requests of this peer are still read and handled, and replies are appended. When they take
//!    `out` to [`Config::write_high`](crate::Config::write_high), the batch stops (`handle_frames`
//!    in `callbacks.rs`) and the state becomes [`Reading::WriteBlocked`]. Frames that are left stay
//!    in the inbox.
//! 3. In that state [`is_reading`](Connection::is_reading) is false: the socket is not read. The
//!    kernel's receive buffer fills and TCP's window closes, so the peer cannot send more either.
//! 4. If the peer reads again, the poller reports the socket writable, and `serve` flushes. When
//!    `out` is down to [`Config::write_low`](crate::Config::write_low), `after_flush` ends the
//!    state. Frames in the inbox are handled, then the socket is read. At the end `reschedule`
//!    calls [`Handler::drained`], if `out` is still at or below the low mark. If the budget is
//!    spent before that is done, the connection goes on the resume queue, because no event will
//!    report that work.
//! 5. If the peer takes no byte for [`Config::write_timeout`](crate::Config::write_timeout),
//!    `check_deadlines` in `reactor/deadlines.rs` tries once more to write. If nothing goes, the
//!    connection closes at once with [`CloseReason::WriteTimeout`].
//!
//! If the connection closes for another reason meanwhile, it first tries to send the rest of `out`.
//! It gives up if the peer takes no byte for
//! [`Config::drain_timeout`](crate::Config::drain_timeout).
//!
//! Memory stays bounded. A single reply, or messages from other connections, can exceed the high
//! mark; beyond [`Config::write_cap`](crate::Config::write_cap) the connection closes with
//! [`CloseReason::OutboxFull`]. If the buffers of all connections together exceed
//! [`Config::buffered_high`](crate::Config::buffered_high), those that hold most close at once with
//! [`CloseReason::Overload`] (`reactor/memory.rs`).

use std::mem;

use super::Connection;
use crate::codec::Codec;
use crate::error::CloseReason;
use crate::handler::{Handler, Shared};
use crate::observe::Step;
use crate::state::{Direction, Reading, State, Trigger};

impl<C: Codec, S> Connection<C, S> {
    /// True if bytes are queued and may be written now. On an open connection, they may not be
    /// written after the handler's write deadline has passed. A closing connection ignores that
    /// deadline: it has the drain timeout.
    #[inline]
    pub fn is_writing(&self) -> bool {
        let is_past_deadline =
            self.deadlines.has_passed(Direction::Write) && matches!(self.state, State::Open(_));
        !self.out.is_empty() && !is_past_deadline
    }

    /// True if a flush would do nothing: nothing is queued, and the connection is plainly open. In
    /// any other state `after_flush` may have to move on. This is the common case, decided by a few
    /// loads.
    #[inline]
    pub(crate) fn needs_no_flush(&self) -> bool {
        self.out.is_empty()
            && !self.write_blocked
            && matches!(self.state, State::Open(Reading::Flowing))
    }

    /// Returns the bytes to write.
    #[inline]
    pub fn unsent(&self) -> &[u8] {
        self.out.bytes()
    }

    /// Records that the first `n` bytes of [`unsent`](Self::unsent) were written.
    ///
    /// # Panics
    /// If there are fewer.
    #[inline]
    pub fn sent(&mut self, n: usize, shared: &Shared) {
        self.last_activity = shared.clock.timestamp();
        self.last_progress = self.last_activity;
        self.out.advance(n);
    }

    /// Queues bytes that another connection or another thread has encoded: one or more whole
    /// messages.
    ///
    /// The connection closes if its write deadline has passed, or if its write buffer would exceed
    /// [`Config::write_cap`](crate::Config::write_cap).
    pub fn queue(&mut self, bytes: &[u8], shared: &mut Shared) {
        if self.deadlines.is_over(Direction::Write, &shared.clock) {
            return self.apply(
                Trigger::Fail(CloseReason::WriteDeadline {
                    unsent: self.out.len() + bytes.len(),
                }),
                shared,
            );
        }
        let (queued, cap) = (self.out.len() + bytes.len(), shared.config.write_cap);
        if queued > cap {
            return self.apply(
                Trigger::Close(CloseReason::OutboxFull { queued, cap }),
                shared,
            );
        }
        if self.out.is_empty() {
            self.last_progress = shared.clock.timestamp();
        }
        self.out.buffer().extend_from_slice(bytes);
        self.drained_pending |= self.out.len() >= shared.config.write_high;
        shared.observe.note(|| Step::Queued {
            id: self.id,
            bytes: bytes.len(),
        });
    }

    /// Updates the state after a flush: ends back-pressure at the low mark, or ends the draining
    /// when all is sent.
    #[inline]
    pub fn after_flush(&mut self, shared: &mut Shared) {
        self.write_blocked &= self.out.len() > shared.config.write_low;
        match self.state {
            State::Open(Reading::WriteBlocked) if !self.write_blocked => {
                self.apply(Trigger::WriteUnblocked, shared);
            }
            State::Draining { .. } if self.out.is_empty() => self.apply(Trigger::Flushed, shared),
            _ => {}
        }
    }

    /// True if [`Handler::drained`] is due: the write buffer was at the high mark and is down to
    /// the low mark.
    #[inline]
    pub fn is_drained(&self, shared: &Shared) -> bool {
        self.drained_pending
            && self.out.len() <= shared.config.write_low
            && matches!(self.state, State::Open(_))
            && !self.deadlines.has_passed(Direction::Write)
    }

    /// Calls [`Handler::drained`]. What the handler queues there is sent in the next turn.
    pub fn drained<H: Handler<Codec = C, State = S>>(
        &mut self,
        handler: &mut H,
        shared: &mut Shared,
    ) {
        self.drained_pending = false;
        self.call(handler, shared, H::drained);
    }

    /// Gives the connection the loop's shared write buffer, if it has none of its own. Replies that
    /// are sent at once then need no allocation. Returns true if it was given.
    #[inline]
    pub fn borrow_write_buffer(&mut self, shared: &mut Shared) -> bool {
        let borrowed = !self.out.has_memory();
        if borrowed {
            mem::swap(&mut self.out, &mut shared.spare_queue);
        }
        borrowed
    }

    /// Returns the shared write buffer to the loop. Unsent bytes move into a buffer of the
    /// connection's own; if they are many, they keep the memory that they are in.
    ///
    /// The loop keeps no more than [`Config::retained_capacity`](crate::Config::retained_capacity).
    #[inline]
    pub fn return_write_buffer(&mut self, shared: &mut Shared) {
        self.out
            .return_to(&mut shared.spare_queue, shared.config.retained_capacity);
    }

    /// Frees memory of the connection's own write buffer that is mostly unused.
    pub fn shrink(&mut self) {
        self.out.shrink();
    }
}
