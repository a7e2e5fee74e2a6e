//! The load itself: a loop that keeps requests under way, in a closed or an open loop, and reads what comes back.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::event::Source;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::conn::{Conn, Pace, Tally, due_at};
use crate::crowd::{self, Crowd};
use crate::report::{Idle, Report, micros};
use crate::server::Server;
use crate::wire::Batch;
use crate::{Args, server};

/// Open loop: closer to the next request than this it is waited for awake, since the poller counts in milliseconds.
const AWAKE: u64 = 2_000_000;
/// How often it is looked who waits in vain.
const LOOK: u64 = 100_000_000;
const SECOND: u64 = 1_000_000_000;

/// Why a run came to nothing.
pub(crate) struct Failure {
    pub(crate) error: String,
    /// Acks up to then.
    pub(crate) acked: u64,
}

/// A run from its first connection to its report.
pub(crate) fn run(args: &Args, addr: SocketAddr) -> Result<Report, Failure> {
    let early = |error: Box<dyn Error>| Failure {
        error: error.to_string(),
        acked: 0,
    };
    let (mut drive, crowd) = Drive::new(args, addr).map_err(early)?;
    measure(&mut drive, crowd, args).map_err(|error| Failure {
        error: error.to_string(),
        acked: drive.tally.acked,
    })
}

fn measure(drive: &mut Drive, mut crowd: Crowd, args: &Args) -> Result<Report, Box<dyn Error>> {
    let server = args.server_pid.map(Server::of).transpose()?;
    let memory = || server.as_ref().map(Server::settled_memory).transpose();
    let before = memory()?;
    let idle = crowd.open(args.conns, args.idle, &mut drive.batch)?;
    drive.tally.acked += u64::from(args.idle);
    let per_idle = before
        .zip(memory()?)
        .map(|(before, after)| (after as f64 - before as f64) / f64::from(args.idle));

    drive.begin();
    drive.until(args.warmup, Aim::Load)?;
    let opening = server.as_ref().map(Server::opening).transpose()?;
    let (own, acked, from) = (server::own_cpu(), drive.tally.acked, drive.tally.now());
    drive.tally.since = from;
    drive.until(Duration::from_nanos(from) + args.secs, Aim::Load)?;
    let seconds = (drive.tally.now() - from) as f64 / 1e9;
    let requests = drive.tally.acked - acked;
    let client = own
        .zip(server::own_cpu())
        .map(|(before, after)| after.saturating_sub(before).as_secs_f64() / seconds);
    let usage = match (&server, &opening) {
        (Some(server), Some(opening)) => Some(server.since(opening)?),
        _ => None,
    };
    // What was asked is to be answered, and counts.
    let last = Duration::from_nanos(drive.tally.now() + 2 * LOOK) + args.ack_timeout; // longer than anybody may be silent
    drive.until(last, Aim::Rest)?;
    let unanswered = drive.give_up();
    Ok(Report {
        seconds,
        requests,
        acked: drive.tally.acked,
        unanswered,
        latencies: drive.tally.latencies.clone(),
        client,
        server: usage,
        idle: (args.idle > 0).then(|| Idle {
            conns: idle.len(),
            bytes_per_connection: per_idle,
            closed: crowd::closed(&idle),
        }),
    })
}

/// What a stretch of the loop is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Aim {
    /// To keep the server busy.
    Load,
    /// To have the rest of the answers.
    Rest,
}

/// The loop.
struct Drive {
    poll: Poll,
    events: Events,
    conns: Vec<Conn>,
    batch: Batch,
    scratch: Vec<u8>,
    pace: Pace,
    spin: bool,
    patience: Duration,
    tally: Tally,
    /// Requests made due, and of those the ones that wait for their acks.
    issued: u64,
    outstanding: u64,
    /// Open loop: connections on which something has just become due.
    asked: Vec<usize>,
    next_look: u64,
    next_word: u64,
    acked_before: u64,
}

impl Drive {
    /// Opens the connections, and registers each once.
    fn new(args: &Args, addr: SocketAddr) -> Result<(Self, Crowd), Box<dyn Error>> {
        let mut crowd = Crowd::new(
            addr,
            args.dialect,
            args.ack_timeout,
            u64::from(args.conns) + u64::from(args.idle),
        )?;
        let most = if args.rate.is_some() {
            usize::MAX
        } else {
            args.depth as usize
        };
        let mut batch = Batch::new(args.payload as usize, most);
        let poll = Poll::new()?;
        let mut conns = Vec::new();
        for (stream, number) in crowd.open(0, args.conns, &mut batch)?.into_iter().zip(0..) {
            let local = stream.local_addr()?;
            let mut stream = TcpStream::from_std(stream);
            stream.register(
                poll.registry(),
                Token(number as usize),
                Interest::READABLE | Interest::WRITABLE,
            )?;
            conns.push(Conn::new(stream, number, local, args.dialect));
        }
        let tally = Tally {
            began: Instant::now(),
            latencies: Histogram::new_with_bounds(1, 3600 * SECOND, 3)?,
            since: u64::MAX,
            acked: args.conns.into(),
        };
        let drive = Self {
            poll,
            events: Events::with_capacity(1024),
            batch,
            scratch: vec![0; 256 * 1024],
            pace: match args.rate {
                Some(rate) => Pace::Open {
                    gap: 1e9 / rate,
                    conns: args.conns.into(),
                },
                None => Pace::Closed {
                    depth: args.depth.into(),
                },
            },
            spin: args.spin,
            patience: args.ack_timeout,
            acked_before: tally.acked,
            tally,
            issued: 0,
            outstanding: 0,
            asked: Vec::new(),
            next_look: LOOK,
            next_word: SECOND,
            conns,
        };
        Ok((drive, crowd))
    }

    /// From here on the time counts.
    fn begin(&mut self) {
        self.tally.began = Instant::now();
    }

    /// Turns until so long after the beginning, or until nothing is left to be answered if that is all it is for.
    fn until(&mut self, end: Duration, aim: Aim) -> Result<(), Box<dyn Error>> {
        let end = end.as_nanos() as u64;
        loop {
            let now = self.tally.now();
            if now >= end || (aim == Aim::Rest && self.outstanding == 0) {
                return Ok(());
            }
            if now >= self.next_look {
                self.look(now)?;
            }
            let next = if aim == Aim::Load {
                self.issue(now)?
            } else {
                u64::MAX
            };
            self.wait(
                next.min(end).min(self.next_look).saturating_sub(now),
                next.saturating_sub(now),
            )?;
            self.serve(aim)?;
        }
    }

    /// Sends what is due without an ack having come for it. Returns when the next request is due.
    fn issue(&mut self, now: u64) -> Result<u64, String> {
        match self.pace {
            // Only once: from then on it is acks that make requests due.
            Pace::Closed { depth } if self.issued == 0 => {
                for conn in &mut self.conns {
                    self.issued += conn.top_up(depth, self.tally.now());
                    conn.send(&mut self.batch, now)?;
                }
                self.outstanding = self.issued;
                Ok(u64::MAX)
            }
            Pace::Closed { .. } => Ok(u64::MAX),
            Pace::Open { gap, .. } => {
                let mut next = due_at(gap, self.issued);
                while next <= now {
                    let asked = (self.issued % self.conns.len() as u64) as usize;
                    self.conns[asked].due += 1;
                    self.asked.push(asked);
                    (self.issued, self.outstanding) = (self.issued + 1, self.outstanding + 1);
                    next = due_at(gap, self.issued);
                }
                for asked in self.asked.drain(..) {
                    self.conns[asked].send(&mut self.batch, now)?; // all that has become due on it
                }
                Ok(next)
            }
        }
    }

    fn wait(&mut self, nanos: u64, to_next: u64) -> io::Result<()> {
        let timeout = if self.spin || to_next < AWAKE {
            0
        } else {
            nanos.min(to_next - AWAKE / 2)
        };
        match self
            .poll
            .poll(&mut self.events, Some(Duration::from_nanos(timeout)))
        {
            Err(error) if error.kind() == ErrorKind::Interrupted => {
                self.events.clear();
                Ok(())
            }
            outcome => outcome,
        }
    }

    /// Reads the acks that have come, and sends what they make due.
    fn serve(&mut self, aim: Aim) -> Result<(), String> {
        let Self {
            events,
            conns,
            batch,
            scratch,
            pace,
            tally,
            issued,
            outstanding,
            ..
        } = self;
        for event in &*events {
            let conn = &mut conns[event.token().0];
            if event.is_writable() {
                conn.blocked = false;
            }
            if event.is_readable() || event.is_read_closed() {
                *outstanding -= conn.receive(scratch, *pace, tally)?;
            }
            match *pace {
                Pace::Closed { depth } if aim == Aim::Load => {
                    let now = tally.now();
                    let fresh = conn.top_up(depth, now);
                    (*issued, *outstanding) = (*issued + fresh, *outstanding + fresh);
                    conn.send(batch, now)?;
                }
                _ => conn.send(batch, tally.now())?,
            }
            if event.is_read_closed() {
                // Once more, behind the last acks: no further event would tell of the server's end.
                *outstanding -= conn.receive(scratch, *pace, tally)?;
            }
        }
        Ok(())
    }

    /// Now and then: who waits in vain, and a word to whoever watches.
    fn look(&mut self, now: u64) -> Result<(), String> {
        self.next_look = now + LOOK;
        let is_late = |conn: &&Conn| {
            conn.outstanding() > 0
                && u128::from(now - conn.waits_since.min(now)) > self.patience.as_nanos()
        };
        if let Some(silent) = self.conns.iter().find(is_late) {
            let all = self.conns.iter().filter(is_late).count();
            let time = humantime::format_duration(self.patience);
            return Err(silent.says(&format!(
                "{} requests wait, and no ack has come for {time} (--ack-timeout); {} came before. So it is with {all} of {} connections: the server is stuck, or too slow for this load",
                silent.outstanding(),
                silent.acked + 1,
                self.conns.len()
            )));
        }
        if now >= self.next_word {
            let (acked, latencies) = (self.tally.acked - self.acked_before, &self.tally.latencies);
            self.acked_before = self.tally.acked;
            let rate = acked as f64 * 1e9 / (now - (self.next_word - SECOND)) as f64;
            let [p50, p99, max] = [
                latencies.value_at_quantile(0.5),
                latencies.value_at_quantile(0.99),
                latencies.max(),
            ]
            .map(micros);
            let stage = if latencies.is_empty() {
                "warming up".to_string()
            } else {
                format!("p50 {p50}, p99 {p99}, max {max}")
            };
            eprintln!(
                "{:5.1} s  {rate:>12.0} acks/s  {:>8} under way  {stage}",
                now as f64 / 1e9,
                self.outstanding
            );
            self.next_word = now + SECOND;
        }
        Ok(())
    }

    /// Stops waiting: who has no answer by now has waited at least so long. Returns how many those are.
    fn give_up(&mut self) -> u64 {
        let now = self.tally.now();
        for conn in &mut self.conns {
            conn.give_up(now, self.pace, &mut self.tally);
        }
        self.outstanding
    }
}
