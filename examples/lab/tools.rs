//! The toolbox: sockets with known buffers, full connections, the kernel's queues, watched threads.

use std::error::Error;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use socket2::{Domain, SockRef, Socket, Type};

use super::whereabouts;

/// The longest wait for anything that has to happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// An error with this text.
pub(crate) fn fail(what: impl Into<Box<dyn Error + Send + Sync>>) -> io::Error {
    io::Error::other(what)
}

/// A socket with send and receive buffers of these sizes. The kernel doubles them (socket(7)); for
/// 0 it chooses a size itself.
pub(crate) fn socket(send: usize, receive: usize) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    if send > 0 {
        socket.set_send_buffer_size(send)?;
    }
    if receive > 0 {
        socket.set_recv_buffer_size(receive)?;
    }
    Ok(socket)
}

/// Binds a socket to a free port.
pub(crate) fn bind(socket: &Socket) -> io::Result<SocketAddr> {
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    let addr = socket.local_addr()?.as_socket();
    addr.ok_or_else(|| ErrorKind::AddrNotAvailable.into())
}

/// A listener on a free port.
pub(crate) fn listen() -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
}

/// The same with its address. The sockets that it accepts have buffers of these sizes.
pub(crate) fn listening(send: usize, receive: usize) -> io::Result<(TcpListener, SocketAddr)> {
    let socket = socket(send, receive)?;
    let addr = bind(&socket)?;
    socket.listen(16)?;
    Ok((socket.into(), addr))
}

/// A client of this address, with buffers of these sizes.
pub(crate) fn connected(addr: SocketAddr, send: usize, receive: usize) -> io::Result<TcpStream> {
    let socket = socket(send, receive)?;
    socket.connect(&addr.into())?;
    patient(socket.into())
}

/// Sets `TCP_NODELAY`, and timeouts: an experiment that fails must not hang.
fn patient(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Both ends of a connection, blocking: the client's, then the server's.
pub(crate) fn pair() -> io::Result<(TcpStream, TcpStream)> {
    pair_with_buffers(0)
}

/// The same with a send buffer and a receive buffer of this size, from the client to the server.
pub(crate) fn pair_with_buffers(size: usize) -> io::Result<(TcpStream, TcpStream)> {
    let (listener, addr) = listening(0, size)?;
    let client = connected(addr, size, 0)?;
    Ok((client, patient(listener.accept()?.0)?))
}

/// Writes into a connection whose other end does not read, `chunk` bytes at a time, until it would
/// block. Returns what each write took.
///
/// The socket is non-blocking afterwards. What is taken while the kernel still moves bytes into the
/// other end's buffer counts too.
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

/// The two queues of a socket: bytes that it has sent and that are not acknowledged, and bytes that
/// have come and are not read.
///
/// For a listener they are 0, and the number of connections that wait to be accepted. They come
/// from /proc/net/tcp (proc(5)).
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

/// A time in milliseconds.
pub(crate) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// A thread, and its number below /proc/self/task.
pub(crate) struct Watched<T> {
    pub(crate) id: i32,
    handle: JoinHandle<T>,
}

impl<T: Send + 'static> Watched<T> {
    pub(crate) fn spawn(work: impl FnOnce() -> T + Send + 'static) -> io::Result<Self> {
        let (tell, told) = mpsc::channel();
        let handle = thread::spawn(move || {
            let _ = tell.send(whereabouts::own_id());
            work()
        });
        let id = told.recv().map_err(io::Error::other)?;
        Ok(Self { id, handle })
    }

    /// Waits until it sleeps in this call. Returns whether it does.
    pub(crate) fn sleeps_in(&self, call: &str) -> bool {
        wait_for(|| whereabouts::sleeps_in(self.id, call))
    }

    pub(crate) fn join(self) -> io::Result<T> {
        joined(self.handle)
    }
}

/// What a thread returns.
///
/// # Errors
/// If it panicked.
pub(crate) fn joined<T>(handle: JoinHandle<T>) -> io::Result<T> {
    handle.join().map_err(|_| fail("a thread panicked"))
}

/// Waits until something is so.
///
/// # Errors
/// If it does not happen: with this text.
pub(crate) fn await_that(otherwise: &str, is_so: impl FnMut() -> bool) -> io::Result<()> {
    if wait_for(is_so) {
        Ok(())
    } else {
        Err(fail(otherwise))
    }
}

/// Waits until something is so. Returns whether it is.
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

/// Whether a call had to wait, and did not.
pub(crate) fn is_eagain(result: &io::Result<usize>) -> bool {
    result
        .as_ref()
        .is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

/// Whether a call took or gave just this many bytes.
pub(crate) fn is_count(result: &io::Result<usize>, count: usize) -> bool {
    result.as_ref().is_ok_and(|other| *other == count)
}

/// The name of an error, or what to call a success.
pub(crate) fn error_or<T>(result: &io::Result<T>, success: &str) -> String {
    result
        .as_ref()
        .err()
        .map_or_else(|| success.into(), name_of)
}

/// Closes a connection with a reset.
pub(crate) fn reset(stream: TcpStream) -> io::Result<()> {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    drop(stream);
    Ok(())
}

/// Waits until just so many bytes have come that are not read. By `FIONREAD` (tcp(7)), which costs
/// less than a look into a long /proc/net/tcp. Says whether they have.
pub(crate) fn has_come(stream: &TcpStream, bytes: usize) -> bool {
    wait_for(|| rustix::io::ioctl_fionread(stream).is_ok_and(|count| count == bytes as u64))
}
