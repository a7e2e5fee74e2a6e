//! Frames and packets without a server: D1 to D9, and D11.

use std::fs;
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::BytesMut;
use glassloop::codec::{Input, LengthField};
use glassloop::internals::{Connection, Readiness, Shared, fill, flush};
use glassloop::submit::{
    Ack, ClientCodec, Dialect, Id, Kind, Outcome as Answer, Request, ServerCodec,
};
use glassloop::{Codec, Config, Fill, Flush};

use super::demos::{decode_frame, decode_packet, encode_frame, handle_packet};
use super::go_fd::Script;
use super::prelude::*;
use super::service::{Answers, Client, Loop, Service, quietly, request, service, submit};

pub(super) fn d1(_: Lab) -> io::Result<Outcome> {
    let (mut codec, mut ours) = (LengthField::whole(4), BytesMut::new());
    codec
        .encode((&b"hello"[..]).into(), &mut ours)
        .map_err(io::Error::other)?;
    let (ours, mut theirs) = (ours.to_vec(), Vec::new());
    encode_frame(&mut theirs, b"hello")?;
    let mut input = Input::new(&theirs);
    let frame = codec.decode(&mut input).map_err(io::Error::other)?;
    let body = frame.map_or(&[][..], |frame| frame.body);
    let turned = theirs
        .first_chunk()
        .map_or(0, |length| u32::from_le_bytes(*length));
    let known = theirs == b"\0\0\0\x09hello" && ours == theirs && body == b"hello";
    Verdict::reproduced_if(known).measured(values![theirs, ours, body, turned])
}

pub(super) fn d2(_: Lab) -> io::Result<Outcome> {
    let commands = |dialect| {
        let service = Service {
            dialect,
            ..service()
        };
        let server = Loop::start(service, Config::default())?;
        let requests = [request(Kind::Conn, Id::nth(0), b""), submit(1, b"hello")];
        let (acks, _) = server.talk(&requests.concat())?;
        io::Result::Ok([4, 18].map(|place| acks.get(place).copied().unwrap_or(0)))
    };
    let (text, source) = (commands(Dialect::Text)?, commands(Dialect::Source)?);
    let packet = |command| [b"\0\0\0\x0e".as_slice(), &[command], b"00000001\0"].concat();
    let taken = |dialect, command| {
        let packet = packet(command);
        match ClientCodec::new(dialect).decode(&mut Input::new(&packet)) {
            Ok(Some(Ack {
                kind: Kind::Conn, ..
            })) => "a connack",
            Ok(Some(_)) => "a submitack",
            _ => "unknown",
        }
    };
    let is_request = |command: &u8| {
        ServerCodec::default()
            .decode(&mut Input::new(&packet(*command)))
            .is_ok()
    };
    let requests = (0..=255).filter(is_request).count();
    let acks = (0..=255)
        .filter(|command| taken(Dialect::Text, *command) != "unknown")
        .count();
    let to_text = taken(Dialect::Text, source[1]);
    let to_source = taken(Dialect::Source, text[1]);
    let as_known = text == [0x81, 0x82] && source == [0x80, 0x81] && (requests, acks) == (2, 2);
    let mixed = (to_text, to_source) == ("a connack", "unknown");
    let values = values![text, source, to_text, to_source, requests, acks];
    Verdict::Refined.only_if(as_known && mixed).measured(values)
}

pub(super) fn d3(_: Lab) -> io::Result<Outcome> {
    let server = Loop::submit()?;
    let mut client = Client::connect(server.addr)?;
    let sent = [1, 2, 99_999_998, 99_999_999, 100_000_000, 100_000_001].map(Id::nth);
    let (odd, mut same) = (Id(*b"\0\xff\r\n \"%s"), 0);
    for id in sent.into_iter().chain([odd]) {
        same += usize::from(client.ask(&request(Kind::Submit, id, b"hello"))?.id == id);
    }
    let by_printf =
        [99_999_999, 100_000_000, 100_000_001].map(|n| format!("{n:08}")[..8].to_string());
    let wraps: Vec<String> = sent[3..].iter().map(Id::to_string).collect();
    let holds = same == 7 && wraps == ["99999999", "00000000", "00000001"];
    Verdict::reproduced_if(holds).measured(values![sent, odd, same, wraps, by_printf])
}

pub(super) fn d4(_: Lab) -> io::Result<Outcome> {
    let picky = Answers(|request| match request.payload {
        b"" => Answer::Failed,
        _ => Answer::Done,
    });
    let server = Loop::start(picky, Config::default())?;
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
    let holds = results == [0, 1, 0] && end == "closed by the peer";
    Verdict::reproduced_if(holds).measured(values![results, end])
}

/// What this crate's connection, without a socket, answers to these pieces.
fn answers(pieces: &[&[u8]]) -> Vec<u8> {
    let handler = &mut service();
    let shared = &mut Shared::new(Config::default(), Instant::now());
    let mut connection = Connection::unconnected(handler);
    for piece in pieces {
        connection.receive(piece, handler, shared);
    }
    connection.unsent().to_vec()
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
    // This crate's: one codec that does both.
    let ours = answers(&[&stream]);
    let opened = descriptors()?.saturating_sub(before);
    let holds = ours == theirs && ours.len() == 14 && opened == 0;
    let (command, id, payload) = (packet[0], &packet[1..9], &packet[9..]);
    Verdict::reproduced_if(holds).measured(values![
        stream, packet, command, id, payload, ack, theirs, ours, opened
    ])
}

pub(super) fn d6(_: Lab) -> io::Result<Outcome> {
    const LIMIT: Duration = Duration::from_millis(100);
    let stream = submit(1, b"fourteen bytes");
    // A decoder that reads by itself has to wait, or to give up with half a frame.
    let (mut client, mut server) = pair()?;
    server.set_read_timeout(Some(LIMIT))?;
    client.write_all(&stream[..10])?;
    let (waited, frame) = timed(|| decode_frame(&mut server));
    client.write_all(&stream[10..])?;
    let mut length = [0; 4];
    server.read_exact(&mut length)?; // where it would begin the next time
    let gave_up = error_or(&frame, "a frame");
    let lost = gave_up == "EAGAIN" && waited >= LIMIT && length == stream[10..14];

    // A decoder that gets bytes asks for more, and takes none.
    let (mut untaken, mut same) = (0, 0);
    for cut in 1..stream.len() {
        let (first, second) = stream.split_at(cut);
        let mut input = Input::new(first);
        let early = ServerCodec::default().decode(&mut input);
        untaken += usize::from(early == Ok(None) && input.taken() == 0);
        same += usize::from(answers(&[first, second]) == b"\0\0\0\x0e\x8200000001\0");
    }
    let length = u32::from_be_bytes(length);
    let verdict = Verdict::Refined.only_if(lost && (untaken, same) == (26, 26));
    verdict.measured(values![gave_up, length, untaken, same])
}

pub(super) fn d7(_: Lab) -> io::Result<Outcome> {
    const FRAME_TIME: Duration = Duration::from_millis(100);
    let stream = submit(1, &[b'x'; 1000]);
    let error = |cut| match decode_frame(&mut Cursor::new(&stream[..cut])) {
        Ok(_) => "a frame".into(),
        Err(error) => error.to_string(),
    };
    let errors: Vec<String> = (0..stream.len()).map(error).collect();
    let count = |name: &str| errors.iter().filter(|error| *error == name).count();
    let (at_once, later) = (count("EOF"), count("unexpected EOF"));
    let (short, behind_length) = (errors.len() - at_once - later, errors[4] == "EOF");

    let config = Config {
        frame_timeout: Some(FRAME_TIME),
        idle_timeout: None,
        ..Config::default()
    };
    let server = Loop::start(service(), config)?;
    let (mut slow, mut other) = (Client::connect(server.addr)?, Client::connect(server.addr)?);
    let (took, end) = timed(|| {
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut send = |byte: &u8| {
                    thread::sleep(Duration::from_millis(5));
                    slow.send(&[*byte])
                };
                let _ = stream.iter().try_for_each(&mut send); // until the server has closed it
            });
            server.next_end()
        })
    });
    let (end, other_lives) = (end?, other.is_served(1)?);
    let dropped = end.starts_with("frame deadline passed") && took >= FRAME_TIME;
    let counts = (at_once, later) == (2, stream.len() - 2) && behind_length;
    let values = values![at_once, later, short, behind_length, took, end, other_lives];
    Verdict::Refined
        .only_if(counts && dropped && other_lives)
        .measured(values)
}

/// Bytes that can be read with this many calls; the next call fails.
struct FailsAfter<'a>(usize, &'a [u8]);

impl Read for FailsAfter<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(1).ok_or(ErrorKind::ConnectionReset)?;
        self.1.read(buffer)
    }
}

pub(super) fn d8(_: Lab) -> io::Result<Outcome> {
    let fails = || Err(ErrorKind::ConnectionReset.into());
    let interrupted = || Err(ErrorKind::Interrupted.into());
    let blocked = || Err(ErrorKind::WouldBlock.into());
    // As in the lesson: the first call fails, or the second, or none.
    let decoded =
        [0, 1, 2].map(|calls| decode_frame(&mut FailsAfter(calls, b"\0\0\0\x09hello")).is_err());
    let encode = |mut script: Script| encode_frame(&mut script, b"hello").is_err();
    let encoded = [
        encode(Script::of([fails()])),
        encode(Script::of([Ok(4), fails()])),
        encode(Script::of([Ok(4), Ok(5)])),
    ];

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
        matches!(read(Script::of([Ok(3)])), Fill::Bytes(3)),
        matches!(read(Script::of([Ok(0)])), Fill::End),
        matches!(read(Script::of([blocked()])), Fill::Blocked),
        matches!(read(Script::of([interrupted(), Ok(3)])), Fill::Bytes(3)),
        matches!(read(Script::of([fails()])), Fill::Failed(_)),
        matches!(write(Script::of([Ok(3)])), Flush::Bytes(3)), // fewer than given
        matches!(write(Script::of([blocked()])), Flush::Blocked),
        matches!(write(Script::of([interrupted(), Ok(3)])), Flush::Bytes(3)),
        matches!(write(Script::of([Ok(0)])), Flush::Failed(_)), // none taken, and no error
        matches!(write(Script::of([fails()])), Flush::Failed(_)),
    ];
    let met = arms.iter().filter(|met| **met).count();
    let arms = arms.len();
    let as_in_the_lesson = [decoded, encoded] == [[true, true, false]; 2];
    let values = values![decoded, encoded, met, arms];
    Verdict::reproduced_if(as_in_the_lesson && met == arms).measured(values)
}

pub(super) fn d9(_: Lab) -> io::Result<Outcome> {
    let panics = |length: &usize| {
        let frame = [&[0x02], &[b'1'; 20][..*length]].concat();
        catch_unwind(|| decode_packet(frame, Box::default()).is_ok()).is_err()
    };
    let deadly: Vec<usize> = quietly(|| (0..=20).filter(panics).collect());
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
    let as_known = deadly.iter().copied().eq(0..8) && panicked == 0;
    let all_met = seen.iter().all(|count| *count > 100);
    Verdict::Refined
        .only_if(as_known && all_met)
        .measured(values![deadly, panicked, seen])
}

/// The numbers of D11.
#[derive(Default)]
struct Cuts {
    packets: usize,
    cases: usize,
    wrong: usize,
}

impl Cuts {
    /// Encodes a packet, and decodes it cut at each length, and whole.
    fn check<E>(
        &mut self,
        encode: impl FnOnce(&mut BytesMut) -> Result<(), E>,
        mut decodes_to_nothing: impl FnMut(&[u8]) -> bool,
        mut decodes_to_itself: impl FnMut(&[u8]) -> bool,
    ) {
        let mut wire = BytesMut::new();
        let encoded = encode(&mut wire).is_ok();
        let early = (0..wire.len())
            .filter(|cut| !decodes_to_nothing(&wire[..*cut]))
            .count();
        self.packets += 1;
        self.cases += wire.len();
        self.wrong += early + usize::from(!encoded || !decodes_to_itself(&wire));
    }
}

pub(super) fn d11(_: Lab) -> io::Result<Outcome> {
    let (mut cuts, mut packets) = (Cuts::default(), Vec::new());
    for dialect in [Dialect::Text, Dialect::Source] {
        for kind in [Kind::Conn, Kind::Submit] {
            packets.extend([0, 1, 14, 500].map(|length| (dialect, kind, length)));
        }
    }
    for (dialect, kind, length) in packets {
        let server = || ServerCodec::new(dialect);
        let client = || ClientCodec::new(dialect);
        let (id, payload) = (Id::nth(7), &[b'x'; 500][..length]);
        let request = Request { kind, id, payload };
        cuts.check(
            |wire| client().encode(request, wire),
            |wire| server().decode(&mut Input::new(wire)) == Ok(None),
            |wire| server().decode(&mut Input::new(wire)) == Ok(Some(request)),
        );
        for ack in [request.ack(Answer::Done), request.ack(Answer::Failed)] {
            cuts.check(
                |wire| server().encode(ack, wire),
                |wire| client().decode(&mut Input::new(wire)) == Ok(None),
                |wire| client().decode(&mut Input::new(wire)) == Ok(Some(ack)),
            );
        }
    }
    let Cuts {
        packets,
        cases,
        wrong,
    } = cuts;
    Verdict::reproduced_if(wrong == 0 && packets == 48).measured(values![packets, cases, wrong])
}
