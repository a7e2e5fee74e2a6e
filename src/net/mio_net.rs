//! The real network: mio's poller and sockets, and std's clock.

use std::io;
use std::net::TcpListener;
#[cfg(unix)]
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token, Waker, net};

use super::{Event, Listener, Net, Socket, Wake};
use crate::net::Address;

/// The system's sockets, polled by mio.
#[derive(Debug)]
pub struct MioNet {
    poll: Poll,
    events: Events,
    waker: Arc<Waker>,
    nodelay: bool,
}

impl MioNet {
    /// Makes a poller that returns at most `events` events at a time.
    ///
    /// Its waker is registered under the token `waker`. All its sockets have `TCP_NODELAY` set or
    /// not, as `nodelay` says.
    ///
    /// # Errors
    ///
    /// The system's error, for instance if no descriptor is left.
    pub fn new(events: usize, waker: usize, nodelay: bool) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), Token(waker))?);
        Ok(Self {
            poll,
            events: Events::with_capacity(events),
            waker,
            nodelay,
        })
    }

    /// Prepares a std listener for the loop. It becomes non-blocking, and gets the `TCP_NODELAY`
    /// setting that accepted sockets inherit.
    ///
    /// # Errors
    ///
    /// The system's error.
    pub fn adopt(&self, listener: TcpListener) -> io::Result<Listener> {
        listener.set_nonblocking(true)?;
        let (listener, inherited) = set_inherited_nodelay(listener, self.nodelay);
        Ok(Listener::Tcp {
            socket: net::TcpListener::from_std(listener),
            nodelay: self.nodelay && !inherited,
        })
    }

    /// Prepares a std listener for Unix domain sockets: it becomes non-blocking.
    ///
    /// # Errors
    ///
    /// The system's error.
    #[cfg(unix)]
    pub fn adopt_unix(listener: std::os::unix::net::UnixListener) -> io::Result<Listener> {
        listener.set_nonblocking(true)?;
        Ok(Listener::Unix(net::UnixListener::from_std(listener)))
    }
}

/// The descriptor of the poller. It is readable while a turn would find events.
#[cfg(unix)]
impl AsFd for MioNet {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.poll.registry().as_fd()
    }
}

/// Sets `TCP_NODELAY` on a listener. Returns true if accepted sockets inherit it.
///
/// On Linux they do, so one call replaces one for each socket. std offers the option on streams
/// only. It is the same socket option, so the descriptor is converted to a stream and back.
#[cfg(target_os = "linux")]
fn set_inherited_nodelay(listener: TcpListener, nodelay: bool) -> (TcpListener, bool) {
    use std::os::fd::OwnedFd;
    let as_stream = std::net::TcpStream::from(OwnedFd::from(listener));
    let done = as_stream.set_nodelay(nodelay).is_ok();
    (TcpListener::from(OwnedFd::from(as_stream)), done)
}

#[cfg(not(target_os = "linux"))]
fn set_inherited_nodelay(listener: TcpListener, _nodelay: bool) -> (TcpListener, bool) {
    (listener, false)
}

#[cfg(any(target_os = "linux", target_os = "android"))]
const BOTH: Interest = Interest::READABLE
    .add(Interest::WRITABLE)
    .add(Interest::PRIORITY);
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const BOTH: Interest = Interest::READABLE.add(Interest::WRITABLE);

#[cfg(any(target_os = "linux", target_os = "android"))]
fn is_urgent(event: &mio::event::Event) -> bool {
    event.is_priority()
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn is_urgent(_: &mio::event::Event) -> bool {
    false
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn connect_abstract(name: &[u8]) -> io::Result<net::UnixStream> {
    #[cfg(target_os = "android")]
    use std::os::android::net::SocketAddrExt;
    #[cfg(target_os = "linux")]
    use std::os::linux::net::SocketAddrExt;
    let addr = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
    net::UnixStream::connect_addr(&addr)
}

impl Net for MioNet {
    type Listener = Listener;
    type Stream = Socket;

    const SHORT_READ_IS_EMPTY: bool = cfg!(all(
        not(mio_unsupported_force_poll_poll),
        any(
            target_os = "linux",
            target_os = "android",
            target_os = "macos",
            target_os = "ios",
            target_os = "freebsd",
            target_os = "netbsd",
            target_os = "openbsd",
            target_os = "dragonfly",
        )
    ));

    fn poll(&mut self, events: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<Instant> {
        self.poll.poll(&mut self.events, timeout)?;
        events.extend(self.events.iter().map(|event| Event {
            token: event.token().0,
            readable: event.is_readable(),
            writable: event.is_writable(),
            read_closed: event.is_read_closed(),
            write_closed: event.is_write_closed(),
            broken: event.is_error(),
            urgent: is_urgent(event),
        }));
        Ok(Instant::now())
    }

    fn accept(&mut self, listener: &mut Listener) -> io::Result<(Socket, Address)> {
        match listener {
            Listener::Tcp { socket, nodelay } => {
                let (stream, peer) = socket.accept()?;
                if *nodelay {
                    // Fails if the peer is gone already; then the first read reports it.
                    let _ = stream.set_nodelay(true);
                }
                Ok((Socket::Tcp(stream), peer.into()))
            }
            #[cfg(unix)]
            Listener::Unix(socket) => {
                let (stream, peer) = socket.accept()?;
                Ok((Socket::Unix(stream), peer.into()))
            }
        }
    }

    fn connect(&mut self, addr: &Address) -> io::Result<Socket> {
        match addr {
            Address::Tcp(addr) => {
                let stream = net::TcpStream::connect(*addr)?;
                if self.nodelay {
                    // On Windows this fails before the connection is established, and the system's
                    // default stays.
                    let _ = stream.set_nodelay(true);
                }
                Ok(Socket::Tcp(stream))
            }
            #[cfg(unix)]
            Address::Unix(Some(path)) => net::UnixStream::connect(path).map(Socket::Unix),
            #[cfg(any(target_os = "linux", target_os = "android"))]
            Address::Abstract(name) => connect_abstract(name).map(Socket::Unix),
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    fn register(&mut self, stream: &mut Socket, token: usize) -> io::Result<()> {
        self.poll
            .registry()
            .register(stream.source(), Token(token), BOTH)
    }

    fn deregister(&mut self, stream: &mut Socket) -> io::Result<()> {
        self.poll.registry().deregister(stream.source())
    }

    fn listen(&mut self, listener: &mut Listener, token: usize) -> io::Result<()> {
        self.poll
            .registry()
            .register(listener.source(), Token(token), Interest::READABLE)
    }

    fn unlisten(&mut self, mut listener: Listener) -> io::Result<()> {
        self.poll.registry().deregister(listener.source())
    }

    fn now(&self) -> Instant {
        Instant::now()
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.waker.clone()
    }

    /// Linux only: std has no `getrlimit`, but `/proc/self/limits` has the number (proc(5)).
    fn descriptor_limit(&self) -> Option<usize> {
        let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
        let line = limits
            .lines()
            .find_map(|line| line.strip_prefix("Max open files"))?;
        line.split_whitespace().next()?.parse().ok()
    }
}

impl Wake for Waker {
    fn wake(&self) {
        // It fails only if the loop is gone, or if so many wake-ups are pending that the poller
        // returns anyway.
        let _ = Waker::wake(self);
    }
}
