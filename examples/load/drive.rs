//! The event loop: sends requests, in a closed or an open loop, and reads the acks.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::event::Source;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::conn::{Conn, Counts, Pace, due_at};
use crate::connector::{self, Connector};
use crate::report::{Idle, Report, micros};
use crate::server::Server;
use crate::wire::Batch;
use crate::{Args, server};

/// Open loop: busy-polls if the next request is due sooner than this, in nanoseconds, since the
/// poller's timeout is in milliseconds.
const BUSY_POLL: u64 = 2_000_000;
/// Interval of the checks for late acks, in nanoseconds.
const CHECK_INTERVAL: u64 = 100_000_000;
const SECOND: u64 = 1_000_000_000;

/// Why a run failed.
pub(crate) struct Failure {
    pub(crate) error: String,
    /// Acks up to the failure.
    pub(crate) acked: u64,
}

/// Runs the load, from opening the connections to the report.
pub(crate) fn run(args: &Args, addr: SocketAddr) -> Result<Report, Failure> {
    let early = |error: Box<dyn Error>| Failure {
        error: error.to_string(),
        acked: 0,
    };
    let (mut driver, connector) = Driver::new(args, addr).map_err(early)?;
    measure(&mut driver, connector, args).map_err(|error| Failure {
        error: error.to_string(),
        acked: driver.counts.acked,
    })
}

/// Opens the idle connections, warms up, measures, and waits for the last acks.
fn measure(
    driver: &mut Driver,
    mut connector: Connector,
    args: &Args,
) -> Result<Report, Box<dyn Error>> {
    let server = args.server_pid.map(Server::new).transpose()?;
    let memory = || server.as_ref().map(Server::memory_when_idle).transpose();
    let before = memory()?;
    let idle = connector.open(args.conns, args.idle, &mut driver.batch)?;
    driver.counts.acked += u64::from(args.idle);
    let per_idle = before
        .zip(memory()?)
        .map(|(before, after)| (after as f64 - before as f64) / f64::from(args.idle));

    driver.begin();
    driver.run_until(args.warmup, Phase::Load)?;
    let start = server.as_ref().map(Server::usage).transpose()?;
    let (own, acked, from) = (server::own_cpu(), driver.counts.acked, driver.counts.now());
    driver.counts.since = from;
    driver.run_until(Duration::from_nanos(from) + args.secs, Phase::Load)?;
    let seconds = (driver.counts.now() - from) as f64 / 1e9;
    let requests = driver.counts.acked - acked;
    let client = own
        .zip(server::own_cpu())
        .map(|(before, after)| after.saturating_sub(before).as_secs_f64() / seconds);
    let usage = match (&server, &start) {
        (Some(server), Some(start)) => Some(server.usage_since(start)?),
        _ => None,
    };
    // Requests already due count, so wait for their acks: longer than any ack may take.
    let last = Duration::from_nanos(driver.counts.now() + 2 * CHECK_INTERVAL) + args.ack_timeout;
    driver.run_until(last, Phase::Drain)?;
    let unanswered = driver.record_unanswered();
    Ok(Report {
        seconds,
        requests,
        acked: driver.counts.acked,
        unanswered,
        latencies: driver.counts.latencies.clone(),
        client,
        server: usage,
        idle: (args.idle > 0).then(|| Idle {
            conns: idle.len(),
            bytes_per_connection: per_idle,
            closed: connector::count_closed(&idle),
        }),
    })
}

/// A phase of the run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Sends requests.
    Load,
    /// Only waits for the outstanding acks.
    Drain,
}

/// The event loop.
struct Driver {
    poll: Poll,
    events: Events,
    conns: Vec<Conn>,
    batch: Batch,
    scratch: Vec<u8>,
    pace: Pace,
    spin: bool,
    timeout: Duration,
    counts: Counts,
    /// Requests made due so far.
    issued: u64,
    /// Due requests without an ack.
    outstanding: u64,
    /// Open loop: connections on which a request has just become due.
    due_conns: Vec<usize>,
    next_check: u64,
    next_progress: u64,
    acked_before: u64,
}

impl Driver {
    /// Opens the connections, and registers each once.
    fn new(args: &Args, addr: SocketAddr) -> Result<(Self, Connector), Box<dyn Error>> {
        let mut connector = Connector::new(
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
        for (stream, number) in connector
            .open(0, args.conns, &mut batch)?
            .into_iter()
            .zip(0..)
        {
            let local = stream.local_addr()?;
            let mut stream = TcpStream::from_std(stream);
            stream.register(
                poll.registry(),
                Token(number as usize),
                Interest::READABLE | Interest::WRITABLE,
            )?;
            conns.push(Conn::new(stream, number, local, args.dialect));
        }
        let counts = Counts {
            began: Instant::now(),
            latencies: Histogram::new_with_bounds(1, 3600 * SECOND, 3)?,
            since: u64::MAX,
            acked: args.conns.into(),
        };
        let driver = Self {
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
            timeout: args.ack_timeout,
            acked_before: counts.acked,
            counts,
            issued: 0,
            outstanding: 0,
            due_conns: Vec::new(),
            next_check: CHECK_INTERVAL,
            next_progress: SECOND,
            conns,
        };
        Ok((driver, connector))
    }

    /// Starts the clock.
    fn begin(&mut self) {
        self.counts.began = Instant::now();
    }

    /// Runs the loop until `end`, counted from the start. [`Phase::Drain`] ends when no request is
    /// outstanding.
    fn run_until(&mut self, end: Duration, phase: Phase) -> Result<(), Box<dyn Error>> {
        let end = end.as_nanos() as u64;
        loop {
            let now = self.counts.now();
            if now >= end || (phase == Phase::Drain && self.outstanding == 0) {
                return Ok(());
            }
            if now >= self.next_check {
                self.check_progress(now)?;
            }
            let next = if phase == Phase::Load {
                self.send_due(now)?
            } else {
                u64::MAX
            };
            self.wait(
                next.min(end).min(self.next_check).saturating_sub(now),
                next.saturating_sub(now),
            )?;
            self.serve(phase)?;
        }
    }

    /// Sends the requests that become due by time, and not by an ack. Returns when the next one is
    /// due.
    fn send_due(&mut self, now: u64) -> Result<u64, String> {
        match self.pace {
            // Only once: after that, acks make requests due.
            Pace::Closed { depth } if self.issued == 0 => {
                for conn in &mut self.conns {
                    self.issued += conn.top_up(depth, self.counts.now());
                    conn.send(&mut self.batch, now)?;
                }
                self.outstanding = self.issued;
                Ok(u64::MAX)
            }
            Pace::Closed { .. } => Ok(u64::MAX),
            Pace::Open { gap, .. } => {
                let mut next = due_at(gap, self.issued);
                while next <= now {
                    let conn = (self.issued % self.conns.len() as u64) as usize;
                    self.conns[conn].due += 1;
                    self.due_conns.push(conn);
                    (self.issued, self.outstanding) = (self.issued + 1, self.outstanding + 1);
                    next = due_at(gap, self.issued);
                }
                for conn in self.due_conns.drain(..) {
                    self.conns[conn].send(&mut self.batch, now)?; // sends all that is due on it
                }
                Ok(next)
            }
        }
    }

    /// Polls for at most `nanos`, or without blocking if the next request is due soon.
    fn wait(&mut self, nanos: u64, to_next: u64) -> io::Result<()> {
        let timeout = if self.spin || to_next < BUSY_POLL {
            0
        } else {
            nanos.min(to_next - BUSY_POLL / 2)
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

    /// Reads the acks that have arrived, and sends the requests that they make due.
    fn serve(&mut self, phase: Phase) -> Result<(), String> {
        let Self {
            events,
            conns,
            batch,
            scratch,
            pace,
            counts,
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
                *outstanding -= conn.receive(scratch, *pace, counts)?;
            }
            match *pace {
                Pace::Closed { depth } if phase == Phase::Load => {
                    let now = counts.now();
                    let fresh = conn.top_up(depth, now);
                    (*issued, *outstanding) = (*issued + fresh, *outstanding + fresh);
                    conn.send(batch, now)?;
                }
                _ => conn.send(batch, counts.now())?,
            }
            if event.is_read_closed() {
                // Read once more after the last acks: no further event would report the server's
                // close.
                *outstanding -= conn.receive(scratch, *pace, counts)?;
            }
        }
        Ok(())
    }

    /// Fails if an ack is late, and prints a progress line once a second.
    fn check_progress(&mut self, now: u64) -> Result<(), String> {
        self.next_check = now + CHECK_INTERVAL;
        let is_late = |conn: &&Conn| {
            conn.outstanding() > 0
                && u128::from(now - conn.waiting_since.min(now)) > self.timeout.as_nanos()
        };
        if let Some(late) = self.conns.iter().find(is_late) {
            let all = self.conns.iter().filter(is_late).count();
            let time = humantime::format_duration(self.timeout);
            return Err(late.describe(&format!(
                "{} requests wait, and no ack has come for {time} (--ack-timeout); \
                 {} came before. {all} of {} connections are affected: \
                 the server is stuck, or too slow for this load",
                late.outstanding(),
                late.acked + 1,
                self.conns.len()
            )));
        }
        if now >= self.next_progress {
            let (acked, latencies) = (
                self.counts.acked - self.acked_before,
                &self.counts.latencies,
            );
            self.acked_before = self.counts.acked;
            let rate = acked as f64 * 1e9 / (now - (self.next_progress - SECOND)) as f64;
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
                "{:5.1} s  {rate:>12.0} acks/s  {:>8} outstanding  {stage}",
                now as f64 / 1e9,
                self.outstanding
            );
            self.next_progress = now + SECOND;
        }
        Ok(())
    }

    /// Records the requests without an ack, which have waited at least until now. Returns how many.
    fn record_unanswered(&mut self) -> u64 {
        let now = self.counts.now();
        for conn in &mut self.conns {
            conn.record_unanswered(now, self.pace, &mut self.counts);
        }
        self.outstanding
    }
}
