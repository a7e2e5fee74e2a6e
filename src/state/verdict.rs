//! What user code decides, as values: the loop carries them out, and is never called back into.

use std::time::Duration;

/// What the loop shall do with a connection after a callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// Go on.
    Continue,
    /// Hand over no more frames until [`Context::resume`](crate::Context::resume), and read no more meanwhile. What is queued goes out. At the peer's end it means `Continue`.
    ///
    /// A graceful stop takes it for an answer that is still owed, and waits for the resume as long as [`Config::drain_timeout`](crate::Config::drain_timeout) lets it.
    ///
    /// **Trap:** a peer that closes its side meanwhile is noticed only after the resume, since that
    /// is read like bytes are; a reset is noticed at once. With
    /// [`Config::idle_timeout`](crate::Config::idle_timeout) off, a connection that is never
    /// resumed stays until its peer resets it.
    Pause,
    /// Handle no further frame, send all that is queued, then close.
    Close,
    /// Close now, and drop what is queued. The peer may see a reset.
    Abort,
    /// Stop the loop, gracefully: as [`Stop::Gracefully`] does.
    Stop,
}

/// How a loop comes to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Accept nothing more, answer what was read, flush, close; at most for [`Config::drain_timeout`](crate::Config::drain_timeout).
    Gracefully,
    /// The same, but at most for so long.
    Within(Duration),
    /// Drop everything as it is.
    AtOnce,
}

impl Stop {
    /// Of two wishes the firmer one: a number overrules the default, and a smaller number a larger one.
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

/// One of the two ways that bytes go on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the peer to us.
    Read,
    /// From us to the peer.
    Write,
}
