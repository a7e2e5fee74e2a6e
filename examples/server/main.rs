//! The submit/ack server: `cargo run --release --example server -- --help`.

mod listeners;
mod logging;
mod loops;
mod session;
mod signals;
#[path = "../cli/timeout.rs"]
mod timeout;

use std::error::Error;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use clap::{ArgAction, Parser, ValueEnum};
use glassloop::codec::LengthField;
use glassloop::submit::{self, Request};
use glassloop::{Config, ConnectionLimit, Reactor};

use listeners::{Listener, Listeners, Options};
use logging::Log;
use loops::Loops;
use session::Service;
use timeout::Timeout;

/// Serves the submit/ack protocol: answers every request with one ack, in order.
///
/// The protocol has no authentication: listen only where you trust the peers.
///
/// SIGINT and SIGTERM stop the server gracefully. It accepts no more connections, answers the
/// requests that it has read, and sends the replies for at most --drain-timeout. Peers have two
/// seconds to close. Then it exits with 0. A second signal closes everything at once, and the exit
/// code is 1. SIGHUP is only logged: there is nothing to reload. If one of the loops fails, that is
/// logged, the other loops stop gracefully, and the exit code is 1.
///
/// Sockets passed by systemd (`LISTEN_FDS`) are served too. Then the default address is not.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Address to listen on: HOST:PORT, unix:PATH or unix:@NAME (abstract, Linux only). If HOST has
    /// several addresses, the server listens on all of them. With port 0 the system chooses a port
    /// for each address. May be given several times [default: 127.0.0.1:8888]
    #[arg(long, value_name = "ADDR")]
    listen: Vec<String>,

    /// Number of loops, each in a thread of its own. The system spreads connections over them
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        value_parser = clap::value_parser!(u16).range(1..=1024)
    )]
    threads: u16,

    /// Share TCP ports with other processes of the same user (`SO_REUSEPORT`), for example during a
    /// rolling restart. The other process must use `SO_REUSEPORT` too; a server with several
    /// threads always does. Without this flag, a port that another process uses is refused
    #[arg(long)]
    reuse_port: bool,

    /// Idle time after which the system probes a TCP peer (keepalive), in whole seconds up to
    /// 32767s, or `off`. On Linux, a connection to an unreachable peer ends after twice that time,
    /// also with --idle-timeout off
    #[arg(long, value_name = "TIME|off", default_value = "60s", value_parser = keepalive)]
    keepalive: Timeout,

    /// Address of the admin page, or `off`. Accepted, but not served in this version
    #[arg(long, value_name = "ADDR|off", default_value = "off")]
    admin: Admin,

    /// Maximum number of open connections, in all threads together. Further ones wait until one
    /// closes [default: the limit on open files minus a reserve]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_connections: Option<u32>,

    /// Longest accepted request, in bytes of totalLength (13 more than its payload)
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = LengthField::DEFAULT_MAX,
        value_parser = clap::value_parser!(u32).range(Request::HEADER as i64..)
    )]
    max_frame: u32,

    /// Limit on the bytes of unfinished requests and unsent replies, of all connections together.
    /// Above it, the connections that hold the most are closed
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = Config::default().buffered_high as u64,
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    max_buffered: u64,

    /// Close a connection that is idle in both directions for this time, or `off`
    #[arg(long, value_name = "TIME|off", default_value = "60s")]
    idle_timeout: Timeout,

    /// Time limit for a request from its first byte to its last, or `off`
    #[arg(long, value_name = "TIME|off", default_value = "10s")]
    frame_timeout: Timeout,

    /// Close a connection if its peer reads none of the pending replies for this time, or `off`
    #[arg(long, value_name = "TIME|off", default_value = "30s")]
    write_timeout: Timeout,

    /// Time limit for the conn, with --require-conn, or `off`
    #[arg(long, value_name = "TIME|off", default_value = "5s")]
    handshake_timeout: Timeout,

    /// Refuse a submit on a connection that did not begin with a conn: result 1, then close
    #[arg(long)]
    require_conn: bool,

    /// Command bytes of the acks: `text` is 0x81/0x82 as in the course's text, `source` is
    /// 0x80/0x81 as in its program
    #[arg(long, value_enum, default_value_t = Dialect::Text)]
    dialect: Dialect,

    /// Time limit for a graceful stop, and for a closing connection that still has unread replies,
    /// or `off`
    #[arg(long, value_name = "TIME|off", default_value = "10s", value_parser = drain_timeout)]
    drain_timeout: Duration,

    /// Longest time that a loop polls without sleeping, where that saves time, before it sleeps, or
    /// `off`
    #[arg(long, value_name = "TIME|off", default_value = "8us", value_parser = spin)]
    spin: Timeout,

    /// Bytes of the read buffer that the connections of a loop share. One connection may read as
    /// much in a turn, so a larger buffer gives a flooding peer a larger part of the turn
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = Config::default().scratch as u32,
        value_parser = clap::value_parser!(u32).range(1..=1 << 30)
    )]
    scratch: u32,

    /// Maximum number of events that a loop takes from the poller at a time
    #[arg(
        long,
        value_name = "N",
        default_value_t = Config::default().events_per_turn as u32,
        value_parser = clap::value_parser!(u32).range(1..=1 << 20)
    )]
    events: u32,

    /// With `on`, small replies are sent at once (`TCP_NODELAY`). With `off`, the system may delay
    /// them until earlier ones are acknowledged
    #[arg(
        long,
        value_name = "on|off",
        default_value = "on",
        value_parser = on_or_off,
        action = ArgAction::Set
    )]
    nodelay: bool,

    /// Level of the log on stderr: off, error, warn, info, debug (logs each closed connection with
    /// its reason), trace, or a filter such as glassloop=debug. Up to 8192 lines wait for a slow
    /// stderr. Further lines are dropped, and their number is logged
    #[arg(long, value_name = "LEVEL", default_value = "info", value_parser = log_filter)]
    log: String,
}

#[derive(Clone, Copy, ValueEnum)]
enum Dialect {
    Text,
    Source,
}

#[derive(Clone)]
enum Admin {
    Off,
    At(SocketAddr),
}

impl FromStr for Admin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Admin::Off),
            addr => addr
                .parse()
                .map(Admin::At)
                .map_err(|_| "neither `off` nor an address such as 127.0.0.1:8889".to_string()),
        }
    }
}

/// A time, which may be zero.
fn drain_timeout(text: &str) -> Result<Duration, String> {
    match (text, humantime::parse_duration(text)) {
        ("off", _) => Ok(Duration::MAX),
        (_, Ok(time)) => Ok(time),
        (_, Err(error)) => Err(format!(
            "{error}; expected a time such as 500ms or 10s, or `off`"
        )),
    }
}

/// A time within the limit of `Config::spin`; zero means `off`.
fn spin(text: &str) -> Result<Timeout, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Ok(Timeout(None)),
        Ok(time) if time > Duration::from_millis(10) => {
            Err("longer than 10ms, the maximum".to_string())
        }
        _ => text.parse(),
    }
}

/// A time that the system accepts (tcp(7)): whole seconds.
fn keepalive(text: &str) -> Result<Timeout, String> {
    match text.parse()? {
        Timeout(Some(time)) if time.subsec_nanos() > 0 || time.as_secs() > 32_767 => {
            Err("not in whole seconds from 1s to 32767s".to_string())
        }
        time => Ok(time),
    }
}

fn on_or_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("neither `on` nor `off`".to_string()),
    }
}

/// A level for all modules, `module=level`, or several of these separated by commas.
fn log_filter(text: &str) -> Result<String, String> {
    for part in text.split(',') {
        let level = part.split_once('=').map_or(part, |(_, level)| level);
        if level.parse::<log::LevelFilter>().is_err() {
            return Err(format!(
                "`{level}` is not a level (error, warn, info, debug, trace, off)"
            ));
        }
    }
    Ok(text.to_string())
}

fn main() -> ExitCode {
    let args = Args::parse();
    let mut log = Log::start(&args.log);
    let code = serve(&args).unwrap_or_else(|error| {
        log.line(format_args!("server: {error}"));
        ExitCode::FAILURE
    });
    log.finish();
    code
}

fn serve(args: &Args) -> Result<ExitCode, Box<dyn Error>> {
    raise_descriptor_limit();
    let options = Options {
        loops: args.threads.into(),
        reuse_port: args.reuse_port,
        keepalive: args.keepalive.0,
    };
    let mut listeners = Listeners::open(&args.listen, options)?;
    // Not earlier: until here a signal ends the process at once, even while a name is resolved.
    let signals = signals::watch().map_err(|error| format!("cannot watch for signals: {error}"))?;
    let limit = Arc::new(OnceLock::new());
    let starts = listeners
        .per_loop
        .drain(..)
        .enumerate()
        .map(|(number, listeners)| {
            let (service, config, max, limit) = (
                service(args),
                config(args, number),
                args.max_connections,
                limit.clone(),
            );
            move || make_loop(service, config, listeners, max, &limit)
        });
    let loops = Loops::start(starts)?;
    let forced = signals::stop_on(signals, loops.handles().to_vec())?;
    announce(listeners.names.clone());
    if let Admin::At(addr) = args.admin {
        log::warn!("--admin {addr}: not served in this version");
    }
    let room = limit.get().map_or(0, ConnectionLimit::max);
    log::info!(
        "room for {room} connections, requests of at most {} bytes",
        args.max_frame
    );
    let total = loops.wait();
    log::info!(
        "stopped: {} connections accepted, {} requests handled",
        total.accepted,
        total.frames
    );
    if total.bytes_dropped > 0 {
        log::warn!(
            "{} bytes of replies dropped: their peers closed or did not read",
            total.bytes_dropped
        );
    }
    let success = total.failed == 0 && !forced.load(Ordering::Relaxed);
    Ok(if success {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn service(args: &Args) -> Service {
    let dialect = match args.dialect {
        Dialect::Text => submit::Dialect::Text,
        Dialect::Source => submit::Dialect::Source,
    };
    Service {
        dialect,
        max_frame: args.max_frame,
        require_conn: args.require_conn,
    }
}

/// The configuration of loop `number`, with its share of the limits.
fn config(args: &Args, number: usize) -> Config {
    let loops = usize::from(args.threads);
    let share = |all: usize| all / loops + usize::from(number < all % loops);
    let buffered = share(usize::try_from(args.max_buffered).unwrap_or(usize::MAX)).max(1);
    Config {
        buffered_high: buffered,
        buffered_low: buffered - buffered / 4,
        drain_timeout: args.drain_timeout,
        events_per_turn: args.events as usize,
        frame_timeout: args.frame_timeout.0,
        handshake_timeout: args.handshake_timeout.0,
        idle_timeout: args.idle_timeout.0,
        loops,
        max_connections: args.max_connections.map(|all| share(all as usize).max(1)),
        nodelay: args.nodelay,
        scratch: args.scratch as usize,
        spin: args.spin.0.unwrap_or_default(),
        write_timeout: args.write_timeout.0,
        ..Config::default()
    }
}

/// Makes a loop that accepts from `listeners`, under the connection limit that all loops share.
fn make_loop(
    service: Service,
    config: Config,
    listeners: Vec<Listener>,
    max: Option<u32>,
    limit: &OnceLock<ConnectionLimit>,
) -> Result<Reactor<Service>, glassloop::Error> {
    let loops = config.loops;
    let mut reactor = Reactor::new(service, config)?;
    // Without the flag: the number that the descriptor limit leaves for one loop, times the loops.
    let total = || {
        max.map_or(reactor.max_connections().saturating_mul(loops), |max| {
            max as usize
        })
    };
    reactor.share_limit(limit.get_or_init(|| ConnectionLimit::new(total())));
    for listener in listeners {
        listener.add_to(&mut reactor)?;
    }
    Ok(reactor)
}

/// Prints the listening addresses to stdout: a program that starts the server with port 0 waits for
/// these lines. Prints in a thread of its own, so that a stdout that is not read cannot keep the
/// server from stopping.
fn announce(addrs: Vec<String>) {
    let print = move || {
        let mut stdout = io::stdout();
        for addr in addrs {
            if let Err(error) =
                writeln!(stdout, "listening on {addr}").and_then(|()| stdout.flush())
            {
                log::warn!("cannot print \"listening on {addr}\" to stdout: {error}");
            }
        }
    };
    if let Err(error) = thread::Builder::new().name("stdout".into()).spawn(print) {
        log::warn!("cannot start the thread that prints the addresses: {error}");
    }
}

/// Raises the limit on open files to the most that the system allows: each connection is one.
fn raise_descriptor_limit() {
    #[cfg(unix)]
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        log::warn!("cannot raise the limit on open files: {error}");
    }
}
