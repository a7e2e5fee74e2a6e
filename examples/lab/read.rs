//! Reading from a socket: C41 to C48. The deadlines are in `read_deadlines.rs`.

use std::ops::Deref;

use rustix::event::epoll::{self, CreateFlags, EventFlags};

use super::prelude::*;
use super::servers::sys::{self, Call};
use super::servers::{Model, child::Server};
use super::whereabouts::is_asleep;

pub(crate) const RUNS: Runs = runs! { c41 c42 c43 c44 };

/// A type around another one, as Go's `TCPConn` is around `conn`.
struct Conn(TcpStream);

impl Deref for Conn {
    type Target = TcpStream;

    fn deref(&self) -> &TcpStream {
        &self.0
    }
}

fn c41(_: Lab) -> io::Result<Outcome> {
    fn four(mut from: impl Read) -> io::Result<String> {
        let mut bytes = [0; 4];
        from.read_exact(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
    let (mut client, server) = pair()?;
    client.write_all(b"one two six ten ")?;
    let clones = [server.try_clone()?, server.try_clone()?];
    let conn = Conn(server);
    let by_reference = four(&conn.0)?;
    let by_deref = four(&*conn)?;
    has_come(&conn, 8); // mio's read does not wait
    let [for_mio, for_socket2] = clones;
    let by_socket2 = four(socket2::Socket::from(for_socket2))?;
    conn.set_nonblocking(true)?;
    let by_mio = four(mio::net::TcpStream::from_std(for_mio))?;
    let shares = [by_reference, by_deref, by_socket2, by_mio];
    let in_order = shares.concat() == "one two six ten ";
    Verdict::reproduced_if(in_order).measured(values![shares])
}

/// A submit and its ack.
fn ask(mut server: &TcpStream) -> io::Result<()> {
    server.write_all(b"\0\0\0\x0d\x0200000001")?;
    server.read_exact(&mut [0; 14])
}

fn c42(_: Lab) -> io::Result<Outcome> {
    let silence = Duration::from_millis(300);
    let (mut client, server) = pair()?;
    let mut netpoll = Server::start(Model::Netpoll)?;
    let task = connected(netpoll.addr, 0, 0)?;
    ask(&task)?; // its task runs, and is parked again
    let mut before = netpoll.calls()?;
    // The loop reports its calls at the end of a turn, after the client's reply.
    wait_for(|| {
        netpoll.calls().is_ok_and(|calls| {
            calls[Call::Read as usize] > 0 && calls == std::mem::replace(&mut before, calls)
        })
    });

    let reader = Watched::spawn(move || timed(|| (&server).read(&mut [0; 10])))?;
    let mut asleep = wait_for(|| is_asleep(reader.id));
    let (_peer, unread) = pair()?;
    unread.set_nonblocking(true)?;
    let reads = (0..10).map(|_| timed(|| (&unread).read(&mut [0; 10])));
    let (shortest, tried) = reads.min_by_key(|(took, _)| *took).expect("ten");
    thread::sleep(silence);
    asleep &= is_asleep(reader.id);
    let (after, threads) = (netpoll.calls()?, netpoll.usage()?.threads);
    client.write_all(b"hi")?;
    let (blocked, read) = reader.join()?;
    ask(&task)?;

    let blocks = asleep && blocked >= silence && is_count(&read, 2);
    let returns = is_eagain(&tried) && shortest < silence;
    let made = after.iter().sum::<u64>() - before.iter().sum::<u64>();
    let values = values![
        silence, read, blocked, asleep, tried, shortest, made, threads
    ];
    Verdict::reproduced_if(blocks && returns && made == 0 && threads == 1).measured(values)
}

fn c43(_: Lab) -> io::Result<Outcome> {
    let (mut client, mut server) = pair()?;
    client.write_all(b"hi")?;
    let mut buffer = [0; 10];
    let count = server.read(&mut buffer)?;
    Verdict::reproduced_if(count == 2).measured(values![count])
}

/// One read of 10 bytes for each wait that reports an event: three with 100 bytes there, one more
/// when another byte has come. Returns the events of each wait.
fn reports(interest: EventFlags) -> io::Result<[usize; 4]> {
    let (mut client, mut server) = pair()?;
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    sys::epoll_add(&epoll, &server, 0, interest)?;
    let (mut reported, mut left) = ([0; 4], 0);
    for (number, reported) in reported.iter_mut().enumerate() {
        let come = [100, 0, 0, 1][number];
        client.write_all(&[0; 100][..come])?;
        left += come;
        has_come(&server, left);
        *reported = sys::epoll_wait(&epoll, &mut Vec::with_capacity(4), false)?;
        if *reported > 0 {
            left -= server.read(&mut [0; 10])?;
        }
    }
    Ok(reported)
}

fn c44(_: Lab) -> io::Result<Outcome> {
    let (mut client, mut server) = pair()?;
    client.write_all(&[0; 15])?;
    has_come(&server, 15);
    let mut read = || server.read(&mut [0; 10]);
    let (first, second) = (read()?, read()?);
    let level = reports(EventFlags::IN)?;
    let edge = reports(EventFlags::IN | EventFlags::ET)?;
    let as_known = (first, second) == (10, 5) && level == [1, 1, 1, 1] && edge == [1, 0, 0, 1];
    Verdict::reproduced_if(as_known).measured(values![first, second, level, edge])
}
