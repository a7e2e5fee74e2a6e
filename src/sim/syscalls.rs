//! The system calls of the loop's sockets: recv(2), send(2), shutdown(2), connect(2); and how
//! connection requests are handled.

use std::io::{self, ErrorKind, IoSliceMut};
use std::mem;
use std::time::Duration;

use super::link::{Dial, End, EndId, LoopSocket, Owner, PeerSocket, Tail};
use super::world::{ScheduledEvent, World};
use super::{Blame, Fault, PeerState};
use crate::net::Address;

impl World {
    /// recv(2), on a socket of the loop.
    pub(super) fn recv(&mut self, id: EndId, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        if self.inject(Fault::ReadInterrupted) {
            return Err(ErrorKind::Interrupted.into());
        }
        let (strict, now) = (self.short_read_is_empty, self.now);
        let room: usize = bufs.iter().map(|buf| buf.len()).sum();
        let incoming = self.pipes(id).1;
        let (waiting, mark, fin_arrived) = (
            incoming.arrived,
            incoming.mark,
            incoming.tail == Tail::Delivered,
        );
        let end = self.end(id);
        let (broken, ended) = (end.broken, end.ended);
        let socket = end.loop_socket().expect("a socket of the loop");
        let hint_reported = socket.hint_reported;
        if waiting == 0 {
            socket.read_armed = true;
            let error = if ended {
                None // the FIN stays, whatever came after it
            } else if broken || fin_arrived {
                end.error.take().filter(|_| broken)
            } else {
                Some(ErrorKind::WouldBlock)
            };
            return error.map_or(Ok(0), |error| Err(error.into()));
        }
        if !broken && self.inject(Fault::ReadFailed) {
            let error = self.rng.pick(&[
                ErrorKind::TimedOut,
                ErrorKind::HostUnreachable,
                ErrorKind::Other,
            ]);
            return Err(self.fail_connection(id, error));
        }
        if self.inject(Fault::ReadBlocked) {
            self.withhold_readiness(id, true, false);
            return Err(ErrorKind::WouldBlock.into());
        }
        let mut count = room
            .min(waiting)
            .min(mark.filter(|mark| *mark > 0).unwrap_or(usize::MAX));
        if count > 1 && (hint_reported || !strict) && self.inject(Fault::ShortRead) {
            count = if self.rng.one_in(2) {
                1
            } else {
                self.rng.between(1, count - 1)
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
        let socket = self.end(id).loop_socket().expect("a socket of the loop");
        socket.read_armed |= strict && !hint_reported && count < room;
        socket.actual.read += count as u64;
        socket.actual.last_read = now;
        self.transmit(id.other(), Duration::ZERO);
        Ok(count)
    }

    /// send(2), on a socket of the loop.
    pub(super) fn send(&mut self, id: EndId, bytes: &[u8]) -> io::Result<usize> {
        if self.inject(Fault::WriteInterrupted) {
            return Err(ErrorKind::Interrupted.into());
        }
        let end = self.end(id);
        if end.broken {
            return Err(end.error.take().unwrap_or(ErrorKind::BrokenPipe).into());
        }
        if end.shut {
            return Err(ErrorKind::BrokenPipe.into());
        }
        if self.inject(Fault::WriteFailed) {
            let error = self.rng.pick(&[
                ErrorKind::TimedOut,
                ErrorKind::HostUnreachable,
                ErrorKind::BrokenPipe,
            ]);
            return Err(self.fail_connection(id, error));
        }
        if self.inject(Fault::WriteZero) {
            self.links[id.link].blame.get_or_insert(Blame::Net);
            return Ok(0);
        }
        let buffer = self.links[id.link].path.send_buffer;
        let free = buffer.saturating_sub(self.pipes(id).0.in_flight());
        if free == 0 {
            self.end(id)
                .loop_socket()
                .expect("a socket of the loop")
                .write_armed = true;
            return Err(ErrorKind::WouldBlock.into());
        }
        if self.inject(Fault::WriteBlocked) {
            self.withhold_readiness(id, false, true);
            return Err(ErrorKind::WouldBlock.into());
        }
        let mut count = bytes.len().min(free);
        if count > 1 && self.inject(Fault::ShortWrite) {
            count = if self.rng.one_in(2) {
                1
            } else {
                self.rng.between(1, count - 1)
            };
        }
        let outgoing = self.pipes(id).0;
        if outgoing.tail == Tail::Open {
            outgoing.bytes.extend(&bytes[..count]);
        }
        let now = self.now;
        let actual = &mut self
            .end(id)
            .loop_socket()
            .expect("a socket of the loop")
            .actual;
        actual.written += count as u64;
        actual.last_write = now;
        self.transmit(id, Duration::ZERO);
        Ok(count)
    }

    /// Withholds readiness that exists, and schedules its report.
    fn withhold_readiness(&mut self, id: EndId, read: bool, write: bool) {
        let socket = self.end(id).loop_socket().expect("a socket of the loop");
        socket.read_armed |= read;
        socket.write_armed |= write;
        let delay = self.short_delay();
        self.schedule(delay, ScheduledEvent::LateReadiness(id));
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

    /// Handles a connection request at a listener of the loop.
    pub(super) fn handle_syn(&mut self, peer: EndId, number: usize) {
        if !self.end(peer).open {
            return; // given up meanwhile
        }
        let listener = &self.listeners[number];
        if listener.token.is_none() {
            return self.refuse(peer);
        }
        if listener.backlog.len() >= 128 || self.inject(Fault::BacklogFull) {
            // The SYN is dropped; TCP retransmits it after a second.
            return self.schedule(Duration::from_secs(1), ScheduledEvent::Syn(peer, number));
        }
        let listener = &mut self.listeners[number];
        listener.backlog.push_back(peer.other());
        let armed = mem::replace(&mut listener.armed, false);
        if armed || !self.inject(Fault::EdgeWithheld) {
            self.queue_listener(number);
        }
        self.establish(peer);
    }

    /// Completes a connection at the end that dialed.
    fn establish(&mut self, dialer: EndId) {
        match &mut self.end(dialer).owner {
            Owner::Peer(peer_socket) => {
                peer_socket.state = PeerState::Open;
                self.peer_changed = true;
                self.write_as_peer(dialer);
            }
            Owner::Loop(socket) => {
                socket.dial = Dial::Done;
                self.add_readiness(dialer, false, true);
            }
        }
    }

    /// Refuses a connection: there is no listener.
    fn refuse(&mut self, dialer: EndId) {
        let end = self.end(dialer);
        end.error = Some(ErrorKind::ConnectionRefused);
        match &mut end.owner {
            Owner::Peer(peer_socket) => {
                peer_socket.state = PeerState::Refused;
                self.peer_changed = true;
            }
            Owner::Loop(socket) => {
                socket.dial = Dial::Done;
                end.broken = true;
                self.add_readiness(dialer, true, true);
            }
        }
    }

    /// connect(2): begins a dial of the loop.
    pub(super) fn dial(&mut self, addr: &Address) -> io::Result<EndId> {
        if self.inject(Fault::DialImpossible) {
            return Err(self
                .rng
                .pick(&[
                    ErrorKind::NetworkUnreachable,
                    ErrorKind::AddrNotAvailable,
                    ErrorKind::HostUnreachable,
                ])
                .into());
        }
        let from = self.fresh_addr();
        let socket = LoopSocket {
            dial: Dial::Pending,
            ..LoopSocket::default()
        };
        let accepting = self
            .listeners
            .iter()
            .position(|listener| listener.addr == *addr);
        let far = if accepting.is_some() {
            Owner::Loop(LoopSocket::default())
        } else {
            Owner::Peer(PeerSocket {
                reads: true,
                ..PeerSocket::default()
            })
        };
        let dialer = self.add_link([
            End::new(from, Owner::Loop(socket)),
            End::new(addr.clone(), far),
        ]);
        let delay = self.latency(dialer.link) * 2;
        if self.inject(Fault::DialEarlyEvent) {
            self.schedule(delay / 2, ScheduledEvent::LateReadiness(dialer));
            self.end(dialer)
                .loop_socket()
                .expect("just made")
                .write_armed = true;
        }
        match accepting {
            _ if self.inject(Fault::DialUnanswered) => {}
            Some(number) => self.schedule(delay, ScheduledEvent::Syn(dialer, number)),
            None => self.schedule(delay, ScheduledEvent::DialResult(dialer)),
        }
        Ok(dialer)
    }

    /// Decides a dial to a host.
    pub(super) fn finish_dial(&mut self, dialer: EndId) {
        if !self.end(dialer).open {
            return; // given up meanwhile
        }
        let addr = self.end(dialer.other()).addr.clone();
        if self.inject(Fault::DialMeetsItself) {
            self.end(dialer)
                .loop_socket()
                .expect("a dial is the loop's")
                .dial = Dial::SelfConnected;
            return self.add_readiness(dialer, false, true);
        }
        if !self.hosts.contains_key(&addr) || self.inject(Fault::DialRefused) {
            return self.refuse(dialer);
        }
        self.establish(dialer);
        let far = dialer.other();
        self.end(far)
            .peer_socket()
            .expect("the host's end is a peer")
            .state = PeerState::Open;
        self.hosts.get_mut(&addr).expect("just seen").push_back(far);
    }

    /// An address that is not in use.
    pub(super) fn fresh_addr(&self) -> Address {
        let number = self.links.len() as u32;
        let [_, high, middle, low] = number.to_be_bytes();
        core::net::SocketAddr::from(([10, high, middle, low], 40_000)).into()
    }
}
