//! What the servers that wait elsewhere do with one connection: a step that never waits.

use std::io::{self, ErrorKind};
use std::net::{TcpListener, TcpStream};

use super::session::Session;
use super::{complain, rest_after, sys};

/// A connection: a non-blocking socket, and how far the conversation is.
pub(crate) struct Conn {
    pub(crate) stream: TcpStream,
    pub(crate) session: Session,
}

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Something was moved: another step may move more.
    Moved,
    /// Nothing to be read, no room to write, or not wanted: it is to be waited for.
    Blocked,
    /// All is said, or the connection is broken: drop it.
    Over,
}

impl Conn {
    /// One `read`, if more can be taken, and the answers to what it brought.
    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> Step {
        if !self.session.wants_read() {
            return Step::Blocked;
        }
        let read = sys::read(&self.stream, buffer);
        self.after(read, |session, count| session.feed(&buffer[..count]))
    }

    /// One `write`, if something is to be sent.
    pub(crate) fn transmit(&mut self) -> Step {
        if !self.session.wants_write() {
            return Step::Blocked;
        }
        let written = sys::write(&self.stream, self.session.output());
        self.after(written, Session::sent)
    }

    /// Reads once and answers at once: on most days the kernel has room for an answer, and nobody need wait to hear so.
    pub(crate) fn receive_and_transmit(&mut self, buffer: &mut [u8]) -> Step {
        match self.receive(buffer) {
            Step::Moved if self.session.wants_write() => self.transmit(),
            step => step,
        }
    }

    fn after(&mut self, result: io::Result<usize>, then: impl FnOnce(&mut Session, usize)) -> Step {
        match result {
            Ok(count) => then(&mut self.session, count),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Step::Blocked,
            Err(error) => {
                complain(format_args!("a connection ended: {error}"));
                return Step::Over;
            }
        }
        if self.session.is_done() {
            Step::Over
        } else {
            Step::Moved
        }
    }
}

/// Whoever waits at a non-blocking listener; `None`: nobody does.
pub(crate) fn accept(listener: &TcpListener) -> Option<Conn> {
    let accepted = sys::accept(listener).and_then(|stream| {
        stream.set_nonblocking(true)?;
        Ok(stream)
    });
    match accepted {
        Ok(stream) => Some(Conn {
            stream,
            session: Session::default(),
        }),
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        Err(error) => {
            rest_after(&error);
            None
        }
    }
}
