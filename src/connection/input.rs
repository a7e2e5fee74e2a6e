//! Input: bytes that arrive from the peer, the frames in them, and the end of input.

use std::mem;

use super::Connection;
use crate::buffer::Inbox;
use crate::codec::{Codec, Need};
use crate::error::CloseReason;
use crate::handler::{Handler, Shared};
use crate::observe::Step;
use crate::state::{Reading, State, Trigger};

impl<C: Codec, S> Connection<C, S> {
    /// Handles every frame that these bytes complete.
    ///
    /// Replies are in [`unsent`](Self::unsent) afterwards. If the batch was cut (see [`Reading`]),
    /// the rest is kept. If the connection is closing, the bytes are dropped and counted.
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

    /// Handles frames that an earlier batch has left, also after a yield ([`Reading::Yielded`]).
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

    /// Handles the frames in the inbox and in `bytes`, and keeps the rest in the inbox.
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
        // First the held bytes: complete their frame with as few copied bytes as possible.
        while let (State::Open(Reading::Flowing), false) = (&self.state, self.inbox.is_empty()) {
            let held = self.inbox.held().len();
            let copied = self.inbox.missing().min(fresh.len());
            self.inbox.append(&fresh[..copied]);
            if !self.inbox.has_frame() {
                return; // all of `fresh` is in the inbox
            }
            let inbox = mem::take(&mut self.inbox);
            let (taken, need) = self.handle_frames(inbox.held(), handler, shared);
            let started_at = if taken > 0 {
                shared.clock.timestamp()
            } else {
                inbox.started_at()
            };
            if taken >= held {
                // The held bytes are used up. Copied bytes that were not taken are still in
                // `fresh`.
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

    /// Records that the peer has closed its sending side (a FIN), after all its bytes were
    /// received. Calls [`Handler::eof`] if the connection is open and no frame is partial.
    ///
    /// # Panics
    /// If it is not [`is_reading`](Self::is_reading): the end cannot have been read then.
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
            return; // it was lingering, and waited for this
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

    /// Returns space for the missing bytes of a large frame, to read straight into; empty if
    /// copying them is cheaper.
    #[inline]
    pub fn frame_space(&mut self) -> &mut [u8] {
        if let State::Open(_) = self.state {
            self.inbox.frame_space()
        } else {
            &mut []
        }
    }

    /// Records that the first `n` bytes of [`frame_space`](Self::frame_space) were read. Call
    /// [`receive`](Self::receive) next.
    ///
    /// # Panics
    /// If there was no space for that many.
    pub fn filled(&mut self, n: usize) {
        self.inbox.filled(n);
    }

    /// Keeps the rest of the inbox, unless the connection is closing.
    fn keep_inbox(&mut self, inbox: Inbox, shared: &mut Shared) {
        match self.state {
            State::Open(_) => self.inbox = inbox,
            _ => self.count_discarded(inbox.held().len(), shared),
        }
    }

    /// Counts received bytes that are dropped unhandled.
    pub(super) fn count_discarded(&self, bytes: usize, shared: &mut Shared) {
        if bytes > 0 {
            shared
                .observe
                .note(|| Step::Discarded { id: self.id, bytes });
        }
    }
}
