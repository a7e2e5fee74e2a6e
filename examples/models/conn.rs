//! One non-blocking connection. The servers that wait for many sockets at once share it.

use std::io::{self, ErrorKind};
use std::net::{TcpListener, TcpStream};

use super::session::Session;
use super::{back_off_after, log, sys};

/// A connection: a non-blocking socket and its protocol state.
pub(crate) struct Conn {
    pub(crate) stream: TcpStream,
    pub(crate) session: Session,
}

/// The result of one non-blocking step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Bytes were read or written. Another step may move more.
    Moved,
    /// Nothing to read, no room to write, or the session does not want this step now.
    Blocked,
    /// The conversation is finished, or the connection failed: drop it.
    Closed,
}

impl Conn {
    /// Calls `read` once, unless the session takes no more, and queues the replies.
    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> Step {
        if !self.session.wants_read() {
            return Step::Blocked;
        }
        let read = sys::read(&self.stream, buffer);
        self.after(read, |session, count| session.feed(&buffer[..count]))
    }

    /// Calls `write` once, if there are queued replies.
    pub(crate) fn transmit(&mut self) -> Step {
        if !self.session.wants_write() {
            return Step::Blocked;
        }
        let written = sys::write(&self.stream, self.session.output());
        self.after(written, Session::sent)
    }

    /// Reads once, then writes the replies without waiting for an event that the socket is
    /// writable: the kernel's send buffer usually has room.
    pub(crate) fn receive_and_transmit(&mut self, buffer: &mut [u8]) -> Step {
        match self.receive(buffer) {
            Step::Moved if self.session.wants_write() => self.transmit(),
            step => step,
        }
    }

    /// Applies the result of a call to the session.
    fn after(
        &mut self,
        result: io::Result<usize>,
        apply: impl FnOnce(&mut Session, usize),
    ) -> Step {
        match result {
            Ok(count) => apply(&mut self.session, count),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Step::Blocked,
            Err(error) => {
                log(format_args!("connection closed: {error}"));
                return Step::Closed;
            }
        }
        if self.session.is_done() {
            Step::Closed
        } else {
            Step::Moved
        }
    }
}

/// Accepts a connection from a non-blocking listener. Returns `None` if none is in the backlog, or
/// on an error, after a pause.
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
            back_off_after(&error);
            None
        }
    }
}
