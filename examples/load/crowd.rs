//! Opening connections: each is greeted with one request and has its ack before anything is measured, so the server has accepted all.

use std::error::Error;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use glassloop::submit::{Ack, Id};
use socket2::{Domain, Socket, Type};

use crate::Dialect;
use crate::wire::{Batch, ack_of, explain};

/// So many at a time wait to be accepted; a listener of std has room for 128.
const AT_ONCE: u32 = 64;
/// The last of the addresses 127.0.0.x that connections come from.
const LAST_SOURCE: u8 = 254;

/// Opens connections to one server.
pub(crate) struct Crowd {
    server: SocketAddr,
    dialect: Dialect,
    /// How long each step may take.
    patience: Duration,
    /// Connections come from 127.0.0.x; from where the system likes as long as this is 0.
    source: u8,
}

impl Crowd {
    /// Sees to it that this process may have so many connections.
    pub(crate) fn new(
        server: SocketAddr,
        dialect: Dialect,
        patience: Duration,
        connections: u64,
    ) -> Result<Self, String> {
        #[cfg(unix)]
        {
            let wanted = connections + 32;
            let limit = rlimit::increase_nofile_limit(wanted)
                .map_err(|error| format!("cannot ask for {wanted} open files: {error}"))?;
            if limit < wanted {
                return Err(format!(
                    "{connections} connections need {wanted} open files, and this process may have {limit} (ulimit -Hn says how many a shell can allow)"
                ));
            }
        }
        Ok(Self {
            server,
            dialect,
            patience,
            source: 0,
        })
    }

    /// Opens so many, numbered from `first` on, and has each answered once.
    pub(crate) fn open(
        &mut self,
        first: u32,
        count: u32,
        batch: &mut Batch,
    ) -> Result<Vec<TcpStream>, Box<dyn Error>> {
        let mut all = Vec::new();
        let request = batch.of(Id::nth(1), 1);
        for from in (0..count).step_by(AT_ONCE as usize) {
            let some = all.len();
            for number in first + from..first + count.min(from + AT_ONCE) {
                let mut stream = self
                    .dial()
                    .map_err(|error| self.cannot_dial(number, &error))?;
                stream.write_all(request).map_err(|error| {
                    format!(
                        "connection {number} to {}: cannot send: {error}",
                        self.server
                    )
                })?;
                all.push(stream);
            }
            for (stream, number) in all[some..].iter_mut().zip(first + from..) {
                self.greet(stream, number)?;
                stream.set_nonblocking(true)?;
            }
        }
        Ok(all)
    }

    /// Connects; if this side has no port left, from the next address.
    fn dial(&mut self) -> io::Result<TcpStream> {
        loop {
            let outcome = self.dial_from_source();
            let is_short = |error: &io::Error| {
                error.kind() == ErrorKind::AddrNotAvailable
                    || (self.source > 0 && error.kind() == ErrorKind::AddrInUse)
            };
            match outcome {
                Err(error)
                    if is_short(&error) && self.is_local_ipv4() && self.source < LAST_SOURCE =>
                {
                    self.source += 1;
                }
                outcome => return outcome,
            }
        }
    }

    fn is_local_ipv4(&self) -> bool {
        matches!(self.server.ip(), IpAddr::V4(ip) if ip.is_loopback())
    }

    fn dial_from_source(&self) -> io::Result<TcpStream> {
        let socket = Socket::new(Domain::for_address(self.server), Type::STREAM, None)?;
        if self.source > 0 {
            socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 0, self.source), 0)).into())?;
        }
        socket.connect_timeout(&self.server.into(), self.patience)?;
        socket.set_tcp_nodelay(true)?;
        socket.set_read_timeout(Some(self.patience))?;
        socket.set_write_timeout(Some(self.patience))?;
        Ok(socket.into())
    }

    fn cannot_dial(&self, number: u32, error: &io::Error) -> String {
        let what = match error.kind() {
            ErrorKind::ConnectionRefused => "connection refused: nothing listens there".to_string(),
            ErrorKind::TimedOut => format!(
                "not accepted within {}",
                humantime::format_duration(self.patience)
            ),
            ErrorKind::AddrNotAvailable | ErrorKind::AddrInUse => {
                format!("{error}: this side has no port left, or the address is not here")
            }
            _ => error.to_string(),
        };
        format!("connection {number} to {}: {what}", self.server)
    }

    /// Reads the first ack.
    fn greet(&self, stream: &mut TcpStream, number: u32) -> Result<(), String> {
        let mut bytes = [0; Ack::LEN];
        let says = |what: String| {
            format!(
                "connection {number} to {}: its first request {what}",
                self.server
            )
        };
        stream.read_exact(&mut bytes).map_err(|error| match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                let time = humantime::format_duration(self.patience);
                says(format!("was not answered within {time} (--ack-timeout): is that a submit/ack server, and is it alive?"))
            }
            ErrorKind::UnexpectedEof => says("was not answered: the server has closed the connection".into()),
            _ => says(format!("was not answered: {error}")),
        })?;
        let wanted = ack_of(self.dialect, Id::nth(1));
        if bytes == wanted {
            Ok(())
        } else {
            Err(format!(
                "connection {number} to {}: {}",
                self.server,
                explain(&bytes, &wanted)
            ))
        }
    }
}

/// How many of these the server has closed.
pub(crate) fn closed(idle: &[TcpStream]) -> usize {
    idle.iter().filter(|stream| !matches!(stream.peek(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)).count()
}
