//! The packets of the submit protocol, and what can be wrong with one.

use std::fmt;

use crate::codec::LengthFieldError;

/// Which bytes stand for the two acks.
///
/// The course that the protocol comes from says 0x81 and 0x82 in its text, but the constants in its
/// published program count from 0x80, so that is what its clients and servers really speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// As the text says: connack 0x81, submitack 0x82.
    #[default]
    Text,
    /// As the published source does: connack 0x80, submitack 0x81.
    Source,
}

impl Dialect {
    pub(super) const fn ack(self, kind: Kind) -> u8 {
        let connack = match self {
            Dialect::Text => 0x81,
            Dialect::Source => 0x80,
        };
        connack + kind as u8 // the submitack follows
    }
}

/// What a request asks for, and what an ack answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Opens a session. Optional, unless the server demands it.
    Conn,
    /// Hands over a payload.
    Submit,
}

/// The eight bytes by which a client knows its request again.
///
/// Clients count per connection in decimal digits, from `00000001`, and go on with `00000000`
/// after `99999999`; a server takes any eight bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Id(pub [u8; 8]);

impl Id {
    /// The `n`-th ID of a connection, as eight digits; it wraps after 99,999,999.
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
    /// Escaped, so that a peer's bytes can be logged.
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
    /// Which of the two it is.
    pub kind: Kind,
    /// The client's ID for it.
    pub id: Id,
    /// Whatever the client has to say.
    pub payload: &'a [u8],
}

/// A packet from server to client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// What it answers.
    pub kind: Kind,
    /// The request's ID.
    pub id: Id,
    /// How it went.
    pub outcome: Outcome,
}

/// The result in an ack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Result 0: done.
    Done,
    /// Result 1: refused, or failed for any other reason.
    Failed,
}

impl Request<'_> {
    /// Bytes in front of the payload: length, command and ID.
    pub const HEADER: usize = 13;

    /// The ack that answers this request.
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
    /// `totalLength` is outside the limits; for an ack that is anything but 14.
    Length(LengthFieldError),
    /// No packet has this command, or not in this direction.
    UnknownCommand {
        /// The byte in its place.
        command: u8,
    },
    /// An ack's result is neither 0 nor 1.
    UnknownResult {
        /// The byte in its place.
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
