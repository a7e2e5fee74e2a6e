//! Where panics end: those of user code where it is called, and those of the crate itself where a
//! turn is.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a panic carries.
pub(crate) type Payload = Box<dyn Any + Send>;

/// Runs user code; `None` if it panicked. The panic hook has printed its message by then.
///
/// What the code may have left half done is its owner's business: see the trap in [`Handler`](crate::Handler).
#[inline]
pub(crate) fn catch_panic<R>(run: impl FnOnce() -> R) -> Option<R> {
    catch(run).map_err(drop_payload).ok()
}

/// Runs code of the crate itself. What that leaves half done is the caller's business.
#[inline]
pub(crate) fn catch<R>(run: impl FnOnce() -> R) -> Result<R, Payload> {
    catch_unwind(AssertUnwindSafe(run))
}

/// Drops what a panic carried. That is user code too: its destructor may panic as well.
pub(crate) fn drop_payload(payload: Payload) {
    if let Err(another) = catch(|| drop(payload)) {
        std::mem::forget(another);
    }
}

/// The message of a panic, if it is text, as those of `panic!` and `assert!` are.
pub(crate) fn message_of(payload: &Payload) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied())
        .unwrap_or("(no message)")
}
