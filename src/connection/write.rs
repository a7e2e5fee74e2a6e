//! What was encoded and not taken by the socket yet: queued, lent, sent, and what follows from that.

use std::mem;

use super::Connection;
use crate::codec::Codec;
use crate::error::CloseReason;
use crate::handler::{Handler, Shared};
use crate::observe::Step;
use crate::state::{Direction, Reading, State, Trigger};

impl<C: Codec, S> Connection<C, S> {
    /// Whether bytes are queued that may be written now. Those of a closing connection may, whatever the handler's deadline: they have the drain time.
    #[inline]
    pub fn is_writing(&self) -> bool {
        let write_blocked =
            self.deadlines.has_passed(Direction::Write) && matches!(self.state, State::Open(_));
        !self.out.is_empty() && !write_blocked
    }

    /// Whether there is nothing to be written, and nothing waits for that: the common case, told by a few loads.
    #[inline]
    pub(crate) fn has_nothing_to_write(&self) -> bool {
        self.out.is_empty()
            && !self.write_blocked
            && matches!(self.state, State::Open(Reading::Flowing))
    }

    /// The bytes to be written.
    #[inline]
    pub fn unsent(&self) -> &[u8] {
        self.out.bytes()
    }

    /// Takes note that the first `n` bytes of [`unsent`](Self::unsent) were written.
    ///
    /// # Panics
    /// If there are fewer.
    #[inline]
    pub fn sent(&mut self, n: usize, shared: &Shared) {
        self.last_activity = shared.clock.timestamp();
        self.last_progress = self.last_activity;
        self.out.advance(n);
    }

    /// Queues bytes that were encoded elsewhere, on behalf of another connection. They are one or more whole messages.
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

    /// Draws the consequences of what was written: back-pressure lifted, or all said that was to be said.
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

    /// Whether the handler is to be told that there is room again.
    #[inline]
    pub fn is_drained(&self, shared: &Shared) -> bool {
        self.drained_pending
            && self.out.len() <= shared.config.write_low
            && matches!(self.state, State::Open(_))
            && !self.deadlines.has_passed(Direction::Write)
    }

    /// Tells it. What it queues then leaves with the next turn.
    pub fn drained<H: Handler<Codec = C, State = S>>(
        &mut self,
        handler: &mut H,
        shared: &mut Shared,
    ) {
        self.drained_pending = false;
        self.call(handler, shared, H::drained);
    }

    /// Lends the connection the loop's warm queue, if it has none of its own: so replies that leave at once need no memory. Returns whether it did.
    #[inline]
    pub fn borrow_write_buffer(&mut self, shared: &mut Shared) -> bool {
        let borrowed = !self.out.has_memory();
        if borrowed {
            mem::swap(&mut self.out, &mut shared.spare_queue);
        }
        borrowed
    }

    /// Takes the lent queue back. What is still unsent moves into one of the connection's own, or,
    /// if it is much, keeps the memory that it is in.
    ///
    /// The loop keeps no more than [`Config::retained_capacity`](crate::Config::retained_capacity).
    #[inline]
    pub fn return_write_buffer(&mut self, shared: &mut Shared) {
        self.out
            .return_to(&mut shared.spare_queue, shared.config.retained_capacity);
    }

    /// Lets go of memory of the connection's own that is mostly empty.
    pub fn shrink(&mut self) {
        self.out.shrink();
    }
}
