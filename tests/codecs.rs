//! However a stream is cut, the same frames come out: for all codecs, with all marks.

mod util;

use std::time::Instant;

use bytes::BytesMut;
use glassloop::codec::{Codec, Framed, LengthField, Line};
use glassloop::internals::{Connection, Shared, State};
use glassloop::{Config, Context, FrameOf, Handler, Origin, Verdict};
use proptest::prelude::*;

/// A codec whose frames can be sent back as they came.
trait Mirrored: Codec + Clone {
    fn bytes(frame: &Self::Frame<'_>) -> Vec<u8>;
    fn send_back(frame: Self::Frame<'_>, cx: &mut Context<'_, Mirror<Self>>);
}

impl Mirrored for Line {
    fn bytes(line: &&[u8]) -> Vec<u8> {
        line.to_vec()
    }

    fn send_back(line: &[u8], cx: &mut Context<'_, Mirror<Self>>) {
        cx.send(line);
    }
}

impl Mirrored for LengthField {
    fn bytes(frame: &Framed<'_>) -> Vec<u8> {
        [frame.head, frame.body].concat()
    }

    fn send_back(frame: Framed<'_>, cx: &mut Context<'_, Mirror<Self>>) {
        cx.send(frame);
    }
}

/// Sends every frame back, and remembers it.
struct Mirror<C> {
    codec: C,
    frames: Vec<Vec<u8>>,
}

impl<C> Mirror<C> {
    fn new(codec: C) -> Self {
        Self {
            codec,
            frames: Vec::new(),
        }
    }
}

impl<C: Mirrored> Handler for Mirror<C> {
    type Codec = C;
    type State = ();
    type Mail = ();

    fn connection(&mut self, _: &Origin) -> (C, ()) {
        (self.codec.clone(), ())
    }

    fn frame(&mut self, frame: FrameOf<'_, Self>, cx: &mut Context<'_, Self>) -> Verdict {
        self.frames.push(C::bytes(&frame));
        C::send_back(frame, cx);
        Verdict::Continue
    }
}

/// Plays the reactor: reads pieces of the given sizes, straight into place where the machine offers it, and writes a few bytes at a time.
fn drive<C: Mirrored>(
    handler: &mut Mirror<C>,
    stream: &[u8],
    pieces: &[usize],
    marks: (usize, usize),
) -> Vec<u8> {
    let config = Config {
        write_high: marks.0 + marks.1 + 1,
        write_low: marks.0,
        ..Config::default()
    };
    let shared = &mut Shared::new(config, Instant::now());
    let mut connection = Connection::unconnected(handler);
    let (mut rest, mut written) = (stream, Vec::new());
    let mut pieces = pieces.iter().copied().cycle();
    loop {
        let few = connection.unsent().len().min(pieces.next().unwrap());
        written.extend_from_slice(&connection.unsent()[..few]);
        connection.sent(few, shared);
        connection.after_flush(shared);
        connection.shrink();
        if connection.has_backlog() {
            connection.proceed(handler, shared);
        } else if connection.is_reading() && !rest.is_empty() {
            let (piece, later) = rest.split_at(pieces.next().unwrap().min(rest.len()));
            rest = later;
            let place = connection.frame_space();
            let (placed, scratch) = piece.split_at(piece.len().min(place.len()));
            place[..placed.len()].copy_from_slice(placed);
            connection.filled(placed.len());
            connection.receive(scratch, handler, shared);
        } else if connection.unsent().is_empty() {
            assert!(
                matches!(connection.state(), State::Open(_)),
                "{:?}",
                connection.state()
            );
            assert_eq!(connection.heap(), 0, "nothing is held when all is handled");
            return written;
        }
    }
}

fn wire<C: Codec>(
    mut codec: C,
    messages: impl IntoIterator<Item = C::Message<'static>>,
) -> BytesMut {
    let mut out = BytesMut::new();
    for message in messages {
        codec.encode(message, &mut out).unwrap();
    }
    out
}

fn pieces() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(
        prop_oneof![Just(1), 1..20_usize, 1..3000_usize, 3000..70_000_usize],
        1..8,
    )
}

/// Mostly short, now and then long enough to be read straight into place.
fn payloads() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let byte = any::<u8>();
    let payload = prop_oneof![
        8 => prop::collection::vec(byte, 0..50),
        1 => (0..60_000_usize, any::<u8>()).prop_map(|(len, byte)| (0..len).map(|n| byte.wrapping_add(n as u8)).collect()),
    ];
    prop::collection::vec(payload, 0..30)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn length_prefixed_frames_survive_any_split(
        payloads in payloads(), pieces in pieces(), marks in (0..5000_usize, 0..5000_usize),
        offset in 0..4_u8, width in 3..9_u8, whole in any::<bool>(),
    ) {
        let codec = if whole { LengthField::whole(width) } else { LengthField::rest(width) }.at(offset);
        let head = vec![0xaa; offset.into()];
        let mut stream = BytesMut::new();
        for body in &payloads {
            codec.clone().encode(Framed { head: &head, body }, &mut stream).unwrap();
        }
        let mut handler = Mirror::new(codec);
        let written = drive(&mut handler, &stream, &pieces, marks);
        prop_assert!(written == stream);
        prop_assert!(handler.frames == payloads.iter().map(|body| [&head[..], body].concat()).collect::<Vec<_>>());
    }

    #[test]
    fn lines_survive_any_split(mut payloads in payloads(), pieces in pieces(), marks in (0..5000_usize, 0..5000_usize)) {
        for line in &mut payloads {
            line.retain(|byte| *byte != b'\n' && *byte != b'\r');
        }
        let stream = payloads.iter().flat_map(|line| [&line[..], b"\n"].concat()).collect::<Vec<_>>();
        let mut handler = Mirror::new(Line::default());
        let written = drive(&mut handler, &stream, &pieces, marks);
        prop_assert!(written == stream);
        prop_assert!(handler.frames == payloads);
    }

    #[test]
    fn arbitrary_bytes_never_panic_the_submit_codec(bytes in prop::collection::vec(any::<u8>(), 0..200), pieces in pieces()) {
        let (handler, shared) = (&mut util::service(), &mut Shared::new(Config::default(), Instant::now()));
        let mut connection = Connection::unconnected(handler);
        let (mut rest, mut pieces) = (&bytes[..], pieces.iter().cycle());
        while !rest.is_empty() {
            let (piece, later) = rest.split_at(rest.len().min(*pieces.next().unwrap()));
            connection.receive(piece, handler, shared);
            rest = later;
        }
        prop_assert_eq!(shared.observe.counters().panics, 0);
    }
}

#[test]
fn frame_memory_grows_with_received_bytes_not_claimed_length() {
    let (handler, shared) = (
        &mut util::service(),
        &mut Shared::new(Config::default(), Instant::now()),
    );
    let mut connection = Connection::unconnected(handler);
    connection.receive(&65_536_u32.to_be_bytes(), handler, shared);
    let mut arrived = 4;
    while arrived < 65_000 {
        assert!(
            connection.heap() <= 2 * arrived + 4096,
            "{} bytes held for {arrived}",
            connection.heap()
        );
        let place = connection.frame_space();
        let n = place.len().min(1009);
        if n > 0 {
            connection.filled(n);
            connection.receive(&[], handler, shared);
        } else {
            connection.receive(&[0; 16], handler, shared);
        }
        arrived += if n > 0 { n } else { 16 };
    }
}

#[test]
fn codec_that_breaks_its_contract_closes_the_connection() {
    #[derive(Clone, Copy)]
    enum Broken {
        FramesOfNothing,
        NeverAny,
        NeedsWhatItHas,
        NeedsTooMuch,
    }
    impl Codec for Broken {
        type Frame<'a> = ();
        type Message<'a> = ();
        type Error = std::fmt::Error;
        fn decode(
            &mut self,
            input: &mut glassloop::codec::Input<'_>,
        ) -> Result<Option<()>, Self::Error> {
            match self {
                Broken::FramesOfNothing => return Ok(Some(())),
                Broken::NeverAny => {}
                Broken::NeedsWhatItHas => input.need(1),
                Broken::NeedsTooMuch => input.need(101),
            }
            Ok(None)
        }
        fn encode(&mut self, (): (), _: &mut BytesMut) -> Result<(), Self::Error> {
            Ok(())
        }
        fn max_frame(&self) -> usize {
            100
        }
    }
    impl Mirrored for Broken {
        fn bytes((): &()) -> Vec<u8> {
            Vec::new()
        }
        fn send_back((): (), _: &mut Context<'_, Mirror<Self>>) {}
    }
    for broken in [
        Broken::FramesOfNothing,
        Broken::NeverAny,
        Broken::NeedsWhatItHas,
        Broken::NeedsTooMuch,
    ] {
        let handler = &mut Mirror::new(broken);
        let shared = &mut Shared::new(Config::default(), Instant::now());
        let mut connection = Connection::unconnected(handler);
        for _ in 0..11 {
            connection.receive(&[0; 10], handler, shared);
        }
        assert!(
            matches!(connection.state(), State::Draining { reason, .. } if reason.name() == "handler_panicked")
        );
        assert_eq!(
            (shared.observe.counters().panics, connection.heap()),
            (1, 0)
        );
    }
}

#[test]
fn encoded_messages_match_the_wire_format() {
    assert_eq!(
        &wire(Line::default(), [&b"a"[..], b"", b"bc"])[..],
        b"a\n\nbc\n"
    );
    assert_eq!(
        &wire(LengthField::rest(2), [b"abc"[..].into()])[..],
        b"\0\x03abc"
    );
}
