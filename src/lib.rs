//! An event loop you can see through: a small single-threaded reactor on [mio], every part in the open.
//!
//! One thread, one poller, all connections in a slab. Each connection has a read and a write
//! buffer and a machine that parses, handles and flushes without ever waiting. It is made to be
//! run on a port, to be embedded in another program, and to be read in an evening.
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
//! # The data's way
//!
//! ```text
//!  listener ─► accept (≤ 16 a turn) ─► slab slot, registered once ─► Handler::open
//!  socket ─► fill ─► decode ─► Handler::frame ─► encode ─► flush ─► socket
//!             │        └────────── repeated over all that was read ──┘ └ one write a batch
//!             └ into one buffer that all connections share
//!
//!  turn:  poll ─► events ─► resume queue ─► commands, letters ─► deadlines, timers ─► flush ─► reap
//! ```
//!
//! A request crosses each module once, from left to right. There are three back-arcs, each in one place: *resume* (a
//! budget was spent, or back-pressure lifted), the handler's *verdict*, and *deadlines*. User code never re-enters the
//! loop: what it asks of other connections or of the loop is a value, carried out after the batch.
//!
//! # The floors, and an order to read them in
//!
//! Imports point down only.
//!
//! | floor | modules | in a sentence |
//! |---|---|---|
//! | 5 | `sim` (feature `sim`) | a network and a clock that are made up, to run all of this in, and to break it |
//! | 4 | `reactor` | the loop: [`Reactor::turn`] fits on one screen, [`Reactor::run`] is it in a loop |
//! | 3 | [`connection`], `pair` | one connection's machine: buffers, a state and stamps, no socket and no clock; two handlers made one |
//! | 2 | `handler`, `command`, `deadline`, `timers`, `handle`, `limit`, `observe` | what a user writes; commands for other connections; deadlines and timers; the handle for other threads; a limit that loops share; observers |
//! | 1 | [`codec`], [`submit`], [`transport`], [`net`], `inbox`, `queue`, `mailbox` | bytes to frames; four packets; the only read and write; the one seam to the system; bytes that wait to be handled, and to be sent; letters and a bell |
//! | 0 | [`config`], [`id`], `address`, `clock`, `state`, `reason`, `verdict`, `error`, `connect_error`, `guard`, `throttle`, `sync` | limits, names, time, and the enums that everything above speaks in |
//!
//! Begin with `state` (the life of a connection in one table), go on with [`transport`] and
//! [`connection`], then read `reactor` from `turn` downwards. The rest explains itself on the way.
//!
//! # Time
//!
//! The clock is read when the poller returns, and is the time for the whole turn. Deadlines are kept in ticks of a millisecond and rounded to the late
//! side: nothing comes early, and a timer at most a tick and a turn late. The guards ([`Config::idle_timeout`] and its like) are about right only, up to a 64th of
//! their length late, so that one wake-up does for all whose time is up. What moves with every byte is a stamp, and moving it a store.
//!
//! # What to know before using it
//!
//! - **Make a reactor in the thread that runs it**: it cannot be sent to another one. A [`Handle`] can.
//! - **A callback that takes long stands in everybody's way.** There is one thread.
//! - **Back-pressure is not reading.** A connection whose replies have reached [`Config::write_high`] is neither read nor handled; it goes on by itself. A handler that sends of its
//!   own accord looks at [`Context::has_room`], and goes on when [`Handler::drained`] is called.
//! - **Half-close is not close.** A peer that shut its sending side still gets its replies; see [`Handler::eof`].
//! - **Silence ends**: after [`Config::idle_timeout`], unless it is `None`. A client that waits long between two requests sets it so.
//! - **A panic in a callback ends one connection**, unless the program is built with `panic =
//!   "abort"`. A panic of the crate's own code in the work for one connection ends that one too
//!   ([`CloseReason::Internal`]), is counted ([`Counters::internal_errors`]), and is logged as a
//!   bug. A panic that no connection can be blamed for comes out of [`Reactor::run`].
//! - **Every limit has a name, a default and a reason**: [`Config`].
//! - **Every step can be watched**: [`Observer`], [`Counters`].
//! - **How it works, and why, is told in twelve chapters**, with code that runs: [`guide`].
//! - **What goes wrong in servers of this kind is known**: [`guide::faults`] lists it, and names the tests that hold it here.
//!
//! [mio]: https://docs.rs/mio

#![forbid(unsafe_code)]

pub mod codec;
pub mod config;
pub mod connection;
pub mod guide;
pub mod id;
pub mod net;
#[cfg(feature = "sim")]
pub mod sim;
pub mod submit;
pub mod transport;

mod address;
mod clock;
mod command;
mod connect_error;
mod deadline;
mod error;
mod guard;
mod handle;
mod handler;
mod inbox;
mod limit;
mod mailbox;
mod observe;
mod pair;
mod queue;
mod reactor;
mod reason;
mod state;
mod sync;
mod throttle;
mod timers;
mod verdict;

pub use crate::address::Address;
pub use crate::codec::Codec;
pub use crate::config::Config;
pub use crate::connect_error::{ConnectError, ConnectFailure};
pub use crate::deadline::Expiry;
pub use crate::error::Error;
pub use crate::handle::{Handle, PostError};
pub use crate::handler::{Context, FrameOf, Handler, LoopContext, MessageOf, Origin, SendError, Shared};
pub use crate::id::ConnectionId;
pub use crate::limit::ConnectionLimit;
pub use crate::observe::{Counters, Observe, Observer, Step};
pub use crate::pair::{Either, Pair};
pub use crate::reactor::{Reactor, Turn};
pub use crate::reason::{CloseReason, StoredReason};
pub use crate::state::{Cause, Reading, State};
pub use crate::timers::TimerId;
pub use crate::verdict::{Direction, Stop, Verdict};

/// The README's examples are compiled with the tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
