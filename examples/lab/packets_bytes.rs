//! Frames and packets without a server: D1 to D9, and D11.

use super::prelude::*;
use std::collections::VecDeque;
use std::fs;
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::BytesMut;
use glassloop::codec::{Input, LengthField};
use glassloop::internals::{Connection, Readiness, Shared, fill, flush};
use glassloop::submit::{
    Ack, ClientCodec, Dialect, Id, Kind, Outcome as Answer, Request, ServerCodec,
};
use glassloop::{Codec, Config, Context, Fill, Flush, Handler, Origin};

use super::demos::{decode_frame, decode_packet, encode_frame, handle_packet};
use super::service::{Client, Loop, Service, hex, quietly, request, service, submit};

pub(super) fn d1(_: Lab) -> io::Result<Outcome> {
    let mut ours = BytesMut::new();
    LengthField::whole(4)
        .encode((&b"hello"[..]).into(), &mut ours)
        .map_err(io::Error::other)?;
    let (mut client, mut server) = pair()?;
    encode_frame(&mut client, b"hello")?;
    let mut theirs = [0; 9];
    server.read_exact(&mut theirs)?;
    let mut input = Input::new(&theirs);
    let frame = LengthField::whole(4)
        .decode(&mut input)
        .map_err(io::Error::other)?;
    let body = frame.map_or(&[][..], |frame| frame.body);
    let turned = u32::from_le_bytes([theirs[0], theirs[1], theirs[2], theirs[3]]);
    Verdict::reproduced_if(ours[..] == theirs && theirs == *b"\0\0\0\x09hello" && body == b"hello")
        .measured(values![
            theirs = hex(&theirs),
            ours = hex(&ours),
            body = body.escape_ascii(),
            turned
        ])
}

pub(super) fn d2(_: Lab) -> io::Result<Outcome> {
    let commands = |dialect| {
        let server = Loop::start(
            Service {
                dialect,
                ..service()
            },
            Config::default(),
        )?;
        let mut client = Client::connect(server.addr)?;
        client.send(&request(Kind::Conn, Id::nth(0), b""))?;
        client.send(&submit(1, b"hello"))?;
        let mut acks = [0; 28];
        client.stream.read_exact(&mut acks)?;
        io::Result::Ok([acks[4], acks[18]])
    };
    let (text, source) = (commands(Dialect::Text)?, commands(Dialect::Source)?);
    let packet = |command| [b"\0\0\0\x0e".as_slice(), &[command], b"00000001\0"].concat();
    let taken = |dialect, command| match ClientCodec::new(dialect)
        .decode(&mut Input::new(&packet(command)))
    {
        Ok(Some(Ack {
            kind: Kind::Conn, ..
        })) => "a connack",
        Ok(Some(Ack {
            kind: Kind::Submit, ..
        })) => "a submitack",
        _ => "unknown",
    };
    let requests = (0..=255)
        .filter(|command| {
            ServerCodec::default()
                .decode(&mut Input::new(&packet(*command)))
                .is_ok()
        })
        .count();
    let acks = (0..=255)
        .filter(|command| taken(Dialect::Text, *command) != "unknown")
        .count();
    let mixed = [
        taken(Dialect::Text, source[1]),
        taken(Dialect::Source, text[1]),
    ];
    let holds = text == [0x81, 0x82]
        && source == [0x80, 0x81]
        && (requests, acks) == (2, 2)
        && mixed == ["a connack", "unknown"];
    Verdict::Refined.only_if(holds).measured(values![
        conn_text = text[0],
        submit_text = text[1],
        conn_source = source[0],
        submit_source = source[1],
        to_text = mixed[0],
        to_source = mixed[1],
        requests,
        acks
    ])
}

pub(super) fn d3(_: Lab) -> io::Result<Outcome> {
    let server = Loop::submit()?;
    let mut client = Client::connect(server.addr)?;
    let mut same = 0;
    let sent = [1, 2, 99_999_998, 99_999_999, 100_000_000, 100_000_001].map(Id::nth);
    let odd = Id(*b"\0\xff\r\n \"%s");
    for id in sent.into_iter().chain([odd]) {
        same += usize::from(client.ask(&request(Kind::Submit, id, b"hello"))?.id == id);
    }
    let by_printf: Vec<String> = (99_999_999..=100_000_001)
        .map(|n| format!("{n:08}")[..8].to_string())
        .collect();
    let wraps = sent[3..].iter().map(Id::to_string).collect::<Vec<_>>();
    let holds = same == 7 && wraps == ["99999999", "00000000", "00000001"];
    Verdict::reproduced_if(holds).measured(values![
        sent = sent.map(|id| id.to_string()),
        odd,
        same,
        wraps,
        by_printf
    ])
}

/// Refuses an empty payload.
struct Picky;

impl Handler for Picky {
    type Codec = ServerCodec;
    type State = ();
    type Mail = ();

    fn connection(&mut self, _: &Origin) -> (ServerCodec, ()) {
        Default::default()
    }

    fn frame(&mut self, request: Request<'_>, cx: &mut Context<'_, Self>) -> glassloop::Verdict {
        cx.send(request.ack(if request.payload.is_empty() {
            Answer::Failed
        } else {
            Answer::Done
        }));
        glassloop::Verdict::Continue
    }
}

pub(super) fn d4(_: Lab) -> io::Result<Outcome> {
    let server = Loop::start(Picky, Config::default())?;
    let mut client = Client::connect(server.addr)?;
    let mut results = Vec::new();
    for (n, payload) in [(1, &b"hello"[..]), (2, b""), (3, b"hello")] {
        client.send(&submit(n, payload))?;
        let mut ack = [0; 14];
        client.stream.read_exact(&mut ack)?;
        results.push(ack[13]);
    }
    drop(client);
    let end = server.next_end()?;
    Verdict::reproduced_if(results == [0, 1, 0] && end == "closed by the peer")
        .measured(values![results = format!("{:?}", results), end])
}

pub(super) fn d5(_: Lab) -> io::Result<Outcome> {
    let descriptors = || fs::read_dir("/proc/self/fd").map(Iterator::count);
    let (before, stream) = (descriptors()?, submit(1, b"hello"));
    // The lesson's way: a frame, then a packet, and back.
    let frame = decode_frame(&mut Cursor::new(&stream))?;
    let packet = frame.clone();
    let ack = handle_packet(frame, &mut None, &mut |_| ())?;
    let mut theirs = Vec::new();
    encode_frame(&mut theirs, &ack)?;
    // This crate's: one codec that does both, in a connection that has no socket.
    let (handler, shared) = (
        &mut service(),
        &mut Shared::new(Config::default(), Instant::now()),
    );
    let mut connection = Connection::unconnected(handler);
    connection.receive(&stream, handler, shared);
    let ours = connection.unsent();
    let opened = descriptors()?.saturating_sub(before);
    Verdict::reproduced_if(ours == theirs && ours.len() == 14 && opened == 0).measured(values![
        stream = hex(&stream),
        packet = hex(&packet),
        command = packet[0],
        id = packet[1..9].escape_ascii(),
        payload = packet[9..].escape_ascii(),
        ack = hex(&ack),
        theirs = hex(&theirs),
        ours = hex(ours),
        opened
    ])
}

pub(super) fn d6(_: Lab) -> io::Result<Outcome> {
    const PATIENCE: Duration = Duration::from_millis(100);
    let stream = submit(1, b"fourteen bytes");
    // A decoder that reads by itself has to wait, or to give up with half a frame in its hands.
    let (mut client, mut server) = pair()?;
    server.set_read_timeout(Some(PATIENCE))?;
    client.write_all(&stream[..10])?;
    let (waited, frame) = timed(|| decode_frame(&mut server));
    client.write_all(&stream[10..])?;
    let mut length = [0; 4];
    server.read_exact(&mut length)?; // what it would begin with, the next time
    let gave_up = frame
        .as_ref()
        .is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
        && waited >= PATIENCE;
    let lost = length == stream[10..14];

    // One that is handed bytes says that there are too few, and takes none.
    let (mut untaken, mut same) = (0, 0);
    for cut in 1..stream.len() {
        let mut input = Input::new(&stream[..cut]);
        let early = ServerCodec::default().decode(&mut input);
        untaken += usize::from(early == Ok(None) && input.taken() == 0);
        let (handler, shared) = (
            &mut service(),
            &mut Shared::new(Config::default(), Instant::now()),
        );
        let mut connection = Connection::unconnected(handler);
        connection.receive(&stream[..cut], handler, shared);
        connection.receive(&stream[cut..], handler, shared);
        same += usize::from(connection.unsent() == &b"\0\0\0\x0e\x8200000001\0"[..]);
    }
    let length = u32::from_be_bytes(length) as usize;
    Verdict::Refined
        .only_if(gave_up && lost && (untaken, same) == (26, 26))
        .measured(values![
            gave_up = frame.map_or_else(|error| name_of(&error), |_| "a frame".into()),
            length,
            untaken,
            same
        ])
}

pub(super) fn d7(_: Lab) -> io::Result<Outcome> {
    const FRAME_TIME: Duration = Duration::from_millis(100);
    let stream = submit(1, &[b'x'; 1000]);
    let errors: Vec<String> = (0..stream.len())
        .map(|cut| {
            decode_frame(&mut Cursor::new(&stream[..cut]))
                .map_or_else(|error| error.to_string(), |_| "a frame".into())
        })
        .collect();
    let count = |word: &str| errors.iter().filter(|error| *error == word).count();
    let (at_once, later) = (count("EOF"), count("unexpected EOF"));

    let config = Config {
        frame_timeout: Some(FRAME_TIME),
        idle_timeout: None,
        ..Config::default()
    };
    let server = Loop::start(service(), config)?;
    let (mut slow, mut other) = (Client::connect(server.addr)?, Client::connect(server.addr)?);
    let begun = Instant::now();
    let (end, took) = thread::scope(|scope| {
        scope.spawn(|| {
            for byte in &stream {
                if slow.send(&[*byte]).is_err() {
                    break; // it was shown the door
                }
                thread::sleep(Duration::from_millis(5));
            }
        });
        let end = server.next_end()?;
        io::Result::Ok((end, begun.elapsed()))
    })?;
    let other_lives = other.ask(&submit(1, b"hello"))?.outcome == Answer::Done;
    let dropped = end.starts_with("frame deadline passed") && took >= FRAME_TIME;
    Verdict::Refined
        .only_if(
            (at_once, later) == (2, stream.len() - 2)
                && errors[4] == "EOF"
                && dropped
                && other_lives,
        )
        .measured(values![
            at_once,
            later,
            short = errors.len() - at_once - later,
            behind_length = errors[4] == "EOF",
            took,
            end,
            other_lives
        ])
}

/// Answers from a list.
struct Script(VecDeque<io::Result<usize>>);

impl Script {
    fn of<const N: usize>(answers: [io::Result<usize>; N]) -> Self {
        Self(answers.into())
    }

    fn next(&mut self) -> io::Result<usize> {
        self.0
            .pop_front()
            .unwrap_or(Err(ErrorKind::NotFound.into()))
    }
}

impl Read for Script {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        self.next()
    }
}

impl Write for Script {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        self.next()
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Bytes that can be read with so many calls; the next one fails.
struct FailsAfter<'a>(usize, &'a [u8]);

impl Read for FailsAfter<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(1).ok_or(ErrorKind::ConnectionReset)?;
        self.1.read(buffer)
    }
}

#[allow(clippy::unnecessary_wraps)] // it is a `Run`
pub(super) fn d8(_: Lab) -> io::Result<Outcome> {
    let fails = || io::Error::from(ErrorKind::ConnectionReset);
    // As in the lesson: the first call fails, or the second.
    let decoded =
        [0, 1, 2].map(|calls| decode_frame(&mut FailsAfter(calls, b"\0\0\0\x09hello")).is_err());
    let encoded = [
        Script::of([Err(fails())]),
        Script::of([Ok(4), Err(fails())]),
        Script::of([Ok(4), Ok(5)]),
    ]
    .map(|mut script| encode_frame(&mut script, b"hello").is_err());

    let interrupted = || Err(io::Error::from(ErrorKind::Interrupted));
    let blocked = || Err(io::Error::from(ErrorKind::WouldBlock));
    let read = |mut script: Script| {
        fill(
            &mut script,
            &mut [],
            &mut [0; 8],
            &mut Readiness::default(),
            true,
        )
    };
    let write = |mut script: Script| flush(&mut script, b"hello", &mut Readiness::default());
    let arms = [
        (
            "read: bytes",
            matches!(read(Script::of([Ok(3)])), Fill::Bytes(3)),
        ),
        (
            "read: the end",
            matches!(read(Script::of([Ok(0)])), Fill::End),
        ),
        (
            "read: would block",
            matches!(read(Script::of([blocked()])), Fill::Blocked),
        ),
        (
            "read: a signal, then bytes",
            matches!(read(Script::of([interrupted(), Ok(3)])), Fill::Bytes(3)),
        ),
        (
            "read: an error",
            matches!(read(Script::of([Err(fails())])), Fill::Failed(_)),
        ),
        (
            "write: bytes, fewer than given",
            matches!(write(Script::of([Ok(3)])), Flush::Bytes(3)),
        ),
        (
            "write: would block",
            matches!(write(Script::of([blocked()])), Flush::Blocked),
        ),
        (
            "write: a signal, then bytes",
            matches!(write(Script::of([interrupted(), Ok(3)])), Flush::Bytes(3)),
        ),
        (
            "write: none taken, and no error",
            matches!(write(Script::of([Ok(0)])), Flush::Failed(_)),
        ),
        (
            "write: an error",
            matches!(write(Script::of([Err(fails())])), Flush::Failed(_)),
        ),
    ];
    let met = arms.iter().filter(|(_, met)| *met).count();
    Verdict::reproduced_if([decoded, encoded] == [[true, true, false]; 2] && met == arms.len())
        .measured(values![
            decoded = format!("{:?}", decoded),
            encoded = format!("{:?}", encoded),
            met,
            arms = arms.len()
        ])
}

#[allow(clippy::unnecessary_wraps)] // it is a `Run`
pub(super) fn d9(_: Lab) -> io::Result<Outcome> {
    let panics = |length: usize| {
        let frame = [&[0x02], &[b'1'; 20][..length]].concat();
        catch_unwind(|| decode_packet(frame, Box::default()).is_ok()).is_err()
    };
    let deadly = quietly(|| {
        (0..=20)
            .filter(|length| panics(*length))
            .collect::<Vec<_>>()
    });
    let (mut dice, mut seen, mut panicked) = (fastrand::Rng::with_seed(37), [0; 3], 0);
    quietly(|| {
        for _ in 0..20_000 {
            let mut bytes = vec![0, 0, 0, dice.u8(..32), dice.u8(..4) | dice.u8(..) & 0x80];
            bytes.extend((0..dice.usize(..32)).map(|_| dice.u8(..)));
            let both = catch_unwind(AssertUnwindSafe(|| {
                let _ = ClientCodec::default().decode(&mut Input::new(&bytes));
                match ServerCodec::default().decode(&mut Input::new(&bytes)) {
                    Ok(Some(_)) => 0,
                    Ok(None) => 1,
                    Err(_) => 2,
                }
            }));
            both.map_or_else(|_| panicked += 1, |kind| seen[kind] += 1);
        }
    });
    let holds = deadly == (0..8).collect::<Vec<_>>()
        && panicked == 0
        && seen.iter().all(|count| *count > 100);
    Verdict::Refined.only_if(holds).measured(values![
        deadly = format!("{:?}", deadly),
        panicked,
        requests = seen[0],
        incomplete = seen[1],
        refused = seen[2]
    ])
}

pub(super) fn d11(_: Lab) -> io::Result<Outcome> {
    let (mut packets, mut cuts, mut wrong) = (0, 0, 0);
    for dialect in [Dialect::Text, Dialect::Source] {
        let (mut server, mut client) = (ServerCodec::new(dialect), ClientCodec::new(dialect));
        for (kind, length) in [Kind::Conn, Kind::Submit]
            .into_iter()
            .flat_map(|kind| [0, 1, 14, 500].map(|length| (kind, length)))
        {
            let request = Request {
                kind,
                id: Id::nth(7),
                payload: &[b'x'; 500][..length],
            };
            let mut wire = BytesMut::new();
            client
                .encode(request, &mut wire)
                .map_err(io::Error::other)?;
            packets += 1;
            cuts += wire.len();
            wrong += (0..wire.len())
                .filter(|cut| server.decode(&mut Input::new(&wire[..*cut])) != Ok(None))
                .count();
            wrong += usize::from(server.decode(&mut Input::new(&wire)) != Ok(Some(request)));
            for outcome in [Answer::Done, Answer::Failed] {
                let ack = request.ack(outcome);
                let mut wire = BytesMut::new();
                server.encode(ack, &mut wire).map_err(io::Error::other)?;
                packets += 1;
                cuts += wire.len();
                wrong += (0..wire.len())
                    .filter(|cut| client.decode(&mut Input::new(&wire[..*cut])) != Ok(None))
                    .count();
                wrong += usize::from(client.decode(&mut Input::new(&wire)) != Ok(Some(ack)));
            }
        }
    }
    Verdict::reproduced_if(wrong == 0 && packets == 48).measured(values![packets, cuts, wrong])
}
