//! A simulated client, and the echo server that relays dial.

use std::fmt;
use std::time::Duration;

use glassloop::Address;
use glassloop::sim::{Peer, PeerState};

use crate::delivery::HANDLER;
use crate::plan::{Behavior, ClientPlan, Op, Scenario, Workload, op};
use crate::record::SharedRecord;
use crate::wire::{Frames, MessageId, Wire, compose};

/// A client and its progress.
pub(crate) struct Client {
    pub plan: ClientPlan,
    pub peer: Option<Peer>,
    pub addr: Option<Address>,
    /// When the client acts next. `Duration::MAX`: when an answer arrives.
    pub next: Duration,
    sent: usize,
    answered: usize,
    unparsed: Vec<u8>,
    /// True once the client has sent the start of a frame that it does not finish.
    stalled: bool,
    /// True once the client sends no more.
    pub sending_done: bool,
    /// True once the client has closed its socket or stopped reading for good.
    pub done: bool,
}

/// An echo server: sends every frame back.
pub(crate) fn echo(peer: &Peer, unparsed: &mut Vec<u8>) {
    unparsed.extend(peer.received());
    let mut used = 0;
    while let Some((length, ..)) = Frames::first(&unparsed[used..]) {
        peer.send(&unparsed[used..][..length]);
        used += length;
    }
    unparsed.drain(..used);
    if peer.state() == PeerState::Ended {
        peer.shut_write();
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ClientPlan {
            number,
            behavior,
            requests,
            ..
        } = self.plan;
        let state = self.peer.as_ref().map(Peer::state);
        write!(
            f,
            "client {number} ({behavior:?}, {state:?}, {} of {requests} sent, {} answered)",
            self.sent, self.answered
        )
    }
}

impl Client {
    pub(crate) fn new(plan: ClientPlan) -> Self {
        let next = plan.connects_at;
        Self {
            plan,
            peer: None,
            addr: None,
            next,
            sent: 0,
            answered: 0,
            unparsed: Vec::new(),
            stalled: false,
            sending_done: false,
            done: false,
        }
    }

    /// Reads the answers that have arrived, and checks them.
    pub(crate) fn read_answers<W: Wire>(&mut self, record: &SharedRecord) {
        let Some(peer) = &self.peer else { return };
        let fresh = peer.received();
        if fresh.is_empty() {
            return;
        }
        self.unparsed.extend(fresh);
        let (mut used, me) = (0, self.plan.number as u32);
        while let Some((length, id, intact)) = W::first(&self.unparsed[used..]) {
            record
                .borrow_mut()
                .delivery
                .receive(me, id.from, id.number, intact);
            self.answered += usize::from(id.from == me);
            used += length;
        }
        self.unparsed.drain(..used);
        if self.next == Duration::MAX {
            self.next = Duration::ZERO;
        }
    }

    /// True if the client does not wait for the end of its connection.
    pub(crate) fn ignores_end(&self) -> bool {
        matches!(self.plan.behavior, Behavior::Resets | Behavior::ClosesEarly)
    }

    pub(crate) fn act<W: Wire>(
        &mut self,
        record: &SharedRecord,
        now: Duration,
        healed: bool,
        scenario: &Scenario,
    ) {
        let Some(peer) = self.peer.clone() else {
            return;
        };
        match peer.state() {
            PeerState::Ended => {
                self.stop_sending(record);
                peer.shut_write();
                peer.close();
                self.done = true;
            }
            PeerState::Reset | PeerState::Refused => {
                self.stop_sending(record);
                self.done = true;
            }
            PeerState::Connecting | PeerState::Open => {
                while self.next <= now && !self.sending_done {
                    let made = self.make_requests::<W>(&peer, record, scenario);
                    let think_time = if healed {
                        Duration::from_millis(1)
                    } else {
                        self.plan.rng.duration(self.plan.think_time)
                    };
                    // A client at its window acts when an answer arrives.
                    self.next = if made > 0 {
                        now + think_time
                    } else {
                        Duration::MAX
                    };
                    if self.sent >= self.plan.requests {
                        self.finish(&peer, record, healed);
                    }
                }
            }
        }
    }

    fn make_requests<W: Wire>(
        &mut self,
        peer: &Peer,
        record: &SharedRecord,
        scenario: &Scenario,
    ) -> usize {
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
            let number = record.borrow_mut().delivery.expect_message(HANDLER, me);
            let id = MessageId { from: me, number };
            let size = self.plan.rng.below(self.plan.payload);
            let what = if scenario.workload == Workload::Relay {
                Op::Ack
            } else {
                op(
                    &mut self.plan.rng,
                    self.plan.special_rate,
                    scenario.may_close,
                )
            };
            let what = match what {
                Op::Replies(times)
                    if scenario.workload == Workload::Submit
                        || size * usize::from(times) > 20_000 =>
                {
                    Op::Ack
                }
                what => what,
            };
            compose(id, what, size, &mut text);
            W::request(id, &text, &mut out);
            self.sent += 1;
        }
        peer.send(&out);
        count
    }

    /// Ends the sending, once all requests are made.
    fn finish(&mut self, peer: &Peer, record: &SharedRecord, healed: bool) {
        match self.plan.behavior {
            // Waits until all requests are answered.
            Behavior::Waits if self.answered < self.sent => return,
            Behavior::Stalls if !self.stalled => {
                self.stalled = true;
                return peer.send(&[0, 0]);
            }
            Behavior::Silent | Behavior::Stalls if !healed => return,
            Behavior::Waits
            | Behavior::HalfCloses
            | Behavior::Silent
            | Behavior::StopsReading
            | Behavior::Stalls => {
                peer.shut_write();
            }
            Behavior::SendsGarbage => {
                peer.send(&vec![b'x'; 70_000]);
                peer.shut_write();
            }
            Behavior::Truncates => {
                peer.send(&[0, 0]);
                peer.shut_write();
            }
            Behavior::Resets => peer.reset(),
            Behavior::ClosesEarly => peer.close(),
        }
        self.done = matches!(self.plan.behavior, Behavior::Resets | Behavior::ClosesEarly);
        self.stop_sending(record);
    }

    fn stop_sending(&mut self, record: &SharedRecord) {
        self.sending_done = true;
        record
            .borrow_mut()
            .receiving
            .remove(&(self.plan.number as u32));
    }
}
