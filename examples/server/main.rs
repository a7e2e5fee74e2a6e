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

/// Serves the submit/ack protocol: every request is answered with one ack, in order.
///
/// There is no authentication in this protocol: listen where you trust the peers. If one of the
/// loops fails, that is logged, the others stop gracefully, and the exit code is 1. SIGINT and
/// SIGTERM stop it gracefully: no connection is accepted any more, what was read is answered and
/// sent, at most for --drain-timeout, and peers have two seconds to leave; then it exits with 0. A
/// second signal drops everything at once, and it exits with 1. SIGHUP stops nothing: there is
/// nothing to reload.
///
/// Where systemd hands over sockets (`LISTEN_FDS`), it serves on those, and on what --listen names besides.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Address to listen on, as HOST:PORT, unix:PATH or unix:@NAME (abstract, on Linux). If HOST
    /// has several addresses, it listens on all of them. Port 0 lets the system choose one, another
    /// for each address. May be given several times [default: 127.0.0.1:8888]
    #[arg(long, value_name = "ADDR")]
    listen: Vec<String>,

    /// Loops, each in a thread of its own; the system spreads the connections over them
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: u16,

    /// Share the TCP ports with other processes of the same user (`SO_REUSEPORT`), as a rolling
    /// restart wants it. The other process must have asked for it too; a server with several
    /// threads always has. Without this flag a port that another process has is refused
    #[arg(long)]
    reuse_port: bool,

    /// Silence after which the system probes a TCP peer (keepalive), in whole seconds up to 32767s,
    /// or `off`. On Linux a connection whose peer has vanished ends after twice that time, also
    /// with --idle-timeout off
    #[arg(long, value_name = "TIME|off", default_value = "60s", value_parser = keepalive)]
    keepalive: Timeout,

    /// Address of the admin page, or `off`. Accepted, but this version serves nothing there yet
    #[arg(long, value_name = "ADDR|off", default_value = "off")]
    admin: Admin,

    /// Connections open at once, in all threads together; further ones wait until one leaves
    /// [default: the limit of open files less a reserve]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_connections: Option<u32>,

    /// Longest request taken, in bytes of totalLength (13 more than its payload)
    #[arg(long, value_name = "BYTES", default_value_t = LengthField::DEFAULT_MAX, value_parser = clap::value_parser!(u32).range(Request::HEADER as i64..))]
    max_frame: u32,

    /// Bytes that unfinished requests and unread replies of all connections may take together; beyond it those with the most are closed
    #[arg(long, value_name = "BYTES", default_value_t = Config::default().buffered_high as u64, value_parser = clap::value_parser!(u64).range(1..))]
    max_buffered: u64,

    /// How long a connection may be silent in both directions, or `off`
    #[arg(long, value_name = "TIME|off", default_value = "60s")]
    idle_timeout: Timeout,

    /// How long a request may take from its first byte to its last, or `off`
    #[arg(long, value_name = "TIME|off", default_value = "10s")]
    frame_timeout: Timeout,

    /// How long a peer may take none of the replies that wait for it, or `off`
    #[arg(long, value_name = "TIME|off", default_value = "30s")]
    write_timeout: Timeout,

    /// How long a peer may take for its conn, with --require-conn, or `off`
    #[arg(long, value_name = "TIME|off", default_value = "5s")]
    handshake_timeout: Timeout,

    /// Refuse submits on a connection that did not begin with a conn: result 1, then close
    #[arg(long)]
    require_conn: bool,

    /// Command bytes of the acks: `text` is 0x81/0x82 as the course says, `source` 0x80/0x81 as its program sends
    #[arg(long, value_enum, default_value_t = Dialect::Text)]
    dialect: Dialect,

    /// How long a graceful stop may take, and how long a closing connection waits for a peer that takes no reply, or `off`
    #[arg(long, value_name = "TIME|off", default_value = "10s", value_parser = drain_timeout)]
    drain_timeout: Duration,

    /// How long a loop polls without sleeping, at most, where that pays, before it sleeps, or `off`
    #[arg(long, value_name = "TIME|off", default_value = "8us", value_parser = spin)]
    spin: Timeout,

    /// Bytes of the read buffer that the connections of a loop share; one may read as much in a turn, so with a larger one a flooder takes more of it
    #[arg(long, value_name = "BYTES", default_value_t = Config::default().scratch as u32, value_parser = clap::value_parser!(u32).range(1..=1 << 30))]
    scratch: u32,

    /// Events that a loop takes from the poller at a time
    #[arg(long, value_name = "N", default_value_t = Config::default().events_per_turn as u32, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    events: u32,

    /// Whether small replies leave at once (`TCP_NODELAY`), or the system may hold them back until earlier ones are acknowledged
    #[arg(long, value_name = "on|off", default_value = "on", value_parser = on_or_off, action = ArgAction::Set)]
    nodelay: bool,

    /// What to log on stderr: off, error, warn, info, debug (each connection's end and why), trace,
    /// or a filter such as glassloop=debug. 8192 lines wait for a slow stderr; further ones are
    /// dropped, and their number is logged
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

/// A time; none at all is allowed.
fn drain_timeout(text: &str) -> Result<Duration, String> {
    match (text, humantime::parse_duration(text)) {
        ("off", _) => Ok(Duration::MAX),
        (_, Ok(time)) => Ok(time),
        (_, Err(error)) => Err(format!(
            "{error}; a time such as 500ms or 10s is wanted, or `off`"
        )),
    }
}

/// A time that is no longer than a loop takes; none at all is `off`.
fn spin(text: &str) -> Result<Timeout, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Ok(Timeout(None)),
        Ok(time) if time > Duration::from_millis(10) => {
            Err("longer than 10ms, which is the most".to_string())
        }
        _ => text.parse(),
    }
}

/// What the system takes (tcp(7)): whole seconds.
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

/// A level for all, or `module=level`, or several of these with commas.
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
    // Not before: until here a signal ends the process at once, also while a name is looked up.
    let signals = signals::watch().map_err(|error| format!("cannot watch for signals: {error}"))?;
    let limit = Arc::new(OnceLock::new());
    let starts = listeners
        .of_loops
        .drain(..)
        .enumerate()
        .map(|(number, listeners)| {
            let (service, config, most, limit) = (
                service(args),
                config(args, number),
                args.max_connections,
                limit.clone(),
            );
            move || make_loop(service, config, listeners, most, &limit)
        });
    let loops = Loops::start(starts)?;
    let forced = signals::stop_on(signals, loops.handles().to_vec())?;
    announce(listeners.names.clone());
    if let Admin::At(addr) = args.admin {
        log::warn!("--admin {addr}: this version serves nothing there yet");
    }
    let room = limit.get().map_or(0, ConnectionLimit::max);
    log::info!(
        "room for {room} connections, requests of at most {} bytes",
        args.max_frame
    );
    let total = loops.wait();
    log::info!(
        "stopped: {} connections were accepted, {} requests taken",
        total.accepted,
        total.frames
    );
    if total.bytes_dropped > 0 {
        log::warn!(
            "{} bytes of replies were dropped, since their peers were gone or did not read",
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

/// The limits of one of the loops.
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

/// Makes a loop that accepts from these listeners, at the limit of connections that all loops
/// share.
fn make_loop(
    service: Service,
    config: Config,
    listeners: Vec<Listener>,
    most: Option<u32>,
    limit: &OnceLock<ConnectionLimit>,
) -> Result<Reactor<Service>, glassloop::Error> {
    let loops = config.loops;
    let mut reactor = Reactor::new(service, config)?;
    // Without the flag: what the limit of descriptors leaves for each loop, for all together.
    let all = || {
        most.map_or(reactor.max_connections().saturating_mul(loops), |most| {
            most as usize
        })
    };
    reactor.share_limit(limit.get_or_init(|| ConnectionLimit::new(all())));
    for listener in listeners {
        listener.give_to(&mut reactor)?;
    }
    Ok(reactor)
}

/// Prints where the server listens, on stdout: a program that started it with port 0 waits for
/// these lines. In a thread of its own, since a stdout that is not read must not keep the server
/// from stopping.
fn announce(addrs: Vec<String>) {
    let print = move || {
        let mut stdout = io::stdout();
        for addr in addrs {
            if let Err(error) =
                writeln!(stdout, "listening on {addr}").and_then(|()| stdout.flush())
            {
                log::warn!("listening on {addr}, but stdout takes no line: {error}");
            }
        }
    };
    if let Err(error) = thread::Builder::new().name("stdout".into()).spawn(print) {
        log::warn!("cannot start the thread that prints the addresses: {error}");
    }
}

/// Every connection is a file: asks for as many as the system allows this process.
fn raise_descriptor_limit() {
    #[cfg(unix)]
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        log::warn!("cannot raise the limit of open files: {error}");
    }
}
