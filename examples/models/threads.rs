//! A thread for each connection, and blocking calls: what the lesson's Go server looks like.
//!
//! ```text
//!   accept ─ waits ─► accept ─ waits ─► …          one thread
//!      └─► read ─ waits ─► answer ─► write ─► read …      and one for each client
//! ```
//!
//! **Who waits, where:** each thread, in `read`, for its own client. Nobody waits for anybody else.
//!
//! **Price:** a thread for each client, idle or not: a stack, a place in the scheduler, two context switches a request; and a refused client that still sends is reset.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::thread;

use super::session::Session;
use super::{complain, rest_after, sys};

pub(crate) fn serve(listener: &TcpListener) -> io::Result<()> {
    loop {
        match sys::accept(listener) {
            Ok(stream) => {
                // No thread for him: the closure is dropped, and his connection with it.
                if let Err(error) = thread::Builder::new()
                    .stack_size(128 * 1024)
                    .spawn(move || talk(&stream))
                {
                    complain(format_args!("no thread for a client: {error}"));
                }
            }
            // The lesson's loop ends here, whatever the error is. No descriptor left, say, is no reason to: some will be free again.
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
