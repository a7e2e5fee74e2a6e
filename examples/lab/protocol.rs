//! The stream, and the protocol on it: C1 to C7.

use std::collections::BTreeSet;
use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;

use glassloop::codec::{Input, LengthField, Line};
use glassloop::submit::{Ack, Id, ServerCodec};
use glassloop::{Codec, Config, Context, FrameOf, Handler, Origin, Verdict as Next};
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::prelude::*;
use super::service::{Client, Loop, hex, submit};

pub(crate) const RUNS: &[(&str, Run)] = &[
    ("C1", c1),
    ("C2", c2),
    ("C3", c3),
    ("C4", c4),
    ("C5", c5),
    ("C6", c6),
    ("C7", c7),
];

fn c1(_: Lab) -> io::Result<Outcome> {
    let udp = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0));
    let (sender, receiver, mut buffer) = (udp()?, udp()?, [0; 64]);
    receiver.set_read_timeout(Some(PATIENCE))?;
    for word in [b"hello", b"world"] {
        sender.send_to(word, receiver.local_addr()?)?;
    }
    let (first, second) = (receiver.recv(&mut buffer)?, receiver.recv(&mut buffer)?);

    let (mut client, mut server) = pair()?;
    client.write_all(b"hello")?;
    client.write_all(b"world")?;
    let all_there = has_come(&server, 10);
    let stream = server.read(&mut buffer)?;

    let dead = socket(0, 0)?; // has a port, and does not listen
    let addr = bind(&dead)?;
    let sent = sender.send_to(b"hello", addr)?;
    let refused = error_or(&TcpStream::connect(addr), "connected");

    let kept = (first, second) == (5, 5) && all_there && stream == 10;
    let holds = kept && sent == 5 && refused == "ECONNREFUSED";
    Verdict::reproduced_if(holds).measured(values![first, second, stream, sent, refused])
}

fn c2(_: Lab) -> io::Result<Outcome> {
    let (mut calls, mut buffer, mut events) = (Vec::new(), [0; 64], Vec::with_capacity(8));
    let mut note = |call: &'static str, result: usize| calls.push((call, result));
    let number = |fd: &rustix::fd::OwnedFd| fd.as_raw_fd().unsigned_abs() as usize;
    let limit = Timespec {
        tv_sec: 5,
        tv_nsec: 0,
    };

    let listener = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    note("socket", number(&listener));
    rustix::net::bind(&listener, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
    note("bind, to port 0: any free port", 0);
    rustix::net::listen(&listener, 8)?;
    note("listen", 0);
    let addr = rustix::net::getsockname(&listener)?;
    note("getsockname: the port", 0);
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    note("epoll_create1", number(&epoll));
    epoll::add(&epoll, &listener, EventData::new_u64(0), EventFlags::IN)?;
    note("epoll_ctl ADD, the listener", 0);
    let mut wait = || epoll::wait(&epoll, spare_capacity(&mut events), Some(&limit));

    let mut client = TcpStream::connect(SocketAddrV4::try_from(addr)?)?; // socket, connect
    note("epoll_wait", wait()?);
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let server = rustix::net::accept_with(&listener, flags)?;
    note("accept4", number(&server));
    epoll::add(&epoll, &server, EventData::new_u64(1), EventFlags::IN)?;
    note("epoll_ctl ADD, the connection", 0);
    client.write_all(&submit(1, b"fourteen bytes"))?;
    note("epoll_wait", wait()?);
    let (_, received) = rustix::net::recv(&server, &mut buffer[..], RecvFlags::empty())?;
    note("recvfrom", received);
    let reply = submit(1, b"\0"); // as long as an ack
    note(
        "sendto",
        rustix::net::send(&server, &reply, SendFlags::NOSIGNAL)?,
    );
    client.read_exact(&mut buffer[..Ack::LEN])?;
    drop(client); // close
    note("epoll_wait", wait()?);
    let (_, end) = rustix::net::recv(&server, &mut buffer[..], RecvFlags::empty())?;
    note("recvfrom: the end", end);
    drop(server);
    note("close", 0);

    let name = |call: &'static str| call.split([' ', ',', ':']).next().unwrap_or(call);
    let different = calls
        .iter()
        .map(|(call, _)| name(call))
        .collect::<BTreeSet<_>>()
        .len();
    let results = |of: &str| {
        let its = calls.iter().filter(|(call, _)| name(call) == of);
        its.map(|(_, result)| *result).collect::<Vec<_>>()
    };
    let holds = results("recvfrom") == [27, 0]
        && results("sendto") == [Ack::LEN]
        && results("epoll_wait") == [1, 1, 1];
    let lines = calls.iter().enumerate();
    let lines =
        lines.map(|(number, (call, result))| (format!("{:>2}. {call}", number + 1), result));
    Ok(Outcome::new(Verdict::reproduced_if(holds), values![different]).with_all(lines))
}

fn c3(_: Lab) -> io::Result<Outcome> {
    let ((mut client, mut server), mut buffer) = (pair()?, [0; 256]);
    let frames: Vec<u8> = (1..=3).flat_map(|n| submit(n, b"fourteen bytes")).collect();
    client.write_all(&frames)?;
    has_come(&server, frames.len());
    let at_once = server.read(&mut buffer)?;
    let three = whole_frames(&buffer[..at_once]);

    let (mut held, mut reads, mut seen) = (Vec::new(), 0, Vec::new());
    for byte in submit(4, b"fourteen bytes") {
        client.write_all(&[byte])?;
        let count = server.read(&mut buffer)?; // before the next byte is sent
        reads += 1;
        held.extend_from_slice(&buffer[..count]);
        seen.push(whole_frames(&held));
    }
    let (one, early) = (
        seen.pop().unwrap_or(0),
        seen.iter().filter(|frames| **frames > 0).count(),
    );

    let holds = at_once == 81 && three == 3 && reads == 27 && one == 1 && early == 0;
    Verdict::reproduced_if(holds).measured(values![at_once, three, reads, one])
}

/// The number of complete frames.
fn whole_frames(bytes: &[u8]) -> usize {
    let (mut codec, mut input, mut frames) = (ServerCodec::default(), Input::new(bytes), 0);
    while let Ok(Some(_)) = codec.decode(&mut input) {
        frames += 1;
    }
    frames
}

/// Sends each frame back, with any codec.
struct Echo<C>(C);

impl<C> Handler for Echo<C>
where
    C: Codec + Clone,
    for<'a> C::Frame<'a>: Into<C::Message<'a>>,
{
    type Codec = C;
    type State = ();
    type Mail = ();

    fn connection(&mut self, _: &Origin) -> (C, ()) {
        (self.0.clone(), ())
    }

    fn frame(&mut self, frame: FrameOf<'_, Self>, cx: &mut Context<'_, Self>) -> Next {
        cx.send(frame);
        Next::Continue
    }
}

fn c4(_: Lab) -> io::Result<Outcome> {
    const WORDS: [&str; 3] = ["hello", "to", "you"];
    let (length, line) = (LengthField::whole(4), Line::default());
    let by_length = encoded(&length, &WORDS).unwrap_or_default();
    let by_line = encoded(&line, &WORDS).unwrap_or_default();
    let (long, refusal) = (
        encoded(&length, &["two\nlines"]),
        encoded(&line, &["two\nlines"]),
    );
    let binary = echoes(&Loop::start(Echo(length), Config::default())?, &by_length)?;
    let text = echoes(&Loop::start(Echo(line), Config::default())?, &by_line)?;
    let holds = binary && text && long.is_ok() && refusal.is_err();
    let [long, refusal] =
        [long, refusal].map(|came| came.map_or_else(|error| error, |it| hex(&it)));
    let values = values![by_length, binary, by_line, text, long, refusal];
    Verdict::reproduced_if(holds).measured(values)
}

/// Messages as a codec writes them.
fn encoded<C: Codec + Clone>(codec: &C, words: &[&'static str]) -> Result<Vec<u8>, String>
where
    for<'a> &'a [u8]: Into<C::Message<'a>>,
{
    let (mut codec, mut bytes) = (codec.clone(), bytes::BytesMut::new());
    let mut encode = |word: &&'static str| codec.encode(word.as_bytes().into(), &mut bytes);
    words
        .iter()
        .try_for_each(&mut encode)
        .map_err(|error| error.to_string())?;
    Ok(bytes.to_vec())
}

/// Whether a server echoes this, both sent at once and sent byte by byte.
fn echoes(server: &Loop, bytes: &[u8]) -> io::Result<bool> {
    let echoed = |piece: usize| {
        let mut client = Client::connect(server.addr)?;
        bytes
            .chunks(piece)
            .try_for_each(|piece| client.send(piece))?;
        client.rest()
    };
    Ok(echoed(bytes.len())? == bytes && echoed(1)? == bytes)
}

fn c5(_: Lab) -> io::Result<Outcome> {
    const WORDS: &[u8] = b"submit 00000001 hello\n";
    const SHORT: &[u8] = b"2 1 hello\n";
    const HTTP: &[u8] =
        b"POST /submit/00000001 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello";
    let binary = submit(1, b"hello");
    let parse_binary = || {
        let mut input = Input::new(black_box(&binary));
        ServerCodec::default()
            .decode(&mut input)
            .is_ok_and(|frame| frame.is_some())
    };
    let parse_words = || {
        let mut input = Input::new(black_box(WORDS));
        let Ok(Some(line)) = Line::default().decode(&mut input) else {
            return false;
        };
        let mut fields = line.splitn(3, |byte| *byte == b' ');
        fields.next() == Some(b"submit")
            && fields.next().is_some_and(|id| id.len() == 8)
            && fields.next().is_some()
    };
    let parsed = parse_binary() && parse_words();
    let (binary_nanos, words_nanos) = (nanos(parse_binary), nanos(parse_words));
    let [binary, words, http, short] = [&binary, WORDS, HTTP, SHORT].map(<[u8]>::len);
    let holds = binary < words && binary < http && short < binary && parsed;
    let values = values![binary, binary_nanos, words, words_nanos, http, short];
    Verdict::Refined.only_if(holds).measured(values)
}

/// The time of a call, in the best of some rounds.
fn nanos(mut call: impl FnMut() -> bool) -> f64 {
    const CALLS: u32 = 2_000;
    let round = |_| {
        let (took, ()) = timed(|| (0..CALLS).for_each(|_| assert!(black_box(call()))));
        took.as_secs_f64() * 1e9 / f64::from(CALLS)
    };
    (0..7).map(round).fold(f64::INFINITY, f64::min)
}

fn c6(_: Lab) -> io::Result<Outcome> {
    let request = submit(1, b"fourteen bytes");
    let (ack, _) = Loop::submit()?.talk(&request)?; // up to the end: nothing else comes
    let lengths = |packet: &[u8]| {
        let first = packet
            .first_chunk()
            .map_or(0, |bytes| u32::from_be_bytes(*bytes));
        (packet.len(), first)
    };
    let holds = lengths(&request) == (27, 27) && lengths(&ack) == (14, 14);
    let same = ack.get(5..13) == Some(&request[5..13]) && ack.get(13) == Some(&0);
    let mut outcome = Outcome::new(Verdict::reproduced_if(holds && same), values![]);
    for (name, packet, last) in [("request", &request, "payload"), ("ack", &ack, "result")] {
        let end = packet.len();
        let fields = [
            ("totalLength", 0..4),
            ("commandID", 4..5),
            ("ID", 5..13),
            (last, 13..end),
        ];
        let lines = fields.map(|(field, bytes)| {
            (
                format!("{name}, {field}"),
                hex(packet.get(bytes).unwrap_or_default()),
            )
        });
        outcome = outcome.with(name, format!("{end} bytes")).with_all(lines);
    }
    Ok(outcome)
}

fn c7(_: Lab) -> io::Result<Outcome> {
    const REQUESTS: u64 = 100;
    let server = Loop::submit()?;
    let mut waiting = Client::connect(server.addr)?;
    let ask = |n| Ok(waiting.ask(&submit(n, b"hello"))?.id);
    let one_by_one = (1..=REQUESTS).map(ask).collect::<io::Result<Vec<Id>>>()?;
    drop(waiting);
    let first_end = server.next_end()?;

    let mut pipelining = Client::connect(server.addr)?;
    let requests: Vec<u8> = (1..=REQUESTS).flat_map(|n| submit(n, b"hello")).collect();
    pipelining.send(&requests)?;
    let at_once = (1..=REQUESTS).map(|_| Ok(pipelining.ack()?.id));
    let at_once = at_once.collect::<io::Result<Vec<Id>>>()?;
    let more = pipelining.rest()?.len();
    let end = server.next_end()?;

    let in_order = |ids: &[Id]| ids.iter().copied().eq((1..=REQUESTS).map(Id::nth));
    let ends_are_the_clients = first_end == "closed by the peer" && end == first_end;
    let holds = in_order(&one_by_one) && in_order(&at_once) && more == 0 && ends_are_the_clients;
    let [one_by_one, at_once] = [one_by_one, at_once]
        .map(|ids| format!("{} acks, in order: {}", ids.len(), in_order(&ids)));
    let values = values![requests = REQUESTS, one_by_one, at_once, end];
    Verdict::reproduced_if(holds).measured(values)
}
