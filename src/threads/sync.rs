//! The locks and atomics of the mailbox and the limit, in one place, so that a model checker can
//! replace them.

pub(crate) use std::sync::Mutex;
pub(crate) use std::sync::atomic::{AtomicBool, Ordering};
