//! What a request costs, counted: system calls and allocations. E5 to E8.

use super::prelude::*;
use std::cell::Cell;
use std::io::Cursor;

use glassloop::Reactor;
use glassloop::submit::Ack;

use super::allocations::allocations;
use super::demos::{Demo, Pool, Served, decode_frame, encode_frame, handle_conn, handle_packet};
use super::servers::Model;
use super::servers::child::Server;
use super::servers::sys::Call;
use super::service::{Client, Service, service, submit};
use super::speed::ask;

/// A socket, and how long was spent in its calls.
struct Timed<'a>(&'a TcpStream, &'a Cell<Duration>);

impl Timed<'_> {
    fn spend<T>(&self, call: impl FnOnce(&TcpStream) -> T) -> T {
        let begun = Instant::now();
        let result = call(self.0);
        self.1.set(self.1.get() + begun.elapsed());
        result
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.spend(|mut stream| stream.read(buffer))
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.spend(|mut stream| stream.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The share of its time that demo2 spends in system calls, when all requests are there and it need not wait.
fn share_in_calls() -> io::Result<f64> {
    let (mut client, server) = pair()?;
    client.write_all(&submit(1, b"0123456789abcdef").repeat(200))?;
    client.shutdown(Shutdown::Write)?;
    let (inside, begun) = (Cell::new(Duration::ZERO), Instant::now());
    handle_conn(
        &mut Timed(&server, &inside),
        &mut Timed(&server, &inside),
        |_, _| Ok(()),
        &mut |_| (),
    )?;
    Ok(inside.get().as_secs_f64() / begun.elapsed().as_secs_f64())
}

pub(super) fn e5(_: Lab) -> io::Result<Outcome> {
    const REQUESTS: usize = 1_000;
    let served = Served::by(Demo::Direct)?;
    ask(&served.client, REQUESTS, 1)?;
    let [reads, writes, requests] = served.counts.now();
    let mut shares = (0..5)
        .map(|_| share_in_calls())
        .collect::<io::Result<Vec<_>>>()?;
    shares.sort_unstable_by(f64::total_cmp);
    let of_threads = calls_of(Model::Threads, REQUESTS, 1)?;
    let of_reactor = calls_of(Model::Reactor, REQUESTS, 1)?;
    // The last read has perhaps begun already: it waits for a request that does not come.
    let four = requests == REQUESTS
        && writes == 2 * REQUESTS
        && (2 * REQUESTS..=2 * REQUESTS + 1).contains(&reads);
    let each = |count: usize| count as f64 / REQUESTS as f64;
    Verdict::reproduced_if(four && shares[2] > 0.5).measured(values![
        reads = each(reads),
        writes = each(writes),
        share = shares[2] * 100.0,
        threads = said(of_threads, REQUESTS),
        reactor = said(of_reactor, REQUESTS)
    ])
}

/// The calls that one of our servers makes for so many requests, `depth` of them at once.
fn calls_of(model: Model, requests: usize, depth: usize) -> io::Result<[u64; 5]> {
    let mut server = Server::start(model)?;
    let client = Client::connect(server.addr)?;
    ask(&client.stream, depth, depth)?;
    let before = server.calls()?;
    ask(&client.stream, requests, depth)?;
    let after = server.calls()?;
    Ok(std::array::from_fn(|call| after[call] - before[call]))
}

fn said(calls: [u64; 5], requests: usize) -> String {
    let each = |call: Call| calls[call as usize] as f64 / requests as f64;
    format!(
        "{:.2} reads, {:.2} writes and {:.2} waits a request",
        each(Call::Read),
        each(Call::Write),
        each(Call::Wait)
    )
}

/// What a client sees of demo3.
struct Starved {
    /// What a read of 100 ms comes to, once the server has dealt with the first request.
    ack: io::Result<usize>,
    /// The request after which it wrote for the first time, and how much.
    request: usize,
    bytes: usize,
    /// Bytes of acks that it holds back then, and those that come when the client ends its sending.
    stuck: usize,
    rest: usize,
}

fn starve() -> io::Result<Starved> {
    let mut served = Served::by(Demo::Buffered)?;
    // Each request is one read; the server is done with the n-th when it has begun the read after it.
    let ask = |served: &mut Served, n: usize| {
        served
            .client
            .write_all(&submit(n as u64, b"0123456789abcdef"))?;
        let end = Instant::now() + PATIENCE;
        while served.counts.now()[0] <= n && Instant::now() < end {
            thread::yield_now();
        }
        io::Result::Ok(served.counts.now()[1])
    };
    ask(&mut served, 1)?;
    served
        .client
        .set_read_timeout(Some(Duration::from_millis(100)))?;
    let (ack, mut request) = (served.client.read(&mut [0; 64]), 1);
    while request < 1_000 {
        request += 1;
        if ask(&mut served, request)? > 0 {
            break;
        }
    }
    served.client.set_read_timeout(Some(PATIENCE))?;
    let bytes = served.client.read(&mut [0; 8192])?;
    let rest = served.end()?.0.len();
    Ok(Starved {
        ack,
        request,
        bytes,
        stuck: request * Ack::LEN - bytes,
        rest,
    })
}

pub(super) fn e6(_: Lab) -> io::Result<Outcome> {
    let Starved {
        ack,
        request,
        bytes,
        stuck,
        rest,
    } = starve()?;
    let mut outcome = Outcome::new(Verdict::Refined, values![ack, bytes, request, stuck, rest]);
    let hangs = ack.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
    let mut holds = hangs && (request, bytes) == (293, 4096) && rest == stuck;
    for depth in [1, 10, 100] {
        let (direct, flushing) = (
            demo_calls(Demo::Direct, depth)?,
            demo_calls(Demo::Flushing, depth)?,
        );
        let reactor = calls_of(Model::Reactor, 1_000, depth)?;
        let of_reactor = |calls: &[Call]| {
            calls
                .iter()
                .map(|call| reactor[*call as usize])
                .sum::<u64>() as f64
                / 1_000.0
        };
        let (calls, waits) = (
            of_reactor(&[Call::Read, Call::Write]),
            of_reactor(&[Call::Wait]),
        );
        // A loop may wait awake, and then it waits more often than it is woken.
        let few = calls < 2.01
            && waits < 5.0
            && (depth > 1 || calls > 1.99)
            && (depth < 100 || flushing.max(calls) < 1.0);
        holds &= (direct - 4.0).abs() < 0.01 && flushing < 2.1 && few;
        outcome = outcome.with(
            format!("calls a request, {depth} at once"),
            format!("demo2 {direct:.2}; with buffers, flushed before waiting {flushing:.2}; the reactor {calls:.2}, and {waits:.2} waits"),
        );
    }
    outcome.verdict = outcome.verdict.only_if(holds);
    Ok(outcome)
}

/// Calls a request of one of the lesson's servers.
fn demo_calls(demo: Demo, depth: usize) -> io::Result<f64> {
    let served = Served::by(demo)?;
    ask(&served.client, 1_000, depth)?;
    let [reads, writes, requests] = served.counts.now();
    Ok((reads + writes) as f64 / requests as f64)
}

/// Allocations a request of the lesson's way from bytes to bytes, with a pool or without.
fn allocations_of_demo(mut pool: Pool) -> io::Result<f64> {
    const REQUESTS: usize = 100;
    let (request, mut acks) = (submit(1, b"0123456789abcdef"), Vec::with_capacity(64));
    let mut serve = |requests: usize| {
        (0..requests).try_for_each(|_| {
            acks.clear();
            let frame = decode_frame(&mut Cursor::new(&request))?;
            let ack = handle_packet(frame, &mut pool, &mut |_| ())?;
            encode_frame(&mut acks, &ack)
        })
    };
    serve(1)?; // the pool is filled
    let (count, served) = allocations(|| serve(REQUESTS));
    served.map(|()| count as f64 / REQUESTS as f64)
}

/// What the reactor's thread does for a request: allocations, and calls (reads, writes and waits).
fn costs_of_reactor(depth: usize) -> io::Result<(f64, f64)> {
    const ROUNDS: usize = 50;
    let mut reactor = Reactor::bind("127.0.0.1:0", service()).map_err(io::Error::other)?;
    let mut client = Client::connect(
        reactor.local_addrs()[0]
            .tcp()
            .ok_or(io::ErrorKind::AddrNotAvailable)?,
    )?;
    let (requests, mut acks) = (
        submit(1, b"0123456789abcdef").repeat(depth),
        vec![0; depth * Ack::LEN],
    );
    let mut round = |reactor: &mut Reactor<Service>| {
        client.send(&requests)?;
        let done = reactor.counters().bytes_written + acks.len() as u64;
        let (count, turned) = allocations(|| {
            while reactor.counters().bytes_written < done {
                let _ = reactor.turn(Some(PATIENCE)).map_err(io::Error::other)?;
            }
            io::Result::Ok(())
        });
        turned?;
        client.stream.read_exact(&mut acks)?;
        io::Result::Ok(count)
    };
    (0..5).try_for_each(|_| round(&mut reactor).map(|_| ()))?; // the buffers find their size
    let calls = |reactor: &Reactor<Service>| {
        reactor.counters().reads + reactor.counters().writes + reactor.counters().turns
    };
    let before = calls(&reactor);
    let allocated = (0..ROUNDS)
        .map(|_| round(&mut reactor))
        .sum::<io::Result<u64>>()?;
    let requests = (ROUNDS * depth) as f64;
    Ok((
        allocated as f64 / requests,
        (calls(&reactor) - before) as f64 / requests,
    ))
}

pub(super) fn e7(_: Lab) -> io::Result<Outcome> {
    let (plain, pooled) = (
        allocations_of_demo(None)?,
        allocations_of_demo(Some(Vec::with_capacity(8)))?,
    );
    let (one, _) = costs_of_reactor(1)?;
    let (many, _) = costs_of_reactor(100)?;
    Verdict::Refined
        .only_if((plain - pooled - 1.0).abs() < 0.05 && pooled > 1.0 && one + many < 0.001)
        .measured(values![plain, pooled, one, many])
}

pub(super) fn e8(_: Lab) -> io::Result<Outcome> {
    const DEPTH: usize = 100;
    let allocated = allocations_of_demo(None)?;
    let (by_reactor, calls) = costs_of_reactor(DEPTH)?;
    let steps = [
        (
            "as it is",
            demo_calls(Demo::Direct, DEPTH)?,
            Some(allocated),
        ),
        (
            "an ack in one write",
            demo_calls(Demo::OneWrite, DEPTH)?,
            None,
        ), // only the calls are others
        (
            "buffers on both sides, flushed before waiting",
            demo_calls(Demo::Flushing, DEPTH)?,
            None,
        ),
        (
            "frames borrowed, acks encoded in place: the reactor",
            calls,
            Some(by_reactor),
        ),
    ];
    let fewer_calls = steps[..3]
        .windows(2)
        .all(|pair| pair[1].1 < pair[0].1 - 0.5)
        && steps[3].1 < 1.0;
    let outcome = Outcome::new(
        Verdict::reproduced_if(fewer_calls && by_reactor < 0.001 && allocated > 1.0),
        values![],
    );
    Ok(steps.into_iter().fold(
        outcome.with("requests at once", DEPTH),
        |outcome, (step, calls, allocated)| {
            let allocated = allocated.map_or(String::new(), |allocated| {
                format!(" and {allocated:.2} allocations")
            });
            outcome.with(step, format!("{calls:.2} calls{allocated} a request"))
        },
    ))
}
