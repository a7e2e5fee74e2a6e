//! Measuring a server, and making it faster: E1 to E8, as in the third lesson.

use glassloop::submit::Ack;
use glassloop::{Counters, Reactor};

use super::demos::{Demo, Served};
use super::prelude::*;
use super::servers::Model;
use super::servers::child::Server;
use super::service::{Client, service, submit};

pub(crate) const RUNS: Runs = runs! { e1 e2 e4 };

/// The requests of a batch, and room for their acks.
pub(super) fn batch(depth: usize) -> (Vec<u8>, Vec<u8>) {
    (
        submit(1, b"0123456789abcdef").repeat(depth),
        vec![0; depth * Ack::LEN],
    )
}

/// Sends this many requests in batches of `depth`, each when the one before is answered.
pub(super) fn ask(mut stream: &TcpStream, requests: usize, depth: usize) -> io::Result<()> {
    let (batch, mut acks) = batch(depth);
    for _ in 0..requests / depth {
        stream.write_all(&batch)?;
        stream.read_exact(&mut acks)?;
    }
    Ok(())
}

fn e1(_: Lab) -> io::Result<Outcome> {
    const REQUESTS: usize = 1_000;
    // Calls a request, and microseconds a request in the best of three rounds.
    let measure = |demo| {
        let served = Served::by(demo)?;
        ask(&served.client, 100, 100)?; // warm
        let before = served.counts.now();
        let mut best = f64::INFINITY;
        for _ in 0..3 {
            let (took, asked) = timed(|| ask(&served.client, REQUESTS, 100));
            asked?;
            best = best.min(took.as_secs_f64() * 1e6 / REQUESTS as f64);
        }
        let after = served.counts.now();
        let [reads, writes, requests] = [0, 1, 2].map(|count| after[count] - before[count]);
        io::Result::Ok(((reads + writes) as f64 / requests as f64, best))
    };
    let (calls, baseline) = measure(Demo::Direct)?;
    let (calls_again, again) = measure(Demo::Direct)?;
    let (calls_changed, changed) = measure(Demo::Flushing)?;
    let percent = |to: f64, from: f64| format!("{:+.1} %", (to / from - 1.0) * 100.0);
    let fewer = percent(calls_changed, calls);
    let (gain, noise) = (percent(changed, baseline), percent(again, baseline));
    let four = (calls - 4.0).abs() < 0.01 && (calls_again - 4.0).abs() < 0.01;
    Verdict::reproduced_if(four && calls_changed < 1.0).measured(values![
        baseline,
        calls,
        calls_changed,
        fewer,
        changed,
        gain,
        again,
        noise
    ])
}

/// How much a counter has grown, by the rule of Prometheus: a value below the one before is a
/// restart.
fn increase(samples: &[u64]) -> u64 {
    let steps = samples
        .windows(2)
        .map(|pair| pair[1].checked_sub(pair[0]).unwrap_or(pair[1]));
    steps.sum()
}

fn e2(_: Lab) -> io::Result<Outcome> {
    const SUBMITS: [u64; 3] = [10, 20, 30];
    let mut reactor = Reactor::bind("127.0.0.1:0", service())?;
    let addr = reactor.local_addrs()[0]
        .tcp()
        .ok_or(ErrorKind::AddrNotAvailable)?;
    let clients = SUBMITS.map(|submits| {
        thread::spawn(move || {
            let mut client = Client::connect(addr)?;
            (1..=submits).try_for_each(|n| client.ask(&submit(n, b"hello")).map(drop))?;
            io::Result::Ok(submits)
        })
    });
    let (mut samples, mut most, end) = (Vec::new(), 0, Instant::now() + PATIENCE);
    while reactor.counters().closed < 3 && Instant::now() < end {
        let _ = reactor.turn(Some(Duration::from_millis(10)))?;
        let Counters {
            accepted,
            closed,
            frames,
            queued,
            ..
        } = reactor.counters();
        let Counters {
            bytes_read,
            bytes_written,
            ..
        } = reactor.counters();
        samples.push([accepted, closed, frames, queued, bytes_read, bytes_written]);
        most = reactor.connections().max(most);
    }
    let acked = clients
        .into_iter()
        .map(|client| joined(client)?)
        .sum::<io::Result<u64>>()?;
    let Counters {
        accepted,
        frames,
        queued,
        ..
    } = reactor.counters();
    let fell = |pair: &&[[u64; 6]]| pair[0].iter().zip(&pair[1]).any(|(old, new)| new < old);
    let falls = samples.windows(2).filter(fell).count();
    let (sent, left, samples) = (SUBMITS.iter().sum(), reactor.connections(), samples.len());
    let grown = increase(&[100, 150, 149]);
    let equal = (accepted, frames, queued, acked) == (3, sent, acked, sent);
    let holds = equal && most > left && left == 0 && falls == 0 && grown == 199;
    let values = values![
        frames, sent, queued, acked, most, left, falls, samples, grown
    ];
    Verdict::WrongAsWritten.only_if(holds).measured(values)
}

fn e4(_: Lab) -> io::Result<Outcome> {
    const CLIENTS: usize = 100;
    // Requests a second: all clients send `depth` requests, then all read their acks.
    let rate = |clients: &mut Vec<Client>, depth: usize, rounds: usize| {
        let (batch, mut acks) = batch(depth);
        let mut best = Duration::MAX;
        for _ in 0..rounds {
            let (took, done) = timed(|| {
                clients
                    .iter_mut()
                    .try_for_each(|client| client.send(&batch))?;
                clients
                    .iter_mut()
                    .try_for_each(|client| client.stream.read_exact(&mut acks))
            });
            done?;
            best = best.min(took);
        }
        io::Result::Ok(CLIENTS * depth * 1_000_000 / best.as_micros().max(1) as usize)
    };
    let measure = |model| {
        let server = Server::start(model)?;
        let clients = (0..CLIENTS).map(|_| Client::connect(server.addr));
        let mut clients = clients.collect::<io::Result<Vec<_>>>()?;
        rate(&mut clients, 1, 1)?; // each is served from here on
        io::Result::Ok([rate(&mut clients, 1, 10)?, rate(&mut clients, 100, 5)?])
    };
    let rates = [measure(Model::Threads)?, measure(Model::Reactor)?];
    let verdict = Verdict::Refined.only_if(rates.iter().all(|[one, many]| *many > 2 * one));
    let [one, many] = [0, 1].map(|load| rates[1][load] as f64 / rates[0][load] as f64);
    let [threads, reactor] = rates.map(|[one, many]| [one, many, many / one]);
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let note = if cfg!(debug_assertions) {
        "This build is not optimized; an optimized one gives other ratios."
    } else {
        ""
    };
    Ok(Outcome::new(verdict, values![cores, threads, reactor, one, many]).note(note))
}
