//! The stream, and the protocol upon it: C1 to C7.

use super::prelude::*;
use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;

use glassloop::codec::{Input, LengthField, Line};
use glassloop::submit::{Ack, ServerCodec};
use glassloop::{Codec, Config, Context, FrameOf, Handler, Origin};
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use socket2::{Domain, Socket, Type};

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
    let (sender, receiver) = (
        UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?,
        UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?,
    );
    receiver.set_read_timeout(Some(super::tools::PATIENCE))?;
    let mut buffer = [0; 64];
    for word in [b"hello", b"world"] {
        sender.send_to(word, receiver.local_addr()?)?;
    }
    let packets = [receiver.recv(&mut buffer)?, receiver.recv(&mut buffer)?];

    let (mut client, mut server) = pair()?;
    client.write_all(b"hello")?;
    client.write_all(b"world")?;
    let all_there = wait_for(|| queues_of(&server).is_ok_and(|queues| queues.received == 10));
    let stream = server.read(&mut buffer)?;

    let nobody = Socket::new(Domain::IPV4, Type::STREAM, None)?; // has a port, and does not listen
    nobody.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    let nobody_there = nobody.local_addr()?.as_socket().expect("it is an IPv4 one");
    let sent = sender.send_to(b"hello", nobody_there)?;
    let refused = TcpStream::connect(nobody_there)
        .err()
        .map_or("connected".into(), |error| name_of(&error));

    let holds =
        packets == [5, 5] && all_there && stream == 10 && sent == 5 && refused == "ECONNREFUSED";
    Verdict::reproduced_if(holds).measured(values![
        first = packets[0],
        second = packets[1],
        stream,
        sent,
        refused
    ])
}

fn c2(_: Lab) -> io::Result<Outcome> {
    let (mut calls, mut buffer, mut events) = (Vec::new(), [0; 64], Vec::with_capacity(8));
    let mut note = |call: &'static str, came_to: usize| calls.push((call, came_to));
    let number = |fd: &rustix::fd::OwnedFd| fd.as_raw_fd().unsigned_abs() as usize;
    let (ready, patience) = (
        EventFlags::IN,
        Timespec {
            tv_sec: 5,
            tv_nsec: 0,
        },
    );

    let listener = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    note("socket", number(&listener));
    rustix::net::bind(&listener, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
    note("bind, to port 0: any that is free", 0);
    rustix::net::listen(&listener, 8)?;
    note("listen", 0);
    let addr = rustix::net::getsockname(&listener)?;
    note("getsockname: which port it is", 0);
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    note("epoll_create1", number(&epoll));
    epoll::add(&epoll, &listener, EventData::new_u64(0), ready)?;
    note("epoll_ctl ADD, the listener", 0);

    let mut client = TcpStream::connect(SocketAddrV4::try_from(addr)?)?; // socket, connect
    note(
        "epoll_wait",
        epoll::wait(
            &epoll,
            rustix::buffer::spare_capacity(&mut events),
            Some(&patience),
        )?,
    );
    let server = rustix::net::accept_with(&listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)?;
    note("accept4", number(&server));
    epoll::add(&epoll, &server, EventData::new_u64(1), ready)?;
    note("epoll_ctl ADD, the connection", 0);
    client.write_all(&submit(1, b"fourteen bytes"))?;
    note(
        "epoll_wait",
        epoll::wait(
            &epoll,
            rustix::buffer::spare_capacity(&mut events),
            Some(&patience),
        )?,
    );
    let (_, received) = rustix::net::recv(&server, &mut buffer[..], RecvFlags::empty())?;
    note("recvfrom", received);
    note(
        "sendto",
        rustix::net::send(&server, &submit(1, b"\0")[..], SendFlags::NOSIGNAL)?,
    );
    client.read_exact(&mut buffer[..Ack::LEN])?;
    drop(client); // close
    note(
        "epoll_wait",
        epoll::wait(
            &epoll,
            rustix::buffer::spare_capacity(&mut events),
            Some(&patience),
        )?,
    );
    let (_, end) = rustix::net::recv(&server, &mut buffer[..], RecvFlags::empty())?;
    note("recvfrom: the end", end);
    drop(server);
    note("close", 0);

    let different: std::collections::BTreeSet<&str> = calls
        .iter()
        .map(|(call, _)| call.split([' ', ',', ':']).next().unwrap_or(call))
        .collect();
    let count = |name: &str| {
        calls
            .iter()
            .filter(|(call, _)| call.starts_with(name))
            .map(|(_, came_to)| *came_to)
            .collect::<Vec<_>>()
    };
    let holds = count("recvfrom") == [27, 0]
        && count("sendto") == [Ack::LEN]
        && count("epoll_wait") == [1, 1, 1];
    let mut outcome = Outcome::new(
        Verdict::reproduced_if(holds),
        values![different = different.len()],
    );
    for (number, (call, came_to)) in calls.into_iter().enumerate() {
        outcome = outcome.with(format!("{:>2}. {call}", number + 1), came_to);
    }
    Ok(outcome)
}

fn c3(_: Lab) -> io::Result<Outcome> {
    let (mut client, mut server) = pair()?;
    let (frames, mut buffer) = (
        (1..=3)
            .flat_map(|n| submit(n, b"fourteen bytes"))
            .collect::<Vec<_>>(),
        [0; 256],
    );
    client.write_all(&frames)?;
    wait_for(|| queues_of(&server).is_ok_and(|queues| queues.received == frames.len()));
    let at_once = server.read(&mut buffer)?;
    let three = whole_frames(&buffer[..at_once]);

    let (frame, mut held, mut reads, mut seen) =
        (submit(4, b"fourteen bytes"), Vec::new(), 0, Vec::new());
    for byte in &frame {
        client.write_all(&[*byte])?;
        let count = server.read(&mut buffer)?; // before the next byte is sent
        reads += 1;
        held.extend_from_slice(&buffer[..count]);
        seen.push(whole_frames(&held));
    }
    let early = seen[..26].iter().filter(|frames| **frames > 0).count();

    let holds = at_once == 81 && three == 3 && reads == 27 && seen[26] == 1 && early == 0;
    Verdict::reproduced_if(holds).measured(values![at_once, three, reads, one = seen[26]])
}

/// How many frames are there whole.
fn whole_frames(bytes: &[u8]) -> usize {
    let (mut codec, mut input, mut frames) = (ServerCodec::default(), Input::new(bytes), 0);
    while let Ok(Some(_)) = codec.decode(&mut input) {
        frames += 1;
    }
    frames
}

/// Sends each frame back, whatever its boundaries are.
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

    fn frame(
        &mut self,
        frame: FrameOf<'_, Self>,
        cx: &mut Context<'_, Self>,
    ) -> glassloop::Verdict {
        cx.send(frame);
        glassloop::Verdict::Continue
    }
}

fn c4(_: Lab) -> io::Result<Outcome> {
    let (length, line) = (LengthField::whole(4), Line::default());
    let [by_length, with_break] =
        [&["hello", "to", "you"][..], &["two\nlines"]].map(|words| encoded(&length, words));
    let [by_line, refused] =
        [&["hello", "to", "you"][..], &["two\nlines"]].map(|words| encoded(&line, words));
    let (by_length, by_line) = (by_length.unwrap_or_default(), by_line.unwrap_or_default());
    let binary = echoes(&Loop::start(Echo(length), Config::default())?, &by_length)?;
    let text = echoes(&Loop::start(Echo(line), Config::default())?, &by_line)?;
    Verdict::reproduced_if(binary && text && with_break.is_ok() && refused.is_err()).measured(
        values![
            by_length = hex(&by_length),
            binary,
            by_line = by_line.escape_ascii(),
            text,
            long = with_break.map_or_else(|error| error, |bytes| hex(&bytes)),
            refusal = refused.map_or_else(|error| error, |bytes| hex(&bytes))
        ],
    )
}

/// Messages as a codec writes them.
fn encoded<C: Codec + Clone>(codec: &C, words: &[&'static str]) -> Result<Vec<u8>, String>
where
    for<'a> &'a [u8]: Into<C::Message<'a>>,
{
    let (mut codec, mut bytes) = (codec.clone(), bytes::BytesMut::new());
    words
        .iter()
        .try_for_each(|word| codec.encode(word.as_bytes().into(), &mut bytes))
        .map_err(|error| error.to_string())?;
    Ok(bytes.to_vec())
}

/// Whether a server sends the same back, both when it gets all at once and when it gets it byte by byte.
fn echoes(server: &Loop, bytes: &[u8]) -> io::Result<bool> {
    let echoed = |piece: usize| {
        let mut client = Client::connect(server.addr)?;
        bytes
            .chunks(piece)
            .try_for_each(|piece| client.send(piece))?;
        client.stream.shutdown(Shutdown::Write)?;
        client.rest()
    };
    Ok(echoed(bytes.len())? == bytes && echoed(1)? == bytes)
}

#[allow(clippy::unnecessary_wraps)] // it is a `Run`
fn c5(_: Lab) -> io::Result<Outcome> {
    let binary = submit(1, b"hello");
    let words = b"submit 00000001 hello\n";
    let http =
        b"POST /submit/00000001 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello";
    let short = b"2 1 hello\n";
    let parse_binary = || {
        ServerCodec::default()
            .decode(&mut Input::new(black_box(&binary)))
            .is_ok_and(|frame| frame.is_some())
    };
    let parse_words = || {
        let mut input = Input::new(black_box(words));
        let Ok(Some(line)) = Line::default().decode(&mut input) else {
            return false;
        };
        let mut fields = line.splitn(3, |byte| *byte == b' ');
        fields.next() == Some(b"submit")
            && fields.next().is_some_and(|id| id.len() == 8)
            && fields.next().is_some()
    };
    let shorter = binary.len() < words.len() && binary.len() < http.len();
    let not_shortest = short.len() < binary.len();
    let parsed = parse_binary() && parse_words();
    Verdict::Refined
        .only_if(shorter && not_shortest && parsed)
        .measured(values![
            binary = binary.len(),
            binary_nanos = nanos(parse_binary),
            words = words.len(),
            words_nanos = nanos(parse_words),
            http = http.len(),
            short = short.len()
        ])
}

/// What a call takes, in the best of some rounds.
fn nanos(mut call: impl FnMut() -> bool) -> f64 {
    const CALLS: u32 = 2_000;
    let round = |_| {
        let (took, ()) = timed(|| (0..CALLS).for_each(|_| assert!(black_box(call()))));
        took.as_secs_f64() * 1e9 / f64::from(CALLS)
    };
    (0..7).map(round).fold(f64::INFINITY, f64::min)
}

fn c6(_: Lab) -> io::Result<Outcome> {
    let server = Loop::submit()?;
    let mut client = Client::connect(server.addr)?;
    let request = submit(1, b"fourteen bytes");
    client.send(&request)?;
    client.stream.shutdown(Shutdown::Write)?;
    let ack = client.rest()?; // up to the end: nothing else comes
    let length = |packet: &[u8]| {
        packet
            .first_chunk()
            .map_or(0, |bytes| u32::from_be_bytes(*bytes) as usize)
    };
    let holds =
        (request.len(), length(&request)) == (27, 27) && (ack.len(), length(&ack)) == (14, 14);
    let same = ack.get(5..13) == Some(&request[5..13]) && ack.get(13) == Some(&0);
    let mut outcome = Outcome::new(Verdict::reproduced_if(holds && same), values![]);
    for (name, packet, last) in [("request", &request, "payload"), ("ack", &ack, "result")] {
        outcome = outcome.with(name, format!("{} bytes", packet.len()));
        for (field, bytes) in [
            ("totalLength", 0..4),
            ("commandID", 4..5),
            ("ID", 5..13),
            (last, 13..packet.len()),
        ] {
            outcome = outcome.with(
                format!("{name}, {field}"),
                hex(packet.get(bytes).unwrap_or_default()),
            );
        }
    }
    Ok(outcome)
}

fn c7(_: Lab) -> io::Result<Outcome> {
    const REQUESTS: u64 = 100;
    let server = Loop::submit()?;
    let in_order = |ids: &[_]| {
        ids.len() as u64 == REQUESTS
            && ids
                .iter()
                .zip(1..)
                .all(|(id, n)| *id == glassloop::submit::Id::nth(n))
    };

    let mut waiting = Client::connect(server.addr)?;
    let one_by_one = (1..=REQUESTS)
        .map(|n| Ok(waiting.ask(&submit(n, b"hello"))?.id))
        .collect::<io::Result<Vec<_>>>()?;
    drop(waiting);
    let first_end = server.next_end()?;

    let mut pipelining = Client::connect(server.addr)?;
    pipelining.send(
        &(1..=REQUESTS)
            .flat_map(|n| submit(n, b"hello"))
            .collect::<Vec<_>>(),
    )?;
    let at_once = (1..=REQUESTS)
        .map(|_| Ok(pipelining.ack()?.id))
        .collect::<io::Result<Vec<_>>>()?;
    pipelining.stream.shutdown(Shutdown::Write)?;
    let more = pipelining.rest()?.len();
    let second_end = server.next_end()?;

    let ends_are_the_clients = first_end == "closed by the peer" && second_end == first_end;
    let holds = in_order(&one_by_one) && in_order(&at_once) && more == 0 && ends_are_the_clients;
    let said = |ids: &[_]| format!("{} acks, in order: {}", ids.len(), in_order(ids));
    Verdict::reproduced_if(holds).measured(values![
        requests = REQUESTS,
        one_by_one = said(&one_by_one),
        at_once = said(&at_once),
        end = second_end
    ])
}
