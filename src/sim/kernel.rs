//! What the two systems at the ends of a connection do: carry bytes, ends and resets, as TCP would.

use std::io::{self, ErrorKind};
use std::mem;
use std::time::Duration;

use super::link::{Dial, End, EndId, Holder, Link, Path, Pipe, Tail};
use super::world::{Happening, World};
use super::{Blame, Fate, Fault};

impl World {
    pub(super) fn end(&mut self, id: EndId) -> &mut End {
        &mut self.links[id.link].ends[id.side]
    }

    /// What an end sends, and what it receives.
    pub(super) fn pipes(&mut self, id: EndId) -> (&mut Pipe, &mut Pipe) {
        let (_, outgoing, incoming) = self.links[id.link].at(id.side);
        (outgoing, incoming)
    }

    /// A new link; its first end is the one who dials.
    pub(super) fn connect(&mut self, ends: [End; 2]) -> EndId {
        let path = self
            .path
            .clone()
            .unwrap_or_else(|| Path::drawn(&mut self.dice));
        self.links.push(Link {
            path,
            ends,
            pipes: Default::default(),
            clogged_until: Duration::ZERO,
            blame: None,
        });
        EndId {
            link: self.links.len() - 1,
            side: 0,
        }
    }

    /// How long something is under way on a link.
    pub(super) fn latency(&mut self, link: usize) -> Duration {
        let Path {
            latency, jitter, ..
        } = self.links[link].path;
        let wait = self.links[link].clogged_until.saturating_sub(self.now);
        wait + latency + self.dice.time(jitter)
    }

    /// Sees to it that what an end has sent moves on.
    pub(super) fn transmit(&mut self, from: EndId, busy: Duration) {
        let buffer = self.links[from.link].path.receive_buffer;
        let pipe = self.pipes(from).0;
        if pipe.moving || !pipe.can_move(buffer) {
            return;
        }
        pipe.moving = true;
        if self.strikes(Fault::Clogged) {
            let clogged = Duration::from_millis(self.dice.magnitude(1, 5_000) as u64);
            self.links[from.link].clogged_until = self.now + clogged;
        }
        let delay = if busy.is_zero() {
            self.latency(from.link)
        } else {
            busy
        };
        self.plan(delay, Happening::Arrive(from));
    }

    /// Something arrives.
    pub(super) fn arrive(&mut self, from: EndId) {
        let to = from.other();
        let Path {
            receive_buffer,
            segment,
            byte_time,
            ..
        } = self.links[from.link].path;
        let with_data = self.may_strike(Fault::EndWithData);
        if self.links[from.link].blame.is_none() && self.strikes(Fault::ResetInTransit) {
            self.sever(from.link);
        }
        let now = self.now;
        let pipe = self.pipes(from).0;
        pipe.moving = false;
        let count = pipe
            .pending()
            .min(segment)
            .min(receive_buffer.saturating_sub(pipe.arrived));
        if pipe.arrived == 0 {
            pipe.since = now;
        }
        pipe.arrived += count;
        let is_due =
            pipe.pending() == 0 || (pipe.tail == Tail::Reset && pipe.arrived >= receive_buffer);
        let tail = pipe.tail;
        // The end may come with the last bytes, or behind them.
        let comes = matches!(tail, Tail::Fin | Tail::Reset) && is_due && (count == 0 || with_data);
        if comes {
            pipe.tail = Tail::Over;
        }
        self.tally[Fault::EndWithData] += u64::from(comes && count > 0);
        if !self.end(to).open {
            if count > 0 {
                let by = self.holder(to);
                self.abort(to, by); // nobody is there to take it
            }
        } else if comes && tail == Tail::Reset {
            self.broke(to);
        } else if count > 0 || comes {
            self.end(to).ended |= comes;
            self.came(to, comes);
            self.arrived +=
                (count as u64 + u64::from(comes)) * u64::from(self.end(to).watch().is_some());
        }
        self.has_left(from);
        self.transmit(from, byte_time * count as u32);
    }

    /// Bytes or an end have come to an open end.
    fn came(&mut self, to: EndId, end: bool) {
        if !end && self.end(to).watch().is_some() && self.strikes(Fault::Urgent) {
            let incoming = self.pipes(to).1;
            incoming.mark.get_or_insert(incoming.arrived);
            let watch = self.end(to).watch().expect("just seen");
            watch.news.urgent = true;
            return self.tell(to, true, false);
        }
        if let Some(watch) = self.end(to).watch() {
            let owed = mem::replace(&mut watch.owes_read, false);
            // An end that comes later than a short read must be told where such a read counts as empty.
            if owed || (end && self.short_read_is_empty) || !self.strikes(Fault::EdgeWithheld) {
                self.tell(to, true, false);
            }
        }
        self.take_in(to);
    }

    /// A peer reads what is there, if it reads.
    pub(super) fn take_in(&mut self, peer: EndId) {
        let (end, _, pipe) = self.links[peer.link].at(peer.side);
        let Holder::Peer(mind) = &mut end.holder else {
            return;
        };
        if !mind.reads || !end.open {
            return;
        }
        let count = mem::take(&mut pipe.arrived);
        mind.received.extend(pipe.bytes.drain(..count));
        let before = mind.fate;
        if end.broken {
            mind.fate = Fate::Reset;
        } else if pipe.tail == Tail::Over && pipe.bytes.is_empty() {
            mind.fate = Fate::Ended;
        }
        self.stirred |= count > 0 || mind.fate != before;
        if count > 0 {
            self.transmit(peer.other(), Duration::ZERO);
        }
    }

    /// A reset has come to an open end.
    fn broke(&mut self, to: EndId) {
        if self.end(to).broken {
            return; // it hears nothing any more
        }
        let purges = self.strikes(Fault::ResetPurges);
        let (outgoing, incoming) = self.pipes(to);
        outgoing.bytes.truncate(outgoing.arrived); // what is there already is the other one's
        if outgoing.tail != Tail::Reset {
            outgoing.tail = Tail::Over;
        }
        if purges {
            incoming.clear();
        } else {
            incoming.bytes.truncate(incoming.arrived);
        }
        let end = self.end(to);
        end.broken = true;
        // Behind the other one's end it is no news for a reader, but a pipe that is broken for a writer (tcp_reset);
        // a system that throws away what it had must not call that an end.
        end.ended &= !purges;
        end.error = Some(if end.ended {
            ErrorKind::BrokenPipe
        } else {
            ErrorKind::ConnectionReset
        });
        self.tell(to, true, true);
        self.take_in(to);
    }

    /// Some of what an end has sent has left its buffer.
    fn has_left(&mut self, from: EndId) {
        let buffer = self.links[from.link].path.send_buffer;
        let pending = self.pipes(from).0.pending();
        match &mut self.end(from).holder {
            // Linux tells of room only when a third is free (sk_stream_is_writeable).
            Holder::Loop(watch) if watch.owes_write && pending * 3 <= buffer * 2 => {
                watch.owes_write = false;
                self.tell(from, false, true);
            }
            Holder::Loop(_) => {}
            Holder::Peer(_) => self.pump(from),
        }
    }

    /// A peer's system takes as much as it has room for.
    pub(super) fn pump(&mut self, peer: EndId) {
        let buffer = self.links[peer.link].path.send_buffer;
        let (end, pipe, _) = self.links[peer.link].at(peer.side);
        let Holder::Peer(mind) = &mut end.holder else {
            return;
        };
        if end.broken || pipe.tail != Tail::Open || mind.fate == Fate::Connecting {
            return;
        }
        let count = mind
            .outgoing
            .len()
            .min(buffer.saturating_sub(pipe.pending()));
        pipe.bytes.extend(mind.outgoing.drain(..count));
        if mind.shut && mind.outgoing.is_empty() {
            pipe.tail = Tail::Fin;
        }
        self.transmit(peer, Duration::ZERO);
    }

    /// Puts news of a loop's socket before the poller.
    pub(super) fn tell(&mut self, id: EndId, readable: bool, writable: bool) {
        let Some(watch) = self.end(id).watch() else {
            return;
        };
        watch.news.readable |= readable;
        watch.news.writable |= writable;
        self.list(id);
    }

    /// What was held back is told.
    pub(super) fn remind(&mut self, id: EndId) {
        let Some(watch) = self.end(id).watch() else {
            return;
        };
        let (read, write) = (
            mem::take(&mut watch.owes_read),
            mem::take(&mut watch.owes_write),
        );
        self.tell(id, read, write);
    }

    /// An end is closed as a program does it: in good order if all was read, else with a reset.
    pub(super) fn close(&mut self, id: EndId, by: Blame) {
        if !mem::replace(&mut self.end(id).open, false) {
            return;
        }
        let broken = self.end(id).broken;
        let (outgoing, incoming) = self.pipes(id);
        if incoming.arrived > 0 && !broken {
            return self.abort(id, by);
        }
        if outgoing.tail == Tail::Open {
            outgoing.tail = Tail::Fin;
        }
        if self.is_established(id) {
            self.transmit(id, Duration::ZERO);
        }
    }

    /// An end is closed with a reset. Part of what it has sent may be under way and arrive before.
    pub(super) fn abort(&mut self, id: EndId, by: Blame) {
        self.links[id.link].blame.get_or_insert(by);
        self.end(id).open = false;
        let window = self.links[id.link].path.receive_buffer;
        let keep = self.pipes(id).0.pending().min(window);
        let keep = self.dice.between(0, keep);
        let (outgoing, incoming) = self.pipes(id);
        incoming.clear();
        incoming.tail = Tail::Over;
        outgoing.bytes.truncate(outgoing.arrived + keep);
        // Behind its end too, if that was sent already.
        outgoing.tail = Tail::Reset;
        self.transmit(id, Duration::ZERO);
    }

    /// The network resets a connection, for both ends.
    pub(super) fn sever(&mut self, link: usize) {
        self.links[link].blame.get_or_insert(Blame::Net);
        for side in 0..2 {
            let pipe = &mut self.links[link].pipes[side];
            pipe.bytes.truncate(pipe.arrived);
            pipe.tail = Tail::Reset;
            self.transmit(EndId { link, side }, Duration::ZERO);
        }
    }

    /// Who holds a socket.
    fn holder(&mut self, id: EndId) -> Blame {
        if self.end(id).watch().is_some() {
            Blame::Loop
        } else {
            Blame::Peer
        }
    }

    /// Whether a dial from this end is through; one who was dialed is.
    fn is_established(&self, id: EndId) -> bool {
        match &self.links[id.link].ends[id.side].holder {
            Holder::Loop(watch) => watch.dial != Dial::Undecided,
            Holder::Peer(mind) => mind.fate != Fate::Connecting,
        }
    }

    /// The network breaks a connection of the loop with an error of the system.
    pub(super) fn fail(&mut self, id: EndId, error: ErrorKind) -> io::Error {
        self.abort(id, Blame::Net);
        let end = self.end(id);
        (end.open, end.broken) = (true, true);
        self.tell(id, true, true);
        error.into()
    }
}
