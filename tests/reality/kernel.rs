//! The system that the tests run on: real sockets on the loopback interface, and far ends that block, in the same thread.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use glassloop::Address;
use glassloop::internals::{Listener, MioNet, Socket, Token};
use mio::{Events, Interest, Poll};
use socket2::{Domain, SockRef, Type};

use super::world::{EVENTS, ROUND, ROUNDS, Sign, World};

/// No far end waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// Small, so that they are soon full; and the first one of many of the second, so that it empties little by little. The system doubles both.
const SEND_BUFFER: usize = 200_000;
const RECEIVE_BUFFER: usize = 16_384;

pub struct Kernel {
    net: MioNet,
    hosts: HashMap<Address, TcpListener>,
    /// Bound, so that nobody else gets the port, and not listening.
    nobodies: Vec<socket2::Socket>,
}

impl Kernel {
    pub fn new() -> Self {
        let net = MioNet::new(EVENTS, Token::Waker.pack(), true).unwrap();
        Self {
            net,
            hosts: HashMap::new(),
            nobodies: Vec::new(),
        }
    }

    /// A socket on a port that the system chooses; what it accepts has its buffers.
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

fn patient(stream: TcpStream) -> TcpStream {
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Whether a second poller, asked afresh, sees that sign: it takes nothing from the first one, and no error from the socket.
fn shows(stream: &Socket, sign: Sign) -> bool {
    let Socket::Tcp(stream) = stream else {
        unreachable!("all sockets here are on the network")
    };
    if let Sign::Bytes(count) = sign {
        return stream
            .peek(&mut vec![0; count])
            .is_ok_and(|waiting| waiting == count);
    }
    let twin = SockRef::from(stream).try_clone().unwrap();
    let mut twin = mio::net::TcpStream::from_std(twin.into());
    let (mut poll, mut events) = (Poll::new().unwrap(), Events::with_capacity(1));
    poll.registry()
        .register(
            &mut twin,
            mio::Token(0),
            Interest::READABLE | Interest::WRITABLE,
        )
        .unwrap();
    poll.poll(&mut events, Some(ROUND)).unwrap();
    events.iter().any(|event| {
        if matches!(sign, Sign::End) {
            event.is_read_closed()
        } else {
            event.is_error()
        }
    })
}

impl World for Kernel {
    type Net = MioNet;
    type Far = TcpStream;

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
            Ok(()) => Some(patient(socket.into())),
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

    fn nobody(&mut self) -> Address {
        let (socket, addr) = Self::bound();
        self.nobodies.push(socket);
        addr
    }

    fn visitor(&mut self, host: &Address) -> TcpStream {
        patient(self.hosts[host].accept().unwrap().0)
    }

    /// On purpose it takes a socket of one's own: by chance, as the loop may meet itself, it takes thousands of tries.
    fn dial_itself(&mut self) -> Socket {
        let (socket, addr) = Self::bound();
        socket.set_nonblocking(true).unwrap();
        let _ = socket.connect(&addr.tcp().unwrap().into()); // says that it is under way
        Socket::Tcp(mio::net::TcpStream::from_std(socket.into()))
    }

    fn addr(&self, far: &TcpStream) -> Address {
        far.local_addr().unwrap().into()
    }

    fn arrives(&mut self, stream: &Socket, sign: Sign) {
        for _ in 0..ROUNDS {
            if shows(stream, sign) {
                return;
            }
            std::thread::yield_now();
        }
        panic!("{sign:?} should have arrived");
    }

    fn arrives_there(&mut self, far: &TcpStream) {
        assert_eq!(far.peek(&mut [0]).unwrap(), 1);
    }

    fn arrived_there(&mut self, far: &mut TcpStream) -> usize {
        far.peek(&mut vec![0; 1 << 22]).unwrap()
    }

    fn send(&mut self, far: &mut TcpStream, bytes: &[u8]) {
        far.write_all(bytes).unwrap();
    }

    fn send_urgent(&mut self, far: &mut TcpStream, byte: u8) {
        assert_eq!(SockRef::from(&*far).send_out_of_band(&[byte]).unwrap(), 1);
    }

    fn shut_write(&mut self, far: &mut TcpStream) {
        far.shutdown(Shutdown::Write).unwrap();
    }

    fn close(&mut self, far: TcpStream) {
        drop(far);
    }

    fn reset(&mut self, far: TcpStream) {
        SockRef::from(&far)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    }

    fn take_some(&mut self, far: &mut TcpStream) -> usize {
        far.read(&mut [0; 4096]).unwrap()
    }

    fn hear(&mut self, far: &mut TcpStream, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        far.read_exact(&mut bytes).unwrap();
        bytes
    }

    fn hear_out(&mut self, far: &mut TcpStream) -> (Vec<u8>, &'static str) {
        let mut bytes = Vec::new();
        match far.read_to_end(&mut bytes) {
            Ok(_) => (bytes, "end"),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => (bytes, "reset"),
            Err(error) => panic!("{error}"),
        }
    }
}
