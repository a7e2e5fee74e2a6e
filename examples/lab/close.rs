//! The end of a connection: C62 to C65.

use glassloop::submit::Ack;
use rustix::event::epoll::{self, CreateFlags, EventFlags};

use super::prelude::*;
use super::servers::Model;
use super::servers::child::Server;
use super::servers::sys;
use super::service::{Client, submit};

pub(crate) const RUNS: &[(&str, Run)] = &[("C62", c62), ("C63", c63), ("C64", c64), ("C65", c65)];

/// The results of reads until the end or an error: `"bye"`, then `0`, say.
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
    has_come(&client, 5);
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

/// What epoll reports of a socket now, with interest in reading, writing and the peer's end.
fn events_of(stream: &TcpStream) -> io::Result<EventFlags> {
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    sys::epoll_add(&epoll, stream, 0, HALF)?;
    let mut events = Vec::with_capacity(1);
    sys::epoll_wait(&epoll, &mut events, false)?;
    Ok(events
        .first()
        .map_or(EventFlags::empty(), |event| event.flags))
}

/// What epoll reports of the server's end after this, as soon as `sign` is part of it.
fn events_after(
    sign: EventFlags,
    act: impl FnOnce(TcpStream, &mut TcpStream) -> io::Result<Option<TcpStream>>,
) -> io::Result<EventFlags> {
    let (client, mut server) = pair()?;
    let _client = act(client, &mut server)?; // a client that is still open stays so until here
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

const HALF: EventFlags = EventFlags::IN
    .union(EventFlags::OUT)
    .union(EventFlags::RDHUP);

fn c65(_: Lab) -> io::Result<Outcome> {
    let gone = HALF | EventFlags::ERR | EventFlags::HUP;
    // A client sends a request, ends its sending and waits: what it reads up to the end.
    let server = Server::start(Model::Reactor)?;
    let mut client = Client::connect(server.addr)?;
    client.send(&submit(1, b"hello"))?;
    let answer = client.rest()?.len();

    let half = events_after(EventFlags::RDHUP, |client, _| {
        client.shutdown(Shutdown::Write).map(|()| Some(client))
    })?;
    let closed = events_after(EventFlags::RDHUP, |_closed, _| Ok(None))?;
    let both = events_after(EventFlags::HUP, |client, server| {
        client.shutdown(Shutdown::Write)?;
        server.shutdown(Shutdown::Write).map(|()| Some(client))
    })?;
    let written = events_after(EventFlags::ERR, |client, server| {
        drop(client);
        server.write(b"x").map(|_| None)
    })?;
    let reset = events_after(EventFlags::ERR, |client, _| reset(client).map(|()| None))?;
    let events = [half, closed, both, written, reset];
    let holds = answer == Ack::LEN && events == [HALF, HALF, HALF | EventFlags::HUP, gone, gone];
    let [half, closed, both, written, reset] = events.map(named);
    let values = values![answer, half, closed, written, reset, both];
    Verdict::Refined.only_if(holds).measured(values)
}
