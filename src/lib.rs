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
//!  turn:  poll ─► events ─► resume queue ─► commands ─► deadlines ─► flush ─► reap
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
//! | 4 | `reactor` | the loop: [`Reactor::turn`] fits on one screen, [`Reactor::run`] is it in a loop |
//! | 3 | [`connection`] | one connection's machine: buffers and a state, no socket and no clock |
//! | 2 | `handler`, `command`, `deadline`, `observe` | what a user writes; what he asks of others; whose time is up; who watches |
//! | 1 | [`codec`], [`submit`], [`transport`], [`net`] | bytes to frames; four packets; the only read and write; the one seam to the system |
//! | 0 | [`config`], [`id`], `state`, `reason`, `verdict`, `error`, `guard` | limits, names, and the enums that everything above speaks in |
//!
//! Begin with `state` (the life of a connection in one table), go on with [`transport`] and
//! [`connection`], then read `reactor` from `turn` downwards. The rest explains itself on the way.
//!
//! # What to know before using it
//!
//! - **Make a reactor in the thread that runs it**: it cannot be sent to another one. A [`Handle`] can.
//! - **A callback that takes long stands in everybody's way.** There is one thread.
//! - **Back-pressure is not reading.** Above [`Config::write_high`] a connection is neither read nor handled; it goes on by itself.
//! - **Half-close is not close.** A peer that shut its sending side still gets its replies; see [`Handler::eof`].
//! - **A panic in a callback ends one connection**, unless the program is built with `panic = "abort"`.
//! - **Every limit has a name, a default and a reason**: [`Config`].
//! - **Every step can be watched**: [`Observer`], [`Counters`].
//!
//! [mio]: https://docs.rs/mio

pub mod codec;
pub mod config;
pub mod connection;
pub mod id;
pub mod net;
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
mod mailbox;
mod observe;
mod pair;
mod reactor;
mod reason;
mod state;
mod sync;
mod throttle;
mod timers;
mod verdict;

pub use crate::address::Address;
pub use crate::codec::Codec;
pub use crate::command::Commands;
pub use crate::config::Config;
pub use crate::connect_error::{ConnectError, ConnectFailure};
pub use crate::deadline::Expiry;
pub use crate::error::Error;
pub use crate::handle::{Handle, PostError};
pub use crate::handler::{Context, FrameOf, Handler, LoopContext, MessageOf, Origin, SendError, Shared};
pub use crate::id::ConnectionId;
pub use crate::observe::{Counters, Observe, Observer, Step};
pub use crate::pair::{Either, Pair};
pub use crate::reactor::{Reactor, Turn};
pub use crate::reason::CloseReason;
pub use crate::state::{Cause, Reading, State};
pub use crate::timers::TimerId;
pub use crate::verdict::{Direction, Stop, Verdict};

/// The README's examples are compiled with the tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
