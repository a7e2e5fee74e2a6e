//! Whom no socket calls: those of whom others asked something, those who got mail, and those whose time has come.

use crate::error::CloseReason;
use crate::error::panics::contain;
use crate::handler::{
    Callback, Command, Commands, Connections, Context, Handler, LoopContext, Shared,
};
use crate::id::ConnectionId;
use crate::net::Net;
use crate::observe::Step;
use crate::reactor::Reactor;
use crate::reactor::slots::Slots;
use crate::state::{Cause, State, Stop, Verdict};
use crate::threads::Letter;
use crate::time::{Alarm, Expiry, TimerId};

impl<H: Handler, N: Net> Reactor<H, N> {
    /// Carries out what was asked for: by callbacks, of other connections; by other threads; by anyone, of the loop.
    pub(super) fn deliver(&mut self) {
        let mailbox = &self.mailbox;
        if mailbox.has_rung() {
            self.slots.clear_last_lookup();
            let asked = if self.letters.is_empty() {
                mailbox.take(&mut self.letters, |weight, agreed| {
                    self.letters_weight = weight;
                    agreed.stop.take()
                })
            } else {
                mailbox.with(|agreed| agreed.stop.take_if(|how| *how == Stop::AtOnce))
            };
            self.asked = Stop::firmer(self.asked, asked);
        }
        if !self.letters.is_empty() {
            self.read_letters();
        }
        if !self.shared.commands.is_empty() {
            self.carry_out_commands();
            self.begin_dials();
        }
        // What a thread wrote before it asked for the end comes before the end.
        self.asked = Stop::firmer(self.asked, self.shared.commands.take_stop());
        if let Some(how) = self
            .asked
            .filter(|how| *how == Stop::AtOnce || self.letters.is_empty())
        {
            self.come_to_an_end(how);
            self.asked = None; // not before: a panic must not make the loop forget it
        }
    }

    /// Begins those connections that callbacks have asked for by now. What the handler asks for when one fails comes with the next turn.
    pub(super) fn begin_dials(&mut self) {
        for _ in 0..self.shared.commands.dials() {
            let Some(dial) = self.shared.commands.pop_dial() else {
                break;
            };
            self.slots.clear_last_lookup();
            self.begin_for_handler(dial);
        }
    }

    /// Carries out what callbacks asked of other connections.
    #[inline(never)] // not into `serve`
    pub(super) fn carry_out_commands(&mut self) {
        let commands = std::mem::take(&mut self.shared.commands);
        let mut in_hand = InHand {
            reactor: self,
            commands,
        };
        while let Some((command, bytes)) = in_hand.commands.pop() {
            in_hand.reactor.change(command, &bytes);
        }
        in_hand
            .commands
            .shrink(in_hand.reactor.shared.config.retained_capacity);
    }

    /// Reads letters from other threads, as many as a turn may.
    #[inline(never)] // so that a turn without letters costs no more than the question
    fn read_letters(&mut self) {
        for _ in 0..self.shared.config.calls_per_turn {
            let Some(letter) = self.letters.pop_front() else {
                break;
            };
            self.carry_out_letter(letter);
        }
        self.shrink_letters();
    }

    /// Does what one letter from another thread asks.
    fn carry_out_letter(&mut self, letter: Letter<H::Mail>) {
        self.slots.clear_last_lookup();
        self.shared.observe.note(|| Step::Letter);
        match letter {
            Letter::Send(id, frame) => self.change(Command::Send(id), &frame),
            Letter::Close(id) => self.change(Command::Close(id), &[]),
            Letter::Mail(mail) => self.call_for_loop(|handler, cx| handler.mail(mail, cx)),
        }
        self.relieve();
    }

    /// Changes an open connection; what follows from that comes when its replies are written. One that is connecting can be closed.
    fn change(&mut self, command: Command, bytes: &[u8]) {
        let (Command::Send(id) | Command::Close(id) | Command::Resume(id)) = command;
        let slot = self
            .slots
            .get(id)
            .filter(|slot| match slot.connection.state() {
                State::Open(_) => true,
                State::Connecting => matches!(command, Command::Close(_)),
                _ => false,
            });
        let Some(slot) = slot else {
            return self.shared.observe.note(|| Step::Stale);
        };
        let (connection, shared) = (&mut slot.connection, &mut self.shared);
        match command {
            Command::Send(_) => connection.queue(bytes, shared),
            Command::Close(_) => connection.apply(Cause::Close(CloseReason::Handler), shared),
            Command::Resume(_) => connection.resume(shared),
        }
        self.touch(id);
    }

    /// Takes note that a connection was changed outside of its own batch: what follows comes when the turn flushes.
    pub(super) fn touch(&mut self, id: ConnectionId) {
        let Self {
            slots,
            touched,
            buffered,
            ..
        } = self;
        Reach {
            slots,
            touched,
            buffered,
        }
        .touch(id);
    }

    /// Runs a callback on an open connection; whether it was there.
    pub(super) fn call(
        &mut self,
        id: ConnectionId,
        callback: impl FnOnce(&mut H, &mut Context<'_, H>) -> Verdict,
    ) -> bool {
        let Self {
            handler,
            shared,
            slots,
            touched,
            buffered,
            ..
        } = self;
        let was_there = Reach {
            slots,
            touched,
            buffered,
        }
        .run(id, shared, |cx| callback(handler, cx));
        self.relieve();
        was_there
    }

    /// Runs a callback that belongs to no connection.
    fn call_for_loop(&mut self, callback: impl FnOnce(&mut H, &mut LoopContext<'_, H>)) {
        let Self {
            handler,
            shared,
            slots,
            touched,
            buffered,
            ..
        } = self;
        let mut connections = Reach {
            slots,
            touched,
            buffered,
        };
        let called = contain(|| {
            callback(
                handler,
                &mut LoopContext {
                    shared: &mut *shared,
                    connections: &mut connections,
                },
            );
        });
        if called.is_none() {
            if let Some(suppressed) = shared.throttle.admit(("panic", None), shared.clock.now()) {
                log::error!("the handler panicked in a callback for the loop{suppressed}");
            }
            shared.observe.note(|| Step::Panicked { id: None });
        }
    }

    /// Calls those whose time has come, and looks at the connections whose may have.
    pub(super) fn expire(&mut self) {
        self.slots.clear_last_lookup();
        for _ in 0..self.shared.config.calls_per_turn {
            match self.shared.timers.pop(&self.shared.clock) {
                Some(Alarm::Look(slot)) => self.look(slot),
                Some(Alarm::Timer(timer)) => self.fire(timer),
                None => break,
            }
            self.relieve();
            self.slots.clear_last_lookup();
        }
        self.give_up_if_the_time_is_over();
    }

    /// Looks whether one of a connection's deadlines has passed. As a rule it has moved on meanwhile.
    fn look(&mut self, slot: usize) {
        let Some(slot) = self.slots.at(slot) else {
            return self.shared.observe.note(|| Step::Stale);
        };
        let id = slot.connection.id();
        slot.look = None;
        if let State::Connecting = slot.connection.state() {
            self.expire_attempt(id);
            return self.settle(id);
        }
        // An open connection on the resume queue waits for the loop, and not the loop for its peer.
        let is_ours = slot.queued && matches!(slot.connection.state(), State::Open(_));
        if let Some(Expiry::Write | Expiry::Drain) =
            slot.connection.due_expiry(!is_ours, &self.shared)
        {
            // A peer that reads, however slowly, is not given up: if some of it leaves now there is another period.
            slot.last_try(&mut self.shared);
        }
        if let Some(expiry) = slot.connection.due_expiry(!is_ours, &self.shared) {
            slot.connection
                .carry_out_expiry(expiry, &mut self.handler, &mut self.shared);
        }
        self.touch(id);
    }

    fn fire(&mut self, timer: TimerId) {
        let Some(id) = timer.owner() else {
            self.shared.observe.note(|| Step::Timer { timer });
            return self.call_for_loop(|handler, cx| handler.loop_timer(timer, cx));
        };
        // It may be closing: then nothing is called any more, but its close.
        if self.slots.open(id).is_none() {
            return self.shared.observe.note(|| Step::Stale);
        }
        self.shared.observe.note(|| Step::Timer { timer });
        self.call(id, |handler, cx| handler.timer(timer, cx));
    }
}

/// Commands that are being carried out. No callback runs meanwhile, so there are no others; what
/// remains goes back afterwards: the memory as a rule, and after a panic those that are not carried
/// out yet.
struct InHand<'r, H: Handler, N: Net> {
    reactor: &'r mut Reactor<H, N>,
    commands: Commands,
}

impl<H: Handler, N: Net> Drop for InHand<'_, H, N> {
    fn drop(&mut self) {
        std::mem::swap(&mut self.reactor.shared.commands, &mut self.commands);
    }
}

/// The way to an open connection outside of its own batch.
struct Reach<'r, H: Handler, N: Net> {
    slots: &'r mut Slots<H, N>,
    touched: &'r mut Vec<ConnectionId>,
    buffered: &'r mut usize,
}

impl<H: Handler, N: Net> Reach<'_, H, N> {
    fn run(
        &mut self,
        id: ConnectionId,
        shared: &mut Shared,
        callback: impl FnOnce(&mut Context<'_, H>) -> Verdict,
    ) -> bool {
        let Some(slot) = self.slots.open(id) else {
            return false;
        };
        slot.connection.run(shared, callback);
        self.touch(id);
        true
    }

    fn touch(&mut self, id: ConnectionId) {
        let Some(slot) = self.slots.get(id) else {
            return;
        };
        slot.account(self.buffered);
        if !slot.touched {
            slot.touched = true;
            self.touched.push(id);
        }
    }
}

impl<H: Handler, N: Net> Connections<H> for Reach<'_, H, N> {
    fn call(
        &mut self,
        id: ConnectionId,
        shared: &mut Shared,
        callback: &mut Callback<'_, H>,
    ) -> bool {
        self.run(id, shared, callback)
    }
}
