//! What user code decides, as values: the loop carries them out, and is never called back into.

/// What the loop shall do with a connection after a callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// Go on.
    Continue,
    /// Hand over no more frames until [`Context::resume`](crate::Context::resume), and read no more meanwhile. What is queued goes out. At the peer's end it means `Continue`.
    ///
    /// **Trap:** a graceful stop waits for the resume of a connection that has bytes to be handled, as long as [`Config::drain_timeout`](crate::Config::drain_timeout) lets it.
    Pause,
    /// Handle no further frame, send all that is queued, then close.
    Close,
    /// Close now, and drop what is queued. The peer may see a reset.
    Abort,
    /// Stop the loop, gracefully: as [`Stop::Gracefully`] does.
    Stop,
}

/// How a loop comes to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stop {
    /// Accept nothing more, answer what was read, flush, close.
    Gracefully,
    /// Drop everything as it is.
    AtOnce,
}
