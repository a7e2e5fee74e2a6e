//! One connection under load: what is due on it, what was sent, and the ack that must come next.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::Instant;

use glassloop::submit::{Ack, Id, Request};
use hdrhistogram::Histogram;
use mio::net::TcpStream;

use crate::Dialect;
use crate::wire::{Batch, ack_of, count_up, explain};

/// The ID of the first request after the greeting.
const SECOND: u64 = 2;
/// Where mio has epoll or kqueue, fewer bytes than there was room for prove that the socket is empty.
const SHORT_READ_IS_EMPTY: bool = cfg!(unix);

/// From when a request's latency counts. All times are nanoseconds since the load began.
#[derive(Clone, Copy)]
pub(crate) enum Pace {
    /// From when it was sent: so many are always under way.
    Closed { depth: u64 },
    /// From when it was due: they take turns over so many connections, one each `gap`.
    Open { gap: f64, conns: u64 },
}

/// When the `n`-th request of an open loop is due.
#[inline]
pub(crate) fn due_at(gap: f64, n: u64) -> u64 {
    (n as f64 * gap) as u64
}

/// What came of the load so far.
pub(crate) struct Tally {
    pub(crate) began: Instant,
    /// Of requests from `since` on.
    pub(crate) latencies: Histogram<u64>,
    pub(crate) since: u64,
    pub(crate) acked: u64,
}

impl Tally {
    #[inline]
    pub(crate) fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    #[inline]
    pub(crate) fn note(&mut self, from: u64, now: u64, count: u64) {
        if from >= self.since {
            self.latencies
                .saturating_record_n(now.saturating_sub(from), count);
        }
    }
}

/// A connection. Its greeting was answered already, and is not among its requests and acks.
pub(crate) struct Conn {
    pub(crate) stream: TcpStream,
    number: u32,
    pub(crate) local: SocketAddr,
    /// Requests that are to be sent by now.
    pub(crate) due: u64,
    /// Requests that the socket has taken whole, and how much of the next one.
    sent: u64,
    torn: usize,
    pub(crate) acked: u64,
    /// The next ack, to the byte.
    wanted: [u8; Ack::LEN],
    /// The front of an ack that came in pieces.
    part: [u8; Ack::LEN],
    part_len: usize,
    /// Closed loop: when requests were sent that have no ack yet, and how many at once.
    stamps: VecDeque<(u64, u64)>,
    /// Whether the socket took no more.
    pub(crate) blocked: bool,
    /// Since when it has waited for an ack without any coming.
    pub(crate) waits_since: u64,
}

impl Conn {
    pub(crate) fn new(stream: TcpStream, number: u32, local: SocketAddr, dialect: Dialect) -> Self {
        Self {
            stream,
            number,
            local,
            due: 0,
            sent: 0,
            torn: 0,
            acked: 0,
            wanted: ack_of(dialect, Id::nth(SECOND)),
            part: [0; Ack::LEN],
            part_len: 0,
            stamps: VecDeque::new(),
            blocked: false,
            waits_since: 0,
        }
    }

    pub(crate) fn outstanding(&self) -> u64 {
        self.due - self.acked
    }

    /// Closed loop: makes as many requests due as may be under way.
    #[inline]
    pub(crate) fn top_up(&mut self, depth: u64, now: u64) -> u64 {
        let more = self.acked + depth - self.due;
        if more > 0 {
            self.stamps.push_back((now, more));
            self.due += more;
        }
        more
    }

    /// Sends what is due, until the socket takes no more.
    #[inline]
    pub(crate) fn send(&mut self, batch: &mut Batch, now: u64) -> Result<(), String> {
        if self.sent == self.acked {
            self.waits_since = now;
        }
        while self.sent < self.due && !self.blocked {
            let bytes = batch.of(Id::nth(self.sent + SECOND), self.due - self.sent);
            match self.stream.write(&bytes[self.torn..]) {
                Ok(0) => return Err(self.says("its socket takes nothing, and gives no reason")),
                Ok(taken) => {
                    let taken = self.torn + taken;
                    self.sent += (taken / batch.frame()) as u64;
                    self.torn = taken % batch.frame();
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.blocked = true,
                Err(error) => return Err(self.lost(&error.to_string())),
            }
        }
        Ok(())
    }

    /// Reads and checks the acks that have come, until the socket is empty. Returns how many.
    #[inline]
    pub(crate) fn receive(
        &mut self,
        scratch: &mut [u8],
        pace: Pace,
        tally: &mut Tally,
    ) -> Result<u64, String> {
        let mut all = 0;
        loop {
            scratch[..self.part_len].copy_from_slice(&self.part[..self.part_len]);
            let room = scratch.len() - self.part_len;
            let read = match self.stream.read(&mut scratch[self.part_len..]) {
                Ok(0) => return Err(self.lost("the server has closed it")),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(all),
                Err(error) => return Err(self.lost(&error.to_string())),
            };
            let now = tally.now();
            let mut acks = scratch[..self.part_len + read].chunks_exact(Ack::LEN);
            let before = self.acked;
            for ack in &mut acks {
                if ack != self.wanted || self.acked == self.sent {
                    return Err(self.wrong(ack));
                }
                self.acked += 1;
                count_up(&mut self.wanted[5..Request::HEADER]);
            }
            let rest = acks.remainder();
            self.part_len = rest.len();
            self.part[..self.part_len].copy_from_slice(rest);
            let fresh = self.acked - before;
            if fresh > 0 {
                self.waits_since = now;
                self.note(before, fresh, now, pace, tally);
                tally.acked += fresh;
                all += fresh;
            }
            if read < room && SHORT_READ_IS_EMPTY {
                return Ok(all);
            }
        }
    }

    /// Takes down the latencies of `fresh` acks, of which the first answers request number `first`.
    #[inline]
    fn note(&mut self, first: u64, mut fresh: u64, now: u64, pace: Pace, tally: &mut Tally) {
        match pace {
            Pace::Closed { .. } => {
                while let Some((sent, count)) = self.stamps.front_mut() {
                    let answered = fresh.min(*count);
                    tally.note(*sent, now, answered);
                    (fresh, *count) = (fresh - answered, *count - answered);
                    if *count > 0 {
                        return;
                    }
                    self.stamps.pop_front();
                }
            }
            Pace::Open { gap, conns } => {
                for n in first..first + fresh {
                    tally.note(due_at(gap, n * conns + u64::from(self.number)), now, 1);
                }
            }
        }
    }

    /// Takes down how long the unanswered ones have waited so far.
    pub(crate) fn give_up(&mut self, now: u64, pace: Pace, tally: &mut Tally) {
        self.note(self.acked, self.outstanding(), now, pace, tally);
    }

    /// What has happened, to whom.
    pub(crate) fn says(&self, what: &str) -> String {
        let server = self
            .stream
            .peer_addr()
            .map_or_else(|_| "the server".to_string(), |addr| addr.to_string());
        format!(
            "connection {} ({} to {server}): {what}",
            self.number, self.local
        )
    }

    fn lost(&self, why: &str) -> String {
        let outstanding = self.outstanding();
        self.says(&format!("{why}, after {} acks and with {outstanding} requests unanswered; the server's log may say why", self.acked + 1))
    }

    /// Why an ack is not the one that must come now.
    fn wrong(&self, ack: &[u8]) -> String {
        let what = if self.acked == self.sent {
            format!(
                "{} came although no request waits for an ack",
                ack.escape_ascii()
            )
        } else {
            explain(ack, &self.wanted)
        };
        self.says(&format!(
            "{what}; {} acks before it were right",
            self.acked + 1
        ))
    }
}
