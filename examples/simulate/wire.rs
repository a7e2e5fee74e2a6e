//! The wire formats of the simulated workloads, for both sides.

use bytes::BufMut;
use glassloop::Codec;
use glassloop::codec::{Framed, LengthField, Line};
use glassloop::submit::{Ack, Dialect, Id, Kind, Outcome, ServerCodec};

use crate::delivery::Party;
use crate::plan::Op;

/// Length of a request's text without its filler: sender, number, operation and argument, in
/// hexadecimal digits.
pub(crate) const HEAD: usize = 8 + 8 + 2 + 4;

/// The identity of a message: its sender, and its number in the sender's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MessageId {
    pub from: Party,
    pub number: u32,
}

/// A protocol for [`TestHandler`](crate::handler::TestHandler).
pub(crate) trait Wire: 'static {
    type Codec: Codec;

    fn codec() -> Self::Codec;
    /// The text of a received request.
    fn text<'a>(frame: &<Self::Codec as Codec>::Frame<'a>) -> &'a [u8];
    /// An answer, of about `size` bytes if the protocol allows any size.
    fn answer(
        message: MessageId,
        size: usize,
        text: &mut Vec<u8>,
    ) -> <Self::Codec as Codec>::Message<'_>;
    /// Appends a client's request to `out`.
    fn request(message: MessageId, text: &[u8], out: &mut Vec<u8>);
    /// The first whole answer in `bytes`: its length, its identity, and whether it is intact.
    fn first(bytes: &[u8]) -> Option<(usize, MessageId, bool)>;
}

/// The submit protocol, in the dialect of the example server.
pub(crate) struct Submit;
/// Lines, with answers of any length.
pub(crate) struct Lines;
/// Frames with a length field in front.
pub(crate) struct Frames;

impl Wire for Submit {
    type Codec = ServerCodec;

    fn codec() -> ServerCodec {
        ServerCodec::new(Dialect::Text)
    }

    fn text<'a>(frame: &<ServerCodec as Codec>::Frame<'a>) -> &'a [u8] {
        frame.payload
    }

    fn answer(message: MessageId, _: usize, _: &mut Vec<u8>) -> Ack {
        Ack {
            kind: Kind::Submit,
            id: Id(id(message)),
            outcome: Outcome::Done,
        }
    }

    fn request(message: MessageId, text: &[u8], out: &mut Vec<u8>) {
        out.put_u32(13 + text.len() as u32);
        out.put_u8(0x02);
        out.put_slice(&id(message));
        out.put_slice(text);
    }

    fn first(bytes: &[u8]) -> Option<(usize, MessageId, bool)> {
        let ack = bytes.first_chunk::<14>()?;
        let word = |at: usize| u32::from_be_bytes([ack[at], ack[at + 1], ack[at + 2], ack[at + 3]]);
        Some((
            14,
            MessageId {
                from: word(5),
                number: word(9),
            },
            word(0) == 14 && ack[4] == 0x82 && ack[13] == 0,
        ))
    }
}

impl Wire for Lines {
    type Codec = Line;

    fn codec() -> Line {
        Line::default()
    }

    fn text<'a>(frame: &<Line as Codec>::Frame<'a>) -> &'a [u8] {
        frame
    }

    fn answer(message: MessageId, size: usize, text: &mut Vec<u8>) -> &[u8] {
        compose(message, Op::Ack, size, text);
        text
    }

    fn request(_: MessageId, text: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(text);
        out.push(b'\n');
    }

    fn first(bytes: &[u8]) -> Option<(usize, MessageId, bool)> {
        let end = bytes.iter().position(|byte| *byte == b'\n')?;
        Some(read(&bytes[..end]).map_or(
            (end + 1, MessageId { from: 0, number: 0 }, false),
            |(message, _, intact)| (end + 1, message, intact),
        ))
    }
}

impl Wire for Frames {
    type Codec = LengthField;

    fn codec() -> LengthField {
        LengthField::whole(4)
    }

    fn text<'a>(frame: &<LengthField as Codec>::Frame<'a>) -> &'a [u8] {
        frame.body
    }

    fn answer(message: MessageId, size: usize, text: &mut Vec<u8>) -> Framed<'_> {
        compose(message, Op::Ack, size, text);
        Framed {
            head: &[],
            body: text,
        }
    }

    fn request(_: MessageId, text: &[u8], out: &mut Vec<u8>) {
        out.put_u32(4 + text.len() as u32);
        out.put_slice(text);
    }

    fn first(bytes: &[u8]) -> Option<(usize, MessageId, bool)> {
        let length = u32::from_be_bytes(*bytes.first_chunk::<4>()?) as usize;
        let text = bytes.get(4..length)?;
        Some(read(text).map_or(
            (length, MessageId { from: 0, number: 0 }, false),
            |(message, _, intact)| (length, message, intact),
        ))
    }
}

/// The identity of a message as eight bytes.
pub(crate) fn id(message: MessageId) -> [u8; 8] {
    (u64::from(message.from) << 32 | u64::from(message.number)).to_be_bytes()
}

/// Writes a request's text: its header, and a filler derived from its identity.
pub(crate) fn compose(message: MessageId, op: Op, size: usize, text: &mut Vec<u8>) {
    let (code, arg) = op.code();
    text.clear();
    for (word, digits) in [
        (message.from, 8),
        (message.number, 8),
        (code.into(), 2),
        (arg.into(), 4),
    ] {
        text.extend(
            (0..digits)
                .rev()
                .map(|digit| b"0123456789abcdef"[(word >> (4 * digit)) as usize & 15]),
        );
    }
    text.extend((0..size).map(|at| filler(message, at)));
}

/// Parses a text. The last field is true if the filler is intact.
pub(crate) fn read(text: &[u8]) -> Option<(MessageId, Op, bool)> {
    let head = text.get(..HEAD)?;
    let word = |from: usize, to: usize| {
        u32::from_str_radix(std::str::from_utf8(&head[from..to]).ok()?, 16).ok()
    };
    let message = MessageId {
        from: word(0, 8)?,
        number: word(8, 16)?,
    };
    let op = Op::decode(word(16, 18)? as u8, word(18, 22)? as u16)?;
    let intact = text[HEAD..]
        .iter()
        .enumerate()
        .all(|(at, byte)| *byte == filler(message, at));
    Some((message, op, intact))
}

fn filler(message: MessageId, at: usize) -> u8 {
    b'a' + ((message.from as usize).wrapping_mul(7) + message.number as usize * 3 + at) as u8 % 26
}

impl Op {
    fn code(self) -> (u8, u16) {
        match self {
            Op::Ack => (0, 0),
            Op::Replies(arg) => (1, arg),
            Op::Pause(arg) => (2, arg),
            Op::MessageOther(arg) => (3, arg),
            Op::CloseOther(arg) => (4, arg),
            Op::Close => (5, 0),
            Op::Abort => (6, 0),
            Op::Panic => (7, 0),
            Op::PanicAtClose => (8, 0),
            Op::Timer(arg) => (9, arg),
            Op::ReadDeadline(arg) => (10, arg),
            Op::WriteDeadline(arg) => (11, arg),
            Op::Stop => (12, 0),
        }
    }

    fn decode(code: u8, arg: u16) -> Option<Op> {
        Some(match code {
            0 => Op::Ack,
            1 => Op::Replies(arg),
            2 => Op::Pause(arg),
            3 => Op::MessageOther(arg),
            4 => Op::CloseOther(arg),
            5 => Op::Close,
            6 => Op::Abort,
            7 => Op::Panic,
            8 => Op::PanicAtClose,
            9 => Op::Timer(arg),
            10 => Op::ReadDeadline(arg),
            11 => Op::WriteDeadline(arg),
            12 => Op::Stop,
            _ => return None,
        })
    }
}
