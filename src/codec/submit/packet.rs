//! The packets of the submit protocol, and what can be wrong with one.

use std::fmt;

use crate::codec::LengthFieldError;

/// Which command bytes the two acks have.
///
/// The course that defines the protocol says 0x81 and 0x82 in its text. The constants in its
/// published program count from 0x80, so that is what its clients and servers really send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// The text of the course: connack 0x81, submitack 0x82.
    #[default]
    Text,
    /// The published program: connack 0x80, submitack 0x81.
    Source,
}

impl Dialect {
    /// Returns the command byte of the ack for `kind`.
    pub(super) const fn ack(self, kind: Kind) -> u8 {
        let connack = match self {
            Dialect::Text => 0x81,
            Dialect::Source => 0x80,
        };
        connack + kind as u8 // submitack is one more
    }
}

/// What a request asks for, and what an ack answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Opens a session. Optional, unless the server requires it.
    Conn,
    /// Submits a payload.
    Submit,
}

/// The eight bytes that identify a request to its client.
///
/// Clients count per connection in decimal digits, from `00000001`, and continue with `00000000`
/// after `99999999`. A server accepts any eight bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Id(pub [u8; 8]);

impl Id {
    /// Returns the `n`-th ID of a connection, as eight digits. It wraps after 99,999,999.
    pub fn nth(n: u64) -> Self {
        let mut digits = [b'0'; 8];
        let mut rest = n;
        for digit in digits.iter_mut().rev() {
            *digit += (rest % 10) as u8; // a digit
            rest /= 10;
        }
        Self(digits)
    }
}

impl fmt::Display for Id {
    /// Prints the ID escaped, so that a peer's bytes can be logged.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Id({self})")
    }
}

/// A packet from client to server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// The kind of the request.
    pub kind: Kind,
    /// The client's ID for the request.
    pub id: Id,
    /// The payload: any bytes.
    pub payload: &'a [u8],
}

/// A packet from server to client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// The kind of the request that it answers.
    pub kind: Kind,
    /// The ID of that request.
    pub id: Id,
    /// The result.
    pub outcome: Outcome,
}

/// The result in an ack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Result 0: done.
    Done,
    /// Result 1: rejected, or failed for any other reason.
    Failed,
}

impl Request<'_> {
    /// Bytes before the payload: length, command and ID.
    pub const HEADER: usize = 13;

    /// Returns the ack that answers this request.
    pub fn ack(&self, outcome: Outcome) -> Ack {
        Ack {
            kind: self.kind,
            id: self.id,
            outcome,
        }
    }
}

impl Ack {
    /// Bytes of an ack.
    pub const LEN: usize = Request::HEADER + 1;
}

/// What is wrong with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// `totalLength` is outside the limits. For an ack, it is not 14.
    Length(LengthFieldError),
    /// No packet in this direction has this command.
    UnknownCommand {
        /// The command byte.
        command: u8,
    },
    /// The result of an ack is neither 0 nor 1.
    UnknownResult {
        /// The result byte.
        result: u8,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length(error) => error.fmt(f),
            Self::UnknownCommand { command } => write!(f, "unknown command 0x{command:02x}"),
            Self::UnknownResult { result } => write!(f, "unknown result {result}, it is 0 or 1"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Length(error) => Some(error),
            _ => None,
        }
    }
}

impl From<LengthFieldError> for Error {
    fn from(error: LengthFieldError) -> Self {
        Self::Length(error)
    }
}
