//! The synchronisation that the mailbox stands on, in one place: so that a model checker can put its own in its stead.

pub(crate) use std::sync::Mutex;
pub(crate) use std::sync::atomic::{AtomicBool, Ordering};
