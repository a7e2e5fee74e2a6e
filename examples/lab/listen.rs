//! Listening and accepting: C26 to C29.

mod exhausted;

use super::prelude::*;
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::sync::mpsc;

use rustix::event::{PollFd, PollFlags, Timespec};
use socket2::{Domain, SockRef, Socket, Type};

use super::parts::{Part, Player};

pub(crate) const RUNS: &[(&str, Run)] = &[("C26", c26), ("C27", c27), ("C28", c28), ("C29", c29)];

pub(crate) const PARTS: &[(&str, Part)] = exhausted::PARTS;

/// So many clients come, and so many of those who are let in leave.
const CROWD: usize = 48;
const LEAVING: usize = 5;

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
    inside.truncate(served.saturating_sub(LEAVING)); // and so they leave
    let (took, recovers) = timed(|| {
        wait_for(|| outside.iter().filter(|client| is_greeted(client)).count() == LEAVING)
    });

    let ends = ended && last_words.ends_with(" EMFILE") && left == 0;
    let rests = spun > 20 * rested.max(1);
    Verdict::Refined
        .only_if(ends && rests && recovers)
        .measured(values![
            descriptors = exhausted::DESCRIPTORS,
            clients = CROWD,
            last_words,
            left,
            spun,
            look = format!("{:?}", LOOK),
            rested,
            served,
            leaving = LEAVING,
            recovery = if recovers {
                format!("{LEAVING} who waited are let in within {took:.0?}")
            } else {
                "those who waited still wait".into()
            }
        ])
}

/// How long failed accepts are counted.
const LOOK: Duration = Duration::from_millis(300);

/// A server, and more clients than it can take. Some may find it gone.
fn besieged(part: &str) -> io::Result<(Player, Vec<TcpStream>)> {
    let mut server = Player::start(part, &[])?;
    let addr = server.line()?;
    let clients: Vec<TcpStream> = (0..CROWD)
        .filter_map(|_| TcpStream::connect(&addr).ok())
        .collect();
    for client in &clients {
        client.set_nonblocking(true)?;
    }
    Ok((server, clients))
}

/// How many accepts fail while one looks, once one has failed.
fn failures(server: &mut Player) -> io::Result<usize> {
    let mut count = || {
        server.tell("")?;
        server.line()?.parse().map_err(io::Error::other)
    };
    if !wait_for(|| count().is_ok_and(|count: usize| count > 0)) {
        return Err(io::Error::other("there were descriptors for everybody"));
    }
    let before = count()?;
    thread::sleep(LOOK);
    Ok(count()? - before)
}

fn is_greeted(client: &TcpStream) -> bool {
    client.peek(&mut [0]).is_ok_and(|count| count > 0)
}

/// Whether somebody may still say something, behind his greeting.
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
    let listener = listen()?;
    let addr = listener.local_addr()?;
    SockRef::from(&listener).set_read_timeout(Some(PATIENCE))?; // accept keeps to it (socket(7))
    let (tell, told) = mpsc::channel();
    let acceptor = thread::spawn({
        let listener = listener.try_clone()?;
        move || {
            let _ = tell.send(rustix::thread::gettid().as_raw_nonzero());
            let called = Instant::now();
            (listener.accept(), called.elapsed(), Instant::now())
        }
    });
    let thread = told.recv().map_err(io::Error::other)?;
    let of_thread = |file| {
        std::fs::read_to_string(format!("/proc/self/task/{thread}/{file}")).unwrap_or_default()
    };
    let sleeps = wait_for(|| of_thread("stat").contains(") S "));
    let asleep_in = of_thread("wchan");
    thread::sleep(PAUSE);
    let came = Instant::now();
    let client = TcpStream::connect(addr)?;
    let (accepted, waited, returned) = acceptor.join().expect("it does not panic");
    let peer = accepted?.1;

    listener.set_nonblocking(true)?;
    let empty = listener
        .accept()
        .map(|_| ())
        .map_err(|error| name_of(&error));
    let clients = [
        TcpStream::connect(addr)?,
        TcpStream::connect(addr)?,
        TcpStream::connect(addr)?,
    ];
    wait_for(|| tcp_info(&listener).is_ok_and(|info| info.tcpi_unacked as usize == clients.len()));
    let none = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let readable = rustix::event::poll(&mut [PollFd::new(&listener, PollFlags::IN)], Some(&none))?;
    let taken = std::iter::from_fn(|| listener.accept().ok()).count();

    let waits = sleeps && waited >= PAUSE && returned >= came && peer == client.local_addr()?;
    let holds = waits && empty == Err("EAGAIN".into()) && readable == 1 && taken == clients.len();
    Verdict::reproduced_if(holds).measured(values![
        waited,
        pause = format!("{:?}", PAUSE),
        place = asleep_in,
        peer,
        empty = empty.err().unwrap_or_default(),
        readable,
        taken
    ])
}

fn c28(_: Lab) -> io::Result<Outcome> {
    let socket = || Socket::new(Domain::IPV4, Type::STREAM, None);
    let first = listen()?;
    let addr = first.local_addr()?;
    let second = TcpListener::bind(addr).map(drop);

    // The server is the first to close: TIME_WAIT is on its side.
    let mut client = TcpStream::connect(addr)?;
    client.set_read_timeout(Some(PATIENCE))?;
    drop(first.accept()?);
    let _ = client.read(&mut [0])?;
    drop((client, first));
    let again = |reuse| {
        let socket = socket()?;
        socket.set_reuse_address(reuse)?;
        socket.bind(&addr.into())?;
        socket.listen(1)
    };
    let (without, with) = (again(false), again(true));

    let shared = || {
        let socket = socket()?;
        socket.set_reuse_port(true)?;
        Ok::<_, io::Error>(socket)
    };
    let one = shared()?;
    one.bind(
        &"127.0.0.1:0"
            .parse::<std::net::SocketAddr>()
            .expect("an address")
            .into(),
    )?;
    one.listen(1)?;
    let both = shared()?.bind(&one.local_addr()?);

    let in_use = |result: &io::Result<()>| {
        result
            .as_ref()
            .is_err_and(|error| error.kind() == ErrorKind::AddrInUse)
    };
    let holds = in_use(&second) && in_use(&without) && with.is_ok() && both.is_ok();
    let told = |result: io::Result<()>| {
        result.map_or_else(|error| format!("-1 {}", name_of(&error)), |()| "0".into())
    };
    Verdict::reproduced_if(holds).measured(values![
        second = told(second),
        without = told(without),
        with = told(with),
        both = told(both)
    ])
}

fn c29(_: Lab) -> io::Result<Outcome> {
    const BACKLOG: i32 = 4;
    let listener = listen()?;
    let addr = listener.local_addr()?;
    SockRef::from(&listener).listen(BACKLOG)?;
    let mut clients = Vec::new();
    for _ in 0..=BACKLOG {
        clients.push(TcpStream::connect_timeout(&addr, PATIENCE)?);
    }
    wait_for(|| tcp_info(&listener).is_ok_and(|info| info.tcpi_unacked as usize == clients.len()));

    let table = std::fs::read_to_string("/proc/net/tcp")?;
    let listening = format!(":{:04X} 00000000:0000 0A ", addr.port()); // 0A is LISTEN
    let line = table
        .lines()
        .find(|line| line.contains(&listening))
        .unwrap_or("nothing")
        .trim();
    let line: Vec<&str> = line.split_whitespace().take(5).collect();
    let info = tcp_info(&listener)?;
    let queues = queues(addr, None)?;
    let ss = Command::new("ss")
        .args(["-ltnH", &format!("sport = :{}", addr.port())])
        .output();
    let ss = ss
        .ok()
        .filter(|output| output.status.success())
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let ss: Option<Vec<&str>> = ss
        .as_ref()
        .map(|text| text.split_whitespace().take(4).collect());

    let waiting = info.tcpi_unacked as usize;
    let (five, four) = (waiting.to_string(), info.tcpi_sacked.to_string());
    let found = line.len() == 5
        && queues.received == waiting
        && info.tcpi_sacked == BACKLOG.unsigned_abs()
        && info.tcpi_unacked == info.tcpi_sacked + 1;
    let agrees = ss
        .as_ref()
        .is_none_or(|ss| ss.starts_with(&["LISTEN", &five, &four]));
    Verdict::Refined.only_if(found && agrees).measured(values![
        backlog = BACKLOG,
        clients = clients.len(),
        line = line.join(" "),
        five,
        four,
        ss = ss.map_or("NOT HERE: it is not installed".into(), |ss| ss.join(" "))
    ])
}

/// What the kernel tells of a socket. For a listener `tcpi_unacked` is how many wait to be accepted, and `tcpi_sacked` how many may.
pub(crate) fn tcp_info(socket: &impl AsFd) -> io::Result<libc::tcp_info> {
    #[allow(unsafe_code)] // TCP_INFO is the lesson, and neither std nor the crates at hand have it
    // SAFETY: a struct of integers may be all zeros; the kernel writes no more of it than `size` says.
    unsafe {
        let mut info: libc::tcp_info = std::mem::zeroed();
        let mut size = size_of::<libc::tcp_info>() as libc::socklen_t;
        let fd = socket.as_fd().as_raw_fd();
        match libc::getsockopt(
            fd,
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut size,
        ) {
            0 => Ok(info),
            _ => Err(io::Error::last_os_error()),
        }
    }
}
