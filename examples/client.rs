//! The course's client: some connections, each submitting now and then, every ack printed and checked.

use std::collections::BTreeSet;
use std::error::Error;
use std::io::{self, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use glassloop::submit::{self, Ack, ClientCodec, Id, Kind, Outcome, Request};
use glassloop::{CloseReason, Config, ConnectionId, Context, Handler, Origin, Reactor, Turn, Verdict};

/// Talks to a submit/ack server and checks its answers.
///
/// Each connection sends one request, waits for its ack, and sends the next when the interval is
/// over. Exits with 1 if an ack is missing or wrong, once the connections have ended: a server
/// that stays silent is waited for, as long as it takes.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Where the server listens
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8888", value_parser = resolve)]
    addr: SocketAddr,

    /// Connections to open
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    conns: u16,

    /// Submits to send on each
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,

    /// Least time between two submits of a connection, for instance 0s, 20ms or 1s
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    interval: Duration,

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

fn resolve(text: &str) -> Result<SocketAddr, String> {
    let addr = text.to_socket_addrs().ok().and_then(|mut addrs| addrs.next());
    addr.ok_or_else(|| "not an address such as 127.0.0.1:8888".to_string())
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if interval > Duration::from_secs(24 * 60 * 60) { Err("at most a day".into()) } else { Ok(interval) }
}

/// All the client's connections.
struct Client {
    args: Args,
    started: Instant,
    /// Connections made so far, for their numbers.
    made: usize,
    /// Whose turn it is to submit, and when.
    due: BTreeSet<(Instant, ConnectionId)>,
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
    /// Sends one request.
    fn request(cx: &mut Context<'_, Self>, kind: Kind, id: Id, payload: &str) -> Verdict {
        cx.state().waits = Some((kind, id));
        cx.send(Request { kind, id, payload: payload.as_bytes() });
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
        Self::request(cx, Kind::Submit, id, &payload)
    }

    /// Takes out a connection whose time has come.
    fn take_due(&mut self, now: Instant) -> Option<ConnectionId> {
        self.due.first().filter(|(at, _)| *at <= now)?;
        self.due.pop_first().map(|(_, id)| id)
    }
}

impl Handler for Client {
    type Codec = ClientCodec;
    type State = Talk;

    fn connection(&mut self, _: &Origin) -> (ClientCodec, Talk) {
        self.made += 1;
        let dialect = match self.args.dialect {
            Dialect::Text => submit::Dialect::Text,
            Dialect::Source => submit::Dialect::Source,
        };
        (ClientCodec::new(dialect), Talk { number: self.made, waits: None, submitted: 0, acked: 0, failed: false, next: self.started })
    }

    fn open(&mut self, cx: &mut Context<'_, Self>) -> Verdict {
        if self.args.conn { Self::request(cx, Kind::Conn, Id::nth(0), "hello") } else { self.submit(cx) }
    }

    fn frame(&mut self, ack: Ack, cx: &mut Context<'_, Self>) -> Verdict {
        let id = cx.id();
        let talk = cx.state();
        let number = talk.number;
        let result = if ack.outcome == Outcome::Done { "ok" } else { "failed" };
        say(&format!("conn {number}: {} {} {result}", name(ack.kind), ack.id));
        let wanted = talk.waits.take();
        if wanted != Some((ack.kind, ack.id)) || ack.outcome != Outcome::Done {
            talk.failed = true;
            let wanted = wanted.map_or("none".into(), |(kind, id)| format!("{} {id} ok", name(kind)));
            let hint = if ack.outcome == Outcome::Failed && !self.args.conn { "; a server that requires a conn wants --conn" } else { "" };
            self.failures.push(format!("conn {number}: wrong ack: {} {} {result}, expected {wanted}{hint}", name(ack.kind), ack.id));
            return Verdict::Close;
        }
        if ack.kind == Kind::Submit {
            talk.acked += 1;
            self.acked += 1;
        }
        match (talk.acked == self.args.count, talk.submitted) {
            (true, _) => {
                cx.close(id); // after the batch: if there is one ack too many in it, it shall be seen
                Verdict::Continue
            }
            (false, 0) => self.submit(cx), // the conn was answered
            (false, _) => {
                self.due.insert((talk.next, id));
                Verdict::Continue
            }
        }
    }

    fn close(&mut self, cx: &mut Context<'_, Self>, reason: &CloseReason) {
        let Talk { number, acked, failed, .. } = *cx.state();
        self.ended += 1;
        if acked < self.args.count && !failed {
            let hint = match reason.protocol() {
                Some(submit::Error::UnknownCommand { .. }) => "; perhaps it speaks the other --dialect",
                _ => "",
            };
            self.failures.push(format!("conn {number}: {acked} of {} acks came, then: {reason}{hint}", self.args.count));
        }
    }
}

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Conn => "connack",
        Kind::Submit => "submitack",
    }
}

/// Prints a line. If nobody takes it, there is nobody to work for.
fn say(line: &str) {
    if let Err(error) = writeln!(io::stdout(), "{line}") {
        eprintln!("client: stdout takes no line: {error}");
        std::process::exit(1);
    }
}

/// A few readable words.
fn payload() -> String {
    const HOW: [&str; 8] = ["brave", "calm", "eager", "gentle", "jolly", "quick", "quiet", "wise"];
    const WHO: [&str; 8] = ["badger", "crane", "gopher", "heron", "otter", "panda", "swift", "tiger"];
    const WHERE: [&str; 4] = ["by the river", "in the loop", "on the wire", "under the slab"];
    let pick = |words: &[&'static str]| words[fastrand::usize(..words.len())];
    format!("{} {} {}", pick(&HOW), pick(&WHO), pick(&WHERE))
}

fn main() -> ExitCode {
    match talk(Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("client: {error}");
            ExitCode::FAILURE
        }
    }
}

fn talk(args: Args) -> Result<ExitCode, Box<dyn Error>> {
    let (addr, conns, count) = (args.addr, args.conns, args.count);
    let client = Client { args, started: Instant::now(), made: 0, due: BTreeSet::new(), acked: 0, ended: 0, failures: Vec::new() };
    let mut reactor = Reactor::new(client, Config::default())?;
    for _ in 0..conns {
        reactor.connect(addr)?;
    }
    while reactor.handler().ended < usize::from(conns) {
        let now = Instant::now();
        while let Some(id) = reactor.handler().take_due(now) {
            reactor.with(id, Client::submit);
        }
        let next = reactor.handler().due.first().map(|(at, _)| at.saturating_duration_since(now));
        if reactor.turn(next)? == Turn::Stopped {
            break;
        }
    }
    let client = reactor.handler();
    say(&format!("{} of {} acks", client.acked, count.saturating_mul(conns.into())));
    for failure in &client.failures {
        eprintln!("client: {failure}");
    }
    Ok(if client.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
