//! A thread for each connection and blocking calls, as in the lesson's Go server.
//!
//! ```text
//!   accept ─ waits ─► accept ─ waits ─► …                one thread
//!      └─► read ─ waits ─► reply ─► write ─► read …      and one more per client
//! ```
//!
//! **Which thread waits, and where:** each thread, in `read`, for its own client. No client waits
//! for another one.
//!
//! **Price:** a thread for each client, idle or not: a stack, a scheduler entry, and two context
//! switches a request. A refused client that still sends is reset.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::thread;

use super::session::Session;
use super::{back_off_after, log, sys};

pub(crate) fn serve(listener: &TcpListener) -> io::Result<()> {
    loop {
        match sys::accept(listener) {
            Ok(stream) => {
                // If no thread can be started, the closure is dropped, and the connection with it.
                if let Err(error) = thread::Builder::new()
                    .stack_size(128 * 1024)
                    .spawn(move || serve_client(&stream))
                {
                    log(format_args!("cannot start a thread for a client: {error}"));
                }
            }
            // The lesson's loop ends here on any error. Running out of descriptors, for one, is no
            // reason to end: some will be free again.
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
