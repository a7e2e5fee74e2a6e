//! Where the server listens: TCP addresses, Unix domain sockets, and what systemd hands over.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
#[cfg(unix)]
use std::os::unix::fs::{FileTypeExt, MetadataExt};
#[cfg(unix)]
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use glassloop::{Handler, Reactor};
use socket2::{Domain, Socket, Type};

/// A socket that accepts.
#[derive(Debug)]
pub(crate) enum Door {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(UnixListener),
}

impl Door {
    /// Lets a loop accept from it.
    pub(crate) fn give_to<H: Handler>(self, reactor: &mut Reactor<H>) -> Result<(), glassloop::Error> {
        match self {
            Door::Tcp(listener) => reactor.listen_on(listener).map(drop),
            #[cfg(unix)]
            Door::Unix(listener) => reactor.listen_on_unix(listener).map(drop),
        }
    }

    #[cfg(unix)]
    fn try_clone(&self) -> io::Result<Self> {
        match self {
            Door::Tcp(listener) => listener.try_clone().map(Door::Tcp),
            #[cfg(unix)]
            Door::Unix(listener) => listener.try_clone().map(Door::Unix),
        }
    }
}

/// All that the server listens on.
#[derive(Debug)]
pub(crate) struct Doors {
    /// For each loop those that it accepts from.
    pub(crate) of_loops: Vec<Vec<Door>>,
    /// As they are announced, each once.
    pub(crate) names: Vec<String>,
    /// Socket files that were made here, each with its number in the file system; they go when the server does.
    files: Vec<(PathBuf, u64)>,
}

impl Drop for Doors {
    fn drop(&mut self) {
        for (path, number) in &self.files {
            // Unless somebody else has put his own there meanwhile.
            if file_number(path) == Some(*number) {
                let _ = std::fs::remove_file(path);
            }
        }
    }
}

impl Doors {
    /// Opens all of `listen`, and takes what was handed over, for so many loops.
    ///
    /// For a TCP address each loop gets a socket of its own, all on the same port (`SO_REUSEPORT`): the system spreads the newcomers. Of the others all get the same one.
    pub(crate) fn open(listen: &[String], loops: usize) -> Result<Self, Box<dyn Error>> {
        let mut doors = Self { of_loops: (0..loops).map(|_| Vec::new()).collect(), names: Vec::new(), files: Vec::new() };
        doors.take_handed_over()?;
        let default = ["127.0.0.1:8888".to_string()];
        let listen = if listen.is_empty() && doors.names.is_empty() { &default[..] } else { listen };
        for text in listen {
            match text.strip_prefix("unix:") {
                Some(path) => doors.open_unix(path)?,
                None => doors.open_tcp(text)?,
            }
        }
        Ok(doors)
    }

    fn open_tcp(&mut self, text: &str) -> Result<(), String> {
        let addr = text.to_socket_addrs().ok().and_then(|mut addrs| addrs.next());
        let Some(mut addr) = addr else {
            return Err(format!(
                "cannot listen on {text}: not an address with a port, such as 127.0.0.1:8888, [::1]:8888 or localhost:8888, nor unix:PATH"
            ));
        };
        let shared = self.of_loops.len() > 1;
        for doors in &mut self.of_loops {
            let listener = bind(addr, shared).and_then(|listener| {
                addr = listener.local_addr()?; // with port 0 the first one chooses
                Ok(listener)
            });
            doors.push(Door::Tcp(listener.map_err(|error| explain(addr, &error))?));
        }
        self.names.push(addr.to_string());
        Ok(())
    }

    /// One socket for all loops.
    #[cfg(unix)]
    fn share(&mut self, name: String, door: Door) -> io::Result<()> {
        let (first, others) = self.of_loops.split_first_mut().expect("there is at least one loop");
        for doors in others {
            doors.push(door.try_clone()?);
        }
        first.push(door);
        self.names.push(name);
        Ok(())
    }

    #[cfg(not(unix))]
    fn open_unix(&mut self, path: &str) -> Result<(), Box<dyn Error>> {
        Err(format!("cannot listen on unix:{path}: this system has no Unix domain sockets that the server can use").into())
    }

    #[cfg(not(unix))]
    fn take_handed_over(&mut self) -> Result<(), Box<dyn Error>> {
        Ok(())
    }

    #[cfg(unix)]
    fn open_unix(&mut self, path: &str) -> Result<(), Box<dyn Error>> {
        let failed = |error: io::Error| format!("cannot listen on unix:{path}: {error}");
        let socket = || Socket::new(Domain::UNIX, Type::STREAM, None);
        if path.is_empty() {
            return Err("cannot listen on unix: with no path; unix:/run/submit.sock is a good one".into());
        }
        let addr = socket2::SockAddr::unix(path).map_err(failed)?;
        // A socket that a predecessor has left behind, and nobody listens at. Another kind of file refuses as well, and is left alone.
        let refused = |error: io::Error| error.kind() == ErrorKind::ConnectionRefused;
        let is_socket = std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
        let probe = socket().map_err(failed)?;
        probe.set_nonblocking(true).map_err(failed)?; // a living one whose queue is full would keep us waiting
        if is_socket && probe.connect(&addr).is_err_and(refused) {
            std::fs::remove_file(path).map_err(failed)?;
        }
        let socket = socket().map_err(failed)?;
        socket.bind(&addr).map_err(|error| match error.kind() {
            ErrorKind::AddrInUse => {
                format!("cannot listen on unix:{path}: another program listens there, or the file is no socket; choose another path with --listen")
            }
            _ => failed(error),
        })?;
        self.files.extend(file_number(path.as_ref()).map(|number| (path.into(), number)));
        socket.listen(BACKLOG).map_err(failed)?;
        self.share(format!("unix:{path}"), Door::Unix(socket.into())).map_err(failed)?;
        Ok(())
    }

    /// Takes the sockets that systemd has opened for this process: `LISTEN_PID` and `LISTEN_FDS`, see `sd_listen_fds(3)`.
    #[cfg(unix)]
    fn take_handed_over(&mut self) -> Result<(), Box<dyn Error>> {
        let mut handed = listenfd::ListenFd::from_env();
        for number in 0..handed.len() {
            let failed = |error: io::Error| format!("socket {number} of LISTEN_FDS is of no use: {error}");
            if let Ok(Some(listener)) = handed.take_tcp_listener(number) {
                is_listening(&listener).map_err(failed)?;
                let name = listener.local_addr().map_err(failed)?.to_string();
                self.share(name, Door::Tcp(listener)).map_err(failed)?;
            } else if let Some(listener) = handed.take_unix_listener(number).map_err(failed)? {
                is_listening(&listener).map_err(failed)?;
                let addr = listener.local_addr().map_err(failed)?;
                let name = addr.as_pathname().map_or("unix:(unnamed)".to_string(), |path| format!("unix:{}", path.display()));
                self.share(name, Door::Unix(listener)).map_err(failed)?;
            }
        }
        Ok(())
    }
}

/// Whoever hands a socket over may have taken the wrong one.
#[cfg(unix)]
fn is_listening(socket: &impl std::os::fd::AsFd) -> io::Result<()> {
    if socket2::SockRef::from(socket).is_listener()? { Ok(()) } else { Err(io::Error::new(ErrorKind::InvalidInput, "it does not listen")) }
}

/// What tells this file from another one of the same name.
#[cfg(unix)]
fn file_number(path: &Path) -> Option<u64> {
    std::fs::symlink_metadata(path).ok().map(|file| file.ino())
}

#[cfg(not(unix))]
fn file_number(_: &Path) -> Option<u64> {
    None
}

/// Connections that may wait to be accepted; the system cuts it to its own limit (`net.core.somaxconn` on Linux).
const BACKLOG: i32 = 4096;

/// Makes a TCP listener, with a longer backlog than std's.
fn bind(addr: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
    // On Unix: so that a restarted server need not wait for its predecessor's connections to fade. Elsewhere it would share the port.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    if shared {
        share_port(&socket)?;
    }
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(unix)]
fn share_port(socket: &Socket) -> io::Result<()> {
    socket.set_reuse_port(true)
}

#[cfg(not(unix))]
fn share_port(_: &Socket) -> io::Result<()> {
    Err(io::Error::new(ErrorKind::Unsupported, "this system cannot share a port; use --threads 1"))
}

/// What happened to this address, and what to do.
fn explain(addr: SocketAddr, error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::AddrInUse => format!(
            "cannot listen on {addr}: address already in use; stop the program that has it (`ss -ltnp` names it), or choose another with --listen"
        ),
        ErrorKind::AddrNotAvailable => format!("cannot listen on {addr}: this machine has no such address; choose another with --listen"),
        ErrorKind::PermissionDenied => {
            format!("cannot listen on {addr}: permission denied; ports below 1024 are for the administrator, choose another with --listen")
        }
        _ => format!("cannot listen on {addr}: {error}"),
    }
}
