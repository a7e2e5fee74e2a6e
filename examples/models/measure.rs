//! Measures one model from outside, as a client and through /proc.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use glassloop::Codec;
use glassloop::submit::{Ack, ClientCodec, Id, Kind, Request};

use super::servers::Model;
use super::servers::child::Server;

/// A row of the table: the figures of a model, or the reason why there are none.
pub(crate) struct Row {
    pub(crate) model: Model,
    pub(crate) figures: Result<Figures, String>,
}

pub(crate) struct Figures {
    /// Number of further idle clients during the first measurement.
    pub(crate) idle: usize,
    pub(crate) threads: u64,
    /// CPU use while all clients are idle, in percent of one processor.
    pub(crate) idle_cpu: f64,
    /// Voluntary context switches a second while all clients are idle.
    pub(crate) wakeups: f64,
    /// System calls a request, for a client that waits for each reply.
    pub(crate) calls: f64,
    /// The same, for a client that sends [`BATCH`] requests at once.
    pub(crate) calls_of_many: f64,
    /// Latency of a lone request.
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    /// How many of the [`max_clients`] clients were served at the same time.
    pub(crate) served: usize,
    /// Bytes of memory for each of them, if enough were served to tell.
    pub(crate) memory: Option<u64>,
    /// True if a client that sends and does not read stops the server from serving another one.
    pub(crate) slow_hurts: bool,
}

/// Clients that connect at the same time, if there are descriptors for them.
const MAX_CLIENTS: usize = 1_200;
/// Descriptors reserved for everything else.
const RESERVED: u64 = 100;
const IDLE: usize = 100;
const LOCK_STEP: usize = 2_000;
const BATCHES: usize = 50;
const BATCH: usize = 100;
/// Time limit for a reply that is certain to come, on however busy a machine.
const LONG_TIMEOUT: Duration = Duration::from_secs(20);
/// Time limit for a reply that may never come.
const SHORT_TIMEOUT: Duration = Duration::from_secs(1);
/// After this many clients in a row without a reply, no further client is tried.
const MAX_UNANSWERED: u32 = 3;

/// Returns how many clients are opened at the same time, within the limit on open files.
pub(crate) fn max_clients() -> usize {
    let limit = rlimit::Resource::NOFILE.get_soft().unwrap_or(0);
    MAX_CLIENTS
        .min(limit.saturating_sub(RESERVED) as usize)
        .max(1)
}

pub(crate) fn measure(model: Model) -> Row {
    Row {
        model,
        figures: figures(model).map_err(|error| error.to_string()),
    }
}

fn figures(model: Model) -> io::Result<Figures> {
    // The iterative server has no thread left for a second client.
    let idle = if model == Model::Iterative { 0 } else { IDLE };
    let mut child = Server::start(model)?;
    let mut client = Client::connect(child.addr, LONG_TIMEOUT)?;
    let mut others = (0..idle)
        .map(|_| Client::connect(child.addr, LONG_TIMEOUT))
        .collect::<io::Result<Vec<_>>>()?;
    client.exchange(1)?;
    others.iter_mut().try_for_each(|other| other.exchange(1))?;
    // Now every client has been served. All stay silent for the next second.

    let (before, started) = (child.usage()?, Instant::now());
    thread::sleep(Duration::from_secs(1));
    let (after, seconds) = (child.usage()?, started.elapsed().as_secs_f64());

    let calls = calls_of(&mut child, LOCK_STEP, || {
        (0..LOCK_STEP).try_for_each(|_| client.exchange(1))
    })?;
    let calls_of_many = calls_of(&mut child, BATCHES * BATCH, || {
        (0..BATCHES).try_for_each(|_| client.exchange(BATCH))
    })?;
    let mut times = Vec::new();
    for _ in 0..LOCK_STEP {
        let started = Instant::now();
        client.exchange(1)?;
        times.push(started.elapsed());
    }
    times.sort_unstable();
    drop((others, client, child));

    let (served, memory) = serve_many(model)?;
    Ok(Figures {
        idle,
        threads: after.threads,
        idle_cpu: (after.cpu.saturating_sub(before.cpu)).as_secs_f64() / seconds * 100.0,
        wakeups: after.sleeps.saturating_sub(before.sleeps) as f64 / seconds,
        calls,
        calls_of_many,
        p50: times[times.len() / 2],
        p99: times[times.len() * 99 / 100],
        served,
        memory,
        slow_hurts: slow_hurts(model)?,
    })
}

/// Returns the server's system calls a request, while `send` sends `requests` requests.
fn calls_of(
    child: &mut Server,
    requests: usize,
    send: impl FnOnce() -> io::Result<()>,
) -> io::Result<f64> {
    let before: u64 = child.calls()?.iter().sum();
    send()?;
    let after: u64 = child.calls()?.iter().sum();
    Ok((after - before) as f64 / requests as f64)
}

/// Opens many clients, each of which sends one request and stays connected. Returns how many of
/// them were served, and the server's memory for each in bytes.
fn serve_many(model: Model) -> io::Result<(usize, Option<u64>)> {
    let child = Server::start(model)?;
    let mut clients = vec![Client::connect(child.addr, LONG_TIMEOUT)?];
    clients[0].exchange(1)?;
    let (before, mut served, mut unanswered) = (child.usage()?.memory, 1, 0);
    while clients.len() < max_clients() && unanswered < MAX_UNANSWERED {
        let Ok(mut client) = Client::connect(child.addr, SHORT_TIMEOUT) else {
            break;
        };
        if client.exchange(1).is_ok() {
            (served, unanswered) = (served + 1, 0);
        } else {
            unanswered += 1;
        }
        clients.push(client);
    }
    let after = child.usage()?.memory;
    Ok((
        served,
        (served > 100).then(|| after.saturating_sub(before) / (served as u64 - 1)),
    ))
}

/// Returns whether a client that sends until its writes block, and never reads, stops the server
/// from serving another client.
fn slow_hurts(model: Model) -> io::Result<bool> {
    let child = Server::start(model)?;
    let mut slow = Client::connect(child.addr, LONG_TIMEOUT)?;
    let requests = request(0).repeat(1_000);
    slow.stream.set_write_timeout(Some(SHORT_TIMEOUT / 2))?;
    for _ in 0..10_000 {
        if slow.stream.write_all(&requests).is_err() {
            break;
        }
    }
    let Ok(mut other) = Client::connect(child.addr, SHORT_TIMEOUT) else {
        return Ok(true);
    };
    Ok((0..20).try_for_each(|_| other.exchange(1)).is_err())
}

/// A client that sends requests and waits for the acks.
struct Client {
    stream: TcpStream,
    sent: u64,
}

impl Client {
    /// Connects, and gives each read `timeout` to return.
    fn connect(addr: SocketAddr, timeout: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&addr, timeout)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(timeout))?;
        Ok(Self { stream, sent: 0 })
    }

    /// Sends `times` requests at once, and waits for all acks.
    fn exchange(&mut self, times: usize) -> io::Result<()> {
        let first = self.sent;
        let requests: Vec<u8> = (first..first + times as u64).flat_map(request).collect();
        self.sent += times as u64;
        self.stream.write_all(&requests)?;
        let mut acks = vec![0; times * Ack::LEN];
        self.stream.read_exact(&mut acks)?;
        let wrong = acks
            .chunks(Ack::LEN)
            .zip(first..)
            .find(|(ack, number)| ack[5..13] != Id::nth(*number).0);
        wrong.map_or(Ok(()), |(ack, number)| {
            Err(io::Error::new(
                ErrorKind::InvalidData,
                format!("{ack:?} is not the ack of request {number}"),
            ))
        })
    }
}

fn request(number: u64) -> BytesMut {
    let mut bytes = BytesMut::new();
    let request = Request {
        kind: Kind::Submit,
        id: Id::nth(number),
        payload: b"0123456789abcdef",
    };
    ClientCodec::default()
        .encode(request, &mut bytes)
        .expect("the request is short");
    bytes
}
