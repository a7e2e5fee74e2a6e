//! The system's sockets: TCP and Unix domain.

use std::io::{self, IoSliceMut, Read, Write};
use std::net::Shutdown;

use mio::event::Source;
use mio::net;

use super::{Established, Stream};
#[cfg(unix)]
use crate::net::Address;

/// A listening socket.
#[derive(Debug)]
pub enum Listener {
    /// A TCP listener.
    Tcp {
        /// The socket.
        socket: net::TcpListener,
        /// True if `TCP_NODELAY` must still be set on each accepted socket.
        nodelay: bool,
    },
    /// A Unix domain listener.
    #[cfg(unix)]
    Unix(net::UnixListener),
}

/// A socket that is connected or connecting.
#[derive(Debug)]
pub enum Socket {
    /// A TCP socket.
    Tcp(net::TcpStream),
    /// A Unix domain socket.
    #[cfg(unix)]
    Unix(net::UnixStream),
}

impl Socket {
    pub(super) fn source(&mut self) -> &mut dyn Source {
        match self {
            Socket::Tcp(stream) => stream,
            #[cfg(unix)]
            Socket::Unix(stream) => stream,
        }
    }
}

impl Listener {
    pub(super) fn source(&mut self) -> &mut dyn Source {
        match self {
            Listener::Tcp { socket, .. } => socket,
            #[cfg(unix)]
            Listener::Unix(socket) => socket,
        }
    }
}

/// Converts std's address of a Unix domain socket.
#[cfg(unix)]
impl From<std::os::unix::net::SocketAddr> for Address {
    fn from(addr: std::os::unix::net::SocketAddr) -> Self {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        {
            #[cfg(target_os = "android")]
            use std::os::android::net::SocketAddrExt;
            #[cfg(target_os = "linux")]
            use std::os::linux::net::SocketAddrExt;
            if let Some(name) = addr.as_abstract_name() {
                return Address::Abstract(name.into());
            }
        }
        Address::Unix(addr.as_pathname().map(Into::into))
    }
}

impl Read for Socket {
    #[inline]
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.read(buf),
            #[cfg(unix)]
            Socket::Unix(stream) => stream.read(buf),
        }
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.read_vectored(bufs),
            #[cfg(unix)]
            Socket::Unix(stream) => stream.read_vectored(bufs),
        }
    }
}

impl Write for Socket {
    #[inline]
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.write(buf),
            #[cfg(unix)]
            Socket::Unix(stream) => stream.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Socket {
    fn established(&mut self) -> io::Result<Established> {
        match self {
            Socket::Tcp(stream) => {
                if let Some(error) = stream.take_error()? {
                    return Err(error);
                }
                match stream.peer_addr() {
                    Ok(peer) if stream.local_addr().is_ok_and(|local| local == peer) => {
                        Ok(Established::WithItself)
                    }
                    Ok(_) => Ok(Established::Yes),
                    Err(error) if error.kind() == io::ErrorKind::NotConnected => {
                        Ok(Established::NotYet)
                    }
                    Err(error) => Err(error),
                }
            }
            #[cfg(unix)]
            Socket::Unix(stream) => match stream.take_error()? {
                Some(error) => Err(error),
                None => Ok(Established::Yes),
            },
        }
    }

    fn shut_write(&mut self) -> io::Result<()> {
        match self {
            Socket::Tcp(stream) => stream.shutdown(Shutdown::Write),
            #[cfg(unix)]
            Socket::Unix(stream) => stream.shutdown(Shutdown::Write),
        }
    }
}
