//! The far end of a connection, controlled by a test.

use std::cell::{RefCell, RefMut};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use super::link::{EndId, PeerSocket};
use super::world::World;
use crate::net::Address;

/// The far end of one of the loop's connections: a client, or a host that the loop has dialed.
///
/// A peer carries out calls as far as its buffers allow, while the simulation runs. Clones are the
/// same peer.
#[derive(Clone)]
pub struct Peer {
    pub(super) world: Rc<RefCell<World>>,
    pub(super) id: EndId,
}

/// The state of a connection, as its peer sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PeerState {
    /// Not established yet.
    #[default]
    Connecting,
    /// Established, and not ended by the loop. A connection that only the peer has closed is still
    /// open.
    Open,
    /// The loop's FIN was read: the peer has received everything that the loop sent.
    Ended,
    /// Reset. The last bytes that the loop sent may be missing.
    Reset,
    /// No listener had the address.
    Refused,
}

/// The side that broke a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The loop: it closed the socket with bytes unread or still arriving.
    Loop,
    /// The peer: it reset the connection, or closed it with bytes unread or still arriving.
    Peer,
    /// The network: one of the [`Fault`](super::Fault)s.
    Net,
}

/// What the loop's socket really read and wrote, for a test to compare with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ActualIo {
    /// Bytes that the loop has read.
    pub read: u64,
    /// Bytes that the loop has written.
    pub written: u64,
    /// When the loop last read bytes, in virtual time.
    pub last_read: Duration,
    /// When the loop last wrote bytes, in virtual time.
    pub last_write: Duration,
}

impl Peer {
    fn peer_socket(&self) -> RefMut<'_, PeerSocket> {
        RefMut::map(self.world.borrow_mut(), |world| {
            world.end(self.id).peer_socket().expect("a peer's own end")
        })
    }

    /// The peer's address, as the loop sees it.
    pub fn addr(&self) -> Address {
        self.world.borrow_mut().end(self.id).addr.clone()
    }

    /// Queues bytes to send. They are sent as the send buffer has room.
    pub fn send(&self, bytes: &[u8]) {
        self.peer_socket().outgoing.extend(bytes);
        self.world.borrow_mut().write_as_peer(self.id);
    }

    /// Bytes queued that the send buffer has had no room for.
    pub fn unsent(&self) -> usize {
        self.peer_socket().outgoing.len()
    }

    /// Takes what the peer has read since the last call.
    pub fn received(&self) -> Vec<u8> {
        std::mem::take(&mut self.peer_socket().received)
    }

    /// Makes the peer read what arrives, or stop reading. Peers read by default.
    pub fn set_reading(&self, reads: bool) {
        self.peer_socket().reads = reads;
        self.world.borrow_mut().read_as_peer(self.id);
    }

    /// Shuts down the sending side, after all queued bytes.
    pub fn shut_write(&self) {
        self.peer_socket().shut = true;
        self.world.borrow_mut().write_as_peer(self.id);
    }

    /// Closes the socket at once. Queued bytes without room in the send buffer are dropped. Unread
    /// bytes turn the close into a reset.
    pub fn close(&self) {
        self.world.borrow_mut().close(self.id, Blame::Peer);
    }

    /// Closes the socket with a reset.
    pub fn reset(&self) {
        self.world.borrow_mut().abort(self.id, Blame::Peer);
    }

    /// The state of the connection.
    pub fn state(&self) -> PeerState {
        self.peer_socket().state
    }

    /// The side that broke the connection; `None` if none did.
    pub fn blame(&self) -> Option<Blame> {
        self.world.borrow().links[self.id.link].blame
    }

    /// What the loop's socket really read and wrote.
    pub fn actual_io(&self) -> ActualIo {
        self.world
            .borrow_mut()
            .end(self.id.other())
            .loop_socket()
            .map(|socket| socket.actual)
            .unwrap_or_default()
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer")
            .field("link", &self.id.link)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}
