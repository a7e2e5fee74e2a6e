//! Below a read that seems to wait: parked tasks, and a thread that does not block. C21 to C23.

use std::io::{BufRead, BufReader};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};

use glassloop::{Config, Reactor};
use rustix::fs::{OFlags, fcntl_getfl};

use super::beside::{self, Said};
use super::illusion;
use super::lines::{Lines, serve_while};
use super::prelude::*;
use super::servers::Model;
use super::servers::child::Server;
use super::servers::sys::Call;
use super::service::{Client, crowd};
use super::whereabouts;

pub(crate) fn c21(_: Lab) -> io::Result<Outcome> {
    /// Threads of a server with 101 clients that are all answered.
    fn threads(model: Model) -> io::Result<u64> {
        let server = Server::start(model)?;
        let _clients = crowd(server.addr, 100)?;
        let _last = crowd(server.addr, 1)?; // answered while all the others wait
        Ok(server.usage()?.threads)
    }
    let go = beside::run("scheduler", &["50"], |said| {
        let [parked, stuck] =
            ["threads then", "threads with them"].map(|what| said.number(what).unwrap_or(0));
        parked < 25 && stuck >= parked + 25
    })?;
    let (tasks, blocked) = (threads(Model::Netpoll)?, threads(Model::Threads)?);
    let (computed, late) = beside_a_computing_task()?;
    let verdict = Verdict::reproduced_if(tasks == 1 && blocked >= 101);
    go.measured(verdict, values![tasks, blocked, computed, late])
}

/// What the computing service keeps.
struct Computing {
    begun: Sender<Instant>,
    took: Duration,
}

/// How long one request computes, and when another client is answered, from the same beginning.
fn beside_a_computing_task() -> io::Result<(Duration, Duration)> {
    let (begun, begins) = mpsc::channel();
    let took = Duration::ZERO;
    let service = Lines::<Computing> {
        on_line: |service, line, cx| {
            if line == b"compute" {
                let begun = Instant::now();
                let _ = service.data.begun.send(begun);
                while begun.elapsed() < Duration::from_millis(150) {
                    std::hint::spin_loop();
                }
                service.data.took = begun.elapsed();
            }
            cx.send(line);
        },
        ..Lines::new(Computing { begun, took })
    };
    let mut reactor = Reactor::new(service, Config::default())?;
    let late = serve_while(&mut reactor, move |addr| {
        let [one, other] = [echoed(addr)?, echoed(addr)?];
        writeln!(&one, "compute")?;
        let begun = begins.recv_timeout(PATIENCE).map_err(io::Error::other)?;
        writeln!(&other, "hello")?;
        BufReader::new(&other).read_line(&mut String::new())?;
        Ok(begun.elapsed())
    })?;
    Ok((reactor.into_handler().data.took, late))
}

/// A connection on which one line has been echoed.
fn echoed(addr: SocketAddr) -> io::Result<TcpStream> {
    let stream = connected(addr, 0, 0)?;
    writeln!(&stream, "hello")?;
    BufReader::new(&stream).read_line(&mut String::new())?;
    Ok(stream)
}

pub(crate) fn c22(_: Lab) -> io::Result<Outcome> {
    const SHOWN: [&str; 2] = ["O_NONBLOCK", "Reads parked in state \"IO wait\""];
    const KNOWN: [&str; 6] = [
        "A: read, -1 EAGAIN, the task is parked",
        "B: read, -1 EAGAIN, the task is parked",
        "epoll_wait, B is woken",
        "B: read, 5",
        "epoll_wait, A is woken",
        "A: read, 5",
    ];
    let go = beside::run_traced("illusion", "read,epoll_pwait", |said| {
        let Trace {
            refused,
            took,
            waited,
            ..
        } = Trace::of(said);
        said.text(SHOWN[0]) == "true"
            && said.number(SHOWN[1]) == Some(3)
            && (said.calls.is_empty() || refused >= 3 && took == 3 && waited >= 3)
    })?;
    let go = go.map(|said| {
        shown(said, &SHOWN, |Trace { refused, took, waited, .. }| {
            format!(
                "read: {refused} times -1 EAGAIN, {took} times 5; epoll_pwait with events: {waited} \
                 times"
            )
        })
    });
    let (mut clients, mut sockets, mut nonblocking) = (Vec::new(), Vec::new(), true);
    for name in ["A", "B"] {
        let (client, server) = pair()?;
        server.set_nonblocking(true)?;
        nonblocking &= fcntl_getfl(&server)?.contains(OFlags::NONBLOCK);
        clients.push(client);
        sockets.push((name, server));
    }
    let (over, thread) = (Arc::new(AtomicUsize::new(0)), whereabouts::own_id());
    let seen = over.clone();
    let sender = thread::spawn(move || {
        // To B first, though A waits longer; and to each when the thread sleeps, all tasks parked.
        clients
            .iter()
            .rev()
            .enumerate()
            .try_for_each(|(number, mut client)| {
                wait_for(|| {
                    seen.load(Ordering::Relaxed) == number
                        && whereabouts::sleeps_in(thread, "epoll_wait")
                });
                client.write_all(b"hello")
            })
    });
    let steps = illusion::run(sockets, &over)?;
    joined(sender)??;

    let verdict = Verdict::reproduced_if(steps == KNOWN && nonblocking);
    let steps = steps.into_iter().enumerate();
    let steps = steps.map(|(number, step)| (format!("step {}", number + 1), step));
    let outcome = Outcome::new(verdict, values![nonblocking]).with_all(steps);
    Ok(go.show(outcome))
}

/// What strace saw Go do with the descriptor that it read from.
struct Trace {
    /// How often a read returned EAGAIN, and how often 5 bytes.
    refused: usize,
    took: usize,
    /// How often `epoll_wait` returned events.
    waited: usize,
    /// How often `epoll_ctl` named it.
    registered: usize,
}

impl Trace {
    fn of(said: &Said) -> Self {
        let fd = said.text("descriptor");
        let count = |begin: &str, end: &dyn Fn(&str) -> bool| {
            let calls = said.calls.iter().filter(|call| call.starts_with(begin));
            let results = calls.map(|call| call.rsplit_once(" = ").map_or("", |(_, came)| came));
            results.filter(|came| end(came)).count()
        };
        let (read, control) = (format!("read({fd},"), format!(", {fd}, "));
        let names_it = |call: &&String| call.starts_with("epoll_ctl(") && call.contains(&control);
        let has_events = |came: &str| came.parse().is_ok_and(|events: u32| events > 0);
        Self {
            refused: count(&read, &|came| came.contains("EAGAIN")),
            took: count(&read, &|came| came == "5"),
            waited: count("epoll_pwait(", &has_events),
            registered: said.calls.iter().filter(names_it).count(),
        }
    }
}

/// Of what Go printed, these lines, and what strace saw.
fn shown(said: Said, lines: &[&str], text: impl FnOnce(&Trace) -> String) -> Said {
    let seen = if said.calls.is_empty() {
        "nothing: it is not installed, or may not trace".into()
    } else {
        text(&Trace::of(&said))
    };
    said.only(lines).with("seen by strace", &seen)
}

pub(crate) fn c23(_: Lab) -> io::Result<Outcome> {
    const CLIENTS: u64 = 20;
    const SHOWN: [&str; 2] = [
        "in epoll before the first Read",
        "in epoll after three Reads that waited",
    ];
    let go = beside::run_traced("illusion", "read,epoll_ctl", |said| {
        let Trace {
            registered,
            refused,
            ..
        } = Trace::of(said);
        SHOWN
            .iter()
            .all(|line| said.text(line) == "IN|OUT|RDHUP|ET")
            && (said.calls.is_empty() || registered == 1 && refused >= 3)
    })?;
    let go = go.map(|said| {
        shown(
            said,
            &SHOWN,
            |Trace {
                 registered,
                 refused,
                 ..
             }| {
                format!(
                    "epoll_ctl with that descriptor: {registered}; reads with EAGAIN: {refused}"
                )
            },
        )
    });
    let mut server = Server::start(Model::Netpoll)?;
    let start = server.calls()?;
    let mut clients = crowd(server.addr, CLIENTS as usize)?;
    let count = |call: Call, from: [u64; 5], to: [u64; 5]| to[call as usize] - from[call as usize];
    // The server counts a turn when the turn has ended, a little after the answers that it sends.
    let mut after = |is_so: &dyn Fn([u64; 5]) -> bool| {
        let mut calls = start;
        wait_for(|| {
            calls = server.calls().unwrap_or(calls);
            is_so(calls)
        });
        calls
    };
    let settled = after(&|calls| count(Call::Control, start, calls) >= CLIENTS);
    for _ in 0..9 {
        clients.iter_mut().try_for_each(Client::hello)?;
    }
    let then = after(&|calls| count(Call::Read, settled, calls) >= 9 * CLIENTS);
    let added = count(Call::Control, start, settled);
    let later = count(Call::Control, settled, then);
    let reads = count(Call::Read, settled, then);
    let holds = added == CLIENTS && later == 0 && reads >= 9 * CLIENTS;
    go.measured(
        Verdict::Refined.only_if(holds),
        values![added, reads, later],
    )
}
