//! A callback's view of the loop, where no single connection is concerned.

use std::fmt;
use std::time::{Duration, Instant};

use super::{Context, Handler, MessageOf, Shared};
use crate::handler::{Command, Dial};
use crate::id::ConnectionId;
use crate::net::Address;
use crate::state::{Stop, Verdict};
use crate::time::TimerId;

/// What a callback that belongs to no connection may do: to any of them, and to the loop.
pub struct LoopContext<'c, H: Handler> {
    pub(crate) shared: &'c mut Shared,
    pub(crate) connections: &'c mut (dyn ConnectionAccess<H> + 'c),
}

/// The way to a connection by its name.
pub(crate) trait ConnectionAccess<H: Handler> {
    /// Runs `callback` on an open connection; whether it was there.
    fn call(
        &mut self,
        id: ConnectionId,
        shared: &mut Shared,
        callback: &mut Callback<'_, H>,
    ) -> bool;
}

/// What is done to a connection.
pub(crate) type Callback<'c, H> = dyn FnMut(&mut Context<'_, H>) -> Verdict + 'c;

impl<H: Handler> LoopContext<'_, H> {
    /// The time: when this turn of the loop began.
    pub fn now(&self) -> Instant {
        self.shared.now()
    }

    /// Runs `callback` on an open connection, as if it were one of the handler's own; whether the connection was there and open.
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

    /// Sends `message` to a connection, as [`Context::send`] does; whether it was there and open.
    pub fn send_to<'m>(&mut self, id: ConnectionId, message: impl Into<MessageOf<'m, H>>) -> bool {
        self.with(id, |cx| {
            cx.send(message);
            Verdict::Continue
        })
    }

    /// Sends one message to many connections: it is encoded once, and each that is open queues a
    /// copy. Returns how many those are.
    ///
    /// The codec of the first open one encodes it; if that refuses, that connection ends with
    /// [`CloseReason::Unencodable`](crate::CloseReason::Unencodable), and none is sent anything.
    /// What holds for [`Context::send`] holds for each of them. **Trap:** all of them must speak
    /// what that codec writes.
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
                break; // the codec has refused it
            }
            sent += usize::from(is_open);
        }
        sent
    }

    /// Closes a connection once the letters of this turn are read, and all that is queued for it is sent; one that is not established yet is given up.
    pub fn close(&mut self, id: ConnectionId) {
        self.shared.commands.push(Command::Close(id));
    }

    /// Ends the pause of a connection, once the letters of this turn are read; see [`Context::resume`].
    pub fn resume(&mut self, id: ConnectionId) {
        self.shared.commands.push(Command::Resume(id));
    }

    /// Begins a connection; see [`Context::connect`].
    pub fn connect(&mut self, addrs: Vec<Address>, timeout: Duration, key: u64) {
        self.shared.commands.dial(Dial {
            addrs,
            timeout,
            key,
        });
    }

    /// Lets [`Handler::loop_timer`] be called at `at`: as [`Context::set_timer`] does for a connection.
    pub fn set_timer(&mut self, at: Instant) -> TimerId {
        self.shared.timers.set(at, None, &self.shared.clock)
    }

    /// Takes a timer back, the loop's or a connection's; whether it was still to come.
    pub fn cancel_timer(&mut self, timer: TimerId) -> bool {
        self.shared.timers.cancel(timer)
    }

    /// Stops the loop, as a [`Handle`](crate::Handle) does from elsewhere.
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
