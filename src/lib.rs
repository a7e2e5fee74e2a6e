//! An event loop you can see through: a small single-threaded reactor on [mio], with every part in
//! the open.
//!
//! One thread, one poller, all connections in a slab. Each connection has a read buffer, a write
//! buffer and a state machine that parses, handles and flushes without ever blocking. You can run
//! it as a server, embed it in another program, or read it to learn.
//!
//! ```no_run
//! use glassloop::codec::Line;
//! use glassloop::{Context, Handler, Origin, Reactor, Verdict};
//!
//! struct Echo;
//!
//! impl Handler for Echo {
//!     type Codec = Line;
//!     type State = ();
//!     type Mail = ();
//!
//!     fn connection(&mut self, _: &Origin) -> (Line, ()) {
//!         (Line::default(), ())
//!     }
//!
//!     fn frame(&mut self, line: &[u8], cx: &mut Context<'_, Self>) -> Verdict {
//!         cx.send(line);
//!         Verdict::Continue
//!     }
//! }
//!
//! Reactor::bind("127.0.0.1:7000", Echo)?.run()?;
//! # Ok::<(), glassloop::Error>(())
//! ```
//!
//! # The path of a request
//!
//! ```text
//!  listener ─► accept (≤ 16 a turn) ─► slab slot, registered once ─► Handler::open
//!  socket ─► fill ─► decode ─► Handler::frame ─► encode ─► flush ─► socket
//!             │        └──── repeated for every frame read ────┘  └ one write a batch
//!             └ into one buffer that all connections share
//!
//!  turn:  poll ─► events ─► resume queue ─► posts, commands
//!              ─► deadlines, timers ─► flush ─► reap
//! ```
//!
//! A request passes each module once, from left to right. Three things, not drawn here, can lead
//! back to an earlier step: the *resume queue* (the connection has used its budget, or
//! back-pressure has ended), the handler's *verdict*, and *deadlines*. User code never re-enters
//! the loop. What a callback asks of other connections or of the loop is a value, which the loop
//! carries out after the batch.
//!
//! # The modules
//!
//! Each module has one purpose. A module imports only from its own layer or a lower one, and
//! `tests/structure.rs` checks this.
//!
//! | layer | module | what it is |
//! |---|---|---|
//! | 8 | `sim`, `internals` | a simulated network and clock; the parts below, for tests |
//! | 7 | `reactor` | the loop: [`Reactor::turn`] is one round, [`Reactor::run`] repeats it |
//! | 6 | `connection` | one connection's state machine and buffers, without socket or clock |
//! | 5 | `handler` | what a user writes ([`Handler`]) and what a callback is given ([`Context`]) |
//! | 4 | `buffer` | bytes that wait to be handled, and bytes that wait to be sent |
//! | 4 | `observe` | counters, and the hook that sees every step |
//! | 3 | `time` | the clock, deadlines, timers, the limit on log lines |
//! | 3 | `threads` | handles for other threads, the mailbox, a limit that loops share |
//! | 2 | `state` | a connection's states, and the verdicts of callbacks |
//! | 2 | `config` | every limit, its default and its reason |
//! | 1 | `error` | errors, close reasons, and where panics are caught |
//! | 0 | `net` | the interface to the operating system; the only calls of read and write |
//! | 0 | [`codec`] | bytes to frames and back; the [`submit`] protocol |
//! | 0 | `id` | connection ids and poller tokens |
//! | 0 | [`guide`] | how it works and why, with code that runs |
//!
//! ```text
//!         reactor ──► connection ──► handler ──► observe ──► time ──► state
//!            │            │             │                              │
//!            │            └──► buffer ◄─┴──► codec                     ▼
//!            └──► net ◄── threads ◄── Handle (another thread)        error
//! ```
//!
//! To read the code, begin with `state` (the life of a connection in one table), go on with
//! `net/transport.rs` and `connection`, then read `reactor` from `turn` downwards.
//!
//! # Time
//!
//! The loop reads the clock when the poller returns, and uses that time for the whole turn.
//! Deadlines are kept in ticks of one millisecond and rounded up: none expires early, and a timer
//! fires at most one tick and one turn late. The guard deadlines ([`Config::idle_timeout`] and
//! others) may fire late by up to a 64th of their length, so that one wake-up serves many. Moving a
//! deadline with each byte costs one store.
//!
//! # What to know before using it
//!
//! - **Make a reactor in the thread that runs it.** It cannot be sent to another thread. A
//!   [`Handle`] can.
//! - **A slow callback delays every connection.** There is one thread.
//! - **Back-pressure means not reading.** A connection whose queued replies have reached
//!   [`Config::write_high`] is neither read nor handled until they drain. A handler that sends
//!   messages without a request must check [`Context::has_room`], and continues when
//!   [`Handler::drained`] is called.
//! - **Half-close is not close.** A peer that shut its sending side still gets its replies; see
//!   [`Handler::eof`].
//! - **Idle connections close** after [`Config::idle_timeout`]. Set it to `None` for clients that
//!   wait long between requests.
//! - **A panic in a callback closes one connection**, unless the program is built with `panic =
//!   "abort"`. If the crate's own code panics while it works for one connection, that connection
//!   closes too ([`CloseReason::Internal`]). The panic is counted ([`Counters::internal_errors`])
//!   and logged as a bug. A panic that belongs to no connection is passed on by [`Reactor::run`].
//! - **Every limit has a name, a default and a reason**: [`Config`].
//! - **Every step can be observed**: [`Observer`], [`Counters`].
//! - **Known faults of such servers are listed** in [`guide::faults`], each with the tests that
//!   would catch it here.
//!
//! [mio]: https://docs.rs/mio

#![forbid(unsafe_code)]
// What `internals` shows with the feature `sim` is private without it.
#![cfg_attr(not(feature = "sim"), allow(unreachable_pub))]

pub mod codec;
pub mod guide;
#[cfg(feature = "sim")]
pub mod sim;

mod buffer;
mod config;
mod connection;
mod error;
mod handler;
mod id;
mod net;
mod observe;
mod reactor;
mod state;
mod threads;
mod time;

pub use crate::codec::{Codec, submit};
pub use crate::config::Config;
pub use crate::error::{CloseReason, ConnectError, ConnectFailure, Error};
pub use crate::handler::{
    Context, Either, FrameOf, Handler, LoopContext, MessageOf, Origin, Pair, SendError,
};
pub use crate::id::ConnectionId;
pub use crate::net::{Address, Fill, Flush};
pub use crate::observe::{Counters, Observer, Step};
pub use crate::reactor::{Reactor, Turn};
#[cfg(feature = "sim")]
pub use crate::sim::internals;
pub use crate::state::{Direction, Stop, Verdict};
pub use crate::threads::{ConnectionLimit, Handle, PostError};
pub use crate::time::{Expiry, TimerId};

/// The README's examples are compiled with the tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
