//! A client at work, and somebody else's server.

use std::fmt;
use std::time::Duration;

use glassloop::Address;
use glassloop::sim::{Fate, Peer};

use crate::ledger::Book;
use crate::oracle::HUB;
use crate::plan::{Client, Drawn, Manner, Op, Workload, op};
use crate::wire::{Frames, Name, Wire, compose};

/// A client at work.
pub(crate) struct Guest {
    pub plan: Client,
    pub peer: Option<Peer>,
    pub addr: Option<Address>,
    /// When it acts next.
    pub next: Duration,
    sent: usize,
    answered: usize,
    got: Vec<u8>,
    /// It has begun a frame that it does not end.
    stalled: bool,
    /// It will send no more.
    pub over: bool,
    /// It has closed its socket, or will not read on.
    pub gone: bool,
}

/// Somebody else's server: it sends everything back, frame by frame.
pub(crate) fn echo(peer: &Peer, got: &mut Vec<u8>) {
    got.extend(peer.received());
    let mut used = 0;
    while let Some((length, ..)) = Frames::first(&got[used..]) {
        peer.send(&got[used..][..length]);
        used += length;
    }
    got.drain(..used);
    if peer.fate() == Fate::Ended {
        peer.shut_write();
    }
}

impl fmt::Display for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Client {
            number,
            manner,
            requests,
            ..
        } = self.plan;
        let fate = self.peer.as_ref().map(Peer::fate);
        write!(
            f,
            "client {number} ({manner:?}, {fate:?}, {} of {requests} sent, {} answered)",
            self.sent, self.answered
        )
    }
}

impl Guest {
    pub(crate) fn new(plan: Client) -> Self {
        let next = plan.comes;
        Self {
            plan,
            peer: None,
            addr: None,
            next,
            sent: 0,
            answered: 0,
            got: Vec::new(),
            stalled: false,
            over: false,
            gone: false,
        }
    }

    /// It reads what has come.
    pub(crate) fn hear<W: Wire>(&mut self, book: &Book) {
        let Some(peer) = &self.peer else { return };
        let fresh = peer.received();
        if fresh.is_empty() {
            return;
        }
        self.got.extend(fresh);
        let (mut used, me) = (0, self.plan.number as u32);
        while let Some((length, name, intact)) = W::first(&self.got[used..]) {
            book.borrow_mut()
                .oracle
                .see(me, name.from, name.number, intact);
            self.answered += usize::from(name.from == me);
            used += length;
        }
        self.got.drain(..used);
        if self.next == Duration::MAX {
            self.next = Duration::ZERO;
        }
    }

    /// Whether it does not want to know how it ends.
    pub(crate) fn stops_reading(&self) -> bool {
        matches!(self.plan.manner, Manner::Resets | Manner::Leaves)
    }

    pub(crate) fn act<W: Wire>(&mut self, book: &Book, now: Duration, healed: bool, drawn: &Drawn) {
        let Some(peer) = self.peer.clone() else {
            return;
        };
        match peer.fate() {
            Fate::Ended => {
                self.stop_sending(book);
                peer.shut_write();
                peer.close();
                self.gone = true;
            }
            Fate::Reset | Fate::Refused => {
                self.stop_sending(book);
                self.gone = true;
            }
            Fate::Connecting | Fate::Open => {
                while self.next <= now && !self.over {
                    let made = self.make_requests::<W>(&peer, book, drawn);
                    let thinks = if healed {
                        Duration::from_millis(1)
                    } else {
                        self.plan.dice.time(self.plan.thinks)
                    };
                    // Who waits for answers acts when one comes.
                    self.next = if made > 0 {
                        now + thinks
                    } else {
                        Duration::MAX
                    };
                    if self.sent >= self.plan.requests {
                        self.leave(&peer, book, healed);
                    }
                }
            }
        }
    }

    fn make_requests<W: Wire>(&mut self, peer: &Peer, book: &Book, drawn: &Drawn) -> usize {
        let me = self.plan.number as u32;
        let (mut text, mut out) = (Vec::new(), Vec::new());
        let free = self
            .plan
            .window
            .saturating_sub(self.sent.saturating_sub(self.answered));
        let count = self
            .plan
            .burst
            .min(free)
            .min(self.plan.requests - self.sent);
        for _ in 0..count {
            let number = book.borrow_mut().oracle.owe(HUB, me);
            let name = Name { from: me, number };
            let size = self.plan.dice.below(self.plan.payload);
            let what = if drawn.workload == Workload::Relay {
                Op::Ack
            } else {
                op(&mut self.plan.dice, self.plan.special, drawn.violent)
            };
            let what = match what {
                Op::Much(times)
                    if drawn.workload == Workload::Submit || size * usize::from(times) > 20_000 =>
                {
                    Op::Ack
                }
                what => what,
            };
            compose(name, what, size, &mut text);
            W::request(name, &text, &mut out);
            self.sent += 1;
        }
        peer.send(&out);
        count
    }

    /// It has made all its requests.
    fn leave(&mut self, peer: &Peer, book: &Book, healed: bool) {
        match self.plan.manner {
            // In good order, when all is answered.
            Manner::Waits if self.answered < self.sent => return,
            Manner::Stalls if !self.stalled => {
                self.stalled = true;
                return peer.send(&[0, 0]);
            }
            Manner::Mute | Manner::Stalls if !healed => return,
            Manner::Waits | Manner::HalfCloses | Manner::Mute | Manner::Deaf | Manner::Stalls => {
                peer.shut_write();
            }
            Manner::Garbage => {
                peer.send(&vec![b'x'; 70_000]);
                peer.shut_write();
            }
            Manner::Truncates => {
                peer.send(&[0, 0]);
                peer.shut_write();
            }
            Manner::Resets => peer.reset(),
            Manner::Leaves => peer.close(),
        }
        self.gone = matches!(self.plan.manner, Manner::Resets | Manner::Leaves);
        self.stop_sending(book);
    }

    fn stop_sending(&mut self, book: &Book) {
        self.over = true;
        book.borrow_mut()
            .attentive
            .remove(&(self.plan.number as u32));
    }
}
