//! Connecting: C30 to C38.

mod backlog;
mod silence;

use std::fmt;
use std::fs;
use std::process::Command;

use glassloop::{Config, Reactor};
use rustix::event::{PollFd, PollFlags};

use super::lines::Lines;
use super::parts::{Part, Player};
use super::prelude::*;
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

/// How long a connect waits that gets no answer.
const LIMIT: Duration = Duration::from_millis(200);

fn c30(_: Lab) -> io::Result<Outcome> {
    let (listener, dead, full) = (listen()?, socket(0, 0)?, Queue::full()?);
    let alive = dial(listener.local_addr()?, PATIENCE)?;
    let refused = dial(bind(&dead)?, PATIENCE)?; // bound, and not listening
    let silent = dial(full.addr, LIMIT)?;

    let (took, timeout) = timed(|| TcpStream::connect_timeout(&full.addr, LIMIT).map(drop));
    let blocking = socket(0, 0)?;
    blocking.set_write_timeout(Some(LIMIT))?;
    let (blocked, bounded) = timed(|| blocking.connect(&full.addr.into()));

    let known = [
        (&alive, true, "0"),
        (&refused, true, "ECONNREFUSED"),
        (&silent, false, "0"),
    ];
    let decided = known.iter().all(|(dialed, writable, error)| {
        dialed.connect == "EINPROGRESS" && dialed.writable == *writable && dialed.error == *error
    });
    let timed_out = timeout
        .as_ref()
        .is_err_and(|error| error.kind() == ErrorKind::TimedOut);
    let blocks = blocked >= LIMIT && error_or(&bounded, "") == "EINPROGRESS";
    let [alive, refused, silent] = [alive, refused, silent].map(|dialed| dialed.to_string());
    let values = values![
        alive,
        refused,
        silent,
        limit = LIMIT,
        bounded,
        blocked,
        timeout,
        took
    ];
    Verdict::reproduced_if(decided && blocks && timed_out && took >= LIMIT).measured(values)
}

/// The results of a non-blocking connect: of `connect`, of `poll`, and of `SO_ERROR`.
struct Dialed {
    connect: String,
    writable: bool,
    error: String,
}

impl fmt::Display for Dialed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            connect,
            writable,
            error,
        } = self;
        let poll = if *writable {
            "writable"
        } else {
            "not writable"
        };
        write!(f, "connect: {connect}; poll: {poll}; SO_ERROR: {error}")
    }
}

/// Connects without blocking, and waits this long for the result.
fn dial(addr: SocketAddr, limit: Duration) -> io::Result<Dialed> {
    let socket = socket(0, 0)?;
    socket.set_nonblocking(true)?;
    let connect = error_or(&socket.connect(&addr.into()), "0");
    let limit = limit.try_into().map_err(io::Error::other)?;
    let ready = rustix::event::poll(&mut [PollFd::new(&socket, PollFlags::OUT)], Some(&limit))?;
    Ok(Dialed {
        connect,
        writable: ready > 0,
        error: socket
            .take_error()?
            .as_ref()
            .map_or_else(|| "0".into(), name_of),
    })
}

fn c31(_: Lab) -> io::Result<Outcome> {
    let (dead, full) = (socket(0, 0)?, Queue::full()?);
    let addr = bind(&dead)?;
    let dials = (0..21).map(|_| timed(|| TcpStream::connect(addr)));
    let (took, refused) = dials
        .min_by_key(|(took, _)| *took)
        .expect("there were some");
    let refused = error_or(&refused, "connected");
    let silent = TcpStream::connect_timeout(&full.addr, LIMIT);
    let silent = silent.map_or_else(|error| format!("{:?}", error.kind()), |_| "none".into());
    let elsewhere = in_own_network("unreachable");
    let [down, up] = match elsewhere.and_then(|mut player| Ok([player.line()?, player.line()?])) {
        Ok(lines) => lines.map(Some),
        Err(_) => [None, None],
    };

    let at_once = refused == "ECONNREFUSED" && took * 10 < LIMIT && silent == "TimedOut";
    let apart = down.as_ref().is_none_or(|down| down == "ENETUNREACH")
        && up
            .as_ref()
            .is_none_or(|up| up == "ECONNREFUSED" || up == NO_IP);
    let note = match down {
        Some(_) => String::new(),
        None => format!("No route: NOT HERE. {NO_NETWORK}"),
    };
    let verdict = Verdict::Refined.only_if(at_once && apart);
    let values = values![refused, took, silent, limit = LIMIT, down, up];
    Ok(Outcome::new(verdict, values).note(note))
}

const NO_IP: &str = "NOT HERE: no `ip` to set lo up";
const NO_NETWORK: &str = "It takes a network namespace, by unshare(1) and ip(8).";

/// Plays a part in its own network namespace, which has only a `lo` that is down.
fn in_own_network(part: &str) -> io::Result<Player> {
    let own = std::env::current_exe()?;
    Player::run(
        Command::new("unshare")
            .arg("-Urn")
            .arg(own)
            .args(["play", part]),
    )
}

/// Connects to a port without a listener: in a network that is down, and when its `lo` is up.
fn unreachable(_: &[String]) -> io::Result<()> {
    let dead = socket(0, 0)?;
    let addr = bind(&dead)?;
    let dial = || error_or(&TcpStream::connect_timeout(&addr, PATIENCE), "connected");
    println!("{}", dial());
    println!("{}", if lo_up() { dial() } else { NO_IP.into() });
    Ok(())
}

fn lo_up() -> bool {
    let status = Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status();
    status.is_ok_and(|status| status.success())
}

fn c38(_: Lab) -> io::Result<Outcome> {
    let (full, listener) = (Queue::full()?, listen()?);
    let mut reactor = Reactor::new(Lines::new(()), Config::default())?;
    let descriptors = || io::Result::Ok(fs::read_dir("/proc/self/fd")?.count());
    let before = descriptors()?;

    let begun = Instant::now();
    let _ = reactor.turn(Some(Duration::ZERO))?; // a deadline counts from the last turn
    reactor.connect(full.addr, LIMIT)?;
    let (slots, descriptors_during) = (reactor.connections(), descriptors()?);
    while reactor.handler().ended.is_none() && begun.elapsed() < PATIENCE {
        let _ = reactor.turn(Some(PATIENCE))?;
    }
    let _ = reactor.turn(Some(Duration::ZERO))?;
    let took = begun.elapsed();
    let (slots_after, descriptors_after) = (reactor.connections(), descriptors()?);

    reactor.connect(listener.local_addr()?, LIMIT * 20)?;
    while reactor.handler().id.is_none() && begun.elapsed() < PATIENCE * 2 {
        let _ = reactor.turn(Some(PATIENCE))?;
    }
    let open = reactor.handler().id.is_some();
    let told = reactor.handler().ended.clone().unwrap_or_default();
    let during = (slots, descriptors_during) == (1, before + 1);
    let after = (slots_after, descriptors_after) == (0, before);
    let timed_out = told.contains("no answer within") && took >= LIMIT;
    Verdict::reproduced_if(timed_out && during && after && open).measured(values![
        limit = LIMIT,
        told,
        took,
        slots,
        descriptors = descriptors_during,
        slots_after,
        descriptors_after,
        open
    ])
}
