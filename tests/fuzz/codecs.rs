//! A codec decodes the same frames, and the same error at the same place, however a stream is cut.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

use bytes::BytesMut;
use glassloop::codec::{Codec, Input};
use glassloop::internals::{Connection, Reading, Shared, State};
use glassloop::submit::Dialect;
use glassloop::{CloseReason, Config, Context, Handler, Origin, Verdict};

use super::draw::{Draw, size};
use super::reference::{Acks, ErrorOf, Field, FrameOf, Line, Parts, ReferenceCodec, Requests};

/// The most pieces of one stream, so that an input takes a millisecond and not a second. The rest
/// comes as one piece.
const MAX_PIECES: usize = 300;

/// The bytes of one read.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    pub size: usize,
    /// True if as much of it as possible is read directly into the frame's place.
    pub direct: bool,
}

impl Piece {
    fn of(byte: u8) -> Self {
        Self {
            size: size(byte & !1) / 2,
            direct: byte & 1 == 1,
        }
    }
}

/// Input: the codec and its limits; the number of pieces, and a byte for each; the stream.
pub fn codecs(data: &[u8]) {
    let draw = &mut Draw::new(data);
    match draw.byte() % 4 {
        0 => {
            let delimiter = draw.of(b"\n\n\0;");
            run_codec(
                &Line {
                    delimiter,
                    max: draw.of(&[65_536, 1, 2, 3, 16, 200, 5000, u32::MAX]),
                },
                draw,
            );
        }
        1 => {
            let shape = draw.byte();
            let (offset, width, whole) = (shape >> 4 & 3, 1 + (shape & 7), shape & 8 > 0);
            let min = draw.byte().into();
            let least = u32::from(offset + width).max(min);
            run_codec(
                &Field {
                    offset,
                    width,
                    whole,
                    min,
                    max: least.max(draw.of(&[65_536, 0, 1, 13, 100, 300, 5000, u32::MAX])),
                },
                draw,
            );
        }
        2 => {
            let dialect = draw.of(&[Dialect::Text, Dialect::Source]);
            run_codec(
                &Requests {
                    dialect,
                    max: draw.of(&[65_536, 13, 14, 17, 100, 5000, 1 << 20, u32::MAX]),
                },
                draw,
            );
        }
        _ => {
            let dialect = draw.of(&[Dialect::Text, Dialect::Source]);
            run_codec(&Acks { dialect }, draw);
        }
    }
}

fn run_codec<R: ReferenceCodec>(codec: &R, draw: &mut Draw<'_>) {
    let count = draw.byte().into();
    let pieces: Vec<Piece> = draw
        .take(count)
        .iter()
        .map(|byte| Piece::of(*byte))
        .collect();
    cut(
        codec,
        &stream(codec, draw.clone()),
        pieces.iter().copied().cycle().take(MAX_PIECES),
    );
}

/// Builds a stream from a few bytes. `n` below 128 is a whole frame around the next `n` bytes; up
/// to 191, the next `n - 128` bytes unchanged; above, a long frame.
fn stream<R: ReferenceCodec>(codec: &R, mut draw: Draw<'_>) -> Vec<u8> {
    let mut stream = Vec::new();
    while !draw.is_empty() && stream.len() < 200_000 {
        let n = usize::from(draw.byte());
        let encoded = match n {
            ..128 => codec.encode(draw.take(n)),
            128..192 => Ok(draw.take(n - 128).to_vec()),
            _ => codec.encode(&vec![b'.'; (n - 192) * 1024 + usize::from(draw.byte())]),
        };
        stream.extend(encoded.unwrap_or_default()); // empty if the codec cannot encode it
    }
    stream
}

/// Decodes `stream` at once, in `pieces` through a connection, and with the reference codec; all
/// three must agree. When the pieces run out, the rest is the last piece.
pub fn cut<R: ReferenceCodec>(codec: &R, stream: &[u8], pieces: impl Iterator<Item = Piece>) {
    let expected = decode_with_reference(codec, stream);
    assert_eq!(
        decode_at_once(codec, stream),
        expected,
        "decoded at once, with a limit of {:?}",
        codec.max()
    );
    Cut::new(codec, stream).play(pieces, &expected);
}

/// The decoded frames, how many bytes they have, and the error after them.
type Decoded<R> = (Vec<Parts>, usize, Option<ErrorOf<R>>);

fn decode_with_reference<R: ReferenceCodec>(codec: &R, stream: &[u8]) -> Decoded<R> {
    let (mut frames, mut taken) = (Vec::new(), 0);
    loop {
        match codec.first(&stream[taken..]) {
            Some(Ok((length, parts))) => {
                frames.push(parts);
                taken += length;
            }
            Some(Err(error)) => return (frames, taken, Some(R::comparable(error))),
            None => return (frames, taken, None),
        }
    }
}

fn decode_at_once<R: ReferenceCodec>(codec: &R, stream: &[u8]) -> Decoded<R> {
    let (mut codec, mut input, mut frames) = (codec.codec(), Input::new(stream), Vec::new());
    loop {
        let before = input.taken();
        match codec.decode(&mut input) {
            Ok(Some(frame)) => frames.push(R::parts(&frame)),
            Ok(None) => return (frames, before, None),
            Err(error) => return (frames, before, Some(R::comparable(error))),
        }
    }
}

/// A codec that counts the calls of `decode` and checks them.
struct CountingCodec<C> {
    codec: C,
    decode_calls: Rc<Cell<u64>>,
}

impl<C: Codec> Codec for CountingCodec<C> {
    type Frame<'a> = C::Frame<'a>;
    type Message<'a> = C::Message<'a>;
    type Error = C::Error;

    fn decode<'a>(&mut self, input: &mut Input<'a>) -> Result<Option<C::Frame<'a>>, C::Error> {
        let before = input.taken();
        let decoded = self.codec.decode(input);
        self.decode_calls.set(self.decode_calls.get() + 1);
        // A panic here closes the connection, and is counted.
        match &decoded {
            Ok(Some(_)) => assert!(input.taken() > before, "a frame took no bytes"),
            Ok(None) => assert_eq!(input.taken(), before, "bytes were taken without a frame"),
            Err(_) => {}
        }
        decoded
    }

    fn encode(&mut self, message: C::Message<'_>, out: &mut BytesMut) -> Result<(), C::Error> {
        self.codec.encode(message, out)
    }

    fn max_frame(&self) -> usize {
        self.codec.max_frame()
    }
}

/// A handler that collects all frames.
struct Collector<'r, R> {
    codec: &'r R,
    decode_calls: Rc<Cell<u64>>,
    frames: Vec<Parts>,
}

impl<R: ReferenceCodec> Handler for Collector<'_, R> {
    type Codec = CountingCodec<R::Codec>;
    type State = ();
    type Mail = ();

    fn connection(&mut self, _: &Origin) -> (Self::Codec, ()) {
        (
            CountingCodec {
                codec: self.codec.codec(),
                decode_calls: Rc::clone(&self.decode_calls),
            },
            (),
        )
    }

    fn frame(&mut self, frame: FrameOf<'_, R>, _: &mut Context<'_, Self>) -> Verdict {
        self.frames.push(R::parts(&frame));
        Verdict::Continue
    }
}

/// One stream, received by a connection in pieces.
struct Cut<'s, R: ReferenceCodec> {
    stream: &'s [u8],
    handler: Collector<'s, R>,
    connection: Connection<CountingCodec<R::Codec>, ()>,
    shared: Shared,
    /// Bytes received.
    fed: usize,
    /// Bytes that the reference codec has decoded, and the number of frames in them.
    taken: usize,
    frames: usize,
    /// The reference codec's error for the bytes that follow.
    error: Option<ErrorOf<R>>,
}

impl<'s, R: ReferenceCodec> Cut<'s, R> {
    fn new(codec: &'s R, stream: &'s [u8]) -> Self {
        let mut handler = Collector {
            codec,
            decode_calls: Rc::default(),
            frames: Vec::new(),
        };
        let connection = Connection::unconnected(&mut handler);
        let shared = Shared::new(Config::default(), Instant::now());
        Self {
            stream,
            handler,
            connection,
            shared,
            fed: 0,
            taken: 0,
            frames: 0,
            error: None,
        }
    }

    fn play(mut self, mut pieces: impl Iterator<Item = Piece>, expected: &Decoded<R>) {
        while self.fed < self.stream.len() {
            self.receive(pieces.next().unwrap_or(Piece {
                size: usize::MAX,
                direct: true,
            }));
            self.check(&expected.0);
        }
        let held = self.fed - self.taken;
        if self.error.is_none() {
            assert!(
                self.connection.is_reading() && !self.connection.has_backlog(),
                "all frames are handled, and the connection reads on"
            );
            self.connection
                .end_of_input(&mut self.handler, &mut self.shared);
            match self.connection.state() {
                State::Draining {
                    reason,
                    linger: false,
                } => match **reason {
                    CloseReason::Truncated { held: reported } => {
                        assert!(reported == held && held > 0);
                    }
                    CloseReason::PeerClosed => {
                        assert_eq!(held, 0, "bytes were dropped without an error");
                    }
                    ref other => panic!("{other:?} at the end of input, with {held} bytes left"),
                },
                other => panic!("{other:?} at the end of input, with {held} bytes left"),
            }
        }
        assert!(
            self.handler.frames == expected.0
                && self.taken == expected.1
                && self.error == expected.2
        );
        assert_eq!(
            self.connection.heap(),
            0,
            "an ended connection holds no memory"
        );
        let counters = self.shared.observe.counters();
        assert_eq!(
            (counters.frames, counters.bytes_discarded, counters.panics),
            (expected.0.len() as u64, held as u64, 0)
        );
        if let Some(each) = self.handler.codec.max_decode_calls() {
            let (decode_calls, most) = (
                self.handler.decode_calls.get(),
                each * (counters.frames + 1),
            );
            assert!(
                decode_calls <= most,
                "{decode_calls} calls of decode for {} frames: its hints were too low",
                counters.frames
            );
        }
    }

    fn receive(&mut self, piece: Piece) {
        let place = if piece.direct {
            self.connection.frame_space()
        } else {
            &mut []
        };
        let rest = &self.stream[self.fed..];
        let piece = &rest[..rest.len().min(piece.size)];
        self.fed += piece.len();
        let (direct, scratch) = piece.split_at(piece.len().min(place.len()));
        place[..direct.len()].copy_from_slice(direct);
        self.connection.filled(direct.len());
        self.connection
            .receive(scratch, &mut self.handler, &mut self.shared);
    }

    /// Everything received is decoded as far as the reference codec decodes it, and no byte
    /// further.
    fn check(&mut self, expected: &[Parts]) {
        while let (None, Some(first)) = (
            &self.error,
            self.handler.codec.first(&self.stream[self.taken..self.fed]),
        ) {
            match first {
                Ok((length, parts)) => {
                    assert_eq!(
                        self.handler.frames.get(self.frames),
                        Some(&parts),
                        "frame {} at byte {}",
                        self.frames,
                        self.taken
                    );
                    self.frames += 1;
                    self.taken += length;
                }
                Err(error) => self.error = Some(R::comparable(error)),
            }
        }
        assert_eq!(
            self.handler.frames.len(),
            self.frames,
            "frames of {} of {} bytes",
            self.fed,
            self.stream.len()
        );
        assert!(self.frames <= expected.len());
        let held = self.fed - self.taken;
        let heap = self.connection.heap();
        match (self.connection.state(), &self.error) {
            (State::Open(Reading::Flowing), None) => {
                assert!(
                    heap <= 2 * held + 4096 && (held > 0 || heap == 0),
                    "{heap} bytes of memory for {held} bytes of a frame"
                );
                assert!(
                    held < self.handler.codec.max(),
                    "{held} bytes held, a frame has at most {}",
                    self.handler.codec.max()
                );
            }
            (
                State::Draining {
                    reason,
                    linger: true,
                },
                Some(error),
            ) => {
                assert!(
                    matches!(**reason, CloseReason::Protocol(_)),
                    "{reason:?} where {error:?} was expected"
                );
                assert_eq!(
                    reason
                        .protocol()
                        .map(|reported| R::comparable(*reported))
                        .as_ref(),
                    Some(error)
                );
                assert_eq!(heap, 0, "a closing connection holds no unhandled bytes");
            }
            (state, error) => panic!(
                "{state:?} after {} of {} bytes, where {error:?} was expected",
                self.fed,
                self.stream.len()
            ),
        }
    }
}
