//! Opens the connections. Each sends one request and reads its ack before the measurement, so the
//! server has accepted all of them.

use std::error::Error;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use glassloop::submit::{Ack, Id};
use socket2::{Domain, Socket, Type};

use crate::Dialect;
use crate::wire::{Batch, ack_of, describe_mismatch};

/// Connections opened before their acks are read. A listener of std has a backlog of 128.
const BATCH_SIZE: u32 = 64;
/// The last source address 127.0.0.x that is used.
const LAST_SOURCE: u8 = 254;

/// Opens connections to one server.
pub(crate) struct Connector {
    server: SocketAddr,
    dialect: Dialect,
    /// Time limit for each step.
    timeout: Duration,
    /// Connections use the source address 127.0.0.x. The system chooses it while this is 0.
    source: u8,
}

impl Connector {
    /// Raises the limit on open files for this number of connections.
    ///
    /// # Errors
    ///
    /// If the limit cannot be raised so far.
    pub(crate) fn new(
        server: SocketAddr,
        dialect: Dialect,
        timeout: Duration,
        connections: u64,
    ) -> Result<Self, String> {
        #[cfg(unix)]
        {
            let needed = connections + 32;
            let limit = rlimit::increase_nofile_limit(needed).map_err(|error| {
                format!("cannot raise the limit to {needed} open files: {error}")
            })?;
            if limit < needed {
                return Err(format!(
                    "{connections} connections need {needed} open files, but the limit is {limit} \
                     (ulimit -Hn shows how far a shell can raise it)"
                ));
            }
        }
        Ok(Self {
            server,
            dialect,
            timeout,
            source: 0,
        })
    }

    /// Opens `count` connections, numbered from `first` on, and completes one request on each.
    pub(crate) fn open(
        &mut self,
        first: u32,
        count: u32,
        batch: &mut Batch,
    ) -> Result<Vec<TcpStream>, Box<dyn Error>> {
        let mut all = Vec::new();
        let request = batch.requests(Id::nth(1), 1);
        for from in (0..count).step_by(BATCH_SIZE as usize) {
            let opened = all.len();
            for number in first + from..first + count.min(from + BATCH_SIZE) {
                let mut stream = self
                    .connect()
                    .map_err(|error| self.connect_failure(number, &error))?;
                stream.write_all(request).map_err(|error| {
                    format!(
                        "connection {number} to {}: cannot send: {error}",
                        self.server
                    )
                })?;
                all.push(stream);
            }
            for (stream, number) in all[opened..].iter_mut().zip(first + from..) {
                self.read_first_ack(stream, number)?;
                stream.set_nonblocking(true)?;
            }
        }
        Ok(all)
    }

    /// Connects. If the source address has no free port left, takes the next address.
    fn connect(&mut self) -> io::Result<TcpStream> {
        loop {
            let outcome = self.connect_from_source();
            let has_no_port = |error: &io::Error| {
                error.kind() == ErrorKind::AddrNotAvailable
                    || (self.source > 0 && error.kind() == ErrorKind::AddrInUse)
            };
            match outcome {
                Err(error)
                    if has_no_port(&error) && self.is_local_ipv4() && self.source < LAST_SOURCE =>
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

    fn connect_from_source(&self) -> io::Result<TcpStream> {
        let socket = Socket::new(Domain::for_address(self.server), Type::STREAM, None)?;
        if self.source > 0 {
            socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 0, self.source), 0)).into())?;
        }
        socket.connect_timeout(&self.server.into(), self.timeout)?;
        socket.set_tcp_nodelay(true)?;
        socket.set_read_timeout(Some(self.timeout))?;
        socket.set_write_timeout(Some(self.timeout))?;
        Ok(socket.into())
    }

    /// Returns the message for a failed connect.
    fn connect_failure(&self, number: u32, error: &io::Error) -> String {
        let what = match error.kind() {
            ErrorKind::ConnectionRefused => "connection refused: nothing listens there".to_string(),
            ErrorKind::TimedOut => format!(
                "not accepted within {}",
                humantime::format_duration(self.timeout)
            ),
            ErrorKind::AddrNotAvailable | ErrorKind::AddrInUse => {
                format!("{error}: no free local port, or the address is not local")
            }
            _ => error.to_string(),
        };
        format!("connection {number} to {}: {what}", self.server)
    }

    /// Reads and checks the ack of the first request.
    fn read_first_ack(&self, stream: &mut TcpStream, number: u32) -> Result<(), String> {
        let mut bytes = [0; Ack::LEN];
        let describe = |what: String| {
            format!(
                "connection {number} to {}: its first request {what}",
                self.server
            )
        };
        stream
            .read_exact(&mut bytes)
            .map_err(|error| match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                    let time = humantime::format_duration(self.timeout);
                    describe(format!(
                        "was not answered within {time} (--ack-timeout): \
                         check that a submit/ack server runs there"
                    ))
                }
                ErrorKind::UnexpectedEof => {
                    describe("was not answered: the server has closed the connection".into())
                }
                _ => describe(format!("was not answered: {error}")),
            })?;
        let expected = ack_of(self.dialect, Id::nth(1));
        if bytes == expected {
            Ok(())
        } else {
            Err(format!(
                "connection {number} to {}: {}",
                self.server,
                describe_mismatch(&bytes, &expected)
            ))
        }
    }
}

/// Returns how many of these connections the server has closed.
pub(crate) fn count_closed(idle: &[TcpStream]) -> usize {
    let is_open = |stream: &TcpStream| {
        let peeked = stream.peek(&mut [0]);
        peeked.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    };
    idle.iter().filter(|stream| !is_open(stream)).count()
}
