//! The bytes of requests and acks.

use glassloop::submit::{Ack, Id, Request};

use crate::Dialect;

/// No more than this is given to a socket at once, unless one request is longer.
const BATCH: usize = 1 << 20;

/// Requests ready to be sent, for all connections: whole frames side by side, which differ in their IDs only.
pub(crate) struct Batch {
    bytes: Vec<u8>,
    frame: usize,
}

impl Batch {
    /// With room for at most `most` requests.
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
            bytes: one.repeat((BATCH / frame).min(most).max(1)),
            frame,
        }
    }

    /// Bytes of one request.
    pub(crate) fn frame(&self) -> usize {
        self.frame
    }

    /// The next `count` requests, or as many as there is room for, with the IDs from `first` on.
    #[inline]
    pub(crate) fn of(&mut self, first: Id, count: u64) -> &[u8] {
        let room = self.bytes.len() / self.frame;
        let count = usize::try_from(count).map_or(room, |count| count.min(room));
        let mut id = first.0;
        for frame in self.bytes.chunks_exact_mut(self.frame).take(count) {
            frame[5..Request::HEADER].copy_from_slice(&id);
            count_up(&mut id);
        }
        &self.bytes[..count * self.frame]
    }
}

/// Counts an ID up by one where it stands, as the digits it is made of: that changes one byte as a rule.
#[inline]
pub(crate) fn count_up(id: &mut [u8]) {
    for digit in id.iter_mut().rev() {
        if *digit < b'9' {
            *digit += 1;
            return;
        }
        *digit = b'0';
    }
}

/// The ack that a submit with this ID is owed.
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

/// What is wrong with an ack.
pub(crate) fn explain(ack: &[u8], wanted: &[u8; Ack::LEN]) -> String {
    let id = |ack: &[u8]| ack[5..Request::HEADER].escape_ascii().to_string();
    if ack[..4] != wanted[..4] {
        format!(
            "{} came where the ack of {} must begin: that is not the submit protocol",
            ack.escape_ascii(),
            id(wanted)
        )
    } else if ack[4] != wanted[4] {
        let (got, wanted) = (ack[4], wanted[4]);
        format!(
            "an answer came with command {got:#04x}, and a submitack is {wanted:#04x}; perhaps the server speaks the other --dialect"
        )
    } else if ack[5..Request::HEADER] != wanted[5..Request::HEADER] {
        format!(
            "the ack of {} came where that of {} was next: wrong, lost or out of order",
            id(ack),
            id(wanted)
        )
    } else {
        let hint = "a server that requires a conn cannot be loaded";
        format!(
            "request {} was acked with result {}, which is no success ({hint})",
            id(wanted),
            ack[Request::HEADER]
        )
    }
}
