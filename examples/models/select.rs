//! `select(2)`: three sets of descriptors are handed over, and come back with those that are ready.
//!
//! ```text
//!   {listener, 4, 5, 7} ─► select ─── waits ──► {5} ─► read 5 ─► answer ─► write 5 ─┐
//!            ▲                                                                       │
//!            └──────────────────────── all sets built anew ◄─────────────────────────┘
//! ```
//!
//! **Who waits, where:** one thread, in `select`, for everybody.
//!
//! **Price:** each call copies all sets, and the kernel looks at every number up to the highest. A set holds the numbers 0 to 1,023 and no others,
//! however few they are. A refused client that still sends is reset.

use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, RawFd};

use rustix::event::{FdSetElement, FdSetIter, fd_set_insert};

use super::conn::{self, Conn, Step};
use super::{complain, sys};

/// How many numbers an `fd_set` of the C library has room for.
pub(crate) const FD_SETSIZE: RawFd = 1024;

/// A set of descriptors: a bit for each.
type Set = [FdSetElement; FD_SETSIZE as usize / (8 * size_of::<FdSetElement>())];

pub(crate) fn serve(listener: &TcpListener) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let (mut conns, mut buffer) = (BTreeMap::<RawFd, Conn>::new(), vec![0; 16 * 1024]);
    loop {
        let (mut read, mut write) = (Set::default(), Set::default());
        fd_set_insert(&mut read, listener.as_raw_fd());
        for (fd, conn) in &conns {
            if conn.session.wants_read() {
                fd_set_insert(&mut read, *fd);
            }
            if conn.session.wants_write() {
                fd_set_insert(&mut write, *fd);
            }
        }
        let highest = conns
            .last_key_value()
            .map_or(0, |(fd, _)| *fd)
            .max(listener.as_raw_fd());
        sys::select(highest, &mut read, &mut write)?; // waits

        for fd in FdSetIter::new(&write) {
            if conns
                .get_mut(&fd)
                .is_some_and(|conn| conn.transmit() == Step::Over)
            {
                conns.remove(&fd);
            }
        }
        for fd in FdSetIter::new(&read) {
            if conns
                .get_mut(&fd)
                .is_some_and(|conn| conn.receive_and_transmit(&mut buffer) == Step::Over)
            {
                conns.remove(&fd);
            }
        }
        // Last: a newcomer may have the number of one who has just left, and what is ready was said of that one.
        if FdSetIter::new(&read).any(|fd| fd == listener.as_raw_fd()) {
            conns.extend(accept(listener));
        }
    }
}

/// A newcomer, if its descriptor fits into a set. In C nothing would stop the bit from being written behind the set, into somebody else's memory.
fn accept(listener: &TcpListener) -> Option<(RawFd, Conn)> {
    let conn = conn::accept(listener)?;
    let fd = conn.stream.as_raw_fd();
    if fd >= FD_SETSIZE {
        complain(format_args!(
            "select cannot watch descriptor {fd}: its sets end at {}; the client is sent away",
            FD_SETSIZE - 1
        ));
        return None;
    }
    Some((fd, conn))
}
