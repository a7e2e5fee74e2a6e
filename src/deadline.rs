//! Which connection's time is up next.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::id::ConnectionId;

/// The deadlines of connections that are closing, one each at most.
///
/// Ordered, so that the next one is at hand; exact, so that a connection that is gone leaves
/// nothing behind that would wake the loop. Only closing connections pay for it.
#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    ordered: BTreeSet<(Instant, ConnectionId)>,
}

impl Deadlines {
    /// Adds a deadline.
    pub(crate) fn arm(&mut self, at: Instant, id: ConnectionId) {
        self.ordered.insert((at, id));
    }

    /// Takes one back.
    pub(crate) fn disarm(&mut self, at: Instant, id: ConnectionId) {
        self.ordered.remove(&(at, id));
    }

    /// The nearest one.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.ordered.first().map(|(at, _)| *at)
    }

    /// Takes the nearest one out, if it is not after `now`.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<ConnectionId> {
        let (at, _) = self.ordered.first()?;
        if *at > now {
            return None;
        }
        self.ordered.pop_first().map(|(_, id)| id)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::time::Duration;

    use super::*;

    #[test]
    fn deadlines_come_in_order_and_never_early() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let id = |slot| ConnectionId::new(slot, NonZeroU32::MIN);
        let mut deadlines = Deadlines::default();
        deadlines.arm(start + 2 * second, id(2));
        deadlines.arm(start + second, id(1));
        deadlines.arm(start + second, id(3));
        deadlines.disarm(start + second, id(3));
        assert_eq!(deadlines.next(), Some(start + second));
        assert_eq!(deadlines.pop(start), None);
        assert_eq!(deadlines.pop(start + 3 * second), Some(id(1)));
        assert_eq!(deadlines.pop(start + 3 * second), Some(id(2)));
        assert_eq!((deadlines.pop(start + 3 * second), deadlines.next()), (None, None));
    }
}
