//! The server's listeners: TCP addresses, Unix domain sockets, and sockets passed by systemd.

mod tcp;
#[cfg(unix)]
mod unix;

use std::error::Error;
use std::io;
use std::net::{SocketAddr, TcpListener};
#[cfg(unix)]
use std::os::unix::net::UnixListener;
use std::time::Duration;

use glassloop::{Handler, Reactor};

#[cfg(unix)]
use unix::SocketFile;

/// Connections that may wait to be accepted. The system reduces it to its own limit
/// (`net.core.somaxconn` on Linux).
const BACKLOG: i32 = 4096;

/// Options of all listeners.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// Number of loops that accept.
    pub(crate) loops: usize,
    /// Whether other processes may listen on the same TCP ports.
    pub(crate) reuse_port: bool,
    /// Idle time after which the system probes a TCP peer.
    pub(crate) keepalive: Option<Duration>,
}

/// A listening socket.
#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(UnixListener),
}

impl Listener {
    /// Adds this listener to a loop.
    pub(crate) fn add_to<H: Handler>(
        self,
        reactor: &mut Reactor<H>,
    ) -> Result<(), glassloop::Error> {
        match self {
            Listener::Tcp(listener) => reactor.listen_on(listener).map(drop),
            #[cfg(unix)]
            Listener::Unix(listener) => reactor.listen_on_unix(listener).map(drop),
        }
    }

    #[cfg(unix)]
    fn try_clone(&self) -> io::Result<Self> {
        match self {
            Listener::Tcp(listener) => listener.try_clone().map(Listener::Tcp),
            Listener::Unix(listener) => listener.try_clone().map(Listener::Unix),
        }
    }
}

/// All the server's listeners.
#[derive(Debug)]
pub(crate) struct Listeners {
    options: Options,
    /// For each loop, the listeners that it accepts from.
    pub(crate) per_loop: Vec<Vec<Listener>>,
    /// The addresses to announce, each once.
    pub(crate) names: Vec<String>,
    /// TCP addresses that are open; none is opened twice.
    addrs: Vec<SocketAddr>,
    /// Files of Unix domain sockets; they are removed when the server ends.
    #[cfg(unix)]
    files: Vec<SocketFile>,
}

/// A parsed value of `--listen`.
enum ListenAddress<'a> {
    /// The text, and all addresses of it: several if the host name has several.
    Tcp(&'a str, Vec<SocketAddr>),
    /// The text after `unix:`.
    Unix(&'a str),
}

impl Listeners {
    /// Opens the addresses in `listen`, and takes the sockets passed by systemd.
    ///
    /// For a TCP address each loop gets a socket of its own, all on the same port (`SO_REUSEPORT`),
    /// and the system spreads the connections. Unix sockets and passed sockets are shared by all
    /// loops.
    pub(crate) fn open(listen: &[String], options: Options) -> Result<Self, Box<dyn Error>> {
        let mut listeners = Self {
            options,
            per_loop: (0..options.loops).map(|_| Vec::new()).collect(),
            names: Vec::new(),
            addrs: Vec::new(),
            #[cfg(unix)]
            files: Vec::new(),
        };
        listeners.take_inherited()?;
        let default = ["127.0.0.1:8888".to_string()];
        let listen = if listen.is_empty() && listeners.names.is_empty() {
            &default[..]
        } else {
            listen
        };
        let addresses = listen.iter().map(|text| match text.strip_prefix("unix:") {
            Some(path) => Ok(ListenAddress::Unix(path)),
            None => tcp::resolve(text).map(|addrs| ListenAddress::Tcp(text, addrs)),
        });
        let addresses: Vec<ListenAddress<'_>> = addresses.collect::<Result<_, _>>()?;
        let all: Vec<SocketAddr> = addresses
            .iter()
            .flat_map(ListenAddress::addrs)
            .chain(&listeners.addrs)
            .copied()
            .collect();
        for address in addresses {
            match address {
                ListenAddress::Tcp(text, addrs) => listeners.open_all(text, &addrs, &all)?,
                ListenAddress::Unix(path) => listeners.open_unix(path)?,
            }
        }
        Ok(listeners)
    }

    /// Opens every address of a name. Skips an address that this machine does not have, unless it
    /// is the only one.
    fn open_all(
        &mut self,
        text: &str,
        addrs: &[SocketAddr],
        all: &[SocketAddr],
    ) -> Result<(), String> {
        let (mut opened, mut missing) = (0, None);
        for &addr in addrs {
            match self.open_tcp(addr, all) {
                Ok(()) => opened += 1,
                Err(error) if tcp::is_missing(&error) => {
                    missing = Some(tcp::explain(addr, &error, self.options));
                }
                Err(error) => return Err(self.explain(addr, &error)),
            }
        }
        match missing {
            Some(problem) if opened == 0 => return Err(problem),
            Some(problem) => log::warn!("{problem}; {text} is served at its other addresses"),
            None => {}
        }
        Ok(())
    }

    /// The error message for `addr`: the port is used by another process, or by this server itself.
    fn explain(&self, addr: SocketAddr, error: &io::Error) -> String {
        let own = self.addrs.iter().find(|own| own.port() == addr.port());
        match own {
            Some(own) if error.kind() == io::ErrorKind::AddrInUse => format!(
                "cannot listen on {addr}: this server listens on {own} already, which takes the \
                 port of both; name one of them"
            ),
            _ => tcp::explain(addr, error, self.options),
        }
    }

    fn open_tcp(&mut self, mut addr: SocketAddr, all: &[SocketAddr]) -> io::Result<()> {
        if addr.port() != 0 && self.addrs.contains(&addr) {
            return Ok(()); // given twice
        }
        // The IPv6 wildcard address binds the port for IPv4 too. It must not if an IPv4 address
        // with the same port is also given.
        let is_ipv6_wildcard = addr.is_ipv6() && addr.ip().is_unspecified();
        let only_v6 = is_ipv6_wildcard
            && addr.port() != 0
            && all
                .iter()
                .any(|other| other.is_ipv4() && other.port() == addr.port());
        for (number, listeners) in self.per_loop.iter_mut().enumerate() {
            let listener = tcp::bind(addr, only_v6, number, self.options)?;
            addr = listener.local_addr()?; // with port 0, all use the port of the first
            listeners.push(Listener::Tcp(listener));
        }
        self.names.push(addr.to_string());
        self.addrs.push(addr);
        Ok(())
    }

    /// Gives one socket to all loops.
    #[cfg(unix)]
    fn share(&mut self, name: String, listener: Listener) -> io::Result<()> {
        let (first, others) = self
            .per_loop
            .split_first_mut()
            .expect("there is at least one loop");
        for listeners in others {
            listeners.push(listener.try_clone()?);
        }
        first.push(listener);
        self.names.push(name);
        Ok(())
    }

    #[cfg(not(unix))]
    fn open_unix(&mut self, path: &str) -> Result<(), Box<dyn Error>> {
        Err(format!(
            "cannot listen on unix:{path}: \
             this system has no Unix domain sockets that the server can use"
        )
        .into())
    }

    #[cfg(not(unix))]
    fn take_inherited(&mut self) -> Result<(), Box<dyn Error>> {
        Ok(())
    }

    #[cfg(unix)]
    fn open_unix(&mut self, path: &str) -> Result<(), Box<dyn Error>> {
        let listener = if let Some(name) = path.strip_prefix('@') {
            unix::listen_abstract(name)?
        } else {
            let (listener, file) = SocketFile::listen(path)?;
            self.files.push(file);
            listener
        };
        self.share(format!("unix:{path}"), Listener::Unix(listener))?;
        Ok(())
    }

    /// Takes the sockets that systemd has passed to this process (`LISTEN_PID` and `LISTEN_FDS`,
    /// see `sd_listen_fds(3)`).
    #[cfg(unix)]
    fn take_inherited(&mut self) -> Result<(), Box<dyn Error>> {
        let mut inherited = listenfd::ListenFd::from_env();
        for number in 0..inherited.len() {
            let failed =
                |error: io::Error| format!("socket {number} of LISTEN_FDS is not usable: {error}");
            if let Ok(Some(listener)) = inherited.take_tcp_listener(number) {
                is_listening(&listener).map_err(failed)?;
                tcp::set_keepalive(&listener, self.options.keepalive).map_err(failed)?;
                let addr = listener.local_addr().map_err(failed)?;
                self.share(addr.to_string(), Listener::Tcp(listener))
                    .map_err(failed)?;
                self.addrs.push(addr);
            } else if let Some(listener) = inherited.take_unix_listener(number).map_err(failed)? {
                is_listening(&listener).map_err(failed)?;
                let addr = glassloop::Address::from(listener.local_addr().map_err(failed)?);
                self.share(addr.to_string(), Listener::Unix(listener))
                    .map_err(failed)?;
            }
        }
        Ok(())
    }
}

impl ListenAddress<'_> {
    fn addrs(&self) -> &[SocketAddr] {
        match self {
            ListenAddress::Tcp(_, addrs) => addrs,
            ListenAddress::Unix(_) => &[],
        }
    }
}

/// Checks that an inherited socket is a listening one: the launcher may have passed another kind.
#[cfg(unix)]
fn is_listening(socket: &impl std::os::fd::AsFd) -> io::Result<()> {
    if socket2::SockRef::from(socket).is_listener()? {
        Ok(())
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a listening socket",
        ))
    }
}
