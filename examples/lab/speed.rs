//! Measuring a server, and making it faster: E1 to E8, what the third lesson does.

use super::prelude::*;
use glassloop::submit::Ack;
use glassloop::{Counters, Reactor};

use super::demos::{Demo, Served};
use super::servers::Model;
use super::servers::child::Server;
use super::service::{Client, service, submit};
use super::speed_calls as calls;

pub(crate) const RUNS: &[(&str, Run)] = &[
    ("E1", e1),
    ("E2", e2),
    ("E4", e4),
    ("E5", calls::e5),
    ("E6", calls::e6),
    ("E7", calls::e7),
    ("E8", calls::e8),
];

/// Sends so many requests in batches of `depth`, each when the one before is answered.
pub(super) fn ask(
    mut stream: &std::net::TcpStream,
    requests: usize,
    depth: usize,
) -> io::Result<()> {
    let (batch, mut acks) = (
        submit(1, b"0123456789abcdef").repeat(depth),
        vec![0; depth * Ack::LEN],
    );
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
        let rounds = (0..3)
            .map(|_| timed(|| ask(&served.client, REQUESTS, 100)))
            .collect::<Vec<_>>();
        let after = served.counts.now();
        let mut best = f64::INFINITY;
        for (took, asked) in rounds {
            asked?;
            best = best.min(took.as_secs_f64() * 1e6 / REQUESTS as f64);
        }
        let calls =
            (after[0] - before[0] + after[1] - before[1]) as f64 / (after[2] - before[2]) as f64;
        io::Result::Ok((calls, best))
    };
    let (baseline, again, changed) = (
        measure(Demo::Direct)?,
        measure(Demo::Direct)?,
        measure(Demo::Flushing)?,
    );
    let percent = |to: f64, from: f64| format!("{:+.1} %", (to / from - 1.0) * 100.0);
    let holds = (baseline.0 - 4.0).abs() < 0.01 && (again.0 - 4.0).abs() < 0.01 && changed.0 < 1.0;
    Verdict::reproduced_if(holds).measured(values![
        baseline = baseline.1,
        calls = baseline.0,
        calls_changed = changed.0,
        calls_gain = percent(changed.0, baseline.0),
        changed = changed.1,
        gain = percent(changed.1, baseline.1),
        again = again.1,
        noise = percent(again.1, baseline.1)
    ])
}

/// How much a counter has grown, by the rule of Prometheus: a value below the one before is a new beginning from 0.
fn increase(samples: &[u64]) -> u64 {
    samples
        .windows(2)
        .map(|pair| {
            if pair[1] < pair[0] {
                pair[1]
            } else {
                pair[1] - pair[0]
            }
        })
        .sum()
}

fn e2(_: Lab) -> io::Result<Outcome> {
    const SUBMITS: [usize; 3] = [10, 20, 30];
    let mut reactor = Reactor::bind("127.0.0.1:0", service()).map_err(io::Error::other)?;
    let addr = reactor.local_addrs()[0]
        .tcp()
        .ok_or(io::ErrorKind::AddrNotAvailable)?;
    let clients: Vec<_> = SUBMITS
        .into_iter()
        .map(|submits| {
            thread::spawn(move || {
                let mut client = Client::connect(addr)?;
                (1..=submits as u64)
                    .map(|n| client.ask(&submit(n, b"hello")))
                    .collect::<io::Result<Vec<_>>>()
                    .map(|acks| acks.len())
            })
        })
        .collect();
    let (mut samples, end) = (Vec::new(), Instant::now() + PATIENCE);
    while reactor.counters().closed < 3 && Instant::now() < end {
        let _ = reactor
            .turn(Some(Duration::from_millis(10)))
            .map_err(io::Error::other)?;
        let Counters {
            accepted,
            closed,
            frames,
            queued,
            bytes_read,
            bytes_written,
            ..
        } = reactor.counters();
        samples.push((
            [accepted, closed, frames, queued, bytes_read, bytes_written],
            reactor.connections(),
        ));
    }
    let acked = clients
        .into_iter()
        .map(|client| {
            client
                .join()
                .map_err(|_| io::Error::other("a client panicked"))?
        })
        .sum::<io::Result<usize>>()?;
    let Counters {
        accepted,
        frames,
        queued,
        ..
    } = reactor.counters();
    let falls = samples
        .windows(2)
        .filter(|pair| {
            pair[0]
                .0
                .iter()
                .zip(pair[1].0)
                .any(|(before, after)| after < *before)
        })
        .count();
    let most = samples
        .iter()
        .map(|(_, connected)| *connected)
        .max()
        .unwrap_or(0);
    let sent = SUBMITS.iter().sum::<usize>();
    let grown = increase(&[100, 150, 149]);
    let equal = (accepted, frames as usize, queued as usize) == (3, sent, acked) && acked == sent;
    let gauge = most > reactor.connections() && reactor.connections() == 0;
    Verdict::WrongAsWritten
        .only_if(equal && gauge && falls == 0 && grown == 199)
        .measured(values![
            frames,
            sent,
            queued,
            acked,
            most,
            left = reactor.connections(),
            falls,
            samples = samples.len(),
            grown
        ])
}

fn e4(_: Lab) -> io::Result<Outcome> {
    const CLIENTS: usize = 100;
    // Requests a second: all clients send `depth` requests, then all read their acks.
    let rate = |clients: &mut Vec<Client>, depth: usize, rounds: usize| {
        let (batch, mut acks) = (
            submit(1, b"0123456789abcdef").repeat(depth),
            vec![0; depth * Ack::LEN],
        );
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
        io::Result::Ok((CLIENTS * depth * 1_000_000) / best.as_micros().max(1) as usize)
    };
    let measure = |model| {
        let server = Server::start(model)?;
        let mut clients = (0..CLIENTS)
            .map(|_| Client::connect(server.addr))
            .collect::<io::Result<Vec<_>>>()?;
        rate(&mut clients, 1, 1)?; // each is served from here on
        io::Result::Ok([rate(&mut clients, 1, 10)?, rate(&mut clients, 100, 5)?])
    };
    let (threads, reactor) = (measure(Model::Threads)?, measure(Model::Reactor)?);
    let gains = [threads, reactor].map(|[waiting, ahead]| ahead as f64 / waiting as f64);
    let said = |rates: [usize; 2], gain: f64| {
        format!(
            "{} a second with 1 request under way, {} with 100: {gain:.0} times",
            thousands(rates[0]),
            thousands(rates[1])
        )
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    Ok(Outcome::new(
        Verdict::Refined.only_if(gains.iter().all(|gain| *gain > 2.0)),
        values![
            cores,
            threads = said(threads, gains[0]),
            reactor = said(reactor, gains[1]),
            one = reactor[0] as f64 / threads[0] as f64,
            many = reactor[1] as f64 / threads[1] as f64
        ],
    )
    .note(if cfg!(debug_assertions) {
        "This build is not optimised; in one that is, the ratios are others."
    } else {
        ""
    }))
}
