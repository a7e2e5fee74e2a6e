//! What a connection's time can be up for; and Go's deadlines, which a handler sets: one for reading, one for writing, absolute, and sticky once they have passed.

use std::time::Instant;

use crate::state::Direction;
use crate::time::{Clock, Timestamp};

/// What a connection's time can be up for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Expiry {
    /// An attempt to connect.
    Connect,
    /// A deadline that the handler had set.
    Deadline(Direction),
    /// The sending of the last replies ([`Config::drain_timeout`](crate::Config::drain_timeout)).
    Drain,
    /// A frame ([`Config::frame_timeout`](crate::Config::frame_timeout)).
    Frame,
    /// The peer's first frame ([`Config::handshake_timeout`](crate::Config::handshake_timeout)).
    Handshake,
    /// Silence ([`Config::idle_timeout`](crate::Config::idle_timeout)).
    Idle,
    /// Waiting for the peer's end ([`Config::linger_timeout`](crate::Config::linger_timeout)).
    Linger,
    /// A peer that does not read ([`Config::write_timeout`](crate::Config::write_timeout)).
    Write,
}

/// A connection's deadlines: the two that its handler sets, and the one for the peer's first frame. Who has none pays a word for them.
#[derive(Debug, Default)]
pub(crate) struct Deadlines(Option<Box<Set>>);

#[derive(Debug, Default)]
struct Set {
    /// By direction.
    deadlines: [Deadline; 2],
    /// When reading last stood still because its deadline had passed, and when it went on.
    stopped_at: Option<Timestamp>,
    resumed_at: Option<Timestamp>,
    /// Since when the handler waits for the peer's first frame.
    handshake: Option<Timestamp>,
}

/// One direction's deadline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Deadline {
    #[default]
    Never,
    /// It passes with this tick.
    At(u64),
    /// It has passed, and the handler was told; until it is set anew nothing goes in this direction.
    Passed,
}

impl Deadlines {
    /// Sets one direction's deadline, or clears it; in both cases what had passed is forgotten.
    pub(crate) fn set(&mut self, direction: Direction, at: Option<Instant>, clock: &Clock) {
        let deadline = match at {
            None => Deadline::Never,
            // Not rounded up to the next tick: what is over is over at once.
            Some(at) if at <= clock.now() => Deadline::At(clock.tick()),
            Some(at) => Deadline::At(clock.tick_at(at)),
        };
        if let (None, Deadline::Never) = (&self.0, deadline) {
            return;
        }
        let set = self.0.get_or_insert_default();
        set.deadlines[direction as usize] = deadline;
        if direction == Direction::Read {
            // Told and set anew in the same tick it never stood still.
            if set
                .stopped_at
                .take()
                .is_some_and(|stopped_at| stopped_at != clock.timestamp())
            {
                set.resumed_at = Some(clock.timestamp());
            }
        }
    }

    /// From now on the peer's first frame is waited for.
    pub(crate) fn expect_handshake(&mut self, clock: &Clock) {
        self.0.get_or_insert_default().handshake = Some(clock.timestamp());
    }

    /// It has come. Costs nothing where nobody waits for it.
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

    /// Since when the peer's first frame is waited for.
    pub(crate) fn handshake(&self) -> Option<Timestamp> {
        self.0.as_ref()?.handshake
    }

    /// Whether there is none.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Whether one direction's deadline is over, be it that the handler was told or not.
    #[inline]
    pub(crate) fn is_over(&self, direction: Direction, clock: &Clock) -> bool {
        self.0.is_some()
            && match self.get(direction) {
                Deadline::Never => false,
                Deadline::At(tick) => tick <= clock.tick(),
                Deadline::Passed => true,
            }
    }

    /// Whether one direction's deadline is over, and the handler was told.
    #[inline]
    pub(crate) fn has_passed(&self, direction: Direction) -> bool {
        self.0.is_some() && self.get(direction) == Deadline::Passed
    }

    /// Whether the handler is to be told that this deadline has passed; it counts as told from here on.
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

    /// When reading last went on after it had stood still.
    pub(crate) fn resumed_at(&self) -> Option<Timestamp> {
        self.0.as_ref()?.resumed_at
    }

    /// The tick at which one direction's deadline passes.
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
    fn a_deadline_is_told_once_and_stays_over_until_it_is_set_anew() {
        let begun = Instant::now();
        let (mut clock, mut deadlines) = (Clock::new(begun), Deadlines::default());
        deadlines.set(Read, Some(begun + Duration::from_millis(5)), &clock);
        assert!(!deadlines.is_over(Read, &clock) && !deadlines.take_expired(Read, &clock));
        clock.advance(begun + Duration::from_millis(5), None);
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
        assert!(deadlines.has_passed(Read), "clearing one leaves the other");
        deadlines.set(Read, None, &clock);
        assert!(!deadlines.is_over(Read, &clock));
    }

    #[test]
    fn what_is_over_when_it_is_set_is_over_at_once_unless_it_is_cleared_first() {
        let begun = Instant::now();
        let (mut clock, mut deadlines) = (Clock::new(begun), Deadlines::default());
        clock.advance(begun + Duration::from_micros(1500), None);
        deadlines.set(Write, Some(clock.now()), &clock);
        assert!(deadlines.is_over(Write, &clock));
        deadlines.set(Write, None, &clock);
        assert!(!deadlines.take_expired(Write, &clock));
        deadlines.set(Read, begun.checked_sub(Duration::from_secs(1)), &clock);
        deadlines.set(Write, Some(begun), &clock);
        assert_eq!(
            [Read, Write, Read].map(|direction| deadlines.take_expired(direction, &clock)),
            [true, true, false]
        );
    }
}
