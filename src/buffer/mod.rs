//! The two buffers of a connection: bytes that were read and not handled yet ([`Inbox`]), and bytes
//! that were encoded and not sent yet ([`Queue`]). An empty buffer takes one word.

mod inbox;
mod queue;

pub(crate) use self::inbox::Inbox;
pub(crate) use self::queue::Queue;
