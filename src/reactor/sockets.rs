//! The loop on real sockets: listening and connecting by address, and the poller's descriptor for
//! use in another loop.

use core::net::SocketAddr;
use std::fmt;
use std::net::{TcpListener, ToSocketAddrs};
#[cfg(unix)]
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
#[cfg(unix)]
use std::os::unix::net::UnixListener;
use std::time::Duration;

use crate::config::Config;
use crate::error::{ConnectError, ConnectFailure, Error};
use crate::handler::Handler;
use crate::id::{ConnectionId, Token};
use crate::net::{Address, MioNet};
use crate::reactor::Reactor;

impl<H: Handler> Reactor<H> {
    /// Makes a loop with the default limits that listens on `addr`.
    ///
    /// # Errors
    /// [`Error::Listen`] if the address is in use or invalid, [`Error::Setup`] if no poller can be
    /// made.
    pub fn bind(addr: impl ToSocketAddrs + fmt::Debug, handler: H) -> Result<Self, Error> {
        let mut reactor = Self::new(handler, Config::default())?;
        reactor.listen(addr)?;
        Ok(reactor)
    }

    /// Makes a loop that does not listen yet.
    ///
    /// # Errors
    /// [`Error::Config`] if the limits contradict each other, [`Error::Setup`] if no poller can be
    /// made.
    pub fn new(handler: H, config: Config) -> Result<Self, Error> {
        config.check()?;
        let net = MioNet::new(config.events_per_turn, Token::Waker.pack(), config.nodelay)
            .map_err(Error::Setup)?;
        Self::with_net(net, handler, config)
    }

    /// Adds a listener on `addr`; with port 0 the system chooses a port. Returns the actual
    /// address.
    ///
    /// If a name has several addresses, only the first one that can be bound is used.
    ///
    /// The backlog (connections that wait to be accepted) is the default of std and mio: 128 on
    /// most systems.
    ///
    /// **Trap:** if more connections than that arrive at once, Linux drops the rest. Their systems
    /// retry after one second, then after two more, and so on. A server that expects bursts makes
    /// its own listener with a longer backlog, and passes it to [`listen_on`](Self::listen_on),
    /// which has an example.
    ///
    /// # Errors
    /// [`Error::Listen`] if the address is in use or invalid.
    pub fn listen(&mut self, addr: impl ToSocketAddrs + fmt::Debug) -> Result<SocketAddr, Error> {
        let text = format!("{addr:?}").trim_matches('"').to_string();
        let listener =
            TcpListener::bind(addr).map_err(|source| Error::Listen { addr: text, source })?;
        self.listen_on(listener)
    }

    /// Adds a listener that was made elsewhere: by another crate or by another process. Returns its
    /// address.
    ///
    /// It is made non-blocking, and its connections get [`Config::nodelay`]. Its other options
    /// stay.
    ///
    /// On Linux, accepted sockets inherit the listener's keepalive: the system then probes a silent
    /// peer, and closes the connection with an error if the peer has vanished. Without keepalive,
    /// and with [`Config::idle_timeout`] off, such a connection stays open for ever. With
    /// [socket2](https://docs.rs/socket2):
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use glassloop::{Handler, Reactor};
    /// # type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;
    /// # fn listen<H: Handler>(reactor: &mut Reactor<H>) -> Result<()> {
    /// use socket2::{Domain, Socket, TcpKeepalive, Type};
    ///
    /// let addr: std::net::SocketAddr = "127.0.0.1:7000".parse()?;
    /// let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
    /// #[cfg(unix)] // on Windows it would let another process take the port
    /// socket.set_reuse_address(true)?;
    /// let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(60));
    /// socket.set_tcp_keepalive(&keepalive)?;
    /// socket.bind(&addr.into())?;
    /// socket.listen(4096)?; // Linux reduces it to `net.core.somaxconn`
    /// reactor.listen_on(socket.into())?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Listen`] with the system's error.
    pub fn listen_on(&mut self, listener: TcpListener) -> Result<SocketAddr, Error> {
        let addr = listener.local_addr().map_err(|source| Error::Listen {
            addr: "a given socket".into(),
            source,
        })?;
        let failed = |source| Error::Listen {
            addr: addr.to_string(),
            source,
        };
        let listener = self.net.adopt(listener).map_err(failed)?;
        self.add_listener(listener, addr)?;
        Ok(addr)
    }

    /// Adds a Unix domain socket as a listener. Removing its file is the caller's task.
    ///
    /// # Errors
    /// [`Error::Listen`] with the system's error.
    #[cfg(unix)]
    pub fn listen_on_unix(&mut self, listener: UnixListener) -> Result<Address, Error> {
        let addr = listener
            .local_addr()
            .map_or(Address::Unix(None), Address::from);
        let failed = |source| Error::Listen {
            addr: addr.to_string(),
            source,
        };
        let listener = MioNet::adopt_unix(listener).map_err(failed)?;
        self.add_listener(listener, addr.clone())?;
        Ok(addr)
    }

    /// Starts a connection to `addr`, or to the first of its addresses that answers; see
    /// [`connect_to`](Self::connect_to).
    ///
    /// **Trap:** a host name is resolved here, which blocks the loop. Resolve it in another thread,
    /// and pass addresses.
    ///
    /// # Errors
    /// [`Error::Connect`] if nothing could be started.
    pub fn connect(
        &mut self,
        addr: impl ToSocketAddrs,
        timeout: Duration,
    ) -> Result<ConnectionId, Error> {
        let addrs = addr.to_socket_addrs().map_err(|error| {
            Error::Connect(ConnectError {
                addr: None,
                failure: ConnectFailure::Other(error),
                tried: 0,
            })
        })?;
        self.connect_to(addrs.map(Address::Tcp).collect(), timeout)
    }
}

/// The poller's own descriptor, which is readable when a turn would find events. With it, this loop
/// can be one source of another loop.
///
/// Wait for it together with [`Reactor::next_deadline`].
///
/// **Trap:** it does not report work left from the last turn; `next_deadline` does. An outer loop
/// that is edge-triggered must take turns until `next_deadline` is no longer due.
#[cfg(unix)]
impl<H: Handler> AsFd for Reactor<H> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.net.as_fd()
    }
}

/// The same descriptor as a number, for APIs that need one.
#[cfg(unix)]
impl<H: Handler> AsRawFd for Reactor<H> {
    fn as_raw_fd(&self) -> RawFd {
        self.net.as_fd().as_raw_fd()
    }
}
