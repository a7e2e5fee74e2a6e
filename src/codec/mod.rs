//! Bytes to frames and messages to bytes: the [`Codec`] trait and the two shipped ones.
//!
//! A TCP stream has no boundaries. There are two ways to draw them: write a frame's length in
//! front of it ([`LengthField`]), or a mark behind it ([`Line`]).

mod length_field;
mod line;
pub mod submit;

use std::error::Error;

use bytes::BytesMut;

pub use self::length_field::{Framed, LengthField, LengthFieldError};
pub use self::line::{Line, LineError};

/// Cuts frames out of a stream of bytes, and writes messages into one.
///
/// Each connection has a codec of its own, so a codec may keep state: a scan cursor, a mode.
/// It never sees a socket, and is never asked to wait: "not enough bytes yet" is an answer, `Ok(None)`.
pub trait Codec {
    /// What comes in, borrowed from the bytes that were read.
    type Frame<'a>;
    /// What goes out, borrowed from whoever sends it.
    type Message<'a>;
    /// What is wrong with a frame or a message; it ends the connection.
    type Error: Error + Send + Sync + 'static;

    /// Takes the next frame off the front of `input`, if it is there whole.
    ///
    /// On `Ok(None)` nothing may have been taken. The next call then starts with the same bytes, and as a rule
    /// has more of them; so a codec can remember how far it looked, and need not look there again.
    /// If it knows how long the frame will be it says so with [`Input::need`], and is spared the calls before that.
    ///
    /// # Errors
    /// The codec's own, if no number of further bytes can make a frame of these. The connection closes.
    fn decode<'a>(&mut self, input: &mut Input<'a>)
    -> Result<Option<Self::Frame<'a>>, Self::Error>;

    /// Appends `message` to `out`, whole.
    ///
    /// # Errors
    /// The codec's own, if `message` cannot be expressed. What was appended until then is taken
    /// back, and the connection closes: a handler that sends such a thing has a bug.
    ///
    /// **Trap:** what stands in `out` already belongs to earlier messages. A codec that takes it away panics.
    fn encode(&mut self, message: Self::Message<'_>, out: &mut BytesMut)
    -> Result<(), Self::Error>;

    /// Puts an error into the box in which it ends the connection ([`CloseReason::protocol`](crate::CloseReason::protocol) finds it there).
    ///
    /// A codec made of others hands out theirs, so that who looks for one need not know what it was a part of.
    fn boxed(error: Self::Error) -> Box<dyn Error + Send + Sync> {
        Box::new(error)
    }

    /// The most bytes that an unfinished frame can have, headers included.
    ///
    /// A connection never holds more of one: a codec that asks for more bytes than this has broken its own word, which panics.
    fn max_frame(&self) -> usize;
}

/// The bytes that a codec may take frames from.
#[derive(Debug)]
pub struct Input<'a> {
    bytes: &'a [u8],
    taken: usize,
    need: Need,
}

/// From when on another look at the input is worth it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// At once: whole frames may be there.
    Now,
    /// With any further byte.
    More,
    /// When this many bytes of the frame are there.
    Total(u32),
}

impl<'a> Input<'a> {
    /// All of `bytes`, none taken.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            taken: 0,
            need: Need::More,
        }
    }

    /// The bytes not taken yet.
    #[inline]
    pub fn bytes(&self) -> &'a [u8] {
        &self.bytes[self.taken..]
    }

    /// Takes the first `n` bytes.
    ///
    /// # Panics
    /// If there are fewer.
    #[inline]
    pub fn take(&mut self, n: usize) -> &'a [u8] {
        let (bytes, _) = self.bytes().split_at(n);
        self.taken += n;
        bytes
    }

    /// Says that the frame at the front is `total` bytes long, those already there included.
    ///
    /// It is a promise: more than are there, and no more than [`Codec::max_frame`], else the codec has broken its word, which panics. The
    /// loop waits until so many are there, and reads a long frame straight into place.
    #[inline]
    pub fn need(&mut self, total: usize) {
        self.need = u32::try_from(total).map_or(Need::More, Need::Total);
    }

    /// How many bytes were taken in all.
    #[inline]
    pub fn taken(&self) -> usize {
        self.taken
    }

    /// What the codec said before it gave up on these bytes.
    pub(crate) fn hint(&self) -> Need {
        self.need
    }
}
