//! A server of submits: mio, edge-triggered.

use std::io::{self, ErrorKind, Read, Write};
use std::sync::atomic::Ordering;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

use super::QUEUED;
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

/// Reads all that is there, answers it and writes. Says whether the connection stays.
fn resume_connection(stream: &mut TcpStream, session: &mut Session) -> io::Result<bool> {
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => {
                session.feed(&[]);
                break;
            }
            Ok(count) => session.feed(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    write(stream, session)?;
    Ok(!session.is_done())
}

/// Writes what the socket takes. Says whether that was all.
fn write(stream: &mut TcpStream, session: &mut Session) -> io::Result<bool> {
    QUEUED.fetch_max(session.output().len(), Ordering::Relaxed); // for the detector
    while session.wants_write() {
        match stream.write(session.output()) {
            Ok(count) => session.sent(count),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}
