//! The parts of the loop, for tests and lessons that drive them without a reactor.
//!
//! **Trap:** nothing in this module is stable. It exists only with the feature `sim`.

pub use crate::connection::Connection;
pub use crate::error::StoredReason;
pub use crate::handler::Shared;
pub use crate::id::Token;
pub use crate::net::{
    Established, Event, Listener, MioNet, Net, Readiness, Socket, Stream, Wake, fill, flush,
};
pub use crate::state::{Reading, State, Trigger};
