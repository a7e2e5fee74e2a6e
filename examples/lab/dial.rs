//! Connecting: C30 to C38.

mod backlog;
mod silence;

use super::prelude::*;
use std::net::Ipv4Addr;
use std::process::Command;

use glassloop::codec::Line;
use glassloop::{
    CloseReason, Config, ConnectFailure, Context, Handler, Origin, Reactor, Verdict as Next,
};
use rustix::event::{PollFd, PollFlags};
use socket2::{Domain, Socket, Type};

use super::parts::{Part, Player};
use backlog::Queue;

pub(crate) const RUNS: &[(&str, Run)] = &[
    ("C30", c30),
    ("C31", c31),
    ("C32", backlog::c32),
    ("C33", backlog::c33),
    ("C34", backlog::c34),
    ("C36", silence::c36),
    ("C37", silence::c37),
    ("C38", c38),
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
    Verdict::reproduced_if(succeeds && fails && waits && blocks && times_out).measured(values![
        alive = steps(alive),
        refused = steps(refused),
        silent = steps(silent),
        limit = format!("{:?}", LIMIT),
        bounded = told(bounded.err()),
        blocked,
        timeout = told(timeout.err()),
        took
    ])
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
    let outcome = Outcome::new(
        Verdict::Refined.only_if(at_once && apart),
        values![
            refused,
            took,
            silent = format!("{:?}", silent),
            limit = format!("{:?}", LIMIT)
        ],
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
    Verdict::reproduced_if(holds).measured(values![
        limit = format!("{:?}", LIMIT),
        told,
        took,
        slots = during.0,
        descriptors = during.1,
        slots_after = after.0,
        descriptors_after = after.1,
        open = *open
    ])
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
