//! Whom no socket calls: those of whom others asked something, those who got mail, and those whose time has come.

use crate::error::CloseReason;
use crate::error::panics::catch_panic;
use crate::handler::{
    Callback, Command, Commands, ConnectionAccess, Context, Handler, LoopContext, Shared,
};
use crate::id::ConnectionId;
use crate::net::Net;
use crate::observe::Step;
use crate::reactor::Reactor;
use crate::reactor::slots::Slots;
use crate::state::{State, Stop, Trigger, Verdict};
use crate::threads::Post;

impl<H: Handler, N: Net> Reactor<H, N> {
    /// Carries out what was asked for: by callbacks, of other connections; by other threads; by anyone, of the loop.
    pub(super) fn deliver(&mut self) {
        let mailbox = &self.mailbox;
        if mailbox.is_notified() {
            self.slots.clear_last_lookup();
            let requested_stop = if self.posts.is_empty() {
                mailbox.take(&mut self.posts, |weight, state| {
                    self.posts_weight = weight;
                    state.stop.take()
                })
            } else {
                mailbox.with(|state| state.stop.take_if(|how| *how == Stop::AtOnce))
            };
            self.requested_stop = Stop::firmer(self.requested_stop, requested_stop);
        }
        if !self.posts.is_empty() {
            self.run_posts();
        }
        if !self.shared.commands.is_empty() {
            self.run_commands();
            self.start_dials();
        }
        // What a thread wrote before it asked for the end comes before the end.
        self.requested_stop = Stop::firmer(self.requested_stop, self.shared.commands.take_stop());
        if let Some(how) = self
            .requested_stop
            .filter(|how| *how == Stop::AtOnce || self.posts.is_empty())
        {
            self.begin_stop(how);
            self.requested_stop = None; // not before: a panic must not make the loop forget it
        }
    }

    /// Begins those connections that callbacks have asked for by now. What the handler asks for when one fails comes with the next turn.
    pub(super) fn start_dials(&mut self) {
        for _ in 0..self.shared.commands.dials() {
            let Some(dial) = self.shared.commands.pop_dial() else {
                break;
            };
            self.slots.clear_last_lookup();
            self.start_dial(dial);
        }
        let retained = self.shared.config.retained_capacity;
        self.shared.commands.shrink(retained);
    }

    /// Carries out what callbacks asked of other connections.
    #[inline(never)] // not into `serve`
    pub(super) fn run_commands(&mut self) {
        let commands = std::mem::take(&mut self.shared.commands);
        let mut running = RunningCommands {
            reactor: self,
            commands,
        };
        while let Some((command, bytes)) = running.commands.pop() {
            running.reactor.run_command(command, &bytes);
        }
        running
            .commands
            .shrink(running.reactor.shared.config.retained_capacity);
    }

    /// Reads letters from other threads, as many as a turn may.
    #[inline(never)] // so that a turn without letters costs no more than the question
    fn run_posts(&mut self) {
        for _ in 0..self.shared.config.calls_per_turn {
            let Some(post) = self.posts.pop_front() else {
                break;
            };
            self.run_post(post);
        }
        self.shrink_posts();
    }

    /// Does what one letter from another thread asks.
    fn run_post(&mut self, post: Post<H::Mail>) {
        self.slots.clear_last_lookup();
        self.shared.observe.note(|| Step::Post);
        match post {
            Post::Send(id, frame) => self.run_command(Command::Send(id), &frame),
            Post::Close(id) => self.run_command(Command::Close(id), &[]),
            Post::Mail(mail) => self.call_loop_handler(|handler, cx| handler.mail(mail, cx)),
        }
        self.run_commands_if_full();
    }

    /// Changes an open connection; what follows from that comes when its replies are written. One that is connecting can be closed.
    fn run_command(&mut self, command: Command, bytes: &[u8]) {
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
            Command::Close(_) => connection.apply(Trigger::Close(CloseReason::Handler), shared),
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
        OpenConnections {
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
        let was_there = OpenConnections {
            slots,
            touched,
            buffered,
        }
        .run(id, shared, |cx| callback(handler, cx));
        self.run_commands_if_full();
        was_there
    }

    /// Runs a callback that belongs to no connection.
    pub(super) fn call_loop_handler(
        &mut self,
        callback: impl FnOnce(&mut H, &mut LoopContext<'_, H>),
    ) {
        let Self {
            handler,
            shared,
            slots,
            touched,
            buffered,
            ..
        } = self;
        let mut connections = OpenConnections {
            slots,
            touched,
            buffered,
        };
        let called = catch_panic(|| {
            callback(
                handler,
                &mut LoopContext {
                    shared: &mut *shared,
                    connections: &mut connections,
                },
            );
        });
        if called.is_none() {
            if let Some(suppressed) = shared
                .log_throttle
                .allow(("panic", None), shared.clock.now())
            {
                log::error!("the handler panicked in a callback for the loop{suppressed}");
            }
            shared.observe.note(|| Step::Panicked { id: None });
        }
    }
}

/// Commands that are being carried out. No callback runs meanwhile, so there are no others; what
/// remains goes back afterwards: the memory as a rule, and after a panic those that are not carried
/// out yet.
struct RunningCommands<'r, H: Handler, N: Net> {
    reactor: &'r mut Reactor<H, N>,
    commands: Commands,
}

impl<H: Handler, N: Net> Drop for RunningCommands<'_, H, N> {
    fn drop(&mut self) {
        std::mem::swap(&mut self.reactor.shared.commands, &mut self.commands);
    }
}

/// The way to an open connection outside of its own batch.
struct OpenConnections<'r, H: Handler, N: Net> {
    slots: &'r mut Slots<H, N>,
    touched: &'r mut Vec<ConnectionId>,
    buffered: &'r mut usize,
}

impl<H: Handler, N: Net> OpenConnections<'_, H, N> {
    fn run(
        &mut self,
        id: ConnectionId,
        shared: &mut Shared,
        callback: impl FnOnce(&mut Context<'_, H>) -> Verdict,
    ) -> bool {
        let Some(slot) = self.slots.get_open(id) else {
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
        slot.count_memory(self.buffered);
        if !slot.touched {
            slot.touched = true;
            self.touched.push(id);
        }
    }
}

impl<H: Handler, N: Net> ConnectionAccess<H> for OpenConnections<'_, H, N> {
    fn call(
        &mut self,
        id: ConnectionId,
        shared: &mut Shared,
        callback: &mut Callback<'_, H>,
    ) -> bool {
        self.run(id, shared, callback)
    }
}
