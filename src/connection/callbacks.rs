//! Calls into user code: one callback, or a batch of frames. A panic in user code closes only this
//! connection.

use crate::codec::{Codec, Input, Need};
use crate::connection::Connection;
use crate::error::CloseReason;
use crate::error::panics::catch_panic;
use crate::handler::{Context, Handler, SendState, Shared};
use crate::observe::Step;
use crate::state::{Trigger, Verdict};

impl<C: Codec, S> Connection<C, S> {
    /// Runs one callback. Returns the state change that its verdict asks for.
    pub(super) fn run_callback<H>(
        &mut self,
        shared: &mut Shared,
        callback: impl FnOnce(&mut Context<'_, H>) -> Verdict,
    ) -> Option<Trigger>
    where
        H: Handler<Codec = C, State = S>,
    {
        let borrowed = self.borrow_write_buffer(shared);
        let cause = self.catching_panic(shared, |connection, shared| {
            let mut cx = connection.context(shared);
            let verdict = callback(&mut cx);
            cx.trigger_for(verdict)
        });
        self.drained_pending |= self.out.len() >= shared.config.write_high;
        if borrowed {
            self.return_write_buffer(shared);
        }
        cause
    }

    /// Handles the frames at the front of `bytes`: the batch. Returns the number of bytes in those
    /// frames, and what the codec needs beyond the rest.
    ///
    /// The batch ends when no complete frame is left, or earlier:
    ///
    /// - on a verdict other than [`Verdict::Continue`], a codec error, or a panic;
    /// - on back-pressure: the replies to these frames have taken the write buffer to
    ///   [`Config::write_high`](crate::Config::write_high);
    /// - if the loop has work first (a yield): a deadline has passed, or the queue of commands is
    ///   full.
    #[inline]
    pub(super) fn handle_frames<H: Handler<Codec = C, State = S>>(
        &mut self,
        bytes: &[u8],
        handler: &mut H,
        shared: &mut Shared,
    ) -> (usize, Need) {
        let borrowed = self.borrow_write_buffer(shared);
        let mut taken = 0;
        let mut need = Need::Now;
        let (mut write_blocked, before) = (false, self.out.len());
        let cause = self.catching_panic(shared, |connection, shared| {
            let mut cx = connection.context::<H>(shared);
            while taken < bytes.len() {
                let is_watched = !cx.needs_no_checks();
                if is_watched && cx.should_yield() {
                    return Some(Trigger::Yield);
                }
                let rest = &bytes[taken..];
                let mut input = Input::new(rest);
                let frame = match cx.codec.decode(&mut input) {
                    Ok(Some(frame)) => frame,
                    Ok(None) => {
                        need = input.hint();
                        check_need(need, rest.len(), cx.codec.max_frame());
                        return None;
                    }
                    Err(error) => {
                        return Some(Trigger::Close(CloseReason::Protocol(C::boxed(error))));
                    }
                };
                assert!(input.taken() > 0, "the codec returned a frame of no bytes");
                taken += input.taken(); // before the call, which may panic
                if is_watched {
                    cx.deadlines.handshake_done();
                }
                let (id, length) = (&cx.id, input.taken());
                cx.shared.observe.note(move || Step::Frame {
                    id: *id,
                    bytes: length,
                });
                let verdict = handler.frame(frame, &mut cx);
                if verdict == Verdict::Continue && cx.needs_no_checks() {
                    continue;
                }
                // Only replies to these frames cause back-pressure. Messages that were not
                // requested must not cause it. If two peers flooded each other with them, both
                // would stop reading, and both would wait for ever.
                write_blocked =
                    cx.out.len() >= cx.shared.config.write_high && cx.out.len() > before;
                if let Some(cause) = cx
                    .trigger_for(verdict)
                    .or(write_blocked.then_some(Trigger::WriteBlocked))
                {
                    return Some(cause);
                }
            }
            need = Need::More;
            None
        });
        self.drained_pending |= self.out.len() >= shared.config.write_high;
        self.write_blocked |= write_blocked;
        if borrowed {
            self.return_write_buffer(shared);
        }
        if let Some(cause) = cause {
            self.apply(cause, shared);
        }
        (taken, need)
    }

    /// Runs user code. A panic in it is caught here, logged, and closes this connection.
    #[inline]
    pub(super) fn catching_panic(
        &mut self,
        shared: &mut Shared,
        run: impl FnOnce(&mut Self, &mut Shared) -> Option<Trigger>,
    ) -> Option<Trigger> {
        catch_panic(|| run(self, shared)).unwrap_or_else(|| {
            if let Some(suppressed) = shared
                .log_throttle
                .allow(("panic", None), shared.clock.now())
            {
                log::error!(
                    "the handler panicked in a callback for connection {} from {}{suppressed}",
                    self.id,
                    self.peer.unpack()
                );
            }
            shared.observe.note(|| Step::Panicked { id: Some(self.id) });
            Some(Trigger::Close(CloseReason::HandlerPanicked))
        })
    }

    #[inline]
    pub(super) fn context<'c, H: Handler<Codec = C, State = S>>(
        &'c mut self,
        shared: &'c mut Shared,
    ) -> Context<'c, H> {
        let Self {
            id,
            peer,
            codec,
            user,
            out,
            deadlines,
            last_progress,
            ..
        } = self;
        if out.is_empty() {
            *last_progress = shared.clock.timestamp();
        }
        let send_state = SendState::of(deadlines, shared);
        let check_from = shared.config.write_high.min(shared.config.write_cap);
        Context {
            id: *id,
            peer,
            codec,
            state: user,
            out: out.buffer(),
            shared,
            send_state,
            check_from,
            deadlines,
        }
    }
}

/// Checks what a codec says about a partial frame with `held` bytes. A wrong answer could make the
/// connection spin, or grow without limit.
fn check_need(need: Need, held: usize, max: usize) {
    assert!(
        held <= max,
        "the codec holds {held} bytes of a frame, but its max_frame is {max}"
    );
    if let Need::Total(total) = need {
        let total = total as usize;
        assert!(
            held < total && total <= max,
            "the codec needs {total} bytes, has {held}, and its max_frame is {max}"
        );
    }
}
