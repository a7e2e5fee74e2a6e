//! Connecting: C30 to C38.

mod backlog;
mod silence;

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use glassloop::codec::Line;
use glassloop::{
    CloseReason, Config, ConnectFailure, Context, Handler, Origin, Reactor, Verdict as Next,
};
use rustix::event::{PollFd, PollFlags};
use socket2::{Domain, Socket, Type};

use super::claim::{Claim, Lab, Outcome, State, Verdict};
use super::parts::{Part, Player};
use super::tools::{PATIENCE, listen, name_of, timed};
use backlog::Queue;

pub(crate) const CLAIMS: &[Claim] = &[
    Claim {
        id: "C30",
        says: "“Dial…会一直阻塞，直到连接成功或失败后，才会返回。而DialTimeout带有超时机制” Dial blocks until it has succeeded or failed; \
              DialTimeout returns an error when its time is over",
        asks: "A non-blocking connect says EINPROGRESS, and the socket becomes writable. Is it connected?",
        why: "A connect takes a round trip: the SYN out, the SYN-ACK back. connect(2) on a non-blocking socket does not wait for that and \
              says EINPROGRESS; the socket is writable when the matter is decided, either way, and SO_ERROR says which. Go's Dial and \
              Rust's TcpStream::connect_timeout do just this and wait in between; so does the reactor, with a deadline beside it. A \
              blocking connect can be bounded by SO_SNDTIMEO (socket(7)): it then returns EINPROGRESS, too.",
        look: "strace -f -e trace=connect,poll,ppoll,getsockopt target/release/examples/lab run C30",
        exercise: "Connect without blocking: connect, poll for POLLOUT, SO_ERROR. Try it with a listener, with a closed port, and with a \
              listener whose queue is full.",
        state: State::Runs(c30),
    },
    Claim {
        id: "C31",
        says: "“网络不可达或对方服务未启动…几乎会立即返回…connection refused” With no way to the host, or nobody listening, Dial returns \
              `connection refused` almost at once",
        asks: "No network at all, not even lo: does connect say `connection refused`?",
        why: "ECONNREFUSED means that somebody answered: the host is there, and its kernel sent a RST since nobody listens on that port. \
              Where this machine has no route, nothing is sent and connect(2) says ENETUNREACH at once; a router on the way may say \
              EHOSTUNREACH. And where packets are dropped without a word, by a firewall or a full queue, nothing comes back at all: then \
              it takes as long as the kernel's patience (C36). Three causes, three cures; glassloop::ConnectFailure keeps them apart.",
        look: "unshare -Urn strace -f -e trace=connect target/release/examples/lab play unreachable",
        exercise: "Connect to a port that you have bound and not listened on, and print the error. Then do it in `unshare -Urn sh`, \
              before and after `ip link set lo up`.",
        state: State::Runs(c31),
    },
    Claim {
        id: "C32",
        says: "“listen backlog队列满…客户端的Dial调用阻塞，直到服务端进行一次accept” With the queue full, Dial blocks until the server \
              accepts once",
        asks: "The queue is full, one client waits outside. The server accepts one: how long until the other one is in?",
        why: "listen(fd, n) makes a queue of n + 1 for those whose handshake is done and whom nobody has accepted; their connect(2) has \
              returned, and what they send is kept. Who comes to a full queue has his SYN dropped (ListenOverflows in /proc/net/netstat), \
              and his kernel sends it again after a second. accept(2) makes room, and tells nobody: a newcomer may take the place before \
              those who have waited, and they find out with their next SYN only. So a server that accepts slowly costs its clients whole \
              seconds.",
        look: "nstat -n; target/release/examples/lab run C32; nstat TcpExtListenOverflows TcpExtTCPSynRetrans",
        exercise: "Listen with a backlog of 1, connect 4 clients without blocking, and see who is connected (getpeername). Accept once, \
              and time how long the next one takes.",
        state: State::Runs(backlog::c32),
    },
    Claim {
        id: "C33",
        says: "“macOS下，这个默认值如下：kern.ipc.somaxconn: 128” The longest backlog of macOS is 128",
        asks: "What is the longest backlog on this machine?",
        why: "The kernel cuts what listen(2) asks for to net.core.somaxconn, which is 4096 since Linux 5.4 and was 128 before, as on \
              macOS. Asking for more is no error, so one does not notice. Go reads the setting and asks for just that; Rust's std and mio \
              ask for a number of their own, and one who wants more listens with socket2.",
        look: "sysctl net.core.somaxconn; strace -f -e trace=listen target/release/examples/lab run C33",
        exercise: "Listen with std, with mio, and with socket2 and i32::MAX. Read the limit of each: Send-Q in `ss -ltn`.",
        state: State::Runs(backlog::c33),
    },
    Claim {
        id: "C34",
        says: "“在Ubuntu Linux下，backlog队列的长度值与…net.ipv4.tcp_max_syn_backlog的设置有关” On Ubuntu, the length of the backlog \
              depends on tcp_max_syn_backlog",
        asks: "tcp_max_syn_backlog is set to 1, and listen(fd, 8) is called: how many clients get in without an accept?",
        why: "There are two queues. The one that Dial meets when the server does not accept holds those whose handshake is done, and its \
              length is the smaller of listen's n and net.core.somaxconn (listen(2)). tcp_max_syn_backlog is for the handshakes that are \
              not done; with SYN cookies, which are the default, it is not even looked at. Before Linux 2.2, listen's n was for the \
              unfinished ones.",
        look: "unshare -Urn sh -c 'ip link set lo up; sysctl -w net.ipv4.tcp_max_syn_backlog=1 net.core.somaxconn=2; \
              target/release/examples/lab run C33'",
        exercise: "In `unshare -Urn sh`, where the settings are your own: set one to 1 and the other back, and count with each who gets \
              in at listen(fd, 8).",
        state: State::Runs(backlog::c34),
    },
    Claim {
        id: "C35",
        says: "“如果服务端运行在macOS下，那么客户端会阻塞大约1分多钟…operation timed out” If the server never accepts, on macOS the \
              client blocks for more than a minute",
        asks: "A minute on macOS, two on Linux: whose setting decides that, the client's or the server's?",
        why: "It is the client's kernel that sends the SYN again and gives up at last; the server that drops it knows nothing of that. So \
              it depends on where the client runs, not the server. What Linux does is C36.",
        look: "target/release/examples/lab run C36",
        exercise: "On a Mac: `sysctl net.inet.tcp.keepinit`, and a client of a listener whose queue is full. Compare the two times.",
        state: State::NotHere("It is about the TCP of macOS, and this is Linux."),
    },
    Claim {
        id: "C36",
        says: "“如果服务端运行在Ubuntu上，客户端的Dial调用大约在2分多钟后提示超时错误，这个结果也和Linux的系统设置有关” On Ubuntu, Dial \
              gives up after more than two minutes; that depends on settings, too",
        asks: "With one retry only (TCP_SYNCNT 1), after how many seconds does connect give up?",
        why: "The kernel sends the SYN again after 1 s, and again, in steps that first stay (tcp_syn_linear_timeouts) and then double. \
              With n retries it gives up at the first step that is not before 2^(n+1) - 1 s: 3 s for one, and 127 s or a little more for \
              the six that tcp_syn_retries has by default (tcp(7)). Both can be set for a socket: TCP_SYNCNT counts retries, \
              TCP_USER_TIMEOUT milliseconds. Neither Go nor std sets them: DialTimeout and connect_timeout watch the clock themselves.",
        look: "sysctl net.ipv4.tcp_syn_retries; strace -f -e trace=setsockopt,connect target/release/examples/lab run C36",
        exercise: "Fill a queue (listen with 0, one client), set TCP_SYNCNT to 1 on the next client, connect without blocking, and watch \
              `ss -tno state syn-sent`.",
        state: State::Substitute(
            silence::c36,
            "Clients who give up sooner are run, and the default is reckoned by the rule that they follow: it takes over two minutes, \
                  which are spent with --slow only.",
        ),
    },
    Claim {
        id: "C37",
        says: "“如果网络延迟较大…会经历各种丢包…Dial将阻塞并超时” On a slow network the handshake loses packets, and Dial blocks, then \
              times out",
        asks: "The first SYN is lost, and the network is well again 0.3 s later. How long does connect take?",
        why: "A lost SYN is known by its silence only, and before the first answer the kernel has no idea how long that may be: it waits \
              1 s (RFC 6298), however fast the network is. So a connect takes no time, or a second, or two, and little in between; a few \
              percent of loss is seen as a few percent of connects that take a second. One that never gets through ends with ETIMEDOUT, \
              by the kernel's patience or by a deadline of one's own.",
        look: "strace -f -e trace=setsockopt,connect target/release/examples/lab run C37",
        exercise: "Attach a filter to a listener that drops all (socket2's attach_filter, one instruction: return 0; if not as root, then \
              in `unshare -Urn`), connect, detach it after 0.3 s, and time it.",
        state: State::Substitute(
            silence::c37,
            "A packet filter on the listening socket drops SYNs in place of the slow network, since delay itself needs netem and root.",
        ),
    },
    Claim {
        id: "C38",
        says: "“对于那些需要有严格的连接时间限定的Go应用…使用DialTimeout函数更适合” Where the time to connect is strictly limited, \
              DialTimeout is better",
        asks: "A dial has run out of time: what of it is left in the reactor, and in the process?",
        why: "The kernel's patience is two minutes (C36), so who has less keeps a clock. In the reactor that is a deadline beside the \
              socket: when it comes first, the handler is told ConnectFailure::TimedOut, the socket is closed, which ends the SYNs, too, \
              and its slot is free. Nothing waits meanwhile: the loop serves others. Go's DialTimeout sets a write deadline on the \
              connecting socket, and closes it just so.",
        look: "strace -f -e trace=connect,epoll_wait,close target/release/examples/lab run C38",
        exercise: "Reactor::connect to a listener whose queue is full, with 300 ms: print what the handler's close is told, and count \
              /proc/self/fd before and after.",
        state: State::Runs(c38),
    },
];

pub(crate) const PARTS: &[(&str, Part)] = &[
    ("unreachable", unreachable),
    ("other-settings", backlog::other_settings),
    ("lossy-network", silence::lossy_network),
];

/// How long one waits for somebody who does not answer.
const LIMIT: Duration = Duration::from_millis(200);

fn c30(_: Lab) -> io::Result<Outcome> {
    let (listener, dead, full) = (listen()?, Dead::new()?, Queue::full()?);
    let alive = dial(listener.local_addr()?, PATIENCE)?;
    let refused = dial(dead.addr, PATIENCE)?;
    let silent = dial(full.addr, LIMIT)?;

    let (took, timeout) = timed(|| TcpStream::connect_timeout(&full.addr, LIMIT));
    let blocking = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    blocking.set_write_timeout(Some(LIMIT))?;
    let (blocked, bounded) = timed(|| blocking.connect(&full.addr.into()));

    let succeeds = alive == ["EINPROGRESS", "writable", "0"].map(String::from);
    let fails = refused == ["EINPROGRESS", "writable", "ECONNREFUSED"].map(String::from);
    let waits = silent == ["EINPROGRESS", "not writable", "0"].map(String::from);
    let blocks = blocked >= LIMIT
        && bounded
            .as_ref()
            .is_err_and(|error| name_of(error) == "EINPROGRESS");
    let times_out = took >= LIMIT
        && timeout
            .as_ref()
            .is_err_and(|error| error.kind() == ErrorKind::TimedOut);
    let steps = |[connect, poll, error]: [String; 3]| {
        format!("connect: {connect}; poll: {poll}; SO_ERROR: {error}")
    };
    let told = |error: Option<io::Error>| error.map_or_else(|| "0".into(), |error| name_of(&error));
    Ok(Outcome::new(Verdict::reproduced_if(
        succeeds && fails && waits && blocks && times_out,
    ))
    .with("somebody listens", steps(alive))
    .with("nobody listens", steps(refused))
    .with(
        "the queue is full",
        format!("{} after {LIMIT:?}", steps(silent)),
    )
    .with(
        "blocking, with SO_SNDTIMEO",
        format!("{} after {blocked:.0?}", told(bounded.err())),
    )
    .with(
        "connect_timeout",
        format!("{} after {took:.0?}", told(timeout.err())),
    ))
}

/// Connects without blocking, and waits so long for what comes of it: what `connect` says, `poll`, and `SO_ERROR`.
fn dial(addr: SocketAddr, limit: Duration) -> io::Result<[String; 3]> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    let connect = socket.connect(&addr.into());
    let ready = rustix::event::poll(
        &mut [PollFd::new(&socket, PollFlags::OUT)],
        Some(&limit.try_into().map_err(io::Error::other)?),
    )?;
    let error = socket.take_error()?;
    let told = |error: Option<&io::Error>| error.map_or_else(|| "0".into(), name_of);
    Ok([
        told(connect.as_ref().err()),
        if ready > 0 {
            "writable"
        } else {
            "not writable"
        }
        .into(),
        told(error.as_ref()),
    ])
}

/// A port at which nobody listens, and which nobody else is given.
struct Dead {
    addr: SocketAddr,
    _bound: Socket,
}

impl Dead {
    fn new() -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        let addr = socket.local_addr()?.as_socket().expect("it is an IPv4 one");
        Ok(Self {
            addr,
            _bound: socket,
        })
    }
}

fn c31(_: Lab) -> io::Result<Outcome> {
    let (dead, full) = (Dead::new()?, Queue::full()?);
    let dials = (0..21).map(|_| timed(|| TcpStream::connect(dead.addr)));
    let (took, refused) = dials
        .min_by_key(|(took, _)| *took)
        .expect("there were some");
    let refused = refused.map_or_else(|error| name_of(&error), |_| "connected".into());
    let silent = TcpStream::connect_timeout(&full.addr, LIMIT)
        .map_or_else(|error| error.kind(), |_| ErrorKind::Other);
    let unreachable =
        in_own_network("unreachable").and_then(|mut player| Ok([player.line()?, player.line()?]));

    let at_once = refused == "ECONNREFUSED" && took * 10 < LIMIT && silent == ErrorKind::TimedOut;
    let apart = unreachable.as_ref().map_or(true, |[down, up]| {
        down == "ENETUNREACH" && (up == "ECONNREFUSED" || up == NO_IP)
    });
    let outcome = Outcome::new(Verdict::Refined.only_if(at_once && apart))
        .with(
            "nobody listens",
            format!("{refused}, after {} µs", took.as_micros()),
        )
        .with(
            "nobody answers",
            format!("{silent:?}, after the {LIMIT:?} that it was given"),
        );
    Ok(match unreachable {
        Ok([down, up]) => outcome
            .with("in a network without a route", down)
            .with("the same, and lo is up", up),
        Err(_) => outcome.note(format!("No route: NOT HERE. {NO_NETWORK}")),
    })
}

const NO_IP: &str = "NOT HERE: no `ip` to set lo up";
const NO_NETWORK: &str = "That takes a network of one's own, by unshare(1) and ip(8).";

/// Plays a part in a network namespace of its own, which has nothing but a `lo` that is down.
fn in_own_network(part: &str) -> io::Result<Player> {
    Player::run(
        Command::new("unshare")
            .arg("-Urn")
            .arg(std::env::current_exe()?)
            .args(["play", part]),
    )
}

/// Connects to where nobody listens in a network that is down, and when its `lo` is up.
fn unreachable(_: &[String]) -> io::Result<()> {
    let dead = Dead::new()?;
    let dial = || {
        TcpStream::connect_timeout(&dead.addr, PATIENCE)
            .map_or_else(|error| name_of(&error), |_| "connected".into())
    };
    println!("{}", dial());
    println!("{}", if lo_up() { dial() } else { NO_IP.into() });
    Ok(())
}

fn lo_up() -> bool {
    Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status()
        .is_ok_and(|status| status.success())
}

fn c38(_: Lab) -> io::Result<Outcome> {
    let (full, listener) = (Queue::full()?, listen()?);
    let mut reactor =
        Reactor::new(Dialer::default(), Config::default()).map_err(io::Error::other)?;
    let descriptors = || Ok::<_, io::Error>(std::fs::read_dir("/proc/self/fd")?.count());
    let before = descriptors()?;

    let begun = Instant::now();
    let turn =
        |reactor: &mut Reactor<Dialer>, limit| reactor.turn(Some(limit)).map_err(io::Error::other);
    let _ = turn(&mut reactor, Duration::ZERO)?; // it reckons from its last turn
    reactor
        .connect(full.addr, LIMIT)
        .map_err(io::Error::other)?;
    let during = (reactor.connections(), descriptors()?);
    while reactor.handler().failed.is_none() && begun.elapsed() < PATIENCE {
        let _ = turn(&mut reactor, PATIENCE)?;
    }
    let _ = turn(&mut reactor, Duration::ZERO)?;
    let took = begun.elapsed();
    let after = (reactor.connections(), descriptors()?);

    reactor
        .connect(listener.local_addr()?, LIMIT * 20)
        .map_err(io::Error::other)?;
    while !reactor.handler().open && begun.elapsed() < PATIENCE * 2 {
        let _ = turn(&mut reactor, PATIENCE)?;
    }
    let Dialer { open, failed } = reactor.handler();
    let told = failed.as_deref().unwrap_or("nothing");
    let holds = told == "TimedOut"
        && took >= LIMIT
        && during == (1, before + 1)
        && after == (0, before)
        && *open;
    Ok(Outcome::new(Verdict::reproduced_if(holds))
        .with("time limit", format!("{LIMIT:?}"))
        .with("the handler is told", format!("{told}, after {took:.0?}"))
        .with(
            "meanwhile",
            format!("{} slot, {} descriptors", during.0, during.1),
        )
        .with(
            "afterwards",
            format!("{} slots, {} descriptors", after.0, after.1),
        )
        .with(
            "a dial to one who accepts",
            if *open { "open" } else { "not open" },
        ))
}

/// Writes down what becomes of its dials.
#[derive(Default)]
struct Dialer {
    open: bool,
    failed: Option<String>,
}

impl Handler for Dialer {
    type Codec = Line;
    type State = ();
    type Mail = ();

    fn connection(&mut self, _: &Origin) -> (Line, ()) {
        (Line::default(), ())
    }

    fn open(&mut self, _: &mut Context<'_, Self>) -> Next {
        self.open = true;
        Next::Continue
    }

    fn frame(&mut self, _: &[u8], _: &mut Context<'_, Self>) -> Next {
        Next::Continue
    }

    fn close(&mut self, _: &mut Context<'_, Self>, reason: &CloseReason) {
        self.failed = Some(match reason {
            CloseReason::ConnectFailed(error) => match error.failure {
                ConnectFailure::TimedOut { .. } => "TimedOut".into(),
                ref other => other.to_string(),
            },
            other => other.to_string(),
        });
    }
}
