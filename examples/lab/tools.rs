//! What experiments are made of: connections with buffers of known sizes, full ones, and a look into the kernel's queues.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, SockRef, Socket, Type};

/// Nobody waits longer for anything that is to happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// A listener on a free port.
pub(crate) fn listen() -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
}

/// Both ends of a connection, blocking.
pub(crate) fn pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = listen()?;
    let client = TcpStream::connect(listener.local_addr()?)?;
    let (server, _) = listener.accept()?;
    for end in [&client, &server] {
        end.set_nodelay(true)?;
        end.set_read_timeout(Some(PATIENCE))?; // an experiment that fails is not to stand still
    }
    Ok((client, server))
}

/// The same with send and receive buffers of this size, so that the kernel does not choose them; it doubles what is asked for (socket(7)).
pub(crate) fn pair_with_buffers(size: usize) -> io::Result<(TcpStream, TcpStream)> {
    let (listener, addr) = {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_recv_buffer_size(size)?; // those whom it accepts have it from the beginning
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        socket.listen(1)?;
        let addr = socket.local_addr()?.as_socket().expect("it is an IPv4 one");
        (TcpListener::from(socket), addr)
    };
    let client = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    client.set_send_buffer_size(size)?;
    client.connect(&addr.into())?;
    let (server, _) = listener.accept()?;
    server.set_read_timeout(Some(PATIENCE))?;
    Ok((client.into(), server))
}

/// Writes into a connection whose other end does not read, `chunk` bytes at a time, until it would block. Returns what each write took.
///
/// The socket is non-blocking afterwards. What is taken while the kernel still moves bytes into the other end's buffer counts too.
pub(crate) fn fill(mut stream: &TcpStream, chunk: usize) -> io::Result<Vec<usize>> {
    stream.set_nonblocking(true)?;
    let (bytes, mut taken, mut blocked) = (vec![b'x'; chunk], Vec::new(), 0);
    while blocked < 10 {
        match stream.write(&bytes) {
            Ok(count) => {
                taken.push(count);
                blocked = 0;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                blocked += 1;
                thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(taken)
}

/// Reads all that is there now, without waiting for more. The socket is non-blocking afterwards.
pub(crate) fn drain(mut stream: &TcpStream) -> io::Result<usize> {
    stream.set_nonblocking(true)?;
    let (mut buffer, mut total) = (vec![0; 65_536], 0);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(count) => total += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(total),
            Err(error) => return Err(error),
        }
    }
}

/// The two queues of a socket: bytes that it has sent and that are not acknowledged, and bytes that have come and are not read.
///
/// For a listener they are 0, and how many wait to be accepted. From /proc/net/tcp (proc(5)), where anybody can look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Queues {
    pub(crate) sending: usize,
    pub(crate) received: usize,
}

/// The queues of one end of a connection, or of a listener (which has no `peer`).
pub(crate) fn queues(local: SocketAddr, peer: Option<SocketAddr>) -> io::Result<Queues> {
    let peer = peer.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
    let wanted = [hex(local), hex(peer)];
    let table = fs::read_to_string("/proc/net/tcp")?;
    let found = table.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let ends = [fields.next()?, fields.next()?];
        let (sending, received) = fields.nth(1)?.split_once(':')?;
        let number = |text| usize::from_str_radix(text, 16).unwrap_or(0);
        (ends == wanted).then(|| Queues {
            sending: number(sending),
            received: number(received),
        })
    });
    found.ok_or_else(|| {
        io::Error::other(format!("/proc/net/tcp knows no socket {local} with {peer}"))
    })
}

/// The queues of one end of a connection.
pub(crate) fn queues_of(stream: &TcpStream) -> io::Result<Queues> {
    queues(stream.local_addr()?, Some(stream.peer_addr()?))
}

/// An address as /proc/net/tcp writes it.
fn hex(addr: SocketAddr) -> String {
    let SocketAddr::V4(addr) = addr else {
        return addr.to_string();
    };
    format!(
        "{:08X}:{:04X}",
        u32::from_le_bytes(addr.ip().octets()),
        addr.port()
    )
}

/// How long something takes, and what it comes to.
pub(crate) fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let begun = Instant::now();
    let result = work();
    (begun.elapsed(), result)
}

/// Waits until something is so, with a pause between two looks. Says whether it was.
pub(crate) fn wait_for(mut is_so: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if is_so() {
            return true;
        }
        thread::sleep(Duration::from_millis(2));
    }
    false
}

/// A number with its thousands apart: 3,910,656.
pub(crate) fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let parts: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|part| std::str::from_utf8(part).expect("digits"))
        .collect();
    parts.join(",")
}

/// What an error is called in the manual: `EPIPE`, say.
pub(crate) fn name_of(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(4) => "EINTR".into(),
        Some(11) => "EAGAIN".into(),
        Some(24) => "EMFILE".into(),
        Some(32) => "EPIPE".into(),
        Some(98) => "EADDRINUSE".into(),
        Some(101) => "ENETUNREACH".into(),
        Some(104) => "ECONNRESET".into(),
        Some(110) => "ETIMEDOUT".into(),
        Some(111) => "ECONNREFUSED".into(),
        Some(115) => "EINPROGRESS".into(),
        _ => error.to_string(),
    }
}

/// What a call came to, as strace would write it: `5`, or `-1 EAGAIN`.
pub(crate) fn result(result: &io::Result<usize>) -> String {
    match result {
        Ok(count) => count.to_string(),
        Err(error) => format!("-1 {}", name_of(error)),
    }
}

/// Closes a connection with a reset.
pub(crate) fn reset(stream: TcpStream) -> io::Result<()> {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    drop(stream);
    Ok(())
}

/// Waits until just so many bytes have come that are not read. By `FIONREAD` (tcp(7)), which costs less than a look into a long /proc/net/tcp. Says whether they have.
pub(crate) fn has_come(stream: &TcpStream, bytes: usize) -> bool {
    wait_for(|| rustix::io::ioctl_fionread(stream).is_ok_and(|count| count == bytes as u64))
}
