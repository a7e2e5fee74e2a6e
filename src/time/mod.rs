//! Time: the clock, deadlines, timers, and the limit on log lines.

mod clock;
mod deadline;
mod log_throttle;
mod timers;

pub(crate) use self::clock::{Clock, Timestamp};
pub(crate) use self::deadline::Deadlines;
pub use self::deadline::Expiry;
pub(crate) use self::log_throttle::LogThrottle;
pub use self::timers::TimerId;
pub(crate) use self::timers::{Alarm, Timers};
