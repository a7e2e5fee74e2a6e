//! Below a read that seems to wait: parked tasks, and the thread that is not stopped. C21 to C23.

use super::prelude::*;
use std::io::{BufRead, BufReader};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};

use glassloop::codec::Line;
use glassloop::{Config, Context, Handler, Origin, Reactor, Turn, Verdict as Next};
use rustix::fs::{OFlags, fcntl_getfl};

use super::beside::{self, Said};
use super::client::{Client, crowd};
use super::illusion;
use super::servers::Model;
use super::servers::child::Server;
use super::servers::sys::Call;
use super::whereabouts;

pub(crate) fn c21(_: Lab) -> io::Result<Outcome> {
    let go = beside::run("scheduler", &["50"], |said| {
        let [parked, stuck] =
            ["threads then", "threads with them"].map(|what| said.number(what).unwrap_or(0));
        parked < 25 && stuck >= parked + 25
    })?;
    let [tasks, blocked] = [Model::Netpoll, Model::Threads].map(|model| {
        let server = Server::start(model)?;
        let clients = crowd(server.addr, 100)?;
        let last = crowd(server.addr, 1)?; // while they all wait, one more is answered
        Ok::<_, io::Error>((server.usage()?.threads, clients.len() + last.len()))
    });
    let ((tasks, served), (blocked, _)) = (tasks?, blocked?);
    let (computed, late) = beside_one_who_computes()?;
    let holds = tasks == 1 && served == 101 && blocked >= 101 && go.agrees();
    let outcome = Outcome::new(
        Verdict::reproduced_if(holds),
        values![tasks, blocked, computed, late],
    );
    Ok(go.show(outcome))
}

/// A service that echoes, and computes for a while if it is told to.
struct Service {
    begun: Sender<Instant>,
    computed: Duration,
}

impl Handler for Service {
    type Codec = Line;
    type State = ();
    type Mail = ();

    fn connection(&mut self, _: &Origin) -> (Line, ()) {
        (Line::default(), ())
    }

    fn frame(&mut self, line: &[u8], cx: &mut Context<'_, Self>) -> Next {
        if line == b"compute" {
            let begun = Instant::now();
            let _ = self.begun.send(begun);
            while begun.elapsed() < Duration::from_millis(150) {
                std::hint::spin_loop();
            }
            self.computed = begun.elapsed();
        }
        cx.send(line);
        Next::Continue
    }
}

/// How long the one computes, and when, counted from its beginning, another one is answered who asks meanwhile.
fn beside_one_who_computes() -> io::Result<(Duration, Duration)> {
    let (begun, begins) = mpsc::channel();
    let mut reactor = Reactor::new(
        Service {
            begun,
            computed: Duration::ZERO,
        },
        Config::default(),
    )?;
    let addr = reactor.listen("127.0.0.1:0")?;
    let clients = thread::spawn(move || {
        let [one, other] = [echoed(addr, "hello")?, echoed(addr, "hello")?];
        writeln!(&one, "compute")?;
        let begun = begins.recv_timeout(PATIENCE).map_err(io::Error::other)?;
        writeln!(&other, "hello")?;
        BufReader::new(&other).read_line(&mut String::new())?;
        Ok::<_, io::Error>(begun.elapsed())
    });
    while !clients.is_finished() && reactor.turn(Some(Duration::from_millis(5)))? == Turn::Running {
    }
    let late = clients.join().expect("it does not panic")?;
    Ok((reactor.into_handler().computed, late))
}

/// A connection on which one line has gone there and back.
fn echoed(addr: SocketAddr, line: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    writeln!(&stream, "{line}")?;
    BufReader::new(&stream).read_line(&mut String::new())?;
    Ok(stream)
}

pub(crate) fn c22(_: Lab) -> io::Result<Outcome> {
    let go = beside::run_traced("illusion", "read,epoll_pwait", |said| {
        let read = Trace::of(said);
        said.text("O_NONBLOCK") == "true"
            && said.number("Reads parked in state \"IO wait\"") == Some(3)
            && (said.calls.is_empty() || read.refused >= 3 && read.took == 3 && read.waited >= 3)
    })?;
    let go = go.map(|said| {
        let seen = seen_by_strace(&said, |trace| {
            format!(
                "read: {} times -1 EAGAIN, {} times 5; epoll_pwait with news: {} times",
                trace.refused, trace.took, trace.waited
            )
        });
        said.only(&["O_NONBLOCK", "Reads parked in state \"IO wait\""])
            .with("seen by strace", &seen)
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
        // To B first, though A waits longer; and to each when the thread sleeps, with all its tasks parked.
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
    sender.join().expect("it does not panic")?;

    let known = [
        "A: read, -1 EAGAIN, the task is parked",
        "B: read, -1 EAGAIN, the task is parked",
        "epoll_wait, B is woken",
        "B: read, 5",
        "epoll_wait, A is woken",
        "A: read, 5",
    ];
    let outcome = Outcome::new(
        Verdict::reproduced_if(steps == known && nonblocking && go.agrees()),
        values![nonblocking],
    );
    let outcome = steps
        .into_iter()
        .enumerate()
        .fold(outcome, |outcome, (number, step)| {
            outcome.with(format!("step {}", number + 1), step)
        });
    Ok(go.show(outcome))
}

/// What strace saw Go do with the descriptor that it read from.
struct Trace {
    /// How often a read came back with EAGAIN, and how often with 5 bytes.
    refused: usize,
    took: usize,
    /// How often `epoll_wait` came back with news.
    waited: usize,
    /// How often `epoll_ctl` named it.
    registered: usize,
}

impl Trace {
    fn of(said: &Said) -> Self {
        let fd = said.text("descriptor");
        let count = |begin: &str, end: &dyn Fn(&str) -> bool| {
            let result = |call: &str| {
                call.rsplit_once(" = ")
                    .map(|(_, result)| result.to_string())
                    .unwrap_or_default()
            };
            said.calls
                .iter()
                .filter(|call| call.starts_with(begin) && end(&result(call)))
                .count()
        };
        let read = format!("read({fd},");
        Self {
            refused: count(&read, &|result| result.contains("EAGAIN")),
            took: count(&read, &|result| result == "5"),
            waited: count("epoll_pwait(", &|result| {
                result.parse().is_ok_and(|events: u32| events > 0)
            }),
            registered: said
                .calls
                .iter()
                .filter(|call| {
                    call.starts_with("epoll_ctl(") && call.contains(&format!(", {fd}, "))
                })
                .count(),
        }
    }
}

fn seen_by_strace(said: &Said, text: impl FnOnce(&Trace) -> String) -> String {
    if said.calls.is_empty() {
        "nothing: it is not installed, or may not look".into()
    } else {
        text(&Trace::of(said))
    }
}

pub(crate) fn c23(_: Lab) -> io::Result<Outcome> {
    const CLIENTS: u64 = 20;
    let go = beside::run_traced("illusion", "read,epoll_ctl", |said| {
        let trace = Trace::of(said);
        let all = "IN|OUT|RDHUP|ET";
        said.text("in epoll before the first Read") == all
            && said.text("in epoll after three Reads that waited") == all
            && (said.calls.is_empty() || trace.registered == 1 && trace.refused >= 3)
    })?;
    let go = go.map(|said| {
        let seen = seen_by_strace(&said, |trace| {
            format!(
                "epoll_ctl with that descriptor: {}; reads of it that find nothing: {}",
                trace.registered, trace.refused
            )
        });
        said.only(&[
            "in epoll before the first Read",
            "in epoll after three Reads that waited",
        ])
        .with("seen by strace", &seen)
    });
    let mut server = Server::start(Model::Netpoll)?;
    let start = server.calls()?;
    let mut clients = crowd(server.addr, CLIENTS as usize)?;
    let count = |call: Call, from: [u64; 5], to: [u64; 5]| to[call as usize] - from[call as usize];
    // A turn is counted when it is over, a little after the answers that it sends.
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
        clients.iter_mut().try_for_each(Client::ask)?;
    }
    let then = after(&|calls| count(Call::Read, settled, calls) >= 9 * CLIENTS);
    let at_birth = count(Call::Control, start, settled);
    let (later, reads) = (
        count(Call::Control, settled, then),
        count(Call::Read, settled, then),
    );
    let holds = at_birth == CLIENTS && later == 0 && reads >= 9 * CLIENTS && go.agrees();
    let outcome = Outcome::new(
        Verdict::Refined.only_if(holds),
        values![added = at_birth, reads, later],
    );
    Ok(go.show(outcome))
}
