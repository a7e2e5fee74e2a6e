//! The TCP of both ends: carries bytes, FINs and resets.

use std::io::{self, ErrorKind};
use std::mem;
use std::time::Duration;

use super::link::{Dial, End, EndId, Link, Owner, Path, Pipe, Tail};
use super::world::{ScheduledEvent, World};
use super::{Blame, Fault, PeerState};

impl World {
    pub(super) fn end(&mut self, id: EndId) -> &mut End {
        &mut self.links[id.link].ends[id.side]
    }

    /// The outgoing and the incoming pipe of an end.
    pub(super) fn pipes(&mut self, id: EndId) -> (&mut Pipe, &mut Pipe) {
        let (_, outgoing, incoming) = self.links[id.link].at(id.side);
        (outgoing, incoming)
    }

    /// Adds a link. Its first end is the one that dials.
    pub(super) fn add_link(&mut self, ends: [End; 2]) -> EndId {
        let path = self
            .path
            .clone()
            .unwrap_or_else(|| Path::random(&mut self.rng));
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

    /// Draws how long the next arrival on a link takes.
    pub(super) fn latency(&mut self, link: usize) -> Duration {
        let Path {
            latency, jitter, ..
        } = self.links[link].path;
        let wait = self.links[link].clogged_until.saturating_sub(self.now);
        wait + latency + self.rng.duration(jitter)
    }

    /// Schedules the next arrival of what this end has sent, unless one is scheduled.
    pub(super) fn transmit(&mut self, from: EndId, busy: Duration) {
        let buffer = self.links[from.link].path.receive_buffer;
        let pipe = self.pipes(from).0;
        if pipe.moving || !pipe.can_move(buffer) {
            return;
        }
        pipe.moving = true;
        if self.inject(Fault::Clogged) {
            let clogged = Duration::from_millis(self.rng.magnitude(1, 5_000) as u64);
            self.links[from.link].clogged_until = self.now + clogged;
        }
        let delay = if busy.is_zero() {
            self.latency(from.link)
        } else {
            busy
        };
        self.schedule(delay, ScheduledEvent::Delivery(from));
    }

    /// Delivers the next segment, FIN or reset of this end to the other end.
    pub(super) fn deliver(&mut self, from: EndId) {
        let to = from.other();
        let Path {
            receive_buffer,
            segment,
            byte_time,
            ..
        } = self.links[from.link].path;
        let with_data = self.would_inject(Fault::EndWithData);
        if self.links[from.link].blame.is_none() && self.inject(Fault::ResetInTransit) {
            self.reset_link(from.link);
        }
        let now = self.now;
        let pipe = self.pipes(from).0;
        pipe.moving = false;
        let count = pipe
            .in_flight()
            .min(segment)
            .min(receive_buffer.saturating_sub(pipe.arrived));
        if pipe.arrived == 0 {
            pipe.since = now;
        }
        pipe.arrived += count;
        let is_due =
            pipe.in_flight() == 0 || (pipe.tail == Tail::Reset && pipe.arrived >= receive_buffer);
        let tail = pipe.tail;
        // The FIN arrives with the last bytes, or after them.
        let end_arrives =
            matches!(tail, Tail::Fin | Tail::Reset) && is_due && (count == 0 || with_data);
        if end_arrives {
            pipe.tail = Tail::Delivered;
        }
        self.fault_counts[Fault::EndWithData] += u64::from(end_arrives && count > 0);
        if !self.end(to).open {
            if count > 0 {
                let by = self.owner(to);
                self.abort(to, by); // data for a closed socket
            }
        } else if end_arrives && tail == Tail::Reset {
            self.handle_reset(to);
        } else if count > 0 || end_arrives {
            self.end(to).ended |= end_arrives;
            self.notify_arrival(to, end_arrives);
            self.arrived += (count as u64 + u64::from(end_arrives))
                * u64::from(self.end(to).loop_socket().is_some());
        }
        self.handle_send_room(from);
        self.transmit(from, byte_time * count as u32);
    }

    /// Reports bytes or a FIN that arrived at an open end.
    fn notify_arrival(&mut self, to: EndId, end: bool) {
        if !end && self.end(to).loop_socket().is_some() && self.inject(Fault::Urgent) {
            let incoming = self.pipes(to).1;
            incoming.mark.get_or_insert(incoming.arrived);
            let socket = self.end(to).loop_socket().expect("just seen");
            socket.pending_event.urgent = true;
            return self.add_readiness(to, true, false);
        }
        if let Some(socket) = self.end(to).loop_socket() {
            let armed = mem::replace(&mut socket.read_armed, false);
            // If a short read means that the socket is empty, a FIN that arrives after it must be
            // reported.
            if armed || (end && self.short_read_is_empty) || !self.inject(Fault::EdgeWithheld) {
                self.add_readiness(to, true, false);
            }
        }
        self.read_as_peer(to);
    }

    /// Reads what has arrived, if the end is a peer that reads.
    pub(super) fn read_as_peer(&mut self, peer: EndId) {
        let (end, _, pipe) = self.links[peer.link].at(peer.side);
        let Owner::Peer(peer_socket) = &mut end.owner else {
            return;
        };
        if !peer_socket.reads || !end.open {
            return;
        }
        let count = mem::take(&mut pipe.arrived);
        peer_socket.received.extend(pipe.bytes.drain(..count));
        let before = peer_socket.state;
        if end.broken {
            peer_socket.state = PeerState::Reset;
        } else if pipe.tail == Tail::Delivered && pipe.bytes.is_empty() {
            peer_socket.state = PeerState::Ended;
        }
        self.peer_changed |= count > 0 || peer_socket.state != before;
        if count > 0 {
            self.transmit(peer.other(), Duration::ZERO);
        }
    }

    /// Handles a reset that arrives at an end.
    fn handle_reset(&mut self, to: EndId) {
        if self.end(to).broken {
            return; // already reset
        }
        let purges = self.inject(Fault::ResetPurges);
        let (outgoing, incoming) = self.pipes(to);
        // What has arrived stays readable at the other end.
        outgoing.bytes.truncate(outgoing.arrived);
        if outgoing.tail != Tail::Reset {
            outgoing.tail = Tail::Delivered;
        }
        if purges {
            incoming.clear();
        } else {
            incoming.bytes.truncate(incoming.arrived);
        }
        let end = self.end(to);
        end.broken = true;
        // After a FIN, Linux reports a reset to writers only, as EPIPE (tcp_reset). A system that
        // purges unread bytes must not report that FIN as a clean end.
        end.ended &= !purges;
        end.error = Some(if end.ended {
            ErrorKind::BrokenPipe
        } else {
            ErrorKind::ConnectionReset
        });
        self.add_readiness(to, true, true);
        self.read_as_peer(to);
    }

    /// Handles room that became free in an end's send buffer.
    fn handle_send_room(&mut self, from: EndId) {
        let buffer = self.links[from.link].path.send_buffer;
        let in_flight = self.pipes(from).0.in_flight();
        match &mut self.end(from).owner {
            // Linux reports room only when a third is free (sk_stream_is_writeable).
            Owner::Loop(socket) if socket.write_armed && in_flight * 3 <= buffer * 2 => {
                socket.write_armed = false;
                self.add_readiness(from, false, true);
            }
            Owner::Loop(_) => {}
            Owner::Peer(_) => self.write_as_peer(from),
        }
    }

    /// Moves a peer's unsent bytes into its send buffer, as far as there is room.
    pub(super) fn write_as_peer(&mut self, peer: EndId) {
        let buffer = self.links[peer.link].path.send_buffer;
        let (end, pipe, _) = self.links[peer.link].at(peer.side);
        let Owner::Peer(peer_socket) = &mut end.owner else {
            return;
        };
        if end.broken || pipe.tail != Tail::Open || peer_socket.state == PeerState::Connecting {
            return;
        }
        let count = peer_socket
            .outgoing
            .len()
            .min(buffer.saturating_sub(pipe.in_flight()));
        pipe.bytes.extend(peer_socket.outgoing.drain(..count));
        if peer_socket.shut && peer_socket.outgoing.is_empty() {
            pipe.tail = Tail::Fin;
        }
        self.transmit(peer, Duration::ZERO);
    }

    /// Adds readiness to a socket of the loop, and queues it for the poller.
    pub(super) fn add_readiness(&mut self, id: EndId, readable: bool, writable: bool) {
        let Some(socket) = self.end(id).loop_socket() else {
            return;
        };
        socket.pending_event.readable |= readable;
        socket.pending_event.writable |= writable;
        self.queue_socket(id);
    }

    /// Reports readiness that a fault withheld.
    pub(super) fn report_late(&mut self, id: EndId) {
        let Some(socket) = self.end(id).loop_socket() else {
            return;
        };
        let (read, write) = (
            mem::take(&mut socket.read_armed),
            mem::take(&mut socket.write_armed),
        );
        self.add_readiness(id, read, write);
    }

    /// close(2): sends a FIN if all was read, else a reset.
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

    /// Closes an end with a reset. Some of what it sent may still arrive before the reset.
    pub(super) fn abort(&mut self, id: EndId, by: Blame) {
        self.links[id.link].blame.get_or_insert(by);
        self.end(id).open = false;
        let window = self.links[id.link].path.receive_buffer;
        let keep = self.pipes(id).0.in_flight().min(window);
        let keep = self.rng.between(0, keep);
        let (outgoing, incoming) = self.pipes(id);
        incoming.clear();
        incoming.tail = Tail::Delivered;
        outgoing.bytes.truncate(outgoing.arrived + keep);
        // Also after a FIN that is already sent.
        outgoing.tail = Tail::Reset;
        self.transmit(id, Duration::ZERO);
    }

    /// Resets a connection from the network, for both ends.
    pub(super) fn reset_link(&mut self, link: usize) {
        self.links[link].blame.get_or_insert(Blame::Net);
        for side in 0..2 {
            let pipe = &mut self.links[link].pipes[side];
            pipe.bytes.truncate(pipe.arrived);
            pipe.tail = Tail::Reset;
            self.transmit(EndId { link, side }, Duration::ZERO);
        }
    }

    /// The side that owns a socket.
    fn owner(&mut self, id: EndId) -> Blame {
        if self.end(id).loop_socket().is_some() {
            Blame::Loop
        } else {
            Blame::Peer
        }
    }

    /// True unless this end has a dial that is not decided.
    fn is_established(&self, id: EndId) -> bool {
        match &self.links[id.link].ends[id.side].owner {
            Owner::Loop(socket) => socket.dial != Dial::Pending,
            Owner::Peer(peer_socket) => peer_socket.state != PeerState::Connecting,
        }
    }

    /// Breaks a connection of the loop with an error of the operating system.
    pub(super) fn fail_connection(&mut self, id: EndId, error: ErrorKind) -> io::Error {
        self.abort(id, Blame::Net);
        let end = self.end(id);
        (end.open, end.broken) = (true, true);
        self.add_readiness(id, true, true);
        error.into()
    }
}
