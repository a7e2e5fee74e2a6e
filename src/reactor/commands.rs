//! Commands from callbacks, and messages from other threads (posts).
//!
//! A callback cannot change another connection while it runs. It queues a command, which the loop
//! carries out afterwards. Output that results is written when the turn flushes.

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
    /// Handles posts, then commands, then new outgoing connections, then a requested stop.
    pub(super) fn deliver(&mut self) {
        let mailbox = &self.mailbox;
        if mailbox.is_notified() {
            self.slots.clear_panic_suspect();
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
        // Messages that a thread sent before its stop request are handled before the stop.
        self.requested_stop = Stop::firmer(self.requested_stop, self.shared.commands.take_stop());
        if let Some(how) = self
            .requested_stop
            .filter(|how| *how == Stop::AtOnce || self.posts.is_empty())
        {
            self.begin_stop(how);
            self.requested_stop = None; // last: a panic must not lose the request
        }
    }

    /// Starts the outgoing connections that callbacks have requested so far. What the handler
    /// requests when one fails is started in the next turn.
    pub(super) fn start_dials(&mut self) {
        for _ in 0..self.shared.commands.dials() {
            let Some(dial) = self.shared.commands.pop_dial() else {
                break;
            };
            self.slots.clear_panic_suspect();
            self.start_dial(dial);
        }
        let retained = self.shared.config.retained_capacity;
        self.shared.commands.shrink_dials(retained);
    }

    /// Carries out the commands that callbacks queued for other connections.
    #[inline(never)] // keep it out of `serve`
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

    /// Handles posts, at most [`Config::calls_per_turn`](crate::Config::calls_per_turn).
    #[inline(never)] // a turn without posts pays only for the check
    fn run_posts(&mut self) {
        for _ in 0..self.shared.config.calls_per_turn {
            let Some(post) = self.posts.pop_front() else {
                break;
            };
            self.run_post(post);
        }
        self.shrink_posts();
    }

    /// Handles one post.
    fn run_post(&mut self, post: Post<H::Mail>) {
        self.slots.clear_panic_suspect();
        self.shared.observe.note(|| Step::Post);
        match post {
            Post::Send(id, frame) => self.run_command(Command::Send(id), &frame),
            Post::Close(id) => self.run_command(Command::Close(id), &[]),
            Post::Mail(mail) => self.call_loop_handler(|handler, cx| handler.mail(mail, cx)),
        }
        self.enforce_loop_limits();
    }

    /// Applies a command to its connection, and schedules a flush for it. Open connections take all
    /// commands; one that is connecting can only be closed.
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
        self.schedule_flush(id);
    }

    /// Puts a connection on the pending-flush list, after a change outside of its own batch. The
    /// turn's flush writes its output and reschedules it.
    pub(super) fn schedule_flush(&mut self, id: ConnectionId) {
        self.split().2.schedule_flush(id);
    }

    /// Borrows the handler, what callbacks share, and the open connections at once.
    fn split(&mut self) -> (&mut H, &mut Shared, OpenConnections<'_, H, N>) {
        let connections = OpenConnections {
            slots: &mut self.slots,
            pending_flush: &mut self.pending_flush,
            buffered: &mut self.buffered,
        };
        (&mut self.handler, &mut self.shared, connections)
    }

    /// Runs a callback on an open connection. Returns whether the connection exists and is open.
    pub(super) fn call(
        &mut self,
        id: ConnectionId,
        callback: impl FnOnce(&mut H, &mut Context<'_, H>) -> Verdict,
    ) -> bool {
        let (handler, shared, mut connections) = self.split();
        let was_there = connections.run(id, shared, |cx| callback(handler, cx));
        self.enforce_loop_limits();
        was_there
    }

    /// Runs a callback that belongs to no connection.
    pub(super) fn call_loop_handler(
        &mut self,
        callback: impl FnOnce(&mut H, &mut LoopContext<'_, H>),
    ) {
        let (handler, shared, mut connections) = self.split();
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

/// The commands that are being carried out, taken out of `Shared` meanwhile. No callback runs, so
/// no command is added.
///
/// When dropped, it puts the queue back: normally empty, for its memory; after a panic, with the
/// commands that are not carried out yet.
struct RunningCommands<'r, H: Handler, N: Net> {
    reactor: &'r mut Reactor<H, N>,
    commands: Commands,
}

impl<H: Handler, N: Net> Drop for RunningCommands<'_, H, N> {
    fn drop(&mut self) {
        std::mem::swap(&mut self.reactor.shared.commands, &mut self.commands);
    }
}

/// Access to any open connection, outside of its own batch.
struct OpenConnections<'r, H: Handler, N: Net> {
    slots: &'r mut Slots<H, N>,
    pending_flush: &'r mut Vec<ConnectionId>,
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
        self.schedule_flush(id);
        true
    }

    fn schedule_flush(&mut self, id: ConnectionId) {
        let Some(slot) = self.slots.get(id) else {
            return;
        };
        slot.count_memory(self.buffered);
        if !slot.in_pending_flush {
            slot.in_pending_flush = true;
            self.pending_flush.push(id);
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
