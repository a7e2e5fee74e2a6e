//! The end of a connection: C62 to C65.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};

use bytes::BytesMut;
use glassloop::Codec;
use glassloop::submit::{Ack, ClientCodec, Id, Kind, Request};
use rustix::event::epoll::{self, CreateFlags, EventFlags};

use super::claim::{Claim, Lab, Outcome, State, Verdict};
use super::servers::Model;
use super::servers::child::Server;
use super::servers::sys;
use super::tools::{PATIENCE, pair, queues_of, reset, result, wait_for};

pub(crate) const CLAIMS: &[Claim] = &[
    Claim {
        id: "C62",
        says: "“服务端的Read会成功将剩余数据读取出来，最后一次Read操作将得到io.EOF错误码” A peer that closes behind unread data: Read still gets the data, then the end",
        asks: "The client sends \"bye\" and closes. What do the server's two reads return? And what do they return if the client had 5 bytes of the server's unread when it closed?",
        why: "close(2) queues a FIN behind the data, and the reader finds both in order: that is the lesson's case. But a close that throws away what had come unread \
              must not look like a good end, since the peer would take its bytes for read. So Linux answers it with a reset at once (RFC 2525, 2.17; tcp_close): \
              the peer still reads what it had received, and then ECONNRESET in place of the end. Worse, on a real network a reset may overtake what is still under way. \
              So a server that wants its last reply to be read shuts down its sending side, reads until the end, and closes then.",
        look: "strace -f -e trace=sendto,recvfrom,close target/release/examples/lab run C62",
        exercise: "Send \"bye\" from the client and drop it; read twice at the server. Then let the server send 5 bytes first that the client never reads.",
        state: State::Runs(c62),
    },
    Claim {
        id: "C63",
        says: "“如果是在“无数据关闭”情形下，服务端调用的Read方法将直接返回io.EOF” A peer that closes with nothing unread: Read returns the end at once",
        asks: "The client closes without having sent anything. What does read return: now, and when asked again?",
        why: "The end is not a message that is used up. It is a state of the socket: read(2) returns 0 as often as it is asked. Go makes io.EOF of the 0, Rust leaves it \
              Ok(0). That is why who takes 0 for \"nothing there\" and asks again goes round for ever.",
        look: "strace -f -e trace=recvfrom,close target/release/examples/lab run C63",
        exercise: "Drop the client and read three times at the server.",
        state: State::Runs(c63),
    },
    Claim {
        id: "C64",
        says: "“服务端向Socket的写入操作依然可能会成功，因为数据会成功写入己方的内核socket缓冲区中” After the peer has closed, a write may still succeed: it only goes into one's own buffer",
        asks: "The client has closed, and the server has read the end. It writes 10 bytes three times, with time between the writes. What do they return?",
        why: "A FIN says only: I send no more. Whether he still reads, it does not say, so the first write is taken. The bytes then meet a socket that is gone, and its kernel \
              answers with a reset. From then on this end knows, and every write fails with EPIPE. (With SIGPIPE, too, which ends a C program. Rust's runtime ignores the signal, \
              and Go does for sockets.) So a write that succeeded says nothing about the peer, and an error belongs to some write before it.",
        look: "strace -f -e trace=sendto,epoll_wait,epoll_pwait target/release/examples/lab run C64",
        exercise: "Drop the client, then write three times at the server with 10 ms between, and print each result.",
        state: State::Runs(c64),
    },
    Claim {
        id: "C65",
        says: "“当发现对方socket关闭后，己方应该正确合理处理自己的socket，再继续write已经没有任何意义了” Who finds that the peer has closed cleans up; to go on writing is pointless",
        asks: "A client sends a request, ends its sending with shutdown(SHUT_WR), and waits. Does epoll tell the server whether that client has closed or still reads?",
        why: "Read's 0 means that the peer sends no more, and not that it is gone. shutdown(2) and close(2) send the same FIN, and epoll says the same of both: IN|OUT|RDHUP. \
              A client that asks, shuts down and waits for its answers (`nc -N` does so) gets them only if the server writes on. So queued replies go out first, \
              and then one closes. When it really is pointless, a write finds out (EPIPE), or the reset does (ERR|HUP).",
        look: "strace -f -e trace=shutdown,epoll_wait,epoll_pwait target/release/examples/lab run C65 2>&1 | grep 'shutdown\\|RDHUP'",
        exercise: "Send a request to the server in this crate, call shutdown(Shutdown::Write), and read: the ack comes, then the end. Then look at the events of epoll \
                   for a shutdown, a close and a reset.",
        state: State::Runs(c65),
    },
];

/// What reads come to until the end or an error: `"bye"`, then `0`, say.
fn reads(mut stream: &TcpStream) -> Vec<String> {
    let mut came = Vec::new();
    loop {
        let mut buffer = [0; 16];
        match stream.read(&mut buffer) {
            Ok(count @ 1..) => {
                came.push(format!("{:?}", String::from_utf8_lossy(&buffer[..count])));
            }
            end => {
                came.push(result(&end));
                return came;
            }
        }
    }
}

fn c62(_: Lab) -> io::Result<Outcome> {
    let (mut client, server) = pair()?;
    client.write_all(b"bye")?;
    drop(client);
    let all_read = reads(&server);

    let (mut client, mut server) = pair()?;
    server.write_all(b"hello")?;
    if !wait_for(|| queues_of(&client).is_ok_and(|queues| queues.received == 5)) {
        return Err(io::Error::other("the client did not get what was sent"));
    }
    client.write_all(b"bye")?;
    drop(client); // with "hello" unread
    let unread = reads(&server);
    let holds = all_read == ["\"bye\"", "0"] && unread == ["\"bye\"", "-1 ECONNRESET"];
    Ok(Outcome::new(Verdict::Refined.only_if(holds))
        .with(
            "the client sends \"bye\" and closes",
            format!("the server reads {}", all_read.join(", then ")),
        )
        .with(
            "the same, with 5 bytes of the server's unread",
            format!("the server reads {}", unread.join(", then ")),
        ))
}

fn c63(_: Lab) -> io::Result<Outcome> {
    let (client, mut server) = pair()?;
    drop(client);
    let ends = [(); 3].map(|()| result(&server.read(&mut [0; 16])));
    Ok(
        Outcome::new(Verdict::reproduced_if(ends.iter().all(|end| end == "0")))
            .with("three reads", ends.join(", ")),
    )
}

fn c64(_: Lab) -> io::Result<Outcome> {
    let (client, mut server) = pair()?;
    drop(client);
    let end = server.read(&mut [0; 16]);
    let first = server.write(&[b'x'; 10]);
    let answered =
        wait_for(|| events_of(&server).is_ok_and(|events| events.contains(EventFlags::HUP)));
    let others = [(); 2].map(|()| server.write(&[b'x'; 10]));
    let writes = [&first, &others[0], &others[1]].map(result);
    Ok(Outcome::new(Verdict::reproduced_if(
        answered && writes == ["10", "-1 EPIPE", "-1 EPIPE"],
    ))
    .with("read, after the client's close", result(&end))
    .with("three writes of 10 bytes", writes.join(", "))
    .with(
        "the reset came",
        format!(
            "{} the second write",
            if answered { "before" } else { "not before" }
        ),
    ))
}

/// What epoll says of a socket now, to one who asks for reading, writing and the peer's end.
fn events_of(stream: &TcpStream) -> io::Result<EventFlags> {
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    sys::epoll_add(
        &epoll,
        stream,
        0,
        EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP,
    )?;
    let mut events = Vec::with_capacity(1);
    sys::epoll_wait(&epoll, &mut events, false)?;
    Ok(events
        .first()
        .map_or(EventFlags::empty(), |event| event.flags))
}

/// What epoll says of the server's end after this was done, as soon as `sign` is among it.
fn events_after(
    sign: EventFlags,
    act: impl FnOnce(TcpStream, &mut TcpStream) -> io::Result<Option<TcpStream>>,
) -> io::Result<EventFlags> {
    let (client, mut server) = pair()?;
    let _client = act(client, &mut server)?; // if it is still there, it lives until epoll was asked
    let mut events = EventFlags::empty();
    wait_for(|| {
        events = events_of(&server).unwrap_or(EventFlags::empty());
        events.contains(sign)
    });
    Ok(events)
}

/// Events as a number and as names: `0x2005 = IN|OUT|RDHUP`.
fn named(events: EventFlags) -> String {
    let names: Vec<_> = events.iter_names().map(|(name, _)| name).collect();
    format!("{:#x} = {}", events.bits(), names.join("|"))
}

/// What a client reads that sends a request to the reactor, ends its sending and waits: so many bytes, then the end.
fn half_closed_client_reads() -> io::Result<usize> {
    let server = Server::start(Model::Reactor)?;
    let mut client = TcpStream::connect(server.addr)?;
    client.set_read_timeout(Some(PATIENCE))?;
    let mut request = BytesMut::new();
    ClientCodec::default()
        .encode(
            Request {
                kind: Kind::Submit,
                id: Id::nth(1),
                payload: b"hello",
            },
            &mut request,
        )
        .map_err(io::Error::other)?;
    client.write_all(&request)?;
    client.shutdown(Shutdown::Write)?;
    client.read_to_end(&mut Vec::new())
}

fn c65(_: Lab) -> io::Result<Outcome> {
    const HALF: EventFlags = EventFlags::IN
        .union(EventFlags::OUT)
        .union(EventFlags::RDHUP);
    let gone = HALF | EventFlags::ERR | EventFlags::HUP;
    let answer = half_closed_client_reads()?;
    let half = events_after(EventFlags::RDHUP, |client, _| {
        client.shutdown(Shutdown::Write).map(|()| Some(client))
    })?;
    let closed = events_after(EventFlags::RDHUP, |client, _| {
        drop(client);
        Ok(None)
    })?;
    let both = events_after(EventFlags::HUP, |client, server| {
        client.shutdown(Shutdown::Write)?;
        server.shutdown(Shutdown::Write).map(|()| Some(client))
    })?;
    let written = events_after(EventFlags::ERR, |client, server| {
        drop(client);
        server.write(b"x").map(|_| None)
    })?;
    let reset = events_after(EventFlags::ERR, |client, _| reset(client).map(|()| None))?;
    let holds = answer == Ack::LEN
        && [half, closed, both, written, reset] == [HALF, HALF, HALF | EventFlags::HUP, gone, gone];
    Ok(Outcome::new(Verdict::Refined.only_if(holds))
        .with(
            "a client that asks, ends its sending and waits gets",
            format!("{answer} bytes, then the end"),
        )
        .with("epoll, after its shutdown(SHUT_WR)", named(half))
        .with("epoll, after its close", named(closed))
        .with("epoll, after its close and a write of ours", named(written))
        .with("epoll, after a reset", named(reset))
        .with("epoll, after both ends' shutdown(SHUT_WR)", named(both)))
}
