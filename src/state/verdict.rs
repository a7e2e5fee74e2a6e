//! What user code decides, as values. The loop carries them out after the callback.

use std::time::Duration;

/// What the loop does with a connection after a callback.
///
/// Every callback of a [`Handler`](crate::Handler) that belongs to a connection returns one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// Goes on with the connection.
    Continue,
    /// Stops reading and handling frames until [`Context::resume`](crate::Context::resume). Queued
    /// replies are still sent. From [`Handler::eof`](crate::Handler::eof) it means `Continue`.
    ///
    /// A graceful stop treats a paused connection as one that still has to send a reply. The stop
    /// waits for the resume, for at most [`Config::drain_timeout`](crate::Config::drain_timeout).
    ///
    /// **Trap:** a pause hides the peer's close. A FIN is noticed only after the resume, because it
    /// is read as bytes are. A reset is noticed at once. With
    /// [`Config::idle_timeout`](crate::Config::idle_timeout) off, a connection that is never
    /// resumed stays until its peer resets it.
    Pause,
    /// Handles no further frame, sends all queued replies, then closes the connection
    /// ([`CloseReason::Handler`](crate::CloseReason::Handler)).
    Close,
    /// Closes the connection now, and drops its queued replies
    /// ([`CloseReason::Aborted`](crate::CloseReason::Aborted)). The peer may see a reset.
    Abort,
    /// Stops the whole loop gracefully, as [`Stop::Gracefully`] does.
    Stop,
}

/// How a loop stops.
///
/// Used by [`Context::stop`](crate::Context::stop), [`Handle::stop`](crate::Handle::stop) and
/// [`Reactor::stop`](crate::Reactor::stop). If several stops are requested, `AtOnce` wins. Without
/// `AtOnce`, the shortest `Within` wins, even if it is longer than the default. `Gracefully` counts
/// only if it is alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Accepts no more, answers what was read, sends all queued replies, then closes. It takes at
    /// most [`Config::drain_timeout`](crate::Config::drain_timeout).
    Gracefully,
    /// The same as `Gracefully`, but takes at most this time.
    Within(Duration),
    /// Drops all connections as they are.
    AtOnce,
}

impl Stop {
    /// Returns the stop that wins of two: `AtOnce`, else the shorter `Within`, else `Gracefully`.
    pub(crate) fn firmer(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        let (Some(one), Some(other)) = (one, other) else {
            return one.or(other);
        };
        Some(match (one, other) {
            (Stop::AtOnce, _) | (_, Stop::AtOnce) => Stop::AtOnce,
            (Stop::Within(one), Stop::Within(another)) => Stop::Within(one.min(another)),
            (Stop::Within(grace), Stop::Gracefully) | (Stop::Gracefully, Stop::Within(grace)) => {
                Stop::Within(grace)
            }
            (Stop::Gracefully, Stop::Gracefully) => Stop::Gracefully,
        })
    }
}

/// One of the two directions of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the peer to this side.
    Read,
    /// From this side to the peer.
    Write,
}
