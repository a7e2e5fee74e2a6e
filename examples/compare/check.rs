//! Whether a server speaks the protocol, before anything is said about its speed.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use glassloop::submit::{Id, Request};

use super::peers::Peer;
use super::process::{Cores, Server};

/// How long any answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
const LONGEST: usize = 65_536 - Request::HEADER;

type Case = fn(&mut Client) -> io::Result<()>;

const CASES: [(&str, Case); 9] = [
    ("one request", |client| client.ask(1, 5)),
    ("an empty payload", |client| client.ask(1, 0)),
    ("200 requests at once", |client| client.ask(200, 32)),
    ("a request that comes byte by byte", |client| {
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
    ("the longest requests", |client| client.ask(3, LONGEST)),
    ("a conn", |client| {
        client.stream.write_all(&frame(0x01, 0, 0))?;
        client.expect(0x81, 0..1)
    }),
    (
        "a request that is too long, or too short, is the end",
        |client| {
            for length in [65_537_u32, 12, 4, 0] {
                let mut other = Client::connect(client.addr)?;
                other
                    .stream
                    .write_all(&[&length.to_be_bytes()[..], &[2; 20]].concat())?;
                other.expect_end()?;
            }
            client.ask(1, 32)
        },
    ),
    ("an unknown command is the end", |client| {
        client.stream.write_all(&frame(0x33, 0, 0))?;
        client.expect_end()
    }),
];

/// Starts it, asks, and stops it.
pub(crate) fn check(peer: &Peer, cores: &Cores) -> Result<(), String> {
    let server = Server::start(peer, cores)?;
    for (name, case) in CASES {
        let outcome = Client::connect(server.addr).and_then(|mut client| case(&mut client));
        outcome.map_err(|error| format!("does not answer properly: {name}: {error}"))?;
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
        let stream = TcpStream::connect_timeout(&addr, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream, addr })
    }

    /// Asks so often at once, and wants all answers, in order.
    fn ask(&mut self, times: u64, payload: usize) -> io::Result<()> {
        let requests: Vec<u8> = (0..times).flat_map(|n| frame(0x02, n, payload)).collect();
        self.stream.write_all(&requests)?;
        self.expect(0x82, 0..times)
    }

    fn expect(&mut self, command: u8, numbers: std::ops::Range<u64>) -> io::Result<()> {
        for n in numbers {
            let mut wanted = frame(command, n, 1);
            wanted[Request::HEADER] = 0;
            let mut got = vec![0; wanted.len()];
            self.stream.read_exact(&mut got)?;
            if got != wanted {
                return Err(io::Error::other(format!(
                    "{} came instead of {}",
                    got.escape_ascii(),
                    wanted.escape_ascii()
                )));
            }
        }
        Ok(())
    }

    fn expect_end(&mut self) -> io::Result<()> {
        match self.stream.read(&mut [0; 16]) {
            Ok(0) => Ok(()),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
            Ok(_) => Err(io::Error::other("more came instead of the end")),
            Err(error) => Err(error),
        }
    }
}

fn frame(command: u8, n: u64, payload: usize) -> Vec<u8> {
    let length = u32::try_from(Request::HEADER + payload).expect("short");
    [
        &length.to_be_bytes()[..],
        &[command],
        &Id::nth(n).0,
        &vec![b'x'; payload],
    ]
    .concat()
}
