//! The states of a connection in one enum, and its transitions in one function, [`State::next`].
//! Only a bug of this crate bypasses it, and closes the connection.
//!
//! ```text
//!                       ┌──────────────── Open ──────────────────────┐
//!  Connecting ────────► │ Flowing ◄─► WriteBlocked, Yielded, Paused  │
//!      │                │    └──────► Ended (the peer's FIN)         │
//!      │                └───────┬────────────────────────────────────┘
//!      │                  close │ reason
//!      │                        ▼           all sent
//!      │                    Draining ────────────────────► Lingering ──┐
//!      │                        │  all sent, and the peer's            │ FIN or
//!      ▼                        ▼  FIN was read                        ▼ deadline
//!    Closed ◄───────────────────┴──────────────────────────────────────┘
//! ```
//!
//! [`Trigger::Fail`] leads from every state straight to `Closed`: a broken socket,
//! [`Verdict::Abort`], a write timeout or write deadline, too much memory, a stop at once, a failed
//! dial. A deadline also leads from `Draining` to `Closed`; if replies are unsent then, the reason
//! becomes `DrainTimeout`. So a peer that does not read closes with that reason, whatever began the
//! close.

mod verdict;

pub use self::verdict::{Direction, Stop, Verdict};
use crate::error::{CloseReason, StoredReason};

/// The state of a connection.
#[derive(Debug)]
pub enum State {
    /// An outgoing connection that is not established yet.
    Connecting,
    /// Established. [`Reading`] says whether input is read and handled.
    Open(Reading),
    /// Closing: no more frames are handled, and queued replies are sent first.
    Draining {
        /// Why the connection closes.
        reason: StoredReason,
        /// True if the peer may still send. Then it gets time to read the last replies.
        linger: bool,
    },
    /// All replies are sent, and this side's sending direction is shut. Bytes that still arrive are
    /// read and dropped until the peer's FIN.
    Lingering(StoredReason),
    /// Closed. The slot is freed at the end of the turn.
    Closed(StoredReason),
}

/// Whether an open connection reads its input, and if not, why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Bytes are read, and frames are handled as they arrive.
    Flowing,
    /// Back-pressure: the queued replies have reached the high mark. Reading goes on when they
    /// drain to the low mark.
    WriteBlocked,
    /// The batch was cut so that the loop can carry out queued commands, or report an expired read
    /// deadline. Reading goes on in the next turn.
    Yielded,
    /// The handler asked for a pause, and must end it with a resume.
    Paused,
    /// The peer has closed its sending side. The handler may still send.
    Ended,
}

/// What moves a connection from one state to the next.
#[derive(Debug)]
pub enum Trigger {
    /// The outgoing connection is established.
    Established,
    /// The queued replies have reached the high mark.
    WriteBlocked,
    /// The queued replies have drained to the low mark.
    WriteUnblocked,
    /// The batch stops early: the queue of commands is full, or a read deadline has expired.
    Yield,
    /// The turn after a cut batch has begun.
    Proceed,
    /// The handler wants no more frames for now. Ignored if there will be none.
    Pause,
    /// The handler wants frames again. Ignored if the connection is not paused.
    Resume,
    /// The peer's FIN was read.
    InputEnded,
    /// The connection is to close when all is sent. Ignored if it is closing already.
    Close(CloseReason),
    /// All queued replies are sent.
    Flushed,
    /// The time to drain or to linger has expired.
    Expired {
        /// Bytes of replies that are not sent yet.
        unsent: usize,
    },
    /// The connection is broken or aborted. There is nothing to wait for.
    Fail(CloseReason),
}

impl State {
    /// Returns the state that `trigger` leads to.
    ///
    /// # Panics
    ///
    /// If `trigger` cannot occur in this state. That is a bug in the loop.
    #[must_use]
    pub fn next(self, trigger: Trigger) -> State {
        use Reading::{Ended, Flowing, Paused, WriteBlocked, Yielded};
        use State::{Closed, Connecting, Draining, Lingering, Open};
        match (self, trigger) {
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
            // All replies were passed to the socket. Whatever happens next, the close reason stays.
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

            (state, trigger) => {
                panic!("{trigger:?} cannot happen to a connection that is {state:?}")
            }
        }
    }

    /// Returns a short constant name, for traces.
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

    fn shown(state: &State) -> String {
        format!("{state:?}")
    }

    #[test]
    fn close_after_peer_fin_does_not_linger() {
        let draining = State::Open(Reading::Flowing)
            .next(Trigger::InputEnded)
            .next(Trigger::Close(CloseReason::PeerClosed));
        assert_eq!(
            shown(&draining.next(Trigger::Flushed)),
            "Closed(PeerClosed)"
        );
        let draining =
            State::Open(Reading::WriteBlocked).next(Trigger::Close(CloseReason::Handler));
        assert_eq!(
            shown(&draining.next(Trigger::Flushed)),
            "Lingering(Handler)"
        );
    }

    #[test]
    fn lingering_connection_keeps_its_close_reason() {
        let lingering = || State::Lingering(CloseReason::Handler.into());
        for trigger in [Trigger::Close(CloseReason::Shutdown), Trigger::Resume] {
            assert_eq!(shown(&lingering().next(trigger)), "Lingering(Handler)");
        }
        for trigger in [
            Trigger::Fail(CloseReason::Reset),
            Trigger::InputEnded,
            Trigger::Expired { unsent: 0 },
        ] {
            assert_eq!(shown(&lingering().next(trigger)), "Closed(Handler)");
        }
    }

    #[test]
    #[should_panic(expected = "Established cannot happen to a connection that is Closed(Aborted)")]
    fn impossible_transition_panics() {
        let _ = State::Closed(StoredReason::ABORTED).next(Trigger::Established);
    }
}
