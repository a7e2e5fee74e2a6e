//! `poll(2)`: each call passes a list of descriptors and interests, and gets their readiness back.
//!
//! ```text
//!   [listener: IN, 4: IN, 7: OUT] ─► poll ─ waits ─► [-, 4: IN, -] ─► scan the list ─┐
//!                 ▲                                                                  │
//!                 └────────────────────── build the list again ◄─────────────────────┘
//! ```
//!
//! **Which thread waits, and where:** one thread, in `poll`, for all sockets.
//!
//! **Price:** there is no limit on descriptors, but each call copies the whole list, and the kernel
//! checks every descriptor: ten times the idle clients, ten times the cost. A refused client that
//! still sends is reset.

use std::io;
use std::net::TcpListener;

use rustix::event::{PollFd, PollFlags};

use super::conn::{self, Conn, Step};
use super::sys;

pub(crate) fn serve(listener: &TcpListener) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let (mut conns, mut buffer) = (Vec::<Conn>::new(), vec![0; 16 * 1024]);
    loop {
        let ready = wait(listener, &conns)?;
        let (listener_ready, ready) = ready.split_first().expect("the listener is first");
        let mut ready = ready.iter();
        conns.retain_mut(|conn| {
            let ready = *ready.next().expect("one per connection");
            let mut step = Step::Moved;
            if ready.contains(PollFlags::OUT) {
                step = conn.transmit();
            }
            // A failed connection is read too: the call returns the error.
            if step != Step::Closed
                && ready.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR)
            {
                step = conn.receive_and_transmit(&mut buffer);
            }
            step != Step::Closed
        });
        if !listener_ready.is_empty() {
            conns.extend(conn::accept(listener));
        }
    }
}

/// Waits until a socket is ready. Returns what each is ready for: the listener, then the
/// connections.
fn wait(listener: &TcpListener, conns: &[Conn]) -> io::Result<Vec<PollFlags>> {
    let mut fds = vec![PollFd::new(listener, PollFlags::IN)];
    fds.extend(conns.iter().map(|conn| {
        let mut interest = PollFlags::empty();
        interest.set(PollFlags::IN, conn.session.wants_read());
        interest.set(PollFlags::OUT, conn.session.wants_write());
        PollFd::new(&conn.stream, interest)
    }));
    sys::poll(&mut fds)?; // waits
    Ok(fds.iter().map(PollFd::revents).collect())
}
