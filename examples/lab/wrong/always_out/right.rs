//! A server of submits: epoll, level-triggered.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::Ordering;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use slab::Slab;

use super::WAKE_UPS;
use crate::linux::servers::session::Session;

const LISTENER: EventData = EventData::new_u64(u64::MAX);

pub(crate) fn serve(listener: TcpListener) -> io::Result<()> {
    let (epoll, mut events, mut conns) = (
        epoll::create(CreateFlags::CLOEXEC)?,
        Vec::with_capacity(64),
        Slab::new(),
    );
    epoll::add(&epoll, &listener, LISTENER, EventFlags::IN)?;
    loop {
        events.clear();
        epoll::wait(&epoll, spare_capacity(&mut events), None)?;
        WAKE_UPS.fetch_add(1, Ordering::Relaxed); // for the detector
        for event in &events {
            if event.data.u64() == LISTENER.u64() {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(true)?;
                let slot = conns.vacant_entry();
                epoll::add(
                    &epoll,
                    &stream,
                    EventData::new_u64(slot.key() as u64),
                    EventFlags::IN,
                )?;
                slot.insert((stream, Session::default()));
                continue;
            }
            let key = event.data.u64() as usize;
            let (stream, session) = &mut conns[key];
            if !resume_connection(stream, session).unwrap_or(false) {
                conns.remove(key);
                continue;
            }
            // Room to write is there nearly always. It is asked for while something waits for it.
            let interest = if session.wants_write() {
                EventFlags::IN | EventFlags::OUT
            } else {
                EventFlags::IN
            };
            epoll::modify(&epoll, &*stream, event.data, interest)?;
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

/// Writes what the socket takes. Says whether that was all.
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
