//! epoll, edge-triggered: the kernel says who *has become* ready, once.
//!
//! ```text
//!   epoll_ctl: add 5 for IN and OUT          once for each client, and never again
//!   epoll_wait ─── waits ──► [5: IN] ─► read 5 ─► answer ─► write 5 ─► read 5: EAGAIN ─► epoll_wait …
//!                   ▲                                                     not before: who stops earlier is told nothing more
//!                   └── does not wait while somebody was left half-way
//! ```
//!
//! **Who waits, where:** one thread, in `epoll_wait`, for everybody.
//!
//! **Price:** what was said is to be remembered until the kernel says the contrary (EAGAIN): two bits for each client. Who reads a client until EAGAIN without a limit
//! serves nobody else while that one sends; who has a limit must come back by himself. A refused client that still sends is reset.
//! That is a reactor in the bud: `reactor.rs` is the same, grown up.

use std::io;
use std::mem;
use std::net::TcpListener;
use std::os::fd::OwnedFd;

use rustix::event::epoll::{self, CreateFlags, EventFlags};
use slab::Slab;

use super::conn::{self, Conn, Step};
use super::sys;

const LISTENER: u64 = u64::MAX;
/// Steps that one client may take before it is the others' turn.
const BUDGET: u32 = 16;

/// A connection, and what the kernel has last said of it.
struct Watched {
    conn: Conn,
    readable: bool,
    writable: bool,
}

pub(crate) fn serve(listener: &TcpListener) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    sys::epoll_add(&epoll, listener, LISTENER, EventFlags::IN)?; // level-triggered: one newcomer a turn
    let (mut conns, mut buffer, mut events) = (
        Slab::<Watched>::new(),
        vec![0; 16 * 1024],
        Vec::with_capacity(256),
    );
    let mut left_halfway = Vec::new();
    loop {
        events.clear();
        sys::epoll_wait(&epoll, &mut events, left_halfway.is_empty())?; // waits
        let mut newcomers = false;
        let mut turn = mem::take(&mut left_halfway);
        for event in &events {
            let (key, flags) = (event.data.u64(), event.flags);
            if key == LISTENER {
                newcomers = true;
                continue;
            }
            let (watched, broken) = (&mut conns[key as usize], EventFlags::HUP | EventFlags::ERR);
            watched.readable |= flags.intersects(EventFlags::IN | EventFlags::RDHUP | broken);
            watched.writable |= flags.intersects(EventFlags::OUT | broken);
            if !turn.contains(&key) {
                turn.push(key);
            }
        }
        for key in turn {
            match conns[key as usize].resume_connection(&mut buffer) {
                Step::Moved => left_halfway.push(key),
                Step::Blocked => {}
                Step::Over => drop(conns.remove(key as usize)),
            }
        }
        if newcomers {
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
    sys::epoll_add(epoll, &conn.stream, slot.key() as u64, interest)?; // what is ready already is told as an edge
    slot.insert(Watched {
        conn,
        readable: false,
        writable: false,
    });
    Ok(())
}

impl Watched {
    /// Goes on until nothing can be done without a further word of the kernel's, or until the budget is spent.
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
                Step::Over => return Step::Over,
            }
        }
        Step::Moved
    }
}
