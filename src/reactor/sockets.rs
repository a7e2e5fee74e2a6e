//! A loop over the real outside world: sockets by their addresses, and the poller as somebody else's source.

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
    /// A loop with the default limits that listens on `addr`.
    ///
    /// # Errors
    /// [`Error::Listen`] if the address is taken or is none, [`Error::Setup`] if there is no poller to be had.
    pub fn bind(addr: impl ToSocketAddrs + fmt::Debug, handler: H) -> Result<Self, Error> {
        let mut reactor = Self::new(handler, Config::default())?;
        reactor.listen(addr)?;
        Ok(reactor)
    }

    /// A loop that listens nowhere yet.
    ///
    /// # Errors
    /// [`Error::Config`] if the limits contradict each other, [`Error::Setup`] if there is no poller to be had.
    pub fn new(handler: H, config: Config) -> Result<Self, Error> {
        config.check()?;
        let net = MioNet::new(config.events_per_turn, Token::Waker.pack(), config.nodelay)
            .map_err(Error::Setup)?;
        Self::with_net(net, handler, config)
    }

    /// Listens on `addr` too; port 0 lets the system choose. Returns the real address.
    ///
    /// Of a name with several addresses, the first that can be bound is used, and no other.
    ///
    /// The backlog (connections that wait to be accepted) is std's and mio's: 128 on most systems.
    ///
    /// **Trap:** if more connections than that arrive at once, Linux drops the rest, and their
    /// systems try again after one second, then after two more, and so on. A server that expects
    /// bursts makes its own listener, with a longer backlog, and gives it to
    /// [`listen_on`](Self::listen_on), which has an example.
    ///
    /// # Errors
    /// [`Error::Listen`] if the address is taken, or is none.
    pub fn listen(&mut self, addr: impl ToSocketAddrs + fmt::Debug) -> Result<SocketAddr, Error> {
        let text = format!("{addr:?}").trim_matches('"').to_string();
        let listener =
            TcpListener::bind(addr).map_err(|source| Error::Listen { addr: text, source })?;
        self.listen_on(listener)
    }

    /// Accepts from a listener that was made elsewhere: by another crate, by another process. Returns its address.
    ///
    /// It is made non-blocking, and gets [`Config::nodelay`]. Its other options stay as they are.
    ///
    /// On Linux, accepted sockets inherit the listener's keepalive: the system then probes a peer
    /// that is silent, and the connection of one that has vanished ends with an error. Without it,
    /// and with [`Config::idle_timeout`] off, such a connection stays for ever. With
    /// [socket2](https://docs.rs/socket2):
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # fn listen<H: glassloop::Handler>(reactor: &mut glassloop::Reactor<H>) -> Result<(), Box<dyn std::error::Error>> {
    /// use socket2::{Domain, Socket, TcpKeepalive, Type};
    ///
    /// let addr: std::net::SocketAddr = "127.0.0.1:7000".parse()?;
    /// let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
    /// #[cfg(unix)] // on Windows it would let another process take the port
    /// socket.set_reuse_address(true)?;
    /// socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(Duration::from_secs(60)))?;
    /// socket.bind(&addr.into())?;
    /// socket.listen(4096)?; // Linux reduces it to `net.core.somaxconn`
    /// reactor.listen_on(socket.into())?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Listen`] with what the system says.
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

    /// The same for a Unix domain socket. Its file is the caller's to remove.
    ///
    /// # Errors
    /// [`Error::Listen`] with what the system says.
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

    /// Begins a connection to `addr`, to the first that answers if there are several; see [`connect_to`](Self::connect_to) for the particulars.
    ///
    /// **Trap:** a host's name is looked up here and now, and the loop stands still meanwhile. Look it up elsewhere, and give addresses.
    ///
    /// # Errors
    /// [`Error::Connect`] if nothing could be begun.
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

/// The poller's own descriptor: readable when a turn would find events. So this loop can be one source of another one.
///
/// Wait for it together with [`Reactor::next_deadline`]. **Trap:** it says nothing of work left undone, which
/// `next_deadline` does; and a loop that waits for edges must take turns until that is no longer due.
#[cfg(unix)]
impl<H: Handler> AsFd for Reactor<H> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.net.as_fd()
    }
}

/// The same as a number, for who cannot take it otherwise.
#[cfg(unix)]
impl<H: Handler> AsRawFd for Reactor<H> {
    fn as_raw_fd(&self) -> RawFd {
        self.net.as_fd().as_raw_fd()
    }
}
