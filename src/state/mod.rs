//! The life of a connection: one enum, and every transition of it in one place.
//!
//! ```text
//!                       ┌──────────────── Open ────────────────┐
//!  Connecting ────────► │ Flowing ◄─► Choked, Yielded, Paused  │
//!      │                │    └──────► Ended (the peer's FIN)   │
//!      │                └───────┬──────────────────────────────┘
//!      │                  close │ reason
//!      │                        ▼            all sent
//!      │                    Draining ─────────────────────────► Lingering ──┐
//!      │                        │  all sent, and the peer's end was read    │ the peer's end,
//!      ▼                        ▼                                           ▼ or the deadline
//!    Closed ◄───────────────────┴───────────────────────────────────────────┘
//! ```
//!
//! A failed read or write, and [`Verdict::Abort`], lead from anywhere straight to `Closed`.

mod verdict;

pub use self::verdict::{Direction, Stop, Verdict};
use crate::error::{CloseReason, StoredReason};

/// Where a connection stands.
#[derive(Debug)]
pub enum State {
    /// An outgoing connection that is not decided yet.
    Connecting,
    /// Established; what comes in is handled, as far as [`Reading`] says.
    Open(Reading),
    /// Nothing more is handled; what is queued goes out first.
    Draining {
        /// Why it ends.
        reason: StoredReason,
        /// Whether the peer may still send, so that it must be given time to read the last replies.
        linger: bool,
    },
    /// All was sent and our sending side is shut; what still comes in is read and dropped until the peer's end.
    Lingering(StoredReason),
    /// Over. The slot is freed when the turn ends.
    Closed(StoredReason),
}

/// Whether an open connection takes in more, and if not, why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Bytes are read and frames handled as they come.
    Flowing,
    /// Back-pressure: more replies wait than the high mark allows. Goes on by itself below the low mark.
    WriteBlocked,
    /// The batch was cut so that the loop can carry out what it asked for. Goes on with the next turn.
    Yielded,
    /// The handler asked for a pause, and must ask for the end of it.
    Paused,
    /// The peer has closed its sending side; the handler may still write.
    Ended,
}

/// What can move a connection from one state to the next.
#[derive(Debug)]
pub enum Trigger {
    /// The outgoing connection is established.
    Established,
    /// The queue of replies has reached the high mark.
    WriteBlocked,
    /// The queue of replies has drained to the low mark.
    WriteUnblocked,
    /// The batch has queued as much for others as it may.
    Yield,
    /// The turn after the batch was cut.
    Proceed,
    /// The handler wants no more frames for now. Ignored if there will be none.
    Pause,
    /// The handler wants frames again. Ignored if it had not paused.
    Resume,
    /// The peer's end was read.
    InputEnded,
    /// The connection is to end when all is sent. Ignored if it is ending already.
    Close(CloseReason),
    /// All that was queued is sent.
    Flushed,
    /// The time to drain or to linger is over.
    Expired {
        /// Bytes of replies not sent yet.
        unsent: usize,
    },
    /// The connection is broken or abandoned: there is nothing to wait for.
    Fail(CloseReason),
}

impl State {
    /// Where `cause` leads from here.
    ///
    /// # Panics
    /// If the cause cannot arise in this state: that is a bug in the loop.
    #[must_use]
    pub fn next(self, cause: Trigger) -> State {
        use Reading::{Ended, Flowing, Paused, WriteBlocked, Yielded};
        use State::{Closed, Connecting, Draining, Lingering, Open};
        match (self, cause) {
            (Connecting, Trigger::Established) => Open(Flowing),
            (Connecting, Trigger::Close(reason)) => Closed(reason.into()),

            (Open(Flowing), Trigger::WriteBlocked) => Open(WriteBlocked),
            (Open(Flowing), Trigger::Yield) => Open(Yielded),
            (Open(Ended), Trigger::Pause) => Open(Ended),
            (Open(_), Trigger::Pause) => Open(Paused),
            (Open(Flowing), Trigger::InputEnded) => Open(Ended),
            (Open(WriteBlocked), Trigger::WriteUnblocked)
            | (Open(Yielded), Trigger::Proceed)
            | (Open(Paused), Trigger::Resume) => Open(Flowing),
            (Open(reading), Trigger::Resume) => Open(reading),
            (Open(reading), Trigger::Close(reason)) => Draining {
                linger: reading != Ended && reason.lingers(),
                reason: reason.into(),
            },

            (
                Draining {
                    reason,
                    linger: true,
                },
                Trigger::Flushed,
            ) => Lingering(reason),
            (
                Draining {
                    reason,
                    linger: false,
                },
                Trigger::Flushed,
            ) => Closed(reason),
            (Draining { reason, .. }, Trigger::Expired { unsent: 0 }) => Closed(reason),
            (Draining { .. }, Trigger::Expired { unsent }) => {
                Closed(CloseReason::DrainTimeout { unsent }.into())
            }
            // By now all was handed over; however the peer leaves, the reason for the end stays.
            (
                Lingering(reason),
                Trigger::InputEnded | Trigger::Expired { .. } | Trigger::Fail(_),
            ) => Closed(reason),

            (state @ (Draining { .. } | Lingering(_) | Closed(_)), Trigger::Close(_)) => state,
            (
                state @ (Connecting | Draining { .. } | Lingering(_) | Closed(_)),
                Trigger::Resume | Trigger::Pause,
            ) => state,
            (state @ Closed(_), Trigger::Fail(_) | Trigger::Expired { .. }) => state,
            (Connecting | Open(_) | Draining { .. }, Trigger::Fail(reason)) => {
                Closed(reason.into())
            }

            (state, cause) => panic!("{cause:?} cannot happen to a connection that is {state:?}"),
        }
    }

    /// A short constant name, for a trace.
    pub fn name(&self) -> &'static str {
        match self {
            State::Connecting => "connecting",
            State::Open(Reading::Flowing) => "open",
            State::Open(Reading::WriteBlocked) => "open, write-blocked",
            State::Open(Reading::Yielded) => "open, yielded",
            State::Open(Reading::Paused) => "open, paused",
            State::Open(Reading::Ended) => "open, input ended",
            State::Draining { .. } => "draining",
            State::Lingering(_) => "lingering",
            State::Closed(_) => "closed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_that_was_read_needs_no_lingering() {
        let draining = State::Open(Reading::Flowing)
            .next(Trigger::InputEnded)
            .next(Trigger::Close(CloseReason::PeerClosed));
        assert!(
            matches!(draining.next(Trigger::Flushed), State::Closed(reason) if matches!(*reason, CloseReason::PeerClosed))
        );
        let draining =
            State::Open(Reading::WriteBlocked).next(Trigger::Close(CloseReason::Handler));
        assert!(
            matches!(draining.next(Trigger::Flushed), State::Lingering(reason) if matches!(*reason, CloseReason::Handler))
        );
    }

    #[test]
    fn the_first_reason_stays_once_all_was_sent() {
        let lingering = || State::Lingering(CloseReason::Handler.into());
        for cause in [Trigger::Close(CloseReason::Shutdown), Trigger::Resume] {
            assert!(
                matches!(lingering().next(cause), State::Lingering(reason) if matches!(*reason, CloseReason::Handler))
            );
        }
        for cause in [
            Trigger::Fail(CloseReason::Reset),
            Trigger::InputEnded,
            Trigger::Expired { unsent: 0 },
        ] {
            assert!(
                matches!(lingering().next(cause), State::Closed(reason) if matches!(*reason, CloseReason::Handler))
            );
        }
    }

    #[test]
    #[should_panic(expected = "Established cannot happen to a connection that is Closed(Aborted)")]
    fn an_impossible_transition_is_a_bug() {
        let _ = State::Closed(StoredReason::ABORTED).next(Trigger::Established);
    }
}
