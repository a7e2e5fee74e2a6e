//! `select(2)`: each call passes three sets of descriptors, and gets the ready ones back.
//!
//! ```text
//!   {listener, 4, 5, 7} ─► select ─── waits ──► {5} ─► read 5 ─► reply ─► write 5 ─┐
//!            ▲                                                                     │
//!            └──────────────────────── build all sets again ◄──────────────────────┘
//! ```
//!
//! **Which thread waits, and where:** one thread, in `select`, for all sockets.
//!
//! **Price:** each call copies all sets, and the kernel checks every number up to the highest. A
//! set holds the descriptors 0 to 1,023 and no others, however few are in use. A refused client
//! that still sends is reset.

use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, RawFd};

use rustix::event::{FdSetElement, FdSetIter, fd_set_insert};

use super::conn::{self, Conn, Step};
use super::{log, sys};

/// How many descriptors an `fd_set` of the C library holds.
pub(crate) const FD_SETSIZE: RawFd = 1024;

/// A set of descriptors: one bit each.
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
                .is_some_and(|conn| conn.transmit() == Step::Closed)
            {
                conns.remove(&fd);
            }
        }
        for fd in FdSetIter::new(&read) {
            if conns
                .get_mut(&fd)
                .is_some_and(|conn| conn.receive_and_transmit(&mut buffer) == Step::Closed)
            {
                conns.remove(&fd);
            }
        }
        // Accept last: a new connection may get the number of one just closed, and the readiness in
        // the sets belongs to the closed one.
        if FdSetIter::new(&read).any(|fd| fd == listener.as_raw_fd()) {
            conns.extend(accept(listener));
        }
    }
}

/// Accepts a connection, if its descriptor fits into a set. In C nothing would stop the program
/// from setting a bit beyond the set, in other memory.
fn accept(listener: &TcpListener) -> Option<(RawFd, Conn)> {
    let conn = conn::accept(listener)?;
    let fd = conn.stream.as_raw_fd();
    if fd >= FD_SETSIZE {
        log(format_args!(
            "client refused: descriptor {fd} does not fit into select's sets, which end at {}",
            FD_SETSIZE - 1
        ));
        return None;
    }
    Some((fd, conn))
}
