//! INPUT

use std::mem;

use super::Connection;
use crate::buffer::Inbox;
use crate::codec::{Codec, Need};
use crate::error::CloseReason;
use crate::handler::{Handler, Shared};
use crate::observe::Step;
use crate::state::{Reading, State, Trigger};

impl<C: Codec, S> Connection<C, S> {
    /// Takes in bytes that were read, and handles every frame that they complete.
    ///
    /// Replies are in [`unsent`](Self::unsent) afterwards. If the batch had to be cut (see [`Reading`]), the rest is kept inside;
    /// if the connection is ending, it is dropped and counted.
    #[inline]
    pub fn receive<H: Handler<Codec = C, State = S>>(
        &mut self,
        bytes: &[u8],
        handler: &mut H,
        shared: &mut Shared,
    ) {
        self.last_activity = shared.clock.timestamp();
        self.process_input(bytes, handler, shared);
    }

    /// Goes on with frames that an earlier batch left inside; also if it has yielded ([`Reading::Yielded`]).
    pub fn proceed<H: Handler<Codec = C, State = S>>(
        &mut self,
        handler: &mut H,
        shared: &mut Shared,
    ) {
        if let State::Open(Reading::Yielded) = self.state {
            self.apply(Trigger::Proceed, shared);
        }
        self.process_input(&[], handler, shared);
    }

    #[inline]
    fn process_input<H: Handler<Codec = C, State = S>>(
        &mut self,
        bytes: &[u8],
        handler: &mut H,
        shared: &mut Shared,
    ) {
        let State::Open(_) = self.state else {
            return self.count_discarded(bytes.len(), shared);
        };
        let mut fresh = bytes;
        // First what was there before: an unfinished frame, completed with as little copying as can be.
        while let (State::Open(Reading::Flowing), false) = (&self.state, self.inbox.is_empty()) {
            let held = self.inbox.held().len();
            let copied = self.inbox.missing().min(fresh.len());
            self.inbox.append(&fresh[..copied]);
            if !self.inbox.has_frame() {
                return; // and all of `fresh` is inside
            }
            let inbox = mem::take(&mut self.inbox);
            let (taken, need) = self.handle_frames(inbox.held(), handler, shared);
            let started_at = if taken > 0 {
                shared.clock.timestamp()
            } else {
                inbox.started_at()
            };
            if taken >= held {
                // What was there before is used up. Of the copied bytes, those not taken still stand in `fresh`.
                fresh = &fresh[taken - held..];
                inbox.recycle(&mut shared.spare_inbox);
            } else {
                fresh = &fresh[copied..];
                self.keep_inbox(
                    inbox.advanced_by(taken, need, started_at, &mut shared.spare_inbox),
                    shared,
                );
            }
        }
        let mut need = Need::Now;
        if let State::Open(Reading::Flowing) = self.state {
            let taken;
            (taken, need) = self.handle_frames(fresh, handler, shared);
            fresh = &fresh[taken..];
        }
        if !self.inbox.is_empty() {
            self.inbox.append(fresh);
        } else if !fresh.is_empty() {
            self.keep_inbox(
                Inbox::holding(
                    fresh,
                    need,
                    shared.clock.timestamp(),
                    &mut shared.spare_inbox,
                ),
                shared,
            );
        }
    }

    /// Takes note that the peer has closed its sending side, after all that was received.
    ///
    /// # Panics
    /// If it is not [`is_reading`](Self::is_reading): nobody can have read the end then.
    pub fn end_of_input<H: Handler<Codec = C, State = S>>(
        &mut self,
        handler: &mut H,
        shared: &mut Shared,
    ) {
        assert!(
            self.is_reading(),
            "the end of input came to {}, which is {}",
            self.id,
            self.state.name()
        );
        self.apply(Trigger::InputEnded, shared);
        if let State::Closed(_) = self.state {
            return; // that was the end of the lingering
        }
        let held = self.inbox.held().len();
        if held > 0 {
            return self.apply(Trigger::Close(CloseReason::Truncated { held }), shared);
        }
        let cause = match self.run_callback(shared, |cx| handler.eof(cx)) {
            Some(Trigger::Close(CloseReason::Handler)) => {
                Some(Trigger::Close(CloseReason::PeerClosed))
            }
            other => other,
        };
        if let Some(cause) = cause {
            self.apply(cause, shared);
        }
    }

    /// Room for the missing bytes of a large frame, to be read straight into place; empty if copying them is cheaper.
    #[inline]
    pub fn frame_space(&mut self) -> &mut [u8] {
        if let State::Open(_) = self.state {
            self.inbox.frame_space()
        } else {
            &mut []
        }
    }

    /// Takes note that the first `n` bytes of [`frame_space`](Self::frame_space) were read. Follow with [`receive`](Self::receive).
    ///
    /// # Panics
    /// If there was no room for so many.
    pub fn filled(&mut self, n: usize) {
        self.inbox.filled(n);
    }

    /// Keeps what is left of the inbox, unless the connection is ending.
    fn keep_inbox(&mut self, inbox: Inbox, shared: &mut Shared) {
        match self.state {
            State::Open(_) => self.inbox = inbox,
            _ => self.count_discarded(inbox.held().len(), shared),
        }
    }

    pub(super) fn count_discarded(&self, bytes: usize, shared: &mut Shared) {
        if bytes > 0 {
            shared
                .observe
                .note(|| Step::Discarded { id: self.id, bytes });
        }
    }
}
