//! Errors: what can keep a reactor from starting, or end it. A single peer never can.

mod close_reason;
mod connect;
pub(crate) mod panics;

use std::{error, fmt, io};

pub use self::close_reason::{CloseReason, StoredReason};
pub use self::connect::{ConnectError, ConnectFailure};

/// Why a reactor could not be set up, or could not go on.
///
/// It converts to [`io::Error`] with the nearest kind.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A limit is invalid, or contradicts another one; see [`Config::check`](crate::Config::check).
    Config {
        /// What is wrong, with both numbers.
        problem: String,
    },
    /// An outgoing connection could not begin.
    Connect(ConnectError),
    /// An address could not be listened on, or is not a valid address.
    Listen {
        /// The address, as the caller gave it.
        addr: String,
        /// The system's error.
        source: io::Error,
    },
    /// The poller failed, so the loop cannot go on.
    Poll(io::Error),
    /// The poller could not be created.
    Setup(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Config { problem } => write!(f, "bad configuration: {problem}"),
            Error::Connect(source) => write!(f, "{source}"),
            Error::Listen { addr, source } => write!(f, "cannot listen on {addr}: {source}"),
            Error::Poll(source) => write!(f, "polling failed: {source}"),
            Error::Setup(source) => write!(f, "cannot create a poller: {source}"),
        }
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Error::Config { .. } => None,
            Error::Connect(source) => source.source(),
            Error::Listen { source, .. } | Error::Poll(source) | Error::Setup(source) => {
                Some(source)
            }
        }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Config { .. } => io::ErrorKind::InvalidInput,
            Error::Connect(source) => source.failure.kind(),
            Error::Listen { source, .. } | Error::Poll(source) | Error::Setup(source) => {
                source.kind()
            }
        };
        io::Error::new(kind, error)
    }
}
