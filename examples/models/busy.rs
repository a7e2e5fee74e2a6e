//! Non-blocking calls in a busy loop: every socket is tried on every pass.
//!
//! ```text
//!   ┌─► accept? ─► read 1? ─► read 2? ─► read 3? ─► … ─┐
//!   └──────────────────────────────────────────────────┘
//! ```
//!
//! Each call returns at once, with a result or with `EAGAIN`.
//!
//! **Which thread waits, and where:** none. The only thread never blocks.
//!
//! **Price:** a whole processor, idle or not, and millions of calls that return nothing. The more
//! clients there are, the longer a reply takes. A refused client that still sends is reset.

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
            received != Step::Closed && sent != Step::Closed
        });
    }
}
