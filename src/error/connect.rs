//! Why an outgoing connection was not established.

use std::error::Error;
use std::time::Duration;
use std::{fmt, io};

use crate::net::Address;

/// Why an outgoing connection was not established, and to which address.
///
/// If several addresses were tried in turn, it is the failure of the first one, as with Go's
/// `net.Dial`. Each failure is logged at debug level.
#[derive(Debug)]
pub struct ConnectError {
    /// The address; `None` if there was none to try.
    pub addr: Option<Address>,
    /// Why the attempt failed.
    pub failure: ConnectFailure,
    /// The number of addresses that were tried.
    pub tried: usize,
}

/// Why an attempt to connect failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConnectFailure {
    /// This machine has no local address and port for the connection (EADDRNOTAVAIL). The system
    /// has one error for two causes, both on this side.
    ///
    /// - All local ports for that address are in use. Wait before trying again.
    /// - The machine has no address from which it could be reached, for instance `::1` where IPv6
    ///   is off. Then it fails every time.
    AddressNotAvailable,
    /// The listener's backlog is full, and the system does not wait for room. Unix domain sockets
    /// only. Try again later.
    Busy,
    /// There was no address to try.
    NoAddress,
    /// The limit on open connections is reached
    /// ([`Config::max_connections`](crate::Config::max_connections), or a shared
    /// [`ConnectionLimit`](crate::ConnectionLimit)).
    NoRoom {
        /// The number of open connections.
        open: usize,
    },
    /// Any other error of the system.
    Other(io::Error),
    /// The machine answered, and no program listens on the port.
    Refused,
    /// The socket connected to itself (RFC 9293, 3.5). No program listens on the port, and the
    /// system happened to choose it as the local port.
    SelfConnect,
    /// The loop is stopping.
    Stopping,
    /// There was no answer in time.
    TimedOut {
        /// The time that this address had.
        after: Duration,
    },
    /// There is no route to the address, or the route is closed.
    Unreachable(io::Error),
}

impl ConnectFailure {
    /// Converts the system's error of an attempt.
    pub(crate) fn from_io(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => ConnectFailure::Refused,
            io::ErrorKind::WouldBlock => ConnectFailure::Busy,
            io::ErrorKind::AddrNotAvailable => ConnectFailure::AddressNotAvailable,
            io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown => ConnectFailure::Unreachable(error),
            _ => ConnectFailure::Other(error),
        }
    }

    /// Returns the nearest kind of std.
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            ConnectFailure::AddressNotAvailable => io::ErrorKind::AddrNotAvailable,
            ConnectFailure::Busy => io::ErrorKind::WouldBlock,
            ConnectFailure::NoAddress => io::ErrorKind::InvalidInput,
            ConnectFailure::NoRoom { .. } | ConnectFailure::Stopping => io::ErrorKind::Other,
            ConnectFailure::Other(error) | ConnectFailure::Unreachable(error) => error.kind(),
            ConnectFailure::Refused | ConnectFailure::SelfConnect => {
                io::ErrorKind::ConnectionRefused
            }
            ConnectFailure::TimedOut { .. } => io::ErrorKind::TimedOut,
        }
    }
}

impl fmt::Display for ConnectFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConnectFailure::AddressNotAvailable => {
                write!(
                    f,
                    "no local port is left for that address, or this machine has no address to \
                     reach it from"
                )
            }
            ConnectFailure::Busy => write!(f, "the listener's backlog is full"),
            ConnectFailure::NoAddress => write!(f, "no address to connect to"),
            ConnectFailure::NoRoom { open } => {
                write!(f, "{open} connections are open, no more are allowed")
            }
            ConnectFailure::Other(error) | ConnectFailure::Unreachable(error) => {
                write!(f, "{error}")
            }
            ConnectFailure::Refused => write!(f, "connection refused: nothing listens there"),
            ConnectFailure::SelfConnect => {
                write!(f, "connected with itself: nothing listens there")
            }
            ConnectFailure::Stopping => write!(f, "the loop is stopping"),
            ConnectFailure::TimedOut { after } => write!(f, "no answer within {after:?}"),
        }
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.addr {
            Some(addr) => write!(f, "cannot connect to {addr}: {}", self.failure)?,
            None => write!(f, "cannot connect: {}", self.failure)?,
        }
        match self.tried {
            0 | 1 => Ok(()),
            n => write!(f, " (other addresses tried: {})", n - 1),
        }
    }
}

impl Error for ConnectError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.failure {
            ConnectFailure::Other(error) | ConnectFailure::Unreachable(error) => Some(error),
            _ => None,
        }
    }
}
