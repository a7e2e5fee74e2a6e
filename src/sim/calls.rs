//! What the loop's sockets answer: recv(2), send(2), shutdown(2), connect(2); and who comes to its doors.

use std::io::{self, ErrorKind, IoSliceMut};
use std::mem;
use std::time::Duration;

use super::link::{Dial, End, EndId, Holder, Mind, Tail, Watch};
use super::world::{Happening, World};
use super::{Blame, Fate, Fault};
use crate::net::Address;

impl World {
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
        let (broken, ended) = (end.broken, end.ended);
        let watch = end.watch().expect("a socket of the loop");
        let told = watch.told;
        if waiting == 0 {
            watch.owes_read = true;
            let error = if ended {
                None // whatever came behind that end
            } else if broken || over {
                end.error.take().filter(|_| broken)
            } else {
                Some(ErrorKind::WouldBlock)
            };
            return error.map_or(Ok(0), |error| Err(error.into()));
        }
        if !broken && self.strikes(Fault::ReadFailed) {
            let error = self.dice.pick(&[
                ErrorKind::TimedOut,
                ErrorKind::HostUnreachable,
                ErrorKind::Other,
            ]);
            return Err(self.fail(id, error));
        }
        if self.strikes(Fault::ReadBlocked) {
            self.owe(id, true, false);
            return Err(ErrorKind::WouldBlock.into());
        }
        let mut count = room
            .min(waiting)
            .min(mark.filter(|mark| *mark > 0).unwrap_or(usize::MAX));
        if count > 1 && (told || !strict) && self.strikes(Fault::ShortRead) {
            count = if self.dice.one_in(2) {
                1
            } else {
                self.dice.between(1, count - 1)
            };
        }
        let incoming = self.pipes(id).1;
        incoming.mark = mark
            .and_then(|mark| mark.checked_sub(count))
            .filter(|mark| *mark > 0);
        incoming.arrived -= count;
        let mut left = count;
        for buf in bufs {
            let part = left.min(buf.len());
            buf.iter_mut()
                .zip(incoming.bytes.drain(..part))
                .for_each(|(to, byte)| *to = byte);
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
        if end.shut {
            return Err(ErrorKind::BrokenPipe.into());
        }
        if self.strikes(Fault::WriteFailed) {
            let error = self.dice.pick(&[
                ErrorKind::TimedOut,
                ErrorKind::HostUnreachable,
                ErrorKind::BrokenPipe,
            ]);
            return Err(self.fail(id, error));
        }
        if self.strikes(Fault::WriteZero) {
            self.links[id.link].blame.get_or_insert(Blame::Net);
            return Ok(0);
        }
        let buffer = self.links[id.link].path.send_buffer;
        let free = buffer.saturating_sub(self.pipes(id).0.pending());
        if free == 0 {
            self.end(id)
                .watch()
                .expect("a socket of the loop")
                .owes_write = true;
            return Err(ErrorKind::WouldBlock.into());
        }
        if self.strikes(Fault::WriteBlocked) {
            self.owe(id, false, true);
            return Err(ErrorKind::WouldBlock.into());
        }
        let mut count = bytes.len().min(free);
        if count > 1 && self.strikes(Fault::ShortWrite) {
            count = if self.dice.one_in(2) {
                1
            } else {
                self.dice.between(1, count - 1)
            };
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
        self.end(id).shut = true;
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
            return Err(self
                .dice
                .pick(&[
                    ErrorKind::NetworkUnreachable,
                    ErrorKind::AddrNotAvailable,
                    ErrorKind::HostUnreachable,
                ])
                .into());
        }
        let from = self.fresh_addr();
        let watch = Watch {
            dial: Dial::Undecided,
            ..Watch::default()
        };
        let accepting = self.doors.iter().position(|door| door.addr == *addr);
        let far = if accepting.is_some() {
            Holder::Loop(Watch::default())
        } else {
            Holder::Peer(Mind {
                reads: true,
                ..Mind::default()
            })
        };
        let dialer = self.connect([
            End::new(from, Holder::Loop(watch)),
            End::new(addr.clone(), far),
        ]);
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
        self.end(far)
            .mind()
            .expect("a peer of the world outside")
            .fate = Fate::Open;
        self.hosts.get_mut(&addr).expect("just seen").push_back(far);
    }

    /// An address that nobody has.
    pub(super) fn fresh_addr(&self) -> Address {
        let number = self.links.len() as u32;
        let [_, high, middle, low] = number.to_be_bytes();
        core::net::SocketAddr::from(([10, high, middle, low], 40_000)).into()
    }
}
