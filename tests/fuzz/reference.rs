//! Simple reference versions of the shipped codecs, to compare the fast ones with.

use glassloop::codec::{self, Codec, Framed, LengthField, LengthFieldError, LineError};
use glassloop::submit::{Ack, ClientCodec, Dialect, Error, Kind, Outcome, Request, ServerCodec};

pub type FrameOf<'a, R> = <<R as ReferenceCodec>::Codec as Codec>::Frame<'a>;
pub type ErrorOf<R> = <<R as ReferenceCodec>::Codec as Codec>::Error;

/// A frame as plain bytes: its header and its body.
pub type Parts = (Vec<u8>, Vec<u8>);

/// A simple version of a codec.
pub trait ReferenceCodec: Clone {
    type Codec: Codec<Error: Copy + PartialEq>;

    fn codec(&self) -> Self::Codec;

    /// The first frame of `bytes` and its length on the wire; `None` if it is incomplete.
    fn first(&self, bytes: &[u8]) -> Option<Result<(usize, Parts), ErrorOf<Self>>>;

    fn parts(frame: &FrameOf<'_, Self>) -> Parts;

    /// Encodes a frame with this body.
    fn encode(&self, body: &[u8]) -> Result<Vec<u8>, ErrorOf<Self>>;

    fn max(&self) -> usize;

    /// The most calls of `decode` for one frame, however it is cut; `None` if the codec must be
    /// called after every read.
    fn max_decode_calls(&self) -> Option<u64> {
        Some(3) // for the header, for the length, and for the whole frame
    }

    /// The error without numbers that depend on how much was received.
    fn comparable(error: ErrorOf<Self>) -> ErrorOf<Self> {
        error
    }
}

#[derive(Clone, Debug)]
pub struct Line {
    pub delimiter: u8,
    pub max: u32,
}

impl ReferenceCodec for Line {
    type Codec = codec::Line;

    fn codec(&self) -> codec::Line {
        codec::Line::ending_with(self.delimiter).max(self.max)
    }

    fn first(&self, bytes: &[u8]) -> Option<Result<(usize, Parts), LineError>> {
        let max = self.max();
        match bytes.iter().position(|byte| *byte == self.delimiter) {
            Some(end) if end < max => {
                let mut line = bytes[..end].to_vec();
                if self.delimiter == b'\n' && line.last() == Some(&b'\r') {
                    line.pop();
                }
                Some(Ok((end + 1, (Vec::new(), line))))
            }
            _ if bytes.len() >= max => Some(Err(LineError::TooLong {
                length: bytes.len(),
                max,
            })),
            _ => None,
        }
    }

    fn parts(line: &&[u8]) -> Parts {
        (Vec::new(), line.to_vec())
    }

    fn encode(&self, line: &[u8]) -> Result<Vec<u8>, LineError> {
        if let Some(at) = line.iter().position(|byte| *byte == self.delimiter) {
            return Err(LineError::DelimiterInside { at });
        }
        let wire = [line, &[self.delimiter]].concat();
        if wire.len() > self.max() {
            Err(LineError::TooLong {
                length: wire.len(),
                max: self.max(),
            })
        } else {
            Ok(wire)
        }
    }

    fn max(&self) -> usize {
        self.max as usize
    }

    fn max_decode_calls(&self) -> Option<u64> {
        None
    }

    fn comparable(error: LineError) -> LineError {
        match error {
            LineError::TooLong { length, max } => {
                assert!(
                    length >= max,
                    "a line of {length} bytes is not longer than {max}"
                );
                LineError::TooLong { length: 0, max }
            }
            other => other,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Field {
    pub offset: u8,
    pub width: u8,
    pub whole: bool,
    pub min: u32,
    pub max: u32,
}

impl Field {
    fn header(&self) -> usize {
        usize::from(self.offset) + usize::from(self.width)
    }

    fn check(&self, total: u128) -> Result<usize, LengthFieldError> {
        let (min, max) = (self.header().max(self.min as usize), self.max());
        let length = u64::try_from(total).unwrap_or(u64::MAX);
        if total < min as u128 {
            Err(LengthFieldError::TooShort { length, min })
        } else if total > max as u128 {
            Err(LengthFieldError::TooLong { length, max })
        } else {
            Ok(total as usize)
        }
    }
}

impl ReferenceCodec for Field {
    type Codec = LengthField;

    fn codec(&self) -> LengthField {
        let field = if self.whole {
            LengthField::whole(self.width)
        } else {
            LengthField::rest(self.width)
        };
        field
            .max(u32::MAX)
            .at(self.offset)
            .min(self.min)
            .max(self.max)
    }

    fn first(&self, bytes: &[u8]) -> Option<Result<(usize, Parts), LengthFieldError>> {
        if bytes.len() < self.header() {
            return None;
        }
        let (offset, header) = (usize::from(self.offset), self.header());
        let value = bytes[offset..header]
            .iter()
            .fold(0_u128, |value, byte| value * 256 + u128::from(*byte));
        match self.check(if self.whole {
            value
        } else {
            value + header as u128
        }) {
            Err(error) => Some(Err(error)),
            Ok(total) if bytes.len() < total => None,
            Ok(total) => Some(Ok((
                total,
                (bytes[..offset].to_vec(), bytes[header..total].to_vec()),
            ))),
        }
    }

    fn parts(frame: &Framed<'_>) -> Parts {
        (frame.head.to_vec(), frame.body.to_vec())
    }

    fn encode(&self, body: &[u8]) -> Result<Vec<u8>, LengthFieldError> {
        let total = self.check((self.header() + body.len()) as u128)?;
        let value = if self.whole { total } else { body.len() };
        let field = (value as u64).to_be_bytes();
        let (beyond, field) = field.split_at(8 - usize::from(self.width));
        if beyond.iter().any(|byte| *byte > 0) {
            return Err(LengthFieldError::TooLong {
                length: total as u64,
                max: (1 << (u32::from(self.width) * 8)) - 1,
            });
        }
        Ok([&vec![0xee; self.offset.into()][..], field, body].concat())
    }

    fn max(&self) -> usize {
        self.max as usize
    }
}

/// The parts of all four packets: total length, command, ID, and the rest.
type Packet<'a> = (usize, u8, &'a [u8], &'a [u8]);

/// Parses the first packet.
fn packet(bytes: &[u8], min: usize, max: usize) -> Option<Result<Packet<'_>, Error>> {
    let total = u32::from_be_bytes(bytes.get(..4)?.try_into().unwrap());
    let length = u64::from(total);
    let total = total as usize;
    if total < min {
        return Some(Err(LengthFieldError::TooShort { length, min }.into()));
    }
    if total > max {
        return Some(Err(LengthFieldError::TooLong { length, max }.into()));
    }
    let packet = bytes.get(..total)?;
    Some(Ok((total, packet[4], &packet[5..13], &packet[13..])))
}

/// Encodes a packet.
pub fn wire(command: u8, id: &[u8], rest: &[u8]) -> Vec<u8> {
    let total = u32::try_from(13 + rest.len()).unwrap();
    [&total.to_be_bytes()[..], &[command], id, rest].concat()
}

/// The commands of the two acks.
pub fn acks(dialect: Dialect) -> [u8; 2] {
    match dialect {
        Dialect::Text => [0x81, 0x82],
        Dialect::Source => [0x80, 0x81],
    }
}

/// The codec of a server.
#[derive(Clone, Debug)]
pub struct Requests {
    pub dialect: Dialect,
    pub max: u32,
}

impl ReferenceCodec for Requests {
    type Codec = ServerCodec;

    fn codec(&self) -> ServerCodec {
        ServerCodec::with_max_frame(self.dialect, self.max)
    }

    fn first(&self, bytes: &[u8]) -> Option<Result<(usize, Parts), Error>> {
        Some(packet(bytes, 13, self.max())?.and_then(
            |(total, command, id, payload)| match command {
                1 | 2 => Ok((total, ([&[command], id].concat(), payload.to_vec()))),
                _ => Err(Error::UnknownCommand { command }),
            },
        ))
    }

    fn parts(request: &Request<'_>) -> Parts {
        let command = if request.kind == Kind::Conn { 1 } else { 2 };
        (
            [&[command], &request.id.0[..]].concat(),
            request.payload.to_vec(),
        )
    }

    fn encode(&self, payload: &[u8]) -> Result<Vec<u8>, Error> {
        let wire = wire(payload.len() as u8 % 2 + 1, b"00000001", payload);
        if wire.len() > self.max() {
            return Err(LengthFieldError::TooLong {
                length: wire.len() as u64,
                max: self.max(),
            }
            .into());
        }
        Ok(wire)
    }

    fn max(&self) -> usize {
        self.max as usize
    }
}

/// The codec of a client.
#[derive(Clone, Debug)]
pub struct Acks {
    pub dialect: Dialect,
}

impl ReferenceCodec for Acks {
    type Codec = ClientCodec;

    fn codec(&self) -> ClientCodec {
        ClientCodec::new(self.dialect)
    }

    fn first(&self, bytes: &[u8]) -> Option<Result<(usize, Parts), Error>> {
        Some(
            packet(bytes, 14, 14)?.and_then(|(total, command, id, result)| {
                let Some(kind) = acks(self.dialect).iter().position(|ack| *ack == command) else {
                    return Err(Error::UnknownCommand { command });
                };
                match result[0] {
                    0 | 1 => Ok((total, ([&[kind as u8], id].concat(), result.to_vec()))),
                    result => Err(Error::UnknownResult { result }),
                }
            }),
        )
    }

    fn parts(ack: &Ack) -> Parts {
        (
            [&[ack.kind as u8], &ack.id.0[..]].concat(),
            vec![u8::from(ack.outcome != Outcome::Done)],
        )
    }

    fn encode(&self, body: &[u8]) -> Result<Vec<u8>, Error> {
        let [conn, submit] = acks(self.dialect);
        let first = body.first().copied().unwrap_or(0);
        Ok(wire(
            if first & 2 == 0 { conn } else { submit },
            b"99999999",
            &[first & 1],
        ))
    }

    fn max(&self) -> usize {
        14
    }
}
