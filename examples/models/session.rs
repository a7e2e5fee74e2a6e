//! What all nine servers share: bytes in, bytes out. No socket, no clock, nobody waits in here.

use bytes::{Buf, BytesMut};
use glassloop::Codec;
use glassloop::codec::Input;
use glassloop::submit::{Ack, Outcome, Request, ServerCodec};

/// What the service does with a request. It cannot fail.
pub(crate) fn answer(request: &Request<'_>) -> Ack {
    request.ack(Outcome::Done)
}

/// One connection's side of the conversation.
#[derive(Default)]
pub(crate) struct Session {
    codec: ServerCodec,
    input: BytesMut,
    output: BytesMut,
    over: bool,
}

/// Answers that may wait for a peer who does not read: with more than this nothing further is taken from him.
const HIGH: usize = 64 * 1024;

impl Session {
    /// Takes what was read, and queues an ack for each whole request. No bytes: the peer has ended its sending.
    ///
    /// Behind bytes that are no request nothing more is taken; what was answered before still goes out. Who then closes, with bytes unread, resets
    /// the client: seven of the servers do. The library reads on, drops what comes, and waits a while for the client's end.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        self.over |= bytes.is_empty();
        let mut input = Input::new(&self.input);
        loop {
            match self.codec.decode(&mut input) {
                Ok(Some(request)) => self
                    .codec
                    .encode(answer(&request), &mut self.output)
                    .expect("an ack always fits"),
                Ok(None) => break,
                Err(_) => {
                    self.over = true;
                    break;
                }
            }
        }
        let taken = input.taken();
        self.input.advance(taken);
    }

    /// What is to be sent.
    pub(crate) fn output(&self) -> &[u8] {
        &self.output
    }

    /// So much of it was.
    pub(crate) fn sent(&mut self, count: usize) {
        self.output.advance(count);
    }

    /// Whether it can take more: the peer has not ended, and reads what it gets.
    pub(crate) fn wants_read(&self) -> bool {
        !self.over && self.output.len() < HIGH
    }

    /// Whether something is to be sent.
    pub(crate) fn wants_write(&self) -> bool {
        !self.output.is_empty()
    }

    /// Whether all is said: nothing more comes, and nothing is left to be sent.
    pub(crate) fn is_done(&self) -> bool {
        self.over && self.output.is_empty()
    }
}
