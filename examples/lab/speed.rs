//! Measuring a server, and making it faster: E1 to E8, what the third lesson does.

use std::io::{self, Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use glassloop::submit::Ack;
use glassloop::{Counters, Reactor};

use super::claim::{Claim, Lab, Outcome, State, Verdict};
use super::demos::{Demo, Served};
use super::servers::Model;
use super::servers::child::Server;
use super::service::{Client, service, submit};
use super::speed_calls as calls;
use super::tools::{PATIENCE, thousands, timed};

pub(crate) const CLAIMS: &[Claim] = &[
    Claim {
        id: "E1",
        says: "“建立性能基准…性能剖析…代码优化…与基准比较” Baseline, profile, change, compare: the four steps of optimising",
        asks: "The same server is measured twice, unchanged. By how much do the two times differ?",
        why: "Once around the loop, in small: the baseline says what it costs; the profile where (four system calls a request); the change takes those away; and the comparison shows that it helped. The two runs of the \
              unchanged server are the fifth step that is easily forgotten: what they differ by is noise, and a gain below it is none. Counted things, calls here, have no noise; so count what you can, \
              and time only what is left. Times compare on one machine and in one run.",
        look: "strace -f -c -e trace=sendto,recvfrom target/release/examples/lab run E1",
        exercise: "Do the loop with Go's own tools: go test -bench . -count 10 before and after, and benchstat, which prints the noise with the gain.",
        state: State::Runs(e1),
    },
    Claim {
        id: "E2",
        says: "client_connected is a Gauge, req_recv_total and rsp_send_total are Counters; “Counter顾名思义，就是一个计数器，可以累加，也可以减少” a Counter can go up, and down",
        asks: "A counter has the values 100, 150, 149. How much has it grown, for Prometheus?",
        why: "A Gauge goes up and down, as the connections do; a Counter only up. Prometheus's rate() and increase() rest on it: a value below the one before means to them that the process began anew from 0, so 149 counts as 149 new ones. \
              Add of Go's client panics at a negative number for that reason. The comment “减1” beside RspSendTotal.Add(1) is a slip too: it adds. The reactor counts every step as it takes it, and its counts are \
              those of its clients, to one.",
        look: "strace -f -c -e trace=accept4,recvfrom,sendto target/release/examples/lab run E2",
        exercise: "Write rate() over a list of (time, value), with its rule for a restart. Then feed it a counter that somebody has counted down.",
        state: State::Substitute(
            e2,
            "The crate has no page of metrics for Prometheus yet; what such a page would show is there, Reactor::counters, and is compared with what the clients have counted.",
        ),
    },
    Claim {
        id: "E3",
        says: "“Prometheus+Grafana的组合” Prometheus scrapes each 5 s, Grafana draws rate(tcp_server_demo2_req_recv_total[15s])",
        asks: "Prometheus reads a counter every 5 s. How many values does it have for a rate over 15 s?",
        why: "rate(x[15s]) takes the samples of the last 15 s, three with a scrape each 5 s, and divides their growth by their time. A window of less than two scrapes is empty; and what happens within 5 s \
              is not seen at all. node_exporter with its dashboard 1860 shows the machine besides, to tell a slow server from a busy one.",
        look: "docker compose up -d # with the lesson's file, then the lesson's demo2: neither is part of this crate",
        exercise: "Print the growth of Reactor::counters().frames once a second from a loop timer, and compare it with what the client says of itself.",
        state: State::NotHere(
            "It takes Prometheus, Grafana and Docker, and a page of metrics that this crate does not have yet. The counts that the page would show are run in E2.",
        ),
    },
    Claim {
        id: "E4",
        says: "“服务端的处理性能大约在18.5w/秒左右” Baseline: about 185,000 requests a second, with 100 connections, on 4 cores",
        asks: "The same server and the same 100 connections, but each client waits for its ack before it sends again: is it faster, slower, or the same?",
        why: "A rate belongs to the machine, the load and whoever makes the load, so the lesson's figure is not to be compared with one of here. Its clients send without ever waiting: what is measured so is how many requests \
              the server finds at each read. Clients that wait for their ack pay the whole way there and back for each request. Say with every rate how it was asked for; and compare servers under the \
              same load, in the same run.",
        look: "strace -f -c -e trace=sendto,recvfrom,epoll_wait target/release/examples/lab run E4",
        exercise: "Measure the example server with 1, 10 and 100 requests under way on each connection; draw the rate, and the time a single request takes, into one picture.",
        state: State::Runs(e4),
    },
    Claim {
        id: "E5",
        says: "“花费太多时间在系统调用上了” pprof shows Syscall as the biggest box: too much time goes into system calls",
        asks: "How many system calls does the lesson's demo2 make for one request?",
        why: "It makes four calls: the length and the rest are read with one call each, and written with one each. A call into the kernel takes many times what it takes to decode a packet, the more as each write of a small piece sends a \
              segment of its own. pprof finds that by looking: SIGPROF interrupts the process each 10 ms of CPU time, and the box is as large as the share of looks that found it there. Counting \
              finds it too, and does not depend on luck.",
        look: "strace -f -c -e trace=sendto,recvfrom target/release/examples/lab run E5",
        exercise: "Take a profile of the lesson's demo2 with pprof, and one with perf top. Then predict the number of calls a request from the source, and check with strace -c.",
        state: State::Runs(calls::e5),
    },
    Claim {
        id: "E6",
        says: "“优化后的服务端的处理性能提升到27w/s左右…提升了足有45%” With bufio on both sides, 270,000 a second: 45 % more",
        asks: "A client sends one request to demo3 and waits for its ack. How long?",
        why: "It waits for ever. bufio.Writer writes when its 4,096 bytes are full, and handleConn flushes only at the end (defer wbuf.Flush()): the ack of the first request leaves with the 293rd, and a client that waits for it never sends \
              a second one. The lesson's client did not notice, since it does not wait. The gain is real, and to be had without the hang: flush before you wait, that is, whenever the reader has nothing buffered \
              (bufio.Reader.Buffered() == 0). A reactor knows that moment anyway: it writes once when it has handled all it has read.",
        look: "strace -f -e trace=sendto,recvfrom target/release/examples/lab run E6 2>&1 | grep -m 3 -e EAGAIN -e '= 4096$'",
        exercise: "Add the flush to demo3, in one line and at the right place. Does it answer a client that sends half a second request and then waits?",
        state: State::Runs(calls::e6),
    },
    Claim {
        id: "E7",
        says: "“优化后的服务端的处理能力平均可以达到29.2w/s…又小幅提升了8%左右” With sync.Pool, 292,000 a second: 8 % more",
        asks: "The pool saves the allocation of a Submit. How many allocations a request are left?",
        why: "Counted with Go 1.19, the lesson's path from bytes to bytes allocates 10 times a request, and 9 times with the pool: it takes away the largest, a Submit (48 of 160 bytes), and leaves the frame, the ID as a string, the ack, and what Join and binary.Write make. The \
              twin here, without binary's, goes from 5 to 4. What takes all of them away is not to make objects: the frame stays in the read buffer and the packet borrows it, which Rust's borrow checker proves safe; the ack is written \
              straight into the write buffer. So the reactor allocates nothing for a request, once its buffers have found their size.",
        look: "cargo test --test cost -- --nocapture",
        exercise: "Take away the allocations of the lesson's Go code one by one, with go test -benchmem after each. How far do you get without unsafe?",
        state: State::Runs(calls::e7),
    },
    Claim {
        id: "E8",
        says: "“这个程序依然有可优化的点，你不妨找找” Homework: find what else can be made faster",
        asks: "Which of these saves the most: one write for an ack, buffers on both sides, or no allocations?",
        why: "Each step is measured by what it takes away. One write for the ack saves one call of four; reading into a buffer, and writing once for all that was read, nearly all the rest, if there is more than one request to be read; \
              borrowing instead of allocating takes away what the lesson's profile calls mallocgc. None of it changes what goes over the wire. What is left then is the kernel's: sending, \
              and waking the reader.",
        look: "strace -f -c -e trace=sendto,recvfrom,epoll_wait target/release/examples/lab run E8",
        exercise: "Find one more in examples/models/threads.rs, say what it should save before you change it, and count.",
        state: State::Runs(calls::e8),
    },
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
    Ok(Outcome::new(Verdict::reproduced_if(holds))
        .with(
            "1. baseline, demo2",
            format!("{:.2} µs a request", baseline.1),
        )
        .with(
            "2. profile",
            format!("{:.2} system calls a request", baseline.0),
        )
        .with("3. change", "buffers on both sides, flushed before waiting")
        .with(
            "4. compare: calls",
            format!(
                "{:.2} a request, {}",
                changed.0,
                percent(changed.0, baseline.0)
            ),
        )
        .with(
            "4. compare: time",
            format!(
                "{:.2} µs a request, {}",
                changed.1,
                percent(changed.1, baseline.1)
            ),
        )
        .with(
            "noise: the unchanged server, once more",
            format!(
                "{:.2} µs a request, {}",
                again.1,
                percent(again.1, baseline.1)
            ),
        ))
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
    Ok(
        Outcome::new(Verdict::WrongAsWritten.only_if(equal && gauge && falls == 0 && grown == 199))
            .with(
                "req_recv_total",
                format!("{frames}; the clients have sent {sent}"),
            )
            .with(
                "rsp_send_total",
                format!("{queued}; the clients have got {acked}"),
            )
            .with(
                "client_connected, a gauge",
                format!("up to {most}, then {}", reactor.connections()),
            )
            .with(
                "counters that went down",
                format!("{falls}, in {} looks at six of them", samples.len()),
            )
            .with(
                "100, 150, 149 by the rule of increase()",
                format!("{grown} more, where 49 is meant"),
            ),
    )
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
    Ok(
        Outcome::new(Verdict::Refined.only_if(gains.iter().all(|gain| *gain > 2.0)))
            .with(
                "this machine",
                format!("{cores} cores, and the clients are on it, too"),
            )
            .with(
                "a thread for each of 100 connections",
                said(threads, gains[0]),
            )
            .with("the reactor", said(reactor, gains[1]))
            .with(
                "the reactor to the threads, in this run",
                format!(
                    "{:.2} with 1 under way, {:.2} with 100",
                    reactor[0] as f64 / threads[0] as f64,
                    reactor[1] as f64 / threads[1] as f64
                ),
            )
            .note(if cfg!(debug_assertions) {
                "This build is not optimised; in one that is, the ratios are others."
            } else {
                ""
            }),
    )
}
