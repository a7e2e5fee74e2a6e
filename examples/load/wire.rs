//! Encodes requests, and checks acks.

use glassloop::submit::{Ack, Id, Request};

use crate::Dialect;

/// Bytes of a batch at most, unless one request is longer.
const BATCH_BYTES: usize = 1 << 20;

/// Requests ready to send, for all connections: whole frames one after the other, which differ only
/// in their IDs.
pub(crate) struct Batch {
    bytes: Vec<u8>,
    frame: usize,
}

impl Batch {
    /// Creates a batch of at most `most` requests.
    pub(crate) fn new(payload: usize, most: usize) -> Self {
        let frame = Request::HEADER + payload;
        let mut one = u32::try_from(frame)
            .expect("a payload has at most 16 MiB")
            .to_be_bytes()
            .to_vec();
        one.push(0x02);
        one.extend(Id::nth(0).0);
        one.extend((0..payload).map(|n| b'a' + (n % 26) as u8));
        Self {
            bytes: one.repeat((BATCH_BYTES / frame).min(most).max(1)),
            frame,
        }
    }

    /// Returns the bytes of one request.
    pub(crate) fn frame(&self) -> usize {
        self.frame
    }

    /// Returns the next `count` requests, or as many as fit, with the IDs from `first` on.
    #[inline]
    pub(crate) fn requests(&mut self, first: Id, count: u64) -> &[u8] {
        let room = self.bytes.len() / self.frame;
        let count = usize::try_from(count).map_or(room, |count| count.min(room));
        let mut id = first.0;
        for frame in self.bytes.chunks_exact_mut(self.frame).take(count) {
            frame[5..Request::HEADER].copy_from_slice(&id);
            increment(&mut id);
        }
        &self.bytes[..count * self.frame]
    }
}

/// Increments the decimal digits of an ID in place, which usually changes one byte.
#[inline]
pub(crate) fn increment(id: &mut [u8]) {
    for digit in id.iter_mut().rev() {
        if *digit < b'9' {
            *digit += 1;
            return;
        }
        *digit = b'0';
    }
}

/// Returns the correct ack for a submit with this ID.
pub(crate) fn ack_of(dialect: Dialect, id: Id) -> [u8; Ack::LEN] {
    let mut ack = [0; Ack::LEN];
    ack[3] = Ack::LEN as u8;
    ack[4] = match dialect {
        Dialect::Text => 0x82,
        Dialect::Source => 0x81,
    };
    ack[5..Request::HEADER].copy_from_slice(&id.0);
    ack
}

/// Describes how an ack differs from the expected one.
pub(crate) fn describe_mismatch(ack: &[u8], expected: &[u8; Ack::LEN]) -> String {
    let id = |ack: &[u8]| ack[5..Request::HEADER].escape_ascii().to_string();
    if ack[..4] != expected[..4] {
        format!(
            "received {} instead of the ack of {}: that is not the submit protocol",
            ack.escape_ascii(),
            id(expected)
        )
    } else if ack[4] != expected[4] {
        let (got, expected) = (ack[4], expected[4]);
        format!(
            "received an ack with command {got:#04x}, and a submitack is {expected:#04x}; \
             perhaps the server uses the other --dialect"
        )
    } else if ack[5..Request::HEADER] != expected[5..Request::HEADER] {
        format!(
            "received the ack of {} where that of {} was next: wrong, lost or out of order",
            id(ack),
            id(expected)
        )
    } else {
        let hint = "a server that requires a conn cannot be loaded";
        format!(
            "request {} was acked with result {}, which is an error ({hint})",
            id(expected),
            ack[Request::HEADER]
        )
    }
}
