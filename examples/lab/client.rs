//! A client of the nine servers: it asks, and waits for the answer.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::BytesMut;
use glassloop::Codec;
use glassloop::submit::{Ack, ClientCodec, Id, Kind, Request};

use super::servers::Model;
use super::servers::child::Server;
use super::tools::PATIENCE;

pub(crate) struct Client {
    stream: TcpStream,
    asked: u64,
}

impl Client {
    pub(crate) fn connect(addr: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&addr, PATIENCE)?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, asked: 0 })
    }

    /// Asks, and waits for the answer.
    pub(crate) fn ask(&mut self) -> io::Result<()> {
        self.send()?;
        self.answer(PATIENCE)
    }

    /// Asks only.
    pub(crate) fn send(&mut self) -> io::Result<()> {
        self.asked += 1;
        let mut bytes = BytesMut::new();
        let request = Request {
            kind: Kind::Submit,
            id: Id::nth(self.asked),
            payload: b"hello",
        };
        ClientCodec::default()
            .encode(request, &mut bytes)
            .map_err(io::Error::other)?;
        self.stream.write_all(&bytes)
    }

    /// Waits so long for the answer to the last request.
    pub(crate) fn answer(&mut self, patience: Duration) -> io::Result<()> {
        self.stream.set_read_timeout(Some(patience))?;
        let mut ack = [0; Ack::LEN];
        self.stream.read_exact(&mut ack)?;
        let id = Id::nth(self.asked);
        if ack[5..13] == id.0 {
            Ok(())
        } else {
            Err(io::Error::other(format!("{ack:?} is no ack of {id:?}")))
        }
    }
}

/// So many clients of a server, each answered once, and silent from then on.
pub(crate) fn crowd(addr: SocketAddr, count: usize) -> io::Result<Vec<Client>> {
    let mut clients = Vec::new();
    for _ in 0..count {
        let mut client = Client::connect(addr)?;
        client.ask()?;
        clients.push(client);
    }
    Ok(clients)
}

/// How many system calls a server makes for a request, on the average of some that come one after the other.
pub(crate) fn calls_per_request(model: Model) -> io::Result<f64> {
    const REQUESTS: u32 = 100;
    let mut server = Server::start(model)?;
    let mut client = Client::connect(server.addr)?;
    client.ask()?;
    let before: u64 = server.calls()?.iter().sum();
    (0..REQUESTS).try_for_each(|_| client.ask())?;
    let after: u64 = server.calls()?.iter().sum();
    Ok((after - before) as f64 / f64::from(REQUESTS))
}
