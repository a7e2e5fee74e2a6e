//! One client after the other: a single thread and blocking calls.
//!
//! ```text
//!   accept ─ waits ─► read ─ waits ─► reply ─► write ─ waits ─► read … ─► end ─┐
//!      ▲                                                                       │
//!      └───────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! **Which thread waits, and where:** the only thread, in `read`, for one client. All other clients
//! wait for that client too.
//!
//! **Price:** no extra cost, but no second client. A client that connects and sends nothing blocks
//! the server for all others. A refused client that still sends is reset.

use std::io;
use std::net::{TcpListener, TcpStream};

use super::session::Session;
use super::{back_off_after, log, sys};

pub(crate) fn serve(listener: &TcpListener) -> ! {
    loop {
        match sys::accept(listener) {
            Ok(stream) => serve_client(&stream),
            Err(error) => back_off_after(&error),
        }
    }
}

fn serve_client(stream: &TcpStream) {
    if let Err(error) = handle(stream) {
        log(format_args!("connection closed: {error}"));
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
