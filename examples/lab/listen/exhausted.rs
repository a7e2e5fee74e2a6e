//! Three servers without free descriptors, for C26. Each is a process that accepts clients as long
//! as it can, and greets them.

use std::sync::atomic::{AtomicU64, Ordering};

use glassloop::{Config, Reactor, Turn};
use rustix::event::{PollFd, PollFlags};
use socket2::SockRef;

use super::super::lines::Lines;
use super::super::parts::Part;
use super::super::prelude::*;

pub(super) const PARTS: &[(&str, Part)] = &[
    ("accept-or-break", accept_or_break),
    ("accept-or-spin", accept_or_spin),
    ("accept-or-rest", accept_or_rest),
];

/// How many descriptors each may have.
pub(super) const DESCRIPTORS: u64 = 32;

const HELLO: &[u8] = b"hello\n";

/// The lesson's server.
fn accept_or_break(_: &[String]) -> io::Result<()> {
    let listener = listen_with_few_descriptors()?;
    SockRef::from(&listener).set_read_timeout(Some(PATIENCE))?; // without a client it must end, too
    for count in 0.. {
        match listener.accept() {
            Ok((stream, _)) => drop(thread::spawn(move || handle(stream))),
            Err(error) => {
                println!("{count} accepted, then -1 {}", name_of(&error));
                break;
            }
        }
    }
    Ok(()) // and the process ends, with all of its threads
}

fn handle(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(HELLO)?;
    while stream.read(&mut [0; 64])? > 0 {}
    Ok(())
}

static FAILED: AtomicU64 = AtomicU64::new(0);

/// A level-triggered loop that ignores a failed accept.
fn accept_or_spin(_: &[String]) -> io::Result<()> {
    let (listener, mut clients) = (listen_with_few_descriptors()?, Vec::new());
    listener.set_nonblocking(true)?;
    print_failures();
    loop {
        // Does not wait: a connection is still in the queue.
        rustix::event::poll(&mut [PollFd::new(&listener, PollFlags::IN)], None)?;
        match listener.accept() {
            Ok((mut stream, _)) => {
                stream.write_all(HELLO)?;
                clients.push(stream);
            }
            Err(_) => _ = FAILED.fetch_add(1, Ordering::Relaxed),
        }
    }
}

/// The reactor, with a limit of connections that it does not reach.
fn accept_or_rest(_: &[String]) -> io::Result<()> {
    let config = Config {
        max_connections: Some(1000),
        ..Config::default()
    };
    let service = Lines {
        on_open: |_, cx| cx.send(&b"hello"[..]),
        ..Lines::new(())
    };
    let mut reactor = Reactor::new(service, config)?;
    reactor.listen_on(listen_with_few_descriptors()?)?;
    print_failures();
    while reactor.turn(None)? == Turn::Running {
        FAILED.store(reactor.counters().accept_errors, Ordering::Relaxed);
    }
    Ok(())
}

/// Prints where it listens.
fn listen_with_few_descriptors() -> io::Result<TcpListener> {
    rlimit::Resource::NOFILE.set(DESCRIPTORS, DESCRIPTORS)?;
    let listener = listen()?;
    println!("{}", listener.local_addr()?);
    Ok(listener)
}

/// Prints for each line of input how many accepts have failed.
fn print_failures() {
    thread::spawn(|| {
        io::stdin()
            .lines()
            .map_while(Result::ok)
            .for_each(|_| println!("{}", FAILED.load(Ordering::Relaxed)));
    });
}
