//! [`Kernel`]: real sockets on the loopback interface, with blocking peers in the same thread.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use glassloop::Address;
use glassloop::internals::{Listener, MioNet, Socket, Token};
use mio::{Events, Interest, Poll};
use socket2::{Domain, SockRef, Type};

use super::backend::{Arrival, Backend, EVENTS, MAX_POLLS, POLL_TIME};

/// The timeout of every blocking call of a peer.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Both are small, so that they fill up soon. The receive buffer is much smaller, so that the send
/// buffer empties little by little. Linux doubles both.
const SEND_BUFFER: usize = 200_000;
const RECEIVE_BUFFER: usize = 16_384;

pub struct Kernel {
    net: MioNet,
    hosts: HashMap<Address, TcpListener>,
    /// Sockets that are bound, so that their ports stay taken, and not listening.
    refusing: Vec<socket2::Socket>,
}

impl Kernel {
    pub fn new() -> Self {
        let net = MioNet::new(EVENTS, Token::Waker.pack(), true).unwrap();
        Self {
            net,
            hosts: HashMap::new(),
            refusing: Vec::new(),
        }
    }

    /// Binds a socket to a port that the system chooses. Sockets that it accepts inherit its buffer
    /// sizes.
    fn bound() -> (socket2::Socket, Address) {
        let socket = small_socket();
        socket
            .bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())
            .unwrap();
        let addr = socket.local_addr().unwrap().as_socket().unwrap();
        (socket, addr.into())
    }
}

fn small_socket() -> socket2::Socket {
    let socket = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_send_buffer_size(SEND_BUFFER).unwrap();
    socket.set_recv_buffer_size(RECEIVE_BUFFER).unwrap();
    socket
}

fn with_timeouts(stream: TcpStream) -> TcpStream {
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream.set_write_timeout(Some(TIMEOUT)).unwrap();
    stream
}

/// True if a second poller reports the arrival. It takes no event from the first poller, and no
/// error from the socket.
fn has_arrived(stream: &Socket, arrival: Arrival) -> bool {
    let Socket::Tcp(stream) = stream else {
        unreachable!("all sockets here are on the network")
    };
    if let Arrival::Bytes(count) = arrival {
        return stream
            .peek(&mut vec![0; count])
            .is_ok_and(|waiting| waiting == count);
    }
    let duplicate = SockRef::from(stream).try_clone().unwrap();
    let mut duplicate = mio::net::TcpStream::from_std(duplicate.into());
    let (mut poll, mut events) = (Poll::new().unwrap(), Events::with_capacity(1));
    poll.registry()
        .register(
            &mut duplicate,
            mio::Token(0),
            Interest::READABLE | Interest::WRITABLE,
        )
        .unwrap();
    poll.poll(&mut events, Some(POLL_TIME)).unwrap();
    events.iter().any(|event| {
        if matches!(arrival, Arrival::End) {
            event.is_read_closed()
        } else {
            event.is_error()
        }
    })
}

impl Backend for Kernel {
    type Net = MioNet;
    type Peer = TcpStream;

    fn net(&mut self) -> &mut MioNet {
        &mut self.net
    }

    fn listener(&mut self) -> (Listener, Address) {
        let (socket, addr) = Self::bound();
        socket.listen(128).unwrap();
        (self.net.adopt(socket.into()).unwrap(), addr)
    }

    fn client(&mut self, addr: &Address) -> Option<TcpStream> {
        let socket = small_socket();
        match socket.connect(&addr.tcp().unwrap().into()) {
            Ok(()) => Some(with_timeouts(socket.into())),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => None,
            Err(error) => panic!("{error}"),
        }
    }

    fn host(&mut self) -> Address {
        let (socket, addr) = Self::bound();
        socket.listen(128).unwrap();
        self.hosts.insert(addr.clone(), socket.into());
        addr
    }

    fn refusing_addr(&mut self) -> Address {
        let (socket, addr) = Self::bound();
        self.refusing.push(socket);
        addr
    }

    fn accept_at(&mut self, host: &Address) -> TcpStream {
        with_timeouts(self.hosts[host].accept().unwrap().0)
    }

    /// Binds a socket and connects it to its own address. By chance, as it happens to the loop, it
    /// takes thousands of tries.
    fn dial_self(&mut self) -> Socket {
        let (socket, addr) = Self::bound();
        socket.set_nonblocking(true).unwrap();
        let _ = socket.connect(&addr.tcp().unwrap().into()); // EINPROGRESS
        Socket::Tcp(mio::net::TcpStream::from_std(socket.into()))
    }

    fn addr(&self, peer: &TcpStream) -> Address {
        peer.local_addr().unwrap().into()
    }

    fn wait_for(&mut self, stream: &Socket, arrival: Arrival) {
        for _ in 0..MAX_POLLS {
            if has_arrived(stream, arrival) {
                return;
            }
            std::thread::yield_now();
        }
        panic!("{arrival:?} did not arrive");
    }

    fn wait_for_peer(&mut self, peer: &TcpStream) {
        assert_eq!(peer.peek(&mut [0]).unwrap(), 1);
    }

    fn arrived_at_peer(&mut self, peer: &mut TcpStream) -> usize {
        peer.peek(&mut vec![0; 1 << 22]).unwrap()
    }

    fn send(&mut self, peer: &mut TcpStream, bytes: &[u8]) {
        peer.write_all(bytes).unwrap();
    }

    fn send_urgent(&mut self, peer: &mut TcpStream, byte: u8) {
        assert_eq!(SockRef::from(&*peer).send_out_of_band(&[byte]).unwrap(), 1);
    }

    fn shut_write(&mut self, peer: &mut TcpStream) {
        peer.shutdown(Shutdown::Write).unwrap();
    }

    fn close(&mut self, peer: TcpStream) {
        drop(peer);
    }

    fn reset(&mut self, peer: TcpStream) {
        SockRef::from(&peer)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    }

    fn recv_some(&mut self, peer: &mut TcpStream) -> usize {
        peer.read(&mut [0; 4096]).unwrap()
    }

    fn recv_exact(&mut self, peer: &mut TcpStream, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        peer.read_exact(&mut bytes).unwrap();
        bytes
    }

    fn recv_to_end(&mut self, peer: &mut TcpStream) -> (Vec<u8>, &'static str) {
        let mut bytes = Vec::new();
        match peer.read_to_end(&mut bytes) {
            Ok(_) => (bytes, "end"),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => (bytes, "reset"),
            Err(error) => panic!("{error}"),
        }
    }
}
