//! One call, many connections: select, poll and epoll, and what they ask of programs. C14 to C18.

use std::os::fd::AsRawFd;
use std::sync::Barrier;

use rustix::event::{
    FdSetElement, FdSetIter, PollFd, PollFlags, fd_set_insert, fd_set_num_elements,
};

use super::prelude::*;
use super::servers::Model;
use super::servers::child::Server;
use super::servers::sys;
use super::service::{calls_per_request, crowd};
use super::source::lines_of;
use super::wait_cost;

pub(crate) fn c14(_: Lab) -> io::Result<Outcome> {
    let (mut client, server) = pair()?;
    server.set_nonblocking(true)?;
    let fd = server.as_raw_fd();
    let waiter = Watched::spawn(move || {
        let mut set = vec![FdSetElement::default(); fd_set_num_elements(0, fd + 1)];
        let mut none = set.clone();
        fd_set_insert(&mut set, fd);
        let ready = sys::select(fd, &mut set, &mut none)?; // waits
        let members: Vec<_> = FdSetIter::new(&set).collect();
        let read = sys::read(&server, &mut [0; 10])?;
        io::Result::Ok((ready, members, read, sys::read(&server, &mut [0; 10])))
    })?;
    let sleeps = waiter.sleeps_in("select");
    client.write_all(b"hello")?;
    let (ready, members, read, again) = waiter.join()??;

    let (blocking, select) = (
        calls_per_request(Model::Threads)?,
        calls_per_request(Model::Select)?,
    );
    let one_more = (blocking - 2.0).abs() < 0.1 && (select - 3.0).abs() < 0.1;
    let holds = ready == 1 && members == [fd] && read == 5 && is_eagain(&again) && one_more;
    let members = format!("{members:?}");
    let values = values![fd, sleeps, ready, members, read, again, blocking, select];
    Verdict::reproduced_if(sleeps && holds).measured(values)
}

fn is_readable(stream: &TcpStream) -> io::Result<bool> {
    Ok(sys::poll(&mut [PollFd::new(stream, PollFlags::IN)])? == 1)
}

pub(crate) fn c15(_: Lab) -> io::Result<Outcome> {
    // poll reports the same byte to two threads before either of them takes it.
    let (mut client, server) = pair()?;
    server.set_nonblocking(true)?;
    client.write_all(b"x")?;
    let both_know = Barrier::new(2);
    let results = thread::scope(|scope| {
        let waiters = [(); 2].map(|()| {
            scope.spawn(|| {
                let ready = is_readable(&server).unwrap_or(false);
                both_know.wait();
                (ready, result(&sys::read(&server, &mut [0; 10])))
            })
        });
        waiters.map(|waiter| waiter.join().expect("it does not panic"))
    });
    let told = results.iter().filter(|(ready, _)| *ready).count();
    let mut reads = results.map(|(_, read)| read);
    reads.sort_unstable();

    // The same in one thread, on a blocking socket.
    let (mut client, mut blocking) = pair()?;
    blocking.set_read_timeout(Some(Duration::from_millis(50)))?;
    client.write_all(b"x")?;
    let reported = is_readable(&blocking)?;
    blocking.read_exact(&mut [0])?; // another reader was faster
    let (stood, late) = timed(|| blocking.read(&mut [0]));

    // Ready does not say for how much.
    let (mut client, server) = pair()?;
    client.write_all(&[b'x'; 15])?;
    let mut parts = Vec::new();
    while parts.len() < 2 && is_readable(&server)? {
        parts.push(sys::read(&server, &mut [0; 10])?);
    }
    let blocked = reported && late.is_err() && stood >= Duration::from_millis(40);
    let hint = told == 2 && reads == ["-1 EAGAIN", "1"] && blocked && parts == [10, 5];
    Verdict::Refined
        .only_if(hint)
        .measured(values![told, reads, stood, parts])
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
        .map_while(|client| client.hello().ok())
        .count();
    drop(clients); // there may be too few descriptors for these and the next ones

    let other = Server::start(Model::Threads)?;
    let _others = crowd(other.addr, 100)?;
    let threads = other.usage()?.threads;
    let silent = calls_then.iter().sum::<u64>() - calls.iter().sum::<u64>();
    let (reactor, cpu) = (after.threads, after.cpu.saturating_sub(before.cpu));
    let holds = answered == count && reactor == 1 && silent < 10 && threads > 100;
    let values = values![count, reactor, silent, cpu, answered, threads];
    Verdict::reproduced_if(holds).measured(values)
}

pub(crate) fn c17(_: Lab) -> io::Result<Outcome> {
    let limit = rlimit::increase_nofile_limit(u64::MAX)?;
    let most = 1_000.min(limit.saturating_sub(200)) as usize;
    let costs = wait_cost::measure(&[0, 10, 100, most]);
    let nanos = |call: usize| -> Result<Vec<f64>, String> {
        costs.iter().map(|cost| cost.nanos[call].clone()).collect()
    };
    let shown = |call: usize| -> Vec<String> {
        let cells = costs.iter().map(|cost| match &cost.nanos[call] {
            Ok(nanos) => format!("{:.2} µs beside {}", nanos / 1e3, cost.idle),
            Err(why) => format!("beside {}: {why}", cost.idle),
        });
        cells.collect()
    };
    let [select_shown, poll_shown, epoll_shown] = [0, 1, 2].map(shown);
    let (poll, epoll) = match (nanos(1), nanos(2)) {
        (Ok(poll), Ok(epoll)) => (poll, epoll),
        (Err(missing), _) | (_, Err(missing)) => {
            return Ok(Outcome::not_here(format!(
                "A wait could not be measured: {missing}."
            )));
        }
    };
    let times = poll[3] / epoll[3];
    let grows = epoll[3] < 3.0 * epoll[0] && poll[3] > 5.0 * poll[0];
    let equal_alone = poll[0] < 2.0 * epoll[0];
    let verdict = if equal_alone {
        Verdict::Refined
    } else {
        Verdict::Reproduced
    };
    verdict.only_if(times > 5.0 && grows).measured(values![
        select = select_shown,
        poll = poll_shown,
        epoll = epoll_shown,
        most,
        times
    ])
}

pub(crate) fn c18(_: Lab) -> io::Result<Outcome> {
    const BLOCKING: &str = "the position in the code is the state";
    const STORED: [(Model, &str); 9] = [
        (Model::Iterative, BLOCKING),
        (Model::Threads, BLOCKING),
        (
            Model::Busy,
            "a state for each client, and no record of when to ask",
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
            "a state for each client, and its registered interest",
        ),
        (
            Model::EpollEt,
            "a state for each client, its readiness, and unfinished clients",
        ),
        (
            Model::Reactor,
            "what is left to write: the rest is in the library",
        ),
        (
            Model::Netpoll,
            "the position in the code, and below it what each task waits for",
        ),
    ];
    let lines = STORED.map(|(model, _)| lines_of(model));
    let longest_blocking = lines[..2].iter().max();
    let holds = lines[2..7]
        .iter()
        .all(|lines| Some(lines) > longest_blocking);
    let rows = STORED.iter().zip(lines).map(|((model, stored), lines)| {
        (
            format!("{}: lines of code", model.name()),
            format!("{lines}; {stored}"),
        )
    });
    Ok(Outcome::new(Verdict::reproduced_if(holds), values![]).with_all(rows))
}
