//! One after the other: a single thread, and blocking calls.
//!
//! ```text
//!   accept ─── waits ──► read ─── waits ──► answer ──► write ─── waits ──► read …until he leaves, then accept
//! ```
//!
//! **Who waits, where:** the only thread, in `read`, for one client. All others wait for that client too.
//!
//! **Price:** none, and no second client. Who connects and says nothing stops the server for everybody; and a refused client that still sends is reset.

use std::io;
use std::net::{TcpListener, TcpStream};

use super::session::Session;
use super::{complain, rest_after, sys};

pub(crate) fn serve(listener: &TcpListener) -> ! {
    loop {
        match sys::accept(listener) {
            Ok(stream) => talk(&stream),
            Err(error) => rest_after(&error),
        }
    }
}

fn talk(stream: &TcpStream) {
    if let Err(error) = handle(stream) {
        complain(format_args!("a connection ended: {error}"));
    }
}

fn handle(stream: &TcpStream) -> io::Result<()> {
    let (mut session, mut buffer) = (Session::default(), [0; 16 * 1024]);
    while !session.is_done() {
        let count = sys::read(stream, &mut buffer)?; // waits
        session.feed(&buffer[..count]);
        while session.wants_write() {
            let count = sys::write(stream, session.output())?; // waits
            session.sent(count);
        }
    }
    Ok(())
}
