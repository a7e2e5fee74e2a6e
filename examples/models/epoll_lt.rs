//! epoll, level-triggered: the kernel keeps the list, and reports a socket as long as it *is*
//! ready.
//!
//! ```text
//!   epoll_ctl: add 4, add 5, add 7     once per client, and once per change of interest
//!   epoll_wait ─ waits ─► [5: IN] ─► read 5 ─► reply ─► write 5 ─► epoll_wait …
//! ```
//!
//! **Which thread waits, and where:** one thread, in `epoll_wait`, for all sockets.
//!
//! **Price:** a registered interest is reported again and again. So the server removes its interest
//! in writing when there is nothing to write, and in reading while it takes no more input; each
//! change is an `epoll_ctl`. The cost of a wait depends on the number of ready sockets, and not on
//! the number of clients. A refused client that still sends is reset.

use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;

use rustix::event::epoll::{self, CreateFlags, EventFlags};
use slab::Slab;

use super::conn::{self, Conn, Step};
use super::sys;

const LISTENER: u64 = u64::MAX;

/// A connection and its registered interest.
struct Watched {
    conn: Conn,
    interest: EventFlags,
}

pub(crate) fn serve(listener: &TcpListener) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    sys::epoll_add(&epoll, listener, LISTENER, EventFlags::IN)?;
    let (mut conns, mut buffer, mut events) = (
        Slab::<Watched>::new(),
        vec![0; 16 * 1024],
        Vec::with_capacity(256),
    );
    loop {
        events.clear();
        sys::epoll_wait(&epoll, &mut events, true)?; // waits
        let mut can_accept = false;
        for event in &events {
            let (key, flags) = (event.data.u64(), event.flags);
            if key == LISTENER {
                can_accept = true;
                continue;
            }
            // The event cannot belong to a later connection with the same key: connections are
            // accepted only after the batch of events.
            let watched = &mut conns[key as usize];
            let mut step = Step::Moved;
            if flags.contains(EventFlags::OUT) {
                step = watched.conn.transmit();
            }
            if step != Step::Closed
                && flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR)
            {
                step = watched.conn.receive_and_transmit(&mut buffer);
            }
            if step == Step::Closed {
                conns.remove(key as usize); // closing the socket also removes it from epoll
            } else {
                watched.update(&epoll, key)?;
            }
        }
        if can_accept {
            accept(listener, &epoll, &mut conns)?;
        }
    }
}

/// Accepts one connection. If the backlog holds more, the next `epoll_wait` reports the listener
/// again.
fn accept(listener: &TcpListener, epoll: &OwnedFd, conns: &mut Slab<Watched>) -> io::Result<()> {
    let Some(conn) = conn::accept(listener) else {
        return Ok(());
    };
    let slot = conns.vacant_entry();
    sys::epoll_add(epoll, &conn.stream, slot.key() as u64, EventFlags::IN)?;
    slot.insert(Watched {
        conn,
        interest: EventFlags::IN,
    });
    Ok(())
}

impl Watched {
    /// Updates the interest registered with epoll, if it has changed.
    fn update(&mut self, epoll: &OwnedFd, key: u64) -> io::Result<()> {
        let mut interest = EventFlags::empty();
        interest.set(EventFlags::IN, self.conn.session.wants_read());
        interest.set(EventFlags::OUT, self.conn.session.wants_write());
        if interest != self.interest {
            sys::epoll_modify(epoll, &self.conn.stream, key, interest)?;
            self.interest = interest;
        }
        Ok(())
    }
}
