//! Three servers that have run out of descriptors, for C26: each a process of its own that lets in whom it can and greets him.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use glassloop::codec::Line;
use glassloop::{Config, Context, Handler, Origin, Reactor, Turn, Verdict};
use rustix::event::{PollFd, PollFlags};
use socket2::SockRef;

use super::super::parts::Part;
use super::super::tools::{PATIENCE, listen, name_of};

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
    SockRef::from(&listener).set_read_timeout(Some(PATIENCE))?; // should nobody come, the experiment is not to stand still
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

/// A level-triggered loop that takes a failed accept for nothing.
fn accept_or_spin(_: &[String]) -> io::Result<()> {
    let (listener, mut clients) = (listen_with_few_descriptors()?, Vec::new());
    listener.set_nonblocking(true)?;
    tell_failures();
    loop {
        rustix::event::poll(&mut [PollFd::new(&listener, PollFlags::IN)], None)?; // does not wait: somebody is still there
        match listener.accept() {
            Ok((mut stream, _)) => {
                stream.write_all(HELLO)?;
                clients.push(stream);
            }
            Err(_) => _ = FAILED.fetch_add(1, Ordering::Relaxed),
        }
    }
}

/// The reactor, told that it may have as many connections as it likes.
fn accept_or_rest(_: &[String]) -> io::Result<()> {
    let config = Config {
        max_connections: Some(1000),
        ..Config::default()
    };
    let mut reactor = Reactor::new(Greeter, config).map_err(io::Error::other)?;
    reactor
        .listen_on(listen_with_few_descriptors()?)
        .map_err(io::Error::other)?;
    tell_failures();
    while reactor.turn(None).map_err(io::Error::other)? == Turn::Running {
        FAILED.store(reactor.counters().accept_errors, Ordering::Relaxed);
    }
    Ok(())
}

struct Greeter;

impl Handler for Greeter {
    type Codec = Line;
    type State = ();
    type Mail = ();

    fn connection(&mut self, _: &Origin) -> (Line, ()) {
        (Line::default(), ())
    }

    fn open(&mut self, cx: &mut Context<'_, Self>) -> Verdict {
        cx.send(&b"hello"[..]);
        Verdict::Continue
    }

    fn frame(&mut self, _: &[u8], _: &mut Context<'_, Self>) -> Verdict {
        Verdict::Continue
    }
}

/// Says where it listens.
fn listen_with_few_descriptors() -> io::Result<TcpListener> {
    rlimit::Resource::NOFILE.set(DESCRIPTORS, DESCRIPTORS)?;
    let listener = listen()?;
    println!("{}", listener.local_addr()?);
    Ok(listener)
}

/// Says for each line that comes in how many accepts have failed.
fn tell_failures() {
    thread::spawn(|| {
        io::stdin()
            .lines()
            .map_while(Result::ok)
            .for_each(|_| println!("{}", FAILED.load(Ordering::Relaxed)));
    });
}
