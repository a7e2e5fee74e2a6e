//! Packets that one side encodes, the other side decodes, and nothing else counts as a packet.

use bytes::BytesMut;
use glassloop::codec::{Codec, Input, LengthField, LengthFieldError};
use glassloop::submit::{
    Ack, ClientCodec, Dialect, Error, Id, Kind, Outcome, Request, ServerCodec,
};

use super::draw::Draw;
use super::reference::{Acks, ReferenceCodec, Requests, acks, wire};

/// The default limit.
const MAX_FRAME: usize = LengthField::DEFAULT_MAX as usize;

/// Input: dialect, kind, outcome and ID; a limit for requests, a length field, a number that
/// lengthens the payload; the payload, which is also decoded as a stream from an untrusted peer.
pub fn packets(data: &[u8]) {
    let draw = &mut Draw::new(data);
    let dialect = draw.of(&[Dialect::Text, Dialect::Source]);
    let kind = draw.of(&[Kind::Conn, Kind::Submit]);
    let outcome = draw.of(&[Outcome::Done, Outcome::Failed]);
    let mut id = Id([0; 8]);
    for (byte, drawn) in id.0.iter_mut().zip(draw.take(8)) {
        *byte = *drawn;
    }
    let (max, length_field, filler) = (
        draw.u32().max(13),
        draw.u32(),
        draw.u32() as usize % (MAX_FRAME + 100),
    );
    let bytes = draw.take(MAX_FRAME);

    let ack = Ack { kind, id, outcome };
    acks_round_trip(dialect, ack);
    let payload = [bytes, &vec![b'x'; filler]].concat();
    requests_round_trip(
        dialect,
        max,
        Request {
            kind,
            id,
            payload: &payload,
        },
    );
    lengths_are_checked(dialect, max, length_field);
    decoded_packets_encode_to_the_same_bytes(dialect, max, bytes);
    ids_are_safe_to_log(id, u64::from(length_field) << 32 | u64::from(max));
}

fn acks_round_trip(dialect: Dialect, ack: Ack) {
    let (kind, outcome) = (
        usize::from(ack.kind == Kind::Submit),
        u8::from(ack.outcome == Outcome::Failed),
    );
    let mut out = BytesMut::from(&b"before"[..]);
    ServerCodec::new(dialect)
        .encode(ack, &mut out)
        .expect("an ack always fits");
    assert_eq!(
        out,
        [
            &b"before"[..],
            &wire(acks(dialect)[kind], &ack.id.0, &[outcome])
        ]
        .concat()
    );

    let ack_bytes = &out[6..];
    let input = &mut Input::new(ack_bytes);
    assert_eq!(
        (ClientCodec::new(dialect).decode(input), input.taken()),
        (Ok(Some(ack)), 14)
    );
    let other_dialect = if dialect == Dialect::Text {
        Dialect::Source
    } else {
        Dialect::Text
    };
    let decoded = ClientCodec::new(other_dialect).decode(&mut Input::new(ack_bytes));
    match acks(other_dialect)
        .iter()
        .position(|command| *command == ack_bytes[4])
    {
        // 0x81 is an ack in both dialects, with different meanings.
        Some(kind) => assert_eq!(
            decoded,
            Ok(Some(Ack {
                kind: [Kind::Conn, Kind::Submit][kind],
                ..ack
            }))
        ),
        None => assert_eq!(
            decoded,
            Err(Error::UnknownCommand {
                command: ack_bytes[4]
            })
        ),
    }
    let unknown = ServerCodec::new(dialect).decode(&mut Input::new(ack_bytes));
    assert_eq!(
        unknown,
        Err(Error::UnknownCommand {
            command: ack_bytes[4]
        }),
        "an ack is no request"
    );
}

fn requests_round_trip(dialect: Dialect, max: u32, request: Request<'_>) {
    let (length, limit) = (13 + request.payload.len(), max as usize);
    let mut out = BytesMut::from(&b"before"[..]);
    let encoded = ClientCodec::new(dialect).encode(request, &mut out);
    if length > MAX_FRAME {
        return assert_eq!(
            encoded,
            Err(LengthFieldError::TooLong {
                length: length as u64,
                max: MAX_FRAME
            }
            .into())
        );
    }
    assert_eq!(encoded, Ok(()));
    let command = if request.kind == Kind::Conn { 1 } else { 2 };
    assert!(
        out == [
            &b"before"[..],
            &wire(command, &request.id.0, request.payload)
        ]
        .concat()
    );

    let input = &mut Input::new(&out[6..]);
    let decoded = ServerCodec::with_max_frame(dialect, max).decode(input);
    if length > limit {
        return assert_eq!(
            decoded,
            Err(LengthFieldError::TooLong {
                length: length as u64,
                max: limit
            }
            .into())
        );
    }
    assert_eq!((decoded, input.taken()), (Ok(Some(request)), length));
    for short in [length - 1, length / 2, 12, 4, 3, 0] {
        let input = &mut Input::new(&out[6..][..short]);
        assert_eq!(
            (
                ServerCodec::with_max_frame(dialect, max).decode(input),
                input.taken()
            ),
            (Ok(None), 0),
            "{short} of {length} bytes"
        );
    }
}

/// A length is accepted or refused on its four bytes alone.
fn lengths_are_checked(dialect: Dialect, max: u32, length_field: u32) {
    let near = [
        0,
        12,
        13,
        14,
        max - 1,
        max,
        max.saturating_add(1),
        length_field,
        length_field.wrapping_neg(),
        length_field % 32,
    ];
    for length_field in near {
        let (bytes, length) = (length_field.to_be_bytes(), u64::from(length_field));
        let verdict = |min: usize, max: u32| {
            let (too_short, too_long) = ((length_field as usize) < min, length_field > max);
            let max = max as usize;
            match (too_short, too_long) {
                (true, _) => Err(Error::Length(LengthFieldError::TooShort { length, min })),
                (_, true) => Err(Error::Length(LengthFieldError::TooLong { length, max })),
                _ => Ok(()),
            }
        };
        let decoded = ServerCodec::with_max_frame(dialect, max)
            .decode(&mut Input::new(&bytes))
            .map(|request| assert_eq!(request, None));
        assert_eq!(decoded, verdict(13, max));
        let decoded = ClientCodec::new(dialect)
            .decode(&mut Input::new(&bytes))
            .map(|ack| assert_eq!(ack, None));
        assert_eq!(decoded, verdict(14, 14));
    }
}

/// Whatever decodes as a packet encodes to the same bytes.
fn decoded_packets_encode_to_the_same_bytes(dialect: Dialect, max: u32, bytes: &[u8]) {
    let (mut server, mut client) = (
        ServerCodec::with_max_frame(dialect, max),
        ClientCodec::new(dialect),
    );
    let (mut taken, input, again) = (0, &mut Input::new(bytes), &mut BytesMut::new());
    while let Some(first) = (Requests { dialect, max }).first(&bytes[taken..]) {
        match server.decode(input) {
            Ok(request) => {
                let request = request.expect("a whole request");
                assert_eq!(
                    Ok((input.taken() - taken, Requests::parts(&request))),
                    first
                );
                client.encode(request, again).expect("what came in fits");
                taken = input.taken();
            }
            Err(error) => {
                assert_eq!(Err(error), first);
                break;
            }
        }
    }
    assert!(again[..] == bytes[..taken]);

    let (mut taken, input, again) = (0, &mut Input::new(bytes), &mut BytesMut::new());
    while let Some(first) = (Acks { dialect }).first(&bytes[taken..]) {
        match client.decode(input) {
            Ok(ack) => {
                let ack = ack.expect("a whole ack");
                assert_eq!(Ok((input.taken() - taken, Acks::parts(&ack))), first);
                server.encode(ack, again).expect("an ack always fits");
                taken = input.taken();
            }
            Err(error) => {
                assert_eq!(Err(error), first);
                break;
            }
        }
    }
    assert!(again[..] == bytes[..taken]);
}

fn ids_are_safe_to_log(id: Id, n: u64) {
    assert!(
        id.to_string()
            .bytes()
            .all(|byte| (b' '..=b'~').contains(&byte)),
        "{id}"
    );
    assert_eq!(Id::nth(n).to_string(), format!("{:08}", n % 100_000_000));
}
