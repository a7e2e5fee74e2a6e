//! What a user of the loop writes: a [`Handler`], and what it is handed: a [`Context`] or a [`LoopContext`].

mod commands;
mod context;
mod loop_context;
mod pair;
mod send;

pub(crate) use self::commands::{Command, Commands, Dial, append_whole};
pub use self::context::Context;
pub use self::loop_context::LoopContext;
pub(crate) use self::loop_context::{Callback, ConnectionAccess};
pub use self::pair::{Either, Pair};
pub use self::send::SendError;
pub(crate) use self::send::SendState;

use std::time::{Duration, Instant};

use crate::buffer::{Inbox, Queue};
use crate::codec::Codec;
use crate::config::Config;
use crate::error::CloseReason;
use crate::net::Address;
use crate::observe::Observe;
use crate::state::{Direction, Verdict};
use crate::time::{Clock, LogThrottle, TimerId, Timers};

/// The frames that handler `H` is given.
pub type FrameOf<'a, H> = <<H as Handler>::Codec as Codec>::Frame<'a>;
/// The messages that handler `H` sends.
pub type MessageOf<'a, H> = <<H as Handler>::Codec as Codec>::Message<'a>;

/// The user's code: one object that serves all connections of a loop.
///
/// It is called by one thread, with `&mut self`, and never from within itself, so it needs no
/// lock and no `RefCell`; what belongs to one connection lives in `State`. For each connection
/// the calls are, in this order: [`connection`](Self::connection), [`open`](Self::open), any number of [`frame`](Self::frame), at
/// most one [`eof`](Self::eof), and exactly one [`close`](Self::close), which also comes if `open` never did, because
/// an outgoing connection failed. While it is open come besides, whenever there is a reason: [`drained`](Self::drained), [`timer`](Self::timer) and
/// [`deadline`](Self::deadline). What concerns no single connection comes with a [`LoopContext`]: [`mail`](Self::mail) and [`loop_timer`](Self::loop_timer).
///
/// A loop that is dropped closes its sockets and calls nobody: stop it first.
///
/// **Trap:** the loop stands still while a callback runs. One that takes 100 ms delays every connection by 100 ms.
///
/// **Trap:** a panic in a callback closes the connection that it was called for, and the loop goes on with the *same* handler: keep
/// `self` consistent where code can panic. Built with `panic = "abort"`, the process ends instead.
///
/// A connection for which this crate itself has panicked closes with [`CloseReason::Internal`]. If
/// closing it panics as well, [`close`](Self::close) is not called for it.
pub trait Handler: Sized {
    /// How bytes become frames, and messages bytes.
    type Codec: Codec;
    /// What is remembered for each connection.
    type State;
    /// What other threads may post ([`Handle::post`](crate::Handle::post)); `()` if nothing.
    type Mail;

    /// Makes the codec and the state of a new connection, which has no name yet. If this panics it is dropped, and nothing else is called for it.
    fn connection(&mut self, origin: &Origin) -> (Self::Codec, Self::State);

    /// The connection is established: the place for a greeting.
    fn open(&mut self, _cx: &mut Context<'_, Self>) -> Verdict {
        Verdict::Continue
    }

    /// A frame came in. It is borrowed from the read buffer, and gone after the call.
    fn frame(&mut self, frame: FrameOf<'_, Self>, cx: &mut Context<'_, Self>) -> Verdict;

    /// The peer has closed its sending side, after its last whole frame; it may still read.
    ///
    /// By default the connection closes once all replies are sent. [`Verdict::Continue`] keeps it open for more; then it
    /// is the handler's to close it: by a verdict of [`timer`](Self::timer) or [`drained`](Self::drained), or by [`Context::close`].
    fn eof(&mut self, _cx: &mut Context<'_, Self>) -> Verdict {
        Verdict::Close
    }

    /// So much of what was queued has left that there is room for more: the place to go on with a long stream.
    ///
    /// Called once after the queue was at [`Config::write_high`] or above, when it is down at [`Config::write_low`].
    ///
    /// **Trap:** a stopping loop closes who has no frame to be answered: what a stream has not queued by then is not sent. A stream that a
    /// frame has asked for is still owed if that frame was answered with [`Verdict::Pause`].
    fn drained(&mut self, _cx: &mut Context<'_, Self>) -> Verdict {
        Verdict::Continue
    }

    /// A deadline of this connection has passed, one that [`Context::set_read_deadline`] or its like had set.
    ///
    /// By default the connection closes, with [`CloseReason::ReadDeadline`] once what is queued is sent, or with [`CloseReason::WriteDeadline`] at once. A handler that wants to go on
    /// sets the deadline anew or clears it, and returns [`Verdict::Continue`]. Without the first, that direction stands still: nothing is read, or nothing
    /// is written and [`Context::try_send`] refuses.
    fn deadline(&mut self, _which: Direction, _cx: &mut Context<'_, Self>) -> Verdict {
        Verdict::Close
    }

    /// A timer that [`Context::set_timer`] set has come.
    fn timer(&mut self, _timer: TimerId, _cx: &mut Context<'_, Self>) -> Verdict {
        Verdict::Continue
    }

    /// A timer of the loop has come ([`LoopContext::set_timer`], [`Reactor::set_timer`](crate::Reactor::set_timer)).
    ///
    /// A panic here, or in [`mail`](Self::mail), is logged and counted; no connection ends for it.
    fn loop_timer(&mut self, _timer: TimerId, _cx: &mut LoopContext<'_, Self>) {}

    /// Another thread has posted something. By default it is dropped.
    fn mail(&mut self, _mail: Self::Mail, _cx: &mut LoopContext<'_, Self>) {}

    /// The connection is over, and its socket about to be closed. What is sent to it from here is dropped.
    fn close(&mut self, _cx: &mut Context<'_, Self>, _reason: &CloseReason) {}
}

/// Where a connection comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// It came in.
    Accepted {
        /// The other side.
        peer: Address,
        /// The number of the listener, counted from 0 in the order in which they were added.
        listener: usize,
    },
    /// We went out.
    Dialed {
        /// The other side: the first address to be tried.
        peer: Address,
        /// The word by which whoever dialed knows it again; 0 if there was none.
        key: u64,
    },
}

impl Origin {
    /// The other side's address.
    pub fn peer(&self) -> &Address {
        match self {
            Origin::Accepted { peer, .. } | Origin::Dialed { peer, .. } => peer,
        }
    }
}

/// What every callback may touch besides its own connection.
#[derive(Debug)]
pub struct Shared {
    /// The limits.
    pub config: Config,
    /// What is asked of others.
    pub(crate) commands: Commands,
    /// Who watches.
    pub observe: Observe,
    /// How long a closing connection may take: [`Config::drain_timeout`], or longer if a stopping loop was given longer.
    pub(crate) drain_time: Duration,
    /// The time, as of this turn.
    pub(crate) clock: Clock,
    /// Who wants to be called when.
    pub(crate) timers: Timers,
    /// What was logged lately.
    pub(crate) log_throttle: LogThrottle,
    /// Memory of an inbox that nobody uses, for the next one who needs one.
    pub(crate) spare_inbox: Inbox,
    /// The write queue that connections borrow for a batch.
    pub(crate) spare_queue: Queue,
}

impl Shared {
    /// Without an observer, and with nothing asked for yet. The time is whatever the caller says it is.
    pub fn new(config: Config, now: Instant) -> Self {
        Self {
            drain_time: config.drain_timeout,
            config,
            commands: Commands::default(),
            observe: Observe::default(),
            clock: Clock::new(now),
            timers: Timers::default(),
            log_throttle: LogThrottle::default(),
            spare_inbox: Inbox::default(),
            spare_queue: Queue::spare(),
        }
    }

    /// The time, as of this turn.
    pub fn now(&self) -> Instant {
        self.clock.now()
    }

    /// Advances the time to `now`; it never goes back. Whoever drives connections by hand has looked at all of them by then.
    #[cfg(feature = "sim")]
    pub fn advance(&mut self, now: Instant) {
        self.clock.advance(now, None);
        self.clock.set_seen(self.clock.watched());
    }
}
