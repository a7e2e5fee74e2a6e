//! `poll(2)`: a list of descriptors with what is wanted of each is handed over, and comes back with what each is ready for.
//!
//! ```text
//!   [listener: IN, 4: IN, 5: IN, 7: OUT] ─► poll ─── waits ──► [-, -, 5: IN, -] ─► the whole list is looked through ─┐
//!                     ▲                                                                                             │
//!                     └──────────────────────────── the list built anew ◄───────────────────────────────────────────┘
//! ```
//!
//! **Who waits, where:** one thread, in `poll`, for everybody.
//!
//! **Price:** as many descriptors as one likes, but each call copies the whole list and the kernel asks every one of them: ten times the idle clients, ten times the cost;
//! and a refused client that still sends is reset.

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
        let (newcomers, ready) = ready.split_first().expect("the listener is the first");
        let mut ready = ready.iter();
        conns.retain_mut(|conn| {
            let ready = *ready.next().expect("one for each");
            let mut step = Step::Moved;
            if ready.contains(PollFlags::OUT) {
                step = conn.transmit();
            }
            // Broken connections are read too: that tells what is wrong with them.
            if step != Step::Over
                && ready.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR)
            {
                step = conn.receive_and_transmit(&mut buffer);
            }
            step != Step::Over
        });
        if !newcomers.is_empty() {
            conns.extend(conn::accept(listener));
        }
    }
}

/// What everybody is ready for, the listener first.
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
