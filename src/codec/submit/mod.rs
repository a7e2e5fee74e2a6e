//! The submit protocol: requests and acks over a length-prefixed stream, in two dialects.
//!
//! ```text
//!  request  | totalLength u32 | commandID u8 | ID 8 bytes | payload 0..
//!  ack      | totalLength u32 | commandID u8 | ID 8 bytes | result u8: 0 or 1
//! ```
//!
//! A request has 13 bytes and its payload; an ack has 14 bytes. All numbers are big-endian, and
//! `totalLength` counts itself. A client sends `conn` (0x01) or `submit` (0x02). The server answers
//! each request with one ack, in order, with the ID as it came, whatever its bytes are.
//!
//! A server reads requests and writes acks ([`ServerCodec`]). A client reads acks and writes
//! requests ([`ClientCodec`]). A packet in the wrong direction is an unknown command.
//!
//! **Trap:** this protocol has no authentication. Listen only where you trust the peers, or put a
//! proxy with authentication in front.

mod packet;

use bytes::{BufMut, BytesMut};

pub use self::packet::{Ack, Dialect, Error, Id, Kind, Outcome, Request};
use crate::codec::{Codec, Input, LengthField, LengthFieldError};

/// The codec of a server: reads requests, writes acks.
#[derive(Clone, Debug)]
pub struct ServerCodec {
    dialect: Dialect,
    max_request: u32,
}

/// The codec of a client: reads acks, writes requests.
#[derive(Clone, Debug)]
pub struct ClientCodec {
    dialect: Dialect,
}

/// The common front of all four packets, and the rest.
struct Packet<'a> {
    command: u8,
    id: Id,
    rest: &'a [u8],
}

/// Decodes the next packet.
// Always inlined: only then everything but the limits is a constant, and the general codec compiles
// to a few instructions.
#[inline(always)]
fn decode<'a>(input: &mut Input<'a>, min: usize, max: u32) -> Result<Option<Packet<'a>>, Error> {
    let Some(frame) = LengthField::whole(4)
        .min(min as u32)
        .max(max)
        .decode(input)?
    else {
        return Ok(None);
    };
    let (front, rest) = frame.body.split_at(Request::HEADER - 4); // there by `min`
    let (command, id) = (front[0], front[1..].try_into().expect("eight bytes"));
    Ok(Some(Packet {
        command,
        id: Id(id),
        rest,
    }))
}

impl ServerCodec {
    /// Makes a codec for one connection, for requests of at most 65,536 bytes.
    pub fn new(dialect: Dialect) -> Self {
        Self::with_max_frame(dialect, LengthField::DEFAULT_MAX)
    }

    /// Makes a codec for requests of at most `max_frame` bytes (`totalLength`).
    ///
    /// # Panics
    ///
    /// If `max_frame` is less than 13, the length of an empty request.
    pub fn with_max_frame(dialect: Dialect, max_frame: u32) -> Self {
        assert!(
            max_frame as usize >= Request::HEADER,
            "no request fits into {max_frame} bytes"
        );
        Self {
            dialect,
            max_request: max_frame,
        }
    }
}

impl Default for ServerCodec {
    fn default() -> Self {
        Self::new(Dialect::default())
    }
}

impl Codec for ServerCodec {
    type Frame<'a> = Request<'a>;
    type Message<'a> = Ack;
    type Error = Error;

    #[inline]
    fn decode<'a>(&mut self, input: &mut Input<'a>) -> Result<Option<Request<'a>>, Error> {
        let Some(Packet {
            command,
            id,
            rest: payload,
        }) = decode(input, Request::HEADER, self.max_request)?
        else {
            return Ok(None);
        };
        // A table lookup, so that no branch has to tell the two apart.
        let kind = [Kind::Conn, Kind::Submit].get(usize::from(command.wrapping_sub(0x01)));
        Ok(Some(Request {
            kind: *kind.ok_or(Error::UnknownCommand { command })?,
            id,
            payload,
        }))
    }

    #[inline]
    fn encode(&mut self, ack: Ack, out: &mut BytesMut) -> Result<(), Error> {
        let mut packet = [0; Ack::LEN];
        packet[3] = Ack::LEN as u8;
        packet[4] = self.dialect.ack(ack.kind);
        packet[5..Request::HEADER].copy_from_slice(&ack.id.0);
        packet[Request::HEADER] = match ack.outcome {
            Outcome::Done => 0,
            Outcome::Failed => 1,
        };
        out.put_slice(&packet);
        Ok(())
    }

    fn max_frame(&self) -> usize {
        self.max_request as usize
    }
}

impl ClientCodec {
    /// Makes a codec for one connection. It sends requests of at most 65,536 bytes.
    pub fn new(dialect: Dialect) -> Self {
        Self { dialect }
    }
}

impl Default for ClientCodec {
    fn default() -> Self {
        Self::new(Dialect::default())
    }
}

impl Codec for ClientCodec {
    type Frame<'a> = Ack;
    type Message<'a> = Request<'a>;
    type Error = Error;

    fn decode(&mut self, input: &mut Input<'_>) -> Result<Option<Ack>, Error> {
        let Some(Packet {
            command,
            id,
            rest: result,
        }) = decode(input, Ack::LEN, Ack::LEN as u32)?
        else {
            return Ok(None);
        };
        let kinds = [Kind::Conn, Kind::Submit];
        let Some(kind) = kinds
            .into_iter()
            .find(|kind| self.dialect.ack(*kind) == command)
        else {
            return Err(Error::UnknownCommand { command });
        };
        let outcome = match result[0] {
            0 => Outcome::Done,
            1 => Outcome::Failed,
            result => return Err(Error::UnknownResult { result }),
        };
        Ok(Some(Ack { kind, id, outcome }))
    }

    fn encode(&mut self, request: Request<'_>, out: &mut BytesMut) -> Result<(), Error> {
        let length = Request::HEADER + request.payload.len();
        let max = LengthField::DEFAULT_MAX as usize;
        let Some(total) = u32::try_from(length).ok().filter(|_| length <= max) else {
            return Err(LengthFieldError::TooLong {
                length: length as u64,
                max,
            }
            .into());
        };
        out.reserve(length);
        out.put_u32(total);
        out.put_u8(match request.kind {
            Kind::Conn => 0x01,
            Kind::Submit => 0x02,
        });
        out.put_slice(&request.id.0);
        out.put_slice(request.payload);
        Ok(())
    }

    fn max_frame(&self) -> usize {
        Ack::LEN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIALECTS: [(Dialect, u8, u8); 2] =
        [(Dialect::Text, 0x81, 0x82), (Dialect::Source, 0x80, 0x81)];
    const ANY_ID: Id = Id(*b"\0\xff\r\n\x1b \"9");

    #[test]
    fn requests_and_acks_round_trip_in_both_dialects() {
        for (dialect, connack, submitack) in DIALECTS {
            let (mut server, mut client) = (ServerCodec::new(dialect), ClientCodec::new(dialect));
            for (kind, command, ack_command) in
                [(Kind::Conn, 0x01, connack), (Kind::Submit, 0x02, submitack)]
            {
                let request = Request {
                    kind,
                    id: ANY_ID,
                    payload: b"pay",
                };
                let mut wire = BytesMut::new();
                client.encode(request, &mut wire).expect("a short request");
                assert_eq!(wire[..5], [0, 0, 0, 16, command]);
                assert_eq!(server.decode(&mut Input::new(&wire)), Ok(Some(request)));

                for (outcome, result) in [(Outcome::Done, 0), (Outcome::Failed, 1)] {
                    let ack = request.ack(outcome);
                    let mut wire = BytesMut::new();
                    server.encode(ack, &mut wire).expect("acks always fit");
                    assert_eq!(
                        (wire[..5].to_vec(), &wire[5..13], wire[13]),
                        (vec![0, 0, 0, 14, ack_command], &ANY_ID.0[..], result)
                    );
                    assert_eq!(client.decode(&mut Input::new(&wire)), Ok(Some(ack)));
                }
            }
        }
    }

    #[test]
    fn unknown_commands_are_rejected_on_both_sides() {
        for (dialect, connack, submitack) in DIALECTS {
            for command in 0..=u8::MAX {
                let mut wire = vec![0, 0, 0, 14, command];
                wire.extend([b'1'; 8]);
                wire.push(0);
                let unknown = Error::UnknownCommand { command };
                let request = ServerCodec::new(dialect)
                    .decode(&mut Input::new(&wire))
                    .map(|_| ());
                assert_eq!(
                    request,
                    if [1, 2].contains(&command) {
                        Ok(())
                    } else {
                        Err(unknown)
                    }
                );
                let ack = ClientCodec::new(dialect)
                    .decode(&mut Input::new(&wire))
                    .map(|_| ());
                assert_eq!(
                    ack,
                    if [connack, submitack].contains(&command) {
                        Ok(())
                    } else {
                        Err(unknown)
                    }
                );
            }
        }
    }

    #[test]
    fn incomplete_packet_needs_more_bytes() {
        let mut wire = BytesMut::new();
        ClientCodec::default()
            .encode(
                Request {
                    kind: Kind::Submit,
                    id: ANY_ID,
                    payload: b"x",
                },
                &mut wire,
            )
            .expect("a short request");
        for end in 0..wire.len() {
            assert_eq!(
                ServerCodec::default().decode(&mut Input::new(&wire[..end])),
                Ok(None)
            );
        }
    }

    #[test]
    fn ack_with_bad_length_or_result_is_rejected() {
        let mut client = ClientCodec::default();
        for length in [0, 13, 15, 255] {
            assert!(
                matches!(
                    client.decode(&mut Input::new(&[0, 0, 0, length])),
                    Err(Error::Length(_))
                ),
                "{length}"
            );
        }
        let wire = b"\0\0\0\x0e\x8200000001\x02";
        assert_eq!(
            client.decode(&mut Input::new(wire)),
            Err(Error::UnknownResult { result: 2 })
        );
    }

    #[test]
    fn ids_have_eight_digits_and_wrap() {
        assert_eq!(Id::nth(1).0, *b"00000001");
        assert_eq!(Id::nth(99_999_999).0, *b"99999999");
        assert_eq!(Id::nth(100_000_000).0, *b"00000000");
        assert_eq!(ANY_ID.to_string(), r#"\x00\xff\r\n\x1b \"9"#);
    }

    #[test]
    fn request_over_the_limit_is_not_encoded() {
        let mut wire = BytesMut::new();
        let payload = vec![0; LengthField::DEFAULT_MAX as usize];
        let fits = Request {
            kind: Kind::Submit,
            id: ANY_ID,
            payload: &payload[Request::HEADER..],
        };
        ClientCodec::default()
            .encode(fits, &mut wire)
            .expect("the longest that fits");
        let error = ClientCodec::default().encode(
            Request {
                payload: &payload[Request::HEADER - 1..],
                ..fits
            },
            &mut wire,
        );
        assert!(matches!(
            error,
            Err(Error::Length(LengthFieldError::TooLong {
                length: 65_537,
                max: 65_536
            }))
        ));
    }
}
