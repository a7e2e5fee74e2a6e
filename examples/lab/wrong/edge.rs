//! A server of submits: mio, edge-triggered. It can make the mistakes w1, w2, w3, w6 and w7.

use std::io::{self, ErrorKind, Read, Write};
use std::sync::atomic::Ordering;

use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

use super::{QUEUED, W1, W2, W3, W6, W7};
use crate::linux::servers::session::Session;

const LISTENER: Token = Token(usize::MAX);
/// Reply bytes that may wait for a client before its requests do.
const LIMIT: usize = 16 * 1024;

pub(super) fn serve<const MISTAKE: u32>(listener: std::net::TcpListener) -> io::Result<()> {
    let (mut poll, mut events, mut conns) = (Poll::new()?, Events::with_capacity(64), Slab::new());
    let mut listener = TcpListener::from_std(listener);
    let both = Interest::READABLE | Interest::WRITABLE;
    poll.registry().register(&mut listener, LISTENER, both)?;
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((mut stream, _)) = listener.accept() {
                    let slot = conns.vacant_entry();
                    poll.registry()
                        .register(&mut stream, Token(slot.key()), both)?;
                    slot.insert((stream, Session::default()));
                }
                continue;
            }
            let (stream, session) = &mut conns[event.token().0];
            if !serve_connection::<MISTAKE>(stream, session).unwrap_or(false) {
                conns.remove(event.token().0);
            }
        }
    }
}

/// Reads, answers and writes as far as possible. Returns whether the connection stays open.
pub(super) fn serve_connection<const MISTAKE: u32>(
    stream: &mut (impl Read + Write),
    session: &mut Session,
) -> io::Result<bool> {
    let mut buffer = [0; 4096];
    while !session.is_done() {
        let is_full = session.output().len() >= LIMIT;
        if MISTAKE != W6 && is_full && !write::<MISTAKE>(stream, session)? {
            break; // read no more while replies wait: now the client has to wait
        }
        match stream.read(&mut buffer) {
            Ok(0) => {
                if MISTAKE == W3 {
                    return Ok(false); // the client is gone
                }
                session.feed(&[]); // the client sends no more, and may still read
                break;
            }
            Ok(count) => session.feed(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
        if MISTAKE == W1 {
            break;
        }
    }
    write::<MISTAKE>(stream, session)?;
    Ok(!session.is_done())
}

/// Writes until the socket would block. Returns whether all was written.
fn write<const MISTAKE: u32>(
    stream: &mut (impl Read + Write),
    session: &mut Session,
) -> io::Result<bool> {
    QUEUED.fetch_max(session.output().len(), Ordering::Relaxed); // for the detector
    if MISTAKE == W7 && session.output().len() < 4096 && session.wants_read() {
        return Ok(true); // a write for each reply is expensive
    }
    if MISTAKE == W2 {
        stream.write_all(session.output())?;
        session.sent(session.output().len());
    } else {
        while session.wants_write() {
            match stream.write(session.output()) {
                Ok(count) => session.sent(count),
                // The rest waits for an event.
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }
    Ok(true)
}
