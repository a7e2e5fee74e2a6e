//! What other threads use: handles that send to a loop, and a limit that loops share.

mod handle;
mod limit;
pub(crate) mod mailbox;
mod sync;

pub use self::handle::{Handle, PostError};
pub(crate) use self::handle::{MailboxReceiver, Post};
pub use self::limit::ConnectionLimit;
pub(crate) use self::limit::Permits;
