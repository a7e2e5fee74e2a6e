//! The submit/ack server: `cargo run --release --example server -- --help`.

mod session;

use std::error::Error;
use std::io::{self, ErrorKind, Write};
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::{Parser, ValueEnum};
#[cfg(unix)]
use glassloop::Stop;
use glassloop::submit::{self, HEADER};
use glassloop::{Config, Handle, Reactor};
use socket2::{Domain, Socket, Type};

use session::Service;

/// Serves the submit/ack protocol: every request is answered with one ack, in order.
///
/// There is no authentication in this protocol: listen where you trust the peers.
/// SIGINT and SIGTERM stop it gracefully: nobody new is accepted, what was read is answered and
/// sent, at most for --drain-timeout, and peers have two seconds to leave; then it exits with 0.
/// A second signal drops everything at once, and it exits with 1.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Address to listen on, as HOST:PORT; port 0 lets the system choose one. May be given several times
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8888")]
    listen: Vec<String>,

    /// Address of the admin page, or `off`. Accepted, but this version serves nothing there yet
    #[arg(long, value_name = "ADDR|off", default_value = "off")]
    admin: Admin,

    /// Connections open at once; further ones wait until one leaves [default: the limit of open files less 64]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_connections: Option<u32>,

    /// Longest request taken, in bytes of totalLength (13 more than its payload)
    #[arg(long, value_name = "BYTES", default_value_t = glassloop::config::MAX_FRAME as u32, value_parser = clap::value_parser!(u32).range(HEADER as i64..))]
    max_frame: u32,

    /// Refuse submits on a connection that did not begin with a conn: result 1, then close
    #[arg(long)]
    require_conn: bool,

    /// Command bytes of the acks: `text` is 0x81/0x82 as the course says, `source` 0x80/0x81 as its program sends
    #[arg(long, value_enum, default_value_t = Dialect::Text)]
    dialect: Dialect,

    /// How long a graceful stop may take, and how long a closing connection waits for a peer that takes no reply: 500ms, 10s
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    drain_timeout: Duration,

    /// What to log on stderr: off, error, warn, info, debug (each connection's end and why), trace, or a filter such as glassloop=debug
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
            addr => addr.parse().map(Admin::At).map_err(|_| "neither `off` nor an address such as 127.0.0.1:8889".to_string()),
        }
    }
}

/// A level for all, or `module=level`, or several of these with commas.
fn log_filter(text: &str) -> Result<String, String> {
    for part in text.split(',') {
        let level = part.split_once('=').map_or(part, |(_, level)| level);
        if level.parse::<log::LevelFilter>().is_err() {
            return Err(format!("`{level}` is not a level (error, warn, info, debug, trace, off)"));
        }
    }
    Ok(text.to_string())
}

fn main() -> ExitCode {
    let args = Args::parse();
    env_logger::Builder::new().parse_filters(&args.log).init();
    match serve(&args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("server: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(args: &Args) -> Result<ExitCode, Box<dyn Error>> {
    raise_descriptor_limit();
    let service = Service {
        dialect: match args.dialect {
            Dialect::Text => submit::Dialect::Text,
            Dialect::Source => submit::Dialect::Source,
        },
        max_frame: args.max_frame,
        require_conn: args.require_conn,
    };
    let config =
        Config { max_connections: args.max_connections.map(|n| n as usize), drain_timeout: args.drain_timeout, ..Config::default() };
    let mut reactor = Reactor::new(service, config)?;
    // Before anybody is told that it is there, it can be stopped.
    let forced = stop_on_signals(reactor.handle()).map_err(|error| format!("cannot watch for signals: {error}"))?;
    for addr in &args.listen {
        reactor.listen_on(listen(addr)?)?;
    }
    reactor.local_addrs().into_iter().for_each(announce);
    if let Admin::At(addr) = args.admin {
        log::warn!("--admin {addr}: this version serves nothing there yet");
    }
    log::info!("room for {} connections, requests of at most {} bytes", reactor.max_connections(), args.max_frame);

    reactor.run()?;
    let counters = reactor.counters();
    log::info!("stopped: {} connections were accepted, {} requests taken", counters.accepted, counters.frames);
    if counters.bytes_dropped > 0 {
        log::warn!("{} bytes of replies were dropped, since their peers were gone or did not read", counters.bytes_dropped);
    }
    Ok(if forced.load(Ordering::Relaxed) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Makes the listener itself, for a longer backlog than std's.
fn listen(text: &str) -> Result<TcpListener, String> {
    /// Connections that may wait to be accepted; the system cuts it to its own limit (`net.core.somaxconn` on Linux).
    const BACKLOG: i32 = 4096;

    let addr = text.to_socket_addrs().ok().and_then(|mut addrs| addrs.next());
    let Some(addr) = addr else {
        return Err(format!("cannot listen on {text}: not an address with a port, such as 127.0.0.1:8888, [::1]:8888 or localhost:8888"));
    };
    let open = || {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
        // On Unix: so that a restarted server need not wait for its predecessor's connections to fade. Elsewhere it would share the port.
        #[cfg(unix)]
        socket.set_reuse_address(true)?;
        socket.bind(&addr.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    open().map_err(|error: io::Error| match error.kind() {
        ErrorKind::AddrInUse => format!(
            "cannot listen on {addr}: address already in use; stop the program that has it (`ss -ltnp` names it), or choose another with --listen"
        ),
        ErrorKind::AddrNotAvailable => format!("cannot listen on {addr}: this machine has no such address; choose another with --listen"),
        ErrorKind::PermissionDenied => {
            format!("cannot listen on {addr}: permission denied; ports below 1024 are for the administrator, choose another with --listen")
        }
        _ => format!("cannot listen on {addr}: {error}"),
    })
}

/// Says where it listens, on stdout, at once: whoever started it with port 0 waits for this line.
fn announce(addr: SocketAddr) {
    let mut stdout = io::stdout();
    if let Err(error) = writeln!(stdout, "listening on {addr}").and_then(|()| stdout.flush()) {
        log::warn!("listening on {addr}, but stdout takes no line: {error}");
    }
}

/// Every connection is a file: asks for as many as the system allows this process.
fn raise_descriptor_limit() {
    #[cfg(unix)]
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        log::warn!("cannot raise the limit of open files: {error}");
    }
}

/// Lets the first signal stop the loop gracefully and the second one at once; tells later whether it came to that.
#[cfg(unix)]
fn stop_on_signals(handle: Handle) -> io::Result<Arc<AtomicBool>> {
    use signal_hook::consts::{SIGINT, SIGTERM};

    let forced = Arc::new(AtomicBool::new(false));
    let told = forced.clone();
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        let mut how = Stop::Gracefully;
        for signal in &mut signals {
            let name = if signal == SIGINT { "SIGINT" } else { "SIGTERM" };
            match how {
                Stop::Gracefully => log::info!("{name}: answering what was read, then stopping; once more to stop at once"),
                Stop::AtOnce => {
                    log::warn!("{name} again: stopping at once");
                    told.store(true, Ordering::Relaxed);
                }
            }
            handle.stop(how);
            how = Stop::AtOnce;
        }
    })?;
    Ok(forced)
}

#[cfg(not(unix))]
fn stop_on_signals(_: Handle) -> io::Result<Arc<AtomicBool>> {
    Ok(Arc::default()) // the system ends the process
}
