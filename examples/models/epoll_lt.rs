//! epoll, level-triggered: the kernel keeps the list, and says who *is* ready, as long as he is.
//!
//! ```text
//!   epoll_ctl: add 4, add 5, add 7          once for each client; once more when he stops or begins to be written to
//!   epoll_wait ─── waits ──► [5: IN] ─► read 5 ─► answer ─► write 5 ─► epoll_wait …
//! ```
//!
//! **Who waits, where:** one thread, in `epoll_wait`, for everybody.
//!
//! **Price:** what one asks for, one gets, again and again: interest in writing must be taken away when there is nothing to write, and interest in reading
//! when nothing is taken, each with an `epoll_ctl`. A wait costs as much as there is news, not as there are clients. A refused client
//! that still sends is reset.

use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;

use rustix::event::epoll::{self, CreateFlags, EventFlags};
use slab::Slab;

use super::conn::{self, Conn, Step};
use super::sys;

const LISTENER: u64 = u64::MAX;

/// A connection, and what it is registered for.
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
        let mut newcomers = false;
        for event in &events {
            let (key, flags) = (event.data.u64(), event.flags);
            if key == LISTENER {
                newcomers = true;
                continue;
            }
            // No event can be for somebody else: those who come are let in behind the batch.
            let watched = &mut conns[key as usize];
            let mut step = Step::Moved;
            if flags.contains(EventFlags::OUT) {
                step = watched.conn.transmit();
            }
            if step != Step::Over
                && flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR)
            {
                step = watched.conn.receive_and_transmit(&mut buffer);
            }
            if step == Step::Over {
                conns.remove(key as usize); // closing the socket takes it out of the kernel's list
            } else {
                watched.update(&epoll, key)?;
            }
        }
        if newcomers {
            accept(listener, &epoll, &mut conns)?;
        }
    }
}

/// Lets one in; if more wait, the next `epoll_wait` says so again.
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
    /// Tells the kernel what is wanted now, if that has changed.
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
