//! placeholder
pub mod codec;
mod command;
pub mod config;
pub mod connection;
mod deadline;
mod error;
mod handler;
pub mod id;
pub mod net;
mod observe;
mod reactor;
mod reason;
mod state;
pub mod submit;
pub mod transport;
mod verdict;

pub use crate::codec::Codec;
pub use crate::command::Handle;
pub use crate::config::Config;
pub use crate::error::Error;
pub use crate::handler::{Context, FrameOf, Handler, MessageOf, Origin, Shared};
pub use crate::id::ConnectionId;
pub use crate::observe::{Counters, Observe, Observer, Step};
pub use crate::reactor::{Reactor, Turn};
pub use crate::reason::CloseReason;
pub use crate::state::{Cause, Reading, State};
pub use crate::verdict::{Stop, Verdict};
