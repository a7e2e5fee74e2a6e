//! Checks that a server speaks the protocol, before its speed is measured.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use glassloop::submit::{Id, Request};

use super::peers::Peer;
use super::process::{Cores, Server};

/// Time limit for connecting and for each read and write.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The longest payload, in bytes.
const LONGEST: usize = 65_536 - Request::HEADER;

type Case = fn(&mut Client) -> io::Result<()>;

const CASES: [(&str, Case); 9] = [
    ("one request", |client| client.exchange(1, 5)),
    ("an empty payload", |client| client.exchange(1, 0)),
    ("200 requests at once", |client| client.exchange(200, 32)),
    ("a request that arrives byte by byte", |client| {
        frame(0x02, 0, 7)
            .iter()
            .try_for_each(|byte| client.stream.write_all(&[*byte]))?;
        client.expect(0x82, 0..1)
    }),
    ("one and a half requests, then the rest", |client| {
        let (first, second) = (frame(0x02, 0, 32), frame(0x02, 1, 32));
        client
            .stream
            .write_all(&[&first[..], &second[..20]].concat())?;
        client.expect(0x82, 0..1)?;
        client.stream.write_all(&second[20..])?;
        client.expect(0x82, 1..2)
    }),
    ("the longest requests", |client| client.exchange(3, LONGEST)),
    ("a conn request", |client| {
        client.stream.write_all(&frame(0x01, 0, 0))?;
        client.expect(0x81, 0..1)
    }),
    (
        "a request that is too long, or too short, closes the connection",
        |client| {
            for length in [65_537_u32, 12, 4, 0] {
                let mut other = Client::connect(client.addr)?;
                other
                    .stream
                    .write_all(&[&length.to_be_bytes()[..], &[2; 20]].concat())?;
                other.expect_end()?;
            }
            client.exchange(1, 32)
        },
    ),
    ("an unknown command closes the connection", |client| {
        client.stream.write_all(&frame(0x33, 0, 0))?;
        client.expect_end()
    }),
];

/// Starts the server, runs all cases against it, and stops it.
pub(crate) fn check(peer: &Peer, cores: &Cores) -> Result<(), String> {
    let server = Server::start(peer, cores)?;
    for (name, case) in CASES {
        let outcome = Client::connect(server.addr).and_then(|mut client| case(&mut client));
        outcome.map_err(|error| format!("fails the protocol check: {name}: {error}"))?;
    }
    server.stop();
    Ok(())
}

struct Client {
    stream: TcpStream,
    addr: SocketAddr,
}

impl Client {
    fn connect(addr: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&addr, TIMEOUT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        Ok(Self { stream, addr })
    }

    /// Sends `times` requests at once, and expects all acks, in order.
    fn exchange(&mut self, times: u64, payload: usize) -> io::Result<()> {
        let requests: Vec<u8> = (0..times).flat_map(|n| frame(0x02, n, payload)).collect();
        self.stream.write_all(&requests)?;
        self.expect(0x82, 0..times)
    }

    /// Reads the acks of these requests, which must have this command.
    fn expect(&mut self, command: u8, numbers: std::ops::Range<u64>) -> io::Result<()> {
        for n in numbers {
            let mut wanted = frame(command, n, 1);
            wanted[Request::HEADER] = 0;
            let mut got = vec![0; wanted.len()];
            self.stream.read_exact(&mut got)?;
            if got != wanted {
                return Err(io::Error::other(format!(
                    "received {} instead of {}",
                    got.escape_ascii(),
                    wanted.escape_ascii()
                )));
            }
        }
        Ok(())
    }

    /// Expects that the server closes or resets the connection.
    fn expect_end(&mut self) -> io::Result<()> {
        match self.stream.read(&mut [0; 16]) {
            Ok(0) => Ok(()),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
            Ok(_) => Err(io::Error::other(
                "received more bytes instead of the end of the stream",
            )),
            Err(error) => Err(error),
        }
    }
}

fn frame(command: u8, n: u64, payload: usize) -> Vec<u8> {
    let length = u32::try_from(Request::HEADER + payload).expect("the payload is short");
    [
        &length.to_be_bytes()[..],
        &[command],
        &Id::nth(n).0,
        &vec![b'x'; payload],
    ]
    .concat()
}
