//! The course's client: each of its connections submits at an interval, and every ack is printed
//! and checked.

#[path = "cli/stream.rs"]
mod stream;
#[path = "cli/timeout.rs"]
mod timeout;

use std::error::Error;
use std::net::{SocketAddr, ToSocketAddrs};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use glassloop::submit::{self, Ack, ClientCodec, Id, Kind, Outcome, Request};
use glassloop::{
    CloseReason, Config, Context, Direction, Handler, Origin, Reactor, TimerId, Turn, Verdict,
};

use timeout::Timeout;

/// Sends requests to a submit/ack server and checks its acks.
///
/// Each connection sends one request, waits for its ack, and sends the next request when the
/// interval is over. The client ends when all connections have closed. It exits with 1 if a
/// connection failed, or if an ack was late, missing or wrong.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Address of the server; if a name has several addresses, they are tried in turn
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8888", value_parser = resolve)]
    addr: Addrs,

    /// Connections to open
    #[arg(
        long,
        value_name = "N",
        default_value_t = 5,
        value_parser = clap::value_parser!(u16).range(1..)
    )]
    conns: u16,

    /// Submits to send on each connection
    #[arg(
        long,
        value_name = "N",
        default_value_t = 10,
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    count: u64,

    /// Minimum time between two submits of a connection, for example 0s, 20ms or 1s
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    interval: Duration,

    /// Time limit for a connection to be established; with `off`, the system's own limit
    #[arg(long, value_name = "TIME|off", default_value = "10s")]
    connect_timeout: Timeout,

    /// Time limit for each ack, or `off`
    #[arg(long, value_name = "TIME|off", default_value = "10s")]
    ack_timeout: Timeout,

    /// Command bytes of the acks: `text` is 0x81/0x82 as in the course's text, `source` is
    /// 0x80/0x81 as in its program
    #[arg(long, value_enum, default_value_t = Dialect::Text)]
    dialect: Dialect,

    /// Begin each connection with a conn, for servers that require one
    #[arg(long)]
    conn: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Dialect {
    Text,
    Source,
}

/// The addresses that a name has.
#[derive(Clone)]
struct Addrs(Vec<SocketAddr>);

fn resolve(text: &str) -> Result<Addrs, String> {
    let addrs = text.to_socket_addrs().map(|addrs| Addrs(addrs.collect()));
    addrs.map_err(|error| {
        format!("{error}; expected an address such as 127.0.0.1:8888 or localhost:8888")
    })
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if interval > Duration::from_secs(24 * 60 * 60) {
        Err("at most a day".into())
    } else {
        Ok(interval)
    }
}

/// The handler of all the client's connections.
struct Client {
    args: Args,
    started: Instant,
    /// Connections opened so far; numbers the next one.
    opened: usize,
    acked: u64,
    closed: usize,
    /// A line for each connection that failed.
    failures: Vec<String>,
}

/// The state of one connection.
struct Session {
    number: usize,
    /// The request that waits for its ack.
    pending: Option<(Kind, Id)>,
    submitted: u64,
    acked: u64,
    /// Whether an ack was wrong or late.
    failed: bool,
    /// The earliest time of the next submit.
    next: Instant,
}

impl Client {
    /// Sends one request and sets the deadline of its ack.
    fn request(&self, cx: &mut Context<'_, Self>, kind: Kind, id: Id, payload: &str) -> Verdict {
        cx.state().pending = Some((kind, id));
        cx.set_read_deadline(
            self.args
                .ack_timeout
                .0
                .and_then(|time| cx.now().checked_add(time)),
        );
        cx.send(Request {
            kind,
            id,
            payload: payload.as_bytes(),
        });
        Verdict::Continue
    }

    /// Sends the next submit of a connection.
    fn submit(&mut self, cx: &mut Context<'_, Self>) -> Verdict {
        let now = cx.now();
        let session = cx.state();
        session.submitted += 1;
        let (number, id) = (session.number, Id::nth(session.submitted));
        let payload = payload();
        print_line(&format!("conn {number}: submit {id} {payload:?}"));
        session.next = now + self.args.interval;
        self.request(cx, Kind::Submit, id, &payload)
    }
}

impl Handler for Client {
    type Codec = ClientCodec;
    type State = Session;
    type Mail = ();

    fn connection(&mut self, _: &Origin) -> (ClientCodec, Session) {
        self.opened += 1;
        let dialect = match self.args.dialect {
            Dialect::Text => submit::Dialect::Text,
            Dialect::Source => submit::Dialect::Source,
        };
        (
            ClientCodec::new(dialect),
            Session {
                number: self.opened,
                pending: None,
                submitted: 0,
                acked: 0,
                failed: false,
                next: self.started,
            },
        )
    }

    fn open(&mut self, cx: &mut Context<'_, Self>) -> Verdict {
        if self.args.conn {
            self.request(cx, Kind::Conn, Id::nth(0), "hello")
        } else {
            self.submit(cx)
        }
    }

    fn frame(&mut self, ack: Ack, cx: &mut Context<'_, Self>) -> Verdict {
        let id = cx.id();
        let session = cx.state();
        let number = session.number;
        let next = session.next;
        let result = if ack.outcome == Outcome::Done {
            "ok"
        } else {
            "failed"
        };
        print_line(&format!(
            "conn {number}: {} {} {result}",
            name(ack.kind),
            ack.id
        ));
        let expected = session.pending.take();
        if expected != Some((ack.kind, ack.id)) || ack.outcome != Outcome::Done {
            session.failed = true;
            let expected = expected.map_or("none".into(), |(kind, id)| {
                format!("{} {id} ok", name(kind))
            });
            let hint = if ack.outcome == Outcome::Failed && !self.args.conn {
                "; use --conn if the server requires a conn"
            } else {
                ""
            };
            self.failures.push(format!(
                "conn {number}: wrong ack: {} {} {result}, expected {expected}{hint}",
                name(ack.kind),
                ack.id
            ));
            return Verdict::Close;
        }
        if ack.kind == Kind::Submit {
            session.acked += 1;
            self.acked += 1;
        }
        let progress = (session.acked == self.args.count, session.submitted);
        cx.set_read_deadline(None);
        match progress {
            (true, _) => {
                // After the batch, so that an unexpected ack in it is still checked.
                cx.close(id);
                Verdict::Continue
            }
            (false, 0) => self.submit(cx), // the conn was answered
            (false, _) => {
                cx.set_timer(next);
                Verdict::Continue
            }
        }
    }

    fn timer(&mut self, _: TimerId, cx: &mut Context<'_, Self>) -> Verdict {
        self.submit(cx)
    }

    fn deadline(&mut self, _: Direction, cx: &mut Context<'_, Self>) -> Verdict {
        let session = cx.state();
        session.failed = true;
        let pending = session
            .pending
            .map_or("any".into(), |(kind, id)| format!("{} {id}", name(kind)));
        let time = self.args.ack_timeout.0.unwrap_or_default();
        self.failures.push(format!(
            "conn {}: no {pending} within {}",
            session.number,
            humantime::format_duration(time)
        ));
        Verdict::Abort
    }

    fn close(&mut self, cx: &mut Context<'_, Self>, reason: &CloseReason) {
        let Session {
            number,
            acked,
            failed,
            ..
        } = *cx.state();
        self.closed += 1;
        if acked < self.args.count && !failed {
            let hint = match reason.protocol() {
                Some(submit::Error::UnknownCommand { .. }) => {
                    "; the server may use the other --dialect"
                }
                _ => "",
            };
            self.failures.push(format!(
                "conn {number}: {acked} of {} acks received, then: {reason}{hint}",
                self.args.count
            ));
        }
    }
}

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Conn => "connack",
        Kind::Submit => "submitack",
    }
}

/// Prints a line. Ends the program if stdout cannot be written, since no result would be visible.
fn print_line(line: &str) {
    if let Err(error) = stream::print(format_args!("{line}\n")) {
        stream::print_error(format_args!("client: cannot write to stdout: {error}"));
        std::process::exit(1);
    }
}

/// A random payload of a few readable words.
fn payload() -> String {
    const ADJECTIVES: [&str; 8] = [
        "brave", "calm", "eager", "gentle", "jolly", "quick", "quiet", "wise",
    ];
    const ANIMALS: [&str; 8] = [
        "badger", "crane", "gopher", "heron", "otter", "panda", "swift", "tiger",
    ];
    const PLACES: [&str; 4] = [
        "by the river",
        "in the loop",
        "on the wire",
        "under the slab",
    ];
    let pick = |words: &[&'static str]| words[fastrand::usize(..words.len())];
    format!("{} {} {}", pick(&ADJECTIVES), pick(&ANIMALS), pick(&PLACES))
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            stream::print_error(format_args!("client: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<ExitCode, Box<dyn Error>> {
    let (addrs, conns, count, connect_timeout) = (
        args.addr.clone(),
        args.conns,
        args.count,
        args.connect_timeout.0,
    );
    let client = Client {
        args,
        started: Instant::now(),
        opened: 0,
        acked: 0,
        closed: 0,
        failures: Vec::new(),
    };
    // A connection is idle between two submits, however long the interval is.
    let mut reactor = Reactor::new(
        client,
        Config {
            idle_timeout: None,
            ..Config::default()
        },
    )?;
    for _ in 0..conns {
        reactor.connect(&addrs.0[..], connect_timeout.unwrap_or(Duration::MAX))?;
    }
    while reactor.handler().closed < usize::from(conns) {
        if reactor.turn(None)? == Turn::Stopped {
            break;
        }
    }
    let client = reactor.handler();
    print_line(&format!(
        "{} of {} acks",
        client.acked,
        count.saturating_mul(conns.into())
    ));
    for failure in &client.failures {
        stream::print_error(format_args!("client: {failure}"));
    }
    Ok(if client.failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
