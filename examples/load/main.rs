//! A load generator for submit/ack servers: one thread, one poller, every ack checked.
//!
//! `cargo run --release --example load -- --conns 100 --depth 16 --secs 3` against the example server; `… -- --help` says all.
//! `main` reads the command line, `drive` is the loop, `conn` one connection, `crowd` opens them, `server` asks the system about the other side.
//!
//! It has a loop of its own, on mio, and does not run on the reactor's client side. Both make the same system calls; but counted by
//! callgrind, a request costs the client 1,090 instructions here and 1,890 there if it is alone, 89 and 630 among 128, and 150 and 17,000
//! with 16 KiB of payload: the reactor copies each request into a write buffer, where this loop keeps whole requests ready and
//! only writes IDs into them. A lean client leaves the other processor's limit to the server.

#![allow(clippy::cast_precision_loss, clippy::cast_sign_loss)] // figures for people, and none below zero

mod conn;
mod crowd;
mod drive;
mod report;
mod server;
mod wire;

use std::net::{SocketAddr, ToSocketAddrs};
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, ValueEnum};

/// Puts a submit/ack server under load, and checks each of its answers.
///
/// Closed loop: each connection keeps --depth requests under way, and sends the next one as soon as an ack comes. A server that
/// stalls is then asked less, so its latencies look better than a user would find them (coordinated omission).
///
/// Open loop, with --rate: requests are due at fixed times, whatever the server does, and a latency counts from when its request was due,
/// not from when it could be sent. The loop waits awake for what is due within 2 ms, so it takes a processor of its own.
///
/// Latencies are those of requests sent (open loop: due) within --secs, also if their acks come later.
/// Exits with 1 if an ack is wrong, out of order or missing, or a connection ends.
#[derive(Parser)]
#[command(name = "load", version, after_long_help = JSON)]
struct Args {
    /// Where the server listens: an address and a port. Anything but loopback is refused without --i-own-this-host
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8888")]
    addr: String,

    /// Connections under load
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    conns: u32,

    /// Requests under way on each of them
    #[arg(long, value_name = "D", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    depth: u32,

    /// Bytes of payload in each request, which has 13 more
    #[arg(long, value_name = "B", default_value_t = 32, value_parser = clap::value_parser!(u32).range(..=16 << 20))]
    payload: u32,

    /// How long to measure, in seconds, at most an hour
    #[arg(long, value_name = "S", default_value = "3", value_parser = some_seconds)]
    secs: Duration,

    /// How long to load the server before that, in seconds
    #[arg(long, value_name = "S", default_value = "0.5", value_parser = seconds)]
    warmup: Duration,

    /// Open loop: so many requests a second over all connections
    #[arg(long, value_name = "R", value_parser = rate, conflicts_with = "depth")]
    rate: Option<f64>,

    /// Further connections, which send one request each and then nothing; at most some 28,000 for each address in 127.0.0.x they come from
    #[arg(long, value_name = "M", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=200_000))]
    idle: u32,

    /// The server's process: its processor time, context switches and memory are reported (Linux)
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(i32).range(1..))]
    server_pid: Option<i32>,

    /// How long the server may take for any ack of a connection that waits for one
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = patience)]
    ack_timeout: Duration,

    /// Poll without sleeping: answers are seen as soon as they are there, for the price of a whole processor
    #[arg(long)]
    spin: bool,

    /// Command bytes of the acks: `text` is 0x81/0x82 as the course says, `source` 0x80/0x81 as its program sends
    #[arg(long, value_enum, default_value_t = Dialect::Text)]
    dialect: Dialect,

    /// Print one JSON object instead of text; its keys are listed below
    #[arg(long)]
    json: bool,

    /// Let the load go to another host: it is yours, and whoever pays for the network between knows
    #[arg(long)]
    i_own_this_host: bool,
}

const JSON: &str = "\
JSON (--json), one object on stdout; microseconds are per request or latencies, and what is not known is null:
  loop                      \"closed\" or \"open\"
  addr, conns, depth, payload, rate   as asked for; depth is null in the open loop, rate in the closed one
  seconds                   measured time
  requests                  acks that came within it
  requests_per_second
  p50_us p90_us p99_us p999_us max_us mean_us   latencies
  acked_total               all acks, those of warm-up and idle connections included: each was right
  unanswered                open loop: requests that were due and had no ack --ack-timeout after the end; they count with the time they have waited
  client_cpu                share of a processor that the load took itself; near 1 the client may be the limit
  server                    null without --server-pid
    cpu_us_per_request      processor time of all its threads
    user_us_per_request system_us_per_request   the same, split as the system sees it, by samples: true over seconds
    softirq_us_per_request  of the kernel's network thread on the server's processor, if the server may run on just one
    cpu                     share of a processor
    voluntary_switches_per_request involuntary_switches_per_request
    threads rss_bytes       at the end
  idle                      null without --idle
    conns
    bytes_per_connection    the server's memory for each (with --server-pid); the kernel's own buffers are not in it
    closed                  how many of them the server has closed by the end
After a failure: error, and acked_total.";

/// As the server's flag.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Dialect {
    Text,
    Source,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| "a number of seconds is wanted, such as 3 or 0.5".to_string())?;
    if (0.0..=3600.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("not in 0..=3600".into())
    }
}

fn some_seconds(text: &str) -> Result<Duration, String> {
    seconds(text).and_then(|time| {
        if time.is_zero() {
            Err("nothing is measured in no time".into())
        } else {
            Ok(time)
        }
    })
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text
        .parse()
        .map_err(|_| "a number of requests a second is wanted".to_string())?;
    if (0.001..=1e8).contains(&rate) {
        Ok(rate)
    } else {
        Err("not in 0.001..=100,000,000".into())
    }
}

fn patience(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text)
        .map_err(|error| format!("{error}; a time such as 400ms or 10s is wanted"))?;
    let range = Duration::from_millis(1)..=Duration::from_secs(3600);
    if range.contains(&time) {
        Ok(time)
    } else {
        Err("not in 1ms..=1h".into())
    }
}

/// The address to be loaded. A name other than `localhost` is not even looked up unless other hosts are allowed: that, too, would send something.
fn target(args: &Args) -> Result<SocketAddr, String> {
    let is_name = args.addr.parse::<SocketAddr>().is_err();
    let is_local_name = args
        .addr
        .rsplit_once(':')
        .is_some_and(|(host, _)| host == "localhost");
    let refusal = || {
        let addr = &args.addr;
        format!(
            "{addr} is not on loopback, and load is a flood: it goes to another host only with --i-own-this-host"
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
                "--addr {}: {error}; an address such as 127.0.0.1:8888 is wanted",
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
