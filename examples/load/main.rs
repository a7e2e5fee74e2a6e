//! A load generator for submit/ack servers: one thread, one poller, every ack checked.
//!
//! `cargo run --release --example load -- --conns 100 --depth 16 --secs 3` loads the example
//! server; `… -- --help` lists all flags. The modules: `main` reads the command line, `drive` is
//! the event loop, `conn` one connection, `connector` opens connections, and `server` reads the
//! server's usage from the system.
//!
//! It has its own loop on mio, and does not use the reactor's client side. Both make the same
//! system calls, but this loop needs fewer instructions a request (counted by callgrind):
//!
//! | requests | this loop | the reactor's client |
//! |---|---|---|
//! | alone | 1,090 | 1,890 |
//! | among 128 | 89 | 630 |
//! | with 16 KiB of payload | 150 | 17,000 |
//!
//! The reactor copies each request into a write buffer. This loop keeps whole requests ready, and
//! only writes IDs into them. With a cheap client, the server is the limit, and not the client.

#![allow(clippy::cast_precision_loss, clippy::cast_sign_loss)] // printed figures, none negative

mod conn;
mod connector;
mod drive;
mod report;
mod server;
mod wire;

use std::net::{SocketAddr, ToSocketAddrs};
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, ValueEnum};

/// Puts a submit/ack server under load, and checks each of its acks.
///
/// Closed loop: each connection keeps --depth requests outstanding, and sends the next one as soon
/// as an ack comes. A server that stalls then gets fewer requests, so its latencies look better
/// than a user would find them (coordinated omission).
///
/// Open loop, with --rate: requests are due at fixed times, whatever the server does. A latency
/// counts from when its request was due, not from when it could be sent. The loop busy-polls for
/// requests due within 2 ms, so it takes a whole processor.
///
/// Latencies are those of requests sent (open loop: due) within --secs, even if their acks come
/// later. Exits with 1 if an ack is wrong, out of order or missing, or a connection ends.
#[derive(Parser)]
#[command(name = "load", version, after_long_help = JSON)]
struct Args {
    /// The server's address and port. Any address but loopback is refused without --i-own-this-host
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8888")]
    addr: String,

    /// Connections under load
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=100_000)
    )]
    conns: u32,

    /// Outstanding requests on each connection
    #[arg(
        long,
        value_name = "D",
        default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=65_536)
    )]
    depth: u32,

    /// Bytes of payload in each request, in addition to its 13 bytes of header
    #[arg(
        long,
        value_name = "B",
        default_value_t = 32,
        value_parser = clap::value_parser!(u32).range(..=16 << 20)
    )]
    payload: u32,

    /// Duration of the measurement, in seconds; at most an hour
    #[arg(long, value_name = "S", default_value = "3", value_parser = nonzero_seconds)]
    secs: Duration,

    /// Duration of the warm-up before it, in seconds
    #[arg(long, value_name = "S", default_value = "0.5", value_parser = seconds)]
    warmup: Duration,

    /// Open loop: requests a second, over all connections
    #[arg(long, value_name = "R", value_parser = rate, conflicts_with = "depth")]
    rate: Option<f64>,

    /// Further connections, which send one request each and then stay idle; about 28,000 fit on
    /// each source address 127.0.0.x
    #[arg(
        long,
        value_name = "M",
        default_value_t = 0,
        value_parser = clap::value_parser!(u32).range(..=200_000)
    )]
    idle: u32,

    /// Process ID of the server, to report its CPU time, context switches and memory (Linux)
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(i32).range(1..))]
    server_pid: Option<i32>,

    /// Fail if a connection with outstanding requests gets no ack for this long
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = timeout)]
    ack_timeout: Duration,

    /// Busy-poll: acks are read as soon as they arrive, at the cost of a whole processor
    #[arg(long)]
    spin: bool,

    /// Command bytes of the acks: `text` is 0x81/0x82, as in the course's text; `source` is
    /// 0x80/0x81, as in its program
    #[arg(long, value_enum, default_value_t = Dialect::Text)]
    dialect: Dialect,

    /// Print one JSON object instead of text, with the keys listed below
    #[arg(long)]
    json: bool,

    /// Allow another host as the target: you own it, and the network's owner agrees
    #[arg(long)]
    i_own_this_host: bool,
}

const JSON: &str = "\
JSON (--json): one object on stdout. Values in us are latencies or per request.
Unknown values are null.
  loop                      \"closed\" or \"open\"
  addr, conns, depth, payload, rate   from the flags; depth is null in the open loop,
                            rate in the closed one
  seconds                   measured time
  requests                  acks within it
  requests_per_second
  p50_us p90_us p99_us p999_us max_us mean_us   latencies
  acked_total               all acks, with those of warm-up and idle connections; all were correct
  unanswered                open loop: due requests without an ack --ack-timeout after the end;
                            the time that they have waited counts as their latency
  client_cpu                share of a processor used by the load itself; near 1 it may be the limit
  server                    null without --server-pid
    cpu_us_per_request      CPU time of all its threads
    user_us_per_request system_us_per_request   the same, split by the system's samples:
                            accurate only over seconds
    softirq_us_per_request  CPU time of the kernel's network thread on the server's processor,
                            if the server is pinned to one
    cpu                     share of a processor
    voluntary_switches_per_request involuntary_switches_per_request
    threads rss_bytes       at the end
  idle                      null without --idle
    conns
    bytes_per_connection    the server's memory for each (with --server-pid), without the kernel's
                            buffers
    closed                  how many of them the server has closed by the end
After a failure: error, and acked_total.";

/// The command bytes of acks, as in the server's flag.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Dialect {
    Text,
    Source,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| "expected a number of seconds, such as 3 or 0.5".to_string())?;
    if (0.0..=3600.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("not in 0..=3600".into())
    }
}

fn nonzero_seconds(text: &str) -> Result<Duration, String> {
    seconds(text).and_then(|time| {
        if time.is_zero() {
            Err("must be more than 0".into())
        } else {
            Ok(time)
        }
    })
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text
        .parse()
        .map_err(|_| "expected a number of requests a second".to_string())?;
    if (0.001..=1e8).contains(&rate) {
        Ok(rate)
    } else {
        Err("not in 0.001..=100,000,000".into())
    }
}

fn timeout(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text)
        .map_err(|error| format!("{error}; expected a time such as 400ms or 10s"))?;
    let range = Duration::from_millis(1)..=Duration::from_secs(3600);
    if range.contains(&time) {
        Ok(time)
    } else {
        Err("not in 1ms..=1h".into())
    }
}

/// Returns the address of the server.
///
/// A name other than `localhost` is not looked up unless other hosts are allowed, since the lookup
/// would send packets too.
fn target(args: &Args) -> Result<SocketAddr, String> {
    let is_name = args.addr.parse::<SocketAddr>().is_err();
    let is_local_name = args
        .addr
        .rsplit_once(':')
        .is_some_and(|(host, _)| host == "localhost");
    let refusal = || {
        let addr = &args.addr;
        format!(
            "{addr} is not on loopback: load floods its target, \
             so another host needs --i-own-this-host"
        )
    };
    if is_name && !is_local_name && !args.i_own_this_host {
        return Err(refusal());
    }
    let found = args.addr.to_socket_addrs().map(|mut addrs| addrs.next());
    let addr = match found {
        Ok(Some(addr)) => addr,
        Ok(None) => return Err(format!("{} has no address", args.addr)),
        Err(error) => {
            return Err(format!(
                "--addr {}: {error}; expected an address such as 127.0.0.1:8888",
                args.addr
            ));
        }
    };
    if addr.ip().is_loopback() || args.i_own_this_host {
        Ok(addr)
    } else {
        Err(refusal())
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let addr = match target(&args) {
        Ok(addr) => addr,
        Err(error) => Args::command()
            .error(ErrorKind::ValueValidation, error)
            .exit(),
    };
    match drive::run(&args, addr) {
        Ok(report) => {
            print!(
                "{}",
                if args.json {
                    report.json(&args, addr)
                } else {
                    report.text(&args, addr)
                }
            );
            ExitCode::SUCCESS
        }
        Err(drive::Failure { error, acked }) => {
            if args.json {
                println!(
                    "{}",
                    serde_json::json!({ "error": error, "acked_total": acked })
                );
            }
            eprintln!("load: {error}");
            ExitCode::FAILURE
        }
    }
}
