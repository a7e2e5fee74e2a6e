//! Listening and accepting: C26 to C29.

mod exhausted;

use std::io::{self, ErrorKind, Read};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use socket2::{Domain, SockRef, Socket, Type};

use super::claim::{Claim, Lab, Outcome, State, Verdict};
use super::parts::{Part, Player};
use super::tools::{PATIENCE, listen, name_of, queues, thousands, timed, wait_for};

pub(crate) const CLAIMS: &[Claim] = &[
    Claim {
        id: "C26",
        says: "“for { c, err := l.Accept(); if err != nil { …; break }; go handleConn(c) }” Listen, then accept for ever, and a goroutine \
              for each connection",
        asks: "The process has no descriptor left and accept fails with EMFILE: what becomes of those who are served already?",
        why: "The sample works until accept(2) fails once, for whatever reason: it breaks out of its loop, main returns, and with the \
              process all its connections go. But EMFILE, ENFILE and ECONNABORTED pass (accept(2)); they are no reason to end. Going on \
              at once is no better: who failed to be accepted still waits, so a level-triggered poller says so again at once, and the \
              loop spins. So one rests a little and asks again (Go's net/http sleeps 5 ms, then twice as long each time). The reactor \
              rests 50 ms, serves the others meanwhile, and by default takes no more connections than it has descriptors for, so that it \
              does not come to that.",
        look: "strace -f -e trace=accept4 target/release/examples/lab run C26 2>&1 | uniq -c -f 2 | grep '= -1 EMFILE'",
        exercise: "Write the three loops: one that breaks, one that goes on, one that rests 50 ms. Start each under `ulimit -n 32`, \
              connect 48 clients, and count the failed accepts of a second.",
        state: State::Runs(c26),
    },
    Claim {
        id: "C27",
        says: "“在没有新连接的时候，这个服务会阻塞在Accept调用上” Accept waits for a client, and returns the connection to it",
        asks: "Three clients have come and nobody has accepted yet: how often does a non-blocking accept return one before it says \
              EAGAIN?",
        why: "accept(2) takes one connection out of the listener's queue, and sleeps while that is empty. A non-blocking listener says \
              EAGAIN instead; poll(2) and epoll(7) call it readable as long as somebody is in the queue. One such event stands for any \
              number of clients: so an edge-triggered reactor accepts until EAGAIN, and Go's Accept is just that with the goroutine \
              parked at EAGAIN.",
        look: "strace -f -e trace=accept4,ppoll target/release/examples/lab run C27",
        exercise: "Accept in a thread, look at /proc/PID/task/TID/wchan, and connect. Then set_nonblocking(true), three clients, and \
              accept until WouldBlock.",
        state: State::Runs(c27),
    },
    Claim {
        id: "C28",
        says: "“net.Listen函数很少报错，除非是监听的端口已经被占用” Listen rarely fails, unless with `bind: address already in use`",
        asks: "The server closed its connections itself, ended, and starts again at once on the same port: does bind succeed without \
              SO_REUSEADDR?",
        why: "A port has one listener: bind(2) says EADDRINUSE to the second. Without SO_REUSEADDR it says so, too, while an old \
              connection of that port is in TIME_WAIT: for a minute, at the end that closed first. Go's net.Listen and Rust's \
              TcpListener::bind set SO_REUSEADDR on Unix, so a restart works; it still admits no second listener. SO_REUSEPORT on both \
              sockets does, and the kernel then shares the clients out.",
        look: "strace -f -e trace=setsockopt,bind,listen target/release/examples/lab run C28",
        exercise: "Bind one port twice. Then bind it with socket2, without set_reuse_address, right after a server that closed first.",
        state: State::Runs(c28),
    },
    Claim {
        id: "C29",
        says: "“通过netstat命令，查看端口的监听情况：tcp46 0 0 *.8888 *.* LISTEN” netstat shows that the port is listened on",
        asks: "listen(fd, 4), and 5 clients connect; nobody accepts. What are Recv-Q and Send-Q of the listener?",
        why: "Linux has no tcp46: a Go listener on \":8888\" is an IPv6 socket that takes IPv4 too, and shows as tcp6. Its two queue \
              columns, which are 0 in the lesson, are worth a look: for a listener Recv-Q is how many wait to be accepted, and Send-Q how \
              many may (and one more). ss(8) has both; /proc/net/tcp and netstat have the first only; TCP_INFO (tcp(7)) has them as \
              tcpi_unacked and tcpi_sacked, with no tool at all. A Recv-Q that stays near Send-Q is a server that accepts too slowly.",
        look: "strace -f -e trace=listen,getsockopt target/release/examples/lab run C29",
        exercise: "Listen with a backlog of 4, connect five times, and find the listener in `ss -ltn` and in /proc/net/tcp. Then accept \
              once and look again.",
        state: State::Runs(c29),
    },
];

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
    Ok(
        Outcome::new(Verdict::Refined.only_if(ends && rests && recovers))
            .with(
                "each server",
                format!("{} descriptors, {CROWD} clients", exhausted::DESCRIPTORS),
            )
            .with(
                "the lesson's loop",
                format!("{last_words}; it ended, and {left} of its connections are left"),
            )
            .with(
                "a loop that goes on",
                format!("{} failed accepts in {LOOK:?}", thousands(spun)),
            )
            .with(
                "the reactor",
                format!("{rested} failed accepts in {LOOK:?}, {served} clients inside"),
            )
            .with(
                format!("when {LEAVING} of them leave"),
                if recovers {
                    format!("{LEAVING} who waited are let in within {took:.0?}")
                } else {
                    "those who waited still wait".into()
                },
            ),
    )
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
    Ok(Outcome::new(Verdict::reproduced_if(holds))
        .with(
            "accept waited",
            format!("{waited:.0?}, for a client who came after {PAUSE:?}"),
        )
        .with("meanwhile the thread sleeps in", asleep_in)
        .with(
            "the connection is to",
            format!("{peer}, which is the client's own address"),
        )
        .with(
            "non-blocking, nobody there",
            format!("-1 {}", empty.err().unwrap_or_default()),
        )
        .with(
            "three have come",
            format!("{readable} event, {taken} accepts, then EAGAIN"),
        ))
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
    Ok(Outcome::new(Verdict::reproduced_if(holds))
        .with("bind where somebody listens", told(second))
        .with("bind behind one who closed first", told(without))
        .with("the same with SO_REUSEADDR", told(with))
        .with("two listeners, both with SO_REUSEPORT", told(both)))
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
    Ok(Outcome::new(Verdict::Refined.only_if(found && agrees))
        .with(
            "listen",
            format!(
                "backlog {BACKLOG}; {} clients have connected",
                clients.len()
            ),
        )
        .with("/proc/net/tcp", line.join(" "))
        .with(
            "TCP_INFO",
            format!("{five} wait (unacked), {four} may (sacked)"),
        )
        .with(
            "ss -ltn",
            ss.map_or("NOT HERE: it is not installed".into(), |ss| ss.join(" ")),
        ))
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
