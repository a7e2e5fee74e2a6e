//! The parts of the loop, for tests and lessons that drive them without a reactor.
//!
//! **Trap:** no promise of stability holds for this module. It exists with the feature `sim` only.

pub use crate::connection::Connection;
pub use crate::error::StoredReason;
pub use crate::handler::Shared;
pub use crate::id::Token;
pub use crate::net::{
    Established, Event, Listener, MioNet, Net, Readiness, Socket, Stream, Wake, fill, flush,
};
pub use crate::state::{Reading, State, Trigger};
