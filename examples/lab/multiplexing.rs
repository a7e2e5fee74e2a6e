//! One call, many connections: select, poll and epoll, and what they ask of who uses them. C14 to C18.

use super::prelude::*;
use std::os::fd::AsRawFd;
use std::sync::{Barrier, mpsc};

use rustix::event::{
    FdSetElement, FdSetIter, PollFd, PollFlags, fd_set_insert, fd_set_num_elements,
};

use super::client::{calls_per_request, crowd};
use super::servers::Model;
use super::servers::child::Server;
use super::servers::sys;
use super::source::lines_of;
use super::wait_cost::{self, CALLS};
use super::whereabouts;

pub(crate) fn c14(_: Lab) -> io::Result<Outcome> {
    let (mut client, server) = pair()?;
    server.set_nonblocking(true)?;
    let fd = server.as_raw_fd();
    let (tell, hear) = mpsc::channel();
    let waiter = thread::spawn(move || {
        let _ = tell.send(whereabouts::own_id());
        let mut set = vec![FdSetElement::default(); fd_set_num_elements(0, fd + 1)];
        let mut none = set.clone();
        fd_set_insert(&mut set, fd);
        let ready = sys::select(fd, &mut set, &mut none)?; // waits
        let members: Vec<_> = FdSetIter::new(&set).collect();
        let read = sys::read(&server, &mut [0; 10])?;
        let again = sys::read(&server, &mut [0; 10]);
        Ok::<_, io::Error>((ready, members, read, result(&again)))
    });
    let number = hear.recv().map_err(io::Error::other)?;
    let sleeps = wait_for(|| whereabouts::sleeps_in(number, "select"));
    client.write_all(b"hello")?;
    let (ready, members, read, again) = waiter.join().expect("it does not panic")?;

    let [blocking, select] = [
        calls_per_request(Model::Threads)?,
        calls_per_request(Model::Select)?,
    ];
    let two_more = (blocking - 2.0).abs() < 0.1 && (select - 3.0).abs() < 0.1;
    let holds =
        sleeps && ready == 1 && members == [fd] && read == 5 && again == "-1 EAGAIN" && two_more;
    Verdict::reproduced_if(holds).measured(values![
        fd,
        sleeps,
        ready,
        members = format!("{:?}", members),
        read,
        again,
        blocking,
        select
    ])
}

fn is_readable(stream: &TcpStream) -> io::Result<bool> {
    Ok(sys::poll(&mut [PollFd::new(stream, PollFlags::IN)])? == 1)
}

pub(crate) fn c15(_: Lab) -> io::Result<Outcome> {
    // Two threads are told of the same byte before either of them takes it.
    let (mut client, server) = pair()?;
    server.set_nonblocking(true)?;
    client.write_all(b"x")?;
    let both_know = Barrier::new(2);
    let (server, both_know) = (&server, &both_know);
    let results = thread::scope(|scope| {
        let waiters = [(); 2].map(|()| {
            scope.spawn(move || {
                let ready = is_readable(server);
                both_know.wait();
                (
                    ready.unwrap_or(false),
                    result(&sys::read(server, &mut [0; 10])),
                )
            })
        });
        waiters.map(|waiter| waiter.join().expect("it does not panic"))
    });
    let told = results.iter().filter(|(ready, _)| *ready).count();
    let mut reads = results.map(|(_, read)| read);
    reads.sort_unstable();

    // The same in a row, on a socket that blocks.
    let (mut client, mut blocking) = pair()?;
    blocking.set_read_timeout(Some(Duration::from_millis(50)))?;
    client.write_all(b"x")?;
    let said_so = is_readable(&blocking)?;
    blocking.read_exact(&mut [0])?; // somebody else was faster
    let (stood, late) = timed(|| blocking.read(&mut [0]));

    // Ready does not say for how much.
    let (mut client, server) = pair()?;
    client.write_all(&[b'x'; 15])?;
    let mut parts = Vec::new();
    while parts.len() < 2 && is_readable(&server)? {
        parts.push(sys::read(&server, &mut [0; 10])?);
    }
    let hint = told == 2
        && reads == ["-1 EAGAIN", "1"]
        && said_so
        && late.is_err()
        && stood >= Duration::from_millis(40);
    Verdict::Refined
        .only_if(hint && parts == [10, 5])
        .measured(values![
            told,
            reads = reads.join(" and "),
            stood,
            parts = format!("{:?}", parts)
        ])
}

pub(crate) fn c16(_: Lab) -> io::Result<Outcome> {
    let limit = rlimit::increase_nofile_limit(u64::MAX)?;
    if limit < 200 {
        return Err(io::Error::from_raw_os_error(libc::EMFILE));
    }
    let count = 1_000.min(limit - 64) as usize; // all that this process may have, if it is less
    let mut server = Server::start(Model::Reactor)?;
    let mut clients = crowd(server.addr, count)?;
    let (calls, before) = (server.calls()?, server.usage()?);
    thread::sleep(Duration::from_millis(100));
    let (calls_then, after) = (server.calls()?, server.usage()?);
    let answered = clients
        .iter_mut()
        .map_while(|client| client.ask().ok())
        .count();
    drop(clients); // before others come: there may be no descriptors for both

    let other = Server::start(Model::Threads)?;
    let _others = crowd(other.addr, 100)?;
    let threads = other.usage()?.threads;
    let silent = calls_then.iter().sum::<u64>() - calls.iter().sum::<u64>();
    let holds = answered == count && after.threads == 1 && silent < 10 && threads > 100;
    Verdict::reproduced_if(holds).measured(values![
        count,
        reactor = after.threads,
        silent,
        cpu = (after.cpu.saturating_sub(before.cpu)),
        answered,
        threads
    ])
}

pub(crate) fn c17(_: Lab) -> io::Result<Outcome> {
    let limit = rlimit::increase_nofile_limit(u64::MAX)?;
    let most = 1_000.min(limit.saturating_sub(200)) as usize; // all that this process may have, if it is less
    let idle = [0, 10, 100, most];
    let costs = wait_cost::measure(&idle);
    let nanos = |call: usize, row: usize| costs[row].nanos[call].clone();
    let mut outcome = Outcome::new(Verdict::Refined, values![]);
    for (call, name) in CALLS.iter().enumerate() {
        let cells = (0..idle.len()).map(|row| match nanos(call, row) {
            Ok(nanos) => format!("{:.2} µs beside {}", nanos / 1e3, costs[row].idle),
            Err(why) => format!("beside {}: {why}", costs[row].idle),
        });
        outcome = outcome.with(
            format!("{name}, one ready"),
            cells.collect::<Vec<_>>().join(", "),
        );
    }
    if let Some(missing) = (0..idle.len()).find_map(|row| nanos(1, row).and(nanos(2, row)).err()) {
        return Ok(Outcome::not_here(format!(
            "A wait could not be measured: {missing}."
        )));
    }
    let [poll, epoll] = [1, 2].map(|call| {
        (0..idle.len())
            .map(|row| nanos(call, row).unwrap_or(f64::NAN))
            .collect::<Vec<_>>()
    });
    let faster = poll[3] > 5.0 * epoll[3];
    let grows = epoll[3] < 3.0 * epoll[0] && poll[3] > 5.0 * poll[0];
    let equal_alone = poll[0] < 2.0 * epoll[0];
    outcome.verdict = match (faster && grows, equal_alone) {
        (true, true) => Verdict::Refined,
        (true, false) => Verdict::Reproduced,
        (false, _) => Verdict::Unexpected,
    };
    Ok(outcome.with(
        format!("beside {most}, poll takes so many times what epoll takes"),
        format!("{:.0}", poll[3] / epoll[3]),
    ))
}

#[allow(clippy::unnecessary_wraps)] // every experiment has this form
pub(crate) fn c18(_: Lab) -> io::Result<Outcome> {
    const WHAT: [(Model, &str); 9] = [
        (Model::Iterative, "where one is, is where the code is"),
        (Model::Threads, "where one is, is where the code is"),
        (
            Model::Busy,
            "a state for each client, and nothing of when to ask",
        ),
        (
            Model::Select,
            "a state for each client, three sets built for each call",
        ),
        (
            Model::Poll,
            "a state for each client, a list built for each call",
        ),
        (
            Model::EpollLt,
            "a state for each client, and what it is registered for",
        ),
        (
            Model::EpollEt,
            "a state for each client, what was said of it, who was left half-way",
        ),
        (
            Model::Reactor,
            "what is left to write: the rest is the library's",
        ),
        (
            Model::Netpoll,
            "where one is, is where the code is; below it, who waits for what",
        ),
    ];
    let lines = WHAT.map(|(model, _)| lines_of(model));
    let longest_blocking = lines[..2].iter().max();
    let holds = lines[2..7]
        .iter()
        .all(|lines| Some(lines) > longest_blocking);
    let outcome = WHAT.iter().zip(lines).fold(
        Outcome::new(Verdict::reproduced_if(holds), values![]),
        |outcome, ((model, what), lines)| {
            outcome.with(
                format!("{}: lines of code", model.name()),
                format!("{lines}; {what}"),
            )
        },
    );
    Ok(outcome
        .with("the loop", "Reactor::run; libevent event_base_dispatch, libev ev_run, libuv uv_run")
        .with("a descriptor that is watched", "a slot of the slab; libevent struct event, libev ev_io, libuv uv_poll_t")
        .with("a connection with its buffers", "connection::Connection; libevent bufferevent, libev has none, libuv uv_tcp_t (uv_stream_t)")
        .with("time", "Context::set_timer; libevent evtimer_new, libev ev_timer, libuv uv_timer_t")
        .with("a hand for other threads", "Handle; libevent event_active (with evthread), libev ev_async, libuv uv_async_t"))
}
