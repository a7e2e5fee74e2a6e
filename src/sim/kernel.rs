//! What the two systems at the ends of a connection do: carry bytes, ends and resets, as TCP would.

use std::io::{self, ErrorKind, IoSliceMut};
use std::mem;
use std::time::Duration;

use super::link::{Dial, End, EndId, Holder, Link, Mind, Path, Pipe, Tail, Watch};
use super::world::{Happening, World};
use super::{Blame, Fate, Fault};
use crate::address::Address;

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
        let path = self.path.clone().unwrap_or_else(|| Path::drawn(&mut self.dice));
        self.links.push(Link { path, ends, pipes: Default::default(), clogged_until: Duration::ZERO, blame: None });
        EndId { link: self.links.len() - 1, side: 0 }
    }

    /// How long something is under way on a link.
    pub(super) fn latency(&mut self, link: usize) -> Duration {
        let Path { latency, jitter, .. } = self.links[link].path;
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
        let delay = if busy.is_zero() { self.latency(from.link) } else { busy };
        self.plan(delay, Happening::Arrive(from));
    }

    /// Something arrives.
    pub(super) fn arrive(&mut self, from: EndId) {
        let to = from.other();
        let Path { receive_buffer, segment, byte_time, .. } = self.links[from.link].path;
        let with_data = self.may_strike(Fault::EndWithData);
        if self.links[from.link].blame.is_none() && self.strikes(Fault::ResetInTransit) {
            self.sever(from.link);
        }
        let pipe = self.pipes(from).0;
        pipe.moving = false;
        let count = pipe.pending().min(segment).min(receive_buffer.saturating_sub(pipe.arrived));
        pipe.arrived += count;
        let is_due = pipe.pending() == 0 || (pipe.tail == Tail::Reset && pipe.arrived >= receive_buffer);
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
            self.came(to, comes);
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
        let Holder::Peer(mind) = &mut end.holder else { return };
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
        let purges = self.strikes(Fault::ResetPurges);
        let (outgoing, incoming) = self.pipes(to);
        outgoing.clear();
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
        end.error = Some(ErrorKind::ConnectionReset);
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
        let Holder::Peer(mind) = &mut end.holder else { return };
        if end.broken || pipe.tail != Tail::Open || mind.fate == Fate::Connecting {
            return;
        }
        let count = mind.outgoing.len().min(buffer.saturating_sub(pipe.pending()));
        pipe.bytes.extend(mind.outgoing.drain(..count));
        if mind.shut && mind.outgoing.is_empty() {
            pipe.tail = Tail::Fin;
        }
        self.transmit(peer, Duration::ZERO);
    }

    /// Puts news of a loop's socket before the poller.
    pub(super) fn tell(&mut self, id: EndId, readable: bool, writable: bool) {
        let Some(watch) = self.end(id).watch() else { return };
        watch.news.readable |= readable;
        watch.news.writable |= writable;
        self.list(id);
    }

    /// What was held back is told.
    pub(super) fn remind(&mut self, id: EndId) {
        let Some(watch) = self.end(id).watch() else { return };
        let (read, write) = (mem::take(&mut watch.owes_read), mem::take(&mut watch.owes_write));
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
        if self.end(id).watch().is_some() { Blame::Loop } else { Blame::Peer }
    }

    /// Whether a dial from this end is through; one who was dialed is.
    fn is_established(&self, id: EndId) -> bool {
        match &self.links[id.link].ends[id.side].holder {
            Holder::Loop(watch) => watch.dial != Dial::Undecided,
            Holder::Peer(mind) => mind.fate != Fate::Connecting,
        }
    }

    /// The network breaks a connection of the loop with an error of the system.
    fn fail(&mut self, id: EndId, error: ErrorKind) -> io::Error {
        self.abort(id, Blame::Net);
        let end = self.end(id);
        (end.open, end.broken) = (true, true);
        self.tell(id, true, true);
        error.into()
    }

    /// recv(2), on a socket of the loop.
    pub(super) fn recv(&mut self, id: EndId, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        if self.strikes(Fault::ReadInterrupted) {
            return Err(ErrorKind::Interrupted.into());
        }
        let (strict, now) = (self.short_read_is_empty, self.now);
        let room: usize = bufs.iter().map(|buf| buf.len()).sum();
        let incoming = self.pipes(id).1;
        let (waiting, mark, over) = (incoming.arrived, incoming.mark, incoming.tail == Tail::Over);
        let end = self.end(id);
        let broken = end.broken;
        let watch = end.watch().expect("a socket of the loop");
        let told = watch.told;
        if waiting == 0 {
            watch.owes_read = true;
            let error = if broken || over { end.error.take().filter(|_| broken) } else { Some(ErrorKind::WouldBlock) };
            return error.map_or(Ok(0), |error| Err(error.into()));
        }
        if !broken && self.strikes(Fault::ReadFailed) {
            let error = self.dice.pick(&[ErrorKind::TimedOut, ErrorKind::HostUnreachable, ErrorKind::Other]);
            return Err(self.fail(id, error));
        }
        if self.strikes(Fault::ReadBlocked) {
            self.owe(id, true, false);
            return Err(ErrorKind::WouldBlock.into());
        }
        let mut count = room.min(waiting).min(mark.filter(|mark| *mark > 0).unwrap_or(usize::MAX));
        if count > 1 && (told || !strict) && self.strikes(Fault::ShortRead) {
            count = if self.dice.one_in(2) { 1 } else { self.dice.between(1, count - 1) };
        }
        let incoming = self.pipes(id).1;
        incoming.mark = mark.and_then(|mark| mark.checked_sub(count)).filter(|mark| *mark > 0);
        incoming.arrived -= count;
        let mut left = count;
        for buf in bufs {
            let part = left.min(buf.len());
            buf.iter_mut().zip(incoming.bytes.drain(..part)).for_each(|(to, byte)| *to = byte);
            left -= part;
        }
        let watch = self.end(id).watch().expect("a socket of the loop");
        watch.owes_read |= strict && !told && count < room;
        watch.truth.read += count as u64;
        watch.truth.last_read = now;
        self.transmit(id.other(), Duration::ZERO);
        Ok(count)
    }

    /// send(2), on a socket of the loop.
    pub(super) fn send(&mut self, id: EndId, bytes: &[u8]) -> io::Result<usize> {
        if self.strikes(Fault::WriteInterrupted) {
            return Err(ErrorKind::Interrupted.into());
        }
        let end = self.end(id);
        if end.broken {
            return Err(end.error.take().unwrap_or(ErrorKind::BrokenPipe).into());
        }
        if self.strikes(Fault::WriteFailed) {
            let error = self.dice.pick(&[ErrorKind::TimedOut, ErrorKind::HostUnreachable, ErrorKind::BrokenPipe]);
            return Err(self.fail(id, error));
        }
        if self.strikes(Fault::WriteZero) {
            self.links[id.link].blame.get_or_insert(Blame::Net);
            return Ok(0);
        }
        let buffer = self.links[id.link].path.send_buffer;
        let free = buffer.saturating_sub(self.pipes(id).0.pending());
        if free == 0 {
            self.end(id).watch().expect("a socket of the loop").owes_write = true;
            return Err(ErrorKind::WouldBlock.into());
        }
        if self.strikes(Fault::WriteBlocked) {
            self.owe(id, false, true);
            return Err(ErrorKind::WouldBlock.into());
        }
        let mut count = bytes.len().min(free);
        if count > 1 && self.strikes(Fault::ShortWrite) {
            count = if self.dice.one_in(2) { 1 } else { self.dice.between(1, count - 1) };
        }
        let outgoing = self.pipes(id).0;
        if outgoing.tail == Tail::Open {
            outgoing.bytes.extend(&bytes[..count]);
        }
        let now = self.now;
        let truth = &mut self.end(id).watch().expect("a socket of the loop").truth;
        truth.written += count as u64;
        truth.last_write = now;
        self.transmit(id, Duration::ZERO);
        Ok(count)
    }

    /// The loop was told that there is nothing now, against the truth: it hears of it a while later.
    fn owe(&mut self, id: EndId, read: bool, write: bool) {
        let watch = self.end(id).watch().expect("a socket of the loop");
        watch.owes_read |= read;
        watch.owes_write |= write;
        let delay = self.a_while();
        self.plan(delay, Happening::Remind(id));
    }

    /// shutdown(2) of the sending side.
    pub(super) fn shut(&mut self, id: EndId) -> io::Result<()> {
        if self.end(id).broken {
            return Err(ErrorKind::NotConnected.into());
        }
        let outgoing = self.pipes(id).0;
        if outgoing.tail == Tail::Open {
            outgoing.tail = Tail::Fin;
        }
        self.transmit(id, Duration::ZERO);
        Ok(())
    }

    /// A newcomer comes to a door of the loop.
    pub(super) fn knock(&mut self, peer: EndId, number: usize) {
        if !self.end(peer).open {
            return; // given up meanwhile
        }
        let door = &self.doors[number];
        if door.token.is_none() {
            return self.refuse(peer);
        }
        if door.queue.len() >= 128 || self.strikes(Fault::BacklogFull) {
            // As a system does whose first packet was dropped.
            return self.plan(Duration::from_secs(1), Happening::Knock(peer, number));
        }
        let door = &mut self.doors[number];
        door.queue.push_back(peer.other());
        let owed = mem::replace(&mut door.owes, false);
        if owed || !self.strikes(Fault::EdgeWithheld) {
            self.list_door(number);
        }
        self.establish(peer);
    }

    /// The one who dialed learns that it is through.
    fn establish(&mut self, dialer: EndId) {
        match &mut self.end(dialer).holder {
            Holder::Peer(mind) => {
                mind.fate = Fate::Open;
                self.stirred = true;
                self.pump(dialer);
            }
            Holder::Loop(watch) => {
                watch.dial = Dial::Done;
                self.tell(dialer, false, true);
            }
        }
    }

    /// Nobody is there where somebody has dialed.
    fn refuse(&mut self, dialer: EndId) {
        let end = self.end(dialer);
        end.error = Some(ErrorKind::ConnectionRefused);
        match &mut end.holder {
            Holder::Peer(mind) => {
                mind.fate = Fate::Refused;
                self.stirred = true;
            }
            Holder::Loop(watch) => {
                watch.dial = Dial::Done;
                end.broken = true;
                self.tell(dialer, true, true);
            }
        }
    }

    /// Begins a dial of the loop.
    pub(super) fn dial(&mut self, addr: &Address) -> io::Result<EndId> {
        if self.strikes(Fault::DialImpossible) {
            return Err(self.dice.pick(&[ErrorKind::NetworkUnreachable, ErrorKind::AddrNotAvailable, ErrorKind::HostUnreachable]).into());
        }
        let from = self.fresh_addr();
        let watch = Watch { dial: Dial::Undecided, ..Watch::default() };
        let accepting = self.doors.iter().position(|door| door.addr == *addr);
        let far = if accepting.is_some() { Holder::Loop(Watch::default()) } else { Holder::Peer(Mind { reads: true, ..Mind::default() }) };
        let dialer = self.connect([End::new(from, Holder::Loop(watch)), End::new(addr.clone(), far)]);
        let delay = self.latency(dialer.link) * 2;
        if self.strikes(Fault::DialEarlyEvent) {
            self.plan(delay / 2, Happening::Remind(dialer));
            self.end(dialer).watch().expect("just made").owes_write = true;
        }
        match accepting {
            _ if self.strikes(Fault::DialUnanswered) => {}
            Some(number) => self.plan(delay, Happening::Knock(dialer, number)),
            None => self.plan(delay, Happening::Decide(dialer)),
        }
        Ok(dialer)
    }

    /// A dial to the world outside is decided.
    pub(super) fn decide(&mut self, dialer: EndId) {
        if !self.end(dialer).open {
            return; // given up meanwhile
        }
        let addr = self.end(dialer.other()).addr.clone();
        if self.strikes(Fault::DialMeetsItself) {
            self.end(dialer).watch().expect("only the loop dials").dial = Dial::MetItself;
            return self.tell(dialer, false, true);
        }
        if !self.hosts.contains_key(&addr) || self.strikes(Fault::DialRefused) {
            return self.refuse(dialer);
        }
        self.establish(dialer);
        let far = dialer.other();
        self.end(far).mind().expect("a peer of the world outside").fate = Fate::Open;
        self.hosts.get_mut(&addr).expect("just seen").push_back(far);
    }

    /// An address that nobody has.
    pub(super) fn fresh_addr(&self) -> Address {
        let number = self.links.len() as u32;
        let [_, high, middle, low] = number.to_be_bytes();
        core::net::SocketAddr::from(([10, high, middle, low], 40_000)).into()
    }
}
