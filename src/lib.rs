//! placeholder
mod command;
mod error;
mod reason;
mod state;
mod verdict;
mod handler;
mod observe;
mod reactor;
mod deadline;
pub mod codec;
pub mod config;
pub mod connection;
pub mod id;
pub mod net;
pub mod submit;
pub mod transport;

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
