//! One connection under load: its due and sent requests, and the next expected ack.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::Instant;

use glassloop::submit::{Ack, Id, Request};
use hdrhistogram::Histogram;
use mio::net::TcpStream;

use crate::Dialect;
use crate::wire::{Batch, ack_of, describe_mismatch, increment};

/// Number of the ID of the first request under load. The connector has sent ID 1.
const FIRST_ID: u64 = 2;
/// With epoll or kqueue, a read that returns less than was asked for proves that the socket is
/// empty.
const SHORT_READ_IS_EMPTY: bool = cfg!(unix);

/// When requests are due, and from when their latencies count. All times are nanoseconds since the
/// load began.
#[derive(Clone, Copy)]
pub(crate) enum Pace {
    /// Closed loop: `depth` requests are always outstanding. Latency counts from the time of
    /// sending.
    Closed { depth: u64 },
    /// Open loop: one request is due each `gap`, on each of `conns` connections in turn. Latency
    /// counts from the time when the request was due.
    Open { gap: f64, conns: u64 },
}

/// Returns when the `n`-th request of an open loop is due.
#[inline]
pub(crate) fn due_at(gap: f64, n: u64) -> u64 {
    (n as f64 * gap) as u64
}

/// The counts and latencies so far.
pub(crate) struct Counts {
    pub(crate) began: Instant,
    /// Latencies of the requests that count from `since` or later.
    pub(crate) latencies: Histogram<u64>,
    pub(crate) since: u64,
    pub(crate) acked: u64,
}

impl Counts {
    /// Returns the nanoseconds since the load began.
    #[inline]
    pub(crate) fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    /// Records `count` latencies from `from` to `now`.
    #[inline]
    pub(crate) fn record(&mut self, from: u64, now: u64, count: u64) {
        if from >= self.since {
            self.latencies
                .saturating_record_n(now.saturating_sub(from), count);
        }
    }
}

/// A connection. The request and ack of its opening are not counted here.
pub(crate) struct Conn {
    pub(crate) stream: TcpStream,
    number: u32,
    pub(crate) local: SocketAddr,
    /// Requests that are due so far.
    pub(crate) due: u64,
    /// Requests that the socket has taken in full.
    sent: u64,
    /// Bytes of the next request that it has taken.
    partial: usize,
    pub(crate) acked: u64,
    /// The exact bytes of the next ack.
    expected: [u8; Ack::LEN],
    /// The first bytes of an ack that has arrived in part.
    part: [u8; Ack::LEN],
    part_len: usize,
    /// Closed loop: requests without an ack, as the time of sending and the number sent then.
    sent_at: VecDeque<(u64, u64)>,
    /// True if the last write would have blocked.
    pub(crate) blocked: bool,
    /// When the last ack came, or when requests became outstanding after that.
    pub(crate) waiting_since: u64,
}

impl Conn {
    pub(crate) fn new(stream: TcpStream, number: u32, local: SocketAddr, dialect: Dialect) -> Self {
        Self {
            stream,
            number,
            local,
            due: 0,
            sent: 0,
            partial: 0,
            acked: 0,
            expected: ack_of(dialect, Id::nth(FIRST_ID)),
            part: [0; Ack::LEN],
            part_len: 0,
            sent_at: VecDeque::new(),
            blocked: false,
            waiting_since: 0,
        }
    }

    /// Returns the number of due requests without an ack.
    pub(crate) fn outstanding(&self) -> u64 {
        self.due - self.acked
    }

    /// Closed loop: makes requests due until `depth` are outstanding. Returns how many.
    #[inline]
    pub(crate) fn top_up(&mut self, depth: u64, now: u64) -> u64 {
        let more = self.acked + depth - self.due;
        if more > 0 {
            self.sent_at.push_back((now, more));
            self.due += more;
        }
        more
    }

    /// Sends the due requests, until the socket would block.
    #[inline]
    pub(crate) fn send(&mut self, batch: &mut Batch, now: u64) -> Result<(), String> {
        if self.sent == self.acked {
            self.waiting_since = now;
        }
        while self.sent < self.due && !self.blocked {
            let bytes = batch.requests(Id::nth(self.sent + FIRST_ID), self.due - self.sent);
            match self.stream.write(&bytes[self.partial..]) {
                Ok(0) => return Err(self.describe("write returned 0")),
                Ok(taken) => {
                    let taken = self.partial + taken;
                    self.sent += (taken / batch.frame()) as u64;
                    self.partial = taken % batch.frame();
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.blocked = true,
                Err(error) => return Err(self.ended(&error.to_string())),
            }
        }
        Ok(())
    }

    /// Reads and checks acks, until the socket is empty. Returns how many.
    #[inline]
    pub(crate) fn receive(
        &mut self,
        scratch: &mut [u8],
        pace: Pace,
        counts: &mut Counts,
    ) -> Result<u64, String> {
        let mut all = 0;
        loop {
            scratch[..self.part_len].copy_from_slice(&self.part[..self.part_len]);
            let room = scratch.len() - self.part_len;
            let read = match self.stream.read(&mut scratch[self.part_len..]) {
                Ok(0) => return Err(self.ended("closed by the server")),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(all),
                Err(error) => return Err(self.ended(&error.to_string())),
            };
            let now = counts.now();
            let mut acks = scratch[..self.part_len + read].chunks_exact(Ack::LEN);
            let before = self.acked;
            for ack in &mut acks {
                if ack != self.expected || self.acked == self.sent {
                    return Err(self.unexpected(ack));
                }
                self.acked += 1;
                increment(&mut self.expected[5..Request::HEADER]);
            }
            let rest = acks.remainder();
            self.part_len = rest.len();
            self.part[..self.part_len].copy_from_slice(rest);
            let fresh = self.acked - before;
            if fresh > 0 {
                self.waiting_since = now;
                self.record(before, fresh, now, pace, counts);
                counts.acked += fresh;
                all += fresh;
            }
            if read < room && SHORT_READ_IS_EMPTY {
                return Ok(all);
            }
        }
    }

    /// Records the latencies of `fresh` acks, of which the first is for request number `first`.
    #[inline]
    fn record(&mut self, first: u64, mut fresh: u64, now: u64, pace: Pace, counts: &mut Counts) {
        match pace {
            Pace::Closed { .. } => {
                while let Some((sent, count)) = self.sent_at.front_mut() {
                    let answered = fresh.min(*count);
                    counts.record(*sent, now, answered);
                    (fresh, *count) = (fresh - answered, *count - answered);
                    if *count > 0 {
                        return;
                    }
                    self.sent_at.pop_front();
                }
            }
            Pace::Open { gap, conns } => {
                for n in first..first + fresh {
                    counts.record(due_at(gap, n * conns + u64::from(self.number)), now, 1);
                }
            }
        }
    }

    /// Records how long the requests without an ack have waited so far.
    pub(crate) fn record_unanswered(&mut self, now: u64, pace: Pace, counts: &mut Counts) {
        self.record(self.acked, self.outstanding(), now, pace, counts);
    }

    /// Returns an error message: the connection, its addresses, and what happened.
    pub(crate) fn describe(&self, what: &str) -> String {
        let server = self
            .stream
            .peer_addr()
            .map_or_else(|_| "the server".to_string(), |addr| addr.to_string());
        format!(
            "connection {} ({} to {server}): {what}",
            self.number, self.local
        )
    }

    /// Returns the message for a connection that has ended.
    fn ended(&self, why: &str) -> String {
        let outstanding = self.outstanding();
        self.describe(&format!(
            "{why}, after {} acks and with {outstanding} requests unanswered; see the server's log",
            self.acked + 1
        ))
    }

    /// Returns the message for an ack that is not the expected one.
    fn unexpected(&self, ack: &[u8]) -> String {
        let what = if self.acked == self.sent {
            format!(
                "received {} although no request waits for an ack",
                ack.escape_ascii()
            )
        } else {
            describe_mismatch(ack, &self.expected)
        };
        self.describe(&format!(
            "{what}; {} acks before it were correct",
            self.acked + 1
        ))
    }
}
