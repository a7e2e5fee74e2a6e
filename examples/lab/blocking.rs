//! One call, one connection: which calls wait, and what polling costs. C8 to C13.

use std::os::fd::AsFd;

use rustix::fs::{OFlags, fcntl_getfl};
use rustix::net::RecvFlags;

use super::beside;
use super::prelude::*;
use super::servers::Model;
use super::servers::child::Server;
use super::servers::sys::Call;
use super::service::{Client, submit};
use super::source::lines_of;
use super::whereabouts;

pub(crate) const RUNS: Runs = runs! { c8 c9 c10 c11 c12 c13 };

fn c8(_: Lab) -> io::Result<Outcome> {
    let (mut client, mut server) = pair()?;
    client.write_all(b"hi")?;
    let some = server.read(&mut [0; 10])?;

    client.write_all(b"hi")?;
    let reader = Watched::spawn(move || {
        let count = rustix::net::recv(&server, &mut [0; 10], RecvFlags::WAITALL);
        count.map(|(count, _)| (count, server))
    })?;
    let waits = reader.sleeps_in("recvfrom");
    client.write_all(b"12345678")?;
    let (all, mut server) = reader.join()??;

    server.set_nonblocking(true)?;
    let none = server.read(&mut [0; 10]);
    let verdict = match some {
        10 => Verdict::Reproduced,
        _ => Verdict::WrongAsWritten.only_if(some == 2 && waits && all == 10 && is_eagain(&none)),
    };
    verdict.measured(values![some, waits, all, none])
}

fn c9(_: Lab) -> io::Result<Outcome> {
    let (mut client, mut server) = pair()?;
    let reader = Watched::spawn(move || {
        let mut buffer = [0; 10];
        let count = server.read(&mut buffer)?;
        io::Result::Ok((buffer[..count].to_vec(), queues_of(&server)?.received))
    })?;
    let asleep = reader.sleeps_in("recvfrom");
    let before = whereabouts::of(reader.id)?;
    thread::sleep(Duration::from_millis(50));
    let after = whereabouts::of(reader.id)?;
    let still = whereabouts::sleeps_in(reader.id, "recvfrom");
    client.write_all(b"hello")?;
    let (bytes, left) = reader.join()??;

    let ran = after.ran.saturating_sub(before.ran);
    let holds =
        asleep && still && ran < Duration::from_millis(10) && bytes == b"hello" && left == 0;
    let call = after
        .call
        .map_or("not shown by this kernel".into(), |call| {
            format!("{} (number {call})", whereabouts::name_of_call(call))
        });
    let (state, place, bytes) = (after.state, after.place, bytes.len());
    Verdict::reproduced_if(holds).measured(values![state, call, place, ran, bytes, left])
}

fn c10(_: Lab) -> io::Result<Outcome> {
    /// Whether B is answered beside an idle A, and after A has closed.
    fn answered(model: Model, patience: Duration) -> io::Result<[bool; 2]> {
        let server = Server::start(model)?;
        let mut a = Client::connect(server.addr)?;
        a.hello()?; // from here on the server waits for A
        let mut b = Client::connect(server.addr)?;
        b.send(&submit(1, b"hello"))?;
        b.stream.set_read_timeout(Some(patience))?;
        let beside = b.ack().is_ok();
        drop(a);
        b.stream.set_read_timeout(Some(PATIENCE))?;
        Ok([beside, beside || b.ack().is_ok()])
    }
    let [beside, after] = answered(Model::Iterative, Duration::from_millis(200))?;
    let mut others = Vec::new();
    for model in [Model::Threads, Model::Poll, Model::Reactor] {
        if answered(model, PATIENCE)?[0] {
            others.push(model.name());
        }
    }
    let holds = !beside && after && others.len() == 3;
    Verdict::reproduced_if(holds).measured(values![beside, after, others])
}

fn c11(_: Lab) -> io::Result<Outcome> {
    const MODELS: [Model; 7] = [
        Model::Iterative,
        Model::Threads,
        Model::Busy,
        Model::Select,
        Model::Poll,
        Model::EpollLt,
        Model::EpollEt,
    ];
    let go = beside::run("flags", &[], |said| {
        let is_set = |socket| said.text(&format!("{socket} O_NONBLOCK")) == "true";
        ["listener", "dialed", "accepted"].into_iter().all(is_set)
    })?;
    let is_nonblocking =
        |fd: &dyn AsFd| fcntl_getfl(fd.as_fd()).is_ok_and(|flags| flags.contains(OFlags::NONBLOCK));
    let (client, server) = pair()?;
    let std = [&listen()? as &dyn AsFd, &client, &server].map(is_nonblocking);
    let socket = is_nonblocking(&socket(0, 0)?);

    let listener = mio::net::TcpListener::bind("127.0.0.1:0".parse().map_err(io::Error::other)?)?;
    let dialed = mio::net::TcpStream::connect(listener.local_addr()?)?;
    let mut accepted = Err(ErrorKind::TimedOut.into());
    wait_for(|| {
        accepted = listener.accept();
        accepted.is_ok()
    });
    let mio = [&listener as &dyn AsFd, &dialed, &accepted?.0].map(is_nonblocking);

    let lines = MODELS.map(lines_of);
    let longest_blocking = lines[..2].iter().max();
    let shortest = lines[2..]
        .iter()
        .all(|lines| Some(lines) > longest_blocking);
    let holds = !socket && std == [false; 3] && mio == [true; 3] && shortest;
    let values = values![socket, std, mio, lines];
    go.measured(Verdict::reproduced_if(holds), values)
}

fn c12(_: Lab) -> io::Result<Outcome> {
    let (_client, mut server) = pair()?;
    let listener = listen()?;
    let (writer, _reader) = pair_with_buffers(4096)?;
    listener.set_nonblocking(true)?;
    writer.set_nonblocking(true)?;
    // The first EAGAIN: later there may be room again, when the kernel has moved some bytes on.
    let full = (0..10_000).find_map(|_| (&writer).write(&[b'x'; 4096]).err());

    server.set_read_timeout(Some(Duration::from_millis(20)))?;
    let (blocking, _) = timed(|| server.read(&mut [0; 10]));
    server.set_nonblocking(true)?;
    let (mut times, mut refused) = (Vec::new(), 0);
    for _ in 0..1_000 {
        let (time, read) = timed(|| server.read(&mut [0; 10]));
        times.push(time);
        refused += usize::from(is_eagain(&read));
    }
    times.sort_unstable();
    let (median, errno) = (times[times.len() / 2], libc::EAGAIN);
    let accept = listener.accept().map(|_| 0);
    let write = full.map_or(Ok(4096), Err);
    let holds =
        refused == 1_000 && median * 100 < blocking && is_eagain(&accept) && is_eagain(&write);
    let values = values![refused, errno, median, blocking, accept, write];
    Verdict::reproduced_if(holds).measured(values)
}

fn c13(_: Lab) -> io::Result<Outcome> {
    const SILENCE: Duration = Duration::from_millis(300);
    /// A server's reads, calls and CPU time while its only client is silent.
    fn idle(model: Model) -> io::Result<(u64, u64, Duration)> {
        let mut server = Server::start(model)?;
        let mut client = Client::connect(server.addr)?;
        client.hello()?;
        thread::sleep(Duration::from_millis(5)); // its work after the answer is no silence yet
        let (calls, usage) = (server.calls()?, server.usage()?);
        thread::sleep(SILENCE);
        let (calls_then, usage_then) = (server.calls()?, server.usage()?);
        let reads = calls_then[Call::Read as usize] - calls[Call::Read as usize];
        let all = calls_then.iter().sum::<u64>() - calls.iter().sum::<u64>();
        Ok((reads, all, usage_then.cpu.saturating_sub(usage.cpu)))
    }
    let (busy_reads, busy_calls, busy) = idle(Model::Busy)?;
    let (_, epoll_calls, epoll) = idle(Model::EpollLt)?;
    // Not a whole CPU: other processes may need it too. A tenth is enough.
    let holds = busy_reads > 1_000 && epoll_calls < 10 && busy > 20 * epoll;
    let share = |time: Duration| 100.0 * time.as_secs_f64() / SILENCE.as_secs_f64();
    let [busy, epoll] = [busy, epoll].map(|time| (time, share(time)));
    let silence = SILENCE;
    let values = values![silence, busy_reads, busy_calls, busy, epoll_calls, epoll];
    Verdict::reproduced_if(holds).measured(values)
}
