//! Where user code runs, and its panics end.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs user code; `None` if it panicked. The panic hook has printed its message by then.
///
/// What the code may have left half done is its owner's business: see the trap in [`Handler`](crate::Handler).
#[inline]
pub(crate) fn contain<R>(run: impl FnOnce() -> R) -> Option<R> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(value) => Some(value),
        Err(payload) => {
            // Even the payload is user code: its destructor may panic too.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(payload)));
            None
        }
    }
}
