//! Why a connection ended: one flat enum, fit for a log line and for a metric's label.

use std::error::Error;
use std::ops::Deref;
use std::time::Duration;
use std::{fmt, io};

use crate::error::ConnectError;

/// Why a connection ended, and who is to blame.
///
/// It is fatal to one connection only: no peer's mistake ever travels up to the loop.
#[derive(Debug)]
#[non_exhaustive]
pub enum CloseReason {
    /// The handler or its owner asked for an end without a flush ([`Verdict::Abort`](crate::Verdict::Abort)); what was queued is dropped.
    Aborted,
    /// An outgoing connection was never established. Blame the address, the network or the other side.
    ConnectFailed(Box<ConnectError>),
    /// The drain deadline passed with replies still unsent: the peer does not read.
    DrainTimeout {
        /// Bytes of replies that were dropped.
        unsent: usize,
    },
    /// A frame was begun and not finished in time ([`Config::frame_timeout`](crate::Config::frame_timeout)). Blame the peer, or a very slow network.
    FrameTimeout {
        /// Bytes of it that had arrived.
        held: usize,
        /// The time it had.
        after: Duration,
    },
    /// The handler asked for the end ([`Verdict::Close`](crate::Verdict::Close)), and all that was queued was sent.
    Handler,
    /// User code panicked in a callback of this connection. Blame the handler.
    HandlerPanicked,
    /// The peer did not say who it is in time ([`Config::handshake_timeout`](crate::Config::handshake_timeout)).
    HandshakeTimeout {
        /// The time it had.
        after: Duration,
    },
    /// Code of this crate itself panicked in the work for this connection. Blame glassloop: it is a
    /// bug, and the error that is logged says what to report.
    Internal,
    /// No byte went in either direction for too long ([`Config::idle_timeout`](crate::Config::idle_timeout)).
    IdleTimeout {
        /// How long that is.
        after: Duration,
    },
    /// The system refused a read or a write for another reason than the peer's reset.
    Io(io::Error),
    /// The handler queued more than the hard cap of the write buffer holds: the peer reads too slowly for what it is sent.
    OutboxFull {
        /// Bytes that would have been queued with the message that was one too many.
        queued: usize,
        /// The cap, [`Config::write_cap`](crate::Config::write_cap).
        cap: usize,
    },
    /// All connections together held too much memory ([`Config::buffered_high`](crate::Config::buffered_high)), and this one was among those with the most.
    Overload {
        /// Bytes that this one held.
        held: usize,
        /// Bytes that all held.
        total: usize,
    },
    /// The peer closed its sending side between two frames, and all its frames were answered: the ordinary end.
    PeerClosed,
    /// The codec refused what the peer sent. Blame the peer (or somebody who speaks another protocol).
    Protocol(Box<dyn Error + Send + Sync>),
    /// The read deadline that the handler had set passed.
    ReadDeadline,
    /// The peer reset the connection, or is gone without having read what it was sent.
    Reset,
    /// The loop was told to stop.
    Shutdown,
    /// The peer closed its sending side in the middle of a frame.
    Truncated {
        /// Bytes of the unfinished frame that had arrived.
        held: usize,
    },
    /// The codec refused to encode what the handler sent. Blame the handler.
    Unencodable(Box<dyn Error + Send + Sync>),
    /// The write deadline that the handler had set passed.
    WriteDeadline {
        /// Bytes that were queued, and are dropped.
        unsent: usize,
    },
    /// The peer took none of what was queued for it for too long ([`Config::write_timeout`](crate::Config::write_timeout)): it does not read.
    WriteTimeout {
        /// Bytes that were queued, and are dropped.
        unsent: usize,
        /// How long it took none.
        after: Duration,
    },
}

impl CloseReason {
    /// A short constant name, for a metric's label.
    pub fn name(&self) -> &'static str {
        match self {
            CloseReason::Aborted => "aborted",
            CloseReason::ConnectFailed(_) => "connect_failed",
            CloseReason::DrainTimeout { .. } => "drain_timeout",
            CloseReason::FrameTimeout { .. } => "frame_timeout",
            CloseReason::Handler => "handler",
            CloseReason::HandlerPanicked => "handler_panicked",
            CloseReason::HandshakeTimeout { .. } => "handshake_timeout",
            CloseReason::IdleTimeout { .. } => "idle_timeout",
            CloseReason::Internal => "internal",
            CloseReason::Io(_) => "io",
            CloseReason::OutboxFull { .. } => "outbox_full",
            CloseReason::Overload { .. } => "overload",
            CloseReason::PeerClosed => "peer_closed",
            CloseReason::Protocol(_) => "protocol",
            CloseReason::ReadDeadline => "read_deadline",
            CloseReason::Reset => "reset",
            CloseReason::Shutdown => "shutdown",
            CloseReason::Truncated { .. } => "truncated",
            CloseReason::Unencodable(_) => "unencodable",
            CloseReason::WriteDeadline { .. } => "write_deadline",
            CloseReason::WriteTimeout { .. } => "write_timeout",
        }
    }

    /// Whether a peer that ends so is still to be given time to leave by itself, lest a reset destroys what it was sent last.
    ///
    /// Not if it was too slow: it has had its time, and its slot is wanted.
    pub(crate) fn lingers(&self) -> bool {
        !matches!(
            self,
            CloseReason::FrameTimeout { .. }
                | CloseReason::HandshakeTimeout { .. }
                | CloseReason::IdleTimeout { .. }
                | CloseReason::ReadDeadline
        )
    }

    /// The codec's own error, if that ended the connection and is of type `E`.
    ///
    /// ```
    /// use glassloop::{CloseReason, submit};
    ///
    /// let reason = CloseReason::Protocol(Box::new(submit::Error::UnknownCommand { command: 0x33 }));
    /// assert!(matches!(reason.protocol(), Some(submit::Error::UnknownCommand { command: 0x33 })));
    /// ```
    pub fn protocol<E: Error + 'static>(&self) -> Option<&E> {
        match self {
            CloseReason::Protocol(error) | CloseReason::Unencodable(error) => error.downcast_ref(),
            _ => None,
        }
    }

    /// Sorts a read's or write's error: a peer that is gone, or something else.
    pub(crate) fn from_io(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionAborted => CloseReason::Reset,
            _ => CloseReason::Io(error),
        }
    }
}

/// A reason as a connection keeps it: in one word, since those that are open do not pay for an end that has not come.
pub struct StoredReason(Option<Box<CloseReason>>);

impl StoredReason {
    /// [`CloseReason::Aborted`], which needs no memory.
    pub(crate) const ABORTED: Self = Self(None);

    /// The reason itself.
    pub fn into_inner(self) -> CloseReason {
        self.0.map_or(CloseReason::Aborted, |reason| *reason)
    }
}

impl From<CloseReason> for StoredReason {
    fn from(reason: CloseReason) -> Self {
        match reason {
            CloseReason::Aborted => Self::ABORTED,
            reason => Self(Some(Box::new(reason))),
        }
    }
}

impl Deref for StoredReason {
    type Target = CloseReason;

    fn deref(&self) -> &CloseReason {
        self.0.as_deref().unwrap_or(&CloseReason::Aborted)
    }
}

impl fmt::Debug for StoredReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CloseReason::Aborted => write!(f, "aborted by the handler"),
            CloseReason::ConnectFailed(error) => write!(f, "{error}"),
            CloseReason::DrainTimeout { unsent } => write!(
                f,
                "drain deadline passed, {unsent} bytes of replies not read by the peer"
            ),
            CloseReason::FrameTimeout { held, after } => {
                write!(
                    f,
                    "frame deadline passed: {held} bytes of an unfinished frame came from the peer in {after:?}"
                )
            }
            CloseReason::Handler => write!(f, "closed by the handler"),
            CloseReason::HandlerPanicked => write!(f, "the handler panicked"),
            CloseReason::HandshakeTimeout { after } => write!(
                f,
                "handshake deadline passed: no first frame from the peer in {after:?}"
            ),
            CloseReason::IdleTimeout { after } => write!(f, "idle for {after:?}"),
            CloseReason::Internal => write!(f, "internal error: a bug in glassloop"),
            CloseReason::Io(error) => write!(f, "i/o error: {error}"),
            CloseReason::OutboxFull { queued, cap } => write!(
                f,
                "write buffer full: {queued} bytes to queue, {cap} allowed"
            ),
            CloseReason::Overload { held, total } => write!(
                f,
                "too much memory held: {held} bytes by this connection, {total} by all"
            ),
            CloseReason::PeerClosed => write!(f, "closed by the peer"),
            CloseReason::Protocol(error) => write!(f, "protocol error by the peer: {error}"),
            CloseReason::ReadDeadline => write!(f, "read deadline passed"),
            CloseReason::Reset => write!(f, "reset by the peer"),
            CloseReason::Shutdown => write!(f, "shut down"),
            CloseReason::Truncated { held } => {
                write!(f, "closed by the peer {held} bytes into a frame")
            }
            CloseReason::Unencodable(error) => write!(f, "reply could not be encoded: {error}"),
            CloseReason::WriteDeadline { unsent } => write!(
                f,
                "write deadline passed, {unsent} bytes not read by the peer"
            ),
            CloseReason::WriteTimeout { unsent, after } => {
                write!(
                    f,
                    "write deadline passed: the peer took none of {unsent} bytes in {after:?}"
                )
            }
        }
    }
}
