//! What ends: commands carried out, deadlines passed, connections reaped, the loop itself.

use std::io;
use std::time::Instant;

use crate::command::Command;
use crate::guard::contain;
use crate::handler::Handler;
use crate::id::ConnectionId;
use crate::net::Net;
use crate::observe::Step;
use crate::reactor::slots::Due;
use crate::reactor::{Reactor, Turn};
use crate::reason::CloseReason;
use crate::state::Cause;
use crate::verdict::Stop;

/// The life of a loop.
#[derive(Clone, Copy, Debug)]
pub(super) enum Phase {
    /// It accepts and serves.
    Running,
    /// It accepts nothing more; until then what was read is answered and sent. `None`: as long as it takes.
    Draining(Option<Instant>),
    /// Nothing is open any more.
    Stopped,
}

impl Phase {
    pub(super) fn is_draining(self) -> bool {
        matches!(self, Phase::Draining(_))
    }

    /// Whether anything new may begin.
    pub(super) fn running(self) -> io::Result<()> {
        match self {
            Phase::Running => Ok(()),
            Phase::Draining(_) | Phase::Stopped => Err(io::Error::other("the loop is stopping")),
        }
    }

    pub(super) fn deadline(self) -> Option<Instant> {
        match self {
            Phase::Draining(until) => until,
            Phase::Running | Phase::Stopped => None,
        }
    }
}

impl<H: Handler, N: Net> Reactor<H, N> {
    /// Carries out what was asked for: by callbacks, of other connections; by anyone, of the loop.
    pub(super) fn deliver(&mut self) {
        if !self.shared.commands.is_empty() {
            self.carry_out_commands();
        }
        let asked = self.handle.asked().max(self.shared.commands.take_stop());
        match (asked, self.phase) {
            (Some(Stop::Gracefully), Phase::Running) => self.drain(),
            (Some(Stop::AtOnce), Phase::Running | Phase::Draining(_)) => self.drop_all(),
            _ => {}
        }
    }

    /// Carries out what callbacks asked of other connections.
    pub(super) fn carry_out_commands(&mut self) {
        let mut commands = std::mem::take(&mut self.shared.commands);
        while let Some((command, bytes)) = commands.pop() {
            let (Command::Send(id, _) | Command::Close(id) | Command::Resume(id)) = command;
            let Some(slot) = self.slots.open(id) else {
                self.shared.observe.note(|| Step::Stale);
                continue;
            };
            match command {
                Command::Send(..) => slot.connection.queue(bytes, &mut self.shared),
                Command::Close(_) => slot.connection.apply(Cause::Close(CloseReason::Handler), &mut self.shared),
                Command::Resume(_) => slot.connection.apply(Cause::Resume, &mut self.shared),
            }
            if self.touched.last() != Some(&id) {
                self.touched.push(id);
            }
        }
        // No callback has run meanwhile. What remains is the memory, for the next commands.
        self.shared.commands = commands;
    }

    /// Lets those go whose time is up.
    pub(super) fn expire(&mut self) {
        while let Some(id) = self.deadlines.pop(self.shared.now) {
            let slot = self.slots.get(id).expect("a deadline is disarmed before its connection goes");
            let before = std::mem::replace(&mut slot.due, Due::Never);
            self.shared.observe.note(|| Step::Deadline { id });
            slot.last_try(&mut self.shared);
            match before {
                // Who reads, however slowly, gets his replies: as long as some of them left there is another period.
                Due::Drained { unsent, .. } if slot.connection.unsent().len() < unsent => self.settle(id),
                // Who still sends would be answered with a reset; but not for ever.
                Due::Lingered { end, heard: true, .. } if end.is_none_or(|end| self.shared.now < end) => {
                    let again = self.shared.now.checked_add(self.shared.config.linger_timeout);
                    let until = again.into_iter().chain(end).min();
                    slot.due = Due::Lingered { until, end, heard: false };
                    if let Some(at) = until {
                        self.deadlines.arm(at, id);
                    }
                }
                _ => self.give_up(id),
            }
        }
        if self.phase.deadline().is_some_and(|until| until <= self.shared.now) {
            for id in self.slots.ids() {
                self.shared.observe.note(|| Step::Deadline { id });
                self.slots.get(id).expect("just listed").last_try(&mut self.shared);
                self.give_up(id);
            }
        }
    }

    /// Closes a connection whose time is up, whatever it still has to send.
    fn give_up(&mut self, id: ConnectionId) {
        let Some(slot) = self.slots.get(id) else { return };
        let unsent = slot.connection.unsent().len();
        slot.connection.apply(Cause::Close(CloseReason::Shutdown), &mut self.shared);
        slot.connection.apply(Cause::Expired { unsent }, &mut self.shared);
        self.settle(id);
    }

    /// Frees the slots of those who are over, and tells the handler.
    pub(super) fn reap(&mut self) {
        while let Some(id) = self.closed.pop_front() {
            // It may be listed twice.
            let Some(mut slot) = self.slots.remove(id) else { continue };
            // Closing the socket is not enough: a duplicate of its descriptor, in a child process say, would keep the events coming.
            if let Err(error) = self.net.deregister(&mut slot.stream) {
                log::warn!("cannot deregister connection {id}: {error}");
            }
            let reason = slot.connection.farewell(&mut self.handler, &mut self.shared);
            self.shared.observe.note(|| Step::Closed { id, reason: &reason });
            contain(|| drop(reason));
            self.relieve();
        }
    }

    /// What the turn leaves behind.
    pub(super) fn outlook(&mut self) -> Turn {
        match self.phase {
            Phase::Running => Turn::Running,
            Phase::Draining(_) if self.slots.len() > 0 => Turn::Running,
            Phase::Draining(_) | Phase::Stopped => {
                self.phase = Phase::Stopped;
                Turn::Stopped
            }
        }
    }

    /// Begins to stop: nobody new, and everybody ends when what was read from him is answered and sent.
    fn drain(&mut self) {
        let until = self.shared.now.checked_add(self.shared.config.drain_timeout);
        log::debug!("stopping: {} connections to drain", self.slots.len());
        self.unlisten();
        self.phase = Phase::Draining(until);
        for id in self.slots.ids() {
            let slot = self.slots.get(id).expect("just listed");
            if slot.is_to_end() {
                slot.connection.apply(Cause::Close(CloseReason::Shutdown), &mut self.shared);
                self.touched.push(id);
            }
        }
        self.flush(); // before the deadlines, however short they are
    }

    /// Stops as it is.
    fn drop_all(&mut self) {
        self.unlisten();
        self.phase = Phase::Stopped;
        for id in self.slots.ids() {
            let slot = self.slots.get(id).expect("just listed");
            slot.connection.apply(Cause::Fail(CloseReason::Shutdown), &mut self.shared);
            self.settle(id);
        }
    }
}
