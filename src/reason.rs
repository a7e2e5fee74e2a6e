//! Why a connection ended: one flat enum, fit for a log line and for a metric's label.

use std::error::Error;
use std::{fmt, io};

/// Why a connection ended, and who is to blame.
///
/// It is fatal to one connection only: no peer's mistake ever travels up to the loop.
#[derive(Debug)]
#[non_exhaustive]
pub enum CloseReason {
    /// The handler or its owner asked for an end without a flush ([`Verdict::Abort`](crate::Verdict::Abort)); what was queued is dropped.
    Aborted,
    /// An outgoing connection was never established. Blame the address, the network or the other side.
    ConnectFailed(io::Error),
    /// The drain deadline passed with replies still unsent: the peer does not read.
    DrainTimeout {
        /// Bytes of replies that were dropped.
        unsent: usize,
    },
    /// The handler asked for the end ([`Verdict::Close`](crate::Verdict::Close)), and all that was queued was sent.
    Handler,
    /// User code panicked in a callback of this connection. Blame the handler.
    HandlerPanicked,
    /// The system refused a read or a write for another reason than the peer's reset.
    Io(io::Error),
    /// The handler queued more than the hard cap of the write buffer holds: the peer reads too slowly for what it is sent.
    OutboxFull {
        /// Bytes that would have been queued with the message that was one too many.
        queued: usize,
        /// The cap, [`Config::write_cap`](crate::Config::write_cap).
        cap: usize,
    },
    /// The peer closed its sending side between two frames, and all its frames were answered: the ordinary end.
    PeerClosed,
    /// The codec refused what the peer sent. Blame the peer (or somebody who speaks another protocol).
    Protocol(Box<dyn Error + Send + Sync>),
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
}

impl CloseReason {
    /// A short constant name, for a metric's label.
    pub fn name(&self) -> &'static str {
        match self {
            CloseReason::Aborted => "aborted",
            CloseReason::ConnectFailed(_) => "connect_failed",
            CloseReason::DrainTimeout { .. } => "drain_timeout",
            CloseReason::Handler => "handler",
            CloseReason::HandlerPanicked => "handler_panicked",
            CloseReason::Io(_) => "io",
            CloseReason::OutboxFull { .. } => "outbox_full",
            CloseReason::PeerClosed => "peer_closed",
            CloseReason::Protocol(_) => "protocol",
            CloseReason::Reset => "reset",
            CloseReason::Shutdown => "shutdown",
            CloseReason::Truncated { .. } => "truncated",
            CloseReason::Unencodable(_) => "unencodable",
        }
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
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted => CloseReason::Reset,
            _ => CloseReason::Io(error),
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CloseReason::Aborted => write!(f, "aborted by the handler"),
            CloseReason::ConnectFailed(error) => write!(f, "connect failed: {error}"),
            CloseReason::DrainTimeout { unsent } => write!(f, "drain deadline passed, {unsent} bytes of replies not read by the peer"),
            CloseReason::Handler => write!(f, "closed by the handler"),
            CloseReason::HandlerPanicked => write!(f, "the handler panicked"),
            CloseReason::Io(error) => write!(f, "i/o error: {error}"),
            CloseReason::OutboxFull { queued, cap } => write!(f, "write buffer full: {queued} bytes to queue, {cap} allowed"),
            CloseReason::PeerClosed => write!(f, "closed by the peer"),
            CloseReason::Protocol(error) => write!(f, "protocol error by the peer: {error}"),
            CloseReason::Reset => write!(f, "reset by the peer"),
            CloseReason::Shutdown => write!(f, "shut down"),
            CloseReason::Truncated { held } => write!(f, "closed by the peer {held} bytes into a frame"),
            CloseReason::Unencodable(error) => write!(f, "reply could not be encoded: {error}"),
        }
    }
}
