//! Helpers that catch panics: of user code at the call, of this crate at the turn
//! (`reactor/panics.rs`).

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The payload of a panic.
pub(crate) type Payload = Box<dyn Any + Send>;

/// Runs user code. Returns `None` if it panicked; the panic hook has printed the message by then.
///
/// State that the code has left half changed is the user's concern; see the traps of
/// [`Handler`](crate::Handler).
#[inline]
pub(crate) fn catch_panic<R>(run: impl FnOnce() -> R) -> Option<R> {
    catch(run).map_err(drop_payload).ok()
}

/// Runs code of this crate. The caller must handle state that a panic leaves half changed.
#[inline]
pub(crate) fn catch<R>(run: impl FnOnce() -> R) -> Result<R, Payload> {
    catch_unwind(AssertUnwindSafe(run))
}

/// Drops the payload of a panic. Its destructor is user code too, and may panic as well.
pub(crate) fn drop_payload(payload: Payload) {
    if let Err(another) = catch(|| drop(payload)) {
        std::mem::forget(another);
    }
}

/// Returns the message of a panic if it is text, as with `panic!` and `assert!`.
pub(crate) fn message_of(payload: &Payload) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied())
        .unwrap_or("(no message)")
}
