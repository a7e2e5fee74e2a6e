//! Non-blocking calls, and asking everybody all the time.
//!
//! ```text
//!   ┌─► accept? ─► read 1? ─► read 2? ─► read 3? ─► … ─┐     each says at once: here it is, or EAGAIN
//!   └──────────────────────────────────────────────────┘
//! ```
//!
//! **Who waits, where:** nobody, nowhere.
//!
//! **Price:** a whole processor, idle or not, and millions of calls that come back with nothing; an answer takes longer the more clients there are;
//! and a refused client that still sends is reset.

use std::io;
use std::net::TcpListener;

use super::conn::{self, Conn, Step};

pub(crate) fn serve(listener: &TcpListener) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let (mut conns, mut buffer) = (Vec::<Conn>::new(), vec![0; 16 * 1024]);
    loop {
        conns.extend(conn::accept(listener));
        conns.retain_mut(|conn| {
            let received = conn.receive(&mut buffer);
            let sent = conn.transmit();
            received != Step::Over && sent != Step::Over
        });
    }
}
