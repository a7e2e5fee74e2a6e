//! One call, one connection: who waits in it, who does not, and what asking again and again costs. C8 to C13.

use super::prelude::*;
use std::os::fd::AsFd;
use std::sync::mpsc;

use rustix::fs::{OFlags, fcntl_getfl};
use rustix::net::RecvFlags;
use socket2::{Domain, Socket, Type};

use super::beside;
use super::client::Client;
use super::servers::Model;
use super::servers::child::Server;
use super::servers::sys::Call;
use super::source::lines_of;
use super::whereabouts;

pub(crate) fn c8(_: Lab) -> io::Result<Outcome> {
    let (mut client, mut server) = pair()?;
    client.write_all(b"hi")?;
    let some = server.read(&mut [0; 10])?;

    client.write_all(b"hi")?;
    let (tell, hear) = mpsc::channel();
    let reader = thread::spawn(move || {
        let _ = tell.send(whereabouts::own_id());
        let count = rustix::net::recv(&server, &mut [0; 10], RecvFlags::WAITALL);
        count.map(|(count, _)| (count, server))
    });
    let number = hear.recv().map_err(io::Error::other)?;
    let waits = wait_for(|| whereabouts::sleeps_in(number, "recvfrom"));
    client.write_all(b"12345678")?;
    let (all, mut server) = reader.join().expect("it does not panic")?;

    server.set_nonblocking(true)?;
    let none = server.read(&mut [0; 10]);
    let verdict = match some {
        10 => Verdict::Reproduced,
        _ => Verdict::WrongAsWritten
            .only_if(some == 2 && waits && all == 10 && result(&none) == "-1 EAGAIN"),
    };
    verdict.measured(values![some, waits, all, none])
}

pub(crate) fn c9(_: Lab) -> io::Result<Outcome> {
    let (mut client, mut server) = pair()?;
    let (tell, hear) = mpsc::channel();
    let reader = thread::spawn(move || {
        let _ = tell.send(whereabouts::own_id());
        let mut buffer = [0; 10];
        let count = server.read(&mut buffer)?;
        Ok::<_, io::Error>((buffer[..count].to_vec(), queues_of(&server)?.received))
    });
    let number = hear.recv().map_err(io::Error::other)?;
    let asleep = wait_for(|| whereabouts::sleeps_in(number, "recvfrom"));
    let before = whereabouts::of(number)?;
    thread::sleep(Duration::from_millis(50));
    let after = whereabouts::of(number)?;
    let still = whereabouts::sleeps_in(number, "recvfrom");
    client.write_all(b"hello")?;
    let (bytes, left) = reader.join().expect("it does not panic")?;

    let ran = after.ran.saturating_sub(before.ran);
    let holds =
        asleep && still && ran < Duration::from_millis(10) && bytes == b"hello" && left == 0;
    let call = after
        .call
        .map_or("this kernel does not tell".into(), |call| {
            format!("{} (number {call})", whereabouts::name_of_call(call))
        });
    Verdict::reproduced_if(holds).measured(values![
        state = after.state,
        call,
        place = after.place,
        ran,
        bytes = bytes.len(),
        left
    ])
}

pub(crate) fn c10(_: Lab) -> io::Result<Outcome> {
    /// Whether B is answered while A is there and silent, and whether after A has left.
    fn answered(model: Model) -> io::Result<[bool; 2]> {
        let server = Server::start(model)?;
        let mut a = Client::connect(server.addr)?;
        a.ask()?; // it is A's turn from here on
        let mut b = Client::connect(server.addr)?;
        b.send()?;
        let patience = if model == Model::Iterative {
            Duration::from_millis(200)
        } else {
            PATIENCE
        };
        let beside = b.answer(patience).is_ok();
        drop(a);
        Ok([beside, beside || b.answer(PATIENCE).is_ok()])
    }
    let iterative = answered(Model::Iterative)?;
    let others = [Model::Threads, Model::Poll, Model::Reactor].map(answered);
    let mut holds = iterative == [false, true];
    let word = |answered| if answered { "answered" } else { "not answered" };
    let mut outcome = Outcome::new(
        Verdict::Reproduced,
        values![beside = word(iterative[0]), after = word(iterative[1])],
    );
    for (other, name) in others.into_iter().zip([
        "a thread each",
        "one thread, poll",
        "one thread, the reactor",
    ]) {
        let [beside, _] = other?;
        holds &= beside;
        outcome = outcome.with(format!("{name}: B beside a silent A"), word(beside));
    }
    outcome.verdict = Verdict::reproduced_if(holds);
    Ok(outcome)
}

pub(crate) fn c11(_: Lab) -> io::Result<Outcome> {
    let go = beside::run("flags", &[], |said| {
        ["listener", "dialed", "accepted"]
            .iter()
            .all(|socket| said.text(&format!("{socket} O_NONBLOCK")) == "true")
    })?;
    let is_nonblocking =
        |fd: &dyn AsFd| fcntl_getfl(fd.as_fd()).map(|flags| flags.contains(OFlags::NONBLOCK));
    let (client, server) = pair()?;
    let plain = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    let by_default = [
        is_nonblocking(&plain)?,
        is_nonblocking(&listen()?)?,
        is_nonblocking(&client)?,
        is_nonblocking(&server)?,
    ];

    let listener = mio::net::TcpListener::bind("127.0.0.1:0".parse().map_err(io::Error::other)?)?;
    let dialed = mio::net::TcpStream::connect(listener.local_addr()?)?;
    let mut accepted = None;
    wait_for(|| {
        accepted = listener.accept().ok();
        accepted.is_some()
    });
    let (accepted, _) = accepted.ok_or(io::ErrorKind::TimedOut)?;
    let in_mio = [
        is_nonblocking(&listener)?,
        is_nonblocking(&dialed)?,
        is_nonblocking(&accepted)?,
    ];

    let lines = [
        Model::Iterative,
        Model::Threads,
        Model::Busy,
        Model::Select,
        Model::Poll,
        Model::EpollLt,
        Model::EpollEt,
    ]
    .map(lines_of);
    let shortest = lines[2..]
        .iter()
        .all(|&other| lines[..2].iter().all(|&blocking| blocking < other));
    let holds = by_default == [false; 4] && in_mio == [true; 3] && shortest && go.agrees();
    let [socket, listener, dialed, accepted] = by_default;
    let outcome = Outcome::new(
        Verdict::reproduced_if(holds),
        values![
            socket,
            listener,
            dialed,
            accepted,
            mio_listener = in_mio[0],
            mio_dialed = in_mio[1],
            mio_accepted = in_mio[2],
            iterative = lines[0],
            threads = lines[1],
            busy = lines[2],
            select = lines[3],
            poll = lines[4],
            epoll_lt = lines[5],
            epoll_et = lines[6]
        ],
    );
    Ok(go.show(outcome))
}

pub(crate) fn c12(_: Lab) -> io::Result<Outcome> {
    let (_client, mut server) = pair()?;
    let listener = listen()?;
    let (writer, _reader) = pair_with_buffers(4096)?;
    listener.set_nonblocking(true)?;
    writer.set_nonblocking(true)?;
    // The first that says so: later there may be room again, when the kernel has moved some bytes on.
    let full = (0..10_000)
        .find_map(|_| (&writer).write(&[b'x'; 4096]).err())
        .map_or(Ok(4096), Err);

    server.set_read_timeout(Some(Duration::from_millis(20)))?;
    let (blocking, _) = timed(|| server.read(&mut [0; 10]));
    server.set_nonblocking(true)?;
    let mut times = Vec::new();
    let mut refused = 0;
    for _ in 0..1_000 {
        let (time, read) = timed(|| server.read(&mut [0; 10]));
        times.push(time);
        refused += usize::from(result(&read) == "-1 EAGAIN");
    }
    times.sort_unstable();
    let median = times[times.len() / 2];
    let others = [
        ("accept, nobody waits", listener.accept().map(|_| 0)),
        ("write, the buffers are full", full),
    ];
    let others = others.map(|(what, came)| (what, result(&came)));
    let at_once = median * 100 < blocking;
    let holds =
        refused == 1_000 && at_once && others.iter().all(|(_, result)| result == "-1 EAGAIN");
    let outcome = Outcome::new(
        Verdict::reproduced_if(holds),
        values![refused, errno = libc::EAGAIN, median, blocking],
    );
    Ok(others.into_iter().fold(outcome, |outcome, (what, result)| {
        outcome.with(what, result)
    }))
}

pub(crate) fn c13(_: Lab) -> io::Result<Outcome> {
    const SILENCE: Duration = Duration::from_millis(300);
    /// The calls that a server makes and the time that it takes on a processor while its only client is silent.
    fn idle(model: Model) -> io::Result<(u64, u64, Duration)> {
        let mut server = Server::start(model)?;
        let mut client = Client::connect(server.addr)?;
        client.ask()?;
        thread::sleep(Duration::from_millis(5)); // what it does after the answer is not silence yet
        let (calls, usage) = (server.calls()?, server.usage()?);
        thread::sleep(SILENCE);
        let (calls_then, usage_then) = (server.calls()?, server.usage()?);
        let reads = calls_then[Call::Read as usize] - calls[Call::Read as usize];
        let all = calls_then.iter().sum::<u64>() - calls.iter().sum::<u64>();
        Ok((reads, all, usage_then.cpu.saturating_sub(usage.cpu)))
    }
    let (busy_reads, busy_calls, busy) = idle(Model::Busy)?;
    let (_, epoll_calls, epoll) = idle(Model::EpollLt)?;
    // The whole processor is not asked for: others may want it too. So it is a tenth of what is there when nobody does.
    let holds = busy_reads > 1_000 && epoll_calls < 10 && busy > 20 * epoll;
    let time = |time: Duration| {
        format!(
            "{:.2} ms ({:.1} % of a processor)",
            time.as_secs_f64() * 1e3,
            time.as_secs_f64() / SILENCE.as_secs_f64() * 100.0
        )
    };
    Verdict::reproduced_if(holds).measured(values![
        silence = SILENCE,
        busy_reads,
        busy_calls,
        busy = time(busy),
        epoll_calls,
        epoll = time(epoll)
    ])
}
