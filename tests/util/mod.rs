//! Helpers for tests: a server in a thread, a blocking client, and functions that wait.

#![allow(dead_code, unreachable_pub)] // each test file uses its own part

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use glassloop::submit::Dialect;
use glassloop::{Config, Counters, Handle, Handler, Reactor, Step, Stop, Turn};
use socket2::{Domain, Socket, Type};

#[path = "../../examples/server/session.rs"]
mod session;

pub(crate) use session::Service;

/// The longest that a test waits for anything. A test that passes never waits that long.
pub const TIMEOUT: Duration = Duration::from_secs(20);

/// Returns the example server's handler, with its defaults.
pub(crate) fn service() -> Service {
    Service {
        dialect: Dialect::Text,
        max_frame: 65_536,
        require_conn: false,
    }
}

/// A reactor that runs in its own thread until it is stopped or dropped.
pub struct Server<M = ()> {
    pub addr: SocketAddr,
    pub handle: Handle<M>,
    close_reasons: Receiver<String>,
    thread: Option<JoinHandle<Counters>>,
}

impl Server {
    pub fn submit() -> Self {
        Self::start(service(), Config::default())
    }
}

impl<M: Send + 'static> Server<M> {
    pub fn start<H: Handler<Mail = M> + Send + 'static>(handler: H, config: Config) -> Self {
        let (sender, receiver) = mpsc::channel();
        let (reasons, close_reasons) = mpsc::channel();
        let thread = thread::spawn(move || {
            let mut reactor = Reactor::new(handler, config).unwrap();
            let addr = reactor.listen((unique_host(), 0)).unwrap();
            reactor.set_observer(move |step: &Step<'_>| {
                if let Step::Closed { reason, .. } = step {
                    let _ = reasons.send(reason.to_string());
                }
            });
            sender.send((addr, reactor.handle())).unwrap();
            reactor.run().unwrap();
            assert_eq!(
                (reactor.connections(), reactor.buffered()),
                (0, 0),
                "a stopped loop holds nothing"
            );
            assert_eq!(
                reactor.counters().internal_errors,
                0,
                "the loop's own code panicked"
            );
            reactor.counters()
        });
        let (addr, handle) = receiver.recv().unwrap();
        Self {
            addr,
            handle,
            close_reasons,
            thread: Some(thread),
        }
    }

    pub fn connect(&self) -> Client {
        Client::connect(self.addr)
    }

    /// Waits until a connection closes, and returns its close reason.
    pub fn next_close_reason(&self) -> String {
        self.close_reasons
            .recv_timeout(TIMEOUT)
            .expect("a connection should have closed")
    }

    /// Stops the reactor gracefully and returns its counters.
    pub fn stop(mut self) -> Counters {
        self.handle.stop(Stop::Gracefully);
        let thread = self.thread.take().unwrap();
        wait_until("the loop to stop", || thread.is_finished());
        thread.join().expect("the loop must not panic")
    }
}

impl<M> Drop for Server<M> {
    fn drop(&mut self) {
        self.handle.stop(Stop::AtOnce);
        if let Some(thread) = self.thread.take() {
            let outcome = thread.join();
            assert!(
                thread::panicking() || outcome.is_ok(),
                "the loop must not panic"
            );
        }
    }
}

/// Returns a loopback address that no other test uses, so that no other test takes a port that is
/// released there.
///
/// Linux has all of 127.0.0.0/8; elsewhere it is 127.0.0.1, where a released port may be taken.
pub fn unique_host() -> Ipv4Addr {
    static HOSTS: AtomicU32 = AtomicU32::new(0);
    if !cfg!(target_os = "linux") {
        return Ipv4Addr::LOCALHOST;
    }
    // 127.64.0.1 and up: many tests use 127.0.0.1, and some tests dial from 127.1.0.0/16.
    let number = std::process::id()
        .wrapping_mul(256)
        .wrapping_add(HOSTS.fetch_add(1, Ordering::Relaxed))
        % ((1 << 22) - 2);
    Ipv4Addr::from_bits(Ipv4Addr::new(127, 64, 0, 1).to_bits() + number)
}

/// Returns a bound socket that does not listen yet, and its address.
pub fn bound() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket
        .bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())
        .unwrap();
    let addr = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, addr)
}

/// A listener that answers no connect because its backlog is full.
///
/// The backlog stays full as long as the sockets in `queue` are open.
pub struct FullListener {
    pub addr: SocketAddr,
    pub listener: Socket,
    pub queue: Vec<TcpStream>,
}

impl FullListener {
    /// Returns `None` on a system whose backlog does not fill. Linux drops the SYN of a connection
    /// that has no room in the backlog.
    pub fn listen() -> Option<Self> {
        let (listener, addr) = bound();
        listener.listen(0).unwrap();
        let mut queue = Vec::new();
        for _ in 0..16 {
            match TcpStream::connect_timeout(&addr, Duration::from_millis(200)) {
                Ok(stream) => queue.push(stream),
                Err(error) if error.kind() == ErrorKind::TimedOut => {
                    return Some(Self {
                        addr,
                        listener,
                        queue,
                    });
                }
                Err(error) => panic!("{error}"),
            }
        }
        println!("not tested: the backlog of this system does not fill");
        None
    }
}

/// Returns a reactor that the test turns itself, with a long backlog, and its address.
pub fn reactor<H: Handler>(handler: H, config: Config) -> (Reactor<H>, SocketAddr) {
    let (socket, _) = bound();
    socket.listen(4096).unwrap();
    let mut reactor = Reactor::new(handler, config).unwrap();
    let addr = reactor.listen_on(socket.into()).unwrap();
    (reactor, addr)
}

/// Returns the address on which a reactor listens.
pub fn addr_of<H: Handler>(reactor: &Reactor<H>) -> SocketAddr {
    reactor.local_addrs()[0].tcp().unwrap()
}

/// A blocking client that checks what it receives.
pub struct Client {
    pub stream: TcpStream,
}

impl Client {
    pub fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream.set_write_timeout(Some(TIMEOUT)).unwrap();
        Self { stream }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    #[track_caller]
    pub fn expect(&mut self, expected: &[u8]) {
        let mut got = vec![0; expected.len()];
        self.stream
            .read_exact(&mut got)
            .unwrap_or_else(|error| panic!("{} bytes expected: {error}", expected.len()));
        assert!(
            got == expected,
            "got {}\nexpected {}",
            got.escape_ascii(),
            expected.escape_ascii()
        );
    }

    /// Expects an orderly end of the connection, not a reset.
    #[track_caller]
    pub fn expect_eof(&mut self) {
        let mut rest = Vec::new();
        self.stream
            .read_to_end(&mut rest)
            .expect("expected an orderly end");
        assert!(rest.is_empty(), "{} before the end", rest.escape_ascii());
    }

    /// Expects the end of the connection, orderly or by a reset.
    #[track_caller]
    pub fn expect_closed(&mut self) {
        match self.stream.read(&mut [0; 64]) {
            Ok(0) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            other => panic!("the connection should be closed: {other:?}"),
        }
    }

    pub fn shut_write(&mut self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// Closes the connection with a reset.
    pub fn reset(self) {
        socket2::SockRef::from(&self.stream)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    }
}

/// Waits until `done` returns true.
#[track_caller]
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + TIMEOUT;
    while !done() {
        assert!(Instant::now() < end, "timed out while waiting for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Turns the loop until `done` returns true.
#[track_caller]
pub fn turn_until<H: Handler>(
    reactor: &mut Reactor<H>,
    mut done: impl FnMut(&mut Reactor<H>) -> bool,
) {
    let end = Instant::now() + TIMEOUT;
    while !done(reactor) {
        assert!(Instant::now() < end, "timed out: {reactor:?}");
        if reactor.turn(Some(Duration::from_millis(1))).unwrap() == Turn::Stopped {
            assert!(done(reactor), "the loop stopped too early");
            return;
        }
    }
}

/// Encodes a submit request.
pub fn submit(id: [u8; 8], payload: &[u8]) -> Vec<u8> {
    request(0x02, id, payload)
}

pub fn request(command: u8, id: [u8; 8], payload: &[u8]) -> Vec<u8> {
    let mut packet = u32::try_from(13 + payload.len())
        .unwrap()
        .to_be_bytes()
        .to_vec();
    packet.push(command);
    packet.extend(id);
    packet.extend(payload);
    packet
}

/// Encodes the ack of a submit, in the dialect of the lesson's text.
pub fn ack(id: [u8; 8]) -> Vec<u8> {
    request(0x82, id, &[0])
}

pub fn id(n: u64) -> [u8; 8] {
    glassloop::submit::Id::nth(n).0
}
