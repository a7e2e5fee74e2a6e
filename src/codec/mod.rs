//! Codecs: bytes to frames and messages to bytes. The [`Codec`] trait and the codecs of this crate.
//!
//! A TCP stream has no message boundaries. A codec adds them in one of two ways. It writes a
//! frame's length before the frame ([`LengthField`]), or a delimiter after it ([`Line`]).
//! [`submit`] is a complete protocol with a length field.

mod length_field;
mod line;
pub mod submit;

use std::error::Error;

use bytes::BytesMut;

pub use self::length_field::{Framed, LengthField, LengthFieldError};
pub use self::line::{Line, LineError};

/// Cuts frames out of a byte stream, and writes messages into one.
///
/// Each connection has a codec of its own, so a codec may keep state: a scan position, or a mode. A
/// codec never sees a socket and never waits. If more bytes are needed, it returns `Ok(None)`.
pub trait Codec {
    /// What arrives, borrowed from the bytes that were read.
    type Frame<'a>;
    /// What is sent, borrowed from the sender.
    type Message<'a>;
    /// What can be wrong with a frame or a message. An error closes the connection.
    type Error: Error + Send + Sync + 'static;

    /// Takes the next frame off the front of `input`, if it is complete.
    ///
    /// On `Ok(None)` it must take no bytes. The next call starts with the same bytes, and usually
    /// has more of them. So a codec can remember how far it has scanned. A codec that knows the
    /// length of the frame reports it with [`Input::need`], and is not called again before that
    /// many bytes are there.
    ///
    /// # Errors
    ///
    /// The codec's error, if the bytes cannot become a frame, whatever follows. The connection
    /// closes with [`CloseReason::Protocol`](crate::CloseReason::Protocol).
    ///
    /// **Trap:** a codec that returns a frame must take at least one byte. The loop panics
    /// otherwise.
    fn decode<'a>(&mut self, input: &mut Input<'a>)
    -> Result<Option<Self::Frame<'a>>, Self::Error>;

    /// Appends the whole `message` to `out`.
    ///
    /// # Errors
    ///
    /// The codec's error, if `message` cannot be encoded. What was appended until then is removed,
    /// and the connection closes with
    /// [`CloseReason::Unencodable`](crate::CloseReason::Unencodable). A handler that sends such a
    /// message has a bug.
    ///
    /// **Trap:** the bytes that are in `out` belong to earlier messages. The loop panics if a codec
    /// removes them.
    fn encode(&mut self, message: Self::Message<'_>, out: &mut BytesMut)
    -> Result<(), Self::Error>;

    /// Boxes an error for the close reason; [`CloseReason::protocol`](crate::CloseReason::protocol)
    /// finds it there.
    ///
    /// A codec that is made of other codecs returns their errors, so that a caller can look for the
    /// inner error type.
    fn boxed(error: Self::Error) -> Box<dyn Error + Send + Sync> {
        Box::new(error)
    }

    /// Returns the largest number of bytes that an unfinished frame can have, headers included.
    ///
    /// A connection holds at most this much of a frame.
    ///
    /// **Trap:** a codec that needs more bytes than this breaks its contract. The loop panics then.
    fn max_frame(&self) -> usize;
}

/// The bytes that a codec may take frames from.
#[derive(Debug)]
pub struct Input<'a> {
    bytes: &'a [u8],
    taken: usize,
    need: Need,
}

/// When it is worth decoding again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// At once: there may be whole frames.
    Now,
    /// When there is any further byte.
    More,
    /// When this many bytes of the frame are there.
    Total(u32),
}

impl<'a> Input<'a> {
    /// Makes an input of all `bytes`, with none taken.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            taken: 0,
            need: Need::More,
        }
    }

    /// Returns the bytes that are not taken yet.
    #[inline]
    pub fn bytes(&self) -> &'a [u8] {
        &self.bytes[self.taken..]
    }

    /// Takes the first `n` bytes.
    ///
    /// # Panics
    ///
    /// If there are fewer than `n`.
    #[inline]
    pub fn take(&mut self, n: usize) -> &'a [u8] {
        let (bytes, _) = self.bytes().split_at(n);
        self.taken += n;
        bytes
    }

    /// Reports that the frame at the front is `total` bytes long, including the bytes that are
    /// already there.
    ///
    /// The loop then waits until that many bytes are there, and reads a long frame straight into
    /// place.
    ///
    /// **Trap:** `total` must be more than the bytes that are there, and at most
    /// [`Codec::max_frame`]. The loop panics otherwise.
    #[inline]
    pub fn need(&mut self, total: usize) {
        self.need = u32::try_from(total).map_or(Need::More, Need::Total);
    }

    /// Returns the number of bytes taken so far.
    #[inline]
    pub fn taken(&self) -> usize {
        self.taken
    }

    /// Returns what the codec has reported about the bytes that are left.
    pub(crate) fn hint(&self) -> Need {
        self.need
    }
}
