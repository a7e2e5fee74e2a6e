//! Why a connection closed: one flat enum, for a log line and for a metric's label.

use std::error::Error;
use std::ops::Deref;
use std::time::Duration;
use std::{fmt, io};

use crate::error::ConnectError;

/// Why a connection closed.
///
/// A handler gets it in [`Handler::close`](crate::Handler::close). It prints as a phrase for a log
/// line; [`name`](Self::name) is a label for a metric. It ends one connection only: no fault of a
/// peer ends the loop.
#[derive(Debug)]
#[non_exhaustive]
pub enum CloseReason {
    /// The handler or the program that owns the loop aborted the connection
    /// ([`Verdict::Abort`](crate::Verdict::Abort)). Queued bytes were dropped.
    Aborted,
    /// An outgoing connection was never established. The cause is the address, the network or the
    /// other side.
    ConnectFailed(Box<ConnectError>),
    /// The drain deadline expired with replies still unsent: the peer does not read
    /// ([`Config::drain_timeout`](crate::Config::drain_timeout)).
    DrainTimeout {
        /// Bytes of replies that were dropped.
        unsent: usize,
    },
    /// A frame began and did not end in time
    /// ([`Config::frame_timeout`](crate::Config::frame_timeout)). The cause is the peer, or a very
    /// slow network.
    FrameTimeout {
        /// Bytes of the frame that had arrived.
        held: usize,
        /// The time that the frame had.
        after: Duration,
    },
    /// The handler closed the connection ([`Verdict::Close`](crate::Verdict::Close)), and all
    /// queued bytes were sent.
    Handler,
    /// User code panicked in a callback of this connection. The cause is the handler.
    HandlerPanicked,
    /// The peer sent no first frame in time
    /// ([`Config::handshake_timeout`](crate::Config::handshake_timeout)).
    HandshakeTimeout {
        /// The time that the peer had.
        after: Duration,
    },
    /// Code of this crate panicked while it handled this connection: a bug in glassloop. The error
    /// that is logged says what to report.
    Internal,
    /// No byte was transferred in either direction for too long
    /// ([`Config::idle_timeout`](crate::Config::idle_timeout)).
    IdleTimeout {
        /// The timeout.
        after: Duration,
    },
    /// A read or a write failed with an error other than a reset by the peer.
    Io(io::Error),
    /// The handler queued more than the write queue may hold: the peer reads too slowly for what it
    /// is sent.
    OutboxFull {
        /// Bytes that would be queued with the message that was one too many.
        queued: usize,
        /// The cap, [`Config::write_cap`](crate::Config::write_cap).
        cap: usize,
    },
    /// All connections together held too much memory
    /// ([`Config::buffered_high`](crate::Config::buffered_high)), and this one was among those with
    /// the most.
    Overload {
        /// Bytes that this connection held.
        held: usize,
        /// Bytes that all connections held.
        total: usize,
    },
    /// The peer closed its sending side between two frames, and all its frames were answered: the
    /// normal end.
    PeerClosed,
    /// The codec rejected what the peer sent. The cause is the peer, or a client of another
    /// protocol.
    Protocol(Box<dyn Error + Send + Sync>),
    /// The read deadline that the handler had set expired.
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
    /// The codec could not encode what the handler sent. The cause is the handler.
    Unencodable(Box<dyn Error + Send + Sync>),
    /// The write deadline that the handler had set expired.
    WriteDeadline {
        /// Queued bytes that were dropped.
        unsent: usize,
    },
    /// The peer took none of the queued bytes for too long
    /// ([`Config::write_timeout`](crate::Config::write_timeout)): it does not read.
    WriteTimeout {
        /// Queued bytes that were dropped.
        unsent: usize,
        /// The time in which it took none.
        after: Duration,
    },
}

impl CloseReason {
    /// Returns a short constant name, for a metric's label.
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

    /// Returns true if the connection lingers after its last reply, so that a reset does not
    /// destroy the reply.
    ///
    /// False if the peer was too slow: it has had its time, and its slot is needed.
    pub(crate) fn lingers(&self) -> bool {
        !matches!(
            self,
            CloseReason::FrameTimeout { .. }
                | CloseReason::HandshakeTimeout { .. }
                | CloseReason::IdleTimeout { .. }
                | CloseReason::ReadDeadline
        )
    }

    /// Returns the codec's own error, if that closed the connection and is of type `E`.
    ///
    /// ```
    /// use glassloop::{CloseReason, submit};
    ///
    /// let error = submit::Error::UnknownCommand { command: 0x33 };
    /// let reason = CloseReason::Protocol(Box::new(error));
    /// assert_eq!(reason.protocol(), Some(&error));
    /// ```
    pub fn protocol<E: Error + 'static>(&self) -> Option<&E> {
        match self {
            CloseReason::Protocol(error) | CloseReason::Unencodable(error) => error.downcast_ref(),
            _ => None,
        }
    }

    /// Converts the error of a read or a write: a reset by the peer, or another error.
    pub(crate) fn from_io(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionAborted => CloseReason::Reset,
            _ => CloseReason::Io(error),
        }
    }
}

/// A close reason as a connection stores it: in one word, so that open connections do not pay for
/// it.
pub struct StoredReason(Option<Box<CloseReason>>);

impl StoredReason {
    /// [`CloseReason::Aborted`], which needs no memory.
    pub(crate) const ABORTED: Self = Self(None);

    /// Returns the reason itself.
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
                    "frame deadline passed: {held} bytes of an unfinished frame came from the peer \
                     in {after:?}"
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
                    "write timeout: the peer took none of {unsent} bytes in {after:?}"
                )
            }
        }
    }
}
