//! The stream, and the protocol upon it: C1 to C7.

use std::hint::black_box;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;

use glassloop::codec::{Input, LengthField, Line};
use glassloop::submit::{Ack, ServerCodec};
use glassloop::{Codec, Config, Context, FrameOf, Handler, Origin};
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use socket2::{Domain, Socket, Type};

use super::claim::{Claim, Lab, Outcome, State, Verdict};
use super::service::{Client, Loop, hex, submit};
use super::tools::{name_of, pair, queues_of, thousands, timed, wait_for};

pub(crate) const CLAIMS: &[Claim] = &[
    Claim {
        id: "C1",
        says: "“TCP是面向连接的流协议…而UDP则提供了一种无需建立连接就可以发送数据包的方法” TCP is a stream upon a connection; UDP sends packets without one",
        asks: "“hello” and “world” are sent with two calls, then read with a large buffer: how many reads does UDP take, and how many TCP?",
        why: "UDP keeps each packet apart: recvfrom(2) takes one, however much room there is. TCP keeps the bytes and their order, and forgets where one write ended (tcp(7)): \
              what has come is read in one piece. And a connection is something both ends know of. Without one, sendto(2) has nobody to ask and succeeds even if \
              nobody listens, as Go's WriteTo and Rust's send_to do; connect(2) needs the other end's answer, and is refused.",
        look: "strace -f -e trace=sendto,recvfrom,connect target/release/examples/lab run C1",
        exercise: "Send two packets by UdpSocket, then two pieces by TcpStream; read each with a buffer of 64 bytes until nothing is left, and print what each read returns.",
        state: State::Runs(c1),
    },
    Claim {
        id: "C2",
        says: "“最常用的传输层暴露给用户的网络编程接口，就是套接字（socket）” What the transport layer shows to programs is the socket",
        asks: "From nothing to one request served and the connection closed: how many different system calls does a server with epoll make?",
        why: "A socket is a number, a file descriptor, and a handful of system calls on it; all that net.Listen, Accept, Read and Write do in Go, or TcpListener and TcpStream in Rust, \
              ends in these. What runs here is each call by hand, in the order in which an event loop makes them, with what it came to. Note the two numbers on either \
              side of accept4(2): the listener stays what it was, and the connection is a descriptor of its own.",
        look: "strace -e trace=network,epoll_create1,epoll_ctl,epoll_pwait,epoll_wait target/release/examples/lab run C2",
        exercise: "With rustix or libc, and without std::net: socket, bind, listen, accept4, recv, send, close. Then find the same calls in strace of the smallest Go server.",
        state: State::Runs(c2),
    },
    Claim {
        id: "C3",
        says: "“数据流本身没有明显的边界” The stream itself has no boundaries",
        asks: "Three frames are sent with one write; then one frame of 27 bytes with 27 writes. How many reads does it take to see them?",
        why: "One read(2) may bring three frames or a 27th part of one: how the bytes were written decides nothing, only what is in the receive buffer when read is called. \
              So a reader may never take what one read returned for a message. It collects bytes, and looks for the end of a frame in them; here the codec does, which finds three frames, and one.",
        look: "strace -f -e trace=sendto,recvfrom target/release/examples/lab run C3",
        exercise: "Write a reader that prints a message for each read, and a client that sends 3 messages at once and then one in two pieces with a pause. Then repair the reader.",
        state: State::Runs(c3),
    },
    Claim {
        id: "C4",
        says: "“二进制模式：采用长度字段…文本模式：采用特定分隔符” Two ways to draw boundaries: a length in front (MQTT, SMPP), a delimiter behind (HTTP)",
        asks: "One of the two can carry a message with a line break in it, the other cannot. Which?",
        why: "Here they are two values of one trait, Codec, under one and the same echo server, which does not notice the difference. A length says where the frame ends before it has \
              come, so the payload may be anything, and memory can be checked beforehand. A delimiter must be searched for, and must not occur inside: such a message \
              has to be escaped or, as here, refused. HTTP in truth has both: lines for its head, Content-Length for its body.",
        look: "strace -f -e trace=sendto,recvfrom -x target/release/examples/lab run C4",
        exercise: "Implement glassloop::Codec for netstrings (5:hello,), which have both a length and a mark, and let the echo server of the README speak it.",
        state: State::Runs(c4),
    },
    Claim {
        id: "C5",
        says: "“二进制模式要比文本模式编码更紧凑也更高效” Binary is more compact than text, and more efficient",
        asks: "A submit with the payload hello has 18 bytes in the lesson's protocol. Is there a text form that is shorter?",
        why: "Against words and HTTP headers it is true. But fields of fixed width are not short by themselves: four bytes of length and eight of ID are there however small the numbers are, \
              while text writes only the digits that it needs. What binary really saves is the searching: the end of the frame and of each field is known \
              beforehand. Both are a few hundred nanoseconds at most; a system call costs as much or more, so E5 and E6 matter sooner.",
        look: "printf 'submit 00000001 hello\\n' | wc -c; printf '2 1 hello\\n' | wc -c; target/release/examples/lab run C5",
        exercise: "Write the parser of the short text form. Which inputs must it refuse that the binary one cannot even be sent?",
        state: State::Runs(c5),
    },
    Claim {
        id: "C6",
        says: "The figure of the protocol. Request: totalLength, commandID, ID, payload. Ack: totalLength, commandID, ID, result",
        asks: "How long is the answer to a request with 14 bytes of payload?",
        why: "4 bytes of length, big-endian and counting themselves, 1 of command, 8 of ID make 13; a request goes on with its payload, an ack with one byte of result. So a request has 13 bytes \
              and its payload, and each ack has 14, whatever was asked. In Go binary.BigEndian.Uint32 reads the length, in Rust u32::from_be_bytes.",
        look: "strace -f -x -s 64 -e trace=sendto,recvfrom target/release/examples/lab run C6",
        exercise: "Send a request from a shell: printf '\\0\\0\\0\\022\\00200000001hello' | nc -q1 127.0.0.1 8888 | xxd, with the example server running.",
        state: State::Runs(c6),
    },
    Claim {
        id: "C7",
        says: "“一个请求一个响应的进行下去，直到客户端主动断开连接” One request, one response, until the client closes",
        asks: "A client sends 100 requests before it reads anything: how many acks will it get, and in which order?",
        why: "The server takes frames from the stream one after the other and queues an ack for each, so the order is the stream's own; whether the client waits in between makes no difference to it. \
              That is called pipelining, and the ID is what makes it safe to use. The end is the client's: close(2) sends a FIN, the server reads 0 bytes \
              (io.EOF in Go, Ok(0) in Rust), and closes its own end.",
        look: "strace -f -e trace=sendto,recvfrom,shutdown,close target/release/examples/lab run C7",
        exercise: "Let a client send 100 submits at once, then read the acks and check their IDs; compare the time with 100 times send and wait.",
        state: State::Runs(c7),
    },
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
    Ok(Outcome::new(Verdict::reproduced_if(holds))
        .with("sent, twice each", "5 bytes")
        .with(
            "UDP",
            format!("2 reads: {} and {} bytes", packets[0], packets[1]),
        )
        .with("TCP", format!("1 read: {stream} bytes"))
        .with("UDP to a port where nobody is", format!("sendto = {sent}"))
        .with(
            "TCP to a port where nobody is",
            format!("connect = -1 {refused}"),
        ))
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
    let mut outcome =
        Outcome::new(Verdict::reproduced_if(holds)).with("different calls", different.len());
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
    Ok(Outcome::new(Verdict::reproduced_if(holds))
        .with(
            "3 frames, one write",
            format!("1 read of {at_once} bytes: {three} frames"),
        )
        .with(
            "1 frame, 27 writes",
            format!(
                "{reads} reads of 1 byte each: {} frame, none before the last byte",
                seen[26]
            ),
        ))
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
    Ok(Outcome::new(Verdict::reproduced_if(
        binary && text && with_break.is_ok() && refused.is_err(),
    ))
    .with(
        "3 messages with lengths",
        format!(
            "{}: echoed, at once and byte by byte: {binary}",
            hex(&by_length)
        ),
    )
    .with(
        "3 messages with marks",
        format!(
            "{}: echoed, at once and byte by byte: {text}",
            by_line.escape_ascii()
        ),
    )
    .with(
        "a line break inside, with a length",
        with_break.map_or_else(|error| error, |bytes| hex(&bytes)),
    )
    .with(
        "a line break inside, with a mark",
        refused.map_or_else(|error| error, |bytes| hex(&bytes)),
    ))
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
    Ok(
        Outcome::new(Verdict::Refined.only_if(shorter && not_shortest && parsed))
            .with(
                "binary",
                format!(
                    "{} bytes, parsed in {:.0} ns",
                    binary.len(),
                    nanos(parse_binary)
                ),
            )
            .with(
                "words, “submit 00000001 hello”",
                format!(
                    "{} bytes, parsed in {:.0} ns",
                    words.len(),
                    nanos(parse_words)
                ),
            )
            .with("an HTTP request", format!("{} bytes", http.len()))
            .with("short text, “2 1 hello”", format!("{} bytes", short.len()))
            .note(
                "The times are this machine's, and this build's; the verdict is about the bytes.",
            ),
    )
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
    let mut outcome = Outcome::new(Verdict::reproduced_if(holds && same));
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
    Ok(Outcome::new(Verdict::reproduced_if(holds))
        .with("requests", thousands(REQUESTS as usize))
        .with("each after the ack of the one before", said(&one_by_one))
        .with("all at once", said(&at_once))
        .with("both connections ended", second_end))
}
