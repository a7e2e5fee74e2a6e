//! One after the other: a single thread, and blocking calls.
//!
//! ```text
//!   accept ─── waits ──► read ─── waits ──► answer ──► write ─── waits ──► read …until he leaves, then accept
//! ```
//!
//! **Who waits, where:** the only thread, in `read`, for one client. All others wait for that client too.
//!
//! **Price:** none, and no second client. Who connects and says nothing stops the server for everybody.

use std::io;
use std::net::{TcpListener, TcpStream};

use super::session::Session;
use super::sys;

pub(crate) fn serve(listener: &TcpListener) -> io::Result<()> {
    loop {
        let stream = sys::accept(listener)?;
        if let Err(error) = handle(&stream) {
            eprintln!("a connection ended: {error}");
        }
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
