//! TCP listeners: address resolution and socket options.

use std::io::{self, ErrorKind};
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, ToSocketAddrs};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};

use super::{BACKLOG, Options};

/// Resolves `text`, which is HOST:PORT, to all its addresses, each once. An IPv6 scope may be an
/// interface name: `[fe80::1%eth0]:8888`.
pub(super) fn resolve(text: &str) -> Result<Vec<SocketAddr>, String> {
    if let Some((ip, name, port)) = scoped(text) {
        let index = interface(name).ok_or_else(|| {
            format!("cannot listen on {text}: no network interface is called {name}")
        })?;
        return Ok(vec![SocketAddrV6::new(ip, port, 0, index).into()]);
    }
    let mut addrs = Vec::new();
    for addr in text.to_socket_addrs().into_iter().flatten() {
        if !addrs.contains(&addr) {
            addrs.push(addr); // a hosts file may have an address twice
        }
    }
    if addrs.is_empty() {
        return Err(format!(
            "cannot listen on {text}: not an address with a port, such as 127.0.0.1:8888, \
             [::1]:8888 or localhost:8888, nor unix:PATH or unix:@NAME"
        ));
    }
    Ok(addrs)
}

/// The parts of `[IP%NAME]:PORT`. `None` for a numeric scope, which std can parse.
fn scoped(text: &str) -> Option<(Ipv6Addr, &str, u16)> {
    let (host, port) = text.strip_prefix('[')?.rsplit_once("]:")?;
    let (ip, name) = host.split_once('%')?;
    let is_number = name.parse::<u32>().is_ok();
    Some((ip.parse().ok()?, name, port.parse().ok()?)).filter(|_| !is_number)
}

#[cfg(unix)]
fn interface(name: &str) -> Option<u32> {
    nix::net::if_::if_nametoindex(name).ok()
}

#[cfg(not(unix))]
fn interface(_: &str) -> Option<u32> {
    None
}

/// Opens the listener of loop `number`, with a longer backlog than std's.
///
/// The first of several loops listens before it shares the port, so that the system refuses it if
/// another server already listens there. With `reuse_port`, other processes may share the port too.
pub(super) fn bind(
    addr: SocketAddr,
    only_v6: bool,
    number: usize,
    options: Options,
) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
    // On Unix, a restarted server then need not wait for connections of the previous process to
    // leave TIME_WAIT. On other systems this option would share the port.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    if only_v6 {
        socket.set_only_v6(true)?;
    }
    set_keepalive(&socket, options.keepalive)?;
    if options.reuse_port || number > 0 {
        share_port(&socket)?;
    }
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    if options.loops > 1 && number == 0 {
        share_port(&socket)?;
    }
    Ok(socket.into())
}

#[cfg(unix)]
fn share_port(socket: &Socket) -> io::Result<()> {
    socket.set_reuse_port(true)
}

#[cfg(not(unix))]
fn share_port(_: &Socket) -> io::Result<()> {
    Err(io::Error::new(
        ErrorKind::Unsupported,
        "this system cannot share a port; use --threads 1 and no --reuse-port",
    ))
}

/// Lets the system probe a peer that is idle for `time`: three times, `time` / 3 apart. On Linux,
/// accepted sockets inherit the setting.
#[cfg(unix)]
pub(super) fn set_keepalive(
    socket: &impl std::os::fd::AsFd,
    time: Option<Duration>,
) -> io::Result<()> {
    let socket = SockRef::from(socket);
    let Some(time) = time else {
        return socket.set_keepalive(false);
    };
    let keepalive = TcpKeepalive::new().with_time(time);
    #[cfg(target_os = "linux")]
    let keepalive = keepalive
        .with_interval((time / 3).max(Duration::from_secs(1)))
        .with_retries(3);
    socket.set_tcp_keepalive(&keepalive)
}

#[cfg(not(unix))]
pub(super) fn set_keepalive(socket: &Socket, time: Option<Duration>) -> io::Result<()> {
    time.map_or(Ok(()), |time| {
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(time))
    })
}

/// Whether this machine does not have the address, or does not support its family.
pub(super) fn is_missing(error: &io::Error) -> bool {
    #[cfg(unix)]
    if error.raw_os_error() == Some(nix::errno::Errno::EAFNOSUPPORT as i32) {
        return true;
    }
    error.kind() == ErrorKind::AddrNotAvailable
}

/// The error message for an address, with a remedy.
pub(super) fn explain(addr: SocketAddr, error: &io::Error, options: Options) -> String {
    match error.kind() {
        ErrorKind::AddrInUse if options.reuse_port => format!(
            "cannot listen on {addr}: address already in use; the program that uses it \
             (see `ss -ltnp`) must run as the same user and share it too, with --reuse-port"
        ),
        ErrorKind::AddrInUse => format!(
            "cannot listen on {addr}: address already in use; stop the program that uses it \
             (see `ss -ltnp`), or choose another with --listen"
        ),
        ErrorKind::AddrNotAvailable => format!(
            "cannot listen on {addr}: this machine has no such address; \
             choose another with --listen"
        ),
        ErrorKind::PermissionDenied => {
            format!(
                "cannot listen on {addr}: permission denied; \
                 ports below 1024 need privileges, choose another with --listen"
            )
        }
        _ => format!("cannot listen on {addr}: {error}"),
    }
}
