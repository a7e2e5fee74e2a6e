//! A callback's view of the loop, for callbacks that belong to no connection.

use std::fmt;
use std::time::{Duration, Instant};

use super::{Context, Handler, MessageOf, Shared};
use crate::handler::{Command, Dial};
use crate::id::ConnectionId;
use crate::net::Address;
use crate::state::{Stop, Verdict};
use crate::time::TimerId;

/// A callback's access to the loop and to all its connections.
///
/// A handler gets it in [`Handler::mail`] and [`Handler::loop_timer`].
pub struct LoopContext<'c, H: Handler> {
    pub(crate) shared: &'c mut Shared,
    pub(crate) connections: &'c mut (dyn ConnectionAccess<H> + 'c),
}

/// Access to a connection by its id.
pub(crate) trait ConnectionAccess<H: Handler> {
    /// Runs `callback` on an open connection. Returns whether the connection exists and is open.
    fn call(
        &mut self,
        id: ConnectionId,
        shared: &mut Shared,
        callback: &mut Callback<'_, H>,
    ) -> bool;
}

/// A function that runs on one connection.
pub(crate) type Callback<'c, H> = dyn FnMut(&mut Context<'_, H>) -> Verdict + 'c;

impl<H: Handler> LoopContext<'_, H> {
    /// Returns the time at which this turn of the loop began.
    pub fn now(&self) -> Instant {
        self.shared.now()
    }

    /// Runs `callback` on an open connection, as if it were one of the handler's own callbacks.
    /// Returns false if the connection is gone or not open; then `callback` is not run.
    ///
    /// The verdict that `callback` returns applies to that connection.
    pub fn with(
        &mut self,
        id: ConnectionId,
        callback: impl FnOnce(&mut Context<'_, H>) -> Verdict,
    ) -> bool {
        let mut callback = Some(callback);
        self.connections.call(id, self.shared, &mut |cx| {
            callback
                .take()
                .map_or(Verdict::Continue, |callback| callback(cx))
        })
    }

    /// Sends `message` to a connection, as [`Context::send`] does. Returns false if the connection
    /// is gone or not open.
    pub fn send_to<'m>(&mut self, id: ConnectionId, message: impl Into<MessageOf<'m, H>>) -> bool {
        self.with(id, |cx| {
            cx.send(message);
            Verdict::Continue
        })
    }

    /// Sends one message to many connections. Returns the number of connections that were open.
    ///
    /// The message is encoded once, by the codec of the first open connection, and each open
    /// connection queues a copy. If that codec cannot encode it, that connection closes with
    /// [`CloseReason::Unencodable`](crate::CloseReason::Unencodable), and no connection is sent
    /// anything. Other failures are handled for each connection as by [`Context::send`].
    ///
    /// **Trap:** all of them must speak the protocol that this codec writes.
    pub fn send_to_many<'m>(
        &mut self,
        to: impl IntoIterator<Item = ConnectionId>,
        message: impl Into<MessageOf<'m, H>>,
    ) -> usize {
        let (mut message, mut encoded, mut sent) = (Some(message), None, 0);
        for id in to {
            let is_open = self.with(id, |cx| {
                if let Some(message) = message.take() {
                    encoded = cx.encode(message);
                }
                if let Some(bytes) = &encoded {
                    cx.send_encoded(bytes);
                }
                Verdict::Continue
            });
            if message.is_none() && encoded.is_none() {
                break; // the codec could not encode it
            }
            sent += usize::from(is_open);
        }
        sent
    }

    /// Closes a connection when its queued replies are sent. An outgoing connection that is not
    /// established yet is given up.
    ///
    /// The loop carries this out after the messages of this turn.
    pub fn close(&mut self, id: ConnectionId) {
        self.shared.commands.push(Command::Close(id));
    }

    /// Ends the pause of a connection, after the messages of this turn; see [`Context::resume`].
    pub fn resume(&mut self, id: ConnectionId) {
        self.shared.commands.push(Command::Resume(id));
    }

    /// Begins an outgoing connection; see [`Context::connect`].
    pub fn connect(&mut self, addrs: Vec<Address>, timeout: Duration, key: u64) {
        self.shared.commands.dial(Dial {
            addrs,
            timeout,
            key,
        });
    }

    /// Sets a timer of the loop: [`Handler::loop_timer`] is called at `at`.
    ///
    /// It fires no earlier and no later than described at [`Context::set_timer`].
    pub fn set_timer(&mut self, at: Instant) -> TimerId {
        self.shared.timers.set(at, None, &self.shared.clock)
    }

    /// Cancels a timer, of the loop or of a connection. Returns true if it had not fired yet.
    pub fn cancel_timer(&mut self, timer: TimerId) -> bool {
        self.shared.timers.cancel(timer)
    }

    /// Stops the loop, as a [`Handle`](crate::Handle) does from another thread.
    pub fn stop(&mut self, how: Stop) {
        self.shared.commands.stop(how);
    }
}

impl<H: Handler> fmt::Debug for LoopContext<'_, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoopContext")
            .field("now", &self.now())
            .finish_non_exhaustive()
    }
}
