//! All deadlines of a connection: when they expire, and what follows.

use std::time::Duration;

use super::Connection;
use crate::codec::Codec;
use crate::error::CloseReason;
use crate::handler::{Handler, Shared};
use crate::observe::Step;
use crate::state::{Direction, Reading, State, Trigger};
use crate::time::{Expiry, Timestamp};

impl<C: Codec, S> Connection<C, S> {
    /// Returns the tick at which its first deadline expires, and which one that is.
    #[inline]
    pub(crate) fn next_expiry(&self, shared: &Shared) -> Option<(u64, Expiry)> {
        self.first_expiry(shared, |_, _| true)
    }

    /// Returns the first of its deadlines that must be carried out now. With `guards` false, only
    /// those that the handler has set.
    pub(crate) fn due_expiry(&self, guards: bool, shared: &Shared) -> Option<Expiry> {
        let (tick, seen) = (
            shared.clock.tick(),
            shared.clock.tick_of(shared.clock.seen()),
        );
        let due = self.first_expiry(shared, |at, expiry| match expiry {
            Expiry::Deadline(_) => at <= tick,
            _ => guards && at <= seen,
        });
        due.map(|(_, expiry)| expiry)
    }

    /// Returns the first of its deadlines among those that `counts` accepts.
    fn first_expiry(
        &self,
        shared: &Shared,
        counts: impl Fn(u64, Expiry) -> bool,
    ) -> Option<(u64, Expiry)> {
        let (clock, config) = (&shared.clock, &shared.config);
        let guard = |since: Timestamp, time: Option<Duration>| {
            time.and_then(|time| clock.after_rounded(since, time))
        };
        let mut first: Option<(u64, Expiry)> = None;
        let mut consider = |tick: Option<u64>, expiry| {
            let is_earlier = |tick: &u64| {
                first.is_none_or(|(earliest, _)| *tick < earliest) && counts(*tick, expiry)
            };
            if let Some(tick) = tick.filter(is_earlier) {
                first = Some((tick, expiry));
            }
        };
        match self.state {
            State::Connecting | State::Closed(_) => {}
            State::Open(reading) => {
                let unfinished =
                    reading == Reading::Flowing && self.is_reading() && !self.inbox.is_empty();
                consider(
                    self.deadlines.tick(Direction::Read),
                    Expiry::Deadline(Direction::Read),
                );
                consider(
                    self.deadlines.tick(Direction::Write),
                    Expiry::Deadline(Direction::Write),
                );
                consider(
                    self.deadlines
                        .handshake()
                        .and_then(|since| guard(since, config.handshake_timeout)),
                    Expiry::Handshake,
                );
                let frame_start = self.frame_timer_start(shared);
                consider(
                    guard(frame_start, config.frame_timeout).filter(|_| unfinished),
                    Expiry::Frame,
                );
                consider(
                    guard(self.last_progress, config.write_timeout).filter(|_| self.is_writing()),
                    Expiry::Write,
                );
                consider(guard(self.last_activity, config.idle_timeout), Expiry::Idle);
            }
            State::Draining { .. } => {
                consider(
                    clock.after(self.last_progress, shared.drain_time),
                    Expiry::Drain,
                );
            }
            State::Lingering(_) => {
                consider(
                    clock.after(self.last_activity, config.linger_timeout),
                    Expiry::Linger,
                );
                consider(
                    clock.after(self.last_progress, shared.drain_time),
                    Expiry::Linger,
                );
            }
        }
        first
    }

    /// Returns when the timer of the partial frame began: with the frame, or when reading resumed
    /// after a read deadline.
    #[inline]
    fn frame_timer_start(&self, shared: &Shared) -> Timestamp {
        let started_at = self.inbox.started_at();
        self.deadlines
            .resumed_at()
            .map_or(started_at, |resumed_at| {
                shared.clock.later(started_at, resumed_at)
            })
    }

    /// Carries out the first of its deadlines that has expired. Returns true if there was one.
    #[cfg(feature = "sim")]
    pub fn expire<H: Handler<Codec = C, State = S>>(
        &mut self,
        handler: &mut H,
        shared: &mut Shared,
    ) -> bool {
        let due = self.due_expiry(true, shared);
        if let Some(expiry) = due {
            self.handle_expiry(expiry, handler, shared);
        }
        due.is_some()
    }

    /// Carries out a deadline that has expired: calls [`Handler::deadline`], or closes the
    /// connection.
    pub(crate) fn handle_expiry<H: Handler<Codec = C, State = S>>(
        &mut self,
        expiry: Expiry,
        handler: &mut H,
        shared: &mut Shared,
    ) {
        if let Expiry::Deadline(_) = expiry {
            return self.notify_deadlines(handler, shared);
        }
        shared.observe.note(|| Step::Deadline {
            id: self.id,
            expiry,
        });
        let (held, unsent) = (self.inbox.held().len(), self.out.len());
        let time = |time: Option<Duration>| time.unwrap_or_default();
        let cause = match expiry {
            Expiry::Handshake => Trigger::Close(CloseReason::HandshakeTimeout {
                after: time(shared.config.handshake_timeout),
            }),
            Expiry::Frame => Trigger::Close(CloseReason::FrameTimeout {
                held,
                after: time(shared.config.frame_timeout),
            }),
            Expiry::Idle => Trigger::Close(CloseReason::IdleTimeout {
                after: time(shared.config.idle_timeout),
            }),
            // No draining: the peer takes nothing, which is the reason to close.
            Expiry::Write => Trigger::Fail(CloseReason::WriteTimeout {
                unsent,
                after: time(shared.config.write_timeout),
            }),
            Expiry::Drain | Expiry::Linger | Expiry::Connect | Expiry::Deadline(_) => {
                Trigger::Expired { unsent }
            }
        };
        self.apply(cause, shared);
    }

    /// Moves the start of the partial frame's timer forward by the time since `queued_at`. In that
    /// time the loop could have read the frame's bytes, but was busy with other work. This delay
    /// must not count against the peer.
    pub(crate) fn extend_frame_time(&mut self, queued_at: Timestamp, shared: &Shared) {
        let started_at = shared.clock.postponed(self.inbox.started_at(), queued_at);
        self.inbox.restart_timer(started_at);
    }

    /// Calls [`Handler::deadline`] for each of the handler's own deadlines that has passed.
    #[inline]
    pub fn notify_deadlines<H: Handler<Codec = C, State = S>>(
        &mut self,
        handler: &mut H,
        shared: &mut Shared,
    ) {
        if !self.deadlines.is_empty() {
            self.notify_expired(handler, shared);
        }
    }

    #[cold]
    fn notify_expired<H: Handler<Codec = C, State = S>>(
        &mut self,
        handler: &mut H,
        shared: &mut Shared,
    ) {
        // Each once: a new deadline in the past is reported in the next tick.
        for direction in [Direction::Read, Direction::Write] {
            if !matches!(self.state, State::Open(_))
                || !self.deadlines.take_expired(direction, &shared.clock)
            {
                continue;
            }
            shared.observe.note(|| Step::Deadline {
                id: self.id,
                expiry: Expiry::Deadline(direction),
            });
            let cause = match self.run_callback(shared, |cx| handler.deadline(direction, cx)) {
                Some(Trigger::Close(CloseReason::Handler)) => match direction {
                    Direction::Read => Some(Trigger::Close(CloseReason::ReadDeadline)),
                    Direction::Write => Some(Trigger::Fail(CloseReason::WriteDeadline {
                        unsent: self.out.len(),
                    })),
                },
                other => other,
            };
            if let Some(cause) = cause {
                self.apply(cause, shared);
            }
        }
    }

    /// Restarts the timers that a new state measures.
    pub(super) fn reset_timers(&mut self, shared: &Shared) {
        let now = shared.clock.timestamp();
        match self.state {
            State::Open(Reading::Flowing) => self.inbox.restart_timer(now),
            State::Draining { .. } | State::Lingering(_) => {
                (self.last_activity, self.last_progress) = (now, now);
            }
            _ => {}
        }
    }
}
