//! The deadlines of a connection.
//!
//! A handler sets two of them, one for each direction, as in Go: absolute, and expired until they
//! are set again.

use std::time::Instant;

use crate::state::Direction;
use crate::time::{Clock, Timestamp};

/// Which deadline of a connection expired.
///
/// [`Step::Deadline`](crate::Step::Deadline) carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Expiry {
    /// The time limit of an attempt to connect.
    Connect,
    /// A deadline that the handler has set, for this direction.
    Deadline(Direction),
    /// The time to send the last replies ([`Config::drain_timeout`](crate::Config::drain_timeout)).
    Drain,
    /// The time for a frame ([`Config::frame_timeout`](crate::Config::frame_timeout)).
    Frame,
    /// The time for the peer's first frame
    /// ([`Config::handshake_timeout`](crate::Config::handshake_timeout)).
    Handshake,
    /// The time without a byte in either direction
    /// ([`Config::idle_timeout`](crate::Config::idle_timeout)).
    Idle,
    /// The time to wait for the peer's FIN
    /// ([`Config::linger_timeout`](crate::Config::linger_timeout)).
    Linger,
    /// The time in which the peer takes no byte
    /// ([`Config::write_timeout`](crate::Config::write_timeout)).
    Write,
}

/// The deadlines of a connection: the two that its handler sets, and the one for the peer's first
/// frame. A connection without any of them pays one word.
#[derive(Debug, Default)]
pub(crate) struct Deadlines(Option<Box<DeadlineSet>>);

/// The deadlines, if there is at least one.
#[derive(Debug, Default)]
struct DeadlineSet {
    /// The handler's deadlines, by direction.
    deadlines: [Deadline; 2],
    /// When reading last stopped because its deadline had expired.
    stopped_at: Option<Timestamp>,
    /// When reading last went on after such a stop.
    resumed_at: Option<Timestamp>,
    /// When the handler began to wait for the peer's first frame.
    handshake: Option<Timestamp>,
}

/// The deadline of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Deadline {
    /// Not set.
    #[default]
    Never,
    /// It expires at this tick.
    At(u64),
    /// It has expired, and the handler was notified. Nothing is transferred in this direction until
    /// it is set again.
    Passed,
}

impl Deadlines {
    /// Sets or clears the deadline of one direction. An earlier expiry is forgotten in both cases.
    pub(crate) fn set(&mut self, direction: Direction, at: Option<Instant>, clock: &Clock) {
        let deadline = match at {
            None => Deadline::Never,
            // Not rounded up to the next tick: a deadline in the past has expired now.
            Some(at) if at <= clock.now() => Deadline::At(clock.tick()),
            Some(at) => Deadline::At(clock.tick_at(at)),
        };
        if let (None, Deadline::Never) = (&self.0, deadline) {
            return;
        }
        let set = self.0.get_or_insert_default();
        set.deadlines[direction as usize] = deadline;
        if direction == Direction::Read {
            // If the handler was notified and sets it again in this tick, reading never stopped.
            if set
                .stopped_at
                .take()
                .is_some_and(|stopped_at| stopped_at != clock.timestamp())
            {
                set.resumed_at = Some(clock.timestamp());
            }
        }
    }

    /// Starts the wait for the peer's first frame.
    pub(crate) fn expect_handshake(&mut self, clock: &Clock) {
        self.0.get_or_insert_default().handshake = Some(clock.timestamp());
    }

    /// Ends the wait for the peer's first frame. Costs one load if there is no wait.
    #[inline]
    pub(crate) fn handshake_done(&mut self) {
        if self.0.is_some() {
            self.end_handshake();
        }
    }

    #[cold]
    fn end_handshake(&mut self) {
        let Some(set) = &mut self.0 else { return };
        set.handshake = None;
        if set.deadlines == [Deadline::Never; 2]
            && set.stopped_at.is_none()
            && set.resumed_at.is_none()
        {
            self.0 = None;
        }
    }

    /// Returns when the wait for the peer's first frame began.
    pub(crate) fn handshake(&self) -> Option<Timestamp> {
        self.0.as_ref()?.handshake
    }

    /// Returns true if there is no deadline.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Returns true if the deadline of one direction has expired, whether or not the handler was
    /// notified.
    #[inline]
    pub(crate) fn is_over(&self, direction: Direction, clock: &Clock) -> bool {
        self.0.is_some()
            && match self.get(direction) {
                Deadline::Never => false,
                Deadline::At(tick) => tick <= clock.tick(),
                Deadline::Passed => true,
            }
    }

    /// Returns true if the deadline of one direction has expired and the handler was notified.
    #[inline]
    pub(crate) fn has_passed(&self, direction: Direction) -> bool {
        self.0.is_some() && self.get(direction) == Deadline::Passed
    }

    /// Returns true if the handler must be notified that this deadline has expired. Returns true
    /// once only.
    pub(crate) fn take_expired(&mut self, direction: Direction, clock: &Clock) -> bool {
        let Some(set) = &mut self.0 else { return false };
        let deadline = &mut set.deadlines[direction as usize];
        let passes = matches!(*deadline, Deadline::At(tick) if tick <= clock.tick());
        if passes {
            *deadline = Deadline::Passed;
            if direction == Direction::Read {
                set.stopped_at = Some(clock.timestamp());
            }
        }
        passes
    }

    /// Returns when reading last went on after its deadline had stopped it.
    pub(crate) fn resumed_at(&self) -> Option<Timestamp> {
        self.0.as_ref()?.resumed_at
    }

    /// Returns the tick at which the deadline of one direction expires.
    pub(crate) fn tick(&self, direction: Direction) -> Option<u64> {
        match self.get(direction) {
            Deadline::At(tick) => Some(tick),
            Deadline::Never | Deadline::Passed => None,
        }
    }

    fn get(&self, direction: Direction) -> Deadline {
        self.0
            .as_ref()
            .map_or(Deadline::Never, |set| set.deadlines[direction as usize])
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use Direction::{Read, Write};

    #[test]
    fn deadline_is_reported_once_and_stays_expired_until_reset() {
        let start = Instant::now();
        let (mut clock, mut deadlines) = (Clock::new(start), Deadlines::default());
        deadlines.set(Read, Some(start + Duration::from_millis(5)), &clock);
        assert!(!deadlines.is_over(Read, &clock) && !deadlines.take_expired(Read, &clock));
        clock.advance(start + Duration::from_millis(5), None);
        assert!(deadlines.is_over(Read, &clock) && !deadlines.is_over(Write, &clock));
        assert_eq!(
            [Read, Read, Write].map(|direction| deadlines.take_expired(direction, &clock)),
            [true, false, false]
        );
        assert!(
            deadlines.is_over(Read, &clock)
                && deadlines.has_passed(Read)
                && deadlines.tick(Read).is_none()
        );
        deadlines.set(Write, None, &clock);
        assert!(
            deadlines.has_passed(Read),
            "clearing one deadline keeps the other"
        );
        deadlines.set(Read, None, &clock);
        assert!(!deadlines.is_over(Read, &clock));
    }

    #[test]
    fn deadline_in_the_past_expires_at_once_unless_cleared() {
        let start = Instant::now();
        let (mut clock, mut deadlines) = (Clock::new(start), Deadlines::default());
        clock.advance(start + Duration::from_micros(1500), None);
        deadlines.set(Write, Some(clock.now()), &clock);
        assert!(deadlines.is_over(Write, &clock));
        deadlines.set(Write, None, &clock);
        assert!(!deadlines.take_expired(Write, &clock));
        deadlines.set(Read, start.checked_sub(Duration::from_secs(1)), &clock);
        deadlines.set(Write, Some(start), &clock);
        assert_eq!(
            [Read, Write, Read].map(|direction| deadlines.take_expired(direction, &clock)),
            [true, true, false]
        );
    }
}
