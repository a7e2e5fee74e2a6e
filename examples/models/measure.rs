//! What one model costs, measured from outside.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use glassloop::Codec;
use glassloop::submit::{Ack, ClientCodec, Id, Kind, Request};

use super::servers::Model;
use super::servers::child::Server;

/// A row of the table: what a model costs, or why that is not known.
pub(crate) struct Row {
    pub(crate) model: Model,
    pub(crate) figures: Result<Figures, String>,
}

pub(crate) struct Figures {
    /// With so many idle clients.
    pub(crate) idle: usize,
    pub(crate) threads: u64,
    /// In percent of one processor, while all clients are idle.
    pub(crate) idle_cpu: f64,
    pub(crate) wakeups: f64,
    /// System calls a request, of a client that waits for each answer.
    pub(crate) calls: f64,
    /// The same, of a client that sends a hundred at once.
    pub(crate) calls_of_many: f64,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    /// How many of the [`crowd_size`] clients were served at the same time.
    pub(crate) served: usize,
    /// Bytes of memory for each of them.
    pub(crate) memory: Option<u64>,
    /// Whether a client that sends and does not read keeps another one from being served.
    pub(crate) slow_hurts: bool,
}

/// Clients that try to be served at the same time, if there are descriptors for them.
const CROWD: usize = 1_200;
/// Descriptors that are left for everything else.
const SPARE: u64 = 100;
const IDLE: usize = 100;
const LOCK_STEP: usize = 2_000;
const BATCHES: usize = 50;
const BATCH: usize = 100;
/// Who is sure to be answered waits so long, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(20);
/// Who may not be answered at all has no answer by then.
const DOUBT: Duration = Duration::from_secs(1);
/// So many who are not answered one after the other prove that nobody is any more.
const UNANSWERED: u32 = 3;

/// Clients that try to be served at the same time.
pub(crate) fn crowd_size() -> usize {
    let limit = rlimit::Resource::NOFILE.get_soft().unwrap_or(0);
    CROWD.min(limit.saturating_sub(SPARE) as usize).max(1)
}

pub(crate) fn measure(model: Model) -> Row {
    Row {
        model,
        figures: figures(model).map_err(|error| error.to_string()),
    }
}

fn figures(model: Model) -> io::Result<Figures> {
    // The one who serves one client only has none left for others.
    let idle = if model == Model::Iterative { 0 } else { IDLE };
    let mut child = Server::start(model)?;
    let mut client = Client::connect(child.addr, PATIENCE)?;
    let mut others = (0..idle)
        .map(|_| Client::connect(child.addr, PATIENCE))
        .collect::<io::Result<Vec<_>>>()?;
    client.ask(1)?;
    others.iter_mut().try_for_each(|other| other.ask(1))?; // only then is each served, and silent from here on

    let (before, begun) = (child.usage()?, Instant::now());
    thread::sleep(Duration::from_secs(1));
    let (after, seconds) = (child.usage()?, begun.elapsed().as_secs_f64());

    let calls = calls_of(&mut child, LOCK_STEP, || {
        (0..LOCK_STEP).try_for_each(|_| client.ask(1))
    })?;
    let calls_of_many = calls_of(&mut child, BATCHES * BATCH, || {
        (0..BATCHES).try_for_each(|_| client.ask(BATCH))
    })?;
    let mut times = Vec::new();
    for _ in 0..LOCK_STEP {
        let asked = Instant::now();
        client.ask(1)?;
        times.push(asked.elapsed());
    }
    times.sort_unstable();
    drop((others, client, child));

    let (served, memory) = crowd(model)?;
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

/// How many calls the server makes for each of so many requests.
fn calls_of(
    child: &mut Server,
    requests: usize,
    ask: impl FnOnce() -> io::Result<()>,
) -> io::Result<f64> {
    let before: u64 = child.calls()?.iter().sum();
    ask()?;
    let after: u64 = child.calls()?.iter().sum();
    Ok((after - before) as f64 / requests as f64)
}

/// Many come, ask one question each, and stay: how many are answered, and what each costs in memory.
fn crowd(model: Model) -> io::Result<(usize, Option<u64>)> {
    let child = Server::start(model)?;
    let mut clients = vec![Client::connect(child.addr, PATIENCE)?];
    clients[0].ask(1)?;
    let (before, mut served, mut unanswered) = (child.usage()?.memory, 1, 0);
    while clients.len() < crowd_size() && unanswered < UNANSWERED {
        let Ok(mut client) = Client::connect(child.addr, DOUBT) else {
            break;
        };
        if client.ask(1).is_ok() {
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

/// One sends without reading until he is stopped; is another one served meanwhile?
fn slow_hurts(model: Model) -> io::Result<bool> {
    let child = Server::start(model)?;
    let mut slow = Client::connect(child.addr, PATIENCE)?;
    let requests = request(0).repeat(1_000);
    slow.stream.set_write_timeout(Some(DOUBT / 2))?;
    for _ in 0..10_000 {
        if slow.stream.write_all(&requests).is_err() {
            break;
        }
    }
    let Ok(mut other) = Client::connect(child.addr, DOUBT) else {
        return Ok(true);
    };
    Ok((0..20).try_for_each(|_| other.ask(1)).is_err())
}

/// A client that asks and waits.
struct Client {
    stream: TcpStream,
    asked: u64,
}

impl Client {
    fn connect(addr: SocketAddr, patience: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&addr, patience)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        Ok(Self { stream, asked: 0 })
    }

    /// Asks so often at once, and waits for all answers.
    fn ask(&mut self, times: usize) -> io::Result<()> {
        let first = self.asked;
        let requests: Vec<u8> = (first..first + times as u64).flat_map(request).collect();
        self.asked += times as u64;
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
                format!("{ack:?} is no ack of {number}"),
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
        .expect("it is short");
    bytes
}
