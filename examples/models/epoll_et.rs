//! epoll, edge-triggered: the kernel reports once that a socket *has become* ready.
//!
//! ```text
//!   epoll_ctl: add 5 for IN and OUT          once per client, never changed
//!   epoll_wait ─ waits ─► [5: IN] ─► read 5 ─► reply ─► write 5 ─► read 5: EAGAIN ─┐
//!       ▲                                                                          │
//!       └──────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! `epoll_wait` does not block while a connection still has work to do.
//!
//! **Which thread waits, and where:** one thread, in `epoll_wait`, for all sockets.
//!
//! **Price:** the server must remember that a socket is ready until a call returns `EAGAIN`: two
//! bits for each client. A loop that reads one client until `EAGAIN`, without a limit, serves no
//! other client while that one keeps sending. With a limit, the loop must come back to the client
//! by itself, because no further event reports the bytes that are left. A refused client that still
//! sends is reset. This is a small reactor; `reactor.rs` is a complete one.

use std::io;
use std::mem;
use std::net::TcpListener;
use std::os::fd::OwnedFd;

use rustix::event::epoll::{self, CreateFlags, EventFlags};
use slab::Slab;

use super::conn::{self, Conn, Step};
use super::sys;

const LISTENER: u64 = u64::MAX;
/// Steps that one client may take per pass, so that the others are served too.
const BUDGET: u32 = 16;

/// A connection and its readiness, as last reported by the kernel.
struct Watched {
    conn: Conn,
    readable: bool,
    writable: bool,
}

pub(crate) fn serve(listener: &TcpListener) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    // Level-triggered, so one accept per pass is enough.
    sys::epoll_add(&epoll, listener, LISTENER, EventFlags::IN)?;
    let (mut conns, mut buffer, mut events) = (
        Slab::<Watched>::new(),
        vec![0; 16 * 1024],
        Vec::with_capacity(256),
    );
    let mut unfinished = Vec::new();
    loop {
        events.clear();
        sys::epoll_wait(&epoll, &mut events, unfinished.is_empty())?; // waits
        let mut can_accept = false;
        let mut queue = mem::take(&mut unfinished);
        for event in &events {
            let (key, flags) = (event.data.u64(), event.flags);
            if key == LISTENER {
                can_accept = true;
                continue;
            }
            let (watched, broken) = (&mut conns[key as usize], EventFlags::HUP | EventFlags::ERR);
            watched.readable |= flags.intersects(EventFlags::IN | EventFlags::RDHUP | broken);
            watched.writable |= flags.intersects(EventFlags::OUT | broken);
            if !queue.contains(&key) {
                queue.push(key);
            }
        }
        for key in queue {
            match conns[key as usize].resume_connection(&mut buffer) {
                Step::Moved => unfinished.push(key),
                Step::Blocked => {}
                Step::Closed => drop(conns.remove(key as usize)),
            }
        }
        if can_accept {
            accept(listener, &epoll, &mut conns)?;
        }
    }
}

fn accept(listener: &TcpListener, epoll: &OwnedFd, conns: &mut Slab<Watched>) -> io::Result<()> {
    let Some(conn) = conn::accept(listener) else {
        return Ok(());
    };
    let slot = conns.vacant_entry();
    let interest = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
    // If the socket is ready already, that is reported as an edge.
    sys::epoll_add(epoll, &conn.stream, slot.key() as u64, interest)?;
    slot.insert(Watched {
        conn,
        readable: false,
        writable: false,
    });
    Ok(())
}

impl Watched {
    /// Reads and writes until the socket would block both ways, or until the budget is spent. The
    /// budget is spent if the result is [`Step::Moved`].
    fn resume_connection(&mut self, buffer: &mut [u8]) -> Step {
        for _ in 0..BUDGET {
            let may_write = self.writable && self.conn.session.wants_write();
            let may_read = self.readable && self.conn.session.wants_read();
            let (step, ready) = match (may_write, may_read) {
                (true, _) => (self.conn.transmit(), &mut self.writable),
                (_, true) => (self.conn.receive(buffer), &mut self.readable),
                _ => return Step::Blocked,
            };
            match step {
                Step::Moved => {}
                Step::Blocked => *ready = false,
                Step::Closed => return Step::Closed,
            }
        }
        Step::Moved
    }
}
