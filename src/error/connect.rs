//! Why an outgoing connection was not established: the outcomes that a program may want to tell apart.

use std::error::Error;
use std::time::Duration;
use std::{fmt, io};

use crate::net::Address;

/// Why an outgoing connection was not established, and to where.
///
/// Of several addresses that were tried in turn it is the first one's failure, as with Go's `net.Dial`; each is logged at debug level.
#[derive(Debug)]
pub struct ConnectError {
    /// The address; `None` if there was none to try.
    pub addr: Option<Address>,
    /// What became of it.
    pub failure: ConnectFailure,
    /// How many addresses were tried.
    pub tried: usize,
}

/// What can become of an attempt to connect.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConnectFailure {
    /// This machine has no local address and port for it (EADDRNOTAVAIL). The system has one error
    /// for two causes, both on this side.
    ///
    /// Either all ports for that address are in use: wait before trying again. Or the machine has
    /// no address from which it could be reached, `::1` where IPv6 is off for instance: then it
    /// fails every time.
    AddressNotAvailable,
    /// The other side's queue is full, and the system does not wait for it. Unix domain sockets only; try again later.
    Busy,
    /// There was no address to try.
    NoAddress,
    /// As many connections are open as may be. Blame this side's load.
    NoRoom {
        /// How many there are.
        open: usize,
    },
    /// Anything else that the system says.
    Other(io::Error),
    /// The machine is there and nobody listens on the port.
    Refused,
    /// The port was free, and by chance this side's own: the socket is connected with itself (RFC 9293, 3.5). Nobody else listens there.
    SelfConnect,
    /// The loop is stopping.
    Stopping,
    /// Nobody answered in time.
    TimedOut {
        /// The time that this address had.
        after: Duration,
    },
    /// There is no way to that address, or the way is closed.
    Unreachable(io::Error),
}

impl ConnectFailure {
    /// Sorts what the system says of an attempt.
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

    /// The nearest kind that std has.
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
                    "no local port is left for that address, or this machine has no address to reach it from"
                )
            }
            ConnectFailure::Busy => write!(f, "its queue is full"),
            ConnectFailure::NoAddress => write!(f, "no address to connect to"),
            ConnectFailure::NoRoom { open } => {
                write!(f, "{open} connections are open, no more are allowed")
            }
            ConnectFailure::Other(error) | ConnectFailure::Unreachable(error) => {
                write!(f, "{error}")
            }
            ConnectFailure::Refused => write!(f, "connection refused: nobody listens there"),
            ConnectFailure::SelfConnect => write!(f, "connected with itself: nobody listens there"),
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
            n => write!(f, " (nor to any of {} other addresses)", n - 1),
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
