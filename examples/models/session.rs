//! The protocol that all nine servers share: bytes in, bytes out. No sockets, no clock, no waiting.

use bytes::{Buf, BytesMut};
use glassloop::Codec;
use glassloop::codec::Input;
use glassloop::submit::{Ack, Outcome, Request, ServerCodec};

/// Handles a request, which cannot fail, and returns its ack.
pub(crate) fn answer(request: &Request<'_>) -> Ack {
    request.ack(Outcome::Done)
}

/// The protocol state of one connection.
#[derive(Default)]
pub(crate) struct Session {
    codec: ServerCodec,
    input: BytesMut,
    output: BytesMut,
    ended: bool,
}

/// Bytes of queued replies from which on no more input is taken: the limit for a peer that does not
/// read.
const HIGH: usize = 64 * 1024;

impl Session {
    /// Takes the bytes of a read, and queues an ack for each whole request. An empty slice is the
    /// end of the peer's stream.
    ///
    /// After bytes that are not a request, no more input is taken; the acks queued before are still
    /// sent. A server that then closes the socket with bytes unread resets the client: seven of the
    /// servers do. The library keeps reading for a while, drops the bytes, and waits for the client
    /// to close (a lingering close).
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        self.ended |= bytes.is_empty();
        let mut input = Input::new(&self.input);
        loop {
            match self.codec.decode(&mut input) {
                Ok(Some(request)) => self
                    .codec
                    .encode(answer(&request), &mut self.output)
                    .expect("an ack always fits"),
                Ok(None) => break,
                Err(_) => {
                    self.ended = true;
                    break;
                }
            }
        }
        let taken = input.taken();
        self.input.advance(taken);
    }

    /// Returns the bytes to send.
    pub(crate) fn output(&self) -> &[u8] {
        &self.output
    }

    /// Removes the first `count` bytes of the output, which the socket has taken.
    pub(crate) fn sent(&mut self, count: usize) {
        self.output.advance(count);
    }

    /// True if it takes more input: the peer has not ended its stream, and reads its replies.
    pub(crate) fn wants_read(&self) -> bool {
        !self.ended && self.output.len() < HIGH
    }

    /// True if there are bytes to send.
    pub(crate) fn wants_write(&self) -> bool {
        !self.output.is_empty()
    }

    /// True if no more input is taken and no output is left.
    pub(crate) fn is_done(&self) -> bool {
        self.ended && self.output.is_empty()
    }
}
