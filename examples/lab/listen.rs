//! Listening and accepting: C26 to C29.

mod exhausted;

use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;

use rustix::event::{PollFd, PollFlags, Timespec};
use socket2::SockRef;

use super::parts::{Part, Player};
use super::prelude::*;
use super::whereabouts;

pub(crate) const RUNS: &[(&str, Run)] = &[("C26", c26), ("C27", c27), ("C28", c28), ("C29", c29)];

pub(crate) const PARTS: &[(&str, Part)] = exhausted::PARTS;

/// The number of clients, and how many of the accepted ones close.
const CROWD: usize = 48;
const LEAVING: usize = 5;
/// How long failed accepts are counted.
const LOOK: Duration = Duration::from_millis(300);

fn c26(_: Lab) -> io::Result<Outcome> {
    let (mut lesson, clients) = besieged("accept-or-break")?;
    let last_words = lesson.line()?;
    let ended = lesson.end()?.success();
    let left = clients.iter().filter(|client| is_open(client)).count();

    let spun = {
        let (mut naive, _clients) = besieged("accept-or-spin")?;
        failures(&mut naive)?
    };

    let (mut ours, clients) = besieged("accept-or-rest")?;
    let rested = failures(&mut ours)?;
    let (mut inside, outside): (Vec<_>, Vec<_>) = clients.into_iter().partition(is_greeted);
    let served = inside.len();
    inside.truncate(served.saturating_sub(LEAVING)); // the others close
    let greeted = || outside.iter().filter(|client| is_greeted(client)).count();
    let (took, recovers) = timed(|| wait_for(|| greeted() == LEAVING));

    let ends = ended && last_words.ends_with(" EMFILE") && left == 0;
    let rests = spun > 20 * rested.max(1);
    let then = if recovers {
        format!("{LEAVING} waiting clients are accepted within {took:.0?}")
    } else {
        "the waiting clients still wait".into()
    };
    Verdict::Refined
        .only_if(ends && rests && recovers)
        .measured(values![
            descriptors = exhausted::DESCRIPTORS,
            clients = CROWD,
            last_words,
            left,
            spun,
            look = LOOK,
            rested,
            served,
            leaving = LEAVING,
            then
        ])
}

/// A server, and more clients than it can take. If it has ended, there are fewer.
fn besieged(part: &str) -> io::Result<(Player, Vec<TcpStream>)> {
    let mut server = Player::start(part, &[])?;
    let addr = server.line()?;
    let clients: Vec<TcpStream> = (0..CROWD)
        .filter_map(|_| TcpStream::connect(&addr).ok())
        .collect();
    clients
        .iter()
        .try_for_each(|client| client.set_nonblocking(true))?;
    Ok((server, clients))
}

/// How many accepts fail within [`LOOK`], once one has failed.
fn failures(server: &mut Player) -> io::Result<usize> {
    let mut count = || {
        server.tell("")?;
        server.line()?.parse().map_err(io::Error::other)
    };
    await_that("there were descriptors for all clients", || {
        count().is_ok_and(|count: usize| count > 0)
    })?;
    let before = count()?;
    thread::sleep(LOOK);
    Ok(count()? - before)
}

fn is_greeted(client: &TcpStream) -> bool {
    client.peek(&mut [0]).is_ok_and(|count| count > 0)
}

/// Whether its server has not closed it.
fn is_open(mut client: &TcpStream) -> bool {
    let mut ended = false;
    wait_for(|| {
        ended = match client.read(&mut [0; 64]) {
            Ok(count) => count == 0,
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        };
        ended
    });
    !ended
}

fn c27(_: Lab) -> io::Result<Outcome> {
    const PAUSE: Duration = Duration::from_millis(200);
    let (listener, addr) = listening(0, 0)?;
    // The timeout holds for accept, too (socket(7)).
    SockRef::from(&listener).set_read_timeout(Some(PATIENCE))?;
    let blocking = listener.try_clone()?;
    let acceptor = Watched::spawn(move || {
        let called = Instant::now();
        (blocking.accept(), called.elapsed(), Instant::now())
    })?;
    let sleeps = wait_for(|| whereabouts::is_asleep(acceptor.id));
    let place = whereabouts::of(acceptor.id)?.place;
    thread::sleep(PAUSE);
    let came = Instant::now();
    let client = TcpStream::connect(addr)?;
    let (accepted, waited, returned) = acceptor.join()?;
    let peer = accepted?.1;

    listener.set_nonblocking(true)?;
    let empty = listener.accept().map(|_| 0);
    let _clients = [(); 3].map(|()| TcpStream::connect(addr));
    wait_for(|| tcp_info(&listener).is_ok_and(|info| info.tcpi_unacked == 3));
    let none = Timespec::default();
    let readable = rustix::event::poll(&mut [PollFd::new(&listener, PollFlags::IN)], Some(&none))?;
    let taken = std::iter::from_fn(|| listener.accept().ok()).count();

    let waits = sleeps && waited >= PAUSE && returned >= came && peer == client.local_addr()?;
    let holds = waits && is_eagain(&empty) && (readable, taken) == (1, 3);
    let values = values![waited, pause = PAUSE, place, peer, empty, readable, taken];
    Verdict::reproduced_if(holds).measured(values)
}

fn c28(_: Lab) -> io::Result<Outcome> {
    let first = listen()?; // std sets SO_REUSEADDR
    let addr = first.local_addr()?;
    let second = TcpListener::bind(addr).map(drop);

    // The server is the first to close: TIME_WAIT is on its side.
    let mut client = connected(addr, 0, 0)?;
    drop(first.accept()?);
    let _ = client.read(&mut [0])?;
    drop((client, first));
    let again = |reuse| {
        let socket = socket(0, 0)?;
        socket.set_reuse_address(reuse)?;
        socket.bind(&addr.into())?;
        socket.listen(1)
    };
    let (without, with) = (again(false), again(true));

    let [one, other] = [socket(0, 0)?, socket(0, 0)?];
    one.set_reuse_port(true)?;
    other.set_reuse_port(true)?;
    let shared = bind(&one)?;
    one.listen(1)?;
    let both = other.bind(&shared.into());

    let in_use = |result: &io::Result<()>| error_or(result, "") == "EADDRINUSE";
    let holds = in_use(&second) && in_use(&without) && with.is_ok() && both.is_ok();
    Verdict::reproduced_if(holds).measured(values![second, without, with, both])
}

fn c29(_: Lab) -> io::Result<Outcome> {
    const BACKLOG: u32 = 4;
    let (listener, addr) = listening(0, 0)?;
    SockRef::from(&listener).listen(BACKLOG.try_into().unwrap_or(0))?;
    let clients = (0..=BACKLOG).map(|_| TcpStream::connect_timeout(&addr, PATIENCE));
    let clients = clients.collect::<io::Result<Vec<_>>>()?.len();
    wait_for(|| tcp_info(&listener).is_ok_and(|info| info.tcpi_unacked as usize == clients));

    let fields = |text: &str, count| {
        text.split_whitespace()
            .take(count)
            .collect::<Vec<_>>()
            .join(" ")
    };
    let table = fs::read_to_string("/proc/net/tcp")?;
    let key = format!(":{:04X} 00000000:0000 0A ", addr.port()); // 0A is LISTEN
    let line = table
        .lines()
        .find(|line| line.contains(&key))
        .map(|line| fields(line, 5));
    let info = tcp_info(&listener)?;
    let (five, four) = (info.tcpi_unacked, info.tcpi_sacked);
    let filter = format!("sport = :{}", addr.port());
    let ss = Command::new("ss").args(["-ltnH", &filter]).output().ok();
    let ss = ss.filter(|output| output.status.success());
    let ss = ss.map(|output| fields(&String::from_utf8_lossy(&output.stdout), 4));

    let found = line.is_some() && queues(addr, None)?.received == five as usize;
    let counts = (five, four) == (BACKLOG + 1, BACKLOG);
    let agrees = ss
        .as_ref()
        .is_none_or(|ss| ss.starts_with(&format!("LISTEN {five} {four}")));
    let ss = ss.unwrap_or("NOT HERE: it is not installed".into());
    let values = values![backlog = BACKLOG, clients, line, five, four, ss];
    Verdict::Refined
        .only_if(found && counts && agrees)
        .measured(values)
}

/// What the kernel says of a socket. For a listener, `tcpi_unacked` is the number of connections
/// that wait to be accepted, and `tcpi_sacked` the limit.
pub(crate) fn tcp_info(socket: &impl AsFd) -> io::Result<libc::tcp_info> {
    #[allow(unsafe_code)] // TCP_INFO is the lesson, and neither std nor the crates at hand have it
    // SAFETY: a struct of integers may be all zeros; the kernel writes no more of it than `size`
    // says.
    unsafe {
        let mut info: libc::tcp_info = std::mem::zeroed();
        let mut size = size_of::<libc::tcp_info>() as libc::socklen_t;
        let fd = socket.as_fd().as_raw_fd();
        let (level, name) = (libc::IPPROTO_TCP, libc::TCP_INFO);
        match libc::getsockopt(fd, level, name, (&raw mut info).cast(), &raw mut size) {
            0 => Ok(info),
            _ => Err(io::Error::last_os_error()),
        }
    }
}
