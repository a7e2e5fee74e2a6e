//! A server of submits: mio, edge-triggered.

use std::io::{self, ErrorKind, Read, Write};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

use crate::linux::servers::session::Session;

const LISTENER: Token = Token(usize::MAX);

pub(crate) fn serve(listener: std::net::TcpListener) -> io::Result<()> {
    let (mut poll, mut events, mut conns) = (Poll::new()?, Events::with_capacity(64), Slab::new());
    let mut listener = TcpListener::from_std(listener);
    poll.registry()
        .register(&mut listener, LISTENER, Interest::READABLE)?;
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((mut stream, _)) = listener.accept() {
                    let slot = conns.vacant_entry();
                    poll.registry().register(
                        &mut stream,
                        Token(slot.key()),
                        Interest::READABLE | Interest::WRITABLE,
                    )?;
                    slot.insert((stream, Session::default()));
                }
                continue;
            }
            let (stream, session) = &mut conns[event.token().0];
            if !resume_connection(stream, session).unwrap_or(false) {
                conns.remove(event.token().0);
            }
        }
    }
}

/// Writes, reads and answers as far as it goes. Says whether the connection stays.
fn resume_connection(stream: &mut TcpStream, session: &mut Session) -> io::Result<bool> {
    let mut buffer = [0; 4096];
    while !session.is_done() && write(stream, session)? {
        match stream.read(&mut buffer) {
            Ok(count) => session.feed(&buffer[..count]), // of nothing: he sends no more
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(!session.is_done())
}

/// Writes what the socket takes. Says whether there is room for more.
fn write(stream: &mut TcpStream, session: &mut Session) -> io::Result<bool> {
    while session.wants_write() {
        match stream.write(session.output()) {
            Ok(count) => session.sent(count),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}
