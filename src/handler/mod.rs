//! What a user writes, a [`Handler`], and what its callbacks are given: a [`Context`] or a
//! [`LoopContext`].

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

/// The frames that handler `H` receives.
pub type FrameOf<'a, H> = <<H as Handler>::Codec as Codec>::Frame<'a>;
/// The messages that handler `H` sends.
pub type MessageOf<'a, H> = <<H as Handler>::Codec as Codec>::Message<'a>;

/// User code: one object that serves all connections of a loop.
///
/// One thread calls it, with `&mut self`, and a callback is never called from within another one.
/// So it needs no lock and no `RefCell`. What belongs to one connection is kept in
/// [`State`](Self::State).
///
/// ```
/// use glassloop::codec::Line;
/// use glassloop::{Context, Handler, Origin, Verdict};
///
/// /// Answers each line with the number of lines on its connection.
/// struct LineCounter;
///
/// impl Handler for LineCounter {
///     type Codec = Line;
///     type State = u64;
///     type Mail = ();
///
///     fn connection(&mut self, _: &Origin) -> (Line, u64) {
///         (Line::default(), 0)
///     }
///
///     fn frame(&mut self, _: &[u8], cx: &mut Context<'_, Self>) -> Verdict {
///         *cx.state() += 1;
///         let reply = cx.state().to_string();
///         cx.send(reply.as_bytes());
///         Verdict::Continue
///     }
/// }
/// ```
///
/// # Order of the callbacks
///
/// For each connection the calls are, in this order:
///
/// 1. [`connection`](Self::connection), once.
/// 2. [`open`](Self::open), once, when the connection is established. It is not called for an
///    outgoing connection that fails.
/// 3. [`frame`](Self::frame), once for each frame.
/// 4. [`eof`](Self::eof), at most once.
/// 5. [`close`](Self::close), exactly once.
///
/// Between `open` and `close`, [`drained`](Self::drained), [`timer`](Self::timer) and
/// [`deadline`](Self::deadline) are called as they apply. [`mail`](Self::mail) and
/// [`loop_timer`](Self::loop_timer) belong to no connection and get a [`LoopContext`].
///
/// # Traps
///
/// **Trap:** the loop waits while a callback runs. A callback that takes 100 ms delays every
/// connection by 100 ms.
///
/// **Trap:** a reactor that is dropped closes its sockets without calling `close`. Stop it first.
///
/// **Trap:** a panic in a callback closes its connection, and the loop goes on with the *same*
/// handler. Keep `self` consistent where code can panic. A program built with `panic = "abort"`
/// ends instead.
///
/// If this crate itself panics while it handles a connection, the connection closes with
/// [`CloseReason::Internal`]. If closing it panics too, `close` is not called for it.
pub trait Handler: Sized {
    /// Converts bytes to frames, and messages to bytes.
    type Codec: Codec;
    /// What the handler keeps for each connection.
    type State;
    /// What other threads may post with [`Handle::post`](crate::Handle::post). `()` if nothing.
    type Mail;

    /// Makes the codec and the state of a new connection, which has no id yet.
    ///
    /// If this panics, the connection is dropped, and no other callback is called for it.
    fn connection(&mut self, origin: &Origin) -> (Self::Codec, Self::State);

    /// Called when the connection is established. Send a greeting here, if the protocol has one.
    fn open(&mut self, _cx: &mut Context<'_, Self>) -> Verdict {
        Verdict::Continue
    }

    /// Called with each frame. The frame is borrowed from the read buffer, and valid during the
    /// call only.
    fn frame(&mut self, frame: FrameOf<'_, Self>, cx: &mut Context<'_, Self>) -> Verdict;

    /// Called when the peer has closed its sending side, after its last whole frame. The peer may
    /// still read.
    ///
    /// By default the connection closes when all replies are sent. [`Verdict::Continue`] keeps it
    /// open for more replies. Then the handler must close it: by a verdict of
    /// [`timer`](Self::timer) or [`drained`](Self::drained), or by [`Context::close`].
    fn eof(&mut self, _cx: &mut Context<'_, Self>) -> Verdict {
        Verdict::Close
    }

    /// Called when the write queue has room again. Continue a long stream here.
    ///
    /// It is called once after the queue was at [`Config::write_high`] or above, when it has
    /// drained to [`Config::write_low`].
    ///
    /// **Trap:** a loop that stops closes each connection that has no frame to handle. If the
    /// handler sends a long reply in parts, the parts that are not queued by then are lost. To
    /// prevent this, return [`Verdict::Pause`] for the frame that requested the reply.
    fn drained(&mut self, _cx: &mut Context<'_, Self>) -> Verdict {
        Verdict::Continue
    }

    /// Called when a deadline of this connection has expired, set by
    /// [`Context::set_read_deadline`], [`Context::set_write_deadline`] or
    /// [`Context::set_deadline`].
    ///
    /// By default the connection closes. After a read deadline it closes with
    /// [`CloseReason::ReadDeadline`] when all queued bytes are sent. After a write deadline it
    /// closes with [`CloseReason::WriteDeadline`] at once.
    ///
    /// To go on, set the deadline again or clear it, and return [`Verdict::Continue`].
    ///
    /// **Trap:** `Continue` alone leaves the deadline expired. Then nothing is read, or nothing is
    /// written and [`Context::try_send`] fails.
    fn deadline(&mut self, _which: Direction, _cx: &mut Context<'_, Self>) -> Verdict {
        Verdict::Close
    }

    /// Called when a timer that [`Context::set_timer`] set has fired.
    fn timer(&mut self, _timer: TimerId, _cx: &mut Context<'_, Self>) -> Verdict {
        Verdict::Continue
    }

    /// Called when a timer of the loop has fired ([`Context::set_loop_timer`],
    /// [`LoopContext::set_timer`], [`Reactor::set_timer`](crate::Reactor::set_timer)).
    ///
    /// A panic here or in [`mail`](Self::mail) is logged and counted, and closes no connection.
    fn loop_timer(&mut self, _timer: TimerId, _cx: &mut LoopContext<'_, Self>) {}

    /// Called with what another thread has posted. By default the mail is dropped.
    fn mail(&mut self, _mail: Self::Mail, _cx: &mut LoopContext<'_, Self>) {}

    /// Called when the connection is closed, before its socket is closed. What is sent to it from
    /// here is dropped.
    fn close(&mut self, _cx: &mut Context<'_, Self>, _reason: &CloseReason) {}
}

/// Where a connection comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// A listener accepted it.
    Accepted {
        /// The peer's address.
        peer: Address,
        /// The number of the listener. Listeners are numbered from 0, in the order in which they
        /// were added.
        listener: usize,
    },
    /// This side connected to the peer.
    Dialed {
        /// The first address to be tried.
        peer: Address,
        /// The key that was given to [`Context::connect`]; 0 if
        /// [`Reactor::connect`](crate::Reactor::connect) began it.
        key: u64,
    },
}

impl Origin {
    /// Returns the peer's address.
    pub fn peer(&self) -> &Address {
        match self {
            Origin::Accepted { peer, .. } | Origin::Dialed { peer, .. } => peer,
        }
    }
}

/// What all callbacks of a loop share, beside their own connection.
#[derive(Debug)]
pub struct Shared {
    /// The limits.
    pub config: Config,
    /// The commands that callbacks have queued.
    pub(crate) commands: Commands,
    /// The counters and the observer.
    pub observe: Observe,
    /// How long a closing connection may take: [`Config::drain_timeout`], or longer if the loop
    /// stops with a longer time.
    pub(crate) drain_time: Duration,
    /// The time of this turn.
    pub(crate) clock: Clock,
    /// The timers and deadline checks.
    pub(crate) timers: Timers,
    /// Limits how often a kind of log line is written.
    pub(crate) log_throttle: LogThrottle,
    /// Memory of an unused inbox, for the next connection that needs one.
    pub(crate) spare_inbox: Inbox,
    /// The write queue that connections borrow for a batch.
    pub(crate) spare_queue: Queue,
}

impl Shared {
    /// Makes the shared state, without an observer and without commands. The time starts at `now`.
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

    /// Returns the time of this turn.
    pub fn now(&self) -> Instant {
        self.clock.now()
    }

    /// Advances the time to `now`. It never goes back.
    ///
    /// For tests that drive connections by hand. Everything that sockets had to report until then
    /// must have been read.
    #[cfg(feature = "sim")]
    pub fn advance(&mut self, now: Instant) {
        self.clock.advance(now, None);
        self.clock.set_seen(self.clock.watched());
    }
}
