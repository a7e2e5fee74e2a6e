//! However a stream is cut, the same frames come out of it, and the same error at the same place.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

use bytes::BytesMut;
use glassloop::codec::{Codec, Input};
use glassloop::internals::{Connection, Reading, Shared, State};
use glassloop::submit::Dialect;
use glassloop::{CloseReason, Config, Context, Handler, Origin, Verdict};

use super::draw::{Draw, size};
use super::reference::{Acks, ErrorOf, Field, FrameOf, Line, Parts, Requests, Rules};

/// Pieces beyond these come as one: an input is to take a millisecond, not a second.
const MOST_PIECES: usize = 300;

/// What one read brings.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    pub size: usize,
    /// Whether as much of it as possible is read straight into place.
    pub placed: bool,
}

impl Piece {
    fn of(byte: u8) -> Self {
        Self {
            size: size(byte & !1) / 2,
            placed: byte & 1 == 1,
        }
    }
}

/// Input: which codec, and its limits; the number of pieces, and a byte for each; the stream.
pub fn codecs(data: &[u8]) {
    let draw = &mut Draw::new(data);
    match draw.byte() % 4 {
        0 => {
            let delimiter = draw.of(b"\n\n\0;");
            resume_connection(
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
            resume_connection(
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
            resume_connection(
                &Requests {
                    dialect,
                    max: draw.of(&[65_536, 13, 14, 17, 100, 5000, 1 << 20, u32::MAX]),
                },
                draw,
            );
        }
        _ => {
            let dialect = draw.of(&[Dialect::Text, Dialect::Source]);
            resume_connection(&Acks { dialect }, draw);
        }
    }
}

fn resume_connection<R: Rules>(rules: &R, draw: &mut Draw<'_>) {
    let count = draw.byte().into();
    let pieces: Vec<Piece> = draw
        .take(count)
        .iter()
        .map(|byte| Piece::of(*byte))
        .collect();
    cut(
        rules,
        &stream(rules, draw.clone()),
        pieces.iter().copied().cycle().take(MOST_PIECES),
    );
}

/// A stream in a few bytes: `n` below 128 is a whole frame around the next `n` bytes; up to 191, the next `n - 128` as they are; beyond, a long frame.
fn stream<R: Rules>(rules: &R, mut draw: Draw<'_>) -> Vec<u8> {
    let mut stream = Vec::new();
    while !draw.is_empty() && stream.len() < 200_000 {
        let n = usize::from(draw.byte());
        let dressed = match n {
            ..128 => rules.dress(draw.take(n)),
            128..192 => Ok(draw.take(n - 128).to_vec()),
            _ => rules.dress(&vec![b'.'; (n - 192) * 1024 + usize::from(draw.byte())]),
        };
        stream.extend(dressed.unwrap_or_default()); // what the codec cannot express is not sent
    }
    stream
}

/// Decodes `stream` in one go, in `pieces` through a connection, and naively; what is left when there are no more pieces is the last one.
pub fn cut<R: Rules>(rules: &R, stream: &[u8], pieces: impl Iterator<Item = Piece>) {
    let expected = naively(rules, stream);
    assert_eq!(
        in_one_go(rules, stream),
        expected,
        "in one go, by {:?}",
        rules.max()
    );
    Cut::new(rules, stream).play(pieces, &expected);
}

/// The frames at the front, how many bytes they have, and what ends them.
type Decoded<R> = (Vec<Parts>, usize, Option<ErrorOf<R>>);

fn naively<R: Rules>(rules: &R, stream: &[u8]) -> Decoded<R> {
    let (mut frames, mut taken) = (Vec::new(), 0);
    loop {
        match rules.first(&stream[taken..]) {
            Some(Ok((length, parts))) => {
                frames.push(parts);
                taken += length;
            }
            Some(Err(error)) => return (frames, taken, Some(R::essence(error))),
            None => return (frames, taken, None),
        }
    }
}

fn in_one_go<R: Rules>(rules: &R, stream: &[u8]) -> Decoded<R> {
    let (mut codec, mut input, mut frames) = (rules.codec(), Input::new(stream), Vec::new());
    loop {
        let before = input.taken();
        match codec.decode(&mut input) {
            Ok(Some(frame)) => frames.push(R::parts(&frame)),
            Ok(None) => return (frames, before, None),
            Err(error) => return (frames, before, Some(R::essence(error))),
        }
    }
}

/// A codec under observation.
struct Watched<C> {
    codec: C,
    looks: Rc<Cell<u64>>,
}

impl<C: Codec> Codec for Watched<C> {
    type Frame<'a> = C::Frame<'a>;
    type Message<'a> = C::Message<'a>;
    type Error = C::Error;

    fn decode<'a>(&mut self, input: &mut Input<'a>) -> Result<Option<C::Frame<'a>>, C::Error> {
        let before = input.taken();
        let decoded = self.codec.decode(input);
        self.looks.set(self.looks.get() + 1);
        // A panic here ends the connection, and is counted.
        match &decoded {
            Ok(Some(_)) => assert!(input.taken() > before, "a frame of nothing"),
            Ok(None) => assert_eq!(
                input.taken(),
                before,
                "bytes were taken, and no frame was made of them"
            ),
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

/// Remembers all frames.
struct Collector<'r, R> {
    rules: &'r R,
    looks: Rc<Cell<u64>>,
    frames: Vec<Parts>,
}

impl<R: Rules> Handler for Collector<'_, R> {
    type Codec = Watched<R::Codec>;
    type State = ();
    type Mail = ();

    fn connection(&mut self, _: &Origin) -> (Self::Codec, ()) {
        (
            Watched {
                codec: self.rules.codec(),
                looks: Rc::clone(&self.looks),
            },
            (),
        )
    }

    fn frame(&mut self, frame: FrameOf<'_, R>, _: &mut Context<'_, Self>) -> Verdict {
        self.frames.push(R::parts(&frame));
        Verdict::Continue
    }
}

/// One stream on its way through a connection.
struct Cut<'s, R: Rules> {
    stream: &'s [u8],
    handler: Collector<'s, R>,
    connection: Connection<Watched<R::Codec>, ()>,
    shared: Shared,
    /// How much has been received.
    fed: usize,
    /// How much of that the naive decoder has made into frames, and how many.
    taken: usize,
    frames: usize,
    /// What it has to say against the bytes that follow.
    error: Option<ErrorOf<R>>,
}

impl<'s, R: Rules> Cut<'s, R> {
    fn new(rules: &'s R, stream: &'s [u8]) -> Self {
        let mut handler = Collector {
            rules,
            looks: Rc::default(),
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
                placed: true,
            }));
            self.check(&expected.0);
        }
        let held = self.fed - self.taken;
        if self.error.is_none() {
            assert!(
                self.connection.is_reading() && !self.connection.has_backlog(),
                "all is handled, and more is wanted"
            );
            self.connection
                .end_of_input(&mut self.handler, &mut self.shared);
            match self.connection.state() {
                State::Draining {
                    reason,
                    linger: false,
                } => match **reason {
                    CloseReason::Truncated { held: told } => assert!(told == held && held > 0),
                    CloseReason::PeerClosed => assert_eq!(held, 0, "a tail was dropped in silence"),
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
            "nothing is held once all is over"
        );
        let counters = self.shared.observe.counters();
        assert_eq!(
            (counters.frames, counters.bytes_discarded, counters.panics),
            (expected.0.len() as u64, held as u64, 0)
        );
        if let Some(each) = self.handler.rules.looks() {
            let (looks, most) = (self.handler.looks.get(), each * (counters.frames + 1));
            assert!(
                looks <= most,
                "{looks} looks at {} frames: what was said to be needed was not enough",
                counters.frames
            );
        }
    }

    fn receive(&mut self, piece: Piece) {
        let place = if piece.placed {
            self.connection.frame_space()
        } else {
            &mut []
        };
        let rest = &self.stream[self.fed..];
        let piece = &rest[..rest.len().min(piece.size)];
        self.fed += piece.len();
        let (placed, scratch) = piece.split_at(piece.len().min(place.len()));
        place[..placed.len()].copy_from_slice(placed);
        self.connection.filled(placed.len());
        self.connection
            .receive(scratch, &mut self.handler, &mut self.shared);
    }

    /// What has come so far is handled as far as the naive decoder can, and no byte further.
    fn check(&mut self, expected: &[Parts]) {
        while let (None, Some(first)) = (
            &self.error,
            self.handler.rules.first(&self.stream[self.taken..self.fed]),
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
                Err(error) => self.error = Some(R::essence(error)),
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
                    "{heap} bytes of memory for {held} of a frame"
                );
                assert!(
                    held < self.handler.rules.max(),
                    "{held} bytes held, a frame has at most {}",
                    self.handler.rules.max()
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
                    reason.protocol().map(|told| R::essence(*told)).as_ref(),
                    Some(error)
                );
                assert_eq!(
                    heap, 0,
                    "an ending connection holds nothing that it will not handle"
                );
            }
            (state, error) => panic!(
                "{state:?} after {} of {} bytes, where {error:?} was expected",
                self.fed,
                self.stream.len()
            ),
        }
    }
}
