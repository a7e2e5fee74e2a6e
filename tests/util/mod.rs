//! The words that the tests speak: a server in a thread, and a client that expects.

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

/// No test waits longer for anything; none waits that long unless it fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The example server's service, with its defaults.
pub(crate) fn service() -> Service {
    Service {
        dialect: Dialect::Text,
        max_frame: 65_536,
        require_conn: false,
    }
}

/// A reactor that runs in a thread of its own until it is stopped or dropped.
pub struct Server<M = ()> {
    pub addr: SocketAddr,
    pub handle: Handle<M>,
    ends: Receiver<String>,
    thread: Option<JoinHandle<Counters>>,
}

impl Server {
    pub fn submit() -> Self {
        Self::start(service(), Config::default())
    }
}

impl<M: Send + 'static> Server<M> {
    pub fn start<H: Handler<Mail = M> + Send + 'static>(handler: H, config: Config) -> Self {
        let (tell, told) = mpsc::channel();
        let (end, ends) = mpsc::channel();
        let thread = thread::spawn(move || {
            let mut reactor = Reactor::new(handler, config).unwrap();
            let addr = reactor.listen((own_host(), 0)).unwrap();
            reactor.set_observer(move |step: &Step<'_>| {
                if let Step::Closed { reason, .. } = step {
                    let _ = end.send(reason.to_string());
                }
            });
            tell.send((addr, reactor.handle())).unwrap();
            reactor.run().unwrap();
            assert_eq!(
                (reactor.connections(), reactor.buffered()),
                (0, 0),
                "a stopped loop holds nothing"
            );
            assert_eq!(
                reactor.counters().internal_errors,
                0,
                "the loop's own code has panicked"
            );
            reactor.counters()
        });
        let (addr, handle) = told.recv().unwrap();
        Self {
            addr,
            handle,
            ends,
            thread: Some(thread),
        }
    }

    pub fn connect(&self) -> Client {
        Client::connect(self.addr)
    }

    /// Why the next connection ended.
    pub fn next_end(&self) -> String {
        self.ends
            .recv_timeout(PATIENCE)
            .expect("a connection should have ended")
    }

    /// Stops it gracefully and returns its counters.
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

/// A loopback address that no other test uses: a port that is released there is not taken by
/// another test.
///
/// Linux has all of 127.0.0.0/8; elsewhere it is 127.0.0.1, where a released port may be taken.
pub fn own_host() -> Ipv4Addr {
    static HOSTS: AtomicU32 = AtomicU32::new(0);
    if !cfg!(target_os = "linux") {
        return Ipv4Addr::LOCALHOST;
    }
    // 127.64.0.1 and up: 127.0.0.1 is everybody's, and 127.1.0.0/16 is where some tests dial from.
    let number = std::process::id()
        .wrapping_mul(256)
        .wrapping_add(HOSTS.fetch_add(1, Ordering::Relaxed))
        % ((1 << 22) - 2);
    Ipv4Addr::from_bits(Ipv4Addr::new(127, 64, 0, 1).to_bits() + number)
}

/// A socket with a port of its own, at which nobody listens yet.
pub fn bound() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket
        .bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())
        .unwrap();
    let addr = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, addr)
}

/// A listener that answers nobody, since its queue is full: only as long as all of it is held.
pub struct Silent {
    pub addr: SocketAddr,
    pub listener: Socket,
    pub queue: Vec<TcpStream>,
}

impl Silent {
    /// `None` where the system does not have that. Linux has: it drops the first packet of a newcomer for whom there is no room.
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
        println!("not tested: the queues of this system do not fill");
        None
    }
}

/// A loop in the test's own hands, with room for many who wait to be accepted.
pub fn reactor<H: Handler>(handler: H, config: Config) -> (Reactor<H>, SocketAddr) {
    let (socket, _) = bound();
    socket.listen(4096).unwrap();
    let mut reactor = Reactor::new(handler, config).unwrap();
    let addr = reactor.listen_on(socket.into()).unwrap();
    (reactor, addr)
}

/// Where a loop listens.
pub fn addr_of<H: Handler>(reactor: &Reactor<H>) -> SocketAddr {
    reactor.local_addrs()[0].tcp().unwrap()
}

/// A blocking client that knows what it wants to hear.
pub struct Client {
    pub stream: TcpStream,
}

impl Client {
    pub fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    #[track_caller]
    pub fn expect(&mut self, wanted: &[u8]) {
        let mut got = vec![0; wanted.len()];
        self.stream
            .read_exact(&mut got)
            .unwrap_or_else(|error| panic!("{} bytes wanted: {error}", wanted.len()));
        assert!(
            got == wanted,
            "got {}\nwanted {}",
            got.escape_ascii(),
            wanted.escape_ascii()
        );
    }

    /// The peer's orderly end, and not a reset.
    #[track_caller]
    pub fn expect_end(&mut self) {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).expect("an orderly end");
        assert!(rest.is_empty(), "{} before the end", rest.escape_ascii());
    }

    /// Any end at all.
    #[track_caller]
    pub fn expect_gone(&mut self) {
        match self.stream.read(&mut [0; 64]) {
            Ok(0) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            other => panic!("the connection should be gone: {other:?}"),
        }
    }

    pub fn shut_write(&mut self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// Closes with a reset.
    pub fn reset(self) {
        socket2::SockRef::from(&self.stream)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    }
}

/// Waits until `done` says so.
#[track_caller]
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Turns the loop until `done` says so.
#[track_caller]
pub fn turn_until<H: Handler>(
    reactor: &mut Reactor<H>,
    mut done: impl FnMut(&mut Reactor<H>) -> bool,
) {
    let end = Instant::now() + PATIENCE;
    while !done(reactor) {
        assert!(
            Instant::now() < end,
            "the loop did not get there: {reactor:?}"
        );
        if reactor.turn(Some(Duration::from_millis(1))).unwrap() == Turn::Stopped {
            assert!(done(reactor), "the loop stopped before it got there");
            return;
        }
    }
}

/// A submit request.
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

/// The ack of a submit, in the text's dialect.
pub fn ack(id: [u8; 8]) -> Vec<u8> {
    request(0x82, id, &[0])
}

pub fn id(n: u64) -> [u8; 8] {
    glassloop::submit::Id::nth(n).0
}
