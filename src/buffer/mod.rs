//! The two buffers of a connection: bytes read and not handled yet, and bytes encoded and not sent
//! yet. Both take one word while they hold nothing.

mod inbox;
mod queue;

pub(crate) use self::inbox::Inbox;
pub(crate) use self::queue::Queue;
