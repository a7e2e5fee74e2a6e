//! The end of a connection: C62 to C65.

use super::prelude::*;
use bytes::BytesMut;
use glassloop::Codec;
use glassloop::submit::{Ack, ClientCodec, Id, Kind, Request};
use rustix::event::epoll::{self, CreateFlags, EventFlags};

use super::servers::Model;
use super::servers::child::Server;
use super::servers::sys;

pub(crate) const RUNS: &[(&str, Run)] = &[("C62", c62), ("C63", c63), ("C64", c64), ("C65", c65)];

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
    Verdict::Refined.only_if(holds).measured(values![
        all_read = all_read.join(", then "),
        unread = unread.join(", then ")
    ])
}

fn c63(_: Lab) -> io::Result<Outcome> {
    let (client, mut server) = pair()?;
    drop(client);
    let ends = [(); 3].map(|()| result(&server.read(&mut [0; 16])));
    Verdict::reproduced_if(ends.iter().all(|end| end == "0")).measured(values![ends])
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
    Verdict::reproduced_if(answered && writes == ["10", "-1 EPIPE", "-1 EPIPE"])
        .measured(values![end, writes, answered])
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

/// What a client reads that sends a request to the reactor, ends its sending and waits: so many
/// bytes, then the end.
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
    Verdict::Refined.only_if(holds).measured(values![
        answer,
        half = named(half),
        closed = named(closed),
        written = named(written),
        reset = named(reset),
        both = named(both)
    ])
}
