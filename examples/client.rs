//! The course's client: some connections, each submitting now and then, every ack printed and checked.

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

/// Talks to a submit/ack server and checks its answers.
///
/// Each connection sends one request, waits for its ack, and sends the next when the interval is
/// over. Exits with 1 if a connection fails, or if an ack is late, missing or wrong, once all connections have ended.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Where the server listens; if a name has several addresses they are tried in turn
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8888", value_parser = resolve)]
    addr: Addrs,

    /// Connections to open
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    conns: u16,

    /// Submits to send on each
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,

    /// Least time between two submits of a connection, for instance 0s, 20ms or 1s
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    interval: Duration,

    /// How long a connection may take to be established, or `off` for as long as the system tries
    #[arg(long, value_name = "TIME|off", default_value = "10s")]
    connect_timeout: Timeout,

    /// How long the server may take for an ack, or `off`
    #[arg(long, value_name = "TIME|off", default_value = "10s")]
    ack_timeout: Timeout,

    /// Command bytes of the acks: `text` is 0x81/0x82 as the course says, `source` 0x80/0x81 as its program sends
    #[arg(long, value_enum, default_value_t = Dialect::Text)]
    dialect: Dialect,

    /// Begin each connection with a conn, for servers that want one
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
        format!("{error}; an address such as 127.0.0.1:8888 or localhost:8888 is wanted")
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

/// All the client's connections.
struct Client {
    args: Args,
    started: Instant,
    /// Connections made so far, for their numbers.
    made: usize,
    acked: u64,
    /// Connections that are over.
    ended: usize,
    /// What went wrong.
    failures: Vec<String>,
}

/// One connection.
struct Talk {
    number: usize,
    /// The request that waits for its ack.
    waits: Option<(Kind, Id)>,
    submitted: u64,
    acked: u64,
    /// Whether an ack was wrong.
    failed: bool,
    /// Before then it may not submit again.
    next: Instant,
}

impl Client {
    /// Sends one request, and gives its ack a deadline.
    fn request(&self, cx: &mut Context<'_, Self>, kind: Kind, id: Id, payload: &str) -> Verdict {
        cx.state().waits = Some((kind, id));
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
        let talk = cx.state();
        talk.submitted += 1;
        let (number, id) = (talk.number, Id::nth(talk.submitted));
        let payload = payload();
        say(&format!("conn {number}: submit {id} {payload:?}"));
        talk.next = now + self.args.interval;
        self.request(cx, Kind::Submit, id, &payload)
    }
}

impl Handler for Client {
    type Codec = ClientCodec;
    type State = Talk;
    type Mail = ();

    fn connection(&mut self, _: &Origin) -> (ClientCodec, Talk) {
        self.made += 1;
        let dialect = match self.args.dialect {
            Dialect::Text => submit::Dialect::Text,
            Dialect::Source => submit::Dialect::Source,
        };
        (
            ClientCodec::new(dialect),
            Talk {
                number: self.made,
                waits: None,
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
        let talk = cx.state();
        let number = talk.number;
        let next = talk.next;
        let result = if ack.outcome == Outcome::Done {
            "ok"
        } else {
            "failed"
        };
        say(&format!(
            "conn {number}: {} {} {result}",
            name(ack.kind),
            ack.id
        ));
        let wanted = talk.waits.take();
        if wanted != Some((ack.kind, ack.id)) || ack.outcome != Outcome::Done {
            talk.failed = true;
            let wanted = wanted.map_or("none".into(), |(kind, id)| {
                format!("{} {id} ok", name(kind))
            });
            let hint = if ack.outcome == Outcome::Failed && !self.args.conn {
                "; a server that requires a conn wants --conn"
            } else {
                ""
            };
            self.failures.push(format!(
                "conn {number}: wrong ack: {} {} {result}, expected {wanted}{hint}",
                name(ack.kind),
                ack.id
            ));
            return Verdict::Close;
        }
        if ack.kind == Kind::Submit {
            talk.acked += 1;
            self.acked += 1;
        }
        let progress = (talk.acked == self.args.count, talk.submitted);
        cx.set_read_deadline(None);
        match progress {
            (true, _) => {
                cx.close(id); // after the batch: if there is one ack too many in it, it shall be seen
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
        let talk = cx.state();
        talk.failed = true;
        let waits = talk
            .waits
            .map_or("any".into(), |(kind, id)| format!("{} {id}", name(kind)));
        let time = self.args.ack_timeout.0.unwrap_or_default();
        self.failures.push(format!(
            "conn {}: no {waits} within {}",
            talk.number,
            humantime::format_duration(time)
        ));
        Verdict::Abort
    }

    fn close(&mut self, cx: &mut Context<'_, Self>, reason: &CloseReason) {
        let Talk {
            number,
            acked,
            failed,
            ..
        } = *cx.state();
        self.ended += 1;
        if acked < self.args.count && !failed {
            let hint = match reason.protocol() {
                Some(submit::Error::UnknownCommand { .. }) => {
                    "; perhaps it speaks the other --dialect"
                }
                _ => "",
            };
            self.failures.push(format!(
                "conn {number}: {acked} of {} acks came, then: {reason}{hint}",
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

/// Prints a line. A stdout that takes no line ends the program: nothing would see its results.
fn say(line: &str) {
    if let Err(error) = stream::print(format_args!("{line}\n")) {
        stream::complain(format_args!("client: stdout takes no line: {error}"));
        std::process::exit(1);
    }
}

/// A few readable words.
fn payload() -> String {
    const HOW: [&str; 8] = [
        "brave", "calm", "eager", "gentle", "jolly", "quick", "quiet", "wise",
    ];
    const WHO: [&str; 8] = [
        "badger", "crane", "gopher", "heron", "otter", "panda", "swift", "tiger",
    ];
    const WHERE: [&str; 4] = [
        "by the river",
        "in the loop",
        "on the wire",
        "under the slab",
    ];
    let pick = |words: &[&'static str]| words[fastrand::usize(..words.len())];
    format!("{} {} {}", pick(&HOW), pick(&WHO), pick(&WHERE))
}

fn main() -> ExitCode {
    match talk(Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            stream::complain(format_args!("client: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn talk(args: Args) -> Result<ExitCode, Box<dyn Error>> {
    let (addrs, conns, count, patience) = (
        args.addr.clone(),
        args.conns,
        args.count,
        args.connect_timeout.0,
    );
    let client = Client {
        args,
        started: Instant::now(),
        made: 0,
        acked: 0,
        ended: 0,
        failures: Vec::new(),
    };
    // Between two submits it is silent for as long as the interval says.
    let mut reactor = Reactor::new(
        client,
        Config {
            idle_timeout: None,
            ..Config::default()
        },
    )?;
    for _ in 0..conns {
        reactor.connect(&addrs.0[..], patience.unwrap_or(Duration::MAX))?;
    }
    while reactor.handler().ended < usize::from(conns) {
        if reactor.turn(None)? == Turn::Stopped {
            break;
        }
    }
    let client = reactor.handler();
    say(&format!(
        "{} of {} acks",
        client.acked,
        count.saturating_mul(conns.into())
    ));
    for failure in &client.failures {
        stream::complain(format_args!("client: {failure}"));
    }
    Ok(if client.failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
