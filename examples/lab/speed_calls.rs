//! What a request costs, counted: system calls and allocations. E5 to E8.

use std::io::Cursor;

use glassloop::Reactor;
use glassloop::submit::Ack;

use super::allocations::allocations;
use super::demos::{
    Counted, Counts, Demo, Pool, Served, decode_frame, encode_frame, handle_conn, handle_packet,
};
use super::prelude::*;
use super::servers::Model;
use super::servers::child::Server;
use super::servers::sys::Call;
use super::service::{Client, Service, service, submit};
use super::speed::{ask, batch};

pub(crate) const RUNS: Runs = runs! { e5 e6 e7 e8 };

/// The share of its time that demo2 spends in system calls, when all requests are there.
fn share_in_calls() -> io::Result<f64> {
    let (mut client, server) = pair()?;
    client.write_all(&batch(200).0)?;
    client.shutdown(Shutdown::Write)?;
    let counts = Counts::default();
    let [mut reader, mut writer] = [(); 2].map(|()| Counted(&server, &counts));
    let (took, done) = timed(|| handle_conn(&mut reader, &mut writer, |_, _| Ok(()), &mut |_| ()));
    done?;
    Ok(counts.spent().as_secs_f64() / took.as_secs_f64())
}

fn e5(_: Lab) -> io::Result<Outcome> {
    const REQUESTS: usize = 1_000;
    let served = Served::by(Demo::Direct)?;
    ask(&served.client, REQUESTS, 1)?;
    let [reads, writes, requests] = served.counts.now();
    let mut shares = (0..5)
        .map(|_| share_in_calls())
        .collect::<io::Result<Vec<_>>>()?;
    shares.sort_unstable_by(f64::total_cmp);
    let share = 100.0 * shares[2];
    // The last read has perhaps begun already: it waits for a request that does not come.
    let four = requests == REQUESTS
        && writes == 2 * REQUESTS
        && (2 * REQUESTS..=2 * REQUESTS + 1).contains(&reads);
    let (threads, reactor) = (calls_of(Model::Threads, 1)?, calls_of(Model::Reactor, 1)?);
    let [reads, writes] = [reads, writes].map(|count| count as f64 / REQUESTS as f64);
    let values = values![reads, writes, share, threads, reactor];
    Verdict::reproduced_if(four && share > 50.0).measured(values)
}

/// The calls that one of our servers makes for a request, if `depth` come at once.
fn calls_of(model: Model, depth: usize) -> io::Result<[f64; 5]> {
    const REQUESTS: usize = 1_000;
    let mut server = Server::start(model)?;
    let client = Client::connect(server.addr)?;
    ask(&client.stream, depth, depth)?;
    let before = server.calls()?;
    ask(&client.stream, REQUESTS, depth)?;
    let after = server.calls()?;
    Ok(std::array::from_fn(|call| {
        (after[call] - before[call]) as f64 / REQUESTS as f64
    }))
}

/// What a client sees of demo3.
struct Starved {
    /// A read of 100 ms, after the server has handled the first request.
    ack: io::Result<usize>,
    /// The request after which the server wrote for the first time, and how much.
    request: usize,
    bytes: usize,
    /// Bytes of acks that it holds back then, and those that come when the client ends its sending.
    stuck: usize,
    rest: usize,
}

fn starve() -> io::Result<Starved> {
    let mut served = Served::by(Demo::Buffered)?;
    // Each request is one read; the server has handled the n-th when it begins the read after it.
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
    let (ack, mut request) = (served.client.read(&mut [0; 64]), 2);
    while ask(&mut served, request)? == 0 && request < 1_000 {
        request += 1;
    }
    served.client.set_read_timeout(Some(PATIENCE))?;
    let bytes = served.client.read(&mut [0; 8192])?;
    let rest = served.end()?.0.len();
    let stuck = request * Ack::LEN - bytes;
    Ok(Starved {
        ack,
        request,
        bytes,
        stuck,
        rest,
    })
}

fn e6(_: Lab) -> io::Result<Outcome> {
    let Starved {
        ack,
        request,
        bytes,
        stuck,
        rest,
    } = starve()?;
    let mut holds = is_eagain(&ack) && (request, bytes) == (293, 4096) && rest == stuck;
    let mut calls = Vec::new();
    for depth in [1, 10, 100] {
        let direct = demo_calls(Demo::Direct, depth)?;
        let flushing = demo_calls(Demo::Flushing, depth)?;
        let reactor = calls_of(Model::Reactor, depth)?;
        let made = reactor[Call::Read as usize] + reactor[Call::Write as usize];
        let waits = reactor[Call::Wait as usize];
        // A loop may spin, and then it waits more often than it is woken.
        let few = made < 2.01
            && waits < 5.0
            && (depth > 1 || made > 1.99)
            && (depth < 100 || flushing.max(made) < 1.0);
        holds &= (direct - 4.0).abs() < 0.01 && flushing < 2.1 && few;
        calls.push([direct, flushing, made, waits]);
    }
    let values = values![ack, request, bytes, stuck, rest, calls];
    Verdict::Refined.only_if(holds).measured(values)
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
    let (request, mut acks) = (batch(1).0, Vec::with_capacity(64));
    let mut serve = |requests: usize| {
        (0..requests).try_for_each(|_| {
            acks.clear();
            let frame = decode_frame(&mut Cursor::new(&request))?;
            let ack = handle_packet(frame, &mut pool, &mut |_| ())?;
            encode_frame(&mut acks, &ack)
        })
    };
    serve(1)?; // fills the pool
    let (count, served) = allocations(|| serve(REQUESTS));
    served.map(|()| count as f64 / REQUESTS as f64)
}

/// What the reactor's thread does for a request: allocations, and calls (reads, writes and waits).
fn costs_of_reactor(depth: usize) -> io::Result<(f64, f64)> {
    const ROUNDS: usize = 50;
    let mut reactor = Reactor::bind("127.0.0.1:0", service())?;
    let addr = reactor.local_addrs()[0]
        .tcp()
        .ok_or(ErrorKind::AddrNotAvailable)?;
    let (mut client, (requests, mut acks)) = (Client::connect(addr)?, batch(depth));
    let mut round = |reactor: &mut Reactor<Service>| {
        client.send(&requests)?;
        let done = reactor.counters().bytes_written + acks.len() as u64;
        let (count, turned) = allocations(|| {
            while reactor.counters().bytes_written < done {
                let _ = reactor.turn(Some(PATIENCE))?;
            }
            io::Result::Ok(())
        });
        turned?;
        client.stream.read_exact(&mut acks)?;
        io::Result::Ok(count)
    };
    (0..5).try_for_each(|_| round(&mut reactor).map(|_| ()))?; // the buffers reach their size
    let calls = |reactor: &Reactor<Service>| {
        let counters = reactor.counters();
        counters.reads + counters.writes + counters.turns
    };
    let before = calls(&reactor);
    let allocated = (0..ROUNDS)
        .map(|_| round(&mut reactor))
        .sum::<io::Result<u64>>()?;
    let made = calls(&reactor) - before;
    let requests = (ROUNDS * depth) as f64;
    Ok((allocated as f64 / requests, made as f64 / requests))
}

fn e7(_: Lab) -> io::Result<Outcome> {
    let plain = allocations_of_demo(None)?;
    let pooled = allocations_of_demo(Some(Vec::with_capacity(8)))?;
    let ((one, _), (many, _)) = (costs_of_reactor(1)?, costs_of_reactor(100)?);
    let one_less = (plain - pooled - 1.0).abs() < 0.05 && pooled > 1.0;
    let verdict = Verdict::Refined.only_if(one_less && one + many < 0.001);
    verdict.measured(values![plain, pooled, one, many])
}

fn e8(_: Lab) -> io::Result<Outcome> {
    const DEPTH: usize = 100;
    let allocated = allocations_of_demo(None)?;
    let (by_reactor, reactor) = costs_of_reactor(DEPTH)?;
    let direct = demo_calls(Demo::Direct, DEPTH)?;
    let one_write = demo_calls(Demo::OneWrite, DEPTH)?;
    let flushing = demo_calls(Demo::Flushing, DEPTH)?;
    let fewer = one_write < direct - 0.5 && flushing < one_write - 0.5 && reactor < 1.0;
    let verdict = Verdict::reproduced_if(fewer && by_reactor < 0.001 && allocated > 1.0);
    verdict.measured(values![
        depth = DEPTH,
        direct,
        allocated,
        one_write,
        flushing,
        reactor,
        by_reactor
    ])
}
